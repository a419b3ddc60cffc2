"""Bundles written by a writer that shares nothing with the reader, whole and damaged."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from models.errors import WeightsError
from models.vild.crc32c import crc32c, masked
from models.vild.tfbundle import TensorBundle, is_part
from tests.tfbundle_support import (
    STRING,
    entry,
    header,
    slow_crc32c,
    stored_crc,
    table,
    varint,
    write_bundle,
)

RNG = np.random.default_rng(7)
TENSORS = {
    "fpn/p2-bn/gamma": RNG.standard_normal(256).astype(np.float32),
    "fpn/p2-bn/gamma/Momentum": RNG.standard_normal(256).astype(np.float32),
    "fpn/p6/kernel": RNG.standard_normal((3, 3, 4, 5)).astype(np.float32),
    "global_step": np.array(180_000),
    "half": RNG.standard_normal((2, 3)).astype(np.float16),
    "empty": np.zeros((0, 3), np.float32),
    "scalar": np.array(0.25),
    "ünïcode/name": np.arange(4, dtype=np.int32),
    **{f"many/{i:04d}": np.array([i], np.int32) for i in range(200)},  # several blocks
}


@pytest.mark.parametrize(
    "length", [0, 1, 2, 3, 4, 5, 9, 255, 8191, 8192, 8193, 20_001, 20_480, 65_537]
)
def test_checksums_are_those_of_the_slow_definition(length: int) -> None:
    data = random.Random(length).randbytes(length)
    assert crc32c(data) == slow_crc32c(data)


def test_checksums_are_the_published_ones() -> None:
    """RFC 3720, appendix B.4, and leveldb's mask."""
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c(b"\xff" * 32) == 0x62A8AB43
    assert crc32c(bytes(range(32))) == 0x46DD794E
    assert masked(0) == 0xA282EAD8
    assert masked(crc32c(b"foo")).to_bytes(4, "little") == stored_crc(b"foo")


@pytest.mark.parametrize("shards", [1, 3])
def test_a_bundle_is_read_as_it_was_written(tmp_path: Path, shards: int) -> None:
    index = write_bundle(tmp_path / "model.ckpt-180000", TENSORS, shards=shards)
    with TensorBundle.open(index) as bundle:
        assert sorted(bundle.entries) == sorted(TENSORS)
        for name, tensor in TENSORS.items():
            read = bundle.read(name)
            assert read.dtype == tensor.dtype, name
            assert read.shape == tensor.shape == bundle.entries[name].shape, name
            assert np.array_equal(read, tensor), name


def test_what_was_read_outlives_the_bundle(tmp_path: Path) -> None:
    index = write_bundle(tmp_path / "model", TENSORS)
    with TensorBundle.open(index) as bundle:
        gamma = bundle.read("fpn/p2-bn/gamma")
    (tmp_path / "model.data-00000-of-00001").unlink()
    assert np.array_equal(gamma, TENSORS["fpn/p2-bn/gamma"])
    assert gamma.flags.writeable


def test_large_tensors_are_read(tmp_path: Path) -> None:
    kernel = RNG.standard_normal((7, 7, 3, 200)).astype(np.float32)
    with TensorBundle.open(write_bundle(tmp_path / "model", {"k": kernel})) as bundle:
        assert np.array_equal(bundle.read("k"), kernel)


# -------------------------------------------------------------------------------- damage


def _index(tmp_path: Path, content: bytes, data: bytes = bytes(64)) -> Path:
    (tmp_path / "m.data-00000-of-00001").write_bytes(data)
    path = tmp_path / "m.index"
    path.write_bytes(content)
    return path


def _with_entry(value: bytes) -> bytes:
    return table([(b"", header()), (b"x", value)])


CRC = stored_crc(bytes(16))
BAD_TABLES = {
    "empty": (b"", "too short"),
    "html": (b"<html>404</html>" * 10, "cut off or no table"),
    "cut": (table([(b"", header())])[:-1], "cut off or no table"),
    "compressed": (table([(b"", header())], compression=1), "is compressed"),
    "no header": (table([(b"x", entry(1, (4,), 0, 16, CRC))]), "has no header"),
    "no rows": (table([]), "has no header"),
    "big endian": (table([(b"", header(endianness=1))]), "big-endian"),
    "a million shards": (table([(b"", header(1_000_000))]), "out of range"),
    "twice": (
        table([(b"", header()), (b"x", b""), (b"x", b"")]),
        "out of order",
    ),
    "size against shape": (_with_entry(entry(1, (5,), 0, 16, CRC)), "16 bytes for a tensor"),
    "shard that is not": (_with_entry(entry(1, (4,), 0, 16, CRC, shard=1)), "out of range"),
    "negative offset": (_with_entry(entry(1, (4,), -16, 16, CRC)), "out of range"),
    "negative size": (_with_entry(entry(1, (4,), 0, -16, CRC)), "out of range"),
    "negative side": (_with_entry(entry(1, (-4,), 0, 16, CRC)), "out of range"),
    "nine dimensions": (_with_entry(entry(1, (1,) * 9, 0, 4, CRC)), "9 dimensions"),
    "a number for a shape": (_with_entry(varint(2 * 8) + b"\1"), "in place of a shape"),
    "a field outside": (_with_entry(varint(2 * 8 + 2) + varint(100) + b"xx"), "outside its entry"),
    "a number without end": (_with_entry(b"\x08" + b"\xff" * 5), "ends within a number"),
    "a number too long": (_with_entry(b"\x08" + b"\xff" * 11), "too long"),
    "an unknown kind": (_with_entry(b"\x0b"), "unknown kind"),
}


@pytest.mark.parametrize("name", BAD_TABLES)
def test_a_bad_table_is_a_sentence(tmp_path: Path, name: str) -> None:
    content, sentence = BAD_TABLES[name]
    with pytest.raises(WeightsError, match=rf"^m\.index .*{sentence}.*\.$"):
        TensorBundle.open(_index(tmp_path, content))


@pytest.mark.parametrize(
    ("handle", "sentence"),
    [
        (varint(10**9) + varint(4), "block outside"),
        (varint(0) + varint(2**63), "block outside"),
        (varint(0) + b"\x80", "checksum"),
    ],
)
def test_handles_that_point_elsewhere(tmp_path: Path, handle: bytes, sentence: str) -> None:
    whole = table([(b"", header())])
    footer = (varint(0) + varint(0) + handle).ljust(40, b"\0") + whole[-8:]
    with pytest.raises(WeightsError, match=sentence):
        TensorBundle.open(_index(tmp_path, whole[:-48] + footer))


def test_every_flipped_bit_of_a_table_is_noticed_or_harmless(tmp_path: Path) -> None:
    """Whatever the damage, the answer is a sentence or the very same entries."""
    content = write_bundle(tmp_path / "m", {"a": np.arange(4), "b": np.zeros(3)}).read_bytes()
    with TensorBundle.open(tmp_path / "m.index") as bundle:
        entries = dict(bundle.entries)
    refused = 0
    for position in range(len(content)):
        damaged = bytearray(content)
        damaged[position] ^= 1 << position % 8
        (tmp_path / "m.index").write_bytes(damaged)
        try:
            with TensorBundle.open(tmp_path / "m.index") as bundle:
                assert bundle.entries == entries
        except WeightsError:
            refused += 1
    assert refused > len(content) / 2  # the rest is padding, and an empty block that nobody reads


def test_every_truncation_of_a_table_is_refused(tmp_path: Path) -> None:
    content = write_bundle(tmp_path / "m", {"a": np.arange(4)}).read_bytes()
    for length in range(len(content)):
        (tmp_path / "m.index").write_bytes(content[:length])
        with pytest.raises(WeightsError):
            TensorBundle.open(tmp_path / "m.index")


def test_damaged_numbers_are_noticed(tmp_path: Path) -> None:
    index = write_bundle(tmp_path / "m", TENSORS)
    with TensorBundle.open(index) as bundle:
        at = bundle.entries["fpn/p6/kernel"].offset + 9
    shard = tmp_path / "m.data-00000-of-00001"
    data = bytearray(shard.read_bytes())
    data[at] ^= 4
    shard.write_bytes(data)
    with TensorBundle.open(index) as bundle:
        assert np.array_equal(bundle.read("half"), TENSORS["half"])
        with pytest.raises(WeightsError, match="damaged tensor fpn/p6/kernel"):
            bundle.read("fpn/p6/kernel")


def test_a_shard_that_is_cut_off_or_missing(tmp_path: Path) -> None:
    index = write_bundle(tmp_path / "m", TENSORS)
    shard = tmp_path / "m.data-00000-of-00001"
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(WeightsError, match=r"m\.data-00000-of-00001 ends before its tensor"):
        TensorBundle.open(index)
    shard.unlink()
    with pytest.raises(WeightsError, match=r"m\.data-00000-of-00001 cannot be read .* one folder"):
        TensorBundle.open(index)


def test_paths_that_are_no_tables(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"its name ends in \.index"):
        TensorBundle.open(tmp_path / "model.ckpt")
    with pytest.raises(WeightsError, match="cannot be read"):
        TensorBundle.open(tmp_path / "model.index")


def test_kinds_that_cannot_be_read_do_not_hide_the_others(tmp_path: Path) -> None:
    rows = [
        (b"", header()),
        (b"labels", entry(STRING, (2,), 16, 9, CRC)),
        (b"sliced", entry(1, (4,), 0, 0, CRC, extra=varint(7 * 8 + 2) + varint(0))),
        (b"x", entry(1, (4,), 0, 16, CRC)),
    ]
    with TensorBundle.open(_index(tmp_path, table(rows))) as bundle:
        assert np.array_equal(bundle.read("x"), np.zeros(4))
        with pytest.raises(WeightsError, match="labels in a type of numbers"):
            bundle.read("labels")
        with pytest.raises(WeightsError, match="sliced in slices"):
            bundle.read("sliced")
        with pytest.raises(WeightsError, match="no tensor y"):
            bundle.read("y")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("model.ckpt-180000.index", True),
        ("model.ckpt-180000.data-00000-of-00001", True),
        ("model.ckpt-180000.meta", False),
        ("checkpoint", False),
        ("model.data-0-of-1", False),
        ("model.index.html", False),
    ],
)
def test_which_files_belong_to_a_bundle(name: str, expected: bool) -> None:
    assert is_part(name) == expected
