"""The e4e encoder: its shape, its files, and that it is small where it must be."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from models.errors import WeightsError
from models.stylegan.e4e import E4e, E4eConfig, load_e4e, save_e4e
from models.stylegan.generator import GeneratorConfig, style_layout

pytestmark = pytest.mark.usefixtures("one_thread")
TINY = E4eConfig.tiny()


def encoder(seed: int = 0, config: E4eConfig = TINY) -> E4e:
    torch.manual_seed(seed)
    made = E4e(config).eval()
    made.latent_avg.normal_()
    return made


def published(made: E4e) -> dict[str, Any]:
    """What e4e's training saves: the encoder beside the generator, and its options."""
    state = made.state_dict()
    average = state.pop("latent_avg")
    inside = {f"encoder.{key}": value for key, value in state.items()}
    return {
        "state_dict": {**inside, "decoder.style.1.weight": torch.zeros(4, 4)},
        "latent_avg": average,
        "opts": argparse.Namespace(stylegan_size=32),
    }


@pytest.mark.parametrize(
    ("config", "generator"),
    [
        (E4eConfig.official(), GeneratorConfig.ffhq()),
        (E4eConfig.official(14), GeneratorConfig.ffhq(256)),
        (E4eConfig.mini(), GeneratorConfig.mini()),
        (E4eConfig.tiny(), GeneratorConfig.tiny()),
    ],
    ids=["1024 px", "256 px", "mini", "tiny"],
)
def test_presets_fit_their_generators(config: E4eConfig, generator: GeneratorConfig) -> None:
    assert config.rows == max(slot.row for slot in style_layout(generator)) + 1
    assert config.latent_size == generator.latent_size


def test_the_official_shape_is_the_papers() -> None:
    config = E4eConfig.official()
    assert config.sides() == (16, 32, 64)
    assert [config.level(row) for row in range(18)] == [0] * 3 + [1] * 4 + [2] * 11


def test_mini_is_small_and_its_file_smaller(tmp_path: Path) -> None:
    mini = encoder(config=E4eConfig.mini())
    assert sum(parameter.numel() for parameter in mini.parameters()) <= 2_500_000
    save_e4e(mini, tmp_path / "model.safetensors")
    assert (tmp_path / "model.safetensors").stat().st_size < 5_000_000


def test_rows_are_w0_plus_deltas_plus_the_mean() -> None:
    made, image = encoder(), torch.rand(2, 3, 32, 32) * 2 - 1
    levels = made.pyramid(image)
    assert [tuple(level.shape) for level in levels] == [(2, 16, s, s) for s in (4, 8, 16)]
    w0 = made.styles[0](levels[0])
    deltas = [head(levels[TINY.level(row)]) for row, head in enumerate(made.styles)]
    expected = torch.stack([w0] + [w0 + delta for delta in deltas[1:]], dim=1) + made.latent_avg
    assert torch.equal(made(image), expected)


@pytest.mark.parametrize("side", [20, 32, 64])
def test_pictures_of_any_size_are_scaled(side: int) -> None:
    made = encoder()
    flat = torch.full((1, 3, side, side), 0.3)
    assert torch.allclose(made(flat), made(torch.full((1, 3, 32, 32), 0.3)), atol=1e-5)


def test_gradients_reach_the_picture() -> None:
    image = torch.zeros(1, 3, 32, 32, requires_grad=True)
    encoder()(image).square().sum().backward()
    assert image.grad is not None
    assert float(image.grad.abs().sum()) > 0


@pytest.mark.parametrize(
    "change", [{"width": 17}, {"rows": 0}, {"stages": ((16, 1), (16, 1))}], ids=str
)
def test_impossible_shapes_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="three stages"):
        replace(TINY, **change)


class TestFiles:
    def test_a_published_checkpoint_loads_without_its_generator(self, tmp_path: Path) -> None:
        made, path = encoder(), tmp_path / "e4e_tiny.pt"
        torch.save(published(made), path)
        found, image = load_e4e(path, TINY), torch.rand(1, 3, 32, 32)
        assert torch.equal(found(image), made(image))
        assert not any(parameter.requires_grad for parameter in found.parameters())

    def test_ours_is_half_precision_with_exact_means(self, tmp_path: Path) -> None:
        made, path = encoder(), tmp_path / "model.safetensors"
        save_e4e(made, path)
        found, image = load_e4e(path, TINY), torch.rand(1, 3, 32, 32)
        assert torch.equal(found.latent_avg, made.latent_avg)
        assert torch.equal(found.body[0].res_layer[0].running_var, made.body[0].res_layer[0].running_var)  # fmt: skip
        assert found(image) == pytest.approx(made(image).detach().numpy(), abs=0.02)
        assert next(found.parameters()).dtype == torch.float32

    def test_weights_beyond_half_precision_are_not_saved(self, tmp_path: Path) -> None:
        made = encoder()
        torch.nn.init.constant_(made.styles[0].linear.weight, 1e6)
        with pytest.raises(WeightsError, match="too large for half precision"):
            save_e4e(made, tmp_path / "model.safetensors")
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize(
        "change",
        [
            lambda content: {**content, "latent_avg": content["latent_avg"][:6]},
            lambda content: {**content, "latent_avg": None},
            lambda content: {**content, "state_dict": {}},
            lambda content: {"g_ema": content["state_dict"]},
            lambda content: torch.zeros(3),
        ],
        ids=["fewer rows", "no mean", "no encoder", "a generator", "a tensor"],
    )
    def test_other_checkpoints_are_refused(self, change: Any, tmp_path: Path) -> None:
        path = tmp_path / "other.pt"
        torch.save(change(published(encoder())), path)
        with pytest.raises(WeightsError, match=r"^other\.pt"):
            load_e4e(path, TINY)

    def test_the_tiny_file_is_not_taken_for_the_official_one(self, tmp_path: Path) -> None:
        torch.save(published(encoder()), tmp_path / "e4e.pt")
        with pytest.raises(WeightsError, match="in this size"):
            load_e4e(tmp_path / "e4e.pt")

    def test_a_file_that_would_run_code_is_refused(self, tmp_path: Path) -> None:
        class Hostile:
            def __reduce__(self) -> tuple[Any, ...]:
                return (Path.touch, (tmp_path / "ran",))

        path = tmp_path / "hostile.pt"
        torch.save({"state_dict": {}, "latent_avg": Hostile()}, path)
        with pytest.raises(WeightsError, match=r"^hostile\.pt"):
            load_e4e(path, TINY)
        assert not (tmp_path / "ran").exists()
