"""Store an embedded model at a byte a weight: `python -m training.narrow clip-mini-critic`.

Rewrites what is in half precision in `assets/weights/<name>/model.safetensors` and tells how far the
weights move and, of a CLIP, the features; its SHA-256 belongs in `models/catalog.py`.
"""

import argparse
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from models.catalog import ASSETS
from models.clip.encoder import ClipEncoder, load_mini
from models.quantisation import narrowed
from models.weights import metadata_of, read_safetensors
from training.world.photos import load_photos


def features(encoder: ClipEncoder, count: int = 400) -> Tensor:
    """(count, D) of the first photographs."""
    rgb = load_photos().rgb[:count].float() / 255
    size = (encoder.image_size, encoder.image_size)
    small = F.interpolate(rgb, size, mode="bicubic", antialias=True, align_corners=False)
    parts = encoder.normalize(small.clamp(0, 1)).split(64)
    with torch.inference_mode():
        return torch.cat([encoder.image_features(part) for part in parts])


def clip_features(folder: Path) -> Tensor | None:
    """Those of the CLIP in a folder; None where something else is."""
    if not (folder / "open_clip_config.json").is_file():
        return None
    return features(load_mini(folder, torch.device("cpu"), torch.float32))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", help="a folder in assets/weights")
    options = parser.parse_args(arguments)
    folder = ASSETS / options.name
    path = folder / "model.safetensors"
    size, weights, seen = path.stat().st_size, read_safetensors(path), clip_features(folder)
    stored, told = load_file(str(path)), dict(metadata_of(path))
    halves = {name: tensor for name, tensor in stored.items() if tensor.dtype == torch.half}
    exact = {name: tensor for name, tensor in stored.items() if name not in halves}
    save_file({**exact, **narrowed(halves)}, str(path), metadata=told or None)
    print(f"{path}: {size / 1e6:.2f} -> {path.stat().st_size / 1e6:.2f} MB")
    again = read_safetensors(path)
    off = max(float((again[k] - w).norm() / w.norm()) for k, w in weights.items() if w.ndim > 1)
    print(f"the tensor that moved most, by {off:.2%} of its length")
    if seen is not None:
        cosine = (seen * clip_features(folder)).sum(1)
        print(f"cosine of the features of {len(cosine)} photographs before and after: mean "
              f"{float(cosine.mean()):.5f}, least {float(cosine.min()):.5f}")  # fmt: skip


if __name__ == "__main__":
    main()
