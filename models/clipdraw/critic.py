"""The critic: how well a picture fits the words, seen through random perspectives and crops.

Frans et al. 2022, "CLIPDraw" (arXiv 2106.14843), section 3: without augmentation an optimiser of
strokes fools the encoder and nobody else; what still fits from many views is a drawing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from models.clip.encoder import ClipEncoder
from models.errors import InputError

MAX_PROMPTS = 8
_CORNERS = torch.tensor([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])


@dataclass(frozen=True)
class Augmentation:
    """Random views of the canvas; the defaults are the reference's.

    Attributes:
        copies: views a step, at least 1.
        distortion: how far each corner may move inwards, as a fraction of half the side
            (torchvision's RandomPerspective).
        area: range of a crop's share of the canvas area (RandomResizedCrop).
        ratio: largest ratio of a crop's sides, and of its inverse.
        turn: largest rotation either way, radians.
        gain: largest relative change of contrast, and of each colour channel.
        noise: standard deviation of pixel noise, in [0, 1] units.
    """

    copies: int = 4
    distortion: float = 0.5
    area: tuple[float, float] = (0.7, 0.9)
    ratio: float = 4 / 3
    turn: float = 0.0
    gain: float = 0.0
    noise: float = 0.0

    @staticmethod
    def none() -> Augmentation:
        """The canvas as it is, once: what the paper warns of."""
        return Augmentation(copies=1, distortion=0.0, area=(1.0, 1.0), ratio=1.0)

    @staticmethod
    def strong() -> Augmentation:
        """More and harder views, which a small critic needs."""
        return Augmentation(
            copies=8, distortion=0.35, area=(0.6, 1.0), turn=0.25, gain=0.2, noise=0.05
        )

    def views(
        self, canvas: Tensor, side: int, generator: torch.Generator, stretch: Tensor | None = None
    ) -> Tensor:
        """Random views of a canvas.

        Args:
            canvas: (C, H, W); beyond its border there is nothing (zeros).
            stretch: (2,) longer side over width and over height: shows a canvas that is no square
                in its true proportions, with nothing beside it; None squeezes it into a square.

        Returns:
            (copies, C, side, side).
        """
        grid = self._grid(side, generator)  # (n, side, side, 2)
        grid = (grid if stretch is None else grid * stretch).to(canvas)
        source = canvas[None].expand(self.copies, -1, -1, -1)
        return F.grid_sample(source, grid, mode="bilinear", align_corners=False)

    def shaded(self, views: Tensor, generator: torch.Generator) -> Tensor:
        """Views (n, 3, S, S) in other light and with noise, still in [0, 1]."""
        count = len(views)
        if self.gain:
            contrast = 1 + self.gain * _signed(generator, (count, 1, 1, 1)).to(views)
            tone = 1 + self.gain * _signed(generator, (count, 3, 1, 1)).to(views)
            views = 0.5 + (views * tone - 0.5) * contrast
        if self.noise:
            views = views + self.noise * torch.randn(views.shape, generator=generator).to(views)
        return views.clamp(0, 1) if self.gain or self.noise else views

    def _grid(self, side: int, generator: torch.Generator) -> Tensor:
        """Where each pixel of a view looks on the canvas, in [-1, 1]; all motions in one."""
        line = (torch.arange(side) + 0.5) * 2 / side - 1
        y, x = torch.meshgrid(line, line, indexing="ij")
        pixels = torch.stack([x, y, torch.ones_like(x)], dim=-1).view(-1, 3)  # (S * S, 3)
        matrix = self._perspective(generator) @ self._turned(generator) @ self._crop(generator)
        moved = pixels @ matrix.transpose(1, 2)  # (n, S * S, 3)
        return (moved[..., :2] / moved[..., 2:]).view(self.copies, side, side, 2)

    def _perspective(self, generator: torch.Generator) -> Tensor:
        """(n, 3, 3) homographies that take four corners moved inwards back to the canvas's own."""
        inward = torch.rand(self.copies, 4, 2, generator=generator) * self.distortion
        moved = _CORNERS * (1 - inward)  # (n, 4, 2)
        return homography(moved, _CORNERS.expand_as(moved))

    def _turned(self, generator: torch.Generator) -> Tensor:
        """(n, 3, 3) rotations about the centre."""
        angle = self.turn * _signed(generator, (self.copies,))
        cos, sin, zero, one = angle.cos(), angle.sin(), angle * 0, angle * 0 + 1
        rows = (cos, -sin, zero, sin, cos, zero, zero, zero, one)
        return torch.stack(rows, dim=1).view(-1, 3, 3)

    def _crop(self, generator: torch.Generator) -> Tensor:
        """(n, 3, 3) scalings and shifts to a random window inside the canvas."""
        area = torch.empty(self.copies, 10).uniform_(*self.area, generator=generator)
        reach = math.log(self.ratio)
        ratio = torch.exp(torch.empty(self.copies, 10).uniform_(-reach, reach, generator=generator))
        sides = torch.stack([(area * ratio).sqrt(), (area / ratio).sqrt()], dim=2)  # (n, 10, 2)
        # As torchvision does: the first of ten tries that fits into the canvas.
        first = (sides <= 1).all(dim=2).float().argmax(dim=1)
        sides = sides[torch.arange(self.copies), first].clamp(max=1)  # (n, 2)
        centre = (1 - sides) * _signed(generator, (self.copies, 2))
        matrix = torch.diag_embed(F.pad(sides, (0, 1), value=1.0))
        matrix[:, :2, 2] = centre
        return matrix


def homography(source: Tensor, target: Tensor) -> Tensor:
    """(n, 3, 3) matrices H with H (x, y, 1) ~ (u, v, 1) for four point pairs (n, 4, 2) each."""
    x, y = source.unbind(-1)  # (n, 4)
    u, v = target.unbind(-1)
    zero, one = torch.zeros_like(x), torch.ones_like(x)
    first = torch.stack([x, y, one, zero, zero, zero, -u * x, -u * y], dim=-1)
    second = torch.stack([zero, zero, zero, x, y, one, -v * x, -v * y], dim=-1)
    system = torch.cat([first, second], dim=1)  # (n, 8, 8)
    entries = torch.linalg.solve(system, torch.cat([u, v], dim=1))  # (n, 8)
    return F.pad(entries, (0, 1), value=1.0).view(-1, 3, 3)


def _signed(generator: torch.Generator, shape: tuple[int, ...]) -> Tensor:
    """Uniform in [-1, 1)."""
    return torch.rand(shape, generator=generator) * 2 - 1


@dataclass(frozen=True)
class Prompt:
    """Words with a weight; a negative weight steers away.

    Raises InputError for a weight that is 0, not finite or beyond 10 either way.
    """

    text: str
    weight: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < abs(self.weight) <= 10:  # also refuses NaN
            raise InputError(
                f"A prompt's weight lies between -10 and 10 and is not 0, not at {self.weight}."
            )


@dataclass(frozen=True)
class Scoring:
    """What is asked of a view.

    Attributes:
        contrast: how much the scores of all other words count against the prompt. 0 is the paper's
            plain cosine. A small critic separates its own words far better than it ranks plain
            cosines; 0.3 keeps that from saturating, as a full softmax does once it is sure.
        normalize: give the encoder the mean and standard deviation it was trained with. The
            notebook that made the paper's pictures did not; its author says one should.
    """

    contrast: float = 0.0
    normalize: bool = True


class Critic:
    """Scores views of a drawing against prompts with one or more encoders.

    Args:
        encoders: their scores are averaged; at least one.
        prompts: 1 to `MAX_PROMPTS`.
        words: what the drawing is told apart from, and what `nearest` answers with.
    """

    def __init__(
        self,
        encoders: Sequence[ClipEncoder],
        prompts: Sequence[Prompt],
        words: Sequence[str],
        scoring: Scoring,
    ) -> None:
        if not 1 <= len(prompts) <= MAX_PROMPTS:
            raise InputError(f"Give 1 to {MAX_PROMPTS} prompts, not {len(prompts)}.")
        self.encoders = tuple(encoders)
        self.prompts, self.words, self.scoring = tuple(prompts), tuple(words), scoring
        first = self.encoders[0]
        self.device = first.device
        self.weights = torch.tensor([p.weight for p in prompts], device=self.device)
        texts = [prompt.text for prompt in prompts]
        self._targets = [e.encode_text(texts).to(self.device) for e in self.encoders]  # (T, D)
        self._words = [e.encode_text(list(words)).to(self.device) for e in self.encoders]  # (R, D)

    @property
    def side(self) -> int:
        """Pixels that the largest encoder looks at, a side."""
        return max(encoder.image_size for encoder in self.encoders)

    def loss(self, views: Tensor) -> Tensor:
        """Minus the weighted scores of all prompts, the mean over views and encoders.

        Args:
            views: (n, 3, S, S) RGB in [0, 1].
        """
        return self.losses(views).mean()

    def losses(self, views: Tensor) -> Tensor:
        """The same for each view, (n,)."""
        losses = [self._losses(i, encoder, views) for i, encoder in enumerate(self.encoders)]
        return torch.stack(losses).mean(0)

    def _losses(self, index: int, encoder: ClipEncoder, views: Tensor) -> Tensor:
        image = self._features(encoder, views)  # (n, D)
        scores = (image @ self._targets[index].T) @ self.weights  # (n,)
        if self.scoring.contrast and self.words:
            scale = encoder.logit_scale
            others = torch.logsumexp(scale * image @ self._words[index].T, dim=1) / scale
            scores = scores - self.scoring.contrast * self.weights.clamp(min=0).sum() * others
        return -scores

    def _features(self, encoder: ClipEncoder, views: Tensor) -> Tensor:
        if views.shape[-1] != encoder.image_size:
            views = F.interpolate(
                views, encoder.image_size, mode="bilinear", align_corners=False, antialias=True
            )
        return encoder.image_features(encoder.normalize(views) if self.scoring.normalize else views)

    @torch.no_grad()
    def nearest(self, picture: Tensor, top: int = 5) -> tuple[tuple[str, float], ...]:
        """The words that fit best, with softmax probabilities over all of them.

        Args:
            picture: (3, S, S) RGB in [0, 1].
        """
        if not self.words:
            return ()
        logits = [
            encoder.logit_scale * (self._features(encoder, picture[None])[0] @ words.T)
            for encoder, words in zip(self.encoders, self._words)
        ]
        best = torch.stack(logits).softmax(dim=1).mean(0).topk(min(top, len(self.words)))
        return tuple(
            (self.words[i], p) for i, p in zip(best.indices.tolist(), best.values.tolist())
        )
