"""A drawing of the CLIPDraw tab as it is kept between two clicks, and as files to take away."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

from demos.ui import downloads
from models.clipdraw import export, svg
from models.clipdraw.config import RGB, WHITE
from models.clipdraw.drawing import Drawing
from models.clipdraw.strokes import Strokes
from models.errors import InputError
from models.film import gif, mp4
from models.jobs import Job, Step

STEM = "clipdraw"
MAX_FRAMES = 160  # of the making; when there are more, every second one goes
FILM_SIDE = 512
FILM_FRAMES = 120
MAKING_FPS = 12.5


@dataclass(frozen=True)
class Held:
    """What a visitor's session remembers of a drawing.

    Attributes:
        seconds: since its first step, or that it held the device when it ran to its end.
        order: strokes by importance, the most important first; None until they are ranked.
        keep: how many of them are shown; None shows all.
        frames: paths of JPEGs of the making, oldest first.
        beside: another seed's drawing, to compare with.
        thumb: path of a small JPEG for the album.
    """

    drawing: Drawing
    model: str
    seconds: float
    order: tuple[int, ...] | None = None
    keep: int | None = None
    frames: tuple[str, ...] = ()
    beside: Held | None = None
    thumb: str = ""

    @property
    def strokes(self) -> Strokes:
        """What is shown: all strokes or the most important ones, in painting order."""
        if self.keep is None or self.order is None or self.keep >= len(self.order):
            return self.drawing.strokes
        return self.drawing.strokes.select(torch.tensor(sorted(self.order[: self.keep])))

    @property
    def background(self) -> RGB | None:
        return self.drawing.config.background

    @property
    def title(self) -> str:
        return self.drawing.title

    def facts(self) -> dict[str, Any]:
        """The endpoint's answer: what repeats the run, and what came of it."""
        drawing = self.drawing
        return {
            "model": self.model,
            "settings": drawing.settings(),
            "seed": drawing.config.seed,
            "seconds": round(self.seconds, 3),
            "loss": drawing.loss,
            "nearest": [{"label": word, "probability": p} for word, p in drawing.nearest],
            "strokes": export.to_json(self.strokes)["paths"],
        }


def with_frame(frames: tuple[str, ...], preview: Image.Image) -> tuple[str, ...]:
    """One more frame of the making; a long run is kept in ever larger steps."""
    kept = frames[::2] if len(frames) >= MAX_FRAMES else frames
    return (*kept, downloads.save_jpeg(preview, "frame"))


def save_svg(held: Held) -> str:
    """Path of the drawing as SVG with its settings inside."""
    text = svg.write(
        held.strokes, title=held.title, background=held.background,
        metadata=held.drawing.settings(),
    )  # fmt: skip
    return downloads.save_file(text.encode(), f"{STEM}.svg")


def save_animated_svg(held: Held) -> str:
    """Path of an SVG whose strokes draw themselves."""
    text = export.animated_svg(
        held.strokes, title=held.title, background=held.background,
        metadata=held.drawing.settings(),
    )  # fmt: skip
    return downloads.save_file(text.encode(), f"{STEM}-animated.svg")


def save_pdf(held: Held) -> str:
    """Path of the drawing as a page of true curves."""
    data = export.pdf(held.strokes, title=held.title, background=held.background)
    return downloads.save_file(data, f"{STEM}.pdf")


def save_json(held: Held) -> str:
    """Path of the endpoint's answer as a file."""
    return downloads.save_json(held.facts(), STEM)


def save_png(held: Held, side: int) -> str:
    """Path of the drawing rasterised with `side` pixels on its longer side."""
    picture = export.picture(held.strokes, side=side, background=held.background)
    return downloads.save_png(picture, held.drawing.settings(), STEM)


QUICK: Mapping[str, Callable[[Held], str]] = {
    "SVG": save_svg,
    "JSON": save_json,
    "PDF": save_pdf,
    "Animated SVG": save_animated_svg,
}


def film(held: Held, what: str, kind: str) -> Job[str]:
    """A film of the "making" or of the "painting", stroke by stroke, as "gif" or "mp4".

    Raises:
        InputError: nothing was seen of the making, or its frames have been cleared away.
    """
    source = _making(held) if what == "making" else _painting(held)
    frames = []
    for frame in source:
        frames.append(frame)
        yield Step(min(0.9, len(frames) / FILM_FRAMES), "Collecting frames")
    yield Step(0.9, f"Writing the {kind.upper()}")
    data = {"gif": gif, "mp4": mp4}[kind](frames, fps=MAKING_FPS)
    return downloads.save_file(data, f"{STEM}-{what}.{kind}")


def _painting(held: Held) -> Iterator[Image.Image]:
    return export.painting(
        held.strokes, frames=FILM_FRAMES, side=FILM_SIDE, background=held.background or WHITE
    )


def _making(held: Held) -> Iterator[Image.Image]:
    """The frames that the page saw, and the drawing itself at their size at the end."""
    if not held.frames:
        raise InputError("Nothing was seen of this drawing's making; draw again for its film.")
    try:
        for path in held.frames:
            with Image.open(path) as frame:
                yield frame.convert("RGB")
    except FileNotFoundError:
        raise InputError(
            "The frames of this drawing have been cleared away; draw again for its film."
        ) from None
    side = max(frame.size)
    yield export.picture(held.drawing.strokes, side=side, background=held.background or WHITE)
