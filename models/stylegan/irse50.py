"""IR-SE50, the face network: it tells people apart (identity loss) and carries the e4e encoder.

Deng et al. 2019, "ArcFace" (arXiv 1801.07698), the improved residual units of its section 3.1,
with squeeze-and-excitation (Hu et al. 2018, arXiv 1709.01507). Keys are those of the published
`model_ir_se50.pth`, which loads strictly. For inference: the dropout of its training is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.errors import WeightsError
from models.stylegan.pickles import read_pt
from models.weights import read_safetensors

Network = TypeVar("Network", bound=nn.Module)

Stages = Sequence[tuple[int, int]]  # (channels, units) of each stage; each halves the side
STEM = 64
STAGES: Stages = ((64, 3), (128, 4), (256, 14), (512, 3))
SQUEEZE = 16
FACE_SIZE = 112  # pixels a side
EMBEDDING = 512


class SqueezeExcitation(nn.Module):
    """Scales each channel by what a two-layer network makes of all channels' means."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, channels // SQUEEZE, 1, bias=False)
        self.fc2 = nn.Conv2d(channels // SQUEEZE, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:  # (B, C, H, W)
        means = x.mean(dim=(2, 3), keepdim=True)  # (B, C, 1, 1)
        scale: Tensor = self.fc2(F.relu(self.fc1(means))).sigmoid()
        return x * scale


class Unit(nn.Module):
    """Improved residual unit; the stride sits on its second 3x3 convolution."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self._stride = stride
        self.res_layer = nn.Sequential(
            nn.BatchNorm2d(inputs),
            nn.Conv2d(inputs, outputs, 3, 1, 1, bias=False),
            nn.PReLU(outputs),
            nn.Conv2d(outputs, outputs, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outputs),
            SqueezeExcitation(outputs),
        )
        if inputs != outputs:
            self.shortcut_layer: nn.Sequential | None = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )
        else:
            self.shortcut_layer = None

    def forward(self, x: Tensor) -> Tensor:  # (B, I, H, W) -> (B, O, H / stride, W / stride)
        residual: Tensor = self.res_layer(x)
        if self.shortcut_layer is None:
            return residual + x[:, :, :: self._stride, :: self._stride]
        shortcut: Tensor = self.shortcut_layer(x)
        return residual + shortcut


def input_layer(inputs: int, stem: int) -> nn.Sequential:
    """The first convolution, at full resolution."""
    return nn.Sequential(
        nn.Conv2d(inputs, stem, 3, 1, 1, bias=False), nn.BatchNorm2d(stem), nn.PReLU(stem)
    )


def units(stem: int, stages: Stages) -> Iterator[Unit]:
    """The residual units of all stages in order; the first of each stage halves the side."""
    before = stem
    for channels, count in stages:
        for index in range(count):
            yield Unit(before, channels, stride=1 if index else 2)
            before = channels


class Irse50(nn.Module):
    """Faces to unit vectors; the cosine of two pictures of one person is high."""

    def __init__(self) -> None:
        super().__init__()
        channels, side = STAGES[-1][0], FACE_SIZE // 2 ** len(STAGES)
        self.input_layer = input_layer(3, STEM)
        self.body = nn.Sequential(*units(STEM, STAGES))
        self.output_layer = nn.Sequential(
            nn.BatchNorm2d(channels),
            nn.Identity(),  # where the training had its dropout; keeps the published indices
            nn.Flatten(),
            nn.Linear(channels * side * side, EMBEDDING),
            nn.BatchNorm1d(EMBEDDING),
        )

    def features(self, image: Tensor) -> Tensor:
        """(B, 3, 112, 112) in [-1, 1] -> (B, 512) before the normalisation."""
        features: Tensor = self.output_layer(self.body(self.input_layer(image)))
        return features

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, 112, 112) in [-1, 1] -> (B, 512) unit vectors."""
        return F.normalize(self.features(image), dim=1)


def load_irse50(path: Path) -> Irse50:
    """The face network from `model_ir_se50.pth`, or the same as safetensors; no code is run.

    Raises:
        WeightsError: the file is missing, damaged, hostile, or holds another network.
    """
    state = read_safetensors(path) if path.suffix == ".safetensors" else read_pt(path)
    return loaded(Irse50, state, path)


def loaded(build: Callable[[], Network], state: Any, path: Path) -> Network:
    """A network with these weights in float32, frozen and in evaluation mode.

    Raises:
        WeightsError: the weights are not exactly those of the network; `path` is named.
    """
    with torch.device("meta"):  # millions of random numbers less
        network = build()
    wanted = network.state_dict()
    if not isinstance(state, Mapping) or not _fits(state, wanted):
        raise WeightsError(
            f"{path.name} does not hold the weights of {type(network).__name__} in this size; "
            "choose another file."
        )
    exact = {key: state[key].to(want.dtype) for key, want in wanted.items()}
    network.load_state_dict(exact, strict=True, assign=True)
    return network.requires_grad_(False).eval()


def _fits(state: Mapping[str, Any], wanted: Mapping[str, Tensor]) -> bool:
    return state.keys() == wanted.keys() and all(
        isinstance(state[key], Tensor) and state[key].shape == want.shape
        for key, want in wanted.items()
    )
