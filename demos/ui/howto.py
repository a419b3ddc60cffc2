"""The "How it works" panel: our own diagram, a few words, and where to read on."""

from __future__ import annotations

from html import escape

import gradio as gr


def how_it_works(svg: str, text: str, *, paper: str, url: str) -> None:
    """An accordion, closed at first, with a diagram above Markdown `text` and the paper's link.

    svg: our own inline `<svg>`, trusted as code is; it draws in `currentColor` and the classes
         `ink`, `soft`, `accent`, `warm`, `fill-soft`, `fill-accent`, `fill-warm`, so that it reads
         in light and dark, and has a `<title>` for those who can't see it.
    """
    with gr.Accordion("How it works", open=False, elem_classes="atelier-howto"):
        gr.HTML(f'<div class="atelier-diagram">{svg}</div>', padding=False)
        gr.Markdown(text)
        gr.HTML(
            f'<p class="atelier-paper">Paper: <a href="{escape(url)}" target="_blank" '
            f'rel="noopener noreferrer">{escape(paper)}</a></p>',
            padding=False,
        )
