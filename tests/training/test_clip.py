"""Training clip-mini: the objective, resuming, and a short run that must learn something."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from models.clip.text_head import TextHead
from models.quantisation import narrowed
from training import clip
from training.world import avatars, sprites

pytest.importorskip("skia", reason="drawing avatars needs skia: apt-get install libgl1 libegl1")

DATA = Path(__file__).parents[1] / "data"
CPU = torch.device("cpu")
PLAN = clip.ClipTraining.smoke()


@pytest.fixture(scope="module")
def world() -> clip.World:
    families = ("noto", "twemoji")
    bank = sprites.concatenate([sprites.read_sheet(DATA / f"{name}.png") for name in families])
    return clip.World(PLAN, CPU, clip.Material(bank, None))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_a_batch_asks_what_its_pictures_show(world: clip.World) -> None:
    batch = world.batch(generator(), 48)
    kinds = [PLAN.singles, PLAN.crowds, PLAN.faces]
    singles, crowds, faces = (part for part in batch.answers.split(kinds))
    assert batch.pictures.shape == (sum(kinds), 3, 48, 48)
    assert batch.pictures.min() >= 0
    assert batch.pictures.max() <= 1
    assert torch.equal(singles.sum(1), torch.ones(PLAN.singles)), "one right answer"
    assert torch.allclose(crowds.sum(1), torch.ones(PLAN.crowds)), "shared among the objects"
    assert not faces.any(), "a face is asked for its attributes, not its emoji"
    assert not batch.traits[: -PLAN.faces].any()


def test_vocabulary_loss_is_cross_entropy_over_all_names() -> None:
    image = F.normalize(torch.randn(3, 8, generator=generator()), dim=1)
    names = F.normalize(torch.randn(5, 8, generator=generator(1)), dim=1)
    answers = torch.tensor([[1.0, 0, 0, 0, 0], [0, 0.5, 0.5, 0, 0], [0, 0, 0, 0, 0]])
    smooth = answers[:2] * 0.98 + 0.02 / 5
    expected = -(smooth * (10 * image[:2] @ names.T).log_softmax(1)).sum(1).mean()
    found = clip._vocabulary_loss(image, names, answers, torch.tensor(10.0))
    assert torch.allclose(found, expected, atol=1e-5)


def test_spread_names_lie_apart(world: clip.World, tmp_path: Path) -> None:
    run = clip.Run(PLAN, CPU, tmp_path)
    names = world.words.features[world.words.start]
    clip.spread_names(run.model, names)
    for project, bound in ((run.model.text.proj, 0.05), (torch.nn.Identity(), None)):
        rows = F.normalize(project(names), dim=1)
        mean = float((rows @ rows.T).mean())
        assert mean < bound if bound else mean > 0.1


def test_a_linear_head_s_weights_begin_a_wider_one(world: clip.World, tmp_path: Path) -> None:
    run = clip.Run(PLAN, CPU, tmp_path)
    head = run.model.text.proj
    assert isinstance(head, TextHead)
    state = run.model.state_dict()
    old = {key: state[key].contiguous() for key in state if not key.startswith("text.proj.")}
    matrix = torch.randn(head.linear.weight.shape, generator=generator())
    save_file({**old, "text.proj.weight": matrix}, tmp_path / "old.safetensors")
    run.begin(world, tmp_path / "old.safetensors")
    names = world.words.features[:5]
    assert torch.allclose(head(names), names @ matrix.T, atol=1e-4)


def test_attack_stays_in_its_ball_and_raises_the_loss(world: clip.World, tmp_path: Path) -> None:
    run = clip.Run(PLAN, CPU, tmp_path)
    run.model.eval()
    batch = world.batch(generator(), 96)
    moved = clip.attacked(run.model, batch, world, 2.0, generator(1))
    length = (moved.pictures - batch.pictures).flatten(1).norm(dim=1)
    assert length.max() <= 2.0 + 1e-3
    assert length.mean() > 0.3
    before = clip.clip_loss(run.model, batch, world, generator(2))
    assert clip.clip_loss(run.model, moved, world, generator(2)) > before


def test_plain_traits_leave_out_what_cannot_be_seen() -> None:
    looks = avatars.sample(200, 5)
    traits = clip.plain_traits(looks)
    column = {name: index for index, name in enumerate(avatars.NAMES)}
    clear = traits[:, column["glasses"]] < 0
    assert clear.any()
    assert not traits[clear][:, column["glasses_shape"]].any(), "no glasses, no shape of glasses"


@pytest.mark.parametrize(
    ("step", "factor"), [(0, 1 / 10), (9, 1.0), (10, 1.0), (35, 0.505), (60, 0.01), (99, 0.01)]
)
def test_learning_rate_warms_up_and_follows_a_cosine(step: int, factor: float) -> None:
    assert clip.learning_rate(step, PLAN) == pytest.approx(factor, abs=1e-3)


def test_a_resumed_run_is_the_run_that_was_not_interrupted(
    world: clip.World, tmp_path: Path
) -> None:
    short = replace(PLAN, steps=4)
    straight = clip.Run(short, CPU, tmp_path / "straight")
    list(straight.train(world, minutes=5))
    first = clip.Run(replace(short, steps=2), CPU, tmp_path / "broken")
    first.plan = short  # the schedule is the long one; only the time was short
    for step in range(2):
        batch, generator = first._deal(world, step)
        first._learn(batch, world, generator)
    first.save()
    second = clip.Run(short, CPU, tmp_path / "broken")
    second.resume()
    assert second.step == 2
    list(second.train(world, minutes=5))
    for key, value in straight.model.state_dict().items():
        assert torch.allclose(value.float(), second.model.state_dict()[key].float(), atol=1e-5), key


def test_smoke_training_learns_and_exports_half_precision(
    world: clip.World, tmp_path: Path
) -> None:
    run = clip.Run(PLAN, CPU, tmp_path)
    run.begin(world)
    probe = [world.batch(generator(1000 + i), 48) for i in range(3)]

    def loss() -> float:
        run.model.eval()
        with torch.no_grad():
            total = sum(float(clip.clip_loss(run.model, b, world, generator(7))) for b in probe)
        run.model.train()
        return total / len(probe)

    before = loss()
    list(run.train(world, minutes=2))
    assert loss() < before - 0.5
    exported = run.folder / "model.safetensors"
    packed = tmp_path / "packed.safetensors"
    save_file(narrowed(load_file(exported)), packed)  # as `training.narrow` stores it
    assert packed.stat().st_size <= 6_000_000
    other = clip.Run(PLAN, CPU, tmp_path / "other")
    other.begin(world, exported)
    for key, value in run.averaged.module.state_dict().items():
        assert torch.allclose(value.float(), other.model.state_dict()[key].float(), atol=2e-3), key
