"""Dynamic head (Dai et al. 2021, arXiv 2106.08322) as GLIP has it: scale, space and task attention.

Space: modulated deformable convolutions (DCNv2) over a level and its neighbours. Scale: a gate per
term. Task: a dynamic ReLU (Chen et al. 2020, arXiv 2003.10027).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.glip.deformable import deform_conv2d

TAPS = 9  # of a 3x3 kernel
GROUPS = 16  # of every group norm


class Sampling(NamedTuple):
    """Where and how strongly the taps of a deformable convolution read."""

    offset: Tensor  # (N, 18, h, w): dy and dx of each tap, in cells
    mask: Tensor  # (N, 9, h, w)

    def read_flat(self, height: int, width: int) -> Sampling:
        """As the reference's kernel reads it for a smaller output: the first values in memory.

        It takes the buffer for one of the output's size, however large it is. GLIP's weights were
        trained with that.
        """
        if self.mask.shape[-2:] == (height, width):
            return self
        cells = height * width
        return Sampling(
            self.offset.flatten(1)[:, : 2 * TAPS * cells].view(-1, 2 * TAPS, height, width),
            self.mask.flatten(1)[:, : TAPS * cells].view(-1, TAPS, height, width),
        )


class DeformConv(nn.Module):
    """3x3 DCNv2, then a group norm."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.conv = nn.Conv2d(channels, channels, 3, stride=stride, padding=1)  # its weights
        self.norm = nn.GroupNorm(GROUPS, channels)

    def forward(self, x: Tensor, sampling: Sampling) -> Tensor:
        """(N, C, h, w) -> (N, C, h / stride, w / stride), rounded up."""
        height, width = (-(-size // self.stride) for size in x.shape[-2:])
        offset, mask = sampling.read_flat(height, width)
        weight, bias = self.conv.weight, cast(Tensor, self.conv.bias)
        sampled = deform_conv2d(x, offset, mask, weight, bias, self.stride)
        return cast(Tensor, self.norm(sampled))


class DyConv(nn.Module):
    """Every level mixed with its neighbours; all terms of a level share that level's offsets."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.coarser = DeformConv(channels, stride=1)
        self.same = DeformConv(channels, stride=1)
        self.finer = DeformConv(channels, stride=2)
        self.offset = nn.Conv2d(channels, 3 * TAPS, 3, padding=1)
        self.gate = nn.Conv2d(channels, 1, 1)
        self.relu = DyReLU(channels)
        # An ordinary convolution to begin with, as in Dai et al. 2017.
        nn.init.zeros_(self.offset.weight)
        nn.init.zeros_(self.offset.bias)  # type: ignore[arg-type]
        nn.init.normal_(self.gate.weight, std=0.01)
        nn.init.zeros_(self.gate.bias)  # type: ignore[arg-type]

    def forward(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """Maps (N, C, h, w), the finest first -> as many of the same shapes."""
        return [self.relu(self._mixed(levels, i)) for i in range(len(levels))]

    def _mixed(self, levels: Sequence[Tensor], i: int) -> Tensor:
        sampling = self._sampling(levels[i])
        terms = [self.same(levels[i], sampling)]
        if i > 0:
            terms.append(self.finer(levels[i - 1], sampling))
        if i + 1 < len(levels):
            coarse = self.coarser(levels[i + 1], sampling)
            size = levels[i].shape[-2:]
            terms.append(F.interpolate(coarse, size=size, mode="bilinear", align_corners=True))
        gated = [term * self._gate(term) for term in terms]
        return torch.stack(gated).mean(dim=0)

    def _sampling(self, level: Tensor) -> Sampling:
        offset, mask = torch.split(self.offset(level), [2 * TAPS, TAPS], dim=1)
        return Sampling(offset, mask.sigmoid())

    def _gate(self, term: Tensor) -> Tensor:
        return F.hardsigmoid(F.relu(self.gate(term.mean(dim=(2, 3), keepdim=True))))


class DyReLU(nn.Module):
    """The larger of two lines per channel, whose slopes and heights the picture decides."""

    def __init__(self, channels: int, reduction: int = 4) -> None:
        super().__init__()
        self.squeeze = nn.Linear(channels, channels // reduction)
        self.excite = nn.Linear(channels // reduction, 4 * channels)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, h, w) -> the same shape."""
        lines = F.hardsigmoid(self.excite(F.relu(self.squeeze(x.mean(dim=(2, 3))))))
        lines = lines[:, :, None, None] - 0.5
        slope1, height1, slope2, height2 = lines.chunk(4, dim=1)  # each (N, C, 1, 1)
        return torch.maximum(x * (2 * slope1 + 1) + height1, x * (2 * slope2) + height2)
