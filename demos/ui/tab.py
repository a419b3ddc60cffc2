"""What a tab is, and what it is given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from demos.ui.jobs import JobRunner
from demos.ui.settings import Settings
from demos.ui.share import Field
from models.registry import Registry


@dataclass(frozen=True)
class Atelier:
    """What every tab of one running app shares: how it was started, its models, its device."""

    settings: Settings
    registry: Registry
    jobs: JobRunner


@dataclass(frozen=True)
class Tab:
    """One method on show.

    key:       short name in the address (`?tab=clip`) and the task its catalogue rows carry.
    title:     what the tab's button says.
    build:     draws the tab into the open `gr.Tab`, wires its events, and returns the fields that
               a share link carries. The page adds the link button and restores the fields.
    endpoints: names of the API endpoints it offers, as in `/clip_classify`.
    warm:      runs a preloaded model once, so that the first visitor doesn't wait; called with the
               app and the name of a model whose task is this tab's key.
    css:       the tab's own style rules.
    head:      the tab's own script, as it stands in the page's head.
    tasks:     further tasks whose catalogue rows it warms.
    """

    key: str
    title: str
    build: Callable[[Atelier], Sequence[Field]]
    endpoints: tuple[str, ...]
    warm: Callable[[Atelier, str], None] | None = None
    css: str = ""
    head: str = ""
    tasks: tuple[str, ...] = ()
