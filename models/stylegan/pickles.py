"""Reads tensors out of pickled checkpoints without running any of their code.

A pickle is a program: the classes and functions it names are called while it loads. Two readers
here name what may be called, refuse the rest, and trust no number in the file:

- `read_pt`: what `torch.save` writes (rosinality, e4e, lucidrains). `torch.load` itself, with
  `weights_only=True` and one class more, argparse's Namespace, in which training options lie.
- `read_pkl`: NVIDIA's bare pickles. They carry the source text of their modules and a function that
  would execute it. Every global becomes an inert `Record` of its arguments and state; tensors and
  arrays are made from the records afterwards, by `tensor_of`.
"""

from __future__ import annotations

import argparse
import io
import math
import mmap
import pickle
import pickletools
import re
import threading
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.errors import WeightsError
from models.weights import MB

MAX_BYTES = 4 * 10**9  # NVIDIA's largest snapshot has 0.4 GB, an e4e checkpoint 1.2 GB
MAX_STEPS = 10**6  # of a pickle; a snapshot with optimiser state has some 10^5
MAX_MODULES = 10_000
HARMLESS = ", which could run code; it was not opened, use a file from a source you trust"

# torch's list of allowed classes is one per process: readers in two threads must take turns.
_ALLOW_LIST = threading.Lock()


def _refusal(path: Path, why: str) -> WeightsError:
    return WeightsError(f"{path.name} {why}.")


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turns what reading a damaged or hostile file raises into a WeightsError of one sentence."""
    try:
        yield
    except WeightsError:
        raise
    except (Exception, RecursionError) as error:
        forbidden = re.search(r"GLOBAL ([\w.]+)", str(error))
        if forbidden is not None:
            raise _refusal(path, f"asks for {forbidden.group(1)}{HARMLESS}") from None
        raise _refusal(
            path,
            f"is damaged or no checkpoint ({type(error).__name__}); download or copy it again",
        ) from error


def check_size(path: Path, max_bytes: int = MAX_BYTES) -> None:
    """Raises WeightsError when there is no such file, or it is empty or too large."""
    if not path.is_file():
        raise _refusal(path, f"is not in {path.parent}; check the path")
    size = path.stat().st_size
    if size == 0:
        raise _refusal(path, "is empty; download or copy it again")
    if size > max_bytes:
        raise _refusal(
            path,
            f"has {size / MB:,.0f} MB, more than the {max_bytes / MB:,.0f} MB allowed; use a smaller one",
        )


# ---------------------------------------------------------------------------------------- torch


def read_pt(path: Path, *, max_bytes: int = MAX_BYTES) -> Any:
    """What `torch.save` wrote: tensors (on the CPU), dicts, lists, numbers, texts, Namespaces.

    Raises:
        WeightsError: anything else is in it, it is damaged, or larger than `max_bytes`.
    """
    check_size(path, max_bytes)
    with explained(path):
        if zipfile.is_zipfile(path):
            _check_zip(path)
        with _ALLOW_LIST, torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)


def _check_zip(path: Path) -> None:
    """torch stores its arrays uncompressed: an archive that would unpack to more than its own size
    is a bomb."""
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    compressed = any(entry.compress_type != zipfile.ZIP_STORED for entry in entries)
    if compressed or sum(entry.file_size for entry in entries) > path.stat().st_size:
        raise _refusal(
            path, "is a compressed archive, which torch.save never writes; do not use it"
        )


# --------------------------------------------------------------------------------------- NVIDIA


class Record:
    """A call or an object that was not carried out: `origin`, "module.name"; what it was called
    with; the state it would have been given."""

    origin = ""
    args: tuple[Any, ...]
    state: Any

    def __new__(cls, *args: Any) -> Record:
        record = super().__new__(cls)
        record.args, record.state = args, None
        return record

    def __setstate__(self, state: Any) -> None:
        self.state = state


RECORDS = {
    "torch_utils.persistence._reconstruct_persistent_obj",
    "torch._utils._rebuild_parameter",
    "torch._utils._rebuild_tensor_v2",
    "torch.storage._load_from_bytes",
    "dnnlib.tflib.network.Network",
    *(
        f"{core}.multiarray.{name}"
        for core in ("numpy.core", "numpy._core")
        for name in ("scalar", "_reconstruct")
    ),
    "numpy.dtype",
    "numpy.ndarray",
}
CONTAINERS: Mapping[str, type] = {
    "collections.OrderedDict": dict,
    "dnnlib.util.EasyDict": dict,
    "builtins.set": set,
    "__builtin__.set": set,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        origin = f"{module}.{name}"
        if origin in CONTAINERS:
            return CONTAINERS[origin]
        if origin in RECORDS:
            # A class of its own for every use: a pickle that sets attributes on it reaches no other.
            return type("Record", (Record,), {"origin": origin})
        raise pickle.UnpicklingError(f"GLOBAL {origin}")

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError("persistent reference")


def read_pkl(path: Path, *, max_bytes: int = MAX_BYTES) -> Any:
    """A pickle of NVIDIA's: plain Python values and `Record`s.

    Raises:
        WeightsError: it names anything that is not in `RECORDS` or `CONTAINERS`, is damaged, or
        larger than `max_bytes`.
    """
    check_size(path, max_bytes)
    # A map clips reads at the end of the file; a stream would first allocate what is asked for.
    with (
        explained(path),
        path.open("rb") as stream,
        mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content,
    ):
        _check_steps(content)
        content.seek(0)
        return _Unpickler(content).load()


def _check_steps(content: Any) -> None:
    """Looks at the steps of a pickle without taking them: a step that stores under number 2^31
    makes the unpickler allocate a table of that size."""
    for count, (opcode, argument, _) in enumerate(pickletools.genops(content)):
        stores = opcode.name in ("PUT", "BINPUT", "LONG_BINPUT")
        if count > MAX_STEPS or (stores and int(argument or 0) > MAX_STEPS):
            raise pickle.UnpicklingError("too many steps")


def tensor_of(value: Any) -> Tensor:
    """The tensor that a record of torch or numpy stands for, on the CPU.

    Raises:
        ValueError: it stands for none, or its numbers contradict each other.
    """
    origin = value.origin if isinstance(value, Record) else ""
    if origin == "torch._utils._rebuild_parameter":
        return tensor_of(value.args[0])
    if origin == "torch._utils._rebuild_tensor_v2":
        return _torch_tensor(*value.args[:4])
    if origin.endswith("multiarray._reconstruct"):
        return torch.from_numpy(_numpy_array(*value.state[1:]))
    if origin.endswith("multiarray.scalar"):
        return torch.tensor(np.frombuffer(value.args[1], _dtype(value.args[0]), 1)[0].item())
    if isinstance(value, (int, float)):
        return torch.tensor(float(value))
    raise ValueError("no tensor")


def _torch_tensor(storage: Any, offset: int, size: Any, stride: Any) -> Tensor:
    if not isinstance(storage, Record) or storage.origin != "torch.storage._load_from_bytes":
        raise ValueError("no storage")
    loaded = torch.load(io.BytesIO(storage.args[0]), map_location="cpu", weights_only=True)
    numbers = torch.empty(0, dtype=loaded.dtype).set_(loaded)  # (N,)
    last = offset + sum((n - 1) * step for n, step in zip(size, stride))
    if min(offset, *size, *stride, 0) < 0 or not last < len(numbers) >= math.prod(size):
        raise ValueError("a tensor larger than its storage")
    return numbers.as_strided(tuple(size), tuple(stride), offset).clone()


def _dtype(record: Any) -> np.dtype[Any]:
    """Numbers only: "f4", "<f4", "i8", ...; the byte order lies in the record's state."""
    text = str(record.args[0])
    order = str(record.state[1]) if record.state else "="
    if record.origin != "numpy.dtype" or not re.fullmatch(r"[<>=|]?[fiub][1248]", text):
        raise ValueError(f"numpy type {text}")
    dtype = np.dtype(text)
    return dtype.newbyteorder(">") if order == ">" else dtype


def _numpy_array(shape: Any, dtype: Any, by_columns: bool, raw: bytes) -> np.ndarray[Any, Any]:
    flat = np.frombuffer(raw, _dtype(dtype))
    array = flat.reshape(tuple(shape), order="F" if by_columns else "C")
    return array.astype(array.dtype.newbyteorder("="), order="C")  # a copy of our own


def module_tensors(record: Any, max_bytes: int) -> dict[str, Tensor]:
    """Parameters and buffers of a pickled persistent module, as its `state_dict` would have them.

    Args:
        max_bytes: of all tensors together; what refers to one array many times must not unpack to
            more than its file.

    Raises:
        ValueError: it is no such module, too large, or a tensor in it is broken.
    """
    tensors: dict[str, Tensor] = {}
    waiting = [("", record)]
    for _ in range(MAX_MODULES):
        if not waiting:
            return tensors
        prefix, module = waiting.pop()
        state = module_state(module)
        for name, value in [*state["_parameters"].items(), *state["_buffers"].items()]:
            if value is not None:
                tensor = tensors[f"{prefix}{name}"] = tensor_of(value)
                max_bytes -= tensor.nbytes
            if max_bytes < 0:
                raise ValueError("tensors larger than their file")
        waiting += [(f"{prefix}{name}.", child) for name, child in state["_modules"].items()]
    raise ValueError("too many modules")


def module_state(record: Any) -> dict[str, Any]:
    """The attributes of a pickled persistent module. Raises ValueError when it is none."""
    if not isinstance(record, Record) or not record.origin.endswith("_reconstruct_persistent_obj"):
        raise ValueError("no persistent module")
    state = record.args[0]["state"]
    if not isinstance(state, dict):
        raise ValueError("a module without state")
    return state
