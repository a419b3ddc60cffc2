"""What is shown while something runs: a frame inside the page, the curve of a loss."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from itertools import pairwise

from PIL import Image

CURVE = (240, 84)  # units of the curve's own coordinates


def data_uri(picture: Image.Image) -> str:
    """A frame as a `data:` address: JPEG, or quick PNG where it is transparent."""
    stream = io.BytesIO()
    kind = "png" if picture.mode == "RGBA" else "jpeg"
    options = {"compress_level": 1} if kind == "png" else {"quality": 88}
    picture.save(stream, kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(stream.getvalue()).decode()}"


def curve(losses: Sequence[float]) -> str:
    """The loss over the steps as an inline SVG."""
    width, height = CURVE
    means = _thinned(losses, width // 2)
    low, high = min(means), max(means)
    across = width / max(1, len(means) - 1)
    spots = " ".join(
        f"{index * across:.1f},{4 + (height - 8) * (high - value) / max(high - low, 1e-9):.1f}"
        for index, value in enumerate(means)
    )
    return (
        f'<svg class="atelier-curve" viewBox="0 0 {width} {height}" preserveAspectRatio="none" '
        f'role="img" aria-label="Loss, from {losses[0]:.3f} to {losses[-1]:.3f}">'
        f'<polyline points="{spots}" vector-effect="non-scaling-stroke"/></svg>'
        '<div class="atelier-axis"><span>loss</span><span>steps</span></div>'
    )


def _thinned(values: Sequence[float], most: int) -> list[float]:
    """At most `most` values, each the mean of an equal share."""
    count = min(most, len(values))
    ends = [round(place * len(values) / count) for place in range(count + 1)]
    return [sum(values[a:b]) / (b - a) for a, b in pairwise(ends)]
