"""/api/v1/sparkplug: the Sparkplug host application, its nodes and their metrics, rebirths, and writes."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field
from sqlmodel import Session, col, func, select

from cloud_hub.api.dependencies import Hub, Operator, Reader, TheHub
from cloud_hub.audit import trail
from cloud_hub.clock import now_us
from cloud_hub.database import scopes
from cloud_hub.database.tables import SparkplugMetric, SparkplugNode, SparkplugWrite
from cloud_hub.devices import registry as device_registry
from cloud_hub.errors import HubError
from cloud_hub.scada import writes
from cloud_hub.scada.current import CurrentValues
from cloud_hub.scada.server import ServerStatus
from cloud_hub.scada.writes import WriteRequest, WriteService
from cloud_hub.telemetry.rollups.last_values import device_last_values

router = APIRouter(prefix="/api/v1/sparkplug", tags=["sparkplug"])

MAX_LISTED = 10_000
State = Literal["online", "offline"]
Value = bool | Annotated[float, Field(allow_inf_nan=False)] | Annotated[str, Field(max_length=1000)]


class Status(BaseModel):
    """The host application; `host_id` is '' when it is off. `counts` are since its start, `nodes` by state."""

    host_id: str
    servers: list[ServerStatus]
    counts: dict[str, int]
    queued: int
    nodes: dict[str, int]


class NodeView(BaseModel):
    """An edge node, or a device of one (`sparkplug_device`), as device `device`. `own`: an agent of this hub.

    `requested` counts the rebirths that the hub asked for, `refused` the messages that it refused, `refusal` says why
    the last one was.
    """

    device: str
    group: str
    node: str
    sparkplug_device: str
    own: bool
    state: str
    server: str
    bd_seq: int | None
    born_us: int
    died_us: int
    births: int
    requested: int
    refused: int
    refusal: str
    refused_us: int
    metrics: int


class MetricView(BaseModel):
    """A metric, by its name here and in Sparkplug. `stored`: number, text or no. `present`: the last birth has it.

    `stale`: the node is offline, so the value is its last one. `writable`: a rule for writing it is declared.
    """

    metric: str
    name: str
    datatype: str
    unit: str
    low: float | None
    high: float | None
    stored: str
    present: bool
    stale: bool
    writable: bool
    value: float | str | None = None
    t_us: int | None = None
    quality: str = ""


class WriteBody(BaseModel):
    """A value for a metric of a device. With `dry_run` it is judged and not sent."""

    model_config = ConfigDict(extra="forbid")
    device: str = Field(min_length=1, max_length=60)
    metric: str = Field(min_length=1, max_length=200)
    value: Value
    dry_run: bool = False
    reason: str = Field(default="", max_length=1000)


class Rebirth(BaseModel):
    """Whether a rebirth was requested, and why not. A request over the limit of all requests waits."""

    requested: bool
    reason: str


@router.get("")
def status(hub: TheHub, caller: Reader) -> Status:
    """The host application: connections, counters and the number of nodes by state."""
    caller.needs_all()
    with hub.db.read() as session:
        query = select(SparkplugNode.state, func.count()).group_by(SparkplugNode.state)
        nodes = dict(session.exec(query).all())
    if hub.sparkplug is None:
        return Status(host_id="", servers=[], counts={}, queued=0, nodes=nodes)
    now = hub.sparkplug.status()
    return Status(host_id=now.host_id, servers=now.servers, counts=now.counts, queued=now.queued, nodes=nodes)


@router.get("/nodes")
def nodes(
    hub: TheHub, caller: Reader, state: State | None = None, group: str | None = None, after: str = "",
    limit: Annotated[int, Query(ge=1, le=MAX_LISTED)] = 1000,
) -> list[NodeView]:  # fmt: skip
    """List nodes and their devices, by the id of the device that each is here; `after` continues a list."""
    with hub.db.read(scope=caller.scope) as session:
        query = scopes.restrict(session, select(SparkplugNode), col(SparkplugNode.device))
        query = query.where(SparkplugNode.device > after)
        if state is not None:
            query = query.where(SparkplugNode.state == state)
        if group is not None:
            query = query.where(SparkplugNode.group == group)
        rows = session.exec(query.order_by(SparkplugNode.device, SparkplugNode.digest).limit(limit)).all()
    return [NodeView(**row.model_dump()) for row in rows]


@router.get("/nodes/{device}/metrics")
def metrics(
    device: str, hub: TheHub, caller: Reader, values: bool = False, after: str = "",
    limit: Annotated[int, Query(ge=1, le=MAX_LISTED)] = 1000,
) -> list[MetricView]:  # fmt: skip
    """List the metrics of a node or device by name; with `values` also the last value of each."""
    with hub.db.read(scope=caller.scope) as session:
        device_registry.require_device(session, device)
        node = _find_node(session, device)
        query = select(SparkplugMetric).where(SparkplugMetric.device == device, SparkplugMetric.metric > after)
        rows = session.exec(query.order_by(SparkplugMetric.metric).limit(limit)).all()
        stored = [row.metric for row in rows if row.stored != "no"] if values else []
        last = {value.metric: value for value in device_last_values(session, device, stored, now_us())}
    rules, stale = _service(hub).rules, node is None or node.state != "online"
    found = []
    for row in rows:
        view = MetricView(**row.model_dump(exclude={"device"}), stale=stale, writable=(device, row.metric) in rules)
        one = last.get(row.metric)
        if one is not None:
            view.value, view.t_us, view.quality = one.value, one.t_us, one.quality
        found.append(view)
    return found


@router.post("/nodes/{device}/rebirth", status_code=202)
def rebirth(device: str, hub: TheHub, caller: Operator) -> Rebirth:
    """Ask a node for its birth certificates. For a device the whole node is asked."""
    with hub.db.write(device, scope=caller.scope) as session:
        node = _node(session, device)
        trail.add(session, now_us(), caller.actor, "sparkplug.rebirth", f"{node.group}/{node.node}", device=device,
                  trace=caller.trace)  # fmt: skip
    reason = "the Sparkplug host is off (sparkplug.host_id)"
    if hub.sparkplug is not None:
        reason = hub.sparkplug.rebirth((node.group, node.node, ""))
    return Rebirth(requested=not reason, reason=reason)


@router.post("/writes", status_code=201)
def write(body: WriteBody, hub: TheHub, caller: Operator) -> SparkplugWrite:
    """Write a value to a declared metric of a device. Its `state` says what became of it: see GET .../writes/ID.

    refused (with the reason), dry-run, or pending; then sent, and verified, failed or expired.
    """
    request = WriteRequest(
        device=body.device, metric=body.metric, value=body.value, actor=caller.actor, why=body.reason,
        dry_run=body.dry_run, trace=caller.trace,
    )  # fmt: skip
    refusal = "" if hub.sparkplug is not None else "the Sparkplug host is off. Set sparkplug.host_id"
    with hub.db.write(body.device, scope=caller.scope) as session:
        row = _service(hub).request(session, request, now_us(), refusal=refusal)
    if row.state == "pending" and hub.sparkplug is not None:
        hub.sparkplug.notify()
    return row


@router.get("/writes")
def list_writes(
    hub: TheHub, caller: Reader, device: str = "", state: str = "", limit: Annotated[int, Query(ge=1, le=500)] = 100
) -> list[SparkplugWrite]:  # fmt: skip
    """List writes, the newest first."""
    with hub.db.read(scope=caller.scope) as session:
        return writes.list_writes(session, device=device, state=state, limit=limit)


@router.get("/writes/{write_id}")
def get_write(write_id: str, hub: TheHub, caller: Reader) -> SparkplugWrite:
    """Get one write."""
    with hub.db.read(scope=caller.scope) as session:
        return writes.get(session, write_id)


def _node(session: Session, device: str) -> SparkplugNode:
    """The node of a device; HubError 404."""
    device_registry.require_device(session, device)
    row = _find_node(session, device)
    if row is None:
        raise HubError(404, "No such node", f"'{device[:80]}' is no Sparkplug node: see GET /api/v1/sparkplug/nodes")
    return row


def _find_node(session: Session, device: str) -> SparkplugNode | None:
    query = select(SparkplugNode).where(SparkplugNode.device == device).order_by(SparkplugNode.sparkplug_device)
    return session.exec(query.limit(1)).first()


def _service(hub: Hub) -> WriteService:
    """The service of writes; without a host one that has no rules."""
    return hub.sparkplug.writes if hub.sparkplug is not None else WriteService({}, CurrentValues({}))
