"""Generators, face networks and alignment against reference implementations: `--golden DIR`.

The files are DIR/stylegan/*.npz; what their keys mean, and how closely an independent
implementation agrees, is in tests/golden/stylegan/README.md. Tensors below are compared by the
largest difference divided by the largest value.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from models.styleclip.identity import FaceIdentity
from models.stylegan.alignment import align, prepare, quad_of
from models.stylegan.checkpoints import read_generator
from models.stylegan.e4e import E4e, E4eConfig
from models.stylegan.generator import Generator, GeneratorConfig, style_layout
from models.stylegan.irse50 import Irse50, loaded
from models.stylegan.lucidrains import LucidGenerator, enlarge_rgb
from models.stylegan.rosinality import module_name
from models.stylegan.strict import layers_of
from tests.golden_stylegan import (
    ADA,
    E4E,
    GENERATOR,
    IRSE,
    LUCID,
    Golden,
    parametrize_golden,
    seeded_param,
)
from tests.stylegan_support import write_ada_pickle

# A float64 rendering takes ten seconds of a free core, and minutes of one that also trains.
pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.timeout(900)]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    parametrize_golden(metafunc, "generator_file", "generator_*.npz")
    parametrize_golden(metafunc, "large_file", "generator_256.npz")
    parametrize_golden(metafunc, "ada_file", "ada.npz")
    parametrize_golden(metafunc, "lucid_file", "lucidrains.npz")
    parametrize_golden(metafunc, "irse50_file", "irse50*.npz")
    parametrize_golden(metafunc, "e4e_file", "e4e*.npz")
    parametrize_golden(metafunc, "alignment_file", "alignment*.npz")


@dataclass(frozen=True)
class Bars:
    """How closely to agree."""

    dtype: torch.dtype
    forward: float
    gradient: float


# The stored arrays are float32 (1e-7); the README's tolerances in float32, times two.
EXACT = Bars(torch.float64, 1e-6, 1e-6)
SINGLE = Bars(torch.float32, 4e-6, 1e-4)
EVERY_PRECISION = pytest.mark.parametrize("bars", [EXACT, SINGLE], ids=["float64", "float32"])


class Checks:
    """Collects what disagrees, so that one failing array does not hide the others."""

    def __init__(self, golden: Golden, prefix: str = "") -> None:
        self._golden, self._prefix = golden, prefix
        self.compared: list[str] = []
        self.wrong: dict[str, float] = {}

    def close(self, name: str, ours: Tensor | Sequence[Tensor], bar: float) -> None:
        together = ours if isinstance(ours, Tensor) else torch.cat(list(ours), dim=1)
        difference = self._golden.difference(self._prefix + name, together)
        self.compared.append(name)
        if not difference <= bar:  # NaN is wrong, too
            self.wrong[name] = difference


def objective(image: Tensor, probe: Tensor) -> Tensor:
    return (image * probe).mean() + 0.1 * image.square().mean()


def split(flat: Tensor, generator: Any) -> list[Tensor]:
    return list(flat.split([slot.size for slot in generator.layout], dim=1))


# ------------------------------------------------------------------------ StyleGAN2 (rosinality)


@pytest.fixture(scope="module")
def generators(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Golden], Generator]:
    """Built from a rosinality file that holds the golden weights, as a user's would be."""
    made: dict[str, Generator] = {}

    def generator_of(golden: Golden) -> Generator:
        if golden.name not in made:
            path = tmp_path_factory.mktemp("rosinality") / f"{golden.name}.pt"
            mean = golden["mean_latent"].flatten()
            torch.save({"g_ema": golden.state(GENERATOR), "latent_avg": mean}, path)
            made[golden.name] = read_generator(path).generator
            path.unlink()
        return made[golden.name]

    return generator_of


def generator_input(golden: Golden, name: str, scale: float = 1.0) -> Tensor:
    shape = golden.config["inputs"][name]
    return golden.input(f"{golden.name}:{name}", shape, scale)


@EVERY_PRECISION
def test_the_generator_is_the_reference(
    generator_file: Golden, bars: Bars, generators: Callable[[Golden], Generator]
) -> None:
    golden, checks = generator_file, Checks(generator_file)
    generator = generators(golden).to(bars.dtype)
    assert generator.size == golden.config["size"]
    assert generator.rows == golden.config["n_latent"]
    z = generator_input(golden, "z").to(bars.dtype)
    w = generator.mapping(z)
    checks.close("w", w, bars.forward)
    z_mean = generator_input(golden, "z_mean").to(bars.dtype)
    checks.close("mean_latent", generator.mapping(z_mean).mean(0, keepdim=True), bars.forward)

    generator.mean_latent.copy_(generator.mapping(z_mean).mean(0))  # in this precision
    w = generator.truncate(w, float(golden["truncation"]))
    checks.close("w_truncated", w, bars.forward)
    checks.close("image_z", generator(generator.broadcast(w)), bars.forward)

    delta = generator_input(golden, "delta", 0.3).to(bars.dtype)
    # The reference rounded W+ to float32 once, in float64 runs too: a gradient that sits on a kink
    # of the leaky ReLU shows it.
    w_plus = (generator.broadcast(w) + delta).float().to(bars.dtype).requires_grad_()
    checks.close("w_plus", w_plus, bars.forward)
    styles = generator.styles(w_plus)
    checks.close("styles", styles, bars.forward)
    for stage, layer in zip(generator.stages(styles), layers_of(generator.config)):
        after = stage.rgb if layer.is_rgb else stage.features
        assert after is not None
        checks.close(f"feature_{module_name(layer)}", after, bars.forward)
    image = stage.rgb
    assert image is not None
    checks.close("image", image, bars.forward)

    probe = generator_input(golden, "probe").to(bars.dtype)
    value = objective(image, probe)
    checks.close("objective", value, bars.gradient)
    found = torch.autograd.grad(value, [w_plus, *styles])
    checks.close("grad_w_plus", found[0], bars.gradient)
    checks.close("grad_styles", found[1:], bars.gradient)
    assert checks.wrong == {}
    features = {key for key in golden.arrays if key.startswith("feature_")}
    assert {key.rsplit("_", 1)[0] for key in features if key.endswith("_shape")} | {
        key for key in features if not key.endswith(("_shape", "_stats", "_sample"))
    } <= set(checks.compared)


@torch.no_grad()
def test_edits_in_style_space_and_no_noise(
    generator_file: Golden, generators: Callable[[Golden], Generator]
) -> None:
    """In float32 only: a float64 rendering of 256 px takes as long as the rest together."""
    golden, checks = generator_file, Checks(generator_file)
    generator = generators(golden).float()
    styles = generator.styles(golden["w_plus"])
    delta = generator_input(golden, "delta_s", 0.2)
    edited = [s + d for s, d in zip(styles, split(delta, generator))]
    checks.close("styles_edited", edited, SINGLE.forward)
    checks.close("image_styles_edited", generator.synthesize(edited), SINGLE.forward)
    checks.close("image_no_noise", generator.synthesize(styles, noise=[]), SINGLE.forward)
    assert checks.wrong == {}


def test_the_layout_of_style_space(
    generator_file: Golden, generators: Callable[[Golden], Generator]
) -> None:
    layout = generators(generator_file).layout
    assert [slot.size for slot in layout] == generator_file["style_sizes"].tolist()
    assert [slot.is_rgb for slot in layout] == generator_file["style_is_rgb"].tolist()
    assert [slot.row for slot in layout] == generator_file["style_latent_index"].tolist()


def test_the_layout_at_1024_px_is_that_of_the_official_checkpoint(large_file: Golden) -> None:
    """The key list of the 1024 px file, its shapes, and 9088 numbers in 26 vectors."""
    keys = [str(key) for key in large_file.arrays["state_keys_1024"]]
    rows = large_file.arrays["state_shapes_1024"]
    shapes = {key: tuple(int(n) for n in row if n >= 0) for key, row in zip(keys, rows)}
    config = GeneratorConfig.ffhq(1024)
    layers = list(layers_of(config))
    for layer in layers:
        weight = (1, layer.outputs, layer.inputs, layer.kernel, layer.kernel)
        assert shapes.pop(f"{module_name(layer)}.conv.weight") == weight
    rest = r"\.(kernel|bias|modulation\.weight|noise\.weight)$|^(style|noises|input)\."
    assert [key for key in shapes if not re.search(rest, key)] == []
    sizes = [slot.size for slot in style_layout(config)]
    assert (len(sizes), sum(sizes)) == (26, 9088)
    assert sum(s.size for s in style_layout(config) if not s.is_rgb) == 6048


# --------------------------------------------------------------------------- StyleGAN2-ADA (.pkl)


@pytest.fixture(scope="module")
def ada_generator(ada_file: Golden, tmp_path_factory: pytest.TempPathFactory) -> Generator:
    path = tmp_path_factory.mktemp("ada") / "network-snapshot.pkl"
    write_ada_pickle(path, ada_file.state(ADA), ada_file.config["kwargs"])
    found = read_generator(path)
    assert isinstance(found.generator, Generator)
    path.unlink()
    return found.generator


@EVERY_PRECISION
@torch.no_grad()
def test_ada_is_the_reference(ada_file: Golden, ada_generator: Generator, bars: Bars) -> None:
    golden, checks = ada_file, Checks(ada_file)
    generator = ada_generator.to(bars.dtype)
    synthesis = golden.config["kwargs"]["synthesis_kwargs"]
    assert generator.config.clamp == synthesis["conv_clamp"]
    assert generator.rows == golden.config["num_ws"]
    w = generator.mapping(golden.input("ada:z", golden.shape("z")).to(bars.dtype))
    checks.close("w", w, bars.forward)
    psi = float(golden.config["truncation"])
    truncated = generator.truncate(w, psi)
    checks.close("w_truncated", truncated, bars.forward)
    partly = generator.truncate(generator.broadcast(w), psi, cutoff=8)
    checks.close("w_truncated_cutoff_8", partly[:1, [0, 7, 8, 9]], bars.forward)
    checks.close("image_z", generator(generator.broadcast(truncated)), bars.forward)
    delta = golden.input("ada:delta", golden.shape("w_plus"), 0.3).to(bars.dtype)
    w_plus = generator.broadcast(truncated) + delta
    styles = generator.styles(w_plus)
    checks.close("w_plus", w_plus, bars.forward)
    checks.close("styles", styles, bars.forward)
    assert [slot.size for slot in generator.layout] == golden["style_sizes"].tolist()
    for stage, slot in zip(generator.stages(styles), generator.layout):
        if slot.is_rgb:
            assert stage.rgb is not None
            checks.close(f"feature_x_{slot.resolution}", stage.features, bars.forward)
            checks.close(f"feature_img_{slot.resolution}", stage.rgb, bars.forward)
    assert stage.rgb is not None
    checks.close("image", stage.rgb, bars.forward)
    checks.close("image_no_noise", generator.synthesize(styles, noise=[]), bars.forward)
    assert checks.wrong == {}


# ------------------------------------------------------------------------------------- lucidrains


def lucid_generator(golden: Golden, model: str, folder: Path) -> LucidGenerator:
    """Read from a checkpoint with networks besides the averaged ones, and the options next to it,
    as training leaves them."""
    averaged = golden.state(LUCID, prefix=f"{model}_")
    other = {"S.net.0.weight": torch.zeros(1), "D_aug.D.to_logit.bias": torch.zeros(1)}
    path = folder / "model_3.pt"
    torch.save({"GAN": averaged | other, "version": "1.9.0"}, path)
    options = golden.config["models"][model]
    told = {key: value for key, value in options.items() if key not in ("batch", "num_layers")}
    (folder / ".config.json").write_text(json.dumps(told | {"lr_mlp": golden.config["lr_mlp"]}))
    generator = read_generator(path).generator
    assert isinstance(generator, LucidGenerator)
    return generator


@EVERY_PRECISION
def test_lucidrains_generators_are_the_reference(
    lucid_file: Golden, bars: Bars, tmp_path: Path
) -> None:
    for model, options in lucid_file.config["models"].items():
        folder = tmp_path / model
        folder.mkdir()
        generator = lucid_generator(lucid_file, model, folder).to(bars.dtype)
        assert generator.size == options["image_size"]
        wrong = lucid_differences(lucid_file, model, generator, bars)
        assert wrong == {}, model


def lucid_differences(
    golden: Golden, model: str, generator: LucidGenerator, bars: Bars
) -> dict[str, float]:
    checks, batch = Checks(golden, f"{model}_"), golden.config["models"][model]["batch"]
    side, width, rows = generator.size, generator.latent_size, generator.rows

    def drawn(name: str, shape: tuple[int, ...], scale: float = 1.0, offset: float = 0.0) -> Tensor:
        return golden.input(f"lucidrains:{model}:{name}", shape, scale, offset).to(bars.dtype)

    mean = generator.mapping(drawn("z_mean", (64, width))).mean(0)
    checks.close("mean_latent", mean[None], bars.forward)
    generator.mean_latent.copy_(mean)
    w = generator.mapping(drawn("z", (batch, width)))
    checks.close("w", w[: golden.shape(f"{model}_w")[0]], bars.forward)
    w = generator.truncate(w, golden.config["truncation"])
    picture = drawn("noise", (batch, side, side, 1), 0.25, 0.5).clamp(0, 1)
    checks.close("noise", picture, bars.forward)
    noise = [picture.permute(0, 3, 2, 1)]  # transposed: the package's own axis order
    delta = drawn("delta", (batch, rows, width), 0.02)
    w_plus = (generator.broadcast(w) + delta).requires_grad_()
    checks.close("w_plus", w_plus, bars.forward)
    styles = generator.styles(w_plus)
    first = len(generator.layout) - len(generator.layers)  # the mean of W+, without a constant
    checks.close("styles", styles[first:], bars.forward)
    sizes = [slot.size for slot in generator.layout][first:]
    assert sizes == golden[f"{model}_style_sizes"].tolist()
    block_before = None
    for stage in generator.stages(styles, noise):
        slot, part = generator.layout[stage.index], (stage.index - first) % 3
        if part == 0 and slot.row in generator.config.attention:
            attended = generator.attention[str(slot.row)](block_before)
            checks.close(f"feature_attention_{slot.row}", attended, bars.forward)
        if slot.is_rgb:
            assert stage.rgb is not None
            last = slot.row == rows - 1
            colours = stage.rgb if last else enlarge_rgb(stage.rgb)
            checks.close(f"feature_rgb_{slot.row}", colours, bars.forward)
            checks.close(f"feature_block_{slot.row}", stage.features, bars.forward)
            block_before = stage.features
    image = stage.rgb
    assert image is not None
    checks.close("image", image, bars.forward)
    value = objective(image, drawn("probe", tuple(image.shape)))
    checks.close("objective", value, bars.gradient)
    found = torch.autograd.grad(value, [w_plus, *styles[first:]])
    # At the kinks of the leaky ReLU single float32 samples differ by 8e-4, the README says.
    bar = bars.gradient if bars is EXACT else 2e-3
    checks.close("grad_w_plus", found[0], bar)
    checks.close("grad_styles", found[1:], bar)
    *_, end = generator.stages(generator.styles(generator.broadcast(w)), noise)
    assert end.rgb is not None
    checks.close("image_z", end.rgb, bars.forward)
    return checks.wrong


# ------------------------------------------------------------------------------ faces (IR-SE50)


@pytest.fixture(scope="module")
def face_networks() -> Callable[[Golden], Irse50]:
    made: dict[str, Irse50] = {}

    def network_of(golden: Golden) -> Irse50:
        if golden.name not in made:
            made[golden.name] = loaded(Irse50, golden.state(IRSE), Path(golden.name))
        return made[golden.name]

    return network_of


@EVERY_PRECISION
def test_the_face_network_is_the_reference(
    irse50_file: Golden, bars: Bars, face_networks: Callable[[Golden], Irse50]
) -> None:
    golden, checks = irse50_file, Checks(irse50_file)
    network = face_networks(golden).to(bars.dtype)
    x = golden.image("irse50:image", golden.config["inputs"]["image"])
    checks.close("image", x, 1e-6)
    image = x = x.to(bars.dtype)
    x = network.input_layer(x)
    checks.close("feature_input_layer", x, bars.forward)
    for index, unit in enumerate(network.body):
        x = unit(x)
        if f"feature_body_{index}" in golden:
            checks.close(f"feature_body_{index}", x, bars.forward)
    checks.close("feature_before_norm", network.features(image), bars.forward)
    checks.close("embedding", network(image), bars.forward)
    network.float()
    assert not checks.wrong
    assert len(checks.compared) > 5


@EVERY_PRECISION
def test_the_identity_loss_is_the_reference(
    irse50_file: Golden, bars: Bars, face_networks: Callable[[Golden], Irse50]
) -> None:
    golden, checks = irse50_file, Checks(irse50_file)
    identity = FaceIdentity(face_networks(golden).to(bars.dtype))
    sizes = sorted(
        int(found[1]) for key in golden.arrays if (found := re.fullmatch(r"id_(\d+)_loss", key))
    )
    # But for the crop all sizes are one computation; in float64 the smallest stands for them.
    for size in sizes[:1] if bars is EXACT else sizes:
        batch = golden.shape(f"id_{size}_embedding")[0]
        original = golden.image(f"irse50:y_{size}", (batch, 3, size, size)).to(bars.dtype)
        other = golden.image(f"irse50:y_hat_{size}", (batch, 3, size, size)).to(bars.dtype)
        image = (0.5 * original + 0.5 * other).requires_grad_()
        checks.close(f"id_{size}_crop", identity.crop(original), bars.forward)
        checks.close(f"id_{size}_embedding", identity.embed(original), bars.forward)
        checks.close(f"id_{size}_embedding_hat", identity.embed(image), bars.forward)
        loss = identity.loss(image, original)
        assert float(loss.detach()) == pytest.approx(float(golden[f"id_{size}_loss"]), rel=1e-5)
        (gradient,) = torch.autograd.grad(loss, image)
        # At the kinks of PReLU single float32 samples differ by 4e-3, the README says.
        bar = bars.gradient if bars is EXACT else 8e-3
        checks.close(f"id_{size}_grad_y_hat", gradient, bar)
    identity.network.float()
    assert not checks.wrong
    assert sizes


# ------------------------------------------------------------------------------------------ e4e


def test_the_encoder_is_the_reference(e4e_file: Golden) -> None:
    golden, checks = e4e_file, Checks(e4e_file)
    rows, side = golden.config["n_styles"], golden.config["size"]
    state = golden.state(E4E, strip="encoder.")
    encoder_state = {key.removeprefix("encoder."): value for key, value in state.items()}
    average = seeded_param(E4E, "latent_avg", golden.shape("latent_avg"), golden.seed)
    encoder_state["latent_avg"] = torch.from_numpy(average)
    encoder = loaded(lambda: E4e(E4eConfig.official(rows)), encoder_state, Path(golden.name))
    assert encoder.config.image_size == side
    image = golden.image("e4e:image", golden.config["inputs"]["image"])

    levels = encoder.pyramid(image)
    first_rows = [min(r for r in range(rows) if encoder.config.level(r) == n) for n in range(3)]
    for level, row in zip(levels, first_rows):
        checks.close(f"feature_style_input_{row}", level, SINGLE.forward)
    for row, head in enumerate(encoder.styles):
        if f"feature_style_output_{row}" in golden:
            output = head(levels[encoder.config.level(row)])
            checks.close(f"feature_style_output_{row}", output, SINGLE.forward)
    codes = encoder.codes(image)[0]
    checks.close("codes", codes, SINGLE.forward)
    checks.close("latent_avg", encoder.latent_avg, SINGLE.forward)
    checks.close("w_plus", codes + encoder.latent_avg, SINGLE.forward)
    assert not checks.wrong
    assert len(checks.compared) > 8


# ------------------------------------------------------------------------------------- alignment


def test_the_aligned_face_is_the_reference(alignment_file: Golden) -> None:
    golden, arrays = alignment_file, alignment_file.arrays
    size = golden.config["output_size"]
    cases = [name.removesuffix("_landmarks") for name in arrays if name.endswith("_landmarks")]
    for case in cases:
        landmarks = arrays[f"{case}_landmarks"]
        height, width = arrays[f"{case}_image_hw"]
        drawn = golden.image(f"alignment:{case}", (1, 3, height, width))[0].permute(1, 2, 0)
        picture = Image.fromarray(np.rint((drawn.numpy() + 1) * 127.5).astype(np.uint8))
        assert quad_of(landmarks) == pytest.approx(arrays[f"{case}_quad"], abs=1e-9)
        prepared, quad = prepare(picture, landmarks, size)
        assert prepared.size == tuple(arrays[f"{case}_last_size_wh"])
        assert quad.ravel() + 0.5 == pytest.approx(arrays[f"{case}_last_quad"], abs=1e-9)
        aligned = np.asarray(align(picture, landmarks, size))
        assert np.array_equal(aligned[::2, ::2], arrays[f"{case}_aligned"]), case
        found = [aligned.mean(), aligned.std(), aligned.min(), aligned.max()]
        assert found == pytest.approx(arrays[f"{case}_aligned_stats"], rel=1e-12)
    assert cases
