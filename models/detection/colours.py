"""Colours that tell phrases apart, on pictures and in the page's text, and that can be read."""

from __future__ import annotations

from functools import lru_cache
from itertools import product

import numpy as np
import numpy.typing as npt
from PIL import ImageColor

Floats = npt.NDArray[np.float64]
Rgb = tuple[int, int, int]

# Relative luminances (WCAG 2) with a contrast of 3 both to the page's light grounds, down to
# #eef0f5, and to its dark ones, up to #232838.
LUMINANCES = (0.165, 0.255)
CHROMAS = (0.09, 0.23)  # OKLab; greyer lines drown in photographs, neon glares beside them
FIRST_COLOUR = "#5a5cf0"  # the house's ultramarine
LEGIBLE = 4.5  # contrast of small text (WCAG 2, AA)


def phrase_colours(count: int) -> tuple[str, ...]:
    """`count` colours "#rrggbb", each as unlike those before it as can be.

    As text they have a contrast of at least 3 (WCAG 2) on the page's light and dark grounds. More
    phrases leave the first ones' colours alone; beyond the palette (hundreds) they repeat.
    """
    palette = _palette()
    return tuple(palette[i % len(palette)] for i in range(count))


def contrast(a: str, b: str) -> float:
    """WCAG 2's contrast of two colours "#rrggbb", 1 to 21."""
    dark, light = sorted(float(_luminance(_linear(np.array(rgb_of(c))))) for c in (a, b))
    return (light + 0.05) / (dark + 0.05)


@lru_cache(maxsize=1024)
def plate_and_text(colour: str) -> tuple[str, str]:
    """The colours of a label's plate and its text, with a contrast of at least 4.5.

    White on the colour, darkened as far as it takes; black on colours too light for that (with
    which white has a contrast below 3).
    """
    if contrast(colour, "#ffffff") < 3:
        return colour, "#000000"
    linear = _linear(np.array(rgb_of(colour)))
    brightest = 1.05 / LEGIBLE - 0.05
    dimmed = linear * min(1.0, brightest / max(float(_luminance(linear)), 1e-6))
    return _hex(np.floor(255 * _encoded(dimmed)).astype(int)), "#ffffff"


def rgb_of(colour: str) -> Rgb:
    """0..255 each of a colour as CSS writes it."""
    red, green, blue = ImageColor.getrgb(colour)[:3]
    return red, green, blue


@lru_cache(maxsize=1)
def _palette() -> tuple[str, ...]:
    levels = range(0, 256, 17)
    rgb = np.array(list(product(levels, levels, levels)))  # (4096, 3)
    linear = _linear(rgb)
    lab = _oklab(linear)
    fits = _between(_luminance(linear), LUMINANCES)
    fits &= _between(np.hypot(lab[:, 1], lab[:, 2]), CHROMAS)
    rgb, lab = rgb[fits], lab[fits]
    first = _oklab(_linear(np.array(rgb_of(FIRST_COLOUR))))
    order = [int(np.linalg.norm(lab - first, axis=1).argmin())]
    distance = np.full(len(rgb), np.inf)
    while len(order) < len(rgb):
        distance = np.minimum(distance, np.linalg.norm(lab - lab[order[-1]], axis=1))
        order.append(int(distance.argmax()))
    return tuple(_hex(rgb[i]) for i in order)


def _between(values: Floats, bounds: tuple[float, float]) -> npt.NDArray[np.bool_]:
    return (values >= bounds[0]) & (values <= bounds[1])


def _linear(rgb: npt.NDArray[np.int_]) -> Floats:
    """Linear light of sRGB values 0..255."""
    value = rgb / 255
    return np.asarray(np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4))


def _encoded(linear: Floats) -> Floats:
    """sRGB values 0..1 of linear light."""
    return np.asarray(
        np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)
    )


def _luminance(linear: Floats) -> Floats:
    return np.asarray(linear @ np.array([0.2126, 0.7152, 0.0722]))


def _oklab(linear: Floats) -> Floats:
    """Ottosson 2020, "A perceptual color space for image processing": distances as seen."""
    to_lms = np.array(
        [
            [0.4122214708, 0.5363325363, 0.0514459929],
            [0.2119034982, 0.6806995451, 0.1073969566],
            [0.0883024619, 0.2817188376, 0.6299787005],
        ]
    )
    to_lab = np.array(
        [
            [0.2104542553, 0.7936177850, -0.0040720468],
            [1.9779984951, -2.4285922050, 0.4505937099],
            [0.0259040371, 0.7827717662, -0.8086757660],
        ]
    )
    return np.asarray(np.cbrt(linear @ to_lms.T) @ to_lab.T)


def _hex(rgb: npt.NDArray[np.int_]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*rgb.tolist())
