"""Train glip-mini further on one's own pictures with boxes in COCO's format.

    python -m training.glip --coco annotations.json --images photos --base glip-mini --out runs/mine
    python -m training.glip ... --only-head      # the pyramid stays too
    python -m training.glip ... --only-prompt    # nothing but an offset to the words of the prompt

The image tower and the language model never change. A fifth of the pictures, chosen by their ids,
is laid aside; COCO's average precision on it is told before, and after through the saved files.

What is saved: `model.safetensors`, a folder for `models.glip.checkpoints.load_glip_mini` like that
of the base; with --only-prompt instead `prompt.safetensors`, which
`models.glip.prompt_tuning.load_prompt` puts into the base's model.
"""

import argparse
import json
import math
import random
import re
import shutil
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image, UnidentifiedImageError
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from torchvision.transforms.functional import hflip

from models.catalog import ASSETS
from models.detection.boxes import rescale_boxes
from models.errors import InputError
from models.glip.glip import Glip
from models.glip.grounding import Grounder
from models.glip.losses import Losses, Targets, grounding_losses
from models.glip.preprocess import prepare
from models.glip.prompt_tuning import TunedLanguage, load_prompt, save_prompt, tune
from models.glip.prompts import (
    MAX_LABELS_AT_ONCE,
    Prompt,
    TokenizedPrompt,
    chunked,
    evaluation_prompt,
    tokenize,
    wordpiece,
)
from models.jobs import run_to_end
from training.glip import learnt
from training.glip_evaluation import ALL, Precision, Row, coco_index, coco_precision, load_grounder
from training.run import parameter_groups

Part = Literal["full", "head", "prompt"]
RATES: dict[Part, float] = {"full": 3e-4, "head": 3e-4, "prompt": 1e-2}
SLACK = 1.0  # pixels that annotation tools round beyond the border


@dataclass(frozen=True)
class CocoTraining:
    """Everything that decides a run.

    Attributes:
        part: what learns: "full" is pyramid, resizer and head.
        rate: of learning; None takes that of `RATES`.
        hold_out: share of the pictures that is laid aside to measure on.
        flip: share of the pictures shown mirrored.
    """

    part: Part = "full"
    steps: int = 400
    batch: int = 4
    rate: float | None = None
    decay: float = 0.05
    clip: float = 5.0
    warmup: float = 0.05
    hold_out: float = 0.2
    flip: float = 0.5
    seed: int = 2026


# ------------------------------------------------------------------------------------ reading files


@dataclass(frozen=True)
class Example:
    """A picture of the data set: file, and boxes (B, 4) float32 xyxy pixels with (B,) places in the
    list of categories."""

    id: int
    path: Path
    boxes: Tensor
    categories: Tensor


@dataclass(frozen=True)
class CocoData:
    """A checked data set.

    Attributes:
        categories: COCO's rows, in the file's order.
        rows: the annotations as the file has them, crowds too.
    """

    examples: tuple[Example, ...]
    categories: tuple[Row, ...]
    images: tuple[Row, ...]
    rows: tuple[Row, ...]

    @cached_property
    def names(self) -> list[str]:
        return [str(category["name"]) for category in self.categories]

    def split(self, share: float) -> tuple[list[Example], list[Example]]:
        """To learn from, and to measure on; an id decides, so pictures stay where they are when
        others come or the file's order changes.

        Raises:
            InputError: one of the two would have no box.
        """
        order = sorted(self.examples, key=lambda one: zlib.crc32(str(one.id).encode()))
        count = max(1, round(share * len(order)))
        held_out, rest = order[:count], order[count:]
        for which, part in (("learn from", rest), ("measure on", held_out)):
            if not sum(len(one.boxes) for one in part):
                raise InputError(
                    f"The {len(part)} pictures to {which} have no box; annotate more pictures."
                )
        return rest, held_out


def read_coco(path: Path, folder: Path) -> CocoData:
    """Read and check an annotation file.

    Args:
        folder: where the pictures of `file_name` are.

    Raises:
        InputError: it is no COCO file, it has no annotations, a picture is missing or of another
            size, or a box is broken or outside its picture; the sentence tells which.
    """
    data = _json(path)
    images, categories, rows = (_rows(data, key) for key in ("images", "categories", "annotations"))
    sizes = {image["id"]: _checked_picture(image, folder) for image in images}
    place = {category["id"]: index for index, category in enumerate(categories)}
    if len(sizes) < len(images) or len(place) < len(categories):
        raise InputError("Two images or two categories have the same id; give each its own.")
    _check_names([str(category["name"]) for category in categories])
    boxes: dict[Any, list[tuple[list[float], int]]] = {number: [] for number in sizes}
    for row in rows:
        box = _checked_box(row, sizes, place)
        if not row.get("iscrowd"):  # a region of many, which is no box to learn
            boxes[row["image_id"]].append((box, place[row["category_id"]]))
    examples = [
        Example(
            image["id"], folder / image["file_name"],
            torch.tensor([box for box, _ in boxes[image["id"]]]).reshape(-1, 4),
            torch.tensor([kind for _, kind in boxes[image["id"]]], dtype=torch.long),
        )
        for image in images
    ]  # fmt: skip
    return CocoData(tuple(examples), tuple(categories), tuple(images), tuple(rows))


def _json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"There is no readable file {path}; give the annotation file.") from error
    except ValueError as error:
        raise InputError(f"{path} is no JSON; export the annotations in COCO's format.") from error
    if not isinstance(data, dict):
        raise InputError(f"{path} is a list; COCO's format has images, categories, annotations.")
    return data


def _rows(data: dict[str, Any], key: str) -> list[Row]:
    rows = data.get(key)
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise InputError(f"The file has no {key}; export the annotations in COCO's format.")
    needed = {"images": ("id", "file_name"), "categories": ("id", "name"),
              "annotations": ("image_id", "category_id", "bbox")}[key]  # fmt: skip
    for row in rows:
        for name in needed:
            if name not in row:
                raise InputError(f"One of the {key} has no {name}; COCO's format needs it.")
    return rows


def _check_names(names: list[str]) -> None:
    if len({name.casefold() for name in names}) < len(names):
        raise InputError(
            "Two categories have the same name, by which they are looked for; join them."
        )
    if not all(any(map(str.isalnum, re.sub(r"\(.*\)", "", name))) for name in names):
        raise InputError("A category has no name; give it one, by which it is looked for.")


def _checked_picture(image: Row, folder: Path) -> tuple[int, int]:
    """Width and height of the picture's file."""
    path = folder / str(image["file_name"])
    try:
        with Image.open(path) as picture:
            size = picture.size
    except FileNotFoundError as error:
        raise InputError(
            f"The picture {image['file_name']} is not in {folder}; give its folder with --images."
        ) from error
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise InputError(f"{path} is no picture that can be read; replace or remove it.") from error
    told = (image.get("width", size[0]), image.get("height", size[1]))
    if told != size:
        raise InputError(
            f"{image['file_name']} is {size[0]} x {size[1]} pixels, the file says {told[0]} x "
            f"{told[1]}; boxes would be off, so annotate the pictures as they are."
        )
    return size


def _checked_box(row: Row, sizes: dict[Any, tuple[int, int]], place: dict[Any, int]) -> list[float]:
    """x1, y1, x2, y2, with what was rounded beyond the border cut off."""
    which = f"Annotation {row.get('id', '')}".strip()
    if row["image_id"] not in sizes:
        raise InputError(f"{which} is of image {row['image_id']}, which the file does not list.")
    if row["category_id"] not in place:
        raise InputError(f"{which} is of category {row['category_id']}, which has no name.")
    try:
        left, top, width, height = map(float, row["bbox"])
    except (TypeError, ValueError) as error:
        raise InputError(f"{which} has no box [x, y, width, height].") from error
    if not (math.isfinite(left + top + width + height) and width > 0 and height > 0):
        raise InputError(f"{which} has an empty box; remove it or draw it again.")
    right, bottom = left + width, top + height
    wide, high = sizes[row["image_id"]]
    if min(left, top) < -SLACK or right > wide + SLACK or bottom > high + SLACK:
        raise InputError(
            f"The box of {which[0].lower()}{which[1:]} lies outside its picture of {wide} x {high} "
            "pixels; boxes are [x, y, width, height] in pixels."
        )
    return [max(left, 0.0), max(top, 0.0), min(right, float(wide)), min(bottom, float(high))]


# ----------------------------------------------------------------------------------------- batches


@dataclass(frozen=True)
class Batch:
    """Normalised pictures (N, 3, H, W), the prompt they are all asked with, the answers."""

    pixels: Tensor
    prompt: TokenizedPrompt
    targets: Targets


def make_batch(
    examples: Sequence[Example], named: dict[int, int], prompt: TokenizedPrompt, glip: Glip,
    mirrored: Sequence[bool],
) -> Batch:  # fmt: skip
    """Read the pictures and tie their boxes to the prompt's tokens.

    Args:
        named: category -> its phrase in the prompt; boxes of the others are background.
    """
    positive = prompt.positive > 0  # (L, T)
    pixels, boxes, tokens = [], [], []
    for example, mirror in zip(examples, mirrored, strict=True):
        with Image.open(example.path) as file:
            picture = hflip(file.convert("RGB")) if mirror else file.convert("RGB")
        seen = prepare(picture, glip.config)
        pixels.append(seen.pixels[0])
        asked = [i for i, kind in enumerate(example.categories.tolist()) if kind in named]
        mine = example.boxes[asked]
        if mirror:
            mine = torch.stack(
                [picture.width - mine[:, 2], mine[:, 1], picture.width - mine[:, 0], mine[:, 3]], 1
            )
        boxes.append(rescale_boxes(mine, seen.original, seen.size))
        phrases = [named[kind] for kind in example.categories[asked].tolist()]
        tokens.append(positive[phrases].reshape(-1, positive.shape[1]))
    count = torch.tensor([len(some) for some in boxes])
    real = torch.arange(int(count.max()))[None] < count[:, None]
    padded = pad_sequence(boxes, batch_first=True), pad_sequence(tokens, batch_first=True)
    return Batch(_padded(pixels), prompt, Targets(*padded, real))


def _padded(pixels: Sequence[Tensor]) -> Tensor:
    """One batch of pictures of several sizes, zeros to the right and below."""
    height, width = (max(picture.shape[side] for picture in pixels) for side in (1, 2))
    return torch.stack([F.pad(p, (0, width - p.shape[2], 0, height - p.shape[1])) for p in pixels])


class Prompts:
    """What the pictures are asked with: all categories if the network can read them at once, else
    those of the batch and others by chance."""

    def __init__(self, names: list[str], glip: Glip, tokenizer: Tokenizer) -> None:
        self.names, self.glip, self.tokenizer = names, glip, tokenizer
        self.whole = evaluation_prompt(names)
        self.at_once = len(self._parts(self.whole)) == 1

    def draw(
        self, examples: Sequence[Example], chance: random.Random
    ) -> tuple[dict[int, int], Prompt]:
        """Category -> phrase, and the prompt."""
        everything = list(range(len(self.names)))
        if self.at_once:
            return {kind: kind for kind in everything}, self.whole
        present = {kind for one in examples for kind in one.categories.tolist()}
        chance.shuffle(everything)
        order = sorted(everything, key=lambda kind: kind not in present)[:MAX_LABELS_AT_ONCE]
        while len(self._parts(prompt := evaluation_prompt([self.names[k] for k in order]))) > 1:
            order.pop()
        return {kind: phrase for phrase, kind in enumerate(order)}, prompt

    def _parts(self, prompt: Prompt) -> list[Prompt]:
        return chunked(prompt, self.tokenizer, self.glip.config.max_tokens)


# ---------------------------------------------------------------------------------------- learning


class Tuning:
    """A run on the examples of `data` that are not held out."""

    def __init__(
        self, plan: CocoTraining, data: CocoData, base: Path, device: torch.device
    ) -> None:
        self.plan, self.data, self.base, self.device = plan, data, base, device
        self.learning, self.held_out = data.split(plan.hold_out)
        torch.manual_seed(plan.seed)
        self.tokenizer = wordpiece()
        self.glip = load_base(base, device).train()
        self.prompts = Prompts(data.names, self.glip, self.tokenizer)
        self.part = self._part()
        self.glip.requires_grad_(False)
        for parameter in self.part.parameters():
            parameter.requires_grad_(True)
        if isinstance(self.part, TunedLanguage):
            self.part.language.requires_grad_(False)
        decay = 0.0 if plan.part == "prompt" else plan.decay
        self.rate = RATES[plan.part] if plan.rate is None else plan.rate
        self.optimizer = torch.optim.AdamW(
            parameter_groups(self.part.parameters(), decay), lr=self.rate
        )

    def _part(self) -> nn.Module:
        if self.plan.part == "full":
            return learnt(self.glip)
        if self.plan.part == "head":
            return self.glip.head
        if not self.prompts.at_once:
            raise InputError(
                f"The {len(self.data.names)} names of the categories do not fit into one prompt of "
                f"{self.glip.config.max_tokens} tokens; train the head instead, with --only-head."
            )
        return tune(self.glip, tokenize(self.prompts.whole, self.tokenizer).input_ids)

    def train(self) -> Iterator[Losses]:
        """The plan's steps."""
        chance = random.Random(self.plan.seed)
        for step in range(self.plan.steps):
            examples = chance.sample(self.learning, min(self.plan.batch, len(self.learning)))
            named, prompt = self.prompts.draw(examples, chance)
            mirrored = [chance.random() < self.plan.flip for _ in examples]
            tokens = tokenize(prompt, self.tokenizer)
            losses = self.losses(make_batch(examples, named, tokens, self.glip, mirrored))
            for group in self.optimizer.param_groups:
                group["lr"] = self.rate * self._share(step)
            self.optimizer.zero_grad(set_to_none=True)
            losses.total.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(self.part.parameters(), self.plan.clip)
            self.optimizer.step()
            yield losses

    def losses(self, batch: Batch) -> Losses:
        """Of one batch, with gradients."""
        count = len(batch.pixels)
        ids, mask = (
            tensor[None].to(self.device)
            for tensor in (batch.prompt.input_ids, batch.prompt.attention_mask)
        )
        text = self.glip.encode_text(ids, mask).expand(count, -1, -1)
        mask = mask.expand(count, -1) > 0
        levels = self.glip.encode_image(batch.pixels.to(self.device))
        phrases = self.glip.encode_phrases(ids[0], batch.prompt.positive)
        if phrases is not None:
            phrases = phrases.expand(count, -1, -1)
        found = self.glip.predict(levels, text, mask, phrases=phrases)
        t = batch.targets
        return grounding_losses(
            found.logits, found.box_regression, found.centerness, mask,
            self.glip.anchors(found.level_shapes, self.device),
            [height * width for height, width in found.level_shapes],
            Targets(t.boxes.to(self.device), t.tokens.to(self.device), t.real.to(self.device)),
        )  # fmt: skip

    def _share(self, step: int) -> float:
        """Of the learning rate: warmed up, then half a cosine."""
        warm = min(1.0, (step + 1) / max(1.0, self.plan.warmup * self.plan.steps))
        return warm * (0.5 + 0.5 * math.cos(math.pi * step / self.plan.steps))

    def save(self, folder: Path) -> Path:
        """What was learnt; returns its file."""
        folder.mkdir(parents=True, exist_ok=True)
        if isinstance(self.part, TunedLanguage):
            path = folder / "prompt.safetensors"
            save_prompt(self.part, self.prompts.whole, path)
            return path
        path = folder / "model.safetensors"
        state = learnt(self.glip).state_dict()
        save_file({k: v.half().cpu().contiguous() for k, v in state.items()}, str(path))
        for name in ("config.json", "plan.json"):  # which preset it is
            if (self.base / name).is_file():
                shutil.copyfile(self.base / name, folder / name)
        return path

    def saved(self, folder: Path) -> tuple[Glip, Prompt]:
        """The model as its files hold it, and what to ask it."""
        if self.plan.part == "prompt":
            glip = load_base(self.base, self.device)
            return glip, load_prompt(glip, folder / "prompt.safetensors")
        return load_base(folder, self.device), self.prompts.whole

    def measure(self, glip: Glip, prompt: Prompt) -> Precision:
        """COCO's average precision on the pictures laid aside."""
        grounder = Grounder("coco", glip, self.tokenizer)
        found: list[Row] = []
        for example in self.held_out:
            with Image.open(example.path) as file:
                picture = file.convert("RGB")
            detections = run_to_end(grounder.ground(picture, prompt)).select(ALL)
            boxes, scores = detections.boxes.tolist(), detections.scores.tolist()
            for (left, top, right, bottom), score, phrase in zip(boxes, scores, detections.phrases):
                found.append(
                    {
                        "image_id": example.id,
                        "category_id": self.data.categories[phrase]["id"],
                        "bbox": [left, top, right - left, bottom - top],
                        "score": score,
                    }
                )
        ids = [example.id for example in self.held_out]
        truth = coco_index(self.data.images, self.data.categories, self.data.rows)
        return coco_precision(truth, found, ids)


def load_base(directory: Path, device: torch.device) -> Glip:
    return load_grounder(directory, device).model


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Those of `training.glip` that are about one's own pictures."""
    own = parser.add_argument_group(
        "training further on one's own pictures (training/glip_coco.py)"
    )
    own.add_argument("--coco", type=Path, metavar="JSON", help="annotations in COCO's format")
    own.add_argument("--images", type=Path, metavar="DIR", help="folder of its pictures")
    own.add_argument("--base", default="glip-mini", help="an embedded model or a folder of weights")
    part = own.add_mutually_exclusive_group()
    part.add_argument("--only-head", action="store_true", help="keep the pyramid as it is")
    part.add_argument(
        "--only-prompt", action="store_true", help="learn an offset to the words only"
    )
    own.add_argument("--rate", type=float, help="of learning")
    own.add_argument("--batch", type=int, default=CocoTraining.batch)
    own.add_argument("--seed", type=int, default=CocoTraining.seed)


def main(options: argparse.Namespace) -> None:
    """Run what the command line asks for.

    Raises InputError for what is wrong with the files.
    """
    if options.images is None:
        raise InputError("Give the folder of the pictures with --images.")
    part: Part = "head" if options.only_head else "prompt" if options.only_prompt else "full"
    plan = CocoTraining(
        part, options.steps or CocoTraining.steps, options.batch, options.rate, seed=options.seed
    )
    base, out = base_folder(options.base), options.out or Path("runs/glip-coco")
    if out.resolve() == base.resolve():
        raise InputError("Give another folder with --out; the base has to stay as it is.")
    run(plan, options.coco, options.images, base, out, torch.device(options.device))


def base_folder(name: str) -> Path:
    """An embedded model's folder by its name, or a folder of one's own."""
    return ASSETS / name if (ASSETS / name).is_dir() else Path(name)


def run(
    plan: CocoTraining, annotations: Path, images: Path, base: Path, out: Path, device: torch.device
) -> dict[str, Precision]:
    """Trains and tells; returns the precision before and after."""
    tuning = Tuning(plan, read_coco(annotations, images), base, device)
    print(f"{len(tuning.learning)} pictures to learn from, {len(tuning.held_out)} laid aside")
    before = tuning.measure(load_base(base, device), tuning.prompts.whole)
    print(_told("before", before), flush=True)
    for step, losses in enumerate(tuning.train(), 1):
        if step % 20 == 0 or step == plan.steps:
            told = " ".join(
                f"{name} {float(value.detach()):.3f}" for name, value in vars(losses).items()
            )
            print(f"{step} {told}", flush=True)
    path = tuning.save(out)
    after = tuning.measure(*tuning.saved(out))
    print(_told("after", after))
    print(f"Saved {path}; load it with " + _how_to_load(plan, base, out))
    return {"before": before, "after": after}


def _told(when: str, precision: Precision) -> str:
    return f"{when}: AP {precision.ap:.1%}, AP50 {precision.ap50:.1%}"


def _how_to_load(plan: CocoTraining, base: Path, out: Path) -> str:
    if plan.part != "prompt":
        return f'models.glip.checkpoints.load_glip_mini(Path("{out}"), device, dtype)'
    return (
        f'models.glip.prompt_tuning.load_prompt(glip, Path("{out}/prompt.safetensors")), '
        f'where glip is load_glip_mini(Path("{base}"), device, dtype)'
    )
