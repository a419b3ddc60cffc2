"""A small GLIP with random weights, and files as microsoft/GLIP writes them."""

from collections import OrderedDict
from pathlib import Path

import torch
from torch import Tensor

from models.glip.config import GlipConfig, SwinConfig, TextConfig
from models.glip.glip import Glip
from models.glip.names import official_names

State = dict[str, Tensor]

SMALL = GlipConfig(
    "small",
    backbone=SwinConfig(dim=8, depths=(1, 2, 1, 1), heads=(1, 1, 2, 2), window=3),
    channels=16,
    blocks=2,
    fusion_width=16,
    fusion_heads=2,
    text=TextConfig(width=12, layers=1, heads=2, intermediate=20, vocabulary=40, positions=16),
    head_text_width=12,
    head_text_heads=2,
    head_text_intermediate=20,
)


def random_glip(config: GlipConfig = SMALL) -> Glip:
    torch.manual_seed(11)
    glip = Glip(config)
    with torch.no_grad():
        for parameter in glip.parameters():
            parameter.normal_(std=0.5)
    return glip.eval()


def official_state(glip: Glip) -> State:
    """As in a released file, with what is to be ignored by name."""
    names = official_names(glip.config)
    state = {f"module.{names[key]}": tensor for key, tensor in glip.state_dict().items()}
    rest = {
        "backbone.body.layers.0.blocks.0.attn.relative_position_index": torch.zeros(9, 9).long(),
        "language_backbone.body.model.embeddings.position_ids": torch.arange(16)[None],
        "language_backbone.body.model.pooler.dense.weight": torch.zeros(12, 12),
        "rpn.anchor_generator.cell_anchors.0": torch.zeros(1, 4),
        "rpn.head.cls_logits.weight": torch.zeros(80, 16, 1, 1),
        "rpn.head.mlm_head.bias": torch.zeros(3),
        "rpn.head.tunable_linear.weight": torch.zeros(1000, 12),
        "rpn.head.resizer.fc.weight": torch.zeros(12, 12),
    }
    return state | {f"module.{key}": tensor for key, tensor in rest.items()}


def write_official(glip: Glip, path: Path, state: State | None = None) -> Path:
    model = official_state(glip) if state is None else state
    average = {key: tensor.float() + 1 for key, tensor in model.items()}
    optimiser = {"state": {0: {"exp_avg": torch.ones(3), "step": 7}}, "param_groups": [{"lr": 0.1}]}
    torch.save(
        {"model": OrderedDict(model), "model_ema": average, "optimizer": optimiser, "iteration": 9},
        path,
    )
    return path
