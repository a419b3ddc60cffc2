"""Every number of every GLIP on offer: `Glip(GlipConfig.tiny())`, `Glip(GlipConfig.mini())`.

Li et al. 2022, "Grounded Language-Image Pre-training" (arXiv 2112.03857), table 1 and appendix;
the mini presets are ours: the same architecture at small numbers.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

STRIDES = (8, 16, 32, 64, 128)  # pixels per cell of P3 .. P7


@dataclass(frozen=True)
class SwinConfig:
    """A Swin transformer (Liu et al. 2021): width of the first stage, blocks and heads of the four
    stages, side of a window in cells."""

    dim: int = 96
    depths: tuple[int, ...] = (2, 2, 6, 2)
    heads: tuple[int, ...] = (3, 6, 12, 24)
    window: int = 7

    @property
    def channels(self) -> tuple[int, int, int]:
        """Of C3, C4 and C5."""
        return self.dim * 2, self.dim * 4, self.dim * 8


@dataclass(frozen=True)
class ResnetConfig:
    """The frozen tower of clip-mini, `models.clip.tower.atelier_resnet`."""

    channels: tuple[int, int, int] = (64, 128, 256)  # of C3, C4 and C5


@dataclass(frozen=True)
class TextConfig:
    """A BERT encoder; the defaults are bert-base-uncased."""

    width: int = 768
    layers: int = 12
    heads: int = 12
    intermediate: int = 3072
    vocabulary: int = 30522
    positions: int = 512
    token_types: int = 2


@dataclass(frozen=True)
class GlipConfig:
    """Sizes of the network and how a picture has to be prepared for it.

    `fusion` off is the paper's variant A, where picture and text meet in the last product only.
    `anchor_scale` is the side of an anchor in cells. `head_text_width` below `text.width` puts a
    resizer between the language backbone and the head. `shortcut` is the width of the space in which
    words and the backbone's last map also meet directly, 0 for nowhere, and `views` at which scales the
    picture is read for it, 1 first. `mean` and `std` are those of pixels in
    [0, `pixel_range`] in the order `colour_order`. `max_size` caps the longer side, in pixels.
    """

    name: str
    backbone: SwinConfig | ResnetConfig = field(default_factory=SwinConfig)
    channels: int = 256
    blocks: int = 6
    fusion: bool = True
    fusion_width: int = 2048
    fusion_heads: int = 8
    text: TextConfig = field(default_factory=TextConfig)
    head_text_width: int = 768
    head_text_heads: int = 12
    head_text_intermediate: int = 3072
    shortcut: int = 0
    views: tuple[float, ...] = ()
    anchor_scale: int = 8
    max_tokens: int = 256
    mean: tuple[float, float, float] = (103.53, 116.28, 123.675)
    std: tuple[float, float, float] = (57.375, 57.12, 58.395)
    colour_order: Literal["RGB", "BGR"] = "BGR"
    pixel_range: float = 255.0
    min_size: int = 800
    max_size: int = 1333
    size_multiple: int = 32

    @property
    def has_resizer(self) -> bool:
        return self.head_text_width != self.text.width

    @classmethod
    def a(cls) -> GlipConfig:
        """GLIP-T (A): Swin-T, no deep fusion."""
        return cls("glip-tiny-a", fusion=False)

    @classmethod
    def tiny(cls) -> GlipConfig:
        """GLIP-T (B), (C) and the released T: Swin-T with deep fusion."""
        return cls("glip-tiny")

    @classmethod
    def large(cls) -> GlipConfig:
        """GLIP-L: Swin-L, eight blocks."""
        swin = SwinConfig(dim=192, depths=(2, 2, 18, 2), heads=(6, 12, 24, 48), window=12)
        return cls("glip-large", backbone=swin, blocks=8)

    @classmethod
    def mini(cls) -> GlipConfig:
        """glip-mini: clip-mini's tower, MiniLM, three narrow blocks."""
        return cls(
            "glip-mini",
            backbone=ResnetConfig(),
            channels=64,
            blocks=3,
            fusion_width=256,
            text=TextConfig(width=384, layers=6, heads=12, intermediate=1536),
            head_text_width=128,
            head_text_heads=4,
            head_text_intermediate=256,
            shortcut=256,
            views=(1.0, 1.5, 0.5, 0.25),
            anchor_scale=4,
            mean=(0.5, 0.5, 0.5),
            std=(0.5, 0.5, 0.5),
            colour_order="RGB",
            pixel_range=1.0,
            min_size=256,
            max_size=512,
        )

    @classmethod
    def mini_without_fusion(cls) -> GlipConfig:
        """glip-mini as a variant A: what the deep fusion is measured against."""
        return replace(cls.mini(), name="glip-mini-without-fusion", fusion=False)
