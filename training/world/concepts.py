"""The things the mini world is made of: about 1,500 emoji concepts with names and synonyms.

What is left out or merged, and why:
- Flags of countries and regions: the name is a country's, and at 96 px a dozen pairs cannot be told
  apart (Chad/Romania, Monaco/Indonesia). The eight generic flags stay.
- Skin tones: one concept, drawn in its default tone; "light skin tone" is no other thing.
- Clock hours: 24 faces that differ in a hand of two pixels; one stays, named "clock".
- "... facing right": mirror pictures of another concept.
- Compositions of a family or couple from named members: from Unicode 15.1 the families are drawn
  as the same silhouettes, and the couples differ by a hair style; the generic ones stay.

`assets/world/concepts.json` holds the list, so that evaluation and the app need no network;
`python -m training.world.concepts` writes it again.
"""

import json
import re
import zlib
from collections import Counter
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

from .sources import FAMILIES, SYNONYMS_PACKAGE, icon_svg, npm_package

PATH = Path(__file__).resolve().parents[2] / "assets" / "world" / "concepts.json"
GROUPS = [
    "smileys",
    "people",
    "component",
    "animals",
    "food",
    "travel",
    "activities",
    "objects",
    "symbols",
    "flags",
]
GENERIC_FLAGS = {"1f3c1", "1f6a9", "1f38c", "1f3f4", "1f3f3", "1f3f3-200d-1f308",
                 "1f3f3-200d-26a7", "1f3f4-200d-2620"}  # fmt: skip
CLOCK = re.compile(r"(o’clock|-thirty)$")
COMPOSED = re.compile(r"^(family|couple with heart|kiss|.*holding hands): ")
SHORTCODE_SETS = ("github", "iamcal", "joypixels", "emojibase", "cldr")
# code, emoji, name, group, other names, tags
Draft = tuple[str, str, str, str, list[str], list[str]]
# Reading direction carries meaning here, so these are never mirrored.
DIRECTED = re.compile(r"\b(left|right|clockwise|button|sign|letters|keycap|input|writing)\b")


@dataclass(frozen=True)
class Concept:
    """A thing with a name.

    Attributes:
        code: Unicode sequence as lower-case hex joined by "-", without variation selectors.
        synonyms: other names, all free for training.
        unseen_synonyms: other names that no training text may contain; they measure typed words.
        mirrors: whether a mirrored picture still shows the same thing.
    """

    code: str
    emoji: str
    name: str
    group: str
    synonyms: tuple[str, ...]
    unseen_synonyms: tuple[str, ...]
    mirrors: bool


def clean(text: str) -> str:
    """A name as a person would type it: lower case, spaces, no shortcode punctuation."""
    text = text.replace("’", "'").replace("“", "").replace("”", "").strip(":").lower()
    text = re.sub(r"[_:]+", " ", text.replace("-", " "))
    return re.sub(r"\s+", " ", text).strip()


def _is_left_out(code: str, label: str, group: str) -> bool:
    if group == "flags":
        return code not in GENERIC_FLAGS
    return (
        group == "component"
        or (CLOCK.search(label) is not None and code != "1f552")
        or label.endswith("facing right")
        or COMPOSED.match(label) is not None
    )


def _shortcodes() -> dict[str, list[str]]:
    """Hex code -> the names that five shortcode vocabularies give it."""
    names: dict[str, list[str]] = {}
    folder = npm_package(SYNONYMS_PACKAGE) / "en" / "shortcodes"
    for vocabulary in SHORTCODE_SETS:
        for code, words in json.loads((folder / f"{vocabulary}.json").read_text()).items():
            listed = words if isinstance(words, list) else [words]
            names.setdefault(code.lower().replace("-fe0f", ""), []).extend(map(clean, listed))
    return names


def build() -> tuple[Concept, ...]:
    """The concept list from its public sources (needs npm and the package `emoji`)."""
    from emoji import EMOJI_DATA

    rows = json.loads((npm_package(SYNONYMS_PACKAGE) / "en" / "data.json").read_text())
    shortcodes = _shortcodes()
    drafts: list[Draft] = []
    for row in sorted(rows, key=lambda row: row.get("order", 9999)):
        code = row["hexcode"].lower().replace("-fe0f", "")
        if row.get("group") is None:
            continue
        group = GROUPS[row["group"]]
        drawn = sum(icon_svg(family, code) is not None for family in FAMILIES if family.trained)
        if _is_left_out(code, row["label"], group) or drawn < 2:
            continue
        entry = EMOJI_DATA.get(row["emoji"], {})
        name = "clock" if code == "1f552" else clean(entry.get("en", row["label"]))
        others = [clean(row["label"]), *map(clean, entry.get("alias", []))]
        others += shortcodes.get(code, [])
        tags = [clean(tag) for tag in row.get("tags", [])]
        drafts.append((code, row["emoji"], name, group, others, tags))
    return tuple(_with_synonyms(drafts))


def _with_synonyms(drafts: list[Draft]) -> list[Concept]:
    """Keep as synonyms only words that mean one concept; lay a third of the names aside, unseen.

    Tags are associations as often as synonyms ("germs" for a face mask): good for training,
    unfair as a measure, so they are never among the unseen.
    """
    names = Counter(name for _, _, name, _, _, _ in drafts)
    uses = Counter(word for *_, others, tags in drafts for word in {*others, *tags})
    concepts = []
    for code, emoji, name, group, others, tags in drafts:
        own = [w for w in dict.fromkeys(others + tags)
               if uses[w] == 1 and not names[w] and _typeable(w)]  # fmt: skip
        unseen = [w for w in own if w in others and zlib.crc32(f"{code} {w}".encode()) % 3 == 0]
        mirrors = group not in ("symbols", "flags") and DIRECTED.search(name) is None
        seen = tuple(w for w in own if w not in unseen)
        concepts.append(Concept(code, emoji, name, group, seen, tuple(unseen), mirrors))
    return concepts


def _typeable(word: str) -> bool:
    """A word someone would type for a picture: letters, at least three of them, ASCII."""
    return word.isascii() and len(word) <= 40 and re.search(r"[a-z]{3}", word) is not None


@lru_cache(maxsize=1)
def load() -> tuple[Concept, ...]:
    """The embedded concept list, in Unicode's order."""
    rows = json.loads(PATH.read_text(encoding="utf-8"))
    return tuple(
        Concept(**{k: tuple(v) if isinstance(v, list) else v for k, v in row.items()})
        for row in rows
    )


def main() -> None:
    concepts = build()
    PATH.parent.mkdir(parents=True, exist_ok=True)
    lines = ",\n".join(json.dumps(asdict(c), ensure_ascii=False) for c in concepts)
    PATH.write_text(f"[\n{lines}\n]\n", encoding="utf-8")
    print(f"{len(concepts)} concepts in {PATH}")


if __name__ == "__main__":
    main()
