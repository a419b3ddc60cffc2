"""GLIP as a service: a picture and a prompt in, boxes tied to the prompt's words out.

    raw = run_to_end(grounder.ground(image, read_prompt("two dogs and a red kite")))
    detections = raw.select(grounder.defaults)   # the network does not run; for every threshold

Features of pictures and of texts are remembered apart: a new prompt on the same picture runs the
fusion and the head only. Scores and suppression are the reference's, see `postprocess`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from tokenizers import Tokenizer
from torch import Tensor

from models.caches import Remembered
from models.detection.boxes import rescale_boxes
from models.detection.detections import Detections, Span
from models.detection.nms import nms_per_label
from models.detection.preprocess import NetworkInput
from models.errors import InputError
from models.jobs import Job, Step

from .glip import Glip
from .head import HeadOutput
from .postprocess import MAX_BOXES, MIN_PROBABILITY, NMS_THRESHOLD, find_candidates, label_scores
from .preprocess import prepare
from .prompts import MAX_LABELS_AT_ONCE, Prompt, TokenizedPrompt, Word, chunked, tokenize

Floats = npt.NDArray[np.float32]

MOST_BOXES = 1000
REMEMBERED_IMAGES = 4  # GLIP-T's features of one picture of 800 x 1333 pixels fill 23 MB
REMEMBERED_TEXTS = 64
MAX_CANDIDATES = 5000  # all that one run of the reference keeps: 1000 of each level
_MAX_WORD_SCORES = 4_000_000  # 16 MB; with 1,500 names candidates times words would fill more


@dataclass(frozen=True)
class GroundingThresholds:
    """What is shown of what was found.

    Attributes:
        box: least score of a detection, in [0, 1].
        text: least probability of a phrase, the mean over its tokens before centerness, and of a
            word to count as lit, in [0, 1]. Nothing below 0.05 is ever kept.
        nms: of two boxes of one name whose IoU exceeds this the worse goes; in [0, 1].
        max_boxes: most detections of a picture, the best ones.

    Raises:
        InputError: a value out of its range.
    """

    box: float = 0.5
    text: float = MIN_PROBABILITY
    nms: float = NMS_THRESHOLD
    max_boxes: int = MAX_BOXES

    def __post_init__(self) -> None:
        for name in ("box", "text", "nms"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise InputError(f"The {name} threshold lies between 0 and 1, not at {value}.")
        if not 1 <= self.max_boxes <= MOST_BOXES:
            raise InputError(
                f"At least 1 and at most {MOST_BOXES:,} boxes are shown, not {self.max_boxes}."
            )


OFFICIAL = GroundingThresholds(box=0.5)  # the reference's demo
DEFAULTS: Mapping[str, GroundingThresholds] = MappingProxyType(
    {"glip-mini": GroundingThresholds(box=0.68)}
)


@dataclass(frozen=True, eq=False)
class RawDetections:
    """Everything that was found for a prompt, before any threshold; N boxes, best first.

    Attributes:
        prompt: what was asked.
        boxes: (N, 4) xyxy in pixels of the original picture.
        scores: (N,) the geometric mean of phrase probability and centerness.
        phrase_scores: (N,) the phrase's probability alone.
        phrases: (N,) index of the phrase in the prompt.
        words: W whole words that the network read, with their places in the prompt's caption.
        token_scores: (N, W) probability that the box shows the word, the mean over its tokens; 0
            for the words of another part of a long prompt.
        attention: (N, W) how much the box listened to the word in the last fusion, likewise; the
            rest up to 1 went to punctuation. None for a model without fusion.
        width, height: of the picture.
        read_size: (width, height) at which the network read it, where overlaps are measured, since
            the measure counts whole pixels; None is the picture's own size.
    """

    prompt: Prompt
    boxes: Floats
    scores: Floats
    phrase_scores: Floats
    phrases: npt.NDArray[np.int64]
    words: tuple[Word, ...]
    token_scores: Floats
    attention: Floats | None
    width: int
    height: int
    read_size: tuple[int, int] | None = field(default=None, kw_only=True)

    def __len__(self) -> int:
        return len(self.scores)

    @property
    def labels(self) -> tuple[str, ...]:
        """The phrases' texts."""
        return self.prompt.names

    @property
    def spans(self) -> tuple[Span, ...]:
        """The phrases' places in the caption."""
        return tuple((phrase.begin, phrase.end) for phrase in self.prompt.phrases)

    def rows(self, thresholds: GroundingThresholds) -> npt.NDArray[np.int64]:
        """Which of the boxes are within `thresholds`, best first. No network runs."""
        wanted = (self.scores >= thresholds.box) & (self.phrase_scores >= thresholds.text)
        index = np.flatnonzero(wanted)
        # Only better boxes suppress, so the best of a beginning are the best of all.
        size = max(1000, 2 * thresholds.max_boxes)
        rows = self._suppressed(index[:size], thresholds.nms)
        while len(rows) < thresholds.max_boxes and size < len(index):
            size *= 2
            rows = self._suppressed(index[:size], thresholds.nms)
        return rows[: thresholds.max_boxes]

    def _suppressed(self, rows: npt.NDArray[np.int64], threshold: float) -> npt.NDArray[np.int64]:
        """Those that stay. By name, over all parts of a prompt: one thing is not two of a name."""
        size = self.width, self.height
        kept = nms_per_label(
            rescale_boxes(torch.from_numpy(self.boxes[rows]), size, self.read_size or size),
            torch.from_numpy(self.scores[rows]),
            torch.from_numpy(self._names()[self.phrases[rows]]),
            threshold,
        )
        stay: npt.NDArray[np.int64] = rows[kept.numpy()]
        return stay

    def select(self, thresholds: GroundingThresholds) -> Detections:
        """The detections within `thresholds`. No network runs."""
        rows = self.rows(thresholds)
        phrases = tuple(self.phrases[rows].tolist())
        labels, spans = self.labels, self.spans
        return Detections(
            boxes=self.boxes[rows],
            scores=self.scores[rows],
            labels=tuple(labels[phrase] for phrase in phrases),
            phrases=phrases,
            spans=tuple(spans[phrase] for phrase in phrases),
            width=self.width,
            height=self.height,
        )

    def matrix(self, thresholds: GroundingThresholds) -> Floats:
        """(W, D): how much each word speaks for each detection of `select(thresholds)`."""
        shown: Floats = self.token_scores[self.rows(thresholds)].T
        return shown

    def lit(self, row: int, text: float = MIN_PROBABILITY) -> tuple[int, ...]:
        """Indices of the words of box `row`'s phrase whose probability is at least `text`."""
        begin, end = self.spans[int(self.phrases[row])]
        return tuple(
            place
            for place, word in enumerate(self.words)
            if begin < word.end and word.begin < end and self.token_scores[row, place] >= text
        )

    def _names(self) -> npt.NDArray[np.int64]:
        """(phrases,) the same number for the same name."""
        known: dict[str, int] = {}
        numbers = [known.setdefault(name.casefold(), len(known)) for name in self.labels]
        return np.asarray(numbers, dtype=np.int64)


class Grounder:
    """A GLIP with its tokeniser: what the registry lends. Safe to share between threads.

    Attributes:
        name: the catalogue's name.
        model: the network, in eval mode.
        defaults: thresholds to begin with.
    """

    def __init__(
        self,
        name: str,
        model: Glip,
        tokenizer: Tokenizer,
        defaults: GroundingThresholds | None = None,
        max_labels: int = MAX_LABELS_AT_ONCE,
    ) -> None:
        """`max_labels` is how many names the network reads at once; `defaults` None takes those of
        `DEFAULTS` for the model's configuration, or the official ones."""
        self.name = name
        self.model = model.eval()
        self.defaults = defaults or DEFAULTS.get(model.config.name, OFFICIAL)
        self._tokenizer = tokenizer
        self._max_labels = max_labels
        self._images: Remembered[list[Tensor]] = Remembered(REMEMBERED_IMAGES)
        self._texts: Remembered[Tensor] = Remembered(REMEMBERED_TEXTS)

    def nbytes(self) -> int:
        """Bytes of parameters and buffers, for the registry's budget."""
        tensors = [*self.model.parameters(), *self.model.buffers()]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    def ground(
        self,
        image: Image.Image,
        prompt: Prompt,
        min_size: int | None = None,
        max_size: int | None = None,
    ) -> Job[RawDetections]:
        """Look for a prompt's phrases in a picture, with a step before every run of the network;
        closing the job in between stops the work.

        Args:
            image: any size and mode.
            prompt: any length, read in parts if need be. Without phrases nothing is found.
            min_size, max_size: of the network's input, in pixels, instead of the model's own.

        Raises:
            InputError: the picture is too small or narrow, or a phrase has too many tokens.
        """
        seen = prepare(image, self.model.config, min_size, max_size)
        limit = self.model.config.max_tokens
        parts = chunked(prompt, self._tokenizer, limit, self._max_labels)
        read = [(part, tokenize(part, self._tokenizer, limit)) for part in parts]
        found = []
        if read:
            yield Step(0.0, "Looking at the picture")
            levels = self._image_features(seen)
            for number, (part, tokens) in enumerate(read, 1):
                which = f", part {number} of {len(read)}" if len(read) > 1 else ""
                yield Step(number / (len(read) + 1), f"Looking for what was asked{which}")
                found.append(self._look_for(seen, levels, part, tokens))
        return _gathered(found, prompt, seen)

    def _image_features(self, seen: NetworkInput) -> list[Tensor]:
        digest = hashlib.blake2b(seen.pixels.numpy().tobytes(), digest_size=16).digest()
        parameter = next(self.model.parameters())

        def compute() -> list[Tensor]:
            with torch.inference_mode():
                return self.model.encode_image(seen.pixels.to(parameter.device, parameter.dtype))

        return self._images.get((digest, tuple(seen.pixels.shape)), compute)

    def _text_features(self, tokens: TokenizedPrompt) -> Tensor:
        """(1, T, D)."""
        device = next(self.model.parameters()).device

        def compute() -> Tensor:
            ids, mask = (t[None].to(device) for t in (tokens.input_ids, tokens.attention_mask))
            with torch.inference_mode():
                return self.model.encode_text(ids, mask)

        return self._texts.get(tuple(tokens.input_ids.tolist()), compute)

    def _phrase_features(self, tokens: TokenizedPrompt) -> Tensor | None:
        """(1, T, D) for a shortcut; None without one."""
        if self.model.shortcut is None:
            return None
        ids = tokens.input_ids.to(next(self.model.parameters()).device)

        def compute() -> Tensor:
            with torch.inference_mode():
                found = self.model.encode_phrases(ids, tokens.positive)
            assert found is not None
            return found

        spans = tuple(map(tuple, tokens.label_token_pairs.tolist()))
        return self._texts.get(("phrases", tuple(tokens.input_ids.tolist()), spans), compute)

    def _look_for(
        self, seen: NetworkInput, levels: Sequence[Tensor], part: Prompt, tokens: TokenizedPrompt
    ) -> _Found:
        text, phrases = self._text_features(tokens), self._phrase_features(tokens)
        mask = tokens.attention_mask[None].to(text.device)
        with torch.inference_mode():
            output = self.model.predict(levels, text, mask, keep_attention=True, phrases=phrases)
            anchors = self.model.anchors(output.level_shapes, text.device)
            return _found(_single(output), anchors, seen, part, tokens)


# -------------------------------------------------------------------------------------- gathering


@dataclass(frozen=True, eq=False)
class _Found:
    """The candidates of one part of a prompt, on the CPU; fields as in `RawDetections`, with phrases
    and words counted and placed as in the whole prompt."""

    boxes: Tensor
    scores: Tensor
    phrase_scores: Tensor
    phrases: Tensor
    words: tuple[Word, ...]
    token_scores: Tensor
    attention: Tensor | None


def _single(output: HeadOutput) -> HeadOutput:
    """At least float32: boxes in bfloat16 would be off by whole pixels."""
    tensors = {
        name: getattr(output, name).to(torch.promote_types(output.logits.dtype, torch.float32))
        for name in ("logits", "box_regression", "centerness")
    }
    return replace(output, **tensors)


def _found(
    output: HeadOutput, anchors: Tensor, seen: NetworkInput, part: Prompt, tokens: TokenizedPrompt
) -> _Found:
    pairs = tokens.label_token_pairs.to(output.logits.device)
    candidates = find_candidates(output, pairs, anchors, seen.size)
    cells = candidates.cells
    probabilities = output.logits[0, cells].sigmoid()  # (K, T)
    of_labels, labels = label_scores(probabilities, pairs)  # (K, L), (L,)
    column = torch.searchsorted(labels, candidates.labels)
    members = tokens.members.to(probabilities)  # (T, W)
    attention = None
    if output.attention is not None:
        attention = (output.attention[0, cells].to(members) @ members).cpu()
    return _Found(
        boxes=rescale_boxes(candidates.boxes, seen.size, seen.original).cpu(),
        scores=candidates.scores.cpu(),
        phrase_scores=of_labels.gather(1, column[:, None])[:, 0].cpu(),
        phrases=candidates.labels.cpu() - 1 + part.first,
        words=tuple(_moved(word, part.offset) for word in tokens.words),
        token_scores=(probabilities @ (members / members.sum(0).clamp(min=1))).cpu(),
        attention=attention,
    )


def _moved(word: Word, offset: int) -> Word:
    return replace(word, begin=word.begin + offset, end=word.end + offset)


def _gathered(parts: Sequence[_Found], prompt: Prompt, seen: NetworkInput) -> RawDetections:
    """The candidates of all parts, best first, over the words of all parts."""
    words = list(dict.fromkeys(word for part in parts for word in part.words))
    column = {word: place for place, word in enumerate(words)}
    columns = [torch.tensor([column[word] for word in part.words]) for part in parts]
    counts = torch.tensor([len(part.scores) for part in parts], dtype=torch.long)
    owner = torch.arange(len(parts)).repeat_interleave(counts)
    row = torch.cat([torch.arange(0), *(torch.arange(len(part.scores)) for part in parts)])
    scores = torch.cat([torch.zeros(0), *(part.scores.float() for part in parts)])
    most = min(MAX_CANDIDATES, _MAX_WORD_SCORES // max(1, len(words)))
    best = scores.argsort(descending=True, stable=True)[:most]

    def joined(empty: Tensor, tensors: Iterator[Tensor]) -> Any:
        return torch.cat([empty, *(tensor.to(empty.dtype) for tensor in tensors)])[best].numpy()

    def spread(tensors: Sequence[Tensor]) -> Floats:
        wide = torch.zeros(len(best), len(words))
        for number, tensor in enumerate(tensors):
            mine = (owner[best] == number).nonzero()  # (n, 1)
            wide[mine, columns[number]] = tensor[row[best][mine[:, 0]]].float()
        return np.asarray(wide.numpy())

    heard = [part.attention for part in parts if part.attention is not None]
    return RawDetections(
        prompt=prompt,
        boxes=joined(torch.zeros(0, 4), (part.boxes for part in parts)),
        scores=scores[best].numpy(),
        phrase_scores=joined(torch.zeros(0), (part.phrase_scores for part in parts)),
        phrases=joined(torch.arange(0), (part.phrases for part in parts)),
        words=tuple(words),
        token_scores=spread([part.token_scores for part in parts]),
        attention=spread(heard) if heard else None,
        width=seen.original[0],
        height=seen.original[1],
        read_size=seen.size,
    )
