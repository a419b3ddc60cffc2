"""Emoji drawings as one tensor: every concept in every family, trimmed and ready to be composed."""

import io
import json
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from .concepts import Concept, load
from .sources import CACHE, FAMILIES, Family, icon_names, icon_svg

SIDE = 96
STYLES = ("clean", "outline", "loose strokes", "painting")
DRAWN_EVERY = 4


@dataclass(frozen=True)
class SpriteBank:
    """Sprites with what they show.

    Attributes:
        rgba: (N, 4, 96, 96) uint8, colour premultiplied by alpha so that it can be interpolated.
        concept: (N,) index into `concepts.load()`.
        family: (N,) index into `sources.FAMILIES`.
        style: (N,) index into `STYLES`.
    """

    rgba: Tensor
    concept: Tensor
    family: Tensor
    style: Tensor

    def select(self, keep: Tensor) -> "SpriteBank":
        """The sprites where `keep` (N,) bool holds."""
        return SpriteBank(self.rgba[keep], self.concept[keep], self.family[keep], self.style[keep])

    def __len__(self) -> int:
        return self.rgba.shape[0]


def render_svg(svg: str, side: int = SIDE) -> np.ndarray:
    """Draw an SVG, trim its empty margin and centre it in a square.

    Returns:
        (side, side, 4) uint8, straight alpha; the drawing touches the border on its longer axis
        but for one pixel, so a sprite's scale is its visible size.
    """
    import resvg_py

    png = resvg_py.svg_to_bytes(svg_string=svg, width=2 * side, skip_system_fonts=True)
    picture = Image.open(io.BytesIO(bytes(png))).convert("RGBA")
    box = picture.getchannel("A").point(lambda a: 255 if a > 8 else 0).getbbox()
    if box is None:
        raise ValueError("the drawing is empty")
    picture = picture.crop(box)
    scale = (side - 2) / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    # Pillow premultiplies RGBA while resampling, so no dark fringe appears.
    picture = picture.resize(size, Image.Resampling.LANCZOS)
    canvas = Image.new("RGBA", (side, side))
    canvas.paste(picture, ((side - size[0]) // 2, (side - size[1]) // 2))
    return np.asarray(canvas)


def _render(job: tuple[Family, int, Concept]) -> tuple[int, np.ndarray] | None:
    family, index, concept = job
    svg = icon_svg(family, concept.code)
    return None if svg is None else (index, render_svg(svg))


def premultiply(rgba: np.ndarray) -> Tensor:
    """(N, H, W, 4) straight uint8 -> (N, 4, H, W) premultiplied uint8."""
    colour = rgba[..., :3].astype(np.uint16) * rgba[..., 3:] // 255
    joined = np.concatenate([colour.astype(np.uint8), rgba[..., 3:]], axis=-1)
    return torch.from_numpy(joined).permute(0, 3, 1, 2).contiguous()


def build_family(family: Family, workers: int = 2) -> dict[str, Tensor]:
    """Render one family: `rgba` (n, 96, 96, 4) straight uint8 and `concept` (n,)."""
    icon_names()  # fetches every package here, before two workers would unpack one at once
    jobs = [(family, index, concept) for index, concept in enumerate(load())]
    with ProcessPoolExecutor(workers) as pool:
        drawn = [item for item in pool.map(_render, jobs, chunksize=64) if item is not None]
    return {
        "rgba": torch.from_numpy(np.stack([rgba for _, rgba in drawn])),
        "concept": torch.tensor([index for index, _ in drawn]),
    }


def family_sprites(family: Family) -> dict[str, Tensor]:
    """Sprites of one family, rendered once and kept in `.cache/world/sprites/`."""
    path: Path = CACHE / "sprites" / f"{family.name}-{SIDE}.safetensors"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(build_family(family), str(path))
    return load_file(str(path))


def load_bank(families: tuple[Family, ...]) -> SpriteBank:
    """All sprites of the families in their clean style."""
    parts = []
    for family in families:
        sprites = family_sprites(family)
        count = len(sprites["concept"])
        parts.append(
            SpriteBank(
                premultiply(sprites["rgba"].numpy()),
                sprites["concept"],
                torch.full((count,), FAMILIES.index(family)),
                torch.zeros(count, dtype=torch.long),
            )
        )
    return concatenate(parts)


def concatenate(banks: list[SpriteBank]) -> SpriteBank:
    """One bank from several."""
    return SpriteBank(
        torch.cat([bank.rgba for bank in banks]),
        torch.cat([bank.concept for bank in banks]),
        torch.cat([bank.family for bank in banks]),
        torch.cat([bank.style for bank in banks]),
    )


def with_drawings(bank: SpriteBank) -> SpriteBank:
    """The bank and, beside the clean sprites, stroke renderings of every fourth one.

    Outlines, loose strokes and few-stroke paintings take turns, so that drawings are a fifth of
    what the model sees.
    """
    path = CACHE / "sprites" / f"drawings-{len(bank)}-{SIDE}.safetensors"
    chosen = torch.arange(0, len(bank), DRAWN_EVERY)
    if not path.is_file():
        jobs = zip(chosen.tolist(), _straight(bank.rgba[chosen]), strict=True)
        with ProcessPoolExecutor(2) as pool:
            drawn = list(pool.map(_redraw, jobs, chunksize=64))
        save_file({"rgba": torch.from_numpy(np.stack(drawn))}, str(path))
    rgba = premultiply(load_file(str(path))["rgba"].numpy())
    style = 1 + chosen // DRAWN_EVERY % 3
    return concatenate([bank, SpriteBank(rgba, bank.concept[chosen], bank.family[chosen], style)])


def _straight(rgba: Tensor) -> np.ndarray:
    """(N, 4, H, W) premultiplied uint8 -> (N, H, W, 4) straight uint8."""
    alpha = rgba[:, 3:].float().clamp(min=1)
    colour = (rgba[:, :3].float() * 255 / alpha).clamp(max=255).round().byte()
    return torch.cat([colour, rgba[:, 3:]], dim=1).permute(0, 2, 3, 1).contiguous().numpy()


def _redraw(job: tuple[int, np.ndarray]) -> np.ndarray:
    from . import strokes

    index, rgba = job
    style = STYLES[1 + index // DRAWN_EVERY % 3]
    if style == "outline":
        return strokes.outline(rgba)
    if style == "loose strokes":
        return strokes.loose_strokes(rgba, seed=index, count=64)
    return strokes.few_stroke_painting(rgba, seed=index, count=60)


def write_sheet(bank: SpriteBank, path: Path, columns: int = 12) -> None:
    """Save a few sprites as one RGBA picture beside a JSON list of their concept codes."""
    straight = _straight(bank.rgba)
    rows = -(-len(bank) // columns)
    sheet = np.zeros((rows * SIDE, columns * SIDE, 4), np.uint8)
    for index, rgba in enumerate(straight):
        top, left = index // columns * SIDE, index % columns * SIDE
        sheet[top : top + SIDE, left : left + SIDE] = rgba
    Image.fromarray(sheet).save(path, optimize=True)
    codes = [load()[index].code for index in bank.concept.tolist()]
    path.with_suffix(".json").write_text(json.dumps(codes) + "\n", encoding="utf-8")


def read_sheet(path: Path, family: int = 0) -> SpriteBank:
    """Sprites that `write_sheet` saved; `family` is an index into `sources.FAMILIES`."""
    codes = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    sheet = np.asarray(Image.open(path).convert("RGBA"))
    columns = sheet.shape[1] // SIDE
    tiles = sheet.reshape(-1, SIDE, columns, SIDE, 4).swapaxes(1, 2).reshape(-1, SIDE, SIDE, 4)
    row_of = {concept.code: row for row, concept in enumerate(load())}
    count = len(codes)
    return SpriteBank(
        premultiply(tiles[:count]),
        torch.tensor([row_of[code] for code in codes]),
        torch.full((count,), family),
        torch.zeros(count, dtype=torch.long),
    )
