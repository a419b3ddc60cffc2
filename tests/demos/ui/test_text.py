"""What typed labels and queries become."""

from __future__ import annotations

import pytest

from demos.ui.text import (
    MAX_LABEL_CHARS,
    MAX_LABELS,
    parse_labels,
    parse_line,
    parse_number,
    parse_whole,
)
from models.errors import InputError


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("cat\ndog", ["cat", "dog"]),
        ("cat, dog; bird", ["cat", "dog", "bird"]),
        ("cat\r\ndog\r\n", ["cat", "dog"]),
        ("  a   red\tball ,, ", ["a red ball"]),
        ("cat,dog,cat", ["cat", "dog"]),
        ("Cat,cat", ["Cat", "cat"]),
        ("c\x00at", ["cat"]),
        ("cat\x1b[31m", ["cat[31m"]),
        ("\u202eevil", ["evil"]),
        ("\ud800cat", ["cat"]),
        ("<script>alert(1)</script>", ["<script>alert(1)</script>"]),
        ("🐱,👩\u200d🚒", ["🐱", "👩\u200d🚒"]),
        ("قطة", ["قطة"]),
        ("cafe\u0301", ["caf\u00e9"]),
        (",".join(map(str, range(MAX_LABELS))), [str(n) for n in range(MAX_LABELS)]),
        ("x" * MAX_LABEL_CHARS, ["x" * MAX_LABEL_CHARS]),
    ],
)
def test_labels(text: str, labels: list[str]) -> None:
    assert parse_labels(text) == labels


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (None, "Type at least one label"),
        ("", "Type at least one label"),
        (" ,;\n, ", "Type at least one label"),
        ("\x00", "Type at least one label"),
        (",".join(map(str, range(2000))), "2,000 labels; give at most 200"),
        ("x" * 10_000, "has 10,000 characters; shorten it to 200"),
        ("x" * 10_000_000, "far too long"),
    ],
)
def test_labels_refused(text: str | None, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        parse_labels(text)


def test_a_line_is_one_line() -> None:
    assert parse_line(" a red\n\nball, bouncing ") == "a red ball, bouncing"


@pytest.mark.parametrize(
    ("text", "sentence"), [(" \x00 ", "Type a query."), ("x" * 501, "501 characters; shorten")]
)
def test_line_refused(text: str, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        parse_line(text, what="a query")


@pytest.mark.parametrize(("value", "number"), [(3, 3.0), (-0.5, -0.5), (1e9, 1e9)])
def test_numbers_are_numbers(value: float, number: float) -> None:
    assert parse_number(value, what="The width") == number


@pytest.mark.parametrize("value", [None, "3", True, [], float("nan"), float("inf")])
def test_what_is_no_number_is_refused(value: object) -> None:
    with pytest.raises(InputError, match=r"^The width is a number, not "):
        parse_number(value, what="The width")


def test_whole_numbers_may_be_written_as_others() -> None:
    assert parse_whole(7.0, what="The seed") == 7
    with pytest.raises(InputError, match=r"The seed is a whole number, not 2\.5"):
        parse_whole(2.5, what="The seed")
