"""Weights at a byte each: int8 rows with one scale a row, half the size of float16.

Symmetric per-channel quantisation (Krishnamoorthi 2018, arXiv 1806.08342, section 2.2): a kernel's
row is its largest value times integers from -127 to 127. Only files are stored so; networks compute
with what `widened` gives back.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

INTEGERS, SCALE = ".int8", ".int8_scale"
LARGEST = 127


def narrowed(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Every matrix and kernel as `<name>.int8` and `<name>.int8_scale` (float32, one a row); vectors
    and what is no float stay as they are."""
    found = {}
    for name, tensor in tensors.items():
        if not tensor.is_floating_point() or tensor.ndim < 2:
            found[name] = tensor
            continue
        rows = tensor.float().flatten(1)  # (O, n)
        scale = (rows.abs().amax(1) / LARGEST).clamp(min=torch.finfo(torch.float32).tiny)
        integers = (rows / scale[:, None]).round().clamp(-LARGEST, LARGEST)
        found[name + INTEGERS] = integers.to(torch.int8).view(tensor.shape)
        found[name + SCALE] = scale
    return found


def widened(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse, float32, but for the rounding; tensors that were stored plainly pass through.

    Raises:
        ValueError: integers without their scale.
    """
    found = {}
    for name, tensor in tensors.items():
        if name.endswith(INTEGERS):
            scale = tensors.get(name.removesuffix(INTEGERS) + SCALE)
            if scale is None or scale.shape != tensor.shape[:1]:
                raise ValueError(f"{name} has no scale for each of its rows")
            shape = (-1, *[1] * (tensor.ndim - 1))
            found[name.removesuffix(INTEGERS)] = tensor.float() * scale.view(shape)
        elif name.removesuffix(SCALE) + INTEGERS not in tensors:
            found[name] = tensor
    return found
