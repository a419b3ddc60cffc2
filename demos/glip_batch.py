"""Many pictures at once: a folder, a zip or a short video in, a zip of JSON and annotated files out.

A stranger's archive is read with limits: entries are counted and measured before they are
unpacked.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from html import escape
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from PIL import Image

from demos.glip_form import Limits
from demos.glip_session import settings_of
from demos.ui import downloads
from demos.ui.films import VIDEOS, film_facts, frames
from demos.ui.images import open_image
from demos.ui.text import parse_number
from models.detection import exports
from models.detection.colours import phrase_colours
from models.detection.detections import Detections
from models.detection.drawing import DrawStyle, draw
from models.errors import InputError
from models.glip.prompts import Prompt
from models.jobs import Job, Step

MAX_PICTURES = 200
MAX_ENTRY_BYTES = 64 * 2**20
RATES = (0.1, 10.0)  # frames a second taken from a film
PREVIEW_SIDE = 640

Opener = Callable[[], Image.Image]


@dataclass
class Basket:
    """What is ready so far; it stays when a run is stopped. `left_out`: (name, why)."""

    model: str
    prompt: Prompt
    limits: Limits
    folder: Path  # of the annotated pictures
    settings: dict[str, Any] = field(default_factory=dict)
    rows: list[tuple[str, Detections]] = field(default_factory=list)
    left_out: list[tuple[str, str]] = field(default_factory=list)
    keeper: Any = None

    @property
    def last(self) -> Image.Image | None:
        """The last annotated picture."""
        if not self.rows:
            return None
        with Image.open(self.folder / f"{len(self.rows) - 1}.jpg") as drawn:
            drawn.thumbnail((PREVIEW_SIDE, PREVIEW_SIDE))
            return drawn.copy()

    @classmethod
    def new(cls, model: str, prompt: Prompt, limits: Limits) -> Basket:
        """An empty one, whose folder goes with it: with the session, at the latest."""
        keeper = TemporaryDirectory(prefix="glip-")
        return cls(model, prompt, limits, Path(keeper.name), keeper=keeper)


def pictures_in(paths: Sequence[str] | None, rate: float) -> Iterator[tuple[str, Opener]]:
    """Name and opener of every picture in files, zips and films, at most `MAX_PICTURES`.

    Raises InputError for a broken zip or film.
    """
    # A film may be a frame longer than its header says, which is nobody's fault.
    return islice(_everything(paths or (), rate), MAX_PICTURES)


def count_of(paths: Sequence[str] | None, rate: float) -> int:
    """How many pictures there will be, as far as is known before they are read.

    Raises InputError for none, for more than `MAX_PICTURES`, and as `pictures_in`.
    """
    if not paths:
        raise InputError("Give some pictures first: files, a folder, a zip or a short video.")
    total = 0
    for path in map(Path, paths):
        if path.suffix.lower() == ".zip":
            total += len(_entries(path))
        elif path.suffix.lower() in VIDEOS:
            total += max(1, int(film_facts(path)["duration"] * rate))
        else:
            total += 1
    if total > MAX_PICTURES:
        raise InputError(
            f"These are {total:,} pictures; give at most {MAX_PICTURES} at once, or take fewer "
            "frames a second."
        )
    return total


def ground_all(
    basket: Basket, paths: Sequence[str] | None, rate: float, style: DrawStyle, grounder: Any
) -> Job[Basket]:
    """A job: every picture into the basket; what cannot be read is left out and named."""
    total = max(count_of(paths, rate), 1)
    used = basket.limits.on(grounder.defaults)
    basket.settings |= settings_of(basket.prompt, used)
    for place, (name, opener) in enumerate(pictures_in(paths, rate)):
        told = f"{name[:40]}, {place + 1} of {total}"
        yield Step(min(1.0, place / total), told)
        try:
            photo = opener()
        except InputError as error:
            basket.left_out.append((name, str(error)))
            continue
        raw = yield from _within(grounder.ground(photo, basket.prompt), place, total, told)
        drawn = _keep(basket, name, photo, raw.select(used), style)
        drawn.thumbnail((PREVIEW_SIDE, PREVIEW_SIDE))
        yield Step(min(1.0, (place + 1) / total), told, preview=drawn)
    return basket


def _within(job: Job[Any], place: int, total: int, told: str) -> Job[Any]:
    """The job of one picture as a part of the whole."""
    while True:
        try:
            step = next(job)
        except StopIteration as end:
            return end.value
        yield Step(min(1.0, (place + step.fraction) / total), told)


def _keep(
    basket: Basket, name: str, photo: Image.Image, found: Detections, style: DrawStyle
) -> Image.Image:
    colours = phrase_colours(len(basket.prompt.phrases))
    drawn = draw(photo, found, style=style, colours=colours)
    drawn.save(basket.folder / f"{len(basket.rows)}.jpg", quality=90)
    basket.rows.append((name, found))
    return drawn


def pack(basket: Basket) -> str:
    """Path of the zip: `json/`, `annotated/`, COCO JSON, CSV, YOLO, the settings, what was left out.

    Raises InputError when the basket is empty.
    """
    if not basket.rows:
        first = f" {basket.left_out[0][0]}: {basket.left_out[0][1]}" if basket.left_out else ""
        raise InputError(f"None of these pictures could be read.{first}")
    facts = {"model": basket.model, "settings": basket.settings}
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for place, (stem, (name, found)) in enumerate(zip(_stems(basket.rows), basket.rows)):
            answer = {"file": name, **facts, **found.to_json()}
            archive.writestr(f"json/{stem}.json", _dump(answer))
            archive.write(basket.folder / f"{place}.jpg", f"annotated/{stem}.jpg")
        for path, text in export_files(basket.rows).items():
            archive.writestr(path, text)
        left_out = [{"file": name, "why": why} for name, why in basket.left_out]
        archive.writestr("settings.json", _dump({**facts, "left_out": left_out}))
    return downloads.save_file(stream.getvalue(), "glip.zip")


def export_files(rows: exports.Results) -> dict[str, str]:
    """COCO JSON, CSV and YOLO by path in the zip."""
    yolo = {f"yolo/{path}": text for path, text in exports.yolo_files(rows).items()}
    return {"coco.json": exports.coco_json(rows), "boxes.csv": exports.csv_table(rows), **yolo}


def _stems(rows: exports.Results) -> list[str]:
    """A safe file name for each picture: those that the YOLO files have."""
    paths = [path for path in exports.yolo_files(rows) if path.startswith("labels/")]
    return [Path(path).stem for path in paths]


def told(basket: Basket) -> str:
    """How much is in the basket, and what was left out, as HTML."""
    boxes = sum(len(found) for _, found in basket.rows)
    text = f"{len(basket.rows)} pictures, {boxes:,} boxes"
    if basket.left_out:
        names = ", ".join(name for name, _ in basket.left_out[:5])
        text += f"; left out, not readable: {names}{' …' if len(basket.left_out) > 5 else ''}"
    return f'<div class="atelier-note">{escape(text)}</div>'


def read_rate(rate: Any) -> float:
    """Frames a second. Raises InputError for what is none."""
    number = parse_number(rate, what="The frames a second")
    if not RATES[0] <= number <= RATES[1]:
        raise InputError(f"Take {RATES[0]:g} to {RATES[1]:g} frames a second, not {number:g}.")
    return number


def _dump(value: dict[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, indent=2)


# ------------------------------------------------------------------------------------ reading


def _everything(paths: Sequence[str], rate: float) -> Iterator[tuple[str, Opener]]:
    for path in map(Path, paths):
        if path.suffix.lower() == ".zip":
            yield from _zipped(path)
        elif path.suffix.lower() in VIDEOS:
            for second, frame in frames(path, rate):
                name = f"{path.stem}-{second:07.2f}s.jpg"
                yield name, lambda frame=frame: frame  # type: ignore[misc]
        else:
            yield path.name, lambda path=path: open_image(path)  # type: ignore[misc]


def _entries(path: Path) -> list[zipfile.ZipInfo]:
    """The files in a zip that may be pictures."""
    try:
        with zipfile.ZipFile(path) as archive:
            rows = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise InputError(f"The zip {path.name} is damaged; pack it again.") from error
    hidden = (".", "__")
    names = [(row, [part for part in row.filename.split("/") if part]) for row in rows]
    return [
        row
        for row, parts in names
        if not row.is_dir() and parts and not any(part.startswith(hidden) for part in parts)
    ]


def _zipped(path: Path) -> Iterator[tuple[str, Opener]]:
    with zipfile.ZipFile(path) as archive:
        for row in _entries(path):

            def opener(row: zipfile.ZipInfo = row) -> Image.Image:
                return open_image(_unpacked(archive, row))

            yield row.filename, opener


def _unpacked(archive: zipfile.ZipFile, row: zipfile.ZipInfo) -> io.BytesIO:
    """One entry; its header may lie about its size."""
    try:
        with archive.open(row) as packed:
            data = packed.read(MAX_ENTRY_BYTES + 1)
    except (zipfile.BadZipFile, RuntimeError, NotImplementedError, EOFError, OSError) as error:
        raise InputError("It is encrypted or damaged in the zip.") from error
    if len(data) > MAX_ENTRY_BYTES:
        raise InputError(f"It is larger than {MAX_ENTRY_BYTES // 2**20} MB.")
    return io.BytesIO(data)
