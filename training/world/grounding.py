"""Annotated pictures for detectors: emoji scenes and avatars with boxes tied to words.

Five kinds, each with the question that it asks:
- `names`: a scene of one to eight things, asked for by a list of its names among absent ones;
- `caption`: the same kind of scene, told in a sentence with counts, sizes, colours and relations;
- `contrast`: two things of one name that differ in size or colour, told apart by the adjective;
- `relation`: two things of one name on either side of a third, told apart by where they stand;
- `avatar`: a drawn face, asked for its glasses, hat, beard and so on.

A fifth of the concepts is *held out*: never drawn and never named here, so that they measure words
that the detector was never given a box for.
"""

import random
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from . import avatars, scenes, sprites
from .compose import TINTS, Composer, disturb, jpeg, uniform
from .concepts import Concept, load
from .photos import load_photos
from .scenes import SIZE_WORDS, Caption, Phrase, Scenes, SpriteTable, with_article
from .sources import TRAINED, Family

KINDS = ("names", "caption", "contrast", "relation", "avatar")
SHARES = (0.36, 0.16, 0.20, 0.14, 0.14)
SEEN = 0.35  # an object that later ones cover more than this leaves is not asked for
MOST_ABSENT = 24
PARTS = {
    "face": ("face", "head"),
    "glasses": ("glasses", "spectacles", "eyeglasses"),
    "hat": ("hat", "cap", "headwear"),
    "beard": ("beard", "full beard"),
    "moustache": ("moustache", "mustache"),
    "earrings": ("earrings", "earring"),
}
# A drawn face has skin, hair and clothes; nothing of these groups is ever on it.
NEVER_ON_A_FACE = ("animals", "food", "travel")
LATERAL = (("to the left of", "on the left of"), ("to the right of", "on the right of"))
VERTICAL = (("above", "over"), ("below", "under"))


@dataclass(frozen=True)
class Annotated:
    """One picture with its words.

    Attributes:
        picture: (3, S, S) float32 in [0, 1].
        caption: the words and, phrase by phrase, the boxes that they name (`places` indexes rows
            of `boxes`; a phrase of an absent thing names none).
        boxes: (B, 4) float32 xyxy in pixels of the picture.
        kind: one of `KINDS`.
        listed: the caption is a list of names joined by ". ".
    """

    picture: Tensor
    caption: Caption
    boxes: Tensor
    kind: str
    listed: bool


def is_held_out(concept: Concept) -> bool:
    """Whether a concept is one of the fifth that no detector is trained on."""
    return zlib.crc32(f"held out {concept.code}".encode()) % 5 == 0


def name_list(names: list[str], places: list[tuple[int, ...]]) -> Caption:
    """Names as the list prompt "a. b" with their boxes."""
    text, phrases = "", []
    for name, mine in zip(names, places, strict=True):
        text += ". " if text else ""
        phrases.append(Phrase(len(text), len(text) + len(name), mine))
        text += name
    return Caption(text, tuple(phrases))


class GroundingWorld:
    """Draws annotated pictures.

    Args:
        held_out: draw the held-out concepts (True), the others (False) or all (None).
        families: emoji drawings to take.
        size: side of the pictures, pixels.
    """

    def __init__(
        self,
        held_out: bool | None = False,
        families: tuple[Family, ...] = TRAINED,
        size: int = 256,
        device: torch.device | None = None,
    ) -> None:
        self.concepts = load()
        bank = sprites.load_bank(families)
        photos = load_photos()
        self.size = size
        self.table = SpriteTable(bank, len(self.concepts))
        self.mirrors = scenes.mirror_rule(self.concepts)
        backgrounds = photos.rgb[photos.category < 0]
        self.composer = Composer(bank.rgba, backgrounds, size, device or torch.device("cpu"))
        wanted = torch.tensor(
            [held_out is None or is_held_out(c) == held_out for c in self.concepts]
        )
        self.drawn = self.table.drawn[wanted[self.table.drawn]]
        on_faces = [i for i in self.drawn.tolist() if self.concepts[i].group in NEVER_ON_A_FACE]
        self.never_on_a_face = [self.concepts[i].name for i in on_faces]

    def sample(self, kind: str, count: int, seed: int) -> list[Annotated]:
        """`count` pictures of one kind; the same seed gives the same pictures."""
        generator = torch.Generator().manual_seed(seed)
        chance = random.Random(seed)
        if kind == "avatar":
            return self._avatars(count, generator, chance)
        if kind in ("names", "caption"):
            drawn = self._crowds(count, generator)
        else:
            drawn = self._twins(count, kind, generator)
        return self._annotated(drawn, kind, generator, chance)

    def _crowds(self, count: int, generator: torch.Generator) -> Scenes:
        return scenes.crowded_scenes(count, (1, 8), self.drawn, self.mirrors, generator)

    def _twins(self, count: int, kind: str, generator: torch.Generator) -> Scenes:
        """Scenes whose first two objects have one name, a third another."""
        objects = (3, 5) if kind == "contrast" else (3, 3)
        drawn = scenes.crowded_scenes(count, objects, self.drawn, self.mirrors, generator)
        concept, layout = drawn.concept.clone(), drawn.layout
        concept[:, 1] = concept[:, 0]
        distinct = (concept[:, :1] != concept[:, 2:]) | (concept[:, 2:] < 0)
        keep = distinct.all(1).nonzero().squeeze(1)
        drawn = Scenes(concept, drawn.size, layout).select(keep)
        if kind == "contrast":
            return _told_apart_by_adjective(drawn, generator)
        return _on_either_side(drawn, generator)

    def _annotated(
        self, drawn: Scenes, kind: str, generator: torch.Generator, chance: random.Random
    ) -> list[Annotated]:
        layout = self.table.lay_out(drawn, generator)
        truth = self.composer.truth(layout)
        pictures = disturb(self.composer.render(layout, generator), generator)
        pictures = jpeg(pictures, generator, 0.3).cpu()
        tell: dict[str, Callable[[Scenes, int, random.Random], Caption]] = {
            "names": self._asked_by_name,
            "caption": lambda s, i, c: scenes.describe(s, i, self.concepts, c),
            "contrast": self._asked_by_adjective,
            "relation": self._asked_by_relation,
        }
        found = []
        for index in range(len(drawn)):
            caption = tell[kind](drawn, index, chance)
            seen = (truth.visible[index] >= SEEN) & (drawn.concept[index] >= 0)
            caption, boxes = _only_seen(caption, truth.boxes[index], seen)
            found.append(Annotated(pictures[index], caption, boxes, kind, kind == "names"))
        return found

    def _name(self, concept: int, chance: random.Random) -> str:
        known = self.concepts[concept]
        if known.synonyms and chance.random() < 0.25:
            return chance.choice(known.synonyms[:3])
        return known.name

    def _asked_by_name(self, drawn: Scenes, index: int, chance: random.Random) -> Caption:
        """The scene's names among up to `MOST_ABSENT` others, in any order."""
        groups = scenes.groups(drawn, index)
        present = {int(drawn.concept[index, places[0]]): places for places in groups}
        others = chance.sample(self.drawn.tolist(), chance.randint(0, MOST_ABSENT))
        wanted: list[tuple[int, tuple[int, ...]]] = list(present.items())
        wanted += [(concept, ()) for concept in others if concept not in present]
        chance.shuffle(wanted)
        names: dict[str, tuple[int, ...]] = {}
        for concept, places in wanted:
            names.setdefault(self._name(concept, chance), places)
        return name_list(list(names), list(names.values()))

    def _asked_by_adjective(self, drawn: Scenes, index: int, chance: random.Random) -> Caption:
        """ "the small dog and the big dog", "a red car": the adjective decides."""
        name = self._name(int(drawn.concept[index, 0]), chance)
        by_tint = int(drawn.layout.tint[index, 0]) >= 0
        asked = [0, 1] if chance.random() < 0.5 else [chance.choice((0, 1))]
        chance.shuffle(asked)
        text, phrases = chance.choice(scenes.OPENINGS), []
        for place in asked:
            if by_tint:
                adjective = TINTS[int(drawn.layout.tint[index, place])][0]
            else:
                adjective = chance.choice(SIZE_WORDS[int(drawn.size[index, place])])
            words = f"{adjective} {name}"
            words = f"the {words}" if chance.random() < 0.5 else with_article(words)
            text += " and " if phrases else ""
            phrases.append(Phrase(len(text), len(text) + len(words), (place,)))
            text += words
        return Caption(text, tuple(phrases))

    def _asked_by_relation(self, drawn: Scenes, index: int, chance: random.Random) -> Caption:
        """ "the dog to the left of the tree" where another dog stands to its right."""
        asked = chance.choice((0, 1))
        dx, dy = (drawn.layout.centre[index, asked] - drawn.layout.centre[index, 2]).tolist()
        words = LATERAL[dx > 0] if abs(dx) > abs(dy) else VERTICAL[dy > 0]
        first = f"the {self._name(int(drawn.concept[index, 0]), chance)}"
        second = f"the {self._name(int(drawn.concept[index, 2]), chance)}"
        between = f" {chance.choice(words)} "
        start = len(first) + len(between)
        phrases = (
            Phrase(0, len(first), (asked,)),
            Phrase(start, start + len(second), (2,)),
        )
        return Caption(first + between + second, phrases)

    def _avatars(
        self, count: int, generator: torch.Generator, chance: random.Random
    ) -> list[Annotated]:
        """Faces that fill the picture or a part of it, asked for what they wear."""
        looks = avatars.sample(count, chance.randrange(2**31))
        backgrounds = self.composer.backgrounds(count, generator)
        shrink = torch.where(
            torch.rand(count, generator=generator) < 0.5,
            1.0,
            uniform(generator, (count,), 0.45, 1.0),
        )
        corner = torch.rand(count, 2, generator=generator)
        found, pictures = [], backgrounds
        for index, look in enumerate(looks):
            side = max(32, round(float(shrink[index]) * self.size))
            left, top = (corner[index] * (self.size - side)).round().long().tolist()
            face = torch.from_numpy(avatars.draw(look, side)).permute(2, 0, 1).float() / 255
            pictures[index, :, top : top + side, left : left + side] = face
            boxes = {
                name: None if box is None else np.asarray(box) + np.array((left, top, left, top))
                for name, box in avatars.boxes(look, side).items()
            }
            found.append(self._asked_for_parts(boxes, chance))
        pictures = jpeg(disturb(pictures, generator), generator, 0.3).cpu()
        return [
            Annotated(picture, caption, boxes, "avatar", True)
            for picture, (caption, boxes) in zip(pictures, found, strict=True)
        ]

    def _asked_for_parts(
        self, boxes: dict[str, np.ndarray | None], chance: random.Random
    ) -> tuple[Caption, Tensor]:
        rings = [boxes.pop("earring_left"), boxes.pop("earring_right")]
        parts = {**{name: [box] for name, box in boxes.items()}, "earrings": rings}
        asked = [(part, chance.choice(PARTS[part])) for part in PARTS if chance.random() < 0.8]
        absent = chance.sample(self.never_on_a_face, chance.randint(0, 8))
        asked += [("", name) for name in absent]
        chance.shuffle(asked)
        rows, places = [], []
        for part, _ in asked:
            mine = [box for box in parts.get(part, []) if box is not None]
            places.append(tuple(range(len(rows), len(rows) + len(mine))))
            rows += mine
        caption = name_list([word for _, word in asked], places)
        return caption, torch.from_numpy(np.asarray(rows, np.float32).reshape(-1, 4))


def _told_apart_by_adjective(drawn: Scenes, generator: torch.Generator) -> Scenes:
    """The first two objects get opposite sizes or two named colours; each takes turns."""
    size, layout = drawn.size.clone(), drawn.layout
    count = len(drawn)
    by_tint = torch.rand(count, generator=generator) < 0.5
    swap = torch.rand(count, generator=generator) < 0.5
    small = torch.where(swap, 0, 1)  # place of the small one
    rows = torch.arange(count)
    size[rows, small], size[rows, 1 - small] = -1, 1
    size[by_tint, :2] = 0
    side = torch.where((drawn.concept >= 0).sum(1) <= 4, 2, 3)[:, None]
    factor = torch.tensor([scenes.SIZE_FACTORS[s] for s in (-1, 0, 1)])[size[:, :2] + 1]
    scale = layout.scale.clone()
    scale[:, :2] = factor * uniform(generator, (count, 2), 0.85, 1.0) / side
    tint = layout.tint.clone()
    colours = torch.rand(count, len(TINTS), generator=generator).argsort(1)[:, :2]
    tint[:, :2] = torch.where(by_tint[:, None], colours, -1)
    return Scenes(drawn.concept, size, replace(layout, scale=scale, tint=tint))


def _on_either_side(drawn: Scenes, generator: torch.Generator) -> Scenes:
    """Objects 0 and 1 on opposite sides of object 2, which stands in the middle."""
    count = len(drawn)
    axis = torch.randint(2, (count,), generator=generator)  # 0: left and right, 1: above and below
    sign = torch.where(torch.rand(count, generator=generator) < 0.5, 1.0, -1.0)
    rows = torch.arange(count)
    offset = uniform(generator, (count, 2, 2), -0.07, 0.07)
    distance = uniform(generator, (count,), 0.28, 0.34)
    offset[rows, 0, axis] = sign * distance
    offset[rows, 1, axis] = -sign * distance
    middle = uniform(generator, (count, 2), 0.46, 0.54)
    centre = drawn.layout.centre.clone()
    centre[:, :2] = middle[:, None] + offset
    centre[:, 2] = middle
    scale = uniform(generator, (count, 3), 0.24, 0.34)
    tint = drawn.layout.tint.clone()
    tint[:, :2] = -1
    layout = replace(drawn.layout, centre=centre, scale=scale, tint=tint)
    return Scenes(drawn.concept, torch.zeros_like(drawn.size), layout)


def _only_seen(caption: Caption, boxes: Tensor, seen: Tensor) -> tuple[Caption, Tensor]:
    """Leave out what is covered; a phrase keeps its other places."""
    kept = seen.nonzero().squeeze(1)
    row = {place: index for index, place in enumerate(kept.tolist())}
    phrases = tuple(
        replace(p, places=tuple(row[place] for place in p.places if place in row))
        for p in caption.phrases
    )
    return Caption(caption.text, phrases), boxes[kept]
