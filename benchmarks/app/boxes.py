"""Figure 7: boxes drawn, on a picture to take away and on the page while a slider moves."""

from __future__ import annotations

import re
import statistics
import time
from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image

from benchmarks.measure import Figure, resident
from demos.glip_form import Limits, read_words
from demos.glip_session import Held, panels
from models.detection.detections import Detections
from models.detection.drawing import AUTOMATIC, draw
from models.glip.grounding import GroundingThresholds, RawDetections
from models.glip.prompts import Word

BOXES, SIZE, PHRASES = 50, (1333, 800), 10


def drawn_boxes() -> Iterator[Figure]:
    """Figure 7: fifty boxes by Pillow; fifty boxes with crops, matrix and attention as HTML, chosen
    among a thousand candidates."""
    raw = _candidates(1000)
    own = GroundingThresholds(box=0.0, text=0.0, nms=1.0, max_boxes=BOXES)
    found, picture = raw.select(own), Image.new("RGB", SIZE, "grey")
    held = Held("glip-mini", raw.prompt, "a.jpg", "a.jpg", raw, own, 0.0)
    cost = _median_ms(lambda: draw(picture, found))
    yield _figure(f"{BOXES} boxes drawn on {SIZE[0]} x {SIZE[1]}", cost, found)
    cost = _median_ms(lambda: panels(held, Limits(), 0, AUTOMATIC))
    yield _figure(f"GLIP's page drawn again with {BOXES} of 1,000 candidates", cost, found)


def _figure(what: str, cost: float, found: Detections) -> Figure:
    return Figure(7, what, cost, "ms", 50, resident(), correct=len(found) == BOXES)


def _median_ms(work: Callable[[], object], rounds: int = 15) -> float:
    work()
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return 1000 * statistics.median(times)


def _candidates(count: int) -> RawDetections:
    chance = np.random.default_rng(7)
    prompt = read_words("; ".join(f"thing {place}" for place in range(PHRASES)), "list")
    corner = chance.uniform(0, 0.7, (count, 2)) * SIZE
    boxes = np.concatenate([corner, corner + chance.uniform(0.05, 0.3, (count, 2)) * SIZE], axis=1)
    words = tuple(
        Word(found.group(), *found.span()) for found in re.finditer(r"\w+", prompt.caption)
    )
    scores = np.sort(chance.uniform(0.05, 1, count))[::-1].astype(np.float32)
    by_word = chance.uniform(0, 1, (count, len(words))).astype(np.float32)
    return RawDetections(
        prompt=prompt,
        boxes=boxes.astype(np.float32),
        scores=scores,
        phrase_scores=scores,
        phrases=chance.integers(0, PHRASES, count),
        words=words,
        token_scores=by_word,
        attention=by_word / by_word.sum(axis=1, keepdims=True),
        width=SIZE[0],
        height=SIZE[1],
    )
