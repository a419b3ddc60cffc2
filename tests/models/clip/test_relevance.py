"""Relevance maps: for every kind of tower, and right about two-object scenes with clip-mini."""

from collections.abc import Callable
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from open_clip.model import (
    CLIP,
    CLIPTextCfg,
    CLIPVisionCfg,
    CustomTextCLIP,
    set_model_preprocess_cfg,
)
from PIL import Image

from models.clip import ClipEncoder
from models.clip.relevance import AttentionRecorder, RelevanceMap, blend, explain, resized
from models.errors import InputError
from models.jobs import run_to_end
from tests.clip_support import mini, noise, two_object_scenes

LABELS = ("a cat", "a rocket", "a loaf of bread")
TEXT = CLIPTextCfg(context_length=16, vocab_size=49408, width=32, heads=2, layers=1)


def encoder(vision: CLIPVisionCfg, resize_mode: str = "shortest") -> ClipEncoder:
    """A small untrained CLIP whose image tower is built as the published ones are."""
    torch.manual_seed(0)
    kind = CustomTextCLIP if vision.timm_model_name else CLIP
    model = kind(embed_dim=32, vision_cfg=vision, text_cfg=TEXT)
    for name, parameter in model.visual.named_parameters():
        if name.endswith("bn3.weight"):  # zero at birth: the blocks would pass nothing on
            torch.nn.init.ones_(parameter)
    size = model.visual.image_size
    size = size[0] if isinstance(size, tuple) else size
    config = {**open_clip.transform.PreprocessCfg().__dict__, "size": (size, size)}
    set_model_preprocess_cfg(model, {**config, "resize_mode": resize_mode})
    transform = open_clip.transform.image_transform_v2(
        open_clip.transform.PreprocessCfg(**model.visual.preprocess_cfg), is_train=False
    )
    tokenize = open_clip.SimpleTokenizer(context_length=16)
    return ClipEncoder("small", model, tokenize, transform)


TOWERS: dict[str, tuple[Callable[[], ClipEncoder], tuple[int, int]]] = {
    "ResNet, as clip-mini": (mini, (12, 12)),
    "ViT with a class token, as ViT-B/32": (
        lambda: encoder(
            CLIPVisionCfg(layers=3, width=64, head_width=32, patch_size=8, image_size=40)
        ),
        (5, 5),
    ),
    "ModifiedResNet with attention pool, as RN50": (
        lambda: encoder(CLIPVisionCfg(layers=(1, 1, 1, 1), width=8, image_size=96)),
        (6, 6),
    ),
    "timm ViT with attention pool, as SigLIP 2": (
        lambda: encoder(
            CLIPVisionCfg(
                timm_model_name="test_vit3", timm_pool="map", timm_proj="linear", image_size=160
            ),
            "squash",
        ),
        (10, 10),
    ),
}


def explained(clip: ClipEncoder, picture: Image.Image, chosen: int, **options: Any) -> RelevanceMap:
    return run_to_end(explain(clip, picture, LABELS, chosen, templates="none", **options))


@pytest.fixture(scope="module", params=list(TOWERS), ids=list(TOWERS))
def tower(request: pytest.FixtureRequest) -> tuple[ClipEncoder, tuple[int, int]]:
    build, shape = TOWERS[request.param]
    return build(), shape


def test_a_map_has_the_towers_grid_and_fills_0_to_1(tower: Any) -> None:
    clip, shape = tower
    heat = explained(clip, noise(1), 0)
    assert heat.label == LABELS[0]
    assert heat.grid.shape == shape
    assert heat.grid.dtype == np.float32
    assert (heat.grid.min(), heat.grid.max()) == (0, 1)


def test_a_map_is_the_same_every_time_and_another_for_another_label(tower: Any) -> None:
    clip, _ = tower
    first, again, other = (explained(clip, noise(1), chosen) for chosen in (0, 0, 1))
    np.testing.assert_array_equal(first.grid, again.grid)
    assert np.abs(first.grid - other.grid).max() > 0.01


def test_explaining_leaves_no_trace_in_the_model(tower: Any) -> None:
    clip, _ = tower
    before = clip.image_features(clip.preprocess(noise(2))[None])
    explained(clip, noise(3), 0)
    torch.testing.assert_close(clip.image_features(clip.preprocess(noise(2))[None]), before)
    assert all(p.grad is None and not p.requires_grad for p in clip.model.parameters())
    assert not any(module._forward_hooks for module in clip.model.modules())


@pytest.mark.parametrize("name", [name for name in TOWERS if "ViT" in name])
def test_recorded_attention_computes_what_the_tower_computes(name: str) -> None:
    clip = TOWERS[name][0]()
    pixels = clip.preprocess(noise(4))[None]
    with AttentionRecorder() as recorder:
        recorded = clip.image_features(pixels)
    torch.testing.assert_close(recorded, clip.image_features(pixels), atol=1e-5, rtol=1e-4)
    assert len(recorder.maps) >= 3
    for weights in recorder.maps:  # (B, heads, Tq, Tk)
        torch.testing.assert_close(weights.sum(dim=-1), torch.ones(weights.shape[:-1]))


def test_one_label_alone_can_be_explained() -> None:
    heat = run_to_end(explain(mini(), noise(5), ["a cat"], 0))
    assert np.isfinite(heat.grid).all()


def test_a_tower_of_no_known_kind_is_refused() -> None:
    class Odd(torch.nn.Module):
        image_size = 32
        preprocess_cfg = mini().model.visual.preprocess_cfg

    clip = encoder(CLIPVisionCfg(layers=1, width=32, head_width=32, patch_size=8, image_size=32))
    clip.model.visual = Odd()
    with pytest.raises(InputError, match="cannot be explained"):
        explained(clip, noise(6), 0)


@pytest.mark.parametrize(
    ("mode", "size", "box"),
    [
        ("squash", (200, 100), (0, 0, 200, 100)),
        ("shortest", (200, 100), (50, 0, 150, 100)),  # cut off left and right
        ("longest", (200, 100), (0, -50, 200, 150)),  # padded above and below
    ],
)
def test_a_map_knows_which_part_of_the_picture_it_covers(
    mode: str, size: tuple[int, int], box: tuple[int, int, int, int]
) -> None:
    vision = CLIPVisionCfg(layers=1, width=32, head_width=32, patch_size=8, image_size=32)
    heat = explained(encoder(vision, mode), noise(7, size), 0)
    assert heat.box == box
    over = heat.over(size)
    assert over.shape == (size[1], size[0])
    if mode == "shortest":
        assert not over[:, :50].any()
        assert not over[:, 150:].any()


def hot_corner() -> RelevanceMap:
    grid = np.zeros((4, 4), np.float32)
    grid[0, 3] = 1
    return RelevanceMap("x", grid, (0, 0, 80, 40))


def test_the_peak_is_a_place_in_the_picture() -> None:
    assert hot_corner().peak == (70, 5)
    assert resized(hot_corner(), 0.5).peak == (35, 2.5)


@pytest.mark.parametrize("opacity", [0.0, 0.5, 1.0])
def test_blending_is_gentle_where_nothing_is_and_strong_at_the_peak(opacity: float) -> None:
    picture = Image.new("RGB", (80, 40), (0, 0, 255))
    changed = np.abs(
        np.asarray(blend(picture, hot_corner(), opacity), np.int16) - np.asarray(picture, np.int16)
    ).sum(axis=2)
    if opacity == 0:
        assert not changed.any()
    else:
        assert changed[5, 70] > changed[35, 5] > 0


def test_maps_of_clip_mini_peak_on_the_named_object() -> None:
    """Issue 2, section 5: at least 85% of maps over 200 scenes of two objects."""
    hits = 0
    for scene in two_object_scenes(200, seed=7):
        heat = run_to_end(explain(mini(), scene.picture, scene.names, 0))
        (x, y), (x1, y1, x2, y2) = heat.peak, scene.boxes[0]
        hits += x1 <= x <= x2 and y1 <= y <= y2
    assert hits >= 170, f"only {hits} of 200 maps peak inside the named object's box"
