"""Feature pyramid (Lin et al. 2017) with RetinaNet's two extra levels on top."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F


class Fpn(nn.Module):
    """C3, C4, C5 -> P3 .. P7 of equal width at strides 8, 16, 32, 64, 128."""

    def __init__(self, inputs: Sequence[int], channels: int) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(nn.Conv2d(width, channels, 1) for width in inputs)
        self.smooth = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in inputs)
        self.p6 = nn.Conv2d(channels, channels, 3, stride=2, padding=1)
        self.p7 = nn.Conv2d(channels, channels, 3, stride=2, padding=1)
        for convolution in [*self.lateral, *self.smooth, self.p6, self.p7]:
            nn.init.kaiming_uniform_(convolution.weight, a=1)  # type: ignore[arg-type]
            nn.init.zeros_(convolution.bias)  # type: ignore[arg-type]

    def forward(self, stages: Sequence[Tensor]) -> list[Tensor]:
        """Three maps (N, C, h, w), the finest first -> five (N, channels, h, w)."""
        merged = [lateral(stage) for lateral, stage in zip(self.lateral, stages)]
        for i in reversed(range(len(merged) - 1)):
            merged[i] = merged[i] + F.interpolate(merged[i + 1], size=merged[i].shape[-2:])
        levels = [smooth(features) for smooth, features in zip(self.smooth, merged)]
        p6 = self.p6(levels[-1])
        return [*levels, p6, self.p7(F.relu(p6))]
