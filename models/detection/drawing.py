"""Detections drawn on their picture: masks, boxes and labels, one colour per phrase."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from pathlib import Path

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.ft2font import FT2Font
from PIL import Image, ImageDraw, ImageFont
from pycocotools import mask as coco_mask

from models.detection.colours import phrase_colours, plate_and_text, rgb_of
from models.detection.detections import Detections, Rle, decode_mask
from models.errors import InputError
from models.pictures import on_white

Place = tuple[int, int]  # x, y
Size = tuple[int, int]  # width, height
Box = tuple[int, int, int, int]  # x1, y1, x2, y2
Plates = npt.NDArray[np.int64]  # (K, 4), boxes of labels

__all__ = ["AUTOMATIC", "DrawStyle", "colour_indices", "draw", "phrase_colours", "place_labels"]

MASK_OPACITY = 0.4
LINE_WIDTHS = (0, 40)
TEXT_SIZES = (6, 200)
LONGEST_LABEL = 80  # characters; the rest is an ellipsis
MOST_GAPS = 24  # columns, and rows, tried for a label in a crowd

ASSET_FONTS = Path(__file__).resolve().parents[2] / "assets" / "fonts"
# matplotlib's DejaVu knows far more scripts than the page's own typeface, but no CJK.
DEJAVU = str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans-Bold.ttf")
# File names of fonts with Chinese, Japanese and Korean that systems bring along.
CJK_FONTS = re.compile(
    r"cjk|wqy|droidsansfallback|pingfang|hiragino|msyh|msgothic|yugoth|malgun|applesdgothic"
    r"|notosans(jp|sc|tc|kr)|sourcehan|unifont|arialuni|arial unicode",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class DrawStyle:
    """How to draw. Sizes are pixels of the picture; 0 chooses by the picture's size.

    Raises InputError for sizes out of range.
    """

    line_width: int = 0
    text_size: int = 0
    masks: bool = True
    labels: bool = True
    scores: bool = True

    def __post_init__(self) -> None:
        if not LINE_WIDTHS[0] <= self.line_width <= LINE_WIDTHS[1]:
            raise InputError(f"Choose a line width from 0 (automatic) to {LINE_WIDTHS[1]} pixels.")
        if self.text_size and not TEXT_SIZES[0] <= self.text_size <= TEXT_SIZES[1]:
            raise InputError(
                f"Choose a text size of 0 (automatic) or {TEXT_SIZES[0]} to {TEXT_SIZES[1]} pixels."
            )

    def sized(self, width: int, height: int) -> tuple[int, int]:
        """Line width and text size for a picture."""
        side = (width * height) ** 0.5
        line = self.line_width or round(min(max(side / 350, 1), 12))
        text = self.text_size or round(min(max(side / 58, 11), 64))
        return line, text


AUTOMATIC = DrawStyle()


def draw(
    picture: Image.Image,
    detections: Detections,
    *,
    style: DrawStyle = AUTOMATIC,
    colours: Sequence[str] | None = None,
) -> Image.Image:
    """A new RGB picture with the detections on it, the best on top.

    `colours` holds "#rrggbb" per `colour_indices`, by default `phrase_colours`.
    Raises ValueError where `detections` belong to a picture of another size.
    """
    if picture.size != (detections.width, detections.height):
        raise ValueError(
            f"detections of {detections.width} x {detections.height} on {picture.size}"
        )
    canvas = on_white(picture)  # always a copy
    indices = colour_indices(detections)
    if colours is None:
        colours = phrase_colours(max(indices, default=-1) + 1)
    mine = [colours[index] for index in indices]
    line, text = style.sized(*canvas.size)
    if style.masks and detections.masks is not None:
        _fill_masks(canvas, detections.masks, mine)
    _draw_boxes(canvas, detections.boxes, mine, line)
    if style.labels:
        _draw_labels(canvas, detections, mine, text, style.scores)
    return canvas


def colour_indices(detections: Detections) -> list[int]:
    """Which colour each detection has: its phrase's, and without one its label's.

    Labels follow the phrases, sorted, so that a label keeps its colour in every order.
    """
    first = max(detections.phrases, default=-1) + 1
    words = zip(detections.labels, detections.phrases)
    labels = sorted({label for label, phrase in words if phrase < 0})
    place = {label: first + i for i, label in enumerate(labels)}
    words = zip(detections.labels, detections.phrases)
    return [place[label] if phrase < 0 else phrase for label, phrase in words]


# Masks and boxes


def _fill_masks(canvas: Image.Image, masks: Sequence[Rle | None], colours: Sequence[str]) -> None:
    for mask, colour in reversed(list(zip(masks, colours))):
        if mask is None:
            continue
        x, y, width, height = (int(n) for n in coco_mask.toBbox(mask))
        inside = decode_mask(mask)[y : y + height, x : x + width]
        if inside.size:
            opacity = Image.fromarray(inside * np.uint8(round(255 * MASK_OPACITY)))
            canvas.paste(rgb_of(colour), (x, y), opacity)


def _draw_boxes(
    canvas: Image.Image, boxes: npt.NDArray[np.float32], colours: Sequence[str], line: int
) -> None:
    pen = ImageDraw.Draw(canvas)
    for (x1, y1, x2, y2), colour in reversed(list(zip(_pixels(boxes), colours))):
        # Pillow's corners are pixels, ours are edges.
        pen.rectangle((x1, y1, max(x1, x2 - 1), max(y1, y2 - 1)), outline=colour, width=line)


def _pixels(boxes: npt.NDArray[np.float32]) -> list[Box]:
    return [(x1, y1, x2, y2) for x1, y1, x2, y2 in boxes.round().astype(int).tolist()]


# Labels


@dataclass(frozen=True)
class _Label:
    text: str
    font: ImageFont.FreeTypeFont
    width: int  # of the plate
    height: int
    padding: int


def _draw_labels(
    canvas: Image.Image,
    detections: Detections,
    colours: Sequence[str],
    text_size: int,
    scores: bool,
) -> None:
    boxes = _pixels(detections.boxes)
    labels = []
    for box, text, score in zip(boxes, detections.labels, detections.scores.tolist()):
        limit = min(canvas.width, max(box[2] - box[0], canvas.width // 2, 16 * text_size))
        labels.append(_label(text, f" {score:.2f}" if scores else "", text_size, limit))
    places = place_labels(boxes, [(label.width, label.height) for label in labels], canvas.size)
    pen = ImageDraw.Draw(canvas)
    for label, (x, y), colour in reversed(list(zip(labels, places, colours))):
        plate, ink = plate_and_text(colour)
        pen.rectangle((x, y, x + label.width - 1, y + label.height - 1), fill=plate)
        baseline = y + label.font.getmetrics()[0] + label.padding // 2
        start = (x + label.padding, baseline)
        pen.text(start, label.text, ink, label.font, anchor="ls")


def _label(text: str, score: str, size: int, limit: int) -> _Label:
    text = " ".join(text.split())
    padding = max(2, size // 4)
    font = _font(text, size)
    text = shortened(text, score, font, limit - 2 * padding)
    width = min(limit, int(np.ceil(font.getlength(text))) + 2 * padding)
    return _Label(text, font, width, sum(font.getmetrics()) + padding // 2 * 2, padding)


def shortened(text: str, score: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """Text and score in `width` pixels; the text gives way, by an ellipsis, before the score."""
    if len(text) <= LONGEST_LABEL and font.getlength(text + score) <= width:
        return text + score
    starts = [text[:length].rstrip() for length in range(1, min(len(text), LONGEST_LABEL))]
    lengths = [font.getlength(f"{start}…{score}") for start in starts]
    kept = bisect_right(lengths, width)
    return f"{starts[kept - 1] if kept else ''}…{score}"


def place_labels(boxes: Sequence[Box], sizes: Sequence[Size], picture: Size) -> list[Place]:
    """Top left corner of each label, in pixels, inside the picture.

    boxes x1, y1, x2, y2, and (width, height) of their labels, the most important first. Each goes
    to the first spot at its box that no earlier label covers, else where it covers the least.
    """
    taken = np.zeros((len(boxes), 4), np.int64)
    places = []
    for count, (box, size) in enumerate(zip(boxes, sizes)):
        spot, covered = _best_spot(_corner_spots(box, size), size, taken[:count], picture)
        if covered:
            gaps = _gap_spots(box, size, taken[:count])
            spot, _ = _best_spot(gaps, size, taken[:count], picture)
        taken[count] = (*spot, spot[0] + size[0], spot[1] + size[1])
        places.append(spot)
    return places


def _corner_spots(box: Box, size: Size) -> list[Place]:
    """Where a label goes by preference: above its box, inside, below, flush left, then right."""
    (x1, y1, x2, y2), (width, height) = box, size
    rows = (y1 - height, y1, y2, y2 - height)
    return list(product((x1, x2 - width), rows))


def _gap_spots(box: Box, size: Size, taken: Plates) -> list[Place]:
    """Spots that touch the box and are flush with it or with labels nearby, the nearest first.

    Whatever gap there is, a label that fits can be slid in it up and left until it is flush.
    """
    low = np.subtract(box[:2], size)  # from here to the box's x2, y2 a label's corner touches it
    high = np.array(box[2:])
    near = taken[((taken[:, 2:] > low) & (taken[:, :2] < high + size)).all(axis=1)]
    choices = []
    for axis in (0, 1):
        flush = np.concatenate([near[:, axis + 2], near[:, axis] - size[axis]])
        own = (box[axis], box[axis + 2] - size[axis], low[axis], high[axis])
        flush = np.unique(np.append(flush, own))
        flush = flush[(flush >= low[axis]) & (flush <= high[axis])]
        nearest = np.abs(flush - box[axis]).argsort(kind="stable")[:MOST_GAPS]
        choices.append(flush[nearest].tolist())
    x1, y1 = box[:2]
    return sorted(product(*choices), key=lambda spot: abs(spot[0] - x1) + abs(spot[1] - y1))


def _best_spot(
    spots: Sequence[Place], size: Size, taken: Plates, picture: Size
) -> tuple[Place, int]:
    """The first spot in the picture that covers the least of the labels there, and how much."""
    room = np.maximum(np.subtract(picture, size), 0)
    corners = np.array(spots)  # (S, 2)
    # Sideways a label moves into the picture; up and down it must fit, if it does anywhere.
    fits = (corners[:, 1] >= 0) & (corners[:, 1] <= room[1])
    corners = (corners[fits] if fits.any() else corners).clip(0, room)
    covered = _covered(np.hstack([corners, np.add(corners, size)]), taken)
    best = int(covered.argmin())
    return (int(corners[best, 0]), int(corners[best, 1])), int(covered[best])


def _covered(plates: Plates, taken: Plates) -> npt.NDArray[np.int64]:
    """(S,) how many pixels of each plate (S, 4) lie on taken ones (K, 4), counted per taken one."""
    low = np.maximum(plates[:, None, :2], taken[None, :, :2])
    high = np.minimum(plates[:, None, 2:], taken[None, :, 2:])
    return np.asarray((high - low).clip(0).prod(axis=-1).sum(axis=-1), np.int64)


# Fonts


def _font(text: str, size: int) -> ImageFont.FreeTypeFont:
    """The house's bold DejaVu, or the first font at hand that has every letter of `text`."""
    letters = {ord(letter) for letter in text}
    if letters <= _charset(DEJAVU):
        return _open(DEJAVU, size)
    return _open(next((path for path in _fallbacks() if letters <= _charset(path)), DEJAVU), size)


@lru_cache(maxsize=32)
def _open(path: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(path, size)


@lru_cache(maxsize=32)
def _charset(path: str) -> frozenset[int]:
    try:
        return frozenset(FT2Font(path).get_charmap())
    except (OSError, RuntimeError):  # a file that FreeType cannot read
        return frozenset()


@lru_cache(maxsize=1)
def _fallbacks() -> tuple[str, ...]:
    # Late: importing the font manager reads its cache, or makes one.
    from matplotlib.font_manager import findSystemFonts

    ours = sorted(str(path) for path in ASSET_FONTS.glob("*") if path.suffix in {".ttf", ".otf"})
    system = sorted(path for path in findSystemFonts() if CJK_FONTS.search(Path(path).name))
    return (*ours, *system)
