"""Films and film strips of Pillow pictures: GIF, MP4 and one wide picture."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import imageio.v2 as imageio
import numpy as np
from PIL import Image

from models.errors import InputError
from models.pictures import on_white

MAX_FRAMES = 600
MAX_FILM_PIXELS = 2**27  # of all frames together: 600 of 472 x 472, or 128 of 1024 x 1024


def strip(pictures: Iterable[Image.Image], *, gap: int = 0) -> Image.Image:
    """Pictures of one size side by side, from left to right; RGB, white between them.

    Args:
        gap: white pixels between neighbours, 0 to 256.

    Raises:
        InputError: no picture, too many or too large ones, different sizes, a gap out of range.
    """
    if not 0 <= gap <= 256:
        raise InputError(f"The gap in a film strip has 0 to 256 pixels, not {gap}.")
    frames = list(checked(pictures))
    width, height = frames[0].size
    sheet = Image.new("RGB", (len(frames) * (width + gap) - gap, height), "white")
    for place, frame in enumerate(frames):
        sheet.paste(frame, (place * (width + gap), 0))
    return sheet


def gif(frames: Iterable[Image.Image], *, fps: float = 12.5, hold_s: float = 2.0) -> bytes:
    """An endlessly repeated GIF of frames of one size; transparent ones lie on white.

    Args:
        fps: frames a second, 1 to 50; GIF counts in hundredths of a second.
        hold_s: seconds that the last frame stays, 0 to 30.

    Raises:
        InputError: no frame, too many or too large ones, different sizes, or numbers out of range.
    """
    check_times(fps, hold_s)
    opaque = list(checked(frames))
    palette = _palette(opaque)
    indexed = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in opaque]
    every, last = round(100 / fps) * 10, round(hold_s * 100) * 10  # ms
    stream = io.BytesIO()
    indexed[0].save(
        stream,
        "GIF",
        save_all=True,
        append_images=indexed[1:],
        duration=[every] * (len(indexed) - 1) + [max(every, last)],
        loop=0,
    )
    return stream.getvalue()


def _palette(frames: Sequence[Image.Image]) -> Image.Image:
    """The 256 colours of all frames, chosen from up to 9 spread over the film.

    One palette and no dithering keep what does not move the same from frame to frame, so that
    only what changes is stored: a tenth of the size that a palette for each frame takes. The most
    frequent colour is in it as it is, since paper that is nearly white looks like a mistake.
    """
    spread = np.linspace(0, len(frames) - 1, min(9, len(frames))).round().astype(int)
    pixels = np.concatenate([np.asarray(frames[index]).reshape(-1, 3) for index in spread])
    sample = Image.fromarray(pixels[:: 1 + len(pixels) // 2**19][None])  # one row
    indexed = sample.quantize(256, method=Image.Quantize.FASTOCTREE)
    colors = np.array(indexed.getpalette() or [], dtype=np.int64).reshape(-1, 3)
    frequent = np.array(max(sample.getcolors(sample.width) or [])[1])
    # In place of its neighbour: of two that are close, Pillow may take the wrong one.
    colors[((colors - frequent) ** 2).sum(1).argmin()] = frequent
    palette = Image.new("P", (1, 1))
    palette.putpalette(colors.flatten().tolist())
    return palette


def mp4(frames: Iterable[Image.Image], *, fps: float = 25.0, hold_s: float = 2.0) -> bytes:
    """An MP4 (H.264, plays everywhere) of frames of one size; transparent ones lie on white.

    An odd side loses its last line of pixels, as the colour format wants even ones.

    Args and errors as `gif`; a side of one pixel is refused, too.
    """
    check_times(fps, hold_s)
    held = _hold(checked(frames), round(hold_s * fps))
    first = next(held)
    if min(first.size) < 2:
        raise InputError("A film is at least two pixels wide and high; make it larger.")
    with TemporaryDirectory() as folder:
        path = Path(folder) / "film.mp4"
        writer: Any = imageio.get_writer(path, format="FFMPEG", **_h264(fps))
        with writer:
            for frame in chain([first], held):
                writer.append_data(np.asarray(frame)[: first.height & ~1, : first.width & ~1])
        return path.read_bytes()


def _h264(fps: float) -> dict[str, Any]:
    """Options for ffmpeg; colours are converted and labelled as BT.709, what players expect."""
    convert = "scale=out_color_matrix=bt709:out_range=tv"
    label = "setparams=colorspace=bt709:color_primaries=bt709:color_trc=bt709:range=tv"
    return {
        "fps": fps,
        "codec": "libx264",
        "macro_block_size": 1,  # or imageio resizes to multiples of 16
        "pixelformat": "yuv420p",
        "quality": None,
        "output_params": ["-vf", f"{convert},{label}", "-crf", "16", "-movflags", "+faststart"],
    }


def check_times(fps: float, hold_s: float) -> None:
    """Raises InputError unless `gif` and `mp4` take these numbers."""
    if not 1 <= fps <= 50:
        raise InputError(f"A film has 1 to 50 frames a second, not {fps:g}.")
    if not 0 <= hold_s <= 30:
        raise InputError(f"The last frame can stay 0 to 30 seconds, not {hold_s:g}.")


def check_film(count: int, size: tuple[int, int]) -> None:
    """Raises InputError for more frames, or more pixels in all of them, than a film may have."""
    if count > MAX_FRAMES:
        raise InputError(f"A film has at most {MAX_FRAMES} frames; take every second one.")
    if count * math.prod(size) > MAX_FILM_PIXELS:
        raise InputError(
            f"A film has at most {MAX_FILM_PIXELS / 1e6:.0f} million pixels in all its frames; "
            "make it smaller or shorter."
        )


def checked(frames: Iterable[Image.Image]) -> Iterator[Image.Image]:
    """RGB frames, refused where a film gets too long, too large, or has no frame at all."""
    size: tuple[int, int] | None = None
    for count, frame in enumerate(frames, start=1):
        size = size or frame.size
        if frame.size != size:
            raise InputError("The frames of a film have one size; scale them first.")
        check_film(count, size)
        yield on_white(frame)
    if size is None:
        raise InputError("There is no frame to make a film of; make a picture first.")


def _hold(frames: Iterator[Image.Image], times: int) -> Iterator[Image.Image]:
    """The frames, the last one `times` times more."""
    for frame in frames:
        last = frame
        yield frame
    for _ in range(times):
        yield last
