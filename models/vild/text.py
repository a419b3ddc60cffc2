"""Names as a classifier of regions: cosines with CLIP's text embeddings (ViLD, section 3.2)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.vild.config import VildConfig

BASE_WEIGHT = 2 / 3  # of the text head where a name was trained on; of the other head elsewhere


class TextClassifier(nn.Module):
    """Logits of regions under any names, and under the one learnt vector for "nothing of these"."""

    def __init__(self, config: VildConfig) -> None:
        super().__init__()
        self.temperature = config.temperature
        self.background = nn.Parameter(torch.empty(config.embedding))
        nn.init.normal_(self.background, std=0.01)

    def forward(self, embeddings: Tensor, text: Tensor) -> Tensor:
        """Region vectors (N, D), unit length, and names (K, D) -> logits (N, 1 + K).

        Column 0 is the background; names of any length are scaled to 1.
        """
        classes = torch.cat([self.background[None], text.to(self.background)])
        return cosines(embeddings, classes) * self.temperature

    def without_background(self, embeddings: Tensor, text: Tensor) -> Tensor:
        """Logits (N, K) of the names alone, as the imitation of the teacher is read."""
        return cosines(embeddings, text) * self.temperature


def cosines(embeddings: Tensor, text: Tensor) -> Tensor:
    """Of unit vectors (N, D) and names (K, D) of any length: (N, K) in [-1, 1]."""
    return embeddings @ F.normalize(text, dim=-1).to(embeddings).T


def text_probabilities(logits: Tensor) -> Tensor:
    """Logits (N, 1 + K) -> probabilities of the K names, the background's left out of the rows."""
    return logits.softmax(dim=-1)[:, 1:]


def ensemble_probabilities(logits: Tensor, image_logits: Tensor, base: Tensor) -> Tensor:
    """Geometric mean of both heads (equation 5): (N, K) in [0, 1].

    Args:
        logits: (N, 1 + K) of the text head; image_logits: (N, K) of the other.
        base: (K,) bool, which names were trained on: they lean on the text head, the others on
            the imitation of the teacher.
    """
    text = logits.log_softmax(dim=-1)[:, 1:]
    image = image_logits.log_softmax(dim=-1)
    weight = torch.where(base.to(logits.device), BASE_WEIGHT, 1 - BASE_WEIGHT)
    return (weight * text + (1 - weight) * image).exp()
