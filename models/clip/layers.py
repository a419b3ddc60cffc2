"""A perceptual distance from what an image tower sees between its pixels and its answer.

Zhang et al. 2018, "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric" (arXiv
1801.03924), equation 1 with equal weights: feature vectors of unit length at every place of every
stage, compared place by place.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from models.clip.encoder import ClipEncoder

TINY = 1e-10


class ClipLayers:
    """Feature maps of all stages of an encoder's image tower, differentiable.

    Args:
        clip: any encoder whose tower hands out its stages, as open_clip's do.
        stages: which of them, counted from the picture; None is all.
    """

    def __init__(self, clip: ClipEncoder, stages: Sequence[int] | None = None) -> None:
        self.clip = clip
        self.stages = None if stages is None else list(stages)

    def __call__(self, image: Tensor) -> list[Tensor]:
        """(B, 3, H, W) about [-1, 1] -> maps (B, C, h, w), the finest first."""
        size = (self.clip.image_size,) * 2
        pixels = (image + 1) / 2
        if pixels.shape[-2:] != size:
            pixels = F.interpolate(
                pixels, size, mode="bilinear", align_corners=False, antialias=True
            )
        model: Any = self.clip.model
        output = model.forward_intermediates(
            image=self.clip.normalize(pixels).to(self.clip.device, self.clip.dtype),
            image_indices=self.stages,
            intermediates_only=True,
        )
        maps: list[Tensor] = output["image_intermediates"]
        return maps


def layer_distance(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> Tensor:
    """(B,) squared distance of unit feature vectors, the mean over places, summed over layers.

    Args:
        ours, theirs: as many maps (B, C, h, w) each; the batch of one side may be 1.
    """
    layers = [
        (_unit(a) - _unit(b)).square().sum(dim=1).mean(dim=(1, 2)) for a, b in zip(ours, theirs)
    ]
    return torch.stack(layers).sum(dim=0)


def _unit(features: Tensor) -> Tensor:
    """Unit vectors over channels; where nothing fires the gradient stays finite."""
    features = features.float()
    return features * (features.square().sum(dim=1, keepdim=True) + TINY).rsqrt()
