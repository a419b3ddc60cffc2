"""Drawings to begin with that were not drawn here: somebody's SVG, or strokes after a picture."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

from models.clip.encoder import ClipEncoder
from models.clip.relevance import explain
from models.jobs import Job

from . import seeding
from .config import REFERENCE_SIDE, DrawConfig
from .strokes import Strokes


def canvas_like(size: tuple[int, int], side: int) -> tuple[int, int]:
    """Width and height of a canvas whose longer side is `side`, in the proportions of `size`."""
    factor = side / max(size)
    width, height = (max(1, round(length * factor)) for length in size)
    return width, height


def from_picture(
    encoder: ClipEncoder, picture: Image.Image, words: str, config: DrawConfig
) -> Job[Strokes]:
    """Strokes on the picture's edges in its colours, most where it speaks for the words.

    As CLIPasso begins (Vinker et al. 2022, section 3.3), with this project's relevance maps.

    Args:
        picture: RGB, stretched over the canvas of `config`.

    Raises:
        InputError: the encoder's image tower is of no kind that can be explained.
    """
    size = canvas_like(config.canvas, min(REFERENCE_SIDE, max(config.canvas)))
    small = picture.resize(size, Image.Resampling.LANCZOS)
    heat = yield from explain(encoder, small, [words], 0)
    rgb = torch.from_numpy(np.asarray(small, dtype=np.float32) / 255).permute(2, 0, 1)  # (3, h, w)
    relevance = torch.from_numpy(heat.over(small.size).copy())  # (h, w)
    weight, colors = seeding.picture_maps(rgb, relevance)
    return seeding.placed_strokes(
        weight,
        colors,
        config.strokes,
        config.canvas,
        config.half_width * config.scale,
        torch.Generator().manual_seed(config.seed),
        config.max_segments,
    )
