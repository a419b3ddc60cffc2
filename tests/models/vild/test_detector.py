"""The detector as a service: regions once per picture, names by the notebook's rule, masks, reasons,
discovery; what is remembered, what is refused, what stops."""

from __future__ import annotations

import hashlib
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from models.detection.detections import Detections, decode_mask
from models.errors import InputError
from models.jobs import run_to_end
from models.vild import ProposalConfig, Vild, VildConfig, detector
from models.vild.detector import Detector, DetectorDefaults
from models.vild.discovery import cluster_regions
from models.vild.postprocess import corrected_boxes, paste_masks
from models.vild.preprocess import prepare
from models.vild.regions import RawRegions, RegionThresholds, Sight, name_scores, region_mask
from tests.vild_support import VildGolden, parametrize_vild, small_config

pytestmark = pytest.mark.usefixtures("one_thread")

ALL = RegionThresholds(max_boxes=1000, nms=1.0, min_objectness=0.0, min_area=0)
DEFAULTS = DetectorDefaults(templates="one")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    parametrize_vild(metafunc, "golden", "vild_ensemble_r50.npz")


class ToldClip:
    """A CLIP that gives the texts with a known word that word's vector, other texts one drawn from
    their digest, and pictures their mean colour. Counts what it reads."""

    name = "clip-vit-b-32"
    image_size = 4

    def __init__(self, known: Mapping[str, Sequence[float]] | None = None, dim: int = 20) -> None:
        self.known = dict(known or {})
        self.embed_dim = dim
        self.read: list[str] = []

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        self.read += texts
        return F.normalize(torch.stack([self._vector(text) for text in texts]), dim=-1)

    def _vector(self, text: str) -> Tensor:
        for word, vector in self.known.items():
            if word in text:
                return F.pad(
                    torch.tensor(vector, dtype=torch.float32), (0, self.embed_dim - len(vector))
                )
        seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")
        return torch.randn(self.embed_dim, generator=torch.Generator().manual_seed(seed))

    def normalize(self, pixels: Tensor) -> Tensor:
        return pixels

    def image_features(self, pixels: Tensor) -> Tensor:
        colours = F.pad(pixels.mean(dim=(2, 3)), (0, self.embed_dim - 3))
        return F.normalize(colours, dim=-1)

    def nbytes(self) -> int:
        return 1000


class Counted(Vild):
    """Counts its runs and the regions that it made masks for."""

    def __init__(self, config: VildConfig) -> None:
        super().__init__(config)
        self.runs: Counter[str] = Counter()

    def encode_image(self, *args: Any) -> Any:
        self.runs["image"] += 1
        return super().encode_image(*args)

    def propose(self, *args: Any) -> Any:
        self.runs["propose"] += 1
        return super().propose(*args)

    def regions(self, *args: Any, **options: Any) -> Any:
        self.runs["regions"] += 1
        return super().regions(*args, **options)

    def masks(self, levels: Any, boxes: Any) -> Any:
        self.runs["masks"] += sum(map(len, boxes))
        return super().masks(levels, boxes)


FEW = ProposalConfig(pre_nms=40, nms=0.7, post_nms=30)
ONCE = {"image": 1, "propose": 1, "regions": 1}


@cache
def weights(config: VildConfig) -> dict[str, Tensor]:
    torch.manual_seed(0)
    return Vild(config).state_dict()


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Detector]:
    """A detector with random weights, always the same."""

    def made(
        *, ensemble: bool = True, mask: bool = True, clip: ToldClip | None = None,
        base: Sequence[str] = ("dog", "red kite", "Bun/roll"), name: str = "small",
    ) -> Detector:  # fmt: skip
        config = replace(small_config(ensemble=ensemble), mask=mask, proposals=FEW)
        with torch.device("meta"):
            network = Counted(config)
        network.load_state_dict(weights(config), assign=True)
        network.requires_grad_(False)
        told: Any = clip or ToldClip()
        return Detector(name, network, told, base, DEFAULTS, tmp_path)

    return made


def runs(made: Detector) -> Counter[str]:
    assert isinstance(made.model, Counted)
    return made.model.runs


def picture(width: int = 150, height: int = 100, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 255, (height // 10, width // 10, 3), np.uint8)
    return Image.fromarray(pixels).resize((width, height))


def some_regions(count: int, *, ensemble: bool, seed: int = 0, dim: int = 20) -> RawRegions:
    """Random regions of a picture of 100 x 100 pixels that was read at 200 x 200."""
    random = np.random.default_rng(seed)
    low = random.uniform(0, 70, (count, 2))
    boxes = np.concatenate([low, low + random.uniform(1, 30, (count, 2))], 1).astype(np.float32)

    def units() -> Any:
        rows = random.standard_normal((count, dim)).astype(np.float32)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    return RawRegions(
        detector="small",
        boxes=boxes,
        objectness=np.sort(random.uniform(0, 1, count).astype(np.float32))[::-1].copy(),
        embeddings=units(),
        image_embeddings=units() if ensemble else None,
        read_boxes=boxes * 2,
        width=100,
        height=100,
        read_size=(200, 200),
        sight=Sight([], torch.zeros(3, 200, 200, dtype=torch.uint8)),
    )


def placed(boxes: Sequence[Sequence[float]], vectors: Sequence[Sequence[float]]) -> RawRegions:
    """Regions of one head at given places, with given vectors padded to 20."""
    count = len(boxes)
    rows = np.zeros((count, 20), np.float32)
    for row, vector in zip(rows, vectors):
        row[: len(vector)] = np.divide(vector, np.linalg.norm(vector))
    array = np.array(boxes, np.float32).reshape(-1, 4)
    return replace(
        some_regions(count, ensemble=False),
        boxes=array,
        read_boxes=array * 2,
        objectness=np.linspace(1, 0.95, count, dtype=np.float32),
        embeddings=rows,
    )


# ------------------------------------------------------------------------------------ the regions


@pytest.mark.parametrize("ensemble", [True, False])
def test_regions_are_what_the_network_says(
    make: Callable[..., Detector], ensemble: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(detector, "REGIONS_AT_ONCE", 7)
    small = make(ensemble=ensemble)
    raw = run_to_end(small.detect(picture()))
    assert runs(small)["regions"] == math.ceil(len(raw) / 7) > 1
    seen = prepare(picture(), small.model.config)
    with torch.inference_mode():
        proposals, found = small.model(seen.pixels, [seen.padded])
        boxes, objectness = proposals.of(0)
        corrected = corrected_boxes(found.deltas, boxes, seen.padded)
    assert len(raw) == len(boxes) == len(raw.boxes) > 7
    np.testing.assert_allclose(raw.objectness, objectness, atol=1e-6)
    np.testing.assert_allclose(raw.embeddings, found.embeddings, atol=1e-5)
    np.testing.assert_allclose(raw.read_boxes, corrected, atol=1e-3)
    if found.image_embeddings is None:
        assert raw.image_embeddings is None
    else:
        np.testing.assert_allclose(raw.image_embeddings, found.image_embeddings, atol=1e-5)


def test_boxes_are_in_pixels_of_the_picture_and_inside_it(make: Callable[..., Detector]) -> None:
    raw = run_to_end(make().detect(picture(300, 120)))
    assert (raw.width, raw.height) == (300, 120)
    assert raw.read_size == (128, 51)
    scaled = raw.read_boxes * np.array([300 / 128, 120 / 51] * 2)
    expected = np.clip(scaled, 0, [300, 120, 300, 120])
    upright = (raw.read_boxes[:, :2] <= raw.read_boxes[:, 2:]).all(1)
    assert upright.mean() > 0.8
    np.testing.assert_allclose(raw.boxes[upright], expected[upright], rtol=1e-5)
    assert (raw.boxes[:, :2] <= raw.boxes[:, 2:]).all()
    assert (raw.boxes.max(0) <= [300, 120, 300, 120]).all()
    assert (np.diff(raw.objectness) <= 0).all()


def test_half_precision_answers_in_float32(make: Callable[..., Detector]) -> None:
    small = make()
    small.model.to(torch.bfloat16)
    raw = run_to_end(small.detect(picture()))
    found = small.select(raw, ["dog", "owl"], ALL, masks=True)
    assert raw.embeddings.dtype == raw.boxes.dtype == np.float32
    assert found.masks is not None
    assert len(found.masks) == len(found) > 0
    assert len(small.rank(raw, ["dog", "owl"], max_boxes=5)) == 5


def test_what_is_shared_cannot_be_written(make: Callable[..., Detector]) -> None:
    raw = run_to_end(make().detect(picture()))
    for name in ("boxes", "objectness", "embeddings", "image_embeddings", "read_boxes"):
        with pytest.raises(ValueError, match="read-only"):
            getattr(raw, name)[0] = 0


# ------------------------------------------------------------------------------------------- names


def slow_iou(a: Sequence[float], b: Sequence[float]) -> float:
    inner = max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(
        0.0, min(a[3], b[3]) - max(a[1], b[1])
    )
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return inner / (sum(areas) - inner)


def slow_scores(
    raw: RawRegions, row: int, classes: list[list[float]], base: list[bool], score: str, t: float
) -> list[float]:
    """Of the background and every name."""

    def head(vector: Any) -> list[float]:
        found = [sum(float(x) * y for x, y in zip(vector, one)) for one in classes]
        if score == "cosine":
            return found
        total = sum(math.exp(t * value) for value in found)
        return [math.exp(t * value) / total for value in found]

    text = head(raw.embeddings[row])
    if raw.image_embeddings is None:
        return text
    image = head(raw.image_embeddings[row])
    scores = []
    for x, y, trained in zip(text, image, [False, *base]):
        weight = 2 / 3 if trained else 1 / 3
        mixed = x**weight * y ** (1 - weight) if score == "softmax" else 0.0
        scores.append(mixed if score == "softmax" else weight * x + (1 - weight) * y)
    return scores


def slow_notebook(
    raw: RawRegions, scores: list[list[float]], alike: list[list[float]],
    thresholds: RegionThresholds,
) -> list[tuple[float, int, int]]:  # fmt: skip
    """The demo's rule in plain loops, and our bound of the cosine, `alike`: score, region and name,
    best first."""
    kept: list[int] = []
    for row in range(len(raw)):
        rivals = (slow_iou(raw.read_boxes[k].tolist(), raw.read_boxes[row].tolist()) for k in kept)
        if all(iou <= thresholds.nms for iou in rivals):
            kept.append(row)
    good = []
    for row in kept:
        x1, y1, x2, y2 = raw.boxes[row].tolist()
        large = (x2 - x1) * (y2 - y1) > thresholds.min_area
        if raw.objectness[row] >= thresholds.min_objectness and large:
            good.append(row)
    found = []
    for row in good[: thresholds.max_boxes]:
        best = max(scores[row])
        column = scores[row].index(best)
        if column > 0 and alike[row][column] >= thresholds.min_cosine:
            found.append((best, row, column - 1))
    return sorted(found, reverse=True)


@pytest.mark.parametrize("ensemble", [True, False])
@pytest.mark.parametrize("score", ["cosine", "softmax"])
@pytest.mark.parametrize(
    "thresholds",
    [
        RegionThresholds(),
        RegionThresholds(max_boxes=1000, nms=0.3, min_objectness=0.2, min_area=50),
        RegionThresholds(max_boxes=7, nms=0.9, min_objectness=0.5, min_area=0),
        ALL,
        replace(ALL, min_cosine=0.1),
    ],
)
def test_the_notebooks_rule(
    make: Callable[..., Detector], ensemble: bool, score: Any, thresholds: RegionThresholds
) -> None:
    small = make(ensemble=ensemble)
    raw = some_regions(150, ensemble=ensemble)
    words = run_to_end(small.read(["dog", "owl", "red kite", "lamp"]))
    classes = [words.background.tolist(), *words.text.tolist()]
    base = [True, False, True, False]
    scores, alike = (
        [slow_scores(raw, row, classes, base, kind, 9.0) for row in range(len(raw))]
        for kind in (score, "cosine")
    )
    expected = slow_notebook(raw, scores, alike, thresholds)
    picked = small.pick(raw, words, thresholds, score, 9.0)
    assert len(expected) > 0
    assert picked.rows.tolist() == [row for _, row, _ in expected]
    assert picked.columns.tolist() == [column for *_, column in expected]
    np.testing.assert_allclose(picked.scores, [value for value, *_ in expected], rtol=1e-4)
    found = small.select(raw, words, thresholds, score, 9.0)
    assert found.labels == tuple(words.names[column] for *_, column in expected)
    np.testing.assert_array_equal(found.boxes, raw.boxes[picked.rows])
    for _, row, column in expected[:3]:
        opinions = small.distribution(raw, row, words, score, 9.0)
        assert [o.name for o in opinions] == ["background", "dog", "owl", "red kite", "lamp"]
        assert [o.base for o in opinions] == [False, *base]
        np.testing.assert_allclose([o.score for o in opinions], scores[row], rtol=1e-4, atol=1e-6)
        assert max(opinions, key=lambda o: o.score).name == words.names[column]


def test_a_name_finds_its_region(make: Callable[..., Detector]) -> None:
    clip = ToldClip({"background": [0, 0, 1], "kite": [1, 0], "owl": [0, 1]})
    small = make(ensemble=False, clip=clip)
    boxes = [[0, 0, 30, 30], [40, 40, 90, 90], [0, 60, 30, 90]]
    raw = placed(boxes, [[0.3, 1], [1, 0.05, 0.1], [0.1, 0.2, 1]])  # an owl, a kite, nothing
    found = small.select(raw, ["kite", "owl"])
    assert found.labels == ("kite", "owl")
    assert found.boxes.tolist() == [boxes[1], boxes[0]]
    assert found.phrases == (0, 1)
    assert small.select(raw, ["owl"]).labels == ("owl",)  # one name: an answer


def test_of_the_same_score_names_that_were_trained_on_lean_on_the_text_head(
    make: Callable[..., Detector],
) -> None:
    """Closed form: cosine 0.9 with the one head, 0.3 with the other."""
    small = make(clip=ToldClip({"background": [0, 0, 1], "bun": [1, 0], "owl": [1, 0]}))
    text, image = ([c, math.sqrt(1 - c * c)] for c in (0.9, 0.3))
    raw = placed([[0, 0, 50, 50]], [text])
    raw = replace(raw, image_embeddings=placed([[0, 0, 1, 1]], [image]).embeddings)
    words = run_to_end(small.read(["owl", "bun or  ROLL."]))  # trained on as "Bun/roll"
    assert words.base.tolist() == [False, True]
    _, novel, base = (o.score for o in small.distribution(raw, 0, words, "cosine"))
    assert novel == pytest.approx(0.9 / 3 + 0.3 * 2 / 3)
    assert base == pytest.approx(0.9 * 2 / 3 + 0.3 / 3)


@pytest.mark.parametrize(
    ("given", "names", "places"),
    [
        (["dog"], ("dog",), (0,)),
        (["dog", "Dog", " dog. ", "owl"], ("dog", "owl"), (0, 3)),
        (["Red_Kite", "red kite", "red  kite"], ("Red_Kite",), (0,)),
        (["", "dog", "  ", "owl"], ("dog", "owl"), (1, 3)),
        (["background", "dog"], ("dog",), (1,)),
        (["dog", "BACKGROUND."], ("dog",), (0,)),
        (["Hündchen", "風船", "собака", "كلب"], ("Hündchen", "風船", "собака", "كلب"), (0, 1, 2, 3)),
        (["a" * 3000], ("a" * 3000,), (0,)),
    ],
)  # fmt: skip
def test_odd_names_are_answered(
    make: Callable[..., Detector], given: list[str], names: tuple[str, ...], places: tuple[int, ...]
) -> None:
    small = make()
    words = run_to_end(small.read(given))
    assert (words.names, words.places) == (names, places)
    assert words.text.shape == (len(names), 20)
    found = small.select(some_regions(50, ensemble=True), given, ALL)
    assert set(found.labels) <= set(names)
    assert set(found.phrases) <= set(places)


@pytest.mark.parametrize(
    ("given", "told_so"),
    [
        ([], "at least one name"),
        (["", "  "], "at least one name"),
        (["background"], "stands for all"),
        (["Background", "background"], "stands for all"),
        (["dog", "..."], "is no name"),
        ([f"thing {n}" for n in range(5001)], "5,001 names"),
    ],
)
def test_names_that_say_nothing_are_refused(
    make: Callable[..., Detector], given: list[str], told_so: str
) -> None:
    small = make()
    clip: Any = small.clip
    with pytest.raises(InputError, match=told_so):
        small.select(some_regions(5, ensemble=True), given)
    assert clip.read == []


def test_1205_names_and_a_slider(make: Callable[..., Detector]) -> None:
    small = make()
    raw = some_regions(1000, ensemble=True)
    names = [f"thing number {n}" for n in range(1205)]
    words = run_to_end(small.read(names))
    assert len(words.names) == 1205
    for given in (words, names):  # read before, or known from memory
        assert min(_seconds(small, raw, given) for _ in range(4)) < 0.05


def _seconds(small: Detector, raw: RawRegions, names: Any) -> float:
    start = time.thread_time()  # on a machine that trains, the clock on the wall measures that
    small.select(raw, names, RegionThresholds(max_boxes=300, min_objectness=0.1, min_area=0))
    return time.thread_time() - start


# ---------------------------------------------------------------------------- the benchmark's rule


@pytest.mark.parametrize("ensemble", [True, False])
def test_the_benchmarks_rule(make: Callable[..., Detector], ensemble: bool) -> None:
    small = make(ensemble=ensemble)
    small.model.classifier.temperature = 5.0  # at 100 random vectors are all certain
    raw = some_regions(60, ensemble=ensemble)
    words = run_to_end(small.read(["dog", "owl", "red kite"]))
    background = F.normalize(small.model.classifier.background, dim=0).tolist()
    named = words.text.tolist()
    expected = []
    for column, trained in enumerate([True, False, True]):
        scored = []
        for row in range(len(raw)):
            text = _softmax(raw.embeddings[row], [background, *named])[1:]
            value = text[column]
            if raw.image_embeddings is not None:
                weight = 2 / 3 if trained else 1 / 3
                image = _softmax(raw.image_embeddings[row], named)
                value = value**weight * image[column] ** (1 - weight)
            scored.append((value, row))
        kept: list[int] = []
        for value, row in sorted(scored, reverse=True):
            box = raw.boxes[row].tolist()
            if all(slow_iou(raw.boxes[k].tolist(), box) <= 0.5 for k in kept):
                kept.append(row)
                expected.append((value, row, words.names[column]))
    expected.sort(reverse=True)
    found = small.rank(raw, words, max_boxes=40)
    assert len(found) == 40
    np.testing.assert_allclose(found.scores, [v for v, *_ in expected[:40]], rtol=2e-4)
    assert found.labels[:9] == tuple(name for *_, name in expected[:9])
    np.testing.assert_array_equal(found.boxes[:9], raw.boxes[[row for _, row, _ in expected[:9]]])


def _softmax(vector: Any, classes: list[list[float]]) -> list[float]:
    powers = [math.exp(5 * sum(float(x) * y for x, y in zip(vector, c))) for c in classes]
    return [power / sum(powers) for power in powers]


def test_the_whole_service_answers_as_the_reference(golden: VildGolden, tmp_path: Path) -> None:
    """From a picture file to detections in its own pixels; names trained on are the golden ones."""
    names = [f"thing{row:02}" for row in range(len(golden.text))]
    trained = [name for name, base in zip(names, golden["rare"].tolist()) if base]
    clip: Any = ToldClip(dict(zip(names, golden.text.tolist())), golden.text.shape[1])
    service = Detector("golden", golden.vild(), clip, trained, DEFAULTS, tmp_path)
    raw = run_to_end(service.detect(Image.fromarray(golden["image"].numpy())))
    found = service.rank(raw, names)
    # The reference also names the rows of zeros that fill its proposals up to 1,000.
    filling = golden.boxes("raw_boxes")[0, golden["roi_scores"][0] < 0, 0]
    boxes = golden.boxes("detection_boxes")[0]
    real = (torch.cdist(boxes, filling) > 0).all(dim=1).numpy()
    assert 290 < real.sum() < 300
    scale = golden["image_info"][2].numpy()[[1, 0, 1, 0]]
    expected = np.clip(boxes.numpy()[real] / scale, 0, [found.width, found.height] * 2)
    labels = golden["detection_classes"][0].numpy()[real]
    scores = golden["detection_scores"][0].numpy()[real]
    np.testing.assert_allclose(found.scores[: len(scores)], scores, atol=1e-4)
    alike = [
        names.index(found.labels[i]) + 1 == labels[i]
        and np.abs(found.boxes[i] - expected[i]).max() < 0.01
        for i in range(len(scores))
    ]
    assert sum(alike) >= len(scores) - 4  # two pairs of near-equal scores may change places


# ------------------------------------------------------------------------------- what is remembered


def test_new_names_and_thresholds_run_no_network(make: Callable[..., Detector]) -> None:
    small = make()
    clip: Any = small.clip
    raw = run_to_end(small.detect(picture()))
    assert runs(small) == ONCE
    small.select(raw, ["dog", "owl"], ALL)
    read = len(clip.read)
    small.select(raw, ["owl", "dog"], RegionThresholds(min_objectness=0), "softmax", 3.0)
    small.distribution(raw, 0, ["dog"])
    small.rank(raw, ["dog"])
    assert len(clip.read) == read  # the text tower neither
    small.select(raw, ["a new name"], ALL)
    small.discover(raw, ["a new name", "dog"], ALL)
    assert len(clip.read) == read + 1
    assert run_to_end(small.detect(picture().copy())) is raw  # equal content, another object
    assert runs(small) == ONCE
    run_to_end(small.detect(picture(seed=1)))
    assert runs(small)["image"] == 2


def test_names_are_read_from_the_disk_by_another_detector(make: Callable[..., Detector]) -> None:
    first = run_to_end(make().read(["dog", "owl"]))
    other = make()
    clip: Any = other.clip
    again = run_to_end(other.read(["owl", "dog"]))
    assert not [text for text in clip.read if "dog" in text or "owl" in text]
    assert torch.equal(first.text, again.text.flip(0))


def test_five_pictures_push_out_the_first(make: Callable[..., Detector]) -> None:
    small = make()
    for seed in (0, 1, 2, 3, 4, 4, 0):
        run_to_end(small.detect(picture(seed=seed)))
    assert runs(small)["image"] == 6


def test_a_palettes_colours_are_part_of_the_picture(make: Callable[..., Detector]) -> None:
    small = make()
    one = Image.new("P", (64, 64))
    one.putpalette([255, 0, 0])
    other = Image.new("P", (64, 64))
    other.putpalette([0, 0, 255])
    assert one.tobytes() == other.tobytes()
    for image in (one, other, one.convert("RGB")):
        run_to_end(small.detect(image))
    assert runs(small)["image"] == 2


# ------------------------------------------------------------------------------------------- masks


@pytest.mark.parametrize("size", [(150, 100), (64, 128)])
def test_masks_are_the_pasted_logits(make: Callable[..., Detector], size: tuple[int, int]) -> None:
    small = make()
    raw = run_to_end(small.detect(picture(*size)))
    found = small.select(raw, ["dog", "owl"], ALL, masks=True)
    picked = small.pick(raw, ["dog", "owl"], ALL)
    with torch.inference_mode():
        boxes = torch.tensor(raw.read_boxes[picked.rows])
        logits = small.model.masks(raw.sight.levels, [boxes])
    scale = torch.tensor(size) / torch.tensor(raw.read_size)
    expected = paste_masks(logits, boxes * scale.repeat(2), size).numpy()
    assert found.masks is not None
    assert len(found) > 5
    for mask, whole in zip(found.masks, expected):
        assert mask is not None
        assert (decode_mask(mask) != whole).sum() <= 1  # a pixel on the threshold
    assert expected.any(axis=(1, 2)).mean() > 0.5


@pytest.mark.parametrize(
    "box",
    [
        (10.3, 5.7, 44.9, 61.2), (-20.0, -3.5, 30.0, 40.0), (60.0, 50.0, 130.0, 95.0),
        (20.0, 20.0, 20.4, 20.4), (200.0, 10.0, 240.0, 50.0), (30.0, 30.0, 30.0, 50.0),
        (40.0, 40.0, 39.0, 60.0), (-5.0, -5.0, 90.0, 75.0),
    ],
)  # fmt: skip
def test_a_mask_made_inside_its_box_is_the_whole_one(box: tuple[float, ...]) -> None:
    logits = torch.randn(28, 28, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    whole = paste_masks(logits[None], torch.tensor([box], dtype=torch.float64), (80, 70))[0]
    np.testing.assert_array_equal(region_mask(logits, box, (80, 70)), whole.numpy())


def test_a_region_gets_its_mask_once_and_only_when_shown(make: Callable[..., Detector]) -> None:
    small = make()
    raw = run_to_end(small.detect(picture()))
    few = replace(ALL, max_boxes=4)
    shown = len(small.select(raw, ["dog", "owl"], few, masks=True))
    assert 0 < runs(small)["masks"] == shown <= 4
    small.select(raw, ["owl", "dog"], few, masks=True)
    small.select(raw, ["dog", "owl"], replace(ALL, max_boxes=2), masks=True)
    assert runs(small)["masks"] == shown
    everything = small.select(raw, ["dog", "owl"], ALL, masks=True)
    assert runs(small)["masks"] == len(everything)
    assert runs(small)["image"] == 1
    start = time.thread_time()
    small.select(raw, ["dog", "owl"], ALL, masks=True)
    assert time.thread_time() - start < 0.05


def test_a_detector_without_masks_says_so_by_none(make: Callable[..., Detector]) -> None:
    small = make(mask=False)
    raw = run_to_end(small.detect(picture()))
    assert small.masks(raw, [0]) is None
    found = small.select(raw, ["dog", "owl"], ALL, masks=True)
    assert len(found) > 0
    assert found.masks is None


# ------------------------------------------------------------------------------- reasons, discovery


@pytest.mark.parametrize("ensemble", [True, False])
def test_why(make: Callable[..., Detector], ensemble: bool) -> None:
    """Two halves of a picture, red and blue; the detector takes the red one for an owl."""
    clip = ToldClip(
        {"red kite": [1.0, 0, 0], "dog": [0, 0, 1.0], "owl": [0, 1.0, 0], "bun": [0, 0, 0, 1.0]}
    )
    small = make(ensemble=ensemble, clip=clip, base=["dog", "red kite", "owl", "bun"])
    image = Image.new("RGB", (120, 60), "blue")
    image.paste("red", (0, 0, 60, 60))
    seen = run_to_end(small.detect(image))
    raw = placed([[5, 5, 35, 45], [75, 10, 110, 50]], [[0.2, 0.9], [0, 0, 1]])
    if ensemble:
        raw = replace(raw, image_embeddings=raw.embeddings)
    raw = replace(raw, read_boxes=raw.boxes, sight=seen.sight, read_size=(120, 60))
    red, blue = (small.why(raw, row, count=2) for row in (0, 1))
    assert [o.name for o in red.distilled] == ["owl", "red kite"]
    assert red.clip[0].name == "red kite"
    assert red.clip[0].score == pytest.approx(1, abs=1e-3)
    assert red.agreement == pytest.approx(0.2 / math.hypot(0.2, 0.9), abs=1e-3)
    assert (blue.distilled[0].name, blue.clip[0].name) == ("dog", "dog")
    assert blue.agreement == pytest.approx(1, abs=1e-3)
    asked = small.why(raw, 0, ["owl", "a red kite"], count=9)
    assert [o.name for o in asked.clip] == ["a red kite", "owl"]
    assert [o.base for o in asked.clip] == [False, True]


def slow_clusters(vectors: Any, boxes: Any, distance: float) -> set[frozenset[int]]:
    """Average linkage as its definition says."""
    count = len(vectors)
    apart = [
        [
            (1 - float(vectors[i] @ vectors[j])) * (1 - slow_iou(boxes[i].tolist(), boxes[j].tolist()))
            for j in range(count)
        ]
        for i in range(count)
    ]  # fmt: skip
    clusters = [frozenset([row]) for row in range(count)]
    while len(clusters) > 1:
        mean, one, other = min(
            (np.mean([apart[i][j] for i in a for j in b]), x, y)
            for x, a in enumerate(clusters)
            for y, b in enumerate(clusters[:x])
        )
        if mean > distance:
            break
        clusters[other] |= clusters[one]
        del clusters[one]
    return set(clusters)


@pytest.mark.parametrize("distance", [0.0, 0.4, 0.7, 0.9, 2.0])
def test_clusters_are_the_slow_ones(distance: float) -> None:
    raw = some_regions(25, ensemble=True, dim=5)
    vectors = raw.vectors(np.arange(25))
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    found = cluster_regions(vectors, raw.boxes, distance)
    assert set(map(frozenset, found)) == slow_clusters(vectors, raw.boxes, distance)
    assert [members[0] for members in found] == sorted(members[0] for members in found)


FOUND_CLIP = {"background": [0, 0, 0, 1.0], "kite": [1.0, 0], "owl": [0, 1.0], "dog": [0, 0, 1.0]}


def test_discovery_groups_and_names(make: Callable[..., Detector]) -> None:
    """Two kites far apart, an owl seen twice with different looks, and nothing."""
    small = make(ensemble=False, clip=ToldClip(FOUND_CLIP), base=["kite"])
    boxes = [[0, 0, 20, 20], [50, 50, 90, 90], [51, 55, 90, 94], [70, 0, 99, 20], [0, 80, 20, 99]]
    looks = [[1, 0.1], [0.3, 1], [0, 1, 0.5], [1, 0], [0, 0.1, 0, 1]]
    found = small.discover(
        placed(boxes, looks), ["dog", "kite", "owl"], replace(ALL, nms=0.9), distance=0.2
    )
    assert [(g.name, g.base, g.rows) for g in found.groups] == [
        ("kite", True, (0, 3)), ("owl", False, (1, 2)),
    ]  # fmt: skip
    assert found.groups[0].score == pytest.approx((1 / math.hypot(1, 0.1) + 1) / 2)
    assert found.rows == (3, 0, 1, 2)
    assert found.detections.labels == ("kite", "kite", "owl", "owl")
    assert found.detections.phrases == (0, 0, 1, 1)
    # Apart they are two groups of looks.
    strict = small.discover(
        placed(boxes, looks), ["dog", "kite", "owl"], replace(ALL, nms=0.9), distance=0.001
    )
    assert len(strict.groups) == 4


@pytest.mark.parametrize("count", [0, 1])
def test_little_to_discover(make: Callable[..., Detector], count: int) -> None:
    small = make(ensemble=False, clip=ToldClip(FOUND_CLIP))
    raw = placed([[0, 0, 50, 50]] * count, [[1, 0]] * count)
    found = small.discover(raw, ["kite"], masks=False)
    assert len(found.groups) == len(found.detections) == count
    assert isinstance(found.detections, Detections)


def test_discovery_in_the_words_it_was_trained_on(make: Callable[..., Detector]) -> None:
    small = make()
    raw = run_to_end(small.detect(picture()))
    found = small.discover(raw, thresholds=ALL, masks=True)
    assert {group.name for group in found.groups} <= set(small.base_names)
    rows = [row for group in found.groups for row in group.rows]
    assert sorted(rows) == sorted(found.rows)
    assert found.detections.masks is not None


# --------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    "settings",
    [
        {"max_boxes": 0}, {"max_boxes": 1001}, {"nms": -0.1}, {"nms": 1.1}, {"nms": math.nan},
        {"min_objectness": 2}, {"min_objectness": math.nan}, {"min_area": -1},
        {"min_area": math.inf}, {"min_area": math.nan}, {"min_cosine": -1.1},
        {"min_cosine": math.nan},
    ],
)  # fmt: skip
def test_a_threshold_out_of_range_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"between (0|-1) and 1|At least 1|number of pixels"):
        RegionThresholds(**settings)


@pytest.mark.parametrize(
    ("act", "told_so"),
    [
        (lambda d, raw: d.select(raw, ["dog"], score="logit"), "cosine, softmax"),
        (lambda d, raw: d.select(raw, ["dog"], temperature=0.0), "above 0"),
        (lambda d, raw: d.select(raw, ["dog"], temperature=math.nan), "above 0"),
        (lambda d, raw: run_to_end(d.read(["dog"], templates="none")), "choose one of"),
        (lambda d, raw: d.distribution(raw, 9, ["dog"]), "no region 9; this picture has 5"),
        (lambda d, raw: d.distribution(raw, -1, ["dog"]), "no region -1"),
        (lambda d, raw: d.why(raw, 5), "no region 5"),
        (lambda d, raw: d.discover(raw, ["dog"], distance=3), "between 0 and 2"),
        (lambda d, raw: d.discover(raw, ["dog"], distance=math.nan), "between 0 and 2"),
        (lambda d, raw: d.select(replace(raw, detector="big"), ["dog"]), "big found these regions"),
        (lambda d, raw: d.masks(replace(raw, detector="big"), [0]), "big found these regions"),
    ],
)
def test_what_cannot_be_done_is_a_sentence(
    make: Callable[..., Detector], act: Callable[[Detector, RawRegions], object], told_so: str
) -> None:
    with pytest.raises(InputError, match=told_so):
        act(make(), some_regions(5, ensemble=True))


@pytest.mark.parametrize(
    ("size", "told_so"), [((1, 1), "at least 8"), ((3, 90), "at least 8"), ((900, 10), "mere line")]
)
def test_a_picture_with_nothing_to_see_is_refused(
    make: Callable[..., Detector], size: tuple[int, int], told_so: str
) -> None:
    small = make()
    with pytest.raises(InputError, match=told_so):
        run_to_end(small.detect(Image.new("RGB", size)))
    assert not runs(small)


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGBA", "LA", "CMYK", "I;16"])
def test_pictures_of_any_mode(make: Callable[..., Detector], mode: str) -> None:
    raw = run_to_end(make().detect(Image.new(mode, (40, 30))))
    assert (raw.width, raw.height) == (40, 30)


@pytest.mark.parametrize(
    ("name", "dim", "told_so"),
    [("clip-mini", 20, "learnt from clip-vit-b-32"), ("clip-vit-b-32", 16, "20 numbers")],
)
def test_a_clip_that_is_not_the_teacher_is_refused(
    make: Callable[..., Detector], name: str, dim: int, told_so: str
) -> None:
    clip = ToldClip(dim=dim)
    clip.name = name
    with pytest.raises(InputError, match=told_so):
        make(clip=clip)


def test_bytes_are_the_networks_and_the_teachers(make: Callable[..., Detector]) -> None:
    small = make()
    own = sum(t.numel() * t.element_size() for t in small.model.state_dict().values())
    assert small.nbytes() == own + 1000


# ---------------------------------------------------------------------------------- threads, cancel


def test_closing_stops_before_the_next_run_and_keeps_nothing(
    make: Callable[..., Detector], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(detector, "REGIONS_AT_ONCE", 7)
    expected: list[dict[str, int]] = [
        {}, {"image": 1}, {"image": 1, "propose": 1}, {"image": 1, "propose": 1, "regions": 1},
    ]  # fmt: skip
    for steps, ran in enumerate(expected, 1):
        small = make()
        job = small.detect(picture())
        fractions = [next(job).fraction for _ in range(steps)]
        job.close()
        assert runs(small) == ran
        assert fractions == sorted(fractions)
        run_to_end(small.detect(picture()))
        assert runs(small)["image"] == ran.get("image", 0) + 1


def test_two_threads_get_what_one_gets(make: Callable[..., Detector]) -> None:
    names = (["dog", "owl"], ["lamp", "red kite", "owl"])

    def work(shared: Detector, turn: int) -> list[dict[str, Any]]:
        answers = []
        for seed in (0, 1, 0):
            raw = run_to_end(shared.detect(picture(seed=seed)))
            answers.append(shared.select(raw, names[turn], ALL, masks=True).to_json())
            answers.append(shared.rank(raw, names[turn], max_boxes=9).to_json())
        return answers

    expected = [work(make(), turn) for turn in (0, 1)]
    shared, found, together = make(), {}, threading.Barrier(2)

    def thread(turn: int) -> None:
        together.wait()
        found[turn] = work(shared, turn)

    threads = [threading.Thread(target=thread, args=(turn,)) for turn in (0, 1)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert [found[0], found[1]] == expected


def test_softmax_of_one_head_adds_up_to_one(make: Callable[..., Detector]) -> None:
    small = make(ensemble=False)
    raw = some_regions(9, ensemble=False)
    words = run_to_end(small.read(["dog", "owl", "lamp"]))
    scores = name_scores(raw, np.arange(9), words, "softmax", 100.0)
    assert torch.allclose(scores.sum(1), torch.ones(9))
