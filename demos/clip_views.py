"""How the CLIP tab shows its results: escaped HTML for the page, Pillow pictures to take away."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from functools import lru_cache
from html import escape
from pathlib import Path

import matplotlib
from PIL import Image, ImageDraw, ImageFont, ImageOps

from demos.ui.text import percent
from models.clip.recognition import Matching, Ranking, Recognition

CSS = (Path(__file__).parent / "clip.css").read_text(encoding="utf-8")
INK, SOFT, TRACK = (23, 27, 40), (106, 113, 133), (230, 232, 240)
ACCENT, WARM, PAPER = (67, 64, 216), (255, 176, 32), (255, 255, 255)
HOT = 0.5  # from this much heat on a number is written in the paper's colour


def empty(text: str) -> str:
    """What stands where a result will be."""
    return f'<div class="clip-empty">{escape(text)}</div>'


# ---------------------------------------------------------------------------------- HTML


def bars(result: Recognition, top: int) -> str:
    """The best `top` labels as bars with probability and cosine."""
    rows = "".join(
        f'<div class="row{" best" if place == 0 else ""}">'
        f'<span class="label" dir="auto">{escape(score.label)}</span>'
        f'<span class="track"><i style="width:{100 * score.probability:.2f}%"></i></span>'
        f'<span class="number">{percent(score.probability)}</span>'
        f'<span class="number cosine">{score.cosine:.3f}</span></div>'
        for place, score in enumerate(result.scores[:top])
    )
    head = (
        '<div class="row head"><span>label</span><span></span>'
        '<span class="number">probability</span><span class="number">cosine</span></div>'
    )
    hidden = len(result.labels) - top
    more = f'<div class="head">and {hidden} more labels below these</div>' if hidden > 0 else ""
    return f'<div class="clip-bars">{head}{rows}{more}</div>'


def matrix(result: Matching, thumbs: Sequence[str], normalise: str) -> str:
    """The similarity matrix as a table: pictures down, captions across, heat and numbers."""
    table = result.table(normalise)
    heats = _heats(table, normalise)
    head = "".join(f'<th scope="col" dir="auto">{escape(c)}</th>' for c in result.captions)
    body = "".join(
        f'<tr><th scope="row"><img src="{thumb}" alt="{escape(name)}" title="{escape(name)}"></th>'
        + "".join(
            _cell(result, row, column, table[row][column], heats[row][column], normalise)
            for column in range(len(result.captions))
        )
        + "</tr>"
        for row, (name, thumb) in enumerate(zip(result.pictures, thumbs))
    )
    return (
        '<div class="clip-scroll"><table class="clip-matrix">'
        f"<thead><tr><td style='background:none'></td>{head}</tr></thead>"
        f"<tbody>{body}</tbody></table></div>"
        '<div class="clip-legend"><b>■</b> the best caption of each picture. '
        f"{_LEGENDS[normalise]} Point at a cell for all its numbers.</div>"
    )


_LEGENDS = {
    "rows": "Each row adds up to 100%: which caption for this picture?",
    "columns": "Each column adds up to 100%: which picture for this caption?",
    "cosine": "Plain cosines, before any temperature.",
}


def _cell(
    result: Matching, row: int, column: int, value: float, heat: float, normalise: str
) -> str:
    classes = ("best " if result.best[row] == column else "") + ("hot" if heat > HOT else "")
    cosine = result.cosines[row][column]
    hover = f"{result.pictures[row]} × {result.captions[column]}\ncosine {cosine:.4f}"
    if normalise != "cosine":
        hover += f"\n{percent(value)} of its {normalise.rstrip('s')}"
    text = f"{value:.3f}" if normalise == "cosine" else percent(value)
    return f'<td class="{classes}" style="--heat:{heat:.3f}" title="{escape(hover)}">{text}</td>'


def _heats(table: Sequence[Sequence[float]], normalise: str) -> list[list[float]]:
    """Numbers to shades in [0, 1]: probabilities as they are, cosines between their extremes."""
    if normalise != "cosine":
        return [list(row) for row in table]
    low, high = min(map(min, table)), max(map(max, table))
    return [[(value - low) / max(high - low, 1e-9) for value in row] for row in table]


def data_uri(image: Image.Image, side: int = 120) -> str:
    """A square thumbnail as a `data:` address."""
    stream = io.BytesIO()
    ImageOps.fit(image, (side, side)).save(stream, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode()


def thumb_of(uri: str) -> Image.Image:
    """The picture inside one of our own `data_uri`s."""
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))).convert("RGB")


# ------------------------------------------------------------------------------- pictures


def draw_bars(image: Image.Image, result: Recognition, top: int) -> Image.Image:
    """The picture beside its bars, on white, 1200 px wide."""
    scores = result.scores[:top]
    height = max(520, 90 + 44 * len(scores))
    canvas, draw = _canvas((1200, height))
    shown = ImageOps.contain(image, (480, height - 80))
    canvas.paste(shown, (40, 40))
    for place, score in enumerate(scores):
        y = 44 + 44 * place
        _write(draw, (560, y), score.label, 20, width=230, bold=place == 0)
        draw.rounded_rectangle((800, y + 4, 1020, y + 20), 8, TRACK)
        reach = max(4, round(220 * score.probability))
        draw.rounded_rectangle((800, y + 4, 800 + reach, y + 20), 8, ACCENT)
        _write(draw, (1036, y), percent(score.probability), 20, bold=place == 0)
        _write(draw, (1112, y + 3), f"{score.cosine:.3f}", 16, colour=SOFT)
    _write(draw, (560, height - 40), f"{result.model} · CLIP Atelier", 16, colour=SOFT)
    return canvas


def draw_matrix(result: Matching, thumbs: Sequence[str], normalise: str) -> Image.Image:
    """The similarity matrix on white, 96 px a cell."""
    table = result.table(normalise)
    heats = _heats(table, normalise)
    side, left, top = 96, 130, 150
    size = (left + side * len(result.captions) + 30, top + side * len(result.pictures) + 60)
    canvas, draw = _canvas(size)
    for column, caption in enumerate(result.captions):
        _write_wrapped(draw, (left + side * column + 4, top - 10), caption, side - 8)
    for row, uri in enumerate(thumbs):
        y = top + side * row
        canvas.paste(thumb_of(uri).resize((side - 8, side - 8)), (left - side, y + 2))
        for column, heat in enumerate(heats[row]):
            x = left + side * column
            best = result.best[row] == column
            draw.rounded_rectangle(
                (x + 2, y + 2, x + side - 6, y + side - 6), 10, _mixed(heat),
                outline=WARM if best else None, width=4,
            )  # fmt: skip
            value = table[row][column]
            text = f"{value:.3f}" if normalise == "cosine" else percent(value)
            draw.text(
                (x + side / 2 - 2, y + side / 2 - 2), text, PAPER if heat > HOT else INK,
                _font(18, best), anchor="mm",
            )  # fmt: skip
    _write(draw, (left - side, size[1] - 40), f"{result.model} · CLIP Atelier", 16, colour=SOFT)
    return canvas


def draw_ranking(result: Ranking, thumbs: Sequence[Image.Image]) -> Image.Image:
    """The best pictures of a search in a grid of six columns, best first."""
    side, columns = 190, 6
    rows = -(-len(thumbs) // columns)
    canvas, draw = _canvas((40 + side * columns, 90 + (side + 20) * rows))
    _write(draw, (30, 24), f"“{result.query}” · {result.model} · CLIP Atelier", 22, width=1100)
    for place, (thumb, score) in enumerate(zip(thumbs, result.scores)):
        x, y = 25 + side * (place % columns), 74 + (side + 20) * (place // columns)
        canvas.paste(ImageOps.fit(thumb, (side - 12, side - 12)), (x, y))
        _write(draw, (x, y + side - 10), f"{score.cosine:.3f}  {score.label}", 14, width=side - 14)
    return canvas


def _canvas(size: tuple[int, int]) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    canvas = Image.new("RGB", size, PAPER)
    return canvas, ImageDraw.Draw(canvas)


@lru_cache(maxsize=32)
def _font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    # matplotlib's DejaVu knows far more scripts than the page's own typeface.
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name), size)


def _write(
    draw: ImageDraw.ImageDraw, place: tuple[float, float], text: str, size: int, *,
    width: int | None = None, bold: bool = False, colour: tuple[int, int, int] = INK,
) -> None:  # fmt: skip
    """One line, cut with an ellipsis where it is wider than `width`."""
    font = _font(size, bold)
    if width is not None and font.getlength(text) > width:
        while text and font.getlength(text + "…") > width:
            text = text[:-1]
        text += "…"
    draw.text(place, text, colour, font)


def _write_wrapped(
    draw: ImageDraw.ImageDraw, place: tuple[float, float], text: str, width: int
) -> None:
    """Up to five lines that end at `place`."""
    font, lines = _font(14), [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    for above, line in enumerate(reversed(lines[:5])):
        _write(draw, (place[0], place[1] - 20 * (above + 1)), line, 14, width=width)


def _mixed(heat: float) -> tuple[int, int, int]:
    red, green, blue = (
        round(cold + heat * (hot - cold)) for cold, hot in zip((238, 240, 245), ACCENT)
    )
    return red, green, blue


DIAGRAM = """
<svg viewBox="0 0 880 360" role="img" xmlns="http://www.w3.org/2000/svg">
<title>CLIP: captions and pictures each go through a tower; the matrix of cosines is trained to be
large on its diagonal; a new picture is compared with the captions of all labels.</title>
<g font-size="15">
<text x="20" y="28" font-weight="700">1  Training: 400 million pairs</text>
<rect x="20" y="48" width="120" height="54" rx="10" class="fill-soft"/>
<text x="80" y="72" text-anchor="middle">“a dog on</text>
<text x="80" y="91" text-anchor="middle">the beach”</text>
<path d="M144 75h30" class="soft" stroke-width="2" fill="none"/>
<path d="M178 52l64 12v22l-64 12z" class="fill-warm"/>
<text x="210" y="122" text-anchor="middle" class="soft">text tower</text>
<rect x="20" y="190" width="120" height="92" rx="10" class="fill-soft"/>
<path d="M30 272l34-42 24 24 16-16 28 34z" class="fill-accent"/>
<circle cx="112" cy="214" r="11" class="fill-warm"/>
<path d="M144 236h30" class="soft" stroke-width="2" fill="none"/>
<path d="M178 208l64 14v28l-64 14z" class="fill-accent"/>
<text x="210" y="290" text-anchor="middle" class="soft">image tower</text>
<path d="M246 75h72v26" class="soft" stroke-width="2" fill="none"/>
<path d="M246 236h40" class="soft" stroke-width="2" fill="none"/>
</g>
<g font-size="14" text-anchor="middle">
MATRIX
</g>
<g font-size="15">
<text x="316" y="328" class="soft">cosines: bright on the diagonal,</text>
<text x="316" y="348" class="soft">dark elsewhere</text>
<path d="M560 40v290" class="soft" stroke-width="1" stroke-dasharray="4 5"/>
<text x="590" y="28" font-weight="700">2  Use: any labels, no training</text>
<rect x="590" y="52" width="76" height="62" rx="10" class="fill-soft"/>
<path d="M598 106l22-28 15 16 10-10 16 22z" class="fill-accent"/>
<path d="M670 83h26" class="soft" stroke-width="2" fill="none"/>
<path d="M700 66l44 10v14l-44 10z" class="fill-accent"/>
<path d="M722 112v40" class="soft" stroke-width="2" fill="none"/>
<text x="590" y="176">a photo of a dog</text><rect x="730" y="163" width="118" height="16" rx="8" class="fill-accent"/>
<text x="590" y="210">a photo of a cat</text><rect x="730" y="197" width="26" height="16" rx="8" class="fill-accent" opacity=".6"/>
<text x="590" y="244">a photo of a car</text><rect x="730" y="231" width="9" height="16" rx="8" class="fill-accent" opacity=".6"/>
<text x="590" y="290" class="soft">softmax( scale · cosine / temperature )</text>
</g></svg>
"""


def diagram() -> str:
    """The contrastive matrix and its use, as an inline SVG of our own."""
    cells = []
    for row in range(5):
        cells.append(f'<text x="303" y="{135 + 38 * row}">I{row + 1}</text>')
        cells.append(f'<text x="{337 + 38 * row}" y="104">T{row + 1}</text>')
        for column in range(5):
            kind = (
                ' class="fill-accent"' if row == column else ' class="fill-accent" opacity="0.14"'
            )
            cells.append(
                f'<rect x="{320 + 38 * column}" y="{113 + 38 * row}" width="34" height="34" '
                f'rx="6"{kind}/>'
            )
    return DIAGRAM.replace("MATRIX", "\n".join(cells))


HOW = """
Two networks, one for pictures and one for text, are trained together on pairs from the web: in a
batch of N pictures and N captions, the N right pairs shall have a high **cosine** and the other
N² − N a low one. Afterwards a classifier is nothing but words: write one caption per label, and the
nearest caption wins. Nobody had to choose the labels beforehand.

- **Probability** is a softmax over the labels *you* gave: it always adds up to 100%, also when none
  of them is right. The **cosine** beside it says how near each label is in itself.
- **Temperature** divides the logits; 1 is what the model learned in training.
- **Why** follows the chosen label's score back to the places in the picture that speak for it.
"""
