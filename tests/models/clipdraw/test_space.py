"""Strokes in space: the camera against closed forms, the turntable, and the loop round it."""

import gc
import math
import weakref
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from models.clipdraw.critic import Augmentation, Critic, Prompt
from models.clipdraw.drawing import plain_look
from models.clipdraw.rasterizer import over, render
from models.clipdraw.space import (
    Camera,
    SpaceConfig,
    SpaceDrawing,
    SpaceStrokes,
    azimuths,
    draw_in_space,
    turntable,
)
from models.errors import InputError
from models.jobs import run_to_end
from tests.critic_support import tiny_encoder

LEVEL = Camera(elevation=0.0)
RED, BLUE = (1.0, 0.0, 0.0, 1.0), (0.0, 0.0, 1.0, 1.0)
SMALL = SpaceConfig(
    strokes=6, steps=8, camera=Camera(canvas=(32, 32)), augmentation=Augmentation(copies=2)
)


def straight(*ends: tuple[Any, Any], camera: Camera = LEVEL, color: Any = None) -> SpaceStrokes:
    """Straight strokes between pairs of points in space, half width 0.1, float64."""
    a, b = (torch.tensor([pair[i] for pair in ends], dtype=torch.float64) for i in (0, 1))
    t = torch.linspace(0, 1, 4, dtype=torch.float64)[:, None]
    colors = torch.tensor(color or [RED, BLUE][: len(ends)], dtype=torch.float64)
    return SpaceStrokes(
        a[:, None] * (1 - t) + b[:, None] * t,
        torch.ones(len(ends), dtype=torch.long),
        torch.full((len(ends),), 0.1, dtype=torch.float64),
        colors,
        camera,
    )


def across(z: float) -> tuple[Any, Any]:
    return ((-0.4, 0.0, z), (0.4, 0.0, z))


def job(prompts: Any = ("red", "blue"), config: SpaceConfig = SMALL, **options: Any) -> Any:
    views = [[Prompt(text)] for text in prompts]
    return draw_in_space([tiny_encoder()], views, config, **options)


# ------------------------------------------------------------------------------ the camera


@pytest.mark.parametrize("azimuth", [0.0, 33.0, 90.0, 180.0, -120.0])
@pytest.mark.parametrize("canvas", [(224, 224), (64, 100)])
def test_the_origin_lies_in_the_middle_at_the_depth_of_the_radius(
    azimuth: float, canvas: tuple[int, int]
) -> None:
    camera = Camera(radius=4.0, canvas=canvas)
    place, depth = camera.project(torch.zeros(3, dtype=torch.float64), azimuth)
    assert place.tolist() == [canvas[0] / 2, canvas[1] / 2]
    assert float(depth) == 4.0


@pytest.mark.parametrize(
    ("point", "azimuth", "offset", "depth"),
    [
        ((0.5, 0, 0), 0, (0.5 / 3, 0), 3),
        ((0, 0.5, 0), 0, (0, -0.5 / 3), 3),  # y is up, rows go down
        ((0.5, 0, 1), 0, (0.5 / 2, 0), 2),
        ((0.5, 0, -1), 0, (0.5 / 4, 0), 4),
        ((0, 0, 1), 90, (-1 / 3, 0), 3),  # from the right, what was near is on the left
        ((1, 0, 0.5), 90, (-0.5 / 2, 0), 2),
        ((0.5, 0, 0), 180, (-0.5 / 3, 0), 3),
    ],
)
def test_points_land_where_similar_triangles_say(
    point: Any, azimuth: float, offset: tuple[float, float], depth: float
) -> None:
    place, deep = LEVEL.project(torch.tensor(point, dtype=torch.float64), azimuth)
    focal = 112 / math.tan(math.radians(45 / 2))
    expected = [112 + focal * offset[0], 112 + focal * offset[1]]
    np.testing.assert_allclose(place, expected, atol=1e-9)
    assert float(deep) == pytest.approx(depth)


@pytest.mark.parametrize("field_of_view", [20.0, 45.0, 90.0])
def test_the_field_of_view_ends_at_the_shorter_sides_border(field_of_view: float) -> None:
    camera = Camera(radius=3.0, field_of_view=field_of_view, elevation=0.0, canvas=(300, 100))
    top = 3 * math.tan(math.radians(field_of_view / 2))
    place, _ = camera.project(torch.tensor([0.0, top, 0.0], dtype=torch.float64), 0.0)
    np.testing.assert_allclose(place, [150, 0], atol=1e-9)


@pytest.mark.parametrize("azimuth", [0.0, 71.0, 200.0])
@pytest.mark.parametrize("elevation", [-40.0, 0.0, 25.0])
def test_projection_is_the_textbooks_look_at_matrix(azimuth: float, elevation: float) -> None:
    camera = Camera(radius=5.0, elevation=elevation)
    a, e = math.radians(azimuth), math.radians(elevation)
    eye = 5 * np.array([math.cos(e) * math.sin(a), math.sin(e), math.cos(e) * math.cos(a)])
    ahead = -eye / np.linalg.norm(eye)
    right = np.cross(ahead, [0, 1, 0])
    right /= np.linalg.norm(right)
    up = np.cross(right, ahead)
    points = np.random.default_rng(0).uniform(-1, 1, (20, 3))
    depth = (points - eye) @ ahead
    x = 112 + camera.focal * ((points - eye) @ right) / depth
    y = 112 - camera.focal * ((points - eye) @ up) / depth
    place, deep = camera.project(torch.from_numpy(points), azimuth)
    np.testing.assert_allclose(place, np.stack([x, y], 1), atol=1e-9)
    np.testing.assert_allclose(deep, depth, atol=1e-12)
    np.testing.assert_allclose(camera.lift(place, deep, azimuth), points, atol=1e-12)


def test_a_canvas_twice_as_large_shows_the_same_twice_as_large() -> None:
    strokes = straight(across(0.5), across(-0.5))
    once, twice = strokes.seen_from(20.0), strokes.seen_from(20.0, 2.0)
    assert twice.canvas == (448, 448)
    torch.testing.assert_close(twice.points, 2 * once.points)
    torch.testing.assert_close(twice.half_widths, 2 * once.half_widths)


# -------------------------------------------------------------------------- strokes in view


@pytest.mark.parametrize(("z", "depth"), [(0.0, 3.0), (1.0, 2.0), (-3.0, 6.0)])
def test_a_stroke_is_as_wide_as_its_depth_allows(z: float, depth: float) -> None:
    flat = straight(across(z)).seen_from(0.0)
    assert float(flat.half_widths) == pytest.approx(0.1 * LEVEL.focal / depth)


@pytest.mark.parametrize(("azimuth", "front"), [(0.0, RED), (180.0, BLUE)])
def test_the_nearer_stroke_is_painted_over_the_further_one(azimuth: float, front: Any) -> None:
    for ends, color in (((0.5, -0.5), [RED, BLUE]), ((-0.5, 0.5), [BLUE, RED])):
        flat = straight(*map(across, ends), color=color).seen_from(azimuth)
        assert flat.colors[-1].tolist() == list(front)
        assert render(flat)[112, 112].tolist() == list(front)


@pytest.mark.parametrize(
    "ends",
    [across(3.5), across(2.95), ((0.0, 0.0, 0.0), (0.0, 0.0, 3.2))],
    ids=["behind", "too near", "runs through the camera"],
)
def test_what_comes_behind_the_camera_is_left_out(ends: Any) -> None:
    strokes = straight(ends, across(0.0), color=[RED, BLUE])
    flat = strokes.seen_from(0.0)
    assert flat.colors.tolist() == [list(BLUE)]
    alone = straight(ends, color=[RED])
    assert float(render(alone.seen_from(0.0)).abs().sum()) == 0
    assert len(alone.seen_from(90.0)) == 1  # from the side it is in view


def test_padding_is_neither_seen_nor_moved() -> None:
    strokes = straight(across(0.5), across(-0.5))
    noise = torch.full((2, 3, 3), 1e6, dtype=torch.float64)
    noise[1] = -50.0
    padded = torch.cat([strokes.points, noise], 1).requires_grad_(True)
    wide = replace(strokes, points=padded)
    image = render(wide.seen_from(10.0))
    torch.testing.assert_close(image, render(strokes.seen_from(10.0)))
    (gradient,) = torch.autograd.grad(image.square().sum(), padded)
    assert float(gradient[:, :4].abs().sum()) > 0
    assert float(gradient[:, 4:].abs().sum()) == 0


def test_the_view_is_differentiable_in_points_and_widths() -> None:
    generator = torch.Generator().manual_seed(1)
    points = torch.rand(3, 7, 3, generator=generator, dtype=torch.float64) - 0.5
    widths = torch.rand(3, generator=generator, dtype=torch.float64)
    colors = torch.rand(3, 4, generator=generator, dtype=torch.float64)
    segments = torch.tensor([1, 2, 2])

    def view(points: torch.Tensor, widths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        flat = SpaceStrokes(points, segments, widths, colors, Camera()).seen_from(40.0)
        return flat.points * flat.own[..., None], flat.half_widths

    assert torch.autograd.gradcheck(
        view, (points.requires_grad_(True), widths.requires_grad_(True))
    )


def test_gradients_are_finite_however_near_the_camera_a_stroke_comes() -> None:
    z = torch.linspace(-2, 4, 25).tolist()
    strokes = straight(*map(across, z), color=[RED] * 25)
    points = strokes.points.requires_grad_(True)
    image = render(replace(strokes, points=points).seen_from(0.0, 0.2))
    (gradient,) = torch.autograd.grad(image[..., 1:].square().sum(), points)
    assert bool(gradient.isfinite().all())
    assert float(gradient.abs().sum()) > 0


# -------------------------------------------------------------------------- the turntable


def sculpture(**changes: Any) -> SpaceDrawing:
    config = replace(SpaceConfig(camera=replace(LEVEL, canvas=(64, 64))), **changes)
    strokes = straight(
        ((-0.6, -0.4, 0.2), (0.5, 0.5, 0.5)), ((0.4, 0.2, -0.6), (-0.3, 0.6, 0.1)),
        camera=config.camera,
    )  # fmt: skip
    return SpaceDrawing(strokes, ((Prompt("a"),),), config, ("m",), 0.0, ((),), 0, ())


def array(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture, dtype=np.float64)


def test_a_turn_of_the_table_ends_where_it_began() -> None:
    drawing = sculpture()
    frames = [array(frame) for frame in turntable(drawing, 24, 48)]
    assert {frame.shape for frame in frames} == {(48, 48, 3)}
    assert np.abs(array(drawing.picture(360.0, 48)) - frames[0]).max() <= 1
    np.testing.assert_array_equal(array(drawing.picture(90.0, 48)), frames[6])
    steps = [np.abs(b - a).mean() for a, b in zip(frames, [*frames[1:], frames[0]])]
    assert 0 < steps[-1] <= max(steps[:-1])  # from the last to the first is a step like any other


@pytest.mark.parametrize(
    ("frames", "side", "sentence"),
    [
        (1, 64, "number of frames lies between 2 and 240, not at 1"),
        (241, 64, "number of frames"),
        (float("nan"), 64, "number of frames"),
        (24, 15, "side lies between 16 and 2048"),
        (24, 2049, "side"),
    ],
)
def test_a_film_beyond_its_limits_is_refused_at_once(frames: Any, side: int, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        turntable(sculpture(), frames, side)


def test_sides_stand_side_by_side_and_a_transparent_ground_stays_so() -> None:
    drawing = replace(sculpture(background=None), views=((Prompt("a"),), (Prompt("b"),)))
    sheet = drawing.sides(40)
    assert (sheet.mode, sheet.size) == ("RGBA", (80, 40))
    np.testing.assert_array_equal(array(sheet)[:, :40], array(drawing.picture(0.0, 40)))
    np.testing.assert_array_equal(array(sheet)[:, 40:], array(drawing.picture(180.0, 40)))
    assert sculpture().picture(0.0).mode == "RGB"


# -------------------------------------------------------------------------------- the loop


@pytest.mark.parametrize(
    ("count", "expected"),
    [(1, [0.0]), (2, [0.0, 180.0]), (3, [0.0, 120.0, 240.0]), (4, [0.0, 90.0, 180.0, 270.0])],
)
def test_sides_are_spread_evenly_round_the_circle(count: int, expected: list[float]) -> None:
    assert azimuths(count) == pytest.approx(expected)
    drawing = run_to_end(job(["ab", "cd", "ef", "gh"][:count], words=["ab", "cd"]))
    assert len(drawing.strokes) == SMALL.strokes
    assert len(drawing.nearest) == count
    assert drawing.sides(32).size == (32 * count, 32)


@pytest.mark.parametrize("start", ["gradient", "random"])
def test_the_same_seed_gives_the_same_sculpture_and_another_seed_another(start: str) -> None:
    config = replace(SMALL, start=start)
    first, again = run_to_end(job(config=config)), run_to_end(job(config=config))
    other = run_to_end(job(config=replace(config, seed=1)))
    for name in ("points", "half_widths", "colors"):
        assert torch.equal(getattr(first.strokes, name), getattr(again.strokes, name))
    assert first.losses == again.losses
    assert not torch.equal(first.strokes.points, other.strokes.points)


def test_each_side_fits_its_own_words_better_than_the_other_sides() -> None:
    texts, encoder = ("mmmm", "zzzz"), tiny_encoder()
    config = replace(SMALL, strokes=12, steps=60)
    drawing = run_to_end(draw_in_space([encoder], [[Prompt(t)] for t in texts], config))
    losses = np.empty((2, 2))
    for i, azimuth in enumerate(azimuths(2)):
        look = plain_look(render(drawing.strokes.seen_from(azimuth)), 24, config.background)
        for j, text in enumerate(texts):
            critic = Critic([encoder], [Prompt(text)], (), config.scoring)
            losses[i, j] = float(critic.loss(look[None]))
    assert losses[0, 0] < losses[0, 1]
    assert losses[1, 1] < losses[1, 0]
    early, late = np.mean(drawing.losses[:10]), np.mean(drawing.losses[-10:])
    assert late < early - 0.05


def test_widths_and_colours_stay_within_their_limits_at_every_step() -> None:
    config = replace(SMALL, width_range=(0.02, 0.03), width_rate=0.05, color_rate=0.5)
    for step in job(config=config):
        strokes = step.drawing.strokes
        assert float(strokes.half_widths.min()) + 1e-7 >= 0.02
        assert float(strokes.half_widths.max()) - 1e-7 <= 0.03
        assert 0 <= float(strokes.colors.min()) <= float(strokes.colors.max()) <= 1
        assert bool(strokes.points.isfinite().all())


@pytest.mark.parametrize("extent", [0.3, 1.0])
def test_strokes_keep_to_a_ball_and_those_inside_it_are_not_touched(extent: float) -> None:
    config = replace(SMALL, extent=extent, point_rate=0.2)
    lengths = [step.drawing.strokes.points.norm(dim=-1) for step in job(config=config)]
    assert max(float(length.max()) for length in lengths) <= extent + 1e-5
    assert float(lengths[-1].max()) > extent - 1e-3  # at this rate some come to its surface
    wide, wider = (run_to_end(job(config=replace(SMALL, extent=far))).strokes for far in (2.4, 2.5))
    assert torch.equal(wide.points, wider.points)


def test_ink_makes_strokes_fade_that_no_side_needs() -> None:
    alphas = [
        run_to_end(job(config=replace(SMALL, ink=ink))).strokes.colors[:, 3].mean()
        for ink in (0.0, 1.0)
    ]
    assert float(alphas[1]) < float(alphas[0]) - 0.1


def test_the_best_so_far_has_the_smallest_smoothed_loss() -> None:
    # Points that leap about: the best comes by luck, somewhere on the way.
    wild = replace(SMALL, steps=40, point_rate=1.0, extent=2.5, width_rate=0.0, color_rate=0.0)
    *steps, last = job(config=wild)
    smooth, means = [math.nan, math.nan], []
    for step, loss in enumerate(last.drawing.losses):
        side = step % 2
        smooth[side] = loss if step < 2 else 0.9 * smooth[side] + 0.1 * loss
        means.append(sum(smooth) / 2)
    assert last.drawing.step < 39  # else this test would show nothing
    assert last.drawing.loss == pytest.approx(min(means[1:]))
    assert means[last.drawing.step] == pytest.approx(min(means[1:]))
    torch.testing.assert_close(  # what is kept is what there was at that step
        last.drawing.strokes.points, [*steps, last][last.drawing.step].drawing.strokes.points
    )


def test_steps_tell_how_far_they_are_and_show_all_sides() -> None:
    steps = list(job())
    assert [step.fraction for step in steps] == pytest.approx([k / 8 for k in range(1, 9)])
    assert all(step.metrics["strokes"] == 6 for step in steps)
    assert steps[0].preview is not None
    assert steps[-1].preview is not None
    assert steps[-1].preview.size == (480, 240)


@pytest.mark.parametrize("after", [1, 2, 5, 8])
def test_stopping_at_any_step_keeps_the_best_and_frees_the_rest(after: int) -> None:
    encoder = tiny_encoder()
    running = draw_in_space([encoder], [[Prompt("a")], [Prompt("b")]], SMALL)
    for _ in range(after):
        step = next(running)
    freed = weakref.ref(running.gi_frame.f_locals["sculpture"])
    running.close()
    gc.collect()
    assert freed() is None
    assert len(step.drawing.strokes) == SMALL.strokes
    assert len(step.drawing.losses) == after
    assert step.drawing.picture(0.0).size == (32, 32)


def test_a_transparent_ground_is_judged_over_changing_ones() -> None:
    drawing = run_to_end(job(config=replace(SMALL, background=None)))
    picture = drawing.picture(0.0)
    assert picture.mode == "RGBA"
    image = render(drawing.strokes.seen_from(0.0))
    white = over(image, torch.ones(3))
    on_white = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    np.testing.assert_allclose(array(on_white)[..., :3] / 255, white, atol=0.02)


def test_settings_name_everything_that_repeats_the_run() -> None:
    settings = run_to_end(job()).settings()
    assert settings["model"] == "tiny-0"
    assert [[p["text"] for p in side] for side in settings["views"]] == [["red"], ["blue"]]
    assert settings["camera"]["radius"] == 3.0
    assert settings["seed"] == 0


def test_the_reference_has_the_published_numbers() -> None:
    config = SpaceConfig.reference()
    assert (config.strokes, config.steps, config.camera.radius) == (200, 500, 3.0)
    assert config.augmentation == Augmentation()
    assert not config.scoring.normalize


# ------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("views", "sentence"),
    [
        ([], "1 to 4 sides, not 0"),
        ([[Prompt("a")]] * 5, "1 to 4 sides, not 5"),
        ([[Prompt("a")], []], "1 to 8 prompts, not 0"),
    ],
)
def test_sides_without_words_or_too_many_are_refused(views: Any, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        next(draw_in_space([tiny_encoder()], views, SMALL))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"strokes": 0}, "number of strokes lies between 1 and 1024, not at 0"),
        ({"strokes": 10**9}, "number of strokes"),
        ({"strokes": math.nan}, "number of strokes"),
        ({"steps": 0}, "number of steps"),
        ({"max_segments": 9}, "segments"),
        ({"half_width": 0.0}, "half width"),
        ({"width_range": (0.2, 0.1)}, "largest half width"),
        ({"width_range": (math.nan, 0.1)}, "smallest half width"),
        ({"jitter": -1.0}, "jitter"),
        ({"spread": 2.0}, "spread"),
        ({"extent": 0.0}, "extent"),
        ({"extent": math.nan}, "extent"),
        ({"ink": -1.0}, "ink"),
        ({"point_rate": math.inf}, "points' rate"),
        ({"width_rate": math.nan}, "widths' rate"),
        ({"color_rate": -0.1}, "colours' rate"),
        ({"blur": math.nan}, "blur"),
        ({"background": (0.0, 2.0, 0.0)}, "background"),
        ({"seed": -1}, "seed"),
        ({"start": "spiral"}, "starts are random or gradient"),
        ({"schedule": "linear"}, "Schedules are steps or cosine"),
    ],
)
def test_bad_settings_are_refused_with_a_sentence(changes: Any, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        replace(SpaceConfig(), **changes)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"radius": 0.0}, "distance lies between 1 and 10"),
        ({"radius": math.nan}, "distance"),
        ({"field_of_view": 180.0}, "field of view"),
        ({"elevation": 90.0}, "elevation"),
        ({"canvas": (8, 64)}, "width lies between 16 and 2048"),
        ({"canvas": (64, 4096)}, "height"),
    ],
)
def test_a_camera_beyond_its_limits_is_refused(changes: Any, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        Camera(**changes)
