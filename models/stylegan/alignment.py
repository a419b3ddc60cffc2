"""Cuts a face out of a photograph as the pictures of FFHQ were cut.

Karras et al. 2019, "A Style-Based Generator Architecture" (arXiv 1812.04948), appendix A: a square
that is placed by the eyes and the mouth, and border pixels that are mirrored and blurred where the
square leaves the photograph. Generators and encoders of FFHQ know faces in this pose only.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter

from models.errors import InputError

Floats = NDArray[np.float64]

# Places in the 68 landmarks of the iBUG scheme.
LEFT_EYE, RIGHT_EYE = slice(36, 42), slice(42, 48)
MOUTH_CORNERS = [48, 54]
LANDMARKS = 68
# A face whose square is smaller than this has nothing to show, and no blur radius either.
MIN_SIDE = 8.0


def quad_of(landmarks: ArrayLike) -> Floats:
    """The square around a face.

    Args:
        landmarks: (68, 2), (x, y) in pixels of the picture.

    Returns:
        (4, 2) float64 corners (x, y) in pixels: top left, bottom left, bottom right, top right of
        the upright face.

    Raises:
        InputError: these are not 68 finite points, or they lie on one spot.
    """
    points = np.asarray(landmarks, np.float64)
    if points.shape != (LANDMARKS, 2) or not np.isfinite(points).all():
        raise InputError(f"A face needs {LANDMARKS} landmarks (x, y), all of them numbers.")
    left, right = points[LEFT_EYE].mean(0), points[RIGHT_EYE].mean(0)
    eyes = (left + right) / 2
    eye_to_eye = right - left
    eye_to_mouth = points[MOUTH_CORNERS].mean(0) - eyes
    x = eye_to_eye - _turned(eye_to_mouth)
    if np.hypot(*x) == 0:
        raise InputError("The landmarks lie on one spot; use another picture.")
    x *= max(np.hypot(*eye_to_eye) * 2.0, np.hypot(*eye_to_mouth) * 1.8) / np.hypot(*x)
    y = _turned(x)
    centre = eyes + eye_to_mouth * 0.1
    return np.stack([centre - x - y, centre - x + y, centre + x + y, centre + x - y])


def _turned(vector: Floats) -> Floats:
    """A quarter turn: (x, y) -> (-y, x)."""
    return np.array([-vector[1], vector[0]])


def align(image: Image.Image, landmarks: ArrayLike, size: int = 256) -> Image.Image:
    """The face as a square picture of `size` pixels a side, the way FFHQ shows faces.

    Args:
        image: the photograph.
        landmarks: (68, 2), (x, y) in its pixels.
        size: side of the result; 256 is what encoders read.

    Raises:
        InputError: as `quad_of`, or the face is smaller than 8 pixels.
    """
    image, quad = prepare(image, landmarks, size)
    corners = tuple((quad + 0.5).ravel().tolist())
    return image.transform((size, size), Image.Transform.QUAD, corners, Image.Resampling.BILINEAR)


def prepare(image: Image.Image, landmarks: ArrayLike, size: int) -> tuple[Image.Image, Floats]:
    """What the last step of `align` reads: a picture that holds the whole square, and the square
    in its pixels, (4, 2)."""
    quad = quad_of(landmarks)
    side = 2 * float(np.hypot(*(quad[3] - quad[0]))) / 2
    if side < MIN_SIDE:
        raise InputError("The face is only a few pixels wide; use a larger picture.")
    image, quad, side = _shrunk(image.convert("RGB"), quad, side, size)
    border = max(int(np.rint(side * 0.1)), 3)
    image, quad = _cropped(image, quad, border)
    return _padded(image, quad, side, border)


def _shrunk(
    image: Image.Image, quad: Floats, side: float, size: int
) -> tuple[Image.Image, Floats, float]:
    """Smaller by a whole factor where the square has more than twice the pixels asked for."""
    factor = int(np.floor(side / size * 0.5))
    if factor <= 1:
        return image, quad, side
    width, height = (int(np.rint(n / factor)) for n in image.size)
    smaller = image.resize((max(width, 1), max(height, 1)), Image.Resampling.LANCZOS)
    return smaller, quad / factor, side / factor


def _bounds(quad: Floats) -> tuple[int, int, int, int]:
    """Whole pixels around the square: left, top, right, bottom."""
    (left, top), (right, bottom) = np.floor(quad.min(0)), np.ceil(quad.max(0))
    return int(left), int(top), int(right), int(bottom)


def _cropped(image: Image.Image, quad: Floats, border: int) -> tuple[Image.Image, Floats]:
    left, top, right, bottom = _bounds(quad)
    left, top = max(left - border, 0), max(top - border, 0)
    right, bottom = min(right + border, image.width), min(bottom + border, image.height)
    if left >= right or top >= bottom:
        raise InputError("The landmarks lie outside of the picture; find them in this very one.")
    return image.crop((left, top, right, bottom)), quad - (left, top)


def _padded(
    image: Image.Image, quad: Floats, side: float, border: int
) -> tuple[Image.Image, Floats]:
    """Mirrored beyond its edges where the square leaves it, blurred and faded to the median."""
    left, top, right, bottom = _bounds(quad)
    missing = np.array([-left, -top, right - image.width, bottom - image.height]) + border
    if max(missing.max(), 0) <= border - 4:
        return image, quad
    pad = np.maximum(np.maximum(missing, 0), int(np.rint(side * 0.3)))
    pixels = np.pad(
        np.asarray(image, np.float32), ((pad[1], pad[3]), (pad[0], pad[2]), (0, 0)), "reflect"
    )  # (H, W, 3)
    mask = _outside(pixels.shape[0], pixels.shape[1], pad)
    blur = side * 0.02
    pixels += (gaussian_filter(pixels, [blur, blur, 0]) - pixels) * np.clip(mask * 3 + 1, 0, 1)
    pixels += (np.median(pixels, axis=(0, 1)) - pixels) * np.clip(mask, 0, 1)
    return Image.fromarray(np.clip(np.rint(pixels), 0, 255).astype(np.uint8)), quad + pad[:2]


def _outside(height: int, width: int, pad: NDArray[np.int64]) -> Floats:
    """(H, W, 1): 1 at the outer edge, 0 where the photograph begins, negative inside."""
    y, x = np.ogrid[:height, :width]
    left, top, right, bottom = pad
    across = np.minimum(x / left, (width - 1 - x) / right)
    down = np.minimum(y / top, (height - 1 - y) / bottom)
    return np.asarray(np.maximum(1 - across, 1 - down)[..., None])
