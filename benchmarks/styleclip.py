"""What StyleCLIP's edits cost, beside the way the reference computes them, as Markdown.

    python -m benchmarks.styleclip
    python -m benchmarks.styleclip --size 256 --repeats 3

Weights are random and shared by both ways: a generator of the paper's shape and a CLIP of ViT-B/32's.
The baseline is written here in plain PyTorch as the reference computes it: styles in the weights of
grouped convolutions, blur in NCHW with zeros inserted, the picture enlarged seven times for CLIP, the
text encoded at every step, and weights that gather gradients. Times are CPU time of one thread,
medians of what runs in turn in one process. Memory is the most that is resident in a process of its
own, weights included.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import open_clip
import psutil
import torch
from safetensors import safe_open
from torch import Tensor
from torch.nn import functional as F

from benchmarks.measure import Clock, fresh, in_turn, machine, megabytes, peak, print_table
from models.clip.encoder import ClipEncoder
from models.styleclip.derivative import Probes, ProbeSettings
from models.styleclip.mapper import apply_mapper, new_mapper
from models.styleclip.optimization import Descent, OptimizationSettings
from models.styleclip.prompt import EditPrompt
from models.styleclip.rendering import prefix
from models.styleclip.secant import SecantSettings, eight_bit
from models.stylegan.generator import (
    EPSILON,
    FIR,
    GAIN,
    SLOPE,
    Generator,
    GeneratorConfig,
    to_pictures,
)
from models.stylegan.latent import Latent

ROOT = Path(__file__).resolve().parents[1]
MINI = (
    ROOT / "assets/weights/stylegan2-mini/model.safetensors",
    ROOT / "runs/stylegan2-mini/model.safetensors",
)
PROMPT = EditPrompt("a face with purple hair", "a face")
SETTINGS = OptimizationSettings.reference()
PAPER = {"optimised edit": 98.0, "mapper": 0.075, "direction": 0.072}  # seconds, section 7
# What issue 4 asks for: ratios at least, shares and milliseconds at most.
BARS = {"float32": 3.0, "bfloat16": 4.5, "synthesis": 2.0}


# --- what is measured on ---------------------------------------------------------------------


@dataclass(frozen=True)
class Scene:
    """A generator, a CLIP and the picture to edit."""

    generator: Generator
    clip: ClipEncoder
    latent: Latent

    def trainable(self, yes: bool) -> None:
        """The reference leaves all weights trainable, and so gathers their gradients."""
        for module in (self.generator, self.clip.model):
            module.requires_grad_(yes)
            module.zero_grad(set_to_none=True)


def random_generator(config: GeneratorConfig) -> Generator:
    """Seeded weights; noise and biases are not zero, so that both ways must add them."""
    torch.manual_seed(0)
    generator = Generator(config)
    with torch.no_grad():
        for name, parameter in generator.named_parameters():
            if name.endswith("noise_strength"):
                parameter.fill_(0.2)
            elif name.startswith("layers") and name.endswith("bias") and "affine" not in name:
                parameter.normal_(0, 0.2)
    return generator.requires_grad_(False)


def random_clip() -> ClipEncoder:
    """ViT-B/32's shape."""
    torch.manual_seed(0)
    name = "ViT-B-32-quickgelu"
    model, _, preprocess = open_clip.create_model_and_transforms(name, pretrained=None)
    return ClipEncoder("random", model, open_clip.get_tokenizer(name), preprocess)


def scene(size: int, device: str = "cpu") -> Scene:
    """The paper's shapes at `size` pixels."""
    generator = random_generator(GeneratorConfig.ffhq(size)).to(device)
    clip = random_clip()
    if device != "cpu":
        model = clip.model.to(device)
        name = "ViT-B-32-quickgelu"
        clip = ClipEncoder("random", model, open_clip.get_tokenizer(name), clip.preprocess)
    return Scene(generator, clip, Latent.from_seed(generator, 1))


def mini_generator() -> tuple[Generator, str]:
    """stylegan2-mini where it is, else one of its shape; and which of them."""
    generator = random_generator(GeneratorConfig.mini())
    for path in MINI:
        if path.is_file():
            with safe_open(path, framework="pt") as file:  # type: ignore[no-untyped-call]
                state = {key: file.get_tensor(key).float() for key in file.keys()}  # noqa: SIM118
            generator.load_state_dict(state)
            return generator, "stylegan2-mini"
    return generator, "stylegan2-mini's shape, random weights"


# --- the reference's way ---------------------------------------------------------------------


def upfirdn(x: Tensor, up: int, pad: tuple[int, int]) -> Tensor:
    """`up - 1` zeros behind every pixel, zeros around, then the FIR filter: (B, C, H, W), NCHW."""
    batch, channels, height, width = x.shape
    line = torch.tensor(FIR, device=x.device, dtype=x.dtype)
    kernel = torch.outer(line, line) / 16
    spaced = F.pad(x.reshape(-1, height, 1, width, 1), (0, up - 1, 0, 0, 0, up - 1))
    planes = spaced.view(batch * channels, 1, height * up, width * up)
    planes = F.conv2d(F.pad(planes, (*pad, *pad)), kernel[None, None])
    return planes.view(batch, channels, *planes.shape[2:])


def plain_convolution(x: Tensor, weight: Tensor, style: Tensor, rgb: bool, up: bool) -> Tensor:
    """Each picture's own weights (O, I, k, k), modulated and demodulated, in a grouped
    convolution."""
    batch, inputs, height, width = x.shape
    outputs, _, side, _ = weight.shape
    weights = weight / math.sqrt(inputs * side**2) * style[:, None, :, None, None]
    if not rgb:
        energy = weights.square().sum((2, 3, 4), keepdim=True)
        weights = weights * torch.rsqrt(energy + EPSILON)  # (B, O, I, k, k)
    x = x.reshape(1, batch * inputs, height, width)
    if up:
        weights = weights.transpose(1, 2).reshape(batch * inputs, outputs, side, side)
        x = F.conv_transpose2d(x, weights, stride=2, groups=batch)
        return upfirdn(x.view(batch, outputs, *x.shape[2:]), 1, (1, 1))
    weights = weights.view(batch * outputs, inputs, side, side)
    x = F.conv2d(x, weights, padding=side // 2, groups=batch)
    return x.view(batch, outputs, height, width)


def plain_synthesis(generator: Generator, styles: Sequence[Tensor]) -> Tensor:
    """StyleSpace -> picture (B, 3, H, W) with the weights of `generator`."""
    noise = iter(generator.fixed_noise())
    x, colours = generator.constant.expand(len(styles[0]), -1, -1, -1), None
    for layer, slot, style in zip(generator.layers, generator.layout, styles):
        up = slot.resolution > x.shape[-1]
        y = plain_convolution(x, layer.weight, style, slot.is_rgb, up)  # type: ignore[arg-type]
        if slot.is_rgb:
            y = y + layer.bias.view(1, -1, 1, 1)  # type: ignore[operator, union-attr]
            colours = y if colours is None else y + upfirdn(colours, 2, (2, 1))
        else:
            y = y + layer.noise_strength * next(noise)  # type: ignore[operator]
            y = y + layer.bias.view(1, -1, 1, 1)  # type: ignore[operator, union-attr]
            x = F.leaky_relu(y, SLOPE) * GAIN
    assert colours is not None
    return colours


def plain_view(images: Tensor) -> Tensor:
    """(B, 3, N, N) -> (B, 3, 224, 224) by way of 7 N pixels a side."""
    enlarged = F.interpolate(images, scale_factor=7, mode="nearest")
    return F.avg_pool2d(enlarged, images.shape[-1] // 32)


class PlainDescent:
    """The reference's optimisation, a step at a time.

    Attributes:
        w_plus: (1, rows, D), what moves.
        image: (1, 3, N, N), the picture of the last `evaluate`.
    """

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self._start = scene.latent.w_plus[None].to(scene.generator.device)
        self.w_plus = self._start.clone().requires_grad_()
        self.optimizer = torch.optim.Adam([self.w_plus], lr=SETTINGS.rate)
        tokenize = open_clip.get_tokenizer("ViT-B-32-quickgelu")
        self._tokens = tokenize([PROMPT.target]).to(scene.generator.device)

    def evaluate(self) -> None:
        generator, model = self.scene.generator, self.scene.clip.model
        self.optimizer.zero_grad()
        image = plain_synthesis(generator, generator.styles(self.w_plus))
        seen = F.normalize(model.encode_image(plain_view(image)), dim=-1)  # type: ignore[operator]
        words = F.normalize(model.encode_text(self._tokens), dim=-1)  # type: ignore[operator]
        l2 = (self.w_plus - self._start).square().sum()
        loss: Tensor = 1 - (seen * words).sum() + SETTINGS.l2 * l2
        loss.backward()  # type: ignore[no-untyped-call]
        self.image = image.detach()

    def update(self) -> None:
        self.optimizer.step()


# --- one step of an optimisation -------------------------------------------------------------

WAYS = ("reference", "float32", "bfloat16")


def descent(scene: Scene, way: str) -> Descent | PlainDescent:
    """At the start of an edit, weights as this way has them."""
    scene.trainable(way == "reference")
    if way == "reference":
        return PlainDescent(scene)
    return Descent(scene.generator, scene.clip, scene.latent, PROMPT, SETTINGS)


def evaluate(place: Descent | PlainDescent, way: str) -> None:
    """Picture, loss and gradient."""
    device = place.image.device.type if isinstance(place, Descent) else place.w_plus.device.type
    low = torch.autocast(device, torch.bfloat16) if way == "bfloat16" else nullcontext()
    with low:
        place.evaluate()


def gradient(place: Descent | PlainDescent) -> Tensor:
    """Of the loss by W+, flat, in float64."""
    leaf = place.w_plus if isinstance(place, PlainDescent) else place.point.parameters[0]
    assert leaf.grad is not None
    return leaf.grad.flatten().double()


@dataclass(frozen=True)
class StepCosts:
    """Steps of every way on the same picture.

    Attributes:
        seconds: median of a step.
        difference: largest difference of our float32 picture from the reference's.
        agreement: cosine of our float32 gradient and the reference's.
        cosine: of our bfloat16 gradient and our float32 one.
    """

    seconds: Mapping[str, float]
    difference: float
    agreement: float
    cosine: float


def step_costs(scene: Scene, repeats: int, clock: Clock) -> StepCosts:
    """The ways in turn; what they compute is compared before anything is timed."""
    places, found = {}, []
    for way in WAYS:
        places[way] = place = descent(scene, way)
        evaluate(place, way)
        found.append((place.image.float(), gradient(place)))
    images, gradients = zip(*found)
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    for _ in range(repeats):
        for way, place in places.items():
            scene.trainable(way == "reference")
            began = clock()
            evaluate(place, way)
            place.update()
            seconds[way].append(clock() - began)
    return StepCosts(
        {way: statistics.median(times) for way, times in seconds.items()},
        float((images[1] - images[0]).abs().max()),
        float(torch.cosine_similarity(gradients[0], gradients[1], dim=0)),
        float(torch.cosine_similarity(gradients[1], gradients[2], dim=0)),
    )


def memory_of_step(size: int, way: str) -> int:
    """The most that is resident in this process while it takes a step, in bytes."""
    torch.set_num_threads(1)
    place = descent(scene(size), way)
    with peak(psutil.Process()) as watch:
        evaluate(place, way)
        place.update()
    return watch.most


def step_rows(scene: Scene, repeats: int) -> Iterator[tuple[str, ...]]:
    costs = step_costs(scene, repeats, time.process_time)
    memory = {way: fresh(memory_of_step, scene.generator.size, way) for way in WAYS}
    yield "one optimisation step", "CPU time", "ratio", "bar", "peak memory", "share", "bar"
    reference, most = costs.seconds["reference"], memory["reference"]
    yield "reference", f"{reference:.3g} s", "", "", megabytes(most), "", ""
    for way in WAYS[1:]:
        yield (
            f"ours, {way}", f"{costs.seconds[way]:.3g} s",
            f"{reference / costs.seconds[way]:.2f}x", f">= {BARS[way]}x",
            megabytes(memory[way]), f"{memory[way] / most:.2f}", "<= 0.6",
        )  # fmt: skip
    yield (
        f"picture differs by {costs.difference:.1e} at most", "", "", "",
        f"gradient cosine to the reference {costs.agreement:.7f}",
        f"bfloat16 to float32 {costs.cosine:.5f}", ">= 0.999",
    )  # fmt: skip


# --- synthesis: whole, from a prefix, as a preview --------------------------------------------


def first_layer_at(generator: Generator, resolution: int) -> int:
    """The style vector that first works at `resolution` pixels."""
    return next(i for i, slot in enumerate(generator.layout) if slot.resolution == resolution)


def synthesis_rows(size: int, repeats: int) -> Iterator[tuple[str, ...]]:
    generator = random_generator(GeneratorConfig.ffhq(size))
    styles = Latent.from_seed(generator, 1).styles(generator)
    works: dict[str, Callable[[], object]] = {
        "reference": lambda: plain_synthesis(generator, styles),
        "ours, whole": lambda: generator.synthesize(styles),
    }

    def low() -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return generator.synthesize(styles)

    works["ours, bfloat16"] = low
    for resolution in (size // 8, size // 4, size // 2, size):
        with torch.no_grad():
            start = prefix(generator, styles, first_layer_at(generator, resolution))
        name = f"ours, layers from {resolution} px on, behind a kept prefix"
        works[name] = partial(generator.synthesize, styles, start=start)
    works[f"ours, preview at {size // 4} px"] = partial(
        generator.synthesize, styles, size=size // 4
    )
    seconds = in_turn(works, repeats, time.process_time)
    yield "synthesis", "CPU time", "reference / this", "whole / this", "bar"
    for name, cost in seconds.items():
        yield (
            name, f"{cost * 1e3:,.0f} ms", f"{seconds['reference'] / cost:.2f}x",
            f"{seconds['ours, whole'] / cost:.2f}x",
            f">= {BARS['synthesis']}x" if name == "ours, whole" else "",
        )  # fmt: skip


# --- a direction for a new prompt -------------------------------------------------------------


@dataclass(frozen=True)
class TableCost:
    """What the table of secants takes: renderings counted, one of each kind timed.

    Attributes:
        renderings: channels x pictures x 2.
        seconds: of all of them, each behind the prefix of its layer and looked at by CLIP.
    """

    renderings: int
    seconds: float


def table_cost(scene: Scene, settings: SecantSettings, clock: Clock) -> TableCost:
    """Extrapolated from one rendering, layer by layer, and one look."""
    generator, seconds = scene.generator, []
    styles = scene.latent.styles(generator)
    with torch.no_grad():
        generator.synthesize(styles)  # once for nothing
        began = clock()
        for stage in generator.stages(styles):  # noqa: B007
            seconds.append(clock() - began)
            began = clock()
        assert stage.rgb is not None
        eight_bit(scene.clip)(stage.rgb)
        look = clock() - began
    renderings, total = 0, 0.0
    for index, slot in enumerate(generator.layout):
        if not slot.is_rgb:
            count = slot.size * settings.images * 2
            renderings += count
            total += count * (sum(seconds[index:]) + look)
    return TableCost(renderings, total)


def prompt_cost(scene: Scene, settings: ProbeSettings, clock: Clock) -> float:
    """Seconds of a new prompt's direction: one gradient in each picture, of which one is timed."""
    channels = sum(slot.size for slot in scene.generator.layout if not slot.is_rgb)
    styles = tuple(scene.latent.styles(scene.generator))
    one = Probes(styles, torch.ones(1, channels), torch.ones(channels), 1)  # lengths cost nothing
    text = F.normalize(torch.randn(scene.clip.embed_dim), dim=0)
    began = clock()
    one.relevance(scene.generator, scene.clip, text)
    return (clock() - began) * settings.images


def direction_rows(scenes: Mapping[str, tuple[Scene, SecantSettings]]) -> Iterator[tuple[str, ...]]:
    yield "generator", "table of secants", "renderings", "one prompt's gradient", "share", "bar"
    for name, (place, settings) in scenes.items():
        probes = ProbeSettings()
        table = table_cost(place, settings, time.process_time)
        prompt = prompt_cost(place, probes, time.process_time)
        yield (
            name, f"{table.seconds / 3600:,.3g} h (extrapolated)", f"{table.renderings:,}",
            f"{prompt:.3g} s ({probes.images} pictures)", f"{100 * prompt / table.seconds:.2g} %",
            "<= 1 %",
        )  # fmt: skip


# --- the slider -------------------------------------------------------------------------------


def slider_rows(repeats: int) -> Iterator[tuple[str, ...]]:
    """From a slider's value to a picture, as the tab does it."""
    generator, name = mini_generator()
    latent = Latent.from_seed(generator, 1)
    direction = [torch.full((slot.size,), 0.01) for slot in generator.layout]
    late = first_layer_at(generator, generator.size // 2)
    with torch.no_grad():
        start = prefix(generator, latent.styles(generator), late)

    def step(behind: bool) -> object:
        styles = latent.moved(direction, 3.0).styles(generator)
        return to_pictures(generator.synthesize(styles, start=start if behind else None))

    works = {
        "every layer changes": lambda: step(False),
        f"layers from {generator.size // 2} px on": lambda: step(True),
    }
    yield f"slider step, {name}", "CPU time", "bar"
    for what, cost in in_turn(works, repeats, time.process_time).items():
        yield what, f"{cost * 1e3:.3g} ms", "< 100 ms"


# --- absolute times ---------------------------------------------------------------------------


def absolute_rows(
    place: Scene, steps: int, repeats: int, clock: Clock
) -> Iterator[tuple[str, ...]]:
    """Whole edits beside the paper's."""
    generator, seconds = place.generator, {}
    moving = descent(place, "bfloat16")
    evaluate(moving, "bfloat16")
    began = clock()
    for _ in range(steps):
        evaluate(moving, "bfloat16")
        moving.update()
    seconds["optimised edit"] = (clock() - began) * SETTINGS.steps / steps
    mapper = new_mapper(generator, "levels").to(generator.device)
    direction = [torch.full((slot.size,), 0.01) for slot in generator.layout]
    edits: dict[str, Callable[[], Latent]] = {
        "mapper": lambda: apply_mapper(mapper, generator, place.latent),
        "direction": lambda: place.latent.moved(direction, 4.1),
    }
    works = {
        name: lambda edit=edit: to_pictures(generator.synthesize(edit().styles(generator)))  # type: ignore[misc]
        for name, edit in edits.items()
    }
    seconds |= in_turn(works, repeats, clock)
    yield f"edit at {generator.size} px", "here", "the paper"
    for name, cost in seconds.items():
        yield name, f"{cost:.3g} s", f"{PAPER[name]:g} s"


def cuda_clock() -> float:
    torch.cuda.synchronize()
    return time.perf_counter()


def main(argv: Sequence[str] | None = None) -> int:
    """Print the tables."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.styleclip", description="Measure what StyleCLIP's edits cost."
    )
    parser.add_argument("--size", type=int, default=1024, choices=(64, 128, 256, 512, 1024))
    parser.add_argument("--repeats", type=int, default=3, help="of which the median is taken")
    options = parser.parse_args(argv)
    size, repeats = options.size, options.repeats
    torch.set_num_threads(1)
    print(machine(), f"PyTorch {torch.__version__}, one thread, CPU time, {size} px.")
    print_table("The slider", slider_rows(10 * repeats))
    print_table("Synthesis", synthesis_rows(size, repeats))
    official = scene(size)
    print_table("One step of an optimisation", step_rows(official, repeats))
    official.trainable(False)
    mini = mini_generator()[0]
    small = Scene(mini, official.clip, Latent.from_seed(mini, 1))
    print_table(
        "A direction for a new prompt",
        direction_rows({
            f"{size} px": (official, SecantSettings()),
            f"{mini.size} px": (small, SecantSettings.mini()),
        }),
    )  # fmt: skip
    if not torch.cuda.is_available():
        print(
            "\nNo CUDA device here; the paper's 98 s, 75 ms and 72 ms are a GPU's and were not measured."
        )
        return 0
    print_table(
        f"On {torch.cuda.get_device_name()}",
        absolute_rows(scene(size, "cuda"), SETTINGS.steps, 10 * repeats, cuda_clock),
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
