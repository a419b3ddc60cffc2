"""The tabs of CLIP Atelier: one module each, listed here in the order they are shown.

`demos.TABS` is made at first use, so that importing a light module of this package
(`demos.ui.settings`, for `python app.py --help`) does not import torch.
"""

from __future__ import annotations

from typing import Any


def _tabs() -> tuple[Any, ...]:
    """A new tab is one import and one name here (`demos.ui.tab.Tab` says what it holds)."""
    from demos.clip import TAB as CLIP
    from demos.clipdraw import TAB as CLIPDRAW
    from demos.glip import TAB as GLIP
    from demos.styleclip import TAB as STYLECLIP
    from demos.vild import TAB as VILD

    return (CLIP, STYLECLIP, GLIP, VILD, CLIPDRAW)


def __getattr__(name: str) -> Any:
    if name == "TABS":
        return _tabs()
    raise AttributeError(f"module 'demos' has no attribute {name!r}")
