"""A drawing to take away: picture, PDF, film, SVG that draws itself, JSON.

SVG as such is in `svg`. Films take any PIL frames: those of a run, or `painting`, which shows the
strokes laid down one after the other.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from xml.etree import ElementTree

import imageio.v2 as imageio
import numpy as np
import torch
from matplotlib.backends.backend_pdf import FigureCanvasPdf
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch
from matplotlib.path import Path as Outline
from matplotlib.transforms import Affine2D
from PIL import Image

from models.errors import InputError
from models.pictures import on_white

from . import svg
from .config import WHITE
from .plain import DEFAULT_LIMITS, MAX_SIDE, Limits, Row, check, check_size, from_rows, to_rows
from .rasterizer import onto, render, to_picture
from .strokes import Strokes

MAX_FRAMES = 600
MAX_FILM_PIXELS = 2**27  # of all frames together: 600 of 472 x 472, or 128 of 1024 x 1024


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
            `MAX_FILM_PIXELS` in all; before anything is drawn.
    """
    check(strokes)
    if not 1 <= frames <= MAX_FRAMES:
        raise InputError(f"A film has 1 to {MAX_FRAMES} frames, not {frames}.")
    count = max(1, min(frames, len(strokes)))
    scaled = _scaled(strokes, side).detach()
    _check_film(count, scaled.canvas)
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


# --------------------------------------------------------------------------------- films


def gif(frames: Iterable[Image.Image], *, fps: float = 12.5, hold_s: float = 2.0) -> bytes:
    """An endlessly repeated GIF of frames of one size; transparent ones lie on white.

    Args:
        fps: frames a second, 1 to 50; GIF counts in hundredths of a second.
        hold_s: seconds that the last frame stays, 0 to 30.

    Raises:
        InputError: no frame, too many or too large ones, different sizes, or numbers out of range.
    """
    _check_times(fps, hold_s)
    checked = list(_checked(frames))
    palette = _palette(checked)
    indexed = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in checked]
    every, last = round(100 / fps) * 10, round(hold_s * 100) * 10  # ms
    stream = io.BytesIO()
    indexed[0].save(
        stream,
        "GIF",
        save_all=True,
        append_images=indexed[1:],
        duration=[every] * (len(indexed) - 1) + [max(every, last)],
        loop=0,
    )
    return stream.getvalue()


def _palette(frames: Sequence[Image.Image]) -> Image.Image:
    """The 256 colours of all frames, chosen from up to 9 spread over the film.

    One palette and no dithering keep what does not move the same from frame to frame, so that
    only what changes is stored: a tenth of the size that a palette for each frame takes. The most
    frequent colour is in it as it is, since paper that is nearly white looks like a mistake.
    """
    spread = np.linspace(0, len(frames) - 1, min(9, len(frames))).round().astype(int)
    pixels = np.concatenate([np.asarray(frames[index]).reshape(-1, 3) for index in spread])
    sample = Image.fromarray(pixels[:: 1 + len(pixels) // 2**19][None])  # one row
    indexed = sample.quantize(256, method=Image.Quantize.FASTOCTREE)
    colors = np.array(indexed.getpalette() or [], dtype=np.int64).reshape(-1, 3)
    frequent = np.array(max(sample.getcolors(sample.width) or [])[1])
    # In place of its neighbour: of two that are close, Pillow may take the wrong one.
    colors[((colors - frequent) ** 2).sum(1).argmin()] = frequent
    palette = Image.new("P", (1, 1))
    palette.putpalette(colors.flatten().tolist())
    return palette


def mp4(frames: Iterable[Image.Image], *, fps: float = 25.0, hold_s: float = 2.0) -> bytes:
    """An MP4 (H.264, plays everywhere) of frames of one size; transparent ones lie on white.

    An odd side loses its last line of pixels, as the colour format wants even ones.

    Args and errors as `gif`; a side of one pixel is refused, too.
    """
    _check_times(fps, hold_s)
    held = _hold(_checked(frames), round(hold_s * fps))
    first = next(held)
    if min(first.size) < 2:
        raise InputError("A film is at least two pixels wide and high; make the canvas larger.")
    with TemporaryDirectory() as folder:
        path = Path(folder) / "film.mp4"
        writer: Any = imageio.get_writer(path, format="FFMPEG", **_h264(fps))
        with writer:
            for frame in chain([first], held):
                writer.append_data(np.asarray(frame)[: first.height & ~1, : first.width & ~1])
        return path.read_bytes()


def _h264(fps: float) -> dict[str, Any]:
    """Options for ffmpeg; colours are converted and labelled as BT.709, what players expect."""
    convert = "scale=out_color_matrix=bt709:out_range=tv"
    label = "setparams=colorspace=bt709:color_primaries=bt709:color_trc=bt709:range=tv"
    return {
        "fps": fps,
        "codec": "libx264",
        "macro_block_size": 1,  # or imageio resizes to multiples of 16
        "pixelformat": "yuv420p",
        "quality": None,
        "output_params": ["-vf", f"{convert},{label}", "-crf", "16", "-movflags", "+faststart"],
    }


def _check_times(fps: float, hold_s: float) -> None:
    if not 1 <= fps <= 50:
        raise InputError(f"A film has 1 to 50 frames a second, not {fps:g}.")
    if not 0 <= hold_s <= 30:
        raise InputError(f"The last frame can stay 0 to 30 seconds, not {hold_s:g}.")


def _checked(frames: Iterable[Image.Image]) -> Iterator[Image.Image]:
    """RGB frames, refused where a film gets too long, too large, or has no frame at all."""
    size: tuple[int, int] | None = None
    for count, frame in enumerate(frames, start=1):
        size = size or frame.size
        if frame.size != size:
            raise InputError("The frames of a film have one size; scale them first.")
        if count > MAX_FRAMES:
            raise InputError(f"A film has at most {MAX_FRAMES} frames; take every second one.")
        _check_film(count, size)
        yield on_white(frame)
    if size is None:
        raise InputError("There is no frame to make a film of; draw something first.")


def _check_film(count: int, size: tuple[int, int]) -> None:
    if count * math.prod(size) > MAX_FILM_PIXELS:
        raise InputError(
            f"A film has at most {MAX_FILM_PIXELS / 1e6:.0f} million pixels in all its frames; "
            "make it smaller or shorter."
        )


def _hold(frames: Iterator[Image.Image], times: int) -> Iterator[Image.Image]:
    """The frames, the last one `times` times more."""
    for frame in frames:
        last = frame
        yield frame
    for _ in range(times):
        yield last


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
