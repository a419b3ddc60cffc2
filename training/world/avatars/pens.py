"""Paints for skia: flat colours, gradients, strokes and soft glows."""

from collections.abc import Sequence

import skia

from training.world.avatars.colours import Colour
from training.world.avatars.geometry import Point

WHITE: Colour = (1.0, 1.0, 1.0)


def argb(colour: Colour, alpha: float = 1.0) -> int:
    r, g, b = (round(255 * v) for v in colour)
    return skia.ColorSetARGB(round(255 * min(max(alpha, 0.0), 1.0)), r, g, b)


def flat(colour: Colour, alpha: float = 1.0, blur: float = 0.0) -> skia.Paint:
    """Even fill; `blur` is the standard deviation of soft edges."""
    paint = skia.Paint(AntiAlias=True, Color=argb(colour, alpha))
    if blur > 0:
        paint.setMaskFilter(skia.MaskFilter.MakeBlur(skia.kNormal_BlurStyle, blur))
    return paint


def radial(centre: Point, radius: float, stops: Sequence[tuple[float, int]]) -> skia.Paint:
    """Gradient from `centre` outwards through (position, colour) stops."""
    places, colours = [s[0] for s in stops], [s[1] for s in stops]
    shader = skia.GradientShader.MakeRadial(skia.Point(*centre), radius, colours, places)
    return skia.Paint(AntiAlias=True, Shader=shader)


def linear(start: Point, end: Point, stops: Sequence[tuple[float, int]]) -> skia.Paint:
    """Gradient from `start` to `end` through (position, colour) stops."""
    places, colours = [s[0] for s in stops], [s[1] for s in stops]
    ends = [skia.Point(*start), skia.Point(*end)]
    shader = skia.GradientShader.MakeLinear(ends, colours, places)
    return skia.Paint(AntiAlias=True, Shader=shader)


def pen(colour: Colour, width: float, alpha: float = 1.0, blur: float = 0.0) -> skia.Paint:
    """Round stroke."""
    paint = flat(colour, alpha, blur)
    paint.setStyle(skia.Paint.kStroke_Style)
    paint.setStrokeWidth(width)
    paint.setStrokeCap(skia.Paint.kRound_Cap)
    paint.setStrokeJoin(skia.Paint.kRound_Join)
    return paint


def trace(canvas: skia.Canvas, path: skia.Path, colour: Colour, width: float, alpha: float) -> None:
    """Round stroke whose width may shrink to nothing.

    skia draws strokes thinner than a pixel another way, and the picture jumps where the two ways
    meet; the outline of the stroke, filled, has no such border.
    """
    outline = skia.Path()
    pen(colour, width).getFillPath(path, outline, resScale=4.0)
    canvas.drawPath(outline, flat(colour, alpha))


def glow(canvas: skia.Canvas, x: float, y: float, r: float, colour: Colour, alpha: float) -> None:
    """Soft spot of light, shade or blush."""
    stops = [(0.0, argb(colour, alpha)), (0.5, argb(colour, alpha * 0.55)), (1.0, argb(colour, 0))]
    canvas.drawCircle(x, y, r, radial((x, y), r, stops))
