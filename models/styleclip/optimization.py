"""StyleCLIP by latent optimisation: gradients from CLIP move one picture's latent.

Patashnik et al. 2021, "StyleCLIP: Text-Driven Manipulation of StyleGAN Imagery" (arXiv
2103.17249), section 4:

    argmin over w of  D_CLIP(G(w), t) + lambda_L2 |w - w_s|^2 + lambda_ID L_ID(w)      (eq. 1)

with D_CLIP one minus the cosine. The L2 term is a sum over all entries. What is returned is the
best latent that was seen and the picture of that very latent; the reference returns the last
latent with the picture before it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from PIL import Image
from torch import Tensor

from models.errors import InputError
from models.jobs import Job, Step
from models.stylegan.generator import Generator, to_pictures
from models.stylegan.latent import Latent

from .clip_view import Clip, ClipView
from .objective import TextObjective, check_objective
from .prompt import EditPrompt

SPACES = ("w", "w_plus", "style_space")
MAX_STEPS = 1000
RAMP_DOWN, RAMP_UP = 0.25, 0.05  # shares of the steps in which the learning rate falls and rises


class Identity(Protocol):
    """What should stay the same."""

    def loss(self, image: Tensor, original: Tensor) -> Tensor:
        """Scalar, 0 for the original; pictures (B, 3, H, W) raw, about [-1, 1]."""


@dataclass(frozen=True)
class OptimizationSettings:
    """Everything that decides an optimised edit besides picture, words and models.

    Attributes:
        steps: of Adam, 1 to 1000.
        rate: its highest learning rate.
        l2: weight of the squared distance from the start, summed over all entries.
        identity: weight of the identity loss.
        space: what moves: "w", all rows of W+ by the same vector; "w_plus", every row by itself;
            or "style_space", every style vector but those of ToRGB.
        objective: "cosine" or "directional", see `TextObjective`.
        view: how CLIP is shown the picture.
        patience: stop after so many steps without a better loss; 0 never does.
        seed: of the random windows of `view`.

    Raises:
        InputError: a value out of its range.
    """

    steps: int = 300
    rate: float = 0.1
    l2: float = 0.008
    identity: float = 0.005
    space: str = "w_plus"
    objective: str = "cosine"
    view: ClipView = field(default_factory=ClipView)
    patience: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        check_objective(self.objective)
        if self.space not in SPACES:
            raise InputError(
                f'There is no space "{self.space}"; choose one of {", ".join(SPACES)}.'
            )
        if not 1 <= self.steps <= MAX_STEPS:
            raise InputError(f"An optimisation has 1 to {MAX_STEPS} steps, not {self.steps}.")
        if not 0 < self.rate <= 10:
            raise InputError(f"The learning rate lies above 0 and up to 10, not at {self.rate}.")
        for name, weight in (("L2", self.l2), ("identity", self.identity)):
            if not 0 <= weight <= 100:
                raise InputError(f"The {name} weight lies between 0 and 100, not at {weight}.")
        if self.patience < 0:
            raise InputError("The patience is a number of steps, 0 for none.")

    @staticmethod
    def paper() -> OptimizationSettings:
        """The paper's weights, with CLIP shown what it was trained on."""
        return OptimizationSettings()

    @staticmethod
    def reference() -> OptimizationSettings:
        """The defaults of the authors' script, its preprocessing included."""
        return OptimizationSettings(identity=0.0, view=ClipView("reference"))

    @staticmethod
    def mini() -> OptimizationSettings:
        """For stylegan2-mini and clip-portraits, in tens of steps. Measured on 24 edits (succeeded,
        other attributes changed): so 88%, 0.24 sd; rate 0.3 and twice the L2 79%, 0.20; StyleSpace
        at rate 0.3 42%, 0.12. The plain cosine and the paper's L2 moved a third of the edits.
        """
        return OptimizationSettings(
            steps=40, rate=0.2, l2=0.001, identity=0.0, objective="directional",
            view=ClipView(crops=3),
        )  # fmt: skip


@dataclass(frozen=True)
class Losses:
    """The parts of the loss, unweighted, and their weighted sum; scalars."""

    total: Tensor
    clip: Tensor
    l2: Tensor
    identity: Tensor

    def metrics(self) -> dict[str, float]:
        """As numbers; the sum is called "loss"."""
        parts = {"loss": self.total, "clip": self.clip, "l2": self.l2, "identity": self.identity}
        return {name: float(part.detach()) for name, part in parts.items()}


@dataclass(frozen=True)
class OptimizationResult:
    """A finished or stopped edit.

    Attributes:
        latent: where the loss was least.
        image: (1, 3, H, W) the generator's picture of `latent`, raw, on the CPU.
        step: updates made before `latent` was reached.
        history: the losses before each update and after the last.
    """

    latent: Latent
    image: Tensor
    step: int
    history: tuple[Mapping[str, float], ...]

    @property
    def picture(self) -> Image.Image:
        return to_pictures(self.image)[0]


@dataclass(frozen=True)
class OptimizationStep(Step):
    """A step of an optimisation: the best latent so far, so that stopping loses nothing."""

    latent: Latent | None = None


def learning_rate(step: int, steps: int, peak: float) -> float:
    """Karras et al.'s projection schedule: up over the first 5% of the steps, a half cosine down
    over the last 25%. Step 0 has rate 0; Adam still takes its gradient into the moments."""
    t = step / steps
    down = 0.5 - 0.5 * math.cos(math.pi * min(1.0, (1 - t) / RAMP_DOWN))
    return peak * down * min(1.0, t / RAMP_UP)


def optimize(
    generator: Generator,
    clip: Clip,
    latent: Latent | None,
    prompt: EditPrompt,
    settings: OptimizationSettings,
    identity: Identity | None = None,
) -> Job[OptimizationResult]:
    """Edit a picture, one `OptimizationStep` per update of its latent.

    Args:
        latent: the picture to edit. None is free generation: from the generator's mean latent,
            by CLIP alone, without the L2 and identity terms.
        identity: what should stay; needed when `settings.identity` is not 0.

    Raises:
        InputError: the latent is another generator's, the settings do not fit the prompt or the
            models, or the loss of the picture itself is no number.
    """
    if latent is None:
        settings = replace(settings, l2=0.0, identity=0.0)
        latent = Latent.from_w_plus(generator.broadcast(generator.mean_latent[None])[0])
    descent = Descent(generator, clip, latent, prompt, settings, identity)
    for step in range(settings.steps):
        if not descent.evaluate():
            break
        descent.update()
        best = descent.best
        done = (step + 1) / settings.steps
        yield OptimizationStep(
            done, f"Step {step + 1} of {settings.steps}", to_pictures(descent.image)[0],
            descent.history[-1], latent=best,
        )  # fmt: skip
    else:
        descent.evaluate()  # the last update has not been judged yet
    return descent.result()


class Descent:
    """One optimisation's state, for `optimize`, which says what the arguments mean.

    Attributes:
        point: what moves.
        image: (1, 3, H, W) the picture of the last `evaluate`.
        original: the picture of the start.
        history: the losses of every `evaluate`.
        best, best_step: the latent with the least loss so far and the updates before it.
    """

    def __init__(
        self,
        generator: Generator,
        clip: Clip,
        latent: Latent,
        prompt: EditPrompt,
        settings: OptimizationSettings,
        identity: Identity | None = None,
    ) -> None:
        latent.check(generator)
        if settings.identity and identity is None:
            raise InputError("There is no identity model to weigh; set the identity weight to 0.")
        self.generator, self.settings = generator, settings
        self.identity = identity if settings.identity else None
        self.text = TextObjective(settings.objective, clip, prompt, settings.view, settings.seed)
        self.point = Point(generator, latent, settings.space)
        with torch.no_grad():
            self.original = generator.synthesize(self.point.styles())
        self.image = self.original
        self.optimizer = torch.optim.Adam(self.point.parameters, lr=settings.rate)
        self.history: list[Mapping[str, float]] = []
        self.best, self.best_step, self._least = latent, 0, math.inf

    def evaluate(self) -> bool:
        """Look at the picture of the current latent; False when there is no sense in going on."""
        with torch.enable_grad():
            image = self.generator.synthesize(self.point.styles())
            losses = self._losses(image)
            # Not backward(): a generator or CLIP that is not frozen must not gather gradients.
            gradients = torch.autograd.grad(losses.total, self.point.parameters)
        for parameter, gradient in zip(self.point.parameters, gradients):
            parameter.grad = gradient
        metrics = losses.metrics()
        if not math.isfinite(metrics["loss"]):
            return self._give_up()
        self.image = image.detach()
        self.history.append(metrics)
        if metrics["loss"] < self._least:
            self._least, self.best_step = metrics["loss"], len(self.history) - 1
            self.best = self.point.latent()
        idle = len(self.history) - 1 - self.best_step
        return not self.settings.patience or idle < self.settings.patience

    def update(self) -> None:
        """One step of Adam along the gradient of the last `evaluate`."""
        step = len(self.history) - 1
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(step, self.settings.steps, self.settings.rate)
        self.optimizer.step()

    def result(self) -> OptimizationResult:
        """The best so far, rendered."""
        with torch.no_grad():
            image = self.generator.synthesize(self.best.styles(self.generator))
        return OptimizationResult(self.best, image.cpu(), self.best_step, tuple(self.history))

    def _losses(self, image: Tensor) -> Losses:
        settings = self.settings
        clip = self.text(image, self.original)
        l2 = self.point.squared_distance()
        identity = torch.zeros_like(clip)
        if self.identity is not None:
            identity = self.identity.loss(image, self.original)
        total = clip + settings.l2 * l2 + settings.identity * identity
        return Losses(total, clip, l2, identity)

    def _give_up(self) -> bool:
        if not self.history:
            raise InputError(
                "The loss of this picture is no number, so there is nothing to descend; choose "
                "another picture or model."
            )
        return False


class Point:
    """A place in W, W+ or StyleSpace that an optimiser moves.

    Attributes:
        parameters: the leaves: a shift (1, 1, D) of all rows, W+ (1, rows, D), or the style vectors
            (1, size) but ToRGB's.
    """

    def __init__(self, generator: Generator, latent: Latent, space: str) -> None:
        self._generator, self._latent, self._space = generator, latent, space
        self._base = latent.w_plus[None].to(generator.mean_latent)  # (1, rows, D)
        with torch.no_grad():
            self._fixed = latent.styles(generator)
        self._moving = [i for i, slot in enumerate(generator.layout) if not slot.is_rgb]
        if space == "style_space":
            start = [self._fixed[i] for i in self._moving]
        else:
            start = [torch.zeros_like(self._base[:, :1]) if space == "w" else self._base]
        self._start = [tensor.detach().clone() for tensor in start]
        self.parameters = [tensor.clone().requires_grad_(True) for tensor in self._start]

    def styles(self) -> list[Tensor]:
        """StyleSpace of the current place, one (1, size) per slot, differentiable."""
        if self._space == "style_space":
            styles = list(self._fixed)
            for index, parameter in zip(self._moving, self.parameters):
                styles[index] = parameter
            return styles
        styles = self._generator.styles(self._w_plus())
        offsets: Sequence[Tensor] = self._latent.offsets
        if not offsets:
            return styles
        return [style + offset.to(style) for style, offset in zip(styles, offsets)]

    def squared_distance(self) -> Tensor:
        """Sum of squares of all that has moved since the start, over W+ or StyleSpace; a scalar."""
        moves = [now - start for now, start in zip(self.parameters, self._start)]
        total = torch.stack([move.square().sum() for move in moves]).sum()
        return self._generator.rows * total if self._space == "w" else total

    def latent(self) -> Latent:
        """A copy of the current place."""
        if self._space != "style_space":
            return replace(self._latent, w_plus=Latent.from_w_plus(self._w_plus()[0]).w_plus)
        with torch.no_grad():
            base = replace(self._latent, offsets=()).styles(self._generator)
            offsets = [(now - at)[0].float().cpu() for now, at in zip(self.styles(), base)]
        return replace(self._latent, offsets=tuple(offsets))

    def _w_plus(self) -> Tensor:
        """(1, rows, D), differentiable in the parameter."""
        return self._base + self.parameters[0] if self._space == "w" else self.parameters[0]
