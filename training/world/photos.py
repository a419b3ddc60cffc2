"""Photographs: Caltech-101 (Li, Andreeto, Ranzato, Perona; CC BY 4.0) as small squares in memory.

Split: a picture is *test* when its number is divisible by 5. The two face categories are left out;
BACKGROUND_Google has no category and serves as background.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from .sources import CACHE

SIDE = 128
LEFT_OUT = ("Faces", "Faces_easy")
BACKGROUND = "BACKGROUND_Google"
CREDIT = "Caltech-101 (Li, Andreeto, Ranzato, Perona), CC BY 4.0"
# Folder names that are no words, or mean something else than they say.
NAMES = {
    "airplanes": "airplane",
    "car_side": "car",
    "cougar_body": "cougar",
    "gerenuk": "gerenuk antelope",
    "garfield": "Garfield the cartoon cat",
    "Leopards": "leopard",
    "Motorbikes": "motorbike",
    "snoopy": "Snoopy the cartoon dog",
    "water_lilly": "water lily",
    "sea_horse": "seahorse",
    "binocular": "binoculars",
    "ant": "ant insect",
    "bass": "bass fish",
    "tick": "tick insect",
}


@dataclass(frozen=True)
class Photos:
    """Photographs squashed to squares.

    Attributes:
        rgb: (N, 3, 128, 128) uint8.
        category: (N,) index into `names`, -1 for background pictures.
        test: (N,) bool.
        names: category names as a person would type them.
    """

    rgb: Tensor
    category: Tensor
    test: Tensor
    names: tuple[str, ...]


def category_name(folder: str) -> str:
    """The words for a folder of the set: "sea_horse" -> "seahorse"."""
    return NAMES.get(folder, folder.replace("_", " ").lower())


def folders(root: Path) -> list[str]:
    """Category folders in alphabetical order, faces and background left out."""
    return sorted(
        p.name
        for p in root.iterdir()
        if p.is_dir() and p.name not in LEFT_OUT and p.name != BACKGROUND
    )


def is_test(path: Path) -> bool:
    """Whether `image_NNNN.jpg` belongs to the test split."""
    return int(path.stem.split("_")[1]) % 5 == 0


def _read(path: Path) -> np.ndarray:
    picture = Image.open(path).convert("RGB")
    return np.asarray(picture.resize((SIDE, SIDE), Image.Resampling.BICUBIC))


def build(root: Path) -> dict[str, Tensor]:
    """Read the published folder layout (`<category>/image_NNNN.jpg`) into tensors.

    Raises:
        FileNotFoundError: `root` does not hold the set.
    """
    if not root.is_dir():
        raise FileNotFoundError(
            f"No Caltech-101 at {root}: unpack the published archive there "
            "(torchvision.datasets.Caltech101 downloads it)."
        )
    pixels, category, test = [], [], []
    for label, folder in [(-1, BACKGROUND), *enumerate(folders(root))]:
        for path in sorted((root / folder).glob("*.jpg")):
            pixels.append(_read(path))
            category.append(label)
            test.append(is_test(path))
    return {
        "rgb": torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).contiguous(),
        "category": torch.tensor(category),
        "test": torch.tensor(test),
    }


def load_photos(root: Path | None = None) -> Photos:
    """The photographs, read once and kept in `.cache/world/photos-128.safetensors`.

    Args:
        root: folder `101_ObjectCategories`; default `.cache/world/101_ObjectCategories`.
    """
    root = root or CACHE / "101_ObjectCategories"
    path = CACHE / f"photos-{SIDE}.safetensors"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(build(root), str(path))
    names = tuple(category_name(folder) for folder in folders(root))
    tensors = load_file(str(path))
    return Photos(tensors["rgb"], tensors["category"], tensors["test"], names)
