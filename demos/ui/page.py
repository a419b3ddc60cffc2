"""The page: header, one `gr.Tab` per method, links, and what the app's health address says."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

import gradio as gr

from demos.ui import boxes, keyboard, share, theme
from demos.ui.share import Field
from demos.ui.tab import Atelier, Tab

TITLE = "CLIP Atelier"
LINE = "Words and pictures, side by side, on your own machine."
_DAY_S = 24 * 3600


def build_page(atelier: Atelier, tabs: Sequence[Tab]) -> gr.Blocks:
    """The whole page, ready for `launch(**look(tabs, ...))`."""
    page = gr.Blocks(
        title=TITLE, analytics_enabled=False, fill_width=True, delete_cache=(3600, _DAY_S)
    )
    with page:
        gr.HTML(_header(atelier), padding=False, elem_classes="atelier-header")
        fields: dict[str, Sequence[Field]] = {}
        with gr.Tabs(elem_id="atelier-tabs", selected=tabs[0].key) as switch:
            for tab in tabs:
                with gr.Tab(tab.title, id=tab.key):
                    fields[tab.key] = tab.build(atelier)
                    share.link_button(tab.key, fields[tab.key])
        _restore_from_link(page, switch, fields)
    return page


def look(tabs: Sequence[Tab], *, present: bool) -> dict[str, Any]:
    """The keyword arguments of `launch` that make the look: theme, CSS, keys, footer, history."""
    # As a <style>, because Gradio rewrites what is given as `css=` and breaks `:is()` and `@media`.
    css = "\n".join((theme.css(), boxes.CSS, *(tab.css for tab in tabs)))
    return {
        "theme": theme.theme(present=present),
        "head": "".join(
            (keyboard.HEAD, boxes.HEAD, *(tab.head for tab in tabs), f"<style>{css}</style>")
        ),
        "footer_links": [] if present else ["api", "runs", "settings"],
        "run_history": not present,
    }


def _restore_from_link(
    page: gr.Blocks, switch: gr.Tabs, fields: dict[str, Sequence[Field]]
) -> None:
    """On load, open the tab of `?tab=` and give its fields the values the link carries."""
    targets = [(key, field) for key, tab_fields in fields.items() for field in tab_fields]

    def restore(request: gr.Request) -> list[Any]:
        params = dict(request.query_params)
        key = params.get("tab", "")
        if key not in fields:
            return [gr.skip()] * (1 + len(targets))
        values = share.restore(fields[key], params)
        return [gr.Tabs(selected=key)] + [
            values.get(field.name, gr.skip()) if owner == key else gr.skip()
            for owner, field in targets
        ]

    page.load(
        restore,
        None,
        [switch, *(field.component for _, field in targets)],
        queue=False,
        show_progress="hidden",
        api_visibility="private",
    )


def _header(atelier: Atelier) -> str:
    """Name and line; what `--preload` named is warm by the time anyone sees the page."""
    warm = ", ".join(atelier.settings.preload)
    ready = f'<span class="ready">ready: {escape(warm)} on {atelier.registry.device}</span>'
    return (
        f"<header>{theme.MARK}<div><h1>{escape(TITLE)}</h1><p>{escape(LINE)}</p></div>"
        f"{ready if warm else ''}</header>"
    )
