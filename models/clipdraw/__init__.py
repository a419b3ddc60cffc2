"""CLIPDraw: words to strokes, a differentiable rasteriser in between, and an SVG at the end."""

from .config import DrawConfig
from .drawing import Drawing, draw, prompts_of
from .rasterizer import over, render
from .strokes import Strokes

__all__ = ["DrawConfig", "Drawing", "Strokes", "draw", "over", "prompts_of", "render"]
