"""Scenes for ViLD: every thing with its box, mask and name, a quarter of the names novel.

*Novel* concepts occur in the pictures, but a detector is never told their boxes or names; they
measure what it learnt from CLIP alone (Gu et al. 2022, section 3.1).
"""

import zlib
from dataclasses import dataclass

import torch
from torch import Tensor

from . import scenes, sprites
from .compose import Composer, disturb, jpeg
from .concepts import Concept, load
from .photos import load_photos
from .scenes import SpriteTable
from .sources import TRAINED, Family

SEEN = 0.35  # an object that later ones cover more than this leaves is not asked for


@dataclass(frozen=True)
class Labelled:
    """One picture and all that is plainly to be seen in it.

    Attributes:
        picture: (3, S, S) float32 in [0, 1].
        boxes: (B, 4) float32 xyxy in pixels.
        masks: (B, S, S) bool, visible pixels.
        concept: (B,) index into `concepts.load()`.
    """

    picture: Tensor
    boxes: Tensor
    masks: Tensor
    concept: Tensor


def is_novel(concept: Concept) -> bool:
    """Whether a concept is one of the quarter that is never boxed and never named in training."""
    return zlib.crc32(f"novel {concept.code}".encode()) % 4 == 0


class DetectionWorld:
    """Draws labelled scenes of one to eight things, novel ones among them.

    Args:
        families: emoji drawings to take.
        size: side of the pictures, pixels.
    """

    def __init__(
        self,
        families: tuple[Family, ...] = TRAINED,
        size: int = 256,
        device: torch.device | None = None,
    ) -> None:
        self.concepts, self.size = load(), size
        bank, photos = sprites.load_bank(families), load_photos()
        self.novel = torch.tensor([is_novel(concept) for concept in self.concepts])
        self.table = SpriteTable(bank, len(self.concepts))
        self.mirrors = scenes.mirror_rule(self.concepts)
        backgrounds = photos.rgb[photos.category < 0]
        self.composer = Composer(bank.rgba, backgrounds, size, device or torch.device("cpu"))

    def sample(self, count: int, seed: int) -> list[Labelled]:
        """`count` pictures; the same seed gives the same pictures."""
        generator = torch.Generator().manual_seed(seed)
        drawn = scenes.crowded_scenes(
            count, (1, 8), self.table.drawn, self.mirrors, generator, repeat=0.1, tinted=0.15
        )
        layout = self.table.lay_out(drawn, generator)
        truth = self.composer.truth(layout)
        pictures = disturb(self.composer.render(layout, generator), generator)
        pictures = jpeg(pictures, generator, 0.3).cpu()
        seen = (truth.visible >= SEEN) & (drawn.concept >= 0)
        return [
            Labelled(
                pictures[row], truth.boxes[row][seen[row]], truth.masks[row][seen[row]],
                drawn.concept[row][seen[row]],
            )
            for row in range(count)
        ]  # fmt: skip
