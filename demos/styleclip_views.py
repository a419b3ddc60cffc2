"""How the StyleCLIP tab shows a comparison and the layers of an edit: escaped HTML and SVG."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from itertools import groupby
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.components.imageslider import SliderData
from gradio.data_classes import ImageData
from PIL import Image

from demos.ui.live import curve, data_uri
from demos.ui.variant import variant
from models.styleclip.directions import LayerActivity

CSS = (Path(__file__).parent / "styleclip.css").read_text(encoding="utf-8")


def _in_page(component: gr.ImageSlider, value: Any) -> SliderData | None:
    """Paths of cached files, which a browser asks for once, and Pillow pictures, which go into the
    page: Gradio would write every picture of a moving slider to its cache and have it fetched."""
    if value is None:
        return None
    before, after = (
        ImageData(path=picture) if isinstance(picture, str) else ImageData(url=data_uri(picture))
        for picture in value
    )
    return SliderData(root=(before, after))


_Comparison = variant(gr.ImageSlider, postprocess=_in_page)


def comparison(label: str) -> gr.ImageSlider:
    """Before and after under one handle."""
    return _Comparison(
        label=label, interactive=False, buttons=["fullscreen"], max_height=640,
        elem_classes="edit-compare",
    )  # fmt: skip


def nothing() -> str:
    """The panel before there is anything to tell."""
    return '<div class="edit-panel"></div>'


def panel(layers: Sequence[LayerActivity], losses: Sequence[float] = ()) -> str:
    """Which style vectors change, as a strip of bars by resolution, and the curve of a loss."""
    bars = _strip(layers) if layers else ""
    return f'<div class="edit-panel">{bars}{curve(losses) if losses else ""}</div>'


def running(losses: Sequence[float], preview: Image.Image | None = None) -> str:
    """The panel while an optimisation or a training runs; a training shows its pictures, too."""
    shown = ""
    if preview is not None:
        shown = (
            f'<img src="{data_uri(preview)}" alt="Pictures before (above) and after (below) the '
            'edit that is being learned">'
        )
    return f'<div class="edit-panel">{curve(losses) if losses else ""}{shown}</div>'


def _strip(layers: Sequence[LayerActivity]) -> str:
    channels = sum(layer.channels for layer in layers)
    moved = sum(bool(layer.channels) for layer in layers)
    highest = max(max(layer.norm for layer in layers), 1e-9)
    groups = "".join(
        f'<div class="group"><div class="bars">{"".join(_bar(la, highest) for la in members)}</div>'
        f"<span>{resolution}</span></div>"
        for resolution, members in groupby(layers, key=lambda layer: layer.slot.resolution)
    )
    told = f"{channels:,} channels in {moved} of {len(layers)} layers"
    return (
        f'<div class="edit-head"><b>What changes</b><span>{told}</span></div>'
        f'<div class="edit-strip" role="img" aria-label="{escape(told)}">{groups}</div>'
        '<div class="edit-axis">Layers by resolution, coarse to fine; height is the change in '
        "standard deviations, pale bars are colour layers (ToRGB).</div>"
    )


def _bar(layer: LayerActivity, highest: float) -> str:
    kind = "rgb" if layer.slot.is_rgb else "conv"
    height = 100 * layer.norm / highest
    title = f"{layer.channels} of {layer.slot.size} channels, {layer.norm:.2f} sigma"
    return f'<i class="{kind}" style="--tall:{height:.1f}%" title="{escape(title)}"></i>'


# ------------------------------------------------------------------------------ how it works

DIAGRAM = """
<svg viewBox="0 0 880 292" role="img" fill="none" stroke-width="2" xmlns="http://www.w3.org/2000/svg">
<title>StyleCLIP: a latent becomes one style vector per layer and these a picture; CLIP compares it with
the words; three methods move the latent: optimisation by the gradient, a trained mapper in one step,
a global direction by a slider.</title>
<g font-size="15" stroke="none">
<text x="70" y="28" text-anchor="middle" font-weight="700">Latent w</text>
<text x="282" y="28" text-anchor="middle" font-weight="700">StyleSpace</text>
<text x="510" y="28" text-anchor="middle" font-weight="700">Picture</text>
<text x="752" y="28" text-anchor="middle" font-weight="700">CLIP</text>
</g>
<g class="accent"><circle cx="70" cy="112" r="38" class="accent fill-soft"/><circle cx="82" cy="100" r="6" class="fill-accent" stroke="none"/></g>
<path d="M116 112h58m-9-7l9 7-9 7" class="ink"/>
<g class="fill-accent" stroke="none">
<rect x="196" y="66" width="14" height="92" rx="3"/><rect x="218" y="66" width="14" height="92" rx="3"/><rect x="240" y="66" width="14" height="92" rx="3" opacity=".45"/>
<rect x="262" y="80" width="14" height="64" rx="3"/><rect x="284" y="80" width="14" height="64" rx="3"/><rect x="306" y="80" width="14" height="64" rx="3" opacity=".45"/>
<rect x="328" y="94" width="14" height="36" rx="3"/><rect x="350" y="94" width="14" height="36" rx="3"/><rect x="372" y="94" width="14" height="36" rx="3" opacity=".45"/></g>
<path d="M398 112h46m-9-7l9 7-9 7" class="ink"/>
<rect x="458" y="58" width="108" height="108" rx="12" class="ink fill-soft"/>
<circle cx="512" cy="106" r="30" class="ink"/><circle cx="501" cy="101" r="8" class="warm"/><circle cx="523" cy="101" r="8" class="warm"/><path d="M509 101h6" class="warm"/>
<path d="M498 118q14 12 28 0" class="ink"/>
<path d="M578 112h58m-9-7l9 7-9 7" class="ink"/>
<path d="M654 66l92 20v52l-92 20z" class="fill-accent" stroke="none" opacity=".9"/>
<g font-size="15" stroke="none"><text x="760" y="104">“a face with</text><text x="760" y="124">glasses”</text></g>
<path d="M700 170v30H70v-36m-7 9l7-9 7 9" class="warm" stroke-width="3"/>
<path d="M282 200v-28m-7 9l7-9 7 9" class="warm" stroke-width="3"/>
<g font-size="15" stroke="none">
<text x="150" y="228" class="accent" text-anchor="middle">Optimise:</text><text x="150" y="248" text-anchor="middle" class="soft">the gradient moves this</text><text x="150" y="268" text-anchor="middle" class="soft">one latent, step by step</text>
<text x="420" y="228" class="accent" text-anchor="middle">Mapper:</text><text x="420" y="248" text-anchor="middle" class="soft">a small network learned</text><text x="420" y="268" text-anchor="middle" class="soft">the edit for all latents</text>
<text x="700" y="228" class="accent" text-anchor="middle">Global directions:</text><text x="700" y="248" text-anchor="middle" class="soft">channels that CLIP finds</text><text x="700" y="268" text-anchor="middle" class="soft">in the words, any picture</text>
</g></svg>
"""

HOW = """
A **StyleGAN2** draws a face from a latent *w*; each layer reads its own style vector, and all of
them together are *StyleSpace*. **CLIP** says how near a picture is to words. StyleCLIP moves the
latent so that the picture comes nearer to the words and stays the same in everything else.

- **Global directions**: for each channel of StyleSpace it is known what CLIP sees when that channel
  moves. Words pick the channels that fit; *strength* says how far they move, negative strength the
  opposite way; *disentanglement* is the threshold: higher moves fewer channels and leaves more of
  the person alone. The neutral text says where the words start: “a face” to “a smiling face”.
- **Mapper**: a small network that learned one edit for every face. Those in the list are trained;
  *Train for these words* makes another one, which then answers at once.
- **Optimise**: gradient descent for this one picture. *L2* and *identity* hold it back; without
  them (*free generation*) CLIP alone decides what the face of the average becomes.
- **Accept** keeps an edit and goes on from there; undo, redo and the pictures below lead back.
- Where nobody measured the table of channels, or the table is not wanted, one **gradient** for the
  words stands in for it: quick, for any words, and only right for small moves.
"""
