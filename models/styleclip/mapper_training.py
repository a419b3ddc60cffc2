"""Training of a latent mapper for one text: StyleCLIP's second method (section 5, eq. 4 to 6).

The loss over random latents w of the generator is

    L_CLIP(G(w + 0.1 M(w)), t) + lambda_L2 mean((0.1 M(w))^2) + lambda_ID L_ID

and only M learns. A released mapper takes the authors 10 to 12 hours; on stylegan2-mini the same
code needs minutes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from PIL import Image
from torch import Tensor

from models.errors import InputError
from models.jobs import Job, Step
from models.stylegan.generator import Generator, to_pictures

from .clip_view import Clip, ClipView
from .mapper import VARIANTS, Mapper, MapperInfo, amplify, new_mapper
from .objective import TextObjective, check_objective
from .optimization import Identity
from .prompt import EditPrompt
from .ranger import Ranger

MAX_STEPS = 100_000
MAX_BATCH = 64
HELD_OUT = 4  # latents that are never trained on and shown in the previews
HELD_OUT_SEED = 2**40  # far from any training seed
PREVIEW_S = 2.0  # a preview at most this often: it costs a rendering of all held-out latents


@dataclass(frozen=True)
class MapperSettings:
    """Everything that decides a mapper besides the words and the models.

    Attributes:
        variant: architecture, one of `mapper.VARIANTS`.
        without: levels ("coarse", "medium", "fine") that a "levels" mapper leaves alone.
        steps: 1 to 100,000.
        batch: latents a step, 1 to 64.
        rate: Ranger's learning rate.
        memory: Ranger's decay of the running mean of squared gradients. Its rectification warms
            up over some 1 / (1 - memory) steps, in which nearly nothing moves.
        cooldown: share of the steps at the end over which the rate falls to nothing.
        clip, identity, l2: weights of the terms of the loss.
        objective: "cosine" or "directional", see `TextObjective`.
        view: how CLIP is shown a picture.
        truncation: psi of the latents trained on.
        gain: what the finished mapper's output is multiplied by; a short training against the L2
            term stops half way, in the right direction.
        seed: of the first weights, the latents and the views.

    Raises:
        InputError: a value out of its range.
    """

    variant: str = "levels"
    without: tuple[str, ...] = ()
    steps: int = 50_000
    batch: int = 2
    rate: float = 0.5
    memory: float = 0.999
    cooldown: float = 0.0
    clip: float = 1.0
    identity: float = 0.1
    l2: float = 0.8
    objective: str = "cosine"
    view: ClipView = field(default_factory=ClipView)
    truncation: float = 0.7
    gain: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        check_objective(self.objective)
        if self.variant not in VARIANTS:
            raise InputError(
                f'There is no mapper "{self.variant}"; choose one of {", ".join(VARIANTS)}.'
            )
        for name, value, low, high in (
            ("steps", self.steps, 1, MAX_STEPS), ("batch size", self.batch, 1, MAX_BATCH),
            ("learning rate", self.rate, 1e-6, 100), ("memory", self.memory, 0.9, 0.9999),
            ("cooldown", self.cooldown, 0, 1),
            ("CLIP weight", self.clip, 0, 100), ("identity weight", self.identity, 0, 100),
            ("L2 weight", self.l2, 0, 100), ("truncation", self.truncation, 0, 2),
            ("gain", self.gain, 0.1, 10),
        ):  # fmt: skip
            if not low <= value <= high:  # also refuses NaN
                raise InputError(f"The {name} lies between {low} and {high}, not at {value}.")

    @staticmethod
    def paper() -> MapperSettings:
        """The authors' defaults."""
        return MapperSettings()

    @staticmethod
    def mini() -> MapperSettings:
        """For stylegan2-mini and clip-portraits: minutes on two cores, 0.3 MB a mapper."""
        return MapperSettings(
            variant="single",
            steps=150,
            batch=8,
            rate=10.0,
            memory=0.99,
            cooldown=0.5,
            identity=0.0,
            objective="directional",
            # Measured on 360 edits that no training saw: 93% succeed, 61% with a gain of 1.
            gain=2.0,
        )


def train_mapper(
    generator: Generator,
    clip: Clip,
    prompt: EditPrompt,
    settings: MapperSettings,
    identity: Identity | None = None,
    generator_name: str = "",
) -> Job[Mapper]:
    """Train a mapper; a `Step` every update, some with a preview of held-out pictures before
    (above) and after (below); returns it frozen, on the generator's device.

    Args:
        identity: what should stay; needed when `settings.identity` is not 0.
        generator_name: the catalogue's, kept with the mapper.

    Raises:
        InputError: the settings do not fit the prompt or the models, or the loss is no number.
    """
    training = Training(generator, clip, prompt, settings, identity, generator_name)
    shown_at = -math.inf
    for step in range(settings.steps):
        metrics = training.advance(step)
        preview, now = None, time.monotonic()
        if now - shown_at > PREVIEW_S or step == settings.steps - 1:
            preview, shown_at = training.preview(), now
        done = (step + 1) / settings.steps
        yield Step(done, f"Step {step + 1} of {settings.steps}", preview, metrics)
    amplify(training.mapper, settings.gain)
    return training.mapper.eval().requires_grad_(False)


class Training:
    """One training's state, for `train_mapper`, which says what the arguments mean."""

    def __init__(
        self,
        generator: Generator,
        clip: Clip,
        prompt: EditPrompt,
        settings: MapperSettings,
        identity: Identity | None = None,
        generator_name: str = "",
    ) -> None:
        if settings.identity and identity is None:
            raise InputError("There is no identity model to weigh; set the identity weight to 0.")
        self.generator, self.settings = generator, settings
        self.identity = identity if settings.identity else None
        self.text = TextObjective(settings.objective, clip, prompt, settings.view, settings.seed)
        info = MapperInfo(prompt, generator_name, generator.rows)
        with torch.random.fork_rng(devices=[]):  # the seed decides, and nobody else's is moved
            torch.manual_seed(settings.seed)
            mapper = new_mapper(generator, settings.variant, settings.without, info)
        self.mapper = mapper.to(generator.mean_latent)
        self.parameters = list(self.mapper.parameters())
        betas = (0.95, settings.memory)
        self.optimizer = Ranger(self.parameters, settings.rate, betas)
        self._random = torch.Generator().manual_seed(settings.seed)
        self._held_out = self._latents(HELD_OUT, torch.Generator().manual_seed(HELD_OUT_SEED))

    def advance(self, step: int) -> Mapping[str, float]:
        """One update of the mapper; returns the losses before it, "loss" their weighted sum."""
        settings = self.settings
        for group in self.optimizer.param_groups:
            group["lr"] = settings.rate * rate_at(step / settings.steps, settings.cooldown)
        with torch.enable_grad():
            losses = self._losses(self._latents(settings.batch, self._random))
            # Not backward(): a generator or CLIP that is not frozen must not gather gradients.
            gradients = torch.autograd.grad(losses["loss"], self.parameters)
        metrics = {name: float(loss.detach()) for name, loss in losses.items()}
        if not math.isfinite(metrics["loss"]):
            raise InputError(
                f"The training ran away at step {step + 1}; lower its learning rate and try again."
            )
        for parameter, gradient in zip(self.parameters, gradients):
            parameter.grad = gradient
        self.optimizer.step()
        return metrics

    @torch.no_grad()
    def preview(self) -> Image.Image:
        """The held-out latents' pictures, before the edit above and after it below."""
        before = self.generator.synthesize(self.generator.styles(self._held_out))
        edited, _ = self.mapper.edited_styles(self.generator, self._held_out)
        rows = [
            torch.cat(list(image), dim=2) for image in (before, self.generator.synthesize(edited))
        ]
        return to_pictures(torch.cat(rows, dim=1)[None])[0]  # (1, 3, 2 N, HELD_OUT N)

    def _losses(self, w_plus: Tensor) -> dict[str, Tensor]:
        settings, generator = self.settings, self.generator
        edited, distance = self.mapper.edited_styles(generator, w_plus)
        images, originals = generator.synthesize(edited), torch.empty(0)
        if self.text.directional or self.identity is not None:
            with torch.no_grad():
                originals = generator.synthesize(generator.styles(w_plus))
        clip = self.text(images, originals)
        identity = torch.zeros_like(clip)
        if self.identity is not None:
            identity = self.identity.loss(images, originals)
        total = settings.clip * clip + settings.l2 * distance + settings.identity * identity
        return {"loss": total, "clip": clip, "l2": distance, "identity": identity}

    @torch.no_grad()
    def _latents(self, count: int, random: torch.Generator) -> Tensor:
        """(count, rows, D) of random z, truncated."""
        generator = self.generator
        z = torch.randn(count, generator.noise_size, generator=random).to(generator.mean_latent)
        w = generator.truncate(generator.mapping(z), self.settings.truncation)
        return generator.broadcast(w)


def rate_at(done: float, cooldown: float) -> float:
    """Share of the learning rate when `done` in [0, 1) of the steps are: 1, then a straight line
    to 0 over the last `cooldown` of them."""
    return min(1.0, (1 - done) / cooldown) if cooldown else 1.0
