"""Reads TensorFlow's checkpoints (version 2, "tensor bundles") without TensorFlow.

    with TensorBundle.open(Path("model.ckpt-180000.index")) as bundle:
        kernel = bundle.read("fpn/p6/kernel")          # numpy, checksum verified

A bundle is a table `PREFIX.index` from names to entries (tensorflow/core/util/tensor_bundle: an
SSTable of leveldb's format, whose values are protocol buffers), and shards of raw numbers,
`PREFIX.data-00000-of-00001`. Nothing in them is code. Every offset and length is checked before
it is used, every checksum is compared, and what does not fit raises WeightsError.
"""

from __future__ import annotations

import math
import mmap
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from models.errors import WeightsError
from models.vild.crc32c import crc32c, masked

SUFFIX = ".index"

_MAGIC = 0xDB4775248B80FB57
_FOOTER = 48  # bytes: two block handles, padding, the magic number
_TRAILER = 5  # bytes after a block: its compression, its checksum
_MAX_INDEX_BYTES = 64 * 10**6  # ViLD's have about 50 kB
_MAX_ENTRIES = 100_000
_MAX_SHARDS = 10_000
_MAX_DIMENSIONS = 8
# TensorFlow's DataType, as far as numpy has it.
_TYPES: Mapping[int, str] = MappingProxyType(
    {
        1: "<f4",
        2: "<f8",
        3: "<i4",
        4: "u1",
        5: "<i2",
        6: "i1",
        9: "<i8",
        10: "?",
        17: "<u2",
        19: "<f2",
        22: "<u4",
        23: "<u8",
    }
)


class _DamageError(Exception):
    """What is wrong with the bytes; becomes a sentence that names the file."""


@dataclass(frozen=True)
class Entry:
    """Where a tensor lies. `dtype` is None for types numpy lacks (strings, bfloat16); `slices` is
    True for a variable stored in several parts, which cannot be read."""

    dtype: np.dtype[Any] | None
    shape: tuple[int, ...]
    shard: int
    offset: int
    bytes: int
    checksum: int
    slices: bool = False


class TensorBundle:
    """An open bundle; close it, or use it in a `with` block.

    Attributes:
        entries: everything in it by name, sorted.
    """

    def __init__(
        self, prefix: Path, entries: Mapping[str, Entry], shards: list[memoryview], stack: ExitStack
    ) -> None:
        self._prefix = prefix
        self.entries = entries
        self._shards = shards
        self._stack = stack

    @classmethod
    def open(cls, path: Path) -> TensorBundle:
        """Opens the bundle whose table is `path` (PREFIX.index); its shards lie beside it.

        Raises:
            WeightsError: a file is missing, truncated, damaged, compressed, or no bundle.
        """
        if path.suffix != SUFFIX:
            raise WeightsError(
                f"{path.name} is no table of a checkpoint; its name ends in {SUFFIX}."
            )
        prefix = path.with_suffix("")
        try:
            shard_count, entries = _parsed(_index_bytes(path))
        except _DamageError as damage:
            raise WeightsError(
                f"{path.name} {damage}; download or unpack the checkpoint again."
            ) from damage
        with ExitStack() as stack:
            paths = [_shard_path(prefix, number, shard_count) for number in range(shard_count)]
            shards = [_mapped(shard, stack) for shard in paths]
            for name, entry in entries.items():
                if entry.offset + entry.bytes > len(shards[entry.shard]):
                    raise WeightsError(
                        f"{paths[entry.shard].name} ends before its tensor {name[:200]}; download "
                        "or unpack the checkpoint again."
                    )
            kept = stack.pop_all()
        return cls(prefix, MappingProxyType(entries), shards, kept)

    def close(self) -> None:
        self._stack.close()

    def __enter__(self) -> TensorBundle:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def read(self, name: str) -> npt.NDArray[Any]:
        """A copy of the tensor `name`.

        Raises:
            WeightsError: there is none, its checksum is wrong, or it is of a kind that cannot be
                read.
        """
        entry = self.entries.get(name)
        if entry is None:
            raise WeightsError(f"{self._prefix.name} has no tensor {name[:200]}.")
        if entry.dtype is None or entry.slices:
            kind = "in slices" if entry.slices else "in a type of numbers that is not supported"
            raise WeightsError(f"{self._prefix.name} holds its tensor {name[:200]} {kind}.")
        with self._shards[entry.shard][entry.offset : entry.offset + entry.bytes] as raw:
            if masked(crc32c(raw)) != entry.checksum:
                raise WeightsError(
                    f"{self._prefix.name} has a damaged tensor {name[:200]}; download or unpack the "
                    "checkpoint again."
                )
            result: npt.NDArray[Any] = np.frombuffer(bytearray(raw), entry.dtype)
        return result.reshape(entry.shape)


# ------------------------------------------------------------------------------------- files


def _index_bytes(path: Path) -> bytes:
    try:
        size = path.stat().st_size
        if size > _MAX_INDEX_BYTES:
            raise _DamageError(f"has {size:,} bytes, too many for a table of names")
        return path.read_bytes()
    except OSError as error:
        raise WeightsError(f"{path} cannot be read ({error.strerror}); check the path.") from error


def _shard_path(prefix: Path, number: int, count: int) -> Path:
    return prefix.with_name(f"{prefix.name}.data-{number:05d}-of-{count:05d}")


def _mapped(path: Path, stack: ExitStack) -> memoryview:
    try:
        stream = stack.enter_context(path.open("rb"))
        if not path.stat().st_size:
            return memoryview(b"")  # which mmap refuses
        mapped = stack.enter_context(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ))
        return stack.enter_context(memoryview(mapped))
    except OSError as error:
        raise WeightsError(
            f"{path.name} cannot be read from {path.parent} ({error.strerror}); all files of the "
            "checkpoint must lie in one folder."
        ) from error


# ------------------------------------------------------------------------------------- table


def _parsed(data: bytes) -> tuple[int, dict[str, Entry]]:
    """(number of shards, entries) of a table."""
    rows = _rows(data)
    first = next(rows, None)
    if first is None or first[0] != b"":
        raise _DamageError("has no header")
    shard_count = _header(first[1])
    entries: dict[str, Entry] = {}
    for key, value in rows:
        if len(entries) >= _MAX_ENTRIES:
            raise _DamageError(f"has more than {_MAX_ENTRIES:,} entries")
        try:
            name = key.decode("utf-8")
        except UnicodeDecodeError:
            # A slice's key is binary and begins with a zero byte; its tensor is marked itself.
            continue
        entries[name] = _entry(value, shard_count)
    return shard_count, entries


def _rows(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """All (key, value), keys rising."""
    if len(data) < _FOOTER:
        raise _DamageError("is too short for a table")
    footer = data[-_FOOTER:]
    if int.from_bytes(footer[-8:], "little") != _MAGIC:
        raise _DamageError("is cut off or no table of a TensorFlow checkpoint")
    _, position = _handle(footer, 0)  # of the block of meta-information, which is empty
    index, _ = _handle(footer, position)
    previous: bytes | None = None
    for _, value in _block(data, index):
        block, _ = _handle(value, 0)
        for key, entry in _block(data, block):
            if previous is not None and key <= previous:
                raise _DamageError("has names out of order")
            previous = key
            yield key, entry


def _handle(data: bytes, position: int) -> tuple[tuple[int, int], int]:
    """((offset, size) of a block, position after it)."""
    offset, position = _varint(data, position)
    size, position = _varint(data, position)
    return (offset, size), position


def _block(data: bytes, handle: tuple[int, int]) -> Iterator[tuple[bytes, bytes]]:
    """(key, value) of a block. A key is told by how much it shares with the one before."""
    offset, size = handle
    end = offset + size
    if end + _TRAILER > len(data) - _FOOTER:
        raise _DamageError("has a block outside the file")
    compression, checksum = data[end], int.from_bytes(data[end + 1 : end + _TRAILER], "little")
    if masked(crc32c(data[offset : end + 1])) != checksum:
        raise _DamageError("is damaged (a checksum is wrong)")
    if compression:
        raise _DamageError("is compressed, which no checkpoint of ViLD is")
    block = data[offset:end]
    restarts = int.from_bytes(block[-4:], "little")
    limit = len(block) - 4 * (restarts + 1)
    if limit < 0:
        raise _DamageError("has a block without its end")
    key, position = b"", 0
    while position < limit:
        shared, position = _varint(block, position)
        fresh, position = _varint(block, position)
        length, position = _varint(block, position)
        if shared > len(key) or position + fresh + length > limit:
            raise _DamageError("has an entry outside its block")
        key = key[:shared] + block[position : position + fresh]
        position += fresh
        yield key, block[position : position + length]
        position += length


# -------------------------------------------------------------------------- protocol buffers


def _varint(data: bytes, position: int) -> tuple[int, int]:
    """(value below 2^64, position after it)."""
    value = 0
    for shift in range(0, 64, 7):
        if position >= len(data):
            raise _DamageError("ends within a number")
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if value >> 64:
                break
            return value, position
    raise _DamageError("has a number that is too long")


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """(number, value) of a message's fields: bytes for what has a length, else an integer."""
    position = 0
    while position < len(data):
        tag, position = _varint(data, position)
        number, kind = tag >> 3, tag & 7
        if kind == 0:
            value, position = _varint(data, position)
            yield number, value
            continue
        if kind == 2:
            length, position = _varint(data, position)
        elif kind in (1, 5):
            length = 8 if kind == 1 else 4
        else:
            raise _DamageError("has a field of an unknown kind")
        if position + length > len(data):
            raise _DamageError("has a field outside its entry")
        raw = data[position : position + length]
        yield number, raw if kind == 2 else int.from_bytes(raw, "little")
        position += length


def _number(value: int | bytes, limit: int) -> int:
    if isinstance(value, bytes) or value > limit:  # a negative number is above 2^63
        raise _DamageError("has a number out of range")
    return value


def _header(data: bytes) -> int:
    """The number of shards of a BundleHeaderProto."""
    shards = 1
    for number, value in _fields(data):
        if number == 1:
            shards = _number(value, _MAX_SHARDS)
        elif number == 2 and value != 0:
            raise _DamageError("is of a big-endian machine")
    if shards < 1:
        raise _DamageError("has no shards")
    return shards


def _entry(data: bytes, shard_count: int) -> Entry:
    """A BundleEntryProto, its length checked against its shape."""
    dtype, shard, offset, size, checksum = 0, 0, 0, 0, 0
    shape: tuple[int, ...] = ()
    slices = False
    for number, value in _fields(data):
        if number == 1:
            dtype = _number(value, 1000)
        elif number == 2:
            shape = _shape(value)
        elif number == 3:
            shard = _number(value, shard_count - 1)
        elif number == 4:
            offset = _number(value, 1 << 62)
        elif number == 5:
            size = _number(value, 1 << 62)
        elif number == 6:
            checksum = _number(value, (1 << 32) - 1)
        elif number == 7:
            slices = True
    kind = np.dtype(_TYPES[dtype]) if dtype in _TYPES else None
    if kind is not None and not slices and size != math.prod(shape) * kind.itemsize:
        raise _DamageError(f"tells {size:,} bytes for a tensor of shape {list(shape)}")
    return Entry(kind, shape, shard, offset, size, checksum, slices)


def _shape(data: int | bytes) -> tuple[int, ...]:
    """A TensorShapeProto of known rank."""
    if isinstance(data, int):
        raise _DamageError("has a number in place of a shape")
    sizes = []
    for number, value in _fields(data):
        if number == 2 and isinstance(value, bytes):
            size = 0  # protocol buffers leave zeros out
            for inner, told in _fields(value):
                if inner == 1:
                    size = _number(told, 1 << 40)
            sizes.append(size)
        elif number == 3 and value:
            raise _DamageError("has a tensor of unknown shape")
    if len(sizes) > _MAX_DIMENSIONS:
        raise _DamageError(f"has a tensor of {len(sizes)} dimensions")
    return tuple(sizes)


# ---------------------------------------------------------------------------- finding a bundle

_PART = re.compile(r"\.index$|\.data-\d{5}-of-\d{5}$")


def is_part(name: str) -> bool:
    """Whether a file of this name belongs to a bundle: not `checkpoint`, not the graph `.meta`."""
    return _PART.search(name) is not None
