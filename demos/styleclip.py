"""The StyleCLIP tab: a face changes by words while a slider moves, by all three methods."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from demos import styleclip_form as form
from demos import styleclip_session as session
from demos import styleclip_views as views
from demos import styleclip_work as work
from demos.styleclip_form import METHODS, STRENGTHS, Form, Start, Wish, kit_of, read_form
from demos.styleclip_kits import TASK, Kit, kits
from demos.styleclip_session import Held, Outcome, OwnMappers, Progress
from demos.ui import badge, downloads, share
from demos.ui.controls import (
    LIVE,
    PROMPT,
    QUIET,
    chips,
    dropdown,
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
from demos.ui.images import open_image, picture
from demos.ui.jobs import DEVICE_EVENT, Done, explained
from demos.ui.model import ask, model_choice, ran
from demos.ui.tab import Atelier, Tab
from demos.ui.text import parse_whole, random_seed
from models import film
from models.errors import InputError
from models.jobs import Job, Step
from models.styleclip.mapper import Mapper
from models.styleclip.mapper_training import MAX_STEPS as MAX_TRAINING_STEPS
from models.styleclip.optimization import MAX_STEPS
from models.styleclip.prompt import EditPrompt
from models.stylegan.generator import Generator
from models.stylegan.inversion import MAX_STEPS as MAX_INVERSION_STEPS
from models.stylegan.latent import TRUNCATION, Latent

DEADLINE_S = 3600.0  # an official face on a laptop's CPU; the steps tell how long it will take
ENDPOINT = "styleclip_edit"
NEUTRAL, TARGET = "a person", "a person with glasses"
EXAMPLES = (
    TARGET, "a smiling person", "a person with a beard", "a person with long hair",
    "a person with curly hair", "an old person", "a person wearing a hat",
    "a person with purple hair",
)  # fmt: skip
KNOWS = (
    "Mini draws and edits the app's own avatars: hair, glasses, beard, hat, smile, age, colours. "
    "Photographs of people begin with the official generators."
)
NOTHING_BETTER = (
    "nothing better than the start was found; take more steps, or a lower L2 or identity"
)
BETA = form.Range(0.0, 0.5, 0.12, 0.005)
Update = dict[Any, Any]


def build(atelier: Atelier) -> list[share.Field]:
    """Draw the tab and return what its link carries."""
    there = kits(atelier.registry.catalog)
    first = next(iter(there))
    model = model_choice({name: kit.row for name, kit in there.items()}, first)
    # Three parts: on a wide page the picture stands beside both others, on a phone between them.
    with gr.Row(equal_height=False, elem_classes="atelier-studio"):
        with gr.Column(min_width=300):
            parts = _build_words()
            with gr.Row():
                parts["run"], parts["stop"] = run_button("Edit"), stop_button()
            parts["status"] = badge.status_line()
        with gr.Column(min_width=300):
            parts |= _build_stage()
        with gr.Column(min_width=300):
            parts |= _build_start() | _build_method(there[first])
            parts |= _build_photo()
            note(KNOWS)
    how_it_works(
        views.DIAGRAM,
        views.HOW,
        paper="Patashnik, Wu, Shechtman, Cohen-Or, Lischinski 2021, StyleCLIP: Text-Driven "
        "Manipulation of StyleGAN Imagery",
        url="https://arxiv.org/abs/2103.17249",
    )
    return _Page(atelier, there, {"model": model, **parts}).wire()


def warm(atelier: Atelier, model: str) -> None:
    """Take one step of an optimisation, so that words are read and every kernel is warm; `model`
    is a generator, or a CLIP that steers one."""
    there = kits(atelier.registry.catalog)
    kit = there.get(model) or next((kit for kit in there.values() if kit.clip == model), None)
    if kit is None:
        return
    one_step = Form("optimization", 0, NEUTRAL, TARGET, steps=1, identity=0, model=kit.name)
    wish = read_form(one_step, there)
    for _ in _events(atelier, wish, ("", 0, 0), None, work.Library()):
        pass


# ----------------------------------------------------------------------------------- the form


def _build_words() -> dict[str, Any]:
    with gr.Row():
        target = gr.Textbox(
            TARGET, label="Target", info="What it should show.", max_lines=3, min_width=180,
            scale=3,
        )  # fmt: skip
        neutral = gr.Textbox(
            NEUTRAL, label="Neutral", info="What it shows now.", max_lines=3, min_width=120,
            scale=2,
        )  # fmt: skip
    return {"target": target, "neutral": neutral, "samples": chips(EXAMPLES, "Edited at once")}


def _build_method(kit: Kit) -> dict[str, Any]:
    method = gr.Radio(list(METHODS.items()), value="directions", label="Method")
    with gr.Column() as directions:
        source = gr.Radio(
            list(form.SOURCES.items()), value="auto", label="Directions from",
            info="Automatic takes the table where one was measured.",
        )  # fmt: skip
    with gr.Column(visible=False) as mappers:
        mapper = dropdown(
            _mapper_choices(kit), "", label="Mapper", info="Those in the list answer at once."
        )
        with gr.Row(equal_height=True, elem_classes="atelier-tools"):
            train = gr.Button("Train for these words", size="sm", min_width=160)
            train_steps = number(
                kit.mapper.steps, label="Training steps", precision=0, min_width=110
            )
            load = gr.UploadButton(
                "Load mapper", file_types=[".safetensors", ".pt"], size="sm", min_width=100
            )
        note(
            "Mappers trained here are yours alone, until the page closes; save what you want to "
            "keep."
        )
    with gr.Column(visible=False) as optimization:
        first = kit.optimization
        steps = slider(1, 300, first.steps, step=1, label="Steps", info="Of the optimiser.")
        with gr.Row():
            l2 = slider(
                0, 0.05, first.l2, step=0.001, label="L2", min_width=200,
                info="Higher stays nearer to the start.",
            )  # fmt: skip
            identity = slider(
                0, 1, first.identity, step=0.005, label="Identity", min_width=200,
                info="Higher keeps the person's other traits.",
            )  # fmt: skip
        with gr.Row(equal_height=True):
            space = gr.Radio(
                list(form.SPACE_TITLES.items()), value="w_plus", label="Space", min_width=140
            )
            free = gr.Checkbox(False, label="Free generation, from the average", min_width=140)
    return {
        "method": method, "directions_part": directions, "mapper_part": mappers,
        "optimization_part": optimization, "source": source, "mapper": mapper, "train": train,
        "train_steps": train_steps, "load_mapper": load, "steps": steps, "l2": l2, "identity": identity,
        "space": space, "free": free,
    }  # fmt: skip


def _mapper_choices(kit: Kit) -> list[tuple[str, str]]:
    return [("The one for the target's words", ""), *kit.mapper_titles()]


def _build_stage() -> dict[str, Any]:
    compare = views.comparison("Before and after")
    ends = STRENGTHS["directions"]
    strength = slider(
        ends.low, ends.high, ends.first, step=ends.step, label="Manipulation strength",
        info="Move it and watch; 0 is the start.",
    )  # fmt: skip
    with gr.Row(equal_height=True, elem_classes="edit-beta") as beta_part:
        beta = slider(
            BETA.low, BETA.high, BETA.first, step=BETA.step, label="Disentanglement", scale=4,
            min_width=170, info="Higher changes fewer channels.",
        )  # fmt: skip
        auto = gr.Checkbox(True, label="Automatic", min_width=130, scale=1)
    with gr.Row(elem_classes="atelier-tools"):
        tools = {
            name: gr.Button(name, size="sm", min_width=70)
            for name in ("Accept", "Undo", "Redo", "Reset")
        }
    panel = stage(views.nothing())
    with gr.Row(elem_classes="atelier-tools"):
        saves = {
            name: gr.Button(name, size="sm", min_width=70) for name in ("PNG", "Latent", "JSON")
        }
        saves["Mapper"] = gr.Button("Mapper", size="sm", min_width=70, visible=False)
        films = {
            name: gr.Button(name, size="sm", min_width=96)
            for name in ("Sweep (MP4)", "Sweep (GIF)", "Sweep strip")
        }
    album = gr.Gallery(
        label="This session's pictures", columns=6, height="auto", interactive=False,
        allow_preview=False, object_fit="contain", buttons=[], elem_classes="atelier-album",
        visible=False,
    )  # fmt: skip
    return {
        "compare": compare, "strength": strength, "beta": beta, "beta_part": beta_part,
        "auto": auto, "panel": panel, "album": album, **tools, **saves, **films,
    }  # fmt: skip


def _build_start() -> dict[str, Any]:
    with gr.Row(equal_height=True, elem_classes="atelier-tools"):
        dice = gr.Button("New face", size="sm", min_width=90)
        more = gr.Button("Faces to choose from", size="sm", min_width=140)
        load = gr.UploadButton("Load latent", file_types=[".safetensors"], size="sm", min_width=100)
    faces = _gallery("Choose a face")
    with gr.Row(equal_height=True):
        seed = number(0, label="Seed", precision=0, min_width=100, scale=2)
        psi = slider(
            0, form.MAX_PSI, TRUNCATION, step=0.05, label="Truncation", min_width=180, scale=3,
            info="0 is the average face.",
        )  # fmt: skip
    return {"seed": seed, "psi": psi, "dice": dice, "more": more, "load": load, "faces": faces}


def _build_photo() -> dict[str, Any]:
    with gr.Accordion("Your own picture", open=False):
        photo = picture("Picture", height=240)
        with gr.Row(equal_height=True):
            inversion = slider(
                0, 200, 50, step=1, label="Inversion steps", min_width=160, scale=3,
                info="After the encoder; more come nearer.",
            )  # fmt: skip
            aligned = gr.Checkbox(
                False, label="Already cut out like the model's pictures", min_width=140, scale=2
            )
        use = gr.Button("Use this picture", size="sm")
        people = _gallery("Several faces: choose one")
    return {
        "photo": photo, "inversion": inversion, "aligned": aligned, "use": use, "people": people,
    }  # fmt: skip


def _gallery(label: str) -> gr.Gallery:
    return gr.Gallery(
        label=label, columns=6, height="auto", interactive=False, allow_preview=False,
        object_fit="contain", buttons=[], elem_classes="atelier-album", visible=False,
        type="filepath",
    )  # fmt: skip


# ------------------------------------------------------------------------------------ the work


def _events(
    atelier: Atelier, wish: Wish, asked: tuple[str, Any, Any], held: Held | None,
    library: work.Library,
) -> Iterator[Step | Done[Outcome]]:  # fmt: skip
    """Carry out a wish with all the models it needs."""
    kit = wish.kit
    names = [kit.name, kit.clip]
    if wish.method == "optimization" and wish.optimization.identity and kit.face_network:
        names.append(kit.face_network)
    job = partial(session.carry_out, wish, asked, held, library)
    return ask(atelier, names, job, deadline_s=DEADLINE_S)


class _Page:
    """The tab's components and what happens between them; handlers answer {component: value}."""

    def __init__(self, atelier: Atelier, there: Mapping[str, Kit], parts: dict[str, Any]) -> None:
        self.atelier, self.kits, self.parts = atelier, there, parts
        self.library = work.Library()
        self.held, self.own = gr.State(), gr.State(OwnMappers())
        self.compare, self.panel, self.status = parts["compare"], parts["panel"], parts["status"]
        self.strength, self.beta, self.album = parts["strength"], parts["beta"], parts["album"]
        self.start = [parts["model"], parts["seed"], parts["psi"]]
        self.sliders = [self.held, self.strength, self.beta]
        self.outputs = [
            self.compare, self.panel, self.status, self.strength, self.beta, self.album,
            self.held, self.own, parts["seed"], parts["model"], parts["mapper"], parts["faces"],
            parts["people"],
        ]  # fmt: skip
        self.job = {"show_progress": "hidden", "api_visibility": "private", **DEVICE_EVENT}

    def wire(self) -> list[share.Field]:
        """Connect everything; returns what the tab's link carries."""
        runs = [*self._wire_runs(), *self._wire_starts()]
        stopped = stops(self.parts["stop"], runs, self.status)
        stopped.then(self._full, self.sliders, self.outputs, **self.job)
        self._wire_choices()
        self._wire_looking()
        self._wire_history()
        self._wire_files()
        self._wire_endpoint()
        return self._link()

    # ----------------------------------------------------------------------------- editing

    def _wire_runs(self) -> Iterator[Any]:
        parts = self.parts
        names = [field.name for field in fields(Form)]
        filled = {"seed_or_latent": "seed", "disentanglement": "beta"}
        inputs = [parts[filled.get(name, name)] for name in names]

        @explained
        def run(held: Held | None, own: OwnMappers, auto: bool, *values: Any) -> Iterator[Update]:
            filled_in = Form(*values)
            asked = (filled_in.model, filled_in.seed_or_latent, filled_in.psi)
            if filled_in.seed_or_latent is None and held is None:
                filled_in = replace(filled_in, seed_or_latent=random_seed())
                asked = (filled_in.model, filled_in.seed_or_latent, filled_in.psi)
            wish = read_form(
                replace(
                    filled_in,
                    strength=filled_in.strength or None,  # 0 after Accept and Reset
                    disentanglement=None if auto else filled_in.disentanglement,
                ),
                self.kits,
            )
            wish = replace(wish, kit=own.kit(wish.kit))
            yield {parts["seed"]: filled_in.seed_or_latent}
            yield from self._shown(_events(self.atelier, wish, asked, held, self.library), wish)

        inputs = [self.held, self.own, parts["auto"], *inputs]
        yield gr.on(
            [parts["run"].click, parts["target"].submit, parts["neutral"].submit],
            run, inputs, self.outputs, **self.job,
        )  # fmt: skip
        picked = parts["samples"].click(
            EXAMPLES.__getitem__, parts["samples"], parts["target"], **QUIET
        )
        yield picked.success(run, inputs, self.outputs, **self.job)
        words = [parts["target"], parts["neutral"]]
        training = [self.own, parts["model"], *words, parts["train_steps"]]
        trained = parts["train"].click(self._train, training, self.outputs, **self.job)
        yield trained
        yield trained.success(run, inputs, self.outputs, **self.job)
        loading = [self.own, parts["model"], parts["load_mapper"]]
        loaded = parts["load_mapper"].upload(self._load, loading, self.outputs, **self.job)
        yield loaded
        yield loaded.success(run, inputs, self.outputs, **self.job)

    def _shown(self, events: Iterator[Any], wish: Wish) -> Iterator[Update]:
        for event in events:
            if isinstance(event, Done):
                outcome: Outcome = event.result
                told = ran(self.atelier, wish.kit.row, event.seconds)
                if outcome.strength and not any(layer.channels for layer in outcome.layers):
                    told = badge.said(NOTHING_BETTER)
                yield {
                    **self._seen(outcome),
                    self.status: told,
                    self.strength: outcome.strength,
                    self.beta: gr.skip() if outcome.beta is None else outcome.beta,
                    self.album: _album(outcome.held),
                    self.held: outcome.held,
                }
                return
            yield {self.status: badge.progress(event), **self._live_step(event)}

    def _live_step(self, step: Step) -> Update:
        held = step.held if isinstance(step, Progress) else None
        if held is None:
            return {}
        update: Update = {self.held: held}
        if step.preview is not None and held.made is not None:
            update[self.compare] = (held.place.picture, step.preview)
            update[self.panel] = views.running(held.made.losses)
        return update

    def _seen(self, outcome: Outcome) -> Update:
        made = outcome.held.made
        return {
            self.compare: (outcome.held.place.picture, outcome.picture),
            self.panel: views.panel(outcome.layers, made.losses if made else ()),
        }

    @explained
    def _train(
        self, own: OwnMappers, model: str, target: str, neutral: str, steps: float
    ) -> Iterator[Update]:
        """Train a mapper, keep it for this session, and choose it in the list."""
        kit, prompt = kit_of(self.kits, model), EditPrompt(target or "", neutral or "")
        steps = parse_whole(steps, what="The number of training steps")
        names = [kit.name, kit.clip]
        if kit.mapper.identity and kit.face_network:
            names.append(kit.face_network)
        losses: list[float] = []
        job = partial(work.train, kit, prompt, steps)
        for event in ask(self.atelier, names, job, deadline_s=DEADLINE_S):
            if isinstance(event, Step):
                if "loss" in event.metrics:
                    losses.append(event.metrics["loss"])
                shown = {self.panel: views.running(losses, event.preview)} if event.preview else {}
                yield {self.status: badge.progress(event), **shown}
                continue
            yield {
                self.status: badge.said(f"trained in {event.seconds:.0f} s"),
                **self._offered(own.with_mapper(event.result, model), kit),
            }

    @explained
    def _load(self, own: OwnMappers, model: str, path: str | None) -> Iterator[Update]:
        """Read a mapper's file, keep it for this session, and choose it in the list."""
        kit = kit_of(self.kits, model)
        for event in ask(self.atelier, model, partial(session.read_mapper, path, model)):
            if isinstance(event, Step):
                yield {self.status: badge.progress(event)}
                continue
            mapper: Mapper = event.result
            yield self._offered(own.with_mapper(mapper, model, Path(path or "").stem), kit)

    def _offered(self, own: OwnMappers, kit: Kit) -> Update:
        """The session with one more mapper, which is chosen."""
        choices = _mapper_choices(own.kit(kit))
        return {
            self.own: own,
            self.parts["mapper"]: gr.update(choices=choices, value=own.kept[-1].name),
        }

    # ------------------------------------------------------------------------------ starts

    def _wire_starts(self) -> Iterator[Any]:
        parts = self.parts

        @explained
        def start(held: Held | None, model: str, seed: Any, psi: Any) -> Iterator[Update]:
            kit_of(self.kits, model)
            chosen = form.read_start(model, random_seed() if seed is None else seed, psi)
            yield {parts["seed"]: chosen.seed}
            yield from self._begin(chosen, (model, chosen.seed, psi), held)

        @explained
        def load(held: Held | None, path: str, model: str, seed: Any, psi: Any) -> Iterator[Update]:
            kit_of(self.kits, model)
            chosen = Start(model, None, TRUNCATION, form.read_upload(path))
            yield from self._begin(chosen, (model, seed, psi), held)

        inputs = [self.held, *self.start]
        thrown = parts["dice"].click(random_seed, None, parts["seed"], **QUIET)
        yield thrown.then(start, inputs, self.outputs, **self.job)
        triggers = [parts["seed"].submit, parts["psi"].release, parts["model"].input]
        yield gr.on(triggers, start, inputs, self.outputs, **self.job)

        def pick(event: gr.SelectData) -> int:
            caption = str(event.value.get("caption", "")) if isinstance(event.value, dict) else ""
            return int(caption.removeprefix("seed ")[:10])

        chosen = parts["faces"].select(pick, None, parts["seed"], **QUIET)
        yield chosen.success(start, inputs, self.outputs, **self.job)
        yield parts["more"].click(self._faces, self.start, self.outputs, **self.job)
        yield parts["load"].upload(
            load, [self.held, parts["load"], *self.start], self.outputs, **self.job
        )
        yield from self._wire_photos()

    def _begin(
        self, start: Start, asked: tuple[str, Any, Any], held: Held | None
    ) -> Iterator[Update]:
        job = partial(session.open_seed, start, asked, held)
        yield from self._opened(ask(self.atelier, start.model, job), start.model)

    def _opened(self, events: Iterator[Any], model: str) -> Iterator[Update]:
        """Show a new start, whatever made it."""
        for event in events:
            if isinstance(event, Done):
                status = ran(self.atelier, self.kits[model].row, event.seconds)
                yield {**self._standing(event.result), self.status: status}
            elif event.preview is not None:
                shown = {self.compare: (event.preview, event.preview)}
                yield {self.status: badge.progress(event), **shown}
            else:
                yield {self.status: badge.progress(event)}

    def _standing(self, held: Held) -> Update:
        """The page at a picture of the history, without an edit."""
        path = held.place.picture
        return {
            self.compare: (path, path), self.panel: views.nothing(), self.strength: 0,
            self.album: _album(held), self.held: held, self.parts["model"]: held.model,
        }  # fmt: skip

    @explained
    def _faces(self, model: str, seed: Any, psi: Any) -> Iterator[Update]:
        """Faces of the seeds behind the current one, to choose from."""
        kit_of(self.kits, model)
        first = (form.read_start(model, seed, psi).seed or 0) + 1

        def job(generator: Generator) -> Job[list[Image.Image]]:
            return work.gallery(generator, first, psi)

        for event in ask(self.atelier, model, job):
            if isinstance(event, Step):
                yield {self.status: badge.progress(event)}
                continue
            pictures = [
                (downloads.save_jpeg(face.resize((128, 128)), "face"), f"seed {first + index}")
                for index, face in enumerate(event.result)
            ]
            yield {
                self.status: badge.said("choose a face"),
                self.parts["faces"]: gr.update(value=pictures, visible=True),
            }

    def _wire_photos(self) -> Iterator[Any]:
        parts = self.parts

        @explained
        def use(
            held: Held | None, path: str | None, aligned: bool, steps: float, *start: Any
        ) -> Iterator[Update]:
            photo, kit = open_image(path), kit_of(self.kits, start[0])
            if kit.faces and not aligned:
                found: list[Image.Image] = []
                for event in self.atelier.jobs.run(partial(work.find_people, photo)):
                    if isinstance(event, Step):
                        yield {self.status: badge.progress(event)}
                    else:
                        found = event.result
                if len(found) > 1:
                    crops = [downloads.save_png(face, {}, "face") for face in found]
                    yield {
                        self.status: badge.said(f"{len(found)} faces; choose one of them"),
                        parts["people"]: gr.update(value=crops, visible=True),
                    }
                    return
                photo = found[0]
            yield from self._inverted(held, kit, photo, steps, start)

        @explained
        def choose(
            held: Held | None, crops: Sequence[Any] | None, steps: float, model: str,
            seed: Any, psi: Any, event: gr.SelectData,
        ) -> Iterator[Update]:  # fmt: skip
            face = (crops or ())[int(event.index)]
            photo = open_image(face[0] if isinstance(face, tuple) else face)
            kit = kit_of(self.kits, model)
            yield from self._inverted(held, kit, photo, steps, (model, seed, psi))

        settings = [parts["inversion"], *self.start]
        inputs = [self.held, parts["photo"], parts["aligned"], *settings]
        yield parts["use"].click(use, inputs, self.outputs, **self.job)
        yield parts["people"].select(
            choose, [self.held, parts["people"], *settings], self.outputs, **self.job
        )

    def _inverted(
        self, held: Held | None, kit: Kit, photo: Image.Image, steps: float,
        asked: tuple[Any, ...],
    ) -> Iterator[Update]:  # fmt: skip
        steps = parse_whole(steps, what="The number of inversion steps")

        def job(generator: Generator, *others: Any) -> Job[Held]:
            latent = yield from work.invert_photo(photo, steps, generator, *others)
            return session.opened(held, (asked[0], asked[1], asked[2]), latent, "your picture",
                                  None, generator)  # fmt: skip

        names = [kit.name, kit.clip, *([kit.encoder] if kit.encoder else [])]
        yield from self._opened(ask(self.atelier, names, job, deadline_s=DEADLINE_S), kit.name)

    # ----------------------------------------------------------------------------- looking

    def _wire_choices(self) -> None:
        """What is there to choose from depends on method and model."""
        parts, method = self.parts, self.parts["method"]
        for name in METHODS.values():
            method.change(shown_if(name), method, parts[f"{name}_part"], **QUIET)
        method.change(shown_if("directions"), method, parts["beta_part"], **QUIET)
        method.change(shown_if("mapper"), method, parts["Mapper"], **QUIET)
        method.change(_ends, method, self.strength, **QUIET)
        method.input(lambda name: STRENGTHS[name].first, method, self.strength, **QUIET)

        @explained
        def suit(model: str, own: OwnMappers) -> tuple[Any, ...]:
            kit = own.kit(kit_of(self.kits, model))
            choices = gr.update(choices=_mapper_choices(kit), value="")
            first = kit.optimization
            return choices, kit.mapper.steps, first.steps, first.l2, first.identity

        parts["model"].input(
            suit, [parts["model"], self.own],
            [parts[name] for name in ("mapper", "train_steps", "steps", "l2", "identity")],
            **QUIET,
        )  # fmt: skip
        self.beta.input(None, None, parts["auto"], js="() => false", **QUIET)

    def _wire_looking(self) -> None:
        @explained
        def live(held: Held | None, strength: float, beta: float) -> Any:
            """The picture while a slider moves; left out when others hold the device."""
            if held is None or held.made is None:
                return gr.skip(), gr.skip(), badge.said("press Edit first, then move the sliders")
            try:
                latent = _at(held, strength, beta)
            except InputError as error:  # a sentence beside the slider, no alarm at every move
                return gr.skip(), gr.skip(), badge.said(str(error))
            began = time.perf_counter()
            look = self.atelier.jobs.call_if_free(partial(self._glance, held, latent))
            if look is None:
                return gr.skip(), gr.skip(), gr.skip()
            shown, panel = look
            spent = f"{1000 * (time.perf_counter() - began):.0f} ms"
            return (held.place.picture, shown), panel, badge.said(spent)

        shown = [self.compare, self.panel, self.status]
        for moved in (self.strength, self.beta):
            moved.input(live, self.sliders, shown, **LIVE)
            # A slider let go while the last picture is still being made: its new place counts.
            moved.release(
                self._full, self.sliders, self.outputs, trigger_mode="always_last", **self.job
            )

    def _glance(self, held: Held, latent: Latent) -> tuple[Image.Image, str]:
        """Picture and layers of an edit, quickly."""
        assert held.made is not None, "there is an edit to look at"
        with self.atelier.registry.lease(held.model) as generator:
            small = work.render(generator, latent, work.preview_size(generator))
            layers = work.activity(generator, held.start, latent, held.made.statistics)
        return small, views.panel(layers, held.made.losses)

    @explained
    def _full(self, held: Held | None, strength: float, beta: float) -> Iterator[Update]:
        """The edit at rest, in full size."""
        if held is None or held.made is None:
            yield {self.status: gr.skip()}
            return
        try:
            _at(held, strength, beta)
        except InputError as error:
            yield {self.status: badge.said(str(error))}
            return
        for event in ask(self.atelier, held.model, partial(_look, held, strength, beta)):
            if isinstance(event, Done):
                yield {**self._seen(event.result), self.album: _album(held)}

    # ----------------------------------------------------------------------------- history

    def _wire_history(self) -> None:
        parts = self.parts

        @explained
        def accept(held: Held | None, strength: float, beta: float) -> Iterator[Update]:
            held = _edited(held)
            for event in ask(self.atelier, held.model, partial(_look, held, strength, beta)):
                if isinstance(event, Done):
                    outcome: Outcome = event.result
                    target = held.settings.get("target", "")
                    place = session.place_of(
                        held.model, outcome.latent, outcome.picture,
                        f"{target[:60]}, {strength:g}", held.place.seed,
                    )  # fmt: skip
                    later = held.with_place(place, outcome.latent)
                    yield {**self._standing(later), self.status: badge.said("accepted")}

        def go(held: Held | None, at: int) -> Update:
            if held is None:
                raise InputError("There is no picture yet; press Edit or choose a face.")
            at = min(max(at, 0), len(held.places) - 1)
            with self.atelier.registry.lease(held.places[at].model) as generator:
                return self._standing(held.moved_to(at, held.places[at].read(generator)))

        @explained
        def undo(held: Held | None) -> Update:
            """An open edit goes first, then the last accepted one."""
            return go(held, 0 if held is None else held.at - (held.made is None))

        @explained
        def redo(held: Held | None) -> Update:
            return go(held, 0 if held is None else held.at + 1)

        @explained
        def reset(held: Held | None) -> Update:
            return go(held, 0)

        @explained
        def choose(held: Held | None, event: gr.SelectData) -> Update:
            return go(held, int(event.index))

        parts["Accept"].click(accept, self.sliders, self.outputs, **self.job)
        for name, step in (("Undo", undo), ("Redo", redo), ("Reset", reset)):
            parts[name].click(step, self.held, self.outputs, **PROMPT)
        self.album.select(choose, self.held, self.outputs, **PROMPT)

    # ------------------------------------------------------------------------------- files

    def _wire_files(self) -> None:
        @explained
        def latent(held: Held | None, strength: float, beta: float) -> Any:
            if held is None:
                raise InputError("There is no picture yet; press Edit or choose a face.")
            return session.save_latent(_at(held, strength, beta), held.model), gr.skip()

        @explained
        def mapper(own: OwnMappers, model: str, name: str, target: str) -> Any:
            kit = own.kit(kit_of(self.kits, model))
            return session.save_mapper(kit.mapper_for(name or "", target or "")), gr.skip()

        downloads.makes(self.parts["Latent"], latent, self.sliders, self.status, PROMPT)
        chosen = [self.own, *(self.parts[name] for name in ("model", "mapper", "target"))]
        downloads.makes(self.parts["Mapper"], mapper, chosen, self.status, PROMPT)
        jobs: dict[str, Callable[..., Job[str]]] = {
            "PNG": _save_png, "JSON": _save_json, "Sweep (MP4)": partial(_save_sweep, "mp4"),
            "Sweep (GIF)": partial(_save_sweep, "gif"),
            "Sweep strip": partial(_save_sweep, "png"),
        }  # fmt: skip
        for name, job in jobs.items():
            make = downloads.by_job(partial(self._from_edit, job))
            downloads.makes(self.parts[name], make, self.sliders, self.status, DEVICE_EVENT)

    def _from_edit(
        self, job: Callable[..., Job[str]], held: Held | None, strength: float, beta: float
    ) -> Iterator[Step | Done[str]]:
        held = _edited(held)
        _at(held, strength, beta)
        return ask(
            self.atelier, held.model, partial(job, held, strength, beta), deadline_s=DEADLINE_S
        )

    # ------------------------------------------------------------------------ API and link

    def _wire_endpoint(self) -> None:
        """The endpoint has a button of its own: its answer is three things, the page's many."""
        hidden = gr.Button(visible=False)
        answer = [gr.File(visible=False), gr.File(visible=False), gr.JSON(visible=False)]
        start = gr.JSON(visible=False)
        own = {"seed_or_latent": start, "strength": number(None, visible=False),
               "disentanglement": number(None, visible=False)}  # fmt: skip
        inputs = [{**self.parts, **own}[field.name] for field in fields(Form)]

        @explained
        def styleclip_edit(*values: Any) -> Iterator[Any]:
            wish = read_form(Form(*values), self.kits)
            asked = (wish.kit.name, wish.start.seed, wish.start.psi)
            for event in _events(self.atelier, wish, asked, None, self.library):
                if isinstance(event, Step):
                    told = {"fraction": event.fraction, "message": event.message}
                    yield gr.skip(), gr.skip(), told
                    continue
                outcome: Outcome = event.result
                latent = session.save_latent(outcome.latent, wish.kit.name)
                facts = session.facts(outcome, event.seconds)
                yield session.save_picture(outcome), latent, facts

        # Gradio names the endpoint's parameters after the function's.
        styleclip_edit.__signature__ = inspect.signature(Form)  # type: ignore[attr-defined]
        hidden.click(styleclip_edit, inputs, answer, api_name=ENDPOINT, **DEVICE_EVENT)

    def _link(self) -> list[share.Field]:
        parsers: dict[str, Callable[[str], Any]] = {
            "model": share.choice(*self.kits),
            "method": share.choice(*METHODS.values()),
            "target": share.text(form.MAX_CHARS),
            "neutral": share.text(form.MAX_CHARS),
            "seed": share.number(0, form.MAX_SEED),
            "psi": share.number(0, form.MAX_PSI),
            "strength": share.number(-10, 10),
            "beta": share.number(0, form.MAX_BETA),
            "auto": share.flag,
            "source": share.choice(*form.SOURCES.values()),
            "mapper": share.text(100),
            "steps": share.number(1, MAX_STEPS),
            "l2": share.number(0, 100),
            "identity": share.number(0, 100),
            "space": share.choice(*form.SPACE_TITLES.values()),
            "free": share.flag,
            "train_steps": share.number(1, MAX_TRAINING_STEPS),
            "inversion": share.number(0, MAX_INVERSION_STEPS),
        }
        return [share.Field(name, self.parts[name], parse) for name, parse in parsers.items()]


def _ends(method: str) -> Any:
    ends = STRENGTHS[method]
    return gr.update(minimum=ends.low, maximum=ends.high, step=ends.step)


def _at(held: Held, strength: float, beta: float) -> Latent:
    """What the sliders show; InputError for numbers out of range, or where nothing is left."""
    method = held.settings.get("method", "directions")
    return held.latent(form.parse_strength(strength, method), form.parse_beta(beta))


def _edited(held: Held | None) -> Held:
    if held is None or held.made is None:
        raise InputError("There is no edit yet; type words and press Edit.")
    return held


def _album(held: Held) -> Any:
    pictures = [(place.thumb, place.title) for place in held.places]
    return gr.update(value=pictures, visible=len(pictures) > 1, selected_index=None)


def _look(held: Held, strength: float, beta: float, generator: Generator) -> Job[Outcome]:
    yield Step(0.2, "Rendering")
    _at(held, strength, beta)
    return session.seen(held, strength, _beta(held, beta), generator)


def _beta(held: Held, beta: float) -> float | None:
    """The disentanglement, for the one method that has it."""
    return beta if held.made is not None and held.made.beta is not None else None


def _save_png(held: Held, strength: float, beta: float, generator: Generator) -> Job[str]:
    return session.save_picture((yield from _look(held, strength, beta, generator)))


def _save_json(held: Held, strength: float, beta: float, generator: Generator) -> Job[str]:
    began = time.monotonic()
    outcome = yield from _look(held, strength, beta, generator)
    return downloads.save_json(session.facts(outcome, time.monotonic() - began), session.STEM)


def _save_sweep(
    kind: str, held: Held, strength: float, beta: float, generator: Generator
) -> Job[str]:
    """A film or a strip of the edit from weak to strong; directions also go the other way."""
    high = strength or STRENGTHS[held.settings["method"]].first
    low = -high if _beta(held, beta) is not None else 0.0
    count = work.STRIP if kind == "png" else None
    pictures = yield from work.sweep_pictures(
        lambda at: held.latent(at, beta), low, high, count, generator
    )
    name = f"{session.STEM}-sweep.{kind}"
    yield Step(0.95, f"Writing the {kind.upper()}")
    if kind == "png":
        return downloads.save_png(film.strip(pictures), held.settings, f"{session.STEM}-sweep")
    return downloads.save_file(work.written(pictures, kind), name)


TAB = Tab(
    key="styleclip",
    title="StyleCLIP",
    build=build,
    endpoints=(ENDPOINT,),
    warm=warm,
    css=views.CSS,
    tasks=(TASK,),
)
