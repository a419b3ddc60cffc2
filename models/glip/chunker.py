"""Noun phrases of an English caption, with their places: "two small dogs chase a red kite" names
"two small dogs" and "a red kite".

The reference asks NLTK's tagger, whose data is a download, for `NP: {<DT>?<JJ.*>*<NN.*>+}`. Here
short rules serve offline: captions are made of few constructions, and what ends a noun phrase is
nearly always one of a few hundred function words, a verb that agrees with its subject, or a comma.
Where spaCy or NLTK is installed together with its English model, `noun_phrases` asks it instead.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeAlias

Span: TypeAlias = tuple[int, int]

_WORD = re.compile(r"[^\W_]+(?:['’\-][^\W_]+)*")


def _list(text: str) -> list[str]:
    return text.split()


def _set(text: str) -> frozenset[str]:
    return frozenset(text.split())


_ARTICLES = _set("a an the")
_DETERMINERS = _ARTICLES | _set(
    "this these those his her its their my your our each every some any no another"
)
_BEFORE_DETERMINERS = _set("all both half")
_PLURAL_DETERMINERS = _set("these those several many few all both")
_PRONOUNS = _set("""
    i you he she it we they me him us them who whom which that what where when there here something
    someone nothing everyone himself herself itself themselves other others
""")
_PREPOSITIONS = _set("""
    of in on at by with without from to into onto over above under below beneath underneath behind
    before after between among beside besides near next inside outside through across along around
    against toward towards up down off out about during for as like than via upon within atop past
    amid
""")
_CONJUNCTIONS = _set("and or but nor while because although if so then not also")
_AUXILIARIES = _set("""
    is are was were be been being am has have had having does do did done can could will would shall
    should may might must seems appears looks isn't aren't
""")
_BREAKS = _PRONOUNS | _PREPOSITIONS | _CONJUNCTIONS | _AUXILIARIES
_SUBJECTS = _set("i you he she it we they who which that to") | _AUXILIARIES

_ADJECTIVES = _set("""
    red orange yellow green turquoise blue purple pink brown black white gray grey golden silver
    beige teal dark bright pale colorful colourful big large huge giant small little tiny tall short
    long wide narrow thick thin old young new round square flat empty full open hot cold wet dry
    clean dirty cute happy sad angry beautiful pretty ugly wooden plastic striped spotted furry
    fluffy hairy shiny fresh ripe raw
""")
_POSITIONS = _set("""
    left right top bottom side front back middle center centre corner edge distance background
    foreground upper lower
""")
# "a picture of two dogs" asks for dogs.
_DEPICTIONS = _set(
    "picture image photo photograph painting drawing illustration scene view shot close-up"
)
_QUANTITIES = {
    "couple": 2, "pair": 2, "pairs": None, "trio": 3, "dozen": 12, "dozens": None, "lot": None,
    "lots": None, "bunch": None, "number": None, "group": None, "plenty": None,
}  # fmt: skip

_UNITS = _list("""
    zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen
    sixteen seventeen eighteen nineteen
""")
_TENS = _list("twenty thirty forty fifty sixty seventy eighty ninety")
_NUMBERS = {
    **{word: value for value, word in enumerate(_UNITS)},
    **{word: 10 * place for place, word in enumerate(_TENS, 2)},
    **{
        f"{ten}-{_UNITS[unit]}": 10 * place + unit
        for place, ten in enumerate(_TENS, 2)
        for unit in range(1, 10)
    },
    "both": 2, "single": 1, "dozen": 12, "hundred": 100,
}  # fmt: skip

_PLURALS = {
    "people": "person", "men": "man", "women": "woman", "children": "child", "mice": "mouse",
    "feet": "foot", "teeth": "tooth", "geese": "goose", "oxen": "ox", "knives": "knife",
    "wolves": "wolf", "leaves": "leaf", "loaves": "loaf", "shelves": "shelf", "scarves": "scarf",
    "hooves": "hoof", "calves": "calf", "elves": "elf", "wives": "wife", "thieves": "thief",
    "halves": "half", "potatoes": "potato", "tomatoes": "tomato", "heroes": "hero",
    "mangoes": "mango", "buses": "bus", "cacti": "cactus", "sheep": "sheep", "deer": "deer",
    "cattle": "cattle", "police": "police", "movies": "movie", "cookies": "cookie",
    "brownies": "brownie", "zombies": "zombie", "selfies": "selfie", "axes": "axe",
}  # fmt: skip
_ONE_IN_PAIRS = _set("""
    glasses sunglasses spectacles eyeglasses scissors trousers pants jeans shorts binoculars pliers
    tongs headphones tights leggings goggles
""")

# Verbs that captions use; in each the third person, the participle and the past are derived.
_VERBS = _list("""
    walk run jump play look lick chase follow carry drink throw kick climb dance cook lean rest wave
    push pull touch reach pose smile laugh wait surf crawl graze chew sniff bark perch gallop hover
    swing paddle cross kneel enjoy watch hold ride eat sit stand wear lie fly swim sleep catch see
    feed drive sing give take make fall
""")
_IRREGULAR_PASTS = _list("""
    held rode ridden ate eaten sat stood wore worn lay lain flew flown swam slept caught seen fed
    drove driven sang gave given took taken made fell fallen threw thrown ran drank knelt swung
""")
_NOUNS_IN_ING = _set("""
    king ring wing thing string spring swing sling building ceiling painting earring pudding wedding
    clothing lightning morning evening herring dumpling duckling seedling gosling viking icing
    stocking railing awning wrapping stuffing frosting sibling sterling bling
""")
_NOT_PAST = _set("""
    bed shed sled red seed weed reed breed speed steed moped hundred bobsled feed naked wicked
    crooked rugged ragged jagged seabed flowerbed biped
""")


def _forms() -> dict[str, str]:
    """Every form of `_VERBS` -> "base", "s", "ing" or "past"."""
    forms = dict.fromkeys(_IRREGULAR_PASTS, "past")
    for base in _VERBS:
        stem = base[:-1] if base.endswith("e") and base != "see" else base
        short = re.fullmatch(r"[^aeiou]*[aeiou][bgmnpt]", base) is not None  # run, running
        doubled = base + base[-1] if short else stem
        forms[base] = "base"
        forms[_third_person(base)] = "s"
        forms[doubled + "ing"] = "ing"
        past = base[:-1] + "i" if re.search(r"[^aeiou]y$", base) else doubled
        forms.setdefault(past + "ed", "past")
    return forms | {"lying": "ing", "swinging": "ing"}


def _third_person(base: str) -> str:
    if re.search(r"[^aeiou]y$", base):
        return base[:-1] + "ies"
    return base + ("es" if base.endswith(("s", "x", "ch", "sh")) else "s")


_VERB_FORMS = _forms()


@dataclass(frozen=True)
class _Word:
    """A word in lower case, its place, and whether punctuation stands before it."""

    text: str
    begin: int
    end: int
    after_mark: bool


# ---------------------------------------------------------------------------------- what words say


def is_plural(word: str) -> bool:
    """Whether an English noun names several things: "dogs", "people"; not "glass" or "bus"."""
    word = word.lower()
    return word in _PLURALS or (
        len(word) > 2 and word.endswith("s") and not word.endswith(("ss", "us", "is", "'s", "’s"))
    )


def singular(word: str) -> str:
    """An English noun's singular: "dogs" -> "dog"; what has none ("glasses") stays."""
    lower = word.lower()
    if lower in _PLURALS:
        return _PLURALS[lower]
    if not is_plural(lower) or lower in _ONE_IN_PAIRS:
        return lower
    if lower.endswith("ies") and len(lower) > 4:
        return lower[:-3] + "y"
    if lower.endswith(("ches", "shes", "xes", "sses", "zzes")):
        return lower[:-2]
    return lower[:-1]


def count_of(phrase: str) -> int | None:
    """How many things a noun phrase says there are: 2 for "the two dogs", "a couple of dogs".

    None where no number is said; an article is no number.
    """
    words = [word.text for word in _words(phrase)]
    while words and (words[0] in _DETERMINERS or words[0] == "all"):
        words = words[1:]
    if not words:
        return None
    if words[0].isdecimal():
        return int(words[0]) if len(words[0]) <= 4 else None
    if words[0] in _QUANTITIES and words[1:2] == ["of"]:
        return None if words[-1] in _ONE_IN_PAIRS else _QUANTITIES[words[0]]
    return _NUMBERS.get(words[0])


def head_of(phrase: str) -> str:
    """The noun that a phrase is about: "dogs" of "two small dogs", "face" of "face with a hat"."""
    words = [word.text for word in _words(phrase)]
    for place, word in enumerate(words):
        ends = word in _PREPOSITIONS and place > 0
        if ends and not (word == "of" and words[place - 1] in _QUANTITIES):
            return words[place - 1]
    return words[-1] if words else phrase.strip().lower()


# ------------------------------------------------------------------------------------------- rules


def rule_phrases(caption: str) -> list[Span]:
    """Noun phrases as [begin, end) character spans, in order, never overlapping; maybe none."""
    found: list[Span] = []
    words = _words(caption)
    place = 0
    while place < len(words):
        chunk = _chunk_at(words, place)
        if chunk and _names_something(words, place, len(chunk)):
            found.append((chunk[0].begin, chunk[-1].end))
        place += len(chunk)
        if not chunk or _verb_follows(words, place, chunk):
            place += 1
    return found


def _words(text: str) -> list[_Word]:
    words, last = [], 0
    for match in _WORD.finditer(text):
        mark = bool(text[last : match.start()].strip())
        words.append(_Word(match.group().lower(), match.start(), match.end(), mark))
        last = match.end()
    return words


def _chunk_at(words: list[_Word], start: int) -> list[_Word]:
    """The longest run of words from `start` on that may be one noun phrase; maybe none."""
    chunk: list[_Word] = []
    for place in range(start, len(words)):
        word = words[place]
        joins = bool(chunk) and _joins_adjectives(words, place, chunk)
        if chunk and word.after_mark and not joins:
            break
        counts_on = word.text == "of" and bool(chunk) and chunk[-1].text in _QUANTITIES
        if not (joins or counts_on) and _ends_phrase(words, place, chunk):
            break
        chunk.append(word)
    while chunk and chunk[-1].text in _BREAKS:  # "a couple of them"
        chunk.pop()
    return chunk


def _ends_phrase(words: list[_Word], place: int, chunk: list[_Word]) -> bool:
    text = words[place].text
    if text in _BREAKS or _is_adverb(text, words, place, chunk):
        return True
    if text in _DETERMINERS:
        return bool(chunk) and chunk[-1].text not in _BEFORE_DETERMINERS | {"of"}
    if (text in _NUMBERS or text.isdecimal()) and _has_noun(chunk):
        return chunk[-1].text != "of"
    return _is_verb(words, place, chunk)


def _verb_follows(words: list[_Word], place: int, chunk: list[_Word]) -> bool:
    follows = place < len(words) and not words[place].after_mark
    return follows and _is_verb(words, place, chunk)


def _joins_adjectives(words: list[_Word], place: int, chunk: list[_Word]) -> bool:
    """ "a black and white cat", "a big, red ball": the link between two adjectives of one noun."""
    if chunk[-1].text not in _ADJECTIVES:
        return False
    word = words[place]
    if word.text == "and" and not word.after_mark:
        return _plain_adjective(words, place + 1) and _is_content(words, place + 2)
    return word.after_mark and word.text in _ADJECTIVES and _is_content(words, place + 1)


def _plain_adjective(words: list[_Word], place: int) -> bool:
    return place < len(words) and not words[place].after_mark and words[place].text in _ADJECTIVES


def _is_content(words: list[_Word], place: int) -> bool:
    """Whether a noun or adjective stands at `place`, with no punctuation before it."""
    if place >= len(words) or words[place].after_mark:
        return False
    text = words[place].text
    return not (text in _BREAKS or text in _DETERMINERS or text in _NUMBERS or text.isdecimal())


def _has_noun(chunk: list[_Word]) -> bool:
    """Whether the last word may be a noun, so that a verb may follow."""
    if not chunk:
        return False
    text = chunk[-1].text
    modifiers = _DETERMINERS | _BEFORE_DETERMINERS | _PLURAL_DETERMINERS | _ADJECTIVES
    if text in modifiers or text in _NUMBERS or text == "of":
        return False
    return not (text.isdecimal() or _names_manner(text))


def _is_adverb(text: str, words: list[_Word], place: int, chunk: list[_Word]) -> bool:
    """ "a dog happily"; but "a very large dog", "a brightly coloured kite" go on."""
    if not _names_manner(text):
        return False
    return not (chunk and not _has_noun(chunk) and _is_content(words, place + 1))


def _names_manner(text: str) -> bool:
    """ "happily"; not "butterfly", "family" or "friendly"."""
    others = ("fly", "lly", "mily", "lily", "ugly", "elly", "rly", "ely", "ndly", "nkly")
    return text == "very" or (text.endswith("ly") and not text.endswith(others))


def _is_verb(words: list[_Word], place: int, chunk: list[_Word]) -> bool:
    """Whether the word is a verb rather than a part of the phrase, by agreement with its subject."""
    text = words[place].text
    known = _VERB_FORMS.get(text)
    form = known or _guessed_form(text)
    if form is None:
        return False
    goes_on = _is_content(words, place + 1)
    if not chunk:
        return _opens_with_verb(words, place, form, known is not None, goes_on)
    if not _has_noun(chunk):
        return False
    if form == "ing":
        return True
    if form == "past":
        return known is not None or not goes_on
    several = is_plural(chunk[-1].text)
    if form == "base":
        return several
    return not several and not _says_several(chunk)


def _opens_with_verb(words: list[_Word], place: int, form: str, known: bool, goes_on: bool) -> bool:
    """At the place where a phrase may begin: "is running", ", holding a kite", "they run"."""
    before = words[place - 1].text if place else ""
    if before in _SUBJECTS and not words[place].after_mark:
        return form != "past" or not goes_on
    if form in ("base", "s"):
        return known and _names_manner(before)  # "happily licks"
    return not goes_on or (known and form == "ing" and place > 0)


def _guessed_form(text: str) -> str | None:
    if text.endswith("ing") and len(text) > 5 and text not in _NOUNS_IN_ING:
        return "ing"
    if text.endswith("ed") and len(text) > 4 and text not in _NOT_PAST | _ADJECTIVES:
        return "past"
    return None


def _says_several(chunk: list[_Word]) -> bool:
    """ "two soft ..." still waits for its plural."""
    return any(word.text in _PLURAL_DETERMINERS or _NUMBERS.get(word.text, 1) > 1 for word in chunk)


def _names_something(words: list[_Word], start: int, length: int) -> bool:
    chunk = [word.text for word in words[start : start + length]]
    bare = [
        text
        for text in chunk
        if text not in _DETERMINERS and text not in _NUMBERS and not text.isdecimal()
    ]
    if not bare or bare[-1] in _BEFORE_DETERMINERS | _PLURAL_DETERMINERS:
        return False
    if all(text in _POSITIONS for text in bare):  # "to the left of"
        return False
    following = words[start + length].text if start + length < len(words) else ""
    if start <= 2 and bare[-1] in _DEPICTIONS and following in ("of", "with", "showing"):
        return False
    # "the sky is blue"; but "an orange" is a thing.
    return chunk[0] in _DETERMINERS or any(text not in _ADJECTIVES for text in bare)


# --------------------------------------------------------------------------------- better parsers

SPACY_MODEL = "en_core_web_sm"
_GRAMMAR = "NP: {<DT>?<CD>*<JJ.*>*<NN.*>+}"
_TOKEN = re.compile(rf"{_WORD.pattern}|[^\w\s]|_")


@lru_cache(maxsize=1)
def _spacy_model() -> Any:
    spacy = importlib.import_module("spacy")
    return spacy.load(SPACY_MODEL)


def spacy_phrases(caption: str) -> list[Span]:
    """spaCy's noun chunks without bare pronouns.

    Raises ImportError without spaCy, OSError without its model `SPACY_MODEL`.
    """
    chunks = _spacy_model()(caption).noun_chunks
    return [(chunk.start_char, chunk.end_char) for chunk in chunks if chunk.root.pos_ != "PRON"]


def nltk_phrases(caption: str) -> list[Span]:
    """The reference's grammar over NLTK's tags, number words included, places kept.

    Raises ImportError without NLTK, LookupError without its tagger's data.
    """
    nltk = importlib.import_module("nltk")
    tokens = list(_TOKEN.finditer(caption))
    tree = nltk.RegexpParser(_GRAMMAR).parse(nltk.pos_tag([token.group() for token in tokens]))
    found: list[Span] = []
    place = 0
    for node in tree:
        length = len(node) if isinstance(node, nltk.Tree) else 1
        if isinstance(node, nltk.Tree):
            found.append((tokens[place].start(), tokens[place + length - 1].end()))
        place += length
    return found


PARSERS: dict[str, Callable[[str], list[Span]]] = {
    "spacy": spacy_phrases,
    "nltk": nltk_phrases,
    "rules": rule_phrases,
}


def noun_phrases(caption: str, parser: str = "best") -> list[Span]:
    """Noun phrases as [begin, end) character spans of `caption`, in order.

    Args:
        parser: "rules", which is always there; or "best", spaCy or NLTK where one is installed
            with its model, else the rules.
    """
    if parser == "best":
        for name in ("spacy", "nltk"):
            try:
                return PARSERS[name](caption)
            except (ImportError, OSError, LookupError):
                continue  # not installed, or without its model
    return PARSERS["rules"](caption)
