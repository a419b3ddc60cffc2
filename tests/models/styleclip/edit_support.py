"""What the tests of edits share: a CLIP whose gradients have a closed form, a generator to edit."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from models.stylegan.generator import Generator
from tests.stylegan_support import tiny_generator

SIDE = 32  # of `GeneratorConfig.tiny()`


class LinearClip:
    """Features A x, normalised; texts are unit vectors drawn from their letters."""

    image_size = SIDE

    def __init__(self, dtype: torch.dtype = torch.float32, dimensions: int = 8) -> None:
        random = torch.Generator().manual_seed(5)
        shape = (dimensions, 3 * SIDE**2)
        self.matrix = torch.randn(shape, generator=random, dtype=torch.float64).to(dtype) / SIDE
        self.calls = 0

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        rows = []
        for text in texts:
            random = torch.Generator().manual_seed(sum(map(ord, text)))
            rows.append(torch.randn(len(self.matrix), generator=random))
        return F.normalize(torch.stack(rows).to(self.matrix), dim=1)

    def image_features(self, pixels: Tensor) -> Tensor:
        self.calls += 1
        return F.normalize(pixels.flatten(1) @ self.matrix.T, dim=1)

    def normalize(self, pixels: Tensor) -> Tensor:
        return 2 * pixels - 1  # back to the generator's range


class PixelIdentity:
    """The mean squared change of pixels as what should stay."""

    def loss(self, image: Tensor, original: Tensor) -> Tensor:
        return (image - original).square().mean()


def quiet_generator(seed: int = 0) -> Generator:
    """A tiny generator whose pictures lie about [-1, 1]."""
    generator = tiny_generator(seed=seed)
    for layer, slot in zip(generator.layers, generator.layout):
        if slot.is_rgb:
            layer.weight.mul_(0.2)
            layer.bias.mul_(0.1)
    return generator
