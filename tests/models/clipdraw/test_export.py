"""Pictures, films, PDF, SVG that draws itself, JSON: opened again, they hold the drawing."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable, Iterator
from typing import Any

import imageio.v3 as iio
import numpy as np
import pypdfium2
import pytest
import torch
from defusedxml.ElementTree import fromstring
from PIL import Image

from models import film as films
from models.clipdraw import svg
from models.clipdraw.export import (
    animated_svg,
    from_json,
    painting,
    pdf,
    picture,
    to_json,
)
from models.clipdraw.plain import MAX_PATHS, Limits
from models.clipdraw.strokes import Strokes, paths
from models.errors import InputError
from models.film import MAX_FRAMES, gif, mp4
from tests.clipdraw_support import psnr, random_scene, resvg


def none(canvas: tuple[int, int] = (20, 10)) -> Strokes:
    """A drawing without strokes."""
    return paths([torch.zeros(4, 2)], torch.ones(1), torch.ones(1, 4), canvas).select(
        torch.tensor([], dtype=torch.long)
    )


def disc(alpha: float = 0.5) -> Strokes:
    """A translucent red disc of radius 10 in the middle of 40 x 40 pixels."""
    color = torch.tensor([[1.0, 0.0, 0.0, alpha]])
    return paths([torch.full((4, 2), 20.0)], torch.tensor([10.0]), color, (40, 40))


def damaged() -> Strokes:
    strokes = random_scene(0, 4)
    strokes.points[0, 0] = math.nan
    return strokes


# --------------------------------------------------------------------------------- pictures


@pytest.mark.parametrize(
    ("canvas", "side", "size"),
    [
        ((20, 10), None, (20, 10)),
        ((20, 10), 200, (200, 100)),
        ((1, 20), 4096, (205, 4096)),
        ((30, 20), 1, (1, 1)),
    ],
)
def test_a_picture_has_the_side_asked_for(
    canvas: tuple[int, int], side: int | None, size: tuple[int, int]
) -> None:
    assert picture(none(canvas), side=side).size == size


def test_a_picture_is_drawn_anew_and_not_enlarged() -> None:
    scene = random_scene(1)
    large = picture(scene, side=384)
    assert psnr(large, resvg(svg.write(scene), width=384)) >= 35
    assert psnr(large, picture(scene).resize((384, 384))) < 35


def test_without_background_alpha_is_straight() -> None:
    image = picture(disc(), background=None)
    assert (image.mode, image.getpixel((0, 0))) == ("RGBA", (0, 0, 0, 0))
    assert image.getpixel((20, 20)) == (255, 0, 0, 128)
    edge = np.asarray(image).reshape(-1, 4)
    assert (edge[edge[:, 3] > 0, 0] == 255).all()  # no dark fringe
    paper = Image.new("RGBA", image.size, (0, 0, 255, 255))
    blue = Image.alpha_composite(paper, image).convert("RGB")
    assert psnr(blue, picture(disc(), background=(0, 0, 1))) >= 45


@pytest.mark.parametrize("side", [0, -1, 4097, 10**9])
def test_a_side_out_of_range_is_refused(side: int) -> None:
    with pytest.raises(InputError, match="1 to 4096 pixels"):
        picture(disc(), side=side)
    with pytest.raises(InputError, match="1 to 4096 pixels"):
        painting(disc(), side=side)


MAKERS: dict[str, Callable[[Strokes], Any]] = {
    "picture": picture,
    "painting": painting,
    "pdf": pdf,
    "animated_svg": animated_svg,
    "to_json": to_json,
}


@pytest.mark.parametrize("name", MAKERS)
def test_what_cannot_be_exported_is_said(name: str) -> None:
    with pytest.raises(InputError, match="not finite"):
        MAKERS[name](damaged())
    many = disc().select(torch.zeros(MAX_PATHS + 1, dtype=torch.long))
    with pytest.raises(InputError, match="4,097 strokes"):
        MAKERS[name](many)


# --------------------------------------------------------------------------------- films


@pytest.mark.parametrize(("frames", "count"), [(1, 1), (5, 5), (20, 20), (600, 20)])
def test_painting_ends_with_the_whole_drawing(frames: int, count: int) -> None:
    scene = random_scene(2, 20, 64)
    film = list(painting(scene, frames=frames, side=80, background=(1, 1, 0.8)))
    assert len(film) == count
    assert {frame.size for frame in film} == {(80, 80)}
    assert psnr(film[-1], picture(scene, side=80, background=(1, 1, 0.8))) >= 55


def test_painting_shows_the_first_strokes_first() -> None:
    scene = random_scene(3, 12, 64)
    for shown, frame in zip((3, 6, 9, 12), painting(scene, frames=4)):
        assert psnr(frame, picture(scene.select(torch.arange(shown)))) >= 55


def test_painting_nothing_is_one_empty_frame() -> None:
    (frame,) = painting(none())
    assert frame.getcolors() == [(200, (255, 255, 255))]


@pytest.mark.parametrize("frames", [0, -1, MAX_FRAMES + 1])
def test_too_many_frames_are_refused_before_any_is_drawn(frames: int) -> None:
    with pytest.raises(InputError, match="1 to 600 frames"):
        painting(disc(), frames=frames)


def flat(*colors: str, size: tuple[int, int] = (33, 21)) -> list[Image.Image]:
    return [Image.new("RGB", size, color) for color in colors]


def opened(data: bytes) -> tuple[list[Image.Image], list[int], dict[str, Any]]:
    """Frames, milliseconds and remarks of a GIF."""
    image = Image.open(io.BytesIO(data))
    frames, times = [], []
    for nth in range(image.n_frames):
        image.seek(nth)
        frames.append(image.convert("RGB"))
        times.append(image.info["duration"])
    return frames, times, image.info


def test_a_gif_keeps_flat_colours_and_times_and_repeats() -> None:
    colors = ("white", "#c81e28", "black", "#0000fe")
    frames, times, info = opened(gif(flat(*colors), fps=10, hold_s=1.5))
    for frame, wanted in zip(frames, flat(*colors), strict=True):
        assert frame.tobytes() == wanted.tobytes()
    assert (times, info["loop"]) == ([100, 100, 100, 1500], 0)


def test_a_gif_of_a_painting_ends_with_the_drawing_on_clean_paper() -> None:
    film = list(painting(random_scene(4, 30), frames=15))
    data = gif(film)
    frames, _, _ = opened(data)
    assert len(frames) == 15
    assert frames[0].size == film[0].size
    assert psnr(frames[-1], film[-1]) >= 30
    assert max(frames[0].getcolors(9999))[1] == (255, 255, 255)
    assert data == gif(film)


def test_a_gif_keeps_still_what_does_not_move() -> None:
    film = list(painting(random_scene(4, 30), frames=15))
    shown = [np.asarray(frame) for frame in opened(gif(film))[0]]
    for nth in range(14):
        still = (np.asarray(film[nth]) == np.asarray(film[nth + 1])).all(-1)
        assert (shown[nth][still] == shown[nth + 1][still]).all()


def decoded(data: bytes) -> list[Image.Image]:
    return [Image.fromarray(frame) for frame in iio.imread(data, extension=".mp4")]


def test_an_mp4_holds_its_last_frame_and_plays_everywhere() -> None:
    film = list(painting(random_scene(4, 30), frames=10))
    data = mp4(film, fps=20, hold_s=0.5)
    frames = decoded(data)
    assert len(frames) == 10 + 10
    assert psnr(frames[9], film[-1]) >= 30
    assert psnr(frames[-1], film[-1]) >= 30
    about = iio.immeta(data, extension=".mp4")
    assert (about["codec"], about["fps"]) == ("h264", 20)
    assert about["pix_fmt"].startswith("yuv420p(tv, bt709")


def test_an_mp4_has_even_sides_and_true_colours() -> None:
    frames = decoded(mp4(flat("white", "#c81e28", "#28641e"), hold_s=0))
    assert {frame.size for frame in frames} == {(32, 20)}
    for frame, color in zip(frames[1:], [(200, 30, 40), (40, 100, 30)], strict=True):
        middle = np.asarray(frame)[4:-4, 4:-4].reshape(-1, 3).mean(0)
        assert np.abs(middle - color).max() <= 4


@pytest.mark.parametrize("make", [gif, mp4])
def test_transparent_frames_lie_on_white(make: Callable[..., bytes]) -> None:
    film = [picture(disc(0.0), background=None)] * 2
    data = make(film)
    last = opened(data)[0][-1] if make is gif else decoded(data)[-1]
    assert last.getpixel((20, 20)) == (255, 255, 255)


def endless() -> Iterator[Image.Image]:
    frame = Image.new("RGB", (8, 8))
    while True:
        yield frame


@pytest.mark.parametrize("make", [gif, mp4])
@pytest.mark.parametrize(
    ("frames", "options", "why"),
    [
        (list, {}, "no frame"),
        (endless, {}, "at most 600 frames"),
        (lambda: [*flat("red"), *flat("red", size=(5, 5))], {}, "one size"),
        (lambda: flat("red"), {"fps": 0}, "1 to 50 frames a second"),
        (lambda: flat("red"), {"fps": math.nan}, "1 to 50 frames a second"),
        (lambda: flat("red"), {"fps": 1e9}, "1 to 50 frames a second"),
        (lambda: flat("red"), {"hold_s": -1}, "0 to 30 seconds"),
        (lambda: flat("red"), {"hold_s": math.inf}, "0 to 30 seconds"),
    ],
)
def test_a_film_beyond_its_limits_is_refused(
    make: Callable[..., bytes], frames: Callable[[], Any], options: dict[str, float], why: str
) -> None:
    with pytest.raises(InputError, match=why):
        make(frames(), **options)


@pytest.mark.parametrize("make", [gif, mp4])
def test_a_film_of_too_many_pixels_is_refused(
    make: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(films, "MAX_FILM_PIXELS", 1_000_000)
    assert make(flat(*["red"] * 4, size=(500, 500)), hold_s=0)
    with pytest.raises(InputError, match="1 million pixels"):
        make(flat(*["red"] * 5, size=(500, 500)))


def test_a_painting_of_too_many_pixels_is_refused_before_any_is_drawn() -> None:
    with pytest.raises(InputError, match="134 million pixels"):
        painting(random_scene(0, 20), side=4096)


def test_an_mp4_of_a_line_is_refused() -> None:
    with pytest.raises(InputError, match="two pixels wide"):
        mp4(flat("red", size=(9, 1)))


# --------------------------------------------------------------------------------- PDF


def page(data: bytes, scale: float = 1) -> Image.Image:
    """The first page over white as PDFium, the renderer of Chrome, draws it."""
    with pypdfium2.PdfDocument(data) as document:
        return document[0].render(scale=scale).to_pil().convert("RGB")


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("scale", [1, 3])
def test_a_pdf_looks_like_the_drawing_at_any_size(seed: int, scale: int) -> None:
    scene = random_scene(seed)
    data = pdf(scene)
    assert data.startswith(b"%PDF-")
    assert psnr(page(data, scale), picture(scene, side=scale * 96)) >= 35


def test_a_pdf_is_one_page_of_curves_in_the_canvas_size() -> None:
    scene = random_scene(6, 10)
    with pypdfium2.PdfDocument(pdf(scene)) as document:
        assert len(document) == 1
        assert document[0].get_size() == (96, 96)
        kinds = [thing.type for thing in document[0].get_objects()]
    filled = int((scene.fills[:, 3] > 0).sum())
    assert kinds == [pypdfium2.raw.FPDF_PAGEOBJ_PATH] * (10 + filled)


def test_a_pdf_has_its_background_only_when_asked() -> None:
    assert page(pdf(disc(), background=(0, 1, 0))).getpixel((1, 1)) == (0, 255, 0)
    with pypdfium2.PdfDocument(pdf(disc())) as document:
        bare = document[0].render(fill_color=(9, 8, 7, 255)).to_pil().convert("RGB")
    assert bare.getpixel((1, 1)) == (9, 8, 7)


@pytest.mark.parametrize("title", ["", "a (b) \\ <c>", ")/JS (app.alert(1))", "\u6c34 \ud800\x00"])
def test_a_pdf_keeps_what_was_typed_as_a_title(title: str) -> None:
    data = pdf(disc(), title=title)
    assert data == pdf(disc(), title=title)
    with pypdfium2.PdfDocument(data) as document:
        assert document.get_metadata_dict()["Title"] == svg.xml_text(title)


# --------------------------------------------------------------------------------- animated SVG


def test_an_animated_svg_without_animation_is_the_whole_drawing() -> None:
    scene = random_scene(1, 20)
    text = animated_svg(scene, background=(1, 1, 0.9), title="<script>alert(1)</script>]]>")
    still = svg.write(scene, background=(1, 1, 0.9))
    assert resvg(text).tobytes() == resvg(still).tobytes()
    names = {element.tag.partition("}")[2] for element in fromstring(text).iter()}
    assert names == {"svg", "title", "rect", "g", "path", "set", "animate"}
    assert svg.write(svg.read(text)) == svg.write(svg.read(still))


def test_every_stroke_waits_for_the_one_before() -> None:
    root = fromstring(animated_svg(random_scene(1, 20), seconds=5))
    for nth, stroke in enumerate(root.iter("{http://www.w3.org/2000/svg}path")):
        moving = [child for child in stroke if child.tag.endswith("animate")]
        assert {child.get("begin") for child in moving} == {f"{nth / 4:g}s"}
        assert {child.get("dur") for child in moving} == {"0.25s"}
        waiting = [c.get("dur") for c in stroke if c.get("attributeName") == "visibility"]
        assert waiting == ([f"{nth / 4:g}s"] if nth else [])


def test_a_browser_draws_the_strokes_one_after_the_other(browser: Any) -> None:
    scene = random_scene(1, 20)
    tab = browser.new_page(viewport={"width": 96, "height": 96})
    tab.set_content(f'<body style="margin:0">{animated_svg(scene, seconds=2)}</body>')
    tab.evaluate("document.querySelector('svg').pauseAnimations()")

    def at(second: float) -> Image.Image:
        tab.evaluate(f"document.querySelector('svg').setCurrentTime({second})")
        return Image.open(io.BytesIO(tab.screenshot())).convert("RGB")

    assert at(0).getcolors() == [(96 * 96, (255, 255, 255))]
    assert psnr(at(0.5), picture(scene.select(torch.arange(5)))) >= 35
    assert psnr(at(1.5), picture(scene.select(torch.arange(15)))) >= 35
    assert psnr(at(9), picture(scene)) >= 35
    between = at(1.55)
    assert at(1.5).tobytes() != between.tobytes() != at(1.6).tobytes()
    tab.close()


@pytest.mark.parametrize("seconds", [0, -1, math.nan, math.inf, 1e9])
def test_an_animation_out_of_time_is_refused(seconds: float) -> None:
    with pytest.raises(InputError, match=r"0\.1 to 600 seconds"):
        animated_svg(disc(), seconds=seconds)


# --------------------------------------------------------------------------------- JSON


def test_json_holds_the_drawing() -> None:
    scene = random_scene(8)
    text = json.dumps(to_json(scene), allow_nan=False)
    for again in (from_json(text), from_json(text.encode()), from_json(json.loads(text))):
        assert again.canvas == scene.canvas
        assert torch.equal(again.closed, scene.closed)
        assert (again.points - scene.points)[scene.own].abs().max() <= 0.51e-3
        torch.testing.assert_close(again.half_widths, scene.half_widths, atol=0.51e-3, rtol=0)
        torch.testing.assert_close(again.colors, scene.colors, atol=0.51e-4, rtol=0)
        torch.testing.assert_close(again.fills, scene.fills, atol=0.51e-4, rtol=0)
        assert json.dumps(to_json(again)) == text


def stroke(**changed: Any) -> dict[str, Any]:
    plain = {"points": [[0, 0], [1, 1], [2, 2], [3, 3]], "half_width": 1, "color": [0, 0, 0, 1]}
    return {"canvas": [9, 9], "paths": [{**plain, **changed}]}


@pytest.mark.parametrize(
    ("data", "why"),
    [
        ("", "no JSON"),
        ("{", "no JSON"),
        (b"\xff\xfe\x00", "no JSON"),
        ("[" * 100_000, "no JSON"),
        (" " * 3_000_000, "more than 2 MB"),
        ("[]", 'no list "paths"'),
        ("null", 'no list "paths"'),
        ({"canvas": [9, 9], "paths": {}}, 'no list "paths"'),
        ({"canvas": [9, 9], "paths": []}, "no path to draw"),
        ({"paths": []}, "canvas is not 2 numbers"),
        ({**stroke(), "canvas": [0, 9]}, "1 to 4096 whole pixels"),
        ({**stroke(), "canvas": [9, 1e9]}, "1 to 4096 whole pixels"),
        ({**stroke(), "canvas": [9.5, 9]}, "1 to 4096 whole pixels"),
        ({**stroke(), "canvas": "99"}, "canvas is not 2 numbers"),
        ({"canvas": [9, 9], "paths": stroke()["paths"] * 4097}, "more than 4,096 paths"),
        (stroke(points=[[0, 0]] * 100_003), "more than 32,768 curves"),
        ({"canvas": [9, 9], "paths": ["x"]}, 'path 1 has no list "points"'),
        (stroke(points=None), 'path 1 has no list "points"'),
        (stroke(points=[]), "0 points instead of 3n \\+ 1"),
        (stroke(points=[[0, 0]] * 5), "5 points instead of 3n \\+ 1"),
        (stroke(points=[[0, 0]] * 4, closed=True), "4 points instead of 3n"),
        (stroke(points=[[0, 0]] * 3 + [[0]]), "a point of path 1 is not 2 numbers"),
        (stroke(points=[[0, 0]] * 3 + [["0", 0]]), "a point of path 1 is not 2 numbers"),
        (stroke(points=[[0, 0]] * 3 + [[True, 0]]), "a point of path 1 is not 2 numbers"),
        (stroke(points=[[0, 0]] * 3 + [[math.nan, 0]]), "a point of path 1 is not 2 numbers"),
        (stroke(points=[[0, 0]] * 3 + [[10**400, 0]]), "a point of path 1 is not 2 numbers"),
        (stroke(points=[[0, 0]] * 3 + [[1e9, 0]]), "far outside"),
        (stroke(half_width=-1), "width of path 1 is negative"),
        (stroke(half_width=None), "width of path 1 is not a number"),
        (stroke(half_width=1e9), "far outside"),
        (stroke(color=[0, 0, 0]), "colour of path 1 is not 4 numbers"),
        (stroke(color=[0, 0, 0, 1.5]), "not within 0 and 1"),
        (stroke(fill=[0, -1, 0, 1]), "not within 0 and 1"),
        (stroke(closed=1), "not true or false"),
    ],
)
def test_json_that_is_no_drawing_is_refused(data: Any, why: str) -> None:
    with pytest.raises(InputError, match=why):
        from_json(data)


def test_limits_of_json_can_be_narrower() -> None:
    with pytest.raises(InputError, match="more than 2 curves"):
        from_json(stroke(points=[[0, 0]] * 10), limits=Limits(segments=2))
