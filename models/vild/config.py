"""Every number of every ViLD on offer: `Vild(VildConfig.r50_ensemble())`, `Vild(VildConfig.mini())`.

Gu et al. 2022, "Open-vocabulary Object Detection via Vision and Language Knowledge Distillation"
(arXiv 2104.13921), section 4.1 and appendix; the mini presets are ours: the same architecture at
small numbers.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from models.catalog import TEACHER


@dataclass(frozen=True)
class ResnetConfig:
    """A ResNet of bottleneck blocks (He et al. 2016), the stride in the 3x3 convolution; 14 is the
    reference's smallest, without released weights."""

    depth: Literal[14, 50, 152] = 50
    min_level: int = 2
    channels: tuple[int, ...] = (256, 512, 1024, 2048)  # of C2 .. C5


@dataclass(frozen=True)
class TowerConfig:
    """The frozen image tower of clip-mini, `models.clip.frozen.FrozenTower`."""

    min_level: int = 3
    channels: tuple[int, ...] = (64, 128, 256)  # of C3 .. C5


@dataclass(frozen=True)
class ProposalConfig:
    """Which boxes of the proposal network go on: the best `pre_nms` of every level
    (`pre_nms_training` while it learns), NMS at `nms`, then the best `post_nms` of all levels."""

    pre_nms: int = 1000
    pre_nms_training: int = 2000
    nms: float = 0.7
    post_nms: int = 1000


@dataclass(frozen=True)
class VildConfig:
    """Sizes of the network and how a picture has to be prepared for it.

    Attributes:
        max_level: the pyramid goes from the backbone's finest level to this one.
        norm_momentum: weight of the newest batch in the running statistics.
        anchor_scale: side of a square anchor in cells; `anchor_ratios` are width / height.
        canonical_size: a region of this side, in pixels, is read from level 4.
        roi, mask_roi: cells per side of what is read for a region; masks have twice `mask_roi`.
        views: the region heads also read the backbone's last map, of the picture at these scales (1
            comes first); where that is a CLIP's, its own projection is their start.
        ensemble: a second head learns from the teacher alone (the paper's ViLD-ensemble).
        temperature: cosines are multiplied by this before a softmax.
        teacher: name in the catalogue of the CLIP whose space the embeddings share.
        resize: "tensorflow" is that library's old bilinear, on which the released weights were
            trained; "antialiased" is Pillow's.
        min_size: pixels of the shorter side; None fits the picture inside `max_size` squared.
        size_multiple: a picture is padded to multiples of this, in pixels.
        mean, std: of RGB in [0, 1].
    """

    name: str
    backbone: ResnetConfig | TowerConfig = field(default_factory=ResnetConfig)
    max_level: int = 6
    channels: int = 256
    norm_eps: float = 1e-4
    norm_momentum: float = 0.003
    anchor_scale: float = 8
    anchor_ratios: tuple[float, ...] = (1.0, 2.0, 0.5)
    rpn_convs: int = 2
    proposals: ProposalConfig = field(default_factory=ProposalConfig)
    canonical_size: float = 224
    roi: int = 7
    head_convs: int = 4
    fc: int = 1024
    embedding: int = 512
    views: tuple[float, ...] = ()
    ensemble: bool = False
    mask: bool = True
    mask_roi: int = 14
    mask_convs: int = 4
    mask_channels: int = 256
    temperature: float = 100.0
    teacher: str = "clip-vit-b-32"
    resize: Literal["tensorflow", "antialiased"] = "tensorflow"
    min_size: int | None = None
    max_size: int = 1024
    size_multiple: int = 1024
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)

    @property
    def min_level(self) -> int:
        return self.backbone.min_level

    @property
    def strides(self) -> tuple[int, ...]:
        """Pixels per cell, the finest level first."""
        return tuple(2**level for level in range(self.min_level, self.max_level + 1))

    @classmethod
    def r50(cls) -> VildConfig:
        """ViLD with ResNet-50: one head for names and for the teacher."""
        return cls("vild-r50")

    @classmethod
    def r50_ensemble(cls) -> VildConfig:
        """ViLD-ensemble with ResNet-50."""
        return cls("vild-r50-ensemble", ensemble=True)

    @classmethod
    def r152(cls) -> VildConfig:
        """ViLD with ResNet-152."""
        return cls("vild-r152", backbone=ResnetConfig(152))

    @classmethod
    def r152_ensemble(cls) -> VildConfig:
        """ViLD-ensemble with ResNet-152."""
        return cls("vild-r152-ensemble", backbone=ResnetConfig(152), ensemble=True)

    @classmethod
    def mini(cls) -> VildConfig:
        """vild-mini: clip-mini's frozen tower under a narrow ViLD-ensemble."""
        return cls(
            "vild-mini",
            backbone=TowerConfig(),
            channels=64,
            norm_momentum=0.01,
            anchor_scale=4,
            proposals=ProposalConfig(pre_nms=500, pre_nms_training=500, nms=0.7, post_nms=300),
            canonical_size=112,
            head_convs=1,
            fc=256,
            embedding=256,
            views=(1.0, 1.5, 0.67, 0.44, 0.3),
            ensemble=True,
            mask_convs=2,
            mask_channels=32,
            temperature=50.0,  # about clip-mini's own
            teacher=TEACHER,
            resize="antialiased",
            min_size=256,
            max_size=512,
            size_multiple=64,
            mean=(0.5, 0.5, 0.5),
            std=(0.5, 0.5, 0.5),
        )

    @classmethod
    def mini_single(cls) -> VildConfig:
        """vild-mini with one head: the paper's ViLD-text, ViLD-image and ViLD."""
        return replace(cls.mini(), name="vild-mini-single", ensemble=False)
