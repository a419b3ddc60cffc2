"""What the StyleCLIP tab keeps of a visitor between two clicks, and what carries a wish out."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from PIL import Image

from demos.styleclip_form import STRENGTHS, Start, Wish, is_upload
from demos.styleclip_kits import Kit
from demos.styleclip_work import (
    Edit,
    Library,
    Made,
    MadeStep,
    activity,
    average,
    changed_channels,
    edit,
    open_start,
    render,
)
from demos.ui import downloads
from models.clip.encoder import ClipEncoder
from models.errors import InputError
from models.jobs import Job, Step
from models.styleclip.directions import LayerActivity
from models.styleclip.mapper import Mapper, load_mapper, mapper_bytes
from models.styleclip.prompt import EditPrompt
from models.stylegan.generator import Generator
from models.stylegan.latent import MAX_BYTES, Latent
from models.weights import MB

STEM = "styleclip"
MAX_PLACES = 24
MAX_MAPPERS = 8
MAX_MAPPER_BYTES = 30 * MB  # one of StyleSpace for 1024 px has 24 MB in float16
THUMB_SIDE = 160


@dataclass(frozen=True)
class Place:
    """One accepted picture of the history; what weighs lies in files.

    Attributes:
        latent, picture, thumb: paths of the latent, the picture and a small JPEG of it.
        title: what was done to get here.
        seed: of the first picture, None for somebody's own.
        fresh: a start, not an edit.
    """

    model: str
    latent: str
    picture: str
    thumb: str
    title: str
    seed: int | None
    fresh: bool = False

    def read(self, generator: Generator) -> Latent:
        """Its latent; InputError when the file has been cleared away."""
        try:
            with Path(self.latent).open("rb") as file:
                data = file.read(MAX_BYTES + 1)
        except FileNotFoundError:
            raise InputError(
                "This picture of the history has been cleared away; begin with a new one."
            ) from None
        return Latent.from_bytes(data, generator, self.model)


def place_of(
    model: str, latent: Latent, picture: Image.Image, title: str, seed: int | None,
    fresh: bool = False,
) -> Place:  # fmt: skip
    """Write a place's files."""
    thumb = picture.copy()
    thumb.thumbnail((THUMB_SIDE, THUMB_SIDE))
    return Place(
        model, save_latent(latent, model), downloads.save_jpeg(picture, STEM),
        downloads.save_jpeg(thumb, "thumb"), title, seed, fresh,
    )  # fmt: skip


@dataclass(frozen=True)
class Held:
    """What a visitor's session remembers.

    Attributes:
        asked: model, seed and truncation in the form when the start was made; other ones there
            ask for another start.
        places: the history, oldest first; `at` is where the visitor stands.
        start: the latent of `places[at]`.
        made: the edit that was found and not yet accepted.
        settings: of that edit, for the JSON.
    """

    asked: tuple[str, Any, Any]
    places: tuple[Place, ...]
    at: int
    start: Latent
    made: Made | None = None
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def place(self) -> Place:
        return self.places[self.at]

    @property
    def model(self) -> str:
        return self.place.model

    @property
    def edit(self) -> Edit:
        """The open edit; InputError when there is none."""
        if self.made is None:
            raise InputError("There is no edit yet; type words and press Edit.")
        return self.made.edit

    def latent(self, strength: float, beta: float) -> Latent:
        """What is shown: the edit at a strength, without an edit the start."""
        return self.start if self.made is None else self.edit.at(strength, beta)

    def with_place(self, place: Place, start: Latent) -> Held:
        """One more place behind the current one; what was undone before is gone.

        A start takes the place of a start that was never edited.
        """
        kept = self.at if place.fresh and self.place.fresh else self.at + 1
        places = (*self.places[:kept], place)[-MAX_PLACES:]
        return replace(self, places=places, at=len(places) - 1, start=start, made=None)

    def moved_to(self, at: int, start: Latent) -> Held:
        """Standing at another place of the history."""
        asked = (self.places[at].model, *self.asked[1:])
        return replace(self, at=at, start=start, made=None, asked=asked)


# --------------------------------------------------------------------------------------- mappers


@dataclass(frozen=True)
class OwnMapper:
    """A mapper that a visitor trained or loaded; its weights lie in the file `path`."""

    model: str
    name: str
    path: Path
    prompt: EditPrompt | None

    def replaced_by(self, other: OwnMapper) -> bool:
        same_words = self.prompt is not None and self.prompt == other.prompt
        return self.model == other.model and (self.name == other.name or same_words)


@dataclass(frozen=True)
class OwnMappers:
    """A visitor's mappers of all generators, oldest first, at most `MAX_MAPPERS`.

    No list but this session's knows their files.
    """

    kept: tuple[OwnMapper, ...] = ()

    def with_mapper(self, mapper: Mapper, model: str, words: str = "mapper") -> OwnMappers:
        """One more behind the others; of two for the same words the later stays.

        Args:
            words: what to name it after where it has no prompt.
        """
        path, prompt = Path(save_mapper(mapper)), mapper.info.prompt
        slug = re.sub(r"[^a-z0-9]+", "-", (prompt.target if prompt else words).casefold())
        name = f"{slug.strip('-')[:40] or 'mapper'}-{path.parent.name[:8]}"
        new = OwnMapper(model, name, path, prompt)
        others = (own for own in self.kept if not own.replaced_by(new))
        return OwnMappers((*others, new)[-MAX_MAPPERS:])

    def kit(self, kit: Kit) -> Kit:
        """The kit as this visitor sees it."""
        return replace(kit, own={own.name: own.path for own in self.kept if own.model == kit.name})


def save_mapper(mapper: Mapper) -> str:
    """Path of a safetensors file with the prompt inside, that the tab reads again."""
    return downloads.save_file(mapper_bytes(mapper), f"{STEM}-mapper.safetensors")


def read_mapper(path: str | None, model: str, generator: Generator) -> Job[Mapper]:
    """An uploaded mapper, ours or the authors', if it fits the generator.

    Raises:
        InputError: there is none, it is too large, or another generator's.
        WeightsError: it is damaged, no mapper, or a pickle that asks for more than tensors.
    """
    if not is_upload(path):
        raise InputError("Upload a mapper: a .safetensors saved by this tab, or a released .pt.")
    size = Path(path).stat().st_size
    if size > MAX_MAPPER_BYTES:
        raise InputError(
            f"This mapper has {size / MB:,.0f} MB, more than the {MAX_MAPPER_BYTES / MB:.0f} MB "
            "allowed; of a released checkpoint save only the tensors under “mapper.”."
        )
    yield Step(0.5, "Reading the mapper")
    mapper = load_mapper(Path(path))
    origin = mapper.info.generator
    if origin not in ("", model):
        raise InputError(
            f"This mapper was trained for the generator “{origin[:60]}”, not for “{model}”; "
            "choose that generator, or another mapper."
        )
    mapper.check(generator)
    mapper.info = replace(mapper.info, generator=model, rows=generator.rows)
    return mapper


# ---------------------------------------------------------------------------------- carrying out


@dataclass(frozen=True)
class Progress(Step):
    """A step with the session as it would be if the run stopped here."""

    held: Held | None = None


@dataclass(frozen=True)
class Outcome:
    """A finished edit: the session, where its sliders stand, and what is seen there."""

    held: Held
    strength: float
    beta: float | None
    latent: Latent
    picture: Image.Image
    layers: Sequence[LayerActivity]


def opened(
    held: Held | None, asked: tuple[str, Any, Any], latent: Latent, title: str, seed: int | None,
    generator: Generator,
) -> Held:  # fmt: skip
    """The session with a new start."""
    model = asked[0]
    latent.check(generator)
    place = place_of(model, latent, render(generator, latent), title, seed, fresh=True)
    if held is None:
        return Held(asked, (place,), 0, latent)
    return replace(held.with_place(place, latent), asked=asked)


def open_seed(
    start: Start, asked: tuple[str, Any, Any], held: Held | None, generator: Generator
) -> Job[Held]:
    """The session with the picture of a seed or a latent file as its new start."""
    yield Step(0.5, "Drawing the start")
    title = "a latent file" if start.seed is None else f"seed {start.seed}"
    return opened(held, asked, open_start(start, generator), title, start.seed, generator)


def carry_out(
    wish: Wish, asked: tuple[str, Any, Any], held: Held | None, library: Library,
    generator: Generator, clip: ClipEncoder, network: Any = None,
) -> Job[Outcome]:  # fmt: skip
    """Edit what the session stands at, or the start that the wish names if it is another one."""
    if wish.free:
        held = opened(held, asked, average(generator), "the average", None, generator)
    elif held is None or held.asked != asked:
        held = yield from open_seed(wish.start, asked, held, generator)
    job = edit(wish, held.start, library, generator, clip, network)
    try:
        while True:
            step = next(job)
            made = step.made if isinstance(step, MadeStep) else None
            best = replace(held, made=made, settings=wish.settings())
            yield Progress(step.fraction, step.message, step.preview, step.metrics, held=best)
    except StopIteration as end:
        found: Made = end.value
    held = replace(held, made=found, settings=wish.settings())
    strength = STRENGTHS[wish.method].first if wish.strength is None else wish.strength
    return seen(held, strength, found.beta, generator)


def seen(held: Held, strength: float, beta: float | None, generator: Generator) -> Outcome:
    """An edit at a strength, in full size."""
    assert held.made is not None, "there is an edit to look at"
    latent = held.latent(strength, beta or 0.0)
    layers = activity(generator, held.start, latent, held.made.statistics)
    return Outcome(held, strength, beta, latent, render(generator, latent), layers)


# ----------------------------------------------------------------------------------------- files


def facts(outcome: Outcome, seconds: float) -> dict[str, Any]:
    """The endpoint's answer: what repeats the edit, and what came of it."""
    place, latent = outcome.held.place, outcome.latent
    return {
        "model": place.model,
        "settings": settings(outcome),
        "seed": place.seed,
        "seconds": round(seconds, 3),
        "latent": {
            "sha256": hashlib.sha256(latent.to_bytes(place.model)).hexdigest(),
            "w_plus": list(latent.w_plus.shape),
            "style_offsets": [len(offset) for offset in latent.offsets],
        },
        "changed_channels": changed_channels(outcome.layers),
    }


def settings(outcome: Outcome) -> dict[str, Any]:
    """Everything that repeats an edit besides model and seed."""
    sliders = {"strength": outcome.strength, "disentanglement": outcome.beta}
    return {**outcome.held.settings, **sliders}


def save_latent(latent: Latent, model: str) -> str:
    """Path of a safetensors file that the tab and the endpoint read again."""
    return downloads.save_file(latent.to_bytes(model), f"{STEM}-latent.safetensors")


def save_picture(outcome: Outcome) -> str:
    """Path of a PNG with the settings inside."""
    place = outcome.held.place
    inside = {"model": place.model, "seed": place.seed, "settings": settings(outcome)}
    return downloads.save_png(outcome.picture, inside, STEM)
