"""Which function measures which figure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from benchmarks.app import boxes, device, page, registry
from benchmarks.measure import Figure

FIGURES: Mapping[int, Callable[[], Iterator[Figure]]] = {
    1: page.outside_requests,
    2: page.server_cpu,
    3: page.session_memory,
    4: device.freed_device,
    5: device.jobs_at_once,
    6: device.streamed_frames,
    7: boxes.drawn_boxes,
    8: page.refused_pictures,
    11: registry.registry_figures,
    12: page.idle_memory,
}
