"""What the CLIP tab brings along: example pictures, the search collection, ready-made labels.

`python -m training.showcase` makes the pictures; `assets/CREDITS.md` says whose they are.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from PIL import Image

from demos.ui.text import MAX_LABELS

ASSETS = Path(__file__).resolve().parents[1] / "assets"
EXAMPLES_DIR = ASSETS / "examples"
SEARCH_DIR = ASSETS / "search"
CREDIT = (
    "Photographs: Caltech-101 (Li, Andreeto, Ranzato, Perona), CC BY 4.0. Emoji: Noto Emoji "
    "(Google), Apache-2.0; Twemoji (Twitter and jdecked), CC BY 4.0; Fluent Emoji (Microsoft), MIT."
)
_GROUPS = {
    "animals": "Animals and plants",
    "food": "Food and drink",
    "travel": "Travel, places, weather",
    "activities": "Activities",
    "objects": "Objects",
    "smileys": "Smileys",
}


@dataclass(frozen=True)
class Example:
    """A picture to start with; `labels` are words to try on it."""

    name: str
    title: str
    path: str
    labels: str
    credit: str


@dataclass(frozen=True)
class Collection:
    """The embedded pictures of Search: square tiles, in a fixed order."""

    names: tuple[str, ...]
    credits: tuple[str, ...]
    tiles: tuple[Image.Image, ...]


@lru_cache(maxsize=1)
def examples() -> Mapping[str, Example]:
    """The example pictures by name, in the order shown."""
    rows = json.loads((EXAMPLES_DIR / "index.json").read_text(encoding="utf-8"))["pictures"]
    return {
        row["name"]: Example(
            name=row["name"],
            title=row["title"],
            path=str(EXAMPLES_DIR / row["file"]),
            labels=row["labels"],
            credit=row["credit"],
        )
        for row in rows
    }


@lru_cache(maxsize=1)
def collection() -> Collection:
    """The search collection, cut from its sheets at first use."""
    index = _search_index()
    side, columns = index["tile"], index["columns"]
    sheets = {
        file: Image.open(SEARCH_DIR / file).convert("RGB")
        for file in sorted({row["sheet"] for row in index["pictures"]})
    }
    tiles = []
    for row in index["pictures"]:
        left, top = row["place"] % columns * side, row["place"] // columns * side
        tiles.append(sheets[row["sheet"]].crop((left, top, left + side, top + side)))
    return Collection(
        tuple(row["name"] for row in index["pictures"]),
        tuple(row["credit"] for row in index["pictures"]),
        tuple(tiles),
    )


def collection_size() -> int:
    """How many pictures the collection has, without opening them."""
    return len(_search_index()["pictures"])


@lru_cache(maxsize=1)
def _search_index() -> dict[str, Any]:
    index: dict[str, Any] = json.loads((SEARCH_DIR / "index.json").read_text(encoding="utf-8"))
    return index


@lru_cache(maxsize=1)
def label_lists() -> Mapping[str, tuple[str, ...]]:
    """Ready-made labels by title: the emoji groups and the photographed things.

    A group with more names than may be asked at once keeps its one-word names.
    """
    concepts = json.loads((ASSETS / "world" / "concepts.json").read_text(encoding="utf-8"))
    lists: dict[str, tuple[str, ...]] = {}
    for group, title in _GROUPS.items():
        names = [concept["name"] for concept in concepts if concept["group"] == group]
        if len(names) > MAX_LABELS:
            names = [name for name in names if " " not in name]
        lists[title] = tuple(dict.fromkeys(names))[:MAX_LABELS]
    photographed = [
        row["name"] for row in _search_index()["pictures"] if row["sheet"] == "photos.webp"
    ]
    lists["Photographed things"] = tuple(dict.fromkeys(photographed))
    return lists
