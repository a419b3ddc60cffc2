"""Do edits do what their words ask, and what else do they do?

Twelve edits of thirty avatars each, by every method of StyleCLIP. The judge
(`training.avatar_judge`) reads the attributes off the picture before and after; it has seen no
word, and no method is optimised against it.

An edit starts from avatars on which the judge reads plainly the opposite of what is asked (long
hair starts from short hair). It succeeds when the reading has crossed the middle between the
plain ends, and the attribute is still to be seen. What else changed is the mean absolute change
of all attributes not asked for, in units of their standard deviation over the world's avatars.
"""

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from models.catalog import ASSETS
from models.clip import ClipEncoder, load_mini
from models.errors import InputError
from models.jobs import run_to_end
from models.styleclip.derivative import ProbeSettings, probe
from models.styleclip.directions import (
    ALPHA,
    MANY_CHANNELS,
    ChannelRelevance,
    Direction,
    auto_beta,
    boundary,
)
from models.styleclip.fs3 import Fs3
from models.styleclip.identity import AvatarIdentity
from models.styleclip.mapper import apply_mapper, load_mapper
from models.styleclip.optimization import OptimizationSettings, optimize
from models.styleclip.prompt import EditPrompt
from models.styleclip.templates import EDIT_TEMPLATES, text_direction
from models.stylegan.checkpoints import load_generator
from models.stylegan.generator import Generator
from models.stylegan.latent import Latent
from training.avatar_judge import COLUMN, AvatarJudge, differences, load_judge, visible
from training.clip_evaluation import Figure
from training.world.avatars import ATTRIBUTES

SEED = 881_000  # of the first avatar; no training and no tuning looks at these
COUNT = 30
BATCH = 50
SEARCHED = 6_000  # avatars looked at for thirty that an edit may start from
GENERATOR, FS3, MAPPERS = "model.safetensors", "fs3.safetensors", "mappers"  # in one folder
TABLE = ASSETS.parent / "readme" / "styleclip.md"
BETAS = (0.08, 0.15, 0.25)  # beside the automatic one
PROBES = ProbeSettings()
STRENGTHS = (1.0, 0.7, 1.4)  # of mappers; the first is what they were trained for
Edited = Callable[["Edit", Latent], Latent]


@dataclass(frozen=True)
class Edit:
    """One edit in words, and what the judge must read for it to count.

    Attributes:
        name: for tables; the mapper's file is called so too.
        prompt: the target as the judge's attribute means it, and what it starts from.
        attribute: what is asked for, a name in `avatars.NAMES`.
        up: towards the attribute's high end.
        given: attributes that must plainly be there at the start (glasses, to make sunglasses of).
    """

    name: str
    prompt: EditPrompt
    attribute: str
    up: bool
    given: tuple[str, ...] = ()

    @property
    def column(self) -> int:
        return COLUMN[self.attribute]

    def may_start(self, read: NDArray[np.floating]) -> NDArray[np.bool_]:
        """Which avatars plainly show the opposite: (N, A) readings -> (N,)."""
        attribute, values = ATTRIBUTES[self.column], read[:, self.column]
        opposite = values <= attribute.low if self.up else values >= attribute.high
        for name in self.given:
            opposite &= read[:, COLUMN[name]] >= ATTRIBUTES[COLUMN[name]].high
        return opposite & visible(read)[:, self.column]

    def crossed(self, read: NDArray[np.floating]) -> NDArray[np.bool_]:
        """Which avatars are on the asked side of the middle: (N, A) -> (N,)."""
        attribute = ATTRIBUTES[self.column]
        return self._beyond(read, (attribute.low + attribute.high) / 2)

    def plain(self, read: NDArray[np.floating]) -> NDArray[np.bool_]:
        """Which avatars plainly show what was asked, as captions would say it: (N, A) -> (N,)."""
        attribute = ATTRIBUTES[self.column]
        return self._beyond(read, attribute.high if self.up else attribute.low)

    def _beyond(self, read: NDArray[np.floating], bound: float) -> NDArray[np.bool_]:
        values = read[:, self.column]
        there = values >= bound if self.up else values <= bound
        return there & visible(read)[:, self.column]

    def others(
        self, before: NDArray[np.floating], after: NDArray[np.floating]
    ) -> NDArray[np.float64]:
        """(N,) mean change of the visible attributes not asked for, in standard deviations."""
        moved = differences(before, after)
        moved[:, self.column] = np.nan
        changes: NDArray[np.float64] = np.nanmean(moved, axis=1)
        return changes


def _edit(name: str, target: str, neutral: str, attribute: str, up: bool = True,
          given: tuple[str, ...] = ()) -> Edit:  # fmt: skip
    prompt = EditPrompt(f"a person {target}", f"a person {neutral}".strip())
    return Edit(name, prompt, attribute, up, given)


# Fixed before any edit was made, as what clip-mini-critic read best among what has everyday words.
# clip-portraits, which took its place, reads them at 100, 100, 100, 99, 90, 90, 100, 76, 100, 99, 100
# and 100% (two-way, 300 drawn avatars; chance is 50).
EDITS = (
    _edit("glasses", "with glasses", "without glasses", "glasses"),
    _edit("sunglasses", "with sunglasses", "with clear glasses", "glasses_tint",
          given=("glasses",)),
    _edit("hat", "with a hat on", "bareheaded", "hat"),
    _edit("beard", "with a full beard", "with a bare chin", "beard"),
    _edit("smile", "with a smile", "with a frown", "smile"),
    _edit("sad", "with a frown", "with a smile", "smile", up=False),
    _edit("long-hair", "with long hair", "with short hair", "hair_length"),
    _edit("curly-hair", "with curly hair", "with straight hair", "hair_curl"),
    _edit("white-hair", "with white hair", "with black hair", "hair_colour"),
    _edit("dark-skin", "with dark skin", "with fair skin", "skin_tone", up=False),
    _edit("open-mouth", "with an open mouth", "with a closed mouth", "mouth_open"),
    _edit("light-background", "on a bright background", "against a dark wall", "background_tone"),
)  # fmt: skip


@dataclass(frozen=True)
class Method:
    """A way to edit at one setting.

    Attributes:
        name: "optimisation", "mapper" or "global directions".
        setting: its disentanglement, in words.
        edit: (edit, latent) -> edited latent.
        knows: edits it can make; None is all.
        bar: percent of its edits that must succeed; None where nothing was promised.
        most: avatars edited at most; slow variants are measured on fewer.
    """

    name: str
    setting: str
    edit: Edited
    knows: frozenset[str] | None = None
    bar: float | None = None
    most: int = COUNT


def optimisation(generator: Generator, clip: ClipEncoder) -> Iterator[Method]:
    """As the app does it, with the identity term, and held closer to the start."""
    usual = OptimizationSettings.mini()
    for setting, settings, bar, most in (
        ("as set", usual, 80.0, COUNT),
        ("identity 0.3", replace(usual, identity=0.3), None, COUNT // 10),
        ("4 x L2", replace(usual, l2=4 * usual.l2), None, COUNT // 10),
    ):

        def edit(asked: Edit, latent: Latent, settings: OptimizationSettings = settings) -> Latent:
            identity = AvatarIdentity.of_prompt(clip, asked.prompt)
            work = optimize(generator, clip, latent, asked.prompt, settings, identity)
            return run_to_end(work).latent

        yield Method("optimisation", setting, edit, bar=bar, most=most)


def mapper(generator: Generator, folder: Path) -> Iterator[Method]:
    """Those of the edits that a mapper in the folder is named after, at three strengths."""
    paths = {edit.name: folder / f"{edit.name}.safetensors" for edit in EDITS}
    mappers = {name: load_mapper(path) for name, path in paths.items() if path.is_file()}
    for strength in STRENGTHS if mappers else ():

        def edit(asked: Edit, latent: Latent, strength: float = strength) -> Latent:
            return apply_mapper(mappers[asked.name], generator, latent, strength)

        bar = 85.0 if strength == STRENGTHS[0] else None
        yield Method("mapper", f"strength {strength:g}", edit, frozenset(mappers), bar)


def global_directions(generator: Generator, clip: ClipEncoder, table: Fs3) -> Iterator[Method]:
    """At the reference's strength: from the measured table with the automatic beta and with fixed
    ones, and from one gradient for each prompt with the automatic one."""
    words = EDIT_TEMPLATES["portraits"]
    asked = {edit.name: text_direction(clip, edit.prompt, words) for edit in EDITS}
    measured = {name: table.relevance(dt, generator.layout) for name, dt in asked.items()}
    for beta in (None, *BETAS):
        setting = "auto beta" if beta is None else f"beta {beta:g}"
        yield _directed(measured, table, setting, beta, bar=85.0 if beta is None else None)
    probes = run_to_end(probe(generator, clip, PROBES))
    gradients = {name: probes.relevance(generator, clip, dt) for name, dt in asked.items()}
    yield _directed(gradients, table, "gradient, auto beta", None)


def _directed(
    relevances: Mapping[str, ChannelRelevance], table: Fs3, setting: str, beta: float | None,
    bar: float | None = None,
) -> Method:  # fmt: skip
    def at(relevance: ChannelRelevance) -> Direction | None:
        """None where so high a beta leaves nothing to move."""
        try:
            found = auto_beta(relevance, MANY_CHANNELS) if beta is None else beta
            return boundary(relevance, found, table.statistics)
        except InputError:
            return None

    directions = {name: at(relevance) for name, relevance in relevances.items()}

    def edit(asked: Edit, latent: Latent) -> Latent:
        direction = directions[asked.name]
        return latent if direction is None else latent.moved(direction.direction, ALPHA)

    return Method("global directions", setting, edit, bar=bar)


@dataclass(frozen=True)
class Outcome:
    """What one method at one setting did in all avatars of one edit.

    Attributes:
        crossed, plain: shares of edits in [0, 1], see `Edit`.
        others: mean change of what was not asked for, in standard deviations.
        count: avatars edited.
    """

    method: Method
    edit: Edit
    crossed: float
    plain: float
    others: float
    count: int


class Studio:
    """The generator, the judge, and what the judge reads in the generator's pictures."""

    def __init__(self, generator: Generator, judge: AvatarJudge) -> None:
        self.generator, self.judge = generator, judge

    @torch.inference_mode()
    def read(self, latents: Sequence[Latent]) -> NDArray[np.float64]:
        """(N, A) readings of the pictures of latents."""
        parts = []
        for first in range(0, len(latents), BATCH):
            some = [latent.styles(self.generator) for latent in latents[first : first + BATCH]]
            styles = [torch.cat(vectors) for vectors in zip(*some, strict=True)]
            picture = self.generator.synthesize(styles).float().cpu()
            parts.append(self.judge.read((picture + 1) / 2))
        return np.concatenate(parts)

    def starts(
        self, edits: Sequence[Edit], count: int = COUNT, searched: int = SEARCHED
    ) -> dict[str, list[Latent]]:
        """The first `count` random avatars, by seed, that each edit may start from.

        Fewer where `searched` avatars do not hold as many.
        """
        found: dict[str, list[Latent]] = {edit.name: [] for edit in edits}
        for first in range(SEED, SEED + searched, BATCH):
            missing = [edit for edit in edits if len(found[edit.name]) < count]
            if not missing:
                break
            latents = [Latent.from_seed(self.generator, first + i) for i in range(BATCH)]
            read = self.read(latents)
            for edit in missing:
                chosen = np.flatnonzero(edit.may_start(read)).tolist()
                found[edit.name] += [latents[place] for place in chosen]
        return {name: latents[:count] for name, latents in found.items()}

    def judged(self, method: Method, edit: Edit, starts: Sequence[Latent]) -> Outcome:
        """Edit every start and read what became of it."""
        before = self.read(starts)
        after = self.read([method.edit(edit, latent) for latent in starts])
        return Outcome(
            method, edit, float(edit.crossed(after).mean()), float(edit.plain(after).mean()),
            float(edit.others(before, after).mean()), len(starts),
        )  # fmt: skip

    def strangers(self, starts: Mapping[str, Sequence[Latent]]) -> float:
        """How much two different avatars differ, in the unit of `Outcome.others`."""
        latents = [latent for some in starts.values() for latent in some]
        read = self.read(latents)
        return float(np.nanmean(differences(read, np.roll(read, len(latents) // 2, axis=0))))


def outcomes(
    studio: Studio, methods: Sequence[Method], starts: Mapping[str, Sequence[Latent]],
    edits: Sequence[Edit] = EDITS,
) -> Iterator[Outcome]:  # fmt: skip
    """Every method on every edit it knows and for which there are avatars to start from."""
    for method in methods:
        for edit in edits:
            known = method.knows is None or edit.name in method.knows
            if known and starts[edit.name]:
                yield studio.judged(method, edit, starts[edit.name][: method.most])


def figures(found: Sequence[Outcome]) -> Iterator[Figure]:
    """One method at one setting: all its edits together, then one by one."""
    method = found[0].method
    title = f"{method.name}, {method.setting}"
    total = sum(outcome.count for outcome in found)

    def mean(values: Callable[[Outcome], float]) -> float:
        return sum(values(outcome) * outcome.count for outcome in found) / total

    yield Figure(f"{title}: {len(found)} edits of {total} avatars that succeed",
                 100 * mean(lambda o: o.crossed), method.bar)  # fmt: skip
    yield Figure(f"{title}: plainly there", 100 * mean(lambda o: o.plain), None)
    yield Figure(f"{title}: other attributes changed", mean(lambda o: o.others), None, "sd")
    for outcome in found:
        yield Figure(f"{title}: {outcome.edit.name} ({outcome.count})", 100 * outcome.crossed, None)


def table(found: Sequence[Outcome], edits: Sequence[Edit] = EDITS) -> str:
    """Markdown for the README: an edit a row, a method and setting a column."""
    methods = list(dict.fromkeys(outcome.method for outcome in found))
    cells = {(o.method, o.edit.name): f"{100 * o.crossed:.0f}% / {o.others:.2f}" for o in found}
    lines = [
        "| edit | " + " | ".join(f"{m.name}, {m.setting}" for m in methods) + " |",
        "|---|" + "---|" * len(methods),
    ]
    for edit in edits:
        row = [cells.get((method, edit.name), "") for method in methods]
        lines.append(f"| {edit.name.replace('-', ' ')} | " + " | ".join(row) + " |")
    means = []
    for method in methods:
        mine = [outcome for outcome in found if outcome.method == method]
        crossed = statistics.fmean(outcome.crossed for outcome in mine)
        others = statistics.fmean(outcome.others for outcome in mine)
        means.append(f"**{100 * crossed:.0f}% / {others:.2f}**")
    return "\n".join([*lines, "| **all** | " + " | ".join(means) + " |"])


def methods(generator: Generator, directory: Path) -> Iterator[Method]:
    """All methods at all settings; mappers and the table of directions lie in the folder. What
    steers the optimisation is the embedded CLIP with which the table was measured."""
    fs3 = Fs3.load(directory / FS3)
    clip = load_mini(ASSETS / fs3.about["clip"], torch.device("cpu"), torch.float32)
    yield from global_directions(generator, clip, fs3)
    yield from optimisation(generator, clip)
    yield from mapper(generator, directory / MAPPERS)


def evaluate(directory: Path) -> Iterator[Figure]:
    """All figures of the edits of a folder's generator; writes the README's table."""
    generator = load_generator(directory / GENERATOR)
    studio = Studio(generator, load_judge())
    starts = studio.starts(EDITS)
    yield Figure("two different avatars differ by", studio.strangers(starts), None, "sd")
    found: list[Outcome] = []
    for method in methods(generator, directory):
        mine = list(outcomes(studio, [method], starts))
        found += mine
        if mine:
            yield from figures(mine)
    TABLE.write_text(table(found) + "\n", encoding="utf-8")
