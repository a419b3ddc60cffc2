"""Frames of a webcam or a film, named as fast as the machine manages."""

from __future__ import annotations

import io
import time
from base64 import b64decode
from binascii import Error as Base64Error
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.data_classes import ImageData
from PIL import Image

from demos.ui.films import frames
from demos.ui.images import open_image
from demos.ui.variant import variant
from demos.vild_form import Limits
from models.detection.colours import phrase_colours
from models.detection.drawing import draw
from models.jobs import Job
from models.vild.detector import Detector

FILM_RATE = 10.0  # frames a second that are looked at where the machine is quick enough
FRAME_SIDE = 640
MAX_FRAME_CHARS = 8 * 2**20
STREAM_EVERY_S = 0.1
_NO_FRAME = "This is no frame of a camera."


@dataclass
class Live:
    """What a visitor asks of the running pictures right now, and how quick they are.

    asked: the values of the page's controls; a new name counts from the next frame on.
    """

    asked: tuple[Any, ...] = ()
    ends: deque[float] = field(default_factory=lambda: deque(maxlen=10))

    def rate(self) -> float:
        """Frames a second, over the last ten; one more is ready now."""
        self.ends.append(time.monotonic())
        passed = self.ends[-1] - self.ends[0]
        return (len(self.ends) - 1) / passed if passed > 0 else 0.0


@dataclass(frozen=True, eq=False)
class Frame:
    """One annotated frame."""

    picture: Image.Image
    boxes: int


def name_frame(
    photo: Image.Image,
    names: Sequence[str],
    limits: Limits,
    templates: str | None,
    masks: bool,
    detector: Detector,
) -> Job[Frame]:
    """A job: one frame looked at, named and drawn on."""
    raw = yield from detector.detect(photo)
    words = yield from detector.read(names, templates)
    score: Any = limits.score
    found = detector.select(
        raw, words, limits.on(detector.defaults), score, limits.temperature, masks
    )
    return Frame(draw(photo, found, colours=phrase_colours(len(names))), len(found))


def in_time(path: Path, rate: float = FILM_RATE) -> Iterator[Image.Image]:
    """The frames of a film when they are due: those that come too late are left out, so that it
    runs at its own speed on any machine. Raises InputError."""
    began: float | None = None
    for second, picture in frames(path, rate):
        now = time.monotonic()
        began = now - second if began is None else began
        due = began + second
        if now > due + 1 / rate:
            continue
        time.sleep(max(0.0, due - now))
        yield small(picture)


def small(picture: Image.Image) -> Image.Image:
    """At most `FRAME_SIDE` on the long side."""
    picture.thumbnail((FRAME_SIDE, FRAME_SIDE))
    return picture


def open_frame(given: str | bytes | None) -> Image.Image:
    """A frame as the camera sent it. Raises InputError."""
    source = io.BytesIO(given) if isinstance(given, bytes) else given
    return small(open_image(source))


def _as_sent(component: Any, payload: ImageData | None) -> str | bytes | None:
    """A frame's path, or its bytes where the browser sends them in the message."""
    if payload is None:
        return None
    if payload.path is not None:
        return payload.path
    head, _, data = (payload.url or "").partition(",")
    if not head.startswith("data:image/") or len(data) > MAX_FRAME_CHARS:
        raise gr.Error(_NO_FRAME, print_exception=False)
    try:
        return b64decode(data, validate=True)
    except Base64Error:
        raise gr.Error(_NO_FRAME, print_exception=False) from None


_Camera = variant(gr.Image, preprocess=_as_sent)


def camera(**options: Any) -> gr.Image:
    """An input of a webcam's frames, for `open_frame`."""
    return _Camera(
        sources=["webcam"], type="filepath", image_mode=None, buttons=[],
        webcam_options=gr.WebcamOptions(mirror=False), **options,
    )  # fmt: skip
