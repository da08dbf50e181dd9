"""/api/v1/devices/{device}/commands and /api/v1/commands: send, wait, show, cancel."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import Annotated, Literal

from fastapi import APIRouter, Response
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel, ConfigDict, Field

from cloud_hub.api.dependencies import Caller, Hub, Operator, Reader, TheHub
from cloud_hub.clock import now_us
from cloud_hub.database.tables import Command
from cloud_hub.devices import commands
from cloud_hub.devices import registry as device_registry
from cloud_hub.errors import HubError
from shared.messages import CommandState

router = APIRouter(prefix="/api/v1", tags=["commands"])

QUEUED_LIFE_S = 86400.0
POLL_S = 1.0
"""The poll interval: a result that another hub process stored does not wake waiters here."""

Name = Annotated[str, Field(min_length=1, max_length=64)]
Value = Annotated[float, Field(allow_inf_nan=False)] | Annotated[str, Field(max_length=1000)]


class CommandBody(BaseModel):
    """A command. `direct` requires the device to be online; `queued` waits for it, at most `life_s` seconds.

    `life_s` is how long the device may be silent: 30 s for a direct command, a day for a queued one. With `wait` the
    answer comes when the command has ended, at most `timeout_s` seconds later.
    """

    model_config = ConfigDict(extra="forbid")
    verb: Literal["restart", "diagnose", "capture"]
    target: str = Field(min_length=1, max_length=128)
    args: dict[Name, Value] = Field(default={}, max_length=32)
    mode: commands.Mode = "direct"
    life_s: float | None = Field(default=None, gt=0, le=30 * 86400)
    wait: bool = False
    timeout_s: float = Field(default=30.0, gt=0, le=300)


@router.post("/devices/{device}/commands", status_code=202, responses={200: {"model": Command, "description": "Ended"}})
async def send(device: str, body: CommandBody, response: Response, hub: TheHub, caller: Operator) -> Command:
    """Send a command: 202 at once, or with `wait` 200 when it has ended and 504 if it does not end in time."""
    row = await run_in_threadpool(_create, hub, caller, device, body)
    if not body.wait:
        return row
    row = await _ended(hub, caller, row.id, body.timeout_s)
    if row.done_us is None:
        detail = f"command {row.id} is {row.state} after {body.timeout_s:g} s; look later, or cancel it"
        raise HubError(504, "The device has not answered in time", detail, command=row.id)
    response.status_code = 200
    return row


def _create(hub: Hub, caller: Caller, device: str, body: CommandBody) -> Command:
    life_s = body.life_s or (commands.DEFAULT_LIFE_S if body.mode == "direct" else QUEUED_LIFE_S)
    with hub.db.write(scope=caller.scope) as session:
        if device_registry.get_device(session, device).state != "online" and body.mode == "direct":
            cure = "try again when it is, or send it queued (mode 'queued')"
            raise HubError(404, "Device is offline", f"'{device}' is not connected; {cure}")
        row, messages = commands.create(
            session, device, body.verb, body.target, now_us(), actor=caller.actor, args=dict(body.args), mode=body.mode,
            life_s=life_s, trace=caller.trace,
        )  # fmt: skip
    hub.publish(messages)
    return row


async def _ended(hub: Hub, caller: Caller, command_id: str, timeout_s: float) -> Command:
    """Wait until the command has ended, at most `timeout_s`. Holds neither a thread nor a session meanwhile."""
    deadline = time.monotonic() + timeout_s
    with hub.waiters.register(command_id) as event:
        while True:
            event.clear()
            row = await run_in_threadpool(_look, hub, caller, command_id)
            left = deadline - time.monotonic()
            if row.done_us is not None or left <= 0:
                return row
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(event.wait(), min(left, POLL_S))


def _look(hub: Hub, caller: Caller, command_id: str) -> Command:
    with hub.db.read(scope=caller.scope) as session:
        return commands.get(session, command_id)


@router.get("/devices/{device}/commands")
def list_for_device(
    device: str,
    hub: TheHub,
    caller: Reader,
    state: Literal["queued", "sent"] | CommandState | None = None,
    limit: int = 100,
) -> list[Command]:
    """The device's commands, the newest first."""
    with hub.db.read(scope=caller.scope) as session:
        device_registry.get_device(session, device)
        return commands.list_for_device(session, device, state or "", min(max(limit, 1), 1000))


@router.get("/commands/{command_id}")
def command(command_id: str, hub: TheHub, caller: Reader) -> Command:
    """Get a command."""
    return _look(hub, caller, command_id)


@router.post("/commands/{command_id}/cancel", status_code=202)
def cancel(command_id: str, hub: TheHub, caller: Operator) -> Command:
    """Cancel a command: at once if it was not sent, else the device ends it; 409 if it has already ended."""
    with hub.db.write(scope=caller.scope) as session:
        row, messages = commands.cancel(session, command_id, caller.actor, now_us())
    hub.publish(messages)
    hub.notify(command_id)
    return row
