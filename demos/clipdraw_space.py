"""Experimental: strokes in space that read differently from different sides."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import gradio as gr

from demos import clipdraw_views as views
from demos.clipdraw_form import MAX_PROMPT_CHARS, MODELS, lines_of, read_words, words_of
from demos.ui import badge, downloads
from demos.ui.controls import LIVE, QUIET, run_button, slider, stage, stop_button, stops
from demos.ui.jobs import DEVICE_EVENT, explained
from demos.ui.model import ask, ran
from demos.ui.tab import Atelier
from demos.ui.text import parse_line, parse_number, parse_seed, parse_whole
from models.catalog import row_of
from models.clipdraw import svg
from models.clipdraw.config import MAX_STROKES
from models.clipdraw.critic import Prompt
from models.clipdraw.space import (
    MAX_VIEWS,
    SpaceConfig,
    SpaceDrawing,
    SpaceStep,
    draw_in_space,
    turntable,
)
from models.errors import InputError
from models.film import gif, mp4
from models.jobs import Job, Step

STEM = "clipdraw-space"
DEADLINE_S = 3600.0
FILM_FRAMES, FILM_SIDE, FILM_FPS = 72, 384, 18.0
_SIDES = "a red apple\na sunflower"
_NOTE = (
    "One sculpture of curves, other words from every side: the first line is drawn from the front, "
    "the others from equal turns around it."
)


@dataclass(frozen=True)
class Order:
    """What is asked for, checked."""

    model: str
    sides: tuple[tuple[Prompt, ...], ...]
    config: SpaceConfig


def read_order(model: str, text: str, strokes: float, steps: float, seed: float | None) -> Order:
    """Words for each side, one a line, and the numbers.

    Raises:
        InputError: one sentence about what is wrong.
    """
    lines = lines_of(text)
    if not 1 <= len(lines) <= MAX_VIEWS:
        raise InputError(f"Type 1 to {MAX_VIEWS} lines, one for each side, not {len(lines)}.")
    sides = tuple((Prompt(parse_line(line, max_chars=MAX_PROMPT_CHARS)),) for line in lines)
    mini = row_of(MODELS, model).family == "mini"
    base = SpaceConfig.mini() if mini else SpaceConfig.default()
    config = replace(
        base,
        strokes=parse_whole(strokes, what="The number of strokes"),
        steps=parse_whole(steps, what="The number of steps"),
        seed=parse_seed(seed),
    )
    return Order(model, sides, config)


def build_space(atelier: Atelier, model: gr.Dropdown, seed: gr.Number) -> None:
    """The fold with everything in it; model and seed are the tab's."""
    base = SpaceConfig.mini()
    with (
        gr.Accordion("Experimental: strokes in space", open=False),
        gr.Row(equal_height=False, elem_classes="atelier-studio"),
    ):
        with gr.Column(min_width=300):
            sides = gr.Textbox(
                _SIDES, label="Words for each side", info=_NOTE, lines=3, max_lines=MAX_VIEWS
            )
            with gr.Row():
                run = run_button("Draw in space")
                stop = stop_button()
            status = badge.status_line()
            with gr.Row():
                strokes = slider(
                    1, MAX_STROKES, base.strokes, step=1, label="Strokes in space", min_width=140
                )
                steps = slider(1, 2000, base.steps, step=1, label="Steps in space", min_width=140)
        with gr.Column(min_width=300):
            easel = stage(views.empty("The sculpture appears here, seen from all its sides."))
            turn = slider(
                0, 360, 0, step=1, label="Turn", info="Walk around it, in degrees.",
                interactive=False,
            )  # fmt: skip
            with gr.Row(elem_classes="atelier-tools"):
                vector = gr.Button("SVG of this side", size="sm", min_width=110)
                films = {
                    kind: gr.Button(f"Turntable ({kind.upper()})", size="sm", min_width=110)
                    for kind in ("gif", "mp4")
                }
    held = gr.State()

    @explained
    def draw(*values: Any) -> Iterator[Any]:
        order = read_order(*values)
        for event in ask(atelier, order.model, partial(_job, order), deadline_s=DEADLINE_S):
            if isinstance(event, SpaceStep) and event.drawing is not None:
                picture = views.live(event.preview) if event.preview else gr.skip()
                yield picture, badge.progress(event), event.drawing
            elif isinstance(event, Step):
                yield gr.skip(), badge.progress(event), gr.skip()
            else:
                line = ran(atelier, MODELS[order.model], event.seconds)
                yield _seen(event.result, 0), line, event.result

    def settle(drawing: SpaceDrawing | None, azimuth: float) -> Any:
        if drawing is None:
            return gr.skip(), gr.skip()
        return _seen(drawing, azimuth), gr.update(interactive=True)

    @explained
    def look(drawing: SpaceDrawing | None, azimuth: float) -> Any:
        return gr.skip() if drawing is None else _seen(drawing, azimuth)

    @explained
    def save_side(drawing: SpaceDrawing | None, azimuth: float) -> Any:
        drawing = _drawn(drawing)
        angle = parse_number(azimuth, what="The turn")
        text = svg.write(
            drawing.strokes.seen_from(angle), title=_title(drawing),
            background=drawing.config.background, metadata=drawing.settings(),
        )  # fmt: skip
        return downloads.save_file(text.encode(), f"{STEM}-{angle:.0f}.svg"), gr.skip()

    event = run.click(
        draw, [model, sides, strokes, steps, seed], [easel, status, held],
        show_progress="hidden", api_visibility="private", **DEVICE_EVENT,
    )  # fmt: skip
    for ended in (event, stops(stop, event, status)):
        ended.then(settle, [held, turn], [easel, turn], **QUIET)
    turn.input(look, [held, turn], easel, **LIVE)
    downloads.makes(vector, save_side, [held, turn], status, QUIET)
    for kind, button in films.items():
        downloads.makes(button, _filmed(atelier, kind), [held], status, DEVICE_EVENT)


def _job(order: Order, clip: Any) -> Job[SpaceDrawing]:
    words = words_of(order.model)
    yield from read_words(clip, words)
    return (yield from draw_in_space([clip], order.sides, order.config, words=words))


def _filmed(atelier: Atelier, kind: str) -> Any:
    @explained
    def make(drawing: SpaceDrawing | None) -> Iterator[Any]:
        drawing = _drawn(drawing)
        for event in atelier.jobs.run(partial(_film, drawing, kind)):
            if isinstance(event, Step):
                yield gr.skip(), badge.progress(event)
            else:
                yield event.result, badge.said(f"made in {event.seconds:.1f} s")

    return make


def _film(drawing: SpaceDrawing, kind: str) -> Job[str]:
    frames = []
    for frame in turntable(drawing, FILM_FRAMES, FILM_SIDE):
        frames.append(frame)
        yield Step(0.9 * len(frames) / FILM_FRAMES, "Walking around it")
    data = {"gif": gif, "mp4": mp4}[kind](frames, fps=FILM_FPS, hold_s=0.0)
    return downloads.save_file(data, f"{STEM}.{kind}")


def _seen(drawing: SpaceDrawing, azimuth: float) -> str:
    angle = parse_number(azimuth, what="The turn")
    flat = drawing.strokes.seen_from(angle)
    name = f"{angle:.0f}° · {len(flat)} strokes"
    return views.done([views.figure(flat, drawing.config.background, caption=name, chosen=False)])


def _title(drawing: SpaceDrawing) -> str:
    return " | ".join("; ".join(prompt.text for prompt in side) for side in drawing.views)


def _drawn(drawing: SpaceDrawing | None) -> SpaceDrawing:
    if drawing is None:
        raise InputError("There is no sculpture yet; draw one first.")
    return drawing
