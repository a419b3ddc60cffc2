"""The projection of MiniLM's sentences into clip-mini's space."""

from torch import Tensor, nn
from torch.nn import functional as F

HIDDEN = 1024


class TextHead(nn.Module):
    """A linear map and, beside it, a two-layer correction that begins at zero.

    MiniLM puts "mechanic" beside "man mechanic" and "left arrow" beside "right arrow", and 384 x 256
    numbers cannot pull 1,576 such names apart: on the features of one frozen image tower a linear
    head reached 77% of the names, this one 81%, and 47 instead of 43% of synonyms never trained.
    open_clip's own `mlp` (320 hidden, nothing linear beside it) reached 78 and 41%.
    """

    def __init__(self, width: int, dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, dim, bias=False)
        # A sentence's numbers have a deviation of 0.38, at which the first layer is nearly linear;
        # at 1 the head named 79% instead of 75 after its first 500 steps.
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.inner = nn.Linear(width, HIDDEN)
        self.outer = nn.Linear(HIDDEN, dim, bias=False)
        nn.init.zeros_(self.outer.weight)

    def forward(self, sentences: Tensor) -> Tensor:
        """(N, width) -> (N, dim), any length."""
        correction = self.outer(F.gelu(self.inner(self.norm(sentences))))
        found: Tensor = self.linear(sentences) + correction
        return found
