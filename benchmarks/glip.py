"""What grounding costs with GLIP, beside the way the reference computes it, as Markdown.

    python -m benchmarks.glip
    python -m benchmarks.glip --quick --only speed

GLIP-T has random weights, shared by both ways. The baseline is written here in plain PyTorch as the
reference computes it: prompts padded to 256 tokens, every cell projected three times in the fusion,
torchvision's deformable convolution. Times are wall time of PyTorch's own number of threads, medians
of what runs in turn in one process, once for nothing before. Memory is what a process of its own
grows by beyond the weights.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np
import psutil
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.ops import deform_conv2d as torchvision_convolution

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
    seconds_of,
)
from models.catalog import CATALOG, LoadContext
from models.detection.detections import Detections
from models.detection.drawing import draw
from models.errors import AtelierError
from models.glip import Glip, GlipConfig, HeadOutput
from models.glip.deformable import gathered, sampled
from models.glip.dyhead import DeformConv, DyConv, Sampling
from models.glip.fusion import MAX_SCORE, Fusion
from models.glip.grounding import MAX_CANDIDATES, Grounder, GroundingThresholds, RawDetections
from models.glip.prompts import Prompt, list_prompt, tokenize, wordpiece
from models.jobs import run_to_end

Row = tuple[str, ...]
Size = tuple[int, int]  # height, width

PADDED = 256  # tokens, of every prompt of the reference
NAMES = ("apple", "dog", "kite")
# What issue 5 asks for: the ratio at least, milliseconds at most.
TRIMMING, PICTURE, THRESHOLD, DRAWING = 1.3, 400.0, 50.0, 50.0
BOXES = 50


@dataclass(frozen=True)
class Scale:
    """How much is measured.

    Attributes:
        config: the large network.
        size: (height, width) of its input in pixels, multiples of 32.
        repeats: of which the median is taken; five times as many of what takes milliseconds.
        channels, cells: of the map that the deformable convolution reads, (height, width).
    """

    config: GlipConfig
    size: Size
    repeats: int
    channels: int
    cells: Size

    @classmethod
    def full(cls) -> Scale:
        """The reference's own input, and its P3."""
        return cls(GlipConfig.tiny(), (800, 1344), 3, 256, (100, 168))

    @classmethod
    def quick(cls) -> Scale:
        return cls(GlipConfig.tiny(), (256, 416), 1, 256, (32, 52))


# --- what is measured on ---------------------------------------------------------------------


def random_glip(config: GlipConfig) -> Glip:
    """Seeded weights that move the taps of every convolution, and find every word likely."""
    torch.manual_seed(0)
    glip = Glip(config)
    for module in glip.modules():
        if isinstance(module, DyConv):
            nn.init.normal_(module.offset.weight, std=0.05)
    nn.init.zeros_(glip.head.bias0)
    return glip.requires_grad_(False).eval()


def random_pixels(size: Size) -> Tensor:
    """(1, 3, H, W), a normalised picture of noise."""
    return torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(0))


words = cache(wordpiece)  # nobody writes to it


def question(names: Sequence[str], padded: int = 0) -> tuple[Tensor, Tensor]:
    """Token ids and which are real, both (1, T), T at least `padded`."""
    tokens = tokenize(list_prompt(names), words())
    pads = (0, max(0, padded - len(tokens.input_ids)))
    ids, mask = tokens.input_ids, tokens.attention_mask
    return nn.functional.pad(ids, pads)[None], nn.functional.pad(mask, pads)[None]


# --- the reference's way ---------------------------------------------------------------------


def plain_fusion(
    fusion: Fusion, vision: Tensor, text: Tensor, mask: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """`Fusion.forward` with cells and words projected into the common space."""
    vision, text = fusion.norm_vision(vision), fusion.norm_text(text)

    def per_head(project: nn.Module, x: Tensor) -> Tensor:
        return torch.unflatten(project(x), -1, (fusion.heads, -1)).transpose(1, 2)

    query, key = per_head(fusion.query, vision) * fusion.scale, per_head(fusion.key, text)
    scores = (query @ key.transpose(2, 3)).clamp(-MAX_SCORE, MAX_SCORE)  # (N, heads, M, T)
    to_words = scores.masked_fill((mask == 0)[:, None, None], -torch.inf).softmax(dim=3)
    heard = to_words @ per_head(fusion.value_text, text)
    seen = scores.transpose(2, 3).softmax(dim=3) @ per_head(fusion.value_vision, vision)
    new_vision = fusion.out_vision(heard.transpose(1, 2).flatten(2))
    new_text = fusion.out_text(seen.transpose(1, 2).flatten(2))
    return (
        vision + fusion.gamma_vision * new_vision,
        text + fusion.gamma_text * new_text,
        to_words.transpose(1, 2),
    )


def plain_deformable(part: DeformConv, x: Tensor, sampling: Sampling) -> Tensor:
    """`DeformConv.forward` by way of torchvision."""
    height, width = (-(-size // part.stride) for size in x.shape[-2:])
    offset, mask = sampling.read_flat(height, width)
    convolved = torchvision_convolution(
        x, offset, part.conv.weight, part.conv.bias, part.stride, padding=1, mask=mask
    )
    normed: Tensor = part.norm(convolved)
    return normed


@contextmanager
def as_reference(glip: Glip) -> Iterator[None]:
    """`glip` computes as the reference does while the block runs."""
    ways: list[tuple[type[nn.Module], Callable[..., Any]]] = [
        (Fusion, plain_fusion),
        (DeformConv, plain_deformable),
    ]
    changed = [(m, way) for m in glip.modules() for kind, way in ways if isinstance(m, kind)]
    for module, way in changed:
        module.forward = partial(way, module)
    try:
        yield
    finally:
        for module, _ in changed:
            del module.forward


# --- the whole network -----------------------------------------------------------------------

REFERENCE = "as the reference, 256 tokens"
PLAIN = "as the reference, real tokens"
PADS = "ours, 256 tokens"
OURS = "ours, real tokens"
CACHED = "ours, new prompt on a cached picture"
WAYS = (REFERENCE, PLAIN, PADS, OURS, CACHED)


def run_way(glip: Glip, pixels: Tensor, levels: Sequence[Tensor], way: str) -> HeadOutput:
    """One run; `levels` are the remembered features of `pixels`."""
    ids, mask = question(NAMES, PADDED if way in (REFERENCE, PADS) else 0)
    with as_reference(glip) if way in (REFERENCE, PLAIN) else nullcontext():
        if way != CACHED:
            levels = glip.encode_image(pixels)
        return glip.predict(levels, glip.encode_text(ids, mask), mask)


def memory_of(config: GlipConfig, size: Size, way: str) -> int:
    """Bytes by which this process grows at most in a run, features of the picture included."""
    glip, pixels = random_glip(config), random_pixels(size)
    with torch.inference_mode():
        small = glip.encode_image(pixels[:, :, :64, :64])
        run_way(glip, pixels[:, :, :64, :64], small, way)  # what the first run loads is not counted
        levels = glip.encode_image(pixels) if way == CACHED else []
        with peak(psutil.Process()) as watch:
            run_way(glip, pixels, levels, way)
    return watch.growth + sum(level.nbytes for level in levels)


def speed_rows(scale: Scale) -> Iterator[Row]:
    """Every way anew, and what is left of a new prompt."""
    glip, pixels = random_glip(scale.config), random_pixels(scale.size)
    outputs: dict[str, HeadOutput] = {}
    with torch.no_grad():
        levels = glip.encode_image(pixels)

    def work(way: str) -> None:
        outputs[way] = run_way(glip, pixels, levels, way)

    seconds = in_turn({way: partial(work, way) for way in WAYS}, scale.repeats, time.perf_counter)
    height, width = scale.size
    tokens = question(NAMES)[0].shape[1]
    yield (
        f"{scale.config.name}, {height} x {width}, {tokens} tokens", "time", "reference / this",
        f"{PADS} / this", "bar", "anew / this", "logits differ by", "peak memory",
    )  # fmt: skip
    for way, cost in seconds.items():
        gained, trimmed = seconds[REFERENCE] / cost, seconds[PADS] / cost
        yield (
            way, f"{cost:.3g} s", f"{gained:.2f}x", f"{trimmed:.2f}x",
            at_least(gained, TRIMMING) if way == OURS else "",
            f"{seconds[OURS] / cost:.2f}x" if way == CACHED else "",
            f"{difference(outputs[REFERENCE], outputs[way], tokens):.1e}",
            megabytes(fresh(memory_of, scale.config, scale.size, way)),
        )  # fmt: skip


def difference(a: HeadOutput, b: HeadOutput, tokens: int) -> float:
    """The largest, of the logits of real tokens."""
    return float((a.logits[..., :tokens] - b.logits[..., :tokens]).abs().max())


# --- bfloat16 and torch.compile --------------------------------------------------------------


def lower(glip: Glip) -> Callable[..., HeadOutput]:
    def run(*inputs: Tensor) -> HeadOutput:
        with torch.autocast("cpu", torch.bfloat16):
            output: HeadOutput = glip(*inputs)
            return output

    return run


def faster_ways(
    glip: Glip, inputs: Sequence[Tensor], compiler: Callable[..., Any] = torch.compile
) -> tuple[dict[str, Callable[..., HeadOutput]], list[Row]]:
    """The ways that run here, and a sentence for each that does not."""
    ways: dict[str, Callable[..., HeadOutput]] = {"float32": glip}
    absent: list[Row] = []
    if torch.ops.mkldnn._is_mkldnn_bf16_supported():
        ways["bfloat16 (autocast)"] = lower(glip)
    else:
        absent.append(
            ("bfloat16 was skipped: this processor does not compute with it.", "", "", "")
        )
    for name in list(ways):
        compiled = compiler(ways[name])
        try:
            took = seconds_of(lambda compiled=compiled: compiled(*inputs))  # type: ignore[misc]
        except Exception as error:  # whatever a compiler throws, it is not there
            why = f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')[:80]}"
            absent.append((f"torch.compile, {name} was skipped: {why}", "", "", ""))
        else:
            ways[f"torch.compile, {name}, compiled in {took:.0f} s"] = compiled
    return ways, absent


def precision_rows(config: GlipConfig, size: Size, repeats: int) -> Iterator[Row]:
    """A picture and a prompt anew."""
    glip, inputs = random_glip(config), (random_pixels(size), *question(NAMES))
    outputs: dict[str, Tensor] = {}
    yield f"{config.name}, {size[0]} x {size[1]}", "time", "float32 / this", "cosine of the logits"
    with torch.no_grad():
        ways, absent = faster_ways(glip, inputs)

    def work(name: str) -> None:
        outputs[name] = ways[name](*inputs).logits.flatten().double()

    seconds = in_turn({name: partial(work, name) for name in ways}, repeats, time.perf_counter)
    for name, cost in seconds.items():
        cosine = torch.cosine_similarity(outputs["float32"], outputs[name], dim=0)
        yield name, f"{cost:.3g} s", f"{seconds['float32'] / cost:.2f}x", f"{cosine:.6f}"
    yield from absent


# --- parts of the network --------------------------------------------------------------------


Inputs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]  # x, offset, mask, weight, bias


def convolution_inputs(channels: int, cells: Size) -> Inputs:
    """Of a deformable convolution whose taps move about a cell."""
    random = torch.Generator().manual_seed(0)
    shapes = [
        (1, channels, *cells), (1, 18, *cells), (1, 9, *cells), (channels, channels, 3, 3),
        (channels,),
    ]  # fmt: skip
    x, offset, mask, weight, bias = (torch.randn(*shape, generator=random) for shape in shapes)
    return x, offset, mask.sigmoid(), weight / channels, bias


def theirs(x: Tensor, offset: Tensor, mask: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """torchvision's, in the order of ours."""
    found: Tensor = torchvision_convolution(x, offset, weight, bias, padding=1, mask=mask)
    return found


def applied(convolution: Callable[..., Tensor], inputs: Sequence[Tensor]) -> Tensor:
    return convolution(*inputs)


def with_gradients(convolution: Callable[..., Tensor], inputs: Sequence[Tensor]) -> list[Tensor]:
    """The output's sum by every input."""
    leaves = [tensor.detach().requires_grad_() for tensor in inputs]
    with torch.enable_grad():
        return list(torch.autograd.grad(convolution(*leaves).sum(), leaves))


def deformable_rows(maps: Iterable[tuple[int, Size]], repeats: int) -> Iterator[Row]:
    yield "deformable convolution", "torchvision", "ours", "torchvision / ours"
    for channels, cells in maps:
        inputs = convolution_inputs(channels, cells)
        low = [tensor.bfloat16() for tensor in inputs]
        works: dict[str, Callable[[], object]] = {
            "forwards": partial(applied, theirs, inputs),
            "forwards, ours": partial(applied, gathered, inputs),
            "forwards, bfloat16, ours": partial(applied, gathered, low),
            "forwards and backwards": partial(with_gradients, theirs, inputs),
            "forwards and backwards, ours": partial(with_gradients, sampled, inputs),
        }
        seconds = in_turn(works, repeats, time.perf_counter)
        seconds["forwards, bfloat16"] = seconds["forwards"]  # torchvision has no bfloat16
        for what in ("forwards", "forwards, bfloat16", "forwards and backwards"):
            their, our = seconds[what], seconds[f"{what}, ours"]
            yield (
                f"{what}, {channels} channels, {cells[0]} x {cells[1]} cells",
                milliseconds(their) + (" (float32)" if "bfloat16" in what else ""),
                milliseconds(our),
                f"{their / our:.2f}x",
            )


def fusion_rows(
    config: GlipConfig, cells: int, lengths: Sequence[int], repeats: int
) -> Iterator[Row]:
    """One fusion."""
    torch.manual_seed(0)
    fusion = Fusion(
        config.channels, config.head_text_width, config.fusion_width, config.fusion_heads, 0.1
    )
    yield f"fusion, {config.name}, {cells:,} cells", "projected", "folded", "ratio", "differ by"
    for tokens in lengths:
        inputs = (
            torch.randn(1, cells, config.channels),
            torch.randn(1, tokens, config.head_text_width),
            torch.ones(1, tokens),
        )
        works = {"plain": partial(plain_fusion, fusion, *inputs), "ours": partial(fusion, *inputs)}
        seconds = in_turn(works, repeats, time.perf_counter)
        with torch.no_grad():
            pairs = zip(works["plain"](), works["ours"]())
            most = max(float((a - b).abs().max()) for a, b in pairs)
        yield (
            f"{tokens} tokens", milliseconds(seconds["plain"]), milliseconds(seconds["ours"]),
            f"{seconds['plain'] / seconds['ours']:.2f}x", f"{most:.1e}",
        )  # fmt: skip


# --- what moves with a slider ----------------------------------------------------------------


def raw_detections(count: int, names: int, side: int = 800) -> RawDetections:
    """Boxes about a few things, as a detector finds them: many on each."""
    random = np.random.default_rng(0)
    prompt = list_prompt([f"thing {i}" for i in range(names)])
    centres = random.uniform(0.1 * side, 0.9 * side, (60, 2))[random.integers(60, size=count)]
    centres += random.normal(0, 6, (count, 2))
    halves = random.uniform(20, 90, (count, 2))
    boxes = np.hstack([centres - halves, centres + halves]).clip(0, side).astype(np.float32)
    scores = np.sort(random.uniform(0.05, 1, count)).astype(np.float32)[::-1].copy()
    tokens = tokenize(prompt, words())
    lit = random.uniform(0, 1, (count, len(tokens.words))).astype(np.float32)
    phrases = random.integers(names, size=count)
    return RawDetections(
        prompt, boxes, scores, scores, phrases, tokens.words, lit, None, side, side
    )


def threshold_rows(count: int, repeats: int) -> Iterator[Row]:
    """From a slider's value to detections."""
    raw = raw_detections(count, 20)
    works: dict[str, Callable[[], Detections]] = {
        f"box threshold {box}, NMS {nms}, at most {most} boxes": partial(
            raw.select, GroundingThresholds(box=box, nms=nms, max_boxes=most)
        )
        for box, nms, most in itertools.product((0.0, 0.3, 0.7), (0.1, 0.6), (100, 1000))
    }
    seconds = in_turn(works, repeats, time.perf_counter)
    yield f"threshold slider, {count:,} candidates", "time", "bar", "boxes shown"
    for name, cost in seconds.items():
        yield name, milliseconds(cost), at_most(cost, THRESHOLD), str(len(works[name]()))


def drawing_rows(sizes: Iterable[Size], repeats: int) -> Iterator[Row]:
    yield f"drawing {BOXES} boxes", "time", "bar"
    for height, width in sizes:
        side = min(height, width)
        raw = raw_detections(20 * BOXES, 20, side)
        square = raw.select(GroundingThresholds(box=0, max_boxes=BOXES))
        picture = Image.fromarray(np.full((side, side, 3), 127, np.uint8))
        work = partial(draw, picture, square)
        cost = in_turn({"": work}, repeats, time.perf_counter)[""]
        name = f"{len(square)} boxes on {side} x {side} pixels"
        yield name, milliseconds(cost), at_most(cost, DRAWING)


# --- glip-mini -------------------------------------------------------------------------------


def mini_grounder() -> Grounder:
    """glip-mini where it is, else one of its shape that finds every word likely."""
    row = CATALOG.get("glip-mini")
    if row is not None:
        try:
            grounder: Grounder = row.load(row, LoadContext(torch.device("cpu"), torch.float32))
            return grounder
        except AtelierError as error:
            print(f"\n{error}")
    model = random_glip(GlipConfig.mini())
    return Grounder("glip-mini's shape, random weights", model, words())


def noise(size: Size, seed: int) -> Image.Image:
    random = np.random.default_rng(seed)
    return Image.fromarray(random.integers(0, 256, (*size, 3), dtype=np.uint8))


def mini_rows(sizes: Iterable[Size], repeats: int) -> Iterator[Row]:
    """From a picture and a text to detections, as the tab does it."""
    grounder = mini_grounder()
    fresh_one = itertools.count()
    yield f"{grounder.name}, a picture and 4 names", "time", "bar"

    def found(picture: Image.Image, prompt: Prompt) -> Detections:
        return run_to_end(grounder.ground(picture, prompt)).select(grounder.defaults)

    def new_prompt() -> Prompt:
        return list_prompt([*NAMES, f"number {next(fresh_one)}"])

    for size in sizes:
        same, asked = noise(size, 0), list_prompt([*NAMES, "house"])
        works: dict[str, Callable[[], object]] = {
            "new picture, new prompt": lambda size=size: found(  # type: ignore[misc]
                noise(size, next(fresh_one) + 1), new_prompt()
            ),
            "the same picture, new prompt": lambda same=same: found(same, new_prompt()),  # type: ignore[misc]
            "the same picture and prompt": partial(found, same, asked),
        }
        found(same, asked)
        for what, cost in in_turn(works, repeats, time.perf_counter).items():
            bar = at_most(cost, PICTURE) if what.startswith("new") else ""
            yield f"{what}, {size[1]} x {size[0]}", milliseconds(cost), bar


# --- tables ----------------------------------------------------------------------------------


def tables(scale: Scale) -> dict[str, tuple[str, Callable[[], Iterator[Row]]]]:
    """Title and rows by the name that --only takes."""
    config, repeats = scale.config, scale.repeats
    mini, often = GlipConfig.mini(), 5 * repeats
    maps = [(scale.channels, scale.cells), (mini.channels, (24, 32))]
    cells = sum(-(-scale.size[0] // s) * -(-scale.size[1] // s) for s in (8, 16, 32, 64, 128))
    return {
        "speed": ("The whole network, and memory", lambda: speed_rows(scale)),
        "precision": (
            "bfloat16 and torch.compile",
            lambda: precision_rows(config, scale.size, repeats),
        ),
        "precision-mini": (
            "bfloat16 and torch.compile, mini",
            lambda: precision_rows(mini, (192, 256), often),
        ),
        "deformable": ("Deformable convolution", lambda: deformable_rows(maps, repeats)),
        "fusion": ("Fusion", lambda: fusion_rows(config, cells, (9, PADDED), repeats)),
        "threshold": ("A slider", lambda: threshold_rows(MAX_CANDIDATES, often)),
        "drawing": ("Drawing", lambda: drawing_rows([(800, 800), (2000, 2000)], often)),
        "mini": ("glip-mini", lambda: mini_rows([(256, 256), (480, 640)], often)),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Print the tables."""
    quick, full = Scale.quick(), Scale.full()
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.glip", description="Measure what grounding costs."
    )
    sizes = [f"{scale.size[0]} x {scale.size[1]}" for scale in (quick, full)]
    parser.add_argument("--quick", action="store_true", help=f"{sizes[0]} pixels, not {sizes[1]}")
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
