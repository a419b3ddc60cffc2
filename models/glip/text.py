"""Language: the backbone, the resizer behind it, and the BERT layer inside the head."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from transformers import BertConfig, BertModel

from models.glip.config import TextConfig

EPS = 1e-12  # of every layer norm of BERT
MAX_VALUE = 50_000.0  # keeps half precision finite
PAD_SCORE = -10_000.0
Encoder = Callable[[Tensor, Tensor], Tensor]  # token ids and which are real, (N, T) -> (N, T, D)


class Language(nn.Module):
    """BERT without its pooler and without dropout: training sees what inference sees."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.bert = BertModel(
            BertConfig(
                vocab_size=config.vocabulary,
                hidden_size=config.width,
                num_hidden_layers=config.layers,
                num_attention_heads=config.heads,
                intermediate_size=config.intermediate,
                max_position_embeddings=config.positions,
                type_vocab_size=config.token_types,
                hidden_dropout_prob=0.0,
                attention_probs_dropout_prob=0.0,
            ),
            add_pooling_layer=False,
        )

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Token ids (N, T) and which are real (N, T) -> last hidden state (N, T, D)."""
        output = self.bert(input_ids=input_ids, attention_mask=attention_mask)
        return cast(Tensor, output.last_hidden_state)


def phrase_states(language: Encoder, input_ids: Tensor, phrases: Tensor) -> Tensor:
    """For each token of a prompt its phrase as clip-mini would read it, alone: the mean state of
    [CLS], its tokens and [SEP]. (T, D), zeros for tokens of no phrase.

    Args:
        input_ids: (T,), [CLS] first and [SEP] last.
        phrases: (L, T), nonzero where a token belongs to a phrase.
    """
    mine = phrases.to(input_ids.device) > 0
    mine = mine[mine.any(dim=1)]
    if not len(mine):
        return language(input_ids[None], torch.ones_like(input_ids)[None])[0] * 0
    alone = [torch.cat([input_ids[:1], input_ids[row], input_ids[-1:]]) for row in mine]
    means = mean_states(language, alone)
    found = means.new_zeros(len(input_ids), means.shape[1])
    for row, mean in zip(mine, means):
        found[row] = mean
    return found


def mean_states(language: Encoder, sequences: Sequence[Tensor]) -> Tensor:
    """The mean state of each of P sequences of token ids: (P, D)."""
    ids = pad_sequence(list(sequences), batch_first=True)
    length = torch.tensor([len(one) for one in sequences], device=ids.device)
    mask = torch.arange(ids.shape[1], device=ids.device) < length[:, None]
    states = language(ids, mask.to(ids.dtype))  # (P, S, D)
    return (states * mask[..., None].to(states)).sum(1) / length[:, None].to(states)


class Resizer(nn.Sequential):
    """Brings words of the language backbone to the width of the head."""

    def __init__(self, width: int, new_width: int) -> None:
        super().__init__(nn.Linear(width, new_width), nn.LayerNorm(new_width, eps=EPS))


class TextLayer(nn.Module):
    """A post-norm BERT layer (Devlin et al. 2018) with the reference's clamps."""

    def __init__(self, width: int, heads: int, intermediate: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.attention_out = nn.Linear(width, width)
        self.attention_norm = nn.LayerNorm(width, eps=EPS)
        self.expand = nn.Linear(width, intermediate)
        self.contract = nn.Linear(intermediate, width)
        self.output_norm = nn.LayerNorm(width, eps=EPS)
        for module in self.children():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, text: Tensor, mask: Tensor) -> Tensor:
        """Words (N, T, D) and which are real (N, T) -> words of the same shape."""
        text = self.attention_norm(text + self._attend(text, mask))
        hidden = _clamped(F.gelu(_clamped(self.expand(text))))
        return _clamped(self.output_norm(text + _clamped(self.contract(hidden))))

    def _attend(self, text: Tensor, mask: Tensor) -> Tensor:
        q, k, v = (
            torch.unflatten(project(text), -1, (self.heads, -1)).transpose(1, 2)  # (N, heads, T, d)
            for project in (self.query, self.key, self.value)
        )
        scores = _clamped(q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5)
        pads = (mask == 0)[:, None, None, :] * PAD_SCORE
        mixed = (scores + pads.to(scores.dtype)).softmax(dim=-1) @ v
        return cast(Tensor, self.attention_out(mixed.transpose(1, 2).flatten(2)))


def _clamped(x: Tensor) -> Tensor:
    return torch.clamp(x, -MAX_VALUE, MAX_VALUE)
