"""The catalogue: complete, immutable, cheap to import, in agreement with open_clip."""

import re
import subprocess
import sys
from dataclasses import FrozenInstanceError, replace
from pathlib import Path

import pytest
import torch

from models.catalog import ASSETS, CATALOG, LoadContext, ModelRow, row_of
from models.errors import InputError, OfflineError, WeightsError
from models.registry import Registry
from models.weights import Embedded, Hub, WeightFile

CONTEXT = LoadContext(torch.device("cpu"), torch.float32, offline=True)
OFFICIAL = [row for row in CATALOG.values() if isinstance(row.source, Hub)]


def _row(name: str) -> object:
    return pytest.param(CATALOG[name], id=name)


EVERY_ROW = pytest.mark.parametrize("row", [_row(name) for name in CATALOG])
EVERY_OFFICIAL_ROW = pytest.mark.parametrize("row", [_row(row.name) for row in OFFICIAL])


def test_the_promised_models_are_on_offer() -> None:
    assert set(CATALOG) >= {
        "clip-mini",
        "clip-mini-critic",
        "clip-vit-b-32",
        "clip-vit-b-16",
        "clip-vit-l-14",
        "clip-rn50",
        "clip-siglip2-b-16",
    }


@EVERY_ROW
def test_rows_are_complete_and_frozen(row: ModelRow) -> None:
    assert CATALOG[row.name] is row
    assert row.family in {"mini", "official", "successor"}
    for text in (row.title, row.task, row.preset, row.licence, row.knows, str(row.source)):
        assert text.strip() == text != ""
        assert "\n" not in text
    assert row.files
    assert row.bytes == sum(file.bytes for file in row.files) > 0
    assert all(file.name.endswith((".safetensors", ".json")) for file in row.files)
    with pytest.raises(FrozenInstanceError):
        row.title = "other"  # type: ignore[misc]
    with pytest.raises(TypeError):
        CATALOG["new"] = row  # type: ignore[index]


@EVERY_OFFICIAL_ROW
def test_official_rows_are_pinned_and_agree_with_open_clip(row: ModelRow) -> None:
    import open_clip

    assert isinstance(row.source, Hub)
    config = open_clip.get_pretrained_cfg(row.preset, row.tag)
    assert config["hf_hub"].rstrip("/") == row.source.repo
    assert re.fullmatch("[0-9a-f]{40}", row.source.revision)
    for file in row.files:
        assert re.fullmatch("[0-9a-f]{64}", file.sha256), file.name


@EVERY_OFFICIAL_ROW
def test_official_sizes_are_those_of_the_architecture(row: ModelRow) -> None:
    import open_clip

    with torch.device("meta"):
        model = open_clip.create_model(row.preset, device="meta")
    tensors = sum(t.nbytes for t in model.state_dict().values())
    header = row.files[0].bytes - tensors
    assert 0 < header < 150_000


@EVERY_OFFICIAL_ROW
def test_size_source_and_licence_are_told_before_a_download(row: ModelRow, tmp_path: Path) -> None:
    assert row.needs_download(tmp_path)
    assert f"{row.bytes / 1e6:,.0f} MB" in row.notice
    assert str(row.source) in row.notice
    assert row.licence in row.notice
    heard: list[str] = []
    context = replace(CONTEXT, cache=tmp_path, report=lambda fraction, text: heard.append(text))
    with pytest.raises(OfflineError, match='"clip-mini"'):
        row.load(row, context)
    assert heard == [row.notice]


def test_offline_goes_through_the_registry(tmp_path: Path) -> None:
    registry = Registry(CATALOG, device="cpu", offline=True, cache=tmp_path)
    with pytest.raises(OfflineError, match=r'--offline forbids .*"clip-mini"'):
        registry.preload(["clip-vit-b-32"])


def test_unknown_names_list_the_choices() -> None:
    with pytest.raises(InputError, match='no model "clip-xl"; choose one of clip-mini, clip-vit'):
        row_of(CATALOG, "clip-xl")


def test_importing_the_catalogue_imports_nothing_heavy() -> None:
    code = "import sys, models.catalog; print([m for m in ('torch', 'open_clip', 'huggingface_hub', 'gradio') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# ------------------------------------------------------------------------------- embedded rows


def _embedded(folder: Path, *files: WeightFile) -> ModelRow:
    return replace(CATALOG["clip-mini"], source=Embedded(folder), files=files)


@pytest.mark.parametrize("name", ["clip-mini", "clip-mini-critic"])
def test_mini_is_embedded_and_genuine(name: str) -> None:
    row = CATALOG[name]
    assert row.source == Embedded(ASSETS / name)
    assert not row.needs_download()
    with Registry(CATALOG, device="cpu", offline=True).lease(name) as clip:
        features = clip.encode_text(["a red apple"])
        assert features.shape == (1, clip.embed_dim)


@pytest.mark.parametrize(
    ("content", "digest", "sentence"),
    [
        (None, "0" * 64, "model.safetensors is missing"),
        (b"x" * 100, "0" * 64, "damaged or was changed .* install CLIP Atelier again"),
        (b"x" * 100, "", "no checksum in models/catalog.py"),
    ],
)
def test_embedded_weights_are_verified_and_never_deleted(
    tmp_path: Path, content: bytes | None, digest: str, sentence: str
) -> None:
    path = tmp_path / "model.safetensors"
    if content is not None:
        path.write_bytes(content)
    row = _embedded(tmp_path, WeightFile(path.name, 100, digest))
    with pytest.raises(WeightsError, match=sentence):
        row.load(row, CONTEXT)
    assert path.exists() == (content is not None)
