"""Figure 11: the registry under many threads, with little memory, and with none."""

from __future__ import annotations

import gc
import random
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.measure import MB, Figure, resident
from models.catalog import CATALOG, LoadContext, ModelRow
from models.errors import DeviceError
from models.registry import Registry
from models.weights import Embedded, WeightFile

MODEL_SIDE = 2200  # a square of float32 of this side is about 20 MB


def registry_figures(swaps: int = 200) -> Iterator[Figure]:
    """Figure 11: many threads and one model; more models than memory; no memory at all."""
    yield _one_load_for_all()
    yield _growth_over(swaps)
    yield _tries_without_memory()


def _one_load_for_all(threads: int = 40) -> Figure:
    """`threads` threads lease clip-mini at the same moment."""
    row = CATALOG["clip-mini"]
    loads: list[str] = []

    def load(row_: ModelRow, context: LoadContext) -> Any:
        loads.append(row_.name)
        return row.load(row_, context)

    registry = Registry({row.name: replace(row, load=load)}, device="cpu", offline=True)
    together = threading.Barrier(threads)

    def ask(_: int) -> int:
        together.wait(60)
        with registry.lease(row.name) as model:
            return id(model)

    with ThreadPoolExecutor(threads) as pool:
        models = set(pool.map(ask, range(threads)))
    status = registry.status()[0]
    note = f"{status.load_seconds:.2f} s, {status.bytes / MB:.0f} MB"
    what = f"loads of {row.name} for {threads} threads"
    return Figure(11, what, len(loads), "", 1, resident(), note, correct=len(models) == 1)


def _growth_over(swaps: int) -> Figure:
    """Random leases of six models of 20 MB with room for three."""
    names = tuple("abcdef")
    loads: list[str] = []
    registry = Registry(_rows(names, loads), device="cpu", budget_bytes=65 * MB)
    order = random.Random(0).choices(names, k=20 + swaps)

    def lease(name: str) -> None:
        with registry.lease(name) as model:
            assert model.weight.shape[0] == MODEL_SIDE

    for name in order[:20]:  # the allocator has seen its largest need
        lease(name)
    gc.collect()
    before, loads_before = resident(), len(loads)
    for name in order[20:]:
        lease(name)
    gc.collect()
    growth = max(0.0, 100 * (resident() - before) / before)
    note = f"{len(loads) - loads_before} loads; six models of 20 MB, room for three"
    what = f"growth over {swaps} random swaps"
    kept = sum(status.bytes for status in registry.status()) <= registry.budget_bytes
    return Figure(11, what, growth, "%", 5, resident(), note, correct=kept)


def _tries_without_memory() -> Figure:
    """A model that never fits: how often it is tried, what goes, and what the user reads."""

    tries: list[str] = []

    def too_large(row: ModelRow, context: LoadContext) -> Any:
        tries.append(row.name)
        raise torch.OutOfMemoryError("simulated")

    rows = _rows(("small", "large"), [])
    rows["large"] = replace(rows["large"], load=too_large)
    registry = Registry(rows, device="cpu")
    registry.preload(["small"])
    sentence = ""
    try:
        registry.preload(["large"])
    except DeviceError as error:
        sentence = str(error)
    states = {status.name: status.state for status in registry.status()}
    correct = bool(sentence) and len(tries) == 2 and set(states.values()) == {"unloaded"}
    what = "tries out of memory, the idle model evicted"
    return Figure(11, what, len(tries), "", 2, resident(), sentence, correct)


def _rows(names: Sequence[str], loads: list[str]) -> dict[str, ModelRow]:
    """A catalogue of real modules of one 20 MB matrix each."""

    def load(row: ModelRow, context: LoadContext) -> nn.Module:
        loads.append(row.name)
        model = nn.Linear(MODEL_SIDE, MODEL_SIDE, bias=False)
        nn.init.ones_(model.weight)  # every page of it is really there
        return model

    def row(name: str) -> ModelRow:
        return ModelRow(
            name=name,
            title=name,
            task="benchmark",
            family="mini",
            preset=name,
            source=Embedded(Path()),
            files=(WeightFile("model", 4 * MODEL_SIDE**2, ""),),
            licence="",
            knows="",
            load=load,
        )

    return {name: row(name) for name in names}
