"""The dependencies of all routes: the hub, and the authenticated and authorised caller.

Authentication and authorisation happen here, once for all routes: hub token or OIDC token, role, second factor, and
whether the device in the path is within the caller's scope. Sessions made with `scope=caller.scope` filter the rest.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Annotated

from fastapi import Depends, Request
from fastapi.concurrency import run_in_threadpool

from cloud_hub.access import lockout, tokens
from cloud_hub.access.lockout import Lockout
from cloud_hub.access.oidc import Oidc
from cloud_hub.access.sessions import SessionStore
from cloud_hub.actions.service import ActionService
from cloud_hub.ask.slots import QuestionSlots
from cloud_hub.autoscale.system import AutoscaleSystem
from cloud_hub.clock import new_trace, now_us
from cloud_hub.database.sessions import Database
from cloud_hub.devices import registry as device_registry
from cloud_hub.errors import HubError, WrongToken
from cloud_hub.inference.experts.metrics import ExpertMetrics
from cloud_hub.inference.gateway.service import Gateway
from cloud_hub.runtime.outgoing import OutgoingMessage
from cloud_hub.runtime.waiters import WaiterRegistry
from cloud_hub.runtime.worker import WorkerStatus
from cloud_hub.scada.host import SparkplugHost
from cloud_hub.security.core import roles
from cloud_hub.security.core.roles import Identity, Scope
from cloud_hub.settings import Settings
from cloud_hub.thresholds.monitoring.forecasters import ForecasterStore
from shared.ids import TRACEPARENT, device_of_thing


@dataclass(frozen=True, slots=True, kw_only=True)
class Hub:
    """The components that routes use.

    `connected` tells whether the broker is connected, `heard_us` when the last message of a device arrived. `changed`
    is called with devices whose tags or twins changed, so that configurations are reconciled. `workers` returns the
    statuses of the background workers. `gateway` is None without pools of language models, `sparkplug` without a host,
    `autoscale` in tests of other routes. `ingest_rate` is the number of messages a second over the last minute.
    """

    settings: Settings
    db: Database
    publish: Callable[[Iterable[OutgoingMessage]], None]
    notify: Callable[[str], None]
    actions: ActionService
    connected: Callable[[], bool]
    changed: Callable[[Iterable[str]], None] = lambda devices: None
    waiters: WaiterRegistry = field(default_factory=WaiterRegistry)
    heard_us: Callable[[str], int] = lambda device: 0
    lockout: Lockout = field(default_factory=Lockout)
    oidc: Oidc | None = None
    forecasters: ForecasterStore = field(default_factory=ForecasterStore)
    workers: Callable[[], Sequence[WorkerStatus]] = tuple
    gateway: Gateway | None = None
    questions: QuestionSlots = field(default_factory=QuestionSlots)
    sessions: SessionStore = field(default_factory=SessionStore)
    ingest_rate: Callable[[], float] = lambda: 0.0
    expert_metrics: ExpertMetrics = field(default_factory=ExpertMetrics)
    sparkplug: SparkplugHost | None = None
    autoscale: AutoscaleSystem | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """The caller of a request: the name of a token or a person, and the roles with spaces between.

    `trace` continues the caller's traceparent or starts one. `scope` are the asset paths below which the caller sees
    devices; None for the whole hub. `roles` are separated by spaces.
    """

    actor: str
    trace: str
    scope: Scope = None
    roles: str = ""

    def needs_all(self) -> None:
        """Raise HubError 403 unless the caller sees the whole hub."""
        if self.scope is not None:
            raise HubError(403, "Not allowed", "this needs access to the whole hub, and the token has a scope")


async def get_hub(request: Request) -> Hub:
    """The running hub. A coroutine, so that FastAPI needs no thread for it."""
    hub: Hub = request.app.state.hub
    return hub


# -- authentication --------------------------------------------------------------------------------


def _source(request: Request) -> str:
    return lockout.address_key(request.client.host if request.client else None)


def require_unlocked(hub: Hub, request: Request) -> None:
    """Raise HubError 429 while the address of the client is locked out."""
    hub.lockout.check(_source(request), now_us())


def record_wrong_token(hub: Hub, request: Request) -> None:
    """Count a wrong token; a resulting lockout survives a restart."""
    address, now = _source(request), now_us()
    until_us = hub.lockout.record_failure(address, now)
    if until_us is not None:
        with hub.db.write() as session:
            lockout.save_lock(session, address, until_us, now)


def authorize(hub: Hub, request: Request, identity: Identity, power: str) -> Caller:
    """Check role, second factor and scope; raises HubError 403, or 404 for a device outside the scope."""
    roles.require(identity.roles, power)
    changes = power == "administer" and request.method not in {"GET", "HEAD"}
    if changes and hub.oidc is not None and not identity.second_factor:
        cure = f"sign in by OIDC with one of {', '.join(hub.oidc.settings.mfa)} in acr or amr"
        raise HubError(403, "Second factor needed", f"administrative changes need a second factor: {cure}")
    device = request.path_params.get("device") or device_of_thing(request.path_params.get("thing", ""))
    if identity.scope is not None and device is not None:
        with hub.db.read(scope=identity.scope) as session:
            device_registry.require_device(session, device)
    sent = request.headers.get("traceparent", "")
    trace = sent if TRACEPARENT.match(sent) else new_trace()
    return Caller(actor=identity.actor, trace=trace, scope=identity.scope, roles=identity.roles)


def _identity(hub: Hub, text: str) -> Identity:
    if hub.oidc is not None and "." in text:  # tokens of the hub contain no dot
        return hub.oidc.identity(text, now_us())
    return tokens.authenticate(hub.db, text, now_us())


async def authenticated(request: Request) -> Identity:
    """Authenticate the bearer token, once per request. Raises HubError 401, or 429 while locked out."""
    known: Identity | None = request.scope.get("identity")
    if known is None:
        known = request.scope["identity"] = await _authenticate(request)
    return known


async def _authenticate(request: Request) -> Identity:
    hub: Hub = request.app.state.hub
    require_unlocked(hub, request)
    scheme, _, text = request.headers.get("authorization", "").partition(" ")
    text = text.strip()
    if scheme.lower() != "bearer" or not text:
        raise HubError(401, "Not signed in", "send a token as 'Authorization: Bearer tg_...'")
    # Reading a SQLite file is faster than starting a thread; a database server must not block the event loop.
    inline = hub.db.is_file and (hub.oidc is None or "." not in text)
    try:
        return _identity(hub, text) if inline else await run_in_threadpool(_identity, hub, text)
    except WrongToken:
        await run_in_threadpool(record_wrong_token, hub, request)
        raise


def _caller(power: str) -> Callable[[Request], Awaitable[Caller]]:
    async def check(request: Request) -> Caller:
        hub: Hub = request.app.state.hub
        identity = await authenticated(request)
        if hub.db.is_file or identity.scope is None:
            return authorize(hub, request, identity, power)
        return await run_in_threadpool(authorize, hub, request, identity, power)

    return check


TheHub = Annotated[Hub, Depends(get_hub)]
Reader = Annotated[Caller, Depends(_caller("read"))]
Operator = Annotated[Caller, Depends(_caller("operate"))]
Auditor = Annotated[Caller, Depends(_caller("audit"))]
Writer = Annotated[Caller, Depends(_caller("write"))]
Asker = Annotated[Caller, Depends(_caller("infer"))]
Administrator = Annotated[Caller, Depends(_caller("administer"))]
