"""Train vild-mini: open-vocabulary detection distilled from clip-mini.

    python -m training.vild                 # every row of the table, in order; resumes
    python -m training.vild --rows text ensemble

The order is the paper's (Gu et al. 2022): a network that learns boxes and names of *base* concepts
alone (ViLD-text) proposes regions; clip-mini's vectors of their crops are computed once; then the
other rows learn to imitate those vectors as well. Every row starts where clip-mini names regions by
its own projection (`start_at_clip`). Novel concepts are in the pictures, but no box and
no name of theirs is in the training (except in the row `supervised`, the upper bound).
"""

import argparse
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from models.catalog import ASSETS, TEACHER
from models.clip.encoder import ClipEncoder, load_mini
from models.vild.checkpoints import save_vild
from models.vild.config import VildConfig
from models.vild.losses import Lesson, Losses, Sampling, Target, vild_losses
from models.vild.teacher import crop_embeddings
from models.vild.vild import Vild
from training.detection_shards import Scenes, make_shard, read_shard, shard_path
from training.grounding_shards import FrozenParts
from training.run import (
    Parts,
    parameter_groups,
    rate_share,
    read_checkpoint,
    save_checkpoint,
    write_plan,
    write_tensors,
)
from training.world.concepts import load
from training.world.detection import DetectionWorld, is_novel
from training.world.sources import CACHE

SHARD_SEED = 2027
LESSONS = 16  # proposals of a picture that the teacher is asked about


@dataclass(frozen=True)
class VildTraining:
    """Everything that decides one row of the table.

    Attributes:
        ensemble: a second head for the imitation.
        words_weight, image_weight: of ViLD-text's and ViLD-image's losses.
        supervised: novel boxes and names are learnt, too.
    """

    ensemble: bool = False
    words_weight: float = 1.0
    image_weight: float = 0.0
    supervised: bool = False
    steps: int = 1_600
    batch: int = 12
    shards: int = 40
    size: int = 256
    rate: float = 1.0e-3
    decay: float = 0.02
    warmup: int = 100
    average: float = 0.995
    seed: int = 2027

    @property
    def config(self) -> VildConfig:
        return VildConfig.mini() if self.ensemble else VildConfig.mini_single()

    @staticmethod
    def smoke() -> "VildTraining":
        """A minute: enough to see every term fall."""
        return VildTraining(image_weight=0.5, steps=30, batch=4, shards=1, warmup=5, average=0.9)


ROWS: dict[str, VildTraining] = {
    "text": VildTraining(),
    "ensemble": VildTraining(ensemble=True, image_weight=0.5, steps=4_000),
    "vild": VildTraining(image_weight=0.5),
    "image": VildTraining(words_weight=0.0, image_weight=0.5),
    "supervised": VildTraining(supervised=True),
    "weight-0.1": VildTraining(image_weight=0.1),
    "weight-1": VildTraining(image_weight=1.0),
    "weight-5": VildTraining(image_weight=5.0),
}


@dataclass(frozen=True)
class Batch:
    """N pictures: C3, C4, C5, what training may know of them, what the teacher says."""

    stages: list[Tensor]
    targets: list[Target]
    lessons: list[Lesson]


class Names:
    """The concepts' names in the teacher's space and which of them a row may know."""

    def __init__(self, clip: ClipEncoder, supervised: bool) -> None:
        self.concepts = load()
        self.base = torch.tensor([supervised or not is_novel(c) for c in self.concepts])
        self.row = torch.full((len(self.concepts),), -1)
        self.row[self.base] = torch.arange(int(self.base.sum()))
        self.known = [c.name for c, base in zip(self.concepts, self.base.tolist()) if base]
        self.text = clip.encode_text(self.known)  # (K, D)

    def target(self, scenes: Scenes, row: int) -> Target:
        """The objects of one picture that a row may know."""
        mine = self.base[scenes.concept[row]]
        labels = self.row[scenes.concept[row][mine]]
        return Target(scenes.boxes[row][mine], labels, scenes.masks[row][mine])


class Lessons:
    """The teacher's vectors of proposals, shard by shard, computed once.

    Args:
        proposer: a trained network, whose proposals are used.
        name: of the files; another proposer has another.
    """

    def __init__(self, proposer: Vild, clip: ClipEncoder, name: str, cache: Path) -> None:
        self.proposer, self.clip, self.name, self.cache = proposer.eval(), clip, name, cache

    def read(self, scenes: Scenes, path: Path) -> list[Lesson]:
        """Of every picture of the shard at `path`."""
        file = path.parent / f"lessons-{self.name}" / path.name
        if not file.is_file():
            made = [self._of(scenes, row) for row in range(len(scenes))]
            tensors = {
                "boxes": torch.stack([lesson.boxes for lesson in made]),
                "embeddings": torch.stack([lesson.embeddings for lesson in made]).half(),
            }
            write_tensors(file, tensors)
        tensors = load_file(str(file))
        return [
            Lesson(boxes, embeddings.float())
            for boxes, embeddings in zip(tensors["boxes"], tensors["embeddings"], strict=True)
        ]

    @torch.inference_mode()
    def _of(self, scenes: Scenes, row: int) -> Lesson:
        side = scenes.pictures.shape[-1]
        levels = self.proposer.pyramid([stage[row : row + 1].float() for stage in scenes.stages])
        boxes, _ = self.proposer.propose(levels, [(side, side)]).of(0)
        boxes = torch.cat([boxes, boxes.new_zeros(LESSONS, 4)])[:LESSONS]
        picture = scenes.pictures[row].float() / 255
        with torch.autocast("cpu", dtype=torch.bfloat16):  # the same to a cosine of 0.9999
            taught = crop_embeddings(self.clip, picture, boxes)
        return Lesson(boxes.clone(), taught.clone())


@torch.no_grad()
def start_at_clip(vild: Vild, clip: ClipEncoder) -> None:
    """Give the shortcuts clip-mini's projection and silence what stands beside them, in place."""
    projection = clip.model.state_dict()["visual.head.proj.weight"]
    for head in (vild.head, vild.image_head):
        if head is not None and head.shortcut is not None:
            head.shortcut.project.weight.copy_(projection)
            head.project.weight.zero_()


class Trainer:
    """One row: model, optimiser, averaged weights, checkpoint."""

    def __init__(
        self, plan: VildTraining, clip: ClipEncoder, folder: Path, lessons: Lessons | None,
        cache: Path = CACHE,
    ) -> None:  # fmt: skip
        torch.manual_seed(plan.seed)
        self.plan, self.folder, self.lessons, self.cache = plan, folder, lessons, cache
        self.vild = Vild(plan.config).train()
        start_at_clip(self.vild, clip)
        self.names = Names(clip, plan.supervised)
        self.average = AveragedModel(
            self.vild, multi_avg_fn=get_ema_multi_avg_fn(plan.average), use_buffers=True
        )
        self.optimizer = torch.optim.AdamW(
            parameter_groups(self.vild.parameters(), plan.decay), lr=plan.rate
        )
        self.generator = torch.Generator().manual_seed(plan.seed)
        self.step, self.seconds = 0, 0.0
        self._makers: tuple[DetectionWorld, FrozenParts] | None = None

    def shard(self, number: int) -> tuple[Scenes, Path]:
        """A shard, made when first asked for."""
        path = shard_path(SHARD_SEED, number, self.plan.size, self.cache)
        if not path.is_file():
            self._makers = self._makers or (DetectionWorld(size=self.plan.size), FrozenParts())
            path = make_shard(*self._makers, SHARD_SEED, number, self.cache)
        return read_shard(path), path

    def batches(self, number: int, chance: random.Random) -> Iterator[Batch]:
        """The pictures of a shard in random order."""
        scenes, path = self.shard(number)
        lessons = self.lessons.read(scenes, path) if self.lessons else []
        order = list(range(len(scenes)))
        chance.shuffle(order)
        for start in range(0, len(order) - self.plan.batch + 1, self.plan.batch):
            rows = order[start : start + self.plan.batch]
            yield Batch(
                [stage[rows].float() for stage in scenes.stages],
                [self.names.target(scenes, row) for row in rows],
                [lessons[row] for row in rows] if lessons else [],
            )

    def learn(self, batch: Batch) -> Losses:
        """One step, products in bfloat16."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.plan.rate * self._share()
        sizes = [(self.plan.size, self.plan.size)] * len(batch.targets)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            levels = self.vild.pyramid(batch.stages)
            losses = vild_losses(
                self.vild, levels, sizes, batch.targets, self.names.text, batch.lessons or None,
                Sampling.mini(), self.generator,
            )  # fmt: skip
            total = losses.total(self.plan.image_weight, self.plan.words_weight)
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.vild.parameters(), 5.0)
        self.optimizer.step()
        self.average.update_parameters(self.vild)
        self.step += 1
        return losses

    def _share(self) -> float:
        """Of the learning rate at this step: warmed up, then a half cosine to a fiftieth."""
        return rate_share(self.step, self.plan.steps, self.plan.warmup)

    def train(self) -> Iterator[Losses]:
        """Steps until the plan is done."""
        chance = random.Random(self.plan.seed + self.step)
        while self.step < self.plan.steps:
            for number in chance.sample(range(self.plan.shards), self.plan.shards):
                for batch in self.batches(number, chance):
                    if self.step >= self.plan.steps:
                        return
                    began = time.monotonic()
                    losses = self.learn(batch)
                    self.seconds += time.monotonic() - began
                    yield losses

    def _parts(self) -> Parts:
        return {"vild": self.vild, "average": self.average, "optimizer": self.optimizer}

    def resume(self) -> bool:
        """Continue from the folder's checkpoint if there is one."""
        stood = read_checkpoint(self.folder, self._parts())
        if stood is not None:
            self.step, self.seconds = stood
        return stood is not None

    def save(self) -> None:
        """The checkpoint and, as half precision, the averaged weights."""
        save_checkpoint(self.folder, self._parts(), self.step, self.seconds)
        learnt = self.averaged().learnt()
        save_vild(self.plan.config, learnt, self.folder / "model.safetensors", self.names.known)
        write_plan(self.folder, self.plan, step=self.step, seconds=round(self.seconds))

    def averaged(self) -> Vild:
        """The network with the averaged weights, which is what is kept."""
        found = self.average.module
        assert isinstance(found, Vild)
        return found


def run(trainer: Trainer, minutes: float = 1e6) -> None:
    """Trains, tells how it goes, and saves every three minutes and at the end."""
    until, saved = time.monotonic() + 60 * minutes, time.monotonic()
    for losses in trainer.train():
        if trainer.step % 50 == 0:
            told = " ".join(f"{name} {float(v.detach()):.3f}" for name, v in vars(losses).items())
            print(f"{trainer.step} {told} {trainer.seconds / trainer.step:.2f} s", flush=True)
        if time.monotonic() > until:
            break
        if time.monotonic() - saved > 180:
            trainer.save()
            saved = time.monotonic()
    trainer.save()


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS))
    parser.add_argument("--out", type=Path, default=Path("runs/vild"))
    parser.add_argument("--steps", type=int, help="another length of the runs")
    parser.add_argument("--threads", type=int)
    options = parser.parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    clip = load_mini(ASSETS / TEACHER, torch.device("cpu"), torch.float32)
    lessons = None
    for name in options.rows:
        plan = ROWS[name]
        if options.steps:
            plan = replace(plan, steps=options.steps)
        if plan.image_weight and lessons is None:
            proposer = Trainer(ROWS["text"], clip, options.out / "text", None)
            if not proposer.resume():
                parser.error("train the row “text” first; its proposals are what the others need.")
            lessons = Lessons(proposer.averaged(), clip, "text", CACHE)
        trainer = Trainer(plan, clip, options.out / name, lessons if plan.image_weight else None)
        if trainer.resume():
            print(f"{name}: continuing at step {trainer.step}", flush=True)
        if trainer.step < plan.steps:
            print(name, flush=True)
            run(trainer)


if __name__ == "__main__":
    main()
