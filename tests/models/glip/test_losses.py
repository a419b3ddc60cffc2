"""GLIP's losses: the assignment against the paper's algorithm box by box, the terms by hand."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from models.detection.boxes import encode
from models.glip.config import STRIDES
from models.glip.head import anchor_boxes
from models.glip.losses import (
    Losses,
    Targets,
    atss_assign,
    centerness_targets,
    grounding_losses,
)

pytestmark = pytest.mark.usefixtures("one_thread")

SIDE = 96
SHAPES = [(-(-SIDE // stride),) * 2 for stride in STRIDES]
SIZES = [height * width for height, width in SHAPES]
ANCHORS = anchor_boxes(SHAPES, 4)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def some_boxes(count: int, seed: int, smallest: float = 6.0) -> Tensor:
    """(count, 4) float32 boxes inside the picture; no two anchors are equally far from one."""
    generator = seeded(seed)
    size = smallest + torch.rand(count, 2, generator=generator) * (SIDE / 2)
    corner = torch.rand(count, 2, generator=generator) * (SIDE - size)
    return torch.cat([corner, corner + size], dim=1)


def slow_iou(a: np.ndarray, b: np.ndarray) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    shared = max(width, 0.0) * max(height, 0.0)
    area = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    return shared / (area - shared)


def slow_atss(anchors: np.ndarray, sizes: list[int], boxes: np.ndarray) -> list[int]:
    """Algorithm 1 of Zhang et al. 2020, k = 9, as it is written there: one box after another."""
    owner, best = [-1] * len(anchors), [-1.0] * len(anchors)
    centres = [((a[0] + a[2]) / 2, (a[1] + a[3]) / 2) for a in anchors]
    for index, box in enumerate(boxes):
        middle = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
        candidates: list[int] = []
        start = 0
        for size in sizes:
            level = sorted(range(start, start + size), key=lambda i: math.dist(centres[i], middle))
            candidates += level[:9]
            start += size
        overlaps = [slow_iou(anchors[i], box) for i in candidates]
        mean = sum(overlaps) / len(overlaps)
        spread = math.sqrt(sum((o - mean) ** 2 for o in overlaps) / (len(overlaps) - 1))
        for i, overlap in zip(candidates, overlaps):
            x, y = centres[i]
            inside = min(x - box[0], y - box[1], box[2] - x, box[3] - y) > 0.01
            if overlap >= mean + spread and inside and overlap > best[i]:
                owner[i], best[i] = index, overlap
    return owner


@pytest.mark.parametrize("count", [1, 2, 5, 9])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_atss_is_the_papers_algorithm(count: int, seed: int) -> None:
    boxes = some_boxes(count, seed)
    found = atss_assign(ANCHORS, SIZES, boxes[None], torch.ones(1, count, dtype=torch.bool))[0]
    assert found.tolist() == slow_atss(ANCHORS.numpy(), SIZES, boxes.numpy().astype(float))
    assert (found >= 0).any()


def test_atss_of_boxes_that_claim_the_same_anchor() -> None:
    """Two nearly equal boxes: each anchor goes to the one it overlaps more."""
    box = torch.tensor([20.3, 24.7, 61.1, 66.2])
    boxes = torch.stack([box, box + torch.tensor([1.0, 0.0, 5.0, 3.0])])
    found = atss_assign(ANCHORS, SIZES, boxes[None], torch.ones(1, 2, dtype=torch.bool))[0]
    assert found.tolist() == slow_atss(ANCHORS.numpy(), SIZES, boxes.numpy().astype(float))
    assert set(found.tolist()) == {-1, 0, 1}


def test_padding_is_never_assigned_and_changes_nothing() -> None:
    boxes = some_boxes(3, 4)
    alone = atss_assign(ANCHORS, SIZES, boxes[None], torch.ones(1, 3, dtype=torch.bool))
    for filling in (torch.zeros(2, 4), some_boxes(2, 5)):
        padded = torch.cat([boxes, filling])[None]
        real = torch.tensor([[True] * 3 + [False] * 2])
        assert torch.equal(atss_assign(ANCHORS, SIZES, padded, real), alone)


def test_no_box_no_owner() -> None:
    found = atss_assign(ANCHORS, SIZES, torch.zeros(2, 0, 4), torch.zeros(2, 0, dtype=torch.bool))
    assert found.shape == (2, len(ANCHORS))
    assert (found == -1).all()


@pytest.mark.parametrize(
    ("anchor", "wanted"),
    [
        ((0, 0, 8, 8), 1.0),  # centre (4, 4) is the box's
        ((-2, 0, 6, 8), math.sqrt(2 / 6)),  # (2, 4): 2 to the left, 6 to the right
        ((-2, -2, 6, 6), 2 / 6),
        ((-4, 0, 4, 8), 0.0),  # on the edge
    ],
)
def test_centerness_is_the_equation_of_fcos(anchor: tuple[int, ...], wanted: float) -> None:
    box = torch.tensor([[0.0, 0.0, 8.0, 8.0]])
    found = centerness_targets(torch.tensor([anchor]).float(), box)
    assert found.item() == pytest.approx(wanted, abs=1e-6)


# ------------------------------------------------------------------------------------ the three terms

WORDS = 5
MASK = torch.tensor([[True] * WORDS, [True] * 3 + [False] * 2])


def two_pictures() -> Targets:
    """Three boxes in the first picture, two of which share a word, and one in the second."""
    boxes = torch.stack([some_boxes(3, 6), some_boxes(3, 7)])
    tokens = torch.zeros(2, 3, WORDS, dtype=torch.bool)
    tokens[0, 0, 1] = tokens[0, 1, 1] = tokens[0, 2, 3] = tokens[0, 2, 4] = True
    tokens[1, 0, 2] = True
    return Targets(boxes, tokens, torch.tensor([[True] * 3, [True, False, False]]))


def losses_of(
    logits: Tensor, regression: Tensor, centerness: Tensor, targets: Targets, mask: Tensor = MASK
) -> Losses:
    return grounding_losses(logits, regression, centerness, mask, ANCHORS, SIZES, targets)


def test_words_are_the_closed_form_of_the_focal_loss() -> None:
    """Lin et al. 2017, equation 5, alpha 0.25, gamma 2; pads count nothing; per positive anchor."""
    targets = two_pictures()
    logits = torch.randn(2, len(ANCHORS), WORDS, generator=seeded(8)) * 3
    found = losses_of(
        logits, torch.zeros(2, len(ANCHORS), 4), torch.zeros(2, len(ANCHORS)), targets
    ).words
    total, positives = 0.0, 0
    for picture, real in enumerate((3, 1)):
        boxes = targets.boxes[picture, :real].numpy().astype(float)
        for anchor, owner in enumerate(slow_atss(ANCHORS.numpy(), SIZES, boxes)):
            positives += owner >= 0
            for word in range(WORDS):
                if MASK[picture, word]:
                    p = 1 / (1 + math.exp(-float(logits[picture, anchor, word])))
                    if owner >= 0 and targets.tokens[picture, owner, word]:
                        total -= 0.25 * (1 - p) ** 2 * math.log(p)
                    else:
                        total -= 0.75 * p**2 * math.log(1 - p)
    assert float(found) == pytest.approx(total / positives, rel=1e-4)


def perfect(targets: Targets) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, regression and centerness that answer the targets exactly, as leaves."""
    owner = atss_assign(ANCHORS, SIZES, targets.boxes, targets.real)
    logits = torch.full((2, len(ANCHORS), WORDS), -20.0)
    regression = torch.zeros(2, len(ANCHORS), 4)
    centerness = torch.zeros(2, len(ANCHORS))
    for picture, anchor in (owner >= 0).nonzero().tolist():
        box = int(owner[picture, anchor])
        truth, own = targets.boxes[picture, box], ANCHORS[anchor]
        logits[picture, anchor, targets.tokens[picture, box]] = 20.0
        regression[picture, anchor] = encode(truth, own)
        centre = centerness_targets(own[None], truth[None])
        centerness[picture, anchor] = torch.logit(centre)[0]
    return logits.requires_grad_(), regression.requires_grad_(), centerness.requires_grad_()


def test_perfect_answers_leave_nothing_to_learn() -> None:
    """Words and boxes cost nothing; centerness costs its targets' entropy, at its least."""
    targets = two_pictures()
    logits, regression, centerness = perfect(targets)
    losses = losses_of(logits, regression, centerness, targets)
    assert float(losses.words.detach()) < 1e-6
    assert float(losses.boxes.detach()) < 1e-4
    (losses.words + losses.centerness).backward()
    assert logits.grad is not None
    assert centerness.grad is not None
    assert float(logits.grad.abs().max()) < 1e-6
    assert float(centerness.grad.abs().max()) < 1e-6


@pytest.mark.parametrize(
    "shift", [(0.5, 0, 0, 0), (0, -0.5, 0, 0), (0, 0, 0.5, 0), (0, 0, 0, -0.5)]
)
def test_a_wrong_box_costs_something_and_is_pulled_back(shift: tuple[float, ...]) -> None:
    targets = two_pictures()
    logits, regression, centerness = perfect(targets)
    moved = (regression.detach() + torch.tensor(shift)).requires_grad_()
    loss = losses_of(logits, moved, centerness, targets).boxes
    loss.backward()
    assert float(loss.detach()) > 0.01
    assert moved.grad is not None
    positive = atss_assign(ANCHORS, SIZES, targets.boxes, targets.real) >= 0
    axis = next(i for i, value in enumerate(shift) if value)
    pull = moved.grad[positive][:, axis] * math.copysign(1, shift[axis])
    assert (pull >= 0).all()
    assert (pull > 0).any()
    assert not moved.grad[~positive].any()


def test_a_missed_word_and_a_wrong_word_cost_something() -> None:
    targets = two_pictures()
    logits, regression, centerness = perfect(targets)
    picture, anchor, word = (logits > 0).nonzero()[0].tolist()
    missed, wrong = logits.detach().clone(), logits.detach().clone()
    missed[picture, anchor, word] = -20
    wrong[picture, anchor, (word + 1) % WORDS] = 20
    for worse in (missed, wrong):
        assert losses_of(worse, regression, centerness, targets).words > 0.1


def test_pictures_without_boxes_have_finite_losses_that_can_be_followed() -> None:
    logits = torch.zeros(2, len(ANCHORS), WORDS, requires_grad=True)
    regression = torch.zeros(2, len(ANCHORS), 4, requires_grad=True)
    centerness = torch.zeros(2, len(ANCHORS), requires_grad=True)
    targets = Targets(
        torch.zeros(2, 1, 4), torch.zeros(2, 1, WORDS, dtype=torch.bool),
        torch.zeros(2, 1, dtype=torch.bool),
    )  # fmt: skip
    losses = losses_of(logits, regression, centerness, targets)
    losses.total.backward()
    background = 0.75 * 0.25 * math.log(2) * len(ANCHORS) * int(MASK.sum())
    assert float(losses.words.detach()) == pytest.approx(background, rel=1e-5)
    assert float(losses.boxes.detach()) == float(losses.centerness.detach()) == 0
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()
    assert not logits.grad[1, :, 3:].any()  # pads
