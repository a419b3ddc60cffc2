"""The StyleCLIP tab in a real Chromium: edited, dragged, accepted, undone, taken home, linked to."""

from __future__ import annotations

import io
import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import torch
from PIL import Image
from playwright.sync_api import Page, expect

import demos.styleclip
from models.styleclip.mapper import load_mapper
from models.stylegan.latent import Latent
from tests.models.styleclip.edit_support import quiet_generator
from tests.styleclip_tab_support import MINI, Slow, furnish, slow_generator, tiny_registry

expect.set_options(timeout=20_000)  # a busy machine is no broken page
pytestmark = pytest.mark.usefixtures("one_thread")
AFTER = ".edit-compare img >> nth=1"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("generator")
    furnish(place, quiet_generator())
    return place


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLIP_ATELIER_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def served(serve: Callable[..., Any], folder: Path) -> Any:
    return serve([demos.styleclip.TAB], registry=tiny_registry(folder))


@pytest.fixture(scope="module")
def slow(serve: Callable[..., Any], folder: Path) -> Any:
    return serve([demos.styleclip.TAB], registry=tiny_registry(folder, slow_generator()))


def press(page: Page, name: str) -> None:
    page.get_by_role("button", name=name, exact=True).click()


def pictures(page: Page) -> list[str]:
    """Addresses of before and after, as soon as they are there."""
    images = page.locator(".edit-compare img")
    expect(images).to_have_count(2)
    return [image.get_attribute("src") for image in images.all()]


def edited(page: Page) -> list[str]:
    """Edit, and wait until before and after are shown with the layers that changed."""
    press(page, "Edit")
    expect(page.locator(".edit-strip")).to_be_visible()
    expect(page.locator(".atelier-badge")).to_contain_text("Tiny")
    return pictures(page)


def changed(page: Page, before: str) -> str:
    """The picture once it is another than `before`."""
    expect(page.locator(AFTER)).not_to_have_attribute("src", before)
    return pictures(page)[1]


def settled(page: Page) -> str:
    """The picture once it has stayed for two seconds: nothing that was asked for is still under way."""
    since, last = time.monotonic(), pictures(page)[1]
    until = since + 20
    while time.monotonic() - since < 2.0:
        assert time.monotonic() < until, "the picture does not come to rest"
        page.wait_for_timeout(100)
        if (now := pictures(page)[1]) != last:
            since, last = time.monotonic(), now
    return last


def number(page: Page, label: str, value: float) -> None:
    field = page.get_by_label(f"number input for {label}")
    field.fill(str(value))
    field.press("Tab")


def download(page: Page, name: str) -> bytes:
    with page.expect_download() as taken:
        press(page, name)
    return Path(taken.value.path()).read_bytes()


def test_words_edit_and_the_picture_follows_the_slider(served: Any, open_page: Any) -> None:
    page, watch = open_page(served.url)
    target = page.get_by_role("textbox", name=re.compile("^Target"))
    target.fill("<script>window.hacked = 1</script> ${window.hacked = 2} a hat")
    before, after = edited(page)
    assert before.startswith("http")  # a file that the browser asks for once
    assert after.startswith("data:image/jpeg")

    strength = page.get_by_label("range slider for Manipulation strength")
    strength.scroll_into_view_if_needed()
    handle = strength.bounding_box()
    middle = handle["y"] + handle["height"] / 2
    page.mouse.move(handle["x"] + 0.7 * handle["width"], middle)
    page.mouse.down()
    seen = [after]
    for share in (0.85, 0.95, 0.2):  # the button stays down: this is the picture while it moves
        page.mouse.move(handle["x"] + share * handle["width"], middle, steps=4)
        seen.append(changed(page, seen[-1]))
    page.mouse.up()
    assert len(set(seen)) == 4
    expect(page.locator(".atelier-badge")).to_contain_text("ms")

    auto = page.get_by_role("checkbox", name="Automatic")
    expect(auto).to_be_checked()
    number(page, "Disentanglement", 0.02)
    changed(page, seen[-1])
    expect(auto).not_to_be_checked()
    last = settled(page)  # the drag's last picture and this one may come in two answers
    number(page, "Disentanglement", 0.99)
    expect(page.locator(".atelier-badge")).to_contain_text("leaves nothing to move")
    assert pictures(page)[1] == last
    assert page.evaluate("window.hacked") is None
    assert (watch.external, watch.errors) == ([], [])


def test_edits_are_accepted_undone_and_gone_back_to(served: Any, open_page: Any) -> None:
    page, _ = open_page(served.url)
    edited(page)
    press(page, "Accept")
    album = page.locator(".atelier-album img:visible")
    expect(album).to_have_count(2)
    accepted = pictures(page)
    assert accepted[0] == accepted[1]  # where the next edit begins
    page.get_by_label("Optimise").check()
    number(page, "Steps", 3)
    press(page, "Edit")
    expect(page.locator(".atelier-curve")).to_be_visible()
    assert pictures(page)[0] == accepted[0]
    press(page, "Undo")  # the open edit
    expect(page.locator(AFTER)).to_have_attribute("src", accepted[1])
    press(page, "Undo")  # the accepted one
    first = changed(page, accepted[1])
    press(page, "Redo")
    expect(page.locator(AFTER)).to_have_attribute("src", accepted[1])
    page.locator(".atelier-album:visible button.thumbnail-item").first.click()
    expect(page.locator(AFTER)).to_have_attribute("src", first)
    press(page, "Redo")
    press(page, "Reset")
    expect(page.locator(AFTER)).to_have_attribute("src", first)


def test_a_mapper_is_applied_and_another_one_trained(served: Any, open_page: Any) -> None:
    page, _ = open_page(served.url)
    page.get_by_label("Mapper", exact=True).first.check()
    page.get_by_role("textbox", name=re.compile("^Target")).fill("a person with a hat")
    edited(page)
    page.get_by_role("textbox", name=re.compile("^Target")).fill("a person with a kite")
    page.get_by_label("Training steps").fill("3")
    press(page, "Train for these words")
    expect(page.get_by_role("combobox", name="Mapper")).to_have_value("a person with a kite")
    expect(page.locator(".atelier-badge")).to_contain_text("Tiny")  # and edited with at once


def test_a_trained_mapper_is_its_visitors_alone_and_travels_as_a_file(
    served: Any, open_page: Any, tmp_path: Path
) -> None:
    words = "a person with a secret"

    def visit() -> Page:
        page, _ = open_page(served.url)
        expect(page.get_by_role("button", name="Mapper", exact=True)).to_be_hidden()
        page.get_by_label("Mapper", exact=True).first.check()
        return page

    def load(page: Page, file: Path) -> None:
        page.locator("input[type=file][accept*='.pt']").set_input_files(file)

    def offered(page: Page) -> list[str]:
        page.get_by_role("combobox", name="Mapper").click()
        expect(page.get_by_role("option").first).to_be_visible()
        titles = [title.strip() for title in page.get_by_role("option").all_inner_texts()]
        page.keyboard.press("Escape")
        page.get_by_role(
            "textbox", name=re.compile("^Target")
        ).click()  # an open list hears nothing
        return titles

    mine = visit()
    mine.get_by_role("textbox", name=re.compile("^Target")).fill(words)
    mine.get_by_label("Training steps").fill("2")
    press(mine, "Train for these words")
    chosen = mine.get_by_role("combobox", name="Mapper")
    expect(chosen).to_have_value(words)
    expect(mine.locator(".atelier-badge")).to_contain_text("Tiny")
    saved = tmp_path / "mine.safetensors"
    saved.write_bytes(download(mine, "Mapper"))

    other = visit()
    assert not any(words in title for title in offered(other))
    load(other, saved)
    expect(other.get_by_role("combobox", name="Mapper")).to_have_value(words)
    expect(other.locator(".atelier-badge")).to_contain_text("Tiny")
    again = tmp_path / "again.safetensors"
    again.write_bytes(download(other, "Mapper"))  # safetensors orders metadata as it likes
    mappers = [load_mapper(path) for path in (saved, again)]
    assert mappers[0].info == mappers[1].info
    assert mappers[0].info.prompt.target == words
    states = [mapper.state_dict() for mapper in mappers]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    (tmp_path / "bad.safetensors").write_bytes(b"bad")
    load(other, tmp_path / "bad.safetensors")
    expect(other.locator(".toast-body")).to_contain_text("not a whole safetensors file")


def test_faces_are_chosen_and_pictures_of_ones_own_inverted(
    served: Any, open_page: Any, tmp_path: Path
) -> None:
    page, _ = open_page(served.url)
    press(page, "Faces to choose from")
    faces = page.locator(".atelier-album:visible button.thumbnail-item")
    expect(faces).to_have_count(12)
    faces.nth(4).click()
    expect(page.get_by_label("Seed", exact=True)).to_have_value("5")
    chosen = pictures(page)[1]
    press(page, "New face")
    changed(page, chosen)
    page.get_by_text("Your own picture").click()
    Image.effect_noise((48, 40), 60).convert("RGB").save(tmp_path / "me.png")
    page.locator("input[type=file][accept*=image]").first.set_input_files(tmp_path / "me.png")
    number(page, "Inversion steps", 8)
    before = pictures(page)[1]
    press(page, "Use this picture")
    changed(page, before)
    expect(page.locator(".atelier-badge")).to_contain_text("Tiny")


def test_everything_is_taken_home_and_a_latent_comes_back(
    served: Any, open_page: Any, tmp_path: Path
) -> None:
    page, _ = open_page(served.url)
    edited(page)
    with Image.open(io.BytesIO(download(page, "PNG"))) as picture:
        assert picture.size == (32, 32)
    data = download(page, "Latent")
    assert Latent.from_bytes(data, quiet_generator(), MINI).offsets
    assert json.loads(download(page, "JSON"))["changed_channels"]
    assert download(page, "Sweep (MP4)")[4:8] == b"ftyp"
    with Image.open(io.BytesIO(download(page, "Sweep strip"))) as strip:
        assert strip.size == (7 * 32, 32)
    before = pictures(page)[0]
    (tmp_path / "mine.safetensors").write_bytes(data)
    page.locator("input[type=file][accept='.safetensors']").set_input_files(
        tmp_path / "mine.safetensors"
    )
    expect(page.locator(".edit-compare img >> nth=0")).not_to_have_attribute("src", before)
    (tmp_path / "bad.safetensors").write_bytes(b"bad")
    page.locator("input[type=file][accept='.safetensors']").set_input_files(
        tmp_path / "bad.safetensors"
    )
    expect(page.locator(".toast-body")).to_contain_text("no latent file")


def test_a_link_repeats_the_edit(served: Any, open_page: Any) -> None:
    page, _ = open_page(served.url, permissions=["clipboard-read", "clipboard-write"])
    page.get_by_label("Seed", exact=True).fill("11")
    edited(page)
    number(page, "Manipulation strength", 6)
    number(page, "Disentanglement", 0.1)
    expect(page.locator(".atelier-badge")).to_contain_text("ms")
    press(page, "Copy link")
    page.wait_for_url("**/?tab=styleclip*")
    query = parse_qs(urlsplit(page.url).query)
    assert (query["seed"], query["strength"], query["beta"]) == (["11"], ["6"], ["0.1"])
    assert query["auto"] == ["0"]
    other, _ = open_page(page.url)
    expect(other.get_by_label("Seed", exact=True)).to_have_value("11")
    edited(other)
    assert download(other, "PNG") == download(page, "PNG")


def test_stop_frees_the_device_and_keeps_the_best(slow: Any, open_page: Any) -> None:
    page, _ = open_page(slow.url)
    page.get_by_label("Optimise").check()
    number(page, "Steps", 300)
    press(page, "Edit")
    expect(page.locator(".atelier-progress")).to_contain_text("of 300")
    expect(page.locator(".atelier-curve")).to_be_visible()
    press(page, "Stop")
    end = time.monotonic() + 0.5 + 4 * Slow.seconds + 1.0  # the step, then the picture at rest
    while len(slow.atelier.jobs.line) and time.monotonic() < end:
        time.sleep(0.01)
    assert len(slow.atelier.jobs.line) == 0
    expect(page.locator(".edit-strip")).to_be_visible()  # what was reached is looked at
    assert download(page, "Latent")


def test_wrong_input_is_one_sentence_each(served: Any, open_page: Any) -> None:
    page, _ = open_page(served.url)
    target = page.get_by_role("textbox", name=re.compile("^Target"))
    toast = page.locator(".toast-body").last
    for words, button, sentence in (
        ("  ", "Edit", "Type what the picture should show."),
        ("x" * 1000, "Edit", "shorten it to 300"),
        ("a person", "Edit", "say the same"),
        ("a hat", "Accept", "There is no edit yet"),
        ("a hat", "PNG", "There is no edit yet"),
        ("a hat", "Latent", "There is no picture yet"),
        ("a hat", "Undo", "There is no picture yet"),
    ):
        target.fill(words)
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
    for fold in ("Your own picture", "How it works"):
        page.get_by_text(fold, exact=True).click()
    edited(page)
    assert page.evaluate("document.documentElement.scrollWidth - window.innerWidth") <= 0
    shown = page.locator(AFTER).bounding_box()
    assert min(shown["width"], shown["height"]) >= 240  # 32 pixels, shown large
    assert (watch.external, watch.errors) == ([], [])
