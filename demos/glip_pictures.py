"""The GLIP tab's examples; `python -m training.showcase` makes them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

EXAMPLES_DIR = Path(__file__).resolve().parents[1] / "assets" / "grounding"


@dataclass(frozen=True)
class Example:
    """A picture to start with and what to ask of it."""

    name: str
    title: str
    path: str
    prompt: str
    credit: str


@lru_cache(maxsize=1)
def examples() -> Mapping[str, Example]:
    """The example pictures by name, in the order shown."""
    rows = json.loads((EXAMPLES_DIR / "index.json").read_text(encoding="utf-8"))["pictures"]
    return {
        row["name"]: Example(
            row["name"], row["title"], str(EXAMPLES_DIR / row["file"]), row["prompt"], row["credit"]
        )
        for row in rows
    }
