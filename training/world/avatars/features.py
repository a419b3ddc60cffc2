"""Paints eyes, brows, nose and mouth of an avatar."""

import skia

from training.world.avatars.colours import EYES, darker, lighter, mix, scale
from training.world.avatars.geometry import CX, EYE_Y, NOSE_Y, ellipse, line, ramp
from training.world.avatars.pens import WHITE, argb, flat, glow, linear, pen, radial, trace
from training.world.avatars.scene import Scene


def eyes(s: Scene) -> None:
    for side in (-1, 1):
        _eye(s, CX + side * s.face.eye_x, side)


def _eye(s: Scene, x: float, side: int) -> None:
    canvas, look = s.canvas, s.look
    size = 0.78 + 0.44 * look.eye_size
    rx, opening = 7.0 * size, look.eye_open
    up, down = (8.6 * opening - 1.6) * size, (3.4 + 1.2 * opening) * size
    left, right, y = x - rx, x + rx, EYE_Y + 1.5
    ball = skia.Path()
    ball.moveTo(left, y)
    ball.cubicTo(left + 0.35 * rx, y - up * 1.25, right - 0.35 * rx, y - up * 1.25, right, y)
    ball.cubicTo(right - 0.4 * rx, y + down, left + 0.4 * rx, y + down, left, y)
    ball.close()
    if up > -down * 0.8:
        glow(canvas, x, y - 1, rx * 1.5, s.shade, 0.35)
    with skia.AutoCanvasRestore(canvas):
        canvas.clipPath(ball, doAntiAlias=True)
        canvas.drawPath(ball, flat((0.985, 0.98, 0.965)))
        _iris(s, x, y, size)
        top = line(
            (left - 1, y),
            (left + 0.35 * rx, y - up * 1.25),
            (right - 0.35 * rx, y - up * 1.25),
            (right + 1, y),
        )
        canvas.drawPath(top, pen((0.25, 0.16, 0.22), 3.0 * size, 0.30, 1.0))
    lash = mix(darker(s.natural, 0.55), (0.10, 0.06, 0.07), 0.7)
    lid = line(
        (left - 0.3, y + 0.2),
        (left + 0.35 * rx, y - up * 1.25),
        (right - 0.35 * rx, y - up * 1.25),
        (right + 0.3, y + 0.2),
    )
    canvas.drawPath(lid, pen(lash, 1.7))
    outer = x + side * rx
    canvas.drawPath(line((outer, y), (outer + side * 1.5, y - 0.5 - up * 0.10)), pen(lash, 1.2))
    low = line(
        (left + 0.8, y + 0.5),
        (left + 0.4 * rx, y + down),
        (right - 0.4 * rx, y + down),
        (right - 0.8, y + 0.5),
    )
    canvas.drawPath(low, pen(s.shade, 0.9, 0.6))
    crease = line(
        (left + 1, y - up * 0.55 - 1.8),
        (x - 0.3 * rx, y - up * 1.2 - 3.0),
        (x + 0.3 * rx, y - up * 1.2 - 3.0),
        (right - 1, y - up * 0.55 - 1.8),
    )
    canvas.drawPath(crease, pen(s.shade, 1.0, 0.7))


def _iris(s: Scene, x: float, y: float, size: float) -> None:
    canvas, look = s.canvas, s.look
    colour = scale(EYES, look.eye_colour)
    r = 4.35 * size
    ix = x + 6.4 * size * (look.gaze_x - 0.5)
    iy = y - 0.9 * size - 4.0 * size * (look.gaze_y - 0.5)
    stops = [
        (0.0, argb(lighter(colour, 0.38))),
        (0.55, argb(colour)),
        (0.86, argb(darker(colour, 0.35))),
        (1.0, argb(darker(colour, 0.75))),
    ]
    canvas.drawCircle(ix, iy, r, radial((ix, iy + 0.35 * r), 1.25 * r, stops))
    canvas.drawCircle(ix, iy, 0.50 * r, flat((0.05, 0.03, 0.05)))
    canvas.drawCircle(ix + 0.34 * r * s.gleam, iy - 0.36 * r, 0.27 * r, flat(WHITE, 0.97))
    canvas.drawCircle(ix - 0.30 * r, iy + 0.42 * r, 0.14 * r, flat(WHITE, 0.65))


def brows(s: Scene) -> None:
    look, face = s.look, s.face
    colour = mix(darker(s.hair, 0.35), (0.20, 0.12, 0.10), 0.25)
    y = 53.2 - 6.5 * (look.brow_height - 0.5)
    thick = 1.1 + 2.6 * look.brow_weight
    turn = 8.5 * (look.brow_angle - 0.5)  # positive: inner ends down
    for side in (-1, 1):
        inner, outer = CX + side * (face.eye_x - 7.2), CX + side * (face.eye_x + 8.6)
        y_in, y_out = y + turn, y + 1.6 - 0.55 * turn
        middle = CX + side * (face.eye_x + 1.2)
        arch = min(y_in, y_out) - 0.8 - 1.2 * (1 - abs(2 * look.brow_angle - 1))
        path = skia.Path()
        path.moveTo(inner, y_in + 0.5 * thick)
        path.cubicTo(
            inner - side * 0.6,
            y_in - 0.5 * thick,
            inner,
            y_in - 0.6 * thick,
            inner + side * 0.6,
            y_in - 0.6 * thick,
        )
        path.quadTo(middle, arch - 0.7 * thick, outer, y_out)
        path.quadTo(middle, arch + 0.75 * thick, inner, y_in + 0.5 * thick)
        path.close()
        s.canvas.drawPath(path, flat(colour, 0.94))


def nose(s: Scene) -> None:
    canvas, sun = s.canvas, s.sun
    n = 0.64 + 0.86 * s.look.nose_size
    half, y = 4.4 * n, NOSE_Y - 0.6
    glow(canvas, CX - 3.2 * n * sun, y - 3, 7.5 * n, s.shade, 0.42 * min(1.0, 0.35 + abs(sun)))
    glow(canvas, CX, y - 0.5, 5.2 * n, mix(s.shade, (0.9, 0.4, 0.35), 0.5), 0.25)
    under = line(
        (CX - half, y - 0.8),
        (CX - half * 0.6, y + 2.2 * n),
        (CX + half * 0.6, y + 2.2 * n),
        (CX + half, y - 0.8),
    )
    canvas.drawPath(under, pen(s.shade, 1.3 + 0.25 * n, 0.95))
    glow(canvas, CX + 1.2 * sun, y - 3.4 * n, 3.1 * n, s.shine, 0.75)
    bridge = line((CX + 0.8 * sun, 58), (CX + 1.0 * sun, y - 4 * n))
    canvas.drawPath(bridge, pen(s.shine, 1.6, 0.30, 0.9))


def mouth(s: Scene) -> None:
    canvas, look = s.canvas, s.look
    half, corner, upper, lower, thick = s.face.mouth
    left, right = CX - half, CX + half
    natural = mix(mix(s.skin, (0.74, 0.24, 0.26), 0.48), s.shade, 0.22)
    lip = mix(natural, (0.80, 0.07, 0.17), look.lipstick)
    glow(canvas, CX, max(lower, upper) + 3.5, 7.0, s.shade, 0.30)

    lips = skia.Path()
    lips.moveTo(left - 0.6, corner)
    lips.cubicTo(
        CX - half * 0.5,
        upper - thick - 0.3,
        CX - half * 0.25,
        upper - thick * 1.7,
        CX,
        upper - thick * 1.1,
    )
    lips.cubicTo(
        CX + half * 0.25,
        upper - thick * 1.7,
        CX + half * 0.5,
        upper - thick - 0.3,
        right + 0.6,
        corner,
    )
    lips.cubicTo(
        CX + half * 0.6,
        lower + thick * 1.9,
        CX - half * 0.6,
        lower + thick * 1.9,
        left - 0.6,
        corner,
    )
    lips.close()
    canvas.drawPath(
        lips,
        linear(
            (CX, upper - 3),
            (CX, lower + 3),
            [(0.0, argb(darker(lip, 0.16))), (1.0, argb(lighter(lip, 0.10)))],
        ),
    )

    inside = skia.Path()
    inside.moveTo(left, corner)
    inside.cubicTo(CX - half * 0.55, upper, CX + half * 0.55, upper, right, corner)
    inside.cubicTo(CX + half * 0.6, lower, CX - half * 0.6, lower, left, corner)
    inside.close()
    canvas.drawPath(inside, flat((0.33, 0.06, 0.09)))
    with skia.AutoCanvasRestore(canvas):
        canvas.clipPath(inside, doAntiAlias=True)
        canvas.drawPath(ellipse(CX, lower + 1.2, half * 0.62, 5.0), flat((0.85, 0.36, 0.38)))
        teeth = line(
            (left - 1, corner),
            (CX - half * 0.55, upper + 0.4),
            (CX + half * 0.55, upper + 0.4),
            (right + 1, corner),
        )
        show = 5.4 * ramp(look.mouth_open, 0.1, 1.0) + 0.01
        trace(canvas, teeth, (0.98, 0.97, 0.94), show, 1.0)
    seam = line(
        (left - 0.4, corner),
        (CX - half * 0.55, upper),
        (CX + half * 0.55, upper),
        (right + 0.4, corner),
    )
    canvas.drawPath(seam, pen(darker(lip, 0.60), 1.25, 0.95))
    shine = line(
        (CX - half * 0.3, lower + thick * 0.9 - 0.3),
        (CX, lower + thick * 1.1 - 0.4),
        (CX + half * 0.3, lower + thick * 0.9 - 0.3),
    )
    canvas.drawPath(shine, pen(WHITE, 0.9, 0.18 + 0.25 * look.lipstick, 0.4))
    for side in (-1, 1):
        dimple = line(
            (CX + side * (half + 0.6), corner - 1.6),
            (CX + side * (half + 1.7), corner),
            (CX + side * (half + 0.7), corner + 1.4),
        )
        canvas.drawPath(dimple, pen(s.shade, 1.0, 0.65))
