"""What tests of grounding share: a network that answers as told, and one with random weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cache

import torch
from PIL import Image
from tokenizers import Tokenizer
from torch import Tensor, nn

from models.glip import Glip, GlipConfig, HeadOutput, SwinConfig, TextConfig
from models.glip.config import STRIDES
from models.glip.grounding import Grounder
from models.glip.head import anchor_boxes
from models.glip.prompts import wordpiece

Cells = Sequence[tuple[int, int]]

CONFIG = GlipConfig(
    "told", min_size=64, max_size=128, colour_order="RGB", pixel_range=1.0, mean=(0.5,) * 3,
    std=(0.5,) * 3, anchor_scale=2,
)  # fmt: skip
SURE, UNSURE = 4.0, -8.0  # logits
BOX_SIDE = 16  # pixels of an anchor of P3


class Told(nn.Module):
    """Stands in for `Glip`: a cell of P3 has a high logit for the first token of what it shows.

    `things` are words and the cells (row, column) that show them; a picture of 64 pixels has 8 x 8.
    The language "features" are the token ids themselves, so that the head knows what it is asked.
    Counts its runs in `runs` and keeps the prompts' lengths in `lengths`.
    """

    shortcut = None

    def __init__(self, things: dict[str, Cells], words: Tokenizer, fusion: bool) -> None:
        super().__init__()
        self.config = CONFIG
        self.runs: Counter[str] = Counter()
        self.lengths: list[int] = []
        self.weight = nn.Parameter(torch.zeros(3))
        self._fusion = fusion
        self._cells = {
            words.encode(word, add_special_tokens=False).ids[0]: cells
            for word, cells in things.items()
        }

    def encode_image(self, pixels: Tensor) -> list[Tensor]:
        self.runs["image"] += 1
        sides = [(-(-pixels.shape[2] // s), -(-pixels.shape[3] // s)) for s in STRIDES]
        return [torch.zeros(1, 1, *side) for side in sides]

    def encode_text(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        self.runs["text"] += 1
        assert attention_mask.shape == input_ids.shape
        return input_ids[..., None].double()

    def predict(
        self, levels: Sequence[Tensor], text: Tensor, mask: Tensor,
        keep_attention: bool = False, phrases: Tensor | None = None,
    ) -> HeadOutput:  # fmt: skip
        assert phrases is None  # without a shortcut nobody reads them
        self.runs["head"] += 1
        self.lengths.append(text.shape[1])
        shapes = [(level.shape[2], level.shape[3]) for level in levels]
        cells = sum(height * width for height, width in shapes)
        logits = torch.full((1, cells, text.shape[1]), UNSURE)
        for token, word in enumerate(text[0, :, 0].long().tolist()):
            for row, column in self._cells.get(word, ()):
                logits[0, row * shapes[0][1] + column, token] = SURE
        attention = logits.softmax(2) if keep_attention and self._fusion else None
        return HeadOutput(
            logits, torch.zeros(1, cells, 4), torch.full((1, cells), SURE), shapes, attention
        )

    def anchors(self, level_shapes: Sequence[tuple[int, int]], device: object = None) -> Tensor:
        return anchor_boxes(level_shapes, CONFIG.anchor_scale)


tokenizer = cache(wordpiece)  # nobody writes to it


def told(fusion: bool = True, **things: Cells) -> tuple[Grounder, Told]:
    """`told(dog=[(1, 2)])`: a grounder that sees a dog at row 1, column 2 of P3, and its network."""
    network = Told(things, tokenizer(), fusion)
    return Grounder("told", network, tokenizer()), network  # type: ignore[arg-type]


def box_at(row: int, column: int, scale: float = 1.0) -> list[float]:
    """The box that `Told` gives at a cell, in a picture `scale` times 64 pixels wide."""
    x, y, half = column * 8 + 3.5, row * 8 + 3.5, (BOX_SIDE - 1) / 2
    return [max(corner, 0.0) * scale for corner in (x - half, y - half, x + half, y + half)]


def random_glip(seed: int = 0, fusion: bool = True) -> Grounder:
    """The real network, tiny, whose every word is as likely as not."""
    torch.manual_seed(seed)
    config = GlipConfig(
        "random", backbone=SwinConfig(8, (1, 1, 1, 1), (1, 1, 2, 2), 4), channels=32, blocks=1,
        fusion=fusion, fusion_width=16, fusion_heads=2, text=TextConfig(32, 1, 2, 32),
        head_text_width=32, head_text_heads=2, head_text_intermediate=32, min_size=64, max_size=128,
    )  # fmt: skip
    model = Glip(config)
    nn.init.zeros_(model.head.bias0)
    return Grounder("random", model, tokenizer())


def picture(width: int = 64, height: int = 64, seed: int = 0) -> Image.Image:
    """Noise."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (height, width, 3), generator=generator, dtype=torch.uint8)
    return Image.fromarray(pixels.numpy())
