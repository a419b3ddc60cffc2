"""What a person asks of an edit: words for what it should become, and for what it is now."""

from __future__ import annotations

from dataclasses import dataclass

from models.errors import InputError

MAX_LETTERS = 300  # far beyond CLIP's 77 tokens would be cut off unread


@dataclass(frozen=True)
class EditPrompt:
    """The two ends of an edit in words; blanks around them are dropped.

    Attributes:
        target: what the picture should show, such as "a face with glasses"; 1 to 300 letters.
        neutral: what it shows now, such as "a face"; at most 300 letters. "" says nothing about
            it: methods that need a starting point in words refuse that or bring their own.

    Raises:
        InputError: the target is empty, a text is too long, or both say the same.
    """

    target: str
    neutral: str = ""

    def __post_init__(self) -> None:
        for name in ("target", "neutral"):
            text = " ".join(getattr(self, name).split())
            if len(text) > MAX_LETTERS:
                raise InputError(
                    f"The {name} text has {len(text)} letters; shorten it to {MAX_LETTERS}."
                )
            object.__setattr__(self, name, text)
        if not self.target:
            raise InputError("The target text is empty; write what the picture should show.")
        if self.target.casefold() == self.neutral.casefold():
            raise InputError(
                "The neutral and the target text say the same; let them differ in what to change."
            )
