"""The drawing loop: what it keeps to at every step, what it goes on from, and what it returns."""

import gc
import json
import math
import weakref
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from models.clipdraw.backends import diffvg_is_there
from models.clipdraw.config import DrawConfig, Palette
from models.clipdraw.critic import Augmentation, Critic, Prompt, Scoring
from models.clipdraw.drawing import (
    Drawing,
    DrawStep,
    draw,
    picture_of,
    plain_look,
    prompts_of,
    rate_at,
)
from models.clipdraw.ranking import importance
from models.clipdraw.rasterizer import over, render
from models.clipdraw.strokes import Strokes, paths
from models.errors import InputError
from models.jobs import run_to_end
from tests.critic_support import tiny_encoder

SMALL = DrawConfig(
    strokes=8, steps=10, canvas=(40, 32), reseed_every=0, augmentation=Augmentation(copies=2)
)
BRAND = ((0.1, 0.25, 0.7), (0.95, 0.8, 0.33))


def job(config: DrawConfig = SMALL, text: str = "red", **options: Any) -> Any:
    return draw([tiny_encoder()], [Prompt(text)], config, **options)


def drawn(config: DrawConfig = SMALL, **options: Any) -> Drawing:
    drawing: Drawing = run_to_end(job(config, **options))
    return drawing


def steps_of(config: DrawConfig = SMALL, **options: Any) -> list[DrawStep]:
    return [step for step in job(config, **options) if isinstance(step, DrawStep)]


def begun(running: Any) -> DrawStep:
    """A run's first step of the optimiser; before it come looks at the canvas."""
    return next(step for step in running if isinstance(step, DrawStep))


def easel_of(running: Any) -> Any:
    return running.gi_frame.f_locals["easel"]


def lines(count: int, canvas: tuple[int, int] = (40, 32), **colors: Any) -> Strokes:
    """Short level strokes down the canvas's left, each in its own grey."""
    t = torch.linspace(0, 6, 4)
    rows = torch.linspace(4, canvas[1] - 4, count)
    controls = [torch.stack([4 + t, row.expand(4)], 1) for row in rows]
    grey = torch.linspace(0.1, 0.9, count)[:, None].expand(count, 3)
    return paths(controls, torch.ones(count), torch.cat([grey, torch.ones(count, 1)], 1), canvas)


def same(one: Strokes, other: Strokes) -> bool:
    names = ("segments", "half_widths", "colors")
    rest = all(torch.equal(getattr(one, name), getattr(other, name)) for name in names)
    return rest and torch.equal(one.points[one.own], other.points[other.own])


# ------------------------------------------------------------------------------ seed and loss


@pytest.mark.parametrize("start", ["gradient", "random"])
def test_the_same_seed_gives_the_same_strokes_and_another_seed_others(start: str) -> None:
    config = replace(SMALL, start=start)
    first, again, other = drawn(config), drawn(config), drawn(replace(config, seed=1))
    assert same(first.strokes, again.strokes)
    assert first.losses == again.losses
    assert not torch.equal(first.strokes.points, other.strokes.points)


@pytest.mark.parametrize(
    "changes", [{}, {"start": "random", "schedule": "steps"}], ids=["ours", "as the reference"]
)
def test_the_loss_falls(changes: Any) -> None:
    losses = drawn(replace(SMALL, steps=50, blur=0.0, **changes)).losses
    assert np.mean(losses[-10:]) < np.mean(losses[:5]) - 0.05


@pytest.mark.parametrize(
    ("schedule", "points", "rates"),
    [
        ("steps", True, [1.0, 1.0, 0.4, 0.4, 0.1, 0.1]),
        ("steps", False, [1.0] * 6),
        ("cosine", True, [1.0, 0.525 + 0.475 * 2**-0.5, 0.525, 0.525 - 0.475 / 2, None, 0.05]),
        ("cosine", False, [1.0, 0.525 + 0.475 * 2**-0.5, 0.525, 0.525 - 0.475 / 2, None, 0.05]),
    ],
)
def test_rates_fall_as_the_schedule_says(schedule: str, points: bool, rates: list[Any]) -> None:
    for done, rate in zip((0, 0.25, 0.5, 2 / 3, 0.75, 1.0), rates):
        if rate is not None:
            assert rate_at(done, schedule, points) == pytest.approx(rate)


def test_another_rasteriser_draws_another_drawing() -> None:
    ours, like = drawn(), drawn(replace(SMALL, rasterizer="diffvg-like"))
    assert not torch.equal(ours.strokes.points, like.strokes.points)


@pytest.mark.skipif(diffvg_is_there(), reason="diffvg is installed")
def test_diffvg_is_asked_for_by_name_and_its_absence_explained() -> None:
    with pytest.raises(InputError, match="diffvg is not installed here; build it from"):
        drawn(replace(SMALL, rasterizer="diffvg"))


# ------------------------------------------------------------- what holds after every step


@pytest.mark.parametrize("canvas", [(40, 32), (224, 112)])
@pytest.mark.parametrize("limits", [(1.0, 12.0), (2.0, 3.0), (2.0, 2.0)])
def test_widths_keep_to_their_range_in_pixels_of_a_224_px_canvas(
    canvas: tuple[int, int], limits: tuple[float, float]
) -> None:
    config = replace(
        SMALL, canvas=canvas, width_range=limits, half_width=2.5, width_rate=3.0, steps=6
    )
    low, high = (limit * max(canvas) / 224 for limit in limits)
    seen = torch.stack([s.drawing.strokes.half_widths.aminmax()[0] for s in steps_of(config)])
    most = max(float(s.drawing.strokes.half_widths.max()) for s in steps_of(config))
    assert float(seen.min()) >= low - 1e-5
    assert most <= high + 1e-5


@pytest.mark.parametrize(
    ("palette", "allowed"),
    [
        (Palette.black(), {(0.0, 0.0, 0.0)}),
        (Palette(colors=BRAND), {tuple(torch.tensor(color).tolist()) for color in BRAND}),
    ],
    ids=["black", "brand"],
)
def test_strokes_have_exactly_the_palettes_colours_at_every_step(
    palette: Palette, allowed: set[Any]
) -> None:
    config = replace(SMALL, palette=palette, color_rate=0.2, reseed_every=3, steps=12)
    used: set[Any] = set()
    for step in steps_of(config):
        used |= {tuple(color) for color in step.drawing.strokes.colors[:, :3].tolist()}
    assert used == allowed


@pytest.mark.parametrize("learned", [1, 3])
def test_a_learned_palette_has_at_most_so_many_colours_and_they_change(learned: int) -> None:
    config = replace(SMALL, strokes=24, stages=(1.0,), palette=Palette(learned=learned), steps=12)
    seen = [
        {tuple(color) for color in step.drawing.strokes.colors[:, :3].tolist()}
        for step in steps_of(config)
    ]
    assert max(len(colors) for colors in seen) <= learned
    assert seen[0] != seen[-1]
    assert all(0 <= part <= 1 for colors in seen for color in colors for part in color)


def test_colours_stay_in_range_and_points_finite() -> None:
    for step in steps_of(replace(SMALL, color_rate=0.5, point_rate=50.0)):
        strokes = step.drawing.strokes
        assert (float(strokes.colors.min()) >= 0, float(strokes.colors.max()) <= 1) == (True, True)
        assert bool(strokes.points.isfinite().all())
        assert strokes.canvas == SMALL.canvas


def test_steps_tell_how_far_they_are_and_show_the_drawing() -> None:
    steps = steps_of(words=["ab", "cd", "ef"])
    assert [step.fraction for step in steps] == pytest.approx([k / 10 for k in range(1, 11)])
    assert [step.metrics["loss"] for step in steps] == list(steps[-1].drawing.losses)
    assert steps[0].preview is not None
    assert steps[-1].preview is not None
    assert steps[-1].preview.size == SMALL.canvas
    probabilities = dict(steps[-1].drawing.nearest)
    assert set(probabilities) == {"ab", "cd", "ef"}
    assert math.fsum(probabilities.values()) == pytest.approx(1)


# --------------------------------------------------------------------- strokes come and go


def test_stages_add_strokes_up_to_the_number_asked_for() -> None:
    config = replace(SMALL, strokes=20, steps=30, stages=(0.4, 0.7, 1.0))
    counts = [int(step.metrics["strokes"]) for step in steps_of(config)]
    # three equal parts of the first 60% (18 steps)
    assert counts == [8] * 6 + [14] * 6 + [20] * 18
    assert {int(s.metrics["strokes"]) for s in steps_of(replace(config, stages=(1.0,)))} == {20}


def test_strokes_that_are_there_stay_when_others_are_added() -> None:
    config = replace(SMALL, strokes=20, steps=30, stages=(0.5, 1.0))
    running = job(config)
    for _ in range(9):
        next(running)
    easel = easel_of(running)
    before = easel._finished()
    easel.prepare(9)
    after = easel._finished()
    assert (len(before), len(after)) == (10, 20)
    assert same(after.select(torch.arange(10)), before)


@pytest.mark.parametrize("how", ["faint", "off the canvas"])
def test_idle_strokes_begin_anew_and_others_stay(how: str) -> None:
    running = job(replace(SMALL, strokes=8, steps=30, reseed_every=4), start=lines(8))
    begun(running)
    easel = easel_of(running)
    with torch.no_grad():
        if how == "faint":
            easel.colors[2, 3] = 0.01
        else:
            easel.points[2] += 500.0
        easel.activity.zero_()  # what was done before counts no more
    for _ in range(3):
        next(running)
    lost = easel._finished().select(torch.tensor([2]))
    kept = [0, 1, 3, 4, 5, 6, 7]
    before = easel._finished().select(torch.tensor(kept))
    easel.prepare(4)
    after = easel._finished()
    assert len(after) == 8
    assert same(after.select(torch.arange(7)), before)  # in their order; the new one on top
    assert not torch.equal(after.points[7], lost.points[0])
    middle = after.points[7, : int(after.lengths[7])].mean(0)
    assert 0 <= float(middle[0]) <= 40
    assert 0 <= float(middle[1]) <= 32
    assert float(after.colors[7, 3]) >= 0.5


def test_nothing_begins_anew_while_the_drawing_settles() -> None:
    config = replace(SMALL, strokes=8, steps=20, stages=(1.0,), reseed_every=1)
    running = job(config)
    begun(running)
    easel = easel_of(running)
    with torch.no_grad():
        easel.colors[:, 3] = 0.0
    before = easel._finished()
    easel.prepare(13)  # 60% of 20 is 12
    assert same(easel._finished(), before)
    easel.prepare(12)
    assert not torch.equal(easel._finished().points, before.points)


# ------------------------------------------------------------------- going on, and a region


def test_going_on_keeps_the_earlier_strokes_and_adds_what_is_missing() -> None:
    start = lines(5)
    config = replace(SMALL, strokes=9, point_rate=1e-9, width_rate=0.0, color_rate=0.0)
    result = drawn(config, start=start).strokes
    assert len(result) == 9
    torch.testing.assert_close(result.points[:5, :4], start.points, atol=1e-6, rtol=0)
    assert torch.equal(result.colors[:5], start.colors)
    assert len(drawn(replace(config, strokes=3), start=start).strokes) == 5  # none is lost


def test_going_on_improves_on_where_it_left_off() -> None:
    config = replace(SMALL, steps=30)
    first = drawn(config)
    second = drawn(replace(config, blur=0.0, seed=5), start=first.strokes)
    assert np.mean(second.losses[:5]) < np.mean(first.losses[:5])
    assert second.loss <= first.loss + 0.02


def test_outside_a_region_nothing_moves_and_the_order_stays() -> None:
    start = lines(9)  # rows 4 to 28, all around column 7
    region = (0.0, 10.0, 14.0, 20.0)
    inside = [k for k in range(9) if 10 <= float(start.points[k, 0, 1]) <= 20]
    outside = [k for k in range(9) if k not in inside]
    config = replace(SMALL, strokes=30, steps=12, reseed_every=2, ink=0.0)
    for step in steps_of(config, start=start, region=region):
        now = step.drawing.strokes
        assert len(now) == 9  # a region is redrawn, not filled up
        assert same(now.select(torch.arange(len(outside))), start.select(torch.tensor(outside)))
    fresh = now.select(torch.arange(len(outside), 9))
    assert len(fresh) == len(inside) > 0
    assert not same(fresh, start.select(torch.tensor(inside)))


def test_strokes_begun_in_a_region_begin_there() -> None:
    region = (22.0, 3.0, 36.0, 15.0)
    start = lines(6)
    start = replace(start, points=start.points + torch.tensor([22.0, 0.0]))
    running = job(replace(SMALL, point_rate=1e-9, steps=2), start=start, region=region)
    begun(running)
    strokes = easel_of(running)._finished()
    fresh = strokes.select(easel_of(running).moving)
    assert 0 < len(fresh) < 6
    middle = (fresh.points * fresh.own[..., None]).sum(1) / fresh.lengths[:, None]
    # a cell of the map is a pixel here; the wobble of a stroke's points moves its middle a little
    low, high = torch.tensor(region[:2]) - 2, torch.tensor(region[2:]) + 2
    assert bool(((middle >= low) & (middle <= high)).all())


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"start": lines(3, (64, 64))}, "canvas of another size"),
        ({"start": lines(3).select(torch.tensor([], dtype=torch.long))}, "1 to 1024 strokes"),
        ({"start": lines(3), "region": (5.0, 5.0, 5.0, 9.0)}, "region to redraw is empty"),
        ({"start": lines(3), "region": (9.0, 9.0, 2.0, 2.0)}, "region to redraw is empty"),
        ({"start": lines(3), "region": (math.nan, 0.0, 9.0, 9.0)}, "region to redraw is empty"),
        ({"start": lines(3), "region": (30.0, 0.0, 40.0, 9.0)}, "No stroke has its middle"),
        ({"region": (0.0, 0.0, 9.0, 9.0)}, "drawing to go on from"),
    ],
)
def test_what_cannot_be_gone_on_from_is_refused(options: Any, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        next(job(**options))


# --------------------------------------------------------------------------- what is returned


def test_the_best_is_returned_that_of_the_smallest_smoothed_loss() -> None:
    config = replace(SMALL, steps=40, point_rate=100.0, schedule="steps", stages=(1.0,))
    steps = steps_of(config)
    last = steps[-1].drawing
    smooth, means = 0.0, []
    for step, loss in enumerate(last.losses):
        smooth = loss if step == 0 else 0.9 * smooth + 0.1 * loss
        means.append(smooth)
    assert last.loss == pytest.approx(min(means))
    assert last.step == int(np.argmin(means))
    assert last.step < config.steps - 1  # else this test would show nothing
    assert same(last.strokes, steps[last.step].drawing.strokes)
    assert steps[last.step].drawing.step == last.step


@pytest.mark.parametrize("after", [1, 4, 10])
def test_stopping_at_any_step_keeps_the_best_and_frees_the_rest(after: int) -> None:
    running = job(replace(SMALL, reseed_every=2))
    step = begun(running)
    for _ in range(after - 1):
        step = next(running)
    freed = weakref.ref(easel_of(running)), weakref.ref(easel_of(running).points)
    running.close()
    gc.collect()
    assert [reference() for reference in freed] == [None, None]
    assert len(step.drawing.losses) == after
    assert not step.drawing.strokes.points.requires_grad
    assert step.drawing.picture().size == SMALL.canvas


def test_a_transparent_drawing_has_straight_alpha() -> None:
    picture = drawn(replace(SMALL, background=None)).picture()
    assert picture.mode == "RGBA"
    half = paths(
        [torch.tensor([[-50.0, 16], [0, 16], [40, 16], [90, 16]])], torch.tensor([40.0]),
        torch.tensor([[0.2, 0.4, 0.8, 0.5]]), (40, 32),
    )  # fmt: skip
    assert picture_of(half, None).getpixel((20, 16)) == (51, 102, 204, 128)
    assert picture_of(half, (1.0, 1.0, 1.0)).getpixel((20, 16)) == (153, 178, 230)
    assert drawn().picture(80).size == (80, 64)


def test_a_picture_lies_on_its_background() -> None:
    paper = (0.9, 0.8, 0.7)
    drawing = drawn(replace(SMALL, background=paper))
    expected = over(render(drawing.strokes), torch.tensor(paper)).clamp(0, 1)
    np.testing.assert_allclose(np.asarray(drawing.picture()) / 255, expected, atol=0.5 / 255 + 1e-6)


def test_settings_repeat_the_run_through_json() -> None:
    drawing = drawn(replace(SMALL, seed=7, palette=Palette(colors=BRAND)))
    settings = json.loads(json.dumps(drawing.settings(), allow_nan=False))
    assert settings["model"] == "tiny-0"
    assert settings["prompts"] == [{"text": "red", "weight": 1.0}]
    assert (settings["seed"], settings["strokes"]) == (7, 8)
    assert settings["palette"]["colors"] == [list(color) for color in BRAND]


def test_prompts_have_styles_weights_and_negatives() -> None:
    prompts = prompts_of("a cat", ["mess", "blur"], "watercolour", {"a hat": 0.5})
    assert prompts == (
        Prompt("a cat, watercolour", 1.0),
        Prompt("a hat", 0.5),
        Prompt("mess", -0.3),
        Prompt("blur", -0.3),
    )
    assert prompts_of("a cat") == (Prompt("a cat"),)
    drawing = run_to_end(draw([tiny_encoder()], prompts, SMALL))
    assert drawing.title == "a cat, watercolour; a hat"


# ------------------------------------------------------------------------------- importance


@pytest.mark.parametrize("background", [(1.0, 1.0, 1.0), (0.2, 0.3, 0.5), None])
def test_importance_is_that_of_leaving_each_stroke_out(background: Any) -> None:
    drawing = drawn(replace(SMALL, strokes=7, background=background))
    critic = Critic([tiny_encoder()], drawing.prompts, ["ab", "cd"], Scoring(contrast=0.3))
    strokes = drawing.strokes.scaled(critic.side / 40)

    def score(kept: Strokes) -> float:
        look: Tensor = plain_look(render(kept), critic.side, background)
        return -float(critic.loss(look[None]))

    everything = list(range(len(strokes)))
    expected = [
        score(strokes) - score(strokes.select(torch.tensor([k for k in everything if k != out])))
        for out in everything
    ]
    found = run_to_end(importance(critic, drawing))
    assert found.tolist() == pytest.approx(expected, abs=1e-5)
    assert float(found.abs().max()) > 1e-4


def test_importance_of_more_strokes_than_a_batch_and_of_hidden_ones() -> None:
    strokes = lines(70)
    strokes = replace(strokes, points=strokes.points * 0 + strokes.points[:1])  # all on one place
    strokes.colors[:, :3] = torch.tensor([0.8, 0.1, 0.1])
    config = replace(SMALL, strokes=70)
    drawing = Drawing(strokes, (Prompt("red"),), config, ("tiny-0",), 0.0, (), 0, ())
    critic = Critic([tiny_encoder()], drawing.prompts, (), Scoring())
    found = run_to_end(importance(critic, drawing))
    assert found.shape == (70,)
    assert float(found[:-1].abs().max()) < float(importance_alone(critic, drawing)) / 10


def importance_alone(critic: Critic, drawing: Drawing) -> Tensor:
    """How much the topmost stroke matters where no other is beneath it."""
    topmost = drawing.strokes.select(torch.tensor([-1]))
    return run_to_end(importance(critic, replace(drawing, strokes=topmost))).abs()[0]


def test_two_presets_differ_where_the_paper_and_we_do() -> None:
    reference = DrawConfig.reference()
    assert (reference.strokes, reference.steps, reference.canvas) == (256, 1000, (224, 224))
    rates = (reference.point_rate, reference.width_rate, reference.color_rate)
    assert rates == (1.0, 0.1, 0.01)
    assert (reference.half_width, reference.width_range) == (1.0, (1.0, 50.0))
    assert reference.augmentation == Augmentation(
        copies=4, distortion=0.5, area=(0.7, 0.9), ratio=4 / 3
    )
    assert reference.scoring == Scoring(contrast=0.0, normalize=False)
    assert (reference.start, reference.schedule, reference.stages) == ("random", "steps", (1.0,))
    assert DrawConfig.default().scoring.normalize
    assert DrawConfig.mini().scoring.contrast > 0


# -------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"strokes": 0}, "number of strokes lies between 1 and 1024, not at 0"),
        ({"strokes": -1}, "number of strokes"),
        ({"strokes": 10**9}, "number of strokes"),
        ({"strokes": math.nan}, "number of strokes"),
        ({"steps": 0}, "number of steps lies between 1 and 5000"),
        ({"steps": 10**6}, "number of steps"),
        ({"canvas": (15, 64)}, "canvas's width lies between 16 and 2048"),
        ({"canvas": (64, 100_000)}, "canvas's height"),
        ({"max_segments": 0}, "segments of a stroke"),
        ({"half_width": math.nan}, "half width"),
        ({"width_range": (0.0, 5.0)}, "smallest half width"),
        ({"width_range": (5.0, 1.0)}, "largest half width"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**32}, "seed"),
        ({"point_rate": math.nan}, "points' rate"),
        ({"width_rate": -1.0}, "widths' rate"),
        ({"color_rate": math.inf}, "colours' rate"),
        ({"blur": math.nan}, "blur"),
        ({"ink": -0.1}, "cost of ink"),
        ({"centred": math.nan}, "centred"),
        ({"reseed_every": -1}, "steps between beginning strokes anew"),
        ({"background": (0.0, 1.5, 0.0)}, "background"),
        ({"background": (math.nan, 0.0, 0.0)}, "background"),
        ({"stages": ()}, "share of strokes"),
        ({"stages": (0.5, math.nan)}, "share of strokes"),
        ({"stages": (1.5,)}, "share of strokes"),
        ({"schedule": "linear"}, "Schedules are steps or cosine"),
        ({"start": "spiral"}, "starts are random or gradient"),
        ({"rasterizer": "cairo"}, "Rasterisers are built-in, diffvg"),
    ],
)
def test_bad_settings_are_refused_with_a_sentence(changes: Any, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence) as caught:
        replace(DrawConfig(), **changes)
    assert str(caught.value).endswith(".")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"colors": BRAND, "learned": 2}, "not both"),
        ({"learned": 17}, "at most 16 colours"),
        ({"learned": -1}, "at most 16 colours"),
        ({"colors": BRAND * 9}, "at most 16 colours"),
        ({"colors": ((0.0, 0.0, 2.0),)}, r"lie in \[0, 1\]"),
        ({"colors": ((0.0, math.nan, 0.0),)}, r"lie in \[0, 1\]"),
    ],
)
def test_a_palette_that_is_none_is_refused(options: Any, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        Palette(**options)


def test_no_prompt_is_refused() -> None:
    with pytest.raises(InputError, match="1 to 8 prompts, not 0"):
        next(draw([tiny_encoder()], [], SMALL))


def test_pictures_of_the_smallest_canvas_can_be_drawn() -> None:
    assert isinstance(drawn(replace(SMALL, canvas=(16, 300), steps=2)).picture(), Image.Image)
