"""Controls and event options that look and behave the same in every tab."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr
from gradio.events import Dependency

from demos.ui import badge
from demos.ui.variant import variant

QUIET: dict[str, Any] = {
    "queue": False,
    "show_progress": "hidden",
    "api_visibility": "private",
}
"""Of events that take no device and no time."""
PROMPT: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
"""Of events that take no device and little time but may refuse: Gradio shows no error of an event
outside its queue."""
LIVE: dict[str, Any] = {**QUIET, "trigger_mode": "always_last"}
"""Of events that follow a slider while it is dragged."""


def run_button(label: str = "Run") -> gr.Button:
    """The tab's main action; Ctrl+Enter presses the first one that is visible."""
    return gr.Button(label, variant="primary", elem_classes="atelier-run")


def stop_button() -> gr.Button:
    """To stand beside a `run_button` whose work takes longer than a moment; wire with `stops`."""
    return gr.Button("Stop", variant="stop", elem_classes="atelier-stop", scale=0, min_width=90)


def stops(
    button: gr.Button, events: Dependency | Sequence[Dependency], status: gr.HTML
) -> Dependency:
    """Make `button` end the run of an event, or of any of several, and say so in their status
    line; returns the last event, for what shall follow it."""
    stopped = button.click(
        badge.stopped,
        None,
        status,
        cancels=[events] if isinstance(events, Dependency) else list(events),
        **QUIET,
    )
    # A step that was on its way to the browser arrives after this answer and would have the last word.
    last: Dependency = stopped.then(badge.stopped, None, status, **QUIET)
    return last


def _as_given(component: Any, payload: Any) -> Any:
    return payload


_Slider = variant(gr.Slider, preprocess=_as_given)
_Number = variant(gr.Number, preprocess=_as_given)
_Dropdown = variant(gr.Dropdown, preprocess=_as_given)


def slider(low: float, high: float, value: float, **options: Any) -> gr.Slider:
    """A slider that hands over what it was given, for `text.parse_number` or a model to judge:
    Gradio's own refusal does not say which of many numbers was wrong, and lets NaN through."""
    return _Slider(low, high, value, **options)


def number(value: float | None, **options: Any) -> gr.Number:
    """A number field that hands over what it was given, as `slider`."""
    return _Number(value, **options)


def dropdown(choices: Sequence[Any], value: Any, **options: Any) -> gr.Dropdown:
    """A selector that hands over what it was given, for choices that change while the app runs."""
    return _Dropdown(choices, value=value, filterable=False, **options)


def note(value: str, **options: Any) -> gr.HTML:
    """Small muted text; `value` is escaped HTML."""
    return gr.HTML(
        value, elem_classes="atelier-note", padding=False, apply_default_css=False, **options
    )


def stage(value: str, **options: Any) -> gr.HTML:
    """Where a result is drawn as HTML of our own, free of Gradio's text styles."""
    return gr.HTML(value, padding=False, apply_default_css=False, **options)


def chips(texts: Sequence[str], label: str) -> gr.Dataset:
    """Texts to click on; the click hands over the index."""
    return gr.Dataset(
        components=["textbox"], samples=[[text] for text in texts], type="index",
        layout="gallery", label=label, samples_per_page=len(texts), elem_classes="atelier-chips",
    )  # fmt: skip


def open_view(tabs: gr.Tabs, items: Sequence[gr.Tab]) -> gr.Textbox:
    """The open sub-tab's id in a field that a link can carry; the first one is open at first."""
    view = gr.Textbox(str(items[0].id), visible="hidden")
    for item in items:
        item.select(None, None, view, js=f"() => '{item.id}'", **QUIET)
    view.change(lambda name: gr.Tabs(selected=name), view, tabs, **QUIET)
    return view


def shown_if(*values: Any) -> Callable[[Any], Any]:
    """A handler that shows its output while its input is one of `values`."""
    return lambda chosen: gr.update(visible=chosen in values)
