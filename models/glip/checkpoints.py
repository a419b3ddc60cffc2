"""Reads GLIP's weights: the released files, MMDetection's conversions of them, and our own.

    grounder = load_grounder(Path("glip_tiny_model_o365_goldg_cc_sbu.pth"))
    convert_once(Path("glip_large_model.pth"), Path("glip-large-fp16.safetensors"))

A file is recognised by its keys, its variant by its shapes. No pickle runs code, and a tensor that
is missing, misshapen or left over is an error; the keys left out are named in `names.IGNORED`.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models.catalog import ASSETS, TEACHER, TEACHER_FILES
from models.clip.frozen import tower_state
from models.detection.files import GLIP_KEY
from models.errors import WeightsError
from models.glip.config import GlipConfig, ResnetConfig, SwinConfig
from models.glip.glip import Glip
from models.glip.grounding import Grounder
from models.glip.names import is_ignored, official_names
from models.glip.prompts import wordpiece
from models.weights import (
    MAX_FILE_BYTES,
    MB,
    check_safetensors,
    minilm_directory,
    read_safetensors,
    verify,
)

State = Mapping[str, Tensor]

SUFFIXES = (".pth", ".pt", ".safetensors")
PRESETS: tuple[Callable[[], GlipConfig], ...] = (GlipConfig.a, GlipConfig.tiny, GlipConfig.large)
TITLES: Mapping[str, str] = {
    "glip-tiny-a": "GLIP-T (A), without deep fusion",
    "glip-tiny": "GLIP-T",
    "glip-large": "GLIP-L",
}
# Single numbers stay float32 in a half-precision file.
GLIP_MINI_PARTS = ("fpn", "resizer", "head", "shortcut")
EXACT = re.compile(r"head\.(scales\.\d|log_scale|bias0)")
NAME_KEY = GLIP_KEY  # in the header of our safetensors: the preset's name


# ------------------------------------------------------------------------------------- variants


@dataclass(frozen=True)
class Variant:
    """What tells the variants of GLIP apart, as numbers that a checkpoint shows."""

    dim: int
    depths: tuple[int, ...]
    window: int
    blocks: int
    fusion: bool

    @staticmethod
    def of_config(config: GlipConfig) -> Variant:
        """Raises ValueError for a config without a Swin."""
        swin = config.backbone
        if not isinstance(swin, SwinConfig):
            raise ValueError(f"{config.name} is not a variant of the reference implementation.")
        return Variant(swin.dim, swin.depths, swin.window, config.blocks, config.fusion)

    @staticmethod
    def of_state(state: State) -> Variant:
        """Of tensors with the reference's names. Raises KeyError, IndexError or ValueError for
        those of something else."""
        prefix = "backbone.body.layers"
        table = state[f"{prefix}.0.blocks.0.attn.relative_position_bias_table"]
        places = [re.match(rf"{re.escape(prefix)}\.(\d+)\.blocks\.(\d+)\.", key) for key in state]
        blocks = {(int(place[1]), int(place[2])) for place in places if place}
        stages = sorted({stage for stage, _ in blocks})
        towers = {key.split(".")[3] for key in state if key.startswith("rpn.head.dyhead_tower.")}
        fusion = any(".b_attn." in key for key in state)
        return Variant(
            dim=state["backbone.body.patch_embed.proj.weight"].shape[0],
            depths=tuple(sum(stage == s for s, _ in blocks) for stage in stages),
            window=(round(table.shape[0] ** 0.5) + 1) // 2,
            blocks=len(towers) // (3 if fusion else 1),
            fusion=fusion,
        )

    def __str__(self) -> str:
        for preset in PRESETS:
            if Variant.of_config(preset()) == self:
                return TITLES[preset().name]
        fusion = "with" if self.fusion else "without"
        return (
            f"a GLIP of {self.blocks} blocks {fusion} deep fusion on a Swin of width {self.dim}, "
            f"depths {', '.join(map(str, self.depths))} and window {self.window}"
        )


def _title(config: GlipConfig) -> str:
    return TITLES.get(config.name, config.name)


# -------------------------------------------------------------------------------------- loading


def load_glip(
    path: Path,
    config: GlipConfig | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Glip:
    """The network in a file of any format, frozen, in eval mode.

    Args:
        config: the variant that is wanted; None takes the one the file holds.

    Raises:
        WeightsError: the file is missing, damaged, no GLIP, another variant, not complete, or a
            pickle that asks for more than tensors.
    """
    found, state = read_glip(path, config)
    glip = Glip(found)
    _check(path, state, glip.state_dict())
    glip.load_state_dict(state, strict=True)
    return glip.requires_grad_(False).eval().to(device, dtype)


def load_grounder(
    path: Path,
    config: GlipConfig | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    name: str = "",
) -> Grounder:
    """`load_glip` with BERT's tokeniser, ready to ground. Raises WeightsError as `load_glip`."""
    glip = load_glip(path, config, device, dtype)
    return Grounder(name or glip.config.name, glip, wordpiece())


def read_glip(path: Path, config: GlipConfig | None = None) -> tuple[GlipConfig, State]:
    """The variant in a file, and its tensors by the names of `Glip`'s state dict, not yet compared
    with the network's; those of a `.pth` stay on the disk until they are used.

    Raises WeightsError as `load_glip`.
    """
    state, name = _tensors(path)
    if name:
        return _ours(path, state, name, config)
    if any(key.startswith("neck.") for key in state):
        state = official_of_mmdetection(state)
    state = {key: tensor for key, tensor in state.items() if not is_ignored(key)}
    try:
        variant = Variant.of_state(state)
    except (KeyError, IndexError, ValueError):
        parts = ", ".join(sorted({key.split(".")[0][:40] for key in state})[:4]) or "nothing"
        raise WeightsError(
            f"{path.name} holds no GLIP (its parts are {parts}); give a checkpoint of "
            "microsoft/GLIP or of MMDetection's GLIP."
        ) from None
    config = config or _preset(path, variant)
    if Variant.of_config(config) != variant:
        raise WeightsError(
            f"{path.name} is {variant}, not {_title(config)}; choose it as what it is."
        )
    ours = {official: key for key, official in official_names(config).items()}
    return config, {ours.get(key, key): tensor for key, tensor in state.items()}


def _preset(path: Path, variant: Variant) -> GlipConfig:
    for preset in PRESETS:
        if Variant.of_config(preset()) == variant:
            return preset()
    raise WeightsError(
        f"{path.name} is {variant}, which was never released; use "
        f"{', '.join(TITLES[preset().name] for preset in PRESETS)}."
    )


def _ours(
    path: Path, state: State, name: str, config: GlipConfig | None
) -> tuple[GlipConfig, State]:
    known = {preset().name: preset() for preset in PRESETS}
    found = config if config is not None and config.name == name else known.get(name)
    if found is None:
        raise WeightsError(
            f"{path.name} says it is “{name[:40]}”, which is none of {', '.join(known)}."
        )
    if config is not None and config != found:
        raise WeightsError(
            f"{path.name} is {_title(found)}, not {_title(config)}; choose it as what it is."
        )
    return found, state


def _check(path: Path, state: State, wanted: State) -> None:
    """Raises WeightsError unless `state` has tensors like all of `wanted` and no others, finite."""
    missing, extra = wanted.keys() - state.keys(), state.keys() - wanted.keys()
    if missing or extra:
        what, keys = ("lacks", missing) if missing else ("has besides a GLIP's", extra)
        raise WeightsError(
            f"{path.name} {what} {len(keys)} tensors, the first is {min(keys)[:100]}; it is "
            "another model or another version, use a released checkpoint."
        )
    for key, like in wanted.items():
        tensor = state[key]
        if tensor.shape != like.shape:
            raise WeightsError(
                f"{path.name} has a tensor {key} of shape {list(tensor.shape)} instead of "
                f"{list(like.shape)}; it is another variant."
            )
        real = tensor.is_floating_point() or not like.is_floating_point()
        if not real or not tensor.isfinite().all():
            raise WeightsError(
                f"{path.name} has a tensor {key} with values that are no finite numbers; download "
                "or copy it again."
            )


# ------------------------------------------------------------------------------ reading of files


def _tensors(path: Path) -> tuple[dict[str, Tensor], str]:
    """All tensors of a file, and the preset's name if the file is ours, else ""."""
    if path.suffix not in SUFFIXES:
        raise WeightsError(f"{path.name} is no checkpoint; give one that ends with .pth.")
    if path.suffix == ".safetensors":
        return read_safetensors(path), _name_in_header(path)
    if not path.is_file():
        raise WeightsError(f"{path.name} is not in {path.parent}; check the path.")
    size = path.stat().st_size
    if size > MAX_FILE_BYTES:
        raise WeightsError(
            f"{path.name} has {size / MB:,.0f} MB, more than any GLIP; use a released checkpoint."
        )
    with _explained(path):
        archive = zipfile.is_zipfile(path)
        if archive and any(e.compress_type for e in zipfile.ZipFile(path).infolist()):
            raise WeightsError(f"{path.name} is compressed, which torch.save never does.")
        # From the disk, as the optimiser and the average that are beside the model fill gigabytes.
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=archive)
    return _model_in(loaded), ""


def _model_in(loaded: Any) -> dict[str, Tensor]:
    """The tensors of the model in what torch.load gave, without the `module.` of parallel training."""
    for wrapper in ("model", "state_dict"):
        if isinstance(loaded, Mapping) and isinstance(loaded.get(wrapper), Mapping):
            loaded = loaded[wrapper]
    if not isinstance(loaded, Mapping):
        return {}
    return {
        str(key).removeprefix("module."): tensor
        for key, tensor in loaded.items()
        if isinstance(tensor, Tensor)
    }


def _name_in_header(path: Path) -> str:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:  # type: ignore[no-untyped-call]
        return str((file.metadata() or {}).get(NAME_KEY, ""))


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turns what reading a damaged or hostile file raises into a WeightsError of one sentence."""
    try:
        yield
    except WeightsError:
        raise
    except (Exception, RecursionError) as error:
        forbidden = re.search(r"GLOBAL ([\w.]+)", str(error))
        if forbidden is not None:
            raise WeightsError(
                f"{path.name} asks for {forbidden[1]}, which could run code; it was not opened, use "
                "a file from a source you trust."
            ) from None
        raise WeightsError(
            f"{path.name} is damaged, cut short, or no checkpoint ({type(error).__name__}); "
            "download or copy it again."
        ) from error


# ----------------------------------------------------------------------------------- MMDetection

# MMDetection's names -> the reference's, each tried in order on every key.
_MMDETECTION = (
    (r"^backbone\.patch_embed\.projection\.", "backbone.body.patch_embed.proj."),
    (r"^backbone\.stages\.", "backbone.body.layers."),
    (r"^backbone\.(?!body\.)", "backbone.body."),
    (r"\.ffn\.layers\.0\.0\.", ".mlp.fc1."),
    (r"\.ffn\.layers\.1\.", ".mlp.fc2."),
    (r"\.attn\.w_msa\.", ".attn."),
    (r"^neck\.fpn_convs\.3\.conv\.", "backbone.fpn.top_blocks.p6."),
    (r"^neck\.fpn_convs\.4\.conv\.", "backbone.fpn.top_blocks.p7."),
    *(
        (rf"^neck\.{theirs}\.{level}\.conv\.", f"backbone.fpn.{name}{level + 2}.")
        for theirs, name in (("lateral_convs", "fpn_inner"), ("fpn_convs", "fpn_layer"))
        for level in range(3)
    ),
    (r"^language_model\.", ""),
    (r"^bbox_head\.", "rpn."),
)
_MERGE = re.compile(r"backbone\.body\.layers\.\d+\.downsample\.(reduction\.weight|norm\.\w+)")


def official_of_mmdetection(state: State) -> dict[str, Tensor]:
    """The reference's names and order of a state dict of MMDetection 3's GLIP."""
    result = {}
    for key, tensor in state.items():
        for pattern, replacement in _MMDETECTION:
            key = re.sub(pattern, replacement, key)
        result[key] = _corners_first(tensor) if _MERGE.fullmatch(key) else tensor
    return result


def _corners_first(merged: Tensor) -> Tensor:
    """Inputs of a patch merging, (..., 4 C), from MMDetection's order to the reference's.

    Theirs is `Unfold`'s: channel after channel, the corners (0,0), (0,1), (1,0), (1,1) of each.
    The reference's: corner after corner, (0,0), (1,0), (0,1), (1,1), all channels of each.
    """
    by_corner = torch.unflatten(merged, -1, (-1, 4)).transpose(-1, -2)
    return by_corner[..., [0, 2, 1, 3], :].flatten(-2)


# ------------------------------------------------------------------------------ our safetensors


def save_glip(config: GlipConfig, state: State, path: Path) -> None:
    """Writes tensors by the names of `Glip`'s state dict, in half precision but for single numbers.

    Raises WeightsError when they do not fit the variant or float16, or the folder cannot be
    written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    with torch.device("meta"):
        wanted = Glip(config).state_dict()
    _check(path, state, wanted)
    kept = {}
    for key, tensor in state.items():
        kept[key] = (tensor.float() if EXACT.fullmatch(key) else tensor.half()).cpu().contiguous()
        if not kept[key].isfinite().all():
            raise WeightsError(f"{key} is too large for half precision; use the file as it is.")
    part = path.with_name(f"{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(kept, part, metadata={NAME_KEY: config.name})
        part.replace(path)  # never half a file under the real name
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"{path} cannot be written ({error}); choose another folder.") from error


def convert_once(source: Path, target: Path, config: GlipConfig | None = None) -> None:
    """Keeps a checkpoint as half-precision safetensors, a seventh of a released file; the source,
    which is the user's, stays. Raises WeightsError as `read_glip` and `save_glip`."""
    if not target.is_file():
        save_glip(*read_glip(source, config), target)


# -------------------------------------------------------------------------------------- glip-mini


def load_glip_mini(
    directory: Path,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    config: GlipConfig | None = None,
) -> Grounder:
    """glip-mini: `directory`/model.safetensors holds what was trained, the parts `GLIP_MINI_PARTS`;
    the image tower is clip-mini's, the language backbone MiniLM, both verified.

    Raises WeightsError when one of the three is absent, damaged or incomplete.
    """
    config = config or GlipConfig.mini()
    glip = Glip(config)
    path = directory / "model.safetensors"
    check_safetensors(path)
    trained = read_safetensors(path)
    state = {**trained, **_clip_mini_tower(config), **_minilm()}
    if foreign := [key for key in trained if key.split(".")[0] not in GLIP_MINI_PARTS]:
        raise WeightsError(
            f"{path} holds {min(foreign)[:100]}, which is no part of {config.name}; install CLIP "
            "Atelier again."
        )
    _check(path, state, glip.state_dict())
    glip.load_state_dict(state, strict=True)
    glip = glip.requires_grad_(False).eval().to(device, dtype)
    return Grounder(config.name, glip, wordpiece())


def _clip_mini_tower(config: GlipConfig) -> dict[str, Tensor]:
    """The teacher's image tower under the names of `Glip.backbone`."""
    assert isinstance(config.backbone, ResnetConfig)
    file = next(file for file in TEACHER_FILES if file.name.endswith(".safetensors"))
    path = ASSETS / TEACHER / file.name
    verify(path, file.sha256)
    return tower_state(path)


def _minilm() -> dict[str, Tensor]:
    """MiniLM under the names of `Glip.language`."""
    state = read_safetensors(minilm_directory() / "model.safetensors")
    return {f"language.bert.{key}": state[key] for key in state if not is_ignored(key)}
