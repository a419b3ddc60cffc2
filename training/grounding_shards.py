"""What glip-mini's frozen parts make of annotated pictures, computed once and kept on disk.

Its image tower (clip-mini's) and its language model (MiniLM) stay frozen, so their outputs are a
function of the picture and the words alone; a shard holds them for a few hundred pictures, and
every pass over the shard, also of another run or of an ablation, costs only what is learnt.

`python -m training.grounding_shards --shards 40` fills the cache ahead of a training, or beside it.
"""

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from models.catalog import ASSETS, TEACHER
from models.clip.encoder import load_mini, minilm_weights
from models.clip.frozen import FrozenTower, stages_of
from models.glip.config import GlipConfig
from models.glip.text import mean_states
from models.weights import minilm_directory
from training.run import write_tensors
from training.world.grounding import KINDS, SHARES, Annotated, GroundingWorld
from training.world.scenes import Caption, Phrase
from training.world.sources import CACHE

SHARD = 256
VIEWS = GlipConfig.mini().views
TEXT_BATCH, PHRASE_BATCH = 32, 256


@dataclass(frozen=True)
class Shard:
    """N annotated pictures as features.

    Attributes:
        stages: C3, C4, C5 of the tower, then C5 of further views, (N, C, h, w) float16.
        text: (N, T, 384) float16 MiniLM states; `length` (N,) says how many tokens are real.
        offsets: (N, T, 2) characters [begin, end) of each token; zeros for [CLS], [SEP], padding.
        captions: the words of each picture.
        boxes: per picture (B, 4) float32 xyxy pixels.
        kinds: index into `KINDS` of each picture.
        size: side of the pictures, pixels.
        phrases: per picture (T, 384) float16, of each token the phrase it is in; see `PhraseReader`.
    """

    stages: tuple[Tensor, ...]
    text: Tensor
    length: Tensor
    offsets: Tensor
    captions: tuple[Caption, ...]
    boxes: tuple[Tensor, ...]
    kinds: tuple[int, ...]
    size: int
    phrases: tuple[Tensor, ...] = ()

    def __len__(self) -> int:
        return len(self.captions)


class FrozenParts:
    """clip-mini's image tower and MiniLM, as glip-mini uses them."""

    def __init__(self, device: torch.device | None = None) -> None:
        import transformers

        device = device or torch.device("cpu")
        self.encoder, self.device = load_mini(ASSETS / TEACHER, device, torch.float32), device
        visual: Any = self.encoder.model.visual
        self.tower = FrozenTower(visual.trunk)
        folder = minilm_directory()
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(str(folder))
        self.language = language_model(folder).to(device)

    @torch.inference_mode()
    def stages(self, pictures: Tensor, views: Sequence[float] = (1.0,)) -> list[Tensor]:
        """(N, 3, S, S) in [0, 1] -> C3, C4, C5, and C5 at further scales.

        Args:
            views: scales; the first is the picture's own.
        """
        return stages_of(self.tower, self.encoder.normalize(pictures.to(self.device)), views)

    @torch.inference_mode()
    def states(self, texts: list[str]) -> tuple[Tensor, Tensor, Tensor]:
        """Token states (N, T, 384), lengths (N,), character offsets (N, T, 2)."""
        coded = [
            self.tokenizer(text, return_offsets_mapping=True, truncation=True, max_length=256)
            for text in texts
        ]
        length = torch.tensor([len(c["input_ids"]) for c in coded])
        longest = int(length.max())
        states = torch.zeros(len(texts), longest, 384, dtype=torch.float16)
        offsets = torch.zeros(len(texts), longest, 2, dtype=torch.int16)
        for rows in length.argsort().split(TEXT_BATCH):
            width = int(length[rows].max())
            ids = torch.zeros(len(rows), width, dtype=torch.long)
            for place, row in enumerate(rows.tolist()):
                ids[place, : length[row]] = torch.tensor(coded[row]["input_ids"])
                offsets[row, : length[row]] = torch.tensor(coded[row]["offset_mapping"]).short()
            mask = torch.arange(width)[None] < length[rows, None]
            found = self.language(
                input_ids=ids.to(self.device), attention_mask=mask.long().to(self.device)
            ).last_hidden_state
            states[rows, :width] = (found * mask[..., None].to(found)).half().cpu()
        return states, length, offsets


def phrase_tokens(shard: Shard, row: int) -> Tensor:
    """(P, T) bool: the tokens of each phrase of a picture's caption."""
    begin, end = shard.offsets[row].long().unbind(-1)  # (T,)
    real = end > begin
    rows = [real & (begin < p.end) & (end > p.begin) for p in shard.captions[row].phrases]
    return torch.stack(rows) if rows else torch.zeros(0, len(begin), dtype=torch.bool)


class PhraseReader:
    """The phrases of shards as `Glip.encode_phrases` reads them, every different one once."""

    def __init__(self, frozen: FrozenParts) -> None:
        self.frozen = frozen
        self.known: dict[tuple[int, ...], Tensor] = {}

    def read(self, shard: Shard) -> Shard:
        """The shard with its `phrases`."""
        pictures = [self._sequences(shard, row) for row in range(len(shard))]
        new = {sequence for found in pictures for sequence, _ in found} - self.known.keys()
        ordered = sorted(new, key=len)
        for start in range(0, len(ordered), PHRASE_BATCH):
            some = ordered[start : start + PHRASE_BATCH]
            states = self._states(some)
            self.known.update(zip(some, states, strict=True))
        width = shard.text.shape[1:]
        phrases = []
        for found in pictures:
            states = torch.zeros(width, dtype=torch.float16)
            for sequence, mine in found:
                states[mine] = self.known[sequence]
            phrases.append(states)
        return replace(shard, phrases=tuple(phrases))

    def _sequences(self, shard: Shard, row: int) -> list[tuple[tuple[int, ...], Tensor]]:
        """The phrases of a caption, as token ids read alone, and their tokens (T,) bool."""
        text = shard.captions[row].text
        ids = self.frozen.tokenizer(text, truncation=True, max_length=256)["input_ids"]
        found = []
        for mine in phrase_tokens(shard, row):
            own = [ids[place] for place in mine.nonzero()[:, 0].tolist()]
            if own:
                found.append(((ids[0], *own, ids[-1]), mine))
        return found

    @torch.inference_mode()
    def _states(self, sequences: list[tuple[int, ...]]) -> Tensor:
        ids = [torch.tensor(sequence, device=self.frozen.device) for sequence in sequences]

        def language(ids: Tensor, mask: Tensor) -> Tensor:
            states: Tensor = self.frozen.language(
                input_ids=ids, attention_mask=mask
            ).last_hidden_state
            return states

        return mean_states(language, ids).half().cpu().clone()


def language_model(folder: Path) -> nn.Module:
    """MiniLM as transformers' BERT without a pooler, frozen."""
    import transformers

    config = transformers.AutoConfig.from_pretrained(str(folder))
    model: nn.Module = transformers.BertModel(config, add_pooling_layer=False).eval()
    prefix = "text.transformer."
    model.load_state_dict(
        {key.removeprefix(prefix): value for key, value in minilm_weights(folder).items()},
        strict=True,
    )
    return model.requires_grad_(False)


def shard_path(seed: int, number: int, size: int, cache: Path) -> Path:
    return cache / f"grounding-{size}-{seed}" / f"{number:05d}.safetensors"


def make_shard(
    world: GroundingWorld, frozen: FrozenParts, seed: int, number: int, cache: Path
) -> Path:
    """Draw and encode shard `number` of a seed, unless it is there; returns its file."""
    path = shard_path(seed, number, world.size, cache)
    if path.is_file():
        return path
    examples: list[Annotated] = []
    for place, (kind, share) in enumerate(zip(KINDS, SHARES, strict=True)):
        part_seed = (seed * 1_000_003 + number) * len(KINDS) + place
        examples += world.sample(kind, round(share * SHARD), part_seed)
    examples = [example for example in examples if len(example.caption.text) > 0]
    pictures = torch.stack([example.picture for example in examples])
    parts = [frozen.stages(some, VIEWS) for some in pictures.split(32)]
    stages = [torch.cat(level).half().cpu().contiguous() for level in zip(*parts, strict=True)]
    text, length, offsets = frozen.states([example.caption.text for example in examples])
    tensors = {
        **{f"stage{place}": stage for place, stage in enumerate(stages)},
        "text": text,
        "length": length,
        "offsets": offsets,
        "boxes": torch.cat([example.boxes for example in examples]).contiguous(),
        "box_counts": torch.tensor([len(example.boxes) for example in examples]),
        "kinds": torch.tensor([KINDS.index(example.kind) for example in examples]),
    }
    captions = [
        [e.caption.text, [[p.begin, p.end, list(p.places)] for p in e.caption.phrases]]
        for e in examples
    ]
    write_tensors(path, tensors, {"captions": json.dumps(captions)})
    return path


def read_shard(path: Path, size: int) -> Shard:
    """Read a file that `make_shard` wrote."""
    with safe_open(str(path), framework="pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        captions = json.loads(file.metadata()["captions"])
    return Shard(
        stages=tuple(tensors[f"stage{place}"] for place in range(2 + len(VIEWS))),
        text=tensors["text"],
        length=tensors["length"],
        offsets=tensors["offsets"],
        captions=tuple(
            Caption(text, tuple(Phrase(b, e, tuple(places)) for b, e, places in phrases))
            for text, phrases in captions
        ),
        boxes=tensors["boxes"].split(tensors["box_counts"].tolist()),
        kinds=tuple(tensors["kinds"].tolist()),
        size=size,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shards", type=int, default=36, help="how many to have in the cache")
    parser.add_argument("--first", type=int, default=0, help="where to begin counting")
    parser.add_argument("--step", type=int, default=1, help="2 and --first 0 / 1 for two processes")
    parser.add_argument("--seed", type=int, default=2026)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    world, frozen = GroundingWorld(size=options.size), FrozenParts()
    for number in range(options.first, options.shards, options.step):
        began = time.monotonic()
        path = make_shard(world, frozen, options.seed, number, CACHE)
        print(f"{path.name} {time.monotonic() - began:.1f} s", flush=True)


if __name__ == "__main__":
    main()
