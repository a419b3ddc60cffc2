"""What tests of GLIP share: the parity data of `--golden DIR` (`DIR/glip/*.npz`), and networks small
enough to run anywhere.

    golden = GlipGolden(path)
    glip = golden.glip(torch.float64)            # holds the seeded weights
    found = record(glip, golden.pixels, *golden.words)
    assert golden.difference("fpn_p3", found["fpn_p3"]) < 1e-13

The weights are not stored: every tensor is drawn from (seed, key, shape). What the keys of a file
mean is in tests/golden/glip/README.md.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.glip import Glip, GlipConfig, HeadOutput, SwinConfig, TextConfig
from models.glip.head import split_levels
from models.glip.names import official_names

Array = NDArray[Any]

GAINS = {"offset": 1.5, "v_proj": 1.2, "l_proj": 1.2, "values_v_proj": 1.2, "values_l_proj": 1.2}


def small_config(*, fusion: bool = True) -> GlipConfig:
    """Every part of GLIP with a Swin backbone, at a size that runs in milliseconds."""
    return GlipConfig(
        "small",
        backbone=SwinConfig(dim=16, depths=(1, 2, 1, 1), heads=(1, 2, 2, 4), window=4),
        channels=32,
        blocks=2,
        fusion=fusion,
        fusion_width=64,
        fusion_heads=4,
        text=TextConfig(width=24, layers=1, heads=2, intermediate=48, vocabulary=100, positions=64),
        head_text_width=24,
        head_text_heads=2,
        head_text_intermediate=48,
        anchor_scale=4,
    )


def seeded_glip(config: GlipConfig, seed: int = 0, dtype: torch.dtype = torch.float32) -> Glip:
    """Random weights under which every part matters: see `glip_weight`."""
    glip = Glip(config)
    state = {
        key: torch.from_numpy(glip_weight(official, tuple(glip.state_dict()[key].shape), seed))
        for key, official in official_names(config).items()
    }
    glip.load_state_dict(state)
    return glip.to(dtype).eval()


def glip_weight(key: str, shape: Sequence[int], seed: int) -> Array:
    """The tensor called `key` (the reference's name) of the parity data."""
    *_, parent, leaf = key.lower().split(".")
    if leaf == "log_scale":
        return seeded_array(key, shape, seed, 0.05, 0.1)
    if leaf == "scale":
        return seeded_array(key, shape, seed, 0.1, 1)
    if leaf == "bias0":
        return seeded_array(key, shape, seed, 0.05, -3)
    if leaf == "bias_lang":
        return seeded_array(key, shape, seed, 0.3)
    if leaf in ("gamma_v", "gamma_l"):
        return seeded_array(key, shape, seed, 0.05, 1 / 6)
    if leaf == "relative_position_bias_table":
        return seeded_array(key, shape, seed, 0.2)
    if "norm" in parent or parent == "bn":
        return seeded_array(key, shape, seed, 0.1, 1 if leaf == "weight" else 0)
    if leaf == "bias" or "embeddings" in key:
        return seeded_array(key, shape, seed, 0.05)
    if parent == "dot_product_projection_text":
        return seeded_array(key, shape, seed, 0.45)
    gain = 0.3 if key.endswith("attention.output.dense.weight") else GAINS.get(parent, 1)
    return seeded_array(key, shape, seed, gain / math.prod(shape[1:]) ** 0.5)


def seeded_array(
    key: str, shape: Sequence[int], seed: int, scale: float, offset: float = 0
) -> Array:
    """offset + scale * N(0, 1), computed in float64 and rounded once to float32."""
    random = np.random.RandomState(zlib.crc32(f"{seed}:{key}".encode()))
    normal = random.standard_normal(tuple(shape))
    normal *= scale
    normal += offset
    return normal.astype(np.float32)


class GoldenFile:
    """One file of reference data."""

    def __init__(self, path: Path) -> None:
        self.name = path.stem
        with np.load(path, allow_pickle=False) as file:
            self.arrays: dict[str, Array] = {name: file[name] for name in file.files}

    def __getitem__(self, name: str) -> Tensor:
        """The complete array `name` as stored."""
        return torch.from_numpy(np.asarray(self.arrays[name]))

    def difference(self, name: str, ours: Tensor) -> float:
        """Largest absolute difference from the array `name`, complete or sampled; infinite where
        the shapes differ. Of a sampled array the mean, the deviation and the extremes count, too."""
        actual = ours.detach().double().numpy()
        whole = self.arrays.get(name)
        shape = self.arrays[f"{name}_shape"] if whole is None else whole.shape
        if actual.shape != tuple(shape):
            return math.inf
        if whole is not None:
            return float(np.abs(actual - whole).max(initial=0))
        sample, stats = self.arrays[f"{name}_sample"], self.arrays[f"{name}_stats"]
        flat = actual.ravel()
        found = np.array([flat.mean(), flat.std(), flat.min(), flat.max()])
        positions = 7919 * np.arange(len(sample)) % flat.size
        return float(max(np.abs(flat[positions] - sample).max(), np.abs(found - stats).max()))


class GlipGolden(GoldenFile):
    """What the reference computed with seeded weights for one picture and one prompt."""

    @property
    def config(self) -> GlipConfig:
        sizes = json.loads(str(self.arrays["config"]))
        bert = TextConfig(
            width=sizes["bert_hidden"],
            layers=sizes["bert_layers"],
            heads=sizes["bert_heads"],
            intermediate=sizes["bert_intermediate"],
        )
        swin = SwinConfig(
            dim=sizes["swin_embed"],
            depths=tuple(sizes["swin_depths"]),
            heads=tuple(sizes["swin_heads"]),
            window=sizes["window"],
        )
        return GlipConfig(
            self.name,
            backbone=swin,
            channels=sizes["channels"],
            blocks=sizes["blocks"],
            fusion=sizes["fusion"],
            fusion_width=sizes["fusion_embed"],
            fusion_heads=sizes["fusion_heads"],
            text=bert,
            head_text_width=bert.width,
            head_text_heads=bert.heads,
            head_text_intermediate=bert.intermediate,
        )

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Every tensor of the reference's checkpoint, in its order."""
        keys, rows = self.arrays["state_keys"], self.arrays["state_shapes"]
        return {str(key): tuple(int(n) for n in row if n) for key, row in zip(keys, rows)}

    def state(self) -> dict[str, Tensor]:
        """The reference's checkpoint, without `module.` and its computed buffers."""
        seed = int(self.arrays["seed"])
        return {
            key: torch.from_numpy(glip_weight(key, shape, seed))
            for key, shape in self.shapes().items()
        }

    def glip(self, dtype: torch.dtype) -> Glip:
        return seeded_glip(self.config, int(self.arrays["seed"]), dtype)

    @property
    def pixels(self) -> Tensor:
        return self["net_input"]

    @property
    def words(self) -> tuple[Tensor, Tensor]:
        """Token ids and which are real, both (1, T), without the reference's padding."""
        count = int(self.arrays["num_tokens"])
        return self["input_ids"][None, :count], self["attention_mask"][None, :count]


def record(glip: Glip, pixels: Tensor, ids: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """Everything that a golden file stores of a run, under its names, without the batch."""
    found: dict[str, Tensor] = {}
    handles = [
        glip.language.register_forward_hook(lambda _m, _i, out: found.update(bert_hidden=out[0])),
        *(
            handle
            for i, block in enumerate(glip.head.blocks)
            for handle in _record_block(block, i, found)
        ),
    ]
    try:
        stages = glip.backbone.all_stages(pixels)
        found.update({f"swin_stage{i}": stage[0] for i, stage in enumerate(stages, 1)})
        levels = glip.pyramid(stages[1:])
        found.update(_named("fpn", levels))
        output = glip.predict(levels, glip.encode_text(ids, mask), mask)
    finally:
        for handle in handles:
            handle.remove()
    found.update(
        logits=output.logits[0],
        box_regression=output.box_regression[0],
        centerness=output.centerness[0],
        level_shapes=torch.tensor(output.level_shapes),
        anchors=glip.anchors(output.level_shapes),
    )
    return found


def head_output(
    logits: Tensor, box_regression: Tensor, centerness: Tensor, level_shapes: Tensor
) -> HeadOutput:
    """Of one picture, from stored arrays without a batch."""
    shapes = [(int(height), int(width)) for height, width in level_shapes]
    return HeadOutput(logits[None], box_regression[None], centerness[None], shapes)


def parametrize_glip(
    metafunc: pytest.Metafunc, fixture: str, pattern: str, kind: type[GoldenFile] = GoldenFile
) -> None:
    """Runs a test that takes `fixture` once per file of `--golden DIR` called `pattern`.

    Without any such file the test fails: parity that nobody checked must not look like success.
    """
    if fixture not in metafunc.fixturenames:
        return
    folder = metafunc.config.getoption("--golden") / "glip"
    files = sorted(folder.glob(pattern))
    assert files, f"{folder} holds no {pattern}"
    metafunc.parametrize(
        fixture, [kind(file) for file in files], ids=[file.stem for file in files], scope="module"
    )


def _record_block(block: Any, i: int, found: dict[str, Tensor]) -> list[Any]:
    shapes: list[tuple[int, int]] = []

    def keep(part: Any, function: Callable[[Any], dict[str, Tensor]]) -> Any:
        return part.register_forward_hook(lambda _m, _i, out: found.update(function(out)))

    def remember(_block: Any, inputs: Any) -> None:
        shapes[:] = [tuple(level.shape[2:]) for level in inputs[0]]

    handles = [
        block.register_forward_pre_hook(remember),
        keep(block.dyconv, lambda out: _named(f"block{i}_dyconv", out)),
    ]
    if block.fusion is not None:
        handles += [
            keep(
                block.fusion,
                lambda out: {
                    **_named(f"block{i}_fused", split_levels(out[0], shapes)),
                    f"block{i}_fused_text": out[1][0],
                },
            ),
            keep(block.text_layer, lambda out: {f"block{i}_bert_text": out[0]}),
        ]
    return handles


def _named(prefix: str, levels: Sequence[Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}_p{i}": level[0] for i, level in enumerate(levels, 3)}
