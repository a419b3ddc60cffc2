"""One device, many visitors: who may compute, for how long, and what they read meanwhile.

Gradio's own queue doesn't protect the device: a stopped function keeps running while its slot is
free again, and limits hold per function. So the device has its own line here, and a job its own
thread, which alone steps the generator and gives the device back when the generator is closed.
The page only listens: it can leave at any moment without waiting for a step to end.
"""

from __future__ import annotations

import contextvars
import functools
import importlib
import inspect
import logging
import os
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Generic, TypeAlias, TypeVar

import gradio as gr

from models.errors import AtelierError
from models.jobs import Job, Step
from models.registry import is_out_of_memory

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])

logger = logging.getLogger("atelier")

DEVICE_EVENT: Mapping[str, Any] = MappingProxyType(
    {"concurrency_id": "device", "concurrency_limit": 16}
)
"""Keyword arguments of every event that uses a model: `run.click(fn, ..., **DEVICE_EVENT)`.

The limit is how many may stand in the device's line and read their place in it; the device itself
is held by one. Further runs wait in Gradio's queue.
"""

_HEARTBEAT_S = 0.4  # Gradio closes a generator between two yields, so yield even without news
_OUT_OF_MEMORY = (
    "The device ran out of memory; choose a smaller picture or model, or fewer pictures at once."
)


@dataclass(frozen=True)
class Done(Generic[T]):
    """The end of a job: its result, and the seconds it held the device."""

    result: T
    seconds: float


@dataclass(frozen=True)
class _Result(Generic[T]):
    value: T


_Steps: TypeAlias = Generator[Step | _Result[T], None, None]


class DeviceLine:
    """First come, first served: whoever stands at the head of the line holds the device."""

    def __init__(self) -> None:
        self._tickets: deque[object] = deque()
        self._moved = threading.Condition()

    def __len__(self) -> int:
        """How many hold or await the device."""
        return len(self._tickets)

    def join(self) -> object:
        """Stand at the end and return a ticket, to be given back with `leave`."""
        ticket = object()
        with self._moved:
            self._tickets.append(ticket)
        return ticket

    def ahead(self, ticket: object) -> int:
        """How many are before `ticket`, the one who computes included; 0 means: your turn."""
        with self._moved:
            return self._tickets.index(ticket)

    def wait(self, ticket: object, timeout_s: float) -> bool:
        """Wait at most `timeout_s` for one's turn; True when it has come."""
        with self._moved:
            return self._moved.wait_for(lambda: self._tickets[0] is ticket, max(timeout_s, 0))

    def leave(self, ticket: object) -> None:
        """Free the device, or give up waiting for it."""
        with self._moved:
            self._tickets.remove(ticket)
            self._moved.notify_all()


class JobRunner:
    """Runs the app's model work one at a time, whoever asks.

    deadline_s:   seconds a job may hold the device when its caller names no other deadline.
    patience_s:   seconds anyone waits for the device before being told to try again.
    min_interval_s: shortest time between two steps shown; steps in between are left out, so a
                  fast job isn't slowed down by its pictures travelling.
    """

    def __init__(
        self, *, deadline_s: float = 300.0, patience_s: float = 600.0, min_interval_s: float = 0.08
    ) -> None:
        self.line = DeviceLine()
        self._deadline_s = deadline_s
        self._patience_s = patience_s
        self._min_interval_s = min_interval_s

    def run(
        self, start: Callable[[], Job[T]], *, deadline_s: float | None = None
    ) -> Generator[Step | Done[T], None, None]:
        """Wait for the device, then drive the job `start()`; yields its steps, then one `Done`.

        While others are ahead, the steps say how many. When a step of the job takes long, the last
        one comes again without its preview: draw `step.preview or gr.skip()`. Closing this generator (the Stop button, a
        closed page) stops the job at its next step. Every failure arrives as `gr.Error` with one
        sentence: the model's own (`AtelierError`), "took longer than", or, for what nobody
        foresaw, a number under which the log has the traceback.
        """
        deadline_s = self._deadline_s if deadline_s is None else deadline_s
        ticket = self.line.join()
        try:
            yield from self._stand_in_line(ticket)
            steps = _on_zero_gpu(_with_result(start), deadline_s)
            worker: _Worker[T] = _Worker(steps, lambda: self.line.leave(ticket))
            worker.start()  # from here on the worker holds the ticket
        except BaseException:
            self.line.leave(ticket)
            raise
        try:
            yield from self._listen(worker, deadline_s)
        finally:
            worker.stop()

    def call(self, work: Callable[[], T], *, deadline_s: float = 60.0) -> T:
        """Wait for the device, run `work()` and return what it returns: for short work only.

        Nothing can stop `work` once it runs; `deadline_s` bounds the wait before it.
        Fails as `run` does.
        """
        ticket = self.line.join()
        try:
            if not self.line.wait(ticket, deadline_s):
                raise gr.Error(_busy(self.line.ahead(ticket)), print_exception=False)
            with sentences():
                return _on_zero_gpu(work, deadline_s)()
        finally:
            self.line.leave(ticket)

    def call_if_free(self, work: Callable[[], T], *, patience_s: float = 0.3) -> T | None:
        """Run `work()` like `call`, but leave it, and return None, when others hold the device.

        For what follows a slider: a later call makes up for one that was left out.
        """
        ticket = self.line.join()
        try:
            if not self.line.wait(ticket, patience_s):
                return None
            with sentences():
                return _on_zero_gpu(work, 60.0)()
        finally:
            self.line.leave(ticket)

    def _stand_in_line(self, ticket: object) -> Iterator[Step]:
        give_up = time.monotonic() + self._patience_s
        while not self.line.wait(ticket, 0):
            ahead = self.line.ahead(ticket)
            if time.monotonic() > give_up:
                raise gr.Error(_busy(ahead), print_exception=False)
            yield Step(0.0, f"Waiting for the device: {ahead} ahead")
            if self.line.wait(ticket, _HEARTBEAT_S):
                return

    def _listen(self, worker: _Worker[T], deadline_s: float) -> Iterator[Step | Done[T]]:
        give_up = time.monotonic() + deadline_s
        next_yield = 0.0
        step = Step(0.0, "Starting")
        while True:
            worker.finished.wait(max(next_yield - time.monotonic(), 0))
            news = worker.news(min(_HEARTBEAT_S, give_up - time.monotonic()))
            if worker.finished.is_set():
                yield worker.outcome()
                return
            if time.monotonic() >= give_up:
                raise gr.Error(
                    f"This run took longer than {deadline_s:.0f} s and was stopped; "
                    "choose fewer steps or a smaller model.",
                    print_exception=False,
                )
            next_yield = time.monotonic() + self._min_interval_s
            yield news or step
            step = replace(news or step, preview=None)  # a heartbeat sends no picture twice


class _Worker(threading.Thread, Generic[T]):
    """Steps one job to its end on a thread of its own and keeps the latest step for the page."""

    def __init__(self, start: Callable[[], _Steps[T]], release: Callable[[], None]) -> None:
        # The context carries Gradio's request, which ZeroGPU needs to know whose quota it is.
        context = contextvars.copy_context()
        super().__init__(target=context.run, args=(self._work, start, release), daemon=True)
        self.finished = threading.Event()
        self._stopped = threading.Event()
        self._fresh = threading.Condition()
        self._step: Step | None = None
        self._done: Done[T] | None = None
        self._error: Exception | None = None

    def stop(self) -> None:
        """Close the job before its next step."""
        self._stopped.set()

    def news(self, timeout_s: float) -> Step | None:
        """The latest step nobody has seen yet; waits for it at most `timeout_s`."""
        with self._fresh:
            self._fresh.wait_for(
                lambda: self._step is not None or self.finished.is_set(), max(timeout_s, 0)
            )
            step, self._step = self._step, None
            return step

    def outcome(self) -> Done[T]:
        """The result, or the job's failure raised."""
        if self._error is not None:
            raise self._error
        assert self._done is not None, "asked for the outcome of a job that was stopped"
        return self._done

    def _work(self, start: Callable[[], _Steps[T]], release: Callable[[], None]) -> None:
        try:
            with sentences():
                self._drive(start)
        except Exception as error:
            error.__context__ = None  # the frames of a traceback would keep tensors alive
            self._error = error.with_traceback(None)
        finally:
            release()
            self.finished.set()
            with self._fresh:
                self._fresh.notify_all()

    def _drive(self, start: Callable[[], _Steps[T]]) -> None:
        began = time.monotonic()
        with closing(start()) as steps:
            while not self._stopped.is_set():
                step = next(steps)
                if isinstance(step, _Result):
                    self._done = Done(step.value, time.monotonic() - began)
                    return
                with self._fresh:
                    if step.preview is None and self._step is not None:
                        # Quick steps overtake the page; the picture among them is still to be seen.
                        step = replace(step, preview=self._step.preview)
                    self._step = step
                    self._fresh.notify_all()


def explained(handler: F) -> F:
    """Decorate an event handler, plain or generator: what goes wrong reaches the user as one
    sentence (see `sentences`), never as a stack trace or as Gradio's bare "Error"."""
    if inspect.isgeneratorfunction(handler):

        @functools.wraps(handler)
        def generator(*args: Any, **kwargs: Any) -> Iterator[Any]:
            with sentences():
                yield from handler(*args, **kwargs)

        return generator  # type: ignore[return-value]

    @functools.wraps(handler)
    def function(*args: Any, **kwargs: Any) -> Any:
        with sentences():
            return handler(*args, **kwargs)

    return function  # type: ignore[return-value]


@contextmanager
def sentences() -> Iterator[None]:
    """Turn an exception into a `gr.Error` a user can act on; log what nobody foresaw."""
    try:
        yield
    except gr.Error:
        raise
    except AtelierError as error:
        raise gr.Error(str(error), print_exception=False) from None
    except Exception as error:
        if is_out_of_memory(error):
            logger.warning("out of memory: %s", error)
            raise gr.Error(_OUT_OF_MEMORY, print_exception=False) from None
        number = uuid.uuid4().hex[:8]
        logger.exception("unforeseen failure %s", number)
        raise gr.Error(
            f"Something went wrong that we did not foresee; the log has it as {number}.",
            print_exception=False,
        ) from None


def _busy(ahead: int) -> str:
    return f"The device is busy ({ahead} ahead of you); please try again in a moment."


def _with_result(start: Callable[[], Job[T]]) -> Callable[[], _Steps[T]]:
    """The job with its result as its last item: a return value doesn't cross ZeroGPU's fork."""

    def steps() -> _Steps[T]:
        result = yield from start()
        yield _Result(result)

    return steps


def _on_zero_gpu(work: Callable[[], T], duration_s: float) -> Callable[[], T]:
    """`work` itself; on a ZeroGPU Space wrapped so that it runs where the GPU is."""
    if not os.environ.get("SPACES_ZERO_GPU"):
        return work
    wrapped: Callable[[], T] = importlib.import_module("spaces").GPU(duration=int(duration_s))(work)
    return wrapped
