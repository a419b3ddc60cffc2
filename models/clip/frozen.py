"""An image tower of clip-mini as a backbone: frozen, and never in training mode.

The detectors stand on the clip-mini of 2026-11-24, kept as `clip-mini-teacher`: every later tower has
other features, and would need both of them trained again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import models.clip.tower  # noqa: F401  (registers the architecture with timm)
from models.weights import read_safetensors

NAMED_SIDE = 72.0  # pixels: things of about this size clip-mini's last map names best
THEIRS, OURS = "visual.trunk.", "backbone.trunk."  # names in clip-mini's file, in a detector's


class FrozenTower(nn.Module):
    """Picture -> feature maps of clip-mini's ResNet, for which no gradient is kept.

    Args:
        trunk: one that has its weights; else one that waits for them.
    """

    def __init__(self, trunk: nn.Module | None = None) -> None:
        super().__init__()
        self.trunk: Any = trunk or timm.create_model("atelier_resnet", num_classes=0)
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> FrozenTower:
        """Stays in evaluation mode: its batch statistics belong to clip-mini."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, pixels: Tensor) -> list[Tensor]:
        """(N, 3, H, W) -> C3, C4, C5 at strides 8, 16 and 32, each (N, C, h, w)."""
        maps: list[Tensor] = self.trunk.forward_intermediates(
            pixels, indices=[2, 3, 4], intermediates_only=True
        )
        return maps


def scaled(pixels: Tensor, scale: float) -> Tensor:
    """Pictures (N, 3, H, W) at another scale, sides rounded to whole pixels."""
    size = [round(side * scale) for side in pixels.shape[-2:]]
    return F.interpolate(pixels, size, mode="bilinear", antialias=True, align_corners=False)


def stages_of(
    backbone: Callable[[Tensor], list[Tensor]], pixels: Tensor, views: Sequence[float]
) -> list[Tensor]:
    """Maps of a backbone (N, C, h, w), the finest first, then the last one of every view but the
    first, which is the picture as it is."""
    further = [backbone(scaled(pixels, scale))[-1] for scale in views[1:]]
    return [*backbone(pixels), *further]


def tower_state(path: Path) -> dict[str, Tensor]:
    """A clip-mini's image tower out of its file, under the names of a detector's `backbone`.

    Raises WeightsError when there is no such file, or it is damaged.
    """
    return {
        OURS + key.removeprefix(THEIRS): tensor
        for key, tensor in read_safetensors(path).items()
        if key.startswith(THEIRS)
    }
