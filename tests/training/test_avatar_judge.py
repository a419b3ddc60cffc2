"""The judge of edits: what counts as visible, how changes are measured, training and reading."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("skia", reason="drawing avatars needs skia: apt-get install libgl1 libegl1")

from training import avatar_judge
from training.avatar_judge import COLUMN, HUES, AvatarJudge, JudgeConfig, JudgeTraining
from training.world import avatars

TINY = JudgeConfig.tiny()
PLAN = JudgeTraining(steps=6, batch=8, pool=64)


def look(**values: float) -> np.ndarray:
    """(1, A) an avatar in the middle of every scale, bare of everything worn, but for `values`."""
    bare = {"glasses": 0, "glasses_tint": 0, "hat": 0, "beard": 0, "hair_dye": 0}
    row = np.full((1, len(avatars.NAMES)), 0.5)
    for name, value in {**bare, "eye_open": 0.8, **values}.items():
        row[0, COLUMN[name]] = value
    return row


def test_what_anybody_would_agree_on_is_visible() -> None:
    looks = avatars.sample(3000, 5)
    seen = avatar_judge.visible(looks)
    for row, shown in zip(looks, seen, strict=True):
        hidden = [name for name in avatars.truth(row) if not shown[COLUMN[name]]]
        assert not hidden, hidden
    assert 0.75 < seen.mean() < 0.95


@pytest.mark.parametrize(
    ("values", "hidden", "shown"),
    [
        ({}, "glasses_shape", "glasses"),
        ({"glasses": 1}, "hat_hue", "glasses_shape"),
        ({"glasses": 1, "glasses_tint": 1}, "gaze_x", "glasses_tint"),
        ({"eye_open": 0.1}, "eye_colour", "eye_open"),
        ({"hat": 1}, "fringe", "hat_hue"),
        ({"hat": 1, "hair_length": 0.3}, "hair_colour", "hat_brim"),
        ({"hair_length": 0.0}, "hair_curl", "hair_length"),
        ({"hair_dye": 1}, "hair_colour", "dye_hue"),
        ({"beard": 1}, "jaw", "beard"),
    ],
)
def test_what_is_covered_or_absent_is_not_visible(
    values: dict[str, float], hidden: str, shown: str
) -> None:
    seen = avatar_judge.visible(look(**values))[0]
    assert not seen[COLUMN[hidden]]
    assert seen[COLUMN[shown]]


def test_the_visible_can_be_seen_and_the_hidden_cannot() -> None:
    """Independent of the rules: a visible attribute changes pixels, these hidden ones do not."""
    for name, values in (("glasses_shape", {"glasses": 0.0}), ("hat_hue", {"hat": 0.0})):
        plain = avatars.draw(look(**values, **{name: 0.1})[0])
        assert np.array_equal(plain, avatars.draw(look(**values, **{name: 0.9})[0]))
        worn = {next(iter(values)): 1.0}
        there = avatars.draw(look(**worn, **{name: 0.1})[0])
        assert not np.array_equal(there, avatars.draw(look(**worn, **{name: 0.9})[0]))


def test_targets_come_back_and_close_hues_have_close_targets() -> None:
    looks = avatars.sample(500, 6)
    targets = avatar_judge.to_targets(looks)
    assert targets.shape == (500, len(avatars.NAMES) + len(HUES))
    assert np.allclose(avatar_judge.from_targets(targets), looks, atol=1e-5)
    red, pink, teal = (
        avatar_judge.to_targets(look(background_hue=hue))[0] for hue in (0.0, 1.0, 0.55)
    )
    assert (red - pink).norm() < (red - teal).norm() / 2, "a colour wheel, not a line"


@pytest.mark.parametrize(("turn", "hue"), [(0.0, 0.0), (0.4375, 0.5), (0.9, 1.0), (0.98, 0.0)])
def test_a_direction_no_hue_has_is_read_as_the_nearer_end(turn: float, hue: float) -> None:
    targets = avatar_judge.to_targets(look())
    targets[0, COLUMN["hat_hue"]] = math.cos(2 * math.pi * turn)
    targets[0, len(COLUMN) + HUES.index("hat_hue")] = math.sin(2 * math.pi * turn)
    assert avatar_judge.from_targets(targets)[0, COLUMN["hat_hue"]] == pytest.approx(hue, abs=1e-6)


def test_differences_are_in_standard_deviations_and_leave_out_the_invisible() -> None:
    before = look(smile=0.2, background_hue=0.05, glasses_shape=0.1)
    after = look(smile=0.6, background_hue=0.95, glasses_shape=0.9)
    moved = avatar_judge.differences(before, after)[0]
    assert moved[COLUMN["smile"]] == pytest.approx(0.4 * math.sqrt(12), rel=0.02), "uniform's sd"
    around = 8 / 7 - 0.9  # red to pink, over the wheel's eighth step
    assert moved[COLUMN["background_hue"]] == pytest.approx(around * math.sqrt(12), rel=0.02)
    assert math.isnan(moved[COLUMN["glasses_shape"]]), "no glasses, no shape"
    assert moved[COLUMN["jaw"]] == 0


def test_the_loss_is_the_mean_square_over_what_is_visible() -> None:
    found, targets = torch.tensor([[1.0, 5.0], [2.0, 0.0]]), torch.zeros(2, 2)
    seen = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    assert avatar_judge.judge_loss(found, targets, seen) == pytest.approx((1 + 4 + 0) / 3)


@pytest.mark.parametrize(
    ("step", "factor"), [(0, 0.01), (9, 0.1), (99, 1.0), (549, 0.505), (999, 0.01)]
)
def test_learning_rate_warms_up_and_follows_a_cosine(step: int, factor: float) -> None:
    plan = JudgeTraining(steps=1000, rate=2.0)
    assert avatar_judge.learning_rate(step, plan) == pytest.approx(2 * factor, abs=0.005)


def test_softened_pictures_differ_little_and_not_at_all_without_strength() -> None:
    pictures = avatar_judge.as_tensor(avatars.draw_batch(avatars.sample(16, 7), 64))
    soft = avatar_judge.softened(pictures, 64, torch.Generator().manual_seed(0))
    assert 0.002 < float((soft - pictures).abs().mean()) < 0.08
    assert soft.min() >= 0
    assert soft.max() <= 1
    plain = avatar_judge.softened(pictures, 64, torch.Generator(), strength=0)
    assert torch.equal(plain, pictures)


@pytest.fixture
def in_tmp(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setattr(avatar_judge, "CACHE", tmp_path / "cache")
    return tmp_path


def test_a_resumed_run_is_the_run_that_was_not_interrupted(in_tmp: Path) -> None:
    straight = avatar_judge.Run(PLAN, TINY, in_tmp / "straight")
    list(straight.train())
    first = avatar_judge.Run(PLAN, TINY, in_tmp / "broken")
    first.judge.train()
    for _ in range(3):
        first.learn()
    first.save()
    second = avatar_judge.Run(PLAN, TINY, in_tmp / "broken")
    second.resume()
    assert second.step == 3
    list(second.train())
    for key, value in straight.judge.state_dict().items():
        assert torch.allclose(value.float(), second.judge.state_dict()[key].float(), atol=1e-6), key


def test_training_learns_to_read(in_tmp: Path) -> None:
    plan = replace(PLAN, steps=120, batch=32, soften=0.0, average=0.9)
    run = avatar_judge.Run(plan, TINY, in_tmp / "run")
    ((step, loss),) = list(run.train())[-1:]
    assert loss < 0.9, "1 is what guessing the mean costs"
    assert step == 100


def test_saved_weights_read_like_the_judge_that_was_saved(tmp_path: Path) -> None:
    torch.manual_seed(0)
    judge = AvatarJudge(TINY).eval()
    avatar_judge.save_judge(judge, tmp_path)
    pictures = torch.rand(3, 3, 128, 128)
    again = avatar_judge.load_judge(tmp_path)
    assert again.config == TINY
    assert np.allclose(again.read(pictures), judge.read(pictures), atol=0.02), "half precision"


def test_measuring_a_perfect_and_a_blind_reader() -> None:
    looks = avatars.sample(1500, 8)
    for reading in avatar_judge.measure(looks, looks):
        assert reading.correlation == pytest.approx(1)
        assert reading.error == pytest.approx(0, abs=1e-6)
        assert math.isnan(reading.sides) or reading.sides == 1
    shuffled = looks[np.random.default_rng(0).permutation(len(looks))]
    blind = list(avatar_judge.measure(shuffled, looks))
    assert np.mean([abs(r.correlation) for r in blind]) < 0.1
    assert np.nanmean([r.sides for r in blind]) == pytest.approx(0.5, abs=0.05)


def test_the_embedded_judge_reads_avatars_it_never_saw() -> None:
    judge = avatar_judge.load_judge()
    looks = avatars.sample(300, avatar_judge.HELD_OUT_SEED + 1)
    pictures = avatar_judge.as_tensor(avatars.draw_batch(looks, 128))
    found = {r.name: r for r in avatar_judge.measure(judge.read(pictures), looks)}
    for name in ("glasses", "hat", "beard", "smile", "hair_length", "skin_tone", "mouth_open"):
        assert found[name].sides > 0.95, found[name]
    weights = avatar_judge.DIRECTORY / "model.safetensors"
    assert weights.stat().st_size < 1_200_000
