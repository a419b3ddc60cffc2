"""Which strokes matter: against leaving each one out and rendering all the others anew."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from models.clipdraw.config import WHITE, DrawConfig
from models.clipdraw.critic import Augmentation, Critic
from models.clipdraw.drawing import Drawing, draw, prompts_of
from models.clipdraw.ranking import CHUNK, importance
from models.clipdraw.rasterizer import over, render
from models.clipdraw.strokes import Strokes
from models.jobs import run_to_end
from tests.critic_support import tiny_encoder

WORDS = ("a boat", "a tree", "a house")


def ranked(count: int, canvas: tuple[int, int]) -> tuple[Critic, Drawing]:
    config = replace(
        DrawConfig.mini(), strokes=count, steps=2, canvas=canvas, start="random", reseed_every=0
    )
    encoder = tiny_encoder()
    drawing = run_to_end(draw([encoder], prompts_of("a boat"), config, words=WORDS))
    return Critic([encoder], drawing.prompts, WORDS, config.scoring), drawing


def score(critic: Critic, strokes: Strokes) -> float:
    """Of all strokes as the critic sees a square canvas, whole and unchanged."""
    image = over(render(strokes.scaled(critic.side / max(strokes.canvas))), torch.tensor(WHITE))
    views = Augmentation.none().views(image.permute(2, 0, 1), critic.side, torch.Generator())
    return -float(critic.loss(views))


@pytest.mark.parametrize("count", [1, CHUNK, CHUNK + 5])
def test_importance_is_what_the_score_loses_without_a_stroke(count: int) -> None:
    critic, drawing = ranked(count, (48, 48))
    whole = score(critic, drawing.strokes)
    others = [torch.arange(count) != k for k in range(count)]
    slow = [whole - score(critic, drawing.strokes.select(keep)) for keep in others]
    quick = run_to_end(importance(critic, drawing))
    torch.testing.assert_close(quick, torch.tensor(slow), atol=2e-6, rtol=1e-4)


def test_what_is_painted_over_matters_less_than_what_hides_it() -> None:
    critic, drawing = ranked(2, (48, 48))
    strokes = drawing.strokes
    black = torch.tensor([[0.0, 0, 0, 1.0], [0.0, 0, 0, 1.0]])
    twice = replace(
        strokes.select(torch.tensor([0, 0])), colors=black, half_widths=torch.tensor([2.0, 9.0])
    )
    hidden, above = run_to_end(importance(critic, replace(drawing, strokes=twice))).tolist()
    assert hidden == pytest.approx(0, abs=1e-6)
    assert abs(above) > 1e-5


def test_a_long_ranking_can_be_stopped_between_its_chunks() -> None:
    critic, drawing = ranked(2 * CHUNK + 1, (48, 48))
    job = importance(critic, drawing)
    assert next(job).fraction == pytest.approx(CHUNK / (2 * CHUNK + 1))
    job.close()
