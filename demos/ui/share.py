"""Links that open the same state again: `?tab=clip&model=clip-mini&labels=a+cat,a+dog`.

A tab names the `Field`s that make up its state. `Field.parse` is the only door through which a
stranger's link comes in: a value it refuses is left out, as is every unknown name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import gradio as gr
from gradio.components import Component

from demos.ui.controls import PROMPT
from demos.ui.jobs import explained
from models.errors import InputError

MAX_QUERY_CHARS = 4_000  # longer addresses are cut by mail programs and refused by proxies


@dataclass(frozen=True)
class Field:
    """One piece of a tab's state: its name in the link, where it lives, and what it may be.

    parse: text from the link -> the component's value; raises ValueError for what it can't be.
    """

    name: str
    component: Component
    parse: Callable[[str], Any]


def text(max_chars: int = 2_000) -> Callable[[str], str]:
    """Any text of at most `max_chars` characters, without control characters but line ends."""

    def parse(value: str) -> str:
        if len(value) > max_chars:
            raise ValueError(f"longer than {max_chars} characters")
        return "".join(char for char in value if char == "\n" or char >= " ")

    return parse


def choice(*options: str) -> Callable[[str], str]:
    """One of `options`: a model, an example by its name."""

    def parse(value: str) -> str:
        if value not in options:
            raise ValueError(f"none of {', '.join(options)}")
        return value

    return parse


def number(low: float, high: float) -> Callable[[str], float]:
    """A number in [low, high]; whole where it is written so."""

    def parse(value: str) -> float:
        result = float(value)
        if not low <= result <= high:  # also refuses NaN
            raise ValueError(f"not within {low} to {high}")
        return int(result) if result.is_integer() and "." not in value else result

    return parse


def flag(value: str) -> bool:
    """A checkbox: 1 or 0."""
    if value not in ("0", "1"):
        raise ValueError("neither 0 nor 1")
    return value == "1"


def query(tab: str, values: Mapping[str, Any]) -> str:
    """The part of a link after the `?`; empty values are left out.

    Raises InputError when the state doesn't fit into a link.
    """
    pairs = {name: _write(value) for name, value in values.items() if value not in (None, "")}
    result = urlencode({"tab": tab, **pairs})
    if len(result) > MAX_QUERY_CHARS:
        raise InputError("This state is too long for a link; shorten the text.")
    return result


def restore(fields: Sequence[Field], params: Mapping[str, str]) -> dict[str, Any]:
    """The values of a link that `fields` accept, by field name."""
    values = {}
    for field in fields:
        if field.name in params and len(params[field.name]) <= MAX_QUERY_CHARS:
            try:
                values[field.name] = field.parse(params[field.name])
            except ValueError:
                continue  # a stale or made-up link still opens, without this part
    return values


def link_button(tab: str, fields: Sequence[Field]) -> gr.Button:
    """A button that copies the link to the current state; the page adds one to every tab."""
    button = gr.Button("Copy link", size="sm", elem_classes="atelier-link", scale=0, min_width=120)
    carrier = gr.Textbox(visible="hidden", elem_classes="atelier-link-query")

    @explained
    def write(*values: Any) -> str:
        return query(tab, dict(zip((field.name for field in fields), values, strict=True)))

    button.click(
        write,
        [field.component for field in fields],
        carrier,
        **PROMPT,  # it may refuse
    ).success(None, carrier, None, js="(query) => window.atelier.copyLink(query)")
    return button


def _write(value: Any) -> str:
    return str(int(value)) if isinstance(value, bool) else str(value)
