"""A small world of annotated pictures: the embedded sheet's 83 sprites, no photographs to fetch."""

from pathlib import Path
from unittest import mock

import torch

from training.world import grounding, sprites
from training.world.concepts import load
from training.world.photos import Photos

DATA = Path(__file__).parent / "data"
CONCEPTS = load()


def small_world(held_out: bool | None = False, size: int = 96) -> grounding.GroundingWorld:
    """The real `GroundingWorld` over few sprites."""
    bank = sprites.read_sheet(DATA / "noto.png")
    noise = torch.randint(256, (4, 3, 64, 64), generator=torch.Generator().manual_seed(0))
    photos = Photos(noise.byte(), torch.full((4,), -1), torch.zeros(4, dtype=torch.bool), ())
    with (
        mock.patch.object(grounding.sprites, "load_bank", return_value=bank),
        mock.patch.object(grounding, "load_photos", return_value=photos),
    ):
        return grounding.GroundingWorld(held_out=held_out, size=size)


def names_of(held_out: bool) -> set[str]:
    """Every name of the sheet's concepts that are, or are not, held out."""
    bank = sprites.read_sheet(DATA / "noto.png")
    mine = [CONCEPTS[i] for i in bank.concept.tolist()]
    chosen = [concept for concept in mine if grounding.is_held_out(concept) == held_out]
    return {word for concept in chosen for word in (concept.name, *concept.synonyms)}
