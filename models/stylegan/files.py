"""A user's own generator files: what is in a folder, told from names and headers alone.

Imports neither torch nor the generator: a list costs milliseconds, however large the files are.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.errors import InputError, WeightsError
from models.weights import MB, metadata_of

SUFFIXES = (".pt", ".pth", ".pkl", ".safetensors")
MAX_LISTED = 200


@dataclass(frozen=True)
class OwnFile:
    """A file that may hold a generator; whether it does, loading it tells."""

    name: str  # unique in its list: the path below the folder, without the suffix
    path: Path
    bytes: int

    @property
    def title(self) -> str:
        return f"{self.name} ({self.bytes / MB:,.0f} MB)"


def list_generators(path: Path) -> list[OwnFile]:
    """The generator files in a folder and its sub-folders (one level: lucidrains keeps each model
    in one of its own), by name; of a file, the file itself. At most `MAX_LISTED`.

    Safetensors of other kinds are left out; a pickle cannot be judged without loading it.

    Raises:
        InputError: there is no such file or folder, or nothing to list in it.
    """
    if path.is_file() and path.suffix in SUFFIXES:
        return [OwnFile(path.stem, path, path.stat().st_size)]
    if not path.is_dir():
        raise InputError(
            f"{path} is neither a folder nor a generator file ({', '.join(SUFFIXES)}); check the path."
        )
    files = sorted(_candidates(path))[:MAX_LISTED]
    if not files:
        raise InputError(f"There is no generator file ({', '.join(SUFFIXES)}) in {path}.")
    stems = [file.relative_to(path).with_suffix("").as_posix() for file in files]
    names = [
        stem if stems.count(stem) == 1 else file.relative_to(path).as_posix()
        for stem, file in zip(stems, files)
    ]
    return [OwnFile(name, file, file.stat().st_size) for name, file in zip(names, files)]


def _candidates(folder: Path) -> Iterator[Path]:
    for file in (*folder.glob("*"), *folder.glob("*/*")):
        hidden = any(part.startswith(".") for part in file.relative_to(folder).parts)
        if hidden or file.suffix not in SUFFIXES or not file.is_file():
            continue
        if file.suffix != ".safetensors" or _is_ours(file):
            yield file


def _is_ours(path: Path) -> bool:
    try:
        return "channels" in config_of(path)
    except WeightsError:
        return False


def config_of(path: Path) -> dict[str, Any]:
    """The generator's configuration in the header of our safetensors; {} when there is none.

    Raises WeightsError when the file is no safetensors file.
    """
    try:
        config = json.loads(metadata_of(path).get("config", "{}"))
    except (ValueError, RecursionError):
        return {}
    return config if isinstance(config, dict) else {}
