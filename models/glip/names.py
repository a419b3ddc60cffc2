"""Names of the released checkpoints: `official_names(config)` maps every key of `Glip`'s state dict
to the reference's, without its `module.` prefix."""

from __future__ import annotations

import re

import torch

from models.glip.config import GlipConfig, ResnetConfig
from models.glip.glip import Glip

# Parts of official keys whose tensors are recomputed, belong to training only, or are dead weight.
IGNORED = frozenset(
    {
        "cls_logits",  # its 80 channels lend the reference a shape and nothing else
        "cell_anchors",
        "relative_position_index",
        "position_ids",
        "pooler",
        "resizer",
        "mlm_head",
        "tunable_linear",
    }
)

# Applied in this order to our keys; <n+1> is arithmetic on a number.
_RENAMES: tuple[tuple[str, str], ...] = (
    # backbone
    (r"^backbone\.stages\.(\d+)\.merge\.", r"backbone.body.layers.<\1-1>.downsample."),
    (r"^backbone\.stages\.(\d+)\.blocks\.(\d+)\.(fc\d)\.", r"backbone.body.layers.\1.blocks.\2.mlp.\3."),
    (r"^backbone\.stages\.", r"backbone.body.layers."),
    (r"\.attn\.bias_table$", r".attn.relative_position_bias_table"),
    (r"^backbone\.norms\.(\d+)\.", r"backbone.body.norm<\1+1>."),
    (r"^backbone\.patch_embed\.", r"backbone.body.patch_embed."),
    # pyramid
    (r"^fpn\.lateral\.(\d+)\.", r"backbone.fpn.fpn_inner<\1+2>."),
    (r"^fpn\.smooth\.(\d+)\.", r"backbone.fpn.fpn_layer<\1+2>."),
    (r"^fpn\.(p6|p7)\.", r"backbone.fpn.top_blocks.\1."),
    # language
    (r"^language\.bert\.", r"language_backbone.body.model."),
    # head: fusion
    (r"\.fusion\.norm_vision\.", r".fusion.layer_norm_v."),
    (r"\.fusion\.norm_text\.", r".fusion.layer_norm_l."),
    (r"\.fusion\.gamma_vision$", r".fusion.gamma_v"),
    (r"\.fusion\.gamma_text$", r".fusion.gamma_l"),
    (r"\.fusion\.query\.", r".fusion.attn.v_proj."),
    (r"\.fusion\.key\.", r".fusion.attn.l_proj."),
    (r"\.fusion\.value_vision\.", r".fusion.attn.values_v_proj."),
    (r"\.fusion\.value_text\.", r".fusion.attn.values_l_proj."),
    (r"\.fusion\.out_vision\.", r".fusion.attn.out_v_proj."),
    (r"\.fusion\.out_text\.", r".fusion.attn.out_l_proj."),
    # head: BERT layer
    (r"\.text_layer\.(query|key|value)\.", r".text_layer.attention.self.\1."),
    (r"\.text_layer\.attention_out\.", r".text_layer.attention.output.dense."),
    (r"\.text_layer\.attention_norm\.", r".text_layer.attention.output.LayerNorm."),
    (r"\.text_layer\.expand\.", r".text_layer.intermediate.dense."),
    (r"\.text_layer\.contract\.", r".text_layer.output.dense."),
    (r"\.text_layer\.output_norm\.", r".text_layer.output.LayerNorm."),
    # head: dynamic convolution
    (r"\.dyconv\.coarser\.", r".dyconv.DyConv.0."),
    (r"\.dyconv\.same\.", r".dyconv.DyConv.1."),
    (r"\.dyconv\.finer\.", r".dyconv.DyConv.2."),
    (r"(\.DyConv\.\d)\.norm\.", r"\1.bn."),
    (r"\.dyconv\.gate\.", r".dyconv.AttnConv.1."),
    (r"\.dyconv\.relu\.squeeze\.", r".dyconv.relu.fc.0."),
    (r"\.dyconv\.relu\.excite\.", r".dyconv.relu.fc.2."),
    # head: prediction
    (r"^head\.box\.", r"rpn.head.bbox_pred."),
    (r"^head\.scales\.(\d)$", r"rpn.head.scales.\1.scale"),
    (r"^head\.text_projection\.", r"rpn.head.dot_product_projection_text."),
    (r"^head\.bias_text$", r"rpn.head.bias_lang"),
    (r"^head\.(bias0|log_scale|centerness)", r"rpn.head.\1"),
)  # fmt: skip

# Where the parts of a block stand in the reference's flat tower, per block.
_TOWER_WITH_FUSION = {"fusion": (0, ".b_attn"), "text_layer": (1, ""), "dyconv": (2, "")}
_TOWER_WITHOUT = {"dyconv": (0, "")}


def official_names(config: GlipConfig) -> dict[str, str]:
    """Our key -> the reference's, for every tensor of `Glip(config).state_dict()`.

    Raises:
        ValueError: the reference has no such backbone, or no resizer in this place.
    """
    if isinstance(config.backbone, ResnetConfig) or config.has_resizer:
        raise ValueError(f"{config.name} is not a variant of the reference implementation.")
    with torch.device("meta"):
        keys = list(Glip(config).state_dict())
    return {key: _official(key, config.fusion) for key in keys}


def is_ignored(key: str) -> bool:
    """Whether an official key, with or without `module.`, is one of those to leave out."""
    return not IGNORED.isdisjoint(key.split("."))


def _official(key: str, fusion: bool) -> str:
    for pattern, replacement in _RENAMES:
        key = re.sub(pattern, replacement, key)
    key = re.sub(r"<(\d+)([+-]\d)>", lambda found: str(int(found[1]) + int(found[2])), key)
    return re.sub(
        r"^head\.blocks\.(\d+)\.(\w+)", lambda found: _tower(int(found[1]), found[2], fusion), key
    )


def _tower(block: int, part: str, fusion: bool) -> str:
    parts = _TOWER_WITH_FUSION if fusion else _TOWER_WITHOUT
    position, suffix = parts[part]
    return f"rpn.head.dyhead_tower.{len(parts) * block + position}{suffix}"
