"""Finding a checkpoint where users have it: in an archive, in a folder, or by its prefix."""

from __future__ import annotations

import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from models.errors import WeightsError
from models.vild.tfbundle import SUFFIX, is_part
from models.weights import MB

ARCHIVES = (".tar.gz", ".tgz", ".tar")
# The largest checkpoint, Momentum included, has under 1 GB.
MAX_UNPACKED_BYTES = 4 * 10**9
MAX_MEMBERS = 1000


@contextmanager
def bundle_table(path: Path, scratch: Path) -> Iterator[Path]:
    """The table of the tensor bundle at `path`: an archive that holds one, a folder that holds
    one, its `.index`, or its prefix. An archive is unpacked inside `scratch` and removed again.

    Raises:
        WeightsError: there is none or more than one, the archive is damaged or too large, or the
            disk is full.
    """
    if path.name.endswith(ARCHIVES):
        if not path.is_file():
            raise WeightsError(f"{path} does not exist; check the path.")
        with _temporary(scratch) as folder:
            _unpack(path, folder)
            yield _only_table(folder, path)
    elif path.is_dir():
        yield _only_table(path, path)
    else:
        yield path if path.suffix == SUFFIX else path.with_name(f"{path.name}{SUFFIX}")


@contextmanager
def _temporary(parent: Path) -> Iterator[Path]:
    try:
        parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=".unpacked-", dir=parent))
    except OSError as error:
        raise WeightsError(
            f"{parent} cannot be written ({error.strerror}); choose another folder."
        ) from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _unpack(path: Path, folder: Path) -> None:
    """The bundle's files, by their last name alone: an archive decides about contents, never about
    places. Links, devices, the graph and everything else are passed over."""
    left = MAX_UNPACKED_BYTES
    try:
        with tarfile.open(path, "r|*") as archive:
            for number, member in enumerate(archive):
                left -= member.size
                if left < 0 or number >= MAX_MEMBERS:
                    raise WeightsError(
                        f"{path.name} holds more than {MAX_UNPACKED_BYTES / MB:,.0f} MB or "
                        f"{MAX_MEMBERS:,} files; it is no checkpoint of ViLD."
                    )
                name = PurePosixPath(member.name).name
                content = archive.extractfile(member) if member.isreg() and is_part(name) else None
                if content is not None:
                    with content, (folder / name).open("xb") as stream:
                        shutil.copyfileobj(content, stream, 1 << 20)
    except FileExistsError as error:
        raise WeightsError(
            f"{path.name} holds two checkpoints of one name; unpack it and give the one to use."
        ) from error
    except (tarfile.TarError, zlib.error, EOFError, OSError) as error:
        raise WeightsError(
            f"{path.name} cannot be unpacked ({error}); download it again, and see that the disk "
            "has room."
        ) from error


def _only_table(folder: Path, source: Path) -> Path:
    tables = sorted(folder.glob(f"*{SUFFIX}"))
    if len(tables) != 1:
        found = ", ".join(table.name for table in tables[:4]) or "none"
        raise WeightsError(
            f"{source.name} must hold one checkpoint, a file that ends with {SUFFIX}; it holds "
            f"{found}."
        )
    return tables[0]
