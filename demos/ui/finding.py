"""What the tabs that find things in pictures share: choosing a box, how boxes are drawn, files."""

from __future__ import annotations

import io
import zipfile
from typing import Any

import gradio as gr

from demos.ui import boxes, downloads
from demos.ui.controls import slider, stage
from demos.ui.text import parse_whole
from models.detection import exports
from models.detection.drawing import DrawStyle

EXPORTS = ("PNG", "JSON", "COCO", "CSV", "YOLO")


def view(text: str) -> gr.HTML:
    """A stage whose boxes can be chosen; `text` stands there until there are any."""
    return stage(boxes.empty(text), js_on_load=boxes.CHOOSES)


def chosen_of(event: gr.EventData, count: int) -> int | None:
    """Which of `count` boxes of a `view` was clicked; None for anything else that is sent."""
    index = event._data.get("index") if isinstance(event._data, dict) else None
    if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < count:
        return None
    return index


def share_slider(label: str, value: float, info: str) -> gr.Slider:
    """A slider from 0 to 1."""
    return slider(0, 1, value, step=0.01, label=label, info=info, min_width=220)


def drawing_sliders() -> dict[str, gr.Slider]:
    """Line width and text size, for `read_style`."""
    return {
        "line": slider(
            0, 12, 0, step=1, label="Line width", info="Pixels; 0 chooses.", min_width=160
        ),
        "text": slider(
            0, 48, 0, step=6, label="Text size", info="Pixels; 0 chooses.", min_width=160
        ),
    }


def read_style(line: Any, text: Any) -> DrawStyle:
    """Raises InputError for what is no width or size."""
    width, size = parse_whole(line, what="The line width"), parse_whole(text, what="The text size")
    return DrawStyle(line_width=width, text_size=size)


def save_export(kind: str, rows: exports.Results, stem: str) -> str:
    """Path of the results as "COCO", "CSV" or "YOLO"."""
    if kind == "COCO":
        return downloads.save_file(exports.coco_json(rows).encode(), f"{stem}-coco.json")
    if kind == "CSV":
        # With a mark, or spreadsheets take it for another encoding.
        return downloads.save_file(exports.csv_table(rows).encode("utf-8-sig"), f"{stem}.csv")
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, text in exports.yolo_files(rows).items():
            archive.writestr(path, text)
    return downloads.save_file(stream.getvalue(), f"{stem}-yolo.zip")
