"""Who is in the picture: what an edit should leave alone, as a loss and as a readout.

Photographs of people: StyleCLIP's identity loss (Patashnik et al. 2021, section 4, equation 2),
one minus the cosine of two ArcFace embeddings. Avatars are nobody, so no face network knows them;
what makes one the same is that its other traits stay. CLIP's text axes (beard or no beard, long or
short hair, ...) measure those, and the axes that the edit itself asks for are left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from models.styleclip.clip_view import Clip, ClipView
from models.styleclip.prompt import EditPrompt
from models.stylegan.irse50 import FACE_SIZE, Irse50

FACE_INPUT = 256  # pixels a side at which the face is cut out
FACE_ROWS, FACE_COLUMNS = slice(35, 223), slice(32, 220)

# name -> opposite phrases; what the drawn world lets vary and CLIP mini can read.
TRAITS: Mapping[str, tuple[str, str]] = {
    "skin": ("a person with dark skin", "a person with pale skin"),
    "face shape": ("a person with a wide face", "a person with a narrow face"),
    "age": ("an old person", "a young person"),
    "hair length": ("a person with long hair", "a person with short hair"),
    "hair colour": ("a person with dark hair", "a person with blond hair"),
    "curls": ("a person with curly hair", "a person with straight hair"),
    "eye colour": ("a person with blue eyes", "a person with brown eyes"),
    "smile": ("a smiling person", "a frowning person"),
    "mouth": ("a person with an open mouth", "a person with a closed mouth"),
    "lipstick": ("a person with red lips", "a person with pale lips"),
    "beard": ("a person with a beard", "a clean-shaven person"),
    "glasses": ("a person with glasses", "a person without glasses"),
    "hat": ("a person wearing a hat", "a person without a hat"),
    "earrings": ("a person with earrings", "a person without earrings"),
    "background": ("a person before a dark background", "a person before a bright background"),
}
SUBJECT = "a person"  # where an edit starts whose neutral text is empty
# An axis whose cosine with the edit is beyond this belongs to the edit. With "a person" as neutral
# text clip-mini-critic gives 0.33 to 0.47 to the axis that a target names (a beard, sunglasses, a
# child, blond hair) and 0.3 at most to others.
CLOSE = 0.3
# Deviation of unit features along an axis over pictures of the world, where nobody measured it for
# each axis: 0.05 is the mean over the traits (clip-mini-critic, 300 drawn avatars; 0.02 to 0.11).
# Smaller ones are noise that no edit should be held to.
SPREAD, LEAST_SPREAD = 0.05, 0.03


class FaceIdentity:
    """The identity loss of official faces."""

    def __init__(self, network: Irse50) -> None:
        self.network = network.eval()

    def crop(self, image: Tensor) -> Tensor:
        """The face of aligned pictures: (B, 3, H, W) about [-1, 1] -> (B, 3, 112, 112)."""
        if image.shape[-2] != FACE_INPUT:
            image = F.adaptive_avg_pool2d(image, FACE_INPUT)
        return F.adaptive_avg_pool2d(image[:, :, FACE_ROWS, FACE_COLUMNS], FACE_SIZE)

    def embed(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) about [-1, 1] -> (B, 512) unit vectors."""
        embedding: Tensor = self.network(self.crop(image))
        return embedding

    def loss(self, image: Tensor, original: Tensor) -> Tensor:
        """Mean of 1 - cosine, in [0, 2]; differentiable in `image` only."""
        return 1 - self._cosines(image, original).mean()

    @torch.no_grad()
    def kept(self, image: Tensor, original: Tensor) -> dict[str, float]:
        """{"face": mean cosine}; 1 is the same picture, and few people reach 0.3 with another."""
        return {"face": float(self._cosines(image, original).mean())}

    def _cosines(self, image: Tensor, original: Tensor) -> Tensor:
        with torch.no_grad():
            before = self.embed(original)
        return (self.embed(image) * before).sum(dim=1)  # (B,)


class AvatarIdentity:
    """The traits that an edit does not name, read along CLIP's text axes.

    The move of the picture's CLIP features is read along every trait's axis after the edit's own
    direction was taken out of that axis, in units of how much the axis varies between pictures.

    Args:
        clip: the encoder that reads the traits.
        edit: (D,) the edit's direction in its text space, see `edit_direction`.
        spread: (traits,) deviation of features along each of `trait_axes`, see `trait_spread`;
            None takes a typical one.

    Attributes:
        names: the traits that stay.
        axes: (names, D) unit vectors, at right angles to the edit.
    """

    def __init__(self, clip: Clip, edit: Tensor, spread: Tensor | None = None) -> None:
        self.clip, self.view = clip, ClipView()
        edit = F.normalize(edit, dim=0)
        axes = trait_axes(clip).to(edit)
        cosines = axes @ edit  # (traits,)
        stays = cosines.abs() <= CLOSE
        self.names = tuple(name for name, stay in zip(TRAITS, stays.tolist()) if stay)
        free = axes - cosines[:, None] * edit
        self.axes = F.normalize(free, dim=1)[stays]
        typical = torch.full((len(TRAITS),), SPREAD)
        self.spread = (typical if spread is None else spread).to(edit).clamp(min=LEAST_SPREAD)[stays]  # fmt: skip

    @classmethod
    def of_prompt(
        cls, clip: Clip, prompt: EditPrompt, spread: Tensor | None = None
    ) -> AvatarIdentity:
        """What stays when a picture is edited with these words."""
        return cls(clip, edit_direction(clip, prompt), spread)

    def changes(self, image: Tensor, original: Tensor) -> Tensor:
        """How far each trait moved, (B, names), in deviations of the world's pictures.

        Args:
            image, original: (B, 3, H, W) raw, about [-1, 1]; differentiable in `image` only.
        """
        with torch.no_grad():
            before = self._features(original)
        move = self._features(image) - before  # (B, D)
        return move @ self.axes.to(move).T / self.spread.to(move)

    def loss(self, image: Tensor, original: Tensor) -> Tensor:
        """Mean squared change over pictures and traits, a scalar; 0 for the original."""
        return self.changes(image, original).square().mean()

    @torch.no_grad()
    def kept(self, image: Tensor, original: Tensor) -> dict[str, float]:
        """Each trait's mean absolute change, in deviations; below 1 it looks much the same."""
        means = self.changes(image, original).abs().mean(dim=0).tolist()
        return dict(zip(self.names, means))

    def _features(self, image: Tensor) -> Tensor:
        side = range(image.shape[-1])
        return self.view.features(self.clip, image, [(side, side)])[0]  # (B, D)


def trait_axes(clip: Clip) -> Tensor:
    """(traits, D) unit vectors from each trait's second phrase to its first."""
    phrases: Sequence[str] = [phrase for pair in TRAITS.values() for phrase in pair]
    features = clip.encode_text(phrases).view(len(TRAITS), 2, -1)  # (traits, 2, D)
    return F.normalize(features[:, 0] - features[:, 1], dim=1)


@torch.no_grad()
def trait_spread(clip: Clip, pictures: Tensor) -> Tensor:
    """(traits,) deviation of the features of pictures (N, 3, H, W) about [-1, 1] along the axes."""
    side = range(pictures.shape[-1])
    features = ClipView().features(clip, pictures, [(side, side)])[0]  # (N, D)
    return (features @ trait_axes(clip).to(features).T).std(dim=0)


def edit_direction(clip: Clip, prompt: EditPrompt) -> Tensor:
    """(D,) unit vector from the neutral text ("a person" where it is empty) to the target."""
    target, neutral = clip.encode_text([prompt.target, prompt.neutral or SUBJECT])
    return F.normalize(target - neutral, dim=0)
