"""Train the mini CLIPs: image towers that understand the mini world in MiniLM's language.

Four are trained here: `mini`, and `finish` after it, recognises; `critic` is mini fine-tuned on
adversarial pictures so that its gradients carry shape (CLIPDraw optimises against it), `judge` is
another architecture from another seed that names drawings and is never drawn with, `portraits` is the
judge's architecture continued on drawn faces (StyleCLIP edits against it).

The objective is CLIP's (Radford et al. 2021, section 2.3), used twice in every step:
- against the whole vocabulary: each picture's features are compared with a random wording of
  *every* name (about 1,650), so that no negative is left to the luck of a small batch; a scene with
  several objects has several right answers of equal weight (Khosla et al. 2020, eq. 2);
- scenes and avatars against their own full captions, in both directions, with captions of hundreds
  of other scenes as further wrong answers, since a small batch has few.
Avatars also answer two-way questions ("with glasses" / "without glasses").

MiniLM stays frozen, so its features are computed once; what learns is the image tower, one linear
projection of the text and the temperature. An interrupted run continues from its checkpoint.
"""

import argparse
import json
import math
import random
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from models.catalog import ASSETS
from models.clip.encoder import mini_skeleton
from models.clip.text_head import TextHead
from models.weights import minilm_directory, read_safetensors
from training.text_features import minilm_features
from training.world import avatars, compose, scenes, sprites, vocabulary
from training.world.concepts import Concept, load
from training.world.photos import Photos, load_photos
from training.world.sources import CACHE, TRAINED

SCENE_SEED = FACE_SEED = 2024  # the pools are shared by all runs; evaluation uses other seeds
Project = Callable[[Tensor], Tensor]  # (N, 384) MiniLM features -> (N, D) unit vectors


@dataclass(frozen=True)
class ClipTraining:
    """Everything that decides a run.

    Attributes:
        model: folder in `assets/weights` whose configuration is trained.
        singles, crowds, photos, faces: pictures of each kind in a batch.
        sizes: picture side in pixels over the run, in equal parts of `size_split`.
        size_split: fraction of the steps at the first size.
        scene_pool, face_pool: how many captioned scenes and avatars exist; scenes are drawn anew
            (other sprites, places, backgrounds, light) every time they come up.
        rivals: captions of other scenes that each picture is told apart from as well.
        trait_weight: weight of the avatars' two-way questions.
        wordings: most training texts a name may have; None takes all.
        attack: radius in L2 of [0, 1] pixels at 96 px of the adversarial step; 0 trains plainly.
    """

    model: str = "clip-mini"
    steps: int = 5_500
    singles: int = 104
    crowds: int = 40
    photos: int = 20
    faces: int = 44
    sizes: tuple[int, int] = (64, 96)
    size_split: float = 0.65
    scene_pool: int = 40_000
    face_pool: int = 30_000
    rivals: int = 768
    trait_weight: float = 1.0
    rate: float = 2e-3
    text_rate: float = 5e-4
    decay: float = 0.05
    warmup: int = 300
    average: float = 0.998
    wordings: int | None = None
    attack: float = 0.0
    seed: int = 2024

    @staticmethod
    def mini() -> "ClipTraining":
        """clip-mini, continued from clip-mini-teacher; `finish` follows."""
        return ClipTraining(
            steps=12_000,
            singles=120,
            crowds=36,
            photos=16,
            faces=36,
            size_split=0.4,
            rate=1.5e-3,
            text_rate=1e-3,
        )

    @staticmethod
    def finish() -> "ClipTraining":
        """What follows `mini`: full size, half the rate, more scenes and faces, which learn last."""
        return ClipTraining(
            steps=4_200,
            singles=92,
            crowds=60,
            photos=12,
            faces=48,
            size_split=0.0,
            trait_weight=2.0,
            rate=8e-4,
            text_rate=6e-4,
            warmup=150,
            seed=2025,
        )

    @staticmethod
    def critic() -> "ClipTraining":
        """clip-mini, fine-tuned on adversarial pictures at the size that CLIPDraw shows it."""
        return ClipTraining(
            model="clip-mini-critic",
            steps=3_200,
            sizes=(64, 64),
            rate=1e-3,
            attack=3.0,
            face_pool=12_000,
            seed=7,
        )

    @staticmethod
    def judge() -> "ClipTraining":
        """A small RepVGG from random weights, for naming drawings."""
        return ClipTraining(
            model="clip-judge", steps=6_200, sizes=(64, 64), face_pool=12_000, seed=1909
        )

    @staticmethod
    def portraits() -> "ClipTraining":
        """The judge's small tower, continued on drawn faces for StyleCLIP's avatars: it
        sees the brows and earrings that clip-mini overlooks. Mildly adversarial."""
        return ClipTraining(
            model="clip-portraits",
            steps=3_000,
            singles=8,
            crowds=8,
            photos=0,
            faces=192,
            # Larger would show more, but at 80, 96 and 128 px oneDNN's backward pass through this
            # tower (torch 2.11, CPU) corrupts the heap; at 64 px it never did.
            sizes=(64, 64),
            rivals=64,
            trait_weight=3.0,
            rate=1e-3,
            warmup=100,
            attack=0.7,
            seed=96,
        )

    @staticmethod
    def smoke() -> "ClipTraining":
        """Two minutes on two cores: enough to see every part of the loss fall."""
        return ClipTraining(
            steps=60, singles=24, crowds=12, photos=0, faces=8, sizes=(48, 48), scene_pool=200,
            face_pool=64, warmup=10, wordings=1,
        )  # fmt: skip


PRESETS: dict[str, Callable[[], ClipTraining]] = {
    "mini": ClipTraining.mini,
    "finish": ClipTraining.finish,
    "critic": ClipTraining.critic,
    "judge": ClipTraining.judge,
    "portraits": ClipTraining.portraits,
    "smoke": ClipTraining.smoke,
}


@dataclass(frozen=True)
class Batch:
    """Pictures with their right answers.

    Attributes:
        pictures: (B, 3, S, S) float32 in [0, 1].
        answers: (B, R) probability of each vocabulary row; zero rows ask nothing.
        captions: (B, 384) MiniLM features of the full caption, zeros where there is none.
        traits: (B, A) +1 / -1 / 0 avatar attributes that are plainly so, plainly not, or unclear.
    """

    pictures: Tensor
    answers: Tensor
    captions: Tensor
    traits: Tensor


class Wordings:
    """MiniLM features of all wordings of a list of rows; draws one wording a row.

    Earlier wordings come up more often (a row lists its bare name first, synonyms last).
    """

    def __init__(self, texts: tuple[tuple[str, ...], ...], device: torch.device) -> None:
        flat = [text for row in texts for text in row]
        self.features = minilm_features(flat).to(device)
        self.count = torch.tensor([len(row) for row in texts])
        self.start = self.count.cumsum(0) - self.count

    def draw(self, generator: torch.Generator) -> Tensor:
        """(R, 384)."""
        pick = (torch.rand(len(self.count), generator=generator) ** 2 * self.count).long()
        return self.features[(self.start + pick).to(self.features.device)]


@dataclass(frozen=True)
class Material:
    """What pictures are made of: emoji drawings and, unless None, photographs."""

    bank: sprites.SpriteBank
    photos: Photos | None

    @staticmethod
    def everything() -> "Material":
        """All trained families with their drawings, and the photographs."""
        return Material(sprites.with_drawings(sprites.load_bank(TRAINED)), load_photos())


class World:
    """All training material, ready to be dealt in batches."""

    def __init__(self, plan: ClipTraining, device: torch.device, material: Material) -> None:
        self.plan, self.device = plan, device
        self.concepts = load()
        self.photos, bank = material.photos, material.bank
        self.table = scenes.SpriteTable(bank, len(self.concepts))
        self.mirrors = scenes.mirror_rule(self.concepts)
        self.composer = compose.Composer(
            bank.rgba, _background_photos(self.photos), plan.sizes[-1], device
        )
        names = self.photos.names if self.photos is not None else ()
        self.vocabulary = vocabulary.build(self.concepts, names)
        texts = tuple(row[: plan.wordings] for row in self.vocabulary.texts)
        self.words = Wordings(texts, device)
        self.traits = trait_wordings(device)
        self.scenes, self.scene_texts = scene_pool(
            self.concepts, self.table.drawn, self.mirrors, plan.scene_pool, SCENE_SEED
        )
        self.faces = FacePool(plan.face_pool, FACE_SEED)
        self.photo_index = self._training_photos()

    def _training_photos(self) -> Tensor:
        if self.photos is None:
            return torch.empty(0, dtype=torch.long)
        return ((self.photos.category >= 0) & ~self.photos.test).nonzero().squeeze(1)

    def batch(self, generator: torch.Generator, size: int) -> Batch:
        """One batch at a picture side of `size` pixels."""
        self.composer.size = size
        parts = [self._singles(generator), self._crowds(generator)]
        if self.plan.faces:
            parts.append(self._faces(generator, size))
        if self.plan.photos:
            parts.append(self._photos(generator, size))
        pictures = torch.cat([part.pictures for part in parts])
        pictures = compose.disturb(pictures, generator)
        return Batch(
            compose.jpeg(pictures, generator, 0.08),
            torch.cat([part.answers for part in parts]).to(self.device),
            torch.cat([part.captions for part in parts]).to(self.device),
            torch.cat([part.traits for part in parts]).to(self.device),
        )

    def rivals(self, generator: torch.Generator) -> Tensor:
        """(rivals, 384) features of captions of random scenes.

        One of 40,000 is now and then a picture's own; that is rarer than two equal captions.
        """
        index = torch.randint(len(self.scene_texts), (self.plan.rivals,), generator=generator)
        return self.scene_texts[index].to(self.device)

    def _drawn(self, chosen: scenes.Scenes, generator: torch.Generator) -> Tensor:
        return self.composer.render(self.table.lay_out(chosen, generator), generator)

    def _answers(self, concept: Tensor) -> Tensor:
        """(N, K) concepts, -1 for none -> (N, R) equal shares."""
        answers = torch.zeros(len(concept), len(self.vocabulary.names))
        answers.scatter_add_(1, concept.clamp(min=0), (concept >= 0).float())
        return (answers > 0).float() / (answers > 0).sum(1, keepdim=True).clamp(min=1)

    def _blank(self, count: int) -> tuple[Tensor, Tensor, Tensor]:
        rows = len(self.vocabulary.names)
        traits = torch.zeros(count, len(avatars.ATTRIBUTES))
        return torch.zeros(count, rows), torch.zeros(count, 384), traits

    def _singles(self, generator: torch.Generator) -> Batch:
        draw = torch.randint(len(self.table.drawn), (self.plan.singles,), generator=generator)
        chosen = scenes.single_objects(self.table.drawn[draw], self.mirrors, generator)
        _, captions, traits = self._blank(len(chosen))
        pictures = self._drawn(chosen, generator)
        return Batch(pictures, self._answers(chosen.concept), captions, traits)

    def _crowds(self, generator: torch.Generator) -> Batch:
        index = torch.randint(len(self.scenes), (self.plan.crowds,), generator=generator)
        chosen = self.scenes.select(index)
        chosen = replace(chosen, layout=compose.jittered(chosen.layout, generator))
        _, _, traits = self._blank(len(chosen))
        pictures = self._drawn(chosen, generator)
        return Batch(pictures, self._answers(chosen.concept), self.scene_texts[index], traits)

    def _faces(self, generator: torch.Generator, size: int) -> Batch:
        index = torch.randint(len(self.faces.traits), (self.plan.faces,), generator=generator)
        answers, _, _ = self._blank(len(index))
        pictures = self.faces.pictures[index].to(self.device)
        crops = compose.random_crops(pictures, size, (0.8, 1.0), 1.1, generator, mirror=False)
        return Batch(crops, answers, self.faces.captions[index], self.faces.traits[index])

    def _photos(self, generator: torch.Generator, size: int) -> Batch:
        assert self.photos is not None
        draw = torch.randint(len(self.photo_index), (self.plan.photos,), generator=generator)
        index = self.photo_index[draw]
        answers, captions, traits = self._blank(len(index))
        rows = torch.tensor(self.vocabulary.photo_rows)[self.photos.category[index]]
        answers[torch.arange(len(rows)), rows] = 1
        pictures = self.photos.rgb[index].to(self.device)
        crops = compose.random_crops(pictures, size, (0.35, 1.0), 1.6, generator)
        return Batch(crops, answers, captions, traits)


def _background_photos(photos: Photos | None) -> Tensor | None:
    return None if photos is None else photos.rgb[(photos.category < 0) & ~photos.test]


def trait_wordings(device: torch.device) -> tuple[Wordings, Wordings]:
    """Wordings of each avatar attribute's positive and negative end, in the table's order."""
    pairs = [avatars.two_way_phrases(attribute.name) for attribute in avatars.ATTRIBUTES]
    neither = (("a face", "a face"),)  # attributes without words are never asked for
    positive = tuple(tuple(yes for yes, _ in pair or neither) for pair in pairs)
    negative = tuple(tuple(no for _, no in pair or neither) for pair in pairs)
    return Wordings(positive, device), Wordings(negative, device)


def scene_pool(
    concepts: tuple[Concept, ...], drawn: Tensor, mirrors: Tensor, count: int, seed: int
) -> tuple[scenes.Scenes, Tensor]:
    """Scenes of 1-4 objects and the (N, 384) features of one caption each."""
    generator = torch.Generator().manual_seed(seed)
    pool = scenes.crowded_scenes(count, (1, 4), drawn, mirrors, generator)
    chance = random.Random(seed)
    texts = [scenes.describe(pool, index, concepts, chance).text for index in range(count)]
    return pool, minilm_features(texts)


class FacePool:
    """Avatars drawn once, with the features of their captions and their plain attributes."""

    SIZE = 112

    def __init__(self, count: int, seed: int) -> None:
        looks = avatars.sample(count, seed)
        path = CACHE / f"faces-{count}-{seed}.npy"
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, avatars.draw_batch(looks, self.SIZE))
        self.pictures = torch.from_numpy(np.load(path)).permute(0, 3, 1, 2).contiguous()
        chance = np.random.default_rng(seed)
        self.captions = minilm_features([avatars.caption(look, chance) for look in looks])
        self.traits = plain_traits(looks)


def plain_traits(looks: np.ndarray) -> Tensor:
    """(N, A) +1 where an attribute is plainly so, -1 plainly not, 0 unclear, hidden or wordless."""
    truths = [avatars.truth(look) for look in looks]
    names = [attribute.name for attribute in avatars.ATTRIBUTES]
    sign = {True: 1.0, False: -1.0, None: 0.0}
    return torch.tensor([[sign[truth.get(name)] for name in names] for truth in truths])


def clip_loss(model: nn.Module, batch: Batch, world: World, generator: torch.Generator) -> Tensor:
    """The three parts of the objective, added."""
    scale = model.logit_scale.exp().clamp(max=100)
    image = F.normalize(model.visual(batch.pictures * 2 - 1).float(), dim=-1)  # (B, D)

    def project(features: Tensor) -> Tensor:
        return F.normalize(model.text.proj(features).float(), dim=-1)

    return (
        _vocabulary_loss(image, project(world.words.draw(generator)), batch.answers, scale)
        + 0.5 * _caption_loss(image, batch.captions, world.rivals(generator), project, scale)
        + world.plan.trait_weight
        * _trait_loss(image, batch.traits, world, project, scale, generator)
    )


def _vocabulary_loss(image: Tensor, names: Tensor, answers: Tensor, scale: Tensor) -> Tensor:
    asked = answers.sum(1) > 0
    logits = scale * image[asked] @ names.T  # (b, R)
    return F.cross_entropy(logits, answers[asked], label_smoothing=0.02)


def _caption_loss(
    image: Tensor, captions: Tensor, rivals: Tensor, project: Project, scale: Tensor
) -> Tensor:
    told = captions.abs().sum(1) > 0
    texts = project(torch.cat([captions[told], rivals]))
    logits = scale * image[told] @ texts.T  # (b, b + rivals)
    target = torch.arange(len(logits), device=logits.device)
    own = logits[:, : len(logits)]  # (b, b)
    return (F.cross_entropy(logits, target) + F.cross_entropy(own.T, target)) / 2


def _trait_loss(
    image: Tensor, traits: Tensor, world: World, project: Project, scale: Tensor,
    generator: torch.Generator,
) -> Tensor:  # fmt: skip
    rows, columns = traits.nonzero(as_tuple=True)
    if not len(rows):
        return image.new_zeros(())
    positive, negative = (project(words.draw(generator)) for words in world.traits)
    margin = image @ (positive - negative).T  # (B, A)
    return F.softplus(-scale * margin[rows, columns] * traits[rows, columns]).mean()


def attacked(
    model: nn.Module, batch: Batch, world: World, radius: float, generator: torch.Generator
) -> Batch:
    """The batch moved by one normalised gradient step of random length up to `radius`.

    Single-step L2 adversarial training from a random start (Wong et al. 2020); what it buys is
    gradients that carry shape (Engstrom et al. 2019; Ganz & Elad 2023).
    """
    size = batch.pictures.shape[-1]
    reach = radius * size / 96  # the L2 norm of a like disturbance grows with the side
    noise = torch.randn(batch.pictures.shape, generator=generator).to(batch.pictures.device)
    start = batch.pictures + 0.5 * reach * compose.unit_length(noise)
    start = start.clamp(0, 1).requires_grad_(True)
    loss = clip_loss(model, replace(batch, pictures=start), world, generator)
    (gradient,) = torch.autograd.grad(loss, start)
    length = reach * torch.rand(len(start), 1, 1, 1, generator=generator).to(start.device).sqrt()
    moved = start.detach() + length * compose.unit_length(gradient)
    # Project back onto the ball around the clean picture.
    offset = moved - batch.pictures
    norm = offset.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    offset = offset * (reach / norm.clamp(min=1e-9)).clamp(max=1)
    return replace(batch, pictures=(batch.pictures + offset).clamp(0, 1))


def learning_rate(step: int, plan: ClipTraining) -> float:
    """Factor of the base rate: linear warm-up, then a cosine to 1%."""
    if step < plan.warmup:
        return (step + 1) / plan.warmup
    done = (step - plan.warmup) / max(1, plan.steps - plan.warmup)
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def spread_names(model: nn.Module, names: Tensor) -> None:
    """Begin with a text projection in which names lie apart, and a temperature to match.

    MiniLM's names crowd together (mean cosine 0.16 with one direction common to all; nearest
    neighbours 0.72), and a random projection keeps that: after 1,900 steps from one, top-1 was 2%.
    Half-whitening their second moment (powers -1/2 of the singular values) brings the mean cosine
    to 0.03 and leaves synonyms as near their names as before (75% nearest-name accuracy either way).

    Args:
        names: (R, 384) features of all names.
    """
    _, values, directions = torch.linalg.svd(F.normalize(names.double(), dim=1).cpu())
    linear = linear_map(model.text.proj)
    count = linear.weight.shape[0]
    weight = directions[:count] / values[:count, None].sqrt()  # (D, 384)
    with torch.no_grad():
        linear.weight.copy_(weight / weight.norm(dim=1).mean())
        model.logit_scale.fill_(math.log(30))


def linear_map(head: nn.Module) -> nn.Linear:
    """The linear part of a text head, or the whole of it."""
    found = head.linear if isinstance(head, TextHead) else head
    assert isinstance(found, nn.Linear)
    return found


def fitting(weights: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Weights for `model`: a linear text head becomes the linear part of a `TextHead`, whose
    correction is left as it is."""
    kept, linear = dict(weights), "text.proj.weight"
    if isinstance(model.text.proj, TextHead) and linear in kept:
        head = {f"text.proj.{k}": v for k, v in model.text.proj.state_dict().items()}
        kept |= head | {"text.proj.linear.weight": kept.pop(linear)}
    return kept


def optimizer_for(model: nn.Module, plan: ClipTraining) -> torch.optim.Optimizer:
    """AdamW with weight decay on matrices only and a gentler rate for the text side."""
    text = list(model.text.proj.parameters())
    image = list(model.visual.parameters())
    groups = [
        {"params": [p for p in image if p.ndim > 1], "lr": plan.rate, "weight_decay": plan.decay},
        {"params": [p for p in image if p.ndim <= 1], "lr": plan.rate, "weight_decay": 0.0},
        {"params": [model.logit_scale], "lr": plan.rate, "weight_decay": 0.0},
        {"params": text, "lr": plan.text_rate, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, betas=(0.9, 0.98))


class Run:
    """A resumable training run: model, averaged weights, optimiser, place in the schedule."""

    def __init__(self, plan: ClipTraining, device: torch.device, folder: Path) -> None:
        self.plan, self.device, self.folder = plan, device, folder
        torch.manual_seed(plan.seed)
        self.model = mini_skeleton(ASSETS / plan.model, minilm_directory())
        self.model.text.transformer = nn.Identity()  # frozen, and its features are precomputed
        self.model.to(device=device, memory_format=torch.channels_last)
        self.averaged = torch.optim.swa_utils.AveragedModel(
            self.model,
            multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(plan.average),
            use_buffers=True,
        )
        self.optimizer = optimizer_for(self.model, plan)
        self.step, self.images, self.seconds = 0, 0, 0.0

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint.pt"

    def resume(self) -> None:
        """Continue where the last run in this folder stopped, if there is one."""
        if not self.checkpoint.is_file():
            return
        state = torch.load(self.checkpoint, map_location=self.device, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.averaged.load_state_dict(state["averaged"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.images, self.seconds = state["step"], state["images"], state["seconds"]

    def begin(self, world: World, weights: Path | None = None) -> None:
        """Begin with spread names and a random tower, or with an earlier model's weights."""
        if weights is None:
            spread_names(self.model, world.words.features[world.words.start])
        else:
            self.model.load_state_dict(fitting(read_safetensors(weights), self.model))
        self.averaged.module.load_state_dict(self.model.state_dict())

    def save(self) -> None:
        """Write the checkpoint and the half-precision weights, each in one rename."""
        self.folder.mkdir(parents=True, exist_ok=True)
        state = {
            "model": self.model.state_dict(), "averaged": self.averaged.state_dict(),
            "optimizer": self.optimizer.state_dict(), "step": self.step,
            "images": self.images, "seconds": self.seconds,
        }  # fmt: skip
        partial = self.checkpoint.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(self.checkpoint)
        export(self.averaged.module, self.folder / "model.safetensors")
        facts = {"step": self.step, "images": self.images, "hours": round(self.seconds / 3600, 2),
                 "plan": asdict(self.plan)}  # fmt: skip
        (self.folder / "run.json").write_text(json.dumps(facts, indent=1))

    def train(self, world: World, minutes: float) -> Iterator[dict[str, float]]:
        """Train until the schedule or the time is over; yields figures every 50 steps."""
        began, last_save = time.monotonic(), time.monotonic()
        smooth = float("nan")
        before = self.seconds
        with ThreadPoolExecutor(1) as ahead:  # draws the next batch while this one is learnt
            dealt = ahead.submit(self._deal, world, self.step)
            while self.step < self.plan.steps and time.monotonic() - began < minutes * 60:
                batch, generator = dealt.result()
                dealt = ahead.submit(self._deal, world, self.step + 1)
                loss = self._learn(batch, world, generator)
                smooth = loss if math.isnan(smooth) else 0.98 * smooth + 0.02 * loss
                self.seconds = before + time.monotonic() - began
                if self.step % 50 == 0:
                    yield {"step": self.step, "loss": smooth, "images": self.images,
                           "minutes": self.seconds / 60}  # fmt: skip
                if time.monotonic() - last_save > 180:
                    self.save()
                    last_save = time.monotonic()
        self.save()

    def _deal(self, world: World, step: int) -> tuple[Batch, torch.Generator]:
        """The batch of a step, a function of the seed and the step alone."""
        plan = self.plan
        generator = torch.Generator().manual_seed(plan.seed * 1_000_003 + step)
        size = plan.sizes[0] if step < plan.size_split * plan.steps else plan.sizes[1]
        batch = world.batch(generator, size)
        pictures = batch.pictures.contiguous(memory_format=torch.channels_last)
        return replace(batch, pictures=pictures), generator

    def _learn(self, batch: Batch, world: World, generator: torch.Generator) -> float:
        """One step of the optimiser; returns the loss."""
        plan = self.plan
        bases = (plan.rate, plan.rate, plan.rate, plan.text_rate)
        for group, base in zip(self.optimizer.param_groups, bases, strict=True):
            group["lr"] = base * learning_rate(self.step, plan)
        with torch.autocast(self.device.type, torch.bfloat16):
            if plan.attack > 0:
                batch = attacked(self.model, batch, world, plan.attack, generator)
            loss = clip_loss(self.model, batch, world, generator)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.averaged.update_parameters(self.model)
        self.step += 1
        self.images += len(batch.pictures)
        return float(loss.detach())


def export(model: nn.Module, path: Path) -> None:
    """Half-precision weights of everything but MiniLM."""
    tensors = {
        key: (value.half() if value.is_floating_point() else value).contiguous().cpu().clone()
        for key, value in model.state_dict().items()
    }
    save_file(tensors, str(path))


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "--out",
        type=Path,
        help="run folder, runs/<model> by default; an existing checkpoint in it is continued",
    )
    parser.add_argument("--preset", choices=sorted(PRESETS), default="mini")
    parser.add_argument("--steps", type=int, help="length of the schedule")
    parser.add_argument(
        "--minutes",
        type=float,
        default=math.inf,
        help="stop after this long; the next call continues",
    )
    parser.add_argument(
        "--attack",
        type=float,
        help="L2 radius of adversarial training, for gradients that carry shape",
    )
    parser.add_argument("--start", type=Path, help="begin with these weights (model.safetensors)")
    parser.add_argument("--rate", type=float, help="learning rate of the image tower")
    parser.add_argument("--full-size", action="store_true", help="96 px from the first step on")
    parser.add_argument("--seed", type=int)
    parser.add_argument(
        "--threads", type=int, help="CPU threads; a free choice when two runs share a machine"
    )
    return parser.parse_args(arguments)  # fmt: skip


def plan_of(options: argparse.Namespace) -> ClipTraining:
    """The preset with what the command line changes."""
    plan = PRESETS[options.preset]()
    if options.seed is not None:
        plan = replace(plan, seed=options.seed)
    if options.attack is not None:
        plan = replace(plan, attack=options.attack)
    if options.steps:
        plan = replace(plan, steps=options.steps, warmup=min(plan.warmup, options.steps // 10))
    if options.rate:
        plan = replace(plan, rate=options.rate, text_rate=options.rate / 4)
    if options.full_size:
        plan = replace(plan, size_split=0.0)
    return plan


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    plan = plan_of(options)
    if options.threads:
        torch.set_num_threads(options.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    run = Run(plan, device, options.out or Path("runs") / plan.model)
    world = World(plan, device, Material.everything())
    run.begin(world, options.start)
    run.resume()
    for figures in run.train(world, options.minutes):
        print(" ".join(f"{name} {value:.4g}" for name, value in figures.items()), flush=True)


if __name__ == "__main__":
    main()
