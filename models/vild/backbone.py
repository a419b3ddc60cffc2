"""Backbones: torchvision's ResNet with the reference's padding, or clip-mini's frozen tower."""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck, ResNet

from models.clip.frozen import FrozenTower
from models.vild.config import ResnetConfig, VildConfig

BLOCKS = {14: (1, 1, 1, 1), 50: (3, 4, 6, 3), 152: (3, 8, 36, 3)}


class Resnet(ResNet):  # type: ignore[misc]  # torchvision has no types
    """Picture -> C2 .. C5. The state dict is torchvision's, without `fc`."""

    def __init__(self, depth: int, eps: float, momentum: float) -> None:
        norm = partial(nn.BatchNorm2d, eps=eps, momentum=momentum)
        super().__init__(Bottleneck, list(BLOCKS[depth]), norm_layer=norm)
        del self.fc, self.avgpool
        # TensorFlow's "same" padding of a picture with even sides: to the right and below only.
        self.maxpool = nn.MaxPool2d(3, stride=2, ceil_mode=True)

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """(N, 3, H, W) -> C2, C3, C4, C5 at strides 4, 8, 16 and 32, each (N, C, h, w)."""
        features = self.maxpool(self.relu(self.bn1(self.conv1(pixels))))
        maps = []
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            features = layer(features)
            maps.append(features)
        return maps


def make_backbone(config: VildConfig) -> Resnet | FrozenTower:
    """The backbone that a configuration names, with fresh weights."""
    if isinstance(config.backbone, ResnetConfig):
        return Resnet(config.backbone.depth, config.norm_eps, config.norm_momentum)
    return FrozenTower()
