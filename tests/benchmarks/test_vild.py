"""The benchmark of ViLD measures what it says."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks import vild as benchmark
from benchmarks.vild import (
    Row,
    Scale,
    cells_across,
    ours,
    random_boxes,
    random_levels,
    random_vild,
    torchvisions,
)
from models.catalog import TEACHER
from models.vild import ProposalConfig, VildConfig
from models.vild.detector import Detector, DetectorDefaults
from tests.vild_support import small_config

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL = replace(
    small_config(), max_size=64, size_multiple=64, proposals=ProposalConfig(40, 40, 0.7, 30)
)


def table(rows: Iterator[Row]) -> tuple[Row, list[Row]]:
    """The head, and the rows, which are as long."""
    head, *body = rows
    assert body
    assert {len(row) for row in body} == {len(head)}
    return head, body


def number(cell: str) -> float:
    match = re.match(r"[\d.,]+(e-?\d+)?", cell)
    assert match, cell
    return float(match[0].replace(",", ""))


class Clip:
    """The interface of a CLIP whose vectors are drawn from digests; counts what it is shown."""

    name, image_size, embed_dim = "clip-vit-b-32", 4, 20

    def __init__(self) -> None:
        self.read: list[str] = []
        self.crops = 0

    def encode_text(self, texts: list[str]) -> Tensor:
        self.read += texts
        seeds = [sum(map(ord, text)) for text in texts]
        rows = [torch.randn(20, generator=torch.Generator().manual_seed(s)) for s in seeds]
        return F.normalize(torch.stack(rows), dim=1)

    def normalize(self, pixels: Tensor) -> Tensor:
        return pixels

    def image_features(self, pixels: Tensor) -> Tensor:
        self.crops += len(pixels)
        return F.normalize(pixels.flatten(1)[:, :20], dim=1)

    def nbytes(self) -> int:
        return 0


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> tuple[Any, list[str]]:
    """What `mini_detector` gives, its CLIP, and which parts of the network ran."""
    clip: Any = Clip()
    vild = random_vild(SMALL)
    ran: list[str] = []
    for name in ("encode_image", "propose", "regions", "masks"):
        whole = getattr(vild, name)
        monkeypatch.setattr(
            vild, name, lambda *a, n=name, w=whole, **k: (ran.append(n), w(*a, **k))[1]
        )

    def made(folder: Path) -> Detector:
        return Detector("small", vild, clip, ["dog"], DetectorDefaults(templates="one"), folder)

    monkeypatch.setattr(benchmark, "mini_detector", made)
    return clip, ran


# -------------------------------------------------------------------------------------------- crops


def test_both_ways_look_at_the_same_regions(small: tuple[Any, list[str]]) -> None:
    clip, ran = small
    head, rows = table(benchmark.crop_rows(2))
    count = int(number(head[0].split(", ")[1]))
    assert clip.crops == 2 * count * 3  # two crops of each region, three times
    assert ran.count("encode_image") == 1 + 3  # a new picture each time
    assert ran.count("regions") == 1 + 3 + 3
    assert [row[0].split()[0] for row in rows] == ["CLIP", "ViLD,", "ViLD's"]
    assert rows[0][2:] == ("1.0x", "")
    for row in rows[1:]:
        ratio = number(row[2])
        assert ratio == pytest.approx(number(rows[0][1]) / number(row[1]), rel=0.05, abs=0.1)
        assert row[3].startswith(">= 50x: ")


# ------------------------------------------------------------------------------------------ regions


def test_torchvision_computes_the_same_where_boxes_are_a_cell_or_larger() -> None:
    config = replace(VildConfig.r50(), channels=3)
    levels, boxes = random_levels(config, 512), random_boxes(60, 512)
    boxes[-1] = torch.tensor([100.0, 100, 102, 160])  # half a cell wide
    small = cells_across(boxes, config) < 1
    apart = (
        (ours(levels, boxes, config) - torchvisions(levels, boxes, config)).abs().amax((1, 2, 3))
    )
    assert small[-1]
    assert apart[~small].max() < 1e-4
    assert apart[-1] > 1e-2


def test_boxes_are_of_all_sizes_and_inside() -> None:
    boxes = random_boxes(400, 1024)
    assert boxes.min() >= 0
    assert boxes.max() <= 1024
    sides = boxes[:, 2:] - boxes[:, :2]
    assert sides.min() >= 3.9
    assert sides.min() < 8
    assert sides.max() > 400


def test_features_are_timed_both_ways() -> None:
    configs = [(replace(VildConfig.mini(), channels=2), 96), (replace(SMALL, channels=2), 64)]
    head, rows = table(benchmark.region_rows(configs, 20, 1))
    assert head[3] == "torchvision / ours"
    assert [row[0] for row in rows] == [
        "vild-mini, 20 regions, 96 px",
        "vild-small, 20 regions, 64 px",
    ]
    for row in rows:
        assert number(row[1]) > 0
        assert number(row[2]) > 0
        assert number(row[4]) < 1e-3


# ------------------------------------------------------------------------------------------ network


def test_the_parts_are_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "fresh", lambda function, *args: function(*args))
    head, rows = table(benchmark.network_rows(SMALL, 1))
    assert head[0] == "vild-small, random weights, 64 x 64"
    vild = random_vild(SMALL)
    pixels = benchmark.prepare(benchmark.noise(64, 64, 0), SMALL).pixels
    count = len(vild(pixels, [(64, 64)])[0].of(0)[0])
    assert [row[0] for row in rows] == [
        "weights", "backbone and pyramid", "proposals", f"{count} regions", "masks of 25",
        "all of it",
    ]  # fmt: skip
    parts = sum(number(row[1]) for row in rows[1:-1])
    assert number(rows[-1][1]) == pytest.approx(parts, rel=0.05)
    assert rows[0][2].endswith(" MB")
    assert rows[-1][2].endswith(" MB")


# -------------------------------------------------------------------------------------------- names


def test_only_new_names_are_read() -> None:
    clip: Any = Clip()
    _, rows = table(benchmark.name_rows(clip, 3, 1))
    assert [number(row[0].split(", ")[1]) for row in rows] == [63, 7, 1, 1]
    sentences = [text for text in clip.read if "things" not in text]  # less the probes
    # Known names once, new ones twice.
    assert len(sentences) == 3 * (63 + 7 + 1 + 1) * (1 + 2)
    for row in rows:
        assert all(number(cell) > 0 for cell in row[1:])


# ------------------------------------------------------------------------------------------- slider


def test_every_slider_is_timed(small: tuple[Any, list[str]]) -> None:
    _, ran = small
    head, rows = table(benchmark.slider_rows(60, 12, 1, dim=16))
    assert head[0] == "60 regions, 12 names"
    assert len({row[0] for row in rows}) == 6
    assert all(row[2].startswith("<= 50 ms: ") for row in rows)
    assert max(int(row[3]) for row in rows) > 10
    assert ran == []  # nothing is looked at again


def test_a_picture_and_names_are_new_every_time(small: tuple[Any, list[str]]) -> None:
    clip, ran = small
    _, rows = table(benchmark.mini_rows(2))
    assert [row[2].split(":")[0] for row in rows] == ["<= 300 ms", "<= 20 ms", "<= 20 ms"]
    assert ran.count("encode_image") == 1 + 3
    assert ran.count("masks") >= 3
    new = [text for text in clip.read if re.search(r"\d", text)]
    assert len(new) == len(set(new)) == 5 * 3


def test_without_weights_the_shape_is_measured(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    clip: Any = Clip()
    clip.name, clip.embed_dim = TEACHER, 256
    monkeypatch.setattr(benchmark, "CATALOG", {})
    monkeypatch.setattr(benchmark, "clip_mini", lambda: clip)
    detector = benchmark.mini_detector(tmp_path)
    assert "random weights" in detector.name
    assert detector.model.config.name == "vild-mini"


# ------------------------------------------------------------------------------------- command line


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        (benchmark.at_least(50, 50), ">= 50x: holds"),
        (benchmark.at_least(49.9, 50), ">= 50x: **falls short**"),
        (benchmark.at_most(0.050, 50), "<= 50 ms: holds"),
        (benchmark.at_most(0.051, 50), "<= 50 ms: **falls short**"),
    ],
)
def test_bars(cell: str, expected: str) -> None:
    assert cell == expected


def test_lvis_is_what_is_selected_from() -> None:
    assert Scale.full().names == len(benchmark.random_vocabulary(1203, 4).names) == 1203
    assert Scale.full().regions == 1000
    assert Scale.full().config.max_size == 1024


@pytest.mark.usefixtures("small")
def test_one_table_alone(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = benchmark.slider_rows
    monkeypatch.setattr(benchmark, "slider_rows", lambda *_: rows(30, 5, 1, dim=8))
    assert benchmark.main(["--quick", "--only", "slider"]) == 0
    printed = capsys.readouterr().out
    assert f"{torch.get_num_threads()} threads" in printed
    assert printed.count("**A slider**") == 1
    assert "| 30 regions, 5 names | time |" in printed


def test_an_unknown_table_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        benchmark.main(["--only", "nothing"])
    assert "--only" in capsys.readouterr().err
