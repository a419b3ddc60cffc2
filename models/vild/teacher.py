"""What CLIP itself says of a region: the vectors that ViLD learns to imitate.

Gu et al. 2022, section 3.2: a proposal is cropped at its own size and once more half as large again,
each crop is squashed to CLIP's input, and the two vectors are added and normalised.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import roi_align

from models.clip.encoder import ClipEncoder

GROWN = 1.5  # side of the second crop, of the box's
CROPS_AT_ONCE = 128


def grow(boxes: Tensor, factor: float) -> Tensor:
    """Boxes (P, 4) with both sides times `factor` about the same centre."""
    centre, size = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    return torch.cat([centre - size * factor / 2, centre + size * factor / 2], dim=1)


def crops(picture: Tensor, boxes: Tensor, size: int) -> Tensor:
    """Regions (P, 4) xyxy of a picture (3, H, W), squashed to (P, 3, size, size).

    What lies outside the picture is cut off; a region without an area is read as one pixel.
    """
    height, width = picture.shape[1:]
    edge = boxes.new_tensor([width, height])
    low = boxes[:, :2].clamp(min=0).minimum(edge - 1)
    high = boxes[:, 2:].minimum(edge).maximum(low + 1)
    rois = torch.cat([boxes.new_zeros(len(boxes), 1), low, high], dim=1)
    # Four samples a pixel at least where a crop shrinks, so that nothing is skipped.
    found: Tensor = roi_align(picture[None], rois.to(picture), size, sampling_ratio=2, aligned=True)
    return found


@torch.inference_mode()
def crop_embeddings(clip: ClipEncoder, picture: Tensor, boxes: Tensor) -> Tensor:
    """CLIP's vectors of regions, of 1x and 1.5x crops together.

    Args:
        picture: (3, H, W) float32 in [0, 1], RGB.
        boxes: (P, 4) xyxy in its pixels.

    Returns:
        (P, D) float32 of unit length, on the CPU.
    """
    total = torch.zeros(len(boxes), clip.embed_dim)
    for factor in (1.0, GROWN):
        for start in range(0, len(boxes), CROPS_AT_ONCE):
            some = grow(boxes[start : start + CROPS_AT_ONCE], factor)
            pixels = clip.normalize(crops(picture, some, clip.image_size))
            total[start : start + len(some)] += clip.image_features(pixels).cpu()
    return F.normalize(total, dim=-1)
