"""What should stay: losses and their gradients against closed forms, and on drawn avatars."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.clip import ClipEncoder, load_mini
from models.styleclip.identity import (
    LEAST_SPREAD,
    TRAITS,
    AvatarIdentity,
    FaceIdentity,
    edit_direction,
    trait_axes,
    trait_spread,
)
from models.styleclip.prompt import EditPrompt
from training.world import avatars

pytestmark = pytest.mark.usefixtures("one_thread")
CRITIC = Path(__file__).parents[3] / "assets" / "weights" / "clip-mini-critic"
WIDTH, SIDE = 40, 4


# ------------------------------------------------------------------------------------------ faces


class FlatFaces(nn.Module):
    """A face network that is one matrix: embeddings and their gradients have closed forms."""

    def __init__(self) -> None:
        super().__init__()
        random = torch.Generator().manual_seed(0)
        self.matrix = torch.randn(3 * 112 * 112, 8, generator=random, dtype=torch.float64)

    def forward(self, image: Tensor) -> Tensor:
        return F.normalize(image.flatten(1) @ self.matrix, dim=1)


def faces() -> FaceIdentity:
    return FaceIdentity(FlatFaces())  # type: ignore[arg-type]


def noise(seed: int, *shape: int) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=random, dtype=torch.float64)


class TestFaces:
    @pytest.mark.parametrize("size", [64, 256, 512])
    def test_the_same_picture_costs_nothing(self, size: int) -> None:
        image = noise(0, 1, 3, size, size)
        assert float(faces().loss(image, image)) == pytest.approx(0, abs=1e-12)
        assert faces().kept(image, image)["face"] == pytest.approx(1)

    def test_it_is_one_minus_the_mean_cosine(self) -> None:
        image, original, identity = noise(1, 2, 3, 64, 64), noise(2, 2, 3, 64, 64), faces()
        cosines = F.cosine_similarity(identity.embed(image), identity.embed(original))
        assert float(identity.loss(image, original)) == pytest.approx(1 - float(cosines.mean()))
        assert identity.kept(image, original)["face"] == pytest.approx(float(cosines.mean()))

    def test_the_gradient_is_that_of_finite_differences(self) -> None:
        identity, original, along = faces(), noise(2, 1, 3, 64, 64), noise(3, 1, 3, 64, 64)
        image = noise(1, 1, 3, 64, 64).requires_grad_()
        (slope,) = torch.autograd.grad(identity.loss(image, original), image)
        with torch.no_grad():
            ahead, behind = (identity.loss(image + e * along, original) for e in (1e-5, -1e-5))
        assert float((slope * along).sum()) == pytest.approx(float(ahead - behind) / 2e-5, rel=1e-6)

    def test_the_original_is_detached(self) -> None:
        original = noise(2, 1, 3, 64, 64).requires_grad_()
        image = noise(1, 1, 3, 64, 64).requires_grad_()
        faces().loss(image, original).backward()
        assert original.grad is None
        assert image.grad is not None

    def test_only_the_face_counts(self) -> None:
        original = noise(2, 1, 3, 256, 256)
        outside = original.clone()
        outside[..., :35, :], outside[..., 223:, :] = 5.0, -5.0
        outside[..., :32], outside[..., 220:] = 3.0, 1.0
        assert float(faces().loss(outside, original)) == pytest.approx(0, abs=1e-12)
        inside = original.clone()
        inside[..., 35, 32] += 50.0
        assert float(faces().loss(inside, original)) > 1e-4


# ---------------------------------------------------------------------------------------- avatars


class FlatClip:
    """A CLIP whose picture features are one matrix times the pixels: every loss is a square."""

    image_size = SIDE

    def __init__(self) -> None:
        self.matrix = noise(5, 3 * SIDE * SIDE, WIDTH).float()

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        rows = [noise(zlib.crc32(text.encode()), WIDTH) for text in texts]
        return F.normalize(torch.stack(rows).float(), dim=1)

    def image_features(self, pixels: Tensor) -> Tensor:
        return pixels.flatten(1) @ self.matrix

    def normalize(self, pixels: Tensor) -> Tensor:
        return pixels * 2 - 1


PROMPT = EditPrompt("a pirate", "a person")


class TestAvatars:
    def test_it_is_the_mean_squared_move_along_the_axes(self) -> None:
        clip, spread = FlatClip(), torch.linspace(0.1, 0.9, len(TRAITS))
        identity = AvatarIdentity.of_prompt(clip, PROMPT, spread)
        image, original = noise(1, 2, 3, SIDE, SIDE).float(), noise(2, 2, 3, SIDE, SIDE).float()
        image.requires_grad_()
        move = (image - original).flatten(1) @ clip.matrix  # (B, D)
        scaled = move @ identity.axes.T / identity.spread
        loss = identity.loss(image, original)
        assert loss.item() == pytest.approx(scaled.square().mean().item(), rel=1e-4)
        (slope,) = torch.autograd.grad(loss, image)
        closed = 2 / scaled.numel() * (scaled / identity.spread) @ identity.axes @ clip.matrix.T
        assert torch.allclose(slope.flatten(1), closed, rtol=1e-3, atol=1e-4 * closed.abs().max().item())  # fmt: skip

    def test_the_edit_itself_costs_nothing(self) -> None:
        clip = FlatClip()
        identity = AvatarIdentity.of_prompt(clip, PROMPT)
        edit = edit_direction(clip, PROMPT)
        assert identity.axes @ edit == pytest.approx(torch.zeros(len(identity.names)), abs=1e-6)
        assert identity.axes.norm(dim=1).tolist() == pytest.approx([1] * len(identity.names))
        original = noise(2, 1, 3, SIDE, SIDE).float()
        pixels = torch.linalg.lstsq(clip.matrix.T, 3 * edit[:, None]).solution
        image = original + pixels.view_as(original)
        assert float(identity.loss(image, original)) == pytest.approx(0, abs=1e-6)

    @pytest.mark.parametrize("trait", TRAITS)
    def test_the_trait_that_is_edited_does_not_stay(self, trait: str) -> None:
        clip, number = FlatClip(), list(TRAITS).index(trait)
        for sign in (1, -1):
            identity = AvatarIdentity(clip, sign * trait_axes(clip)[number])
            assert trait not in identity.names

    def test_spreads_belong_to_their_axes(self) -> None:
        clip = FlatClip()
        spread = torch.arange(1.0, len(TRAITS) + 1)
        identity = AvatarIdentity.of_prompt(clip, PROMPT, spread)
        expected = [1.0 + list(TRAITS).index(name) for name in identity.names]
        assert identity.spread.tolist() == expected

    def test_a_spread_of_nothing_does_not_blow_up(self) -> None:
        identity = AvatarIdentity.of_prompt(FlatClip(), PROMPT, torch.zeros(len(TRAITS)))
        assert identity.spread.tolist() == pytest.approx([LEAST_SPREAD] * len(identity.names))

    def test_the_original_is_detached_and_the_same_costs_nothing(self) -> None:
        identity = AvatarIdentity.of_prompt(FlatClip(), PROMPT)
        original = noise(2, 1, 3, SIDE, SIDE).float().requires_grad_()
        loss = identity.loss(original.detach().clone().requires_grad_(), original)
        loss.backward()
        assert original.grad is None
        assert float(loss.detach()) == 0

    def test_the_spread_of_pictures_is_their_deviation(self) -> None:
        clip, pictures = FlatClip(), noise(4, 30, 3, SIDE, SIDE).float()
        along = pictures.flatten(1) @ clip.matrix @ trait_axes(clip).T
        assert torch.allclose(trait_spread(clip, pictures), along.std(dim=0), rtol=1e-4)


# ------------------------------------------------------------------- on drawn avatars, with CLIP


@lru_cache(maxsize=1)
def critic() -> ClipEncoder:
    return load_mini(CRITIC, torch.device("cpu"), torch.float32)


def drawn(**changes: float) -> Tensor:
    """Ten avatars (N, 3, 64, 64) about [-1, 1], with some of their attributes set."""
    rows = avatars.sample(10, seed=31)
    for name, value in changes.items():
        rows[:, avatars.NAMES.index(name)] = value
    pixels = torch.from_numpy(avatars.draw_batch(rows, 64))
    return pixels.permute(0, 3, 1, 2).float() / 127.5 - 1


@pytest.mark.parametrize(
    ("target", "neutral", "own", "others"),
    [
        ("a smiling person", "a person", "smile", ("hat", "hair_length", "glasses", "skin_tone")),
        ("a person with a beard", "a person", "beard", ("hat", "hair_length", "skin_tone")),
        ("a person with a hat", "a person without a hat", "hat", ("skin_tone", "hair_length")),
    ],
)
def test_other_changes_cost_more_than_the_edit(
    target: str, neutral: str, own: str, others: tuple[str, ...]
) -> None:
    identity = AvatarIdentity.of_prompt(critic(), EditPrompt(target, neutral))
    edited = float(identity.loss(drawn(**{own: 1.0}), drawn(**{own: 0.0})))
    for other in others:
        changed = float(identity.loss(drawn(**{other: 1.0}), drawn(**{other: 0.0})))
        assert changed > 1.3 * edited, other
    assert float(identity.loss(drawn().roll(1, 0), drawn())) > 2 * edited


def test_the_readout_names_the_trait_that_changed() -> None:
    identity = AvatarIdentity.of_prompt(critic(), EditPrompt("a smiling person", "a person"))
    for attribute, trait in (
        ("hat", "hat"),
        ("glasses", "glasses"),
        ("hair_length", "hair length"),
    ):
        before, after = drawn(**{attribute: 0.0}), drawn(**{attribute: 1.0})
        assert identity.kept(before, before) == dict.fromkeys(identity.names, 0.0)
        changes = identity.kept(after, before)
        assert trait in sorted(changes, key=changes.__getitem__)[-3:]
        assert changes[trait] > 1
