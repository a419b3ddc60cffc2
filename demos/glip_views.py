"""How the GLIP tab shows its results: boxes over the picture, words in the boxes' colours, crops,
the word-region matrix and what a region listens to, as `demos.ui.boxes` has them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from demos.ui import boxes
from demos.ui.boxes import bar, boxed, colour, empty, paper, sizes, window
from models.detection.detections import Detections

CSS = (Path(__file__).parent / "glip.css").read_text(encoding="utf-8")
MAX_ROWS, MAX_COLUMNS = 20, 36  # of the matrix
HOT = 0.65  # from this much heat on a number is written in the paper's colour


@dataclass(frozen=True)
class Span:
    """A piece `[begin, end)` of the caption and the phrase it belongs to, -1 for none."""

    begin: int
    end: int
    phrase: int


@dataclass(frozen=True, kw_only=True)
class Scene(boxes.Scene):
    """Everything that is drawn of one result.

    caption: the words asked for, with the `spans` of their phrases.
    best:    score of the best candidate, shown or not; None when there is no candidate at all.
    """

    caption: str
    spans: tuple[Span, ...]
    best: float | None = None


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


# ----------------------------------------------------------------------- picture and caption


def scene(shown: Scene) -> str:
    """The caption with its phrases in colour, above the picture with its boxes."""
    return (
        f'<div class="atelier-scene" data-scene="{shown.scope}" style="{sizes(shown)}">'
        f"{_caption(shown)}"
        f"{boxed(shown)}{_told(shown)}</div>"
    )


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


def _told(shown: Scene) -> str:
    """One line below the picture; where there is no box, what to do about it."""
    count = len(shown.detections)
    if count:
        text = f"{count} box{'' if count == 1 else 'es'}. Point at a word or a box, or tap it."
    elif shown.best is None:
        text = "No box: the model sees nothing of this here."
    else:
        text = f"No box above the thresholds: the best candidate has {shown.best:.3f}."
    return f'<div class="atelier-told" role="status">{text}</div>'


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
        f'<button type="button" style="--c:{colour(shown, found.phrases[row])}">'
        f"{window(shown, row)}<span>{escape(found.labels[row])}</span></button></th>"
        + "".join(_heat_cell(hearing.scores[row][column]) for column in columns)
        + "</tr>"
        for row in range(min(len(found), MAX_ROWS))
    )
    return (
        f'<div class="glip-scroll" data-scene="{shown.scope}" style="{paper(shown)}" tabindex="0" '
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
        '<div class="atelier-told">In percent, before centerness. A box\'s score is made of the words '
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
        f'<div class="glip-listening" data-scene="{shown.scope}" style="{paper(shown)}">'
        f"<figure>{window(shown, index)}<figcaption>{escape(told)}</figcaption></figure>"
        f'<div><p class="glip-caption" dir="auto">{_woven(shown.caption, hearing.words, word)}</p>'
        f"{_strongest(shown, hearing, weights)}</div></div>"
    )


def _strongest(shown: Scene, hearing: Hearing, weights: Sequence[float], most: int = 6) -> str:
    """The words it hears best, as bars, and what goes to the rest."""
    order = sorted(range(len(weights)), key=lambda place: -weights[place])[:most]
    words = [hearing.words[place] for place in order]
    rows = [(shown.caption[w.begin : w.end], weights[p]) for w, p in zip(words, order)]
    rows.append(("everything else", max(0.0, 1 - sum(weight for _, weight in rows))))
    return (
        '<div class="atelier-bars">'
        + "".join(bar(text, share, f"{100 * share:.1f}%") for text, share in rows)
        + "</div>"
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
<text x="576" y="238" text-anchor="middle" class="soft">region · word</text>
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
- **Mini** adds what CLIP's own last layer says of each place, read at four sizes of the picture.
"""
