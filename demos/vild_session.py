"""What the ViLD tab keeps between two moves of a slider, and what it makes of it."""

from __future__ import annotations

import io
import math
import time
from base64 import b64encode
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image

from demos.ui import boxes
from demos.vild_form import Limits
from models.catalog import TEACHER
from models.detection.colours import phrase_colours
from models.detection.detections import Detections, Rle, decode_mask
from models.detection.drawing import AUTOMATIC, DrawStyle
from models.jobs import Job, Step
from models.vild.categories import NAME_LISTS, name_list, unique_names
from models.vild.detector import Detector, DetectorDefaults, Why
from models.vild.discovery import Group, discover_regions
from models.vild.regions import (
    Opinion,
    RawRegions,
    Score,
    Sight,
    Vocabulary,
    name_scores,
    named_regions,
    pick_regions,
)

T = TypeVar("T")

OUTLINE_SIDE = 128  # pixels, of a mask as it travels to the page
_WORLD = tuple(name for name in NAME_LISTS if name not in ("coco", "imagenet", "lvis"))


@dataclass(frozen=True, eq=False)
class Seen:
    """What of a run is shown: the regions' `rows` in the raw result, and the groups they are in
    where nobody named anything."""

    found: Detections
    rows: tuple[int, ...]
    novel: tuple[bool, ...]
    groups: tuple[Group, ...] = ()


@dataclass(frozen=True, eq=False)
class Held:
    """One run: every region, before any threshold, and the names as CLIP understands them.

    names:   as asked for; empty where the tab was to discover.
    source:  path of the picture as sent; shown: path of its copy on the page.
    raw:     without the network's maps, which belong to the device and not to a visitor.
    words:   the names, or the whole vocabulary.
    own, temperature: of the model.
    masks:   of regions that were shown, by row; None where the model makes none.
    """

    model: str
    names: tuple[str, ...]
    source: str
    shown: str
    raw: RawRegions
    words: Vocabulary
    own: DetectorDefaults
    temperature: float
    templates: str
    masks: dict[int, Rle] | None
    seconds: float = 0.0
    outlines: dict[int, str] = field(default_factory=dict)

    @property
    def discovers(self) -> bool:
        """Whether nothing was named."""
        return not self.names

    def scoring(self, limits: Limits) -> tuple[Score, float]:
        """Which score, and the temperature of its softmax."""
        score: Any = limits.score or self.own.score
        return score, limits.temperature or self.temperature

    def select(self, limits: Limits) -> Seen:
        """What `limits` show; no network runs."""
        thresholds, scoring = limits.on(self.own), self.scoring(limits)
        groups: tuple[Group, ...] = ()
        phrases = None
        if self.discovers:
            groups, picked, phrases = discover_regions(
                self.raw, self.words, thresholds, *scoring, self.own.group_distance
            )
        else:
            picked = pick_regions(self.raw, self.words, thresholds, *scoring)
        rows = tuple(picked.rows.tolist())
        masks = None if self.masks is None else tuple(map(self.masks.get, rows))
        found = named_regions(self.raw, picked, self.words, masks, phrases)
        novel = (~self.words.base[torch.from_numpy(picked.columns)]).tolist()
        return Seen(found, rows, tuple(novel), groups)

    def missing(self, seen: Seen) -> list[int]:
        """Rows shown whose masks are not made yet."""
        return [] if self.masks is None else [row for row in seen.rows if row not in self.masks]

    def opinions(self, row: int, limits: Limits) -> list[Opinion]:
        """What a region may be: the background's word and every name, best first."""
        scores = name_scores(self.raw, np.array([row]), self.words, *self.scoring(limits))[0]
        names = ("background", *self.words.names)
        base = (False, *self.words.base.tolist())
        return sorted(map(Opinion, names, scores.tolist(), base), key=lambda one: -one.score)

    def outline(self, row: int) -> str:
        """A region's mask inside its box, as an address of a small picture; "" for none."""
        mask = (self.masks or {}).get(row)
        if mask is None:
            return ""
        if row not in self.outlines:
            self.outlines[row] = outline_uri(mask, self.raw.boxes[row].tolist())
        return self.outlines[row]


# ------------------------------------------------------------------------------ on the device


def look(
    photo: Image.Image,
    names: Sequence[str],
    limits: Limits,
    templates: str | None,
    detector: Detector,
) -> Job[Held]:
    """A job: find the regions of a picture, read the names (none: the whole vocabulary), and
    outline what is shown. The paths are still to be filled in."""
    raw = yield from detector.detect(photo)
    asked = tuple(names) or whole_vocabulary(detector)
    words = yield from timed(detector.read(asked, templates))
    held = Held(
        model=detector.name, names=tuple(names), source="", shown="",
        raw=replace(raw, sight=Sight((), torch.empty(3, 0, 0, dtype=torch.uint8))),
        words=words, own=detector.defaults, temperature=detector.model.config.temperature,
        templates=templates or detector.defaults.templates,
        masks={} if detector.model.config.mask else None,
    )  # fmt: skip
    yield Step(1.0, "Outlining what is there")
    todo = held.missing(held.select(limits))
    masks = detector.masks(raw, todo)
    if held.masks is not None and masks is not None:
        held.masks.update(zip(todo, masks))
    return held


def outline(photo: Image.Image, rows: Sequence[int], detector: Detector) -> Job[dict[int, Rle]]:
    """A job: the masks of regions; the picture is looked at again if it was forgotten."""
    raw = yield from detector.detect(photo)
    return dict(zip(rows, detector.masks(raw, rows) or ()))


def reason(photo: Image.Image, row: int, templates: str, detector: Detector) -> Job[Why]:
    """A job: why a region is called what it is, among the names the model was trained on."""
    raw = yield from detector.detect(photo)
    base = yield from timed(detector.read(detector.base_names, templates))
    return detector.why(raw, row, base)


def whole_vocabulary(detector: Detector) -> tuple[str, ...]:
    """Every name that the model or its teacher was made for, the novel ones among them."""
    lists = _WORLD if detector.model.config.teacher == TEACHER else ("lvis",)
    return _united(detector.base_names, lists)


@lru_cache(maxsize=4)
def _united(base: tuple[str, ...], lists: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(unique_names([*base, *(name for one in lists for name in name_list(one))]))


def timed(job: Job[T]) -> Job[T]:
    """The job, its messages with the time left."""
    began = time.monotonic()
    while True:
        try:
            step = next(job)
        except StopIteration as end:
            result: T = end.value
            return result
        if step.fraction > 0.02:
            left = (time.monotonic() - began) * (1 / step.fraction - 1)
            step = replace(step, message=f"{step.message}, about {left:,.0f} s left")
        yield step


# ------------------------------------------------------------------------------------ answers


def scene_of(
    held: Held,
    seen: Seen,
    scope: str = "main",
    style: DrawStyle = AUTOMATIC,
    masks: bool = True,
) -> boxes.Scene:
    """What is drawn of a run under its limits."""
    return boxes.Scene(
        scope=scope,
        picture=boxes.address(held.shown),
        colours=colours_of(held, seen),
        detections=seen.found,
        line_width=style.line_width,
        text_size=style.text_size,
        outlines=tuple(map(held.outline, seen.rows)) if masks else (),
        marked=seen.novel,
    )


def colours_of(held: Held, seen: Seen) -> tuple[str, ...]:
    """One a name asked for, or a group."""
    return phrase_colours(len(seen.groups) if held.discovers else len(held.names))


def facts(held: Held, seen: Seen, limits: Limits) -> dict[str, Any]:
    """The answer as JSON."""
    answer = seen.found.to_json()
    for row, novel, one in zip(seen.rows, seen.novel, answer["detections"]):
        one |= {"novel": novel, "objectness": round(float(held.raw.objectness[row]), 6)}
    groups = [
        {
            "name": group.name,
            "score": round(group.score, 6),
            "novel": not group.base,
            "detections": [i for i, phrase in enumerate(seen.found.phrases) if phrase == place],
        }
        for place, group in enumerate(seen.groups)
    ]
    return {
        "model": held.model,
        "settings": settings_of(held, limits),
        "seed": None,  # nothing here is random
        "seconds": round(held.seconds, 3),
        **answer,
        **({"groups": groups} if held.discovers else {}),
    }


def settings_of(held: Held, limits: Limits) -> dict[str, Any]:
    """What makes the same answer again."""
    used, (score, temperature) = limits.on(held.own), held.scoring(limits)
    return {
        "names": list(held.names),
        "mode": "discover" if held.discovers else "names",
        **asdict(used),
        "score": score,
        "temperature": temperature,
        "templates": held.templates,
    }


def outline_uri(mask: Rle, box: Sequence[float]) -> str:
    """A mask inside its box as the address of a small PNG: white where it is, else transparent."""
    x1, y1 = (math.floor(value) for value in box[:2])
    x2, y2 = max(math.ceil(box[2]), x1 + 1), max(math.ceil(box[3]), y1 + 1)
    inside = Image.fromarray(decode_mask(mask)[y1:y2, x1:x2].astype(np.uint8) * 255)
    inside.thumbnail((OUTLINE_SIDE, OUTLINE_SIDE))
    white = Image.new("L", inside.size, 255)
    stream = io.BytesIO()
    Image.merge("LA", (white, inside)).save(stream, "PNG")
    return f"data:image/png;base64,{b64encode(stream.getvalue()).decode()}"


def novel_of(held: Held) -> Iterator[bool]:
    """Of every name asked for: whether the model was not trained on it."""
    base = dict(zip(held.words.names, held.words.base.tolist()))
    return (name in base and not base[name] for name in held.names)
