"""What the CLIP tab draws and brings along; that it works in a page is in tests/browser."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from demos import clip_views as views
from demos.clip_pictures import EXAMPLES_DIR, SEARCH_DIR, collection, examples, label_lists
from demos.ui import downloads
from demos.ui.images import open_image
from demos.ui.text import MAX_LABELS, parse_labels
from models.clip.recognition import Matching, Ranking, Recognition

EVIL = "<script>alert(1)</script>"
RESULT = Recognition("m", "one", ("cat", EVIL, "ظبي"), (0.3, 0.1, 0.2), logit_scale=50.0)
MATCHING = Matching("m", "none", ('"><i>evil', "q"), ("a", EVIL), ((0.1, 0.2), (0.4, 0.3)), 20.0)


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (0.0, "0.0%"),
        (1e-7, "<0.1%"),
        (0.0123, "1.2%"),
        (0.0994, "9.9%"),
        (0.0996, "10%"),
        (0.973, "97%"),
        (1.0, "100%"),
    ],
)
def test_shares_are_written_short(share: float, text: str) -> None:
    assert views.percent(share) == text


def test_bars_show_the_best_first_and_say_what_is_hidden() -> None:
    html = views.bars(RESULT, top=2)
    assert html.index("cat") < html.index("ظبي")
    assert "script" not in html
    assert "and 1 more labels" in html


def test_what_was_typed_is_escaped_everywhere() -> None:
    thumbs = [views.data_uri(Image.new("RGB", (9, 9)))] * 2
    for html in (views.bars(RESULT, 10), views.matrix(MATCHING, thumbs, "rows"), views.empty(EVIL)):
        assert "<script" not in html
        assert "&lt;script&gt;" in html
    assert '"><i>evil' not in views.matrix(MATCHING, thumbs, "rows")


def test_the_matrix_marks_the_best_caption_of_every_picture() -> None:
    thumbs = [views.data_uri(Image.new("RGB", (9, 9)))] * 2
    rows = views.matrix(MATCHING, thumbs, "cosine").split("<tr>")[-2:]
    best = [[cell.startswith('"best') for cell in row.split("<td class=")[1:]] for row in rows]
    assert best == [[False, True], [True, False]]
    assert 'style="--heat:0.000"' in rows[0]  # cosines: shaded from the lowest
    assert 'style="--heat:1.000"' in rows[1]  # to the highest


@pytest.mark.parametrize("normalise", ["rows", "columns", "cosine"])
def test_results_become_pictures_with_their_settings_inside(normalise: str) -> None:
    thumbs = [views.data_uri(Image.new("RGB", (30, 20), "red"))] * 2
    facts = replace(MATCHING, normalise=normalise).to_json()
    drawn = views.draw_matrix(MATCHING, thumbs, normalise)
    with Image.open(downloads.save_png(drawn, facts["settings"], "matrix")) as saved:
        assert json.loads(saved.text[downloads.SETTINGS_KEY]) == facts["settings"]
        assert len(saved.getcolors(2**20)) > 5


def test_pictures_of_bars_and_rankings_hold_what_they_are_about() -> None:
    red = Image.new("RGB", (300, 200), (255, 0, 0))
    long = replace(RESULT, labels=("a word " * 40, "b", "c"))
    assert (255, 0, 0) in {colour for _, colour in views.draw_bars(red, long, 3).getcolors(2**20)}
    ranking = Ranking("m", "none", EVIL, (1, 0), ("x", "y" * 90), (0.2, 0.1), 50.0)
    drawn = views.draw_ranking(ranking, [red, red])
    assert (255, 0, 0) in {colour for _, colour in drawn.getcolors(2**20)}


@pytest.mark.parametrize("title", list(label_lists()))
def test_ready_made_labels_can_be_used_as_they_are(title: str) -> None:
    labels = label_lists()[title]
    assert 20 <= len(labels) <= MAX_LABELS
    assert parse_labels(", ".join(labels)) == list(labels)


def test_every_example_opens_has_labels_and_a_credit() -> None:
    assert len(examples()) == 12
    for example in examples().values():
        assert min(open_image(example.path).size) >= 150
        assert 3 <= len(parse_labels(example.labels)) <= 10
        assert any(licence in example.credit for licence in ("CC", "Apache-2.0", "MIT"))


def test_the_collection_is_small_and_every_picture_has_a_name_and_an_open_licence() -> None:
    pictures = collection()
    assert 300 <= len(pictures.names) == len(pictures.tiles) == len(pictures.credits)
    assert all(pictures.names)
    assert {tile.size for tile in pictures.tiles} == {(128, 128)}
    licences = {credit.rsplit(", ", 1)[1] for credit in pictures.credits}
    assert licences <= {"CC BY 4.0", "CC-BY-4.0", "Apache-2.0", "MIT"}  # nothing share-alike
    assert folder_bytes(SEARCH_DIR) <= 3_000_000
    assert folder_bytes(EXAMPLES_DIR) <= 1_000_000


def folder_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


def test_the_diagram_explains_itself_to_those_who_cannot_see_it() -> None:
    svg = views.diagram()
    assert "<title>CLIP:" in svg
    assert svg.count("<rect") > 25
