"""Avatars: drawn faces with continuous attributes, captions and boxes, all by our own code."""

from training.world.avatars.attributes import (
    ATTRIBUTES,
    LATENT_SIZE,
    NAMES,
    Attribute,
    Look,
    as_look,
    latent_to_attributes,
    sample,
)
from training.world.avatars.captions import caption, truth, two_way_phrases
from training.world.avatars.painting import boxes, draw, draw_batch

__all__ = [
    "ATTRIBUTES",
    "LATENT_SIZE",
    "NAMES",
    "Attribute",
    "Look",
    "as_look",
    "boxes",
    "caption",
    "draw",
    "draw_batch",
    "latent_to_attributes",
    "sample",
    "truth",
    "two_way_phrases",
]
