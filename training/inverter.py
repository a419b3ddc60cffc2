"""Train the inverter of stylegan2-mini, an e4e-style encoder: `python -m training.inverter`.

Tov et al. 2021, "Designing an Encoder for StyleGAN Image Manipulation" (arXiv 2102.02766). There
the right code of a photograph is unknown; here it is known for every picture of a batch:
- avatars drawn from a latent z, whose code is the generator's own mapping of z, in every row;
- the generator's pictures of such codes, and of two codes mixed at a random row, so that the
  encoder also reads pictures whose rows disagree.
In order: the codes of drawn avatars alone (cheap: the generator draws nothing), then all three
kinds, with pixels and clip-mini features of what the frozen generator makes of the codes. Known codes keep the encoder close
to W, which is what e4e's delta and discriminator losses are for, so neither is used.

The weights are an exponential moving average. An interrupted run continues from its checkpoint.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from models.catalog import ASSETS
from models.clip import load_mini
from models.clip.layers import ClipLayers, layer_distance
from models.stylegan.checkpoints import load_generator
from models.stylegan.e4e import E4e, E4eConfig, save_e4e
from models.stylegan.generator import Generator, GeneratorConfig, to_pixels
from models.stylegan.inversion import latent_spread, psnr
from training.run import Parts, rate_share, read_checkpoint, save_checkpoint, write_plan
from training.stylegan import Pairs, draw_pairs

UNSEEN_SEED = (
    9_000_001  # training draws with seeds from plan.seed * 10**6 on, evaluation with others
)
MAPPED_ROWS = 4  # a mixed code changes from one w to another somewhere behind so many rows


@dataclass(frozen=True)
class InverterTraining:
    """Everything that decides a run.

    Attributes:
        drawn, made, mixed: pictures of each kind in a batch of the second stage; the first has as
            many in all.
        code_steps, picture_steps: of the two stages.
        pixels, features, codes: weights in the second stage; codes weigh 1 in the first.
        rate: Adam's highest; warmed up, decayed to a twentieth over each stage.
        head_rate: times `rate` for the heads' equalised linear layers, which learn slower.
        average: decay of the moving average a step.
    """

    drawn: int = 10
    made: int = 3
    mixed: int = 3
    code_steps: int = 5_000
    picture_steps: int = 700
    pixels: float = 4.0
    features: float = 0.3
    codes: float = 0.1
    rate: float = 1.5e-3
    head_rate: float = 10.0
    average: float = 0.998
    seed: int = 77

    @property
    def steps(self) -> int:
        return self.code_steps + self.picture_steps

    def avatars(self, step: int) -> int:
        """How many drawn avatars a step takes."""
        return self.drawn + (self.made + self.mixed if step < self.code_steps else 0)

    @staticmethod
    def smoke() -> InverterTraining:
        """A few steps of each stage."""
        return InverterTraining(drawn=2, made=1, mixed=1, code_steps=4, picture_steps=4)


class Trainer:
    """The encoder, its average and optimiser, the frozen generator, and where the run stands.

    Args:
        generator: frozen; its z must be the avatars' latent.
        config: of the encoder; rows and latent size are the generator's.
    """

    def __init__(
        self,
        plan: InverterTraining,
        generator: Generator,
        config: E4eConfig,
        device: torch.device,
        folder: Path,
    ) -> None:
        torch.manual_seed(plan.seed)
        self.plan, self.device, self.folder = plan, device, folder
        self.generator = generator.to(device, memory_format=torch.channels_last)
        self.spread = latent_spread(self.generator)
        encoder = E4e(config)
        encoder.latent_avg.copy_(generator.mean_latent.expand(config.rows, -1))
        for head in encoder.styles:
            nn.init.normal_(head.linear.weight, std=0.1)  # starts near the mean latent
        self.encoder = encoder.to(device, memory_format=torch.channels_last).train()
        self.average = deepcopy(self.encoder).requires_grad_(False).eval()
        heads = [head.linear.weight for head in self.encoder.styles]
        known = set(map(id, heads))
        rest = [p for p in self.encoder.parameters() if id(p) not in known]
        self.optimizer = torch.optim.Adam([{"params": rest}, {"params": heads}], betas=(0.9, 0.99))
        self.layers = ClipLayers(load_mini(ASSETS / "clip-mini", device, torch.float32))
        self.step, self.seconds = 0, 0.0
        self.unseen = draw_pairs(32, UNSEEN_SEED, generator.size).pictures.to(device)

    # --------------------------------------------------------------------------- the pictures

    def batch(self, step: int, drawn: Pairs) -> tuple[Tensor, Tensor]:
        """Pictures (B, 3, H, W) and their codes (B, rows, D): drawn, made and mixed ones."""
        plan, generator = self.plan, self.generator
        random = torch.Generator().manual_seed(plan.seed * 10**6 + step)
        z, pictures = drawn.z.to(self.device), drawn.pictures.to(self.device)
        if step < plan.code_steps:
            pictures = pictures.contiguous(memory_format=torch.channels_last)
            return pictures, generator.broadcast(generator.mapping(z))
        more = torch.randn(plan.made + 2 * plan.mixed, generator.noise_size, generator=random)
        with torch.no_grad():
            codes = generator.broadcast(generator.mapping(z))
            w = generator.mapping(more.to(self.device))
            own, first, second = w.split([plan.made, plan.mixed, plan.mixed])
            made = torch.cat([generator.broadcast(own), self._mixed(first, second, random)])
            pictures = torch.cat([pictures, self._render(made).clamp(-1, 1)])
        return pictures.contiguous(memory_format=torch.channels_last), torch.cat([codes, made])

    def _mixed(self, first: Tensor, second: Tensor, random: torch.Generator) -> Tensor:
        """(N, rows, D): the first w up to a random row, the second behind it."""
        rows = self.generator.rows
        change = torch.randint(MAPPED_ROWS, rows, (len(first), 1, 1), generator=random)
        before = torch.arange(rows)[None, :, None] < change
        broadcast = self.generator.broadcast
        return torch.where(before.to(self.device), broadcast(first), broadcast(second))

    def _render(self, codes: Tensor) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16):
            return self.generator(codes).float()

    # ------------------------------------------------------------------------------- learning

    def learn(self, drawn: Pairs) -> dict[str, float]:
        """One step on drawn avatars and on pictures that the generator makes."""
        plan = self.plan
        pictures, codes = self.batch(self.step, drawn)
        with torch.autocast(self.device.type, torch.bfloat16):
            found = self.encoder.codes(pictures).float() + self.encoder.latent_avg
        code_loss = ((found - codes) / self.spread).square().mean()
        told = {"codes": code_loss}
        loss = code_loss
        if self.step >= plan.code_steps:
            again = self._render(found)
            told["pixels"] = (again - pictures).square().mean()
            told["features"] = self._feature_distance(again, pictures)
            loss = plan.codes * code_loss + plan.pixels * told["pixels"]
            loss = loss + plan.features * told["features"]
        self._descend(loss)
        return {name: float(value.detach()) for name, value in told.items()}

    def _feature_distance(self, ours: Tensor, theirs: Tensor) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16):
            with torch.no_grad():
                wanted = self.layers(theirs)
            return layer_distance(self.layers(ours), wanted).mean()

    def _descend(self, loss: Tensor) -> None:
        rate = self.plan.rate * self._share()
        for group, factor in zip(self.optimizer.param_groups, (1.0, self.plan.head_rate)):
            group["lr"] = rate * factor
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.encoder.parameters(), 5.0)
        self.optimizer.step()
        self._follow()
        self.step += 1

    def _share(self) -> float:
        """Of the learning rate at this step: warmed up, then falling, in each stage anew."""
        plan = self.plan
        second = self.step >= plan.code_steps
        done = self.step - plan.code_steps if second else self.step
        length = plan.picture_steps if second else plan.code_steps
        return rate_share(done, length, warmup=100, last=0.05)

    @torch.no_grad()
    def _follow(self) -> None:
        keep = min(self.plan.average, (1 + self.step) / (10 + self.step))
        for slow, fast in zip(self.average.parameters(), self.encoder.parameters()):
            slow.lerp_(fast, 1 - keep)
        for slow, fast in zip(self.average.buffers(), self.encoder.buffers()):
            slow.copy_(fast)

    def train(self, minutes: float) -> Iterator[dict[str, float]]:
        """Steps until the plan or the time is over; the next avatars are drawn meanwhile."""
        until = time.monotonic() + 60 * minutes
        with ThreadPoolExecutor(1) as pool:
            coming = pool.submit(self._draw, self.step)
            while self.step < self.plan.steps and time.monotonic() < until:
                drawn = coming.result()
                coming = pool.submit(self._draw, self.step + 1)
                began = time.monotonic()
                told = self.learn(drawn)
                self.seconds += time.monotonic() - began
                yield told

    def _draw(self, step: int) -> Pairs:
        return draw_pairs(
            self.plan.avatars(step), self.plan.seed * 10**6 + step, self.generator.size
        )

    # ---------------------------------------------------------------------- results and resuming

    @torch.no_grad()
    def inverted(self) -> Tensor:
        """What generator and averaged encoder make of the unseen avatars, (32, 3, H, W)."""
        return self.generator(self.average(self.unseen))

    def unseen_psnr(self) -> float:
        """Mean PSNR in dB over the unseen avatars."""
        pairs = zip(self.inverted(), self.unseen)
        return float(np.mean([psnr(ours, theirs) for ours, theirs in pairs]))

    def _parts(self) -> Parts:
        return {"encoder": self.encoder, "average": self.average, "optimizer": self.optimizer}

    def resume(self) -> bool:
        """Continue from the run folder's checkpoint if there is one."""
        stood = read_checkpoint(self.folder, self._parts(), self.device)
        if stood is not None:
            self.step, self.seconds = stood
        return stood is not None

    def save(self) -> float:
        """The checkpoint, the averaged weights, a sheet of pictures, and how good they are: the
        PSNR that is written and returned."""
        save_checkpoint(self.folder, self._parts(), self.step, self.seconds)
        save_e4e(self.average, self.folder / "model.safetensors")
        self.sheet().save(self.folder / "sheet.png")
        reached = self.unseen_psnr()
        write_plan(self.folder, self.plan, step=self.step, seconds=self.seconds, psnr=reached)
        return reached

    def sheet(self) -> Image.Image:
        """Eight unseen avatars above what comes back."""
        rows = [to_pixels(self.unseen[:8]), to_pixels(self.inverted()[:8])]
        return Image.fromarray(torch.cat([torch.cat(list(row), dim=1) for row in rows]).numpy())


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--generator", type=Path, default=Path("runs/stylegan2-mini/model.safetensors"))  # fmt: skip
    parser.add_argument("--out", type=Path, default=Path("runs/e4e-mini"))
    parser.add_argument("--preset", choices=("mini", "smoke"), default="mini")
    parser.add_argument("--minutes", type=float, default=1e6, help="stop after this long")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    plan = InverterTraining() if options.preset == "mini" else InverterTraining.smoke()
    generator = load_generator(options.generator)
    if not isinstance(generator, Generator) or generator.config != GeneratorConfig.mini():
        parser.error(f"{options.generator} is not stylegan2-mini; train it first.")
    device = torch.device(options.device)
    trainer = Trainer(plan, generator, E4eConfig.mini(), device, options.out)
    trainer.resume()
    run(trainer, options.minutes)


def run(trainer: Trainer, minutes: float) -> None:
    """Trains, tells how it goes, and saves every three minutes and at the end."""
    saved = time.monotonic()
    for told in trainer.train(minutes):
        if trainer.step % 50 == 0:
            values = " ".join(f"{name} {value:.4g}" for name, value in told.items())
            print(f"{trainer.step} {values} {trainer.seconds / trainer.step:.2f} s", flush=True)
        if time.monotonic() - saved > 180:
            print(f"{trainer.step} unseen avatars: {trainer.save():.2f} dB", flush=True)
            saved = time.monotonic()
    print(f"{trainer.step} unseen avatars: {trainer.save():.2f} dB", flush=True)


if __name__ == "__main__":
    main()
