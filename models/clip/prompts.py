"""From a label to a text feature: prompt templates and their ensemble.

Radford et al. 2021, section 3.1.4: a lone word is rare in captions, so "A photo of a {label}."
helps, and averaging the features of many templates helps more (3.5 points on ImageNet).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import torch
from open_clip import OPENAI_IMAGENET_TEMPLATES
from torch import Tensor
from torch.nn import functional as F

from models.errors import InputError
from models.jobs import Job, Step

from .encoder import ClipEncoder

# Texts between two steps of a job: a step stays well under half a second on two CPU cores.
TEXTS_PER_STEP = 64


@dataclass(frozen=True)
class TemplateSet:
    """Templates whose features are averaged into one per label.

    name: its name in links and in the API.
    title, explanation: what users read.
    templates: each turns a label into a sentence.
    """

    name: str
    title: str
    explanation: str
    templates: tuple[Callable[[str], str], ...]


_SETS = (
    TemplateSet(
        "none",
        "None",
        "The label as you typed it. Right for whole sentences.",
        (lambda label: label,),
    ),
    TemplateSet(
        "one",
        "One",
        "“a photo of a {label}.” A lone word is rare in captions; in a sentence it is at home.",
        (lambda label: f"a photo of a {label}.",),
    ),
    TemplateSet(
        "ensemble",
        "ImageNet's 80",
        "80 sentences such as “a blurry photo of a {label}.” or “a drawing of a {label}.”, "
        "averaged; the paper's best, and 80 times the reading.",
        tuple(OPENAI_IMAGENET_TEMPLATES),
    ),
)

TEMPLATE_SETS: Mapping[str, TemplateSet] = MappingProxyType({row.name: row for row in _SETS})


def template_set(name: str) -> TemplateSet:
    """The set called `name`. Raises InputError that lists the choices when there is none."""
    try:
        return TEMPLATE_SETS[name]
    except KeyError:
        choices = ", ".join(TEMPLATE_SETS)
        raise InputError(f"There is no template set “{name}”; choose one of {choices}.") from None


def encode_labels(clip: ClipEncoder, labels: Sequence[str], templates: TemplateSet) -> Job[Tensor]:
    """Features of labels: the mean over the templates' unit vectors, scaled to unit length.

    Returns (as a job, a step every few labels):
        (L, D) float32, unit length.
    """
    per_step = max(1, TEXTS_PER_STEP // len(templates.templates))
    rows: list[Tensor] = []
    for start in range(0, len(labels), per_step):
        yield Step(start / len(labels), f"Reading {len(labels)} labels")
        chunk = labels[start : start + per_step]
        texts = [template(label) for label in chunk for template in templates.templates]
        features = clip.encode_text(texts).view(len(chunk), len(templates.templates), -1)
        rows.append(F.normalize(features.mean(dim=1), dim=-1))  # (chunk, D)
    return torch.cat(rows)
