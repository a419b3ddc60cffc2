"""A released checkpoint, written here in TensorFlow's format, becomes a network of ours."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from models.catalog import ASSETS, TEACHER
from models.errors import InputError, WeightsError
from models.vild import VildConfig, convert
from models.vild.archives import bundle_table
from models.vild.categories import lvis_base_names
from models.vild.checkpoints import (
    check_teacher,
    load_vild,
    read_base_names,
    read_official,
    save_vild,
)
from models.vild.names import official_names
from models.vild.tfbundle import TensorBundle
from models.vild.vild import Vild
from models.weights import read_safetensors
from tests.tfbundle_support import write_bundle
from tests.vild_files import ENSEMBLE, R50, narrow, official_variables

TOWER = ASSETS / TEACHER / "model.safetensors"


@pytest.fixture(scope="module", autouse=True)
def small() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        narrow(patch)
        yield


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The table of a ViLD with one head."""
    prefix = tmp_path_factory.mktemp("resnet50_vild") / "model.ckpt-180000"
    return write_bundle(prefix, official_variables(R50))


@pytest.fixture(scope="module")
def state(released: Path) -> dict[str, torch.Tensor]:
    config, state = read_official(released)
    assert config is R50
    return state


@pytest.fixture(scope="module")
def converted(released: Path) -> Path:
    target = released.parent / "slim" / "vild.safetensors"
    assert convert.main([str(released), "--out", str(target)]) == 0
    return target


# ----------------------------------------------------------------------------- the way there


def test_every_variable_arrives_in_its_place(
    released: Path, state: dict[str, torch.Tensor]
) -> None:
    with torch.device("meta"):
        vild = Vild(R50)
    vild.load_state_dict(state, strict=True, assign=True)
    with TensorBundle.open(released) as bundle:
        for key, name in official_names(R50).items():
            entry = bundle.entries[name]
            assert state[key].dtype == torch.float32
            assert state[key].numel() == np.prod(entry.shape), key
            if state[key].numel() < 10_000:
                assert np.array_equal(
                    np.sort(state[key].flatten()), np.sort(bundle.read(name).flatten())
                ), key


def test_kernels_are_turned_as_tensorflow_means_them(
    released: Path, state: dict[str, torch.Tensor]
) -> None:
    """One number of each layout, and the first fully connected layer as the product it is."""
    with TensorBundle.open(released) as bundle:
        kernel = bundle.read("resnet50/conv2d_3/kernel")  # h, w, in, out
        assert state["backbone.layer1.0.conv2.weight"][3, 5, 1, 2] == float(kernel[1, 2, 5, 3])
        kernel = bundle.read("mask_head/conv5-mask/kernel")  # h, w, out, in
        assert state["mask_head.upscale.weight"][3, 2, 1, 0] == float(kernel[1, 0, 2, 3])
        kernel = bundle.read("frcnn_layer_0/fast_rcnn_head/fc6/kernel")
        boxes = bundle.read("frcnn_layer_0/fast_rcnn_head/box-predict/kernel")
    region = np.random.default_rng(1).standard_normal((4, 7, 7)).astype(np.float32)
    expected = region.transpose(1, 2, 0).reshape(-1) @ kernel
    ours = state["head.fcs.0.weight"] @ torch.from_numpy(region).flatten()
    assert np.allclose(ours, expected, atol=1e-4)
    assert np.array_equal(state["head.box.weight"][0], boxes[:, 1])  # dx, which is second there


def test_an_ensemble_is_recognised_and_norms_may_carry_another_name(tmp_path: Path) -> None:
    variables = official_variables(ENSEMBLE, suffix="_sim_clr")
    norm = variables["resnet50/batch_normalization_3_sim_clr/gamma"]
    config, state = read_official(write_bundle(tmp_path / "m", variables))
    assert config is ENSEMBLE
    assert "image_head.project.weight" in state
    assert np.array_equal(state["backbone.layer1.0.bn2.weight"], norm)


def test_the_slim_file_holds_the_network_in_half_precision(
    released: Path, state: dict[str, torch.Tensor], converted: Path
) -> None:
    stored = load_file(converted)
    assert stored.keys() == state.keys()
    matrices = [key for key, tensor in state.items() if tensor.dim() > 1]
    assert all(stored[key].dtype == torch.float16 for key in matrices)
    assert all(torch.equal(stored[k], v) for k, v in state.items() if k not in matrices)
    data = released.with_suffix(".data-00000-of-00001")
    assert converted.stat().st_size < 0.52 * data.stat().st_size
    vild = load_vild(converted)
    assert vild.config == R50
    assert read_base_names(converted) == lvis_base_names()
    assert not vild.training
    assert not any(parameter.requires_grad for parameter in vild.parameters())
    for key, tensor in vild.state_dict().items():
        assert torch.allclose(tensor.float(), state[key].float(), rtol=1e-3, atol=1e-6), key


def test_what_was_converted_detects(converted: Path) -> None:
    vild = load_vild(converted)
    with torch.no_grad():
        proposals, regions = vild(torch.zeros(1, 3, 64, 64), [(64, 64)])
    assert regions.embeddings.shape == (proposals.boxes.shape[1], R50.embedding)


# --------------------------------------------------------------------------------- archives


def _archive(path: Path, members: dict[str, bytes], mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def _small(tmp_path: Path) -> dict[str, bytes]:
    """Files of a bundle that is no ViLD but a bundle."""
    write_bundle(tmp_path / "model.ckpt-7", {"x": np.arange(3)})
    return {path.name: path.read_bytes() for path in tmp_path.glob("model.ckpt-7*")}


@pytest.mark.parametrize("name", ["vild.tar.gz", "vild.tgz", "vild.tar"])
def test_archives_are_unpacked_and_removed(tmp_path: Path, name: str) -> None:
    small = _small(tmp_path)
    members = {f"./resnet50_vild/{n}": content for n, content in small.items()}
    members |= {"./resnet50_vild/checkpoint": b"model", "./resnet50_vild/model.ckpt-7.meta": b"?"}
    archive = _archive(tmp_path / name, members, "w" if name.endswith("tar") else "w:gz")
    scratch = tmp_path / "scratch"
    with bundle_table(archive, scratch) as index:
        assert sorted(path.name for path in index.parent.iterdir()) == sorted(small)
        with TensorBundle.open(index) as bundle:
            assert bundle.read("x").tolist() == [0, 1, 2]
    assert list(scratch.iterdir()) == []


def test_an_archive_writes_nowhere_else(tmp_path: Path) -> None:
    small = _small(tmp_path)
    places = ("../../../", "/tmp/../", "a/../../b/../../")
    archive = tmp_path / "vild.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        for (name, content), place in zip(small.items(), places):
            info = tarfile.TarInfo(place + name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        link = tarfile.TarInfo("other.index")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    before = sorted(tmp_path.rglob("*"))
    scratch = tmp_path / "scratch"
    with bundle_table(archive, scratch) as index:
        assert sorted(path.name for path in index.parent.iterdir()) == sorted(small)
        assert not any(path.is_symlink() for path in index.parent.iterdir())
    assert sorted(tmp_path.rglob("*")) == sorted([*before, scratch])


def _refused(path: Path, tmp_path: Path) -> str:
    with pytest.raises(WeightsError) as caught, bundle_table(path, tmp_path / "scratch"):
        pass
    assert not list((tmp_path / "scratch").glob("*"))
    return str(caught.value)


def test_archives_that_cannot_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = _small(tmp_path)
    whole = _archive(tmp_path / "whole.tar.gz", small)
    cut = tmp_path / "cut.tar.gz"
    cut.write_bytes(whole.read_bytes()[:-30])
    assert "cut.tar.gz cannot be unpacked" in _refused(cut, tmp_path)
    page = tmp_path / "page.tar.gz"
    page.write_bytes(b"<html>Not found</html>" * 40)
    assert "page.tar.gz cannot be unpacked" in _refused(page, tmp_path)
    assert "does not exist" in _refused(tmp_path / "absent.tar.gz", tmp_path)
    empty = _archive(tmp_path / "empty.tar.gz", {"readme": b"x"})
    assert "must hold one checkpoint" in _refused(empty, tmp_path)
    twice = _archive(tmp_path / "twice.tar.gz", {**small, "b.index": b"x"})
    assert "it holds b.index, model.ckpt-7.index" in _refused(twice, tmp_path)
    same = _archive(tmp_path / "same.tar.gz", {"a/m.index": b"x", "b/m.index": b"x"})
    assert "two checkpoints of one name" in _refused(same, tmp_path)
    monkeypatch.setattr("models.vild.archives.MAX_UNPACKED_BYTES", 100)
    large = _archive(tmp_path / "large.tar.gz", {"m.index": bytes(101)})
    assert "no checkpoint of ViLD" in _refused(large, tmp_path)


def test_a_checkpoint_is_found_where_it_lies(tmp_path: Path) -> None:
    _small(tmp_path)
    index = tmp_path / "model.ckpt-7.index"
    for given in (tmp_path, tmp_path / "model.ckpt-7", index):
        with bundle_table(given, tmp_path / "scratch") as found:
            assert found == index


# ---------------------------------------------------------------------------------- refusals


@pytest.fixture(scope="module")
def small_variables() -> dict[str, np.ndarray]:
    """The same names, each a single number: enough for what is decided by names."""
    return {name: np.zeros(1, np.float32) for name in official_variables(R50)}


@pytest.mark.parametrize(
    ("remove", "add", "sentence"),
    [
        ("fpn/p6/bias", "", "is no vild-r50: fpn/p6/bias is missing"),
        ("", "fpn/p7/kernel", "is no vild-r50: fpn/p7/kernel is not of it"),
        ("fpn/l2/bias", "a", "fpn/l2/bias is missing; a is not of it"),
        ("resnet50/conv2d/kernel", "", "holds no ViLD with ResNet-50 or ResNet-152"),
        ("", "resnet152/conv2d/kernel", "holds no ViLD with ResNet-50"),
        ("", "fpn/p2-bn_sim_clr/gamma", "two variables for fpn/p2-bn/gamma"),
        ("", "", "wrong shape|of shape"),
    ],
)
def test_another_set_of_variables_is_refused(
    tmp_path: Path, small_variables: dict[str, np.ndarray], remove: str, add: str, sentence: str
) -> None:
    variables = {n: v for n, v in small_variables.items() if n != remove}
    if add:
        variables[add] = np.zeros(1, np.float32)
    with pytest.raises(WeightsError, match=sentence):
        read_official(write_bundle(tmp_path / "m", variables))


def test_wrong_files_are_refused(tmp_path: Path) -> None:
    mini = VildConfig.mini_single()
    path = tmp_path / "mini.safetensors"
    save_vild(mini, Vild(mini).state_dict(), path, ["red apple"])
    state = load_file(path)
    told = {"vild": mini.name, "teacher": mini.teacher}
    bias = state["fpn.lateral.0.bias"]
    cases = [
        ({"fpn.lateral.0.bias": torch.zeros(5)}, told, r"of shape \[5\] where .* has \[64\]"),
        ({"fpn.lateral.0.bias": bias + torch.nan}, told, "not finite"),
        ({"fpn.lateral.0.bias": bias.long()}, told, "another kind of numbers"),
        ({"extra": bias.clone()}, told, "extra is not of it"),
        ({}, {**told, "vild": "vild-r50"}, "is a vild-r50; wanted is vild-mini-single"),
        ({}, {}, "not written by CLIP Atelier"),
    ]
    changed = tmp_path / "changed.safetensors"
    for change, metadata, sentence in cases:
        save_file({**state, **change}, changed, metadata=metadata)
        with pytest.raises(WeightsError, match=sentence):
            load_vild(changed, tower=TOWER, config=mini)
    save_file({"x": bias}, changed, metadata={**told, "vild": "vild-r51"})
    with pytest.raises(WeightsError, match="is a vild-r51; wanted is one of vild-r50, vild-r50-"):
        load_vild(changed)
    assert read_base_names(path) == ("red apple",)
    for base in ("{", "[1]", '{"a": 1}', "[" * 100_000):
        save_file({"x": bias}, changed, metadata={**told, "base": base})
        with pytest.raises(WeightsError, match="does not tell the names it was trained on"):
            read_base_names(changed)


def test_numbers_too_large_for_half_precision_are_not_saved(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"a\.weight has values that half"):
        save_vild(R50, {"a.weight": torch.full((1, 1), 1e6)}, tmp_path / "x.safetensors", [])
    assert not list(tmp_path.iterdir())


def test_the_command_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    missing = tmp_path / "model.index"
    assert convert.main([str(missing), "--out", str(tmp_path / "x.safetensors")]) == 1
    assert "model.index cannot be read" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        convert.main([str(missing), "--out", str(tmp_path / "x.pt")])


def test_a_teacher_of_another_name_or_size_is_refused() -> None:
    clip = SimpleNamespace(name=R50.teacher, embed_dim=R50.embedding)
    check_teacher(R50, clip)  # type: ignore[arg-type]
    other = SimpleNamespace(name="clip-mini", embed_dim=R50.embedding)
    with pytest.raises(InputError, match=r"learnt from clip-vit-b-32 .* words of clip-mini"):
        check_teacher(R50, other)  # type: ignore[arg-type]
    long = SimpleNamespace(name=R50.teacher, embed_dim=512)
    with pytest.raises(InputError, match="vectors of 5 numbers and clip-vit-b-32 of 512"):
        check_teacher(R50, long)  # type: ignore[arg-type]


# --------------------------------------------------------------------------------------- mini


def test_mini_is_saved_without_the_tower_and_loaded_with_it(tmp_path: Path) -> None:
    config = VildConfig.mini_single()
    torch.manual_seed(2)
    vild = Vild(config)
    path = tmp_path / "mini.safetensors"
    save_vild(config, vild.state_dict(), path, [])
    assert not any(key.startswith("backbone.") for key in load_file(path))
    again = load_vild(path, tower=TOWER, config=config)
    trunk = read_safetensors(TOWER)
    assert torch.equal(
        again.state_dict()["backbone.trunk.conv1.0.weight"],
        trunk["visual.trunk.conv1.0.weight"],
    )
    kernel = vild.state_dict()["fpn.smooth.0.weight"]
    assert torch.allclose(again.state_dict()["fpn.smooth.0.weight"], kernel, rtol=1e-3, atol=1e-4)
    assert not any(parameter.is_meta for parameter in again.parameters())
    with pytest.raises(WeightsError, match="stands on clip-mini's image tower"):
        load_vild(path, config=config)
