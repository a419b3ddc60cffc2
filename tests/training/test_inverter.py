"""The inverter's training on a tiny generator: known codes, both stages, and going on."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from models.stylegan.e4e import E4eConfig, load_e4e
from models.stylegan.generator import Generator, GeneratorConfig
from training.inverter import MAPPED_ROWS, InverterTraining, Trainer
from training.stylegan import draw_pairs
from training.world import avatars

pytestmark = pytest.mark.usefixtures("one_thread")
PLAN = replace(InverterTraining.smoke(), code_steps=2, picture_steps=2)


def trainer(folder: Path, plan: InverterTraining = PLAN) -> Trainer:
    torch.manual_seed(0)
    config = replace(GeneratorConfig.tiny(), noise_size=avatars.LATENT_SIZE)
    generator = Generator(config).requires_grad_(False)
    generator.mean_latent.copy_(generator.measure_mean_latent())
    return Trainer(plan, generator, E4eConfig.tiny(), torch.device("cpu"), folder)


def test_avatars_are_drawn_from_latents_as_the_generator_sees_them() -> None:
    pairs = draw_pairs(3, seed=4, size=32)
    z, pictures = pairs.z, pairs.pictures
    assert z.norm(dim=1).tolist() == pytest.approx([avatars.LATENT_SIZE**0.5] * 3, rel=1e-5)
    drawn = avatars.draw_batch(avatars.latent_to_attributes(z.numpy()), 32)
    assert torch.equal(
        ((pictures + 1) * 127.5).round().to(torch.uint8),
        torch.from_numpy(drawn).permute(0, 3, 1, 2),
    )
    assert not torch.equal(draw_pairs(3, seed=5, size=32).z, z)


def test_every_picture_of_a_batch_comes_with_its_code(tmp_path: Path) -> None:
    plan = replace(PLAN, drawn=2, made=2, mixed=6)
    here = trainer(tmp_path, plan)
    pairs = draw_pairs(2, seed=4, size=32)
    z, drawn = pairs.z, pairs.pictures
    pictures, codes = here.batch(7, pairs)
    assert torch.equal(pictures[:2], drawn)
    assert torch.equal(codes[:2], here.generator.broadcast(here.generator.mapping(z)))
    again = here.generator(codes[2:]).clamp(-1, 1)
    assert (again - pictures[2:]).abs().mean() < 0.02  # bfloat16
    changes = (codes[:, 1:] != codes[:, :-1]).any(dim=2).sum(dim=1)
    assert changes.tolist() == [0] * 4 + [1] * 6  # rows disagree in the mixed ones, once
    assert not (codes[4:, 1:MAPPED_ROWS] != codes[4:, : MAPPED_ROWS - 1]).any()


def test_both_stages_learn_and_a_run_continues(tmp_path: Path) -> None:
    first = trainer(tmp_path)
    frozen = {key: value.clone() for key, value in first.generator.state_dict().items()}
    told = [first.learn(first._draw(first.step)) for _ in range(3)]
    assert [sorted(step) for step in told] == [["codes"]] * 2 + [["codes", "features", "pixels"]]
    reached = first.save()
    assert all(
        torch.equal(value, frozen[key]) for key, value in first.generator.state_dict().items()
    )

    second = trainer(tmp_path)
    assert second.resume()
    assert second.step == 3
    assert second.unseen_psnr() == pytest.approx(reached, abs=1e-4)
    expected = first.learn(first._draw(first.step))
    assert second.learn(second._draw(second.step)) == pytest.approx(expected, rel=1e-3)

    plan = json.loads((tmp_path / "plan.json").read_text())
    assert plan["psnr"] == pytest.approx(reached)
    loaded = load_e4e(tmp_path / "model.safetensors", E4eConfig.tiny())
    assert loaded(first.unseen[:1]).shape == (1, 8, 16)


def test_the_codes_loss_falls(tmp_path: Path) -> None:
    here = trainer(tmp_path, replace(PLAN, drawn=4, made=2, mixed=0, code_steps=60, rate=1e-2))
    drawn = draw_pairs(4, seed=4, size=32)
    losses = []
    for _ in range(40):
        here.step = min(here.step, 58)
        losses.append(here.learn(drawn)["codes"])
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])


def test_nothing_to_continue(tmp_path: Path) -> None:
    assert not trainer(tmp_path).resume()
