"""The rasteriser against closed forms, a slow plain version and finite differences."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from models.clipdraw import backends, rasterizer
from models.clipdraw.rasterizer import over, render
from models.clipdraw.strokes import Strokes, concatenate, paths
from models.errors import InputError

CANVAS = (48, 40)
RED, BLUE = (1.0, 0.0, 0.0, 1.0), (0.0, 0.0, 1.0, 1.0)
NONE = (0.0, 0.0, 0.0, 0.0)
KAPPA = 0.5522847498  # control points of a quarter circle: off by 0.03 %


def line(*ends: Sequence[float]) -> Tensor:
    """A straight cubic from one point to another."""
    a, b = torch.tensor(ends, dtype=torch.float64)
    return torch.stack([a, a + (b - a) / 3, b - (b - a) / 3, b])


def polygon(*corners: Sequence[float]) -> Tensor:
    """A closed path of straight cubics."""
    a = torch.tensor(corners, dtype=torch.float64)
    step = (a.roll(-1, 0) - a) / 3
    return torch.stack([a, a + step, a + 2 * step], 1).flatten(0, 1)


def circle(x: float, y: float, radius: float) -> Tensor:
    """A closed path of four cubics."""
    quarter = torch.tensor([[1, 0], [1, KAPPA], [KAPPA, 1]], dtype=torch.float64)
    turn = torch.tensor([[0, 1], [-1, 0]], dtype=torch.float64)
    quarters = [quarter @ torch.linalg.matrix_power(turn, k) for k in range(4)]
    return torch.tensor([x, y]) + radius * torch.cat(quarters)


def drawn(
    controls: Tensor,
    half_width: float = 0.0,
    color: Sequence[float] = RED,
    fill: Sequence[float] | None = None,
    closed: bool = False,
    canvas: tuple[int, int] = CANVAS,
) -> Strokes:
    """One path, float64."""
    return paths(
        [controls.double()],
        torch.tensor([half_width], dtype=torch.float64),
        torch.tensor([color], dtype=torch.float64),
        canvas,
        [closed],
        None if fill is None else torch.tensor([fill], dtype=torch.float64),
    )


def scribble(
    seed: int, count: int, canvas: tuple[int, int] = CANVAS, fills: bool = False
) -> Strokes:
    """Random paths of one to three cubics, open and closed, thin and thick."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    closed = (torch.arange(count) % 3 == 2).tolist()
    sizes = [3 * (1 + k % 3) + (not flag) for k, flag in enumerate(closed)]
    start = uniform(count, 2) * torch.tensor(canvas)
    steps = [(uniform(size, 2) - 0.5) * 20 for size in sizes]
    return paths(
        [begin + step.cumsum(0) for begin, step in zip(start, steps)],
        0.4 + 3 * uniform(count),
        uniform(count, 4),
        canvas,
        closed,
        uniform(count, 4) if fills else None,
    )


def supersampled(strokes: Strokes, side: int = 10, chords: int = 48) -> Tensor:
    """The slow plain version: side x side samples a pixel, distances to many chords, winding
    numbers by counting crossings, one path after the other."""
    width, height = strokes.canvas
    x = (torch.arange(width * side).double() + 0.5) / side
    y = (torch.arange(height * side).double() + 0.5) / side
    at = torch.stack(torch.meshgrid(y, x, indexing="ij")[::-1], -1).view(-1, 2)  # (samples, 2)
    image = torch.zeros(len(at), 4, dtype=torch.float64)
    cubics, path = strokes.cubics()
    t = torch.linspace(0, 1, chords + 1, dtype=torch.float64)[:, None]
    for k in range(len(strokes)):
        p = cubics[path == k, :, None].unbind(1)  # four of (segments, 1, 2)
        u = 1 - t
        curve = u**3 * p[0] + 3 * u**2 * t * p[1] + 3 * u * t**2 * p[2] + t**3 * p[3]
        a, b = curve[:, :-1].flatten(0, 1), curve[:, 1:].flatten(0, 1)
        if strokes.fills is not None:
            inside = _winding(at, torch.cat([a, b[-1:]]), torch.cat([b, a[:1]])) != 0
            _lay(image, inside, strokes.fills[k])
        near = torch.full((len(at),), math.inf, dtype=torch.float64)
        for begin, end in zip(a, b):
            along = end - begin
            s = ((at - begin) @ along / (along @ along).clamp(min=1e-30)).clamp(0, 1)
            near = torch.minimum(near, (at - begin - s[:, None] * along).square().sum(1))
        _lay(image, near < strokes.half_widths[k] ** 2, strokes.colors[k])
    return image.view(height, side, width, side, 4).mean((1, 3))


def _winding(at: Tensor, a: Tensor, b: Tensor) -> Tensor:
    total = torch.zeros(len(at), dtype=torch.long)
    for (ax, ay), (bx, by) in zip(a.tolist(), b.tolist()):
        side = (bx - ax) * (at[:, 1] - ay) - (by - ay) * (at[:, 0] - ax)
        total += ((ay <= at[:, 1]) & (by > at[:, 1]) & (side > 0)).long()
        total -= ((by <= at[:, 1]) & (ay > at[:, 1]) & (side < 0)).long()
    return total


def _lay(image: Tensor, covered: Tensor, rgba: Tensor) -> None:
    paint = torch.cat([rgba[:3] * rgba[3], rgba[3:]])
    image[covered] = image[covered] * (1 - rgba[3]) + paint


def area(strokes: Strokes) -> float:
    """Pixels covered, by an opaque path."""
    return float(render(strokes)[..., 3].sum())


# --- what it draws ---------------------------------------------------------------------------


@pytest.mark.parametrize("fills", [False, True])
def test_a_scribble_is_what_the_slow_version_draws(fills: bool) -> None:
    strokes = scribble(5, 6, (32, 26), fills)
    difference = render(strokes) - supersampled(strokes)
    assert -10 * math.log10(difference.square().mean()) > 42
    assert difference.abs().mean() < 1e-3


@pytest.mark.parametrize("radius", [1.0, 2.5, 6.0, 15.0])
@pytest.mark.parametrize("centre", [(24.0, 20.0), (23.5, 19.5), (22.31, 20.77)])
def test_a_stroke_without_length_is_a_disc(radius: float, centre: tuple[float, float]) -> None:
    dot = drawn(line(centre, centre), radius)
    assert area(dot) == pytest.approx(math.pi * radius**2, rel=0.02 if radius < 2 else 5e-3)
    image = render(dot)[..., 3]
    assert image[int(centre[1]), int(centre[0])] > 0.75


@pytest.mark.parametrize("half_width", [0.05, 0.3, 0.5, 1.0, 4.0, 9.0])
@pytest.mark.parametrize("end", [(36.0, 20.5), (36.0, 20.0), (30.0, 31.3)])
def test_a_straight_stroke_covers_a_rectangle_and_two_half_discs(
    half_width: float, end: tuple[float, float]
) -> None:
    start = (12.0, end[1] if end[1] < 21 else 14.1)
    length = math.dist(start, end)
    expected = 2 * half_width * length + math.pi * half_width**2
    # Within a pixel the ends are strips too: two of them are off by a seventh of one at most.
    assert area(drawn(line(start, end), half_width)) == pytest.approx(expected, rel=5e-3, abs=0.16)


def test_the_side_of_a_thick_line_is_exact() -> None:
    image = render(drawn(line((-20, 17.3), (70, 17.3)), 5.0))[..., 3]  # rows 12.3 to 22.3
    expected = torch.zeros(CANVAS[1], dtype=torch.float64)
    expected[12], expected[13:22], expected[22] = 0.7, 1, 0.3
    torch.testing.assert_close(image, expected[:, None].expand(-1, CANVAS[0]), atol=1e-6, rtol=0)


def test_a_ring_has_the_area_of_a_ring() -> None:
    ring = drawn(circle(24, 20, 12), 2.0, closed=True)
    assert area(ring) == pytest.approx(math.pi * (14**2 - 10**2), rel=1e-3)


def test_later_paths_lie_on_earlier_ones() -> None:
    two = concatenate(
        [
            drawn(line((4, 20), (44, 20)), 6.0, (1, 0, 0, 0.5)),
            drawn(line((24, 4), (24, 36)), 6.0, (0, 0, 1, 0.25)),
        ]
    )
    image = render(two)
    torch.testing.assert_close(
        image[20, 24], torch.tensor([0.5 * 0.75, 0, 0.25, 0.5 + 0.25 - 0.125]).double()
    )
    turned = render(two.select(torch.tensor([1, 0])))
    torch.testing.assert_close(turned[20, 24], torch.tensor([0.5, 0, 0.125, 0.625]).double())


def test_a_path_does_not_darken_itself() -> None:
    loop = torch.tensor([[8.0, 30], [60, 4], [-12, 4], [40, 30]])
    image = render(drawn(loop, 4.0, (1, 1, 1, 0.5)))[..., 3]
    assert image.max() == pytest.approx(0.5, abs=1e-9)
    assert (image > 0.499).sum() > 200


def test_thin_strokes_keep_their_weight() -> None:
    curve = torch.tensor([[6.0, 6], [20, 40], [30, -10], [42, 34]])
    thick, thin = area(drawn(curve, 0.4)), area(drawn(curve, 0.1))
    assert thin == pytest.approx(thick / 4, rel=0.02)


@pytest.mark.parametrize(
    "controls",
    [
        line((-30, -30), (-20, -10)),
        line((100, 5), (60, 5)),
        line((20, 50), (30, 60)),
        torch.tensor([[-90.0, 20], [-20, 200], [200, 200], [130, 20]]),
    ],
)
def test_off_the_canvas_nothing_is_drawn_and_nothing_pulls(controls: Tensor) -> None:
    strokes = drawn(controls, 3.0)
    points = strokes.points.clone().requires_grad_()
    image = render(replace(strokes, points=points))
    assert image.abs().max() == 0
    image.sum().backward()
    assert points.grad is not None
    assert points.grad.abs().max() == 0


def test_a_half_width_of_zero_draws_no_stroke() -> None:
    assert area(drawn(line((5, 5), (40, 30)), 0.0)) == 0


def test_no_paths_make_an_empty_image() -> None:
    none = scribble(0, 3).select(torch.zeros(3, dtype=torch.bool))
    assert render(none).shape == (40, 48, 4)
    assert not render(none).any()


@pytest.mark.parametrize("shift", [(7, 0), (0, 5), (3, 4)])
def test_whole_pixels_shift_the_image(shift: tuple[int, int]) -> None:
    strokes = scribble(2, 8, (64, 64), fills=True)
    moved = replace(strokes, points=strokes.points + torch.tensor(shift))
    image, shifted = render(strokes), render(moved)
    dx, dy = shift
    torch.testing.assert_close(shifted[dy:, dx:], image[: 64 - dy, : 64 - dx], atol=1e-9, rtol=0)


def test_a_finer_canvas_shows_the_same() -> None:
    strokes = scribble(3, 6, (30, 20), fills=True)
    fine = render(strokes.scaled(8)).view(20, 8, 30, 8, 4).mean((1, 3))
    difference = render(strokes) - fine
    assert -10 * math.log10(difference.square().mean()) > 42


@pytest.mark.parametrize("canvas", [(1, 1), (300, 2), (3, 200), (129, 77)])
def test_any_canvas(canvas: tuple[int, int]) -> None:
    strokes = scribble(4, 5, canvas, fills=True)
    image = render(strokes)
    assert image.shape == (canvas[1], canvas[0], 4)
    assert image.min() >= 0
    assert image.max() <= 1 + 1e-9
    assert (image[..., :3] <= image[..., 3:] + 1e-9).all()


# --- fills -----------------------------------------------------------------------------------


def test_a_polygon_is_filled_exactly() -> None:
    triangle = drawn(polygon((10.3, 5.2), (40.1, 18.4), (16.6, 33.9)), fill=BLUE, closed=True)
    a, b, c = (10.3, 5.2), (40.1, 18.4), (16.6, 33.9)
    expected = abs((b[0] - a[0]) * (c[1] - a[1]) - (c[0] - a[0]) * (b[1] - a[1])) / 2
    assert area(triangle) == pytest.approx(expected, rel=1e-9)


def test_a_box_is_antialiased_at_its_sides() -> None:
    image = render(drawn(polygon((5.25, 6), (9, 6), (9, 9.5), (5.25, 9.5)), fill=BLUE, closed=True))
    expected = torch.tensor([0.75, 1, 1, 1, 0]).double()
    torch.testing.assert_close(image[6, 5:10, 3], expected)
    torch.testing.assert_close(image[9, 5:10, 3], expected / 2)


def test_a_filled_circle_is_a_disc() -> None:
    disc = drawn(circle(24.3, 19.8, 13.0), fill=BLUE, closed=True)
    assert area(disc) == pytest.approx(math.pi * 13**2, rel=1e-3)


def test_what_hangs_over_the_canvas_is_cut_off() -> None:
    box = drawn(polygon((-7, -9), (10.5, -9), (10.5, 100), (-7, 100)), fill=BLUE, closed=True)
    assert area(box) == pytest.approx(10.5 * CANVAS[1])


def test_the_rule_is_non_zero() -> None:
    inner, outer = circle(24, 20, 8), circle(24, 20, 12)
    bridge = line((32, 20), (36, 20))
    twice = torch.cat([outer, outer[:1], bridge.flip(0)[1:3], inner, inner[:1], bridge[1:3]])
    assert area(drawn(twice, fill=BLUE, closed=True)) == pytest.approx(math.pi * 144, rel=2e-3)


def test_a_pentagram_is_filled_in_the_middle() -> None:
    corners = [(24 + 15 * math.sin(a), 20 - 15 * math.cos(a)) for a in
               (4 * math.pi * k / 5 for k in range(5))]  # fmt: skip
    image = render(drawn(polygon(*corners), fill=BLUE, closed=True))
    assert image[20, 24, 3] == pytest.approx(1)


def test_an_open_path_is_filled_as_if_closed_by_a_line() -> None:
    bow = torch.tensor([[6.0, 30], [10, -20], [40, -10], [42, 33]])
    closing = torch.cat([bow, line(bow[3].tolist(), bow[0].tolist())[1:3]])
    opened = drawn(bow, fill=BLUE)
    torch.testing.assert_close(render(opened), render(drawn(closing, fill=BLUE, closed=True)))


def test_the_stroke_lies_over_its_own_fill() -> None:
    image = render(drawn(circle(24, 20, 10), 3.0, RED, BLUE, closed=True))
    torch.testing.assert_close(image[20, 33], torch.tensor(RED).double())
    torch.testing.assert_close(image[20, 24], torch.tensor(BLUE).double())


# --- gradients -------------------------------------------------------------------------------


def loss_of(strokes: Strokes, smooth: bool = True) -> Callable[..., Tensor]:
    """A weighted sum of the image as a function of the parameters."""
    width, height = strokes.canvas
    generator = torch.Generator().manual_seed(9)
    weights = torch.randn(1, 4, 5, 5, generator=generator, dtype=torch.float64)
    weights = torch.nn.functional.interpolate(weights, (height, width), mode="bicubic")

    def loss(points: Tensor, half_widths: Tensor, colors: Tensor, *fills: Tensor) -> Tensor:
        image = render(
            replace(
                strokes,
                points=points,
                half_widths=half_widths,
                colors=colors,
                fills=fills[0] if fills else None,
            )
        )
        return (image * weights[0].permute(1, 2, 0)).sum()

    return loss


def parameters(strokes: Strokes) -> list[Tensor]:
    every = [strokes.points, strokes.half_widths, strokes.colors, strokes.fills]
    return [v.clone().requires_grad_() for v in every if v is not None]


def differences(loss: Callable[..., Tensor], at: list[Tensor], which: int) -> Tensor:
    """Central finite differences by every element of one parameter."""
    result = torch.zeros_like(at[which])
    for index in range(result.numel()):
        step = torch.zeros_like(result).view(-1)
        step[index] = 1e-4
        moved = [
            [v + sign * step.view_as(v) if k == which else v for k, v in enumerate(at)]
            for sign in (1, -1)
        ]
        result.view(-1)[index] = (loss(*moved[0]) - loss(*moved[1])) / 2e-4
    return result


@pytest.mark.parametrize(
    ("fills", "names"), [(False, "points widths colors"), (True, "points widths colors fills")]
)
def test_gradients_are_finite_differences(fills: bool, names: str) -> None:
    strokes = scribble(11, 5, (36, 30), fills)
    loss, leaves = loss_of(strokes), parameters(strokes)
    grads = torch.autograd.grad(loss(*leaves), leaves)
    at = [leaf.detach() for leaf in leaves]
    # Colours enter exactly. Points and widths by way of each pixel's own normal, held fixed.
    for which, name in enumerate(names.split()):
        expected = differences(loss, at, which)
        error = (grads[which] - expected).norm() / expected.norm()
        assert error < {"points": 0.03, "widths": 1e-4}.get(name, 1e-7), name


def test_a_dot_is_pulled_where_it_should_go() -> None:
    dot = drawn(line((20.2, 17.9), (20.2, 17.9)), 4.0)
    points = dot.points.clone().requires_grad_()
    half_widths = dot.half_widths.clone().requires_grad_()
    alpha = render(replace(dot, points=points, half_widths=half_widths))[..., 3]
    towards = torch.arange(CANVAS[0]).double()  # more is better on the right
    (alpha * towards).sum().backward()
    assert points.grad is not None
    assert half_widths.grad is not None
    moved = points.grad.sum((0, 1))
    assert moved[0] == pytest.approx(math.pi * 16, rel=0.02)  # area times slope
    assert moved[1].abs() < 0.01 * moved[0]
    assert half_widths.grad[0] == pytest.approx(2 * math.pi * 4 * 19.7, rel=0.02)


def test_mirrored_drawings_have_mirrored_gradients() -> None:
    width, height = CANVAS
    strokes = scribble(6, 6, fills=True)
    mirror = torch.tensor([-1.0, 1.0]).double()
    mirrored = replace(strokes, points=strokes.points * mirror + torch.tensor([width, 0.0]))
    weights = torch.rand(height, width, 4, generator=torch.Generator().manual_seed(1)).double()
    ahead, back = parameters(strokes), parameters(mirrored)
    names = ("points", "half_widths", "colors", "fills")
    image = render(replace(strokes, **dict(zip(names, ahead))))
    turned = render(replace(mirrored, **dict(zip(names, back))))
    torch.testing.assert_close(turned.flip(1), image, atol=1e-6, rtol=0)
    (image * weights).sum().backward()
    (turned * weights.flip(1)).sum().backward()
    own = strokes.own[..., None]
    assert ahead[0].grad is not None
    assert back[0].grad is not None
    torch.testing.assert_close(back[0].grad * own, ahead[0].grad * mirror * own, atol=1e-4, rtol=0)
    for one, other in zip(ahead[1:], back[1:]):
        torch.testing.assert_close(one.grad, other.grad, atol=1e-5, rtol=1e-4)


def test_padding_has_no_gradient_and_may_be_anything() -> None:
    strokes = scribble(7, 4)
    points = torch.where(strokes.own[..., None], strokes.points, torch.nan).requires_grad_()
    image = render(replace(strokes, points=points))
    torch.testing.assert_close(image, render(strokes))
    image.sum().backward()
    assert points.grad is not None
    assert points.grad[~strokes.own].abs().sum() == 0
    assert points.grad.isfinite().all()


@pytest.mark.parametrize(
    "controls",
    [
        line((10, 10), (10, 10)),
        torch.tensor([[10.0, 20], [30, 20], [30, 20], [10, 20]]),  # there and back
        torch.tensor([[10.0, 20], [10, 20], [40, 20], [40, 20]]),  # no speed at the ends
        torch.tensor([[10.0, 10], [38, 30], [10, 30], [38, 10]]),  # a cusp or nearly
        torch.tensor([[10.5, 20.5], [20.5, 20.5], [30.5, 20.5], [40.5, 20.5]]),  # through centres
        torch.tensor([[1e6, 1e6], [-1e6, 2e5], [3e5, -1e6], [0, 0.0]]),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_degenerate_strokes_are_drawn_with_finite_gradients(
    controls: Tensor, dtype: torch.dtype
) -> None:
    strokes = drawn(controls, 1.5, fill=BLUE).to("cpu", dtype)
    leaves = parameters(strokes)
    names = ("points", "half_widths", "colors", "fills")
    image = render(replace(strokes, **dict(zip(names, leaves))))
    assert image.max() > 0.99
    image.square().sum().backward()
    assert all(leaf.grad is not None and leaf.grad.isfinite().all() for leaf in leaves)


# --- how it works ----------------------------------------------------------------------------


@pytest.mark.parametrize("pairs", [1, 300, 5000])
@pytest.mark.parametrize("kept", [0, 2**30])
def test_bands_change_nothing(pairs: int, kept: int, monkeypatch: pytest.MonkeyPatch) -> None:
    strokes = scribble(8, 20, fills=True)
    loss, leaves = loss_of(strokes), parameters(strokes)
    whole = loss(*leaves)
    expected = torch.autograd.grad(whole, leaves)
    monkeypatch.setattr(rasterizer, "BAND_PAIRS", pairs)
    monkeypatch.setattr(rasterizer, "KEPT_PAIRS", kept)
    banded = loss(*leaves)
    torch.testing.assert_close(banded, whole)
    for one, other in zip(torch.autograd.grad(banded, leaves), expected):
        torch.testing.assert_close(one, other)


def test_twice_the_same_is_the_same() -> None:
    strokes = scribble(9, 40, fills=True).to("cpu", torch.float32)
    loss, leaves = loss_of(strokes), parameters(strokes)
    first, second = (torch.autograd.grad(loss(*leaves), leaves) for _ in range(2))
    assert torch.equal(render(strokes), render(strokes))
    assert all(torch.equal(one, other) for one, other in zip(first, second))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_image_is_as_precise_as_the_points(dtype: torch.dtype) -> None:
    strokes = scribble(10, 12, (96, 96), fills=True)
    image = render(strokes.to("cpu", dtype))
    assert image.dtype == dtype
    torch.testing.assert_close(image.double(), render(strokes), atol=2e-3, rtol=0)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["points", "half_widths", "colors"])
def test_what_is_not_a_number_is_refused(bad: float, name: str) -> None:
    strokes = scribble(1, 3)
    values = getattr(strokes, name).clone()
    values[0] = bad
    with pytest.raises(ValueError, match="must be finite numbers"):
        render(replace(strokes, **{name: values}))


def test_over_lays_the_image_on_a_colour() -> None:
    image = render(drawn(line((10, 20), (40, 20)), 5.0, (1, 0, 0, 0.25)))
    white = over(image, torch.ones(3))
    torch.testing.assert_close(white[20, 24], torch.tensor([1, 0.75, 0.75]).double())
    torch.testing.assert_close(white[0, 0], torch.ones(3).double())


# --- other backends --------------------------------------------------------------------------


def test_without_diffvg_a_sentence_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise ImportError(name)

    backends._pydiffvg.cache_clear()
    monkeypatch.setattr(backends.importlib, "import_module", absent)
    assert not backends.diffvg_is_there()
    with pytest.raises(InputError, match="built-in rasteriser"):
        backends.RASTERIZERS["diffvg"](scribble(0, 2))
