"""What every training run does alike."""

import json
import math
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import nn

from training.run import (
    parameter_groups,
    rate_share,
    read_checkpoint,
    save_checkpoint,
    write_plan,
    write_tensors,
)


def parts(seed: int) -> dict[str, nn.Module | torch.optim.Optimizer]:
    torch.manual_seed(seed)
    model = nn.Linear(3, 2)
    return {"model": model, "optimizer": torch.optim.AdamW(model.parameters(), lr=0.1 * seed)}


def test_a_checkpoint_brings_every_part_back_to_where_it_stood(tmp_path: Path) -> None:
    stood, other = parts(1), parts(2)
    save_checkpoint(tmp_path / "run", stood, 7, 1.5)
    assert read_checkpoint(tmp_path / "run", other) == (7, 1.5)
    assert torch.equal(other["model"].weight, stood["model"].weight)  # type: ignore[union-attr]
    assert other["optimizer"].param_groups[0]["lr"] == pytest.approx(0.1)  # type: ignore[union-attr]
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["checkpoint.pt"]


def test_without_a_checkpoint_nothing_changes(tmp_path: Path) -> None:
    mine = parts(1)
    before = mine["model"].weight.clone()  # type: ignore[union-attr]
    assert read_checkpoint(tmp_path, mine) is None
    assert torch.equal(mine["model"].weight, before)  # type: ignore[union-attr]


def test_a_plan_is_a_line_of_what_was_meant_and_what_became_of_it(tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Plan:
        steps: int = 3

    write_plan(tmp_path, Plan(), step=2, seconds=4)
    assert json.loads((tmp_path / "plan.json").read_text()) == {"steps": 3, "step": 2, "seconds": 4}


def test_tensors_arrive_in_one_piece_with_their_metadata(tmp_path: Path) -> None:
    path = tmp_path / "new" / "x.safetensors"
    write_tensors(path, {"a": torch.arange(6).view(2, 3).T}, {"told": "yes"})
    with safe_open(path, framework="pt") as file:
        assert file.metadata() == {"told": "yes"}
        assert torch.equal(file.get_tensor("a"), torch.arange(6).view(2, 3).T)
    assert [found.name for found in path.parent.iterdir()] == ["x.safetensors"]


def test_only_matrices_decay_and_frozen_weights_are_left_out() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3), nn.Linear(3, 1))
    model[2].requires_grad_(False)
    wide, thin = parameter_groups(model.parameters(), 0.1)
    assert [p.shape for p in wide["params"]] == [(3, 2)]
    assert [p.shape for p in thin["params"]] == [(3,), (3,), (3,)]
    assert (wide["weight_decay"], thin["weight_decay"]) == (0.1, 0.0)


@pytest.mark.parametrize(
    ("step", "share"),
    [
        (0, 0.1),
        (4, 0.5 * (0.05 + 0.95 * (0.5 + 0.5 * math.cos(math.pi * 0.04)))),
        (50, 0.525),
        (100, 0.05),
        (200, 0.05),  # a run that goes on after its plan
    ],
)
def test_the_rate_warms_up_and_falls_to_its_last_share(step: int, share: float) -> None:
    assert rate_share(step, 100, warmup=10, last=0.05) == pytest.approx(share)
