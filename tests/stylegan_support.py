"""What tests of generators share: checkpoints in every format, made of given tensors."""

from __future__ import annotations

import pickle
import sys
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from models.stylegan.generator import Generator, GeneratorConfig, StyledConvolution
from models.stylegan.rosinality import module_name
from models.stylegan.strict import fir, layers_of


def tiny_generator(config: GeneratorConfig | None = None, seed: int = 0) -> Generator:
    """Random weights with noise and biases that matter."""
    torch.manual_seed(seed)
    generator = Generator(config or GeneratorConfig.tiny())
    generator.mean_latent.normal_()
    for layer in generator.layers:
        torch.nn.init.normal_(layer.bias)
        if isinstance(layer, StyledConvolution):
            torch.nn.init.normal_(layer.noise_strength)
    return generator.requires_grad_(False)


def picture(generator: Any, seed: int = 0) -> Tensor:
    z = torch.randn(1, generator.noise_size, generator=torch.Generator().manual_seed(seed))
    w = generator.truncate(generator.mapping(z), 0.7)
    return generator(generator.broadcast(w))


# ------------------------------------------------------------------------------------ rosinality


def rosinality_state(generator: Generator) -> dict[str, Tensor]:
    """The generator's weights under rosinality's keys, with its FIR buffers."""
    ours = generator.state_dict()
    state = {"input.input": ours["constant"]}
    for i in range(generator.config.mapping_layers):
        for part in ("weight", "bias"):
            state[f"style.{i + 1}.{part}"] = ours[f"mapping_layers.{i}.{part}"]
    noises = 0
    for layer in layers_of(generator.config):
        theirs, mine = module_name(layer), f"layers.{layer.index}"
        state[f"{theirs}.conv.weight"] = ours[f"{mine}.weight"][None]
        for part in ("weight", "bias"):
            state[f"{theirs}.conv.modulation.{part}"] = ours[f"{mine}.affine.{part}"]
        if layer.is_rgb:
            state[f"{theirs}.bias"] = ours[f"{mine}.bias"].reshape(1, 3, 1, 1)
            if layer.resolution > 4:
                state[f"{theirs}.upsample.kernel"] = fir(gain=4)
            continue
        state[f"{theirs}.activate.bias"] = ours[f"{mine}.bias"]
        state[f"{theirs}.noise.weight"] = ours[f"{mine}.noise_strength"].reshape(1)
        state[f"noises.noise_{noises}"] = ours[f"{mine}.noise"]
        noises += 1
        if layer.up:
            state[f"{theirs}.conv.blur.kernel"] = fir(gain=4)
    return state


# ----------------------------------------------------------------------------------------- NVIDIA


def ada_state(generator: Generator) -> dict[str, Tensor]:
    """The generator's weights under the keys of stylegan2-ada-pytorch."""
    ours = generator.state_dict()
    state = {"mapping.w_avg": ours["mean_latent"], "synthesis.b4.const": ours["constant"][0]}
    for i in range(generator.config.mapping_layers):
        for part in ("weight", "bias"):
            state[f"mapping.fc{i}.{part}"] = ours[f"mapping_layers.{i}.{part}"]
    for layer in layers_of(generator.config):
        block, mine = f"synthesis.b{layer.resolution}", f"layers.{layer.index}"
        theirs = f"{block}.{'torgb' if layer.is_rgb else 'conv0' if layer.up else 'conv1'}"
        for part in ("weight", "bias", "affine.weight", "affine.bias"):
            state[f"{theirs}.{part}"] = ours[f"{mine}.{part}"]
        state[f"{block if layer.is_rgb else theirs}.resample_filter"] = fir(gain=1)
        if not layer.is_rgb:
            state[f"{theirs}.noise_strength"] = ours[f"{mine}.noise_strength"]
            state[f"{theirs}.noise_const"] = ours[f"{mine}.noise"][0, 0]
    return state


class _Persistent:
    """Pickles as NVIDIA's persistent modules do."""

    def __init__(self, class_name: str, state: dict[str, Any]) -> None:
        self.meta = {
            "type": "class",
            "version": 6,
            "module_src": "raise RuntimeError('this source must never run')",
            "class_name": class_name,
            "state": state,
        }

    def __reduce__(self) -> tuple[Any, ...]:
        return _reconstruct_persistent_obj, (self.meta,), None


def _reconstruct_persistent_obj(meta: dict[str, Any]) -> None:
    raise RuntimeError("this function must never run")


class EasyDict(dict):  # type: ignore[type-arg]
    pass


class Network:
    """TensorFlow-era network: attributes only."""


BUFFERS = ("resample_filter", "noise_const", "w_avg")


def persistent_module(tensors: Mapping[str, Tensor], name: str, **attributes: Any) -> _Persistent:
    """A tree of records whose parameters and buffers are `tensors`, keys joined by dots."""
    own = {key: value for key, value in tensors.items() if "." not in key}
    children: dict[str, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if "." in key:
            child, rest = key.split(".", 1)
            children.setdefault(child, {})[rest] = value
    state = {
        "training": False,
        "_parameters": OrderedDict(
            (k, torch.nn.Parameter(v.clone())) for k, v in own.items() if k not in BUFFERS
        ),
        "_buffers": OrderedDict((k, v.clone()) for k, v in own.items() if k in BUFFERS),
        "_non_persistent_buffers_set": set(),
        "_forward_hooks": OrderedDict(),
        "_modules": OrderedDict(
            (child, persistent_module(rest, f"Part{child}")) for child, rest in children.items()
        ),
        **attributes,
    }
    return _Persistent(name, state)


@contextmanager
def _nvidia_modules() -> Iterator[None]:
    """Makes pickle write NVIDIA's module names for the stand-ins above; gone afterwards."""
    stand_ins = {
        "torch_utils.persistence": _reconstruct_persistent_obj,
        "dnnlib.util": EasyDict,
        "dnnlib.tflib.network": Network,
    }
    names = ["torch_utils", "dnnlib", "dnnlib.tflib", *stand_ins]
    before = {item: item.__module__ for item in stand_ins.values()}
    try:
        for name in names:
            sys.modules[name] = ModuleType(name)
        for name, item in stand_ins.items():
            setattr(sys.modules[name], item.__name__, item)
            item.__module__ = name
        yield
    finally:
        for item, module in before.items():
            item.__module__ = module
        for name in names:
            del sys.modules[name]


def write_nvidia_pickle(path: Path, content: Any) -> Path:
    with _nvidia_modules():
        path.write_bytes(pickle.dumps(content, protocol=4))
    return path


def write_ada_pickle(
    path: Path, tensors: Mapping[str, Tensor], kwargs: Mapping[str, Any] | None = None
) -> Path:
    """A snapshot as stylegan2-ada-pytorch's training writes it; `kwargs` of the generator."""
    options = EasyDict(kwargs or {})
    module = persistent_module(tensors, "Generator", _init_args=(), _init_kwargs=options)
    other = persistent_module({"b4.out.weight": torch.zeros(1, 4)}, "Discriminator")
    content = {
        "G": module,
        "D": other,
        "G_ema": module,
        "training_set_kwargs": EasyDict(path="x.zip"),
        "augment_pipe": None,
    }
    return write_nvidia_pickle(path, content)


def tensorflow_network(generator: Generator, **static_kwargs: Any) -> Network:
    """The generator as dnnlib.tflib pickles one: variables in TensorFlow's layouts."""
    ours = {key: value.numpy() for key, value in generator.state_dict().items()}
    mapping = [
        (f"Dense{i}/{part}", ours[f"mapping_layers.{i}.{part}"].T)
        for i in range(generator.config.mapping_layers)
        for part in ("weight", "bias")
    ]
    synthesis: list[tuple[str, Any]] = [("4x4/Const/const", ours["constant"])]
    noises = 0
    for layer in layers_of(generator.config):
        side, mine = layer.resolution, f"layers.{layer.index}"
        name = "ToRGB" if layer.is_rgb else "Conv0_up" if layer.up else "Conv1"
        theirs = f"{side}x{side}/{'Conv' if side == 4 and not layer.is_rgb else name}"
        kernel = ours[f"{mine}.weight"].transpose(2, 3, 1, 0)
        synthesis += [
            (f"{theirs}/weight", kernel[::-1, ::-1] if layer.up else kernel),
            (f"{theirs}/bias", ours[f"{mine}.bias"]),
            (f"{theirs}/mod_weight", ours[f"{mine}.affine.weight"].T),
            (f"{theirs}/mod_bias", ours[f"{mine}.affine.bias"] - 1),
        ]
        if not layer.is_rgb:
            synthesis.append((f"{theirs}/noise_strength", ours[f"{mine}.noise_strength"]))
            synthesis.append((f"noise{noises}", ours[f"{mine}.noise"]))
            noises += 1
    network = _network([("lod", ours["mean_latent"][0] * 0), ("dlatent_avg", ours["mean_latent"])])
    network.static_kwargs = static_kwargs
    network.components = {"mapping": _network(mapping), "synthesis": _network(synthesis)}
    return network


def _network(variables: list[tuple[str, Any]]) -> Network:
    network = Network()
    network.version, network.components, network.static_kwargs = 4, {}, {}
    network.build_module_src = "raise RuntimeError('this source must never run')"
    network.variables = variables
    return network
