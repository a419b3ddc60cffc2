"""Strokes in space: one sculpture of curves that reads differently from different sides.

The authors of CLIPDraw also published strokes in three dimensions: curves seen by a camera on a
circle about them, asked for other words from other sides. The loop is that of a flat drawing; the
gradient goes on through the camera to the control points in space.

The world is right-handed with y up and the sculpture about its origin; lengths are in its units,
the camera three of them away. Angles are degrees. At azimuth 0 the camera stands on the z axis, at
90 on the x axis.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from models.clip.encoder import ClipEncoder
from models.errors import InputError
from models.jobs import Job, Step

from . import seeding
from .config import (
    MAX_SIDE,
    MAX_STEPS,
    MAX_STROKES,
    REFERENCE_SIDE,
    RGB,
    WHITE,
    check_ranges,
)
from .critic import Augmentation, Critic, Prompt, Scoring
from .drawing import (
    LOOKS,
    PREVIEW_S,
    WORDS_EVERY,
    blur_at,
    looks,
    middle_weight,
    picture_of,
    plain_look,
    set_rates,
)
from .rasterizer import over, render
from .strokes import Strokes, concatenate

MAX_VIEWS = 4
MAX_FRAMES = 240
NEAR = 0.1  # a stroke that comes nearer to the camera than this is left out
PREVIEW_SIDE = 240


@dataclass(frozen=True)
class Camera:
    """A pinhole camera on a circle about the vertical axis, looking at the origin.

    Attributes:
        radius: distance to the origin, 1 to 10.
        field_of_view: angle that the canvas's shorter side spans, 10 to 120 degrees.
        elevation: of the camera over the horizon, -80 to 80 degrees.
        canvas: width and height in pixels, 16 to 2048 each.
    """

    radius: float = 3.0
    field_of_view: float = 45.0
    elevation: float = 10.0
    canvas: tuple[int, int] = (REFERENCE_SIDE, REFERENCE_SIDE)

    def __post_init__(self) -> None:
        check_ranges(
            ("The camera's distance", self.radius, 1, 10),
            ("The field of view", self.field_of_view, 10, 120),
            ("The elevation", self.elevation, -80, 80),
            ("The canvas's width", self.canvas[0], 16, MAX_SIDE),
            ("The canvas's height", self.canvas[1], 16, MAX_SIDE),
        )

    @property
    def focal(self) -> float:
        """Pixels of a length at a depth as large as itself."""
        return min(self.canvas) / 2 / math.tan(math.radians(self.field_of_view) / 2)

    def scaled(self, factor: float) -> Camera:
        """The same camera with a canvas `factor` times as large."""
        width, height = (max(16, round(length * factor)) for length in self.canvas)
        return replace(self, canvas=(width, height))

    def project(self, points: Tensor, azimuth: float) -> tuple[Tensor, Tensor]:
        """Points (..., 3) in space to pixels (..., 2) and depths (...) along the line of sight."""
        right, up, depth = (points @ self._axes(azimuth).to(points).T).unbind(-1)
        depth = self.radius + depth
        # What is behind the camera is left out by the caller; it must not divide by zero here.
        scale = self.focal / depth.clamp(min=NEAR)
        places = torch.stack([right * scale, -up * scale], dim=-1)
        return places + places.new_tensor(self.canvas) / 2, depth

    def lift(self, places: Tensor, depth: Tensor, azimuth: float) -> Tensor:
        """The inverse of `project`: pixels (..., 2) at depths (...) to points (..., 3)."""
        offset = (places - places.new_tensor(self.canvas) / 2) * (depth / self.focal)[..., None]
        own = torch.stack([offset[..., 0], -offset[..., 1], depth - self.radius], dim=-1)
        return own @ self._axes(azimuth).to(places)

    def _axes(self, azimuth: float) -> Tensor:
        """(3, 3) float64 rows: right, up and the line of sight as the camera has them."""
        a, e = math.radians(azimuth), math.radians(self.elevation)
        right = (math.cos(a), 0.0, -math.sin(a))
        up = (-math.sin(e) * math.sin(a), math.cos(e), -math.sin(e) * math.cos(a))
        ahead = (-math.cos(e) * math.sin(a), -math.sin(e), -math.cos(e) * math.cos(a))
        return torch.tensor([right, up, ahead], dtype=torch.float64)


@dataclass(frozen=True)
class SpaceConfig:
    """Everything that decides a sculpture besides the words and the critic.

    Attributes:
        strokes: how many, 1 to 1024.
        steps: of the optimiser, 1 to 5000; the sides take turns, one a step (for as many looks
            two sides fitted better so than with both in every step).
        max_segments: cubic segments of a stroke, 1 to 8.
        half_width, width_range: half widths of new strokes and their limits, in units of the
            world, 0.001 to 1.
        camera: where it is seen from, and the canvas.
        jitter: a side is looked at from up to this many degrees to its left and right, so that
            it is more than a flat picture; 0 to 90.
        spread: how far a new stroke may lie before or behind the middle of its side's half, 0 to 1.
        extent: radius of the ball about the origin that control points keep to, 0.1 to 2.5.
        ink: cost of the mean alpha, 0 to 1; lets strokes vanish that serve no side.
        background: RGB in [0, 1]; None is transparent, judged over random light grounds.
        point_rate, width_rate, color_rate: Adam's learning rates, units of the world a step.
        schedule: of the rates, see `drawing.rate_at`.
        start: "random" about the origin, or "gradient": each side's share of the strokes begins
            where its words ask for strokes, in the half of the world that is nearer to it.
        blur: as in `DrawConfig`.
        augmentation, scoring: how the critic looks and what it is asked.
        seed: of everything random; on a CPU the same seed gives the same sculpture.
    """

    strokes: int = 128
    steps: int = 300
    max_segments: int = 3
    half_width: float = 0.035
    width_range: tuple[float, float] = (0.01, 0.12)
    camera: Camera = field(default_factory=Camera)
    jitter: float = 12.0
    spread: float = 0.6
    extent: float = 1.6
    ink: float = 0.02
    background: RGB | None = WHITE
    point_rate: float = 0.02
    width_rate: float = 0.002
    color_rate: float = 0.03
    schedule: str = "cosine"
    start: str = "gradient"
    blur: float = 0.03
    augmentation: Augmentation = field(default_factory=Augmentation.strong)
    scoring: Scoring = field(default_factory=Scoring)
    seed: int = 0

    @staticmethod
    def default() -> SpaceConfig:
        """For a large critic: the paper's objective."""
        return SpaceConfig(augmentation=replace(Augmentation.strong(), copies=4))

    @staticmethod
    def mini() -> SpaceConfig:
        """For clip-mini: more views, and scores told apart from those of all other words."""
        return SpaceConfig(scoring=Scoring(contrast=0.3))

    @staticmethod
    def reference() -> SpaceConfig:
        """The published 200 strokes, 500 steps and camera, with the flat notebook's views."""
        return SpaceConfig(
            strokes=200, steps=500, schedule="steps", start="random", blur=0.0, extent=2.5, ink=0.0,
            camera=Camera(radius=3.0), augmentation=Augmentation(),
            scoring=Scoring(normalize=False),
        )  # fmt: skip

    def __post_init__(self) -> None:
        low, high = self.width_range
        check_ranges(
            ("The number of strokes", self.strokes, 1, MAX_STROKES),
            ("The number of steps", self.steps, 1, MAX_STEPS),
            ("The segments of a stroke", self.max_segments, 1, 8),
            ("The smallest half width", low, 0.001, 1),
            ("The largest half width", high, low, 1),
            ("The half width", self.half_width, 0.001, 1),
            ("The jitter", self.jitter, 0, 90),
            ("The spread", self.spread, 0, 1),
            ("The extent", self.extent, 0.1, 2.5),
            ("The cost of ink", self.ink, 0, 1),
            ("The points' rate", self.point_rate, 0, 1),
            ("The widths' rate", self.width_rate, 0, 1),
            ("The colours' rate", self.color_rate, 0, 1),
            ("The blur", self.blur, 0, 1),
            ("The seed", self.seed, 0, 2**32 - 1),
            *(("A part of the background", part, 0, 1) for part in self.background or ()),
        )
        if self.schedule not in ("steps", "cosine") or self.start not in ("random", "gradient"):
            raise InputError("Schedules are steps or cosine, starts are random or gradient.")


@dataclass(frozen=True)
class SpaceStrokes:
    """N open paths of cubic segments in space.

    Attributes:
        points: (N, P, 3) control points, padded as in `Strokes`.
        segments: (N,) int64. half_widths: (N,) in units of the world.
        colors: (N, 4) straight RGBA in [0, 1].
        camera: what they are seen by.
    """

    points: Tensor
    segments: Tensor
    half_widths: Tensor
    colors: Tensor
    camera: Camera

    def __len__(self) -> int:
        return len(self.segments)

    def seen_from(self, azimuth: float, factor: float = 1.0) -> Strokes:
        """The flat drawing that the camera sees from an azimuth, on a canvas `factor` as large.

        Control points are projected, which is exact for their straight lines and close for curves
        that are small against their distance. A stroke is as wide as one at its mean depth, and
        further strokes are painted first; strokes that come behind the camera are left out.
        Differentiable in all but the order.
        """
        camera = self.camera.scaled(factor)
        points, depth = camera.project(self.points, azimuth)  # (N, P, 2), (N, P)
        flat = Strokes(
            points, self.segments, self.half_widths, self.colors, camera.canvas,
            torch.zeros_like(self.segments, dtype=torch.bool),
        )  # fmt: skip
        mean = (depth * flat.own).sum(1) / flat.lengths  # (N,)
        nearest = depth.masked_fill(~flat.own, math.inf).amin(1)
        flat = replace(flat, half_widths=self.half_widths * camera.focal / mean.clamp(min=NEAR))
        order = mean.detach().argsort(descending=True, stable=True)
        return flat.select(order[nearest[order] >= NEAR])

    def detach(self) -> SpaceStrokes:
        """A copy on the CPU without gradients that shares nothing with this one."""

        def kept(tensor: Tensor) -> Tensor:
            return tensor.detach().to("cpu", copy=True)

        return SpaceStrokes(
            kept(self.points),
            kept(self.segments),
            kept(self.half_widths),
            kept(self.colors),
            self.camera,
        )


@dataclass(frozen=True)
class SpaceDrawing:
    """A finished or stopped sculpture.

    Attributes:
        strokes: on the CPU, without gradients.
        views: the i-th of n prompt lists is asked for from azimuth 360 i / n.
        loss: mean of the sides' smoothed losses at which these strokes were the best; infinite
            until every side had its turn.
        nearest: a side, the words that fit it best, with probabilities.
        step: the step they were found at.
        losses: one a step, of the side whose turn it was.
    """

    strokes: SpaceStrokes
    views: tuple[tuple[Prompt, ...], ...]
    config: SpaceConfig
    models: tuple[str, ...]
    loss: float
    nearest: tuple[tuple[tuple[str, float], ...], ...]
    step: int
    losses: tuple[float, ...]

    def settings(self) -> dict[str, Any]:
        """What repeats this sculpture, ready for JSON."""
        return {
            "model": "+".join(self.models),
            "views": [[asdict(prompt) for prompt in prompts] for prompts in self.views],
            **asdict(self.config),
        }

    def picture(self, azimuth: float, side: int | None = None) -> Image.Image:
        """RGB on the background, RGBA where that is transparent.

        Args:
            side: pixels of the longer side; None is the canvas's own.
        """
        factor = 1.0 if side is None else side / max(self.config.camera.canvas)
        return picture_of(self.strokes.seen_from(azimuth, factor), self.config.background)

    def sides(self, side: int) -> Image.Image:
        """All views that were asked for, side by side, `side` pixels each."""
        pictures = [self.picture(azimuth, side) for azimuth in azimuths(len(self.views))]
        sheet = Image.new(pictures[0].mode, (sum(p.width for p in pictures), pictures[0].height))
        for place, picture in enumerate(pictures):
            sheet.paste(picture, (place * picture.width, 0))
        return sheet


@dataclass(frozen=True)
class SpaceStep(Step):
    """A step of a sculpture: the best so far, so that stopping loses nothing."""

    drawing: SpaceDrawing | None = None


def azimuths(count: int) -> list[float]:
    """Where `count` sides are looked at from."""
    return [360.0 * place / count for place in range(count)]


def turntable(drawing: SpaceDrawing, frames: int, side: int) -> Iterator[Image.Image]:
    """One turn of the camera about a sculpture; after the last frame the first fits again.

    Args:
        frames: 2 to 240.
        side: pixels of the longer side, 16 to 2048.

    Raises:
        InputError: numbers beyond these limits, at once.
    """
    check_ranges(("The number of frames", frames, 2, MAX_FRAMES), ("The side", side, 16, MAX_SIDE))
    return (drawing.picture(azimuth, side) for azimuth in azimuths(frames))


def draw_in_space(
    encoders: Sequence[ClipEncoder],
    views: Sequence[Sequence[Prompt]],
    config: SpaceConfig,
    *,
    words: Sequence[str] = (),
) -> Job[SpaceDrawing]:
    """Draw in space; yields a `SpaceStep` every step and returns the best `SpaceDrawing`.

    Args:
        encoders: critics; their scores are averaged.
        views: 1 to 4 lists of prompts; the i-th of n is asked for from azimuth 360 i / n.
        words: as in `drawing.draw`.

    Raises:
        InputError: no view or more than four, or a view without a prompt.
    """
    if not 1 <= len(views) <= MAX_VIEWS:
        raise InputError(f"Give prompts for 1 to {MAX_VIEWS} sides, not {len(views)}.")
    critics = [Critic(encoders, prompts, words, config.scoring) for prompts in views]
    sculpture = _Sculpture(critics, config)
    for step in range(config.steps):
        sculpture.advance(step)
        yield sculpture.report(step)
    return sculpture.drawing()


class _Sculpture:
    """One run's state: strokes in space as parameters, their optimiser, the best so far."""

    def __init__(self, critics: Sequence[Critic], config: SpaceConfig) -> None:
        self.critics, self.config = critics, config
        self.azimuths = azimuths(len(critics))
        self.generator = torch.Generator().manual_seed(config.seed)
        # No view has more pixels than the critic takes, so many more on the canvas are wasted.
        self.factor = min(1.0, 1.5 * critics[0].side / max(config.camera.canvas))
        self.losses: list[float] = []
        self.smooth = [float("nan")] * len(critics)
        self.best_loss, self.best_step = float("inf"), 0
        self.nearest: tuple[tuple[tuple[str, float], ...], ...] = ((),) * len(critics)
        self.shown_at = 0.0
        self._take(self._opening())
        self.best = self.strokes.detach()

    # ------------------------------------------------------------------------- the loop

    def advance(self, step: int) -> None:
        """One step of the optimiser, from the side whose turn it is."""
        turn = step % len(self.critics)
        set_rates(self.optimizer, self.rates, step / self.config.steps, self.config.schedule)
        away = self.config.jitter * float(2 * torch.rand((), generator=self.generator) - 1)
        canvas = render(self.strokes.seen_from(self.azimuths[turn] + away, self.factor))
        loss = self._loss(canvas, turn, step)
        ink = self.config.ink * self.strokes.colors[:, 3].mean()
        self.optimizer.zero_grad(set_to_none=True)
        (loss + ink).backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self._clamp()
        self._score(float(loss.detach()), turn, step)
        if step % WORDS_EVERY == 0 or step == self.config.steps - 1:
            self.nearest = self._words()

    def report(self, step: int) -> SpaceStep:
        """What there is to see of this step: all sides side by side."""
        preview, now, drawing = None, time.monotonic(), self.drawing()
        if now - self.shown_at > PREVIEW_S or step == self.config.steps - 1:
            shown = replace(drawing, strokes=self.strokes.detach())
            preview, self.shown_at = shown.sides(PREVIEW_SIDE), now
        metrics = {"loss": self.losses[-1], "strokes": float(len(self.strokes))}
        done = (step + 1) / self.config.steps
        message = f"Step {step + 1} of {self.config.steps}"
        return SpaceStep(done, message, preview, metrics, drawing=drawing)

    def drawing(self) -> SpaceDrawing:
        """The best so far."""
        return SpaceDrawing(
            self.best,
            tuple(critic.prompts for critic in self.critics),
            self.config,
            tuple(encoder.name for encoder in self.critics[0].encoders),
            self.best_loss,
            self.nearest,
            self.best_step,
            tuple(self.losses),
        )

    # ------------------------------------------------------------------ looking and scoring

    def _loss(self, canvas: Tensor, turn: int, step: int) -> Tensor:
        config, critic = self.config, self.critics[turn]
        blur = blur_at(step / config.steps) * config.blur * critic.side
        return critic.loss(
            looks(canvas, critic.side, config.augmentation, config.background, blur, self.generator)
        )

    def _score(self, loss: float, turn: int, step: int) -> None:
        """The best has the lowest mean of the sides' running means, once all had their turn."""
        self.losses.append(loss)
        first = step < len(self.critics)
        self.smooth[turn] = loss if first else 0.9 * self.smooth[turn] + 0.1 * loss
        mean = sum(self.smooth) / len(self.smooth)
        if mean <= self.best_loss or first:
            self.best_loss, self.best_step = (math.inf if math.isnan(mean) else mean), step
            self.best = self.strokes.detach()

    @torch.no_grad()
    def _words(self) -> tuple[tuple[tuple[str, float], ...], ...]:
        """A side, the words nearest to what is seen from there."""
        found = []
        for critic, azimuth in zip(self.critics, self.azimuths):
            canvas = render(self.strokes.seen_from(azimuth, self.factor))
            found.append(critic.nearest(plain_look(canvas, critic.side, self.config.background)))
        return tuple(found)

    # --------------------------------------------------------------------------- parameters

    def _opening(self) -> SpaceStrokes:
        """The first strokes, shared out among the sides."""
        config, count = self.config, len(self.critics)
        shares = [(config.strokes + place) // count for place in range(count)]
        parts = [self._begun(share, turn) for turn, share in enumerate(shares) if share]
        flat = concatenate([part for part, _ in parts])
        points = torch.cat([points for _, points in parts])
        half_widths = torch.full((len(flat),), config.half_width)
        return SpaceStrokes(points, flat.segments, half_widths, flat.colors, config.camera)

    def _begun(self, count: int, turn: int) -> tuple[Strokes, Tensor]:
        """Flat strokes as one side would begin, and their control points (N, P, 3) in space."""
        config, camera = self.config, self.config.camera
        if config.start == "random":
            flat = seeding.random_strokes(
                count, camera.canvas, 1.0, self.generator, config.max_segments
            )
            middle, spread = 0.0, 1.0
        else:
            flat = seeding.placed_strokes(
                *self._maps(turn), count, camera.canvas, 1.0, self.generator, config.max_segments
            )
            middle, spread = -config.spread, config.spread
        away = 2 * torch.rand(count, 1, generator=self.generator) - 1
        depth = (camera.radius + middle + spread * away).expand(flat.points.shape[:2])
        return flat, camera.lift(flat.points, depth, self.azimuths[turn])

    def _maps(self, turn: int) -> tuple[Tensor, Tensor]:
        """Where a side's words ask for strokes on the empty canvas, and in which colours."""
        width, height = self.config.camera.scaled(self.factor).canvas
        canvas = torch.zeros(height, width, 4, device=self.critics[0].device, requires_grad=True)
        total = sum((self._loss(canvas, turn, 0) for _ in range(LOOKS)), canvas.new_zeros(()))
        (gradient,) = torch.autograd.grad(total, canvas)
        picture = over(canvas.detach(), canvas.new_tensor(self.config.background or WHITE))
        weight, colors = seeding.gradient_maps(
            gradient[..., :3].permute(2, 0, 1).cpu(), picture.permute(2, 0, 1).cpu()
        )
        return weight * middle_weight(weight), colors

    def _take(self, strokes: SpaceStrokes) -> None:
        """Make these strokes the parameters."""
        config, device = self.config, self.critics[0].device
        points, half_widths, colors = (
            tensor.to(device).requires_grad_(True)
            for tensor in (strokes.points, strokes.half_widths, strokes.colors)
        )
        segments = strokes.segments.to(device)
        self.strokes = SpaceStrokes(points, segments, half_widths, colors, config.camera)
        self.rates = [config.point_rate, config.width_rate, config.color_rate]
        self.optimizer = torch.optim.Adam(
            {"params": [tensor], "lr": rate}
            for tensor, rate in zip((points, half_widths, colors), self.rates)
        )
        self._clamp()

    def _clamp(self) -> None:
        with torch.no_grad():
            length = self.strokes.points.norm(dim=-1, keepdim=True)
            self.strokes.points.mul_((self.config.extent / length.clamp(min=1e-9)).clamp(max=1))
            self.strokes.half_widths.clamp_(*self.config.width_range)
            self.strokes.colors.clamp_(0, 1)
