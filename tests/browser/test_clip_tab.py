"""The CLIP tab in a real Chromium: seen, typed into, run, stopped, linked to, at three sizes."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from PIL import Image
from playwright.sync_api import Locator, Page, expect

import demos.clip
from demos.ui.downloads import SETTINGS_KEY
from models.catalog import CATALOG
from models.registry import Registry
from tests.clip_support import counting, mini, mini_registry, noise
from tests.demos.ui import tiny

VIEWS = {"Recognise": "Recognise", "Why": "Show why", "Match": "Match", "Search": "Search"}
TABS = (demos.clip.TAB, tiny.TABS[0])
expect.set_options(timeout=20_000)  # a busy machine is no broken page


@pytest.fixture(scope="module")
def served(serve: Callable[..., Any]) -> Any:
    return serve(TABS, registry=mini_registry())


def view(page: Page, name: str) -> None:
    page.get_by_role("tab", name=name, exact=True).click()
    expect(page.get_by_role("button", name=VIEWS[name], exact=True)).to_be_visible()


def finished(page: Page) -> None:
    expect(page.locator(".atelier-badge:visible", has_text="CLIP mini")).to_be_visible()


def run(page: Page, name: str) -> None:
    page.get_by_role("button", name=VIEWS[name], exact=True).click()
    finished(page)


def words(page: Page) -> Locator:
    """The labels of Recognise; Gradio counts the hint below them as part of their name."""
    return page.get_by_role("textbox", name=re.compile("^Labels Any words"))


def overflow(page: Page) -> int:
    return page.evaluate("document.documentElement.scrollWidth - window.innerWidth")


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("size", [(1920, 1080), (1280, 720), (390, 844)])
def test_every_view_runs_fits_and_fetches_nothing_from_outside(
    size: tuple[int, int], dark: bool, served: Any, open_page: Any
) -> None:
    page, watch = open_page(served.url, size=size, dark=dark)
    for name in VIEWS:
        view(page, name)
        if name == "Why":
            expect(page.get_by_label("Explain this label")).to_have_value("cat")
        run(page, name)
        assert overflow(page) <= 0, name
    assert (watch.external, watch.errors) == ([], [])


def test_an_uploaded_picture_is_told_by_typed_words_and_encoded_once(
    served: Any, open_page: Any, tmp_path: Path
) -> None:
    noise(2001, (300, 200)).save(tmp_path / "mine.png")
    page, watch = open_page(served.url)
    with counting(mini()) as counts:
        page.locator('input[type="file"]').first.set_input_files(tmp_path / "mine.png")
        finished(page)  # an upload runs by itself
        labels = words(page)
        labels.fill("seagull\n<script>alert(1)</script>\n${alert(2)}, תפוח")
        labels.press("Control+Enter")
        rows = page.locator(".clip-bars .row:not(.head) .label")
        expect(rows.filter(has_text="seagull")).to_have_count(1)
    assert counts.pictures == [1]
    shown = set(rows.all_inner_texts())
    assert shown == {"seagull", "<script>alert(1)</script>", "${alert(2)}", "תפוח"}
    assert watch.errors == []


def test_temperature_and_top_k_redraw_without_the_model(served: Any, open_page: Any) -> None:
    page, _ = open_page(served.url)
    run(page, "Recognise")
    best = page.locator(".clip-bars .row.best .number").first
    before = best.inner_text()
    with counting(mini()) as counts:
        page.get_by_label("number input for Temperature").first.fill("10")
        page.get_by_label("number input for Temperature").first.press("Tab")
        expect(best).not_to_have_text(before)
        page.get_by_label("number input for Top k").first.fill("2")
        page.get_by_label("number input for Top k").first.press("Tab")
        expect(page.locator(".clip-bars .row:not(.head)")).to_have_count(2)
    assert (counts.pictures, counts.texts) == ([], [])


def test_examples_and_ready_made_labels_fill_the_page(served: Any, open_page: Any) -> None:
    page, _ = open_page(served.url)
    page.locator(".atelier-examples button.gallery-item").nth(4).click()
    expect(words(page)).to_have_value(re.compile("pizza"))
    expect(page.get_by_text("Caltech-101").first).to_be_visible()
    finished(page)
    page.get_by_label("Ready-made labels").click()
    page.get_by_role("option", name="Food and drink").click()
    expect(words(page)).to_have_value(re.compile("grapes.*melon"))


def test_opacity_blends_again_without_the_model(served: Any, open_page: Any) -> None:
    page, _ = open_page(served.url)
    view(page, "Why")
    expect(page.get_by_label("Explain this label")).to_have_value("cat")
    run(page, "Why")
    heat = page.locator("img[src*='image.jpeg']:visible").last
    before = heat.get_attribute("src")
    with counting(mini()) as counts:
        page.get_by_label("number input for Opacity of the map").fill("0.2")
        page.get_by_label("number input for Opacity of the map").press("Tab")
        page.wait_for_function(
            "before => ![...document.images].some(image => image.getAttribute('src') === before)",
            arg=before,
        )
    assert (counts.pictures, counts.texts) == ([], [])


def test_the_matrix_has_numbers_to_hover_over_and_marks_the_best(
    served: Any, open_page: Any
) -> None:
    page, _ = open_page(served.url)
    view(page, "Match")
    run(page, "Match")
    expect(page.locator(".clip-matrix tbody tr")).to_have_count(8)
    expect(page.locator(".clip-matrix td.best")).to_have_count(8)
    cell = page.locator(".clip-matrix tbody td").first
    assert re.search(r"cosine -?0\.\d{4}\n.*of its row", cell.get_attribute("title"))
    page.get_by_label("Raw cosine").check()
    expect(cell).to_have_text(re.compile(r"^-?0\.\d{3}$"))


def test_results_are_downloaded_with_their_settings(
    served: Any, open_page: Any, tmp_path: Path
) -> None:
    page, _ = open_page(served.url)
    run(page, "Recognise")
    for name in ("PNG", "JSON"):
        button = page.get_by_role("button", name=name, exact=True)
        expect(button).to_be_enabled()
        with page.expect_download() as download:
            button.click()
        download.value.save_as(tmp_path / name)
    answer = json.loads((tmp_path / "JSON").read_text())
    assert answer["settings"]["labels"] == ["cat", "dog", "rabbit", "bird"]
    with Image.open(tmp_path / "PNG") as picture:
        assert json.loads(picture.text[SETTINGS_KEY])["settings"] == answer["settings"]


def test_a_link_opens_the_same_state(served: Any, open_page: Any) -> None:
    page, _ = open_page(served.url, permissions=["clipboard-read", "clipboard-write"])
    page.locator(".atelier-examples button.gallery-item").nth(9).click()
    finished(page)
    words(page).fill("octopus, a squid & co")
    page.get_by_label("ImageNet's 80").check()
    page.get_by_label("number input for Temperature").first.fill("2")
    page.get_by_label("number input for Temperature").first.press("Tab")
    page.get_by_role("tab", name="Why", exact=True).click()
    expect(page.get_by_label("Explain this label")).to_have_value("octopus")
    page.get_by_role("button", name="Copy link").first.click()
    page.wait_for_url("**/?tab=clip*")
    query = parse_qs(urlsplit(page.url).query)
    assert query["labels"] == ["octopus, a squid & co"]
    assert (query["view"], query["model"], query["templates"]) == (
        ["why"],
        ["clip-mini"],
        ["ensemble"],
    )
    assert float(query["temperature"][0]) == 2

    other, _ = open_page(page.url)
    expect(other.get_by_role("button", name="Show why", exact=True)).to_be_visible()
    other.get_by_role("tab", name="Recognise", exact=True).click()
    expect(words(other)).to_have_value("octopus, a squid & co")
    expect(other.get_by_label("ImageNet's 80")).to_be_checked()
    expect(other.get_by_label("number input for Temperature").first).to_have_value("2")
    expect(other.locator("img[src*='under-the-sea.jpg']").first).to_be_attached()


def test_digits_switch_tabs_but_not_while_typing(served: Any, open_page: Any) -> None:
    page, _ = open_page(served.url)
    page.keyboard.press("2")
    expect(page.get_by_role("button", name="Count", exact=True)).to_be_visible()
    page.keyboard.press("1")
    expect(page.get_by_role("button", name="Recognise", exact=True)).to_be_visible()
    words(page).click()
    page.keyboard.type("2")
    expect(page.get_by_role("button", name="Recognise", exact=True)).to_be_visible()


@pytest.mark.parametrize(
    ("labels", "sentence"),
    [(" , ,", "Type at least one label"), ("x" * 10_000, "shorten it to 200")],
)
def test_wrong_input_is_one_sentence(
    labels: str, sentence: str, served: Any, open_page: Any
) -> None:
    page, _ = open_page(served.url)
    words(page).fill(labels)
    page.get_by_role("button", name="Recognise", exact=True).click()
    expect(page.locator(".toast-body")).to_contain_text(sentence)


def test_official_models_say_what_they_cost_and_refuse_offline(served: Any, open_page: Any) -> None:
    page, _ = open_page(served.url)
    page.get_by_label("Model", exact=True).click()
    page.get_by_role("option", name=re.compile("ViT-B.32 · 605 MB · MIT")).click()
    expect(page.get_by_text(re.compile("605 MB from huggingface.co"))).to_be_visible()
    page.get_by_role("button", name="Recognise", exact=True).click()
    expect(page.locator(".toast-body")).to_contain_text("mini model")


class Slow:
    """clip-mini, half a second for every few pictures."""

    def __getattr__(self, name: str) -> Any:
        return getattr(mini(), name)

    def encode_image(self, images: Any) -> Any:
        time.sleep(0.3)
        return mini().encode_image(images)


def test_stop_frees_the_device_while_uploads_are_encoded(
    serve: Callable[..., Any], open_page: Any, tmp_path: Path
) -> None:
    row = replace(CATALOG["clip-mini"], load=lambda row, context: Slow())
    served = serve([demos.clip.TAB], registry=Registry({"clip-mini": row}, device="cpu"))
    paths = [tmp_path / f"{number}.png" for number in range(150)]
    for number, path in enumerate(paths):
        noise(3000 + number, (16, 16)).save(path)
    page, _ = open_page(served.url)
    view(page, "Search")
    page.locator('input[type="file"]:not([webkitdirectory])').last.set_input_files(paths)
    expect(page.get_by_role("button", name="Remove this file")).to_have_count(150)
    page.get_by_role("button", name="Search", exact=True).click()
    expect(page.locator(".atelier-progress:visible")).to_contain_text("Encoding 150 pictures")
    page.get_by_role("button", name="Stop").last.click()
    expect(page.locator(".atelier-badge:visible")).to_have_text("stopped")
    deadline = time.monotonic() + 1.5
    while len(served.atelier.jobs.line) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert len(served.atelier.jobs.line) == 0
