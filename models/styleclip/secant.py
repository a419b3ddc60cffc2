"""Measuring fs3: move every channel of StyleSpace both ways and look with CLIP.

Patashnik et al. 2021, section 6.2. The reference's code writes into a list that it thinks it
copied, so that a channel once measured stays at its mean while all later ones are measured;
`aliased` reproduces that. Ours leaves every other channel as the picture has it.

A channel of layer k leaves everything before layer k as it was, so synthesis goes on from there:
the prefix of each layer is kept for all of its channels.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from models.clip.encoder import ClipEncoder
from models.errors import InputError
from models.jobs import Job, Step
from models.stylegan.generator import Activations, Generator, to_pictures

from .directions import PSI, SEED, StyleStatistics, channel_count, sampled_styles
from .fs3 import Fs3
from .rendering import repeated

Encode = Callable[[Tensor], Tensor]  # raw pictures (B, 3, H, W) about [-1, 1] -> features (B, D)

MAX_IMAGES = 1_000
KEEP_EVERY_S = 20.0  # what an interruption may cost


@dataclass(frozen=True)
class SecantSettings:
    """How fs3 is measured; the defaults are the paper's.

    Attributes:
        images: pictures each channel is moved in, 1 to 1,000.
        reach: how far from its mean, in standard deviations.
        batch: renderings at once; on a CPU small ones stay in its cache.
        psi, seed: truncation of the pictures, and which ones.
        bfloat16: render and look in bfloat16, twice as fast where the processor knows it.
        aliased: leave measured channels at their mean, as the reference does.
    """

    images: int = 100
    reach: float = 5.0
    batch: int = 16
    psi: float = PSI
    seed: int = SEED
    bfloat16: bool = False
    aliased: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.images <= MAX_IMAGES or self.batch < 1 or self.reach <= 0:
            raise InputError(
                f"A table is measured on 1 to {MAX_IMAGES} pictures, one or more at once, with a "
                "reach above 0."
            )

    @staticmethod
    def mini() -> SecantSettings:
        """For stylegan2-mini on one core."""
        return SecantSettings(images=16, bfloat16=True)

    def described(self) -> dict[str, str]:
        """What decides the numbers, as metadata."""
        names = ("images", "reach", "psi", "seed", "bfloat16", "aliased")
        return {name: str(getattr(self, name)) for name in names}


def eight_bit(clip: ClipEncoder) -> Encode:
    """What CLIP sees of raw pictures that are stored as 8 bits first, with its own preprocessing.

    Each picture is rendered once in its life, so the encoder's cache is passed by.
    """

    def encode(images: Tensor) -> Tensor:
        pixels = torch.stack([clip.preprocess(picture) for picture in to_pictures(images)])
        return clip.image_features(pixels)

    return encode


def measure(
    generator: Generator,
    encode: Encode,
    statistics: StyleStatistics,
    settings: SecantSettings | None = None,
    *,
    about: Mapping[str, str] | None = None,
    part: Path | None = None,
) -> Job[Fs3]:
    """Measure the table, a step for every channel.

    Costs channels x images x 2 renderings from the channel's layer on.

    Args:
        encode: usually `eight_bit(clip)`; its features need not be of unit length.
        about: more metadata, such as the names of generator and CLIP.
        part: where to keep what is measured, every 20 seconds and when the job is closed. If the
            file is there and was measured in the same way, the job goes on behind its last row.

    Raises:
        InputError: the statistics are of another generator, or `part` was measured in another way.
    """
    settings = settings or SecantSettings()
    statistics.check(generator.layout)
    described = {**settings.described(), **(about or {})}
    known = None if part is None else _resumed(part, described)
    rows = [] if known is None else list(known.table)
    total = channel_count(generator.layout)
    kept = time.monotonic()

    def so_far() -> Fs3:
        return Fs3(torch.stack(rows), statistics, described)

    try:
        for row in _rows(generator, encode, statistics, settings, skip=len(rows)):
            rows.append(row)
            yield Step(len(rows) / total, f"Measured {len(rows):,} of {total:,} channels")
            if part is not None and time.monotonic() - kept > KEEP_EVERY_S:
                so_far().save(part)
                kept = time.monotonic()
    finally:
        if part is not None and rows:
            so_far().save(part)
    return so_far()


def _resumed(part: Path, described: Mapping[str, str]) -> Fs3 | None:
    if not part.is_file():
        return None
    known = Fs3.load(part)
    if known.about != described:
        raise InputError(
            f"{part.name} was measured in another way; delete it or choose another file."
        )
    return known


def _rows(
    generator: Generator, encode: Encode, statistics: StyleStatistics, settings: SecantSettings,
    skip: int,
) -> Iterator[Tensor]:  # fmt: skip
    """Rows (D,) of the channels behind the first `skip`, in their order."""
    styles = _pictures(generator, settings)
    stage: Activations | None = None  # what comes before the layer
    for index, slot in enumerate(generator.layout):
        if not slot.is_rgb:
            mean, sigma = (v[index].to(styles[index]) for v in (statistics.mean, statistics.sigma))
            batches = _batches(styles, stage, settings)
            for channel in range(min(skip, slot.size), slot.size):
                codes = moved_codes(
                    styles[index], channel, mean, settings.reach * sigma, settings.aliased
                )
                low, high = _features(generator, encode, batches, index, codes, settings)
                yield secant_row(low, high).cpu()
            skip = max(0, skip - slot.size)
            if settings.aliased:
                styles[index] = mean.expand_as(styles[index])
        stage = _advance(generator, styles, stage, settings)


def _pictures(generator: Generator, settings: SecantSettings) -> list[Tensor]:
    """Styles of the pictures, one (images, size) per slot."""
    batches = sampled_styles(generator, settings.images, settings.psi, settings.seed)
    return [torch.cat(parts) for parts in zip(*batches)]


def moved_codes(
    styles: Tensor, channel: int, mean: Tensor, step: Tensor, aliased: bool = False
) -> Tensor:
    """One layer's style vectors with a channel at its mean - step, and at its mean + step.

    Args:
        styles: (B, size).
        mean, step: (size,).
        aliased: the channels before this one are at their mean.

    Returns:
        (2, B, size), minus and plus.
    """
    codes = styles.repeat(2, 1, 1)
    if aliased:
        codes[..., :channel] = mean[:channel]
    codes[0, :, channel] = mean[channel] - step[channel]
    codes[1, :, channel] = mean[channel] + step[channel]
    return codes


def secant_row(low: Tensor, high: Tensor) -> Tensor:
    """Features (images, D) with a channel low and high -> what CLIP sees of the channel.

    Returns:
        (D,) unit length, or zero where nothing was seen.
    """
    difference = F.normalize(high, dim=-1) - F.normalize(low, dim=-1)
    return F.normalize(F.normalize(difference, dim=-1).mean(dim=0), dim=0)


@dataclass(frozen=True)
class _Batch:
    """Some of the pictures, each twice (minus and plus), ready for the channels of one layer."""

    these: slice
    styles: list[Tensor]  # (2 B, size) each
    start: Activations | None


def _batches(
    styles: list[Tensor], stage: Activations | None, settings: SecantSettings
) -> list[_Batch]:
    width = max(1, settings.batch // 2)
    slices = [slice(at, at + width) for at in range(0, settings.images, width)]
    return [
        _Batch(these, [v[these].repeat(2, 1) for v in styles], repeated(_cut(stage, these), 2))
        for these in slices
    ]


def _features(
    generator: Generator, encode: Encode, batches: list[_Batch], index: int, codes: Tensor,
    settings: SecantSettings,
) -> Tensor:  # fmt: skip
    """CLIP's features of all pictures with `codes` (2, images, size) in layer `index`:
    (2, images, D)."""
    found = []
    for batch in batches:
        styles = list(batch.styles)
        styles[index] = codes[:, batch.these].flatten(0, 1)  # (2 B, size)
        with _inference(generator, settings):
            features = encode(generator.synthesize(styles, start=batch.start))  # (2 B, D)
        found.append(features.to(codes.dtype).view(2, -1, features.shape[-1]))
    return torch.cat(found, dim=1)


def _advance(
    generator: Generator, styles: list[Tensor], stage: Activations | None, settings: SecantSettings
) -> Activations:
    """One layer further, a batch at a time."""
    parts = []
    for at in range(0, settings.images, settings.batch):
        these = slice(at, at + settings.batch)
        with _inference(generator, settings):
            start = _cut(stage, these)
            parts.append(next(generator.stages([v[these] for v in styles], start=start)))
    rgb = [part.rgb for part in parts if part.rgb is not None]
    whole = torch.cat([part.features for part in parts])
    return replace(parts[0], features=whole, rgb=torch.cat(rgb) if rgb else None)


def _cut(stage: Activations | None, these: slice) -> Activations | None:
    """Some pictures of a batch."""
    if stage is None:
        return None
    rgb = None if stage.rgb is None else stage.rgb[these]
    return Activations(stage.index, stage.features[these], rgb)


@contextmanager
def _inference(generator: Generator, settings: SecantSettings) -> Iterator[None]:
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        if settings.bfloat16:
            stack.enter_context(torch.autocast(generator.device.type, torch.bfloat16))
        yield
