"""Regions that show the same kind of thing, found without any name."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform
from torch import Tensor

from models.detection.boxes import pairwise_iou
from models.detection.detections import Detections
from models.vild.regions import (
    Floats,
    Picked,
    RawRegions,
    RegionThresholds,
    Rows,
    Score,
    Vocabulary,
    name_scores,
)


@dataclass(frozen=True)
class Group:
    """Regions of one kind.

    Attributes:
        name: the vocabulary's best for all of them together. score: its mean over them.
        base: whether the detector was trained on that name.
        rows: of the regions, best objectness first.
    """

    name: str
    score: float
    base: bool
    rows: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Discovery:
    """What a picture shows, unasked.

    Attributes:
        groups: best first.
        detections: all their regions; `phrases` are indices of the groups, scores how well the
            group's name fits the region itself.
        rows: (D,) which region each detection is.
    """

    groups: tuple[Group, ...]
    detections: Detections
    rows: tuple[int, ...]


def cluster_regions(vectors: Floats, boxes: Floats, distance: float) -> list[list[int]]:
    """Agglomerative clustering, average linkage, of N regions.

    How far two regions are apart is (1 - cosine) * (1 - IoU): things that look the same are of one
    kind wherever they are, and the more two boxes cover each other the less their looks may tell
    them apart, since they are likely one thing.

    Args:
        vectors: (N, D) of unit length. boxes: (N, 4) xyxy.
        distance: at which clusters are no longer joined, in [0, 2].

    Returns:
        Members of each cluster, ascending; the cluster of the first region comes first.
    """
    if len(vectors) < 2:
        return [[row] for row in range(len(vectors))]
    iou = pairwise_iou(torch.tensor(boxes), torch.tensor(boxes)).numpy()
    apart = np.clip(1 - vectors @ vectors.T, 0, 2) * (1 - iou)
    apart = (apart + apart.T) / 2
    np.fill_diagonal(apart, 0)  # rounding leaves 1e-7
    tree = linkage(squareform(apart), method="average")
    labels = fcluster(tree, distance, criterion="distance").tolist()
    members: dict[int, list[int]] = {}
    for row, label in enumerate(labels):
        members.setdefault(label, []).append(row)
    return list(members.values())


def name_clusters(
    clusters: list[list[int]], rows: Rows, scores: Tensor, vocabulary: Vocabulary
) -> tuple[tuple[Group, ...], Picked, tuple[int, ...]]:
    """Each cluster under the name that scores best on average, without those that are rather the
    background.

    Args:
        clusters: of indices into `rows`.
        scores: (n, 1 + K) of the background and every name, for each of `rows`.

    Returns:
        The groups, best first; all their regions, best first; and the group of each of these.
    """
    best = [scores[members].mean(dim=0).max(dim=0) for members in clusters]
    named = [
        (float(value), int(column), members)
        for (value, column), members in zip(best, clusters)
        if column > 0
    ]
    named.sort(key=lambda cluster: -cluster[0])
    groups = tuple(
        Group(
            name=vocabulary.names[column - 1],
            score=value,
            base=bool(vocabulary.base[column - 1]),
            rows=tuple(rows[members].tolist()),
        )
        for value, column, members in named
    )
    regions = [
        (float(scores[member, column]), number, column - 1, int(rows[member]))
        for number, (_, column, members) in enumerate(named)
        for member in members
    ]
    regions.sort(key=lambda region: -region[0])
    values, phrases, columns, chosen = zip(*regions) if regions else ((), (), (), ())
    picked = Picked(np.array(chosen, int), np.array(columns, int), np.array(values, np.float32))
    return groups, picked, phrases


def discover_regions(
    raw: RawRegions,
    vocabulary: Vocabulary,
    thresholds: RegionThresholds,
    score: Score,
    temperature: float,
    distance: float,
) -> tuple[tuple[Group, ...], Picked, tuple[int, ...]]:
    """`name_clusters` of the regions within `thresholds`. Raises InputError as `name_scores`."""
    rows = raw.rows(thresholds)
    scores = name_scores(raw, rows, vocabulary, score, temperature)
    clusters = cluster_regions(raw.vectors(rows), raw.boxes[rows], distance)
    return name_clusters(clusters, rows, scores, vocabulary)
