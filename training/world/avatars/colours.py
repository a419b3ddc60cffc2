"""Colour scales of the avatars, blended in OKLab so that the steps look even.

A colour is (red, green, blue) in sRGB, each in [0, 1].

Reference: Ottosson, "A perceptual color space for image processing" (2020).
"""

from collections.abc import Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray

Colour = tuple[float, float, float]

_LMS = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
_LAB = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)
_STEPS = 512  # entries of a scale's table; read with linear interpolation between entries


def _to_oklab(rgb: NDArray[np.float64]) -> NDArray[np.float64]:
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return np.cbrt(linear @ _LMS.T) @ _LAB.T


def _from_oklab(lab: NDArray[np.float64]) -> NDArray[np.float64]:
    linear = (lab @ np.linalg.inv(_LAB).T) ** 3 @ np.linalg.inv(_LMS).T
    linear = np.clip(linear, 0, 1)
    return np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)


def _parse(code: str) -> Colour:
    return tuple(int(code[i : i + 2], 16) / 255 for i in (0, 2, 4))  # type: ignore[return-value]


@cache
def _table(codes: Sequence[str]) -> NDArray[np.float64]:
    stops = _to_oklab(np.array([_parse(c) for c in codes]))
    at = np.linspace(0, len(codes) - 1, _STEPS)
    lab = np.stack([np.interp(at, np.arange(len(codes)), stops[:, i]) for i in range(3)], axis=1)
    return _from_oklab(lab)


def scale(codes: tuple[str, ...], t: float) -> Colour:
    """Colour at `t` in [0, 1] on an even scale through hexadecimal `codes`."""
    table = _table(codes)
    at = t * (_STEPS - 1)
    i = min(int(at), _STEPS - 2)
    r, g, b = (table[i] + (table[i + 1] - table[i]) * (at - i)).tolist()
    return r, g, b


def mix(a: Colour, b: Colour, share: float) -> Colour:
    """`share` of `b` in `a`."""
    return tuple(x + (y - x) * share for x, y in zip(a, b, strict=True))  # type: ignore[return-value]


def lighter(c: Colour, share: float) -> Colour:
    return mix(c, (1.0, 1.0, 1.0), share)


def darker(c: Colour, share: float) -> Colour:
    """Towards a warm near-black: pure black shadows look dirty on skin."""
    return mix(c, (0.10, 0.05, 0.08), share)


SKIN = ("543121", "6b3f2a", "8d5636", "b17650", "d09b70", "e8bd96", "f6d6bb")
# black and white fill a tenth of the hair scale each, so that they are met often enough
HAIR = (
    "17141a",
    "1b1617",
    "3a241b",
    "5d3824",
    "7f3f25",
    "b4532a",
    "cf8a3e",
    "e6c172",
    "ded6c8",
    "f0eff0",
    "f4f4f6",
)
EYES = ("3a2213", "6a4322", "7d7434", "4b8a4f", "3f8fb5", "3d74c9", "5f9fe0")
HUES = ("d8433f", "ee8434", "f2c53d", "5fb15a", "35aaa0", "3f7fd0", "8057c2", "e86fa4")
HUE_NAMES = ("red", "orange", "yellow", "green", "teal", "blue", "purple", "pink")
