"""Drawings that begin after a picture."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from PIL import Image

from models.clipdraw.config import DrawConfig
from models.clipdraw.opening import canvas_like, from_picture
from models.jobs import run_to_end
from tests.clip_support import mini


@pytest.mark.parametrize(
    ("size", "side", "canvas"),
    [((400, 300), 100, (100, 75)), ((30, 60), 100, (50, 100)), ((5, 1000), 100, (1, 100))],
)
def test_a_canvas_has_the_picture_s_proportions(
    size: tuple[int, int], side: int, canvas: tuple[int, int]
) -> None:
    assert canvas_like(size, side) == canvas


def test_strokes_begin_on_edges_in_the_picture_s_colours() -> None:
    picture = Image.new("RGB", (200, 100), (250, 250, 250))
    picture.paste((200, 30, 30), (120, 20, 180, 80))
    config = replace(DrawConfig.mini(), strokes=60, canvas=(200, 100), seed=4)
    strokes = run_to_end(from_picture(mini(), picture, "a red square", config))
    assert (len(strokes), strokes.canvas) == (60, (200, 100))
    own = strokes.own[..., None]
    middle = (strokes.points * own).sum(1) / own.sum(1)  # (N, 2)
    near = ((middle - torch.tensor([150.0, 50.0])).abs() < 45).all(1)
    assert near.float().mean() > 0.6  # 41% of the canvas
    red = strokes.colors[near]
    assert (red[:, 0] - red[:, 1]).mean() > 0.2
    again = run_to_end(from_picture(mini(), picture, "a red square", config))
    assert torch.equal(again.points, strokes.points)
