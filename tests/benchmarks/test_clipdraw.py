"""The benchmark of the rasteriser measures what it says."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from benchmarks import clipdraw
from benchmarks.clipdraw import Cost, Growth, compared, dense, growth_rows, medians, plot, scene
from models.clipdraw.rasterizer import render


def test_the_baseline_draws_the_same() -> None:
    strokes = scene(5, 48, 32)
    assert (render(strokes) - dense(strokes)).abs().mean() < 0.01


def test_the_baseline_has_the_same_gradients() -> None:
    grads: list[Tensor] = []
    for way in (render, dense):
        strokes = scene(3, 40)
        way(strokes).sum().backward()
        assert strokes.colors.grad is not None
        grads.append(strokes.colors.grad)
    torch.testing.assert_close(grads[0], grads[1], rtol=0.05, atol=1)


def test_what_is_compared_runs_in_turn_and_once_for_nothing() -> None:
    order: list[str] = []
    seconds = iter([9.0, 9.0, 1.0, 5.0, 3.0, 6.0, 2.0, 7.0])

    def work(name: str) -> Cost:
        order.append(name)
        return Cost(next(seconds), 1.0)

    costs = medians({"a": lambda: work("a"), "b": lambda: work("b")}, 3)
    assert order == ["a", "b"] * 4
    assert costs == {"a": Cost(2.0, 1.0), "b": Cost(6.0, 1.0)}


def test_forward_and_backward_are_timed() -> None:
    costs = compared({"dense": dense}, 4, 32, 1)
    assert set(costs) == {"ours", "dense"}
    assert all(cost.forward > 0 and cost.backward > 0 for cost in costs.values())


def test_memory_is_that_of_a_process_of_its_own() -> None:
    assert clipdraw.fresh(clipdraw.memory_of, 200, 200) > 1_000_000


def test_growth_is_a_table_and_a_picture(tmp_path: Path) -> None:
    cells = [
        Growth(count, size, Cost(count / 1e4, size / 1e5), 10**6 * size)
        for size in (20, 40)
        for count in (2, 8)
    ]
    assert list(growth_rows(cells)) == [
        ("canvas", "2 strokes", "8 strokes"),
        ("20 x 20", "0.2 ms + 0.2 ms, 20 MB", "0.8 ms + 0.2 ms, 20 MB"),
        ("40 x 40", "0.2 ms + 0.4 ms, 40 MB", "0.8 ms + 0.4 ms, 40 MB"),
    ]
    plot(cells, tmp_path / "growth.png")
    with Image.open(tmp_path / "growth.png") as picture:
        assert picture.width > 800


def test_without_diffvg_its_published_times_are_quoted() -> None:
    head, row = clipdraw.diffvg_rows(((64, 224, 1),), available=False)
    assert head[2].startswith("diffvg")
    assert row[2] == "125 ms + 461 ms"


def test_an_unknown_option_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        clipdraw.main(["--strokes", "3"])
    assert "--strokes" in capsys.readouterr().err
