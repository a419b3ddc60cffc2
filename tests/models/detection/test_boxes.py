"""Boxes and NMS: the reference's numbers, slow plain references, and edges."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from models.detection.boxes import (
    clip_boxes,
    decode,
    encode,
    exclusive,
    inclusive,
    pairwise_iou,
    rescale_boxes,
)
from models.detection.nms import nms_per_label

Golden = dict[str, Any]

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def golden(request: pytest.FixtureRequest) -> Golden:
    file: Path = request.config.getoption("--golden") / "glip" / "functions.npz"
    names = ("coder_", "clip_", "back_", "nms_")
    with np.load(file) as arrays:
        return {k: torch.from_numpy(arrays[k]) for k in arrays.files if k.startswith(names)}


def test_decoding_is_the_references(golden: Golden) -> None:
    boxes = decode(golden["coder_deltas"], golden["coder_anchors"])
    torch.testing.assert_close(boxes, golden["coder_decoded"], rtol=0, atol=1e-12)


def test_encoding_is_the_references(golden: Golden) -> None:
    deltas = encode(golden["coder_gt"], golden["coder_anchors"])
    torch.testing.assert_close(deltas, golden["coder_encoded"], rtol=0, atol=1e-12)


def test_clipping_is_the_references(golden: Golden) -> None:
    width, height = golden["clip_size_wh"].tolist()
    boxes = clip_boxes(golden["coder_decoded"].float(), width, height)
    torch.testing.assert_close(boxes, golden["clip_out"], rtol=0, atol=1e-4)


def test_scaling_back_is_the_references(golden: Golden) -> None:
    size, new_size = golden["clip_size_wh"].tolist(), golden["back_size_wh"].tolist()
    boxes = rescale_boxes(golden["coder_decoded"].float(), tuple(size), tuple(new_size))
    torch.testing.assert_close(boxes, golden["back_out"], rtol=1e-6, atol=1e-3)


@pytest.mark.parametrize("case", range(4))
def test_nms_is_the_references(golden: Golden, case: int) -> None:
    boxes, scores, labels, threshold = (
        golden[f"nms_{case}_{name}"] for name in ("boxes", "scores", "labels", "threshold")
    )
    kept = nms_per_label(boxes, scores, labels, float(threshold))
    assert kept.tolist() == golden[f"nms_{case}_keep"].tolist()


def some_boxes(count: int, seed: int, *, low: float = 0.0, high: float = 100.0) -> Tensor:
    corners = torch.rand(count, 2, 2, generator=torch.Generator().manual_seed(seed))
    corners = low + (high - low) * corners.double()
    return torch.cat([corners.amin(1), corners.amax(1)], dim=1)


def test_encode_and_decode_are_inverse_for_batches_too() -> None:
    anchors = some_boxes(20, 0)
    boxes = torch.stack([some_boxes(20, 1), some_boxes(20, 2)])  # (N, M, 4)
    weights = (1.0, 2.0, 3.0, 4.0)
    # Within what the clamp allows.
    fits = (exclusive(boxes)[..., 2:] - boxes[..., :2]) / (
        exclusive(anchors)[..., 2:] - anchors[..., :2]
    ) < 1000 / 16
    back = decode(encode(boxes, anchors, weights), anchors, weights)
    torch.testing.assert_close(back[fits.all(-1)], boxes[fits.all(-1)])
    assert fits.all(-1).float().mean() > 0.9


def test_decoding_follows_gradients_and_dtype() -> None:
    deltas = torch.zeros(3, 4, requires_grad=True)
    boxes = decode(deltas, some_boxes(3, 0))
    boxes.sum().backward()
    assert boxes.dtype == torch.float32
    assert deltas.grad is not None
    assert deltas.grad[:, :2].abs().min() > 0


def test_a_wild_regression_grows_to_the_clamp_only() -> None:
    box = decode(torch.tensor([[0.0, 0.0, 1e4, math.inf]]), torch.tensor([[0.0, 0.0, 15.0, 15.0]]))
    assert (exclusive(box)[0, 2:] - box[0, :2]).tolist() == pytest.approx([1000.0, 1000.0])


@pytest.mark.parametrize(
    ("box", "clipped"),
    [
        ([-5.0, -5.0, 5.0, 5.0], [0.0, 0.0, 5.0, 5.0]),
        ([2.0, 3.0, 40.0, 50.0], [2.0, 3.0, 19.0, 9.0]),
        ([30.0, 30.0, 40.0, 40.0], [19.0, 9.0, 19.0, 9.0]),
        ([0.0, 0.0, 19.0, 9.0], [0.0, 0.0, 19.0, 9.0]),
    ],
)
def test_clipping_to_the_last_pixel(box: list[float], clipped: list[float]) -> None:
    assert clip_boxes(torch.tensor([box]), 20, 10).tolist() == [clipped]


def slow_iou(a: list[float], b: list[float], extra: float = 0.0) -> float:
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]) + extra)
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]) + extra)
    area = [(box[2] - box[0] + extra) * (box[3] - box[1] + extra) for box in (a, b)]
    union = sum(area) - width * height
    return width * height / union if union else 0.0


def test_iou_is_the_plain_one() -> None:
    a, b = some_boxes(12, 3), some_boxes(9, 4)
    a[0] = b[0] = torch.tensor([7.0, 7.0, 7.0, 7.0])  # empty
    expected = torch.tensor([[slow_iou(x, y) for y in b.tolist()] for x in a.tolist()]).double()
    torch.testing.assert_close(pairwise_iou(a, b), expected)
    assert pairwise_iou(a[:0], b).shape == (0, 9)


def test_iou_of_legacy_boxes() -> None:
    a, b = some_boxes(12, 3), some_boxes(9, 4)
    expected = torch.tensor([[slow_iou(x, y, 1) for y in b.tolist()] for x in a.tolist()])
    torch.testing.assert_close(pairwise_iou(exclusive(a), exclusive(b)), expected.double())
    assert torch.equal(inclusive(exclusive(a)), a)


def slow_nms(boxes: Tensor, scores: Tensor, labels: Tensor, threshold: float) -> list[int]:
    rows, points, names = boxes.tolist(), scores.tolist(), labels.tolist()
    kept: list[int] = []
    for i in sorted(range(len(rows)), key=lambda i: -points[i]):
        rivals = [k for k in kept if names[k] == names[i]]
        if all(slow_iou(rows[k], rows[i], 1) <= threshold for k in rivals):
            kept.append(i)
    return sorted(kept)


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.6, 1.0])
@pytest.mark.parametrize("labels", [1, 3, 300])
def test_nms_is_the_plain_one(threshold: float, labels: int) -> None:
    generator = torch.Generator().manual_seed(labels)
    boxes = some_boxes(120, labels, low=-60.0, high=60.0)
    scores = torch.rand(120, generator=generator)
    scores[:20] = 0.5  # ties
    of = torch.randint(labels, (120,), generator=generator)
    kept = nms_per_label(boxes, scores, of, threshold)
    assert kept.tolist() == slow_nms(boxes, scores, of, threshold)


def test_an_iou_of_exactly_the_threshold_is_kept() -> None:
    # 3 of 5 pixels; in float32, 0.6 would round above the threshold.
    boxes = torch.tensor([[0.0, 0.0, 4.0, 0.0], [0.0, 0.0, 2.0, 0.0]])
    kept = nms_per_label(boxes, torch.tensor([0.9, 0.8]), torch.zeros(2, dtype=torch.int64), 0.6)
    assert kept.tolist() == [0, 1]


def test_nms_of_nothing() -> None:
    none = torch.zeros(0, dtype=torch.int64)
    kept = nms_per_label(torch.zeros(0, 4), torch.zeros(0), none, 0.6)
    assert kept.tolist() == []
    assert kept.dtype == torch.int64
