"""StyleGAN2: one generator in plain PyTorch for every checkpoint, and the way into its space."""

from .generator import Activations, Generator, GeneratorConfig, StyleSlot, to_pictures
from .latent import Latent

__all__ = [
    "Activations",
    "Generator",
    "GeneratorConfig",
    "Latent",
    "StyleSlot",
    "to_pictures",
]
