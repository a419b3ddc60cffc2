"""What the CLIPDraw tab reads, keeps and shows; that it works in a page is in tests/browser."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch
from PIL import Image

from demos import clipdraw, clipdraw_files, clipdraw_form, clipdraw_space
from demos import clipdraw_views as views
from demos.clipdraw_files import MAX_FRAMES, Held, film, with_frame
from demos.clipdraw_form import Form, parse_color, parse_region, parse_weighted, read_form
from demos.ui import downloads
from demos.ui.live import curve, data_uri
from models.clipdraw.config import DrawConfig
from models.clipdraw.drawing import Drawing, draw, prompts_of
from models.clipdraw.space import SpaceConfig
from models.errors import InputError
from models.jobs import run_to_end
from tests.critic_support import tiny_encoder

EVIL = "<script>alert(1)</script>"
pytestmark = pytest.mark.usefixtures("one_thread")
FORM = Form("a red apple", "", 8, 3, 0, "clip-mini-critic", size=48)


@pytest.fixture(scope="module")
def held() -> Held:
    config = replace(DrawConfig.mini(), strokes=6, steps=3, canvas=(32, 24))
    words = ("a boat", EVIL)
    drawing = run_to_end(draw([tiny_encoder()], prompts_of(EVIL), config, words=words))
    return Held(drawing, "clip-mini-critic", 0.5, order=(5, 2, 0, 1, 4, 3))


# ------------------------------------------------------------------------------ what is read


@pytest.mark.parametrize(
    ("text", "color"),
    [
        ("#fff", (1, 1, 1)),
        ("ff0000", (1, 0, 0)),
        (" #00FF00 ", (0, 1, 0)),
        ("rgba(255, 0, 51, 1)", (1, 0, 0.2)),
        ("rgb(0,127.5,0)", (0, 0.5, 0)),
    ],
)
def test_colours(text: str, color: tuple[float, float, float]) -> None:
    assert parse_color(text) == pytest.approx(color)


@pytest.mark.parametrize("text", ["", "#12", "#gggggg", "red", "rgb(1,2)", "rgb(256,0,0)", None])
def test_what_is_no_colour(text: str | None) -> None:
    with pytest.raises(InputError, match="is no colour; write it like #1b3a6b"):
        parse_color(text)


def test_weighted_prompts() -> None:
    text = "a stormy sea : 0.5\n\n  time: 12:30 : -1e-1 "
    assert parse_weighted(text) == {"a stormy sea": 0.5, "time: 12:30": -0.1}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("the sea", "Further prompt 1 has no weight"),
        ("the sea : 1\nthe moon : bright", "Further prompt 2 has no weight"),
        (" : 2", "Type words before the weight of further prompt 1"),
        ("the sea : 1\nthe sea : 2", "stands twice"),
    ],
)
def test_weighted_prompts_refused(text: str, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        parse_weighted(text)


def test_a_region_is_in_per_cent_of_the_canvas() -> None:
    assert parse_region("10, 20%, 60, 80", (200, 100)) == (20, 20, 120, 80)


@pytest.mark.parametrize(
    "text", ["", "1,2,3", "a,b,c,d", "50,0,50,10", "60,0,50,10", "0,0,101,5", "0,0,nan,5"]
)
def test_regions_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"[Rr]egion"):
        parse_region(text, (200, 100))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, {"canvas": (48, 48), "strokes": 8, "background": (1, 1, 1), "start": "gradient"}),
        ({"aspect": "9:16", "size": 160}, {"canvas": (90, 160)}),
        ({"free_width": False, "width": 5}, {"width_range": (2.5, 2.5), "half_width": 2.5}),
        ({"preset": "reference"}, {"schedule": "steps", "reseed_every": 0}),
        ({"model": "clip-vit-b-32"}, {"scoring": DrawConfig.default().scoring}),
        ({"background": "own", "background_color": "#000"}, {"background": (0, 0, 0)}),
        ({"background": "transparent"}, {"background": None}),
        ({"start": "random"}, {"start": "random"}),
    ],
)
def test_a_form_becomes_a_configuration(changes: dict[str, Any], expected: dict[str, Any]) -> None:
    config = read_form(replace(FORM, **changes)).config
    assert {name: getattr(config, name) for name in expected} == expected


def test_an_empty_seed_is_thrown() -> None:
    seeds = {read_form(replace(FORM, seed=None)).config.seed for _ in range(20)}
    assert len(seeds) > 10


def test_a_preset_s_numbers_reach_the_sliders() -> None:
    numbers = clipdraw._defaults("clip-mini-critic", "reference")
    values = dict(zip(clipdraw._PRESET_FIELDS, numbers, strict=True))
    assert values == {
        "strokes": 256, "steps": 1000, "width": 2, "thinnest": 2, "thickest": 100,
        "start": "random",
    }  # fmt: skip
    mini = dict(
        zip(clipdraw._PRESET_FIELDS, clipdraw._defaults("clip-mini-critic", "model"), strict=True)
    )
    config = read_form(replace(FORM, **mini)).config
    base = DrawConfig.mini()
    assert [getattr(config, field) for field in ("half_width", "width_range", "strokes")] == [
        base.half_width, base.width_range, base.strokes,
    ]  # fmt: skip


def test_large_models_choose_from_fewer_words() -> None:
    mini, large = (clipdraw_form.words_of(name) for name in ("clip-mini-critic", "clip-vit-l-14"))
    assert len(mini) > 1500 > 600 > len(large) > 300
    assert set(large) < set(mini)


@pytest.mark.parametrize(
    ("text", "sentence"), [("", "not 0"), ("a\nb\nc\nd\ne", "not 5"), ("x" * 501, "shorten")]
)
def test_sides_refused(text: str, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        clipdraw_space.read_order("clip-mini", text, 8, 2, 0)


def test_sides_in_order() -> None:
    order = clipdraw_space.read_order("clip-mini", "a boat\n\na tree", 8.0, 2, 5)
    assert [side[0].text for side in order.sides] == ["a boat", "a tree"]
    assert order.config == replace(SpaceConfig.mini(), strokes=8, steps=2, seed=5)


# ------------------------------------------------------------------------------ what is kept


def test_the_most_important_strokes_stay_in_painting_order(held: Held) -> None:
    all_strokes = held.drawing.strokes
    three = replace(held, keep=3).strokes
    assert torch.equal(three.points, all_strokes.points[[0, 2, 5]])
    assert len(replace(held, keep=6).strokes) == len(held.strokes) == 6
    assert len(replace(held, keep=3, order=None).strokes) == 6  # not ranked yet


def test_a_long_making_is_kept_in_larger_steps() -> None:
    frames: tuple[str, ...] = ()
    for shade in range(250):
        frames = with_frame(frames, Image.new("RGB", (4, 4), (shade, 0, 0)))
        assert len(frames) <= MAX_FRAMES
    shades = [Image.open(path).getpixel((0, 0))[0] for path in frames]
    assert shades == sorted(shades)
    assert shades[0] <= 2
    assert shades[-1] >= 248


@pytest.mark.parametrize("kind", ["gif", "mp4"])
@pytest.mark.parametrize("what", ["making", "painting"])
def test_films(what: str, kind: str, held: Held) -> None:
    seen = [held.drawing.picture().point(lambda v, d=d: v - d) for d in (90, 60, 30)]
    shown = replace(held, frames=tuple(downloads.save_jpeg(frame) for frame in seen))
    data = Path(run_to_end(film(shown, what, kind))).read_bytes()
    assert data.startswith(b"GIF8") if kind == "gif" else data[4:8] == b"ftyp"


def test_a_making_that_is_gone_is_said(held: Held) -> None:
    with pytest.raises(InputError, match="Nothing was seen"):
        run_to_end(film(held, "making", "gif"))
    gone = replace(held, frames=("/nowhere/frame.jpg",))
    with pytest.raises(InputError, match="cleared away"):
        run_to_end(film(gone, "making", "gif"))


def test_files_carry_the_settings_and_nothing_that_runs(held: Held) -> None:
    settings = json.loads(json.dumps(held.drawing.settings()))
    for save in (clipdraw_files.save_svg, clipdraw_files.save_animated_svg):
        root = ElementTree.parse(save(held)).getroot()
        assert root.findtext("{*}title") == EVIL
        assert json.loads(root.findtext("{*}metadata")) == settings
        assert not root.findall(".//{*}script")
    assert json.loads(Path(clipdraw_files.save_json(held)).read_text())["settings"] == settings


def test_the_album_is_bounded_and_has_each_drawing_once(held: Held) -> None:
    album: tuple[Held, ...] = ()
    for seed in range(clipdraw.MAX_ALBUM + 3):
        own = replace(held.drawing, config=replace(held.drawing.config, seed=seed))
        *_, album = clipdraw._settle(replace(held, drawing=own), album)
        *_, album = clipdraw._settle(replace(held, drawing=own, keep=2), album)
    assert [kept.drawing.config.seed for kept in album] == list(range(3, clipdraw.MAX_ALBUM + 3))


def test_of_two_seeds_the_better_one_is_meant(held: Held) -> None:
    better: Drawing = replace(held.drawing, loss=held.drawing.loss - 1)
    pair = replace(held, beside=replace(held, drawing=better))
    *_, meant, album = clipdraw._settle(pair, ())
    assert meant.drawing is better
    assert meant.beside is not None
    assert len(album) == 2


def test_a_session_holds_little(held: Held) -> None:
    """300 kB a session are for all tabs: one drawing of 1,024 strokes, as it is kept."""
    config = replace(DrawConfig.mini(), strokes=1024, steps=1, canvas=(32, 32), stages=(1.0,))
    large = run_to_end(draw([tiny_encoder()], prompts_of("x"), config)).strokes
    tensors = (large.points, large.segments, large.half_widths, large.colors, large.closed)
    assert sum(t.element_size() * t.nelement() for t in tensors) < 150_000


# ----------------------------------------------------------------------------- what is shown


def texts(html: str) -> Iterator[str]:
    return ElementTree.fromstring(f"<div>{html}</div>").itertext()


def test_what_was_typed_is_escaped_everywhere(held: Held) -> None:
    shown = (
        views.empty(EVIL),
        clipdraw._stage(replace(held, beside=held)),
        clipdraw._panel(held),
        views.words(((EVIL, 0.5),)),
    )
    for html in shown:
        assert "<script" not in html
        assert any(EVIL in text for text in texts(html))


def test_a_figure_is_the_drawing_and_its_region(held: Held) -> None:
    html = views.figure(held.strokes, None, region=(10, 20, 60, 80))
    root = ElementTree.fromstring(html)
    assert len(root.findall(".//{*}path")) == 6
    assert not [element for element in root.iter() if "id" in element.attrib]
    assert root.find(".//i").get("style") == "left:10%;top:20%;width:50%;height:60%"


def test_the_curve_falls_as_the_loss_does() -> None:
    root = ElementTree.fromstring(f"<div>{curve([3.0, 2.0, 1.5, 1.0])}</div>")
    heights = [float(spot.split(",")[1]) for spot in root.find(".//polyline").get("points").split()]
    assert heights == sorted(heights)  # y grows downwards
    assert len(curve([1.0] * 5000)) < 3000


@pytest.mark.parametrize(("mode", "kind"), [("RGB", "jpeg"), ("RGBA", "png")])
def test_a_frame_keeps_its_transparency(mode: str, kind: str) -> None:
    assert data_uri(Image.new(mode, (8, 8))).startswith(f"data:image/{kind};base64,")


def test_the_diagram_explains_itself_to_those_who_cannot_see_it() -> None:
    root = ElementTree.fromstring(views.DIAGRAM)
    assert root.findtext("{*}title").startswith("CLIPDraw:")


def test_every_field_of_the_form_travels_in_a_link_but_files() -> None:
    import gradio as gr

    import app
    from demos.ui.settings import Settings

    with gr.Blocks():
        linked = {field.name for field in clipdraw.build(app.open_atelier(Settings(device="cpu")))}
    assert {field.name for field in fields(Form)} - linked == {"start_svg", "start_picture"}
