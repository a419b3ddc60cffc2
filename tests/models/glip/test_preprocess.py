"""Pictures for the network: the reference's sizes and pixels, padding, odd pictures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from models.errors import InputError
from models.glip import GlipConfig
from models.glip.preprocess import normalized, prepare, resized

Golden = dict[str, NDArray[Any]]


@pytest.fixture(scope="module")
def golden(request: pytest.FixtureRequest) -> Golden:
    file: Path = request.config.getoption("--golden") / "glip" / "functions.npz"
    with np.load(file) as arrays:
        return {k: arrays[k] for k in arrays.files if k.startswith(("resize_", "pixels_"))}


@pytest.mark.parametrize(
    ("given", "wanted", "rule"),
    [
        ("resize_wh", "resize_800_1333_hw", (800, 1333)),
        ("resize_wh", "resize_600_1000_hw", (600, 1000)),
        ("resize_short_wh", "resize_short_hw", (800, None)),
    ],
)
def test_sizes_are_the_references(
    golden: Golden, given: str, wanted: str, rule: tuple[int, int | None]
) -> None:
    sizes = [resized(width, height, *rule)[::-1] for width, height in golden[given].tolist()]
    assert sizes == [tuple(size) for size in golden[wanted].tolist()]


def test_pixels_are_the_references(golden: Golden) -> None:
    picture = Image.fromarray(golden["pixels_in"][:, :, ::-1])  # BGR there
    config = replace(GlipConfig.tiny(), min_size=int(golden["pixels_min"]))
    seen = prepare(picture, config)
    assert (seen.size, seen.original) == ((43, 31), (57, 41))
    np.testing.assert_allclose(seen.pixels[0], golden["pixels_padded"], rtol=0, atol=1e-6)
    inner = normalized(picture, seen.size, config)
    np.testing.assert_allclose(inner, golden["pixels_out"], rtol=0, atol=1e-6)


def test_mini_reads_rgb_between_minus_one_and_one() -> None:
    seen = prepare(Image.new("RGB", (100, 100), (255, 0, 51)), GlipConfig.mini())
    assert seen.pixels.shape == (1, 3, 256, 256)
    torch.testing.assert_close(seen.pixels[0, :, 7, 9], torch.tensor([1.0, -1.0, -0.6]))


def test_padding_is_zero_after_normalising() -> None:
    seen = prepare(Image.new("RGB", (100, 60), "red"), GlipConfig.mini())
    assert seen.size == (426, 256)
    seen = prepare(Image.new("RGB", (100, 70), "red"), GlipConfig.mini())
    assert seen.size == (365, 256)
    assert seen.pixels.shape == (1, 3, 256, 384)
    assert not seen.pixels[..., 365:].any()
    assert seen.pixels[..., :365].all()


def test_a_smaller_input_may_be_asked_for() -> None:
    seen = prepare(Image.new("RGB", (800, 400)), GlipConfig.tiny(), min_size=320, max_size=512)
    assert seen.size == (512, 256)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "CMYK", "1", "I;16"])
def test_any_mode_is_read_and_what_is_transparent_is_white(mode: str) -> None:
    picture = Image.new(mode, (64, 64))
    seen = prepare(picture, GlipConfig.mini())
    expected = 1.0 if mode in ("RGBA", "LA", "CMYK") else -1.0
    assert seen.pixels.unique().tolist() == [expected]


@pytest.mark.parametrize("size", [(1, 1), (7, 100), (20_000, 10), (10, 20_000), (8, 401)])
def test_a_picture_too_small_or_narrow_gets_a_sentence(size: tuple[int, int]) -> None:
    with pytest.raises(InputError, match=f"{size[0]:,} x {size[1]:,} pixels.*(needs|crop)"):
        prepare(Image.new("RGB", size), GlipConfig.mini())


@pytest.mark.parametrize("size", [(8, 8), (8, 400), (4000, 80)])
def test_the_last_pictures_that_are_read(size: tuple[int, int]) -> None:
    pixels = prepare(Image.new("RGB", size), GlipConfig.mini()).pixels
    assert max(pixels.shape[2:]) <= 544  # 8 x 400: the short side is rounded up from 10.24
    assert all(side % 32 == 0 for side in pixels.shape[2:])
