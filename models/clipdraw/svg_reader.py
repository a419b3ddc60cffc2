"""SVG from wherever it was made, as strokes.

defusedxml keeps the XML parser from being turned against us. svgelements knows the grammar of path
data, lengths, transforms and colours, and is handed short strings only: it opens no file and no
address. What is inherited, drawn, repeated and refused is decided here (SVG 1.1, chapters 5 to 11).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from xml.etree import ElementTree

import numpy as np
import numpy.typing as npt
import svgelements
from defusedxml import DefusedXmlException
from defusedxml.ElementTree import DefusedXMLParser

from models.errors import InputError

from . import compound
from .plain import DEFAULT_LIMITS, MAX_SIDE, Limits, Row, from_rows, too_many
from .strokes import Strokes

NAMESPACE = "http://www.w3.org/2000/svg"
BACKGROUND_ID = "atelier-background"

Matrix = npt.NDArray[np.float64]
Box = tuple[float, float, float, float]
XY = tuple[float, float]


def read(data: bytes | str, *, side: int | None = None, limits: Limits = DEFAULT_LIMITS) -> Strokes:
    """The paths of an SVG document.

    Read are path (every command), rect, circle, ellipse, line, polyline and polygon; groups,
    symbols and `<use>`; transforms, nested viewports, viewBox and preserveAspectRatio; stroke,
    fill, width, opacity, display and visibility, inherited or not, as attributes, in `style`, and
    in `<style>` with selectors of one part (element, .class, #id).

    Lines and quadratics become cubics exactly, arcs to 3e-6 of their radius. Sub-paths become
    separate paths; where filled ones overlap, so that there may be holes, the fill becomes one
    path without a stroke (`compound.join`) and the strokes follow. Ends and joins become round, a
    gradient becomes its stops' mean colour, and a group's opacity multiplies its members'. Not
    drawn: text, embedded pictures, dashes, markers, masks, clips, filters, animation, and the
    background that `svg.write` puts behind a drawing.

    Args:
        side: the canvas's longer side in pixels, 1 to `MAX_SIDE`; None takes the document's own
            size, scaled down to `MAX_SIDE` where it is larger.

    Returns:
        Float32 strokes on the CPU in drawing order; `fills` is None where nothing is filled.

    Raises:
        InputError: not an SVG; one that refers to anything outside of itself, has a DOCTYPE or
            scripts, is compressed, exceeds `limits` or is damaged; or nothing to draw in it.
    """
    if side is not None and not 1 <= side <= MAX_SIDE:
        raise InputError(f"A canvas has 1 to {MAX_SIDE} pixels on its longer side, not {side}.")
    root = _parse(data, limits)
    _refuse_references(root)
    canvas = _canvas(root, side)
    with np.errstate(all="ignore"):  # what overflows is refused at the end, like NaN
        shapes = list(_Walk(root, limits).shapes(canvas))
        _refuse_long_paths(shapes, limits)
        return from_rows(_outlines(shapes, limits), canvas, limits)


# What svgelements stumbles over in text that is wrong.
_LIBRARY_ERRORS = (ValueError, TypeError, AttributeError, IndexError, ArithmeticError)


def _damaged(what: str) -> InputError:
    return InputError(f"This SVG is damaged: {what}; open it in a vector editor and save it again.")


def _hostile(what: str) -> InputError:
    return InputError(f"This SVG {what}; save it as plain SVG and try again.")


# --------------------------------------------------------------------------- XML, references


class _Builder(ElementTree.TreeBuilder):
    """Stops at the first element too many or too deep, before there is a tree of them."""

    def __init__(self, limits: Limits) -> None:
        super().__init__()
        self.limits, self.depth, self.count = limits, 0, 0

    def start(self, tag: Any, attrs: Any, /) -> ElementTree.Element:
        self.depth += 1
        self.count += 1
        if self.depth > self.limits.depth:
            raise too_many(f"groups nested deeper than {self.limits.depth}")
        if self.count > self.limits.elements:
            raise too_many(f"more than {self.limits.elements:,} elements")
        return super().start(tag, attrs)

    def end(self, tag: str, /) -> ElementTree.Element:
        self.depth -= 1
        return super().end(tag)

    def pi(self, target: str, text: str | None = None, /) -> Any:
        if target == "xml-stylesheet":
            raise _hostile("refers to a style sheet outside of it")
        return super().pi(target, text)


def _parse(data: bytes | str, limits: Limits) -> ElementTree.Element:
    """The document's tree, its tags without the SVG namespace."""
    if len(data) > limits.bytes:
        raise InputError(
            f"This SVG has more than {limits.bytes / 1e6:g} MB; simplify it in a vector editor."
        )
    if isinstance(data, bytes) and data.startswith(b"\x1f\x8b"):
        raise _hostile("is compressed (.svgz)")
    parser = DefusedXMLParser(target=_Builder(limits), forbid_dtd=True)
    try:
        parser.feed(data)
        root: ElementTree.Element = parser.close()
    except InputError:
        raise
    except DefusedXmlException:
        raise _hostile("has a DOCTYPE") from None
    except (ElementTree.ParseError, ValueError, LookupError):  # LookupError: unknown encoding
        raise InputError(
            "This file is no SVG: it is not well-formed XML; export it again as SVG."
        ) from None
    for element in root.iter():
        element.tag = element.tag.removeprefix(f"{{{NAMESPACE}}}")
    if root.tag != "svg":
        raise InputError("This file is no SVG but other XML; choose an SVG file.")
    return root


def _refuse_references(root: ElementTree.Element) -> None:
    """Nothing here follows a reference or runs a script; but a file with such would be drawn
    without the part that matters, and does harm wherever it is opened next."""
    for element in root.iter():
        if element.tag.rpartition("}")[2].lower() == "script":
            raise _hostile("contains a script")
        if element.tag == "style":
            _refuse_urls(element.text or "")
        for key, value in element.attrib.items():
            name = key.rpartition("}")[2].lower()
            if name.startswith("on"):
                raise _hostile("contains a script")
            if name not in ("href", "src"):
                _refuse_urls(value)
            elif not value.strip().startswith(("#", "data:") if element.tag == "image" else "#"):
                raise _hostile("refers to something outside of it")


def _refuse_urls(text: str) -> None:
    lowered = text.lower()
    targets = [part.lstrip(" \t\r\n\"'") for part in lowered.split("url(")[1:]]
    if "@import" in lowered or not all(target.startswith("#") for target in targets):
        raise _hostile("refers to something outside of it")


def _fragment(element: ElementTree.Element) -> str:
    href = element.get("href") or element.get("{http://www.w3.org/1999/xlink}href") or ""
    return href.strip().removeprefix("#")


# --------------------------------------------------------------------------- the cascade

_INITIAL = {
    "fill": "black",
    "stroke": "none",
    "stroke-width": "1",
    "fill-opacity": "1",
    "stroke-opacity": "1",
    "color": "black",
    "visibility": "visible",
    "fill-rule": "nonzero",
}
_PROPERTIES = {*_INITIAL, "opacity", "display", "transform", "stop-color", "stop-opacity"}


@dataclass(frozen=True)
class _Style:
    """What elements hand on to their children: properties as text, and the product of all
    opacities from the root down."""

    properties: Mapping[str, str] = field(default_factory=lambda: _INITIAL)
    opacity: float = 1.0

    def within(self, declared: Mapping[str, str]) -> _Style:
        """The style of a child that declares these properties."""
        new = {name: declared[name] for name in _INITIAL if declared.get(name)}
        kept = {name: value for name, value in new.items() if value != "inherit"}
        opacity = self.opacity * _alpha(declared.get("opacity", "1"))
        return _Style({**self.properties, **kept}, opacity)


def _style_rules(root: ElementTree.Element) -> dict[str, dict[str, str]]:
    """Declarations by selector of all `<style>` elements.

    Cut by `partition`: patterns for this can take quadratic time on text made to be slow.
    """
    sheets = [element.text or "" for element in root.iter() if element.tag == "style"]
    first, *rest = "\n".join(sheets).split("/*")
    plain = first + "".join(part.partition("*/")[2] for part in rest)
    rules: dict[str, dict[str, str]] = {}
    for block in plain.split("}"):
        selectors, _, body = block.partition("{")
        declarations = _declarations(body)
        for selector in selectors.split(",") if declarations else []:
            rules.setdefault(selector.strip(), {}).update(declarations)
    return rules


def _declarations(style: str) -> dict[str, str]:
    """The properties we know of `name: value; name: value`."""
    pairs = (part.partition(":") for part in style.split(";"))
    named = ((name.strip(), value.replace("!important", "").strip()) for name, _, value in pairs)
    return {name: value for name, value in named if name in _PROPERTIES}


# --------------------------------------------------------------------------- numbers


_LENGTH = re.compile(r"\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*([a-z]*|%)\s*")
_PIXELS = {
    "": 1.0,
    "px": 1.0,
    "pt": 96 / 72,
    "pc": 16.0,
    "in": 96.0,
    "cm": 96 / 2.54,
    "mm": 96 / 25.4,
    "em": 16.0,  # of the font that browsers begin with
    "rem": 16.0,
    "ex": 8.0,
}


def _length(text: str, whole: float) -> float:
    """Pixels of a length with a unit; `whole` is what percentages refer to."""
    match = _LENGTH.fullmatch(_short(text))
    pixels = match and {**_PIXELS, "%": whole / 100}.get(match[2])
    if not match or pixels is None:
        raise _damaged(f'"{text[:20]}" is no length')
    return float(match[1]) * pixels


def _diagonal(viewport: tuple[float, float]) -> float:
    """What percentages refer to that are neither horizontal nor vertical (SVG 1.1, 7.10)."""
    return math.hypot(*viewport) / math.sqrt(2)


def _alpha(text: str) -> float:
    """A number in [0, 1] or a percentage; what is neither counts as 1, like an absent one."""
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        return 1.0
    return min(1.0, max(0.0, value))  # NaN is no alpha either: max gives 0


def _matrix(text: str) -> Matrix:
    """(3, 3) of a transform attribute."""
    text = _short(text)
    try:
        m = svgelements.Matrix(text)
    except _LIBRARY_ERRORS:
        raise _damaged(f'"{text[:40]}" is no transform') from None
    values = [m.a, m.c, m.e, m.b, m.d, m.f]
    if not all(isinstance(value, (int, float)) for value in values):  # lengths in em, percent
        raise _damaged(f'"{text[:40]}" is no transform')
    return np.array([values[:3], values[3:], [0.0, 0.0, 1.0]])


def _shift(x: float, y: float) -> Matrix:
    return np.array([[1.0, 0.0, x], [0.0, 1.0, y], [0.0, 0.0, 1.0]])


def _color(text: str) -> list[float]:
    """Straight RGBA in [0, 1]; a word that is no colour is black."""
    text = _short(text)
    try:
        color = svgelements.Color(text)
    except _LIBRARY_ERRORS:
        raise _damaged(f'"{text[:20]}" is no colour') from None
    if color.value is None:
        return [0.0, 0.0, 0.0, 0.0]
    return [part / 255 for part in (color.red, color.green, color.blue, color.alpha)]


def _short(text: str) -> str:
    """Text for svgelements' patterns, which on endless text could take endless time."""
    if len(text) > 1000:
        raise _damaged("an attribute is far too long")
    return text


# --------------------------------------------------------------------------- canvas, viewports


def _canvas(root: ElementTree.Element, side: int | None) -> tuple[int, int]:
    width, height = _own_size(root)
    longest = max(width, height)
    factor = (side if side is not None else min(MAX_SIDE, longest)) / longest
    return max(1, round(width * factor)), max(1, round(height * factor))


def _own_size(root: ElementTree.Element) -> tuple[float, float]:
    """Width and height in px as given, or as the viewBox says."""
    box = _view_box(root) or (0.0, 0.0, 300.0, 150.0)  # what browsers take where nothing is said
    width, height = (
        _length(root.get(name, "100%"), size) for name, size in zip(("width", "height"), box[2:])
    )
    if "width" in root.attrib and "height" not in root.attrib:
        height = width * box[3] / box[2]
    if "height" in root.attrib and "width" not in root.attrib:
        width = height * box[2] / box[3]
    if not (min(width, height) >= 1e-3 and max(width, height) <= 1e6):
        raise _damaged("its width and height make no page")
    return width, height


def _view_box(element: ElementTree.Element) -> Box | None:
    text = element.get("viewBox")
    if text is None:
        return None
    try:
        x, y, width, height = (float(part) for part in text.replace(",", " ").split())
    except ValueError:
        raise _damaged("its viewBox is not four numbers") from None
    if not all(map(math.isfinite, (x, y, width, height))) or min(width, height) <= 0:
        raise _damaged("its viewBox has no area")
    return x, y, width, height


# --------------------------------------------------------------------------- the walk


@dataclass(frozen=True)
class _Shape:
    """A shape in its own coordinates and how it is painted (straight RGBA, None: not at all)."""

    geometry: str | svgelements.Shape  # path data, or one of svgelements' basic shapes
    matrix: Matrix  # (3, 3), to canvas pixels
    stroke: list[float] | None
    fill: list[float] | None
    width: float  # of the stroke, in the shape's own coordinates
    even_odd: bool  # the rule it is filled by


@dataclass(frozen=True)
class _Place:
    """Where the walk is."""

    style: _Style
    matrix: Matrix
    viewport: tuple[float, float]
    depth: int = 0
    use: ElementTree.Element | None = None  # set for what a <use> repeats, not for its children


_BASIC = {
    "rect": svgelements.Rect,
    "circle": svgelements.Circle,
    "ellipse": svgelements.Ellipse,
    "line": svgelements.SimpleLine,
}
_DRAWN = {*_BASIC, "path", "polyline", "polygon"}
_GROUPS = {"svg", "g", "a", "switch"}
_X, _Y, _WIDTH, _HEIGHT = ("x", "0"), ("y", "0"), ("width", "100%"), ("height", "100%")
_HORIZONTAL = ("x", "width", "rx", "cx", "x1", "x2")
_VERTICAL = ("y", "height", "ry", "cy", "y1", "y2")


class _Walk:
    """Goes through a document in drawing order, repeating what `<use>` repeats.

    Whatever costs more than the visit itself is kept, so that repeating it costs nothing.
    """

    def __init__(self, root: ElementTree.Element, limits: Limits) -> None:
        self.root, self.limits, self.visited = root, limits, 0
        self.by_id = {key: e for e in root.iter() if (key := e.get("id")) is not None}
        self.rules = _style_rules(root)
        self.declared: dict[ElementTree.Element, dict[str, str]] = {}
        self.matrices: dict[str, Matrix] = {}
        self.paints: dict[str, list[float]] = {}

    def shapes(self, canvas: tuple[int, int]) -> Iterator[_Shape]:
        width, height = canvas
        return self._visit(self.root, _Place(_Style(), np.eye(3), (float(width), float(height))))

    def _visit(self, element: ElementTree.Element, at: _Place) -> Iterator[_Shape]:
        self.visited += 1
        if at.depth > self.limits.depth:
            raise too_many("elements that repeat themselves without end")
        if self.visited > self.limits.elements:
            raise too_many(f"more than {self.limits.elements:,} elements")
        repeated_symbol = element.tag == "symbol" and at.use is not None
        if element.tag not in _DRAWN | _GROUPS | {"use"} and not repeated_symbol:
            return
        declared = self._declared(element)
        if declared.get("display") == "none" or element.get("id") == BACKGROUND_ID:
            return
        style = at.style.within(declared)
        matrix = at.matrix @ self._matrix(declared.get("transform", ""))
        if element.tag in _DRAWN:
            yield from self._drawn(element, style, matrix, at.viewport)
            return
        matrix, viewport = self._enter(element, matrix, at)
        place = _Place(style, matrix, viewport, at.depth + 1)
        if element.tag != "use":
            for child in element:
                yield from self._visit(child, place)
        elif (target := self.by_id.get(_fragment(element))) is not None:
            yield from self._visit(target, _Place(style, matrix, viewport, at.depth + 1, element))

    def _enter(
        self, element: ElementTree.Element, matrix: Matrix, at: _Place
    ) -> tuple[Matrix, tuple[float, float]]:
        """Matrix and viewport within a container."""
        if element is self.root:  # its size has become the canvas
            box = _view_box(element) or (0.0, 0.0, *_own_size(element))
            return self._fit(element, matrix, (0.0, 0.0, *at.viewport), box)
        if element.tag not in ("use", "svg", "symbol"):
            return matrix, at.viewport
        own = {**element.attrib, **_size_of(at.use)}
        x, width = (_length(own.get(*name), at.viewport[0]) for name in (_X, _WIDTH))
        y, height = (_length(own.get(*name), at.viewport[1]) for name in (_Y, _HEIGHT))
        if element.tag == "use":
            return matrix @ _shift(x, y), at.viewport
        inner = _view_box(element)
        if inner is None:
            return matrix @ _shift(x, y), (width, height)
        return self._fit(element, matrix, (x, y, width, height), inner)

    def _fit(
        self, element: ElementTree.Element, matrix: Matrix, outer: Box, inner: Box
    ) -> tuple[Matrix, tuple[float, float]]:
        """Matrix and viewport within an element whose viewBox `inner` is shown in `outer`."""
        aspect = element.get("preserveAspectRatio")
        fit = svgelements.Viewbox.viewbox_transform(*outer, *inner, aspect)
        return matrix @ self._matrix(fit), (inner[2], inner[3])

    def _drawn(
        self,
        element: ElementTree.Element,
        style: _Style,
        matrix: Matrix,
        viewport: tuple[float, float],
    ) -> Iterator[_Shape]:
        stroke, fill = self._paint("stroke", style), self._paint("fill", style)
        if element.tag == "line":
            fill = None  # it has no inside
        if style.properties["visibility"] != "visible" or (stroke is None and fill is None):
            return
        width = _length(style.properties["stroke-width"], _diagonal(viewport))
        even_odd = style.properties["fill-rule"] == "evenodd"
        yield _Shape(_geometry(element, viewport), matrix, stroke, fill, width, even_odd)

    def _paint(self, kind: str, style: _Style) -> list[float] | None:
        """Straight RGBA of a style's "stroke" or "fill", with all opacities; None for none."""
        text = style.properties[kind].strip()
        if text.lower() == "currentcolor":
            text = style.properties["color"]
        if text == "none":
            return None
        if text.startswith("url("):
            key = text[4:].partition(")")[0].strip(" \"'").removeprefix("#")
            if key not in self.by_id:
                return None
            rgba = self._mean_stop(key)
        else:
            rgba = _color(text)
        alpha = _alpha(style.properties[f"{kind}-opacity"]) * style.opacity
        return [*rgba[:3], rgba[3] * alpha]

    def _mean_stop(self, key: str) -> list[float]:
        """RGBA in the middle of a gradient, whose stops may stand in another one; grey if none."""
        if key not in self.paints:
            element: ElementTree.Element | None = self.by_id[key]
            colors: list[list[float]] = []
            for _ in range(self.limits.depth):
                if element is None or colors:
                    break
                colors = [self._stop(child) for child in element if child.tag == "stop"]
                element = self.by_id.get(_fragment(element))
            mean = np.mean(colors, axis=0).tolist() if colors else [0.5, 0.5, 0.5, 1.0]
            self.paints[key] = mean
        return self.paints[key]

    def _stop(self, stop: ElementTree.Element) -> list[float]:
        declared = self._declared(stop)
        rgba = _color(declared.get("stop-color", "black"))
        return [*rgba[:3], rgba[3] * _alpha(declared.get("stop-opacity", "1"))]

    def _declared(self, element: ElementTree.Element) -> dict[str, str]:
        """Properties of an element: attributes, then style sheet, then its style attribute."""
        if element not in self.declared:
            declared = {name: element.attrib[name] for name in _PROPERTIES & element.attrib.keys()}
            classes = [f".{name}" for name in element.get("class", "").split()]
            for selector in ("*", element.tag, *classes, f"#{element.get('id')}"):
                declared.update(self.rules.get(selector, {}))
            declared.update(_declarations(element.get("style", "")))
            self.declared[element] = declared
        return self.declared[element]

    def _matrix(self, text: str) -> Matrix:
        if text not in self.matrices:
            self.matrices[text] = _matrix(text)
        return self.matrices[text]


def _size_of(use: ElementTree.Element | None) -> dict[str, str]:
    """Width and height that a `<use>` gives to the symbol it repeats."""
    if use is None:
        return {}
    return {name: use.attrib[name] for name in ("width", "height") if name in use.attrib}


def _geometry(
    element: ElementTree.Element, viewport: tuple[float, float]
) -> str | svgelements.Shape:
    if element.tag == "path":
        return element.get("d", "").strip()
    if element.tag in ("polyline", "polygon"):
        points = element.get("points", "").strip()  # pairs after a first move are lines
        return f"M{points}{'Z' if element.tag == 'polygon' else ''}" if points else ""
    wholes = {
        **dict.fromkeys(_HORIZONTAL, viewport[0]),
        **dict.fromkeys(_VERTICAL, viewport[1]),
        "r": _diagonal(viewport),
    }
    sizes = {
        name: _length(element.attrib[name], whole)
        for name, whole in wholes.items()
        if element.get(name, "auto") != "auto"
    }
    return _BASIC[element.tag]({name: repr(size) for name, size in sizes.items()})


# --------------------------------------------------------------------------- shapes to paths

_TOKEN = re.compile(r"[A-Za-z]|[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")
_CUBIC = 7  # letters and numbers of one: C and three points


def _refuse_long_paths(shapes: Sequence[_Shape], limits: Limits) -> None:
    """Counting a path's letters and numbers takes a fraction of the time that reading it takes."""
    if len(shapes) > limits.paths:
        raise too_many(f"more than {limits.paths:,} paths")
    texts = [shape.geometry for shape in shapes if isinstance(shape.geometry, str)]
    most = _CUBIC * limits.segments + 4 * limits.paths  # M and its point, Z
    weight = 12 * _CUBIC * (len(shapes) - len(texts))  # a circle is 12 curves
    if weight > most or sum(map(len, texts)) > limits.bytes:
        raise too_many(f"more than {limits.segments:,} curves")
    for text in texts:
        each = 1
        for token in _TOKEN.findall(text):
            if token.isalpha():  # an arc of 7 numbers is up to 12 curves, and slow to read
                each = _CUBIC if token in "Aa" else 1
            weight += each
        if weight > most:
            raise too_many(f"more than {limits.segments:,} curves")


def _outlines(shapes: Sequence[_Shape], limits: Limits) -> list[Row]:
    rows: list[Row] = []
    segments = 0
    for shape in shapes:
        subpaths = _controls(shape.geometry)
        segments += sum(len(points) // 3 for points, _ in subpaths)
        if len(rows) + len(subpaths) > limits.paths:
            raise too_many(f"more than {limits.paths:,} paths")
        if segments > limits.segments:
            raise too_many(f"more than {limits.segments:,} curves")
        rows.extend(_rows(shape, subpaths))
    return rows


def _rows(shape: _Shape, subpaths: Sequence[tuple[list[XY], bool]]) -> Iterator[Row]:
    linear, offset = shape.matrix[:2, :2], shape.matrix[:2, 2]
    scale = math.sqrt(abs(float(np.linalg.det(linear))))
    half_width = 0.0 if shape.stroke is None else max(0.0, scale * shape.width / 2)
    clear, fill = [0.0] * 4, shape.fill
    if fill is not None and len(subpaths) > 1:
        outlines = [np.asarray(p if closed else _closed(p)) for p, closed in subpaths]
        if compound.overlap(outlines):
            joined = compound.join(outlines, even_odd=shape.even_odd) @ linear.T + offset
            yield Row(joined.tolist(), True, 0.0, clear, fill)
            fill = None
    if shape.stroke is not None or fill is not None:
        for points, closed in subpaths:
            moved = np.asarray(points) @ linear.T + offset  # (L, 2)
            yield Row(moved.tolist(), closed, half_width, shape.stroke or clear, fill)


def _controls(
    geometry: str | svgelements.Shape,
) -> list[tuple[list[XY], bool]]:
    """Control points of each sub-path, 3n + 1 of an open and 3n of a closed one, and which it is."""
    if isinstance(geometry, str) and geometry[:1] not in ("M", "m", ""):
        raise _damaged("a path does not begin with a move")
    try:
        return list(_subpaths(svgelements.Path(geometry)))
    except _LIBRARY_ERRORS:
        raise _damaged("a path cannot be read") from None


def _subpaths(path: svgelements.Path) -> Iterator[tuple[list[XY], bool]]:
    points: list[XY] = []
    for segment in path:
        if isinstance(segment, (svgelements.Move, svgelements.Close)) and points:
            if isinstance(segment, svgelements.Close):
                yield _closed(points), True
            elif len(points) > 1:
                yield points, False
            points = []
        if isinstance(segment, svgelements.Move):
            points = [_xy(segment.end)]
        elif not isinstance(segment, svgelements.Close):
            points = points or [_xy(segment.start)]  # after Z without a move
            points.extend(_cubics(segment))
    if len(points) > 1:
        yield points, False


def _closed(points: list[XY]) -> list[XY]:
    """Of a sub-path that Z ends: without its last point if that is the first one, else with a
    line back to it. Z after a mere move is a dot."""
    first, last = points[0], points[-1]
    near = math.dist(first, last) <= 1e-9 * (1 + max(map(abs, first)))
    if near and len(points) > 1:
        return points[:-1]
    return points + _line(last, first)[:-1]


def _cubics(segment: Any) -> list[XY]:
    """Two control points and the end, once for each cubic that makes up a segment."""
    if isinstance(segment, svgelements.Arc) and min(segment.rx, segment.ry) > 0:
        pieces = list(segment.as_cubic_curves())
        return [_xy(p) for c in pieces for p in (c.control1, c.control2, c.end)]
    start, end = _xy(segment.start), _xy(segment.end)
    if isinstance(segment, svgelements.CubicBezier):
        return [_xy(segment.control1), _xy(segment.control2), end]
    if isinstance(segment, svgelements.QuadraticBezier):
        control = _xy(segment.control)
        return [_between(start, control, 2 / 3), _between(end, control, 2 / 3), end]
    # Line, or an arc without a radius (SVG 1.1, F.6.6).
    return _line(start, end)


def _line(start: XY, end: XY) -> list[XY]:
    return [_between(start, end, 1 / 3), _between(start, end, 2 / 3), end]


def _between(start: XY, end: XY, share: float) -> XY:
    return start[0] + share * (end[0] - start[0]), start[1] + share * (end[1] - start[1])


def _xy(point: Any) -> XY:
    return float(point.x), float(point.y)
