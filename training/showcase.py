"""Pictures that come with the app: the CLIP tab's examples and its search collection.

    python -m training.showcase

writes `assets/examples/` and `assets/search/` again. Photographs are Caltech-101 pictures of the
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

from PIL import Image, ImageFilter, ImageOps

from .world import concepts, photos, sources
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
    picture's height but x in shares of its width; and labels to try."""

    title: str
    objects: tuple[tuple[str, str, float, float, float], ...]
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


def main() -> None:
    """Write both folders."""
    write_examples(ASSETS / "examples")
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
    for name, family, x, y, scale in scene.objects:
        code = next(c.code for c in concepts.load() if c.name == name)
        svg = sources.icon_svg(family_named(family), code)
        if svg is None:
            raise ValueError(f"{family} does not draw {name}")
        sprite = Image.fromarray(render_svg(svg, round(scale * height)))
        place = (round(x * width) - sprite.width // 2, round(y * height) - sprite.height // 2)
        shadow = Image.new("L", size)
        shadow.paste(sprite.getchannel("A"), (place[0], place[1] + 8))
        shadow = shadow.filter(ImageFilter.GaussianBlur(10)).point(lambda a: a * 0.25)
        picture.paste((40, 40, 60), (0, 0), shadow)
        picture.paste(sprite, place, sprite)
    return picture


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
