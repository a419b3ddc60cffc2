"""StyleGAN2's generator in plain PyTorch: one module for every checkpoint and every device.

Karras et al. 2020, "Analyzing and Improving the Image Quality of StyleGAN" (arXiv 1912.04958).
A latent z is mapped to w; one w per layer is W+ (`w_plus`); each layer's affine map turns its row
of W+ into a style vector s; all style vectors together are StyleSpace (Wu et al. 2021).

Fast without compiled extensions, by three choices:
- the gradient of a style needs no gradient of a weight: a batch, or a generator in training, scales
  activations instead of weights, conv(x * s, W) * demod; one picture of a frozen generator goes
  through `_FrozenConvolution`;
- the FIR filter after an upsampling convolution is a depthwise convolution in channels_last;
- synthesis may start behind a prefix that is known (`start`) and stop at a lower resolution (`size`).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

MAPPING_RATE = 0.01  # the mapping network's learning rate multiplier, part of its arithmetic
SLOPE, GAIN = 0.2, math.sqrt(2)  # leaky ReLU that keeps the variance
EPSILON = 1e-8
TINY = 1e-20  # in place of a style of zero
PIECE = 2**17  # numbers at once where a product of two tensors is only summed
FIR = (1.0, 3.0, 3.0, 1.0)
MEAN_SAMPLES = 4096  # mapped z behind the mean latent, as StyleCLIP takes it


@dataclass(frozen=True)
class GeneratorConfig:
    """The shape of a generator.

    Attributes:
        channels: feature channels at 4, 8, 16, ... pixels; the last resolution is the picture's.
        latent_size: length of w.
        noise_size: length of z.
        mapping_layers: 8 in StyleGAN2, 2 in many ADA checkpoints.
        clamp: bound on the activations (NVIDIA's `conv_clamp`), None for none.
    """

    channels: tuple[int, ...]
    latent_size: int = 512
    noise_size: int = 512
    mapping_layers: int = 8
    clamp: float | None = None

    def __post_init__(self) -> None:
        sizes = (*self.channels, self.latent_size, self.noise_size, self.mapping_layers)
        if len(self.channels) < 1 or min(sizes) < 1:
            raise ValueError(f"A generator needs positive sizes, not {self}.")

    @property
    def size(self) -> int:
        """Side of the picture, pixels."""
        return int(4 * 2 ** (len(self.channels) - 1))

    @staticmethod
    def ffhq(size: int = 1024) -> GeneratorConfig:
        """The paper's config F: 512 channels up to 64 px, halved with every doubling after it."""
        resolutions = [2**n for n in range(2, int(math.log2(size)) + 1)]
        return GeneratorConfig(tuple(min(512, 2**15 // r) for r in resolutions))

    @staticmethod
    def mini() -> GeneratorConfig:
        """stylegan2-mini: avatars at 128 px; z is the avatars' own latent (`training/world`)."""
        return GeneratorConfig(
            (192, 192, 160, 96, 48, 24), latent_size=192, noise_size=64, mapping_layers=4
        )

    @staticmethod
    def tiny() -> GeneratorConfig:
        """32 px, for tests."""
        return GeneratorConfig((12, 12, 8, 8), latent_size=16, noise_size=16, mapping_layers=2)


@dataclass(frozen=True)
class StyleSlot:
    """One style vector of StyleSpace, in the order of use.

    Attributes:
        size: its channels.
        is_rgb: it belongs to a ToRGB, which carries colour and no structure.
        row: the row of W+ it is computed from.
        resolution: side of its layer's output, pixels.
    """

    size: int
    is_rgb: bool
    row: int
    resolution: int


@dataclass(frozen=True)
class Activations:
    """Where synthesis stands after the layer of style vector `index`.

    Attributes:
        features: (B, C, H, W).
        rgb: (B, 3, H, W), the sum of the ToRGB outputs so far; None before the first.
    """

    index: int
    features: Tensor
    rgb: Tensor | None


class MappingLayer(nn.Module):
    """Equalised linear layer with leaky ReLU: lrelu(x W^T * rate / sqrt(fan_in) + rate * b)."""

    def __init__(self, inputs: int, outputs: int, rate: float = MAPPING_RATE) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / rate)
        self.bias = nn.Parameter(torch.zeros(outputs))
        self._rate = rate
        self._scale = rate / math.sqrt(inputs)

    def forward(self, x: Tensor) -> Tensor:  # (..., inputs) -> (..., outputs)
        return F.leaky_relu(F.linear(x, self.weight) * self._scale + self.bias * self._rate, SLOPE) * GAIN  # fmt: skip


class Affine(nn.Module):
    """w -> style vector: w W^T / sqrt(fan_in) + b, with b about 1."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs))
        self.bias = nn.Parameter(torch.ones(outputs))

    def forward(self, w: Tensor) -> Tensor:  # (B, D) -> (B, C)
        return F.linear(w, self.weight) / math.sqrt(self.weight.shape[1]) + self.bias


class StyledConvolution(nn.Module):
    """Modulated 3x3 convolution with demodulation, noise, bias and leaky ReLU (section 2.2).

    Upsampling is a transposed convolution of stride 2, smoothed by the FIR filter.
    """

    noise: Tensor

    def __init__(
        self, inputs: int, outputs: int, latent_size: int, resolution: int, up: bool,
        clamp: float | None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, 3, 3))
        self.affine = Affine(latent_size, inputs)
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.noise_strength = nn.Parameter(torch.zeros(()))
        self.register_buffer("noise", torch.randn(1, 1, resolution, resolution))
        self._scale = 1 / math.sqrt(inputs * 9)
        self._up, self._clamp = up, clamp

    def forward(self, x: Tensor, style: Tensor, noise: Tensor | None) -> Tensor:
        style = style * self._scale  # (B, I)
        energy = self.weight.square().sum(dim=(2, 3))  # (O, I)
        demodulation = torch.rsqrt(style.square() @ energy.T + EPSILON)  # (B, O)
        if noise is not None:
            noise = self.noise_strength * noise
        if len(x) == 1 and not _wants_gradient(self.weight, self.bias, noise):
            x = _FrozenConvolution.apply(  # type: ignore[no-untyped-call]
                x, style, demodulation, self.weight, self.bias, noise, self._up
            )
        else:
            x = _convolution(x * _per_channel(style, x), self.weight, self._up)
            shift = self.bias.expand(1, 1, 1, -1)  # (1, 1, 1, O)
            if noise is not None:
                shift = shift + noise.permute(0, 2, 3, 1)  # (B, H, W, O), laid out as x is
            # lrelu(a) * gain = lrelu(a * gain): the gain goes into the factor and the shift
            shift = (shift * GAIN).permute(0, 3, 1, 2).to(x.dtype)
            x = torch.addcmul(shift, x, _per_channel(demodulation * GAIN, x))
            x = F.leaky_relu_(x, SLOPE)
        return x if self._clamp is None else x.clamp(-self._clamp, self._clamp)


class ToRgb(nn.Module):
    """Modulated 1x1 convolution to colours, added to the upsampled colours so far."""

    def __init__(self, inputs: int, latent_size: int, clamp: float | None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, inputs, 1, 1))
        self.affine = Affine(latent_size, inputs)
        self.bias = nn.Parameter(torch.zeros(3))
        self._scale = 1 / math.sqrt(inputs)
        self._clamp = clamp

    def forward(self, x: Tensor, style: Tensor, rgb: Tensor | None) -> Tensor:
        # Three outputs: here the weights are modulated, and their gradient is a small product. One
        # product per picture, as a batch of them would transpose the gradient's factors.
        weights = self.weight.flatten(1) * (style * self._scale)[:, None]  # (B, 3, I)
        pixels = x.flatten(2).transpose(1, 2)  # (B, H * W, I), a view
        colours = [F.linear(picture, w, self.bias) for picture, w in zip(pixels, weights)]
        x = torch.stack(colours).transpose(1, 2).reshape(len(x), 3, *x.shape[2:])
        if self._clamp is not None:
            x = x.clamp(-self._clamp, self._clamp)
        return x if rgb is None else x + enlarge(rgb)


def _per_channel(factors: Tensor, x: Tensor) -> Tensor:
    """(B, C) -> (B, C, 1, 1) in the precision of x, which is bfloat16 under autocast."""
    return factors[:, :, None, None].to(x.dtype)


def _wants_gradient(*tensors: Tensor | None) -> bool:
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)


def _convolution(x: Tensor, weight: Tensor, up: bool) -> Tensor:
    """(B, I, H, W) with weight (O, I, 3, 3) -> (B, O, H, W), or twice the side if `up`."""
    if up:
        return smooth(F.conv_transpose2d(x, weight.transpose(0, 1), stride=2))
    return F.conv2d(x, weight, padding=1)


class _FrozenConvolution(torch.autograd.Function):
    """A styled convolution of one picture, differentiable in x, style and demodulation only.

    One picture's styles go into the weights: a = conv(x, W s d) + shift, out = lrelu(a), which
    passes over the activations a third as often as scaling them does, and keeps none but x and
    out. No gradient of a weight is needed: with gx the gradient of x,
        s * ds = sum(x * gx)    and    d * dd = sum(ga * (a - shift)) = sum(g * out - ga * shift),
    where ga * a = g * out because lrelu is homogeneous. Sums run over pixels.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, style: Tensor, demodulation: Tensor, weight: Tensor, bias: Tensor,
        noise: Tensor | None, up: bool,
    ) -> Tensor:  # fmt: skip
        kind = x.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
        style, demodulation = style.to(weight), demodulation.to(weight)  # of autocast's precision
        style = torch.where(style.abs() < TINY, TINY, style)  # backward divides by it
        modulated = weight * style[0, :, None, None] * (GAIN * demodulation[0])[:, None, None, None]
        modulated, x = modulated.to(dtype), x.to(dtype)
        out = _convolution(x, modulated, up).contiguous(memory_format=torch.channels_last)
        pixels = out.permute(0, 2, 3, 1).flatten(0, 2)  # (H * W, O), a view
        shift = [GAIN * bias], [torch.ones(len(pixels)).to(bias)]
        if noise is not None:
            shift[0].append(torch.full_like(bias, GAIN))
            shift[1].append(noise.flatten())
        # Adding channels x pixels as a product of two thin matrices is one pass in any precision.
        factors, planes = (torch.stack(part).to(dtype) for part in shift)  # (K, O), (K, H * W)
        F.leaky_relu_(pixels.addmm_(planes.T, factors), SLOPE)
        ctx.save_for_backward(x, style, demodulation, modulated, out, factors, planes)
        ctx.up = up
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, style, demodulation, modulated, out, factors, planes = ctx.saved_tensors
        inner = torch.ops.aten.leaky_relu_backward(gradient, out, SLOPE, True)  # of a
        shifted = (planes @ inner.permute(0, 2, 3, 1).flatten(0, 2)) * factors  # (K, O)
        of_demodulation = (_dots(gradient, out) - shifted.sum(0)) / demodulation
        if ctx.up:
            full = F.conv2d(inner, _fir(inner), padding=2, groups=inner.shape[1])
            of_x = F.conv2d(full, modulated.transpose(0, 1), stride=2)
        else:
            of_x = F.conv2d(inner, modulated.transpose(0, 1).flip(2, 3), padding=1)
        of_style = _dots(x, of_x) / style
        return of_x, of_style, of_demodulation, None, None, None, None


def _dots(a: Tensor, b: Tensor) -> Tensor:
    """(1, C, H, W) twice -> (C,) sums of products over pixels, in pieces that fit the cache."""
    pixels = [t.permute(0, 2, 3, 1).flatten(0, 2) for t in (a, b)]  # (H * W, C), views
    length = PIECE // a.shape[1] if a.device.type == "cpu" else len(pixels[0])
    pieces = zip(*(torch.split(t, max(1, length)) for t in pixels))
    wide = torch.promote_types(a.dtype, torch.float32)
    return torch.stack([(p * q).sum(0, dtype=wide) for p, q in pieces]).sum(0)


def _fir(x: Tensor) -> Tensor:
    """(C, 1, 4, 4), the FIR filter of doubling (gain 4) for each channel of x."""
    line = torch.tensor(FIR, device=x.device, dtype=x.dtype)
    kernel = torch.outer(line, line) / 16
    return kernel.expand(x.shape[1], 1, 4, 4)


def smooth(x: Tensor) -> Tensor:
    """(B, C, 2h + 1, 2w + 1) -> (B, C, 2h, 2w), the FIR filter behind a transposed convolution."""
    # Depthwise in channels_last is 16 times faster on a CPU than upfirdn's one-channel batches.
    x = x.contiguous(memory_format=torch.channels_last)
    return F.conv2d(x, _fir(x), padding=1, groups=x.shape[1])


def enlarge(rgb: Tensor) -> Tensor:
    """(B, 3, h, w) -> (B, 3, 2h, 2w): zeros between the pixels, then the FIR filter."""
    return F.conv_transpose2d(rgb, _fir(rgb), stride=2, padding=1, groups=rgb.shape[1])


class StyleGenerator(nn.Module, ABC):
    """What every style generator offers, whoever trained it.

    Attributes:
        layout: the style vectors in the order of use.
        rows: rows of W+.
        mean_latent: (latent_size,), the mean of mapped z.
    """

    layout: tuple[StyleSlot, ...]
    rows: int
    mean_latent: Tensor

    @property
    @abstractmethod
    def size(self) -> int:
        """Side of the picture, pixels."""

    @property
    @abstractmethod
    def latent_size(self) -> int:
        """Length of w."""

    @property
    @abstractmethod
    def noise_size(self) -> int:
        """Length of z."""

    @property
    def device(self) -> torch.device:
        return self.mean_latent.device

    @abstractmethod
    def mapping(self, z: Tensor) -> Tensor:
        """(B, noise_size) standard normal -> (B, latent_size)."""

    @abstractmethod
    def styles(self, w_plus: Tensor) -> list[Tensor]:
        """(B, rows, D) -> StyleSpace, one (B, slot.size) for every slot of `layout`."""

    @abstractmethod
    def stages(
        self,
        styles: Sequence[Tensor],
        noise: Sequence[Tensor] | None = None,
        start: Activations | None = None,
    ) -> Iterator[Activations]:
        """Synthesis, one layer at a time.

        Args:
            styles: StyleSpace, one (B, size) per slot; those before `start` are not read.
            noise: as `fixed_noise`; None is the fixed noise, [] is none.
            start: go on behind this layer.
        """

    def truncate(self, w: Tensor, psi: float, cutoff: int | None = None) -> Tensor:
        """w or W+ moved towards the mean latent: mean + psi * (w - mean).

        Args:
            w: (B, D) or (B, rows, D).
            cutoff: only the first `cutoff` rows of W+; None is all.
        """
        moved = self.mean_latent + psi * (w - self.mean_latent)
        return moved if cutoff is None else torch.cat([moved[:, :cutoff], w[:, cutoff:]], dim=1)

    def broadcast(self, w: Tensor) -> Tensor:
        """(B, D) -> (B, rows, D), the same w for every layer."""
        return w[:, None].expand(-1, self.rows, -1)

    @torch.no_grad()
    def measure_mean_latent(self, samples: int = MEAN_SAMPLES, seed: int = 0) -> Tensor:
        """(D,) the mean of mapped z, for checkpoints that do not carry it."""
        random = torch.Generator().manual_seed(seed)
        z = torch.randn(samples, self.noise_size, generator=random)
        return self.mapping(z.to(self.mean_latent)).mean(dim=0)

    def synthesize(
        self,
        styles: Sequence[Tensor],
        noise: Sequence[Tensor] | None = None,
        start: Activations | None = None,
        size: int | None = None,
    ) -> Tensor:
        """StyleSpace -> picture (B, 3, H, W), about [-1, 1], not clamped.

        Args as `stages`; `size` stops at a lower resolution, for a preview.

        Raises:
            ValueError: `size` is no resolution of this generator, or lies before `start`.
        """
        end = self._last_layer(self.size if size is None else size)
        for stage in self.stages(styles, noise, start):
            if stage.index == end and stage.rgb is not None:
                return self._picture(stage.rgb)
        raise ValueError(f"Synthesis cannot start behind its end, layer {end}.")

    def _picture(self, rgb: Tensor) -> Tensor:
        """The sum of the ToRGB outputs -> (B, 3, H, W), about [-1, 1]."""
        return rgb

    def _last_layer(self, size: int) -> int:
        for index, slot in enumerate(self.layout):
            if slot.is_rgb and slot.resolution == size:
                return index
        raise ValueError(f"This generator has no resolution of {size} pixels.")

    def forward(self, w_plus: Tensor, noise: Sequence[Tensor] | None = None) -> Tensor:
        """(B, rows, D) -> picture (B, 3, H, W)."""
        return self.synthesize(self.styles(w_plus), noise)


class Generator(StyleGenerator):
    """z -> w -> W+ -> StyleSpace -> picture.

    Attributes:
        config: its shape.
        layout: the style vectors in order: conv, ToRGB at 4 px, then two convs and a ToRGB for
            every further resolution.
        rows: rows of W+.
        mean_latent: (latent_size,), the mean of mapped z.
    """

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.config = config
        self.layout = style_layout(config)
        self.rows = max(slot.row for slot in self.layout) + 1
        width = config.latent_size
        inputs = [config.noise_size] + [width] * (config.mapping_layers - 1)
        self.mapping_layers = nn.ModuleList(MappingLayer(size, width) for size in inputs)
        self.constant = nn.Parameter(torch.randn(1, config.channels[0], 4, 4))
        self.layers = nn.ModuleList(_layers(config))
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
        return self.config.noise_size

    def mapping(self, z: Tensor) -> Tensor:
        """(B, noise_size) standard normal -> (B, latent_size)."""
        w = z * torch.rsqrt(z.square().mean(dim=1, keepdim=True) + EPSILON)
        for layer in self.mapping_layers:
            w = layer(w)
        return w

    def styles(self, w_plus: Tensor) -> list[Tensor]:
        """(B, rows, D) -> StyleSpace, one (B, slot.size) for every slot of `layout`."""
        affines: list[Any] = [layer.affine for layer in self.layers]
        return [affine(w_plus[:, slot.row]) for affine, slot in zip(affines, self.layout)]

    def fixed_noise(self) -> list[Tensor]:
        """The noise pictures of the checkpoint, one (1, 1, R, R) per convolution."""
        convolutions = [layer for layer in self.layers if isinstance(layer, StyledConvolution)]
        return [convolution.noise for convolution in convolutions]

    def fresh_noise(self, batch: int, random: torch.Generator | None = None) -> list[Tensor]:
        """New noise, one (batch, 1, R, R) per convolution; `random` lives on the CPU."""
        sides = [slot.resolution for slot in self.layout if not slot.is_rgb]
        return [torch.randn(batch, 1, s, s, generator=random).to(self.constant) for s in sides]

    def stages(
        self,
        styles: Sequence[Tensor],
        noise: Sequence[Tensor] | None = None,
        start: Activations | None = None,
    ) -> Iterator[Activations]:
        """Synthesis, one layer at a time.

        Args:
            styles: StyleSpace, one (B, size) per slot; those before `start` are not read.
            noise: one picture per convolution; None is the fixed noise, [] is none.
            start: go on behind this layer.
        """
        pictures = iter(self.fixed_noise() if noise is None else noise)
        done = -1 if start is None else start.index
        x = self._constant(len(styles[0])) if start is None else start.features
        rgb = None if start is None else start.rgb
        for index, (layer, slot) in enumerate(zip(self.layers, self.layout)):
            picture = None if slot.is_rgb else next(pictures, None)
            if index <= done:
                continue
            if slot.is_rgb:
                rgb = layer(x, styles[index], rgb)
            else:
                x = layer(x, styles[index], picture)
            yield Activations(index, x, rgb)

    def _constant(self, batch: int) -> Tensor:
        constant = self.constant.expand(batch, -1, -1, -1)  # (B, C, 4, 4)
        return constant.contiguous(memory_format=torch.channels_last)


def style_layout(config: GeneratorConfig) -> tuple[StyleSlot, ...]:
    """The style vectors of a generator; a ToRGB shares its row with the next block's first conv."""
    slots = []
    for block, width in enumerate(config.channels):
        resolution = 4 * 2**block
        row = max(2 * block - 1, 0)
        if block:
            slots.append(StyleSlot(config.channels[block - 1], False, row, resolution))
            row += 1
        slots.append(StyleSlot(width, False, row, resolution))
        slots.append(StyleSlot(width, True, row + 1, resolution))
    return tuple(slots)


def _layers(config: GeneratorConfig) -> Iterator[nn.Module]:
    before = None
    for block, width in enumerate(config.channels):
        resolution = 4 * 2**block
        common = (config.latent_size, resolution)
        if before is not None:
            yield StyledConvolution(before, width, *common, up=True, clamp=config.clamp)
        yield StyledConvolution(width, width, *common, up=False, clamp=config.clamp)
        yield ToRgb(width, config.latent_size, config.clamp)
        before = width


def to_pixels(image: Tensor) -> Tensor:
    """(B, 3, H, W) about [-1, 1] -> (B, H, W, 3) uint8, clamped and rounded."""
    scaled = (image.detach().float().clamp(-1, 1) + 1) * 127.5
    return scaled.round().to(torch.uint8).permute(0, 2, 3, 1).cpu()


def to_pictures(image: Tensor) -> list[Image.Image]:
    """(B, 3, H, W) about [-1, 1] -> B pictures."""
    return [Image.fromarray(pixels.numpy()) for pixels in to_pixels(image)]
