"""Results to take away, with the settings that made them inside.

Files lie in Gradio's own cache, named by content, where `delete_cache` clears them away.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import gradio as gr
from gradio.components import Component
from gradio.events import Dependency
from gradio.processing_utils import hash_bytes
from gradio.utils import get_upload_folder
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from demos.ui import badge
from demos.ui.jobs import Done, explained
from models.jobs import Step
from models.pictures import on_white

SETTINGS_KEY = "clip-atelier"


def save_png(image: Image.Image, settings: Mapping[str, Any], stem: str) -> str:
    """Path of a PNG of `image` with `settings` as JSON in its text chunk `clip-atelier`.

    Read back with `json.loads(Image.open(path).text["clip-atelier"])`.
    """
    info = PngInfo()
    info.add_itxt(SETTINGS_KEY, _dump(settings))
    stream = io.BytesIO()
    image.save(stream, "PNG", pnginfo=info)
    return save_file(stream.getvalue(), f"{stem}.png")


def save_jpeg(image: Image.Image, stem: str = "preview", *, quality: int = 90) -> str:
    """Path of a JPEG of `image`, the quick way to show a frame: `gr.Image` takes it as it is."""
    stream = io.BytesIO()
    on_white(image).save(stream, "JPEG", quality=quality)
    return save_file(stream.getvalue(), f"{stem}.jpg")


def save_json(result: Mapping[str, Any], stem: str) -> str:
    """Path of a JSON file of a result, which carries its own `settings`."""
    return save_file(_dump(result, indent=2).encode(), f"{stem}.json")


def save_file(data: bytes, name: str) -> str:
    """Path of `data` in Gradio's cache under `name`, for `gr.DownloadButton`, `gr.File`, `gr.Image`.

    The file appears whole and is never written again. Gradio's own writers truncate and rewrite:
    when two visitors get the same result, one breaks the file that the other is just reading.
    """
    path = Path(get_upload_folder()) / hash_bytes(data) / name
    if path.exists():
        path.touch()  # used again, so `delete_cache` shall count its age from now
        return str(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with NamedTemporaryFile(dir=path.parent, delete=False) as part:
        part.write(data)
    os.replace(part.name, path)
    return str(path)


def makes(
    button: gr.Button,
    make: Callable[..., Any],
    inputs: Sequence[Component],
    status: gr.HTML,
    options: Mapping[str, Any],
) -> Dependency:
    """Let `button` make a file and hand it over: for what costs too much to lie ready.

    make: inputs -> (path, status line), or a generator of them with `gr.skip()` until it is there.
    options: how the event runs, `PROMPT` or, where it takes the device, `DEVICE_EVENT`.
    """
    carrier = gr.File(visible="hidden")
    event = button.click(
        make, list(inputs), [carrier, status],
        **{"show_progress": "hidden", "api_visibility": "private", **options},
    )  # fmt: skip
    event.success(None, carrier, None, js="(file) => window.atelier.save(file)")
    return event


def by_job(
    run: Callable[..., Iterator[Step | Done[str]]],
) -> Callable[..., Iterator[tuple[Any, Any]]]:
    """A handler for `makes`, with `DEVICE_EVENT`, of a file that a job makes: `run(*inputs)` are
    its events, and its result is the path."""

    @explained
    def make(*inputs: Any) -> Iterator[tuple[Any, Any]]:
        for event in run(*inputs):
            if isinstance(event, Step):
                yield gr.skip(), badge.progress(event)
            else:
                yield event.result, badge.said(f"made in {event.seconds:.1f} s")

    return make


def _dump(value: Mapping[str, Any], indent: int | None = None) -> str:
    # NaN is no JSON: better fail here than in somebody's reader.
    return json.dumps(value, ensure_ascii=False, allow_nan=False, indent=indent)
