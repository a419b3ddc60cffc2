"""What a CLIP answers: which words fit a picture, which picture fits which words.

Each question is a job (see `models.jobs`) that ends with a frozen result; the result holds cosines,
so temperature and normalisation are a matter of arithmetic and never of the model.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from models.errors import InputError
from models.jobs import Job, Step

from .encoder import ClipEncoder
from .prompts import encode_labels, template_set

NORMALISATIONS = ("rows", "columns", "cosine")
TEMPERATURES = (0.1, 10.0)  # range, as a multiple of the trained temperature
# Pictures between two steps of a job.
IMAGES_PER_STEP = 8


@dataclass(frozen=True)
class Score:
    """How well one label (or one picture) fits: probability in [0, 1], cosine in [-1, 1]."""

    label: str
    probability: float
    cosine: float


@dataclass(frozen=True)
class Recognition:
    """One picture against many labels.

    labels:      L texts as they were typed.
    cosines:     L cosines in [-1, 1], in the labels' order.
    logit_scale: the model's; probabilities are softmax(logit_scale / temperature * cosine).
    temperature: multiple of the trained temperature; 1 is as trained, less is more decided.
    """

    model: str
    templates: str
    labels: tuple[str, ...]
    cosines: tuple[float, ...]
    logit_scale: float
    temperature: float = 1.0
    seconds: float = 0.0

    def __post_init__(self) -> None:
        _check_temperature(self.temperature)
        if len(self.labels) != len(self.cosines):
            raise ValueError(f"{len(self.labels)} labels but {len(self.cosines)} cosines")

    @property
    def scores(self) -> tuple[Score, ...]:
        """All labels, best first; labels that fit equally well keep their order."""
        return _scores(self.labels, self.cosines, self.logit_scale / self.temperature)

    def to_json(self) -> dict[str, Any]:
        """`model`, `settings`, `seed`, `seconds`, `scores`: best first."""
        settings = {
            "labels": list(self.labels),
            "templates": self.templates,
            "temperature": self.temperature,
        }
        return _to_json(self.model, settings, self.seconds, [asdict(s) for s in self.scores])


@dataclass(frozen=True)
class Matching:
    """Many pictures against many captions.

    cosines: P rows of C cosines in [-1, 1].
    """

    model: str
    templates: str
    pictures: tuple[str, ...]
    captions: tuple[str, ...]
    cosines: tuple[tuple[float, ...], ...]
    logit_scale: float
    temperature: float = 1.0
    normalise: str = "rows"
    seconds: float = 0.0

    def __post_init__(self) -> None:
        _check_temperature(self.temperature)
        if self.normalise not in NORMALISATIONS:
            raise InputError(
                f"There is no normalisation “{self.normalise}”; "
                f"choose one of {', '.join(NORMALISATIONS)}."
            )

    @property
    def best(self) -> tuple[int, ...]:
        """For every picture the index of its best caption."""
        return tuple(max(range(len(row)), key=row.__getitem__) for row in self.cosines)

    def table(self, normalise: str | None = None) -> tuple[tuple[float, ...], ...]:
        """(P, C) numbers to show: softmax over each row ("rows": which caption for a picture), over
        each column ("columns": which picture for a caption), or plain cosines ("cosine")."""
        cosines = torch.tensor(self.cosines, dtype=torch.float64)
        how = normalise or self.normalise
        if how == "cosine":
            return self.cosines
        shares = (cosines * (self.logit_scale / self.temperature)).softmax(
            1 if how == "rows" else 0
        )
        return tuple(tuple(row) for row in shares.tolist())

    def to_json(self) -> dict[str, Any]:
        """As `Recognition.to_json`, one score per cell, each with its `picture` as well; the
        probability is the cell's share of its row (of its column, if normalised so)."""
        shares = self.table("columns" if self.normalise == "columns" else "rows")
        cells: list[dict[str, Any]] = [
            {"label": caption, "picture": picture, "probability": share, "cosine": cosine}
            for picture, shares_row, cosine_row in zip(self.pictures, shares, self.cosines)
            for caption, share, cosine in zip(self.captions, shares_row, cosine_row)
        ]
        settings = {
            "pictures": list(self.pictures),
            "captions": list(self.captions),
            "templates": self.templates,
            "temperature": self.temperature,
            "normalise": self.normalise,
        }
        ranked = sorted(cells, key=lambda cell: -cell["probability"])
        return _to_json(self.model, settings, self.seconds, ranked)


@dataclass(frozen=True)
class PictureIndex:
    """Pictures encoded once, to be asked many times.

    names:    N names, as results show them.
    features: (N, D) float32 on the CPU, unit length.
    """

    model: str
    names: tuple[str, ...]
    features: Tensor = field(repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True)
class Ranking:
    """Many pictures against one query.

    order: indices into the searched pictures, best first; names and cosines follow this order.
    """

    model: str
    templates: str
    query: str
    order: tuple[int, ...]
    names: tuple[str, ...]
    cosines: tuple[float, ...]
    logit_scale: float
    seconds: float = 0.0

    @property
    def scores(self) -> tuple[Score, ...]:
        """All pictures, best first; probabilities are a softmax over the pictures."""
        return _scores(self.names, self.cosines, self.logit_scale)

    def to_json(self) -> dict[str, Any]:
        """As `Recognition.to_json`; a label is a picture's name, `index` its place in the set."""
        rows = [{**asdict(s), "index": index} for s, index in zip(self.scores, self.order)]
        settings = {
            "query": self.query,
            "templates": self.templates,
            "pictures": len(self.names),
        }
        return _to_json(self.model, settings, self.seconds, rows)


def classify(
    clip: ClipEncoder,
    image: Image.Image,
    labels: Sequence[str],
    *,
    templates: str = "one",
    temperature: float = 1.0,
) -> Job[Recognition]:
    """Zero-shot classification (Radford et al. 2021, section 3.1): which label fits the picture?

    Args:
        image: RGB, any size.
        labels: at least one.
        templates: name of a template set.

    Raises:
        InputError: no labels, an unknown template set, a temperature out of range.
    """
    _check_temperature(temperature)
    if not labels:
        raise InputError("Type at least one label.")
    prompts = template_set(templates)
    yield Step(0.0, "Looking at the picture")
    picture = clip.encode_image([image])  # (1, D)
    words = yield from encode_labels(clip, labels, prompts)  # (L, D)
    return Recognition(
        model=clip.name,
        templates=templates,
        labels=tuple(labels),
        cosines=tuple((words @ picture[0]).tolist()),
        logit_scale=clip.logit_scale,
        temperature=temperature,
    )


def match(
    clip: ClipEncoder,
    pictures: Sequence[tuple[str, Image.Image]],
    captions: Sequence[str],
    *,
    templates: str = "none",
    temperature: float = 1.0,
    normalise: str = "rows",
) -> Job[Matching]:
    """The paper's matrix (figure 1): every picture against every caption.

    Args:
        pictures: (name, RGB of any size), at least one.
        captions: at least one.

    Raises:
        InputError: pictures or captions are missing, or a setting is unknown.
    """
    _check_temperature(temperature)
    if not pictures:
        raise InputError("Give at least one picture.")
    if not captions:
        raise InputError("Type at least one caption.")
    prompts = template_set(templates)
    index = yield from index_pictures(clip, pictures, len(pictures))
    words = yield from encode_labels(clip, captions, prompts)
    cosines = index.features @ words.T  # (P, C)
    return Matching(
        model=clip.name,
        templates=templates,
        pictures=index.names,
        captions=tuple(captions),
        cosines=tuple(tuple(row) for row in cosines.tolist()),
        logit_scale=clip.logit_scale,
        temperature=temperature,
        normalise=normalise,
    )


def index_pictures(
    clip: ClipEncoder, pictures: Iterable[tuple[str, Image.Image]], total: int
) -> Job[PictureIndex]:
    """Encode pictures for `search`.

    Args:
        pictures: (name, RGB picture), taken a few at a time, so that they may be opened lazily.
        total: how many are expected, for the steps; fewer may come.
    """
    names: list[str] = []
    rows: list[Tensor] = []
    todo = iter(pictures)
    while chunk := list(islice(todo, IMAGES_PER_STEP)):
        yield Step(min(1.0, len(names) / total), f"Encoding {total} pictures")
        names += [name for name, _ in chunk]
        rows.append(clip.encode_image([picture for _, picture in chunk]))
    features = torch.cat(rows) if rows else torch.empty(0, clip.embed_dim)  # (N, D)
    return PictureIndex(clip.name, tuple(names), features)


def search(
    clip: ClipEncoder, index: PictureIndex, query: str, *, templates: str = "none"
) -> Job[Ranking]:
    """Rank the pictures of an index by how well they fit a query; encodes the query, nothing else.

    Raises:
        InputError: an empty index, or one of another model; an unknown template set.
    """
    if not len(index):
        raise InputError("There are no pictures to search in.")
    if index.model != clip.name:
        raise InputError(f"These pictures were encoded by {index.model}; encode them again.")
    words = yield from encode_labels(clip, [query], template_set(templates))  # (1, D)
    cosines = index.features @ words[0]  # (N,)
    order = cosines.argsort(descending=True, stable=True).tolist()
    return Ranking(
        model=clip.name,
        templates=templates,
        query=query,
        order=tuple(order),
        names=tuple(index.names[i] for i in order),
        cosines=tuple(float(cosines[i]) for i in order),
        logit_scale=clip.logit_scale,
    )


def _check_temperature(temperature: float) -> None:
    low, high = TEMPERATURES
    if not low <= temperature <= high:  # also refuses NaN
        raise InputError(f"The temperature lies between {low:g} and {high:g}; 1 is as trained.")


def _scores(labels: Sequence[str], cosines: Sequence[float], scale: float) -> tuple[Score, ...]:
    values = torch.tensor(cosines, dtype=torch.float64)
    shares = (values * scale).softmax(0).tolist()
    rows = [Score(*row) for row in zip(labels, shares, cosines)]
    return tuple(sorted(rows, key=lambda score: -score.cosine))


def _to_json(
    model: str, settings: Mapping[str, Any], seconds: float, scores: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    return {
        "model": model,
        "settings": dict(settings),
        "seed": None,  # nothing here is random
        "seconds": round(seconds, 4),
        "scores": list(scores),
    }
