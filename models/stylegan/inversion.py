"""Finds the latent of a picture: by an encoder, by optimisation, or by both.

Abdal et al. 2019, "Image2StyleGAN" (arXiv 1904.03189): gradient descent in W+ on pixels and on
perceptual features. Started from an encoder's code (Tov et al. 2021) it needs tens of steps
instead of a thousand, and stays where edits work.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from models.clip.layers import layer_distance
from models.errors import InputError
from models.jobs import Job, Step
from models.pictures import on_white
from models.stylegan.generator import Generator, to_pictures
from models.stylegan.latent import Latent

MAX_STEPS = 1000
# A picture of 1024 px is compared at this side: finer detail is beyond what W+ can hold.
LOSS_SIZE = 256
SPREAD_SAMPLES = 256
LEAST_SPREAD = 1e-3
RAMP_DOWN = 0.5  # share of the steps in which the rate falls to zero

Features = Callable[[Tensor], Sequence[Tensor]]
"""(B, 3, H, W) about [-1, 1] -> feature maps (B, C, h, w); `models.clip.layers.ClipLayers` is one."""


class Encoder(Protocol):
    """What inversion needs of an encoder; `models.stylegan.e4e.E4e` has it."""

    def __call__(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] -> W+ (B, rows, D)."""


@dataclass(frozen=True)
class InversionSettings:
    """Everything that decides an inversion besides picture and models.

    Attributes:
        steps: of Adam, 0 to 1000; 0 takes the encoder's code as it is.
        rate: learning rate, in deviations of w.
        pixels: weight of the mean squared pixel difference, pictures in [-1, 1].
        features: weight of the feature distance, where `invert` is given features.
        regularity: weight of the mean squared distance from the mean latent, in deviations of w;
            more of it gives a latent that is easier to edit and less like the picture.
        preview_every: steps between pictures.

    Raises:
        InputError: a number out of range.
    """

    steps: int = 50
    rate: float = 0.1
    pixels: float = 1.0
    features: float = 0.05
    regularity: float = 1e-4
    preview_every: int = 5

    def __post_init__(self) -> None:
        if not 0 <= self.steps <= MAX_STEPS:
            raise InputError(f"Give 0 to {MAX_STEPS} inversion steps, not {self.steps}.")
        if not 0 < self.rate <= 10:  # also refuses NaN
            raise InputError(f"The inversion's rate lies in (0, 10], not at {self.rate}.")
        for name in ("pixels", "features", "regularity"):
            weight = getattr(self, name)
            if not 0 <= weight <= 1000:
                raise InputError(f"The weight of {name} lies in [0, 1000], not at {weight}.")
        if self.preview_every < 1:
            raise InputError(f"Show a picture every 1 or more steps, not {self.preview_every}.")


def picture_tensor(image: Image.Image, size: int) -> Tensor:
    """(1, 3, size, size) float32 in [-1, 1]; transparency lies on white, a picture that is no
    square loses what its longer side has too much, half at either end."""
    rgb = on_white(image)
    side = min(rgb.size)
    left, top = (rgb.width - side) // 2, (rgb.height - side) // 2
    square = rgb.crop((left, top, left + side, top + side))
    square = square.resize((size, size), Image.Resampling.LANCZOS)
    pixels = torch.from_numpy(np.array(square, np.float32))  # (H, W, 3)
    return pixels.permute(2, 0, 1)[None] / 127.5 - 1


def psnr(ours: Tensor, theirs: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of pictures in [-1, 1], ours clamped to it."""
    error = float((ours.detach().clamp(-1, 1) - theirs).square().mean())
    return 10 * math.log10(4 / max(error, 1e-10))


@torch.no_grad()
def latent_spread(generator: Generator) -> Tensor:
    """(D,) deviation of mapped z along each coordinate: the unit in which w is moved."""
    random = torch.Generator().manual_seed(0)
    z = torch.randn(SPREAD_SAMPLES, generator.noise_size, generator=random)
    return generator.mapping(z.to(generator.mean_latent)).std(dim=0).clamp(min=LEAST_SPREAD)


def invert(
    generator: Generator,
    encoder: Encoder | None,
    image: Image.Image,
    settings: InversionSettings | None = None,
    features: Features | None = None,
) -> Job[Latent]:
    """The latent whose picture comes closest to `image`; steps carry the metrics `psnr`, `loss`.

    Args:
        encoder: gives the start; None starts from the mean latent.
        image: aligned as the generator's own pictures are (`alignment.align`); any size.
        settings: None is the default.
        features: what the feature distance compares; None compares pixels only.

    Raises:
        InputError: neither an encoder nor a step is asked for, the encoder belongs to another
            generator, or the generator gives no numbers.
    """
    settings = settings or InversionSettings()
    if encoder is None and not settings.steps:
        raise InputError("There is no encoder for this generator; give at least one step.")
    descent = _Descent(generator, encoder, image, settings, features)
    for done in range(settings.steps):
        shown = done % settings.preview_every == 0
        descent.evaluate()
        yield descent.step(done / settings.steps, f"Step {done} of {settings.steps}", shown)
        descent.update(done)
    descent.evaluate(slope=False)  # the last update has not been judged yet
    yield descent.step(1.0, "The picture is inverted", True)
    return descent.best


@dataclass
class _Descent:
    """The state of one inversion, for `invert`, which says what the arguments mean."""

    generator: Generator
    encoder: Encoder | None
    image: Image.Image
    settings: InversionSettings
    features: Features | None
    metrics: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        generator = self.generator
        with torch.no_grad():
            target = picture_tensor(self.image, generator.size).to(generator.mean_latent)
            self.start = self._first_code(target)  # (1, rows, D)
            self.target = _reduced(target)
            self.seen = None if self.features is None else self.features(self.target)
        self.spread = latent_spread(generator)
        self.mean = generator.mean_latent
        # Moved in deviations of w, so that one rate suits every generator.
        self.move = torch.zeros_like(self.start, requires_grad=True)
        self.adam = torch.optim.Adam([self.move], lr=self.settings.rate)
        self.best, self.least = Latent.from_w_plus(self.start[0]), math.inf

    def _first_code(self, target: Tensor) -> Tensor:
        generator = self.generator
        if self.encoder is None:
            return generator.broadcast(generator.mean_latent[None]).clone()
        code = self.encoder(target).to(generator.mean_latent)
        Latent.from_w_plus(code[0]).check(generator)
        return code

    def evaluate(self, slope: bool = True) -> None:
        """Look at the current picture, with the gradient if `slope`; keep its latent if it is the
        best so far."""
        with torch.set_grad_enabled(slope):
            w_plus = self.start + self.move * self.spread
            picture = _reduced(self.generator.synthesize(self.generator.styles(w_plus)))
            loss = self._loss(picture, w_plus)
            if slope:
                # Not backward(): a generator that is not frozen must not gather gradients.
                (self.move.grad,) = torch.autograd.grad(loss, self.move)
        self.picture = picture.detach()
        self.metrics = {"loss": float(loss.detach()), "psnr": psnr(self.picture, self.target)}
        if not math.isfinite(self.metrics["loss"]):
            raise InputError(
                "The generator's picture is no longer made of numbers; use a lower rate or another "
                "picture."
            )
        if self.metrics["loss"] < self.least:
            self.least, self.best = self.metrics["loss"], Latent.from_w_plus(w_plus[0])

    def _loss(self, picture: Tensor, w_plus: Tensor) -> Tensor:
        settings = self.settings
        loss = settings.pixels * (picture - self.target).square().mean()
        if self.features is not None and self.seen is not None and settings.features:
            distance = layer_distance(self.features(picture), self.seen)
            loss = loss + settings.features * distance.mean()
        away = (w_plus - self.mean) / self.spread
        return loss + settings.regularity * away.square().mean()

    def update(self, done: int) -> None:
        """One step of Adam along the gradient of the last `evaluate`; the rate falls at the end."""
        remaining = (1 - done / self.settings.steps) / RAMP_DOWN
        share = 0.5 - 0.5 * math.cos(math.pi * min(1.0, remaining))
        self.adam.param_groups[0]["lr"] = self.settings.rate * share
        self.adam.step()

    def step(self, fraction: float, message: str, shown: bool) -> Step:
        preview = to_pictures(self.picture)[0] if shown else None
        return Step(fraction, message, preview, dict(self.metrics))


def _reduced(picture: Tensor) -> Tensor:
    """At most `LOSS_SIZE` pixels a side, by averaging whole squares."""
    factor = max(picture.shape[-1] // LOSS_SIZE, 1)
    return F.avg_pool2d(picture, factor) if factor > 1 else picture
