"""The face network: published files load strictly, everything else is refused with a sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from models.errors import WeightsError
from models.stylegan.irse50 import Irse50, Unit, load_irse50

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    """The published layout with weights that cost nothing to make."""
    with torch.device("meta"):
        wanted = Irse50().state_dict()
    return {key: torch.full(want.shape, 0.01).to(want.dtype) for key, want in wanted.items()}


class TestUnit:
    @pytest.mark.parametrize(
        ("inputs", "outputs", "stride"), [(16, 16, 1), (16, 16, 2), (16, 32, 2), (16, 32, 1)]
    )
    def test_the_side_is_divided_by_the_stride(
        self, inputs: int, outputs: int, stride: int
    ) -> None:
        unit = Unit(inputs, outputs, stride).eval()
        assert unit(torch.randn(2, inputs, 9, 8)).shape == (
            2,
            outputs,
            -(-9 // stride),
            8 // stride,
        )

    def test_without_its_residual_it_takes_every_other_pixel(self) -> None:
        unit = Unit(16, 16, 2).eval()
        torch.nn.init.zeros_(unit.res_layer[3].weight)  # then batch norm's bias 0 remains
        x = torch.randn(1, 16, 6, 6)
        assert torch.equal(unit(x), x[:, :, ::2, ::2])


def test_pictures_become_unit_vectors() -> None:
    torch.manual_seed(0)
    vectors = Irse50().eval()(torch.rand(2, 3, 112, 112) * 2 - 1)
    assert vectors.shape == (2, 512)
    assert vectors.norm(dim=1).tolist() == pytest.approx([1, 1], abs=1e-5)


@pytest.mark.parametrize("kind", ["pth", "safetensors"])
def test_a_file_loads_frozen(kind: str, state: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / f"model_ir_se50.{kind}"
    torch.save(state, path) if kind == "pth" else save_file(state, path)
    network = load_irse50(path)
    assert not network.training
    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())


def _without(key: str) -> Any:
    return lambda state: {name: value for name, value in state.items() if name != key}


@pytest.mark.parametrize(
    "change",
    [
        _without("body.3.shortcut_layer.0.weight"),
        lambda state: {**state, "surplus": torch.zeros(1)},
        lambda state: {**state, "output_layer.3.bias": torch.zeros(256)},
        lambda state: {**state, "output_layer.3.bias": "a word"},
        lambda state: ["no", "names"],
    ],
    ids=["missing", "surplus", "other shape", "no tensor", "no dict"],
)
def test_another_network_is_refused(change: Any, state: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / "other.pth"
    torch.save(change(state), path)
    with pytest.raises(WeightsError, match=r"other\.pth does not hold the weights of Irse50"):
        load_irse50(path)
