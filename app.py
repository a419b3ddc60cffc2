"""CLIP Atelier: flags -> the page built from `demos.TABS` -> queue -> serve. Nothing else."""

from __future__ import annotations

import importlib
import logging
import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from demos.ui.settings import Settings, parse_settings

if TYPE_CHECKING:
    import gradio as gr

    from demos.ui.tab import Atelier, Tab

VERSION = "0.1.0"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the app until it is interrupted; returns the exit status."""
    settings = parse_settings(argv)  # before the heavy imports, so that --help is quick
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s")
    prepare_process(offline=settings.offline)

    import demos
    from models.errors import AtelierError

    try:
        require_free_port(settings)
        atelier = open_atelier(settings)
        warm_up(atelier, demos.TABS)
        page = serve(atelier, demos.TABS)
    except AtelierError as error:
        print(f"CLIP Atelier did not start: {error}", file=sys.stderr)
        return 1
    print(f"CLIP Atelier is ready: {page.local_url}", flush=True)
    page.block_thread()
    return 0


def prepare_process(*, offline: bool) -> None:
    """What must be said before torch, Gradio and the hub's client are imported."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    if offline:
        os.environ["HF_HUB_OFFLINE"] = "1"
    # Gradio asks its own server once whether it is up; that question belongs to no proxy.
    local = ("127.0.0.1", "localhost", "0.0.0.0")
    os.environ["NO_PROXY"] = ",".join(filter(None, (os.environ.get("NO_PROXY"), *local)))
    if os.environ.get("SPACES_ZERO_GPU"):
        importlib.import_module("spaces")  # it patches torch, so it comes first


def require_free_port(settings: Settings) -> None:
    """Say at once, before any model loads, that the port is taken."""
    from models.errors import AtelierError

    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.host, settings.port))
        except OSError as error:
            raise AtelierError(
                f"{settings.host}:{settings.port} cannot be listened on ({error.strerror}); "
                f"choose another port, as in --port {settings.port + 1}."
            ) from error


def open_atelier(settings: Settings) -> Atelier:
    """Registry and job runner for `settings`."""
    from demos.ui.jobs import JobRunner
    from demos.ui.tab import Atelier
    from models.catalog import CATALOG, own_detector_rows, own_generator_rows
    from models.registry import Registry

    rows = dict(CATALOG)
    if settings.generators:
        rows |= own_generator_rows(Path(settings.generators).expanduser())
    if settings.detectors:
        rows |= own_detector_rows(Path(settings.detectors).expanduser())
    registry = Registry(
        rows,
        device=settings.device,
        budget_bytes=settings.memory_budget,
        offline=settings.offline,
    )
    return Atelier(settings=settings, registry=registry, jobs=JobRunner())


def warm_up(atelier: Atelier, tabs: Sequence[Tab]) -> None:
    """Load the models named by `--preload` and run each once in its tab's way."""
    for name in atelier.settings.preload:
        print(f"Loading {name} ...", flush=True)
        atelier.registry.preload([name])
        task = atelier.registry.catalog[name].task
        for tab in tabs:
            if tab.warm is not None and task in (tab.key, *tab.tasks):
                tab.warm(atelier, name)


def serve(atelier: Atelier, tabs: Sequence[Tab]) -> gr.Blocks:
    """Start serving in the background; returns the page, with `local_url`, to `close()`."""
    from demos.ui.health import health_route
    from demos.ui.page import build_page, look
    from demos.ui.sessions import keep_sessions_lean

    settings = atelier.settings
    page: gr.Blocks = build_page(atelier, tabs)
    page.queue(max_size=settings.max_queue)
    page.launch(
        server_name=settings.host,
        server_port=settings.port,
        root_path=settings.root_path or None,
        app_kwargs={"routes": [health_route(atelier, page, VERSION)]},
        prevent_thread_lock=True,
        quiet=True,
        share=False,
        ssr_mode=False,
        show_error=False,
        enable_monitoring=False,
        mcp_server=False,
        pwa=False,
        max_file_size="32mb",
        state_session_capacity=200,
        **look(tabs, present=settings.present),
    )
    keep_sessions_lean(page)
    return page


if __name__ == "__main__":
    sys.exit(main())
