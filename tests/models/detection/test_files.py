"""Which files and folders of a user's are listed as ViLD's; the others are in test_successors.py."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from models.detection.files import list_detectors
from models.errors import InputError


def _bundle(folder: Path, name: str = "model.ckpt-180000") -> None:
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.index").write_bytes(b"table")
    (folder / f"{name}.data-00000-of-00001").write_bytes(bytes(1000))
    (folder / f"{name}.meta").write_bytes(b"graph")


def test_vilds_are_listed_however_they_are_kept(tmp_path: Path) -> None:
    for name in ("resnet50_vild.tar.gz", "resnet152_ViLD_ensemble.tgz", "other.tar.gz"):
        (tmp_path / name).write_bytes(bytes(10))
    _bundle(tmp_path / "resnet50_vild")
    _bundle(tmp_path / "two")
    _bundle(tmp_path / "two", "model.ckpt-1")
    (tmp_path / "no data").mkdir()
    (tmp_path / "no data" / "model.index").write_bytes(b"table")
    save_file({"x": np.zeros(1)}, tmp_path / "ours.safetensors", metadata={"vild": "vild-r50"})
    save_file({"x": np.zeros(1)}, tmp_path / "theirs.safetensors")
    found = list_detectors(tmp_path)
    assert [(one.name, one.bytes) for one in found if one.name != "ours.safetensors"] == [
        ("resnet152_ViLD_ensemble.tgz", 10),
        ("resnet50_vild", 1000),
        ("resnet50_vild.tar.gz", 10),
    ]
    assert all(one.is_vild and not one.model_type for one in found)
    assert len(found) == 4
    index = tmp_path / "resnet50_vild" / "model.ckpt-180000.index"
    assert [one.path for one in found if one.name == "resnet50_vild"] == [index]


def test_an_unpacked_bundle_is_found_by_its_folder_or_its_table(tmp_path: Path) -> None:
    folder = tmp_path / "resnet50 [vild]"
    _bundle(folder)
    for path in (folder, folder / "model.ckpt-180000.index"):
        (one,) = list_detectors(path)
        assert (one.path, one.is_vild) == (folder / "model.ckpt-180000.index", True)


def test_nothing_to_list_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "photos.tar.gz").write_bytes(b"")
    with pytest.raises(InputError, match=r"no detector in .*ViLD \(\.tar\.gz\)"):
        list_detectors(tmp_path)
