"""GLIP against the reference implementation: `--golden DIR`.

The files are DIR/glip/*.npz; what their keys mean, and how closely an independent implementation
agrees, is in tests/golden/glip/README.md. Differences are absolute.

GLIP-T in float64 takes minutes on a machine that also trains. With the repository's own data only
one full-size file runs, in float32; `--golden DIR` with any folder runs every file in both.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer
from torch import Tensor

from models.detection.boxes import clip_boxes, decode, encode, rescale_boxes
from models.detection.nms import nms_per_label
from models.glip import Glip, GlipConfig
from models.glip.config import STRIDES
from models.glip.deformable import gathered, sampled
from models.glip.dyhead import Sampling
from models.glip.head import anchor_boxes
from models.glip.names import is_ignored, official_names
from models.glip.postprocess import find_candidates, label_scores, select
from models.glip.preprocess import prepare, resized
from models.glip.prompts import (
    Prompt,
    TokenizedPrompt,
    evaluation_prompt,
    tokenize,
    wordpiece,
)
from tests.glip_support import (
    GlipGolden,
    GoldenFile,
    head_output,
    parametrize_glip,
    record,
)

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.timeout(1800)]

FULL_SIZE = 50_000_000  # parameters; a file with more takes long
STORED = r"(?:swin_stage\d|fpn_p\d|bert_hidden|block\d+_\w+?|logits|box_regression|centerness)"
SAMPLED = r"(?:_shape|_stats|_sample)?"


@dataclass(frozen=True)
class Case:
    """One file of a network, in one precision."""

    golden: GlipGolden
    dtype: torch.dtype

    @property
    def full_size(self) -> bool:
        return sum(math.prod(shape) for shape in self.golden.shapes().values()) > FULL_SIZE

    def __str__(self) -> str:
        return f"{self.golden.name}-{str(self.dtype).removeprefix('torch.')}"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    parametrize_glip(metafunc, "functions", "functions*.npz")
    if "case" in metafunc.fixturenames:
        chosen = chosen_cases(metafunc.config.getoption("--golden"))
        metafunc.parametrize("case", chosen, ids=str, scope="module")


@cache  # one object per case: tests of the same case share a run
def chosen_cases(folder: Path) -> list[Case]:
    """Every file with weights in both precisions; see the top of this file for the exception."""
    files = map(GlipGolden, sorted((folder / "glip").glob("*.npz")))
    networks = [golden for golden in files if "state_keys" in golden.arrays]
    assert networks, f"{folder}/glip holds no file of a network"
    every = [Case(golden, dtype) for golden in networks for dtype in (torch.float64, torch.float32)]
    if folder != Path(__file__).parents[2] / "golden":
        return every
    slow = [case for case in every if case.full_size]
    kept = [case for case in slow if case.dtype == torch.float32][-1:]
    return [case for case in every if case not in slow or case in kept]


# ---------------------------------------------------------------------------------- the network


# What another implementation reached: float64 small, float64 full size, float32 small, float32 full.
REACHED = {
    "swin": (0, 0, 3e-6, 3e-6),
    "fpn": (2e-14, 2e-14, 5e-6, 9e-6),
    "bert": (2e-15, 2e-14, 1e-6, 3e-6),
    r"block\d+_fused": (3e-14, 3e-12, 1e-5, 1e-3),
    r"block\d+_bert": (3e-15, 3e-14, 2e-6, 1e-5),
    r"block\d+_dyconv": (1e-14, 1e-12, 7e-6, 3e-4),
    "logits|box_regression|centerness": (1e-14, 2e-12, 6e-6, 6e-4),
}
FACTOR = 4
ROUNDING = (2e-14, 1e-13, 0, 0)  # where nothing was lost, because it computed in the same order


def bar(case: Case, name: str) -> float:
    """How closely the tensor `name` has to agree."""
    column = 2 * (case.dtype == torch.float32) + case.full_size
    reached = next(row for pattern, row in REACHED.items() if re.match(pattern, name))
    return max(FACTOR * reached[column], ROUNDING[column])


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return wordpiece()


def test_the_input_is_the_references(case: Case, tokenizer: Tokenizer) -> None:
    golden = case.golden
    picture = Image.fromarray(golden["image"].flip(-1).numpy())  # BGR there
    # 0 stands for a picture that keeps its size.
    min_size = int(golden["min_size"]) or min(picture.size)
    seen = prepare(picture, golden.config, min_size, max_size=10_000)
    assert seen.size == tuple(golden["image_size"].tolist()[::-1])
    assert seen.pixels.shape == golden.pixels.shape
    assert (seen.pixels - golden.pixels).abs().max() < 1e-6
    prompt = Prompt.from_spans(str(golden.arrays["caption"]), golden["spans"].tolist())
    check_tokens(golden, "", tokenize(prompt, tokenizer), pairs="label_token_pairs")


def check_tokens(
    golden: GoldenFile, prefix: str, tokens: TokenizedPrompt, pairs: str = "pairs"
) -> None:
    """Against the arrays `prefix` + input_ids, positive_map and the pairs."""
    length = len(tokens.input_ids)
    ids, positive = golden[f"{prefix}input_ids"], golden[f"{prefix}positive_map"]
    assert tokens.input_ids.tolist() == ids[:length].tolist()
    assert ids[length:].abs().sum() == 0
    assert tokens.label_token_pairs.tolist() == golden[prefix + pairs].tolist()
    assert (tokens.positive - positive[:, :length]).abs().max() < 4e-7
    assert positive[:, length:].abs().sum() == 0


@pytest.fixture(scope="module")
def network() -> Callable[[Case], Glip]:
    """The last network built serves all files with its weights; float32 upcasts exactly."""
    kept: dict[tuple[object, int], Glip] = {}

    def build(case: Case) -> Glip:
        key = replace(case.golden.config, name=""), int(case.golden.arrays["seed"])
        if key not in kept:
            kept.clear()
            kept[key] = case.golden.glip(torch.float32)
        return kept[key].to(case.dtype)

    return build


@pytest.fixture(scope="module")
def run(case: Case, network: Callable[[Case], Glip]) -> dict[str, Tensor]:
    with torch.no_grad():
        return record(network(case), case.golden.pixels.to(case.dtype), *case.golden.words)


def test_every_tensor_on_the_way_is_the_references(case: Case, run: dict[str, Tensor]) -> None:
    golden = case.golden
    stored = {
        found[1] for key in golden.arrays if (found := re.fullmatch(f"({STORED}){SAMPLED}", key))
    }
    assert {"swin_stage4", "fpn_p7", "block0_dyconv_p3", "logits"} <= stored
    differences = {name: golden.difference(name, run[name]) for name in stored}
    # Written so that NaN is wrong, too.
    assert {name: d for name, d in differences.items() if not d <= bar(case, name)} == {}


def test_the_grid_is_the_references(case: Case, run: dict[str, Tensor]) -> None:
    assert run["level_shapes"].tolist() == case.golden["level_shapes"].tolist()
    assert torch.equal(run["anchors"], case.golden["anchors"])


def test_the_detections_are_the_references(case: Case, run: dict[str, Tensor]) -> None:
    golden, exact = case.golden, case.dtype == torch.float64
    names = ("logits", "box_regression", "centerness", "level_shapes")
    height, width = golden["image_size"].tolist()
    boxes, scores, labels = detections(
        [run[name] for name in names], golden["label_token_pairs"], run["anchors"], (width, height)
    )
    original_height, original_width = golden["image"].shape[:2]
    original = rescale_boxes(boxes, (width, height), (original_width, original_height))
    box_bar = 4e-5 if exact else 8e-3 if case.full_size else 2e-4
    score_bar = 4e-13 if exact else 2e-4 if case.full_size else 2e-6
    pairs = paired(golden, boxes, scores, labels, box_bar, score_bar)
    # Rounding to float32 may swap neighbours of equal score or let one of two equal boxes go.
    tolerated = 0 if exact else 4
    assert len(labels) == len(golden["det_labels"])
    assert sum(j is None for j in pairs) <= tolerated
    if exact:
        assert pairs == list(range(len(labels)))
    theirs = golden["det_boxes_original"].double()
    scale = max(original_width / width, original_height / height)
    worst = max((original[j] - theirs[i]).abs().max() for i, j in enumerate(pairs) if j is not None)
    assert worst <= box_bar * scale + 2e-5


def detections(
    output: list[Tensor], pairs: Tensor, anchors: Tensor, size: tuple[int, int]
) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes, scores and labels after NMS, best first."""
    candidates = find_candidates(head_output(*output), pairs, anchors, size)
    best = candidates[select(candidates)]
    return best.boxes.double(), best.scores.double(), best.labels


def paired(
    golden: GlipGolden,
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor,
    box_bar: float,
    score_bar: float,
) -> list[int | None]:
    """For every stored detection the first of ours that is the same and not taken yet."""
    found: list[int | None] = []
    for box, score, label in zip(golden["det_boxes"], golden["det_scores"], golden["det_labels"]):
        same = (labels == label) & ((scores - score).abs() <= score_bar)
        same &= (boxes - box).abs().amax(dim=1) <= box_bar
        same[[j for j in found if j is not None]] = False
        found.append(int(same.nonzero()[0]) if same.any() else None)
    return found


def test_every_key_of_the_checkpoint_has_one_home(case: Case) -> None:
    golden = case.golden
    theirs = [key for key in golden.shapes() if not is_ignored(key)]
    assert sorted(official_names(golden.config).values()) == sorted(theirs)


def test_padding_to_256_tokens_changes_nothing(
    case: Case, run: dict[str, Tensor], network: Callable[[Case], Glip]
) -> None:
    golden = case.golden
    ids, mask = golden["input_ids"][None], golden["attention_mask"][None]
    assert ids.shape[1] > golden.words[0].shape[1]
    with torch.no_grad():
        padded = record(network(case), golden.pixels.to(case.dtype), ids, mask)
    count = golden.words[0].shape[1]
    padded["logits"] = padded["logits"][:, :count]
    for name in ("logits", "box_regression", "centerness"):
        assert (padded[name] - run[name]).abs().max() < bar(case, name), name


# ------------------------------------------------------------------------ functions on their own


def cases(functions: GoldenFile, pattern: str) -> list[str]:
    """The stems of the keys that match, each followed by a name: "dcn_0"."""
    found = sorted({m[0] for key in functions.arrays if (m := re.match(pattern, key))})
    assert found, f"{functions.name} holds no {pattern}"
    return found


@pytest.mark.parametrize("convolution", [gathered, sampled])
def test_deformable_convolution(functions: GoldenFile, convolution: Callable[..., Tensor]) -> None:
    for case in cases(functions, r"dcn_\d+"):
        x, offset, mask, weight, bias, stride, out = (
            functions[f"{case}_{name}"]
            for name in ("x", "offset", "mask", "weight", "bias", "stride", "out")
        )
        offset, mask = Sampling(offset, mask).read_flat(*out.shape[2:])
        ours = convolution(x, offset, mask, weight, bias, int(stride))
        assert (ours - out).abs().max() < 1e-13, case


def test_anchors(functions: GoldenFile) -> None:
    for case in cases(functions, r"anchors_\d+"):
        shapes = [(int(h), int(w)) for h, w in functions[f"{case}_grid"]]
        assert len(shapes) == len(STRIDES)
        ours = anchor_boxes(shapes, scale=8)
        rows = f"{case}_rows"
        ours = ours[functions[rows]] if rows in functions.arrays else ours
        assert torch.equal(ours, functions[case]), case


@pytest.mark.parametrize("how", ["mean", "max"])
def test_label_scores(functions: GoldenFile, how: str) -> None:
    pairs = functions["token_pairs"]
    scores, labels = label_scores(functions["token_scores"], pairs, how)
    assert labels.tolist() == sorted(set(pairs[:, 0].tolist()))
    assert (scores - functions[f"label_scores_{how}"]).abs().max() < 1e-15


def test_post_processing(functions: GoldenFile) -> None:
    names = ("logits", "box_regression", "centerness", "level_shapes")
    height, width = functions["post_image_hw"].tolist()
    boxes, scores, labels = detections(
        [functions[f"post_{name}"] for name in names],
        functions["post_pairs"],
        functions["post_anchors"],
        (width, height),
    )
    assert labels.tolist() == functions["post_labels"].tolist()
    assert (scores - functions["post_scores"]).abs().max() < 1e-15
    assert (boxes - functions["post_boxes"]).abs().max() < 2e-5


def test_prompts(functions: GoldenFile, tokenizer: Tokenizer) -> None:
    for case in cases(functions, r"prompt_\d+"):
        caption, spans = str(functions.arrays[f"{case}_caption"]), functions[f"{case}_spans"]
        prompt = Prompt.from_spans(caption, spans.tolist())
        tokens = tokenize(prompt, tokenizer)
        check_tokens(functions, f"{case}_", tokens)
        assert list(prompt.names) == functions.arrays[f"{case}_labels"].tolist(), case


def test_evaluation_prompts(functions: GoldenFile, tokenizer: Tokenizer) -> None:
    for case in cases(functions, r"eval_\d+"):
        prompt = evaluation_prompt(functions.arrays[f"{case}_labels"].tolist())
        assert prompt.caption == str(functions.arrays[f"{case}_caption"])
        pairs = tokenize(prompt, tokenizer).label_token_pairs
        assert pairs.tolist() == functions[f"{case}_pairs"].tolist(), case


def test_sizes(functions: GoldenFile) -> None:
    rules = [
        ("resize_wh", key, (int(found[1]), int(found[2])))
        for key in functions.arrays
        if (found := re.fullmatch(r"resize_(\d+)_(\d+)_hw", key))
    ]
    assert rules
    uncapped = ("resize_short_wh", "resize_short_hw", (int(functions["resize_short_min"]), None))
    for given, wanted, rule in [*rules, uncapped]:
        ours = [resized(w, h, *rule)[::-1] for w, h in functions[given].tolist()]
        assert ours == [tuple(size) for size in functions[wanted].tolist()], wanted


def test_pixels(functions: GoldenFile) -> None:
    picture = Image.fromarray(functions["pixels_in"].flip(-1).numpy())  # BGR there
    seen = prepare(picture, GlipConfig.tiny(), min_size=int(functions["pixels_min"]))
    assert (seen.pixels[0] - functions["pixels_padded"]).abs().max() < 1e-6
    width, height = seen.size
    assert (seen.pixels[0, :, :height, :width] - functions["pixels_out"]).abs().max() < 1e-6


def test_boxes(functions: GoldenFile) -> None:
    anchors, decoded = functions["coder_anchors"], functions["coder_decoded"]
    assert (decode(functions["coder_deltas"], anchors) - decoded).abs().max() < 1e-12
    encoded = encode(functions["coder_gt"], anchors)
    assert (encoded - functions["coder_encoded"]).abs().max() < 1e-12
    size, original = (tuple(functions[f"{name}_size_wh"].tolist()) for name in ("clip", "back"))
    # These two were stored in float32.
    assert (clip_boxes(decoded, *size) - functions["clip_out"]).abs().max() < 1e-4
    scaled = rescale_boxes(decoded, size, original)
    torch.testing.assert_close(scaled.float(), functions["back_out"], rtol=1e-6, atol=1e-4)


def test_suppression(functions: GoldenFile) -> None:
    for case in cases(functions, r"nms_\d+"):
        boxes, scores, labels, threshold, keep = (
            functions[f"{case}_{name}"]
            for name in ("boxes", "scores", "labels", "threshold", "keep")
        )
        assert nms_per_label(boxes, scores, labels, float(threshold)).tolist() == keep.tolist(), (
            case
        )
