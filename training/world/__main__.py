"""Show the mini world: `python -m training.world --show grid.png`."""

import argparse
import random
from pathlib import Path

import torch
from torch import Tensor
from torchvision.transforms.functional import to_pil_image
from torchvision.utils import make_grid

from . import avatars, compose, scenes, sprites
from .concepts import load
from .photos import load_photos
from .sources import TRAINED


def contact_sheet(seed: int, size: int = 128) -> tuple[Tensor, list[str]]:
    """Rows of single objects, scenes, drawings, avatars and photographs.

    Returns:
        (3, H, W) float32 in [0, 1], and one caption a scene.
    """
    generator = torch.Generator().manual_seed(seed)
    concepts, photos = load(), load_photos()
    bank = sprites.with_drawings(sprites.load_bank(TRAINED))
    drawn = bank.select(bank.style > 0)
    mirrors = scenes.mirror_rule(concepts)
    backgrounds = photos.rgb[photos.category < 0]

    def render(part: sprites.SpriteBank, chosen: scenes.Scenes) -> Tensor:
        table = scenes.SpriteTable(part, len(concepts))
        composer = compose.Composer(part.rgba, backgrounds, size, torch.device("cpu"))
        layout = table.lay_out(chosen, generator)
        return compose.disturb(composer.render(layout, generator), generator)

    def some(count: int) -> Tensor:
        return bank.concept[torch.randint(len(bank), (count,), generator=generator)]

    crowds = scenes.crowded_scenes(16, (2, 8), some(400), mirrors, generator)
    chance = random.Random(seed)
    texts = [scenes.describe(crowds, index, concepts, chance).text for index in range(16)]
    faces = torch.from_numpy(avatars.draw_batch(avatars.sample(16, seed), size))
    shown = torch.randperm(len(photos.rgb), generator=generator)[:8]
    rows = [
        render(bank.select(bank.style == 0), scenes.single_objects(some(16), mirrors, generator)),
        render(bank.select(bank.style == 0), crowds),
        render(drawn, scenes.single_objects(some(8), mirrors, generator)),
        faces.permute(0, 3, 1, 2).float() / 255,
        compose.random_crops(photos.rgb[shown], size, (0.6, 1.0), 1.3, generator),
    ]
    return make_grid(torch.cat(rows), nrow=8, padding=2), texts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--show", type=Path, required=True, help="picture file to write")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    sheet, texts = contact_sheet(options.seed)
    to_pil_image(sheet).save(options.show)
    print(f"{options.show}: 2 rows of single emoji, 2 of scenes, drawings, 2 of avatars, photos")
    print("\n".join(texts))


if __name__ == "__main__":
    main()
