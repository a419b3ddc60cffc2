"""A place in a generator's space that every editing method can read and write.

Optimisation and mapper move W+; global directions move StyleSpace. A latent holds both, the second
as an offset on the styles that W+ gives, so that edits of any kind follow each other.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from models.errors import InputError
from models.stylegan.generator import Generator

TRUNCATION = 0.7  # StyleCLIP's random pictures
MAX_BYTES = 4 * 10**6  # a 1024 px latent has 74 kB
MAX_MAGNITUDE = 1e4


@dataclass(frozen=True)
class Latent:
    """W+ and what was added to the styles it gives.

    Attributes:
        w_plus: (rows, D) float32 on the CPU.
        offsets: one (slot.size,) float32 per style vector; () is none.
    """

    w_plus: Tensor
    offsets: tuple[Tensor, ...] = ()

    @staticmethod
    @torch.no_grad()
    def from_seed(generator: Generator, seed: int, psi: float = TRUNCATION) -> Latent:
        """The latent of one random z, truncated by `psi` towards the mean latent."""
        random = torch.Generator().manual_seed(seed)
        z = torch.randn(1, generator.noise_size, generator=random).to(generator.mean_latent)
        return Latent.from_w_plus(
            generator.broadcast(generator.truncate(generator.mapping(z), psi))[0]
        )

    @staticmethod
    def from_w_plus(w_plus: Tensor) -> Latent:
        """(rows, D) of any device and precision, copied."""
        return Latent(w_plus.detach().to("cpu", torch.float32, copy=True).contiguous())

    @torch.no_grad()
    def styles(self, generator: Generator) -> list[Tensor]:
        """StyleSpace, one (1, size) per slot, on the generator's device."""
        like = generator.mean_latent
        styles = generator.styles(self.w_plus[None].to(like))
        if not self.offsets:
            return styles
        return [style + offset.to(like) for style, offset in zip(styles, self.offsets)]

    def moved(self, direction: Sequence[Tensor], alpha: float = 1.0) -> Latent:
        """Styles moved by `alpha * direction`, one (size,) per slot."""
        steps = [alpha * part.detach().float().cpu() for part in direction]
        before = self.offsets or [torch.zeros_like(step) for step in steps]
        return replace(self, offsets=tuple(a + b for a, b in zip(before, steps, strict=True)))

    def towards(self, other: Latent, amount: float) -> Latent:
        """The straight line to another latent: 0 is this one, 1 the other, more goes on."""
        w_plus = self.w_plus + amount * (other.w_plus - self.w_plus)
        if not self.offsets and not other.offsets:
            return Latent(w_plus)
        mine = self.offsets or tuple(torch.zeros_like(part) for part in other.offsets)
        theirs = other.offsets or tuple(torch.zeros_like(part) for part in mine)
        offsets = tuple(a + amount * (b - a) for a, b in zip(mine, theirs, strict=True))
        return Latent(w_plus, offsets)

    def check(self, generator: Generator) -> None:
        """Raises InputError unless this is a latent of such a generator, with finite numbers."""
        wanted = (generator.rows, generator.latent_size)
        if tuple(self.w_plus.shape) != wanted:
            found = " x ".join(map(str, self.w_plus.shape))
            raise InputError(
                f"This latent is {found} numbers and the chosen generator needs {wanted[0]} x "
                f"{wanted[1]}; choose the generator that it was saved with."
            )
        sizes = [(slot.size,) for slot in generator.layout]
        if self.offsets and [tuple(part.shape) for part in self.offsets] != sizes:
            raise InputError(
                "This latent's styles have other sizes than the chosen generator's; choose the "
                "generator that it was saved with."
            )
        for part in (self.w_plus, *self.offsets):
            if not bool((part.abs() <= MAX_MAGNITUDE).all()):  # also false for NaN
                raise InputError(
                    "This latent has numbers that are not finite or far too large; save it again."
                )

    def to_bytes(self, generator_name: str) -> bytes:
        """A safetensors file that `from_bytes` reads."""
        tensors = {"w_plus": self.w_plus}
        tensors |= {f"offset.{index}": part for index, part in enumerate(self.offsets)}
        data: bytes = save(tensors, metadata={"generator": generator_name})
        return data

    @staticmethod
    def from_bytes(data: bytes, generator: Generator, generator_name: str) -> Latent:
        """Reads and checks a saved latent.

        Raises:
            InputError: too large, no such file, or of another generator.
        """
        if len(data) > MAX_BYTES:
            raise InputError(f"A latent file has less than {MAX_BYTES // 10**6} MB; this is none.")
        try:
            tensors = load(data)
        except (SafetensorError, ValueError, KeyError) as error:
            raise InputError(
                "This is no latent file; choose a .safetensors file saved by this tab."
            ) from error
        origin = _origin(data)
        if origin != generator_name:
            raise InputError(
                f"This latent belongs to the generator {origin!r}, not to {generator_name!r}; "
                "choose that generator first."
            )
        latent = _from_tensors(tensors)
        latent.check(generator)
        return latent


def _from_tensors(tensors: dict[str, Tensor]) -> Latent:
    names = [f"offset.{index}" for index in range(len(tensors) - 1)]
    if set(tensors) != {"w_plus", *names}:
        raise InputError("This safetensors file holds no latent; choose one saved by this tab.")
    return Latent(tensors["w_plus"].float(), tuple(tensors[name].float() for name in names))


def _origin(data: bytes) -> str:
    """The generator named in the header of a safetensors file, which `load` does not give."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    return str(header.get("__metadata__", {}).get("generator", "unknown"))
