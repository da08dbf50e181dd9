"""/api/v1/jobs: a change or command for all devices that match a condition: preview, start, watch, cancel."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from fastapi import APIRouter
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from sqlmodel import Session

from cloud_hub import query
from cloud_hub.api.commands import CommandBody
from cloud_hub.api.dependencies import Caller, Operator, Reader, TheHub
from cloud_hub.clock import now_us
from cloud_hub.database.tables import Command, Job, JobDevice
from cloud_hub.jobs import handlers
from cloud_hub.jobs import service as jobs
from cloud_hub.jobs.handlers import PreviewedDevice

router = APIRouter(prefix="/api/v1/jobs", tags=["jobs"])

State = Literal["", "pending", "written", "unchanged", "refused", "gone", "cancelled"]


def finite(value: dict[str, Any]) -> dict[str, Any]:
    """NaN would be written as null, and null deletes."""
    try:
        json.dumps(value, allow_nan=False)
    except RecursionError:
        raise ValueError("is nested too deeply") from None
    except ValueError:
        raise ValueError("numbers must be finite") from None
    return value


Patch = Annotated[dict[str, Any], AfterValidator(finite)]


class Work(BaseModel):
    """An operation and its target. `content` is a merge patch of desired state or tags, or `{verb, target, args}`."""

    model_config = ConfigDict(extra="forbid")
    kind: Literal["twin", "tags", "command"]
    query: str = Field(min_length=1, max_length=4096)
    document: str = Field(default="", max_length=64)
    content: Patch

    @model_validator(mode="after")
    def _whole(self) -> Work:
        if self.kind != "twin" and self.document:
            raise ValueError("only a twin job has a document")
        if self.kind == "command":
            if more := self.content.keys() - {"verb", "target", "args"}:
                raise ValueError(f"content.{min(more)}: a command job has verb, target and args")
            command = CommandBody.model_validate(self.content)
            self.content = {"verb": command.verb, "target": command.target, "args": command.args}
        return self

    def job(self, caller: Caller, start_us: int, max_s: float) -> Job:
        """Build the row of this job, without storing it."""
        now = now_us()
        start = max(start_us, now)
        return Job(
            id="", kind=self.kind, query=self.query, document=self.document, content=self.content, actor=caller.actor,
            created_us=now, start_us=start, deadline_us=start + int(max_s * 1e6), traceparent=caller.trace,
            scope=None if caller.scope is None else list(caller.scope),
        )  # fmt: skip


class JobBody(Work):
    """A job; it starts at `start_us`, or now, and stops after `max_s` seconds."""

    start_us: int = Field(default=0, ge=0, lt=1 << 62)
    max_s: float = Field(default=86400.0, gt=0, le=366 * 86400)


class PreviewBody(Work):
    """A preview of the job for the first `limit` devices."""

    limit: int = Field(default=20, ge=0, le=200)


class Preview(BaseModel):
    """The number of matching devices, and the outcome for the first of them."""

    found: int
    devices: list[PreviewedDevice]


class JobView(BaseModel):
    """A job with its devices counted by state. They are those that matched at its start."""

    job: Job
    devices: dict[str, int]


class JobDeviceView(BaseModel):
    """The state on a device; `in_force`: it reports the twin change; `command`: the state of the command."""

    device: str
    state: str
    reason: str
    version: int | None
    in_force: bool | None = None
    command: Command | None = None
    t_us: int


@router.post("/preview")
def preview(body: PreviewBody, hub: TheHub, caller: Operator) -> Preview:
    """Preview a job; nothing is written."""
    job = body.job(caller, 0, 1.0)
    limit = hub.settings.twins.max_bytes
    with hub.db.read(scope=caller.scope) as session:
        found = query.count(session, body.query)
        handlers.check(job, limit)
        first = query.devices(session, body.query, limit=body.limit)
        return Preview(found=found, devices=handlers.preview(session, job, first, now_us(), limit))


@router.post("", status_code=202)
def start(body: JobBody, hub: TheHub, caller: Operator) -> Job:
    """Start a job for the devices that match the condition at its start."""
    with hub.db.write(scope=caller.scope) as session:
        job = jobs.create(session, body.job(caller, body.start_us, body.max_s), hub.settings.twins.max_bytes)
    hub.notify("jobs")
    return job


@router.get("")
def newest(
    hub: TheHub, caller: Reader, state: Literal["", "scheduled", "running", "completed", "cancelled", "failed"] = "",
    limit: int = 100,
) -> list[JobView]:  # fmt: skip
    """List jobs, the newest first."""
    with hub.db.read(scope=caller.scope) as session:
        rows = jobs.list_newest(session, state, min(max(limit, 1), 1000))
        counts = jobs.counts(session, [row.id for row in rows])
    return [JobView(job=row, devices=counts[row.id]) for row in rows]


@router.get("/{job_id}")
def job(job_id: str, hub: TheHub, caller: Reader) -> JobView:
    """Get a job."""
    with hub.db.read(scope=caller.scope) as session:
        return JobView(job=jobs.get(session, job_id), devices=jobs.counts(session, [job_id])[job_id])


@router.get("/{job_id}/devices")
def devices(
    job_id: str, hub: TheHub, caller: Reader, state: State = "", after: str = "", limit: int = 100
) -> list[JobDeviceView]:  # fmt: skip
    """The state of the job on its devices, by id; give the last id as `after` for the next page."""
    with hub.db.read(scope=caller.scope) as session:
        found = jobs.get(session, job_id)
        rows = jobs.devices(session, job_id, state=state, after=after, limit=min(max(limit, 1), 1000))
        return _views(session, found, rows)


def _views(session: Session, job: Job, rows: list[JobDevice]) -> list[JobDeviceView]:
    done = [row.device for row in rows if row.state in {"written", "unchanged"}]
    holds = handlers.in_force(session, job, done) if job.kind == "twin" else set()
    return [
        JobDeviceView(
            **row.model_dump(exclude={"job", "command"}),
            in_force=row.device in holds if job.kind == "twin" else None,
            command=session.get(Command, row.command) if row.command else None,
        )
        for row in rows
    ]  # fmt: skip


@router.post("/{job_id}/cancel")
def cancel(job_id: str, hub: TheHub, caller: Operator) -> Job:
    """Cancel a job: no further device is changed; 409 if it has ended."""
    with hub.db.write(scope=caller.scope) as session:
        return jobs.cancel(session, job_id, now_us(), caller.actor)
