"""What tests of the page share: the app served on a free port, and a real headless Chromium."""

from __future__ import annotations

import gc
import os
import shutil
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

os.environ.setdefault("NO_PROXY", "127.0.0.1,localhost")

CHROMIUM_FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--golden",
        type=Path,
        default=Path(__file__).parent / "golden",
        metavar="DIR",
        help="reference data of the parity tests, laid out like tests/golden",
    )


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Two threads that wait for each other on a busy machine can take a hundred times as long."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def quick_collections() -> Iterator[None]:
    """Every eviction collects garbage; late in a suite that walks a million objects of others."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@dataclass
class Served:
    """A running app: its address and what it is made of."""

    url: str
    atelier: Any
    page: Any


@pytest.fixture(scope="module")
def serve() -> Iterator[Callable[..., Served]]:
    """`serve(tabs, registry=..., **settings)` starts the real app in this process."""
    import app
    from demos.ui.settings import Settings

    app.prepare_process(offline=False)
    pages = []

    def start(tabs: Sequence[Any], *, registry: Any = None, **settings: Any) -> Served:
        chosen = Settings(port=free_port(), device="cpu", **settings)
        atelier = app.open_atelier(chosen)
        if registry is not None:
            atelier = replace(atelier, registry=registry)
        app.warm_up(atelier, tabs)
        page = app.serve(atelier, tabs)
        pages.append(page)
        return Served(page.local_url.rstrip("/"), atelier, page)

    yield start
    for page in pages:
        page.close(verbose=False)


@dataclass
class Watch:
    """What a browser page did that it should not do."""

    host: str
    external: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """The system's Chromium, headless; never one that playwright would download."""
    from playwright.sync_api import sync_playwright

    path = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        pytest.fail(
            "Browser tests need Chromium; run `make test`, which installs it, or set CHROMIUM to its path."
        )
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=list(CHROMIUM_FLAGS))
        yield chromium
        chromium.close()


@pytest.fixture
def open_page(browser: Any) -> Iterator[Callable[..., tuple[Any, Watch]]]:
    """`open_page(url, size=(1280, 720), dark=False)` -> the page when Gradio has drawn it, and a
    `Watch` that has seen every request and script error from the first byte on."""
    contexts = []

    def go(url: str, *, size: tuple[int, int] = (1280, 720), dark: bool = False, **options: Any):
        context = browser.new_context(
            viewport={"width": size[0], "height": size[1]},
            color_scheme="dark" if dark else "light",
            **options,
        )
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(45_000)
        watch = Watch(urlsplit(url).netloc)
        page.on("request", lambda request: _note_external(watch, request.url))
        page.on("websocket", lambda socket: _note_external(watch, socket.url))
        page.on("pageerror", lambda error: watch.errors.append(str(error)))
        page.goto(url)
        page.wait_for_selector("#atelier-tabs")
        return page, watch

    yield go
    for context in contexts:
        context.close()


def free_port() -> int:
    """A port nobody listens on right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _note_external(watch: Watch, url: str) -> None:
    parts = urlsplit(url)
    if parts.scheme in ("http", "https", "ws", "wss") and parts.netloc != watch.host:
        watch.external.append(url)
