"""What the GLIP tab keeps between two moves of a slider, and what it makes of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from demos import glip_views as views
from demos.glip_form import Limits
from demos.glip_views import Hearing, Scene, Span
from demos.ui import boxes
from models.detection.colours import phrase_colours
from models.detection.detections import Detections
from models.detection.drawing import AUTOMATIC, DrawStyle
from models.glip.grounding import GroundingThresholds, RawDetections
from models.glip.prompts import Prompt, Word
from models.jobs import Job


@dataclass(frozen=True)
class Held:
    """One run: what the network found, before any threshold.

    source: path of the picture as sent; shown: path of its copy on the page.
    raw:    every candidate, of GLIP or of a successor.
    own:    the model's own thresholds.
    """

    model: str
    prompt: Prompt
    source: str
    shown: str
    raw: RawDetections
    own: GroundingThresholds
    seconds: float

    def select(self, limits: Limits) -> Detections:
        """The boxes within `limits`; no network runs."""
        return self.raw.select(limits.on(self.own))


@dataclass(frozen=True)
class Found:
    """What the network says and the thresholds it would choose."""

    raw: RawDetections
    own: GroundingThresholds


def ground(photo: Image.Image, prompt: Prompt, grounder: Any) -> Job[Found]:
    """A job: ask a leased grounder."""
    raw = yield from grounder.ground(photo, prompt)
    return Found(raw, grounder.defaults)


def spans_of(prompt: Prompt) -> tuple[Span, ...]:
    """Where the phrases stand in the caption."""
    return tuple(Span(p.begin, p.end, place) for place, p in enumerate(prompt.phrases))


def scene_of(
    held: Held, found: Detections, scope: str = "main", style: DrawStyle = AUTOMATIC
) -> Scene:
    """What is drawn of a run under its thresholds."""
    return Scene(
        scope=scope,
        picture=boxes.address(held.shown),
        caption=held.prompt.caption,
        spans=spans_of(held.prompt),
        colours=tuple(phrase_colours(len(held.prompt.phrases))),
        detections=found,
        best=float(held.raw.scores[0]) if len(held.raw.scores) else None,
        line_width=style.line_width,
        text_size=style.text_size,
    )


def hearing_of(held: Held, limits: Limits) -> Hearing:
    """What each box within `limits` makes of each word."""
    raw, rows = held.raw, held.raw.rows(limits.on(held.own))
    return Hearing(
        words=tuple(Span(w.begin, w.end, _phrase_at(held.prompt, w)) for w in raw.words),
        scores=raw.token_scores[rows].tolist(),
        attention=() if raw.attention is None else raw.attention[rows].tolist(),
    )


def _phrase_at(prompt: Prompt, word: Word) -> int:
    for place, phrase in enumerate(prompt.phrases):
        if phrase.begin <= word.begin < phrase.end:
            return place
    return -1


def settings_of(prompt: Prompt, used: GroundingThresholds) -> dict[str, Any]:
    """What makes the same answer again."""
    return {
        "prompt": prompt.caption,
        "mode": prompt.kind,
        "phrases": [phrase.text for phrase in prompt.phrases],
        "threshold": used.box,
        "text_threshold": used.text,
        "nms": used.nms,
        "max_boxes": used.max_boxes,
    }


def facts(
    model: str, prompt: Prompt, used: GroundingThresholds, seconds: float, found: Detections
) -> dict[str, Any]:
    """The answer as JSON."""
    return {
        "model": model,
        "settings": settings_of(prompt, used),
        "seed": None,  # nothing here is random
        "seconds": round(seconds, 3),
        **found.to_json(),
    }


def panels(held: Held, limits: Limits, region: int, style: DrawStyle) -> Sequence[str]:
    """Picture, crops, matrix and listening as HTML."""
    found = held.select(limits)
    shown, hearing = scene_of(held, found, style=style), hearing_of(held, limits)
    return (
        views.scene(shown),
        boxes.crops(shown),
        views.matrix(shown, hearing),
        views.listening(shown, hearing, region if region < len(found) else 0),
    )
