"""Successors: every family, tiny and with random weights, written by transformers, read by us, and
compared with what transformers' own post-processing says."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from open_clip.tokenizer import SimpleTokenizer
from PIL import Image
from pycocotools import mask as coco_mask

from models.detection.files import MODEL_TYPES, list_detectors, model_type_of
from models.errors import InputError, WeightsError
from models.glip.grounding import GroundingThresholds
from models.glip.postprocess import MIN_PROBABILITY
from models.glip.prompts import Prompt, Word, list_prompt
from models.glip.successors import (
    FAMILIES,
    Successor,
    SuccessorDetections,
    load_successor,
)
from models.jobs import run_to_end
from models.weights import minilm_directory

MARKS = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
EVERYTHING = GroundingThresholds(box=0.0, text=0.0, nms=1.0, max_boxes=1000)
APPLE_DOG = list_prompt(["Red Apple", "dog"])  # "Red Apple. dog"


def list_prompt_of(*names: str) -> Prompt:
    return list_prompt(names)


def caption_of(text: str, *phrases: str) -> Prompt:
    spans, place = [], 0
    for phrase in phrases:
        place = text.index(phrase, place)
        spans.append((place, place + len(phrase)))
        place += len(phrase)
    return Prompt.from_spans(text, spans)


def picture(width: int = 52, height: int = 36) -> Image.Image:
    noise = np.random.default_rng(3).integers(0, 255, (height, width, 3), np.uint8)
    return Image.fromarray(noise)


# ------------------------------------------------------------------------------- tiny networks


def bert_tokenizer() -> Any:
    return transformers.BertTokenizerFast.from_pretrained(minilm_directory())


def clip_tokenizer(length: int) -> Any:
    known = SimpleTokenizer()
    return transformers.CLIPTokenizer(
        vocab={MARKS.get(word, word): number for word, number in known.encoder.items()},
        merges=list(known.bpe_ranks),
        pad_token="!",
        model_max_length=length,
    )


def tiny_dino(kind: str) -> tuple[Any, Any]:
    text = transformers.BertConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    swin = transformers.SwinConfig(
        image_size=64, embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2], window_size=4,
        out_indices=[2, 3, 4],
    )  # fmt: skip
    sizes = {
        "d_model": 32, "encoder_layers": 1, "decoder_layers": 2, "encoder_attention_heads": 2,
        "decoder_attention_heads": 2, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "num_queries": 9,
        "max_text_len": 24, "disable_custom_kernels": True,
    }  # fmt: skip
    if kind == "grounding-dino":
        config = transformers.GroundingDinoConfig(text_config=text, backbone_config=swin, **sizes)
        model: Any = transformers.GroundingDinoForObjectDetection(config)
    else:
        config = transformers.MMGroundingDinoConfig(text_config=text, backbone_config=swin, **sizes)
        model = transformers.MMGroundingDinoForObjectDetection(config)
    images = transformers.GroundingDinoImageProcessor(
        size={"shortest_edge": 96, "longest_edge": 160}
    )
    return model, transformers.GroundingDinoProcessor(images, bert_tokenizer())


def tiny_owl() -> tuple[Any, Any]:
    small = {
        "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }  # fmt: skip
    config = transformers.Owlv2Config(
        text_config=small,
        vision_config={**small, "image_size": 64, "patch_size": 16},
        projection_dim=16,
    )
    images = transformers.Owlv2ImageProcessor(size={"height": 64, "width": 64})
    model = transformers.Owlv2ForObjectDetection(config)
    return model, transformers.Owlv2Processor(images, clip_tokenizer(16))


def tiny_sam3() -> tuple[Any, Any]:
    small = {"hidden_size": 16, "num_attention_heads": 2}
    layer = {**small, "num_layers": 1, "intermediate_size": 16}
    backbone = {
        **small, "model_type": "sam3_vit_model", "num_hidden_layers": 1, "intermediate_size": 16,
        "image_size": 56, "pretrain_image_size": 56, "patch_size": 14, "window_size": 2,
        "global_attn_indexes": [0],
    }  # fmt: skip
    config = transformers.Sam3Config(
        vision_config={
            "backbone_config": backbone,
            "fpn_hidden_size": 16,
            "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
        },
        text_config={
            **small, "model_type": "clip_text_model", "num_hidden_layers": 1,
            "intermediate_size": 16, "projection_dim": 16, "max_position_embeddings": 32,
            "vocab_size": 49408,
        },
        geometry_encoder_config=layer,
        detr_encoder_config=layer,
        detr_decoder_config={**layer, "num_queries": 7},
        mask_decoder_config=small,
    )  # fmt: skip
    images = transformers.Sam3ImageProcessor(
        size={"height": 56, "width": 56}, mask_size={"height": 16, "width": 16}
    )
    return transformers.Sam3Model(config), transformers.Sam3Processor(images, clip_tokenizer(32))


BUILDERS: dict[str, Callable[[], tuple[Any, Any]]] = {
    "grounding-dino": lambda: tiny_dino("grounding-dino"),
    "mm-grounding-dino": lambda: tiny_dino("mm-grounding-dino"),
    "owlv2": tiny_owl,
    "sam3": tiny_sam3,
}


@dataclass(frozen=True)
class Made:
    folder: Path
    model: Any


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Made]:
    """One folder a family, as transformers writes it."""
    made = {}
    for kind, build in BUILDERS.items():
        torch.manual_seed(5)
        model, processor = build()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.dim() > 1:  # so that boxes and words differ
                    torch.nn.init.xavier_normal_(parameter)
                elif "class_embed" in name:  # a prior of 1% would put all below the floor
                    parameter.zero_()
        folder = tmp_path_factory.mktemp(kind)
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
        made[kind] = Made(folder, model)
    return made


@pytest.fixture(scope="module")
def folders(made: dict[str, Made]) -> dict[str, Path]:
    return {kind: what.folder for kind, what in made.items()}


@pytest.fixture(scope="module")
def successors(folders: dict[str, Path]) -> dict[str, Successor]:
    return {kind: load_successor(kind, folder) for kind, folder in folders.items()}


EVERY_FAMILY = pytest.mark.parametrize("kind", BUILDERS)


def ground(successor: Successor, prompt: Prompt = APPLE_DOG) -> SuccessorDetections:
    return run_to_end(successor.ground(picture(), prompt))


# ------------------------------------------------------------------------------------ grounding


@EVERY_FAMILY
def test_candidates_are_tied_to_the_words(kind: str, successors: dict[str, Successor]) -> None:
    found = ground(successors[kind])
    assert len(found.scores) > 0
    assert found.boxes.shape == (len(found.scores), 4)
    assert found.token_scores.shape == (len(found.scores), len(found.words))
    assert (np.diff(found.scores) <= 0).all()
    assert set(found.phrases) <= {0, 1}
    assert found.labels == ("Red Apple", "dog")
    assert found.spans == ((0, 9), (11, 14))
    assert (found.phrase_scores == found.scores).all()
    for word in found.words:
        assert APPLE_DOG.caption[word.begin : word.end].lower() == word.text.lower()
    owners = np.array([0 if word.begin < 9 else 1 for word in found.words])
    for row, phrase in enumerate(found.phrases):
        own = found.token_scores[row, owners == phrase]
        assert found.scores[row] == pytest.approx(own.mean(), abs=1e-6)
        assert set(found.lit(row, 0.0)) == set(np.flatnonzero(owners == phrase))


def test_dino_boxes_are_those_of_transformers(successors: dict[str, Successor]) -> None:
    for kind in ("grounding-dino", "mm-grounding-dino"):
        successor, image = successors[kind], picture()
        inputs = successor.processor(images=image, text="red apple. dog.", return_tensors="pt")
        with torch.no_grad():
            output = successor.model(**inputs)
        (expected,) = successor.processor.post_process_grounded_object_detection(
            output, inputs.input_ids, threshold=0.0, target_sizes=[(image.height, image.width)]
        )
        tokens = inputs.input_ids[0].tolist()
        names = successor.processor.tokenizer.convert_ids_to_tokens(tokens)
        assert names == ["[CLS]", "red", "apple", ".", "dog", ".", "[SEP]"]
        probabilities = output.logits[0].sigmoid()
        scores = torch.stack(
            [probabilities[:, 1:3].mean(1), probabilities[:, 4:5].mean(1)], 1
        ).numpy()  # (queries, phrases)
        limit = np.array([image.width, image.height] * 2)
        boxes = expected["boxes"].numpy().clip(0, limit)
        rows = [(scores[q, p], p, *boxes[q]) for q, p in np.argwhere(scores > MIN_PROBABILITY)]
        rows.sort(key=lambda row: -row[0])
        found = ground(successor)
        assert len(found.scores) == len(rows) > 0
        mine = np.column_stack([found.scores, found.phrases, found.boxes])
        np.testing.assert_allclose(mine, np.array(rows), atol=1e-4)


def test_owl_boxes_are_those_of_transformers(successors: dict[str, Successor]) -> None:
    successor, image = successors["owlv2"], picture()
    inputs = successor.processor(images=image, text=[["dog"]], return_tensors="pt")
    with torch.no_grad():
        output = successor.model(**inputs)
    (expected,) = successor.processor.post_process_grounded_object_detection(
        output, MIN_PROBABILITY, [(image.height, image.width)], [["dog"]]
    )
    found = ground(successor, list_prompt_of("dog"))
    order = expected["scores"].argsort(descending=True, stable=True)
    np.testing.assert_allclose(found.scores, expected["scores"][order].numpy(), atol=1e-6)
    limit = np.array([image.width, image.height] * 2)
    boxes = expected["boxes"][order].numpy().clip(0, limit)
    np.testing.assert_allclose(found.boxes, boxes, atol=1e-4)
    assert found.words == (Word("dog", 0, 3),)


def test_sam3_boxes_and_masks_are_those_of_transformers(successors: dict[str, Successor]) -> None:
    successor, image = successors["sam3"], picture()
    inputs = successor.processor(images=image, text="dog", return_tensors="pt")
    inputs.pop("original_sizes")
    with torch.no_grad():
        output = successor.model(**inputs)
    (expected,) = successor.processor.post_process_instance_segmentation(
        output, MIN_PROBABILITY, 0.5, [(image.height, image.width)]
    )
    found = ground(successor, list_prompt_of("dog"))
    order = expected["scores"].argsort(descending=True, stable=True)
    assert len(order) > 0
    np.testing.assert_allclose(found.scores, expected["scores"][order].numpy(), atol=1e-6)
    limit = np.array([image.width, image.height] * 2)
    np.testing.assert_allclose(
        found.boxes, expected["boxes"][order].numpy().clip(0, limit), atol=1e-4
    )
    masks = np.stack([coco_mask.decode(mask) for mask in found.masks])
    # Resized before and after the sigmoid they may differ in a pixel on the edge.
    assert (masks != expected["masks"][order].numpy()).mean() < 0.05
    detections = found.select(EVERYTHING)
    assert detections.masks is not None
    assert len(detections.masks) == len(detections)


@EVERY_FAMILY
def test_thresholds_never_run_the_network(kind: str, successors: dict[str, Successor]) -> None:
    successor = successors[kind]
    found = ground(successor)
    everything = found.select(EVERYTHING)
    assert len(everything) == len(found.scores)
    middle = float(np.median(found.scores))
    strict = found.select(replace(EVERYTHING, box=middle))
    assert len(strict) == int((found.scores >= middle).sum()) < len(everything)
    assert (strict.scores >= middle).all()
    assert len(found.select(replace(EVERYTHING, max_boxes=1))) == 1
    assert len(found.select(replace(EVERYTHING, box=1.0))) == 0
    assert found.matrix(EVERYTHING).shape == (len(found.words), len(everything))
    assert everything.labels[0] == found.labels[everything.phrases[0]]
    assert everything.spans[0] == found.spans[everything.phrases[0]]


# -------------------------------------------------------------------------------------- prompts


def test_a_caption_is_read_whole_and_its_phrases_keep_their_places(
    successors: dict[str, Successor],
) -> None:
    prompt = caption_of("A cat on a catalog", "A cat", "a catalog")
    found = ground(successors["grounding-dino"], prompt)
    assert found.words == (
        Word("a", 0, 1),
        Word("cat", 2, 5),
        Word("on", 6, 8),
        Word("a", 9, 10),
        Word("catalog", 11, 18),
    )


def test_a_long_list_is_read_in_parts(successors: dict[str, Successor]) -> None:
    """24 tokens hold at most eleven names with their dots; 30 names need three texts."""
    texts = [f"{colour} {thing}" for colour in ("red", "blue") for thing in ("dog", "cat", "kite")]
    prompt = list_prompt_of(*(texts * 5))
    successor = successors["mm-grounding-dino"]
    steps = list(successor.ground(picture(), prompt))
    assert len(steps) == 1 + 5  # [CLS], seven times three tokens, [SEP]: seven names at a time
    assert [step.fraction for step in steps] == sorted(step.fraction for step in steps)
    found = ground(successor, prompt)
    assert len(found.words) == 2 * len(prompt.phrases)
    for word, expected in zip(found.words, " ".join(texts * 5).split(), strict=True):
        assert prompt.caption[word.begin : word.end] == word.text == expected
    assert set(found.phrases) == set(range(30))


def test_a_caption_too_long_falls_back_to_its_phrases(successors: dict[str, Successor]) -> None:
    texts = [f"thing{number}" for number in range(20)]
    prompt = caption_of(" and ".join(texts), *texts)
    found = ground(successors["grounding-dino"], prompt)
    assert [word.text for word in found.words] == texts
    assert {found.labels[p] for p in found.phrases} == set(texts)


@pytest.mark.parametrize("text", ["İstanbul dog", "ẞ", "x" * 400, "<b>dog</b>", "狗", "..."])
@EVERY_FAMILY
def test_odd_phrases_do_no_harm(kind: str, text: str, successors: dict[str, Successor]) -> None:
    prompt = list_prompt_of("dog", text)
    found = ground(successors[kind], prompt)
    assert found.spans == ((0, 3), (5, 5 + len(text)))
    assert all(0 <= word.begin < word.end <= len(prompt.caption) for word in found.words)
    found.select(EVERYTHING)


@EVERY_FAMILY
@pytest.mark.parametrize("size", [(1, 1), (20_000, 10), (3, 999)])
def test_odd_pictures_do_no_harm(
    kind: str, size: tuple[int, int], successors: dict[str, Successor]
) -> None:
    found = run_to_end(successors[kind].ground(picture(*size), APPLE_DOG))
    assert found.select(EVERYTHING).width == size[0]


@EVERY_FAMILY
def test_no_phrase_no_network(kind: str, folders: dict[str, Path]) -> None:
    successor = load_successor(kind, folders[kind])
    successor.model.forward = None  # calling it would fail
    found = ground(successor, Prompt("   ", (), "list"))
    assert len(found.select(EVERYTHING)) == 0
    assert found.token_scores.shape == (0, 0)


def test_a_job_can_be_stopped_between_phrases(successors: dict[str, Successor]) -> None:
    job = successors["sam3"].ground(picture(), list_prompt_of("a", "b", "c"))
    next(job)
    next(job)
    job.close()
    with pytest.raises(StopIteration):
        next(job)


# -------------------------------------------------------------------------------------- loading


@EVERY_FAMILY
def test_what_was_saved_is_what_is_read(kind: str, made: dict[str, Made]) -> None:
    successor = load_successor("mine", made[kind].folder)
    expected, state = made[kind].model.state_dict(), successor.model.state_dict()
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[key], tensor) for key, tensor in expected.items())
    assert not any(parameter.requires_grad for parameter in successor.model.parameters())
    assert not successor.model.training
    assert successor.nbytes() > 0
    assert model_type_of(made[kind].folder) == kind


def test_a_folder_of_2023_is_read_too(folders: dict[str, Path], tmp_path: Path) -> None:
    """As OWLv2's repository still is: preprocessor_config.json, vocab.json and merges.txt."""
    folder = tmp_path / "owl"
    folder.mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(folders["owlv2"] / name, folder)
    known = SimpleTokenizer()
    vocabulary = {MARKS.get(word, word): number for word, number in known.encoder.items()}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    merges = "".join(f"{' '.join(pair)}\n" for pair in known.bpe_ranks)
    (folder / "merges.txt").write_text(f"#version: 0.2\n{merges}")
    marks = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "pad_token": "!"}
    (folder / "special_tokens_map.json").write_text(json.dumps(marks))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({**marks, "model_max_length": 16, "tokenizer_class": "CLIPTokenizer"})
    )
    told = json.loads((folders["owlv2"] / "processor_config.json").read_text())["image_processor"]
    (folder / "preprocessor_config.json").write_text(json.dumps(told))
    mine, expected = load_successor("owl", folder), load_successor("owl", folders["owlv2"])
    np.testing.assert_array_equal(ground(mine).token_scores, ground(expected).token_scores)


def _rewritten(folder: Path, tmp_path: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    from safetensors.torch import load_file, save_file

    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    state = load_file(copy / "model.safetensors")
    change(state)
    save_file(state, copy / "model.safetensors", metadata={"format": "pt"})
    return copy


def test_weights_that_do_not_fill_the_network_are_refused(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    key = "text_encoder.text_projection.weight"
    copy = _rewritten(folders["sam3"], tmp_path, lambda state: state.pop(key))
    with pytest.raises(WeightsError, match=r"lacks 1 tensors .*text_projection"):
        load_successor("sam3", copy)


def test_weights_of_another_shape_are_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    def shrink(state: dict[str, Any]) -> None:
        state["class_head.dense0.weight"] = torch.zeros(3, 3)

    copy = _rewritten(folders["owlv2"], tmp_path, shrink)
    with pytest.raises(WeightsError):
        load_successor("owl", copy)


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        ("truncate", "not a whole safetensors file"),
        ("pickle", "could run code"),
        ("remove weights", "model.safetensors is missing"),
        ("remove processor", "cannot be read by transformers"),
        ("other config", "config.json must name one of grounding-dino, mm-grounding-dino, owlv2"),
        ("no config", "holds no detector of transformers"),
        ("broken config", "holds no detector of transformers"),
    ],
)
def test_a_folder_that_is_none(
    damage: str, sentence: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(folders["owlv2"], tmp_path / "copy"))
    weights, config = folder / "model.safetensors", folder / "config.json"
    if damage == "truncate":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif damage == "pickle":
        torch.save({}, weights)
    elif damage == "remove weights":
        weights.unlink()
    elif damage == "remove processor":
        for name in ("tokenizer.json", "tokenizer_config.json", "processor_config.json"):
            (folder / name).unlink(missing_ok=True)
    elif damage == "other config":
        config.write_text(json.dumps({"model_type": "bert"}))
    elif damage == "no config":
        config.unlink()
    else:
        config.write_text("{")
    with pytest.raises(WeightsError, match=sentence) as caught:
        load_successor("x", folder)
    assert str(caught.value).count("\n") == 0


def test_a_folder_lists_what_it_holds(folders: dict[str, Path], tmp_path: Path) -> None:
    from safetensors.torch import save_file

    shutil.copytree(folders["owlv2"], tmp_path / "owl")
    (tmp_path / "empty").mkdir()
    (tmp_path / "glip.pth").write_bytes(b"anything")
    (tmp_path / ".hidden.pth").write_bytes(b"anything")
    save_file({"x": torch.ones(1)}, tmp_path / "slim.safetensors", metadata={"glip": "glip-tiny"})
    save_file({"x": torch.ones(1)}, tmp_path / "other.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(b"no")
    found = list_detectors(tmp_path)
    assert [(one.name, one.model_type) for one in found] == [
        ("glip.pth", ""),
        ("owl", "owlv2"),
        ("slim.safetensors", ""),
    ]
    assert list_detectors(tmp_path / "owl") == [found[1]]
    assert list_detectors(tmp_path / "glip.pth") == [found[0]]
    for path, sentence in ((tmp_path / "empty", "no detector in"), (tmp_path / "x", "not exist")):
        with pytest.raises(InputError, match=sentence):
            list_detectors(path)


def test_the_list_knows_all_families() -> None:
    assert set(MODEL_TYPES) == set(FAMILIES)


@pytest.mark.parametrize("kind", FAMILIES)
def test_every_family_exists_in_transformers(kind: str) -> None:
    family = FAMILIES[kind]
    assert hasattr(transformers, family.model)
    assert hasattr(transformers, family.processor)
    assert MIN_PROBABILITY < family.successor.defaults.box < 1
