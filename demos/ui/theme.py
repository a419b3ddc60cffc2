"""The look: ultramarine and marigold on cool paper, light and dark, in one embedded typeface.

Everything travels inside the page's own style sheet; nothing is fetched from anywhere.
"""

from __future__ import annotations

import base64
from pathlib import Path

import gradio as gr
from gradio.themes.utils import colors, fonts, sizes

FONT_DIR = Path(__file__).parents[2] / "assets" / "fonts"

ULTRAMARINE = colors.Color(
    name="ultramarine",
    c50="#eef0ff",
    c100="#dfe3ff",
    c200="#c3caff",
    c300="#9ea8ff",
    c400="#7b83fb",
    c500="#5a5cf0",
    c600="#4340d8",
    c700="#3733b0",
    c800="#2c2a86",
    c900="#232263",
    c950="#16153d",
)
INK = colors.Color(
    name="ink",
    c50="#f7f8fb",
    c100="#eef0f5",
    c200="#dfe2ea",
    c300="#c5cad6",
    c400="#949bad",
    c500="#6a7185",
    c600="#4e5568",
    c700="#383e4f",
    c800="#232838",
    c900="#171b28",
    c950="#0e111b",
)

_PROJECTOR_TEXT = sizes.Size(
    name="projector", xxs="14px", xs="16px", sm="18px", md="21px", lg="24px", xl="30px", xxl="38px"
)

# Two sheets laid over one another, a picture and its words: what CLIP is about.
MARK = (
    '<svg viewBox="0 0 48 48" width="40" height="40" aria-hidden="true">'
    '<rect x="3" y="3" width="28" height="28" rx="7" fill="#4f4cf0"/>'
    '<circle cx="31" cy="31" r="14" fill="#ffb020"/>'
    '<path d="M31 17a14 14 0 0 0-14 14h7a7 7 0 0 0 7-7z" fill="#17162f"/>'
    "</svg>"
)

# What each file holds, from the fontsource package's own style sheet.
_SUBSETS = {
    "latin": "U+0000-00FF,U+0131,U+0152-0153,U+02BB-02BC,U+02C6,U+02DA,U+02DC,U+0304,U+0308,"
    "U+0329,U+2000-206F,U+20AC,U+2122,U+2191,U+2193,U+2212,U+2215,U+FEFF,U+FFFD",
    "latin-ext": "U+0100-02BA,U+02BD-02C5,U+02C7-02CC,U+02CE-02D7,U+02DD-02FF,U+0304,U+0308,"
    "U+0329,U+1D00-1DBF,U+1E00-1E9F,U+1EF2-1EFF,U+2020,U+20A0-20AB,U+20AD-20C0,U+2113,"
    "U+2C60-2C7F,U+A720-A7FF",
}


class EmbeddedFont(fonts.Font):
    """A typeface from `assets/fonts/` that travels inside the style sheet (35 kB for Figtree)."""

    def __init__(self, name: str, weights: tuple[int, ...] = (400, 700)) -> None:
        super().__init__(name)
        self.weights = weights

    def stylesheet(self) -> dict[str, str | None]:
        """CSS `@font-face` rules with the files as data addresses."""
        rules = [
            f"@font-face{{font-family:'{self.name}';font-weight:{weight};font-style:normal;"
            f"font-display:swap;unicode-range:{characters};"
            f"src:url(data:font/woff2;base64,{self._read(subset, weight)}) format('woff2')}}"
            for weight in self.weights
            for subset, characters in _SUBSETS.items()
        ]
        return {"url": None, "css": "\n".join(rules)}

    def _read(self, subset: str, weight: int) -> str:
        path = FONT_DIR / f"{self.name.lower()}-{subset}-{weight}-normal.woff2"
        return base64.b64encode(path.read_bytes()).decode()


def theme(*, present: bool) -> gr.themes.Base:
    """The app's Gradio theme; with `present`, in type for the last row."""
    return gr.themes.Base(
        primary_hue=ULTRAMARINE,
        secondary_hue=ULTRAMARINE,
        neutral_hue=INK,
        text_size=_PROJECTOR_TEXT if present else sizes.text_md,
        spacing_size=sizes.spacing_md,
        radius_size=sizes.radius_lg,
        font=(EmbeddedFont("Figtree"), "system-ui", "sans-serif"),
        font_mono=("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace"),
    ).set(
        body_background_fill="*neutral_50",
        body_background_fill_dark="*neutral_950",
        body_text_color="*neutral_900",
        body_text_color_dark="*neutral_100",
        body_text_color_subdued="*neutral_500",
        body_text_color_subdued_dark="*neutral_400",
        background_fill_primary="white",
        background_fill_primary_dark="*neutral_900",
        background_fill_secondary="*neutral_100",
        background_fill_secondary_dark="*neutral_800",
        border_color_primary="*neutral_200",
        border_color_primary_dark="*neutral_700",
        block_background_fill="white",
        block_background_fill_dark="*neutral_900",
        block_border_width="1px",
        block_border_color="*neutral_200",
        block_border_color_dark="*neutral_800",
        block_shadow="none",
        block_shadow_dark="none",
        block_label_background_fill="transparent",
        block_label_background_fill_dark="transparent",
        block_label_border_width="0",
        block_label_border_width_dark="0",
        block_label_text_color="*neutral_600",
        block_label_text_color_dark="*neutral_300",
        block_label_text_weight="700",
        block_title_text_color="*neutral_700",
        block_title_text_color_dark="*neutral_200",
        block_title_text_weight="700",
        input_background_fill="*neutral_50",
        input_background_fill_dark="*neutral_950",
        input_border_color="*neutral_200",
        input_border_color_dark="*neutral_700",
        input_border_color_focus="*primary_500",
        input_border_color_focus_dark="*primary_400",
        button_border_width="1px",
        button_border_width_dark="1px",
        button_primary_border_color="transparent",
        button_primary_border_color_dark="transparent",
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_dark="*primary_500",
        button_primary_background_fill_hover="*primary_700",
        button_primary_background_fill_hover_dark="*primary_600",
        button_primary_text_color="white",
        button_primary_text_color_dark="white",
        button_secondary_background_fill="white",
        button_secondary_background_fill_dark="*neutral_800",
        button_secondary_border_color="*neutral_300",
        button_secondary_border_color_dark="*neutral_600",
        button_cancel_background_fill="transparent",
        button_cancel_background_fill_dark="transparent",
        button_cancel_background_fill_hover="*neutral_100",
        button_cancel_background_fill_hover_dark="*neutral_800",
        button_cancel_text_color="#b3261e",
        button_cancel_text_color_dark="#ff9b91",
        button_cancel_border_color="*neutral_300",
        button_cancel_border_color_dark="*neutral_600",
        button_large_text_weight="700",
        button_small_text_weight="400",
        slider_color="*primary_600",
        slider_color_dark="*primary_400",
        link_text_color="*primary_600",
        link_text_color_dark="*primary_300",
    )


def css() -> str:
    """The rules of the furniture; a tab's own are in `Tab.css`."""
    return (Path(__file__).parent / "style.css").read_text(encoding="utf-8")
