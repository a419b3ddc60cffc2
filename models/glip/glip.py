"""Grounded Language-Image Pre-training (Li et al. 2022, arXiv 2112.03857): the whole network.

    glip = Glip(GlipConfig.mini())
    levels = glip.encode_image(pixels)                    # once per picture
    text = glip.encode_text(input_ids, attention_mask)    # once per prompt
    output = glip.predict(levels, text, attention_mask)

Prompts need no padding to the reference's 256 tokens: pads change nothing and cost a lot.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn

from models.clip.frozen import FrozenTower, stages_of
from models.glip.config import STRIDES, GlipConfig, SwinConfig
from models.glip.fpn import Fpn
from models.glip.head import Head, HeadOutput, Shortcut, anchor_boxes
from models.glip.swin import Swin
from models.glip.text import Language, Resizer, phrase_states


class Glip(nn.Module):
    """Picture and text in, word scores and boxes of every cell out."""

    def __init__(self, config: GlipConfig) -> None:
        super().__init__()
        self.config = config
        swin = config.backbone if isinstance(config.backbone, SwinConfig) else None
        self.backbone = FrozenTower() if swin is None else Swin(swin)
        self.fpn = Fpn(config.backbone.channels, config.channels)
        self.language = Language(config.text)
        self.resizer = None
        if config.has_resizer:
            self.resizer = Resizer(config.text.width, config.head_text_width)
        self.head = Head(config)
        self.shortcut = None
        if config.shortcut:
            channels = config.backbone.channels[-1]
            self.shortcut = Shortcut(
                channels, config.text.width, config.shortcut, config.views, config.anchor_scale
            )

    def pyramid(self, stages: Sequence[Tensor]) -> list[Tensor]:
        """What `stages` gives -> P3 .. P7, all (N, channels, h, w), and behind them, for a shortcut,
        C5 of every view as it is."""
        levels = cast("list[Tensor]", self.fpn(stages[:3]))
        return levels if self.shortcut is None else [*levels, *stages[2:]]

    def encode_image(self, pixels: Tensor) -> list[Tensor]:
        """Normalised pictures (N, 3, H, W), sides multiples of `size_multiple` -> P3 .. P7."""
        return self.pyramid(self.stages(pixels))

    def stages(self, pixels: Tensor) -> list[Tensor]:
        """C3, C4, C5 of the backbone, then C5 of further views."""
        return stages_of(self.backbone, pixels, self.config.views)

    def encode_text(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Token ids (N, T), which are real (N, T) -> the last hidden state (N, T, D)."""
        return cast(Tensor, self.language(input_ids, attention_mask))

    def encode_phrases(self, input_ids: Tensor, phrases: Tensor) -> Tensor | None:
        """For each token of a prompt (T,) its phrase as read on its own, (1, T, D), for a shortcut;
        None without one. `phrases` (L, T) is nonzero where a token belongs to a phrase."""
        if self.shortcut is None:
            return None
        return phrase_states(self.language, input_ids, phrases)[None]

    def predict(
        self,
        levels: Sequence[Tensor],
        text: Tensor,
        mask: Tensor,
        keep_attention: bool = False,
        phrases: Tensor | None = None,
    ) -> HeadOutput:
        """P3 .. P7, hidden states (N, T, D) and which are real (N, T), nonzero for yes.

        `keep_attention` also returns the last fusion's attention, where the variant has one.
        `phrases` (N, T, D) are those of `encode_phrases`; without them a shortcut adds nothing.
        """
        words = text if self.resizer is None else self.resizer(text)
        if not self.config.fusion:
            words = words * mask[..., None].to(words.dtype)
        own = levels[: len(STRIDES)]
        output: HeadOutput = self.head(own, words, mask, keep_attention=keep_attention)
        if self.shortcut is None or phrases is None:
            return output
        beside = self.shortcut(levels[len(STRIDES) :], phrases, output.level_shapes)
        return replace(output, logits=output.logits + beside)

    def forward(self, pixels: Tensor, input_ids: Tensor, attention_mask: Tensor) -> HeadOutput:
        """Normalised pictures (N, 3, H, W), token ids and which are real, both (N, T)."""
        text = self.encode_text(input_ids, attention_mask)
        return self.predict(self.encode_image(pixels), text, attention_mask)

    def anchors(
        self, level_shapes: Sequence[tuple[int, int]], device: torch.device | str | None = None
    ) -> Tensor:
        """(M, 4) float32 xyxy in pixels of the network's input, in the order of `HeadOutput`."""
        return anchor_boxes(level_shapes, self.config.anchor_scale, device)
