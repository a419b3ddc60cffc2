"""Where in the picture a label comes from: a heat map for every kind of image tower.

ConvNets: LayerCAM (Jiang et al. 2021, "LayerCAM: Exploring Hierarchical Class Activation Maps for
Localization"): positive gradients times activations at several stages and picture sizes.
Transformers: gradient-weighted attention rollout (Chefer et al. 2021, "Generic Attention-model
Explainability", equations 5 and 6), down to the token or the pooling head that makes the feature.

Nothing is patched: ConvNets hand out their stages (`forward_intermediates`), and attention is
recorded by a `TorchFunctionMode`, which is local to the thread.
"""

import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
import open_clip
import torch
from PIL import Image
from timm.models.vision_transformer import VisionTransformer as TimmVisionTransformer
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from models.errors import InputError
from models.jobs import Job, Step

from .encoder import ClipEncoder
from .prompts import encode_labels, template_set

# Gradients of a cosine are small; in half precision they would vanish. The maps are scaled anyway.
GRADIENT_SCALE = 1024.0
COLOUR_MAP = "inferno"
FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True)
class RelevanceConfig:
    """How a map is made.

    contrast: how much of the other labels' mean cosine is taken off the chosen label's, so that
        what speaks for every label alike (an object, any object) does not light up; 0 to 1.
    scales: ConvNets without a fixed input size only: sides at which the picture is looked at, as
        multiples of the side of training; larger sides give finer maps.
    stages: ConvNets only: stages whose maps are averaged, counted from the end.
    blur: standard deviation of the final smoothing, as a share of the map's side.
    """

    contrast: float = 1.0
    scales: tuple[float, ...] = (1.0, 1.5, 2.0)
    stages: tuple[int, ...] = (-1, -2)
    blur: float = 0.04


@dataclass(frozen=True)
class RelevanceMap:
    """Which parts of a picture speak for a label.

    grid: (h, w) float32 in [0, 1], the most relevant place is 1 (all 0 if nothing speaks for it).
    box: (x1, y1, x2, y2), the part of the picture the grid covers, in pixels; a tower that crops
        its input has not seen what lies outside.
    """

    label: str
    grid: FloatArray
    box: tuple[float, float, float, float]

    @property
    def peak(self) -> tuple[float, float]:
        """(x, y) of the most relevant place, pixels of the picture."""
        row, column = np.unravel_index(int(self.grid.argmax()), self.grid.shape)
        x1, y1, x2, y2 = self.box
        height, width = self.grid.shape
        x = x1 + (float(column) + 0.5) / width * (x2 - x1)
        return x, y1 + (float(row) + 0.5) / height * (y2 - y1)

    def over(self, size: tuple[int, int]) -> FloatArray:
        """The map at a picture's (width, height): (height, width) float32 in [0, 1], 0 where the
        tower did not look."""
        x1, y1, x2, y2 = (round(side) for side in self.box)
        grid = Image.fromarray(self.grid).resize((x2 - x1, y2 - y1), Image.Resampling.BICUBIC)
        canvas = Image.new("F", size, 0.0)
        canvas.paste(grid, (x1, y1))
        return np.asarray(canvas).clip(0.0, 1.0)


def explain(
    clip: ClipEncoder,
    image: Image.Image,
    labels: Sequence[str],
    chosen: int,
    *,
    templates: str = "one",
    config: RelevanceConfig = RelevanceConfig(),
) -> Job[RelevanceMap]:
    """The relevance map of one label among others.

    Args:
        image: RGB, any size.
        labels: at least the one to explain; the others are what it is told apart from.
        chosen: index of the label to explain.
        templates: name of a template set.

    Raises:
        InputError: this image tower is of no kind that can be explained.
    """
    words = yield from encode_labels(clip, labels, template_set(templates))  # (L, D)
    direction = _direction(words.to(clip.device), chosen, config.contrast)  # (D,)
    visual: Any = clip.model.visual
    if _is_transformer(visual):
        yield Step(0.3, "Following the attention back")
        grid = _rollout(clip, clip.preprocess(image), direction)
    elif hasattr(visual, "forward_intermediates"):
        sides = [clip.image_size]
        if not hasattr(visual, "attnpool"):  # an attention pool has one place for every cell
            sides = [round(scale * clip.image_size / 32) * 32 for scale in config.scales]
        maps = []
        for index, side in enumerate(sides):
            yield Step(index / len(sides), f"Looking at {side} x {side} pixels")
            maps.append(_layer_cam(clip, _resized_input(clip, image, side), direction, config))
        grid = _mean_at_largest(maps)
    else:
        raise InputError(
            f"The image tower of {clip.name} cannot be explained; choose another model."
        )
    smooth = _unit(_blur(grid, config.blur * max(grid.shape)))
    return RelevanceMap(labels[chosen], smooth.cpu().numpy(), _seen_box(clip, image.size))


def blend(image: Image.Image, heat: RelevanceMap, opacity: float) -> Image.Image:
    """The picture with the map's colours over it.

    Args:
        image: RGB; the picture the map was made of (for a smaller copy, see `resized`).
        opacity: of the colours where the map is 1; 0 shows the picture alone. Where the map is 0
            a quarter of it remains, so that the picture stays visible around the hot places.

    Returns:
        RGB of the picture's size.
    """
    values = heat.over(image.size)  # (H, W)
    colours = matplotlib.colormaps[COLOUR_MAP](np.rint(values * 255).astype(np.uint8))[..., :3]
    alpha = opacity * (0.25 + 0.75 * values[..., None])  # (H, W, 1)
    mixed = (1 - alpha) * np.asarray(image, dtype=np.float32) + alpha * 255 * colours
    return Image.fromarray(np.rint(mixed).astype(np.uint8))


def resized(heat: RelevanceMap, factor: float) -> RelevanceMap:
    """The map for a copy of its picture that is `factor` times as large."""
    x1, y1, x2, y2 = (side * factor for side in heat.box)
    return replace(heat, box=(x1, y1, x2, y2))


def _direction(words: Tensor, chosen: int, contrast: float) -> Tensor:
    """(L, D) label features -> (D,): the chosen label, less what the others say on average."""
    others = torch.cat([words[:chosen], words[chosen + 1 :]])
    if not len(others):
        return words[chosen]
    return words[chosen] - contrast * others.mean(dim=0)


# ------------------------------------------------------------------------------- ConvNets


def _layer_cam(
    clip: ClipEncoder, pixels: Tensor, direction: Tensor, config: RelevanceConfig
) -> Tensor:
    """(3, S, S) input -> (h, w) map of the finest stage's grid."""
    visual: Any = clip.model.visual
    with torch.enable_grad():
        batch = pixels[None].to(clip.device, clip.dtype).requires_grad_()  # (1, 3, S, S)
        output = visual.forward_intermediates(batch, indices=sorted(config.stages))
        stages = output["image_intermediates"]  # each (1, C, h, w)
        score = _cosine_score(output["image_features"], direction)
        gradients = torch.autograd.grad(score, stages)
    maps = [
        _unit(F.relu(gradient.float() * stage.float()).sum(dim=1)[0].detach())  # (h, w)
        for stage, gradient in zip(stages, gradients)
    ]
    return _mean_at_largest(maps)


def _cosine_score(features: Tensor, direction: Tensor) -> Tensor:
    """(1, D) raw image features -> their scaled cosine with a direction in word space."""
    return GRADIENT_SCALE * (F.normalize(features.float(), dim=-1)[0] @ direction)


def _resized_input(clip: ClipEncoder, image: Image.Image, side: int) -> Tensor:
    """The tower's preprocessing at another side: (3, side, side)."""
    visual: Any = clip.model.visual
    config = open_clip.transform.PreprocessCfg(**{**visual.preprocess_cfg, "size": (side, side)})
    pixels: Tensor = open_clip.transform.image_transform_v2(config, is_train=False)(image)
    return pixels


def _mean_at_largest(maps: list[Tensor]) -> Tensor:
    """Mean of maps (h, w), each brought to the largest one's grid."""
    size = max((tuple(grid.shape) for grid in maps), key=math.prod)
    grown = [
        F.interpolate(grid[None, None], size, mode="bilinear", align_corners=False)[0, 0]
        for grid in maps
    ]
    return torch.stack(grown).mean(dim=0)


# ----------------------------------------------------------------------------- transformers


class AttentionRecorder(TorchFunctionMode):
    """While active in this thread, attention is computed in the open and its weights are kept.

    maps: per call (B, heads, queries, keys), part of the autograd graph, in order of the calls.
    """

    def __init__(self) -> None:
        super().__init__()
        self.maps: list[Tensor] = []

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if func is F.scaled_dot_product_attention:  # timm
            return self._attend(*args[:3])
        if func is F.multi_head_attention_forward:  # torch.nn.MultiheadAttention, open_clip
            call = inspect.signature(F.multi_head_attention_forward).bind(*args, **(kwargs or {}))
            return self._multi_head(call.arguments), None
        return func(*args, **(kwargs or {}))

    def _attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """(B, heads, T, d) each, no mask: an image tower needs none."""
        logits = query @ key.transpose(-2, -1) / math.sqrt(query.shape[-1])
        weights = logits.softmax(dim=-1)  # (B, heads, Tq, Tk)
        self.maps.append(weights)
        return weights @ value

    def _multi_head(self, call: dict[str, Any]) -> Tensor:
        """Self-attention as `torch.nn.MultiheadAttention` lays it out: (T, B, C) in and out."""
        tokens, heads = call["query"], call["num_heads"]
        length, batch, width = tokens.shape
        packed = F.linear(tokens, call["in_proj_weight"], call["in_proj_bias"])  # (T, B, 3C)
        query, key, value = (
            part.reshape(length, batch, heads, width // heads).permute(1, 2, 0, 3)
            for part in packed.chunk(3, dim=-1)
        )  # (B, heads, T, d)
        mixed = self._attend(query, key, value).permute(2, 0, 1, 3).reshape(length, batch, width)
        return F.linear(mixed, call["out_proj_weight"], call["out_proj_bias"])


def _is_transformer(visual: Any) -> bool:
    return isinstance(visual, open_clip.transformer.VisionTransformer) or isinstance(
        getattr(visual, "trunk", None), TimmVisionTransformer
    )


def _rollout(clip: ClipEncoder, pixels: Tensor, direction: Tensor) -> Tensor:
    """(3, S, S) input -> (h, w) map of the patch grid."""
    visual: Any = clip.model.visual
    with torch.enable_grad(), AttentionRecorder() as recorder:
        batch = pixels[None].to(clip.device, clip.dtype).requires_grad_()
        score = _cosine_score(visual(batch), direction)
    gradients = torch.autograd.grad(score, recorder.maps)
    flow = [
        F.relu(weights.float() * gradient.float()).mean(dim=1)[0].detach()  # (Tq, Tk)
        for weights, gradient in zip(recorder.maps, gradients)
    ]
    pooling = flow.pop() if flow[-1].shape[0] != flow[-1].shape[1] else None  # SigLIP: (1, T)
    relevance = torch.eye(flow[0].shape[0], device=flow[0].device)
    for layer in flow:
        relevance = relevance + layer @ relevance
    trunk = getattr(visual, "trunk", None)
    prefix = 1 if trunk is None else trunk.num_prefix_tokens
    if pooling is not None:
        row = pooling[0] @ relevance  # (T,)
    elif (visual.pool_type if trunk is None else trunk.global_pool) in ("tok", "token"):
        row = relevance[0]
    else:
        row = relevance[prefix:].mean(dim=0)
    patches = row[prefix:]
    side = math.isqrt(len(patches))
    return patches.view(side, side)


# ---------------------------------------------------------------------------------- details


def _unit(grid: Tensor) -> Tensor:
    """Stretch to [0, 1]; a flat map becomes all zeros."""
    low, high = grid.min(), grid.max()
    return (grid - low) / (high - low) if high > low else torch.zeros_like(grid)


def _blur(grid: Tensor, sigma: float) -> Tensor:
    """Gaussian smoothing of (h, w); edges are mirrored."""
    reach = max(1, min(round(3 * sigma), min(grid.shape) - 1))
    line = torch.arange(-reach, reach + 1, device=grid.device, dtype=grid.dtype)
    kernel = torch.exp(-(line**2) / (2 * sigma**2))
    kernel = kernel / kernel.sum()
    padded = F.pad(grid[None, None], (reach, reach, reach, reach), mode="reflect")
    rows = F.conv2d(padded, kernel.view(1, 1, 1, -1))
    smooth: Tensor = F.conv2d(rows, kernel.view(1, 1, -1, 1))[0, 0]
    return smooth


def _seen_box(clip: ClipEncoder, size: tuple[int, int]) -> tuple[float, float, float, float]:
    """The part of a (width, height) picture that the tower's preprocessing lets through.

    A tower that pads ("longest") sees a square larger than the picture: the box reaches beyond it.
    """
    width, height = size
    visual: Any = clip.model.visual
    mode = visual.preprocess_cfg["resize_mode"]
    if mode == "squash":
        return 0.0, 0.0, float(width), float(height)
    side = min(size) if mode == "shortest" else max(size)
    left, top = (width - side) / 2, (height - side) / 2
    return left, top, left + side, top + side
