"""Components of Gradio with one method of ours."""

from __future__ import annotations

from abc import ABCMeta
from collections.abc import Callable
from typing import Any, TypeVar

from gradio.component_meta import ComponentMeta

C = TypeVar("C")


def variant(parent: type[C], **methods: Callable[..., Any]) -> type[C]:
    """A subclass of a component, with methods of ours; the browser shows the parent.

    A subclass, because Gradio makes a component anew, from its class, for every session in which
    an event updates or skips it: a method set on an instance is gone then. Not by a `class`
    statement, because Gradio's metaclass answers each with a `.pyi` file beside the source.
    """
    made: Any = ABCMeta.__new__(ComponentMeta, parent.__name__, (parent,), dict(methods))
    return made  # type: ignore[no-any-return]
