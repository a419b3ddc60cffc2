"""The interactive direction: a gradient for each prompt in place of a table for all of them.

fs3 needs channels x images x 2 renderings. To first order its row of channel c is the normalised
derivative J_c of CLIP's features by s_c, and what a prompt needs of it is only J_c . dt: one
vector-Jacobian product for all channels at once. The lengths |J_c| that make it a cosine do not
depend on the prompt: random probes v give them, E[(J_c . v)^2] = |J_c|^2 for orthonormal v times
sqrt(D), and exactly so when there are as many probes as features.

A derivative is not the +-5 sigma secant: `directions.rank_correlation` says how near it comes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from models.errors import InputError
from models.jobs import Job, Step
from models.stylegan.generator import Generator

from .clip_view import Clip, ClipView
from .directions import PSI, SEED, ChannelRelevance, sampled_styles

UNSEEN = 1e-6  # a channel with less than this part of the longest derivative has no direction
VIEW = ClipView()


@dataclass(frozen=True)
class ProbeSettings:
    """How the lengths of the derivatives are estimated.

    Attributes:
        images: pictures to average over, 1 to 1,000.
        probes: random directions of CLIP's features; more than those has no use.
        batch: pictures at once.
        psi, seed: truncation of the pictures, and which ones; the probes' seed, too.
    """

    images: int = 16
    probes: int = 64
    batch: int = 8
    psi: float = PSI
    seed: int = SEED

    def __post_init__(self) -> None:
        if not 1 <= self.images <= 1_000 or self.probes < 1 or self.batch < 1:
            raise InputError("Probing takes 1 to 1,000 pictures, and one or more probes at once.")


@dataclass(frozen=True)
class Probes:
    """What one gradient needs to become relevances; made once for a generator and a CLIP.

    Attributes:
        styles: the pictures, one (images, size) per slot.
        lengths: (images, C), |J_c| in each picture.
        mean_lengths: (C,), length of the mean over pictures of J_c / |J_c|, in [0, 1] but for the
            error of the estimate.
        batch: pictures at once.
    """

    styles: tuple[Tensor, ...]
    lengths: Tensor
    mean_lengths: Tensor
    batch: int

    def relevance(
        self, generator: Generator, clip: Clip, text_direction: Tensor
    ) -> ChannelRelevance:
        """mean_i(J_c,i . dt / |J_c,i|) / |mean_i(J_c,i / |J_c,i|)|: as fs3 . dt, to first order.

        Args:
            text_direction: (D,) unit length.
        """
        products = [
            next(_products(generator, clip, batch, text_direction[None]))
            for batch in _batches(self.styles, self.batch)
        ]
        unit = _over(torch.cat(products), self.lengths)  # (images, C)
        return ChannelRelevance(_over(unit.mean(dim=0), self.mean_lengths), generator.layout)


def probe(generator: Generator, clip: Clip, settings: ProbeSettings | None = None) -> Job[Probes]:
    """Estimate the lengths of all derivatives, a step for every probe and batch of pictures.

    Costs one rendering and `probes` backward passes for every picture.
    """
    settings = settings or ProbeSettings()
    batches = sampled_styles(generator, settings.images, settings.psi, settings.seed)
    styles = tuple(torch.cat(parts) for parts in zip(*batches))
    directions = _orthogonal(clip, settings)  # (probes, D)
    total = math.ceil(settings.images / settings.batch) * len(directions)
    products, done = [], 0
    for batch in _batches(styles, settings.batch):
        found = []
        for product in _products(generator, clip, batch, directions):
            found.append(product)
            done += 1
            yield Step(done / total, f"Probed {done} of {total} times")
        products.append(torch.stack(found))  # (probes, B, C)
    return _summary(torch.cat(products, dim=1), styles, settings.batch)


def _summary(products: Tensor, styles: tuple[Tensor, ...], batch: int) -> Probes:
    """(probes, images, C) -> lengths of the derivatives, and of the mean unit derivative."""
    lengths = products.square().mean(dim=0).sqrt()  # (images, C)
    mean = _over(products, lengths).mean(dim=1)  # (probes, C)
    return Probes(styles, lengths, mean.square().mean(dim=0).sqrt(), batch)


def _over(values: Tensor, lengths: Tensor) -> Tensor:
    """values / lengths, and zero for a channel that CLIP does not see."""
    seen = lengths > UNSEEN * lengths.max()
    return torch.where(seen, values / lengths.where(seen, 1.0), 0.0)


def _orthogonal(clip: Clip, settings: ProbeSettings) -> Tensor:
    """(probes, D): orthonormal rows times sqrt(D), so that the mean of (J . v)^2 is |J|^2."""
    width = clip.encode_text(["a"]).shape[1]
    random = torch.Generator().manual_seed(settings.seed)
    drawn = torch.randn(width, min(settings.probes, width), generator=random)
    basis: Tensor = torch.linalg.qr(drawn).Q  # (D, probes)
    return basis.T * math.sqrt(width)


def _batches(styles: Sequence[Tensor], width: int) -> Iterator[list[Tensor]]:
    for at in range(0, len(styles[0]), width):
        yield [vector[at : at + width] for vector in styles]


def _products(
    generator: Generator,
    clip: Clip,
    styles: Sequence[Tensor],
    directions: Tensor,
) -> Iterator[Tensor]:
    """d (f . v) / d s for each v of `directions` (n, D): (B, C) on the CPU; one rendering for
    all."""
    leaves = [vector.detach().clone().requires_grad_() for vector in styles]
    moving = [leaf for leaf, slot in zip(leaves, generator.layout) if not slot.is_rgb]
    with torch.enable_grad():
        images = generator.synthesize(leaves)
        window = (range(images.shape[-1]), range(images.shape[-1]))
        features = VIEW.features(clip, images, [window])[0]  # (B, D)
    for place, direction in enumerate(directions):
        towards = direction.to(features).expand_as(features)
        last = place == len(directions) - 1
        grads = torch.autograd.grad(features, moving, towards, retain_graph=not last)
        yield torch.cat(grads, dim=-1).cpu()
