"""How good stylegan2-mini's pictures are, and how well it finds a picture's latent again.

- The Fréchet distance (Heusel et al. 2017, eq. 6) in clip-mini's features, in units of what two
  samples of the world itself lie apart. The generator learnt with clip-mini's features, so the
  same ratio is told in those of clip-judge too, which taught it nothing.
- The generator's z is the world's own latent, so for every picture it is known what was meant:
  clip-mini's answers about it are compared with the attributes of that z.
- Pictures nobody trained on are inverted, by the encoder alone and with optimisation steps.
"""

import math
import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import to_pil_image

from models.catalog import ASSETS
from models.clip import ClipEncoder, load_mini
from models.clip.layers import ClipLayers, layer_distance
from models.jobs import run_to_end
from models.stylegan.checkpoints import load_generator
from models.stylegan.e4e import E4e, E4eConfig, load_e4e
from models.stylegan.generator import Generator, to_pixels
from models.stylegan.inversion import InversionSettings, invert
from training.avatar_judge import as_tensor, load_judge
from training.avatar_judge import measure as measure_readings
from training.clip_evaluation import Figure, features
from training.stylegan import latent_batch
from training.world import avatars

GENERATOR = "model.safetensors"
ENCODER = ASSETS / "e4e-mini" / "model.safetensors"
SHEET = ASSETS.parent / "readme" / "stylegan2-mini.jpg"
SEED = 661_000  # training draws its own z and avatars from other seeds
SAMPLES = 5_000
BATCH = 50


# -------------------------------------------------------------------------------------- pictures


@torch.inference_mode()
def generate(generator: Generator, z: NDArray[np.floating]) -> NDArray[np.uint8]:
    """(N, noise_size) -> (N, H, W, 3) pictures, untruncated, with the fixed noise."""
    parts = []
    for part in torch.from_numpy(z.astype(np.float32)).split(BATCH):
        w = generator.mapping(part.to(generator.mean_latent))
        image = generator.synthesize(generator.styles(generator.broadcast(w)))
        parts.append(to_pixels(image).numpy())
    return np.concatenate(parts)


def contact_sheet(rows: Sequence[NDArray[np.uint8]]) -> Image.Image:
    """Rows of equally many pictures of one size, (N, H, W, 3) each, without gaps."""
    return Image.fromarray(np.concatenate([np.concatenate(list(row), axis=1) for row in rows]))


# ------------------------------------------------------------------------------- Fréchet distance


def frechet_distance(first: Tensor, second: Tensor) -> float:
    """Fréchet distance of two samples, each taken for a normal distribution.

    |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)), in float64; the root's trace comes from the
    symmetric C1^(1/2) C2 C1^(1/2), which has the same eigenvalues as C1 C2 and real ones always.

    Args:
        first, second: (N, D) and (M, D).
    """
    first, second = first.double(), second.double()
    shift = (first.mean(0) - second.mean(0)).square().sum()
    one, two = torch.cov(first.T).view(first.shape[1], -1), torch.cov(second.T)
    root = _symmetric_root(one)
    product = root @ two.view_as(one) @ root
    crossing = torch.linalg.eigvalsh(product).clamp(min=0).sqrt().sum()
    return float(shift + one.trace() + two.view_as(one).trace() - 2 * crossing)


def _symmetric_root(matrix: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values.clamp(min=0).sqrt()) @ vectors.T


def distances(
    encoders: Sequence[ClipEncoder], generator: Generator, count: int = SAMPLES
) -> Iterator[Figure]:
    """Generated against drawn, drawn against drawn, and their ratio; no avatar comes up twice.

    Args:
        encoders: in whose features; the first one's ratio has a bar.
    """

    def sampled(seed: int) -> Iterator[NDArray[np.uint8]]:
        for looks in np.array_split(avatars.sample(count, seed), pieces):
            yield avatars.draw_batch(looks, generator.size)

    pieces = max(1, count // 500)
    made = (generate(generator, z) for z in np.array_split(latent_batch(count, SEED + 2), pieces))
    first, second, ours = (
        _looked_at(encoders, some) for some in (sampled(SEED), sampled(SEED + 1), made)
    )
    for place, encoder in enumerate(encoders):
        real = frechet_distance(first[place], second[place])
        found = frechet_distance(ours[place], first[place])
        where = f"in the features of {encoder.name}"
        # Features are unit vectors, so distances are thousandths.
        yield Figure(f"Fréchet distance {where}, {count} generated to {count} drawn",
                     1000 * found, None, "e-3")  # fmt: skip
        yield Figure(f"the same, {count} drawn to {count} others", 1000 * real, None, "e-3")
        yield Figure(f"their ratio {where}", found / real, None if place else 1.5, "x", True)


def _looked_at(
    encoders: Sequence[ClipEncoder], pictures: Iterable[NDArray[np.uint8]]
) -> list[Tensor]:
    """Features of all pictures, one (N, D) for each encoder."""
    rows = [[features(e, as_tensor(some)) for e in encoders] for some in pictures]
    return [torch.cat(parts) for parts in zip(*rows, strict=True)]


# ------------------------------------------------------------------------------ what is read there


class Questions:
    """clip-mini's two-way questions about avatars, answered by the mean of all wordings."""

    def __init__(self, encoder: ClipEncoder) -> None:
        self.names = tuple(n for n in avatars.NAMES if avatars.two_way_phrases(n))
        self.axes = torch.stack([self._axis(encoder, name) for name in self.names])  # (Q, D)

    @staticmethod
    def _axis(encoder: ClipEncoder, name: str) -> Tensor:
        pairs = avatars.two_way_phrases(name)
        positive = encoder.encode_text([yes for yes, _ in pairs])
        return (positive - encoder.encode_text([no for _, no in pairs])).mean(0)

    def agreement(self, image: Tensor, looks: NDArray[np.floating]) -> dict[str, float]:
        """Share of right answers where the truth is plain, both sides weighing the same.

        Args:
            image: (N, D) features.
            looks: (N, A) what the pictures should show.

        Returns:
            name -> [0, 1]; a name is missing when one of its sides never occurs.
        """
        said = image @ self.axes.T > 0  # (N, Q)
        truths = [avatars.truth(look) for look in looks]
        shares = {}
        for column, name in enumerate(self.names):
            sides = []
            for side in (True, False):
                rows = torch.tensor([truth.get(name) is side for truth in truths])
                if rows.any():
                    sides.append(float((said[rows, column] == side).float().mean()))
            if len(sides) == 2:
                shares[name] = statistics.fmean(sides)
        return shares


def _seen(encoder: ClipEncoder, pictures: NDArray[np.uint8]) -> Tensor:
    return features(encoder, as_tensor(pictures))


def read_outs(
    encoder: ClipEncoder, generator: Generator, count: int = 2_000, strongest: int = 10
) -> Iterator[Figure]:
    """Agreement of clip-mini's answers about generator(z) with the attributes of z.

    The strongest attributes are those that clip-mini answers best on drawn pictures of another
    seed. Beside each stands its agreement on the drawn pictures of the same z: the ceiling.
    """
    questions = Questions(encoder)
    chosen = avatars.sample(count, SEED + 3)
    on_drawn = questions.agreement(
        _seen(encoder, avatars.draw_batch(chosen, generator.size)), chosen
    )
    names = sorted(on_drawn, key=on_drawn.__getitem__, reverse=True)[:strongest]
    z = latent_batch(count, SEED + 4)
    looks, pictures = avatars.latent_to_attributes(z), generate(generator, z)
    found = questions.agreement(_seen(encoder, pictures), looks)
    ceiling = questions.agreement(_seen(encoder, avatars.draw_batch(looks, generator.size)), looks)
    for title, answers, bar in (("generated", found, 90.0), ("drawn", ceiling, None)):
        mean = 100 * statistics.fmean(answers[name] for name in names)
        yield Figure(f"clip-mini agrees, {strongest} strongest attributes, {title}", mean, bar)
    for name in names:
        yield Figure(f"generated: {name.replace('_', ' ')}", 100 * found[name], None)
    readings = measure_readings(load_judge().read(as_tensor(pictures)), looks)
    sides = [reading.sides for reading in readings if not math.isnan(reading.sides)]
    yield Figure(
        f"the avatar judge agrees, mean of {len(sides)} attributes", 100 * statistics.fmean(sides),
        None,
    )  # fmt: skip


# ------------------------------------------------------------------------------------- inversion


def psnr(found: Tensor, wanted: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each picture, dB.

    Args:
        found, wanted: (N, 3, H, W), in [0, 1].

    Returns:
        (N,), infinite for equal pictures.
    """
    return -10 * (found - wanted).square().flatten(1).mean(1).log10()


@torch.inference_mode()
def feature_distance(encoder: ClipEncoder, found: Tensor, wanted: Tensor) -> Tensor:
    """LPIPS-like distance in an encoder's features, see `models.clip.layers`.

    Args:
        found, wanted: (N, 3, H, W), in [0, 1].

    Returns:
        (N,), in [0, 4 * stages].
    """
    layers = ClipLayers(encoder)
    parts = [
        layer_distance(layers(a * 2 - 1), layers(b * 2 - 1))
        for a, b in zip(found.split(BATCH), wanted.split(BATCH), strict=True)
    ]
    return torch.cat(parts)


Way = Callable[[Tensor], Tensor]  # (N, 3, H, W) in [0, 1] -> the generator's (N, 3, H, W)


def inversions(
    encoder: ClipEncoder, ways: Sequence[tuple[str, Way, float | None]], size: int,
    count: int = 200,
) -> Iterator[Figure]:  # fmt: skip
    """How near inverted pictures come to avatars that nobody trained on.

    Args:
        encoder: whose features tell the perceptual distance.
        ways: a name, what it makes of pictures, and the bar on its PSNR in dB.
        size: of the avatars, pixels.
    """
    wanted = as_tensor(avatars.draw_batch(avatars.sample(count, SEED + 5), size))
    others = feature_distance(encoder, wanted, wanted.roll(1, 0)).mean()
    yield Figure("feature distance of two different avatars", float(others), None, "")
    for name, way, bar in ways:
        found = way(wanted).clamp(0, 1)
        yield Figure(f"inversion of {count} unseen avatars, {name}: PSNR",
                     float(psnr(found, wanted).mean()), bar, "dB")  # fmt: skip
        distance = feature_distance(encoder, found, wanted).mean()
        yield Figure(f"{name}: feature distance", float(distance), None, "")


def ways(
    generator: Generator, encoder: E4e, clip: ClipEncoder, steps: int = 50
) -> tuple[tuple[str, Way, float | None], ...]:
    """The encoder alone, and followed by so many steps in W+ on pixels and features of `clip`."""

    @torch.inference_mode()
    def encode(pictures: Tensor) -> Tensor:
        parts = [generator(encoder(part * 2 - 1)) for part in pictures.split(BATCH)]
        return (torch.cat(parts) + 1) / 2

    def refine(pictures: Tensor) -> Tensor:
        layers, settings = ClipLayers(clip), InversionSettings(steps=steps)
        found = []
        for picture in pictures:
            image = to_pil_image(picture)
            latent = run_to_end(invert(generator, encoder, image, settings, layers))
            with torch.inference_mode():
                found.append(generator.synthesize(latent.styles(generator)))
        return (torch.cat(found) + 1) / 2

    return (("the encoder alone", encode, 22.0), (f"after {steps} steps", refine, 25.0))


# ------------------------------------------------------------------------------------ all together


def evaluate(directory: Path) -> Iterator[Figure]:
    """All figures of the generator in a folder and of its encoder; saves twenty pictures, two rows of
    ten, each above what the world draws for the same latents."""
    generator = load_generator(directory / GENERATOR)
    mini, judge = (
        load_mini(ASSETS / name, torch.device("cpu"), torch.float32)
        for name in ("clip-mini", "clip-judge")
    )
    rows = []
    for z in np.split(latent_batch(20, SEED + 6), 2):
        drawn = avatars.draw_batch(avatars.latent_to_attributes(z), generator.size)
        rows += [generate(generator, z), drawn]
    contact_sheet(rows).save(SHEET, quality=88)
    yield from distances([mini, judge], generator)
    yield from read_outs(mini, generator)
    encoder = load_e4e(ENCODER, E4eConfig.mini())
    yield from inversions(mini, ways(generator, encoder, mini), generator.size)
