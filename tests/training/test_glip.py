"""Training glip-mini: where it starts, that its terms fall, runs that resume and leave a detector."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from unittest import mock

import pytest
import torch
from safetensors.torch import load_file, save_file

from models.glip.losses import Losses
from models.glip.prompts import Prompt, tokenize, wordpiece
from models.glip.text import phrase_states
from tests.grounding_support import small_world
from training import glip, grounding_shards
from training.glip import GlipTraining, Trainer, collate

pytestmark = pytest.mark.usefixtures("one_thread")

SMOKE, PICTURES = replace(GlipTraining.smoke(), steps=60, rate=3e-3), 24
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def small() -> Iterator[None]:
    """Few sprites, and shards of few pictures."""
    with (
        mock.patch.object(glip, "GroundingWorld", lambda size, device: small_world(size=size)),
        mock.patch.object(grounding_shards, "SHARD", PICTURES),
    ):
        yield


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@dataclass(frozen=True)
class Run:
    """A finished small training, and its losses on the same pictures before and after."""

    trainer: Trainer
    before: Losses
    after: Losses


@torch.no_grad()
def losses_of(trainer: Trainer) -> Losses:
    shard = trainer.shards.read(glip.SHARD_SEED, 0)
    return trainer.losses(collate(shard, list(range(12))))


@pytest.fixture(scope="module")
def run(one_thread: None, small: None, cache: Path) -> Run:
    trainer = Trainer(SMOKE, CPU, cache / "run", cache)
    before = losses_of(trainer)
    for _ in trainer.train(minutes=5):
        pass
    assert trainer.step == SMOKE.steps
    return Run(trainer, before, losses_of(trainer))


def test_words_and_boxes_are_learnt(run: Run) -> None:
    """Sixty steps are few for boxes, whose regression begins at nothing."""
    assert float(run.after.words) < 0.5 * float(run.before.words)
    assert float(run.after.boxes) < float(run.before.boxes)


def test_what_is_frozen_is_not_learnt(run: Run) -> None:
    learnt = {key.split(".")[0] for key in run.trainer.learnt.state_dict()}
    assert learnt == {"fpn", "resizer", "head", "shortcut"}


def test_a_run_resumes_where_it_stopped(run: Run, cache: Path) -> None:
    run.trainer.save()
    again = Trainer(SMOKE, CPU, cache / "run", cache)
    assert again.resume()
    assert again.step == SMOKE.steps
    for key, value in run.trainer.learnt.state_dict().items():
        assert torch.equal(again.learnt.state_dict()[key], value)
    assert list(again.train(minutes=1)) == []  # the plan is done
    assert not Trainer(SMOKE, CPU, cache / "elsewhere", cache).resume()


def test_a_run_begins_at_a_file_and_keeps_clips_alignment_where_the_file_has_nothing(
    run: Run, cache: Path, tmp_path: Path
) -> None:
    run.trainer.save()
    kept = load_file(str(cache / "run" / "model.safetensors"))
    given = {key: tensor for key, tensor in kept.items() if not key.startswith("shortcut.")}
    save_file(given, str(tmp_path / "given.safetensors"))
    trainer = Trainer(replace(SMOKE, steps=1), CPU, tmp_path, cache)
    fresh = {key: value.clone() for key, value in trainer.learnt.state_dict().items()}
    trainer.start_from(tmp_path / "given.safetensors")
    for key, value in trainer.average.module.state_dict().items():
        assert torch.equal(value, given[key].float() if key in given else fresh[key])
    save_file({"backbone.weight": torch.zeros(2)}, str(tmp_path / "wrong.safetensors"))
    with pytest.raises(ValueError, match=r"backbone\.weight, which is no part of mini"):
        trainer.start_from(tmp_path / "wrong.safetensors")


def test_at_its_start_the_shortcut_knows_names_from_others(run: Run, cache: Path) -> None:
    """Cells on a thing agree more with that thing's words than with the rest of the prompt."""
    trainer = Trainer(SMOKE, CPU, cache / "start", cache)
    shard = trainer.shards.read(glip.SHARD_SEED, 0)
    network = trainer.glip.eval()
    assert network.shortcut is not None
    own, other = [], []
    for row in range(len(shard)):
        batch = collate(shard, [row])
        shapes = [(stage.shape[2], stage.shape[3]) for stage in batch.stages[:1]]
        levels = network.pyramid(batch.stages)
        with torch.no_grad():
            found = network.shortcut(levels[5:], batch.phrases, shapes)[0]  # (M, T)
        width = shapes[0][1]
        for box, tokens in zip(batch.targets.boxes[0], batch.targets.tokens[0], strict=True):
            if tokens.any():
                x, y = ((box[:2] + box[2:]) / 2 / 8).long().tolist()
                cell = found[min(y * width + x, len(found) - 1)]
                own.append(cell[tokens].mean())
                other.append(cell[~tokens & batch.phrases[0].any(-1)].mean())
    both = [(a, b) for a, b in zip(own, other, strict=True) if not b.isnan()]  # two phrases
    better = sum(a > b for a, b in both) / len(both)
    assert better > 0.65


def test_training_reads_phrases_as_the_detector_does(run: Run) -> None:
    shard = run.trainer.shards.read(glip.SHARD_SEED, 0)
    frozen = run.trainer.shards.frozen.language

    def language(ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return frozen(input_ids=ids, attention_mask=mask).last_hidden_state

    for row in (0, len(shard) // 2, len(shard) - 1):
        caption = shard.captions[row]
        spans = [[phrase.begin, phrase.end] for phrase in caption.phrases]
        tokens = tokenize(Prompt.from_spans(caption.text, spans, "caption"), wordpiece())
        with torch.no_grad():
            own = phrase_states(language, tokens.input_ids, tokens.positive)
        given = shard.phrases[row][: len(tokens.input_ids)].float()
        torch.testing.assert_close(given, own, rtol=0, atol=2e-3)
