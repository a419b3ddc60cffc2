"""Names and layouts of the released checkpoints: TensorFlow's variables <-> `Vild`'s state dict.

    names = official_names(VildConfig.r50())                  # our key -> TensorFlow's name
    state = state_from_official(VildConfig.r50(), bundle.read)

TensorFlow keeps kernels as height, width, in, out; flattens maps as height, width, channel; and
orders boxes y before x.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from models.vild.backbone import BLOCKS
from models.vild.config import ResnetConfig, VildConfig
from models.vild.vild import Vild

Array = npt.NDArray[Any]

REGION_SCOPE = "frcnn_layer_0/fast_rcnn_head/"
# The embeddings (D, K) of the names trained on. They classify but are no part of our network.
CLASSES = REGION_SCOPE + "class-predict/kernel"

_NORM_LEAVES = {
    "weight": "gamma",
    "bias": "beta",
    "running_mean": "moving_mean",
    "running_var": "moving_variance",
}
_LEAVES = {"weight": "kernel", "bias": "bias", "background": "kernel"}
_BOXES = ("rpn.box", "head.box")


def official_names(config: VildConfig) -> dict[str, str]:
    """Our key -> the reference's variable, for every tensor of `Vild(config).state_dict()` but
    batch counters, which TensorFlow lacks.

    Raises:
        ValueError: the reference has no such backbone.
    """
    if not isinstance(config.backbone, ResnetConfig):
        raise ValueError(f"{config.name} is not a variant of the reference implementation.")
    scopes = dict(_scopes(config, config.backbone))
    with torch.device("meta"):
        modules = dict(Vild(config).named_modules())
    names = {}
    for key in modules[""].state_dict():
        module, _, leaf = key.rpartition(".")
        if leaf == "num_batches_tracked":
            continue
        norm = isinstance(modules[module], nn.BatchNorm1d | nn.BatchNorm2d)
        names[key] = f"{scopes[module]}/{(_NORM_LEAVES if norm else _LEAVES)[leaf]}"
    return names


def canonical_name(name: str) -> str:
    """A variable's name as `official_names` has it: the normalisations of the ResNet-152 that
    began as SimCLR's carry `_sim_clr`."""
    return name.replace("_sim_clr", "")


def is_training_only(name: str) -> bool:
    """Whether a variable is the optimiser's or the step counter."""
    return name == "global_step" or name.endswith(("/Momentum", "/ExponentialMovingAverage"))


def state_from_official(config: VildConfig, read: Callable[[str], Array]) -> dict[str, Tensor]:
    """The state dict of `Vild(config)` from a checkpoint; `read` returns a variable by its name
    in `official_names`, and raises what it likes for one that is missing."""
    state = {
        key: from_official(key, read(name), config) for key, name in official_names(config).items()
    }
    counters = {
        re.sub(r"running_mean$", "num_batches_tracked", key): torch.tensor(0)
        for key in state
        if key.endswith("running_mean")
    }
    return state | counters


def from_official(key: str, array: Array, config: VildConfig) -> Tensor:
    """A variable in PyTorch's layout, for our `key`."""
    if key == "classifier.background":  # (D, 1)
        array = array[:, 0]
    elif key.endswith("fcs.0.weight"):  # (h * w * in, out) -> (out, in * h * w)
        side = config.roi
        array = array.reshape(side, side, -1, array.shape[-1])
        array = array.transpose(3, 2, 0, 1).reshape(array.shape[-1], -1)
    elif array.ndim == 4:  # (h, w, in, out) -> (out, in, h, w); transposed ones, (h, w, out, in)
        array = array.transpose(3, 2, 0, 1)
    elif array.ndim == 2:  # (in, out)
        array = array.T
    if key.rpartition(".")[0] in _BOXES:  # rows dy, dx, dh, dw
        array = array.reshape(-1, 4, *array.shape[1:])[:, [1, 0, 3, 2]].reshape(array.shape)
    return torch.from_numpy(np.array(array, order="C"))


def _scopes(config: VildConfig, resnet: ResnetConfig) -> Iterator[tuple[str, str]]:
    """Our module, the reference's scope."""
    yield from _backbone_scopes(resnet.depth)
    levels = range(config.min_level, config.max_level + 1)
    for i, level in enumerate(levels[: len(resnet.channels)]):
        yield f"fpn.lateral.{i}", f"fpn/l{level}"
        yield f"fpn.smooth.{i}", f"fpn/post_hoc_d{level}"
    for i, level in enumerate(levels[len(resnet.channels) :]):
        yield f"fpn.coarser.{i}", f"fpn/p{level}"
    for i, level in enumerate(levels):
        yield f"fpn.norms.{i}", f"fpn/p{level}-bn"
        for j in range(config.rpn_convs):
            yield f"rpn.norms.{i}.{j}", f"rpn_head/{_counted(f'rpn-l{level}-bn', j, '-')}"
    for j in range(config.rpn_convs):
        yield f"rpn.convs.{j}", f"rpn_head/{_counted('rpn', j, '-')}"
    yield "rpn.objectness", "rpn_head/rpn-class"
    yield "rpn.box", "rpn_head/rpn-box"
    norms = config.head_convs + 2
    yield from _region_scopes("head", config, "", "", 0)
    yield "head.box", REGION_SCOPE + "box-predict"
    yield from _region_scopes("image_head", config, "distill_", "distill-", norms)
    yield "classifier", REGION_SCOPE + "background-class-predict"
    for i in range(config.mask_convs):
        yield f"mask_head.convs.{i}", f"mask_head/mask-conv-l{i}"
        yield f"mask_head.norms.{i}", f"mask_head/{_norm(i)}"
    yield "mask_head.upscale", "mask_head/conv5-mask"
    yield "mask_head.upscale_norm", f"mask_head/{_norm(config.mask_convs)}"
    yield "mask_head.logits", "mask_head/mask_fcn_logits"


def _backbone_scopes(depth: int) -> Iterator[tuple[str, str]]:
    """Convolutions are numbered as they were made, in a block the shortcut's first."""
    convolutions = [("conv1", "bn1")]
    for layer, blocks in enumerate(BLOCKS[depth], 1):
        for block in range(blocks):
            inside = [("downsample.0", "downsample.1")] if block == 0 else []
            inside += [(f"conv{i}", f"bn{i}") for i in (1, 2, 3)]
            convolutions += [
                (f"layer{layer}.{block}.{conv}", f"layer{layer}.{block}.{norm}")
                for conv, norm in inside
            ]
    for i, (conv, norm) in enumerate(convolutions):
        yield f"backbone.{conv}", f"resnet{depth}/{_counted('conv2d', i, '_')}"
        yield f"backbone.{norm}", f"resnet{depth}/{_norm(i)}"


def _region_scopes(
    head: str, config: VildConfig, prefix: str, project_prefix: str, first_norm: int
) -> Iterator[tuple[str, str]]:
    for i in range(config.head_convs):
        yield f"{head}.convs.{i}", f"{REGION_SCOPE}{prefix}conv_{i}"
        yield f"{head}.conv_norms.{i}", REGION_SCOPE + _norm(first_norm + i)
    for i in range(2):
        yield f"{head}.fcs.{i}", f"{REGION_SCOPE}{prefix}fc{i + 6}"
        yield f"{head}.fc_norms.{i}", REGION_SCOPE + _norm(first_norm + config.head_convs + i)
    yield f"{head}.project", f"{REGION_SCOPE}{project_prefix}project-to-clip"


def _norm(number: int) -> str:
    return _counted("batch_normalization", number, "_")


def _counted(name: str, number: int, separator: str) -> str:
    """TensorFlow's first layer of a kind has no number."""
    return f"{name}{separator}{number}" if number else name
