"""A picture with boxes on it, and what is in them: escaped HTML of our own, no picture in it.

Whatever belongs together carries the same `data-phrase` (a phrase's number) and `data-box` (a
box's number) inside one `data-scene`; `boxes.js` lights up what the pointer or the focus is on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from PIL import Image

from demos.ui import downloads
from models.detection.colours import plate_and_text
from models.detection.detections import Detections

_HERE = Path(__file__).parent
CSS = (_HERE / "boxes.css").read_text(encoding="utf-8")
HEAD = f"<script>\n{(_HERE / 'boxes.js').read_text(encoding='utf-8')}</script>"
# Clicks on a box, a crop or a row of a table reach the server as an event of the component.
CHOOSES = """
element.addEventListener("click", (event) => {
  const source = event.target.closest("[data-box]");
  if (source) trigger("select", { index: Number(source.dataset.box) });
});
"""
SHOWN_SIDE = 1280  # long side of the picture on the page; boxes stay in pixels of the original
MAX_TAGS = 30  # more boxes than this show their labels only when they are lit
MAX_CROPS = 60
MAX_CHIPS = 60


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A picture with boxes on it.

    scope:    names this result on the page ("main", "left", "right").
    picture:  address of the picture as shown.
    colours:  "#rrggbb" per phrase.
    line_width, text_size: of the boxes, pixels of the screen; 0 leaves it to the style sheet.
    outlines: per box the address of its mask, white inside the box on nothing; "" for none.
    marked:   per box whether its label is set apart, as that of a novel name.
    """

    scope: str
    picture: str
    colours: tuple[str, ...]
    detections: Detections
    line_width: int = 0
    text_size: int = 0
    outlines: Sequence[str] = ()
    marked: Sequence[bool] = ()


def shown_copy(photo: Image.Image) -> str:
    """Path of the picture as the page shows it."""
    small = photo.copy()
    small.thumbnail((SHOWN_SIDE, SHOWN_SIDE))
    return downloads.save_jpeg(small, "picture")


def address(path: str) -> str:
    """Where the page finds a file of ours; relative, so that it holds behind a proxy's path, too."""
    return f"gradio_api/file={path}"


def empty(text: str) -> str:
    """What stands where a result will be."""
    return f'<div class="atelier-empty">{escape(text)}</div>'


# ------------------------------------------------------------------------------- the picture


def sizes(shown: Scene) -> str:
    """Style of the scene: the chosen line width and text size."""
    line = f"--line:{shown.line_width}px;" if shown.line_width else ""
    return line + (f"--text:{shown.text_size}px" if shown.text_size else "")


def boxed(shown: Scene) -> str:
    """The picture with its boxes as buttons."""
    found = shown.detections
    return (
        f'<div class="atelier-framed{" many" if len(found) > MAX_TAGS else ""}">'
        f'<img src="{escape(shown.picture)}" width="{found.width}" height="{found.height}" '
        f'alt="The picture, {len(found)} boxes in it">{_boxes(shown)}</div>'
    )


def _boxes(shown: Scene) -> str:
    """The boxes in shares of the picture; the smaller lies above the larger."""
    found = shown.detections
    areas = [(x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in found.boxes.tolist()]
    order = sorted(range(len(areas)), key=lambda index: -areas[index])
    layer = {index: place for place, index in enumerate(order)}
    return "".join(_box(shown, index, layer[index]) for index in range(len(found)))


def _box(shown: Scene, index: int, layer: int) -> str:
    found = shown.detections
    x1, y1, x2, y2 = found.boxes[index].tolist()
    phrase, score, label = found.phrases[index], float(found.scores[index]), found.labels[index]
    across, down = 100 / found.width, 100 / found.height
    plate, ink = plate_and_text(colour(shown, phrase))
    side = " under" if y1 * down < 9 else ""
    side += " left" if x1 * across > 65 else ""
    side += " marked" if shown.marked and shown.marked[index] else ""
    outline = shown.outlines[index] if shown.outlines else ""
    mask = f'<i style="--mask:url({outline})"></i>' if outline else ""
    return (
        f'<button type="button" class="atelier-box{side}" data-box="{index}" '
        f'data-phrase="{phrase}" '
        f'style="--c:{colour(shown, phrase)};--plate:{plate};--ink:{ink};z-index:{layer};'
        f"left:{x1 * across:.3f}%;top:{y1 * down:.3f}%;"
        f'width:{(x2 - x1) * across:.3f}%;height:{(y2 - y1) * down:.3f}%" '
        f'aria-label="{escape(label)}, score {score:.2f}, '
        f'box {x1:.0f}, {y1:.0f} to {x2:.0f}, {y2:.0f}">'
        f"{mask}<span>{escape(label)} {score:.2f}</span></button>"
    )


def colour(shown: Scene, phrase: int) -> str:
    """That of a phrase; grey for what belongs to none."""
    return shown.colours[phrase] if 0 <= phrase < len(shown.colours) else "#6a7185"


# ------------------------------------------------------------------------------------- crops


def crops(shown: Scene, waiting: str = "What the boxes hold appears here.") -> str:
    """Every box cut out, best first: windows onto the one picture that the page already has."""
    found = shown.detections
    if not len(found):
        return empty(waiting)
    cut = "".join(_crop_button(shown, index) for index in range(min(len(found), MAX_CROPS)))
    hidden = len(found) - MAX_CROPS
    more = f'<div class="atelier-told">and {hidden} more</div>' if hidden > 0 else ""
    return (
        f'<div class="atelier-crops" data-scene="{shown.scope}" style="{paper(shown)}">{cut}</div>'
        f"{more}"
    )


def _crop_button(shown: Scene, index: int) -> str:
    found, phrase = shown.detections, shown.detections.phrases[index]
    label = f"{found.labels[index]} {float(found.scores[index]):.2f}"
    marked = ' class="marked"' if shown.marked and shown.marked[index] else ""
    return (
        f'<button type="button"{marked} data-box="{index}" data-phrase="{phrase}" '
        f'style="--c:{colour(shown, phrase)}">{window(shown, index)}'
        f"<span>{escape(label)}</span></button>"
    )


def paper(shown: Scene) -> str:
    """Style of what holds windows."""
    return f"--picture:url(&quot;{escape(shown.picture)}&quot;)"


def window(shown: Scene, index: int, outline: str = "") -> str:
    """The picture as a background, moved and scaled so that only the box is seen, or of it only
    what lies in its `outline`."""
    found = shown.detections
    x1, y1, x2, y2 = found.boxes[index].tolist()
    width, height = max(x2 - x1, 1.0), max(y2 - y1, 1.0)
    spare_x, spare_y = max(found.width - width, 1e-6), max(found.height - height, 1e-6)
    cut = f";--mask:url({outline})" if outline else ""
    return (
        f"<i{' class=cut' if outline else ''} "
        f'style="aspect-ratio:{width:.1f}/{height:.1f};--tall:{min(1, width / height):.3f};'
        f"background-size:{100 * found.width / width:.2f}% {100 * found.height / height:.2f}%;"
        f"background-position:{100 * x1 / spare_x:.2f}% {100 * y1 / spare_y:.2f}%"
        f'{cut}"></i>'
    )


# ---------------------------------------------------------------------------- phrases and bars


def chips(
    texts: Sequence[str], colours: Sequence[str], told: str, marked: Sequence[bool] = ()
) -> str:
    """Phrases in their colours under a line `told`."""
    marks = [*marked, *[False] * (len(texts) - len(marked))]
    shown = "".join(
        f'<li{" class=marked" if mark else ""} style="--c:{colour}">{escape(text)}</li>'
        for text, colour, mark in zip(texts[:MAX_CHIPS], colours, marks)
    )
    more = f"<li>and {len(texts) - MAX_CHIPS} more</li>" if len(texts) > MAX_CHIPS else ""
    return (
        f'<div class="atelier-phrases" role="status"><b>{escape(told)}</b>'
        f'<ul dir="auto">{shown}{more}</ul></div>'
    )


def complaint(text: str) -> str:
    """In the chips' place: why there are none."""
    return f'<div class="atelier-phrases" role="status"><b>{escape(text)}</b></div>'


def bar(text: str, share: float, told: str, kind: str = "") -> str:
    """A row of `atelier-bars`: the text, a bar over `share` of its width, what it stands for."""
    return (
        f'<div{f" class={kind}" if kind else ""}><span dir="auto">{escape(text)}</span>'
        f'<i><b style="width:{100 * min(max(share, 0), 1):.1f}%"></b></i>'
        f"<span>{told}</span></div>"
    )
