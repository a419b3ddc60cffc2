"""Chromium, and every request it makes."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from playwright.sync_api import Page, sync_playwright

from tests.conftest import CHROMIUM_FLAGS


@contextmanager
def page_opener() -> Iterator[Callable[[bool], Page]]:
    """`opener(dark)` gives a fresh page of the system's Chromium, headless.

    Raises RuntimeError when there is no Chromium.
    """
    path = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        raise RuntimeError("there is no Chromium; run `make chromium` or set CHROMIUM to its path")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=list(CHROMIUM_FLAGS))

        def open_page(dark: bool) -> Page:
            return chromium.new_context(color_scheme="dark" if dark else "light").new_page()

        yield open_page
        chromium.close()


def outside_requests_of(open_page: Callable[[bool], Page], url: str, dark: bool) -> list[str]:
    """Addresses not of the page's own host that one page load asks for."""
    page = open_page(dark)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("websocket", lambda socket: asked.append(socket.url))
    page.goto(url)
    page.wait_for_selector(
        "button.atelier-run:visible", timeout=60_000
    )  # the other tabs hide theirs
    _settle(page, asked)
    page.context.close()
    return [other for other in asked if _is_outside(other, urlsplit(url).netloc)]


def _settle(page: Page, asked: list[str], quiet_ms: int = 1000, rounds: int = 30) -> None:
    """Wait until the page asks for nothing more. (Its heartbeat stays open: never "networkidle".)"""
    for _ in range(rounds):
        before = len(asked)
        page.wait_for_timeout(quiet_ms)
        if len(asked) == before:
            return
    raise RuntimeError("the page never stops asking")


def _is_outside(url: str, host: str) -> bool:
    parts: Any = urlsplit(url)
    return parts.scheme in ("http", "https", "ws", "wss") and parts.netloc != host
