"""Writes TensorFlow checkpoints for the tests, from the documents of the formats alone.

leveldb's doc/table_format.md (blocks, prefix compression, footer) and tensor_bundle.proto; shares
nothing with the reader but the checksum of long data.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from models.vild.crc32c import crc32c

TYPES = {"float32": 1, "float64": 2, "int32": 3, "int64": 9, "float16": 19}
STRING = 7


def slow_crc32c(data: bytes) -> int:
    """Bit by bit, as RFC 3720 has it."""
    register = 0xFFFFFFFF
    for byte in data:
        register ^= byte
        for _ in range(8):
            register = register >> 1 ^ (0x82F63B78 if register & 1 else 0)
    return register ^ 0xFFFFFFFF


def _crc_table() -> list[int]:
    # crc of a one-byte message with a zero register
    table = []
    for byte in range(256):
        register = byte
        for _ in range(8):
            register = register >> 1 ^ (0x82F63B78 if register & 1 else 0)
        table.append(register)
    return table


_TABLE = _crc_table()


def stored_crc(data: bytes) -> bytes:
    """The masked checksum as four bytes."""
    if len(data) > 1 << 16:  # this loop makes 10 MB a second; test_tfbundle.py compares the two
        crc = crc32c(data)
    else:
        register = 0xFFFFFFFF
        for byte in data:
            register = register >> 8 ^ _TABLE[(register ^ byte) & 0xFF]
        crc = register ^ 0xFFFFFFFF
    return struct.pack("<I", (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF)


def varint(number: int) -> bytes:
    number &= 2**64 - 1
    encoded = b""
    while number > 127:
        encoded += bytes([number % 128 + 128])
        number //= 128
    return encoded + bytes([number])


def _integer(field: int, value: int) -> bytes:
    return varint(field * 8) + varint(value) if value else b""  # proto3 leaves zeros out


def _message(field: int, content: bytes) -> bytes:
    return varint(field * 8 + 2) + varint(len(content)) + content


def header(shards: int = 1, endianness: int = 0) -> bytes:
    version = _message(3, _integer(1, 1))
    return _integer(1, shards) + _integer(2, endianness) + version


def entry(
    dtype: int,
    shape: tuple[int, ...],
    offset: int,
    size: int,
    crc: bytes,
    *,
    shard: int = 0,
    extra: bytes = b"",
) -> bytes:
    dims = b"".join(_message(2, _integer(1, side)) for side in shape)
    return (
        _integer(1, dtype)
        + _message(2, dims)
        + _integer(3, shard)
        + _integer(4, offset)
        + _integer(5, size)
        + varint(6 * 8 + 5)
        + crc
        + extra
    )


def _block(rows: list[tuple[bytes, bytes]], interval: int) -> bytes:
    content, restarts, before = b"", [], b""
    for number, (key, value) in enumerate(rows):
        shared = 0
        if number % interval == 0:
            restarts.append(len(content))
        else:
            while shared < min(len(key), len(before)) and key[shared] == before[shared]:
                shared += 1
        fresh = key[shared:]
        content += varint(shared) + varint(len(fresh)) + varint(len(value)) + fresh + value
        before = key
    restarts = restarts or [0]
    return content + struct.pack(f"<{len(restarts)}I", *restarts) + struct.pack("<I", len(restarts))


def table(
    rows: list[tuple[bytes, bytes]], *, rows_per_block: int = 40, compression: int = 0
) -> bytes:
    """A table file; `compression` marks the blocks, which stay as they are."""
    written, index = b"", []

    def put(block: bytes) -> bytes:
        nonlocal written
        handle = varint(len(written)) + varint(len(block))
        marked = block + bytes([compression])
        written += marked + stored_crc(marked)
        return handle

    for start in range(0, len(rows), rows_per_block):
        part = rows[start : start + rows_per_block]
        index.append((part[-1][0] + b"\x01", put(_block(part, 16))))
    footer = put(_block([], 1)) + put(_block(index, 1))
    return written + footer.ljust(40, b"\0") + struct.pack("<Q", 0xDB4775248B80FB57)


def write_bundle(prefix: Path, tensors: Mapping[str, np.ndarray], *, shards: int = 1) -> Path:
    """Writes PREFIX.index and its shards; returns the path of the index."""
    parts = [bytearray() for _ in range(shards)]
    rows = [(b"", header(shards))]
    for number, name in enumerate(sorted(tensors)):
        array = tensors[name]
        raw, shard = array.tobytes("C"), number % shards
        kind = TYPES[array.dtype.name]
        value = entry(kind, array.shape, len(parts[shard]), len(raw), stored_crc(raw), shard=shard)
        rows.append((name.encode(), value))
        parts[shard] += raw
    for shard, raw in enumerate(parts):
        prefix.with_name(f"{prefix.name}.data-{shard:05d}-of-{shards:05d}").write_bytes(raw)
    index = prefix.with_name(f"{prefix.name}.index")
    index.write_bytes(table(rows))
    return index
