"""A drawing to take away: picture, PDF, SVG that draws itself, JSON, and the frames of a film.

SVG as such is in `svg`. `models.film` makes films of any frames: those of a run, or `painting`, which
shows the strokes laid down one after the other.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping
from typing import Any
from xml.etree import ElementTree

import torch
from matplotlib.backends.backend_pdf import FigureCanvasPdf
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch
from matplotlib.path import Path as Outline
from matplotlib.transforms import Affine2D
from PIL import Image

from models.errors import InputError
from models.film import MAX_FRAMES, check_film

from . import svg
from .config import WHITE
from .plain import DEFAULT_LIMITS, MAX_SIDE, Limits, Row, check, check_size, from_rows, to_rows
from .rasterizer import onto, render, to_picture
from .strokes import Strokes

# --------------------------------------------------------------------------------- pictures


def picture(
    strokes: Strokes, *, side: int | None = None, background: svg.Color | None = WHITE
) -> Image.Image:
    """The drawing rasterised anew, so that it is sharp at any size.

    Args:
        side: pixels of the longer side, 1 to `MAX_SIDE`; None: the canvas as it is.
        background: RGB in [0, 1]; None leaves it transparent.

    Returns:
        RGB, or RGBA with straight alpha where there is no background.

    Raises:
        InputError: a side out of range, or strokes that cannot be exported (`plain.check`).
    """
    check(strokes)
    with torch.no_grad():
        return to_picture(render(_scaled(strokes, side)), background)


def painting(
    strokes: Strokes,
    *,
    frames: int = 120,
    side: int | None = None,
    background: svg.Color = WHITE,
) -> Iterator[Image.Image]:
    """RGB frames of the drawing being painted, in drawing order.

    There are `frames` of them, or as many as there are strokes if that is fewer; each lays the
    next strokes over what is there, so all together cost about as much as one whole picture with
    every stroke. The last one is the whole drawing.

    Raises:
        InputError: as `picture`, for frames outside 1 to `MAX_FRAMES`, and for more than
            `film.MAX_FILM_PIXELS` in all; before anything is drawn.
    """
    check(strokes)
    if not 1 <= frames <= MAX_FRAMES:
        raise InputError(f"A film has 1 to {MAX_FRAMES} frames, not {frames}.")
    count = max(1, min(frames, len(strokes)))
    scaled = _scaled(strokes, side).detach()
    check_film(count, scaled.canvas)
    return _paint(scaled, count, background)


def _paint(strokes: Strokes, count: int, background: svg.Color) -> Iterator[Image.Image]:
    width, height = strokes.canvas
    image = strokes.points.new_zeros(height, width, 4)
    for group in torch.arange(len(strokes), device=image.device).tensor_split(count):
        with torch.no_grad():
            layer = render(strokes.select(group))  # (H, W, 4)
            image = onto(layer, image)
        yield to_picture(image, background)


def _scaled(strokes: Strokes, side: int | None) -> Strokes:
    wanted = max(strokes.canvas) if side is None else side
    if not 1 <= wanted <= MAX_SIDE:
        raise InputError(f"A picture has 1 to {MAX_SIDE} pixels on its longer side, not {wanted}.")
    return strokes if side is None else strokes.scaled(side / max(strokes.canvas))


# --------------------------------------------------------------------------------- PDF


def pdf(strokes: Strokes, *, title: str = "", background: svg.Color | None = None) -> bytes:
    """A one-page PDF of true curves; one pixel of the canvas is one point of the page (1/72 inch).

    The same strokes give the same bytes (with the same matplotlib).

    Args:
        background: RGB in [0, 1]; None leaves the page without any.

    Raises:
        InputError: strokes that cannot be exported (`plain.check`), or a canvas over `MAX_SIDE`.
    """
    width, height = _scaled(strokes, None).canvas
    figure = Figure(figsize=(width / 72, height / 72), dpi=72)
    figure.patch.set(visible=background is not None, facecolor=background or WHITE)
    flip = Affine2D().scale(1 / width, -1 / height).translate(0, 1) + figure.transFigure
    for row in to_rows(strokes):
        for patch in _patches(row):
            patch.set_transform(flip)
            figure.add_artist(patch)
    stream = io.BytesIO()
    about = {"Title": svg.xml_text(title), "Creator": "CLIP Atelier", "CreationDate": None}
    figure.set_canvas(FigureCanvasPdf(figure))
    figure.savefig(stream, format="pdf", metadata=about)
    return stream.getvalue()


def _patches(row: Row) -> Iterator[PathPatch]:
    """Fill, then stroke: painted in one go, a translucent stroke would knock the fill out."""
    points = [*row.points, *([row.points[0]] * 2 if row.closed else [])]
    curves = (len(points) - 1) // 3 if not row.closed else (len(points) - 2) // 3
    codes = [Outline.MOVETO, *[Outline.CURVE4] * (3 * curves)]
    outline = Outline(points, [*codes, Outline.CLOSEPOLY] if row.closed else codes)
    round_ends: dict[str, Any] = {"capstyle": "round", "joinstyle": "round", "snap": False}
    if row.fill is not None:
        yield PathPatch(outline, facecolor=row.fill, edgecolor="none", linewidth=0, snap=False)
    if row.half_width > 0:
        yield PathPatch(
            outline, fill=False, edgecolor=row.color, linewidth=2 * row.half_width, **round_ends
        )


# --------------------------------------------------------------------------------- animated SVG


def animated_svg(
    strokes: Strokes,
    *,
    seconds: float = 8.0,
    title: str = "",
    background: svg.Color | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> str:
    """An SVG whose strokes draw themselves one after the other; fills fade in meanwhile.

    SMIL without script, so it also plays as `<img>`. Without animation, and after it, the document
    is the one of `svg.write`: everything that moves is undone at its end.

    Args:
        seconds: until the drawing is complete, 0.1 to 600; each stroke takes an equal share.

    Raises:
        InputError: as `svg.write`, and for seconds out of range.
    """
    if not 0.1 <= seconds <= 600:
        raise InputError(f"The drawing can take 0.1 to 600 seconds, not {seconds:g}.")
    root = svg.document(strokes, title=title, background=background, metadata=metadata)
    share = seconds / max(1, len(strokes))
    for nth, path in enumerate(root.iter("path")):
        _animate(path, f"{nth * share:.4g}s", f"{share:.4g}s", waits=nth > 0)
    return svg.to_text(root)


def _animate(path: ElementTree.Element, begin: str, duration: str, *, waits: bool) -> None:
    """Hides a path until `begin`, then draws it from its start in `duration`.

    A dash as long as the path moves in from behind its start. The gap is twice as long: where a
    dash of no length touches an end, round caps would show a dot.
    """
    span = {"begin": begin, "dur": duration}
    if waits:
        _add(path, "set", "visibility", to="hidden", dur=begin)
    path.set("pathLength", "1")
    _add(path, "set", "stroke-dasharray", to="1 2", **span)
    _add(path, "animate", "stroke-dashoffset", **{"from": "1", "to": "0"}, **span)
    if "fill" in path.attrib:
        opacity = path.get("fill-opacity", "1")
        _add(path, "animate", "fill-opacity", **{"from": "0", "to": opacity}, **span)


def _add(path: ElementTree.Element, tag: str, name: str, **attributes: str) -> None:
    ElementTree.SubElement(path, tag, {"attributeName": name, **attributes})


# --------------------------------------------------------------------------------- JSON


def to_json(strokes: Strokes) -> dict[str, Any]:
    """A drawing as plain lists that `json.dumps` takes, rounded like SVG's coordinates.

    Returns:
        {"canvas": [width, height], "paths": [{"points": [[x, y], ...], "closed": bool,
        "half_width": float, "color": [r, g, b, a], "fill": [r, g, b, a] or null}, ...]} in drawing
        order; pixels, control points as in `Strokes`, straight colours in [0, 1].

    Raises:
        InputError: as `plain.check`.
    """
    return {"canvas": list(strokes.canvas), "paths": [_plain(row) for row in to_rows(strokes)]}


def from_json(data: Mapping[str, Any] | str | bytes, *, limits: Limits = DEFAULT_LIMITS) -> Strokes:
    """The drawing of `to_json`, as text or parsed; every value is checked.

    Raises:
        InputError: no such drawing, a value of the wrong kind or out of range, or beyond `limits`.
    """
    drawing = _parsed(data, limits) if isinstance(data, (str, bytes)) else data
    if not isinstance(drawing, Mapping) or not isinstance(drawing.get("paths"), list):
        raise InputError('This JSON is no drawing: it has no list "paths".')
    canvas = _numbers(drawing.get("canvas"), 2, "its canvas")
    if not all(value.is_integer() and 1 <= value <= MAX_SIDE for value in canvas):
        raise InputError(f"A canvas is 1 to {MAX_SIDE} whole pixels wide and high.")
    width, height = map(int, canvas)
    entries = drawing["paths"]
    points = [entry.get("points") if isinstance(entry, Mapping) else None for entry in entries]
    check_size([len(p) if isinstance(p, list) else 0 for p in points], limits)
    rows = [_row(entry, f"path {nth}") for nth, entry in enumerate(entries, start=1)]
    return from_rows(rows, (width, height), limits)


def _plain(row: Row) -> dict[str, Any]:
    return {
        "points": [[round(x, svg.DECIMALS), round(y, svg.DECIMALS)] for x, y in row.points],
        "closed": row.closed,
        "half_width": round(row.half_width, svg.DECIMALS),
        "color": [round(part, 4) for part in row.color],
        "fill": row.fill and [round(part, 4) for part in row.fill],
    }


def _parsed(text: str | bytes, limits: Limits) -> Any:
    if len(text) > limits.bytes:
        raise InputError(
            f"This drawing has more than {limits.bytes / 1e6:g} MB; take one with fewer strokes."
        )
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise InputError("This text is no JSON; take a file that was exported here.") from None


def _row(entry: Any, name: str) -> Row:
    if not isinstance(entry, Mapping) or not isinstance(entry.get("points"), list):
        raise InputError(f'This drawing is damaged: {name} has no list "points".')
    closed, fill = entry.get("closed", False), entry.get("fill")
    if not isinstance(closed, bool):
        raise InputError(f'This drawing is damaged: "closed" of {name} is not true or false.')
    points = [_numbers(point, 2, f"a point of {name}") for point in entry["points"]]
    if len(points) < 3 or len(points) % 3 != (0 if closed else 1):
        wanted = "3n" if closed else "3n + 1"
        raise InputError(
            f"This drawing is damaged: {name} has {len(points)} points instead of {wanted}."
        )
    (half_width,) = _numbers([entry.get("half_width")], 1, f"the width of {name}")
    if half_width < 0:
        raise InputError(f"This drawing is damaged: the width of {name} is negative.")
    color = _rgba(entry.get("color"), name)
    return Row(points, closed, half_width, color, None if fill is None else _rgba(fill, name))


def _rgba(value: Any, name: str) -> list[float]:
    color = _numbers(value, 4, f"a colour of {name}")
    if not all(0 <= part <= 1 for part in color):
        raise InputError(f"This drawing is damaged: a colour of {name} is not within 0 and 1.")
    return color


def _numbers(value: Any, count: int, name: str) -> list[float]:
    """A list of so many finite numbers; true and false are none."""
    right = isinstance(value, (list, tuple)) and len(value) == count
    if not right or not all(type(v) in (int, float) and abs(v) < 1e300 for v in value):
        numbers = "a number" if count == 1 else f"{count} numbers"
        raise InputError(f"This drawing is damaged: {name} is not {numbers}.")
    return [float(v) for v in value]
