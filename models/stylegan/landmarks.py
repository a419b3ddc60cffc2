"""Finds faces and their 68 landmarks in a photograph, with dlib as FFHQ's authors did.

Optional: `pip install dlib-bin face-recognition-models`. The first is dlib, built for every common
system and Python; the second holds the landmark model of King 2009 ("Dlib-ml") and Kazemi and
Sullivan 2014 ("One Millisecond Face Alignment"), trained on iBUG 300-W, whose licence excludes
commercial use. Neither compiles anything, and nothing is downloaded when it runs.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from models.errors import InputError
from models.stylegan.alignment import LANDMARKS
from models.weights import WeightFile, verify

PACKAGES = ("dlib", "face_recognition_models")
INSTALL = "pip install dlib-bin face-recognition-models"
PREDICTOR = WeightFile(
    name="shape_predictor_68_face_landmarks.dat",
    bytes=99_693_937,
    sha256="fbdc2cb80eb9aa7a758672cbfdda32ba6300efe9b6e6c7a299ff7e736b11b92f",
)
# The detector knows faces from 80 px up and takes 60 ms a megapixel (one core); a face that it
# cannot see in a picture of this size is too small to be edited.
LONGEST_SIDE = 1600
DOUBLED_UP_TO = 1000  # longest side of pictures that are searched again at twice their size
# Below this the detector often sees faces where there are none (0.04 to 0.16 on a space suit, 1.1
# to 1.5 on its wearer), so that is believed only where nothing better is in the picture.
PLAIN_SCORE = 0.3


@dataclass(frozen=True)
class Face:
    """One face in a picture.

    Attributes:
        landmarks: (68, 2) float64, (x, y) in pixels of the picture, in the order of iBUG 300-W.
        box: (x1, y1, x2, y2) in pixels; may reach beyond the picture.
        score: the detector's margin; above 0, plain faces have 1 and more.
    """

    landmarks: NDArray[np.float64]
    box: tuple[float, float, float, float]
    score: float


def finder_is_there() -> bool:
    """Whether the packages that find landmarks are installed."""
    return all(importlib.util.find_spec(name) is not None for name in PACKAGES)


def find_faces(image: Image.Image) -> list[Face]:
    """All faces in a picture, the largest first; at least one.

    Raises:
        InputError: the packages are missing, or there is no face.
        WeightsError: the landmark model is not the published one.
    """
    if not finder_is_there():
        raise InputError(
            f"Finding the face needs two more packages; run `{INSTALL}` and start again, or give "
            "a picture that is already aligned."
        )
    picture = image.convert("RGB")
    faces = [_face(picture, box, score) for box, score in _boxes(picture)]
    if not faces:
        raise InputError(
            "There is no face to be seen in this picture; use one with a face from the front, at "
            "least 40 pixels wide."
        )
    return sorted(faces, key=lambda face: face.box[0] - face.box[2])


def choose_face(faces: Sequence[Face], index: int | None = None) -> Face:
    """One face of `find_faces`; None takes the only one.

    Raises:
        InputError: there are several and no `index`, or it is out of range.
    """
    if index is None and len(faces) == 1:
        return faces[0]
    if index is None:
        raise InputError(
            f"There are {len(faces)} faces in this picture; choose one from 0 (the largest) to "
            f"{len(faces) - 1}."
        )
    if not 0 <= index < len(faces):
        raise InputError(f"There is no face {index}; choose one from 0 to {len(faces) - 1}.")
    return faces[index]


Box = tuple[float, float, float, float]


def _boxes(picture: Image.Image) -> list[tuple[Box, float]]:
    """Detections and their scores, in pixels of the picture; at twice its size, where faces of 40
    px are seen too, a picture is searched only when nothing else was found."""
    scale = min(1.0, LONGEST_SIDE / max(picture.size))
    searched = picture
    if scale < 1:
        width, height = (max(round(n * scale), 1) for n in picture.size)
        searched = picture.resize((width, height), Image.Resampling.BOX)
    pixels = np.ascontiguousarray(searched)
    found, scores, _ = _detector().run(pixels, 0, 0.0)
    if not found and max(searched.size) <= DOUBLED_UP_TO:
        found, scores, _ = _detector().run(pixels, 1, 0.0)
    sides = [(box.left(), box.top(), box.right() + 1, box.bottom() + 1) for box in found]
    boxes = [
        ((x1 / scale, y1 / scale, x2 / scale, y2 / scale), float(score))
        for (x1, y1, x2, y2), score in zip(sides, scores)
    ]  # the best first
    return [entry for entry in boxes if entry[1] >= PLAIN_SCORE] or boxes[:1]


def _face(picture: Image.Image, box: Box, score: float) -> Face:
    import dlib

    left, top, right, bottom = (round(side) for side in box)
    shape = _predictor()(
        np.ascontiguousarray(picture), dlib.rectangle(left, top, right - 1, bottom - 1)
    )
    points = [(shape.part(i).x, shape.part(i).y) for i in range(LANDMARKS)]
    return Face(np.array(points, np.float64), box, score)


@lru_cache(maxsize=1)
def _detector() -> Any:
    import dlib

    return dlib.get_frontal_face_detector()


@lru_cache(maxsize=1)
def _predictor() -> Any:
    import dlib

    # Found without importing the package: its __init__ needs setuptools' abandoned pkg_resources.
    spec = importlib.util.find_spec("face_recognition_models")
    assert spec is not None
    assert spec.submodule_search_locations
    path = Path(spec.submodule_search_locations[0]) / "models" / PREDICTOR.name
    verify(path, PREDICTOR.sha256)
    return dlib.shape_predictor(str(path))
