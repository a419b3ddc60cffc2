"""A small world of labelled pictures: the embedded sheet's 83 sprites and only their concepts."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from unittest import mock

import torch

from training import vild as training
from training.world import detection, sprites
from training.world.concepts import Concept, load
from training.world.photos import Photos

SHEET = Path(__file__).parent / "data" / "noto.png"


def few_concepts() -> tuple[Concept, ...]:
    """Those that the sheet draws."""
    drawn = sorted(set(sprites.read_sheet(SHEET).concept.tolist()))
    return tuple(load()[index] for index in drawn)


@contextmanager
def few_known_concepts() -> Iterator[None]:
    """The world and its training know those of `few_concepts` only, numbered from zero."""
    bank = sprites.read_sheet(SHEET)
    number = {old: new for new, old in enumerate(sorted(set(bank.concept.tolist())))}
    numbered = torch.tensor([number[old] for old in bank.concept.tolist()])
    noise = torch.randint(256, (4, 3, 64, 64), generator=torch.Generator().manual_seed(0))
    photos = Photos(noise.byte(), torch.full((4,), -1), torch.zeros(4, dtype=torch.bool), ())
    concepts = few_concepts()
    with (
        mock.patch.object(
            detection.sprites, "load_bank", return_value=replace(bank, concept=numbered)
        ),
        mock.patch.object(detection, "load_photos", return_value=photos),
        mock.patch.object(detection, "load", return_value=concepts),
        mock.patch.object(training, "load", return_value=concepts),
    ):
        yield


def small_detection_world(size: int = 96) -> detection.DetectionWorld:
    """The real `DetectionWorld` over few sprites."""
    with few_known_concepts():
        return detection.DetectionWorld(size=size)
