"""Train stylegan2-mini, which draws the world's avatars: `python -m training.stylegan`.

The world maps a latent z to attributes and those to a picture, so the generator need not find its
own way to faces: it is regressed on pairs (z, picture), drawn anew in every step. In order:

1. the mapping network alone (a minute): along fixed orthogonal axes w tells the attributes, all
   equally loud. Straight directions are what editing wants, and what w tells faintly the synthesis
   network learns late. Then the mapping is frozen.
2. the synthesis network on pairs, at a quarter, at half and at full size: L1 at several
   resolutions and a distance in clip-mini's features (after Zhang et al. 2018, LPIPS), of the
   whole picture and of crops at full size.
3. if asked for (`--adversarial STEPS`), the same with StyleGAN2's adversarial objective on top
   (Karras et al. 2020: non-saturating logistic loss, lazy R1 every 16 steps, equalised rates).
   Path length regularisation is left out: stage 1 does its work, and it costs a second backward
   pass. The embedded weights are those of stage 2: a critic needs hours that two cores lacked.

The weights are an exponential moving average. An interrupted run continues from its checkpoint.
"""

import argparse
import json
import math
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from models.catalog import ASSETS
from models.clip import ClipEncoder, load_mini
from models.stylegan.generator import SLOPE, Generator, GeneratorConfig, to_pixels
from training.run import Parts, read_checkpoint, save_checkpoint, write_plan
from training.world import avatars

R1_EVERY = 16
HUES = ("dye_hue", "hat_hue", "background_hue", "clothing_hue")


@dataclass(frozen=True)
class StyleganTraining:
    """Everything that decides a run.

    Attributes:
        mapping_steps: of stage 1, with batches of 512 latents.
        quarter_size, half_size, full_size: steps of stage 2 at each size.
        adversarial: steps of stage 3.
        feature_weight, adversarial_weight, r1_weight: of the losses.
        rate: Adam's, warmed up, decayed to a twentieth by a cosine over stage 2 and left there. High,
            as weights of variance 1 need (equalised rates).
        average: decay of the moving average a step.
    """

    batch: int = 16
    mapping_steps: int = 8_000
    quarter_size: int = 3_500
    half_size: int = 5_500
    full_size: int = 1_800
    adversarial: int = 0
    rate: float = 2e-2
    critic_rate: float = 2e-3
    feature_weight: float = 1.0
    adversarial_weight: float = 0.02
    r1_weight: float = 2.0
    average: float = 0.998
    seed: int = 2026

    @property
    def steps(self) -> int:
        return self.regression + self.adversarial

    @property
    def regression(self) -> int:
        """Steps of stage 2."""
        return self.quarter_size + self.half_size + self.full_size

    def halvings(self, step: int) -> int:
        """How often the picture is halved at a step."""
        if step < self.quarter_size:
            return 2
        return 1 if step < self.quarter_size + self.half_size else 0

    @staticmethod
    def smoke() -> "StyleganTraining":
        """Under a minute: every stage, a few steps each."""
        return StyleganTraining(
            batch=4,
            mapping_steps=50,
            quarter_size=4,
            half_size=4,
            full_size=4,
            adversarial=R1_EVERY + 2,
        )


# ------------------------------------------------------------------------------------ the pairs


def latent_batch(count: int, seed: int) -> np.ndarray:
    """(count, LATENT_SIZE) float32 latents as the generator sees them: of length sqrt(size)."""
    z = np.random.default_rng(seed).standard_normal((count, avatars.LATENT_SIZE))
    return (z / np.sqrt((z**2).mean(axis=1, keepdims=True))).astype(np.float32)


@dataclass(frozen=True)
class Pairs:
    """Latents (B, 64) and pictures (B, 3, H, W) in [-1, 1]."""

    z: Tensor
    pictures: Tensor


def attribute_axes(attributes: np.ndarray) -> Tensor:
    """(B, A) attributes -> (B, A + H) what w tells: hues, which go round, as two numbers."""
    hue_columns = [avatars.NAMES.index(name) for name in HUES]
    angles = 2 * math.pi * attributes[:, hue_columns]
    plain = np.delete(attributes, hue_columns, axis=1) * 2 - 1
    return torch.from_numpy(
        np.concatenate([plain, np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    )


class AttributeSpace:
    """What stage 1 asks of w: along fixed orthogonal axes of W it tells the attributes, each with
    variance `GAIN` squared. The rest of w is free, as the last layer's leaky ReLU needs."""

    GAIN = 2.0

    def __init__(self, latent_size: int, seed: int) -> None:
        samples = attribute_axes(avatars.latent_to_attributes(latent_batch(8192, seed)))
        self._mean, self._deviation = samples.mean(dim=0), samples.std(dim=0)
        normal = np.random.default_rng(seed).standard_normal((latent_size, samples.shape[1]))
        self._axes = torch.from_numpy(np.linalg.qr(normal)[0].astype(np.float32))  # (D, A + H)

    def error(self, w: Tensor, attributes: np.ndarray) -> Tensor:
        """Mean squared error of the told attributes, in units of their variance."""
        wanted = (attribute_axes(attributes) - self._mean) / self._deviation
        told = w @ self._axes.to(w) / self.GAIN  # (B, A + H)
        return F.mse_loss(told, wanted.to(w))


def draw_pairs(count: int, seed: int, size: int) -> Pairs:
    z = latent_batch(count, seed)
    attributes = avatars.latent_to_attributes(z)
    drawn = torch.from_numpy(avatars.draw_batch(attributes, size))  # (B, H, W, 3)
    pictures = drawn.permute(0, 3, 1, 2).float() / 127.5 - 1
    return Pairs(torch.from_numpy(z), pictures)


# ------------------------------------------------------------------------------------- the losses


class FeatureDistance:
    """LPIPS-like distance: unit features of clip-mini's stages, compared place by place, and the
    cosine distance of the whole embedding."""

    STAGES = ("maxpool", "layer1", "layer2", "layer3", "layer4")

    def __init__(self, clip: ClipEncoder) -> None:
        self.clip = clip
        self._features: list[Tensor] = []
        trunk = clip.model.visual.trunk  # type: ignore[union-attr]
        for name in self.STAGES:
            stage = getattr(trunk, name, None)
            if isinstance(stage, nn.Module):
                stage.register_forward_hook(self._keep)  # type: ignore[arg-type]

    def _keep(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        self._features.append(output)

    def _look(self, pictures: Tensor) -> tuple[list[Tensor], Tensor]:
        self._features.clear()
        pixels = self.clip.normalize((pictures + 1) / 2)
        with torch.autocast(pictures.device.type, torch.bfloat16):
            embedding = self.clip.model.encode_image(pixels)  # type: ignore[operator]
        return list(self._features), F.normalize(embedding.float(), dim=1)

    def __call__(self, drawn: Tensor, real: Tensor) -> Tensor:
        """Mean over the batch; (B, 3, H, W) both, in [-1, 1]."""
        with torch.no_grad():
            wanted, wanted_embedding = self._look(real)
        found, embedding = self._look(drawn)
        total = (1 - (embedding * wanted_embedding).sum(dim=1)).mean()
        for a, b in zip(found, wanted):
            distance = F.normalize(a.float(), dim=1) - F.normalize(b.float(), dim=1)
            total = total + distance.square().sum(dim=1).mean()
        return total


def pixel_loss(drawn: Tensor, real: Tensor) -> Tensor:
    """L1 at the picture's resolution and at two halvings of it."""
    total = (drawn - real).abs().mean()
    for _ in range(2):
        drawn, real = F.avg_pool2d(drawn, 2), F.avg_pool2d(real, 2)
        total = total + (drawn - real).abs().mean()
    return total


def same_crops(drawn: Tensor, real: Tensor, side: int, random: torch.Generator) -> list[Tensor]:
    """The same random (side, side) window of both, one for the batch."""
    room = drawn.shape[-1] - side + 1
    y, x = torch.randint(room, (2,), generator=random).tolist()
    return [pictures[..., y : y + side, x : x + side] for pictures in (drawn, real)]


class Equalized(nn.Module):
    """A convolution with the equalised rate of StyleGAN: W / sqrt(fan_in) at run time."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self._scale, self._stride = 1 / math.sqrt(inputs * kernel**2), stride

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight * self._scale
        x = F.conv2d(x, weight, self.bias, self._stride, self.weight.shape[-1] // 2)
        return F.leaky_relu(x, SLOPE) * math.sqrt(2)


class Discriminator(nn.Module):
    """A slim StyleGAN2 critic: residual halvings, deviation over the batch, one score."""

    def __init__(self, channels: tuple[int, ...] = (16, 32, 64, 96, 128, 128)) -> None:
        super().__init__()
        self.stem = Equalized(3, channels[0], 1)
        pairs = list(pairwise(channels))
        self.blocks = nn.ModuleList(
            nn.Sequential(Equalized(a, a, 3), Equalized(a, b, 3, stride=2)) for a, b in pairs
        )
        self.skips = nn.ModuleList(nn.Conv2d(a, b, 1, bias=False) for a, b in pairs)
        self.last = Equalized(channels[-1] + 1, channels[-1], 3)
        self.score = nn.Linear(channels[-1] * 16, 1)

    def forward(self, pictures: Tensor) -> Tensor:  # (B, 3, H, W) -> (B,)
        x = self.stem(pictures)
        for block, skip in zip(self.blocks, self.skips):
            x = (block(x) + skip(F.avg_pool2d(x, 2))) / math.sqrt(2)
        deviation = (x.float().var(dim=0, unbiased=False) + 1e-8).sqrt().mean()
        x = torch.cat([x, deviation.to(x.dtype).expand(len(x), 1, *x.shape[2:])], dim=1)
        return self.score(self.last(x).flatten(1))[:, 0].float()


def r1_penalty(critic: Discriminator, real: Tensor) -> Tensor:
    """Squared gradient of the critic at real pictures, the mean over the batch (R1)."""
    real = real.detach().requires_grad_(True)
    (slope,) = torch.autograd.grad(critic(real).sum(), real, create_graph=True)
    return slope.square().sum(dim=(1, 2, 3)).mean()


# ---------------------------------------------------------------------------------- the trainer


class Trainer:
    """The networks, their averages and optimisers, and where the run stands."""

    def __init__(self, plan: StyleganTraining, device: torch.device, folder: Path) -> None:
        torch.manual_seed(plan.seed)
        self.plan, self.device, self.folder = plan, device, folder
        config = GeneratorConfig.mini()
        self.generator = Generator(config).to(device, memory_format=torch.channels_last)
        self.critic = Discriminator().to(device, memory_format=torch.channels_last)
        self.average = deepcopy(self.generator).requires_grad_(False)
        self.generator.mapping_layers.requires_grad_(False)
        made = [p for p in self.generator.parameters() if p.requires_grad]
        self.optimizer = torch.optim.Adam(made, lr=plan.rate, betas=(0.9, 0.99))
        self.critic_optimizer = torch.optim.Adam(
            self.critic.parameters(), lr=plan.critic_rate, betas=(0.0, 0.99)
        )
        clip = load_mini(ASSETS / "clip-mini", device, torch.float32)
        self.distance = FeatureDistance(clip)
        self.step, self.seconds = 0, 0.0

    def _parts(self) -> Parts:
        return {
            "generator": self.generator, "critic": self.critic, "average": self.average,
            "optimizer": self.optimizer, "critic_optimizer": self.critic_optimizer,
        }  # fmt: skip

    def resume(self) -> bool:
        """Continue from the run folder's checkpoint if there is one."""
        stood = read_checkpoint(self.folder, self._parts(), self.device)
        if stood is not None:
            self.step, self.seconds = stood
        return stood is not None

    def save(self) -> None:
        """The checkpoint, the weights of the average and a sheet of pictures."""
        save_checkpoint(self.folder, self._parts(), self.step, self.seconds)
        export(self.average, self.folder / "model.safetensors")
        size = self.generator.size >> self.plan.halvings(self.step)
        sheet(self.average, size).save(self.folder / "sheet.png")
        write_plan(self.folder, self.plan, step=self.step, seconds=self.seconds)

    def warm_mapping(self) -> Iterator[float]:
        """Stage 1: w becomes an image of the attributes; yields the mean squared error."""
        layers = self.generator.mapping_layers.requires_grad_(True)
        space = AttributeSpace(self.generator.latent_size, self.plan.seed)
        # Here the mapping network learns at the full rate, which its arithmetic divides by 100.
        base = 0.3
        optimizer = torch.optim.Adam(layers.parameters(), lr=base, betas=(0.9, 0.99))
        for step in range(self.plan.mapping_steps):
            z = latent_batch(512, self.plan.seed * 10**6 + step)
            w = self.generator.mapping(torch.from_numpy(z).to(self.device))
            error = space.error(w, avatars.latent_to_attributes(z))
            loss = error + 1e-3 * w.square().mean()
            optimizer.param_groups[0]["lr"] = base * (1 - step / self.plan.mapping_steps)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            yield float(error.detach())
        layers.requires_grad_(False)
        self.average.load_state_dict(self.generator.state_dict())

    def learn(self, pairs: Pairs) -> dict[str, float]:
        """One step on pairs drawn at this stage's size."""
        adversarial = self.step >= self.plan.regression
        rate = self.rate()
        self.optimizer.param_groups[0]["lr"] = rate
        real = pairs.pictures.to(self.device, memory_format=torch.channels_last)
        drawn = self._draw(self.generator.mapping(pairs.z.to(self.device)), real.shape[-1])
        loss, told = self._regression(drawn, real)
        if adversarial:
            fooled = F.softplus(-self._scores(drawn)).mean()
            loss = loss + self.plan.adversarial_weight * fooled
            told["fooled"] = float(fooled.detach())
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.optimizer.param_groups[0]["params"], 5.0)
        self.optimizer.step()
        self._follow()
        if adversarial:
            told["critic"] = self._teach_critic(drawn.detach(), real)
        self.step += 1
        return {**told, "rate": rate, "size": real.shape[-1]}

    def rate(self) -> float:
        done = min(1.0, self.step / self.plan.regression)
        warm = min(1.0, (self.step + 1) / 200)
        return self.plan.rate * warm * (0.05 + 0.95 * (0.5 + 0.5 * math.cos(math.pi * done)))

    def _draw(self, w: Tensor, size: int) -> Tensor:
        styles = self.generator.styles(self.generator.broadcast(w))
        with torch.autocast(self.device.type, torch.bfloat16):
            return self.generator.synthesize(styles, noise=[], size=size).float()

    def _scores(self, pictures: Tensor) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16):
            return self.critic(pictures)

    def _regression(self, drawn: Tensor, real: Tensor) -> tuple[Tensor, dict[str, float]]:
        random = torch.Generator().manual_seed(self.plan.seed * 10**6 + self.step)
        loss = pixel_loss(drawn, real)
        told = {"pixels": float(loss.detach())}
        if drawn.shape[-1] >= 64:  # at 32 px clip-mini sees nothing
            whole = [F.interpolate(p, 64, mode="area") for p in (drawn, real)]
            features = self.distance(*whole)
            if drawn.shape[-1] > 64:
                features = features + self.distance(*same_crops(drawn, real, 64, random))
            loss = loss + self.plan.feature_weight * features
            told["features"] = float(features.detach())
        return loss, told

    def _teach_critic(self, drawn: Tensor, real: Tensor) -> float:
        loss = F.softplus(self._scores(drawn)).mean() + F.softplus(-self._scores(real)).mean()
        value = float(loss.detach())
        if self.step % R1_EVERY == 0:
            loss = loss + 0.5 * self.plan.r1_weight * R1_EVERY * r1_penalty(self.critic, real)
        self.critic_optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.critic_optimizer.step()
        return value

    @torch.no_grad()
    def _follow(self) -> None:
        keep = min(self.plan.average, (1 + self.step) / (10 + self.step))
        for slow, fast in zip(self.average.parameters(), self.generator.parameters()):
            slow.lerp_(fast, 1 - keep)

    def train(self, minutes: float) -> Iterator[dict[str, float]]:
        """Steps until the plan or the time is over; the next pairs are drawn meanwhile."""
        until = time.monotonic() + 60 * minutes
        with ThreadPoolExecutor(1) as pool:
            coming = pool.submit(self._pairs, self.step)
            while self.step < self.plan.steps and time.monotonic() < until:
                pairs = coming.result()
                coming = pool.submit(self._pairs, self.step + 1)
                began = time.monotonic()
                told = self.learn(pairs)
                self.seconds += time.monotonic() - began
                yield told

    def _pairs(self, step: int) -> Pairs:
        size = self.generator.size >> self.plan.halvings(step)
        return draw_pairs(self.plan.batch, self.plan.seed * 10**6 + 10**5 + step, size)


def export(generator: Generator, path: Path) -> None:
    """Half-precision weights with the shape of the generator in the metadata."""
    generator.mean_latent.copy_(generator.measure_mean_latent())
    tensors = {k: v.half().contiguous().cpu() for k, v in generator.state_dict().items()}
    save_file(tensors, path, metadata={"config": json.dumps(asdict(generator.config))})


@torch.no_grad()
def sheet(generator: Generator, size: int, seed: int = 5) -> Image.Image:
    """Eight drawn avatars above the generator's pictures of the same latents, twice."""
    rows = []
    for part in range(2):
        pairs = draw_pairs(8, seed + part, size)
        w_plus = generator.broadcast(generator.mapping(pairs.z.to(generator.device)))
        made = generator.synthesize(generator.styles(w_plus), noise=[], size=size)
        rows += [to_pixels(pairs.pictures), to_pixels(made)]
    return Image.fromarray(torch.cat([torch.cat(list(row), dim=1) for row in rows]).numpy())


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/stylegan2-mini"))
    parser.add_argument("--preset", choices=("mini", "smoke"), default="mini")
    parser.add_argument("--minutes", type=float, default=1e6, help="stop after this long")
    parser.add_argument("--adversarial", type=int, help="steps of stage 3")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    plan = StyleganTraining() if options.preset == "mini" else StyleganTraining.smoke()
    if options.adversarial is not None:
        plan = replace(plan, adversarial=options.adversarial)
    trainer = Trainer(plan, torch.device(options.device), options.out)
    if not trainer.resume():
        for step, loss in enumerate(trainer.warm_mapping()):
            if step % 200 == 0:
                print(f"mapping {step} error {loss:.4f}", flush=True)
    saved = time.monotonic()
    for told in trainer.train(options.minutes):
        if trainer.step % 50 == 0:
            values = " ".join(f"{name} {value:.4g}" for name, value in told.items())
            print(f"{trainer.step} {values} {trainer.seconds / trainer.step:.2f} s", flush=True)
        if time.monotonic() - saved > 180:
            trainer.save()
            saved = time.monotonic()
    trainer.save()


if __name__ == "__main__":
    main()
