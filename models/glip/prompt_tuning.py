"""Prompt tuning (Li et al. 2022, section 5.3): the network stays as it is, the words move.

For one fixed prompt an offset to the language backbone's states is learnt; for all other prompts
the model answers as before.

    prompt = load_prompt(glip, path)       # glip is the very model that was tuned
    Grounder("mine", glip, tokenizer).ground(image, prompt)
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from models.errors import WeightsError

from .glip import Glip
from .prompts import Prompt


class TunedLanguage(nn.Module):
    """A language backbone that adds `offset` (T, D) to the states of one prompt.

    Args:
        language: the backbone, used as it is.
        input_ids: (T,) the prompt's tokens.
    """

    input_ids: Tensor

    def __init__(self, language: nn.Module, input_ids: Tensor, width: int) -> None:
        super().__init__()
        self.language = language
        self.register_buffer("input_ids", input_ids)
        self.offset = nn.Parameter(torch.zeros(len(input_ids), width))

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Token ids (N, T) and which are real (N, T) -> last hidden state (N, T, D)."""
        states = cast(Tensor, self.language(input_ids, attention_mask))
        length = len(self.input_ids)
        if input_ids.shape[1] < length:
            return states
        same = (input_ids[:, :length] == self.input_ids).all(1)
        mine = same & (attention_mask.sum(1) == length)  # (N,)
        offset = F.pad(self.offset, (0, 0, 0, input_ids.shape[1] - length))
        return states + mine[:, None, None].to(states.dtype) * offset.to(states.dtype)


def tune(glip: Glip, input_ids: Tensor) -> TunedLanguage:
    """Give the model an offset of zeros for the prompt of these tokens (T,)."""
    parameter = next(glip.parameters())
    tuned = TunedLanguage(glip.language, input_ids, glip.config.text.width)
    glip.language = tuned.to(parameter.device)  # type: ignore[assignment]
    return tuned


def save_prompt(tuned: TunedLanguage, prompt: Prompt, path: Path) -> None:
    """The offset with the prompt that it is for, as one safetensors file."""
    spans = [[phrase.begin, phrase.end] for phrase in prompt.phrases]
    told = {"caption": prompt.caption, "kind": prompt.kind, "spans": spans}
    tensors = {"input_ids": tuned.input_ids, "offset": tuned.offset.detach()}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(
        {name: value.cpu().contiguous() for name, value in tensors.items()},
        str(path),
        metadata={"prompt": json.dumps(told)},
    )


def load_prompt(glip: Glip, path: Path) -> Prompt:
    """Put a saved offset into the model that it was learnt with; returns the prompt to ask with.

    Raises:
        WeightsError: there is no such file, it is none of `save_prompt`, or another model's.
    """
    try:
        with safe_open(str(path), framework="pt") as file:
            ids, offset = file.get_tensor("input_ids"), file.get_tensor("offset")
            told = json.loads((file.metadata() or {})["prompt"])
            prompt = Prompt.from_spans(told["caption"], told["spans"], told["kind"])
    except (OSError, SafetensorError, KeyError, ValueError, TypeError) as error:
        raise WeightsError(f"{path} holds no tuned prompt; train it with --only-prompt.") from error
    if offset.shape != (len(ids), glip.config.text.width):
        raise WeightsError(
            f"{path} was tuned for words of {offset.shape[-1]} numbers, {glip.config.name} has "
            f"{glip.config.text.width}; load it into the model that it was trained with."
        )
    tuned = tune(glip, ids)
    with torch.no_grad():
        tuned.offset.copy_(offset)
    glip.eval()
    return prompt
