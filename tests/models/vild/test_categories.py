"""Names, the sentences they stand in, and embeddings that are computed once."""

from __future__ import annotations

import hashlib
import os
import re
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from models.errors import InputError
from models.jobs import run_to_end
from models.vild.categories import (
    FULL,
    NAME_LISTS,
    SHORT,
    TEMPLATES,
    CategoryEmbeddings,
    category_templates,
    clean_name,
    lvis_base_names,
    name_list,
    unique_names,
)


class Words:
    """A CLIP whose vector of a text is drawn from its digest; counts what it reads."""

    embed_dim = 16

    def __init__(self, name: str = "words", seed: str = "") -> None:
        self.name, self.seed = name, seed
        self.read: list[str] = []

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        self.read += texts
        rows = []
        for text in texts:
            digest = hashlib.sha256(f"{self.seed}{text}".encode("utf-8", "surrogatepass")).digest()
            rows.append(torch.tensor([float(byte) - 127 for byte in digest[:16]]))
        return F.normalize(torch.stack(rows), dim=-1)


def _embeddings(clip: Words, folder: Path, templates: str = "short", **options: int):
    return CategoryEmbeddings(clip, TEMPLATES[templates], folder, **options)  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------- names


@pytest.mark.parametrize(
    ("name", "cleaned"),
    [
        ("Aerosol_can", "aerosol can"),
        ("bun/roll", "bun or roll"),
        ("cooler_(for_food)", "cooler (for food)"),
        ("Dog.", "dog"),
        ("wait...", "wait"),
        ("St. Bernard", "st. bernard"),
        ("  two   words \n", "two words"),
        ("Äpfel", "äpfel"),
        ("犬", "犬"),
        ("a", "a"),
        ("{name}", "{name}"),
    ],
)
def test_names_are_cleaned_as_in_the_notebook(name: str, cleaned: str) -> None:
    assert clean_name(name) == cleaned


@pytest.mark.parametrize("name", ["", " ", "_", ".", "...", "_ _."])
def test_what_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="is no name"):
        clean_name(name)


def test_names_that_read_the_same_are_one() -> None:
    assert unique_names(["Dog", "traffic_light", "dog.", "Traffic light", "cat"]) == [
        "Dog",
        "traffic_light",
        "cat",
    ]


# --------------------------------------------------------------------------------- sentences


def test_the_full_set_is_the_notebook_s() -> None:
    assert len(FULL) == len(set(FULL)) == 63
    assert set(SHORT) < set(FULL)
    sentences = {sentence("Elephant") for sentence in category_templates("full").templates}
    assert len(sentences) == 63
    assert sentences >= {
        "There is an elephant in the scene.",
        "There is the elephant in the scene.",
        "itap of my elephant.",
        "itap of an elephant.",
        "This is a photo of one elephant.",
        "This is a photo of a hard to see elephant.",
        "This is a photo of the nice elephant.",
        "This is a black and white photo of an elephant.",
        "This is a jpeg corrupted photo of the elephant.",
        "This is an embroidered elephant.",
        "This is the embroidered elephant.",
        "This is the toy elephant.",
        "This is a painting of a elephant.",  # as it stands there
    }


@pytest.mark.parametrize("templates", ["full", "short", "one"])
def test_sentences_are_sentences(templates: str) -> None:
    for sentence in TEMPLATES[templates].templates:
        assert re.fullmatch(r"(This is|There is|itap of) .*\bdog\b.*\.", sentence("dog_"))
        assert "{" not in sentence("dog")


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("apple", "This is a photo of an apple."),
        ("Apple", "This is a photo of an apple."),
        ("_umbrella", "This is a photo of an umbrella."),
        ("bun/roll", "This is a photo of a bun or roll."),
        ("hourglass", "This is a photo of a hourglass."),  # the rule goes by letters
        ("{a}", "This is a photo of a {a}."),
    ],
)
def test_articles(name: str, sentence: str) -> None:
    (one,) = TEMPLATES["one"].templates
    assert one(name) == sentence


def test_a_name_may_stand_alone() -> None:
    assert [sentence("Red_apple.") for sentence in TEMPLATES["name"].templates] == ["red apple"]


def test_unknown_sets_list_the_choices() -> None:
    with pytest.raises(InputError, match="choose one of full, short, one, name"):
        category_templates("long")


# -------------------------------------------------------------------------------- embeddings


def test_an_embedding_is_the_normalised_mean_of_unit_vectors(tmp_path: Path) -> None:
    clip = Words()
    names = ["red apple", "Dog", "dog"]
    rows = run_to_end(_embeddings(clip, tmp_path).encode(names))
    assert rows.shape == (3, 16)
    for name, row in zip(names, rows):
        sentences = [sentence(name) for sentence in TEMPLATES["short"].templates]
        mean = Words().encode_text(sentences).mean(dim=0)
        assert torch.allclose(row, mean / mean.norm(), atol=1e-6)
    assert len(clip.read) == 1 + 2 * len(SHORT)  # a probe of the model, two different names


def test_nothing_is_computed_twice(tmp_path: Path) -> None:
    first = run_to_end(_embeddings(Words(), tmp_path).encode(["dog", "cat"]))
    clip = Words()
    embeddings = _embeddings(clip, tmp_path)
    clip.read.clear()
    again = run_to_end(embeddings.encode(["cat", "dog"]))
    assert clip.read == []
    assert torch.equal(again, first.flip(0))
    for path in tmp_path.iterdir():
        path.unlink()
    assert torch.equal(run_to_end(embeddings.encode(["cat"])), again[:1])  # from memory
    assert clip.read == []


def test_another_model_or_set_of_sentences_has_its_own(tmp_path: Path) -> None:
    """Also a model of the same name that was trained again."""
    run_to_end(_embeddings(Words(), tmp_path).encode(["dog"]))
    for other in (
        _embeddings(Words("other"), tmp_path),
        _embeddings(Words(seed="trained again"), tmp_path),
        _embeddings(Words(), tmp_path, "one"),
    ):
        clip = other._clip
        clip.read.clear()
        run_to_end(other.encode(["dog"]))
        assert clip.read
    assert len(list(tmp_path.iterdir())) == 4


def test_files_tell_nobody_what_was_typed(tmp_path: Path) -> None:
    names = ["../../etc/passwd", "a/b", "CON", "x" * 5000, "\udcff", "\0"]
    rows = run_to_end(_embeddings(Words(), tmp_path / "deep" / "cache").encode(names))
    assert len(rows) == len(names)
    files = list((tmp_path / "deep" / "cache").iterdir())
    assert len(files) == len(names)
    assert all(re.fullmatch(r"[0-9a-f]{40}\.f32", file.name) for file in files)
    assert {file.stat().st_size for file in files} == {64}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["deep"]


@pytest.mark.parametrize("content", [b"", b"x" * 64, bytes(64), b"\xff" * 64, b"x" * 10_000])
def test_damaged_files_are_made_anew(tmp_path: Path, content: bytes) -> None:
    right = run_to_end(_embeddings(Words(), tmp_path).encode(["dog"]))
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    path.write_bytes(content)
    assert torch.equal(run_to_end(_embeddings(Words(), tmp_path).encode(["dog"])), right)
    assert path.read_bytes() == whole


def test_a_folder_that_cannot_be_written_costs_nothing_but_time(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    rows = run_to_end(_embeddings(Words(), tmp_path / "file" / "cache").encode(["dog"]))
    assert rows.shape == (1, 16)


def test_the_oldest_files_make_room(tmp_path: Path) -> None:
    embeddings = _embeddings(Words(), tmp_path, "one", max_files=10)
    for number in range(10):
        run_to_end(embeddings.encode([f"thing {number}"]))
        (newest,) = {path for path in tmp_path.iterdir() if path.stat().st_mtime > 1_000_000}
        os.utime(newest, (number, number))
    run_to_end(embeddings.encode(["one more"]))
    kept = sorted(path.stat().st_mtime for path in tmp_path.iterdir())
    assert len(kept) == 9
    assert kept[:-1] == [2, 3, 4, 5, 6, 7, 8, 9]


def test_steps_tell_how_far_it_is(tmp_path: Path) -> None:
    embeddings = _embeddings(Words(), tmp_path, "full")
    steps = list(embeddings.encode([f"thing {number}" for number in range(4)]))
    assert [step.fraction for step in steps] == [0, 0.25, 0.5, 0.75]
    assert list(embeddings.encode(["thing 1"])) == []


def test_no_names_are_no_rows(tmp_path: Path) -> None:
    assert run_to_end(_embeddings(Words(), tmp_path).encode([])).shape == (0, 16)


def test_an_empty_name_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is no name"):
        run_to_end(_embeddings(Words(), tmp_path).encode(["dog", "_"]))


def test_many_threads_read_and_write_one_folder(tmp_path: Path) -> None:
    names = [f"thing {number}" for number in range(30)]
    right = run_to_end(_embeddings(Words(), tmp_path / "alone", "one").encode(names))
    shared = _embeddings(Words(), tmp_path / "shared", "one")
    found: list[Tensor] = []
    threads = [
        threading.Thread(target=lambda: found.append(run_to_end(shared.encode(names))))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert all(torch.equal(rows, right) for rows in found)
    assert len(list((tmp_path / "shared").iterdir())) == 30


# ------------------------------------------------------------------------------- ready-made lists


@pytest.mark.parametrize("name", NAME_LISTS)
def test_ready_made_lists_are_clean(name: str) -> None:
    names = name_list(name)
    assert len(names) >= 40
    assert unique_names(names) == list(names)


def test_ready_made_lists_hold_what_they_say() -> None:
    assert len(name_list("coco")) == 80
    assert {"person", "traffic light", "toothbrush"} <= set(name_list("coco"))
    assert 990 <= len(name_list("imagenet")) <= 1000
    assert "red apple" in name_list("food")
    with pytest.raises(InputError, match="choose one of coco, animals"):
        name_list("objects365")
    assert len(name_list("lvis")) == 1203
    assert {"aerosol_can", "bun"} <= set(name_list("lvis"))
    assert len(lvis_base_names()) == 866  # section 4.1 of the paper
    assert set(lvis_base_names()) < set(name_list("lvis"))
