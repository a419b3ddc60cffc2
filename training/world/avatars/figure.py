"""Paints background, body, head and hair of an avatar."""

import numpy as np
import skia

from training.world.avatars.colours import HUES, darker, lighter, mix, scale
from training.world.avatars.geometry import CHIN_Y, CX, ellipse, line, ramp
from training.world.avatars.pens import argb, flat, glow, linear, pen, radial
from training.world.avatars.scene import Scene

_FRECKLES = np.random.default_rng(5).uniform(-1, 1, (26, 3))  # x, y, size; fixed for all faces


def background(s: Scene) -> None:
    hue = scale(HUES, s.look.background_hue)
    tone = s.look.background_tone
    inner = mix(darker(hue, 0.35), lighter(hue, 0.62), tone)
    outer = mix(darker(hue, 0.72), lighter(hue, 0.22), tone)
    centre = (CX + 30 * s.sun, 42.0)
    s.canvas.drawPaint(radial(centre, 110, [(0.0, argb(inner)), (1.0, argb(outer))]))
    glow(s.canvas, CX, 62, 62, lighter(inner, 0.5), 0.35)


def body(s: Scene) -> None:
    canvas, look = s.canvas, s.look
    neck = 11.5 + 2.5 * look.jaw
    path = skia.Path()
    path.moveTo(CX - neck, 84)
    path.cubicTo(CX - neck, 100, CX - neck - 2, 106, CX - neck - 9, 112)
    path.lineTo(CX + neck + 9, 112)
    path.cubicTo(CX + neck + 2, 106, CX + neck, 100, CX + neck, 84)
    path.close()
    tone = flat(mix(s.skin, s.shade, 0.30))
    canvas.drawPath(ellipse(CX, 111, 21, 9), tone)
    canvas.drawPath(path, tone)
    with skia.AutoCanvasRestore(canvas):
        canvas.clipPath(path, doAntiAlias=True)
        shadow = s.face.head
        moved = skia.Path(shadow)
        moved.offset(-3 * s.sun, 8)
        canvas.drawPath(moved, flat(s.shade, 0.62, 2.2))

    cloth = scale(HUES, look.clothing_hue)
    cloth = mix(darker(cloth, 0.62), lighter(cloth, 0.55), look.clothing_tone)
    shirt = skia.Path()
    shirt.moveTo(8, 132)
    shirt.cubicTo(10, 114, 26, 110, CX - neck - 8, 105)
    shirt.cubicTo(CX - 14, 118, CX + 14, 118, CX + neck + 8, 105)
    shirt.cubicTo(102, 110, 118, 114, 120, 132)
    shirt.close()
    lit, dim = lighter(cloth, 0.16), darker(cloth, 0.30)
    start, end = (CX + 45 * s.sun, 100), (CX - 45 * s.sun, 132)
    canvas.drawPath(shirt, linear(start, end, [(0.0, argb(lit)), (1.0, argb(dim))]))
    collar = line((CX - neck - 8, 105), (CX - 14, 118), (CX + 14, 118), (CX + neck + 8, 105))
    canvas.drawPath(collar, pen(darker(cloth, 0.42), 3.4, 0.55))
    canvas.drawPath(collar, pen(lighter(cloth, 0.10), 2.2))
    for side in (-1, 1):
        fold = line((CX + side * 37, 132), (CX + side * 36, 122), (CX + side * 32, 117))
        canvas.drawPath(fold, pen(darker(cloth, 0.5), 1.1, 0.4))


def ears(s: Scene) -> None:
    for side in (-1, 1):
        lit = 0.5 + 0.5 * side * s.sun
        base = mix(mix(s.skin, s.shade, 0.5), s.skin, lit)
        s.canvas.drawPath(s.face.ear(side), flat(base))
        x = CX + side * s.face.width
        inner = line((x + side * 1.0, 56.5), (x + side * 5.4, 55.5), (x + side * 2.2, 65))
        s.canvas.drawPath(inner, pen(s.shade, 1.3, 0.65))


def head(s: Scene) -> None:
    canvas, w, sun = s.canvas, s.face.width, s.sun
    path = s.face.head
    centre = (CX + 12 * sun, 54.0)
    stops = [
        (0.0, argb(lighter(s.skin, 0.10))),
        (0.55, argb(s.skin)),
        (1.0, argb(mix(s.skin, s.shade, 0.62))),
    ]
    canvas.drawPath(path, radial(centre, 52, stops))
    with skia.AutoCanvasRestore(canvas):
        canvas.clipPath(path, doAntiAlias=True)
        far = argb(s.shade, 0.62 * min(1.0, abs(sun)))
        edge = linear(
            (CX - w * sun, 60),
            (CX - w * 0.25 * sun + 1e-3, 60),
            [(0.0, far), (1.0, argb(s.shade, 0.0))],
        )
        canvas.drawPath(path, edge)
        glow(canvas, CX + 8 * sun, 45, 17, s.shine, 0.50)
        glow(canvas, CX, CHIN_Y - 5, 8, s.shine, 0.22)
        for side in (-1, 1):
            warm = mix(lighter(s.skin, 0.08), (0.93, 0.20, 0.24), 0.62)
            alpha = 0.10 + 0.58 * s.look.blush
            glow(canvas, CX + side * 0.60 * w, 74, 10.5, warm, alpha)
            glow(canvas, CX + side * 0.55 * w, 68.5, 7, s.shine, 0.28 + 0.12 * side * sun)


def marks(s: Scene) -> None:
    """Freckles and age lines."""
    canvas, w, look = s.canvas, s.face.width, s.look
    spot = mix(s.shade, (0.45, 0.18, 0.08), 0.45)
    for x, y, size in _FRECKLES.tolist():
        place = (CX + (0.58 * w if x > 0 else -0.58 * w) + 7.5 * (2 * abs(x) - 1), 71 + 4.2 * y)
        canvas.drawCircle(*place, 0.88 + 0.30 * size, flat(spot, 0.80 * look.freckles))
    for x in (-3.0, -0.8, 1.4, 3.2):
        canvas.drawCircle(CX + x, 69.5 + 0.7 * abs(x), 0.7, flat(spot, 0.75 * look.freckles))

    old = look.age_lines
    dark = 0.30 + 0.40 * (1 - look.skin_tone)  # lines must show on dark skin too
    crease = pen(mix(s.shade, (0.16, 0.05, 0.04), dark), 1.05, 0.80 * old)
    for i, y in enumerate((41.5, 44.8, 48.0)):
        half = (0.50 - 0.05 * i) * w
        curve = line(
            (CX - half, y + 0.8), (CX - 4, y - 1.6), (CX + 4, y + 1.2), (CX + half, y + 0.4)
        )
        canvas.drawPath(curve, crease)
    for side in (-1, 1):
        fold = line((CX + side * 6.0, 73.5), (CX + side * 11.5, 76), (CX + side * 12.6, 83.5))
        canvas.drawPath(fold, crease)
        x = CX + side * s.face.eye_x
        bag = line((x - side * 5.5, 68.2), (x, 71.6), (x + side * 6, 68.4))
        canvas.drawPath(bag, crease)
        for rise in (-2.2, 0.4, 3.0):
            foot = line((x + side * 8.4, 61.5 + 0.5 * rise), (x + side * 12.4, 60.8 + 1.3 * rise))
            canvas.drawPath(foot, crease)


def hair_back(s: Scene) -> None:
    shown = s.face.hair_shown
    paint = flat(darker(s.hair, 0.42))
    paint.setAlphaf(shown)
    s.canvas.drawPath(s.face.hair_back, paint)


def hair_locks(s: Scene) -> None:
    paint = _hair_fill(s, 30, max(s.face.hair_end, 70))
    paint.setAlphaf(s.face.hair_shown * ramp(s.look.hair_length, 0.12, 0.3))
    s.canvas.drawPath(s.face.hair_locks, paint)


def hair_front(s: Scene) -> None:
    canvas, face = s.canvas, s.face
    path, shown = face.hair_front, face.hair_shown
    with skia.AutoCanvasRestore(canvas):  # the shadow it throws onto the forehead
        canvas.clipPath(face.head, doAntiAlias=True)
        fallen = skia.Path(path)
        fallen.offset(-1.2 * s.sun, 2.4)
        canvas.drawPath(fallen, flat(s.shade, 0.55 * shown, 1.6))
    paint = _hair_fill(s, 24, 66)
    paint.setAlphaf(shown)
    canvas.drawPath(path, paint)
    with skia.AutoCanvasRestore(canvas):
        canvas.clipPath(path, doAntiAlias=True)
        _strands(s, shown)


def _strands(s: Scene, shown: float) -> None:
    face, canvas = s.face, s.canvas
    part = CX + (s.look.parting - 0.5) * 1.25 * face.width
    top = 27 - face.hair_top
    reach = face.width + face.hair_side
    dark, light = darker(s.hair, 0.45), lighter(s.hair, 0.45)
    for k in range(-5, 6):
        end = CX + k / 5 * reach
        strand = line((part, top + 1), (0.4 * part + 0.6 * end, top + 4), (end, 62 - abs(k) * 0.8))
        canvas.drawPath(strand, pen(dark, 0.9, 0.28 * shown))
    x = CX + 0.42 * reach * s.sun
    bow = line(
        (x - 15, 38),
        (x - 5, 29 - 0.4 * face.hair_top),
        (x + 5, 29 - 0.4 * face.hair_top),
        (x + 15, 38),
    )
    canvas.drawPath(bow, pen(light, 4.2, 0.34 * shown, 2.0))
    canvas.drawPath(bow, pen(lighter(light, 0.4), 1.2, 0.30 * shown, 0.9))


def _hair_fill(s: Scene, top: float, bottom: float) -> skia.Paint:
    stops = [
        (0.0, argb(lighter(s.hair, 0.14))),
        (0.45, argb(s.hair)),
        (1.0, argb(darker(s.hair, 0.34))),
    ]
    return linear((CX + 14 * s.sun, top), (CX - 14 * s.sun, bottom), stops)
