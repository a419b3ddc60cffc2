"""Names of categories as CLIP reads them: cleaned, in sentences, averaged, remembered on disk.

    embeddings = CategoryEmbeddings(clip, category_templates("full"))
    text = run_to_end(embeddings.encode(["Aerosol_can", "bun/roll"]))       # (2, D), unit length

Gu et al. 2022, section 3.1: a category's embedding is the mean over many sentences. The full set
is the 63 sentences of the authors' public notebook, in which "This is " comes before those that
are no sentence yet. They cost 63 readings a name, hence the disk, and the short sets.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from models.caches import Remembered
from models.clip import vocabulary
from models.clip.encoder import ClipEncoder
from models.clip.prompts import TEXTS_PER_STEP, TemplateSet
from models.errors import InputError
from models.jobs import Job, Step
from models.weights import cache_directory

BACKGROUND = "background"  # the word the public notebook puts beside the user's names

# ------------------------------------------------------------------------------------- names


def clean_name(name: str) -> str:
    """A name as the sentences hold it: "_" is a space, "/" is "or", lower case, no final dot.

    Raises:
        InputError: nothing is left of it.
    """
    words = name.replace("_", " ").replace("/", " or ").lower().split()
    cleaned = " ".join(words).rstrip(". ")
    if not cleaned:
        raise InputError(f"“{name[:40]}” is no name; type a word, such as “red apple”.")
    return cleaned


def unique_names(names: Iterable[str]) -> list[str]:
    """The first of every group of names that read the same when cleaned, as it was typed.

    Raises InputError as `clean_name`.
    """
    first: dict[str, str] = {}
    for name in names:
        first.setdefault(clean_name(name), name)
    return list(first.values())


# --------------------------------------------------------------------------------- sentences

_ADJECTIVES = ("nice", "cool", "weird", "small", "large", "clean", "dirty", "hard to see")
_PHOTOS = (
    *("good", "bad", "bright", "dark", "low resolution", "cropped", "close-up"),
    *("jpeg corrupted", "blurry", "pixelated", "black and white"),
)
_MATERIALS = ("a plastic", "a toy", "a plushie", "a cartoon", "an embroidered")

# {name} is the cleaned name, {a} its article.
FULL = (
    "There is {a} {name} in the scene.",
    "There is the {name} in the scene.",
    "a photo of {a} {name} in the scene.",
    "a photo of the {name} in the scene.",
    "a photo of one {name} in the scene.",
    *(f"itap of {whose} {{name}}." for whose in ("{a}", "my", "the")),
    *(f"a photo of {which} {{name}}." for which in ("{a}", "my", "the", "one", "many")),
    *(f"a photo of {a} {kind} {{name}}." for kind in _ADJECTIVES for a in ("a", "the")),
    *(f"a {kind} photo of {a} {{name}}." for kind in _PHOTOS for a in ("{a}", "the")),
    *(f"{material} {{name}}." for material in _MATERIALS),
    *(f"the {material.split(maxsplit=1)[1]} {{name}}." for material in _MATERIALS),
    "a painting of the {name}.",
    "a painting of a {name}.",
)
# Of seven sentences, those whose mean comes nearest to that of all: found by exchanging one at a
# time on 40 of COCO's names with clip-mini; on 20 other names its cosine with the full set's is
# 0.991 on average and 0.986 at least (one sentence alone: 0.976 and 0.957).
SHORT = (
    "a photo of {a} {name}.",
    "a photo of the {name}.",
    "a photo of {a} {name} in the scene.",
    "a photo of a clean {name}.",
    "a bad photo of the {name}.",
    "a bright photo of {a} {name}.",
    "a plushie {name}.",
)


def _sentence(template: str) -> Callable[[str], str]:
    """Turns a name, cleaned or not, into a sentence."""
    if template.startswith(("a ", "an ", "the ")):
        template = f"This is {template}"

    def fill(name: str) -> str:
        cleaned = clean_name(name)
        return template.format(name=cleaned, a="an" if cleaned[0] in "aeiou" else "a")

    return fill


_SETS = (
    TemplateSet(
        "full",
        "ViLD's 63",
        "63 sentences a name, averaged; what the released detectors were measured with.",
        tuple(map(_sentence, FULL)),
    ),
    TemplateSet(
        "short",
        "Short",
        "Seven of the 63, whose average is nearly that of all, in a ninth of the time.",
        tuple(map(_sentence, SHORT)),
    ),
    TemplateSet(
        "one",
        "One",
        "“This is a photo of a …” alone.",
        (_sentence(SHORT[0]),),
    ),
    TemplateSet(
        "name",
        "The name",
        "The name alone, as vild-mini learnt it.",
        (clean_name,),
    ),
)

TEMPLATES: Mapping[str, TemplateSet] = MappingProxyType({row.name: row for row in _SETS})


def category_templates(name: str) -> TemplateSet:
    """The set called `name`. Raises InputError that lists the choices when there is none."""
    if name not in TEMPLATES:
        choices = ", ".join(TEMPLATES)
        raise InputError(f"There is no template set “{name}”; choose one of {choices}.")
    return TEMPLATES[name]


# -------------------------------------------------------------------------------- embeddings


class CategoryEmbeddings:
    """Embeddings of names for one CLIP and one template set; may be shared between threads.

    What was computed is kept in memory, and on disk as one file of D numbers a name: under a
    digest of the model, the sentences and the name, so that nobody reads there what was typed.
    """

    def __init__(
        self,
        clip: ClipEncoder,
        templates: TemplateSet,
        folder: Path | None = None,
        max_files: int = 20_000,
    ) -> None:
        """
        Args:
            folder: where files are kept; None is the app's cache.
            max_files: the oldest make room when there are more.
        """
        self._clip = clip
        self._templates = templates
        self._folder = folder or cache_directory() / "categories"
        self._max_files = max_files
        self._memory: Remembered[Tensor] = Remembered(4096)
        sentences = [sentence("thing") for sentence in templates.templates]
        self._prefix = json.dumps([_fingerprint(clip), sentences]).encode()

    def encode(self, names: Sequence[str]) -> Job[Tensor]:
        """The mean over the sentences' unit vectors, scaled to unit length, for each name.

        Returns (as a job, a step every few names that are not known yet):
            (N, D) float32 on the CPU, unit length.

        Raises:
            InputError: a name is empty once cleaned.
        """
        cleaned = [clean_name(name) for name in names]
        rows = {name: self._known(name) for name in dict.fromkeys(cleaned)}
        todo = [name for name, row in rows.items() if row is None]
        sentences = self._templates.templates
        per_step = max(1, TEXTS_PER_STEP // len(sentences))
        for start in range(0, len(todo), per_step):
            yield Step(start / len(todo), f"Reading {len(todo):,} names")
            chunk = todo[start : start + per_step]
            texts = [sentence(name) for name in chunk for sentence in sentences]
            features = self._clip.encode_text(texts).view(len(chunk), len(sentences), -1)
            for name, row in zip(chunk, F.normalize(features.mean(dim=1), dim=-1)):  # (D,)
                rows[name] = row
                self._keep(name, row)
        if todo:
            _make_room(self._folder, self._max_files)
        found = [row for name in cleaned if (row := rows[name]) is not None]
        return torch.stack(found) if found else torch.empty(0, self._clip.embed_dim)

    def _known(self, name: str) -> Tensor | None:
        row = self._memory.find(name)
        if row is None:
            row = self._read(name)
            if row is not None:
                self._memory.keep(name, row)
        return row

    def _read(self, name: str) -> Tensor | None:
        """A file that is not a unit vector of D numbers counts as absent."""
        try:
            with self._path(name).open("rb") as stream:
                content = stream.read(4 * self._clip.embed_dim + 1)
        except OSError:
            return None
        if len(content) != 4 * self._clip.embed_dim:
            return None
        row = torch.from_numpy(np.frombuffer(content, "<f4").astype(np.float32))
        return row if abs(float(row.norm()) - 1) < 1e-3 else None

    def _keep(self, name: str, row: Tensor) -> None:
        self._memory.keep(name, row)
        with contextlib.suppress(OSError):  # a full or read-only disk costs time, not the answer
            self._folder.mkdir(parents=True, exist_ok=True)
            handle, part = tempfile.mkstemp(dir=self._folder, suffix=".part")
            with os.fdopen(handle, "wb") as stream:
                stream.write(row.numpy().astype("<f4").tobytes())
            os.replace(part, self._path(name))

    def _path(self, name: str) -> Path:
        digest = hashlib.sha256(self._prefix + name.encode("utf-8", "surrogatepass"))
        return self._folder / f"{digest.hexdigest()[:40]}.f32"


def _fingerprint(clip: ClipEncoder) -> list[object]:
    """Tells two models of one name apart, such as clip-mini before and after a new training."""
    (probe,) = clip.encode_text(["a photo of two things"])
    return [clip.name, [round(value) for value in (probe * 64).tolist()]]


def _make_room(folder: Path, most: int) -> None:
    """Removes the oldest files of a folder that has more than `most`, a tenth more than needed."""
    with contextlib.suppress(OSError):
        files = [Path(entry.path) for entry in os.scandir(folder) if entry.is_file()]
        if len(files) <= most:
            return
        files.sort(key=lambda file: file.stat().st_mtime)
        for file in files[: len(files) - most * 9 // 10]:
            file.unlink(missing_ok=True)


# ------------------------------------------------------------------------------- ready-made lists

_LVIS = Path(__file__).resolve().parents[2] / "assets" / "vild" / "lvis.json"
_COCO_GAPS = ("__background__", "N/A")
# Groups of the mini world that are things one can point at.
_WORLD = {
    "animals": "Animals",
    "food": "Food and drink",
    "objects": "Objects",
    "travel": "Places and vehicles",
    "activities": "Sports and games",
    "people": "People",
}
NAME_LISTS: Mapping[str, str] = MappingProxyType(
    {"coco": "COCO's 80", **_WORLD, "imagenet": "ImageNet's 1,000", "lvis": "LVIS's 1,203"}
)
"""Titles of the lists that `name_list` knows."""


@lru_cache(maxsize=len(NAME_LISTS))
def name_list(name: str) -> tuple[str, ...]:
    """A ready-made list of names, each once: COCO's (as torchvision has them), LVIS's, ImageNet's (as
    CLIP's authors put them), or a group of the mini world's concepts.

    Raises:
        InputError: there is no such list.
    """
    if name == "coco":
        from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights

        weights = FasterRCNN_ResNet50_FPN_Weights.COCO_V1
        return tuple(label for label in weights.meta["categories"] if label not in _COCO_GAPS)
    if name == "imagenet":
        from open_clip import IMAGENET_CLASSNAMES

        return tuple(unique_names(IMAGENET_CLASSNAMES))
    if name in _WORLD:
        concepts = json.loads(vocabulary.PATH.read_text(encoding="utf-8"))
        return tuple(concept["name"] for concept in concepts if concept["group"] == name)
    if name == "lvis":
        return tuple(category for category, _ in _lvis())
    choices = ", ".join(NAME_LISTS)
    raise InputError(f"There is no list “{name}”; choose one of {choices}.")


def lvis_base_names() -> tuple[str, ...]:
    """The 866 frequent and common categories of LVIS v1 that the released ViLDs were trained on;
    its 337 rare ones are the paper's novel categories."""
    return tuple(category for category, frequency in _lvis() if frequency != "r")


def _lvis() -> list[tuple[str, str]]:
    """(name, "f", "c" or "r" for frequent, common or rare) of every category, in LVIS's order."""
    return [(name, frequency) for name, frequency in json.loads(_LVIS.read_text(encoding="utf-8"))]
