"""Scenes for a detector: boxes are those of the masks, novel things are a quarter, seeds repeat."""

import hashlib

import pytest
import torch

from tests.detection_support import small_detection_world
from training.world import detection
from training.world.compose import Layout, Truth
from training.world.concepts import load
from training.world.detection import SEEN, DetectionWorld, Labelled, is_novel

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def world() -> DetectionWorld:
    return small_detection_world()


@pytest.fixture(scope="module")
def examples(world: DetectionWorld, one_thread: None) -> list[Labelled]:
    return world.sample(48, 100)


def digest(examples: list[Labelled]) -> str:
    whole = hashlib.sha256()
    for example in examples:
        for tensor in (example.picture, example.boxes, example.masks, example.concept):
            whole.update(tensor.numpy().tobytes())
    return whole.hexdigest()


# ------------------------------------------------------------------------------------------- novel


def test_a_quarter_of_the_concepts_is_novel() -> None:
    concepts = load()
    share = sum(map(is_novel, concepts)) / len(concepts)
    assert share == pytest.approx(1 / 4, abs=0.02)


def test_novel_is_a_matter_of_the_concept_alone() -> None:
    """The list may grow or be sorted otherwise: what was taught must not become novel."""
    known = {"1f34e": True, "1f436": True, "1f43a": False, "1f3b8": False}
    found = {c.code: is_novel(c) for c in load() if c.code in known}
    assert found == known


def test_the_world_knows_which_are_novel(world: DetectionWorld) -> None:
    assert world.novel.tolist() == [is_novel(concept) for concept in world.concepts]


def test_both_occur_in_pictures(world: DetectionWorld, examples: list[Labelled]) -> None:
    drawn = torch.cat([example.concept for example in examples])
    novel = float(world.novel[drawn].float().mean())
    share = float(world.novel[world.table.drawn].float().mean())
    assert novel == pytest.approx(share, abs=0.12)
    assert 0 < novel < 1


# ------------------------------------------------------------------------------------------- truth


def test_shapes(examples: list[Labelled]) -> None:
    for example in examples:
        count = len(example.boxes)
        assert example.picture.shape == (3, 96, 96)
        assert 0 <= float(example.picture.min()) <= float(example.picture.max()) <= 1
        assert example.boxes.shape == (count, 4)
        assert example.masks.shape == (count, 96, 96)
        assert example.masks.dtype == torch.bool
        assert example.concept.shape == (count,)
        assert count <= 8
    assert len({len(example.boxes) for example in examples}) > 4


def test_a_box_is_the_frame_of_its_mask(examples: list[Labelled]) -> None:
    """By a plain search of the mask's pixels; right and bottom are edges."""
    for example in examples[:16]:
        for box, mask in zip(example.boxes.tolist(), example.masks):
            rows, columns = mask.nonzero().T.tolist()
            assert box == [min(columns), min(rows), max(columns) + 1, max(rows) + 1]


def test_no_pixel_belongs_to_two_things(examples: list[Labelled]) -> None:
    assert all(int(example.masks.sum(0).max()) <= 1 for example in examples if len(example.boxes))


def test_only_drawn_concepts_are_named(world: DetectionWorld, examples: list[Labelled]) -> None:
    named = set(torch.cat([example.concept for example in examples]).tolist())
    assert named <= set(world.table.drawn.tolist())
    assert len(named) > 40


@pytest.mark.parametrize("threshold", [SEEN, 0.999])
def test_what_is_covered_is_not_asked_for(
    world: DetectionWorld, monkeypatch: pytest.MonkeyPatch, threshold: float
) -> None:
    """The composer's own truth, object by object."""
    seen = []
    original = world.composer.truth

    def overheard(layout: Layout) -> Truth:
        seen.append((layout, original(layout)))
        return seen[-1][1]

    monkeypatch.setattr(world.composer, "truth", overheard)
    monkeypatch.setattr(detection, "SEEN", threshold)
    examples = world.sample(32, 7)
    ((layout, truth),) = seen
    placed = layout.sprite >= 0
    asked = placed & (truth.visible >= threshold)
    assert threshold == SEEN or (placed & ~asked).any()  # something is covered a little
    for row, example in enumerate(examples):
        assert torch.equal(example.boxes, truth.boxes[row][asked[row]])
        assert torch.equal(example.masks, truth.masks[row][asked[row]])


# ------------------------------------------------------------------------------------------- seeds


def test_the_same_seed_gives_the_same_bytes(
    world: DetectionWorld, examples: list[Labelled]
) -> None:
    assert digest(world.sample(8, 5)) == digest(world.sample(8, 5))
    assert digest(world.sample(8, 5)) != digest(world.sample(8, 6))
