"""The registry: one load however many ask, pins, eviction by measured bytes, honest failures."""

import gc
import os
import random
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from torch import nn

from models import registry as registry_module
from models.catalog import LoadContext, ModelRow
from models.errors import DeviceError, InputError, WeightsError
from models.jobs import Job, Step, run_to_end
from models.registry import Registry, measured_bytes, pick_device
from models.weights import Embedded, Hub, WeightFile

pytestmark = pytest.mark.usefixtures("quick_collections")

KB = 1000


class Fake:
    """A model of a given size that knows what it is called."""

    def __init__(self, name: str, size: int) -> None:
        self.name = name
        self._size = size

    def nbytes(self) -> int:
        return self._size


class Shelf:
    """A catalogue of fakes that counts loads; `before` may sleep or fail."""

    def __init__(
        self, sizes: dict[str, int], before: Callable[[str], None] = lambda n: None
    ) -> None:
        self.sizes = sizes
        self.before = before
        self.loads: list[str] = []
        self.placed: list[tuple[torch.device, torch.dtype]] = []
        self.rows = {name: self._row(name) for name in sizes}

    def _row(self, name: str, **changes: Any) -> ModelRow:
        fields: dict[str, Any] = {
            "name": name,
            "title": f"Model {name}",
            "task": "clip",
            "family": "mini",
            "preset": name,
            "source": Embedded(Path(".")),
            "files": (WeightFile("model.safetensors", 0, ""),),
            "licence": "MIT",
            "knows": "nothing",
            "load": self._load,
        }
        return ModelRow(**{**fields, **changes})

    def _load(self, row: ModelRow, context: LoadContext) -> Any:
        self.loads.append(row.name)
        self.placed.append((context.device, context.dtype))
        context.report(0.5, f"half of {row.name}")
        self.before(row.name)
        return Fake(row.name, self.sizes[row.name])

    def registry(self, **options: Any) -> Registry:
        return Registry(self.rows, **{"device": "cpu", **options})


def states(registry: Registry) -> dict[str, str]:
    return {status.name: status.state for status in registry.status()}


def loaded(registry: Registry) -> set[str]:
    return {name for name, state in states(registry).items() if state != "unloaded"}


# --------------------------------------------------------------------------------- concurrency


def test_forty_threads_one_load() -> None:
    shelf = Shelf({"a": 10}, before=lambda name: time.sleep(0.2))
    registry = shelf.registry()
    together = threading.Barrier(40)

    def ask(_: int) -> int:
        together.wait()
        with registry.lease("a") as model:
            return id(model)

    with ThreadPoolExecutor(40) as pool:
        models = set(pool.map(ask, range(40)))
    assert shelf.loads == ["a"]
    assert len(models) == 1
    assert states(registry) == {"a": "ready"}


def test_a_slow_load_does_not_hold_up_other_models() -> None:
    go_on = threading.Event()

    def wait_if_slow(name: str) -> None:
        if name == "slow":
            go_on.wait(10)

    shelf = Shelf({"slow": 1, "fast": 1}, before=wait_if_slow)
    registry = shelf.registry()
    thread = threading.Thread(target=registry.preload, args=(["slow"],))
    thread.start()
    try:
        with registry.lease("fast") as fast:
            assert fast.name == "fast"
            assert states(registry) == {"slow": "loading", "fast": "in use"}
    finally:
        go_on.set()
        thread.join()
    assert states(registry) == {"slow": "ready", "fast": "ready"}


def test_many_threads_over_six_models_never_see_a_wrong_or_evicted_one() -> None:
    shelf = Shelf(dict.fromkeys("abcdef", 10 * KB))
    registry = shelf.registry(budget_bytes=25 * KB)

    def use(seed: int) -> None:
        for name in random.Random(seed).choices("abcdef", k=5):
            with registry.lease(name) as model:
                assert model.name == name
                assert states(registry)[name] == "in use"

    with ThreadPoolExecutor(20) as pool:
        list(pool.map(use, range(20)))
    assert sum(status.bytes for status in registry.status()) <= 25 * KB


# ------------------------------------------------------------------------------------ eviction


@pytest.mark.parametrize(
    ("sizes", "budget", "asked", "kept", "loads"),
    [
        # (bytes of each, budget, order of use, loaded at the end, loads)
        ({"a": 1, "b": 1, "c": 1}, 3, "abc", "abc", 3),
        ({"a": 1, "b": 1, "c": 1}, 2, "abc", "bc", 3),  # a was used least recently
        ({"a": 1, "b": 1, "c": 1}, 2, "abac", "ac", 3),  # using a again saves it
        ({"a": 1, "b": 1, "c": 1}, 2, "abca", "ac", 4),  # a is loaded a second time
        ({"a": 1, "b": 2, "c": 3}, 4, "abc", "c", 3),  # both must go
        ({"a": 3, "b": 1, "c": 1}, 4, "abc", "bc", 3),  # by bytes, not by number
        ({"a": 1, "b": 1, "c": 9}, 4, "abc", "c", 3),  # too big is found out by measuring: alone
        ({"a": 1, "b": 1, "c": 9}, 4, "abca", "a", 4),
    ],
)
def test_least_recently_used_goes_first(
    sizes: dict[str, int], budget: int, asked: str, kept: str, loads: int
) -> None:
    shelf = Shelf(sizes)
    registry = shelf.registry(budget_bytes=budget)
    for name in asked:
        with registry.lease(name):
            pass
    # A single model above the budget is let go as soon as nobody uses it.
    expected = set(kept) if sum(sizes[n] for n in kept) <= budget else set()
    assert loaded(registry) == expected
    assert len(shelf.loads) == loads


def test_room_is_made_before_a_load_whose_size_is_known() -> None:
    seen: list[set[str]] = []
    shelf = Shelf({"a": 2, "b": 2}, before=lambda name: seen.append(loaded(registry)))
    registry = shelf.registry(budget_bytes=3)
    registry.preload("abab")
    # The first load of b had to measure; from then on the old one leaves before the new one comes.
    assert seen == [{"a"}, {"a", "b"}, {"a"}, {"b"}]


def test_leased_models_stay_even_over_budget() -> None:
    registry = Shelf({"a": 2, "b": 2, "c": 2}).registry(budget_bytes=4)
    with registry.lease("a") as a, registry.lease("b"):
        with registry.lease("c"):
            assert loaded(registry) == {"a", "b", "c"}
        assert loaded(registry) == {"a", "b"}  # c leaves with its lease
        with registry.lease("a") as again:
            assert again is a
        assert states(registry)["a"] == "in use"  # pinned until the last lease ends
    assert loaded(registry) == {"a", "b"}


def test_a_long_lease_counts_as_used_until_its_end() -> None:
    registry = Shelf({"a": 1, "b": 1, "c": 1}).registry(budget_bytes=2)
    with registry.lease("a"):
        registry.preload("b")
    registry.preload("c")
    assert loaded(registry) == {"a", "c"}


def test_a_model_that_can_never_fit_is_refused_before_loading() -> None:
    shelf = Shelf({"a": 5 * 10**6})
    shelf.rows["a"] = shelf._row("a", files=(WeightFile("m.safetensors", 5 * 10**6, ""),))
    registry = shelf.registry(budget_bytes=10**6)
    with pytest.raises(DeviceError, match=r"needs about 5 MB and the memory budget is 1 MB; raise"):
        registry.preload("a")
    assert shelf.loads == []


def test_evicted_models_are_really_gone() -> None:
    registry = Shelf({"a": 1, "b": 1}).registry(budget_bytes=1)
    with registry.lease("a") as a:
        gone = weakref.ref(a)
    del a
    with registry.lease("b"):
        assert gone() is None


def test_two_hundred_random_swaps_do_not_grow() -> None:
    side = 700  # 2 MB of float32 each

    def load(row: ModelRow, context: LoadContext) -> nn.Module:
        return nn.Linear(side, side, device=context.device, dtype=context.dtype)

    names = [f"m{i}" for i in range(6)]
    rows = {n: Shelf({})._row(n, load=load) for n in names}
    registry = Registry(rows, device="cpu", budget_bytes=3 * 4 * (side * side + side))
    order = random.Random(0).choices(names, k=200)
    process = psutil.Process(os.getpid())
    registry.preload(order[:20])
    gc.collect()
    before = process.memory_info().rss
    registry.preload(order[20:])
    gc.collect()
    assert process.memory_info().rss < before * 1.05
    assert len(loaded(registry)) == 3
    assert sum(type(o) is nn.Linear and o.in_features == side for o in gc.get_objects()) == 3


# ------------------------------------------------------------------------------------ failures


def _fails_first(times: int, error: Callable[[], Exception]) -> Callable[[str], None]:
    left = [times]

    def before(name: str) -> None:
        if left[0]:
            left[0] -= 1
            raise error()

    return before


def test_a_failed_load_leaves_no_trace_and_the_next_call_tries_again() -> None:
    shelf = Shelf({"a": 1}, before=_fails_first(1, lambda: WeightsError("Restore the file.")))
    registry = shelf.registry()
    with pytest.raises(WeightsError, match="Restore the file"):
        registry.preload("a")
    assert states(registry) == {"a": "unloaded"}
    with registry.lease("a") as model:
        assert model.name == "a"
    assert shelf.loads == ["a", "a"]


def test_everyone_who_waits_gets_the_error_and_not_a_shared_one() -> None:
    def fail(name: str) -> None:
        time.sleep(0.2)
        raise WeightsError("Restore the file.")

    shelf = Shelf({"a": 1}, before=fail)
    registry = shelf.registry()
    together = threading.Barrier(20)

    def ask(_: int) -> WeightsError:
        together.wait()
        with pytest.raises(WeightsError, match="Restore the file") as caught:
            registry.preload("a")
        return caught.value

    with ThreadPoolExecutor(20) as pool:
        errors = list(pool.map(ask, range(20)))
    assert len({id(error) for error in errors}) == 20
    assert shelf.loads == ["a"]


def test_an_unexpected_error_becomes_a_sentence_with_its_cause() -> None:
    shelf = Shelf({"a": 1}, before=_fails_first(1, lambda: KeyError("visual.proj")))
    with pytest.raises(WeightsError, match=r"Model a could not be loaded \(KeyError") as caught:
        shelf.registry().preload("a")
    assert isinstance(caught.value.__cause__, KeyError)


def test_a_stopped_load_leaves_no_trace() -> None:
    shelf = Shelf({"a": 1})
    registry = shelf.registry()

    def stop(fraction: float, message: str) -> None:
        raise GeneratorExit

    with pytest.raises(GeneratorExit), registry.lease("a", report=stop):
        pass
    assert states(registry) == {"a": "unloaded"}


def test_an_unknown_name_lists_the_choices() -> None:
    registry = Shelf({"a": 1, "b": 1}).registry()
    for call in (registry.lease("z").__enter__, lambda: registry.unload("z")):
        with pytest.raises(InputError, match='no model "z"; choose one of a, b'):
            call()


def test_what_cannot_be_measured_is_refused() -> None:
    shelf = Shelf({"a": 1})
    shelf.rows["a"] = shelf._row("a", load=lambda row, context: object())
    with pytest.raises(WeightsError, match="no nbytes"):
        shelf.registry().preload("a")


# ------------------------------------------------------------------------------- out of memory

OUT_OF_MEMORY = [
    lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
    lambda: RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)"),
    lambda: RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 B"),
    lambda: MemoryError(),
]


@pytest.mark.parametrize("error", OUT_OF_MEMORY)
def test_out_of_memory_evicts_all_idle_models_and_tries_once_more(
    error: Callable[[], Exception],
) -> None:
    shelf = Shelf({"pinned": 1, "idle": 1, "other": 1, "big": 1})
    registry = shelf.registry()
    registry.preload(["idle", "other"])
    with registry.lease("pinned"):
        shelf.before = _fails_first(1, error)
        with registry.lease("big") as big:
            assert big.name == "big"
            assert loaded(registry) == {"pinned", "big"}
    assert shelf.loads.count("big") == 2


@pytest.mark.parametrize("error", OUT_OF_MEMORY)
def test_out_of_memory_twice_is_a_sentence_and_leaves_no_trace(
    error: Callable[[], Exception],
) -> None:
    shelf = Shelf({"big": 1}, before=_fails_first(2, error))
    registry = shelf.registry()
    with pytest.raises(DeviceError, match=r"memory of cpu is used up; choose a smaller model"):
        registry.preload(["big"])
    assert shelf.loads == ["big", "big"]
    assert states(registry) == {"big": "unloaded"}
    registry.preload(["big"])  # and it works once memory is back


def test_other_errors_are_not_tried_again() -> None:
    shelf = Shelf({"a": 1}, before=_fails_first(1, lambda: RuntimeError("shape mismatch")))
    with pytest.raises(WeightsError, match="shape mismatch"):
        shelf.registry().preload("a")
    assert shelf.loads == ["a"]


def test_the_half_built_model_is_gone_before_the_second_try() -> None:
    halves: list[weakref.ref[Fake]] = []
    alive: list[bool] = []

    def load(row: ModelRow, context: LoadContext) -> Fake:
        alive.extend(ref() is not None for ref in halves)
        half = Fake("half", 1)
        halves.append(weakref.ref(half))
        if len(halves) == 1:
            raise MemoryError
        return half

    Registry({"a": Shelf({})._row("a", load=load)}, device="cpu").preload("a")
    assert alive == [False]


def test_a_job_starts_over_once_when_memory_runs_out_in_use() -> None:
    registry = Shelf({"a": 1, "idle": 1}).registry()
    registry.preload(["idle"])
    fail = _fails_first(1, MemoryError)

    def work(model: Fake) -> Job[str]:
        yield Step(0.5, "half")
        fail(model.name)
        return model.name

    def hopeless(model: Fake) -> Job[str]:
        yield Step(0.5, "half")
        raise MemoryError

    def wrong(model: Fake) -> Job[str]:
        yield Step(1 / 0, "never")
        return model.name

    assert run_to_end(registry.job("a", work)) == "a"
    assert loaded(registry) == {"a"}
    with pytest.raises(DeviceError, match="used up"):
        run_to_end(registry.job("a", hopeless))
    with pytest.raises(ZeroDivisionError):  # the user's own errors pass unchanged
        run_to_end(registry.job("a", wrong))
    assert [s.state for s in registry.status() if s.name == "a"] == ["ready"], "pinned no more"


# -------------------------------------------------------------- unload, status, loading, eager


def test_unload_waits_for_the_last_lease() -> None:
    registry = Shelf({"a": 1}).registry()
    assert registry.unload("a") is True  # not loaded: nothing to do
    with registry.lease("a"):
        assert registry.unload("a") is False
        assert states(registry) == {"a": "in use"}
    assert states(registry) == {"a": "unloaded"}
    registry.preload("a")
    assert registry.unload("a") is True
    assert states(registry) == {"a": "unloaded"}


def test_status_is_what_the_badge_shows() -> None:
    registry = Shelf({"a": 123, "b": 1}, before=lambda name: time.sleep(0.05)).registry()
    started = time.time()
    registry.preload("a")
    a, b = registry.status()
    assert (a.name, a.state, a.device, a.bytes) == ("a", "ready", "cpu", 123)
    assert a.last_used is not None
    assert started <= a.last_used <= time.time()
    assert a.load_seconds is not None
    assert 0.05 <= a.load_seconds < 5
    assert (b.state, b.bytes, b.last_used, b.load_seconds) == ("unloaded", 0, None, None)


def test_loading_streams_progress_and_then_the_lease_is_instant() -> None:
    shelf = Shelf({"a": 1}, before=lambda name: time.sleep(0.2))
    registry = shelf.registry()
    steps = list(registry.loading("a", every_s=0.02))
    assert (0.5, "half of a") in steps
    assert len(steps) > 3
    assert list(registry.loading("a")) == []
    assert shelf.loads == ["a"]


def test_loading_raises_the_error_of_the_load() -> None:
    shelf = Shelf({"a": 1}, before=_fails_first(1, lambda: WeightsError("Restore the file.")))
    with pytest.raises(WeightsError, match="Restore the file"):
        list(shelf.registry().loading("a", every_s=0.01))


def test_closing_loading_does_not_stop_the_load() -> None:
    shelf = Shelf({"a": 1}, before=lambda name: time.sleep(0.2))
    registry = shelf.registry()
    steps = registry.loading("a", every_s=0.01)
    next(steps)
    steps.close()
    with registry.lease("a"):
        pass
    assert shelf.loads == ["a"]


def test_eager_loads_what_is_embedded_and_nothing_else() -> None:
    shelf = Shelf({"a": 1, "hub": 1})
    shelf.rows["hub"] = shelf._row("hub", source=Hub("someone/something", "0" * 40))
    assert loaded(shelf.registry()) == set()
    assert loaded(shelf.registry(eager=True)) == {"a"}


def test_zero_gpu_places_embedded_models_on_cuda_at_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPACES_ZERO_GPU", "true")
    shelf = Shelf({"a": 1})
    registry = shelf.registry(device="auto")
    assert loaded(registry) == {"a"}
    assert registry.device == torch.device("cuda")
    assert shelf.placed[0][0] == registry.device


# -------------------------------------------------------------------------- devices and dtypes


@pytest.mark.parametrize(
    ("cuda", "mps", "asked", "expected"),
    [
        (True, True, "auto", "cuda"),
        (False, True, "auto", "mps"),
        (False, False, "auto", "cpu"),
        (True, True, "cpu", "cpu"),
        (True, False, "cuda", "cuda"),
        (True, False, "cuda:0", "cuda:0"),
        (True, False, "cuda:7", DeviceError),
        (False, False, "cuda", DeviceError),
        (True, False, "mps", DeviceError),
        (True, False, "tpu", DeviceError),
        (True, False, "", DeviceError),
        (True, False, "meta", DeviceError),
    ],
)
def test_pick_device(
    monkeypatch: pytest.MonkeyPatch, cuda: bool, mps: bool, asked: str, expected: Any
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: int(cuda))
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    if isinstance(expected, str):
        assert str(pick_device(asked)) == expected
    else:
        with pytest.raises(expected, match=r"use (--device )?auto"):
            pick_device(asked)


@pytest.mark.parametrize(
    ("device", "half", "expected"),
    [
        ("cpu", True, torch.float32),
        ("cuda", False, torch.float32),
        ("cuda", True, torch.float16),
        ("mps", True, torch.float32),
    ],
)
def test_half_precision_only_where_it_is_faster_and_safe(
    device: str, half: bool, expected: torch.dtype
) -> None:
    shelf = Shelf({"a": 1})
    shelf.rows["a"] = shelf._row("a", half=half)
    registry = shelf.registry()
    registry.device = torch.device(device)
    registry.preload("a")
    assert shelf.placed == [(torch.device(device), expected)]


def test_measured_bytes_counts_parameters_and_buffers_once() -> None:
    class Holder:
        def __init__(self, model: nn.Module) -> None:
            self.model = model

    linear = nn.Linear(10, 10, bias=False)
    norm = nn.BatchNorm1d(10)  # 20 parameters, 20 statistics, 1 int64
    expected = 400 + 160 + 8
    for model in (nn.Sequential(linear, norm), nn.Sequential(linear, linear, norm)):
        assert measured_bytes(model) == expected
        assert measured_bytes(Holder(model)) == expected
    assert measured_bytes(nn.Sequential(linear, norm).half()) == 200 + 80 + 8
    assert measured_bytes(Fake("a", 7)) == 7


def test_the_default_budget_is_below_the_free_memory() -> None:
    budget = registry_module.default_budget(torch.device("cpu"))
    assert 0 < budget < psutil.virtual_memory().available
