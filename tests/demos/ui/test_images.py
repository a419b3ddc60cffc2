"""What `open_image` does with every kind of file a stranger may hand over."""

from __future__ import annotations

import contextlib
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from demos.ui.images import open_image
from models.errors import InputError

RED, WHITE, BLUE = (255, 0, 0), (255, 255, 255), (0, 0, 255)


def near(
    image: Image.Image, xy: tuple[int, int], colour: tuple[int, int, int], by: int = 6
) -> bool:
    return bool(np.abs(np.subtract(image.getpixel(xy), colour)).max() <= by)


def saved(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)  # type: ignore[arg-type]
    return path


def two_colours(size: tuple[int, int] = (40, 20)) -> Image.Image:
    """Left half red, right half blue."""
    image = Image.new("RGB", size, RED)
    image.paste(BLUE, (size[0] // 2, 0, *size))
    return image


def bomb(path: Path, width: int, height: int) -> Path:
    """A black 8-bit grey PNG of a few kB that unfolds to `width` x `height`."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    packer = zlib.compressobj(9)
    row = bytes(1 + width)
    body = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
    )
    return path


def png(path: Path) -> Path:
    return saved(path / "a.png", two_colours())


def named_wrongly(path: Path) -> Path:
    return saved(path / "a.jpg", two_colours(), format="PNG")


def gif(path: Path) -> Path:
    frames = [Image.new("RGB", (40, 20), colour) for colour in (BLUE, WHITE)]
    return saved(path / "a.gif", two_colours(), save_all=True, append_images=frames)


def webp(path: Path) -> Path:
    frames = [Image.new("RGB", (40, 20), colour) for colour in (BLUE, WHITE)]
    return saved(path / "a.webp", two_colours(), save_all=True, append_images=frames, lossless=True)


def cmyk(path: Path) -> Path:
    return saved(path / "a.jpg", two_colours().convert("CMYK"), quality=95)


def palette_alpha(path: Path) -> Path:
    image = two_colours().quantize(4)
    clear = image.getpixel((39, 0))
    return saved(path / "a.png", image, transparency=clear)


def rgba(path: Path) -> Path:
    image = two_colours().convert("RGBA")
    image.paste((0, 0, 0, 0), (20, 0, 40, 20))
    return saved(path / "a.png", image)


def rotated(path: Path) -> Path:
    """Stored lying on its side, with the EXIF note that says so."""
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = two_colours().transpose(Image.Transpose.ROTATE_90)
    return saved(path / "a.jpg", stored, exif=exif, quality=95, subsampling=0)


def tiff_float(path: Path) -> Path:
    return saved(path / "a.tiff", Image.fromarray(np.zeros((20, 40), np.float32)))


@pytest.mark.parametrize(
    ("make", "left", "right"),
    [
        (png, RED, BLUE),
        (named_wrongly, RED, BLUE),
        (gif, RED, BLUE),
        (webp, RED, BLUE),
        (cmyk, RED, BLUE),
        (palette_alpha, RED, WHITE),
        (rgba, RED, WHITE),
        (rotated, RED, BLUE),
    ],
)
def test_opens_as_upright_rgb(
    make: Callable[[Path], Path], left: tuple, right: tuple, tmp_path: Path
) -> None:
    image = open_image(make(tmp_path))
    assert (image.mode, image.size) == ("RGB", (40, 20))
    assert near(image, (3, 10), left)
    assert near(image, (36, 10), right)


@pytest.mark.parametrize("size", [(1, 1), (50, 1), (4000, 6000)])
def test_opens_up_to_the_limits(size: tuple[int, int], tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png", Image.new("L", size, 128))
    assert open_image(path).size == size


def test_sixteen_bits_are_scaled_not_clipped(tmp_path: Path) -> None:
    ramp = np.linspace(0, 65535, 256, dtype=np.uint16)[None].repeat(10, axis=0)
    image = open_image(saved(tmp_path / "a.png", Image.fromarray(ramp)))
    assert np.array_equal(np.asarray(image)[0, :, 0], np.arange(256))


def test_half_transparent_lies_on_white(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png", Image.new("RGBA", (4, 4), (255, 0, 0, 128)))
    assert near(open_image(path), (1, 1), (255, 127, 127), by=1)


def truncated(path: Path) -> Path:
    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), np.uint8)
    whole = saved(path / "whole.jpg", Image.fromarray(noise))
    part = path / "a.jpg"
    part.write_bytes(whole.read_bytes()[:9000])
    return part


def truncated_png(path: Path) -> Path:
    part = path / "cut.png"
    part.write_bytes(png(path).read_bytes()[:60])
    return part


def written(name: str, data: bytes) -> Callable[[Path], Path]:
    def make(path: Path) -> Path:
        (path / name).write_bytes(data)
        return path / name

    return make


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda _: None, "Give a picture first"),
        (lambda path: bomb(path / "a.png", 12_000, 12_000), "12000 x 12000 .* 24 megapixels"),
        (lambda path: bomb(path / "a.png", 100_000, 100_000 // 50), "24 megapixels"),
        (lambda path: bomb(path / "a.png", 10_000, 1), "10000 x 1 .* at most 50 times"),
        (lambda path: bomb(path / "a.png", 51, 1), "at most 50 times"),
        (truncated, "damaged or cut off"),
        (truncated_png, "damaged or cut off"),
        (tiff_float, "32 bits"),
        (written("a.png", b"<svg xmlns='http://www.w3.org/2000/svg'/>"), "no picture we can read"),
        (written("a.png", b""), "no picture we can read"),
        (written("a.eps", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"), "no picture"),
        (lambda path: path / "gone.png", "damaged or cut off"),
    ],
)
def test_refuses_with_a_sentence(
    make: Callable[[Path], Path | None], sentence: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=sentence):
        open_image(make(tmp_path))


def test_every_cut_of_a_file_is_a_picture_or_a_sentence(tmp_path: Path) -> None:
    for make in (gif, webp, cmyk, palette_alpha):
        data = make(tmp_path).read_bytes()
        for end in range(0, len(data), max(len(data) // 40, 1)):
            part = tmp_path / "part"
            part.write_bytes(data[:end])
            with contextlib.suppress(InputError):
                assert open_image(part).size == (40, 20)


def test_a_bomb_is_refused_before_it_takes_memory(tmp_path: Path) -> None:
    path = bomb(tmp_path / "a.png", 12_000, 12_000)
    assert path.stat().st_size < 200_000
    script = f"""
import resource
from demos.ui.images import open_image
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try: open_image({str(path)!r})
except ValueError: print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    run = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=Path.cwd()
    )
    assert int(run.stdout) < 20_000  # kB; decoded it would be 144,000
