"""A picture as GLIP's network reads it: resized, normalised, padded.

The short side becomes `min_size` pixels unless the long one would then exceed `max_size`; padding
is zeros to the right and below, after normalising, up to a multiple of `size_multiple`.
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

from .config import GlipConfig

MIN_SIDE = 8  # pixels; in less nothing can be found
MAX_ASPECT = 50  # without a cap the long side of the input grows with this


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


def resized(width: int, height: int, min_size: int, max_size: int | None) -> tuple[int, int]:
    """Width and height, in pixels, at which a picture is read; `max_size` None caps nothing."""
    short, long = min(width, height), max(width, height)
    target = min_size
    if max_size is not None and long / short * target > max_size:
        target = max(1, round(max_size * short / long))
    other = int(target * long / short)
    return (target, other) if width <= height else (other, target)


def prepare(
    image: Image.Image,
    config: GlipConfig,
    min_size: int | None = None,
    max_size: int | None = None,
) -> NetworkInput:
    """Make a picture ready for `Glip(config)`.

    Args:
        image: any mode; what is transparent lies on white.
        min_size, max_size: instead of the configuration's, for speed or detail, in pixels.

    Raises:
        InputError: the picture is too small or too narrow to find anything in.
    """
    _check(image)
    size = resized(*image.size, min_size or config.min_size, max_size or config.max_size)
    pixels = normalized(on_white(image), size, config)[None]
    height, width = (-side % config.size_multiple for side in pixels.shape[-2:])
    return NetworkInput(F.pad(pixels, (0, width, 0, height)), size, image.size)


def normalized(image: Image.Image, size: tuple[int, int], config: GlipConfig) -> Tensor:
    """An RGB picture at `size` (width, height), as (3, H, W) float32 in the network's range."""
    small = image.resize(size, Image.Resampling.BILINEAR)
    pixels = torch.from_numpy(np.array(small)).permute(2, 0, 1)  # (H, W, 3) -> (3, H, W)
    if config.colour_order == "BGR":
        pixels = pixels.flip(0)
    pixels = pixels.float() * (config.pixel_range / 255)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (config.mean, config.std))
    return (pixels - mean) / std


def _check(image: Image.Image) -> None:
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
