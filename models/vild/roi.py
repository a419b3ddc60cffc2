"""What a region of the picture looks like in the pyramid: one bilinear sample per cell.

torchvision's `roi_align(sampling_ratio=1, aligned=False)` computes the same for regions of at
least one cell, but stretches smaller ones to a cell; the reference reads them at their true extent,
even where a degenerate box makes that zero or negative. `grid_sample` does that, too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

SMALLEST = 1e-12  # an area without a logarithm counts as this, which is far below any level


def region_levels(boxes: Tensor, canonical_size: float, first: int, last: int) -> Tensor:
    """The level (N,) in first .. last that boxes (N, 4) are read from (Lin et al. 2017, eq. 1).

    A box of `canonical_size` squared belongs to level 4; boxes without an area to the first.
    """
    width, height = (boxes[:, 2:] - boxes[:, :2]).unbind(1)
    side = (width * height).clamp(min=SMALLEST).sqrt()
    level = ((side / canonical_size).log() / math.log(2)).floor() + 4
    return level.clamp(first, last).long()


def region_features(
    levels: Sequence[Tensor],
    boxes: Sequence[Tensor] | Tensor,
    size: int,
    min_level: int,
    canonical_size: float,
) -> Tensor:
    """Features of regions of N pictures.

    Args:
        levels: (N, C, h, w), the finest, of stride 2^min_level, first.
        boxes: of every picture (K, 4) xyxy in pixels of the network's input.
        size: cells per side of what is read.
        canonical_size: see `region_levels`.

    Returns:
        (sum of K, C, size, size), the pictures' regions one after another.
    """
    last = min_level + len(levels) - 1

    def choose(everything: Tensor) -> Tensor:
        return region_levels(everything, canonical_size, min_level, last) - min_level

    factors = [2.0 ** -(min_level + index) for index in range(len(levels))]
    return read_regions(levels, factors, boxes, size, choose)


def nearest_scale(boxes: Tensor, scales: Sequence[float], side: float) -> Tensor:
    """At which of the scales a box (N, 4) is nearest to `side` pixels, by ratio: (N,) indices."""
    width, height = (boxes[:, 2:] - boxes[:, :2]).unbind(1)
    own = (width * height).clamp(min=SMALLEST).sqrt()
    off = (own[:, None] * own.new_tensor(scales) / side).log().abs()  # (N, S)
    return off.argmin(dim=1)


def read_regions(
    maps: Sequence[Tensor],
    factors: Sequence[float],
    boxes: Sequence[Tensor] | Tensor,
    size: int,
    choose: Callable[[Tensor], Tensor],
) -> Tensor:
    """`region_features`, with any maps.

    Args:
        maps: (N, C, h, w) each.
        factors: cells of each map per pixel of the boxes.
        choose: from which map each of all boxes (M, 4) is read: (M,) indices.
    """
    counts = [len(rows) for rows in boxes]
    everything = torch.cat(list(boxes)).to(maps[0].device).float()
    picture = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    chosen = choose(everything).cpu()
    rows, parts = [], []
    for index, (features, factor) in enumerate(zip(maps, factors, strict=True)):
        for number, single in enumerate(features):
            mine = ((chosen == index) & (picture == number)).nonzero()[:, 0]
            if len(mine):
                rows.append(mine)
                own = everything[mine.to(everything.device)] * factor
                parts.append(_sample(single, _sampling_grid(own, size, single)))
    if not rows:
        return maps[0].new_zeros(0, maps[0].shape[1], size, size)
    order = torch.cat(rows).argsort().to(everything.device)
    return torch.cat(parts)[order]


def _sampling_grid(boxes: Tensor, size: int, features: Tensor) -> Tensor:
    """Where boxes (K, 4), in cells, are sampled: (K, size, size, 2) in [-1, 1] of the map."""
    steps = (torch.arange(size, device=boxes.device) + 0.5) / size
    at = boxes[:, None, :2] + steps[:, None] * (boxes[:, None, 2:] - boxes[:, None, :2])
    height, width = features.shape[-2:]
    last = boxes.new_tensor([max(width - 1, 1), max(height - 1, 1)])
    x, y = (at * 2 / last - 1).unbind(-1)  # (K, size) each
    shape = (len(boxes), size, size)
    return torch.stack([x[:, None, :].expand(shape), y[:, :, None].expand(shape)], dim=-1)


def _sample(features: Tensor, grid: Tensor) -> Tensor:
    """A map (C, h, w) at (K, size, size, 2) -> (K, C, size, size); beyond the edge is the edge."""
    count, size = grid.shape[:2]
    # Half precision cannot say where a sample lies.
    exact = torch.promote_types(features.dtype, torch.float32)
    sampled = F.grid_sample(
        features[None].to(exact),
        grid.reshape(1, count * size, size, 2).to(exact),
        padding_mode="border",
        align_corners=True,
    )
    return sampled[0].view(-1, count, size, size).transpose(0, 1).to(features.dtype)
