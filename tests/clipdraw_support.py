"""What tests of drawings share: random scenes, an independent SVG renderer, decibels."""

from __future__ import annotations

import io
import math

import numpy as np
import resvg_py
import torch
from PIL import Image

from models.clipdraw.strokes import Strokes, paths


def random_scene(seed: int, count: int = 48, side: int = 96, *, fills: bool = True) -> Strokes:
    """Strokes as CLIPDraw starts (a chain of steps of up to 0.05 canvases), half widths 0.5 to 5;
    every sixth is closed, three times as large, and filled."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=generator)

    controls, closed = [], []
    for k in range(count):
        segments = 1 + int(3 * uniform(1))
        closes = fills and k % 6 == 0
        steps = 0.1 * (uniform(3 * segments - closes, 2) - 0.5) * (3 if closes else 1)
        controls.append(torch.cat([uniform(1, 2), steps]).cumsum(0) * side)
        closed.append(closes)
    colors, paints = uniform(count, 4), uniform(count, 4) * torch.tensor(closed)[:, None]
    widths = 0.5 + 4.5 * uniform(count)
    return paths(controls, widths, colors, (side, side), closed, paints if fills else None)


def resvg(text: str, width: int | None = None) -> Image.Image:
    """An SVG over white as resvg draws it: an independent renderer."""
    data = bytes(resvg_py.svg_to_bytes(svg_string=text, background="white", width=width, dpi=96))
    return Image.open(io.BytesIO(data)).convert("RGB")


def psnr(one: Image.Image, other: Image.Image) -> float:
    """Peak signal-to-noise ratio of two RGB pictures of one size, dB; infinite if equal."""
    assert one.size == other.size
    difference = np.asarray(one, dtype=np.float64) - np.asarray(other, dtype=np.float64)
    error = float((difference**2).mean())
    return 10 * math.log10(255**2 / error) if error else math.inf
