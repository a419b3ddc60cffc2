"""What every detector answers: boxes of one picture with scores, words and, where known, masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask

Span = tuple[int, int]


class Rle(TypedDict):
    """A mask as COCO's compressed run lengths; `size` is height, width."""

    size: list[int]
    counts: str


@dataclass(frozen=True, eq=False, kw_only=True)
class Detections:
    """Boxes of one picture, best first; checked when made, read-only afterwards.

    boxes:   (N, 4) float32, x1, y1, x2, y2 in pixels of the original picture, as edges: the whole
             picture is 0, 0, width, height.
    scores:  (N,) float32, in no particular range (ViLD's may be cosines), never rising.
    labels:  N texts to show.
    phrases: N indices of the prompt's phrase a detection belongs to, -1 for none.
    spans:   N pairs (begin, end) of characters of the caption the detection is tied to, or None.
    width, height: of the picture.
    masks:   N COCO RLEs of the whole picture or None each; None where the detector makes none.

    Raises ValueError for what does not fit together: detectors clip and sort, users never do.
    """

    boxes: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32]
    labels: tuple[str, ...]
    phrases: tuple[int, ...]
    spans: tuple[Span | None, ...]
    width: int
    height: int
    masks: tuple[Rle | None, ...] | None = None

    def __post_init__(self) -> None:
        for name in ("boxes", "scores"):
            array = np.array(getattr(self, name), dtype=np.float32)  # a copy: nobody else writes it
            array.setflags(write=False)
            object.__setattr__(self, name, array)
        self._check_lengths()
        self._check_boxes()
        self._check_words()
        for mask in self.masks or ():
            if mask is not None and list(mask["size"]) != [self.height, self.width]:
                raise ValueError(f"a mask of {mask['size']} for {self.height} x {self.width}")

    @classmethod
    def none(cls, width: int, height: int) -> Detections:
        """No detection in a picture of this size."""
        boxes, scores = np.zeros((0, 4), np.float32), np.zeros(0, np.float32)
        return cls(
            boxes=boxes, scores=scores, labels=(), phrases=(), spans=(), width=width, height=height
        )

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, indices: Sequence[int] | slice | npt.NDArray[Any]) -> Detections:
        """Those at `indices` (or where a boolean array is true), still best first."""
        kept = np.sort(np.arange(len(self))[indices]).tolist()
        return Detections(
            boxes=self.boxes[kept],
            scores=self.scores[kept],
            labels=tuple(self.labels[i] for i in kept),
            phrases=tuple(self.phrases[i] for i in kept),
            spans=tuple(self.spans[i] for i in kept),
            width=self.width,
            height=self.height,
            masks=None if self.masks is None else tuple(self.masks[i] for i in kept),
        )

    def to_json(self) -> dict[str, Any]:
        """The detection part of an endpoint's answer: plain values, coordinates to 1/1000 pixel."""
        masks = self.masks or (None,) * len(self)
        rows = zip(self.boxes.tolist(), self.scores.tolist(), self.labels, self.spans, masks)
        return {
            "image": {"width": self.width, "height": self.height},
            "detections": [
                {
                    "box": [round(value, 3) for value in box],
                    "score": round(score, 6),
                    "label": label,
                    "span": None if span is None else list(span),
                    "mask": None if mask is None else dict(mask),
                }
                for box, score, label, span, mask in rows
            ],
        }

    def _check_lengths(self) -> None:
        if self.width < 1 or self.height < 1:
            raise ValueError(f"a picture of {self.width} x {self.height}")
        count = len(self.labels)
        if self.boxes.shape != (count, 4) or self.scores.shape != (count,):
            raise ValueError(
                f"boxes {self.boxes.shape} and scores {self.scores.shape} for {count} labels"
            )
        others = (self.phrases, self.spans, self.phrases if self.masks is None else self.masks)
        if any(len(other) != count for other in others):
            raise ValueError(f"phrases, spans or masks are not {count}, as the labels are")

    def _check_boxes(self) -> None:
        if not (np.isfinite(self.boxes).all() and np.isfinite(self.scores).all()):
            raise ValueError("boxes and scores must be finite")
        low, high = self.boxes[:, :2], self.boxes[:, 2:]
        if (low < 0).any() or (low > high).any() or (high > (self.width, self.height)).any():
            raise ValueError(
                f"boxes must be x1 <= x2, y1 <= y2 inside {self.width} x {self.height}"
            )
        if (np.diff(self.scores) > 0).any():
            raise ValueError("detections must come best first")

    def _check_words(self) -> None:
        if any(phrase < -1 for phrase in self.phrases):
            raise ValueError("a phrase's index is at least -1")
        if any(span is not None and not 0 <= span[0] < span[1] for span in self.spans):
            raise ValueError("a span is a pair begin < end of character positions")


def encode_mask(mask: npt.NDArray[Any]) -> Rle:
    """The RLE of a mask (H, W), boolean or 0 and 1."""
    rle = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    # bytes in pycocotools, text in COCO's files.
    return {"size": [int(n) for n in rle["size"]], "counts": rle["counts"].decode("ascii")}


def decode_mask(rle: Rle) -> npt.NDArray[np.bool_]:
    """The mask (H, W) of an RLE."""
    return np.asarray(coco_mask.decode(rle), dtype=np.bool_)
