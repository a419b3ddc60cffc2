"""Links: what goes in comes out, and nothing else does."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs

import gradio as gr
import pytest

from demos.ui import share
from demos.ui.share import Field
from models.errors import InputError

FIELDS = (
    Field("labels", gr.Textbox(render=False), share.text(50)),
    Field("model", gr.Dropdown(render=False), share.choice("mini", "large")),
    Field("k", gr.Slider(render=False), share.number(1, 10)),
    Field("t", gr.Slider(render=False), share.number(0, 1)),
    Field("raw", gr.Checkbox(render=False), share.flag),
)


def params(query: str) -> dict[str, str]:
    """As a browser and Starlette read them."""
    return {name: values[-1] for name, values in parse_qs(query, strict_parsing=True).items()}


@pytest.mark.parametrize(
    "values",
    [
        {"labels": "a cat\na dog", "model": "mini", "k": 5, "t": 0.25, "raw": True},
        {"labels": "🐱 & قطة = 100% + <b>", "raw": False},
        {"k": 0 + 1, "t": 0.0},
    ],
)
def test_round_trip(values: dict[str, Any]) -> None:
    link = params(share.query("clip", values))
    assert link.pop("tab") == "clip"
    assert share.restore(FIELDS, link) == values


def test_empty_values_stay_out() -> None:
    assert share.query("clip", {"labels": "", "model": None, "k": 0}) == "tab=clip&k=0"


@pytest.mark.parametrize(
    "link",
    [
        {"model": "../../etc/passwd"},
        {"model": ""},
        {"k": "11"},
        {"k": "nan"},
        {"k": "1e999"},
        {"k": "five"},
        {"raw": "yes"},
        {"labels": "x" * 51},
        {"labels": "x" * 1_000_000},
        {"unknown": "1", "__proto__": "1"},
    ],
)
def test_what_a_field_refuses_is_left_out(link: dict[str, str]) -> None:
    good = {"t": "0.5"}
    assert share.restore(FIELDS, {**link, **good}) == {"t": 0.5}


def test_control_characters_stay_out() -> None:
    assert share.restore(FIELDS, {"labels": "a\x00\x1bb\nc"}) == {"labels": "ab\nc"}


def test_too_much_for_a_link() -> None:
    with pytest.raises(InputError, match="too long for a link"):
        share.query("clip", {"labels": "x" * 5000})
