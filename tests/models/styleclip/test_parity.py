"""StyleCLIP against the reference's numbers: `--golden DIR`, the files in DIR/stylegan.

What the keys mean is in tests/golden/stylegan/README.md. Everything runs in float64, where an
independent implementation agrees to the rounding of the stored float32.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from models.errors import InputError
from models.jobs import run_to_end
from models.styleclip.clip_view import ClipView
from models.styleclip.directions import (
    ChannelRelevance,
    StyleStatistics,
    auto_beta,
    boundary,
    measure_statistics,
)
from models.styleclip.fs3 import Fs3
from models.styleclip.identity import FaceIdentity
from models.styleclip.mapper import Mapper, MapperInfo, PixelNorm, mapper_from_state
from models.styleclip.optimization import Descent, OptimizationSettings, learning_rate
from models.styleclip.prompt import EditPrompt
from models.styleclip.ranger import Ranger
from models.styleclip.secant import SecantSettings, measure, secant_row
from models.styleclip.templates import EDIT_TEMPLATES, text_direction
from models.stylegan.checkpoints import read_generator
from models.stylegan.generator import Activations, Generator, StyleSlot
from models.stylegan.irse50 import Irse50
from models.stylegan.latent import Latent
from tests.golden_stylegan import (
    GENERATOR,
    IRSE,
    MAPPER,
    Golden,
    Rule,
    parametrize_golden,
    seeded_param,
)

ROUNDING = 2e-7  # of the stored float32, relative to the largest value of an array

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.timeout(900)]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    parametrize_golden(metafunc, "optimization", "styleclip_optimization*.npz")
    if "run" in metafunc.fixturenames:
        metafunc.parametrize("run", _runs(metafunc.config.getoption("--golden") / "stylegan"))
    parametrize_golden(metafunc, "mapper", "styleclip_mapper*.npz")
    parametrize_golden(metafunc, "directions", "styleclip_directions*.npz")


def _runs(folder: Path) -> list[str]:
    """The optimisation runs that the files hold; each ends in five steps of its own."""
    names = {
        key.removesuffix("_steps")
        for file in folder.glob("styleclip_optimization*.npz")
        for key in Golden(file).arrays
        if key.endswith("_steps")
    }
    return sorted(names)


# ------------------------------------------------------------------------------- optimisation


class Surrogate:
    """CLIP as the golden data has it: cos(A x, t)."""

    image_size = 224

    def __init__(self, golden: Golden) -> None:
        pixels = 3 * self.image_size**2
        self._matrix = golden.input("surrogate_clip", (16, pixels), 1 / 224).double()
        self._text = golden.input("surrogate_text", (1, 16)).double()
        self.seen = torch.empty(0)  # the last input

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        return F.normalize(self._text.expand(len(texts), -1), dim=-1)

    def image_features(self, pixels: Tensor) -> Tensor:
        self.seen = pixels.detach()
        return F.normalize(pixels.flatten(1) @ self._matrix.T, dim=-1)

    def normalize(self, pixels: Tensor) -> Tensor:
        raise AssertionError("the reference does not normalise")


@pytest.fixture(scope="module")
def generator(optimization: Golden, request: pytest.FixtureRequest, tmp_path_factory: Any) -> Any:
    """The seeded generator in float64; its keys are those of the generator's own file."""
    folder = request.config.getoption("--golden") / "stylegan"
    path = tmp_path_factory.mktemp("rosinality") / "generator.pt"
    shapes = Golden(folder / f"generator_{optimization.config['size']}.npz").shapes()
    mean = optimization["mean_latent"].flatten()
    torch.save({"g_ema": seeded_state(GENERATOR, shapes, optimization), "latent_avg": mean}, path)
    found = read_generator(path).generator
    path.unlink()
    return found.double().requires_grad_(False)


@pytest.fixture(scope="module")
def identity(optimization: Golden, request: pytest.FixtureRequest) -> FaceIdentity:
    """The identity loss over the seeded face network, in float64."""
    shapes = Golden(request.config.getoption("--golden") / "stylegan" / "irse50.npz").shapes()
    network = Irse50()
    network.load_state_dict(seeded_state(IRSE, shapes, optimization), strict=True)
    return FaceIdentity(network.double().requires_grad_(False))


def seeded_state(
    rules: Sequence[Rule], shapes: dict[str, tuple[int, ...]], golden: Golden
) -> dict[str, Tensor]:
    return {
        key: torch.from_numpy(seeded_param(rules, key, shape, golden.seed))
        for key, shape in shapes.items()
    }


@pytest.fixture(scope="module")
def surrogate(optimization: Golden) -> Surrogate:
    return Surrogate(optimization)


def start_of(golden: Golden) -> Latent:
    """The float32 that is stored: every run starts there."""
    return Latent(golden["latent_0"][0].double())


def test_the_schedule_is_the_references(optimization: Golden) -> None:
    for name in optimization.arrays:
        if re.fullmatch(r"lr_\d+", name):
            steps = len(optimization.arrays[name])
            ours = torch.tensor([learning_rate(i, steps, 0.1) for i in range(steps)]).double()
            assert optimization.difference(name, ours) < 1e-7, name


def test_clip_is_shown_what_the_reference_shows(optimization: Golden, surrogate: Surrogate) -> None:
    view = ClipView("reference")
    for name in optimization.arrays:
        if match := re.fullmatch(r"clip_preprocess_(\d+)_shape", name):
            side = int(match[1])
            image = optimization.image(f"optimization:image_{side}", (1, 3, side, side)).double()
            whole = view.windows(side, torch.Generator())
            shown = view.pixels(surrogate, image, whole)
            assert optimization.difference(f"clip_preprocess_{side}", shown) < ROUNDING, side


def test_the_start_is_the_references(optimization: Golden, generator: Generator) -> None:
    w = generator.mapping(optimization["z"].double())
    start = generator.broadcast(generator.truncate(w, optimization.config["truncation"]))
    assert optimization.difference("latent_0", start) < ROUNDING
    styles = torch.cat(start_of(optimization).styles(generator), dim=1)[0]
    assert optimization.difference("styles_0", styles) < ROUNDING


def test_every_run_goes_the_references_way(
    run: str, optimization: Golden, generator: Any, surrogate: Surrogate, identity: FaceIdentity
) -> None:
    """A run that is called s... moves in StyleSpace, others in W+. Runs with all terms go all
    their steps, others the first three, of which the last is the first with moments of its own."""
    number = {key.removeprefix(f"{run}_"): optimization.arrays[key] for key in optimization.arrays}
    settings = OptimizationSettings(
        steps=int(number["steps"]),
        rate=optimization.config["lr"],
        l2=float(number["l2_lambda"]),
        identity=float(number["id_lambda"]),
        space="style_space" if run.startswith("s") else "w_plus",
        view=ClipView("reference"),
    )
    descent = Descent(
        generator, surrogate, start_of(optimization), EditPrompt("words"), settings, identity
    )

    def check(name: str, ours: Tensor, bar: float = ROUNDING) -> None:
        if f"{run}_{name}" in optimization:
            difference = optimization.difference(f"{run}_{name}", ours)
            assert difference < bar, f"{run}_{name}: {difference:.2g}"

    check("image_original", descent.original)
    last = optimization.config["steps_run"] if settings.identity else 3
    for step in range(last):
        assert descent.evaluate()
        if step == 0:
            check("grad_0", gradient(descent))
        descent.update()
        check(f"latent_after_{step + 1}", place(descent))
    if last == optimization.config["steps_run"]:
        check("clip_input_last", surrogate.seen)
        check("image_before_last_update", descent.image)
        with torch.no_grad():
            check("image_of_last_latent", generator.synthesize(descent.point.styles()))
    names = {"clip": "clip_loss", "l2": "l2_sum", "loss": "loss", "identity": "id_loss"}
    for ours, theirs in names.items():
        history = [losses[ours] for losses in descent.history]
        if f"{run}_{theirs}" in optimization:
            expected = optimization.arrays[f"{run}_{theirs}"][:last]
            assert history == pytest.approx(expected.tolist(), rel=1e-7, abs=1e-9), theirs


def place(descent: Descent) -> Tensor:
    """Where a descent stands, flat: W+, or all style vectors."""
    moving = descent.point.parameters
    if descent.settings.space == "style_space":
        moving = descent.point.styles()
    return torch.cat([part.detach().flatten() for part in moving])


def gradient(descent: Descent) -> Tensor:
    """The gradient there, zero for ToRGB."""
    moving = iter([parameter.grad for parameter in descent.point.parameters])
    if descent.settings.space == "w_plus":
        return next(moving).flatten()
    slots = descent.generator.layout
    return torch.cat([torch.zeros(slot.size) if slot.is_rgb else next(moving)[0] for slot in slots])


# ------------------------------------------------------------------------------------- mapper


def mapper_called(golden: Golden, name: str) -> Mapper:
    state = golden.state(MAPPER, prefix=f"{name}_", strip="mapper.")
    own = {key.removeprefix("mapper."): tensor for key, tensor in state.items()}
    return mapper_from_state(own, MapperInfo(), name).double()


def variants(golden: Golden) -> list[str]:
    suffix = "_state_keys"
    return [key.removesuffix(suffix) for key in golden.arrays if key.endswith(suffix)]


def mapper_inputs(golden: Golden) -> dict[str, Tensor]:
    """The inputs by the suffix that their results carry."""
    inputs = {}
    for name, suffix in {"w_plus": "", "w_plus_14": "_14", "w": "_w"}.items():
        inputs[suffix] = golden.input(f"mapper:{name}", golden.config["inputs"][name]).double()
    return inputs


def test_the_mappers_move_as_the_references(mapper: Golden) -> None:
    scale = mapper.config["edit_scale"]
    for variant in variants(mapper):
        ours = mapper_called(mapper, variant)
        if variant.startswith("stylespace"):
            _check_style_mapper(mapper, variant, ours)
            continue
        for suffix, x in mapper_inputs(mapper).items():
            if f"{variant}_delta{suffix}" in mapper:
                move = ours(x)
                assert mapper.difference(f"{variant}_delta{suffix}", move) < ROUNDING, variant
                assert mapper.difference(f"{variant}_edited{suffix}", x + scale * move) < ROUNDING


def _check_style_mapper(golden: Golden, variant: str, ours: Mapper) -> None:
    sizes = golden.arrays["style_sizes"].tolist()
    shape = golden.config["inputs"]["styles"][:2]
    styles = golden.input("mapper:styles", shape, 0.5, 0.5).double()
    assert golden.difference("styles", styles) < ROUNDING
    move = torch.cat(ours(styles.split(sizes, dim=1)), dim=1)
    assert golden.difference(f"{variant}_delta", move) < ROUNDING
    if f"{variant}_edited" in golden:
        assert golden.difference(f"{variant}_edited", styles + 0.1 * move) < ROUNDING


def test_pixel_norm_is_over_dimension_one(mapper: Golden) -> None:
    inputs = mapper_inputs(mapper)
    norm = PixelNorm()
    assert mapper.difference("pixelnorm_w_plus", norm(inputs[""])) < ROUNDING
    assert mapper.difference("pixelnorm_coarse", norm(inputs[""][:, :4])) < ROUNDING
    assert mapper.difference("pixelnorm_w", norm(inputs["_w"])) < ROUNDING


def test_ranger_walks_as_the_references(mapper: Golden) -> None:
    parameters = {
        "weight": mapper.input("ranger:weight", (6, 8), 100),
        "bias": mapper.input("ranger:bias", (6,), 10),
    }
    parameters = {name: tensor.double() for name, tensor in parameters.items()}
    ranger = Ranger(parameters.values(), lr=0.5)
    for step in range(len(mapper.arrays["ranger_weight"])):
        for name, parameter in parameters.items():
            shape = tuple(parameter.shape)
            noise = mapper.input(f"ranger:grad_{name}_{step}", shape, 1e-3)
            slope = mapper.input(f"ranger:slope_{name}", shape, 2e-3)
            parameter.grad = (noise + slope).double()  # an input, so added in float32
        ranger.step()
        for name, parameter in parameters.items():
            expected = mapper[f"ranger_{name}"][step]
            worst = float(((parameter - expected).abs() / expected.abs().max()).max())
            assert worst < 1e-13, f"{name}, step {step}: {worst}"


# ------------------------------------------------------------------------------- directions


class Sampled:
    """A generator whose pictures are the style samples of the golden data, and are their styles."""

    device = torch.device("cpu")
    noise_size = 1

    def __init__(self, golden: Golden) -> None:
        sizes, rgb = golden.arrays["style_sizes"], golden.arrays["style_is_rgb"]
        self.layout = tuple(StyleSlot(int(n), bool(c), 0, 4) for n, c in zip(sizes, rgb))
        scale = golden.input("directions:style_scale", (1, int(sizes.sum())))
        drawn = golden.input("directions:style_samples", golden.shape("style_samples"), 1, 0.5)
        self.samples = drawn * (0.2 + scale.abs())
        self.mean_latent = torch.zeros(1, dtype=torch.float64)
        self.rendered: list[Tensor] = []

    def mapping(self, z: Tensor) -> Tensor:
        return self.samples[: len(z)].double()

    def truncate(self, w: Tensor, psi: float) -> Tensor:
        return w

    def broadcast(self, w: Tensor) -> Tensor:
        return w

    def styles(self, w_plus: Tensor) -> list[Tensor]:
        return list(w_plus.split([slot.size for slot in self.layout], dim=1))

    def stages(self, styles: Sequence[Tensor], start: Activations | None = None) -> Any:
        yield Activations(
            start.index + 1 if start else 0, torch.zeros(len(styles[0]), 1, 1, 1), None
        )

    def synthesize(self, styles: Sequence[Tensor], start: Activations | None = None) -> Tensor:
        assert (start.index if start else -1) < len(self.layout)
        self.rendered.append(torch.cat(list(styles), dim=1))
        return self.rendered[-1]


@pytest.fixture(scope="module")
def sampled(directions: Golden) -> Sampled:
    return Sampled(directions)


@pytest.fixture(scope="module")
def statistics(directions: Golden, sampled: Sampled) -> StyleStatistics:
    """The stored ones, which the reference's edits were computed with."""
    mean, sigma = (sampled.styles(directions[f"style_{k}"][None]) for k in ("mean", "std"))
    return StyleStatistics(tuple(v[0] for v in mean), tuple(v[0] for v in sigma))


@pytest.fixture(scope="module")
def relevance(
    directions: Golden, sampled: Sampled, statistics: StyleStatistics
) -> ChannelRelevance:
    table = Fs3(directions["fs3"].double(), statistics)
    return table.relevance(directions["text_direction"], sampled.layout)


def test_statistics_are_the_references(directions: Golden, sampled: Sampled) -> None:
    assert directions.difference("style_samples", sampled.samples) < ROUNDING
    found: Any = run_to_end(measure_statistics(sampled, len(sampled.samples)))
    assert directions.difference("style_mean", torch.cat(found.mean)) < ROUNDING
    assert directions.difference("style_std", torch.cat(found.sigma)) < ROUNDING


class Sentences:
    """CLIP that knows the golden sentences only: 79 templates around two words."""

    def __init__(self, golden: Golden) -> None:
        templates = golden.arrays["templates"]
        base = golden.input("directions:text_base", (1, 512)).double()
        self.known = {}
        for word in ("target", "neutral"):
            shape = golden.shape(f"sentences_{word}")
            own = golden.input(f"directions:text_{word}", (1, 512), 0.3).double()
            rows = base + own + golden.input(f"directions:sentences_{word}", shape, 0.7).double()
            assert golden.difference(f"sentences_{word}", rows) < ROUNDING
            self.known |= {t.format(word): row for t, row in zip(templates, rows, strict=True)}

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        return F.normalize(torch.stack([self.known[text] for text in texts]), dim=-1)


def test_templates_and_text_direction_are_the_references(directions: Golden) -> None:
    templates = EDIT_TEMPLATES["imagenet"]
    ours = [template("{}") for template in templates.templates]
    assert ours == directions.arrays["templates"].tolist()
    clip: Any = Sentences(directions)
    found = text_direction(clip, EditPrompt("target", "neutral"), templates)
    assert directions.difference("text_direction", found) < ROUNDING


def test_relevance_and_boundaries_are_the_references(
    directions: Golden, relevance: ChannelRelevance, statistics: StyleStatistics
) -> None:
    assert directions.difference("relevance", relevance.values) < ROUNDING
    assert relevance.largest == pytest.approx(float(directions["relevance_max"]))
    found = [boundary(relevance, float(beta), statistics) for beta in directions["betas"]]
    assert [d.channels_kept for d in found] == directions["channels_kept"].tolist()
    whole = torch.stack([torch.cat(d.direction) for d in found])
    assert directions.difference("boundaries", whole) < ROUNDING
    with pytest.raises(InputError, match="would keep 1 channel"):
        boundary(relevance, relevance.largest * 1.001, statistics)


def test_auto_beta_is_the_references(directions: Golden, relevance: ChannelRelevance) -> None:
    counts = [int(relevance.kept(float(b)).sum()) for b in directions["auto_beta_grid"]]
    assert counts == directions["auto_beta_counts"].tolist()
    cases = [name for name in directions.arrays if name.startswith("auto_beta_more_than_")]
    assert cases
    for name in cases:
        more_than = int(name.rsplit("_", 1)[1])
        assert auto_beta(relevance, more_than) == pytest.approx(float(directions[name])), name


def test_rows_missing_at_the_end_are_zero_in_the_reference(
    directions: Golden, sampled: Sampled, statistics: StyleStatistics
) -> None:
    short = Fs3(directions["fs3"][: int(directions["short_rows"])].double(), statistics)
    relevance = short.relevance(directions["text_direction"], sampled.layout)
    found = torch.cat(boundary(relevance, 0.1, statistics).direction)
    assert directions.difference("boundary_short_fs3", found) < ROUNDING


def test_edits_and_chains_are_the_references(
    directions: Golden, sampled: Sampled, relevance: ChannelRelevance, statistics: StyleStatistics
) -> None:
    beta, images = float(directions["edit_beta"]), directions.config["images"]
    there = boundary(relevance, beta, statistics).direction
    opposite = ChannelRelevance(-relevance.values, relevance.layout)
    back = boundary(opposite, 0.2, statistics).direction
    samples = sampled.samples[:images].double()
    unmoved = Latent(torch.zeros(1, 1))

    def edited(latent: Latent) -> Tensor:
        return samples + torch.cat(latent.offsets)

    steps = [unmoved.moved(there, float(alpha)) for alpha in directions["alphas"]]
    whole = torch.stack([edited(step) for step in steps], dim=1)
    assert directions.difference("edited_styles", whole) < 1e-6  # a latent is float32
    chained = edited(unmoved.moved(there, 3).moved(back, 2))
    assert directions.difference("chained_styles", chained) < 1e-6


def test_rows_of_fs3_are_the_references(directions: Golden) -> None:
    shape = directions.shape("image_features")
    base = directions.input("directions:image_base", (1, shape[1], 1, shape[3]), 2).double()
    features = directions.input("directions:image_features", shape).double() + base
    assert directions.difference("image_features", features) < ROUNDING
    rows = torch.stack([secant_row(both[:, 0], both[:, 1]) for both in features])
    assert directions.difference("fs3_from_features", rows) < ROUNDING


@pytest.mark.parametrize("variant", ["fixed", "aliased"])
def test_fs3_is_measured_as_in_the_reference(
    directions: Golden, sampled: Sampled, statistics: StyleStatistics, variant: str
) -> None:
    width = sampled.samples.shape[1]
    surrogate = directions.input("directions:surrogate", (width, 512)).double()
    images = directions.config["measured_images"]
    settings = SecantSettings(
        images, directions.config["sigma"], batch=2 * images, aliased=variant == "aliased"
    )
    generator: Any = sampled
    sampled.rendered.clear()
    found = run_to_end(
        measure(generator, lambda styles: torch.tanh(styles) @ surrogate, statistics, settings)
    )
    assert directions.difference(f"fs3_{variant}", found.table) < 1e-6
    codes = torch.stack(sampled.rendered).view(-1, 2, images, width).transpose(1, 2)
    for name in directions.arrays:
        if name.startswith(f"codes_{variant}_"):
            layer, channel = map(int, name.split("_")[2:])
            before = [slot.size for slot in sampled.layout[:layer] if not slot.is_rgb]
            assert directions.difference(name, codes[sum(before) + channel]) < ROUNDING, name
    if variant == "fixed":
        for name in directions.arrays:
            if name.startswith("fs3_fixed_row_"):
                layer, channel = map(int, name.split("_")[3:])
                before = [slot.size for slot in sampled.layout[:layer] if not slot.is_rgb]
                assert directions.difference(name, found.table[sum(before) + channel]) < 1e-6, name
