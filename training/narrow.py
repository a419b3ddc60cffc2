"""Store an embedded model at a byte a weight: `python -m training.narrow clip-mini-critic`.

Rewrites `assets/weights/<name>/model.safetensors` and tells how far the features move; its SHA-256
belongs in `models/catalog.py`.
"""

import argparse

import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from models.catalog import ASSETS
from models.clip.encoder import ClipEncoder, load_mini
from models.quantisation import narrowed
from training.world.photos import load_photos


def features(encoder: ClipEncoder, count: int = 400) -> torch.Tensor:
    """(count, D) of the first photographs."""
    rgb = load_photos().rgb[:count].float() / 255
    size = (encoder.image_size, encoder.image_size)
    small = F.interpolate(rgb, size, mode="bicubic", antialias=True, align_corners=False)
    parts = encoder.normalize(small.clamp(0, 1)).split(64)
    with torch.inference_mode():
        return torch.cat([encoder.image_features(part) for part in parts])


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", help="a CLIP's folder in assets/weights")
    options = parser.parse_args(arguments)
    folder = ASSETS / options.name
    path = folder / "model.safetensors"
    before = features(load_mini(folder, torch.device("cpu"), torch.float32))
    size = path.stat().st_size
    save_file(narrowed(load_file(str(path))), str(path))
    after = features(load_mini(folder, torch.device("cpu"), torch.float32))
    cosine = (before * after).sum(1)
    print(
        f"{path}: {size / 1e6:.2f} -> {path.stat().st_size / 1e6:.2f} MB; cosine of the features "
        f"of {len(cosine)} photographs before and after: mean {float(cosine.mean()):.5f}, "
        f"least {float(cosine.min()):.5f}"
    )


if __name__ == "__main__":
    main()
