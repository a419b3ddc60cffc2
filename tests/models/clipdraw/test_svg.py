"""SVG: what we write is plain and complete, what others wrote is understood or refused."""

from __future__ import annotations

import contextlib
import gzip
import json
import math
import random
import time
from dataclasses import replace

import pytest
import torch
from defusedxml.ElementTree import fromstring

from models.clipdraw import svg
from models.clipdraw.export import picture
from models.clipdraw.plain import MAX_PATHS, Limits
from models.clipdraw.strokes import Strokes, paths
from models.errors import InputError
from tests.clipdraw_support import psnr, random_scene, resvg

SVG = "{http://www.w3.org/2000/svg}"


def document(body: str, attributes: str = 'width="100" height="100"') -> str:
    names = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    return f"<svg {names} {attributes}>{body}</svg>"


def line(x: float = 10, half_width: float = 2.0) -> Strokes:
    points = torch.tensor([[x, 10.0], [20, 10], [30, 10], [40, 20]])
    color = torch.tensor([[1.0, 0.5, 0.0, 0.5]])
    return paths([points], torch.tensor([half_width]), color, (50, 40))


# --------------------------------------------------------------------------------- writing


def test_a_drawing_is_one_plain_path_a_stroke() -> None:
    assert svg.write(line(), title="A line", background=(1, 1, 1), metadata={"seed": 3}) == (
        '<svg xmlns="http://www.w3.org/2000/svg" version="1.1" width="50" height="40" '
        'viewBox="0 0 50 40">\n'
        "  <title>A line</title>\n"
        '  <metadata>{"seed": 3}</metadata>\n'
        '  <rect id="atelier-background" width="50" height="40" fill="#ffffff" />\n'
        '  <g id="strokes" fill="none" stroke-linecap="round" stroke-linejoin="round">\n'
        '    <path id="stroke-0001" d="M10,10 C20,10 30,10 40,20" stroke="#ff8000" '
        'stroke-width="4" stroke-opacity="0.5" />\n'
        "  </g>\n"
        "</svg>\n"
    )


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("count", "side", "scale"), [(48, 96, 1), (64, 224, 1), (48, 96, 3)])
def test_an_independent_renderer_sees_what_we_see(
    seed: int, count: int, side: int, scale: int
) -> None:
    scene = random_scene(seed, count, side)
    ours = picture(scene, side=scale * side)
    assert psnr(resvg(svg.write(scene), width=scale * side), ours) >= 35


@pytest.mark.parametrize("fills", [True, False])
def test_what_is_written_is_read_again(fills: bool) -> None:
    scene = random_scene(5, fills=fills)
    again = svg.read(svg.write(scene, background=(1, 0.9, 0.8), title="x"))
    assert again.canvas == scene.canvas
    assert torch.equal(again.segments, scene.segments)
    assert torch.equal(again.closed, scene.closed)
    apart = (again.points - scene.points)[scene.own].abs().max()
    assert apart <= 0.51e-3
    torch.testing.assert_close(again.half_widths, scene.half_widths, atol=0.3e-3, rtol=0)
    torch.testing.assert_close(again.colors, scene.colors, atol=0.51 / 255, rtol=0)
    assert (again.fills is None) == (not fills)
    if fills:
        torch.testing.assert_close(again.fills, scene.fills, atol=0.51 / 255, rtol=0)
    assert svg.write(again) == svg.write(svg.read(svg.write(again)))


def test_the_same_strokes_give_the_same_bytes() -> None:
    assert svg.write(random_scene(7), title="a") == svg.write(random_scene(7), title="a")


def test_a_stroke_without_length_stays_a_round_dot() -> None:
    dot = paths([torch.full((4, 2), 20.0)], torch.tensor([5.0]), torch.ones(1, 4) * 0.5, (40, 40))
    assert psnr(resvg(svg.write(dot)), picture(dot)) >= 35
    assert picture(dot).getpixel((20, 20)) != (255, 255, 255)


@pytest.mark.parametrize(
    "typed",
    [
        "<script>alert(1)</script>",
        "]]>",
        "</title><script>alert(1)</script>",
        '"\'><image href="http://example.com/x"/>',
        "&lt;b&gt; &amp; <!-- -->",
        "watercolour: é 水 \U0001f34e",
    ],
)
def test_what_was_typed_is_text_and_nothing_else(typed: str) -> None:
    text = svg.write(line(), title=typed, metadata={"prompt": typed})
    root = fromstring(text)
    assert root.find(f"{SVG}title").text == typed
    assert json.loads(root.find(f"{SVG}metadata").text) == {"prompt": typed}
    names = {element.tag.removeprefix(SVG) for element in root.iter()}
    assert names == {"svg", "title", "metadata", "g", "path"}


def test_characters_that_xml_cannot_hold_are_left_out() -> None:
    text = svg.write(line(), title="a\x00\x1b\ud800\ufffeb")
    assert fromstring(text).find(f"{SVG}title").text == "ab"


@pytest.mark.parametrize(
    ("strokes", "why"),
    [
        (line(math.nan), "not finite"),
        (line(math.inf), "not finite"),
        (line(half_width=math.nan), "not finite"),
        (line().select(torch.zeros(MAX_PATHS + 1, dtype=torch.long)), "4,097 strokes"),
    ],
)
def test_what_cannot_be_written_is_said(strokes: Strokes, why: str) -> None:
    with pytest.raises(InputError, match=why):
        svg.write(strokes)


def test_padding_may_hold_anything() -> None:
    scene = random_scene(3, 8)
    points = scene.points.masked_fill(~scene.own[..., None], math.nan)
    assert svg.write(replace(scene, points=points)) == svg.write(scene)


# --------------------------------------------------------------------------------- reading

ROUND = 'fill="none" stroke="black" stroke-width="3" stroke-linecap="round" stroke-linejoin="round"'
GRADIENT = (
    '<linearGradient id="a"><stop offset="0" stop-color="#804020"/>'
    '<stop offset="1" style="stop-color:#804020"/></linearGradient>'
    '<radialGradient id="b" xlink:href="#a"/>'
)

FOREIGN = {
    "lines": document(f'<path d="M10 10L90 20H50V80l-20-30h-9v-9z" {ROUND}/>'),
    "cubics": document(f'<path d="m10 10c40 0 0 60 70 40s-30 20-30 30S80 70 90 90" {ROUND}/>'),
    "quadratics": document(f'<path d="M10 50Q30 0 50 50T90 50q-20 40-40 0t-30 9" {ROUND}/>'),
    "arcs": document(f'<path d="M20 50A30 20 30 1 1 60 60a9 15 0 01 20 5a5,5 0 106,6" {ROUND}/>'),
    "flat arc": document(f'<path d="M20 50A0 20 30 1 1 60 60A9 9 0 0 0 60 60" {ROUND}/>'),
    "after z": document(f'<path d="M20 20h20v20z l-10 30 M50 50 60 60 70 50z m9 9h9" {ROUND}/>'),
    "compact": document(f'<path d="M.5.5.5 50-.5-1e1L1.5e1+20.25" {ROUND}/>'),
    "dots": document(f'<path d="M30 30z M60 60L60 60" {ROUND}/>'),
    "rect": document('<rect x="10" y="20" width="50%" height="30" fill="teal"/>'),
    "round rect": document('<rect x="10" y="20" width="60" height="50" rx="12" fill="#c40"/>'),
    "circle": document('<circle cx="50" cy="40" r="30" fill="rgb(10%,50%,90%)"/>'),
    "ellipse": document(f'<ellipse cx="50" cy="40" rx="30" ry="12" {ROUND}/>'),
    "line": document(
        '<line x1="10" y1="5" x2="80" y2="70" stroke="#808" stroke-width="9" stroke-linecap="round"/>'
    ),
    "polyline": document('<polyline points="10,10 60,20,50 90" fill="gold" stroke="none"/>'),
    "polygon": document(f'<polygon points="10,10 60,20 50,90" {ROUND}/>'),
    "default fill": document('<path d="M10 10L90 20L30 70z"/>'),
    "open fill": document(
        '<path d="M10 10L90 20L30 70" fill="#f80" stroke="navy" stroke-width="6" '
        'stroke-linecap="round" stroke-linejoin="round"/>'
    ),
    "ring": document('<path d="M10 10h80v80h-80z M30 30v40h40v-40z" fill="teal"/>'),
    "no ring": document('<path d="M10 10h80v80h-80z M30 30h40v40h-40z" fill="teal"/>'),
    "even-odd rings": document(
        '<path fill-rule="evenodd" fill="#a40" d="M10 10h80v80h-80z M20 20h60v60h-60z '
        "M50 30a20 20 0 100 40a20 20 0 100-40z M45 45h10v10h-10z M83 83h4v4h-4z "
        'M94 2l4 0 0 4z"/>'
    ),
    "stroked ring": document(
        '<path d="M10 10h80v80h-80z M30 30v40h40v-40" fill="teal" fill-opacity=".5" '
        'stroke="red" stroke-width="6" stroke-linejoin="round" stroke-linecap="round"/>'
    ),
    "overlapping": document('<path d="M10 10h50v50h-50zM40 40h50v50h-50z" fill="navy"/>'),
    "translucent": document(
        '<path d="M10 10L90 20L30 70z" fill="red" fill-opacity=".4" stroke="#00f" '
        'stroke-opacity="50%" stroke-width="8" stroke-linejoin="round"/>'
    ),
    "inherited": document(
        f'<g {ROUND} color="green"><g stroke="currentColor" stroke-width="7">'
        '<path d="M10 10L80 50"/><path d="M10 60L80 90" stroke="inherit"/></g></g>'
    ),
    "style attribute": document(
        '<path style="fill:none;stroke:#0a0;stroke-width:5px;stroke-linecap:round" '
        'stroke="red" d="M10 10L80 50"/>'
    ),
    "style sheet": document(
        "<style>/* a */ path{fill:none;stroke-linecap:round} .b, .c{stroke:purple}"
        "#d{stroke-width:9}</style>"
        '<path class="x b" d="M10 10L80 50"/><path id="d" class="c" d="M10 60L80 90"/>'
    ),
    "group opacity": document(
        '<g opacity=".5"><g opacity="0.5"><circle cx="50" cy="50" r="40" fill="red"/></g></g>'
    ),
    "transforms": document(
        '<g transform="translate(50,50) rotate(30)"><g transform="scale(.5) skewX(20)">'
        '<rect x="-40" y="-40" width="70" height="60" fill="#483" '
        'transform="matrix(1 .2 -.1 1 4 5)"/></g></g>'
    ),
    "scaled width": document(f'<g transform="scale(3)"><path d="M5 5L25 20" {ROUND}/></g>'),
    "view box": document(
        f'<path d="M-40 0L40 20" {ROUND}/>', 'width="120" height="80" viewBox="-50 -20 100 80"'
    ),
    "stretched": document(
        '<circle r="40" fill="red"/>',
        'width="120" height="80" viewBox="-50 -50 100 100" preserveAspectRatio="none"',
    ),
    "slice": document(
        '<circle r="40" fill="red"/>',
        'width="120" height="80" viewBox="-50 -50 100 100" preserveAspectRatio="xMinYMax slice"',
    ),
    "no size": document('<circle r="40" fill="red"/>', 'viewBox="-50 -50 100 90"'),
    "use": document(
        f'<defs><path id="p" d="M0 0L20 10" {ROUND}/></defs><use href="#p" x="10" y="20"/>'
        '<use xlink:href="#p" transform="translate(50 50) rotate(40)"/>'
    ),
    "symbol": document(
        '<symbol id="s" viewBox="0 0 10 10"><circle cx="5" cy="5" r="4" fill="blue"/></symbol>'
        '<use href="#s" x="10" y="20" width="60" height="60"/>'
    ),
    "nested svg": document(
        '<svg x="20" y="10" width="60" height="70" viewBox="0 0 10 10">'
        '<rect width="50%" height="10" fill="#963"/></svg>'
    ),
    "gradients": document(f'<defs>{GRADIENT}</defs><rect width="90" height="50" fill="url(#b)"/>'),
    "units": document('<rect x="1mm" y=".1in" width="2cm" height="30pt" fill="#639"/>'),
    "invisible": document(
        '<rect width="9" height="9"/><g visibility="hidden"><rect width="90" height="90"/>'
        '<rect x="50" y="50" width="20" height="20" visibility="visible"/></g>'
        '<g display="none"><rect width="90" height="90"/></g>'
        '<clipPath id="c"><rect width="90" height="90"/></clipPath>'
    ),
    "foreign elements": document(
        '<desc>x</desc><x:thing xmlns:x="urn:x"><rect width="90" height="90"/></x:thing>'
        '<switch><foreignObject/><g><rect width="30" height="20" fill="red"/></g></switch>'
    ),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_a_document_from_elsewhere_looks_as_in_another_renderer(name: str) -> None:
    theirs, ours = resvg(FOREIGN[name]), picture(svg.read(FOREIGN[name]))
    assert ours.getcolors(1) is None  # something is drawn
    assert psnr(theirs, ours) >= 35


@pytest.mark.parametrize("name", ["ring", "no ring", "even-odd rings", "overlapping"])
def test_what_is_filled_together_is_one_path_and_stays_one(name: str) -> None:
    strokes = svg.read(FOREIGN[name])
    text = svg.write(strokes)
    assert len(strokes) == 1
    assert psnr(resvg(text), resvg(FOREIGN[name])) >= 45
    assert svg.write(svg.read(text)) == text


def test_a_thousand_nested_outlines_are_read_in_a_moment() -> None:
    squares = "".join(f"M{k / 8} {k / 8}H{400 - k / 8}V{400 - k / 8}H{k / 8}z" for k in range(1500))
    start = time.process_time()
    strokes = svg.read(document(f'<path fill-rule="evenodd" d="{squares}"/>'))
    assert time.process_time() - start < 2
    assert len(strokes) == 1


@pytest.mark.parametrize(
    ("data", "controls"),
    [
        ("M0 0L30 60", [[0, 0], [10, 20], [20, 40], [30, 60]]),
        ("M0 0Q30 60 90 0", [[0, 0], [20, 40], [50, 40], [90, 0]]),
        ("M0 0C1 2 3 4 5 6", [[0, 0], [1, 2], [3, 4], [5, 6]]),
        ("M9 9m-4 0c1 2 3 4 5 6", [[5, 9], [6, 11], [8, 13], [10, 15]]),
        ("M0 0H30", [[0, 0], [10, 0], [20, 0], [30, 0]]),
    ],
)
def test_a_segment_becomes_its_cubic(data: str, controls: list[list[float]]) -> None:
    strokes = svg.read(document(f'<path d="{data}" stroke="red" fill="none"/>'))
    torch.testing.assert_close(strokes.points[0], torch.tensor(controls, dtype=torch.float32))
    assert not strokes.closed[0]


def test_arcs_keep_to_their_circle() -> None:
    strokes = svg.read(document('<circle r="1000"/>', 'width="100" height="100"'))
    cubics, _ = strokes.to("cpu", torch.float64).cubics()
    t = torch.linspace(0, 1, 65, dtype=torch.float64)[:, None]
    a, b, c, d = (cubics[:, None, k] for k in range(4))
    curve = (1 - t) ** 3 * a + 3 * t * (1 - t) ** 2 * b + 3 * t**2 * (1 - t) * c + t**3 * d
    assert (curve.norm(dim=-1) - 1000).abs().max() <= 1000 * 3e-6
    assert strokes.closed.tolist() == [True]


def test_a_line_has_no_inside() -> None:
    strokes = svg.read(document('<line x2="9" y2="5" stroke="red"/><line x2="5"/>'))
    assert (len(strokes), strokes.fills) == (1, None)


def test_sub_paths_become_paths_of_their_own() -> None:
    strokes = svg.read(document('<path d="M0 0h9v9zM20 20h9v9h-9z M50 50h9" stroke="red"/>'))
    assert strokes.segments.tolist() == [3, 4, 1]
    assert strokes.closed.tolist() == [True, True, False]


@pytest.mark.parametrize(
    ("attributes", "side", "canvas"),
    [
        ('width="120" height="80"', None, (120, 80)),
        ('width="12000" height="3000"', None, (4096, 1024)),
        ('width="120" height="80"', 60, (60, 40)),
        ('width="1in" height="48pt"', None, (96, 64)),
        ('viewBox="0 0 30 20"', None, (30, 20)),
        ('viewBox="0 0 30 20" width="60"', None, (60, 40)),
        ('viewBox="0 0 30 20" width="100%" height="100%"', None, (30, 20)),
        ("", None, (300, 150)),
    ],
)
def test_the_canvas(attributes: str, side: int | None, canvas: tuple[int, int]) -> None:
    strokes = svg.read(document('<path d="M0 0L15 10" stroke="red"/>', attributes), side=side)
    assert strokes.canvas == canvas


@pytest.mark.parametrize("side", [0, -1, 4097, 10**9])
def test_a_side_out_of_range_is_refused(side: int) -> None:
    with pytest.raises(InputError, match="1 to 4096 pixels"):
        svg.read(FOREIGN["lines"], side=side)


def test_bytes_in_other_encodings_are_read() -> None:
    text = '<?xml version="1.0" encoding="UTF-16"?>' + FOREIGN["lines"]
    assert len(svg.read(text.encode("utf-16"))) == 1
    assert len(svg.read(b"\xef\xbb\xbf" + FOREIGN["lines"].encode())) == 1


def test_text_and_embedded_pictures_are_left_out() -> None:
    extras = '<text>hello</text><image href="data:image/png;base64,iVBORw0KGgo="/>'
    assert len(svg.read(document(extras + '<path d="M0 0L5 5"/>'))) == 1


# --------------------------------------------------------------------------------- refusing

PATH = '<path d="M0 0L5 5" stroke="red"/>'
BOMB = "".join(f'<!ENTITY {b} "{f"&{a};" * 10}">' for a, b in zip("abcdefghi", "bcdefghij"))
USES = "".join(
    f'<g id="u{k}">{f"""<use href="#u{k + 1}"/>""" * 10}</g>' for k in range(9)
)  # 10^9 paths


def path(data: str) -> str:
    return document(f'<path d="{data}" stroke="red"/>')


HOSTILE = {
    "nothing": ("", "not well-formed"),
    "no XML": ("draw me a sheep", "not well-formed"),
    "binary": (b"\x89PNG\r\n\x1a\n\x00\x00", "not well-formed"),
    "cut off": (document(PATH)[:-9], "not well-formed"),
    "unknown encoding": (b'<?xml version="1.0" encoding="x-no"?><svg/>', "not well-formed"),
    "lone surrogate": ("<svg>\ud800</svg>", "not well-formed"),
    "other XML": ("<html><body/></html>", "other XML"),
    "no namespace, no path": ("<svg/>", "no path to draw"),
    "only text": (document("<text>hello</text>"), "no path to draw"),
    "only a picture": (document('<image href="data:image/png;base64,AA=="/>'), "no path to draw"),
    "only moves": (path("M5 5M6 6"), "no path to draw"),
    "unpainted": (document('<path d="M0 0L5 5" fill="none"/>'), "no path to draw"),
    "compressed": (gzip.compress(document(PATH).encode()), "compressed"),
    "100 MB": (b"<svg>" + b" " * 100_000_000, "more than 2 MB"),
    "doctype": (f'<!DOCTYPE svg SYSTEM "http://x/svg.dtd">{document(PATH)}', "DOCTYPE"),
    "billion laughs": (
        f'<!DOCTYPE svg [<!ENTITY a "ha">{BOMB}]>{document("<text>&j;</text>" + PATH)}',
        "DOCTYPE",
    ),
    "file entity": (
        f'<!DOCTYPE svg [<!ENTITY x SYSTEM "file:///etc/passwd">]>{document("&x;" + PATH)}',
        "DOCTYPE",
    ),
    "billion uses": (document(USES + f'<g id="u9">{PATH}</g><use href="#u0"/>'), "20,000 elements"),
    "use of itself": (document('<g id="a"><use href="#a"/></g>'), "without end"),
    "script": (document(f"<script>alert(1)</script>{PATH}"), "script"),
    "foreign script": (document(f'<h:script xmlns:h="urn:h">1</h:script>{PATH}'), "script"),
    "event handler": (document(PATH, 'onload="alert(1)"'), "script"),
    "javascript link": (document(f'<a href="javascript:alert(1)">{PATH}</a>'), "outside"),
    "remote picture": (document(f'<image href="http://x/y.png"/>{PATH}'), "outside"),
    "local picture": (document(f'<image xlink:href="file:///etc/passwd"/>{PATH}'), "outside"),
    "remote use": (document(f'<use href="http://x/y.svg#a"/>{PATH}'), "outside"),
    "remote paint": (document('<path d="M0 0L5 5" fill="url(http://x/y#a)"/>'), "outside"),
    "remote style": (document(f"<g style=\"fill:URL( '//x')\">{PATH}</g>"), "outside"),
    "import": (document(f'<style>@import "http://x/y.css";</style>{PATH}'), "outside"),
    "remote font": (document(f"<style>a{{b:url(http://x)}}</style>{PATH}"), "outside"),
    "style sheet": (f'<?xml-stylesheet href="http://x/y.css"?>{document(PATH)}', "outside"),
    "100,000 paths": (document('<path d="M0 0L5"/>' * 100_000), "20,000 elements"),
    "5,000 paths": (document(PATH * 5000), "4,096 paths"),
    "5,000 sub-paths": (path("M0 0L5 5" * 5000), "4,096 paths"),
    "a million lines": (path("M0 0" + "h1" * 990_000), "32,768 curves"),
    "many cubics": (path("M0 0" + "C1 2 3 4 5 6" * 40_000), "32,768 curves"),
    "many arcs": (path("M0 0" + "a9 9 0 1 1 1 0" * 20_000), "32,768 curves"),
    "many z": (path("M0 0" + "z" * 1_000_000), "32,768 curves"),
    "repeated commas": (
        document(
            f'<path id="p" d="M0 0{"," * 100_000}" stroke="red"/>' + '<use href="#p"/>' * 4000
        ),
        "32,768 curves",
    ),
    "one long, many short": (
        document(PATH * 2000 + f'<path d="M0 0{"h1" * 1000}"/>'),
        "one of them very long",
    ),
    "deep": (document("<g>" * 100_000 + PATH + "</g>" * 100_000), "nested deeper"),
    "many elements": (document("<g/>" * 100_000 + PATH), "20,000 elements"),
    "not a number": (path("M0 0L5 NaN"), "path cannot be read"),
    "infinite": (path("M0 0L5 1e999"), "far outside"),
    "infinite arc": (path("M0 0A9 9 1e999 0 1 5 5"), "path cannot be read"),
    "4,000 circles": (document('<circle r="5"/>' * 4000), "32,768 curves"),
    "1e9": (path("M0 0L5 1e9"), "far outside"),
    "endless number": (path("M0 0L5 " + "9" * 1_000_000), "far outside"),
    "half a pair": (path("M0 0L5"), "path cannot be read"),
    "no move": (path("L5 5L6 6"), "begin with a move"),
    "no path data": (path("banana"), "begin with a move"),
    "huge transform": (document(f'<g transform="scale(1e200)scale(1e200)">{PATH}</g>'), "outside"),
    "long transform": (document(f'<g transform="{"scale(2)" * 9999}">{PATH}</g>'), "too long"),
    "endless turn": (document(f'<g transform="rotate(1e400)">{PATH}</g>'), "no transform"),
    "bad transform": (document(f'<g transform="translate(2em)">{PATH}</g>'), "no transform"),
    "huge width": (document('<path d="M0 0L5 5" stroke="red" stroke-width="1e9"/>'), "outside"),
    "bad length": (document('<path d="M0 0L5 5" stroke="red" stroke-width="5vw"/>'), "no length"),
    "no page": (document(PATH, 'width="0" height="10"'), "no page"),
    "endless page": (document(PATH, 'width="1e300" height="10"'), "no page"),
    "bad view box": (document(PATH, 'viewBox="0 0 a 5"'), "four numbers"),
    "flat view box": (document(PATH, 'viewBox="0 0 0 5"'), "no area"),
    "view box NaN": (document(PATH, 'viewBox="0 0 nan 5"'), "no area"),
    "slow sheet": (
        document("<style>" + "a," * 400_000 + "{" + "b:c;" * 200_000 + "}</style>"),
        ".",
    ),
    "slow comments": (document("<style>" + "/*" * 900_000 + "</style>"), "no path to draw"),
    "slow braces": (document("<style>" + "{" * 1_900_000 + "</style>"), "no path to draw"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_document_is_refused_quickly_with_a_sentence(name: str) -> None:
    data, why = HOSTILE[name]
    start = time.process_time()
    with pytest.raises(InputError, match=why) as refusal:
        svg.read(data)
    assert time.process_time() - start < 1
    sentence = str(refusal.value)
    assert sentence.endswith(".")
    assert len(sentence) < 200


SCRAPS = (
    *("1e999", "nan", "-", "", "0", "M", "z", "a0 0 0 0 0 0 0", "url(#p)", "%", "none", "em", ".."),
    *("rotate(1e400)", "scale(0)", "matrix(1 2)", "(", ")", "'", '"', "<", ">", "rgb(", "#12", "e"),
)


@pytest.mark.parametrize("seed", range(4))
def test_damage_is_survived_or_said(seed: int) -> None:
    """Documents with scraps in wrong places: a drawing that can be written, or a refusal."""
    dice = random.Random(seed)
    read = 0
    for _ in range(300):
        text = dice.choice(list(FOREIGN.values()))
        for _ in range(dice.randint(1, 3)):
            place = dice.randrange(60, len(text))
            text = text[:place] + dice.choice(SCRAPS) + text[place + dice.choice([0, 0, 1, 5]) :]
        with contextlib.suppress(InputError):
            svg.write(svg.read(text))
            read += 1
    assert 0 < read < 300


def test_limits_can_be_narrower() -> None:
    two = document(PATH * 2)
    assert len(svg.read(two, limits=Limits(paths=2))) == 2
    with pytest.raises(InputError, match="more than 1 paths"):
        svg.read(two, limits=Limits(paths=1))


def test_a_tree_is_not_built_of_what_is_refused() -> None:
    """The limit on elements works while parsing: elements behind it are never made."""
    start = time.process_time()
    with pytest.raises(InputError, match="more than 100 elements"):
        svg.read(document("<g/>" * 400_000), limits=Limits(elements=100))
    assert time.process_time() - start < 0.2
