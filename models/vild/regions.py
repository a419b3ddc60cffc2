"""What a detector found before any name: regions, which of them are shown, and what names say.

Everything here is arithmetic on what the network said once per picture; no network runs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from models.detection.boxes import rescale_boxes
from models.detection.detections import Detections, Rle
from models.errors import InputError
from models.vild.postprocess import paste_masks, rank_by_name, select_regions
from models.vild.text import BASE_WEIGHT, cosines

Floats = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]
Score = Literal["cosine", "softmax"]

MOST_BOXES = 1000


@dataclass(frozen=True)
class RegionThresholds:
    """What is shown of what was found; the public notebook's values by default.

    Attributes:
        max_boxes: most regions of a picture, the best ones by objectness.
        nms: of two regions whose IoU exceeds this the one of less objectness goes; in [0, 1].
        min_objectness: at least this sure that something is there; in [0, 1].
        min_area: more than this, in pixels of the picture.
        min_cosine: of a region and its name, in [-1, 1]; the notebook has no such bound. Groups that
            are discovered are not held to it: nobody asked for their names.

    Raises:
        InputError: a value out of its range.
    """

    max_boxes: int = 25
    nms: float = 0.6
    min_objectness: float = 0.9
    min_area: float = 220
    min_cosine: float = -1.0

    def __post_init__(self) -> None:
        if not 1 <= self.max_boxes <= MOST_BOXES:
            raise InputError(
                f"At least 1 and at most {MOST_BOXES:,} boxes are shown, not {self.max_boxes}."
            )
        for name, value in (("NMS threshold", self.nms), ("objectness", self.min_objectness)):
            if not 0 <= value <= 1:
                raise InputError(f"The {name} lies between 0 and 1, not at {value}.")
        if not 0 <= self.min_area < math.inf:
            raise InputError(
                f"The least area is a number of pixels from 0 on, not {self.min_area}."
            )
        if not -1 <= self.min_cosine <= 1:
            raise InputError(f"The least cosine lies between -1 and 1, not at {self.min_cosine}.")


class Sight:
    """What the network keeps of one picture, so that masks and crops of regions can follow.

    Attributes:
        levels: the pyramid, (1, C, h, w) each, where the network is. For the released detectors
            they fill 89 MB, for vild-mini under 1 MB.
        picture: (3, h, w) uint8 RGB, as the network read it.
    """

    def __init__(self, levels: Sequence[Tensor], picture: Tensor) -> None:
        self.levels, self.picture = list(levels), picture
        self._masks: dict[int, Rle] = {}

    def masks(
        self, rows: Sequence[int], compute: Callable[[Sequence[int]], Sequence[Rle]]
    ) -> tuple[Rle, ...]:
        """The masks of regions, `compute`d once; two threads may both compute the same."""
        todo = [row for row in dict.fromkeys(rows) if row not in self._masks]
        if todo:
            self._masks.update(zip(todo, compute(todo)))
        return tuple(self._masks[row] for row in rows)


@dataclass(frozen=True, eq=False)
class RawRegions:
    """All N regions of a picture, best objectness first; read-only, shared between askers.

    Attributes:
        detector: name of the one that found them.
        boxes: (N, 4) xyxy inside the original picture, in its pixels.
        objectness: (N,) in [0, 1].
        embeddings: (N, D) unit vectors, to compare with names.
        image_embeddings: (N, D) unit vectors that imitate CLIP's of the cropped region; None
            unless the detector is an ensemble.
        read_boxes: (N, 4) xyxy in pixels of the network's input, possibly beyond the picture.
        width, height: of the original picture; read_size: at which the network read it.
        sight: what later masks and crops need.
    """

    detector: str
    boxes: Floats
    objectness: Floats
    embeddings: Floats
    image_embeddings: Floats | None
    read_boxes: Floats
    width: int
    height: int
    read_size: tuple[int, int]
    sight: Sight = field(repr=False)

    def __post_init__(self) -> None:
        for name in ("boxes", "objectness", "embeddings", "image_embeddings", "read_boxes"):
            if (array := getattr(self, name)) is not None:
                array.setflags(write=False)

    def __len__(self) -> int:
        return len(self.objectness)

    @property
    def areas(self) -> Floats:
        """(N,) in pixels of the original picture."""
        product: Floats = (self.boxes[:, 2:] - self.boxes[:, :2]).prod(axis=1)
        return product

    def rows(self, thresholds: RegionThresholds) -> Rows:
        """Which regions are shown, whatever their name, best objectness first."""
        rows: Rows = select_regions(
            torch.tensor(self.read_boxes),
            torch.tensor(self.objectness),
            torch.tensor(self.areas),
            thresholds.nms,
            thresholds.min_objectness,
            thresholds.min_area,
            thresholds.max_boxes,
        ).numpy()
        return rows

    def vectors(self, rows: Rows) -> Floats:
        """(n, D or 2 D) unit vectors whose cosine is the mean of both heads'."""
        heads = (self.embeddings, self.image_embeddings)
        used = [head[rows] for head in heads if head is not None]
        joined: Floats = np.concatenate(used, axis=1) / np.float32(math.sqrt(len(used)))
        return joined


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """K names ready to be compared with regions.

    Attributes:
        names: as they were typed, those that read the same only once.
        places: of each name in the list that was given.
        base: (K,) bool, which names the detector was trained on; the others are novel to it.
        text: (K, D) unit vectors. background: (D,) that of the word which stands for all else.
    """

    names: tuple[str, ...]
    places: tuple[int, ...]
    base: Tensor
    text: Tensor
    background: Tensor


@dataclass(frozen=True)
class Opinion:
    """How well one name fits a region; `base` as in `Vocabulary`, False for the background."""

    name: str
    score: float
    base: bool


@dataclass(frozen=True, eq=False)
class Picked:
    """D named regions, best first: rows of the raw result, columns of the vocabulary, scores."""

    rows: Rows
    columns: Rows
    scores: Floats


def name_scores(
    raw: RawRegions, rows: Rows, vocabulary: Vocabulary, score: Score, temperature: float
) -> Tensor:
    """What the background and every name score for regions: (n, 1 + K).

    "cosine" is the notebook's. "softmax" of `temperature` times the cosines lies in [0, 1]. In an
    ensemble both heads speak, with the paper's weights (equation 5): two thirds the text head
    for names trained on, one third for all others, of which the background's word is one. There
    the softmax is the geometric mean, rows of which do not add up to 1.

    Raises:
        InputError: there is no such score, or the temperature is not above 0.
    """
    if score not in get_args(Score):
        raise InputError(f"The score is one of {', '.join(get_args(Score))}, not “{score}”.")
    if not 0 < temperature < math.inf:
        raise InputError(f"The temperature is a number above 0, not {temperature}.")
    classes = torch.cat([vocabulary.background[None], vocabulary.text])

    def head(embeddings: Floats) -> Tensor:
        found = cosines(torch.from_numpy(embeddings[rows]), classes)
        return found if score == "cosine" else (found * temperature).log_softmax(dim=-1)

    scores = head(raw.embeddings)
    if raw.image_embeddings is not None:
        base = torch.cat([torch.tensor([False]), vocabulary.base])
        weight = torch.where(base, BASE_WEIGHT, 1 - BASE_WEIGHT)
        scores = weight * scores + (1 - weight) * head(raw.image_embeddings)
    return scores if score == "cosine" else scores.exp()


def pick_regions(
    raw: RawRegions,
    vocabulary: Vocabulary,
    thresholds: RegionThresholds,
    score: Score,
    temperature: float,
) -> Picked:
    """The regions that are shown, by the public notebook's rule, and what they are.

    Raises InputError as `name_scores`.
    """
    rows = raw.rows(thresholds)
    scores = name_scores(raw, rows, vocabulary, score, temperature)
    order, columns = rank_by_name(scores)
    if score == "cosine":
        likeness = scores
    else:
        likeness = name_scores(raw, rows, vocabulary, "cosine", temperature)
    alike = likeness[order, columns] >= thresholds.min_cosine
    order, columns = order[alike], columns[alike]
    values: Floats = scores[order, columns].numpy()
    return Picked(rows[order.numpy()], columns.numpy() - 1, values)


def named_regions(
    raw: RawRegions,
    picked: Picked,
    vocabulary: Vocabulary,
    masks: tuple[Rle | None, ...] | None = None,
    phrases: tuple[int, ...] | None = None,
) -> Detections:
    """Picked regions as everybody reads them; `phrases` are the names' places unless given."""
    columns = picked.columns.tolist()
    return Detections(
        boxes=raw.boxes[picked.rows],
        scores=picked.scores,
        labels=tuple(vocabulary.names[column] for column in columns),
        phrases=phrases or tuple(vocabulary.places[column] for column in columns),
        spans=(None,) * len(columns),
        width=raw.width,
        height=raw.height,
        masks=masks,
    )


def region_mask(
    logits: Tensor, box: Sequence[float], size: tuple[int, int]
) -> npt.NDArray[np.bool_]:
    """`paste_masks` of one region's logits (m, m), of which only the part inside its box is made:
    a large picture with many regions would fill gigabytes. (H, W), `size` is (width, height)."""
    width, height = size
    x1, y1 = max(0, math.floor(box[0])), max(0, math.floor(box[1]))
    x2, y2 = min(width, math.ceil(box[2])), min(height, math.ceil(box[3]))
    whole = np.zeros((height, width), dtype=np.bool_, order="F")
    if x1 < x2 and y1 < y2:
        shifted = torch.tensor([box], dtype=torch.float64) - torch.tensor([x1, y1, x1, y1])
        inside = paste_masks(logits[None].double(), shifted, (x2 - x1, y2 - y1))
        whole[y1:y2, x1:x2] = inside[0].numpy()
    return whole


def original_boxes(
    read_boxes: Tensor, read_size: tuple[int, int], size: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Boxes (N, 4) of the network's input in pixels of the picture: as they are, for masks, and
    upright inside it, for people."""
    moved = rescale_boxes(read_boxes, read_size, size)
    edge = moved.new_tensor(size)
    low = moved[:, :2].minimum(moved[:, 2:]).clamp(min=0).minimum(edge)
    high = moved[:, :2].maximum(moved[:, 2:]).clamp(min=0).minimum(edge)
    return moved, torch.cat([low, high], dim=1)
