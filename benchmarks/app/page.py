"""Figures 1, 2, 3, 8, 12: `python app.py` in a process of its own, seen from outside."""

from __future__ import annotations

import statistics
import struct
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import demos
from benchmarks.app.browser import outside_requests_of, page_opener
from benchmarks.app.server import Event, Site, Visitor, app_process
from benchmarks.measure import MB, Figure, cpu_seconds, peak, resident

SESSIONS, CAPACITY = 1000, 200  # CAPACITY is app.py's state_session_capacity


def outside_requests() -> Iterator[Figure]:
    """Figure 1: open every tab by its link in Chromium, light and dark, and watch the network."""
    with app_process() as site, page_opener() as open_page:
        links = [f"{site.url}/", *(f"{site.url}/?tab={tab.key}" for tab in demos.TABS)]
        loads = [(link, dark) for link in links for dark in (False, True)]
        outside = [
            url for link, dark in loads for url in outside_requests_of(open_page, link, dark)
        ]
        what = f"requests that left the machine in {len(loads)} page loads"
        memory = resident(site.process)
    yield Figure(1, what, len(outside), "", 0, memory, ", ".join(sorted(set(outside))[:3]))


def server_cpu() -> Iterator[Figure]:
    """Figure 2: CPU time of the server process per event without a model, and per page."""
    with app_process() as site, site.client() as http:
        trivial = partial(Visitor(site, http).call, site.change_of("Model"))
        cost = _cpu_each(site, trivial, 100) * 1000
        yield Figure(2, "CPU per trivial event", cost, "ms", 15, resident(site.process))
        opened = partial(http.get, "/")
        cost = _cpu_each(site, opened, 50) * 1000
        what = f"CPU per page of {len(site.components)} components"
        yield Figure(2, what, cost, "ms", 40, resident(site.process))


def _cpu_each(site: Site, work: Callable[[], object], count: int) -> float:
    """CPU seconds of the server per call: the median of five rounds of `count / 5` calls."""
    work()
    rounds = []
    for _ in range(5):
        before = cpu_seconds(site.process)
        for _ in range(count // 5):
            work()
        rounds.append((cpu_seconds(site.process) - before) / (count // 5))
    return statistics.median(rounds)


def session_memory() -> Iterator[Figure]:
    """Figure 3: 1,000 visitors press Run once each; each leaves its state behind."""
    with app_process() as site:
        event = site.endpoint(demos.TABS[0].endpoints[0])
        _visit(site, event, 50)  # model loaded, thread pools grown
        start = resident(site.process)
        _visit(site, event, CAPACITY - 50)
        full = resident(site.process)
        _visit(site, event, SESSIONS - CAPACITY)
        end = resident(site.process)
    each = (full - start) / (CAPACITY - 50) / 1000
    yield Figure(3, f"per session, up to {CAPACITY} sessions", each, "kB", 300, full)
    growth = 100 * (end - full) / full
    what = f"growth from session {CAPACITY} to {SESSIONS:,}"
    yield Figure(3, what, growth, "%", 5, end)


def _visit(site: Site, event: Event, count: int) -> None:
    """`count` new sessions run `event` once, four at a time."""
    with site.client() as http, ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: Visitor(site, http).run(event), range(count)))
    wrong = [answer.error for answer in answers if answer.error]
    if wrong:
        raise RuntimeError(wrong[0])


def idle_memory() -> Iterator[Figure]:
    """Figure 12: the app has started and nobody has come."""
    with app_process() as site:
        time.sleep(2)  # imports and clean-up threads settle
        memory = resident(site.process)
    yield Figure(12, "idle, before any model", memory / MB, "MB", 900, memory)


def refused_pictures() -> Iterator[Figure]:
    """Figure 8: a picture that unfolds to 144 megapixels, and a file that is too large."""
    with app_process() as site, site.client() as http:
        visitor = Visitor(site, http)
        event = site.endpoint("clip_classify")
        visitor.run(event)  # the model is loaded, so that what grows is the picture's
        bomb = png_of(12_000, 12_000)
        with peak(site.process) as watch:
            stored = visitor.upload("bomb.png", bomb).raise_for_status().json()[0]
            sent = {"path": stored, "meta": {"_type": "gradio.FileData"}}
            answer = visitor.run(event, {"Picture": sent})
        what = f"growth by a 12000 x 12000 PNG of {len(bomb) / 1000:.1f} kB, refused"
        correct = "too large" in answer.error and "megapixels" in answer.error
        growth = watch.growth / MB
        yield Figure(8, what, growth, "MB", 200, watch.most, answer.error, correct)
        with peak(site.process) as watch:
            status = visitor.upload("large.png", bytes(34 * MB)).status_code
        what, note = "growth by an upload of 34 MB, refused", f"HTTP {status}"
        growth = watch.growth / MB
        yield Figure(8, what, growth, "MB", 200, watch.most, note, status == 413)


def png_of(width: int, height: int) -> bytes:
    """A black PNG of one bit per pixel, written row by row: it never exists unfolded."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + check

    packer = zlib.compressobj(9)
    row = bytes(1 + (width + 7) // 8)  # filter type 0, then the pixels
    body = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    signature = b"\x89PNG\r\n\x1a\n"
    return signature + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
