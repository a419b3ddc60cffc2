"""The app as its visitors meet it: served for real, spoken to over the loopback only."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import gradio as gr
import httpx
import psutil

import app
import demos
from demos.ui.jobs import Done, JobRunner
from demos.ui.settings import Settings
from models.jobs import Job, Step
from tests.conftest import free_port

T = TypeVar("T")

ROOT = Path(__file__).resolve().parents[2]
START_S, ANSWER_S = 180.0, 180.0
Event = Mapping[str, Any]  # one of Gradio's "dependencies": what happens after a click


@dataclass(frozen=True)
class Site:
    """A running page: its address, and the process that serves it."""

    url: str
    process: psutil.Process

    @cached_property
    def config(self) -> dict[str, Any]:
        """Components and events, as the browser gets them."""
        with self.client() as http:
            return dict(http.get("/config").raise_for_status().json())

    @cached_property
    def components(self) -> dict[int, dict[str, Any]]:
        return {row["id"]: row for row in self.config["components"]}

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=ANSWER_S, trust_env=False)

    def endpoint(self, name: str) -> Event:
        """The event that the API offers as `/name`."""
        return next(e for e in self.config["dependencies"] if e["api_name"] == name)

    def change_of(self, label: str) -> Event:
        """The event of a component, known by its label, that changed."""
        for event in self.config["dependencies"]:
            for target, trigger in event["targets"]:
                props = self.components.get(target, {}).get("props", {})
                if trigger == "change" and props.get("label") == label:
                    return dict(event)
        raise LookupError(f"no component labelled {label!r} listens to its change")

    def values(self, event: Event, changes: Mapping[str, Any]) -> list[Any]:
        """What the browser sends for `event` on the page as it opens; `changes` by label."""
        props = [self.components[key]["props"] for key in event["inputs"]]
        return [changes.get(p.get("label", ""), p.get("value")) for p in props]


@dataclass(frozen=True)
class Answer:
    """How a run ended: `error` is the sentence the visitor reads, "" when all went well."""

    data: tuple[Any, ...] = ()
    error: str = ""


class Visitor:
    """One open page: a session of its own, talking as Gradio's JavaScript does."""

    def __init__(self, site: Site, http: httpx.Client) -> None:
        self.site, self._http = site, http
        self.session = uuid.uuid4().hex

    def start(self, event: Event, changes: Mapping[str, Any] | None = None) -> str:
        """Join the queue; the run's id. Raises RuntimeError with the sentence of a refusal."""
        body = {
            "data": self.site.values(event, changes or {}),
            "fn_index": event["id"],
            "session_hash": self.session,
        }
        reply = self._http.post("/gradio_api/queue/join", json=body)
        if reply.status_code != 200:
            raise RuntimeError(str(reply.json().get("detail", reply.text)))
        return str(reply.json()["event_id"])

    @contextmanager
    def listen(self) -> Iterator[Iterator[dict[str, Any]]]:
        """What the server says to this session; leaving the block closes the page."""
        query = {"session_hash": self.session}
        with self._http.stream("GET", "/gradio_api/queue/data", params=query) as stream:
            yield (json.loads(line[5:]) for line in stream.iter_lines() if line.startswith("data:"))

    def answers(self, count: int) -> list[Answer]:
        """Wait for the end of `count` runs that were started."""
        ends: list[Answer] = []
        with self.listen() as messages:
            for message in messages:
                if message["msg"] == "process_completed":
                    ends.append(_answer(message))
                if message["msg"] in ("close_stream", "unexpected_error") or len(ends) == count:
                    break
        return ends

    def run(self, event: Event, changes: Mapping[str, Any] | None = None) -> Answer:
        """Start one run and wait for its end."""
        self.start(event, changes)
        return self.answers(1)[0]

    def call(self, event: Event) -> None:
        """Run an event that needs no queue."""
        data = self.site.values(event, {})
        body = {"data": data, "fn_index": event["id"], "session_hash": self.session}
        self._http.post("/gradio_api/run/predict", json=body).raise_for_status()

    def cancel(self, event: Event, run: str) -> None:
        """What the Stop button sends."""
        body = {"session_hash": self.session, "fn_index": event["id"], "event_id": run}
        self._http.post("/gradio_api/cancel", json=body).raise_for_status()

    def upload(self, name: str, content: bytes) -> httpx.Response:
        return self._http.post("/gradio_api/upload", files={"files": (name, content)})


def _answer(message: Mapping[str, Any]) -> Answer:
    output = message["output"]
    if message["success"]:
        return Answer(tuple(output.get("data", ())))
    return Answer(error=str(output.get("error")))


@contextmanager
def app_process(*flags: str) -> Iterator[Site]:
    """`python app.py` in a process of its own, ready to answer. Raises RuntimeError with what it
    said when it ends before."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "app.py", "--port", str(port), "--device", "cpu", "--offline"]
    with tempfile.TemporaryFile() as log:
        running = subprocess.Popen(
            [*command, *flags], cwd=ROOT, env=os.environ, stdout=log, stderr=subprocess.STDOUT
        )
        try:
            if not _ready(url, running):
                log.seek(0)
                raise RuntimeError(log.read().decode()[-400:] or f"no answer in {START_S:g} s")
            yield Site(url, psutil.Process(running.pid))
        finally:
            running.terminate()
            try:
                running.wait(10)
            except subprocess.TimeoutExpired:
                running.kill()
                running.wait()


def _ready(url: str, running: subprocess.Popen[bytes]) -> bool:
    """Whether the app answers before it ends or `START_S` have passed."""
    end = time.monotonic() + START_S
    with httpx.Client(trust_env=False) as http:
        while running.poll() is None and time.monotonic() < end:
            try:
                return http.get(f"{url}/health").status_code == 200
            except httpx.TransportError:
                time.sleep(0.1)
    return False


class WatchedRunner(JobRunner):
    """A job runner that knows how many jobs compute at once and how long their steps take.

    hold_s: added to every job, so that jobs which take no time meet one another.
    """

    def __init__(self, hold_s: float = 0.0) -> None:
        super().__init__()
        self.computing = self.most_computing = self.most_in_line = self.done = 0
        self.longest_step_s = 0.0
        self._hold_s = hold_s
        self._lock = threading.Lock()

    def run(
        self, start: Callable[[], Job[T]], *, deadline_s: float | None = None
    ) -> Generator[Step | Done[T], None, None]:
        def watched() -> Job[T]:
            with self._computing(), closing(start()) as job:
                return (yield from self._timed(job))

        return super().run(watched, deadline_s=deadline_s)

    def call(self, work: Callable[[], T], *, deadline_s: float = 60.0) -> T:
        def watched() -> T:
            with self._computing():
                return work()

        return super().call(watched, deadline_s=deadline_s)

    @contextmanager
    def _computing(self) -> Iterator[None]:
        with self._lock:
            self.computing += 1
            self.most_computing = max(self.most_computing, self.computing)
        try:
            time.sleep(self._hold_s)
            yield
        finally:
            with self._lock:
                self.computing -= 1
                self.done += 1

    def _timed(self, job: Job[T]) -> Job[T]:
        while True:
            began = time.perf_counter()
            try:
                step = next(job)
            except StopIteration as end:
                result: T = end.value
                return result
            self.longest_step_s = max(self.longest_step_s, time.perf_counter() - began)
            self.most_in_line = max(self.most_in_line, len(self.line))
            yield step


@contextmanager
def served_here(runner: JobRunner) -> Iterator[Site]:
    """The app with all its tabs, served by this process, its jobs run by `runner`."""
    settings = Settings(port=free_port(), device="cpu", offline=True)
    page = app.serve(replace(app.open_atelier(settings), jobs=runner), demos.TABS)
    try:
        yield Site(page.local_url.rstrip("/"), psutil.Process())
    finally:
        page.close(verbose=False)


@contextmanager
def served_page(page: gr.Blocks) -> Iterator[Site]:
    """Any page, served by this process."""
    page.launch(
        server_name="127.0.0.1", server_port=free_port(), prevent_thread_lock=True, quiet=True,
        share=False, ssr_mode=False,
    )  # fmt: skip
    try:
        yield Site(page.local_url.rstrip("/"), psutil.Process())
    finally:
        page.close(verbose=False)
