"""Can mini draw? A judge that never saw a drawing being made names 100 of them.

The judge (`assets/weights/clip-judge`) has another architecture, another seed and its own training
run, and no drawing is ever optimised against it. It chooses among the names of all concepts and the
avatar prompts below, about 1,600 answers.
"""

import statistics
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from PIL import Image, ImageDraw

from models.catalog import ASSETS
from models.clip import ClipEncoder, load_mini
from models.clip.vocabulary import concept_names
from models.clipdraw.config import DrawConfig
from models.clipdraw.critic import Augmentation
from models.clipdraw.drawing import Drawing, draw, picture_of, prompts_of
from models.clipdraw.seeding import random_strokes
from models.jobs import run_to_end
from training.clip_evaluation import Figure
from training.world.scenes import with_article

SHEET = ASSETS.parent / "readme" / "clipdraw-100.jpg"
CPU = torch.device("cpu")

# Held fixed before any drawing was looked at: everyday things with a shape of their own.
OBJECTS = (
    "strawberry", "banana", "pineapple", "carrot", "mushroom", "cactus", "sunflower", "tulip",
    "rose", "palm tree", "christmas tree", "maple leaf", "cat face", "dog face", "panda", "frog",
    "owl", "penguin", "fish", "octopus", "butterfly", "snail", "crab", "spider", "elephant",
    "giraffe", "whale", "pizza", "hamburger", "ice cream", "doughnut", "birthday cake", "wine glass",
    "teapot", "house", "castle", "rocket", "airplane", "sailboat", "automobile", "bus", "bicycle",
    "sun", "crescent moon", "rainbow", "cloud with rain", "snowman", "umbrella", "fire", "volcano",
    "guitar", "trumpet", "drum", "key", "scissors", "hammer", "light bulb", "alarm clock",
    "soccer ball", "crown",
)  # fmt: skip
COLOURED = (
    ("blue", "butterfly"), ("red", "balloon"), ("green", "frog"), ("yellow", "automobile"),
    ("purple", "grapes"), ("pink", "tulip"), ("orange", "fish"), ("blue", "umbrella"),
    ("red", "rose"), ("green", "cactus"), ("yellow", "banana"), ("purple", "octopus"),
    ("pink", "pig face"), ("brown", "teddy bear"), ("black", "top hat"), ("blue", "whale"),
    ("red", "mushroom"), ("green", "turtle"), ("orange", "basketball"), ("yellow", "crown"),
)  # fmt: skip
FACES = (
    "a person with glasses", "a person wearing sunglasses", "a person with a beard",
    "a person wearing a beanie", "a person wearing a wide-brimmed hat", "a smiling person",
    "a frowning person", "a person with long hair", "a person with short hair",
    "a person with curly hair", "a person with red hair", "a person with blond hair",
    "a person with black hair", "a person who is bald", "a person with dark skin",
    "a person with pale skin", "a person with red lipstick", "a person on a dark background",
    "a person with big round glasses", "an old person with a white beard",
)  # fmt: skip
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")


@dataclass(frozen=True)
class Task:
    """A prompt and the answer that counts; `kind` is "object", "colour" or "face"."""

    kind: str
    prompt: str
    answer: str
    colour: str = ""


def tasks() -> tuple[Task, ...]:
    """The 100 prompts, in the order of the contact sheet."""
    objects = [Task("object", name, name) for name in OBJECTS]
    coloured = [Task("colour", with_article(f"{c} {name}"), name, c) for c, name in COLOURED]
    faces = [Task("face", text, text) for text in FACES]
    return (*objects, *coloured, *faces)


@dataclass(frozen=True)
class Verdict:
    """What the judge said of one drawing: the rank of the right answer, 1 is best."""

    task: Task
    rank: int
    said: tuple[str, ...]
    colour_right: bool | None


class Judge:
    """Names drawings; its answers are all concepts and all avatar prompts."""

    def __init__(self, directory: Path = ASSETS / "clip-judge") -> None:
        self.encoder = load_mini(directory, CPU, torch.float32)
        self.answers = (*concept_names(), *FACES)
        self.texts = self.encoder.encode_text(list(self.answers))

    def name(self, task: Task, picture: Image.Image) -> Verdict:
        """Rank the right answer among all of them."""
        image = self.encoder.encode_image([picture])
        order = (image @ self.texts.T)[0].argsort(descending=True).tolist()
        rank = order.index(self.answers.index(task.answer)) + 1
        said = tuple(self.answers[i] for i in order[:3])
        return Verdict(task, rank, said, self._colour(task, image))

    def _colour(self, task: Task, image: torch.Tensor) -> bool | None:
        """Is the asked colour the likeliest of ten for this object?"""
        if not task.colour:
            return None
        texts = self.encoder.encode_text([with_article(f"{c} {task.answer}") for c in COLOURS])
        return COLOURS[int((image @ texts.T).argmax())] == task.colour


def draw_all(
    critics: Sequence[Path], config: DrawConfig, chosen: Sequence[Task], workers: int = 2
) -> list[tuple[Drawing, float]]:
    """Draw every task with its place as seed; seconds are a process's own CPU time.

    Args:
        critics: folders of the encoders whose scores are averaged.
    """
    jobs = [(tuple(critics), replace(config, seed=i), t.prompt) for i, t in enumerate(chosen)]
    with ProcessPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        return list(pool.map(_draw_one, jobs))


def _draw_one(job: tuple[tuple[Path, ...], DrawConfig, str]) -> tuple[Drawing, float]:
    folders, config, prompt = job
    encoders = [_encoder(folder) for folder in folders]
    began = time.process_time()
    drawing = run_to_end(draw(encoders, prompts_of(prompt), config, words=concept_names()))
    return drawing, time.process_time() - began


_loaded: dict[Path, ClipEncoder] = {}  # of one worker process, which loads a critic once


def _encoder(folder: Path) -> ClipEncoder:
    if folder not in _loaded:
        _loaded[folder] = load_mini(folder, CPU, torch.float32)
    return _loaded[folder]


def shares(verdicts: Sequence[Verdict], top: int) -> float:
    """Percent of verdicts with the right answer among the best `top`."""
    return 100 * statistics.fmean(v.rank <= top for v in verdicts)


def evaluate(directory: Path) -> Iterator[Figure]:
    """All figures of the critic in a folder; saves the contact sheet of all 100 drawings."""
    judge, chosen = Judge(), tasks()
    drawn = draw_all([directory], DrawConfig.mini(), chosen)
    verdicts = [judge.name(t, d.picture()) for t, (d, _) in zip(chosen, drawn, strict=True)]
    contact_sheet([d.picture() for d, _ in drawn], verdicts).save(SHEET, quality=82)
    yield Figure("judge's top-5, 100 drawings", shares(verdicts, 5), 40.0)
    yield Figure("judge's top-1", shares(verdicts, 1), 20.0)
    for kind, what in (("object", "objects"), ("colour", "coloured objects"), ("face", "avatars")):
        of_kind = [v for v in verdicts if v.task.kind == kind]
        yield Figure(f"top-5, {len(of_kind)} {what}", shares(of_kind, 5), None)
        yield Figure(f"top-1, {len(of_kind)} {what}", shares(of_kind, 1), None)
    right = [v.colour_right for v in verdicts if v.colour_right is not None]
    yield Figure("the asked colour first of ten", 100 * statistics.fmean(right), None)
    seconds = [s for _, s in drawn]
    yield Figure("seconds a drawing, one thread, median", statistics.median(seconds), 60, "s", True)
    yield Figure("the slowest", max(seconds), 60.0, "s", at_most=True)
    yield from _baselines(directory, judge, chosen)


def _baselines(directory: Path, judge: Judge, chosen: Sequence[Task]) -> Iterator[Figure]:
    """The same strokes without augmentation, with the unhardened critic, and not optimised."""
    plain = replace(DrawConfig.mini(), augmentation=Augmentation.none(), blur=0.0)
    recogniser = ASSETS / "clip-mini"
    for name, critic, config, some in (
        ("without augmentation", directory, plain, chosen),
        ("unhardened clip-mini without augmentation", recogniser, plain, chosen),
        ("unhardened clip-mini with augmentation", recogniser, DrawConfig.mini(), chosen[::4]),
    ):
        drawn = draw_all([critic], config, some)
        said = [judge.name(t, d.picture()) for t, (d, _) in zip(some, drawn, strict=True)]
        yield Figure(f"top-5, {name}, {len(some)} drawings", shares(said, 5), None)
        yield Figure(f"top-1, {name}, {len(some)} drawings", shares(said, 1), None)
    config, verdicts = DrawConfig.mini(), []
    for place, task in enumerate(chosen):
        generator = torch.Generator().manual_seed(place)
        strokes = random_strokes(config.strokes, config.canvas, config.half_width, generator)
        verdicts.append(judge.name(task, picture_of(strokes, config.background)))
    yield Figure("top-5, random strokes", shares(verdicts, 5), 2.0, at_most=True)


def contact_sheet(pictures: Sequence[Image.Image], verdicts: Sequence[Verdict]) -> Image.Image:
    """Ten by ten drawings with their prompts and the judge's rank, good and bad alike."""
    side, foot = 150, 30
    sheet = Image.new("RGB", (10 * side, 10 * (side + foot)), "white")
    pen = ImageDraw.Draw(sheet)
    for place, (picture, verdict) in enumerate(zip(pictures, verdicts, strict=True)):
        x, y = place % 10 * side, place // 10 * (side + foot)
        sheet.paste(picture.resize((side - 4, side - 4), Image.Resampling.LANCZOS), (x + 2, y + 2))
        colour = (20, 120, 60) if verdict.rank <= 5 else (150, 40, 40)
        pen.text((x + 4, y + side - 2), verdict.task.prompt[:26], (20, 24, 40))
        pen.text((x + 4, y + side + 11), f"rank {verdict.rank}: {verdict.said[0]}"[:26], colour)
    return sheet
