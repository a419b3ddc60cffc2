"""Paints what an avatar grows or wears: beard, moustache, earrings, glasses, hat."""

import skia

from training.world.avatars.colours import HUES, Colour, darker, lighter, mix, scale
from training.world.avatars.geometry import CX, NOSE_Y, line, ramp
from training.world.avatars.pens import WHITE, argb, flat, glow, linear, pen, radial, trace
from training.world.avatars.scene import Scene

GOLD: Colour = (0.95, 0.74, 0.28)
FRAME: Colour = (0.13, 0.10, 0.13)


def beard(s: Scene) -> None:
    grow = s.look.beard
    shown = ramp(grow, 0.02, 0.6)
    if shown <= 0:
        return
    canvas, path = s.canvas, s.face.beard
    base = mix(s.natural, s.hair, 0.5)
    soft = 1.6 * (1 - ramp(grow, 0.3, 0.9))
    fallen = skia.Path(path)
    fallen.offset(-1.0 * s.sun, 2.0)
    canvas.drawPath(fallen, flat(s.shade, 0.40 * shown, 2.0))
    canvas.drawPath(path, flat(darker(base, 0.18), 0.93 * shown, soft + 0.3))
    with skia.AutoCanvasRestore(canvas):
        canvas.clipPath(path, doAntiAlias=True)
        glow(canvas, CX + 10 * s.sun, 90, 24, lighter(base, 0.25), 0.55 * shown)
        for k in range(-6, 7):
            x = CX + k * 4.2
            hair = line((x, 82 - abs(k) * 1.5), (x + 0.3 * k, 95), (CX + k * 3.4, 113))
            canvas.drawPath(hair, pen(darker(base, 0.45), 0.8, 0.30 * shown))


def moustache(s: Scene) -> None:
    grow = s.look.moustache
    shown = ramp(grow, 0.02, 0.6)
    if shown <= 0:
        return
    base = mix(s.natural, s.hair, 0.5)
    path = s.face.moustache
    fallen = skia.Path(path)
    fallen.offset(0, 1.2)
    s.canvas.drawPath(fallen, flat(s.shade, 0.45 * shown, 0.9))
    y = NOSE_Y + 3
    stops = [(0.0, argb(lighter(base, 0.12), shown)), (1.0, argb(darker(base, 0.32), shown))]
    s.canvas.drawPath(path, linear((CX, y - 3), (CX, y + 6), stops))


def earrings(s: Scene) -> None:
    shown = ramp(s.look.earrings, 0.02, 0.7)
    if shown <= 0:
        return
    for side in (-1, 1):
        hoop = s.face.earring(side)
        s.canvas.drawPath(hoop, pen(darker(GOLD, 0.45), 2.2, 0.8 * shown))
        s.canvas.drawPath(hoop, pen(GOLD, 1.5, shown))
        box = hoop.getBounds()
        s.canvas.drawCircle(
            box.left() + 0.35 * box.width(), box.bottom() - 0.3, 0.55, flat(WHITE, 0.9 * shown)
        )


def glasses(s: Scene) -> None:
    look, canvas = s.look, s.canvas
    shown = ramp(look.glasses, 0.05, 0.75)
    if shown <= 0:
        return
    width = s.face.frame_width
    tint = ramp(look.glasses_tint, 0.1, 0.95)
    for side in (-1, 1):
        lens = s.face.lens(side)
        x = CX + side * s.face.eye_x
        clear = mix((0.80, 0.92, 1.0), (0.08, 0.08, 0.12), tint)
        low = mix((0.90, 0.97, 1.0), (0.30, 0.26, 0.34), tint)
        stops = [
            (0.0, argb(clear, shown * (0.20 + 0.76 * tint))),
            (1.0, argb(low, shown * (0.10 + 0.82 * tint))),
        ]
        canvas.drawPath(lens, linear((x, 52), (x, 72), stops))
        with skia.AutoCanvasRestore(canvas):
            canvas.clipPath(lens, doAntiAlias=True)
            for place, thick in ((-4.5, 2.6), (-0.6, 1.1)):
                gleam = line((x + place - 3.5, 73), (x + place + 5.0, 51))
                canvas.drawPath(gleam, pen(WHITE, thick, 0.30 * shown))
        drop = skia.Path(lens)
        drop.offset(0, 1.3)
        canvas.drawPath(drop, pen(s.shade, width, 0.35 * shown, 0.8))
        trace(canvas, lens, FRAME, width, shown)
    trace(canvas, s.face.glasses_wire, FRAME, 0.9 * width, shown)


def hat(s: Scene) -> None:
    look, canvas, face = s.look, s.canvas, s.face
    shown = ramp(look.hat, 0.05, 0.6)
    if shown <= 0:
        return
    cloth = scale(HUES, look.hat_hue)
    brim = ramp(look.hat_brim, 0.3, 0.65)
    drop = face.hat_drop
    with skia.AutoCanvasRestore(canvas):
        canvas.clipPath(face.head, doAntiAlias=True)
        canvas.drawPath(
            line((CX - 36, 48 + drop), (CX, 40 + drop), (CX + 36, 48 + drop)),
            pen(s.shade, 7.0, 0.55 * shown, 2.2),
        )
    canvas.drawPath(
        face.hat_pom,
        radial(
            (CX + 2 * s.sun, 8 + drop),
            7,
            [
                (0.0, argb(lighter(cloth, 0.55), shown)),
                (1.0, argb(lighter(cloth, 0.12), shown)),
            ],
        ),
    )
    stops = [
        (0.0, argb(lighter(cloth, 0.22), shown)),
        (0.5, argb(cloth, shown)),
        (1.0, argb(darker(cloth, 0.38), shown)),
    ]
    canvas.drawPath(face.hat_dome, radial((CX + 16 * s.sun, 22 + drop), 52, stops))
    with skia.AutoCanvasRestore(canvas):
        canvas.clipPath(face.hat_dome, doAntiAlias=True)
        for k in range(-4, 5):
            rib = line(
                (CX + 1.2 * k, 10 + drop), (CX + 8.2 * k, 20 + drop), (CX + 8.6 * k, 46 + drop)
            )
            canvas.drawPath(rib, pen(darker(cloth, 0.45), 1.0, 0.34 * shown * (1 - brim)))
    band = mix(lighter(cloth, 0.10), darker(cloth, 0.62), brim)
    lit, dim = argb(lighter(band, 0.12), shown), argb(darker(band, 0.28), shown)
    canvas.drawPath(
        face.hat_band,
        linear((CX + 30 * s.sun, 36), (CX - 30 * s.sun, 46), [(0.0, lit), (1.0, dim)]),
    )
    with skia.AutoCanvasRestore(canvas):
        canvas.clipPath(face.hat_band, doAntiAlias=True)
        for k in range(-9, 10):
            x = CX + k * 3.7
            canvas.drawPath(
                line((x, 26 + drop), (x, 50 + drop)),
                pen(darker(band, 0.4), 0.9, 0.38 * shown * (1 - brim)),
            )
    rim = ramp(look.hat_brim, 0.28, 0.55) * shown
    shade = skia.Path(face.hat_rim)
    shade.offset(-1.0 * s.sun, 2.6)
    canvas.drawPath(shade, flat(darker(s.shade, 0.3), 0.35 * rim, 1.8))
    canvas.drawPath(
        face.hat_rim,
        linear(
            (CX, 36 + drop),
            (CX, 50 + drop),
            [(0.0, argb(lighter(cloth, 0.12), rim)), (1.0, argb(darker(cloth, 0.32), rim))],
        ),
    )
