"""How much of each pixel a stroke covers, and how that changes with the stroke's parameters.

Nothing here visits a pixel that a path does not touch: cubics become few chords, a chord becomes
one interval of pixels per row, and only these intervals are expanded. Everything is a structure of
flat tensors, because gathering single columns is several times cheaper than gathering rows.

The distance is that to the nearest point of the true curve (a Newton step from its chord), the
coverage the exact area that a straight strip of the stroke's width has in the pixel there.

The derivatives hold the parameter t of the nearest point fixed. That is exact: where t minimises
the distance, the distance does not change with t to first order (the envelope theorem).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

HALF_DIAGONAL = 0.7072  # from a pixel's centre to its corner, rounded up
TOLERANCE = 0.1  # pixels between a stroke's centre line and its chords; Newton does the rest
MOST_CURVED = 2.0  # edges, in 1 / pixels: what is smaller than a pixel has no curvature to speak of
MOST_PIECES = 4096  # of one cubic; reached by coordinates of a million pixels


@dataclass(frozen=True)
class Pieces:
    """Q chords of flattened cubics, in the cubics' order.

    Attributes:
        cubic: (Q,) which cubic a chord belongs to.
        ax, ay, dx, dy: (Q,) where it starts, and from there to its end, in pixels.
        t, dt: (Q,) the curve's parameter at its start, and how much of it the chord spans.
        error: (Q,) bound of the distance between chord and curve in pixels.
    """

    cubic: Tensor
    ax: Tensor
    ay: Tensor
    dx: Tensor
    dy: Tensor
    t: Tensor
    dt: Tensor
    error: Tensor


def flatten(cubics: Tensor, tolerance: float) -> Pieces:
    """As many chords of equal parameter length as keep within `tolerance` of (S, 4, 2) cubics."""
    bend = cubics[:, :-2] - 2 * cubics[:, 1:-1] + cubics[:, 2:]  # (S, 2, 2) second differences
    # A chord over dt is at most |B''| dt^2 / 8 away, and |B''| is at most 6 times the largest bend.
    error = 0.75 * bend.norm(dim=-1).amax(-1)  # (S,) with one piece
    counts = (error / tolerance).sqrt().ceil().clamp(1, MOST_PIECES)
    cubic, place = ragged(counts.long())
    dt = counts.reciprocal()[cubic]
    controls = cubics.reshape(-1, 8).T.index_select(1, cubic)  # (8, Q)
    count = counts[cubic]
    ax, ay = point_at(controls, place / count)
    bx, by = point_at(controls, (place + 1) / count)
    return Pieces(
        cubic, ax, ay, bx - ax, by - ay, place / count, dt, (error / counts.square())[cubic]
    )


def ragged(counts: Tensor) -> tuple[Tensor, Tensor]:
    """Expands counts (2, 0, 1) into owners (0, 0, 2) and places within the owner (0, 1, 0)."""
    end = counts.cumsum(0)
    size = int(end[-1]) if len(end) else 0
    # A running count of how many owners have begun: cheaper than repeat_interleave.
    begun = torch.zeros(size + 1, dtype=torch.long, device=counts.device)
    begun.index_add_(0, end[:-1], torch.ones_like(end[:-1]))
    owner = begun[:-1].cumsum(0)
    place = torch.arange(size, device=counts.device) - (end - counts).index_select(0, owner)
    return owner, place


def bernstein(t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The four cubic Bernstein polynomials; exactly (1, 0, 0, 0) at 0 and (0, 0, 0, 1) at 1."""
    u = 1 - t
    tt, uu = t * t, u * u
    return uu * u, 3 * uu * t, 3 * u * tt, tt * t


def point_at(controls: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """x and y at parameter t (Q,) of cubics whose control points are (x0, y0, ..., x3, y3)."""
    a, b, c, d = bernstein(t)
    x0, y0, x1, y1, x2, y2, x3, y3 = controls.unbind()
    return a * x0 + b * x1 + c * x2 + d * x3, a * y0 + b * y1 + c * y2 + d * y3


def add_at(target: Tensor, index: Tensor, values: Tensor) -> None:
    """target[index[i]] += values[i], in an order that does not change from run to run."""
    if target.is_cuda:  # there index_add_ is atomic, in whatever order; this one sorts
        target.index_put_((index,), values, accumulate=True)
    else:
        target.index_add_(0, index, values)


@dataclass(frozen=True)
class Spans:
    """M intervals of pixels, those of a row in the order of their chords.

    Attributes:
        piece: (M,) the chord they are near to.
        row, column: (M,) int64 the interval's first pixel.
        count: (M,) int64 its length.
    """

    piece: Tensor
    row: Tensor
    column: Tensor
    count: Tensor

    def by_row(self) -> Spans:
        """The same, row after row."""
        return self._select(self.row.int().sort(stable=True).indices)

    def rows(self, first: int, end: int) -> Spans:
        """Those in the rows first, ..., end - 1; the spans must be sorted by row."""
        bounds = torch.tensor([first, end], device=self.row.device)
        begin, stop = torch.searchsorted(self.row, bounds).tolist()
        return Spans(*(v[begin:stop] for v in (self.piece, self.row, self.column, self.count)))

    def _select(self, index: Tensor) -> Spans:
        columns = (self.piece, self.row, self.column, self.count)
        return Spans(*(v.index_select(0, index) for v in columns))


def spans_of(pieces: Pieces, path: Tensor, radius: Tensor, canvas: tuple[int, int]) -> Spans:
    """The pixels whose centre is within `radius` (Q,) of each chord of the paths `path` (Q,).

    Where two chords of a path meet, each keeps to its own side of the joint: a point whose nearest
    point is the joint lies between the two normals there, so that along one of the chords it is
    at most the radius times the sine of half the turn beyond.
    """
    width, height = canvas
    before, after = _beyond(pieces, path, radius)
    flip = pieces.dy < 0
    ay = torch.where(flip, pieces.ay + pieces.dy, pieces.ay)  # the upper end
    ax = torch.where(flip, pieces.ax + pieces.dx, pieces.ax)
    dx = torch.where(flip, -pieces.dx, pieces.dx)
    dy = pieces.dy.abs()
    above, below = torch.where(flip, after, before), torch.where(flip, before, after)
    first = (ay - radius - 0.5).ceil().clamp(0, height)
    end = ((ay + dy + radius - 0.5).floor() + 1).clamp(0, height)
    beside = (torch.minimum(ax, ax + dx) - radius > width) | (torch.maximum(ax, ax + dx) < -radius)
    rows = (end - first).clamp(min=0).masked_fill(beside, 0).long()
    piece, place = ragged(rows)
    row = place + first.long().index_select(0, piece)

    tiny = torch.finfo(dy.dtype).tiny ** 0.5
    length = (dx * dx + dy * dy).sqrt()
    ux, uy = dx / length.clamp(min=tiny), dy / length.clamp(min=tiny)
    ux = torch.where(ux.abs() < 1e-6, 1e-6, ux)
    low, high = -above / ux, (length + below) / ux  # where the slab crosses the upper end's row
    low, high = torch.minimum(low, high), torch.maximum(low, high)
    columns = (ax, ay, dx, dy, radius, radius * ux, uy / ux, low, high)
    ax, ay, dx, dy, r, reach, tilt, low, high = (v.index_select(0, piece) for v in columns)
    y = row + 0.5 - ay  # below the upper end
    dy_safe = dy.clamp(min=tiny)

    def side(sign: int) -> Tensor:
        # The capsule's outermost x on this row: on its straight side if the row meets that, else
        # on the disc at the nearer end. s is where along the chord the touching disc sits.
        s = ((y + sign * reach) / dy_safe).clamp(0, 1)
        half = (r * r - (y - s * dy).square()).clamp(min=0).sqrt()
        return ax + s * dx + sign * half

    slab = ax - y * tilt
    left = (torch.maximum(side(-1), slab + low) - 0.5).ceil().clamp(0, width)
    right = ((torch.minimum(side(1), slab + high) - 0.5).floor() + 1).clamp(0, width)
    count = (right - left).clamp(min=0).long()
    return Spans(piece, row, left.long(), count)._select(count.nonzero().squeeze(1))


def _beyond(pieces: Pieces, path: Tensor, radius: Tensor) -> tuple[Tensor, Tensor]:
    """(Q,) how far before its start and behind its end a chord may be the nearest of its path."""
    length = (pieces.dx.square() + pieces.dy.square()).sqrt().clamp(min=1e-12)
    ux, uy = pieces.dx / length, pieces.dy / length
    cosine = ux[1:] * ux[:-1] + uy[1:] * uy[:-1]
    turn = ((1 - cosine) / 2).clamp(min=0).sqrt() + 0.01
    turn = torch.where(path[1:] == path[:-1], turn, 1)  # (Q - 1,)
    ends = turn.new_ones(1)
    return radius * torch.cat([ends, turn]) + 0.05, radius * torch.cat([turn, ends]) + 0.05


@dataclass(frozen=True)
class StrokeFragments:
    """F pixels touched by strokes, each once per path, sorted by pixel and then by path.

    Attributes:
        pixel, path, cubic: (F,) int64 row * width + column; the path; the cubic that is nearest.
        t: (F,) parameter of the nearest point.
        nx, ny: (F,) unit vector from there to the pixel's centre.
        cover: what the stroke covers of the pixel.
    """

    pixel: Tensor
    path: Tensor
    cubic: Tensor
    t: Tensor
    nx: Tensor
    ny: Tensor
    cover: Coverage

    def backward(self, grad: Tensor, controls: Tensor, half_widths: Tensor) -> None:
        """Adds to `controls` (8, S) and `half_widths` (N,) what the gradient `grad` (F,) by the
        cover means for them."""
        add_at(half_widths, self.path, grad * self.cover.by_width)
        grad = -grad * self.cover.by_distance
        gx, gy = grad * self.nx, grad * self.ny
        for k, weight in enumerate(bernstein(self.t)):
            add_at(controls[2 * k], self.cubic, weight * gx)
            add_at(controls[2 * k + 1], self.cubic, weight * gy)


def stroke_fragments(
    cubics: Tensor, path: Tensor, half_widths: Tensor, pieces: Pieces, spans: Spans, width: int
) -> StrokeFragments:
    """What the spans of some rows cover. `path` (S,) tells whose the `cubics` (S, 4, 2) are."""
    pixel, piece, t = nearest_pieces(path, pieces, spans, width)
    cubic = pieces.cubic.index_select(0, piece)
    owner = path.index_select(0, cubic)
    row = torch.div(pixel, width, rounding_mode="floor")
    controls = cubics.reshape(-1, 8).T.index_select(1, cubic)  # (8, F)
    x = (pixel - row * width) + 0.5 - controls[0]
    y = row + 0.5 - controls[1]
    near = nearest_points(controls, x, y, t)
    cover = stroke_coverage(near, half_widths.index_select(0, owner))
    return StrokeFragments(pixel, owner, cubic, near.t, near.nx, near.ny, cover)


def nearest_pieces(
    path: Tensor, pieces: Pieces, spans: Spans, width: int
) -> tuple[Tensor, Tensor, Tensor]:
    """For every (pixel, path) the nearest chord, and the curve's parameter nearest on it."""
    piece = spans.piece
    dx, dy, t0, dt = (v.index_select(0, piece) for v in (pieces.dx, pieces.dy, pieces.t, pieces.dt))
    x = spans.column + 0.5 - pieces.ax.index_select(0, piece)
    y = spans.row + 0.5 - pieces.ay.index_select(0, piece)
    tiny = torch.finfo(x.dtype).tiny
    scale = (dx * dx + dy * dy).clamp(min=tiny).reciprocal()
    start = (x * dx + y * dy) * scale  # position along the chord at the span's first pixel

    span, place = ragged(spans.count)
    nth = place.to(x.dtype)
    x, y, dx, dy, start, slope = (
        v.index_select(0, span) for v in (x, y, dx, dy, start, dx * scale)
    )
    s = torch.addcmul(start, nth, slope).clamp_(0, 1)  # (pairs,)
    squared = (x + nth - s * dx).square() + (y - s * dy).square()
    # Small keys are sorted faster: pixels are counted from the first row of these spans.
    first_pixel = spans.row.min() * width if len(spans.row) else 0
    base = (spans.row * width + spans.column - first_pixel).int()
    key, order = (base.index_select(0, span) + place.int()).sort(stable=True)

    span, squared = span.index_select(0, order), squared.index_select(0, order)
    owner = path.index_select(0, pieces.cubic.index_select(0, piece)).int().index_select(0, span)
    new = torch.ones(len(key), dtype=torch.bool, device=key.device)
    torch.logical_or(key[1:] != key[:-1], owner[1:] != owner[:-1], out=new[1:])
    group = new.cumsum(0)
    best = first_of_smallest(squared, group - 1, int(group[-1]) if len(group) else 0)
    pair, span = order.index_select(0, best), span.index_select(0, best)
    t = t0.index_select(0, span) + s.index_select(0, pair) * dt.index_select(0, span)
    return key.index_select(0, best) + first_pixel, piece.index_select(0, span), t


def first_of_smallest(values: Tensor, group: Tensor, groups: int) -> Tensor:
    """(groups,) place of the smallest of the values >= 0 of each group, the first of equals."""
    # Floats >= 0 are ordered as their bits are, and the least integer is found much faster.
    bits = values.float().view(torch.int32)
    most = torch.iinfo(torch.int32).max
    least = bits.new_full((groups,), most).scatter_reduce_(0, group, bits, "amin")
    place = torch.arange(len(bits), dtype=torch.int32, device=bits.device)
    place += (bits > least.index_select(0, group)).int() * len(bits)
    return place.new_full((groups,), most).scatter_reduce_(0, group, place, "amin")


@dataclass(frozen=True)
class NearestPoints:
    """Where on their curve F points have their nearest point.

    Attributes:
        t: (F,) the curve's parameter there. distance: (F,) in pixels.
        nx, ny: (F,) unit vector from there to the point; across the curve where it has no length.
        bend: (F,) curvature of the curve as seen in that direction, in 1 / pixels: positive where
            the curve bends towards the point; 0 at its ends.
        ends: (F,) 1 where the nearest point is an end of the curve, else 0.
    """

    t: Tensor
    distance: Tensor
    nx: Tensor
    ny: Tensor
    bend: Tensor
    ends: Tensor


def nearest_points(controls: Tensor, x: Tensor, y: Tensor, t: Tensor) -> NearestPoints:
    """One Newton step towards the nearest points of cubics.

    Args:
        controls: (8, F) x0, y0, ..., x3, y3. x, y: (F,) points relative to (x0, y0).
        t: (F,) good guesses.
    """
    x0, y0, x1, y1, x2, y2, x3, y3 = controls.unbind()
    bx, by = 3 * (x1 - x0), 3 * (y1 - y0)
    cx, cy = 3 * (x2 - x1) - bx, 3 * (y2 - y1) - by
    ex, ey = x3 - x0 - bx - cx, y3 - y0 - by - cy
    tiny = torch.finfo(x.dtype).tiny
    curve_x, curve_y = (-ex, -cx, -bx, x), (-ey, -cy, -by, y)  # from the curve to the point
    velocity_x, velocity_y = (3 * ex, 2 * cx, bx), (3 * ey, 2 * cy, by)
    force_x, force_y = (6 * ex, 2 * cx), (6 * ey, 2 * cy)

    gx, gy = _polynomial(t, *curve_x), _polynomial(t, *curve_y)
    vx, vy = _polynomial(t, *velocity_x), _polynomial(t, *velocity_y)
    wx, wy = _polynomial(t, *force_x), _polynomial(t, *force_y)
    squared = _dot(vx, vy, vx, vy)
    # Near the centre of curvature the second derivative vanishes and Newton would run away.
    slope = torch.maximum(squared - _dot(gx, gy, wx, wy), 0.25 * squared).clamp_(min=tiny)
    t = (t + _dot(gx, gy, vx, vy) / slope).clamp_(0, 1)

    gx, gy = _polynomial(t, *curve_x), _polynomial(t, *curve_y)
    vx, vy = _polynomial(t, *velocity_x), _polynomial(t, *velocity_y)
    wx, wy = _polynomial(t, *force_x), _polynomial(t, *force_y)
    inverse = _dot(vx, vy, vx, vy).clamp_(min=1e-12).rsqrt_()  # of the speed, 0 at cusps
    vx, vy = vx * inverse, vy * inverse
    # Between the ends what is left along the curve is Newton's error: the distance is across.
    inner = ((t > 0) & (t < 1)).to(t.dtype)
    along = _dot(gx, gy, vx, vy) * inner
    gx, gy = torch.addcmul(gx, along, vx, value=-1), torch.addcmul(gy, along, vy, value=-1)
    distance = _dot(gx, gy, gx, gy).sqrt_()
    # On the curve itself the normal is the tangent's; elsewhere this tips it by nothing.
    nx, ny = torch.add(gx, vy, alpha=-1e-5), torch.add(gy, vx, alpha=1e-5)
    norm = _dot(nx, ny, nx, ny).clamp_(min=1e-18).rsqrt_()
    nx, ny = nx * norm, ny * norm
    bend = inner * _dot(wx, wy, nx, ny) * inverse * inverse
    return NearestPoints(t, distance, nx, ny, bend, 1 - inner)


def _polynomial(t: Tensor, highest: Tensor, *lower: Tensor) -> Tensor:
    value = highest
    for coefficient in lower:
        value = torch.addcmul(coefficient, value, t)
    return value


def _dot(ax: Tensor, ay: Tensor, bx: Tensor, by: Tensor) -> Tensor:
    return torch.addcmul(ax * bx, ay, by)


def half_plane(z: Tensor, nx: Tensor, ny: Tensor) -> tuple[Tensor, Tensor]:
    """The part of a unit square between two parallel lines with the unit normal (nx, ny): one
    through its centre, and one, the edge, at the distance z >= 0 from it.

    Returns:
        (F,) the area, in [0, 0.5], and the length of the edge within the square.
    """
    high = torch.maximum(nx.abs(), ny.abs()).clamp(min=0.5)  # a unit vector's is at least 0.7
    low = torch.minimum(nx.abs(), ny.abs()).clamp(min=1e-6)
    flat = (high - low) / 2  # up to here the edge crosses two opposite sides, then a corner
    v = ((z - flat) / low).clamp(0, 1)
    area = (torch.minimum(z, flat) + low * v * (1 - v / 2)) / high
    return area, (1 - v) / high


@dataclass(frozen=True)
class Coverage:
    """Of F pixels, by a stroke.

    Attributes:
        area: (F,) share that is covered, in [0, 1].
        by_distance, by_width: (F,) its derivatives by the distance from the stroke's centre line
            and by the half width, in 1 / pixels.
    """

    area: Tensor
    by_distance: Tensor
    by_width: Tensor


def stroke_coverage(near: NearestPoints, half_width: Tensor) -> Coverage:
    """Area between both edges of a stroke, each taken as straight within a pixel.

    The nearer edge is moved by what its curvature takes off the mean pixel: a disc of radius r has
    1 / (24 r) less on a unit of its edge than the tangents.
    """
    shrink = (1 - half_width * near.bend).clamp(min=0.2)  # a pixel of edge is 1 / shrink of curve
    curvature = (near.ends / half_width - near.bend / shrink).clamp(-MOST_CURVED, MOST_CURVED)
    inner = half_width - near.distance - curvature / 24
    area, length = half_plane(inner.abs(), near.nx, near.ny)
    far_area, far_length = half_plane(half_width + near.distance, near.nx, near.ny)
    widening = 1 + curvature.square() / 24 * (curvature.abs() < MOST_CURVED)
    return Coverage(
        (area * inner.sign() + far_area).clamp(0, 1),
        far_length - length,
        far_length + length * widening,
    )
