"""The hub's web application for tests in this process: its routes are built once, each test brings its own hub."""

from __future__ import annotations

from functools import cache
from types import SimpleNamespace
from typing import Any

from fastapi import FastAPI

from cloud_hub.api.dependencies import Hub
from cloud_hub.api.routes import create_rest_app


@cache
def shared_app() -> FastAPI:
    """The application of this process. To build its routes takes longer than most tests."""
    return create_rest_app()


class RestApp:
    """The shared routes before one hub, `state.hub`, as an ASGI application."""

    def __init__(self, hub: Hub) -> None:
        self.state = SimpleNamespace(hub=hub)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        app = shared_app()
        app.state.hub = self.state.hub
        await app(scope, receive, send)
