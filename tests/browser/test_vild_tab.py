"""The ViLD tab in a real Chromium: typed, run, dragged, chosen, discovered, compared, live, taken home."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import imageio.v2 as imageio
import numpy as np
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image
from playwright.sync_api import Page, expect

import demos.vild
from demos.vild_pictures import examples
from models.catalog import own_detector_rows
from tests.conftest import CHROMIUM_FLAGS
from tests.vild_tab_support import Watched, tiny_detector, vild_registry

expect.set_options(timeout=20_000)  # a busy machine is no broken page
BOXES = ".atelier-scene[data-scene=main] .atelier-box"
KITE = examples()["kite"]


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Watched:
    return tiny_detector(tmp_path_factory.mktemp("names"))


@pytest.fixture(scope="module")
def served(
    serve: Callable[..., Any], detector: Watched, tmp_path_factory: pytest.TempPathFactory
) -> Any:
    folder = tmp_path_factory.mktemp("own")
    broken = folder / "vild.tar.gz"
    broken.write_bytes(b"no archive")
    rows = list(own_detector_rows(broken).values())
    return serve([demos.vild.TAB], registry=vild_registry(folder, detector, rows))


def press(page: Page, name: str) -> None:
    page.get_by_role("button", name=name, exact=True).click()


def names(page: Page) -> Any:
    return page.get_by_role("textbox", name=re.compile("^Names Of things"))


def detected(page: Page) -> int:
    """Detect, and wait for boxes; how many there are."""
    press(page, "Detect")
    expect(page.locator(".atelier-badge:visible")).to_contain_text("ViLD mini")
    expect(page.locator(BOXES).first).to_be_visible()
    return page.locator(BOXES).count()


def number(page: Page, label: str, value: float) -> None:
    field = page.get_by_label(f"number input for {label}").first
    field.fill(str(value))
    field.press("Tab")


def download(page: Page, name: str) -> bytes:
    with page.expect_download() as taken:
        press(page, name)
    return Path(taken.value.path()).read_bytes()


def toast(page: Page) -> Any:
    return page.locator(".toast-body")


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("size", [(1920, 1080), (1280, 720), (390, 844)])
def test_it_runs_fits_and_fetches_nothing_from_outside(
    size: tuple[int, int], dark: bool, served: Any, open_page: Any
) -> None:
    page, watch = open_page(served.url, size=size, dark=dark)
    detected(page)
    for name in ("All regions", "JSON", "Region", "Beside GLIP", "Live", "Picture"):
        page.get_by_role("tab", name=name, exact=True).click()
        overflow = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
        assert overflow <= 0, name
    picture = page.locator(".atelier-scene img").first
    assert picture.evaluate("image => image.complete && image.naturalWidth") == 640
    assert (watch.external, watch.errors) == ([], [])


def test_masks_novel_names_and_sliders(served: Any, open_page: Any, detector: Watched) -> None:
    page, watch = open_page(served.url)
    count = detected(page)
    masks = page.locator(f"{BOXES} > i")
    expect(masks).to_have_count(count)
    chips = page.locator(".atelier-phrases li")
    expect(chips).to_have_count(4)
    assert sorted(page.locator(".atelier-phrases li.marked").all_inner_texts()) == sorted(
        text for text in chips.all_inner_texts() if text.startswith("bird")
    )
    looked = detector.looked
    number(page, "Max boxes", 2)
    expect(page.locator(BOXES).nth(2)).to_have_count(0)
    expect(page.get_by_label("The model's own settings")).not_to_be_checked()
    page.get_by_label("Softmax").check()
    expect(page.locator(".vild-region")).to_contain_text("Probabilities.")
    assert detector.looked == looked  # all of it on what was stored
    page.get_by_label("Masks").uncheck()
    expect(masks).to_have_count(0)
    page.get_by_label("Masks").check()
    number(page, "Max boxes", 30)
    number(page, "Overlap allowed (NMS)", 0.95)
    page.wait_for_function(  # new regions get theirs, too
        "([boxes, least]) => { const all = [...document.querySelectorAll(boxes)];"
        " return all.length > least && all.every(box => box.querySelector(':scope > i')); }",
        arg=[BOXES, count],
    )
    page.get_by_label("The model's own settings").check()
    expect(page.locator(BOXES)).to_have_count(count)
    assert watch.errors == []


def test_a_click_on_a_box_says_what_it_may_be_and_why(served: Any, open_page: Any) -> None:
    page, _ = open_page(served.url)
    assert detected(page) > 1
    label = page.locator(f"{BOXES}[data-box='1'] > span").inner_text()
    page.locator(f"{BOXES}[data-box='1']").dispatch_event("click")
    region = page.locator(".vild-region")
    expect(region.locator(".vild-name")).to_have_text(
        re.compile(f"^{re.escape(label.rsplit(' ', 1)[0])}( ✦)?$")
    )
    expect(region.locator("figure")).to_have_count(2)  # the crop, and what the mask keeps
    expect(region.locator(".vild-bars > div")).to_have_count(5)
    expect(page.locator(".vild-why")).to_contain_text("CLIP itself")
    expect(page.locator(".vild-why .atelier-bars > div")).to_have_count(8)
    page.get_by_role("tab", name="All regions", exact=True).click()
    page.locator(".atelier-crops button").first.click()
    page.get_by_role("tab", name="Region", exact=True).click()
    first = page.locator(f"{BOXES}[data-box='0'] > span").inner_text().rsplit(" ", 1)[0]
    expect(region.locator(".vild-name")).to_contain_text(first)


def test_discovery_needs_no_names(served: Any, open_page: Any) -> None:
    page, _ = open_page(served.url)
    names(page).fill("")
    press(page, "Detect")
    expect(toast(page)).to_contain_text("Type at least one name, such as “red apple”, or press")
    press(page, "Discover")
    expect(page.locator(".atelier-phrases")).to_contain_text("Discovered")
    expect(page.locator(BOXES).first).to_be_visible()


def test_ready_made_names_even_all_of_lvis(served: Any, open_page: Any) -> None:
    page, _ = open_page(served.url)
    page.get_by_label("Ready-made names").click()
    page.get_by_role("option", name="LVIS's 1,203").click()
    expect(names(page)).to_have_value(re.compile("^aerosol_can; .*zucchini$"))
    detected(page)
    expect(page.locator(".atelier-phrases li").last).to_contain_text("and 1143 more")
    press(page, "Copy link")
    expect(toast(page)).to_contain_text("too long for a link")


def test_hostile_names_are_only_names(served: Any, open_page: Any) -> None:
    page, watch = open_page(served.url)
    names(page).fill("<img src=x onerror='window.hacked=1'>; ${window.hacked=2}; 犬; background")
    detected(page)
    page.locator(BOXES).first.dispatch_event("click")
    expect(page.locator(".vild-why")).to_be_visible()
    assert page.evaluate("window.hacked") is None
    names(page).fill("background")
    press(page, "Detect")
    expect(toast(page)).to_contain_text("stands for all that has no name")
    assert page.locator(BOXES).count() > 0  # nothing is lost
    assert watch.errors == []


def test_a_damaged_archive_is_a_sentence(served: Any, open_page: Any) -> None:
    page, _ = open_page(served.url)
    page.get_by_label("Model", exact=True).click()
    page.get_by_role("option", name=re.compile("vild.tar.gz")).click()
    press(page, "Detect")
    expect(toast(page)).to_contain_text("cannot be unpacked")


def test_glip_stands_beside_it(served: Any, open_page: Any) -> None:
    page, _ = open_page(served.url)
    page.get_by_role("tab", name="Beside GLIP").click()
    press(page, "Ask both")
    right = page.locator(".atelier-scene[data-scene=right] .atelier-box")
    expect(right).to_have_count(8)  # two for each name
    expect(page.locator(".atelier-scene[data-scene=left] .atelier-box").first).to_be_visible()
    number(page, "GLIP's box threshold", 0.6)
    expect(right).to_have_count(4)


def test_results_are_taken_home(served: Any, open_page: Any, tmp_path: Path) -> None:
    page, _ = open_page(served.url)
    press(page, "PNG")
    expect(toast(page)).to_contain_text("no result yet")
    count = detected(page)
    (tmp_path / "a.png").write_bytes(download(page, "PNG"))
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.size == (640, 480)
    assert len(json.loads(download(page, "JSON"))["detections"]) == count
    coco = json.loads(download(page, "COCO"))["annotations"]
    assert [one["segmentation"]["size"] for one in coco] == [[480, 640]] * count
    assert download(page, "CSV").count(b"kite.jpg") == count
    (tmp_path / "yolo.zip").write_bytes(download(page, "YOLO"))
    assert "data.yaml" in zipfile.ZipFile(tmp_path / "yolo.zip").namelist()


def test_a_link_opens_the_same_state(served: Any, open_page: Any) -> None:
    page, _ = open_page(served.url, permissions=["clipboard-read", "clipboard-write"])
    page.locator(".atelier-examples button.gallery-item").nth(1).click()
    expect(page.locator(BOXES).first).to_be_visible()
    names(page).fill("cat; an umbrella & a hat")
    number(page, "Min objectness", 0.15)
    expect(page.get_by_label("The model's own settings")).not_to_be_checked()
    press(page, "Copy link")
    page.wait_for_url("**/?tab=vild*")
    query = parse_qs(urlsplit(page.url).query)
    assert query["names"] == ["cat; an umbrella & a hat"]
    assert (query["example"], query["auto"], query["min_objectness"]) == (
        ["umbrellas"], ["0"], ["0.15"],
    )  # fmt: skip
    other, _ = open_page(page.url)
    expect(names(other)).to_have_value("cat; an umbrella & a hat")
    expect(other.get_by_label("number input for Min objectness")).to_have_value("0.15")
    expect(other.locator("img[src*='umbrellas.jpg']").first).to_be_attached()


def test_the_endpoint_answers_or_says_why(served: Any) -> None:
    client = Client(served.url, verbose=False)
    answer = client.predict(handle_file(KITE.path), "dog; bird", 5, api_name="/vild_detect")
    assert answer["model"] == "vild-mini"
    assert answer["settings"]["max_boxes"] == 5
    assert 0 < len(answer["detections"]) <= 5
    first = answer["detections"][0]
    assert first["novel"] == (first["label"] == "bird")
    assert first["mask"]["size"] == [480, 640]
    found = client.predict(handle_file(KITE.path), api_name="/vild_detect")
    assert found["settings"]["mode"] == "discover"
    assert sum(len(group["detections"]) for group in found["groups"]) == len(found["detections"])
    for bad, sentence in (
        ({"names": "background"}, "stands for all"),
        ({"names": "dog", "nms": 2}, "lies between 0 and 1"),
        ({"names": "dog", "model": "clip-mini"}, "not in the list of choices"),
        ({"names": ";;"}, "Type at least one name"),
    ):
        with pytest.raises(AppError, match=sentence):
            client.predict(handle_file(KITE.path), api_name="/vild_detect", **bad)


# --------------------------------------------------------------------------------------- live


def film(path: Path, count: int, fps: int = 10) -> Path:
    noise = np.random.default_rng(0).integers(0, 255, (count, 6, 8, 3), np.uint8)
    pictures = [np.kron(one, np.ones((20, 20, 1), np.uint8)) for one in noise]
    imageio.mimwrite(path, pictures, fps=fps, macro_block_size=None)
    return path


def test_a_film_runs_changes_names_and_stops_at_once(
    served: Any, open_page: Any, detector: Watched, tmp_path: Path
) -> None:
    page, watch = open_page(served.url)
    page.get_by_role("tab", name="Live", exact=True).click()
    press(page, "Play")
    expect(toast(page)).to_contain_text("Give a film first")
    page.locator("input[type=file][accept*='.mp4']").set_input_files(film(tmp_path / "a.mp4", 600))
    expect(page.get_by_role("cell", name="a.mp4")).to_be_visible()
    press(page, "Play")
    status = page.locator(".atelier-badge:visible").filter(has_text="frames a second")
    expect(status).to_be_visible()
    expect(page.locator(".vild-frame img")).to_be_visible()
    names(page).fill(" ;; ")
    expect(page.get_by_text("Type at least one name")).to_be_visible()
    names(page).fill("wolf; dog")
    expect(status).to_be_visible()
    page.locator(".atelier-stop:visible").last.click()
    expect(page.locator(".atelier-badge:visible").filter(has_text="stopped")).to_be_visible()
    time.sleep(0.5)
    looked = detector.looked
    time.sleep(0.7)
    assert detector.looked == looked
    assert len(served.atelier.jobs.line) == 0
    assert watch.errors == []


@pytest.fixture
def with_camera(browser: Any) -> Iterator[Any]:
    """A Chromium with a camera that shows a test picture."""
    path = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    flags = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
    chromium = browser.browser_type.launch(executable_path=path, args=[*CHROMIUM_FLAGS, *flags])
    yield chromium
    chromium.close()


def test_a_camera_runs_changes_names_and_stops_at_once(
    served: Any, with_camera: Any, detector: Watched
) -> None:
    context = with_camera.new_context(
        viewport={"width": 1280, "height": 900}, permissions=["camera"]
    )
    page = context.new_page()
    page.set_default_timeout(60_000)
    page.goto(served.url)
    page.get_by_role("tab", name="Live", exact=True).click()
    page.get_by_text("Click to Access Webcam").click()
    record = page.locator(
        "button[aria-label='capture photo']"
    )  # so it is called while it runs, too
    record.click()
    status = page.locator(".atelier-badge:visible").filter(has_text="frames a second")
    expect(status).to_be_visible()
    expect(page.locator(".vild-frame img")).to_be_visible()
    names(page).fill(" ;; ")
    expect(page.get_by_text("Type at least one name")).to_be_visible()
    names(page).fill("wolf; dog")
    expect(status).to_be_visible()
    record.click()
    time.sleep(1.0)
    looked = detector.looked
    time.sleep(1.0)
    assert detector.looked == looked
    assert len(served.atelier.jobs.line) == 0
    context.close()
