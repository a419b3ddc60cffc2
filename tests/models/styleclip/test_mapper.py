"""Mappers: what they edit, what they fit, and their files; their numbers are in test_parity.py."""

from __future__ import annotations

import math
import os
import re
from argparse import Namespace
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from models.errors import InputError, WeightsError
from models.styleclip.mapper import (
    EDIT_SCALE,
    VARIANTS,
    LatentMapper,
    Mapper,
    MapperInfo,
    StyleMapper,
    apply_mapper,
    load_mapper,
    make_mapper,
    mapper_info,
    new_mapper,
    official_mapper,
    save_mapper,
)
from models.styleclip.prompt import EditPrompt
from models.stylegan.generator import Generator, GeneratorConfig
from models.stylegan.latent import Latent
from tests.stylegan_support import tiny_generator

PROMPT = EditPrompt("a face with glasses", "a face")
# 12 rows, so that the fine level has some; style vectors of several sizes.
DEEP = GeneratorConfig((8, 8, 6, 6, 4, 4), 16, 16, 2)

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def generator() -> Generator:
    return tiny_generator(DEEP)


@pytest.fixture(scope="module")
def latent(generator: Generator) -> Latent:
    """Different in every row, and edited in StyleSpace before."""
    start = Latent.from_seed(generator, 1)
    rows = torch.randn(start.w_plus.shape, generator=torch.Generator().manual_seed(2))
    edited = replace(start, w_plus=start.w_plus + rows)
    return edited.moved([torch.full((slot.size,), 0.1) for slot in generator.layout])


def made(fitting: Generator, variant: str, *without: str, **info: Any) -> Mapper:
    torch.manual_seed(0)
    mapper = new_mapper(fitting, variant, without, MapperInfo(**info))
    for name, parameter in mapper.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=10)
    return mapper.requires_grad_(False)


def plain(mapper: Mapper, part: str, x: Tensor) -> Tensor:
    """One part, written out: normalise over dimension 1, four layers."""
    x = x / (x.square().mean(1, keepdim=True) + 1e-8).sqrt()
    state = mapper.state_dict()
    for layer in range(1, 5):
        weight = state[f"{part}.mapping.{layer}.weight"]
        bias = state[f"{part}.mapping.{layer}.bias"]
        x = x @ weight.T * 0.01 / math.sqrt(weight.shape[1]) + 0.01 * bias
        x = torch.where(x > 0, x, 0.2 * x) * math.sqrt(2)
    return x


def test_levels_map_their_own_rows(generator: Generator, latent: Latent) -> None:
    mapper, w = made(generator, "levels", "medium"), latent.w_plus[None]
    assert isinstance(mapper, LatentMapper)
    edited = apply_mapper(mapper, generator, latent, 0.5)
    expected = latent.w_plus.clone()
    expected[:4] += 0.05 * plain(mapper, "course_mapping", w[:, :4])[0]
    expected[8:] += 0.05 * plain(mapper, "fine_mapping", w[:, 8:])[0]
    assert torch.allclose(edited.w_plus, expected, atol=1e-5)
    assert torch.equal(edited.w_plus[4:8], latent.w_plus[4:8])
    assert edited.offsets == latent.offsets


def test_a_single_part_maps_all_rows(generator: Generator, latent: Latent) -> None:
    mapper = made(generator, "single")
    edited = apply_mapper(mapper, generator, latent)
    expected = latent.w_plus + 0.1 * plain(mapper, "mapping", latent.w_plus[None])[0]
    assert torch.allclose(edited.w_plus, expected, atol=1e-5)


def test_style_space_moves_every_vector_but_colours(generator: Generator, latent: Latent) -> None:
    mapper = made(generator, "style_space")
    assert isinstance(mapper, StyleMapper)
    edited, before = apply_mapper(mapper, generator, latent, 2.0), latent.styles(generator)
    assert torch.equal(edited.w_plus, latent.w_plus)
    for index, (slot, now) in enumerate(zip(generator.layout, edited.styles(generator))):
        move = 0 if slot.is_rgb else 0.2 * plain(mapper, f"mapper_{index}", before[index])
        assert torch.allclose(now, before[index] + move, atol=1e-4)


@pytest.mark.parametrize("variant", VARIANTS)
def test_strength_zero_changes_nothing(generator: Generator, latent: Latent, variant: str) -> None:
    same = apply_mapper(made(generator, variant), generator, latent, 0.0)
    assert torch.equal(same.w_plus, latent.w_plus)
    assert all(torch.equal(a, b) for a, b in zip(same.offsets, latent.offsets, strict=True))


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_is_trained_is_what_is_applied(generator: Generator, variant: str) -> None:
    latent, mapper = Latent.from_seed(generator, 5), made(generator, variant)
    styles, distance = mapper.edited_styles(generator, latent.w_plus[None])
    edited = apply_mapper(mapper, generator, latent)
    for ours, theirs in zip(styles, edited.styles(generator), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5)
    if variant == "style_space":
        moves = [offset.square().mean() for offset in edited.offsets]
        assert float(distance) == pytest.approx(float(sum(moves)), rel=1e-5)
    else:
        moved = (edited.w_plus - latent.w_plus).square().mean()
        assert float(distance) == pytest.approx(float(moved), rel=1e-4)


# -------------------------------------------------------------------------------- what does not fit


@pytest.mark.parametrize(
    ("variant", "info", "config", "problem"),
    [
        ("single", {}, GeneratorConfig((8, 8, 6, 6, 4, 4), 24, 16, 2), "latents of 16 numbers"),
        ("levels", {}, GeneratorConfig((8, 8, 6, 6, 4, 4), 24, 16, 2), "latents of 16 numbers"),
        ("single", {"rows": 11}, GeneratorConfig((8, 8), 16, 16, 2), "11 rows of W"),
        ("style_space", {}, GeneratorConfig((8, 8), 16, 16, 2), "style vectors of another"),
        ("style_space", {}, GeneratorConfig((8, 8, 6, 6, 4, 6), 16, 16, 2), "style vectors of"),
    ],
)
def test_a_mapper_of_another_generator_is_refused(
    generator: Generator, variant: str, info: dict[str, int], config: GeneratorConfig, problem: str
) -> None:
    other, mapper = tiny_generator(config), made(generator, variant, **info)
    with pytest.raises(InputError, match=re.escape(problem)):
        apply_mapper(mapper, other, Latent.from_seed(other, 0))


@pytest.mark.parametrize("strength", [math.nan, math.inf, 11.0, -10.5])
def test_a_strength_out_of_range_is_refused(
    generator: Generator, latent: Latent, strength: float
) -> None:
    with pytest.raises(InputError, match="strength lies between"):
        apply_mapper(made(generator, "single"), generator, latent, strength)


def test_a_latent_of_another_generator_is_refused(generator: Generator) -> None:
    other = Latent(torch.zeros(3, 16))
    with pytest.raises(InputError, match="choose the generator"):
        apply_mapper(made(generator, "single"), generator, other)


@pytest.mark.parametrize(
    ("variant", "without", "problem"),
    [
        ("wide", (), "choose one of levels, single, style_space"),
        ("levels", ("middle",), "coarse, medium or fine"),
        ("single", ("fine",), "coarse, medium or fine"),
        ("levels", ("coarse", "medium", "fine"), "no mapper with the parts none"),
    ],
)
def test_an_impossible_mapper_is_refused(
    generator: Generator, variant: str, without: tuple[str, ...], problem: str
) -> None:
    with pytest.raises(InputError, match=problem):
        new_mapper(generator, variant, without)


# ------------------------------------------------------------------------------------------ files


@pytest.mark.parametrize(
    ("variant", "without"), [("levels", ("fine",)), ("single", ()), ("style_space", ())]
)
def test_a_saved_mapper_comes_back(
    tmp_path: Path, generator: Generator, latent: Latent, variant: str, without: tuple[str, ...]
) -> None:
    mapper = made(generator, variant, *without, prompt=PROMPT, generator="mini", rows=12)
    path = tmp_path / "new" / "glasses.safetensors"
    save_mapper(mapper, path)
    assert mapper_info(path) == MapperInfo(PROMPT, "mini", 12)
    loaded = load_mapper(path)
    assert loaded.info == mapper.info
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    ours, theirs = (apply_mapper(m, generator, latent) for m in (mapper, loaded))
    for now, then in zip(ours.styles(generator), theirs.styles(generator)):
        assert torch.allclose(now, then, atol=2e-3)  # float16 in the file


def official(mapper: Mapper, **options: Any) -> dict[str, Any]:
    state = {f"mapper.{key}": tensor for key, tensor in mapper.state_dict().items()}
    return {"state_dict": {**state, "decoder.input.input": torch.zeros(1, 4, 4, 4)},
            "opts": options}  # fmt: skip


def test_a_checkpoint_of_the_authors_is_read(
    tmp_path: Path, generator: Generator, latent: Latent
) -> None:
    mapper, path = made(generator, "levels", "fine"), tmp_path / "afro.pt"
    checkpoint = official(mapper, description="afro", stylegan_size=128, no_fine_mapper=True)
    for options in (checkpoint["opts"], Namespace(**checkpoint["opts"])):
        torch.save({**checkpoint, "opts": options}, path)
        loaded = load_mapper(path)
        assert loaded.info == MapperInfo(EditPrompt("afro"), "", 12)
        assert set(loaded.widths) == {"course_mapping", "medium_mapping"}
        assert torch.equal(loaded(latent.w_plus[None]), mapper(latent.w_plus[None]))


class Payload:
    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, ("touch /tmp/opt-mapper-payload",)


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path: Path, generator: Generator) -> None:
    path = tmp_path / "hostile.pt"
    torch.save({**official(made(generator, "single")), "opts": Payload()}, path)
    with pytest.raises(WeightsError, match="could run code"):
        load_mapper(path)
    assert not Path("/tmp/opt-mapper-payload").exists()


def change(name: str, value: Tensor | None) -> Callable[[dict[str, Tensor]], None]:
    def apply(state: dict[str, Tensor]) -> None:
        if value is None:
            del state[name]
        else:
            state[name] = value

    return apply


BREAKAGES = {
    "a tensor less": change("mapping.mapping.2.bias", None),
    "a tensor more": change("decoder.weight", torch.zeros(2)),
    "a fifth layer": change("mapping.mapping.5.bias", torch.zeros(16)),
    "another architecture's part": change("fine_mapping.mapping.1.bias", torch.zeros(16)),
    "not square": change("mapping.mapping.1.weight", torch.zeros(16, 8)),
    "not a number": change("mapping.mapping.1.bias", torch.full((16,), math.nan)),
    "whole numbers": change("mapping.mapping.1.bias", torch.zeros(16, dtype=torch.int64)),
    "a scalar": change("mapping.mapping.1.bias", torch.zeros(())),
    "huge": change("mapping.mapping.1.bias", torch.zeros(5000)),
}


@pytest.mark.parametrize("breakage", BREAKAGES)
def test_a_broken_mapper_is_refused(tmp_path: Path, generator: Generator, breakage: str) -> None:
    state = made(generator, "single").state_dict()
    BREAKAGES[breakage](state)
    path = tmp_path / "broken.safetensors"
    save_file(state, path, {"format": "clip-atelier-mapper-1"})
    with pytest.raises(WeightsError, match=r"broken\.safetensors .*choose another file"):
        load_mapper(path)


@pytest.mark.parametrize(
    ("metadata", "problem"),
    [({}, "no mapper of CLIP Atelier"), ({"format": "other"}, "no mapper of CLIP Atelier"),
     ({"format": "clip-atelier-mapper-1", "target": "x" * 301}, "no usable prompt")],
)  # fmt: skip
def test_metadata_that_is_not_ours_is_refused(
    tmp_path: Path, generator: Generator, metadata: dict[str, str], problem: str
) -> None:
    path = tmp_path / "foreign.safetensors"
    save_file(made(generator, "single").state_dict(), path, metadata)
    with pytest.raises(WeightsError, match=problem):
        load_mapper(path)


@pytest.mark.parametrize(
    ("content", "problem"),
    [(b"", "not a whole safetensors"), (b"PK\3\4 zip", "Python pickle"), (b"x" * 99, "not a whole")],
)  # fmt: skip
def test_other_files_are_refused(tmp_path: Path, content: bytes, problem: str) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=problem):
        load_mapper(path)


@pytest.mark.parametrize("checkpoint", [[], {}, {"state_dict": 3}, {"state_dict": {"mapper.x": 1}}])
def test_what_is_no_checkpoint_is_refused(checkpoint: Any) -> None:
    with pytest.raises(WeightsError, match="choose another file"):
        official_mapper(checkpoint)


def test_the_scale_is_the_papers() -> None:
    assert EDIT_SCALE == 0.1
    assert isinstance(make_mapper({"mapping": 4}), LatentMapper)
