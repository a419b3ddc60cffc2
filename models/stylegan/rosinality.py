"""Checkpoints of rosinality/stylegan2-pytorch: `g_ema` (or the bare state dict), `latent_avg`.

A key of theirs is one of ours under another name; convolutions carry one dimension more, and the
FIR filters, constants in our code, are checked and dropped.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from models.stylegan.generator import GeneratorConfig
from models.stylegan.strict import Layer, Tensors, fir, layers_of

MARK = "conv1.conv.modulation.weight"  # no other format has it


def generator_state(loaded: Any) -> Mapping[str, Any] | None:
    """The averaged generator inside what was loaded, None if there is none of this format."""
    state = loaded.get("g_ema", loaded) if isinstance(loaded, Mapping) else None
    return state if isinstance(state, Mapping) and MARK in state else None


def module_name(layer: Layer) -> str:
    """Their name of a layer: conv1, to_rgb1, convs.0, convs.1, to_rgbs.0, convs.2, ..."""
    if layer.index < 2:
        return ("conv1", "to_rgb1")[layer.index]
    block, part = divmod(layer.index - 2, 3)
    return f"to_rgbs.{block}" if layer.is_rgb else f"convs.{2 * block + part}"


def convert(loaded: Mapping[str, Any], path: Path) -> tuple[GeneratorConfig, dict[str, Tensor]]:
    """Configuration and state dict of our `Generator`; without "mean_latent" if the file has none.

    Raises:
        WeightsError: a tensor is missing, misshapen, left over or not finite.
    """
    state = generator_state(loaded) or {}
    tensors = Tensors({**state, "latent_avg": loaded.get("latent_avg")}, path)
    config = _config(tensors)
    result = {"constant": tensors.take("input.input", 1, config.channels[0], 4, 4)}
    width, inputs = config.latent_size, config.noise_size
    for i in range(config.mapping_layers):
        result[f"mapping_layers.{i}.weight"] = tensors.take(f"style.{i + 1}.weight", width, inputs)
        result[f"mapping_layers.{i}.bias"] = tensors.take(f"style.{i + 1}.bias", width)
        inputs = width
    for layer in layers_of(config):
        result |= _layer(tensors, layer, width)
    if "latent_avg" in tensors:
        result["mean_latent"] = tensors.take("latent_avg", width)
    tensors.finish()
    return config, result


def _config(tensors: Tensors) -> GeneratorConfig:
    """Every size, read from the shapes."""
    blocks = 1 + tensors.count(r"to_rgbs\.\d+\.bias")
    channels = [tensors.shape("input.input", 4)[1]]
    channels += [tensors.shape(f"convs.{2 * b + 1}.conv.weight", 5)[1] for b in range(blocks - 1)]
    latent_size, noise_size = tensors.shape("style.1.weight", 2)
    mapping_layers = tensors.count(r"style\.\d+\.weight")
    return GeneratorConfig(tuple(channels), latent_size, noise_size, mapping_layers)


def _layer(tensors: Tensors, layer: Layer, latent_size: int) -> dict[str, Tensor]:
    theirs, ours, side = module_name(layer), f"layers.{layer.index}", layer.kernel
    modulation = f"{theirs}.conv.modulation"
    weight = tensors.take(f"{theirs}.conv.weight", 1, layer.outputs, layer.inputs, side, side)
    result = {
        f"{ours}.weight": weight[0],
        f"{ours}.affine.weight": tensors.take(f"{modulation}.weight", layer.inputs, latent_size),
        f"{ours}.affine.bias": tensors.take(f"{modulation}.bias", layer.inputs),
    }
    if layer.is_rgb:
        result[f"{ours}.bias"] = tensors.take(f"{theirs}.bias", 1, 3, 1, 1).flatten()
        if layer.index > 1:
            tensors.take_constant(f"{theirs}.upsample.kernel", fir(gain=4))
        return result
    if layer.up:
        tensors.take_constant(f"{theirs}.conv.blur.kernel", fir(gain=4))
    number = layer.index - (layer.index + 1) // 3  # of this convolution: one layer in three is RGB
    noise = tensors.take(f"noises.noise_{number}", 1, 1, layer.resolution, layer.resolution)
    return result | {
        f"{ours}.noise": noise,
        f"{ours}.noise_strength": tensors.take(f"{theirs}.noise.weight", 1)[0],
        f"{ours}.bias": tensors.take(f"{theirs}.activate.bias", layer.outputs),
    }
