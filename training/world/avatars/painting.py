"""Avatars on pixels: the layers of an avatar, back to front, and the boxes of its parts.

Every presence attribute works through opacity, size or position that start from nothing, so the
picture is continuous in every attribute.
"""

from collections.abc import Callable, Sequence

import numpy as np
import skia
from numpy.typing import NDArray

from training.world.avatars import features, figure, worn
from training.world.avatars.attributes import as_look
from training.world.avatars.geometry import CX, PIVOT, Face
from training.world.avatars.scene import Scene

UNITS = 128.0  # side of the drawing that `geometry` describes
ZOOM = 1.10  # the figure fills the picture; its outermost hat still fits
VISIBLE = 0.4  # presence from which a part counts as plainly there
Box = tuple[float, float, float, float]


def _frame(size: int) -> skia.Matrix:
    """From drawing units to pixels."""
    frame = skia.Matrix()
    frame.setScale(ZOOM, ZOOM, CX, 70.0)
    frame.postScale(size / UNITS, size / UNITS)
    return frame


def paint(scene: Scene) -> None:
    """All layers, back to front; what belongs to the head tilts with it."""
    figure.background(scene)
    _tilted(scene, figure.hair_back)
    figure.body(scene)
    _tilted(
        scene,
        figure.ears,
        figure.hair_locks,
        figure.head,
        figure.marks,
        worn.beard,
        features.mouth,
        features.nose,
        worn.moustache,
        features.eyes,
        figure.hair_front,
        features.brows,
        worn.earrings,
        worn.hat,
        worn.glasses,
    )


def _tilted(scene: Scene, *layers: Callable[[Scene], None]) -> None:
    with skia.AutoCanvasRestore(scene.canvas):
        scene.canvas.rotate(scene.face.tilt, *PIVOT)
        for layer in layers:
            layer(scene)


def draw(attributes: Sequence[float] | NDArray[np.floating], size: int = 128) -> NDArray[np.uint8]:
    """Picture of one avatar.

    Args:
        attributes: (A,), in [0, 1], order of `ATTRIBUTES`.
        size: side of the picture in pixels.

    Returns:
        (size, size, 3) uint8 RGB. The same numbers give the same bytes.

    Raises:
        ValueError: the attributes are not (A,) numbers in [0, 1].
    """
    look = as_look(attributes)
    surface = skia.Surface(size, size)
    canvas = surface.getCanvas()
    canvas.concat(_frame(size))
    paint(Scene(canvas, look))
    pixels: NDArray[np.uint8] = surface.toarray(colorType=skia.kRGBA_8888_ColorType)
    return np.ascontiguousarray(pixels[:, :, :3])


def draw_batch(attributes: NDArray[np.floating], size: int = 128) -> NDArray[np.uint8]:
    """Pictures of many avatars: (N, A) in [0, 1] -> (N, size, size, 3) uint8 RGB."""
    pictures = np.empty((len(attributes), size, size, 3), np.uint8)
    for picture, row in zip(pictures, attributes, strict=True):
        picture[...] = draw(row, size)
    return pictures


def boxes(
    attributes: Sequence[float] | NDArray[np.floating], size: int = 128
) -> dict[str, Box | None]:
    """Where the parts of one avatar are.

    Args:
        attributes: (A,), in [0, 1].
        size: side of the picture in pixels.

    Returns:
        For `face`, `glasses`, `hat`, `beard`, `moustache`, `earring_left` and `earring_right` (left
        and right of the picture): (x1, y1, x2, y2) float pixels of the drawn ink without its
        shadow, inside the picture; None when the part is not plainly there.
    """
    look = as_look(attributes)
    face = Face(look)
    hat = [face.hat_dome, face.hat_band]
    if look.hat_brim < 0.5:
        hat.append(face.hat_pom)
    if look.hat_brim > 0.4:
        hat.append(face.hat_rim)
    parts: dict[str, tuple[float, Sequence[skia.Path], float]] = {  # presence, shapes, outset
        "face": (1.0, [face.head], 0.0),
        "glasses": (
            look.glasses,
            [face.lens(-1), face.lens(1), face.glasses_wire],
            face.frame_width / 2,
        ),
        "hat": (look.hat, hat, 0.0),
        "beard": (look.beard, [face.beard], 0.0),
        "moustache": (look.moustache, [face.moustache], 0.0),
        "earring_left": (look.earrings, [face.earring(-1)], 1.0),
        "earring_right": (look.earrings, [face.earring(1)], 1.0),
    }
    place = _frame(size)
    place.preRotate(face.tilt, *PIVOT)
    return {
        name: _bounds(shapes, place, outset * ZOOM * size / UNITS, size)
        if presence >= VISIBLE
        else None
        for name, (presence, shapes, outset) in parts.items()
    }


def _bounds(shapes: Sequence[skia.Path], place: skia.Matrix, outset: float, size: int) -> Box:
    union = skia.Rect.MakeEmpty()
    for shape in shapes:
        moved = skia.Path()
        shape.transform(place, moved)
        union.join(moved.computeTightBounds())
    union.outset(outset, outset)
    limit = float(size)
    return (
        max(union.left(), 0.0),
        max(union.top(), 0.0),
        min(union.right(), limit),
        min(union.bottom(), limit),
    )
