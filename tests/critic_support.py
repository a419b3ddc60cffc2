"""A critic small enough to draw against in milliseconds, for tests of what is around it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from models.clip import ClipEncoder


class _Visual(nn.Module):
    def __init__(self, side: int) -> None:
        super().__init__()
        self.image_size = side
        self.preprocess_cfg = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
        self.layers = nn.Sequential(
            nn.Conv2d(3, 16, 5, 2, 2), nn.SiLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.SiLU(),
            nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(128, 16, bias=False),
        )  # fmt: skip


class _TinyClip(nn.Module):
    """Random but fixed towers: pictures through two convolutions, texts as their mean letter."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.visual = _Visual(side)
        self.letters = nn.Embedding(128, 16)
        self.logit_scale = nn.Parameter(torch.tensor(3.0))

    def encode_image(self, pixels: Tensor) -> Tensor:
        features: Tensor = self.visual.layers(pixels)
        return features - features.mean(1, keepdim=True)

    def encode_text(self, tokens: Tensor) -> Tensor:
        return self.letters(tokens).mean(1)


def tiny_encoder(seed: int = 0, side: int = 24) -> ClipEncoder:
    """A real `ClipEncoder` over random weights: 24 px pictures, 16 dimensions."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _TinyClip(side)

    def tokenize(texts: list[str]) -> Tensor:
        return torch.tensor([[ord(letter) % 128 for letter in (text * 12)[:12]] for text in texts])

    def preprocess(picture: Any) -> Tensor:
        raise NotImplementedError("a critic is shown tensors")

    return ClipEncoder(f"tiny-{seed}", model, tokenize, preprocess)
