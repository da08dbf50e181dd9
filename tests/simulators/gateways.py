"""Gateways before simulated engines, alone or in a hub, and OpenAI's own client."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
from openai import OpenAI
from simulators.openai_server import OpenAIServer
from simulators.rest import RestHub

from cloud_hub.database.sessions import Database
from cloud_hub.inference.gateway.blocking import serving
from cloud_hub.inference.gateway.build import open_gateway
from cloud_hub.inference.gateway.service import Gateway
from cloud_hub.settings.inference import Inference

MakeHub = Callable[..., RestHub]


def pool(*engines: OpenAIServer, name: str = "large", **more: Any) -> dict[str, Any]:
    """Settings of a pool with these addresses."""
    return {"name": name, "addresses": [one.url for one in engines], "model": engines[0].model, **more}


def client_of(hub: RestHub, token: str = "", **more: Any) -> OpenAI:
    """OpenAI's client at the hub, with the hub's own token unless another one is given; it repeats nothing itself."""
    client = OpenAI(base_url=f"http://127.0.0.1:{hub.port}/v1", api_key=token or hub.token, max_retries=0, **more)
    hub.clients.append(client)
    return client


def bind(hub: RestHub) -> None:
    """Bind the gateway to the server's event loop, as the start of a whole hub does."""
    if hub.gateway is not None and not hub.gateway.bound:
        body = {"model": "nothing", "messages": [{"role": "user", "content": "x"}]}
        url = f"http://127.0.0.1:{hub.port}/v1/chat/completions"
        httpx.post(url, headers={"Authorization": f"Bearer {hub.token}"}, json=body, timeout=60)


@contextmanager
def running_gateway(db: Database, *pools: dict[str, Any], **inference: Any) -> Iterator[Gateway]:
    """A gateway in the event loop of a thread."""
    gateway = open_gateway(db, Inference.model_validate({"pools": list(pools), **inference}))
    assert gateway is not None
    with serving(gateway):
        yield gateway
