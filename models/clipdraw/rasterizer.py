"""A differentiable rasteriser of strokes and fills in plain PyTorch.

Antialiased by analytic coverage, painted in order with "over" on premultiplied colours (Porter and
Duff 1984), differentiable in points, widths and colours. What diffvg (Li et al. 2020) samples is
computed in closed form here: no noise, no seed, no bias at the sides of strokes.

The work is done in bands of rows. A band's fragments, at most two per path and pixel, are made,
composited and forgotten; backward makes them again unless they were few enough to keep.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.autograd.function import once_differentiable

from . import coverage, filling
from .coverage import HALF_DIAGONAL, StrokeFragments, add_at, flatten, spans_of, stroke_fragments
from .filling import FillFragments, fill_fragments, outlines_of
from .strokes import Strokes

BAND_PAIRS = 2**18  # (chord, pixel) pairs made at once, unless one row has more
KEPT_PAIRS = 2**21  # pairs up to which fragments are kept for backward, some 60 bytes each


def render(strokes: Strokes) -> Tensor:
    """Draws paths on a transparent canvas.

    Round caps and joins; a path's stroke is the union of what it passes over and never darkens
    itself; path k is painted over paths < k, its fill under its stroke. A path is filled by the
    non-zero rule, an open one as if a straight line closed it.

    Returns:
        (H, W, 4) premultiplied RGBA in [0, 1]: float64 where the points are, else float32. It can
        be differentiated once, in points, half_widths, colors and fills. A half width of 0 draws
        no stroke and has no gradient.

    Raises:
        ValueError: a control point, width or colour is not a finite number.
    """
    cubics, path = strokes.cubics()  # (S, 4, 2), (S,)
    dtype = torch.float64 if cubics.dtype == torch.float64 else torch.float32
    cubics, half_widths = cubics.to(dtype), strokes.half_widths.to(dtype)
    if strokes.fills is None:
        outlines, outline_path = cubics[:0], path[:0]
        paints = strokes.colors.to(dtype)  # (N, 4)
    else:
        outlines, outline_path = _closed(strokes, cubics, path)
        paints = torch.stack([strokes.fills, strokes.colors], 1).flatten(0, 1).to(dtype)  # (2N, 4)
    for name, values in (("points", cubics), ("widths", half_widths), ("colours", paints)):
        if not bool(values.isfinite().all()):
            raise ValueError(f"The strokes' {name} must be finite numbers; some are not.")
    scene = _Scene(path, outline_path, strokes.canvas, filled=strokes.fills is not None)
    image: Tensor = _Raster.apply(  # type: ignore[no-untyped-call]
        cubics, half_widths, outlines, paints, scene
    )
    return image


def over(image: Tensor, background: Tensor) -> Tensor:
    """Lays a premultiplied (H, W, 4) image over an RGB background broadcastable to (H, W, 3)."""
    return image[..., :3] + (1 - image[..., 3:]) * background


def onto(top: Tensor, bottom: Tensor) -> Tensor:
    """Lays a premultiplied (..., 4) image over another one."""
    return top + (1 - top[..., 3:]) * bottom


def to_picture(image: Tensor, background: tuple[float, float, float] | None) -> Image.Image:
    """Premultiplied (H, W, 4) as an RGB picture over a background, or as straight RGBA without."""
    if background is not None:
        flat = over(image, image.new_tensor(background))
    else:
        alpha = image[..., 3:]
        flat = torch.cat([image[..., :3] / alpha.clamp(min=1e-6), alpha], dim=-1)
    return Image.fromarray((flat.clamp(0, 1) * 255).round().byte().cpu().numpy())


def _closed(strokes: Strokes, cubics: Tensor, path: Tensor) -> tuple[Tensor, Tensor]:
    """All cubics, and for every open path a straight one from its last point to its first."""
    end = strokes.segments.cumsum(0)
    opened = (~strokes.closed).nonzero().squeeze(1)
    a = cubics[end[opened] - 1, 3]  # (O, 2)
    b = cubics[(end - strokes.segments)[opened], 0]
    lines = torch.stack([a, a + (b - a) / 3, b - (b - a) / 3, b], 1)  # (O, 4, 2)
    return torch.cat([cubics, lines]), torch.cat([path, opened])


@dataclass(frozen=True)
class _Scene:
    """What of the strokes is not differentiated.

    path: (S,) whose the strokes' cubics are. outline_path: (E,) whose the fills' are.
    filled: whether there are two paints a path, first its fill's and then its stroke's.
    """

    path: Tensor
    outline_path: Tensor
    canvas: tuple[int, int]
    filled: bool


@dataclass(frozen=True)
class _Band:
    """The F fragments of some rows, sorted by pixel and then from the back to the front.

    Attributes:
        pixel, paint: (F,) int64 row * width + column; the row of the table of paints.
        cover: (F,) share of the pixel covered. light: (F,) share of what is painted here that the
            fragments in front let through.
        strokes, fills: where they come from: first all strokes', then all fills'.
        order: (F,) which of these each is; None: as they are.
    """

    pixel: Tensor
    paint: Tensor
    cover: Tensor
    light: Tensor
    strokes: StrokeFragments
    fills: FillFragments | None
    order: Tensor | None


class _Plan:
    """A scene cut into bands whose fragments can be made one by one."""

    def __init__(
        self, cubics: Tensor, half_widths: Tensor, outlines: Tensor, paints: Tensor, scene: _Scene
    ) -> None:
        self.cubics, self.half_widths, self.paints, self.scene = cubics, half_widths, paints, scene
        height = scene.canvas[1]
        radius = half_widths.index_select(0, scene.path)  # (S,)
        self.pieces = flatten(cubics, coverage.TOLERANCE)
        radius = radius.index_select(0, self.pieces.cubic)
        reach = torch.where(radius > 0, radius + HALF_DIAGONAL + self.pieces.error, -torch.inf)
        self.spans = spans_of(
            self.pieces, scene.path.index_select(0, self.pieces.cubic), reach, scene.canvas
        )
        cost = torch.zeros(height, dtype=torch.long, device=cubics.device)
        cost.index_add_(0, self.spans.row, self.spans.count)
        if scene.filled:
            self.edges = flatten(outlines, filling.TOLERANCE)
            owner = scene.outline_path.index_select(0, self.edges.cubic)
            self.outlines = outlines_of(self.edges, owner, len(half_widths), scene.canvas)
            boxes = self.outlines.right - self.outlines.left
            cost.index_add_(0, self.outlines.box_row, boxes)
        self.bands = _bands(cost.tolist())
        self.pairs = int(cost.sum())
        if len(self.bands) > 1:
            self.spans = self.spans.by_row()

    def fragments(self, first: int, end: int) -> _Band:
        """The fragments of the rows first, ..., end - 1."""
        width, _ = self.scene.canvas
        spans = self.spans if len(self.bands) == 1 else self.spans.rows(first, end)
        s = stroke_fragments(
            self.cubics, self.scene.path, self.half_widths, self.pieces, spans, width
        )
        if not self.scene.filled:
            return self._composited(s.pixel, s.path, s.cover.area, s, None, None)
        f = fill_fragments(self.edges, self.outlines.rows(first, end), width)
        paint = torch.cat([2 * s.path + 1, 2 * f.path])
        pixel, cover = torch.cat([s.pixel, f.pixel]), torch.cat([s.cover.area, f.cover])
        order = paint.sort(stable=True).indices
        pixel, within = pixel.index_select(0, order).sort(stable=True)
        order = order.index_select(0, within)
        paint, cover = paint.index_select(0, order), cover.index_select(0, order)
        return self._composited(pixel, paint, cover, s, f, order)

    def _composited(
        self,
        pixel: Tensor,
        paint: Tensor,
        cover: Tensor,
        strokes: StrokeFragments,
        fills: FillFragments | None,
        order: Tensor | None,
    ) -> _Band:
        alpha = cover * self.paints[:, 3].index_select(0, paint)
        return _Band(pixel, paint, cover, _light(pixel, alpha), strokes, fills, order)


def _bands(cost: list[int]) -> list[tuple[int, int]]:
    """Rows (first, end) that cost at most `BAND_PAIRS` together, or are single; none is empty."""
    bands: list[tuple[int, int]] = []
    first, total = 0, 0
    for row, pairs in enumerate(cost):
        if total and total + pairs > BAND_PAIRS:
            bands.append((first, row))
            first, total = row, 0
        total += pairs
    return [*bands, (first, len(cost))] if total else bands


class _Raster(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        cubics: Tensor,
        half_widths: Tensor,
        outlines: Tensor,
        paints: Tensor,
        scene: _Scene,
    ) -> Tensor:
        plan = _Plan(cubics, half_widths, outlines, paints, scene)
        width, height = scene.canvas
        image = cubics.new_zeros(4, height * width)
        keep = any(ctx.needs_input_grad) and plan.pairs <= KEPT_PAIRS
        kept: list[_Band | None] = []
        for rows in plan.bands:
            band = plan.fragments(*rows)
            _paint(band, paints, image)
            kept.append(band if keep else None)
            del band
        ctx.save_for_backward(cubics, half_widths, outlines, paints)
        ctx.plan, ctx.kept = plan, kept
        return image.T.reshape(height, width, 4)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        cubics, half_widths, outlines, paints = ctx.saved_tensors  # refuses changed ones
        plan: _Plan = ctx.plan
        by_cubics, by_outlines = (
            cubics.new_zeros(8, len(cubics)),
            cubics.new_zeros(8, len(outlines)),
        )
        by_widths, by_paints = torch.zeros_like(half_widths), cubics.new_zeros(4, len(paints))
        planes = grad.reshape(-1, 4).T.contiguous()  # (4, H * W)
        for rows, kept in zip(plan.bands, ctx.kept):
            band = plan.fragments(*rows) if kept is None else kept
            by_cover = _paint_backward(band, paints, planes, by_paints)
            if band.order is not None:
                by_cover = torch.empty_like(by_cover).index_copy_(0, band.order, by_cover)
            count = len(band.strokes.pixel)
            band.strokes.backward(by_cover[:count], by_cubics, by_widths)
            if band.fills is not None:
                band.fills.backward(by_cover[count:], by_outlines)
        return (
            by_cubics.T.reshape(-1, 4, 2),
            by_widths,
            by_outlines.T.reshape(-1, 4, 2),
            by_paints.T,
            None,
        )


# --- compositing -----------------------------------------------------------------------------


def _paint(band: _Band, paints: Tensor, image: Tensor) -> None:
    """Adds a band's fragments to `image` (4, H * W)."""
    r, g, b, a = paints.T.index_select(1, band.paint).unbind()  # (F,) each
    share = band.light * band.cover * a
    for plane, value in zip(image, (share * r, share * g, share * b, share)):
        add_at(plane, band.pixel, value)


def _paint_backward(band: _Band, paints: Tensor, grad: Tensor, paints_grad: Tensor) -> Tensor:
    """From the image's gradient (4, H * W): (F,) by the cover; adds that by the paints (4, N)."""
    r, g, b, a = paints.T.index_select(1, band.paint).unbind()  # (F,) each
    gr, gg, gb, ga = grad.index_select(1, band.pixel).unbind()
    alpha = band.cover * a
    value = gr * r + gg * g + gb * b + ga  # of this paint, by the gradient's measure
    by_alpha = band.light * (value - _behind(band.pixel, alpha, value))
    share = band.light * alpha
    for plane, add in zip(paints_grad, (share * gr, share * gg, share * gb, by_alpha * band.cover)):
        add_at(plane, band.paint, add)
    return by_alpha * a


def _light(pixel: Tensor, alpha: Tensor) -> Tensor:
    """(F,) the product of 1 - alpha over all fragments of the same pixel further front.

    A scan in log2(depth) doubling steps: exact where alpha is 1, and without logarithms.
    """
    opaque = alpha.clone()  # 1 - the product over what is scanned so far
    for stride, same in _strides(pixel, alpha.dtype):
        opaque[:-stride] += (1 - opaque[:-stride]) * (same * opaque[stride:])
    light = torch.ones_like(opaque)
    light[:-1] -= (pixel[1:] == pixel[:-1]) * opaque[1:]
    return light


def _behind(pixel: Tensor, alpha: Tensor, value: Tensor) -> Tensor:
    """(F,) what the fragments of the same pixel further back make, `value` over `value`."""
    opaque, made = alpha.clone(), alpha * value
    for stride, same in _strides(pixel, alpha.dtype):
        through = (1 - opaque[stride:]) * same
        made[stride:] += through * made[:-stride]
        opaque[stride:] += through * opaque[:-stride]
    behind = torch.zeros_like(made)
    behind[1:] = (pixel[1:] == pixel[:-1]) * made[:-1]
    return behind


def _strides(pixel: Tensor, dtype: torch.dtype) -> Iterator[tuple[int, Tensor]]:
    """Strides 1, 2, 4, ... up to the depth, each with 1 where the one so far on is of the same
    pixel, else 0: products are many times faster than a `where`."""
    stride = 1
    while stride < len(pixel):
        same = (pixel[stride:] == pixel[:-stride]).to(dtype)
        if not bool(same.any()):
            return
        yield stride, same
        stride *= 2
