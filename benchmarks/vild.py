"""What open-vocabulary detection costs with ViLD, beside CLIP on crops, as Markdown.

    python -m benchmarks.vild
    python -m benchmarks.vild --quick --only regions

The R50 has random weights. The baselines are what one would write without ViLD or without this
repository: CLIP on both crops of every region, and torchvision's `roi_align` level by level. Times
are wall time of PyTorch's own number of threads, medians of what runs in turn in one process, once
for nothing before. Memory is what a process of its own grows by beyond the weights.
"""

from __future__ import annotations

import argparse
import itertools
import math
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path

import numpy as np
import psutil
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import roi_align

from benchmarks.measure import (
    at_least,
    at_most,
    fresh,
    in_turn,
    machine,
    megabytes,
    milliseconds,
    peak,
    print_table,
)
from models.catalog import ASSETS, CATALOG, TEACHER, LoadContext
from models.clip.encoder import ClipEncoder, load_mini
from models.errors import AtelierError
from models.jobs import run_to_end
from models.vild.categories import TEMPLATES, CategoryEmbeddings, name_list
from models.vild.config import VildConfig
from models.vild.detector import Detector
from models.vild.preprocess import prepare
from models.vild.regions import RawRegions, RegionThresholds, Score, Sight, Vocabulary
from models.vild.roi import region_features, region_levels
from models.vild.teacher import crop_embeddings
from models.vild.vild import Vild

Row = tuple[str, ...]

# What issue 6 asks for: the ratio at least, milliseconds at most.
AGAINST_CLIP, PICTURE, NAMES, SLIDER = 50.0, 300.0, 20.0, 50.0
MASKS = 25  # regions that are shown with one


@dataclass(frozen=True)
class Scale:
    """How much is measured.

    Attributes:
        config: the large network.
        repeats: of which the median is taken; ten times as many of what takes milliseconds.
        boxes: whose features are read.
        regions, names: what is selected from.
        read: names that CLIP's text tower reads, per template set.
    """

    config: VildConfig
    repeats: int
    boxes: int
    regions: int
    names: int
    read: int

    @classmethod
    def full(cls) -> Scale:
        """The reference's own input, and LVIS."""
        return cls(VildConfig.r50_ensemble(), 3, 1000, 1000, 1203, 50)

    @classmethod
    def quick(cls) -> Scale:
        config = VildConfig.r50_ensemble()
        proposals = replace(config.proposals, post_nms=100)
        small = replace(config, max_size=256, size_multiple=256, proposals=proposals)
        return cls(small, 1, 200, 1000, 1203, 10)


# --- what is measured on ---------------------------------------------------------------------


def random_vild(config: VildConfig) -> Vild:
    """Seeded weights."""
    torch.manual_seed(0)
    return Vild(config).requires_grad_(False).eval()


def noise(width: int, height: int, seed: int) -> Image.Image:
    random = np.random.default_rng(seed)
    return Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8))


def random_boxes(count: int, side: int) -> Tensor:
    """(N, 4) xyxy of all sizes inside a picture, a few of them smaller than a cell."""
    random = torch.Generator().manual_seed(0)
    spread = math.log(side / 2 / 4)
    size = 4 * torch.exp(spread * torch.rand(count, 2, generator=random))
    low = torch.rand(count, 2, generator=random) * (side - size)
    return torch.cat([low, low + size], 1)


@cache  # nobody writes to it
def clip_mini() -> ClipEncoder:
    return load_mini(ASSETS / TEACHER, torch.device("cpu"), torch.float32)


def mini_detector(folder: Path) -> Detector:
    """vild-mini where it is, else one of its shape; names are kept in `folder`."""
    row = CATALOG.get("vild-mini")
    if row is not None:
        try:
            found: Detector = row.load(row, LoadContext(torch.device("cpu"), torch.float32))
            return Detector(
                found.name, found.model, found.clip, found.base_names, found.defaults, folder
            )
        except AtelierError as error:
            print(f"\n{error}")
    name = "vild-mini's shape, random weights"
    return Detector(name, random_vild(VildConfig.mini()), clip_mini(), ["dog"], folder=folder)


# --- CLIP on crops ---------------------------------------------------------------------------


def crop_rows(repeats: int) -> Iterator[Row]:
    """Vectors of the same regions of one picture."""
    with tempfile.TemporaryDirectory() as folder:
        detector = mini_detector(Path(folder))
    seeds = itertools.count(1)
    raw = run_to_end(detector.detect(noise(256, 256, 0)))
    boxes, picture = torch.tensor(raw.read_boxes), raw.sight.picture.float() / 255
    works: dict[str, Callable[[], object]] = {
        "CLIP on two crops each": partial(crop_embeddings, detector.clip, picture, boxes),
        "ViLD, the picture read and proposed in, too": lambda: run_to_end(
            detector.detect(noise(256, 256, next(seeds)))
        ),
        "ViLD's heads": partial(detector.model.regions, raw.sight.levels, [boxes]),
    }
    with torch.inference_mode():
        seconds = in_turn(works, repeats, time.perf_counter)
    yield f"{detector.name}, {len(raw)} regions", "time", "CLIP on crops / this", "bar"
    baseline = next(iter(seconds.values()))
    for name, cost in seconds.items():
        ratio = baseline / cost
        bar = at_least(ratio, AGAINST_CLIP) if cost != baseline else ""
        yield name, milliseconds(cost), f"{ratio:.1f}x", bar


# --- features of regions ---------------------------------------------------------------------


def random_levels(config: VildConfig, side: int) -> list[Tensor]:
    """The pyramid of one picture."""
    random = torch.Generator().manual_seed(0)
    shapes = [(1, config.channels, -(-side // s), -(-side // s)) for s in config.strides]
    return [torch.randn(*shape, generator=random) for shape in shapes]


def ours(levels: Sequence[Tensor], boxes: Tensor, config: VildConfig) -> Tensor:
    return region_features(levels, [boxes], config.roi, config.min_level, config.canonical_size)


def torchvisions(levels: Sequence[Tensor], boxes: Tensor, config: VildConfig) -> Tensor:
    """`roi_align` of each level's boxes; it stretches what is smaller than a cell."""
    level = region_levels(boxes, config.canonical_size, config.min_level, config.max_level)
    shape = (len(boxes), config.channels, config.roi, config.roi)
    found = levels[0].new_zeros(shape)
    for number, features in enumerate(levels, config.min_level):
        mine = (level == number).nonzero()[:, 0]
        found[mine] = roi_align(
            features, [boxes[mine]], config.roi, 1 / 2**number, sampling_ratio=1, aligned=False
        )
    return found


def cells_across(boxes: Tensor, config: VildConfig) -> Tensor:
    """(N,) the shorter side of boxes in cells of the level that they are read from."""
    level = region_levels(boxes, config.canonical_size, config.min_level, config.max_level)
    return (boxes[:, 2:] - boxes[:, :2]).amin(1) / 2**level


def region_rows(
    configs: Sequence[tuple[VildConfig, int]], count: int, repeats: int
) -> Iterator[Row]:
    yield (
        "features of regions", "torchvision", "ours", "torchvision / ours",
        "differ by, a cell or larger", "smaller than a cell", "differ by, those",
    )  # fmt: skip
    for config, side in configs:
        levels, boxes = random_levels(config, side), random_boxes(count, side)
        works = {
            "theirs": partial(torchvisions, levels, boxes, config),
            "ours": partial(ours, levels, boxes, config),
        }
        seconds = in_turn(works, repeats, time.perf_counter)
        with torch.no_grad():
            apart = (works["theirs"]() - works["ours"]()).abs().amax((1, 2, 3))
        small = cells_across(boxes, config) < 1
        yield (
            f"{config.name}, {count:,} regions, {side} px",
            milliseconds(seconds["theirs"]), milliseconds(seconds["ours"]),
            f"{seconds['theirs'] / seconds['ours']:.2f}x",
            largest(apart[~small]), f"{int(small.sum())}", largest(apart[small]),
        )  # fmt: skip


def largest(values: Tensor) -> str:
    return f"{float(values.max()):.1e}" if len(values) else ""


# --- the whole network -----------------------------------------------------------------------


def stages(vild: Vild, side: int) -> dict[str, Callable[[], object]]:
    """The parts of one picture's detection, each on what the one before it found."""
    pixels = prepare(noise(side, side, 0), vild.config).pixels
    with torch.inference_mode():
        levels = vild.encode_image(pixels)
        boxes, _ = vild.propose(levels, [(side, side)]).of(0)
    return {
        "backbone and pyramid": partial(vild.encode_image, pixels),
        "proposals": partial(vild.propose, levels, [(side, side)]),
        f"{len(boxes):,} regions": partial(vild.regions, levels, [boxes]),
        f"masks of {MASKS}": partial(vild.masks, levels, [boxes[:MASKS]]),
    }


def memory_of(config: VildConfig) -> int:
    """Bytes by which this process grows at most in a detection without masks."""
    vild, side = random_vild(config), config.max_size
    small = prepare(noise(64, 64, 0), replace(config, max_size=64, size_multiple=64))
    pixels = prepare(noise(side, side, 0), config).pixels
    with torch.inference_mode():
        vild(small.pixels, [small.padded])  # what the first run loads is not counted
        with peak(psutil.Process()) as watch:
            vild(pixels, [(side, side)])
    return watch.growth


def network_rows(config: VildConfig, repeats: int) -> Iterator[Row]:
    vild, side = random_vild(config), config.max_size
    works = stages(vild, side)
    with torch.inference_mode():
        seconds = in_turn(works, repeats, time.perf_counter)
    weights = sum(tensor.nbytes for tensor in vild.state_dict().values())
    yield f"{config.name}, random weights, {side} x {side}", "time", "memory"
    yield "weights", "", megabytes(weights)
    for name, cost in seconds.items():
        yield name, milliseconds(cost), ""
    del vild, works
    yield "all of it", milliseconds(sum(seconds.values())), megabytes(fresh(memory_of, config))


# --- names -----------------------------------------------------------------------------------


def read_names(embeddings: CategoryEmbeddings, names: Sequence[str]) -> Tensor:
    return run_to_end(embeddings.encode(names))


def name_rows(clip: ClipEncoder, count: int, repeats: int) -> Iterator[Row]:
    """From names to vectors: read by CLIP, from the disk, from memory."""
    numbers = itertools.count()
    known = [f"thing {i}" for i in range(count)]

    def new_names() -> list[str]:
        number = next(numbers)
        return [f"new {number} {i}" for i in range(count)]

    yield f"{count} names, {clip.name}", "new", "from the disk", "from memory"
    for templates in TEMPLATES.values():
        with tempfile.TemporaryDirectory() as folder:
            opened = partial(CategoryEmbeddings, clip, templates, Path(folder))
            warm = opened()
            read_names(warm, known)
            works: dict[str, Callable[[], object]] = {
                "new": lambda warm=warm: read_names(warm, new_names()),  # type: ignore[misc]
                "disk": lambda opened=opened: read_names(opened(), known),  # type: ignore[misc]
                "memory": partial(read_names, warm, known),
            }
            seconds = in_turn(works, repeats, time.perf_counter)
        cells = [milliseconds(cost) for cost in seconds.values()]
        yield f"{templates.title}, {len(templates.templates)} sentences a name", *cells


# --- what moves with a slider ----------------------------------------------------------------


def raw_regions(detector: Detector, count: int, dim: int, side: int = 800) -> RawRegions:
    """Regions about a few things, as a detector finds them: many on each."""
    random = np.random.default_rng(0)
    centres = random.uniform(0.1 * side, 0.9 * side, (60, 2))[random.integers(60, size=count)]
    centres += random.normal(0, 6, (count, 2))
    halves = random.uniform(20, 90, (count, 2))
    boxes = np.hstack([centres - halves, centres + halves]).clip(0, side).astype(np.float32)

    def units() -> np.ndarray:
        vectors = torch.from_numpy(random.standard_normal((count, dim)).astype(np.float32))
        return F.normalize(vectors, dim=1).numpy()

    return RawRegions(
        detector=detector.name, boxes=boxes, read_boxes=boxes.copy(),
        objectness=np.sort(random.uniform(0, 1, count).astype(np.float32))[::-1].copy(),
        embeddings=units(), image_embeddings=units(), width=side, height=side,
        read_size=(side, side), sight=Sight([], torch.zeros(3, side, side, dtype=torch.uint8)),
    )  # fmt: skip


def random_vocabulary(count: int, dim: int) -> Vocabulary:
    """LVIS's names, as many as wanted, with random vectors."""
    random = torch.Generator().manual_seed(0)
    names = name_list("lvis")[:count]
    text = F.normalize(torch.randn(len(names), dim, generator=random), dim=1)
    base = torch.rand(len(names), generator=random) < 0.7
    return Vocabulary(names, tuple(range(len(names))), base, text, text[0])


def slider_rows(regions: int, names: int, repeats: int, dim: int = 512) -> Iterator[Row]:
    """`Detector.select`: from a slider's value to detections."""
    with tempfile.TemporaryDirectory() as folder:
        detector = mini_detector(Path(folder))
    raw, vocabulary = raw_regions(detector, regions, dim), random_vocabulary(names, dim)
    scores: tuple[Score, ...] = ("cosine", "softmax")
    works = {
        f"{score}, objectness {least}, NMS {nms}, at most {most} boxes": partial(
            detector.select, raw, vocabulary,
            RegionThresholds(max_boxes=most, nms=nms, min_objectness=least), score,
        )
        for score, (least, nms, most) in itertools.product(
            scores, ((0.9, 0.6, 25), (0.0, 0.6, 25), (0.0, 0.9, 1000))
        )
    }  # fmt: skip
    seconds = in_turn(works, repeats, time.perf_counter)
    yield f"{len(raw):,} regions, {len(vocabulary.names):,} names", "time", "bar", "boxes shown"
    for name, cost in seconds.items():
        yield name, milliseconds(cost), at_most(cost, SLIDER), str(len(works[name]()))


# --- vild-mini -------------------------------------------------------------------------------


def mini_rows(repeats: int) -> Iterator[Row]:
    """From a picture and names to boxes, as the tab does it."""
    numbers = itertools.count(1)
    shown = RegionThresholds(min_objectness=0.0)
    with tempfile.TemporaryDirectory() as folder:
        detector = mini_detector(Path(folder))
        words = ["dog", "red kite", "house", "apple", "owl"]
        read, same = run_to_end(detector.read(words)), noise(480, 360, 0)
        raw = run_to_end(detector.detect(same))

        def picture() -> object:
            found = run_to_end(detector.detect(noise(480, 360, next(numbers))))
            return detector.select(found, read, shown, masks=True)

        def new_names() -> object:
            number = next(numbers)
            return detector.select(raw, [f"{word} {number}" for word in words], shown)

        works: dict[str, Callable[[], object]] = {
            "a new picture, masks of what is shown": picture,
            f"{len(words)} new names on the same picture": new_names,
            f"{len(words)} names read before": partial(detector.select, raw, read, shown),
        }
        seconds = in_turn(works, repeats, time.perf_counter)
    yield f"{detector.name}, 480 x 360", "time", "bar"
    for (name, cost), bar in zip(seconds.items(), (PICTURE, NAMES, NAMES)):
        yield name, milliseconds(cost), at_most(cost, bar)


# --- tables ----------------------------------------------------------------------------------


def tables(scale: Scale) -> dict[str, tuple[str, Callable[[], Iterator[Row]]]]:
    """Title and rows by the name that --only takes."""
    often = 10 * scale.repeats
    readers = [(scale.config, scale.config.max_size), (VildConfig.mini(), 256)]
    return {
        "crops": ("ViLD against CLIP on crops", lambda: crop_rows(scale.repeats)),
        "regions": (
            "Features of regions",
            lambda: region_rows(readers, scale.boxes, scale.repeats),
        ),
        "network": ("The whole network", lambda: network_rows(scale.config, scale.repeats)),
        "names": ("Names", lambda: name_rows(clip_mini(), scale.read, scale.repeats)),
        "slider": ("A slider", lambda: slider_rows(scale.regions, scale.names, often)),
        "mini": ("vild-mini", lambda: mini_rows(often)),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Print the tables."""
    quick, full = Scale.quick(), Scale.full()
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.vild", description="Measure what detection of any names costs."
    )
    sides = [scale.config.max_size for scale in (quick, full)]
    parser.add_argument("--quick", action="store_true", help=f"{sides[0]} pixels, not {sides[1]}")
    parser.add_argument("--only", choices=tables(full), help="one of the tables")
    options = parser.parse_args(argv)
    threads = torch.get_num_threads()
    print(machine(), f"PyTorch {torch.__version__}, {threads} threads, CPU, wall time.")
    for name, (title, rows) in tables(quick if options.quick else full).items():
        if options.only in (None, name):
            print_table(title, rows())
    return 0


if __name__ == "__main__":
    sys.exit(main())
