"""Measure an embedded model and write its card: `python -m training.evaluate clip-mini`."""

import argparse
import json
import math
import platform
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from PIL import Image

from models.catalog import ASSETS
from models.clip import load_mini
from training import (
    avatar_judge,
    clip_evaluation,
    clipdraw_evaluation,
    glip_evaluation,
    styleclip_evaluation,
    stylegan_evaluation,
    vild_evaluation,
)
from training.clip_evaluation import Figure

BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
OWN_BEGIN, OWN_END = "<!-- measured {}: begin -->", "<!-- measured {}: end -->"
EVALUATIONS: dict[str, Callable[[Path], Iterator[Figure]]] = {
    "clip-mini": clip_evaluation.evaluate,
    "clip-judge": clip_evaluation.without_bars,
    "clip-portraits": clip_evaluation.portraits,
    "clipdraw": clipdraw_evaluation.evaluate,
    "avatar-judge": avatar_judge.evaluate,
    "glip-mini": glip_evaluation.evaluate,
    "stylegan2-mini": stylegan_evaluation.evaluate,
    "styleclip": styleclip_evaluation.evaluate,
    "vild-mini": vild_evaluation.evaluate,
}
# Whose drawings are judged, and whose pictures are edited.
FOLDERS = {"clipdraw": "clip-mini-critic", "styleclip": "stylegan2-mini"}


def measure(name: str, directory: Path) -> list[Figure]:
    """Run the evaluation, printing each figure as it comes."""
    figures = []
    for figure in EVALUATIONS[name](directory):
        print(figure.row(), flush=True)
        figures.append(figure)
    return figures


def write_card(name: str, directory: Path, figures: list[Figure], seconds: float) -> None:
    """Replace the measured part of `card.md`; the words around it are a person's.

    A folder measured in several ways has a part for each, with its name in the marks; its figures
    go to a file of their own.
    """
    path = directory / "card.md"
    text = path.read_text(encoding="utf-8") if path.is_file() else f"{BEGIN}\n{END}\n"
    begin, end, scores = BEGIN, END, "scores.json"
    if OWN_BEGIN.format(name) in text:
        begin, end, scores = OWN_BEGIN.format(name), OWN_END.format(name), f"scores-{name}.json"
    table = "\n".join(figure.row() for figure in figures)
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True
    ).stdout.strip()
    measured = (
        f"{begin}\nWritten by `python -m training.evaluate {name}` at commit {commit or '?'},"
        f" {seconds / 60:.0f} minutes on {torch.get_num_threads()} threads"
        f" ({platform.processor() or platform.machine()}, torch {torch.__version__}).\n\n"
        f"| figure | measured | bar | |\n|---|---|---|---|\n{table}\n{end}"
    )
    before, _, rest = text.partition(begin)
    _, _, after = rest.partition(end)
    path.write_text(before + measured + after, encoding="utf-8")
    measured_values = {f.name: round(f.value, 2) for f in figures if math.isfinite(f.value)}
    (directory / scores).write_text(json.dumps(measured_values, indent=1) + "\n")


def draw_ascent(directory: Path) -> None:
    """Save the eight pictures that gradient ascent finds, in one row of tiles."""
    encoder = load_mini(directory, torch.device("cpu"), torch.float32)
    pictures = clip_evaluation.ascend(encoder, list(clip_evaluation.ASCENT_PROMPTS))
    side = 192
    sheet = Image.new("RGB", (4 * side, 2 * side))
    for index, picture in enumerate(pictures):
        tile = picture.resize((side, side), Image.Resampling.BICUBIC)
        sheet.paste(tile, (index % 4 * side, index // 4 * side))
    sheet.save(directory / "ascent.jpg", quality=88)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", choices=sorted(EVALUATIONS))
    parser.add_argument("--weights", type=Path, help="folder to measure instead of assets/weights/")
    parser.add_argument("--exact", type=Path, help="only measure what the file's precision loses against "
                        "the float32 weights in this run's checkpoint.pt")  # fmt: skip
    parser.add_argument("--card", action="store_true", help="write the figures into card.md")
    parser.add_argument("--ascent", action="store_true", help="draw gradient ascent on pixels too")
    options = parser.parse_args(arguments)
    directory = options.weights or ASSETS / FOLDERS.get(options.model, options.model)
    if options.exact:
        print(clip_evaluation.storage_loss(directory, options.exact).row())
        return
    began = time.monotonic()
    figures = measure(options.model, directory)
    if options.card:
        write_card(options.model, directory, figures, time.monotonic() - began)
    if options.ascent:
        draw_ascent(directory)


if __name__ == "__main__":
    main()
