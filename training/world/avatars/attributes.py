"""What an avatar is made of: a table of continuous attributes and how they are sampled.

An avatar is a row of `len(ATTRIBUTES)` numbers in [0, 1], in the order of `ATTRIBUTES`. `Look`
names them: `as_look(row).smile`.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

LATENT_SIZE = 64  # normal numbers behind an avatar; at least one direction per attribute
_ORIENTATION_SEED = 20210401  # fixes how latent directions mix into attributes, for good

Quantiles = Callable[
    [NDArray[np.float64]], NDArray[np.float64]
]  # rank in [0, 1] -> value in [0, 1]


@dataclass(frozen=True)
class Attribute:
    """One continuous property of a drawn face, a number in [0, 1].

    Attributes:
        name: field of `Look`.
        low: a value <= `low` makes the `negative` phrases plainly true.
        high: a value >= `high` makes the `positive` phrases plainly true.
        positive: what to say at the high end, as it follows "a person"; empty when there are no
            words for the ends of this scale (see `captions.BANDS` for colours).
        negative: what to say at the low end.
        quantiles: the value at a rank; decides how often which values are drawn.
    """

    name: str
    low: float
    high: float
    positive: tuple[str, ...]
    negative: tuple[str, ...]
    quantiles: Quantiles


def even(rank: NDArray[np.float64]) -> NDArray[np.float64]:
    """All values equally often."""
    return rank


def present(share: float) -> Quantiles:
    """There or not there, seldom in between: plainly on (value > 0.8) for about `share`.

    The switch has a soft edge, so that a path through latent space grows a beard gradually.
    """
    width = 0.018  # of the logistic edge, in ranks: about one face in twenty lies on it
    middle = 1 - share - width * np.log(0.8 / 0.2)

    def value(rank: NDArray[np.float64]) -> NDArray[np.float64]:
        return 1 / (1 + np.exp(-(rank - middle) / width))

    return value


def mostly(centre: float, power: float = 2.2) -> Quantiles:
    """Values gathered around `centre`, both ends still reached."""

    def value(rank: NDArray[np.float64]) -> NDArray[np.float64]:
        side = 2 * rank - 1
        reach = np.where(side < 0, centre, 1 - centre)
        return centre + np.sign(side) * np.abs(side) ** power * reach

    return value


ATTRIBUTES: tuple[Attribute, ...] = (
    # the head
    Attribute(
        "skin_tone",
        0.25,
        0.75,
        ("with pale skin", "with fair skin", "with light skin"),
        ("with dark skin", "with deep brown skin", "with dark brown skin"),
        even,
    ),
    Attribute(
        "face_width",
        0.25,
        0.75,
        ("with a wide face", "with a broad face"),
        ("with a narrow face", "with a slim face"),
        even,
    ),
    Attribute(
        "jaw",
        0.2,
        0.8,
        ("with a square jaw", "with an angular jaw"),
        ("with a pointed chin", "with a narrow chin"),
        even,
    ),
    Attribute(
        "age_lines",
        0.2,
        0.8,
        ("with wrinkles", "with a wrinkled face", "with age lines", "who is old"),
        ("with smooth skin", "without wrinkles", "who is young"),
        present(0.38),
    ),
    Attribute(
        "freckles",
        0.2,
        0.8,
        ("with freckles", "with a freckled face"),
        ("without freckles", "with clear skin"),
        present(0.36),
    ),
    Attribute(
        "blush",
        0.2,
        0.8,
        ("with rosy cheeks", "who is blushing", "with red cheeks"),
        ("with pale cheeks", "without blush"),
        present(0.38),
    ),
    # hair
    Attribute(
        "hair_length",
        0.3,
        0.7,
        ("with long hair", "with hair over the shoulders"),
        ("with short hair", "with cropped hair"),
        even,
    ),
    Attribute(
        "hair_curl",
        0.2,
        0.75,
        ("with curly hair", "with curls"),
        ("with straight hair", "with sleek hair"),
        even,
    ),
    Attribute(
        "hair_volume",
        0.2,
        0.8,
        ("with big hair", "with voluminous hair"),
        ("with flat hair", "with thin hair"),
        even,
    ),
    Attribute(
        "fringe",
        0.2,
        0.8,
        ("with a fringe", "with bangs"),
        ("with a bare forehead", "with a high hairline"),
        even,
    ),
    Attribute("parting", 0.2, 0.8, (), (), even),
    Attribute(
        "hair_colour",
        0.11,
        0.88,
        ("with white hair", "with silver hair"),
        ("with black hair", "with jet-black hair"),
        even,
    ),
    Attribute(
        "hair_dye",
        0.1,
        0.85,
        ("with dyed hair", "with colourful hair"),
        ("with natural hair", "with undyed hair"),
        present(0.2),
    ),
    Attribute("dye_hue", 0.0, 1.0, (), (), even),
    # eyes and brows
    Attribute(
        "eye_size",
        0.25,
        0.75,
        ("with big eyes", "with large eyes"),
        ("with small eyes", "with tiny eyes"),
        even,
    ),
    Attribute(
        "eye_open",
        0.12,
        0.6,
        ("with open eyes", "who is awake"),
        ("with closed eyes", "who is asleep", "who has the eyes shut"),
        mostly(0.72, 2.0),
    ),
    Attribute(
        "eye_colour", 0.2, 0.64, ("with blue eyes",), ("with brown eyes", "with dark eyes"), even
    ),
    Attribute(
        "gaze_x",
        0.2,
        0.8,
        ("looking right", "glancing to the right"),
        ("looking left", "glancing to the left"),
        even,
    ),
    Attribute(
        "gaze_y",
        0.2,
        0.8,
        ("looking up", "glancing upwards"),
        ("looking down", "glancing downwards"),
        mostly(0.5),
    ),
    Attribute(
        "brow_height",
        0.2,
        0.8,
        ("with raised eyebrows", "with high eyebrows"),
        ("with lowered eyebrows", "with low brows"),
        even,
    ),
    Attribute(
        "brow_angle",
        0.2,
        0.8,
        ("with angry eyebrows", "with furrowed brows"),
        ("with worried eyebrows", "with slanting sad brows"),
        even,
    ),
    Attribute(
        "brow_weight",
        0.2,
        0.8,
        ("with thick eyebrows", "with bushy eyebrows"),
        ("with thin eyebrows", "with fine eyebrows"),
        even,
    ),
    # nose and mouth
    Attribute(
        "nose_size",
        0.2,
        0.8,
        ("with a big nose", "with a large nose"),
        ("with a small nose", "with a tiny nose"),
        even,
    ),
    Attribute(
        "smile",
        0.3,
        0.7,
        ("who is smiling", "with a smile", "who looks happy"),
        ("who is frowning", "with a frown", "who looks sad"),
        even,
    ),
    Attribute(
        "mouth_open",
        0.15,
        0.7,
        ("with an open mouth", "with the mouth open"),
        ("with a closed mouth", "with the mouth shut"),
        present(0.38),
    ),
    Attribute(
        "lipstick",
        0.2,
        0.8,
        ("with red lipstick", "with red lips", "wearing lipstick"),
        ("without lipstick", "with bare lips"),
        present(0.36),
    ),
    # what grows and what is worn
    Attribute(
        "beard",
        0.15,
        0.8,
        ("with a beard", "with a full beard", "who is bearded"),
        ("without a beard", "with a bare chin", "with no beard"),
        present(0.38),
    ),
    Attribute(
        "moustache",
        0.15,
        0.8,
        ("with a moustache", "with a mustache"),
        ("without a moustache", "with no moustache"),
        present(0.36),
    ),
    Attribute(
        "glasses",
        0.15,
        0.8,
        ("with glasses", "wearing glasses", "with spectacles", "wearing eyeglasses"),
        ("without glasses", "with no glasses", "without spectacles"),
        present(0.43),
    ),
    Attribute(
        "glasses_shape",
        0.25,
        0.75,
        ("with square glasses", "with rectangular glasses"),
        ("with round glasses", "with circular glasses"),
        even,
    ),
    Attribute(
        "glasses_tint",
        0.15,
        0.8,
        ("with sunglasses", "with dark glasses", "in shades"),
        ("with clear glasses", "with clear lenses"),
        present(0.3),
    ),
    Attribute(
        "hat",
        0.15,
        0.8,
        ("with a hat", "wearing a hat", "with a hat on"),
        ("without a hat", "with no hat", "bareheaded"),
        present(0.36),
    ),
    Attribute(
        "hat_brim",
        0.3,
        0.65,
        ("with a wide-brimmed hat", "in a sun hat", "in a brimmed hat"),
        ("with a beanie", "in a knitted cap", "wearing a woolly hat"),
        even,
    ),
    Attribute("hat_hue", 0.0, 1.0, (), (), even),
    Attribute(
        "earrings",
        0.15,
        0.8,
        ("with earrings", "wearing earrings", "with gold earrings"),
        ("without earrings", "with no earrings"),
        present(0.38),
    ),
    # the picture
    Attribute(
        "head_tilt",
        0.2,
        0.8,
        ("with the head tilted to the right", "tilting the head right"),
        ("with the head tilted to the left", "tilting the head left"),
        even,
    ),
    Attribute(
        "light",
        0.15,
        0.85,
        ("lit from the right", "with light from the right"),
        ("lit from the left", "with light from the left"),
        even,
    ),
    Attribute("background_hue", 0.0, 1.0, (), (), even),
    Attribute(
        "background_tone",
        0.2,
        0.8,
        ("on a light background", "on a bright background"),
        ("on a dark background", "against a dark wall"),
        even,
    ),
    Attribute("clothing_hue", 0.0, 1.0, (), (), even),
    Attribute(
        "clothing_tone",
        0.2,
        0.8,
        ("in light clothes", "in a pastel shirt"),
        ("in dark clothes", "in a dark shirt"),
        even,
    ),
)

NAMES: tuple[str, ...] = tuple(a.name for a in ATTRIBUTES)
BY_NAME: dict[str, Attribute] = {a.name: a for a in ATTRIBUTES}


class Look:
    """The numbers of one avatar by name: `Look(values).smile`.

    Args:
        values: (A,), in [0, 1], order of `ATTRIBUTES`.
    """

    def __init__(self, values: Iterable[float]):
        self._values = dict(zip(NAMES, values, strict=True))

    def __getattr__(self, name: str) -> float:
        try:
            return self._values[name]
        except KeyError:
            raise AttributeError(f"no avatar attribute {name!r}") from None


def as_look(attributes: Sequence[float] | NDArray[np.floating]) -> Look:
    """Name the numbers of one avatar.

    Args:
        attributes: (A,), values in [0, 1], order of `ATTRIBUTES`.

    Raises:
        ValueError: wrong count, not finite, or outside [0, 1].
    """
    row = np.asarray(attributes, dtype=np.float64)
    if row.shape != (len(NAMES),):
        raise ValueError(f"an avatar is {len(NAMES)} numbers, not an array of shape {row.shape}")
    if not np.all((row >= 0) & (row <= 1)):  # also false for NaN
        raise ValueError("avatar attributes lie in [0, 1]; clip them first")
    return Look(row.tolist())


def latent_to_attributes(z: NDArray[np.floating]) -> NDArray[np.float32]:
    """Smooth map from normal latents to attributes; the attributes are independent.

    Each attribute reads one of a set of fixed orthonormal directions, takes the normal
    cumulative probability as its rank and looks up the value at that rank.

    Args:
        z: (N, `LATENT_SIZE`), standard normal.

    Returns:
        (N, A) float32 in [0, 1].
    """
    normal = np.random.default_rng(_ORIENTATION_SEED).standard_normal((LATENT_SIZE, LATENT_SIZE))
    directions = np.linalg.qr(normal)[0][:, : len(NAMES)]  # (LATENT_SIZE, A), orthonormal columns
    projected = torch.from_numpy(np.asarray(z, dtype=np.float64) @ directions)
    ranks = torch.special.ndtr(projected).numpy()
    values = [a.quantiles(ranks[:, i]) for i, a in enumerate(ATTRIBUTES)]
    return np.clip(np.stack(values, axis=1), 0, 1).astype(np.float32)


def sample(n: int, seed: int) -> NDArray[np.float32]:
    """`n` random avatars, (n, A) float32 in [0, 1]; the same seed gives the same ones."""
    return latent_to_attributes(np.random.default_rng(seed).standard_normal((n, LATENT_SIZE)))
