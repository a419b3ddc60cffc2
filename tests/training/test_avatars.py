"""What the avatars promise: the same numbers give the same picture, a small change of a number is
a small change of the picture, and words and boxes say what is drawn."""

import re

import numpy as np
import pytest

pytest.importorskip("skia", exc_type=ImportError, reason="skia needs: apt install libgl1 libegl1")

from training.world import avatars
from training.world.avatars import ATTRIBUTES, NAMES

PRESENCES = ("age_lines", "freckles", "blush", "beard", "moustache", "glasses", "hat", "earrings")
UNEVENTFUL = {  # a plain face on which every attribute shows
    **dict.fromkeys(NAMES, 0.5),
    **dict.fromkeys(PRESENCES, 0.0),
    "hair_dye": 0.0,
    "lipstick": 0.0,
    "glasses_tint": 0.0,
    "mouth_open": 0.0,
    "skin_tone": 0.75,
    "eye_open": 0.8,
    "background_hue": 0.7,
    "hat_hue": 0.0,
}
NEEDED = {  # what must be there for an attribute to show
    "hair_curl": {"hair_length": 0.7},
    "dye_hue": {"hair_dye": 1.0},
    "glasses_shape": {"glasses": 1.0},
    "glasses_tint": {"glasses": 1.0},
    "hat_brim": {"hat": 1.0},
    "hat_hue": {"hat": 1.0},
}


def face(**changes: float) -> np.ndarray:
    return np.array([(UNEVENTFUL | changes)[name] for name in NAMES], dtype=np.float32)


def difference(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(H, W), the largest change of a channel."""
    return np.abs(a.astype(int) - b.astype(int)).max(axis=2)


# numbers


def test_the_table_has_at_least_twenty_attributes_with_distinct_names():
    assert len(ATTRIBUTES) >= 20
    assert len(set(NAMES)) == len(ATTRIBUTES)
    assert all(0 <= a.low < a.high <= 1 for a in ATTRIBUTES)
    assert all(bool(a.positive) == bool(a.negative) for a in ATTRIBUTES)


def test_a_seed_names_its_sample():
    one, again, other = avatars.sample(50, 7), avatars.sample(50, 7), avatars.sample(50, 8)
    assert one.shape == (50, len(NAMES))
    assert one.dtype == np.float32
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)
    assert one.min() >= 0
    assert one.max() <= 1


@pytest.mark.parametrize("name", PRESENCES)
def test_parts_are_there_or_not_and_seldom_in_between(name: str):
    values = avatars.sample(4000, 0)[:, NAMES.index(name)]
    assert 0.33 < np.mean(values > 0.8) < 0.47
    assert np.mean(values < 0.2) > 0.45
    assert np.mean((values > 0.2) & (values < 0.8)) < 0.10


def test_attributes_are_independent():
    off_diagonal = np.corrcoef(avatars.sample(4000, 1).T) - np.eye(len(NAMES))
    assert np.abs(off_diagonal).max() < 0.08


def test_latents_map_smoothly_to_attributes():
    rng = np.random.default_rng(0)
    z = rng.standard_normal((200, avatars.LATENT_SIZE))
    step = 1e-3 * rng.standard_normal(z.shape)
    change = np.abs(avatars.latent_to_attributes(z + step) - avatars.latent_to_attributes(z))
    assert change.max() < 0.05


# pictures


def test_the_same_numbers_give_the_same_bytes():
    rows = avatars.sample(6, 3)
    batch = avatars.draw_batch(rows, 64)
    assert batch.shape == (6, 64, 64, 3)
    assert batch.dtype == np.uint8
    for row, picture in zip(rows, batch, strict=True):
        assert avatars.draw(row, 64).tobytes() == picture.tobytes()


@pytest.mark.parametrize("name", NAMES)
def test_a_small_change_of_a_number_is_a_small_change_of_the_picture(name: str):
    base = face(**NEEDED.get(name, {}))
    steps = np.linspace(0, 1, 51)
    rows = np.repeat(base[None], len(steps), axis=0)
    rows[:, NAMES.index(name)] = steps
    film = avatars.draw_batch(rows, 64).astype(np.float32)
    changes = np.abs(np.diff(film, axis=0)).mean(axis=(1, 2, 3))  # of 255, per 0.02
    whole = name in ("background_hue", "background_tone", "light")  # these repaint every pixel
    assert changes.max() < (4.0 if whole else 1.5)
    assert changes.max() < 9 * changes.mean(), "it jumps somewhere"
    assert np.abs(film[-1] - film[0]).mean() > 0.05, "the attribute does nothing"


def test_a_picture_is_the_same_drawing_at_every_size():
    row = avatars.sample(1, 5)[0]
    large = avatars.draw(row, 192).astype(np.float32)
    small = avatars.draw(row, 64).astype(np.float32)
    averaged = large.reshape(64, 3, 64, 3, 3).mean(axis=(1, 3))
    assert np.abs(averaged - small).mean() < 3


@pytest.mark.parametrize(
    "numbers",
    [np.zeros(3), np.full(len(NAMES), 1.5), np.full(len(NAMES), np.nan), np.full((2, 2), 0.5)],
    ids=["too few", "out of range", "not a number", "a table"],
)
def test_bad_numbers_are_refused(numbers: np.ndarray):
    with pytest.raises(ValueError, match="avatar"):
        avatars.draw(numbers)


# boxes


@pytest.mark.parametrize(
    ("part", "others"),
    [
        ("glasses", {}),
        ("glasses", {"head_tilt": 0.0, "glasses_shape": 1.0}),
        ("hat", {"hat_brim": 0.0}),
        ("hat", {"hat_brim": 1.0, "head_tilt": 1.0}),
        ("beard", {"head_tilt": 0.1}),
        ("moustache", {"smile": 0.9}),
    ],
)
def test_boxes_hold_what_is_drawn_and_fit_it(part: str, others: dict[str, float]):
    size = 128
    bald = {"hair_length": 0.0}  # a hat presses hair down, which is not the hat's own ink
    on, off = face(**bald, **others, **{part: 1.0}), face(**bald, **others, **{part: 0.0})
    box = avatars.boxes(on, size)[part]
    assert box is not None
    assert avatars.boxes(off, size)[part] is None
    change = difference(avatars.draw(on, size), avatars.draw(off, size))
    inside = np.zeros((size, size), bool)
    x1, y1, x2, y2 = (round(v) for v in box)
    inside[max(0, y1 - 2) : y2 + 2, max(0, x1 - 2) : x2 + 2] = True
    assert change[inside].sum() > 0.93 * change.sum()  # the rest is the shadow it throws
    ys, xs = np.nonzero(change > 40)
    drawn = (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)
    assert np.abs(np.subtract(drawn, box)).max() < 6


def test_boxes_scale_with_the_picture_and_stay_inside():
    for row in avatars.sample(40, 2):
        small, large = avatars.boxes(row, 64), avatars.boxes(row, 256)
        assert small["face"] is not None
        for name, box in small.items():
            if box is None:
                assert large[name] is None
                continue
            assert large[name] == pytest.approx([4 * v for v in box], abs=0.05)
            assert 0 <= box[0] < box[2] <= 64
            assert 0 <= box[1] < box[3] <= 64


def test_earrings_have_a_box_each():
    boxes = avatars.boxes(face(earrings=1.0))
    left, right = boxes["earring_left"], boxes["earring_right"]
    assert left is not None
    assert right is not None
    assert left[2] < right[0]


# words


@pytest.mark.parametrize(
    ("words", "name", "holds"),
    [
        (r"(?<!no )(?<!without )\b(?:glasses|spectacles|eyeglasses|shades)\b", "glasses", True),
        (r"(?:no|without) (?:glasses|spectacles)", "glasses", False),
        (r"sunglasses|shades|dark glasses", "glasses_tint", True),
        (r"round \w*glasses|round spectacles", "glasses_shape", False),
        (r"(?<!no )(?<!without a )\b(?:hat|beanie|cap)\b", "hat", True),
        (r"no hat|without a hat|bareheaded", "hat", False),
        (r"beanie|knitted cap", "hat_brim", False),
        (r"(?<!no )(?<!without a )\bbeard\b|bearded", "beard", True),
        (r"without a beard|no beard|bare chin", "beard", False),
        (r"(?<!no )(?<!without a )\bmoustache|mustache", "moustache", True),
        (r"smil|\bhappy|cheerful|grinning", "smile", True),
        (r"frown(?!ed)|\bsad\b(?! brows)|unhappy|gloomy", "smile", False),
        (r"\blong\b.*hair", "hair_length", True),
        (r"\bshort\b.*hair|cropped", "hair_length", False),
        (r"curly|curls", "hair_curl", True),
        (r"\bold\b|elderly|aged|wrinkled", "age_lines", True),
        (r"young", "age_lines", False),
        (r"(?<!no )(?<!without )earrings", "earrings", True),
        (r"(?<!without )freckle", "freckles", True),
        (r"closed eyes|asleep|sleeping|dozing|eyes shut", "eye_open", False),
        (r"blue eyes", "eye_colour", True),
    ],
)
def test_captions_say_what_is_true(words: str, name: str, holds: bool):
    rng = np.random.default_rng(0)
    told = 0
    for row in avatars.sample(250, 9):
        for _ in range(4):
            if re.search(words, avatars.caption(row, rng)):
                told += 1
                assert avatars.truth(row).get(name) is holds
    assert told >= 3


def test_captions_vary_and_a_seed_repeats_them():
    row = avatars.sample(1, 1)[0]
    spoken = [avatars.caption(row, np.random.default_rng(s)) for s in range(60)]
    assert spoken == [avatars.caption(row, np.random.default_rng(s)) for s in range(60)]
    assert len(set(spoken)) > 45


@pytest.mark.parametrize(
    ("changes", "name", "answer"),
    [
        ({"glasses": 1.0}, "glasses", True),
        ({"glasses": 0.0}, "glasses", False),
        ({"glasses": 0.5}, "glasses", None),
        ({"glasses": 0.0, "glasses_shape": 0.0}, "glasses_shape", None),
        ({"glasses": 1.0, "glasses_shape": 0.0}, "glasses_shape", False),
        ({"eye_colour": 0.0}, "eye_colour", False),
        ({"eye_colour": 0.0, "glasses": 1.0, "glasses_tint": 1.0}, "eye_colour", None),
        ({"eye_colour": 0.0, "eye_open": 0.0}, "eye_colour", None),
        ({"hair_length": 0.0, "hair_colour": 0.0}, "hair_colour", None),
        ({"hair_colour": 0.0}, "hair_colour", False),
        ({"beard": 1.0, "jaw": 1.0}, "jaw", None),
    ],
)
def test_truth_is_silent_on_what_cannot_be_seen(
    changes: dict[str, float], name: str, answer: bool | None
):
    assert avatars.truth(face(**changes)).get(name) is answer


def test_two_way_phrases_are_pairs_that_differ():
    for a in ATTRIBUTES:
        pairs = avatars.two_way_phrases(a.name)
        assert bool(pairs) == bool(a.positive)
        assert all(yes != no for yes, no in pairs)
    assert ("a person with glasses", "a person without glasses") in avatars.two_way_phrases(
        "glasses"
    )
    with pytest.raises(ValueError, match="no avatar attribute 'wings'"):
        avatars.two_way_phrases("wings")
