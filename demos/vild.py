"""The ViLD tab: any names, boxes and masks; what each region may be and why; beside GLIP; live."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from functools import partial
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from demos import glip_session, glip_views
from demos import vild_session as session
from demos import vild_views as views
from demos.glip_form import Limits as GlipLimits
from demos.glip_form import models_of as glip_models
from demos.glip_form import read_limits as read_glip_limits
from demos.glip_form import read_words
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
from demos.ui.model import ask, knows, leased, model_choice, ran, title
from demos.ui.tab import Atelier, Tab
from demos.vild_form import (
    FIRST,
    LIMITS,
    MAX_AREA,
    MAX_BOXES,
    MAX_LINK_CHARS,
    NUMBERS,
    SCORES,
    TASK,
    TEMPERATURES,
    TEMPLATES,
    Form,
    Limits,
    models_of,
    read_limits,
    read_list,
    read_model,
    read_names,
    read_templates,
)
from demos.vild_live import STREAM_EVERY_S, Live, camera, in_time, name_frame, open_frame
from demos.vild_pictures import EXAMPLES_DIR, examples
from demos.vild_session import Held, Seen
from models.catalog import ModelRow
from models.detection.drawing import DrawStyle, draw
from models.errors import InputError
from models.jobs import Step, run_to_end
from models.vild.categories import NAME_LISTS
from models.vild.detector import DEFAULTS, DetectorDefaults
from models.vild.regions import RegionThresholds

DEADLINE_S = 1800.0  # thousands of names in 63 sentences each on a laptop's CPU
LIVE_DEADLINE_S = 3600.0
ENDPOINT = "vild_detect"
STEM = "vild"
START = "kite"
KNOWS = (
    "Mini sees what it was trained on: emoji scenes, of whose things a quarter were never boxed "
    "or named to it. Photographs of everything else begin with the official ViLD (LVIS, 1,203 "
    "categories, 337 of them novel): put its archive into a folder and start with --detectors."
)
PANELS = ("scene", "legend", "crops", "region")
Update = dict[Any, Any]


def build(atelier: Atelier) -> list[share.Field]:
    """Draw the tab and return what its link carries."""
    gr.set_static_paths([EXAMPLES_DIR])
    there = models_of(atelier.registry.catalog)
    others = glip_models(atelier.registry.catalog)
    first = FIRST if FIRST in there else next(iter(there))
    parts: dict[str, Any] = {"model": model_choice(there, first)}
    # Three parts: on a wide page the result stands beside both others, on a phone between them.
    with gr.Row(equal_height=False, elem_classes="atelier-studio"):
        with gr.Column(min_width=300):
            parts |= _build_question()
        with gr.Column(min_width=300), gr.Tabs(selected="picture") as tabs:
            with gr.Tab("Picture", id="picture") as one:
                own = DEFAULTS.get(there[first].preset, DetectorDefaults())
                parts |= _build_result(own.thresholds)
            with gr.Tab("Beside GLIP", id="compare") as two:
                parts |= _build_comparison(others)
            with gr.Tab("Live", id="live") as live:
                parts |= _build_live()
        with gr.Column(min_width=300):
            parts |= _build_settings()
            note(escape(KNOWS))
            with gr.Accordion(
                "What a low score means, and why “fruit” or “red car” fail", open=False
            ):
                gr.Markdown(views.MEANING)
    parts["view"] = open_view(tabs, (one, two, live))
    how_it_works(
        views.DIAGRAM,
        views.HOW,
        paper="Gu, Lin, Kuo, Cui 2022, Open-vocabulary Object Detection via Vision and Language "
        "Knowledge Distillation",
        url="https://arxiv.org/abs/2104.13921",
    )
    return _Page(atelier, there, others, parts).wire()


def warm(atelier: Atelier, model: str) -> None:
    """Look at an example once, so that every kernel and cache is warm."""
    first = examples()[START]
    names = read_names(first.prompt)
    for _ in ask(
        atelier, model, partial(session.look, open_image(first.path), names, Limits(), None)
    ):
        pass


# ------------------------------------------------------------------------------------ the form


def _build_question() -> dict[str, Any]:
    first = examples()[START]
    image = picture("Picture", value=first.path, height=200)
    names = gr.Textbox(
        first.prompt, label="Names", lines=2, max_lines=6,
        info="Of things, separated by semicolons, commas or lines.",
    )  # fmt: skip
    ready = gr.Dropdown(
        [(label, key) for key, label in NAME_LISTS.items()], value=None, filterable=False,
        label="Ready-made names", info="Replace the names above.",
    )  # fmt: skip
    with gr.Row():
        run, stop = run_button("Detect"), stop_button()
    discover = gr.Button("Discover", size="sm", elem_classes="vild-discover")
    note("Discover asks for no names: what looks alike is grouped and named.")
    status = badge.status_line()
    samples = gallery(examples)
    credit = note(escape(first.credit))
    return {
        "image": image, "samples": samples, "credit": credit, "names": names, "ready": ready,
        "run": run, "discover": discover, "stop": stop, "status": status,
        "example": gr.Textbox(START, visible="hidden"),
    }  # fmt: skip


def _build_result(own: RegionThresholds) -> dict[str, Any]:
    parts: dict[str, Any] = {
        "legend": stage(""),
        "scene": view("Boxes and masks appear here: press Detect."),
    }
    with gr.Row():
        parts["max_boxes"] = slider(
            1,
            MAX_BOXES,
            own.max_boxes,
            step=1,
            label="Max boxes",
            info="The surest are kept.",
            min_width=220,
        )
        parts["nms"] = share_slider(
            "Overlap allowed (NMS)", own.nms, "Between boxes, whatever their name."
        )
    with gr.Row():
        parts["min_objectness"] = share_slider(
            "Min objectness", own.min_objectness, "That something is there."
        )
        parts["min_area"] = slider(
            0, MAX_AREA, own.min_area, step=20, label="Min area", info="Pixels of the picture.",
            min_width=220,
        )  # fmt: skip
    with gr.Row():
        parts["min_cosine"] = slider(
            -1, 1, own.min_cosine, step=0.01, label="Min cosine",
            info="Of a box and its name, when names are asked for.", min_width=220,
        )  # fmt: skip
        parts["temperature"] = slider(
            *TEMPERATURES, 100, step=1, label="Temperature", info="Of the softmax.", min_width=220
        )
    parts["score"] = gr.Radio(
        [(label, key) for key, label in SCORES.items()], value="cosine", label="Score"
    )
    with gr.Row(equal_height=True):
        parts["auto"] = gr.Checkbox(True, label="The model's own settings", min_width=160)
        parts["masks"] = gr.Checkbox(True, label="Masks", min_width=100)
    with gr.Row(elem_classes="atelier-tools"):
        parts |= {name: gr.Button(name, size="sm", min_width=52) for name in EXPORTS}
    with gr.Tabs():
        with gr.Tab("Region"):
            parts["region"] = stage(boxes.empty(views.CHOOSE))
            parts["why"] = stage("")
        with gr.Tab("All regions"):
            parts["crops"] = view("What the boxes hold appears here.")
        with gr.Tab("JSON"):
            parts["json"] = gr.JSON(show_label=False)
    return parts


def _build_comparison(others: Mapping[str, ModelRow]) -> dict[str, Any]:
    first = next(iter(others), None)
    second = gr.Dropdown(
        [(title(row), name) for name, row in others.items()], value=first, label="Beside it",
        filterable=False,
    )  # fmt: skip
    about = note(knows(others[first]) if first else "No GLIP is on offer here.")
    with gr.Row():
        run, stop = run_button("Ask both"), stop_button()
    parts = {
        "second": second, "about_second": about, "run_both": run, "stop_both": stop,
        "status_both": badge.status_line(),
    }  # fmt: skip
    with gr.Row(equal_height=False):
        for side in ("left", "right"):
            with gr.Column(min_width=300):
                parts[f"title_{side}"] = note("")
                parts[f"scene_{side}"] = stage(boxes.empty("Boxes appear here."))
    parts["threshold"] = share_slider(
        "GLIP's box threshold", 0.3, "ViLD's sliders are on its own page."
    )
    return parts


def _build_live() -> dict[str, Any]:
    screen = stage(boxes.empty("Start the camera, or play a film: its frames appear here."))
    status = badge.status_line()
    note("Names and settings may change while it runs. The camera's own button stops it.")
    with gr.Row(equal_height=False):
        with gr.Column(min_width=260):
            lens = camera(label="Camera", height=240)
        with gr.Column(min_width=260):
            film = gr.File(label="A film", file_types=list(VIDEOS), height=140)
            with gr.Row():
                play, stop = run_button("Play"), stop_button()
    return {
        "screen": screen, "status_live": status, "camera": lens, "film": film, "play": play,
        "stop_live": stop,
    }  # fmt: skip


def _build_settings() -> dict[str, Any]:
    with gr.Accordion("Reading and drawing", open=False):
        templates = gr.Radio(
            [(label, key) for key, label in TEMPLATES.items()], value="own",
            label="Sentences a name", info="CLIP reads each name in so many; more take longer.",
        )  # fmt: skip
        with gr.Row():
            drawing = drawing_sliders()
    return {"templates": templates, **drawing}


# ------------------------------------------------------------------------------------ the page


class _Page:
    """The tab's components and what happens between them; handlers answer {component: value}."""

    def __init__(
        self,
        atelier: Atelier,
        there: Mapping[str, ModelRow],
        others: Mapping[str, ModelRow],
        parts: dict[str, Any],
    ) -> None:
        self.atelier, self.there, self.others, self.parts = atelier, there, others, parts
        self.held, self.row = gr.State(), gr.State()  # the run, the chosen region
        self.beside = gr.State()
        self.live = gr.State(Live())
        self.limits = [parts[name] for name in LIMITS]
        self.looks = [parts["masks"], parts["line"], parts["text"]]
        self.job: dict[str, Any] = {
            "show_progress": "hidden", "api_visibility": "private", **DEVICE_EVENT
        }  # fmt: skip

    def wire(self) -> list[share.Field]:
        """Connect everything; returns what the tab's link carries."""
        self._wire_run()
        self._wire_looking()
        self._wire_region()
        self._wire_words()
        self._wire_files()
        self._wire_comparison()
        self._wire_live()
        self._wire_endpoint()
        return self._link()

    # -------------------------------------------------------------------------- one picture

    def _wire_run(self) -> None:
        parts = self.parts
        inputs = [
            parts["image"], parts["names"], parts["model"], parts["templates"], parts["auto"],
            *self.limits, *self.looks,
        ]  # fmt: skip
        outputs = [
            *(parts[name] for name in PANELS), parts["why"], parts["json"], parts["status"],
            self.held, self.row, *self.limits,
        ]  # fmt: skip

        @explained
        def run(
            path: str | None, text: str, model: str, templates: str, auto: bool, *more: Any
        ) -> Iterator[Update]:
            yield from self._run(path, read_names(text), model, templates, auto, more)

        @explained
        def discover(
            path: str | None, text: str, model: str, templates: str, auto: bool, *more: Any
        ) -> Iterator[Update]:
            yield from self._run(path, [], model, templates, auto, more)

        asked = [parts["run"].click, parts["image"].upload, parts["names"].submit]
        events = [gr.on(asked, run, inputs, outputs, **self.job)]
        events.append(parts["discover"].click(discover, inputs, outputs, **self.job))
        picked = parts["samples"].click(
            self._choose_example, parts["samples"],
            [parts["image"], parts["names"], parts["example"], parts["credit"]], **QUIET,
        )  # fmt: skip
        events.append(picked.success(run, inputs, outputs, **self.job))
        stops(parts["stop"], events, parts["status"])

    def _run(
        self, path: str | None, names: list[str], model: str, templates: str, auto: bool, more: Any
    ) -> Iterator[Update]:
        parts = self.parts
        asked, looks = _asked(more)
        limits = Limits() if auto else asked
        for event in self._detect(path, names, limits, templates, model):
            if isinstance(event, Step):
                yield {parts["status"]: badge.progress(event)}
                continue
            held = event.result
            yield {
                **self._seen(held, limits, None, looks),
                parts["why"]: "",
                parts["json"]: session.facts(held, held.select(limits), limits),
                parts["status"]: ran(self.atelier, self.there[model], event.seconds),
                self.held: held,
                self.row: None,
                **self._controls(held, limits),
            }

    def _detect(
        self, path: str | None, names: list[str], limits: Limits, templates: str, model: str
    ) -> Iterator[Step | Done[Held]]:
        """Judge the question, ask the model, and keep what it found."""
        photo, chosen = open_image(path), read_templates(templates)
        read_model(model, self.there)
        question = partial(session.look, photo, names, limits, chosen)
        for event in ask(self.atelier, model, question, deadline_s=DEADLINE_S):
            if isinstance(event, Step):
                yield event
                continue
            held = replace(
                event.result, source=str(path), shown=boxes.shown_copy(photo),
                seconds=event.seconds,
            )  # fmt: skip
            yield Done(held, event.seconds)

    def _controls(self, held: Held, limits: Limits) -> Update:
        """The sliders where `limits` have them."""
        used, (score, temperature) = limits.on(held.own), held.scoring(limits)
        values = [*(getattr(used, name) for name in NUMBERS), score, temperature]
        return dict(zip(self.limits, values, strict=True))

    def _seen(self, held: Held, limits: Limits, row: int | None, looks: Any) -> Update:
        """Every panel of a run."""
        seen = held.select(limits)
        style = read_style(*looks[1:])
        shown = session.scene_of(held, seen, "main", style, bool(looks[0]))
        drawn = (
            views.scene(shown, held, seen),
            views.legend(held, shown, seen, tuple(session.novel_of(held))),
            boxes.crops(shown),
            _region(held, seen, limits, row),
        )
        return dict(zip((self.parts[name] for name in PANELS), drawn))

    @staticmethod
    def _choose_example(index: int) -> Any:
        example = list(examples().values())[index]
        return example.path, example.prompt, example.name, escape(example.credit)

    # ------------------------------------------------------------------- looking, no network

    def _wire_looking(self) -> None:
        parts = self.parts
        panels = [parts[name] for name in PANELS]

        @explained
        def look(held: Held | None, row: int | None, *more: Any) -> Update:
            if held is None:
                return {parts["auto"]: False}
            limits, looks = _asked(more)
            return {**self._seen(held, limits, row, looks), parts["auto"]: False}

        @explained
        def own(held: Held | None, auto: bool) -> Update:
            """Back to the model's settings."""
            return {} if held is None or not auto else self._controls(held, Limits())

        @explained
        def restyle(held: Held | None, row: int | None, *more: Any) -> Update:
            if held is None:
                return {}
            limits, looks = _asked(more)
            return self._seen(held, limits, row, looks)

        @explained
        def complete(held: Held | None, row: int | None, *more: Any) -> Iterator[Update]:
            """The masks of what a slider brought in sight, and the answer as JSON."""
            if held is None:
                yield {}
                return
            limits, looks = _asked(more)
            if held.missing(held.select(limits)):
                for step in self._outlined(held, limits):
                    yield {parts["status"]: badge.progress(step)}
                yield {**self._seen(held, limits, row, looks), parts["status"]: ""}
            yield {parts["json"]: session.facts(held, held.select(limits), limits)}

        state = [self.held, self.row, *self.limits, *self.looks]
        whole = [*panels, parts["json"], parts["status"]]
        sliders = [parts[name] for name in LIMITS if name != "score"]
        gr.on(
            [control.input for control in self.limits], look, state, [*panels, parts["auto"]],
            **LIVE,
        )  # fmt: skip
        gr.on(
            [*(control.release for control in sliders), parts["score"].input], complete, state,
            whole, trigger_mode="always_last", **self.job,
        )  # fmt: skip
        back = parts["auto"].input(own, [self.held, parts["auto"]], self.limits, **QUIET)
        back.then(restyle, state, panels, **QUIET)
        back.then(complete, state, whole, **self.job)
        gr.on([control.input for control in self.looks], restyle, state, panels, **LIVE)

    def _outlined(self, held: Held, limits: Limits) -> Iterator[Step]:
        """Make the masks that are shown and not there yet."""
        todo = held.missing(held.select(limits))
        if not todo or held.masks is None:
            return
        question = partial(session.outline, open_image(held.source), todo)
        for event in ask(self.atelier, held.model, question, deadline_s=DEADLINE_S):
            if isinstance(event, Step):
                yield event
            else:
                held.masks.update(event.result)

    # ----------------------------------------------------------------------------- one region

    def _wire_region(self) -> None:
        parts = self.parts

        @explained
        def choose(held: Held | None, *more: Any, event: gr.EventData) -> Any:
            return self._chosen(held, read_limits(*more), event)

        # Gradio finds the event's data by the annotation of a named parameter.
        def chosen(
            held: Any, a: Any, b: Any, c: Any, d: Any, e: Any, f: Any, g: Any, event: gr.EventData
        ) -> Any:
            return choose(held, a, b, c, d, e, f, g, event=event)

        for name in ("scene", "crops"):
            picked = parts[name].select(
                chosen, [self.held, *self.limits], [self.row, parts["region"], parts["why"]],
                **QUIET,
            )  # fmt: skip
            reasons = picked.then(
                self._why, [self.held, self.row], parts["why"], trigger_mode="always_last",
                **self.job,
            )  # fmt: skip
            stops(parts["stop"], reasons, parts["status"])

    def _chosen(self, held: Held | None, limits: Limits, event: gr.EventData) -> Any:
        """The region that was clicked: what it is; why, follows."""
        if held is None:
            return gr.skip(), gr.skip(), gr.skip()
        seen = held.select(limits)
        index = chosen_of(event, len(seen.rows))
        if index is None:
            return gr.skip(), gr.skip(), gr.skip()
        row = seen.rows[index]
        return row, _region(held, seen, limits, row), ""

    @explained
    def _why(self, held: Held | None, row: int | None) -> Iterator[Any]:
        if held is None or row is None:
            yield gr.skip()
            return
        question = partial(session.reason, open_image(held.source), row, held.templates)
        for event in ask(self.atelier, held.model, question, deadline_s=DEADLINE_S):
            if isinstance(event, Step):
                yield badge.progress(event)
            else:
                yield views.why(event.result)

    # --------------------------------------------------------------------------------- words

    def _wire_words(self) -> None:
        parts = self.parts
        parts["ready"].input(explained(read_list), parts["ready"], parts["names"], **PROMPT)
        follows_link(parts["example"], parts["image"], parts["credit"], examples)

    # --------------------------------------------------------------------------------- files

    def _wire_files(self) -> None:
        for kind in EXPORTS:
            downloads.makes(
                self.parts[kind], explained(partial(self._save, kind)),
                [self.held, *self.limits, *self.looks], self.parts["status"], DEVICE_EVENT,
            )  # fmt: skip

    def _save(self, kind: str, held: Held | None, *more: Any) -> Iterator[tuple[Any, Any]]:
        if held is None:
            raise InputError("There is no result yet; press Detect.")
        limits, (with_masks, *looks) = _asked(more)
        style = replace(read_style(*looks), masks=bool(with_masks))
        for step in self._outlined(held, limits):
            yield gr.skip(), badge.progress(step)
        yield _saved(kind, held, limits, style), badge.said("saved")

    # ----------------------------------------------------------------------------- beside GLIP

    def _wire_comparison(self) -> None:
        parts = self.parts
        parts["second"].change(
            lambda name: knows(self.others[name]), parts["second"], parts["about_second"], **QUIET
        )
        inputs = [
            parts["image"], parts["names"], parts["model"], parts["second"], parts["templates"],
            parts["auto"], *self.limits,
        ]  # fmt: skip
        outputs = [parts["status_both"], parts["threshold"], self.beside] + [
            parts[f"{name}_{side}"] for side in ("left", "right") for name in ("title", "scene")
        ]
        event = parts["run_both"].click(self._compare, inputs, outputs, **self.job)
        stops(parts["stop_both"], event, parts["status_both"])

        @explained
        def look(beside: glip_session.Held | None, box: Any) -> Any:
            if beside is None:
                return gr.skip()
            return _glip_scene(beside, read_glip_limits(box, None, None, None))

        parts["threshold"].input(
            look, [self.beside, parts["threshold"]], parts["scene_right"], **LIVE
        )

    @explained
    def _compare(
        self, path: str | None, text: str, model: str, second: str | None, templates: str,
        auto: bool, *more: Any,
    ) -> Iterator[Update]:  # fmt: skip
        """One after the other; what ViLD found stays when the second fails."""
        parts = self.parts
        names = read_names(text)
        limits = Limits() if auto else read_limits(*more)
        if path is None or second is None or second not in self.others:
            open_image(path)
            raise InputError("Choose a model to put beside ViLD.")
        prompt = read_words("; ".join(names), "list")
        for event in self._detect(path, names, limits, templates, model):
            if isinstance(event, Step):
                yield {parts["status_both"]: badge.progress(event)}
                continue
            held = event.result
            seen = held.select(limits)
            shown = session.scene_of(held, seen, "left")
            yield {
                parts["title_left"]: _timed_title(self.there[model], event.seconds),
                parts["scene_left"]: views.scene(shown, held, seen),
            }
        question = partial(glip_session.ground, open_image(path), prompt)
        for answer in ask(self.atelier, second, question, deadline_s=DEADLINE_S):
            if isinstance(answer, Step):
                yield {parts["status_both"]: badge.progress(answer)}
                continue
            raw, own = answer.result.raw, answer.result.own
            beside = glip_session.Held(second, prompt, path, held.shown, raw, own, answer.seconds)
            yield {
                parts["title_right"]: _timed_title(self.others[second], answer.seconds),
                parts["scene_right"]: _glip_scene(beside, GlipLimits()),
                parts["threshold"]: own.box,
                self.beside: beside,
                parts["status_both"]: ran(self.atelier, self.others[second], answer.seconds),
            }

    # ----------------------------------------------------------------------------------- live

    def _wire_live(self) -> None:
        parts = self.parts
        asked = [
            parts["names"], parts["model"], parts["templates"], parts["auto"], parts["masks"],
            *self.limits,
        ]  # fmt: skip

        def tell(live: Live, *values: Any) -> None:
            live.asked = values

        controls = [
            *(parts[name].change for name in ("names", "model", "templates", "auto", "masks")),
            *(control.change for control in self.limits),
        ]
        gr.on(controls, tell, [self.live, *asked], None, **LIVE)
        shown = [parts["screen"], parts["status_live"]]
        parts["camera"].stream(
            self._camera, [parts["camera"], self.live, *asked], shown,
            stream_every=STREAM_EVERY_S, **self.job,
        )  # fmt: skip
        event = parts["play"].click(
            self._play, [parts["film"], self.live, *asked], shown, **self.job
        )
        stops(parts["stop_live"], event, parts["status_live"])

    @explained
    def _camera(self, given: str | bytes | None, live: Live, *asked: Any) -> tuple[Any, Any]:
        live.asked = asked
        return self._frame(open_frame(given), live) if given else (gr.skip(), gr.skip())

    @explained
    def _play(self, path: str | None, live: Live, *asked: Any) -> Iterator[tuple[Any, Any]]:
        if path is None:
            raise InputError("Give a film first: MP4, MOV, WebM, MKV or AVI.")
        live.asked = asked
        model = asked[1]
        read_model(model, self.there)
        read_names(asked[0])
        for fraction, message in self.atelier.registry.loading(model):
            step = Step(min(max(fraction, 0.0), 1.0), message or "Loading")
            yield gr.skip(), badge.progress(step)
        for photo in in_time(Path(path)):
            yield self._frame(photo, live)
        yield gr.skip(), badge.said("the film is over")

    def _frame(self, photo: Any, live: Live) -> tuple[Any, Any]:
        """One frame, left out while others hold the device; what is wrong with the names stands
        beside it."""
        text, model, templates, auto, masks, *limits = live.asked
        try:
            names, chosen = read_names(text), read_templates(templates)
            asked = Limits() if auto else read_limits(*limits)
            read_model(model, self.there)
        except InputError as error:
            return gr.skip(), views.told(str(error))
        question = partial(name_frame, photo, names, asked, chosen, bool(masks))
        began = time.monotonic()
        frame = self.atelier.jobs.call_if_free(
            lambda: run_to_end(leased(self.atelier, (model,), question)), patience_s=1.0
        )
        if frame is None:
            return gr.skip(), badge.said("the device is busy")
        seconds = time.monotonic() - began
        return views.frame(frame.picture), views.pace(frame.boxes, seconds, live.rate())

    # ------------------------------------------------------------------------------ endpoint

    def _wire_endpoint(self) -> None:
        """The endpoint has a button of its own: its answer is one thing, the page's many."""
        hidden, answer = gr.Button(visible=False), gr.JSON(visible=False)
        open_numbers = {name: number(None, visible=False) for name in NUMBERS}
        # A call without names discovers, whatever the page's own field says at first.
        own = {**open_numbers, "names": gr.Textbox("", visible=False)}
        inputs = [{**self.parts, **own}[field.name] for field in fields(Form)]

        @explained
        def vild_detect(*values: Any) -> Iterator[Any]:
            form = Form(*values)
            limits = read_limits(**{name: getattr(form, name, None) for name in LIMITS})
            names = read_names(form.names) if form.names else []
            for event in self._detect(form.image, names, limits, "own", form.model):
                if isinstance(event, Step):
                    yield {"fraction": event.fraction, "message": event.message}
                else:
                    held = event.result
                    yield session.facts(held, held.select(limits), limits)

        # Gradio names the endpoint's parameters after the function's.
        vild_detect.__signature__ = inspect.signature(Form)  # type: ignore[attr-defined]
        hidden.click(vild_detect, inputs, answer, api_name=ENDPOINT, **DEVICE_EVENT)

    def _link(self) -> list[share.Field]:
        parsers: dict[str, Callable[[str], Any]] = {
            "view": share.choice("picture", "compare", "live"),
            "model": share.choice(*self.there),
            "second": share.choice(*self.others),
            "names": share.text(MAX_LINK_CHARS),
            "max_boxes": share.number(1, MAX_BOXES),
            "nms": share.number(0, 1),
            "min_objectness": share.number(0, 1),
            "min_area": share.number(0, MAX_AREA),
            "min_cosine": share.number(-1, 1),
            "score": share.choice(*SCORES),
            "temperature": share.number(*TEMPERATURES),
            "templates": share.choice(*TEMPLATES),
            "auto": share.flag,
            "masks": share.flag,
            "example": share.choice(*examples()),
        }
        return [share.Field(name, self.parts[name], parse) for name, parse in parsers.items()]


def _asked(more: Sequence[Any]) -> tuple[Limits, Sequence[Any]]:
    """What the sliders say, and behind them how it is drawn."""
    return read_limits(*more[: len(LIMITS)]), more[len(LIMITS) :]


def _region(held: Held, seen: Seen, limits: Limits, row: int | None) -> str:
    """The chosen region, or the best one where none is chosen or it is out of sight."""
    if not seen.rows:
        return boxes.empty(views.CHOOSE)
    index = seen.rows.index(row) if row in seen.rows else 0
    row = seen.rows[index]
    shown = session.scene_of(held, seen, masks=False)
    softmax = held.scoring(limits)[0] == "softmax"
    return views.region(shown, seen, index, held.opinions(row, limits), held.outline(row), softmax)


def _saved(kind: str, held: Held, limits: Limits, style: DrawStyle) -> str:
    """Path of the result as one of `EXPORTS`."""
    seen = held.select(limits)
    answer = session.facts(held, seen, limits)
    if kind == "JSON":
        return downloads.save_json(answer, STEM)
    if kind == "PNG":
        colours = session.colours_of(held, seen)
        drawn = draw(open_image(held.source), seen.found, style=style, colours=colours)
        return downloads.save_png(drawn, answer, STEM)
    return save_export(kind, [(Path(held.source).name, seen.found)], STEM)


def _glip_scene(beside: glip_session.Held, limits: GlipLimits) -> str:
    return glip_views.scene(glip_session.scene_of(beside, beside.select(limits), "right"))


def _timed_title(row: ModelRow, seconds: float) -> str:
    return escape(f"{row.title} · {seconds:.2f} s")


TAB = Tab(
    key="vild",
    title="ViLD",
    build=build,
    endpoints=(ENDPOINT,),
    warm=warm,
    css=views.CSS,
    tasks=(TASK,),
)
