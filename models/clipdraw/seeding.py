"""Where strokes begin: at random as in the paper, or where a gradient or a picture asks for them."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from .strokes import Strokes

STEP = 0.1  # of the canvas: the reference's largest distance between control points, per axis / 2


def random_strokes(
    count: int,
    canvas: tuple[int, int],
    half_width: float,
    generator: torch.Generator,
    max_segments: int = 3,
) -> Strokes:
    """Strokes as the reference starts: uniform start points, short random chains, random RGBA.

    Each next control point is the one before plus STEP * (U(0, 1) - 0.5) of the canvas per
    coordinate; 1 to `max_segments` cubic segments (CLIPDraw's notebook).
    """
    start = torch.rand(count, 1, 2, generator=generator)
    moves = STEP * (torch.rand(count, 3 * max_segments, 2, generator=generator) - 0.5)
    points = torch.cat([start, moves], dim=1).cumsum(1)  # (N, P, 2) in [0, 1]-ish
    return _open_strokes(
        points * torch.tensor(canvas, dtype=torch.float32),
        torch.randint(1, max_segments + 1, (count,), generator=generator),
        torch.full((count,), half_width),
        torch.rand(count, 4, generator=generator),
        canvas,
    )


def placed_strokes(
    weight: Tensor,
    colors: Tensor,
    count: int,
    canvas: tuple[int, int],
    half_width: float,
    generator: torch.Generator,
    max_segments: int = 3,
) -> Strokes:
    """Strokes that start where a map is large, run across its slope, and take its colours.

    Args:
        weight: (h, w) non-negative; the chance of a start in each cell. All zeros means anywhere.
        colors: (3, h, w) RGB in [0, 1].
    """
    height, width = weight.shape
    flat = weight.flatten().double().clamp(min=0).cpu()
    flat = flat if float(flat.sum()) > 0 else torch.ones_like(flat)
    cell = torch.multinomial(flat, count, replacement=True, generator=generator)  # (N,)
    row, column = cell // width, cell % width
    within = torch.rand(count, 2, generator=generator)
    unit = torch.tensor([canvas[0] / width, canvas[1] / height])
    start = (torch.stack([column, row], dim=1) + within) * unit  # (N, 2) pixels
    angle = _along(weight.cpu())[row, column] + 0.5 * torch.randn(count, generator=generator)
    direction = torch.stack([angle.cos(), angle.sin()], dim=1)
    segments = torch.randint(1, max_segments + 1, (count,), generator=generator)
    # As long as the reference's chains are on average, but straight, so that they find edges.
    step = STEP * 0.38 * min(canvas) * (0.5 + torch.rand(count, 1, 1, generator=generator))
    places = torch.arange(3 * max_segments + 1) - 1.5 * segments[:, None]  # centred on the start
    line = start[:, None] + step * places[..., None] * direction[:, None]
    wobble = 0.3 * step * torch.randn(line.shape, generator=generator)
    own = colors.cpu()[:, row, column].T  # (N, 3)
    alpha = 0.5 + 0.4 * torch.rand(count, 1, generator=generator)
    rgba = torch.cat([own, alpha], dim=1).clamp(0, 1)
    return _open_strokes(line + wobble, segments, torch.full((count,), half_width), rgba, canvas)


def gradient_maps(gradient: Tensor, background: Tensor) -> tuple[Tensor, Tensor]:
    """Weights and colours for `placed_strokes` from the loss's gradient at a picture.

    Args:
        gradient: (3, h, w) of the loss with respect to RGB.
        background: (3, h, w) the RGB picture itself.

    Returns:
        (h, w) smoothed length of the gradient; (3, h, w) the colours that lower the loss.
    """
    smooth = _blur(gradient)
    length = smooth.norm(dim=0)
    wanted = background - smooth / length.mean().clamp(min=1e-12) * 0.35
    return length**2, wanted.clamp(0, 1)


def picture_maps(picture: Tensor, relevance: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Weights and colours for `placed_strokes` from a picture: its edges, where it matters.

    Like CLIPasso's initialisation (Vinker et al. 2022, section 3.3): saliency times edges.

    Args:
        picture: (3, h, w) RGB in [0, 1].
        relevance: (h, w) in [0, 1], how much each place speaks for the prompt; None counts all alike.
    """
    edges = _slope(_blur(picture).mean(0)).norm(dim=0)
    weight = edges / edges.max().clamp(min=1e-9) + 0.05
    return (weight if relevance is None else weight * (0.05 + relevance)), _blur(picture)


def _open_strokes(
    points: Tensor, segments: Tensor, half_widths: Tensor, rgba: Tensor, canvas: tuple[int, int]
) -> Strokes:
    closed = torch.zeros(len(segments), dtype=torch.bool)
    return Strokes(points, segments, half_widths, rgba, canvas, closed)


def _along(weight: Tensor) -> Tensor:
    """(h, w) angle of the level line through each cell, radians."""
    dx, dy = _slope(_blur(weight[None])[0])
    return torch.atan2(dy, dx) + torch.pi / 2


def _slope(grey: Tensor) -> Tensor:
    """(h, w) -> (2, h, w) change towards the right and downwards."""
    padded = F.pad(grey[None, None], (1, 1, 1, 1), mode="replicate")[0, 0]
    across = (padded[1:-1, 2:] - padded[1:-1, :-2]) / 2
    down = (padded[2:, 1:-1] - padded[:-2, 1:-1]) / 2
    return torch.stack([across, down])


def _blur(picture: Tensor) -> Tensor:
    """(C, h, w) averaged twice over 5 x 5 cells."""
    for _ in range(2):
        padded = F.pad(picture[None], (2, 2, 2, 2), mode="replicate")
        picture = F.avg_pool2d(padded, 5, 1)[0]
    return picture
