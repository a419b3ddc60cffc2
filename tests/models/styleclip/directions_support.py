"""A generator and an encoder small enough to measure every channel of in a second."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from models.stylegan.generator import Generator, GeneratorConfig


@lru_cache(maxsize=1)
def tiny_generator() -> Generator:
    """Random weights, 32 px, 72 channels that may move; biases and styles away from zero."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        generator = Generator(GeneratorConfig.tiny()).eval().requires_grad_(False)
        for name, tensor in generator.named_parameters():
            if name.endswith("layers.1.weight") or ".affine." in name:
                tensor.mul_(0.5).add_(0.1 * torch.randn_like(tensor))
        generator.mean_latent.copy_(generator.measure_mean_latent(256))
    return generator


class TinyClip:
    """Smooth features of 8 px pictures; texts are hashed to random vectors."""

    image_size = 8
    width = 12

    def __init__(self) -> None:
        random = torch.Generator().manual_seed(5)
        self.matrix = torch.randn(self.width, 3 * 8 * 8, generator=random) / 8

    def preprocess(self, picture: Image.Image) -> Tensor:
        small = np.asarray(picture.resize((8, 8), Image.Resampling.BILINEAR), np.float32)
        return self.normalize(torch.from_numpy(small / 255).permute(2, 0, 1))

    def normalize(self, pixels: Tensor) -> Tensor:
        return (pixels - 0.5) / 0.25

    def image_features(self, pixels: Tensor) -> Tensor:
        return F.normalize(torch.tanh(pixels.flatten(1) @ self.matrix.T.to(pixels)), dim=-1)

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        drawn = [
            torch.randn(self.width, generator=torch.Generator().manual_seed(zlib.crc32(t.encode())))
            for t in texts
        ]
        return F.normalize(torch.stack(drawn), dim=-1)
