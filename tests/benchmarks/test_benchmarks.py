"""The benchmarks run, print Markdown, and can say that a figure falls short."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import psutil
import pytest
from PIL import Image

from benchmarks.app.__main__ import main, print_rows
from benchmarks.app.figures import FIGURES
from benchmarks.app.page import png_of
from benchmarks.app.registry import registry_figures
from benchmarks.app.server import WatchedRunner
from benchmarks.clip import Row
from benchmarks.measure import HEADER, MB, Figure, median_seconds, peak, table_head, until
from models.jobs import Job, Step


@pytest.mark.parametrize(
    ("value", "bar", "correct", "holds"),
    [(24.9, 25, True, True), (25, 25, True, True), (25.1, 25, True, False), (1, 25, False, False)],
)
def test_a_figure_holds_up_to_its_bar_and_only_if_correct(
    value: float, bar: float, correct: bool, holds: bool
) -> None:
    figure = Figure(6, "a frame", value, "ms", bar, 10 * MB, correct=correct)
    assert figure.holds is holds
    assert ("holds" in figure.row()) is holds


def test_rows_are_markdown_of_one_width(capsys: pytest.CaptureFixture[str]) -> None:
    figures = [
        Figure(6, "a | b", 17.04, "ms", 25, 853 * MB, "PNG 4.7x"),
        Figure(3, "growth", 12345.6, "kB", 300, MB),
    ]
    print(table_head(HEADER))
    assert print_rows(6, lambda: figures) is False
    head, rule, first, second = capsys.readouterr().out.splitlines()
    assert {line.count("|") for line in (head, rule, first, second)} == {len(HEADER) + 1}
    assert first == "| 6 | a / b | 17 ms | ≤ 25 ms | holds | 853 MB | PNG 4.7x |"
    assert second == "| 3 | growth | 12,346 kB | ≤ 300 kB | **falls short** | 1 MB |  |"


def test_a_figure_that_cannot_be_measured_is_one_row(capsys: pytest.CaptureFixture[str]) -> None:
    def measure() -> Iterator[Figure]:
        yield Figure(4, "stop", 1, "ms", 2, 0)
        raise RuntimeError("no\nanswer")

    assert print_rows(4, measure) is False
    assert capsys.readouterr().out.splitlines()[1] == (
        "| 4 | **not measured** |  |  |  |  | RuntimeError: no answer |"
    )


def test_every_figure_of_the_list_is_measured() -> None:
    assert sorted(FIGURES) == [1, 2, 3, 4, 5, 6, 7, 8, 11, 12]


def test_a_figure_that_does_not_exist_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--only", "99"])
    assert "99" in capsys.readouterr().err


def test_frames_are_streamed_and_compared(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--only", "6"])  # the bar itself is for a quiet machine
    out = capsys.readouterr().out
    assert "| 6 | 512 x 512 frame streamed | " in out
    assert "Gradio's WebP" in out


@pytest.mark.usefixtures("quick_collections")
def test_the_registry_holds() -> None:
    loads, growth, tries = registry_figures(swaps=60)
    assert (loads.value, loads.correct) == (1, True)
    assert growth.correct
    assert growth.against.startswith(tuple("123456789"))  # models were swapped at all
    assert tries.holds
    assert "choose a smaller model" in tries.against


def test_the_bomb_is_small_and_says_how_large_it_would_be() -> None:
    small = Image.open(io.BytesIO(png_of(20, 3)))
    small.load()
    assert (small.size, small.getextrema()) == ((20, 3), (0, 0))
    bomb = png_of(12_000, 12_000)
    assert len(bomb) < 20_000
    assert struct.unpack(">II", bomb[16:24]) == (12_000, 12_000)


def test_the_watched_runner_sees_jobs_steps_and_the_line() -> None:
    runner = WatchedRunner(hold_s=0.02)

    def job() -> Job[str]:
        time.sleep(0.1)
        yield Step(0.5, "half")
        return "done"

    ends: list[str] = []
    visitors = [
        threading.Thread(target=lambda: ends.append(list(runner.run(job))[-1].result))
        for _ in range(3)
    ]
    for visitor in visitors:
        visitor.start()
    for visitor in visitors:
        visitor.join()
    assert ends == ["done"] * 3
    assert (runner.done, runner.computing, runner.most_computing) == (3, 0, 1)
    assert runner.most_in_line > 1
    assert 0.1 <= runner.longest_step_s < 1


def test_the_watched_runner_would_see_two_at_once() -> None:
    runner = WatchedRunner()
    with runner._computing(), runner._computing():
        pass
    assert runner.most_computing == 2


def test_the_peak_of_a_process_is_seen_after_it_is_gone() -> None:
    code = "import time; input(); b = bytearray(b'1') * 80_000_000; del b; print(1); input()"
    with subprocess.Popen(
        [sys.executable, "-uc", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        with peak(psutil.Process(child.pid), every_s=0.001) as watch:
            child.stdin.write(b"\n")
            child.stdin.flush()
            child.stdout.readline()
        child.communicate(b"\n")
    assert watch.growth > 20 * MB


def test_medians_ignore_the_first_call() -> None:
    pauses = iter((0.2, 0.01, 0.02, 0.01))
    assert median_seconds(lambda: time.sleep(next(pauses)), 3) == pytest.approx(0.01, abs=0.009)


def test_until_gives_up() -> None:
    with pytest.raises(TimeoutError):
        until(lambda: False, 0.01)


def test_a_ratio_says_how_many_times_cheaper() -> None:
    assert Row("search", 0.002, "encode first", 3.0).cells() == (
        "search", "2 ms", "encode first", "3,000 ms", "1.5e+03x",
    )  # fmt: skip
