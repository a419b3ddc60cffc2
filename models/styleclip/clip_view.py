"""What CLIP is shown of a generator's picture.

Every step here is linear and acts on rows and columns separately, so a view is two small matrices
around the picture: R x C^T. Nothing larger than the picture is ever made; the reference enlarges a
1024 px picture to 7168 px on its way to 224.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from models.errors import InputError

REFERENCE_SIDE = 224
PREPROCESSINGS = ("proper", "reference")
MAX_CROPS = 16

Window = tuple[range, range]  # rows and columns of a picture, pixels


class Clip(Protocol):
    """What the edits need of an encoder; `models.clip.ClipEncoder` has it."""

    @property
    def image_size(self) -> int: ...

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """(N, D) unit vectors."""

    def image_features(self, pixels: Tensor) -> Tensor:
        """(N, 3, S, S) in the tower's input range -> (N, D) unit vectors, differentiable."""

    def normalize(self, pixels: Tensor) -> Tensor:
        """(N, 3, S, S) in [0, 1] -> the tower's input range, differentiable."""


@dataclass(frozen=True)
class ClipView:
    """How a picture reaches CLIP.

    Attributes:
        preprocessing: "proper": resized with antialiasing to the encoder's side, [-1, 1] to
            [0, 1], the encoder's mean and standard deviation. "reference": what StyleCLIP's code
            does, nearest x7 and average pooling to 224 px, values left at about [-1, 1].
            Neither clamps: a pixel beyond white must still feel which way is darker.
        crops: this many views of random windows, beside the one of the whole picture; 0 to 16.
        smallest: side of the smallest window, as a fraction of the picture's, in [0.5, 1].
    """

    preprocessing: str = "proper"
    crops: int = 0
    smallest: float = 0.8

    def __post_init__(self) -> None:
        if self.preprocessing not in PREPROCESSINGS:
            choices = ", ".join(PREPROCESSINGS)
            raise InputError(
                f'There is no preprocessing "{self.preprocessing}"; choose one of {choices}.'
            )
        if not 0 <= self.crops <= MAX_CROPS:
            raise InputError(f"Give 0 to {MAX_CROPS} cropped views, not {self.crops}.")
        if not 0.5 <= self.smallest <= 1:
            raise InputError(f"Cropped views show 0.5 to 1 of a side, not {self.smallest}.")

    def windows(self, side: int, random: torch.Generator) -> list[Window]:
        """The whole picture of `side` pixels, then `crops` random windows of it.

        Args:
            random: draws the windows, on the CPU.
        """
        windows = [(range(side), range(side))]
        # The reference's pooling is defined for multiples of 32 pixels only.
        grain = 32 if self.preprocessing == "reference" else 1
        for size, down, across in torch.rand(self.crops, 3, generator=random).tolist():
            share = self.smallest + (1 - self.smallest) * size
            width = max(grain, round(share * side / grain) * grain)
            top, left = round(down * (side - width)), round(across * (side - width))
            windows.append((range(top, top + width), range(left, left + width)))
        return windows

    def pixels(self, clip: Clip, images: Tensor, windows: Sequence[Window]) -> Tensor:
        """Windows of pictures as CLIP takes them in.

        Args:
            images: (B, 3, N, N) raw, about [-1, 1].

        Returns:
            (windows * B, 3, S, S), linear in the images.

        Raises:
            InputError: the reference's preprocessing does not fit the picture or the encoder.
        """
        out = clip.image_size
        if self.preprocessing == "reference":
            if out != REFERENCE_SIDE:
                raise InputError(
                    f"The reference's preprocessing makes {REFERENCE_SIDE} px and this CLIP takes "
                    f'{out} px; choose "proper".'
                )
            return torch.cat([_look(images, window, reference_matrix) for window in windows])

        def resize(width: int) -> Tensor:
            return antialias_matrix(width, out)

        views = torch.cat([_look(images, window, resize) for window in windows])
        return clip.normalize((views + 1) / 2)

    def features(self, clip: Clip, images: Tensor, windows: Sequence[Window]) -> Tensor:
        """CLIP's features of `pixels`: (windows, B, D) unit vectors, differentiable."""
        pixels = self.pixels(clip, images, windows)
        features = clip.image_features(pixels)  # (V * B, D)
        return features.view(len(windows), len(images), -1)


def _look(images: Tensor, window: Window, resize: Callable[[int], Tensor]) -> Tensor:
    """R x C^T on every channel of a window: (B, 3, N, N) -> (B, 3, S, S)."""
    rows, columns = window
    part = images[..., rows.start : rows.stop, columns.start : columns.stop]  # (B, 3, h, w)
    shrunk = part @ resize(len(columns)).T.to(part)  # (B, 3, h, S)
    return resize(len(rows)).to(part) @ shrunk


@lru_cache(maxsize=64)
def antialias_matrix(side: int, out: int) -> Tensor:
    """(out, side) float64: antialiased bilinear resizing of one axis, as `F.interpolate` does."""
    unit = torch.eye(side, dtype=torch.float64)[None, None]  # (1, 1, side, side)
    resized = F.interpolate(unit, (out, side), mode="bilinear", antialias=True)
    return resized[0, 0]


@lru_cache(maxsize=64)
def reference_matrix(side: int) -> Tensor:
    """(224, side) float64: one axis of nearest x7, then the mean of side / 32 neighbours.

    Raises:
        InputError: the side is no multiple of 32.
    """
    if side % 32 or side < 32:
        raise InputError(
            f"The reference's preprocessing takes pictures of 32, 64, 96, ... px, not {side}; "
            'choose "proper".'
        )
    fine = torch.arange(7 * side)  # pixels of the enlarged axis
    places = (fine // (side // 32), fine // 7)  # where each goes, where it comes from
    share = torch.tensor(32 / side, dtype=torch.float64)
    matrix = torch.zeros(REFERENCE_SIDE, side, dtype=torch.float64)
    return matrix.index_put_(places, share, accumulate=True)
