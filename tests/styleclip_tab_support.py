"""What the tests of the StyleCLIP tab share: a registry with a tiny generator and a tiny CLIP."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models.catalog import CATALOG, ModelRow
from models.clip import ClipEncoder
from models.jobs import run_to_end
from models.registry import Registry
from models.styleclip.directions import channel_count, measure_statistics
from models.styleclip.fs3 import Fs3
from models.styleclip.mapper import MapperInfo, new_mapper, save_mapper
from models.styleclip.prompt import EditPrompt
from models.stylegan.e4e import E4e, E4eConfig
from models.stylegan.generator import Generator
from models.weights import Embedded
from tests.critic_support import tiny_encoder
from tests.models.styleclip.edit_support import quiet_generator

MINI, CLIP, INVERTER = "stylegan2-mini", "clip-portraits", "e4e-mini"
LEARNED = EditPrompt("a person with a hat", "a person")


def encoder() -> ClipEncoder:
    """A tiny CLIP that also hands out what its layers see, as open_clip's models do."""
    clip = tiny_encoder(side=32)
    model: Any = clip.model

    def forward_intermediates(image: Tensor, **_: Any) -> dict[str, list[Tensor]]:
        return {"image_intermediates": [model.visual.layers[:2](image)]}

    model.forward_intermediates = forward_intermediates
    return clip


def furnish(folder: Path, generator: Generator) -> None:
    """A table and a mapper beside the generator; random, but fixed."""
    random = torch.Generator().manual_seed(3)
    shape = (channel_count(generator.layout), encoder().embed_dim)
    rows = torch.nn.functional.normalize(torch.randn(shape, generator=random), dim=1)
    Fs3(rows, run_to_end(measure_statistics(generator, 50))).save(folder / "fs3.safetensors")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        mapper = new_mapper(generator, "single", info=MapperInfo(LEARNED, MINI, generator.rows))
    save_mapper(mapper, folder / "mappers" / "hat.safetensors")


def tiny_row(folder: Path, generator: Any, name: str = MINI) -> ModelRow:
    return ModelRow(
        name=name, title=f"Tiny {name}", task="stylegan", family="mini", preset="tiny",
        source=Embedded(folder), files=(), licence="none", knows="Nothing.",
        load=lambda row, context: generator,
    )  # fmt: skip


def tiny_registry(folder: Path, generator: Any = None, extra: Sequence[ModelRow] = ()) -> Registry:
    """A registry that lends a tiny generator, CLIP and inverter and refuses every download."""
    generator = generator or quiet_generator()
    clip, inverter = encoder(), E4e(E4eConfig.tiny()).eval().requires_grad_(False)
    rows = {
        MINI: tiny_row(folder, generator),
        CLIP: replace(CATALOG[CLIP], load=lambda row, context: clip),
        INVERTER: replace(CATALOG[INVERTER], load=lambda row, context: inverter),
    }
    return Registry({**CATALOG, **rows, **{r.name: r for r in extra}}, device="cpu", offline=True)


class Slow(Generator):
    """A tiny generator that takes `seconds` for every picture."""

    seconds = 0.15

    def synthesize(self, *arguments: Any, **options: Any) -> Tensor:
        time.sleep(self.seconds)
        return super().synthesize(*arguments, **options)


def slow_generator() -> Slow:
    quick = quiet_generator()
    slow = Slow(quick.config)
    slow.load_state_dict(quick.state_dict(), strict=True)
    return slow.requires_grad_(False)
