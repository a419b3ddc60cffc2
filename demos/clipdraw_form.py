"""What a person fills in to have something drawn, read with a sentence for all that is wrong."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image

from demos.ui.images import open_image
from demos.ui.text import parse_choice, parse_line, parse_number, parse_seed, parse_whole
from models.catalog import CATALOG, ModelRow, row_of
from models.clip.vocabulary import concept_names
from models.clipdraw import svg
from models.clipdraw.config import PAPER, RGB, WHITE, DrawConfig, Palette
from models.clipdraw.critic import Augmentation, Prompt
from models.clipdraw.drawing import prompts_of
from models.clipdraw.opening import canvas_like, from_picture
from models.clipdraw.plain import DEFAULT_LIMITS
from models.clipdraw.strokes import Strokes
from models.errors import InputError
from models.jobs import Job, Step

MODELS: Mapping[str, ModelRow] = {
    row.name: row
    for row in sorted(CATALOG.values(), key=lambda row: row.task != "clipdraw")
    if row.task in ("clipdraw", "clip")
}
FIRST = "clip-mini-critic"
ASPECTS = {"1:1": (1, 1), "4:3": (4, 3), "3:4": (3, 4), "16:9": (16, 9), "9:16": (9, 16)}
PALETTES = {"Free": "free", "Black": "black", "A few": "learned", "My own": "own"}
BACKGROUNDS = {"White": "white", "Paper": "paper", "Colour": "own", "None": "transparent"}
STARTS = {"Gradient": "gradient", "Random": "random", "An SVG": "svg", "A picture": "picture"}
RASTERIZER_TITLES = {
    "Built in": "built-in",
    "diffvg, where it is installed": "diffvg",
    "Built in, edges as dark as diffvg's": "diffvg-like",
}
PRESETS = {"Fit to the model": "model", "The paper's": "reference"}
MAX_PROMPT_CHARS = 500
WORD_BATCH = 64


@dataclass(frozen=True)
class Form:
    """Every field as it came from the page or the API, unchecked, in the endpoint's order.

    Widths are those of the strokes, in pixels of a 224 px canvas.
    """

    prompt: str
    negative: str
    strokes: float
    steps: float
    seed: float | None
    model: str
    more: str = ""
    preset: str = "model"
    width: float = 6.0
    free_width: bool = True
    thinnest: float = 2.0
    thickest: float = 24.0
    palette: str = "free"
    palette_size: float = 4
    palette_colors: str = ""
    background: str = "white"
    background_color: str = ""
    size: float = 224
    aspect: str = "1:1"
    start: str = "gradient"
    start_svg: str | None = None
    start_picture: str | None = None
    augment: bool = True
    rasterizer: str = "built-in"


@dataclass(frozen=True)
class Wish:
    """A form that makes sense: what to draw, by whom, how."""

    model: str
    prompts: tuple[Prompt, ...]
    config: DrawConfig
    strokes: Strokes | None = None  # to begin with
    photo: Image.Image | None = None  # to begin after
    region: tuple[float, float, float, float] | None = None  # xyxy pixels of the canvas

    def opening(self, clip: Any) -> Job[Strokes | None]:
        """The strokes to begin with, if there are any."""
        if self.photo is None:
            return self.strokes
        return (yield from from_picture(clip, self.photo, self.prompts[0].text, self.config))

    def going_on(self, strokes: Strokes, *, add: int = 0) -> Wish:
        """The same words, from these strokes on and with `add` more."""
        config = replace(self.config, strokes=len(strokes) + add, canvas=strokes.canvas)
        return replace(self, config=config, strokes=strokes, photo=None)

    def with_seed(self, seed: int) -> Wish:
        return replace(self, config=replace(self.config, seed=seed))


def words_of(model: str) -> tuple[str, ...]:
    """What the nearest words are chosen from.

    A large text tower takes a CPU minutes for all names; it is asked for those of one word.
    """
    names = concept_names()
    mini = MODELS[model].family == "mini"
    return names if mini else tuple(name for name in names if " " not in name)


def read_words(clip: Any, words: Sequence[str]) -> Job[None]:
    """Encode the words, a few at a time: it can be seen and stopped; the encoder remembers them."""
    for begin in range(0, len(words), WORD_BATCH):
        clip.encode_text(words[begin : begin + WORD_BATCH])
        yield Step(begin / len(words), "Reading the words it may name")


def preset_of(model: str, preset: str) -> DrawConfig:
    """The numbers a run begins with; InputError for an unknown model or preset."""
    row = row_of(MODELS, model)
    parse_choice(preset, PRESETS.values(), "preset")
    if preset == "reference":
        return DrawConfig.reference()
    return DrawConfig.mini() if row.family == "mini" else DrawConfig.default()


def read_form(form: Form) -> Wish:
    """What the form asks for.

    Raises:
        InputError: one sentence about the first thing that is wrong.
    """
    prompt = parse_line(form.prompt, what="what to draw", max_chars=MAX_PROMPT_CHARS)
    negative = [parse_line(line, max_chars=MAX_PROMPT_CHARS) for line in lines_of(form.negative)]
    prompts = prompts_of(prompt, negative, more=parse_weighted(form.more))
    config, photo, strokes = _config(form), None, None
    side = max(config.canvas)
    if form.start == "svg":
        strokes = svg.read(_svg_data(form.start_svg), side=side)
        config = replace(config, canvas=strokes.canvas)
    elif form.start == "picture":
        photo = open_image(form.start_picture)
        config = replace(config, canvas=canvas_like(photo.size, side))
    return Wish(form.model, prompts, config, strokes, photo)


def _config(form: Form) -> DrawConfig:
    base = preset_of(form.model, form.preset)
    parse_choice(form.start, STARTS.values(), "start")
    width = parse_number(form.width, what="The width") / 2
    ends = (width, width)
    if form.free_width:
        ends = (
            parse_number(form.thinnest, what="The thinnest width") / 2,
            parse_number(form.thickest, what="The thickest width") / 2,
        )
    return replace(
        base,
        strokes=parse_whole(form.strokes, what="The number of strokes"),
        steps=parse_whole(form.steps, what="The number of steps"),
        seed=parse_seed(form.seed),
        canvas=_canvas(form.size, form.aspect),
        half_width=width,
        width_range=ends,
        palette=_palette(form),
        background=_background(form),
        start=form.start if form.start in ("gradient", "random") else base.start,
        augmentation=base.augmentation if form.augment else Augmentation.none(),
        rasterizer=parse_choice(form.rasterizer, RASTERIZER_TITLES.values(), "rasteriser"),
    )


def _canvas(size: float, aspect: str) -> tuple[int, int]:
    across, down = ASPECTS[parse_choice(aspect, ASPECTS, "aspect")]
    side = parse_whole(size, what="The canvas's size")
    if not side >= 1:  # the other end is the configuration's to judge
        raise InputError(f"The canvas's size is a number of pixels, not {side:g}.")
    longest = max(across, down)
    return round(side * across / longest), round(side * down / longest)


def _palette(form: Form) -> Palette:
    kind = parse_choice(form.palette, PALETTES.values(), "palette")
    if kind == "black":
        return Palette.black()
    if kind == "learned":
        return Palette(learned=parse_whole(form.palette_size, what="The number of colours"))
    if kind == "free":
        return Palette()
    colors = [
        parse_color(part)
        for part in re.split(r"[\s,;]+", (form.palette_colors or "").strip())
        if part
    ]
    if not colors:
        raise InputError("Type the palette's colours, as in #1b3a6b #e0a030.")
    return Palette(colors=tuple(colors))


def _background(form: Form) -> RGB | None:
    kind = parse_choice(form.background, BACKGROUNDS.values(), "background")
    own = parse_color(form.background_color) if kind == "own" else WHITE
    return {"white": WHITE, "paper": PAPER, "own": own, "transparent": None}[kind]


def parse_color(text: str | None) -> RGB:
    """`#rgb`, `#rrggbb` or what a colour picker says, `rgba(1, 2, 3, 1)`, as RGB in [0, 1].

    Raises:
        InputError: anything else.
    """
    plain = (text or "").strip().lower()
    if re.fullmatch(r"#?[0-9a-f]{3}", plain):
        plain = "".join(2 * digit for digit in plain.lstrip("#"))
    if re.fullmatch(r"#?[0-9a-f]{6}", plain):
        digits = plain.lstrip("#")
        red, green, blue = (int(digits[k : k + 2], 16) / 255 for k in (0, 2, 4))
        return red, green, blue
    part = r"(\d+(?:\.\d+)?)"
    parts = re.fullmatch(rf"rgba?\({part}, *{part}, *{part}(?:, *[\d.]+)?\)", plain)
    if parts is None or max(map(float, parts.groups())) > 255:
        raise InputError(f"“{plain[:20]}” is no colour; write it like #1b3a6b.")
    red, green, blue = (float(value) / 255 for value in parts.groups())
    return red, green, blue


def parse_weighted(text: str) -> dict[str, float]:
    """Lines like `a stormy sea : 0.5` as words and weights.

    Raises:
        InputError: which line is wrong, and how it is written.
    """
    weights: dict[str, float] = {}
    for nth, line in enumerate(lines_of(text), start=1):
        words, colon, weight = line.rpartition(":")
        try:
            value = float(weight)
        except ValueError:
            colon = ""
        if not colon:
            raise InputError(
                f"Further prompt {nth} has no weight; write it like “a stormy sea : 0.5”."
            )
        words = parse_line(words, what=f"words before the weight of further prompt {nth}",
                           max_chars=MAX_PROMPT_CHARS)  # fmt: skip
        if words in weights:
            raise InputError(f"“{words[:40]}” stands twice among the further prompts.")
        weights[words] = value
    return weights


def parse_region(text: str, canvas: tuple[int, int]) -> tuple[float, float, float, float]:
    """`10, 20, 60, 80`, left, top, right and bottom in per cent, as xyxy pixels of a canvas.

    Raises:
        InputError: no four numbers, or beyond the canvas.
    """
    try:
        left, top, right, bottom = (float(part) for part in text.replace("%", "").split(","))
    except ValueError:
        raise InputError(
            "Choose a region first: drag over the picture, or type it like 10, 20, 60, 80."
        ) from None
    if not (0 <= left < right <= 100 and 0 <= top < bottom <= 100):  # also refuses NaN
        raise InputError("A region is left, top, right, bottom in per cent, each in 0 to 100.")
    width, height = canvas
    return left * width / 100, top * height / 100, right * width / 100, bottom * height / 100


def lines_of(text: str | None) -> list[str]:
    """The lines with something on them."""
    parts = (text or "").splitlines()
    return [part for part in parts if part.strip()]


def _svg_data(path: str | None) -> bytes:
    if not path:
        raise InputError("Give the SVG to begin with, or choose another start.")
    with Path(path).open("rb") as file:
        return file.read(DEFAULT_LIMITS.bytes + 1)  # one more, so that it is told
