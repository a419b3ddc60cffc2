"""Reads the StyleGAN2 and StyleCLIP parity data: `DIR/stylegan/*.npz` of `--golden DIR`.

    golden = Golden(path)
    state = golden.state(GENERATOR)              # the reference's checkpoint, made of the seed
    z = golden.input("generator_64:z", (2, 512))
    assert golden.difference("image", image) < 1e-6

The weights are not stored: every tensor is drawn from (seed, key, shape) by a rule that belongs to
the first pattern found in its key. What the keys mean is in tests/golden/stylegan/README.md.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[Any]

BINOMIAL = np.outer([1, 3, 3, 1], [1, 3, 3, 1]).astype(np.float32)  # the FIR kernel, sum 64


@dataclass(frozen=True)
class Rule:
    """offset + scale * N(0, 1) for the keys that contain `pattern`, or a constant.

    `how`: "" as it stands; "fan" divides the scale by sqrt(fan-in); "abs" takes |scale * N|;
    "fir" (gain 4), "fir1" (gain 1), "121" and "zero" are constants.
    """

    pattern: str
    scale: float
    offset: float = 0.0
    how: str = ""

    def draw(self, key: str, shape: Sequence[int], seed: int) -> Array:
        if self.how in ("fir", "fir1"):
            return BINOMIAL / (16 if self.how == "fir" else 64)
        if self.how == "121":
            return np.array([1, 2, 1], np.float32)
        if self.how == "zero":
            return np.zeros(shape, np.int64)
        fan_in = float(np.prod(shape[1:])) if self.how == "fan" else 1.0
        drawn = seeded_array(key, shape, seed, self.scale / fan_in**0.5)
        return np.asarray((np.abs(drawn) if self.how == "abs" else drawn) + np.float32(self.offset))


GENERATOR = (  # rosinality's "g_ema"
    Rule(r"^style\.\d+\.weight$", 100),
    Rule(r"^style\.\d+\.bias$", 10),
    Rule(r"^input\.input$", 1),
    Rule(r"^noises\.noise_\d+$", 1),
    Rule(r"\.kernel$", 0, how="fir"),
    Rule(r"\.modulation\.weight$", 0.5),
    Rule(r"\.modulation\.bias$", 0.1, 1),
    Rule(r"^to_rgb.*\.conv\.weight$", 0.4),
    Rule(r"\.conv\.weight$", 1),
    Rule(r"\.noise\.weight$", 0.05, 0.2),
    Rule(r"\.activate\.bias$", 0.2),
    Rule(r"^to_rgb.*\.bias$", 0.1),
)
MAPPER = (  # StyleCLIP's mappers
    Rule(r"mapping\.\d\.weight$", 100),
    Rule(r"mapping\.\d\.bias$", 10),
)
IRSE = (  # IR-SE50
    Rule(r"num_batches_tracked$", 0, how="zero"),
    Rule(r"running_mean$", 0.1),
    Rule(r"running_var$", 0.4, 0.6, "abs"),
    Rule(r"res_layer\.5\.fc[12]\.weight$", 2, how="fan"),
    Rule(
        r"(input_layer\.0|res_layer\.[13]|shortcut_layer\.0|output_layer\.3)\.weight$", 1, how="fan"
    ),
    Rule(r"(input_layer|res_layer)\.2\.weight$", 0.05, 0.25),
    Rule(r"\.weight$", 0.1, 1),
    Rule(r"\.bias$", 0.1),
)
E4E = (  # the encoder's heads and laterals; its body is IR-SE50
    Rule(r"^styles\.\d+\.convs\.\d+\.weight$", 2**0.5, how="fan"),
    Rule(r"^styles\.\d+\.linear\.weight$", 0.25),
    Rule(r"^latlayer\d\.weight$", 0.5, how="fan"),
    Rule(r"^latent_avg$", 0.5),
    *IRSE,
)
LUCID = (  # lucidrains' stylegan2_pytorch, the averaged networks SE.* and GE.*
    Rule(r"^SE\.net\.\d+\.weight$", 0.9),
    Rule(r"^SE\.net\.\d+\.bias$", 0.5),
    Rule(r"upsample\.1\.f$", 0, how="121"),
    Rule(r"initial_block$", 1),
    Rule(r"to_noise\d\.weight$", 0.2),
    Rule(r"to_style\d?\.weight$", 0.5, how="fan"),
    Rule(r"to_rgb\.conv\.weight$", 0.3, how="fan"),
    Rule(r"\.norm\.g$", 0.1, 1),
    Rule(r"\.weight$", 1, how="fan"),
    Rule(r"\.(bias|b)$", 0.1),
)
ADA = (  # NVIDIA's stylegan2-ada-pytorch, "G_ema"
    Rule(r"^mapping\.fc\d+\.weight$", 100),
    Rule(r"^mapping\.fc\d+\.bias$", 10),
    Rule(r"w_avg$", 0.5),
    Rule(r"resample_filter$", 0, how="fir1"),
    Rule(r"const$", 1),
    Rule(r"affine\.weight$", 0.5),
    Rule(r"affine\.bias$", 0.1, 1),
    Rule(r"torgb\.weight$", 0.4),
    Rule(r"torgb\.bias$", 0.1),
    Rule(r"noise_strength$", 0.05, 0.2),
    Rule(r"\.weight$", 1),
    Rule(r"\.bias$", 0.2),
)


def seeded_array(
    key: str, shape: Sequence[int], seed: int, scale: float = 1.0, offset: float = 0.0
) -> Array:
    """float32 offset + scale * N(0, 1) that depends on (seed, key, shape) only."""
    random = np.random.RandomState(zlib.crc32(f"{seed}:{key}".encode()))
    normal = np.asarray(random.standard_normal(tuple(shape)), np.float32)
    return np.asarray(normal * np.float32(scale) + np.float32(offset), np.float32)


def seeded_image(name: str, shape: Sequence[int], seed: int) -> Array:
    """(B, 3, H, W) float32 in [-1, 1]: an 8 x 8 pattern of blocks with fine noise on it; H and W
    are multiples of 8."""
    batch, channels, height, width = shape
    coarse = seeded_array(f"input:{name}:coarse", (batch, channels, 8, 8), seed, 0.5)
    coarse = coarse.repeat(height // 8, 2).repeat(width // 8, 3)
    return np.clip(coarse + seeded_array(f"input:{name}:fine", shape, seed, 0.2), -1, 1)


def seeded_param(rules: Sequence[Rule], key: str, shape: Sequence[int], seed: int) -> Array:
    """The tensor called `key` (prefix stripped) of a reference checkpoint."""
    rule = next(rule for rule in rules if re.search(rule.pattern, key))
    return rule.draw(key, tuple(int(n) for n in shape), seed)


class Golden:
    """One file of reference data."""

    def __init__(self, path: Path) -> None:
        self.name = path.stem
        with np.load(path, allow_pickle=False) as file:
            self.arrays: dict[str, Array] = {name: file[name] for name in file.files}
        self.seed = int(self.arrays["seed"])
        self.config: dict[str, Any] = json.loads(str(self.arrays["config"]))

    def __getitem__(self, name: str) -> Tensor:
        """The complete array `name` as stored."""
        return torch.from_numpy(np.asarray(self.arrays[name]))

    def __contains__(self, name: str) -> bool:
        return name in self.arrays or f"{name}_sample" in self.arrays

    def shapes(self, prefix: str = "") -> dict[str, tuple[int, ...]]:
        """Every tensor of the checkpoint called `prefix` (as in "levels_"), in its order."""
        keys, rows = self.arrays[f"{prefix}state_keys"], self.arrays[f"{prefix}state_shapes"]
        return {str(k): tuple(int(n) for n in row if n >= 0) for k, row in zip(keys, rows)}

    def state(
        self,
        rules: Sequence[Rule],
        prefix: str = "",
        strip: str = "",
        dtype: torch.dtype = torch.float32,
    ) -> dict[str, Tensor]:
        """The checkpoint called `prefix`, its keys as in the file; `strip` is removed from a key
        before drawing. Floating-point tensors are drawn in float32, then cast to `dtype`."""
        state = {}
        for key, shape in self.shapes(prefix).items():
            drawn = seeded_param(rules, key.removeprefix(strip), shape, self.seed)
            tensor = torch.from_numpy(drawn)
            state[key] = tensor.to(dtype) if tensor.is_floating_point() else tensor
        return state

    def input(
        self, name: str, shape: Sequence[int], scale: float = 1.0, offset: float = 0.0
    ) -> Tensor:
        """The input array called `name` ("generator_64:z"), float32."""
        return torch.from_numpy(seeded_array(f"input:{name}", shape, self.seed, scale, offset))

    def image(self, name: str, shape: Sequence[int]) -> Tensor:
        """The input picture called `name`, (B, 3, H, W) float32 in [-1, 1]."""
        return torch.from_numpy(seeded_image(name, shape, self.seed))

    def shape(self, name: str) -> tuple[int, ...]:
        if name in self.arrays:
            return self.arrays[name].shape
        return tuple(int(n) for n in self.arrays[f"{name}_shape"])

    def difference(self, name: str, ours: Tensor | Array) -> float:
        """Largest difference from the array `name`, complete or sampled, divided by the largest
        value of the array. The shapes must agree; of a sampled array the mean, the deviation and
        the extremes are compared, too."""
        actual = np.asarray(torch.as_tensor(ours).detach().double())
        assert actual.shape == self.shape(name), f"{name}: {actual.shape} != {self.shape(name)}"
        if name in self.arrays:
            expected = self.arrays[name].astype(np.float64)
            return float(np.abs(actual - expected).max() / np.abs(expected).max())
        sample = self.arrays[f"{name}_sample"].astype(np.float64)
        stats = self.arrays[f"{name}_stats"]
        flat = actual.ravel()
        positions = 7919 * np.arange(len(sample)) % flat.size
        found = np.array([flat.mean(), flat.std(), flat.min(), flat.max()])
        worst = max(np.abs(flat[positions] - sample).max(), np.abs(found - stats).max())
        return float(worst / max(abs(stats[2]), abs(stats[3])))


def parametrize_golden(metafunc: pytest.Metafunc, fixture: str, pattern: str) -> None:
    """Runs a test that takes `fixture` once per file of `--golden DIR` called `pattern`.

    Without any such file the test fails: parity that nobody checked must not look like success.
    """
    if fixture not in metafunc.fixturenames:
        return
    folder = metafunc.config.getoption("--golden") / "stylegan"
    files = sorted(folder.glob(pattern))
    assert files, f"{folder} holds no {pattern}"
    metafunc.parametrize(
        fixture, [Golden(file) for file in files], ids=[file.stem for file in files], scope="module"
    )
