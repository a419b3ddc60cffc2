"""What long work looks like everywhere in CLIP Atelier.

A job is a generator: it yields a `Step` whenever it has something to show and returns its result.
Closing it stops the work. The page, the API, the command line and the tests all drive the same
generator, so nothing here knows who is listening.

A job is stepped by one thread from beginning to end, so thread-local state (torch's gradient
mode, for one) may stay open across its yields.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias, TypeVar

if TYPE_CHECKING:
    from PIL.Image import Image

_T = TypeVar("_T")


@dataclass(frozen=True)
class Step:
    """One moment of a job.

    fraction: how much is done, in [0, 1].
    message:  what is happening, a few plain words.
    preview:  an intermediate picture, if there is one to show.
    metrics:  numbers worth a curve or a readout, by name.

    Raises ValueError for a fraction outside [0, 1], NaN included.
    """

    fraction: float
    message: str
    preview: Image | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0.0 <= self.fraction <= 1.0:
            raise ValueError(f"A step's fraction lies in [0, 1], not at {self.fraction}.")


Job: TypeAlias = Generator[Step, None, _T]
"""Yields steps, returns a result; `close()` stops it."""


def run_to_end(job: Job[_T]) -> _T:
    """Drive `job` without showing its steps and return its result (for scripts and tests)."""

    while True:
        try:
            next(job)
        except StopIteration as end:
            result: _T = end.value
            return result
