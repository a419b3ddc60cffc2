"""Readers of GLIP's files: every naming and order, written by an independent inverse, reads back as
the same network; everything else is refused with a sentence."""

import re
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from models.errors import WeightsError
from models.glip.checkpoints import (
    NAME_KEY,
    PRESETS,
    TITLES,
    Variant,
    convert_once,
    load_glip,
    load_glip_mini,
    load_grounder,
    official_of_mmdetection,
    read_glip,
    save_glip,
)
from models.glip.config import GlipConfig
from models.glip.glip import Glip
from models.glip.grounding import Grounder
from models.glip.names import official_names
from models.glip.prompts import read_prompt
from models.glip.swin import PatchMerging
from models.jobs import run_to_end
from tests.glip_files import SMALL, official_state, random_glip, write_official

WITHOUT_FUSION = replace(SMALL, name="small-a", fusion=False)
CONFIGS = pytest.mark.parametrize("config", [SMALL, WITHOUT_FUSION], ids=lambda c: c.name)

State = dict[str, Tensor]


# MMDetection's names, part by part: the inverse of our reader, written from its converter's rules.
def mmdetection_key(key: str) -> str:
    if key.startswith("backbone.body."):
        key = key.replace("backbone.body.", "backbone.").replace(
            "patch_embed.proj", "patch_embed.projection"
        )
        if ".layers." in key:
            stage, rest = re.match(r"backbone\.layers\.(\d+)\.(.*)", key).groups()  # type: ignore[union-attr]
            for ours, theirs in (
                ("mlp.fc1", "ffn.layers.0.0"), ("mlp.fc2", "ffn.layers.1"), ("attn.", "attn.w_msa."),
            ):  # fmt: skip
                rest = rest.replace(ours, theirs)
            key = f"backbone.stages.{stage}.{rest}"
        return key
    fpn = {
        "fpn_inner2": "lateral_convs.0", "fpn_inner3": "lateral_convs.1",
        "fpn_inner4": "lateral_convs.2", "fpn_layer2": "fpn_convs.0", "fpn_layer3": "fpn_convs.1",
        "fpn_layer4": "fpn_convs.2", "top_blocks.p6": "fpn_convs.3", "top_blocks.p7": "fpn_convs.4",
    }  # fmt: skip
    if key.startswith("backbone.fpn."):
        part, _, leaf = key.removeprefix("backbone.fpn.").rpartition(".")
        return f"neck.{fpn[part]}.conv.{leaf}"
    if key.startswith("language_backbone."):
        return f"language_model.{key}"
    assert key.startswith("rpn.")
    return key.replace("rpn.", "bbox_head.", 1)


def merged_like_unfold(tensor: Tensor) -> Tensor:
    """(..., 4 C): from the reference's order of inputs to that of Unfold, number by number."""
    channels = tensor.shape[-1] // 4
    corners = [(0, 0), (1, 0), (0, 1), (1, 1)]  # (row, column), one after the other
    result = torch.full_like(tensor, torch.nan)
    for place, (row, column) in enumerate(corners):
        for channel in range(channels):
            target = channel * 4 + row * 2 + column
            result[..., target] = tensor[..., place * channels + channel]
    return result


def mmdetection_state(glip: Glip) -> State:
    result = {}
    for key, tensor in official_state(glip).items():
        key = key.removeprefix("module.")
        if "pooler" in key:
            continue
        if "downsample" in key:
            tensor = merged_like_unfold(tensor)
        result[mmdetection_key(key)] = tensor
    return result


def same(glip: Glip, expected: Glip) -> None:
    mine, theirs = glip.state_dict(), expected.state_dict()
    assert mine.keys() == theirs.keys()
    for key, tensor in theirs.items():
        assert torch.equal(mine[key], tensor), key


# ------------------------------------------------------------------------------------ round trips


@CONFIGS
def test_a_released_file_reads_back(config: GlipConfig, tmp_path: Path) -> None:
    glip = random_glip(config)
    read = load_glip(write_official(glip, tmp_path / "glip.pth"), config)
    same(read, glip)
    assert not read.training
    assert not any(parameter.requires_grad for parameter in read.parameters())


@pytest.mark.parametrize("wrapped", [False, True])
@CONFIGS
def test_mmdetection_s_file_reads_back(config: GlipConfig, wrapped: bool, tmp_path: Path) -> None:
    glip = random_glip(config)
    state: Any = mmdetection_state(glip)
    torch.save(
        {"meta": {"epoch": 1}, "state_dict": state} if wrapped else state, tmp_path / "m.pth"
    )
    same(load_glip(tmp_path / "m.pth", config), glip)


def test_tensors_without_a_pickle_read_back_too(tmp_path: Path) -> None:
    glip = random_glip()
    state = {key: tensor.contiguous() for key, tensor in official_state(glip).items()}
    save_file({k.removeprefix("module."): t for k, t in state.items()}, tmp_path / "g.safetensors")
    same(load_glip(tmp_path / "g.safetensors", SMALL), glip)


def test_the_old_format_of_torch_reads_back(tmp_path: Path) -> None:
    """Not a zip archive, so it cannot stay on the disk."""
    glip = random_glip()
    torch.save(
        {"model": official_state(glip)}, tmp_path / "old.pth", _use_new_zipfile_serialization=False
    )
    same(load_glip(tmp_path / "old.pth", SMALL), glip)


def test_mmdetection_s_merging_means_what_ours_means() -> None:
    """Its layer, Unfold -> norm -> linear, and ours see the same picture alike."""
    torch.manual_seed(2)
    ours = PatchMerging(6)
    for parameter in ours.parameters():
        nn.init.normal_(parameter)
    picture = torch.randn(2, 8, 10, 6)  # (N, h, w, C)
    corners = F.unfold(picture.permute(0, 3, 1, 2), 2, stride=2).transpose(1, 2)  # (N, hw / 4, 4 C)
    prefix = "backbone.stages.0.downsample"
    theirs = {
        f"{prefix}.norm.weight": torch.randn(24),
        f"{prefix}.norm.bias": torch.randn(24),
        f"{prefix}.reduction.weight": torch.randn(12, 24),
    }
    normed = F.layer_norm(corners, (24,), *list(theirs.values())[:2])
    expected = F.linear(normed, theirs[f"{prefix}.reduction.weight"]).reshape(2, 4, 5, 12)
    state = official_of_mmdetection(theirs)
    ours.load_state_dict({key.split("downsample.")[1]: t for key, t in state.items()})
    torch.testing.assert_close(ours(picture), expected)


def test_nothing_else_is_reordered() -> None:
    glip = random_glip()
    official = {key.removeprefix("module."): t for key, t in official_state(glip).items()}
    back = official_of_mmdetection(mmdetection_state(glip))
    assert back.keys() == {key for key in official if "pooler" not in key}
    for key, tensor in back.items():
        assert torch.equal(tensor, official[key]), key


def test_the_model_stays_on_the_disk_until_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is four times the model: what is mapped fills no memory. And nothing in it runs."""
    heard: list[dict[str, Any]] = []
    load = torch.load
    monkeypatch.setattr(
        torch, "load", lambda path, **how: (heard.append(how), load(path, **how))[1]
    )
    read_glip(write_official(random_glip(), tmp_path / "glip.pth"), SMALL)
    assert heard == [{"map_location": "cpu", "weights_only": True, "mmap": True}]


# --------------------------------------------------------------------------------------- slim file


def test_the_slim_file_is_half_precision_and_made_once(tmp_path: Path) -> None:
    glip = random_glip()
    source = write_official(glip, tmp_path / "glip.pth")
    slim = tmp_path / "cache" / "glip-fp16.safetensors"
    convert_once(source, slim, SMALL)
    assert source.is_file()
    assert slim.stat().st_size < 0.4 * source.stat().st_size
    assert [path.name for path in slim.parent.iterdir()] == [slim.name]
    read = load_glip(slim, SMALL)
    for key, tensor in glip.state_dict().items():
        exact = re.fullmatch(r"head\.(scales\.\d|log_scale|bias0)", key)
        expected = tensor if exact else tensor.half().float()
        assert torch.equal(read.state_dict()[key], expected), key
    before = slim.stat().st_mtime_ns
    source.unlink()
    convert_once(source, slim, SMALL)
    assert slim.stat().st_mtime_ns == before


def test_what_half_precision_cannot_hold_is_not_written(tmp_path: Path) -> None:
    state = dict(random_glip().state_dict())
    state["fpn.p6.bias"] = torch.full_like(state["fpn.p6.bias"], 1e6)
    with pytest.raises(WeightsError, match=r"fpn\.p6\.bias is too large for half precision"):
        save_glip(SMALL, state, tmp_path / "slim.safetensors")
    assert not any(tmp_path.iterdir())


# ---------------------------------------------------------------------------------------- variants


def meta_state(config: GlipConfig) -> State:
    with torch.device("meta"):
        glip = Glip(config)
    names = official_names(config)
    return {names[key]: tensor for key, tensor in glip.state_dict().items()}


@pytest.mark.parametrize("preset", PRESETS, ids=lambda preset: preset().name)
def test_every_variant_is_known_by_its_shapes(preset: Callable[[], GlipConfig]) -> None:
    config = preset()
    variant = Variant.of_state(meta_state(config))
    assert variant == Variant.of_config(config)
    assert str(variant) == TITLES[config.name]


def test_the_variants_differ() -> None:
    assert len({Variant.of_config(preset()) for preset in PRESETS}) == len(PRESETS)


@pytest.mark.parametrize(
    ("held", "asked", "sentence"),
    [
        (
            SMALL,
            WITHOUT_FUSION,
            r"is a GLIP of 2 blocks with deep fusion .* width 8.*, not small-a",
        ),
        (WITHOUT_FUSION, SMALL, r"is a GLIP of 2 blocks without deep fusion .*, not small;"),
        (SMALL, GlipConfig.tiny(), r"is a GLIP of 2 blocks .* window 3, not GLIP-T;"),
        (SMALL, None, r"is a GLIP .*never released; use GLIP-T \(A\).*, GLIP-T, GLIP-L"),
        (SMALL, replace(SMALL, blocks=3), r"is a GLIP of 2 blocks"),
    ],
)
def test_another_variant_is_named(
    held: GlipConfig, asked: GlipConfig | None, sentence: str, tmp_path: Path
) -> None:
    path = write_official(random_glip(held), tmp_path / "file.pth")
    with pytest.raises(WeightsError, match=r"file\.pth " + sentence):
        load_glip(path, asked)


def test_a_released_variant_is_named_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GLIP-L asked for, GLIP-T given: no 900 MB are needed to say so."""
    state = meta_state(GlipConfig.tiny())
    monkeypatch.setattr("models.glip.checkpoints._tensors", lambda path: (state, ""))
    with pytest.raises(
        WeightsError, match=r"t\.pth is GLIP-T, not GLIP-L; choose it as what it is"
    ):
        read_glip(tmp_path / "t.pth", GlipConfig.large())
    config, ours = read_glip(tmp_path / "t.pth")
    assert config == GlipConfig.tiny()
    with torch.device("meta"):
        assert ours.keys() == Glip(config).state_dict().keys()


@pytest.mark.parametrize("name", ["glip-tiny", "glip-of-tomorrow"])
def test_a_slim_file_says_which_it_is(name: str, tmp_path: Path) -> None:
    save_file({"x": torch.ones(1)}, tmp_path / "s.safetensors", metadata={NAME_KEY: name})
    with pytest.raises(WeightsError, match=r"is GLIP-T, not small|which is none of glip-tiny-a"):
        load_glip(tmp_path / "s.safetensors", SMALL)


# ---------------------------------------------------------------------------------------- bad files


def drop(state: State) -> None:
    del state["module.rpn.head.bias_lang"]


def add(state: State) -> None:
    state["module.rpn.head.kernel.weight"] = torch.zeros(1)


def bend(state: State) -> None:
    state["module.rpn.head.bias_lang"] = torch.zeros(13)


def spoil(state: State) -> None:
    state["module.rpn.head.bias_lang"] = torch.full((12,), torch.nan)


def integers(state: State) -> None:
    state["module.rpn.head.bias_lang"] = torch.zeros(12, dtype=torch.int64)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (drop, r"lacks 1 tensors, the first is head\.bias_text"),
        (add, r"has besides a GLIP's 1 tensors, the first is rpn\.head\.kernel\.weight"),
        (bend, r"head\.bias_text of shape \[13\] instead of \[12\]"),
        (spoil, r"head\.bias_text with values that are no finite numbers"),
        (integers, r"head\.bias_text with values that are no finite numbers"),
    ],
)
def test_nothing_may_be_missing_or_left_over(
    change: Callable[[State], None], sentence: str, tmp_path: Path
) -> None:
    glip = random_glip()
    state = official_state(glip)
    change(state)
    path = write_official(glip, tmp_path / "file.pth", state)
    with pytest.raises(WeightsError, match=sentence):
        load_glip(path, SMALL)


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("this must not run",))


def truncated(path: Path) -> None:
    write_official(random_glip(), path)
    path.write_bytes(path.read_bytes()[:-4000])


def halved(path: Path) -> None:
    write_official(random_glip(), path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def compressed(path: Path) -> None:
    write_official(random_glip(), path)
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)


@pytest.mark.parametrize(
    ("name", "make", "sentence"),
    [
        ("gone.pth", lambda path: None, "is not in"),
        ("x.onnx", lambda path: path.write_bytes(b"x"), r"give one that ends with \.pth"),
        ("empty.pth", lambda path: path.write_bytes(b""), "damaged, cut short, or no checkpoint"),
        ("text.pth", lambda path: path.write_text("<html>404"), "damaged, cut short"),
        ("cut.pth", truncated, "damaged, cut short"),
        ("half.pth", halved, "damaged, cut short"),
        ("zipped.pth", compressed, "is compressed, which torch.save never does"),
        ("evil.pth", lambda path: torch.save({"model": Evil()}, path), "could run code"),
        ("other.pth", lambda path: torch.save({"model": {"a.b": torch.ones(1)}}, path),
         r"holds no GLIP \(its parts are a\)"),
        ("list.pth", lambda path: torch.save([1, 2], path), r"its parts are nothing"),
        ("cut.safetensors", lambda path: path.write_bytes(b"\x08" + bytes(20)),
         "not a whole safetensors file"),
        ("pickle.safetensors", lambda path: torch.save({}, path), "Python pickle"),
    ],
)  # fmt: skip
def test_bad_files_are_sentences(
    name: str,
    make: Callable[[Path], Any],
    sentence: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    make(tmp_path / name)
    with pytest.raises(WeightsError, match=sentence) as caught:
        load_glip(tmp_path / name, SMALL)
    assert "\n" not in str(caught.value)
    assert name in str(caught.value)
    assert capsys.readouterr().out == ""


# --------------------------------------------------------------------------------------- glip-mini


@pytest.fixture(scope="module")
def mini(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Mapping[str, Tensor]]:
    """A file as the training writes it, with random weights."""
    torch.manual_seed(1)
    glip = Glip(GlipConfig.mini())
    parts = ("fpn.", "resizer.", "head.", "shortcut.")
    trained = {
        k: t.half().contiguous() for k, t in glip.state_dict().items() if k.startswith(parts)
    }
    folder = tmp_path_factory.mktemp("glip-mini")
    save_file(trained, folder / "model.safetensors")
    return folder, trained


def test_glip_mini_is_three_files(mini: tuple[Path, Mapping[str, Tensor]]) -> None:
    folder, trained = mini
    grounder = load_glip_mini(folder)
    assert isinstance(grounder, Grounder)
    assert grounder.name == "glip-mini"
    state = grounder.model.state_dict()
    for key, tensor in trained.items():
        assert torch.equal(state[key], tensor.float()), key
    raw = run_to_end(grounder.ground(Image.new("RGB", (96, 96)), read_prompt("apple; dog")))
    assert raw.labels == ("apple", "dog")


def test_glip_mini_s_frozen_parts_are_the_published_ones(
    mini: tuple[Path, Mapping[str, Tensor]],
) -> None:
    from transformers import AutoModel

    from models.catalog import ASSETS, TEACHER
    from models.clip.encoder import load_mini
    from models.weights import minilm_directory

    glip = load_glip_mini(mini[0]).model
    clip: Any = load_mini(ASSETS / TEACHER, torch.device("cpu"), torch.float32).model
    pixels = torch.rand(1, 3, 96, 96)
    ids = torch.tensor([[101, 6207, 102]])
    with torch.no_grad():
        expected = clip.visual.trunk.forward_features(pixels)
        torch.testing.assert_close(glip.backbone(pixels)[-1], expected)
        bert = AutoModel.from_pretrained(minilm_directory()).eval()
        hidden = bert(ids, torch.ones_like(ids)).last_hidden_state
        mine = glip.encode_text(ids, torch.ones_like(ids))
    torch.testing.assert_close(mine, hidden, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda state: state.pop("head.bias0"), r"lacks 1 tensors, the first is head\.bias0"),
        (lambda state: state.update({"backbone.trunk.conv1.0.weight": torch.ones(1)}),
         r"holds backbone\.trunk\.conv1.*no part of glip-mini"),
        (lambda state: state.update({"head.extra": torch.ones(1)}), "has besides a GLIP's 1"),
    ],
)  # fmt: skip
def test_a_wrong_glip_mini_is_refused(
    change: Callable[[State], Any],
    sentence: str,
    mini: tuple[Path, Mapping[str, Tensor]],
    tmp_path: Path,
) -> None:
    state = load_file(mini[0] / "model.safetensors")
    change(state)
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match=sentence):
        load_glip_mini(tmp_path)


def test_an_absent_glip_mini_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"model\.safetensors is missing"):
        load_glip_mini(tmp_path)


def test_a_user_s_file_grounds(tmp_path: Path) -> None:
    """From a released file to boxes, with BERT's vocabulary."""
    config = replace(SMALL, text=replace(SMALL.text, vocabulary=30522, positions=64), min_size=192)
    path = write_official(random_glip(config), tmp_path / "glip.pth")
    grounder = load_grounder(path, config)
    assert grounder.name == "small"
    raw = run_to_end(grounder.ground(Image.new("RGB", (80, 64)), read_prompt("two dogs. a kite")))
    assert raw.labels == ("two dogs", "a kite")
