"""The strength sweep and what becomes of it."""

from __future__ import annotations

import io
import math
from functools import partial
from pathlib import Path

import imageio.v2 as imageio
import numpy as np
import pytest
import torch
from PIL import Image

from models import film
from models.errors import InputError
from models.jobs import run_to_end
from models.styleclip.film import evenly, sweep, there_and_back
from models.styleclip.rendering import first_change
from models.stylegan.generator import to_pictures
from models.stylegan.latent import Latent
from tests.models.styleclip.directions_support import tiny_generator

pytestmark = pytest.mark.usefixtures("one_thread")


def late_direction() -> list[torch.Tensor]:
    """Moves the style vectors from index 5 on."""
    layout = tiny_generator().layout
    return [
        torch.full((slot.size,), float(i >= 5 and not slot.is_rgb)) for i, slot in enumerate(layout)
    ]


def test_a_sweep_renders_every_strength_as_if_alone() -> None:
    generator = tiny_generator()
    latent, direction = Latent.from_seed(generator, 2), late_direction()
    strengths = evenly(-2, 2, 5)
    steps = []
    job = sweep(generator, partial(latent.moved, direction), strengths, batch=2)
    try:
        while True:
            steps.append(next(job))
    except StopIteration as end:
        pictures = end.value
    assert [round(step.fraction, 3) for step in steps] == [0.4, 0.8, 1.0]
    assert steps[-1].preview is pictures[-1]
    for strength, picture in zip(strengths, pictures, strict=True):
        styles = latent.moved(direction, strength).styles(generator)
        with torch.no_grad():
            alone = to_pictures(generator.synthesize(styles))[0]
        assert np.abs(np.asarray(picture, int) - np.asarray(alone, int)).max() <= 1
    assert pictures[0] != pictures[-1]


def test_what_the_pictures_share_is_rendered_once() -> None:
    generator = tiny_generator()
    latent = Latent.from_seed(generator, 2)
    moved = [latent.moved(late_direction(), a).styles(generator) for a in (0.0, 1.0, 2.0)]
    assert first_change(moved) == 5
    assert first_change([moved[0], moved[0]]) == len(generator.layout) - 1
    sizes: list[int] = []
    hook = generator.layers[3].register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    run_to_end(sweep(generator, partial(latent.moved, late_direction()), [0.0, 1.0, 2.0], batch=1))
    hook.remove()
    assert sizes == [1]


def test_a_sweep_of_any_method() -> None:
    """Optimisation's strength is a line between two latents."""
    generator = tiny_generator()
    first, last = Latent.from_seed(generator, 2), Latent.from_seed(generator, 3)
    pictures = run_to_end(sweep(generator, partial(first.towards, last), [0.0, 1.0]))
    with torch.no_grad():
        ends = [to_pictures(generator.synthesize(x.styles(generator)))[0] for x in (first, last)]
    for picture, end in zip(pictures, ends, strict=True):
        assert np.abs(np.asarray(picture, int) - np.asarray(end, int)).max() <= 1


def test_a_sweep_stops_when_closed() -> None:
    generator = tiny_generator()
    job = sweep(
        generator,
        partial(Latent.from_seed(generator, 2).moved, late_direction()),
        evenly(0, 1, 6),
        batch=2,
    )
    assert next(job).message == "Rendered 2 of 6"
    job.close()
    with pytest.raises(StopIteration):
        next(job)


@pytest.mark.parametrize(
    ("strengths", "problem"),
    [
        ([], "at least one"),
        ([0.0, math.nan], "not at nan"),
        ([101.0], "not at 101"),
        ([0.0] * 601, "at most 600 frames"),
    ],
)
def test_strengths_out_of_range_are_refused(strengths: list[float], problem: str) -> None:
    generator = tiny_generator()
    at = partial(Latent.from_seed(generator, 2).moved, late_direction())
    with pytest.raises(InputError, match=problem):
        run_to_end(sweep(generator, at, strengths))


def test_a_latent_of_another_generator_is_refused() -> None:
    with pytest.raises(InputError, match="generator"):
        run_to_end(sweep(tiny_generator(), lambda _: Latent(torch.zeros(3, 5)), [0.0]))


def test_strengths_are_even_and_a_film_may_return() -> None:
    assert evenly(-1, 1, 5) == [-1, -0.5, 0, 0.5, 1]
    assert evenly(-1, 4, 1) == [4]
    a, b, c = (Image.new("RGB", (2, 2), color) for color in ("red", "green", "blue"))
    assert there_and_back([a, b, c]) == [a, b, c, b]
    assert there_and_back([a]) == [a]


# ------------------------------------------------------------------- models.film


def colours(*names: str, size: tuple[int, int] = (8, 6)) -> list[Image.Image]:
    return [Image.new("RGB", size, name) for name in names]


def test_a_strip_lays_pictures_side_by_side() -> None:
    sheet = film.strip(colours("red", "blue"), gap=3)
    assert sheet.size == (19, 6)
    row = np.asarray(sheet)[2]
    assert (row[:8] == (255, 0, 0)).all()
    assert (row[8:11] == 255).all()
    assert (row[11:] == (0, 0, 255)).all()


def test_a_gif_holds_its_frames_and_times() -> None:
    data = film.gif(colours("red", "lime", "blue"), fps=10, hold_s=1)
    with Image.open(io.BytesIO(data)) as image:
        shown = []
        for index in range(image.n_frames):
            image.seek(index)
            shown.append((image.convert("RGB").getpixel((3, 3)), image.info["duration"]))
        assert image.info["loop"] == 0
    assert shown == [((255, 0, 0), 100), ((0, 255, 0), 100), ((0, 0, 255), 1000)]


def test_an_mp4_holds_its_frames(tmp_path: Path) -> None:
    data = film.mp4(colours("red", "blue", size=(33, 32)), fps=10, hold_s=0.3)
    (tmp_path / "film.mp4").write_bytes(data)
    frames = imageio.mimread(tmp_path / "film.mp4")
    assert len(frames) == 5
    assert frames[0].shape == (32, 32, 3)
    for frame, colour in ((frames[0], (255, 0, 0)), (frames[-1], (0, 0, 255))):
        assert np.abs(frame.astype(int) - colour).mean() < 8


@pytest.mark.parametrize(
    ("frames", "options", "problem"),
    [
        ([], {}, "no frame"),
        (colours("red") + colours("red", size=(9, 9)), {}, "one size"),
        (colours("red") * 601, {}, "at most 600"),
        (colours("red", size=(40, 25)) * 3, {}, "million pixels"),
        (colours("red"), {"fps": 0}, "frames a second"),
        (colours("red"), {"fps": math.nan}, "frames a second"),
        (colours("red"), {"hold_s": 31}, "0 to 30 seconds"),
    ],
)
def test_films_out_of_range_are_refused(
    frames: list[Image.Image],
    options: dict[str, float],
    problem: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if problem == "million pixels":
        monkeypatch.setattr(film, "MAX_FILM_PIXELS", 2_000)
    for make in (film.gif, film.mp4):
        with pytest.raises(InputError, match=problem):
            make(frames, **options)
    if not options:
        with pytest.raises(InputError, match=problem):
            film.strip(frames)


def test_a_film_of_a_line_and_a_wide_gap_are_refused() -> None:
    with pytest.raises(InputError, match="two pixels"):
        film.mp4(colours("red", size=(1, 8)))
    with pytest.raises(InputError, match="gap"):
        film.strip(colours("red"), gap=-1)
