"""Swin transformer as a detection backbone (Liu et al. 2021, arXiv 2103.14030).

timm's and torchvision's do not compute what GLIP's weights were trained with: timm shifts before
it pads, torchvision does not shift maps smaller than a window, and both move the norms.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.glip.config import SwinConfig

ACROSS_REGIONS = -100.0  # the attention score between cells that only the cyclic shift made meet


class Swin(nn.Module):
    """Picture -> feature maps. Stage i has `dim * 2**i` channels at stride `4 * 2**i`."""

    def __init__(self, config: SwinConfig) -> None:
        super().__init__()
        widths = [config.dim * 2**i for i in range(len(config.depths))]
        self.patch_embed = PatchEmbed(config.dim)
        self.stages = nn.ModuleList(
            Stage(width, depth, heads, config.window, first=i == 0)
            for i, (width, depth, heads) in enumerate(zip(widths, config.depths, config.heads))
        )
        # Maps that the FPN reads have a norm.
        self.norms = nn.ModuleList(nn.LayerNorm(width) for width in widths[1:])
        self.apply(_initialise)

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """(N, 3, H, W) -> C3, C4, C5, each (N, C, h, w)."""
        return self.all_stages(pixels)[1:]

    def all_stages(self, pixels: Tensor) -> list[Tensor]:
        """(N, 3, H, W) -> the four maps (N, C, h, w), the finest first and without a norm."""
        x = self.patch_embed(pixels)  # (N, h, w, C)
        maps = []
        for stage, norm in zip(self.stages, [None, *self.norms]):
            x = stage(x)
            maps.append(x if norm is None else norm(x))
        return [features.permute(0, 3, 1, 2).contiguous() for features in maps]


class PatchEmbed(nn.Module):
    """4x4 pixels -> one vector."""

    def __init__(self, dim: int, patch: int = 4) -> None:
        super().__init__()
        self.patch = patch
        self.proj = nn.Conv2d(3, dim, patch, stride=patch)
        self.norm = nn.LayerNorm(dim)

    def forward(self, pixels: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, H / 4, W / 4, dim), sizes rounded up."""
        height, width = pixels.shape[-2:]
        pixels = F.pad(pixels, (0, -width % self.patch, 0, -height % self.patch))
        return cast(Tensor, self.norm(self.proj(pixels).permute(0, 2, 3, 1)))


class Stage(nn.Module):
    """Merges patches (not `first`), then windows and shifted windows in turn."""

    def __init__(self, dim: int, depth: int, heads: int, window: int, *, first: bool) -> None:
        super().__init__()
        self.merge = None if first else PatchMerging(dim // 2)
        self.blocks = nn.ModuleList(
            Block(dim, heads, window, shift=window // 2 if i % 2 else 0) for i in range(depth)
        )

    def forward(self, x: Tensor) -> Tensor:
        if self.merge is not None:
            x = self.merge(x)
        for block in self.blocks:
            x = block(x)
        return x


class PatchMerging(nn.Module):
    """2x2 cells of `dim` channels -> one of 2 * dim."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * dim)
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, h, w, C) -> (N, h / 2, w / 2, 2 C), sizes rounded up."""
        height, width = x.shape[1:3]
        x = F.pad(x, (0, 0, 0, width % 2, 0, height % 2))
        corners = [x[:, row::2, column::2] for column in (0, 1) for row in (0, 1)]
        return cast(Tensor, self.reduction(self.norm(torch.cat(corners, dim=-1))))


class Block(nn.Module):
    """Attention inside windows that start `shift` cells down and right, then an MLP."""

    def __init__(self, dim: int, heads: int, window: int, shift: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn = WindowAttention(dim, heads, window, shift)
        self.norm2 = nn.LayerNorm(dim)
        self.fc1 = nn.Linear(dim, 4 * dim)
        self.fc2 = nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return cast(Tensor, x + self.fc2(F.gelu(self.fc1(self.norm2(x)))))


class WindowAttention(nn.Module):
    """Multi-head attention among the cells of one window, with a learned bias per offset."""

    index: Tensor

    def __init__(self, dim: int, heads: int, window: int, shift: int) -> None:
        super().__init__()
        self.heads, self.window, self.shift = heads, window, shift
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        nn.init.trunc_normal_(self.bias_table, std=0.02)
        self.register_buffer("index", relative_position_index(window), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, h, w, C) -> the same shape; the map is padded to whole windows meanwhile."""
        height, width = x.shape[1:3]
        side, shift = self.window, self.shift
        x = F.pad(x, (0, 0, 0, -width % side, 0, -height % side))
        padded_height, padded_width = x.shape[1:3]
        x = x.roll((-shift, -shift), (1, 2)) if shift else x
        bias = self.bias_table[self.index].permute(2, 0, 1)  # (heads, S, S), S = side * side
        if shift:
            # (windows, heads, S, S)
            bias = bias + shift_mask(padded_height, padded_width, side, shift, x.device)[:, None]
        windows = to_windows(x, side)  # (N, windows, S, C)
        count = windows.shape[1]
        qkv = torch.unflatten(self.qkv(windows), -1, (3, self.heads, -1))
        # Windows stand beside the heads, so that one mask serves all pictures of a batch.
        q, k, v = qkv.permute(3, 0, 1, 4, 2, 5).flatten(2, 3)  # each (N, windows * heads, S, d)
        mask = bias.expand(count, -1, -1, -1).flatten(0, 1)[None].to(q.dtype)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        mixed = torch.unflatten(mixed, 1, (count, self.heads)).transpose(2, 3).flatten(3)
        x = from_windows(self.proj(mixed), side, padded_height, padded_width)
        x = x.roll((shift, shift), (1, 2)) if shift else x
        return x[:, :height, :width]


def to_windows(x: Tensor, side: int) -> Tensor:
    """(N, h, w, C) -> (N, windows, side * side, C), row by row; h and w multiples of `side`."""
    batch, height, width, channels = x.shape
    grid = x.reshape(batch, height // side, side, width // side, side, channels)
    return grid.transpose(2, 3).reshape(batch, -1, side * side, channels)


def from_windows(windows: Tensor, side: int, height: int, width: int) -> Tensor:
    """The inverse of `to_windows`."""
    batch, channels = len(windows), windows.shape[-1]
    grid = windows.reshape(batch, height // side, width // side, side, side, channels)
    return grid.transpose(2, 3).reshape(batch, height, width, channels)


def relative_position_index(window: int) -> Tensor:
    """(S, S): the row of the bias table for every pair of cells of a window."""
    rows, columns = torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")
    cells = torch.stack([rows, columns]).flatten(1)  # (2, S)
    offset = cells[:, :, None] - cells[:, None, :] + window - 1  # (2, S, S)
    return offset[0] * (2 * window - 1) + offset[1]


def shift_mask(height: int, width: int, side: int, shift: int, device: torch.device) -> Tensor:
    """(windows, S, S): `ACROSS_REGIONS` between cells that are neighbours only by the shift."""

    def regions(size: int) -> Tensor:
        cells = torch.arange(size, device=device)
        return (cells >= size - side).int() + (cells >= size - shift).int()

    region = regions(height)[:, None] * 3 + regions(width)  # (h, w)
    inside = to_windows(region[None, :, :, None], side)[0, :, :, 0]  # (windows, S)
    apart = inside[:, None, :] != inside[:, :, None]
    return apart.float() * ACROSS_REGIONS


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
