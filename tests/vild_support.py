"""What tests of ViLD share: the parity data of `--golden DIR` (`DIR/vild/*.npz`), seeded weights,
and networks small enough to run anywhere.

    golden = VildGolden(path)
    vild = golden.vild()                          # holds the seeded weights
    assert golden.difference("fpn_p3", levels[1].permute(0, 2, 3, 1)) < 1e-4

The weights are not stored: every variable is drawn from (seed, name, shape). What the keys of a
file mean is in tests/golden/vild/README.md.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.vild import ResnetConfig, Vild, VildConfig
from models.vild.names import CLASSES, state_from_official

Array = NDArray[Any]

GAINS = {"rpn-class": 2.0, "rpn-box": 0.4, "box-predict": 1.0, "mask_fcn_logits": 3.0}


def small_config(*, ensemble: bool = True) -> VildConfig:
    """Every part of the reference's network, at a size that runs in milliseconds."""
    return replace(
        VildConfig.r50(),
        name="vild-small",
        backbone=ResnetConfig(14),
        channels=16,
        head_convs=1,
        fc=24,
        embedding=20,
        ensemble=ensemble,
        mask_convs=1,
        mask_channels=8,
        max_size=128,
        size_multiple=128,
    )


def vild_weight(name: str, shape: Sequence[int], seed: int) -> Array:
    """The variable `name` (the reference's name, TensorFlow's layout) of the parity data."""
    parent, leaf = name.split("/")[-2:]
    if leaf == "moving_variance":
        return 1 + 0.25 * np.abs(seeded_array(name, shape, seed))
    if leaf in ("bias", "beta", "moving_mean"):
        return seeded_array(name, shape, seed, 0.05)
    if leaf == "gamma":
        return seeded_array(name, shape, seed, 0.1, 0.8)
    # A transposed convolution keeps its inputs last.
    fan_in = shape[-1] if parent == "conv5-mask" else math.prod(shape[:-1])
    return seeded_array(name, shape, seed, GAINS.get(parent, 1.4) / fan_in**0.5)


def seeded_array(
    name: str, shape: Sequence[int], seed: int, scale: float = 1, offset: float = 0
) -> Array:
    """offset + scale * N(0, 1), computed in float64 and rounded once to float32."""
    random = np.random.RandomState(zlib.crc32(f"{seed}:{name}".encode()))
    normal = random.standard_normal(tuple(shape))
    normal *= scale
    normal += offset
    return normal.astype(np.float32)


@cache
def shared_weight(name: str, shape: tuple[int, ...], seed: int) -> Array:
    """`vild_weight`, remembered: both files have the same backbone, and it takes seconds."""
    return vild_weight(name, shape, seed)


class VildGolden:
    """One file of reference data."""

    def __init__(self, path: Path) -> None:
        self.name = path.stem
        with np.load(path, allow_pickle=False) as file:
            self.arrays: dict[str, Array] = {name: file[name] for name in file.files}

    def __getitem__(self, name: str) -> Tensor:
        """The complete array `name` as stored."""
        return torch.from_numpy(np.asarray(self.arrays[name]))

    def __contains__(self, name: str) -> bool:
        return name in self.arrays or f"{name}_sample" in self.arrays

    def boxes(self, name: str) -> Tensor:
        """The complete array `name` (..., 4) with x before y."""
        return swapped(self[name])

    def difference(self, name: str, ours: Tensor, every: int = 1) -> float:
        """Largest absolute difference from the array `name`, complete or sampled; infinite where
        the shapes differ. Of a sampled array the mean, the deviation and the extremes count, too.
        `ours` may hold only `every` tenth, or so, row of the second axis."""
        actual = ours.detach().double().numpy()
        if name in self.arrays:
            whole = self.arrays[name][:, ::every] if every > 1 else self.arrays[name]
            if actual.shape != whole.shape:
                return math.inf
            return float(np.abs(actual - whole).max(initial=0))
        if actual.shape != tuple(self.arrays[f"{name}_shape"]):
            return math.inf
        sample, stats = self.arrays[f"{name}_sample"], self.arrays[f"{name}_stats"]
        flat = actual.ravel()
        found = np.array([flat.mean(), flat.std(), flat.min(), flat.max()])
        positions = 7919 * np.arange(len(sample)) % flat.size
        return float(max(np.abs(flat[positions] - sample).max(), np.abs(found - stats).max()))

    @property
    def config(self) -> VildConfig:
        preset = VildConfig.r50_ensemble() if "ensemble" in self.name else VildConfig.r50()
        side = int(self.arrays["image_info"][1, 0])
        return replace(preset, max_size=side, size_multiple=side)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Every variable of the reference's checkpoint, in its order."""
        keys, rows = self.arrays["state_keys"], self.arrays["state_shapes"]
        return {str(key): tuple(int(n) for n in row if n) for key, row in zip(keys, rows)}

    def variable(self, name: str) -> Array:
        return shared_weight(name, self.shapes()[name], int(self.arrays["seed"]))

    def vild(self) -> Vild:
        with torch.device("meta"):
            vild = Vild(self.config)
        vild.load_state_dict(state_from_official(self.config, self.variable), assign=True)
        return vild.eval()

    @property
    def text(self) -> Tensor:
        """(K, D) the embeddings of the names."""
        return torch.from_numpy(np.ascontiguousarray(self.variable(CLASSES).T))


def swapped(boxes: Tensor) -> Tensor:
    """Boxes or deltas (..., 4) with x and y exchanged."""
    return boxes[..., [1, 0, 3, 2]]


def channels_last(features: Tensor) -> Tensor:
    """(N, C, h, w) -> (N, h, w, C)."""
    return features.permute(0, 2, 3, 1)


def parametrize_vild(metafunc: pytest.Metafunc, fixture: str, pattern: str) -> None:
    """Runs a test that takes `fixture` once per file of `--golden DIR` called `pattern`.

    Without any such file the test fails: parity that nobody checked must not look like success.
    """
    if fixture not in metafunc.fixturenames:
        return
    folder = metafunc.config.getoption("--golden") / "vild"
    files = sorted(folder.glob(pattern))
    assert files, f"{folder} holds no {pattern}"
    metafunc.parametrize(
        fixture, [VildGolden(file) for file in files], ids=[f.stem for f in files], scope="module"
    )
