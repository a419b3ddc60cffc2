"""The catalogue: complete, immutable, cheap to import, in agreement with open_clip."""

import hashlib
import re
import subprocess
import sys
from dataclasses import FrozenInstanceError, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from models.catalog import (
    ASSETS,
    CATALOG,
    TEACHER,
    LoadContext,
    ModelRow,
    glip_mini_row,
    own_detector_rows,
    own_generator_rows,
    row_of,
)
from models.errors import InputError, OfflineError, WeightsError
from models.registry import Registry
from models.stylegan.checkpoints import save_generator
from models.stylegan.generator import Generator, GeneratorConfig
from models.weights import (
    SAFE_SUFFIXES,
    Embedded,
    Hub,
    Own,
    WeightFile,
    minilm_directory,
    sha256_of,
)
from tests.stylegan_support import picture, rosinality_state, tiny_generator

CONTEXT = LoadContext(torch.device("cpu"), torch.float32, offline=True)
OFFICIAL = [row for row in CATALOG.values() if isinstance(row.source, Hub)]
CLIP = [row for row in OFFICIAL if row.task == "clip"]
GENERATORS = [row for row in OFFICIAL if row.task == "stylegan"]
DETECTORS = [row for row in OFFICIAL if row.task == "detection"]
GATED = ("sam3",)  # not downloaded by us


def _row(name: str) -> object:
    return pytest.param(CATALOG[name], id=name)


EVERY_ROW = pytest.mark.parametrize("row", [_row(name) for name in CATALOG])
EVERY_OFFICIAL_ROW = pytest.mark.parametrize("row", [_row(row.name) for row in OFFICIAL])
EVERY_DOWNLOAD = pytest.mark.parametrize(
    "row", [_row(row.name) for row in OFFICIAL if row.name not in GATED]
)
EVERY_OFFICIAL_CLIP = pytest.mark.parametrize("row", [_row(row.name) for row in CLIP])
EVERY_OFFICIAL_GENERATOR = pytest.mark.parametrize("row", [_row(row.name) for row in GENERATORS])


def test_the_promised_models_are_on_offer() -> None:
    assert set(CATALOG) >= {
        "clip-mini",
        "clip-mini-critic",
        TEACHER,
        "clip-portraits",
        "clip-vit-b-32",
        "clip-vit-b-16",
        "clip-vit-l-14",
        "clip-rn50",
        "clip-siglip2-b-16",
        "stylegan2-mini",
        "e4e-mini",
        "stylegan2-ffhq",
        "stylegan2-car",
        "stylegan2-cat",
        "stylegan2-church",
        "stylegan2-horse",
        "grounding-dino-tiny",
        "owlv2-base",
        "sam3",
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
    assert all((file.slim or file.name).endswith(SAFE_SUFFIXES) for file in row.files)
    with pytest.raises(FrozenInstanceError):
        row.title = "other"  # type: ignore[misc]
    with pytest.raises(TypeError):
        CATALOG["new"] = row  # type: ignore[index]


@EVERY_OFFICIAL_ROW
def test_official_rows_are_pinned(row: ModelRow) -> None:
    assert isinstance(row.source, Hub)
    assert re.fullmatch("[0-9a-f]{40}", row.source.revision)
    for file in row.files:
        assert re.fullmatch("[0-9a-f]{64}", file.sha256), file.name


@EVERY_OFFICIAL_CLIP
def test_official_rows_agree_with_open_clip(row: ModelRow) -> None:
    import open_clip

    assert isinstance(row.source, Hub)
    config = open_clip.get_pretrained_cfg(row.preset, row.tag)
    assert config["hf_hub"].rstrip("/") == row.source.repo


@EVERY_OFFICIAL_GENERATOR
def test_official_generators_are_float32_of_the_paper_s_architecture(row: ModelRow) -> None:
    """g_ema with its noise, and no training state: the archive adds less than 300 bytes a tensor."""
    (file,) = row.files
    side = int(row.preset.removeprefix("config F, ").removesuffix(" px"))
    with torch.device("meta"):
        state = Generator(GeneratorConfig.ffhq(side)).state_dict()
    archive = file.bytes - 4 * sum(tensor.numel() for tensor in state.values())
    assert 0 < archive < 350 * len(state)


@EVERY_OFFICIAL_CLIP
def test_official_sizes_are_those_of_the_architecture(row: ModelRow) -> None:
    import open_clip

    with torch.device("meta"):
        model = open_clip.create_model(row.preset, device="meta")
    tensors = sum(t.nbytes for t in model.state_dict().values())
    header = row.files[0].bytes - tensors
    assert 0 < header < 150_000


@pytest.mark.parametrize("row", [_row(row.name) for row in DETECTORS])
def test_successors_are_float32_of_their_architecture(row: ModelRow) -> None:
    """The size of the file is that of transformers' network and a header: the digest belongs to
    weights of this architecture."""
    import transformers

    config: Any
    if row.name == "owlv2-base":
        config = transformers.Owlv2Config(vision_config={"image_size": 960})
        build: Any = transformers.Owlv2ForObjectDetection
    elif row.name == "sam3":
        config, build = transformers.Sam3VideoConfig(), transformers.Sam3VideoModel
    else:
        config, build = (
            transformers.GroundingDinoConfig(),
            transformers.GroundingDinoForObjectDetection,
        )
    with torch.device("meta"):
        network = build(config)
    tensors = sum(tensor.nbytes for tensor in network.parameters())
    # Older versions also saved Swin's position indices, 0.2 MB.
    assert 0 < row.files[0].bytes - tensors < 400 * len(network.state_dict())


def test_the_vocabulary_of_grounding_dino_is_bert_s() -> None:
    """An independent check of one digest: MiniLM comes with the same file."""
    (vocabulary,) = (f for f in CATALOG["grounding-dino-tiny"].files if f.name == "vocab.txt")
    packaged = minilm_directory() / "vocab.txt"
    assert (packaged.stat().st_size, sha256_of(packaged)) == (vocabulary.bytes, vocabulary.sha256)


def test_the_merges_of_owlv2_are_openai_s() -> None:
    """Another: open_clip comes with the same merges, without the first line."""
    from open_clip.tokenizer import SimpleTokenizer

    lines = ["#version: 0.2", *(" ".join(pair) for pair in SimpleTokenizer().bpe_ranks)]
    content = "".join(f"{line}\n" for line in lines).encode()
    (merges,) = (file for file in CATALOG["owlv2-base"].files if file.name == "merges.txt")
    assert (len(content), hashlib.sha256(content).hexdigest()) == (merges.bytes, merges.sha256)


def test_a_gated_model_says_what_to_do(tmp_path: Path) -> None:
    row = CATALOG["sam3"]
    assert "to be accepted" in row.notice
    with pytest.raises(
        WeightsError, match=r"accept it at https://huggingface\.co/facebook/sam3, run"
    ):
        row.load(row, replace(CONTEXT, offline=False, cache=tmp_path))
    assert not any(tmp_path.iterdir())


@EVERY_DOWNLOAD
def test_size_source_and_licence_are_told_before_a_download(row: ModelRow, tmp_path: Path) -> None:
    assert row.needs_download(tmp_path)
    assert f"{row.bytes / 1e6:,.0f} MB" in row.notice
    assert str(row.source) in row.notice
    assert row.licence in row.notice
    heard: list[str] = []
    context = replace(CONTEXT, cache=tmp_path, report=lambda fraction, text: heard.append(text))
    with pytest.raises(OfflineError, match="mini model"):
        row.load(row, context)
    assert heard == [row.notice]


def test_offline_goes_through_the_registry(tmp_path: Path) -> None:
    registry = Registry(CATALOG, device="cpu", offline=True, cache=tmp_path)
    with pytest.raises(OfflineError, match=r"--offline forbids .*mini model"):
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


@pytest.mark.parametrize("name", ["clip-mini", "clip-mini-critic", TEACHER])
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


# --------------------------------------------------------------------------------- generators


def _official_generator(tmp_path: Path) -> tuple[ModelRow, Path]:
    """The FFHQ row with a small checkpoint of our own, as if it had just been downloaded."""
    row = CATALOG["stylegan2-ffhq"]
    assert isinstance(row.source, Hub)
    folder = tmp_path / row.source.repo.replace("/", "--") / row.source.revision
    folder.mkdir(parents=True)
    path = folder / row.files[0].name
    generator = tiny_generator()
    torch.save({"g_ema": rosinality_state(generator), "latent_avg": generator.mean_latent}, path)
    file = replace(row.files[0], bytes=path.stat().st_size, sha256=sha256_of(path))
    return replace(row, files=(file,)), path


def test_an_official_generator_is_kept_as_slim_safetensors(tmp_path: Path) -> None:
    row, path = _official_generator(tmp_path)
    pickled = path.stat().st_size
    context = replace(CONTEXT, cache=tmp_path)
    first = row.load(row, context)
    assert not path.exists()
    slim = path.parent / row.files[0].slim
    assert slim.stat().st_size < 0.7 * pickled
    assert not row.needs_download(tmp_path)
    again = row.load(row, context)
    assert torch.equal(picture(first), picture(again))
    expected = picture(tiny_generator())
    assert (picture(again) - expected).abs().max() < 5e-3 * expected.abs().max()


def test_a_tampered_checkpoint_is_deleted_unread(tmp_path: Path) -> None:
    row, path = _official_generator(tmp_path)
    path.write_bytes(path.read_bytes() + b"!")
    with pytest.raises(WeightsError, match=r"damaged or was changed .* deleted"):
        row.load(row, replace(CONTEXT, cache=tmp_path))
    assert not path.exists()
    assert row.needs_download(tmp_path)


def test_own_generators_are_rows_that_can_be_leased(tmp_path: Path) -> None:
    save_generator(tiny_generator(), tmp_path / "mine.safetensors")
    (tmp_path / "broken.pt").write_bytes(b"no checkpoint")
    rows = own_generator_rows(tmp_path)
    assert list(rows) == ["own/broken", "own/mine"]
    row = rows["own/mine"]
    assert row.source == Own(tmp_path / "mine.safetensors")
    assert (row.task, row.needs_download(), "is your file" in row.notice) == (
        "stylegan",
        False,
        True,
    )
    registry = Registry({**CATALOG, **rows}, device="cpu", offline=True)
    with registry.lease("own/mine") as generator:
        assert torch.allclose(picture(generator), picture(tiny_generator()), atol=1e-4)
    with pytest.raises(WeightsError, match=r"broken\.pt is damaged"):
        registry.preload(["own/broken"])


# --------------------------------------------------------------------------------- detectors


def test_own_glips_and_successors_are_rows(tmp_path: Path) -> None:
    (tmp_path / "broken.pth").write_bytes(b"no checkpoint")
    folder = tmp_path / "owl"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "owlv2"}')
    (folder / "model.safetensors").write_bytes(b"no weights")
    rows = own_detector_rows(tmp_path)
    assert list(rows) == ["own/broken.pth", "own/owl"]
    assert {row.task for row in rows.values()} == {"detection"}
    assert rows["own/owl"].preset == "owlv2"
    assert not any(row.needs_download() for row in rows.values())
    registry = Registry({**CATALOG, **rows}, device="cpu", offline=True, cache=tmp_path / "cache")
    with pytest.raises(WeightsError, match=r"broken\.pth is damaged, cut short"):
        registry.preload(["own/broken.pth"])
    with pytest.raises(WeightsError, match="not a whole safetensors file"):
        registry.preload(["own/owl"])


def test_a_user_s_glip_is_converted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from models.glip import checkpoints
    from tests.glip_files import SMALL, random_glip, write_official

    monkeypatch.setattr(checkpoints, "PRESETS", (lambda: SMALL,))
    monkeypatch.setattr(checkpoints, "TITLES", {SMALL.name: "small GLIP"})
    path = write_official(random_glip(), tmp_path / "glip.pth")
    (row,) = own_detector_rows(path).values()
    heard: list[str] = []
    context = replace(
        CONTEXT, cache=tmp_path / "cache", report=lambda fraction, text: heard.append(text)
    )
    first = row.load(row, context)
    assert [text.split()[0] for text in heard] == ["Reading", "Converting", "Loading"]
    (slim,) = (tmp_path / "cache" / "glip").iterdir()
    heard.clear()
    again = row.load(row, context)
    assert [text.split()[0] for text in heard] == ["Reading", "Loading"]
    assert first.name == again.name == "own/glip.pth"
    state = again.model.state_dict()
    assert all(torch.equal(state[k], tensor) for k, tensor in first.model.state_dict().items())
    assert slim.stat().st_size < path.stat().st_size


def test_glip_mini_is_verified_before_it_is_read(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"x" * 100)
    row = glip_mini_row(tmp_path, (WeightFile("model.safetensors", 100, "0" * 64),))
    with pytest.raises(WeightsError, match=r"damaged or was changed .* install CLIP Atelier again"):
        row.load(row, CONTEXT)
