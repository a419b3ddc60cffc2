"""The CLIP tab: Recognise, Why, Match and Search, each a sub-tab over one model selector."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from demos import clip_views as views
from demos.clip_pictures import (
    CREDIT,
    EXAMPLES_DIR,
    collection,
    collection_size,
    examples,
    label_lists,
)
from demos.ui import badge, downloads, share
from demos.ui.controls import (
    LIVE,
    QUIET,
    note,
    open_view,
    run_button,
    stage,
    stop_button,
    stops,
)
from demos.ui.examples import follows_link, gallery
from demos.ui.howto import how_it_works
from demos.ui.images import open_image, picture
from demos.ui.jobs import DEVICE_EVENT, explained
from demos.ui.model import ask, model_choice, ran
from demos.ui.tab import Atelier, Tab
from demos.ui.text import parse_labels, parse_line
from models.catalog import CATALOG, ModelRow
from models.clip.prompts import TEMPLATE_SETS
from models.clip.recognition import (
    TEMPERATURES,
    Matching,
    PictureIndex,
    Ranking,
    Recognition,
    classify,
    index_pictures,
    match,
    search,
)
from models.clip.relevance import RelevanceMap, blend, explain, resized
from models.errors import InputError
from models.jobs import Job, Step

MODELS: dict[str, ModelRow] = {name: row for name, row in CATALOG.items() if row.task == "clip"}
FIRST = "clip-mini"
MAX_MATCH = 12
MAX_UPLOADS = 500
MAX_TOP = 50
# Long sides, pixels: what Why draws on, and what is kept and encoded of an uploaded collection.
WHY_SIDE, THUMB_SIDE = 768, 256
INDEX_DEADLINE_S = 1800.0  # 500 pictures by the largest model on a laptop's CPU
_START = "cat-and-dog"
_CAPTIONS = (
    "a cat and a dog\na sunflower\na pizza\na rocket near the moon\n"
    "a guitar and a violin\na pizza, an apple and a banana\nan octopus and a fish\n"
    "a bicycle and a car"
)
_MATCH_EXAMPLES = (
    "cat-and-dog", "sunflower", "pizza", "lift-off", "concert", "picnic", "under-the-sea",
    "on-the-road",
)  # fmt: skip


@dataclass(frozen=True)
class Subject:
    """What Recognise shares with Why: the picture, the labels and how they are put into words."""

    image: gr.Image
    labels: gr.Textbox
    templates: gr.Radio
    fields: tuple[share.Field, ...]


@dataclass(frozen=True)
class Explanation:
    """A relevance map with a small copy of its picture, so that opacity needs no model."""

    path: str
    heat: RelevanceMap
    settings: dict[str, Any]


@dataclass(frozen=True)
class Album:
    """A visitor's own pictures, encoded: `source` tells whether it is still the same upload."""

    source: tuple[str, ...]
    index: PictureIndex
    thumbs: tuple[str, ...]
    unread: tuple[str, ...]


def build(atelier: Atelier) -> list[share.Field]:
    """Draw the tab and return what its link carries."""
    gr.set_static_paths([EXAMPLES_DIR])
    model = model_choice(MODELS, FIRST)
    with gr.Tabs(selected="recognise") as tabs:
        with gr.Tab("Recognise", id="recognise") as recognise_tab:
            subject = _build_recognise(atelier, model)
        with gr.Tab("Why", id="why") as why_tab:
            why_field = _build_why(atelier, model, why_tab, subject)
        with gr.Tab("Match", id="match") as match_tab:
            match_field = _build_match(atelier, model)
        with gr.Tab("Search", id="search") as search_tab:
            search_field = _build_search(atelier, model)
    how_it_works(
        views.diagram(),
        views.HOW,
        paper="Radford et al. 2021, Learning Transferable Visual Models From Natural Language "
        "Supervision",
        url="https://arxiv.org/abs/2103.00020",
    )
    view = open_view(tabs, (recognise_tab, why_tab, match_tab, search_tab))
    return [
        share.Field("view", view, share.choice("recognise", "why", "match", "search")),
        share.Field("model", model, share.choice(*MODELS)),
        *subject.fields,
        why_field,
        match_field,
        search_field,
    ]


def warm(atelier: Atelier, model: str) -> None:
    """Recognise an example once, so that every kernel and cache is warm."""
    first = next(iter(examples().values()))
    for _ in ask(atelier, model, lambda c: classify(c, open_image(first.path), ["a cat"])):
        pass


# --------------------------------------------------------------------------- shared parts


def _stage(text: str) -> gr.HTML:
    return stage(views.empty(text))


def _about(templates: str) -> str:
    return escape(TEMPLATE_SETS[templates].explanation)


def _badge(atelier: Atelier, model: str, seconds: float) -> str:
    return ran(atelier, MODELS[model], seconds)


def _download_buttons() -> tuple[gr.DownloadButton, gr.DownloadButton]:
    with gr.Row():
        png = gr.DownloadButton("PNG", size="sm", interactive=False, min_width=80)
        json = gr.DownloadButton("JSON", size="sm", interactive=False, min_width=80)
    return png, json


def _ready(path: str) -> gr.DownloadButton:
    return gr.DownloadButton(value=path, interactive=True)


def _temperature() -> gr.Slider:
    low, high = TEMPERATURES
    return gr.Slider(
        low, high, 1.0, step=0.1, label="Temperature", min_width=250,
        info="1 as trained; lower is more decided, higher more even.",
    )  # fmt: skip


# ------------------------------------------------------------------------------ Recognise


def _build_recognise(atelier: Atelier, model: gr.Dropdown) -> Subject:
    with gr.Row(equal_height=False):
        with gr.Column(scale=1, min_width=320):
            image = picture("Picture", value=examples()[_START].path)
            samples = gallery(examples)
            credit = note(escape(examples()[_START].credit))
            chosen = gr.Textbox(_START, visible="hidden")
        with gr.Column(scale=1, min_width=320):
            labels = gr.Textbox(
                examples()[_START].labels,
                label="Labels",
                info="Any words, one per line or separated by commas.",
                lines=3,
                max_lines=8,
            )
            ready = gr.Dropdown(
                list(label_lists()), value=None, label="Ready-made labels", filterable=False
            )
            templates = gr.Radio(
                [(row.title, name) for name, row in TEMPLATE_SETS.items()],
                value="one",
                label="Prompt templates",
            )
            about = note(_about("one"))
            with gr.Row():
                run = run_button("Recognise")
                stop = stop_button()
            status = badge.status_line()
            answer = _stage("Probabilities appear here.")
            with gr.Row():
                temperature = _temperature()
                top = gr.Slider(
                    1, MAX_TOP, 10, step=1, label="Top k", info="How many labels are shown.",
                    min_width=250,
                )  # fmt: skip
            png, json = _download_buttons()
            with gr.Accordion("Result as JSON", open=False):
                raw = gr.JSON(show_label=False)
    state = gr.State()

    @explained
    def recognise(
        path: str | None, text: str, model: str, templates: str, temperature: float, top: int
    ) -> Iterator[Any]:
        photo, words = open_image(path), parse_labels(text)

        def question(clip: Any) -> Job[Recognition]:
            return classify(clip, photo, words, templates=templates, temperature=temperature)

        for event in ask(atelier, model, question):
            if isinstance(event, Step):
                yield gr.skip(), badge.progress(event), gr.skip(), gr.skip()
            else:
                result = replace(event.result, seconds=event.seconds)
                line = _badge(atelier, model, event.seconds)
                yield views.bars(result, int(top)), line, result, result.to_json()

    @explained
    def redraw(result: Recognition | None, temperature: float, top: int) -> Any:
        if result is None:
            return gr.skip(), gr.skip(), gr.skip()
        result = replace(result, temperature=temperature)
        return views.bars(result, int(top)), result, result.to_json()

    @explained
    def save(path: str | None, result: Recognition | None, top: int) -> Any:
        if result is None or path is None:
            return gr.skip(), gr.skip()
        drawn = views.draw_bars(open_image(path), result, int(top))
        facts = result.to_json()
        return (
            _ready(downloads.save_png(drawn, facts, "clip-recognise")),
            _ready(downloads.save_json(facts, "clip-recognise")),
        )

    inputs = [image, labels, model, templates, temperature, top]
    event = gr.on(
        [run.click, image.upload, labels.submit], recognise, inputs, [answer, status, state, raw],
        api_name="clip_classify", show_progress="hidden", **DEVICE_EVENT,
    )  # fmt: skip
    event.success(save, [image, state, top], [png, json], **QUIET)
    stops(stop, event, status)
    live = gr.on(
        [temperature.input, top.input], redraw, [state, temperature, top], [answer, state, raw],
        **LIVE,
    )  # fmt: skip
    live.success(save, [image, state, top], [png, json], **LIVE)

    def choose(index: int) -> Any:
        example = list(examples().values())[index]
        return example.path, example.labels, example.name, escape(example.credit)

    picked = samples.click(choose, samples, [image, labels, chosen, credit], **QUIET)
    again = picked.success(
        recognise, inputs, [answer, status, state, raw], api_visibility="private",
        show_progress="hidden", **DEVICE_EVENT,
    )  # fmt: skip
    again.success(save, [image, state, top], [png, json], **QUIET)
    follows_link(chosen, image, credit, examples)
    ready.input(_ready_labels, ready, labels, **QUIET)
    templates.change(_about, templates, about, **QUIET)
    fields = (
        share.Field("templates", templates, share.choice(*TEMPLATE_SETS)),
        share.Field("labels", labels, share.text(3000)),
        share.Field("temperature", temperature, share.number(*TEMPERATURES)),
        share.Field("top", top, share.number(1, MAX_TOP)),
        share.Field("example", chosen, share.choice(*examples())),
    )
    return Subject(image, labels, templates, fields)


def _ready_labels(title: str | None) -> Any:
    return ", ".join(label_lists()[title]) if title else gr.skip()


# ------------------------------------------------------------------------------------ Why


def _build_why(atelier: Atelier, model: gr.Dropdown, tab: gr.Tab, subject: Subject) -> share.Field:
    with gr.Row(equal_height=False):
        with gr.Column(scale=1, min_width=320):
            own = picture("Picture")
            label = gr.Dropdown(
                [], label="Explain this label", allow_custom_value=True,
                info="From Recognise, or type your own; the others are what it is told apart from.",
            )  # fmt: skip
            with gr.Row():
                run = run_button("Show why")
                stop = stop_button()
            status = badge.status_line()
        with gr.Column(scale=1, min_width=320):
            heat = gr.Image(
                label="What speaks for it", interactive=False, format="jpeg", height=420,
                buttons=["fullscreen"],
            )  # fmt: skip
            opacity = gr.Slider(0, 1, 0.6, step=0.05, label="Opacity of the map")
            png, json = _download_buttons()
    state = gr.State()

    def arrive(path: str | None, text: str, current: str | None) -> Any:
        try:
            words = parse_labels(text)
        except InputError:
            words = []
        value = current if current in words else next(iter(words), None)
        return path, gr.Dropdown(choices=words, value=value)

    @explained
    def why(
        path: str | None, chosen: str | None, text: str, model: str, templates: str, opacity: float
    ) -> Iterator[Any]:
        photo = open_image(path)
        word = parse_line(chosen, what="the label to explain")
        words = list(dict.fromkeys([word, *(parse_labels(text) if text.strip() else [])]))

        def question(clip: Any) -> Job[RelevanceMap]:
            return explain(clip, photo, words, 0, templates=templates)

        for event in ask(atelier, model, question):
            if isinstance(event, Step):
                yield gr.skip(), badge.progress(event), gr.skip()
            else:
                settings = {"model": model, "label": word, "labels": words, "templates": templates}
                result = _explanation(photo, event.result, settings)
                line = _badge(atelier, model, event.seconds)
                yield _blended(result, opacity), line, result

    @explained
    def mix(result: Explanation | None, opacity: float) -> Any:
        return gr.skip() if result is None else _blended(result, opacity)

    @explained
    def save(result: Explanation | None, opacity: float) -> Any:
        if result is None:
            return gr.skip(), gr.skip()
        facts = {**result.settings, "opacity": opacity}
        grid = {"grid": result.heat.grid.round(4).tolist(), "box": list(result.heat.box)}
        return (
            _ready(downloads.save_png(_blended(result, opacity), facts, "clip-why")),
            _ready(downloads.save_json({**facts, **grid}, "clip-why")),
        )

    tab.select(arrive, [subject.image, subject.labels, label], [own, label], **QUIET)
    inputs = [own, label, subject.labels, model, subject.templates, opacity]
    event = gr.on(
        [run.click, label.select], why, inputs, [heat, status, state],
        api_visibility="private", show_progress="hidden", **DEVICE_EVENT,
    )  # fmt: skip
    event.success(save, [state, opacity], [png, json], **QUIET)
    stops(stop, event, status)
    opacity.input(mix, [state, opacity], heat, **LIVE)
    opacity.release(save, [state, opacity], [png, json], **QUIET)
    return share.Field("why", label, share.text(200))


def _explanation(photo: Image.Image, heat: RelevanceMap, settings: dict[str, Any]) -> Explanation:
    factor = min(1.0, WHY_SIDE / max(photo.size))
    small = photo.resize([max(1, round(side * factor)) for side in photo.size])
    return Explanation(downloads.save_jpeg(small, "picture"), resized(heat, factor), settings)


def _blended(result: Explanation, opacity: float) -> Image.Image:
    with Image.open(result.path) as small:
        return blend(small, result.heat, opacity)


# ---------------------------------------------------------------------------------- Match


def _build_match(atelier: Atelier, model: gr.Dropdown) -> share.Field:
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=320):
            pictures = gr.Gallery(
                [(examples()[name].path, examples()[name].title) for name in _MATCH_EXAMPLES],
                label=f"Pictures, up to {MAX_MATCH}",
                interactive=True,
                type="filepath",
                file_types=["image"],
                columns=4,
                height=280,
                object_fit="cover",
                buttons=[],
                elem_classes="clip-gallery",
            )
            note(escape(CREDIT))
            captions = gr.Textbox(
                _CAPTIONS,
                label=f"Captions, up to {MAX_MATCH}",
                info="One per line.",
                lines=8,
                max_lines=12,
            )
            with gr.Row():
                run = run_button("Match")
                stop = stop_button()
            status = badge.status_line()
        with gr.Column(scale=3, min_width=320):
            normalise = gr.Radio(
                [("Softmax over rows", "rows"), ("Softmax over columns", "columns"),
                 ("Raw cosine", "cosine")],
                value="rows",
                label="Numbers",
            )  # fmt: skip
            answer = _stage("The similarity matrix appears here.")
            temperature = _temperature()
            png, json = _download_buttons()
            with gr.Accordion("Result as JSON", open=False):
                raw = gr.JSON(show_label=False)
    state = gr.State()

    @explained
    def compare(
        items: list[tuple[str, str | None]] | None, text: str, model: str, temperature: float,
        normalise: str,
    ) -> Iterator[Any]:  # fmt: skip
        opened = _open_gallery(items)
        words = parse_labels(text, maximum=MAX_MATCH)

        def question(clip: Any) -> Job[Matching]:
            return match(clip, opened, words, temperature=temperature, normalise=normalise)

        for event in ask(atelier, model, question):
            if isinstance(event, Step):
                yield gr.skip(), badge.progress(event), gr.skip(), gr.skip()
            else:
                result = replace(event.result, seconds=event.seconds)
                thumbs = [views.data_uri(photo) for _, photo in opened]
                line = _badge(atelier, model, event.seconds)
                drawn = views.matrix(result, thumbs, normalise)
                yield drawn, line, (result, thumbs), result.to_json()

    @explained
    def redraw(held: tuple[Matching, list[str]] | None, temperature: float, how: str) -> Any:
        if held is None:
            return gr.skip(), gr.skip(), gr.skip()
        result, thumbs = replace(held[0], temperature=temperature, normalise=how), held[1]
        return views.matrix(result, thumbs, how), (result, thumbs), result.to_json()

    @explained
    def save(held: tuple[Matching, list[str]] | None) -> Any:
        if held is None:
            return gr.skip(), gr.skip()
        result, thumbs = held
        drawn = views.draw_matrix(result, thumbs, result.normalise)
        facts = result.to_json()
        return (
            _ready(downloads.save_png(drawn, facts["settings"], "clip-match")),
            _ready(downloads.save_json(facts, "clip-match")),
        )

    inputs = [pictures, captions, model, temperature, normalise]
    event = run.click(
        compare, inputs, [answer, status, state, raw], api_name="clip_match",
        show_progress="hidden", **DEVICE_EVENT,
    )  # fmt: skip
    event.success(save, state, [png, json], **QUIET)
    stops(stop, event, status)
    live = gr.on(
        [temperature.input, normalise.input], redraw, [state, temperature, normalise],
        [answer, state, raw], **LIVE,
    )  # fmt: skip
    live.success(save, state, [png, json], **LIVE)
    return share.Field("captions", captions, share.text(2400))


def _open_gallery(items: Sequence[tuple[str, str | None]] | None) -> list[tuple[str, Image.Image]]:
    if not items:
        raise InputError("Give at least one picture: drop some into the gallery.")
    if len(items) > MAX_MATCH:
        raise InputError(f"These are {len(items)} pictures; match at most {MAX_MATCH} at once.")
    return [(caption or Path(path).stem, open_image(path)) for path, caption in items]


# --------------------------------------------------------------------------------- Search


def _build_search(atelier: Atelier, model: gr.Dropdown) -> share.Field:
    embedded = f"The collection ({collection_size()} pictures)"
    with gr.Row(equal_height=False):
        with gr.Column(scale=1, min_width=300):
            query = gr.Textbox(
                "a sailing boat", label="Query", info="Any words; Enter searches.",
                max_lines=1,
            )  # fmt: skip
            with gr.Row():
                run = run_button("Search")
                stop = stop_button()
            status = badge.status_line()
            files = gr.File(
                label=f"Your own pictures instead, up to {MAX_UPLOADS}",
                file_count="multiple",
                file_types=["image"],
                height=180,
            )
            folder = gr.UploadButton("Upload a folder", file_count="directory", size="sm")
            top = gr.Slider(
                1, MAX_TOP, 12, step=1, label="Top k", info="How many pictures are shown."
            )
            png, json = _download_buttons()
            with gr.Accordion("Result as JSON", open=False):
                raw = gr.JSON(show_label=False)
        with gr.Column(scale=2, min_width=320):
            found = gr.Gallery(
                label=embedded, columns=4, object_fit="contain", height="auto", interactive=False,
                buttons=["download", "fullscreen"], elem_classes=["clip-gallery", "wide"],
            )  # fmt: skip
            note(escape(CREDIT))
    album, state = gr.State(), gr.State()

    @explained
    def find(
        text: str, model: str, top: int, paths: list[str] | None = None, held: Album | None = None
    ) -> Iterator[Any]:  # fmt: skip
        wanted = parse_line(text, what="what to look for")
        source = tuple(paths or ())
        if len(source) > MAX_UPLOADS:
            raise InputError(f"These are {len(source)} files; give at most {MAX_UPLOADS} at once.")
        if held is not None and (held.source, held.index.model) != (source, model):
            held = None

        def question(clip: Any) -> Job[tuple[Ranking, Album | None]]:
            own = held
            if source and own is None:
                own = yield from _encode_album(clip, source)
            index = own.index if own else (yield from _encode_collection(clip))
            ranking = yield from search(clip, index, wanted)
            return ranking, own

        for event in ask(atelier, model, question, deadline_s=INDEX_DEADLINE_S):
            if isinstance(event, Step):
                yield (gr.skip(), badge.progress(event), *[gr.skip()] * 3)
            else:
                ranking, own = event.result
                ranking = replace(ranking, seconds=event.seconds)
                line = _badge(atelier, model, event.seconds) + _unread(own)
                title = f"{len(own.thumbs)} of your pictures" if own else embedded
                gallery = gr.Gallery(_ranked(ranking, own, int(top)), label=title)
                yield gallery, line, own, ranking, ranking.to_json()

    @explained
    def show(ranking: Ranking | None, own: Album | None, top: int) -> Any:
        return gr.skip() if ranking is None else _ranked(ranking, own, int(top))

    @explained
    def save(ranking: Ranking | None, own: Album | None, top: int) -> Any:
        if ranking is None:
            return gr.skip(), gr.skip()
        thumbs = [_thumb(index, own) for index in ranking.order[: int(top)]]
        facts = ranking.to_json()
        return (
            _ready(
                downloads.save_png(
                    views.draw_ranking(ranking, thumbs), facts["settings"], "clip-search"
                )
            ),
            _ready(downloads.save_json(facts, "clip-search")),
        )

    inputs = [query, model, top, files, album]
    event = gr.on(
        [run.click, query.submit], find, inputs, [found, status, album, state, raw],
        api_name="clip_search", show_progress="hidden", **DEVICE_EVENT,
    )  # fmt: skip
    event.success(save, [state, album, top], [png, json], **QUIET)
    stops(stop, event, status)
    top.input(show, [state, album, top], found, **LIVE)
    folder.upload(lambda paths: paths, folder, files, **QUIET)
    return share.Field("query", query, share.text(500))


def _encode_collection(clip: Any) -> Job[PictureIndex]:
    """The embedded pictures; the encoder remembers them, so only the first time takes long."""
    pictures = collection()
    return (
        yield from index_pictures(clip, zip(pictures.names, pictures.tiles), len(pictures.names))
    )


def _encode_album(clip: Any, paths: tuple[str, ...]) -> Job[Album]:
    """A visitor's pictures; what cannot be read is left out and named."""
    thumbs: list[str] = []
    unread: list[str] = []

    def opened() -> Iterator[tuple[str, Image.Image]]:
        for path in paths:
            try:
                photo = open_image(path)
            except InputError:
                unread.append(Path(path).name)
                continue
            photo.thumbnail((THUMB_SIDE, THUMB_SIDE))
            thumbs.append(downloads.save_jpeg(photo, "thumb"))
            yield Path(path).stem, photo

    index = yield from index_pictures(clip, opened(), len(paths))
    if not thumbs:
        raise InputError("None of these files is a picture we can read; give PNG, JPEG or WebP.")
    return Album(paths, index, tuple(thumbs), tuple(unread))


def _ranked(ranking: Ranking, own: Album | None, top: int) -> list[tuple[str | Image.Image, str]]:
    return [
        (
            own.thumbs[index] if own else collection().tiles[index],
            f"{score.cosine:.3f}  {score.label}",
        )
        for index, score in zip(ranking.order[:top], ranking.scores)
    ]


def _thumb(index: int, own: Album | None) -> Image.Image:
    if own is None:
        return collection().tiles[index]
    with Image.open(own.thumbs[index]) as thumb:
        return thumb.convert("RGB")


def _unread(own: Album | None) -> str:
    if own is None or not own.unread:
        return ""
    names = ", ".join(own.unread[:5]) + (" …" if len(own.unread) > 5 else "")
    return f'<div class="atelier-note">Left out, not readable: {escape(names)}</div>'


TAB = Tab(
    key="clip",
    title="CLIP",
    build=build,
    endpoints=("clip_classify", "clip_match", "clip_search"),
    warm=warm,
    css=views.CSS,
)
