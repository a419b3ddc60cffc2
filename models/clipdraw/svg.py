"""Drawings as SVG that designers keep: plain SVG 1.1, one `<path>` a stroke.

`read`, the way back and from everywhere else, is in `svg_reader`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any
from xml.etree import ElementTree

from .plain import Row, to_rows
from .strokes import Strokes
from .svg_reader import BACKGROUND_ID, NAMESPACE, read

__all__ = ["Color", "document", "number", "read", "to_text", "write", "xml_text"]

DECIMALS = 3  # of a pixel: a drawing stays sharp when it is printed ten times as large

Color = tuple[float, float, float]


def write(
    strokes: Strokes,
    *,
    title: str = "",
    background: Color | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> str:
    """An SVG 1.1 document of a drawing; the same strokes give the same text.

    Every path has its number as id and cubic segments only, coordinates are canvas pixels rounded
    to a thousandth, colours are rounded to 8 bits. Nothing in it can execute or refers to anything
    outside of it.

    Args:
        title: what viewers show as the document's name; any text, it is escaped.
        background: RGB in [0, 1] of a rectangle behind the strokes; None leaves it transparent.
        metadata: written as JSON into `<metadata>`, for instance the settings of the run.

    Raises:
        InputError: more than `MAX_PATHS` paths, or a coordinate, width or colour not finite.
    """
    return to_text(document(strokes, title=title, background=background, metadata=metadata))


def document(
    strokes: Strokes,
    *,
    title: str = "",
    background: Color | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> ElementTree.Element:
    """What `write` writes, as a tree to add to: its `path` elements are in drawing order."""
    width, height = (str(side) for side in strokes.canvas)
    size = {"width": width, "height": height}
    root = ElementTree.Element("svg", {"xmlns": NAMESPACE, "version": "1.1", **size})
    root.set("viewBox", f"0 0 {width} {height}")
    ElementTree.SubElement(root, "title").text = xml_text(title)
    if metadata is not None:
        text = json.dumps(metadata, ensure_ascii=False, allow_nan=False)
        ElementTree.SubElement(root, "metadata").text = xml_text(text)
    if background is not None:
        box = {"id": BACKGROUND_ID, **size, "fill": _hex(background)}
        ElementTree.SubElement(root, "rect", box)
    common = {"fill": "none", "stroke-linecap": "round", "stroke-linejoin": "round"}
    group = ElementTree.SubElement(root, "g", {"id": "strokes", **common})
    for nth, row in enumerate(to_rows(strokes), start=1):
        ElementTree.SubElement(group, "path", {"id": f"stroke-{nth:04d}", **_attributes(row)})
    return root


def to_text(root: ElementTree.Element) -> str:
    """A tree as a document, one element a line."""
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode") + "\n"


def number(value: float) -> str:
    """As short as it can be written with `DECIMALS` decimals."""
    text = f"{value:.{DECIMALS}f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def xml_text(text: str) -> str:
    """What XML 1.0 can hold of a text; ElementTree escapes it."""
    return re.sub("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "", text)


def _attributes(row: Row) -> dict[str, str]:
    """A path's attributes; what equals SVG's default or the group's value is left out."""
    attributes = {"d": _path_data(row.points, row.closed), "stroke": _hex(row.color)}
    attributes["stroke-width"] = number(2 * row.half_width)
    if row.color[3] < 1:
        attributes["stroke-opacity"] = number(row.color[3])
    if row.fill is not None:
        attributes["fill"] = _hex(row.fill)
        if row.fill[3] < 1:
            attributes["fill-opacity"] = number(row.fill[3])
    return attributes


def _path_data(points: list[list[float]], closed: bool) -> str:
    spots = [f"{number(x)},{number(y)}" for x, y in points]
    if closed:
        spots.append(spots[0])
    curves = [f"C{' '.join(spots[k : k + 3])}" for k in range(1, len(spots), 3)]
    return " ".join([f"M{spots[0]}", *curves, *(["Z"] if closed else [])])


def _hex(color: Sequence[float]) -> str:
    """#rrggbb of RGB or RGBA in [0, 1]; editors know alpha as an attribute of its own only."""
    return "#" + "".join(f"{round(255 * min(1.0, max(0.0, part))):02x}" for part in color[:3])
