"""Training vild-mini: what a row may know, lessons made once, runs that resume, and a distillation
small enough for a test."""

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from unittest import mock

import pytest
import torch
from torch.nn import functional as F
from torchvision.ops import roi_align

from models.catalog import ASSETS, TEACHER
from models.clip.encoder import ClipEncoder, load_mini
from models.vild.checkpoints import check_teacher, load_vild, read_base_names
from models.vild.head import SHORTCUT
from models.vild.losses import Losses
from tests.detection_support import few_known_concepts
from training import detection_shards, vild
from training.detection_shards import Scenes
from training.vild import LESSONS, ROWS, Lessons, Names, Trainer, VildTraining
from training.world.detection import is_novel

pytestmark = pytest.mark.usefixtures("one_thread")

SIZE, PICTURES, STEPS = 96, 24, 120
SMOKE = replace(VildTraining.smoke(), size=SIZE)


@pytest.fixture(scope="module")
def small_world() -> Iterator[None]:
    """Few sprites, their concepts, and shards of few pictures."""
    with few_known_concepts(), mock.patch.object(detection_shards, "SHARD", PICTURES):
        yield


@pytest.fixture(scope="module")
def clip() -> ClipEncoder:
    return load_mini(ASSETS / TEACHER, torch.device("cpu"), torch.float32)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@dataclass(frozen=True)
class Run:
    """A finished small training of the ensemble, its steps, and how well it named novel objects of
    pictures that are not in it, before and after."""

    text: Trainer
    lessons: Lessons
    trainer: Trainer
    losses: list[Losses]
    before: float
    after: float


@pytest.fixture(scope="module")
def run(one_thread: None, small_world: None, clip: ClipEncoder, cache: Path) -> Run:
    """The order of `python -m training.vild`: boxes first, whose proposals the teacher looks at.

    The ensemble starts from random weights, or it would know names before it was taught any.
    """
    plan = replace(SMOKE, image_weight=0.0, steps=8)
    text = Trainer(plan, clip, cache / "text", None, cache)
    for _ in text.train():
        pass
    lessons = Lessons(text.averaged(), clip, "text", cache)
    plan = replace(SMOKE, ensemble=True, steps=STEPS, rate=3e-3)
    with mock.patch.object(vild, "start_at_clip"):
        trainer = Trainer(plan, clip, cache / "ensemble", lessons, cache)
    before = novel_named(trainer, clip)
    losses = list(trainer.train())
    return Run(text, lessons, trainer, losses, before, novel_named(trainer, clip))


def novel_places(names: Names) -> list[int]:
    return [place for place, concept in enumerate(names.concepts) if is_novel(concept)]


@torch.no_grad()
def novel_named(trainer: Trainer, clip: ClipEncoder) -> float:
    """Which share of the novel objects of an unseen shard, in their true boxes, the imitation gives
    its own name among all novel ones."""
    scenes, _ = trainer.shard(1)
    novel = torch.tensor(novel_places(trainer.names))
    text = clip.encode_text([trainer.names.concepts[place].name for place in novel])
    network = trainer.averaged().eval()
    levels = network.pyramid([stage.float() for stage in scenes.stages])
    found = network.imitations(levels, scenes.boxes)
    concept = torch.cat(scenes.concept)
    asked = torch.isin(concept, novel)
    named = novel[(found[asked] @ text.T).argmax(1)]
    return float((named == concept[asked]).float().mean())


# ------------------------------------------------------------------------------------ distillation


def test_the_imitation_comes_nearer_to_the_teacher(run: Run) -> None:
    distance = [float(losses.image.detach()) for losses in run.losses]
    assert len(distance) == STEPS
    assert sum(distance[-5:]) < 0.8 * sum(distance[:5])


def test_novel_objects_are_named_above_chance_afterwards(run: Run) -> None:
    """Although no box and no name of theirs was in the training."""
    chance = 1 / len(novel_places(run.trainer.names))
    assert run.after > 2 * chance
    assert run.after > run.before


@pytest.mark.parametrize(("side", "view"), [(72, 1.0), (48, 1.5), (24, 1.5)])
def test_a_training_starts_where_clip_names_regions_by_its_own_projection(
    clip: ClipEncoder, cache: Path, small_world: None, side: int, view: float
) -> None:
    """In the view in which the region is nearest to 72 pixels."""
    trainer = Trainer(replace(SMOKE, ensemble=True), clip, cache / "start", None, cache)
    scenes, _ = trainer.shard(0)
    network = trainer.vild.eval()
    boxes = torch.tensor([[8.0, 10, 8 + side, 10 + side]])
    stages = [stage[:1].float() for stage in scenes.stages]
    with torch.no_grad():
        regions = network.regions(network.pyramid(stages), [boxes])
        projection = clip.model.state_dict()["visual.head.proj.weight"]
        last = stages[2 + network.config.views.index(view)]
        cells = roi_align(last, [boxes * view], SHORTCUT, 1 / 32, sampling_ratio=1).mean((2, 3))
        expected = F.normalize(cells @ projection.T, dim=1)
    torch.testing.assert_close(regions.embeddings, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(regions.image_embeddings, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("term", ["objectness", "words", "masks"])
def test_what_is_learnt_beside_it_falls_too(run: Run, term: str) -> None:
    values = [float(getattr(losses, term).detach()) for losses in run.losses]
    assert sum(values[-5:]) < sum(values[:5])


def test_the_frozen_tower_stays_as_it_is(run: Run, clip: ClipEncoder) -> None:
    assert not any(p.requires_grad for p in run.trainer.vild.backbone.parameters())
    assert not any(key.startswith("backbone.") for key in run.trainer.averaged().learnt())


# ----------------------------------------------------------------------------------------- lessons


def test_lessons_are_the_teachers_words_of_proposals_made_once(
    run: Run, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scenes, path = run.trainer.shard(0)
    monkeypatch.setattr(vild, "crop_embeddings", lambda *_: pytest.fail("asked again"))
    lessons = run.lessons.read(scenes, path)
    assert (cache / "detection-96-2027" / "lessons-text" / "00000.safetensors").is_file()
    assert len(lessons) == PICTURES
    for lesson in lessons:
        assert lesson.boxes.shape == (LESSONS, 4)
        real = lesson.real
        assert 0 < len(real.boxes) <= LESSONS
        norms = real.embeddings.norm(dim=1)
        torch.testing.assert_close(norms, torch.ones_like(norms), atol=2e-3, rtol=0)
    monkeypatch.undo()
    asked = lessons[3].real
    again = vild.crop_embeddings(run.lessons.clip, scenes.pictures[3].float() / 255, asked.boxes)
    torch.testing.assert_close(asked.embeddings, again, atol=1e-2, rtol=0)  # bfloat16


# ------------------------------------------------------------------------------------------- names


@pytest.mark.parametrize("supervised", [False, True])
@pytest.mark.usefixtures("small_world")
def test_only_the_upper_bound_is_told_of_novel_objects(clip: ClipEncoder, supervised: bool) -> None:
    names = Names(clip, supervised)
    (novel, *_), count = novel_places(names), len(names.concepts)
    base = next(place for place in range(count) if not is_novel(names.concepts[place]))
    one = Scenes(
        pictures=torch.zeros(1, 3, 8, 8, dtype=torch.uint8),
        stages=(torch.zeros(1, 1, 1, 1),) * 3,
        boxes=(torch.tensor([[0.0, 0, 4, 4], [1, 1, 8, 8]]),),
        concept=(torch.tensor([novel, base]),),
        masks=(torch.stack([torch.zeros(8, 8, dtype=torch.bool), torch.ones(8, 8).bool()]),),
    )
    target = names.target(one, 0)
    told = [names.concepts[novel].name] * supervised + [names.concepts[base].name]
    assert [names.known[label] for label in target.labels.tolist()] == told
    assert target.boxes.tolist() == one.boxes[0].tolist()[-len(told) :]
    assert target.masks is not None
    assert bool(target.masks[-1].all())
    assert len(target.masks) == len(told)
    assert len(names.known) == (count if supervised else count - len(novel_places(names)))
    assert names.text.shape == (len(names.known), 256)
    assert torch.equal(names.text[int(target.labels[-1])], clip.encode_text([told[-1]])[0])


def test_rows_are_the_papers() -> None:
    sweep = {"text": 0.0, "weight-0.1": 0.1, "vild": 0.5, "weight-1": 1.0, "weight-5": 5.0}
    assert {name: ROWS[name].image_weight for name in sweep} == sweep
    assert next(iter(ROWS)) == "text"  # whose proposals the others are taught on
    assert (ROWS["image"].words_weight, ROWS["image"].image_weight) == (0.0, 0.5)
    assert [name for name, plan in ROWS.items() if plan.ensemble] == ["ensemble"]
    assert [name for name, plan in ROWS.items() if plan.supervised] == ["supervised"]
    compared = {(plan.batch, plan.seed, plan.ensemble or plan.steps) for plan in ROWS.values()}
    assert len(compared) == 2  # the ensemble, which is what is shipped, is trained longer


# ------------------------------------------------------------------------------------ runs, resuming


def test_a_run_resumes_where_it_stopped_and_leaves_a_detector(
    run: Run, clip: ClipEncoder, cache: Path
) -> None:
    run.trainer.save()
    again = Trainer(run.trainer.plan, clip, cache / "ensemble", run.lessons, cache)
    assert again.resume()
    assert again.step == STEPS
    for key, value in run.trainer.vild.state_dict().items():
        assert torch.equal(again.vild.state_dict()[key], value)
    assert list(again.train()) == []  # the plan is done
    path = cache / "ensemble" / "model.safetensors"
    found = load_vild(path, tower=ASSETS / TEACHER / "model.safetensors")
    check_teacher(found.config, clip)
    assert found.config.ensemble
    assert list(read_base_names(path)) == run.trainer.names.known
    averaged = run.trainer.averaged().state_dict()
    for key, value in found.state_dict().items():
        if not key.startswith("backbone."):
            torch.testing.assert_close(value, averaged[key], atol=2e-3, rtol=1e-3)


def test_without_a_checkpoint_nothing_resumes(run: Run, clip: ClipEncoder, tmp_path: Path) -> None:
    assert not Trainer(run.text.plan, clip, tmp_path, None, tmp_path).resume()


def test_the_rate_warms_up_and_falls(run: Run) -> None:
    trainer = Trainer.__new__(Trainer)
    trainer.plan = replace(SMOKE, steps=100, warmup=10)
    shares = []
    for trainer.step in range(101):
        shares.append(trainer._share())
    assert shares[0] == pytest.approx(0.1)
    assert shares[9] == pytest.approx(0.02 + 0.98 * 0.98, abs=0.01)
    assert shares[50] == pytest.approx(0.51, abs=0.001)
    assert shares[100] == pytest.approx(0.02)
    assert all(a > b for a, b in pairwise(shares[10:]))


def test_every_picture_of_a_shard_comes_once_an_epoch(run: Run) -> None:
    batches = list(run.trainer.batches(0, random.Random(1)))
    assert len(batches) == PICTURES // SMOKE.batch
    assert all(len(batch.targets) == len(batch.lessons) == SMOKE.batch for batch in batches)
    scenes, _ = run.trainer.shard(0)
    seen = torch.cat([batch.stages[0] for batch in batches]).flatten(1).sum(1).sort().values
    torch.testing.assert_close(seen, scenes.stages[0].float().flatten(1).sum(1).sort().values)
