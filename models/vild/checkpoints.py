"""ViLD's weights in files: the released TensorFlow checkpoints, and our own safetensors.

    config, state = read_official(Path("resnet50_vild/model.ckpt-180000.index"))
    save_vild(config, state, Path("vild-r50.safetensors"), lvis_base_names())
    vild = load_vild(Path("vild-r50.safetensors"), "cpu")
    check_teacher(vild.config, clip)                  # before its names are compared with regions

Strict both ways: every tensor of the network is in the file with its shape, and every tensor of
the file is in the network, or is one that `models.vild.names` leaves out by name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import torch
from torch import Tensor

from models.clip.encoder import ClipEncoder
from models.clip.frozen import tower_state
from models.detection.files import VILD_KEY
from models.errors import InputError, WeightsError
from models.vild.archives import bundle_table
from models.vild.categories import lvis_base_names
from models.vild.config import ResnetConfig, TowerConfig, VildConfig
from models.vild.names import (
    CLASSES,
    Array,
    canonical_name,
    is_training_only,
    official_names,
    state_from_official,
)
from models.vild.tfbundle import TensorBundle
from models.vild.vild import Vild
from models.weights import metadata_of, read_safetensors

PRESETS: Mapping[str, VildConfig] = MappingProxyType(
    {
        config.name: config
        for config in (
            VildConfig.r50(),
            VildConfig.r50_ensemble(),
            VildConfig.r152(),
            VildConfig.r152_ensemble(),
            VildConfig.mini(),
            VildConfig.mini_single(),
        )
    }
)
_BACKBONE = "backbone."


# -------------------------------------------------------------------- the reference's checkpoints


def read_official(index: Path) -> tuple[VildConfig, dict[str, Tensor]]:
    """The preset of a released checkpoint and its state dict, float32, read without TensorFlow.

    Args:
        index: the bundle's table.

    Raises:
        WeightsError: it is damaged, no ViLD, lacks a variable, or has one that nobody knows.
    """
    with TensorBundle.open(index) as bundle:
        stored: dict[str, str] = {}  # by canonical name
        for name in bundle.entries:
            if not is_training_only(name) and stored.setdefault(canonical_name(name), name) != name:
                raise WeightsError(f"{index.name} has two variables for {canonical_name(name)}.")
        config = _preset_of(stored, index)
        wanted = official_names(config).values()
        missing = sorted(set(wanted) - stored.keys())
        unknown = sorted(stored.keys() - set(wanted) - {CLASSES})
        if missing or unknown:
            raise WeightsError(
                f"{index.name} is no {config.name}: {_told(missing, 'is missing')}"
                f"{'; ' if missing and unknown else ''}{_told(unknown, 'is not of it')}."
            )

        def read(name: str) -> Array:
            return bundle.read(stored[name])

        try:
            state = state_from_official(config, read)
        except (ValueError, IndexError) as error:  # a shape that cannot be turned
            raise WeightsError(f"{index.name} has a tensor of a wrong shape ({error}).") from error
    return config, _checked(config, state, index)


def convert(source: Path, target: Path) -> VildConfig:
    """A released checkpoint, in its archive or unpacked, to our slim safetensors.

    Raises:
        WeightsError: as `read_official`, or something cannot be unpacked or written.
    """
    with bundle_table(source, target.parent) as index:
        config, state = read_official(index)
    save_vild(config, state, target, lvis_base_names())
    return config


def _preset_of(names: Mapping[str, str], index: Path) -> VildConfig:
    ensemble = any("/distill-project-to-clip/" in name for name in names)
    depths = [depth for depth in (50, 152) if f"resnet{depth}/conv2d/kernel" in names]
    for config in PRESETS.values():
        depth = config.backbone.depth if isinstance(config.backbone, ResnetConfig) else None
        if depths == [depth] and config.ensemble == ensemble:
            return config
    found = ", ".join(sorted(names)[:3]) or "nothing"
    raise WeightsError(
        f"{index.name} holds no ViLD with ResNet-50 or ResNet-152 (it begins with {found[:200]}); "
        "give one of the four released checkpoints."
    )


def _told(names: list[str], what: str) -> str:
    if not names:
        return ""
    more = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
    return f"{names[0][:200]} {what}{more}"


# ------------------------------------------------------------------------------- our safetensors


def save_vild(
    config: VildConfig, state: Mapping[str, Tensor], path: Path, base_names: Sequence[str]
) -> None:
    """Writes what was learnt: matrices and kernels in half precision, vectors (norms, biases) in
    single; in the header the preset's name, the teacher's, and the names trained on. A frozen tower
    is left out.

    Raises:
        WeightsError: the folder cannot be written, or a weight is too large for float16.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    kept = {}
    for key, tensor in state.items():
        if key.startswith(_BACKBONE) and isinstance(config.backbone, TowerConfig):
            continue
        half = tensor.is_floating_point() and tensor.dim() > 1
        kept[key] = tensor.detach().half() if half else tensor.detach()
        if not kept[key].isfinite().all():
            raise WeightsError(f"{key} has values that half precision cannot hold.")
        kept[key] = kept[key].cpu().contiguous()
    part = path.with_name(f"{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        told = {"teacher": config.teacher, "base": json.dumps(list(base_names))}
        save_file(kept, part, metadata={VILD_KEY: config.name, **told})
        part.replace(path)  # never half a file under the real name
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"{path} cannot be written ({error}); choose another folder.") from error


def load_vild(
    path: Path,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    *,
    tower: Path | None = None,
    config: VildConfig | None = None,
) -> Vild:
    """The network in one of our files, frozen; its `config.teacher` is the one it learnt from.

    Args:
        tower: clip-mini's safetensors; what has that tower for a backbone needs it.
        config: what the file must hold; None is the preset that the file names.

    Raises:
        WeightsError: the file is damaged, of another shape, or was not written by `save_vild`.
    """
    told = metadata_of(path)
    if VILD_KEY not in told or "teacher" not in told:
        raise WeightsError(
            f"{path.name} was not written by CLIP Atelier as a ViLD; convert the released "
            "checkpoint with `python -m models.vild.convert`."
        )
    chosen = config or PRESETS.get(told[VILD_KEY])
    if chosen is None or chosen.name != told[VILD_KEY]:
        raise WeightsError(
            f"{path.name} is a {told[VILD_KEY][:40]}; wanted is "
            f"{chosen.name if chosen else 'one of ' + ', '.join(PRESETS)}."
        )
    chosen = replace(chosen, teacher=told["teacher"])
    state = read_safetensors(path)
    if isinstance(chosen.backbone, TowerConfig):
        state |= _tower_state(tower, path)
    with torch.device("meta"):
        model = Vild(chosen)
    model.load_state_dict(_checked(chosen, state, path), strict=True, assign=True)
    return model.requires_grad_(False).eval().to(device, dtype)


def read_base_names(path: Path) -> tuple[str, ...]:
    """The names that the ViLD in one of our files was trained on, all others are novel to it.

    Raises:
        WeightsError: the file does not tell.
    """
    try:
        names = json.loads(metadata_of(path).get("base", "null"))
    except (ValueError, RecursionError):
        names = None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise WeightsError(
            f"{path.name} does not tell the names it was trained on; convert it again."
        )
    return tuple(names)


def check_teacher(config: VildConfig, clip: ClipEncoder) -> None:
    """Raises InputError unless `clip` is the CLIP whose space the detector learnt: cosines between
    two spaces are numbers without a meaning, and look like results."""
    if clip.name != config.teacher:
        raise InputError(
            f"{config.name} learnt from {config.teacher} and does not understand the words of "
            f"{clip.name}; use it with {config.teacher}."
        )
    if clip.embed_dim != config.embedding:
        raise InputError(
            f"{config.name} speaks in vectors of {config.embedding} numbers and {clip.name} of "
            f"{clip.embed_dim}; one of the two files is not what its name says."
        )


def _tower_state(tower: Path | None, path: Path) -> dict[str, Tensor]:
    if tower is None:
        raise WeightsError(f"{path.name} stands on clip-mini's image tower, whose file is missing.")
    return tower_state(tower)


def _checked(config: VildConfig, state: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The state, floating numbers in float32: no tensor missing, left over, of another shape, or
    with a value that is no number."""
    with torch.device("meta"):
        wanted = Vild(config).state_dict()
    missing, unknown = sorted(wanted.keys() - state.keys()), sorted(state.keys() - wanted.keys())
    if missing or unknown:
        raise WeightsError(
            f"{path.name} does not fit {config.name}: {_told(missing, 'is missing')}"
            f"{'; ' if missing and unknown else ''}{_told(unknown, 'is not of it')}."
        )
    for key, tensor in state.items():
        if tensor.shape != wanted[key].shape:
            raise WeightsError(
                f"{path.name} has {key} of shape {list(tensor.shape)} where {config.name} has "
                f"{list(wanted[key].shape)}."
            )
        if tensor.is_floating_point() != wanted[key].is_floating_point():
            raise WeightsError(f"{path.name} has {key} in another kind of numbers.")
        if not tensor.isfinite().all():
            raise WeightsError(f"{path.name} has values in {key} that are not finite.")
    return {k: v.float() if v.is_floating_point() else v for k, v in state.items()}
