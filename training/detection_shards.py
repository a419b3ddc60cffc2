"""What vild-mini's frozen tower makes of labelled scenes, computed once and kept on disk.

Beside them, once a proposal network exists, its proposals and what the teacher, clip-mini, says of
their crops: ViLD's precomputed image embeddings (Gu et al. 2022, section 3.2).
"""

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from models.vild.config import VildConfig
from training.grounding_shards import FrozenParts
from training.run import write_tensors
from training.world.detection import DetectionWorld
from training.world.sources import CACHE

SHARD = 256
VIEWS = VildConfig.mini().views


@dataclass(frozen=True)
class Scenes:
    """N labelled pictures as features.

    Attributes:
        pictures: (N, 3, S, S) uint8, for crops.
        stages: C3, C4, C5, then C5 of further views, (N, C, h, w) float16.
        boxes, concept: per picture (B, 4) float32 xyxy pixels and (B,).
        masks: per picture (B, S, S) bool.
    """

    pictures: Tensor
    stages: tuple[Tensor, ...]
    boxes: tuple[Tensor, ...]
    concept: tuple[Tensor, ...]
    masks: tuple[Tensor, ...]

    def __len__(self) -> int:
        return len(self.pictures)


def shard_path(seed: int, number: int, size: int, cache: Path = CACHE) -> Path:
    return cache / f"detection-{size}-{seed}" / f"{number:05d}.safetensors"


def make_shard(
    world: DetectionWorld, frozen: FrozenParts, seed: int, number: int, cache: Path = CACHE
) -> Path:
    """Draw and encode shard `number` of a seed, unless it is there; returns its file."""
    path = shard_path(seed, number, world.size, cache)
    if path.is_file():
        return path
    examples = world.sample(SHARD, seed * 1_000_003 + number)
    pictures = torch.stack([example.picture for example in examples])
    parts = [frozen.stages(some, VIEWS) for some in pictures.split(32)]
    stages = [torch.cat(level).half().cpu().contiguous() for level in zip(*parts, strict=True)]
    masks = torch.cat([example.masks for example in examples])
    tensors = {
        **{f"stage{place}": stage for place, stage in enumerate(stages)},
        "pictures": pictures.mul(255).round().byte(),
        "boxes": torch.cat([example.boxes for example in examples]),
        "concept": torch.cat([example.concept for example in examples]),
        "masks": torch.from_numpy(np.packbits(masks.numpy(), axis=-1)),
        "counts": torch.tensor([len(example.boxes) for example in examples]),
    }
    write_tensors(path, tensors)
    return path


def read_shard(path: Path) -> Scenes:
    """Read a file that `make_shard` wrote."""
    tensors = load_file(str(path))
    counts = tensors["counts"].tolist()
    masks = torch.from_numpy(np.unpackbits(tensors["masks"].numpy(), axis=-1)).bool()
    return Scenes(
        pictures=tensors["pictures"],
        stages=tuple(tensors[f"stage{place}"] for place in range(2 + len(VIEWS))),
        boxes=tensors["boxes"].split(counts),
        concept=tensors["concept"].split(counts),
        masks=masks[..., : tensors["pictures"].shape[-1]].split(counts),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shards", type=int, default=40, help="how many to have in the cache")
    parser.add_argument("--seed", type=int, default=2027)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    world, frozen = DetectionWorld(size=options.size), FrozenParts()
    for number in range(options.shards):
        began = time.monotonic()
        path = make_shard(world, frozen, options.seed, number)
        print(f"{path.name} {time.monotonic() - began:.1f} s", flush=True)


if __name__ == "__main__":
    main()
