"""Figures 4, 5, 6: the page served by this process, so that its device can be watched."""

from __future__ import annotations

import itertools
import random
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import gradio as gr
from PIL import Image, ImageChops, ImageOps

import demos
from benchmarks.app.server import (
    Answer,
    Site,
    Visitor,
    WatchedRunner,
    served_here,
    served_page,
)
from benchmarks.measure import Figure, milliseconds, resident, until
from demos.clip_pictures import examples
from demos.ui.downloads import save_jpeg

CLIENTS = 20
# Drawings at their default length would make twenty visitors wait for minutes.
BRIEF: Mapping[str, Mapping[str, Any]] = {"clipdraw_draw": {"Strokes": 8, "Steps": 4}}


def _long_classification() -> Mapping[str, Any]:
    # New words each time, in 80 sentences each: nothing is remembered and the run is long.
    words = "\n".join(f"{random.getrandbits(64):x}" for _ in range(100))
    return {"Labels": words, "Prompt templates": "ensemble"}


LONG_RUNS: Mapping[str, Callable[[], Mapping[str, Any]]] = {
    "clip_classify": _long_classification,
    "clipdraw_draw": lambda: {"Steps": 2000},
}


def freed_device() -> Iterator[Figure]:
    """Figure 4: a long run is stopped by its button, another by closing its page."""
    runner = WatchedRunner()
    with served_here(runner) as site, site.client() as http:
        for name, leave in itertools.product(LONG_RUNS, ("Stop pressed", "page closed")):
            Visitor(site, http).run(site.endpoint(name), BRIEF.get(name))  # the model is loaded
            runner.longest_step_s = 0.0
            freed = [_seconds_to_free(runner, Visitor(site, http), name, leave) for _ in range(5)]
            yield Figure(
                number=4,
                what=f"{name}, {leave}: device free, worst of {len(freed)}",
                value=max(freed) * 1000,
                unit="ms",
                bar=500 + runner.longest_step_s * 1000,
                memory=resident(),
                against=f"median {milliseconds(statistics.median(freed))}, "
                f"longest step {milliseconds(runner.longest_step_s)}",
            )


def _seconds_to_free(runner: Any, visitor: Any, name: str, leave: str) -> float:
    """Seconds from leaving a long run until nobody holds or awaits the device."""
    event = visitor.site.endpoint(name)
    run = visitor.start(event, LONG_RUNS[name]())
    with visitor.listen() as messages:
        if not any(message["msg"] == "process_generating" for message in messages):
            raise RuntimeError("the long run said nothing")
        time.sleep(random.uniform(0.2, 0.5))  # at any moment of a step
        if not runner.computing:
            raise RuntimeError("the run ended before it could be left; it measures nothing")
        left = time.perf_counter()
        if leave == "Stop pressed":
            visitor.cancel(event, run)
            until(lambda: not len(runner.line), 30)
    until(lambda: not len(runner.line), 30)
    return time.perf_counter() - left


def jobs_at_once() -> Iterator[Figure]:
    """Figure 5: 20 visitors press every Run button of every tab at once."""
    runner = WatchedRunner(hold_s=0.05)
    with served_here(runner) as site, ThreadPoolExecutor(CLIENTS) as pool:
        together = threading.Barrier(CLIENTS)
        answers = [
            answer
            for ends in pool.map(lambda _: _press_everything(site, together), range(CLIENTS))
            for answer in ends
        ]
    errors = [answer.error for answer in answers if answer.error]
    full = sum("queue is full" in error.lower() for error in errors)
    if full < len(errors):
        raise RuntimeError(next(e for e in errors if "queue is full" not in e.lower()))
    good = len(answers) - full
    yield Figure(
        number=5,
        what=f"model jobs at once, {CLIENTS} visitors, {len(answers)} runs",
        value=runner.most_computing,
        unit="",
        bar=1,
        memory=resident(),
        against=f"{good} answered, {full} read “queue is full”; "
        f"up to {runner.most_in_line} in the device's line",
        correct=good == runner.done and runner.most_in_line > 1,
    )


def _press_everything(site: Site, together: threading.Barrier) -> list[Answer]:
    """All endpoints at once by one visitor: how each run ended."""
    refused = []
    with site.client() as http:
        visitor = Visitor(site, http)
        names = [name for tab in demos.TABS for name in tab.endpoints]
        events = {name: site.endpoint(name) for name in names}
        together.wait(60)
        for name, event in events.items():
            try:
                visitor.start(event, BRIEF.get(name))
            except RuntimeError as error:
                refused.append(Answer(error=str(error)))
        waiting = len(events) - len(refused)
        return refused + (visitor.answers(waiting) if waiting else [])


def streamed_frames(count: int = 20) -> Iterator[Figure]:
    """Figure 6: frames of 512 x 512 as the app streams them, and as Gradio would."""
    ways: Mapping[str, tuple[str, Callable[[Image.Image], Any]]] = {
        "jpeg": ("jpeg", save_jpeg),
        "webp": ("webp", lambda frame: frame),
        "png": ("png", lambda frame: frame),
    }
    clocks: dict[str, list[float]] = {way: [] for way in ways}
    with _streaming_page(ways, clocks, count) as site, site.client() as http:
        for way in ways:
            answer = Visitor(site, http).run(site.endpoint(way))
            if answer.error:
                raise RuntimeError(answer.error)
    each = {way: _median_gap(clock) for way, clock in clocks.items()}
    ratios = (f"{name} {each[way] / each['jpeg']:.1f}x" for name, way in _BASELINES)
    cost = each["jpeg"] * 1000
    yield Figure(6, "512 x 512 frame streamed", cost, "ms", 25, resident(), ", ".join(ratios))


_BASELINES = (("Gradio's WebP", "webp"), ("its PNG", "png"))


def _streaming_page(ways: Mapping[str, Any], clocks: Mapping[str, list[float]], count: int) -> Any:
    """A page of one streaming event per way, which notes when each frame was asked for."""

    def stream(way: str) -> Iterator[Any]:
        for frame in _frames(count):
            clocks[way].append(time.perf_counter())
            yield ways[way][1](frame)
        clocks[way].append(time.perf_counter())

    with gr.Blocks(analytics_enabled=False) as page:
        for way, (image_format, _) in ways.items():
            shown = gr.Image(format=image_format, label=way)
            gr.Button(way).click(partial(stream, way), None, shown, api_name=way)
    return served_page(page)


def _frames(count: int) -> list[Image.Image]:
    """A photograph at 512 x 512 in `count` different frames; each run gets other bytes."""

    with Image.open(next(iter(examples().values())).path) as photo:
        square = ImageOps.fit(photo.convert("RGB"), (512, 512))
    start = random.randrange(512)
    return [ImageChops.offset(square, start + 7 * index, start) for index in range(count)]


def _median_gap(clock: Sequence[float]) -> float:
    return statistics.median(later - sooner for sooner, later in itertools.pairwise(clock))
