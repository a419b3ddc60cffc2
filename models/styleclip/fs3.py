"""fs3, the paper's table: for every channel of StyleSpace, what CLIP sees when it moves.

Patashnik et al. 2021, section 6.2: a channel is set to its mean - 5 and + 5 standard deviations in
some pictures; the difference of CLIP's features, normalised, averaged over the pictures and
normalised again, is the channel's row. One table serves every prompt. Here are the table and its
files; `secant` measures it.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from models.errors import InputError, WeightsError
from models.weights import check_safetensors

from .directions import ChannelRelevance, Layout, StyleStatistics, channel_count

MAX_BYTES = 128 * 2**20  # 9,088 channels x 1,024 features are 37 MB in float32
SLOT = "{kind}.{index}"  # keys of the statistics: mean.0, sigma.0, mean.1, ...


@dataclass(frozen=True)
class Fs3:
    """A table with what belongs to it.

    Attributes:
        table: (rows, D) float32, each of unit length or zero; S order without ToRGB. Channels
            beyond the last row count as zero rows: a table may be short.
        statistics: how the channels vary, for the edits.
        about: what it was measured on and how, for people and for going on with it.
    """

    table: Tensor
    statistics: StyleStatistics
    about: Mapping[str, str] = field(default_factory=dict)

    def relevance(self, text_direction: Tensor, layout: Layout) -> ChannelRelevance:
        """R = fs3 . dt.

        Args:
            text_direction: (D,) unit length.

        Raises:
            InputError: the table is of another generator or of another CLIP.
        """
        self.statistics.check(layout)
        rows, width = self.table.shape
        channels = channel_count(layout)
        if rows > channels:
            raise InputError(
                f"This table has {rows:,} channels and the generator {channels:,}; take the "
                "table of this generator."
            )
        if len(text_direction) != width:
            raise InputError(
                f"This table was made with a CLIP of {width} features, the words with one of "
                f"{len(text_direction)}; take the same CLIP for both."
            )
        values = text_direction.new_zeros(channels)
        values[:rows] = self.table.to(text_direction) @ text_direction
        return ChannelRelevance(values, tuple(layout))

    def save(self, path: Path) -> None:
        """Write safetensors: fs3 in fp16, statistics in float32, `about` as metadata.

        An unfinished file never takes the place of a finished one.
        """
        tensors = {"fs3": self.table.to(torch.float16).contiguous()}
        for kind in ("mean", "sigma"):
            for index, vector in enumerate(getattr(self.statistics, kind)):
                tensors[SLOT.format(kind=kind, index=index)] = vector.float().contiguous()
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f"{path.name}.new")
        save_file(tensors, unfinished, metadata=dict(self.about))
        unfinished.replace(path)

    @staticmethod
    def load(path: Path) -> Fs3:
        """Read what `save` wrote.

        Raises:
            WeightsError: no whole safetensors file, too large a one, or not a table of directions.
        """
        check_safetensors(path, max_bytes=MAX_BYTES)
        try:
            with safe_open(path, framework="pt") as file:  # type: ignore[no-untyped-call]
                about = dict(file.metadata() or {})
                tensors = {key: file.get_tensor(key).float() for key in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise WeightsError(f"{path.name} cannot be read ({error}); copy it again.") from error
        table = tensors.pop("fs3", torch.empty(0))
        slots = range(len(tensors) // 2)
        expected = {SLOT.format(kind=k, index=i) for k in ("mean", "sigma") for i in slots}
        finite = all(bool(t.isfinite().all()) for t in (table, *tensors.values()))
        if tensors.keys() != expected or not tensors or not finite or table.ndim != 2:
            raise WeightsError(
                f"{path.name} is no table of directions; make one with `python -m training.fs3`."
            )
        mean, sigma = (
            tuple(tensors[SLOT.format(kind=kind, index=i)] for i in slots)
            for kind in ("mean", "sigma")
        )
        return Fs3(table, StyleStatistics(mean, sigma), about)


def read_released(path: Path) -> Tensor:
    """The table of a released `fs3.npy`, as it is: (rows, D) float32.

    The statistics are not in it; `directions.measure_statistics` takes them from the generator.

    Raises:
        WeightsError: the file is missing, too large, cut off, holds pickled objects or no table.
    """
    if not path.is_file():
        raise WeightsError(f"{path.name} is missing from {path.parent}; download it.")
    if path.stat().st_size > MAX_BYTES:
        raise WeightsError(
            f"{path.name} has more than the {MAX_BYTES >> 20} MB allowed; it is no fs3 file."
        )
    try:
        array = np.load(io.BytesIO(path.read_bytes()), allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise WeightsError(
            f"{path.name} is no plain NumPy array ({error}); download fs3.npy again."
        ) from error
    if not isinstance(array, np.ndarray) or array.ndim != 2 or array.dtype.kind != "f":
        raise WeightsError(f"{path.name} holds no table of numbers; download fs3.npy again.")
    table = torch.from_numpy(array.astype(np.float32))
    if not table.numel() or not table.isfinite().all():
        raise WeightsError(f"{path.name} holds numbers that are not finite; download it again.")
    return table
