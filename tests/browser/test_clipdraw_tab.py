"""The CLIPDraw tab in a real Chromium: watched, stopped, gone on with, taken home, linked to."""

from __future__ import annotations

import io
import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit
from xml.etree import ElementTree

import pytest
from PIL import Image
from playwright.sync_api import Locator, Page, expect

import demos.clipdraw
from models.clipdraw import svg
from tests.clipdraw_tab_support import Slow, tiny_registry
from tests.critic_support import tiny_encoder

expect.set_options(timeout=20_000)  # a busy machine is no broken page
STEP_S = 0.15
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def served(serve: Callable[..., Any]) -> Any:
    return serve([demos.clipdraw.TAB], registry=tiny_registry())


@pytest.fixture(scope="module")
def slow(serve: Callable[..., Any]) -> Any:
    return serve([demos.clipdraw.TAB], registry=tiny_registry(Slow(tiny_encoder(), STEP_S)))


def number(page: Page, label: str, value: int) -> None:
    field = page.get_by_label(f"number input for {label}")
    field.fill(str(value))
    field.press("Tab")


def small(page: Page, *, strokes: int = 8, steps: int = 6) -> None:
    number(page, "Strokes", strokes)
    number(page, "Steps", steps)


def press(page: Page, name: str) -> None:
    page.get_by_role("button", name=name, exact=True).click()


def finished(page: Page, strokes: int) -> Locator:
    """The drawing once it is done, which is once its strokes stand in the page."""
    paths = page.locator("figure.chosen svg path")
    expect(paths).to_have_count(strokes)
    expect(page.locator(".atelier-badge")).to_be_visible()
    return paths


def download(page: Page, name: str) -> bytes:
    with page.expect_download() as taken:
        press(page, name)
    return Path(taken.value.path()).read_bytes()


def free_within(served: Any, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while len(served.atelier.jobs.line) and time.monotonic() < end:
        time.sleep(0.01)
    return len(served.atelier.jobs.line) == 0


def test_typed_watched_stopped_and_taken_home(served: Any, open_page: Any) -> None:
    page, watch = open_page(served.url)
    small(page, strokes=24, steps=2000)
    prompt = page.get_by_role("textbox", name=re.compile("^Prompt"))
    prompt.fill("<script>window.hacked = 1</script> a <b>red</b> ${window.hacked = 2} apple")
    prompt.press("Control+Enter")
    seen: set[str] = set()
    live = page.locator(".draw-stage img")
    while len(seen) < 4:  # the first and at least three changes
        seen.add(live.get_attribute("src"))
    expect(page.locator(".draw-words .row")).to_have_count(5)
    expect(page.locator(".atelier-progress")).to_contain_text("of 2000")
    assert page.locator(".atelier-curve polyline").get_attribute("points").count(",") > 3
    press(page, "Stop")
    expect(page.locator(".atelier-album img")).to_have_count(1)
    expect(page.locator(".atelier-badge")).to_have_text("stopped")
    shown = page.locator("figure.chosen svg path").count()
    text = download(page, "SVG").decode()
    root = ElementTree.fromstring(text)
    kinds = {element.tag.rpartition("}")[2] for element in root.iter()}
    assert kinds == {"svg", "title", "metadata", "rect", "g", "path"}
    assert root.findtext("{*}title").startswith("<script>window.hacked")
    assert len(svg.read(text)) == shown >= 8
    assert json.loads(root.findtext("{*}metadata"))["steps"] == 2000
    with Image.open(io.BytesIO(download(page, "PNG"))) as picture:
        assert picture.size == (1024, 1024)
    assert page.evaluate("window.hacked") is None
    assert (watch.external, watch.errors) == ([], [])


def test_a_drawing_is_weeded_gone_on_with_and_partly_redrawn(served: Any, open_page: Any) -> None:
    page, _ = open_page(served.url)
    small(page)
    press(page, "Draw")
    before = finished(page, 8).evaluate_all("paths => paths.map(path => path.outerHTML)")

    number(page, "Most important strokes", 3)
    left = finished(page, 3).evaluate_all("paths => paths.map(path => path.outerHTML)")
    assert [path for path in before if path in left] == left  # the same strokes, in their order
    assert len(svg.read(download(page, "SVG"))) == 3

    number(page, "Most important strokes", 8)
    assert finished(page, 8).evaluate_all("paths => paths.map(p => p.outerHTML)") == before

    page.get_by_label("How many more").fill("4")
    press(page, "More strokes")
    finished(page, 12)
    press(page, "Continue")
    expect(page.locator(".atelier-album img")).to_have_count(3)
    before = finished(page, 12).evaluate_all("paths => paths.map(path => path.outerHTML)")

    page.locator("figure.chosen .draw-paper").scroll_into_view_if_needed()
    paper = page.locator("figure.chosen .draw-paper").bounding_box()
    page.mouse.move(paper["x"] + 4, paper["y"] + 4)
    page.mouse.down()
    page.mouse.move(paper["x"] + 0.5 * paper["width"], paper["y"] + 0.98 * paper["height"])
    page.mouse.up()
    expect(page.locator("figure.chosen .draw-region")).to_be_visible()
    expect(page.get_by_label("Region")).to_have_value(re.compile(r"^\d, \d, (49|50|51), 98$"))
    press(page, "Redraw region")
    expect(page.locator(".atelier-album img")).to_have_count(4)
    after = finished(page, 12).evaluate_all("paths => paths.map(path => path.outerHTML)")
    kept = [path for path in before if path in after]
    assert 0 < len(kept) < 12  # what lies outside has stayed as it was

    page.locator(".atelier-album button.thumbnail-item").first.click()
    finished(page, 8)


def test_two_seeds_stand_side_by_side(served: Any, open_page: Any) -> None:
    page, _ = open_page(served.url)
    small(page)
    page.get_by_label("Two seeds").check()
    press(page, "Draw")
    expect(page.locator(".atelier-album img")).to_have_count(2)
    captions = page.locator(".draw-stage figcaption").all_inner_texts()
    assert {re.search(r"seed (\d+)", caption)[1] for caption in captions} == {"0", "1"}
    losses = [float(caption.rpartition("loss ")[2]) for caption in captions]
    assert losses[1] <= losses[0]  # the one that buttons mean is the better one


def test_films_are_made_of_what_was_seen(served: Any, open_page: Any) -> None:
    page, _ = open_page(served.url)
    small(page, steps=60)
    press(page, "Draw")
    finished(page, 8)
    with Image.open(io.BytesIO(download(page, "The making (GIF)"))) as film:
        assert film.n_frames >= 2
    assert download(page, "Stroke by stroke (MP4)")[4:8] == b"ftyp"
    assert download(page, "PDF").startswith(b"%PDF")
    assert json.loads(download(page, "JSON"))["seed"] == 0
    assert b"<animate" in download(page, "Animated SVG")


@pytest.mark.parametrize("leave", ["stop", "close"])
def test_leaving_in_the_first_step_frees_the_device(slow: Any, open_page: Any, leave: str) -> None:
    page, _ = open_page(slow.url)
    small(page, steps=2000)
    press(page, "Draw")
    page.wait_for_function("() => document.querySelector('.atelier-progress')")
    assert not free_within(slow, 0)
    if leave == "stop":
        press(page, "Stop")
    else:
        page.close()
    # A first step looks four times for where strokes are wanted; then the click's own way.
    assert free_within(slow, 0.5 + 6 * STEP_S + 0.5)
    if leave == "stop":
        expect(page.locator(".atelier-badge")).to_have_text("stopped")
        press(page, "Continue")
        expect(page.locator(".toast-body")).to_contain_text("There is no drawing yet")


def test_a_link_repeats_the_run(served: Any, open_page: Any) -> None:
    page, _ = open_page(served.url, permissions=["clipboard-read", "clipboard-write"])
    small(page)
    page.get_by_role("textbox", name=re.compile("^Negative")).fill("a blur & a smear\na stain")
    press(page, "New seed")
    seed = page.get_by_label("Seed", exact=True)
    expect(seed).not_to_have_value("0")
    page.get_by_text("Colours, widths, canvas").click()
    page.get_by_label("A few").check()
    page.get_by_label("Paper", exact=True).check()
    press(page, "Draw")
    drawn = finished(page, 8).evaluate_all("paths => paths.map(path => path.outerHTML)")
    press(page, "Copy link")
    page.wait_for_url("**/?tab=clipdraw*")
    query = parse_qs(urlsplit(page.url).query)
    assert query["negative"] == ["a blur & a smear\na stain"]
    assert (query["strokes"], query["steps"]) == (["8"], ["6"])

    other, _ = open_page(page.url)
    expect(other.get_by_label("Seed", exact=True)).to_have_value(seed.input_value())
    press(other, "Draw")
    again = finished(other, 8).evaluate_all("paths => paths.map(path => path.outerHTML)")
    assert again == drawn


def test_examples_draw_at_once_and_styles_join_the_prompt(served: Any, open_page: Any) -> None:
    page, _ = open_page(served.url)
    small(page)
    page.get_by_role("button", name="a sunflower", exact=True).click()
    finished(page, 8)
    prompt = page.get_by_role("textbox", name=re.compile("^Prompt"))
    expect(prompt).to_have_value("a sunflower")
    page.get_by_role("button", name="pencil sketch", exact=True).click()
    expect(prompt).to_have_value("a sunflower, pencil sketch")
    page.get_by_role("button", name="pencil sketch", exact=True).click()
    expect(prompt).to_have_value("a sunflower")


def test_wrong_input_is_one_sentence_each(served: Any, open_page: Any) -> None:
    page, _ = open_page(served.url)
    prompt = page.get_by_role("textbox", name=re.compile("^Prompt"))
    toast = page.locator(".toast-body").last
    for words, button, sentence in (
        ("  ", "Draw", "Type what to draw."),
        ("x" * 10_000, "Draw", "10,000 characters; shorten it to 500"),
        ("an apple", "Continue", "There is no drawing yet"),
        ("an apple", "PNG", "There is no drawing yet"),
    ):
        prompt.fill(words)
        press(page, button)
        expect(toast).to_contain_text(sentence)
        page.get_by_label("Close").last.click()
        expect(page.locator(".toast-body")).to_have_count(0)


@pytest.mark.parametrize(
    ("size", "dark"), [((1920, 1080), True), ((1280, 720), False), ((390, 844), True)]
)
def test_the_tab_fits_and_fetches_nothing_from_outside(
    size: tuple[int, int], dark: bool, served: Any, open_page: Any
) -> None:
    page, watch = open_page(served.url, size=size, dark=dark)
    small(page)
    for fold in ("Colours, widths, canvas", "Where to start, further prompts", "Method",
                 "How it works"):  # fmt: skip
        page.get_by_text(fold, exact=True).click()
    press(page, "Draw")
    finished(page, 8)
    assert page.evaluate("document.documentElement.scrollWidth - window.innerWidth") <= 0
    assert (watch.external, watch.errors) == ([], [])


def test_a_sculpture_is_drawn_walked_around_and_taken_home(served: Any, open_page: Any) -> None:
    page, _ = open_page(served.url)
    page.get_by_text("Experimental: strokes in space").click()
    number(page, "Strokes in space", 6)
    number(page, "Steps in space", 4)
    press(page, "Draw in space")
    seen = page.locator("figure.other svg")
    expect(seen.locator("path")).to_have_count(6)
    expect(page.get_by_label("number input for Turn")).to_be_enabled()
    front = seen.inner_html()
    number(page, "Turn", 90)
    expect(page.locator("figure.other figcaption")).to_have_text("90° · 6 strokes")
    assert seen.inner_html() != front
    assert len(svg.read(download(page, "SVG of this side"))) == 6
