"""Post-processing against the reference's recipe, cell by cell and label by label."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from models.detection.boxes import decode
from models.glip.head import HeadOutput, anchor_boxes
from models.glip.postprocess import find_candidates, label_scores, select

SHAPES = [(4, 5), (2, 3), (1, 2), (1, 1), (1, 1)]
CELLS = 20 + 6 + 2 + 1 + 1
PAIRS = torch.tensor([[1, 1], [1, 2], [2, 3], [4, 2], [4, 4], [4, 5]])  # no label 3
SIZE = (37, 29)
ANCHORS = anchor_boxes(SHAPES, 4)


def output(seed: int = 0, batch: int = 1, words: int = 7, bias: float = -1.5) -> HeadOutput:
    random = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random, dtype=torch.float64)

    return HeadOutput(
        logits=2 * normal(batch, CELLS, words) + bias,
        box_regression=2 * normal(batch, CELLS, 4),
        centerness=normal(batch, CELLS),
        level_shapes=SHAPES,
    )


def sigmoid(x: Tensor) -> float:
    return 1 / (1 + math.exp(-float(x)))


def plain_candidates(found: HeadOutput, per_level: int, least: float) -> list[tuple[float, ...]]:
    """Rows (score, label, cell, x1, y1, x2, y2), sorted."""
    boxes = decode(found.box_regression[0], ANCHORS)
    rows, start = [], 0
    for height, width in SHAPES:
        level = []
        for cell in range(start, start + height * width):
            for label in sorted(set(PAIRS[:, 0].tolist())):
                words = [token for owner, token in PAIRS.tolist() if owner == label]
                score = sum(sigmoid(found.logits[0, cell, t]) for t in words) / len(words)
                if score > least:
                    product = score * sigmoid(found.centerness[0, cell])
                    x1, y1, x2, y2 = boxes[cell].tolist()
                    box = [min(max(v, 0), side - 1) for v, side in zip((x1, y1, x2, y2), SIZE * 2)]
                    level.append((math.sqrt(product), label, cell, *box))
        rows += sorted(level, reverse=True)[:per_level]
        start += height * width
    return sorted(rows)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("per_level", "least"), [(1000, 0.05), (5, 0.05), (1, 0.3), (1000, 0.0), (7, 0.6)]
)
def test_candidates_are_the_recipes(seed: int, per_level: int, least: float) -> None:
    found = find_candidates(
        output(seed), PAIRS, ANCHORS, SIZE, per_level=per_level, min_probability=least
    )
    rows = zip(found.scores, found.labels, found.cells, *found.boxes.T)
    ours = sorted(tuple(float(value) for value in row) for row in rows)
    expected = plain_candidates(output(seed), per_level, least)
    assert len(ours) == len(found) == len(expected)
    for mine, reference in zip(ours, expected):
        assert mine == pytest.approx(reference, abs=1e-9)


def test_the_threshold_comes_before_centerness() -> None:
    """A sure label on a cell that is far from the middle stays; its score falls."""
    found = output(bias=4.0)
    found.centerness.fill_(-12)
    candidates = find_candidates(found, PAIRS, ANCHORS, SIZE)
    assert len(candidates) > 50
    assert float(candidates.scores.max()) < 0.01


def test_one_picture_of_a_batch() -> None:
    both = output(batch=2)
    second = HeadOutput(both.logits[1:], both.box_regression[1:], both.centerness[1:], SHAPES)
    a = find_candidates(both, PAIRS, ANCHORS, SIZE, picture=1)
    b = find_candidates(second, PAIRS, ANCHORS, SIZE)
    assert torch.equal(a.boxes, b.boxes)
    assert torch.equal(a.scores, b.scores)


@pytest.mark.parametrize("bias", [-50.0, -8.0])
def test_nothing_found_is_empty(bias: float) -> None:
    candidates = find_candidates(output(bias=bias), PAIRS, ANCHORS, SIZE)
    assert len(candidates) == 0
    assert candidates.boxes.shape == (0, 4)
    assert select(candidates).tolist() == []


def test_no_label_finds_nothing() -> None:
    none = torch.empty(0, 2, dtype=torch.long)
    assert len(find_candidates(output(bias=9.0), none, ANCHORS, SIZE)) == 0


def plain_select(
    boxes: list[list[float]], scores: list[float], labels: list[int], threshold: float, most: int
) -> list[int]:
    def area(x1: float, y1: float, x2: float, y2: float) -> float:
        return max(x2 - x1 + 1, 0) * max(y2 - y1 + 1, 0)

    def iou(a: list[float], b: list[float]) -> float:
        inside = area(max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3]))
        return inside / (area(*a) + area(*b) - inside)

    kept: list[int] = []
    for i in sorted(range(len(scores)), key=lambda i: -scores[i]):
        rivals = [j for j in kept if labels[j] == labels[i]]
        if all(iou(boxes[i], boxes[j]) <= threshold for j in rivals):
            kept.append(i)
    return kept[:most]


@pytest.mark.parametrize(("threshold", "most"), [(0.6, 100), (0.3, 100), (0.6, 5), (1.0, 20)])
def test_selection_is_nms_per_label_best_first(threshold: float, most: int) -> None:
    candidates = find_candidates(output(3, bias=0.0), PAIRS, ANCHORS, SIZE)
    best = select(candidates, threshold, most)
    expected = plain_select(
        candidates.boxes.tolist(),
        candidates.scores.tolist(),
        candidates.labels.tolist(),
        threshold,
        most,
    )
    assert best.tolist() == expected
    chosen = candidates[best]
    assert len(chosen) == len(best)
    assert torch.equal(chosen.labels, candidates.labels[best])


def test_a_word_may_serve_several_labels() -> None:
    probabilities = torch.tensor([[0.1, 0.4, 0.9]], dtype=torch.float64)
    pairs = torch.tensor([[7, 0], [7, 1], [2, 1], [2, 2]])
    scores, labels = label_scores(probabilities, pairs)
    assert labels.tolist() == [2, 7]
    assert scores.tolist() == [[pytest.approx(0.65), pytest.approx(0.25)]]
    assert label_scores(probabilities, pairs, "max")[0].tolist() == [[0.9, 0.4]]
