"""Ranking strokes as a job: in chunks, to be stopped between them (what it finds: test_drawing)."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from models.clipdraw.config import DrawConfig
from models.clipdraw.critic import Critic
from models.clipdraw.drawing import Drawing, draw, plain_look, prompts_of
from models.clipdraw.ranking import CHUNK, importance
from models.clipdraw.rasterizer import render
from models.clipdraw.strokes import Strokes
from models.jobs import run_to_end
from tests.critic_support import tiny_encoder

WORDS = ("a boat", "a tree", "a house")


def ranked(count: int) -> tuple[Critic, Drawing]:
    config = replace(DrawConfig.mini(), strokes=count, steps=1, canvas=(48, 48), start="random")
    encoder = tiny_encoder()
    drawing = run_to_end(draw([encoder], prompts_of("a boat"), config, words=WORDS))
    return Critic([encoder], drawing.prompts, WORDS, config.scoring), drawing


@pytest.mark.parametrize("count", [1, CHUNK, CHUNK + 1])
def test_chunks_do_not_show(count: int) -> None:
    critic, drawing = ranked(count)
    small = drawing.strokes.scaled(critic.side / 48)

    def score(strokes: Strokes) -> float:
        look = plain_look(render(strokes), critic.side, drawing.config.background)
        return -float(critic.loss(look[None]))

    found = run_to_end(importance(critic, drawing))
    assert found.shape == (count,)
    for k in {0, count // 2, count - 1}:
        without = score(small.select(torch.arange(count) != k))
        assert float(found[k]) == pytest.approx(score(small) - without, abs=2e-6)


def test_a_ranking_can_be_stopped_between_its_chunks() -> None:
    job = importance(*ranked(2 * CHUNK + 1))
    assert next(job).fraction == pytest.approx(CHUNK / (2 * CHUNK + 1))
    job.close()
