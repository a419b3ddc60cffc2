"""Measuring stylegan2-mini: closed forms of the distances, and what the answers are compared with."""

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch

pytest.importorskip("skia", reason="drawing avatars needs skia: apt-get install libgl1 libegl1")

from models.catalog import ASSETS
from models.clip import ClipEncoder, load_mini
from models.stylegan.e4e import E4e, E4eConfig
from models.stylegan.generator import Generator, GeneratorConfig
from training import stylegan_evaluation as evaluation
from training.avatar_judge import as_tensor
from training.world import avatars

TINY = GeneratorConfig((8, 8, 8, 8), latent_size=16, noise_size=64, mapping_layers=2)  # 32 px


@pytest.fixture(scope="module")
def encoder() -> Iterator[ClipEncoder]:
    return load_mini(ASSETS / "clip-mini", torch.device("cpu"), torch.float32)


@pytest.fixture(scope="module")
def generator() -> Generator:
    torch.manual_seed(0)
    return Generator(TINY).eval().requires_grad_(False)


def whitened(count: int, width: int, seed: int) -> torch.Tensor:
    """(count, width) numbers whose sample mean is 0 and sample covariance is 1."""
    rows = torch.randn(
        count, width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    )
    rows = rows - rows.mean(0)
    return rows @ torch.linalg.inv(torch.linalg.cholesky(torch.cov(rows.T))).T


@pytest.mark.parametrize(
    ("spread", "shift"), [((1, 1, 1), (0, 0, 0)), ((2, 1, 0.5), (0, 0, 0)), ((1, 3, 0), (1, 2, -2))]
)
def test_frechet_distance_of_axis_aligned_normals(
    spread: tuple[float, ...], shift: tuple[float, ...]
) -> None:
    """|m|^2 + sum (s - 1)^2 against the unit normal; a vanished axis is allowed."""
    unit = whitened(200, 3, 1)
    other = whitened(300, 3, 2) * torch.tensor(spread) + torch.tensor(shift)
    expected = sum(m * m for m in shift) + sum((s - 1) ** 2 for s in spread)
    assert evaluation.frechet_distance(unit, other) == pytest.approx(expected, abs=1e-9)


def test_frechet_distance_agrees_with_the_root_of_the_product() -> None:
    """The paper's (C1 C2)^(1/2), here by the eigenvalues of the plain, unsymmetric product."""
    random = torch.Generator().manual_seed(3)
    samples = [
        torch.randn(400, 6, generator=random).double()
        @ torch.randn(6, 6, generator=random).double()
        for _ in range(2)
    ]
    one, two = (torch.cov(s.T) for s in samples)
    crossing = torch.linalg.eigvals(one @ two).sqrt().sum().real
    means = (samples[0].mean(0) - samples[1].mean(0)).square().sum()
    expected = float(means + one.trace() + two.trace() - 2 * crossing)
    found = evaluation.frechet_distance(*samples)
    assert found == pytest.approx(expected, rel=1e-9)
    assert found == pytest.approx(evaluation.frechet_distance(*reversed(samples)), rel=1e-9)


def test_latents_are_those_the_generator_sees() -> None:
    z = evaluation.latent_batch(20, 1)
    assert np.allclose((z**2).mean(axis=1), 1)
    assert np.array_equal(z, evaluation.latent_batch(20, 1))
    assert not np.allclose(z, evaluation.latent_batch(20, 2))


def test_generated_pictures_do_not_depend_on_the_batch(generator: Generator) -> None:
    z = evaluation.latent_batch(evaluation.BATCH + 1, 3)
    pictures = evaluation.generate(generator, z)
    assert pictures.shape == (len(z), 32, 32, 3)
    assert pictures.dtype == np.uint8
    alone = evaluation.generate(generator, z[-1:])
    assert np.abs(pictures[-1:].astype(int) - alone).max() <= 1


def test_another_world_is_farther_than_another_sample(
    encoder: ClipEncoder, generator: Generator
) -> None:
    values = {f.name: f for f in evaluation.distances([encoder], generator, count=60)}
    ratio = next(f for name, f in values.items() if name.startswith("their ratio"))
    assert ratio.value > 1.5, "an untrained generator"
    assert not ratio.holds


def test_questions_are_answered_right_on_drawn_avatars_and_turned_round(
    encoder: ClipEncoder,
) -> None:
    questions = evaluation.Questions(encoder)
    looks = avatars.sample(150, 4)
    pictures = as_tensor(avatars.draw_batch(looks, 96))
    image = encoder.image_features(encoder.normalize(pictures))
    shares = questions.agreement(image, looks)
    assert shares["glasses"] > 0.9
    assert shares["hat"] > 0.9
    turned = questions.agreement(-image, looks)
    for name, share in shares.items():
        assert turned[name] == pytest.approx(1 - share, abs=1e-6), name


def test_an_attribute_with_one_side_only_is_left_out(encoder: ClipEncoder) -> None:
    questions = evaluation.Questions(encoder)
    looks = avatars.sample(12, 5)
    looks[:, avatars.NAMES.index("glasses")] = 0
    shares = questions.agreement(torch.ones(12, encoder.embed_dim), looks)
    assert "glasses" not in shares
    assert "glasses_tint" not in shares, "there are none to be dark"


@pytest.mark.parametrize("error", [0.1, 0.01])
def test_psnr_of_a_constant_error(error: float) -> None:
    pictures = torch.rand(2, 3, 8, 8) * 0.5
    found = evaluation.psnr(pictures + error, pictures)
    assert torch.allclose(found, torch.full((2,), -20 * math.log10(error)), atol=1e-3)


def test_feature_distance_is_zero_for_the_same_and_grows_with_blur(encoder: ClipEncoder) -> None:
    pictures = as_tensor(avatars.draw_batch(avatars.sample(6, 6), 96))

    def blurred(width: int) -> torch.Tensor:
        return torch.nn.functional.avg_pool2d(
            pictures, width, 1, width // 2, count_include_pad=False
        )

    same, little, much = (
        evaluation.feature_distance(encoder, blurred(width), pictures) for width in (1, 3, 9)
    )
    assert same.abs().max() < 1e-6
    assert (little > 0.01).all()
    assert (much > little).all()


def test_inversions_tell_each_way_apart(encoder: ClipEncoder) -> None:
    ways = (("copying", lambda p: p + 0.01, 22.0), ("greying", lambda p: p * 0 + 0.5, 22.0))
    found = {f.name: f for f in evaluation.inversions(encoder, ways, size=64, count=6)}
    copying, greying = (f for name, f in found.items() if name.endswith("PSNR"))
    assert copying.value == pytest.approx(40, abs=0.5), "clipping to white saves a little"
    assert copying.holds
    assert not greying.holds
    assert found["greying: feature distance"].value > found["copying: feature distance"].value


def test_optimisation_steps_come_nearer_than_the_encoder_alone(encoder: ClipEncoder) -> None:
    config = GeneratorConfig.tiny()
    torch.manual_seed(1)
    generator = Generator(config).eval().requires_grad_(False)
    e4e = E4e(E4eConfig.tiny()).eval().requires_grad_(False)
    with torch.no_grad():
        seen = generator(generator.broadcast(generator.mapping(torch.randn(2, config.noise_size))))
    pictures = ((seen + 1) / 2).clamp(0, 1)
    alone, refined = (
        evaluation.psnr(way(pictures).clamp(0, 1), pictures).mean()
        for _, way, _ in evaluation.ways(generator, e4e, encoder, steps=15)
    )
    assert refined > alone + 0.5


def test_contact_sheet_keeps_order() -> None:
    rows = [np.full((3, 4, 4, 3), shade, np.uint8) for shade in (10, 200)]
    rows[0][2] = 99
    sheet = np.asarray(evaluation.contact_sheet(rows))
    assert sheet.shape == (8, 12, 3)
    assert sheet[0, 11, 0] == 99
    assert sheet[7, 0, 0] == 200
