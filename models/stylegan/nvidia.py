"""NVIDIA's pickles: stylegan2-ada-pytorch (`G_ema`) and, older, TensorFlow's stylegan2 (`Gs`).

ADA's keys map to ours one to one; its filters have gain 1 and are checked and dropped. TensorFlow
stores kernels as (h, w, in, out), dense weights as (in, out), the affine bias without its 1, and
the kernels of upsampling convolutions mirrored; its variables are renamed to ADA's first.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from models.stylegan.generator import GeneratorConfig
from models.stylegan.pickles import Record, explained, module_state, module_tensors, tensor_of
from models.stylegan.strict import Layer, Tensors, fir, layers_of

TF_NETWORK = "dnnlib.tflib.network.Network"
ARCHITECTURE = {"architecture": "skip", "activation": "lrelu"}  # config F, the only one we build
Converted = tuple[GeneratorConfig, dict[str, Tensor]]


def is_ada(loaded: Any) -> bool:
    """Whether `read_pkl` returned a snapshot of stylegan2-ada-pytorch."""
    return isinstance(loaded, Mapping) and isinstance(loaded.get("G_ema"), Record)


def is_tensorflow(loaded: Any) -> bool:
    """Whether `read_pkl` returned the three networks (G, D, Gs) of TensorFlow's stylegan2."""
    return (
        isinstance(loaded, tuple)
        and len(loaded) == 3
        and all(isinstance(net, Record) and net.origin == TF_NETWORK for net in loaded)
    )


# ------------------------------------------------------------------------------------------- ADA


def convert_ada(loaded: Mapping[str, Any], path: Path) -> Converted:
    """Configuration and state dict of our `Generator`.

    Raises:
        WeightsError: a broken module, a conditional generator, another architecture, or a tensor
            missing, misshapen, left over or not finite.
    """
    with explained(path):
        tensors = Tensors(module_tensors(loaded["G_ema"], path.stat().st_size), path)
        kwargs = module_state(loaded["G_ema"]).get("_init_kwargs") or {}
        synthesis = kwargs.get("synthesis_kwargs") or {}
        mapping = kwargs.get("mapping_kwargs") or {}
    _check_kwargs(tensors, {**kwargs, **synthesis}, float(mapping.get("lr_multiplier", 0.01)))
    return _convert(tensors, synthesis.get("conv_clamp"))


def _check_kwargs(tensors: Tensors, options: Mapping[str, Any], rate: float) -> None:
    if options.get("c_dim"):
        raise tensors.wrong("is conditional (it wants a class with every picture)")
    for name, ours in ARCHITECTURE.items():
        if options.get(name, ours) != ours:
            raise tensors.wrong(f'has {name} "{options[name]}" where config F has "{ours}"')
    if rate != 0.01:
        raise tensors.wrong(f"has a mapping network of rate {rate:g} instead of 0.01")


def _convert(tensors: Tensors, clamp: Any) -> Converted:
    config = _config(tensors, None if clamp is None else float(clamp))
    constant = tensors.take("synthesis.b4.const", config.channels[0], 4, 4)
    width, inputs = config.latent_size, config.noise_size
    result = {"constant": constant[None], "mean_latent": tensors.take("mapping.w_avg", width)}
    for i in range(config.mapping_layers):
        result[f"mapping_layers.{i}.weight"] = tensors.take(f"mapping.fc{i}.weight", width, inputs)
        result[f"mapping_layers.{i}.bias"] = tensors.take(f"mapping.fc{i}.bias", width)
        inputs = width
    for layer in layers_of(config):
        result |= _layer(tensors, layer, width)
    tensors.finish()
    return config, result


def _config(tensors: Tensors, clamp: float | None) -> GeneratorConfig:
    """Every size, read from the shapes."""
    blocks = tensors.count(r"synthesis\.b\d+\.torgb\.bias")
    sides = [4 * 2**block for block in range(blocks)]
    channels = [tensors.shape(f"synthesis.b{side}.conv1.weight", 4)[0] for side in sides]
    latent_size, noise_size = tensors.shape("mapping.fc0.weight", 2)
    mapping_layers = tensors.count(r"mapping\.fc\d+\.weight")
    return GeneratorConfig(tuple(channels), latent_size, noise_size, mapping_layers, clamp)


def _layer(tensors: Tensors, layer: Layer, latent_size: int) -> dict[str, Tensor]:
    block, ours, side = f"synthesis.b{layer.resolution}", f"layers.{layer.index}", layer.kernel
    theirs = f"{block}.{'torgb' if layer.is_rgb else 'conv0' if layer.up else 'conv1'}"
    result = {
        f"{ours}.weight": tensors.take(f"{theirs}.weight", layer.outputs, layer.inputs, side, side),
        f"{ours}.bias": tensors.take(f"{theirs}.bias", layer.outputs),
        f"{ours}.affine.weight": tensors.take(f"{theirs}.affine.weight", layer.inputs, latent_size),
        f"{ours}.affine.bias": tensors.take(f"{theirs}.affine.bias", layer.inputs),
    }
    owner = block if layer.is_rgb else theirs
    tensors.take_constant(f"{owner}.resample_filter", fir(gain=1))
    if layer.is_rgb:
        return result
    noise = tensors.take(f"{theirs}.noise_const", layer.resolution, layer.resolution)
    return result | {
        f"{ours}.noise": noise[None, None],
        f"{ours}.noise_strength": tensors.take(f"{theirs}.noise_strength"),
    }


# ------------------------------------------------------------------------------------ TensorFlow

TfRename = tuple[str, str, Callable[[Tensor], Tensor]]


def _same(x: Tensor) -> Tensor:
    return x


def _mirrored(x: Tensor) -> Tensor:
    return x.flip(0, 1).permute(3, 2, 0, 1)


# (their name, ADA's name, how the value changes); \1 is a number.
TF_LAYER: tuple[TfRename, ...] = (
    ("bias", "bias", _same),
    ("noise_strength", "noise_strength", _same),
    ("mod_weight", "affine.weight", lambda x: x.T),
    ("mod_bias", "affine.bias", lambda x: x + 1),
    ("weight", "weight", lambda x: x.permute(3, 2, 0, 1)),
)
TF_LAYERS = {"Conv": "conv1", "Conv0_up": "conv0", "Conv1": "conv1", "ToRGB": "torgb"}
TF_IGNORED = r"lod|w_avg.*"  # the progressive-growing level, which config F does not use


def convert_tensorflow(loaded: tuple[Record, ...], path: Path) -> Converted:
    """As `convert_ada`, of the averaged generator Gs. Raises WeightsError likewise."""
    with explained(path):
        options = loaded[2].state["static_kwargs"]
        variables = _variables(loaded[2], path.stat().st_size)
        renamed = dict(_renamed(name, value) for name, value in variables.items())
    renamed |= _filters(renamed)
    tensors = Tensors(renamed, path)
    changed = {
        "c_dim": options.get("label_size", 0),
        "architecture": options.get("architecture", "skip"),
        "activation": options.get("nonlinearity", "lrelu"),
    }
    _check_kwargs(tensors, changed, float(options.get("mapping_lrmul", 0.01)))
    kernel = options.get("resample_kernel", [1, 3, 3, 1])
    if list(kernel) != [1, 3, 3, 1]:
        raise tensors.wrong(f"uses the filter {kernel} instead of [1, 3, 3, 1]")
    return _convert(tensors, options.get("conv_clamp"))


def _variables(network: Record, max_bytes: int) -> dict[str, Tensor]:
    """ "synthesis/4x4/Conv/weight" -> value, of the network and its components.

    Raises ValueError when they are together larger than `max_bytes`.
    """
    found: dict[str, Tensor] = {}
    parts = {"": network} | {f"{k}/": v for k, v in network.state["components"].items()}
    for prefix, part in parts.items():
        for name, value in part.state["variables"]:
            tensor = found[f"{prefix}{name}"] = tensor_of(value)
            max_bytes -= tensor.nbytes
            if max_bytes < 0:
                raise ValueError("tensors larger than their file")
    return {k: v for k, v in found.items() if not re.fullmatch(TF_IGNORED, k.rsplit("/", 1)[-1])}


def _renamed(name: str, value: Tensor) -> tuple[str, Tensor]:
    """A variable under ADA's name; a name that is none of config F's stays and is left over."""
    if name == "dlatent_avg":
        return "mapping.w_avg", value
    if name == "synthesis/4x4/Const/const":
        return "synthesis.b4.const", value[0]
    if dense := re.fullmatch(r"mapping/Dense(\d+)/(weight|bias)", name):
        return f"mapping.fc{dense[1]}.{dense[2]}", value.T if dense[2] == "weight" else value
    if noise := re.fullmatch(r"synthesis/noise(\d+)", name):
        side = value.shape[-1]
        conv = "conv0" if int(noise[1]) % 2 else "conv1"
        return f"synthesis.b{side}.{conv}.noise_const", value[0, 0]
    layer = re.fullmatch(r"synthesis/(\d+)x\1/(\w+)/(\w+)", name)
    if layer is not None and layer[2] in TF_LAYERS:
        for theirs, ada, change in TF_LAYER:
            if layer[3] == theirs:
                mirrored = layer[2] == "Conv0_up" and theirs == "weight"
                new = (_mirrored if mirrored else change)(value)
                return f"synthesis.b{layer[1]}.{TF_LAYERS[layer[2]]}.{ada}", new
    return name, value


def _filters(renamed: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The filters that ADA stores and TensorFlow keeps in its options, where they were checked."""
    owners = [key.removesuffix(".noise_strength") for key in renamed if "noise_strength" in key]
    owners += [key.removesuffix(".torgb.bias") for key in renamed if key.endswith(".torgb.bias")]
    return {f"{owner}.resample_filter": fir(gain=1) for owner in owners}
