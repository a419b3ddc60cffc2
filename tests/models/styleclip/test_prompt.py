"""What an edit may be asked in: the words and their refusals."""

from __future__ import annotations

import pytest

from models.errors import InputError
from models.styleclip.prompt import MAX_LETTERS, EditPrompt


@pytest.mark.parametrize(
    ("target", "neutral", "problem"),
    [
        ("", "a face", "empty"),
        (" \n\t", "", "empty"),
        ("a" * (MAX_LETTERS + 1), "", "target text has 301 letters"),
        ("glasses", "b" * 400, "neutral text has 400 letters"),
        ("a face", "a face", "the same"),
        ("A  Face", " a face ", "the same"),
    ],
)
def test_a_refusal_says_what_is_wrong(target: str, neutral: str, problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        EditPrompt(target, neutral)


def test_blanks_around_and_between_words_do_not_count() -> None:
    assert EditPrompt("  a smiling\n face ") == EditPrompt("a smiling face", "")
    assert EditPrompt("x" * MAX_LETTERS).target == "x" * MAX_LETTERS
