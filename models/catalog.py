"""Every model on offer, one row each: what it is, where it comes from, how it is loaded.

To add a model, write a row and, for a new kind of model, its `_load_...` function. Importing this
file imports neither torch nor open_clip, so that `--help` and the model selector cost nothing.

Revisions and SHA-256 of the official files are those of the Hugging Face repositories that
open_clip 3.3 names in `open_clip.get_pretrained_cfg`; the safetensors conversions are used, never
OpenAI's original `.pt` archives.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from models import weights
from models.errors import InputError
from models.weights import MB, Embedded, Hub, Own, Report, WeightFile

if TYPE_CHECKING:
    import torch

ASSETS = Path(__file__).resolve().parents[1] / "assets" / "weights"

# Every training writes new files; `sha256sum assets/weights/clip-mini/*` prints what belongs here.
CLIP_MINI_FILES = (
    WeightFile(
        "model.safetensors",
        3_667_062,
        "f0ddf68f0dc3f1b68920658716ab458cdb24495f37d614158c22a821b4e2ad3f",
    ),
    WeightFile(
        "open_clip_config.json",
        564,
        "9fb2379224be6416c5a35865f0105ca1cb60f41d8e446922c99732ae9f3df4cd",
    ),
)

# Taught vild-mini, and both detectors stand on its image tower; `models/clip/frozen.py` says why.
TEACHER = "clip-mini-teacher"
TEACHER_FILES = (
    WeightFile(
        "model.safetensors",
        3_004_038,
        "f0a55b891071cf7d7581787d375aa944e48b1eafcf3e464b9f9c4b9dfb28395c",
    ),
    WeightFile(
        "open_clip_config.json",
        567,
        "a27ccba845a91719a33b4640539434f15208f518505feeeca8aa8b1d33a61f81",
    ),
)

CRITIC_FILES = (
    WeightFile(
        "model.safetensors",
        3_004_038,
        "10f47963c1dba8384604fd80c86a80c6a6573d32f8e13beaf3d65fa85d4fd056",
    ),
    WeightFile(
        "open_clip_config.json",
        615,
        "4c290ece72309ff556ee42ce475570b17a019f3ae3d080cf78736a0db3ee85ee",
    ),
)


PORTRAITS_FILES = (
    WeightFile(
        "model.safetensors",
        1_998_930,
        "9a5d48fe25cca9668a40ad36d8009ef428bffcb1925d00dac5bacfdff94bb76a",
    ),
    WeightFile(
        "open_clip_config.json",
        615,
        "cd43ac746f7d973e3a73b144c1c9091c2e4e649ecadc290bcf6bb3f3081450c0",
    ),
)


STYLEGAN_MINI_FILES = (
    WeightFile(
        "model.safetensors",
        4_774_210,
        "bb8aba495b43579feb5b8276f61b8dbcd941fd8694985bda7e8475390a98bf3e",
    ),
)


E4E_MINI_FILES = (
    WeightFile(
        "model.safetensors",
        2_551_948,
        "3d024319d2f3c04c32aa07d84fd1bf89a2cdce3dcece618c41a5e194201e0ccb",
    ),
)


GLIP_MINI_FILES = (
    WeightFile(
        "model.safetensors",
        3_374_594,
        "00e81f29ee64f3667b0d2ec159cb89bafa0cac97a3143715a08c368b3065ea38",
    ),
)


VILD_MINI_FILES = (
    WeightFile(
        "model.safetensors",
        2_454_792,
        "0c305eef5cf49914a8567e8473e5b43e50068d09402cfa77a9779dadf545916a",
    ),
)


@dataclass(frozen=True)
class LoadContext:
    """What a loader needs to know besides its row."""

    device: torch.device
    dtype: torch.dtype
    offline: bool = False
    report: Report = lambda fraction, message: None
    cache: Path | None = None  # None: weights.cache_directory()


@dataclass(frozen=True)
class ModelRow:
    """One model on offer. `load` returns an `nn.Module`, an object whose `.model` is one, or one
    with `.nbytes()`; the registry measures what it holds."""

    name: str
    title: str
    # "clip", "clipdraw", "styleclip" (an encoder), "teacher" (of detectors), "stylegan", "inversion",
    # "detection", "vild"
    task: str
    family: str  # "mini", "official", "successor" or "own"
    preset: str  # open_clip's architecture, or our config's name
    source: Hub | Embedded | Own
    files: tuple[WeightFile, ...]
    licence: str
    knows: str
    load: Callable[[ModelRow, LoadContext], Any] = field(repr=False)
    tag: str = ""  # open_clip's pretrained tag, for its normalisation constants
    half: bool = False  # half precision on CUDA gives the same answers

    @property
    def bytes(self) -> int:
        """Size of all files, also the estimate of the memory needed before it was measured."""
        return sum(file.bytes for file in self.files)

    @property
    def sha256(self) -> Mapping[str, str]:
        """Digest of every file by name."""
        return {file.name: file.sha256 for file in self.files}

    @property
    def notice(self) -> str:
        """What is shown before a first download: size, source, licence."""
        if not isinstance(self.source, Hub):
            return f"{self.title} {self.source}, licence {self.licence}."
        size = f"{self.bytes / MB:,.0f} MB"
        return f"{self.title}: {size} from {self.source}, once; licence {self.licence}."

    def needs_download(self, cache: Path | None = None) -> bool:
        """Whether the first use will download; False for what is embedded or already here."""
        if not isinstance(self.source, Hub):
            return False
        return not weights.downloaded(self.source, self.files, cache)


def row_of(catalog: Mapping[str, ModelRow], name: str) -> ModelRow:
    """The row called `name`; InputError that lists the choices when there is none."""
    try:
        return catalog[name]
    except KeyError:
        choices = ", ".join(catalog)
        raise InputError(f'There is no model "{name}"; choose one of {choices}.') from None


def _verified(row: ModelRow) -> Path:
    """The folder of an embedded model, every file of it as it was committed."""
    assert isinstance(row.source, Embedded)
    for file in row.files:
        weights.verify(row.source.directory / file.name, file.sha256)
    return row.source.directory


def _fetched(row: ModelRow, context: LoadContext) -> Path:
    """The folder of a published model's files, downloaded if they are not here yet."""
    assert isinstance(row.source, Hub)
    if row.needs_download(context.cache):
        context.report(0.0, row.notice)
    return weights.fetch(
        row.source,
        row.files,
        cache=context.cache,
        offline=context.offline,
        report=context.report,
    )


def _converted(
    row: ModelRow,
    context: LoadContext,
    path: Path,
    method: str,
    convert: Callable[[Path, Path], object],
) -> Path:
    """Half-precision safetensors of a user's checkpoint, made once and kept in our cache; a file
    that changed is another one."""
    stat = path.stat()
    slim = f"{path.name}-{stat.st_size}-{stat.st_mtime_ns}-fp16.safetensors"
    target = (context.cache or weights.cache_directory()) / method / slim
    if not target.is_file():
        context.report(0.2, f"Converting {row.title} to safetensors, once")
        convert(path, target)
    return target


def _load_mini(row: ModelRow, context: LoadContext) -> Any:
    from models.clip.encoder import load_mini

    folder = _verified(row)
    context.report(0.5, f"Loading {row.title}")
    return load_mini(folder, context.device, context.dtype)


def _load_official(row: ModelRow, context: LoadContext) -> Any:
    from models.clip.encoder import load_official

    folder = _fetched(row, context)
    checkpoint = folder / "open_clip_model.safetensors"
    weights.check_safetensors(checkpoint)
    context.report(1.0, f"Loading {row.title}")
    return load_official(row.name, row.preset, row.tag, checkpoint, context.device, context.dtype)


def _load_inverter(row: ModelRow, context: LoadContext) -> Any:
    from models.stylegan.e4e import E4eConfig, load_e4e

    (file,) = row.files
    path = _verified(row) / file.name
    return load_e4e(path, E4eConfig.mini()).to(context.device, context.dtype)


def _load_embedded_generator(row: ModelRow, context: LoadContext) -> Any:
    from models.stylegan.checkpoints import load_generator

    folder = _verified(row)
    context.report(0.5, f"Loading {row.title}")
    return load_generator(folder / "model.safetensors", context.device)


def _load_own_generator(row: ModelRow, context: LoadContext) -> Any:
    from models.stylegan.checkpoints import load_generator

    assert isinstance(row.source, Own)
    context.report(0.0, f"Reading {row.title}")
    return load_generator(row.source.path, context.device)


def _load_official_generator(row: ModelRow, context: LoadContext) -> Any:
    """Fetches the checkpoint once, keeps it as half-precision safetensors, and loads those."""
    from models.stylegan.checkpoints import convert_once, load_generator

    assert isinstance(row.source, Hub)
    (file,) = row.files
    slim = weights.slim_path(row.source, file, context.cache)
    if not slim.is_file():
        folder = _fetched(row, context)
        context.report(1.0, f"Converting {row.title} to safetensors, once")
        convert_once(folder / file.name, slim)
    context.report(1.0, f"Loading {row.title}")
    return load_generator(slim, context.device)


def _load_glip_mini(row: ModelRow, context: LoadContext) -> Any:
    from models.glip.checkpoints import load_glip_mini

    folder = _verified(row)
    context.report(0.5, f"Loading {row.title}")
    return load_glip_mini(folder, context.device, context.dtype)


def _load_successor(row: ModelRow, context: LoadContext) -> Any:
    from models.glip.successors import load_successor

    folder = _fetched(row, context)
    context.report(1.0, f"Loading {row.title}")
    return load_successor(row.name, folder, context.device, context.dtype)


def _load_gated_successor(row: ModelRow, context: LoadContext) -> Any:
    """A file that its owner gives only to those who accepted the licence by name: downloaded by
    the user's own account with Hugging Face's own program, looked for in its cache, verified."""
    from models.errors import WeightsError

    assert isinstance(row.source, Hub)
    if row.needs_download(context.cache):
        repo, revision = row.source.repo, row.source.revision
        raise WeightsError(
            f"{row.title} is given only to those who accepted its licence: accept it at "
            f"https://huggingface.co/{repo}, run `hf auth login` and "
            f"`hf download {repo} --revision {revision} --exclude '*.pt'`, then try again."
        )
    return _load_successor(row, context)


def _load_own_detector(row: ModelRow, context: LoadContext) -> Any:
    """A folder is a successor's; a GLIP file is kept as half-precision safetensors in our cache."""
    assert isinstance(row.source, Own)
    path = row.source.path
    context.report(0.0, f"Reading {row.title}")
    if path.is_dir():
        from models.glip.successors import load_successor

        return load_successor(row.name, path, context.device, context.dtype)
    from models.glip.checkpoints import convert_once, load_grounder

    if path.suffix != ".safetensors" and path.is_file():
        path = _converted(row, context, path, "glip", convert_once)
    context.report(0.8, f"Loading {row.title}")
    return load_grounder(path, None, context.device, context.dtype, row.name)


def _load_vild(row: ModelRow, context: LoadContext) -> Any:
    """Our own files as they are; a released checkpoint of the user's is kept as half-precision
    safetensors in our cache. The CLIP it learnt from comes with it."""
    from models.vild.checkpoints import convert, load_vild, read_base_names
    from models.vild.detector import Detector

    if isinstance(row.source, Embedded):
        path = _verified(row) / "model.safetensors"
    else:
        assert isinstance(row.source, Own)
        path = row.source.path
        context.report(0.0, f"Reading {row.title}")
    if path.suffix != ".safetensors" and path.is_file():
        path = _converted(row, context, path, "vild", convert)
    context.report(0.5, f"Loading {row.title}")
    tower = ASSETS / TEACHER / "model.safetensors"
    model = load_vild(path, context.device, context.dtype, tower=tower)
    teacher_row = row_of(CATALOG, model.config.teacher)
    teacher = teacher_row.load(teacher_row, context)
    return Detector(row.name, model, teacher, read_base_names(path))


def _openai(
    name: str, title: str, preset: str, repo: str, revision: str, size: int, sha256: str, knows: str
) -> ModelRow:
    return ModelRow(
        name=name,
        title=title,
        task="clip",
        family="official",
        # OpenAI trained with QuickGELU; from a local file open_clip takes that from the name only.
        preset=f"{preset}-quickgelu",
        source=Hub(repo, revision),
        files=(WeightFile("open_clip_model.safetensors", size, sha256),),
        licence="MIT (OpenAI)",
        knows=knows,
        load=_load_official,
        tag="openai",
        half=True,
    )


def _mini(name: str, title: str, task: str, files: tuple[WeightFile, ...], knows: str) -> ModelRow:
    return ModelRow(
        name=name,
        title=title,
        task=task,
        family="mini",
        preset="clip-mini",
        source=Embedded(ASSETS / name),
        files=files,
        licence="Apache-2.0",
        knows=knows,
        load=_load_mini,
    )


# Every file of the repository's first upload: sizes and SHA-256 are those of its LFS pointers.
STYLEGAN2_HUB = Hub("aaronb/StyleGAN2", "5fde0cdb3664b04e8126dc6b0cab010e7813c18b")


def _stylegan2(subject: str, side: int, size: int, sha256: str, knows: str) -> ModelRow:
    return ModelRow(
        name=f"stylegan2-{subject}",
        title=f"StyleGAN2 {'FFHQ' if subject == 'ffhq' else subject}",
        task="stylegan",
        family="official",
        preset=f"config F, {side} px",
        source=STYLEGAN2_HUB,
        files=(
            WeightFile(
                f"stylegan2-{subject}-config-f.pt",
                size,
                sha256,
                slim=f"stylegan2-{subject}-fp16.safetensors",
            ),
        ),
        licence="NVIDIA Source Code License, non-commercial",
        knows=knows,
        load=_load_official_generator,
    )


def own_generator_rows(path: Path) -> Mapping[str, ModelRow]:
    """Rows for the generator files that a user keeps in a folder, or for the one at `path`.

    Costs a directory listing; a file is read when its row is first used.

    Raises InputError when there are none.
    """
    from models.stylegan.files import list_generators

    rows = (
        ModelRow(
            name=f"own/{file.name}",
            title=file.name,
            task="stylegan",
            family="own",
            preset="read from the file",
            source=Own(file.path),
            files=(WeightFile(file.path.name, file.bytes, ""),),
            licence="that of your file",
            knows="What it was trained on.",
            load=_load_own_generator,
        )
        for file in list_generators(path)
    )
    return {row.name: row for row in rows}


def glip_mini_row(directory: Path, files: tuple[WeightFile, ...]) -> ModelRow:
    """The row of glip-mini, whose trained part is `files` in `directory`."""
    return ModelRow(
        name="glip-mini",
        title="GLIP mini",
        task="detection",
        family="mini",
        preset="glip-mini",
        source=Embedded(directory),
        files=files,
        licence="Apache-2.0",
        knows="Emoji things, drawn faces and what they wear, in words of any kind.",
        load=_load_glip_mini,
    )


def vild_mini_row(name: str, directory: Path, files: tuple[WeightFile, ...]) -> ModelRow:
    """The row of vild-mini, or of its one-headed sibling; what it learnt is `files`."""
    return ModelRow(
        name=name,
        title="ViLD mini" if name == "vild-mini" else "ViLD mini, one head",
        task="vild",
        family="mini",
        preset=name,
        source=Embedded(directory),
        files=files,
        licence="Apache-2.0",
        knows="Emoji things, a quarter of which it was never given a box for; any names.",
        load=_load_vild,
    )


def own_detector_rows(path: Path) -> Mapping[str, ModelRow]:
    """Rows for the detectors that a user keeps in a folder: GLIP's files, ViLD's released archives
    (packed or not) and converted files, and successors as transformers saves them.

    Costs a directory listing; a file is read when its row is first used.

    Raises InputError when there are none.
    """
    from models.detection.files import list_detectors

    rows = (
        ModelRow(
            name=f"own/{one.name}",
            title=one.title,
            task="vild" if one.is_vild else "detection",
            family="own",
            preset=one.model_type or "read from the file",
            source=Own(one.path),
            files=(WeightFile(one.path.name, one.bytes, ""),),
            licence="that of your file",
            knows="What it was trained on.",
            load=_load_vild if one.is_vild else _load_own_detector,
        )
        for one in list_detectors(path)
    )
    return {row.name: row for row in rows}


# GLIP's own files (hub repository GLIPModel/GLIP) and LLMDet-tiny have no row: no public source
# tells their SHA-256, and without it nothing is downloaded. `own_detector_rows` reads them from a
# folder of the user's. The same holds of ViLD's four archives, in the public bucket
# cloud-tpu-checkpoints/detection/projects/vild/pretrained_ckpts/.
_DETECTORS = (
    ModelRow(
        name="grounding-dino-tiny",
        title="GroundingDINO tiny",
        task="detection",
        family="successor",
        preset="grounding-dino",
        source=Hub("IDEA-Research/grounding-dino-tiny", "a2bb814dd30d776dcf7e30523b00659f4f141c71"),
        files=(
            WeightFile(
                "model.safetensors",
                689_359_096,
                "1a2412ef99bd74bcd3c2a246fa1e48581f8889a1300c9051974741314fc042f3",
            ),
            WeightFile(
                "config.json",
                1_644,
                "eec82c5ab66e16df12a9a212e68ac011779927c2536cf9078658e35d85f0c67a",
            ),
            WeightFile(
                "preprocessor_config.json",
                457,
                "8454179ba95e2ad22947835aad7b45862a601fc0055ab88bf1ee70892d3aea60",
            ),
            WeightFile(
                "tokenizer.json",
                711_396,
                "d241a60d5e8f04cc1b2b3e9ef7a4921b27bf526d9f6050ab90f9267a1f9e5c66",
            ),
            WeightFile(
                "tokenizer_config.json",
                1_237,
                "d40ab645b68211910b9170d22433d43186a6ec8ee6fd10ba170524b25bf4fb56",
            ),
            WeightFile(
                "special_tokens_map.json",
                125,
                "b6d346be366a7d1d48332dbc9fdf3bf8960b5d879522b7799ddba59e76237ee3",
            ),
            WeightFile(
                "added_tokens.json",
                82,
                "909e96cb32d92ce728a01bc99850cbba26196d74115c17ebeb019275412588f2",
            ),
            WeightFile(
                "vocab.txt",
                231_508,
                "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
            ),
        ),
        licence="Apache-2.0 (IDEA Research)",
        knows="Photographs of nearly everything; Swin-T, trained on GLIP-T's data.",
        load=_load_successor,
    ),
    ModelRow(
        name="owlv2-base",
        title="OWLv2 base",
        task="detection",
        family="successor",
        preset="owlv2",
        source=Hub(
            "google/owlv2-base-patch16-ensemble", "cfd3195ba4ea9592eec887ded089f4c08eff231d"
        ),
        files=(
            WeightFile(
                "model.safetensors",
                619_918_824,
                "e1e130b9e404cf91a75ad45644c1da9d7fa5284085eecc864266a6923efb99e7",
            ),
            WeightFile(
                "config.json",
                414,
                "ba9df8c25a4b8461887dd0a93d9252c9cd84697fe8d49a9d8794ce409af9acb2",
            ),
            WeightFile(
                "preprocessor_config.json",
                425,
                "cf3e396635b797ee1a464e1b2836e98748f8edac19e89aaa2c93b55ac15b0064",
            ),
            WeightFile(
                "vocab.json",
                1_059_962,
                "e089ad92ba36837a0d31433e555c8f45fe601ab5c221d4f607ded32d9f7a4349",
            ),
            WeightFile(
                "merges.txt",
                524_619,
                "9fd691f7c8039210e0fced15865466c65820d09b63988b0174bfe25de299051a",
            ),
            WeightFile(
                "tokenizer_config.json",
                1_100,
                "b55cda6198e152ded427c8a9b3faf1cccf27a7fa080697a62f6ff143f511f44f",
            ),
            WeightFile(
                "special_tokens_map.json",
                121,
                "d6e2b9cf664efbad2d22998b8d3da986abcbeed3e0825ad33605c9401f9cf73e",
            ),
            WeightFile(
                "added_tokens.json",
                67,
                "e5dc0da35d20111e8ff3fdfc03682beca23d5f94ed74331bce81786b2636a24f",
            ),
        ),
        licence="Apache-2.0 (Google)",
        knows="Photographs of nearly everything; names, not sentences.",
        load=_load_successor,
    ),
    ModelRow(
        name="sam3",
        title="SAM 3",
        task="detection",
        family="successor",
        preset="sam3",
        source=Hub("facebook/sam3", "3c879f39826c281e95690f02c7821c4de09afae7"),
        # Its small files have no public SHA-256. They are data that Hugging Face's own program
        # fetched at this revision, beside the weights.
        files=(
            WeightFile(
                "model.safetensors",
                3_439_938_512,
                "6d06f0a5f84e435071fe6603e61d0b4cc7b40e0d39d487cfd4d67d8cc11cc14a",
            ),
        ),
        licence="SAM License (Meta), to be accepted there first",
        knows="Photographs of nearly everything, with masks; short noun phrases.",
        load=_load_gated_successor,
    ),
)

_ROWS = (
    _mini(
        "clip-mini",
        "CLIP mini",
        "clip",
        CLIP_MINI_FILES,
        "About 1,600 emoji things, drawn faces and 99 kinds of photographed things; any words.",
    ),
    _openai(
        "clip-vit-b-32",
        "CLIP ViT-B/32",
        "ViT-B-32",
        "timm/vit_base_patch32_clip_224.openai",
        "a6f597a30f7b82c51704746581f9a4e41421e878",
        605_143_284,
        "e6d1bd7789aa45192b3bf90570a789b478bae1b74ebcce7eddd908e83a2b7c31",
        "Nearly everything in 400 million web pictures; the smallest and fastest ViT of the paper.",
    ),
    _openai(
        "clip-vit-b-16",
        "CLIP ViT-B/16",
        "ViT-B-16",
        "timm/vit_base_patch16_clip_224.openai",
        "977e3dd0ec55ab8da155f2fbeb6b5f54948b6e3d",
        598_516_980,
        "4b8699299b1e8997753c64b052ba32031449d5d853f55a039148560ee02b820f",
        "Nearly everything in 400 million web pictures; finer patches, sharper maps.",
    ),
    _openai(
        "clip-vit-l-14",
        "CLIP ViT-L/14",
        "ViT-L-14",
        "timm/vit_large_patch14_clip_224.openai",
        "18d0535469bb561bf468d76c1d73aa35156c922b",
        1_710_517_724,
        "9ce2e8a8ebfff3793d7d375ad6d3c35cb9aebf3de7ace0fc7308accab7cd207e",
        "Nearly everything in 400 million web pictures; the paper's best at 224 pixels.",
    ),
    _openai(
        "clip-rn50",
        "CLIP ResNet-50",
        "RN50",
        "timm/resnet50_clip.openai",
        "ec3d92cf63a5f9d591f0d611b736895966c73076",
        408_291_932,
        "da0baa37fb2211eee5729ab69ed587eb10d48f5b7076ceeed01552fc3d4cb4ee",
        "Nearly everything in 400 million web pictures; the ConvNet of the paper.",
    ),
    ModelRow(
        name="clip-siglip2-b-16",
        title="SigLIP 2 ViT-B/16",
        task="clip",
        family="successor",
        preset="ViT-B-16-SigLIP2",
        source=Hub("timm/ViT-B-16-SigLIP2", "eee10eff6dd8cabae2d7f379d4e8cfcd352030aa"),
        files=(
            WeightFile(
                "open_clip_model.safetensors",
                1_500_786_832,
                "d0a51069d2fa6c95b371b3bffd2a2c765c1815004798ee99f075290dbca73041",
            ),
            # With the tokenizer beside the weights, `local-dir:` needs no hub at load time.
            WeightFile(
                "open_clip_config.json",
                944,
                "d0b2ac6d4524cb95287138b9e5fa345211be7242e5da7eb55be894614be33987",
            ),
            WeightFile(
                "tokenizer.json",
                34_362_885,
                "220c63d496e0c14e63eb656c91e0215e926202e4c74b1f089e09f1920d779b04",
            ),
            WeightFile(
                "tokenizer_config.json",
                46_382,
                "513e778583a9ac0b74ae47784216f9d654d5132eee62d777597f5e842701323c",
            ),
            WeightFile(
                "special_tokens_map.json",
                327,
                "d4671afd8f9b1ccd170443bd5478c0cc40fdbddc9343034caf6984ffd388b2c4",
            ),
        ),
        licence="Apache-2.0 (Google)",
        knows="Nearly everything on the web, in many languages; the modern choice.",
        load=_load_official,
        tag="webli",
        half=True,
    ),
    _mini(
        "clip-mini-critic",
        "CLIP mini, hardened",
        "clipdraw",
        CRITIC_FILES,
        "What CLIP mini knows, trained on adversarial pictures too, so that its gradients draw.",
    ),
    _mini(
        TEACHER,
        "CLIP mini, the detectors' teacher",
        "teacher",
        TEACHER_FILES,
        "What CLIP mini knew when the detectors learnt from it.",
    ),
    _mini(
        "clip-portraits",
        "CLIP mini, portraits",
        "styleclip",
        PORTRAITS_FILES,
        "Drawn faces and what they wear, looked at closely; any words.",
    ),
    ModelRow(
        name="stylegan2-mini",
        title="StyleGAN2 mini",
        task="stylegan",
        family="mini",
        preset="mini",
        source=Embedded(ASSETS / "stylegan2-mini"),
        files=STYLEGAN_MINI_FILES,
        licence="Apache-2.0",
        knows="Drawn avatars at 128 pixels.",
        load=_load_embedded_generator,
    ),
    ModelRow(
        name="e4e-mini",
        title="e4e mini",
        task="inversion",
        family="mini",
        preset="mini",
        source=Embedded(ASSETS / "e4e-mini"),
        files=E4E_MINI_FILES,
        licence="Apache-2.0",
        knows="Drawn avatars, and where StyleGAN2 mini has the like of them.",
        load=_load_inverter,
    ),
    _stylegan2(
        "ffhq",
        1024,
        132_717_355,
        "646c7e7c5e3fc4cf8e83dcfe5dce505cc74b61d8982c09563932aa15c4baf18c",
        "Faces of the FFHQ photographs.",
    ),
    _stylegan2(
        "car",
        512,
        123_949_595,
        "c69f161fd576801027cbaa8b09142b5dd9f508034b2d0f4a2a0cdcbc1d587c9c",
        "Cars (LSUN), 512 x 384 in a square.",
    ),
    _stylegan2(
        "cat",
        256,
        120_878_283,
        "ff1036877c8964ba7c9e84316e67ea26bea64bbfcf6bd6c645f45589d248727f",
        "Cats (LSUN).",
    ),
    _stylegan2(
        "church",
        256,
        120_878_283,
        "596f59f0ab72d3d5e821846dbf53fff0406c0103ff4fa46ae0a2508d80b3a2d0",
        "Churches (LSUN).",
    ),
    _stylegan2(
        "horse",
        256,
        120_878_283,
        "894bc6a08a6bbe4c22bf91195dd4fdd4ee7f6859e06ce3517e7b3bfa9a8b2565",
        "Horses (LSUN).",
    ),
    glip_mini_row(ASSETS / "glip-mini", GLIP_MINI_FILES),
    vild_mini_row("vild-mini", ASSETS / "vild-mini", VILD_MINI_FILES),
    *_DETECTORS,
)

CATALOG: Mapping[str, ModelRow] = MappingProxyType({row.name: row for row in _ROWS})
