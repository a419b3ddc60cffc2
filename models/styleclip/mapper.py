"""StyleCLIP's latent mapper: a small network that learned one edit for all pictures.

Patashnik et al. 2021 (arXiv 2103.17249), section 5: w' = w + 0.1 M(w). The three architectures are
those of the authors' code, whose checkpoints `official_mapper` takes; ours are safetensors with the
prompt in the metadata.
"""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn

from models.errors import InputError, WeightsError
from models.stylegan.generator import Generator, MappingLayer
from models.stylegan.latent import Latent
from models.stylegan.pickles import read_pt
from models.weights import MB, check_safetensors, read_safetensors

from .prompt import MAX_LETTERS, EditPrompt

VARIANTS = ("levels", "single", "style_space")
EDIT_SCALE = 0.1  # of a mapper's output
EPSILON = 1e-8
# Rows of W+ that each level maps, under its name in the authors' checkpoints (their spelling).
LEVELS = {"course_mapping": (0, 4), "medium_mapping": (4, 8), "fine_mapping": (8, None)}
LEVEL_NAMES = dict(zip(("coarse", "medium", "fine"), LEVELS))
FORMAT = "clip-atelier-mapper-1"
MAX_FILE_BYTES = 100 * MB  # twice a StyleSpace mapper of a 1024 px generator in float32
MAX_OFFICIAL_BYTES = 500 * MB  # theirs hold the generator, too: up to 145 MB
MAX_WIDTH = 4096
MAX_STRENGTH = 10
_KEY = re.compile(r"(course_mapping|medium_mapping|fine_mapping|mapping|mapper_\d{1,3})"
                  r"\.mapping\.[1-4]\.(?:weight|bias)")  # fmt: skip


@dataclass(frozen=True)
class MapperInfo:
    """Where a mapper comes from.

    Attributes:
        prompt: what it was trained for; None where the file does not say.
        generator: catalogue's name of the generator it was trained with; "" is unknown.
        rows: rows of that generator's W+; None is unknown.
    """

    prompt: EditPrompt | None = None
    generator: str = ""
    rows: int | None = None


class PixelNorm(nn.Module):
    """x / rms over dimension 1: the rows of a W+, the channels of a w or a style vector.

    Not over W+'s channels, as the name suggests: released weights were trained this way.
    """

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.square().mean(dim=1, keepdim=True) + EPSILON)


class Part(nn.Module):
    """PixelNorm and four equalised layers as wide as what they map."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.mapping = nn.Sequential(PixelNorm(), *(MappingLayer(width, width) for _ in range(4)))

    def forward(self, x: Tensor) -> Tensor:  # (B, ..., width) -> the same
        moved: Tensor = self.mapping(x)
        return moved


@torch.no_grad()
def amplify(mapper: Mapper, factor: float) -> None:
    """Make M(w) `factor` times as large, in place; exact, as leaky ReLU is homogeneous."""
    for module in mapper.modules():
        if isinstance(module, Part):
            last: Any = module.mapping[-1]
            last.weight.mul_(factor)
            last.bias.mul_(factor)


class Mapper(nn.Module, ABC):
    """M of w' = w + 0.1 M(w); `make_mapper` finds the right kind for its parts.

    Attributes:
        widths: parts by name, as in the authors' checkpoints, with their widths.
        info: where it comes from.
    """

    def __init__(self, widths: Mapping[str, int], info: MapperInfo) -> None:
        super().__init__()
        self.widths, self.info = dict(widths), info
        for name, width in widths.items():
            self.add_module(name, Part(width))

    def part(self, name: str, x: Tensor) -> Tensor:
        """Output of the part called `name`; zeros where the mapper has no such part."""
        return self.get_submodule(name)(x) if name in self.widths else torch.zeros_like(x)

    @abstractmethod
    def check(self, generator: Generator) -> None:
        """Raises InputError unless the mapper fits the generator."""

    @abstractmethod
    def edited_styles(self, generator: Generator, w_plus: Tensor) -> tuple[list[Tensor], Tensor]:
        """StyleSpace of edited latents and how far they moved.

        Args:
            w_plus: (B, rows, D).

        Returns:
            One (B, size) per slot, and the mean squared move; in StyleSpace the sum of the
            means of its vectors. Both are differentiable in the weights.
        """

    @abstractmethod
    def edited(self, generator: Generator, latent: Latent, strength: float) -> Latent:
        """`latent` moved by strength * 0.1 * M."""

    def _check_rows(self, generator: Generator) -> None:
        if self.info.rows not in (None, generator.rows):
            raise InputError(
                f"This mapper was trained for a generator with {self.info.rows} rows of W+, not "
                f"{generator.rows}; choose one that was trained for this resolution."
            )


class LatentMapper(Mapper):
    """Maps W+: in levels (coarse, medium, fine; a level may be missing) or all rows by one part."""

    def forward(self, w: Tensor) -> Tensor:
        """(B, rows, D), or (B, D) with a single part, -> M(w) in the same shape."""
        if "mapping" in self.widths:
            return self.part("mapping", w)
        parts = (self.part(name, w[:, begin:end]) for name, (begin, end) in LEVELS.items())
        return torch.cat(list(parts), dim=1)

    def check(self, generator: Generator) -> None:
        for width in self.widths.values():
            if width != generator.latent_size:
                raise InputError(
                    f"This mapper maps latents of {width} numbers and this generator's have "
                    f"{generator.latent_size}; choose a mapper that was trained for it."
                )
        self._check_rows(generator)

    def edited_styles(self, generator: Generator, w_plus: Tensor) -> tuple[list[Tensor], Tensor]:
        move = EDIT_SCALE * self(w_plus)  # (B, rows, D)
        return generator.styles(w_plus + move), move.square().mean()

    def edited(self, generator: Generator, latent: Latent, strength: float) -> Latent:
        w_plus = latent.w_plus.to(generator.device)
        move = self(w_plus[None])[0].to(latent.w_plus)
        return replace(latent, w_plus=latent.w_plus + strength * EDIT_SCALE * move)


class StyleMapper(Mapper):
    """Maps every style vector but those of ToRGB by a part of its own, `mapper_<index>`."""

    def forward(self, styles: Sequence[Tensor]) -> list[Tensor]:
        """One (B, size) per slot -> M of each; zeros for ToRGB."""
        return [self.part(f"mapper_{index}", style) for index, style in enumerate(styles)]

    def check(self, generator: Generator) -> None:
        if self.widths != _style_widths(generator):
            raise InputError(
                "This mapper was trained for the style vectors of another generator; choose one "
                "that was trained for this generator."
            )
        self._check_rows(generator)

    def edited_styles(self, generator: Generator, w_plus: Tensor) -> tuple[list[Tensor], Tensor]:
        styles = generator.styles(w_plus)
        moves = [EDIT_SCALE * move for move in self(styles)]
        distance = torch.stack([move.square().mean() for move in moves]).sum()
        return [style + move for style, move in zip(styles, moves)], distance

    def edited(self, generator: Generator, latent: Latent, strength: float) -> Latent:
        moves = [move[0] for move in self(latent.styles(generator))]
        return latent.moved(moves, strength * EDIT_SCALE)


@torch.no_grad()
def apply_mapper(
    mapper: Mapper, generator: Generator, latent: Latent, strength: float = 1.0
) -> Latent:
    """Edit a latent: w + strength * 0.1 * M(w), or the same in StyleSpace.

    Args:
        strength: 1 is the trained edit, 0 none, negative the opposite way; -10 to 10.

    Raises:
        InputError: mapper and generator, or latent and generator, do not belong together, or the
            strength is out of range.
    """
    if not abs(strength) <= MAX_STRENGTH:  # also refuses NaN
        raise InputError(
            f"A mapper's strength lies between -{MAX_STRENGTH} and {MAX_STRENGTH}, not at {strength}."
        )
    mapper.check(generator)
    latent.check(generator)
    return mapper.edited(generator, latent, strength)


# ------------------------------------------------------------------------------------- making


def make_mapper(widths: Mapping[str, int], info: MapperInfo | None = None) -> Mapper:
    """A mapper of these parts with random weights.

    Raises:
        InputError: the parts belong to none of the architectures.
    """
    info = info or MapperInfo()
    if set(widths) == {"mapping"} or (widths and set(widths) <= set(LEVELS)):
        return LatentMapper(widths, info)
    if widths and all(name.startswith("mapper_") for name in widths):
        return StyleMapper(widths, info)
    raise InputError(f"There is no mapper with the parts {', '.join(widths) or 'none'}.")


def new_mapper(
    generator: Generator, variant: str, without: Sequence[str] = (), info: MapperInfo | None = None
) -> Mapper:
    """An untrained mapper for a generator.

    Args:
        variant: "levels", "single" or "style_space".
        without: levels to leave out: "coarse", "medium", "fine".

    Raises:
        InputError: an unknown variant or level, or no level left.
    """
    if variant not in VARIANTS:
        raise InputError(f'There is no mapper "{variant}"; choose one of {", ".join(VARIANTS)}.')
    if set(without) - set(LEVEL_NAMES) or (without and variant != "levels"):
        raise InputError("A mapper of levels can do without coarse, medium or fine; no other can.")
    if variant == "style_space":
        return make_mapper(_style_widths(generator), info)
    kept = [LEVEL_NAMES[level] for level in LEVEL_NAMES if level not in without]
    names = kept if variant == "levels" else ["mapping"]
    return make_mapper(dict.fromkeys(names, generator.latent_size), info)


def _style_widths(generator: Generator) -> dict[str, int]:
    layout = enumerate(generator.layout)
    return {f"mapper_{index}": slot.size for index, slot in layout if not slot.is_rgb}


# ----------------------------------------------------------------------------------- in files


def mapper_from_state(state: Mapping[str, Tensor], info: MapperInfo, source: str) -> Mapper:
    """A frozen mapper with these weights.

    Args:
        state: tensors by name, without a prefix; float16 is computed in float32.
        source: how to call where they come from in an error.

    Raises:
        WeightsError: the tensors are not those of a mapper, or not all numbers.
    """
    widths = {}
    for key, tensor in state.items():
        match = _KEY.fullmatch(key)
        if match is None or not _usable(tensor):
            raise WeightsError(f"{source} is no mapper ({key}); choose another file.")
        widths[match[1]] = tensor.shape[0]
    try:
        mapper = make_mapper(widths, info)
        mapper.load_state_dict(dict(state), strict=True)
    except (InputError, RuntimeError) as error:
        raise WeightsError(
            f"The tensors in {source} do not make up a mapper; choose another file."
        ) from error
    return mapper.eval().requires_grad_(False)


def _usable(tensor: Any) -> bool:
    """A small array of finite real numbers."""
    if not isinstance(tensor, Tensor) or not tensor.is_floating_point() or not tensor.ndim:
        return False
    return 0 < max(tensor.shape) <= MAX_WIDTH and bool(tensor.isfinite().all())


def official_mapper(checkpoint: Any, source: str = "This checkpoint") -> Mapper:
    """The mapper in a checkpoint of StyleCLIP's authors; the generator inside is left alone.

    Args:
        checkpoint: {"state_dict": {"mapper.*", "decoder.*"}, "opts": dict or Namespace}, as a
            safe reader gave it.

    Raises:
        WeightsError: it is no such checkpoint.
    """
    fields = checkpoint if isinstance(checkpoint, Mapping) else {}
    state = fields.get("state_dict")
    if not isinstance(state, Mapping):
        raise WeightsError(f"{source} has no state_dict with a mapper; choose another file.")
    prefix = "mapper."
    own = {str(k)[len(prefix) :]: state[k] for k in state if str(k).startswith(prefix)}
    return mapper_from_state(own, _official_info(fields.get("opts")), source)


def _official_info(options: Any) -> MapperInfo:
    """Prompt and size from `opts`, as far as they are there and of the right kind."""
    fields = options if isinstance(options, Mapping) else getattr(options, "__dict__", {})
    text, size = fields.get("description"), fields.get("stylegan_size")
    words = " ".join(text.split())[:MAX_LETTERS] if isinstance(text, str) else ""
    prompt = EditPrompt(words) if words else None
    rows = 2 * int(math.log2(size)) - 2 if isinstance(size, int) and size >= 4 else None
    return MapperInfo(prompt, rows=rows)


def save_mapper(mapper: Mapper, path: Path) -> None:
    """Write a mapper as safetensors, float16, its prompt and generator in the metadata."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(mapper_bytes(mapper))


def mapper_bytes(mapper: Mapper) -> bytes:
    """What `save_mapper` writes."""
    info = mapper.info
    metadata = {"format": FORMAT, "generator": info.generator}
    if info.rows is not None:
        metadata["rows"] = str(info.rows)
    if info.prompt is not None:
        metadata |= {"target": info.prompt.target, "neutral": info.prompt.neutral}
    state = {key: tensor.half().cpu() for key, tensor in mapper.state_dict().items()}
    return save(state, metadata)


def load_mapper(path: Path) -> Mapper:
    """Read a mapper, frozen, on the CPU: one that `save_mapper` wrote, or a `.pt` of the authors.

    Raises:
        WeightsError: the file is damaged, too large, no mapper, or a pickle that asks for more
            than tensors.
    """
    if path.suffix == ".pt":
        return official_mapper(read_pt(path, max_bytes=MAX_OFFICIAL_BYTES), path.name)
    info = mapper_info(path)
    state = read_safetensors(path, max_bytes=MAX_FILE_BYTES)
    return mapper_from_state(state, info, path.name)


def mapper_info(path: Path) -> MapperInfo:
    """Prompt and generator of a saved mapper, without reading its weights; errors as `load_mapper`."""
    check_safetensors(path, max_bytes=MAX_FILE_BYTES)
    with safe_open(path, framework="pt") as file:  # type: ignore[no-untyped-call]
        metadata: dict[str, str] = file.metadata() or {}
    if metadata.get("format") != FORMAT:
        raise WeightsError(f"{path.name} is no mapper of CLIP Atelier; choose another file.")
    rows, target = metadata.get("rows", ""), metadata.get("target", "")
    try:
        prompt = EditPrompt(target, metadata.get("neutral", "")) if target else None
    except InputError as error:
        raise WeightsError(f"{path.name} names no usable prompt; choose another file.") from error
    return MapperInfo(
        prompt, metadata.get("generator", ""), int(rows) if rows.isdecimal() else None
    )
