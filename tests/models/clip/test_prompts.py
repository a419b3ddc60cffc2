"""Prompt templates: which there are, and how they are averaged."""

import pytest
import torch

from models.clip.prompts import TEMPLATE_SETS, encode_labels, template_set
from models.errors import InputError
from models.jobs import run_to_end
from tests.clip_support import counting, mini


@pytest.mark.parametrize(
    ("name", "count", "first"),
    [
        ("none", 1, "cat"),
        ("one", 1, "a photo of a cat."),
        ("ensemble", 80, "a bad photo of a cat."),
    ],
)
def test_a_set_writes_its_sentences(name: str, count: int, first: str) -> None:
    sentences = [template("cat") for template in template_set(name).templates]
    assert (len(set(sentences)), sentences[0]) == (count, first)


def test_an_unknown_set_lists_the_choices() -> None:
    with pytest.raises(InputError, match="none, one, ensemble"):
        template_set("best")


def test_the_ensemble_is_the_mean_of_unit_vectors_scaled_to_unit_length() -> None:
    ensemble = TEMPLATE_SETS["ensemble"]
    features = run_to_end(encode_labels(mini(), ["cat", "rocket"], ensemble))
    for row, label in zip(features, ["cat", "rocket"]):
        each = torch.stack([mini().encode_text([t(label)])[0] for t in ensemble.templates])
        mean = each.sum(dim=0) / 80
        torch.testing.assert_close(row, mean / mean.norm(), atol=2e-5, rtol=0)


def test_a_label_read_before_is_not_read_again() -> None:
    run_to_end(encode_labels(mini(), ["a heron", "a teapot"], TEMPLATE_SETS["one"]))
    with counting(mini()) as counts:
        run_to_end(
            encode_labels(mini(), ["a heron", "a new kite", "a teapot"], TEMPLATE_SETS["one"])
        )
    assert counts.texts == [1]


def test_many_labels_come_in_steps_and_stop_when_closed() -> None:
    job = encode_labels(mini(), [f"thing number {i}" for i in range(200)], TEMPLATE_SETS["none"])
    with counting(mini()) as counts:
        fractions = [next(job).fraction, next(job).fraction]
        job.close()
    assert 0 == fractions[0] < fractions[1] < 1
    assert sum(counts.texts) < 200
