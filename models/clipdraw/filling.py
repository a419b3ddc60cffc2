"""How much of each pixel a filled path covers, and how that changes with its outline.

The exact signed area of a pixel to the right of every edge, summed along the row, is the winding
number averaged over the pixel (the accumulation buffer of font rasterisers). Clamped to one it is
the coverage by the non-zero rule; only where outlines of opposite direction cross within a pixel
does it fall short.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .coverage import Pieces, add_at, bernstein, ragged

TOLERANCE = 0.005  # pixels between an outline and its chords: they are the fill's true edge
LEAST_COVER = 1e-4  # what is below is rounding, and does not make a fragment


@dataclass(frozen=True)
class Outlines:
    """The edges of filled paths, cut into rows, and the boxes they lie in; both sorted by row.

    Attributes:
        piece, row: (M,) an edge, and a row of pixels that it passes.
        box: (M,) which of the B boxes that is in.
        box_path, box_row: (B,) a path, and a row of pixels of its bounding box.
        left, right: (B,) int64 first column of the box, and the first behind it.
    """

    piece: Tensor
    row: Tensor
    box: Tensor
    box_path: Tensor
    box_row: Tensor
    left: Tensor
    right: Tensor

    def rows(self, first: int, end: int) -> Outlines:
        """What lies in the rows first, first + 1, ..., end - 1."""
        bounds = torch.tensor([first, end], device=self.row.device)
        edges = slice(*torch.searchsorted(self.row, bounds).tolist())
        boxes = slice(*torch.searchsorted(self.box_row, bounds).tolist())
        return Outlines(
            self.piece[edges],
            self.row[edges],
            self.box[edges] - boxes.start,
            self.box_path[boxes],
            self.box_row[boxes],
            self.left[boxes],
            self.right[boxes],
        )


def outlines_of(pieces: Pieces, path: Tensor, paths: int, canvas: tuple[int, int]) -> Outlines:
    """Cuts the edges of closed outlines into rows; `path` (Q,) tells whose they are, < `paths`."""
    width, height = canvas
    bx, by = pieces.ax + pieces.dx, pieces.ay + pieces.dy

    def bound(values: Tensor, reduce: str, limit: int) -> Tensor:
        empty = values.new_full((paths,), torch.inf if reduce == "amin" else -torch.inf)
        found = empty.scatter_reduce_(0, path, values, reduce)
        return (found.floor() if reduce == "amin" else found.ceil()).clamp(0, limit).long()

    left = bound(torch.minimum(pieces.ax, bx), "amin", width)
    right = bound(torch.maximum(pieces.ax, bx), "amax", width)
    top = bound(torch.minimum(pieces.ay, by), "amin", height)
    bottom = bound(torch.maximum(pieces.ay, by), "amax", height)
    heights = (bottom - top).clamp(min=0).masked_fill(left >= right, 0)
    box_path, place = ragged(heights)
    box_row, order = (top.index_select(0, box_path) + place).sort(stable=True)
    sorted_at = torch.empty_like(order).scatter_(0, order, torch.arange(len(order)).to(order))

    first = torch.minimum(pieces.ay, by).floor().clamp(0, height).long()
    last = torch.maximum(pieces.ay, by).ceil().clamp(0, height).long()
    unseen = (pieces.dy == 0) | (left >= right).index_select(0, path)
    piece, place = ragged((last - first).masked_fill(unseen, 0))
    row, turn = (first.index_select(0, piece) + place).sort(stable=True)
    piece = piece.index_select(0, turn)
    owner = path.index_select(0, piece)
    box = (heights.cumsum(0) - heights - top).index_select(0, owner) + row
    box_path = box_path.index_select(0, order)
    return Outlines(
        piece,
        row,
        sorted_at.index_select(0, box),
        box_path,
        box_row,
        left.index_select(0, box_path),
        right.index_select(0, box_path),
    )


@dataclass(frozen=True)
class FillFragments:
    """F pixels that fills cover, and the C bits of edges that cross pixels.

    Attributes:
        pixel, path: (F,) int64 row * width + column, and the path.
        cover: (F,) share of the pixel that is inside, in (0, 1].
        cell: (C,) which of the F fragments an edge's bit lies in.
        cubic: (C,) whose bit it is. t: (C,) the curve's parameter at its middle.
        by_x, by_y: (C,) derivative of the cover by moving the bit right and down by a pixel.
    """

    pixel: Tensor
    path: Tensor
    cover: Tensor
    cell: Tensor
    cubic: Tensor
    t: Tensor
    by_x: Tensor
    by_y: Tensor

    def backward(self, grad: Tensor, controls: Tensor) -> None:
        """Adds to `controls` (8, S) what the gradient `grad` (F,) by the cover means for them."""
        grad = grad.index_select(0, self.cell)
        gx, gy = grad * self.by_x, grad * self.by_y
        for k, weight in enumerate(bernstein(self.t)):
            add_at(controls[2 * k], self.cubic, weight * gx)
            add_at(controls[2 * k + 1], self.cubic, weight * gy)


@dataclass(frozen=True)
class Bits:
    """The C bits that pixel boundaries cut edges into.

    Attributes:
        edge: (C,) which of the edges in rows. column: (C,) int64, also one before and one behind
            the box: these two stand for all that lies beside it.
        middle, length: (C,) where along its piece the bit lies, and how much of it it is.
    """

    edge: Tensor
    column: Tensor
    middle: Tensor
    length: Tensor


def fill_fragments(pieces: Pieces, outlines: Outlines, width: int) -> FillFragments:
    """What fills cover of the rows in `outlines`."""
    bits = _bits(pieces, outlines)
    piece = outlines.piece.index_select(0, bits.edge)
    box = outlines.box.index_select(0, bits.edge)
    ax, dx, dy = (v.index_select(0, piece) for v in (pieces.ax, pieces.dx, pieces.dy))
    left, right = outlines.left.index_select(0, box), outlines.right.index_select(0, box)
    beside = (ax + bits.middle * dx - bits.column).clamp(0, 1)  # share of the pixel on its left
    beside = beside.masked_fill(bits.column < left, 1).masked_fill(bits.column >= right, 0)

    counts = outlines.right - outlines.left + 2
    first = counts.cumsum(0) - counts
    at = first.index_select(0, box) + bits.column - left + 1
    owner, place = ragged(counts)
    winding = _winding(at, bits.length * dy, beside, len(owner))
    winding = winding - winding.index_select(0, first).index_select(0, owner)
    inside = (place > 0) & (place <= (counts - 2).index_select(0, owner))
    inside &= winding.abs() > LEAST_COVER
    kept = inside.nonzero().squeeze(1)  # (F,)
    owner, winding = owner.index_select(0, kept), winding.index_select(0, kept)
    column = place.index_select(0, kept) - 1 + outlines.left.index_select(0, owner)

    seen = inside.index_select(0, at).nonzero().squeeze(1)  # the bits that lie in fragments
    cell = (inside.cumsum(0) - 1).index_select(0, at.index_select(0, seen))
    turn = (winding.sign() * (winding.abs() < 1)).index_select(0, cell).to(dx.dtype)
    piece, middle, length = (v.index_select(0, seen) for v in (piece, bits.middle, bits.length))
    return FillFragments(
        outlines.box_row.index_select(0, owner) * width + column,
        outlines.box_path.index_select(0, owner),
        winding.abs().clamp(max=1).to(dx.dtype),
        cell,
        pieces.cubic.index_select(0, piece),
        pieces.t.index_select(0, piece) + middle * pieces.dt.index_select(0, piece),
        -turn * length * pieces.dy.index_select(0, piece),
        turn * length * pieces.dx.index_select(0, piece),
    )


def _bits(pieces: Pieces, outlines: Outlines) -> Bits:
    ax, ay, dx, dy = (
        v.index_select(0, outlines.piece) for v in (pieces.ax, pieces.ay, pieces.dx, pieces.dy)
    )
    left, right = (v.index_select(0, outlines.box) for v in (outlines.left, outlines.right))
    s0, s1 = _between(ay, dy, outlines.row, outlines.row + 1)
    x0, x1 = ax + s0 * dx, ax + s1 * dx
    low = torch.minimum(x0, x1).floor().long().clamp(left - 1, right)
    high = torch.maximum(x0, x1).floor().long().clamp(left - 1, right)
    edge, place = ragged(high - low + 1)
    ax, dx, s0, s1 = (v.index_select(0, edge) for v in (ax, dx, s0, s1))
    column = low.index_select(0, edge) + place
    # The first and the last pixel take whatever there is, so that rounding loses nothing.
    begin = column.to(ax.dtype).masked_fill(place == 0, -torch.inf)
    end = (column + 1).to(ax.dtype).masked_fill(column == high.index_select(0, edge), torch.inf)
    c0, c1 = _between(ax, dx, begin, end)
    s0, s1 = torch.maximum(s0, c0), torch.minimum(s1, c1)
    return Bits(edge, column, (s0 + s1) / 2, (s1 - s0).clamp(min=0))


def _between(start: Tensor, along: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """From which s to which s, in [0, 1], start + s * along lies between low and high."""
    tiny = torch.finfo(along.dtype).tiny ** 0.5
    along = along.masked_fill(along.abs() < tiny, tiny)
    a, b = (low - start) / along, (high - start) / along
    return torch.minimum(a, b).clamp(0, 1), torch.maximum(a, b).clamp(0, 1)


def _winding(at: Tensor, height: Tensor, beside: Tensor, size: int) -> Tensor:
    """(size,) running sum of the area right of each bit: in its own pixel, then in all others."""
    exact = torch.float32 if at.device.type == "mps" else torch.float64
    area = torch.zeros(size, dtype=exact, device=at.device)
    height, beside = height.to(exact), beside.to(exact)
    add_at(area, at, height * (1 - beside))
    next_to = (at + 1).clamp(max=size - 1)  # only a bit behind the last box is clamped, and adds 0
    add_at(area, next_to, height * beside)
    return area.cumsum(0)
