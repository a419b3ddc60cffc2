"""Other ways to make an image from strokes, behind the interface of `rasterizer.render`.

diffvg (Li et al. 2020, "Differentiable Vector Graphics Rasterization for Editing and Learning") is
what CLIPDraw was made with. It is not on PyPI and must be compiled, so it is imported only when it
is asked for.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
from torch import Tensor

from models.errors import InputError

from .rasterizer import render
from .strokes import Strokes

Rasterizer = Callable[[Strokes], Tensor]

DIFFVG_IS_ABSENT = (
    "diffvg is not installed here; build it from github.com/BachiLi/diffvg with "
    "`python setup.py install`, or draw with the built-in rasteriser, which needs nothing."
)


def diffvg_is_there() -> bool:
    """Whether diffvg can be imported."""
    try:
        _pydiffvg()
    except InputError:
        return False
    return True


@cache
def _pydiffvg() -> Any:
    try:
        pydiffvg = importlib.import_module("pydiffvg")
    except ImportError as error:
        raise InputError(DIFFVG_IS_ABSENT) from error
    pydiffvg.set_use_gpu(False)  # its samples need no large device, and its CUDA build is rare
    return pydiffvg


@dataclass(frozen=True)
class Diffvg:
    """diffvg on the CPU, as CLIPDraw calls it.

    samples: a side of the grid of jittered samples in each pixel.
    seed: of the jitter; CLIPDraw takes the number of the step.

    Raises:
        InputError: when called, where diffvg is not installed.
    """

    samples: int = 2
    seed: int = 0

    def __call__(self, strokes: Strokes) -> Tensor:
        """(H, W, 4) float32: diffvg's straight colour times its alpha, and its alpha.

        `over` then composites it as CLIPDraw does. That is darker at edges than it should be,
        because diffvg filters straight colours. See `composited_afterwards`.
        """
        pydiffvg = _pydiffvg()
        shapes: list[Any] = []
        groups: list[Any] = []

        def add(shape: Any, fill: Tensor | None, stroke: Tensor | None) -> None:
            group = pydiffvg.ShapeGroup(
                torch.tensor([len(shapes)]), fill, use_even_odd_rule=False, stroke_color=stroke
            )
            groups.append(group)
            shapes.append(shape)

        # diffvg paints a fill over the stroke of its own shape; two shapes put the stroke on top.
        cpu = strokes.to("cpu", torch.float32)
        for index in range(len(cpu)):
            points = cpu.points[index, : int(cpu.lengths[index])]
            closed = bool(cpu.closed[index])
            if cpu.fills is not None:
                outline = points if closed else _closed(points)
                add(_path(pydiffvg, outline, True, torch.zeros(())), cpu.fills[index], None)
            half_width, color = cpu.half_widths[index], cpu.colors[index]
            add(_path(pydiffvg, points, closed, half_width), None, color)
        width, height = strokes.canvas
        scene = pydiffvg.RenderFunction.serialize_scene(width, height, shapes, groups)
        image: Tensor = pydiffvg.RenderFunction.apply(
            width, height, self.samples, self.samples, self.seed, None, *scene
        )
        alpha = image[..., 3:]
        return torch.cat([image[..., :3] * alpha, alpha], -1).to(strokes.points.device)


def _path(pydiffvg: Any, points: Tensor, closed: bool, half_width: Tensor) -> Any:
    inner = torch.full((len(points) // 3,), 2, dtype=torch.int32)  # control points of each cubic
    return pydiffvg.Path(inner, points.contiguous(), closed, half_width)


def _closed(points: Tensor) -> Tensor:
    """An open path's points and a straight line back to the start, as SVG fills it."""
    a, b = points[-1], points[0]
    return torch.cat([points, torch.stack([a + (b - a) / 3, b - (b - a) / 3])])


def composited_afterwards(strokes: Strokes) -> Tensor:
    """(H, W, 4) premultiplied: what diffvg's image is after CLIPDraw's own compositing.

    diffvg averages the straight colour over a pixel, empty samples as black, and CLIPDraw
    multiplies that by the mean alpha: an edge pixel's colour is weighted by its coverage twice.
    With U the union of all strokes' coverages, whatever their alpha, U * colour comes within
    40 to 71 dB of it.
    """
    solid = strokes.colors.detach().clone()
    solid[:, 3] = 1
    fills = None if strokes.fills is None else strokes.fills.detach().clone()
    if fills is not None:
        fills[:, 3] = (fills[:, 3] > 0).to(fills.dtype)
    image = render(strokes)
    union = render(replace(strokes, colors=solid, fills=fills))[..., 3:]
    return torch.cat([image[..., :3] * union, image[..., 3:]], -1)


RASTERIZERS: Mapping[str, Rasterizer] = {
    "built-in": render,
    "diffvg": Diffvg(),
    "diffvg-like": composited_afterwards,
}
