"""Opening a stranger's picture: limits before decoding, then upright RGB, or one sentence why not.

Gradio would decode an upload itself, and a PNG of 17 kB can unfold to 838 MB. So picture inputs
are `picture(...)`, which hands over a file path, and the path goes through `open_image`.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import IO, Any

import gradio as gr
import numpy as np
from gradio.data_classes import ImageData
from PIL import Image, ImageOps, UnidentifiedImageError

from demos.ui.variant import variant
from models.errors import InputError
from models.pictures import on_white

MAX_PIXELS = 24_000_000
MAX_ASPECT = 50  # a tower scales the short side to its own size, so the long side grows with this
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")


def _uploaded_path(component: gr.Image, payload: ImageData | None) -> str | None:
    """Where the upload lies; Gradio has checked that it lies among its uploads."""
    if payload is None:
        return None
    if payload.path is None:
        raise gr.Error("Give the picture as a file, not as a data address.", print_exception=False)
    return payload.path


# Gradio would let Pillow open the file first, and what it says of a bad one reaches nobody.
_Picture = variant(gr.Image, preprocess=_uploaded_path)


def picture(label: str = "Picture", **options: Any) -> gr.Image:
    """An input for one picture: upload, paste or webcam; its value is a path for `open_image`."""
    defaults = {
        "sources": ["upload", "clipboard", "webcam"],
        "height": 320,
        "buttons": ["fullscreen"],  # Gradio's share button would send the picture away
    }
    return _Picture(label=label, type="filepath", image_mode=None, **{**defaults, **options})


def open_image(path: str | Path | IO[bytes] | None, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The picture in a file, or an open one, as an upright RGB `PIL.Image`, sRGB uint8, at its full size.

    An animation gives its first frame, transparency lies on white, 16-bit grey is scaled.

    Raises InputError, before any pixel is decoded, for more than `max_pixels` pixels, for a side
    more than `MAX_ASPECT` times the other, and for anything that isn't one of `FORMATS`; and when
    the file turns out to be cut off or damaged.
    """
    if not path:
        raise InputError("Give a picture first: upload one, paste it, or choose an example.")
    try:
        with Image.open(path, formats=FORMATS) as image:
            _check_size(image.width, image.height, max_pixels)
            return _to_rgb(ImageOps.exif_transpose(_first_frame(image)))
    except InputError:
        raise
    except Image.DecompressionBombError:
        raise InputError(_too_large("This picture", max_pixels)) from None
    except UnidentifiedImageError:
        raise InputError(
            "This file is no picture we can read; save it as PNG, JPEG or WebP and try again."
        ) from None
    # Pillow reports damage as whatever its decoder stumbles over.
    except (OSError, SyntaxError, ValueError, EOFError, struct.error) as error:
        raise InputError(
            "This picture is damaged or cut off; save or download it again."
        ) from error


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise InputError(
            _too_large(f"This picture has {width} x {height} pixels, which", max_pixels)
        )
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise InputError(
            f"This picture is {width} x {height} pixels, a mere line; crop it so that one side is "
            f"at most {MAX_ASPECT} times the other."
        )


def _too_large(what: str, max_pixels: int) -> str:
    return f"{what} is too large; scale it down to {max_pixels / 1e6:g} megapixels or less."


def _first_frame(image: Image.Image) -> Image.Image:
    image.seek(0)
    image.load()
    return image


def _to_rgb(image: Image.Image) -> Image.Image:
    """Any mode to RGB: transparency over white, 16-bit grey divided by 257 rather than clipped."""
    if image.mode.startswith("I;16"):
        grey = np.asarray(image, dtype=np.float32) / 257.0  # (H, W) in [0, 255]
        return Image.fromarray(np.rint(grey).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise InputError("This picture has 32 bits per pixel and colour; save it with 8 or 16.")
    return on_white(image)
