"""What glip-mini finds, measured on pictures it never saw and, in part, on names without a box.

Every figure goes through `models.glip.grounding.Grounder`, the code that people run. Average
precision is COCO's (Lin et al. 2014, through pycocotools) with every name as a category of its own;
R@1 is Flickr30k Entities' (Plummer et al. 2015): the best box of a phrase overlaps any of its boxes
by an IoU of at least 0.5.

    python -m training.evaluate glip-mini [--weights runs/glip-ablation]
    python -m training.glip_evaluation            # which threshold shows few false boxes
"""

import argparse
import contextlib
import io
import json
import random
import statistics
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor
from torchvision.ops import box_iou
from torchvision.transforms.functional import to_pil_image

from models.catalog import ASSETS
from models.detection.detections import Detections
from models.glip.checkpoints import load_glip_mini
from models.glip.grounding import Grounder, GroundingThresholds
from models.glip.prompts import Prompt, list_prompt
from models.jobs import run_to_end
from training.clip_evaluation import Figure
from training.glip import CONFIGS
from training.world.compose import TINTS
from training.world.concepts import load
from training.world.grounding import PARTS, Annotated, GroundingWorld
from training.world.scenes import Caption
from training.world.sources import FAMILIES

Row = dict[str, Any]  # of a COCO file

# Torch keeps the last 32 bits of a seed; those of the shards lie elsewhere (a test compares them).
SEED = 5_000_000_000_000
VALIDATION_SEED = SEED + 1_000_000
AT_ONCE = 48  # pictures drawn together; each takes about 3 MB meanwhile
ABSENT = 20  # names of a prompt that are not in its picture
OVERLAP = 0.5
MOST_BOXES = 100  # of a picture, as COCO counts
ALL = GroundingThresholds(box=0.0, text=0.0, max_boxes=MOST_BOXES)
WORN = ("glasses", "hat", "beard")
FALSE_BOXES = 0.1  # a picture, for names of what is not there
# The threshold is chosen on other pictures than those that it is judged by.
CAUTION = 0.8
SIZES_TOLD = {"small", "little", "tiny", "big", "large", "huge"}
COLOURS_TOLD = {name for name, _ in TINTS}


@dataclass(frozen=True)
class Asked:
    """A picture, what is asked of it, and what is true.

    Attributes:
        prompt: its phrases' texts are the categories of average precision.
        truth: for each phrase its boxes, (B, 4) float32 xyxy in pixels; none for what isn't there.
        kind: as in `training.world.grounding.KINDS`.
    """

    picture: Image.Image
    prompt: Prompt
    truth: tuple[Tensor, ...]
    kind: str


# --------------------------------------------------------------------------------------- questions


def pictures(world: GroundingWorld, kind: str, count: int, seed: int) -> list[Annotated]:
    """At least `count` annotated pictures, if the seeds give them; exactly so for most kinds."""
    found: list[Annotated] = []
    for start in range(0, count, AT_ONCE):
        found += world.sample(kind, min(AT_ONCE, count - start), seed + start)
    return found


@lru_cache(maxsize=1)
def canonical_names() -> dict[str, str]:
    """Every name that a concept goes by -> its first one."""
    names = {word: concept.name for concept in load() for word in concept.synonyms}
    return names | {concept.name: concept.name for concept in load()}


def words_of(caption: Caption) -> list[str]:
    return [caption.text[phrase.begin : phrase.end] for phrase in caption.phrases]


def asked_by_name(
    examples: Sequence[Annotated], seed: int, names: Sequence[str] | None = None
) -> list[Asked]:
    """The canonical names of what is in a picture, among `ABSENT` that are not, in any order.

    Args:
        names: to take the absent from; None takes what other pictures show, so that each false
            box counts in some category's precision.
    """
    canonical, chance = canonical_names(), random.Random(seed)
    shown = [_shown(example, canonical) for example in examples]
    pool = sorted({name for present in shown for name in present}) if names is None else names
    asked = []
    for example, present in zip(examples, shown, strict=True):
        # Listed names without a box may stand for something covered.
        listed = {canonical[word] for word in words_of(example.caption)}
        wanted = [*present, *_sampled([n for n in pool if n not in listed], chance)]
        chance.shuffle(wanted)
        none = torch.zeros(0, 4)
        truth = tuple(present.get(name, none) for name in wanted)
        asked.append(Asked(_pil(example), list_prompt(wanted), truth, example.kind))
    return asked


def asked_for_absent(examples: Sequence[Annotated], names: Sequence[str], seed: int) -> list[Asked]:
    """`ABSENT` names that are not in the picture, and no other."""
    canonical, chance = canonical_names(), random.Random(seed)
    asked = []
    for example in examples:
        listed = {canonical[word] for word in words_of(example.caption)}
        wanted = _sampled([name for name in names if name not in listed], chance)
        truth = (torch.zeros(0, 4),) * len(wanted)
        asked.append(Asked(_pil(example), list_prompt(wanted), truth, example.kind))
    return asked


def asked_in_words(examples: Iterable[Annotated]) -> list[Asked]:
    """The pictures' own captions with their phrases."""
    asked = []
    for example in examples:
        phrases = example.caption.phrases
        prompt = Prompt.from_spans(example.caption.text, [(p.begin, p.end) for p in phrases])
        truth = tuple(example.boxes[list(p.places)] for p in phrases)
        asked.append(Asked(_pil(example), prompt, truth, example.kind))
    return asked


def asked_for_parts(examples: Iterable[Annotated]) -> list[Asked]:
    """Avatars, asked for the same parts and absent things by their first names."""
    first = {word: part for part, words in PARTS.items() for word in words}
    asked = []
    for example in examples:
        if example.caption.phrases:
            names = [first.get(word, word) for word in words_of(example.caption)]
            truth = tuple(example.boxes[list(p.places)] for p in example.caption.phrases)
            asked.append(Asked(_pil(example), list_prompt(names), truth, example.kind))
    return asked


def _shown(example: Annotated, canonical: dict[str, str]) -> dict[str, Tensor]:
    """Canonical name -> boxes, of what is in the picture."""
    pairs = zip(words_of(example.caption), example.caption.phrases, strict=True)
    return {canonical[word]: example.boxes[list(p.places)] for word, p in pairs if p.places}


def _sampled(names: Sequence[str], chance: random.Random) -> list[str]:
    return chance.sample(names, min(ABSENT, len(names)))


def _pil(example: Annotated) -> Image.Image:
    picture: Image.Image = to_pil_image(example.picture)
    return picture


# ----------------------------------------------------------------------------------------- answers


def load_grounder(directory: Path, device: torch.device | None = None) -> Grounder:
    """The model of a folder as the app lends it, in single precision.

    A training leaves `plan.json` with its preset; without one it is glip-mini.
    """
    plan = directory / "plan.json"
    model = json.loads(plan.read_text())["model"] if plan.is_file() else "mini"
    return load_glip_mini(directory, device or "cpu", torch.float32, CONFIGS[model]())


def answers(
    grounder: Grounder, asked: Iterable[Asked], thresholds: GroundingThresholds = ALL
) -> list[Detections]:
    """What is found for each question."""
    return [
        run_to_end(grounder.ground(one.picture, one.prompt)).select(thresholds) for one in asked
    ]


def recalled(asked: Asked, found: Detections) -> list[bool | None]:
    """For each phrase: does its best box hit one of its boxes? None for what names nothing."""
    hits: list[bool | None] = []
    for index, truth in enumerate(asked.truth):
        if not len(truth):
            hits.append(None)
            continue
        best = [row for row, phrase in enumerate(found.phrases) if phrase == index][:1]
        overlap = box_iou(torch.tensor(found.boxes[best]).reshape(-1, 4), truth)
        hits.append(bool((overlap >= OVERLAP).any()))
    return hits


def matched(asked: Asked, found: Detections) -> list[bool]:
    """For each detection, best first: is it the first to hit some box of its phrase?"""
    return first_hits(found.boxes, found.phrases, asked.truth)


def first_hits(boxes: np.ndarray, phrases: Sequence[int], truth: Sequence[Tensor]) -> list[bool]:
    """For each of `boxes` (N, 4), best first: is it the first to hit some box of its phrase?

    Args:
        truth: for each phrase its boxes (B, 4).
    """
    free = [torch.ones(len(there), dtype=torch.bool) for there in truth]
    hits = []
    for box, phrase in zip(boxes, phrases, strict=True):
        overlap = box_iou(torch.tensor(box)[None], truth[phrase])[0] * free[phrase]
        hit = bool((overlap >= OVERLAP).any())
        if hit:
            free[phrase][overlap.argmax()] = False
        hits.append(hit)
    return hits


# ------------------------------------------------------------------------------- average precision


@dataclass(frozen=True)
class Precision:
    """COCO's average precision, each in [0, 1].

    Attributes:
        ap: mean over the IoU thresholds 0.5, 0.55 .. 0.95 and over categories that have a box.
        ap50: at 0.5 only.
        of_category: `ap50` of each category that has a box, by its id.
    """

    ap: float
    ap50: float
    of_category: dict[int, float]


def coco_precision(
    truth: COCO, found: Sequence[Row], image_ids: Sequence[int] | None = None
) -> Precision:
    """Average precision of detections.

    Args:
        found: {"image_id", "category_id", "bbox": [x, y, width, height], "score"} each.
        image_ids: only of these; default all of `truth`.

    Raises:
        ValueError: `truth` has no box there.
    """
    with contextlib.redirect_stdout(io.StringIO()):
        results = coco_index(truth.dataset["images"], truth.dataset["categories"], found)
        evaluation = COCOeval(truth, results, "bbox")
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
        evaluation.params.maxDets = [MOST_BOXES]
        if image_ids is not None:
            evaluation.params.imgIds = sorted(image_ids)
        evaluation.evaluate()
        evaluation.accumulate()
    table = evaluation.eval["precision"][:, :, :, 0, 0]  # (IoU, recall, category), -1: no box
    present = (table > -1).all((0, 1))
    if not present.any():
        raise ValueError("no box is true, so nothing can be measured")
    mean = table[:, :, present].mean(1)  # (IoU, category)
    ids = [category for category, has in zip(evaluation.params.catIds, present) if has]
    return Precision(
        float(mean.mean()), float(mean[0].mean()), dict(zip(ids, mean[0].tolist(), strict=True))
    )


def coco_index(
    images: Sequence[Row],
    categories: Sequence[Row],
    boxes: Sequence[Row],
) -> COCO:
    """A data set in memory; `boxes` get ids, areas and, unless told, `iscrowd` 0."""
    coco = COCO()
    annotations = []
    for number, box in enumerate(boxes, 1):  # pycocotools takes 0 for "unmatched"
        _, _, width, height = np.asarray(box["bbox"]).tolist()
        annotations.append({"iscrowd": 0, "area": width * height, **box, "id": number})
    coco.dataset = {
        "images": list(images), "categories": list(categories), "annotations": annotations,
    }  # fmt: skip
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    return coco


def precision_by_name(
    asked: Sequence[Asked], found: Sequence[Detections]
) -> tuple[Precision, dict[str, float]]:
    """Average precision with every name of the prompts as a category; AP50 of each by name."""
    names = sorted({name for one in asked for name in one.prompt.names})
    category = {name: number for number, name in enumerate(names, 1)}
    images, boxes, results = [], [], []
    for image, (one, detections) in enumerate(zip(asked, found, strict=True), 1):
        width, height = one.picture.size
        images.append({"id": image, "width": width, "height": height})
        for name, truth in zip(one.prompt.names, one.truth, strict=True):
            boxes += [_row(image, category[name], box) for box in truth.tolist()]
        for box, score, phrase in zip(
            detections.boxes.tolist(), detections.scores.tolist(), detections.phrases, strict=True
        ):
            number = category[one.prompt.names[phrase]]
            results.append(_row(image, number, box) | {"score": score})
    kinds = [{"id": number, "name": name} for name, number in category.items()]
    precision = coco_precision(coco_index(images, kinds, boxes), results)
    return precision, {names[i - 1]: value for i, value in precision.of_category.items()}


def _row(image: int, category: int, box: Sequence[float]) -> Row:
    left, top, right, bottom = box
    bbox = [left, top, right - left, bottom - top]
    return {"image_id": image, "category_id": category, "bbox": bbox}


# ----------------------------------------------------------------------------------------- figures


def evaluate(directory: Path) -> Iterator[Figure]:
    """All figures of glip-mini, or of a folder of weights for its architecture."""
    grounder = load_grounder(directory)
    world = GroundingWorld()
    yield from detection(grounder, world)
    yield from grounding(grounder, world)
    yield from worn(grounder, world)
    yield from speed(grounder, world)
    yield from without_boxes(grounder)
    yield from other_drawings(grounder)


def detection(grounder: Grounder, world: GroundingWorld, count: int = 192) -> Iterator[Figure]:
    """Names among absent ones, and absent ones alone."""
    examples = pictures(world, "names", count, SEED)
    asked = asked_by_name(examples, SEED)
    precision, _ = precision_by_name(asked, answers(grounder, asked))
    which = f"{len(asked)} scenes, own names and {ABSENT} absent"
    yield Figure(f"AP50, {which}", 100 * precision.ap50, 85.0)
    yield Figure("AP, the same", 100 * precision.ap, 55.0)
    names = [world.concepts[index].name for index in world.drawn.tolist()]
    absent = asked_for_absent(examples, names, SEED + 1)
    shown = answers(grounder, absent, grounder.defaults)
    yield Figure(
        f"false boxes in 100 scenes ({len(absent)} measured), {ABSENT} absent names, "
        f"threshold {grounder.defaults.box:.2f}",
        100 * statistics.fmean(map(len, shown)), 100 * FALSE_BOXES, "boxes", at_most=True,
    )  # fmt: skip


def grounding(grounder: Grounder, world: GroundingWorld, count: int = 128) -> Iterator[Figure]:
    """R@1 of phrases in captions, and of those that need more than the noun."""
    hits: dict[str, list[bool]] = {}
    for place, kind in enumerate(("caption", "contrast", "relation")):
        asked = asked_in_words(pictures(world, kind, count, SEED + 10_000 * (1 + place)))
        for one, found in zip(asked, answers(grounder, asked), strict=True):
            for index, hit in enumerate(recalled(one, found)):
                if hit is not None:
                    hits.setdefault(needs(one, index), []).append(hit)
    everything = [hit for group in hits.values() for hit in group]
    needing = [hit for need, group in hits.items() if need != "noun" for hit in group]
    yield Figure(f"R@1 of {len(everything)} phrases in captions with colours, sizes, counts, "
                 "relations", _percent(everything), 85.0)  # fmt: skip
    yield Figure(f"R@1, the {len(needing)} that need the adjective or the relation",
                 _percent(needing), 65.0)  # fmt: skip
    for need, group in sorted(hits.items()):
        yield Figure(f"R@1, the {len(group)} that need the {need}", _percent(group), None)


def needs(asked: Asked, index: int) -> str:
    """What tells a phrase's object from the others: "size", "colour", "relation" or the "noun"."""
    if asked.kind == "relation" and index == 0:
        return "relation"
    if asked.kind != "contrast":
        return "noun"
    adjective = asked.prompt.names[index].split()[1]  # after the article
    if adjective in SIZES_TOLD:
        return "size"
    if adjective in COLOURS_TOLD:
        return "colour"
    raise ValueError(f"“{asked.prompt.names[index]}” has no size and no colour")


def worn(grounder: Grounder, world: GroundingWorld, count: int = 160) -> Iterator[Figure]:
    """What faces wear."""
    asked = asked_for_parts(pictures(world, "avatar", count, SEED + 50_000))
    _, by_name = precision_by_name(asked, answers(grounder, asked))
    mean = statistics.fmean(by_name[name] for name in WORN)
    yield Figure(f"AP50 of {', '.join(WORN)}, {len(asked)} avatars", 100 * mean, 80.0)
    for name in WORN:
        yield Figure(f"AP50 of {name}", 100 * by_name[name], None)


def without_boxes(grounder: Grounder, count: int = 144) -> Iterator[Figure]:
    """Concepts of which no picture with a box was ever shown, among others of these."""
    asked = asked_by_name(
        pictures(GroundingWorld(held_out=True), "names", count, SEED + 60_000), SEED
    )
    precision, by_name = precision_by_name(asked, answers(grounder, asked))
    yield Figure(
        f"AP50, {len(by_name)} concepts never given boxes, {len(asked)} scenes, own names and "
        f"{ABSENT} absent, all held out", 100 * precision.ap50, 40.0,
    )  # fmt: skip
    yield Figure("AP, the same", 100 * precision.ap, None)


def other_drawings(grounder: Grounder, count: int = 96) -> Iterator[Figure]:
    """Known concepts, drawn by families that no training picture comes from."""
    unseen = tuple(family for family in FAMILIES if not family.trained)
    asked = asked_by_name(
        pictures(GroundingWorld(families=unseen), "names", count, SEED + 70_000), SEED
    )
    precision, _ = precision_by_name(asked, answers(grounder, asked))
    names = " and ".join(family.name for family in unseen)
    yield Figure(f"AP50, drawn by {names}, {len(asked)} scenes", 100 * precision.ap50, None)


def speed(grounder: Grounder, world: GroundingWorld, count: int = 20) -> Iterator[Figure]:
    """Median times on two threads."""
    asked = asked_by_name(pictures(world, "names", count + 3, SEED + 80_000), SEED)
    again = asked_by_name(pictures(world, "names", count + 3, SEED + 80_000), SEED + 1)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    new: list[float] = []
    cached: list[float] = []
    try:
        for first, second in zip(asked, again, strict=True):
            for one, times in ((first, new), (second, cached)):
                began = time.perf_counter()
                answers(grounder, [one])
                times.append(1000 * (time.perf_counter() - began))
    finally:
        torch.set_num_threads(threads)
    which = f"about {ABSENT + 4} names, two threads"
    yield Figure(
        f"a new picture and prompt, {which}", statistics.median(new[3:]), 400.0, "ms", True
    )
    yield Figure(
        "a new prompt on the same picture", statistics.median(cached[3:]), None, "ms", True
    )


def _percent(hits: Sequence[bool]) -> float:
    return 100 * statistics.fmean(hits)


# --------------------------------------------------------------------------------------- threshold


@dataclass(frozen=True)
class OperatingPoint:
    """What a threshold lets through: shares in [0, 1]; false boxes a picture of absent names."""

    threshold: float
    precision: float
    recall: float
    false_boxes: float

    @property
    def f1(self) -> float:
        both = self.precision + self.recall
        return 2 * self.precision * self.recall / both if both else 0.0


def operating_points(
    asked: Sequence[Asked], found: Sequence[Detections], absent: Sequence[Detections]
) -> list[OperatingPoint]:
    """One for every hundredth.

    Args:
        asked, found: names among absent ones, and all that was found for them.
        absent: all that was found for absent names alone.
    """
    scores = np.concatenate([one.scores for one in found])
    hits = np.array(
        [hit for pair in zip(asked, found, strict=True) for hit in matched(*pair)], bool
    )
    wrong = np.concatenate([one.scores for one in absent])
    true = sum(len(boxes) for one in asked for boxes in one.truth)
    points = []
    for threshold in np.arange(5, 100) / 100:
        shown = scores >= threshold
        right = int((shown & hits).sum())
        precision = right / max(1, int(shown.sum()))
        false = float((wrong >= threshold).sum()) / len(absent)
        points.append(OperatingPoint(float(threshold), precision, right / true, false))
    return points


def best_point(points: Sequence[OperatingPoint], most_false: float) -> OperatingPoint:
    """The best F1 among those with at most `most_false` false boxes a picture.

    Raises ValueError if there is none.
    """
    allowed = [point for point in points if point.false_boxes <= most_false]
    if not allowed:
        raise ValueError(f"every threshold shows more than {most_false} false boxes a picture")
    return max(allowed, key=lambda point: point.f1)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description="Find the threshold that a model should begin with, on validation pictures."
    )
    parser.add_argument("--weights", type=Path, default=ASSETS / "glip-mini")
    parser.add_argument("--pictures", type=int, default=192)
    options = parser.parse_args(arguments)
    grounder, world = load_grounder(options.weights), GroundingWorld()
    examples = pictures(world, "names", options.pictures, VALIDATION_SEED)
    asked = asked_by_name(examples, VALIDATION_SEED)
    names = [world.concepts[index].name for index in world.drawn.tolist()]
    absent = asked_for_absent(examples, names, VALIDATION_SEED + 1)
    points = operating_points(asked, answers(grounder, asked), answers(grounder, absent))
    print("| threshold | precision | recall | F1 | false boxes a picture |\n|---|---|---|---|---|")
    for point in points[::5]:
        print(_told(point))
    print(f"Best with at most {CAUTION * FALSE_BOXES:.2f} false boxes a picture:")
    print(_told(best_point(points, CAUTION * FALSE_BOXES)))


def _told(point: OperatingPoint) -> str:
    shares = f"{point.precision:.1%} | {point.recall:.1%} | {point.f1:.1%}"
    return f"| {point.threshold:.2f} | {shares} | {point.false_boxes:.3f} |"


if __name__ == "__main__":
    main()
