"""Feature pyramid (Lin et al. 2017) with a batch normalisation behind every level."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from models.vild.config import VildConfig
from models.vild.layers import conv3x3, norm2d


class Fpn(nn.Module):
    """The backbone's maps -> levels of equal width, each half as fine as the one before."""

    def __init__(self, config: VildConfig) -> None:
        super().__init__()
        inputs, channels = config.backbone.channels, config.channels
        self.lateral = nn.ModuleList(nn.Conv2d(width, channels, 1) for width in inputs)
        self.smooth = nn.ModuleList(conv3x3(channels, channels) for _ in inputs)
        extra = len(config.strides) - len(inputs)
        self.coarser = nn.ModuleList(
            nn.Conv2d(channels, channels, 3, stride=2) for _ in range(extra)
        )
        self.norms = nn.ModuleList(norm2d(config, channels) for _ in config.strides)
        for convolution in [*self.lateral, *self.coarser]:
            nn.init.xavier_uniform_(convolution.weight)  # type: ignore[arg-type]
            nn.init.zeros_(convolution.bias)  # type: ignore[arg-type]

    def forward(self, stages: Sequence[Tensor]) -> list[Tensor]:
        """Maps (N, C, h, w), the finest first -> levels (N, channels, h, w)."""
        merged = [lateral(stage) for lateral, stage in zip(self.lateral, stages)]
        for i in reversed(range(len(merged) - 1)):
            merged[i] = merged[i] + F.interpolate(merged[i + 1], size=merged[i].shape[-2:])
        levels = [smooth(features) for smooth, features in zip(self.smooth, merged)]
        for i, coarser in enumerate(self.coarser):
            finer = F.relu(levels[-1]) if i else levels[-1]
            levels.append(coarser(_padded_same(finer)))
        return [norm(features) for norm, features in zip(self.norms, levels)]


def _padded_same(features: Tensor) -> Tensor:
    """TensorFlow's "same" padding for a 3x3 convolution of stride 2: right and below first."""
    height, width = features.shape[-2:]
    return F.pad(features, (width % 2, 1, height % 2, 1))
