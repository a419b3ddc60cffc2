"""Flags over environment over defaults."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from demos.ui.settings import Settings, parse_settings


@pytest.mark.parametrize(
    ("argv", "environ", "expected"),
    [
        ([], {}, Settings()),
        (["--port", "80", "--host", "0.0.0.0"], {}, Settings(port=80, host="0.0.0.0")),
        (["--generators", "/mine"], {}, Settings(generators="/mine")),
        (["--detectors", "/mine"], {}, Settings(detectors="/mine")),
        ([], {"ATELIER_GENERATORS": "/mine"}, Settings(generators="/mine")),
        ([], {"ATELIER_PORT": "80"}, Settings(port=80)),
        (
            [],
            {"GRADIO_SERVER_PORT": "80", "GRADIO_SERVER_NAME": "::"},
            Settings(port=80, host="::"),
        ),
        ([], {"ATELIER_PORT": "81", "GRADIO_SERVER_PORT": "80"}, Settings(port=81)),
        (["--port", "82"], {"ATELIER_PORT": "81"}, Settings(port=82)),
        (["--memory-budget", "4GB"], {}, Settings(memory_budget=4_000_000_000)),
        (["--memory-budget", "1.5 g"], {}, Settings(memory_budget=1_500_000_000)),
        ([], {"ATELIER_MEMORY_BUDGET": "800MB"}, Settings(memory_budget=800_000_000)),
        (["--preload", "a", "b"], {}, Settings(preload=("a", "b"))),
        ([], {"ATELIER_PRELOAD": "a, b c"}, Settings(preload=("a", "b", "c"))),
        ([], {"ATELIER_PRESENT": "1", "ATELIER_OFFLINE": "false"}, Settings(present=True)),
        (["--offline"], {"ATELIER_OFFLINE": "0"}, Settings(offline=True)),
        (["--device", "mps"], {}, Settings(device="mps")),
        ([], {"ATELIER_DEVICE": "cuda"}, Settings(device="cuda")),
        (["--max-queue", "3", "--root-path", "/x"], {}, Settings(max_queue=3, root_path="/x")),
        (
            [],
            {"ATELIER_MAX_QUEUE": "3", "ATELIER_ROOT_PATH": "/x"},
            Settings(max_queue=3, root_path="/x"),
        ),
    ],
)
def test_settings(argv: list[str], environ: dict[str, str], expected: Settings) -> None:
    assert parse_settings(argv, environ) == expected


@pytest.mark.parametrize(
    ("argv", "environ", "sentence"),
    [
        (["--port", "0"], {}, "'0' is no port"),
        (["--port", "http"], {}, "'http' is no port"),
        (["--memory-budget", "much"], {}, "write it like 4GB"),
        (["--memory-budget", "0"], {}, "write it like 4GB"),
        (["--device", "tpu"], {}, "invalid choice: 'tpu'"),
        (["--max-queue", "0"], {}, "no whole number above zero"),
        ([], {"ATELIER_PORT": "x"}, "environment variable ATELIER_PORT: 'x' is no port"),
        ([], {"ATELIER_DEVICE": "tpu"}, "ATELIER_DEVICE: 'tpu' is none of auto, cpu, cuda, mps"),
        ([], {"ATELIER_PRESENT": "maybe"}, "ATELIER_PRESENT: 'maybe' is neither 1 nor 0"),
    ],
)
def test_refused(
    argv: list[str], environ: dict[str, str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        parse_settings(argv, environ)
    assert caught.value.code == 2
    assert sentence in capsys.readouterr().err


def test_help_names_every_flag_and_variable_without_importing_torch() -> None:
    began = time.monotonic()
    script = "import sys, app\ntry: app.main(['--help'])\nfinally: print('torch' in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout
    assert time.monotonic() - began < 3
    assert shown.endswith("False\n")
    for name in (
        "host",
        "port",
        "device",
        "memory-budget",
        "preload",
        "offline",
        "present",
        "max-queue",
        "root-path",
    ):
        assert f"--{name}" in shown
        assert "ATELIER_" + name.replace("-", "_").upper() in shown
