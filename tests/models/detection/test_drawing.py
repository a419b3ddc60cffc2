"""Drawing: what the pixels show, where labels go, which colours can be read."""

from __future__ import annotations

import time
from itertools import combinations
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageFont

from models.detection import drawing
from models.detection.colours import contrast, phrase_colours, plate_and_text, rgb_of
from models.detection.detections import Detections, encode_mask
from models.detection.drawing import DrawStyle, colour_indices, draw, place_labels, shortened
from models.errors import InputError

GREY = (128, 128, 128)
PLAIN = DrawStyle(line_width=2, labels=False)
# The page's grounds, light and dark (demos/ui/theme.py).
GROUNDS = ("#ffffff", "#f7f8fb", "#eef0f5", "#0e111b", "#171b28", "#232838")
FONT_DIR = Path(matplotlib.get_data_path()) / "fonts" / "ttf"


def found(boxes: Any, *, size: tuple[int, int] = (100, 80), **changes: Any) -> Detections:
    count = len(boxes)
    fields: dict[str, Any] = {
        "boxes": np.reshape(boxes, (-1, 4)),
        "scores": np.linspace(0.9, 0.5, count),
        "labels": ("dog",) * count,
        "phrases": (0,) * count,
        "spans": (None,) * count,
        "width": size[0],
        "height": size[1],
    }
    return Detections(**{**fields, **changes})


def pixels(image: Image.Image) -> npt.NDArray[np.uint8]:
    return np.asarray(image)


# Colours


def test_contrast_is_wcags() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.005)
    assert contrast("#ff0000", "#ffffff") == pytest.approx(4.00, abs=0.005)
    assert contrast("#0000ff", "#0000ff") == 1


@pytest.mark.parametrize("ground", GROUNDS)
def test_every_colour_can_be_read_on_the_page(ground: str) -> None:
    assert min(contrast(colour, ground) for colour in phrase_colours(500)) >= 3


def test_colours_are_distinct_and_stay_when_a_phrase_is_added() -> None:
    assert phrase_colours(0) == ()
    assert phrase_colours(12)[:5] == phrase_colours(5)
    assert len(set(phrase_colours(100))) == 100
    nearest = min(
        np.abs(np.subtract(rgb_of(a), rgb_of(b))).max()
        for a, b in combinations(phrase_colours(12), 2)
    )
    assert nearest >= 51  # of 255, in at least one channel


@pytest.mark.parametrize(
    ("colour", "text"),
    [
        ("#ffffff", "#000000"),
        ("#ffe066", "#000000"),
        ("#000000", "#ffffff"),
        ("#5566ee", "#ffffff"),
    ],
)
def test_text_is_light_on_dark_or_the_reverse(colour: str, text: str) -> None:
    assert plate_and_text(colour)[1] == text


def test_labels_can_be_read_on_any_colour() -> None:
    some = np.random.default_rng(0).integers(256, size=(300, 3)).tolist()
    colours = ["#{:02x}{:02x}{:02x}".format(*rgb) for rgb in some] + list(phrase_colours(300))
    assert min(contrast(*plate_and_text(colour)) for colour in colours) >= 4.5


# Pixels


def test_a_box_is_its_outline_in_its_colour() -> None:
    picture = Image.new("RGB", (100, 80), GREY)
    out = pixels(draw(picture, found([[10, 20, 60, 70]]), style=PLAIN, colours=["#ff0000"]))
    red = (out == (255, 0, 0)).all(-1)
    expected = np.zeros((80, 100), bool)
    expected[20:70, 10:60] = True
    expected[22:68, 12:58] = False
    assert np.array_equal(red, expected)
    assert (out[~expected] == GREY).all()
    assert (pixels(picture) == GREY).all()  # the original is left alone


@pytest.mark.parametrize("width", [1, 5])
def test_line_width(width: int) -> None:
    style = DrawStyle(line_width=width, labels=False)
    out = draw(Image.new("RGB", (100, 80)), found([[10, 20, 60, 70]]), style=style)
    assert (pixels(out)[45, :35] != 0).any(-1).sum() == width


def test_automatic_sizes_grow_with_the_picture() -> None:
    sizes = [DrawStyle().sized(*size) for size in [(64, 64), (640, 480), (1333, 800), (4000, 3000)]]
    assert sizes == sorted(sizes)
    assert sizes[0] == (1, 11)
    assert DrawStyle(line_width=3, text_size=20).sized(64, 64) == (3, 20)


def test_masks_are_translucent_with_the_best_on_top() -> None:
    masks = np.zeros((2, 80, 100), bool)
    masks[0, 30:40, 20:40] = True
    masks[1, 30:60, 20:50] = True
    some = found(
        [[20, 30, 40, 40], [20, 30, 50, 60]], phrases=(0, 1), masks=tuple(map(encode_mask, masks))
    )
    picture = Image.new("RGB", (100, 80), (100, 100, 100))
    out = pixels(draw(picture, some, style=PLAIN, colours=["#ff0000", "#0000ff"])).astype(int)
    second = np.array([60, 60, 162])  # 0.6 * 100 + 0.4 * colour
    first = 0.6 * second + 0.4 * np.array([255, 0, 0])
    assert np.abs(out[50, 45] - second).max() <= 1
    assert np.abs(out[35, 30] - first).max() <= 2
    assert (out[70, 90] == 100).all()
    off = draw(picture, some, style=DrawStyle(labels=False, masks=False))
    assert (pixels(off)[35, 30] == 100).all()


def test_an_empty_mask_and_a_missing_one() -> None:
    masks = (encode_mask(np.zeros((80, 100), bool)), None)
    some = found([[20, 30, 40, 40], [20, 30, 50, 60]], masks=masks)
    without = found([[20, 30, 40, 40], [20, 30, 50, 60]])
    picture = Image.new("RGB", (100, 80), GREY)
    assert np.array_equal(pixels(draw(picture, some)), pixels(draw(picture, without)))


def test_a_label_is_legible_text_on_a_plate() -> None:
    picture = Image.new("RGB", (300, 200), GREY)
    box = found([[40, 60, 250, 150]], size=(300, 200), labels=("red kite",))
    colour = phrase_colours(1)[0]
    plate, text = plate_and_text(colour)
    style = DrawStyle(text_size=20)
    out = pixels(draw(picture, box, style=style))
    bare = pixels(draw(picture, box, style=DrawStyle(labels=False)))
    ys, xs = np.nonzero((out != bare).any(-1))
    label = out[ys.min() : ys.max() + 1, xs.min() : xs.max() + 1]
    assert (xs.min(), ys.max()) == (40, 59)  # right above its box
    assert (label == rgb_of(plate)).all(-1).mean() > 0.4
    assert (label == rgb_of(text)).all(-1).mean() > 0.05
    shorter = draw(picture, box, style=DrawStyle(text_size=20, scores=False))
    assert (pixels(shorter) != bare).any(-1).sum() < (out != bare).any(-1).sum()


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "LA", "CMYK", "1"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    out = draw(Image.new(mode, (100, 80)), found([[10, 20, 60, 70]]))
    assert (out.mode, out.size) == ("RGB", (100, 80))


@pytest.mark.parametrize("size", [(1, 1), (5, 3), (20_000, 10), (10, 20_000)])
def test_pictures_of_odd_sizes(size: tuple[int, int]) -> None:
    whole = found([[0, 0, *size], [0, 0, 0, 0], [*size, *size]], size=size)
    assert draw(Image.new("RGB", size), whole).size == size
    assert draw(Image.new("RGB", size), whole, style=DrawStyle(40, 200)).size == size


def test_nothing_found_changes_nothing() -> None:
    picture = Image.effect_noise((100, 80), 60).convert("RGB")
    assert np.array_equal(pixels(draw(picture, Detections.none(100, 80))), pixels(picture))


def test_detections_of_another_picture_are_refused() -> None:
    with pytest.raises(ValueError, match="100 x 80"):
        draw(Image.new("RGB", (80, 100)), Detections.none(100, 80))


@pytest.mark.parametrize("style", [{"line_width": -1}, {"line_width": 41}, {"text_size": 5}])
def test_sizes_out_of_range(style: dict[str, int]) -> None:
    with pytest.raises(InputError, match="Choose a"):
        DrawStyle(**style)


def test_one_colour_per_phrase_and_per_label_without_phrase() -> None:
    some = found(
        [[0, 0, 9, 9]] * 6,
        labels=("kite", "two dogs", "dogs", "zebra", "ant", "zebra"),
        phrases=(1, 0, 0, -1, -1, -1),
    )
    assert colour_indices(some) == [1, 0, 0, 3, 2, 3]
    assert colour_indices(Detections.none(4, 4)) == []


# Places


@pytest.mark.parametrize(
    ("box", "place"),
    [
        ((20, 50, 90, 90), (20, 40)),  # above, flush left
        ((20, 0, 90, 90), (20, 0)),  # touches the top: inside
        ((20, 9, 90, 90), (20, 9)),  # no room above: inside
        ((20, 10, 90, 90), (20, 0)),  # just room above
        ((180, 50, 200, 90), (170, 40)),  # moved in from the right
        ((0, 0, 200, 5), (0, 0)),  # flat, at the top
        ((50, 95, 60, 100), (50, 85)),  # at the bottom
    ],
)
def test_a_label_alone(box: tuple[int, int, int, int], place: tuple[int, int]) -> None:
    assert place_labels([box], [(30, 10)], (200, 100)) == [place]


def overlaps(places: list[tuple[int, int]], sizes: list[tuple[int, int]]) -> int:
    plates = [(x, y, x + w, y + h) for (x, y), (w, h) in zip(places, sizes)]
    return sum(
        a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
        for a, b in combinations(plates, 2)
    )


@pytest.mark.parametrize(
    "boxes",
    [
        [(20, 50, 120, 90)] * 2,
        [(20, 50, 120, 90)] * 12,  # all at one place
        [(0, 0, 200, 100)] * 30,  # all the whole picture
        [(20 + i, 50 + i, 60 + i, 80 + i) for i in range(8)],
        [(50, 50, 55, 55)] * 4,  # smaller than a label
    ],
)
def test_labels_do_not_overlap_where_they_need_not(boxes: list[tuple[int, int, int, int]]) -> None:
    sizes = [(30, 10)] * len(boxes)
    places = place_labels(boxes, sizes, (200, 100))
    assert overlaps(places, sizes) == 0
    for (x, y), box in zip(places, boxes):
        assert 0 <= x <= 170
        assert 0 <= y <= 90
        assert box[0] - 30 <= x <= box[2]  # each touches its box
        assert box[1] - 10 <= y <= box[3] + 10
    assert places[0] == place_labels(boxes[:1], sizes[:1], (200, 100))[0]  # the best has its choice


def test_more_labels_than_room_stay_inside() -> None:
    boxes, sizes = [(0, 0, 40, 20)] * 50, [(30, 10)] * 50
    assert all(0 <= x <= 10 and 0 <= y <= 10 for x, y in place_labels(boxes, sizes, (40, 20)))
    assert place_labels([(0, 0, 5, 5)], [(30, 10)], (5, 5)) == [(0, 0)]
    assert place_labels([], [], (5, 5)) == []


# Text


@pytest.fixture(scope="module")
def font() -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(drawing.DEJAVU, 14)


def test_a_short_label_is_kept_whole(font: ImageFont.FreeTypeFont) -> None:
    assert shortened("red kite", " 0.83", font, 200) == "red kite 0.83"


@pytest.mark.parametrize("width", [60, 90, 150, 400])
@pytest.mark.parametrize("text", ["a red kite above two dogs " * 3, "<script>" * 1250])
def test_a_long_label_gives_way_before_its_score(
    font: ImageFont.FreeTypeFont, text: str, width: int
) -> None:
    cut = shortened(text, " 0.83", font, width)
    assert cut.endswith("… 0.83")
    assert text.startswith(cut.removesuffix("… 0.83"))
    assert font.getlength(cut) <= width
    more = text[: len(cut.removesuffix("… 0.83")) + 2].rstrip()
    assert font.getlength(f"{more}… 0.83") > width or len(more) >= drawing.LONGEST_LABEL


@pytest.mark.parametrize(
    "label", ["", "\n\n", "a\nb\tc", "<b>&amp;</b>", "犬と凧", "كلب", "é" * 99]
)
def test_any_label_is_drawn_on_one_line(label: str) -> None:
    picture = Image.new("RGB", (300, 200))
    box = {"size": (300, 200), "scores": [0.5]}
    style = DrawStyle(text_size=16)
    out = draw(picture, found([[0, 100, 300, 200]], labels=(label,), **box), style=style)
    bare = draw(picture, found([[0, 100, 300, 200]], **box), style=DrawStyle(labels=False))
    rows = np.nonzero((pixels(out) != pixels(bare)).any(axis=(1, 2)))[0]
    assert 16 <= rows.max() - rows.min() + 1 <= 28


def test_letters_that_the_first_font_lacks_come_from_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # No CJK font comes with the tests; STIX has letters that DejaVu Sans Bold has not.
    stix = str(FONT_DIR / "STIXGeneral.ttf")
    letter = chr(min(drawing._charset(stix) - drawing._charset(drawing.DEJAVU)))
    monkeypatch.setattr(drawing, "_fallbacks", lambda: (str(FONT_DIR / "cmex10.ttf"), stix))
    assert drawing._font("dog", 14).path == drawing.DEJAVU
    assert drawing._font(f"dog {letter}", 14).path == stix
    assert drawing._font(f"dog {letter}\U0010ffff", 14).path == drawing.DEJAVU


@pytest.mark.parametrize(
    ("name", "cjk"),
    [
        ("NotoSansCJK-Bold.ttc", True),
        ("wqy-zenhei.ttc", True),
        ("PingFang.ttc", True),
        ("msyhbd.ttc", True),
        ("NotoSansJP-Bold.otf", True),
        ("DejaVuSans.ttf", False),
        ("NotoSans-Bold.ttf", False),
    ],
)
def test_cjk_fonts_by_file_name(name: str, cjk: bool) -> None:
    assert bool(drawing.CJK_FONTS.search(name)) == cjk


def test_fifty_boxes_in_fifty_milliseconds() -> None:
    generator = np.random.default_rng(0)
    size = np.array([1333, 800])
    centres, sides = generator.random((50, 2)) * size, generator.uniform(0.04, 0.3, (50, 2)) * size
    boxes = np.hstack([centres - sides / 2, centres + sides / 2]).clip(0, [*size, *size])
    labels = tuple(f"person with hat {i % 10}" for i in range(50))
    some = found(boxes, size=(1333, 800), labels=labels, phrases=tuple(i % 10 for i in range(50)))
    picture = Image.new("RGB", (1333, 800), GREY)
    seconds = []
    for _ in range(5):
        # Time of the processor, not of the clock: other work may share the machine.
        begin = time.thread_time()
        draw(picture, some)
        seconds.append(time.thread_time() - begin)
    assert min(seconds) <= 0.05
