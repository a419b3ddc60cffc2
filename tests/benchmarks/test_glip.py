"""The benchmark of GLIP measures what it says."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks import glip as benchmark
from benchmarks.glip import (
    CACHED,
    OURS,
    PADDED,
    PADS,
    PLAIN,
    REFERENCE,
    WAYS,
    Row,
    Scale,
    as_reference,
    convolution_inputs,
    question,
    random_glip,
    random_pixels,
    raw_detections,
    run_way,
    theirs,
    with_gradients,
)
from models.glip import Glip, GlipConfig, SwinConfig, TextConfig
from models.glip.deformable import gathered, sampled
from models.glip.dyhead import DeformConv
from models.glip.fusion import Fusion

SMALL = GlipConfig(
    "small", backbone=SwinConfig(8, (1, 1, 1, 1), (1, 1, 2, 2), 4), channels=32, blocks=2,
    fusion_width=16, fusion_heads=2, text=TextConfig(16, 1, 2, 16), head_text_width=16,
    head_text_heads=2, head_text_intermediate=16,
)  # fmt: skip
SIZE = (64, 96)


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


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Threads that wait for each other on a busy machine make seconds of milliseconds."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def glip() -> Glip:
    """In float64, so that both ways can be compared."""
    return random_glip(SMALL).double()


@pytest.mark.parametrize("way", WAYS)
@torch.no_grad()
def test_every_way_computes_the_same(glip: Glip, way: str) -> None:
    pixels = random_pixels(SIZE).double()
    levels = glip.encode_image(pixels)
    ids, mask = question(benchmark.NAMES)
    expected, found = glip(pixels, ids, mask), run_way(glip, pixels, levels, way)
    padded = way in (REFERENCE, PADS)
    assert found.logits.shape[2] == (PADDED if padded else ids.shape[1])
    assert benchmark.difference(expected, found, ids.shape[1]) < 1e-10
    torch.testing.assert_close(found.box_regression, expected.box_regression)


@torch.no_grad()
def test_the_reference_folds_nothing_and_convolves_with_torchvision(
    glip: Glip, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("ours ran")

    monkeypatch.setattr(Fusion, "forward", refuse)
    monkeypatch.setattr(DeformConv, "forward", refuse)
    pixels = random_pixels(SIZE).double()
    for way in (REFERENCE, PLAIN):
        run_way(glip, pixels, [], way)
    for way in (PADS, OURS):
        with pytest.raises(AssertionError, match="ours ran"):
            run_way(glip, pixels, [], way)


def test_the_reference_leaves_no_trace(glip: Glip) -> None:
    with suppress(KeyError), as_reference(glip):
        assert any("forward" in vars(module) for module in glip.modules())
        raise KeyError
    assert not any("forward" in vars(module) for module in glip.modules())


@torch.no_grad()
def test_a_cached_picture_is_not_looked_at(glip: Glip, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = random_pixels(SIZE).double()
    levels = glip.encode_image(pixels)
    monkeypatch.setattr(glip.backbone, "forward", lambda _pixels: pytest.fail("looked at"))
    run_way(glip, pixels, levels, CACHED)


def test_taps_move(glip: Glip) -> None:
    """Else torchvision would read every cell where it lies."""
    dyconv = glip.head.blocks[0].dyconv
    with torch.no_grad():
        offset = dyconv._sampling(glip.encode_image(random_pixels(SIZE).double())[0]).offset
    assert 0.05 < float(offset.std()) < 5


def test_speed_is_told_as_ratios_and_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "fresh", lambda _function, _config, _size, way: 10**6 * len(way))
    head, rows = table(benchmark.speed_rows(Scale(SMALL, SIZE, 1, 8, (4, 4))))
    assert head[0].startswith("small, 64 x 96, ")
    assert [row[0] for row in rows] == list(WAYS)
    assert rows[0][2] == "1.00x"
    assert rows[2][3] == "1.00x"
    assert [bool(row[4]) for row in rows] == [row[0] == OURS for row in rows]
    assert all(number(row[6]) < 1e-3 for row in rows)
    assert [row[7] for row in rows] == [f"{len(way)} MB" for way in WAYS]


def test_memory_is_what_a_run_grows_by() -> None:
    """The plain projections keep `width` numbers of every cell."""
    wide, size = replace(SMALL, blocks=1, fusion_width=2048), (256, 384)
    # Each in a process of its own: this one has memory to spare from other tests.
    most = benchmark.fresh(benchmark.memory_of, wide, size, PLAIN)
    assert most > 32 * 48 * 2048 * 4  # of P3 alone, once
    assert benchmark.fresh(benchmark.memory_of, wide, size, OURS) < most / 2


# -------------------------------------------------------------------------- bfloat16, torch.compile


def test_what_does_not_run_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def compiler(_: Callable[..., Any]) -> Callable[..., Any]:
        def broken(*_inputs: Tensor) -> None:
            raise RuntimeError("no C++ compiler\nand much more")

        return broken

    inputs = (random_pixels(SIZE), *question(benchmark.NAMES))
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    ways, absent = benchmark.faster_ways(random_glip(SMALL), inputs, compiler)
    assert list(ways) == ["float32"]
    assert [row[0] for row in absent] == [
        "bfloat16 was skipped: this processor does not compute with it.",
        "torch.compile, float32 was skipped: RuntimeError: no C++ compiler",
    ]


def test_low_precision_is_compared_with_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)
    ways = benchmark.faster_ways
    monkeypatch.setattr(benchmark, "faster_ways", lambda *args: ways(*args, lambda way: way))
    _, rows = table(benchmark.precision_rows(SMALL, SIZE, 1))
    assert [row[0].split(", compiled")[0] for row in rows] == [
        "float32",
        "bfloat16 (autocast)",
        "torch.compile, float32",
        "torch.compile, bfloat16 (autocast)",
    ]
    assert [row[3] for row in rows[::2]] == ["1.000000"] * 2
    for row in rows[1::2]:
        assert 0.9 < float(row[3]) < 1  # not the same arithmetic


# -------------------------------------------------------------------------------------------- parts


def test_both_convolutions_compute_the_same() -> None:
    inputs = [tensor.double() for tensor in convolution_inputs(4, (5, 6))]
    for ours in (gathered, sampled):
        torch.testing.assert_close(theirs(*inputs), ours(*inputs))
    for a, b in zip(with_gradients(theirs, inputs), with_gradients(sampled, inputs)):
        torch.testing.assert_close(a, b)


def test_convolutions_are_timed_both_ways() -> None:
    _, rows = table(benchmark.deformable_rows([(4, (5, 6)), (8, (3, 3))], 1))
    assert [row[0] for row in rows] == [
        f"{what}, {where} cells"
        for where in ("4 channels, 5 x 6", "8 channels, 3 x 3")
        for what in ("forwards", "forwards, bfloat16", "forwards and backwards")
    ]
    assert all(number(row[1]) > 0 and number(row[2]) > 0 for row in rows)


def test_fusions_differ_by_rounding() -> None:
    _, rows = table(benchmark.fusion_rows(SMALL, 50, (4, 9), 1))
    assert [row[0] for row in rows] == ["4 tokens", "9 tokens"]
    assert all(number(row[4]) < 1e-5 for row in rows)


# -------------------------------------------------------------------------------------- interaction


def test_candidates_are_crowded() -> None:
    raw = raw_detections(500, 5)
    assert len(raw) == 500
    assert (raw.scores[:-1] >= raw.scores[1:]).all()
    few = raw.select(benchmark.GroundingThresholds(box=0, nms=0.1, max_boxes=1000))
    assert 50 < len(few) < 400  # suppression has something to do


def test_every_slider_is_timed() -> None:
    _, rows = table(benchmark.threshold_rows(100, 1))
    assert len({row[0] for row in rows}) == 12
    assert all(row[2].startswith("<= 50 ms: ") for row in rows)
    assert any(int(row[3]) > 10 for row in rows)


def test_as_many_boxes_are_drawn_as_it_says() -> None:
    _, rows = table(benchmark.drawing_rows([(120, 120)], 1))
    assert rows[0][0] == "50 boxes on 120 x 120 pixels"


def test_new_pictures_and_prompts_are_new(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is timed first looks at the picture every time, the others never."""
    grounder = benchmark.Grounder("small", random_glip(SMALL), benchmark.words())
    seen: list[str] = []
    for name in ("encode_image", "encode_text", "predict"):
        whole = getattr(grounder.model, name)
        monkeypatch.setattr(
            grounder.model, name, lambda *a, n=name, w=whole, **k: (seen.append(n), w(*a, **k))[1]
        )
    ground = grounder.ground
    monkeypatch.setattr(grounder, "ground", lambda *a: ground(*a, min_size=64, max_size=96))
    monkeypatch.setattr(benchmark, "mini_grounder", lambda: grounder)
    head, rows = table(benchmark.mini_rows([SIZE], 2))
    assert head[0] == "small, a picture and 4 names"
    assert [bool(row[2]) for row in rows] == [True, False, False]
    assert seen.count("encode_image") == 1 + 3
    assert seen.count("encode_text") == 1 + 3 + 3
    assert seen.count("predict") == 1 + 3 * 3


def test_without_weights_the_shape_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "CATALOG", {})
    grounder = benchmark.mini_grounder()
    assert "random weights" in grounder.name
    assert grounder.model.config.name == "glip-mini"


# ------------------------------------------------------------------------------------- command line


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        (benchmark.at_least(1.3, 1.3), ">= 1.3x: holds"),
        (benchmark.at_least(1.29, 1.3), ">= 1.3x: **falls short**"),
        (benchmark.at_most(0.050, 50), "<= 50 ms: holds"),
        (benchmark.at_most(0.051, 50), "<= 50 ms: **falls short**"),
    ],
)
def test_bars(cell: str, expected: str) -> None:
    assert cell == expected


def test_one_table_alone(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmark, "MAX_CANDIDATES", 100)
    assert benchmark.main(["--quick", "--only", "threshold"]) == 0
    printed = capsys.readouterr().out
    assert f"{torch.get_num_threads()} threads" in printed
    assert printed.count("**") == 2
    assert "| threshold slider, 100 candidates | time |" in printed


def test_an_unknown_table_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        benchmark.main(["--only", "nothing"])
    assert "--only" in capsys.readouterr().err
