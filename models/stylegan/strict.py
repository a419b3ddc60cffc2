"""A checkpoint's tensors, taken one by one: nothing may be missing, misshapen or left over.

`load_state_dict(strict=False)` would pass a 256 px checkpoint into a 1024 px model and only the
colours would tell.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models.errors import WeightsError
from models.stylegan.generator import FIR, GeneratorConfig, style_layout


class Tensors:
    """Takes tensors out of a state dict in float32.

    Raises:
        WeightsError: from every method, when the checkpoint is not what it should be; also when
            its tensors are together larger than their file.
    """

    def __init__(self, state: Mapping[str, Any], path: Path) -> None:
        self._path = path
        self._left = {key: value for key, value in state.items() if isinstance(value, Tensor)}
        size = sum(value.numel() * value.element_size() for value in self._left.values())
        if size > path.stat().st_size:
            raise self.wrong("holds tensors larger than the file itself")

    def wrong(self, what: str) -> WeightsError:
        return WeightsError(f"{self._path.name} {what}; it cannot be used as a generator.")

    def __contains__(self, key: str) -> bool:
        return key in self._left

    def count(self, pattern: str) -> int:
        """How many keys left match `pattern` from start to end."""
        return sum(re.fullmatch(pattern, key) is not None for key in self._left)

    def shape(self, key: str, dimensions: int) -> tuple[int, ...]:
        """The shape of a tensor that stays."""
        if key not in self._left:
            raise self.wrong(f"lacks the tensor {key}")
        shape = tuple(self._left[key].shape)
        if len(shape) != dimensions:
            raise self.wrong(f"has a tensor {key} of shape {list(shape)}")
        return shape

    def take(self, key: str, *shape: int) -> Tensor:
        """The tensor `key`, which must have this shape. It cannot be taken twice."""
        if self.shape(key, len(shape)) != shape:
            found = list(self._left[key].shape)
            raise self.wrong(f"has a tensor {key} of shape {found} instead of {list(shape)}")
        tensor = self._left.pop(key)
        if not tensor.is_floating_point():
            raise self.wrong(f"has a tensor {key} that holds no real numbers")
        tensor = tensor.float().contiguous()
        if not tensor.isfinite().all():
            raise self.wrong(f"has a tensor {key} with values that are not finite")
        return tensor

    def take_constant(self, key: str, expected: Tensor) -> None:
        """A buffer that every checkpoint holds alike, such as a filter; another value would be
        another architecture."""
        tensor = self.take(key, *expected.shape)
        if not torch.allclose(tensor, expected, rtol=1e-5, atol=1e-6):
            raise self.wrong(f"uses another filter ({key}) than StyleGAN2's [1, 3, 3, 1]")

    def finish(self) -> None:
        """Refuses what nobody took."""
        if self._left:
            raise self.wrong(
                f"holds {len(self._left)} tensors of another architecture, such as {min(self._left)}"
            )


@dataclass(frozen=True)
class Layer:
    """What a checkpoint must hold for one layer of our generator, `layers.{index}`."""

    index: int
    resolution: int
    inputs: int
    outputs: int
    is_rgb: bool
    up: bool  # doubles the resolution

    @property
    def kernel(self) -> int:
        return 1 if self.is_rgb else 3


def layers_of(config: GeneratorConfig) -> Iterator[Layer]:
    """The layers in order: conv, ToRGB at 4 px; then upsampling conv, conv, ToRGB."""
    for index, slot in enumerate(style_layout(config)):
        width = config.channels[int(math.log2(slot.resolution)) - 2]
        outputs = 3 if slot.is_rgb else width
        yield Layer(index, slot.resolution, slot.size, outputs, slot.is_rgb, index % 3 == 2)


def fir(gain: float) -> Tensor:
    """(4, 4) StyleGAN2's FIR filter, its sum scaled to `gain`."""
    line = torch.tensor(FIR)
    return torch.outer(line, line) * gain / line.sum().square()
