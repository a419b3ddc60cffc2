"""A user's own detectors: what is in a folder, told from names and headers alone.

Imports neither torch nor transformers: a list costs milliseconds, however large the files are.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from glob import escape
from pathlib import Path

from models.errors import InputError, WeightsError
from models.weights import MB, check_safetensors

# `model_type` in config.json of the detectors that `successors.py` reads.
MODEL_TYPES = ("grounding-dino", "mm-grounding-dino", "owlv2", "sam3", "sam3_video")
PICKLES = (".pth", ".pt")
# In the header of the safetensors that `models.glip.checkpoints` and `models.vild.checkpoints` write.
GLIP_KEY, VILD_KEY = "glip", "vild"
# ViLD is released as archives of TensorFlow's checkpoints.
ARCHIVES = (".tar.gz", ".tgz", ".tar")
TABLE = ".index"
WEIGHTS = "model.safetensors"
MAX_LISTED = 200


@dataclass(frozen=True)
class OwnDetector:
    """A file that may hold a GLIP or a ViLD, or a folder (`model_type` set) with a successor;
    whether it does, loading it tells."""

    name: str  # unique in its list
    path: Path
    bytes: int
    model_type: str = ""
    is_vild: bool = False

    @property
    def title(self) -> str:
        return f"{self.name} ({self.bytes / MB:,.0f} MB)"


def model_type_of(directory: Path) -> str:
    """Which of `MODEL_TYPES` a folder's config.json names; "" if it is no such folder."""
    try:
        config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return ""
    kind = config.get("model_type") if isinstance(config, dict) else None
    return kind if isinstance(kind, str) and kind in MODEL_TYPES else ""


def list_detectors(path: Path) -> list[OwnDetector]:
    """The detectors in a folder, by name: GLIP's files, ViLD's (ours, archives with "vild" in their
    name, folders with an unpacked one), and sub-folders as transformers saves a model; of such a
    folder or file, itself. At most `MAX_LISTED`.

    Raises InputError when there is no such path, or nothing to list.
    """
    if not path.exists():
        raise InputError(f"{path} does not exist; check the path.")
    found = list(_found(path))
    if not found and path.is_dir():
        found = [one for entry in sorted(path.iterdir()) for one in _found(entry)][:MAX_LISTED]
    if not found:
        raise InputError(
            f"There is no detector in {path}; give a folder with checkpoints of GLIP (.pth) or ViLD "
            "(.tar.gz), or with models as transformers saves them."
        )
    return found


def _found(path: Path) -> Iterator[OwnDetector]:
    if path.name.startswith("."):
        return
    if path.is_dir():
        kind, weights = model_type_of(path), path / WEIGHTS
        tables = list(path.glob(f"*{TABLE}"))
        if kind and weights.is_file():
            yield OwnDetector(path.name, path, weights.stat().st_size, kind)
        elif len(tables) == 1:  # the same name in every archive: the folder tells them apart
            yield from _unpacked(path.name, tables[0])
        return
    if not path.is_file():
        return
    method = _method(path)
    if method == VILD_KEY and path.suffix == TABLE:
        yield from _unpacked(path.name, path)
    elif method:
        yield OwnDetector(path.name, path, path.stat().st_size, is_vild=method == VILD_KEY)


def _unpacked(name: str, table: Path) -> Iterator[OwnDetector]:
    shards = list(table.parent.glob(f"{escape(table.stem)}.data-*"))
    if shards:
        size = sum(shard.stat().st_size for shard in shards)
        yield OwnDetector(name, table, size, is_vild=True)


def _method(path: Path) -> str:
    """`GLIP_KEY`, `VILD_KEY`, or "" for a file that is neither's."""
    if path.suffix in PICKLES:
        return GLIP_KEY
    archive = path.name.endswith(ARCHIVES) and VILD_KEY in path.name.lower()
    if archive or path.suffix == TABLE:
        return VILD_KEY
    return _method_of_header(path) if path.suffix == ".safetensors" else ""


def _method_of_header(path: Path) -> str:
    from safetensors import safe_open

    try:
        check_safetensors(path)
    except WeightsError:
        return ""
    with safe_open(path, framework="np") as file:  # type: ignore[no-untyped-call]
        told = file.metadata() or {}
        if VILD_KEY in told:
            return VILD_KEY
        glip = GLIP_KEY in told or any("dyhead_tower" in key for key in file.keys())  # noqa: SIM118
        return GLIP_KEY if glip else ""
