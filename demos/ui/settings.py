"""How the app is started: flags, each with an environment variable, as one frozen value."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

DEVICES = ("auto", "cpu", "cuda", "mps")
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_TRUE, _FALSE = {"1", "true", "yes", "on"}, {"", "0", "false", "no", "off"}


@dataclass(frozen=True)
class Settings:
    """Everything that can be chosen at the start.

    memory_budget: bytes that loaded models may take together; None lets the registry decide.
    preload:       model names that are loaded and warm before the address is printed.
    present:       large type, no footer, no run history.
    generators:    folder with StyleGAN2 files of one's own, or one such file; "" is none.
    detectors:     likewise with GLIP's files, or with successors as transformers saves them.
    """

    host: str = "127.0.0.1"
    port: int = 7860
    device: str = "auto"
    memory_budget: int | None = None
    preload: tuple[str, ...] = ()
    offline: bool = False
    present: bool = False
    max_queue: int = 32
    generators: str = ""
    detectors: str = ""
    root_path: str = ""


def parse_settings(
    argv: Sequence[str] | None = None, environ: Mapping[str, str] = os.environ
) -> Settings:
    """Settings from the command line over the environment over the defaults.

    Exits with status 2 and a sentence when a value makes no sense, as argparse does.
    """
    parser = _parser()
    defaults = {
        action.dest: _from_environment(parser, action, environ)
        for action in parser._actions
        if action.dest != "help"
    }
    parser.set_defaults(**{key: value for key, value in defaults.items() if value is not None})
    values = vars(parser.parse_args(argv))
    return Settings(**{**values, "preload": tuple(values["preload"])})


def parse_bytes(text: str) -> int:
    """'4GB', '800 MB', '1.5G' or plain bytes, decimal units -> bytes. Raises ValueError."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)B?\s*", text, re.IGNORECASE)
    if not match or float(match[1]) <= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no amount of memory; write it like 4GB.")
    return int(float(match[1]) * _UNITS[match[2].upper()])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="app.py",
        description="CLIP Atelier: words and pictures, side by side, on your own machine.",
        epilog="Every flag can also be set as an environment variable, "
        "such as ATELIER_PORT=7861 or ATELIER_PRESENT=1; a flag wins.",
    )

    def add(flag: str, *variables: str, **options: object) -> None:
        name = "ATELIER_" + flag.lstrip("-").replace("-", "_").upper()
        options["help"] = f"{options['help']} [{', '.join((name, *variables))}]"
        action = parser.add_argument(flag, **options)  # type: ignore[arg-type]
        action.variables = (name, *variables)  # type: ignore[attr-defined]

    base = Settings()
    add("--host", "GRADIO_SERVER_NAME", default=base.host, help="address to listen on")
    add("--port", "GRADIO_SERVER_PORT", type=_port, default=base.port, help="port to listen on")
    add("--device", choices=DEVICES, default=base.device, help="where models run")
    add(
        "--memory-budget",
        type=parse_bytes,
        default=base.memory_budget,
        metavar="SIZE",
        help="memory that loaded models may take together, like 4GB",
    )
    add(
        "--preload",
        nargs="+",
        default=base.preload,
        metavar="NAME",
        help="models that are loaded and warm before the app says ready",
    )
    add("--offline", action="store_true", help="never download: use what is here, or say so")
    add("--present", action="store_true", help="for a projector: large type, no footer, no history")
    add("--max-queue", type=_positive, default=base.max_queue, help="runs that may wait at once")
    add(
        "--generators",
        default=base.generators,
        metavar="FOLDER",
        help="StyleGAN2 files of your own for StyleCLIP: a folder, or one file",
    )
    add(
        "--detectors",
        default=base.detectors,
        metavar="FOLDER",
        help="GLIP files of your own, or successors as transformers saves them, for GLIP",
    )
    add("--root-path", "GRADIO_ROOT_PATH", default=base.root_path, help="path behind a proxy")
    return parser


def _from_environment(
    parser: argparse.ArgumentParser, action: argparse.Action, environ: Mapping[str, str]
) -> object:
    """The value of the first variable of `action` that is set, or None."""
    for variable in getattr(action, "variables", ()):
        text = environ.get(variable)
        if text is None:
            continue
        try:
            return _read(action, text)
        except (argparse.ArgumentTypeError, ValueError) as error:
            parser.error(f"environment variable {variable}: {error}")
    return None


def _read(action: argparse.Action, text: str) -> object:
    if action.nargs == 0:
        return _flag(text)
    if action.nargs == "+":
        return [name for name in re.split(r"[\s,]+", text) if name]
    if action.choices is not None and text not in action.choices:
        raise ValueError(f"{text!r} is none of {', '.join(action.choices)}.")
    return action.type(text) if callable(action.type) else text


def _flag(text: str) -> bool:
    if text.lower() not in _TRUE | _FALSE:
        raise ValueError(f"{text!r} is neither 1 nor 0.")
    return text.lower() in _TRUE


def _port(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port; give a number from 1 to 65535.")
    return int(text)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number above zero.")
    return int(text)
