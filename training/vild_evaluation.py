"""The paper's table on our world: what vild-mini finds of names it never learnt, beside CLIP itself.

Every figure goes through `models.vild.detector.Detector`, the code that people run, on scenes that
no training saw. Boxes are ranked by the benchmark's rule (`Detector.rank`) and scored by COCO's
average precision (Lin et al. 2014, through pycocotools) with every name of the scenes as a category
that is asked for in every one of them. *Novel* names are those that no row but `supervised` was
taught; the yardstick is CLIP on crops of the ensemble's own regions (Gu et al. 2022, section 3.2).

    python -m training.evaluate vild-mini [--weights runs/vild/ensemble]
    python -m training.vild_evaluation            # where two of the tab's sliders should begin
"""

import argparse
import contextlib
import io
import json
import math
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Literal, ParamSpec, TypeVar

import numpy as np
import torch
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor
from torchvision.transforms.functional import to_pil_image

from models.catalog import ASSETS, TEACHER
from models.clip.encoder import ClipEncoder, load_mini
from models.detection.detections import Detections, encode_mask
from models.errors import WeightsError
from models.jobs import run_to_end
from models.vild.categories import unique_names
from models.vild.checkpoints import load_vild, read_base_names
from models.vild.detector import DEFAULTS, Detector, DetectorDefaults
from models.vild.postprocess import MAX_BOXES, rank_by_class
from models.vild.preprocess import prepare
from models.vild.regions import (
    Picked,
    RawRegions,
    RegionThresholds,
    Vocabulary,
    named_regions,
    original_boxes,
)
from models.vild.teacher import crop_embeddings
from models.vild.text import cosines
from training.clip_evaluation import Figure
from training.glip_evaluation import OperatingPoint, Row, best_point, coco_index, first_hits
from training.vild import ROWS
from training.world.detection import DetectionWorld, Labelled, is_novel

# Torch keeps the last 32 bits of a seed; those of the shards lie elsewhere (a test compares them).
SEED = 6_000_000_000_000
VALIDATION_SEED = SEED + 1_000_000
AT_ONCE = 48  # pictures drawn together; each takes about 4 MB meanwhile
SCENES = 144
CROPPED = 48  # of them CLIP looks at, at a second or more each
RUNS = Path("runs/vild")
WEIGHTS = "model.safetensors"
TEMPLATES = "name"  # as vild-mini learnt them
ABSENT = 10  # names typed beside those of a scene
ENSEMBLE, SUPERVISED = "ViLD-ensemble", "supervised, novel boxes too"
TEXT, VILD, IMAGE = "ViLD-text (w = 0)", "ViLD (w = 0.5)", "ViLD-image"
# The folders of `training.vild`, as the paper calls them.
TITLES = {
    "text": TEXT,
    "vild": VILD,
    "image": IMAGE,
    "supervised": SUPERVISED,
    "weight-0.1": "ViLD (w = 0.1)",
    "weight-1": "ViLD (w = 1)",
    "weight-5": "ViLD (w = 5)",
}
SPLITS = ("novel", "base", "all")
NEW_NAMES = 5  # typed at once
SHOWN = RegionThresholds(min_objectness=0.0)  # as many boxes as the tab may show

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True)
class Unmeasured(Figure):
    """A figure that there is no number for, and `why`."""

    why: str = "not trained"

    def row(self) -> str:
        return f"| {self.name} | {self.why} | | |"

    @staticmethod
    def of(name: str, why: str) -> "Unmeasured":
        return Unmeasured(name, math.nan, None, why=why)


# ------------------------------------------------------------------------------------------- scenes


@dataclass(frozen=True)
class Scene:
    """A picture and its plainly visible objects: boxes (B, 4) xyxy pixels, masks (B, H, W), names."""

    picture: Image.Image
    boxes: Tensor
    masks: Tensor
    names: tuple[str, ...]


@dataclass(frozen=True)
class Exam:
    """Scenes, and all names that occur in any of them, which are asked for in each.

    Attributes:
        novel: those of `names` that training never named.
    """

    scenes: tuple[Scene, ...]
    names: tuple[str, ...]
    novel: frozenset[str]

    @cached_property
    def truth(self) -> COCO:
        """COCO's data set of boxes and masks; category i + 1 is `names[i]`."""
        category = {name: number for number, name in enumerate(self.names, 1)}
        boxes = [
            {
                "image_id": image,
                "category_id": category[name],
                "bbox": xywh(box),
                "segmentation": encode_mask(mask.numpy()),
            }
            for image, scene in enumerate(self.scenes, 1)
            for box, mask, name in zip(scene.boxes.tolist(), scene.masks, scene.names, strict=True)
        ]
        kinds = [{"id": number, "name": name} for name, number in category.items()]
        return coco_index(self.images, kinds, boxes)

    @property
    def images(self) -> list[Row]:
        return [
            {"id": image, "width": scene.picture.width, "height": scene.picture.height}
            for image, scene in enumerate(self.scenes, 1)
        ]

    def members(self, split: str) -> np.ndarray:
        """(K,) bool: which names belong to "novel", "base" or "all"."""
        novel = np.array([name in self.novel for name in self.names])
        return {"novel": novel, "base": ~novel, "all": novel | True}[split]

    def first(self, count: int) -> "Exam":
        """The same names in the first `count` scenes only."""
        return replace(self, scenes=self.scenes[:count])


def drawn_exam(world: DetectionWorld, count: int, seed: int) -> Exam:
    """`count` scenes of a world; the same seed gives the same."""
    labelled: list[Labelled] = []
    for start in range(0, count, AT_ONCE):
        labelled += world.sample(min(AT_ONCE, count - start), seed + start)
    concepts = world.concepts
    scenes = tuple(
        Scene(
            to_pil_image(one.picture), one.boxes, one.masks,
            tuple(concepts[index].name for index in one.concept.tolist()),
        )
        for one in labelled
    )  # fmt: skip
    shown = {name for scene in scenes for name in scene.names}
    novel = frozenset(c.name for c in concepts if is_novel(c) and c.name in shown)
    return Exam(scenes, tuple(unique_names(sorted(shown))), novel)


def xywh(box: Sequence[float]) -> list[float]:
    left, top, right, bottom = box
    return [left, top, right - left, bottom - top]


# ----------------------------------------------------------------------------------------- detectors


def load_detector(directory: Path, clip: ClipEncoder, folder: Path | None = None) -> Detector:
    """The detector of a folder as the app lends it, in single precision.

    Args:
        folder: where embeddings of names are kept; None is the app's cache.

    Raises:
        WeightsError: the folder has no ViLD of ours.
    """
    path = directory / WEIGHTS
    model = load_vild(path, tower=ASSETS / TEACHER / "model.safetensors")
    defaults = DetectorDefaults(templates=TEMPLATES)
    return Detector(directory.name, model, clip, read_base_names(path), defaults, folder)


def progress(directory: Path) -> str:
    """How far an unfinished training has come, as its plan says; nothing of a finished one."""
    plan = directory / "plan.json"
    if not plan.is_file():
        return ""
    told = json.loads(plan.read_text())
    if told["step"] >= told["steps"]:
        return ""
    return f" (step {told['step']:,} of {told['steps']:,})"


def answers(detector: Detector, exam: Exam, vocabulary: Vocabulary) -> list[Detections]:
    """What is found in each scene, masks too."""
    return [
        detector.rank(run_to_end(detector.detect(scene.picture)), vocabulary, masks=True)
        for scene in exam.scenes
    ]


@torch.inference_mode()
def clip_vectors(detector: Detector, raw: RawRegions) -> Tensor:
    """What CLIP itself says of the crops of all regions: (N, D)."""
    picture = raw.sight.picture.float() / 255
    return crop_embeddings(detector.clip, picture, torch.tensor(raw.read_boxes))


@torch.inference_mode()
def named_by_clip(
    detector: Detector, raw: RawRegions, seen: Tensor, vocabulary: Vocabulary, objectness: bool
) -> Detections:
    """Regions under the names that CLIP gives their crops, ranked by the same rule.

    Args:
        seen: (N, D) from `clip_vectors`.
        objectness: a region's score is the geometric mean of CLIP's and the proposal network's,
            without which CLIP does not know an object from a part of one.
    """
    scores = (cosines(seen, vocabulary.text) * detector.clip.logit_scale).softmax(dim=1)
    if objectness:
        scores = (scores * torch.tensor(raw.objectness)[:, None]).sqrt()
    best = rank_by_class(torch.tensor(raw.read_boxes), scores)
    picked = Picked(best.regions.numpy(), best.classes.numpy(), best.scores.numpy())
    return named_regions(raw, picked, vocabulary, detector.masks(raw, picked.rows))


# --------------------------------------------------------------------------------- average precision


@dataclass(frozen=True)
class Precision:
    """COCO's average precision in percent, the mean over names: over the IoU thresholds 0.5, 0.55
    .. 0.95, and at 0.5 only."""

    ap: float
    ap50: float


@dataclass(frozen=True)
class Scores:
    """Of one row, by split: of its boxes and of its masks."""

    boxes: Mapping[str, Precision]
    masks: Mapping[str, Precision]

    def figures(self, title: str) -> Iterator[Figure]:
        """The row of the paper's table."""
        for split in SPLITS:
            yield Figure(f"{title}: box AP50, {split}", self.boxes[split].ap50, None)
            yield Figure(f"{title}: box AP, {split}", self.boxes[split].ap, None)
            yield Figure(f"{title}: mask AP, {split}", self.masks[split].ap, None)


def scored(exam: Exam, found: Sequence[Detections]) -> Scores:
    """Average precision of what was found in each scene; `phrases` are places in `exam.names`.

    Raises:
        ValueError: no object of the scenes is novel, or none is base.
    """
    rows = [
        {"image_id": image, "category_id": phrase + 1, "bbox": xywh(box), "score": score,
         "segmentation": mask}
        for image, detections in enumerate(found, 1)
        for box, score, phrase, mask in zip(
            detections.boxes.tolist(), detections.scores.tolist(), detections.phrases,
            detections.masks or (), strict=True,
        )
    ]  # fmt: skip
    return Scores(average_precision(exam, rows, "bbox"), average_precision(exam, rows, "segm"))


def average_precision(
    exam: Exam, rows: Sequence[Row], kind: Literal["bbox", "segm"]
) -> dict[str, Precision]:
    """By split; `rows` are COCO's results. Raises ValueError as `scored`."""
    found = coco_index(exam.truth.dataset["images"], exam.truth.dataset["categories"], rows)
    table = coco_tables(exam.truth, found, kind, [MAX_BOXES])["precision"]
    table = table[:, :, :, 0, 0]  # (IoU, recall, name); -1 where no object has that name
    there = (table > -1).all((0, 1))
    precisions = {}
    for split in SPLITS:
        chosen = there & exam.members(split)
        if not chosen.any():
            raise ValueError(f"no object is {split}, so nothing can be measured")
        by_iou = table[:, :, chosen].mean((1, 2))
        precisions[split] = Precision(100 * float(by_iou.mean()), 100 * float(by_iou[0]))
    return precisions


def coco_tables(
    truth: COCO, found: COCO, kind: str, most: Sequence[int], by_name: bool = True
) -> Mapping[str, np.ndarray]:
    """COCOeval's "precision" (IoU, recall, name, 1, most) and "recall" (IoU, name, 1, most).

    Args:
        most: how many boxes of a picture count; of a picture and name, where `by_name`.
    """
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(truth, found, kind)
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
        evaluation.params.maxDets = list(most)
        evaluation.params.useCats = int(by_name)
        evaluation.evaluate()
        evaluation.accumulate()
    tables: Mapping[str, np.ndarray] = evaluation.eval
    return tables


# --------------------------------------------------------------------------------------- proposals


def proposed(detector: Detector, picture: Image.Image) -> tuple[Tensor, Tensor]:
    """Where the proposal network sees something: (N, 4) xyxy pixels of the picture, (N,), best
    first."""
    raw, seen = run_to_end(detector.detect(picture)), prepare(picture, detector.model.config)
    with torch.inference_mode():
        boxes, objectness = detector.model.propose(raw.sight.levels, [seen.padded]).of(0)
    return original_boxes(boxes.cpu(), seen.size, seen.original)[1], objectness.cpu()


def proposal_recall(
    exam: Exam, proposals: Sequence[tuple[Tensor, Tensor]], split: str, most: Sequence[int]
) -> list[float]:
    """COCO's average recall in percent (the mean over IoU 0.5 .. 0.95) of a split's objects by the
    best `most` proposals of a picture, whatever their names."""
    members = exam.members(split)
    truth = [
        {**box, "category_id": 1}
        for box in exam.truth.dataset["annotations"]
        if members[box["category_id"] - 1]
    ]
    rows = [
        {"image_id": image, "category_id": 1, "bbox": xywh(box), "score": score}
        for image, (boxes, objectness) in enumerate(proposals, 1)
        for box, score in zip(boxes.tolist(), objectness.tolist(), strict=True)
    ]
    kinds = [{"id": 1, "name": "object"}]
    wanted, found = (coco_index(exam.images, kinds, some) for some in (truth, rows))
    tables = coco_tables(wanted, found, "bbox", most, by_name=False)
    recall = tables["recall"]  # (IoU, 1, 1, most)
    return [100 * float(value) for value in recall.mean(0).ravel()]


# ------------------------------------------------------------------------------------------ figures


@dataclass
class Table:
    """The rows measured so far, by title."""

    rows: dict[str, Scores] = field(default_factory=dict)

    def compared(
        self, name: str, titles: Sequence[str], value: Callable[..., float], bar: float
    ) -> Figure:
        """A figure of several rows; without one of them there is none."""
        missing = [title for title in titles if title not in self.rows]
        if missing:
            return Unmeasured.of(name, f"not measured: no {', no '.join(missing)}")
        unit = "%" if bar else "points"
        return Figure(name, value(*(self.rows[title] for title in titles)), bar, unit)

    def above(self, better: str, worse: str, split: str) -> Figure:
        """By how many points of box AP one row lies above another."""
        return self.compared(
            f"box AP, {split}: {better} above {worse} by",
            (better, worse),
            lambda a, b: a.boxes[split].ap - b.boxes[split].ap,
            0.0,
        )


def evaluate(directory: Path, runs: Path = RUNS, scenes: int = SCENES) -> Iterator[Figure]:
    """All figures: of the ensemble in `directory`, and of every row that `runs` holds.

    Raises:
        WeightsError: `directory` has no ViLD of ours.
    """
    clip = load_mini(ASSETS / TEACHER, torch.device("cpu"), torch.float32)
    exam = drawn_exam(DetectionWorld(), scenes, SEED)
    with tempfile.TemporaryDirectory() as folder:
        ensemble = load_detector(directory, clip, Path(folder))
        names = Figure(f"names asked for in each of {scenes} scenes, {len(exam.novel)} of them "
                       "novel", len(exam.names), None, "names")  # fmt: skip
        yield names
        table = Table()
        yield from measured(table, ENSEMBLE, directory, ensemble, exam)
        for row in ROWS:
            if row in TITLES:
                yield from other_row(table, TITLES[row], runs / row, clip, Path(folder), exam)
        yield from bars(table)
        yield from orderings(table)
        yield from recall_of_proposals(ensemble, exam)
        yield from against_clip(ensemble, exam.first(CROPPED))
        yield from speed(ensemble, exam)


def measured(
    table: Table, title: str, directory: Path, detector: Detector, exam: Exam
) -> Iterator[Figure]:
    """One row of the table, which it is added to."""
    vocabulary = run_to_end(detector.read(exam.names))
    table.rows[title] = scored(exam, answers(detector, exam, vocabulary))
    yield from table.rows[title].figures(title + progress(directory))


def other_row(
    table: Table, title: str, directory: Path, clip: ClipEncoder, folder: Path, exam: Exam
) -> Iterator[Figure]:
    """A row that is not shipped, where it was trained."""
    if not (directory / WEIGHTS).is_file():
        yield Unmeasured.of(title, "not trained")
        return
    try:
        detector = load_detector(directory, clip, folder)
    except WeightsError as error:
        yield Unmeasured.of(title, str(error))
        return
    yield from measured(table, title, directory, detector, exam)


def bars(table: Table) -> Iterator[Figure]:
    """What the ensemble has to reach."""
    ensemble = table.rows[ENSEMBLE]
    boxes, masks = ensemble.boxes, ensemble.masks
    yield Figure("ensemble: box AP50, novel names", boxes["novel"].ap50, 45.0)
    yield Figure("ensemble: box AP50, base names", boxes["base"].ap50, 75.0)
    yield Figure("ensemble: mask AP50, all names", masks["all"].ap50, None)
    yield Figure("ensemble: box AP50 - mask AP50, all names",
                 boxes["all"].ap50 - masks["all"].ap50, 10.0, "points", at_most=True)  # fmt: skip
    yield table.compared(
        f"ensemble's box AP, novel names, of {SUPERVISED}",
        (ENSEMBLE, SUPERVISED),
        lambda a, b: 100 * a.boxes["novel"].ap / b.boxes["novel"].ap,
        70.0,
    )


def orderings(table: Table) -> Iterator[Figure]:
    """The paper's, in points of box AP; zero or more holds."""
    yield table.above(VILD, TEXT, "novel")
    yield table.above(ENSEMBLE, TEXT, "novel")
    yield table.above(ENSEMBLE, VILD, "base")
    yield table.above(VILD, IMAGE, "base")
    for other in (TEXT, IMAGE, VILD):
        yield table.above(ENSEMBLE, other, "all")


def recall_of_proposals(detector: Detector, exam: Exam) -> Iterator[Figure]:
    """How well the network proposes objects of which it never saw a box."""
    proposals = [proposed(detector, scene.picture) for scene in exam.scenes]
    for split in ("novel", "base"):
        most = (100, MAX_BOXES)
        found = proposal_recall(exam, proposals, split, most)
        for count, recall in zip(most, found, strict=True):
            yield Figure(f"average recall of {count} proposals, {split} objects", recall, None)


def against_clip(detector: Detector, exam: Exam) -> Iterator[Figure]:
    """The yardstick: CLIP on crops of the detector's own regions, and its time in the same run."""
    vocabulary = run_to_end(detector.read(exam.names))
    plain, helped, looks, crops, heads = [], [], [], [], []
    for scene in exam.scenes:
        raw, seconds = timed(run_to_end, detector.detect(scene.picture))
        looks.append(seconds)
        seen, seconds = timed(clip_vectors, detector, raw)
        crops.append(seconds)
        heads.append(timed(region_vectors, detector, raw)[1])
        plain.append(named_by_clip(detector, raw, seen, vocabulary, objectness=False))
        helped.append(named_by_clip(detector, raw, seen, vocabulary, objectness=True))
    which = f"the first {len(exam.scenes)} scenes"
    ours = scored(exam, answers(detector, exam, vocabulary))
    yield from ours.figures(f"{ENSEMBLE}, {which}")
    yield from scored(exam, plain).figures(f"CLIP on crops, {which}")
    yield from scored(exam, helped).figures(f"CLIP on crops, by objectness too, {which}")
    look, crop, head = (statistics.median(times) for times in (looks, crops, heads))
    regions = f"{MAX_BOXES} regions"
    yield Figure(f"CLIP on crops of {regions}, a picture", 1000 * crop, None, "ms", True)
    yield Figure(f"ensemble's heads on the same {regions}", 1000 * head, None, "ms", True)
    yield Figure(f"ensemble: a whole picture, {regions} found in it", 1000 * look, None, "ms", True)
    yield Figure(f"CLIP on crops / ensemble's heads, the same {regions}", crop / head, 50.0, "x")
    yield Figure("CLIP on crops / ensemble with the reading of the picture", crop / look, 50.0, "x")


@torch.inference_mode()
def region_vectors(detector: Detector, raw: RawRegions) -> object:
    """The heads alone, on the regions that CLIP was shown."""
    return detector.model.regions(raw.sight.levels, [torch.tensor(raw.read_boxes)])


def speed(detector: Detector, exam: Exam, count: int = 20) -> Iterator[Figure]:
    """Median times on two threads, as the tab does it."""
    vocabulary = run_to_end(detector.read(exam.names[:20]))
    read = run_to_end(detector.read(exam.names[20 : 20 + NEW_NAMES] or exam.names))
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    pictures: list[float] = []
    unread: list[float] = []
    known: list[float] = []
    try:
        for number, scene in enumerate(exam.scenes[: count + 3]):
            raw, first = timed(run_to_end, detector.detect(scene.picture))
            pictures.append(first + timed(detector.select, raw, vocabulary, SHOWN, masks=True)[1])
            typed = [f"{name} number {number}" for name in exam.names[:NEW_NAMES]]
            unread.append(timed(detector.select, raw, typed, SHOWN)[1])
            known.append(timed(detector.select, raw, read, SHOWN)[1])
    finally:
        torch.set_num_threads(threads)
    which = f"{len(vocabulary.names)} names, masks, two threads"
    yield Figure(f"a new picture, {which}", median_ms(pictures), 300.0, "ms", True)
    yield Figure(
        f"{NEW_NAMES} names never read before, the same picture", median_ms(unread), 20.0, "ms",
        True,
    )  # fmt: skip
    yield Figure("other names that were read before", median_ms(known), 20.0, "ms", True)


def median_ms(seconds: Sequence[float]) -> float:
    """Without the first three, if there are more, which load what the others use."""
    return 1000 * statistics.median(seconds[3:] or seconds)


def timed(work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> tuple[R, float]:
    """A result and the seconds that it took."""
    began = time.perf_counter()
    result = work(*args, **kwargs)
    return result, time.perf_counter() - began


# --------------------------------------------------------------------------------------- objectness


def hits(boxes: np.ndarray, truth: Tensor) -> list[bool]:
    """For each box, best first: is it the first to hit some object, whatever its name?"""
    return first_hits(boxes, [0] * len(boxes), [truth])


def objectness_points(raws: Sequence[RawRegions], truth: Sequence[Tensor]) -> list[OperatingPoint]:
    """What the tab would show of pictures for every hundredth of its objectness slider, the other
    sliders at their defaults, and how much of it is right.

    Args:
        truth: boxes (B, 4) of every object of each picture.
    """
    # Everything is ranked by objectness, so that a threshold cuts the list off and changes no more.
    thresholds = RegionThresholds(min_objectness=0.0)
    shown = [raw.rows(thresholds) for raw in raws]
    scores = np.concatenate([raw.objectness[rows] for raw, rows in zip(raws, shown, strict=True)])
    right = np.concatenate(
        [hits(raw.boxes[r], boxes) for raw, r, boxes in zip(raws, shown, truth, strict=True)]
    ).astype(bool)
    return points_at(scores, right, sum(map(len, truth)), len(raws))


def points_at(
    scores: np.ndarray, right: np.ndarray, objects: int, pictures: int
) -> list[OperatingPoint]:
    """What every hundredth lets through of boxes of all `pictures`, which hold `objects`."""
    points = []
    for threshold in np.arange(1, 100) / 100:
        kept = scores >= threshold
        good = int((kept & right).sum())
        false = (int(kept.sum()) - good) / pictures
        points.append(
            OperatingPoint(float(threshold), good / max(1, kept.sum()), good / objects, false)
        )
    return points


def cosine_points(detector: Detector, exam: Exam) -> list[OperatingPoint]:
    """The same for the slider of the cosine, when half of a scene's names are typed among
    `ABSENT` others: what a box shows may then have no name that fits."""
    thresholds = replace(DEFAULTS["vild-mini"].thresholds, min_cosine=-1.0)
    chance, scores, right, objects = random.Random(SEED), [], [], 0
    for scene in exam.scenes:
        names = half_asked(scene, exam.names, chance)
        truth = tuple(scene.boxes[[name == one for one in scene.names]] for name in names)
        raw = run_to_end(detector.detect(scene.picture))
        found = detector.select(raw, names, thresholds)
        scores.append(found.scores)
        right += first_hits(found.boxes, found.phrases, truth)
        objects += sum(map(len, truth))
    return points_at(np.concatenate(scores), np.array(right, bool), objects, len(exam.scenes))


def half_asked(scene: Scene, names: Sequence[str], chance: random.Random) -> list[str]:
    """Half of a scene's names, and `ABSENT` of `names` that are not in it."""
    there = unique_names(scene.names)
    others = [name for name in names if name not in there]
    return chance.sample(there, (len(there) + 1) // 2) + chance.sample(others, ABSENT)


def best_objectness(detector: Detector, exam: Exam) -> OperatingPoint:
    """The objectness that shows boxes of the best F1, names aside."""
    return best_point(points_of(detector, exam), math.inf)


def points_of(detector: Detector, exam: Exam) -> list[OperatingPoint]:
    raws = [run_to_end(detector.detect(scene.picture)) for scene in exam.scenes]
    return objectness_points(raws, [scene.boxes for scene in exam.scenes])


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description="Find the objectness and the least cosine that the tab should begin with, on "
        "validation pictures."
    )
    parser.add_argument("--weights", type=Path, default=ASSETS / "vild-mini")
    parser.add_argument("--pictures", type=int, default=192)
    options = parser.parse_args(arguments)
    clip = load_mini(ASSETS / TEACHER, torch.device("cpu"), torch.float32)
    exam = drawn_exam(DetectionWorld(), options.pictures, VALIDATION_SEED)
    detector = load_detector(options.weights, clip)
    _print("objectness", points_of(detector, exam), 5)
    _print("cosine", cosine_points(detector, exam), 2)


def _print(what: str, points: Sequence[OperatingPoint], every: int) -> None:
    print(f"| {what} | precision | recall | F1 | false boxes a picture |\n|---|---|---|---|---|")
    for point in points[every - 1 :: every]:
        if point.recall > 0:
            print(_told(point))
    print("Best:")
    print(_told(best_point(points, math.inf)))


def _told(point: OperatingPoint) -> str:
    shares = f"{point.precision:.1%} | {point.recall:.1%} | {point.f1:.1%}"
    return f"| {point.threshold:.2f} | {shares} | {point.false_boxes:.2f} |"


if __name__ == "__main__":
    main()
