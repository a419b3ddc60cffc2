"""One picture of a frozen generator takes a shorter way, to the same picture and gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from models.stylegan import Generator, GeneratorConfig

SHAPE = {"channels": (12, 8, 8, 4), "latent_size": 16, "noise_size": 16, "mapping_layers": 2}


def generator(clamp: float | None = None, precision: torch.dtype = torch.float64) -> Generator:
    torch.manual_seed(0)
    made = Generator(GeneratorConfig(**SHAPE, clamp=clamp))  # type: ignore[arg-type]
    with torch.no_grad():
        for layer in made.layers:
            layer.bias.normal_(0, 0.3)  # type: ignore[operator, union-attr]
            if hasattr(layer, "noise_strength"):
                layer.noise_strength.fill_(0.3)  # type: ignore[operator, union-attr]
    return made.to(precision)


def picture_and_gradients(
    made: Generator, styles: list[Tensor], noise: list[Tensor] | None, frozen: bool
) -> list[Tensor]:
    """The picture, and the gradients of all styles."""
    made.requires_grad_(not frozen)
    leaves = [style.detach().clone().requires_grad_() for style in styles]
    image = made.synthesize(leaves, noise)
    probe = torch.randn(image.shape, generator=torch.Generator().manual_seed(3)).to(image)
    return [image, *torch.autograd.grad((image * probe).sum() + image.square().sum(), leaves)]


@pytest.mark.parametrize("noise", [None, []], ids=["fixed noise", "no noise"])
@pytest.mark.parametrize("clamp", [None, 1.0], ids=["unbounded", "clamped"])
@pytest.mark.parametrize("zero", [False, True], ids=["", "with styles of zero"])
def test_the_short_way_leads_to_the_same(
    noise: list[Tensor] | None, clamp: float | None, zero: bool
) -> None:
    made = generator(clamp)
    styles = [s.detach() for s in made.styles(torch.randn(1, made.rows, 16, dtype=torch.float64))]
    if zero:
        for style in styles:
            style[:, :2] = 0
    short = picture_and_gradients(made, styles, noise, frozen=True)
    long = picture_and_gradients(made, styles, noise, frozen=False)
    for one, other in zip(short, long):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


def test_a_batch_is_drawn_as_its_pictures_are() -> None:
    made = generator().requires_grad_(False)
    styles = made.styles(torch.randn(3, made.rows, 16, dtype=torch.float64))
    alone = [made.synthesize([style[i : i + 1] for style in styles]) for i in range(3)]
    torch.testing.assert_close(torch.cat(alone), made.synthesize(styles))


def test_bfloat16_keeps_the_direction_of_the_gradient() -> None:
    made = generator(precision=torch.float32)
    styles = [s.detach() for s in made.styles(torch.randn(1, made.rows, 16))]
    exact = picture_and_gradients(made, styles, None, frozen=True)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = picture_and_gradients(made, styles, None, frozen=True)
    one, other = (torch.cat([g.flatten() for g in grads[1:]]) for grads in (exact, rounded))
    assert torch.cosine_similarity(one, other, dim=0) > 0.99


def test_noise_that_is_optimised_gets_its_gradient() -> None:
    made = generator().requires_grad_(False)
    styles = made.styles(torch.randn(1, made.rows, 16, dtype=torch.float64))
    noise = [plane.clone().requires_grad_() for plane in made.fixed_noise()]
    gradients = torch.autograd.grad(made.synthesize(styles, noise).square().sum(), noise)
    assert all(bool(gradient.abs().max() > 0) for gradient in gradients)
