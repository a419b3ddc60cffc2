"""Pictures that come with the app: the CLIP tab's examples and its search collection.

    python -m training.showcase

writes `assets/examples/`, `assets/grounding/` and `assets/search/` again. Photographs are Caltech-101 pictures of the
test split, so that nothing shown was trained on; emoji are drawn by families whose licences allow
it (no share-alike family among them). Every picture carries its credit in the index.
"""

import colorsys
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageFilter, ImageOps

from .world import avatars, concepts, photos, sources
from .world.compose import TINTS
from .world.sprites import render_svg

ASSETS = Path(__file__).resolve().parents[1] / "assets"
SEED = 2021
TILE = 128
COLUMNS = 20
PER_GROUP = 40
PHOTOS_PER_CATEGORY = 2
FAMILIES = tuple(
    family for family in sources.FAMILIES if family.name in ("noto", "twemoji", "fluent")
)
GROUPS = ("animals", "food", "travel", "activities", "objects")


@dataclass(frozen=True)
class Photo:
    """An example photograph: folder and file of the set, and labels to try."""

    folder: str
    number: int
    labels: str


@dataclass(frozen=True)
class Scene:
    """An example scene: (name, family, centre x, centre y, height) per object, in shares of the
    picture's height but x in shares of its width, then maybe a tint; and labels, or a caption, to
    try."""

    title: str
    objects: tuple[
        tuple[str, str, float, float, float] | tuple[str, str, float, float, float, str], ...
    ]
    labels: str


PHOTOS = (
    Photo("sunflower", 5, "sunflower, water lily, lotus, strawberry, rose"),
    Photo("kangaroo", 5, "kangaroo, elephant, rhino, llama, wild cat"),
    Photo("butterfly", 15, "butterfly, dragonfly, flamingo, umbrella, starfish"),
    Photo("helicopter", 20, "helicopter, airplane, ferry, car, chandelier"),
    Photo("pizza", 10, "pizza, strawberry, crab, cup, soccer ball"),
    Photo("dalmatian", 20, "dalmatian, panda, leopard, wild cat, okapi"),
)
SCENES = (
    Scene(
        "Cat and dog",
        (("cat", "noto", 0.28, 0.56, 0.58), ("dog", "noto", 0.72, 0.54, 0.6)),
        "cat, dog, rabbit, bird",
    ),
    Scene(
        "Picnic",
        (
            ("red apple", "twemoji", 0.2, 0.62, 0.36),
            ("pizza", "twemoji", 0.52, 0.36, 0.46),
            ("banana", "twemoji", 0.8, 0.64, 0.42),
        ),
        "red apple, pizza, banana, ice cream, fish",
    ),
    Scene(
        "On the road",
        (("bicycle", "fluent", 0.3, 0.6, 0.56), ("automobile", "fluent", 0.72, 0.58, 0.56)),
        "bicycle, car, train, airplane",
    ),
    Scene(
        "Under the sea",
        (
            ("octopus", "noto", 0.26, 0.42, 0.46),
            ("tropical fish", "noto", 0.62, 0.62, 0.4),
            ("crab", "noto", 0.84, 0.3, 0.3),
        ),
        "octopus, fish, crab, whale, butterfly",
    ),
    Scene(
        "Concert",
        (
            ("guitar", "twemoji", 0.25, 0.54, 0.58),
            ("violin", "twemoji", 0.55, 0.44, 0.48),
            ("trumpet", "twemoji", 0.82, 0.6, 0.42),
        ),
        "guitar, violin, trumpet, piano, drum",
    ),
    Scene(
        "Lift-off",
        (("rocket", "fluent", 0.36, 0.5, 0.7), ("full moon", "fluent", 0.78, 0.3, 0.34)),
        "rocket, moon, airplane, star, sun",
    ),
)
# What GLIP is asked: each caption is true, each list names something that isn't there.
GROUNDING = (
    Scene(
        "Kite",
        (
            ("deciduous tree", "twemoji", 0.8, 0.58, 0.62),
            ("kite", "twemoji", 0.4, 0.26, 0.36, "red"),
            ("dog", "twemoji", 0.24, 0.78, 0.26),
            ("dog", "twemoji", 0.52, 0.8, 0.26),
        ),
        "two small dogs and a red kite above them",
    ),
    Scene(
        "Umbrellas",
        (
            ("umbrella", "noto", 0.2, 0.36, 0.42, "blue"),
            ("umbrella", "noto", 0.78, 0.36, 0.42, "yellow"),
            ("cat", "noto", 0.5, 0.7, 0.44),
        ),
        "a yellow umbrella to the right of a cat",
    ),
    Scene(
        "Garden",
        (
            ("mushroom", "fluent", 0.16, 0.74, 0.34),
            ("mushroom", "fluent", 0.38, 0.8, 0.28),
            ("rabbit", "fluent", 0.7, 0.66, 0.46),
            ("butterfly", "fluent", 0.34, 0.26, 0.32),
        ),
        "mushroom; rabbit; butterfly; bicycle",
    ),
)
AVATAR = {"glasses": 1.0, "hat": 1.0, "beard": 0.9, "smile": 0.8, "hair_length": 0.2}
AVATAR_LIST = "glasses; hat; beard; umbrella"


def main() -> None:
    """Write the folders."""
    write_examples(ASSETS / "examples")
    write_grounding(ASSETS / "grounding")
    write_search(ASSETS / "search")


def write_examples(folder: Path) -> None:
    """A dozen pictures as JPEG and `index.json`: name, file, title, labels, credit."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for photo in PHOTOS:
        title = photos.category_name(photo.folder)
        picture = Image.open(photo_path(photo.folder, photo.number)).convert("RGB")
        rows.append(_save_example(folder, title, picture, photo.labels, photos.CREDIT))
    for index, scene in enumerate(SCENES):
        family = family_named(scene.objects[0][1])
        picture = draw_scene(scene, hue=index / len(SCENES))
        rows.append(_save_example(folder, scene.title, picture, scene.labels, credit(family)))
    _write_json(folder / "index.json", {"pictures": rows})


def write_grounding(folder: Path) -> None:
    """GLIP's examples, like `write_examples`, with what to ask as `prompt`."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for index, scene in enumerate(GROUNDING):
        family = family_named(scene.objects[0][1])
        picture = draw_scene(scene, hue=0.55 + index / len(GROUNDING))
        rows.append(_save_example(folder, scene.title, picture, scene.labels, credit(family)))
    attributes = avatars.sample(1, SEED)[0]
    for name, value in AVATAR.items():
        attributes[avatars.NAMES.index(name)] = value
    face = Image.fromarray(np.asarray(avatars.draw(attributes, 384)))
    by = "Drawn by CLIP Atelier, Apache-2.0"
    rows.append(_save_example(folder, "Avatar", face, AVATAR_LIST, by))
    for row in rows:
        row["prompt"] = row.pop("labels")
    _write_json(folder / "index.json", {"pictures": rows})


def write_search(folder: Path) -> None:
    """The collection as two sheets of square tiles and `index.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    kinds = {"photos": list(photo_tiles()), "emoji": list(emoji_tiles(random.Random(SEED)))}
    rows = []
    for kind, tiles in kinds.items():
        file = f"{kind}.webp"
        sheet([tile for _, tile, _ in tiles]).save(folder / file, quality=82, method=6)
        rows += [
            {"name": name, "sheet": file, "place": place, "credit": by}
            for place, (name, _, by) in enumerate(tiles)
        ]
    _write_json(folder / "index.json", {"tile": TILE, "columns": COLUMNS, "pictures": rows})


def photo_tiles() -> Iterator[tuple[str, Image.Image, str]]:
    """The first test pictures of every category, cropped to a square: name, tile, credit."""
    root = sources.CACHE / "101_ObjectCategories"
    for folder in photos.folders(root):
        tests = (p for p in sorted((root / folder).glob("*.jpg")) if photos.is_test(p))
        for path, _ in zip(tests, range(PHOTOS_PER_CATEGORY)):
            picture = Image.open(path).convert("RGB")
            tile = ImageOps.fit(picture, (TILE, TILE), Image.Resampling.LANCZOS)
            yield photos.category_name(folder), tile, photos.CREDIT


def emoji_tiles(chance: random.Random) -> Iterator[tuple[str, Image.Image, str]]:
    """Emoji of every group on plain pale grounds, the families taking turns."""
    for group in GROUPS:
        members = [c for c in concepts.load() if c.group == group and " with " not in c.name]
        for index, concept in enumerate(chance.sample(members, PER_GROUP)):
            family = FAMILIES[index % len(FAMILIES)]
            svg = sources.icon_svg(family, concept.code)
            if svg is None:
                continue
            tile = Image.new("RGB", (TILE, TILE), pale(chance.random()))
            sprite = Image.fromarray(render_svg(svg, TILE - 20))
            tile.paste(sprite, (10, 10), sprite)
            yield concept.name, tile, credit(family)


def draw_scene(scene: Scene, hue: float, size: tuple[int, int] = (640, 480)) -> Image.Image:
    """The scene's objects, each with a soft shadow, on a pale gradient."""
    width, height = size
    ramp = Image.linear_gradient("L").resize(size)
    picture = Image.composite(
        Image.new("RGB", size, pale(hue, 0.22)),
        Image.new("RGB", size, pale(hue + 0.08, 0.08)),
        ramp,
    )
    for name, family, x, y, scale, *tint in scene.objects:
        code = next(c.code for c in concepts.load() if c.name == name)
        svg = sources.icon_svg(family_named(family), code)
        if svg is None:
            raise ValueError(f"{family} does not draw {name}")
        sprite = Image.fromarray(render_svg(svg, round(scale * height)))
        if tint:
            sprite = tinted(sprite, tint[0])
        place = (round(x * width) - sprite.width // 2, round(y * height) - sprite.height // 2)
        shadow = Image.new("L", size)
        shadow.paste(sprite.getchannel("A"), (place[0], place[1] + 8))
        shadow = shadow.filter(ImageFilter.GaussianBlur(10)).point(lambda a: a * 0.25)
        picture.paste((40, 40, 60), (0, 0), shadow)
        picture.paste(sprite, place, sprite)
    return picture


def tinted(sprite: Image.Image, colour: str) -> Image.Image:
    """The drawing's light and shade in a named colour of the world."""
    middle = tuple(round(255 * share) for share in dict(TINTS)[colour])
    drawn = ImageOps.colorize(sprite.convert("RGB").convert("L"), "black", "white", middle)
    drawn.putalpha(sprite.getchannel("A"))
    return drawn


def sheet(tiles: Sequence[Image.Image]) -> Image.Image:
    """Tiles row by row, `COLUMNS` in a row."""
    rows = -(-len(tiles) // COLUMNS)
    canvas = Image.new("RGB", (COLUMNS * TILE, rows * TILE), "white")
    for place, tile in enumerate(tiles):
        canvas.paste(tile, (place % COLUMNS * TILE, place // COLUMNS * TILE))
    return canvas


def photo_path(folder: str, number: int) -> Path:
    """A picture of the test split. Raises ValueError for one of the training split."""
    if number % 5:
        raise ValueError(f"{folder} {number} is a training picture")
    return sources.CACHE / "101_ObjectCategories" / folder / f"image_{number:04d}.jpg"


def family_named(name: str) -> sources.Family:
    """One of the families used here."""
    return next(family for family in FAMILIES if family.name == name)


def credit(family: sources.Family) -> str:
    """Who drew it, under which licence."""
    titles = {"noto": "Noto Emoji", "twemoji": "Twemoji", "fluent": "Fluent Emoji"}
    return f"{titles[family.name]} ({family.author}), {family.licence}"


def pale(hue: float, saturation: float = 0.12) -> tuple[int, int, int]:
    """A light ground of a hue in [0, 1)."""
    red, green, blue = colorsys.hsv_to_rgb(hue % 1.0, saturation, 0.97)
    return round(255 * red), round(255 * green), round(255 * blue)


def _save_example(
    folder: Path, title: str, picture: Image.Image, labels: str, by: str
) -> dict[str, str]:
    name = title.lower().replace(" ", "-")
    picture.save(folder / f"{name}.jpg", quality=88)
    return {
        "name": name,
        "file": f"{name}.jpg",
        "title": title[0].upper() + title[1:],
        "labels": labels,
        "credit": by,
    }


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
