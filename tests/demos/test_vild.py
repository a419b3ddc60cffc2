"""What the ViLD tab reads, keeps and shows; that it works in a page is in tests/browser."""

from __future__ import annotations

import csv
import io
import json
import re
import time
import zipfile
from base64 import b64decode, b64encode
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import imageio.v2 as imageio
import numpy as np
import pytest
from gradio.data_classes import ImageData
from PIL import Image

from demos import vild
from demos import vild_live as live
from demos import vild_session as session
from demos import vild_views as views
from demos.ui import boxes
from demos.ui.downloads import SETTINGS_KEY
from demos.ui.images import open_image
from demos.vild_form import (
    Limits,
    models_of,
    read_limits,
    read_list,
    read_model,
    read_names,
    read_templates,
)
from demos.vild_pictures import examples
from demos.vild_session import Held
from models.detection.detections import decode_mask
from models.detection.drawing import AUTOMATIC
from models.errors import InputError
from models.jobs import Step, run_to_end
from models.vild.categories import NAME_LISTS
from tests.vild_tab_support import BASE, DEFAULTS, MINI, OTHER, tiny_detector, vild_registry

pytestmark = pytest.mark.usefixtures("one_thread")

EVIL = "<script>alert(1)</script>"
NAMES = ["dog", "flying saucer", "kite", "wolf"]
SIZE = (240, 180)


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return tiny_detector(tmp_path_factory.mktemp("names"))


def photo(size: tuple[int, int] = SIZE) -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 255, (6, 8, 3), np.uint8)
    return Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)


def run(detector: Any, names: list[str], limits: Limits = Limits()) -> Held:  # noqa: B008
    held = run_to_end(session.look(photo(), names, limits, None, detector))
    return replace(held, source="/a/b.jpg", shown="/tmp/x/picture.jpg", seconds=0.5)


@pytest.fixture(scope="module")
def held(detector: Any) -> Held:
    return run(detector, NAMES)


def drawn(held: Held, limits: Limits = Limits()) -> str:  # noqa: B008
    seen = held.select(limits)
    shown = session.scene_of(held, seen)
    return (
        views.scene(shown, held, seen)
        + views.legend(held, shown, seen, tuple(session.novel_of(held)))
        + boxes.crops(shown)
        + vild._region(held, seen, limits, None)
    )


# ------------------------------------------------------------------------------ what is read


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("dog", ["dog"]),
        ("dog; red kite, wolf\nfox\n\n", ["dog", "red kite", "wolf", "fox"]),
        ("dog; dog ,dog", ["dog"]),
        ("собака; 犬; كلب", ["собака", "犬", "كلب"]),
        ("background; dog", ["background", "dog"]),
    ],
)
def test_names_are_separated_by_semicolons_commas_and_lines(text: str, names: list[str]) -> None:
    assert read_names(text) == names


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "Type at least one name"),
        (None, "Type at least one name.* or press Discover"),
        (" ;,;\n ", "Type at least one name"),
        ("\x00", "Type at least one name"),
        ("...", "no name"),
        ("Background", "stands for all that has no name"),
        (["dog"], "names are a text"),
        ("x" * 300, "300 characters; shorten it to 200"),
        (";".join(map(str, range(6000))), "6,000 names; give at most 5,000"),
        ("x" * 300_000, "far too long"),
    ],
)
def test_names_that_ask_for_nothing_or_too_much_are_refused(text: Any, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        read_names(text)


@pytest.mark.parametrize("name", NAME_LISTS)
def test_a_ready_made_list_is_typed_as_it_is_read(name: str) -> None:
    names = read_names(read_list(name))
    assert len(names) > 50
    assert not [one for one in names if ";" in one or "," in one]


@pytest.mark.parametrize("name", ["", None, "pascal", 3])
def test_a_list_that_is_not_there_is_refused(name: Any) -> None:
    with pytest.raises(InputError, match="no list"):
        read_list(name)


@pytest.mark.parametrize(
    ("place", "value", "sentence"),
    [
        (0, 0, "At least 1 and at most 100 boxes"),
        (0, 101, "At least 1 and at most 100 boxes"),
        (0, 2.5, "whole number"),
        (1, -0.1, r"NMS.* lies between 0 and 1"),
        (1, float("nan"), r"NMS.* is a number"),
        (2, 1.5, "objectness lies between 0 and 1"),
        (2, "high", "objectness is a number"),
        (2, True, "objectness is a number"),
        (3, -1, "area lies between 0"),
        (3, float("inf"), "area is a number"),
        (4, 1.1, "cosine lies between -1 and 1"),
        (5, "dice", "no score “dice”"),
        (6, 0, "temperature lies between 1 and 200"),
    ],
)
def test_settings_out_of_range_are_refused(place: int, value: Any, sentence: str) -> None:
    values: list[Any] = [None] * 7
    values[place] = value
    with pytest.raises(InputError, match=sentence):
        read_limits(*values)


def test_settings_left_open_are_the_models_own() -> None:
    assert Limits().on(DEFAULTS) == DEFAULTS.thresholds
    limits = read_limits(3, None, 0.25, None, 0.1, None, None)
    expected = replace(DEFAULTS.thresholds, max_boxes=3, min_objectness=0.25, min_cosine=0.1)
    assert limits.on(DEFAULTS) == expected


def test_sentences_a_name_are_the_models_own_unless_chosen() -> None:
    assert [read_templates(name) for name in ("own", "one", "full")] == [None, "one", "full"]
    with pytest.raises(InputError, match="no set of sentences"):
        read_templates("ninety")


def test_only_vild_is_offered(tmp_path: Path) -> None:
    there = models_of(vild_registry(tmp_path).catalog)
    assert list(there) == [MINI, OTHER]
    with pytest.raises(InputError, match='no model "glip-mini"; choose one of'):
        read_model("glip-mini", there)


# ------------------------------------------------------------------------------ what is kept


def test_what_is_shown_is_what_the_detector_says(detector: Any, held: Held) -> None:
    raw = run_to_end(detector.detect(photo()))
    for limits, score, temperature in (
        (Limits(), "cosine", None),
        (Limits(max_boxes=30, nms=0.9, score="softmax", temperature=20.0), "softmax", 20.0),
    ):
        wanted = detector.select(raw, NAMES, limits.on(DEFAULTS), score, temperature)
        seen = held.select(limits)
        assert len(wanted) > 2
        np.testing.assert_array_equal(seen.found.boxes, wanted.boxes)
        np.testing.assert_array_equal(seen.found.scores, wanted.scores)
        assert (seen.found.labels, seen.found.phrases) == (wanted.labels, wanted.phrases)
        assert seen.novel == tuple(label not in BASE for label in wanted.labels)


def test_discovery_is_the_detectors(detector: Any) -> None:
    held = run(detector, [])
    raw = run_to_end(detector.detect(photo()))
    wanted = detector.discover(raw, held.words, DEFAULTS.thresholds)
    seen = held.select(Limits())
    assert held.discovers
    assert len(wanted.groups) > 1
    assert (seen.groups, seen.rows) == (wanted.groups, wanted.rows)
    assert seen.found.phrases == wanted.detections.phrases
    assert {*BASE} < set(held.words.names)
    assert len(held.words.names) > 1000  # the teacher is CLIP ViT-B/32, so LVIS's
    assert "Discovered" in drawn(held)


def test_a_slider_asks_no_network_and_costs_little(detector: Any, held: Held) -> None:
    before = detector.looked
    times = []
    for _ in range(5):
        began = time.perf_counter()
        drawn(held, Limits(max_boxes=100, nms=0.9))
        times.append(time.perf_counter() - began)
    assert detector.looked == before
    assert min(times) < 0.05


def test_a_visitor_holds_nothing_of_the_network(held: Held) -> None:
    assert held.raw.sight.levels == []
    assert held.raw.sight.picture.numel() == 0


def test_masks_are_made_of_what_is_shown_and_once(detector: Any) -> None:
    held = run(detector, NAMES)
    seen = held.select(Limits())
    assert held.masks is not None
    assert set(held.masks) == set(seen.rows)
    assert held.missing(seen) == []
    wide = Limits(max_boxes=40, nms=1.0)
    todo = held.missing(held.select(wide))
    assert todo
    held.masks.update(run_to_end(session.outline(photo(), todo, detector)))
    assert held.missing(held.select(wide)) == []
    raw = run_to_end(detector.detect(photo()))
    assert held.masks[todo[0]] == detector.masks(raw, todo[:1])[0]


def test_an_outline_is_the_mask_inside_its_box(held: Held) -> None:
    seen = held.select(Limits())
    assert held.masks is not None
    filled = 0
    for row in seen.rows:
        x1, y1, x2, y2 = held.raw.boxes[row].tolist()
        data = b64decode(held.outline(row).removeprefix("data:image/png;base64,"))
        with Image.open(io.BytesIO(data)) as png:
            alpha = np.asarray(png.getchannel("A")) / 255
        whole = decode_mask(held.masks[row])
        inside = whole[int(y1) : int(np.ceil(y2)), int(x1) : int(np.ceil(x2))]
        assert alpha.shape[1] <= session.OUTLINE_SIDE
        assert alpha.mean() == pytest.approx(inside.mean(), abs=0.02)
        filled += bool(inside.any())
    assert filled


def test_a_model_without_masks_says_so_by_none(tmp_path: Path) -> None:
    held = run(tiny_detector(tmp_path, mask=False), NAMES)
    seen = held.select(Limits())
    assert held.masks is None
    assert seen.found.masks is None
    assert held.missing(seen) == []
    assert "--mask" not in drawn(held)


def test_opinions_are_the_distribution_sorted(detector: Any, held: Held) -> None:
    raw = run_to_end(detector.detect(photo()))
    row = held.select(Limits()).rows[0]
    for score in ("cosine", "softmax"):
        wanted = detector.distribution(raw, row, NAMES, score, 50.0)
        ours = held.opinions(row, Limits(score=score, temperature=50.0))
        assert sorted(ours, key=lambda one: one.name) == sorted(wanted, key=lambda one: one.name)
        values = [one.score for one in ours]
        assert values == sorted(values, reverse=True)


def test_why_names_what_the_model_was_trained_on(detector: Any, held: Held) -> None:
    row = held.select(Limits()).rows[0]
    reasons = run_to_end(session.reason(photo(), row, "one", detector))
    html = views.why(reasons)
    assert {one.name for one in reasons.distilled} == {one.name for one in reasons.clip} == {*BASE}
    assert html.count('class="atelier-bars"') == 2
    assert f"{reasons.agreement:.2f}" in html


def _set_clock(module: Any, clock: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    """A module's clock: `sleep` moves it on, nothing else does."""

    def sleep(seconds: float) -> None:
        clock[0] += seconds

    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: clock[0], sleep=sleep))


def test_a_long_reading_says_how_long(monkeypatch: pytest.MonkeyPatch) -> None:
    def job() -> Iterator[Step]:
        for place in range(4):
            clock[0] += 10.0
            yield Step(place / 4, "Reading 1,203 names")

    clock = [0.0]
    _set_clock(session, clock, monkeypatch)
    messages = [step.message for step in session.timed(job())]
    assert messages == [
        "Reading 1,203 names",
        "Reading 1,203 names, about 60 s left",
        "Reading 1,203 names, about 30 s left",
        "Reading 1,203 names, about 13 s left",
    ]


def test_all_names_of_lvis_at_once(detector: Any) -> None:
    names = [*read_names(read_list("lvis")), "my own mug", "my own cup"]
    assert len(names) == 1205
    held = run(detector, names)
    assert len(held.words.names) == 1205
    assert len(drawn(held)) < 200_000


@pytest.mark.parametrize(
    "names", [["dog"], ["background", "dog"], ["Dog", "dog ", "DOG."], ["犬", "كلب"]]
)
def test_odd_names_get_an_answer(names: list[str], detector: Any) -> None:
    held = run(detector, names)
    seen = held.select(Limits())
    assert set(seen.found.labels) <= set(names) - {"background"}
    assert drawn(held)


# ------------------------------------------------------------------------------ what is drawn


def test_boxes_masks_and_novel_names_are_drawn(held: Held) -> None:
    seen = held.select(Limits())
    html = drawn(held)
    assert html.count('<button type="button" class="atelier-box') == len(seen.found)
    assert html.count("--mask:url(data:image/png") == len(seen.found) + 1  # one is cut out below
    assert any(seen.novel)
    assert "was not trained on" in html
    shown = session.scene_of(held, seen, masks=False)
    assert "--mask" not in views.scene(shown, held, seen)
    marked = re.findall(r"<li class=marked[^>]*>([^<]+) · \d", html)
    assert set(marked) == {"flying saucer", "wolf"}


def test_what_was_typed_is_escaped_everywhere(detector: Any) -> None:
    held = run(detector, [EVIL, '"><i onclick=alert(1)>', "${alert(2)}"])
    row = held.select(Limits()).rows[0]
    html = drawn(held) + views.told(EVIL)
    html += views.why(run_to_end(session.reason(photo(), row, "one", detector)))
    assert "<script" not in html
    assert "<i onclick" not in html
    assert "&lt;script&gt;" in html


def test_without_a_box_the_page_says_what_to_do(held: Held) -> None:
    html = drawn(held, Limits(min_objectness=1.0))
    best = float(held.raw.objectness.max())
    assert f"objectness of {best:.2f}" in html
    assert views.CHOOSE in html


def test_bars_run_over_all_names_and_begin_at_the_least(held: Held) -> None:
    seen = held.select(Limits())
    html = vild._region(held, seen, Limits(), None)
    widths = [float(width) for width in re.findall(r'<b style="width:([\d.]+)%"', html)]
    assert len(widths) == len(NAMES) + 1  # and the background
    assert (max(widths), min(widths)) == (100.0, 0.0)
    softmax = vild._region(held, seen, Limits(score="softmax", temperature=1.0), None)
    assert "Probabilities." in softmax


# ------------------------------------------------------------------------------ taken home


@pytest.mark.parametrize("kind", vild.EXPORTS)
def test_a_result_is_saved_in_every_format(kind: str, held: Held, tmp_path: Path) -> None:
    source = tmp_path / "mine.png"
    photo().save(source)
    held = replace(held, source=str(source))
    seen = held.select(Limits())
    path = Path(vild._saved(kind, held, Limits(), AUTOMATIC))
    answer = session.facts(held, seen, Limits())
    match kind:
        case "PNG":
            with Image.open(path) as picture:
                assert json.loads(picture.text[SETTINGS_KEY]) == answer
                assert picture.size == SIZE
        case "JSON":
            assert json.loads(path.read_text()) == answer
            first = answer["detections"][0]
            assert first["mask"]["size"] == [SIZE[1], SIZE[0]]
            assert first["novel"] == (first["label"] not in BASE)
            assert answer["settings"]["names"] == NAMES
        case "COCO":
            coco = json.loads(path.read_text())
            assert all(one["segmentation"]["counts"] for one in coco["annotations"])
            assert len(coco["annotations"]) == len(seen.found)
        case "CSV":
            rows = list(csv.DictReader(io.StringIO(path.read_text("utf-8-sig"))))
            assert [row["label"] for row in rows] == list(seen.found.labels)
        case "YOLO":
            with zipfile.ZipFile(path) as archive:
                assert len(archive.read("labels/mine.txt").splitlines()) == len(seen.found)


# ------------------------------------------------------------------------------------- live


def test_a_frame_is_named_and_drawn(detector: Any) -> None:
    job = live.name_frame(photo(), NAMES, Limits(max_boxes=3), None, True, detector)
    frame = run_to_end(job)
    assert 0 < frame.boxes <= 3
    assert frame.picture.size == SIZE
    assert views.frame(frame.picture).startswith('<div class="vild-frame"><img src="data:image/')


def film(path: Path, count: int, fps: int = 10) -> Path:
    pictures = [np.full((48, 64, 3), 20 * place % 255, np.uint8) for place in range(count)]
    imageio.mimwrite(path, pictures, fps=fps, macro_block_size=16)
    return path


def test_a_film_runs_at_its_own_speed_whatever_a_frame_costs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = film(tmp_path / "film.mp4", 20)  # two seconds
    clock = [0.0]
    _set_clock(live, clock, monkeypatch)
    assert len(list(live.in_time(path))) == 20
    assert clock[0] == pytest.approx(1.9)  # the last frame is due then
    shown = 0
    for _ in live.in_time(path):
        clock[0] += 0.5
        shown += 1
    assert 3 <= shown <= 5


def test_the_rate_is_that_of_the_last_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    _set_clock(live, clock, monkeypatch)
    running = live.Live()
    assert running.rate() == 0
    for _ in range(20):
        clock[0] += 0.25
        rate = running.rate()
    assert rate == pytest.approx(4)


def test_a_cameras_frame_is_read_with_limits(tmp_path: Path) -> None:
    stream = io.BytesIO()
    photo((1280, 960)).save(stream, "JPEG")
    uri = f"data:image/jpeg;base64,{b64encode(stream.getvalue()).decode()}"
    sent = live._as_sent(None, ImageData(url=uri))
    assert isinstance(sent, bytes)
    assert live.open_frame(sent).size == (640, 480)
    for bad in ("data:text/html;base64,AAAA", "http://127.0.0.1/x.jpg", "data:image/png;base64,@"):
        with pytest.raises(gr.Error, match="no frame of a camera"):
            live._as_sent(None, ImageData(url=bad))
    with pytest.raises(InputError, match="no picture"):
        live.open_frame(b"no picture")


# ------------------------------------------------------------------------------ what is brought


def test_every_example_has_names_to_look_for() -> None:
    assert len(examples()) >= 3
    for example in examples().values():
        assert min(open_image(example.path).size) >= 192
        assert len(read_names(example.prompt)) >= 3


def test_the_tab_explains_itself() -> None:
    assert "<title>ViLD:" in views.DIAGRAM
    for word in ("“fruit” fails", "“red car”", "cosine", "background"):
        assert word in views.MEANING
