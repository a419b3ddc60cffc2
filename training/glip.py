"""Train glip-mini: what lies between a frozen image tower and a frozen language model.

    python -m training.glip                       # the embedded model, from shards (made as needed)
    python -m training.glip --preset mini-without-fusion --steps 3000 --out runs/glip-ablation

clip-mini's tower and MiniLM stay as they are, and the run starts at their own alignment; FPN, deep
fusion, dynamic head and the alignment of regions with words are learnt, on emoji scenes and avatars
of `training.world.grounding`, with the losses of `models.glip.losses`. An interrupted run continues
from its checkpoint.
"""

import argparse
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torchvision.ops import box_iou

from models.detection.boxes import decode
from models.errors import AtelierError
from models.glip.checkpoints import GLIP_MINI_PARTS
from models.glip.config import GlipConfig
from models.glip.glip import Glip
from models.glip.losses import Losses, Targets, grounding_losses
from training.glip_start import align_with_clip
from training.grounding_shards import (
    FrozenParts,
    PhraseReader,
    Shard,
    make_shard,
    phrase_tokens,
    read_shard,
    shard_path,
)
from training.run import (
    Parts,
    parameter_groups,
    rate_share,
    read_checkpoint,
    save_checkpoint,
    write_plan,
    write_tensors,
)
from training.world.grounding import KINDS, GroundingWorld
from training.world.sources import CACHE

SHARD_SEED, TEST_SEED = 2026, 7  # of the training shards, and of the one that watches


@dataclass(frozen=True)
class GlipTraining:
    """Everything that decides a run.

    Attributes:
        model: preset of `GlipConfig`, "mini" or "mini_without_fusion".
        shards: how many shards of 256 pictures there are; passes over them repeat.
        average: decay of the running average of the weights, which is what is kept.
    """

    model: str = "mini"
    steps: int = 5_500
    batch: int = 12
    shards: int = 36
    size: int = 256
    rate: float = 1.0e-3
    decay: float = 0.05
    warmup: int = 200
    average: float = 0.998
    clip: float = 5.0
    seed: int = 2026

    @staticmethod
    def mini() -> "GlipTraining":
        return GlipTraining()

    @staticmethod
    def mini_without_fusion() -> "GlipTraining":
        """The ablation: the same in all but the fusion."""
        return GlipTraining(model="mini_without_fusion")

    @staticmethod
    def smoke() -> "GlipTraining":
        """One shard, a minute: enough to see every term fall."""
        return GlipTraining(steps=20, batch=4, shards=1, size=96, warmup=5, average=0.9)


PRESETS: dict[str, Callable[[], GlipTraining]] = {
    "mini": GlipTraining.mini,
    "mini-without-fusion": GlipTraining.mini_without_fusion,
    "smoke": GlipTraining.smoke,
}
CONFIGS: dict[str, Callable[[], GlipConfig]] = {
    "mini": GlipConfig.mini,
    "mini_without_fusion": GlipConfig.mini_without_fusion,
}


@dataclass(frozen=True)
class Batch:
    """N pictures as the learnt part sees them.

    Attributes:
        stages: C3, C4, C5, float32.
        text: (N, T, 384); `mask` (N, T) says which tokens are real.
        phrases: (N, T, 384), of each token the phrase it is in, as `Glip.encode_phrases` reads it.
        targets: boxes and the tokens that name them.
    """

    stages: list[Tensor]
    text: Tensor
    mask: Tensor
    phrases: Tensor
    targets: Targets

    def to(self, device: torch.device) -> "Batch":
        t = self.targets
        return Batch(
            [stage.to(device) for stage in self.stages],
            self.text.to(device),
            self.mask.to(device),
            self.phrases.to(device),
            Targets(t.boxes.to(device), t.tokens.to(device), t.real.to(device)),
        )


def collate(shard: Shard, rows: list[int]) -> Batch:
    """A batch of a shard's pictures, its text trimmed to the longest of them."""
    length = shard.length[rows]
    longest = int(length.max())
    boxes, tokens = [], []
    for row in rows:
        of_phrase = phrase_tokens(shard, row)[:, :longest]
        named = torch.zeros(len(shard.boxes[row]), longest, dtype=torch.bool)
        for phrase, mine in zip(shard.captions[row].phrases, of_phrase, strict=True):
            for place in phrase.places:
                named[place] |= mine
        asked = named.any(1)  # what no phrase names is background
        boxes.append(shard.boxes[row][asked])
        tokens.append(named[asked])
    count = torch.tensor([len(b) for b in boxes])
    most = max(1, int(count.max()))
    targets = Targets(
        pad_sequence(boxes, batch_first=True) if count.any() else torch.zeros(len(rows), most, 4),
        pad_sequence(tokens, batch_first=True)
        if count.any()
        else torch.zeros(len(rows), most, longest, dtype=torch.bool),
        torch.arange(most)[None] < count[:, None],
    )
    return Batch(
        stages=[stage[rows].float() for stage in shard.stages],
        text=shard.text[rows, :longest].float(),
        mask=torch.arange(longest)[None] < length[:, None],
        phrases=torch.stack([shard.phrases[row][:longest] for row in rows]).float(),
        targets=targets,
    )


def batches(shard: Shard, size: int, chance: random.Random) -> Iterator[list[int]]:
    """Rows of every batch; captions of like length share one, so that little padding is computed."""
    order = list(range(len(shard)))
    chance.shuffle(order)
    groups = []
    for start in range(0, len(order), 8 * size):
        some = sorted(order[start : start + 8 * size], key=lambda row: int(shard.length[row]))
        groups += [some[i : i + size] for i in range(0, len(some), size)]
    chance.shuffle(groups)
    yield from (group for group in groups if len(group) == size)


class Shards:
    """Shards by number, made when first asked for."""

    def __init__(self, plan: GlipTraining, cache: Path, device: torch.device) -> None:
        self.plan, self.cache, self.device = plan, cache, device
        self.frozen = FrozenParts(device)
        self.reader = PhraseReader(self.frozen)
        self._world: GroundingWorld | None = None

    def there(self, seed: int, number: int) -> bool:
        return shard_path(seed, number, self.plan.size, self.cache).is_file()

    def read(self, seed: int, number: int) -> Shard:
        path = shard_path(seed, number, self.plan.size, self.cache)
        if not self.there(seed, number):
            if self._world is None:
                self._world = GroundingWorld(size=self.plan.size, device=self.device)
            path = make_shard(self._world, self.frozen, seed, number, self.cache)
        return self.reader.read(read_shard(path, self.plan.size))


class Trainer:
    """A run: model, optimiser, averaged weights, checkpoint."""

    def __init__(
        self, plan: GlipTraining, device: torch.device, folder: Path, cache: Path = CACHE
    ) -> None:
        torch.manual_seed(plan.seed)
        self.plan, self.device, self.folder = plan, device, folder
        self.shards = Shards(plan, cache, device)
        self.glip = Glip(CONFIGS[plan.model]()).train()
        align_with_clip(self.glip, self.shards.read(SHARD_SEED, 0))
        self.glip.to(device)
        self.learnt = learnt(self.glip)
        self.average = AveragedModel(self.learnt, multi_avg_fn=get_ema_multi_avg_fn(plan.average))
        self.optimizer = torch.optim.AdamW(
            parameter_groups(self.learnt.parameters(), plan.decay), lr=plan.rate, betas=(0.9, 0.98)
        )
        self.step = 0
        self.seconds = 0.0

    # ------------------------------------------------------------------------------------- learning

    def losses(self, batch: Batch) -> Losses:
        """Of one batch, with gradients. Products are in bfloat16: half the time on a CPU too."""
        with torch.autocast(self.device.type, dtype=torch.bfloat16):
            levels = self.glip.pyramid(batch.stages)
            found = self.glip.predict(levels, batch.text, batch.mask, phrases=batch.phrases)
        anchors = self.glip.anchors(found.level_shapes, self.device)
        sizes = [height * width for height, width in found.level_shapes]
        return grounding_losses(
            found.logits.float(), found.box_regression.float(), found.centerness.float(),
            batch.mask, anchors, sizes, batch.targets,
        )  # fmt: skip

    def learn(self, batch: Batch) -> Losses:
        """One step."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.plan.rate * self._share()
        losses = self.losses(batch.to(self.device))
        self.optimizer.zero_grad(set_to_none=True)
        losses.total.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.learnt.parameters(), self.plan.clip)
        self.optimizer.step()
        self.average.update_parameters(self.learnt)
        self.step += 1
        return losses

    def _share(self) -> float:
        """Of the learning rate at this step: warmed up, then a half cosine down to a fiftieth."""
        return rate_share(self.step, self.plan.steps, self.plan.warmup)

    def train(self, minutes: float) -> Iterator[Losses]:
        """Steps until the plan or the time is over."""
        until = time.monotonic() + 60 * minutes
        chance = random.Random(self.plan.seed + self.step)
        while True:
            order = list(range(self.plan.shards))
            chance.shuffle(order)
            order.sort(key=lambda number: not self.shards.there(SHARD_SEED, number))
            for number in order:
                shard = self.shards.read(SHARD_SEED, number)
                for rows in batches(shard, self.plan.batch, chance):
                    if self.step >= self.plan.steps or time.monotonic() > until:
                        return
                    began = time.monotonic()
                    losses = self.learn(collate(shard, rows))
                    self.seconds += time.monotonic() - began
                    yield losses

    # ------------------------------------------------------------------------- watching, resuming

    def start_from(self, path: Path) -> None:
        """Begin at the weights of a file; what it lacks stays at CLIP's alignment.

        Raises ValueError when it holds something that this network does not have.
        """
        given, own = load_file(str(path), self.device.type), self.learnt.state_dict()
        if unknown := sorted(given.keys() - own.keys()):
            raise ValueError(f"{path} holds {unknown[0]}, which is no part of {self.plan.model}.")
        state = own | {key: tensor.float() for key, tensor in given.items()}
        self.learnt.load_state_dict(state)
        self.average.module.load_state_dict(state)

    def watch(self, count: int = 96) -> dict[str, float]:
        """R@1 per kind of picture of the averaged weights on a shard that is never trained on."""
        glip = Glip(CONFIGS[self.plan.model]()).to(self.device).eval()
        learnt(glip).load_state_dict(self.average.module.state_dict())
        shard = self.shards.read(TEST_SEED, 0)
        rows = torch.linspace(0, len(shard) - 1, min(count, len(shard))).long().unique().tolist()
        hits: dict[str, list[bool]] = {}
        for row in rows:
            batch = collate(shard, [row]).to(self.device)
            hits.setdefault(KINDS[shard.kinds[row]], []).extend(recalled(glip, shard, row, batch))
        return {kind: sum(hit) / len(hit) for kind, hit in hits.items() if hit}

    def resume(self) -> bool:
        """Continue from the run folder's checkpoint if there is one."""
        stood = read_checkpoint(self.folder, self._parts(), self.device)
        if stood is not None:
            self.step, self.seconds = stood
        return stood is not None

    def save(self) -> None:
        """The checkpoint and, as half precision, the averaged weights."""
        save_checkpoint(self.folder, self._parts(), self.step, self.seconds)
        weights = {k: v.half() for k, v in self.average.module.state_dict().items()}
        write_tensors(self.folder / "model.safetensors", weights)
        write_plan(self.folder, self.plan, step=self.step, seconds=round(self.seconds))

    def _parts(self) -> Parts:
        return {"learnt": self.learnt, "average": self.average, "optimizer": self.optimizer}


def learnt(glip: Glip) -> nn.ModuleDict:
    """The parts of a mini GLIP that its weight file holds."""
    return nn.ModuleDict(
        {name: part for name, part in glip.named_children() if name in GLIP_MINI_PARTS}
    )


@torch.inference_mode()
def recalled(glip: Glip, shard: Shard, row: int, batch: Batch) -> list[bool]:
    """For each phrase that names something: does its best region overlap one of its boxes?"""
    levels = glip.pyramid(batch.stages)
    found = glip.predict(levels, batch.text, batch.mask, phrases=batch.phrases)
    anchors = glip.anchors(found.level_shapes, batch.text.device)
    boxes = decode(found.box_regression[0], anchors).cpu()
    probability = found.logits[0].sigmoid().cpu()  # (M, T)
    certain = found.centerness[0].sigmoid().cpu()
    hits = []
    tokens = phrase_tokens(shard, row)[:, : probability.shape[1]]
    for phrase, mine in zip(shard.captions[row].phrases, tokens, strict=True):
        if phrase.places and mine.any():
            best = (probability[:, mine].mean(1) * certain).argmax()
            overlap = box_iou(boxes[best][None], shard.boxes[row][list(phrase.places)])
            hits.append(bool((overlap >= 0.5).any()))
    return hits


def run(trainer: Trainer, minutes: float) -> None:
    """Trains, tells how it goes, and saves every four minutes and at the end."""
    saved = time.monotonic()
    for losses in trainer.train(minutes):
        if trainer.step % 50 == 0:
            told = " ".join(
                f"{name} {float(value.detach()):.3f}" for name, value in vars(losses).items()
            )
            print(f"{trainer.step} {told} {trainer.seconds / trainer.step:.2f} s", flush=True)
        if time.monotonic() - saved > 240:
            finish(trainer)
            saved = time.monotonic()
    finish(trainer)


def finish(trainer: Trainer) -> None:
    trainer.save()
    recall = " ".join(f"{kind} {share:.0%}" for kind, share in trainer.watch().items())
    print(f"{trainer.step} unseen R@1: {recall}", flush=True)


def main(arguments: list[str] | None = None) -> None:
    from training import glip_coco  # which needs this module

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", choices=sorted(PRESETS), default="mini")
    parser.add_argument("--out", type=Path, help="default runs/glip-mini, or runs/glip-coco")
    parser.add_argument("--steps", type=int, help="another length of the run")
    parser.add_argument("--start", type=Path, help="a weight file to begin at")
    parser.add_argument("--minutes", type=float, default=1e6, help="stop after this long")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    glip_coco.add_arguments(parser)
    options = parser.parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.coco:
        try:
            glip_coco.main(options)
        except AtelierError as error:
            parser.error(str(error))
        return
    plan = PRESETS[options.preset]()
    if options.steps:
        plan = replace(plan, steps=options.steps)
    if options.rate:
        plan = replace(plan, rate=options.rate)
    trainer = Trainer(plan, torch.device(options.device), options.out or Path("runs/glip-mini"))
    if trainer.resume():
        print(f"continuing at step {trainer.step}", flush=True)
    elif options.start:
        trainer.start_from(options.start)
    run(trainer, options.minutes)


if __name__ == "__main__":
    main()
