"""The generator of `stylegan2-pytorch` behind our interface; its numbers are in test_parity.py."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from models.errors import WeightsError
from models.stylegan.checkpoints import load_generator, read_generator, save_generator
from models.stylegan.lucidrains import LucidConfig, LucidGenerator, on_white, our_key
from tests.stylegan_support import picture

pytestmark = pytest.mark.usefixtures("one_thread")

PLAIN = LucidConfig((12, 8, 4), latent_size=16, mapping_layers=2)
CONFIGS = {
    "plain": PLAIN,
    "attention": LucidConfig((8, 6, 4), 16, 3, attention=(1, 2), heads=2, transparent=True),
    "no constant": LucidConfig((8, 6), 16, 1, mapping_rate=0.05, constant=False),
}
EVERY_CONFIG = pytest.mark.parametrize("config", CONFIGS.values(), ids=list(CONFIGS))


def lucid_generator(config: LucidConfig = PLAIN) -> LucidGenerator:
    torch.manual_seed(0)
    generator = LucidGenerator(config)
    generator.noise.uniform_()
    generator.mean_latent.copy_(generator.measure_mean_latent())
    return generator.requires_grad_(False)


def their_state(generator: LucidGenerator) -> dict[str, Tensor]:
    """The weights under the package's keys, found by asking what each of ours is called there."""
    ours, config = generator.state_dict(), generator.config
    blocks = range(len(config.channels))
    parts = ["conv1", "conv2", "to_rgb.conv", "to_style1", "to_style2", "to_rgb.to_style"]
    parts += ["to_noise1", "to_noise2"]
    attention = ["0.fn.norm", "0.fn.fn.to_q", "0.fn.fn.to_kv.net.0", "0.fn.fn.to_kv.net.1"]
    attention += ["0.fn.fn.to_out", "1.fn.norm", "1.fn.fn.0", "1.fn.fn.2"]
    names = [f"SE.net.{2 * i}" for i in range(config.mapping_layers)]
    names += [f"GE.blocks.{b}.{part}" for b in blocks for part in parts] + ["GE.initial_conv"]
    names += [f"GE.attns.{b}.{part}" for b in blocks for part in attention]
    keys = [f"{name}.{kind}" for name in names for kind in ("weight", "bias", "g", "b")]
    keys += ["GE.initial_block", "GE.to_initial_block.weight"]
    state = {key: ours[our_key(key)] for key in keys if our_key(key) in ours}
    filters = {f"GE.blocks.{b}.to_rgb.upsample.1.f": torch.tensor([1.0, 2, 1]) for b in blocks[:-1]}
    return state | filters


def write(generator: LucidGenerator, folder: Path, **options: Any) -> Path:
    path = folder / "model_1.pt"
    torch.save({"GAN": their_state(generator), "version": "1.8.9"}, path)
    told = {"image_size": generator.size, "lr_mlp": generator.config.mapping_rate, **options}
    (folder / ".config.json").write_text(json.dumps(told))
    return path


@EVERY_CONFIG
def test_checkpoints_give_back_the_generator(tmp_path: Path, config: LucidConfig) -> None:
    generator = lucid_generator(config)
    found = read_generator(write(generator, tmp_path))
    heads = config.heads if config.attention else LucidConfig.heads  # cannot be read without any
    assert found.generator.config == LucidConfig(**{**vars(config), "heads": heads})
    assert "lucidrains" in str(found)
    generator.noise.copy_(found.generator.fixed_noise()[0])
    assert torch.allclose(picture(found.generator), picture(generator), atol=1e-5)
    save_generator(found.generator, tmp_path / "x.safetensors")
    again = load_generator(tmp_path / "x.safetensors")
    assert again.config == found.generator.config
    assert torch.equal(picture(again), picture(found.generator))


@EVERY_CONFIG
def test_synthesis_starts_where_an_earlier_one_stood(config: LucidConfig) -> None:
    generator = lucid_generator(config)
    w = torch.randn(2, generator.latent_size)
    styles = generator.styles(generator.broadcast(w))
    assert [s.shape for s in styles] == [(2, slot.size) for slot in generator.layout]
    whole = generator.synthesize(styles)
    assert whole.shape == (2, 3, generator.size, generator.size)
    stages = list(generator.stages(styles))
    assert [stage.index for stage in stages] == list(range(len(generator.layout)))
    for stage in stages[:-1]:
        rest = [torch.full_like(s, torch.nan) for s in styles[: stage.index + 1]]
        continued = generator.synthesize(rest + styles[stage.index + 1 :], start=stage)
        assert torch.allclose(continued, whole, atol=1e-5)


@EVERY_CONFIG
def test_previews_noise_and_truncation(config: LucidConfig) -> None:
    generator = lucid_generator(config)
    w = torch.randn(2, generator.latent_size)
    w_plus = generator.broadcast(w)
    styles = generator.styles(w_plus)
    assert generator.synthesize(styles, size=4).shape == (2, 3, 4, 4)
    with pytest.raises(ValueError, match="no resolution of 5 pixels"):
        generator.synthesize(styles, size=5)
    random = torch.Generator().manual_seed(1)
    noises = [None, [], generator.fresh_noise(2, random)]
    pictures = [generator.synthesize(styles, noise) for noise in noises]
    assert all(not torch.equal(a, b) for a, b in pairwise(pictures))
    assert torch.equal(generator.truncate(w, 0.0), generator.mean_latent.expand(2, -1))
    cut = generator.truncate(w_plus, 0.0, cutoff=1)
    assert torch.equal(cut[:, 1:], w_plus[:, 1:])
    assert torch.equal(cut[:, 0], generator.mean_latent.expand(2, -1))


def test_without_a_constant_style_space_still_decides_the_picture() -> None:
    """Rows of W+ that give the same styles but another mean would otherwise draw differently."""
    generator = lucid_generator(CONFIGS["no constant"])
    assert generator.layout[0].size == generator.latent_size
    w_plus = torch.randn(1, generator.rows, generator.latent_size)
    styles = generator.styles(w_plus)
    assert torch.allclose(styles[0], w_plus.mean(1))
    assert torch.equal(generator.synthesize(styles), generator(w_plus))


def test_transparent_pictures_lie_on_white() -> None:
    rgba = torch.tensor([0.2, 0.4, 0.6, 0.0]).reshape(1, 4, 1, 1)
    for alpha, expected in [(0, (1, 1, 1)), (1, (0.2, 0.4, 0.6)), (0.5, (0.6, 0.7, 0.8)), (-3, (1, 1, 1))]:  # fmt: skip
        rgba[:, 3] = alpha
        assert on_white(rgba).flatten().tolist() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{", "cannot be read"),
        ("[]", "cannot be read"),
        ('{"lr_mlp": 0.1}', "cannot be read"),
        ('{"image_size": 16, "lr_mlp": "fast"}', "cannot be read"),
        ('{"image_size": 64}', "draws 16 px and the .config.json beside it says 64"),
        ("[" * 50_000, "cannot be read"),
        (" " * 200_000, "cannot be read"),
    ],
)
def test_options_that_do_not_fit_are_refused(tmp_path: Path, text: str, sentence: str) -> None:
    path = write(lucid_generator(), tmp_path)
    (tmp_path / ".config.json").write_text(text)
    with pytest.raises(WeightsError, match=sentence):
        read_generator(path)


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("GE.blocks.1.conv1.weight", None, "lacks 1 tensors"),
        ("GE.blocks.1.conv1.weight", torch.zeros(8, 12, 3, 1), "of shape"),
        ("GE.blocks.9.what.weight", torch.zeros(3), "another architecture"),
        ("GE.blocks.0.to_rgb.upsample.1.f", torch.ones(3), "another filter"),
        ("SE.net.0.bias", torch.full((16,), torch.inf), "not finite"),
    ],
)
def test_incomplete_checkpoints_are_refused(
    tmp_path: Path, key: str, value: Tensor | None, sentence: str
) -> None:
    state = their_state(lucid_generator())
    state.pop(key, None)
    if value is not None:
        state[key] = value
    torch.save({"GAN": state}, tmp_path / "x.pt")
    with pytest.raises(WeightsError, match=sentence):
        read_generator(tmp_path / "x.pt")
