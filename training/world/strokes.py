"""Drawings of pictures: outlines, loose pen strokes and paintings of a few brush strokes.

They teach clip-mini that a handful of strokes may be a cat, which is what an optimiser of strokes
(CLIPDraw) asks it to judge. All functions take and return straight RGBA and are deterministic.

References: Hertzmann, "Painterly Rendering with Curved Brush Strokes of Multiple Sizes"
(SIGGRAPH 1998): strokes follow the normal of the gradient, large brushes first, small ones where
the picture still differs. Kass and Witkin 1987: orientation from the smoothed structure tensor.
"""

from dataclasses import dataclass

import numpy as np
import skia
from numpy.typing import NDArray

Picture = NDArray[np.uint8]  # (H, W, 4), straight RGBA
Field = NDArray[np.float32]

_TRACE_STEPS = 12  # points of a traced path; a cubic goes through four of them


@dataclass(frozen=True)
class Brush:
    """One layer of a painting: how wide (share of the picture's side) and how many strokes."""

    width: float
    share: float


BRUSHES = (Brush(0.19, 0.28), Brush(0.10, 0.36), Brush(0.05, 0.36))  # large to small


def outline(rgba: NDArray[np.uint8], weight: float = 1.0) -> NDArray[np.uint8]:
    """Ink drawing: dark lines where colour or coverage changes.

    Args:
        rgba: (..., H, W, 4), any number of pictures at once.
        weight: thickness of the lines, 0.5 (hair lines) to 2 (marker).

    Returns:
        Same shape: lines of a dark tone of the local colour, transparent elsewhere.
    """
    straight = rgba.astype(np.float32) / 255
    seen = np.moveaxis(_premultiplied(straight), -1, 0)  # (4, ..., H, W)
    strength = np.zeros(seen.shape[1:], np.float32)
    for axis in (-2, -1):
        change = np.abs(np.diff(seen, axis=axis)).max(axis=0)
        nothing = np.zeros_like(np.take(change, [0], axis))  # no frame around a full picture
        before = np.concatenate([nothing, change], axis)
        after = np.concatenate([change, nothing], axis)
        strength += (before + after) ** 2
    strength = np.sqrt(strength)
    for _ in range(max(1, round(weight * rgba.shape[-2] / 96))):
        strength = _smooth(strength)
    strongest = np.quantile(strength, 0.98, axis=(-2, -1), keepdims=True)
    strength = strength * np.clip(
        0.6 / (strongest + 1e-6), 1.0, 2.5
    )  # faint pictures get lines too
    ink = np.clip((strength - 0.16 / weight) / 0.22, 0, 1)
    colour = _spread_colour(straight)
    tone = 0.30 * colour + 0.02
    return _as_bytes(np.concatenate([tone, ink[..., None]], axis=-1))


def loose_strokes(rgba: Picture, seed: int, count: int = 64) -> Picture:
    """Quick coloured pen strokes: open Bezier curves that run along edges and through areas.

    Args:
        rgba: (H, W, 4).
        seed: chooses the strokes.
        count: how many.

    Returns:
        (H, W, 4): slightly translucent strokes, transparent elsewhere.
    """
    rng = np.random.default_rng(seed)
    sheet = _Sheet(rgba)
    side = max(rgba.shape[:2])
    # two thirds on edges, one third through the areas they enclose
    weight = sheet.edge / (sheet.edge.sum() + 1e-6) * 2 + sheet.inside / (sheet.inside.sum() + 1e-6)
    start = sheet.pick(weight, count, rng)
    length = side * rng.uniform(0.12, 0.38, count)
    width = side * rng.uniform(0.012, 0.045, count)
    paths = sheet.trace(start, length, rng) + rng.normal(0, 0.012 * side, (count, 4, 2))
    colours = sheet.colours(start) + rng.normal(0, 0.04, (count, 3))
    alphas = rng.uniform(0.6, 1.0, count)
    canvas = _Canvas(rgba.shape[0], rgba.shape[1])
    canvas.strokes(paths, width, colours, alphas)
    return canvas.picture()


def few_stroke_painting(rgba: Picture, seed: int, count: int = 60) -> Picture:
    """Painting of a few broad opaque brush strokes, large to small, coloured from the picture.

    Args:
        rgba: (H, W, 4).
        seed: chooses the strokes.
        count: how many, 20 (a blotch) to 120 (a study).

    Returns:
        (H, W, 4): opaque strokes, transparent elsewhere.
    """
    rng = np.random.default_rng(seed)
    sheet = _Sheet(rgba)
    side = max(rgba.shape[:2])
    canvas = _Canvas(rgba.shape[0], rgba.shape[1])
    finer = (60 / max(count, 1)) ** 0.35  # many strokes are smaller strokes
    for brush in BRUSHES:
        number = max(1, round(count * brush.share))
        width = side * brush.width * finer
        room = sheet.room(round(width))
        wrong = sheet.difference(canvas.picture())
        start = sheet.pick(wrong * room**2, number, rng, apart=0.55 * width)
        length = width * rng.uniform(1.2, 3.2, number)
        paths = sheet.trace(start, length, rng, margin=0.30 * width)
        colours = sheet.colours(start) + rng.normal(0, 0.02, (number, 1))
        canvas.strokes(paths, width * rng.uniform(0.75, 1.15, number), colours, np.ones(number))
    return canvas.picture()


class _Sheet:
    """What strokes need to know about a picture: where it is, its colours, edges, directions."""

    def __init__(self, rgba: Picture):
        if rgba.ndim != 3 or rgba.shape[2] != 4 or rgba.dtype != np.uint8:
            raise ValueError(f"a picture is (H, W, 4) uint8, not {rgba.shape} {rgba.dtype}")
        straight = rgba.astype(np.float32) / 255
        self.alpha = straight[..., 3]  # (H, W)
        self.inside = (self.alpha > 0.5).astype(np.float32)
        soft = _smooth(_smooth(np.moveaxis(_premultiplied(straight), -1, 0)))  # (4, H, W)
        self.colour = np.moveaxis(soft[:3] / np.maximum(soft[3:], 1e-3), 0, -1)  # (H, W, 3)
        gy, gx = np.gradient(soft, axis=(1, 2))
        tensor = np.stack([(gx * gx).sum(0), (gy * gy).sum(0), (gx * gy).sum(0)])  # (3, H, W)
        xx, yy, xy = _smooth(_smooth(tensor))
        along = 0.5 * np.arctan2(2 * xy, xx - yy) + np.pi / 2  # at right angles to the gradient
        self.direction = np.stack([np.cos(along), np.sin(along)], axis=-1)  # (H, W, 2), x then y
        magnitude = np.sqrt(xx + yy)
        self.guide = magnitude / (magnitude + 0.03)  # how far to trust the direction, 0..1
        self.edge = magnitude * (self.alpha > 0.1)

    def pick(
        self, weight: Field, count: int, rng: np.random.Generator, apart: float = 0.0
    ) -> NDArray[np.intp]:
        """`count` pixels (count, 2) as (x, y), likelier where `weight` (H, W) is larger.

        With `apart`, a candidate too close to an earlier one is passed over while there are others.
        """
        flat = weight.ravel().astype(np.float64)
        if flat.sum() <= 0:  # nothing left to do there: anywhere inside, or anywhere at all
            flat = self.inside.ravel().astype(np.float64)
            flat = flat if flat.sum() > 0 else np.ones_like(flat)
        ranks = np.searchsorted(np.cumsum(flat) / flat.sum(), rng.random(4 * count))
        y, x = np.divmod(np.minimum(ranks, flat.size - 1), weight.shape[1])
        places = np.stack([x, y], axis=1)
        if apart > 0:
            places = _apart(places, apart, count)
        return places[:count]

    def difference(self, painted: Picture) -> Field:
        """Where a painting is still wrong, (H, W)."""
        now = painted.astype(np.float32) / 255
        wrong = np.abs(now[..., :3] - self.colour).sum(-1) / 3
        bare = now[..., 3] < 0.5
        return np.where(bare, 1.0, wrong**1.5).astype(np.float32) * self.inside

    def room(self, width: int) -> Field:
        """Share of the square of side `width` around each pixel that is inside, (H, W)."""
        r = max(1, width // 2)
        total = np.pad(np.pad(self.inside, r, mode="edge").cumsum(0).cumsum(1), ((1, 0), (1, 0)))
        d = 2 * r + 1
        return (total[d:, d:] - total[:-d, d:] - total[d:, :-d] + total[:-d, :-d]) / d**2

    def colours(self, places: NDArray[np.intp]) -> NDArray[np.float64]:
        """Colour at (N, 2) pixels, (N, 3) in [0, 1]."""
        return self.colour[places[:, 1], places[:, 0]].astype(np.float64)

    def trace(
        self,
        start: NDArray[np.intp],
        length: NDArray[np.float64],
        rng: np.random.Generator,
        margin: float = 0.0,
    ) -> NDArray[np.float64]:
        """Follow the edge direction both ways from each start.

        A path halts where it would leave the picture's ink, or where the colour turns into another.

        Args:
            start: (N, 2) pixels.
            length: (N,) pixels.
            margin: pixels to look ahead, so that a wide brush stays inside.

        Returns:
            (N, 4, 2): four points of each path, (x, y) pixels, in order.
        """
        n = len(start)
        angle = rng.uniform(0, 2 * np.pi, n)
        heading = np.stack([np.cos(angle), np.sin(angle)], axis=1)
        colour = self.colours(start)
        halves = []
        for sign in (1.0, -1.0):
            at, way = start.astype(np.float64), sign * heading
            points = [at]
            for _ in range(_TRACE_STEPS // 2):
                at, way = self._step(at, way, length / _TRACE_STEPS, colour, margin)
                points.append(at)
            halves.append(points)
        line = np.stack(halves[1][:0:-1] + halves[0], axis=1)  # (N, _TRACE_STEPS + 1, 2)
        return line[:, np.linspace(0, _TRACE_STEPS, 4).astype(int)] + 0.5

    def _step(
        self,
        at: NDArray[np.float64],
        way: NDArray[np.float64],
        step: NDArray[np.float64],
        colour: NDArray[np.float64],
        margin: float,
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        y, x = self._pixel(at)
        local = self.direction[y, x]
        local = local * np.where((local * way).sum(1, keepdims=True) < 0, -1.0, 1.0)
        trust = self.guide[y, x][:, None]
        way = way * (1 - trust) + local * trust
        way = way / np.maximum(np.linalg.norm(way, axis=1, keepdims=True), 1e-6)
        y, x = self._pixel(at + way * (step[:, None] + margin))
        same = np.abs(self.colour[y, x] - colour).max(1) < 0.30
        go = (self.inside[y, x] > 0) & same
        return at + way * step[:, None] * go[:, None], way

    def _pixel(self, at: NDArray[np.float64]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        height, width = self.inside.shape
        x = np.clip(np.rint(at[:, 0]), 0, width - 1).astype(np.intp)
        y = np.clip(np.rint(at[:, 1]), 0, height - 1).astype(np.intp)
        return y, x


class _Canvas:
    """A transparent skia surface that takes cubic strokes."""

    def __init__(self, height: int, width: int):
        self.surface = skia.Surface(width, height)
        self.surface.getCanvas().clear(0)

    def strokes(
        self,
        paths: NDArray[np.float64],
        widths: NDArray[np.float64],
        colours: NDArray[np.float64],
        alphas: NDArray[np.float64],
    ) -> None:
        """Draw cubics through `paths` (N, 4, 2), with `colours` (N, 3) and `alphas` in [0, 1]."""
        canvas = self.surface.getCanvas()
        paint = skia.Paint(
            AntiAlias=True,
            Style=skia.Paint.kStroke_Style,
            StrokeCap=skia.Paint.kRound_Cap,
            StrokeJoin=skia.Paint.kRound_Join,
        )
        a, b, c, d = np.moveaxis(paths, 1, 0)
        one = (-5 * a + 18 * b - 9 * c + 2 * d) / 6  # controls of the cubic that passes b at 1/3
        two = (2 * a - 9 * b + 18 * c - 5 * d) / 6  # and c at 2/3
        curves = np.concatenate([one, two, d], axis=1).tolist()
        tones = (
            np.rint(255 * np.clip(np.column_stack([alphas, colours]), 0, 1)).astype(int).tolist()
        )
        for begin, curve, width, tone in zip(
            a.tolist(), curves, widths.tolist(), tones, strict=True
        ):
            path = skia.Path()
            path.moveTo(*begin)
            path.cubicTo(*curve)
            paint.setColor(skia.ColorSetARGB(*tone))
            paint.setStrokeWidth(width)
            canvas.drawPath(path, paint)

    def picture(self) -> Picture:
        pixels: Picture = self.surface.toarray(colorType=skia.kRGBA_8888_ColorType)
        return pixels


def _premultiplied(straight: Field) -> Field:
    return np.concatenate([straight[..., :3] * straight[..., 3:], straight[..., 3:]], axis=-1)


def _smooth(a: Field) -> Field:
    """Binomial blur [1 2 1] / 4 along the last two axes, edges repeated."""
    for axis in (-2, -1):
        first = np.take(a, [0], axis)
        last = np.take(a, [-1], axis)
        padded = np.concatenate([first, a, last], axis)
        n = a.shape[axis]
        low, high = _slice(padded, axis, 0, n), _slice(padded, axis, 2, n + 2)
        a = 0.5 * a + 0.25 * (low + high)
    return a


def _slice(a: Field, axis: int, start: int, stop: int) -> Field:
    index = [slice(None)] * a.ndim
    index[axis] = slice(start, stop)
    return a[tuple(index)]


def _spread_colour(straight: Field) -> Field:
    """Local colour that also reaches a few pixels beyond the ink, (..., H, W, 3)."""
    soft = np.moveaxis(_premultiplied(straight), -1, 0)
    for _ in range(3):
        soft = _smooth(soft)
    return np.moveaxis(soft[:3] / np.maximum(soft[3:], 1e-3), 0, -1)


def _apart(places: NDArray[np.intp], distance: float, count: int) -> NDArray[np.intp]:
    """Reorder so that places at least `distance` from all earlier ones come first."""
    gap = np.linalg.norm(places[:, None] - places[None], axis=2) < distance  # (M, M)
    kept: list[int] = []
    late: list[int] = []
    blocked = np.zeros(len(places), bool)
    for i in range(len(places)):
        if blocked[i] or len(kept) >= count:
            late.append(i)
        else:
            kept.append(i)
            blocked |= gap[i]
    return places[kept + late]


def _as_bytes(straight: Field) -> NDArray[np.uint8]:
    return np.rint(np.clip(straight, 0, 1) * 255).astype(np.uint8)
