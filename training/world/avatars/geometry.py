"""Shapes of an avatar: every outline as a skia path, computed from a `Look`.

Coordinates are (x, y) on a 128 x 128 drawing, y down, before the head is tilted; the face is
centred at x = 64. All shapes are continuous in every attribute.
"""

import math
from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np
import skia
from numpy.typing import NDArray

from training.world.avatars.attributes import Look

CX = 64.0
EYE_Y, NOSE_Y, MOUTH_Y, CHIN_Y = 61.0, 73.0, 82.0, 98.0
DOME_Y = 57.0  # height of the widest point of head and hair
PIVOT = (CX, 86.0)  # the head tilts around it
Point = tuple[float, float]


def ramp(t: float, start: float, end: float) -> float:
    """Smooth step: 0 up to `start`, 1 from `end`."""
    u = min(max((t - start) / (end - start), 0.0), 1.0)
    return u * u * (3 - 2 * u)


def polygon(points: Sequence[Point] | NDArray[np.float64]) -> skia.Path:
    """Closed path through densely sampled points (N, 2)."""
    path = skia.Path()
    path.addPoly([skia.Point(x, y) for x, y in np.asarray(points).tolist()], True)
    return path


def line(*points: Point) -> skia.Path:
    """Open curve: two points make a line, three a quadratic, four a cubic Bezier."""
    path = skia.Path()
    path.moveTo(*points[0])
    draw: Callable[..., object] = {2: path.lineTo, 3: path.quadTo, 4: path.cubicTo}[len(points)]
    draw(*(value for point in points[1:] for value in point))
    return path


def mirror(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Reflect at the vertical axis of the face and reverse, (N, 2) -> (N, 2)."""
    return np.stack([2 * CX - points[:, 0], points[:, 1]], axis=1)[::-1]


def ellipse(x: float, y: float, rx: float, ry: float) -> skia.Path:
    path = skia.Path()
    path.addOval(skia.Rect.MakeLTRB(x - rx, y - ry, x + rx, y + ry))
    return path


class Face:
    """All shapes of one look, each computed when first asked for.

    Args:
        look: the attributes, each in [0, 1].
    """

    def __init__(self, look: Look):
        self.look = look
        self.width = 24.5 + 7.5 * look.face_width  # half, at the cheeks
        self.hat_on = ramp(look.hat, 0.15, 0.85)
        self.tilt = 24.0 * (look.head_tilt - 0.5)  # degrees, positive leans to the right
        # hair: nothing at length 0, cropped at 0.15, full volume from 0.4
        thickness = ramp(look.hair_length, 0.0, 0.4) * (0.45 + 0.55 * look.hair_volume)
        squash = 1 - 0.75 * self.hat_on  # under a hat
        self.hair_side = 1.0 + thickness * (4.0 + 4.0 * look.hair_curl)
        self.hair_top = 0.5 + thickness * (5.5 + 6.0 * look.hair_curl) * squash
        self.hair_end = 52 + 84 * look.hair_length**1.15  # y of the tips at the sides
        self.hair_shown = ramp(look.hair_length, 0.02, 0.12)

    @property
    def jaw_x(self) -> float:
        """Half width of the face at the corner of the jaw."""
        return self.width * (0.65 + 0.27 * self.look.jaw)

    @cached_property
    def head(self) -> skia.Path:
        """The face without ears and hair."""
        w, jaw = self.width, self.look.jaw
        jx, jy = self.jaw_x, 82 + 1.5 * jaw
        chin = w * (0.20 + 0.42 * jaw)
        slope = 0.50 - 0.28 * jaw  # inwards per unit down, at the jaw

        path = skia.Path()
        path.moveTo(CX, 27)
        path.cubicTo(CX + 0.62 * w, 27, CX + w, 38, CX + w, DOME_Y)
        path.cubicTo(CX + w, 66, CX + jx + 9 * slope, jy - 9, CX + jx, jy)
        path.cubicTo(CX + jx - 8 * slope, jy + 8, CX + chin, CHIN_Y, CX, CHIN_Y)
        path.cubicTo(CX - chin, CHIN_Y, CX - jx + 8 * slope, jy + 8, CX - jx, jy)
        path.cubicTo(CX - jx - 9 * slope, jy - 9, CX - w, 66, CX - w, DOME_Y)
        path.cubicTo(CX - w, 38, CX - 0.62 * w, 27, CX, 27)
        path.close()
        return path

    def ear(self, side: int) -> skia.Path:
        """`side` is -1 for the left of the picture, 1 for the right."""
        x = CX + side * self.width
        path = skia.Path()
        path.moveTo(x - side * 3, 55)
        path.cubicTo(x + side * 5, 50, x + side * 8, 58, x + side * 4.5, 65)
        path.cubicTo(x + side * 3, 70, x - side * 1, 72, x - side * 3, 68)
        path.close()
        return path

    # hair

    def _hair_edge(self, end: float) -> NDArray[np.float64]:
        """Right outer edge of the hair from the crown down to y = `end`, (N, 2)."""
        rx = self.width + self.hair_side
        ry = DOME_Y - 27 + self.hair_top
        angle = np.linspace(0, math.pi / 2, 44)
        dome = np.stack([np.sin(angle) ** 0.92 * rx, -np.cos(angle) * ry], axis=1)
        normal = np.stack([np.sin(angle), -np.cos(angle)], axis=1)

        fall = np.linspace(0, 1, 40)[1:]
        length = max(end - DOME_Y, 0.0)
        flare = 1 + 0.10 * ramp(length, 10, 70) * np.sin(fall * 2.4)
        taper = 1 - 0.42 * fall**5
        side = np.stack([rx * flare * taper, fall * length], axis=1)
        edge = np.concatenate([dome, side])
        normal = np.concatenate([normal, np.tile([1.0, 0.0], (len(side), 1))])

        step = np.linalg.norm(np.diff(edge, axis=0), axis=1)
        way = np.concatenate([[0.0], np.cumsum(step)])  # arc length from the crown, in pixels
        curl = self.look.hair_curl**1.4 * min(1.0, self.hair_side / 4)
        top = 1 - 0.75 * self.hat_on * (edge[:, 1] < 0) * np.clip(-edge[:, 1] / 14, 0, 1)
        bump = (np.abs(np.sin(way * math.pi / 9.5 + 0.8)) - 0.5) * 4.6 * curl * top
        edge = edge + normal * bump[:, None]
        edge[0, 0] = 0.0  # the two halves meet at the crown
        return edge + np.array([CX, DOME_Y])

    @cached_property
    def hair_back(self) -> skia.Path:
        """Hair behind head and neck."""
        right = self._hair_edge(self.hair_end)
        return polygon(np.concatenate([right, mirror(right)]))

    @cached_property
    def hair_locks(self) -> skia.Path:
        """Hair that falls over the shoulders, left and right of the neck."""
        outer = self._hair_edge(self.hair_end)[36:]
        end = max(self.hair_end, DOME_Y)
        y = np.linspace(end, DOME_Y - 6, 24)
        fall = (y - DOME_Y) / max(end - DOME_Y, 1.0)
        narrow = self.width * (0.86 - 0.30 * np.clip(fall, 0, 1) ** 0.8)
        wave = 1.2 * self.look.hair_curl * np.sin(y * 0.55)
        tip = outer[-1, 0] - CX  # inner edge runs into the outer edge at the tip
        close = np.clip(fall, 0, 1) ** 8
        inner = np.stack([CX + (narrow + wave) * (1 - close) + (tip - 2) * close, y], axis=1)
        half = np.concatenate([outer, inner])
        path = polygon(half)
        path.addPath(polygon(mirror(half)))
        return path

    def hairline(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """Lower edge of the hair on the forehead at horizontal offsets `x` (N,) from the axis."""
        look, w = self.look, self.width
        part = (look.parting - 0.5) * 1.25 * w
        recede = 9 * (1 - ramp(look.hair_length, 0.0, 0.25))
        base = 37.0 + 12.0 * look.fringe - recede
        lift = (5.5 - 3.0 * look.fringe) * np.exp(-(((x - part) / (0.32 * w)) ** 2))
        sweep = (5.0 - 1.5 * look.fringe) * (np.abs(x - 0.35 * part) / w) ** 2
        locks = np.abs(np.sin((x - part) * math.pi / 8.5)) - 0.5
        shape = (0.6 + 1.5 * look.fringe + 1.4 * look.hair_curl) * locks
        return base - lift + sweep + shape * ramp(look.hair_length, 0.1, 0.35)

    @cached_property
    def hair_front(self) -> skia.Path:
        """Hair on the skull: from the outer edge to the hairline, down to the sideburns."""
        look, w = self.look, self.width
        burn = 60 + 8 * ramp(look.hair_length, 0.2, 0.55)
        edge = self._hair_edge(burn)
        x = np.linspace(0.84 * w, -0.84 * w, 72)
        front = np.stack([CX + x, self.hairline(x)], axis=1)
        inset = w - 0.6 - 2.4 * ramp(look.hair_length, 0.1, 0.4)
        right = self._sideburn(front[0], np.array([CX + inset, burn]))
        left = mirror(self._sideburn(mirror(front[-1:])[0], np.array([CX + inset, burn])))
        return polygon(np.concatenate([edge, right, front, left, mirror(edge)]))

    def _sideburn(
        self, temple: NDArray[np.float64], foot: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Inner edge on the right, a quadratic from `foot` up to `temple`, (N, 2)."""
        bend = np.array([CX + self.width - 4.5, 0.55 * temple[1] + 0.45 * foot[1]])
        t = np.linspace(0, 1, 14)[:, None]
        return (1 - t) ** 2 * foot + 2 * t * (1 - t) * bend + t**2 * temple

    # what is worn

    def lens(self, side: int) -> skia.Path:
        """Outline of one lens, a superellipse between a circle and a rounded rectangle."""
        shape = self.look.glasses_shape
        power = 2.0 + 3.2 * shape**1.5
        rx, ry = 9.6 + 0.9 * shape, 9.4 - 1.6 * shape
        angle = np.linspace(0, 2 * math.pi, 64, endpoint=False)
        c, s = np.cos(angle), np.sin(angle)
        x = np.sign(c) * np.abs(c) ** (2 / power) * rx
        y = np.sign(s) * np.abs(s) ** (2 / power) * ry
        return polygon(np.stack([CX + side * self.eye_x + x, EYE_Y + 1 + y], axis=1))

    @cached_property
    def glasses_wire(self) -> skia.Path:
        """Bridge and temples of the glasses, open curves."""
        half = 9.6 + 0.9 * self.look.glasses_shape
        inner, outer = self.eye_x - half, self.eye_x + half
        path = line((CX - inner, EYE_Y), (CX, EYE_Y - 4), (CX + inner, EYE_Y))
        for side in (-1, 1):
            path.addPath(
                line((CX + side * outer, EYE_Y - 2), (CX + side * (self.width + 1.5), EYE_Y - 4))
            )
        return path

    @property
    def frame_width(self) -> float:
        """Thickness of the frame of the glasses."""
        return 0.6 + 1.7 * ramp(self.look.glasses, 0.2, 1.0)

    @property
    def eye_x(self) -> float:
        """Distance of the eyes from the axis."""
        return 0.43 * self.width

    @property
    def hat_drop(self) -> float:
        """How far above its seat the hat floats while it comes on, pixels."""
        return -12.0 * (1 - self.hat_on)

    @property
    def hat_radius(self) -> float:
        return self.width + 2.5 + 0.35 * self.hair_side

    @cached_property
    def hat_dome(self) -> skia.Path:
        r, seat = self.hat_radius, 45.0
        brim = ramp(self.look.hat_brim, 0.3, 0.65)
        top = 13.0 + 1.0 * brim
        path = skia.Path()
        path.moveTo(CX - r, seat)
        shoulder = 8 + 8 * brim  # a brimmed hat has a flatter crown
        path.cubicTo(
            CX - r - 1 + 3 * brim, seat - 18, CX - r * 0.62, top + 8 - shoulder / 2, CX, top
        )
        path.cubicTo(
            CX + r * 0.62, top + 8 - shoulder / 2, CX + r + 1 - 3 * brim, seat - 18, CX + r, seat
        )
        path.quadTo(CX, seat - 7, CX - r, seat)
        path.close()
        path.offset(0, self.hat_drop)
        return path

    @cached_property
    def hat_pom(self) -> skia.Path:
        """The ball on top of a beanie."""
        r = 5.6 * (1 - ramp(self.look.hat_brim, 0.3, 0.65)) + 0.01
        return ellipse(CX, 12.5 + self.hat_drop, r, r)

    @cached_property
    def hat_band(self) -> skia.Path:
        """Folded edge of a beanie, ribbon of a brimmed hat."""
        r, seat = self.hat_radius, 45.0
        brim = ramp(self.look.hat_brim, 0.3, 0.65)
        high, out, arch = 10.0 - 3.5 * brim, 1.2 - 1.2 * brim, 7.0
        path = skia.Path()
        path.moveTo(CX - r - out, seat + 0.5)
        path.quadTo(CX, seat - arch, CX + r + out, seat + 0.5)
        path.cubicTo(
            CX + r + out + 2.2,
            seat - 1,
            CX + r + out + 1.6,
            seat - high + 1,
            CX + r + out - 0.8,
            seat - high,
        )
        path.quadTo(CX, seat - high - arch, CX - r - out + 0.8, seat - high)
        path.cubicTo(
            CX - r - out - 1.6,
            seat - high + 1,
            CX - r - out - 2.2,
            seat - 1,
            CX - r - out,
            seat + 0.5,
        )
        path.close()
        path.offset(0, self.hat_drop)
        return path

    @cached_property
    def hat_rim(self) -> skia.Path:
        """The brim: a sickle in front of the head that widens with `hat_brim`."""
        grow = ramp(self.look.hat_brim, 0.25, 1.0)
        r, seat = self.hat_radius - 1 + 20 * grow, 44.5
        sag = 2.0 + 3.0 * grow
        path = skia.Path()
        path.moveTo(CX - r, seat + sag * 0.7)
        path.cubicTo(CX - r * 0.75, seat - 6, CX - r * 0.4, seat - 8, CX, seat - 8)
        path.cubicTo(CX + r * 0.4, seat - 8, CX + r * 0.75, seat - 6, CX + r, seat + sag * 0.7)
        path.cubicTo(CX + r * 0.8, seat + sag, CX + r * 0.5, seat - 2, CX, seat - 2)
        path.cubicTo(CX - r * 0.5, seat - 2, CX - r * 0.8, seat + sag, CX - r, seat + sag * 0.7)
        path.close()
        path.offset(0, self.hat_drop)
        return path

    def earring(self, side: int) -> skia.Path:
        grow = ramp(self.look.earrings, 0.1, 0.9)
        x = CX + side * (self.width + 2.0)
        return ellipse(x, 70.5 + 3.4 * grow, 0.1 + 3.0 * grow, 0.1 + 3.4 * grow)

    # mouth and beard

    @cached_property
    def mouth(self) -> tuple[float, float, float, float, float]:
        """Half width, y of corners, control y of upper lip, of lower lip, lip thickness."""
        look = self.look
        bend = look.smile - 0.5
        gap = ramp(look.mouth_open, 0.0, 1.0)
        half = 9.6 + 3.8 * ramp(look.smile, 0.4, 1.0) - 1.6 * gap * (1 - look.smile)
        corner = MOUTH_Y - 6.0 * bend
        upper = MOUTH_Y + 8.5 * bend - 3.5 * gap * (1 - 0.7 * look.smile)
        lower = MOUTH_Y + 8.5 * bend + (12.0 + 3.0 * abs(bend)) * gap
        return half, corner, upper, lower, 1.7 + 0.9 * look.lipstick

    @cached_property
    def beard(self) -> skia.Path:
        """From the sideburns along the cheeks, around the chin and below it."""
        w, jaw, jx = self.width, self.look.jaw, self.jaw_x
        long = ramp(self.look.beard, 0.3, 1.0)
        outer = [
            (w - 0.3, 60.0),
            (w + 0.2, 72.0),
            (jx + 2.5 * long, 83.0 + 3 * long),
            (jx * (0.62 + 0.1 * jaw), 93.5 + 8 * long),
            (0.0, CHIN_Y + 0.5 + 13 * long),
        ]
        inner = [
            (w - 1.5, 60.0),
            (w - 3.2, 66.0),
            (w - 6.5, 73.0),
            (15.5, 79.0),
            (12.5, 85.0),
            (6.5, 90.5),
            (0.0, 91.5),
        ]
        edge, rim = _arch(np.array(outer)), _arch(np.array(inner))  # both from right to left
        away = edge - [CX, 70.0]
        away = away / np.linalg.norm(away, axis=1, keepdims=True)
        step = np.linalg.norm(np.diff(edge, axis=0), axis=1)
        way = np.concatenate([[0.0], np.cumsum(step)])
        tuft = (np.abs(np.sin((way - way[-1] / 2) * math.pi / 6.0)) - 0.5) * 1.8 * long
        fade = np.sin(np.linspace(0, math.pi, len(edge)))  # no tufts on the sideburns
        return polygon(np.concatenate([edge + away * (tuft * fade)[:, None], rim[::-1]]))

    @cached_property
    def moustache(self) -> skia.Path:
        grow = ramp(self.look.moustache, 0.2, 1.0)
        half, corner, upper, _, _ = self.mouth
        reach, thick = half + 0.5 + 3.5 * grow, 1.6 + 2.4 * grow
        y = 0.5 * (NOSE_Y + 2.5) + 0.5 * (0.5 * (corner + upper) - 1.5)
        droop = 2.0 + 1.6 * grow
        path = skia.Path()
        path.moveTo(CX, y - 0.8)
        for side in (1, -1):
            path.moveTo(CX, y - 0.6)
            path.cubicTo(
                CX + side * 3.5,
                y - thick,
                CX + side * reach * 0.7,
                y - 0.6 * thick,
                CX + side * reach,
                y + droop,
            )
            path.cubicTo(
                CX + side * reach * 0.6,
                y + 0.9 * thick + 1,
                CX + side * 4,
                y + thick,
                CX,
                y + 0.35 * thick,
            )
            path.close()
        return path


def _arch(half: NDArray[np.float64], count: int = 81) -> NDArray[np.float64]:
    """Smooth symmetric curve (count, 2) from right to left.

    Args:
        half: (M, 2), offsets from the axis of the face and heights, ending on the axis.
    """
    points = half + np.array([CX, 0.0])
    points = np.concatenate([points, mirror(points)[1:]])
    # Catmull-Rom
    padded = np.concatenate([2 * points[:1] - points[1:2], points, 2 * points[-1:] - points[-2:-1]])
    at = np.linspace(0, len(points) - 1, count)
    i = np.minimum(at.astype(int), len(points) - 2)
    t = (at - i)[:, None]
    a, b, c, d = padded[i], padded[i + 1], padded[i + 2], padded[i + 3]
    return 0.5 * (
        2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3
    )
