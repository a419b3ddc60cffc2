"""Rows of the catalogue for ViLD: a user's archives and files, and the embedded minis."""

from __future__ import annotations

import tarfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from models.catalog import CATALOG, TEACHER, LoadContext, own_detector_rows, vild_mini_row
from models.errors import OfflineError, WeightsError
from models.registry import Registry
from models.vild import Vild, VildConfig
from models.vild.checkpoints import save_vild
from models.vild.detector import Detector
from models.weights import Embedded, Own, WeightFile, sha256_of
from tests.tfbundle_support import write_bundle
from tests.vild_files import R50, narrow, official_variables

MINI = VildConfig.mini_single()


def _mini(folder: Path) -> Path:
    """Random weights of the one-headed mini."""
    folder.mkdir(exist_ok=True)
    path = folder / "model.safetensors"
    save_vild(MINI, Vild(MINI).state_dict(), path, ["red apple", "dog"])
    return path


def test_a_file_of_the_user_s_is_leased_with_its_teacher(tmp_path: Path) -> None:
    path = _mini(tmp_path)
    (row,) = own_detector_rows(path).values()
    assert (row.name, row.task, row.source) == ("own/model.safetensors", "vild", Own(path))
    registry = Registry({**CATALOG, row.name: row}, device="cpu", offline=True)
    with registry.lease(row.name) as detector:
        assert isinstance(detector, Detector)
        assert detector.name == row.name
        assert detector.clip.name == TEACHER
        assert detector.base_names == ("red apple", "dog")


def test_the_embedded_minis_are_verified_before_they_are_read(tmp_path: Path) -> None:
    path = _mini(tmp_path)
    right = WeightFile(path.name, path.stat().st_size, sha256_of(path))
    context = LoadContext(torch.device("cpu"), torch.float32, offline=True)
    row = vild_mini_row("vild-mini-single", tmp_path, (right,))
    assert row.source == Embedded(tmp_path)
    assert row.load(row, context).name == "vild-mini-single"
    row = vild_mini_row("vild-mini-single", tmp_path, (replace(right, sha256="0" * 64),))
    with pytest.raises(WeightsError, match=r"damaged or was changed .* install CLIP Atelier again"):
        row.load(row, context)


def test_a_released_archive_is_converted_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Up to its teacher, CLIP ViT-B/32, which a test does not download."""
    narrow(monkeypatch)
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    write_bundle(bundle / "model.ckpt-180000", official_variables(R50))
    archive = tmp_path / "resnet50_vild.tar.gz"
    with tarfile.open(archive, "w:gz", compresslevel=1) as tar:
        tar.add(bundle, "resnet50_vild")
    (row,) = own_detector_rows(archive).values()
    heard: list[str] = []
    context = LoadContext(
        torch.device("cpu"),
        torch.float32,
        offline=True,
        report=lambda fraction, text: heard.append(text.split()[0]),
        cache=tmp_path / "cache",
    )
    for words in (["Reading", "Converting", "Loading"], ["Reading", "Loading"]):
        heard.clear()
        with pytest.raises(OfflineError, match="clip_224"):
            row.load(row, context)
        assert heard[: len(words)] == words
        assert "Converting" not in heard[len(words) :]
    (slim,) = (tmp_path / "cache" / "vild").iterdir()
    assert slim.suffix == ".safetensors"
    assert archive.is_file()


def test_a_damaged_archive_is_a_sentence(tmp_path: Path) -> None:
    archive = tmp_path / "vild.tar.gz"
    archive.write_bytes(b"no archive")
    (row,) = own_detector_rows(archive).values()
    context = LoadContext(torch.device("cpu"), torch.float32, cache=tmp_path / "cache")
    with pytest.raises(WeightsError, match=r"vild\.tar\.gz cannot be unpacked"):
        row.load(row, context)
    assert not list((tmp_path / "cache" / "vild").iterdir())
