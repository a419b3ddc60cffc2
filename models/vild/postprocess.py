"""From what the heads say of every region to detections: by the benchmark's rule or the demo's."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.ops import nms

from models.detection.boxes import clip_boxes, decode

BENCHMARK_NMS = 0.5
PER_CLASS = 1000  # boxes of a class that enter its NMS
MAX_BOXES = 300


@dataclass(frozen=True)
class Ranked:
    """Boxes (K, 4) xyxy with scores (K,), columns of the score matrix (K,) and regions (K,), best
    first."""

    boxes: Tensor
    scores: Tensor
    classes: Tensor
    regions: Tensor


def corrected_boxes(deltas: Tensor, regions: Tensor, size: tuple[int, int]) -> Tensor:
    """Regions (N, 4) moved by the head's deltas (N, 4), inside `size` (width, height)."""
    return clip_boxes(decode(deltas.float(), regions), *size)


def rank_by_class(
    boxes: Tensor,
    scores: Tensor,
    nms_threshold: float = BENCHMARK_NMS,
    min_score: float = 0.0,
    max_boxes: int = MAX_BOXES,
    per_class: int = PER_CLASS,
) -> Ranked:
    """The benchmark's rule: NMS within every class, then the best of all of them.

    Args:
        boxes: (N, 4), the same for all classes.
        scores: (N, K); one region may be detected as several classes.
        nms_threshold: a box goes where its IoU with a better one of its class exceeds this.
        min_score: scores must exceed this.
    """
    # Boxes that are inside out count by their extent.
    upright = torch.cat(
        [boxes[:, :2].minimum(boxes[:, 2:]), boxes[:, :2].maximum(boxes[:, 2:])], dim=1
    )
    found = []
    for column in scores.T:
        order = column.argsort(descending=True, stable=True)[:per_class]
        order = order[column[order] > min_score]
        found.append(order[nms(upright[order], column[order], nms_threshold)[:max_boxes]])
    counts = torch.tensor([len(rows) for rows in found], dtype=torch.long, device=boxes.device)
    classes = torch.arange(len(found), device=boxes.device).repeat_interleave(counts)
    regions = torch.cat(found) if found else classes
    values = scores[regions, classes]
    best = values.argsort(descending=True, stable=True)[:max_boxes]
    regions = regions[best]
    return Ranked(boxes[regions], values[best], classes[best], regions)


def select_regions(
    boxes: Tensor,
    objectness: Tensor,
    areas: Tensor,
    nms_threshold: float = 0.6,
    min_objectness: float = 0.9,
    min_area: float = 220,
    max_boxes: int = 25,
) -> Tensor:
    """The public notebook's rule for what is shown, whatever its name: rows, best first.

    Args:
        boxes: (N, 4), corrected by the second stage. objectness: (N,) in [0, 1], by which NMS
            ranks; below 0 it fills rows. areas: (N,) in pixels of the original picture.
        nms_threshold: a box goes where its IoU with a better one exceeds this.
        min_objectness: at least this. min_area: more than this.
    """
    kept: Tensor = nms(boxes, objectness, nms_threshold)
    good = (objectness[kept] >= max(min_objectness, 0)) & (areas[kept] > min_area)
    return kept[good][:max_boxes]


def rank_by_name(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Which of the shown regions are named, and what: rows, the best score first, and columns.

    scores (N, 1 + K): column 0 is the background; where it is highest, nothing is named.
    """
    best, column = scores.max(dim=1)
    order = best.argsort(descending=True, stable=True)
    order = order[column[order] > 0]
    return order, column[order]


def paste_masks(
    logits: Tensor, boxes: Tensor, size: tuple[int, int], threshold: float = 0.5
) -> Tensor:
    """Masks of the whole picture: logits (N, m, m) inside boxes (N, 4) -> (N, H, W) bool.

    Args:
        boxes: xyxy in pixels of the picture, as edges; `size` is its (width, height).
        threshold: a pixel belongs to the object from this probability on.
    """
    width, height = size
    across = _cell_weights(boxes[:, 0], boxes[:, 2], width, logits.shape[2])
    down = _cell_weights(boxes[:, 1], boxes[:, 3], height, logits.shape[1])
    return down @ logits.sigmoid() @ across.mT >= threshold


def _cell_weights(low: Tensor, high: Tensor, pixels: int, cells: int) -> Tensor:
    """How the centres of a row's pixels weigh the cells between `low` and `high` (N,), bilinear:
    (N, pixels, cells). Pixels outside weigh none."""
    centre = torch.arange(pixels, device=low.device) + 0.5
    position = (centre - low[:, None]) / (high - low).clamp(min=1e-6)[:, None]  # in [0, 1]
    inside = (position >= 0) & (position <= 1)
    place = (position * cells - 0.5).clamp(0, cells - 1)[..., None]
    weights = (1 - (place - torch.arange(cells, device=low.device)).abs()).clamp(min=0)
    return weights * inside[..., None]
