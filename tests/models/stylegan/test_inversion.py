"""Inversion: what comes back is the picture, by encoder, by optimisation and by both."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from models.errors import InputError
from models.jobs import Step, run_to_end
from models.stylegan.e4e import E4e, E4eConfig
from models.stylegan.generator import Generator, GeneratorConfig, to_pictures
from models.stylegan.inversion import InversionSettings, invert, latent_spread, picture_tensor, psnr
from models.stylegan.latent import Latent

pytestmark = pytest.mark.usefixtures("one_thread")
QUICK = InversionSettings(steps=12, preview_every=4)


@lru_cache(maxsize=1)
def generator() -> Generator:
    torch.manual_seed(1)
    made = Generator(GeneratorConfig.tiny()).requires_grad_(False)
    made.mean_latent.copy_(made.measure_mean_latent())
    # Random weights leave the range of pictures; halved colours keep most pixels inside.
    for layer, slot in zip(made.layers, made.layout):
        if slot.is_rgb:
            layer.weight.mul_(0.3)
    return made


@lru_cache(maxsize=1)
def picture() -> Image.Image:
    made = generator()
    return to_pictures(made.synthesize(Latent.from_seed(made, 3).styles(made)))[0]


class Knows:
    """An encoder that answers with one code, so that the rest can be told apart from it."""

    def __init__(self, w_plus: Tensor) -> None:
        self.w_plus, self.seen = w_plus, torch.empty(0)

    def __call__(self, image: Tensor) -> Tensor:
        self.seen = image
        return self.w_plus[None]


def drive(*arguments: Any, **named: Any) -> tuple[list[Step], Latent]:
    job, steps = invert(*arguments, **named), []
    while True:
        try:
            steps.append(next(job))
        except StopIteration as end:
            return steps, end.value


def rendered(latent: Latent) -> Tensor:
    return generator().synthesize(latent.styles(generator()))


class TestByEncoder:
    def test_the_code_is_returned_as_it_is(self) -> None:
        code = Latent.from_seed(generator(), 8).w_plus
        encoder = Knows(code)
        steps, latent = drive(generator(), encoder, picture(), replace(QUICK, steps=0))
        assert torch.equal(latent.w_plus, code)
        assert encoder.seen.shape == (1, 3, 32, 32)
        assert (float(encoder.seen.min()), float(encoder.seen.max())) <= (1.0, 1.0)
        assert len(steps) == 1
        assert steps[0].fraction == 1.0

    def test_the_reported_psnr_is_that_of_the_latent(self) -> None:
        code = Latent.from_seed(generator(), 8).w_plus
        steps, latent = drive(generator(), Knows(code), picture(), replace(QUICK, steps=0))
        pixels = np.asarray(to_pictures(rendered(latent))[0], float)
        error = np.square(pixels - np.asarray(picture(), float)).mean()
        expected = 10 * np.log10(255**2 / error)
        assert steps[-1].metrics["psnr"] == pytest.approx(expected, abs=0.05)
        assert np.array_equal(pixels, np.asarray(steps[-1].preview, float))

    def test_the_real_encoder_fits(self) -> None:
        encoder = E4e(E4eConfig.tiny()).eval()
        latent = run_to_end(invert(generator(), encoder, picture(), replace(QUICK, steps=0)))
        latent.check(generator())

    def test_an_encoder_of_another_generator_is_refused(self) -> None:
        with pytest.raises(InputError, match="choose the generator"):
            next(invert(generator(), Knows(torch.zeros(18, 512)), picture()))

    def test_neither_encoder_nor_steps(self) -> None:
        with pytest.raises(InputError, match="at least one step"):
            next(invert(generator(), None, picture(), replace(QUICK, steps=0)))


class TestByOptimisation:
    def test_it_comes_close_from_the_mean_latent(self) -> None:
        steps, latent = drive(generator(), None, picture(), InversionSettings(steps=60))
        first, last = steps[0].metrics["psnr"], steps[-1].metrics["psnr"]
        assert last >= first + 6
        assert psnr(rendered(latent), picture_tensor(picture(), 32)) == pytest.approx(last, abs=0.3)

    def test_it_starts_from_the_encoders_code(self) -> None:
        near = Latent.from_seed(generator(), 3).towards(Latent.from_seed(generator(), 5), 0.2)
        steps, _ = drive(generator(), Knows(near.w_plus), picture(), QUICK)
        again = psnr(rendered(near), picture_tensor(picture(), 32))
        assert steps[0].metrics["psnr"] == pytest.approx(again, abs=1e-3)
        assert steps[-1].metrics["psnr"] > again

    def test_a_perfect_code_is_never_made_worse(self) -> None:
        perfect = Latent.from_seed(generator(), 3)
        settings = replace(QUICK, regularity=0.0)
        _, latent = drive(generator(), Knows(perfect.w_plus), picture(), settings)
        target = picture_tensor(picture(), 32)
        assert float((rendered(latent) - target).square().mean()) <= float(
            (rendered(perfect) - target).square().mean()
        )

    def test_more_regularity_stays_nearer_to_the_mean(self) -> None:
        away = []
        for weight in (0.0, 1.0):
            _, latent = drive(generator(), None, picture(), replace(QUICK, regularity=weight))
            move = (latent.w_plus - generator().mean_latent) / latent_spread(generator())
            away.append(float(move.square().mean()))
        assert away[1] < 0.7 * away[0]

    def test_features_pull_as_pixels_do(self) -> None:
        """With no weight on pixels, only the features' distance falls."""

        def features(image: Tensor) -> list[Tensor]:
            return [F.avg_pool2d(image, 4), F.avg_pool2d(image, 8) ** 2]

        settings = replace(QUICK, pixels=0.0, features=1.0, regularity=0.0)
        steps, _ = drive(generator(), None, picture(), settings, features)
        assert steps[-1].metrics["loss"] < 0.7 * steps[0].metrics["loss"]
        still, _ = drive(generator(), None, picture(), settings)  # nothing to pull at all
        assert {step.metrics["loss"] for step in still} == {0.0}

    def test_previews_and_fractions(self) -> None:
        steps, _ = drive(generator(), None, picture(), QUICK)
        assert [step.fraction for step in steps] == [n / 12 for n in range(13)]
        shown = [n for n, step in enumerate(steps) if step.preview is not None]
        assert shown == [0, 4, 8, 12]
        assert all(set(step.metrics) == {"psnr", "loss"} for step in steps)

    def test_parameters_gather_no_gradients(self) -> None:
        torch.manual_seed(2)
        free = Generator(GeneratorConfig.tiny())
        run_to_end(invert(free, None, picture(), replace(QUICK, steps=2)))
        assert all(parameter.grad is None for parameter in free.parameters())

    def test_a_generator_of_no_numbers_is_told(self) -> None:
        torch.manual_seed(2)
        broken = Generator(GeneratorConfig.tiny()).requires_grad_(False)
        broken.constant.fill_(float("nan"))
        with pytest.raises(InputError, match="no longer made of numbers"):
            run_to_end(invert(broken, None, picture(), QUICK))


class TestPictures:
    def test_a_wide_picture_loses_its_ends(self) -> None:
        wide = Image.new("RGB", (96, 32), "black")
        wide.paste("white", (32, 0, 64, 32))
        assert picture_tensor(wide, 16).unique().tolist() == [1.0]

    def test_transparency_lies_on_white(self) -> None:
        assert picture_tensor(Image.new("RGBA", (8, 8), (0, 0, 0, 0)), 8).unique().tolist() == [1.0]

    def test_a_large_generator_is_compared_at_256_px(self) -> None:
        config = GeneratorConfig((4,) * 8, latent_size=4, noise_size=4, mapping_layers=1)
        large, looks = Generator(config), []

        def features(image: Tensor) -> list[Tensor]:
            looks.append(image.shape[-1])
            return [image]

        steps, _ = drive(
            large, None, Image.new("RGB", (512, 512)), replace(QUICK, steps=1), features
        )
        assert large.size == 512
        assert set(looks) == {256}
        assert steps[-1].preview.size == (256, 256)


@pytest.mark.parametrize(
    "change",
    [
        {"steps": -1}, {"steps": 1001}, {"rate": 0.0}, {"rate": float("nan")}, {"pixels": -1.0},
        {"features": float("inf")}, {"regularity": float("nan")}, {"preview_every": 0},
    ],
    ids=str,
)  # fmt: skip
def test_settings_out_of_range_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        InversionSettings(**change)
