"""A stranger's film, read with limits: ffmpeg may open nothing but the one file, as one of the usual
containers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import imageio_ffmpeg
from PIL import Image

from demos.ui.images import MAX_PIXELS
from models.errors import InputError

VIDEOS = (".mp4", ".mov", ".m4v", ".webm", ".mkv", ".avi")
# Playlists among ffmpeg's formats make it read other files and addresses.
_FFMPEG_INPUT = (
    "-protocol_whitelist", "file", "-format_whitelist", "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi",
)  # fmt: skip


def film_facts(path: Path) -> dict[str, Any]:
    """What ffmpeg says of a film: `size`, `duration` and more. Raises InputError."""
    with closing(_read_film(path)) as film:
        facts: dict[str, Any] = _next(film, path)
    width, height = facts["size"]
    if width * height > MAX_PIXELS:
        raise InputError(f"The frames of {path.name} are too large; scale the video down.")
    return facts


def frames(path: Path, rate: float) -> Iterator[tuple[float, Image.Image]]:
    """Second and picture of `rate` frames a second of a film, the first at 0 s (`round=up`; ffmpeg
    takes the middles). Raises InputError."""
    size = film_facts(path)["size"]
    with closing(_read_film(path, "-vf", f"fps={rate:g}:round=up")) as film:
        _next(film, path)
        place = 0
        while (data := _next(film, path)) is not None:
            yield place / rate, Image.frombytes("RGB", size, data)
            place += 1


def _read_film(path: Path, *output: str) -> Any:
    return imageio_ffmpeg.read_frames(
        str(path), input_params=list(_FFMPEG_INPUT), output_params=list(output)
    )


def _next(film: Any, path: Path) -> Any:
    """The facts of a film, then its frames, then None."""
    try:
        return next(film, None)
    except (OSError, RuntimeError, IndexError, KeyError, ValueError) as error:
        raise InputError(
            f"The video {path.name} cannot be read; save it as MP4 (H.264) and try again."
        ) from error
