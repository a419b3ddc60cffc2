"""CLIPDraw: strokes, moved by gradients until a critic finds that they fit the words.

Frans, Soros, Witkowski 2022, "CLIPDraw: Exploring Text-to-Drawing Synthesis through Language-Image
Encoders" (arXiv 2106.14843). The loop: render the strokes, look at the canvas through random
perspectives and crops, score the views against the prompts, follow the gradient back to the
strokes' points, widths and colours. `DrawConfig.reference()` is that loop with the notebook's
constants; `DrawConfig.default()` adds what a small critic and an impatient audience need: strokes
that start where the gradient is, come in stages from coarse to fine, and start anew when they do
nothing.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2.functional import gaussian_blur

from models.clip.encoder import ClipEncoder
from models.errors import InputError
from models.jobs import Job, Step

from . import seeding
from .backends import RASTERIZERS
from .config import MAX_STROKES, RGB, WHITE, DrawConfig
from .critic import Augmentation, Critic, Prompt
from .rasterizer import over, render, to_picture
from .strokes import Strokes, concatenate

PREVIEW_SIDE = 384
PREVIEW_S = 0.15  # a preview is drawn at most this often; four a second is the least we promise
LOOKS = 4  # views of the canvas as it is, before the first strokes are placed
WORDS_EVERY = 10  # steps between looking up the nearest words, as in the notebook
FAINT = 0.06  # a stroke of less alpha than this does nothing
IDLE = 0.02  # nor does one whose colour's gradient is this small a part of the median
NEGATIVE_WEIGHT = -0.3  # of each negative prompt, as in the notebook
GROWING = 0.6  # share of the steps in which strokes are added and begun anew; then they settle


@dataclass(frozen=True)
class Drawing:
    """A finished or stopped drawing.

    Attributes:
        strokes: on the canvas of `config`, on the CPU, without gradients.
        loss: smoothed loss at which these strokes were the best.
        nearest: words that fit it best, with probabilities.
        step: the step they were found at.
        losses: one a step.
    """

    strokes: Strokes
    prompts: tuple[Prompt, ...]
    config: DrawConfig
    models: tuple[str, ...]
    loss: float
    nearest: tuple[tuple[str, float], ...]
    step: int
    losses: tuple[float, ...]

    @property
    def title(self) -> str:
        """The prompts that are drawn towards, as one line."""
        return "; ".join(prompt.text for prompt in self.prompts if prompt.weight > 0)

    def settings(self) -> dict[str, Any]:
        """What repeats this drawing, ready for JSON."""
        return {
            "model": "+".join(self.models),
            "prompts": [asdict(prompt) for prompt in self.prompts],
            **asdict(self.config),
        }

    def picture(self, side: int | None = None) -> Image.Image:
        """RGB on the drawing's background, RGBA where that is transparent.

        Args:
            side: pixels of the longer side; None is the canvas's own.
        """
        factor = 1.0 if side is None else side / max(self.strokes.canvas)
        return picture_of(self.strokes.scaled(factor), self.config.background)


@dataclass(frozen=True)
class DrawStep(Step):
    """A step of a drawing: the best strokes so far, so that stopping loses nothing."""

    drawing: Drawing | None = None


def picture_of(strokes: Strokes, background: RGB | None) -> Image.Image:
    """Rasterise to RGB over a background, or to RGBA (straight alpha) without one."""
    with torch.no_grad():
        return to_picture(render(strokes), background)


def looks(
    canvas: Tensor,
    side: int,
    augmentation: Augmentation,
    background: RGB | None,
    blur: float,
    generator: torch.Generator,
) -> Tensor:
    """What a critic is shown of a canvas at a step of an optimisation.

    Args:
        canvas: (H, W, 4) premultiplied RGBA; the looks keep its proportions, with background
            beside it.
        side: S, pixels a side of a look.
        background: None puts another light colour behind every look.
        blur: standard deviation in pixels of a look.

    Returns:
        (copies, 3, S, S) RGB in [0, 1], differentiable in the canvas.
    """
    views = augmentation.views(canvas.permute(2, 0, 1), side, generator, _stretch(canvas))
    if background is None:
        ground = (0.5 + 0.5 * torch.rand(len(views), 3, 1, 1, generator=generator)).to(views)
    else:
        ground = views.new_tensor(background).view(1, 3, 1, 1)
    rgb = views[:, :3] + (1 - views[:, 3:]) * ground
    if blur > 0.3:
        rgb = gaussian_blur(rgb, [2 * round(2 * blur) + 1] * 2, [blur, blur])
    return augmentation.shaded(rgb, generator)


def plain_look(canvas: Tensor, side: int, background: RGB | None) -> Tensor:
    """A canvas (H, W, 4) as the critic sees it without augmentation, (3, S, S); over white if
    it has no background."""
    plain = Augmentation.none()
    return looks(canvas, side, plain, background or WHITE, 0.0, torch.Generator())[0]


def _stretch(canvas: Tensor) -> Tensor:
    """(2,) longer side over width and over height."""
    height, width = canvas.shape[:2]
    return max(height, width) / torch.tensor([width, height])


def blur_at(done: float) -> float:
    """Share of the first blur when `done` in [0, 1] of the steps are: it is gone half way."""
    return max(0.0, 1 - 2 * done)


def rate_at(done: float, schedule: str, points: bool) -> float:
    """Share of a learning rate when `done` in [0, 1] of the steps are.

    "cosine" falls smoothly to a twentieth; "steps" is the reference's, which lowers the points'
    rate only, to 0.4 half way and 0.1 at three quarters.
    """
    if schedule == "cosine":
        return 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * done))
    return 1.0 if not points or done < 0.5 else 0.4 if done < 0.75 else 0.1


def set_rates(
    optimizer: torch.optim.Optimizer, rates: Sequence[float], done: float, schedule: str
) -> None:
    """Give an optimiser's groups, of which the first holds the points, their rates for now."""
    for place, (group, rate) in enumerate(zip(optimizer.param_groups, rates)):
        group["lr"] = rate * rate_at(done, schedule, points=place == 0)


def prompts_of(
    text: str,
    negative: Sequence[str] = (),
    style: str = "",
    more: Mapping[str, float] | None = None,
) -> tuple[Prompt, ...]:
    """Prompts from what a person fills in: words, a style behind them, words to steer away from."""
    styled = f"{text}, {style}" if style else text
    return (
        Prompt(styled),
        *(Prompt(words, weight) for words, weight in (more or {}).items()),
        *(Prompt(words, NEGATIVE_WEIGHT) for words in negative),
    )


def draw(
    encoders: Sequence[ClipEncoder],
    prompts: Sequence[Prompt],
    config: DrawConfig,
    *,
    words: Sequence[str] = (),
    start: Strokes | None = None,
    region: tuple[float, float, float, float] | None = None,
) -> Job[Drawing]:
    """Draw; yields a few `Step`s while it looks at the canvas as it is, then a `DrawStep` every
    step of the optimiser, and returns the best `Drawing`.

    Args:
        encoders: critics; their scores are averaged.
        words: what the nearest words are chosen from, and what a contrastive score compares with.
        start: go on from these strokes; those that `config.strokes` asks for beyond them are added.
        region: xyxy in pixels of the canvas: only strokes whose middle lies inside are drawn anew.

    Raises:
        InputError: no prompt, or a start that is too large or empty.
    """
    critic = Critic(encoders, prompts, words, config.scoring)
    easel = _Easel(critic, config, start, region)
    yield from easel.set_up()
    for step in range(config.steps):
        easel.prepare(step)
        easel.advance(step)
        yield easel.report(step)
    return easel.drawing()


class _Easel:
    """One run's state: strokes as parameters, their optimiser, the best so far."""

    def __init__(
        self,
        critic: Critic,
        config: DrawConfig,
        start: Strokes | None,
        region: tuple[float, float, float, float] | None,
    ) -> None:
        if start is None and region is not None:
            raise InputError("A region is redrawn in a drawing to go on from; give that too.")
        self.critic, self.config, self.region = critic, config, region
        self.generator = torch.Generator().manual_seed(config.seed)
        longest = max(config.canvas)
        # No view has more pixels than the critic takes, so many more on the canvas are wasted.
        self.factor = min(1.0, 1.5 * critic.side / longest)
        self.table = self._color_table()
        self.losses: list[float] = []
        self.smooth, self.best_loss, self.best_step = float("nan"), float("inf"), 0
        self.nearest: tuple[tuple[str, float], ...] = ()
        self.shown_at = 0.0
        self.picture = self.gradient = torch.zeros(3, 1, 1)  # (3, h, w) each, from `set_up` on
        self.start = None if start is None else self._checked(start)
        self.first = 0 if start is None else len(start)

    def set_up(self) -> Iterator[Step]:
        """Look at the canvas as it is, and lay down the first strokes."""
        width, height = (max(1, round(side * self.factor)) for side in self.config.canvas)
        canvas = torch.zeros(height, width, 4, device=self.critic.device)
        if self.start is not None:
            self._take(self.start, _yes(len(self.start)))
            with torch.no_grad():
                canvas = render(self._current().scaled(self.factor))
        yield from self._look_at(canvas)
        strokes, moving = self._opening()
        self._take(strokes, moving)
        self.best = self._finished()

    # ------------------------------------------------------------------------- the loop

    def advance(self, step: int) -> None:
        """One step of the optimiser."""
        config = self.config
        set_rates(self.optimizer, self.rates, step / config.steps, config.schedule)
        current = self._current()
        rasterize = RASTERIZERS[config.rasterizer]
        canvas = rasterize(current.scaled(self.factor))  # (h, w, 4) premultiplied
        canvas.retain_grad()
        loss = self._loss(canvas, self._blur_at(step))
        ink = config.ink * current.colors[:, 3].mean()
        self.optimizer.zero_grad(set_to_none=True)
        (loss + ink).backward()  # type: ignore[no-untyped-call]
        self._remember(canvas)
        for parameter in self._parameters:
            if parameter.grad is not None:
                parameter.grad[~self.moving] = 0
        self.optimizer.step()
        self._clamp()
        self._score(float(loss.detach()), step, current)
        if step % WORDS_EVERY == 0 or step == config.steps - 1:
            self.nearest = self.critic.nearest(
                plain_look(canvas.detach(), self.critic.side, config.background)
            )

    def prepare(self, step: int) -> None:
        """Add the strokes that are due, and begin those anew that do nothing."""
        config = self.config
        if step == 0 or step > GROWING * config.steps:
            return
        due = self._due(step) - len(self.strokes)
        dead = torch.zeros(len(self.strokes), dtype=torch.bool)
        if config.reseed_every and step % config.reseed_every == 0:
            dead = self._idle()
        if due > 0 or bool(dead.any()):
            new = self._placed(max(due, 0) + int(dead.sum()), step)
            kept = self._finished().select(~dead)
            moving = self.moving.cpu()[~dead]
            self._take(concatenate([kept, new]), torch.cat([moving, _yes(len(new))]))
        if due > 0:  # what was best had fewer strokes than were asked for
            self.best_loss = float("inf")

    def report(self, step: int) -> DrawStep:
        """What there is to see of this step."""
        preview, now = None, time.monotonic()
        if now - self.shown_at > PREVIEW_S or step == self.config.steps - 1:
            longest = max(self.config.canvas)
            shown = self._finished().scaled(min(1.0, PREVIEW_SIDE / longest))
            preview, self.shown_at = picture_of(shown, self.config.background), now
        metrics = {"loss": self.losses[-1], "strokes": float(len(self.strokes))}
        done = (step + 1) / self.config.steps
        message = f"Step {step + 1} of {self.config.steps}"
        return DrawStep(done, message, preview, metrics, drawing=self.drawing())

    def drawing(self) -> Drawing:
        """The best so far."""
        return Drawing(
            self.best,
            self.critic.prompts,
            self.config,
            tuple(encoder.name for encoder in self.critic.encoders),
            self.best_loss,
            self.nearest,
            self.best_step,
            tuple(self.losses),
        )

    # ------------------------------------------------------------------ looking and scoring

    def _loss(self, canvas: Tensor, blur: float) -> Tensor:
        config, side = self.config, self.critic.side
        seen = looks(canvas, side, config.augmentation, config.background, blur, self.generator)
        return self.critic.loss(seen)

    def _blur_at(self, step: int) -> float:
        """Standard deviation in pixels of a view."""
        return blur_at(step / self.config.steps) * self.config.blur * self.critic.side

    def _score(self, loss: float, step: int, strokes: Strokes) -> None:
        """Single losses scatter with the views, so the best is taken of their running mean."""
        self.losses.append(loss)
        self.smooth = loss if step == 0 else 0.9 * self.smooth + 0.1 * loss
        if self.smooth <= self.best_loss or step == 0:
            self.best_loss, self.best_step = self.smooth, step
            self.best = strokes.detach().to("cpu")

    def _remember(self, canvas: Tensor) -> None:
        """Keep a running mean of the gradient at the canvas: it says where strokes are wanted."""
        assert canvas.grad is not None
        assert self.colors.grad is not None
        self.gradient = 0.8 * self.gradient + 0.2 * canvas.grad[..., :3].permute(2, 0, 1)
        ground = canvas.new_tensor(self.config.background or WHITE)
        self.picture = over(canvas.detach(), ground).permute(2, 0, 1)
        # Not of alpha: ink pulls at that of a stroke nobody sees, too.
        self.activity += self.colors.grad.detach()[:, :3].abs().sum(1)

    # ------------------------------------------------------------------- strokes come and go

    def _checked(self, start: Strokes) -> Strokes:
        if not 1 <= len(start) <= MAX_STROKES:
            raise InputError(f"A drawing to go on from has 1 to {MAX_STROKES} strokes.")
        if start.canvas != self.config.canvas:
            raise InputError("The drawing to go on from has a canvas of another size.")
        if self.region is not None:
            (x1, y1, x2, y2), inside = self.region, self._middles_inside(start)
            if not (x1 < x2 and y1 < y2):  # also refuses NaN
                raise InputError("The region to redraw is empty; drag it open over a part.")
            if not bool(inside.any()):
                raise InputError("No stroke has its middle in this region; choose a larger one.")
        return start.detach().to("cpu")

    def _middles_inside(self, strokes: Strokes) -> Tensor:
        """(N,) bool: whose points' mean lies in the region."""
        assert self.region is not None
        own = strokes.own[..., None]
        middle = (strokes.points * own).sum(1) / own.sum(1)  # (N, 2)
        low, high = (middle.new_tensor(corner) for corner in (self.region[:2], self.region[2:]))
        return ((middle >= low) & (middle <= high)).all(1)

    def _opening(self) -> tuple[Strokes, Tensor]:
        """The first strokes, and which of them move."""
        config, start = self.config, self.start
        if start is not None and self.region is not None:
            return self._renewed(start)
        missing = self._due(0) - self.first
        if start is None and config.start == "random":
            new = seeding.random_strokes(
                missing, config.canvas, config.half_width * config.scale, self.generator,
                config.max_segments,
            )  # fmt: skip
        elif missing > 0:
            new = self._placed(missing, 0)
        else:
            new = None
        strokes = concatenate([part for part in (start, new) if part is not None])
        return strokes, _yes(len(strokes))

    def _renewed(self, start: Strokes) -> tuple[Strokes, Tensor]:
        """Strokes whose middle lies in the region begin anew there; the others stay as they are."""
        inside = self._middles_inside(start)
        count = int(inside.sum())
        moving = torch.cat([~_yes(len(start) - count), _yes(count)])
        return concatenate([start.select(~inside), self._placed(count, 0)]), moving

    def _due(self, step: int) -> int:
        """How many strokes there should be by now."""
        config, stages = self.config, self.config.stages
        if self.first:
            return self.first if self.region else max(self.first, config.strokes)
        if config.steps < 10:  # too short to come in stages
            return config.strokes
        stage = min(len(stages) - 1, int(len(stages) * step / (GROWING * config.steps)))
        return max(1, round(config.strokes * stages[stage]))

    def _placed(self, count: int, step: int) -> Strokes:
        """New strokes where the gradient asks for them; later ones are finer."""
        config = self.config
        weight, colors = seeding.gradient_maps(self.gradient.cpu(), self.picture.cpu())
        if self.region is not None:
            weight = weight * _inside(self.region, weight, self.factor)
        elif step == 0:
            weight = weight * middle_weight(weight) ** config.centred
        fine = 1.0 - 0.5 * step / config.steps if len(config.stages) > 1 else 1.0
        low, high = config.width_range
        half_width = min(max(config.half_width * fine, low), high) * config.scale
        return seeding.placed_strokes(
            weight, colors, count, config.canvas, half_width, self.generator, config.max_segments
        )

    def _idle(self) -> Tensor:
        """(N,) bool: faint, hidden under others or off the canvas since the last look."""
        faint = self.colors.detach()[:, 3] < FAINT
        idle = self.activity < IDLE * self.activity.median()
        self.activity.zero_()
        return ((faint | idle) & self.moving).cpu()

    def _look_at(self, canvas: Tensor) -> Iterator[Step]:
        """Take in a canvas and the mean gradient there, as far as any stroke is to be placed."""
        config = self.config
        ground = canvas.new_tensor(config.background or WHITE)
        self.picture = over(canvas, ground).permute(2, 0, 1)  # (3, h, w)
        self.gradient = torch.zeros_like(self.picture)
        random = self.start is None and config.start == "random"
        if random and len(config.stages) == 1 and not config.reseed_every:
            return
        for look in range(LOOKS):
            yield Step(0.0, f"Look {look + 1} of {LOOKS} at the canvas")
            seen = canvas.clone().requires_grad_(True)
            (gradient,) = torch.autograd.grad(self._loss(seen, self._blur_at(0)), seen)
            self.gradient += gradient[..., :3].permute(2, 0, 1)

    # --------------------------------------------------------------------------- parameters

    def _take(self, strokes: Strokes, moving: Tensor) -> None:
        """Make these strokes the parameters, with a fresh optimiser; `moving` (N,) are not frozen."""
        config, scale = self.config, self.config.scale
        self.strokes = strokes = strokes.to(self.critic.device)
        self.moving = moving.to(self.critic.device)
        self.points = strokes.points.clone().requires_grad_(True)
        self.half_widths = strokes.half_widths.clone().requires_grad_(True)
        self.colors = strokes.colors.clone().requires_grad_(True)
        self.fills = None if strokes.fills is None else strokes.fills.clone().requires_grad_(True)
        self.activity = torch.zeros(len(strokes), device=self.critic.device)
        low, high = config.width_range
        width_rate = config.width_rate if high > low else 0.0
        color_parameters = [self.colors] + ([] if self.fills is None else [self.fills])
        groups: list[dict[str, Any]] = [
            {"params": [self.points], "lr": config.point_rate * scale},
            {"params": [self.half_widths], "lr": width_rate * scale},
            {"params": color_parameters, "lr": config.color_rate},
        ]
        self._parameters = [self.points, self.half_widths, *color_parameters]
        if self.table is not None and self.table.requires_grad:
            groups.append({"params": [self.table], "lr": config.color_rate})
        self.rates = [float(group["lr"]) for group in groups]
        self.optimizer = torch.optim.Adam(groups)
        self._clamp()

    def _clamp(self) -> None:
        low, high = (side * self.config.scale for side in self.config.width_range)
        with torch.no_grad():
            moving = self.half_widths[self.moving]
            self.half_widths[self.moving] = moving.clamp(low, high)
            for tensor in (self.colors, self.fills, self.table):
                if tensor is not None:
                    tensor.clamp_(0, 1)

    def _color_table(self) -> Tensor | None:
        palette = self.config.palette
        if palette.learned:
            table = torch.rand(palette.learned, 3, generator=self.generator)
            return table.to(self.critic.device).requires_grad_(True)
        return torch.tensor(palette.colors, device=self.critic.device) if palette.colors else None

    def _painted(self, rgba: Tensor) -> Tensor:
        """Straight RGBA in the palette's colours.

        The nearest colour is taken in the forward pass; the gradient goes to it and, straight
        through, to the free colour behind it, which may so come nearer to another one.
        """
        if self.table is None:
            return rgba
        free = rgba[:, :3]
        chosen = torch.cdist(free.detach(), self.table.detach()).argmin(1)
        return torch.cat([self.table[chosen] + (free - free.detach()), rgba[:, 3:]], dim=1)

    def _current(self) -> Strokes:
        """The strokes as they are painted now, differentiable."""
        return replace(
            self.strokes,
            points=self.points,
            half_widths=self.half_widths,
            colors=self._painted(self.colors),
            fills=None if self.fills is None else self._painted(self.fills),
        )

    def _finished(self) -> Strokes:
        with torch.no_grad():
            return self._current().detach().to("cpu")


def _yes(count: int) -> Tensor:
    return torch.ones(count, dtype=torch.bool)


def middle_weight(like: Tensor) -> Tensor:
    """(h, w) 1 in the middle, falling to 0 at the border like a squared cosine."""
    rows, columns = (
        torch.hann_window(count + 2, periodic=False)[1:-1].to(like) for count in like.shape
    )
    return rows[:, None] * columns


def _inside(region: tuple[float, float, float, float], like: Tensor, factor: float) -> Tensor:
    """(h, w) 1 in cells that a region given in canvas pixels touches, 0 elsewhere."""
    x1, y1, x2, y2 = (side * factor for side in region)
    rows, columns = torch.arange(like.shape[0]), torch.arange(like.shape[1])
    across, down = (columns + 1 > x1) & (columns < x2), (rows + 1 > y1) & (rows < y2)
    return (down[:, None] & across).float()
