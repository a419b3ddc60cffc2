"""The one line under a run button: progress while it runs, afterwards what it took."""

from __future__ import annotations

from html import escape

import gradio as gr
import psutil

from models.jobs import Step


def status_line() -> gr.HTML:
    """The line itself, empty; its values come from `progress`, `badge` and `stopped`."""
    return gr.HTML("", elem_classes="atelier-status", padding=False)


def progress(step: Step) -> str:
    """A bar and the step's message, as HTML."""
    percent = f"{100 * step.fraction:.0f}%"
    return (
        '<div class="atelier-progress" role="status">'
        f'<span class="bar"><i style="width:{percent}"></i></span>'
        f"<span>{escape(step.message)} · {percent}</span></div>"
    )


def badge(model: str, device: str, seconds: float) -> str:
    """What a finished run took, as HTML: model, device, seconds, memory in use right now."""
    facts = (model, device, _seconds(seconds), f"{memory_bytes(device) / 1e6:,.0f} MB")
    chips = "".join(f"<span>{escape(fact)}</span>" for fact in facts)
    return f'<div class="atelier-badge" role="status">{chips}</div>'


def stopped() -> str:
    """What the line says after the Stop button."""
    return said("stopped")


def said(text: str) -> str:
    """A few words on the line, as HTML."""
    return f'<div class="atelier-badge" role="status"><span>{escape(text)}</span></div>'


def memory_bytes(device: str) -> int:
    """Bytes in use: the GPU's allocated memory on cuda, elsewhere what this process holds."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.memory_allocated(device)
    return int(psutil.Process().memory_info().rss)


def _seconds(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"
