"""Choosing a model and putting a question to it, the same in every tab."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from html import escape
from typing import TypeVar

import gradio as gr

from demos.ui import badge
from demos.ui.controls import QUIET, note
from demos.ui.jobs import Done
from demos.ui.tab import Atelier
from models.catalog import ModelRow
from models.jobs import Job, Step

T = TypeVar("T")


def model_choice(rows: Mapping[str, ModelRow], first: str) -> gr.Dropdown:
    """A selector of models with size and licence, beside it what the chosen one knows."""

    def explain(name: str) -> str:
        return knows(rows[name])

    with gr.Row(equal_height=False, elem_classes="atelier-model"):
        model = gr.Dropdown(
            [(title(row), name) for name, row in rows.items()],
            value=first,
            label="Model",
            filterable=False,
            min_width=300,
        )
        about = note(explain(first))
    model.change(explain, model, about, **QUIET)
    return model


def title(row: ModelRow) -> str:
    """A model's line in the selector."""
    size = "comes with the app" if row.family == "mini" else f"{row.bytes / 1e6:,.0f} MB"
    return f"{row.title} · {size} · {row.licence}"


def knows(row: ModelRow) -> str:
    """What a model knows and, where it must be downloaded first, what that costs; escaped HTML."""
    once = f" {escape(row.notice)}" if row.needs_download() else ""
    return f"Knows: {escape(row.knows)}{once}"


def ask(
    atelier: Atelier,
    models: str | Sequence[str],
    question: Callable[..., Job[T]],
    *,
    deadline_s: float | None = None,
) -> Iterator[Step | Done[T]]:
    """Load the model while others compute, then wait for the device and put the question.

    models: a name, or several; the question gets what they are called, in this order.
    """
    names = (models,) if isinstance(models, str) else tuple(models)
    for name in names:
        for fraction, message in atelier.registry.loading(name):
            yield Step(min(max(fraction, 0.0), 1.0), message or "Loading")

    yield from atelier.jobs.run(lambda: leased(atelier, names, question), deadline_s=deadline_s)


def leased(atelier: Atelier, names: Sequence[str], question: Callable[..., Job[T]]) -> Job[T]:
    """The job `question(*models)` while all of them are leased."""
    if not names:
        return (yield from question())
    first, *others = names

    def with_first(model: object) -> Job[T]:
        return leased(atelier, others, partial(question, model))

    return (yield from atelier.registry.job(first, with_first))


def ran(atelier: Atelier, row: ModelRow, seconds: float) -> str:
    """The badge after a run."""
    return badge.badge(row.title, str(atelier.registry.device), seconds)
