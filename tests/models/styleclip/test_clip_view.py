"""What CLIP sees of a generator's picture, against plain versions of the same."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from models.errors import InputError
from models.styleclip.clip_view import ClipView, antialias_matrix, reference_matrix
from tests.critic_support import tiny_encoder

pytestmark = pytest.mark.usefixtures("one_thread")


def picture(side: int, count: int = 2) -> Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(side)).double()


def whole(view: ClipView, side: int) -> list[tuple[range, range]]:
    return view.windows(side, torch.Generator())[:1]


@pytest.mark.parametrize("side", [32, 64, 96, 128])
def test_the_references_way_is_nearest_and_mean(side: int) -> None:
    image = picture(side)
    large = F.interpolate(image, scale_factor=7, mode="nearest")
    plain = F.avg_pool2d(large, side // 32)
    view, clip = ClipView("reference"), SimpleNamespace(image_size=224)
    assert torch.allclose(view.pixels(clip, image, whole(view, side)), plain, atol=1e-13)


@pytest.mark.parametrize("side", [8, 24, 40, 128])
def test_the_proper_way_is_antialiased_and_normalised(side: int) -> None:
    clip, image = tiny_encoder(side=24), picture(side)
    size = (clip.image_size, clip.image_size)
    plain = F.interpolate(image, size, mode="bilinear", antialias=True, align_corners=False)
    expected = (plain / 2 + 0.5 - 0.5) / 0.5  # to [0, 1], then this encoder's mean and deviation
    seen = ClipView().pixels(clip, image, whole(ClipView(), side))
    assert torch.allclose(seen, expected, atol=1e-12)


def test_no_row_brightens_or_darkens() -> None:
    for matrix in (reference_matrix(96), antialias_matrix(96, 24), antialias_matrix(8, 24)):
        assert torch.allclose(matrix.sum(1), torch.ones(len(matrix)).double())


def test_windows_lie_in_the_picture_and_repeat_with_their_seed() -> None:
    view = ClipView(crops=16, smallest=0.6)
    windows = view.windows(100, torch.Generator().manual_seed(1))
    assert windows[0] == (range(100), range(100))
    assert windows == view.windows(100, torch.Generator().manual_seed(1))
    assert windows != view.windows(100, torch.Generator().manual_seed(2))
    for rows, columns in windows:
        assert len(rows) == len(columns) >= 60
        assert rows.start >= 0
        assert rows.stop <= 100
        assert columns.start >= 0
        assert columns.stop <= 100
    assert len({len(rows) for rows, _ in windows}) > 4
    assert len({rows.start for rows, _ in windows}) > 4


def test_a_window_shows_that_part_of_every_picture() -> None:
    clip, image = tiny_encoder(side=24), picture(64)
    window = (range(10, 60), range(3, 53))
    part = image[:, :, 10:60, 3:53]
    seen = ClipView().pixels(clip, image, [window])
    assert torch.equal(seen, ClipView().pixels(clip, part, [(range(50), range(50))]))
    features = ClipView().features(clip, image, [window, *whole(ClipView(), 64)])
    assert features.shape == (2, 2, 16)
    assert torch.allclose(features[0], clip.image_features(seen), atol=1e-6)


def test_reference_windows_have_sides_that_its_pooling_takes() -> None:
    view = ClipView("reference", crops=8, smallest=0.5)
    windows = view.windows(128, torch.Generator().manual_seed(0))
    assert {len(rows) % 32 for rows, _ in windows} == {0}
    seen = view.pixels(SimpleNamespace(image_size=224), picture(128, 1), windows)
    assert seen.shape == (9, 3, 224, 224)


@pytest.mark.parametrize("side", [16, 48, 100])
def test_the_references_way_refuses_other_sides(side: int) -> None:
    view, clip = ClipView("reference"), SimpleNamespace(image_size=224)
    with pytest.raises(InputError, match=f'not {side}; choose "proper"'):
        view.pixels(clip, picture(side), whole(view, side))


def test_the_references_way_refuses_an_encoder_of_another_size() -> None:
    with pytest.raises(InputError, match='takes 24 px; choose "proper"'):
        ClipView("reference").pixels(tiny_encoder(side=24), picture(64), whole(ClipView(), 64))


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"preprocessing": "best"}, "choose one of proper, reference"),
        ({"crops": -1}, "0 to 16 cropped views"),
        ({"crops": 17}, "0 to 16 cropped views"),
        ({"smallest": 0.2}, "0.5 to 1 of a side"),
        ({"smallest": float("nan")}, "0.5 to 1 of a side"),
    ],
)
def test_a_wrong_view_is_refused(values: dict[str, object], problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        ClipView(**values)
