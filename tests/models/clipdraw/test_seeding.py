"""Where strokes begin: the reference's chains, and starts drawn from a map."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from models.clipdraw.rasterizer import render
from models.clipdraw.seeding import gradient_maps, picture_maps, placed_strokes, random_strokes


def chance(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def middles(strokes: object) -> np.ndarray:
    own = strokes.own[..., None]  # type: ignore[attr-defined]
    return np.asarray((strokes.points * own).sum(1) / own.sum(1))  # type: ignore[attr-defined]


# -------------------------------------------------------------------------- as the reference


@pytest.mark.parametrize("canvas", [(224, 224), (300, 100)])
def test_random_strokes_are_the_references_chains(canvas: tuple[int, int]) -> None:
    strokes = random_strokes(3000, canvas, 1.0, chance())
    unit = strokes.points / torch.tensor(canvas)
    start, moves = unit[:, 0], unit.diff(dim=1)
    assert 0 <= float(start.min()) < 0.01
    assert 0.99 < float(start.max()) <= 1
    assert start.mean(0).tolist() == pytest.approx([0.5, 0.5], abs=0.02)
    # 0.1 * (U - 0.5): uniform within 0.05 either way, its standard deviation 0.1 / sqrt(12)
    assert float(moves.abs().max()) <= 0.05 + 1e-5
    assert float(moves.abs().max()) > 0.0499
    assert float(moves.std()) == pytest.approx(0.1 / math.sqrt(12), rel=0.01)
    assert float(moves.mean()) == pytest.approx(0, abs=3e-4)
    counts = torch.bincount(strokes.segments, minlength=4).tolist()
    assert counts[0] == 0
    assert min(counts[1:]) > 900  # one, two and three segments, equally often
    assert strokes.half_widths.tolist() == [1.0] * 3000
    assert strokes.colors.mean(0).tolist() == pytest.approx([0.5] * 4, abs=0.03)
    assert not bool(strokes.closed.any())


@pytest.mark.parametrize("most", [1, 2, 5])
def test_strokes_have_at_most_the_segments_asked_for(most: int) -> None:
    weight, colors = torch.ones(8, 8), torch.rand(3, 8, 8)
    for strokes in (
        random_strokes(60, (64, 64), 1.0, chance(), most),
        placed_strokes(weight, colors, 60, (64, 64), 1.0, chance(), most),
    ):
        assert set(strokes.segments.tolist()) == set(range(1, most + 1))
        assert strokes.points.shape == (60, 3 * most + 1, 2)
        assert bool(render(strokes).isfinite().all())


def test_the_same_seed_gives_the_same_strokes() -> None:
    weight, colors = torch.rand(8, 8, generator=chance()), torch.rand(3, 8, 8, generator=chance())
    for make in (
        lambda seed: random_strokes(9, (50, 40), 2.0, chance(seed)),
        lambda seed: placed_strokes(weight, colors, 9, (50, 40), 2.0, chance(seed)),
    ):
        assert torch.equal(make(1).points, make(1).points)
        assert torch.equal(make(1).colors, make(1).colors)
        assert not torch.equal(make(1).points, make(2).points)


# -------------------------------------------------------------------------- placed by a map


def test_strokes_start_in_the_only_cell_with_weight_and_take_its_colour() -> None:
    weight, colors = torch.zeros(10, 20), torch.rand(3, 10, 20, generator=chance())
    weight[2, 15] = 5.0
    strokes = placed_strokes(weight, colors, 200, (200, 100), 3.0, chance())
    # a stroke's middle is its start but for the wobble: columns 150-160, rows 20-30
    middle = middles(strokes)
    assert middle.mean(0) == pytest.approx([155, 25], abs=1.5)
    assert np.abs(middle - [155, 25]).max() < 5 + 10
    torch.testing.assert_close(strokes.colors[:, :3], colors[:, 2, 15].expand(200, 3))
    alpha = strokes.colors[:, 3]
    assert 0.5 <= float(alpha.min()) < 0.52
    assert 0.88 < float(alpha.max()) <= 0.9
    assert strokes.half_widths.tolist() == [3.0] * 200


def test_a_cells_chance_is_its_share_of_the_weight() -> None:
    weight = torch.tensor([[1.0, 0.0], [0.0, 3.0]])
    # big cells, so that wobbling does not carry a middle over a border
    colors = torch.tensor([[[0.0, 0.3], [0.6, 1.0]]]).expand(3, 2, 2)
    strokes = placed_strokes(weight, colors, 4000, (100, 100), 1.0, chance())
    reds = strokes.colors[:, 0]
    assert sorted(set(reds.tolist())) == [0.0, 1.0]
    assert float((reds == 1).float().mean()) == pytest.approx(0.75, abs=0.03)


@pytest.mark.parametrize(
    "weight", [torch.zeros(4, 4), -torch.ones(4, 4)], ids=["all zero", "all negative"]
)
def test_a_map_without_weight_means_anywhere(weight: Tensor) -> None:
    colors = torch.arange(16.0).view(1, 4, 4).expand(3, 4, 4) / 16
    strokes = placed_strokes(weight, colors, 2000, (64, 64), 1.0, chance())
    counts = np.bincount((strokes.colors[:, 0] * 16).round().long(), minlength=16)
    assert counts.min() > 80  # 125 are expected in each of 16 cells


def test_strokes_run_along_edges_not_across_them() -> None:
    rows = torch.arange(32.0)[:, None].expand(32, 32)
    ridge = torch.exp(-((rows - 16) ** 2) / 20)  # horizontal
    for weight, along in ((ridge, 0), (ridge.T.contiguous(), 1)):
        strokes = placed_strokes(weight, torch.zeros(3, 32, 32), 400, (128, 128), 1.0, chance())
        last = strokes.lengths - 1
        run = (strokes.points[torch.arange(400), last] - strokes.points[:, 0]).abs().mean(0)
        assert float(run[along]) > 1.5 * float(run[1 - along])


# ----------------------------------------------------------------------------------- maps


def test_a_gradients_map_is_largest_where_it_is_and_wants_what_lowers_the_loss() -> None:
    gradient, white = torch.zeros(3, 24, 24), torch.ones(3, 24, 24)
    gradient[1:, 10:14, 4:8] = 1.0  # less green and blue would be better there
    weight, colors = gradient_maps(gradient, white)
    row, column = divmod(int(weight.argmax()), 24)
    assert (10 <= row < 14, 4 <= column < 8) == (True, True)
    red, green, blue = colors[:, 11, 5]
    assert (float(red), float(green), float(blue)) == (1.0, 0.0, 0.0)
    assert colors[:, 20, 20].tolist() == [1.0, 1.0, 1.0]
    assert float(weight[20, 20]) == 0
    # a gradient a million times as small asks for the same
    faint, same = gradient_maps(gradient * 1e-6, white)
    torch.testing.assert_close(same, colors, atol=1e-4, rtol=0)
    torch.testing.assert_close(faint / faint.max(), weight / weight.max(), atol=1e-4, rtol=1e-3)


def test_no_gradient_asks_for_nothing_and_breaks_nothing() -> None:
    weight, colors = gradient_maps(torch.zeros(3, 8, 8), torch.full((3, 8, 8), 0.25))
    assert float(weight.sum()) == 0
    assert bool((colors == 0.25).all())
    assert len(placed_strokes(weight, colors, 5, (32, 32), 1.0, chance())) == 5


def test_a_pictures_map_is_large_at_its_edges_and_where_it_matters() -> None:
    picture = torch.zeros(3, 32, 32)
    picture[:, :, 16:] = 1.0
    weight, colors = picture_maps(picture)
    assert set(weight.argmax(1).tolist()) <= {15, 16}
    assert float(weight[:, :8].max()) == pytest.approx(0.05)  # flat parts may still be drawn
    assert float(colors[0, 5, 2]) == pytest.approx(0, abs=1e-5)
    assert float(colors[0, 5, 29]) == pytest.approx(1, abs=1e-5)
    relevance = torch.zeros(32, 32)
    relevance[:16] = 1.0
    weighted, _ = picture_maps(picture, relevance)
    torch.testing.assert_close(weighted[:16], 1.05 * weight[:16])
    torch.testing.assert_close(weighted[16:], 0.05 * weight[16:])
