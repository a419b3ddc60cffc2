"""The GLIP tab: words become boxes, word by word; one picture, two models, or many pictures."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from functools import partial
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from demos import glip_batch as batch
from demos import glip_session as session
from demos import glip_views as views
from demos.glip_form import (
    FIRST,
    MAX_BOXES,
    MAX_LINK_CHARS,
    MODES,
    TASK,
    Form,
    Limits,
    models_of,
    read_limits,
    read_model,
    read_words,
)
from demos.glip_pictures import EXAMPLES_DIR, examples
from demos.glip_session import Found, Held
from demos.ui import badge, boxes, downloads, share
from demos.ui.controls import (
    LIVE,
    PROMPT,
    QUIET,
    note,
    number,
    open_view,
    run_button,
    slider,
    stage,
    stop_button,
    stops,
)
from demos.ui.examples import follows_link, gallery
from demos.ui.films import VIDEOS
from demos.ui.finding import (
    EXPORTS,
    chosen_of,
    drawing_sliders,
    read_style,
    save_export,
    share_slider,
    view,
)
from demos.ui.howto import how_it_works
from demos.ui.images import open_image, picture
from demos.ui.jobs import DEVICE_EVENT, Done, explained
from demos.ui.model import ask, knows, model_choice, ran, title
from demos.ui.tab import Atelier, Tab
from models.catalog import ModelRow
from models.detection.colours import phrase_colours
from models.detection.drawing import DrawStyle, draw
from models.errors import InputError
from models.glip.grounding import DEFAULTS, OFFICIAL, GroundingThresholds
from models.jobs import Step

DEADLINE_S = 900.0  # an official model with a long list on a laptop's CPU
BATCH_DEADLINE_S = 6 * 3600.0
ENDPOINT = "glip_ground"
STEM = "glip"
START = "kite"
KNOWS = (
    "Mini finds what it was trained on: about 1,600 emoji things and what drawn faces wear, in any "
    "words. Photographs of everything else begin with the official GLIP-T, whose file "
    "--detectors offers here, and with its successors in the list."
)
PANELS = ("scene", "crops", "matrix", "listening")
SHARES = ("threshold", "text_threshold", "nms", "max_boxes")
Update = dict[Any, Any]


def build(atelier: Atelier) -> list[share.Field]:
    """Draw the tab and return what its link carries."""
    gr.set_static_paths([EXAMPLES_DIR])
    there = models_of(atelier.registry.catalog)
    first = FIRST if FIRST in there else next(iter(there))
    parts: dict[str, Any] = {"model": model_choice(there, first)}
    # Three parts: on a wide page the result stands beside both others, on a phone between them.
    with gr.Row(equal_height=False, elem_classes="atelier-studio"):
        with gr.Column(min_width=300):
            parts |= _build_question()
        with gr.Column(min_width=300), gr.Tabs(selected="picture") as tabs:
            with gr.Tab("Picture", id="picture") as one:
                own = DEFAULTS.get(there[first].preset, OFFICIAL)
                parts |= _build_result(own)
            with gr.Tab("Side by side", id="compare") as two:
                parts |= _build_comparison(there, first, own)
            with gr.Tab("Many pictures", id="many") as many:
                parts |= _build_batch()
        with gr.Column(min_width=300):
            parts |= _build_style()
            note(escape(KNOWS))
    parts["view"] = open_view(tabs, (one, two, many))
    how_it_works(
        views.diagram(),
        views.HOW,
        paper="Li, Zhang, Zhang et al. 2022, Grounded Language-Image Pre-training",
        url="https://arxiv.org/abs/2112.03857",
    )
    return _Page(atelier, there, parts).wire()


def warm(atelier: Atelier, model: str) -> None:
    """Ground an example once, so that every kernel and cache is warm."""
    first = examples()[START]
    question = partial(session.ground, open_image(first.path), read_words(first.prompt, "auto"))
    for _ in ask(atelier, model, question):
        pass


# ------------------------------------------------------------------------------------ the form


def _build_question() -> dict[str, Any]:
    first = examples()[START]
    image = picture("Picture", value=first.path, height=200)
    prompt = gr.Textbox(
        first.prompt, label="Words", lines=2, max_lines=6,
        info="A caption, or a list: dog; kite. [Marks] say what the phrases are.",
    )  # fmt: skip
    mode = gr.Radio([(name, key) for key, name in MODES.items()], value="auto", label="Read as")
    chips = stage(_chips(first.prompt, "auto"))
    mark = gr.Button("Write the phrases as [marks]", size="sm", elem_classes="glip-mark")
    with gr.Row():
        run, stop = run_button("Ground"), stop_button()
    status = badge.status_line()
    samples = gallery(examples)
    credit = note(escape(first.credit))
    return {
        "image": image, "samples": samples, "credit": credit, "prompt": prompt, "mode": mode,
        "chips": chips, "run": run, "stop": stop, "status": status, "mark": mark,
        "example": gr.Textbox(START, visible="hidden"),
    }  # fmt: skip


def _build_result(own: GroundingThresholds) -> dict[str, Any]:
    parts: dict[str, Any] = {"scene": view("Boxes appear here: press Ground.")}
    with gr.Row():
        parts["threshold"] = share_slider(
            "Box threshold", own.box, "Higher shows surer boxes only."
        )
        parts["text_threshold"] = share_slider("Text threshold", own.text, "Of the phrase alone.")
    with gr.Row():
        parts["nms"] = share_slider("Overlap allowed (NMS)", own.nms, "Between boxes of one label.")
        parts["max_boxes"] = slider(
            1,
            MAX_BOXES,
            own.max_boxes,
            step=1,
            label="Max boxes",
            info="The best are kept.",
            min_width=220,
        )
    parts["auto"] = gr.Checkbox(True, label="The model's own thresholds", min_width=160)
    with gr.Row(elem_classes="atelier-tools"):
        parts |= {name: gr.Button(name, size="sm", min_width=52) for name in EXPORTS}
    with gr.Tabs():
        with gr.Tab("Crops"):
            parts["crops"] = view("What the boxes hold appears here.")
        with gr.Tab("Matrix"):
            parts["matrix"] = view("How much each word speaks for each box appears here.")
        with gr.Tab("Listening"):
            parts["listening"] = stage(
                boxes.empty("Choose a box: which words it listens to appears here.")
            )
        with gr.Tab("JSON"):
            parts["json"] = gr.JSON(show_label=False)
    return parts


def _build_comparison(
    there: Mapping[str, ModelRow], first: str, own: GroundingThresholds
) -> dict[str, Any]:
    other = next((name for name in there if name != first), first)
    second = gr.Dropdown(
        [(title(row), name) for name, row in there.items()], value=other, label="Second model",
        filterable=False,
    )  # fmt: skip
    about = note(knows(there[other]))
    with gr.Row():
        run, stop = run_button("Ground with both"), stop_button()
    parts = {
        "second": second, "about_second": about, "run_both": run, "stop_both": stop,
        "status_both": badge.status_line(),
    }  # fmt: skip
    with gr.Row(equal_height=False):
        for side in ("left", "right"):
            with gr.Column(min_width=300):
                parts[f"title_{side}"] = note("")
                parts[f"scene_{side}"] = stage(boxes.empty("Boxes appear here."))
                parts[f"threshold_{side}"] = share_slider(
                    "Box threshold", own.box, "Of this model."
                )
    return parts


def _build_batch() -> dict[str, Any]:
    files = gr.File(
        label=f"Up to {batch.MAX_PICTURES} pictures, zips of them, or a short video",
        file_count="multiple", file_types=["image", ".zip", *VIDEOS], height=180,
    )  # fmt: skip
    with gr.Row(equal_height=True):
        folder = gr.UploadButton("Upload a folder", file_count="directory", size="sm")
        rate = number(1, label="Frames a second", info="Taken from a video.", min_width=160)
    note("The words, the reading and the thresholds are those of the page.")
    with gr.Row():
        run, stop = run_button("Ground all"), stop_button()
    return {
        "files": files, "folder": folder, "rate": rate, "run_all": run, "stop_all": stop,
        "status_all": badge.status_line(),
        "preview": gr.Image(
            label="The last one", interactive=False, format="jpeg", height=360, buttons=[]
        ),
        "zip": gr.File(label="Zip: annotated pictures, JSON, COCO, CSV, YOLO", interactive=False),
    }  # fmt: skip


def _build_style() -> dict[str, Any]:
    with gr.Accordion("Drawing", open=False), gr.Row():
        return drawing_sliders()


def _chips(text: str | None, mode: str) -> str:
    """The phrases found, or why there are none, as HTML."""
    try:
        prompt = read_words(text, mode)
    except InputError as error:
        return boxes.complaint(str(error))
    return boxes.chips(
        [phrase.chip for phrase in prompt.phrases], phrase_colours(len(prompt.phrases)),
        f"Read as a {prompt.kind}; the phrases:",
    )  # fmt: skip


# ------------------------------------------------------------------------------------ the page


class _Page:
    """The tab's components and what happens between them; handlers answer {component: value}."""

    def __init__(
        self, atelier: Atelier, there: Mapping[str, ModelRow], parts: dict[str, Any]
    ) -> None:
        self.atelier, self.there, self.parts = atelier, there, parts
        self.held, self.region = gr.State(), gr.State(0)
        self.sides = {side: gr.State() for side in ("left", "right")}
        self.basket = gr.State()
        self.limits = [parts[name] for name in SHARES]
        self.style = [parts["line"], parts["text"]]
        self.job: dict[str, Any] = {
            "show_progress": "hidden", "api_visibility": "private", **DEVICE_EVENT
        }  # fmt: skip

    def wire(self) -> list[share.Field]:
        """Connect everything; returns what the tab's link carries."""
        self._wire_run()
        self._wire_looking()
        self._wire_words()
        self._wire_files()
        self._wire_comparison()
        self._wire_batch()
        self._wire_endpoint()
        return self._link()

    # -------------------------------------------------------------------------- one picture

    def _wire_run(self) -> None:
        parts = self.parts
        inputs = [
            parts["image"], parts["prompt"], parts["mode"], parts["model"], parts["auto"],
            *self.limits, *self.style,
        ]  # fmt: skip
        outputs = [
            *(parts[name] for name in PANELS), parts["json"], parts["status"], self.held,
            self.region, *self.limits,
        ]  # fmt: skip

        @explained
        def run(
            path: str | None, text: str, mode: str, model: str, auto: bool, *more: Any
        ) -> Iterator[Update]:
            limits = Limits() if auto else read_limits(*more[:4])
            for event in self._ground(path, text, mode, model):
                if isinstance(event, Step):
                    yield {parts["status"]: badge.progress(event)}
                    continue
                held = event.result
                used = limits.on(held.own)
                yield {
                    **self._seen(held, limits, 0, more[4:]),
                    parts["json"]: self._facts(held, limits),
                    parts["status"]: ran(self.atelier, self.there[model], event.seconds),
                    self.held: held,
                    self.region: 0,
                    **dict(zip(self.limits, (used.box, used.text, used.nms, used.max_boxes))),
                }

        asked = [parts["run"].click, parts["image"].upload, parts["prompt"].submit]
        event = gr.on(asked, run, inputs, outputs, **self.job)
        picked = parts["samples"].click(
            self._choose, parts["samples"],
            [parts["image"], parts["prompt"], parts["chips"], parts["example"], parts["credit"]],
            **QUIET,
        )  # fmt: skip
        again = picked.success(run, inputs, outputs, **self.job)
        stops(parts["stop"], [event, again], parts["status"])

    def _ground(
        self, path: str | None, text: str, mode: str, model: str
    ) -> Iterator[Step | Done[Held]]:
        """Judge the question, ask the model, and keep what it found."""
        photo, prompt = open_image(path), read_words(text, mode)
        read_model(model, self.there)
        question = partial(session.ground, photo, prompt)
        for event in ask(self.atelier, model, question, deadline_s=DEADLINE_S):
            if isinstance(event, Step):
                yield event
                continue
            found: Found = event.result
            shown = boxes.shown_copy(photo)
            yield Done(
                Held(model, prompt, str(path), shown, found.raw, found.own, event.seconds),
                event.seconds,
            )

    def _seen(self, held: Held, limits: Limits, region: int, style: Any) -> Update:
        drawn = session.panels(held, limits, region, read_style(*style))
        return dict(zip((self.parts[name] for name in PANELS), drawn))

    def _facts(self, held: Held, limits: Limits) -> dict[str, Any]:
        used = limits.on(held.own)
        found = held.select(limits)
        return session.facts(held.model, held.prompt, used, held.seconds, found)

    @staticmethod
    def _choose(index: int) -> Any:
        example = list(examples().values())[index]
        chips = _chips(example.prompt, "auto")
        return example.path, example.prompt, chips, example.name, escape(example.credit)

    # ------------------------------------------------------------------- looking, no network

    def _wire_looking(self) -> None:
        parts = self.parts
        panels = [parts[name] for name in PANELS]

        @explained
        def look(held: Held | None, region: int, *more: Any) -> Update:
            if held is None:
                return {parts["auto"]: False}
            limits = read_limits(*more[:4])
            return {**self._seen(held, limits, region, more[4:]), parts["auto"]: False}

        @explained
        def own(held: Held | None, auto: bool) -> Update:
            """Back to the model's thresholds."""
            if held is None or not auto:
                return {}
            used = held.own
            return dict(zip(self.limits, (used.box, used.text, used.nms, used.max_boxes)))

        @explained
        def restyle(held: Held | None, region: int, *more: Any) -> Update:
            return (
                {} if held is None else self._seen(held, read_limits(*more[:4]), region, more[4:])
            )

        @explained
        def tell(held: Held | None, *limits: Any) -> Any:
            return gr.skip() if held is None else self._facts(held, read_limits(*limits))

        state = [self.held, self.region, *self.limits, *self.style]
        gr.on(
            [component.input for component in self.limits], look, state, [*panels, parts["auto"]],
            **LIVE,
        )  # fmt: skip
        gr.on(
            [component.release for component in self.limits], tell, [self.held, *self.limits],
            parts["json"], **QUIET,
        )  # fmt: skip
        back = parts["auto"].input(own, [self.held, parts["auto"]], self.limits, **QUIET)
        back.then(restyle, state, panels, **QUIET)
        back.then(tell, [self.held, *self.limits], parts["json"], **QUIET)
        gr.on([component.input for component in self.style], restyle, state, panels, **LIVE)

        @explained
        def choose(
            held: Held | None, box: Any, text: Any, nms: Any, most: Any, event: gr.EventData
        ) -> Any:
            return self._heard(held, read_limits(box, text, nms, most), event)

        for name in ("scene", "crops", "matrix"):
            parts[name].select(
                choose, [self.held, *self.limits], [self.region, parts["listening"]], **QUIET
            )

    def _heard(self, held: Held | None, limits: Limits, event: gr.EventData) -> Any:
        """The box that was clicked, and what it listens to."""
        if held is None:
            return gr.skip(), gr.skip()
        found = held.select(limits)
        region = chosen_of(event, len(found))
        if region is None:
            return gr.skip(), gr.skip()
        shown = session.scene_of(held, found)
        return region, views.listening(shown, session.hearing_of(held, limits), region)

    # --------------------------------------------------------------------------------- words

    def _wire_words(self) -> None:
        parts = self.parts
        words = [parts["prompt"], parts["mode"]]
        gr.on(
            [parts["prompt"].change, parts["mode"].change], explained(_chips), words,
            parts["chips"], **LIVE,
        )  # fmt: skip

        @explained
        def mark(text: str, mode: str) -> str:
            return read_words(text, mode).marked()

        parts["mark"].click(mark, words, parts["prompt"], **PROMPT)
        follows_link(parts["example"], parts["image"], parts["credit"], examples)

    # --------------------------------------------------------------------------------- files

    def _wire_files(self) -> None:
        for kind in EXPORTS:
            downloads.makes(
                self.parts[kind], explained(partial(self._save, kind)),
                [self.held, *self.limits, *self.style], self.parts["status"], PROMPT,
            )  # fmt: skip

    def _save(self, kind: str, held: Held | None, *more: Any) -> tuple[str, str]:
        if held is None:
            raise InputError("There is no result yet; press Ground.")
        limits, style = read_limits(*more[:4]), read_style(*more[4:])
        return _saved(kind, held, limits, style, self._facts(held, limits)), badge.said("saved")

    # -------------------------------------------------------------------------- side by side

    def _wire_comparison(self) -> None:
        parts = self.parts
        parts["second"].change(
            lambda name: knows(self.there[name]), parts["second"], parts["about_second"], **QUIET
        )
        inputs = [parts["image"], parts["prompt"], parts["mode"], parts["model"], parts["second"]]
        outputs = [parts["status_both"], *self.sides.values(), *self.style] + [
            parts[f"{name}_{side}"]
            for side in self.sides
            for name in ("title", "scene", "threshold")
        ]
        event = parts["run_both"].click(self._compare, inputs, outputs, **self.job)
        stops(parts["stop_both"], event, parts["status_both"])
        for side, state in self.sides.items():

            @explained
            def look(held: Held | None, box: float, side: str = side) -> Any:
                if held is None:
                    return gr.skip()
                return self._one_side(held, Limits(box=read_limits(box, 0, 0, 1).box), side)

            parts[f"threshold_{side}"].input(
                look, [state, parts[f"threshold_{side}"]], parts[f"scene_{side}"], **LIVE
            )

    @explained
    def _compare(
        self, path: str | None, text: str, mode: str, model: str, second: str
    ) -> Iterator[Update]:
        """One model after the other; what the first found stays when the second fails."""
        parts = self.parts
        read_model(second, self.there)
        for side, name in zip(self.sides, (model, second)):
            for event in self._ground(path, text, mode, name):
                if isinstance(event, Step):
                    yield {parts["status_both"]: badge.progress(event)}
                    continue
                held = event.result
                row = self.there[name]
                told = f"{row.title} · {event.seconds:.2f} s"
                yield {
                    parts[f"title_{side}"]: escape(told),
                    parts[f"scene_{side}"]: self._one_side(held, Limits(), side),
                    parts[f"threshold_{side}"]: held.own.box,
                    self.sides[side]: held,
                    parts["status_both"]: ran(self.atelier, row, event.seconds),
                }

    @staticmethod
    def _one_side(held: Held, limits: Limits, side: str) -> str:
        return views.scene(session.scene_of(held, held.select(limits), side))

    # ------------------------------------------------------------------------- many pictures

    def _wire_batch(self) -> None:
        parts = self.parts
        asked = [
            parts["files"], parts["rate"], parts["prompt"], parts["mode"], parts["model"],
            parts["auto"], *self.limits,
        ]  # fmt: skip
        inputs = [*asked, *self.style]
        outputs = [parts["preview"], parts["status_all"], parts["zip"], self.basket]
        event = parts["run_all"].click(self._ground_all, inputs, outputs, **self.job)
        stopped = stops(parts["stop_all"], event, parts["status_all"])
        stopped.then(self._rest, self.basket, [parts["zip"], parts["status_all"]], **PROMPT)
        parts["folder"].upload(lambda paths: paths, parts["folder"], parts["files"], **QUIET)

    @explained
    def _ground_all(
        self, paths: list[str] | None, rate: float, text: str, mode: str, model: str, auto: bool,
        *more: Any,
    ) -> Iterator[Update]:  # fmt: skip
        parts = self.parts
        limits = Limits() if auto else read_limits(*more[:4])
        prompt, style, rate = read_words(text, mode), read_style(*more[4:]), batch.read_rate(rate)
        read_model(model, self.there)
        batch.count_of(paths, rate)
        basket = batch.Basket.new(model, prompt, limits)
        yield {self.basket: basket, parts["zip"]: None}
        question = partial(batch.ground_all, basket, paths, rate, style)
        for event in ask(self.atelier, model, question, deadline_s=BATCH_DEADLINE_S):
            if isinstance(event, Step):
                shown = {parts["preview"]: event.preview} if event.preview else {}
                yield {parts["status_all"]: badge.progress(event), **shown}
                continue
            yield {
                parts["zip"]: batch.pack(basket),
                parts["preview"]: basket.last,
                parts["status_all"]: ran(self.atelier, self.there[model], event.seconds)
                + batch.told(basket),
            }

    @explained
    def _rest(self, basket: batch.Basket | None) -> Any:
        """What a stopped run had done."""
        if basket is None or not basket.rows:
            return gr.skip(), gr.skip()
        return batch.pack(basket), badge.said("stopped") + batch.told(basket)

    # ------------------------------------------------------------------------------ endpoint

    def _wire_endpoint(self) -> None:
        """The endpoint has a button of its own: its answer is one thing, the page's many."""
        hidden, answer = gr.Button(visible=False), gr.JSON(visible=False)
        open_numbers = {name: number(None, visible=False) for name in SHARES}
        inputs = [{**self.parts, **open_numbers}[field.name] for field in fields(Form)]

        @explained
        def glip_ground(*values: Any) -> Iterator[Any]:
            form = Form(*values)
            limits = read_limits(form.threshold, form.text_threshold, form.nms, form.max_boxes)
            for event in self._ground(form.image, form.prompt, form.mode, form.model):
                if isinstance(event, Step):
                    yield {"fraction": event.fraction, "message": event.message}
                else:
                    yield self._facts(event.result, limits)

        # Gradio names the endpoint's parameters after the function's.
        glip_ground.__signature__ = inspect.signature(Form)  # type: ignore[attr-defined]
        hidden.click(glip_ground, inputs, answer, api_name=ENDPOINT, **DEVICE_EVENT)

    def _link(self) -> list[share.Field]:
        parsers: dict[str, Callable[[str], Any]] = {
            "view": share.choice("picture", "compare", "many"),
            "model": share.choice(*self.there),
            "second": share.choice(*self.there),
            "mode": share.choice(*MODES),
            "prompt": share.text(MAX_LINK_CHARS),
            "threshold": share.number(0, 1),
            "text_threshold": share.number(0, 1),
            "nms": share.number(0, 1),
            "max_boxes": share.number(1, MAX_BOXES),
            "auto": share.flag,
            "example": share.choice(*examples()),
        }
        return [share.Field(name, self.parts[name], parse) for name, parse in parsers.items()]


def _saved(kind: str, held: Held, limits: Limits, style: DrawStyle, answer: dict[str, Any]) -> str:
    """Path of the result as one of `EXPORTS`."""
    if kind == "JSON":
        return downloads.save_json(answer, STEM)
    found = held.select(limits)
    if kind == "PNG":
        colours = phrase_colours(len(held.prompt.phrases))
        drawn = draw(open_image(held.source), found, style=style, colours=colours)
        return downloads.save_png(drawn, answer, STEM)
    return save_export(kind, [(Path(held.source).name, found)], STEM)


TAB = Tab(
    key="glip",
    title="GLIP",
    build=build,
    endpoints=(ENDPOINT,),
    warm=warm,
    css=views.CSS,
    tasks=(TASK,),
)
