"""Everyday words to find the nearest of: the names of mini's concepts."""

import json
from functools import lru_cache
from pathlib import Path

PATH = Path(__file__).resolve().parents[2] / "assets" / "world" / "concepts.json"


@lru_cache(maxsize=1)
def concept_names() -> tuple[str, ...]:
    """About 1,600 names of things, animals, people, signs: "red apple", "dog face", "violin"."""
    return tuple(concept["name"] for concept in json.loads(PATH.read_text(encoding="utf-8")))
