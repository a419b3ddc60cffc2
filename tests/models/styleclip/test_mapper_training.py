"""Training of a mapper on a tiny generator: its loss, what it leaves alone, what it refuses."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from models.errors import InputError
from models.jobs import run_to_end
from models.styleclip.clip_view import ClipView
from models.styleclip.mapper import VARIANTS, Mapper, apply_mapper
from models.styleclip.mapper_training import (
    HELD_OUT,
    MapperSettings,
    Training,
    rate_at,
    train_mapper,
)
from models.styleclip.prompt import EditPrompt
from models.stylegan.generator import Generator
from models.stylegan.latent import Latent
from tests.models.styleclip.edit_support import LinearClip, PixelIdentity, quiet_generator

PROMPT = EditPrompt("a face with glasses", "a face")
QUICK = MapperSettings("single", steps=24, batch=4, rate=3.0, memory=0.9, identity=0.0, l2=0.01)

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def generator() -> Generator:
    return quiet_generator()


def trained(generator: Generator, settings: MapperSettings, **more: object) -> Mapper:
    return run_to_end(train_mapper(generator, LinearClip(), PROMPT, settings, **more))


def similarity(generator: Generator, latent: Latent) -> float:
    clip = LinearClip()
    with torch.no_grad():
        image = generator.synthesize(latent.styles(generator))
    return float(clip.image_features(image)[0] @ clip.encode_text([PROMPT.target])[0])


@pytest.mark.parametrize("variant", VARIANTS)
def test_unseen_pictures_come_nearer_to_the_words(generator: Generator, variant: str) -> None:
    settings = replace(QUICK, variant=variant, steps=40, rate=5.0)
    mapper = trained(generator, settings, generator_name="tiny")
    gains = []
    for seed in range(1000, 1008):
        latent = Latent.from_seed(generator, seed)
        edited = apply_mapper(mapper, generator, latent)
        gains.append(similarity(generator, edited) - similarity(generator, latent))
    assert sum(gains) / len(gains) > 0.05
    assert mapper.info.prompt == PROMPT
    assert mapper.info.generator == "tiny"
    assert mapper.info.rows == generator.rows
    assert not mapper.training
    assert not any(parameter.requires_grad for parameter in mapper.parameters())


@pytest.mark.parametrize("variant", ["single", "style_space"])
def test_the_loss_is_the_weighted_sum_of_its_terms(generator: Generator, variant: str) -> None:
    settings = replace(QUICK, variant=variant, clip=2.0, identity=3.0, l2=0.5)
    training = Training(generator, LinearClip(), PROMPT, settings, PixelIdentity())
    random = torch.Generator().manual_seed(settings.seed)
    z = torch.randn(settings.batch, generator.noise_size, generator=random)
    w_plus = generator.broadcast(generator.truncate(generator.mapping(z), 0.7))
    edited, distance = training.mapper.edited_styles(generator, w_plus)
    images, originals = generator.synthesize(edited), generator(w_plus)
    clip = LinearClip()
    text = clip.encode_text([PROMPT.target])[0]
    found = training.advance(0)
    images = images.detach()
    assert found["clip"] == pytest.approx(1 - float((clip.image_features(images) @ text).mean()))
    assert found["identity"] == pytest.approx(float((images - originals).square().mean()))
    assert found["l2"] == pytest.approx(distance.item())
    total = 2 * found["clip"] + 3 * found["identity"] + 0.5 * found["l2"]
    assert found["loss"] == pytest.approx(total)


def test_identity_keeps_pictures_as_they_are(generator: Generator) -> None:
    changes = []
    for weight in (0.0, 30.0):
        mapper = trained(generator, replace(QUICK, identity=weight), identity=PixelIdentity())
        latent = Latent.from_seed(generator, 77)
        edited = apply_mapper(mapper, generator, latent)
        images = [generator.synthesize(place.styles(generator)) for place in (latent, edited)]
        changes.append(float((images[0] - images[1]).square().mean()))
    assert changes[1] < 0.7 * changes[0]


def test_the_seed_decides_everything(generator: Generator) -> None:
    settings = replace(QUICK, steps=3, view=ClipView(crops=2))

    def weights(settings: MapperSettings) -> Tensor:
        return torch.cat([p.flatten() for p in trained(generator, settings).parameters()])

    torch.manual_seed(1)
    one = weights(settings)
    torch.manual_seed(2)
    before = torch.random.get_rng_state()
    assert torch.equal(one, weights(settings))
    assert torch.equal(before, torch.random.get_rng_state())
    assert not torch.equal(one, weights(replace(settings, seed=1)))


def test_steps_show_the_losses_and_held_out_pictures(generator: Generator) -> None:
    steps = list(train_mapper(generator, LinearClip(), PROMPT, replace(QUICK, steps=10)))
    assert [step.fraction for step in steps] == [(i + 1) / 10 for i in range(10)]
    assert all(set(step.metrics) == {"loss", "clip", "l2", "identity"} for step in steps)
    previews = [step.preview for step in (steps[0], steps[-1])]
    assert all(preview.size == (32 * HELD_OUT, 64) for preview in previews)
    above = [preview.crop((0, 0, 32 * HELD_OUT, 32)).tobytes() for preview in previews]
    below = [preview.crop((0, 32, 32 * HELD_OUT, 64)).tobytes() for preview in previews]
    assert above[0] == above[1]
    assert below[0] != below[1]


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_gain_multiplies_what_the_finished_mapper_does(
    generator: Generator, variant: str
) -> None:
    settings = replace(QUICK, variant=variant, steps=3)
    plain = trained(generator, settings)
    louder = trained(generator, replace(settings, gain=2.0))
    latent = Latent.from_seed(generator, 5)
    edited = [apply_mapper(m, generator, latent, k) for m, k in ((plain, 2.0), (louder, 1.0))]
    for ours, theirs in zip(*(e.styles(generator) for e in edited), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5)


def test_closing_stops_the_work(generator: Generator) -> None:
    clip = LinearClip()
    job = train_mapper(generator, clip, PROMPT, QUICK)
    next(job)
    job.close()
    assert clip.calls == 1


def test_only_the_mapper_learns() -> None:
    generator = quiet_generator().requires_grad_(True)
    before = {name: tensor.clone() for name, tensor in generator.state_dict().items()}
    trained(generator, replace(QUICK, steps=2, objective="directional"))
    assert all(parameter.grad is None for parameter in generator.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in generator.state_dict().items())


@pytest.mark.parametrize(
    ("done", "cooldown", "share"),
    [(0, 0, 1), (0.99, 0, 1), (0, 0.5, 1), (0.5, 0.5, 1), (0.75, 0.5, 0.5), (0.9, 1, 0.1)],
)
def test_the_rate_cools_down_at_the_end(done: float, cooldown: float, share: float) -> None:
    assert rate_at(done, cooldown) == pytest.approx(share)


class Broken(LinearClip):
    def image_features(self, pixels: Tensor) -> Tensor:
        return super().image_features(pixels) * math.nan


def test_a_loss_that_is_no_number_is_refused(generator: Generator) -> None:
    with pytest.raises(InputError, match="ran away at step 1"):
        run_to_end(train_mapper(generator, Broken(), PROMPT, QUICK))


@pytest.mark.parametrize(
    ("prompt", "settings", "problem"),
    [
        (EditPrompt("glasses"), replace(QUICK, objective="directional"), "neutral text"),
        (PROMPT, replace(QUICK, identity=0.1), "no identity model"),
        (PROMPT, replace(QUICK, without=("fine",)), "coarse, medium or fine"),
        (PROMPT, replace(QUICK, view=ClipView("reference")), 'choose "proper"'),
    ],
)
def test_what_does_not_fit_together_is_refused(
    generator: Generator, prompt: EditPrompt, settings: MapperSettings, problem: str
) -> None:
    with pytest.raises(InputError, match=problem):
        run_to_end(train_mapper(generator, LinearClip(), prompt, settings))


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"steps": 0}, "steps lies between 1"),
        ({"steps": 100_001}, "steps lies between 1"),
        ({"batch": 65}, "batch size"),
        ({"rate": float("nan")}, "learning rate"),
        ({"memory": 1.0}, "memory"),
        ({"cooldown": 1.5}, "cooldown"),
        ({"l2": -0.1}, "L2 weight"),
        ({"clip": float("inf")}, "CLIP weight"),
        ({"identity": -1.0}, "identity weight"),
        ({"truncation": 3.0}, "truncation"),
        ({"variant": "wide"}, "choose one of levels"),
        ({"objective": "mood"}, "choose one of cosine"),
    ],
)
def test_settings_out_of_range_are_refused(values: dict[str, object], problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        MapperSettings(**values)


def test_the_papers_preset_holds_the_papers_numbers() -> None:
    paper = MapperSettings.paper()
    assert (paper.steps, paper.batch, paper.rate) == (50_000, 2, 0.5)
    assert (paper.clip, paper.identity, paper.l2) == (1.0, 0.1, 0.8)
    assert (paper.variant, paper.objective) == ("levels", "cosine")
    assert (paper.memory, paper.cooldown) == (0.999, 0.0)
