"""A picture as ViLD's network reads it: normalised, resized, padded with zeros right and below.

The released weights were trained on TensorFlow 1's bilinear resize, whose cell i of the result is
read at i * old / new of the picture: no half-pixel shift and no averaging, unlike Pillow's and
`F.interpolate`'s.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from models.errors import InputError
from models.pictures import on_white
from models.vild.config import VildConfig

MIN_SIDE = 8  # pixels; in less nothing can be found
MAX_ASPECT = 50  # beyond this the shorter side vanishes in the resize


@dataclass(frozen=True)
class NetworkInput:
    """A prepared picture.

    Attributes:
        pixels: (1, 3, H, W) float32, normalised, H and W multiples of `size_multiple`.
        size: (width, height) of the resized picture inside `pixels`.
        original: (width, height) of the picture as it came; boxes go from `size` to this.
    """

    pixels: Tensor
    size: tuple[int, int]
    original: tuple[int, int]

    @property
    def padded(self) -> tuple[int, int]:
        """(width, height) of `pixels`, at which the reference lets boxes end."""
        height, width = self.pixels.shape[-2:]
        return width, height


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
    width, height = image.size
    if min(width, height) < MIN_SIDE:
        raise InputError(
            f"This picture is {width:,} x {height:,} pixels; each side needs at least {MIN_SIDE}."
        )
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise InputError(
            f"This picture is {width:,} x {height:,} pixels, a mere line; crop it so that one side "
            f"is at most {MAX_ASPECT} times the other."
        )
    size = resized(width, height, config)
    picture = on_white(image)
    if config.resize == "antialiased":
        pixels = _normalized(picture.resize(size, Image.Resampling.BILINEAR), config)
    else:
        pixels = resize_like_tensorflow(_normalized(picture, config), *size)
    bottom, right = (-side % config.size_multiple for side in pixels.shape[-2:])
    return NetworkInput(F.pad(pixels, (0, right, 0, bottom))[None], size, image.size)


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
    pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (config.mean, config.std))
    return (pixels - mean) / std
