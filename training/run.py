"""What every training run does alike: where it stands, what it was told, how the rate goes."""

import json
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

Parts = Mapping[str, nn.Module | torch.optim.Optimizer]
CHECKPOINT = "checkpoint.pt"


def save_checkpoint(folder: Path, parts: Parts, step: int, seconds: float) -> None:
    """The states of all parts and where the run stands, in one rename."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: part.state_dict() for name, part in parts.items()}
    partial = folder / "checkpoint.partial"
    torch.save({**state, "step": step, "seconds": seconds}, partial)
    partial.replace(folder / CHECKPOINT)


def read_checkpoint(
    folder: Path, parts: Parts, device: torch.device | str = "cpu"
) -> tuple[int, float] | None:
    """Gives all parts their states back; the step and the seconds, or None without a checkpoint."""
    path = folder / CHECKPOINT
    if not path.is_file():
        return None
    state = torch.load(path, map_location=device, weights_only=True)
    for name, part in parts.items():
        part.load_state_dict(state[name])
    return state["step"], state["seconds"]


def write_plan(folder: Path, plan: Any, **told: float) -> None:
    """The plan (a dataclass) and what became of it, as one line of JSON."""
    (folder / "plan.json").write_text(json.dumps({**asdict(plan), **told}) + "\n")


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None
) -> None:
    """A safetensors file, in one rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f".{os.getpid()}.part")  # two processes may make the same file
    save_file({k: v.contiguous() for k, v in tensors.items()}, str(part), metadata=metadata)
    part.replace(path)


def parameter_groups(parameters: Iterable[nn.Parameter], decay: float) -> list[dict[str, Any]]:
    """Weight decay for matrices and kernels only; what takes no gradient is left out."""
    learnt = [p for p in parameters if p.requires_grad]
    return [
        {"params": [p for p in learnt if p.ndim > 1], "weight_decay": decay},
        {"params": [p for p in learnt if p.ndim <= 1], "weight_decay": 0.0},
    ]


def rate_share(step: int, steps: int, warmup: int, last: float = 0.02) -> float:
    """Of the learning rate at a step: warmed up, then a half cosine down to `last`."""
    falling = last + (1 - last) * (0.5 + 0.5 * math.cos(math.pi * min(1.0, step / steps)))
    return falling * min(1.0, (step + 1) / warmup)
