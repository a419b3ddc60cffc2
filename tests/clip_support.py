"""What the tests of CLIP and its tab share: the embedded encoder, a registry with it, scenes."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from models.catalog import CATALOG
from models.clip import ClipEncoder, load_mini
from models.registry import Registry

ROOT = Path(__file__).resolve().parents[1]
MINI = ROOT / "assets" / "weights" / "clip-mini"


@lru_cache(maxsize=1)
def mini() -> ClipEncoder:
    """clip-mini on the CPU, loaded once for all tests."""
    return load_mini(MINI, torch.device("cpu"), torch.float32)


def mini_registry() -> Registry:
    """A registry that lends `mini()` and refuses every download."""
    row = replace(CATALOG["clip-mini"], load=lambda row, context: mini())
    return Registry({**CATALOG, "clip-mini": row}, device="cpu", offline=True)


@dataclass
class Counts:
    """How many pictures and texts went through the towers, batch by batch."""

    pictures: list[int] = field(default_factory=list)
    texts: list[int] = field(default_factory=list)


@contextmanager
def counting(clip: ClipEncoder) -> Iterator[Counts]:
    """Count what really passes through the towers, below every cache."""
    counts = Counts()
    model: Any = clip.model
    hooks = [
        model.visual.register_forward_pre_hook(
            lambda m, args: counts.pictures.append(len(args[0]))
        ),
        model.text.register_forward_pre_hook(lambda m, args: counts.texts.append(len(args[0]))),
    ]
    try:
        yield counts
    finally:
        for hook in hooks:
            hook.remove()


def noise(seed: int, size: tuple[int, int] = (64, 48)) -> Image.Image:
    """A picture nobody has encoded before."""
    return Image.frombytes("RGB", size, random.Random(seed).randbytes(size[0] * size[1] * 3))


@dataclass(frozen=True)
class Scene:
    """Two drawn things: names and boxes (x1, y1, x2, y2) in pixels."""

    picture: Image.Image
    names: tuple[str, str]
    boxes: tuple[tuple[float, float, float, float], ...]


def two_object_scenes(count: int, seed: int, side: int = 224) -> Iterator[Scene]:
    """Scenes of two different emoji, beside or above one another, on a plain ground."""
    chance = random.Random(seed)
    sprites = _sprites()
    for _ in range(count):
        picture = Image.new("RGB", (side, side), tuple(chance.randrange(150, 256) for _ in "rgb"))
        chosen = chance.sample(sorted({name for name, _ in sprites}), 2)
        across, boxes = chance.random() < 0.5, []
        for place, name in enumerate(chosen):
            size = chance.randrange(70, 100)
            sprite = chance.choice([s for n, s in sprites if n == name]).resize((size, size))
            along = place * side // 2 + chance.randrange(2, side // 2 - size)
            aside = chance.randrange(4, side - size - 4)
            corner = (along, aside) if across else (aside, along)
            picture.paste(sprite, corner, sprite)
            boxes.append((*corner, corner[0] + size, corner[1] + size))
        yield Scene(picture, (chosen[0], chosen[1]), tuple(boxes))


@lru_cache(maxsize=1)
def _sprites() -> tuple[tuple[str, Image.Image], ...]:
    """(name, 96 px RGBA drawing) of the emoji sheets in tests/data."""
    concepts = json.loads((ROOT / "assets" / "world" / "concepts.json").read_text(encoding="utf-8"))
    names = {concept["code"]: concept["name"] for concept in concepts}
    drawn = []
    for family in ("noto", "twemoji"):
        codes = json.loads((ROOT / "tests" / "data" / f"{family}.json").read_text())
        sheet = Image.open(ROOT / "tests" / "data" / f"{family}.png").convert("RGBA")
        columns = sheet.width // 96
        for place, code in enumerate(codes):
            left, top = place % columns * 96, place // columns * 96
            if code in names:
                drawn.append((names[code], sheet.crop((left, top, left + 96, top + 96))))
    return tuple(drawn)
