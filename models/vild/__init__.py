"""ViLD: any names to boxes and masks of a picture, learnt from CLIP."""

from .config import ProposalConfig, ResnetConfig, TowerConfig, VildConfig
from .head import Regions
from .rpn import Proposals, RpnOutput
from .vild import Vild

__all__ = [
    "ProposalConfig",
    "Proposals",
    "Regions",
    "ResnetConfig",
    "RpnOutput",
    "TowerConfig",
    "Vild",
    "VildConfig",
]
