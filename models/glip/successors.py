"""GLIP's successors from transformers, behind the interface of GLIP's own `Grounder`.

    successor = load_successor(Path("grounding-dino-tiny"), "cpu")
    raw = run_to_end(successor.ground(image, prompt))      # the network, once
    raw.select(successor.defaults)                         # -> Detections, as often as one likes

Four families are read, each from a folder as `save_pretrained` writes it: GroundingDINO (Liu et
al. 2023), MM-GroundingDINO with LLMDet (Zhao et al. 2024, Fu et al. 2025), OWLv2 (Minderer et
al. 2023) and SAM 3 (Carion et al. 2025). Their networks are transformers' public classes; ours is
only what ties every box to the words that were typed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import box_convert

from models.detection.detections import Detections, Rle, encode_mask
from models.detection.files import WEIGHTS, model_type_of
from models.errors import WeightsError
from models.glip.grounding import GroundingThresholds, RawDetections
from models.glip.postprocess import MIN_PROBABILITY
from models.glip.prompts import Prompt, Word
from models.jobs import Job, Step
from models.weights import check_safetensors

Size = tuple[int | None, int | None]

MAX_CANDIDATES = 1000
MAX_ASPECT = 16  # long side to short side of a picture that is scaled by its longer one
MAX_SIDE = 4096  # far above what any of the networks sees


@dataclass(frozen=True, eq=False)
class SuccessorDetections(RawDetections):
    """`RawDetections` with masks: N COCO RLEs of the whole picture, or None each. A successor has
    no centerness, `phrase_scores` are the `scores`; and none shows its fusion's attention."""

    masks: tuple[Rle | None, ...]

    def select(self, thresholds: GroundingThresholds) -> Detections:
        """The detections within `thresholds`. No network runs."""
        found = super().select(thresholds)
        masks = tuple(self.masks[row] for row in self.rows(thresholds))
        return replace(found, masks=masks) if any(masks) else found


@dataclass(frozen=True)
class Answer:
    """What one run of a network says of Q boxes, (Q, 4) xyxy in pixels: probabilities of P phrases
    (Q, P), whose indices are `phrases`, and of W words (Q, W); masks as logits (Q, h, w)."""

    boxes: Tensor
    scores: Tensor
    phrases: tuple[int, ...]
    token_scores: Tensor
    words: tuple[Word, ...]
    masks: Tensor | None = None


class Successor:
    """A network with its processor, leased from the registry like GLIP's `Grounder`."""

    defaults: ClassVar[GroundingThresholds]  # of the authors' own demo

    def __init__(self, name: str, model: Any, processor: Any) -> None:
        self.name = name
        self.model = model  # an nn.Module of transformers, which has no types
        self.processor = processor

    def nbytes(self) -> int:
        """Bytes of its parameters and buffers."""
        return sum(t.nbytes for t in (*self.model.parameters(), *self.model.buffers()))

    def ground(
        self,
        image: Image.Image,
        prompt: Prompt,
        min_size: int | None = None,
        max_size: int | None = None,
    ) -> Job[SuccessorDetections]:
        """Look for a prompt's phrases in a picture; closing the job between runs stops the work.

        Args:
            image: any size and mode.
            prompt: any length. Without phrases nothing is found.
            min_size, max_size: of the network's input, in pixels, where its size is free (DINO).
        """
        found = []
        if prompt.phrases:
            yield Step(0.0, "Looking at the picture")
            size = (min_size, max_size)
            for fraction, answer in self._answers(image.convert("RGB"), prompt, size):
                found.append(answer)
                yield Step(fraction, "Looking for what was asked")
        return _gathered(found, image, prompt)

    def _answers(
        self, image: Image.Image, prompt: Prompt, size: Size
    ) -> Iterator[tuple[float, Answer]]:
        """(fraction done, answer) for every run of the network; the prompt has phrases."""
        raise NotImplementedError

    def _to_model(self, inputs: Any) -> dict[str, Tensor]:
        like = next(self.model.parameters())
        return {
            key: value.to(like.device, like.dtype if value.is_floating_point() else None)
            for key, value in inputs.items()
            if isinstance(value, Tensor)
        }


# ------------------------------------------------------------------------------ DINO's families


@dataclass(frozen=True)
class _Reading:
    """One text for the network: phrases in it as (index, begin, end), and stretches of it that
    stand in the prompt's caption as (begin, end, shift to the caption)."""

    text: str
    phrases: tuple[tuple[int, int, int], ...]
    stretches: tuple[tuple[int, int, int], ...]


class Dino(Successor):
    """GroundingDINO. Reads lower-case text that ends in "."; a phrase's score is the mean over its
    tokens, as in the authors' evaluation."""

    defaults = GroundingThresholds(box=0.35, text=0.25)

    def _answers(
        self, image: Image.Image, prompt: Prompt, size: Size
    ) -> Iterator[tuple[float, Answer]]:
        shown = _no_stripe(image)
        pixels = self._to_model(self._prepared(shown, size))
        # Boxes are shares of what was shown, whose longer side is the picture's.
        scale = max(image.size) / max(shown.size)
        edges = torch.tensor([*shown.size, *shown.size]) * scale
        readings = self._readings(prompt)
        for number, reading in enumerate(readings, 1):
            encoded = self.processor.tokenizer(
                reading.text,
                return_tensors="pt",
                return_token_type_ids=True,
                truncation=True,
                max_length=self._limit,
            )
            with torch.inference_mode():
                output = self.model(**pixels, **self._to_model(encoded))
            yield number / len(readings), _read_by_tokens(output, reading, encoded, edges)

    def _prepared(self, image: Image.Image, size: Size) -> Any:
        usual = self.processor.image_processor.size
        shortest, longest = size[0] or usual["shortest_edge"], size[1] or usual["longest_edge"]
        return self.processor.image_processor(
            image,
            return_tensors="pt",
            size={"shortest_edge": min(shortest, longest), "longest_edge": longest},
        )

    @property
    def _limit(self) -> int:
        return int(self.model.config.max_text_len)

    def _readings(self, prompt: Prompt) -> list[_Reading]:
        """A caption as it stands if it fits; else its phrases, "apple. dog.", in as many texts as
        the limit of tokens asks for."""
        if prompt.kind == "caption":
            text = _lower(prompt.caption).rstrip()
            text = text if text.endswith(".") else f"{text}."
            if self._length(text) <= self._limit:
                phrases = ((i, p.begin, p.end) for i, p in enumerate(prompt.phrases))
                return [_Reading(text, tuple(phrases), ((0, len(text), 0),))]
        return list(self._listed(prompt))

    def _listed(self, prompt: Prompt) -> Iterator[_Reading]:
        text, used = "", 2  # [CLS] and [SEP]
        phrases: list[tuple[int, int, int]] = []
        stretches: list[tuple[int, int, int]] = []
        for number, phrase in enumerate(prompt.phrases):
            name = _lower(prompt.caption[phrase.begin : phrase.end])
            length = self._length(f"{name}.") - 2
            if phrases and used + length > self._limit:
                yield _Reading(text, tuple(phrases), tuple(stretches))
                text, used, phrases, stretches = "", 2, [], []
            text = f"{text} " if text else ""
            begin, end = len(text), len(text) + len(name)
            text, used = f"{text}{name}.", used + length
            phrases.append((number, begin, end))
            stretches.append((begin, end, phrase.begin - begin))
        yield _Reading(text, tuple(phrases), tuple(stretches))

    def _length(self, text: str) -> int:
        return len(self.processor.tokenizer(text, verbose=False)["input_ids"])


def _read_by_tokens(output: Any, reading: _Reading, encoded: Any, edges: Tensor) -> Answer:
    """Scores of phrases and whole words from those of tokens."""
    probabilities = output.logits[0].float().sigmoid()  # (queries, tokens), 0 for pads
    spans = [encoded.token_to_chars(token) for token in range(encoded["input_ids"].shape[1])]

    def mean(begin: int, end: int) -> Tensor | None:
        tokens = [t for t, span in enumerate(spans) if span and span[0] < end and begin < span[1]]
        return probabilities[:, tokens].mean(1) if tokens else None

    phrases, scores, words, token_scores = [], [], [], []
    for phrase, begin, end in reading.phrases:
        if (score := mean(begin, end)) is not None:  # None: beyond the limit, or only odd signs
            phrases.append(phrase)
            scores.append(score)
    for begin, end, shift in reading.stretches:
        for found in re.finditer(r"\w+", reading.text[begin:end]):
            first, last = begin + found.start(), begin + found.end()
            if (score := mean(first, last)) is not None:
                words.append(Word(found[0], first + shift, last + shift))
                token_scores.append(score)
    boxes = box_convert(output.pred_boxes[0].float(), "cxcywh", "xyxy") * edges.to(probabilities)
    nothing = probabilities[:, :0]
    return Answer(
        boxes=boxes,
        scores=torch.stack(scores, 1) if scores else nothing,
        phrases=tuple(phrases),
        token_scores=torch.stack(token_scores, 1) if token_scores else nothing,
        words=tuple(words),
    )


class LlmDet(Dino):
    """MM-GroundingDINO and LLMDet: GroundingDINO's interface with another head."""

    defaults = GroundingThresholds(box=0.3)


def _no_stripe(image: Image.Image) -> Image.Image:
    """The picture; a stripe on black, since its short side would be scaled to nothing."""
    image = _at_most(image, MAX_SIDE)
    least = -(-max(image.size) // MAX_ASPECT)
    if min(image.size) >= least:
        return image
    canvas = Image.new("RGB", (max(image.width, least), max(image.height, least)))
    canvas.paste(image)
    return canvas


def _at_most(image: Image.Image, side: int) -> Image.Image:
    """The picture, shrunk if its longer side is more than `side`; no side becomes 0."""
    ratio = max(image.size) / side
    if ratio <= 1:
        return image
    width, height = (max(1, round(length / ratio)) for length in image.size)
    return image.resize((width, height), Image.Resampling.LANCZOS)


def _lower(text: str) -> str:
    """Lower case without a change of length, so that spans stay: "İ" has two lower-case letters."""
    return "".join(c.lower() if len(c.lower()) == 1 else c for c in text)


# -------------------------------------------------------------------------------- OWLv2, SAM 3


class Owl(Successor):
    """OWLv2. Scores every phrase by itself, as typed; pads the picture to a square."""

    defaults = GroundingThresholds(box=0.2)

    def _answers(
        self, image: Image.Image, prompt: Prompt, size: Size
    ) -> Iterator[tuple[float, Answer]]:
        # Made a square of floats before it is scaled, and only the memory knows how large.
        shown = _at_most(image, 2 * int(self.model.config.vision_config.image_size))
        inputs = self._to_model(
            self.processor(
                images=shown,
                text=[[phrase.text for phrase in prompt.phrases]],
                return_tensors="pt",
                truncation=True,
            )
        )
        with torch.inference_mode():
            output = self.model(**inputs)
        boxes = box_convert(output.pred_boxes[0].float(), "cxcywh", "xyxy")
        probabilities = output.logits[0].float().sigmoid()  # (patches, phrases)
        words = _whole_phrases(prompt)
        phrases = tuple(range(len(words)))
        yield 1.0, Answer(boxes * max(image.size), probabilities, phrases, probabilities, words)


class Sam3(Successor):
    """SAM 3, "promptable concept segmentation": one run of its decoder a phrase, with masks. A
    score is that of the box times that of the concept's presence in the picture."""

    defaults = GroundingThresholds(box=0.5)

    def _answers(
        self, image: Image.Image, prompt: Prompt, size: Size
    ) -> Iterator[tuple[float, Answer]]:
        words = _whole_phrases(prompt)
        pixels = self._to_model(self.processor(images=image, return_tensors="pt"))["pixel_values"]
        with torch.inference_mode():
            seen = self.model.get_vision_features(pixel_values=pixels)
        for number, phrase in enumerate(prompt.phrases):
            text = self._to_model(
                self.processor.tokenizer(
                    phrase.text,
                    return_tensors="pt",
                    padding="max_length",
                    truncation=True,
                    max_length=self._limit,
                )
            )
            with torch.inference_mode():
                output = self.model(vision_embeds=seen, **text)
            fraction = (number + 1) / len(prompt.phrases)
            yield fraction, self._answer(output, words[number], number, image)

    @property
    def _limit(self) -> int:
        return int(self.model.config.text_config.max_position_embeddings)

    def _answer(self, output: Any, word: Word, phrase: int, image: Image.Image) -> Answer:
        scores = output.pred_logits[0].float().sigmoid()  # (queries,)
        scores = scores * output.presence_logits[0].float().sigmoid()
        boxes = output.pred_boxes[0].float()
        size = boxes.new_tensor([image.width, image.height, image.width, image.height])
        masks = output.pred_masks[0].float()
        scores = scores[:, None]
        return Answer(boxes * size, scores, (phrase,), scores, (word,), masks)


def _whole_phrases(prompt: Prompt) -> tuple[Word, ...]:
    """Phrases as words, for networks that score nothing smaller."""
    return tuple(Word(phrase.text, phrase.begin, phrase.end) for phrase in prompt.phrases)


# --------------------------------------------------------------------------------- gathering


def _gathered(answers: Sequence[Answer], image: Image.Image, prompt: Prompt) -> SuccessorDetections:
    """The candidates of all answers, best first."""
    columns = sum(len(answer.words) for answer in answers)
    boxes, scores = [np.zeros((0, 4), np.float32)], [np.zeros(0, np.float32)]
    phrases = [np.zeros(0, np.int64)]
    token_scores = [np.zeros((0, columns), np.float32)]
    masks: list[Rle | None] = []
    first = 0
    for answer in answers:
        query, phrase = _best_pairs(answer.scores)
        edges = answer.boxes.new_tensor([image.width, image.height] * 2)
        spread = answer.token_scores.new_zeros(len(query), columns)
        spread[:, first : first + len(answer.words)] = answer.token_scores[query]
        first += len(answer.words)
        boxes.append(answer.boxes[query].clamp(min=0).minimum(edges).cpu().numpy())
        scores.append(answer.scores[query, phrase].cpu().numpy())
        phrases.append(np.asarray(answer.phrases, np.int64)[phrase.cpu().numpy()])
        token_scores.append(spread.cpu().numpy())
        masks.extend(_mask(answer.masks, int(q), image) for q in query)
    order = np.argsort(-np.concatenate(scores), kind="stable")[:MAX_CANDIDATES]
    best = np.concatenate(scores)[order]
    return SuccessorDetections(
        prompt=prompt,
        boxes=np.concatenate(boxes)[order],
        scores=best,
        phrase_scores=best,
        phrases=np.concatenate(phrases)[order],
        words=tuple(word for answer in answers for word in answer.words),
        token_scores=np.concatenate(token_scores)[order],
        attention=None,
        width=image.width,
        height=image.height,
        masks=tuple(masks[row] for row in order),
    )


def _best_pairs(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Boxes and phrases (n,), (n,) whose score in (Q, P) is above the floor, best first."""
    query, phrase = (scores > MIN_PROBABILITY).nonzero().unbind(1)
    order = scores[query, phrase].argsort(descending=True, stable=True)[:MAX_CANDIDATES]
    return query[order], phrase[order]


def _mask(masks: Tensor | None, query: int, image: Image.Image) -> Rle | None:
    """One mask, at the size of the picture: all of them at once would fill the memory."""
    if masks is None:
        return None
    size = (image.height, image.width)
    logits = F.interpolate(masks[query][None, None], size, mode="bilinear", align_corners=False)
    return encode_mask((logits[0, 0] > 0).cpu().numpy())


# ----------------------------------------------------------------------------------- loading


@dataclass(frozen=True)
class Family:
    """Names in transformers, which is imported when a model is loaded, and our reader of answers."""

    model: str
    processor: str
    successor: type[Successor]


# By the `model_type` of config.json. Of SAM 3, whose published file holds a video tracker too,
# transformers' image model takes its part.
FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "grounding-dino": Family("GroundingDinoForObjectDetection", "GroundingDinoProcessor", Dino),
        "mm-grounding-dino": Family(
            "MMGroundingDinoForObjectDetection", "GroundingDinoProcessor", LlmDet
        ),
        "owlv2": Family("Owlv2ForObjectDetection", "Owlv2Processor", Owl),
        "sam3": Family("Sam3Model", "Sam3Processor", Sam3),
        "sam3_video": Family("Sam3Model", "Sam3Processor", Sam3),
    }
)


def load_successor(
    name: str,
    directory: Path,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Successor:
    """The detector in a folder that holds config.json, model.safetensors and its processor's files,
    as transformers saves them. Nothing is downloaded and no code of the folder runs.

    Raises:
        WeightsError: it holds no detector of `FAMILIES`, a file is missing or damaged, or the
            weights do not fill the network.
    """
    kind = model_type_of(directory)
    if not kind:
        raise WeightsError(
            f"{directory} holds no detector of transformers; its config.json must name one of "
            f"{', '.join(FAMILIES)}."
        )
    check_safetensors(directory / WEIGHTS)
    import transformers

    family = FAMILIES[kind]
    try:
        processor = getattr(transformers, family.processor).from_pretrained(
            directory, local_files_only=True
        )
        model, told = getattr(transformers, family.model).from_pretrained(
            directory,
            local_files_only=True,
            use_safetensors=True,
            dtype=dtype,
            output_loading_info=True,
        )
    except (OSError, ValueError, TypeError, KeyError, RuntimeError, AttributeError) as error:
        raise WeightsError(
            f"{directory.name} cannot be read by transformers {transformers.__version__} "
            f"({str(error).splitlines()[0][:200]}); download all of its files again."
        ) from error
    # transformers fills what is absent with random numbers and only warns.
    wrong = sorted(told["missing_keys"]) or sorted(str(key) for key in told["mismatched_keys"])
    if wrong:
        raise WeightsError(
            f"{directory.name}/{WEIGHTS} lacks {len(wrong)} tensors of its network, the first is "
            f"{wrong[0][:100]}; download it again."
        )
    return family.successor(name, model.requires_grad_(False).eval().to(device), processor)
