"""The strength sweep: one edit from weak to strong, as pictures for a film strip, GIF or MP4.

at = partial(latent.moved, direction.direction)
pictures = run_to_end(sweep(generator, at, evenly(-5, 5, 11)))
models.film.strip(pictures).save("sweep.png")
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from PIL import Image

from models.errors import InputError
from models.film import check_film
from models.jobs import Job, Step
from models.stylegan.generator import Generator, to_pictures
from models.stylegan.latent import Latent

from .rendering import first_change, prefix, repeated

MAX_STRENGTH = 100.0  # far beyond the sliders, where every picture is ruined


def evenly(first: float, last: float, count: int) -> list[float]:
    """`count` strengths from `first` to `last`, both included; a single one is `last`."""
    if count == 1:
        return [last]
    return [first + (last - first) * n / (count - 1) for n in range(count)]


def there_and_back(pictures: Sequence[Image.Image]) -> list[Image.Image]:
    """A sweep that returns the way it came, for a film without a jump when it repeats."""
    return [*pictures, *pictures[-2:0:-1]]


def sweep(
    generator: Generator,
    at: Callable[[float], Latent],
    strengths: Sequence[float],
    *,
    batch: int = 8,
) -> Job[list[Image.Image]]:
    """Render an edit at every strength; a step with a preview for every batch.

    Synthesis up to the first style vector that differs between the pictures is done once.

    Args:
        at: strength -> latent: `partial(latent.moved, direction)`,
            `partial(start.towards, result)`, or a mapper's.
        strengths: in the order of the film, within -100 and 100.
        batch: pictures rendered at once.

    Raises:
        InputError: no strength, too many (for a film of this generator's pictures), one that is
            no number or out of range, or a latent of another generator.
    """
    if not strengths:
        raise InputError("A sweep needs at least one strength.")
    check_film(len(strengths), (generator.size, generator.size))
    wrong = [s for s in strengths if not (math.isfinite(s) and abs(s) <= MAX_STRENGTH)]
    if wrong:
        raise InputError(f"A strength lies within ±{MAX_STRENGTH:g}, not at {wrong[0]}.")
    latents = [at(strength) for strength in strengths]
    for latent in latents:
        latent.check(generator)
    pictures: list[Image.Image] = []
    with torch.no_grad():
        styles = [latent.styles(generator) for latent in latents]
        shared = prefix(generator, styles[0], first_change(styles))
        for start in range(0, len(styles), batch):
            chunk = [torch.cat(vectors) for vectors in zip(*styles[start : start + batch])]
            stage = repeated(shared, len(chunk[0]))
            pictures += to_pictures(generator.synthesize(chunk, start=stage))
            count = len(pictures)
            yield Step(count / len(styles), f"Rendered {count} of {len(styles)}", pictures[-1])
    return pictures
