"""Weights at a byte each: what comes back, and how far off it may be."""

import pytest
import torch
from safetensors.torch import save_file

from models.errors import WeightsError
from models.quantisation import INTEGERS, SCALE, narrowed, widened
from models.weights import read_safetensors


@pytest.fixture
def weights() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    rows = torch.tensor([1e-4, 0.3, 40.0])[:, None, None, None]
    return {
        "kernel": rows * torch.randn(3, 5, 3, 3, generator=generator),
        "matrix": torch.randn(4, 6, generator=generator).half(),
        "norm": torch.randn(7, generator=generator),
        "steps": torch.tensor(12),
    }


def test_every_weight_comes_back_within_half_a_step_of_its_row(weights) -> None:
    back = widened(narrowed(weights))
    assert back.keys() == weights.keys()
    for name in ("kernel", "matrix"):
        rows = weights[name].float().flatten(1)
        step = rows.abs().amax(1, keepdim=True) / 127
        off = (back[name].flatten(1) - rows).abs()
        assert bool((off <= 0.51 * step + 1e-7).all())
        assert back[name].shape == weights[name].shape


def test_vectors_and_counters_are_stored_as_they_are(weights) -> None:
    stored = narrowed(weights)
    assert stored["norm"] is weights["norm"]
    assert stored["steps"] is weights["steps"]


def test_kernels_take_a_byte_a_weight(weights) -> None:
    stored = narrowed(weights)
    assert stored["kernel" + INTEGERS].dtype == torch.int8
    assert stored["kernel" + SCALE].shape == (3,)
    assert "kernel" not in stored


def test_a_row_of_zeros_stays_zeros() -> None:
    assert bool((widened(narrowed({"w": torch.zeros(2, 3)}))["w"] == 0).all())


def test_plain_files_pass_through(weights) -> None:
    assert all(widened(weights)[name] is tensor for name, tensor in weights.items())


@pytest.mark.parametrize("scale", [None, torch.ones(2), torch.ones(3, 1)])
def test_integers_without_a_scale_of_each_row_are_refused(weights, scale, tmp_path) -> None:
    stored = narrowed(weights)
    del stored["kernel" + SCALE]
    if scale is not None:
        stored["kernel" + SCALE] = scale
    with pytest.raises(ValueError, match="kernel"):
        widened(stored)
    save_file(stored, tmp_path / "a.safetensors")
    with pytest.raises(WeightsError, match=r"is damaged.*kernel"):
        read_safetensors(tmp_path / "a.safetensors")


def test_a_scale_without_integers_is_a_tensor_like_any_other() -> None:
    stray = {"w" + SCALE: torch.ones(3)}
    assert widened(stray).keys() == stray.keys()


def test_files_are_read_as_what_they_stand_for(weights, tmp_path) -> None:
    save_file(narrowed(weights), tmp_path / "a.safetensors")
    found = read_safetensors(tmp_path / "a.safetensors")
    assert all(
        torch.equal(found[name], tensor) for name, tensor in widened(narrowed(weights)).items()
    )
