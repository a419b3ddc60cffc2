"""Which strokes carry a drawing: the more the score falls without one, the more it matters."""

from __future__ import annotations

import torch
from torch import Tensor

from models.jobs import Job, Step

from .critic import Critic
from .drawing import Drawing, plain_look
from .rasterizer import onto, render
from .strokes import Strokes

CHUNK = 16  # strokes looked at in one go: bounds memory, and the time between two steps


@torch.no_grad()
def _scores(critic: Critic, layers: Tensor, drawing: Drawing) -> Tensor:
    """(n,) scores of pictures (n, h, w, 4), premultiplied, seen whole on the drawing's ground."""
    ground = drawing.config.background
    return -critic.losses(torch.stack([plain_look(x, critic.side, ground) for x in layers]))


def importance(critic: Critic, drawing: Drawing) -> Job[Tensor]:
    """How much each stroke adds to the score, by leaving it out.

    What lies under a stroke and what lies over it are running composites, so that leaving it out
    is two "over"s and one look of the critic; only a chunk's layers are held at a time.

    Returns:
        (N,) score of the whole minus the score without the stroke; larger matters more.
    """
    strokes = drawing.strokes
    small = strokes.scaled(critic.side / max(strokes.canvas)).to(critic.device)
    chunks = list(torch.arange(len(small)).split(CHUNK))  # type: ignore[no-untyped-call]
    above = [torch.zeros_like(_layer(small, chunks[0]))]
    for chunk in reversed(chunks[1:]):
        above.append(onto(above[-1], _layer(small, chunk)))
    below, scores = torch.zeros_like(above[0]), []
    for chunk in chunks:
        over = above.pop()
        layers = [_layer(small, chunk[k : k + 1]) for k in range(len(chunk))]
        tops = [over]
        for layer in reversed(layers[1:]):
            tops.append(onto(tops[-1], layer))
        without = []
        for layer in layers:
            without.append(onto(tops.pop(), below))
            below = onto(layer, below)
        scores.append(_scores(critic, torch.stack(without), drawing))
        yield Step((int(chunk[-1]) + 1) / len(small), "Ranking the strokes")
    return (_scores(critic, below[None], drawing) - torch.cat(scores)).cpu()


@torch.no_grad()
def _layer(strokes: Strokes, index: Tensor) -> Tensor:
    return render(strokes.select(index))
