"""Who holds the device, for how long, and what the others read."""

from __future__ import annotations

import inspect
import itertools
import logging
import pickle
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest
from PIL import Image

from demos.ui.jobs import Done, JobRunner, explained
from models.errors import DeviceError, InputError
from models.jobs import Job, Step, run_to_end

STEP_S = 0.05


class Device:
    """Counts who computes, and knows when a job was closed."""

    def __init__(self) -> None:
        self.now = self.most = self.closed = 0
        self._lock = threading.Lock()

    def job(self, steps: int | None = 5, step_s: float = STEP_S) -> Callable[[], Job[str]]:
        """`steps` steps of `step_s` seconds; None goes on for ever."""

        def work() -> Job[str]:
            with self._lock:
                self.now += 1
                self.most = max(self.most, self.now)
            try:
                for index in itertools.count() if steps is None else range(steps):
                    time.sleep(step_s)
                    yield Step(min(index / (steps or 1000), 1), f"step {index}")
                return "result"
            finally:
                with self._lock:
                    self.now -= 1
                    self.closed += 1

        return work


def free_within(runner: JobRunner, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while len(runner.line) and time.monotonic() < end:
        time.sleep(0.005)
    return len(runner.line) == 0


def test_steps_come_and_then_the_result() -> None:
    runner = JobRunner(min_interval_s=0)
    *steps, done = runner.run(Device().job(5))
    assert isinstance(done, Done)
    assert done.result == "result"
    assert done.seconds == pytest.approx(5 * STEP_S, abs=0.15)
    assert [step.message for step in steps if step.message != "Starting"][-1].startswith("step")
    assert len(runner.line) == 0


def test_fast_steps_are_thinned_and_not_slowed_down() -> None:
    runner = JobRunner(min_interval_s=0.05)
    began = time.monotonic()
    events = list(runner.run(Device().job(200, step_s=0.001)))
    seconds = time.monotonic() - began
    assert len(events) <= seconds / 0.05 + 2
    assert seconds < 1.5


def test_a_long_step_beats_so_that_stop_is_heard() -> None:
    times = [time.monotonic() for _ in JobRunner().run(Device().job(1, step_s=1.2))]
    assert max(later - earlier for earlier, later in itertools.pairwise(times)) < 0.6


@pytest.mark.parametrize("step_s", [0.01, 0.3])
def test_closing_stops_the_job_and_frees_the_device(step_s: float) -> None:
    runner, device = JobRunner(), Device()
    events = runner.run(device.job(None, step_s))
    next(events)
    began = time.monotonic()
    events.close()
    assert time.monotonic() - began < 0.1  # the page needn't wait for the step to end
    assert free_within(runner, 0.5 + step_s)
    assert device.closed == 1


def test_closing_while_waiting_leaves_the_line() -> None:
    runner, device = JobRunner(), Device()
    first, second = runner.run(device.job(None)), runner.run(device.job(None))
    next(first)
    assert next(second) == Step(0.0, "Waiting for the device: 1 ahead")
    second.close()
    assert len(runner.line) == 1
    first.close()
    assert free_within(runner, 0.5 + STEP_S)


def test_a_page_that_left_before_it_began_holds_nothing() -> None:
    runner = JobRunner()
    runner.run(Device().job()).close()
    assert len(runner.line) == 0


def test_ten_at_once_run_one_by_one_in_order() -> None:
    runner, device = JobRunner(min_interval_s=0), Device()
    order: list[int] = []

    def visitor(number: int) -> set[str]:
        events = list(runner.run(device.job(3, 0.02)))
        order.append(number)
        return {event.message for event in events if isinstance(event, Step)}

    with ThreadPoolExecutor(10) as pool:
        futures = []
        for number in range(10):
            futures.append(pool.submit(visitor, number))
            time.sleep(0.01)  # they arrive one after the other
        messages = [future.result() for future in futures]
    assert device.most == 1
    assert order == sorted(order)
    assert any("ahead" in message for message in messages[9])
    assert len(runner.line) == 0


def test_deadline() -> None:
    runner, device = JobRunner(), Device()
    began = time.monotonic()
    with pytest.raises(gr.Error, match="took longer than 0 s and was stopped"):
        list(runner.run(device.job(None), deadline_s=0.3))
    assert time.monotonic() - began < 0.6
    assert free_within(runner, 0.5 + STEP_S)


def test_deadline_within_one_long_step() -> None:
    runner = JobRunner()
    began = time.monotonic()
    with pytest.raises(gr.Error, match="took longer"):
        list(runner.run(Device().job(1, step_s=1.0), deadline_s=0.2))
    assert time.monotonic() - began < 0.5
    assert len(runner.line) == 1  # the truth: the step still computes
    assert free_within(runner, 1.5)


def test_patience() -> None:
    runner = JobRunner(patience_s=0.2)
    first = runner.run(Device().job(None))
    next(first)
    with pytest.raises(gr.Error, match=r"busy \(1 ahead of you\)"):
        list(runner.run(Device().job()))
    first.close()


def failing(error: Exception) -> Callable[[], Job[None]]:
    def work() -> Job[None]:
        yield Step(0.5, "half way")
        raise error

    return work


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (InputError("Give a picture first."), r"^'Give a picture first\.'$"),
        (DeviceError("Choose a smaller model."), "Choose a smaller model"),
        (MemoryError(), "ran out of memory; choose a smaller"),
        (RuntimeError("CUDA error: out of memory"), "ran out of memory; choose a smaller"),
        (KeyError("secret/path"), r"did not foresee; the log has it as [0-9a-f]{8}"),
    ],
)
def test_failures_are_sentences(
    error: Exception, sentence: str, caplog: pytest.LogCaptureFixture
) -> None:
    for attempt in (
        lambda runner: list(runner.run(failing(error))),
        lambda runner: runner.call(lambda: run_to_end(failing(error)())),
    ):
        runner = JobRunner()
        with caplog.at_level(logging.ERROR), pytest.raises(gr.Error, match=sentence) as caught:
            attempt(runner)
        assert "secret" not in str(caught.value)
        assert len(runner.line) == 0
    if isinstance(error, KeyError):
        assert "secret/path" in caplog.text
        assert "Traceback" in caplog.text


def test_a_failure_before_the_first_step_frees_the_device() -> None:
    runner = JobRunner()

    def start() -> Job[None]:
        raise InputError("No.")

    with pytest.raises(gr.Error, match="No"):
        list(runner.run(start))
    assert list(runner.run(Device().job(1)))[-1].result == "result"


def test_a_job_is_stepped_by_one_thread() -> None:
    threads = set()

    def work() -> Job[None]:
        for _ in range(3):
            threads.add(threading.get_ident())
            time.sleep(0.1)
            yield Step(0, "")

    for _ in JobRunner().run(work):
        pass
    assert len(threads) == 1
    assert threading.get_ident() not in threads


def test_calls_wait_for_the_device_too() -> None:
    runner, device = JobRunner(), Device()
    first = runner.run(device.job(None))
    next(first)
    with pytest.raises(gr.Error, match="busy"):
        runner.call(lambda: 1, deadline_s=0.1)
    threading.Timer(0.2, first.close).start()
    assert runner.call(lambda: 1, deadline_s=2) == 1


def test_explained_keeps_name_and_kind() -> None:
    @explained
    def plain(value: int) -> int:
        raise InputError("Too plain.")

    @explained
    def stream(value: int) -> Iterator[int]:
        yield value
        raise InputError("Too long.")

    assert (plain.__name__, stream.__name__) == ("plain", "stream")
    with pytest.raises(gr.Error, match=r"Too plain\."):
        plain(1)
    events: Any = stream(1)
    assert next(events) == 1
    with pytest.raises(gr.Error, match=r"Too long\."):
        next(events)


@pytest.mark.parametrize("fraction", [-0.1, 1.1, float("nan")])
def test_a_step_knows_its_range(fraction: float) -> None:
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        Step(fraction, "")


def test_on_zero_gpu_the_job_runs_in_the_gpu_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """`spaces.GPU` forks and pickles what is yielded; a generator's return value doesn't cross."""
    durations = []

    def gpu(*, duration: int) -> Callable[[Any], Any]:
        durations.append(duration)

        def decorate(work: Callable[[], Any]) -> Callable[[], Any]:
            if not inspect.isgeneratorfunction(work):
                return lambda: pickle.loads(pickle.dumps(work()))

            def stream() -> Iterator[Any]:
                for item in work():
                    yield pickle.loads(pickle.dumps(item))

            return stream

        return decorate

    monkeypatch.setenv("SPACES_ZERO_GPU", "1")
    monkeypatch.setitem(sys.modules, "spaces", SimpleNamespace(GPU=gpu))
    runner = JobRunner()
    assert list(runner.run(Device().job(2), deadline_s=40))[-1].result == "result"
    assert runner.call(lambda: 5, deadline_s=20) == 5
    assert durations == [40, 20]


def test_quick_steps_do_not_overtake_their_picture() -> None:
    def job() -> Job[None]:
        yield Step(0.0, "seen")
        time.sleep(0.02)
        yield Step(0.1, "a picture", preview=Image.new("L", (2, 2)))
        for index in range(20):
            time.sleep(0.005)
            yield Step(0.5, f"without {index}")
        time.sleep(0.3)

    shown = list(JobRunner(min_interval_s=0.1).run(job))
    pictures = [step for step in shown if isinstance(step, Step) and step.preview is not None]
    assert len(pictures) == 1
    assert pictures[0].message.startswith("without")
