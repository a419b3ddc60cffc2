"""Rendering many edits of one picture: what they have in common is computed once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from models.stylegan.generator import Activations, Generator


def prefix(generator: Generator, styles: Sequence[Tensor], layer: int) -> Activations | None:
    """Synthesis up to, and without, the layer of style vector `layer`; None for the first one.

    An edit that changes nothing before that layer goes on from there:
    `generator.synthesize(edited, start=prefix(generator, styles, layer))`.
    """
    for stage in generator.stages(styles) if layer > 0 else ():
        if stage.index == layer - 1:
            return stage
    return None


def repeated(stage: Activations | None, times: int) -> Activations | None:
    """`stage` for `times` copies of its batch, one whole batch after the other."""
    if stage is None:
        return None
    rgb = None if stage.rgb is None else stage.rgb.repeat(times, 1, 1, 1)
    # repeat loses channels_last, which the next convolutions want
    features = stage.features.repeat(times, 1, 1, 1)
    return Activations(stage.index, features.contiguous(memory_format=torch.channels_last), rgb)


def first_change(pictures: Sequence[Sequence[Tensor]]) -> int:
    """The first style vector in which styles of several pictures differ; the last one if none do.

    Args:
        pictures: StyleSpace of each picture, one (1, size) per slot.
    """
    slots = list(zip(*pictures))
    for index, vectors in enumerate(slots):
        if any(not torch.equal(vector, vectors[0]) for vector in vectors[1:]):
            return index
    return len(slots) - 1
