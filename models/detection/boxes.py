"""Box arithmetic in torch. Every box is x1, y1, x2, y2 in pixels.

The box coder is that of Fast R-CNN (Girshick 2015, appendix C of R-CNN) in its legacy form, on
which GLIP's and ViLD's weights were trained: x2 and y2 name the last pixel *inside* a box, so
that its width is x2 - x1 + 1.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torchvision.ops import box_convert, box_iou

Weights = tuple[float, float, float, float]

CODER_WEIGHTS: Weights = (10.0, 10.0, 5.0, 5.0)
# exp() of a wild regression overflows; no box grows beyond 1000 / 16 of its anchor.
MAX_LOG_SCALE = math.log(1000 / 16)


def decode(deltas: Tensor, anchors: Tensor, weights: Weights = CODER_WEIGHTS) -> Tensor:
    """Boxes that `deltas` (..., 4: dx, dy, dw, dh) make of `anchors` (..., 4, xyxy).

    Batched regressions broadcast over shared anchors; the result has the dtype of `deltas`.
    """
    centre, size = _centre_size(anchors.to(deltas))
    scaled = deltas / deltas.new_tensor(weights)
    shift, log_scale = scaled[..., :2], scaled[..., 2:].clamp(max=MAX_LOG_SCALE)
    moved = torch.cat([centre + shift * size, size * log_scale.exp()], dim=-1)
    return inclusive(box_convert(moved, "cxcywh", "xyxy"))


def encode(boxes: Tensor, anchors: Tensor, weights: Weights = CODER_WEIGHTS) -> Tensor:
    """The deltas (..., 4) that make `boxes` of `anchors`, both (..., 4, xyxy): decode's inverse."""
    centre, size = _centre_size(anchors.to(boxes))
    target_centre, target_size = _centre_size(boxes)
    shift, log_scale = (target_centre - centre) / size, (target_size / size).log()
    return torch.cat([shift, log_scale], dim=-1) * boxes.new_tensor(weights)


def clip_boxes(boxes: Tensor, width: int, height: int) -> Tensor:
    """Boxes (..., 4) inside a picture: x in [0, width - 1], y in [0, height - 1]."""
    last = boxes.new_tensor([width - 1, height - 1, width - 1, height - 1])
    return boxes.clamp(min=0).minimum(last)


def rescale_boxes(boxes: Tensor, size: tuple[int, int], new_size: tuple[int, int]) -> Tensor:
    """Boxes (..., 4) of a picture of `size` in the same picture at `new_size` (width, height)."""
    (width, height), (new_width, new_height) = size, new_size
    x, y = new_width / width, new_height / height
    return boxes * boxes.new_tensor([x, y, x, y])


def pairwise_iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union (N, M) of boxes a (N, 4) and b (M, 4); 0 where both are empty.

    Edges are edges here (width x2 - x1), as COCO measures it; for the legacy measure give it
    `exclusive` boxes.
    """
    iou: Tensor = box_iou(a, b)
    return iou.nan_to_num(0.0)


def exclusive(boxes: Tensor) -> Tensor:
    """Legacy boxes (..., 4) with x2, y2 as edges: one pixel further right and down."""
    return boxes + boxes.new_tensor([0, 0, 1, 1])


def inclusive(boxes: Tensor) -> Tensor:
    """Boxes (..., 4) with x2, y2 as the last pixel inside: the inverse of `exclusive`."""
    return boxes - boxes.new_tensor([0, 0, 1, 1])


def _centre_size(boxes: Tensor) -> tuple[Tensor, Tensor]:
    converted = box_convert(exclusive(boxes), "xyxy", "cxcywh")
    return converted[..., :2], converted[..., 2:]
