"""The GLIP tab's form: what arrives from the page or the API, judged before any model runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from demos.ui.text import parse_number, parse_whole
from models.catalog import ModelRow, row_of
from models.errors import InputError
from models.glip.grounding import GroundingThresholds
from models.glip.prompts import Prompt, read_prompt

TASK = "detection"
FIRST = "glip-mini"
MODES = {"auto": "Automatic", "caption": "Caption", "list": "List"}
MAX_BOXES = 300
MAX_LINK_CHARS = 3000  # of a prompt; longer ones fit into no link


@dataclass(frozen=True)
class Form:
    """What `/glip_ground` is asked, in the order of its parameters.

    image:          path of a picture.
    prompt:         a caption, or labels separated by `;`, line ends or full stops.
    threshold:      of a box's score, in [0, 1]; None takes the model's own, as below.
    model:          name of a catalogue row of the task "detection".
    mode:           "auto", "caption" or "list".
    text_threshold: of the probability of a box's words alone, in [0, 1].
    nms:            the most two boxes of one label may overlap (IoU), in [0, 1].
    max_boxes:      the most boxes, 1 to 300.
    """

    image: Any
    prompt: str
    threshold: float | None = None
    model: str = FIRST
    mode: str = "auto"
    text_threshold: float | None = None
    nms: float | None = None
    max_boxes: int | None = None


@dataclass(frozen=True)
class Limits:
    """The thresholds as asked for; None is the model's own."""

    box: float | None = None
    text: float | None = None
    nms: float | None = None
    max_boxes: int | None = None

    def on(self, own: GroundingThresholds) -> GroundingThresholds:
        """The model's own thresholds with these instead, where given."""
        given = {name: value for name, value in vars(self).items() if value is not None}
        return replace(own, **given)


def models_of(catalog: Mapping[str, ModelRow]) -> dict[str, ModelRow]:
    """The detectors on offer by name."""
    return {name: row for name, row in catalog.items() if row.task == TASK}


def read_model(name: str, there: Mapping[str, ModelRow]) -> ModelRow:
    """The detector called `name`. Raises InputError that lists them."""
    return row_of(there, name)


def read_words(text: str | None, mode: str) -> Prompt:
    """The prompt with its phrases. Raises InputError for what asks for nothing, or too much."""
    if text is not None and not isinstance(text, str):
        raise InputError("The prompt is a text: a caption, or names separated by semicolons.")
    return read_prompt(text, str(mode))


def read_limits(box: Any, text: Any, nms: Any, max_boxes: Any) -> Limits:
    """Raises InputError for what is no number or out of range; None stays None."""
    return Limits(
        box=_share(box, "The box threshold"),
        text=_share(text, "The text threshold"),
        nms=_share(nms, "The overlap allowed (NMS)"),
        max_boxes=_count(max_boxes),
    )


def _share(value: Any, what: str) -> float | None:
    if value is None:
        return None
    number = parse_number(value, what=what)
    if not 0 <= number <= 1:
        raise InputError(f"{what} lies between 0 and 1, not at {number:g}.")
    return number


def _count(value: Any) -> int | None:
    if value is None:
        return None
    number = parse_whole(value, what="The number of boxes")
    if not 1 <= number <= MAX_BOXES:
        raise InputError(f"At least 1 and at most {MAX_BOXES} boxes are shown, not {number}.")
    return number
