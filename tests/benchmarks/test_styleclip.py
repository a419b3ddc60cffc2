"""The benchmark of the edits compares ways that compute the same."""

from __future__ import annotations

import itertools
import time
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks import styleclip
from benchmarks.measure import in_turn
from benchmarks.styleclip import (
    WAYS,
    Scene,
    absolute_rows,
    plain_synthesis,
    plain_view,
    prompt_cost,
    random_generator,
    step_costs,
    table_cost,
)
from models.clip.encoder import ClipEncoder
from models.styleclip.clip_view import ClipView
from models.styleclip.derivative import ProbeSettings
from models.styleclip.secant import SecantSettings
from models.stylegan.generator import GeneratorConfig
from models.stylegan.latent import Latent


class SmallClip(nn.Module):
    """open_clip's interface over two linear maps."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.visual = nn.Conv2d(3, 8, 32, stride=32)
        self.words = nn.Embedding(50_000, 8)
        self.logit_scale = nn.Parameter(torch.zeros(()))
        settings: Any = self.visual
        settings.image_size, settings.preprocess_cfg = 224, {"mean": (0.5,) * 3, "std": (0.5,) * 3}

    def encode_image(self, pixels: Tensor) -> Tensor:
        return torch.tanh(self.visual(pixels)).mean((2, 3))

    def encode_text(self, tokens: Tensor) -> Tensor:
        return self.words(tokens).mean(1)


def small_scene() -> Scene:
    import open_clip

    model = SmallClip()
    tokenize = open_clip.get_tokenizer("ViT-B-32-quickgelu")

    def preprocess(picture: Any) -> Tensor:
        return torch.zeros(3, 224, 224) + picture.getpixel((0, 0))[0] / 255

    clip = ClipEncoder("small", model, tokenize, preprocess)
    generator = random_generator(GeneratorConfig.tiny())
    return Scene(generator, clip, Latent.from_seed(generator, 1))


def test_the_reference_draws_the_same_pictures() -> None:
    generator = random_generator(GeneratorConfig.tiny()).double()
    w = torch.randn(3, generator.rows, generator.latent_size, dtype=torch.float64)
    styles = generator.styles(w)
    torch.testing.assert_close(plain_synthesis(generator, styles), generator.synthesize(styles))


@pytest.mark.parametrize("side", [32, 64, 96])
def test_the_reference_shows_clip_the_same(side: int) -> None:
    images = torch.rand(1, 3, side, side, dtype=torch.float64)
    clip: Any = SimpleNamespace(image_size=224)
    seen = ClipView("reference").pixels(clip, images, [(range(side), range(side))])
    torch.testing.assert_close(plain_view(images), seen)


def test_the_step_has_the_same_gradient_either_way() -> None:
    ticks = itertools.count()
    costs = step_costs(small_scene(), 2, lambda: float(next(ticks)))
    assert costs.seconds == dict.fromkeys(WAYS, 1.0)
    assert costs.difference < 1e-4
    assert costs.agreement > 1 - 1e-6
    assert 0.99 < costs.cosine < 1  # not the same arithmetic


def test_what_is_compared_runs_in_turn_and_once_for_nothing() -> None:
    now = [0.0]
    order: list[str] = []
    seconds = iter([9.0, 9.0, 1.0, 5.0, 3.0, 6.0, 2.0, 7.0])

    def work(name: str) -> None:
        order.append(name)
        now[0] += next(seconds)

    works = {name: lambda name=name: work(name) for name in "ab"}  # type: ignore[misc]
    assert in_turn(works, 3, lambda: now[0]) == {"a": 2.0, "b": 6.0}
    assert order == ["a", "b"] * 4


def test_the_table_counts_both_ends_of_every_channel_in_every_picture() -> None:
    scene = small_scene()
    channels = sum(slot.size for slot in scene.generator.layout if not slot.is_rgb)
    few = table_cost(scene, SecantSettings(images=2), time.process_time)
    assert few.renderings == channels * 2 * 2
    assert few.seconds > 0


def test_a_table_costs_each_channel_from_its_layer_on() -> None:
    ticks = itertools.count()  # every stage, and the look, takes 1
    scene = small_scene()
    table = table_cost(scene, SecantSettings(images=1), lambda: float(next(ticks)))
    layout = scene.generator.layout
    expected = sum(
        2 * slot.size * (len(layout) - index + 1)
        for index, slot in enumerate(layout)
        if not slot.is_rgb
    )
    assert table.seconds == pytest.approx(expected)


def test_a_prompt_costs_one_gradient_for_every_picture() -> None:
    ticks = itertools.count()
    settings = ProbeSettings(images=5)
    assert prompt_cost(small_scene(), settings, lambda: float(next(ticks))) == 5


def test_whole_edits_are_timed_beside_the_papers() -> None:
    head, *rows = absolute_rows(small_scene(), 2, 1, time.process_time)
    assert head == ("edit at 32 px", "here", "the paper")
    assert [(row[0], row[2]) for row in rows] == [
        ("optimised edit", "98 s"),
        ("mapper", "0.075 s"),
        ("direction", "0.072 s"),
    ]
    assert all(float(row[1].split()[0]) > 0 for row in rows)


def test_the_slider_is_timed_with_and_without_a_prefix() -> None:
    head, *rows = styleclip.slider_rows(1)
    assert head[0].startswith("slider step, stylegan2-mini")
    assert [row[0] for row in rows] == ["every layer changes", "layers from 64 px on"]


def test_zero_insertion_is_the_reference_of_enlarging() -> None:
    x = torch.zeros(1, 1, 3, 3)
    x[0, 0, 1, 1] = 1
    line = torch.tensor([1.0, 3.0, 3.0, 1.0])
    spread = styleclip.upfirdn(x, 2, (2, 1))
    torch.testing.assert_close(spread[0, 0, 1:5, 1:5], torch.outer(line, line) / 16)
    torch.testing.assert_close(F.pad(spread, (0, 0)).sum(), torch.tensor(4.0))


def test_an_unknown_size_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        styleclip.main(["--size", "100"])
    assert "--size" in capsys.readouterr().err
