"""`/health`: what a load balancer, a container or a nervous speaker asks before the talk."""

from __future__ import annotations

import gradio as gr
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from demos.ui.tab import Atelier


def health_route(atelier: Atelier, page: gr.Blocks, version: str) -> Route:
    """The route that answers with version, device, loaded models and queue length as JSON."""

    async def health(request: Request) -> JSONResponse:
        line = len(atelier.jobs.line)
        return JSONResponse(
            {
                "status": "ok",
                "version": version,
                "device": str(atelier.registry.device),
                "busy": line > 0,
                "queue": max(line - 1, 0) + len(page._queue),
                "models": [
                    {
                        "name": model.name,
                        "state": model.state,
                        "device": model.device,
                        "bytes": model.bytes,
                    }
                    for model in atelier.registry.status()
                    if model.state != "unloaded"
                ],
            }
        )

    return Route("/health", health)
