"""Prompts: what is read as a phrase, which tokens it has, and how long prompts are cut."""

from __future__ import annotations

import contextlib
import random
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from models.errors import InputError, WeightsError
from models.glip import chunker
from models.glip.chunker import count_of, head_of, is_plural, noun_phrases, rule_phrases, singular
from models.glip.prompts import (
    MAX_LABELS,
    Prompt,
    chunked,
    evaluation_prompt,
    list_prompt,
    read_prompt,
    tokenize,
)
from tests.glip_service_support import tokenizer

Golden = dict[str, NDArray[Any]]


@pytest.fixture(scope="module")
def golden(request: pytest.FixtureRequest) -> Golden:
    file: Path = request.config.getoption("--golden") / "glip" / "functions.npz"
    with np.load(file) as arrays:
        return {k: arrays[k] for k in arrays.files if k.startswith(("prompt_", "eval_", "token_"))}


# -------------------------------------------------------------------------- the reference's numbers


def test_tokens_and_phrases_are_the_references(golden: Golden) -> None:
    for number in range(int(golden["prompt_count"])):
        case = {
            k.split("_", 2)[2]: v for k, v in golden.items() if k.startswith(f"prompt_{number}_")
        }
        prompt = Prompt.from_spans(str(case["caption"]), case["spans"].tolist())
        tokens = tokenize(prompt, tokenizer())
        assert tokens.input_ids.tolist() == case["input_ids"].tolist()
        assert tokens.label_token_pairs.tolist() == case["pairs"].tolist()
        assert prompt.names == tuple(map(str, case["labels"]))
        length = len(case["input_ids"])
        wanted = case["positive_map"][:, :length]
        np.testing.assert_allclose(tokens.positive, wanted, rtol=2e-7)  # one bit of float32
        assert not case["positive_map"][:, length:].any()
        assert tokens.attention_mask.tolist() == [1] * length


@pytest.mark.parametrize("number", [0, 1])
def test_evaluation_prompts_are_the_references(golden: Golden, number: int) -> None:
    prompt = evaluation_prompt([str(label) for label in golden[f"eval_{number}_labels"]])
    assert prompt.caption == str(golden[f"eval_{number}_caption"])
    pairs = tokenize(prompt, tokenizer()).label_token_pairs
    assert pairs.tolist() == golden[f"eval_{number}_pairs"].tolist()


def test_positive_maps_make_the_references_scores(
    golden: Golden, request: pytest.FixtureRequest
) -> None:
    """By hand, since the stored pairs belong to no text: the map is what it is multiplied with."""
    file = request.config.getoption("--golden") / "glip" / "functions.npz"
    with np.load(file) as arrays:
        wanted = torch.from_numpy(arrays["label_scores_mean"])
    probabilities = torch.from_numpy(golden["token_scores"])  # (7, 32)
    # A text whose labels have the tokens of the stored pairs: 1 2 | 4 | 6 7 8 9.
    prompt = evaluation_prompt(["red dog", "cat", "very big old tree"])
    tokens = tokenize(prompt, tokenizer())
    assert tokens.label_token_pairs.tolist() == golden["token_pairs"].tolist()
    scores = probabilities[:, : len(tokens.input_ids)] @ tokens.positive.T.double()
    torch.testing.assert_close(scores, wanted, rtol=1e-5, atol=0)


# ------------------------------------------------------------------------------------------ captions

CAPTIONS = {
    "two small dogs and a red kite above them": ["two small dogs", "a red kite"],
    "a cat on a catalog": ["a cat", "a catalog"],
    "a cat chases a cat": ["a cat", "a cat"],
    "A snowboarder's exoskeleton, photographed in Saskatchewan!": [
        "A snowboarder's exoskeleton", "Saskatchewan",
    ],
    "two dogs and a red ball on the green grass": ["two dogs", "a red ball", "the green grass"],
    "a man riding a horse on the beach": ["a man", "a horse", "the beach"],
    "two soft drinks on a table": ["two soft drinks", "a table"],
    "a dog drinks water": ["a dog", "water"],
    "two dogs drink water": ["two dogs", "water"],
    "birds fly above the old wooden fishing boat": ["birds", "the old wooden fishing boat"],
    "a black and white cat sits on a big, red sofa": ["a black and white cat", "a big, red sofa"],
    "the dog to the left of the tree": ["the dog", "the tree"],
    "a picture of two dogs": ["two dogs"],
    "there is a woman wearing glasses and a hat": ["a woman", "glasses", "a hat"],
    "a couple of dogs in front of a house": ["a couple of dogs", "a house"],
    "a swimming pool": ["a swimming pool"],
    "a man dressed in red": ["a man"],
    "the sky is blue": ["the sky"],
    "an orange": ["an orange"],
    "apple, dog, kite": ["apple", "dog", "kite"],
    "a furry spotted dog": ["a furry spotted dog"],
    "all the dogs and both cats": ["all the dogs", "both cats"],
    "a very large dog happily licks a small butterfly": ["a very large dog", "a small butterfly"],
    "Café crème brûlée on a 3-legged table": ["Café crème brûlée", "a 3-legged table"],
    "she is holding his umbrella": ["his umbrella"],
    "a girl brushing her teeth": ["a girl", "her teeth"],
    "a gray slightly frowning face": ["a gray slightly frowning face"],
    "the two men in the middle": ["the two men"],
    "a traffic light hanging over a busy street": ["a traffic light", "a busy street"],
}  # fmt: skip


@pytest.mark.parametrize("caption", CAPTIONS)
def test_the_rules_find_noun_phrases(caption: str) -> None:
    spans = rule_phrases(caption)
    assert [caption[begin:end] for begin, end in spans] == CAPTIONS[caption]


def test_the_rules_never_overlap_nor_leave_the_text() -> None:
    chance = random.Random(0)
    words = [w for caption in CAPTIONS for w in caption.split()] + [
        ",",
        ";",
        "[",
        "é",
        "'",
        "7",
        "",
    ]
    for _ in range(500):
        caption = " ".join(chance.choices(words, k=chance.randint(0, 12)))
        last = 0
        for begin, end in rule_phrases(caption):
            assert last <= begin < end <= len(caption)
            last = end


@pytest.mark.parametrize(
    ("phrase", "count", "head", "one"),
    [
        ("two small dogs", 2, "dogs", "dog"),
        ("the 12 boats", 12, "boats", "boat"),
        ("a red kite", None, "kite", "kite"),
        ("one Dog", 1, "dog", "dog"),
        ("both women", 2, "women", "woman"),
        ("a couple of dogs", 2, "dogs", "dog"),
        ("a dozen eggs", 12, "eggs", "egg"),
        ("twenty-one knives", 21, "knives", "knife"),
        ("a pair of glasses", None, "glasses", "glasses"),
        ("several foxes", None, "foxes", "fox"),
        ("face with tears of joy", None, "face", "face"),
        ("three cherries", 3, "cherries", "cherry"),
        ("a 3-legged table", None, "table", "table"),
        ("99999 things", None, "things", "thing"),
        ("two", 2, "two", "two"),
    ],
)
def test_number_words_and_plurals(phrase: str, count: int | None, head: str, one: str) -> None:
    assert (count_of(phrase), head_of(phrase), singular(head_of(phrase))) == (count, head, one)


@pytest.mark.parametrize(
    ("word", "several"),
    [("dogs", True), ("people", True), ("bus", False), ("glass", False), ("tennis", False), ("Dog's", False)],
)  # fmt: skip
def test_plurals(word: str, several: bool) -> None:
    assert is_plural(word) == several


def test_a_chip_says_how_many() -> None:
    two, kite = read_prompt("two small dogs and a red kite", parser="rules").phrases
    assert (two.chip, two.count, kite.chip) == ("two small dogs (2 × dog)", 2, "a red kite")


def test_marks_are_the_phrases() -> None:
    prompt = read_prompt("the [ two dogs] chase[ it ]and a cat []")
    assert prompt.caption == "the two dogs chase it and a cat []"
    assert prompt.names == ("two dogs", "it")
    assert [prompt.caption[p.begin : p.end] for p in prompt.phrases] == ["two dogs", "it"]
    assert prompt.kind == "caption"


def test_a_caption_without_a_noun_is_one_phrase() -> None:
    prompt = read_prompt("“red!”")
    assert [(p.text, p.begin, p.end) for p in prompt.phrases] == [("red", 1, 4)]


@pytest.mark.parametrize(
    "text", ["two dogs and a red kite", "apple; dog; red kite", "[it] [runs]."]
)
def test_a_prompt_can_be_edited_as_text(text: str) -> None:
    prompt = read_prompt(text)
    assert read_prompt(prompt.marked()) == prompt


# --------------------------------------------------------------------------------------------- lists


@pytest.mark.parametrize(
    ("text", "mode", "names"),
    [
        ("apple; dog; red kite", "auto", ["apple", "dog", "red kite"]),
        ("apple\r\n\r\n dog \nkite", "auto", ["apple", "dog", "kite"]),
        ("person . traffic light . dog . ", "auto", ["person", "traffic light", "dog"]),
        ("apple. dog. kite.", "auto", ["apple", "dog", "kite"]),
        ("running . dog", "auto", ["running", "dog"]),
        ("a dog;", "auto", ["a dog"]),
        ("apple, dog", "list", ["apple", "dog"]),
        ("red, ripe apple; dog", "list", ["red, ripe apple", "dog"]),
        ("St. Bernard; dog", "list", ["St. Bernard", "dog"]),
        ("3.5 inch disk. dog", "list", ["3.5 inch disk", "dog"]),
        ("two dogs run", "list", ["two dogs run"]),
        ("dog; Dog;  dog ; cat; DOG.", "list", ["dog", "cat"]),
        ("<b>dog</b>; <script>; [cat]", "list", ["<b>dog</b>", "<script>", "[cat]"]),
        (";;dog;...;!;", "list", ["dog"]),
    ],
)
def test_lists(text: str, mode: str, names: list[str]) -> None:
    prompt = read_prompt(text, mode)
    assert prompt.kind == "list"
    assert list(prompt.names) == names
    assert prompt.caption == ". ".join(names)
    assert all(prompt.caption[p.begin : p.end] == p.text for p in prompt.phrases)


@pytest.mark.parametrize(
    "text",
    ["a dog", "A dog runs. It barks.", "apple, dog", "[a dog]; [a cat]", "a 3.5 inch disk", "Dr. Who"],
)  # fmt: skip
def test_what_automatic_reads_as_a_caption(text: str) -> None:
    assert read_prompt(text).kind == "caption"


# ------------------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("text", "mode", "told"),
    [
        (None, "auto", "no words"),
        ("", "auto", "no words"),
        (" \n\t ", "list", "no words"),
        ("?!; ... , --", "auto", "no words"),
        ("\x00\x1b\u202e", "auto", "no words"),
        ("[]", "caption", "no words"),
        ("dog " * 2500, "caption", "10,000|9,999"),
        ("d" * 10_000, "list", "10,000 characters"),
        ("d" * 10_000, "auto", "10,000 characters"),
        ("a " + "d" * 300, "caption", "302 characters"),
        ("\n".join(f"thing {n}" for n in range(2000)), "auto", "2,000 names; give at most 1,500"),
        ("a" * 200_000, "auto", "200,000 characters"),
        ("dog", "poem", "auto, list, caption"),
    ],
)
def test_bad_input_gets_a_sentence(text: str | None, mode: str, told: str) -> None:
    with pytest.raises(InputError, match=told):
        read_prompt(text, mode)


@pytest.mark.parametrize(
    "text", ["[" + "a" * 99_000, "a" + " " * 99_000 + "b", "a drinks " * 11_000 + ".", "[" * 99_000 + "a"]
)  # fmt: skip
def test_no_text_takes_long(text: str) -> None:
    start = time.thread_time()
    with contextlib.suppress(InputError):
        read_prompt(text)
    assert time.thread_time() - start < 0.5


def test_the_most_names_are_read() -> None:
    text = ";".join(f"thing {number}" for number in range(MAX_LABELS))
    assert len(read_prompt(text).phrases) == MAX_LABELS


def test_unwanted_characters_leave_no_trace() -> None:
    assert read_prompt("a \x07red\u202e dog").caption == "a red dog"


# --------------------------------------------------------------------------------------------- tokens


def test_special_tokens_in_a_text_are_plain_text() -> None:
    tokens = tokenize(read_prompt("[SEP]; <b>dog</b> [MASK]", "list"), tokenizer())
    ids = tokens.input_ids.tolist()
    assert (ids.count(101), ids.count(102), ids.count(103)) == (1, 1, 0)


def test_words_join_their_pieces() -> None:
    tokens = tokenize(read_prompt("[A snowboarder]'s café, 🍎!"), tokenizer())
    assert [word.text for word in tokens.words] == ["A", "snowboarder", "s", "café"]
    # [CLS] a snow ##board ##er ' s cafe , [UNK] ! [SEP]
    pieces = [column.nonzero().flatten().tolist() for column in tokens.members.T]
    assert pieces == [[1], [2, 3, 4], [6], [7]]


def test_too_many_tokens_are_never_cut_silently() -> None:
    prompt = list_prompt(["dog"] * 200)
    with pytest.raises(InputError, match="401 tokens"):
        tokenize(prompt, tokenizer())


def test_a_missing_tokeniser_says_so(tmp_path: Path) -> None:
    from models.glip.prompts import wordpiece

    with pytest.raises(WeightsError, match="restore"):
        wordpiece(tmp_path)


# --------------------------------------------------------------------------------------------- parts


@pytest.mark.parametrize(
    ("count", "length", "most_labels", "parts"),
    [(1, 1, 80, 1), (80, 1, 80, 1), (81, 1, 80, 2), (300, 1, 80, 4), (30, 30, 80, 4), (5, 1, 1, 5)],
)
def test_long_lists_are_cut_into_few_equal_parts(
    count: int, length: int, most_labels: int, parts: int
) -> None:
    prompt = list_prompt(
        [" ".join([f"a{number}"[:1]] + ["b"] * (length - 1)) for number in range(count)]
    )
    pieces = chunked(prompt, tokenizer(), max_labels=most_labels)
    assert len(pieces) == parts
    sizes = [len(piece.phrases) for piece in pieces]
    assert max(sizes) - min(sizes) <= 1
    assert sum(sizes) == count
    for piece in pieces:
        assert len(tokenize(piece, tokenizer()).input_ids) <= 256
        for place, phrase in enumerate(piece.phrases):
            whole = prompt.phrases[piece.first + place]
            assert (phrase.begin + piece.offset, phrase.end + piece.offset) == (
                whole.begin,
                whole.end,
            )
            assert piece.caption[phrase.begin : phrase.end] == phrase.text == whole.text


def test_a_short_caption_stays_whole_and_a_long_one_keeps_every_phrase() -> None:
    short = read_prompt("quickly a dog runs away", parser="rules")
    assert chunked(short, tokenizer()) == [short]
    long = read_prompt("a dog runs past the big old tree and " * 40 + "it barks", parser="rules")
    pieces = chunked(long, tokenizer())
    assert sum(len(piece.phrases) for piece in pieces) == len(long.phrases) == 80
    assert all(len(tokenize(piece, tokenizer()).input_ids) <= 256 for piece in pieces)
    assert "runs past" in pieces[0].caption
    lonely = read_prompt("he ran and " * 150 + "saw [a dog]")
    assert [piece.caption for piece in chunked(lonely, tokenizer())] == ["a dog"]


def test_no_phrases_have_no_parts() -> None:
    assert chunked(Prompt("nothing", (), "caption"), tokenizer()) == []


@pytest.mark.parametrize("span", [(-1, 2), (2, 2), (0, 4)])
def test_a_phrase_outside_the_caption_is_a_bug(span: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="no phrase"):
        Prompt.from_spans("dog", [span])


# ------------------------------------------------------------------------------------- better parsers


def _fake_spacy(model_there: bool) -> ModuleType:
    """A stand-in with spaCy's interface that finds "dog" and a pronoun."""

    def load(name: str) -> Any:
        if not model_there:
            raise OSError(f"[E050] Can't find model '{name}'")

        def read(text: str) -> Any:
            place = text.index("dog")
            chunks = [(0, 2, "PRON"), (place, place + 3, "NOUN")]
            return SimpleNamespace(
                noun_chunks=[
                    SimpleNamespace(start_char=b, end_char=e, root=SimpleNamespace(pos_=tag))
                    for b, e, tag in chunks
                ]
            )

        return read

    module = ModuleType("spacy")
    module.load = load  # type: ignore[attr-defined]
    return module


def _fake_nltk(data_there: bool) -> ModuleType:
    """A stand-in with NLTK's interface: a tagger with six words and the chunk parser of one rule."""

    class Tree(list[Any]):
        pass

    tags = {"the": "DT", "two": "CD", "red": "JJ", "dog": "NN", "kite": "NN", "it": "PRP"}

    def pos_tag(words: list[str]) -> list[tuple[str, str]]:
        if not data_there:
            raise LookupError("Resource averaged_perceptron_tagger_eng not found.")
        return [(word, tags.get(word.lower(), ".")) for word in words]

    class RegexpParser:
        def __init__(self, grammar: str) -> None:
            assert grammar == "NP: {<DT>?<CD>*<JJ.*>*<NN.*>+}"

        def parse(self, tagged: list[tuple[str, str]]) -> Tree:
            tree, open_chunk = Tree(), Tree()
            for leaf in tagged:
                if leaf[1] in ("DT", "CD", "JJ", "NN"):
                    open_chunk.append(leaf)
                    continue
                tree += [open_chunk] if open_chunk else []
                tree.append(leaf)
                open_chunk = Tree()
            return Tree([*tree, *([open_chunk] if open_chunk else [])])

    module = ModuleType("nltk")
    module.pos_tag, module.RegexpParser, module.Tree = pos_tag, RegexpParser, Tree  # type: ignore[attr-defined]
    return module


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Any:
    """`install(spacy=module_or_None, nltk=...)`: None means that it is not installed."""

    def go(**modules: ModuleType | None) -> None:
        chunker._spacy_model.cache_clear()
        for name, module in modules.items():
            monkeypatch.setitem(__import__("sys").modules, name, module)

    yield go
    chunker._spacy_model.cache_clear()


TEXT = "it, the red dog; two kite"
BY_SPACY, BY_NLTK = ["dog"], ["the red dog", "two kite"]


@pytest.mark.parametrize(
    ("spacy", "nltk", "found"),
    [
        (True, True, BY_SPACY),
        (False, True, BY_NLTK),  # spaCy without its model
        (None, True, BY_NLTK),
        (None, False, None),  # NLTK without its data
        (None, None, None),
    ],
)
def test_better_parsers_serve_where_they_are_installed(
    install: Any, spacy: bool | None, nltk: bool | None, found: list[str] | None
) -> None:
    install(
        spacy=None if spacy is None else _fake_spacy(spacy),
        nltk=None if nltk is None else _fake_nltk(nltk),
    )
    rules = [TEXT[begin:end] for begin, end in rule_phrases(TEXT)]
    assert [TEXT[begin:end] for begin, end in noun_phrases(TEXT)] == (found or rules)
    assert [TEXT[begin:end] for begin, end in noun_phrases(TEXT, "rules")] == rules
    assert list(read_prompt(TEXT, "caption").names) == (found or rules)
