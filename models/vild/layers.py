"""Convolutions and normalisations as every part of ViLD has them."""

from __future__ import annotations

from torch import nn

from models.vild.config import VildConfig


def norm2d(config: VildConfig, channels: int) -> nn.BatchNorm2d:
    """Of feature maps (N, C, H, W)."""
    return nn.BatchNorm2d(channels, eps=config.norm_eps, momentum=config.norm_momentum)


def norm1d(config: VildConfig, features: int) -> nn.BatchNorm1d:
    """Of rows (N, C)."""
    return nn.BatchNorm1d(features, eps=config.norm_eps, momentum=config.norm_momentum)


def conv3x3(inputs: int, outputs: int) -> nn.Conv2d:
    """Keeps height and width; He et al. 2015 initialised."""
    convolution = nn.Conv2d(inputs, outputs, 3, padding=1)
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    nn.init.zeros_(convolution.bias)  # type: ignore[arg-type]
    return convolution


def linear(inputs: int, outputs: int, std: float | None = None) -> nn.Linear:
    """Normal weights of deviation `std`, Glorot's without one; the bias is zero."""
    layer = nn.Linear(inputs, outputs)
    if std is None:
        nn.init.xavier_uniform_(layer.weight)
    else:
        nn.init.normal_(layer.weight, std=std)
    nn.init.zeros_(layer.bias)
    return layer
