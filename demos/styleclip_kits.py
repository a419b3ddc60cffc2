"""Which models work together in the StyleCLIP tab: a generator and all that goes with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from models import weights
from models.catalog import ModelRow
from models.clip.encoder import ClipEncoder
from models.errors import InputError, WeightsError
from models.styleclip.derivative import ProbeSettings
from models.styleclip.directions import FEW_CHANNELS, MANY_CHANNELS
from models.styleclip.identity import AvatarIdentity, FaceIdentity
from models.styleclip.mapper import Mapper, MapperInfo, load_mapper, mapper_info
from models.styleclip.mapper_training import MapperSettings
from models.styleclip.optimization import Identity, OptimizationSettings
from models.styleclip.prompt import EditPrompt
from models.weights import Embedded, Own

FIRST = "stylegan2-mini"
TASK = "stylegan"


@dataclass(frozen=True)
class Kit:
    """A generator and what goes with it.

    Attributes:
        row: the generator.
        clip: catalogue's name of the encoder that reads the words and looks at pictures.
        encoder: catalogue's name of the encoder that finds latents; None where there is none.
        faces: photographs are cut out as FFHQ's were before they are inverted.
        face_network: catalogue's name of the network that knows people; None where identity is
            read along the traits of `models.styleclip.identity`.
        folder: where the measured table (`fs3.safetensors`, `fs3.npy`) and `mappers/` lie.
        optimization, mapper, probes: settings to begin with.
        few: auto-beta keeps more channels than this.
        own: one visitor's mappers by name, in that visitor's copy of the kit alone.
    """

    row: ModelRow
    clip: str
    encoder: str | None
    faces: bool
    face_network: str | None
    folder: Path
    optimization: OptimizationSettings
    mapper: MapperSettings
    probes: ProbeSettings
    few: int = FEW_CHANNELS
    own: Mapping[str, Path] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.row.name

    @property
    def mappers(self) -> dict[str, Path]:
        """Mappers by name: those that came with the generator, then the visitor's own."""
        shipped = sorted((self.folder / "mappers").glob("*.safetensors"))
        return {**{path.stem: path for path in shipped}, **self.own}

    def mapper_titles(self) -> list[tuple[str, str]]:
        """What each mapper was trained for, and its name; files that are none are left out."""
        return [
            (info.prompt.target if info.prompt else name, name)
            for name, info in self._mapper_infos().items()
        ]

    def _mapper_infos(self) -> dict[str, MapperInfo]:
        infos = {}
        for name, path in self.mappers.items():
            try:
                infos[name] = mapper_info(path)
            except WeightsError:
                continue
        return infos

    def mapper_for(self, name: str, target: str) -> Mapper:
        """The mapper called `name`, or, without a name, the one trained for these words.

        Raises:
            InputError: there is none; the sentence lists the words that have one.
        """
        infos = self._mapper_infos()
        if not name:
            wanted = target.casefold()
            name = next(
                (n for n, i in infos.items() if i.prompt and i.prompt.target.casefold() == wanted),
                "",
            )
        if name in infos:
            return load_mapper(self.mappers[name])
        words = ", ".join(f"“{i.prompt.target}”" for i in infos.values() if i.prompt)
        there = f"there are mappers for {words}" if words else "none is here yet"
        raise InputError(
            f"No mapper was trained for “{(name or target)[:60]}” with {self.row.title}; {there}; "
            "choose, load or train one."
        )

    def identity(self, clip: ClipEncoder, prompt: EditPrompt, network: Any) -> Identity:
        """What should stay when a picture is edited with these words."""
        if network is not None:
            return FaceIdentity(network)
        return AvatarIdentity.of_prompt(clip, prompt)


def kits(catalog: Mapping[str, ModelRow]) -> dict[str, Kit]:
    """Every generator of a catalogue with what goes with it, the embedded one first."""
    rows = [row for row in catalog.values() if row.task == TASK]
    rows.sort(key=lambda row: row.name != FIRST)
    return {row.name: _kit(row, catalog) for row in rows}


def _kit(row: ModelRow, catalog: Mapping[str, ModelRow]) -> Kit:
    if row.family == "mini":
        return Kit(
            row, clip="clip-portraits", encoder=_present("e4e-mini", catalog), faces=False,
            face_network=None, folder=_folder(row), optimization=OptimizationSettings.mini(),
            mapper=MapperSettings.mini(), probes=ProbeSettings(images=8, probes=32),
            few=MANY_CHANNELS,
        )  # fmt: skip
    ffhq = "ffhq" in row.name.lower()  # an own file of these faces wants them cut out, too
    return Kit(
        row, clip="clip-vit-b-32",
        encoder=_present("e4e-ffhq", catalog) if row.name == "stylegan2-ffhq" else None,
        faces=ffhq,
        face_network=_present("ir-se50", catalog) if ffhq else None,
        folder=_folder(row),
        optimization=OptimizationSettings.paper(),
        mapper=MapperSettings.paper(),
        # One backward pass through 1024 px takes seconds on a CPU, and there is one for each.
        probes=ProbeSettings(images=4, probes=8, batch=1),
        few=FEW_CHANNELS if ffhq else MANY_CHANNELS,
    )  # fmt: skip


def _present(name: str, catalog: Mapping[str, ModelRow]) -> str | None:
    return name if name in catalog else None


def _folder(row: ModelRow) -> Path:
    """Beside the generator, or among the downloads; of somebody's own file a folder called so."""
    if isinstance(row.source, Embedded):
        return row.source.directory
    if isinstance(row.source, Own):
        return row.source.path.with_suffix("")
    return weights.cache_directory() / "styleclip" / row.name
