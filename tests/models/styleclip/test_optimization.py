"""Latent optimisation: the terms of its loss, its schedule, what it returns and refuses."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from models.errors import InputError
from models.jobs import run_to_end
from models.styleclip.clip_view import ClipView
from models.styleclip.objective import SMALL_MOVE, TextObjective
from models.styleclip.optimization import (
    SPACES,
    Descent,
    OptimizationResult,
    OptimizationSettings,
    OptimizationStep,
    learning_rate,
    optimize,
)
from models.styleclip.prompt import EditPrompt
from models.stylegan.generator import Generator, GeneratorConfig
from models.stylegan.latent import Latent
from tests.models.styleclip.edit_support import LinearClip, PixelIdentity, quiet_generator
from tests.stylegan_support import tiny_generator

PROMPT = EditPrompt("a face with glasses", "a face")
QUICK = OptimizationSettings(steps=12, l2=0.001, identity=0.0)

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def generator() -> Generator:
    return quiet_generator()


@pytest.fixture(scope="module")
def start(generator: Generator) -> Latent:
    return Latent.from_seed(generator, 3)


def result_of(
    generator: Generator, latent: Latent | None, settings: OptimizationSettings, **more: object
) -> OptimizationResult:
    clip = more.pop("clip", None) or LinearClip()
    return run_to_end(optimize(generator, clip, latent, PROMPT, settings, **more))


def picture_of(generator: Generator, latent: Latent) -> Tensor:
    with torch.no_grad():
        return generator.synthesize(latent.styles(generator))


# ----------------------------------------------------------------------------------- the loss


def test_the_cosine_has_its_closed_form() -> None:
    clip = LinearClip(torch.float64)
    image = torch.randn(1, 3, 32, 32, dtype=torch.float64).requires_grad_()
    text = clip.encode_text([PROMPT.target])[0]
    loss = TextObjective("cosine", clip, PROMPT, ClipView())(image, image)
    raw = clip.matrix @ image.detach().flatten()
    unit = raw / raw.norm()
    assert loss.item() == pytest.approx(1 - float(unit @ text))
    (gradient,) = torch.autograd.grad(loss, image)
    expected = -(text - (unit @ text) * unit) @ clip.matrix / raw.norm()
    assert torch.allclose(gradient.flatten(), expected, atol=1e-12)


def test_the_directional_loss_has_its_closed_form() -> None:
    clip = LinearClip(torch.float64)
    image, original = torch.randn(2, 1, 3, 32, 32, dtype=torch.float64)
    target, neutral = clip.encode_text([PROMPT.target, PROMPT.neutral])
    text = (target - neutral) / (target - neutral).norm()
    move = (clip.image_features(image) - clip.image_features(original))[0]
    loss = TextObjective("directional", clip, PROMPT, ClipView())
    expected = 1 - float(move @ text) / math.sqrt(float(move @ move) + SMALL_MOVE**2)
    assert float(loss(image, original)) == pytest.approx(expected)


def test_the_directional_gradient_is_finite_where_nothing_has_moved() -> None:
    clip = LinearClip(torch.float64)
    image = torch.randn(1, 3, 32, 32, dtype=torch.float64).requires_grad_()
    target, neutral = clip.encode_text([PROMPT.target, PROMPT.neutral])
    text = (target - neutral) / (target - neutral).norm()
    loss = TextObjective("directional", clip, PROMPT, ClipView())(image, image.detach())
    (gradient,) = torch.autograd.grad(loss, image)
    raw = clip.matrix @ image.detach().flatten()
    unit = raw / raw.norm()
    expected = -(text - (unit @ text) * unit) @ clip.matrix / (raw.norm() * SMALL_MOVE)
    assert loss.item() == 1
    assert torch.allclose(gradient.flatten(), expected, atol=1e-12)


@pytest.mark.parametrize("space", SPACES)
def test_l2_is_a_sum_over_all_that_moves(generator: Generator, start: Latent, space: str) -> None:
    """Its gradient is 2 l2 (w - w0), beside the same gradient of CLIP."""
    gradients = []
    for l2 in (0.0, 0.5):
        settings = replace(QUICK, space=space, l2=l2)
        descent = Descent(generator, LinearClip(), start, PROMPT, settings)
        random = torch.Generator().manual_seed(0)
        moves = [torch.randn(p.shape, generator=random) for p in descent.point.parameters]
        with torch.no_grad():
            for parameter, move in zip(descent.point.parameters, moves):
                parameter += move
        descent.evaluate()
        gradients.append([parameter.grad for parameter in descent.point.parameters])
    entries = generator.rows if space == "w" else 1  # of W+ that move with one of w
    for without, with_l2, move in zip(*gradients, moves):
        assert torch.allclose(with_l2 - without, entries * 2 * 0.5 * move, rtol=1e-4, atol=1e-5)
    found = descent.history[-1]
    distance = entries * sum(float(move.square().sum()) for move in moves)
    assert found["l2"] == pytest.approx(distance, rel=1e-5)
    assert found["loss"] == pytest.approx(found["clip"] + 0.5 * distance, rel=1e-5)


def test_identity_is_weighed_against_the_picture_of_the_start(
    generator: Generator, start: Latent
) -> None:
    original, identity = picture_of(generator, start), PixelIdentity()
    changes = []
    for weight in (1e-6, 10.0):
        result = result_of(generator, start, replace(QUICK, identity=weight), identity=identity)
        last = result.history[result.step]
        loss = float(identity.loss(result.image, original))
        assert last["identity"] == pytest.approx(loss, rel=1e-3)
        total = last["clip"] + QUICK.l2 * last["l2"] + weight * last["identity"]
        assert last["loss"] == pytest.approx(total, rel=1e-5)
        changes.append(loss)
    assert changes[1] < 0.5 * changes[0]


@pytest.mark.parametrize(
    ("step", "steps", "share"),
    [(0, 40, 0), (1, 40, 0.5), (2, 40, 1), (30, 40, 1), (35, 40, 0.5), (1, 300, 1 / 15),
     (225, 300, 1), (250, 300, 0.75)],
)  # fmt: skip
def test_the_rate_rises_for_a_twentieth_and_falls_for_a_quarter(
    step: int, steps: int, share: float
) -> None:
    assert learning_rate(step, steps, 0.2) == pytest.approx(0.2 * share)


# -------------------------------------------------------------------------- what comes of it


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("objective", ["cosine", "directional"])
def test_an_edit_comes_nearer_to_its_words(
    generator: Generator, start: Latent, space: str, objective: str
) -> None:
    result = result_of(generator, start, replace(QUICK, space=space, objective=objective))
    assert result.history[result.step]["clip"] < result.history[0]["clip"] - 0.2
    assert len(result.history) == QUICK.steps + 1


@pytest.mark.parametrize("space", SPACES)
def test_the_image_is_the_latents(generator: Generator, start: Latent, space: str) -> None:
    """Also when the best latent is not the last one, and when the start was edited before."""
    edited = start.moved([torch.full((slot.size,), 0.1) for slot in generator.layout])
    wild = replace(QUICK, space=space, rate=5.0)
    for latent, settings in ((start, replace(QUICK, space=space)), (edited, wild)):
        result = result_of(generator, latent, settings)
        assert torch.equal(result.image, picture_of(generator, result.latent))
        losses = [losses["loss"] for losses in result.history]
        assert result.step == losses.index(min(losses))
        descent = Descent(generator, LinearClip(), result.latent, PROMPT, settings)
        descent.evaluate()
        best = result.history[result.step]
        assert descent.history[0]["clip"] == pytest.approx(best["clip"], abs=1e-5)


def test_style_space_leaves_colour_layers_and_w_plus_alone(
    generator: Generator, start: Latent
) -> None:
    result = result_of(generator, start, replace(QUICK, space="style_space"))
    assert torch.equal(result.latent.w_plus, start.w_plus)
    for slot, offset in zip(generator.layout, result.latent.offsets):
        assert bool(offset.any()) != slot.is_rgb


def test_w_plus_keeps_what_was_edited_in_style_space(generator: Generator, start: Latent) -> None:
    edited = start.moved([torch.full((slot.size,), 0.1) for slot in generator.layout])
    result = result_of(generator, edited, QUICK)
    assert result.latent.offsets == edited.offsets
    assert not torch.equal(result.latent.w_plus, start.w_plus)


def test_w_moves_all_rows_alike(generator: Generator, start: Latent) -> None:
    mixed = replace(start, w_plus=start.w_plus * torch.linspace(0.5, 1, generator.rows)[:, None])
    result = result_of(generator, mixed, replace(QUICK, space="w"))
    move = result.latent.w_plus - mixed.w_plus
    assert bool(move.any())
    assert torch.allclose(move, move[:1].expand_as(move), atol=1e-5)


def test_free_generation_starts_at_the_mean_and_follows_clip_alone(generator: Generator) -> None:
    settings = replace(QUICK, l2=100.0, identity=100.0)
    result = result_of(generator, None, settings)
    assert all(losses["loss"] == losses["clip"] for losses in result.history)
    mean = Latent.from_w_plus(generator.mean_latent.expand(generator.rows, -1))
    first = next(optimize(generator, LinearClip(), mean, PROMPT, QUICK))
    assert result.history[0]["clip"] == first.metrics["clip"]


def test_every_step_shows_where_it_is(generator: Generator, start: Latent) -> None:
    steps = list(optimize(generator, LinearClip(), start, PROMPT, QUICK))
    assert [step.fraction for step in steps] == [(i + 1) / 12 for i in range(12)]
    for step in steps:
        assert isinstance(step, OptimizationStep)
        assert step.preview.size == (32, 32)
        assert set(step.metrics) == {"loss", "clip", "l2", "identity"}
        step.latent.check(generator)


def test_the_seed_decides_the_views(generator: Generator, start: Latent) -> None:
    crops = replace(QUICK, steps=4, view=ClipView(crops=3))
    one, same = result_of(generator, start, crops), result_of(generator, start, crops)
    other = result_of(generator, start, replace(crops, seed=1))
    assert torch.equal(one.latent.w_plus, same.latent.w_plus)
    assert one.history == same.history
    assert one.history != other.history


def test_closing_stops_the_work(generator: Generator, start: Latent) -> None:
    clip = LinearClip()
    job = optimize(generator, clip, start, PROMPT, QUICK)
    next(job)
    seen = clip.calls
    job.close()
    assert clip.calls == seen == 1


def test_no_gradient_gathers_in_a_network_that_is_not_frozen(start: Latent) -> None:
    generator = quiet_generator().requires_grad_(True)
    before = {name: tensor.clone() for name, tensor in generator.state_dict().items()}
    result_of(generator, start, replace(QUICK, steps=2))
    assert all(parameter.grad is None for parameter in generator.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in generator.state_dict().items())


# ------------------------------------------------------------------------ stopping and refusing


class Deaf(LinearClip):
    """Sees the same in every picture."""

    def image_features(self, pixels: Tensor) -> Tensor:
        return super().image_features(pixels * 0 + 1)


class Breaking(LinearClip):
    """Answers with NaN from the `after`th picture on."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.after = after

    def image_features(self, pixels: Tensor) -> Tensor:
        features = super().image_features(pixels)
        return features * (math.nan if self.calls > self.after else 1)


def test_patience_ends_a_run_that_leads_nowhere(generator: Generator, start: Latent) -> None:
    settings = replace(QUICK, steps=100, patience=5)
    result = result_of(generator, start, settings, clip=Deaf())
    assert len(result.history) == 6
    assert result.step == 0
    assert torch.equal(result.latent.w_plus, start.w_plus)


def test_a_loss_that_becomes_nan_ends_with_the_best_so_far(
    generator: Generator, start: Latent
) -> None:
    result = result_of(generator, start, QUICK, clip=Breaking(after=6))
    assert len(result.history) == 6
    assert all(math.isfinite(losses["loss"]) for losses in result.history)
    assert bool(result.image.isfinite().all())


def test_a_picture_without_a_loss_is_refused(generator: Generator, start: Latent) -> None:
    with pytest.raises(InputError, match="no number"):
        result_of(generator, start, QUICK, clip=Breaking(after=0))


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"steps": 0}, "1 to 1000 steps, not 0"),
        ({"steps": 1001}, "1 to 1000 steps"),
        ({"rate": 0.0}, "learning rate"),
        ({"rate": float("nan")}, "learning rate"),
        ({"l2": -1.0}, "L2 weight"),
        ({"l2": float("inf")}, "L2 weight"),
        ({"identity": 101.0}, "identity weight"),
        ({"space": "z"}, "choose one of w, w_plus, style_space"),
        ({"objective": "mood"}, "choose one of cosine, directional"),
        ({"patience": -1}, "patience"),
    ],
)
def test_settings_out_of_range_are_refused(values: dict[str, object], problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        OptimizationSettings(**values)


@pytest.mark.parametrize(
    ("prompt", "settings", "latent", "problem"),
    [
        (EditPrompt("glasses"), replace(QUICK, objective="directional"), None, "neutral text"),
        (PROMPT, replace(QUICK, identity=0.1), "own", "no identity model"),
        (PROMPT, QUICK, "other", "choose the generator"),
        (PROMPT, QUICK, "nan", "not finite"),
        (PROMPT, replace(QUICK, view=ClipView("reference")), "own", 'choose "proper"'),
    ],
)
def test_what_does_not_fit_together_is_refused(
    generator: Generator, start: Latent, prompt: EditPrompt, settings: OptimizationSettings,
    latent: str | None, problem: str,
) -> None:  # fmt: skip
    latents = {
        None: None,
        "own": start,
        "other": Latent.from_seed(tiny_generator(GeneratorConfig((8, 8), 16, 16, 2)), 0),
        "nan": replace(start, w_plus=start.w_plus * math.nan),
    }
    with pytest.raises(InputError, match=problem):
        run_to_end(optimize(generator, LinearClip(), latents[latent], prompt, settings))


@pytest.mark.parametrize("preset", ["paper", "reference", "mini"])
def test_presets_hold_the_numbers_of_their_source(preset: str) -> None:
    settings = getattr(OptimizationSettings, preset)()
    assert settings.rate == 0.1 or preset == "mini"
    if preset != "mini":
        assert (settings.steps, settings.l2, settings.objective) == (300, 0.008, "cosine")
    assert (settings.view.preprocessing == "reference") == (preset == "reference")
