"""Global directions: which channels of StyleSpace carry the words, and how far each one moves.

Patashnik et al. 2021, section 6. A channel's relevance is the cosine between what CLIP sees when
the channel moves and the direction in which the words point; channels below a threshold stay, and
the others move in proportion. Where relevances come from is told in `fs3` (the paper's table of
secants) and in `derivative` (one gradient for each prompt). ToRGB vectors never move.

    table = Fs3.load(path)
    relevance = table.relevance(text_direction(clip, prompt), generator.layout)
    direction = boundary(relevance, auto_beta(relevance), table.statistics)
    edited = latent.moved(direction.direction, alpha=4.1)
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from models.errors import InputError
from models.jobs import Job, Step
from models.stylegan.generator import Generator, StyleSlot

PSI = 0.7  # truncation of the samples
SEED = 5  # the reference's RandomState
SAMPLES = 100_000
BETAS = tuple(n / 100 for n in range(10, 30))  # auto-beta's choice
ALPHA, BETA = 4.1, 0.15  # the reference's defaults
FEW_CHANNELS, MANY_CHANNELS = 20, 100  # auto-beta keeps more than this: FFHQ, other data sets
_BATCH = 1_000

Layout = Sequence[StyleSlot]


# ------------------------------------------------------------------- channels in one line


def channel_count(layout: Layout) -> int:
    """Channels C that may move: those of all style vectors but ToRGB's."""
    return sum(slot.size for slot in layout if not slot.is_rgb)


def joined(layout: Layout, vectors: Sequence[Tensor]) -> Tensor:
    """One (..., size) per slot -> (..., C) in S order without ToRGB."""
    return torch.cat([v for v, slot in zip(vectors, layout) if not slot.is_rgb], dim=-1)


def parted(layout: Layout, channels: Tensor) -> tuple[Tensor, ...]:
    """(C,) in S order without ToRGB -> one (size,) per slot, zeros for ToRGB."""
    sizes = [slot.size for slot in layout if not slot.is_rgb]
    parts = iter(torch.split(channels, sizes))
    return tuple(channels.new_zeros(slot.size) if slot.is_rgb else next(parts) for slot in layout)


# ------------------------------------------------------------------- statistics


@dataclass(frozen=True)
class StyleStatistics:
    """How each channel of StyleSpace varies over random pictures.

    Attributes:
        mean: one (size,) per slot, ToRGB's too.
        sigma: the population standard deviations, likewise.
    """

    mean: tuple[Tensor, ...]
    sigma: tuple[Tensor, ...]

    def check(self, layout: Layout) -> None:
        """Raises InputError unless these are of a generator of this layout."""
        if [len(v) for v in self.mean] != [slot.size for slot in layout]:
            raise InputError(
                "These directions were measured on another generator; measure them on this one."
            )


def sampled_styles(
    generator: Generator, count: int, psi: float = PSI, seed: int = SEED, batch: int = _BATCH
) -> Iterator[list[Tensor]]:
    """Styles of `count` random pictures in batches: one (B, size) per slot each.

    The first pictures are the same whatever the count; z is the reference's (section 3 of its
    notebook): RandomState(5), truncation 0.7.
    """
    random = np.random.RandomState(seed)
    for start in range(0, count, batch):
        z = random.standard_normal((min(batch, count - start), generator.noise_size))
        with torch.no_grad():
            w = generator.mapping(torch.from_numpy(z).to(generator.mean_latent))
            yield generator.styles(generator.broadcast(generator.truncate(w, psi)))


def measure_statistics(
    generator: Generator, samples: int = SAMPLES, psi: float = PSI, seed: int = SEED
) -> Job[StyleStatistics]:
    """Mean and population standard deviation of every channel over random pictures.

    Raises:
        InputError: fewer than two samples.
    """
    if samples < 2:
        raise InputError(f"Statistics need at least 2 samples, not {samples}.")
    total = [torch.zeros(slot.size, dtype=torch.float64) for slot in generator.layout]
    square = [torch.zeros_like(v) for v in total]
    done = 0
    for styles in sampled_styles(generator, samples, psi, seed):
        for vector, sums, squares in zip(styles, total, square):
            vector = vector.double().cpu()
            sums += vector.sum(dim=0)
            squares += vector.square().sum(dim=0)
        done += len(styles[0])
        yield Step(done / samples, f"Sampled {done:,} of {samples:,} styles")
    mean = [v / samples for v in total]
    variance = [(s / samples - m.square()).clamp(min=0) for s, m in zip(square, mean)]
    return StyleStatistics(
        tuple(m.float() for m in mean), tuple(v.sqrt().float() for v in variance)
    )


# ------------------------------------------------------------------- relevance and boundary


@dataclass(frozen=True)
class ChannelRelevance:
    """How much each channel has to do with the words.

    Attributes:
        values: (C,) cosines in [-1, 1] (estimates may lie a little beyond), S order, no ToRGB.
        layout: the generator's.
    """

    values: Tensor
    layout: tuple[StyleSlot, ...]

    def kept(self, beta: float) -> Tensor:
        """(C,) bool: the channels that reach the threshold."""
        return self.values.abs() >= beta

    @property
    def largest(self) -> float:
        """max |R|: a beta above it keeps nothing."""
        return float(self.values.abs().max())


@dataclass(frozen=True)
class Direction:
    """An edit in StyleSpace.

    Attributes:
        direction: one (size,) per slot, in units of the styles; alpha = 1 moves the most relevant
            channel by one sigma. Zeros for ToRGB.
        channels_kept: how many channels move.
        beta: the threshold that chose them.
    """

    direction: tuple[Tensor, ...]
    channels_kept: int
    beta: float


def boundary(relevance: ChannelRelevance, beta: float, statistics: StyleStatistics) -> Direction:
    """R -> (R where |R| >= beta, else 0) / max|R| * sigma.

    Args:
        beta: disentanglement, at least 0; the paper's range is 0.08 to 0.3.

    Raises:
        InputError: beta is negative, no number, or keeps nothing (then the sentence names a beta
            that keeps something); the statistics are of another generator.
    """
    statistics.check(relevance.layout)
    if not (math.isfinite(beta) and beta >= 0):
        raise InputError(f"The disentanglement is a number from 0 on, not {beta}.")
    if not math.isfinite(relevance.largest):
        raise InputError("These directions hold numbers that are not finite; measure them again.")
    kept = relevance.kept(beta)
    if relevance.largest == 0:
        raise InputError("No channel of this generator has to do with these words; try others.")
    if not kept.any():
        raise InputError(_instead(relevance, beta))
    values = torch.where(kept, relevance.values, 0) / relevance.largest
    sigma = joined(relevance.layout, statistics.sigma).to(values)
    return Direction(parted(relevance.layout, values * sigma), int(kept.sum()), beta)


def _instead(relevance: ChannelRelevance, beta: float) -> str:
    """Names the largest beta of two digits that keeps something."""
    digits = max(2, 1 - math.floor(math.log10(relevance.largest)))
    lower = math.floor(relevance.largest * 10**digits) / 10**digits
    count = int(relevance.kept(lower).sum())
    channels = "1 channel" if count == 1 else f"{count} channels"
    return (
        f"A disentanglement of {beta:g} leaves nothing to move for these words; "
        f"{lower:g} would keep {channels}."
    )


def auto_beta(relevance: ChannelRelevance, more_than: int = FEW_CHANNELS) -> float:
    """The largest of 0.10, 0.11, ..., 0.29 that keeps more than so many channels, else 0.1."""
    counts = {beta: int(relevance.kept(beta).sum()) for beta in BETAS}
    return max((beta for beta, count in counts.items() if count > more_than), default=BETAS[0])


# ------------------------------------------------------------------- looking at directions


@dataclass(frozen=True)
class LayerActivity:
    """What an edit does to one style vector.

    Attributes:
        slot: the style vector (its index is its place in the list).
        channels: how many of its channels move.
        norm: length of the change in units of the channels' standard deviations.
    """

    slot: StyleSlot
    channels: int
    norm: float


def layer_activity(
    change: Sequence[Tensor], statistics: StyleStatistics, layout: Layout
) -> list[LayerActivity]:
    """Which style vectors an edit changes, and how much; one entry per slot.

    Args:
        change: one (size,) per slot in units of the styles: a `Direction.direction` (at alpha 1),
            or the difference of two pictures' styles.
    """
    statistics.check(layout)
    activity = []
    for moved, sigma, slot in zip(change, statistics.sigma, layout):
        relative = moved.cpu() / sigma.clamp(min=1e-8)  # a channel without variation never moves
        activity.append(LayerActivity(slot, int((moved != 0).sum()), float(relative.norm())))
    return activity


def rank_correlation(first: Tensor, second: Tensor) -> float:
    """Spearman's rho of two (C,) vectors, in [-1, 1]; equal values share their mean rank.

    Raises:
        ValueError: different or too few values; all values of one vector are equal (no order).
    """
    if first.shape != second.shape or first.ndim != 1 or len(first) < 2:
        raise ValueError("A rank correlation needs two vectors of one length, at least 2.")
    ranks = torch.stack([_ranks(first.double()), _ranks(second.double())])
    rho = float(torch.corrcoef(ranks)[0, 1])
    if math.isnan(rho):
        raise ValueError("A vector of equal values has no order.")
    return rho


def _ranks(values: Tensor) -> Tensor:
    _, place, count = torch.unique(values, return_inverse=True, return_counts=True)
    last = count.cumsum(dim=0).double()  # rank of the last of its equals, from 1
    ranks: Tensor = (last - (count - 1) / 2)[place]
    return ranks
