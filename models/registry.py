"""Leases on models: loaded once, pinned while used, evicted by measured bytes.

    registry = Registry(CATALOG, device="auto")
    with registry.lease("clip-mini") as clip:
        clip.encode_text(["a red apple"])

One lock guards the table of slots and is never held while a model loads: the thread that creates
a slot loads, every other thread waits for that slot's future, other models stay available.
"""

from __future__ import annotations

import gc
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Generator, Iterable, Mapping
from concurrent.futures import Future, wait
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import psutil
import torch
from torch import nn

from models.catalog import LoadContext, ModelRow, row_of
from models.errors import AtelierError, DeviceError, WeightsError
from models.jobs import Job
from models.weights import MB, Embedded, Report

T = TypeVar("T")

# Share of the memory free at start that models may fill; activations and the app need the rest.
BUDGET_SHARE = 0.6


@dataclass(frozen=True)
class ModelStatus:
    """One model for the badge. `state` is "unloaded", "loading", "ready" or "in use"; `bytes` is
    measured; `last_used` is seconds since the epoch, None before the first use; `fraction` and
    `message` tell how far a load has come."""

    name: str
    state: str
    device: str
    bytes: int = 0
    last_used: float | None = None
    load_seconds: float | None = None
    fraction: float = 0.0
    message: str = ""


@dataclass
class _Slot:
    """A model that is loaded or loading."""

    future: Future[Any] = field(default_factory=Future)
    leases: int = 0
    bytes: int = 0
    last_used: float | None = None
    load_seconds: float | None = None
    fraction: float = 0.0
    message: str = ""
    unwanted: bool = False  # unload() was called while leased


class Registry:
    """Lends the models of a catalogue on one device. All methods may be called by any thread.

    Args:
        catalog: rows by name.
        device: "auto" (cuda, else mps, else cpu), "cpu", "cuda", "cuda:1", "mps".
        budget_bytes: memory that loaded models may fill together (VRAM on cuda, else RAM); None is
            60% of what is free now. Leased models are never evicted, so leases may exceed it.
        offline: never download.
        cache: folder of downloads; None is the user's cache folder.
        eager: load every embedded model now; None is "on ZeroGPU", where functions run in a
            forked child and only what was on the GPU before the fork is shared.

    Raises:
        DeviceError: the device is absent.
    """

    def __init__(
        self,
        catalog: Mapping[str, ModelRow],
        *,
        device: str = "auto",
        budget_bytes: int | None = None,
        offline: bool = False,
        cache: Path | None = None,
        eager: bool | None = None,
    ) -> None:
        zero_gpu = os.environ.get("SPACES_ZERO_GPU", "").lower() not in ("", "0", "false")
        # On ZeroGPU "cuda" is right although no GPU is there before the first call.
        on_zero = zero_gpu and device == "auto"
        self.device = torch.device("cuda") if on_zero else pick_device(device)
        self.budget_bytes = budget_bytes or default_budget(self.device)
        self._catalog = catalog
        self._offline = offline
        self._cache = cache
        self._lock = threading.Lock()
        self._slots: OrderedDict[str, _Slot] = OrderedDict()  # least recently used first
        self._measured: dict[str, int] = {}
        if on_zero if eager is None else eager:
            self.preload(n for n, row in catalog.items() if isinstance(row.source, Embedded))

    @property
    def catalog(self) -> Mapping[str, ModelRow]:
        """The models it lends, by name."""
        return self._catalog

    @contextmanager
    def lease(self, name: str, report: Report | None = None) -> Generator[Any, None, None]:
        """Lends the model, loading it first if need be; it stays loaded until the block ends.

        `report(fraction, message)` hears of the load if this call is the one that loads.

        Raises:
            InputError: no such model. WeightsError, OfflineError, DeviceError: it cannot be
            loaded; nothing is kept, the next call tries again.
        """
        row = row_of(self._catalog, name)
        with self._lock:
            slot, mine = self._slots.get(name), False
            if slot is None:
                slot, mine = self._slots.setdefault(name, _Slot()), True
            slot.leases += 1  # pinned from now on, also while it loads
            self._slots.move_to_end(name)
        try:
            if mine:
                self._load(row, slot, report)
            yield _result(slot.future)
        finally:
            self._release(name, slot)

    def job(self, name: str, work: Callable[[Any], Job[T]]) -> Job[T]:
        """The job `work(model)` under a lease, started over once with more memory if it runs out.

        Raises as `lease`; DeviceError: memory ran out again.
        """
        for _ in range(2):
            try:
                with self.lease(name) as model:
                    return (yield from work(model))
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
            self._evict_all_idle()
        raise self._used_up()

    def _evict_all_idle(self) -> None:
        """Evict every model that nobody leases."""
        self._evict_idle(lambda: True)
        _free_memory(self.device)

    def retrying(self, work: Callable[[], T]) -> T:
        """`work()`; if memory runs out, evicts every model not leased and tries once more.

        Raises:
            DeviceError: memory ran out again.
        """
        for _ in range(2):
            try:
                return work()
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
            # Outside the except block: the traceback, which holds half-built tensors, is gone.
            self._evict_all_idle()
        raise self._used_up()

    def _used_up(self) -> DeviceError:
        return DeviceError(
            f"The memory of {self.device} is used up; choose a smaller model or picture, close "
            "other programs, or start with --device cpu."
        )

    def preload(self, names: Iterable[str]) -> None:
        """Loads the models now, one after the other. Raises as `lease`."""
        for name in names:
            with self.lease(name):
                pass

    def loading(self, name: str, every_s: float = 0.1) -> Generator[tuple[float, str], None, None]:
        """Loads in the background and yields (fraction, message) until it is done.

        For jobs, which must keep yielding to be stoppable: closing this generator stops the
        waiting, the load goes on for whoever comes next. Yields nothing for a loaded model.
        Raises as `lease`.
        """
        with self._lock:
            slot = self._slots.get(name)
        if slot is not None and slot.future.done():
            return
        done: Future[None] = Future()

        def load() -> None:
            try:
                self.preload([name])
                done.set_result(None)
            except BaseException as error:
                done.set_exception(error)

        threading.Thread(target=load, name=f"load-{name}", daemon=True).start()
        while not wait([done], timeout=every_s).done:
            with self._lock:
                slot = self._slots.get(name)
            if slot is not None:
                yield slot.fraction, slot.message
        done.result()

    def unload(self, name: str) -> bool:
        """Drops the model; True if its memory is free now, False if it is leased (or still
        loading) and goes when the last lease ends. Raises InputError for an unknown name."""
        row_of(self._catalog, name)
        with self._lock:
            slot = self._slots.get(name)
            if slot is not None and slot.leases:
                slot.unwanted = True
                return False
            self._slots.pop(name, None)
        del slot
        _free_memory(self.device)
        return True

    def status(self) -> list[ModelStatus]:
        """Every model of the catalogue, in its order."""
        with self._lock:
            return [self._status(name, self._slots.get(name)) for name in self._catalog]

    def _status(self, name: str, slot: _Slot | None) -> ModelStatus:
        if slot is None:
            return ModelStatus(name, "unloaded", str(self.device))
        loaded = "in use" if slot.leases else "ready"
        return ModelStatus(
            name=name,
            state=loaded if slot.future.done() else "loading",
            device=str(self.device),
            bytes=slot.bytes,
            last_used=slot.last_used,
            load_seconds=slot.load_seconds,
            fraction=slot.fraction,
            message=slot.message,
        )

    def _load(self, row: ModelRow, slot: _Slot, report: Report | None) -> None:
        """Resolves the slot's future with the model or the error; a failed slot is removed."""

        def relay(fraction: float, message: str) -> None:
            slot.fraction, slot.message = fraction, message
            if report is not None:
                report(fraction, message)

        started = time.perf_counter()
        half = row.half and self.device.type == "cuda"  # slower than float32 on a CPU, risky on MPS
        context = LoadContext(
            device=self.device,
            dtype=torch.float16 if half else torch.float32,
            offline=self._offline,
            report=relay,
            cache=self._cache,
        )
        try:
            self._make_room(row, row.bytes // 2 if half else row.bytes)
            model = self.retrying(lambda: row.load(row, context))
            slot.bytes = self._measured[row.name] = measured_bytes(model)
        except BaseException as error:
            with self._lock:
                del self._slots[row.name]
            slot.future.set_exception(_explained(row, error))
            if not isinstance(error, Exception):  # KeyboardInterrupt, GeneratorExit: of this thread
                raise
            return
        slot.load_seconds = time.perf_counter() - started
        slot.future.set_result(model)
        self._shrink()

    def _make_room(self, row: ModelRow, estimate: int) -> None:
        need = self._measured.get(row.name, estimate)
        if need > self.budget_bytes:
            raise DeviceError(
                f"{row.title} needs about {need / MB:,.0f} MB and the memory budget is "
                f"{self.budget_bytes / MB:,.0f} MB; raise --memory-budget or choose a smaller model."
            )
        self._shrink(need)

    def _shrink(self, need: int = 0) -> None:
        """Evicts least recently used models until `need` more bytes fit into the budget."""
        self._evict_idle(
            lambda: need + sum(s.bytes for s in self._slots.values()) > self.budget_bytes
        )

    def _evict_idle(self, too_full: Callable[[], bool]) -> None:
        evicted = False
        with self._lock:
            for name in [name for name, slot in self._slots.items() if not slot.leases]:
                if not too_full():
                    break
                del self._slots[name]
                evicted = True
        if evicted:
            _free_memory(self.device)

    def _release(self, name: str, slot: _Slot) -> None:
        with self._lock:
            slot.leases -= 1
            slot.last_used = time.time()
            if self._slots.get(name) is not slot:  # its load failed
                return
            self._slots.move_to_end(name)
            drop = slot.unwanted and not slot.leases
            if drop:
                del self._slots[name]
        if drop:
            del slot
            _free_memory(self.device)
        else:
            self._shrink()


def pick_device(name: str) -> torch.device:
    """The device called `name`; "auto" takes cuda, else mps, else cpu.

    Raises DeviceError when this machine has no such device.
    """
    present = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if name == "auto":
        return torch.device(next(kind for kind, here in present.items() if here))
    try:
        device = torch.device(name)
    except RuntimeError:
        raise DeviceError(f'"{name}" is no device; use auto, cpu, cuda or mps.') from None
    absent = not present.get(device.type, False)
    if absent or (device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count()):
        here = ", ".join(kind for kind, is_here in present.items() if is_here)
        raise DeviceError(f'This machine has no "{name}"; use --device auto, or one of: {here}.')
    return device


def default_budget(device: torch.device) -> int:
    """Bytes that models may fill: 60% of what is free on the device now."""
    if device.type == "cuda":
        try:
            return int(torch.cuda.mem_get_info(device)[0] * BUDGET_SHARE)
        except (
            RuntimeError,
            AssertionError,
        ):  # ZeroGPU: there is no GPU yet while the models are placed
            pass
    return int(psutil.virtual_memory().available * BUDGET_SHARE)


def measured_bytes(model: Any) -> int:
    """Bytes a loaded model holds: its own `nbytes()`, else all parameters and buffers of it (an
    `nn.Module`) or of its `.model`."""
    if callable(getattr(model, "nbytes", None)):
        return int(model.nbytes())
    module = model if isinstance(model, nn.Module) else getattr(model, "model", None)
    if not isinstance(module, nn.Module):
        raise TypeError(f"{type(model).__name__} is no nn.Module and has no nbytes()")
    return sum(t.nbytes for t in (*module.parameters(), *module.buffers()))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error` says that RAM or VRAM ran out, in any of torch's spellings."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    # torch's CPU allocator and MPS raise a plain RuntimeError.
    phrases = ("out of memory", "can't allocate memory", "not enough memory")
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(phrase in text for phrase in phrases)


def _explained(row: ModelRow, error: BaseException) -> AtelierError:
    if isinstance(error, AtelierError):
        return error
    if not isinstance(error, Exception):
        return WeightsError(f"Loading {row.title} was stopped; try again.")
    explained = WeightsError(
        f"{row.title} could not be loaded ({type(error).__name__}: {str(error)[:200]}); its files "
        "do not fit this version, install CLIP Atelier again or choose another model."
    )
    explained.__cause__ = error
    return explained


def _result(future: Future[Any]) -> Any:
    """The model; or a copy of the error, as threads must not share one traceback."""
    error = future.exception()
    if error is None:
        return future.result()
    own = copy(error)
    raise own.with_traceback(None) from error.__cause__


def _free_memory(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()
