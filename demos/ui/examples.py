"""Example pictures to start with, and the one that a share link names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from html import escape
from typing import Any, Protocol

import gradio as gr

from demos.ui.controls import QUIET


class Example(Protocol):
    """What every tab's examples have."""

    @property
    def path(self) -> str: ...

    @property
    def credit(self) -> str: ...


Examples = Callable[[], Mapping[str, Example]]


def gallery(examples: Examples) -> gr.Dataset:
    """The pictures to click on; the click hands over the index."""
    return gr.Dataset(
        components=["image"], samples=[[example.path] for example in examples().values()],
        type="index", layout="gallery", samples_per_page=12, label="Examples",
        elem_classes="atelier-examples",
    )  # fmt: skip


def follows_link(chosen: gr.Textbox, image: gr.Image, credit: gr.HTML, examples: Examples) -> None:
    """Show the example whose name a link writes into `chosen`; forget it with another picture."""

    def show(name: str, path: str | None) -> Any:
        example = examples().get(name)
        if example is None or path == example.path:  # it is there already
            return gr.skip(), gr.skip()
        return example.path, escape(example.credit)

    # A picture of the visitor's own belongs to no link, and its credit is not ours to give.
    gr.on([image.upload, image.clear], lambda: ("", ""), None, [chosen, credit], **QUIET)
    chosen.change(show, [chosen, image], [image, credit], **QUIET)
