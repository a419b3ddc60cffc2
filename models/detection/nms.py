"""Non-maximum suppression per label, with the legacy measure of overlap."""

from __future__ import annotations

from torch import Tensor
from torchvision.ops import batched_nms

from models.detection.boxes import exclusive


def nms_per_label(boxes: Tensor, scores: Tensor, labels: Tensor, threshold: float) -> Tensor:
    """Indices, ascending, of the boxes that no better box of the same label covers.

    boxes (N, 4) xyxy in pixels, scores (N,), labels (N,) integers, all on any device. A box goes
    where its IoU with a kept, better one exceeds `threshold`; widths are x2 - x1 + 1 (`boxes.py`).
    Of equal scores the first counts as better.
    """
    if not len(boxes):
        return labels.new_empty(0)
    # float64, so that an IoU of exactly the threshold is not rounded above it; on the CPU, since
    # Apple's GPUs have no float64. From zero, since batched_nms moves the labels apart by the
    # largest coordinate and would let boxes with negative ones meet.
    shifted = boxes.detach().cpu().double()
    shifted = exclusive(shifted - shifted.min())
    kept: Tensor = batched_nms(shifted, scores.detach().cpu().double(), labels.cpu(), threshold)
    return kept.sort().values.to(boxes.device)
