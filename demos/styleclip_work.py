"""What the StyleCLIP tab has computed: a start, an edit by each method, what it looks like."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol, TypeVar

import torch
from PIL import Image

from demos.styleclip_form import Start, Wish
from demos.styleclip_kits import Kit
from models import film
from models.clip.encoder import ClipEncoder
from models.clip.layers import ClipLayers
from models.errors import InputError
from models.jobs import Job, Step
from models.styleclip.derivative import Probes, probe
from models.styleclip.directions import (
    ChannelRelevance,
    LayerActivity,
    StyleStatistics,
    auto_beta,
    boundary,
    layer_activity,
    measure_statistics,
)
from models.styleclip.film import evenly, sweep, there_and_back
from models.styleclip.fs3 import Fs3, read_released
from models.styleclip.mapper import Mapper, apply_mapper
from models.styleclip.mapper_training import train_mapper
from models.styleclip.optimization import OptimizationStep, optimize
from models.styleclip.prompt import EditPrompt
from models.styleclip.templates import text_direction
from models.stylegan.alignment import align
from models.stylegan.generator import Generator, to_pictures
from models.stylegan.inversion import InversionSettings, invert
from models.stylegan.landmarks import find_faces
from models.stylegan.latent import Latent
from models.weights import sha256_of

T = TypeVar("T")

PREVIEW_SIDE = 256  # of a large generator's picture while a slider moves on a CPU
STATISTICS_SAMPLES = 10_000  # where no table brings its own; the table's have 100,000
GALLERY = 12
GALLERY_SIDE = 128
FACE_SIDE = 256
FILM_PIXELS = 12 * 1024**2  # rendered for a film, about a minute of a laptop's CPU
MAX_FRAMES, MIN_FRAMES = 33, 9
STRIP = 7


# ------------------------------------------------------------------------------------ edits


class Edit(Protocol):
    """An edit whose strength is still free."""

    def at(self, strength: float, beta: float) -> Latent:
        """The latent at a strength; `beta` is the disentanglement, for directions."""


@dataclass(frozen=True)
class Line:
    """An optimised or mapped edit: a straight line, 0 is the start and 1 the result."""

    start: Latent
    result: Latent

    def at(self, strength: float, beta: float) -> Latent:
        return self.start.towards(self.result, strength)


@dataclass(frozen=True)
class Global:
    """A global direction, chosen anew for every `beta`."""

    start: Latent
    relevance: ChannelRelevance
    statistics: StyleStatistics

    def at(self, strength: float, beta: float) -> Latent:
        direction = boundary(self.relevance, beta, self.statistics).direction
        return self.start.moved(direction, strength)


@dataclass(frozen=True)
class Made:
    """What a run made.

    Attributes:
        start: where the edit begins.
        beta: the automatic disentanglement, None where the method has none.
        statistics: of the generator's styles, to measure layers in.
        losses: of the optimisation.
    """

    start: Latent
    edit: Edit
    statistics: StyleStatistics
    beta: float | None = None
    losses: tuple[float, ...] = ()


@dataclass(frozen=True)
class MadeStep(Step):
    """A step of a run, with the best edit so far if there is one: stopping loses nothing."""

    made: Made | None = None


# ---------------------------------------------------------------------------------- library


class Library:
    """What was measured of generators and words: made once, shared by all visitors.

    Everything in it follows from a model and a text alone, so sharing reveals nothing.
    """

    def __init__(self, capacity: int = 200) -> None:
        self._capacity = capacity
        self._kept: OrderedDict[Hashable, Any] = OrderedDict()  # least recently used first
        self._lock = threading.Lock()

    def keep(self, key: Hashable, make: Callable[[], Job[T]]) -> Job[T]:
        """What `make` returned the last time, else what it returns now."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                found: T = self._kept[key]
                return found
        made = yield from make()
        with self._lock:
            self._kept[key] = made
            while len(self._kept) > self._capacity:
                self._kept.popitem(last=False)
        return made

    def statistics(self, kit: Kit, generator: Generator) -> Job[StyleStatistics]:
        """Means and deviations of the styles: the table's, or measured now."""
        table = yield from self.table(kit, generator)
        if table is not None:
            return table.statistics
        return (yield from self._measured(kit, generator))

    def _measured(self, kit: Kit, generator: Generator) -> Job[StyleStatistics]:
        make = partial(measure_statistics, generator, STATISTICS_SAMPLES)
        return (yield from self.keep(("statistics", kit.name), make))

    def table(self, kit: Kit, generator: Generator) -> Job[Fs3 | None]:
        """The measured table of a generator, None where there is none."""
        return (yield from self.keep(("table", *_stamp(kit)), lambda: self._read(kit, generator)))

    def _read(self, kit: Kit, generator: Generator) -> Job[Fs3 | None]:
        ours, released = kit.folder / "fs3.safetensors", kit.folder / "fs3.npy"
        if ours.is_file():
            table = Fs3.load(ours)
            _check_origin(kit, table)
            return table
        if released.is_file():
            statistics = yield from self._measured(kit, generator)
            return Fs3(read_released(released), statistics)
        return None

    def relevance(
        self, kit: Kit, generator: Generator, clip: ClipEncoder, prompt: EditPrompt, source: str
    ) -> Job[ChannelRelevance]:
        """How much each channel has to do with the words.

        Raises:
            InputError: `source` asks for a table and there is none.
        """
        table = yield from self.table(kit, generator)
        if source == "table" and table is None:
            raise InputError(
                f"No table was measured for {kit.row.title}; choose the gradient, or measure one "
                f"with `python -m training.fs3` and put it into {kit.folder}."
            )
        if source == "gradient":
            table = None

        def make() -> Job[ChannelRelevance]:
            yield Step(0.6, "Reading the words")
            words = text_direction(clip, prompt)
            if table is not None:
                return table.relevance(words, generator.layout)
            probes = yield from self._probes(kit, generator, clip)
            yield Step(0.9, "One gradient for these words")
            return probes.relevance(generator, clip, words)

        key = ("relevance", *_stamp(kit), table is None, prompt)
        return (yield from self.keep(key, make))

    def _probes(self, kit: Kit, generator: Generator, clip: ClipEncoder) -> Job[Probes]:
        make = partial(probe, generator, clip, kit.probes)
        return (yield from self.keep(("probes", kit.name, kit.clip), make))


def _stamp(kit: Kit) -> tuple[Hashable, ...]:
    """Changes when somebody puts another table into the folder."""
    path = kit.folder / "fs3.safetensors"
    return kit.name, path.stat().st_mtime_ns if path.is_file() else 0


def _check_origin(kit: Kit, table: Fs3) -> None:
    """A table of another generator of the same shape, or of another CLIP, would edit nonsense."""
    clip, generator = table.about.get("clip", kit.clip), table.about.get("generator", "")
    weights = kit.folder / "model.safetensors"
    stale = generator and weights.is_file() and sha256_of(weights) != generator
    if clip != kit.clip or stale:
        raise InputError(
            f"The measured table of {kit.row.title} belongs to other weights; measure it again "
            "with `python -m training.fs3`, or choose the gradient."
        )


# ------------------------------------------------------------------------------------ starts


def average(generator: Generator) -> Latent:
    """The mean latent, where free generation begins."""
    return Latent.from_w_plus(generator.broadcast(generator.mean_latent[None])[0])


def open_start(start: Start, generator: Generator) -> Latent:
    """The latent of a seed or of a file.

    Raises:
        InputError: the file is none, or of another generator.
    """
    if start.data is not None:
        return Latent.from_bytes(start.data, generator, start.model)
    assert start.seed is not None, "a start is a seed or a file"
    return Latent.from_seed(generator, start.seed, start.psi)


def gallery(generator: Generator, first: int, psi: float) -> Job[list[Image.Image]]:
    """Small pictures of `GALLERY` seeds from `first` on, as the sliders' previews are."""
    pictures = []
    for seed in range(first, first + GALLERY):
        latent = Latent.from_seed(generator, seed, psi)
        pictures.append(render(generator, latent, preview_size(generator, GALLERY_SIDE)))
        yield Step(len(pictures) / GALLERY, f"Rendered {len(pictures)} of {GALLERY}")
    return pictures


def find_people(photo: Image.Image) -> Job[list[Image.Image]]:
    """Every face in a photograph, cut out as the generator's own pictures are, the largest first.

    Raises:
        InputError: there is none, or the finder is not installed.
    """
    yield Step(0.1, "Looking for faces")
    return [align(photo, face.landmarks, FACE_SIDE) for face in find_faces(photo)]


def invert_photo(
    photo: Image.Image, steps: int, generator: Generator, clip: ClipEncoder, encoder: Any = None
) -> Job[Latent]:
    """The latent of somebody's own picture, cut out as the generator's pictures are."""
    settings = InversionSettings(steps=steps)
    return (yield from invert(generator, encoder, photo, settings, ClipLayers(clip)))


# ----------------------------------------------------------------------------------- editing


def edit(
    wish: Wish, start: Latent, library: Library, generator: Generator, clip: ClipEncoder,
    network: Any = None,
) -> Job[Made]:  # fmt: skip
    """Edit a latent as the wish says; `network` knows people, for the identity of real faces."""
    start.check(generator)
    statistics = yield from library.statistics(wish.kit, generator)
    if wish.method == "directions":
        relevance = yield from library.relevance(
            wish.kit, generator, clip, wish.prompt, wish.source
        )
        beta = auto_beta(relevance, wish.kit.few) if wish.beta is None else wish.beta
        boundary(relevance, beta, statistics)  # says now what would leave nothing
        return Made(start, Global(start, relevance, statistics), statistics, beta)
    if wish.method == "mapper":
        yield Step(0.5, "Applying the mapper")
        mapper = wish.kit.mapper_for(wish.mapper, wish.target).to(generator.device)
        return Made(start, Line(start, apply_mapper(mapper, generator, start)), statistics)
    return (yield from _optimized(wish, start, statistics, generator, clip, network))


def _optimized(
    wish: Wish, start: Latent, statistics: StyleStatistics, generator: Generator,
    clip: ClipEncoder, network: Any,
) -> Job[Made]:  # fmt: skip
    settings = wish.optimization
    identity = None
    if settings.identity and not wish.free:
        identity = wish.kit.identity(clip, wish.prompt, network)
    job = optimize(generator, clip, None if wish.free else start, wish.prompt, settings, identity)
    losses: list[float] = []

    def made(latent: Latent) -> Made:
        return Made(start, Line(start, latent), statistics, losses=tuple(losses))

    while True:
        try:
            step = next(job)
        except StopIteration as end:
            return made(end.value.latent)
        losses.append(step.metrics["loss"])
        best = step.latent if isinstance(step, OptimizationStep) else None
        told = f"{step.message}, loss {losses[-1]:.3f}"
        yield MadeStep(step.fraction, told, step.preview, step.metrics,
                       made=None if best is None else made(best))  # fmt: skip


def train(
    kit: Kit, prompt: EditPrompt, steps: int, generator: Generator, clip: ClipEncoder,
    network: Any = None,
) -> Job[Mapper]:  # fmt: skip
    """Train a mapper for these words with the kit's settings."""
    settings = replace(kit.mapper, steps=steps)
    identity = kit.identity(clip, prompt, network) if settings.identity else None
    return (yield from train_mapper(generator, clip, prompt, settings, identity, kit.name))


# ----------------------------------------------------------------------------------- looking


@torch.no_grad()
def render(generator: Generator, latent: Latent, size: int | None = None) -> Image.Image:
    """The generator's picture of a latent, at a lower resolution if `size` says so."""
    return to_pictures(generator.synthesize(latent.styles(generator), size=size))[0]


def preview_size(generator: Generator, side: int = PREVIEW_SIDE) -> int | None:
    """The resolution of a preview: on a CPU, where rendering is the wait, at most `side`."""
    slow = generator.mean_latent.device.type == "cpu" and generator.size > side
    return side if slow else None


@torch.no_grad()
def activity(
    generator: Generator, before: Latent, after: Latent, statistics: StyleStatistics
) -> list[LayerActivity]:
    """Which style vectors differ between two latents, and how much."""
    pairs = zip(after.styles(generator), before.styles(generator))
    return layer_activity([(a - b)[0].cpu() for a, b in pairs], statistics, generator.layout)


def changed_channels(layers: Sequence[LayerActivity]) -> list[dict[str, Any]]:
    """The layers that an edit changes, for the JSON."""
    return [
        {"layer": index, "resolution": layer.slot.resolution, "to_rgb": layer.slot.is_rgb,
         "channels": layer.channels, "sigmas": round(layer.norm, 4)}
        for index, layer in enumerate(layers)
        if layer.channels
    ]  # fmt: skip


def sweep_pictures(
    at: Callable[[float], Latent], low: float, high: float, count: int | None,
    generator: Generator,
) -> Job[list[Image.Image]]:  # fmt: skip
    """An edit from one strength to another; `count` None is what a film of this size may cost."""
    affordable = FILM_PIXELS // generator.size**2
    frames = count or min(MAX_FRAMES, max(MIN_FRAMES, affordable))
    return (yield from sweep(generator, at, evenly(low, high, frames), batch=4))


def written(pictures: Sequence[Image.Image], kind: str) -> bytes:
    """A film, there and back, as "mp4" or "gif"."""
    frames = there_and_back(pictures)
    return {"mp4": film.mp4, "gif": film.gif}[kind](frames, fps=12.5, hold_s=0)
