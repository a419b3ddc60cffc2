"""The network as a whole, how pictures reach it, and how its answers become detections."""

from __future__ import annotations

import math
from dataclasses import replace
from math import ceil

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from models.errors import InputError
from models.vild import Vild, VildConfig
from models.vild.names import official_names, state_from_official
from models.vild.postprocess import (
    corrected_boxes,
    paste_masks,
    rank_by_class,
    rank_by_name,
    select_regions,
)
from models.vild.preprocess import prepare, resize_like_tensorflow, resized
from models.vild.text import TextClassifier, ensemble_probabilities, text_probabilities
from tests.vild_support import small_config, vild_weight

pytestmark = pytest.mark.usefixtures("one_thread")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# -------------------------------------------------------------------------------------- network


@pytest.mark.parametrize(
    ("config", "limit"), [(VildConfig.mini(), 2.4e6), (VildConfig.mini_single(), 1.4e6)]
)
def test_mini_models_stay_small(config: VildConfig, limit: float) -> None:
    """4.8 MB in half precision, its tower not counted: glip-mini stands on the same."""
    learnt = Vild(config).learnt()
    assert sum(tensor.numel() for tensor in learnt.values()) < limit
    assert not any(key.startswith("backbone.") for key in learnt)


@pytest.mark.parametrize(
    "config", [VildConfig.mini(), VildConfig.mini_single(), small_config()], ids=lambda c: c.name
)
@torch.no_grad()
def test_shapes(config: VildConfig) -> None:
    torch.manual_seed(0)
    vild = Vild(config).eval()
    levels = vild.encode_image(torch.randn(2, 3, 64, 128))
    sides = [(level.shape[2], level.shape[3]) for level in levels]
    pyramid = [(64 // stride, 128 // stride) for stride in config.strides]
    views = [tuple(ceil(round(side * s) / 32) for side in (64, 128)) for s in config.views]
    assert sides == pyramid + views
    proposals = vild.propose(levels, [(128, 64), (100, 64)])
    assert proposals.boxes.shape[0] == 2
    assert proposals.boxes[1, :, 0].max() <= 99
    boxes = [proposals.boxes[0, :5], proposals.boxes[1, :3]]
    regions = vild.regions(levels, boxes)
    assert regions.embeddings.shape == (8, config.embedding)
    assert regions.deltas.shape == (8, 4)
    assert torch.allclose(regions.embeddings.norm(dim=1), torch.ones(8))
    assert (regions.image_embeddings is not None) is config.ensemble
    imitations = vild.imitations(levels, boxes)
    expected = regions.image_embeddings if config.ensemble else regions.embeddings
    assert torch.equal(imitations, expected)
    assert vild.masks(levels, boxes).shape == (8, 28, 28)


@torch.no_grad()
def test_pictures_of_a_batch_do_not_see_each_other() -> None:
    torch.manual_seed(0)
    vild = Vild(VildConfig.mini()).eval()
    pixels = torch.randn(2, 3, 64, 64)
    proposals, regions = vild(pixels, [(64, 64)] * 2)
    alone, _ = vild(pixels[1:], [(64, 64)])
    boxes = alone.boxes[:, :4]
    assert torch.allclose(boxes, proposals.boxes[1:, :4], atol=1e-4)
    levels = vild.encode_image(pixels[1:])
    count = proposals.boxes.shape[1]
    expected = vild.regions(levels, proposals.boxes[1:]).embeddings
    assert torch.allclose(regions.embeddings[count:], expected, atol=1e-5)


def test_the_frozen_tower_stays_as_it_is() -> None:
    vild = Vild(VildConfig.mini()).train()
    assert vild.fpn.training
    assert not vild.backbone.training
    before = {key: value.clone() for key, value in vild.backbone.state_dict().items()}
    levels = vild.encode_image(torch.randn(2, 3, 64, 64))
    levels[0].sum().backward()
    for key, value in vild.backbone.state_dict().items():
        assert torch.equal(value, before[key])


def test_masks_of_a_model_without() -> None:
    vild = Vild(replace(VildConfig.mini(), name="plain", mask=False))
    with pytest.raises(ValueError, match="plain has no mask head"):
        vild.masks([torch.zeros(1, 64, 8, 8)], torch.zeros(1, 1, 4))


@torch.no_grad()
def test_pooling_pads_below_and_to_the_right() -> None:
    """TensorFlow's "same" padding of even sides: a window starts at every even row and column."""
    vild = Vild(small_config())
    pixels = torch.randn(1, 2, 8, 6, generator=seeded())
    found = vild.backbone.maxpool(pixels)
    windows = [
        pixels[..., y : y + 3, x : x + 3].amax((2, 3)) for y in (0, 2, 4, 6) for x in (0, 2, 4)
    ]
    assert torch.equal(found, torch.stack(windows, dim=-1).view(1, 2, 4, 3))


@torch.no_grad()
def test_layouts_of_the_reference() -> None:
    """One layer of every kind, computed as TensorFlow does from its own layout."""
    config = small_config()
    names = official_names(config)
    shapes = {names[k]: v.shape for k, v in Vild(config).state_dict().items() if k in names}
    official: dict[str, np.ndarray] = {}

    def read(name: str) -> np.ndarray:
        official[name] = vild_weight(name, tensorflow_shape(name, shapes[name]), 0)
        return official[name]

    vild = Vild(config)
    vild.load_state_dict(state_from_official(config, read))
    scope = "frcnn_layer_0/fast_rcnn_head"
    maps = torch.randn(2, config.channels, 7, 7, generator=seeded())
    rows = maps.permute(0, 2, 3, 1).reshape(2, -1).numpy()  # height, width, channel
    dense = rows @ official[f"{scope}/fc6/kernel"] + official[f"{scope}/fc6/bias"]
    assert np.allclose(vild.head.fcs[0](maps.flatten(1)), dense, atol=1e-4)
    hidden = torch.randn(2, config.fc, generator=seeded())
    boxes = hidden.numpy() @ official[f"{scope}/box-predict/kernel"]
    boxes += official[f"{scope}/box-predict/bias"]
    assert np.allclose(vild.head.box(hidden)[:, [1, 0, 3, 2]], boxes, atol=1e-5)
    mask = torch.randn(1, config.mask_channels, 2, 3, generator=seeded())
    kernel = official["mask_head/conv5-mask/kernel"]  # h, w, out, in
    upscaled = np.einsum("nihw,kloi->nohkwl", mask.numpy(), kernel)
    upscaled = upscaled.reshape(1, config.mask_channels, 4, 6)
    upscaled += official["mask_head/conv5-mask/bias"][:, None, None]
    assert np.allclose(vild.mask_head.upscale(mask), upscaled, atol=1e-5)


def tensorflow_shape(name: str, ours: torch.Size) -> tuple[int, ...]:
    if len(ours) == 4:
        return ours[2], ours[3], ours[1], ours[0]
    if name.endswith("background-class-predict/kernel"):
        return ours[0], 1
    return tuple(reversed(ours))


# ---------------------------------------------------------------------------------------- names


def test_a_classifier_of_cosines() -> None:
    classifier = TextClassifier(small_config())
    with torch.no_grad():
        classifier.background.copy_(torch.eye(20)[0] * 0.01)
    text = torch.eye(20)[1:3] * torch.tensor([[5.0], [0.1]])
    region = torch.tensor([[0.6, 0.8] + [0.0] * 18])
    assert torch.allclose(classifier(region, text), torch.tensor([[60.0, 80, 0]]), atol=1e-4)
    assert torch.allclose(
        classifier.without_background(region, text), torch.tensor([[80.0, 0]]), atol=1e-4
    )


def test_probabilities_of_the_ensemble() -> None:
    """Equation 5: two thirds of the exponent for the head that knows better."""
    logits = torch.tensor([[1.0, 2.0, 0.5]])
    image = torch.tensor([[0.3, -0.4]])
    text = [math.exp(x) / sum(map(math.exp, (1, 2, 0.5))) for x in (2, 0.5)]
    imitation = [math.exp(x) / sum(map(math.exp, (0.3, -0.4))) for x in (0.3, -0.4)]
    found = ensemble_probabilities(logits, image, torch.tensor([True, False]))[0].tolist()
    assert found[0] == pytest.approx(text[0] ** (2 / 3) * imitation[0] ** (1 / 3), rel=1e-5)
    assert found[1] == pytest.approx(text[1] ** (1 / 3) * imitation[1] ** (2 / 3), rel=1e-5)
    assert text_probabilities(logits)[0].tolist() == pytest.approx(text, rel=1e-5)


# ------------------------------------------------------------------------------------- pictures


@pytest.mark.parametrize(
    ("size", "config", "expected"),
    [
        ((190, 150), VildConfig.r50(), (1024, 808)),
        ((3000, 1500), VildConfig.r50(), (1024, 512)),
        ((100, 2000), VildConfig.r50(), (51, 1024)),
        ((640, 480), VildConfig.mini(), (341, 256)),
        ((256, 256), VildConfig.mini(), (256, 256)),
        ((1200, 300), VildConfig.mini(), (512, 128)),
    ],
)
def test_size_of_the_input(
    size: tuple[int, int], config: VildConfig, expected: tuple[int, int]
) -> None:
    assert resized(*size, config) == expected
    ready = prepare(Image.new("RGB", size), config)
    assert ready.size == expected
    assert all(side % config.size_multiple == 0 for side in ready.padded)
    assert all(0 <= a - b < config.size_multiple for a, b in zip(ready.padded, ready.size))


def test_padding_is_zero_after_normalising() -> None:
    ready = prepare(Image.new("RGB", (64, 32), "white"), replace(VildConfig.mini(), min_size=32))
    assert ready.pixels.shape == (1, 3, 64, 64)
    assert (ready.pixels[..., :32, :] == 1).all()
    assert (ready.pixels[..., 32:, :] == 0).all()


@pytest.mark.parametrize(("old", "new"), [((7, 5), (11, 3)), ((4, 4), (4, 4)), ((5, 9), (2, 30))])
def test_tensorflows_resize_pixel_by_pixel(old: tuple[int, int], new: tuple[int, int]) -> None:
    picture = torch.rand(2, *old, generator=seeded())
    found = resize_like_tensorflow(picture, new[1], new[0])
    for i in range(new[0]):
        for j in range(new[1]):
            y, x = i * old[0] / new[0], j * old[1] / new[1]
            expected = bilinear(picture, y, x)
            assert torch.allclose(found[:, i, j], expected, atol=1e-5)


def bilinear(picture: Tensor, y: float, x: float) -> Tensor:
    top, left = math.floor(y + 1e-6), math.floor(x + 1e-6)
    bottom, right = (min(a + 1, n - 1) for a, n in zip((top, left), picture.shape[1:]))
    upper = picture[:, top, left] * (1 - x + left) + picture[:, top, right] * (x - left)
    lower = picture[:, bottom, left] * (1 - x + left) + picture[:, bottom, right] * (x - left)
    return upper * (1 - y + top) + lower * (y - top)


@pytest.mark.parametrize("size", [(7, 100), (100, 7), (9, 1000)])
def test_pictures_that_show_nothing(size: tuple[int, int]) -> None:
    with pytest.raises(InputError, match=f"{size[0]:,} x {size[1]:,} pixels"):
        prepare(Image.new("RGB", size), VildConfig.mini())


# ----------------------------------------------------------------------------------- detections


def slow_iou(a: list[float], b: list[float]) -> float:
    (ax1, ax2), (ay1, ay2) = sorted((a[0], a[2])), sorted((a[1], a[3]))
    (bx1, bx2), (by1, by2) = sorted((b[0], b[2])), sorted((b[1], b[3]))
    inside = max(0.0, min(ax2, bx2) - max(ax1, bx1)) * max(0.0, min(ay2, by2) - max(ay1, by1))
    union = (ax2 - ax1) * (ay2 - ay1) + (bx2 - bx1) * (by2 - by1) - inside
    return inside / union if union else 0.0


def slow_ranking(
    boxes: list[list[float]], scores: list[list[float]], nms: float, low: float, most: int
) -> list[tuple[float, int, int]]:
    """(score, class, region), best first: the benchmark's rule, one class and box at a time."""
    found = []
    for column in range(len(scores[0])):
        kept: list[int] = []
        for row in sorted(range(len(boxes)), key=lambda i: (-scores[i][column], i)):
            if scores[row][column] > low and len(kept) < most:
                fine = all(slow_iou(boxes[row], boxes[other]) <= nms for other in kept)
                kept += [row] if fine else []
        found += [(scores[row][column], column, row) for row in kept]
    return sorted(found, key=lambda item: -item[0])[:most]


@pytest.mark.parametrize("seed", range(3))
def test_ranking_by_class(seed: int) -> None:
    corner = torch.randint(0, 20, (40, 2), generator=seeded(seed))
    size = torch.randint(-2, 14, (40, 2), generator=seeded(seed + 9))  # some inside out
    boxes = torch.cat([corner, corner + size], dim=1).float()
    scores = torch.rand(40, 3, generator=seeded(seed)).round(decimals=2)
    found = rank_by_class(boxes, scores, 0.5, 0.1, 30)
    expected = slow_ranking(boxes.tolist(), scores.tolist(), 0.5, 0.1, 30)
    assert found.scores.tolist() == [score for score, _, _ in expected]
    assert found.classes.tolist() == [column for _, column, _ in expected]
    assert found.regions.tolist() == [row for _, _, row in expected]
    assert torch.equal(found.boxes, boxes[found.regions])


def test_an_overlap_of_exactly_the_threshold_may_stay() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 5]])
    assert len(rank_by_class(boxes, torch.tensor([[0.9], [0.8]]), 0.5).scores) == 2


@pytest.mark.parametrize(
    ("boxes", "scores"),
    [(torch.zeros(0, 4), torch.zeros(0, 3)), (torch.rand(4, 4), torch.zeros(4, 0))],
)
def test_ranking_of_nothing(boxes: Tensor, scores: Tensor) -> None:
    assert len(rank_by_class(boxes, scores).scores) == 0


REGIONS = torch.tensor(
    [
        [0.0, 0, 20, 20],
        [0, 0, 20, 18],  # nine tenths of the first
        [0, 0, 20, 12],  # six tenths: may stay
        [50, 50, 52, 52],  # small
        [60, 60, 90, 90],
        [0, 0, 0, 0],  # fills up
    ]
)
OBJECTNESS = torch.tensor([0.95, 0.99, 0.93, 0.92, 0.91, -1])


@pytest.mark.parametrize(
    ("controls", "expected"),
    [
        ({}, [1, 4]),
        ({"nms_threshold": 0.7}, [1, 2, 4]),
        ({"nms_threshold": 0.95}, [1, 0, 2, 4]),
        ({"min_area": 3}, [1, 3, 4]),
        ({"min_area": 4}, [1, 4]),
        ({"min_objectness": 0.92}, [1]),
        ({"min_objectness": 0.91}, [1, 4]),
        ({"max_boxes": 1}, [1]),
        ({"min_objectness": 0, "min_area": -1}, [1, 3, 4]),
    ],
)
def test_what_the_notebook_shows(controls: dict[str, float], expected: list[int]) -> None:
    size = REGIONS[:, 2:] - REGIONS[:, :2]
    objectness = OBJECTNESS.double()
    rows = select_regions(REGIONS.double(), objectness, size.prod(1).double(), **controls)
    assert rows.tolist() == expected


def test_regions_that_look_like_background_have_no_name() -> None:
    scores = torch.tensor([[0.1, 0.3, 0.2], [0.4, 0.3, 0.2], [0.1, 0.2, 0.9]])
    rows, columns = rank_by_name(scores)
    assert rows.tolist() == [2, 0]
    assert columns.tolist() == [2, 1]


def test_corrected_boxes_end_at_the_picture() -> None:
    region = torch.tensor([[10.0, 10, 29, 29]])
    moved = corrected_boxes(torch.tensor([[10.0, 0, 0, 0]]), region, (40, 40))
    assert moved.tolist() == [[30, 10, 39, 29]]  # by its own 20 pixels


def test_masks_fill_their_boxes() -> None:
    """The left half of a box of 20 x 10 pixels, and nothing outside it."""
    logits = torch.full((1, 28, 28), -9.0)
    logits[:, :, :14] = 9
    pasted = paste_masks(logits, torch.tensor([[5.0, 3, 25, 13]]), (40, 30))
    expected = torch.zeros(1, 30, 40, dtype=torch.bool)
    expected[:, 3:13, 5:15] = True
    assert torch.equal(pasted, expected)


def test_masks_over_the_edge_and_without_extent() -> None:
    logits = torch.full((2, 28, 28), 9.0)
    boxes = torch.tensor([[-5.0, -5, 4, 50], [7, 7, 7, 7]])
    pasted = paste_masks(logits, boxes, (10, 8))
    assert pasted[0, :, :4].all()
    assert not pasted[0, :, 4:].any()
    assert not pasted[1].any()
