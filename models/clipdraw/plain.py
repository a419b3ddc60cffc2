"""Drawings in plain numbers, for every file format: one `Row` a path, and how much is too much."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from models.errors import InputError

from .strokes import Strokes, paths

MAX_PATHS = 4096
MAX_SIDE = 4096


class Row(NamedTuple):
    """One path: control points in pixels as in `Strokes`, straight RGBA in [0, 1]."""

    points: list[list[float]]
    closed: bool
    half_width: float
    color: list[float]
    fill: list[float] | None


@dataclass(frozen=True)
class Limits:
    """How much of a stranger's drawing we take.

    bytes: of the document.
    elements: XML elements, counted as often as `<use>` repeats them.
    depth: elements within elements, `<use>` included.
    paths: paths of the drawing, after sub-paths have been taken apart.
    segments: cubic segments of all paths together.
    cells: control points with padding (paths x the longest path's), since tensors are padded.
    coordinate: pixels between a point and the canvas's corner.
    """

    bytes: int = 2_000_000
    elements: int = 20_000
    depth: int = 64
    paths: int = MAX_PATHS
    segments: int = 32_768
    cells: int = 2**22
    coordinate: float = 1e6


DEFAULT_LIMITS = Limits()


def to_rows(strokes: Strokes) -> Iterator[Row]:
    """The paths one by one, in drawing order; a fill that cannot be seen is None.

    Raises:
        InputError: as `check`.
    """
    check(strokes)
    lengths, closed = strokes.lengths.tolist(), strokes.closed.tolist()
    points, half_widths = strokes.points.tolist(), strokes.half_widths.clamp(min=0).tolist()
    colors = strokes.colors.clamp(0, 1).tolist()
    fills: Sequence[list[float] | None] = [None] * len(strokes)
    if strokes.fills is not None:
        fills = [fill if fill[3] > 0 else None for fill in strokes.fills.clamp(0, 1).tolist()]
    for k, length in enumerate(lengths):
        yield Row(points[k][:length], closed[k], half_widths[k], colors[k], fills[k])


def check(strokes: Strokes) -> None:
    """Whether a drawing can be exported.

    Raises:
        InputError: more than `MAX_PATHS` paths, or a number that is not finite.
    """
    if len(strokes) > MAX_PATHS:
        raise InputError(
            f"This drawing has {len(strokes):,} strokes; at most {MAX_PATHS:,} can be exported."
        )
    numbers = [strokes.points[strokes.own], strokes.half_widths, strokes.colors]
    if strokes.fills is not None:
        numbers.append(strokes.fills)
    if not all(bool(values.isfinite().all()) for values in numbers):
        raise InputError("This drawing has numbers that are not finite; draw it again.")


def from_rows(
    rows: Sequence[Row], canvas: tuple[int, int], limits: Limits = DEFAULT_LIMITS
) -> Strokes:
    """Strokes of rows within `limits`, float32 on the CPU; `fills` is None where none is filled.

    Raises:
        InputError: no row, too many, or coordinates or widths beyond the limits or not finite.
    """
    check_size([len(row.points) for row in rows], limits)
    controls = [torch.tensor(row.points, dtype=torch.float64) for row in rows]
    widths = torch.tensor([row.half_width for row in rows], dtype=torch.float64)
    reach = torch.cat([torch.cat(controls).flatten(), widths]).abs().amax()
    if not bool(reach <= limits.coordinate):  # put so that NaN is refused, too
        raise InputError(
            "This drawing has coordinates far outside its canvas; move it back into the page."
        )
    fills = None
    if any(row.fill is not None for row in rows):
        fills = torch.tensor([row.fill or [0.0] * 4 for row in rows])
    return paths(
        [control.float() for control in controls],
        widths.float(),
        torch.tensor([row.color for row in rows]),
        canvas,
        [row.closed for row in rows],
        fills,
    )


def check_size(lengths: Sequence[int], limits: Limits) -> None:
    """Whether paths of so many control points are few enough to draw.

    Raises:
        InputError: none, too many paths or segments, or too much padding.
    """
    if not lengths:
        raise InputError(
            "There is no path to draw in this file; convert text and pictures to paths first."
        )
    if len(lengths) > limits.paths:
        raise too_many(f"more than {limits.paths:,} paths")
    if sum(length // 3 for length in lengths) > limits.segments:
        raise too_many(f"more than {limits.segments:,} curves")
    if len(lengths) * max(lengths) > limits.cells:
        raise too_many("many paths, one of them very long")


def too_many(what: str) -> InputError:
    return InputError(
        f"This drawing has {what}, too much to draw; simplify it in a vector editor first."
    )
