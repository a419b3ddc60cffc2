"""The critic: random views against their geometry, scores against plain formulas."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms import RandomPerspective

from models.clip import ClipEncoder
from models.clipdraw.critic import Augmentation, Critic, Prompt, Scoring, homography
from models.clipdraw.drawing import looks, plain_look
from models.errors import InputError
from tests.clip_support import mini
from tests.critic_support import tiny_encoder

CORNERS = torch.tensor([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])


def chance(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def places(side: int) -> Tensor:
    """(2, S, S): a canvas that holds at each pixel where that is, x and y in [-1, 1]."""
    line = (torch.arange(side) + 0.5) * 2 / side - 1
    return torch.stack(torch.meshgrid(line, line, indexing="xy"))


def apply(matrix: Tensor, points: Tensor) -> Tensor:
    moved = F.pad(points, (0, 1), value=1.0) @ matrix.transpose(-1, -2)
    return moved[..., :2] / moved[..., 2:]


def corners_of(augmentation: Augmentation, count: int, side: int = 33) -> np.ndarray:
    """(count, 4, 2) where the corners of views lie on the canvas."""
    many = replace(augmentation, copies=count)
    grid = many._grid(side, chance())  # (n, S, S, 2) of the pixels' centres
    # A homography through four inner points is known everywhere, so also at the border.
    line = (torch.arange(side) + 0.5) * 2 / side - 1
    low, high = float(line[4]), float(line[-5])
    inner = torch.tensor([[low, low], [high, low], [high, high], [low, high]])
    seen = torch.stack([grid[:, 4, 4], grid[:, 4, -5], grid[:, -5, -5], grid[:, -5, 4]], 1)
    matrix = homography(inner.double().expand(count, 4, 2), seen.double())
    return np.asarray(apply(matrix, CORNERS.double().expand(count, 4, 2)))


# ----------------------------------------------------------------------------- homographies


@pytest.mark.parametrize(
    "known",
    [
        [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
        [[0.5, 0, 0.25], [0, 2, -1], [0, 0, 1]],
        [[0, -1, 0], [1, 0, 0], [0, 0, 1]],
        [[1.2, 0.1, 0.3], [-0.2, 0.9, 0.1], [0.1, -0.15, 1]],
    ],
    ids=["identity", "scale and shift", "quarter turn", "perspective"],
)
def test_a_homography_is_found_back_from_four_points(known: Any) -> None:
    matrix = torch.tensor(known, dtype=torch.float64)
    found = homography(CORNERS.double()[None], apply(matrix, CORNERS.double())[None])[0]
    torch.testing.assert_close(found, matrix)


def test_homographies_are_those_of_the_direct_linear_transform() -> None:
    source = CORNERS.double() + 0.4 * torch.rand(5, 4, 2, generator=chance(), dtype=torch.float64)
    target = CORNERS.double() + 0.4 * torch.rand(5, 4, 2, generator=chance(1), dtype=torch.float64)
    for k, found in enumerate(homography(source, target)):
        rows = []
        for (x, y), (u, v) in zip(source[k].tolist(), target[k].tolist()):
            rows.append([-x, -y, -1, 0, 0, 0, u * x, u * y, u])
            rows.append([0, 0, 0, -x, -y, -1, v * x, v * y, v])
        null = np.linalg.svd(np.array(rows))[2][-1].reshape(3, 3)
        np.testing.assert_allclose(found, null / null[2, 2], atol=1e-9)


# ------------------------------------------------------------------------------------ views


@pytest.mark.parametrize("side", [8, 24])
def test_no_augmentation_shows_the_canvas_as_it_is(side: int) -> None:
    canvas = torch.rand(4, side, side, generator=chance())
    views = Augmentation.none().views(canvas, side, chance())
    torch.testing.assert_close(views, canvas[None], atol=1e-5, rtol=0)
    assert Augmentation.none().shaded(views, chance()) is views


@pytest.mark.parametrize(("width", "height"), [(48, 24), (24, 48), (40, 10)])
def test_a_canvas_that_is_no_square_keeps_its_proportions(width: int, height: int) -> None:
    canvas = torch.zeros(height, width, 4)
    canvas[..., 0] = canvas[..., 3] = 1.0  # all red
    side = max(width, height)
    look = plain_look(canvas, side, (0.0, 0.0, 1.0))  # over blue
    red, blue = look[0], look[2]
    torch.testing.assert_close(red + blue, torch.ones(side, side))
    rows, columns = red[:, side // 2], red[side // 2]
    assert float(rows.sum()) == pytest.approx(height, abs=1e-3)
    assert float(columns.sum()) == pytest.approx(width, abs=1e-3)
    middle = slice((side - height) // 2 + 1, (side + height) // 2 - 1)
    assert float(red[middle, side // 2].min()) == pytest.approx(1, abs=1e-5)


def test_crops_keep_to_their_area_their_ratio_and_the_canvas() -> None:
    augmentation = Augmentation(distortion=0.0, area=(0.5, 0.9), ratio=1.5)
    corners = corners_of(augmentation, 400)  # (n, 4, 2), the canvas is [-1, 1]
    sides = (corners[:, 2] - corners[:, 0]) / 2
    area, ratio = sides.prod(1), sides[:, 0] / sides[:, 1]
    assert np.abs(corners).max() <= 1 + 1e-4
    assert (area.min(), area.max()) == pytest.approx((0.5, 0.9), abs=0.02)
    assert 1 / 1.5 - 1e-3 <= ratio.min() < 0.7
    assert 1.45 < ratio.max() <= 1.5 + 1e-3
    np.testing.assert_allclose(corners[:, 0, 0], corners[:, 3, 0], atol=1e-4)  # upright


def test_a_crops_ratio_is_as_often_below_one_as_above() -> None:
    corners = corners_of(Augmentation(distortion=0.0), 1000)
    sides = corners[:, 2] - corners[:, 0]
    assert np.log(sides[:, 0] / sides[:, 1]).mean() == pytest.approx(0, abs=0.02)
    free = 1 - sides / 2
    shift = (corners[:, 2] + corners[:, 0]) / 2 / free.clip(1e-3)
    assert np.abs(shift).max() <= 1 + 1e-2
    assert shift.mean(0) == pytest.approx([0, 0], abs=0.07)
    assert shift.std(0) == pytest.approx([3**-0.5] * 2, abs=0.05)  # uniform in [-1, 1]


@pytest.mark.parametrize("distortion", [0.2, 0.5])
def test_perspectives_move_corners_inwards_as_torchvisions_do(distortion: float) -> None:
    augmentation = Augmentation(distortion=distortion, area=(1.0, 1.0), ratio=1.0, copies=500)
    to_canvas = augmentation._perspective(chance())
    # Where the canvas's corners land in the view: the inverse maps them there.
    moved = apply(torch.linalg.inv(to_canvas.double()), CORNERS.double().expand(500, 4, 2))
    inward = (1 - moved * CORNERS).numpy()  # 0: stays, in half sides of the view

    size = 1000
    torch.manual_seed(0)
    ends = np.array([RandomPerspective.get_params(size, size, distortion)[1] for _ in range(500)])
    theirs = 1 - (ends / (size - 1) * 2 - 1) * CORNERS.numpy()
    for axis in (0, 1):
        for corner in range(4):
            ours, reference = np.sort(inward[:, corner, axis]), np.sort(theirs[:, corner, axis])
            assert ours.min() >= -1e-5
            assert ours.max() <= distortion + 1e-5
            assert reference.max() <= distortion + 2e-3
            assert np.abs(ours - reference).max() < 0.1 * distortion + 0.01  # one distribution


def test_turns_stay_within_their_angle() -> None:
    still = Augmentation(distortion=0.0, area=(1.0, 1.0), ratio=1.0, turn=0.25)
    corners = corners_of(still, 300)
    top = corners[:, 1] - corners[:, 0]
    angle = np.arctan2(top[:, 1], top[:, 0])
    assert -0.25 - 1e-4 <= angle.min() < -0.23
    assert 0.23 < angle.max() <= 0.25 + 1e-4
    np.testing.assert_allclose(np.hypot(*top.T), 2, atol=1e-3)  # nothing is squeezed


def test_beyond_the_canvas_lies_the_background() -> None:
    wide = Augmentation(copies=6, distortion=0.5, area=(1.0, 1.0), ratio=1.0)
    canvas = torch.zeros(32, 32, 4)
    canvas[..., 3] = 1.0  # opaque black
    seen = looks(canvas, 32, wide, (1.0, 1.0, 1.0), 0.0, chance())
    assert float(seen[:, :, 16, 16].max()) < 1e-6
    assert float(seen[:, :, 0, 0].max()) > 0.9  # a corner that moved inwards leaves white behind


def test_a_transparent_ground_is_another_light_colour_in_every_look() -> None:
    seen = looks(torch.zeros(16, 16, 4), 16, Augmentation(), None, 0.0, chance())
    colors = seen[:, :, 3, 3]
    assert float(colors.min()) >= 0.5
    assert len({tuple(color) for color in colors.tolist()}) == 4
    torch.testing.assert_close(seen, colors[..., None, None].expand_as(seen))


def test_blur_smooths_and_keeps_the_mean() -> None:
    canvas = torch.rand(32, 32, 4, generator=chance())
    canvas[..., 3] = 1.0
    plain = Augmentation.none()
    sharp = looks(canvas, 32, plain, (1.0, 1.0, 1.0), 0.0, chance())
    soft = looks(canvas, 32, plain, (1.0, 1.0, 1.0), 2.0, chance())
    assert float(soft.var()) < 0.2 * float(sharp.var())
    assert float(soft.mean()) == pytest.approx(float(sharp.mean()), abs=0.01)


def test_light_and_noise_stay_in_range_and_differ_between_views() -> None:
    grey = torch.full((200, 3, 4, 4), 0.5)
    tones = Augmentation(gain=0.2).shaded(grey, chance())[:, :, 0, 0]
    # tone moves 0.5 by at most 20%, contrast then stretches that by at most 20%
    assert 0.02 < float((tones - 0.5).abs().max()) <= 0.5 * 0.2 * 1.2 + 1e-6
    assert float(tones.std(dim=1).min()) > 0  # each channel alone
    noisy = Augmentation(noise=0.05).shaded(grey, chance())
    assert float((noisy - grey).std()) == pytest.approx(0.05, rel=0.05)
    harsh = Augmentation(gain=1.0, noise=1.0).shaded(torch.rand_like(grey), chance())
    assert (float(harsh.min()), float(harsh.max())) == (0.0, 1.0)


@pytest.mark.parametrize(
    "augmentation", [Augmentation.none(), Augmentation(), Augmentation.strong()]
)
def test_the_gradient_flows_to_the_canvas(augmentation: Augmentation) -> None:
    canvas = torch.rand(24, 24, 4, generator=chance(), requires_grad=True)
    seen = looks(canvas, 24, augmentation, (1.0, 1.0, 1.0), 1.0, chance())
    assert seen.shape == (augmentation.copies, 3, 24, 24)
    (gradient,) = torch.autograd.grad(seen.square().sum(), canvas)
    assert bool(gradient.isfinite().all())
    assert float((gradient != 0).float().mean()) > 0.9


def test_a_view_is_sampled_where_its_matrix_points() -> None:
    augmentation = Augmentation(copies=3, distortion=0.3, area=(0.3, 0.4), turn=0.2)
    seen = augmentation.views(places(64), 32, chance())
    grid = augmentation._grid(32, chance()).permute(0, 3, 1, 2)
    inside = (grid.abs() < 1 - 1 / 64).all(1, keepdim=True).expand_as(grid)
    assert float(inside.float().mean()) > 0.5
    torch.testing.assert_close(seen[inside], grid[inside], atol=1e-4, rtol=0)


# ----------------------------------------------------------------------------------- scores


def plain_losses(
    encoder: ClipEncoder, views: Tensor, prompts: list[Prompt], words: list[str], scoring: Scoring
) -> list[float]:
    """The definition, one view and one word at a time."""
    losses = []
    for view in views:
        pixels = (view - 0.5) / 0.5 if scoring.normalize else view
        image = encoder.image_features(pixels[None])[0].tolist()
        texts = {t: encoder.encode_text([t])[0].tolist() for t in [p.text for p in prompts] + words}
        cosine = {t: math.fsum(a * b for a, b in zip(image, v)) for t, v in texts.items()}
        score = sum(p.weight * cosine[p.text] for p in prompts)
        if scoring.contrast and words:
            scale = encoder.logit_scale
            others = math.log(sum(math.exp(scale * cosine[w]) for w in words)) / scale
            score -= scoring.contrast * sum(p.weight for p in prompts if p.weight > 0) * others
        losses.append(-score)
    return losses


@pytest.mark.parametrize(
    "prompts",
    [
        [Prompt("cat")],
        [Prompt("cat", 2.0), Prompt("hat", 0.5)],
        [Prompt("cat"), Prompt("bad sketch", -0.3), Prompt("mess", -0.3)],
    ],
    ids=["one", "weighted", "negative"],
)
@pytest.mark.parametrize("scoring", [Scoring(), Scoring(contrast=0.3), Scoring(normalize=False)])
@pytest.mark.parametrize("words", [[], ["cat", "dog", "tree", "sun"]], ids=["no words", "words"])
def test_losses_are_those_of_the_plain_formula(
    prompts: list[Prompt], scoring: Scoring, words: list[str]
) -> None:
    encoder = tiny_encoder()
    critic = Critic([encoder], prompts, words, scoring)
    views = torch.rand(3, 3, 24, 24, generator=chance())
    expected = plain_losses(encoder, views, prompts, words, scoring)
    assert critic.losses(views).tolist() == pytest.approx(expected, abs=1e-5)
    assert float(critic.loss(views)) == pytest.approx(sum(expected) / 3, abs=1e-5)


def test_the_score_on_the_real_critic_is_the_cosine() -> None:
    critic = Critic([mini()], [Prompt("a red apple")], (), Scoring())
    view = torch.rand(1, 3, mini().image_size, mini().image_size, generator=chance())
    with torch.no_grad():
        image = mini().image_features(mini().normalize(view))
    cosine = float(image[0] @ mini().encode_text(["a red apple"])[0])
    assert float(critic.loss(view)) == pytest.approx(-cosine, abs=1e-5)


def test_several_encoders_are_averaged_each_at_its_own_size() -> None:
    pair = [tiny_encoder(0, 24), tiny_encoder(1, 16)]
    critic = Critic(pair, [Prompt("cat")], ["cat", "dog"], Scoring(contrast=0.3))
    assert critic.side == 24
    views = torch.rand(2, 3, 24, 24, generator=chance())
    small = F.interpolate(views, 16, mode="bilinear", antialias=True, align_corners=False)
    each = [
        Critic([encoder], [Prompt("cat")], ["cat", "dog"], Scoring(contrast=0.3)).losses(seen)
        for encoder, seen in zip(pair, (views, small))
    ]
    torch.testing.assert_close(critic.losses(views), (each[0] + each[1]) / 2)


def test_the_nearest_words_are_the_best_of_all() -> None:
    encoder = tiny_encoder()
    words = [f"{a}{b}" for a in "abcdef" for b in "ghij"]
    critic = Critic([encoder], [Prompt("cat")], words, Scoring())
    picture = torch.rand(3, 24, 24, generator=chance())
    image = encoder.image_features(encoder.normalize(picture[None]))[0].double()
    logits = encoder.logit_scale * encoder.encode_text(words).double() @ image
    probabilities = (logits.exp() / logits.exp().sum()).tolist()
    expected = sorted(zip(words, probabilities), key=lambda pair: -pair[1])
    for top in (1, 5, 24, 100):
        found = critic.nearest(picture, top)
        assert [word for word, _ in found] == [word for word, _ in expected[:top]]
        assert [p for _, p in found] == pytest.approx([p for _, p in expected[:top]], abs=1e-5)
    assert Critic([encoder], [Prompt("cat")], (), Scoring()).nearest(picture) == ()


@pytest.mark.parametrize("weight", [0.0, math.nan, math.inf, -math.inf, 10.1, -11.0])
def test_a_weight_that_means_nothing_is_refused(weight: float) -> None:
    with pytest.raises(InputError, match="weight lies between -10 and 10 and is not 0"):
        Prompt("a cat", weight)


@pytest.mark.parametrize("count", [0, 9])
def test_no_prompt_or_too_many_are_refused(count: int) -> None:
    with pytest.raises(InputError, match=f"1 to 8 prompts, not {count}"):
        Critic([tiny_encoder()], [Prompt("a")] * count, (), Scoring())
