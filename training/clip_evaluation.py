"""What clip-mini can do, measured on pictures and words it never saw.

Every figure goes through the product's own encoder (`models.clip.load_mini`), so what is measured
is what people get. Nothing here shares a seed with training.
"""

import random
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import to_pil_image

from models.clip import ClipEncoder, load_mini
from models.clip.relevance import RelevanceConfig, explain
from models.jobs import run_to_end
from training.world import avatars, compose, scenes, sprites
from training.world.concepts import Concept, load
from training.world.photos import load_photos
from training.world.sources import FAMILIES, TRAINED

SEED = 777_000  # training seeds are 2024 * 1_000_003 + step and the pools' 2024
SIZE = 96
ASCENT_PROMPTS = (
    "strawberry", "cat face", "sunflower", "tropical fish", "umbrella", "rocket", "guitar", "house",
)  # fmt: skip


@dataclass(frozen=True)
class Figure:
    """One measured number beside its bar; `holds` is None where nothing was promised."""

    name: str
    value: float
    bar: float | None
    unit: str = "%"
    at_most: bool = False

    @property
    def holds(self) -> bool | None:
        if self.bar is None:
            return None
        return self.value <= self.bar if self.at_most else self.value >= self.bar

    def row(self) -> str:
        """A line of the model card's table."""
        sign = "<=" if self.at_most else ">="
        bar = "" if self.bar is None else f"{sign} {self.bar:g} {self.unit}"
        verdict = {None: "", True: "holds", False: "**falls short**"}[self.holds]
        return f"| {self.name} | {self.value:.1f} {self.unit} | {bar} | {verdict} |"


def features(encoder: ClipEncoder, pictures: Tensor) -> Tensor:
    """(N, 3, H, W) in [0, 1] -> (N, D) unit vectors."""
    side = encoder.image_size
    with torch.inference_mode():
        if pictures.shape[-1] != side:
            pictures = torch.nn.functional.interpolate(
                pictures, (side, side), mode="bicubic", antialias=True, align_corners=False
            ).clamp(0, 1)
        parts = [encoder.image_features(encoder.normalize(p)) for p in pictures.split(128)]
    return torch.cat(parts).cpu()


class Emoji:
    """Unseen renderings of single objects."""

    def __init__(self, encoder: ClipEncoder) -> None:
        self.encoder = encoder
        self.concepts: tuple[Concept, ...] = load()
        self.names = encoder.encode_text([concept.name for concept in self.concepts])
        photos = load_photos()
        self.photos = photos.rgb[(photos.category < 0) & photos.test]
        self.mirrors = scenes.mirror_rule(self.concepts)

    @cached_property
    def trained(self) -> sprites.SpriteBank:
        """The sprites of all trained families."""
        return sprites.load_bank(TRAINED)

    def draw(self, bank: sprites.SpriteBank, seed: int) -> tuple[Tensor, Tensor]:
        """One picture of every sprite: features (N, D) and concepts (N,)."""
        generator = torch.Generator().manual_seed(seed)
        chosen = scenes.single_objects(bank.concept, self.mirrors, generator)
        layout = replace(chosen.layout, sprite=torch.arange(len(bank))[:, None])
        composer = compose.Composer(bank.rgba, self.photos, SIZE, torch.device("cpu"))
        rows = []
        for index in torch.arange(len(bank)).split(128):
            pictures = composer.render(layout.select(index), generator)
            rows.append(features(self.encoder, compose.disturb(pictures, generator)))
        return torch.cat(rows), bank.concept

    def accuracy(self) -> Iterator[Figure]:
        """Top-1 and top-5 over all names, family by family."""
        trained: list[float] = []
        for family in FAMILIES:
            image, concept = self.draw(sprites.load_bank((family,)), SEED)
            order = (image @ self.names.T).topk(5, dim=1).indices  # (N, 5)
            hit = order == concept[:, None]
            top1, top5 = hit[:, 0].float().mean() * 100, hit.any(1).float().mean() * 100
            where = "trained" if family.trained else "held out"
            bar = None if family.trained else 55.0
            yield Figure(
                f"top-1 of {len(self.names)} names, {family.name} ({where})", float(top1), bar
            )
            yield Figure(f"top-5, {family.name} ({where})", float(top5), None)
            if family.trained:
                trained += hit[:, 0].float().tolist()
        yield Figure("top-1, all trained families", 100 * statistics.fmean(trained), 90.0)

    def synonyms(self) -> Figure:
        """Top-1 when a concept's name is replaced by a synonym no training text contained."""
        pairs = [(row, word) for row, c in enumerate(self.concepts) for word in c.unseen_synonyms]
        words = self.encoder.encode_text([word for _, word in pairs])
        image, concept = self.draw(self.trained, SEED + 1)
        logits = image @ self.names.T  # (N, C)
        hits = []
        for (row, _), word in zip(pairs, words, strict=True):
            mine = concept == row
            rivals = logits[mine].clone()
            rivals[:, row] = image[mine] @ word
            hits += (rivals.argmax(1) == row).float().tolist()
        return Figure(f"typed synonyms never trained ({len(pairs)} of them)",
                      100 * statistics.fmean(hits), 60.0)  # fmt: skip


def photographs(encoder: ClipEncoder) -> Iterator[Figure]:
    """Top-1 and top-5 over the 99 categories of Caltech-101's test split."""
    photos = load_photos()
    chosen = (photos.test & (photos.category >= 0)).nonzero().squeeze(1)
    pictures = [to_pil_image(photos.rgb[i]) for i in chosen.tolist()]
    image = encoder.encode_image(pictures)
    names = encoder.encode_text([f"a photo of a {name}" for name in photos.names])
    order = (image @ names.T).topk(5, dim=1).indices
    hit = order == photos.category[chosen][:, None]
    yield Figure(f"photographs, top-1 of {len(names)} ({len(chosen)} test pictures)",
                 float(hit[:, 0].float().mean() * 100), 55.0)  # fmt: skip
    yield Figure("photographs, top-5", float(hit.any(1).float().mean() * 100), None)


def avatar_traits(encoder: ClipEncoder, count: int = 3000) -> Iterator[Figure]:
    """Two-way accuracy: is the true phrase nearer than its opposite? Balanced over both sides."""
    looks = avatars.sample(count, SEED)
    pictures = torch.from_numpy(avatars.draw_batch(looks, 112)).permute(0, 3, 1, 2)
    small = torch.nn.functional.interpolate(
        pictures.float() / 255, (SIZE, SIZE), mode="bicubic", antialias=True, align_corners=False
    )
    image = features(encoder, small.clamp(0, 1))
    truths = [avatars.truth(look) for look in looks]
    scores = {}
    for attribute in avatars.ATTRIBUTES:
        pairs = avatars.two_way_phrases(attribute.name)
        if pairs:
            answers = [truth.get(attribute.name) for truth in truths]
            scores[attribute.name] = _two_way(encoder, image, pairs, answers)
    yield Figure(f"avatar attributes, two-way, mean of {len(scores)}",
                 statistics.fmean(scores.values()), 95.0)  # fmt: skip
    for name, score in sorted(scores.items(), key=lambda item: item[1]):
        yield Figure(f"avatar attribute {name.replace('_', ' ')}", score, None)


def _two_way(
    encoder: ClipEncoder, image: Tensor, pairs: list[tuple[str, str]], answers: list[bool | None]
) -> float:
    positive = encoder.encode_text([yes for yes, _ in pairs])
    negative = encoder.encode_text([no for _, no in pairs])
    said = image @ (positive - negative).T > 0  # (N, wordings)
    sides = []
    for side in (True, False):
        rows = torch.tensor([answer is side for answer in answers])
        sides.append(float((said[rows] == side).float().mean() * 100))
    return statistics.fmean(sides)


def retrieval(encoder: ClipEncoder, emoji: Emoji, count: int = 1000) -> Iterator[Figure]:
    """R@1 between scenes of three objects and their captions, both ways."""
    bank = emoji.trained
    table = scenes.SpriteTable(bank, len(emoji.concepts))
    generator = torch.Generator().manual_seed(SEED + 2)
    chosen = scenes.crowded_scenes(count, (3, 3), table.drawn, emoji.mirrors, generator)
    chance = random.Random(SEED)
    texts = [scenes.describe(chosen, i, emoji.concepts, chance).text for i in range(count)]
    layout = table.lay_out(chosen, generator)
    composer = compose.Composer(bank.rgba, emoji.photos, SIZE, torch.device("cpu"))
    rows = [
        features(encoder, composer.render(layout.select(index), generator))
        for index in torch.arange(count).split(128)
    ]
    similarity = torch.cat(rows) @ encoder.encode_text(texts).T  # (pictures, texts)
    right = torch.arange(count)
    to_image = (similarity.argmax(0) == right).float().mean() * 100
    to_text = (similarity.argmax(1) == right).float().mean() * 100
    yield Figure(f"text to image R@1, {count} three-object scenes", float(to_image), 60.0)
    yield Figure("image to text R@1", float(to_text), 60.0)


def pairs(
    emoji: Emoji, bank: sprites.SpriteBank, count: int, seed: int
) -> Iterator[tuple[Image.Image, list[str], Tensor]]:
    """Scenes of two different concepts: picture, both names, boxes (2, 4) xyxy in pixels."""
    generator = torch.Generator().manual_seed(seed)
    table = scenes.SpriteTable(bank, len(emoji.concepts))
    chosen = scenes.crowded_scenes(
        count, (2, 2), table.drawn, emoji.mirrors, generator, repeat=0.0, tinted=0.0
    )
    chosen = chosen.select((chosen.concept[:, 0] != chosen.concept[:, 1]).nonzero().squeeze(1))
    layout = table.lay_out(chosen, generator)
    composer = compose.Composer(bank.rgba, emoji.photos, 2 * SIZE, torch.device("cpu"))
    for index in range(len(chosen)):
        one = layout.select(torch.tensor([index]))
        names = [emoji.concepts[c].name for c in chosen.concept[index].tolist()]
        yield to_pil_image(composer.render(one, generator)[0]), names, composer.truth(one).boxes[0]


def relevance_peaks(
    encoder: ClipEncoder, emoji: Emoji, bank: sprites.SpriteBank, count: int = 200,
    config: RelevanceConfig | None = None,
) -> Figure:  # fmt: skip
    """How often the map of a named object peaks inside its box, in scenes of two objects."""
    hits = []
    for picture, names, boxes in pairs(emoji, bank, count, SEED + 3):
        heat = run_to_end(explain(encoder, picture, names, 0, config=config or RelevanceConfig()))
        (x, y), (x1, y1, x2, y2) = heat.peak, boxes[0].tolist()
        hits.append(x1 <= x <= x2 and y1 <= y <= y2)
    return Figure(f"relevance maps that peak inside the object's box ({len(hits)} scenes)",
                  100 * statistics.fmean(hits), 85.0)  # fmt: skip


def latency(encoder: ClipEncoder, repeats: int = 60) -> Iterator[Figure]:
    """Median milliseconds of one picture and of one text, preprocessing included, nothing cached."""
    generator = torch.Generator().manual_seed(0)
    pictures = [to_pil_image(torch.rand(3, 480, 640, generator=generator)) for _ in range(repeats)]
    texts = [f"a photo of a dog number {i}" for i in range(repeats)]

    def median(work: Callable[[int], object]) -> float:
        times = []
        for index in range(repeats):
            began = time.perf_counter()
            work(index)
            times.append(time.perf_counter() - began)
        return statistics.median(times) * 1000

    yield Figure("encode one 640x480 picture", median(lambda i: encoder.encode_image([pictures[i]])),
                 30.0, "ms", at_most=True)  # fmt: skip
    yield Figure("encode one text", median(lambda i: encoder.encode_text([texts[i]])), None, "ms")


def storage_loss(directory: Path, checkpoint: Path) -> Figure:
    """Top-1 of a run's float32 averaged weights minus that of the folder's smaller file, on Noto."""
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)["averaged"]
    exact = load_mini(directory, torch.device("cpu"), torch.float32)
    prefix = "module."
    ours = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    text = {k: v for k, v in exact.model.state_dict().items() if k.startswith("text.transformer.")}
    exact.model.load_state_dict({**text, **ours}, strict=True)
    rounded = load_mini(directory, torch.device("cpu"), torch.float32)
    bank = sprites.load_bank((FAMILIES[0],))
    scores = []
    for encoder in (exact, rounded):
        emoji = Emoji(encoder)
        image, concept = emoji.draw(bank, SEED)
        hit = (image @ emoji.names.T).argmax(1) == concept
        scores.append(float(hit.float().mean() * 100))
    return Figure(
        "lost by the file's precision (top-1, Noto)", scores[0] - scores[1], None, "points"
    )


def evaluate(directory: Path) -> Iterator[Figure]:
    """All figures of the model in a folder."""
    encoder = load_mini(directory, torch.device("cpu"), torch.float32)
    emoji = Emoji(encoder)
    yield from emoji.accuracy()
    yield emoji.synonyms()
    yield from photographs(encoder)
    yield from retrieval(encoder, emoji)
    yield relevance_peaks(encoder, emoji, emoji.trained)
    yield from avatar_traits(encoder)
    yield from latency(encoder)


def without_bars(directory: Path) -> Iterator[Figure]:
    """The same figures of a model that nothing was promised of."""
    for figure in evaluate(directory):
        yield replace(figure, bar=None)


def portraits(directory: Path) -> Iterator[Figure]:
    """What an encoder of drawn faces reads in them."""
    encoder = load_mini(directory, torch.device("cpu"), torch.float32)
    for figure in avatar_traits(encoder):
        yield replace(figure, bar=None)


def ascend(
    encoder: ClipEncoder, prompts: list[str], steps: int = 150, seed: int = 0
) -> list[Image.Image]:
    """The picture each prompt asks for, by gradient ascent on pixels from grey.

    Normalised L2 steps on 8 shifted, scaled copies; what appears shows which shapes the model's
    gradients know (Engstrom et al. 2019, section 3.2).
    """
    generator = torch.Generator().manual_seed(seed)
    target = encoder.encode_text(prompts).to(encoder.device)
    # The other prompts are what each picture should *not* look like.
    target = torch.nn.functional.normalize(target - 0.5 * target.mean(0), dim=-1)
    side = encoder.image_size
    canvas = 0.5 + 0.05 * torch.randn(len(prompts), 3, side, side, generator=generator)
    for step in range(steps):
        canvas.requires_grad_(True)
        copies = torch.cat([_moved(canvas, generator) for _ in range(8)])
        image = encoder.image_features(encoder.normalize(copies))
        (gradient,) = torch.autograd.grad((image * target.repeat(8, 1)).sum(), canvas)
        length = 1.5 * side / 96 * (1 - step / steps)
        canvas = (canvas.detach() + length * compose.unit_length(gradient)).clamp(0, 1)
    return [to_pil_image(picture) for picture in canvas]


def _moved(canvas: Tensor, generator: torch.Generator) -> Tensor:
    scale = float(compose.uniform(generator, (1,), 0.85, 1.1))
    shift = compose.uniform(generator, (2,), -0.1, 0.1).tolist()
    matrix = torch.tensor([[scale, 0, shift[0]], [0, scale, shift[1]]])
    grid = torch.nn.functional.affine_grid(
        matrix.expand(len(canvas), 2, 3), list(canvas.shape), align_corners=False
    )
    return torch.nn.functional.grid_sample(
        canvas, grid, padding_mode="reflection", align_corners=False
    )
