"""Measure fs3, the table behind StyleCLIP's global directions: `python -m training.fs3`.

For stylegan2-mini it takes minutes on one core. An interrupted run (Ctrl-C, a lost connection)
continues from its `.part`. Any other generator file and any CLIP of the catalogue will do:

    python -m training.fs3 --generator ffhq.safetensors --clip clip-vit-b-32 --images 100

`--compare` measures instead how near the derivatives (one gradient for each prompt) come to a
table that is there: Spearman's rank correlation of the channels' relevances.
"""

import argparse
import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import torch

from models.catalog import ASSETS, CATALOG
from models.jobs import Job
from models.registry import Registry
from models.styleclip.derivative import ProbeSettings, probe
from models.styleclip.directions import SAMPLES, measure_statistics, rank_correlation
from models.styleclip.fs3 import Fs3
from models.styleclip.secant import SecantSettings, eight_bit, measure
from models.styleclip.templates import EDIT_TEMPLATES, text_direction
from models.stylegan.checkpoints import load_generator
from models.weights import sha256_of
from training.styleclip_evaluation import EDITS

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
    spread = shown(measure_statistics(generator, SAMPLES))
    about = {"generator": sha256_of(generator_path), "clip": clip_name}
    part = out.with_suffix(".part.safetensors")
    with Registry(CATALOG, device="cpu").lease(clip_name) as clip:
        found = shown(measure(generator, eight_bit(clip), spread, settings, about=about, part=part))
    found.save(out)
    part.unlink(missing_ok=True)
    return found


def compare(generator_path: Path, clip_name: str, path: Path, settings: ProbeSettings) -> None:
    """Print the rank correlation of secant and derivative for the evaluation's twelve edits."""
    generator = load_generator(generator_path)
    generator.eval().requires_grad_(False)
    secant = Fs3.load(path)
    found = []
    with Registry(CATALOG, device="cpu").lease(clip_name) as clip:
        start = time.process_time()
        probes = shown(probe(generator, clip, settings))
        print(f"{settings}: {time.process_time() - start:,.0f} CPU-seconds, once")
        for edit in EDITS:
            wanted = text_direction(clip, edit.prompt, EDIT_TEMPLATES["portraits"])
            table = secant.relevance(wanted, generator.layout).values
            start = time.process_time()
            gradient = probes.relevance(generator, clip, wanted).values
            used = time.process_time() - start
            found.append(rank_correlation(table, gradient))
            print(f"{edit.name:20} rank correlation {found[-1]:5.2f}, {used:.1f} CPU-seconds")
    print(f"mean {statistics.mean(found):.2f}, smallest {min(found):.2f}")


def main(arguments: list[str] | None = None) -> None:
    mini = SecantSettings.mini()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--generator", type=Path, default=GENERATOR, help="any readable file")
    parser.add_argument("--clip", default="clip-portraits", choices=sorted(CATALOG))
    parser.add_argument("--out", type=Path, help="fs3.safetensors beside the generator if not told")
    parser.add_argument("--images", type=int, default=mini.images, help="the paper takes 100")
    parser.add_argument("--batch", type=int, default=mini.batch, help="renderings at once")
    parser.add_argument("--exact", action="store_true", help="float32 instead of bfloat16")
    parser.add_argument("--aliased", action="store_true", help="as the reference's code measures")
    parser.add_argument("--compare", action="store_true", help="derivatives against the table")
    parser.add_argument(
        "--probes", type=int, default=64, help="of --compare; 256 is exact for mini"
    )
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    out = options.out or options.generator.with_name("fs3.safetensors")
    if options.compare:
        compare(options.generator, options.clip, out, ProbeSettings(options.images, options.probes))
        return
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
