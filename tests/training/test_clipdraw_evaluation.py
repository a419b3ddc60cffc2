"""The judge of drawings: what is asked, how ranks are read, and that mini's drawings are named."""

from dataclasses import replace

import pytest
from PIL import Image

from models.catalog import ASSETS, CATALOG
from models.clip.vocabulary import concept_names
from models.clipdraw.config import DrawConfig
from training import clipdraw_evaluation as evaluation
from training.clipdraw_evaluation import Task, Verdict

NAMED = ("strawberry", "cactus", "umbrella", "crab")


@pytest.fixture(scope="module")
def judge() -> evaluation.Judge:
    return evaluation.Judge()


def test_a_hundred_prompts_ask_for_known_answers_and_none_twice() -> None:
    tasks = evaluation.tasks()
    kinds = [task.kind for task in tasks]
    assert [kinds.count(kind) for kind in ("object", "colour", "face")] == [60, 20, 20]
    assert len({task.prompt for task in tasks}) == 100
    known = {*concept_names(), *evaluation.FACES}
    assert all(task.answer in known for task in tasks)
    assert all(task.colour in evaluation.COLOURS for task in tasks if task.kind == "colour")


def test_the_judge_is_not_among_the_models_that_draw() -> None:
    assert "clip-judge" not in CATALOG
    config = (ASSETS / "clip-judge" / "open_clip_config.json").read_text()
    assert "atelier_repvgg" in config, "another architecture than the critic's"


@pytest.mark.parametrize(("top", "share"), [(1, 25.0), (5, 50.0), (1000, 100.0)])
def test_shares_count_ranks(top: int, share: float) -> None:
    task = Task("object", "fish", "fish")
    verdicts = [Verdict(task, rank, (), None) for rank in (1, 5, 6, 900)]
    assert evaluation.shares(verdicts, top) == share


def test_ranks_agree_with_a_plain_comparison(judge: evaluation.Judge) -> None:
    picture = Image.effect_noise((64, 64), 80).convert("RGB")
    task = Task("colour", "a red fish", "fish", "red")
    verdict = judge.name(task, picture)
    image = judge.encoder.encode_image([picture])[0]
    better = sum(
        float(image @ judge.encoder.encode_text([name])[0])
        > float(image @ judge.encoder.encode_text(["fish"])[0])
        for name in judge.answers
    )
    assert verdict.rank == better + 1
    assert verdict.colour_right in (True, False)


def test_a_blank_sheet_is_not_named(judge: evaluation.Judge) -> None:
    blank = Image.new("RGB", (224, 224), "white")
    ranks = [judge.name(Task("object", name, name), blank).rank for name in NAMED]
    assert sum(rank <= 5 for rank in ranks) <= 1


def test_short_drawings_of_mini_are_named_by_the_judge(judge: evaluation.Judge) -> None:
    """Six prompts, 64 strokes, 100 steps; the full hundred is the evaluation."""
    config = replace(DrawConfig.mini(), steps=100, strokes=64, canvas=(128, 128))
    tasks = [Task("object", name, name) for name in NAMED]
    drawn = evaluation.draw_all([ASSETS / "clip-mini-critic"], config, tasks)
    verdicts = [
        judge.name(task, drawing.picture(224))
        for task, (drawing, _) in zip(tasks, drawn, strict=True)
    ]
    assert evaluation.shares(verdicts, 5) >= 50, [(v.task.prompt, v.rank, v.said) for v in verdicts]
    sheet = evaluation.contact_sheet([d.picture() for d, _ in drawn], verdicts)
    assert sheet.size == (1500, 1800)
