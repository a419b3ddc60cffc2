"""Annotated pictures: phrases stand where they say, boxes hold what is named, words are true."""

import hashlib
import statistics

import pytest
import torch

from tests.grounding_support import CONCEPTS, names_of, small_world
from training.world import grounding
from training.world.compose import TINTS
from training.world.grounding import (
    KINDS,
    LATERAL,
    PARTS,
    SHARES,
    VERTICAL,
    Annotated,
    GroundingWorld,
    is_held_out,
    name_list,
)
from training.world.scenes import COUNT_WORDS, SIZE_WORDS, plural

pytestmark = pytest.mark.usefixtures("one_thread")

SCENES = ("names", "caption", "contrast", "relation")
COLOURS = {name: torch.tensor(rgb) for name, rgb in TINTS}


@pytest.fixture(scope="module")
def world() -> GroundingWorld:
    return small_world()


@pytest.fixture(scope="module")
def examples(world: GroundingWorld, one_thread: None) -> dict[str, list[Annotated]]:
    return {kind: world.sample(kind, 48, 100 + place) for place, kind in enumerate(SCENES)}


@pytest.fixture(scope="module")
def faces(world: GroundingWorld) -> list[Annotated]:
    pytest.importorskip("skia", reason="drawing avatars needs skia")
    return world.sample("avatar", 16, 5)


def words(example: Annotated) -> list[str]:
    return [example.caption.text[p.begin : p.end] for p in example.caption.phrases]


def centre(box: torch.Tensor) -> torch.Tensor:
    return (box[:2] + box[2:]) / 2


def test_the_kinds_share_the_whole() -> None:
    assert len(KINDS) == len(SHARES)
    assert sum(SHARES) == pytest.approx(1)


def test_a_list_of_names_knows_where_each_stands() -> None:
    caption = name_list(["cat", "catalog", "red cat"], [(0,), (), (1, 2)])
    assert caption.text == "cat. catalog. red cat"
    found = [(caption.text[p.begin : p.end], p.places) for p in caption.phrases]
    assert found == [("cat", (0,)), ("catalog", ()), ("red cat", (1, 2))]


# --------------------------------------------------------------------------------------- held out


def test_a_fifth_of_the_concepts_is_held_out() -> None:
    assert sum(map(is_held_out, CONCEPTS)) == pytest.approx(len(CONCEPTS) / 5, rel=0.1)


def test_the_two_halves_share_no_concept_and_are_everything(world: GroundingWorld) -> None:
    trained, held_out = set(world.drawn.tolist()), set(small_world(True).drawn.tolist())
    assert not trained & held_out
    assert trained | held_out == set(small_world(None).drawn.tolist())
    assert all(is_held_out(CONCEPTS[index]) for index in held_out)
    assert not any(is_held_out(CONCEPTS[index]) for index in trained)


@pytest.mark.parametrize("held_out", [False, True])
def test_every_phrase_names_a_concept_of_the_right_half(
    held_out: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grounding, "MOST_ABSENT", 10)  # the sheet has 17 that are held out
    mine, others = names_of(held_out), names_of(not held_out)
    known = mine | {plural(name) for name in mine}
    world = small_world(held_out)
    for kind in SCENES:
        for example in world.sample(kind, 12, 9):
            for word in words(example):
                assert any(word == name or word.endswith(f" {name}") for name in known), word
                assert word not in others


# ------------------------------------------------------------------------------- places and boxes


@pytest.mark.parametrize("kind", SCENES)
def test_boxes_lie_in_the_picture_and_phrases_point_at_them(
    examples: dict[str, list[Annotated]], kind: str
) -> None:
    found = examples[kind]
    assert len(found) >= 40
    for example in found:
        boxes = example.boxes
        assert example.picture.shape == (3, 96, 96)
        assert 0 <= float(example.picture.min()) <= float(example.picture.max()) <= 1
        assert example.kind == kind
        assert (boxes >= 0).all()
        assert (boxes <= 96).all()
        assert (boxes[:, 2:] > boxes[:, :2]).all()
        for phrase in example.caption.phrases:
            assert all(0 <= place < len(boxes) for place in phrase.places)
    assert any(phrase.places for example in found for phrase in example.caption.phrases)


def test_lists_are_their_phrases_and_absent_names_have_no_box(
    examples: dict[str, list[Annotated]],
) -> None:
    absent = 0
    for example in examples["names"]:
        assert example.listed
        assert example.caption.text == ". ".join(words(example))
        assert len(set(words(example))) == len(words(example))
        places = [place for phrase in example.caption.phrases for place in phrase.places]
        assert sorted(places) == list(range(len(example.boxes)))  # each box has one name
        absent += sum(not phrase.places for phrase in example.caption.phrases)
    assert absent > len(examples["names"])


@pytest.mark.parametrize("kind", ["caption", "contrast", "relation"])
def test_phrases_of_sentences_are_whole_noun_phrases(
    examples: dict[str, list[Annotated]], kind: str
) -> None:
    for example in examples[kind]:
        text, last = example.caption.text, 0
        assert not example.listed
        for phrase in example.caption.phrases:
            assert last <= phrase.begin < phrase.end <= len(text)
            assert phrase.begin == 0 or text[phrase.begin - 1] == " "
            assert phrase.end == len(text) or text[phrase.end] in " ,"
            first = text[phrase.begin : phrase.end].split()[0]
            assert first in {"a", "an", "the", *COUNT_WORDS.values()}
            last = phrase.end


def test_count_words_count_the_boxes(examples: dict[str, list[Annotated]]) -> None:
    number = {word: count for count, word in COUNT_WORDS.items()}
    counted = 0
    for example in examples["caption"]:
        for phrase, word in zip(example.caption.phrases, words(example)):
            told = number.get(word.split()[0], 1)
            assert len(phrase.places) <= told  # what is covered has no box
            counted += told > 1 and len(phrase.places) == told
    assert counted > 0


# ------------------------------------------------------------------------------------------- truth


def told_sizes(example: Annotated) -> list[tuple[int, int]]:
    """(-1 small or 1 big, its box) of the phrases of a contrast by size."""
    sign = {word: size for size, told in SIZE_WORDS.items() for word in told}
    pairs = zip(words(example), example.caption.phrases)
    return [
        (sign[w.split()[1]], p.places[0]) for w, p in pairs if w.split()[1] in sign and p.places
    ]


def test_the_small_one_is_smaller_and_the_big_one_bigger(world: GroundingWorld) -> None:
    compared = 0
    for example in world.sample("contrast", 64, 21):
        told = told_sizes(example)
        if len(told) == 2:
            (first, a), (second, b) = told
            side = (example.boxes[:, 2:] - example.boxes[:, :2]).amax(1)
            assert first == -second
            assert (side[a] < side[b]) == (first < second)
            compared += 1
    assert compared >= 5


def test_colours_are_those_of_the_boxes(world: GroundingWorld) -> None:
    """Of two colours and two boxes, each is nearer to its own than the other way round."""
    right = []
    for example in world.sample("contrast", 96, 22):
        pairs = zip(words(example), example.caption.phrases)
        told = [(COLOURS[w.split()[1]], p.places[0]) for w, p in pairs
                if w.split()[1] in COLOURS and p.places]  # fmt: skip
        if len(told) == 2:
            seen = []
            for _, place in told:
                low, high = example.boxes[place, :2], example.boxes[place, 2:]
                quarter = (high - low) / 4
                (left, top), (x, y) = (
                    (low + quarter).long().tolist(),
                    (high - quarter).long().tolist(),
                )
                seen.append(example.picture[:, top : y + 1, left : x + 1].flatten(1).mean(1))
            (a, _), (b, _) = told
            own = (a - seen[0]).norm() + (b - seen[1]).norm()
            right.append(bool(own < (a - seen[1]).norm() + (b - seen[0]).norm()))
    assert len(right) >= 8
    assert statistics.fmean(right) >= 0.9  # something may lie on top, or the light be coloured


def test_relations_hold_and_do_not_hold_for_the_other_one(
    examples: dict[str, list[Annotated]],
) -> None:
    sides = {word: (0, sign) for sign, told in zip((-1, 1), LATERAL) for word in told}
    sides |= {word: (1, sign) for sign, told in zip((-1, 1), VERTICAL) for word in told}
    seen, rivals = set(), 0
    for example in examples["relation"]:
        asked, other = example.caption.phrases
        between = example.caption.text[asked.end : other.begin].strip()
        axis, sign = sides[between]
        if not (asked.places and other.places):
            continue
        middle = centre(example.boxes[other.places[0]])[axis]
        assert (centre(example.boxes[asked.places[0]])[axis] - middle) * sign > 0
        for row in set(range(len(example.boxes))) - {asked.places[0], other.places[0]}:
            assert (centre(example.boxes[row])[axis] - middle) * sign < 0
            rivals += 1
        seen.add((axis, sign))
    assert len(seen) == 4
    assert rivals > 20


# ----------------------------------------------------------------------------------------- avatars


def test_avatars_are_asked_for_parts_and_for_what_no_face_has(faces: list[Annotated]) -> None:
    part_of = {word: part for part, words in PARTS.items() for word in words}
    asked = set()
    for example in faces:
        for word, phrase in zip(words(example), example.caption.phrases):
            part = part_of.get(word)
            asked.add(part)
            if part is None:
                assert not phrase.places
            assert len(phrase.places) <= (2 if part == "earrings" else 1)
            if part == "face":
                assert len(phrase.places) == 1
    assert asked == {*PARTS, None}


def test_glasses_sit_in_the_face(faces: list[Annotated]) -> None:
    part_of = {word: part for part, words in PARTS.items() for word in words}
    checked = 0
    for example in faces:
        box = {part_of.get(w): example.boxes[p.places[0]]
               for w, p in zip(words(example), example.caption.phrases) if p.places}  # fmt: skip
        assert (example.boxes >= 0).all()
        assert (example.boxes <= 96).all()
        if "face" in box and "glasses" in box:
            middle = centre(box["glasses"])
            assert (box["face"][:2] < middle).all()
            assert (middle < box["face"][2:]).all()
            checked += 1
    assert checked > 0


# ------------------------------------------------------------------------------------------- seeds


def digest(examples: list[Annotated]) -> str:
    whole = hashlib.sha256()
    for example in examples:
        whole.update(example.picture.numpy().tobytes() + example.boxes.numpy().tobytes())
        whole.update(repr(example.caption).encode())
    return whole.hexdigest()


@pytest.mark.parametrize("kind", SCENES)
def test_same_seed_same_bytes_another_seed_others(world: GroundingWorld, kind: str) -> None:
    first = digest(world.sample(kind, 6, 33))
    assert digest(world.sample(kind, 6, 33)) == first
    assert digest(world.sample(kind, 6, 34)) != first


def test_avatars_too(world: GroundingWorld, faces: list[Annotated]) -> None:
    assert digest(world.sample("avatar", 16, 5)) == digest(faces)
