"""e4e: a picture to a code in W+ that keeps close to W, so that it stays editable.

Tov et al. 2021, "Designing an Encoder for StyleGAN Image Manipulation" (arXiv 2102.02766): an
IR-SE50 body, a feature pyramid of three levels, one head per row of W+. The first head gives w0,
every other head how far its row departs from w0 (section 5.1); the mean latent is added.
Keys are those of `encoder.*` in the published `e4e_ffhq_encode.pt`, which load strictly.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from models.errors import WeightsError
from models.stylegan.irse50 import STAGES, STEM, Stages, input_layer, loaded, units
from models.stylegan.pickles import read_pt
from models.weights import read_safetensors

PREFIX = "encoder."  # of the encoder's keys in a published checkpoint

SLOPE = 0.01  # of the heads' leaky ReLU; the generator's is 0.2
# Rows of W+ that read the coarsest and the middle level of the pyramid; the rest reads the finest.
COARSE_ROWS, MIDDLE_ROWS = 3, 4


@dataclass(frozen=True)
class E4eConfig:
    """The shape of an encoder.

    Attributes:
        rows: codes it gives, the generator's rows of W+.
        latent_size: length of each.
        image_size: side of the picture it reads, pixels.
        width: channels of the pyramid and of the heads; the last stage has as many.
        patch: squares of so many pixels a side become channels first; 1 reads pixels as they are.
        stem, stages: as `irse50.units`; the last three stages feed the pyramid.
    """

    rows: int = 18
    latent_size: int = 512
    image_size: int = 256
    width: int = 512
    patch: int = 1
    stem: int = STEM
    stages: Stages = STAGES

    def __post_init__(self) -> None:
        if len(self.stages) < 3 or self.stages[-1][0] != self.width or self.rows < 1:
            raise ValueError(
                f"An encoder needs three stages, the last as wide as its heads: {self}"
            )

    @staticmethod
    def official(rows: int = 18) -> E4eConfig:
        """The paper's; 18 rows for a 1024 px generator, 14 for one of 256 px."""
        return E4eConfig(rows=rows)

    @staticmethod
    def mini() -> E4eConfig:
        """For stylegan2-mini: 2.3 M parameters, pyramid levels of 32, 16 and 8 px."""
        return E4eConfig(
            rows=12, latent_size=192, image_size=128, width=64, patch=2, stem=24,
            stages=((40, 2), (56, 3), (64, 3)),
        )  # fmt: skip

    @staticmethod
    def tiny() -> E4eConfig:
        """For tests: reads 32 px, codes for `GeneratorConfig.tiny()`."""
        return E4eConfig(
            rows=8, latent_size=16, image_size=32, width=16, stem=16,
            stages=((16, 1), (16, 1), (16, 1)),
        )  # fmt: skip

    def sides(self) -> tuple[int, int, int]:
        """Sides of the pyramid's levels in pixels, the coarsest first."""
        coarsest = self.image_size // self.patch // 2 ** len(self.stages)
        return coarsest, 2 * coarsest, 4 * coarsest

    def level(self, row: int) -> int:
        """The pyramid level that a row of W+ reads, 0 is the coarsest."""
        return 0 if row < COARSE_ROWS else 1 if row < COARSE_ROWS + MIDDLE_ROWS else 2


class EqualLinear(nn.Module):
    """x W^T / sqrt(fan_in) + b."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:  # (B, I) -> (B, O)
        return F.linear(x, self.weight) / math.sqrt(self.weight.shape[1]) + self.bias


def _halving(width: int) -> nn.Conv2d:
    # Nothing normalises inside a head: PyTorch's own start would lose its signal on the way.
    layer = nn.Conv2d(width, width, 3, 2, 1)
    nn.init.kaiming_normal_(layer.weight, a=SLOPE)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer


class StyleHead(nn.Module):
    """Halves a (width, side, side) map until one pixel is left, and makes a code of it."""

    def __init__(self, width: int, latent_size: int, side: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for _ in range(int(math.log2(side))):
            layers += [_halving(width), nn.LeakyReLU(SLOPE)]
        self.convs = nn.Sequential(*layers)
        self.linear = EqualLinear(width, latent_size)

    def forward(self, x: Tensor) -> Tensor:  # (B, C, side, side) -> (B, D)
        code: Tensor = self.linear(self.convs(x).flatten(1))
        return code


class E4e(nn.Module):
    """The encoder.

    Attributes:
        config: its shape.
        latent_avg: (rows, D), the mean latent of the generator it was trained with.
    """

    latent_avg: Tensor

    def __init__(self, config: E4eConfig) -> None:
        super().__init__()
        self.config = config
        self.input_layer = input_layer(3 * config.patch**2, config.stem)
        self.body = nn.ModuleList(units(config.stem, config.stages))
        sides = config.sides()
        self.styles = nn.ModuleList(
            StyleHead(config.width, config.latent_size, sides[config.level(row)])
            for row in range(config.rows)
        )
        self.latlayer1 = nn.Conv2d(config.stages[-2][0], config.width, 1)
        self.latlayer2 = nn.Conv2d(config.stages[-3][0], config.width, 1)
        self.register_buffer("latent_avg", torch.zeros(config.rows, config.latent_size))

    def pyramid(self, image: Tensor) -> list[Tensor]:
        """Three levels (B, width, side, side), the coarsest first."""
        x = F.pixel_unshuffle(image, self.config.patch)
        x = self.input_layer(x)
        remaining, ends = iter(self.body), []
        for _, count in self.config.stages:
            for unit in islice(remaining, count):
                x = unit(x)
            ends.append(x)
        fine, middle, coarse = ends[-3:]
        middle = _enlarged(coarse, middle) + self.latlayer1(middle)
        return [coarse, middle, _enlarged(middle, fine) + self.latlayer2(fine)]

    def codes(self, image: Tensor) -> Tensor:
        """(B, 3, image_size, image_size) in [-1, 1] -> (B, rows, D) relative to `latent_avg`."""
        levels = self.pyramid(image)
        rows = [head(levels[self.config.level(row)]) for row, head in enumerate(self.styles)]
        return torch.stack([rows[0]] + [rows[0] + delta for delta in rows[1:]], dim=1)

    def forward(self, image: Tensor) -> Tensor:
        """W+ of pictures, (B, rows, D); (B, 3, H, W) in [-1, 1] of any size is scaled."""
        if image.shape[-2:] != (self.config.image_size,) * 2:
            image = F.interpolate(
                image, (self.config.image_size,) * 2, mode="bilinear", antialias=True
            )
        return self.codes(image) + self.latent_avg


def _enlarged(x: Tensor, like: Tensor) -> Tensor:
    """`x` at the side of `like`; corner pixels keep their place."""
    return F.interpolate(x, like.shape[-2:], mode="bilinear", align_corners=True)


# ------------------------------------------------------------------------------------- files


def load_e4e(path: Path, config: E4eConfig | None = None) -> E4e:
    """An encoder from its file, on the CPU in float32, frozen and in evaluation mode.

    Args:
        path: ours (`.safetensors`), or a published checkpoint (`.pt`), of which `encoder.*` and
            `latent_avg` are read and no code is run.
        config: the encoder's shape; None is the official one with as many rows as the file has.

    Raises:
        WeightsError: the file is missing, damaged, hostile, or of another shape.
    """
    state = read_safetensors(path) if path.suffix == ".safetensors" else _published(path)
    if config is None:
        config = E4eConfig.official(sum(key.endswith(".linear.weight") for key in state) or 1)
    chosen = config
    return loaded(lambda: E4e(chosen), state, path)


def _published(path: Path) -> dict[str, Tensor]:
    """`encoder.*` without its prefix, and the mean latent, of e4e's training checkpoint."""
    content = read_pt(path)
    if not isinstance(content, Mapping) or not isinstance(content.get("state_dict"), Mapping):
        raise WeightsError(
            f"{path.name} is no e4e checkpoint; give e4e_ffhq_encode.pt or the like."
        )
    encoder = {
        key.removeprefix(PREFIX): value
        for key, value in content["state_dict"].items()
        if str(key).startswith(PREFIX)
    }
    return {**encoder, "latent_avg": content.get("latent_avg")}


def save_e4e(encoder: E4e, path: Path) -> None:
    """Writes safetensors that `load_e4e` reads: matrices in float16, vectors and means exact.

    Raises:
        WeightsError: a weight is too large for float16.
    """
    state = {}
    for key, tensor in encoder.state_dict().items():
        halved = tensor.is_floating_point() and tensor.dim() > 1 and key != "latent_avg"
        kept = tensor.half() if halved else tensor
        if halved and not kept.isfinite().all():
            raise WeightsError(f"{key} is too large for half precision; the encoder was not saved.")
        state[key] = kept.cpu().contiguous()
    part = path.with_name(f"{path.name}.part")
    save_file(state, part)
    part.replace(path)  # never half a file under the real name
