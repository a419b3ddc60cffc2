"""Classify, match, search: the arithmetic, what is encoded how often, and what is refused."""

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from models.clip.recognition import (
    Matching,
    PictureIndex,
    Recognition,
    classify,
    index_pictures,
    match,
    search,
)
from models.errors import InputError
from models.jobs import run_to_end
from tests.clip_support import counting, mini, noise

KEYS = {"model", "settings", "seed", "seconds", "scores"}


def answer(**changes: Any) -> Recognition:
    base = Recognition("m", "one", ("a", "b", "c"), (0.1, 0.3, 0.2), logit_scale=10.0)
    return replace(base, **changes)


@pytest.mark.parametrize("temperature", [0.1, 0.5, 1.0, 3.0, 10.0])
def test_probabilities_are_the_softmax_of_scaled_cosines(temperature: float) -> None:
    cosines = np.array([0.1, 0.3, 0.2])
    expected = np.exp(cosines * 10 / temperature)
    expected /= expected.sum()
    scores = answer(temperature=temperature).scores
    assert [score.label for score in scores] == ["b", "c", "a"]
    assert [s.probability for s in scores] == pytest.approx(expected[[1, 2, 0]].tolist())
    assert math.fsum(s.probability for s in scores) == pytest.approx(1)


@pytest.mark.parametrize("temperature", [0.0, -1.0, 0.09, 10.1, math.inf, math.nan])
def test_a_temperature_out_of_range_is_refused(temperature: float) -> None:
    with pytest.raises(InputError, match=r"between 0\.1 and 10"):
        answer(temperature=temperature)


def test_classify_agrees_with_the_encoder_it_asks() -> None:
    picture, labels = noise(1), ["a cat", "a dog", "ein Hund", "犬"]
    result = run_to_end(classify(mini(), picture, labels, templates="none"))
    cosines = mini().encode_text(labels) @ mini().encode_image([picture])[0]
    assert result.labels == tuple(labels)
    assert result.cosines == pytest.approx(cosines.tolist(), abs=1e-6)


def test_changing_labels_temperature_and_templates_never_encodes_the_picture_again() -> None:
    picture = noise(2)
    with counting(mini()) as counts:
        run_to_end(classify(mini(), picture, ["a cat"]))
        run_to_end(classify(mini(), picture, ["a dog", "a barn"]))
        run_to_end(classify(mini(), picture.copy(), ["a cat"], templates="none", temperature=0.5))
    assert counts.pictures == [1]


def test_the_json_is_the_agreed_one() -> None:
    result = run_to_end(classify(mini(), noise(3), ["a cat", "a dog"]))
    value = json.loads(json.dumps(replace(result, seconds=0.12).to_json(), allow_nan=False))
    assert value.keys() == KEYS
    assert value["model"] == "clip-mini"
    assert value["seed"] is None
    assert value["seconds"] == 0.12
    assert value["settings"] == {
        "labels": ["a cat", "a dog"],
        "templates": "one",
        "temperature": 1.0,
    }
    assert all(row.keys() == {"label", "probability", "cosine"} for row in value["scores"])
    assert value["scores"][0]["cosine"] >= value["scores"][1]["cosine"]


def matching(**changes: Any) -> Matching:
    base = Matching(
        "m", "none", ("p", "q"), ("a", "b", "c"), ((0.1, 0.3, 0.2), (0.5, 0.4, 0.0)), 5.0
    )
    return replace(base, **changes)


@pytest.mark.parametrize(("how", "axis"), [("rows", 1), ("columns", 0)])
def test_a_matrix_is_normalised_along_rows_or_columns(how: str, axis: int) -> None:
    expected = np.exp(5 * np.array(matching().cosines))
    expected /= expected.sum(axis=axis, keepdims=True)
    np.testing.assert_allclose(np.array(matching(normalise=how).table()), expected)


def test_a_matrix_of_cosines_is_left_alone_and_the_best_caption_is_per_picture() -> None:
    assert matching(normalise="cosine").table() == matching().cosines
    assert matching().best == (1, 0)


def test_the_json_of_a_matrix_has_every_cell_best_first() -> None:
    value = matching().to_json()
    assert value.keys() == KEYS
    assert len(value["scores"]) == 6
    shares = [cell["probability"] for cell in value["scores"]]
    assert shares == sorted(shares, reverse=True)
    assert (value["scores"][0]["picture"], value["scores"][0]["label"]) == ("q", "a")


def test_match_compares_every_picture_with_every_caption() -> None:
    pictures = [("same name", noise(4)), ("same name", noise(5))]
    result = run_to_end(match(mini(), pictures, ["x", "y", "z"]))
    expected = mini().encode_image([noise(4), noise(5)]) @ mini().encode_text(["x", "y", "z"]).T
    np.testing.assert_allclose(result.cosines, expected.numpy(), atol=1e-6)


def index_of(seeds: range) -> PictureIndex:
    pairs = [(f"picture {seed}", noise(seed)) for seed in seeds]
    return run_to_end(index_pictures(mini(), pairs, len(pairs)))


def test_search_ranks_by_cosine_and_encodes_nothing_but_the_query() -> None:
    index = index_of(range(100, 120))
    with counting(mini()) as counts:
        ranking = run_to_end(search(mini(), index, "a query nobody typed before"))
    assert (counts.pictures, counts.texts) == ([], [1])
    expected = (
        index.features.numpy() @ mini().encode_text(["a query nobody typed before"])[0].numpy()
    )
    assert list(ranking.order) == np.argsort(-expected, kind="stable").tolist()
    rows = ranking.to_json()["scores"]
    assert [row["label"] for row in rows] == [f"picture {100 + row['index']}" for row in rows]


def test_indexing_opens_pictures_a_few_at_a_time_and_stops_when_closed() -> None:
    opened: list[int] = []

    def pictures() -> Iterator[tuple[str, Image.Image]]:
        for seed in range(200, 500):
            opened.append(seed)
            yield str(seed), noise(seed, (8, 8))

    job = index_pictures(mini(), pictures(), 300)
    next(job)
    next(job)
    job.close()
    assert len(opened) <= 16


def test_an_index_may_turn_out_smaller_than_announced() -> None:
    index = run_to_end(index_pictures(mini(), [("only", noise(6))], total=500))
    assert index.names == ("only",)
    assert index.features.shape == (1, mini().embed_dim)


@pytest.mark.parametrize(
    ("question", "sentence"),
    [
        (lambda: classify(mini(), noise(7), []), "at least one label"),
        (lambda: classify(mini(), noise(7), ["a"], templates="two"), "none, one, ensemble"),
        (lambda: classify(mini(), noise(7), ["a"], temperature=0), "between 0.1 and 10"),
        (lambda: match(mini(), [], ["a"]), "at least one picture"),
        (lambda: match(mini(), [("p", noise(7))], []), "at least one caption"),
        (lambda: match(mini(), [("p", noise(7))], ["a"], normalise="all"), "rows, columns, cosine"),
        (lambda: search(mini(), index_of(range(0)), "a"), "no pictures"),
        (
            lambda: search(mini(), replace(index_of(range(1)), model="other"), "a"),
            "encoded by other",
        ),
    ],
)
def test_what_cannot_be_answered_is_refused_in_one_sentence(
    question: Callable[[], Any], sentence: str
) -> None:
    with pytest.raises(InputError, match=sentence) as refusal:
        run_to_end(question())
    assert str(refusal.value).endswith(".")
