"""A picture as ViLD's network reads it: normalised, resized, padded with zeros right and below.

The released weights were trained on TensorFlow 1's bilinear resize, whose cell i of the result is
read at i * old / new of the picture: no half-pixel shift and no averaging, unlike Pillow's and
`F.interpolate`'s.
"""

from __future__ import annotations

import torch
from PIL import Image
from torch import Tensor

from models.detection.preprocess import (
    NetworkInput,
    bytes_of,
    check_picture,
    padded_to,
    standardized,
)
from models.pictures import on_white
from models.vild.config import VildConfig


def resized(width: int, height: int, config: VildConfig) -> tuple[int, int]:
    """Width and height, in pixels, at which a picture is read."""
    scale = min(config.max_size / width, config.max_size / height)
    if config.min_size is not None:
        scale = min(scale, config.min_size / min(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def prepare(image: Image.Image, config: VildConfig) -> NetworkInput:
    """Make a picture of any mode ready for `Vild(config)`; what is transparent lies on white.

    Raises:
        InputError: the picture is too small or too narrow to find anything in.
    """
    check_picture(image)
    size = resized(*image.size, config)
    picture = on_white(image)
    if config.resize == "antialiased":
        pixels = _normalized(picture.resize(size, Image.Resampling.BILINEAR), config)
    else:
        pixels = resize_like_tensorflow(_normalized(picture, config), *size)
    return NetworkInput(padded_to(pixels, config.size_multiple), size, image.size)


def resize_like_tensorflow(pixels: Tensor, width: int, height: int) -> Tensor:
    """`tf.image.resize_bilinear` of TensorFlow 1: (C, H, W) -> (C, height, width)."""
    down, across = (
        _interpolation(old, new) for old, new in zip(pixels.shape[-2:], (height, width))
    )
    return down @ pixels @ across.T


def _interpolation(old: int, new: int) -> Tensor:
    """The matrix (new, old) that resizes one axis."""
    scale = torch.tensor(old, dtype=torch.float32) / new
    position = torch.arange(new, dtype=torch.float32) * scale
    before = position.floor().long().clamp(max=old - 1)
    after = (before + 1).clamp(max=old - 1)
    share = (position - before)[:, None]
    rows = torch.eye(old)
    return (1 - share) * rows[before] + share * rows[after]


def _normalized(picture: Image.Image, config: VildConfig) -> Tensor:
    """An RGB picture as (3, H, W) float32 of mean 0 and deviation 1."""
    return standardized(bytes_of(picture).float() / 255, config.mean, config.std)
