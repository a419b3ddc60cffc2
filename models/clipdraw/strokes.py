"""What a drawing is made of: Bezier paths with a width and a colour, padded into tensors.

Coordinates are pixels (x, y) with the origin at the canvas's top left corner; the centre of pixel
(column i, row j) is (i + 0.5, j + 0.5). Path k is painted over all paths before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from models.errors import InputError


@dataclass(frozen=True)
class Strokes:
    """N paths of cubic Bezier segments on a canvas.

    Attributes:
        points: (N, P, 2) control points in pixels, one path a row; what lies behind a path's own
            points is padding, ignored and without gradient. An open path of n segments has 3n + 1
            points, a closed one 3n: its last segment ends at its first point.
        segments: (N,) int64, cubic segments of each path, at least 1.
        half_widths: (N,) half of the stroke's width in pixels (SVG's stroke-width is twice that).
            0 draws no stroke.
        colors: (N, 4) straight RGBA of the stroke in [0, 1].
        canvas: width and height in pixels.
        closed: (N,) bool.
        fills: (N, 4) straight RGBA of the fill (non-zero rule, under the path's own stroke as in
            SVG); None where no path is filled.

    Raises ValueError where shapes do not fit together.
    """

    points: Tensor
    segments: Tensor
    half_widths: Tensor
    colors: Tensor
    canvas: tuple[int, int]
    closed: Tensor
    fills: Tensor | None = None

    def __post_init__(self) -> None:
        count = len(self.segments)
        shapes = {
            "points": (self.points.ndim == 3 and self.points.shape[::2] == (count, 2)),
            "half_widths": self.half_widths.shape == (count,),
            "colors": self.colors.shape == (count, 4),
            "closed": self.closed.shape == (count,) and self.closed.dtype == torch.bool,
            "fills": self.fills is None or self.fills.shape == (count, 4),
            "canvas": min(self.canvas) >= 1,
        }
        wrong = [name for name, right in shapes.items() if not right]
        if wrong:
            raise ValueError(f"{', '.join(wrong)} of {count} strokes have the wrong shape")
        if count and int(self.lengths.max()) > self.points.shape[1]:
            raise ValueError("a path has more segments than control points")
        if count and int(self.segments.min()) < 1:
            raise ValueError("a path has at least one segment")

    def __len__(self) -> int:
        return len(self.segments)

    @property
    def lengths(self) -> Tensor:
        """(N,) control points of each path: 3n + 1 open, 3n closed."""
        return 3 * self.segments + (~self.closed).long()

    @property
    def own(self) -> Tensor:
        """(N, P) bool: which control points are the path's own and not padding."""
        places = torch.arange(self.points.shape[1], device=self.points.device)
        return places < self.lengths[:, None]

    def cubics(self) -> tuple[Tensor, Tensor]:
        """All segments of all paths, path by path: control points (S, 4, 2) and path index (S,)."""
        device = self.points.device
        path = torch.arange(len(self), device=device).repeat_interleave(self.segments)  # (S,)
        first = self.segments.cumsum(0) - self.segments
        nth = torch.arange(len(path), device=device) - first[path]  # (S,) segment within its path
        place = 3 * nth[:, None] + torch.arange(4, device=device)  # (S, 4)
        # Only a closed path's last segment reaches its own length: there it returns to its start.
        place = torch.where(place >= self.lengths[path, None], 0, place)
        return self.points[path[:, None], place], path

    def select(self, index: Tensor) -> Strokes:
        """The paths at `index` (integers or a mask), in that order."""
        return Strokes(
            self.points[index],
            self.segments[index],
            self.half_widths[index],
            self.colors[index],
            self.canvas,
            self.closed[index],
            None if self.fills is None else self.fills[index],
        )

    def scaled(self, factor: float) -> Strokes:
        """The same drawing on a canvas `factor` times as large."""
        width, height = (max(1, round(side * factor)) for side in self.canvas)
        return replace(
            self,
            points=self.points * factor,
            half_widths=self.half_widths * factor,
            canvas=(width, height),
        )

    def detach(self) -> Strokes:
        """A copy without gradients that shares nothing with this one."""
        fills = None if self.fills is None else self.fills.detach().clone()
        return replace(
            self,
            points=self.points.detach().clone(),
            half_widths=self.half_widths.detach().clone(),
            colors=self.colors.detach().clone(),
            fills=fills,
        )

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Strokes:
        """The same paths on a device, floating-point tensors in `dtype` if one is given."""
        return Strokes(
            self.points.to(device, dtype),
            self.segments.to(device),
            self.half_widths.to(device, dtype),
            self.colors.to(device, dtype),
            self.canvas,
            self.closed.to(device),
            None if self.fills is None else self.fills.to(device, dtype),
        )


def concatenate(parts: Sequence[Strokes]) -> Strokes:
    """One drawing from several on the same canvas, later ones painted on top.

    Raises:
        InputError: no parts, or canvases of different sizes.
    """
    if not parts:
        raise InputError("There is nothing to put together; give at least one drawing.")
    first = parts[0]
    if any(part.canvas != first.canvas for part in parts):
        raise InputError("These drawings have canvases of different sizes; scale them first.")
    room = max(part.points.shape[1] for part in parts)
    padded = [
        torch.nn.functional.pad(part.points, (0, 0, 0, room - part.points.shape[1]))
        for part in parts
    ]
    fills = None
    if any(part.fills is not None for part in parts):
        none = [part.colors.new_zeros(len(part), 4) for part in parts]
        fills = torch.cat([n if p.fills is None else p.fills for p, n in zip(parts, none)])
    return Strokes(
        torch.cat(padded),
        torch.cat([part.segments for part in parts]),
        torch.cat([part.half_widths for part in parts]),
        torch.cat([part.colors for part in parts]),
        first.canvas,
        torch.cat([part.closed for part in parts]),
        fills,
    )


def paths(
    controls: Sequence[Tensor],
    half_widths: Tensor,
    colors: Tensor,
    canvas: tuple[int, int],
    closed: Sequence[bool] | None = None,
    fills: Tensor | None = None,
) -> Strokes:
    """Strokes from paths of different lengths.

    Args:
        controls: one (L, 2) tensor of control points a path: L = 3n + 1 open, 3n closed.

    Raises:
        ValueError: a path has another number of points.
    """
    flags = torch.tensor(list(closed) if closed is not None else [False] * len(controls))
    for control, is_closed in zip(controls, flags.tolist()):
        if len(control) < 3 or len(control) % 3 != (0 if is_closed else 1):
            kind = "3n" if is_closed else "3n + 1"
            raise ValueError(f"a path has {kind} control points, not {len(control)}")
    counts = torch.tensor([len(control) // 3 for control in controls], dtype=torch.long)
    points = torch.nn.utils.rnn.pad_sequence(list(controls), batch_first=True)  # (N, P, 2)
    device = points.device
    return Strokes(points, counts.to(device), half_widths, colors, canvas, flags.to(device), fills)
