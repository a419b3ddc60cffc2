"""A tab made of the furniture alone, with a job whose pace the test decides."""

from __future__ import annotations

import time
from collections.abc import Iterator
from html import escape

import gradio as gr
from PIL import Image

from demos.ui import badge, downloads, share
from demos.ui.controls import run_button, stop_button, stops
from demos.ui.howto import how_it_works
from demos.ui.images import open_image, picture
from demos.ui.jobs import DEVICE_EVENT, Done, explained
from demos.ui.tab import Atelier, Tab
from demos.ui.text import parse_labels
from models.jobs import Job, Step

DIAGRAM = """
<svg viewBox="0 0 640 160" fill="none" stroke-width="2"><title>Words become boxes</title>
<rect class="accent fill-soft" x="20" y="40" width="140" height="80" rx="10"/>
<path class="ink" d="M160 80h120"/><rect class="warm fill-soft" x="280" y="40" width="140" height="80" rx="10"/>
<text x="52" y="85">words</text><text x="320" y="85">boxes</text></svg>
"""


def build(atelier: Atelier) -> list[share.Field]:
    with gr.Row():
        with gr.Column(scale=2):
            image = picture()
            labels = gr.Textbox(label="Labels", lines=4, value="a cat\na dog")
            with gr.Row():
                count = gr.Slider(1, 200, value=5, step=1, label="Steps")
                colour = gr.Radio(["red", "blue"], value="red", label="Colour")
            with gr.Row():
                run = run_button("Count")
                stop = stop_button()
            status = badge.status_line()
        with gr.Column(scale=3):
            shown = gr.HTML(label="Result", elem_classes="tiny-result")
            preview = gr.Image(label="Preview", height=240, buttons=["download", "fullscreen"])
            save = gr.DownloadButton("PNG with settings", size="sm")
            gr.Markdown("What this knows: counting to two hundred.", elem_classes="atelier-note")

    @explained
    def count_labels(path: str | None, text: str, steps: int, tint: str) -> Iterator[list]:
        words = parse_labels(text)
        size = open_image(path).size if path else (64, 64)

        def job() -> Job[Image.Image]:
            canvas = Image.new("RGB", size, "white")
            for index in range(int(steps)):
                time.sleep(0.02)
                canvas.paste(tint, (0, 0, size[0] * (index + 1) // int(steps), size[1]))
                yield Step(index / steps, f"Counting {words[0]}", canvas.copy())
            return canvas

        for event in atelier.jobs.run(job):
            match event:
                case Step():
                    frame = downloads.save_jpeg(event.preview) if event.preview else gr.skip()
                    yield [gr.skip(), frame, gr.skip(), badge.progress(event)]
                case Done():
                    settings = {"steps": steps, "labels": words}
                    saved = downloads.save_png(event.result, settings, "count")
                    yield [
                        f"{len(words)} labels: {escape(', '.join(words))}",
                        saved,
                        saved,
                        badge.badge("tiny", "cpu", event.seconds),
                    ]

    event = run.click(
        count_labels,
        [image, labels, count, colour],
        [shown, preview, save, status],
        api_name="tiny_count",
        show_progress="hidden",
        **DEVICE_EVENT,
    )
    stops(stop, event, status)
    how_it_works(
        DIAGRAM, "Words are **counted**.", paper="Nobody 2026", url="https://arxiv.org/abs/0000.0"
    )
    return [
        share.Field("labels", labels, share.text(2000)),
        share.Field("steps", count, share.number(1, 200)),
        share.Field("colour", colour, share.choice("red", "blue")),
    ]


def second(_: Atelier) -> list[share.Field]:
    note = gr.Textbox(label="Note")
    return [share.Field("note", note, share.text(200))]


TABS = (
    Tab(key="tiny", title="Tiny", build=build, endpoints=("tiny_count",)),
    Tab(key="second", title="Second", build=second, endpoints=()),
)
