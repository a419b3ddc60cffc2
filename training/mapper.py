"""Train a mapper, StyleCLIP's network of one edit: `python -m training.mapper "with glasses"`.

    python -m training.mapper "a person with glasses" --neutral "a person without glasses"
    python -m training.mapper --shipped        # the six that come with the app, one by one
    python -m training.mapper "a smiling face" --generator ffhq.safetensors --clip clip-vit-b-32 \\
        --preset paper --identity 0 --out smile.safetensors

The edits measured by `python -m training.evaluate styleclip` have names; those mappers are called
so, and their words need not be repeated: `python -m training.mapper glasses`.
"""

import argparse
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from models.catalog import CATALOG
from models.clip import ClipEncoder
from models.registry import Registry
from models.styleclip.identity import AvatarIdentity
from models.styleclip.mapper import save_mapper
from models.styleclip.mapper_training import MapperSettings, train_mapper
from models.styleclip.prompt import EditPrompt
from models.stylegan.checkpoints import load_generator
from models.stylegan.generator import Generator
from training.fs3 import GENERATOR, shown
from training.styleclip_evaluation import EDITS, MAPPERS

PRESETS: dict[str, Callable[[], MapperSettings]] = {
    "mini": MapperSettings.mini,
    "paper": MapperSettings.paper,
}
NAMED = {edit.name: edit.prompt for edit in EDITS}
SHIPPED = ("glasses", "hat", "beard", "smile", "long-hair", "white-hair")


@dataclass(frozen=True)
class Order:
    """What is trained and where it goes."""

    prompt: EditPrompt
    out: Path


def orders(target: str | None, neutral: str, out: Path | None, generator: Path) -> list[Order]:
    """One order, or without a target one for each mapper that is shipped."""
    folder = generator.parent / MAPPERS
    if target is None:
        return [Order(NAMED[name], folder / f"{name}.safetensors") for name in SHIPPED]
    prompt = NAMED.get(target) or EditPrompt(target, neutral)
    name = re.sub(r"[^a-z0-9]+", "-", target.casefold()).strip("-") or "mapper"
    return [Order(prompt, out or folder / f"{name}.safetensors")]


def train(
    order: Order, generator: Generator, name: str, clip: ClipEncoder, settings: MapperSettings
) -> None:
    """Train one mapper, save it, and say what it took. On avatars, identity is their traits."""
    start, used = time.monotonic(), time.process_time()
    identity = AvatarIdentity.of_prompt(clip, order.prompt) if settings.identity else None
    mapper = shown(train_mapper(generator, clip, order.prompt, settings, identity, name))
    save_mapper(mapper, order.out)
    print(
        f"{order.out}: “{order.prompt.target}”, {order.out.stat().st_size / 1e6:.2f} MB, "
        f"{time.monotonic() - start:,.0f} s, {time.process_time() - used:,.0f} CPU-seconds",
        flush=True,
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("target", nargs="?", help="what the edit should show, or an edit's name")
    what.add_argument("--shipped", action="store_true", help=", ".join(SHIPPED))
    parser.add_argument("--neutral", default="a person", help="what pictures show before it")
    parser.add_argument("--out", type=Path, help="by default in mappers/ beside the generator")
    parser.add_argument("--generator", type=Path, default=GENERATOR, help="any readable file")
    parser.add_argument("--clip", default="clip-portraits", choices=sorted(CATALOG))
    parser.add_argument("--preset", default="mini", choices=sorted(PRESETS))
    parser.add_argument("--objective", help="cosine or directional, instead of the preset's")
    parser.add_argument("--identity", type=float, help="weight, instead of the preset's")
    parser.add_argument("--steps", type=int, help="instead of the preset's")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    chosen = {key: getattr(options, key) for key in ("objective", "identity", "steps", "seed")}
    told = {key: value for key, value in chosen.items() if value is not None}
    settings = replace(PRESETS[options.preset](), **told)
    generator = load_generator(options.generator)
    name = (
        options.generator.parent.name if options.generator == GENERATOR else options.generator.stem
    )
    with Registry(CATALOG, device="cpu").lease(options.clip) as clip:
        for order in orders(options.target, options.neutral, options.out, options.generator):
            train(order, generator, name, clip, settings)


if __name__ == "__main__":
    main()
