"""Measuring a detector: average precision, R@1, matching and thresholds on cases done by hand."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from models.detection.detections import Detections
from models.glip.config import GlipConfig
from models.glip.grounding import GroundingThresholds
from models.glip.prompts import Prompt, list_prompt
from tests.grounding_support import CONCEPTS, names_of, small_world
from training import evaluate
from training import glip_evaluation as evaluation
from training import grounding_shards as shards
from training.clip_evaluation import Figure
from training.glip import SHARD_SEED, TEST_SEED
from training.glip_evaluation import Asked, OperatingPoint
from training.world.grounding import KINDS, GroundingWorld

pytestmark = pytest.mark.usefixtures("one_thread")

SIDE = 100
CAT, DOG = [10, 10, 50, 50], [20, 60, 60, 90]
Found = tuple[str, list[float], float]  # name, box, score


def asked(names: Sequence[str], *truth: list[list[float]], kind: str = "names") -> Asked:
    boxes = tuple(torch.tensor(some, dtype=torch.float32).reshape(-1, 4) for some in truth)
    return Asked(Image.new("RGB", (SIDE, SIDE)), list_prompt(names), boxes, kind)


def detections(one: Asked, found: Sequence[Found]) -> Detections:
    ordered = sorted(found, key=lambda row: -row[2])
    phrases = tuple(one.prompt.names.index(name) for name, _, _ in ordered)
    return Detections(
        boxes=np.array([box for _, box, _ in ordered], np.float32).reshape(-1, 4),
        scores=np.array([score for _, _, score in ordered], np.float32),
        labels=tuple(name for name, _, _ in ordered),
        phrases=phrases,
        spans=tuple((one.prompt.phrases[p].begin, one.prompt.phrases[p].end) for p in phrases),
        width=SIDE,
        height=SIDE,
    )


def overlapping(box: list[float], iou: float) -> list[float]:
    """A part of the box that covers `iou` of it."""
    left, top, right, bottom = box
    return [left, top, left + (right - left) * iou, bottom]


# ------------------------------------------------------------------------------- average precision


@pytest.mark.parametrize(
    ("iou", "ap50", "ap"),
    [(1.0, 1.0, 1.0), (0.92, 1.0, 0.9), (0.62, 1.0, 0.3), (0.52, 1.0, 0.1), (0.4, 0.0, 0.0)],
)
def test_boxes_that_cover_a_share_pass_the_thresholds_below_it(
    iou: float, ap50: float, ap: float
) -> None:
    """All right at `iou`: AP is the share of 0.5, 0.55 .. 0.95 that it reaches."""
    one = asked(["cat", "dog"], [CAT], [DOG])
    found = [("cat", overlapping(CAT, iou), 0.9), ("dog", overlapping(DOG, iou), 0.3)]
    precision, by_name = evaluation.precision_by_name([one], [detections(one, found)])
    assert precision.ap50 == pytest.approx(ap50)
    assert precision.ap == pytest.approx(ap)
    assert by_name == pytest.approx({"cat": ap50, "dog": ap50})


@pytest.mark.parametrize(
    ("false_score", "cat"),
    [(0.95, 0.5), (0.1, 1.0)],  # before the only right one: precision 1/2 at all recalls
)
def test_a_false_box_in_another_picture_counts_by_its_score(false_score: float, cat: float) -> None:
    first, second = asked(["cat"], [CAT]), asked(["dog", "cat"], [DOG], [])
    found = [
        detections(first, [("cat", CAT, 0.9)]),
        detections(second, [("dog", DOG, 0.8), ("cat", DOG, false_score)]),
    ]
    precision, by_name = evaluation.precision_by_name([first, second], found)
    assert by_name == pytest.approx({"cat": cat, "dog": 1.0}, abs=1e-3)
    assert precision.ap50 == pytest.approx((cat + 1) / 2, abs=1e-3)


def test_a_missed_box_halves_the_recall() -> None:
    one = asked(["cat"], [CAT, DOG])
    precision, _ = evaluation.precision_by_name([one], [detections(one, [("cat", CAT, 0.9)])])
    assert precision.ap50 == pytest.approx(51 / 101)  # recalls 0, 0.01 .. 0.5 of 0 .. 1


def test_a_box_found_twice_is_false_once() -> None:
    one = asked(["cat"], [CAT, DOG])
    found = [("cat", CAT, 0.9), ("cat", overlapping(CAT, 0.9), 0.8), ("cat", DOG, 0.7)]
    precision, _ = evaluation.precision_by_name([one], [detections(one, found)])
    assert precision.ap50 == pytest.approx((51 + 50 * 2 / 3) / 101, abs=1e-3)


def test_the_right_box_with_the_wrong_name_is_wrong() -> None:
    one = asked(["cat", "dog"], [CAT], [DOG])
    found = detections(one, [("dog", CAT, 0.9), ("cat", DOG, 0.9)])
    precision, _ = evaluation.precision_by_name([one], [found])
    assert precision.ap50 == 0


def test_nothing_found_is_zero_and_nothing_true_is_an_error() -> None:
    one = asked(["cat"], [CAT])
    assert evaluation.precision_by_name([one], [detections(one, [])])[0].ap == 0
    empty = asked(["cat"], [])
    with pytest.raises(ValueError, match="no box is true"):
        evaluation.precision_by_name([empty], [detections(empty, [("cat", CAT, 0.9)])])


# --------------------------------------------------------------------------------- R@1 and matching


@pytest.mark.parametrize(
    ("found", "wanted"),
    [
        ([("cats", CAT, 0.9), ("dog", DOG, 0.2)], [True, True]),
        ([("cats", [60, 0, 99, 40], 0.9), ("cats", CAT, 0.8), ("dog", DOG, 0.2)], [False, True]),
        ([("cats", overlapping(CAT, 0.51), 0.9), ("dog", overlapping(DOG, 0.49), 0.9)], [True, False]),
        ([("dog", CAT, 0.9), ("dog", DOG, 0.8)], [False, False]),
        ([], [False, False]),
    ],
)  # fmt: skip
def test_recall_at_one_looks_at_the_best_box_of_each_phrase(
    found: list[Found], wanted: list[bool]
) -> None:
    """Two boxes are the cats', of which one is enough; nobody asks for the fish that isn't there."""
    one = asked(["cats", "dog", "fish"], [CAT, [60, 60, 99, 99]], [DOG], [])
    assert evaluation.recalled(one, detections(one, found)) == [*wanted, None]


def test_each_box_is_matched_once_by_the_best_detection() -> None:
    one = asked(["cat", "dog"], [CAT, DOG], [])
    found = [
        ("cat", CAT, 0.9),  # right
        ("cat", CAT, 0.8),  # again
        ("dog", DOG, 0.7),  # no dog
        ("cat", overlapping(DOG, 0.6), 0.6),  # right
        ("cat", [0, 0, 9, 9], 0.5),  # nothing there
    ]
    assert evaluation.matched(one, detections(one, found)) == [True, False, False, True, False]


@pytest.mark.parametrize(
    ("kind", "text", "wanted"),
    [
        ("contrast", "a little red heart", "size"),
        ("contrast", "the red little heart", "colour"),
        ("relation", "the cat to the left of the dog", "relation"),
        ("caption", "a small cat", "noun"),
    ],
)
def test_what_a_phrase_needs(kind: str, text: str, wanted: str) -> None:
    prompt = Prompt.from_spans(text, [(0, len(text))])
    one = Asked(Image.new("RGB", (9, 9)), prompt, (torch.tensor([CAT]),), kind)
    assert evaluation.needs(one, 0) == wanted


def test_the_other_phrase_of_a_relation_needs_its_noun_only() -> None:
    one = asked(["the cat", "the dog"], [CAT], [DOG], kind="relation")
    assert evaluation.needs(one, 1) == "noun"


# --------------------------------------------------------------------------------------- questions


def test_no_seed_of_the_evaluation_draws_as_a_shard_does() -> None:
    """Torch's generators keep 32 bits of a seed, so that is where they have to differ."""
    drawn = {(seed * 1_000_003 + number) * len(KINDS) + place
             for seed in (SHARD_SEED, TEST_SEED)
             for number in range(2000) for place in range(len(KINDS))}  # fmt: skip
    mine = set(range(evaluation.SEED, evaluation.SEED + 100_000))
    validation = set(range(evaluation.VALIDATION_SEED, evaluation.VALIDATION_SEED + 100_000))
    low = [{seed % 2**32 for seed in seeds} for seeds in (drawn, mine, validation)]
    assert not low[0] & low[1]
    assert not low[0] & low[2]
    assert not low[1] & low[2]


def test_the_seeds_above_are_those_of_shards(tmp_path: Path) -> None:
    """`make_shard` asks its world for the seeds that the test above computes."""
    seen: list[int] = []

    class Asks:
        size = 96

        def sample(self, kind: str, count: int, seed: int) -> list[object]:
            seen.append(seed)
            if len(seen) == len(KINDS):
                raise StopIteration
            return []

    with pytest.raises(StopIteration):
        shards.make_shard(Asks(), None, TEST_SEED, 3, tmp_path)  # type: ignore[arg-type]
    assert seen == [(TEST_SEED * 1_000_003 + 3) * len(KINDS) + place for place in range(len(KINDS))]


@pytest.fixture(scope="module")
def world() -> GroundingWorld:
    return small_world()


def test_prompts_are_the_pictures_own_names_and_twenty_others(world: GroundingWorld) -> None:
    examples = evaluation.pictures(world, "names", 24, 5)
    found = evaluation.asked_by_name(examples, 1)
    known = {concept.name for concept in CONCEPTS} & names_of(held_out=False)
    absent_true = {name for one in found for name, boxes in zip(one.prompt.names, one.truth)
                   if len(boxes)}  # fmt: skip
    for example, one in zip(examples, found, strict=True):
        present = [name for name, boxes in zip(one.prompt.names, one.truth) if len(boxes)]
        absent = set(one.prompt.names) - set(present)
        assert len(one.prompt.names) == len(set(one.prompt.names)) == len(present) + 20
        assert set(one.prompt.names) <= known
        assert absent <= absent_true  # what other pictures show
        assert sum(map(len, one.truth)) == len(example.boxes)
        words = [evaluation.canonical_names()[w] for w in evaluation.words_of(example.caption)]
        assert not absent & set(words)
    assert [one.prompt for one in evaluation.asked_by_name(examples, 1)] == [
        o.prompt for o in found
    ]
    assert [one.prompt for one in evaluation.asked_by_name(examples, 2)] != [
        o.prompt for o in found
    ]


def test_prompts_of_absent_names_ask_for_nothing_that_is_there(world: GroundingWorld) -> None:
    examples = evaluation.pictures(world, "names", 12, 6)
    names = sorted({concept.name for concept in CONCEPTS} & names_of(held_out=False))
    for example, one in zip(examples, evaluation.asked_for_absent(examples, names, 1), strict=True):
        words = [evaluation.canonical_names()[w] for w in evaluation.words_of(example.caption)]
        assert len(one.prompt.names) == 20
        assert not set(words) & set(one.prompt.names)
        assert not any(map(len, one.truth))


@pytest.mark.parametrize("kind", ["caption", "contrast", "relation"])
def test_captions_are_asked_with_their_own_phrases(world: GroundingWorld, kind: str) -> None:
    examples = evaluation.pictures(world, kind, 8, 7)
    for example, one in zip(examples, evaluation.asked_in_words(examples), strict=True):
        assert one.prompt.caption == example.caption.text
        for phrase, mine, truth in zip(example.caption.phrases, one.prompt.phrases, one.truth):
            assert (mine.begin, mine.end) == (phrase.begin, phrase.end)
            assert torch.equal(truth, example.boxes[list(phrase.places)])


def test_avatars_are_asked_by_the_first_name_of_each_part(world: GroundingWorld) -> None:
    pytest.importorskip("skia", reason="drawing avatars needs skia")
    found = evaluation.asked_for_parts(evaluation.pictures(world, "avatar", 12, 8))
    names = {name for one in found for name in one.prompt.names}
    assert set(evaluation.WORN) <= names
    assert not names & {"spectacles", "cap", "full beard", "mustache"}


# ------------------------------------------------------------------------------- figures, thresholds


class Raw:
    """What a grounder found, as `select` gives it."""

    def __init__(self, found: Detections) -> None:
        self.found = found

    def select(self, thresholds: GroundingThresholds) -> Detections:
        kept = self.found.select(self.found.scores >= thresholds.box)
        return kept.select(slice(thresholds.max_boxes))


class Oracle:
    """Knows every answer, and sees a box of the first absent name in every tenth picture."""

    defaults = GroundingThresholds(box=0.5)

    def __init__(self, truth: Sequence[Asked]) -> None:
        self.truth = {one.picture.tobytes() + one.prompt.caption.encode(): one for one in truth}
        self.calls = 0

    def ground(self, picture: Image.Image, prompt: Prompt):
        yield from ()
        self.calls += 1
        one = self.truth[picture.tobytes() + prompt.caption.encode()]
        rows = [(name, box, 0.9) for name, boxes in zip(prompt.names, one.truth)
                for box in boxes.tolist()]  # fmt: skip
        if not rows and self.calls % 10 == 0:
            rows = [(prompt.names[0], [1.0, 1.0, 9.0, 9.0], 0.6)]
        side = picture.width
        found = detections(one, rows)
        return Raw(
            Detections(
                boxes=found.boxes, scores=found.scores, labels=found.labels, phrases=found.phrases,
                spans=found.spans, width=side, height=side,
            )
        )  # fmt: skip


@pytest.fixture
def knowing(monkeypatch: pytest.MonkeyPatch) -> Oracle:
    """An oracle that overhears every question as it is made."""
    oracle = Oracle([])
    for name in ("asked_by_name", "asked_for_absent", "asked_in_words", "asked_for_parts"):
        make = getattr(evaluation, name)

        def overheard(*given: object, make=make, **named: object) -> list[Asked]:
            found = make(*given, **named)
            oracle.truth |= {o.picture.tobytes() + o.prompt.caption.encode(): o for o in found}
            return found

        monkeypatch.setattr(evaluation, name, overheard)
    return oracle


def test_an_oracle_reaches_every_bar(knowing: Oracle, world: GroundingWorld) -> None:
    ap50, ap, false = evaluation.detection(knowing, world, 20)
    assert ap50.value == ap.value == pytest.approx(100)
    assert false.value == pytest.approx(10)  # two boxes in twenty pictures
    assert (ap50.bar, ap.bar, false.bar) == (85, 55, 10)
    assert ap50.holds
    assert false.holds
    assert not Figure("", 10.1, false.bar, at_most=false.at_most).holds


def test_an_oracle_recalls_every_phrase(knowing: Oracle, world: GroundingWorld) -> None:
    figures = list(evaluation.grounding(knowing, world, 16))
    assert [figure.value for figure in figures] == [100.0] * 6
    assert [figure.bar for figure in figures] == [85, 65, None, None, None, None]
    assert [f.name.split()[-1] for f in figures[2:]] == ["colour", "noun", "relation", "size"]


def test_an_oracle_finds_what_faces_wear(knowing: Oracle, world: GroundingWorld) -> None:
    pytest.importorskip("skia", reason="drawing avatars needs skia")
    figures = list(evaluation.worn(knowing, world, 16))
    assert [figure.value for figure in figures] == pytest.approx([100] * 4)
    assert figures[0].bar == 80


def test_times_are_taken_on_two_threads(knowing: Oracle, world: GroundingWorld) -> None:
    threads = torch.get_num_threads()
    new, cached = evaluation.speed(knowing, world, 2)
    assert torch.get_num_threads() == threads
    assert cached.value > 0
    assert new.value > 0
    assert new.bar == 400
    assert knowing.calls == 2 * (2 + 3)


def test_operating_points_count_by_hand() -> None:
    one = asked(["cat", "dog"], [CAT], [DOG])
    found = detections(one, [("cat", CAT, 0.805), ("dog", CAT, 0.605), ("dog", DOG, 0.405)])
    nothing = asked(["fish"], [])
    wrong = [detections(nothing, [("fish", CAT, 0.505)]), detections(nothing, [])]
    points = {round(p.threshold, 2): p for p in evaluation.operating_points([one], [found], wrong)}
    assert points[0.2] == OperatingPoint(pytest.approx(0.2), pytest.approx(2 / 3), 1.0, 0.5)
    assert points[0.5] == OperatingPoint(pytest.approx(0.5), 0.5, 0.5, 0.5)
    assert points[0.7] == OperatingPoint(pytest.approx(0.7), 1.0, 0.5, 0.0)
    assert points[0.9] == OperatingPoint(pytest.approx(0.9), 0.0, 0.0, 0.0)
    assert points[0.2].f1 == pytest.approx(0.8)
    assert points[0.9].f1 == 0
    assert evaluation.best_point(list(points.values()), 1.0).threshold == pytest.approx(0.05)
    assert 0.6 < evaluation.best_point(list(points.values()), 0.1).threshold <= 0.8


def test_no_threshold_is_chosen_where_all_show_too_much() -> None:
    with pytest.raises(ValueError, match="every threshold"):
        evaluation.best_point([OperatingPoint(0.5, 1.0, 1.0, 0.3)], 0.1)


@pytest.mark.parametrize(
    ("plan", "fusion"),
    [(None, True), ({"model": "mini", "step": 3}, True), ({"model": "mini_without_fusion"}, False)],
)
def test_a_folder_says_which_model_it_holds(
    plan: dict[str, object] | None, fusion: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked_for: list[GlipConfig] = []

    def load(folder: Path, device: object, dtype: torch.dtype, config: GlipConfig) -> None:
        assert (folder, dtype) == (tmp_path, torch.float32)
        asked_for.append(config)

    monkeypatch.setattr(evaluation, "load_glip_mini", load)
    if plan is not None:
        (tmp_path / "plan.json").write_text(json.dumps(plan))
    evaluation.load_grounder(tmp_path)
    assert [config.fusion for config in asked_for] == [fusion]


def test_the_command_knows_it() -> None:
    assert evaluate.EVALUATIONS["glip-mini"] is evaluation.evaluate
