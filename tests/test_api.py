"""The CLIP endpoints, called as a stranger would: a real gradio_client against a running app."""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from struct import pack
from typing import Any

import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image

import demos.clip
from demos.clip_pictures import examples
from tests.clip_support import counting, mini, mini_registry, noise

CAT_AND_DOG = examples()["cat-and-dog"].path
KEYS = {"model", "settings", "seed", "seconds", "scores"}


@pytest.fixture(scope="module")
def client(serve: Callable[..., Any]) -> Iterator[Client]:
    served = serve([demos.clip.TAB], registry=mini_registry())
    connected = Client(served.url, verbose=False)
    yield connected
    connected.close()


def classify(client: Client, image: Any, labels: str, *more: Any) -> dict[str, Any]:
    picture = handle_file(str(image)) if image else None
    return client.predict(picture, labels, *more, api_name="/clip_classify")[-1]


def test_classify_answers_with_the_agreed_json(client: Client) -> None:
    answer = classify(client, CAT_AND_DOG, "cat, dog\nسيارة; 犬", "clip-mini", "none")
    assert answer.keys() == KEYS
    assert answer["model"] == "clip-mini"
    assert answer["settings"]["labels"] == ["cat", "dog", "سيارة", "犬"]
    assert answer["settings"]["templates"] == "none"
    assert sum(score["probability"] for score in answer["scores"]) == pytest.approx(1)
    cosines = [score["cosine"] for score in answer["scores"]]
    assert cosines == sorted(cosines, reverse=True)


def test_classify_needs_no_more_than_a_picture_and_labels(client: Client) -> None:
    answer = classify(client, CAT_AND_DOG, "cat, dog")
    assert (answer["model"], answer["settings"]["templates"]) == ("clip-mini", "one")


def test_new_labels_for_the_same_picture_do_not_encode_it_again(
    client: Client, tmp_path: Path
) -> None:
    noise(900).save(tmp_path / "new.png")
    with counting(mini()) as counts:
        classify(client, tmp_path / "new.png", "cat, dog")
        classify(client, tmp_path / "new.png", "tree, house", "clip-mini", "none")
    assert counts.pictures == [1]


def test_match_answers_with_every_pair(client: Client) -> None:
    names = ("cat-and-dog", "pizza", "lift-off")
    pictures = [{"image": handle_file(examples()[name].path), "caption": None} for name in names]
    answer = client.predict(pictures, "a cat\na pizza", api_name="/clip_match")[-1]
    assert answer.keys() == KEYS
    assert {(cell["picture"], cell["label"]) for cell in answer["scores"]} == {
        (name, caption) for name in names for caption in ("a cat", "a pizza")
    }
    for name in names:
        row = [cell["probability"] for cell in answer["scores"] if cell["picture"] == name]
        assert sum(row) == pytest.approx(1)


def test_search_ranks_the_collection_with_one_text_encoded(client: Client) -> None:
    client.predict("anything at all", api_name="/clip_search")
    with counting(mini()) as counts:
        answer = client.predict("a query unlike any other", api_name="/clip_search")[-1]
    assert (counts.pictures, counts.texts) == ([], [1])
    assert answer.keys() == KEYS
    assert len(answer["scores"]) == answer["settings"]["pictures"] >= 300


def test_search_takes_own_pictures_and_leaves_out_what_is_none(
    client: Client, tmp_path: Path
) -> None:
    paths = []
    for number in range(5):
        paths.append(tmp_path / f"picture {number}.png")
        noise(910 + number).save(paths[-1])
    paths.append(tmp_path / "broken.png")
    paths[-1].write_bytes(b"no picture")
    files = [handle_file(str(path)) for path in paths]
    *_, answer = client.predict("noise", "clip-mini", 3, files, api_name="/clip_search")
    assert sorted(score["label"] for score in answer["scores"]) == [
        f"picture {number}" for number in range(5)
    ]


def bomb() -> bytes:
    """A PNG of 12000x12000 pixels in a few kilobytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return pack(">I", len(data)) + kind + data + pack(">I", zlib.crc32(kind + data))

    header = pack(">IIBBBBB", 12000, 12000, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes(1501) * 12000, 9)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    )


def jpeg_cut_off() -> bytes:
    stream = io.BytesIO()
    noise(1, (400, 300)).save(stream, "JPEG")
    return stream.getvalue()[:9000]


def png(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


BAD_PICTURES = {
    "too many pixels": (bomb, "12000 x 12000 pixels"),
    "cut off": (jpeg_cut_off, "damaged or cut off"),
    "an SVG called PNG": (lambda: b"<svg xmlns='http://www.w3.org/2000/svg'/>", "no picture"),
    "a line": (lambda: png(Image.new("RGB", (10000, 1))), "a mere line"),
    "empty": (lambda: b"", "no picture"),
}
GOOD_PICTURES = {
    "one pixel": lambda: png(Image.new("RGB", (1, 1))),
    "16 bit": lambda: png(Image.new("I;16", (40, 30), 40000)),
    "palette": lambda: png(Image.new("P", (40, 30), 3)),
    "transparent": lambda: png(Image.new("RGBA", (40, 30), (1, 2, 3, 0))),
}
BAD_LABELS = {
    "none": ("", "at least one label"),
    "only commas": (" ,;,\n, ", "at least one label"),
    "only NUL": ("\x00\x00", "at least one label"),
    "2,000 labels": (", ".join(map(str, range(2000))), "2,000 labels; give at most 200"),
    "a label of 10,000 characters": ("x" * 10_000, "10,000 characters; shorten it to 200"),
}
GOOD_LABELS = {
    "emoji": ("🐱, 🐶, 👩‍🚀", ["🐱", "🐶", "👩‍🚀"]),
    "right to left": ("قطة, כלב", ["قطة", "כלב"]),
    "markup": ("<script>alert(1)</script>, cat", ["<script>alert(1)</script>", "cat"]),
    "NUL inside": ("a\x00b, c", ["ab", "c"]),
    "twice the same": ("cat, cat , cat", ["cat"]),
}


@pytest.mark.parametrize("case", BAD_PICTURES)
def test_a_bad_picture_is_refused_in_a_sentence(case: str, client: Client, tmp_path: Path) -> None:
    make, sentence = BAD_PICTURES[case]
    path = tmp_path / "picture.png"
    path.write_bytes(make())
    with pytest.raises(AppError, match=sentence):
        classify(client, path, "cat, dog")


def test_no_picture_is_refused_in_a_sentence(client: Client) -> None:
    with pytest.raises(AppError, match="Give a picture first"):
        classify(client, None, "cat, dog")


@pytest.mark.parametrize("case", GOOD_PICTURES)
def test_an_unusual_picture_is_opened(case: str, client: Client, tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    path.write_bytes(GOOD_PICTURES[case]())
    assert len(classify(client, path, "cat, dog")["scores"]) == 2


@pytest.mark.parametrize("case", BAD_LABELS)
def test_bad_labels_are_refused_in_a_sentence(case: str, client: Client) -> None:
    text, sentence = BAD_LABELS[case]
    with pytest.raises(AppError, match=sentence):
        classify(client, CAT_AND_DOG, text)


@pytest.mark.parametrize("case", GOOD_LABELS)
def test_unusual_labels_come_back_as_typed(case: str, client: Client) -> None:
    text, labels = GOOD_LABELS[case]
    assert classify(client, CAT_AND_DOG, text)["settings"]["labels"] == labels


@pytest.mark.parametrize(
    ("arguments", "endpoint", "sentence"),
    [
        (([], "a cat"), "/clip_match", "at least one picture"),
        (([CAT_AND_DOG] * 13, "a cat"), "/clip_match", "13 pictures; match at most 12"),
        (([CAT_AND_DOG], ", ".join("abcdefghijklm")), "/clip_match", "13 labels; give at most 12"),
        (("   ",), "/clip_search", "what to look for"),
        (("x" * 501,), "/clip_search", "501 characters; shorten"),
    ],
)
def test_other_bad_input_is_refused_in_a_sentence(
    arguments: tuple[Any, ...], endpoint: str, sentence: str, client: Client
) -> None:
    if isinstance(arguments[0], list):
        pictures = [{"image": handle_file(path), "caption": None} for path in arguments[0]]
        arguments = (pictures, *arguments[1:])
    with pytest.raises(AppError, match=sentence):
        client.predict(*arguments, api_name=endpoint)


def test_a_model_that_must_be_downloaded_is_refused_offline(client: Client) -> None:
    with pytest.raises(AppError, match="clip-mini"):
        classify(client, CAT_AND_DOG, "cat, dog", "clip-vit-b-32")


def test_ten_callers_at_once_get_their_own_answers(client: Client) -> None:
    def ask(number: int) -> list[str]:
        return classify(client, CAT_AND_DOG, f"cat, thing {number}")["settings"]["labels"]

    with ThreadPoolExecutor(10) as callers:
        answers = list(callers.map(ask, range(10)))
    assert answers == [["cat", f"thing {number}"] for number in range(10)]
