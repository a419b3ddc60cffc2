"""What a person may choose about a drawing, with the reference's and our own presets."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from models.errors import InputError

from .backends import RASTERIZERS
from .critic import Augmentation, Scoring

RGB = tuple[float, float, float]
WHITE: RGB = (1.0, 1.0, 1.0)
PAPER: RGB = (0.965, 0.945, 0.9)
MAX_STROKES = 1024
MAX_STEPS = 5000
MAX_SIDE = 2048
REFERENCE_SIDE = 224  # canvas on which the learning rates and widths of the presets are given


@dataclass(frozen=True)
class Palette:
    """Which colours strokes may have.

    Attributes:
        colors: the only colours, RGB in [0, 1]; empty leaves the choice free.
        learned: this many colours, found together with the strokes; 0 leaves `colors` alone.
    """

    colors: tuple[RGB, ...] = ()
    learned: int = 0

    def __post_init__(self) -> None:
        if self.colors and self.learned:
            raise InputError("Give either the palette's colours or how many to find, not both.")
        if not 0 <= self.learned <= 16 or len(self.colors) > 16:
            raise InputError("A palette has at most 16 colours.")
        if any(not 0 <= part <= 1 for color in self.colors for part in color):
            raise InputError("A colour's red, green and blue lie in [0, 1].")

    @staticmethod
    def black() -> Palette:
        return Palette(colors=((0.0, 0.0, 0.0),))


@dataclass(frozen=True)
class DrawConfig:
    """Everything that decides a drawing besides the words and the critic.

    Lengths and rates are pixels of a 224 px canvas and grow with it.

    Attributes:
        strokes: how many, 1 to 1024.
        steps: of the optimiser, 1 to 5000.
        canvas: width and height in pixels, 16 to 2048 each.
        max_segments: cubic segments of a stroke, 1 to this many.
        half_width: of a new stroke.
        width_range: smallest and largest half width; equal ends fix the width.
        palette: which colours.
        background: RGB in [0, 1]; None is transparent, judged over random light grounds.
        point_rate, width_rate, color_rate: Adam's learning rates.
        schedule: "steps" is the reference's (0.4 from half way, 0.1 from three quarters, points
            only), "cosine" falls smoothly, for all.
        start: "random" or "gradient".
        stages: share of the strokes present from the beginning of each equal part of the first
            60% of the steps; (1.0,) starts with all.
        reseed_every: steps between looking for strokes that do nothing; 0 never.
        blur: standard deviation of the blur over the views at the beginning, as a fraction of
            their side; gone at half of the steps.
        ink: cost of the mean alpha; lets strokes vanish that do nothing, to begin anew elsewhere.
        centred: how strongly the first strokes keep to the middle; 0 not at all, 1 fully.
        augmentation, scoring: how the critic looks and what it is asked.
        rasterizer: a name of `backends.RASTERIZERS`: "built-in", or diffvg where it is installed.
        seed: of everything random; on a CPU the same seed gives the same drawing.
    """

    strokes: int = 96
    steps: int = 250
    canvas: tuple[int, int] = (REFERENCE_SIDE, REFERENCE_SIDE)
    max_segments: int = 3
    half_width: float = 3.0
    width_range: tuple[float, float] = (1.0, 12.0)
    palette: Palette = field(default_factory=Palette)
    background: RGB | None = WHITE
    point_rate: float = 2.0
    width_rate: float = 0.2
    color_rate: float = 0.03
    schedule: str = "cosine"
    start: str = "gradient"
    stages: tuple[float, ...] = (0.4, 0.7, 1.0)
    reseed_every: int = 40
    blur: float = 0.03
    ink: float = 0.02
    centred: float = 1.0
    augmentation: Augmentation = field(default_factory=Augmentation.strong)
    scoring: Scoring = field(default_factory=Scoring)
    rasterizer: str = "built-in"
    seed: int = 0

    @staticmethod
    def default() -> DrawConfig:
        """For a large critic: the paper's objective, our start, stages and schedule."""
        return DrawConfig(augmentation=replace(Augmentation.strong(), copies=4))

    @staticmethod
    def mini() -> DrawConfig:
        """For clip-mini: more views, and scores told apart from those of all other words."""
        return DrawConfig(steps=150, scoring=Scoring(contrast=0.3))

    @staticmethod
    def reference() -> DrawConfig:
        """The notebook's constants."""
        return DrawConfig(
            strokes=256, steps=1000, half_width=1.0, width_range=(1.0, 50.0),
            point_rate=1.0, width_rate=0.1, color_rate=0.01, schedule="steps", start="random",
            stages=(1.0,), reseed_every=0, blur=0.0, ink=0.0, centred=0.0, augmentation=Augmentation(),
            scoring=Scoring(normalize=False),
        )  # fmt: skip

    def __post_init__(self) -> None:
        low, high = self.width_range
        check_ranges(
            ("The number of strokes", self.strokes, 1, MAX_STROKES),
            ("The number of steps", self.steps, 1, MAX_STEPS),
            ("The canvas's width", self.canvas[0], 16, MAX_SIDE),
            ("The canvas's height", self.canvas[1], 16, MAX_SIDE),
            ("The segments of a stroke", self.max_segments, 1, 8),
            ("The smallest half width", low, 0.1, 100),
            ("The largest half width", high, low, 100),
            ("The half width", self.half_width, 0.1, 100),
            ("The points' rate", self.point_rate, 0, 100),
            ("The widths' rate", self.width_rate, 0, 100),
            ("The colours' rate", self.color_rate, 0, 1),
            ("The blur", self.blur, 0, 1),
            ("The cost of ink", self.ink, 0, 1),
            ("How far the first strokes are centred", self.centred, 0, 1),
            ("The number of steps between beginning strokes anew", self.reseed_every, 0, MAX_STEPS),
            ("The seed", self.seed, 0, 2**32 - 1),
            *(("A share of strokes", share, 0, 1) for share in self.stages),
            *(("A part of the background", part, 0, 1) for part in self.background or ()),
        )
        if not self.stages:
            raise InputError("Give at least one share of strokes to begin with; (1.0,) is all.")
        if self.schedule not in ("steps", "cosine") or self.start not in ("random", "gradient"):
            raise InputError("Schedules are steps or cosine, starts are random or gradient.")
        if self.rasterizer not in RASTERIZERS:
            raise InputError(f"Rasterisers are {', '.join(RASTERIZERS)}.")

    @property
    def scale(self) -> float:
        """Pixels of this canvas for one of the 224 px canvas."""
        return max(self.canvas) / REFERENCE_SIDE


def check_ranges(*rows: tuple[str, float, float, float]) -> None:
    """Raises InputError for the first (name, value, least, most) that is out of its range."""
    for name, value, least, most in rows:
        if not least <= value <= most:  # also refuses NaN
            raise InputError(f"{name} lies between {least:g} and {most:g}, not at {value:g}.")
