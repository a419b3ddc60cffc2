"""Proposals: anchors and the coder in closed form, NMS against a plain loop."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from models.detection.boxes import decode
from models.vild import RpnOutput, Vild, VildConfig
from models.vild.rpn import UNWEIGHTED, anchor_boxes, reaching, select_proposals

pytestmark = pytest.mark.usefixtures("one_thread")


def test_anchors_of_the_reference() -> None:
    """Of 8 cells, centred at half a stride; ratio fastest, then columns."""
    anchors = anchor_boxes(VildConfig.r50(), [(2, 3), (1, 2)])
    assert anchors.shape == ((2 * 3 + 1 * 2) * 3, 4)
    wide, high = 16 * math.sqrt(2), 16 / math.sqrt(2)
    expected = [
        [2 - 16, 2 - 16, 2 + 16, 2 + 16],
        [2 - wide, 2 - high, 2 + wide, 2 + high],
        [2 - high, 2 - wide, 2 + high, 2 + wide],
        [6 - 16, 2 - 16, 6 + 16, 2 + 16],
    ]
    assert torch.allclose(anchors[:4], torch.tensor(expected))
    assert anchors[9].tolist() == [2 - 16, 6 - 16, 2 + 16, 6 + 16]  # the second row
    assert anchors[18].tolist() == [4 - 32, 4 - 32, 4 + 32, 4 + 32]  # the second level


def test_mini_anchors_start_at_32_pixels() -> None:
    anchors = anchor_boxes(VildConfig.mini(), [(1, 1)])
    assert anchors[0].tolist() == [4 - 16, 4 - 16, 4 + 16, 4 + 16]


@pytest.mark.parametrize(
    ("deltas", "expected"),
    [
        ([0, 0, 0, 0], [10, 20, 39, 59]),
        ([0.5, 0, 0, 0], [25, 20, 54, 59]),  # half of 30 pixels
        ([0, 0.5, 0, 0], [10, 40, 39, 79]),  # half of 40
        ([0, 0, math.log(2), 0], [-5, 20, 54, 59]),
        ([0, 0, 0, math.log(0.5)], [10, 30, 39, 49]),
        ([0, 0, 9, 0], [25 - 15 * 62.5, 20, 24 + 15 * 62.5, 59]),  # no wider than 1000 / 16
    ],
)
def test_coder(deltas: list[float], expected: list[float]) -> None:
    """Of a box whose last pixels are 39 and 59: 30 x 40 pixels."""
    anchor = torch.tensor([[10.0, 20, 39, 59]])
    found = decode(torch.tensor([deltas], dtype=torch.float32), anchor, UNWEIGHTED)
    assert found[0].tolist() == pytest.approx(expected, abs=1e-3)


def slow_nms(boxes: np.ndarray, scores: np.ndarray, threshold: float) -> list[int]:
    """The reference's: a box goes where its IoU with a kept, better one *reaches* the threshold;
    boxes of zeros never count."""
    kept: list[int] = []
    for row in sorted(range(len(scores)), key=lambda i: (-scores[i], i)):
        if not (boxes[row] > 0).any():
            continue
        if all(slow_iou(boxes[row], boxes[other]) < np.float32(threshold) for other in kept):
            kept.append(row)
    return kept


def slow_iou(a: np.ndarray, b: np.ndarray) -> np.float32:
    width = np.maximum(np.minimum(a[2], b[2]) - np.maximum(a[0], b[0]), np.float32(0))
    height = np.maximum(np.minimum(a[3], b[3]) - np.maximum(a[1], b[1]), np.float32(0))
    inside = width * height
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inside
    return inside / (union + np.float32(1e-8))


def as_output(scores: Tensor, sizes: tuple[int, ...]) -> RpnOutput:
    """Of one picture: anchors are right as they are, probabilities are given."""
    logits = scores.double().logit().float()[None]
    return RpnOutput(logits, torch.zeros(1, len(scores), 4), sizes, ((1, 1),) * len(sizes))


def random_boxes(count: int, seed: int) -> Tensor:
    """Crowded, on whole pixels so that equal overlaps happen; some empty, some of zeros."""
    generator = torch.Generator().manual_seed(seed)
    corner = torch.randint(0, 30, (count, 2), generator=generator)
    size = torch.randint(0, 12, (count, 2), generator=generator)
    boxes = torch.cat([corner, corner + size], dim=1).float()
    boxes[::17] = 0
    return boxes


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("threshold", [0.5, 0.7])
def test_selection_against_a_plain_loop(seed: int, threshold: float) -> None:
    sizes = (60, 25)
    boxes = random_boxes(sum(sizes), seed)
    scores = torch.rand(sum(sizes), generator=torch.Generator().manual_seed(seed)).round(decimals=2)
    scores = scores.clamp(0.01, 0.99)  # rounded: ties, which the first wins
    found = select_proposals(as_output(scores, sizes), boxes, [(99, 99)], 40, threshold, 20)
    expected = []
    for start, size in ((0, 60), (60, 25)):
        order = np.argsort(-scores[start : start + size].numpy(), kind="stable")[:40] + start
        kept = slow_nms(boxes[order].numpy(), scores[order].numpy(), threshold)[:20]
        expected += [int(order[i]) for i in kept]
    expected.sort(key=lambda i: -float(scores[i]))
    assert torch.allclose(found.objectness[0], scores[expected[:20]], atol=1e-6)
    assert torch.equal(found.boxes[0], boxes[expected[:20]])


def test_an_overlap_of_exactly_the_threshold_is_too_much() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 7], [0, 0, 10, 6]])
    found = select_proposals(
        as_output(torch.tensor([0.9, 0.8, 0.7]), (3,)), boxes, [(99, 99)], 9, 0.7, 9
    )
    assert found.boxes[0].tolist() == [[0, 0, 10, 10], [0, 0, 10, 6]]
    assert reaching(0.7) < np.float32(0.7)


def test_boxes_end_at_the_picture() -> None:
    anchors = torch.tensor([[-5.0, -5, 20, 30], [40, 40, 90, 60]])
    found = select_proposals(
        as_output(torch.tensor([0.9, 0.8]), (2,)), anchors, [(50, 45)], 9, 0.7, 9
    )
    assert found.boxes[0].tolist() == [[0, 0, 20, 30], [40, 40, 49, 44]]


def test_pictures_with_fewer_boxes_are_filled_up() -> None:
    deltas = torch.zeros(2, 2, 4)
    deltas[1, 1, :2] = -10  # left of and above the second picture: a box of zeros
    output = RpnOutput(torch.tensor([[1.0, 2], [1, 2]]), deltas, (2,), ((1, 2),))
    anchors = torch.tensor([[0.0, 0, 10, 10], [30, 0, 40, 10]])
    found = select_proposals(output, anchors, [(50, 50)] * 2, 9, 0.7, 9)
    assert found.boxes.tolist() == [
        [[30, 0, 40, 10], [0, 0, 10, 10]],
        [[0, 0, 10, 10], [0, 0, 0, 0]],
    ]
    assert found.objectness[1, 1] == -1
    assert [len(found.of(i)[0]) for i in range(2)] == [2, 1]


def test_no_gradient_through_the_choice() -> None:
    vild = Vild(VildConfig.mini()).train()
    levels = vild.pyramid([torch.randn(2, c, s, s) for c, s in ((64, 8), (128, 4), (256, 2))])
    output = vild.rpn(levels)
    assert output.objectness.requires_grad
    proposals = vild.proposals(output, [(64, 64)] * 2)
    assert not proposals.boxes.requires_grad
    assert output.level_sizes == (192, 48, 12, 3)


def test_levels_share_convolutions_but_not_statistics() -> None:
    vild = Vild(VildConfig.mini()).eval()
    level = torch.randn(1, 64, 3, 3)
    same = vild.rpn([level] * 4)
    first, second = same.objectness.split([27, 27, 27, 27], dim=1)[:2]
    assert torch.equal(first, second)
    with torch.no_grad():
        vild.rpn.norms[1][0].bias += 1
    first, second = vild.rpn([level] * 4).objectness.split([27, 27, 27, 27], dim=1)[:2]
    assert not torch.allclose(first, second)
