"""Takes the README's pictures of the CLIP, GLIP and ViLD tabs: `python -m benchmarks.pictures`.

The app runs as anybody starts it; a link opens each tab in a state, and its button is pressed.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from urllib.parse import urlencode

from PIL import Image

from benchmarks.app.browser import page_opener
from benchmarks.app.server import ROOT, app_process

OUT = ROOT / "assets" / "readme"
WIDTH = 960  # pixels of the files; the window is a third wider
WAIT_MS = 120_000


@dataclass(frozen=True)
class Shot:
    """A picture's name, the state that a link opens, the button to press, what then appears, and
    the window's height in CSS pixels."""

    name: str
    link: dict[str, str]
    button: str
    shows: str
    height: int


_CATS = {"tab": "clip", "example": "cat-and-dog", "labels": "cat, dog, rabbit, bird"}
SHOTS = (
    Shot("recognise", {**_CATS, "view": "recognise"}, "Recognise", ".clip-bars", 1130),
    Shot("why", {**_CATS, "view": "why", "why": "cat"}, "Show why", ".atelier-badge", 1000),
    Shot("match", {"tab": "clip", "view": "match"}, "Match", ".clip-matrix, table", 1130),
    Shot("search", {"tab": "clip", "view": "search", "query": "a sailing boat"}, "Search",
         ".atelier-badge", 1110),
    Shot("glip", {"tab": "glip"}, "Ground", "[data-box]", 1100),
    Shot("vild", {"tab": "vild"}, "Detect", "[data-box]", 1690),
)  # fmt: skip


def main() -> None:
    with app_process() as site, page_opener() as open_page:
        for shot in SHOTS:
            page = open_page(False)
            page.set_viewport_size({"width": WIDTH * 4 // 3, "height": shot.height})
            page.goto(f"{site.url}/?{urlencode({**shot.link, '__theme': 'light'})}")
            button = page.get_by_role("button", name=shot.button, exact=True)
            button.wait_for(timeout=WAIT_MS)
            page.wait_for_timeout(2000)  # the link has filled its fields
            button.click()
            page.locator(shot.shows).locator("visible=true").first.wait_for(timeout=WAIT_MS)
            page.wait_for_timeout(8000)  # pictures have come, and nothing moves any more
            seen = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
            size = (WIDTH, round(seen.height * WIDTH / seen.width))
            seen.resize(size, Image.Resampling.LANCZOS).quantize(256).save(
                OUT / f"{shot.name}.png", optimize=True
            )
            print(OUT / f"{shot.name}.png", flush=True)
            page.context.close()


if __name__ == "__main__":
    main()
