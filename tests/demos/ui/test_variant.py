"""Components with one method of ours keep it when Gradio makes them anew for a session."""

from __future__ import annotations

from pathlib import Path

import gradio as gr
import pytest

import demos.ui
from demos.ui import controls
from demos.ui.images import picture

MADE = {
    "slider": lambda: controls.slider(0, 1, 0.5),
    "number": lambda: controls.number(3),
    "dropdown": lambda: controls.dropdown(["a"], "a"),
}


@pytest.mark.parametrize("kind", MADE)
def test_a_control_made_anew_still_hands_over_what_it_was_given(kind: str) -> None:
    with gr.Blocks():
        component = MADE[kind]()
        anew = component.__class__(**component.constructor_args)  # as Gradio does on an update
    for control in (component, anew):
        assert control.preprocess("no such thing") == "no such thing"
        assert control.get_block_name() == kind


def test_a_picture_made_anew_still_opens_nothing() -> None:
    with gr.Blocks():
        component = picture()
        anew = component.__class__(**component.constructor_args)
        payload = anew.data_model(path="/uploads/bomb.png")
    assert anew.preprocess(payload) == "/uploads/bomb.png"
    assert anew.get_block_name() == "image"


def test_no_stub_files_are_written() -> None:
    assert not list(Path(demos.ui.__file__).parents[1].rglob("*.pyi"))
