"""Where glip-mini's training starts: at CLIP's own alignment of pictures and words.

Both of its frozen parts come from clip-mini, whose two projections map a cell of C5 and a token of
MiniLM into one space. From random weights the head first has to find that out (after 1,200 steps it
told names apart no better than chance); so the lateral convolution, the resizer and the last product
begin as those projections, cut to the head's width, and everything between them near the identity.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.catalog import ASSETS, TEACHER
from models.clip.encoder import load_mini
from models.glip.dyhead import DyConv
from models.glip.glip import Glip
from training.grounding_shards import Shard

QUIET = 0.1  # what the usual random weights are multiplied with beside the identity
GAIN = 5.0  # of the last product: a match then stands about 4 above a mismatch
SHORTCUT_GAIN = 12.0  # of cosines
LEAK = 2.4  # hardsigmoid(2.4) = 0.9: the dynamic ReLU starts as a slope of 0.8 below zero


@dataclass(frozen=True)
class Alignment:
    """Affine maps of a cell (256,) and a token (384,) into one space of the head's width.

    Attributes:
        cell, token: (C, 256) and (C, 384).
        cell_bias, token_bias: (C,).
    """

    cell: Tensor
    cell_bias: Tensor
    token: Tensor
    token_bias: Tensor


def clip_projections() -> tuple[Tensor, Tensor]:
    """clip-mini's, of a cell (256, 256) and of a token (256, 384) into its space."""
    encoder = load_mini(ASSETS / TEACHER, torch.device("cpu"), torch.float32)
    state = encoder.model.state_dict()
    return state["visual.head.proj.weight"], state["text.proj.weight"]


def measure_alignment(shard: Shard, width: int) -> Alignment:
    """clip-mini's projections, centred on a shard, cut to the `width` main directions of its words
    and scaled to unit variance."""
    visual, textual = clip_projections()
    cells = shard.stages[2].float().permute(0, 2, 3, 1).flatten(0, 2)  # (n, 256)
    real = torch.arange(shard.text.shape[1])[None] < shard.length[:, None]
    tokens = shard.text[real].float()  # (n, 384)
    centred = (tokens - tokens.mean(0)) @ textual.T
    main = torch.linalg.eigh(centred.T @ centred).eigenvectors.flip(1)[:, :width].T  # (C, 256)
    cell, token = main @ visual, main @ textual
    cell = cell / ((cells - cells.mean(0)) @ cell.T).std()
    token = token / ((tokens - tokens.mean(0)) @ token.T).std()
    return Alignment(cell, -cell @ cells.mean(0), token, -token @ tokens.mean(0))


@torch.no_grad()
def align_with_clip(glip: Glip, shard: Shard) -> None:
    """Set a fresh mini GLIP to CLIP's alignment, in place."""
    width = glip.config.channels
    start = measure_alignment(shard, width)
    lateral, project = glip.fpn.lateral[2], glip.head.text_projection
    assert isinstance(lateral, nn.Conv2d)
    lateral.weight.copy_(start.cell[:, :, None, None])
    _set(lateral.bias, start.cell_bias)
    for other in glip.fpn.lateral[:2]:
        other.weight.mul_(QUIET)  # type: ignore[operator]
    for convolution in (*glip.fpn.smooth, glip.fpn.p6, glip.fpn.p7):
        _near_identity(convolution)
    assert glip.resizer is not None
    linear = glip.resizer[0]
    _align_shortcut(glip)
    linear.weight[:width].copy_(start.token)
    linear.bias[:width].copy_(start.token_bias)
    project.weight.zero_()
    project.weight[:, :width].copy_(GAIN * torch.eye(width))
    project.bias.zero_()
    for block in glip.head.blocks:
        if block.fusion is not None:
            block.fusion.out_vision.weight.mul_(QUIET)
            block.fusion.out_text.weight.mul_(QUIET)
        _near_identity_dyconv(block.dyconv)


def _align_shortcut(glip: Glip) -> None:
    if glip.shortcut is not None:
        visual, textual = clip_projections()
        glip.shortcut.cell.weight.copy_(visual[:, :, None, None])
        glip.shortcut.phrase.weight.copy_(textual)
        glip.shortcut.scale.fill_(SHORTCUT_GAIN)


def _near_identity_dyconv(dyconv: DyConv) -> None:
    for part in (dyconv.coarser, dyconv.same, dyconv.finer):
        _near_identity(part.conv)
    # The four parts of the bias: slope and height of the first line, then of the second.
    slopes = dyconv.relu.excite.bias.chunk(4)
    slopes[2].fill_(LEAK)


def _near_identity(convolution: nn.Module) -> None:
    assert isinstance(convolution, nn.Conv2d)
    convolution.weight.mul_(QUIET)
    channels = torch.arange(convolution.in_channels)
    convolution.weight[channels, channels, 1, 1] += 1.0


def _set(bias: nn.Parameter | None, value: Tensor) -> None:
    assert bias is not None
    bias.copy_(value)
