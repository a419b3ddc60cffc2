"""The way of an edit in CLIP's space: from the neutral words to the target words.

Patashnik et al. 2021, section 6.1: a text feature is the mean over many templates, which keeps what
the words mean and drops how a sentence happens to be put.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from open_clip import OPENAI_IMAGENET_TEMPLATES
from torch import Tensor
from torch.nn import functional as F

from models.clip.encoder import ClipEncoder
from models.clip.prompts import TemplateSet, encode_labels
from models.errors import InputError
from models.jobs import run_to_end

from .prompt import EditPrompt

NEUTRAL = "a face"  # where an edit starts if nobody says so
MANY = "a photo of many {}."  # of ImageNet's 80 templates the one that StyleCLIP leaves out

_SETS = (
    TemplateSet(
        "imagenet",
        "ImageNet's 79",
        "The paper's: sentences such as “a blurry photo of a {label}.”, averaged.",
        tuple(t for t in OPENAI_IMAGENET_TEMPLATES if t("{}") != MANY),
    ),
    TemplateSet(
        "portraits",
        "Portraits",
        "Five ways to announce a portrait; right where the words are a whole phrase.",
        (
            lambda label: label,
            lambda label: f"a portrait of {label}",
            lambda label: f"a picture of {label}",
            lambda label: f"a drawing of {label}",
            lambda label: f"an illustration of {label}",
        ),
    ),
)

EDIT_TEMPLATES: Mapping[str, TemplateSet] = MappingProxyType({row.name: row for row in _SETS})


def text_direction(
    clip: ClipEncoder,
    prompt: EditPrompt,
    templates: TemplateSet = EDIT_TEMPLATES["imagenet"],
    neutral: str = NEUTRAL,
) -> Tensor:
    """normalise(target feature - neutral feature), each a normalised mean over the templates.

    Args:
        neutral: stands in for a neutral text that is empty.

    Returns:
        (D,) unit length, on the CPU.

    Raises:
        InputError: both texts mean the same to this CLIP.
    """
    texts = [prompt.target, prompt.neutral or neutral]
    target, start = run_to_end(encode_labels(clip, texts, templates))  # (D,) each
    difference = target - start
    if difference.norm() < 1e-4:  # rounding is about 1e-7
        raise InputError(
            "The neutral and the target text mean the same to this CLIP; let them differ more."
        )
    return F.normalize(difference, dim=0)
