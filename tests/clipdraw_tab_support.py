"""What the tests of the CLIPDraw tab share: a registry whose critics are tiny, or slow."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from models.catalog import CATALOG
from models.registry import Registry
from tests.critic_support import tiny_encoder

CRITIC = "clip-mini-critic"


def tiny_registry(encoder: Any = None) -> Registry:
    """A registry that lends a tiny critic in milliseconds and refuses every download."""
    critic = encoder or tiny_encoder()
    row = replace(CATALOG[CRITIC], load=lambda row, context: critic)
    return Registry({**CATALOG, CRITIC: row}, device="cpu", offline=True)


class Slow:
    """An encoder that takes `seconds` for every look at pictures."""

    def __init__(self, encoder: Any, seconds: float) -> None:
        self._encoder, self._seconds = encoder, seconds

    def __getattr__(self, name: str) -> Any:
        return getattr(self._encoder, name)

    def image_features(self, pixels: Any) -> Any:
        time.sleep(self._seconds)
        return self._encoder.image_features(pixels)
