"""A hub's REST in this process, behind the real web server on a real socket; and callers that speak raw HTTP to it."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import uvicorn
from simulators import databases
from simulators.actions import action_service
from simulators.births import born
from simulators.brokers import free_port, listens, until

from cloud_hub.access import tokens
from cloud_hub.api import http_server
from cloud_hub.api.dependencies import Hub
from cloud_hub.api.routes import create_rest_app
from cloud_hub.clock import now_us
from cloud_hub.database.sessions import Database
from cloud_hub.inference.gateway.build import open_gateway
from cloud_hub.settings import Rest, Settings
from cloud_hub.settings.inference import Inference
from shared.protocol.messages import Birth


class RestHub:
    """REST over a database with one device, press-3, and one token with all roles."""

    def __init__(self, folder: Path, inference: Inference | None = None, **rest: Any) -> None:
        self.port = free_port()
        self.db = Database(databases.sqlite(folder))
        self.read = 0
        self.clients: list[Any] = []
        """Closed with the hub."""
        app = create_rest_app()
        settings = Settings(state_dir=str(folder), rest=Rest(port=self.port, proxies=[], **rest),
                            inference=inference or Inference())  # fmt: skip
        self.app = app
        self.gateway = open_gateway(self.db, settings.inference)
        app.state.hub = Hub(settings=settings, db=self.db, publish=list, notify=str, connected=lambda: True,
                            actions=action_service(), gateway=self.gateway)  # fmt: skip
        config = http_server.config(app, settings.rest)
        self._count(config.http)
        self.server = uvicorn.Server(config)
        with self.db.write() as session:
            born(session, Birth(device="press-3", session="s", epoch="e"), now_us())
            self.token = tokens.create(session, "anna", "operator auditor admin writer", now_us(), "test")

    def replace_gateway(self, inference: Inference) -> None:
        """Close the gateway and open another one over the same database."""
        self.close_gateway()
        self.gateway = open_gateway(self.db, inference)
        settings = self.app.state.hub.settings.model_copy(update={"inference": inference})
        self.app.state.hub = replace(self.app.state.hub, settings=settings, gateway=self.gateway)

    def close_gateway(self) -> None:
        """Close the gateway, if it served something."""
        if self.gateway is not None and self.gateway.bound:
            self.gateway.submit(self.gateway.aclose).result(10)

    def _count(self, protocol: Any) -> None:
        """Count the bytes that the server takes from its sockets."""

        class Counting(protocol):  # type: ignore[misc]
            def data_received(inner, data: bytes) -> None:  # noqa: N805
                self.read += len(data)
                super().data_received(data)

        self.protocol = Counting

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)

    def head(self, line: str, *headers: str, token: str | None = None) -> bytes:
        """The head of a request; with the hub's own token unless another one is given ('' is none)."""
        token = self.token if token is None else token
        more = [f"Authorization: Bearer {token}"] if token else []
        return "\r\n".join([f"{line} HTTP/1.1", "Host: hub", *more, *headers, "", ""]).encode()


def answer(connection: socket.socket) -> tuple[int, bytes]:
    """(status, everything) of one answer after which the connection ends."""
    whole = b""
    try:
        while part := connection.recv(65536):
            whole += part
    except ConnectionError:
        pass
    return (int(whole.split()[1]) if whole else 0), whole


@contextmanager
def rest_hub(folder: Path, inference: Inference | None = None, **rest: Any) -> Iterator[RestHub]:
    hub = RestHub(folder, inference, **rest)
    hub.server.config.http_protocol_class = hub.protocol
    thread = threading.Thread(target=hub.server.run)
    thread.start()
    try:
        until("REST listens", lambda: listens(hub.port))
        with hub.connect() as connection:
            connection.sendall(hub.head("GET /healthz", "Connection: close"))
            assert answer(connection)[0] == 200
        until("nobody is connected", lambda: not hub.server.server_state.connections)
        yield hub
    finally:
        for client in hub.clients:
            client.close()
        hub.close_gateway()
        hub.server.should_exit = True
        thread.join(20)
        hub.db.close()
