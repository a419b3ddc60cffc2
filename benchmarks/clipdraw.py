"""What drawing strokes costs, forward and backward, as Markdown.

    python -m benchmarks.clipdraw
    python -m benchmarks.clipdraw --plot assets/readme/clipdraw-growth.png

Times are CPU time of one thread, medians; what is compared runs in turn in the same process. Peak
memory is what a fresh process grows by. The drawings are as CLIPDraw starts: one to three cubics a
path, control points a twentieth of the canvas apart at most; half widths 1 to 5 pixels.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from benchmarks.measure import fresh, machine, megabytes, milliseconds, peak, print_table
from models.clipdraw.backends import Diffvg, diffvg_is_there
from models.clipdraw.rasterizer import render
from models.clipdraw.strokes import Strokes, paths

Rasterizer = Callable[[Strokes], Tensor]

COUNTS, SIZES = (64, 256, 1024, 4096), (224, 512, 1024)
# Medians of forward + backward in seconds at 224 pixels, one thread, 2 x 2 samples, strokes as
# here: shared/specs/clipdraw.md, "diffvg's times".
QUOTED = {16: (0.078, 0.367), 64: (0.125, 0.461), 256: (0.267, 0.953), 1024: (0.734, 2.47)}


@dataclass(frozen=True)
class Cost:
    """Seconds of an image and of its gradients."""

    forward: float
    backward: float

    @property
    def both(self) -> float:
        return self.forward + self.backward

    def __str__(self) -> str:
        return f"{milliseconds(self.forward)} + {milliseconds(self.backward)}"


def scene(count: int, width: int, height: int | None = None, device: str = "cpu") -> Strokes:
    """Strokes as CLIPDraw starts with; what is differentiated requires a gradient."""
    generator = torch.Generator().manual_seed(count)
    segments = torch.randint(1, 4, (count,), generator=generator).tolist()
    canvas = torch.tensor([width, height or width])
    controls = []
    for number in segments:
        steps = 0.1 * (torch.rand(3 * number + 1, 2, generator=generator) - 0.5)
        steps[0] = torch.rand(2, generator=generator)
        controls.append(steps.cumsum(0) * canvas)
    half_widths = 1 + 4 * torch.rand(count, generator=generator)
    colors = torch.rand(count, 4, generator=generator)
    strokes = paths(controls, half_widths, colors, (width, height or width)).to(device)
    return replace(
        strokes,
        points=strokes.points.requires_grad_(),
        half_widths=strokes.half_widths.requires_grad_(),
        colors=strokes.colors.requires_grad_(),
    )


def dense(strokes: Strokes, chords: int = 8) -> Tensor:
    """The baseline: every stroke against every pixel, differentiated by autograd.

    A stroke's distances to the chords are made again in backward; kept, they would take 24 MB a
    stroke at 224 pixels.
    """
    width, height = strokes.canvas
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    at = torch.stack([x, y], -1).view(-1, 1, 2)  # (H * W, 1, 2)
    t = torch.linspace(0, 1, chords + 1)
    basis = torch.stack([(1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3], 1)
    cubics, path = strokes.cubics()
    curves = torch.einsum("kb,sbd->skd", basis, cubics)

    def laid(image: Tensor, curve: Tensor, half_width: Tensor, color: Tensor) -> Tensor:
        a, along = curve[:, :-1].flatten(0, 1), curve.diff(dim=1).flatten(0, 1)  # (chords, 2)
        s = ((at - a) * along).sum(-1) / along.square().sum(-1).clamp(min=1e-9)
        foot = a + s.clamp(0, 1)[..., None] * along  # (H * W, chords, 2)
        distance = (at - foot).square().sum(-1).amin(1).clamp(min=1e-9).sqrt()
        alpha = ((half_width - distance + 0.5).clamp(0, 1) * color[3])[:, None]
        paint = torch.cat([color[:3], torch.ones(1)])
        return image * (1 - alpha) + alpha * paint

    image = torch.zeros(height * width, 4)
    for k in range(len(strokes)):
        image = checkpoint(
            laid,
            image,
            curves[path == k],
            strokes.half_widths[k],
            strokes.colors[k],
            use_reentrant=True,
        )
    return image.view(height, width, 4)


def cost_of(rasterizer: Rasterizer, strokes: Strokes, clock: Callable[[], float]) -> Cost:
    """One image and its gradients."""
    weights = torch.ones(strokes.canvas[1], strokes.canvas[0], 4, device=strokes.points.device)
    began = clock()
    image = rasterizer(strokes)
    drawn = clock()
    image.backward(weights)
    return Cost(drawn - began, clock() - drawn)


def medians(works: Mapping[str, Callable[[], Cost]], repeats: int) -> dict[str, Cost]:
    """The works in turn, `repeats` times; before more than one, once for nothing."""
    costs: dict[str, list[Cost]] = {name: [] for name in works}
    for _ in range(repeats + (repeats > 1)):
        for name, work in works.items():
            costs[name].append(work())
    return {
        name: Cost(
            statistics.median(each.forward for each in every[-repeats:]),
            statistics.median(each.backward for each in every[-repeats:]),
        )
        for name, every in costs.items()
    }


def compared(
    others: Mapping[str, Rasterizer], count: int, size: int, repeats: int
) -> dict[str, Cost]:
    """Our cost under "ours", and that of others on the same drawing."""
    strokes = scene(count, size)
    return medians(
        {
            name: lambda way=way: cost_of(way, strokes, time.process_time)  # type: ignore[misc]
            for name, way in {"ours": render, **others}.items()
        },
        repeats,
    )


def memory_of(count: int, size: int, rasterizer: Rasterizer = render) -> int:
    """Bytes by which this process grows at most in an image and its gradients."""
    torch.set_num_threads(1)
    cost_of(rasterizer, scene(2, 8), time.process_time)  # what the first run loads is not counted
    strokes = scene(count, size)
    with peak(psutil.Process(), every_s=0.001) as watch:
        cost_of(rasterizer, strokes, time.process_time)
    return watch.growth


# --- tables ----------------------------------------------------------------------------------


def dense_rows(counts: Sequence[int], size: int, repeats: int) -> Iterator[tuple[str, ...]]:
    """Against the dense baseline."""
    yield "strokes", "ours", "dense", "ratio", "ours, peak", "dense, peak"
    for count in counts:
        costs = compared({"dense": dense}, count, size, repeats)
        yield (
            f"{count} at {size} px",
            str(costs["ours"]),
            str(costs["dense"]),
            ratio(costs["dense"], costs["ours"]),
            megabytes(fresh(memory_of, count, size)),
            megabytes(fresh(memory_of, count, size, dense)),
        )


def diffvg_rows(
    drawings: Sequence[tuple[int, int, int]], available: bool
) -> Iterator[tuple[str, ...]]:
    """Against diffvg, measured (strokes, size, repeats) or quoted."""
    yield "strokes", "ours", "diffvg, 2 x 2 samples", "ratio"
    for count, size, repeats in drawings:
        costs = compared({"diffvg": Diffvg()} if available else {}, count, size, repeats)
        theirs = costs.get("diffvg") or (Cost(*QUOTED[count]) if size == 224 else None)
        if theirs is not None:
            ours = costs["ours"]
            yield f"{count} at {size} px", str(ours), str(theirs), ratio(theirs, ours)


def tower_rows(repeats: int) -> Iterator[tuple[str, ...]]:
    """Against an iteration of CLIP's image tower, random weights, gradient to the input only."""
    import open_clip  # slow to import, and nothing else needs it

    tower = open_clip.create_model("ViT-B-32-quickgelu", pretrained=None).visual.eval()
    tower.requires_grad_(False)
    copies = torch.rand(4, 3, 224, 224, requires_grad=True)
    strokes = scene(256, 224)

    def look() -> Cost:
        began = time.process_time()
        features = tower(copies)
        seen = time.process_time()
        features.sum().backward()
        return Cost(seen - began, time.process_time() - seen)

    costs = medians(
        {"tower": look, "ours": lambda: cost_of(render, strokes, time.process_time)}, repeats
    )
    share = 100 * costs["ours"].both / costs["tower"].both
    yield "256 strokes at 224 px", "ViT-B/32 image tower, 4 copies", "share"
    yield str(costs["ours"]), str(costs["tower"]), f"{share:.2g} %"


@dataclass(frozen=True)
class Growth:
    """What a number of strokes costs on a square canvas."""

    count: int
    size: int
    cost: Cost
    memory: int


def growth(counts: Sequence[int], sizes: Sequence[int], repeats: int) -> list[Growth]:
    """Every number of strokes on every canvas."""
    return [
        Growth(
            count,
            size,
            compared({}, count, size, repeats)["ours"],
            fresh(memory_of, count, size),
        )
        for size in sizes
        for count in counts
    ]


def growth_rows(cells: Sequence[Growth]) -> Iterator[tuple[str, ...]]:
    counts = sorted({cell.count for cell in cells})
    yield "canvas", *(f"{count} strokes" for count in counts)
    for size in sorted({cell.size for cell in cells}):
        own = {cell.count: cell for cell in cells if cell.size == size}
        yield (
            f"{size} x {size}",
            *(f"{own[count].cost}, {megabytes(own[count].memory)}" for count in counts),
        )


def plot(cells: Sequence[Growth], file: Path) -> None:
    """Time and memory over the number of strokes, a line per canvas; diffvg's quoted times."""
    import matplotlib.pyplot as plt

    figure, (times, memory) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    for size in sorted({cell.size for cell in cells}):
        own = [cell for cell in cells if cell.size == size]
        counts = [cell.count for cell in own]
        times.plot(counts, [1e3 * cell.cost.both for cell in own], "o-", label=f"{size} x {size}")
        memory.plot(counts, [cell.memory / 1e6 for cell in own], "o-", label=f"{size} x {size}")
    quoted = [1e3 * sum(pair) for pair in QUOTED.values()]
    times.plot(list(QUOTED), quoted, "k--", label="diffvg, 224 x 224 (quoted)")
    for axes, label in ((times, "forward + backward, ms, one thread"), (memory, "peak memory, MB")):
        axes.set(xscale="log", yscale="log", xlabel="strokes", ylabel=label)
        ticks = sorted({cell.count for cell in cells})
        axes.set_xticks(ticks, [str(tick) for tick in ticks], minor=False)
        axes.minorticks_off()
        axes.grid(alpha=0.3)
        axes.legend(frameon=False, fontsize=8)
    figure.savefig(file, dpi=120)
    plt.close(figure)


def cuda_row(repeats: int) -> str:
    """2048 strokes at 2040 x 1344 on a GPU, beside what others published."""

    def clock() -> float:
        torch.cuda.synchronize()
        return time.perf_counter()

    strokes = scene(2048, 2040, 1344, "cuda")
    cost = medians({"ours": lambda: cost_of(render, strokes, clock)}, repeats)["ours"]
    return (
        f"2048 strokes at 2040 x 1344 on {torch.cuda.get_device_name()}: {cost}. Published, on an "
        "RTX 4090: Bezier Splatting 4.5 ms + 4.7 ms, diffvg 141 ms + 701 ms."
    )


def ratio(baseline: Cost, cost: Cost) -> str:
    return f"{baseline.both / cost.both:.3g}x"


def main(argv: Sequence[str] | None = None) -> int:
    """Print the tables."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.clipdraw", description="Measure what drawing strokes costs."
    )
    parser.add_argument("--plot", type=Path, metavar="PNG", help="draw the growth into this file")
    parser.add_argument("--repeats", type=int, default=7, help="of which the median is taken")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    print(machine(), f"PyTorch {torch.__version__}, one thread, CPU time, forward + backward.")
    repeats, available = options.repeats, diffvg_is_there()
    print_table("Against every stroke on every pixel", dense_rows((64, 256), 224, 2))
    if not available:
        print("\ndiffvg is absent here; its times are those of shared/specs/clipdraw.md.")
    drawings = ((64, 224, 3), (256, 224, 3), (1024, 224, 3), (1024, 1024, 1))
    print_table("Against diffvg", diffvg_rows(drawings, available))
    print_table("Beside the critic", tower_rows(repeats))
    cells = growth(COUNTS, SIZES, repeats)
    print_table("Growth", growth_rows(cells))
    if options.plot is not None:
        plot(cells, options.plot)
    print("\n" + (cuda_row(repeats) if torch.cuda.is_available() else "No CUDA device here."))
    return 0


if __name__ == "__main__":
    sys.exit(main())
