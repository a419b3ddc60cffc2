"""MiniLM's sentence features, computed once per text and kept on disk.

The text tower is frozen, so what trains is only the projection behind it; a machine without the
package (the lent GPU) needs nothing but the file this module writes.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from training.world.sources import CACHE

BATCH = 256


def minilm_features(texts: Sequence[str], cache: Path = CACHE / "texts") -> Tensor:
    """Mean-pooled MiniLM states before any projection, (N, 384) float32.

    Args:
        texts: any words; equal lists are read back from `cache`.
    """
    digest = hashlib.sha256("\n".join(texts).encode()).hexdigest()[:16]
    path = cache / f"{digest}.safetensors"
    if not path.is_file():
        features = _encode(texts)
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({"features": features.half()}, str(path))
    return load_file(str(path))["features"].float()


@torch.inference_mode()
def _encode(texts: Sequence[str]) -> Tensor:
    import transformers

    from models.clip.encoder import mini_tokenizer, minilm_weights
    from models.weights import minilm_directory

    folder = minilm_directory()
    config = transformers.AutoConfig.from_pretrained(folder)
    model = transformers.BertModel(config, add_pooling_layer=False).eval()
    prefix = len("text.transformer.")
    model.load_state_dict({k[prefix:]: v for k, v in minilm_weights(folder).items()}, strict=True)
    tokenize = mini_tokenizer(folder)
    # Texts of like length share a batch, so that little padding is computed.
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    rows = torch.empty(len(texts), config.hidden_size)
    for start in range(0, len(order), BATCH):
        chosen = order[start : start + BATCH]
        tokens = tokenize([texts[i] for i in chosen])  # (B, T)
        mask = (tokens != config.pad_token_id).long()
        states = model(input_ids=tokens, attention_mask=mask).last_hidden_state  # (B, T, 384)
        weight = mask[..., None].float()
        rows[chosen] = (states * weight).sum(1) / weight.sum(1)
    return rows
