"""Generator files: every format gives back the generator that went in, and nothing else passes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from models.errors import InputError, WeightsError
from models.stylegan.checkpoints import load_generator, read_generator, save_generator
from models.stylegan.convert import main as convert
from models.stylegan.files import list_generators
from models.stylegan.generator import Generator, GeneratorConfig
from tests.stylegan_support import (
    EasyDict,
    ada_state,
    picture,
    rosinality_state,
    tensorflow_network,
    tiny_generator,
    write_ada_pickle,
    write_nvidia_pickle,
)

pytestmark = pytest.mark.usefixtures("one_thread")

CONFIGS = {
    "tiny": GeneratorConfig.tiny(),
    "two mapping layers, other widths": GeneratorConfig((8, 12, 4), 10, 6, 2),
    "eight mapping layers": GeneratorConfig((4, 4), 8, 8, 8),
    "4 px": GeneratorConfig((5,), 6, 7, 1),
}
CLAMPED = GeneratorConfig((8, 6), 8, 8, 2, clamp=1.5)


def write_rosinality(generator: Generator, path: Path, **parts: Any) -> Path:
    content = {"g_ema": rosinality_state(generator), "latent_avg": generator.mean_latent, **parts}
    torch.save(content, path)
    return path


def write_ada(generator: Generator, path: Path, **options: Any) -> Path:
    clamp = {} if generator.config.clamp is None else {"conv_clamp": generator.config.clamp}
    kwargs = {"z_dim": generator.noise_size, "c_dim": 0, "synthesis_kwargs": EasyDict(clamp)}
    return write_ada_pickle(path, ada_state(generator), kwargs | options)


def write_tensorflow(generator: Generator, path: Path, **options: Any) -> Path:
    network = tensorflow_network(generator, conv_clamp=generator.config.clamp, **options)
    return write_nvidia_pickle(path, (network, network, network))


def write_ours(generator: Generator, path: Path) -> Path:
    save_generator(generator, path)
    return path


WRITERS: dict[str, tuple[Callable[..., Path], str, str]] = {
    "rosinality": (write_rosinality, "x.pt", "rosinality"),
    "ada": (write_ada, "x.pkl", "ada-pytorch"),
    "tensorflow": (write_tensorflow, "x.pkl", "TensorFlow"),
    "ours": (write_ours, "x.safetensors", "CLIP Atelier"),
}
EVERY_FORMAT = pytest.mark.parametrize("writer", WRITERS)


def written(name: str, generator: Generator, folder: Path, **options: Any) -> Path:
    write, file, _ = WRITERS[name]
    return write(generator, folder / file, **options)


def agree(ours: Any, expected: Generator) -> None:
    assert ours.config == expected.config
    state = ours.state_dict()
    for key, tensor in expected.state_dict().items():
        assert torch.allclose(state[key], tensor, atol=1e-6), key
    assert torch.allclose(picture(ours), picture(expected), atol=1e-4)
    assert not any(p.requires_grad for p in ours.parameters())
    assert not ours.training


@EVERY_FORMAT
@pytest.mark.parametrize("config", CONFIGS)
def test_every_format_gives_back_the_generator(tmp_path: Path, writer: str, config: str) -> None:
    generator = tiny_generator(CONFIGS[config])
    found = read_generator(written(writer, generator, tmp_path))
    agree(found.generator, generator)
    assert WRITERS[writer][2] in found.format
    assert f"{generator.size} px" in str(found)


@pytest.mark.parametrize("writer", ["ada", "tensorflow", "ours"])
def test_the_clamp_is_kept(tmp_path: Path, writer: str) -> None:
    generator = tiny_generator(CLAMPED)
    found = read_generator(written(writer, generator, tmp_path))
    agree(found.generator, generator)
    assert "clamped at 1.5" in str(found)


def test_a_whole_training_checkpoint_is_read(tmp_path: Path) -> None:
    generator = tiny_generator()
    other = {key: value + 1 for key, value in rosinality_state(generator).items()}
    path = write_rosinality(
        generator, tmp_path / "x.pt", g=other, d={"w": torch.ones(3)}, args=Namespace(size=32),
        g_optim={"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": [{"lr": 0.1}]},
    )  # fmt: skip
    agree(load_generator(path), generator)


def test_a_bare_state_dict_is_read_and_its_mean_latent_measured(tmp_path: Path) -> None:
    generator = tiny_generator()
    torch.save(rosinality_state(generator), tmp_path / "x.pt")
    found = read_generator(tmp_path / "x.pt")
    assert "was measured" in str(found)
    generator.mean_latent.copy_(generator.measure_mean_latent())
    agree(found.generator, generator)


def test_half_precision_files_are_half_as_large_and_nearly_the_same(tmp_path: Path) -> None:
    generator = tiny_generator()
    save_generator(generator, tmp_path / "full.safetensors")
    save_generator(generator, tmp_path / "half.safetensors", half=True)
    sizes = [(tmp_path / f"{name}.safetensors").stat().st_size for name in ("full", "half")]
    assert sizes[1] < 0.65 * sizes[0]
    loaded = load_generator(tmp_path / "half.safetensors")
    assert all(p.dtype == torch.float32 for p in loaded.parameters())
    expected = picture(generator)
    assert (picture(loaded) - expected).abs().max() < 5e-3 * expected.abs().max()
    generator.constant.data.fill_(1e6)
    with pytest.raises(WeightsError, match="too large for half precision"):
        save_generator(generator, tmp_path / "half.safetensors", half=True)


def test_what_training_exports_is_read(tmp_path: Path) -> None:
    """The header carries the configuration as JSON, all tensors are float16."""
    generator = tiny_generator()
    tensors = {key: value.half() for key, value in generator.state_dict().items()}
    config = json.dumps(asdict(generator.config))
    save_file(tensors, tmp_path / "x.safetensors", metadata={"config": config})
    assert load_generator(tmp_path / "x.safetensors").config == generator.config


# -------------------------------------------------------------------------------------- refusals

Damage = Callable[[dict[str, Tensor]], Any]


def _without(key: str) -> Damage:
    return lambda state: state.pop(key)


def _with(key: str, value: Tensor) -> Damage:
    return lambda state: state.update({key: value})


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (_without("to_rgbs.1.bias"), "holds|lacks"),
        (_without("convs.3.conv.weight"), "lacks the tensor convs.3.conv.weight"),
        (_without("noises.noise_2"), "lacks the tensor noises.noise_2"),
        (_with("style.9.weight", torch.zeros(16, 16)), "lacks the tensor style"),
        (_with("extra.weight", torch.zeros(2)), "holds 1 tensors of another architecture"),
        (_with("convs.0.conv.weight", torch.zeros(1, 12, 99, 3, 3)), r"shape \[1, 12, 99, 3, 3\]"),
        (_with("convs.0.conv.weight", torch.zeros(12)), r"shape \[12\]"),
        (_with("convs.0.conv.blur.kernel", torch.ones(4, 4)), "uses another filter"),
        (_with("to_rgbs.0.upsample.kernel", torch.ones(4, 4) / 4), "uses another filter"),
        (_with("style.1.bias", torch.full((16,), torch.nan)), "not finite"),
        (_with("style.1.bias", torch.zeros(16, dtype=torch.int64)), "no real numbers"),
        (_with("input.input", torch.zeros(1).expand(1, 12, 10**6, 10**6)), "larger than the file"),
        (_with("input.input", torch.zeros(1, 0, 4, 4)), "shape|damaged|positive"),
    ],
)  # fmt: skip
def test_incomplete_and_strange_checkpoints_are_refused(
    tmp_path: Path, damage: Damage, sentence: str
) -> None:
    state = rosinality_state(tiny_generator())
    damage(state)
    torch.save({"g_ema": state, "latent_avg": torch.zeros(16)}, tmp_path / "x.pt")
    with pytest.raises(WeightsError, match=rf"^x\.pt .*({sentence}).*\.$"):
        read_generator(tmp_path / "x.pt")


@pytest.mark.parametrize(
    ("writer", "options", "sentence"),
    [
        ("ada", {"c_dim": 10}, "is conditional"),
        ("ada", {"mapping_kwargs": EasyDict(lr_multiplier=1.0)}, "rate 1 instead of 0.01"),
        ("ada", {"synthesis_kwargs": EasyDict(architecture="orig")}, 'architecture "orig"'),
        ("tensorflow", {"label_size": 10}, "is conditional"),
        ("tensorflow", {"architecture": "resnet"}, 'architecture "resnet"'),
        ("tensorflow", {"resample_kernel": [1, 2, 1]}, "uses the filter"),
        ("tensorflow", {"mapping_lrmul": 1}, "rate 1 instead of 0.01"),
    ],
)
def test_other_architectures_are_refused(
    tmp_path: Path, writer: str, options: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(WeightsError, match=sentence):
        read_generator(written(writer, tiny_generator(), tmp_path, **options))


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("x.pt", {"state_dict": {"encoder.a": torch.ones(1)}, "opts": {}}, "parts are state_dict, opts"),
        ("x.pt", [1, 2], "no named parts"),
        ("x.pt", {"g_ema": 3}, "parts are g_ema"),
        ("x.pth", torch.ones(3), "no named parts"),
        ("x.pkl", {"w": torch.ones(1)}, "parts are w"),  # torch.save under another name
        ("x.onnx", {}, "no generator file"),
    ],
)  # fmt: skip
def test_files_without_a_generator_say_what_they_hold(
    tmp_path: Path, name: str, content: Any, sentence: str
) -> None:
    torch.save(content, tmp_path / name)
    with pytest.raises(WeightsError, match=sentence):
        read_generator(tmp_path / name)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda config: {}, "was not written by CLIP Atelier"),
        (lambda config: config | {"clamp": "a lot"}, "says clamp a lot"),
        (lambda config: config | {"clamp": -1}, "says clamp -1"),
        (lambda config: config | {"channels": [10**9] * 4}, "another shape than its header"),
        (lambda config: config | {"noise_size": 7}, "another shape than its header"),
        (lambda config: [1], "was not written by CLIP Atelier"),
    ],
)
def test_our_files_are_checked_against_their_header(
    tmp_path: Path, change: Callable[[Any], Any], sentence: str
) -> None:
    path = tmp_path / "x.safetensors"
    save_generator(tiny_generator(), path)
    config = change(asdict(GeneratorConfig.tiny()))
    save_file(load_file(path), path, metadata={"config": json.dumps(config)})
    with pytest.raises(WeightsError, match=sentence):
        read_generator(path)


# -------------------------------------------------------------------------- listing and converting


def test_a_folder_is_listed_by_names_and_sizes_in_no_time(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    save_generator(tiny_generator(), tmp_path / "ours.safetensors")
    save_file({"w": torch.ones(2)}, tmp_path / "other.safetensors", metadata={"format": "pt"})
    for name in ("big.pt", "big.pkl", "models/model_3.pt", ".hidden.pt", "notes.txt"):
        (tmp_path / name).write_bytes(b"")
    with (tmp_path / "big.pt").open("r+b") as stream:
        stream.truncate(3 * 10**9)  # sparse
    started = time.process_time()
    files = list_generators(tmp_path)
    assert time.process_time() - started < 0.5
    assert [file.name for file in files] == ["big.pkl", "big.pt", "models/model_3", "ours"]
    assert files[1].bytes == 3 * 10**9
    assert files[1].title == "big.pt (3,000 MB)"
    assert [file.name for file in list_generators(files[3].path)] == ["ours"]


@pytest.mark.parametrize(("path", "sentence"), [("absent", "neither"), (".", "no generator file")])
def test_a_folder_without_generators_is_an_error(tmp_path: Path, path: str, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        list_generators(tmp_path / path)


def test_convert_reports_what_it_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    generator = tiny_generator()
    source = write_rosinality(generator, tmp_path / "x.pt")
    target = tmp_path / "out" / "x.safetensors"
    assert convert([str(source), str(target)]) == 0
    report = capsys.readouterr().out
    for fact in (
        "rosinality",
        "32 px",
        "channels 12, 12, 8, 8",
        "8 rows of W+",
        "11 style vectors",
    ):
        assert fact in report
    agree(load_generator(target), generator)


def test_convert_refuses_in_one_sentence(tmp_path: Path) -> None:
    source = tmp_path / "x.pt"
    source.write_bytes(b"nothing")
    command = [sys.executable, "-m", "models.stylegan.convert", source, tmp_path / "x.safetensors"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert re.fullmatch(r"x\.pt is damaged or no checkpoint .*\.\n", done.stderr)
    assert list(tmp_path.iterdir()) == [source]
