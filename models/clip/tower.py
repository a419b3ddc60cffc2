"""The image tower of clip-mini: a small ResNet that a laptop's CPU runs in a few milliseconds.

A dense 3x3 ResNet was the fastest of seven candidates of about 2.8 M parameters when trained in
bfloat16 on two CPU cores (320 pictures a second at 96 px; FasterNet-T0 155, ConvNeXt-Zepto 133,
MobileNetV4-S 170, RegNetY-002 304), and being fully convolutional it takes any picture size.
Importing this module registers it with timm under the name `atelier_resnet`, which is how
open_clip finds it when it reads `open_clip_config.json`; likewise `atelier_repvgg`, the unlike
architecture of the judge that names drawings.
"""

from typing import Any

from timm.models import register_model
from timm.models.byobnet import ByoBlockCfg, ByobNet, ByoModelCfg
from timm.models.resnet import BasicBlock, ResNet


@register_model  # type: ignore[untyped-decorator]
def atelier_resnet(pretrained: bool = False, **kwargs: Any) -> ResNet:
    """ResNet-18-D at half width: 2.8 M parameters, 256 features, stride 32.

    Args:
        pretrained: must be False; the weights live in `assets/weights/`, not in timm's hub.

    Raises:
        ValueError: `pretrained` is asked for.
    """
    _refuse_hub(pretrained, kwargs)
    model = ResNet(
        BasicBlock,  # type: ignore[arg-type]  # timm annotates the instance, not the class
        layers=(2, 2, 2, 2),
        channels=(32, 64, 128, 256),
        stem_type="deep",
        stem_width=12,
        avg_down=True,
        **kwargs,
    )
    _describe(model, 96)
    return model


@register_model  # type: ignore[untyped-decorator]
def atelier_repvgg(pretrained: bool = False, **kwargs: Any) -> ByobNet:
    """RepVGG (Ding et al. 2021) with 32-256 channels, 0.8 M parameters, plain 3x3 convolutions.

    Args:
        pretrained: must be False; the weights live in `assets/weights/`, not in timm's hub.

    Raises:
        ValueError: `pretrained` is asked for.
    """
    _refuse_hub(pretrained, kwargs)
    stages = tuple(
        ByoBlockCfg(type="rep", d=depth, c=channels, s=2, gs=0)
        for depth, channels in ((2, 32), (2, 64), (3, 128), (1, 256))
    )
    model = ByobNet(ByoModelCfg(blocks=stages, stem_type="rep", stem_chs=32), **kwargs)
    _describe(model, 64)
    return model


def _refuse_hub(pretrained: bool, kwargs: dict[str, Any]) -> None:
    if pretrained:
        raise ValueError("These towers have no hub weights; load a folder of assets/weights.")
    for key in ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"):
        kwargs.pop(key, None)


def _describe(model: Any, side: int) -> None:
    # open_clip asks for a spatial feature size to tell ConvNets from token models.
    model.default_cfg = {"pool_size": (side // 32, side // 32), "input_size": (3, side, side)}
