"""Reading pickles without running them: what is refused, and that nothing happened meanwhile."""

from __future__ import annotations

import argparse
import builtins
import io
import os
import pickle
import pickletools
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models.errors import WeightsError
from models.stylegan.checkpoints import read_generator
from models.stylegan.pickles import Record, module_tensors, read_pkl, read_pt, tensor_of
from tests.stylegan_support import persistent_module, write_nvidia_pickle


class Runs:
    """Unpickling this calls `function(*arguments)`."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


def payloads(proof: Path) -> dict[str, Any]:
    """Objects that would leave the file `proof` behind if they were unpickled."""
    touch = f"touch {proof}"
    written = f"__import__('pathlib').Path({str(proof)!r}).touch()"
    return {
        "os.system": Runs(os.system, touch),
        "builtins.eval": Runs(builtins.eval, written),
        "builtins.exec": Runs(builtins.exec, written),
        "builtins.open": Runs(builtins.open, str(proof), "w"),
        "a method": Runs(Path.touch, proof),
        "import": Runs(__import__, "antigravity"),
        "getattr": Runs(getattr, Path, "touch"),
        "torch.load": Runs(torch.load, str(proof)),
        "numpy.load": Runs(np.load, str(proof), None, True),
    }


PAYLOADS = pytest.mark.parametrize("payload", list(payloads(Path("x"))))


def nested(evil: Any) -> dict[str, Any]:
    """Where a good checkpoint has a harmless value deep inside."""
    return {"g_ema": {"conv1.bias": torch.ones(2)}, "args": [{"deep": [(1, {"x": evil})]}]}


@PAYLOADS
@pytest.mark.parametrize("place", [lambda evil: evil, nested], ids=["alone", "nested"])
@pytest.mark.parametrize("suffix", [".pt", ".pkl"])
def test_code_is_never_run(
    tmp_path: Path, payload: str, place: Callable[[Any], Any], suffix: str
) -> None:
    path, proof = tmp_path / f"evil{suffix}", tmp_path / "proof"
    content = place(payloads(proof)[payload])
    if suffix == ".pt":
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content))
    before = set(tmp_path.iterdir())
    with pytest.raises(WeightsError, match=r"evil\..* (could run code|is damaged)"):
        read_generator(path)
    assert set(tmp_path.iterdir()) == before


@PAYLOADS
def test_code_hidden_in_a_module_of_nvidias_is_never_run(tmp_path: Path, payload: str) -> None:
    proof = tmp_path / "proof"
    module = persistent_module({"a.weight": torch.ones(2)}, "Generator")
    module.meta["state"]["_forward_hooks"]["x"] = payloads(proof)[payload]
    path = write_nvidia_pickle(tmp_path / "evil.pkl", {"G_ema": module})
    with pytest.raises(WeightsError, match="could run code; it was not opened"):
        read_generator(path)
    assert not proof.exists()


@PAYLOADS
def test_code_hidden_in_a_storage_is_never_run(tmp_path: Path, payload: str) -> None:
    """The inner torch.save blob of a tensor is a pickle, too."""
    proof = tmp_path / "proof"
    blob = io.BytesIO()
    torch.save(payloads(proof)[payload], blob)
    inner = type("R", (Record,), {"origin": "torch.storage._load_from_bytes"})(blob.getvalue())
    outer = type("R", (Record,), {"origin": "torch._utils._rebuild_tensor_v2"})
    with pytest.raises(Exception, match=r"[Ww]eights"):
        tensor_of(outer(inner, 0, (1,), (1,)))
    assert not proof.exists()


# ------------------------------------------------------------------- what good files come back as


def test_pt_files_with_training_options_are_read(tmp_path: Path) -> None:
    options = argparse.Namespace(size=64, nested=argparse.Namespace(lr=0.1), names=["a"])
    content = {"w": torch.arange(6.0).view(2, 3), "opts": options, "steps": 3, "none": None}
    for zipped in (True, False):
        torch.save(content, tmp_path / "x.pt", _use_new_zipfile_serialization=zipped)
        read = read_pt(tmp_path / "x.pt")
        assert torch.equal(read["w"], content["w"])
        assert read["opts"] == options
        assert (read["steps"], read["none"]) == (3, None)


def test_the_allow_list_of_torch_is_as_before(tmp_path: Path) -> None:
    torch.save({"opts": argparse.Namespace(a=1)}, tmp_path / "x.pt")
    before = torch.serialization.get_safe_globals()
    read_pt(tmp_path / "x.pt")
    assert set(torch.serialization.get_safe_globals()) == set(before)  # in any order


def test_nvidia_modules_come_back_bit_by_bit(tmp_path: Path) -> None:
    torch.manual_seed(0)
    tensors = {
        "weight": torch.randn(3, 4).T,  # with strides
        "w_avg": torch.randn(5),
        "b4.conv1.weight": torch.randn(2, 3, 3, 3).to(torch.float16),
        "b4.conv1.noise_strength": torch.tensor(0.25),
        "b4.empty.bias": torch.zeros(0),
    }
    path = write_nvidia_pickle(tmp_path / "x.pkl", persistent_module(tensors, "Net"))
    read = module_tensors(read_pkl(path), path.stat().st_size)
    assert read.keys() == tensors.keys()
    for key, tensor in tensors.items():
        assert read[key].dtype == tensor.dtype
        assert torch.equal(read[key], tensor), key


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6, dtype="<f4").reshape(2, 3),
        np.arange(6, dtype=">f4").reshape(2, 3),
        np.asfortranarray(np.arange(6, dtype="<f8").reshape(2, 3)),
        np.array(0.5, np.float32),
        np.float32(0.5),
        np.arange(3),
    ],
)
def test_numpy_arrays_come_back(tmp_path: Path, array: Any) -> None:
    path = tmp_path / "x.pkl"
    path.write_bytes(pickle.dumps(array, protocol=4))
    read = tensor_of(read_pkl(path)).numpy()
    assert read.shape == array.shape
    assert np.array_equal(read, array)


# --------------------------------------------------------------------------- damage and falsehood


def _pt_bytes() -> bytes:
    stream = io.BytesIO()
    torch.save({"w": torch.randn(1000)}, stream)
    return stream.getvalue()


def _zip_bomb() -> bytes:
    stream = io.BytesIO()
    good = zipfile.ZipFile(io.BytesIO(_pt_bytes()))
    with good, zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as bomb:
        for entry in good.infolist():
            content = good.read(entry)
            bomb.writestr(entry.filename, content if b"\x80" in content[:1] else b"\0" * 10**7)
    return stream.getvalue()


def _memo_bomb() -> bytes:
    """ "Remember this under number 2^32 - 1": 64 GB of table, were it obeyed."""
    return b"\x80\x02}r" + struct.pack("<I", 2**32 - 1) + b"."


def _length_bomb() -> bytes:
    """ "Here come 2^50 bytes":"""
    return b"\x80\x04" + pickle.BINBYTES8 + struct.pack("<Q", 2**50) + b"x."


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("x.pt", b"", "is empty"),
        ("x.pkl", b"", "is empty"),
        ("x.pt", _pt_bytes()[:-100], "is damaged"),
        ("x.pt", _pt_bytes()[:100], "is damaged"),
        ("x.pt", b"<html>404 not found</html>" * 9, "is damaged"),
        ("x.pkl", b"<html>404 not found</html>" * 9, "is damaged"),
        ("x.pkl", pickle.dumps({"G_ema": list(range(999))})[:-50], "is damaged"),
        ("x.pkl", b"\x80\x05", "is damaged"),
        ("x.pt", _zip_bomb(), "compressed archive"),
        ("x.pkl", _memo_bomb(), "is damaged"),
        ("x.pkl", _length_bomb(), "is damaged"),
        ("x.pkl", pickle.dumps(None, protocol=2)[:-1] + b"Q.", "is damaged"),  # BINPERSID
        ("x.pkl", b"\x80\x02\x82\x01.", "is damaged"),  # EXT1
        ("x.pkl", b"\x80\x04" + b"]" * 10**6 + b".", "is damaged"),
        ("x.pt", None, "is not in"),
        ("x.pkl", None, "is not in"),
    ],
)
def test_damaged_files_are_refused_with_a_sentence(
    tmp_path: Path, name: str, content: bytes | None, sentence: str
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(WeightsError, match=rf"^{name} .*{sentence}.*\.$"):
        read_generator(path)


def test_large_files_are_refused_before_they_are_read(tmp_path: Path) -> None:
    for name in ("x.pt", "x.pkl"):
        with (tmp_path / name).open("wb") as stream:
            stream.truncate(5 * 10**9)  # sparse: occupies nothing
        with pytest.raises(WeightsError, match=r"has 5,000 MB, more than the 4,000 MB allowed"):
            read_generator(tmp_path / name)


def _record(origin: str, *arguments: Any) -> Any:
    return type("R", (Record,), {"origin": origin})(*arguments)


def _storage(count: int) -> Any:
    blob = io.BytesIO()
    storage = torch.arange(float(count))._typed_storage()
    torch.save(storage, blob, _use_new_zipfile_serialization=False)
    return _record("torch.storage._load_from_bytes", blob.getvalue())


@pytest.mark.parametrize(
    ("offset", "size", "stride"),
    [
        (0, (5,), (1,)),
        (3, (2,), (1,)),
        (-1, (2,), (1,)),
        (0, (2,), (-1,)),
        (0, (-2,), (1,)),
        (0, (10**12,), (0,)),
        (0, (2, 2), (2, 2)),
    ],
)
def test_tensors_reach_no_further_than_their_storage(
    offset: int, size: tuple[int, ...], stride: tuple[int, ...]
) -> None:
    tensor = _record("torch._utils._rebuild_tensor_v2", _storage(4), offset, size, stride)
    with pytest.raises(ValueError, match="larger than its storage"):
        tensor_of(tensor)


def test_modules_that_contain_themselves_end(tmp_path: Path) -> None:
    module = persistent_module({}, "Net")
    state = module.meta["state"]
    state["_modules"]["one"] = state["_modules"]["two"] = module
    with pytest.raises(WeightsError, match="is damaged"):
        read_generator(write_nvidia_pickle(tmp_path / "x.pkl", {"G_ema": module}))


def test_one_array_named_many_times_does_not_fill_the_memory(tmp_path: Path) -> None:
    tensor = torch.zeros(10**4)
    module = persistent_module({}, "Net")
    module.meta["state"]["_parameters"] = {str(i): tensor for i in range(100)}
    path = write_nvidia_pickle(tmp_path / "x.pkl", module)
    with pytest.raises(ValueError, match="larger than their file"):
        module_tensors(read_pkl(path), path.stat().st_size)


def test_a_pickle_cannot_change_what_the_next_one_meets(tmp_path: Path) -> None:
    """BUILD with a pair sets attributes, on classes too: here `origin` of the record's class."""
    code = b"\x80\x02ctorch._utils\n_rebuild_parameter\nN}U\x06originU\x04eviltr\x86b."
    path = tmp_path / "x.pkl"
    for step in (code, code.replace(b"tr\x86b", b"s\x86b")):
        path.write_bytes(step)
        with pytest.raises(WeightsError):
            read_generator(path)
    path.write_bytes(b"\x80\x02ctorch._utils\n_rebuild_parameter\nK\x01\x85R.")
    record = read_pkl(path)
    assert record.origin == "torch._utils._rebuild_parameter"
    assert Record.origin == ""
    assert [step.name for step, *_ in pickletools.genops(path.read_bytes())][-2] == "REDUCE"
