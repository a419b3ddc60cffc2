"""The running app, as a browser, a client and a load balancer meet it, with a tab of furniture."""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from gradio_client import Client
from gradio_client.exceptions import AppError
from PIL import Image
from playwright.sync_api import expect

import app
from models.catalog import CATALOG
from tests.conftest import Served
from tests.demos.ui import tiny

SIZES = [(1920, 1080), (1280, 720), (390, 844)]
STEP_S = 0.02


@pytest.fixture(scope="module")
def served(serve: Callable[..., Served]) -> Served:
    return serve(tiny.TABS)


def until(condition: Callable[[], bool], seconds: float) -> bool:
    """Whether `condition` comes true within `seconds`."""
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    return condition()


# --- what the page fetches and how it fits -----------------------------------------------------


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("size", SIZES)
def test_page_fits_and_fetches_nothing_from_outside(
    served: Served, open_page: Any, size: tuple[int, int], dark: bool
) -> None:
    page, watch = open_page(served.url, size=size, dark=dark)
    page.get_by_role("tab", name="Second").click()
    page.get_by_label("Note").fill("hello")
    page.get_by_role("tab", name="Tiny").click()
    page.click("button.atelier-run")
    page.wait_for_selector(".atelier-badge")
    page.get_by_text("How it works").click()
    page.wait_for_load_state("networkidle")
    assert watch.external == []
    assert watch.errors == []
    assert page.evaluate("document.documentElement.scrollWidth") <= size[0]
    fonts = page.evaluate(
        "[...document.fonts].filter(f => f.status == 'loaded').map(f => f.family)"
    )
    assert "Figtree" in {name.strip("'\"") for name in fonts}
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    red = int(re.findall(r"\d+", background)[0])
    assert (red < 60) is dark


def test_present(serve: Callable[..., Served], open_page: Any) -> None:
    page, watch = open_page(serve(tiny.TABS, present=True).url)
    page.wait_for_selector("button.atelier-run")
    assert page.locator("footer").count() == 0 or not page.locator("footer").is_visible()
    size = page.evaluate(
        "parseFloat(getComputedStyle(document.querySelector('.atelier-run')).fontSize)"
    )
    assert size >= 20
    assert watch.external == []


# --- run, stop, leave --------------------------------------------------------------------------


def test_run_by_keyboard_shows_progress_then_badge(served: Served, open_page: Any) -> None:
    page, _ = open_page(served.url)
    box = page.get_by_label("Labels")
    box.fill("a hat, a <b>cat</b><img src=x onerror='window.hacked = 1'>${window.hacked = 2}")
    page.get_by_label("number input for Steps").fill("40")
    box.press("Control+Enter")
    page.wait_for_selector(".atelier-progress")
    page.wait_for_selector(".atelier-badge")
    shown = page.locator(".tiny-result").first.inner_text()
    assert shown.startswith("2 labels: a hat, a <b>cat</b><img")
    assert page.evaluate("window.hacked") is None
    badge = page.locator(".atelier-badge").inner_text().split("\n")
    assert badge[:2] == ["tiny", "cpu"]


def test_a_wrong_input_is_one_sentence(served: Served, open_page: Any) -> None:
    page, _ = open_page(served.url)
    page.get_by_label("Labels").fill(" , ,, ")
    page.click("button.atelier-run")
    toast = page.locator(".toast-body")
    toast.wait_for()
    assert "Type at least one label, one per line or separated by commas." in toast.inner_text()


@pytest.mark.parametrize("leave", ["stop", "close"])
def test_leaving_frees_the_device(served: Served, open_page: Any, leave: str) -> None:
    page, _ = open_page(served.url)
    page.get_by_label("number input for Steps").fill("200")
    page.click("button.atelier-run")
    page.wait_for_selector(".atelier-progress")
    line = served.atelier.jobs.line
    assert until(lambda: len(line) == 1, 2)
    if leave == "stop":
        page.click("button.atelier-stop")
    else:
        page.close()
    assert until(lambda: len(line) == 0, 0.5 + STEP_S + 0.5)  # the click's own way included
    if leave == "stop":
        page.get_by_text("stopped").wait_for()


# --- links and keys ----------------------------------------------------------------------------


def test_a_link_opens_the_same_state(served: Served, open_page: Any) -> None:
    page, _ = open_page(served.url, permissions=["clipboard-read", "clipboard-write"])
    page.get_by_label("Labels").fill("über & 100%\n🐱")
    page.get_by_label("number input for Steps").fill("7")
    page.get_by_label("blue").check()
    page.click("button.atelier-link")
    page.get_by_text("Copied").wait_for()
    link = page.evaluate("navigator.clipboard.readText()")
    assert link.startswith(served.url + "/?tab=tiny&")
    assert page.url == link

    again, watch = open_page(link)
    expect(again.get_by_label("Labels")).to_have_value("über & 100%\n🐱")
    expect(again.get_by_label("number input for Steps")).to_have_value("7")
    expect(again.get_by_label("blue")).to_be_checked()
    assert watch.errors == []


def test_a_link_opens_another_tab(served: Served, open_page: Any) -> None:
    page, _ = open_page(served.url + "/?tab=second&note=hi&colour=blue&x=1")
    expect(page.get_by_label("Note")).to_have_value("hi")
    expect(page.get_by_role("tab", name="Second")).to_have_attribute("aria-selected", "true")


@pytest.mark.parametrize("query", ["tab=nowhere", "tab=tiny&steps=1e9&colour=green", "tab=", "%00"])
def test_a_made_up_link_opens_the_page_as_it_is(served: Served, open_page: Any, query: str) -> None:
    page, watch = open_page(f"{served.url}/?{query}")
    page.wait_for_selector("button.atelier-run")
    page.wait_for_load_state("networkidle")
    assert page.get_by_label("number input for Steps").input_value() == "5"
    assert page.locator(".toast-body").count() == 0
    assert watch.errors == []


def test_digits_switch_tabs_but_not_while_typing(served: Served, open_page: Any) -> None:
    page, _ = open_page(served.url)
    page.wait_for_selector("button.atelier-run")
    page.keyboard.press("2")
    note = page.get_by_label("Note")
    note.wait_for()
    note.fill("")
    note.press("1")
    assert note.input_value() == "1"
    page.locator("h1").first.click()
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("1")
    page.wait_for_selector("button.atelier-run", state="visible")


# --- API, health, what is refused --------------------------------------------------------------


def test_api_serves_the_same_function_and_the_same_sentences(
    served: Served, tmp_path: Path
) -> None:
    from gradio_client import handle_file

    client = Client(served.url, verbose=False, download_files=str(tmp_path))
    Image.new("L", (30, 20)).save(tmp_path / "a.png")
    picture = handle_file(tmp_path / "a.png")
    text, _, png, _ = client.predict(picture, "a;b", 3, "blue", api_name="/tiny_count")
    assert text == "2 labels: a, b"
    path = png["path"] if isinstance(png, dict) else png
    with Image.open(path) as image:
        assert image.size == (30, 20)
        assert json.loads(image.text["clip-atelier"]) == {"steps": 3, "labels": ["a", "b"]}
    with pytest.raises(AppError, match="Type at least one label"):
        client.predict(picture, "", 3, "blue", api_name="/tiny_count")
    assert set(client.view_api(return_format="dict")["named_endpoints"]) == {"/tiny_count"}


def test_visitors_take_turns_and_read_their_place(served: Served) -> None:
    clients = [Client(served.url, verbose=False) for _ in range(4)]
    jobs = [client.submit(None, "a", 25, "red", api_name="/tiny_count") for client in clients]
    most = 0
    while not all(job.done() for job in jobs):
        most = max(most, len(served.atelier.jobs.line))
        time.sleep(0.02)
    assert most >= 2  # some waited in the device's line ...
    read = [str(update) for job in jobs for update in job.outputs()]
    assert any("ahead" in text for text in read)  # ... and read so
    assert all(job.result()[0] == "1 labels: a" for job in jobs)


def test_a_session_holds_what_its_events_changed_and_no_copy_of_the_page(served: Served) -> None:
    client = Client(served.url, verbose=False)
    client.predict(None, "a cat", 2, "red", api_name="/tiny_count")
    session = served.page.app.state_holder[client.session_hash]
    everything = len(served.page.blocks)
    assert len(session.config_values) <= 10 < everything


def test_a_full_queue_says_so_and_loses_nobody_else(serve: Callable[..., Served]) -> None:
    crowded = serve(tiny.TABS, max_queue=1)
    client = Client(crowded.url, verbose=False)
    jobs = [client.submit(None, "a", 6, "red", api_name="/tiny_count") for _ in range(24)]
    refused = [job for job in jobs if job.exception(timeout=60) is not None]
    served = [job for job in jobs if job not in refused]
    assert refused
    assert served
    assert all("Queue is full" in str(job.exception()) for job in refused)
    assert all(job.result()[0] == "1 labels: a" for job in served)
    assert len(crowded.atelier.jobs.line) == 0


def test_health(served: Served) -> None:
    with httpx.Client(base_url=served.url) as client:
        client.get("/health")
        began = time.process_time()
        answer = [client.get("/health") for _ in range(20)][-1]
        assert (time.process_time() - began) / 20 < 0.015  # client and server together
    assert answer.json() == {
        "status": "ok",
        "version": app.VERSION,
        "device": "cpu",
        "busy": False,
        "queue": 0,
        "models": [],
    }


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/gradio_api/file=/etc/passwd", 403),
        ("/gradio_api/file=app.py", 403),
        ("/gradio_api/file=%2e%2e/%2e%2e/etc/passwd", 403),
        ("/gradio_api/file=http://127.0.0.1:1/", 403),
        ("/gradio_api/proxy=http://127.0.0.1:1/", 400),
        ("/monitoring", 403),
        ("/monitoring/summary", 403),
    ],
)
def test_refused(served: Served, path: str, status: int) -> None:
    assert httpx.get(served.url + path).status_code == status


def test_an_oversized_upload_is_refused(served: Served) -> None:
    files = {"files": ("a.png", bytes(34_000_000))}
    assert httpx.post(served.url + "/gradio_api/upload", files=files).status_code == 413


# --- start -------------------------------------------------------------------------------------


def test_a_taken_port_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert app.main(["--port", str(port)]) == 1
    said = capsys.readouterr().err
    assert said.startswith("CLIP Atelier did not start: 127.0.0.1:")
    assert f"--port {port + 1}" in said


def test_an_unknown_preload_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    from tests.conftest import free_port

    assert app.main(["--port", str(free_port()), "--preload", "clip-huge"]) == 1
    assert "clip-huge" in capsys.readouterr().err


def test_preloaded_models_are_warmed_by_their_own_tab(serve: Callable[..., Served]) -> None:
    warmed, loaded = [], []

    class Registry:
        device = "cpu"
        catalog = CATALOG

        def preload(self, names: list[str]) -> None:
            loaded.extend(names)

        def status(self) -> list[Any]:
            return []

    clip, other = (
        replace(
            tab, key=key, warm=lambda _, name, key=key: warmed.append((key, name, tuple(loaded)))
        )
        for tab, key in zip(tiny.TABS, ("clip", "other"), strict=True)
    )
    serve((clip, other), registry=Registry(), preload=("clip-mini",))
    assert warmed == [("clip", "clip-mini", ("clip-mini",))]
