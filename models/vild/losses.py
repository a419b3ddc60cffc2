"""What ViLD is trained with: proposals, names, boxes, masks, and the imitation of the teacher.

Gu et al. 2022 (arXiv 2104.13921), section 3; what it leaves to Mask R-CNN follows Ren et al. 2015
and He et al. 2017. Boxes are xyxy in pixels of the network's input throughout.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import roi_align

from models.detection.boxes import encode, pairwise_iou
from models.vild.rpn import UNWEIGHTED, RpnOutput
from models.vild.vild import Sizes, Vild

BACKGROUND = 0  # label of a region that holds no known object
PROPOSAL_DELTA = 1 / 9  # where the Huber loss of proposals turns from square to straight
REGION_DELTA = 1.0


@dataclass(frozen=True)
class Sampling:
    """How many anchors and regions of a picture are learnt from, and which count as hits.

    Attributes:
        anchors: at most this many, at most `anchors_positive` of them on an object.
        match, mismatch: an anchor is on an object from this IoU on, and on none below that one.
        regions: at most this many for names and boxes, at most `regions_positive` on an object.
        region_match: a region is on an object above this IoU, and background below it.
        masks: at most this many regions a picture learn masks.
    """

    anchors: int = 256
    anchors_positive: float = 0.5
    match: float = 0.7
    mismatch: float = 0.3
    regions: int = 512
    regions_positive: float = 0.25
    region_match: float = 0.5
    masks: int = 128

    @classmethod
    def mini(cls) -> Sampling:
        """For vild-mini: pictures with a handful of objects."""
        return cls(anchors=128, regions=64, masks=16)


@dataclass(frozen=True)
class Target:
    """The objects of one picture that training may know.

    Attributes:
        boxes: (B, 4). labels: (B,) int64, rows of the text matrix (0 is its first name).
        masks: (B, H, W) bool over the network's input, or None where masks are not learnt.
    """

    boxes: Tensor
    labels: Tensor
    masks: Tensor | None = None


@dataclass(frozen=True)
class Lesson:
    """What the teacher says of one picture: boxes (P, 4) and its vectors of the crops (P, D).

    Boxes of zeros only fill up; nothing is learnt from them.
    """

    boxes: Tensor
    embeddings: Tensor

    @property
    def real(self) -> Lesson:
        """Without what fills up."""
        valid = (self.boxes > 0).any(dim=1)
        return Lesson(self.boxes[valid], self.embeddings[valid])


@dataclass(frozen=True)
class Losses:
    """The terms, each a scalar; zero where there was nothing to learn from."""

    objectness: Tensor
    proposals: Tensor
    words: Tensor
    boxes: Tensor
    masks: Tensor
    image: Tensor

    def total(self, image_weight: float = 0.5, words_weight: float = 1.0) -> Tensor:
        """What is minimised; the weights make the paper's variants: ViLD-text has
        `image_weight` 0, ViLD-image `words_weight` 0, ViLD and ViLD-ensemble the defaults."""
        fixed = self.objectness + self.proposals + self.boxes + self.masks
        return fixed + words_weight * self.words + image_weight * self.image


@dataclass(frozen=True)
class RegionSample:
    """Regions of one picture to learn names and boxes from: boxes (R, 4); labels (R,), 0 for
    background, 1 + row of the text matrix otherwise; owners (R,), the object they belong to,
    -1 for none."""

    boxes: Tensor
    labels: Tensor
    owners: Tensor


def vild_losses(
    vild: Vild,
    levels: Sequence[Tensor],
    sizes: Sizes,
    targets: Sequence[Target],
    text: Tensor,
    lessons: Sequence[Lesson] | None = None,
    sampling: Sampling | None = None,
    generator: torch.Generator | None = None,
) -> Losses:
    """All terms of a batch of N pictures.

    Args:
        vild: in training mode.
        levels: of the pictures, from `vild.pyramid` or `vild.encode_image`.
        sizes: N pairs (width, height) at which boxes end.
        targets: N; only base categories belong here.
        text: (K, D), the base names' embeddings.
        lessons: N; without them nothing imitates the teacher.
        sampling: the paper's unless given.
        generator: what samples, for repeatable runs; on the CPU.
    """
    sampling = sampling or Sampling()
    output = vild.rpn(levels)
    objectness, proposal_boxes = rpn_losses(
        output, vild.anchors(output), targets, sampling, generator
    )
    proposals = vild.proposals(output, sizes)
    samples = [
        sample_regions(proposals.of(i)[0], target, sampling, generator)
        for i, target in enumerate(targets)
    ]
    words, boxes, image = _region_losses(vild, levels, samples, targets, text, lessons)
    masks = boxes.new_zeros(())
    if vild.mask_head is not None:
        masks = _mask_losses(vild, levels, samples, targets, sampling.masks)
    return Losses(objectness, proposal_boxes, words, boxes, masks, image)


def assign_anchors(
    anchors: Tensor, boxes: Tensor, match: float = 0.7, mismatch: float = 0.3
) -> Tensor:
    """Which object each anchor (M, 4) is on: (M,) index into boxes (B, 4), -1 none, -2 neither.

    The object of highest IoU from `match` on; every object also takes the anchor it overlaps most.
    """
    owner = torch.full((len(anchors),), -1, device=anchors.device)
    if not len(boxes):
        return owner
    iou = pairwise_iou(boxes, anchors)  # (B, M)
    best, nearest = iou.max(dim=0)
    owner[best >= mismatch] = -2
    owner = torch.where(best >= match, nearest, owner)
    closest, taken = iou.max(dim=1)
    touched = closest > 0
    owner[taken[touched]] = torch.arange(len(boxes), device=anchors.device)[touched]
    return owner


def rpn_losses(
    output: RpnOutput,
    anchors: Tensor,
    targets: Sequence[Target],
    sampling: Sampling,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """Objectness over sampled anchors, divided by how many could have been; Huber over the
    deltas of every anchor on an object, the mean within each level, summed over levels."""
    objectness = output.objectness.new_zeros(())
    wanted, found, places = [], [], []
    for logits, deltas, target in zip(output.objectness, output.deltas, targets):
        owner = assign_anchors(anchors, target.boxes, sampling.match, sampling.mismatch)
        chosen = balanced_sample(
            owner >= 0, owner == -1, sampling.anchors, sampling.anchors_positive, generator
        )
        truth = (owner[chosen] >= 0).to(logits)
        objectness = objectness + F.binary_cross_entropy_with_logits(
            logits[chosen], truth, reduction="sum"
        )
        on = (owner >= 0).nonzero()[:, 0]
        wanted.append(encode(target.boxes[owner[on]], anchors[on], UNWEIGHTED))
        found.append(deltas[on])
        places.append(on)
    level = torch.arange(len(output.level_sizes)).repeat_interleave(
        torch.tensor(output.level_sizes)
    )
    of_level = level.to(anchors.device)[torch.cat(places)]
    boxes = sum(
        (
            _mean_huber(
                torch.cat(found)[of_level == i], torch.cat(wanted)[of_level == i], PROPOSAL_DELTA
            )
            for i in range(len(output.level_sizes))
        ),
        start=objectness.new_zeros(()),
    )
    return objectness / (len(targets) * sampling.anchors), boxes


def balanced_sample(
    positive: Tensor,
    negative: Tensor,
    count: int,
    fraction: float,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Indices, ascending, of at most `count` rows: of `positive` (M,) bool at most that
    fraction, the rest of `negative` (M,) bool."""
    positives = _some(positive, int(count * fraction), generator)
    negatives = _some(negative, count - len(positives), generator)
    return torch.cat([positives, negatives]).sort().values


def sample_regions(
    proposals: Tensor,
    target: Target,
    sampling: Sampling,
    generator: torch.Generator | None = None,
) -> RegionSample:
    """Some of the proposals (P, 4) and of the objects themselves, with what they hold."""
    boxes = torch.cat([proposals, target.boxes.to(proposals)])
    owners = torch.full((len(boxes),), -1, device=boxes.device)
    best = boxes.new_zeros(len(boxes))
    if len(target.boxes):
        best, owners = pairwise_iou(boxes, target.boxes.to(proposals)).max(dim=1)
    on = best > sampling.region_match
    chosen = balanced_sample(
        on, best < sampling.region_match, sampling.regions, sampling.regions_positive, generator
    )
    owners = torch.where(on, owners, -1)[chosen]
    labels = torch.full_like(owners, BACKGROUND)
    if len(target.boxes):
        labels = torch.where(owners >= 0, target.labels[owners.clamp(min=0)] + 1, labels)
    return RegionSample(boxes[chosen], labels, owners)


def text_loss(logits: Tensor, labels: Tensor, known: Tensor | None = None) -> Tensor:
    """ViLD-text (equation 3): the cross-entropy of logits (R, 1 + K), the mean over regions.

    Args:
        labels: (R,), 0 is background.
        known: (K,) bool; names that are False take no part, as the novel ones must not.
    """
    if known is not None:
        logits = torch.cat([logits[:, :1], logits[:, 1:].masked_fill(~known, -torch.inf)], dim=1)
    return F.cross_entropy(logits, labels)


def image_loss(imitations: Tensor, taught: Tensor) -> Tensor:
    """ViLD-image (equation 4): the L1 distance of unit vectors (P, D) from the teacher's, which
    need not have unit length; summed over D, the mean over regions."""
    return F.l1_loss(imitations, F.normalize(taught, dim=-1), reduction="sum") / len(imitations)


def box_loss(deltas: Tensor, regions: Tensor, truth: Tensor) -> Tensor:
    """Huber between the deltas (P, 4) of regions (P, 4) on objects and those that would make
    them the objects' boxes (P, 4); the mean."""
    return _mean_huber(deltas, encode(truth, regions), REGION_DELTA)


def mask_loss(logits: Tensor, truth: Tensor) -> Tensor:
    """Cross-entropy of logits (P, 28, 28) per cell, the mean; `truth` in {0, 1}."""
    return F.binary_cross_entropy_with_logits(logits, truth.to(logits))


def mask_targets(masks: Tensor, owners: Tensor, boxes: Tensor, size: int = 28) -> Tensor:
    """What of each box (P, 4) its object covers: (P, size, size) in {0, 1}.

    masks (B, H, W) of the picture; owners (P,) says whose.
    """
    rois = torch.cat([owners[:, None].to(boxes), boxes], dim=1)
    covered: Tensor = roi_align(masks[:, None].to(boxes), rois, size, aligned=True)
    return (covered[:, 0] >= 0.5).to(boxes)


def _region_losses(
    vild: Vild,
    levels: Sequence[Tensor],
    samples: Sequence[RegionSample],
    targets: Sequence[Target],
    text: Tensor,
    lessons: Sequence[Lesson] | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Names, boxes and the imitation."""
    found = [sample.boxes for sample in samples]
    lessons = [lesson.real for lesson in lessons or ()]
    taught = torch.cat([lesson.embeddings for lesson in lessons]) if lessons else text[:0]
    if lessons and vild.image_head is None:
        # One pass of the one head, whose batch statistics then cover both kinds of regions, as
        # they do in the reference.
        both = [torch.cat([rows, lesson.boxes]) for rows, lesson in zip(found, lessons)]
        regions = vild.regions(levels, both)
        named = torch.cat([torch.arange(len(b)) < len(rows) for b, rows in zip(both, found)])
        imitations = regions.embeddings[~named]
        embeddings, deltas = regions.embeddings[named], regions.deltas[named]
    else:
        regions = vild.regions(levels, found, imitate=False)
        embeddings, deltas = regions.embeddings, regions.deltas
        imitations = embeddings[:0]
        if lessons and len(taught):
            imitations = vild.imitations(levels, [lesson.boxes for lesson in lessons])
    image = image_loss(imitations, taught.to(imitations)) if len(taught) else imitations.sum()
    words = text_loss(vild.classifier(embeddings, text), torch.cat([s.labels for s in samples]))
    on = torch.cat([sample.owners for sample in samples]) >= 0
    truth = torch.cat(
        [
            target.boxes[sample.owners[sample.owners >= 0]]
            for sample, target in zip(samples, targets)
        ]
    )
    return words, box_loss(deltas[on], torch.cat(found)[on], truth), image


def _mask_losses(
    vild: Vild,
    levels: Sequence[Tensor],
    samples: Sequence[RegionSample],
    targets: Sequence[Target],
    most: int,
) -> Tensor:
    boxes, truth = [], []
    for sample, target in zip(samples, targets):
        on = (sample.owners >= 0).nonzero()[:most, 0]
        if target.masks is None:
            on = on[:0]
        boxes.append(sample.boxes[on])
        if target.masks is not None and len(on):
            size = 2 * vild.config.mask_roi
            truth.append(mask_targets(target.masks, sample.owners[on], sample.boxes[on], size))
    if not truth:
        return levels[0].new_zeros(())
    return mask_loss(vild.masks(levels, boxes), torch.cat(truth))


def _mean_huber(found: Tensor, wanted: Tensor, delta: float) -> Tensor:
    """Zero, with a gradient, of nothing."""
    if not len(found):
        return found.sum()
    return F.huber_loss(found, wanted, delta=delta)


def _some(choice: Tensor, count: int, generator: torch.Generator | None) -> Tensor:
    """Indices of at most `count` rows where `choice` (M,) is true, at random."""
    rows = choice.nonzero()[:, 0]
    if len(rows) <= count:
        return rows
    order = torch.randperm(len(rows), generator=generator)[:count]
    return rows[order.to(rows.device)]
