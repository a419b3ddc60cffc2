"""What CLIP costs: every question of the tab, remembered and not, as Markdown.

    python -m benchmarks.clip                  clip-mini, and ViT-B/32 for scale
    python -m benchmarks.clip --models mini    clip-mini alone

Each row's baseline is the same answer without what the encoder or the index remembers, or without
batching, in the same process. ViT-B/32 has random weights: its times do not depend on them.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import app
from benchmarks.measure import (
    machine,
    median_seconds,
    megabytes,
    milliseconds,
    resident,
    seconds_of,
    table_head,
    table_row,
)

app.prepare_process(offline=True)  # before what follows imports torch, Gradio and the hub's client

import open_clip  # noqa: E402
import torch  # noqa: E402
from PIL import Image, ImageChops  # noqa: E402

from demos.clip_pictures import collection, examples  # noqa: E402
from models.catalog import CATALOG  # noqa: E402
from models.clip.encoder import ClipEncoder  # noqa: E402
from models.clip.recognition import classify, index_pictures, search  # noqa: E402
from models.clip.relevance import explain  # noqa: E402
from models.jobs import run_to_end  # noqa: E402
from models.registry import Registry  # noqa: E402

HEADER = ("what", "median", "baseline", "median", "ratio")
LABELS = 20


@dataclass(frozen=True)
class Row:
    """Seconds of a piece of work, and of the baseline it is compared to."""

    what: str
    seconds: float
    baseline: str = ""
    baseline_seconds: float | None = None

    def cells(self) -> tuple[str, ...]:
        """The cells of `HEADER`; the ratio says how many times cheaper than the baseline."""
        if self.baseline_seconds is None:
            return self.what, milliseconds(self.seconds), "", "", ""
        ratio = f"{self.baseline_seconds / self.seconds:.3g}x"
        baseline = milliseconds(self.baseline_seconds)
        return self.what, milliseconds(self.seconds), self.baseline, baseline, ratio


class Fresh:
    """Pictures and words that no encoder has seen yet."""

    def __init__(self) -> None:
        with Image.open(next(iter(examples().values())).path) as photo:
            self._photo = photo.convert("RGB")
        self._pictures, self._words = itertools.count(1), itertools.count(1)

    def picture(self) -> Image.Image:
        """The same photograph, shifted as it never was before."""
        down, right = divmod(next(self._pictures), self._photo.width)
        return ImageChops.offset(self._photo, right, down)

    def pictures(self, count: int) -> list[Image.Image]:
        return [self.picture() for _ in range(count)]

    def words(self, count: int) -> list[str]:
        return [f"a photo of thing number {next(self._words)}" for _ in range(count)]


@dataclass(frozen=True)
class Subject:
    """A model to measure: how often each piece of work is repeated, how many pictures searched."""

    load: Callable[[], ClipEncoder]
    repeats: int
    pictures: int


def rows(clip: ClipEncoder, subject: Subject) -> Iterator[Row]:
    """Everything that is measured on one model."""
    fresh = Fresh()
    yield from encoding_rows(clip, fresh, subject.repeats)
    yield from question_rows(clip, fresh, subject.repeats)
    yield search_row(clip, fresh, subject)


def encoding_rows(clip: ClipEncoder, fresh: Fresh, repeats: int) -> Iterator[Row]:
    """One and many pictures and texts, new and remembered."""
    picture, words = fresh.picture(), fresh.words(100)
    work: Mapping[str, Callable[[], object]] = {
        "picture": lambda: clip.encode_image([fresh.picture()]),
        "pictures": lambda: clip.encode_image(fresh.pictures(16)),
        "seen": lambda: clip.encode_image([picture]),
        "text": lambda: clip.encode_text(fresh.words(1)),
        "texts": lambda: clip.encode_text(fresh.words(100)),
        "read": lambda: clip.encode_text(words),
    }
    cost = {name: median_seconds(each, repeats) for name, each in work.items()}
    yield Row("encode 1 picture", cost["picture"])
    yield Row("encode 16 pictures", cost["pictures"], "one by one", 16 * cost["picture"])
    yield Row("1 picture seen before", cost["seen"], "new", cost["picture"])
    yield Row("encode 1 text", cost["text"])
    yield Row("encode 100 texts", cost["texts"], "one by one", 100 * cost["text"])
    yield Row("100 texts read before", cost["read"], "new", cost["texts"])


def question_rows(clip: ClipEncoder, fresh: Fresh, repeats: int) -> Iterator[Row]:
    """Recognise and Why."""
    picture, words = fresh.picture(), fresh.words(LABELS)

    def ask(image: Callable[[], Image.Image], labels: Callable[[], Sequence[str]]) -> float:
        return median_seconds(lambda: run_to_end(classify(clip, image(), labels())), repeats)

    new = ask(fresh.picture, lambda: fresh.words(LABELS))
    labels_only = ask(lambda: picture, lambda: fresh.words(LABELS))
    picture_only = ask(fresh.picture, lambda: words)
    what = f"classify, {LABELS} labels:"
    yield Row(f"{what} new labels, same picture", labels_only, "all new", new)
    yield Row(f"{what} new picture, same labels", picture_only, "all new", new)
    yield Row(f"{what} nothing new", ask(lambda: picture, lambda: words), "all new", new)
    why = median_seconds(lambda: run_to_end(explain(clip, fresh.picture(), words, 0)), repeats)
    yield Row("relevance map", why, "new picture, same labels", picture_only)


def search_row(clip: ClipEncoder, fresh: Fresh, subject: Subject) -> Row:
    """A query against the embedded pictures, and against as many that must be encoded first."""
    pictures = list(zip(collection().names, collection().tiles))[: subject.pictures]
    run_to_end(index_pictures(clip, pictures[:1], 1))  # a kernel's first run is no measurement
    index = run_to_end(index_pictures(clip, pictures, len(pictures)))

    def ask() -> object:
        return run_to_end(search(clip, index, fresh.words(1)[0]))

    def start_anew() -> object:
        moved = [(name, ImageChops.offset(tile, 1, 0)) for name, tile in pictures]
        encoded = run_to_end(index_pictures(clip, moved, len(moved)))
        return run_to_end(search(clip, encoded, fresh.words(1)[0]))

    what = f"search {len(index)} pictures, new query"
    return Row(
        what, median_seconds(ask, subject.repeats), "encode them first", seconds_of(start_anew)
    )


def mini() -> ClipEncoder:
    """The embedded model."""
    registry = Registry(CATALOG, device="cpu", offline=True)
    with registry.lease("clip-mini") as clip:
        encoder: ClipEncoder = clip
    return encoder


def vit_b_32() -> ClipEncoder:
    """OpenAI's architecture with random weights."""
    model = open_clip.create_model("ViT-B-32-quickgelu", pretrained=None)
    config = open_clip.transform.PreprocessCfg(**model.visual.preprocess_cfg)
    transform = open_clip.transform.image_transform_v2(config, is_train=False)
    tokenize = open_clip.get_tokenizer("ViT-B-32-quickgelu")
    return ClipEncoder("ViT-B/32, random weights", model, tokenize, transform)


MODELS: Mapping[str, Subject] = {
    "mini": Subject(mini, repeats=15, pictures=400),
    "vit-b-32": Subject(vit_b_32, repeats=3, pictures=64),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Print a table per model."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.clip", description="Measure what CLIP costs."
    )
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    names = parser.parse_args(argv).models
    print(machine(), f"PyTorch {torch.__version__} on {torch.get_num_threads()} threads.")
    for name in names:
        print_table(MODELS[name])
    return 0


def print_table(subject: Subject) -> None:
    """One model's table, row by row, and what it holds in memory."""
    before = resident()
    clip = subject.load()
    print(f"\n**{clip.name}**, {clip.image_size} x {clip.image_size} pixels\n")
    print(table_head(HEADER))
    for row in rows(clip, subject):
        print(table_row(row.cells()), flush=True)
    print(
        f"\nMemory: {megabytes(clip.nbytes())} of weights, "
        f"the process {megabytes(before)} before and {megabytes(resident())} after."
    )


if __name__ == "__main__":
    sys.exit(main())
