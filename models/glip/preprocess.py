"""A picture as GLIP's network reads it: resized, normalised, padded.

The short side becomes `min_size` pixels unless the long one would then exceed `max_size`; padding
is zeros to the right and below, after normalising, up to a multiple of `size_multiple`.
"""

from __future__ import annotations

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

from .config import GlipConfig


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
    check_picture(image)
    size = resized(*image.size, min_size or config.min_size, max_size or config.max_size)
    pixels = normalized(on_white(image), size, config)
    return NetworkInput(padded_to(pixels, config.size_multiple), size, image.size)


def normalized(image: Image.Image, size: tuple[int, int], config: GlipConfig) -> Tensor:
    """An RGB picture at `size` (width, height), as (3, H, W) float32 in the network's range."""
    pixels = bytes_of(image.resize(size, Image.Resampling.BILINEAR))
    if config.colour_order == "BGR":
        pixels = pixels.flip(0)
    return standardized(pixels.float() * (config.pixel_range / 255), config.mean, config.std)
