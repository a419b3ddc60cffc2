"""The FFHQ cut: squares by their definition, crops, borders, and landmarks that make no sense."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from models.errors import InputError
from models.stylegan.alignment import align, prepare, quad_of

Points = np.ndarray


def landmarks(
    left: tuple[float, float], right: tuple[float, float], mouth: tuple[float, float]
) -> Points:
    """68 points whose eyes and mouth corners are centred on these; the rest is never read."""
    points = np.full((68, 2), 7.0)
    ring = np.array([[-3, 0], [-1, -1], [1, -1], [3, 0], [1, 1], [-1, 1]], float)
    points[36:42], points[42:48] = ring + left, ring + right
    points[48], points[54] = np.add(mouth, (-9, 0)), np.add(mouth, (9, 0))
    return points


UPRIGHT = landmarks((80, 90), (120, 90), (100, 140))


def photo(width: int = 240, height: int = 220) -> Image.Image:
    """Smooth, and brighter to the right and downwards, so that places can be told."""
    y, x = np.mgrid[:height, :width]
    return Image.fromarray(np.stack([x, y, (x + y) / 2], axis=-1).clip(0, 255).astype(np.uint8))


class TestQuad:
    def test_of_an_upright_face(self) -> None:
        # Eyes 40 apart, mouth 50 below: x = (40, 0) + (50, 0) scaled to max(2 * 40, 1.8 * 50).
        centre, half = np.array([100, 90 + 5]), 90
        corners = [(-half, -half), (-half, half), (half, half), (half, -half)]
        assert quad_of(UPRIGHT) == pytest.approx(centre + np.array(corners))

    @pytest.mark.parametrize(("mouth", "half"), [((100, 110), 80), ((100, 190), 180)])
    def test_is_as_wide_as_the_wider_of_two_measures(
        self, mouth: tuple[float, float], half: float
    ) -> None:
        quad = quad_of(landmarks((80, 90), (120, 90), mouth))
        assert np.ptp(quad[:, 0]) == pytest.approx(2 * half)

    @pytest.mark.parametrize("angle", [0.3, 1.2, 3.0, -2.0])
    def test_turns_and_grows_with_the_face(self, angle: float) -> None:
        cos, sin = 1.7 * np.cos(angle), 1.7 * np.sin(angle)
        motion = np.array([[cos, sin], [-sin, cos]])
        assert quad_of(UPRIGHT @ motion + (30, -8)) == pytest.approx(
            quad_of(UPRIGHT) @ motion + (30, -8)
        )

    def test_is_a_square_in_a_fixed_order(self) -> None:
        quad = quad_of(UPRIGHT @ np.array([[0.9, 0.5], [-0.5, 0.9]]))
        sides = np.roll(quad, -1, axis=0) - quad
        assert np.hypot(*sides.T) == pytest.approx(np.hypot(*sides[0]))
        cross = sides[0][0] * sides[1][1] - sides[0][1] * sides[1][0]
        assert cross < 0  # down, right, up: against the clock, as PIL's QUAD wants

    @pytest.mark.parametrize(
        "points",
        [np.zeros((5, 2)), np.zeros((68, 3)), np.full((68, 2), np.nan), np.zeros((68, 2))],
        ids=["five", "three coordinates", "NaN", "one spot"],
    )
    def test_refuses_what_is_no_face(self, points: Points) -> None:
        with pytest.raises(InputError):
            quad_of(points)


class TestAlign:
    @pytest.mark.parametrize("size", [64, 256])
    def test_gives_the_size_asked_for(self, size: int) -> None:
        assert align(photo(), UPRIGHT, size).size == (size, size)

    def test_a_square_inside_of_the_photo_is_cut_as_it_is(self) -> None:
        points = landmarks((110, 90), (130, 90), (120, 115))  # centre (120, 92.5), half 45
        cut = np.asarray(align(photo(), points, 90), float)
        y, x = np.mgrid[:90, :90]
        # A pixel of the cut shows the photo half a pixel beyond its corner, as FFHQ's code does.
        expected = np.stack([75 + x + 0.5, 47.5 + y + 0.5], axis=-1)
        assert np.abs(cut[..., :2] - expected).max() <= 1.01

    def test_a_turned_face_is_upright_afterwards(self) -> None:
        picture, points = Image.new("RGB", (400, 400), "white"), np.array(UPRIGHT)
        for x, y in points[[36, 39, 42, 45]]:
            picture.paste("black", (int(x) - 2, int(y) - 2, int(x) + 3, int(y) + 3))
        turned = picture.rotate(90, center=(100, 100))  # against the clock: (x, y) -> (y, 200 - x)
        moved = np.stack([points[:, 1], 200 - points[:, 0]], axis=-1)
        here, there = (np.asarray(align(p, q, 128).convert("L"), float) for p, q in
                       ((picture, points), (turned, moved)))  # fmt: skip
        assert np.abs(here - there).mean() < 3

    def test_beyond_the_border_the_photo_is_mirrored_and_fades(self) -> None:
        flat = Image.new("RGB", (120, 130), (200, 60, 30))
        cut = np.asarray(align(flat, UPRIGHT, 64))
        assert np.abs(cut.astype(int) - (200, 60, 30)).max() <= 1  # no black corner
        prepared, _ = prepare(flat, UPRIGHT, 64)
        assert min(prepared.size) > 130  # padded

    def test_large_photos_are_shrunk_first(self) -> None:
        large, points = photo().resize((2400, 2200)), UPRIGHT * 10
        prepared, _ = prepare(large, points, 256)
        assert max(prepared.size) < 1024
        difference = np.asarray(align(large, points, 256), float) - np.asarray(
            align(photo(), UPRIGHT, 256), float
        )
        assert np.abs(difference).mean() < 2

    @pytest.mark.parametrize(
        ("points", "message"),
        [
            (UPRIGHT * 0.01, "only a few pixels"),
            (UPRIGHT + 5000, "outside of the picture"),
            (UPRIGHT - 5000, "outside of the picture"),
        ],
        ids=["tiny", "beyond", "before"],
    )
    def test_refuses_faces_that_are_not_there(self, points: Points, message: str) -> None:
        with pytest.raises(InputError, match=message):
            align(photo(), points)

    def test_transparent_and_grey_pictures_are_fine(self) -> None:
        for mode in ("L", "RGBA", "P"):
            assert align(photo().convert(mode), UPRIGHT, 32).mode == "RGB"
