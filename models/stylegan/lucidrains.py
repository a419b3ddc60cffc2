"""The generator of lucidrains' `stylegan2-pytorch`, on any device, and its checkpoints.

It differs from StyleGAN2 (Karras et al. 2020) in most details: weights are not equalised, a style
scales by 1 + s, one row of W+ serves a whole block, upsampling is bilinear before a plain
convolution, one uniform noise picture serves all layers, blocks may begin with linear attention
(Shen et al. 2018, arXiv 1812.01243). Its interface is `models.stylegan.generator.Generator`'s.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.errors import WeightsError
from models.stylegan.generator import EPSILON, SLOPE, Activations, StyleGenerator, StyleSlot
from models.stylegan.strict import Tensors

HEAD_SIZE = 64  # of its attention; their number follows from the shapes
NORM_EPSILON = 1e-5
CONFIG_BYTES = 10**5
MAX_BLOCKS = 9  # 1024 px, the package's largest


@dataclass(frozen=True)
class LucidConfig:
    """The shape of a generator.

    Attributes:
        channels: feature channels at 4, 8, 16, ... pixels; the last resolution is the picture's.
        latent_size: length of z and of w.
        mapping_layers: depth of the mapping network.
        mapping_rate: its learning rate multiplier (`lr_mlp`), part of its arithmetic.
        attention: blocks (0 is 4 px) that begin with attention.
        heads: attention heads of 64 channels each.
        constant: synthesis starts with a learnt constant, else with a projection of the mean w.
        transparent: pictures have an alpha channel.
    """

    channels: tuple[int, ...]
    latent_size: int = 512
    mapping_layers: int = 8
    mapping_rate: float = 0.1
    attention: tuple[int, ...] = ()
    heads: int = 8
    constant: bool = True
    transparent: bool = False

    @property
    def size(self) -> int:
        """Side of the picture, pixels."""
        return int(4 * 2 ** (len(self.channels) - 1))


class _MappingLayer(nn.Module):
    def __init__(self, width: int, rate: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(width, width))
        self.bias = nn.Parameter(torch.zeros(width))
        self._rate = rate

    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(F.linear(x, self.weight * self._rate, self.bias * self._rate), SLOPE)


class _Convolution(nn.Module):
    """Modulated, demodulated 3x3 convolution; noise with its own weight and bias per channel."""

    def __init__(self, inputs: int, outputs: int, latent_size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, 3, 3) / (inputs * 9) ** 0.5)
        self.affine = nn.Linear(latent_size, inputs)
        self.noise = nn.Linear(1, outputs)

    def forward(self, x: Tensor, style: Tensor, noise: Tensor | None) -> Tensor:
        scale = style + 1  # (B, I)
        energy = self.weight.square().sum(dim=(2, 3))  # (O, I)
        demodulation = torch.rsqrt(scale.square() @ energy.T + EPSILON)  # (B, O)
        x = F.conv2d(x * scale[:, :, None, None], self.weight, padding=1)
        x = x * demodulation[:, :, None, None] + self.noise.bias[:, None, None]
        if noise is not None:
            x = x + self.noise.weight[:, :, None] * noise[:, :, : x.shape[2], : x.shape[3]]
        return F.leaky_relu(x, SLOPE)


class _ToRgb(nn.Module):
    """Modulated 1x1 convolution to colours in [0, 1], added to the enlarged colours so far."""

    def __init__(self, inputs: int, outputs: int, latent_size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, 1, 1) / inputs**0.5)
        self.affine = nn.Linear(latent_size, inputs)

    def forward(self, x: Tensor, style: Tensor, rgb: Tensor | None) -> Tensor:
        x = F.conv2d(x * (style + 1)[:, :, None, None], self.weight)
        return x if rgb is None else x + enlarge_rgb(rgb)


class _ChannelNorm(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.g = nn.Parameter(torch.ones(1, channels, 1, 1))
        self.b = nn.Parameter(torch.zeros(1, channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        variance, mean = torch.var_mean(x, dim=1, correction=0, keepdim=True)
        return (x - mean) / (variance + NORM_EPSILON).sqrt() * self.g + self.b


class _Attention(nn.Module):
    """Linear attention and a feed-forward part, each with a norm before and a shortcut."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self._heads, inner = heads, heads * HEAD_SIZE
        self.norm = _ChannelNorm(channels)
        self.to_q = nn.Conv2d(channels, inner, 1, bias=False)
        self.depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        self.to_kv = nn.Conv2d(channels, 2 * inner, 1, bias=False)
        self.to_out = nn.Conv2d(inner, channels, 1)
        self.ff_norm = _ChannelNorm(channels)
        self.ff_in = nn.Conv2d(channels, 2 * channels, 1)
        self.ff_out = nn.Conv2d(2 * channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self._attend(self.norm(x))
        fed: Tensor = self.ff_out(F.leaky_relu(self.ff_in(self.ff_norm(x)), SLOPE))
        return x + fed

    def _attend(self, x: Tensor) -> Tensor:
        key, value = self.to_kv(self.depthwise(x)).chunk(2, dim=1)
        # (B, heads * c, H, W) -> (B, heads, c, H * W)
        q, k, v = (
            part.unflatten(1, (self._heads, HEAD_SIZE)).flatten(3)
            for part in (self.to_q(x), key, value)
        )
        context = k.softmax(dim=3) @ v.transpose(2, 3)  # (B, heads, c, c)
        q = q.softmax(dim=2) * HEAD_SIZE**-0.5
        out = context.transpose(2, 3) @ q  # (B, heads, c, H * W)
        result: Tensor = self.to_out(F.gelu(out.flatten(1, 2).unflatten(2, x.shape[2:])))
        return result


def enlarge(x: Tensor) -> Tensor:
    """(B, C, h, w) -> (B, C, 2h, 2w), bilinear."""
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


def enlarge_rgb(rgb: Tensor) -> Tensor:
    """(B, C, h, w) -> (B, C, 2h, 2w), bilinear, then blurred with [1, 2, 1] / 4 each way."""
    line = torch.tensor([0.25, 0.5, 0.25], device=rgb.device, dtype=rgb.dtype)
    kernel = torch.outer(line, line).expand(rgb.shape[1], 1, 3, 3)
    padded = F.pad(enlarge(rgb), (1, 1, 1, 1), mode="reflect")
    return F.conv2d(padded, kernel, groups=rgb.shape[1])


class LucidGenerator(StyleGenerator):
    """z -> w -> W+ -> StyleSpace -> picture, as `Generator`.

    StyleSpace has three vectors per block (two convolutions, ToRGB), all from the block's row of
    W+. Without a constant, one vector more stands in front: the mean of the rows, from which the
    first features are projected, so that StyleSpace still decides the whole picture.

    Attributes: config, layout, rows, mean_latent as in `Generator`.
    """

    noise: Tensor
    initial: nn.ConvTranspose2d

    def __init__(self, config: LucidConfig) -> None:
        super().__init__()
        self.config = config
        self.layout = lucid_layout(config)
        self.rows = len(config.channels)
        width, first = config.latent_size, config.channels[0]
        self.mapping_layers = nn.ModuleList(
            _MappingLayer(width, config.mapping_rate) for _ in range(config.mapping_layers)
        )
        if config.constant:
            self.constant = nn.Parameter(torch.randn(1, first, 4, 4))
        else:
            self.initial = nn.ConvTranspose2d(width, first, 4, bias=False)
        self.initial_convolution = nn.Conv2d(first, first, 3, padding=1)
        self.layers = nn.ModuleList(_layers(config))
        inputs = (first, *config.channels)
        self.attention = nn.ModuleDict(
            {str(block): _Attention(inputs[block], config.heads) for block in config.attention}
        )
        self.register_buffer("noise", torch.zeros(1, 1, self.size, self.size))
        self.register_buffer("mean_latent", torch.zeros(width))

    @property
    def size(self) -> int:
        """Side of the picture, pixels."""
        return self.config.size

    @property
    def latent_size(self) -> int:
        return self.config.latent_size

    @property
    def noise_size(self) -> int:
        return self.config.latent_size

    def mapping(self, z: Tensor) -> Tensor:
        """(B, noise_size) standard normal -> (B, latent_size)."""
        w = F.normalize(z, dim=1)
        for layer in self.mapping_layers:
            w = layer(w)
        return w

    def styles(self, w_plus: Tensor) -> list[Tensor]:
        """(B, rows, D) -> StyleSpace, one (B, slot.size) for every slot of `layout`."""
        first = [] if self.config.constant else [w_plus.mean(dim=1)]
        slots = self.layout[len(first) :]
        affine = [layer.get_submodule("affine") for layer in self.layers]
        return first + [map_(w_plus[:, slot.row]) for map_, slot in zip(affine, slots)]

    def fixed_noise(self) -> list[Tensor]:
        """One uniform picture (1, 1, size, size) for all convolutions; a small one takes its top
        left part."""
        return [self.noise]

    def fresh_noise(self, batch: int, random: torch.Generator | None = None) -> list[Tensor]:
        """A new one, (batch, 1, size, size); `random` lives on the CPU."""
        noise = torch.rand(batch, 1, self.size, self.size, generator=random)
        return [noise.to(self.mean_latent)]

    def stages(
        self,
        styles: Sequence[Tensor],
        noise: Sequence[Tensor] | None = None,
        start: Activations | None = None,
    ) -> Iterator[Activations]:
        """Synthesis, one layer at a time; `rgb` has colours in [0, 1] (and alpha, if transparent).

        Args:
            styles: StyleSpace, one (B, size) per slot; those before `start` are not read.
            noise: as `fixed_noise`; None is the fixed noise, [] is none.
            start: go on behind this layer.
        """
        picture = next(iter(self.fixed_noise() if noise is None else noise), None)
        done = -1 if start is None else start.index
        extra = len(self.layout) - len(self.layers)  # 1 without a constant
        if done < extra:
            x, rgb = self._first(styles), None
            if extra and done < 0:
                yield Activations(0, x, None)
        if start is not None:
            x, rgb = start.features, start.rgb
        for index in range(max(done + 1, extra), len(self.layout)):
            layer, slot = self.layers[index - extra], self.layout[index]
            if slot.is_rgb:
                rgb = layer(x, styles[index], rgb)
            else:
                if (index - extra) % 3 == 0:
                    x = self._opened(slot.row, x)
                x = layer(x, styles[index], picture)
            yield Activations(index, x, rgb)

    def _first(self, styles: Sequence[Tensor]) -> Tensor:
        """(B, C, 4, 4), what the first block begins with."""
        if self.config.constant:
            x = self.constant.expand(len(styles[0]), -1, -1, -1)
        else:
            x = self.initial(styles[0][:, :, None, None])  # (B, D, 1, 1) -> (B, C, 4, 4)
        result: Tensor = self.initial_convolution(x)
        return result

    def _opened(self, block: int, x: Tensor) -> Tensor:
        """What a block does before its first convolution: attention, then upsampling."""
        if str(block) in self.attention:
            x = self.attention[str(block)](x)
        return x if block == 0 else enlarge(x)

    def _picture(self, rgb: Tensor) -> Tensor:
        """Transparent pictures lie on white."""
        return on_white(rgb) * 2 - 1


def on_white(rgba: Tensor) -> Tensor:
    """(B, 3 or 4, H, W) colours in [0, 1], not premultiplied -> (B, 3, H, W)."""
    if rgba.shape[1] == 3:
        return rgba
    return 1 - rgba[:, 3:].clamp(0, 1) * (1 - rgba[:, :3])


def lucid_layout(config: LucidConfig) -> tuple[StyleSlot, ...]:
    """The style vectors of a generator, in the order of use."""
    slots = [] if config.constant else [StyleSlot(config.latent_size, False, 0, 4)]
    inputs = (config.channels[0], *config.channels)
    for block, width in enumerate(config.channels):
        resolution = 4 * 2**block
        slots.append(StyleSlot(inputs[block], False, block, resolution))
        slots.append(StyleSlot(width, False, block, resolution))
        slots.append(StyleSlot(width, True, block, resolution))
    return tuple(slots)


def _layers(config: LucidConfig) -> Iterator[nn.Module]:
    inputs = (config.channels[0], *config.channels)
    for before, width in zip(inputs, config.channels):
        yield _Convolution(before, width, config.latent_size)
        yield _Convolution(width, width, config.latent_size)
        yield _ToRgb(width, 4 if config.transparent else 3, config.latent_size)


# ----------------------------------------------------------------------------------- checkpoints

# Their name of a part of a block's layers -> (which of its three layers, our name of it).
BLOCK_PARTS = {
    "to_style1": (0, "affine"), "to_noise1": (0, "noise"), "conv1": (0, ""),
    "to_style2": (1, "affine"), "to_noise2": (1, "noise"), "conv2": (1, ""),
    "to_rgb.to_style": (2, "affine"), "to_rgb.conv": (2, ""),
}  # fmt: skip
ATTENTION_PARTS = {
    "0.fn.norm": "norm", "0.fn.fn.to_q": "to_q", "0.fn.fn.to_kv.net.0": "depthwise",
    "0.fn.fn.to_kv.net.1": "to_kv", "0.fn.fn.to_out": "to_out",
    "1.fn.norm": "ff_norm", "1.fn.fn.0": "ff_in", "1.fn.fn.2": "ff_out",
}  # fmt: skip


def generator_state(loaded: Any) -> Mapping[str, Any] | None:
    """The state dict inside what was loaded, None if there is none of this format."""
    state = loaded.get("GAN", loaded) if isinstance(loaded, Mapping) else None
    return state if isinstance(state, Mapping) and "GE.initial_conv.weight" in state else None


def convert(loaded: Mapping[str, Any], path: Path) -> tuple[LucidConfig, dict[str, Tensor]]:
    """Configuration and state dict of a `LucidGenerator` (without "mean_latent"), from the averaged
    networks SE and GE of a checkpoint and the `.config.json` beside it. These files hold no noise:
    the fixed noise is drawn here, the same for every file of a size.

    Raises:
        WeightsError: a tensor is missing, misshapen, left over or not finite, or the two files
            contradict each other.
    """
    state = generator_state(loaded) or {}
    averaged = {key: value for key, value in state.items() if key.startswith(("SE.", "GE."))}
    tensors = Tensors(averaged, path)
    config = _config(tensors, path)
    with torch.device("meta"):
        wanted = LucidGenerator(config).state_dict()
    blur = torch.tensor([1.0, 2.0, 1.0])
    for block in range(len(config.channels) - 1):
        tensors.take_constant(f"GE.blocks.{block}.to_rgb.upsample.1.f", blur)
    result = {
        ours: tensors.take(theirs, *wanted[ours].shape)
        for theirs, ours in ((key, our_key(key)) for key in averaged if key in tensors)
        if ours in wanted
    }
    tensors.finish()
    missing = wanted.keys() - result.keys() - {"mean_latent", "noise"}
    if missing:
        raise tensors.wrong(f"lacks {len(missing)} tensors, such as our {min(missing)}")
    random = torch.Generator().manual_seed(0)
    result["noise"] = torch.rand(wanted["noise"].shape, generator=random)
    return config, result


def our_key(key: str) -> str:
    """Our name of one of their tensors; "" if it has none."""
    if dense := re.fullmatch(r"SE\.net\.(\d+)\.(\w+)", key):
        return f"mapping_layers.{int(dense[1]) // 2}.{dense[2]}"
    if block := re.fullmatch(r"GE\.blocks\.(\d+)\.(.+)\.(weight|bias)", key):
        part, name = BLOCK_PARTS.get(block[2], (0, "unknown"))
        owner = f"layers.{3 * int(block[1]) + part}"
        return f"{owner}.{name}.{block[3]}" if name else f"{owner}.{block[3]}"
    if attention := re.fullmatch(r"GE\.attns\.(\d+)\.(.+)\.(\w+)", key):
        return f"attention.{attention[1]}.{ATTENTION_PARTS.get(attention[2], '')}.{attention[3]}"
    start = {"GE.initial_block": "constant", "GE.to_initial_block.weight": "initial.weight"}
    return start.get(key, key.replace("GE.initial_conv.", "initial_convolution."))


def _config(tensors: Tensors, path: Path) -> LucidConfig:
    """Every size, read from the shapes; only the mapping network's rate is not in them."""
    blocks = tensors.count(r"GE\.blocks\.\d+\.conv2\.weight")
    channels = [tensors.shape(f"GE.blocks.{b}.conv2.weight", 4)[0] for b in range(blocks)]
    attention = [b for b in range(blocks) if f"GE.attns.{b}.0.fn.fn.to_q.weight" in tensors]
    heads = {tensors.shape(f"GE.attns.{b}.0.fn.fn.to_q.weight", 4)[0] for b in attention}
    if len(heads) > 1 or not 1 <= blocks <= MAX_BLOCKS:
        raise tensors.wrong("is not a whole generator of stylegan2-pytorch")
    return LucidConfig(
        channels=tuple(channels),
        latent_size=tensors.shape("SE.net.0.weight", 2)[0],
        mapping_layers=tensors.count(r"SE\.net\.\d+\.weight"),
        mapping_rate=_mapping_rate(tensors, path, 4 * 2 ** (blocks - 1)),
        attention=tuple(attention),
        heads=heads.pop() // HEAD_SIZE if heads else LucidConfig.heads,
        constant="GE.initial_block" in tensors,
        transparent=tensors.shape("GE.blocks.0.to_rgb.conv.weight", 4)[0] == 4,
    )


def _mapping_rate(tensors: Tensors, path: Path, size: int) -> float:
    """`lr_mlp` of the `.config.json` beside the checkpoint; the package's default without one."""
    beside = path.parent / ".config.json"
    if not beside.is_file():
        return LucidConfig.mapping_rate
    try:
        if beside.stat().st_size > CONFIG_BYTES:
            raise ValueError("too long")
        options = json.loads(beside.read_text("utf-8"))
        told, rate = options["image_size"], float(options.get("lr_mlp", LucidConfig.mapping_rate))
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise WeightsError(
            f"{beside} cannot be read ({type(error).__name__}: {error}); copy it again from the "
            "checkpoint's folder, or remove it to use the package's defaults."
        ) from error
    if told != size:
        raise tensors.wrong(f"draws {size} px and the .config.json beside it says {told}")
    return rate
