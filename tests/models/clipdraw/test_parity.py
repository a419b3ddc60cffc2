"""Images and gradients against converged ones of diffvg: `--golden DIR`, the files in DIR/diffvg.

What the keys mean is in tests/golden/diffvg/README.md, and where the bars come from.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from models.clipdraw.backends import Diffvg, composited_afterwards, diffvg_is_there
from models.clipdraw.rasterizer import over, render
from models.clipdraw.strokes import Strokes, paths

PARAMETERS = ("points", "widths", "rgba", "fill_rgba")


@dataclass(frozen=True)
class Bar:
    """What must be reached at least: PSNR in dB, mean absolute difference, cosines."""

    psnr: float
    difference: float
    points: float
    widths: float
    rgba: float
    afterwards: float  # PSNR of CLIPDraw's own compositing

    @classmethod
    def of(cls, count: int) -> Bar:
        """The more paths lie on each other, the more edges share a pixel."""
        if count <= 8:
            return cls(46, 4e-4, 0.99, 0.99, 0.999, 48)
        if count <= 128:
            return cls(45, 6e-4, 0.985, 0.99, 0.999, 44)
        return cls(39, 2.5e-3, 0.96, 0.99, 0.998, 37)


class Scene:
    """One golden file: its parameters as leaves, the strokes made of them, and what diffvg found."""

    def __init__(self, path: Path) -> None:
        with np.load(path) as file:
            self.arrays = {name: torch.from_numpy(file[name]) for name in file.files}
        self.leaves = {
            name: self.arrays[name].clone().requires_grad_()
            for name in PARAMETERS
            if name in self.arrays
        }
        self.bar = Bar.of(len(self.arrays["widths"]))

    def strokes(self) -> Strokes:
        """diffvg lays a fill over the stroke of its own path: here that is two paths each."""
        closed = self.arrays["closed"].tolist()
        lengths = [3 * n + (not c) for n, c in zip(self.arrays["num_segments"].tolist(), closed)]
        controls = self.leaves["points"].split(lengths)
        widths, colors = self.leaves["widths"], self.leaves["rgba"]
        canvas = (int(self.arrays["canvas"][0]), int(self.arrays["canvas"][1]))
        fills = self.leaves.get("fill_rgba")
        if fills is None:
            return paths(controls, widths, colors, canvas, closed)
        return paths(
            [control for control in controls for _ in range(2)],
            torch.stack([widths, torch.zeros_like(widths)], 1).flatten(),
            torch.stack([colors, torch.zeros_like(colors)], 1).flatten(0, 1),
            canvas,
            [flag for flag in closed for _ in range(2)],
            torch.stack([torch.zeros_like(fills), fills], 1).flatten(0, 1),
        )

    def weighted(self, image: Tensor) -> Tensor:
        weights = self.arrays["weight_map"][..., None] / 32 * self.arrays["weight_channels"]
        return (weights * image).sum()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    files = sorted((metafunc.config.getoption("--golden") / "diffvg").glob("*.npz"))
    metafunc.parametrize("scene", [Scene(file) for file in files], ids=[f.stem for f in files])


def psnr(image: Tensor, reference: Tensor) -> float:
    return -10 * math.log10(max((image - reference).square().mean().item(), 1e-12))


def premultiplied(image: Tensor) -> Tensor:
    return torch.cat([image[..., :3] * image[..., 3:], image[..., 3:]], -1)


def test_the_image_is_the_converged_one(scene: Scene) -> None:
    image, reference = over(render(scene.strokes()), torch.ones(3)), scene.arrays["image_white"]
    assert image.shape == reference.shape
    assert psnr(image, reference) >= scene.bar.psnr
    assert (image - reference).abs().mean().item() <= scene.bar.difference


def test_the_gradients_are_the_unbiased_ones(scene: Scene) -> None:
    scene.weighted(over(render(scene.strokes()), torch.ones(3))).backward()
    bars = {
        "points": scene.bar.points,
        "widths": scene.bar.widths,
        "rgba": scene.bar.rgba,
        "fill_rgba": scene.bar.rgba,
    }
    for name, leaf in scene.leaves.items():
        assert leaf.grad is not None
        grad, reference = (
            leaf.grad.flatten().double(),
            scene.arrays[f"grad_{name}"].flatten().double(),
        )
        cosine = float(grad @ reference / (grad.norm() * reference.norm()))
        assert cosine >= bars[name], f"{name}: cosine {cosine:.4f}"
        assert float(grad.norm() / reference.norm()) == pytest.approx(1, abs=0.06), name


def test_clipdraws_own_compositing_can_be_had(scene: Scene) -> None:
    reference = over(premultiplied(scene.arrays["image_rgba"]), torch.ones(3))
    right = over(render(scene.strokes()), torch.ones(3))
    theirs = over(composited_afterwards(scene.strokes()), torch.ones(3))
    assert psnr(theirs, reference) >= scene.bar.afterwards
    assert psnr(theirs, reference) > psnr(right, reference) + 5


@pytest.mark.skipif(not diffvg_is_there(), reason="diffvg is not installed")
def test_the_optional_backend_is_diffvg(scene: Scene) -> None:
    image = Diffvg(samples=2, seed=0)(scene.strokes())
    assert psnr(image, premultiplied(scene.arrays["image_rgba_2x2_seed0"])) >= 65
