"""How the CLIPDraw tab shows a drawing as it grows and when it is done: escaped HTML and SVG."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from xml.etree import ElementTree

from PIL import Image

from demos.ui.live import curve, data_uri
from demos.ui.text import percent
from models.clipdraw import svg
from models.clipdraw.config import RGB
from models.clipdraw.strokes import Strokes

CSS = (Path(__file__).parent / "clipdraw.css").read_text(encoding="utf-8")
Box = tuple[float, float, float, float]


# -------------------------------------------------------------------------- the drawing itself


def empty(text: str) -> str:
    """What stands where the drawing will be."""
    return f'<div class="draw-stage"><div class="draw-empty">{escape(text)}</div></div>'


def live(picture: Image.Image, beside: str = "") -> str:
    """The stage while a drawing grows; `beside` is a figure that is done already.

    A JPEG inside the page costs a tenth of what its strokes as SVG would at 1,024 strokes, and no
    request of its own.
    """
    source = data_uri(picture)
    image = f'<img src="{source}" alt="The drawing so far" decoding="sync">'
    return f'<div class="draw-stage">{beside}{_figure(image, picture.size)}</div>'


def done(figures: Sequence[str]) -> str:
    """The stage with finished drawings, one or two."""
    return f'<div class="draw-stage">{"".join(figures)}</div>'


def figure(
    strokes: Strokes,
    background: RGB | None,
    *,
    caption: str = "",
    region: Box | None = None,
    chosen: bool = True,
) -> str:
    """A finished drawing as SVG inside the page, sharp at any size.

    Args:
        region: left, top, right, bottom in per cent, outlined.
        chosen: this is the one that buttons and downloads mean; regions are drawn on it.
    """
    root = svg.document(strokes, background=background)
    for element in root.iter():
        element.attrib.pop("id", None)  # a page may hold several drawings, an id stands once
    root.set("role", "img")
    root.set("aria-label", f"Drawing of {len(strokes)} strokes")
    drawn = ElementTree.tostring(root, encoding="unicode")
    if region is not None:
        left, top, right, bottom = region
        place = f"left:{left:g}%;top:{top:g}%;width:{right - left:g}%;height:{bottom - top:g}%"
        drawn += f'<i class="draw-region" style="{place}"></i>'
    return _figure(drawn, strokes.canvas, caption, "chosen" if chosen else "other")


def _figure(inner: str, size: tuple[int, int], caption: str = "", kind: str = "") -> str:
    text = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    width, height = size
    return (
        f'<figure class="{kind}" style="--wide:{width};--high:{height}">'
        f'<div class="draw-paper">{inner}</div>{text}</figure>'
    )


# Dragging on a finished drawing chooses a region; the page hears of it as the event "select".
DRAG = """
let paper = null, box = null, from = null;
const at = (event) => {
  const area = paper.getBoundingClientRect();
  const part = (value) => Math.min(100, Math.max(0, 100 * value));
  return [part((event.clientX - area.left) / area.width),
          part((event.clientY - area.top) / area.height)];
};
const span = (event) => {
  const to = at(event);
  return [Math.min(from[0], to[0]), Math.min(from[1], to[1]),
          Math.max(from[0], to[0]), Math.max(from[1], to[1])].map((value) => Math.round(value));
};
element.addEventListener("pointerdown", (event) => {
  paper = event.target.closest("figure.chosen .draw-paper");
  if (!paper || event.button !== 0) { paper = null; return; }
  event.preventDefault();
  from = at(event);
  paper.querySelectorAll(".draw-region").forEach((old) => old.remove());
  box = document.createElement("i");
  box.className = "draw-region";
  paper.append(box);
  element.setPointerCapture(event.pointerId);
});
element.addEventListener("pointermove", (event) => {
  if (!paper) return;
  const [left, top, right, bottom] = span(event);
  Object.assign(box.style, { left: left + "%", top: top + "%",
                             width: right - left + "%", height: bottom - top + "%" });
});
element.addEventListener("pointerup", (event) => {
  if (!paper) return;
  const region = span(event);
  paper = null;
  if (region[2] - region[0] < 2 || region[3] - region[1] < 2) { box.remove(); return; }
  trigger("select", { region });
});
element.addEventListener("pointercancel", () => { paper = null; box?.remove(); });
"""


# ------------------------------------------------------------------------- what is told beside


def panel(
    losses: Sequence[float], nearest: Sequence[tuple[str, float]], strokes: int, step: int
) -> str:
    """Counters, the loss curve and the nearest words."""
    if not losses:
        return '<div class="draw-panel"></div>'
    counters = (
        f'<div class="draw-counters"><span><b>{strokes:,}</b> strokes</span>'
        f"<span><b>{step:,}</b> steps</span><span><b>{losses[-1]:.3f}</b> loss</span></div>"
    )
    return f'<div class="draw-panel">{counters}{curve(losses)}{words(nearest)}</div>'


def words(nearest: Sequence[tuple[str, float]]) -> str:
    """The words that fit the drawing best as bars."""
    rows = "".join(
        f'<div class="row"><span dir="auto">{escape(word)}</span>'
        f'<span class="track"><i style="width:{100 * share:.1f}%"></i></span>'
        f'<span class="number">{escape(percent(share))}</span></div>'
        for word, share in nearest
    )
    return f'<div class="draw-words"><div class="head">Nearest words</div>{rows}</div>'


# ------------------------------------------------------------------------------ how it works

DIAGRAM = """
<svg viewBox="0 0 880 276" role="img" fill="none" stroke-width="2" xmlns="http://www.w3.org/2000/svg">
<title>CLIPDraw: strokes are rendered, seen through random perspectives and crops, compared with the
words by CLIP; the gradient of the score moves the strokes' points, widths and colours.</title>
<g font-size="15" stroke="none">
<text x="88" y="28" text-anchor="middle" font-weight="700">1  Strokes</text>
<text x="300" y="28" text-anchor="middle" font-weight="700">2  Picture</text>
<text x="515" y="28" text-anchor="middle" font-weight="700">3  Random views</text>
<text x="760" y="28" text-anchor="middle" font-weight="700">4  CLIP</text>
</g>
<rect x="22" y="46" width="132" height="132" rx="12" class="fill-soft"/>
<path d="M44 150C60 60 120 60 130 140" class="accent" stroke-width="7" stroke-linecap="round"/>
<path d="M60 84C84 60 108 62 124 88" class="warm" stroke-width="5" stroke-linecap="round"/>
<g class="ink" stroke-width="1.5"><path d="M44 150L60 60M130 140L120 60" class="soft" stroke-dasharray="3 4"/>
<circle cx="44" cy="150" r="5" class="ink" fill="currentColor"/><circle cx="130" cy="140" r="5" class="ink" fill="currentColor"/>
<circle cx="60" cy="60" r="4" class="ink"/><circle cx="120" cy="60" r="4" class="ink"/></g>
<path d="M162 112h58m-9-7l9 7-9 7" class="ink"/>
<rect x="234" y="46" width="132" height="132" rx="12" class="fill-soft"/>
<path d="M262 142C270 76 330 76 338 142" class="accent" stroke-width="12" stroke-linecap="round"/>
<path d="M274 88C290 70 312 70 326 90" class="warm" stroke-width="9" stroke-linecap="round"/>
<path d="M374 112h50m-9-7l9 7-9 7" class="ink"/>
<g class="soft" stroke-width="1.5">
<path d="M446 58l66-8 6 60-62 6z" class="soft fill-soft"/><path d="M524 54l62 10-8 56-56-6z" class="soft fill-soft"/>
<path d="M442 128l60-6 12 58-70 4z" class="soft fill-soft"/><path d="M528 128l58 2 4 52-66-4z" class="soft fill-soft"/></g>
<g stroke-width="5" stroke-linecap="round">
<path class="accent" d="M460 104c6-30 34-30 44-2"/><path class="accent" d="M538 108c2-34 26-34 32 0"/>
<path class="accent" d="M456 172c2-34 34-36 44-4"/><path class="accent" d="M540 172c2-30 30-30 36 0"/></g>
<path d="M602 112h50m-9-7l9 7-9 7" class="ink"/>
<path d="M668 66l92 20v52l-92 20z" class="fill-accent" opacity=".9"/>
<g font-size="15" stroke="none"><text x="780" y="106">“a red apple”</text>
<text x="780" y="130" class="soft">how near?</text></g>
<path d="M714 170v68H88v-42m-7 9l7-9 7 9" class="warm" stroke-width="3"/>
<g font-size="15" stroke="none"><text x="400" y="228" text-anchor="middle" class="accent">the gradient, back through every step</text>
<text x="400" y="262" text-anchor="middle" class="soft">moves control points, widths and colours; hundreds of times</text></g>
</svg>
"""

HOW = """
Nothing here was trained to draw. A renderer written so that derivatives pass through it turns
strokes into a picture; **CLIP** says how near that picture is to the words; the gradient of this
score says how each control point, width and colour should change. A few hundred such steps, and
strokes have gathered into a drawing. What you take home are the strokes themselves, as SVG.

- **Strokes**: 16 make a symbol, 256 a picture. Drag *Most important strokes* afterwards to see
  which ones carry the meaning.
- **Many views** (augmentation) is the trick of the paper: every step, the canvas is seen through
  random perspectives and crops. Switch it off and the score still climbs, but what comes out fools
  CLIP and nobody else.
- **The prompt sets the style**, too: “watercolor painting of ...”, “... pencil sketch”. The large
  models know many styles; mini knows things and colours.
- **Hardened** means: trained on pictures altered to fool it, so that its gradients point to shapes
  and not to noise. Draw the same words with *CLIP mini* to see the difference.
- A **negative prompt** steers away from its words; further prompts pull with the weight you give.
"""
