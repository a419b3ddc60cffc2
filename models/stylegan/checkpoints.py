"""One door for every generator file: recognises the format, reads it safely, builds the module.

    found = read_generator(Path("stylegan2-ffhq-config-f.pt"))
    print(found)                                   # rosinality, 1024 px, 18 rows of W+, ...
    save_generator(found.generator, Path("ffhq.safetensors"), half=True)

Formats: rosinality `.pt`, NVIDIA `.pkl` (stylegan2-ada-pytorch, and TensorFlow's stylegan2),
lucidrains `.pt`, our own safetensors. No pickle is executed (`models.stylegan.pickles`), every
size is read from the tensors, and a tensor that is missing or left over is an error.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models.errors import WeightsError
from models.stylegan import lucidrains, nvidia, rosinality
from models.stylegan.files import SUFFIXES, config_of
from models.stylegan.generator import Generator, GeneratorConfig
from models.stylegan.lucidrains import LucidConfig, LucidGenerator
from models.stylegan.pickles import MAX_BYTES, explained, read_pkl, read_pt
from models.stylegan.strict import Tensors
from models.weights import read_safetensors

AnyGenerator = Generator | LucidGenerator
AnyConfig = GeneratorConfig | LucidConfig
EXACT = ("noise_strength",)  # stays float32 in a half-precision file: single numbers


@dataclass(frozen=True)
class Found:
    """What was in a file. `note` is "" or a sentence on what the file did not say."""

    generator: AnyGenerator
    format: str
    note: str = ""

    def __str__(self) -> str:
        generator = self.generator
        config = generator.config
        numbers = sum(tensor.numel() for tensor in generator.state_dict().values())
        clamp = getattr(config, "clamp", None)
        parts = [
            self.format,
            f"{generator.size} px",
            f"channels {', '.join(map(str, config.channels))}",
            f"z {generator.noise_size}, w {generator.latent_size}, {generator.rows} rows of W+",
            f"{len(generator.layout)} style vectors",
            f"{config.mapping_layers} mapping layers",
            f"{numbers / 1e6:.1f} million numbers",
        ]
        if clamp is not None:
            parts.append(f"activations clamped at {clamp:g}")
        return "; ".join([*parts, *([self.note] if self.note else [])])


def load_generator(path: Path, device: torch.device | str = "cpu") -> AnyGenerator:
    """The generator in a file of any format, frozen, float32.

    Raises WeightsError as `read_generator`.
    """
    return read_generator(path).generator.to(device)


def read_generator(path: Path, *, max_bytes: int = MAX_BYTES) -> Found:
    """The generator in a file, and what the file is.

    Raises:
        WeightsError: it is missing, damaged, too large, no generator, of an architecture that is
            not StyleGAN2's config F, or a pickle that asks for more than tensors.
    """
    if path.suffix not in SUFFIXES:
        raise WeightsError(
            f"{path.name} is no generator file; give one that ends with {', '.join(SUFFIXES)}."
        )
    with explained(path):
        if path.suffix == ".safetensors":
            tensors = read_safetensors(path, max_bytes=max_bytes)
            config, state = _own(tensors, config_of(path), path)
            return _built(config, state, "safetensors of CLIP Atelier")
        if path.suffix == ".pkl" and not _is_torch_archive(path):
            return _from_pickle(read_pkl(path, max_bytes=max_bytes), path)
        return _from_torch(read_pt(path, max_bytes=max_bytes), path)


def _is_torch_archive(path: Path) -> bool:
    """A file that torch.save wrote, although its name ends with .pkl."""
    if not path.is_file():
        return False
    with path.open("rb") as stream:
        return stream.read(4) == b"PK\3\4"


def _from_torch(loaded: Any, path: Path) -> Found:
    if rosinality.generator_state(loaded) is not None:
        return _built(*rosinality.convert(loaded, path), "rosinality/stylegan2-pytorch")
    if lucidrains.generator_state(loaded) is not None:
        return _built(*lucidrains.convert(loaded, path), "lucidrains/stylegan2-pytorch")
    raise _unknown(loaded, path)


def _from_pickle(loaded: Any, path: Path) -> Found:
    if nvidia.is_ada(loaded):
        return _built(*nvidia.convert_ada(loaded, path), "NVIDIA stylegan2-ada-pytorch")
    if nvidia.is_tensorflow(loaded):
        return _built(*nvidia.convert_tensorflow(loaded, path), "NVIDIA stylegan2 (TensorFlow)")
    raise _unknown(loaded, path)


def _unknown(loaded: Any, path: Path) -> WeightsError:
    names = [str(key)[:40] for key in loaded][:4] if isinstance(loaded, Mapping) else []
    content = f"its parts are {', '.join(names)}" if names else "it has no named parts"
    return WeightsError(
        f"{path.name} holds no StyleGAN2 generator ({content}); give a checkpoint of rosinality, "
        "NVIDIA (stylegan2, ada) or lucidrains."
    )


def _built(config: AnyConfig, state: dict[str, Tensor], origin: str) -> Found:
    """The module with these weights; a mean latent that is not among them is measured."""
    with torch.device("meta"):  # 30 million random numbers less
        generator = (
            Generator(config) if isinstance(config, GeneratorConfig) else LucidGenerator(config)
        )
    measured = "mean_latent" not in state
    zeros = torch.zeros(config.latent_size)
    generator.load_state_dict({"mean_latent": zeros, **state}, strict=True, assign=True)
    generator.requires_grad_(False).eval()
    if not measured:
        return Found(generator, origin)
    generator.mean_latent.copy_(generator.measure_mean_latent())
    return Found(generator, origin, "the mean latent, absent from the file, was measured")


def _empty(config: AnyConfig) -> AnyGenerator:
    """A generator without memory: no 30 million random numbers that are replaced at once."""
    with torch.device("meta"):
        if isinstance(config, LucidConfig):
            return LucidGenerator(config)
        return Generator(config)


# ------------------------------------------------------------------------------ our safetensors


def save_generator(generator: AnyGenerator, path: Path, *, half: bool = False) -> None:
    """Writes our safetensors.

    Args:
        half: weights in float16, computed in float32 when loaded.

    Raises:
        WeightsError: the folder cannot be written, or a weight is too large for float16.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    state = {}
    for key, tensor in generator.state_dict().items():
        kept = tensor.half() if half and not key.endswith(EXACT) else tensor.float()
        if not kept.isfinite().all():
            raise WeightsError(f"{key} is too large for half precision; save without it.")
        state[key] = kept.cpu().contiguous()
    part = path.with_name(f"{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        config = json.dumps(asdict(generator.config))
        save_file(state, part, metadata={"config": config})
        part.replace(path)  # never half a file under the real name
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"{path} cannot be written ({error}); choose another folder.") from error


def convert_once(source: Path, target: Path) -> None:
    """Keeps a downloaded checkpoint as half-precision safetensors, and removes it when both lie in
    one folder, our cache; a file elsewhere belongs to another program.

    Raises WeightsError as `read_generator` and `save_generator`.
    """
    save_generator(read_generator(source).generator, target, half=True)
    if source.parent == target.parent:
        source.unlink()


def _own(
    state: Mapping[str, Tensor], told: Mapping[str, Any], path: Path
) -> tuple[AnyConfig, dict[str, Tensor]]:
    """Sizes are read from the shapes; `told`, the configuration in the header, adds what shapes
    cannot say and must agree with them in everything else."""
    tensors = Tensors(state, path)
    config: AnyConfig
    if "mapping_rate" in told:
        config = _own_lucid_config(tensors, _number(tensors, told, "mapping_rate") or 0.1)
    elif "clamp" in told:
        config = _own_config(tensors, _number(tensors, told, "clamp"))
    else:
        raise tensors.wrong("was not written by CLIP Atelier as a generator")
    if json.loads(json.dumps(asdict(config))) != told:
        raise tensors.wrong("has another shape than its header says")
    wanted = _empty(config).state_dict()
    result = {key: tensors.take(key, *want.shape) for key, want in wanted.items()}
    tensors.finish()
    return config, result


def _number(tensors: Tensors, told: Mapping[str, Any], name: str) -> float | None:
    number = told[name]
    if number is None:
        return None
    if not isinstance(number, (int, float)) or not 0 < number < 1e9:
        raise tensors.wrong(f"says {name} {str(number)[:40]}, which no generator has")
    return float(number)


def _own_config(tensors: Tensors, clamp: float | None) -> GeneratorConfig:
    blocks = (tensors.count(r"layers\.\d+\.affine\.bias") + 1) // 3
    outputs = [0] + [3 * block for block in range(1, blocks)]  # the last convolution of each
    latent_size, noise_size = tensors.shape("mapping_layers.0.weight", 2)
    return GeneratorConfig(
        channels=tuple(tensors.shape(f"layers.{index}.bias", 1)[0] for index in outputs),
        latent_size=latent_size,
        noise_size=noise_size,
        mapping_layers=tensors.count(r"mapping_layers\.\d+\.weight"),
        clamp=clamp,
    )


def _own_lucid_config(tensors: Tensors, rate: float) -> LucidConfig:
    blocks = tensors.count(r"layers\.\d+\.affine\.bias") // 3
    tensors.shape("noise", 4)
    if not 1 <= blocks <= lucidrains.MAX_BLOCKS:
        raise tensors.wrong(f"has {blocks} blocks")
    attention = [b for b in range(blocks) if f"attention.{b}.to_q.weight" in tensors]
    inner = {tensors.shape(f"attention.{b}.to_q.weight", 4)[0] for b in attention}
    return LucidConfig(
        channels=tuple(tensors.shape(f"layers.{3 * b + 1}.weight", 4)[0] for b in range(blocks)),
        latent_size=tensors.shape("mean_latent", 1)[0],
        mapping_layers=tensors.count(r"mapping_layers\.\d+\.weight"),
        mapping_rate=rate,
        attention=tuple(attention),
        heads=max(inner, default=LucidConfig.heads * lucidrains.HEAD_SIZE) // lucidrains.HEAD_SIZE,
        constant="constant" in tensors,
        transparent=tensors.shape("layers.2.weight", 4)[0] == 4,
    )
