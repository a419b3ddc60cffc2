"""What people type, made safe to pass on: limits first, then cleaning, always with a sentence."""

from __future__ import annotations

import math
import random
import re
import unicodedata
from collections.abc import Iterable

from models.errors import InputError

MAX_LABELS = 200
MAX_LABEL_CHARS = 200
MAX_LINE_CHARS = 500
SEEDS = 1_000_000  # of the dice: short enough to be read out
_MAX_TEXT_CHARS = 200_000  # beyond this not even the splitting is worth its time

# Control characters (NUL among them), lone surrogates, and the marks that reverse the text after
# them. What emoji and right-to-left words need (joiners, LRM, RLM) stays.
_UNWANTED = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\u202a-\u202e\u2066-\u2069]"
)


def parse_labels(
    text: str | None,
    *,
    maximum: int = MAX_LABELS,
    max_chars: int = MAX_LABEL_CHARS,
    what: str = "label",
) -> list[str]:
    """Labels typed one per line or separated by commas or semicolons, cleaned, each once.

    `what` is what the sentences call one. Raises InputError when there is none, when there are
    more than `maximum`, or when one is longer than `max_chars` characters.
    """
    labels = [_clean(part) for part in re.split(r"[\n,;]", _checked(text))]
    labels = list(dict.fromkeys(label for label in labels if label))
    if not labels:
        raise InputError(f"Type at least one {what}, one per line or separated by commas.")
    if len(labels) > maximum:
        raise InputError(f"These are {len(labels):,} {what}s; give at most {maximum:,} at once.")
    longest = max(labels, key=len)
    if len(longest) > max_chars:
        raise InputError(
            f"The {what} “{longest[:30]}…” has {len(longest):,} characters; "
            f"shorten it to {max_chars:,}."
        )
    return labels


def parse_line(
    text: str | None, *, what: str = "a few words", max_chars: int = MAX_LINE_CHARS
) -> str:
    """One text (a query, a prompt) on one line, cleaned.

    `what` completes "Type …." when it is missing. Raises InputError for that, and when it is
    longer than `max_chars` characters.
    """
    line = _clean(_checked(text))
    if not line:
        raise InputError(f"Type {what}.")
    if len(line) > max_chars:
        raise InputError(f"This text has {len(line):,} characters; shorten it to {max_chars:,}.")
    return line


def parse_number(value: object, *, what: str, kind: str = "a number") -> float:
    """A finite number, from a page, an API call or a link.

    `what` begins the sentence: "The width is a number, not …". Raises InputError for all else.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise InputError(f"{what} is {kind}, not {str(value)[:20] or 'empty'}.")
    return float(value)


def parse_whole(value: object, *, what: str) -> int:
    """A whole number, also written as 7.0. Raises InputError for all else."""
    number = parse_number(value, what=what, kind="a whole number")
    if number != int(number):
        raise InputError(f"{what} is a whole number, not {number:g}.")
    return int(number)


def parse_choice(value: str, choices: Iterable[str], what: str) -> str:
    """`value` if it is one of `choices`. Raises InputError that lists them otherwise."""
    choices = list(choices)
    if value not in choices:
        raise InputError(
            f"There is no {what} “{str(value)[:20]}”; choose one of {', '.join(choices)}."
        )
    return value


def random_seed() -> int:
    """A seed nobody chose."""
    return random.randrange(SEEDS)


def parse_seed(value: float | None) -> int:
    """A seed as typed; an empty field throws the dice. Raises InputError for what is no number."""
    return random_seed() if value is None else parse_whole(value, what="The seed")


def percent(share: float) -> str:
    """0.973 -> "97%", 0.0123 -> "1.2%", 0.0000001 -> "<0.1%"."""
    if 0 < share < 0.001:
        return "<0.1%"
    return f"{100 * share:.1f}%" if share < 0.0995 else f"{100 * share:.0f}%"


def _checked(text: str | None) -> str:
    text = text or ""
    if len(text) > _MAX_TEXT_CHARS:
        raise InputError(f"This text has {len(text):,} characters; that is far too long.")
    return text


def _clean(text: str) -> str:
    """NFC, no unwanted characters, every run of white space one space."""
    return " ".join(_UNWANTED.sub("", unicodedata.normalize("NFC", text)).split())
