"""What GLIP is trained with: ATSS assignment, token-level focal loss, GIoU and centerness.

Li et al. 2022, "Grounded Language-Image Pre-training", section 3.1: the classification loss of a
detector becomes a loss between regions and words. Zhang et al. 2020 (arXiv 1912.02424), algorithm 1,
says which anchors belong to which box.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import generalized_box_iou_loss, sigmoid_focal_loss

from models.detection.boxes import decode, pairwise_iou

CANDIDATES = 9  # anchors per level that a box may take, nearest first
FOCAL_ALPHA, FOCAL_GAMMA = 0.25, 2.0
BOX_WEIGHT = 2.0


@dataclass(frozen=True)
class Targets:
    """What N pictures should be answered with, padded to the most boxes of one picture.

    Attributes:
        boxes: (N, B, 4) xyxy pixels of the network's input.
        tokens: (N, B, T) bool, the tokens that name each box.
        real: (N, B) bool, False for padding.
    """

    boxes: Tensor
    tokens: Tensor
    real: Tensor


@dataclass(frozen=True)
class Losses:
    """The three terms; `total` is what is minimised."""

    words: Tensor
    boxes: Tensor
    centerness: Tensor

    @property
    def total(self) -> Tensor:
        return self.words + self.boxes + self.centerness


def atss_assign(anchors: Tensor, level_sizes: Sequence[int], boxes: Tensor, real: Tensor) -> Tensor:
    """Which box each anchor answers for.

    Of each box's nearest anchors (`CANDIDATES` a level, by centre) those with an IoU of at least
    their mean plus their standard deviation and a centre inside the box are its positives; an
    anchor that two boxes claim goes to the one it overlaps more.

    Args:
        anchors: (M, 4) xyxy, level by level; `level_sizes` sums to M.
        boxes: (N, B, 4) xyxy; `real` (N, B) bool.

    Returns:
        (N, M) index of the box, -1 for none.
    """
    count, most = real.shape
    if not most:
        return torch.full((count, len(anchors)), -1, device=boxes.device)
    centres = (anchors[:, :2] + anchors[:, 2:]) / 2  # (M, 2)
    middles = (boxes[..., :2] + boxes[..., 2:]) / 2  # (N, B, 2)
    distance = torch.cdist(middles, centres.expand(count, -1, -1))  # (N, B, M)
    chosen, start = [], 0
    for size in level_sizes:
        part = distance[..., start : start + size]
        chosen.append(part.topk(min(CANDIDATES, size), largest=False).indices + start)
        start += size
    candidate = torch.cat(chosen, dim=-1)  # (N, B, K)
    iou = pairwise_iou(boxes.flatten(0, 1), anchors).view(count, most, -1)  # (N, B, M)
    overlap = iou.gather(2, candidate)
    threshold = overlap.mean(2, keepdim=True) + overlap.std(2, keepdim=True)
    at = centres[candidate]  # (N, B, K, 2)
    inside = torch.cat([at - boxes[:, :, None, :2], boxes[:, :, None, 2:] - at], dim=-1) > 0.01
    positive = (overlap >= threshold) & inside.all(-1) & real[..., None]
    claim = iou.new_full(iou.shape, -1.0)
    claim.scatter_(2, candidate, torch.where(positive, overlap, -1.0))
    best, owner = claim.max(dim=1)  # (N, M)
    return torch.where(best >= 0, owner, -1)


def centerness_targets(anchors: Tensor, boxes: Tensor) -> Tensor:
    """(P,) in [0, 1]: 1 where an anchor's centre (P, 4) is its box's (P, 4), 0 at an edge.

    Tian et al. 2019, "FCOS", equation 3.
    """
    centre = (anchors[:, :2] + anchors[:, 2:]) / 2
    before, after = centre - boxes[:, :2], boxes[:, 2:] - centre  # (P, 2): x, y
    ratio = before.minimum(after) / before.maximum(after)
    return ratio.clamp(min=0).prod(1).sqrt()


def grounding_losses(
    logits: Tensor, box_regression: Tensor, centerness: Tensor, mask: Tensor,
    anchors: Tensor, level_sizes: Sequence[int], targets: Targets,
) -> Losses:  # fmt: skip
    """The losses of one batch, each divided by its number of positive anchors.

    Args:
        logits: (N, M, T) region-word logits; `mask` (N, T) says which words are real.
        box_regression: (N, M, 4) deltas; centerness: (N, M) logits.
        anchors: (M, 4), level by level (`level_sizes`).
    """
    owner = atss_assign(anchors, level_sizes, targets.boxes, targets.real)  # (N, M)
    row, place = (owner >= 0).nonzero(as_tuple=True)  # (P,)
    mine = owner[row, place]
    wanted = torch.zeros_like(logits)
    wanted[row, place] = targets.tokens[row, mine].to(logits)
    focal = sigmoid_focal_loss(logits, wanted, FOCAL_ALPHA, FOCAL_GAMMA)
    positives = max(1, len(row))
    words = (focal * mask[:, None]).sum() / positives
    own, truth = anchors[place], targets.boxes[row, mine]
    weight = centerness_targets(own, truth)
    found = decode(box_regression[row, place], own)
    # A box thinner than the coder's "+1" would be inside out.
    found = torch.cat([found[:, :2], found[:, 2:].maximum(found[:, :2])], dim=1)
    overlap = generalized_box_iou_loss(found, truth)
    boxes = BOX_WEIGHT * (overlap * weight).sum() / weight.sum().clamp(min=1e-6)
    certain = F.binary_cross_entropy_with_logits(centerness[row, place], weight, reduction="sum")
    return Losses(words, boxes, certain / positives)
