"""The CLIPDraw tab: words become strokes before one's eyes, and the strokes can be taken home."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, replace
from functools import partial
from typing import Any

import gradio as gr

from demos import clipdraw_files as files
from demos import clipdraw_form as form
from demos import clipdraw_views as views
from demos.clipdraw_files import Held
from demos.clipdraw_form import FIRST, MODELS, Form, Wish, read_form
from demos.clipdraw_space import build_space
from demos.ui import badge, downloads, share
from demos.ui.controls import (
    LIVE,
    PROMPT,
    QUIET,
    chips,
    note,
    number,
    run_button,
    shown_if,
    slider,
    stage,
    stop_button,
    stops,
)
from demos.ui.howto import how_it_works
from demos.ui.images import picture
from demos.ui.jobs import DEVICE_EVENT, explained
from demos.ui.model import ask, model_choice, ran
from demos.ui.tab import Atelier, Tab
from demos.ui.text import parse_whole, random_seed
from models.clipdraw.config import MAX_SIDE, MAX_STEPS, MAX_STROKES, DrawConfig
from models.clipdraw.critic import Critic
from models.clipdraw.drawing import Drawing, DrawStep, draw, picture_of
from models.clipdraw.plain import MAX_SIDE as MAX_PNG_SIDE
from models.clipdraw.ranking import importance
from models.errors import InputError
from models.jobs import Job, Step

DEADLINE_S = 3600.0  # ViT-L/14 on a laptop's CPU; the first step tells how long it will take
MAX_ALBUM = 12
THUMB_SIDE = 160
ENDPOINT = "clipdraw_draw"
START = "a red apple"
EXAMPLES = (
    START, "a sunflower", "a sailboat", "a tropical fish", "a cat face", "an umbrella",
    "a blue butterfly", "a smiling face with glasses",
)  # fmt: skip
STYLES = (
    "watercolor painting", "pencil sketch", "oil painting", "children's drawing",
    "ink drawing", "stained glass", "pop art",
)  # fmt: skip
KNOWS = (
    "Mini draws what it knows: about 1,600 emoji things, drawn faces, photographed things. "
    "Styles and all the rest of the world begin with the official models."
)
_EMPTY = "The drawing appears here, stroke by stroke."


def build(atelier: Atelier) -> list[share.Field]:
    """Draw the tab and return what its link carries."""
    model = model_choice(MODELS, FIRST)
    # Three parts: on a wide page the drawing stands beside both others, on a phone between them.
    with gr.Row(equal_height=False, elem_classes="atelier-studio"):
        with gr.Column(min_width=300):
            entries, samples = _build_words()
            with gr.Row():
                run = run_button("Draw")
                stop = stop_button()
            status = badge.status_line()
        with gr.Column(min_width=300):
            with gr.Row(equal_height=False):
                with gr.Column(scale=3, min_width=300):
                    easel = stage(views.empty(_EMPTY), js_on_load=views.DRAG)
                with gr.Column(scale=2, min_width=200):
                    panel = stage(views.panel((), (), 0, 0))
            after = _build_after()
        with gr.Column(min_width=300):
            entries |= _build_numbers() | _build_steering(entries["prompt"])
            entries |= _build_looks() | _build_start()
            entries |= {"model": model, **_build_method()}
            note(KNOWS)
    build_space(atelier, model, entries["seed"])
    how_it_works(
        views.DIAGRAM,
        views.HOW,
        paper="Frans, Soros, Witkowski 2022, CLIPDraw: Exploring Text-to-Drawing Synthesis through "
        "Language-Image Encoders",
        url="https://arxiv.org/abs/2106.14843",
    )
    page = _Page(atelier, entries, samples, easel, panel, status, run, stop, after)
    return page.wire()


def warm(atelier: Atelier, model: str) -> None:
    """Draw two steps, so that the words are read and every kernel is warm."""
    wish = read_form(Form(START, "", 8, 2, 0, model))
    for _ in ask(atelier, model, partial(_job, wish)):
        pass


# --------------------------------------------------------------------------------- the work


def _job(wish: Wish, clip: Any) -> Job[tuple[Drawing, tuple[int, ...]]]:
    """Read the words, draw, rank the strokes; returns the drawing and their order."""
    words = form.words_of(wish.model)
    yield from form.read_words(clip, words)
    start = yield from wish.opening(clip)
    drawing = yield from draw(
        [clip], wish.prompts, wish.config, words=words, start=start, region=wish.region
    )
    return drawing, (yield from _order(drawing, words, clip))


def _order(drawing: Drawing, words: Sequence[str], clip: Any) -> Job[tuple[int, ...]]:
    """The strokes' indices, the most important first."""
    critic = Critic([clip], drawing.prompts, words, drawing.config.scoring)
    scores = yield from importance(critic, drawing)
    return tuple(scores.argsort(descending=True, stable=True).tolist())


def paint(
    atelier: Atelier, wish: Wish, frames: tuple[str, ...] = ()
) -> Iterator[tuple[Step | None, Held | None]]:
    """Run a wish: each step with the best so far, at last None with the finished drawing."""
    held: Held | None = None
    began = 0.0
    for event in ask(atelier, wish.model, partial(_job, wish), deadline_s=DEADLINE_S):
        if not isinstance(event, Step):
            drawing, order = event.result
            yield None, Held(drawing, wish.model, event.seconds, order, frames=frames)
            return
        if isinstance(event, DrawStep) and event.drawing is not None:
            began = began or time.monotonic()
            if event.preview is not None:
                frames = files.with_frame(frames, event.preview)
            held = Held(event.drawing, wish.model, time.monotonic() - began, frames=frames)
        yield event, held


# --------------------------------------------------------------------------------- the form


def _build_words() -> tuple[dict[str, Any], gr.Dataset]:
    prompt = gr.Textbox(START, label="Prompt", info="What to draw; Enter draws.", max_lines=3)
    samples = chips(EXAMPLES, "Examples, drawn at once")
    return {"prompt": prompt}, samples


def _build_steering(prompt: gr.Textbox) -> dict[str, Any]:
    styles = chips(STYLES, "Style, put behind the prompt")

    def restyle(index: int, text: str) -> str:
        """Add a style behind the words, or take it away again."""
        ending = f", {STYLES[index]}"
        return text.removesuffix(ending) if text.endswith(ending) else text + ending

    styles.click(restyle, [styles, prompt], prompt, **QUIET)
    negative = gr.Textbox(
        "", label="Negative prompt", info="What it should not look like, one per line.",
        lines=1, max_lines=4,
    )  # fmt: skip
    return {"negative": negative}


def _build_numbers() -> dict[str, Any]:
    base = DrawConfig.mini()
    with gr.Row():
        strokes = slider(
            1, MAX_STROKES, base.strokes, step=1, label="Strokes", min_width=200,
            info="Few make a symbol, many a picture.",
        )  # fmt: skip
        steps = slider(
            1, 2000, base.steps, step=1, label="Steps", min_width=200,
            info="Of the optimiser.",
        )  # fmt: skip
    with gr.Row(equal_height=True, elem_classes="draw-seed"):
        seed = number(0, label="Seed", precision=0, min_width=120, scale=2)
        dice = gr.Button("New seed", size="sm", min_width=90, scale=1)
        two = gr.Checkbox(False, label="Two seeds", min_width=110, scale=1)
    dice.click(random_seed, None, seed, **QUIET)
    return {"strokes": strokes, "steps": steps, "seed": seed, "two": two}


def _build_looks() -> dict[str, Any]:
    base = DrawConfig.mini()
    with gr.Accordion("Colours, widths, canvas", open=False):
        palette = gr.Radio(list(form.PALETTES.items()), value="free", label="Palette")
        palette_size = slider(2, 16, 4, step=1, label="Colours, found while drawing", visible=False)
        palette_colors = gr.Textbox(
            "#17162f #4340d8 #ffb020", label="Colours as hex numbers", visible=False
        )
        background = gr.Radio(list(form.BACKGROUNDS.items()), value="white", label="Background")
        background_color = gr.ColorPicker("#fff4d6", label="Background colour", visible=False)
        width = slider(
            0.5, 50, 2 * base.half_width, step=0.5, label="Stroke width",
            info="Of a new stroke, in pixels of a canvas of 224.",
        )  # fmt: skip
        free_width = gr.Checkbox(True, label="Widths may change while drawing")
        with gr.Row() as ends:
            low, high = base.width_range
            thinnest = slider(0.5, 50, 2 * low, step=0.5, label="Thinnest", min_width=140)
            thickest = slider(0.5, 100, 2 * high, step=0.5, label="Thickest", min_width=140)
        with gr.Row():
            size = slider(
                64, MAX_SIDE, max(base.canvas), step=16, label="Canvas, longer side", min_width=140
            )
            aspect = gr.Dropdown(
                list(form.ASPECTS), value="1:1", label="Aspect", filterable=False, min_width=100
            )
    palette.change(
        lambda kind: (gr.update(visible=kind == "learned"), gr.update(visible=kind == "own")),
        palette, [palette_size, palette_colors], **QUIET,
    )  # fmt: skip
    background.change(shown_if("own"), background, background_color, **QUIET)
    free_width.change(shown_if(True), free_width, ends, **QUIET)
    return {
        "palette": palette, "palette_size": palette_size, "palette_colors": palette_colors,
        "background": background, "background_color": background_color, "width": width,
        "free_width": free_width, "thinnest": thinnest, "thickest": thickest, "size": size,
        "aspect": aspect,
    }  # fmt: skip


def _build_start() -> dict[str, Any]:
    with gr.Accordion("Where to start, further prompts", open=False):
        start = gr.Radio(
            list(form.STARTS.items()), value=DrawConfig.mini().start, label="First strokes",
            info="Where the gradient asks for them, anywhere as in the paper, or from a file.",
        )  # fmt: skip
        start_svg = gr.File(label="SVG", file_types=[".svg"], height=120, visible=False)
        start_picture = picture("Picture", height=220, visible=False)
        more = gr.Textbox(
            "", label="Further prompts with weights", lines=2, max_lines=6,
            info="One per line, as in: a stormy sea : 0.5",
        )  # fmt: skip
    start.change(
        lambda kind: (gr.update(visible=kind == "svg"), gr.update(visible=kind == "picture")),
        start, [start_svg, start_picture], **QUIET,
    )  # fmt: skip
    return {"start": start, "start_svg": start_svg, "start_picture": start_picture, "more": more}


def _build_method() -> dict[str, Any]:
    with gr.Accordion("Method", open=False):
        preset = gr.Radio(
            list(form.PRESETS.items()), value="model", label="Settings",
            info="The paper's: 256 strokes at random, 1,000 steps, no stages, plain cosine.",
        )  # fmt: skip
        augment = gr.Checkbox(
            True, label="Many views", info="Off, the drawing fools CLIP and nobody else."
        )
        rasterizer = gr.Dropdown(
            list(form.RASTERIZER_TITLES.items()),
            value="built-in", label="Rasteriser", filterable=False,
            info="diffvg made the paper's pictures; it must be built by hand.",
        )  # fmt: skip
    return {"preset": preset, "augment": augment, "rasterizer": rasterizer}


# ------------------------------------------------------------------------- after the drawing


def _build_after() -> dict[str, Any]:
    keep = slider(
        1, 2, 1, step=1, label="Most important strokes", interactive=False,
        info="Ranked by what the score loses without them; nothing is computed again.",
    )  # fmt: skip
    with gr.Row(equal_height=True, elem_classes="atelier-tools"):
        go_on = gr.Button("Continue", size="sm", min_width=84)
        add = gr.Button("More strokes", size="sm", min_width=100)
        count = number(
            32, label="How many more", precision=0, container=False, min_width=70, scale=0
        )
        redraw = gr.Button("Redraw region", size="sm", min_width=110)
        region = gr.Textbox(
            "", label="Region", placeholder="drag over the drawing", container=False,
            min_width=150, max_lines=1,
        )  # fmt: skip
    with gr.Row(equal_height=True, elem_classes="atelier-tools"):
        quick = {kind: gr.Button(kind, size="sm", min_width=64) for kind in files.QUICK}
        png = gr.Button("PNG", size="sm", min_width=64)
        side = gr.Dropdown(
            [(f"{side} px", side) for side in (512, 1024, 2048, MAX_PNG_SIDE)], value=1024,
            label="PNG size", filterable=False, container=False, min_width=104, scale=0,
        )  # fmt: skip
    with gr.Row(elem_classes="atelier-tools"):
        films = {
            f"{what} {kind}": gr.Button(f"{title} ({kind.upper()})", size="sm", min_width=120)
            for what, title in (("making", "The making"), ("painting", "Stroke by stroke"))
            for kind in ("gif", "mp4")
        }
    gallery = gr.Gallery(
        label="This session's drawings", columns=6, height="auto", interactive=False,
        allow_preview=False, object_fit="contain", buttons=[], elem_classes="atelier-album",
        visible=False,
    )  # fmt: skip
    return {
        "keep": keep, "go_on": go_on, "add": add, "count": count, "redraw": redraw,
        "region": region, "PNG": png, "side": side, "gallery": gallery, **quick, **films,
    }  # fmt: skip


# -------------------------------------------------------------------------------- the wiring


class _Page:
    """The tab's components and what happens between them."""

    def __init__(
        self,
        atelier: Atelier,
        entries: dict[str, Any],
        samples: gr.Dataset,
        easel: gr.HTML,
        panel: gr.HTML,
        status: gr.HTML,
        run: gr.Button,
        stop: gr.Button,
        after: dict[str, Any],
    ) -> None:
        self.atelier, self.entries, self.samples, self.after = atelier, entries, samples, after
        self.easel, self.panel, self.status, self.run, self.stop = easel, panel, status, run, stop
        self.form = [entries[field.name] for field in fields(Form)]
        self.held, self.album = gr.State(), gr.State(())
        self.shown = [easel, panel, status, entries["seed"], self.held]

    def wire(self) -> list[share.Field]:
        """Connect everything; returns what the tab's link carries."""
        runs = [*self._wire_runs(), *self._wire_going_on()]
        settled = [self.easel, self.panel, self.after["keep"], self.after["gallery"],
                   self.held, self.album]  # fmt: skip
        for event in runs:
            event.then(_settle, [self.held, self.album], settled, **QUIET)
        stops(self.stop, runs, self.status).then(_settle, [self.held, self.album], settled, **QUIET)
        self._wire_looking()
        self._wire_files()
        self._wire_endpoint()
        return self._link()

    # ---------------------------------------------------------------------------- drawing

    def _wire_runs(self) -> Iterator[Any]:
        entries = self.entries
        options = {"show_progress": "hidden", "api_visibility": "private", **DEVICE_EVENT}

        @explained
        def run(two: bool, *values: Any) -> Iterator[Any]:
            wish = read_form(Form(*values))
            seeds = [wish.config.seed, wish.config.seed + 1][: 2 if two else 1]
            yield from self._shown([wish.with_seed(seed) for seed in seeds])

        inputs = [entries["two"], *self.form]
        yield gr.on([self.run.click, entries["prompt"].submit], run, inputs, self.shown, **options)
        samples = self.samples
        picked = samples.click(EXAMPLES.__getitem__, samples, entries["prompt"], **QUIET)
        yield picked.success(run, inputs, self.shown, **options)
        gr.on(
            [entries["model"].input, entries["preset"].input], _defaults,
            [entries["model"], entries["preset"]],
            [entries[name] for name in _PRESET_FIELDS], **QUIET,
        )  # fmt: skip

    def _wire_going_on(self) -> Iterator[Any]:
        after = self.after
        options = {"show_progress": "hidden", "api_visibility": "private", **DEVICE_EVENT}

        @explained
        def go_on(held: Held | None, *values: Any) -> Iterator[Any]:
            held = _drawn(held)
            yield from self._shown([_again(values).going_on(held.strokes)], held.frames)

        @explained
        def add(held: Held | None, count: float, *values: Any) -> Iterator[Any]:
            held, more = _drawn(held), parse_whole(count, what="How many more")
            if more < 1:
                raise InputError("Add at least one stroke.")
            wish = _again(values).going_on(held.strokes, add=more)
            yield from self._shown([wish], held.frames)

        @explained
        def redraw(held: Held | None, region: str, *values: Any) -> Iterator[Any]:
            held = _drawn(held)
            wish = _again(values).going_on(held.strokes)
            box = form.parse_region(region, held.strokes.canvas)
            yield from self._shown([replace(wish, region=box)], held.frames)

        yield after["go_on"].click(go_on, [self.held, *self.form], self.shown, **options)
        inputs = [self.held, after["count"], *self.form]
        yield after["add"].click(add, inputs, self.shown, **options)
        inputs = [self.held, after["region"], *self.form]
        yield after["redraw"].click(redraw, inputs, self.shown, **options)

    def _shown(self, wishes: Sequence[Wish], frames: tuple[str, ...] = ()) -> Iterator[Any]:
        """Paint the wishes one after the other and show each step beside what is done."""
        yield gr.skip(), gr.skip(), gr.skip(), wishes[0].config.seed, gr.skip()
        first: Held | None = None
        for wish in wishes:
            held = None
            beside = "" if first is None else _figure(first, chosen=False)
            name = f"Seed {wish.config.seed}: " if len(wishes) > 1 else ""
            for step, best in paint(self.atelier, wish, frames):
                held = best and replace(best, beside=first)
                if step is None:
                    break
                line = badge.progress(replace(step, message=name + step.message))
                if step.preview is None or held is None:
                    yield gr.skip(), gr.skip(), line, gr.skip(), held or gr.skip()
                else:  # curve and words go with the picture: the browser has enough to do
                    shown = views.live(step.preview, beside)
                    yield shown, _panel(held), line, gr.skip(), held
            assert held is not None, "a run that ends has drawn"
            line = ran(self.atelier, MODELS[wish.model], held.seconds)
            yield _stage(_better(held)), _panel(held), line, gr.skip(), _better(held)
            first = held

    # ---------------------------------------------------------------------------- looking

    def _wire_looking(self) -> None:
        after, album = self.after, self.album
        keep, region = after["keep"], after["region"]

        @explained
        def weed(held: Held | None, count: float) -> Any:
            """Show the most important strokes; a drawing not ranked yet waits for `rank`."""
            if held is None or held.order is None:
                return gr.skip(), gr.skip()
            held = replace(held, keep=parse_whole(count, what="The number of strokes"), beside=None)
            return _stage(held), held

        @explained
        def rank(held: Held | None, count: float) -> Iterator[Any]:
            """Rank the strokes of a drawing that was stopped, once."""
            if held is None or held.order is not None:
                yield gr.skip(), gr.skip(), gr.skip()
                return
            ranking = partial(_order, held.drawing, form.words_of(held.model))
            for event in ask(self.atelier, held.model, ranking):
                if isinstance(event, Step):
                    yield gr.skip(), gr.skip(), badge.progress(event)
                else:
                    held = replace(held, order=event.result)
                    yield *weed(held, count), badge.said("strokes ranked")

        def pick(event: gr.EventData) -> str:
            return ", ".join(f"{float(end):g}" for end in event.region[:4])

        def outline(held: Held | None, text: str) -> Any:
            return gr.skip() if held is None else _stage(held, text)

        def choose(album: tuple[Held, ...], event: gr.SelectData) -> Any:
            held = album[int(event.index)]
            return _stage(held), _panel(held), _slider(held), held

        keep.input(weed, [self.held, keep], [self.easel, self.held], **LIVE)
        keep.release(
            rank, [self.held, keep], [self.easel, self.held, self.status],
            show_progress="hidden", api_visibility="private", **DEVICE_EVENT,
        )  # fmt: skip
        self.easel.select(pick, None, region, **QUIET)
        region.input(outline, [self.held, region], self.easel, **LIVE)
        after["gallery"].select(choose, album, [self.easel, self.panel, keep, self.held], **QUIET)

    # ------------------------------------------------------------------------------ files

    def _wire_files(self) -> None:
        for kind, save in files.QUICK.items():
            downloads.makes(self.after[kind], _quick(save), [self.held], self.status, PROMPT)
        png = self._made(lambda held, side: _png(held, parse_whole(side, what="The PNG's size")))
        inputs = [self.held, self.after["side"]]
        downloads.makes(self.after["PNG"], png, inputs, self.status, DEVICE_EVENT)
        for what in ("making", "painting"):
            for kind in ("gif", "mp4"):
                film = self._made(partial(files.film, what=what, kind=kind))
                button = self.after[f"{what} {kind}"]
                downloads.makes(button, film, [self.held], self.status, DEVICE_EVENT)

    def _made(self, job: Callable[..., Job[str]]) -> Callable[..., Iterator[Any]]:
        """A handler that makes a file while nobody else computes."""
        return downloads.by_job(
            lambda held, *more: self.atelier.jobs.run(partial(job, _drawn(held), *more))
        )

    # ------------------------------------------------------------------------ API and link

    def _wire_endpoint(self) -> None:
        """The endpoint has a button of its own: its answer is three things, the page's many."""
        hidden = gr.Button(visible=False)
        answer = [gr.File(visible=False), gr.File(visible=False), gr.JSON(visible=False)]

        @explained
        def clipdraw_draw(*values: Any) -> Iterator[Any]:
            for step, held in paint(self.atelier, read_form(Form(*values))):
                if step is not None:
                    told = {"fraction": step.fraction, "message": step.message}
                    yield gr.skip(), gr.skip(), told
                elif held is not None:
                    side = max(held.strokes.canvas)
                    yield files.save_svg(held), files.save_png(held, side), held.facts()

        # Gradio names the endpoint's parameters after the function's.
        clipdraw_draw.__signature__ = inspect.signature(Form)  # type: ignore[attr-defined]
        hidden.click(clipdraw_draw, self.form, answer, api_name=ENDPOINT, **DEVICE_EVENT)

    def _link(self) -> list[share.Field]:
        entries = self.entries
        parsers: dict[str, Callable[[str], Any]] = {
            "prompt": share.text(form.MAX_PROMPT_CHARS),
            "negative": share.text(1000),
            "more": share.text(1000),
            "strokes": share.number(1, MAX_STROKES),
            "steps": share.number(1, MAX_STEPS),
            "seed": share.number(0, 2**32 - 1),
            "model": share.choice(*MODELS),
            "preset": share.choice(*form.PRESETS.values()),
            "width": share.number(0.2, 200),
            "free_width": share.flag,
            "thinnest": share.number(0.2, 200),
            "thickest": share.number(0.2, 200),
            "palette": share.choice(*form.PALETTES.values()),
            "palette_size": share.number(1, 16),
            "palette_colors": share.text(200),
            "background": share.choice(*form.BACKGROUNDS.values()),
            "background_color": share.text(40),
            "size": share.number(16, MAX_SIDE),
            "aspect": share.choice(*form.ASPECTS),
            "start": share.choice("gradient", "random"),  # a link carries no file
            "augment": share.flag,
            "rasterizer": share.choice(*form.RASTERIZER_TITLES.values()),
            "two": share.flag,
        }
        return [share.Field(name, entries[name], parse) for name, parse in parsers.items()]


_PRESET_FIELDS = ("strokes", "steps", "width", "thinnest", "thickest", "start")


def _defaults(model: str, preset: str) -> tuple[Any, ...]:
    """The numbers that a model or a preset begins with, for `_PRESET_FIELDS`."""
    base = form.preset_of(model, preset)
    low, high = base.width_range
    return base.strokes, base.steps, 2 * base.half_width, 2 * low, 2 * high, base.start


def _settle(held: Held | None, album: tuple[Held, ...]) -> tuple[Any, ...]:
    """When a run has ended, however: show the best, put it into the album."""
    if held is None:
        return (gr.skip(),) * 6
    held = _better(held)
    for drawn in filter(None, (held.beside, held)):
        if all(known.drawing is not drawn.drawing for known in album):
            album = (*album, replace(drawn, beside=None, thumb=_thumb(drawn)))[-MAX_ALBUM:]
    pictures = [(known.thumb, _caption(known)) for known in album]
    gallery = gr.update(value=pictures, visible=True)
    return _stage(held), _panel(held), _slider(held), gallery, held, album


def _better(held: Held) -> Held:
    """Of two seeds' drawings the one with the lower loss, the other beside it."""
    if held.beside is None or held.drawing.loss <= held.beside.drawing.loss:
        return held
    return replace(held.beside, beside=replace(held, beside=None))


def _again(values: Sequence[Any]) -> Wish:
    """The form read for going on: where a new drawing would start does not matter then."""
    return read_form(replace(Form(*values), start="gradient"))


def _drawn(held: Held | None) -> Held:
    if held is None:
        raise InputError("There is no drawing yet; draw one first.")
    return held


def _stage(held: Held, region: str = "") -> str:
    """The drawing as SVG, beside another seed's if there is one."""
    box = None
    if region:
        try:
            box = form.parse_region(region, (100, 100))
        except InputError:  # still being typed
            box = None
    figures = [] if held.beside is None else [_figure(held.beside, chosen=False)]
    caption = _caption(held) if held.beside else ""
    own = views.figure(held.strokes, held.background, caption=caption, region=box)
    return views.done([*figures, own])


def _figure(held: Held, *, chosen: bool) -> str:
    return views.figure(held.strokes, held.background, caption=_caption(held), chosen=chosen)


def _caption(held: Held) -> str:
    drawing = held.drawing
    return f"{held.title[:60]} · seed {drawing.config.seed} · loss {drawing.loss:.3f}"


def _panel(held: Held) -> str:
    drawing = held.drawing
    return views.panel(drawing.losses, drawing.nearest, len(drawing.strokes), len(drawing.losses))


def _slider(held: Held) -> Any:
    count = len(held.drawing.strokes)
    return gr.update(maximum=max(2, count), value=held.keep or count, interactive=count > 1)


def _thumb(held: Held) -> str:
    small = held.strokes.scaled(THUMB_SIDE / max(held.strokes.canvas))
    return downloads.save_jpeg(picture_of(small, held.background), "thumb")


def _quick(save: Callable[[Held], str]) -> Callable[[Held | None], Any]:
    @explained
    def make(held: Held | None) -> Any:
        return save(_drawn(held)), gr.skip()

    return make


def _png(held: Held, side: int) -> Job[str]:
    yield Step(0.2, "Rendering the PNG")
    return files.save_png(held, side)


TAB = Tab(
    key="clipdraw",
    title="CLIPDraw",
    build=build,
    endpoints=(ENDPOINT,),
    warm=warm,
    css=views.CSS,
)
