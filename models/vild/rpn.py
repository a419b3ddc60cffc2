"""Class-agnostic region proposals (Ren et al. 2015) from every level of the pyramid.

ViLD trains them on base categories alone, and they find novel objects all the same (section 3.1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from torchvision.ops import nms

from models.detection.boxes import clip_boxes, decode
from models.vild.config import VildConfig
from models.vild.layers import norm2d

UNWEIGHTED = (1.0, 1.0, 1.0, 1.0)  # of the box coder


@dataclass(frozen=True)
class RpnOutput:
    """What the network says of every anchor, level by level, in a level by row, column and ratio.

    objectness (N, M) before the sigmoid; deltas (N, M, 4: dx, dy, dw, dh), coder weights 1;
    level_sizes: how many of the M anchors each level has; level_shapes: its height and width.
    """

    objectness: Tensor
    deltas: Tensor
    level_sizes: tuple[int, ...]
    level_shapes: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Proposals:
    """The boxes of N pictures that may hold something, best first.

    boxes: (N, K, 4) xyxy in pixels of the network's input. objectness: (N, K) in [0, 1]; rows
    that only fill a picture up to K have -1 and a box of zeros.
    """

    boxes: Tensor
    objectness: Tensor

    def of(self, picture: int) -> tuple[Tensor, Tensor]:
        """Boxes (k, 4) and objectness (k,) of one picture, without filling."""
        real = self.objectness[picture] >= 0
        return self.boxes[picture, real], self.objectness[picture, real]


class Rpn(nn.Module):
    """Objectness and a box for every anchor; the convolutions are shared by the levels, their
    normalisations are not."""

    def __init__(self, config: VildConfig) -> None:
        super().__init__()
        channels, anchors = config.channels, len(config.anchor_ratios)
        self.convs = nn.ModuleList(
            nn.Conv2d(channels, channels, 3, padding=1) for _ in range(config.rpn_convs)
        )
        self.norms = nn.ModuleList(
            nn.ModuleList(norm2d(config, channels) for _ in range(config.rpn_convs))
            for _ in config.strides
        )
        self.objectness = nn.Conv2d(channels, anchors, 1)
        self.box = nn.Conv2d(channels, anchors * 4, 1)
        for convolution in [*self.convs, self.objectness, self.box]:
            nn.init.normal_(convolution.weight, std=0.01)  # type: ignore[arg-type]
            nn.init.zeros_(convolution.bias)  # type: ignore[arg-type]

    def forward(self, levels: Sequence[Tensor]) -> RpnOutput:
        """Levels (N, C, h, w), the finest first; what else follows them is not read."""
        objectness, deltas = [], []
        for features, norms in zip(levels, self.norms):
            for convolution, norm in zip(self.convs, norms):  # type: ignore[call-overload]
                features = F.relu(norm(convolution(features)))
            objectness.append(_by_cell(self.objectness(features), 1)[..., 0])
            deltas.append(_by_cell(self.box(features), 4))
        return RpnOutput(
            torch.cat(objectness, dim=1),
            torch.cat(deltas, dim=1),
            tuple(level.shape[1] for level in objectness),
            tuple((level.shape[2], level.shape[3]) for level in levels[: len(self.norms)]),
        )


def anchor_boxes(
    config: VildConfig,
    level_shapes: Sequence[tuple[int, int]],
    device: torch.device | str | None = None,
) -> Tensor:
    """(M, 4) float32 xyxy in pixels, in the order of `RpnOutput`; centred on the cells."""
    ratios = torch.tensor(config.anchor_ratios, device=device).sqrt()
    shape = torch.stack([ratios, 1 / ratios], dim=1)  # (A, 2): width and height of area 1
    levels = []
    for stride, (height, width) in zip(config.strides, level_shapes):
        y, x = (stride * (torch.arange(n, device=device) + 0.5) for n in (height, width))
        centre = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)  # (h, w, 2)
        half = config.anchor_scale * stride * shape / 2
        boxes = torch.cat([centre[:, :, None] - half, centre[:, :, None] + half], dim=-1)
        levels.append(boxes.reshape(-1, 4))  # (h, w, A, 4) -> (h * w * A, 4)
    return torch.cat(levels)


@torch.no_grad()
def select_proposals(
    output: RpnOutput,
    anchors: Tensor,
    sizes: Sequence[tuple[int, int]],
    pre_nms: int,
    nms_threshold: float,
    post_nms: int,
) -> Proposals:
    """The best boxes of every picture; gradients end here.

    Args:
        output: of the network, for N pictures.
        anchors: (M, 4) xyxy.
        sizes: N pairs (width, height) at which boxes end, in pixels.
        pre_nms: how many boxes of a level enter its NMS.
        nms_threshold: a box goes where its IoU with a better one reaches this.
        post_nms: how many boxes a level, and then a picture, may give.
    """
    rows = []
    for objectness, deltas, size in zip(output.objectness.float(), output.deltas.float(), sizes):
        boxes = clip_boxes(decode(deltas, anchors, UNWEIGHTED), *size)
        found = [
            _best_of_level(*level, pre_nms, nms_threshold, post_nms)
            for level in zip(
                torch.split(boxes, list(output.level_sizes)),
                torch.split(objectness.sigmoid(), list(output.level_sizes)),
            )
        ]
        scores = torch.cat([score for _, score in found])
        best = scores.argsort(descending=True, stable=True)[:post_nms]
        rows.append((torch.cat([box for box, _ in found])[best], scores[best]))
    return Proposals(
        pad_sequence([boxes for boxes, _ in rows], batch_first=True),
        pad_sequence([scores for _, scores in rows], batch_first=True, padding_value=-1.0),
    )


def reaching(threshold: float) -> float:
    """What torchvision's NMS, which drops an IoU above its threshold, needs to drop one that
    equals `threshold` in float32, too."""
    return float(np.nextafter(np.float32(threshold), np.float32(-1)))


def _best_of_level(
    boxes: Tensor, scores: Tensor, pre_nms: int, nms_threshold: float, post_nms: int
) -> tuple[Tensor, Tensor]:
    best = scores.argsort(descending=True, stable=True)[:pre_nms]
    # The reference marks a dropped box by zeros, hence drops what lies in the corner itself, too.
    best = best[(boxes[best] > 0).any(dim=1)]
    kept = best[nms(boxes[best], scores[best], reaching(nms_threshold))[:post_nms]]
    return boxes[kept], scores[kept]


def _by_cell(features: Tensor, size: int) -> Tensor:
    """(N, A * size, h, w) -> (N, h * w * A, size)."""
    count, _, height, width = features.shape
    split = features.view(count, -1, size, height, width)
    return split.permute(0, 3, 4, 1, 2).reshape(count, -1, size)
