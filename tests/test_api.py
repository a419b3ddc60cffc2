"""The endpoints, called as a stranger would: a real gradio_client against a running app."""

from __future__ import annotations

import hashlib
import io
import json
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from struct import pack
from typing import Any
from xml.etree import ElementTree

import httpx
import pytest
import torch
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image

import demos.clip
import demos.clipdraw
import demos.glip
import demos.styleclip
from demos.clip_pictures import examples
from models.clipdraw import svg
from models.stylegan.generator import to_pictures
from models.stylegan.latent import Latent
from tests.clip_support import counting, mini, mini_registry, noise
from tests.clipdraw_tab_support import tiny_registry
from tests.glip_tab_support import scripted_registry
from tests.models.styleclip.edit_support import quiet_generator
from tests.styleclip_tab_support import LEARNED, furnish
from tests.styleclip_tab_support import tiny_registry as styleclip_registry

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
    with pytest.raises(AppError, match="mini model"):
        classify(client, CAT_AND_DOG, "cat, dog", "clip-vit-b-32")


def test_ten_callers_at_once_get_their_own_answers(client: Client) -> None:
    def ask(number: int) -> list[str]:
        return classify(client, CAT_AND_DOG, f"cat, thing {number}")["settings"]["labels"]

    with ThreadPoolExecutor(10) as callers:
        answers = list(callers.map(ask, range(10)))
    assert answers == [["cat", f"thing {number}"] for number in range(10)]


# --- CLIPDraw ----------------------------------------------------------------------------------

DRAWN = {"model", "settings", "seed", "seconds", "loss", "nearest", "strokes"}
SMALL = {"prompt": "a red apple", "strokes": 5, "steps": 3, "seed": 7, "size": 32}


@pytest.fixture(scope="module")
def easel(serve: Callable[..., Any], one_thread: None) -> Iterator[Client]:
    served = serve([demos.clipdraw.TAB], registry=tiny_registry())
    connected = Client(served.url, verbose=False)
    yield connected
    connected.close()


def drawn(easel: Client, **settings: Any) -> tuple[str, str, dict[str, Any]]:
    return easel.predict(**{**SMALL, **settings}, api_name="/clipdraw_draw")


def test_a_drawing_comes_as_svg_png_and_the_agreed_json(easel: Client) -> None:
    arguments = ("a red apple", "a blur\na smear", 5, 3, 7, "clip-mini-critic")
    vector, pixels, answer = easel.predict(*arguments, api_name="/clipdraw_draw")
    assert len(svg.read(Path(vector).read_bytes())) == len(answer["strokes"]) == 5
    with Image.open(pixels) as picture:
        assert picture.size == (224, 224)
        assert json.loads(picture.text["clip-atelier"]) == answer["settings"]
    assert answer.keys() == DRAWN
    assert (answer["model"], answer["seed"]) == ("clip-mini-critic", 7)
    weights = {prompt["text"]: prompt["weight"] for prompt in answer["settings"]["prompts"]}
    assert weights == {"a red apple": 1.0, "a blur": -0.3, "a smear": -0.3}
    shares = [word["probability"] for word in answer["nearest"]]
    assert len(shares) == 5
    assert shares == sorted(shares, reverse=True)


def test_a_seed_repeats_a_drawing_and_another_does_not(easel: Client) -> None:
    first, again, other = (
        Path(drawn(easel, seed=seed)[0]).read_bytes() for seed in (3, 3, 4)
    )  # fmt: skip
    assert first == again != other


def test_a_drawing_begins_with_an_svg_and_keeps_its_shape(easel: Client, tmp_path: Path) -> None:
    path = tmp_path / "mine.svg"
    path.write_text(
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 40 20"><path d="M5 5 L35 15" '
        'stroke="#f00" fill="none"/><circle cx="20" cy="10" r="5" fill="#00f"/></svg>'
    )
    *_, answer = drawn(easel, strokes=2, start="svg", start_svg=handle_file(str(path)))
    assert answer["settings"]["canvas"] == [32, 16]
    assert [stroke["closed"] for stroke in answer["strokes"]] == [False, True]


def test_every_setting_arrives(easel: Client) -> None:
    *_, answer = drawn(
        easel, more="the sea : 0.5", preset="reference", free_width=False, width=4,
        palette="own", palette_colors="#000, #ff0000", background="transparent", aspect="16:9",
        start="random", augment=False, rasterizer="diffvg-like",
    )  # fmt: skip
    settings = answer["settings"]
    assert settings["prompts"][1] == {"text": "the sea", "weight": 0.5}
    assert settings["width_range"] == [2, 2]
    assert settings["palette"]["colors"] == [[0, 0, 0], [1, 0, 0]]
    assert (settings["background"], settings["canvas"]) == (None, [32, 18])
    assert (settings["schedule"], settings["augmentation"]["copies"]) == ("steps", 1)
    assert settings["rasterizer"] == "diffvg-like"
    assert {tuple(stroke["color"][:3]) for stroke in answer["strokes"]} <= {(0, 0, 0), (1, 0, 0)}


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"prompt": ""}, "Type what to draw"),
        ({"prompt": "x" * 10_000}, "10,000 characters; shorten it to 500"),
        ({"negative": "\n".join("abcdefgh")}, "1 to 8 prompts, not 9"),
        ({"strokes": 0}, "number of strokes lies between 1 and 1024, not at 0"),
        ({"strokes": -1}, "number of strokes lies between 1 and 1024, not at -1"),
        ({"strokes": 1e9}, "number of strokes lies between 1 and 1024"),
        ({"strokes": 2.5}, "whole number, not 2.5"),
        ({"strokes": "many"}, "The number of strokes is a whole number, not many"),
        ({"strokes": None}, "The number of strokes is a whole number"),
        ({"steps": 0}, "number of steps lies between 1 and 5000, not at 0"),
        ({"seed": -1}, "The seed lies between"),
        ({"size": 1e9}, "canvas's width lies between 16 and 2048"),
        ({"rasterizer": "diffvg"}, "diffvg is not installed here; build it"),
        ({"size": 17, "aspect": "16:9"}, "canvas's height lies between 16 and 2048"),
        ({"model": "clip-huge"}, "clip-huge"),
        ({"model": "clip-vit-b-32"}, "mini model"),  # offline
        ({"more": "the sea"}, "like “a stormy sea : 0.5”"),
        ({"more": "the sea : nan"}, "weight lies between"),
        ({"palette": "own", "palette_colors": "#12"}, "“#12” is no colour"),
        ({"palette": "rainbow"}, "rainbow"),
        ({"thinnest": 20, "thickest": 2}, "largest half width"),
        ({"start": "svg"}, "Give the SVG to begin with"),
        ({"start": "picture"}, "Give a picture first"),
    ],
)
def test_a_drawing_that_cannot_be_is_refused_in_a_sentence(
    settings: dict[str, Any], sentence: str, easel: Client
) -> None:
    with pytest.raises(AppError, match=sentence):
        drawn(easel, **settings)


def test_what_is_no_number_is_refused_in_a_sentence(easel: Client) -> None:
    """NaN is no JSON, but a stranger may send it all the same."""
    endpoint = easel.view_api(return_format="dict")["named_endpoints"]["/clipdraw_draw"]
    values = {row["parameter_name"]: row["parameter_default"] for row in endpoint["parameters"]}
    url = f"{easel.src.rstrip('/')}/gradio_api/call/clipdraw_draw"
    for name in ("strokes", "steps", "seed", "size", "width", "thickest"):
        body = json.dumps({"data": list({**values, **SMALL, name: float("nan")}.values())})
        event = httpx.post(url, content=body, headers={"Content-Type": "application/json"})
        said = httpx.get(f"{url}/{event.json()['event_id']}", timeout=30).text
        assert "event: error" in said
        assert "number, not nan" in said


def test_tags_in_a_prompt_stay_text(easel: Client) -> None:
    evil = "<script>alert(1)</script></title><svg onload=alert(2)>"
    vector, _, answer = drawn(easel, prompt=evil)
    root = ElementTree.parse(vector).getroot()
    assert root.findtext("{*}title") == evil == answer["settings"]["prompts"][0]["text"]
    assert {element.tag.rpartition("}")[2] for element in root.iter()} == {
        "svg", "title", "metadata", "rect", "g", "path",
    }  # fmt: skip
    assert not [name for element in root.iter() for name in element.attrib if name[:2] == "on"]


# --- StyleCLIP ---------------------------------------------------------------------------------

EDITED = {"model", "settings", "seed", "seconds", "latent", "changed_channels"}
ASKED = {"method": "directions", "seed_or_latent": 3, "neutral": "a person", "target": "a hat"}


@pytest.fixture(scope="module")
def editor(
    serve: Callable[..., Any], one_thread: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Client]:
    folder = tmp_path_factory.mktemp("generator")
    furnish(folder, quiet_generator())
    served = serve([demos.styleclip.TAB], registry=styleclip_registry(folder))
    connected = Client(served.url, verbose=False)
    yield connected
    connected.close()


def edited(editor: Client, **settings: Any) -> tuple[str, str, dict[str, Any]]:
    return editor.predict(**{**ASKED, **settings}, api_name="/styleclip_edit")


@pytest.mark.parametrize(
    "settings",
    [{}, {"method": "mapper", "target": LEARNED.target}, {"method": "optimization", "steps": 3}],
    ids=lambda settings: settings.get("method", "directions"),
)
def test_an_edit_comes_as_picture_latent_and_the_agreed_json(
    settings: dict[str, Any], editor: Client
) -> None:
    picture, latent, answer = edited(editor, **settings)
    assert answer.keys() == EDITED
    assert (answer["model"], answer["seed"]) == ("stylegan2-mini", 3)
    assert answer["changed_channels"]
    data = Path(latent).read_bytes()
    assert hashlib.sha256(data).hexdigest() == answer["latent"]["sha256"]
    generator = quiet_generator()
    read = Latent.from_bytes(data, generator, "stylegan2-mini")
    with Image.open(picture) as image, torch.no_grad():
        assert (
            image.tobytes()
            == to_pictures(generator.synthesize(read.styles(generator)))[0].tobytes()
        )
        assert json.loads(image.text["clip-atelier"])["settings"] == answer["settings"]


def test_the_positions_are_those_agreed_on(editor: Client) -> None:
    """(method, seed_or_latent, neutral, target, strength, disentanglement, steps, model)."""
    arguments = ("directions", 3, "a person", "a hat", 2.0, 0.1, 40, "stylegan2-mini")
    *_, answer = editor.predict(*arguments, api_name="/styleclip_edit")
    assert (answer["settings"]["strength"], answer["settings"]["disentanglement"]) == (2.0, 0.1)


def test_a_latent_is_edited_further(editor: Client) -> None:
    first = edited(editor)
    still = edited(editor, seed_or_latent=handle_file(first[1]), strength=0)
    further = edited(editor, seed_or_latent=handle_file(first[1]), target="a beard")
    shown = [Image.open(answer[0]).tobytes() for answer in (first, still, further)]
    assert shown[0] == shown[1] != shown[2]  # strength 0 gives the same pixels
    assert further[2]["seed"] is None


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"target": ""}, "Type what the picture should show"),
        ({"target": "x" * 400}, "shorten it to 300"),
        ({"target": "A person"}, "say the same"),
        ({"strength": 99}, "strength lies between"),
        ({"strength": "much"}, "strength is a number"),
        ({"steps": 0}, "1 to 1000 steps"),
        ({"steps": 10**9}, "1 to 1000 steps"),
        ({"disentanglement": 0.999}, "leaves nothing to move"),
        ({"disentanglement": 7}, "disentanglement lies between"),
        ({"seed_or_latent": -4}, "seed lies between"),
        ({"seed_or_latent": "/etc/passwd"}, "upload a latent file"),
        ({"method": "mapper", "target": "a boat"}, "No mapper was trained"),
        ({"model": "stylegan2-ffhq"}, "stylegan2-ffhq|FFHQ|download|network|offline"),
    ],
)
def test_an_edit_that_cannot_be_is_refused_in_a_sentence(
    settings: dict[str, Any], sentence: str, editor: Client
) -> None:
    with pytest.raises(AppError, match=sentence):
        edited(editor, **settings)


@pytest.mark.parametrize("damage", ["other generator", "NaN", "cut off"])
def test_a_damaged_latent_is_refused_in_a_sentence(
    damage: str, editor: Client, tmp_path: Path
) -> None:
    latent = Latent.from_seed(quiet_generator(), 0)
    broken = replace(latent, w_plus=latent.w_plus * float("nan"))
    data = {
        "other generator": latent.to_bytes("stylegan2-ffhq"),
        "NaN": broken.to_bytes("stylegan2-mini"),
        "cut off": latent.to_bytes("stylegan2-mini")[:-40],
    }[damage]
    (tmp_path / "latent.safetensors").write_bytes(data)
    with pytest.raises(AppError, match=r"belongs to|not finite|no latent file"):
        edited(editor, seed_or_latent=handle_file(str(tmp_path / "latent.safetensors")))


# --- GLIP ----------------------------------------------------------------------------------------

GROUNDED = {"model", "settings", "seed", "seconds", "image", "detections"}


@pytest.fixture(scope="module")
def finder(serve: Callable[..., Any]) -> Iterator[Client]:
    served = serve([demos.glip.TAB], registry=scripted_registry())
    connected = Client(served.url, verbose=False)
    yield connected
    connected.close()


def ground(client: Client, image: Any, *words: Any, **more: Any) -> dict[str, Any]:
    picture = handle_file(str(image)) if image else None
    return client.predict(picture, *words, **more, api_name="/glip_ground")


def test_ground_answers_with_the_agreed_json(finder: Client, tmp_path: Path) -> None:
    noise(950, (200, 100)).save(tmp_path / "a.png")
    answer = ground(finder, tmp_path / "a.png", "two dogs and a kite", 0.5, "glip-mini")
    assert answer.keys() == GROUNDED
    assert answer["image"] == {"width": 200, "height": 100}
    assert answer["settings"]["phrases"] == ["two dogs", "a kite"]
    assert answer["settings"]["threshold"] == 0.5
    assert [found["label"] for found in answer["detections"]] == ["two dogs", "a kite"]
    best = answer["detections"][0]
    assert best.keys() == {"box", "score", "label", "span", "mask"}
    assert best["box"] == pytest.approx([0, 15, 40, 45])
    assert best["span"] == [0, 8]


def test_ground_needs_no_more_than_a_picture_and_words(finder: Client, tmp_path: Path) -> None:
    noise(951).save(tmp_path / "a.png")
    answer = ground(finder, tmp_path / "a.png", "dog; <b>kite</b>; קוף")
    assert (answer["model"], answer["settings"]["threshold"]) == ("glip-mini", 0.3)
    assert answer["settings"]["phrases"] == ["dog", "<b>kite</b>", "קוף"]
    fewer = ground(finder, tmp_path / "a.png", "dog; kite", max_boxes=1, mode="caption")
    assert len(fewer["detections"]) == 1


@pytest.mark.parametrize("case", BAD_PICTURES)
def test_ground_refuses_a_bad_picture_in_a_sentence(
    case: str, finder: Client, tmp_path: Path
) -> None:
    make, sentence = BAD_PICTURES[case]
    (tmp_path / "picture.png").write_bytes(make())
    with pytest.raises(AppError, match=sentence):
        ground(finder, tmp_path / "picture.png", "dog")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"prompt": ""}, "no words"),
        ({"prompt": "?!;."}, "no words"),
        ({"prompt": "x" * 10_000}, "10,000 characters; shorten"),
        ({"prompt": ";".join(map(str, range(2000)))}, "2,000 names; give at most"),
        ({"threshold": 1.5}, "lies between 0 and 1"),
        ({"threshold": "NaN"}, "is a number"),
        ({"nms": -1}, "lies between 0 and 1"),
        ({"max_boxes": 0}, "At least 1"),
        ({"mode": "poem"}, "poem"),
        ({"model": "glip-99"}, "glip-99"),
        ({"model": "clip-mini"}, "clip-mini"),
        ({"image": None}, "Give a picture first"),
    ],
)
def test_ground_refuses_other_bad_input_in_a_sentence(
    arguments: dict[str, Any], sentence: str, finder: Client
) -> None:
    asked = {"image": CAT_AND_DOG, "prompt": "dog", **arguments}
    with pytest.raises(AppError, match=sentence):
        ground(finder, asked.pop("image"), asked.pop("prompt"), **asked)
