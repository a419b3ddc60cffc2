"""How far pictures are from the words, as CLIP sees it: the loss that an edit descends."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from models.errors import InputError

from .clip_view import Clip, ClipView
from .prompt import EditPrompt

OBJECTIVES = ("cosine", "directional")
# Chord of unit features below which a move of the picture counts as small. It keeps the gradient
# finite at the start, where the picture has not moved, and asks for a move that CLIP can see.
SMALL_MOVE = 0.1


def check_objective(name: str) -> None:
    """Raises InputError that lists the choices unless there is an objective called `name`."""
    if name not in OBJECTIVES:
        choices = ", ".join(OBJECTIVES)
        raise InputError(f'There is no objective "{name}"; choose one of {choices}.')


class TextObjective:
    """The text part of an edit's loss.

    "cosine" is StyleCLIP's (section 4): 1 - cos(E_I(x), E_T(target)).
    "directional" is StyleGAN-NADA's (Gal et al. 2021, section 4.2): 1 - cos(dI, dT) for the moves
    dI = E_I(x) - E_I(x0) and dT = E_T(target) - E_T(neutral), here with sqrt(|dI|^2 + 0.1^2) in
    place of |dI|.

    Args:
        name: one of `OBJECTIVES`.
        seed: of the random windows of the view.

    Raises:
        InputError: no such objective, or a direction without a neutral text.
    """

    def __init__(
        self, name: str, clip: Clip, prompt: EditPrompt, view: ClipView, seed: int = 0
    ) -> None:
        check_objective(name)
        self.clip, self.view = clip, view
        self.directional = name == "directional"
        self._random = torch.Generator().manual_seed(seed)
        if self.directional:
            if not prompt.neutral:
                raise InputError(
                    "The directional objective needs a neutral text; write what the picture shows "
                    'now, such as "a face".'
                )
            target, neutral = clip.encode_text([prompt.target, prompt.neutral])
            self.text = F.normalize(target - neutral, dim=0)  # (D,)
        else:
            self.text = clip.encode_text([prompt.target])[0]

    def __call__(self, images: Tensor, originals: Tensor) -> Tensor:
        """Mean loss of edited pictures over pictures and views, a scalar differentiable in them.

        Args:
            images: (B, 3, N, N) raw, about [-1, 1].
            originals: the same before the edit; read by the directional objective only.
        """
        windows = self.view.windows(images.shape[-1], self._random)
        features = self.view.features(self.clip, images, windows)  # (V, B, D)
        text = self.text.to(features)
        if not self.directional:
            return 1 - (features @ text).mean()
        with torch.no_grad():
            before = self.view.features(self.clip, originals, windows)
        move = features - before
        length = (move.square().sum(-1) + SMALL_MOVE**2).sqrt()  # (V, B)
        return 1 - ((move @ text) / length).mean()
