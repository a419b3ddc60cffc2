"""Global directions: every number against a slow plain version or a closed form."""

from __future__ import annotations

import itertools
import math
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from models.errors import InputError, WeightsError
from models.jobs import run_to_end
from models.styleclip.clip_view import ClipView
from models.styleclip.derivative import ProbeSettings, probe
from models.styleclip.directions import (
    BETAS,
    ChannelRelevance,
    StyleStatistics,
    auto_beta,
    boundary,
    channel_count,
    joined,
    layer_activity,
    measure_statistics,
    parted,
    rank_correlation,
    sampled_styles,
)
from models.styleclip.fs3 import Fs3, read_released
from models.styleclip.prompt import EditPrompt
from models.styleclip.rendering import prefix, repeated
from models.styleclip.secant import SecantSettings, eight_bit, measure
from models.styleclip.templates import EDIT_TEMPLATES, text_direction
from models.stylegan.generator import Generator, StyleSlot, to_pictures
from models.stylegan.latent import Latent
from models.stylegan.lucidrains import LucidConfig, LucidGenerator
from tests.models.styleclip.directions_support import TinyClip, tiny_generator

pytestmark = pytest.mark.usefixtures("one_thread")

SETTINGS = SecantSettings(images=3, batch=4)
LAYOUT = (
    StyleSlot(2, False, 0, 4),
    StyleSlot(2, True, 1, 4),
    StyleSlot(3, False, 1, 8),
)
STATISTICS = StyleStatistics(
    (torch.zeros(2), torch.zeros(2), torch.zeros(3)),
    (torch.tensor([1.0, 2.0]), torch.tensor([7.0, 7.0]), torch.tensor([0.5, 1.0, 4.0])),
)


def relevance(*values: float) -> ChannelRelevance:
    return ChannelRelevance(torch.tensor(values), LAYOUT)


@pytest.fixture(scope="module")
def generator() -> Generator:
    return tiny_generator()


@pytest.fixture(scope="module")
def statistics(generator: Generator) -> StyleStatistics:
    return run_to_end(measure_statistics(generator, 500))


@pytest.fixture(scope="module")
def table(generator: Generator, statistics: StyleStatistics) -> Fs3:
    return run_to_end(measure(generator, eight_bit(TinyClip()), statistics, SETTINGS))


# ------------------------------------------------------------------- statistics


def test_statistics_are_the_mean_and_the_population_deviation(generator: Generator) -> None:
    found = run_to_end(measure_statistics(generator, 1_100, psi=0.6, seed=1))  # two batches
    z = np.random.RandomState(1).standard_normal((1_100, generator.noise_size))
    with torch.no_grad():
        w = generator.mapping(torch.from_numpy(z).float())
        w = generator.mean_latent + 0.6 * (w - generator.mean_latent)
        styles = generator.styles(generator.broadcast(w))
    for vector, mean, sigma in zip(styles, found.mean, found.sigma, strict=True):
        np.testing.assert_allclose(mean, vector.numpy().mean(0), atol=1e-5)
        np.testing.assert_allclose(sigma, vector.numpy().std(0), atol=1e-5)


def test_the_first_pictures_do_not_depend_on_how_many_are_drawn(generator: Generator) -> None:
    few = next(sampled_styles(generator, 3))
    many = next(sampled_styles(generator, 40, batch=7))
    assert all(torch.allclose(a, b[:3], atol=1e-6) for a, b in zip(few, many))


def test_one_sample_has_no_deviation(generator: Generator) -> None:
    with pytest.raises(InputError, match="at least 2"):
        run_to_end(measure_statistics(generator, 1))


def test_channels_in_one_line_leave_torgb_out() -> None:
    assert channel_count(LAYOUT) == 5
    parts = parted(LAYOUT, torch.arange(1.0, 6.0))
    assert [p.tolist() for p in parts] == [[1, 2], [0, 0], [3, 4, 5]]
    assert joined(LAYOUT, parts).tolist() == [1, 2, 3, 4, 5]


# ------------------------------------------------------------------- boundary


def test_a_direction_is_relevance_over_its_largest_times_sigma() -> None:
    direction = boundary(relevance(0.1, -0.4, 0.2, 0.05, -0.2), 0.15, STATISTICS)
    assert [part.tolist() for part in direction.direction] == [
        pytest.approx([0.0, -2.0]),
        [0.0, 0.0],
        pytest.approx([0.25, 0.0, -2.0]),
    ]
    assert (direction.channels_kept, direction.beta) == (3, 0.15)


@pytest.mark.parametrize(
    ("values", "beta", "problem"),
    [
        (
            (0.1, -0.284, 0.2, 0.0, 0.0),
            0.3,
            r"of 0.3 leaves nothing .* 0.28 would keep 1 channel\.",
        ),
        ((0.1, -0.25, 0.25, 0.0, 0.0), 0.4, "0.25 would keep 2 channels"),
        ((0.004, 0.0, 0.0, 0.0, 0.0), 0.1, "0.004 would keep 1 channel"),
        ((0.0, 0.0, 0.0, 0.0, 0.0), 0.1, "No channel of this generator"),
        ((0.0, 0.0, 0.0, 0.0, 0.0), 0.0, "No channel of this generator"),
        ((0.1, 0.2, 0.3, 0.4, 0.5), -0.1, "number from 0 on"),
        ((0.1, 0.2, 0.3, 0.4, 0.5), math.nan, "number from 0 on"),
        ((0.1, math.nan, 0.3, 0.4, 0.5), 0.1, "not finite"),
    ],
)
def test_a_threshold_that_keeps_nothing_is_told(
    values: tuple[float, ...], beta: float, problem: str
) -> None:
    with pytest.raises(InputError, match=problem):
        boundary(relevance(*values), beta, STATISTICS)


@pytest.mark.parametrize("largest", [0.3774, 0.0951, 0.0123, 0.00044])
def test_the_threshold_that_is_offered_works(largest: float) -> None:
    some = relevance(largest, -largest / 2, 0.0, 0.0, 0.0)
    with pytest.raises(InputError) as refused:
        boundary(some, 0.9, STATISTICS)
    offered = float(str(refused.value).split("; ")[1].split()[0])
    assert boundary(some, offered, STATISTICS).channels_kept == 1
    assert offered > largest * 0.8


def test_statistics_of_another_generator_are_refused() -> None:
    with pytest.raises(InputError, match="another generator"):
        boundary(relevance(1, 1, 1, 1, 1), 0.1, replace(STATISTICS, mean=STATISTICS.mean[:2]))


@pytest.mark.parametrize(
    ("counts_above", "more_than", "expected"),
    [
        ((0.5,) * 5, 4, 0.29),
        ((0.5, 0.5, 0.155, 0.125, 0.0), 2, 0.15),
        ((0.5, 0.5, 0.155, 0.125, 0.0), 3, 0.12),
        ((0.05,) * 5, 1, 0.10),
        ((0.5,) * 5, 5, 0.10),
    ],
)
def test_auto_beta_is_the_largest_that_keeps_enough(
    counts_above: tuple[float, ...], more_than: int, expected: float
) -> None:
    assert auto_beta(relevance(*counts_above), more_than) == expected
    assert expected in BETAS


def test_layer_activity_counts_in_units_of_the_deviation() -> None:
    change = (torch.tensor([3.0, -8.0]), torch.tensor([0.0, 14.0]), torch.zeros(3))
    activity = layer_activity(change, STATISTICS, LAYOUT)
    assert [(a.channels, a.norm) for a in activity] == [
        (2, pytest.approx(5.0)),
        (1, pytest.approx(2.0)),
        (0, 0.0),
    ]
    assert [a.slot for a in activity] == list(LAYOUT)


@pytest.mark.parametrize(
    ("first", "second", "rho"),
    [
        ([1, 2, 3, 4], [10, 20, 30, 1000], 1.0),
        ([1, 2, 3, 4], [4, 3, 2, 1], -1.0),
        ([1, 2, 2, 3], [1, 2, 3, 4], math.sqrt(0.9)),
        ([106, 86, 100, 101, 99, 103, 97, 113, 112, 110], [7, 0, 27, 50, 28, 29, 20, 12, 6, 17],
         -29 / 165),  # the textbook's: IQ and hours of television
    ],
)  # fmt: skip
def test_rank_correlation_is_spearmans(first: list[float], second: list[float], rho: float) -> None:
    a, b = torch.tensor(first).float(), torch.tensor(second).float()
    assert rank_correlation(a, b) == pytest.approx(rho)


@pytest.mark.parametrize(
    ("first", "second"), [([1, 2], [1, 2, 3]), ([1], [1]), ([1, 1, 1], [1, 2, 3])]
)
def test_rank_correlation_needs_an_order(first: list[float], second: list[float]) -> None:
    with pytest.raises(ValueError, match="vector"):
        rank_correlation(torch.tensor(first), torch.tensor(second))


# ------------------------------------------------------------------- words


def test_a_text_direction_is_a_difference_of_template_means() -> None:
    clip: Any = TinyClip()
    templates = EDIT_TEMPLATES["imagenet"]
    assert len(templates.templates) == 79
    assert all("many" not in template("x").split() for template in templates.templates)

    def mean(words: str) -> Tensor:
        rows = [clip.encode_text([template(words)])[0] for template in templates.templates]
        return F.normalize(torch.stack(rows).mean(0), dim=0)

    expected = F.normalize(mean("a witch") - mean("a face"), dim=0)
    for prompt in (EditPrompt("a witch", "a face"), EditPrompt("a witch")):
        torch.testing.assert_close(text_direction(clip, prompt, templates), expected)


def test_texts_without_a_difference_are_refused() -> None:
    deaf: Any = SimpleNamespace(encode_text=lambda texts: F.normalize(torch.ones(len(texts), 4)))
    with pytest.raises(InputError, match="mean the same to this CLIP"):
        text_direction(deaf, EditPrompt("a witch"))


# ------------------------------------------------------------------- the table


def plain_table(
    generator: Generator, clip: TinyClip, statistics: StyleStatistics, images: int
) -> Tensor:
    """As the paper says it: one rendering after the other, whole, from the beginning."""
    original = next(sampled_styles(generator, images))
    rows = []
    for index, slot in enumerate(generator.layout):
        for channel in range(0 if slot.is_rgb else slot.size):
            seen = []
            for sign in (-5, 5):
                styles = [vector.clone() for vector in original]
                mean, sigma = statistics.mean[index][channel], statistics.sigma[index][channel]
                styles[index][:, channel] = mean + sign * sigma
                pictures = to_pictures(generator.synthesize(styles))
                pixels = torch.stack([clip.preprocess(picture) for picture in pictures])
                seen.append(clip.image_features(pixels))
            steps = seen[1] - seen[0]
            unit = steps / steps.norm(dim=1, keepdim=True).clamp(min=1e-12)
            rows.append(F.normalize(unit.mean(0), dim=0))
    return torch.stack(rows)


def test_the_table_is_the_papers(
    generator: Generator, statistics: StyleStatistics, table: Fs3
) -> None:
    expected = plain_table(generator, TinyClip(), statistics, SETTINGS.images)
    assert table.table.shape == (channel_count(generator.layout), TinyClip.width)
    # Batches round differently, which may tip a grey level.
    assert F.cosine_similarity(table.table, expected).min() > 0.99
    assert (table.table - expected).abs().median() < 1e-5


def test_a_channel_that_nobody_sees_is_zero(
    generator: Generator, statistics: StyleStatistics
) -> None:
    black = lambda images: torch.ones(len(images), 4)  # noqa: E731
    blind = run_to_end(measure(generator, black, statistics, SETTINGS))
    assert blind.table.abs().max() == 0


def test_bfloat16_measures_the_same(
    generator: Generator, statistics: StyleStatistics, table: Fs3
) -> None:
    coarse = run_to_end(
        measure(generator, eight_bit(TinyClip()), statistics, replace(SETTINGS, bfloat16=True))
    )
    assert F.cosine_similarity(coarse.table, table.table).median() > 0.99


@contextmanager
def counted(generator: Generator) -> Iterator[list[int]]:
    """Batch sizes of every synthesis."""
    calls: list[int] = []
    original = generator.synthesize

    def counting(styles: list[Tensor], *args: Any, **kwargs: Any) -> Tensor:
        calls.append(len(styles[-1]))
        return original(styles, *args, **kwargs)

    generator.synthesize = counting  # type: ignore[method-assign]
    try:
        yield calls
    finally:
        del generator.synthesize


def test_an_interrupted_table_goes_on_where_it_stopped(
    generator: Generator, statistics: StyleStatistics, table: Fs3, tmp_path: Path
) -> None:
    part, about = tmp_path / "fs3.part.safetensors", {"generator": "tiny"}

    def job() -> Any:
        encode = eight_bit(TinyClip())  # type: ignore[arg-type]
        return measure(generator, encode, statistics, SETTINGS, about=about, part=part)

    for settled in (30, 12):  # into the fourth layer, then within it
        running = job()
        steps = list(itertools.islice(running, settled))
        assert all(step.message.startswith("Measured ") for step in steps)
        with counted(generator) as calls:
            running.close()
        assert not calls
    assert Fs3.load(part).table.shape[0] == 42
    with counted(generator) as calls:
        finished = run_to_end(job())
    assert sum(calls) == (72 - 42) * SETTINGS.images * 2
    assert (finished.table[:42] - table.table[:42]).abs().max() < 1e-3  # kept in fp16
    assert torch.equal(finished.table[42:], table.table[42:])
    assert finished.about["generator"] == "tiny"


def test_a_part_of_another_measurement_is_refused(
    generator: Generator, statistics: StyleStatistics, table: Fs3, tmp_path: Path
) -> None:
    part = tmp_path / "fs3.part.safetensors"
    table.save(part)
    other = replace(SETTINGS, images=2)
    with pytest.raises(InputError, match="measured in another way"):
        run_to_end(measure(generator, eight_bit(TinyClip()), statistics, other, part=part))


@pytest.mark.parametrize("wrong", [{"images": 0}, {"images": 1001}, {"batch": 0}, {"reach": 0.0}])
def test_settings_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        SecantSettings(**wrong)


def test_a_table_follows_its_words(generator: Generator, table: Fs3) -> None:
    """The edit turns what the table's own CLIP sees towards the text, and ToRGB never moves."""
    clip = TinyClip()
    latent = Latent.from_seed(generator, 4)
    gains = []
    for words in ("red", "green", "blue", "a witch"):
        wanted = clip.encode_text([words])[0]
        found = table.relevance(wanted, generator.layout)
        direction = boundary(found, found.largest / 3, table.statistics)
        for part, slot in zip(direction.direction, generator.layout):
            assert not (slot.is_rgb and part.any())

        def score(latent: Latent, wanted: Tensor = wanted) -> float:
            image = generator.synthesize(latent.styles(generator))
            return float(eight_bit(clip)(image)[0] @ wanted)  # type: ignore[arg-type]

        assert score(latent.moved(direction.direction, 0.0)) == score(latent)
        gains.append(score(latent.moved(direction.direction, 2.0)) - score(latent))
    assert min(gains) > 0


def test_rows_missing_at_the_end_count_as_zero(generator: Generator, table: Fs3) -> None:
    wanted = TinyClip().encode_text(["red"])[0]
    whole = table.relevance(wanted, generator.layout).values
    short = replace(table, table=table.table[:40]).relevance(wanted, generator.layout).values
    assert torch.equal(short, torch.cat([whole[:40], torch.zeros(32)]))


def test_tables_of_others_are_refused(generator: Generator, table: Fs3) -> None:
    long = replace(table, table=torch.cat([table.table, table.table]))
    with pytest.raises(InputError, match="144 channels and the generator 72"):
        long.relevance(torch.ones(TinyClip.width), generator.layout)
    with pytest.raises(InputError, match="a CLIP of 12 features"):
        table.relevance(torch.ones(512), generator.layout)
    with pytest.raises(InputError, match="another generator"):
        table.relevance(torch.ones(TinyClip.width), LAYOUT)


# ------------------------------------------------------------------- files


def test_a_table_is_written_and_read(table: Fs3, tmp_path: Path) -> None:
    path = tmp_path / "deep" / "fs3.safetensors"
    replace(table, about={"clip": "tiny"}).save(path)
    read = Fs3.load(path)
    assert (read.table - table.table).abs().max() < 5e-4  # fp16
    for kind in ("mean", "sigma"):
        mine, theirs = getattr(read.statistics, kind), getattr(table.statistics, kind)
        assert all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))
    assert read.about == {"clip": "tiny"}
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def _without_fs3(path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"w_plus": torch.zeros(2, 2)}, path)


def _not_finite(path: Path) -> None:
    Fs3(torch.full((2, 2), math.nan), STATISTICS).save(path)


@pytest.mark.parametrize(
    ("write", "problem"),
    [
        (lambda path: path.write_bytes(pickle.dumps([1, 2])), "pickle"),
        (lambda path: path.write_bytes(b""), "not a whole safetensors"),
        (_without_fs3, "no table of directions"),
        (_not_finite, "no table of directions"),
        (lambda path: None, "missing"),
    ],
)
def test_other_files_are_no_tables(
    write: Callable[[Path], None], problem: str, tmp_path: Path
) -> None:
    path = tmp_path / "fs3.safetensors"
    write(path)
    with pytest.raises(WeightsError, match=problem):
        Fs3.load(path)


def test_a_table_cut_off_is_refused(table: Fs3, tmp_path: Path) -> None:
    path = tmp_path / "fs3.safetensors"
    table.save(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(WeightsError, match="not a whole safetensors"):
        Fs3.load(path)


def test_a_released_table_is_read_as_it_is(tmp_path: Path) -> None:
    array = np.random.RandomState(0).standard_normal((6048, 512)).astype(np.float16)
    np.save(tmp_path / "fs3.npy", array)
    read = read_released(tmp_path / "fs3.npy")
    assert read.dtype == torch.float32
    assert np.array_equal(read.numpy(), array.astype(np.float32))


class Hostile:
    def __reduce__(self) -> tuple[Any, ...]:
        return (pytest.fail, ("a pickle was executed",))


@pytest.mark.parametrize(
    ("write", "problem"),
    [
        (lambda path: np.save(path, np.array([Hostile()], dtype=object)), "no plain NumPy array"),
        (lambda path: path.write_bytes(pickle.dumps(Hostile())), "no plain NumPy array"),
        (lambda path: path.write_bytes(b""), "no plain NumPy array"),
        (lambda path: np.save(path, np.zeros((4, 4)))
         or path.write_bytes(path.read_bytes()[:-8]), "no plain NumPy array"),
        (lambda path: np.save(path, np.zeros(4)), "no table of numbers"),
        (lambda path: np.save(path, np.zeros((4, 4), dtype=int)), "no table of numbers"),
        (lambda path: np.save(path, np.full((4, 4), np.nan)), "not finite"),
        (lambda path: np.save(path, np.zeros((0, 4))), "not finite"),
        (lambda path: path.open("wb").truncate(200 * 2**20), "allowed"),
        (lambda path: None, "missing"),
    ],
)  # fmt: skip
def test_other_files_are_no_released_tables(
    write: Callable[[Path], Any], problem: str, tmp_path: Path
) -> None:
    path = tmp_path / "fs3.npy"
    write(path)
    with pytest.raises(WeightsError, match=problem):
        read_released(path)


# ------------------------------------------------------------------- one gradient a prompt


def jacobian(generator: Generator, clip: TinyClip, styles: list[Tensor]) -> Tensor:
    """(D, C) of one picture, feature by feature."""
    rgb = [slot.is_rgb for slot in generator.layout]
    moving = tuple(vector for vector, fixed in zip(styles, rgb) if not fixed)

    def features(*vectors: Tensor) -> Tensor:
        rest = iter(vectors)
        whole = [vector if fixed else next(rest) for vector, fixed in zip(styles, rgb)]
        images = generator.synthesize(whole)
        return ClipView().features(clip, images, [(range(32), range(32))])[0, 0]

    parts = torch.autograd.functional.jacobian(features, moving)
    return torch.cat([part.flatten(1) for part in parts], dim=1)


def test_with_all_probes_the_derivative_is_the_exact_cosine(generator: Generator) -> None:
    clip, wanted = TinyClip(), TinyClip().encode_text(["red"])[0]
    settings = ProbeSettings(images=3, probes=100, batch=2)
    probes = run_to_end(probe(generator, clip, settings))
    found = probes.relevance(generator, clip, wanted)

    styles = [torch.cat(parts) for parts in zip(*sampled_styles(generator, 3))]
    each = [jacobian(generator, clip, [v[i : i + 1] for v in styles]) for i in range(3)]
    rows = F.normalize(torch.stack([F.normalize(J, dim=0) for J in each]).mean(0), dim=0)
    torch.testing.assert_close(found.values, wanted @ rows, atol=1e-4, rtol=1e-4)
    assert found.layout == generator.layout


def test_fewer_probes_estimate_the_same_lengths(generator: Generator) -> None:
    def lengths(probes: int) -> Tensor:
        settings = ProbeSettings(images=2, probes=probes)
        return run_to_end(probe(generator, TinyClip(), settings)).lengths

    ratio = lengths(6) / lengths(12)
    assert 0.8 < float(ratio.square().mean()) < 1.2  # unbiased in the square


def test_probing_stops_when_closed(generator: Generator) -> None:
    running = probe(generator, TinyClip(), ProbeSettings(images=4, batch=2, probes=4))
    assert next(running).fraction == pytest.approx(1 / 8)
    with counted(generator) as calls:
        running.close()
    assert not calls


@pytest.mark.parametrize("wrong", [{"images": 0}, {"probes": 0}, {"batch": 0}])
def test_probes_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        ProbeSettings(**wrong)


# ------------------------------------------------------------------- prefixes


@pytest.mark.parametrize("kind", ["stylegan2", "lucidrains", "lucidrains, no constant"])
def test_every_generator_goes_on_behind_a_prefix(generator: Generator, kind: str) -> None:
    chosen: Any = generator
    if kind != "stylegan2":
        torch.manual_seed(0)
        constant = kind == "lucidrains"
        chosen = LucidGenerator(LucidConfig((8, 8, 4), 16, 2, constant=constant, transparent=True))
        chosen.requires_grad_(False)
    styles = Latent.from_seed(chosen, 1).styles(chosen)
    twice = [vector.repeat(2, 1) for vector in styles]
    whole = chosen.synthesize(styles)
    for layer in range(len(styles)):
        start = prefix(chosen, styles, layer)
        assert (start.index if start else -1) == layer - 1
        both = chosen.synthesize(twice, start=repeated(start, 2))
        torch.testing.assert_close(both, whole.repeat(2, 1, 1, 1), atol=1e-4, rtol=1e-4)
