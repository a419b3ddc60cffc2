"""What every benchmark shares: times, memory, and the Markdown they are printed in."""

from __future__ import annotations

import multiprocessing
import os
import platform
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ParamSpec, TypeVar

import psutil

MB = 10**6
Clock = Callable[[], float]
P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True)
class Figure:
    """One number that we hold ourselves to.

    number:  of the list "Figures we hold" in the specification of the app.
    what:    what was measured, a few words.
    value:   the measurement, in `unit`; it holds when it is at most `bar`.
    memory:  resident bytes of the process that was measured, afterwards.
    against: the baseline, or what else is worth knowing.
    correct: whether everything held that is not a number, such as the sentence of a refusal.
    """

    number: int
    what: str
    value: float
    unit: str
    bar: float
    memory: int
    against: str = ""
    correct: bool = True

    @property
    def holds(self) -> bool:
        return self.correct and self.value <= self.bar

    def row(self) -> tuple[str, ...]:
        """The cells of `HEADER`."""
        return (
            str(self.number),
            self.what,
            _quantity(self.value, self.unit),
            f"≤ {_quantity(self.bar, self.unit)}",
            verdict(self.holds),
            megabytes(self.memory),
            self.against,
        )


HEADER = ("figure", "what", "measured", "bar", "", "memory", "against")


def table_row(cells: Sequence[str]) -> str:
    """One line of a Markdown table."""
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def table_head(cells: Sequence[str]) -> str:
    """The two lines a Markdown table begins with."""
    return f"{table_row(cells)}\n{table_row(['---'] * len(cells))}"


def print_table(title: str, rows: Iterator[tuple[str, ...]]) -> None:
    """Rows under a title as they come, the first being the head."""
    print(f"\n**{title}**\n")
    print(table_head(next(rows)))
    for row in rows:
        print(table_row(row), flush=True)


def verdict(holds: bool) -> str:
    return "holds" if holds else "**falls short**"


def at_least(value: float, bar: float) -> str:
    """A ratio beside its bar."""
    return f">= {bar:g}x: {verdict(value >= bar)}"


def at_most(seconds: float, bar: float) -> str:
    """A time beside its bar, which is in milliseconds."""
    return f"<= {bar:g} ms: {verdict(seconds * 1e3 <= bar)}"


def machine() -> str:
    """On what was measured, and how much else was going on."""
    processor = platform.processor() or platform.machine()
    return (
        f"{os.cpu_count()} cores ({processor}), Python {platform.python_version()}, "
        f"load {os.getloadavg()[0]:.1f} at the start."
    )


def megabytes(count: float) -> str:
    return f"{count / MB:,.0f} MB"


def milliseconds(seconds: float) -> str:
    return _quantity(seconds * 1000, "ms")


def seconds_of(work: Callable[[], object]) -> float:
    """Seconds that one call takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def median_seconds(work: Callable[[], object], repeats: int) -> float:
    """The median of `repeats` calls, after one that does not count."""
    work()
    return statistics.median(seconds_of(work) for _ in range(repeats))


def in_turn(
    works: Mapping[str, Callable[[], object]], repeats: int, clock: Clock
) -> dict[str, float]:
    """Median seconds of each, the works in turn, once for nothing before; no gradients are kept."""
    import torch  # which the page's own benchmark does without

    seconds: dict[str, list[float]] = {name: [] for name in works}
    with torch.no_grad():
        for _ in range(repeats + 1):
            for name, work in works.items():
                began = clock()
                work()
                seconds[name].append(clock() - began)
    return {name: statistics.median(times[1:]) for name, times in seconds.items()}


def fresh(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """The function's result in a process of its own."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *args, **kwargs).result()


def cpu_seconds(process: psutil.Process) -> float:
    """CPU time the process has used so far, its own and the kernel's for it."""
    times = process.cpu_times()
    return float(times.user + times.system)


def resident(process: psutil.Process | None = None) -> int:
    """Resident bytes of a process, of this one by default."""
    return int((process or psutil.Process()).memory_info().rss)


@dataclass
class Peak:
    """Resident bytes when the watch began, and the most there were since."""

    before: int
    most: int

    @property
    def growth(self) -> int:
        return self.most - self.before


@contextmanager
def peak(process: psutil.Process, every_s: float = 0.005) -> Iterator[Peak]:
    """Watch the resident memory of a process while the block runs."""
    watch = Peak(resident(process), resident(process))
    over = threading.Event()

    def look() -> None:
        while not over.wait(every_s):
            watch.most = max(watch.most, resident(process))

    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    try:
        yield watch
    finally:
        over.set()
        watcher.join()
        watch.most = max(watch.most, resident(process))


def until(condition: Callable[[], bool], timeout_s: float, every_s: float = 0.002) -> float:
    """Seconds until `condition` came true. Raises TimeoutError after `timeout_s`."""
    began = time.perf_counter()
    while not condition():
        if time.perf_counter() - began > timeout_s:
            raise TimeoutError(f"waited {timeout_s:g} s in vain")
        time.sleep(every_s)
    return time.perf_counter() - began


def _quantity(value: float, unit: str) -> str:
    return f"{value:,.0f} {unit}".rstrip() if value >= 100 else f"{value:.3g} {unit}".rstrip()
