"""What every detector asks of a picture before it is read: a size to find something in, and padding."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from models.errors import InputError

MIN_SIDE = 8  # pixels; in less nothing can be found
MAX_ASPECT = 50  # beyond this one side vanishes in the resize, or the other grows without a cap


@dataclass(frozen=True)
class NetworkInput:
    """A prepared picture.

    Attributes:
        pixels: (1, 3, H, W) float32, normalised, padded with zeros to the right and below.
        size: (width, height) of the resized picture inside `pixels`.
        original: (width, height) of the picture as it came; boxes go from `size` to this.
    """

    pixels: Tensor
    size: tuple[int, int]
    original: tuple[int, int]

    @property
    def padded(self) -> tuple[int, int]:
        """(width, height) of `pixels`."""
        height, width = self.pixels.shape[-2:]
        return width, height


def check_picture(image: Image.Image) -> None:
    """Raises InputError for a picture too small or too narrow to find anything in."""
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


def bytes_of(picture: Image.Image) -> Tensor:
    """An RGB picture as (3, H, W) uint8."""
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)  # (H, W, 3) -> (3, H, W)


def standardized(
    pixels: Tensor, mean: tuple[float, float, float], std: tuple[float, float, float]
) -> Tensor:
    """(3, H, W) float32 minus `mean`, over `std`, channel by channel."""
    centre, spread = (torch.tensor(values).view(3, 1, 1) for values in (mean, std))
    return (pixels - centre) / spread


def padded_to(pixels: Tensor, multiple: int) -> Tensor:
    """(3, H, W) -> (1, 3, H', W'), zeros to the right and below up to multiples."""
    below, right = (-side % multiple for side in pixels.shape[-2:])
    return F.pad(pixels, (0, right, 0, below))[None]
