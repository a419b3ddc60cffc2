"""What a person fills in to have a picture edited, read with a sentence for all that is wrong."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeGuard

from gradio.utils import get_upload_folder

from demos.styleclip_kits import FIRST, Kit
from demos.ui.text import parse_choice, parse_line, parse_number, parse_seed, parse_whole
from models.catalog import row_of
from models.errors import InputError
from models.styleclip.optimization import SPACES, OptimizationSettings
from models.styleclip.prompt import EditPrompt
from models.stylegan.latent import MAX_BYTES, TRUNCATION

METHODS = {
    "Global directions": "directions",
    "Mapper": "mapper",
    "Optimise": "optimization",
}
SOURCES = {"Automatic": "auto", "Measured table": "table", "Gradient, any words": "gradient"}
SPACE_TITLES = {"W": "w", "W+": "w_plus", "StyleSpace": "style_space"}
MAX_SEED = 2**32 - 1
MAX_PSI = 1.5
MAX_BETA = 1.0
MAX_CHARS = 1_000  # the prompt itself is stricter


@dataclass(frozen=True)
class Range:
    """A slider's ends, step and first value, and what an API call may ask for."""

    low: float
    high: float
    first: float
    step: float


# A direction's strength counts standard deviations of its strongest channel, as in the paper; of
# the other methods 0 is the start, 1 the edit as it was found or trained, and 2 goes on beyond it.
STRENGTHS = {
    "directions": Range(-10.0, 10.0, 4.0, 0.1),
    "mapper": Range(-1.0, 2.0, 1.0, 0.02),
    "optimization": Range(-1.0, 2.0, 1.0, 0.02),
}


@dataclass(frozen=True)
class Form:
    """Every field as it came from the page or the API, unchecked, in the endpoint's order.

    strength: None is the method's usual one; disentanglement: None lets auto-beta choose.
    """

    method: str
    seed_or_latent: Any
    neutral: str
    target: str
    strength: float | None = None
    disentanglement: float | None = None
    steps: float = OptimizationSettings.mini().steps
    model: str = FIRST
    psi: float = TRUNCATION
    source: str = "auto"
    mapper: str = ""
    l2: float = OptimizationSettings.mini().l2
    identity: float = OptimizationSettings.mini().identity
    space: str = "w_plus"
    free: bool = False


@dataclass(frozen=True)
class Start:
    """Where an edit begins: a seed, or a latent file's bytes."""

    model: str
    seed: int | None
    psi: float
    data: bytes | None = None


@dataclass(frozen=True)
class Wish:
    """A form that makes sense.

    strength: None is the method's usual one. beta: None is automatic.
    """

    kit: Kit
    method: str
    start: Start
    target: str
    neutral: str
    strength: float | None
    beta: float | None
    source: str
    mapper: str
    optimization: OptimizationSettings
    free: bool

    @property
    def prompt(self) -> EditPrompt:
        return EditPrompt(self.target, self.neutral)

    def settings(self) -> dict[str, Any]:
        """What repeats the edit besides model and seed, for the JSON and inside files."""
        common = {"method": self.method, "neutral": self.neutral, "target": self.target,
                  "psi": self.start.psi}  # fmt: skip
        if self.method == "directions":
            return {**common, "source": self.source}
        if self.method == "mapper":
            return {**common, "mapper": self.mapper}
        settings = self.optimization
        return {
            **common, "steps": settings.steps, "l2": settings.l2, "identity": settings.identity,
            "space": settings.space, "free": self.free,
        }  # fmt: skip


def read_form(form: Form, kits: Mapping[str, Kit]) -> Wish:
    """What the form asks for.

    Raises:
        InputError: one sentence about the first thing that is wrong.
    """
    kit = kit_of(kits, form.model)
    method = parse_choice(form.method, METHODS.values(), "method")
    target, neutral = _words(form, method)
    beta = form.disentanglement
    return Wish(
        kit=kit,
        method=method,
        start=read_start(form.model, form.seed_or_latent, form.psi),
        target=target,
        neutral=neutral,
        strength=None if form.strength is None else parse_strength(form.strength, method),
        beta=None if beta is None else parse_beta(beta),
        source=parse_choice(form.source, SOURCES.values(), "source of directions"),
        mapper=form.mapper or "",
        optimization=_optimization(form, kit),
        free=bool(form.free) and method == "optimization",
    )


def kit_of(kits: Mapping[str, Kit], model: str) -> Kit:
    """The kit of a generator; InputError that lists the choices when there is none."""
    row_of({name: kit.row for name, kit in kits.items()}, model)
    return kits[model]


def _words(form: Form, method: str) -> tuple[str, str]:
    """Target and neutral text; a mapper that is named has its own."""
    if method == "mapper" and form.mapper:
        return (form.target or "")[:MAX_CHARS], (form.neutral or "")[:MAX_CHARS]
    target = parse_line(form.target, what="what the picture should show", max_chars=MAX_CHARS)
    neutral = form.neutral or ""
    if neutral.strip():
        neutral = parse_line(neutral, max_chars=MAX_CHARS)
    prompt = EditPrompt(target, neutral)
    return prompt.target, prompt.neutral


def _optimization(form: Form, kit: Kit) -> OptimizationSettings:
    return replace(
        kit.optimization,
        steps=parse_whole(form.steps, what="The number of steps"),
        l2=parse_number(form.l2, what="The L2 weight"),
        identity=parse_number(form.identity, what="The identity weight"),
        space=parse_choice(form.space, SPACES, "space"),
    )


def read_start(model: str, seed_or_latent: Any, psi: float | None) -> Start:
    """A seed (None throws the dice) or the path of an uploaded latent.

    Raises:
        InputError: neither, or out of range.
    """
    psi = parse_number(psi, what="The truncation")
    if not 0 <= psi <= MAX_PSI:
        raise InputError(f"The truncation lies between 0 and {MAX_PSI}, not at {psi:g}.")
    if isinstance(seed_or_latent, dict):  # a file, as the API's clients send one
        seed_or_latent = str(seed_or_latent.get("path", ""))
    if isinstance(seed_or_latent, str) and not seed_or_latent.strip().isdecimal():
        return Start(model, None, psi, read_upload(seed_or_latent))
    if isinstance(seed_or_latent, str):
        seed_or_latent = int(seed_or_latent[:20])
    seed = parse_seed(seed_or_latent)
    if not 0 <= seed <= MAX_SEED:
        raise InputError(f"The seed lies between 0 and {MAX_SEED}, not at {seed}.")
    return Start(model, seed, psi)


def read_upload(path: str | None) -> bytes:
    """The bytes of a latent file that was uploaded, at most one more than may be.

    Raises:
        InputError: there is none. A path that is no upload is none: it may be anybody's file.
    """
    if not is_upload(path):
        raise InputError("Give a seed, a whole number, or upload a latent file saved by this tab.")
    with Path(path).open("rb") as file:
        return file.read(MAX_BYTES + 1)


def is_upload(path: str | None) -> TypeGuard[str]:
    """Whether a path is that of an uploaded file, and no way out of Gradio's folder."""
    uploads = Path(get_upload_folder()).resolve()
    return path is not None and Path(path).is_file() and uploads in Path(path).resolve().parents


def parse_strength(value: float | None, method: str) -> float:
    """InputError for what is no number or beyond the method's slider."""
    ends, number = STRENGTHS[method], parse_number(value, what="The strength")
    if not ends.low <= number <= ends.high:
        raise InputError(
            f"The strength lies between {ends.low:g} and {ends.high:g} here, not at {number:g}."
        )
    return number


def parse_beta(value: float | None) -> float:
    """InputError for what is no number or out of range."""
    number = parse_number(value, what="The disentanglement")
    if not 0 <= number <= MAX_BETA:
        raise InputError(f"The disentanglement lies between 0 and {MAX_BETA:g}, not at {number:g}.")
    return number
