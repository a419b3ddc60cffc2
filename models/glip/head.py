"""The head: blocks of fusion, BERT layer and dynamic convolution, then boxes and word scores."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.clip.frozen import NAMED_SIDE
from models.glip.config import STRIDES, GlipConfig
from models.glip.dyhead import DyConv
from models.glip.fusion import Fusion
from models.glip.text import TextLayer

PRIOR = 0.01  # probability that a cell shows a word, before training (Lin et al. 2017, focal loss)
MAX_LOGIT = 50_000.0


@dataclass(frozen=True)
class HeadOutput:
    """What the network says of every cell of P3 .. P7, level after level, row after row.

    logits (N, M, T): that the cell shows the word, before the sigmoid. box_regression (N, M, 4):
    for `models.detection.boxes.decode`. centerness (N, M): before the sigmoid. level_shapes: (h, w)
    of the levels; their cells add up to M. attention (N, M, T): how much the cell listened to the
    word in the last fusion, mean over heads; rows sum to 1.
    """

    logits: Tensor
    box_regression: Tensor
    centerness: Tensor
    level_shapes: list[tuple[int, int]]
    attention: Tensor | None = None


class Block(nn.Module):
    """One step of the head. Without fusion (variant A) the words stay as they are."""

    def __init__(self, config: GlipConfig) -> None:
        super().__init__()
        width = config.head_text_width
        self.fusion = self.text_layer = None
        if config.fusion:
            self.fusion = Fusion(
                config.channels, width, config.fusion_width, config.fusion_heads, 1 / config.blocks
            )
            self.text_layer = TextLayer(
                width, config.head_text_heads, config.head_text_intermediate
            )
        self.dyconv = DyConv(config.channels)

    def forward(
        self, levels: Sequence[Tensor], text: Tensor, mask: Tensor
    ) -> tuple[list[Tensor], Tensor, Tensor | None]:
        """Maps (N, C, h, w), words (N, T, D) and which are real (N, T) -> maps, words, and how
        cells listened to words (N, M, heads, T), None without fusion."""
        attention = None
        if self.fusion is not None and self.text_layer is not None:
            cells, text, attention = self.fusion(flatten_levels(levels), text, mask)
            levels = split_levels(cells, [(x.shape[2], x.shape[3]) for x in levels])
            text = self.text_layer(text, mask)
        return self.dyconv(levels), text, attention


class Shortcut(nn.Module):
    """Phrases found in the backbone's last map directly, beside the head: where map and phrases come
    from a CLIP and its language model, both projections begin as that CLIP's own.

    A narrow head among many words loses what CLIP knows: of 484 phrases of unseen scenes it found 83%,
    and 92% with this beside it, untrained. Each level looks at the view in which things of its
    anchors' size are nearest to those that clip-mini knows best.

    Args:
        channels: of the backbone's last map.
        views: scales of the picture.
        text_width: of the language backbone's words.
        width: of the space in which both meet.
    """

    def __init__(
        self, channels: int, text_width: int, width: int, views: Sequence[float], anchor_scale: int
    ) -> None:
        super().__init__()
        side = anchor_scale / NAMED_SIDE
        self.views = [
            min(range(len(views)), key=lambda i: abs(math.log(stride * side * views[i])))
            for stride in STRIDES
        ]
        self.cell = nn.Conv2d(channels, width, 1, bias=False)
        self.phrase = nn.Linear(text_width, width, bias=False)
        self.scale = nn.Parameter(torch.ones(1))

    def forward(
        self, maps: Sequence[Tensor], phrases: Tensor, level_shapes: Sequence[tuple[int, int]]
    ) -> Tensor:
        """The last map of each view (N, C, h, w) and for each word its phrase (N, T, D), zeros for a
        word of none -> logits (N, M, T) to add to the head's."""
        words = F.normalize(self.phrase(phrases), dim=-1)
        found = [self._cosines(features, words) for features in maps]
        resized = [
            F.interpolate(found[view], size=shape, mode="bilinear", align_corners=False)
            for view, shape in zip(self.views, level_shapes)
        ]
        return self.scale * flatten_levels(resized)

    def _cosines(self, features: Tensor, words: Tensor) -> Tensor:
        """(N, T, h, w)."""
        cells = F.normalize(self.cell(features), dim=1)
        return torch.einsum("nchw,ntc->nthw", cells, words)


class Head(nn.Module):
    """All blocks and the prediction (section 3.1: alignment scores are dot products)."""

    def __init__(self, config: GlipConfig) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.blocks))
        self.box = nn.Conv2d(config.channels, 4, 1)
        self.centerness = nn.Conv2d(config.channels, 1, 1)
        self.scales = nn.ParameterList(nn.Parameter(torch.ones(1)) for _ in STRIDES)
        self.text_projection = nn.Linear(config.head_text_width, config.channels)
        self.log_scale = nn.Parameter(torch.zeros(1))
        self.bias_text = nn.Parameter(torch.zeros(config.head_text_width))
        self.bias0 = nn.Parameter(torch.full((1,), -math.log((1 - PRIOR) / PRIOR)))
        for convolution in (self.box, self.centerness):
            nn.init.normal_(convolution.weight, std=0.01)
            nn.init.zeros_(convolution.bias)  # type: ignore[arg-type]

    def forward(
        self, levels: Sequence[Tensor], text: Tensor, mask: Tensor, *, keep_attention: bool = False
    ) -> HeadOutput:
        """Maps (N, C, h, w), words (N, T, D), which are real (N, T)."""
        attention = None
        for block in self.blocks:
            levels, text, attention = block(levels, text, mask)
        regression = [scale * self.box(level) for scale, level in zip(self.scales, levels)]
        return HeadOutput(
            logits=self._logits(flatten_levels(levels), text),
            box_regression=flatten_levels(regression),
            centerness=flatten_levels([self.centerness(level) for level in levels])[..., 0],
            level_shapes=[(level.shape[2], level.shape[3]) for level in levels],
            attention=attention.mean(dim=2) if keep_attention and attention is not None else None,
        )

    def _logits(self, cells: Tensor, text: Tensor) -> Tensor:
        words = F.normalize(text, dim=-1)
        tokens = self.text_projection(words / 2) / self.log_scale.exp()  # (N, T, C)
        bias = words @ self.bias_text + self.bias0  # (N, T)
        logits = cells @ tokens.transpose(1, 2) + bias[:, None]
        return torch.clamp(logits, -MAX_LOGIT, MAX_LOGIT)


def flatten_levels(levels: Sequence[Tensor]) -> Tensor:
    """Maps (N, C, h, w) -> cells (N, M, C), level after level, row after row."""
    return torch.cat([level.flatten(2) for level in levels], dim=2).transpose(1, 2)


def split_levels(cells: Tensor, shapes: Sequence[tuple[int, int]]) -> list[Tensor]:
    """The inverse of `flatten_levels`."""
    counts = [height * width for height, width in shapes]
    parts = torch.split(cells.transpose(1, 2), counts, dim=2)
    return [torch.unflatten(part, 2, shape).contiguous() for part, shape in zip(parts, shapes)]


def anchor_boxes(
    shapes: Sequence[tuple[int, int]], scale: int, device: torch.device | str | None = None
) -> Tensor:
    """(M, 4) float32 xyxy in pixels of the network's input: one square box per cell, `scale`
    strides wide, in legacy coordinates (x2 is the last pixel inside)."""
    boxes = []
    for (height, width), stride in zip(shapes, STRIDES):
        rows, columns = (
            torch.arange(size, device=device, dtype=torch.float32) * stride + (stride - 1) / 2
            for size in (height, width)
        )
        y, x = torch.meshgrid(rows, columns, indexing="ij")
        half = (scale * stride - 1) / 2
        boxes.append(torch.stack([x - half, y - half, x + half, y + half], dim=-1).flatten(0, 1))
    return torch.cat(boxes)
