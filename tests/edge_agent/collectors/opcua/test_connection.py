"""The session with an OPC UA server, without a server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from edge_agent.collectors.opcua import Options
from edge_agent.collectors.opcua.connection import OpcuaConnection
from shared.errors import NotReady


async def broken() -> AsyncIterator[Any]:
    """A subscription with an event that nobody can read."""
    raise ValueError("no such event")
    yield


async def ended() -> AsyncIterator[Any]:
    """A subscription that the library has ended."""
    return
    yield


@pytest.mark.parametrize("subscription", [broken, ended])
def test_a_subscription_that_nobody_follows_any_more_is_a_lost_connection(subscription: Any) -> None:
    async def follow() -> None:
        connection = OpcuaConnection(Options(url="opc.tcp://127.0.0.1:1", tags=["x"]), "plc")
        await asyncio.gather(connection._follow(subscription()), return_exceptions=True)
        assert connection.changes.arrived.is_set()
        with pytest.raises(NotReady, match="nobody reads the subscription"):
            connection.check()

    asyncio.run(follow())
