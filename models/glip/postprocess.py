"""From what the head says of every cell to boxes: scores per label, the best, NMS per label."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from models.detection.boxes import clip_boxes, decode
from models.detection.nms import nms_per_label
from models.glip.head import HeadOutput

MIN_PROBABILITY = 0.05
PER_LEVEL = 1000
NMS_THRESHOLD = 0.6
MAX_BOXES = 100  # 300 in the reference's evaluation on LVIS


@dataclass(frozen=True)
class Candidates:
    """Boxes before or after NMS; row i of every tensor is one box with one label.

    boxes (K, 4) xyxy in pixels of the network's input, x2 and y2 the last pixels inside. scores
    (K,): the geometric mean of label probability and centerness. labels (K,): as the pairs name
    them. cells (K,): rows of the head's output.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    cells: Tensor

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, rows: Tensor) -> Candidates:
        return Candidates(self.boxes[rows], self.scores[rows], self.labels[rows], self.cells[rows])


def label_scores(
    probabilities: Tensor, pairs: Tensor, how: Literal["mean", "max"] = "mean"
) -> tuple[Tensor, Tensor]:
    """What a cell's words say of its labels.

    Args:
        probabilities: (M, T) of words.
        pairs: (P, 2) rows (label, token): which tokens a label consists of.
        how: the released weights expect the mean.

    Returns:
        Scores (M, L), and the labels (L,) they belong to, ascending.
    """
    labels, column = torch.unique(pairs[:, 0], return_inverse=True)
    words = probabilities[:, pairs[:, 1]]  # (M, P)
    empty = probabilities.new_zeros(len(probabilities), len(labels))
    reduce = "mean" if how == "mean" else "amax"
    scores = empty.scatter_reduce(
        1, column.expand_as(words), words, reduce=reduce, include_self=False
    )
    return scores, labels


def find_candidates(
    output: HeadOutput,
    pairs: Tensor,
    anchors: Tensor,
    size: tuple[int, int],
    *,
    picture: int = 0,
    min_probability: float = MIN_PROBABILITY,
    per_level: int = PER_LEVEL,
) -> Candidates:
    """The best boxes of every level for every label, before NMS.

    Args:
        output: of the head.
        pairs: (P, 2) rows (label, token); labels are any integers.
        anchors: (M, 4) xyxy, of `Glip.anchors`.
        size: width and height of the picture without padding, in pixels; boxes end there.
        picture: which one of the batch.
        min_probability: a label's score must exceed this, centerness aside.
        per_level: how many boxes a level may give.
    """
    probabilities = output.logits[picture].sigmoid()
    scores, labels = label_scores(probabilities, pairs.to(probabilities.device))
    centerness = output.centerness[picture].sigmoid()
    counts = [height * width for height, width in output.level_shapes]
    cells, columns = _best_per_level(scores, centerness, counts, min_probability, per_level)
    boxes = decode(output.box_regression[picture, cells], anchors[cells])
    return Candidates(
        boxes=clip_boxes(boxes, *size),
        scores=(scores[cells, columns] * centerness[cells]).sqrt(),
        labels=labels[columns],
        cells=cells,
    )


def select(
    candidates: Candidates, nms_threshold: float = NMS_THRESHOLD, max_boxes: int = MAX_BOXES
) -> Tensor:
    """Rows of the candidates that stay, best first: NMS per label, then the best of all labels."""
    kept = nms_per_label(candidates.boxes, candidates.scores, candidates.labels, nms_threshold)
    order = candidates.scores[kept].argsort(descending=True, stable=True)
    return kept[order[:max_boxes]]


def _best_per_level(
    scores: Tensor, centerness: Tensor, counts: list[int], min_probability: float, per_level: int
) -> tuple[Tensor, Tensor]:
    """Rows and columns of `scores` (M, L): per level the highest by score times centerness."""
    cells, columns, start = [], [], 0
    for count in counts:
        rows, chosen = (scores[start : start + count] > min_probability).nonzero().T
        rows = rows + start
        ranked = scores[rows, chosen] * centerness[rows]
        best = ranked.topk(min(per_level, len(ranked)), sorted=False).indices
        cells.append(rows[best])
        columns.append(chosen[best])
        start += count
    return torch.cat(cells), torch.cat(columns)
