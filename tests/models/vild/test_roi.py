"""Region features: sampled one cell at a time by hand, and torchvision's where it agrees."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torchvision.ops import roi_align

from models.vild.roi import nearest_scale, read_regions, region_features, region_levels

pytestmark = pytest.mark.usefixtures("one_thread")

CANONICAL = 224
SHAPES = [(16, 20), (8, 10), (4, 5)]  # of levels 2, 3 and 4: a picture of 80 x 64


def some_levels(pictures: int = 1, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(pictures, 3, *s, generator=generator, dtype=dtype) for s in SHAPES]


def value_at(features: Tensor, x: float, y: float) -> Tensor:
    """A map (C, h, w) between its four nearest cells; the edge goes on outside."""
    height, width = features.shape[1:]
    x, y = min(max(x, 0), width - 1), min(max(y, 0), height - 1)
    left, top = math.floor(x), math.floor(y)
    right, bottom = min(left + 1, width - 1), min(top + 1, height - 1)
    across, down = x - left, y - top
    upper = features[:, top, left] * (1 - across) + features[:, top, right] * across
    lower = features[:, bottom, left] * (1 - across) + features[:, bottom, right] * across
    return upper * (1 - down) + lower * down


def slow_features(features: Tensor, box: list[float], stride: int, size: int) -> Tensor:
    """(C, size, size): the middle of every bin of the box, whatever its extent."""
    x1, y1, x2, y2 = (edge / stride for edge in box)
    cells = [
        value_at(features, x1 + (j + 0.5) * (x2 - x1) / size, y1 + (i + 0.5) * (y2 - y1) / size)
        for i in range(size)
        for j in range(size)
    ]
    return torch.stack(cells, dim=1).view(-1, size, size)


BOXES = {
    "in the middle": ([10.0, 12.0, 41.0, 50.0], 2),
    "the whole picture": ([0.0, 0.0, 79.0, 63.0], 2),
    "over the edge": ([60.0, 40.0, 95.0, 80.0], 2),
    "thinner than a cell": ([10.0, 12.0, 11.5, 50.0], 2),
    "a point": ([10.0, 12.0, 10.0, 12.0], 2),
    "a line": ([10.0, 12.0, 40.0, 12.0], 2),
    "inside out": ([40.0, 12.0, 38.0, 50.0], 2),
    "inside out twice": ([40.0, 50.0, 10.0, 12.0], 2),
    "of the next level": ([0.0, 0.0, 120.0, 110.0], 3),
    "of the last level": ([-10.0, 0.0, 300.0, 290.0], 4),
    "beyond the last level": ([0.0, 0.0, 900.0, 900.0], 4),
}


@pytest.mark.parametrize(("box", "level"), BOXES.values(), ids=BOXES)
@pytest.mark.parametrize("size", [1, 7])
def test_against_cells_by_hand(box: list[float], level: int, size: int) -> None:
    levels = some_levels()
    found = region_features(levels, [torch.tensor([box])], size, 2, CANONICAL)
    expected = slow_features(levels[level - 2][0], box, 2**level, size)
    # Where to sample is float32.
    assert torch.allclose(found[0], expected, atol=1e-5)


def test_torchvision_agrees_on_regions_of_a_cell_and_more() -> None:
    levels = some_levels(dtype=torch.float32)
    generator = torch.Generator().manual_seed(2)
    size = 5 + 50 * torch.rand(40, 2, generator=generator)  # below 112 pixels: level 2
    corner = torch.rand(40, 2, generator=generator) * (torch.tensor([80.0, 64]) - size).clamp(min=0)
    boxes = torch.cat([corner, corner + size], dim=1)
    ours = region_features(levels, [boxes], 7, 2, CANONICAL)
    theirs = roi_align(levels[0], [boxes], 7, 1 / 4, sampling_ratio=1, aligned=False)
    assert torch.allclose(ours, theirs, atol=1e-4)


def test_torchvision_stretches_smaller_ones() -> None:
    """The reason why it does not serve."""
    levels, box = some_levels(dtype=torch.float32), torch.tensor([[10.0, 12, 11.5, 50]])
    ours = region_features(levels, [box], 7, 2, CANONICAL)
    theirs = roi_align(levels[0], [box], 7, 1 / 4, sampling_ratio=1, aligned=False)
    assert (ours - theirs).abs().max() > 0.1


def test_pictures_and_levels_keep_their_order() -> None:
    levels = some_levels(pictures=3)
    small, large = BOXES["in the middle"][0], BOXES["of the next level"][0]
    boxes = [torch.tensor([large, small]), torch.zeros(0, 4), torch.tensor([small])]
    found = region_features(levels, boxes, 7, 2, CANONICAL)
    expected = [(1, 0, large), (0, 0, small), (0, 2, small)]
    assert len(found) == len(expected)
    for row, (index, picture, box) in zip(found, expected):
        alone = slow_features(levels[index][picture], box, 4 * 2**index, 7)
        assert torch.allclose(row, alone, atol=1e-5)


def test_no_region_at_all() -> None:
    found = region_features(some_levels(), [torch.zeros(0, 4)], 7, 2, CANONICAL)
    assert found.shape == (0, 3, 7, 7)


@pytest.mark.parametrize(
    ("side", "level"),
    [(1, 2), (111.9, 2), (112, 3), (223, 3), (224, 4), (447, 4), (448, 5), (896, 6), (5000, 6)],
)
def test_level_of_a_square(side: float, level: int) -> None:
    assert region_levels(torch.tensor([[3.0, 5, 3 + side, 5 + side]]), 224, 2, 6) == level


@pytest.mark.parametrize("box", [[0, 0, 0, 0], [9, 9, 9, 500], [500, 0, 0, 300]])
def test_level_of_what_has_no_area(box: list[float]) -> None:
    assert region_levels(torch.tensor([box], dtype=torch.float32), 224, 2, 6) == 2


def test_half_precision_knows_where_it_samples() -> None:
    """At cell 1,900 half precision has no fractions left."""
    ramp = (torch.arange(2000.0) % 2).expand(1, 1, 8, 2000)
    box = torch.tensor([[4 * 1900.4, 4, 4 * 1900.4, 4]])
    found = region_features([ramp.half()], [box], 1, 2, CANONICAL)
    assert found.dtype == torch.float16
    assert float(found) == pytest.approx(0.4, abs=0.01)


def test_gradients_reach_the_pyramid() -> None:
    levels = [level.requires_grad_() for level in some_levels()]
    boxes = torch.tensor([BOXES["in the middle"][0], BOXES["of the next level"][0]])
    region_features(levels, [boxes], 7, 2, CANONICAL).sum().backward()
    weights = [0 if level.grad is None else float(level.grad.sum()) for level in levels]
    # One bilinear sample a cell: its weights sum to one, over 3 channels and 49 cells.
    assert weights == pytest.approx([3 * 49, 3 * 49, 0])


# ------------------------------------------------------------------------------------------ views


@pytest.mark.parametrize(
    ("side", "scale"),
    [(72, 1.0), (100, 1.0), (104, 0.5), (144, 0.5), (1e4, 0.5), (52, 1.0), (36, 2.0), (0, 2.0)],
)
def test_a_region_is_read_where_it_is_nearest_to_a_side(side: float, scale: float) -> None:
    scales = (1.0, 2.0, 0.5)
    (chosen,) = nearest_scale(torch.tensor([[5.0, 5, 5 + side, 5 + side]]), scales, 72)
    assert scales[chosen] == scale


def test_regions_of_views_against_cells_by_hand() -> None:
    """Cells of 4 pixels, in views at scales 1, 2 and 0.5 of a picture of 80 x 64."""
    generator = torch.Generator().manual_seed(2)
    scales = (1.0, 2.0, 0.5)
    shapes = [(16, 20), (32, 40), (8, 10)]
    maps = [torch.randn(2, 3, *s, generator=generator, dtype=torch.float64) for s in shapes]
    boxes = [[[3, 2, 13, 12], [0, 0, 80, 64]], [[10, 20, 30, 44], [40, 0, 45, 5], [1, 1, 1, 1]]]

    def choose(every: Tensor) -> Tensor:
        return nearest_scale(every, scales, 20)

    given = [torch.tensor(some, dtype=torch.float64) for some in boxes]
    found = read_regions(maps, [scale / 4 for scale in scales], given, 3, choose)
    views = [[1, 2], [0, 1, 1]]
    expected = [
        slow_features(maps[view][n], [scales[view] * edge for edge in box], 4, 3)
        for n, some in enumerate(boxes)
        for box, view in zip(some, views[n])
    ]
    torch.testing.assert_close(found, torch.stack(expected), rtol=0, atol=1e-5)
