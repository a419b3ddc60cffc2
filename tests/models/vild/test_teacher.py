"""What the teacher is shown of a region: crops as Pillow makes them, grown, cut off at the edge."""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from models.vild import teacher
from models.vild.teacher import GROWN, crop_embeddings, crops, grow

pytestmark = pytest.mark.usefixtures("one_thread")


def smooth(height: int, width: int) -> Tensor:
    """(3, height, width) in [0, 1], slow waves: there two ways of resampling agree."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    waves = [torch.sin(x / 9 + y / 14), torch.cos(x / 15 - y / 8), torch.sin(y / 11)]
    return torch.stack(waves) / 2 + 0.5


def pil_crop(picture: Tensor, box: list[float], size: int) -> Tensor:
    image = Image.fromarray((picture.permute(1, 2, 0) * 255).round().byte().numpy())
    resized = image.resize((size, size), Image.Resampling.BILINEAR, box=tuple(box))
    return torch.from_numpy(np.array(resized)).permute(2, 0, 1) / 255


@pytest.mark.parametrize(
    "box",
    [
        [10, 20, 42, 52],  # as large as the crop
        [0, 0, 120, 90],  # the whole picture, squashed
        [30, 10, 110, 26],  # wide
        [50, 5, 62, 85],  # high
        [7.5, 8.25, 30.75, 41.5],  # between pixels
    ],
)
def test_a_crop_is_pillows(box: list[float]) -> None:
    picture = smooth(90, 120)
    (found,) = crops(picture, torch.tensor([box]), 32)
    assert found.shape == (3, 32, 32)
    # At the edge of a crop roi_align reads the neighbours outside it, Pillow only what is inside.
    difference = (found - pil_crop(picture, box, 32)).abs()
    assert difference.mean() < 0.01
    assert difference[:, 2:-2, 2:-2].max() < 0.03


def test_a_crop_of_its_own_size_is_the_pixels_themselves() -> None:
    picture = torch.rand(3, 20, 20, generator=torch.Generator().manual_seed(0))
    (found,) = crops(picture, torch.tensor([[4.0, 6.0, 12.0, 14.0]]), 8)
    # Two samples a side at a quarter and three quarters of a pixel: their mean leaves 3/4 and 1/8s.
    line = F.conv2d(picture[:, None], torch.tensor([[1.0, 6, 1]])[None, None] / 8, padding=(0, 1))
    both = F.conv2d(line, torch.tensor([[1.0], [6], [1]])[None, None] / 8, padding=(1, 0))[:, 0]
    torch.testing.assert_close(found, both[:, 6:14, 4:12])


@pytest.mark.parametrize(
    ("box", "inside"),
    [
        ([-30, -20, 40, 50], [0, 0, 40, 50]),
        ([80, 60, 500, 400], [80, 60, 120, 90]),
        ([-5, -5, 200, 200], [0, 0, 120, 90]),
        ([30, 40, 30, 40], [30, 40, 31, 41]),  # no area: one pixel
        ([50, 20, 40, 60], [50, 20, 51, 60]),  # inside out
        ([300, 200, 400, 250], [119, 89, 120, 90]),  # outside: the nearest corner
        ([-40, -40, -10, -10], [0, 0, 1, 1]),
    ],
)
def test_what_lies_outside_is_cut_off(box: list[float], inside: list[float]) -> None:
    picture = smooth(90, 120)
    found, expected = crops(picture, torch.tensor([box, inside], dtype=torch.float32), 16)
    assert found.isfinite().all()
    assert torch.equal(found, expected)


def test_grown_boxes_keep_their_centre_and_shape() -> None:
    boxes = torch.tensor([[10.0, 20, 30, 60], [-4, 0, 4, 2]])
    assert grow(boxes, 1.5).tolist() == [[5, 10, 35, 70], [-6, -0.5, 6, 2.5]]
    assert torch.equal(grow(boxes, 1.0), boxes)


class MeanClip:
    """Its vector of a picture is the mean colour, less what `normalize` takes; counts batches."""

    image_size, embed_dim = 8, 3

    def __init__(self) -> None:
        self.batches: list[int] = []

    def normalize(self, pixels: Tensor) -> Tensor:
        return pixels - 0.25

    def image_features(self, pixels: Tensor) -> Tensor:
        self.batches.append(len(pixels))
        return F.normalize(pixels.mean((2, 3)), dim=1)


def embeddings(picture: Tensor, boxes: Tensor) -> tuple[Tensor, MeanClip]:
    clip: Any = MeanClip()
    return crop_embeddings(clip, picture, boxes), clip


def test_two_crops_are_added_and_normalised() -> None:
    """A red square in a green field: the second crop sees 4/9 red."""
    picture = torch.tensor([0.25, 1.0, 0.25]).view(3, 1, 1).expand(3, 60, 60).clone()
    picture[:, 20:40, 20:40] = torch.tensor([1.0, 0.25, 0.25]).view(3, 1, 1)
    found, _ = embeddings(picture, torch.tensor([[20.0, 20, 40, 40]]))
    red, green = torch.tensor([1.0, 0, 0]), torch.tensor([0, 1.0, 0])
    share = 1 / GROWN**2
    mixed = F.normalize(share * red + (1 - share) * green, dim=0)
    expected = F.normalize(red + mixed, dim=0)
    torch.testing.assert_close(found[0], expected, atol=0.05, rtol=0)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(1))
    alone = F.normalize(mixed, dim=0)
    assert (found[0] - alone).norm() > 0.1  # neither crop alone
    assert (found[0] - red).norm() > 0.1


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(teacher, "CROPS_AT_ONCE", 4)
    return None


@pytest.mark.usefixtures("small_batches")
@pytest.mark.parametrize("count", [0, 1, 4, 9])
def test_regions_keep_their_order_through_batches(count: int) -> None:
    picture = smooth(50, 50)
    low = torch.arange(count)[:, None] * torch.tensor([[4.0, 3.0]])
    boxes = torch.cat([low, low + 10], 1)
    found, clip = embeddings(picture, boxes)
    assert found.shape == (count, 3)
    assert sum(clip.batches) == 2 * count
    assert max(clip.batches, default=0) <= 4
    for row, box in zip(found, boxes):
        torch.testing.assert_close(row, embeddings(picture, box[None])[0][0])
    if count > 1:
        assert all((a - b).norm() > 1e-3 for a, b in pairwise(found))


def test_nothing_is_learnt_through_the_teacher() -> None:
    picture = smooth(30, 30).requires_grad_()
    found, _ = embeddings(picture, torch.tensor([[2.0, 2, 20, 20]]))
    assert not found.requires_grad
