"""How the GLIP tab shows its results: boxes over the picture, words in the boxes' colours, crops,
the word-region matrix and what a region listens to. Escaped HTML of our own, no picture in it.

Whatever belongs together carries the same `data-phrase` (a phrase's number) and `data-box` (a
box's number) inside one `data-glip`; `glip.js` lights up what the pointer or the focus is on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from models.detection.colours import plate_and_text
from models.detection.detections import Detections

_HERE = Path(__file__).parent
CSS = (_HERE / "glip.css").read_text(encoding="utf-8")
HEAD = f"<script>\n{(_HERE / 'glip.js').read_text(encoding='utf-8')}</script>"
# Clicks on a box, a crop or a row of the matrix reach the server as an event of the component.
CHOOSES = """
element.addEventListener("click", (event) => {
  const source = event.target.closest("[data-box]");
  if (source) trigger("select", { index: Number(source.dataset.box) });
});
"""
MAX_TAGS = 30  # more boxes than this show their labels only when they are lit
MAX_CROPS = 60
MAX_CHIPS = 60
MAX_ROWS, MAX_COLUMNS = 20, 36  # of the matrix
HOT = 0.55  # from this much heat on a number is written in the paper's colour


@dataclass(frozen=True)
class Span:
    """A piece `[begin, end)` of the caption and the phrase it belongs to, -1 for none."""

    begin: int
    end: int
    phrase: int


@dataclass(frozen=True)
class Scene:
    """Everything that is drawn of one result.

    scope:   names this result on the page ("main", "left", "right").
    picture: address of the picture as shown.
    caption: the words asked for, with the `spans` of their phrases.
    colours: "#rrggbb" per phrase.
    best:    score of the best candidate, shown or not; None when there is no candidate at all.
    line_width, text_size: of the boxes, pixels of the screen; 0 leaves it to the style sheet.
    """

    scope: str
    picture: str
    caption: str
    spans: tuple[Span, ...]
    colours: tuple[str, ...]
    detections: Detections
    best: float | None = None
    line_width: int = 0
    text_size: int = 0


@dataclass(frozen=True)
class Hearing:
    """What each shown box makes of each word.

    words:     the words with their places in the caption.
    scores:    [box][word], in [0, 1].
    attention: [box][word], each row's weights as the fusion's softmax left them; empty when the
               model has no fusion.
    """

    words: tuple[Span, ...]
    scores: Sequence[Sequence[float]]
    attention: Sequence[Sequence[float]] = ()


def empty(text: str) -> str:
    """What stands where a result will be."""
    return f'<div class="glip-empty">{escape(text)}</div>'


# ----------------------------------------------------------------------- picture and caption


def scene(shown: Scene) -> str:
    """The caption with its phrases in colour, above the picture with its boxes."""
    found = shown.detections
    return (
        f'<div class="glip-scene" data-glip="{shown.scope}" style="{_sizes(shown)}">'
        f"{_caption(shown)}"
        f'<div class="glip-picture{" many" if len(found) > MAX_TAGS else ""}">'
        f'<img src="{escape(shown.picture)}" width="{found.width}" height="{found.height}" '
        f'alt="The picture, {len(found)} boxes in it">{_boxes(shown)}</div>{_told(shown)}</div>'
    )


def _sizes(shown: Scene) -> str:
    line = f"--line:{shown.line_width}px;" if shown.line_width else ""
    return line + (f"--text:{shown.text_size}px" if shown.text_size else "")


def _caption(shown: Scene) -> str:
    counts = [0] * len(shown.colours)
    for phrase in shown.detections.phrases:
        if phrase >= 0:
            counts[phrase] += 1

    def word(span: Span, text: str) -> str:
        number = counts[span.phrase]
        boxes = f"{number} box{'' if number == 1 else 'es'}"
        return (
            f'<button type="button" class="glip-word{"" if number else " none"}" '
            f'data-phrase="{span.phrase}" style="--c:{shown.colours[span.phrase]}" '
            f'title="{boxes}" aria-label="{escape(text)}, {boxes}">{escape(text)}'
            f"<sup>{number}</sup></button>"
        )

    return f'<p class="glip-caption" dir="auto">{_woven(shown.caption, shown.spans, word)}</p>'


def _woven(caption: str, spans: Sequence[Span], word: Callable[[Span, str], str]) -> str:
    """The caption escaped, its spans as `word` writes them; of overlapping spans the first."""
    parts, place = [], 0
    for span in sorted(spans, key=lambda span: (span.begin, -span.end)):
        if span.begin < place or span.end <= span.begin:
            continue
        parts.append(escape(caption[place : span.begin]))
        parts.append(word(span, caption[span.begin : span.end]))
        place = span.end
    return "".join([*parts, escape(caption[place:])])


def _boxes(shown: Scene) -> str:
    """The boxes as buttons, in shares of the picture; the smaller lies above the larger."""
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
    plate, ink = plate_and_text(_colour(shown, phrase))
    side = " under" if y1 * down < 9 else ""
    side += " left" if x1 * across > 65 else ""
    return (
        f'<button type="button" class="glip-box{side}" data-box="{index}" data-phrase="{phrase}" '
        f'style="--c:{_colour(shown, phrase)};--plate:{plate};--ink:{ink};z-index:{layer};'
        f"left:{x1 * across:.3f}%;top:{y1 * down:.3f}%;"
        f'width:{(x2 - x1) * across:.3f}%;height:{(y2 - y1) * down:.3f}%" '
        f'aria-label="{escape(label)}, score {score:.2f}, '
        f'box {x1:.0f}, {y1:.0f} to {x2:.0f}, {y2:.0f}">'
        f"<span>{escape(label)} {score:.2f}</span></button>"
    )


def _told(shown: Scene) -> str:
    """One line below the picture; where there is no box, what to do about it."""
    count = len(shown.detections)
    if count:
        text = f"{count} box{'' if count == 1 else 'es'}. Point at a word or a box, or tap it."
    elif shown.best is None:
        text = "No box: the model sees nothing of this here."
    else:
        text = f"No box above the thresholds: the best candidate has {shown.best:.3f}."
    return f'<div class="glip-told" role="status">{text}</div>'


def _colour(shown: Scene, phrase: int) -> str:
    return shown.colours[phrase] if 0 <= phrase < len(shown.colours) else "#6a7185"


# ------------------------------------------------------------------------------------- chips


def chips(texts: Sequence[str], colours: Sequence[str], told: str) -> str:
    """The phrases found in what was typed, before anything runs."""
    shown = "".join(
        f'<li style="--c:{colour}">{escape(text)}</li>'
        for text, colour in zip(texts[:MAX_CHIPS], colours)
    )
    more = f"<li>and {len(texts) - MAX_CHIPS} more</li>" if len(texts) > MAX_CHIPS else ""
    return (
        f'<div class="glip-chips" role="status"><b>{escape(told)}</b>'
        f'<ul dir="auto">{shown}{more}</ul></div>'
    )


def complaint(text: str) -> str:
    """In the chips' place: why no phrases are found."""
    return f'<div class="glip-chips" role="status"><b>{escape(text)}</b></div>'


# ------------------------------------------------------------------------------------- crops


def crops(shown: Scene) -> str:
    """Every box cut out, best first: windows onto the one picture that the page already has."""
    found = shown.detections
    if not len(found):
        return empty("What the boxes hold appears here.")
    cut = "".join(_crop_button(shown, index) for index in range(min(len(found), MAX_CROPS)))
    hidden = len(found) - MAX_CROPS
    more = f'<div class="glip-told">and {hidden} more</div>' if hidden > 0 else ""
    return (
        f'<div class="glip-crops" data-glip="{shown.scope}" style="{_paper(shown)}">{cut}</div>'
        f"{more}"
    )


def _crop_button(shown: Scene, index: int) -> str:
    found, phrase = shown.detections, shown.detections.phrases[index]
    label = f"{found.labels[index]} {float(found.scores[index]):.2f}"
    return (
        f'<button type="button" data-box="{index}" data-phrase="{phrase}" '
        f'style="--c:{_colour(shown, phrase)}">{_window(shown, index)}'
        f"<span>{escape(label)}</span></button>"
    )


def _paper(shown: Scene) -> str:
    return f"--picture:url(&quot;{escape(shown.picture)}&quot;)"


def _window(shown: Scene, index: int) -> str:
    """The picture as a background, moved and scaled so that only the box is seen."""
    found = shown.detections
    x1, y1, x2, y2 = found.boxes[index].tolist()
    width, height = max(x2 - x1, 1.0), max(y2 - y1, 1.0)
    spare_x, spare_y = max(found.width - width, 1e-6), max(found.height - height, 1e-6)
    return (
        f'<i style="aspect-ratio:{width:.1f}/{height:.1f};--tall:{min(1, width / height):.3f};'
        f"background-size:{100 * found.width / width:.2f}% {100 * found.height / height:.2f}%;"
        f'background-position:{100 * x1 / spare_x:.2f}% {100 * y1 / spare_y:.2f}%"></i>'
    )


# ------------------------------------------------------------------------ words and regions


def matrix(shown: Scene, hearing: Hearing) -> str:
    """Boxes down, words across: how much each word speaks for each box."""
    found = shown.detections
    if not len(found):
        return empty("How much each word speaks for each box appears here.")
    columns = _columns(hearing, found)
    head = "".join(_word_cell(shown, hearing.words[column]) for column in columns)
    body = "".join(
        f'<tr data-box="{row}" data-phrase="{found.phrases[row]}"><th scope="row">'
        f'<button type="button" style="--c:{_colour(shown, found.phrases[row])}">'
        f"{_window(shown, row)}<span>{escape(found.labels[row])}</span></button></th>"
        + "".join(_heat_cell(hearing.scores[row][column]) for column in columns)
        + "</tr>"
        for row in range(min(len(found), MAX_ROWS))
    )
    return (
        f'<div class="glip-scroll" data-glip="{shown.scope}" style="{_paper(shown)}" tabindex="0" '
        'role="region" aria-label="Word-region matrix">'
        f'<table class="glip-matrix"><thead><tr><td></td>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>{_left_out(found, hearing, columns)}"
    )


def _columns(hearing: Hearing, found: Detections) -> list[int]:
    """All words; where they are too many, first those whose phrases have a box."""
    everything = range(len(hearing.words))
    if len(hearing.words) <= MAX_COLUMNS:
        return list(everything)
    with_box = set(found.phrases)
    wanted = [column for column in everything if hearing.words[column].phrase in with_box]
    return wanted[:MAX_COLUMNS]


def _word_cell(shown: Scene, word: Span) -> str:
    inked = f' style="--c:{shown.colours[word.phrase]}" class="in"' if word.phrase >= 0 else ""
    text = escape(shown.caption[word.begin : word.end])
    return f'<th scope="col" data-phrase="{word.phrase}"{inked}>{text}</th>'


def _heat_cell(value: float) -> str:
    hot = ' class="hot"' if value > HOT else ""
    return f'<td{hot} style="--heat:{value:.2f}">{100 * value:.0f}</td>'


def _left_out(found: Detections, hearing: Hearing, columns: Sequence[int]) -> str:
    rows, words = len(found) - MAX_ROWS, len(hearing.words) - len(columns)
    parts = [f"{rows} more boxes"] if rows > 0 else []
    parts += [f"{words} more words"] if words > 0 else []
    left_out = f" Left out here: {' and '.join(parts)}." if parts else ""
    return (
        '<div class="glip-told">In percent, before centerness. A box\'s score is made of the words '
        f"of its phrase.{left_out}</div>"
    )


def listening(shown: Scene, hearing: Hearing, index: int) -> str:
    """Which words one box listens to: the caption shaded by the fusion's attention."""
    found = shown.detections
    if not 0 <= index < len(found):
        return empty("Choose a box: which words it listens to appears here.")
    if not hearing.attention:
        return empty("This model has no deep fusion, so its regions listen to no words.")
    weights = hearing.attention[index]
    strongest = max(max(weights, default=0.0), 1e-9)
    place_of = {(word.begin, word.end): place for place, word in enumerate(hearing.words)}

    def word(span: Span, text: str) -> str:
        weight = weights[place_of[span.begin, span.end]]
        hot = " hot" if weight / strongest > HOT else ""
        return (
            f'<span class="heard{hot}" style="--heat:{weight / strongest:.3f}" '
            f'title="{100 * weight:.1f}%">{escape(text)}</span>'
        )

    told = f"{found.labels[index]}, score {float(found.scores[index]):.2f}"
    return (
        f'<div class="glip-listening" data-glip="{shown.scope}" style="{_paper(shown)}">'
        f"<figure>{_window(shown, index)}<figcaption>{escape(told)}</figcaption></figure>"
        f'<div><p class="glip-caption" dir="auto">{_woven(shown.caption, hearing.words, word)}</p>'
        f"{_strongest(shown, hearing, weights)}</div></div>"
    )


def _strongest(shown: Scene, hearing: Hearing, weights: Sequence[float], most: int = 6) -> str:
    """The words it hears best, as bars, and what goes to the rest."""
    order = sorted(range(len(weights)), key=lambda place: -weights[place])[:most]
    words = [hearing.words[place] for place in order]
    rows = [(shown.caption[w.begin : w.end], weights[p]) for w, p in zip(words, order)]
    rows.append(("everything else", max(0.0, 1 - sum(weight for _, weight in rows))))
    return '<div class="glip-bars">' + "".join(_bar(*row) for row in rows) + "</div>"


def _bar(text: str, weight: float) -> str:
    return (
        f'<div><span dir="auto">{escape(text)}</span>'
        f'<i><b style="width:{100 * min(weight, 1):.1f}%"></b></i>'
        f"<span>{100 * weight:.1f}%</span></div>"
    )


# --------------------------------------------------------------------------------- explaining

DIAGRAM = """
<svg viewBox="0 0 880 300" role="img" xmlns="http://www.w3.org/2000/svg">
<title>GLIP: a picture goes through a backbone and a pyramid, a caption through a language model;
in every block of the head both attend to each other; each region is scored by its dot product
with each word, which gives boxes tied to words.</title>
<g font-size="15">
<rect x="20" y="40" width="110" height="84" rx="10" class="fill-soft"/>
<path d="M30 114l30-38 22 22 14-14 26 30z" class="fill-accent"/>
<circle cx="104" cy="62" r="10" class="fill-warm"/>
<rect x="20" y="188" width="110" height="52" rx="10" class="fill-soft"/>
<text x="75" y="210" text-anchor="middle">“two dogs and</text>
<text x="75" y="229" text-anchor="middle">a red kite”</text>
<path d="M136 82h34M136 214h34" class="soft" stroke-width="2" fill="none"/>
<path d="M176 46l70 16v40l-70 16z" class="fill-accent"/>
<text x="211" y="146" text-anchor="middle" class="soft">Swin, pyramid</text>
<path d="M176 190l70 10v28l-70 10z" class="fill-warm"/>
<text x="211" y="264" text-anchor="middle" class="soft">language model</text>
<path d="M252 82h36M252 214h36" class="soft" stroke-width="2" fill="none"/>
BLOCKS
<text x="400" y="286" text-anchor="middle" class="soft">deep fusion: both attend to each other, block by block</text>
<path d="M520 82h50v46M520 214h50v-46" class="soft" stroke-width="2" fill="none"/>
<circle cx="570" cy="148" r="18" class="fill-soft"/>
<circle cx="570" cy="148" r="4" class="fill-accent"/>
<path d="M592 148h36" class="soft" stroke-width="2" fill="none"/>
<text x="570" y="200" text-anchor="middle" class="soft">region · word</text>
<rect x="640" y="62" width="210" height="170" rx="10" class="fill-soft"/>
<rect x="664" y="150" width="52" height="58" rx="4" class="accent" fill="none" stroke-width="3"/>
<rect x="726" y="158" width="50" height="50" rx="4" class="accent" fill="none" stroke-width="3"/>
<rect x="762" y="80" width="64" height="56" rx="4" class="warm" fill="none" stroke-width="3"/>
<text x="664" y="143" class="accent">two dogs</text>
<text x="690" y="100">red kite</text>
</g></svg>
"""


def diagram() -> str:
    """How a caption becomes boxes, as an inline SVG of our own."""
    blocks = []
    for place in range(3):
        x = 296 + 76 * place
        blocks.append(
            f'<rect x="{x}" y="58" width="56" height="48" rx="8" class="fill-accent"/>'
            f'<rect x="{x}" y="190" width="56" height="48" rx="8" class="fill-warm"/>'
            f'<path d="M{x + 20} 112v72M{x + 36} 112v72" class="ink" stroke-width="2" fill="none"/>'
        )
    return DIAGRAM.replace("BLOCKS", "\n".join(blocks))


HOW = """
A detector that knows no classes. Every region of the picture is compared with every **word** of
what you typed, so a caption (*two small dogs and a red kite*) and a list (*dog; kite*) are the
same question. Between the layers of the head, picture and words attend to each other (**deep
fusion**): that is how *red* can change what counts as a *kite*.

- A box's **score** is the mean over the words of its phrase, times how well the box is centred.
- The **thresholds**, the overlap allowed (**NMS**) and the number of boxes only choose among what
  was found; the network does not run again for them.
- **[Marks]** around words say what the phrases are; without them a small grammar finds them.
- **Listening** shows, for one box, where the last fusion layer's attention went.
"""
