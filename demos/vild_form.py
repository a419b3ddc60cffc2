"""The ViLD tab's form: what arrives from the page or the API, judged before any model runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from demos.ui.text import parse_choice, parse_labels, parse_number, parse_whole
from models.catalog import ModelRow, row_of
from models.errors import InputError
from models.vild.categories import BACKGROUND, NAME_LISTS, clean_name, name_list
from models.vild.detector import MAX_NAMES, DetectorDefaults
from models.vild.regions import RegionThresholds

TASK = "vild"
FIRST = "vild-mini"
MAX_BOXES = 100
MAX_AREA = 20_000  # of the slider; the API takes any
TEMPERATURES = (1, 200)
SCORES = {"cosine": "Raw cosine", "softmax": "Softmax"}
TEMPLATES = {"own": "The model's own", "full": "63", "short": "7", "one": "1", "name": "The name"}
MAX_LINK_CHARS = 3000  # of the names; longer lists fit into no link


@dataclass(frozen=True)
class Form:
    """What `/vild_detect` is asked, in the order of its parameters.

    image:          path of a picture.
    names:          names of things, separated by `;`, commas or line ends; none asks what is
                    there, and the answer names it from the whole vocabulary.
    max_boxes:      the most regions, 1 to 100; None takes the model's own, as below.
    nms:            the most two regions may overlap (IoU), in [0, 1].
    min_objectness: how sure at least that something is there, in [0, 1].
    min_area:       regions have more pixels of the picture than this.
    model:          name of a catalogue row of the task "vild".
    min_cosine:     how alike at least a region and its name are, in [-1, 1]; not when nothing is
                    asked for.
    """

    image: Any
    names: str = ""
    max_boxes: int | None = None
    nms: float | None = None
    min_objectness: float | None = None
    min_area: float | None = None
    model: str = FIRST
    min_cosine: float | None = None


@dataclass(frozen=True)
class Limits:
    """What to show and how to score it, as asked for; None is the model's own."""

    max_boxes: int | None = None
    nms: float | None = None
    min_objectness: float | None = None
    min_area: float | None = None
    min_cosine: float | None = None
    score: str | None = None
    temperature: float | None = None

    def on(self, own: DetectorDefaults) -> RegionThresholds:
        """The model's own thresholds with these instead, where given."""
        given = {name: getattr(self, name) for name in NUMBERS if getattr(self, name) is not None}
        return replace(own.thresholds, **given)


LIMITS = tuple(one.name for one in fields(Limits))
NUMBERS = tuple(one.name for one in fields(RegionThresholds))  # which the endpoint takes too


def models_of(catalog: Mapping[str, ModelRow]) -> dict[str, ModelRow]:
    """The detectors on offer by name."""
    return {name: row for name, row in catalog.items() if row.task == TASK}


def read_model(name: str, there: Mapping[str, ModelRow]) -> ModelRow:
    """The detector called `name`. Raises InputError that lists them."""
    return row_of(there, name)


def read_names(text: str | None) -> list[str]:
    """The names, each once.

    Raises InputError for no name, too many, one that is too long or that is no name.
    """
    if text is not None and not isinstance(text, str):
        raise InputError("The names are a text: names separated by semicolons, commas or lines.")
    if not (text or "").strip(" \n\t,;"):
        raise InputError("Type at least one name, such as “red apple”, or press Discover.")
    names = parse_labels(text, maximum=MAX_NAMES, what="name")
    if all(clean_name(name) == BACKGROUND for name in names):
        raise InputError(
            f"“{BACKGROUND}” stands for all that has no name here; type the name of a thing."
        )
    return names


def read_list(name: str | None) -> str:
    """A ready-made list as it is typed. Raises InputError for one that is not there."""
    return "; ".join(name_list(parse_choice(str(name), NAME_LISTS, "list")))


def read_limits(
    max_boxes: Any, nms: Any, min_objectness: Any, min_area: Any, min_cosine: Any, score: Any,
    temperature: Any,
) -> Limits:  # fmt: skip
    """Raises InputError for what is no number or out of range; None stays None."""
    return Limits(
        max_boxes=_count(max_boxes),
        nms=_between(nms, 0, 1, "The overlap allowed (NMS)"),
        min_objectness=_between(min_objectness, 0, 1, "The least objectness"),
        min_area=_between(min_area, 0, 1e9, "The least area"),
        min_cosine=_between(min_cosine, -1, 1, "The least cosine"),
        score=None if score is None else parse_choice(score, SCORES, "score"),
        temperature=_between(temperature, *TEMPERATURES, "The temperature"),
    )


def read_templates(name: str) -> str | None:
    """A template set; None is the model's own. Raises InputError."""
    chosen = parse_choice(str(name), TEMPLATES, "set of sentences")
    return None if chosen == "own" else chosen


def _between(value: Any, low: float, high: float, what: str) -> float | None:
    if value is None:
        return None
    number = parse_number(value, what=what)
    if not low <= number <= high:
        raise InputError(f"{what} lies between {low:g} and {high:,.0f}, not at {number:g}.")
    return number


def _count(value: Any) -> int | None:
    if value is None:
        return None
    number = parse_whole(value, what="The number of boxes")
    if not 1 <= number <= MAX_BOXES:
        raise InputError(f"At least 1 and at most {MAX_BOXES} boxes are shown, not {number}.")
    return number
