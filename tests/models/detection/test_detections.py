"""`Detections`: what it refuses, what it selects, what it answers as JSON."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from models.detection.detections import Detections, decode_mask, encode_mask


def two_dogs(**changes: Any) -> Detections:
    fields: dict[str, Any] = {
        "boxes": [[1, 2, 30.5, 20], [0, 0, 40, 30], [5, 5, 5, 5]],
        "scores": [0.9, 0.75, 0.75],
        "labels": ("dog", "kite", "dog"),
        "phrases": (0, 1, -1),
        "spans": ((0, 3), (8, 12), None),
        "width": 40,
        "height": 30,
    }
    return Detections(**{**fields, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"boxes": [[1, 2, 3, 4]]}, "for 3 labels"),
        ({"boxes": [[1, 2, 3]] * 3}, "for 3 labels"),
        ({"scores": [0.9, 0.8]}, "for 3 labels"),
        ({"labels": ("dog", "kite")}, "for 2 labels"),
        ({"phrases": (0, 1)}, "are not 3"),
        ({"spans": (None, None)}, "are not 3"),
        ({"masks": (None,)}, "are not 3"),
        ({"boxes": [[0, 0, np.nan, 1]] * 3}, "finite"),
        ({"scores": [np.inf, 0, 0]}, "finite"),
        ({"boxes": [[3, 0, 2, 1]] * 3}, "x1 <= x2"),
        ({"boxes": [[0, 3, 1, 2]] * 3}, "x1 <= x2"),
        ({"boxes": [[-0.1, 0, 2, 1]] * 3}, "inside 40 x 30"),
        ({"boxes": [[0, 0, 40.1, 1]] * 3}, "inside 40 x 30"),
        ({"boxes": [[0, 0, 1, 30.1]] * 3}, "inside 40 x 30"),
        ({"scores": [0.5, 0.6, 0.4]}, "best first"),
        ({"phrases": (0, 1, -2)}, "at least -1"),
        ({"spans": ((3, 3), None, None)}, "begin < end"),
        ({"spans": ((-1, 3), None, None)}, "begin < end"),
        ({"width": 0}, "picture of 0 x 30"),
        ({"masks": ({"size": [40, 30], "counts": ""}, None, None)}, "mask of"),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        two_dogs(**changes)


def test_arrays_are_copies_and_read_only() -> None:
    scores = np.array([0.9, 0.75, 0.75])
    found = two_dogs(scores=scores)
    scores[0] = 0
    assert found.scores[0] == np.float32(0.9)
    assert found.boxes.dtype == np.float32
    with pytest.raises(ValueError, match="read-only"):
        found.boxes[0, 0] = 7


@pytest.mark.parametrize(
    ("indices", "labels", "phrases"),
    [
        ([0, 2], ("dog", "dog"), (0, -1)),
        ([2, 0], ("dog", "dog"), (0, -1)),
        (np.array([False, True, False]), ("kite",), (1,)),
        (slice(2), ("dog", "kite"), (0, 1)),
        ([-1], ("dog",), (-1,)),
        ([], (), ()),
    ],
)
def test_selection_keeps_rows_together_and_best_first(
    indices: Any, labels: tuple[str, ...], phrases: tuple[int, ...]
) -> None:
    masks = tuple(encode_mask(np.arange(1200).reshape(30, 40) == i) for i in range(3))
    whole = two_dogs(masks=masks)
    some = whole.select(indices)
    assert (some.labels, some.phrases, len(some)) == (labels, phrases, len(labels))
    assert some.boxes.shape == (len(labels), 4)
    assert some.masks is not None
    for box, mask, span, score in zip(some.boxes, some.masks, some.spans, some.scores):
        place = masks.index(mask)
        assert box.tolist() == whole.boxes[place].tolist()
        assert (span, score) == (whole.spans[place], whole.scores[place])


def test_json_is_the_agreed_shape() -> None:
    mask = np.zeros((30, 40), bool)
    mask[2:20, 1:30] = True
    answer = two_dogs(masks=(encode_mask(mask), None, None)).to_json()
    assert json.loads(json.dumps(answer)) == answer
    assert answer["image"] == {"width": 40, "height": 30}
    first, second, third = answer["detections"]
    assert np.array_equal(decode_mask(first.pop("mask")), mask)
    assert first == {"box": [1, 2, 30.5, 20], "score": 0.9, "label": "dog", "span": [0, 3]}
    assert second["mask"] is None
    assert third["span"] is None


def test_nothing_found() -> None:
    none = Detections.none(40, 30)
    assert len(none) == 0
    assert none.to_json() == {"image": {"width": 40, "height": 30}, "detections": []}
    assert len(none.select([])) == 0
