"""Released checkpoints of ViLD as the tests make them: official names, random numbers, small."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from models.vild import VildConfig, checkpoints
from models.vild.backbone import BLOCKS
from models.vild.names import CLASSES, official_names
from models.vild.vild import Vild

NARROW = {"channels": 4, "fc": 6, "embedding": 5, "mask_channels": 4}
R50 = replace(VildConfig.r50(), **NARROW)
ENSEMBLE = replace(VildConfig.r50_ensemble(), **NARROW)


def narrow(patch: pytest.MonkeyPatch) -> None:
    """One block a stage and few channels in what `checkpoints` takes for the released variants: 8
    million numbers instead of 49."""
    patch.setitem(BLOCKS, 50, (1, 1, 1, 1))
    patch.setattr(checkpoints, "PRESETS", {R50.name: R50, ENSEMBLE.name: ENSEMBLE})


def official_variables(config: VildConfig, *, suffix: str = "") -> dict[str, np.ndarray]:
    """Random variables in TensorFlow's layout, with what training leaves beside them."""
    rng = np.random.default_rng(3)
    with torch.device("meta"):
        shapes = {key: tensor.shape for key, tensor in Vild(config).state_dict().items()}
    variables = {CLASSES: rng.random((config.embedding, 3), np.float32)}
    for key, name in official_names(config).items():
        shape = tuple(shapes[key])
        if name.endswith("background-class-predict/kernel"):
            shape = (*shape, 1)
        elif len(shape) == 4:
            shape = (shape[2], shape[3], shape[1], shape[0])
        elif len(shape) == 2:
            shape = shape[::-1]
        if suffix and "batch_normalization" in name and name.startswith("resnet"):
            scope, leaf = name.rsplit("/", 1)
            name = f"{scope}{suffix}/{leaf}"
        variables[name] = rng.random(shape, np.float32)
    momentum = {f"{n}/Momentum": np.zeros(2, np.float32) for n in list(variables)[:9]}
    return {**variables, **momentum, "global_step": np.array(180_000)}
