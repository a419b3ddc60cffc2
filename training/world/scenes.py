"""Emoji scenes: what stands where, and sentences that say so truthfully, phrase by phrase."""

import random
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .compose import TINTS, Layout, uniform
from .concepts import Concept
from .sprites import SpriteBank

SIZE_FACTORS = {-1: 0.62, 0: 1.0, 1: 1.38}  # small, unremarkable, big
SIZE_WORDS = {-1: ("small", "little", "tiny"), 1: ("big", "large", "huge")}
COUNT_WORDS = {2: "two", 3: "three", 4: "four", 5: "five", 6: "six", 7: "seven", 8: "eight"}
OPENINGS = ("", "", "", "a picture of ", "an image with ", "there is ", "a scene with ")
UNCOUNTABLE_ENDS = ("s", "hair", "rice", "food", "money", "bread", "sushi", "fish", "sheep")


class SpriteTable:
    """Concept -> the sprites that draw it, as one padded tensor, so that choosing is one lookup."""

    def __init__(self, bank: SpriteBank, concepts: int) -> None:
        members: list[list[int]] = [[] for _ in range(concepts)]
        for index, concept in enumerate(bank.concept.tolist()):
            members[concept].append(index)
        widest = max(map(len, members))
        self.count = torch.tensor([len(m) for m in members])
        self.sprites = torch.tensor([m + [-1] * (widest - len(m)) for m in members])

    @property
    def drawn(self) -> Tensor:
        """Indices of the concepts that have a sprite."""
        return (self.count > 0).nonzero().squeeze(1)

    def choose(self, concept: Tensor, generator: torch.Generator) -> Tensor:
        """A random sprite for each concept; -1 stays -1. Any shape."""
        safe = concept.clamp(min=0)
        draw = torch.rand(concept.shape, generator=generator)
        pick = (draw * self.count[safe]).long()
        return torch.where(concept >= 0, self.sprites[safe, pick], -1)

    def lay_out(self, scenes: "Scenes", generator: torch.Generator) -> Layout:
        """The scenes' layout with a random sprite for each object."""
        return replace(scenes.layout, sprite=self.choose(scenes.concept, generator))


@dataclass(frozen=True)
class Scenes:
    """N scenes of up to K objects.

    Attributes:
        concept: (N, K) index into the concept list, -1 for an empty place.
        size: (N, K) -1 small, 0 unremarkable, 1 big.
        layout: where they stand; `layout.sprite` is drawn anew with every rendering.
    """

    concept: Tensor
    size: Tensor
    layout: Layout

    def __len__(self) -> int:
        return self.concept.shape[0]

    def select(self, index: Tensor) -> "Scenes":
        """The scenes at `index`."""
        return Scenes(self.concept[index], self.size[index], self.layout.select(index))


@dataclass(frozen=True)
class Phrase:
    """A piece of a caption and the objects it names: `caption[begin:end]`, places in the scene."""

    begin: int
    end: int
    places: tuple[int, ...]


@dataclass(frozen=True)
class Caption:
    """A sentence about a scene with its phrases."""

    text: str
    phrases: tuple[Phrase, ...]


def mirror_rule(concepts: tuple[Concept, ...]) -> Tensor:
    """(C,) bool: concepts whose mirror picture shows the same thing."""
    return torch.tensor([concept.mirrors for concept in concepts])


def single_objects(concept: Tensor, mirrors: Tensor, generator: torch.Generator) -> Scenes:
    """One large object a picture, as a person would crop it. `concept` is (N,)."""
    count = len(concept)
    shape = (count, 1)
    layout = Layout(
        sprite=torch.full(shape, -1),
        centre=uniform(generator, (count, 1, 2), 0.4, 0.6),
        scale=uniform(generator, shape, 0.5, 1.0),
        angle=uniform(generator, shape, -0.3, 0.3),
        mirror=(torch.rand(shape, generator=generator) < 0.5) & mirrors[concept][:, None],
        tint=_some_tints(shape, 0.08, generator),
    )
    return Scenes(concept[:, None], torch.zeros(shape, dtype=torch.long), layout)


def crowded_scenes(
    count: int, objects: tuple[int, int], drawn: Tensor, mirrors: Tensor,
    generator: torch.Generator, repeat: float = 0.15, tinted: float = 0.25,
) -> Scenes:  # fmt: skip
    """Scenes with several objects on a loose grid, so that they overlap a little, not wholly.

    Args:
        objects: fewest and most objects; the result has `objects[1]` places.
        drawn: (D,) concept indices to choose from.
        repeat: probability that the second object repeats the first one's concept.
        tinted: probability that an object is tinted with a named colour.
    """
    low, high = objects
    shape = (count, high)
    number = torch.randint(low, high + 1, (count, 1), generator=generator)
    filled = torch.arange(high)[None] < number
    concept = drawn[torch.randint(len(drawn), shape, generator=generator)]
    twice = (torch.rand(count, generator=generator) < repeat) & (number[:, 0] > 1)
    if high > 1:
        concept[twice, 1] = concept[twice, 0]
    sizes = torch.randint(-1, 2, shape, generator=generator)
    side = torch.where(number <= 1, 1, torch.where(number <= 4, 2, 3))  # (N, 1) cells a side
    cell = _distinct_cells(side, high, generator)
    within = uniform(generator, (count, high, 2), 0.32, 0.68)
    position = torch.stack([cell % side, cell // side], dim=2)
    factor = torch.tensor([SIZE_FACTORS[s] for s in (-1, 0, 1)])[sizes + 1]
    layout = Layout(
        sprite=torch.full(shape, -1),
        centre=(position + within) / side[:, :, None],
        scale=(factor * uniform(generator, shape, 0.8, 1.0) / side).clamp(max=1.0),
        angle=uniform(generator, shape, -0.3, 0.3),
        mirror=(torch.rand(shape, generator=generator) < 0.5) & mirrors[concept],
        tint=_some_tints(shape, tinted, generator),
    )
    return Scenes(torch.where(filled, concept, -1), torch.where(filled, sizes, 0), layout)


def _distinct_cells(side: Tensor, places: int, generator: torch.Generator) -> Tensor:
    """(N, places) different cells of each picture's own side x side grid."""
    order = torch.rand(len(side), 9, generator=generator)
    order = order.masked_fill(torch.arange(9)[None] >= side * side, 2.0)
    return order.argsort(dim=1)[:, :places]


def _some_tints(shape: tuple[int, ...], share: float, generator: torch.Generator) -> Tensor:
    tint = torch.randint(len(TINTS), shape, generator=generator)
    return torch.where(torch.rand(shape, generator=generator) < share, tint, -1)


def plural(name: str) -> str:
    """English plural of a noun phrase by its last word: "fox" -> "foxes", "bell pepper" -> "...s"."""
    head, _, rest = name.partition(" with ")
    if head.endswith(UNCOUNTABLE_ENDS):
        grown = head
    elif head.endswith(("x", "ch", "sh")):
        grown = head + "es"
    elif head.endswith("y") and head[-2:-1] not in "aeiou":
        grown = head[:-1] + "ies"
    else:
        grown = head + "s"
    return f"{grown} with {rest}" if rest else grown


def with_article(words: str) -> str:
    """ "owl" -> "an owl"."""
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def describe(
    scenes: Scenes, index: int, concepts: tuple[Concept, ...], chance: random.Random,
    attributes: float = 0.7, relation: float = 0.35,
) -> Caption:  # fmt: skip
    """A truthful sentence about one scene.

    Args:
        attributes: probability that a remarkable size or a tint is mentioned.
        relation: probability that two objects are told apart by where they stand.
    """
    named = groups(scenes, index)
    phrases = [_noun_phrase(scenes, index, g, concepts, chance, attributes) for g in named]
    joints = [", "] * (len(phrases) - 1)
    if joints:
        joints[-1] = " and "
    if len(phrases) >= 2 and len(named[0]) == len(named[1]) == 1 and chance.random() < relation:
        joints[0] = f" {_relation(scenes, index, named[0][0], named[1][0], chance)} "
    text, spans = chance.choice(OPENINGS), []
    for place, phrase in enumerate(phrases):
        spans.append(Phrase(len(text), len(text) + len(phrase), named[place]))
        text += phrase + (joints[place] if place < len(joints) else "")
    return Caption(text, tuple(spans))


def groups(scenes: Scenes, index: int) -> list[tuple[int, ...]]:
    """Places that show the same concept alike are named together ("two dogs")."""
    found: dict[int, list[int]] = {}
    for place, concept in enumerate(scenes.concept[index].tolist()):
        if concept >= 0:
            found.setdefault(concept, []).append(place)
    return [tuple(places) for places in found.values()]


def _noun_phrase(
    scenes: Scenes, index: int, places: tuple[int, ...], concepts: tuple[Concept, ...],
    chance: random.Random, attributes: float,
) -> str:  # fmt: skip
    concept = concepts[int(scenes.concept[index, places[0]])]
    name = chance.choice((concept.name, concept.name, *concept.synonyms[:3]))
    words = []
    sizes = {int(scenes.size[index, place]) for place in places}
    tints = {int(scenes.layout.tint[index, place]) for place in places}
    if len(sizes) == 1 and (size := sizes.pop()) and chance.random() < attributes:
        words.append(chance.choice(SIZE_WORDS[size]))
    if len(tints) == 1 and (tint := tints.pop()) >= 0 and chance.random() < attributes:
        words.append(TINTS[tint][0])
    if len(places) > 1:
        return " ".join([COUNT_WORDS[len(places)], *words, plural(name)])
    return with_article(" ".join([*words, name]))


def _relation(scenes: Scenes, index: int, first: int, second: int, chance: random.Random) -> str:
    """Where the first object stands as seen from the second (image y grows downwards)."""
    dx, dy = (scenes.layout.centre[index, first] - scenes.layout.centre[index, second]).tolist()
    if abs(dx) >= abs(dy):
        return "to the left of" if dx < 0 else "to the right of"
    return chance.choice(("above", "over")) if dy < 0 else chance.choice(("below", "under"))
