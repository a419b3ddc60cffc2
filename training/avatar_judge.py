"""The judge of edits: a small network that reads an avatar's attributes off its picture.

It learns from drawn avatars and the numbers they were drawn from, sees no word and no CLIP, and
nothing is ever optimised against it; so it can say whether an edit did what its prompt asked
(`training.styleclip_evaluation`). It trains on softened pictures (blur, noise, JPEG, small moves
and colour casts) because it will judge a generator's pictures.

`python -m training.avatar_judge` trains, continuing from its checkpoint, writes the weights and
measures them on avatars of another seed.
"""

import argparse
import json
import math
import statistics
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from models.catalog import ASSETS
from models.weights import read_safetensors
from training.clip_evaluation import Figure
from training.world import avatars, compose
from training.world.sources import CACHE

DIRECTORY = ASSETS / "avatar-judge"
SIDE_OF_POOL = 112  # pixels, as `training.clip.FacePool` draws and keeps them
HELD_OUT_SEED = 911_000
HUES = tuple(name for name in avatars.NAMES if name.endswith("_hue"))
PARTS = ("judge", "averaged", "optimizer")  # of a run, in its checkpoint
ARC = 7 / 8  # the hue scale runs from red to pink: seven of the colour wheel's eight steps
COLUMN = {name: index for index, name in enumerate(avatars.NAMES)}
_HUE_COLUMNS = [COLUMN[name] for name in HUES]
_EYES = ("eye_size", "eye_open", "eye_colour", "gaze_x", "gaze_y")
_BROWS = ("brow_height", "brow_angle", "brow_weight")
_STRANDS = ("hair_curl", "hair_volume")
_HAIR = (*_STRANDS, "fringe", "parting", "hair_colour", "hair_dye", "dye_hue")


# ------------------------------------------------------------------------------------ attributes


def visible(looks: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Which attributes leave a trace in the picture: no shape of glasses without glasses.

    More generous than `avatars.truth`, which names only what is plain; so whatever `truth` tells
    is visible.

    Args:
        looks: (N, A), in [0, 1].

    Returns:
        (N, A).
    """
    value = {name: looks[:, column] for name, column in COLUMN.items()}
    sunglasses = (value["glasses"] >= 0.8) & (value["glasses_tint"] > 0.5)
    shut = value["eye_open"] < 0.3
    hat, bald = value["hat"] > 0.5, value["hair_length"] < 0.12
    under_hat = hat & (value["hair_length"] < 0.45)
    dyed = value["hair_dye"] > 0.5
    hidden: tuple[tuple[NDArray[np.bool_], tuple[str, ...]], ...] = (
        (value["glasses"] < 0.5, ("glasses_shape", "glasses_tint")),
        (sunglasses, (*_EYES, *_BROWS)),
        (shut, ("eye_size", "eye_colour", "gaze_x", "gaze_y")),
        (~hat, ("hat_brim", "hat_hue")),
        (hat, ("hair_volume", "fringe", "parting")),
        (under_hat, ("hair_length", *_HAIR)),
        (bald, _HAIR),
        (value["hair_length"] < 0.2, _STRANDS),
        (dyed, ("hair_colour",)),
        (~dyed, ("dye_hue",)),
        (value["beard"] > 0.5, ("jaw",)),
        (value["skin_tone"] < 0.15, ("freckles",)),
    )
    seen = np.ones(looks.shape, dtype=bool)
    for rows, names in hidden:
        seen[np.ix_(rows, [COLUMN[name] for name in names])] = False
    return seen


@cache
def spread() -> NDArray[np.float64]:
    """(A,) standard deviation of each attribute over the world's avatars."""
    return avatars.sample(20_000, 1).std(axis=0, dtype=np.float64)


def differences(before: NDArray[np.floating], after: NDArray[np.floating]) -> NDArray[np.float64]:
    """How far each attribute moved, in units of its standard deviation.

    Hues take the shorter way round the colour wheel. NaN where the attribute is invisible before
    or after: its reading means nothing there.

    Args:
        before, after: (N, A), in [0, 1].

    Returns:
        (N, A), >= 0.
    """
    moved = np.abs(after.astype(np.float64) - before)
    around = moved[:, _HUE_COLUMNS]
    moved[:, _HUE_COLUMNS] = np.minimum(around, 1 / ARC - around)
    return np.where(visible(before) & visible(after), moved / spread(), np.nan)


def to_targets(looks: NDArray[np.floating]) -> Tensor:
    """(N, A) attributes -> (N, A + H): a hue's column holds its cosine, the last H the sines."""
    values = torch.from_numpy(looks.astype(np.float32))
    angle = values[:, _HUE_COLUMNS] * (2 * math.pi * ARC)  # (N, H)
    values[:, _HUE_COLUMNS] = angle.cos()
    return torch.cat([values, angle.sin()], dim=1)


def from_targets(targets: Tensor) -> NDArray[np.float64]:
    """The inverse of `to_targets`, brought into [0, 1]."""
    numbers = targets.double().cpu().numpy()
    values, sine = numbers[:, : len(COLUMN)].copy(), numbers[:, len(COLUMN) :]
    turn = np.arctan2(sine, values[:, _HUE_COLUMNS]) / (2 * math.pi) % 1
    nearest_end = np.where(turn > (1 + ARC) / 2, 0.0, 1.0)  # between pink and red nothing is drawn
    values[:, _HUE_COLUMNS] = np.where(turn > ARC, nearest_end, turn / ARC)
    return np.clip(values, 0, 1)


# --------------------------------------------------------------------------------------- network


@dataclass(frozen=True)
class JudgeConfig:
    """The network's shape.

    Attributes:
        size: side of its input, pixels.
        channels: of the four resolutions size/2, size/4, size/8 and size/16.
        places: channels kept per place of the last map: where things are is what is asked.
        hidden: units of the layer that sees the whole face.
    """

    size: int = 96
    channels: tuple[int, int, int, int] = (24, 48, 80, 104)
    places: int = 16
    hidden: int = 128

    @staticmethod
    def tiny() -> "JudgeConfig":
        """For tests."""
        return JudgeConfig(size=32, channels=(8, 8, 8, 8), places=4, hidden=16)


class _Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = _convolution(channels, channels)
        self.second = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, features: Tensor) -> Tensor:
        return F.relu(features + self.norm(self.second(self.first(features))))


def _convolution(before: int, after: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, after, 3, stride, padding=1, bias=False),
        nn.BatchNorm2d(after),
        nn.ReLU(),
    )


class AvatarJudge(nn.Module):
    """Reads all attributes of an avatar off its picture."""

    mean: Tensor
    std: Tensor

    def __init__(self, config: JudgeConfig) -> None:
        super().__init__()
        self.config = config
        a, b, c, d = config.channels
        self.body = nn.Sequential(
            _convolution(3, a, 2), _convolution(a, b, 2), _Residual(b),
            _convolution(b, c, 2), _Residual(c), _convolution(c, d, 2), _Residual(d),
            nn.Conv2d(d, config.places, 1),
        )  # fmt: skip
        cells = (config.size // 16) ** 2
        count = len(COLUMN) + len(HUES)
        self.head = nn.Sequential(
            nn.Flatten(),
            nn.Linear(config.places * cells, config.hidden),
            nn.ReLU(),
            nn.Linear(config.hidden, count),
        )
        self.register_buffer("mean", torch.zeros(count))
        self.register_buffer("std", torch.ones(count))

    def forward(self, pictures: Tensor) -> Tensor:
        """(N, 3, size, size) in [0, 1] -> (N, A + H) standardised targets."""
        features: Tensor = self.head(self.body(pictures * 2 - 1))
        return features

    @torch.inference_mode()
    def read(self, pictures: Tensor) -> NDArray[np.float64]:
        """The attributes of pictures of any size.

        Args:
            pictures: (N, 3, H, W), in [0, 1]; what lies outside is clipped.

        Returns:
            (N, A) in [0, 1], order of `avatars.ATTRIBUTES`; what `visible` rules out by the other
            readings is a guess.
        """
        parts = [self(resized(part, self.config.size)) for part in pictures.float().split(128)]
        return from_targets(torch.cat(parts) * self.std + self.mean)


def resized(pictures: Tensor, size: int) -> Tensor:
    """(N, 3, H, W) in [0, 1] -> (N, 3, size, size), antialiased."""
    pictures = pictures.clamp(0, 1)
    if pictures.shape[-2:] == (size, size):
        return pictures
    return F.interpolate(
        pictures, (size, size), mode="bicubic", antialias=True, align_corners=False
    ).clamp(0, 1)


def load_judge(directory: Path = DIRECTORY) -> AvatarJudge:
    """The trained judge, float32 on the CPU, in evaluation mode.

    Raises:
        WeightsError: the weights are missing or are no safetensors file.
    """
    settings = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    settings["channels"] = tuple(settings["channels"])
    judge = AvatarJudge(JudgeConfig(**settings))
    judge.load_state_dict(read_safetensors(directory / "model.safetensors"), strict=True)
    return judge.float().eval().requires_grad_(False)


def save_judge(judge: AvatarJudge, directory: Path) -> None:
    """Half-precision weights and the configuration."""
    directory.mkdir(parents=True, exist_ok=True)
    tensors = {
        key: (value.half() if value.is_floating_point() else value).contiguous().cpu().clone()
        for key, value in judge.state_dict().items()
    }
    save_file(tensors, str(directory / "model.safetensors"))
    text = json.dumps(asdict(judge.config), indent=1)
    (directory / "config.json").write_text(text + "\n", encoding="utf-8")


# -------------------------------------------------------------------------------------- training


@dataclass(frozen=True)
class JudgeTraining:
    """Everything that decides a run.

    Attributes:
        pool: how many avatars are drawn; `seed` draws them and deals the batches.
        soften: strength of the augmentation, 0 for none.
    """

    steps: int = 2_700
    batch: int = 64
    rate: float = 4e-3
    decay: float = 0.02
    average: float = 0.998
    pool: int = 30_000
    soften: float = 1.0
    seed: int = 2024


def softened(
    pictures: Tensor, size: int, generator: torch.Generator, strength: float = 1.0
) -> Tensor:
    """The pictures as a generator might draw them: moved, soft, noisy, compressed, off in colour.

    Args:
        pictures: (N, 3, H, W), in [0, 1].
        size: side of the result, pixels.
        strength: multiplies every disturbance; 0 only brings the pictures to `size`.

    Returns:
        (N, 3, size, size), in [0, 1].
    """
    if strength == 0:
        return resized(pictures, size)
    count = len(pictures)

    def draw(shape: tuple[int, ...], reach: float) -> Tensor:
        return compose.uniform(generator, shape, -reach * strength, reach * strength)

    scale, shift = 1 + draw((count, 1, 1), 0.03), draw((count, 2, 1), 0.04)
    matrix = torch.cat([torch.eye(2).expand(count, 2, 2) * scale, shift], dim=2)  # (N, 2, 3)
    grid = F.affine_grid(matrix, [count, 3, size, size], align_corners=False)
    pictures = F.grid_sample(pictures, grid, padding_mode="border", align_corners=False)
    pictures = pictures * (1 + draw((count, 3, 1, 1), 0.04)) + draw((count, 1, 1, 1), 0.03)
    soft = F.avg_pool2d(F.pad(pictures, (1, 1, 1, 1), mode="replicate"), 3, 1)
    share = (compose.uniform(generator, (count, 1, 1, 1), -1, 1) * strength).clamp(0, 1)
    pictures = pictures + share * (soft - pictures)
    level = compose.uniform(generator, (count, 1, 1, 1), -0.03, 0.03).clamp(min=0) * strength
    noise = torch.randn(pictures.shape, generator=generator) * level
    return compose.jpeg((pictures + noise).clamp(0, 1), generator, 0.1 * min(1.0, strength))


def drawn_pool(count: int, seed: int) -> NDArray[np.uint8]:
    """(N, 112, 112, 3) pictures of `avatars.sample(count, seed)`, drawn once and kept on disk."""
    path = CACHE / f"faces-{count}-{seed}.npy"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, avatars.draw_batch(avatars.sample(count, seed), SIDE_OF_POOL))
    pictures: NDArray[np.uint8] = np.load(path, mmap_mode="r")
    return pictures


def learning_rate(step: int, plan: JudgeTraining) -> float:
    """Linear warm-up over the first tenth, then a cosine to 1%; a function of the step alone, so
    that a run may be continued under a shorter or longer plan."""
    done = (step + 1) / plan.steps
    if done <= 0.1:
        return plan.rate * done / 0.1
    return plan.rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (done - 0.1) / 0.9)))


def judge_loss(found: Tensor, targets: Tensor, seen: Tensor) -> Tensor:
    """Mean squared error over what is visible.

    Args:
        found, targets: (N, A + H), standardised.
        seen: (N, A + H), 1 where visible, else 0.
    """
    return ((found - targets).square() * seen).sum() / seen.sum()


class Run:
    """A resumable training run."""

    def __init__(self, plan: JudgeTraining, config: JudgeConfig, folder: Path) -> None:
        self.plan, self.folder = plan, folder
        torch.manual_seed(plan.seed)
        self.judge = AvatarJudge(config).to(memory_format=torch.channels_last)
        looks = avatars.sample(plan.pool, plan.seed)
        self.pictures = drawn_pool(plan.pool, plan.seed)
        targets, seen = to_targets(looks), torch.from_numpy(visible(looks)).float()
        self.seen = torch.cat([seen, seen[:, _HUE_COLUMNS]], dim=1)
        self.judge.mean.copy_(targets.mean(0))
        self.judge.std.copy_(targets.std(0))
        self.targets = (targets - self.judge.mean) / self.judge.std
        self.averaged = torch.optim.swa_utils.AveragedModel(
            self.judge,
            multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(plan.average),
            use_buffers=True,
        )
        self.optimizer = torch.optim.AdamW(
            self.judge.parameters(), lr=plan.rate, weight_decay=plan.decay
        )
        self.step, self.seconds = 0, 0.0

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint.pt"

    def resume(self) -> None:
        """Continue where the last run in this folder stopped, if there is one."""
        if not self.checkpoint.is_file():
            return
        state = torch.load(self.checkpoint, weights_only=True)
        for name in PARTS:
            getattr(self, name).load_state_dict(state[name])
        self.step, self.seconds = state["step"], state["seconds"]

    def save(self) -> None:
        """Write the checkpoint in one rename, and the averaged weights."""
        self.folder.mkdir(parents=True, exist_ok=True)
        state = {name: getattr(self, name).state_dict() for name in PARTS}
        partial = self.checkpoint.with_suffix(".partial")
        torch.save({**state, "step": self.step, "seconds": self.seconds}, partial)
        partial.replace(self.checkpoint)
        save_judge(self.averaged.module, self.folder)

    def deal(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """Pictures, targets and visibility of a step, a function of the seed and the step."""
        generator = torch.Generator().manual_seed(self.plan.seed * 1_000_003 + step)
        index = torch.randint(len(self.targets), (self.plan.batch,), generator=generator)
        pixels = torch.from_numpy(self.pictures[index.numpy()]).permute(0, 3, 1, 2)
        size = self.judge.config.size
        pictures = softened(pixels.float() / 255, size, generator, self.plan.soften)
        return pictures, self.targets[index], self.seen[index]

    def learn(self) -> float:
        """One step of the optimiser; returns the loss."""
        pictures, targets, seen = self.deal(self.step)
        self.optimizer.param_groups[0]["lr"] = learning_rate(self.step, self.plan)
        with torch.autocast("cpu", torch.bfloat16):
            found = self.judge(pictures.contiguous(memory_format=torch.channels_last))
        loss = judge_loss(found.float(), targets, seen)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.judge.parameters(), 1.0)
        self.optimizer.step()
        self.averaged.update_parameters(self.judge)
        self.step += 1
        return float(loss.detach())

    def train(self, minutes: float = math.inf) -> Iterator[tuple[int, float]]:
        """Train until the schedule or the time is over; yields (step, loss) every 100 steps."""
        self.judge.train()
        began = saved = time.monotonic()
        before = self.seconds
        losses: list[float] = []
        while self.step < self.plan.steps and time.monotonic() - began < minutes * 60:
            losses.append(self.learn())
            self.seconds = before + time.monotonic() - began
            if self.step % 100 == 0:
                yield self.step, statistics.fmean(losses)
                losses = []
            if time.monotonic() - saved > 60:
                self.save()
                saved = time.monotonic()
        self.save()


# ------------------------------------------------------------------------------------- measuring


def as_tensor(pictures: NDArray[np.uint8]) -> Tensor:
    """(N, H, W, 3) uint8 -> (N, 3, H, W) float32 in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2).float() / 255


@dataclass(frozen=True)
class Reading:
    """How well one attribute is read where it is visible.

    Attributes:
        correlation: Pearson's; for hues, of cosines and sines together.
        error: mean absolute error in units of the attribute's standard deviation.
        sides: share of plainly low and plainly high avatars that are read on the right side of
            the middle, mean of both, in [0, 1]; NaN where the ends have no words.
    """

    name: str
    correlation: float
    error: float
    sides: float


def measure(read: NDArray[np.floating], looks: NDArray[np.floating]) -> Iterator[Reading]:
    """Compare readings with what was drawn; both (N, A)."""
    seen, moved = visible(looks), differences(looks, read)
    found, drawn = to_targets(read).numpy(), to_targets(looks).numpy()
    truths = [avatars.truth(look) for look in looks]
    for column, attribute in enumerate(avatars.ATTRIBUTES):
        rows = seen[:, column]
        columns = [column]
        if attribute.name in HUES:
            columns.append(len(COLUMN) + HUES.index(attribute.name))
        correlation = np.corrcoef(found[rows][:, columns].ravel(), drawn[rows][:, columns].ravel())[
            0, 1
        ]
        error = np.nanmean(moved[:, column])
        high = read[:, column] > (attribute.low + attribute.high) / 2
        shares = []
        for side in (True, False):
            known = np.array([truth.get(attribute.name) is side for truth in truths])
            if known.any():
                shares.append(float((high[known] == side).mean()))
        sides = statistics.fmean(shares) if len(shares) == 2 else math.nan
        yield Reading(attribute.name, float(correlation), float(error), sides)


def evaluate(directory: Path, count: int = 2000) -> Iterator[Figure]:
    """All figures of the judge in a folder, on avatars it never saw, at the generator's 128 px."""
    judge = load_judge(directory)
    looks = avatars.sample(count, HELD_OUT_SEED)
    pictures = as_tensor(avatars.draw_batch(looks, 128))
    readings = list(measure(judge.read(pictures), looks))
    told = [reading for reading in readings if not math.isnan(reading.sides)]
    yield Figure(
        f"read on the right side, mean of {len(told)} attributes with words",
        100 * statistics.fmean(reading.sides for reading in told), None,
    )  # fmt: skip
    soft = F.interpolate(F.avg_pool2d(pictures, 2), scale_factor=2, mode="bilinear")
    blurred = [r.sides for r in measure(judge.read(soft), looks) if not math.isnan(r.sides)]
    yield Figure("the same on pictures blurred by half", 100 * statistics.fmean(blurred), None)
    for reading in sorted(readings, key=lambda r: r.correlation):
        name = reading.name.replace("_", " ")
        if not math.isnan(reading.sides):
            yield Figure(f"{name}: right side", 100 * reading.sides, None)
        yield Figure(f"{name}: correlation x 100", 100 * reading.correlation, None, "")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/avatar-judge"),
                        help="run folder; a checkpoint in it is continued")  # fmt: skip
    parser.add_argument("--steps", type=int, default=JudgeTraining.steps)
    parser.add_argument("--minutes", type=float, default=math.inf,
                        help="stop after this long; the next call continues")  # fmt: skip
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    run = Run(JudgeTraining(steps=options.steps), JudgeConfig(), options.out)
    run.resume()
    for step, loss in run.train(options.minutes):
        print(f"step {step} loss {loss:.4f} seconds {run.seconds:.0f}", flush=True)
    for figure in evaluate(options.out):
        print(figure.row())


if __name__ == "__main__":
    main()
