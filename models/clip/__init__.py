"""CLIP: one encoder interface over open_clip, for the mini towers and the published ones alike."""

from .encoder import ClipEncoder, load_mini, load_official

__all__ = ["ClipEncoder", "load_mini", "load_official"]
