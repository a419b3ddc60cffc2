"""How the ViLD tab shows its results, with `demos.ui.boxes`: escaped HTML of our own."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

from PIL import Image

from demos.ui import boxes
from demos.ui.boxes import Scene, bar, boxed, chips, colour, empty, paper, sizes, window
from demos.ui.live import data_uri
from demos.ui.text import percent
from demos.vild_session import Held, Seen
from models.vild.detector import Why
from models.vild.discovery import Group
from models.vild.regions import Opinion

CSS = (Path(__file__).parent / "vild.css").read_text(encoding="utf-8")
MAX_BARS = 60  # of the names of one region
CHOOSE = "Choose a box, in the picture or among the regions: what it may be appears here."


def scene(shown: Scene, held: Held, seen: Seen) -> str:
    """The picture with its boxes and masks, and a line below it."""
    return (
        f'<div class="atelier-scene" data-scene="{shown.scope}" style="{sizes(shown)}">'
        f"{boxed(shown)}{_told(held, seen)}</div>"
    )


def _told(held: Held, seen: Seen) -> str:
    """One line below the picture; where there is no box, what to do about it."""
    count = len(seen.found)
    if count:
        text = f"{count} box{'' if count == 1 else 'es'}. Point at a box, or tap it."
        if any(seen.novel):
            text += " ✦ is a name the model was not trained on."
    elif not len(held.raw):
        text = "No box: the model sees nothing here."
    else:
        best = float(held.raw.objectness.max())
        text = (
            f"No box: of {len(held.raw):,} regions the surest has an objectness of {best:.2f}. "
            "Lower the sliders; or all of them look more like “background” than like the names."
        )
    return f'<div class="atelier-told" role="status">{escape(text)}</div>'


def legend(held: Held, shown: Scene, seen: Seen, novel: Sequence[bool]) -> str:
    """The names asked for with what was found of them, or the groups that were discovered."""
    if held.discovers:
        texts = [_group_text(group, seen, place) for place, group in enumerate(seen.groups)]
        marks = [not group.base for group in seen.groups]
        return chips(texts, shown.colours, "Discovered, from the whole vocabulary:", marks)
    counts = [seen.found.phrases.count(place) for place in range(len(held.names))]
    texts = [f"{name} · {count}" for name, count in zip(held.names, counts)]
    # Of a long list those that were found come first.
    order = sorted(range(len(texts)), key=lambda place: counts[place] == 0)
    return chips(
        [texts[place] for place in order], [shown.colours[place] for place in order],
        "The names and their boxes:", [list(novel)[place] for place in order],
    )  # fmt: skip


def _group_text(group: Group, seen: Seen, place: int) -> str:
    return f"{group.name} · {seen.found.phrases.count(place)}"


# ---------------------------------------------------------------------------------- one region


def region(
    shown: Scene, seen: Seen, index: int, opinions: Sequence[Opinion], outline: str, softmax: bool
) -> str:
    """One region: its crop, what its mask keeps, and a bar for every name."""
    found = seen.found
    if not 0 <= index < len(found):
        return empty(CHOOSE)
    label = f"{found.labels[index]}{' ✦' if seen.novel[index] else ''}"
    cut = f"{window(shown, index, outline)}" if outline else ""
    crops = _figure(window(shown, index), "crop")
    crops += _figure(cut, "masked crop") if cut else ""
    best = colour(shown, found.phrases[index])
    return (
        f'<div class="vild-region" data-scene="{shown.scope}" style="{paper(shown)};--c:{best}">'
        f'<div class="vild-crops">{crops}</div><div><b class="vild-name" dir="auto">'
        f"{escape(label)}</b>{_bars(opinions, softmax)}</div></div>"
    )


def _figure(inside: str, caption: str) -> str:
    return f"<figure>{inside}<figcaption>{caption}</figcaption></figure>"


def _bars(opinions: Sequence[Opinion], softmax: bool) -> str:
    """Best first. Cosines lie close together, so their bars begin at the least of them."""
    low = 0.0 if softmax else min(one.score for one in opinions)
    span = max(max(one.score for one in opinions) - low, 1e-9)
    rows = [
        bar(
            one.name,
            one.score if softmax else (one.score - low) / span,
            percent(one.score) if softmax else f"{one.score:.3f}",
            "" if one.base else ("none" if one.name == "background" else "marked"),
        )
        for one in opinions[:MAX_BARS]
    ]
    hidden = len(opinions) - MAX_BARS
    more = f" {hidden:,} more names score less." if hidden > 0 else ""
    told = "Probabilities." if softmax else f"Cosines; the bars begin at {low:.3f}, the least."
    return (
        f'<div class="atelier-bars vild-bars" tabindex="0" role="region" '
        f'aria-label="Scores of the names">{"".join(rows)}</div>'
        f'<div class="atelier-told">{told}{more}</div>'
    )


def why(reasons: Why) -> str:
    """The names trained on that are nearest to a region, for the detector and for CLIP itself."""
    same = reasons.distilled[:1] and reasons.clip[:1]
    agree = bool(same) and reasons.distilled[0].name == reasons.clip[0].name
    verdict = "Both name the same first." if agree else "They name different things first."
    return (
        '<div class="vild-why">'
        f"<div><b>The detector</b><small>what it learnt to say of regions</small>"
        f"{_nearest(reasons.distilled)}</div>"
        f"<div><b>CLIP itself</b><small>looking at this crop now</small>"
        f"{_nearest(reasons.clip)}</div></div>"
        f'<div class="atelier-told">Nearest names among those trained on, by cosine. {verdict} '
        f"The detector's imitation and CLIP's vector have a cosine of "
        f"{reasons.agreement:.2f}.</div>"
    )


def _nearest(opinions: Sequence[Opinion]) -> str:
    low = min((one.score for one in opinions), default=0.0) - 0.02
    high = max((one.score for one in opinions), default=1.0)
    rows = (
        bar(one.name, (one.score - low) / max(high - low, 1e-9), f"{one.score:.3f}")
        for one in opinions
    )
    return f'<div class="atelier-bars">{"".join(rows)}</div>'


# --------------------------------------------------------------------------------------- live


def frame(picture: Image.Image) -> str:
    """An annotated frame."""
    return f'<div class="vild-frame"><img src="{data_uri(picture)}" alt="The last frame"></div>'


def pace(count: int, seconds: float, rate: float) -> str:
    """How quick it is, as a line."""
    return (
        f'<div class="atelier-badge" role="status"><span>live</span><span>{count} '
        f"box{'' if count == 1 else 'es'}</span><span>{1000 * seconds:.0f} ms a frame</span>"
        f"<span>{rate:.1f} frames a second</span></div>"
    )


def told(text: str) -> str:
    """A sentence where the pace would be: a toast every frame would bury the page."""
    return boxes.complaint(text)


# --------------------------------------------------------------------------------- explaining

MEANING = """
- A name is compared with every region as a whole. The score is a **cosine** between a picture's
  vector and a text's, and even a perfect match stays far below 1: what counts is the distance to
  the *other* names and to the word “background”, not the number itself. So a low score in
  first place is fine, and a high one in a crowd of equals means nothing. **Softmax**
  turns the distances into shares, but only among the names you typed: with one name it is sure
  of anything that is not background.
- **“fruit” fails** where “apple” works: the detector imitates how CLIP sees *things*, under
  names of things. A word for a whole class has a vector in between, and any apple lies nearer to
  “apple”. Type the kinds: *apple; pear; banana*.
- **“red car” finds every car**: a region has one vector, in which what a thing *is* speaks loudest.
  Colours, numbers and relations hardly count. Type both *red car; blue car* to let them
  compete, or ask the GLIP tab, which reads word by word.
"""

DIAGRAM = """
<svg viewBox="0 0 880 300" role="img" xmlns="http://www.w3.org/2000/svg">
<title>ViLD: a picture gives regions without names; a head turns every region into a vector.
In training the vector is pulled towards CLIP's vector of the cropped region; in use it is compared
with CLIP's vectors of any names, and with a mask it becomes a named outline.</title>
<g font-size="15">
<rect x="20" y="96" width="120" height="100" rx="10" class="fill-soft"/>
<path d="M30 186l34-44 24 24 16-16 28 36z" class="fill-accent"/>
<circle cx="112" cy="120" r="11" class="fill-warm"/>
<rect x="52" y="136" width="52" height="54" rx="4" class="warm" fill="none" stroke-width="3"/>
<path d="M146 146h34" class="soft" stroke-width="2" fill="none"/>
<path d="M186 106l84 18v44l-84 18z" class="fill-accent"/>
<text x="228" y="214" text-anchor="middle" class="soft">regions, no names</text>
<path d="M276 146h44" class="soft" stroke-width="2" fill="none"/>
<g class="fill-accent"><rect x="328" y="112" width="18" height="68" rx="4"/>
<rect x="352" y="112" width="18" height="68" rx="4"/><rect x="376" y="112" width="18" height="68" rx="4"/></g>
<text x="361" y="204" text-anchor="middle" class="soft">a vector each</text>
<path d="M361 104V66" class="soft" stroke-width="2" stroke-dasharray="5 5" fill="none"/>
<path d="M286 22l150 0v34h-150z" class="fill-warm"/>
<text x="361" y="44" text-anchor="middle">CLIP sees the crop</text>
<text x="452" y="92" class="soft">only while it learns</text>
<path d="M402 146h74" class="soft" stroke-width="2" fill="none"/>
<circle cx="498" cy="146" r="18" class="fill-soft"/><circle cx="498" cy="146" r="4" class="fill-accent"/>
<text x="498" y="112" text-anchor="middle" class="soft">cosine</text>
<path d="M498 168v50" class="soft" stroke-width="2" fill="none"/>
<rect x="424" y="222" width="148" height="52" rx="10" class="fill-warm"/>
<text x="498" y="244" text-anchor="middle">CLIP reads names:</text>
<text x="498" y="263" text-anchor="middle">“kite”, “wolf” …</text>
<path d="M520 146h46" class="soft" stroke-width="2" fill="none"/>
<rect x="576" y="72" width="284" height="150" rx="10" class="fill-soft"/>
<text x="596" y="104">kite</text><rect x="650" y="90" width="180" height="18" rx="5" class="fill-accent"/>
<text x="596" y="138">wolf</text><rect x="650" y="124" width="70" height="18" rx="5" class="fill-accent"/>
<text x="596" y="172">bird</text><rect x="650" y="158" width="96" height="18" rx="5" class="fill-accent"/>
<text x="596" y="206" class="soft">new names cost no new look at the picture</text>
</g></svg>
"""

HOW = """
A detector that learns **what** things are from CLIP and **where** they are from boxes. It finds
regions without names, and turns each into a vector that imitates the one CLIP would give the
cropped region (**distillation**): one pass instead of a CLIP run a crop. Names come last, as CLIP's
vectors of sentences, so a name that was never boxed works too; such names are marked ✦.

- Everything is stored once a picture: sliders, scores and new names do not run the network again.
- **Objectness** says that *something* is there. Boxes are kept by it, then named.
- **Discover** asks for nothing: regions that look alike form groups, and each gets the best name
  of the whole vocabulary.
- **Why** puts the detector's opinion of a region beside CLIP's own.
- **Mini** also reads CLIP's own last layer over the whole picture, at five sizes, since CLIP knows
  things best at one size; what it learnt comes on top.
"""
