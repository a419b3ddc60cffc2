"""What the tests of the ViLD tab share: a small detector with random weights, and registries with it."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from models.catalog import CATALOG, ModelRow
from models.jobs import Job, Step
from models.registry import Registry
from models.vild import ProposalConfig, Vild
from models.vild.detector import Detector, DetectorDefaults
from models.vild.head import Regions
from models.vild.regions import RawRegions, RegionThresholds
from models.weights import Embedded
from tests.glip_tab_support import Detector as GlipDetector
from tests.glip_tab_support import row as glip_row
from tests.vild_support import small_config

MINI, OTHER, GLIP = "vild-mini", "vild-boxes", "glip-mini"
BASE = ("dog", "kite", "red apple", "cat")
DEFAULTS = DetectorDefaults(RegionThresholds(8, 0.3, 0.0, 220), templates="one")


class TinyClip:
    """A CLIP whose vector of a text follows from the text, and that of a picture from its mean."""

    name = "clip-vit-b-32"
    image_size = 4

    def __init__(self, dim: int = 20) -> None:
        self.embed_dim = dim
        self.read: list[str] = []

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        self.read += texts
        return F.normalize(torch.stack([self._vector(text) for text in texts]), dim=-1)

    def _vector(self, text: str) -> Tensor:
        seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")
        return torch.randn(self.embed_dim, generator=torch.Generator().manual_seed(seed))

    def normalize(self, pixels: Tensor) -> Tensor:
        return pixels

    def image_features(self, pixels: Tensor) -> Tensor:
        colours = F.pad(pixels.mean(dim=(2, 3)), (0, self.embed_dim - 3))
        return F.normalize(colours, dim=-1)

    def nbytes(self) -> int:
        return 1000


class Spread(Vild):
    """Random weights give all regions nearly one vector; here they lie around zero."""

    def regions(self, *args: Any, **options: Any) -> Regions:
        found = super().regions(*args, **options)
        image = found.image_embeddings
        return Regions(
            _spread(found.embeddings), None if image is None else _spread(image), found.deltas
        )


def _spread(vectors: Tensor) -> Tensor:
    return F.normalize(vectors - vectors.mean(dim=0), dim=-1)


class Watched(Detector):
    """Counts the pictures looked at, each of which takes `seconds` at least."""

    looked = 0
    seconds = 0.0

    def detect(self, image: Image.Image) -> Job[RawRegions]:
        self.looked += 1
        for place in range(4):
            time.sleep(self.seconds / 4)
            yield Step(place / 4, "Looking at the picture")
        return (yield from super().detect(image))


def tiny_detector(folder: Path, name: str = MINI, mask: bool = True) -> Watched:
    """Random weights; the same every time."""
    torch.manual_seed(3)
    few = ProposalConfig(pre_nms=60, nms=0.7, post_nms=40)
    network = Spread(replace(small_config(), mask=mask, proposals=few)).requires_grad_(False)
    clip: Any = TinyClip()
    return Watched(name, network, clip, BASE, DEFAULTS, folder)


def row(name: str, title: str, detector: Any) -> ModelRow:
    """A row of the catalogue that lends `detector`."""
    return replace(
        CATALOG["clip-mini"], name=name, title=title, task="vild", files=(),
        knows="What the test says.", source=Embedded(CATALOG["clip-mini"].source.directory),
        load=lambda row, context: detector,
    )  # fmt: skip


def vild_registry(folder: Path, detector: Any = None, extra: Sequence[ModelRow] = ()) -> Registry:
    """A registry with small detectors and a GLIP whose answers are known; it downloads nothing."""
    rows = {
        MINI: row(MINI, "ViLD mini", detector or tiny_detector(folder)),
        OTHER: row(OTHER, "Boxes only", tiny_detector(folder, OTHER, mask=False)),
        GLIP: glip_row(GLIP, "GLIP mini", GlipDetector()),
        **{one.name: one for one in extra},
    }
    clip = {"clip-mini": CATALOG["clip-mini"]}
    return Registry({**clip, **rows}, device="cpu", offline=True)
