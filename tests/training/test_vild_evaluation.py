"""Measuring an open-vocabulary detector: average precision, recall and orderings on cases done by
hand, a detector that knows every answer, and what is said where a row is missing."""

import json
import math
import random
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from models.detection.detections import Detections, encode_mask
from models.vild.regions import RawRegions, Sight, Vocabulary
from tests.detection_support import small_detection_world
from training import evaluate
from training import vild_evaluation as evaluation
from training.clip_evaluation import Figure
from training.glip_evaluation import OperatingPoint
from training.vild import ROWS, SHARD_SEED
from training.vild_evaluation import (
    ENSEMBLE,
    IMAGE,
    SPLITS,
    SUPERVISED,
    TEXT,
    VILD,
    Exam,
    Precision,
    Scene,
    Scores,
    Table,
    Unmeasured,
)

pytestmark = pytest.mark.usefixtures("one_thread")

SIDE = 100
CAT, DOG = [10.0, 10, 50, 50], [20.0, 60, 60, 90]
NAMES = ("cat", "dog", "owl")
Found = tuple[str, list[float], float]  # name, box, score


def box_mask(box: Sequence[float]) -> Tensor:
    left, top, right, bottom = (round(value) for value in box)
    mask = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    mask[top:bottom, left:right] = True
    return mask


def scene(*things: tuple[str, list[float]], shade: int = 0) -> Scene:
    boxes = torch.tensor([box for _, box in things], dtype=torch.float32).reshape(-1, 4)
    masks = torch.stack([box_mask(box) for _, box in things])
    picture = Image.new("RGB", (SIDE, SIDE), (shade, shade, shade))
    return Scene(picture, boxes, masks, tuple(name for name, _ in things))


def exam(*scenes: Scene, novel: str = "cat") -> Exam:
    return Exam(scenes, NAMES, frozenset([novel]))


def detections(found: Sequence[Found], masks: Sequence[Sequence[float]] = ()) -> Detections:
    """`masks` are boxes that are filled, those of the detections unless given."""
    ordered = sorted(found, key=lambda row: -row[2])
    outlines = masks or [box for _, box, _ in ordered]
    return Detections(
        boxes=np.array([box for _, box, _ in ordered], np.float32).reshape(-1, 4),
        scores=np.array([score for _, _, score in ordered], np.float32),
        labels=tuple(name for name, _, _ in ordered),
        phrases=tuple(NAMES.index(name) for name, _, _ in ordered),
        spans=(None,) * len(ordered),
        width=SIDE,
        height=SIDE,
        masks=tuple(encode_mask(box_mask(box).numpy()) for box in outlines),
    )


def part(box: list[float], iou: float) -> list[float]:
    """A part of the box that covers `iou` of it."""
    left, top, right, bottom = box
    return [left, top, left + (right - left) * iou, bottom]


# ------------------------------------------------------------------------------- average precision


@pytest.mark.parametrize(
    ("iou", "ap50", "ap"), [(1.0, 100, 100), (0.9, 100, 90), (0.6, 100, 30), (0.4, 0, 0)]
)
def test_boxes_and_masks_pass_the_thresholds_below_their_share(
    iou: float, ap50: float, ap: float
) -> None:
    """The cat at `iou`, the dog exactly: boxes and masks alike, each in its own split."""
    found = [("cat", part(CAT, iou), 0.9), ("dog", DOG, 0.8)]
    scores = evaluation.scored(exam(scene(("cat", CAT), ("dog", DOG))), [detections(found)])
    for kind in (scores.boxes, scores.masks):
        assert set(kind) == set(SPLITS)
        assert kind["novel"].ap50 == pytest.approx(ap50)
        assert kind["novel"].ap == pytest.approx(ap)
        assert kind["base"] == Precision(pytest.approx(100), pytest.approx(100))
        assert kind["all"].ap == pytest.approx((ap + 100) / 2)


def test_masks_are_measured_apart_from_boxes() -> None:
    found = detections([("cat", CAT, 0.9), ("dog", DOG, 0.8)], masks=[part(CAT, 0.6), DOG])
    scores = evaluation.scored(exam(scene(("cat", CAT), ("dog", DOG))), [found])
    assert scores.boxes["novel"].ap == pytest.approx(100)
    assert scores.masks["novel"].ap == pytest.approx(30)


def test_a_name_is_asked_for_in_every_picture() -> None:
    """A better-scored cat where there is none halves the precision."""
    two = exam(scene(("cat", CAT)), scene(("dog", DOG)))
    right = detections([("cat", CAT, 0.5)])
    wrong = detections([("dog", DOG, 0.9), ("cat", DOG, 0.8)])
    scores = evaluation.scored(two, [right, wrong])
    assert scores.boxes["novel"].ap50 == pytest.approx(50)
    assert scores.boxes["base"].ap50 == pytest.approx(100)


def test_three_hundred_boxes_of_a_picture_count() -> None:
    """The only right one is the last of 250, worse than COCO's usual hundred."""
    wrong = [("cat", [60.0, 10, 90, 40], 0.9 - row / 1000) for row in range(249)]
    found = detections([*wrong, ("cat", CAT, 0.1), ("dog", DOG, 0.05)])
    scores = evaluation.scored(exam(scene(("cat", CAT), ("dog", DOG))), [found])
    assert scores.boxes["novel"].ap50 == pytest.approx(100 / 250, rel=1e-3)


@pytest.mark.parametrize(("novel", "missing"), [("owl", "novel"), ("cat", "base")])
def test_a_split_without_an_object_cannot_be_measured(novel: str, missing: str) -> None:
    with pytest.raises(ValueError, match=f"no object is {missing}"):
        evaluation.scored(exam(scene(("cat", CAT)), novel=novel), [detections([("cat", CAT, 1)])])


# ------------------------------------------------------------------------------------------- recall


def test_recall_of_proposals_by_hand() -> None:
    """One cat exactly, one at 0.72 (5 of 10 thresholds), found by the second and third proposal."""
    two = exam(scene(("cat", CAT), ("dog", DOG)), scene(("cat", DOG)))
    far = [70.0, 0, 99, 9]
    proposals = [
        (torch.tensor([far, CAT]), torch.tensor([0.9, 0.8])),
        (torch.tensor([far, far, part(DOG, 0.725)]), torch.tensor([0.9, 0.8, 0.7])),
    ]
    recall = evaluation.proposal_recall(two, proposals, "novel", (1, 2, 3))
    assert recall == pytest.approx([0, 50, 75])
    assert evaluation.proposal_recall(two, proposals, "base", (3,)) == [0]


# -------------------------------------------------------------------------------------------- exams


def test_an_exam_asks_for_all_that_is_shown() -> None:
    world = small_detection_world()
    drawn = evaluation.drawn_exam(world, 12, 5)
    assert len(drawn.scenes) == 12
    shown = {name for one in drawn.scenes for name in one.names}
    assert set(drawn.names) == shown
    assert list(drawn.names) == sorted(drawn.names)
    novel = {c.name for c, is_novel in zip(world.concepts, world.novel.tolist()) if is_novel}
    assert drawn.novel == novel & shown
    assert 0 < len(drawn.novel) < len(shown)
    truth = drawn.truth.dataset
    assert len(truth["annotations"]) == sum(len(one.boxes) for one in drawn.scenes)
    assert drawn.members("novel").sum() + drawn.members("base").sum() == len(shown)
    few = drawn.first(3)
    assert (few.names, len(few.scenes), len(few.truth.imgs)) == (drawn.names, 3, 3)


def test_pictures_are_drawn_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int]] = []

    class World:
        concepts = ()

        def sample(self, count: int, seed: int) -> list[object]:
            asked.append((count, seed))
            return []

    evaluation.drawn_exam(World(), 100, 7)  # type: ignore[arg-type]
    assert asked == [(48, 7), (48, 55), (4, 103)]


def test_no_seed_of_the_evaluation_draws_as_a_shard_does() -> None:
    """Torch's generators keep 32 bits of a seed, so that is where they have to differ."""
    shards = {(SHARD_SEED * 1_000_003 + number) % 2**32 for number in range(10_000)}
    mine = {seed % 2**32 for seed in range(evaluation.SEED, evaluation.SEED + 100_000)}
    first = evaluation.VALIDATION_SEED
    validation = {seed % 2**32 for seed in range(first, first + 100_000)}
    assert not shards & mine
    assert not shards & validation
    assert not mine & validation


# ---------------------------------------------------------------------------------- who knows it all


class Clip:
    """Its vector of a crop is the colour: names are colours."""

    logit_scale, image_size, embed_dim = 50.0, 8, 3

    def normalize(self, pixels: Tensor) -> Tensor:
        return pixels

    def image_features(self, pixels: Tensor) -> Tensor:
        return F.normalize(pixels.mean((2, 3)), dim=1)


def coloured() -> tuple[Exam, Vocabulary]:
    """A red cat and a green dog on grey, twice."""
    pixels = np.full((SIDE, SIDE, 3), 90, np.uint8)
    for box, colour in ((CAT, (255, 0, 0)), (DOG, (0, 255, 0))):
        pixels[box_mask(box).numpy()] = colour
    things = scene(("cat", CAT), ("dog", DOG))
    one = Scene(Image.fromarray(pixels), things.boxes, things.masks, things.names)
    text = torch.eye(3)
    base = torch.tensor([False, True, True])
    vocabulary = Vocabulary(NAMES, (0, 1, 2), base, text, F.normalize(torch.ones(3), dim=0))
    return exam(one, one), vocabulary


class Oracle:
    """Regions: half a cat, the cat, the dog, and grey; of one it is unsure that it is an object."""

    boxes = ([10.0, 10, 50, 30], CAT, DOG, [70.0, 5, 95, 30])
    objectness = (0.2, 0.9, 0.9, 0.1)

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.clip, self.vocabulary, self.name = Clip(), vocabulary, "oracle"
        self.model = SimpleNamespace(regions=lambda levels, boxes: torch.zeros(len(boxes[0])))
        self.calls: list[str] = []

    def detect(self, picture: Image.Image) -> Any:
        yield from ()
        self.calls.append("detect")
        boxes = np.array(self.boxes, np.float32)
        pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
        return RawRegions(
            detector=self.name, boxes=boxes, read_boxes=boxes.copy(),
            objectness=np.array(self.objectness, np.float32),
            embeddings=np.zeros((4, 3), np.float32), image_embeddings=None,
            width=SIDE, height=SIDE, read_size=(SIDE, SIDE), sight=Sight([], pixels),
        )  # fmt: skip

    def read(self, names: Sequence[str]) -> Any:
        yield from ()
        return self.vocabulary

    def masks(self, raw: RawRegions, rows: Any) -> Any:
        return tuple(encode_mask(box_mask(raw.boxes[row]).numpy()) for row in rows)

    def rank(self, raw: RawRegions, vocabulary: Vocabulary, masks: bool) -> Detections:
        assert masks
        return detections([("cat", CAT, 0.9), ("dog", DOG, 0.8)])

    def select(self, raw: RawRegions, names: Any, thresholds: Any, masks: bool = False) -> None:
        self.calls.append("read" if isinstance(names, Vocabulary) else "new")


def test_clip_names_crops_by_their_looks() -> None:
    asked, vocabulary = coloured()
    oracle: Any = Oracle(vocabulary)
    raw = evaluation.run_to_end(oracle.detect(asked.scenes[0].picture))
    seen = evaluation.clip_vectors(oracle, raw)
    assert seen.shape == (4, 3)
    scores = torch.softmax(50.0 * seen, 1)  # the names are the unit vectors
    plain = evaluation.named_by_clip(oracle, raw, seen, vocabulary, objectness=False)
    helped = evaluation.named_by_clip(oracle, raw, seen, vocabulary, objectness=True)
    for found, factor in ((plain, None), (helped, oracle.objectness)):
        for box, score, label in zip(found.boxes, found.scores, found.labels):
            row = [list(b) for b in oracle.boxes].index(box.tolist())
            expected = float(scores[row, NAMES.index(label)])
            if factor is not None:
                expected = math.sqrt(expected * factor[row])
            assert score == pytest.approx(expected, rel=1e-4)
    assert plain.labels[:2] != ()
    best = {label: box.tolist() for box, label in reversed(list(zip(helped.boxes, helped.labels)))}
    assert best["cat"] == CAT  # objectness prefers the whole cat to its half
    assert best["dog"] == DOG


def test_the_yardstick_is_measured_on_the_same_regions() -> None:
    asked, vocabulary = coloured()
    oracle: Any = Oracle(vocabulary)
    figures = {figure.name: figure for figure in evaluation.against_clip(oracle, asked)}
    assert figures[f"{ENSEMBLE}, the first 2 scenes: box AP50, all"].value == pytest.approx(100)
    helped = figures["CLIP on crops, by objectness too, the first 2 scenes: box AP50, all"]
    assert helped.value == pytest.approx(100)
    times = {name: f for name, f in figures.items() if f.unit in ("ms", "x")}
    assert all(figure.value > 0 for figure in times.values())
    assert [figure.bar for figure in times.values()] == [None, None, None, 50.0, 50.0]
    crop, head, look, heads, whole = (figure.value for figure in times.values())
    assert heads == pytest.approx(crop / head)
    assert whole == pytest.approx(crop / look)


def test_times_are_taken_on_two_threads_with_names_that_are_new() -> None:
    asked, vocabulary = coloured()
    oracle: Any = Oracle(vocabulary)
    threads = torch.get_num_threads()
    figures = list(evaluation.speed(oracle, asked))
    assert torch.get_num_threads() == threads
    assert [figure.bar for figure in figures] == [300, 20, 20]
    assert all(figure.at_most for figure in figures)
    assert oracle.calls == ["detect", "read", "new", "read"] * 2


def test_what_loads_first_is_not_timed() -> None:
    assert evaluation.median_ms([9, 9, 9, 0.001, 0.002, 0.003]) == pytest.approx(2)
    assert evaluation.median_ms([0.004, 0.002]) == pytest.approx(3)


# --------------------------------------------------------------------------------- bars, orderings


def told(novel: float, base: float, mask: float | None = None) -> Scores:
    """AP50 is twice the AP."""
    ap = {"novel": novel, "base": base, "all": (novel + base) / 2}
    boxes = {split: Precision(value, 2 * value) for split, value in ap.items()}
    masks = {
        split: Precision(value, value if mask is None else mask) for split, value in ap.items()
    }
    return Scores(boxes, masks)


def test_the_papers_orderings_and_bars_hold_of_the_papers_table() -> None:
    """LVIS, R50: novel and frequent."""
    table = Table(
        {
            TEXT: told(10.1, 32.5), IMAGE: told(11.2, 11.1), VILD: told(16.1, 28.3),
            ENSEMBLE: told(16.6, 30.3), SUPERVISED: told(12.3, 32.4),
        }
    )  # fmt: skip
    ordered = list(evaluation.orderings(table))
    expected = [6.0, 6.5, 2.0, 17.2, 2.15, 12.3, 1.25]
    assert [figure.value for figure in ordered] == pytest.approx(expected)
    assert all(figure.holds for figure in ordered)
    *_, share = evaluation.bars(table)
    assert share.value == pytest.approx(100 * 16.6 / 12.3)
    assert share.holds


def test_a_reversed_order_falls_short() -> None:
    table = Table({TEXT: told(20, 30), ENSEMBLE: told(10, 29), VILD: told(19, 30)})
    ordered = {f.name: f for f in evaluation.orderings(table) if not isinstance(f, Unmeasured)}
    assert all(figure.holds is False for figure in ordered.values())
    assert f"box AP, novel: {VILD} above {TEXT} by" in ordered


@pytest.mark.parametrize(
    ("scores", "holds"),
    [
        (told(22.5, 37.5, mask=50), [True, True, True]),
        (told(22.4, 37.4, mask=49), [False, False, False]),
    ],
)
def test_bars_of_the_ensemble(scores: Scores, holds: list[bool]) -> None:
    figures = list(evaluation.bars(Table({ENSEMBLE: scores})))
    assert [figure.bar for figure in figures] == [45, 75, None, 10, None]
    assert [figure.holds for figure in figures if figure.bar is not None] == holds
    assert isinstance(figures[-1], Unmeasured)  # there is no upper bound


def test_without_a_row_nothing_is_said_of_it(tmp_path: Path) -> None:
    figures = list(evaluation.orderings(Table({ENSEMBLE: told(1, 2), TEXT: told(1, 1)})))
    said = [figure for figure in figures if not isinstance(figure, Unmeasured)]
    assert [figure.name for figure in said] == [
        f"box AP, novel: {ENSEMBLE} above {TEXT} by",
        f"box AP, all: {ENSEMBLE} above {TEXT} by",
    ]
    assert all(math.isnan(f.value) for f in figures if isinstance(f, Unmeasured))
    clip: Any = Clip()
    (figure,) = evaluation.other_row(Table(), VILD, tmp_path / "vild", clip, tmp_path, exam())
    assert figure.row() == f"| {VILD} | not trained | | |"
    (tmp_path / "vild").mkdir()
    (tmp_path / "vild" / evaluation.WEIGHTS).write_bytes(b"no weights")
    (figure,) = evaluation.other_row(Table(), VILD, tmp_path / "vild", clip, tmp_path, exam())
    assert "model.safetensors" in figure.row()


@pytest.mark.parametrize(
    ("plan", "said"),
    [
        (None, ""),
        ({"step": 1600, "steps": 1600}, ""),
        ({"step": 300, "steps": 1600}, " (step 300 of 1,600)"),
    ],
)
def test_an_unfinished_row_says_so(plan: dict[str, int] | None, said: str, tmp_path: Path) -> None:
    if plan is not None:
        (tmp_path / "plan.json").write_text(json.dumps(plan))
    assert evaluation.progress(tmp_path) == said


def test_a_card_leaves_out_what_has_no_number(tmp_path: Path) -> None:
    figures = [Figure("measured", 1.25, None), Unmeasured.of("missing", "not trained")]
    evaluate.write_card("vild-mini", tmp_path, figures, 60.0)
    assert json.loads((tmp_path / "scores.json").read_text()) == {"measured": 1.25}
    assert "| missing | not trained | | |" in (tmp_path / "card.md").read_text()


def test_every_row_of_the_training_is_asked_for() -> None:
    assert set(evaluation.TITLES) == set(ROWS) - {"ensemble"}
    assert evaluate.EVALUATIONS["vild-mini"] is evaluation.evaluate


# --------------------------------------------------------------------------------------- objectness


def test_each_object_is_hit_once_by_the_best_box() -> None:
    truth = torch.tensor([CAT, DOG])
    boxes = np.array([CAT, part(CAT, 0.9), [0, 0, 9, 9], part(DOG, 0.6)], np.float32)
    assert evaluation.hits(boxes, truth) == [True, False, False, True]
    assert evaluation.hits(boxes[:1], torch.zeros(0, 4)) == [False]
    assert evaluation.hits(boxes[:0], truth) == []


def test_objectness_is_chosen_by_hand() -> None:
    """Two objects; right at 0.9 and 0.6, wrong at 0.7 and 0.3."""
    oracle = Oracle(coloured()[1])
    oracle.boxes = (CAT, [70.0, 5, 95, 30], DOG, [60.0, 30, 99, 55])
    oracle.objectness = (0.905, 0.705, 0.605, 0.305)
    raw = evaluation.run_to_end(oracle.detect(Image.new("RGB", (SIDE, SIDE))))
    truth = torch.tensor([CAT, DOG])
    points = evaluation.objectness_points([raw, raw], [truth, truth])
    found = {round(point.threshold, 2): point for point in points}
    assert found[0.2] == OperatingPoint(pytest.approx(0.2), 0.5, 1.0, 2.0)
    assert found[0.5] == OperatingPoint(pytest.approx(0.5), pytest.approx(2 / 3), 1.0, 1.0)
    assert found[0.8] == OperatingPoint(pytest.approx(0.8), 1.0, 0.5, 0.0)
    assert found[0.95].f1 == 0
    asked: Any = Exam((scene(("cat", CAT), ("dog", DOG)),), NAMES, frozenset())
    best = evaluation.best_objectness(oracle, asked)  # type: ignore[arg-type]
    assert best.f1 == pytest.approx(0.8)
    assert 0.3 < best.threshold <= 0.61


def test_the_least_cosine_is_chosen_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cat that was asked for, and a dog that nobody named and that is rather a cat than a cow."""

    class Known:
        def detect(self, picture: Image.Image) -> Any:
            yield from ()

        def select(self, raw: Any, names: list[str], thresholds: Any) -> Any:
            assert (thresholds.min_objectness, thresholds.min_cosine) == (0.79, -1)
            place = names.index("cat")
            return SimpleNamespace(
                boxes=np.array([CAT, DOG], np.float32), scores=np.array([0.3, 0.1], np.float32),
                phrases=(place, place),
            )  # fmt: skip

    monkeypatch.setattr(evaluation, "ABSENT", 1)
    monkeypatch.setattr(evaluation, "half_asked", lambda scene, names, chance: ["cat", "cow"])
    exam: Any = Exam((scene(("cat", CAT), ("dog", DOG)),), NAMES, frozenset())
    known: Any = Known()
    found = {round(p.threshold, 2): p for p in evaluation.cosine_points(known, exam)}
    assert (found[0.05].precision, found[0.05].recall, found[0.05].false_boxes) == (0.5, 1, 1)
    assert (found[0.2].precision, found[0.2].recall, found[0.2].false_boxes) == (1, 1, 0)
    assert (found[0.4].recall, found[0.4].f1) == (0, 0)


def test_half_of_a_scene_s_names_are_asked_for_among_others() -> None:
    world = [f"thing {number}" for number in range(40)]
    shown: Any = SimpleNamespace(names=("thing 1", "thing 2", "thing 2", "thing 3"))
    asked = evaluation.half_asked(shown, world, random.Random(0))
    assert len(asked) == len(set(asked)) == 2 + evaluation.ABSENT
    assert len({"thing 1", "thing 2", "thing 3"} & set(asked)) == 2


def test_small_regions_are_not_shown() -> None:
    """The tab's least area holds while the threshold is looked for."""
    oracle = Oracle(coloured()[1])
    oracle.boxes = (CAT, DOG, [0.0, 0, 10, 10], [90.0, 90, 99, 99])
    oracle.objectness = (0.9, 0.8, 0.7, 0.6)
    raw = evaluation.run_to_end(oracle.detect(Image.new("RGB", (SIDE, SIDE))))
    first, *_ = evaluation.objectness_points([raw], [torch.tensor([CAT, DOG])])
    assert (first.precision, first.recall) == (1.0, 1.0)
