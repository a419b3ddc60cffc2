"""Measuring edits: which avatars they start from, when they succeed, what counts as collateral."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

pytest.importorskip("skia", reason="drawing avatars needs skia: apt-get install libgl1 libegl1")

from models.jobs import run_to_end
from models.styleclip.derivative import ProbeSettings
from models.styleclip.directions import channel_count, measure_statistics
from models.styleclip.fs3 import Fs3
from models.styleclip.mapper import new_mapper, save_mapper
from models.styleclip.optimization import OptimizationSettings
from models.stylegan.generator import Generator, GeneratorConfig
from models.stylegan.latent import Latent
from training import evaluate
from training import styleclip_evaluation as evaluation
from training.avatar_judge import COLUMN
from training.clip_evaluation import Figure
from training.styleclip_evaluation import EDITS, Edit, Method, Outcome, Studio
from training.world import avatars

BY_NAME = {edit.name: edit for edit in EDITS}
SHOWN = ("smile", "glasses", "glasses_tint", "hair_length", "hat")  # what the fake judge reads


class FakeJudge:
    """Reads an attribute off the mean of one cell of a picture; all others stand in the middle."""

    def read(self, pictures: torch.Tensor) -> np.ndarray:
        read = np.full((len(pictures), len(avatars.NAMES)), 0.5)
        for place, name in enumerate(SHOWN):
            cell = pictures[:, 0, 4 * place : 4 * place + 4, :4].mean((1, 2))
            read[:, COLUMN[name]] = cell.clamp(0, 1).numpy()
        return read


class Easel:
    """A generator whose picture is its style vector: one grey cell for each number of W+."""

    noise_size, rows, layout = len(SHOWN), 1, ()
    mean_latent = torch.zeros(len(SHOWN))

    def mapping(self, z: torch.Tensor) -> torch.Tensor:
        return z

    def truncate(self, w: torch.Tensor, psi: float) -> torch.Tensor:
        return psi * w

    def broadcast(self, w: torch.Tensor) -> torch.Tensor:
        return w[:, None]

    def styles(self, w_plus: torch.Tensor) -> list[torch.Tensor]:
        return [w_plus[:, 0]]

    def synthesize(self, styles: Sequence[torch.Tensor]) -> torch.Tensor:
        column = styles[0].repeat_interleave(4, dim=1)  # (B, 4 * shown)
        return column[:, None, :, None].expand(-1, 3, -1, 4)


@pytest.fixture
def studio() -> Studio:
    return Studio(Easel(), FakeJudge())  # type: ignore[arg-type]


def looks(rows: Sequence[dict[str, float]]) -> np.ndarray:
    read = np.full((len(rows), len(avatars.NAMES)), 0.5)
    for row, values in zip(read, rows, strict=True):
        row[COLUMN["hat"]] = row[COLUMN["beard"]] = 0
        for name, value in values.items():
            row[COLUMN[name]] = value
    return read


def test_twelve_edits_of_attributes_that_are_drawn_and_have_words() -> None:
    assert len({edit.name for edit in EDITS}) == 12
    for edit in EDITS:
        attribute = avatars.ATTRIBUTES[edit.column]
        words = (attribute.positive, attribute.negative)
        target, neutral = words if edit.up else reversed(words)
        assert edit.prompt.target.removeprefix("a person ") in target
        assert edit.prompt.neutral.removeprefix("a person ") in neutral


@pytest.mark.parametrize(
    ("name", "values", "starts"),
    [
        ("smile", {"smile": 0.3}, True),
        ("smile", {"smile": 0.4}, False),
        ("sad", {"smile": 0.7}, True),
        ("sad", {"smile": 0.3}, False),
        ("sunglasses", {"glasses": 0.9, "glasses_tint": 0.1}, True),
        ("sunglasses", {"glasses": 0.6, "glasses_tint": 0.1}, False),
        ("long-hair", {"hair_length": 0.25}, True),
        ("long-hair", {"hair_length": 0.25, "hat": 1}, False),
    ],
)
def test_an_edit_starts_from_the_plain_opposite(
    name: str, values: dict[str, float], starts: bool
) -> None:
    assert BY_NAME[name].may_start(looks([values])).tolist() == [starts]


@pytest.mark.parametrize(
    ("name", "values", "crossed", "plain"),
    [
        ("smile", {"smile": 0.49}, False, False),
        ("smile", {"smile": 0.51}, True, False),
        ("smile", {"smile": 0.7}, True, True),
        ("sad", {"smile": 0.49}, True, False),
        ("sad", {"smile": 0.2}, True, True),
        ("sunglasses", {"glasses": 0.9, "glasses_tint": 0.9}, True, True),
        ("sunglasses", {"glasses": 0.0, "glasses_tint": 0.9}, False, False),
        ("white-hair", {"hair_colour": 0.9, "hair_dye": 0}, True, True),
        ("white-hair", {"hair_colour": 0.9, "hair_dye": 1}, False, False),
    ],
)
def test_an_edit_succeeds_past_the_middle_if_it_can_be_seen(
    name: str, values: dict[str, float], crossed: bool, plain: bool
) -> None:
    edit, read = BY_NAME[name], looks([values])
    assert edit.crossed(read).tolist() == [crossed]
    assert edit.plain(read).tolist() == [plain]


def test_others_changed_leaves_out_what_was_asked_for() -> None:
    before = looks([{"smile": 0.1}, {"smile": 0.1}])
    after = looks([{"smile": 0.9}, {"smile": 0.9, "nose_size": 0.8}])
    changes = BY_NAME["smile"].others(before, after)
    assert changes[0] == 0
    counted = int(np.isfinite(evaluation.differences(before, after)[1]).sum()) - 1
    assert changes[1] == pytest.approx(0.3 * np.sqrt(12) / counted, rel=0.02)


def test_starts_are_the_first_that_fit_in_order_of_their_seeds(studio: Studio) -> None:
    edits = [BY_NAME["smile"], BY_NAME["sunglasses"]]
    starts = studio.starts(edits, count=5, searched=400)
    for edit in edits:
        assert 1 <= len(starts[edit.name]) <= 5
        assert edit.may_start(studio.read(starts[edit.name])).all()
    seeds = range(evaluation.SEED, evaluation.SEED + 100)
    plain = [Latent.from_seed(studio.generator, seed) for seed in seeds]
    first = next(latent for latent in plain if edits[0].may_start(studio.read([latent]))[0])
    assert torch.equal(starts["smile"][0].w_plus, first.w_plus)
    few = studio.starts(edits, count=500, searched=100)
    assert all(len(some) < 100 for some in few.values()), "no more than there are"


def shift(amount: float) -> evaluation.Edited:
    """Moves the attribute asked for, if the easel shows it, and the hat along with it."""

    def edit(asked: Edit, latent: Latent) -> Latent:
        w_plus = latent.w_plus.clone()
        sign = 1 if asked.up else -1
        w_plus[0, SHOWN.index(asked.attribute)] += sign * amount
        w_plus[0, SHOWN.index("hat")] += amount / 10
        return Latent(w_plus)

    return edit


def test_a_method_that_does_nothing_fails_and_one_that_does_it_succeeds(studio: Studio) -> None:
    edits = (BY_NAME["smile"], BY_NAME["sad"])
    starts = studio.starts(edits, count=4, searched=400)
    nothing = Method("mapper", "strength 0", lambda edit, latent: latent, bar=85.0)
    much = Method("mapper", "strength 9", shift(9), bar=85.0)
    only_sad = Method("optimisation", "", shift(9), knows=frozenset({"sad"}))
    found = list(evaluation.outcomes(studio, [nothing, much, only_sad], starts, edits))
    assert [(o.method, o.edit.name) for o in found] == [
        (nothing, "smile"), (nothing, "sad"), (much, "smile"), (much, "sad"), (only_sad, "sad"),
    ]  # fmt: skip
    assert [o.crossed for o in found] == [0, 0, 1, 1, 1]
    assert [o.others for o in found[:2]] == [0, 0]
    assert found[2].others > 0
    summary, *_ = evaluation.figures(found[2:4])
    assert summary.value == 100
    assert summary.holds
    summary, *_ = evaluation.figures(found[:2])
    assert summary.holds is False


def test_figures_weigh_avatars_and_the_table_has_a_row_for_every_edit() -> None:
    method = Method("global directions", "beta 0.15", lambda edit, latent: latent, bar=85.0)
    found = [
        Outcome(method, BY_NAME["smile"], 1.0, 0.5, 0.1, 30),
        Outcome(method, BY_NAME["hat"], 0.0, 0.0, 0.4, 10),
    ]
    summary, plain, others, *each = evaluation.figures(found)
    assert (summary.value, summary.bar) == (75.0, 85.0)
    assert plain.value == pytest.approx(37.5)
    assert others.value == pytest.approx(0.175)
    assert [figure.value for figure in each] == [100, 0]
    lines = evaluation.table(found, (BY_NAME["smile"], BY_NAME["hat"], BY_NAME["sad"])).splitlines()
    assert lines[0] == "| edit | global directions, beta 0.15 |"
    assert lines[2:] == [
        "| smile | 100% / 0.10 |", "| hat | 0% / 0.40 |", "| sad |  |", "| **all** | **50% / 0.25** |",
    ]  # fmt: skip


def test_strangers_differ(studio: Studio) -> None:
    latents = [Latent.from_seed(studio.generator, seed) for seed in range(40)]
    assert studio.strangers({"a": latents[:20], "b": latents[20:]}) > 0.02
    assert studio.strangers({"a": latents[:1] * 6}) == 0


def test_reading_a_real_generator_does_not_depend_on_the_batch() -> None:
    torch.manual_seed(0)
    generator = Generator(GeneratorConfig.tiny()).requires_grad_(False)
    studio = Studio(generator, FakeJudge())  # type: ignore[arg-type]
    latents = [Latent.from_seed(generator, seed) for seed in range(evaluation.BATCH + 2)]
    assert np.allclose(studio.read(latents)[-1:], studio.read(latents[-1:]), atol=1e-4)


@pytest.mark.parametrize(
    ("begin", "end", "scores"),
    [
        (evaluate.BEGIN, evaluate.END, "scores.json"),
        (evaluate.OWN_BEGIN.format("styleclip"), evaluate.OWN_END.format("styleclip"),
         "scores-styleclip.json"),
    ],
)  # fmt: skip
def test_a_card_keeps_its_words_and_the_parts_of_other_evaluations(
    tmp_path: Path, begin: str, end: str, scores: str
) -> None:
    other = "<!-- measured other: begin -->\nother figures\n<!-- measured other: end -->"
    card = tmp_path / "card.md"
    card.write_text(f"# words\n{begin}\nold figures\n{end}\nmore words\n{other}\n")
    for _ in range(2):  # written again, it does not grow
        evaluate.write_card("styleclip", tmp_path, [Figure("edits", 85.0, 80.0)], 60)
    text = card.read_text()
    assert text.startswith(f"# words\n{begin}\n")
    assert text.endswith(f"{end}\nmore words\n{other}\n")
    assert text.count("| edits | 85.0 % | >= 80 % | holds |") == 1
    assert "old figures" not in text
    assert (tmp_path / scores).read_text() == '{\n "edits": 85.0\n}\n'


def test_all_three_methods_edit_at_every_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An untrained generator, mapper and table: what counts is that each setting moves a latent."""
    asked = BY_NAME["hat"]
    short = OptimizationSettings(steps=3, l2=1e-6)
    monkeypatch.setattr(evaluation, "EDITS", (asked,))
    monkeypatch.setattr(evaluation, "PROBES", ProbeSettings(images=2, probes=4))
    monkeypatch.setattr(OptimizationSettings, "mini", staticmethod(lambda: short))
    torch.manual_seed(0)
    generator = Generator(GeneratorConfig.tiny()).requires_grad_(False)
    channels = torch.randn(channel_count(generator.layout), 256)
    statistics = run_to_end(measure_statistics(generator, 100))
    table = Fs3(F.normalize(channels, dim=1), statistics, {"clip": "clip-portraits"})
    table.save(tmp_path / evaluation.FS3)
    (tmp_path / evaluation.MAPPERS).mkdir()
    trained = new_mapper(generator, "single")
    save_mapper(trained, tmp_path / evaluation.MAPPERS / "hat.safetensors")

    latent, moves = Latent.from_seed(generator, 1), {}
    for method in evaluation.methods(generator, tmp_path):
        edited = method.edit(asked, latent).styles(generator)
        change = [a - b for a, b in zip(edited, latent.styles(generator), strict=True)]
        moves[method] = float(torch.cat(change, dim=1).norm())
        assert method.knows is None or (method.name == "mapper" and method.knows == {"hat"})
    assert {m.name: m.bar for m in moves if m.bar} == {
        "global directions": 85, "mapper": 85, "optimisation": 80,
    }  # fmt: skip
    by_setting = {m.setting: move for m, move in moves.items()}
    betas = [by_setting.pop(f"beta {beta:g}") for beta in evaluation.BETAS]
    assert betas == sorted(betas, reverse=True), "a higher beta moves less, or nothing"
    assert by_setting.pop("identity 0.3") < by_setting["as set"]
    assert all(move > 0 for move in by_setting.values()), by_setting
    assert by_setting["strength 1.4"] == pytest.approx(2 * by_setting["strength 0.7"], rel=1e-3)
