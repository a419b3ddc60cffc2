"""What is asked of GLIP: a text, the phrases in it, and the tokens of each phrase.

Li et al. 2022, "Grounded Language-Image Pre-training" (arXiv 2112.03857), sections 3.1 and 3.2:
detection is grounding of a prompt that lists the classes, "person. bicycle. hairdryer"; a phrase's
score is the mean over its tokens. Unlike the reference, every phrase carries its place in the text
from the beginning, so that "a cat on a catalog" has two phrases, and a prompt that is too long for
the network is cut into several that are not.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import torch
from tokenizers import Encoding, Tokenizer
from torch import Tensor

from models.errors import InputError, WeightsError
from models.weights import minilm_directory

from .chunker import Span, count_of, head_of, noun_phrases, singular

MODES = ("auto", "list", "caption")
MAX_LABELS = 1500  # LVIS has 1,203
MAX_PHRASE_CHARS = 200
MAX_CAPTION_CHARS = 2000
MAX_TOKENS = 256
# The reference trains and scores COCO's 80 names in one prompt, and fails beyond.
MAX_LABELS_AT_ONCE = 80

_MAX_TEXT_CHARS = 100_000  # beyond this not even the splitting is worth its time
_SEPARATOR = ". "
_FULL_STOP = r"\.(?=\s|$)"  # not the one in "3.5 inch disk"
_MARK = re.compile(r"\[([^\[\]]+)\]")
# Control characters, and the marks that turn the direction of all that follows them.
_UNWANTED = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\u202a-\u202e\u2066-\u2069]"
)


@dataclass(frozen=True)
class Phrase:
    """A thing that is asked for.

    Attributes:
        text: as it stands in the caption.
        begin, end: `caption[begin:end]` is `text`.
        count: how many the words say there are ("two small dogs"); None if they don't.
    """

    text: str
    begin: int
    end: int
    count: int | None = None

    @property
    def head(self) -> str:
        """The noun it is about, in lower case: "dogs"."""
        return head_of(self.text)

    @property
    def chip(self) -> str:
        """What a person reads before running: "two small dogs (2 × dog)"."""
        return self.text if self.count is None else f"{self.text} ({self.count} × {self.singular})"

    @property
    def singular(self) -> str:
        """The head noun in the singular: "dog"."""
        return singular(self.head)


@dataclass(frozen=True)
class Prompt:
    """A text for the network and its phrases.

    Attributes:
        caption: what the network reads.
        phrases: places in `caption`, in any order; they may overlap, and there may be none.
        kind: "list", names joined by ". ", or "caption", a sentence.
        first: for a part of a longer prompt, the index of `phrases[0]` in the whole.
        offset: likewise the place of `caption[0]` in the whole's caption.
    """

    caption: str
    phrases: tuple[Phrase, ...]
    kind: str
    first: int = 0
    offset: int = 0

    @staticmethod
    def from_spans(caption: str, spans: Iterable[Span], kind: str = "caption") -> Prompt:
        """A prompt with phrases at given [begin, end) places.

        Raises ValueError for a place outside the caption or without a character.
        """
        phrases = []
        for begin, end in spans:
            if not 0 <= begin < end <= len(caption):
                raise ValueError(
                    f"There is no phrase at [{begin}, {end}) of {len(caption)} characters."
                )
            text = caption[begin:end]
            phrases.append(Phrase(text, begin, end, count_of(text)))
        return Prompt(caption, tuple(phrases), kind)

    @property
    def names(self) -> tuple[str, ...]:
        """The phrases' texts."""
        return tuple(phrase.text for phrase in self.phrases)

    def marked(self) -> str:
        """The prompt as a text that `read_prompt` reads back: names by line, or `[phrases]` in the text.

        Of overlapping phrases the first is marked.
        """
        if self.kind == "list":
            return "\n".join(self.names)
        text, last = "", 0
        for phrase in sorted(self.phrases, key=lambda phrase: phrase.begin):
            if phrase.begin >= last:
                text += f"{self.caption[last : phrase.begin]}[{phrase.text}]"
                last = phrase.end
        return text + self.caption[last:]


# ----------------------------------------------------------------------------------------- parsing


def read_prompt(text: str | None, mode: str = "auto", parser: str = "best") -> Prompt:
    """Read what a person typed.

    Args:
        text: "apple; dog; kite", one name a line, "apple. dog. kite."; or a sentence, whose noun
            phrases are found unless it marks its own: "[two dogs] chase [a kite]".
        mode: "list", "caption", or "auto": a list if it looks like one.
        parser: who finds noun phrases, see `chunker.noun_phrases`.

    Raises:
        InputError: no words, too many or too long ones, or an unknown mode.
    """
    if mode not in MODES:
        raise InputError(f"There is no mode “{mode}”; choose one of {', '.join(MODES)}.")
    text = _checked(text)
    if mode == "list" or (mode == "auto" and _looks_like_list(text)):
        return list_prompt(_labels(text))
    return _caption_prompt(text, parser)


def list_prompt(names: Sequence[str]) -> Prompt:
    """Names, just as they are, as the prompt "a. b. c" of the reference's evaluation.

    Raises InputError when there is none.
    """
    if not names:
        raise InputError("There are no words here; name what to look for.")
    spans, begin = [], 0
    for name in names:
        spans.append((begin, begin + len(name)))
        begin += len(name) + len(_SEPARATOR)
    return Prompt.from_spans(_SEPARATOR.join(names), spans, "list")


def evaluation_prompt(names: Sequence[str]) -> Prompt:
    """Names of a data set as the reference's evaluation asks for them: "dog_(animal)" is "dog ".

    One phrase for each name, equal ones too. Raises InputError when there is none.
    """
    return list_prompt(
        [re.sub(r"\(.*\)", "", name).replace("_", " ").replace("  ", " ") for name in names]
    )


def _checked(text: str | None) -> str:
    text = text or ""
    if len(text) > _MAX_TEXT_CHARS:
        raise InputError(
            f"This prompt has {len(text):,} characters; shorten it to {_MAX_TEXT_CHARS:,} or less."
        )
    text = _UNWANTED.sub("", text.replace("\r\n", "\n").replace("\r", "\n")).strip()
    if not _has_word(text):
        raise InputError("There are no words here; name what to look for, such as “dog; red kite”.")
    return text


def _collapsed(text: str) -> str:
    return " ".join(text.split())


def _has_word(text: str) -> bool:
    return any(character.isalnum() for character in text)


def _looks_like_list(text: str) -> bool:
    if any(_has_word(inside) for inside in _MARK.findall(text)):
        return False
    if re.search(r"[;\n]|\s\.(?=\s|$)", text):  # no prose has a space before its full stop
        return True
    # "a dog. a kite." lists, "A dog runs. It barks." tells: names are one noun phrase each.
    pieces = [piece.strip() for piece in re.split(_FULL_STOP, text) if _has_word(piece)]
    if not re.search(_FULL_STOP, text) or len(max(pieces, key=len)) > MAX_PHRASE_CHARS:
        return False
    return all(noun_phrases(piece, "rules") == [(0, len(piece))] for piece in pieces)


def _labels(text: str) -> list[str]:
    """The names of a list, each once whatever its capitals, by the strongest separator there is."""
    separators = (r"[;\n]", _FULL_STOP, ",")
    separator = next((s for s in separators if re.search(s, text.rstrip(".,"))), _FULL_STOP)
    names: dict[str, str] = {}
    for part in re.split(separator, text):
        name = _collapsed(part).strip(" .")
        if _has_word(name):
            names.setdefault(name.casefold(), name)
    if len(names) > MAX_LABELS:
        raise InputError(f"These are {len(names):,} names; give at most {MAX_LABELS:,} at once.")
    for name in names.values():
        _check_length(name)
    return list(names.values())


def _check_length(name: str) -> None:
    if len(name) > MAX_PHRASE_CHARS:
        raise InputError(
            f"The phrase “{name[:30]}…” has {len(name):,} characters; shorten it to "
            f"{MAX_PHRASE_CHARS}."
        )


def _caption_prompt(text: str, parser: str) -> Prompt:
    text = _collapsed(_collapsed(text).replace("[ ", " [").replace(" ]", "] "))
    if len(text) > MAX_CAPTION_CHARS:
        raise InputError(
            f"This caption has {len(text):,} characters; shorten it to {MAX_CAPTION_CHARS:,}, or "
            "separate names by semicolons."
        )
    caption, spans = _read_marks(text)
    spans = spans or noun_phrases(caption, parser) or [_whole(caption)]
    for begin, end in spans:
        _check_length(caption[begin:end])
    return Prompt.from_spans(caption, spans)


def _read_marks(text: str) -> tuple[str, list[Span]]:
    """The caption without the brackets of its `[marks]`, and where those stood."""
    caption, last, spans = "", 0, []
    for match in _MARK.finditer(text):
        caption += text[last : match.start()]
        inside = match.group(1)
        if not _has_word(inside):
            inside = match.group()
        else:
            spans.append((len(caption), len(caption) + len(inside)))
        caption += inside
        last = match.end()
    return caption + text[last:], spans


def _whole(caption: str) -> Span:
    """A caption without a noun phrase ("red") is one itself, but for punctuation around it."""
    places = [place for place, character in enumerate(caption) if character.isalnum()]
    return places[0], places[-1] + 1


# -------------------------------------------------------------------------------------- tokenising


@dataclass(frozen=True)
class Word:
    """A whole word of a caption: `caption[begin:end]` is `text`."""

    text: str
    begin: int
    end: int


@dataclass(frozen=True)
class TokenizedPrompt:
    """A prompt in the network's terms: T tokens with [CLS] and [SEP], L phrases.

    Attributes:
        input_ids, attention_mask: (T,) int64; nothing is padded, so the mask is all ones.
        label_token_pairs: (P, 2) int64 rows (label, token); labels count from 1, tokens from 0. A
            phrase without a token (a control character) has no row.
        positive: (L, T) float32, 1 / (tokens of the phrase + 1e-6) at its tokens, else 0: the
            product with token probabilities is the phrase's score.
        words: the caption's W words, punctuation left out.
        members: (T, W) float32, 1 where the token is a piece of the word, else 0.
    """

    input_ids: Tensor
    attention_mask: Tensor
    label_token_pairs: Tensor
    positive: Tensor
    words: tuple[Word, ...]
    members: Tensor


def wordpiece(directory: Path | None = None) -> Tokenizer:
    """bert-base-uncased's tokeniser, without truncation and padding.

    What looks like a special token in a text, "[SEP]", is read as plain text.

    Args:
        directory: a folder with tokenizer.json; None is MiniLM's, whose vocabulary is BERT's.

    Raises:
        WeightsError: there is no such file, or it is none.
    """
    path = (directory or minilm_directory()) / "tokenizer.json"
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the Rust library raises plain Exception
        raise WeightsError(f"{path} is no tokeniser; restore the model's folder.") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True
    return tokenizer


def tokenize(prompt: Prompt, tokenizer: Tokenizer, max_tokens: int = MAX_TOKENS) -> TokenizedPrompt:
    """The tokens of a prompt and of its phrases.

    Raises:
        InputError: the caption has more than `max_tokens` tokens; see `chunked`.
    """
    encoding = tokenizer.encode(prompt.caption)
    if len(encoding.ids) > max_tokens:
        raise InputError(f"This text has {len(encoding.ids):,} tokens; shorten it to {max_tokens}.")
    ids = torch.tensor(encoding.ids)
    pairs: list[tuple[int, int]] = []
    positive = torch.zeros(len(prompt.phrases), len(ids))
    for index, phrase in enumerate(prompt.phrases):
        tokens = _tokens_of(encoding, phrase.begin, phrase.end)
        pairs += [(index + 1, token) for token in tokens]
        positive[index, list(tokens)] = 1 / (len(tokens) + 1e-6)
    words, members = _words_of(encoding, prompt.caption)
    return TokenizedPrompt(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        label_token_pairs=torch.tensor(pairs, dtype=torch.long).reshape(-1, 2),
        positive=positive,
        words=words,
        members=members,
    )


def chunked(
    prompt: Prompt,
    tokenizer: Tokenizer,
    max_tokens: int = MAX_TOKENS,
    max_labels: int = MAX_LABELS_AT_ONCE,
) -> list[Prompt]:
    """The prompt in as few equal parts as the network can read, each a piece of its caption.

    Every phrase is in one part; a part's `first` and `offset` tell which it is in the whole. A
    prompt without phrases has no parts.

    Raises:
        InputError: a single phrase has too many tokens.
    """
    count = len(prompt.phrases)
    tokens = len(tokenizer.encode(prompt.caption).ids)
    if count and count <= max_labels and tokens <= max_tokens:
        return [prompt]
    parts = max(-(-count // max_labels), -(-tokens // max_tokens))
    while count:
        parts = min(parts, count)
        cuts = [count * part // parts for part in range(parts + 1)]
        pieces = [_part(prompt, a, b) for a, b in pairwise(cuts)]
        lengths = [len(tokenizer.encode(piece.caption).ids) for piece in pieces]
        if max(lengths) <= max_tokens:
            return pieces
        if parts == count:
            name = prompt.phrases[lengths.index(max(lengths))].text
            raise InputError(
                f"The phrase “{name[:30]}…” has {max(lengths):,} tokens; shorten it to {max_tokens}."
            )
        parts += 1
    return []


def _part(prompt: Prompt, first: int, end: int) -> Prompt:
    """Phrases [first, end) with the piece of the caption that they stand in."""
    phrases = prompt.phrases[first:end]
    begin = min(phrase.begin for phrase in phrases)
    caption = prompt.caption[begin : max(phrase.end for phrase in phrases)]
    moved = [replace(p, begin=p.begin - begin, end=p.end - begin) for p in phrases]
    return Prompt(caption, tuple(moved), prompt.kind, prompt.first + first, prompt.offset + begin)


def _tokens_of(encoding: Encoding, begin: int, end: int) -> range:
    """From the first token at or just after `begin` to the last at or just before `end - 1`.

    A place between words has no token; like the reference, look up to two characters further in.
    """
    starts = (encoding.char_to_token(begin + step) for step in range(3))
    ends = (encoding.char_to_token(end - 1 - step) for step in range(3) if end - 1 - step >= 0)
    first = next((token for token in starts if token is not None), None)
    last = next((token for token in ends if token is not None), None)
    return range(0) if first is None or last is None else range(first, last + 1)


def _words_of(encoding: Encoding, caption: str) -> tuple[tuple[Word, ...], Tensor]:
    """Word pieces joined to words; the words, and (T, W) which tokens they consist of."""
    pieces: dict[int, list[int]] = {}
    for token, word in enumerate(encoding.word_ids):
        if word is not None:
            pieces.setdefault(word, []).append(token)
    words, columns = [], []
    for tokens in pieces.values():
        begin, end = encoding.offsets[tokens[0]][0], encoding.offsets[tokens[-1]][1]
        if _has_word(caption[begin:end]):
            words.append(Word(caption[begin:end], begin, end))
            columns.append(tokens)
    members = torch.zeros(len(encoding.ids), len(words))
    for place, tokens in enumerate(columns):
        members[tokens, place] = 1
    return tuple(words), members
