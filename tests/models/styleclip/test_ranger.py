"""Ranger's three ideas one by one; its numbers are in test_parity.py."""

from __future__ import annotations

import pytest
import torch

from models.styleclip.ranger import Ranger, rectification


def walk(start: torch.Tensor, gradients: list[torch.Tensor], rate: float = 0.1) -> torch.Tensor:
    parameter = start.clone()
    ranger = Ranger([parameter], lr=rate)
    for gradient in gradients:
        parameter.grad = gradient
        ranger.step()
    return parameter


def test_the_first_steps_are_plain_momentum() -> None:
    one, two = torch.tensor([4.0, -2.0]), torch.tensor([1.0, 8.0])
    mean = 0.05 * (0.95 * one + two)
    expected = -0.1 * one - 0.1 * mean / (1 - 0.95**2)
    assert torch.allclose(walk(torch.zeros(2), [one, two]), expected)


@pytest.mark.parametrize(("step", "rectified"), [(1, False), (5, False), (6, True), (10**6, True)])
def test_the_variance_is_trusted_from_the_sixth_step_on(step: int, rectified: bool) -> None:
    assert (rectification(step, 0.999) is not None) == rectified


def test_after_very_many_steps_nothing_is_left_to_rectify() -> None:
    assert rectification(10**6, 0.999) == pytest.approx(1.0)


def test_rows_of_matrices_lose_their_mean_and_vectors_do_not() -> None:
    gradient = torch.tensor([[1.0, 3.0], [5.0, 5.0]])
    assert torch.allclose(
        walk(torch.zeros(2, 2), [gradient]), -0.1 * torch.tensor([[-1.0, 1.0], [0.0, 0.0]])
    )
    assert torch.allclose(walk(torch.zeros(2), [gradient[1]]), torch.full((2,), -0.5))


def test_the_sixth_step_goes_half_way_back() -> None:
    gradients = [torch.tensor([1.0])] * 6
    start = torch.tensor([3.0])
    parameter = start.clone()
    ranger = Ranger([parameter], lr=0.1)
    for gradient in gradients[:5]:
        parameter.grad = gradient
        ranger.step()
    five = parameter.clone()
    parameter.grad = gradients[5]
    ranger.step()
    # With a constant gradient of 1 the mean, corrected, is 1, and so is the root of the square.
    factor = rectification(6, 0.999) or 0.0
    square = 1 - 0.999**6
    fast = five - 0.1 * factor / (square**0.5 + 1e-5)
    assert torch.allclose(parameter, (start + fast) / 2)


def test_what_has_no_gradient_stays() -> None:
    moving, still = torch.ones(2), torch.ones(2)
    moving.grad = torch.ones(2)
    Ranger([moving, still]).step()
    assert torch.equal(still, torch.ones(2))
    assert not torch.equal(moving, torch.ones(2))
