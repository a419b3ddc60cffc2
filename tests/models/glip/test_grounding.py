"""Grounding: what is found where, long prompts, thresholds, what is remembered, and what stops."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from models.caches import Remembered
from models.errors import InputError
from models.glip.grounding import Grounder, GroundingThresholds, RawDetections
from models.glip.prompts import Phrase, Prompt, evaluation_prompt, list_prompt, read_prompt
from models.jobs import run_to_end
from tests.glip_service_support import box_at, picture, random_glip, tokenizer, told
from tests.glip_support import GlipGolden, parametrize_glip

pytestmark = pytest.mark.usefixtures("one_thread")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    parametrize_glip(metafunc, "service_file", "mini_*.npz", GlipGolden)


SHOW = GroundingThresholds(box=0.3)


def names(count: int) -> list[str]:
    """Different words, none of which starts with another's first token."""
    return [f"thing {number}" for number in range(count)]


# ------------------------------------------------------------------------------------ what is found


def test_a_phrase_finds_its_thing_where_it_is() -> None:
    grounder, _ = told(dog=[(1, 2), (6, 5)], kite=[(4, 4)])
    raw = run_to_end(grounder.ground(picture(), read_prompt("dog; kite; owl")))
    found = raw.select(SHOW)
    assert sorted(zip(found.labels, found.boxes.tolist())) == [
        ("dog", box_at(1, 2)), ("dog", box_at(6, 5)), ("kite", box_at(4, 4)),
    ]  # fmt: skip
    # The geometric mean of two probabilities, both sigmoid(4).
    np.testing.assert_allclose(found.scores, torch.tensor(4.0).sigmoid(), rtol=1e-6)
    assert {found.spans[i] for i in range(3)} == {(0, 3), (5, 9)}


def test_boxes_are_in_pixels_of_the_picture_that_came() -> None:
    grounder, _ = told(dog=[(2, 3)])
    raw = run_to_end(grounder.ground(picture(640, 320), read_prompt("dog")))
    # Read at 128 x 64, so that one pixel there is five here.
    np.testing.assert_allclose(raw.select(SHOW).boxes, [box_at(2, 3, scale=5)], rtol=1e-5)
    assert (raw.width, raw.height) == (640, 320)


def test_a_phrase_is_scored_by_the_mean_of_its_tokens() -> None:
    grounder, _ = told(red=[(1, 1)], kite=[(1, 1), (5, 5)])
    raw = run_to_end(grounder.ground(picture(), read_prompt("[red kite]")))
    high, low = (1 / (1 + np.exp(-x)) for x in (4.0, -8.0))
    assert raw.phrase_scores.tolist() == pytest.approx([high, (high + low) / 2], rel=1e-5)
    both, kite_only = 0, 1
    assert (raw.lit(both, 0.5), raw.lit(kite_only, 0.5)) == ((0, 1), (1,))


@pytest.mark.parametrize("fusion", [True, False])
def test_words_and_boxes_make_a_matrix(fusion: bool) -> None:
    grounder, _ = told(fusion, dog=[(1, 2)], kite=[(4, 4)])
    prompt = read_prompt("A dog, and a kite!")
    raw = run_to_end(grounder.ground(picture(), prompt))
    spelled = [word.text for word in raw.words]
    assert spelled == ["A", "dog", "and", "a", "kite"]
    assert [prompt.caption[w.begin : w.end] for w in raw.words] == spelled
    matrix = raw.matrix(SHOW)
    found = raw.select(SHOW)
    assert matrix.shape == (5, 2)
    for column, label in enumerate(found.labels):
        assert spelled[int(matrix[:, column].argmax())] == label.split()[1]
    assert (raw.attention is not None) == fusion
    if raw.attention is not None:
        assert raw.attention.shape == (len(raw), 5)
        assert spelled[int(raw.attention[0].argmax())] == found.labels[0].split()[1]


def test_a_word_of_several_tokens_counts_once() -> None:
    grounder, _ = told(snow=[(1, 1)])
    raw = run_to_end(grounder.ground(picture(), read_prompt("snowboarders")))
    assert [word.text for word in raw.words] == ["snowboarders"]  # snow ##board ##ers
    high, low = (1 / (1 + np.exp(-x)) for x in (4.0, -8.0))
    assert raw.token_scores[0, 0] == pytest.approx((high + 2 * low) / 3, rel=1e-5)
    tokens = torch.tensor([-8.0, 4.0, -8.0, -8.0, -8.0]).softmax(0)
    assert raw.attention is not None
    assert raw.attention[0, 0] == pytest.approx(float(tokens[1:4].sum()), rel=1e-5)


def test_the_real_network_answers_with_every_part() -> None:
    grounder = random_glip()
    raw = run_to_end(grounder.ground(picture(96, 80), read_prompt("two dogs and a red kite")))
    assert len(raw)
    assert set(raw.phrases.tolist()) == {0, 1}
    assert (np.diff(raw.scores) <= 0).all()
    assert raw.attention is not None
    assert (raw.attention.sum(1) < 1).all()
    assert len(raw.select(GroundingThresholds(box=0.0, max_boxes=7))) == 7
    assert grounder.nbytes() > 4 * 30522 * 32


def test_the_whole_service_answers_as_the_reference(service_file: GlipGolden) -> None:
    golden = service_file
    picture = Image.fromarray(golden["image"].numpy()[:, :, ::-1])  # BGR there
    prompt = Prompt.from_spans(str(golden.arrays["caption"]), golden["spans"].tolist())
    grounder = Grounder("golden", golden.glip(torch.float64), tokenizer())
    side = int(golden["min_size"]) or min(picture.size)  # 0 there means as it is
    raw = run_to_end(grounder.ground(picture, prompt, min_size=side, max_size=10_000))
    found = raw.select(GroundingThresholds(box=0.0))
    np.testing.assert_allclose(found.scores, golden["det_scores"], rtol=0, atol=1e-6)
    np.testing.assert_allclose(found.boxes, golden["det_boxes_original"], rtol=0, atol=1e-4)
    assert [phrase + 1 for phrase in found.phrases] == golden["det_labels"].tolist()


# ------------------------------------------------------------------- what the reference stumbles on


def test_300_labels_are_read_in_parts_and_all_are_found() -> None:
    grounder, network = told(dog=[(1, 2)], kite=[(4, 4)], owl=[(6, 1)])
    labels = ["dog", *names(148), "kite", *names(150)[::-1][:149], "owl"]
    raw = run_to_end(grounder.ground(picture(), list_prompt(labels)))
    found = raw.select(SHOW)
    assert len(labels) == 300
    assert sorted(found.labels) == ["dog", "kite", "owl"]
    assert {labels[phrase] for phrase in found.phrases} == set(found.labels)
    caption = raw.prompt.caption
    assert all(caption[b:e] == label for label, (b, e) in zip(found.labels, found.spans))
    assert all(caption[w.begin : w.end] == w.text for w in raw.words)
    assert network.runs["head"] >= 4
    assert max(network.lengths) <= 256
    assert network.runs["image"] == 1


def test_a_label_beyond_token_256_is_found_in_few_long_labels_and_in_a_caption() -> None:
    grounder, network = told(kite=[(4, 4)])
    long = [f"{'very ' * 30}large thing {number}" for number in range(10)]
    found = run_to_end(grounder.ground(picture(), list_prompt([*long, "kite"]))).select(SHOW)
    assert (found.labels, found.phrases) == (("kite",), (10,))
    told_story = "the owl in the old tree " * 60 + "sees [a kite]"
    found = run_to_end(grounder.ground(picture(), read_prompt(told_story, "caption"))).select(SHOW)
    assert found.labels == ("a kite",)
    begin = len("the owl in the old tree " * 60 + "sees ")
    assert found.spans == ((begin, begin + len("a kite")),)
    assert max(network.lengths) <= 256


def test_nms_goes_across_the_parts_of_a_prompt() -> None:
    grounder, network = told(dog=[(1, 2)])
    labels = ["dog", *names(120), "dog"]  # a data set may name a thing twice
    raw = run_to_end(grounder.ground(picture(), evaluation_prompt(labels)))
    assert network.runs["head"] == 2
    assert len(raw.select(GroundingThresholds(box=0.3, nms=1.0))) == 2
    assert len(raw.select(GroundingThresholds(box=0.3, nms=0.6))) == 1


def test_a_cat_on_a_catalog() -> None:
    grounder, _ = told(cat=[(1, 2)], catalog=[(5, 5)])
    found = run_to_end(grounder.ground(picture(), read_prompt("a cat on a catalog"))).select(SHOW)
    assert sorted(zip(found.labels, found.spans)) == [("a cat", (0, 5)), ("a catalog", (9, 18))]


@pytest.mark.parametrize(
    "prompt",
    [
        pytest.param(Prompt("nothing is asked", (), "caption"), id="no phrase"),
        pytest.param(
            Prompt("a \u200b", (Phrase("\u200b", 2, 3),), "caption"), id="a phrase without a token"
        ),
        pytest.param(read_prompt("dog"), id="no box"),
    ],
)
def test_nothing_found_is_an_answer(prompt: Prompt) -> None:
    grounder, _ = told()
    raw = run_to_end(grounder.ground(picture(70, 50), prompt))
    found = raw.select(SHOW)
    assert (len(raw), len(found)) == (0, 0)
    assert found.to_json() == {"image": {"width": 70, "height": 50}, "detections": []}
    assert raw.matrix(SHOW).shape == (len(raw.words), 0)


# ---------------------------------------------------------------------------------- what is remembered


def test_a_new_prompt_runs_the_head_only_and_a_threshold_nothing() -> None:
    grounder, network = told(dog=[(1, 2)], kite=[(4, 4)])
    raw = run_to_end(grounder.ground(picture(), read_prompt("dog")))
    assert network.runs == {"image": 1, "text": 1, "head": 1}
    run_to_end(grounder.ground(picture(), read_prompt("kite")))  # equal content, another object
    assert network.runs == {"image": 1, "text": 2, "head": 2}
    for box in (0.0, 0.5, 0.999):
        raw.select(GroundingThresholds(box=box))
    assert network.runs == {"image": 1, "text": 2, "head": 2}
    run_to_end(grounder.ground(picture(seed=1), read_prompt("dog")))  # a known text
    assert network.runs == {"image": 2, "text": 2, "head": 3}
    run_to_end(grounder.ground(picture(), read_prompt("dog"), min_size=96, max_size=96))
    assert network.runs == {"image": 3, "text": 2, "head": 4}


def test_the_real_network_gives_the_same_from_memory() -> None:
    prompt = read_prompt("two dogs and a red kite")
    fresh = run_to_end(random_glip().ground(picture(), prompt))
    used = random_glip()
    run_to_end(used.ground(picture(), read_prompt("owl")))
    run_to_end(used.ground(picture(seed=1), prompt))
    again = run_to_end(used.ground(picture(), prompt))
    for name in ("boxes", "scores", "phrases", "token_scores", "attention"):
        np.testing.assert_array_equal(getattr(again, name), getattr(fresh, name))


def test_the_longest_unasked_value_is_forgotten() -> None:
    memory: Remembered[int] = Remembered(2)
    computed: list[str] = []

    def value(key: str) -> int:
        return memory.get(key, lambda: computed.append(key) or len(computed))

    assert [value(key) for key in ("a", "b", "a", "c", "a", "b")] == [1, 2, 1, 3, 1, 4]


# ----------------------------------------------------------------------------------------- thresholds


def _raw(boxes: list[list[float]], scores: list[float], texts: list[str]) -> RawDetections:
    caption = ". ".join(texts)
    prompt = list_prompt(texts)
    assert prompt.caption == caption
    return RawDetections(
        prompt=prompt,
        boxes=np.array(boxes, np.float32),
        scores=np.array(scores, np.float32),
        phrase_scores=np.array(scores, np.float32) ** 2,
        phrases=np.arange(len(texts)),
        words=(),
        token_scores=np.zeros((len(texts), 0), np.float32),
        attention=None,
        width=100,
        height=100,
    )


NEAR = [[0, 0, 50, 50], [1, 1, 51, 51], [60, 60, 90, 90]]


@pytest.mark.parametrize(
    ("settings", "kept"),
    [
        ({"box": 0.0, "text": 0.0}, [0, 2]),
        ({"box": 0.0, "text": 0.0, "nms": 1.0}, [0, 1, 2]),
        ({"box": 0.75, "text": 0.0, "nms": 1.0}, [0, 1]),
        ({"box": 0.9, "text": 0.0}, [0]),
        ({"box": 0.0, "text": 0.5, "nms": 1.0}, [0, 1]),
        ({"box": 0.0, "text": 0.0, "nms": 1.0, "max_boxes": 1}, [0]),
        ({"box": 0.95}, []),
    ],
)
def test_thresholds_choose(settings: dict[str, Any], kept: list[int]) -> None:
    raw = _raw(NEAR, [0.9, 0.8, 0.7], ["dog", "Dog", "dog"])
    thresholds = GroundingThresholds(**settings)
    assert raw.rows(thresholds).tolist() == kept
    assert raw.select(thresholds).boxes.tolist() == [NEAR[row] for row in kept]


def test_other_names_never_suppress() -> None:
    raw = _raw(NEAR, [0.9, 0.8, 0.7], ["dog", "wolf", "dog"])
    assert raw.rows(GroundingThresholds(box=0.0)).tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    "settings",
    [
        {"box": -0.1}, {"box": 1.1}, {"box": float("nan")}, {"text": 2}, {"nms": -1},
        {"nms": float("inf")}, {"max_boxes": 0}, {"max_boxes": 1001},
    ],
)  # fmt: skip
def test_a_threshold_out_of_range_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"between 0 and 1|At least 1"):
        GroundingThresholds(**settings)


def _crowd(labels: int, count: int, side: float) -> RawDetections:
    generator = np.random.default_rng(0)
    corners = generator.uniform(0, 900, (count, 2))
    boxes = np.concatenate([corners, corners + generator.uniform(1, side, (count, 2))], 1)
    return RawDetections(
        prompt=list_prompt(names(labels)),
        boxes=boxes.astype(np.float32),
        scores=np.sort(generator.uniform(0.2, 1, count)).astype(np.float32)[::-1],
        phrase_scores=np.ones(count, np.float32),
        phrases=generator.integers(0, labels, count),
        words=(),
        token_scores=np.zeros((count, 0), np.float32),
        attention=None,
        width=1000,
        height=1000,
    )


@pytest.mark.parametrize("labels", [1, 80, 1000])
def test_a_slider_takes_less_than_50_ms(labels: int) -> None:
    raw = _crowd(labels, 5000, side=99)
    thresholds = GroundingThresholds(box=0.0, max_boxes=300)
    assert min(_seconds(raw, thresholds) for _ in range(5)) < 0.05


@pytest.mark.parametrize("most", [5, 40, 1000])
def test_suppression_is_the_slow_ones(most: int) -> None:
    """Most of 1,500 boxes overlap, so that the first thousand do not suffice for 1,000."""
    raw = _crowd(2, 1500, side=99)
    raw.boxes[:, :2] = raw.boxes[:, :2] // 300 * 300  # nine heaps
    raw.boxes[:, 2:] = raw.boxes[:, :2] + 60 + raw.boxes[:, 2:] % 39
    kept: list[int] = []
    for row in range(len(raw)):
        rivals = [k for k in kept if raw.phrases[k] == raw.phrases[row]]
        if all(_legacy_iou(raw.boxes[k], raw.boxes[row]) <= 0.8 for k in rivals):
            kept.append(row)
    thresholds = GroundingThresholds(box=0.0, nms=0.8, max_boxes=most)
    assert raw.rows(thresholds).tolist() == kept[:most]


def _legacy_iou(a: Any, b: Any) -> float:
    a, b = a.astype(float), b.astype(float)
    low, high = np.maximum(a[:2], b[:2]), np.minimum(a[2:], b[2:])
    inner = np.prod(np.maximum(high - low + 1, 0))
    areas = [np.prod(box[2:] - box[:2] + 1) for box in (a, b)]
    return float(inner / (sum(areas) - inner))


def _seconds(raw: RawDetections, thresholds: GroundingThresholds) -> float:
    start = time.thread_time()  # on a machine that trains, the clock on the wall measures that
    raw.select(thresholds)
    return time.thread_time() - start


def test_a_model_brings_its_own_thresholds() -> None:
    grounder, _ = told()
    assert grounder.defaults == GroundingThresholds(box=0.5)


# ------------------------------------------------------------------------------------- stop, bad input


def test_closing_stops_between_the_parts() -> None:
    grounder, network = told()
    job = grounder.ground(picture(), list_prompt(names(300)))
    fractions = [next(job).fraction for _ in range(3)]  # two parts begun, one done
    assert network.runs["head"] == 1
    job.close()
    assert network.runs["head"] == 1
    assert fractions == sorted(fractions)
    assert fractions[0] == 0.0


@pytest.mark.parametrize(
    ("size", "told_so"), [((1, 1), "at least 8"), ((20_000, 10), "a mere line"), ((3, 90), "8")]
)
def test_a_picture_with_nothing_to_see_is_refused_before_any_work(
    size: tuple[int, int], told_so: str
) -> None:
    grounder, network = told()
    with pytest.raises(InputError, match=told_so):
        run_to_end(grounder.ground(Image.new("RGB", size), read_prompt("dog")))
    assert not network.runs


def test_a_phrase_of_too_many_tokens_is_refused_before_any_work() -> None:
    grounder, network = told()
    with pytest.raises(InputError, match="tokens"):
        run_to_end(grounder.ground(picture(), list_prompt(["dog", "ab " * 300])))
    assert not network.runs
