"""`job`: one change or command for all devices that a query finds. Its blast radius is what the query finds."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

import msgspec
from sqlmodel import Session, col, func, select

from cloud_hub import query
from cloud_hub.actions.catalogue import Effect, Parameters, Progress, Request, Tools, Touched
from cloud_hub.actions.core.patches import patch_details
from cloud_hub.actions.core.policy import Risk
from cloud_hub.actions.types.base import BaseAction
from cloud_hub.actions.types.command import VERB
from cloud_hub.database.tables import Device, Job
from cloud_hub.errors import HubError
from cloud_hub.jobs import service as jobs
from cloud_hub.runtime.outgoing import OutgoingMessage
from cloud_hub.twins.core import plant
from shared.protocol.codec import from_plain
from shared.protocol.messages import CommandRequest


class JobParameters(Parameters, frozen=True):
    """A job: `content` is the patch, or {verb, target, args} of a command. `life_s`: until its deadline."""

    kind: Literal["twin", "tags", "command"]
    query: Annotated[str, msgspec.Meta(min_length=1, max_length=4096)]
    content: Annotated[dict[str, Any], msgspec.Meta(min_length=1)]
    document: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9:_-]{0,64}\Z")] = ""
    life_s: Annotated[float, msgspec.Meta(ge=1, le=7 * 86400)] = 3600.0

    def __post_init__(self) -> None:
        plant.refuse(self.document)
        if self.kind == "command":
            if not re.match(VERB, str(self.content.get("verb", ""))):
                raise ValueError("content.verb must be a plain word")
            from_plain(CommandRequest, {"id": "-", "expires_us": 1, **self.content})


class JobAction(BaseAction):
    """Creates a job; it is complete when the job has ended."""

    name = "job"
    reach = "query"
    schema = JobParameters

    def __init__(self, tools: Tools) -> None:
        self._max_bytes = tools.max_twin_bytes

    def risk(self, parameters: JobParameters) -> Risk:
        """High: it touches many devices at once."""
        return "high"

    def details(self, parameters: JobParameters) -> tuple[str, ...]:
        """`command/<verb>/<target>`, `tags`, or `twin/set/<document>/<path>` and `twin/remove/...`."""
        content = parameters.content
        if parameters.kind == "command":
            return (f"command/{content.get('verb', '')}/{content.get('target', '')}",)
        if parameters.kind == "tags":
            return ("tags",)
        return tuple(f"twin/{detail}" for detail in patch_details(parameters.document, parameters.content))

    def touched(self, session: Session, request: Request) -> Touched:
        """What the query finds now, within the scope of the proposer."""
        found = query.matching(session, request.parameters.query, request.scope).subquery()
        path = func.coalesce(col(Device.assigned_path), "")
        count = select(path, func.count()).join(found, found.c.id == Device.id).group_by(path)
        rows: list[Any] = list(session.exec(count))
        return Touched(count=sum(number for _, number in rows), paths=tuple(sorted(path for path, _ in rows)))

    def execute(self, session: Session, request: Request, now_us: int) -> Effect:
        """Create the job, due now."""
        wanted = request.parameters
        content = wanted.content
        if wanted.kind == "command":
            content = {"target": "", "args": {}, **content}
        row = Job(
            id="", kind=wanted.kind, query=wanted.query, document=wanted.document, content=content,
            actor=request.actor, created_us=now_us, start_us=now_us, deadline_us=now_us + int(wanted.life_s * 1e6),
            traceparent=request.trace, scope=None if request.scope is None else list(request.scope),
        )  # fmt: skip
        return Effect(effect={"job": jobs.create(session, row, self._max_bytes).id})

    def progress(self, session: Session, request: Request, now_us: int) -> Progress:
        """Pending until the job has ended."""
        row = session.get(Job, request.effect["job"])
        if row is None:
            return Progress(state="failed", reason="its job is not kept any more")
        if row.state in jobs.ACTIVE_STATES:
            return Progress(state="pending")
        if row.state != "completed":
            return Progress(state="failed", reason=f"the job has {row.state}: {row.reason}")
        return Progress(state="done")

    def verify(self, session: Session, request: Request, now_us: int) -> Progress:
        """No device refused it."""
        counts = jobs.counts(session, [request.effect["job"]])[request.effect["job"]]
        text = ", ".join(f"{count} {state}" for state, count in sorted(counts.items())) or "no device matched"
        return Progress(state="failed" if counts.get("refused") else "done", reason=text)

    def cancel(self, session: Session, request: Request, now_us: int, actor: str) -> list[OutgoingMessage]:
        """Stop the job before its next device."""
        try:
            jobs.cancel(session, request.effect["job"], now_us, actor)
        except HubError:  # it has ended
            return []
        return []
