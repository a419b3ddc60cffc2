"""The ViLD tab's examples: those of the GLIP tab, with names to look for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache

from demos import glip_pictures
from demos.glip_pictures import EXAMPLES_DIR, Example

__all__ = ["EXAMPLES_DIR", "Example", "examples"]

NAMES = {
    "kite": "dog; kite; cat; bird",
    "umbrellas": "umbrella; cat; hat; apple",
    "garden": "mushroom; rabbit; butterfly; bicycle; flower",
    "avatar": "person; glasses; hat; beard; umbrella",
}


@lru_cache(maxsize=1)
def examples() -> Mapping[str, Example]:
    """The example pictures by name, `prompt` being names, in the order shown."""
    return {
        name: replace(example, prompt=NAMES[name])
        for name, example in glip_pictures.examples().items()
        if name in NAMES
    }
