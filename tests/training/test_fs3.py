"""`python -m training.fs3` on a generator of 32 px."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from models.styleclip.fs3 import Fs3
from models.stylegan.checkpoints import save_generator
from models.stylegan.generator import Generator, GeneratorConfig
from models.weights import sha256_of
from training import fs3
from training.styleclip_evaluation import EDITS

pytestmark = pytest.mark.usefixtures("one_thread")


def test_the_command_measures_a_generators_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(fs3, "SAMPLES", 1_000)
    torch.manual_seed(0)
    path = tmp_path / "tiny.safetensors"
    save_generator(Generator(GeneratorConfig.tiny()), path)
    fs3.main(["--generator", str(path), "--images", "2", "--exact"])
    table = Fs3.load(tmp_path / "fs3.safetensors")
    assert table.table.shape == (72, 256)
    norms = table.table.norm(dim=1)
    assert ((norms - 1).abs().lt(1e-2) | norms.eq(0)).all()
    assert norms.gt(0).sum() > 36  # random weights, yet most channels are seen
    assert table.about["generator"] == sha256_of(path)
    assert (table.about["clip"], table.about["images"]) == ("clip-portraits", "2")
    assert "72 channels x 256 features" in capsys.readouterr().out
    assert sorted(file.name for file in tmp_path.iterdir()) == ["fs3.safetensors", path.name]

    fs3.main(["--generator", str(path), "--images", "2", "--probes", "8", "--compare"])
    printed = capsys.readouterr().out
    assert printed.count("rank correlation") == len(EDITS)
    mean = float(printed.split("mean ")[-1].split(",")[0])
    assert 0 < mean < 1  # random weights, a rough estimate: better than chance
