"""GLIP: phrases of a text to boxes of a picture."""

from .config import GlipConfig, ResnetConfig, SwinConfig, TextConfig
from .glip import Glip
from .head import HeadOutput

__all__ = ["Glip", "GlipConfig", "HeadOutput", "ResnetConfig", "SwinConfig", "TextConfig"]
