"""Run and Stop, looking and behaving the same in every tab."""

from __future__ import annotations

import gradio as gr
from gradio.events import Dependency

from demos.ui import badge


def run_button(label: str = "Run") -> gr.Button:
    """The tab's main action; Ctrl+Enter presses the first one that is visible."""
    return gr.Button(label, variant="primary", elem_classes="atelier-run")


def stop_button() -> gr.Button:
    """To stand beside a `run_button` whose work takes longer than a moment; wire with `stops`."""
    return gr.Button("Stop", variant="stop", elem_classes="atelier-stop", scale=0, min_width=90)


def stops(button: gr.Button, event: Dependency, status: gr.HTML) -> None:
    """Make `button` end the run of `event` and say so in its status line."""
    button.click(
        badge.stopped,
        None,
        status,
        cancels=[event],
        queue=False,
        show_progress="hidden",
        api_visibility="private",
    )
