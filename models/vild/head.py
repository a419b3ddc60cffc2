"""The second stage: what a region is, as a vector in CLIP's space, and where exactly it lies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.vild.config import VildConfig
from models.vild.layers import conv3x3, linear, norm1d, norm2d


@dataclass(frozen=True)
class Regions:
    """What the heads say of N regions.

    embeddings (N, D): unit vectors, to compare with names. image_embeddings (N, D): unit vectors
    that imitate the teacher's of the cropped region, None unless the model is an ensemble.
    deltas (N, 4: dx, dy, dw, dh) with the coder's default weights.
    """

    embeddings: Tensor
    image_embeddings: Tensor | None
    deltas: Tensor


SHORTCUT = 3  # cells per side of what a shortcut reads


class Shortcut(nn.Module):
    """A region of the backbone's last map, its cells weighed and projected: (N, C, 3, 3) -> (N, D).

    With the mean for weights and a CLIP's own projection, this is how a frozen CLIP names regions
    (as in F-VLM, Kuo et al. 2023). The narrow pyramid loses that: of 256 directions its 64 channels
    carry those that differ most, by which clip-mini names 23% of true boxes instead of 36%. And the
    map knows things of the size it was trained on only: 48% of those of 56 to 72 pixels, none
    beyond 128. A region is therefore read in the view of the picture in which it is nearest to
    that size.
    """

    def __init__(self, config: VildConfig) -> None:
        super().__init__()
        channels = config.backbone.channels[-1]
        self.weight = nn.Parameter(torch.full((channels, SHORTCUT, SHORTCUT), 1 / SHORTCUT**2))
        self.project = nn.Linear(channels, config.embedding, bias=False)
        nn.init.xavier_uniform_(self.project.weight)

    def forward(self, cells: Tensor) -> Tensor:
        return cast(Tensor, self.project((cells * self.weight).sum((2, 3))))


class RegionHead(nn.Module):
    """Region features -> a unit vector; (N, C, roi, roi) and, for a shortcut, cells (N, C', 3, 3) of
    the backbone's last map -> (N, D)."""

    def __init__(self, config: VildConfig) -> None:
        super().__init__()
        channels, cells = config.channels, config.roi**2
        self.convs = nn.ModuleList(conv3x3(channels, channels) for _ in range(config.head_convs))
        self.conv_norms = nn.ModuleList(norm2d(config, channels) for _ in self.convs)
        self.fcs = nn.ModuleList(
            [linear(channels * cells, config.fc), linear(config.fc, config.fc)]
        )
        self.fc_norms = nn.ModuleList(norm1d(config, config.fc) for _ in self.fcs)
        self.project = linear(config.fc, config.embedding)
        self.shortcut = Shortcut(config) if config.views else None

    def hidden(self, features: Tensor) -> Tensor:
        """(N, C, roi, roi) -> (N, fc), before the projection."""
        for convolution, norm in zip(self.convs, self.conv_norms):
            features = F.relu(norm(convolution(features)))
        rows = features.flatten(1)
        for layer, norm in zip(self.fcs, self.fc_norms):
            rows = F.relu(norm(layer(rows)))
        return rows

    def embed(self, hidden: Tensor, cells: Tensor | None = None) -> Tensor:
        """(N, fc), before the projection, and cells -> (N, D), unit length."""
        vectors = self.project(hidden)
        if self.shortcut is not None:
            vectors = vectors + self.shortcut(cells)
        return F.normalize(vectors, dim=-1)

    def forward(self, features: Tensor, cells: Tensor | None = None) -> Tensor:
        return self.embed(self.hidden(features), cells)


class BoxHead(RegionHead):
    """A region head that also corrects the box, the same way for whatever it holds."""

    def __init__(self, config: VildConfig) -> None:
        super().__init__(config)
        self.box = linear(config.fc, 4, std=0.001)

    def regions(self, features: Tensor, cells: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(N, C, roi, roi) and cells -> unit vectors (N, D) and deltas (N, 4)."""
        hidden = self.hidden(features)
        return self.embed(hidden, cells), self.box(hidden)


class MaskHead(nn.Module):
    """Region features (N, C, 14, 14) -> logits (N, 28, 28) of what belongs to the object."""

    def __init__(self, config: VildConfig) -> None:
        super().__init__()
        channels = config.mask_channels
        widths = [config.channels] + [channels] * (config.mask_convs - 1)
        self.convs = nn.ModuleList(conv3x3(width, channels) for width in widths)
        self.norms = nn.ModuleList(norm2d(config, channels) for _ in self.convs)
        self.upscale = nn.ConvTranspose2d(channels, channels, 2, stride=2)
        self.upscale_norm = norm2d(config, channels)
        self.logits = nn.Conv2d(channels, 1, 1)
        nn.init.kaiming_normal_(self.upscale.weight, mode="fan_out", nonlinearity="relu")
        nn.init.kaiming_normal_(self.logits.weight, mode="fan_out", nonlinearity="relu")
        for layer in (self.upscale, self.logits):
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, features: Tensor) -> Tensor:
        for convolution, norm in zip(self.convs, self.norms):
            features = F.relu(norm(convolution(features)))
        features = F.relu(self.upscale_norm(self.upscale(features)))
        return cast(Tensor, self.logits(features)[:, 0])
