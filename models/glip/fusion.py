"""Deep fusion: regions and words attend to each other (Li et al. 2022, section 3.2, eq. 4-6)."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

MAX_SCORE = 50_000.0  # keeps half precision finite


class Fusion(nn.Module):
    """Bi-directional cross-attention between the cells of all levels and the words of a prompt.

    The reference projects every cell into `width` dimensions three times. Words are few, so the
    projections of cells are folded into what stands on the other side of each product:
    (v Wq + bq) k' = v (Wq k') + bq k', and sum_m p_m (v_m W + b) = (sum_m p_m v_m) W + b. The
    numbers are the same; with twelve words that is a twentieth of the multiplications, and nothing
    of size (M, width) is kept.

    Args:
        channels: of a cell.
        text_width: of a word.
        width: of the space in which both meet, over all heads.
        layer_scale: initial value of both gates.
    """

    def __init__(
        self, channels: int, text_width: int, width: int, heads: int, layer_scale: float
    ) -> None:
        super().__init__()
        self.heads = heads
        self.scale = (width // heads) ** -0.5
        self.norm_vision = nn.LayerNorm(channels)
        self.norm_text = nn.LayerNorm(text_width)
        self.query = nn.Linear(channels, width)
        self.key = nn.Linear(text_width, width)
        self.value_vision = nn.Linear(channels, width)
        self.value_text = nn.Linear(text_width, width)
        self.out_vision = nn.Linear(width, channels)
        self.out_text = nn.Linear(width, text_width)
        self.gamma_vision = nn.Parameter(torch.full((channels,), layer_scale))
        self.gamma_text = nn.Parameter(torch.full((text_width,), layer_scale))
        for module in self.children():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)

    def forward(self, vision: Tensor, text: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Cells (N, M, C), words (N, T, D) and which of them are real (N, T), nonzero for yes.

        Returns:
            Cells (N, M, C), words (N, T, D) and how much each cell listens to each word in each
            head (N, M, heads, T), rows that sum to 1.
        """
        vision, text = self.norm_vision(vision), self.norm_text(text)
        scores = self._scores(vision, text)  # (N, M, heads, T)
        absent = (mask == 0)[:, None, None, :]
        to_words = scores.masked_fill(absent, -torch.inf).softmax(dim=-1)
        to_cells = scores.softmax(dim=1)  # pads listen too; nobody listens to them
        new_vision = vision + self.gamma_vision * self._vision_update(to_words, text)
        new_text = text + self.gamma_text * self._text_update(to_cells, vision)
        return new_vision, new_text, to_words

    def _scores(self, vision: Tensor, text: Tensor) -> Tensor:
        keys = self._per_head(self.key(text) * self.scale)  # (N, heads, T, d)
        weight = torch.unflatten(self.query.weight, 0, (self.heads, -1))  # (heads, d, C)
        bias = torch.unflatten(self.query.bias, 0, (self.heads, -1))
        folded = (keys @ weight).flatten(1, 2)  # (N, heads * T, C)
        constant = (keys @ bias[:, :, None]).flatten(1)[:, None]  # (N, 1, heads * T)
        scores = vision @ folded.transpose(1, 2) + constant
        scores = torch.clamp(scores, -MAX_SCORE, MAX_SCORE)
        return torch.unflatten(scores, -1, (self.heads, -1))

    def _vision_update(self, to_words: Tensor, text: Tensor) -> Tensor:
        values = self._per_head(self.value_text(text))  # (N, heads, T, d)
        weight = torch.unflatten(self.out_vision.weight.T, 0, (self.heads, -1))  # (heads, d, C)
        folded = (values @ weight).flatten(1, 2)  # (N, heads * T, C)
        return to_words.flatten(2) @ folded + self.out_vision.bias

    def _text_update(self, to_cells: Tensor, vision: Tensor) -> Tensor:
        pooled = to_cells.flatten(2).transpose(1, 2) @ vision  # (N, heads * T, C)
        weight = torch.unflatten(self.value_vision.weight, 0, (self.heads, -1))  # (heads, d, C)
        bias = torch.unflatten(self.value_vision.bias, 0, (self.heads, 1, -1))
        values = torch.unflatten(pooled, 1, (self.heads, -1)) @ weight.transpose(1, 2) + bias
        return cast(Tensor, self.out_text(values.transpose(1, 2).flatten(2)))

    def _per_head(self, x: Tensor) -> Tensor:
        """(N, T, width) -> (N, heads, T, d)."""
        return torch.unflatten(x, -1, (self.heads, -1)).transpose(1, 2)
