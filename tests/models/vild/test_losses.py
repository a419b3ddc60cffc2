"""ViLD's losses: who is learnt from by plain rules, what it costs in closed form."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from models.detection.boxes import encode
from models.vild import RpnOutput, Vild, VildConfig
from models.vild.losses import (
    Lesson,
    Losses,
    Sampling,
    Target,
    assign_anchors,
    balanced_sample,
    box_loss,
    image_loss,
    mask_loss,
    mask_targets,
    rpn_losses,
    sample_regions,
    text_loss,
    vild_losses,
)
from models.vild.rpn import UNWEIGHTED

pytestmark = pytest.mark.usefixtures("one_thread")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def no_objects() -> Target:
    return Target(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long))


# ------------------------------------------------------------------------------------ proposals


def slow_assignment(anchors: list[list[float]], boxes: list[list[float]]) -> list[int]:
    """Ren et al. 2015, section 3.1.2, one pair at a time."""
    table = [[overlap(anchor, box) for box in boxes] for anchor in anchors]
    answer = []
    for row in table:
        best = max(row)
        answer.append(row.index(best) if best >= 0.7 else -1 if best < 0.3 else -2)
    for number in range(len(boxes)):
        column = [row[number] for row in table]
        if max(column) > 0:
            answer[column.index(max(column))] = number
    return answer


def overlap(a: list[float], b: list[float]) -> float:
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    inside = width * height
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return inside / (sum(areas) - inside)


@pytest.mark.parametrize("seed", range(3))
def test_assignment_of_anchors(seed: int) -> None:
    corner = 40 * torch.rand(200, 2, generator=seeded(seed))
    size = 10 + 20 * torch.rand(200, 2, generator=seeded(seed + 9))
    anchors = torch.cat([corner, corner + size], dim=1)
    boxes = torch.tensor([[5.0, 5, 25, 25], [20, 10, 48, 30], [0, 0, 9, 9]])
    found = assign_anchors(anchors, boxes)
    assert found.tolist() == slow_assignment(anchors.tolist(), boxes.tolist())
    assert {-2, -1, 0, 1, 2} == set(found.tolist())


def test_without_objects_every_anchor_is_background() -> None:
    assert assign_anchors(torch.rand(5, 4), torch.zeros(0, 4)).tolist() == [-1] * 5


def test_an_object_no_anchor_touches_takes_none() -> None:
    anchors = torch.tensor([[0.0, 0, 9, 9], [20, 20, 30, 30]])
    assert assign_anchors(anchors, torch.tensor([[50.0, 50, 60, 60]])).tolist() == [-1, -1]


@pytest.mark.parametrize(
    ("positives", "negatives", "expected"),
    [(10, 50, (4, 12)), (2, 50, (2, 14)), (10, 5, (4, 5)), (0, 50, (0, 16)), (10, 0, (4, 0))],
)
def test_balance_of_samples(positives: int, negatives: int, expected: tuple[int, int]) -> None:
    """Of 16 at most a quarter is positive; negatives fill up, positives never do."""
    rows = torch.arange(70)
    positive, negative = rows < positives, rows >= 70 - negatives
    chosen = balanced_sample(positive, negative, 16, 0.25, seeded())
    assert len(set(chosen.tolist())) == len(chosen)
    assert (int(positive[chosen].sum()), int(negative[chosen].sum())) == expected


def test_samples_differ_and_repeat() -> None:
    everything = torch.ones(100, dtype=torch.bool)
    draws = [balanced_sample(everything, ~everything, 40, 0.5, seeded(i)) for i in (1, 1, 2)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_proposal_losses_in_closed_form() -> None:
    """Two levels; the anchor that is the object costs ln(1 + e^-x), the others ln(1 + e^x)."""
    anchors = torch.tensor([[0.0, 0, 10, 10], [50, 50, 60, 60], [20, 20, 60, 60], [0, 80, 9, 90]])
    box = torch.tensor([[0.0, 0, 10, 10]])
    other = torch.tensor([[22.0, 20, 62, 60]])
    logits = torch.tensor([[1.0, 2.0, 3.0, 4.0], [0.0, 0.0, 0.0, 0.0]])
    deltas = torch.zeros(2, 4, 4)
    deltas[0, 0] = torch.tensor([0.05, -0.05, 1.0, 0.0])
    deltas[0, 3] = 77  # background: its box means nothing
    output = RpnOutput(logits, deltas, (2, 2), ((1, 2), (1, 2)))
    target = Target(torch.cat([box, other]), torch.tensor([0, 1]))
    objectness, boxes = rpn_losses(output, anchors, [target, no_objects()], Sampling(anchors=256))
    costs = [softplus(-1), softplus(2), softplus(-3), softplus(4)] + [softplus(0)] * 4
    assert float(objectness) == pytest.approx(sum(costs) / (2 * 256), rel=1e-5)
    # Huber, 1/9: squares below, lines above.
    first = (2 * 0.05**2 / 2 + (1 - 1 / 18) / 9 + 0) / 4
    shift = 2 / 41  # of 41 pixels, in the second level
    assert float(boxes) == pytest.approx(first + shift**2 / 2 / 4, rel=1e-5)
    assert torch.allclose(encode(other, anchors[2:3], UNWEIGHTED)[0, 0], torch.tensor(shift))


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


# -------------------------------------------------------------------------------------- regions


def test_regions_are_labelled_by_their_objects() -> None:
    target = Target(torch.tensor([[0.0, 0, 10, 10], [50, 50, 90, 90]]), torch.tensor([6, 3]))
    proposals = torch.tensor([[0.0, 0, 10, 9], [50, 50, 90, 71], [50, 50, 90, 69], [0, 0, 10, 5]])
    sample = sample_regions(proposals, target, Sampling(regions=100, regions_positive=0.5))
    # An overlap of exactly a half (the fourth proposal) is neither; the objects come along.
    assert torch.equal(sample.boxes, torch.cat([proposals[:3], target.boxes]))
    assert sample.labels.tolist() == [7, 4, 0, 7, 4]
    assert sample.owners.tolist() == [0, 1, -1, 0, 1]


def test_regions_without_objects_are_background() -> None:
    sample = sample_regions(torch.rand(9, 4), no_objects(), Sampling(regions=4), seeded())
    assert sample.labels.tolist() == [0] * 4
    assert sample.owners.tolist() == [-1] * 4


def test_text_loss_in_closed_form() -> None:
    logits = torch.tensor([[1.0, 2.0, 0.5], [0.0, 0.0, 0.0]])
    first = math.log(sum(math.exp(x) for x in (1, 2, 0.5))) - 2
    expected = (first + math.log(3)) / 2
    assert float(text_loss(logits, torch.tensor([1, 0]))) == pytest.approx(expected, rel=1e-6)


def test_names_that_must_stay_unknown_take_no_part() -> None:
    logits = torch.tensor([[1.0, 2.0, 99.0, 0.5]], requires_grad=True)
    loss = text_loss(logits, torch.tensor([1]), torch.tensor([True, False, True]))
    expected = text_loss(torch.tensor([[1.0, 2.0, 0.5]]), torch.tensor([1]))
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    loss.backward()
    assert logits.grad is not None
    assert logits.grad[0, 2] == 0


def test_image_loss_in_closed_form() -> None:
    """The L1 distance of unit vectors, whatever length the teacher's have."""
    ours = torch.tensor([[1.0, 0, 0], [0.6, 0.8, 0]])
    taught = torch.tensor([[0.0, 3.0, 0], [6.0, 8.0, 0]])
    assert float(image_loss(ours, taught)) == pytest.approx((2 + 0) / 2, abs=1e-6)


def test_box_loss_in_closed_form() -> None:
    """Of a region of 10 x 20 pixels whose object is 1 to the right: 10 * 1 / 10 = 1 in dx."""
    region, truth = torch.tensor([[0.0, 0, 9, 19]]), torch.tensor([[1.0, 0, 10, 19]])
    assert float(box_loss(torch.zeros(1, 4), region, truth)) == pytest.approx(0.5 / 4, rel=1e-5)
    wrong = torch.tensor([[4.0, 0, 0, 0]])  # 3 too far: a line from 1 on
    assert float(box_loss(wrong, region, truth)) == pytest.approx(2.5 / 4, rel=1e-5)
    nothing = torch.zeros(0, 4, requires_grad=True)
    assert box_loss(nothing, nothing, torch.zeros(0, 4)).item() == 0


def test_mask_loss_in_closed_form() -> None:
    logits, truth = torch.tensor([[[2.0, -1.0]]]), torch.tensor([[[1.0, 1.0]]])
    expected = (softplus(-2) + softplus(1)) / 2
    assert float(mask_loss(logits, truth)) == pytest.approx(expected, rel=1e-6)


def test_mask_targets_of_a_half_covered_box() -> None:
    masks = torch.zeros(2, 40, 40, dtype=torch.bool)
    masks[1, :, 20:] = True  # everything from x = 20 on
    boxes = torch.tensor([[10.0, 4, 30, 24], [20, 4, 34, 18], [6, 4, 20, 18]])
    found = mask_targets(masks, torch.tensor([1, 1, 1]), boxes, size=4)
    half = [[0, 0, 1, 1]] * 4
    assert found.tolist() == [half, [[1] * 4] * 4, [[0] * 4] * 4]
    assert mask_targets(masks, torch.tensor([0]), boxes[:1]).sum() == 0


# --------------------------------------------------------------------------------- all together


def test_weights_make_the_papers_variants() -> None:
    losses = Losses(*(torch.tensor(float(2**i)) for i in range(6)))
    assert losses.total() == 1 + 2 + 4 + 8 + 16 + 0.5 * 32
    assert losses.total(image_weight=0) == 31
    assert losses.total(image_weight=1, words_weight=0) == 1 + 2 + 8 + 16 + 32


def a_batch() -> tuple[list[Tensor], list[Target], Tensor, list[Lesson]]:
    """C3, C4, C5, and C5 of the views, of two pictures of 64 x 64, the second without objects."""
    stages = [
        torch.randn(2, channels, side, side, generator=seeded(side))
        for channels, side in ((64, 8), (128, 4), *((256, side) for side in (2, 3, 2, 1, 1)))
    ]
    masks = torch.zeros(2, 64, 64, dtype=torch.bool)
    masks[:, 10:40, 8:40] = True
    boxes = torch.tensor([[8.0, 10, 40, 40], [30, 2, 62, 34]])
    nothing = torch.zeros(0, 64, 64, dtype=torch.bool)
    targets = [
        Target(boxes, torch.tensor([2, 0]), masks),
        replace(no_objects(), masks=nothing),
    ]
    text = torch.randn(3, 256, generator=seeded(1))
    lessons = [Lesson(boxes, torch.randn(2, 256, generator=seeded(2))) for _ in range(2)]
    return stages, targets, text, lessons


def losses_of(vild: Vild, lessons: bool = True) -> Losses:
    stages, targets, text, taught = a_batch()
    return vild_losses(
        vild,
        vild.pyramid(stages),
        [(64, 64)] * 2,
        targets,
        text,
        taught if lessons else None,
        Sampling.mini(),
        seeded(),
    )


@pytest.mark.parametrize(
    "config", [VildConfig.mini(), VildConfig.mini_single()], ids=lambda config: config.name
)
def test_every_learnt_weight_learns(config: VildConfig) -> None:
    torch.manual_seed(0)
    vild = Vild(config).train()
    losses_of(vild).total().backward()
    without = [
        name
        for name, parameter in vild.named_parameters()
        if parameter.requires_grad and parameter.grad is None
    ]
    assert not without
    assert not any(parameter.requires_grad for parameter in vild.backbone.parameters())


def test_the_second_head_learns_from_the_teacher_alone() -> None:
    torch.manual_seed(0)
    vild = Vild(VildConfig.mini()).train()
    losses = losses_of(vild)
    (losses.words + losses.boxes).backward(retain_graph=True)
    assert vild.image_head is not None
    assert vild.image_head.project.weight.grad is None
    vild.zero_grad()
    losses.image.backward()
    assert vild.image_head.project.weight.grad.abs().sum() > 0
    assert vild.head.project.weight.grad is None


def test_without_a_teacher_there_is_nothing_to_imitate() -> None:
    losses = losses_of(Vild(VildConfig.mini()).train(), lessons=False)
    assert losses.image == 0
    losses.total().backward()


def test_boxes_that_fill_up_teach_nothing() -> None:
    torch.manual_seed(0)
    vild = Vild(VildConfig.mini()).eval()
    stages, targets, text, lessons = a_batch()
    levels = vild.pyramid(stages)
    filled = [
        Lesson(
            torch.cat([x.boxes, torch.zeros(3, 4)]), torch.cat([x.embeddings, torch.ones(3, 256)])
        )
        for x in lessons
    ]
    image = [
        vild_losses(vild, levels, [(64, 64)] * 2, targets, text, some, Sampling.mini()).image
        for some in (lessons, filled)
    ]
    assert image[0] > 0
    assert image[0].item() == pytest.approx(image[1].item(), rel=1e-5)


def test_a_few_steps_lower_every_term() -> None:
    torch.manual_seed(0)
    vild = Vild(VildConfig.mini()).train()
    optimizer = torch.optim.AdamW([p for p in vild.parameters() if p.requires_grad], lr=2e-3)
    before = losses_of(vild)
    for _ in range(8):
        optimizer.zero_grad()
        losses_of(vild).total().backward()
        optimizer.step()
    after = losses_of(vild)
    for term in ("objectness", "words", "masks", "image"):
        assert getattr(after, term) < 0.8 * getattr(before, term), term


def test_one_pass_of_one_head_is_two_passes_of_it() -> None:
    """In evaluation mode, where rows do not see each other."""
    torch.manual_seed(0)
    vild = Vild(VildConfig.mini_single()).eval()
    stages, _, _, lessons = a_batch()
    levels = vild.pyramid(stages)
    boxes = [lesson.boxes for lesson in lessons]
    taught = torch.cat([lesson.embeddings for lesson in lessons])
    expected = F.l1_loss(
        vild.imitations(levels, boxes), F.normalize(taught, dim=-1), reduction="sum"
    )
    assert float(losses_of(vild).image) == pytest.approx(float(expected) / len(taught), rel=1e-5)
