"""Measure fs3, the table behind StyleCLIP's global directions: `python -m training.fs3`.

For stylegan2-mini it takes minutes on one core. An interrupted run (Ctrl-C, a lost connection)
continues from its `.part`. Any other generator file and any CLIP of the catalogue will do:

    python -m training.fs3 --generator ffhq.safetensors --clip clip-vit-b-32 --images 100
"""

import argparse
import time
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import torch

from models.catalog import ASSETS, CATALOG
from models.jobs import Job
from models.registry import Registry
from models.styleclip.directions import SAMPLES, measure_statistics
from models.styleclip.fs3 import Fs3
from models.styleclip.secant import SecantSettings, eight_bit, measure
from models.stylegan.checkpoints import load_generator
from models.weights import sha256_of

GENERATOR = ASSETS / "stylegan2-mini" / "model.safetensors"
PRINT_EVERY_S = 10.0

T = TypeVar("T")


def shown(job: Job[T]) -> T:
    """Drive a job to its end, printing now and then where it stands."""
    start = printed = time.monotonic()
    try:
        while True:
            step = next(job)
            if time.monotonic() - printed > PRINT_EVERY_S:
                printed = time.monotonic()
                print(f"{printed - start:6.0f} s  {step.message}", flush=True)
    except StopIteration as end:
        result: T = end.value
        return result
    finally:
        job.close()


def table(generator_path: Path, clip_name: str, out: Path, settings: SecantSettings) -> Fs3:
    """Measure the table of a generator's file and write it."""
    generator = load_generator(generator_path)
    generator.eval().requires_grad_(False)
    statistics = shown(measure_statistics(generator, SAMPLES))
    about = {"generator": sha256_of(generator_path), "clip": clip_name}
    part = out.with_suffix(".part.safetensors")
    with Registry(CATALOG, device="cpu").lease(clip_name) as clip:
        found = shown(
            measure(generator, eight_bit(clip), statistics, settings, about=about, part=part)
        )
    found.save(out)
    part.unlink(missing_ok=True)
    return found


def main(arguments: list[str] | None = None) -> None:
    mini = SecantSettings.mini()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--generator", type=Path, default=GENERATOR, help="any readable file")
    parser.add_argument("--clip", default="clip-mini-critic", choices=sorted(CATALOG))
    parser.add_argument("--out", type=Path, help="fs3.safetensors beside the generator if not told")
    parser.add_argument("--images", type=int, default=mini.images, help="the paper takes 100")
    parser.add_argument("--batch", type=int, default=mini.batch, help="renderings at once")
    parser.add_argument("--exact", action="store_true", help="float32 instead of bfloat16")
    parser.add_argument("--aliased", action="store_true", help="as the reference's code measures")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    out = options.out or options.generator.with_name("fs3.safetensors")
    settings = replace(
        mini, images=options.images, batch=options.batch, bfloat16=not options.exact,
        aliased=options.aliased,
    )  # fmt: skip
    start, used = time.monotonic(), time.process_time()
    found = table(options.generator, options.clip, out, settings)
    rows, width = found.table.shape
    zero = int((found.table.abs().amax(dim=1) == 0).sum())
    print(
        f"{out}: {rows:,} channels x {width} features, {zero} of them without effect; "
        f"{time.monotonic() - start:,.0f} s, {time.process_time() - used:,.0f} CPU-seconds"
    )


if __name__ == "__main__":
    main()
