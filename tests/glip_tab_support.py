"""What the tests of the GLIP tab share: registries with detectors whose answers are known."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from PIL import Image

from models.catalog import CATALOG, ModelRow
from models.glip.grounding import GroundingThresholds, RawDetections
from models.glip.prompts import Prompt, Word
from models.jobs import Job, Step
from models.registry import Registry
from models.weights import Embedded

MINI, OTHER = "glip-mini", "other"


class Detector:
    """Two boxes for every phrase, one sure and one not, at places that follow from its number:
    what is tested is the tab, so what is found is known."""

    def __init__(self, name: str = MINI, seconds: float = 0.0, listens: bool = True) -> None:
        self.name, self.seconds, self.listens = name, seconds, listens
        self.defaults = GroundingThresholds(box=0.3)
        self.asked: list[tuple[tuple[int, int], str]] = []

    def nbytes(self) -> int:
        return 1

    def ground(self, image: Image.Image, prompt: Prompt) -> Job[RawDetections]:
        self.asked.append((image.size, prompt.caption))
        for place in range(3):
            time.sleep(self.seconds / 3)
            yield Step(place / 3, "Looking")
        return found(image.size, prompt, self.listens)


def found(size: tuple[int, int], prompt: Prompt, listens: bool = True) -> RawDetections:
    words = words_of(prompt)
    owners = [_owner(prompt, word) for word in words]
    rows = [(0.9 - 0.01 * i, i, 0) for i in range(len(prompt.phrases))]
    rows += [(0.4 - 0.01 * i, i, 1) for i in range(len(prompt.phrases))]
    rows = [row for row in sorted(rows, reverse=True) if row[0] > 0.05]
    scores = np.array([score for score, _, _ in rows], np.float32)
    token_scores = np.array(
        [[score if owner == phrase else 0.02 for owner in owners] for score, phrase, _ in rows],
        np.float32,
    ).reshape(len(rows), len(words))
    attention = token_scores / (1.25 * token_scores.sum(axis=1, keepdims=True) + 1e-9)
    return RawDetections(
        prompt=prompt,
        boxes=np.array([_box(size, phrase, twin) for _, phrase, twin in rows], np.float32).reshape(
            -1, 4
        ),
        scores=scores,
        phrase_scores=scores,
        phrases=np.array([phrase for _, phrase, _ in rows], np.int64),
        token_scores=token_scores,
        words=words,
        width=size[0],
        height=size[1],
        attention=attention if listens else None,
    )


def words_of(prompt: Prompt) -> tuple[Word, ...]:
    """The caption's words between spaces."""
    words, place = [], 0
    for text in prompt.caption.split(" "):
        if text:
            words.append(Word(text, place, place + len(text)))
        place += len(text) + 1
    return tuple(words)


def _owner(prompt: Prompt, word: Word) -> int:
    owners = [i for i, p in enumerate(prompt.phrases) if p.begin <= word.begin < p.end]
    return owners[0] if owners else -1


def _box(size: tuple[int, int], phrase: int, twin: int) -> list[float]:
    """Side by side, a phrase's twin below it."""
    width, height = size
    x, y = phrase * 2 % 7 / 8, 0.15 + 0.5 * twin
    return [x * width, y * height, (x + 0.2) * width, (y + 0.3) * height]


def row(name: str, title: str, detector: Any) -> ModelRow:
    return replace(
        CATALOG["clip-mini"], name=name, title=title, task="detection", files=(),
        knows="What the test says.", source=Embedded(CATALOG["clip-mini"].source.directory),
        load=lambda row, context: detector,
    )  # fmt: skip


def scripted_registry(detector: Any = None, extra: Sequence[ModelRow] = ()) -> Registry:
    """A registry that lends detectors whose answers are known, and refuses every download."""
    rows = {
        MINI: row(MINI, "GLIP mini", detector or Detector()),
        OTHER: row(OTHER, "Another", Detector(OTHER, listens=False)),
        **{r.name: r for r in extra},
    }
    return Registry({**CATALOG, **rows}, device="cpu", offline=True)
