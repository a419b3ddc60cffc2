"""ViLD as a service: a picture in, its regions out; then any names, without the network.

    raw = run_to_end(detector.detect(image))
    words = run_to_end(detector.read(["red apple", "wolf"]))     # CLIP's text tower, then the disk
    detections = detector.select(raw, words, RegionThresholds(min_objectness=0.5))

What the network said of a picture is remembered by the picture's content: new names, thresholds
and scores cost arithmetic on at most a thousand regions. Masks are made for what is shown, once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from models.caches import Remembered
from models.clip.encoder import ClipEncoder
from models.detection.detections import Detections, Rle, encode_mask
from models.detection.preprocess import NetworkInput
from models.errors import InputError
from models.jobs import Job, Step, run_to_end
from models.pictures import on_white
from models.vild.categories import (
    BACKGROUND,
    CategoryEmbeddings,
    category_templates,
    clean_name,
    unique_names,
)
from models.vild.checkpoints import check_teacher
from models.vild.discovery import Discovery, discover_regions
from models.vild.head import Regions
from models.vild.postprocess import (
    BENCHMARK_NMS,
    MAX_BOXES,
    corrected_boxes,
    rank_by_class,
)
from models.vild.preprocess import prepare
from models.vild.regions import (
    Floats,
    Opinion,
    Picked,
    RawRegions,
    RegionThresholds,
    Rows,
    Score,
    Sight,
    Vocabulary,
    name_scores,
    named_regions,
    original_boxes,
    pick_regions,
    region_mask,
)
from models.vild.teacher import crop_embeddings
from models.vild.text import cosines, ensemble_probabilities, text_probabilities
from models.vild.vild import Vild

Names = Vocabulary | Sequence[str]

REMEMBERED_PICTURES = 4  # see `Sight`
REGIONS_AT_ONCE = 256  # between two chances to stop
MASKS_AT_ONCE = 64
MAX_NAMES = 5_000  # LVIS has 1,203


@dataclass(frozen=True)
class DetectorDefaults:
    """What a detector begins with.

    Attributes:
        thresholds, score: of the public notebook.
        templates: the sentences that names stand in, see `categories.TEMPLATES`.
        group_distance: up to which `discover` takes regions for one kind, in [0, 2].
    """

    thresholds: RegionThresholds = field(default_factory=RegionThresholds)
    score: Score = "cosine"
    templates: str = "full"
    group_distance: float = 0.3


# Of `python -m training.vild_evaluation`; its teacher never read sentences around these names.
_MINI = DetectorDefaults(RegionThresholds(min_objectness=0.79, min_cosine=0.17), templates="name")
DEFAULTS: Mapping[str, DetectorDefaults] = MappingProxyType(
    {"vild-mini": _MINI, "vild-mini-single": _MINI}
)


@dataclass(frozen=True)
class Why:
    """Why a region is named as it is.

    Attributes:
        distilled: the names nearest to the region as the detector sees it, cosines, best first.
        clip: those nearest to the cropped region as CLIP itself sees it, likewise.
        agreement: the cosine between CLIP's vector and the detector's imitation of it.
    """

    distilled: tuple[Opinion, ...]
    clip: tuple[Opinion, ...]
    agreement: float


class Detector:
    """A ViLD with its teacher: what the registry lends. Safe to share between threads.

    Attributes:
        name: the catalogue's name.
        model: the network, in eval mode. clip: the CLIP whose space it learnt.
        base_names: those it was trained on.
        defaults: what to begin with.
    """

    def __init__(
        self,
        name: str,
        model: Vild,
        clip: ClipEncoder,
        base_names: Sequence[str],
        defaults: DetectorDefaults | None = None,
        folder: Path | None = None,
    ) -> None:
        """
        Args:
            folder: where embeddings of names are kept; None is the app's cache.

        Raises:
            InputError: `clip` is not the teacher.
        """
        check_teacher(model.config, clip)
        self.name, self.model, self.clip = name, model.eval(), clip
        self.base_names = tuple(unique_names(base_names))
        self.defaults = defaults or DEFAULTS.get(model.config.name) or DetectorDefaults()
        self._base = frozenset(map(clean_name, self.base_names))
        self._folder = folder
        self._pictures: Remembered[RawRegions] = Remembered(REMEMBERED_PICTURES)
        self._embeddings: Remembered[CategoryEmbeddings] = Remembered(4)  # by template set

    def nbytes(self) -> int:
        """Bytes of parameters and buffers, the teacher's too, for the registry's budget."""
        tensors = [*self.model.parameters(), *self.model.buffers()]
        own = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        return own + self.clip.nbytes()

    # -------------------------------------------------------------------------- the network

    def detect(self, image: Image.Image) -> Job[RawRegions]:
        """All regions of a picture, with a step before every run of the network; closing the job
        in between stops the work. A picture seen lately costs nothing.

        Args:
            image: any size and mode.

        Raises:
            InputError: the picture is too small or narrow.
        """
        picture = on_white(image)
        key = _content_key(picture)
        if (known := self._pictures.find(key)) is not None:
            return known
        seen = prepare(picture, self.model.config)
        yield Step(0.0, "Looking at the picture")
        levels = self._encode(seen)
        yield Step(0.5, "Finding where something may be")
        boxes, objectness = self._propose(levels, seen)
        found = []
        for start in range(0, max(1, len(boxes)), REGIONS_AT_ONCE):
            share = start / max(1, len(boxes))
            yield Step(0.6 + 0.4 * share, f"Looking at {len(boxes):,} regions")
            found.append(self._regions(levels, boxes[start : start + REGIONS_AT_ONCE]))
        return self._pictures.keep(key, self._raw(seen, levels, boxes, objectness, found))

    @torch.inference_mode()
    def _encode(self, seen: NetworkInput) -> list[Tensor]:
        parameter = self.model.classifier.background
        return self.model.encode_image(seen.pixels.to(parameter.device, parameter.dtype))

    @torch.inference_mode()
    def _propose(self, levels: Sequence[Tensor], seen: NetworkInput) -> tuple[Tensor, Tensor]:
        return self.model.propose(levels, [seen.padded]).of(0)

    @torch.inference_mode()
    def _regions(self, levels: Sequence[Tensor], boxes: Tensor) -> Regions:
        return self.model.regions(levels, [boxes])

    @torch.inference_mode()
    def _raw(
        self,
        seen: NetworkInput,
        levels: Sequence[Tensor],
        boxes: Tensor,
        objectness: Tensor,
        found: Sequence[Regions],
    ) -> RawRegions:
        deltas = torch.cat([part.deltas for part in found])
        corrected = corrected_boxes(deltas, boxes, seen.padded).cpu().float()
        images = [p.image_embeddings for p in found if p.image_embeddings is not None]
        return RawRegions(
            detector=self.name,
            boxes=original_boxes(corrected, seen.size, seen.original)[1].numpy(),
            objectness=objectness.cpu().float().numpy(),
            embeddings=torch.cat([part.embeddings for part in found]).cpu().float().numpy(),
            image_embeddings=torch.cat(images).cpu().float().numpy() if images else None,
            read_boxes=corrected.numpy(),
            width=seen.original[0],
            height=seen.original[1],
            read_size=seen.size,
            sight=Sight(levels, self._picture(seen)),
        )

    def _picture(self, seen: NetworkInput) -> Tensor:
        """(3, h, w) uint8, without the padding."""
        width, height = seen.size
        config = self.model.config
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (config.mean, config.std))
        pixels = seen.pixels[0, :, :height, :width] * std + mean
        return (pixels * 255).round().clamp(0, 255).to(torch.uint8)

    # ---------------------------------------------------------------------------------- names

    def read(self, names: Sequence[str], templates: str | None = None) -> Job[Vocabulary]:
        """Names as CLIP understands them; those read before, by anyone, come from the disk.

        Blank names and repetitions are skipped, and so is the word "background", since it is
        what every name is compared with.

        Args:
            templates: which sentences; None is the detector's own choice.

        Raises:
            InputError: there is no name, there are too many, one has no letters, or there is no such
                template set.
        """
        given = [name for name in names if name.strip()]
        kept = [name for name in unique_names(given) if clean_name(name) != BACKGROUND]
        if given and not kept:
            raise InputError(
                f"“{BACKGROUND}” stands for all that has no name here; type the name of a thing."
            )
        if not kept:
            raise InputError("Type at least one name, such as “red apple”.")
        if len(kept) > MAX_NAMES:
            raise InputError(f"These are {len(kept):,} names; give at most {MAX_NAMES:,} at once.")
        first = {name: place for place, name in reversed(list(enumerate(names)))}
        chosen = category_templates(templates or self.defaults.templates)
        embeddings = self._embeddings.get(
            chosen.name, lambda: CategoryEmbeddings(self.clip, chosen, self._folder)
        )
        text = yield from embeddings.encode([BACKGROUND, *kept])
        return Vocabulary(
            names=tuple(kept),
            places=tuple(first[name] for name in kept),
            base=torch.tensor([clean_name(name) in self._base for name in kept]),
            text=text[1:],
            background=text[0],
        )

    def pick(
        self,
        raw: RawRegions,
        names: Names,
        thresholds: RegionThresholds | None = None,
        score: Score | None = None,
        temperature: float | None = None,
    ) -> Picked:
        """The regions that `select` shows, and what they are."""
        self._check(raw)
        vocabulary = self._vocabulary(names)
        return pick_regions(
            raw,
            vocabulary,
            thresholds or self.defaults.thresholds,
            score or self.defaults.score,
            self._temperature(temperature),
        )

    def select(
        self,
        raw: RawRegions,
        names: Names,
        thresholds: RegionThresholds | None = None,
        score: Score | None = None,
        temperature: float | None = None,
        masks: bool = False,
    ) -> Detections:
        """What is where, by the public notebook's rule: the best regions whatever their name, each
        under its best name, without those that are rather the background.

        Args:
            names: `read` before, or plain, and then read now.
            thresholds, score, temperature: None is the detector's own; see `name_scores`.
            masks: of what is shown; nothing where the detector makes none.

        Returns:
            `phrases` are places in the list of names that was given.

        Raises:
            InputError: as `read` and `name_scores`, or another detector found the regions.
        """
        vocabulary = self._vocabulary(names)
        picked = self.pick(raw, vocabulary, thresholds, score, temperature)
        return self._named(raw, picked, vocabulary, masks)

    @torch.inference_mode()
    def rank(
        self,
        raw: RawRegions,
        names: Names,
        max_boxes: int = MAX_BOXES,
        nms: float = BENCHMARK_NMS,
        min_score: float = 0.0,
        masks: bool = False,
    ) -> Detections:
        """What is where, by the benchmark's rule: probabilities beside the learnt background,
        suppression within every name, a region possibly under several; objectness has no say.

        Raises as `select`.
        """
        self._check(raw)
        vocabulary = self._vocabulary(names)
        classifier = self.model.classifier
        device = classifier.background.device

        def given(array: Floats) -> Tensor:
            return torch.tensor(array).to(classifier.background)

        logits = classifier(given(raw.embeddings), vocabulary.text.to(device)).float()
        if raw.image_embeddings is None:
            scores = text_probabilities(logits)
        else:
            image = classifier.without_background(
                given(raw.image_embeddings), vocabulary.text.to(device)
            ).float()
            scores = ensemble_probabilities(logits, image, vocabulary.base)
        best = rank_by_class(torch.tensor(raw.read_boxes), scores.cpu(), nms, min_score, max_boxes)
        picked = Picked(best.regions.numpy(), best.classes.numpy(), best.scores.numpy())
        return self._named(raw, picked, vocabulary, masks)

    def distribution(
        self,
        raw: RawRegions,
        row: int,
        names: Names,
        score: Score | None = None,
        temperature: float | None = None,
    ) -> tuple[Opinion, ...]:
        """What region `row` may be: the background, then every name, in their order.

        Raises:
            InputError: as `select`, or there is no such region.
        """
        rows = self._row(raw, row)
        vocabulary = self._vocabulary(names)
        (scores,) = self._scores(raw, rows, vocabulary, score, temperature).tolist()
        words = (BACKGROUND, *vocabulary.names)
        return tuple(map(Opinion, words, scores, [False, *vocabulary.base.tolist()]))

    def why(self, raw: RawRegions, row: int, names: Names | None = None, count: int = 5) -> Why:
        """The `count` nearest names of region `row`, for the detector and for CLIP itself, which
        looks at the crop now.

        Args:
            names: None are those the detector was trained on.

        Raises:
            InputError: as `distribution`.
        """
        rows = self._row(raw, row)
        vocabulary = self._vocabulary(self.base_names if names is None else names)
        distilled = self._scores(raw, rows, vocabulary, "cosine", None)[0, 1:]
        picture = raw.sight.picture.float() / 255
        seen = crop_embeddings(self.clip, picture, torch.from_numpy(raw.read_boxes[rows]))  # (1, D)
        heads = (raw.image_embeddings, raw.embeddings)
        imitation = next(head for head in heads if head is not None)[row]
        return Why(
            _nearest(distilled, vocabulary, count),
            _nearest(cosines(seen, vocabulary.text)[0], vocabulary, count),
            float(seen[0] @ torch.tensor(imitation)),
        )

    def discover(
        self,
        raw: RawRegions,
        names: Names | None = None,
        thresholds: RegionThresholds | None = None,
        masks: bool = False,
        distance: float | None = None,
    ) -> Discovery:
        """What is there without being asked for: regions of one kind, and that kind's best name.

        Args:
            names: what kinds may be called; None are the names the detector was trained on.
            distance: see `cluster_regions`; None is the detector's own.

        Raises:
            InputError: as `select`, or the distance is not in [0, 2].
        """
        distance = self.defaults.group_distance if distance is None else distance
        if not 0 <= distance <= 2:
            raise InputError(f"The distance lies between 0 and 2, not at {distance}.")
        self._check(raw)
        vocabulary = self._vocabulary(self.base_names if names is None else names)
        groups, picked, phrases = discover_regions(
            raw,
            vocabulary,
            thresholds or self.defaults.thresholds,
            self.defaults.score,
            self._temperature(None),
            distance,
        )
        detections = self._named(raw, picked, vocabulary, masks, phrases)
        return Discovery(groups, detections, tuple(picked.rows.tolist()))

    # ---------------------------------------------------------------------------------- masks

    def masks(self, raw: RawRegions, rows: Sequence[int] | Rows) -> tuple[Rle, ...] | None:
        """Masks of regions in the original picture, each made once; None if the detector makes
        none. Raises InputError where another detector found the regions."""
        self._check(raw)
        if not self.model.config.mask:
            return None
        size = raw.width, raw.height

        @torch.inference_mode()
        def compute(todo: Sequence[int]) -> list[Rle]:
            boxes = torch.from_numpy(raw.read_boxes[list(todo)])
            places = original_boxes(boxes, raw.read_size, size)[0].tolist()
            logits = torch.cat(
                [
                    self.model.masks(raw.sight.levels, [some]).cpu()
                    for some in torch.split(boxes, MASKS_AT_ONCE)
                ]
            )
            return [encode_mask(region_mask(*pair, size)) for pair in zip(logits, places)]

        return raw.sight.masks([int(row) for row in rows], compute)

    # ---------------------------------------------------------------------------------- parts

    def _vocabulary(self, names: Names) -> Vocabulary:
        return names if isinstance(names, Vocabulary) else run_to_end(self.read(names))

    def _scores(
        self,
        raw: RawRegions,
        rows: Rows,
        vocabulary: Vocabulary,
        score: Score | None,
        temperature: float | None,
    ) -> Tensor:
        score, temperature = score or self.defaults.score, self._temperature(temperature)
        return name_scores(raw, rows, vocabulary, score, temperature)

    def _temperature(self, asked: float | None) -> float:
        return self.model.config.temperature if asked is None else asked

    def _named(
        self,
        raw: RawRegions,
        picked: Picked,
        vocabulary: Vocabulary,
        masks: bool,
        phrases: tuple[int, ...] | None = None,
    ) -> Detections:
        outlines = self.masks(raw, picked.rows) if masks else None
        return named_regions(raw, picked, vocabulary, outlines, phrases)

    def _check(self, raw: RawRegions) -> None:
        if raw.detector != self.name:
            raise InputError(
                f"{raw.detector} found these regions, and {self.name} cannot name them; look at the "
                "picture again."
            )

    def _row(self, raw: RawRegions, row: int) -> Rows:
        self._check(raw)
        if not 0 <= row < len(raw):
            raise InputError(f"There is no region {row}; this picture has {len(raw):,}.")
        return np.array([row])


def _nearest(scores: Tensor, vocabulary: Vocabulary, count: int) -> tuple[Opinion, ...]:
    best = scores.topk(min(max(count, 0), len(scores)))
    return tuple(
        Opinion(vocabulary.names[column], value, bool(vocabulary.base[column]))
        for value, column in zip(best.values.tolist(), best.indices.tolist())
    )


def _content_key(picture: Image.Image) -> Hashable:
    return picture.size, hashlib.blake2b(picture.tobytes(), digest_size=16).digest()
