"""The mini world: same seed, same bytes; what captions and boxes say is what the picture shows."""

import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from training.world import compose, scenes, sprites
from training.world.concepts import load
from training.world.photos import NAMES, category_name
from training.world.vocabulary import build

DATA = Path(__file__).parents[1] / "data"
CPU = torch.device("cpu")
CONCEPTS = load()


@pytest.fixture(scope="module")
def bank() -> sprites.SpriteBank:
    return sprites.read_sheet(DATA / "noto.png")


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def crowd(bank: sprites.SpriteBank, seed: int, objects: tuple[int, int] = (1, 8), n: int = 24):
    generator = seeded(seed)
    mirrors = scenes.mirror_rule(CONCEPTS)
    chosen = scenes.crowded_scenes(n, objects, bank.concept, mirrors, generator)
    table = scenes.SpriteTable(bank, len(CONCEPTS))
    return chosen, replace(chosen.layout, sprite=table.choose(chosen.concept, generator))


def picture(bank: sprites.SpriteBank, seed: int, size: int = 96) -> torch.Tensor:
    _, layout = crowd(bank, seed)
    generator = seeded(seed)
    composer = compose.Composer(bank.rgba, None, size, CPU)
    return compose.disturb(composer.render(layout, generator), generator)


# --- concepts -----------------------------------------------------------------------------------


def test_about_1600_concepts_with_distinct_names() -> None:
    names = [concept.name for concept in CONCEPTS]
    assert 1500 <= len(names) <= 1700
    assert len(set(names)) == len(names)


def test_unseen_synonyms_are_in_no_training_text() -> None:
    vocabulary = build(CONCEPTS, tuple(sorted(NAMES.values())))
    trained = {text for row in vocabulary.texts for text in row}
    unseen = [word for concept in CONCEPTS for word in concept.unseen_synonyms]
    assert len(unseen) >= 250
    assert not trained & set(unseen)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("one o'clock", "clock hours are one concept"),
        ("flag germany", "flags of countries are left out"),
        ("person walking facing right", "mirror pictures are left out"),
        ("waving hand light skin tone", "skin tones are one concept"),
        ("family man woman girl boy", "compositions are left out"),
    ],
)
def test_variants_are_merged_or_left_out(name: str, why: str) -> None:
    assert name not in {concept.name for concept in CONCEPTS}, why


@pytest.mark.parametrize(
    ("folder", "name"),
    [("sea_horse", "seahorse"), ("Motorbikes", "motorbike"), ("piano", "piano"),
     ("grand_piano", "grand piano"), ("water_lilly", "water lily")],
)  # fmt: skip
def test_photo_categories_become_words(folder: str, name: str) -> None:
    assert category_name(folder) == name


# --- pictures -----------------------------------------------------------------------------------


def test_same_seed_same_bytes(bank: sprites.SpriteBank) -> None:
    assert torch.equal(picture(bank, 3), picture(bank, 3))
    assert not torch.equal(picture(bank, 3), picture(bank, 4))


def test_rendering_leaves_torchs_own_generator_alone(bank: sprites.SpriteBank) -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    picture(bank, 1)
    assert torch.equal(before, torch.get_rng_state())


def test_one_upright_sprite_lands_where_the_layout_says(bank: sprites.SpriteBank) -> None:
    """Against plain pasting: no rotation, a quarter of the canvas, on white."""
    layout = compose.Layout(
        sprite=torch.zeros(1, 1, dtype=torch.long),
        centre=torch.tensor([[[0.25, 0.75]]]), scale=torch.full((1, 1), 0.5),
        angle=torch.zeros(1, 1), mirror=torch.zeros(1, 1, dtype=torch.bool),
        tint=torch.full((1, 1), -1),
    )  # fmt: skip
    composer = compose.Composer(bank.rgba, None, 192, CPU)
    drawn = composer.render(layout, seeded(0), backgrounds=torch.ones(1, 3, 192, 192))[0]
    sprite = bank.rgba[0].float() / 255
    expected = torch.ones(3, 192, 192)
    expected[:, 96:, :96] = sprite[:3] + (1 - sprite[3:])
    assert (drawn - expected).abs().max() < 0.02


@pytest.mark.parametrize("objects", [(1, 1), (2, 4), (5, 8)])
def test_boxes_hold_the_visible_pixels_and_nothing_more(
    bank: sprites.SpriteBank, objects: tuple[int, int]
) -> None:
    chosen, layout = crowd(bank, 5, objects)
    truth = compose.Composer(bank.rgba, None, 96, CPU).truth(layout)
    assert (truth.masks.sum(1) <= 1).all(), "a pixel shows one object"
    for scene, place in (chosen.concept >= 0).nonzero().tolist():
        ys, xs = truth.masks[scene, place].nonzero(as_tuple=True)
        if len(xs):
            expected = [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
            assert truth.boxes[scene, place].tolist() == [float(v) for v in expected]


def test_empty_places_have_no_box(bank: sprites.SpriteBank) -> None:
    chosen, layout = crowd(bank, 6)
    truth = compose.Composer(bank.rgba, None, 96, CPU).truth(layout)
    assert not truth.boxes[chosen.concept < 0].any()


@pytest.mark.parametrize("tint", range(len(compose.TINTS)))
def test_tinted_objects_have_the_named_colour(bank: sprites.SpriteBank, tint: int) -> None:
    """The nearest named colour of the object's mean is the one in the caption."""
    count = len(bank)
    layout = compose.Layout(
        torch.arange(count)[:, None], torch.full((count, 1, 2), 0.5), torch.ones(count, 1),
        torch.zeros(count, 1), torch.zeros(count, 1, dtype=torch.bool),
        torch.full((count, 1), tint),
    )  # fmt: skip
    composer = compose.Composer(bank.rgba, None, 96, CPU)
    _, objects = composer.objects(layout)
    mean = objects[:, :3].flatten(2).sum(2) / objects[:, 3:].flatten(2).sum(2)
    distance = (mean[:, None] - composer.tints[None]).norm(dim=2)  # (N, tints)
    ranks = distance.argsort(1).argsort(1)[:, tint]
    assert (ranks <= 1).float().mean() > 0.6
    assert mean.std(0).mean() < 0.2, "the tint rules over the sprite's own colour"


# --- captions -----------------------------------------------------------------------------------


def test_phrases_are_spans_of_the_caption_and_cover_every_object(bank: sprites.SpriteBank) -> None:
    chosen, _ = crowd(bank, 8, n=60)
    for index in range(len(chosen)):
        caption = scenes.describe(chosen, index, CONCEPTS, random.Random(index))
        named = sorted(place for phrase in caption.phrases for place in phrase.places)
        assert named == (chosen.concept[index] >= 0).nonzero().flatten().tolist()
        for phrase in caption.phrases:
            words = caption.text[phrase.begin : phrase.end]
            assert words
            assert words == words.strip()


def two_objects(first: tuple[float, float], second: tuple[float, float]) -> scenes.Scenes:
    layout = compose.Layout(
        torch.zeros(1, 2, dtype=torch.long), torch.tensor([[first, second]]),
        torch.full((1, 2), 0.3), torch.zeros(1, 2), torch.zeros(1, 2, dtype=torch.bool),
        torch.tensor([[0, -1]]),
    )  # fmt: skip
    return scenes.Scenes(torch.tensor([[0, 1]]), torch.tensor([[-1, 1]]), layout)


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        ((0.2, 0.5), (0.8, 0.5), ("to the left of",)),
        ((0.8, 0.5), (0.2, 0.4), ("to the right of",)),
        ((0.5, 0.2), (0.5, 0.8), ("above", "over")),
        ((0.5, 0.8), (0.4, 0.2), ("below", "under")),
    ],
)
def test_relations_are_true(
    first: tuple[float, float], second: tuple[float, float], words: tuple[str, ...]
) -> None:
    scene = two_objects(first, second)
    for seed in range(20):
        text = scenes.describe(scene, 0, CONCEPTS, random.Random(seed), relation=1.0).text
        assert any(f" {word} " in text for word in words)


def test_sizes_and_tints_are_said_of_the_right_object() -> None:
    scene = two_objects((0.2, 0.5), (0.8, 0.5))
    caption = scenes.describe(scene, 0, CONCEPTS, random.Random(1), attributes=1.0, relation=0)
    first, second = (caption.text[p.begin : p.end] for p in caption.phrases)
    assert "red" in first
    assert any(word in first for word in scenes.SIZE_WORDS[-1])
    assert "red" not in second
    assert any(word in second for word in scenes.SIZE_WORDS[1])


@pytest.mark.parametrize(
    ("name", "expected"),
    [("dog", "dogs"), ("fox", "foxes"), ("butterfly", "butterflies"), ("key", "keys"),
     ("face with monocle", "faces with monocle"), ("glasses", "glasses"), ("bench", "benches")],
)  # fmt: skip
def test_plurals(name: str, expected: str) -> None:
    assert scenes.plural(name) == expected
