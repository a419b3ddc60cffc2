"""Several outlines that are filled together, as the one closed path that `Strokes` can hold.

A ring is two outlines; filled one by one, its hole would be lost. So outlines are strung on bridges:
straight lines that are walked there and back, which encloses nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Points = npt.NDArray[np.float64]
MAX_UNRAVELLED = 512  # outlines whose nesting is worked out; it takes the square of their number


def overlap(outlines: Sequence[Points]) -> bool:
    """Whether the boxes of any two outlines meet, (L, 2) control points each."""
    low = np.array([points.min(0) for points in outlines])  # (n, 2)
    high = np.array([points.max(0) for points in outlines])
    meet = ((low[:, None] <= high) & (low <= high[:, None])).all(-1)  # (n, n)
    return int(meet.sum()) > len(outlines)


def join(outlines: Sequence[Points], *, even_odd: bool) -> Points:
    """One closed path that the non-zero rule fills like all these together.

    Args:
        outlines: (3n, 2) control points of closed paths.
        even_odd: the rule that they are meant for. It is carried over by turning every second one
            of nested outlines round, so outlines must not cross themselves or each other for it;
            more than `MAX_UNRAVELLED` stay as they are.

    Returns:
        (3m, 2) control points.
    """
    if even_odd and len(outlines) <= MAX_UNRAVELLED:
        outlines = _alternating(outlines)
    first, *others = outlines
    start = first[:1]  # (1, 2), where all bridges begin
    pieces = [first]
    for other in others:
        pieces += [_bridge(start, other[:1]), other, _bridge(other[:1], start)]
    return np.concatenate(pieces)


def _bridge(start: Points, end: Points) -> Points:
    """A straight segment without its end."""
    return np.concatenate([start, start + (end - start) / 3, end + (start - end) / 3])


def _alternating(outlines: Sequence[Points]) -> list[Points]:
    """Outermost outlines turn one way, those directly within them the other way, and so on."""
    polygons = [_polygon(points) for points in outlines]
    starts = np.array([points[0] for points in outlines])  # (n, 2)
    depth = sum(_inside(polygon, starts).astype(int) for polygon in polygons)
    depth -= np.array([_inside(p, p[:1])[0] for p in polygons]).astype(int)  # not in itself
    return [
        points if (_area(polygon) > 0) == (level % 2 == 0) else _turned(points)
        for points, polygon, level in zip(outlines, polygons, depth)
    ]


def _polygon(points: Points) -> Points:
    """(3n, 2) control points -> (4n, 2) places on the curve."""
    corners = np.concatenate([points, points[:1]])
    cubics = np.stack([corners[k : len(points) + k : 3] for k in range(4)], axis=1)  # (n, 4, 2)
    t = np.arange(4) / 4
    basis = np.stack([(1 - t) ** 3, 3 * (1 - t) ** 2 * t, 3 * (1 - t) * t**2, t**3], axis=1)
    places: Points = (basis @ cubics).reshape(-1, 2)
    return places


def _inside(polygon: Points, places: Points) -> npt.NDArray[np.bool_]:
    """(k,) whether a ray from each of (k, 2) places to the right crosses it an odd number of times."""
    a, b = polygon, np.roll(polygon, -1, axis=0)  # (m, 2)
    x, y = places[:, :1], places[:, 1:]  # (k, 1)
    passes = (a[:, 1] > y) != (b[:, 1] > y)  # (k, m)
    rise = np.where(a[:, 1] == b[:, 1], 1.0, b[:, 1] - a[:, 1])
    right = x < a[:, 0] + (y - a[:, 1]) / rise * (b[:, 0] - a[:, 0])
    odd: npt.NDArray[np.bool_] = (passes & right).sum(1) % 2 == 1
    return odd


def _area(polygon: Points) -> float:
    x, y = polygon.T
    return float((x * np.roll(y, -1) - np.roll(x, -1) * y).sum()) / 2


def _turned(points: Points) -> Points:
    """The same closed path walked backwards."""
    return np.concatenate([points[:1], points[:0:-1]])
