"""What the stroke renderings promise: deterministic, in the picture's colours, where it has ink."""

import numpy as np
import pytest

pytest.importorskip("skia", exc_type=ImportError, reason="skia needs: apt install libgl1 libegl1")

from training.world.strokes import few_stroke_painting, loose_strokes, outline

SIZE = 72
RED, BLUE = (220, 40, 30), (30, 60, 210)


@pytest.fixture(scope="module")
def ball() -> np.ndarray:
    """A red disc with a blue right half, on nothing; (SIZE, SIZE, 4)."""
    y, x = np.mgrid[:SIZE, :SIZE] - (SIZE - 1) / 2
    picture = np.zeros((SIZE, SIZE, 4), np.uint8)
    picture[x <= 0] = (*RED, 255)
    picture[x > 0] = (*BLUE, 255)
    picture[np.hypot(x, y) > 26] = 0
    return picture


STYLES = {
    "outline": lambda picture, seed: outline(picture),
    "loose": lambda picture, seed: loose_strokes(picture, seed, 64),
    "painting": lambda picture, seed: few_stroke_painting(picture, seed, 60),
}


@pytest.mark.parametrize("style", STYLES)
def test_a_seed_names_its_drawing(style: str, ball: np.ndarray):
    before = ball.copy()
    one, again = STYLES[style](ball, 1), STYLES[style](ball, 1)
    assert one.shape == ball.shape
    assert one.dtype == np.uint8
    assert one.tobytes() == again.tobytes()
    assert np.array_equal(ball, before), "the picture itself was changed"
    if style != "outline":
        assert one.tobytes() != STYLES[style](ball, 2).tobytes()


@pytest.mark.parametrize(
    ("style", "inside", "outside"),
    [  # share of the disc's and of the surrounding pixels that are painted
        ("outline", (0.10, 0.55), (0.0, 0.12)),
        ("loose", (0.35, 0.95), (0.0, 0.12)),
        ("painting", (0.93, 1.0), (0.0, 0.35)),
    ],
)
def test_strokes_lie_where_the_picture_is(
    style: str, inside: tuple[float, float], outside: tuple[float, float], ball: np.ndarray
):
    for seed in range(4):
        painted = STYLES[style](ball, seed)[..., 3] > 127
        disc = ball[..., 3] > 0
        assert inside[0] <= painted[disc].mean() <= inside[1]
        assert outside[0] <= painted[~disc].mean() <= outside[1]


@pytest.mark.parametrize("style", ["loose", "painting"])
def test_strokes_take_the_colours_of_the_picture(style: str, ball: np.ndarray):
    drawn = STYLES[style](ball, 0).astype(float)
    ink = drawn[..., 3] > 127
    for columns, colour in ((slice(10, 30), RED), (slice(42, 62), BLUE)):
        mean = drawn[:, columns][ink[:, columns]][:, :3].mean(axis=0)
        assert np.abs(mean - colour).max() < 45


def test_outlines_run_along_both_edges_and_leave_areas_empty(ball: np.ndarray):
    ink = outline(ball)[..., 3] > 127
    middle = SIZE // 2
    assert ink[middle, middle - 1 : middle + 1].any(), "between the colours"
    assert ink[middle, 8:12].any(), "around the disc"
    assert not ink[middle, 20:28].any()
    assert outline(ball)[ink][:, :3].max() < 110, "lines are dark"


def test_outlines_of_a_batch_are_those_of_its_pictures(ball: np.ndarray):
    batch = np.stack([ball, ball[:, ::-1], ball[::-1]])
    together = outline(batch)
    for one, picture in zip(together, batch, strict=True):
        assert np.array_equal(one, outline(picture))


def test_more_strokes_come_closer(ball: np.ndarray):
    def error(count: int) -> float:
        def on_white(rgba: np.ndarray) -> np.ndarray:
            alpha = rgba[..., 3:] / 255
            return rgba[..., :3] * alpha + 255 * (1 - alpha)

        errors = [
            np.abs(on_white(few_stroke_painting(ball, seed, count)) - on_white(ball)).mean()
            for seed in range(6)
        ]
        return float(np.mean(errors))

    assert error(20) > error(60) > error(120)


@pytest.mark.parametrize("style", STYLES)
def test_pictures_without_ink_or_without_edges_do_no_harm(style: str):
    empty = np.zeros((SIZE, SIZE, 4), np.uint8)
    full = np.full((SIZE, SIZE, 4), 255, np.uint8)
    for picture in (empty, full):
        assert STYLES[style](picture, 0).shape == picture.shape
    assert not outline(empty)[..., 3].any()
    assert not outline(full)[..., 3].any()


@pytest.mark.parametrize("style", ["loose", "painting"])
def test_other_arrays_are_refused(style: str):
    for wrong in (np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8, 4), np.float32)):
        with pytest.raises(ValueError, match=r"\(H, W, 4\) uint8"):
            STYLES[style](wrong, 0)
