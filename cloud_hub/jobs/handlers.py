"""Applies a job to devices by its kind: a patch of desired state, a patch of tags, or a command.

`check` validates a job, `execute` applies it to some devices, `preview` computes the changes and writes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import bindparam, select, update
from sqlmodel import Session

from cloud_hub.database.tables import Device, Job
from cloud_hub.devices import commands, dependencies, tags
from cloud_hub.errors import HubError
from cloud_hub.runtime.outgoing import OutgoingMessage
from cloud_hub.twins import batch as twin_batch
from cloud_hub.twins.core import plant
from cloud_hub.twins.core.owners import JOB
from cloud_hub.twins.rows import Key, Stored
from shared.ids import SHADOW_NAME
from shared.protocol.codec import encode
from shared.twin import shadow
from shared.twin.merge import format_path, leaves

_DEVICES: Any = Device.__table__  # type: ignore[attr-defined]
_SET_TAGS = (
    update(_DEVICES)
    .where(_DEVICES.c.id == bindparam("b_id"))
    .values(tags=bindparam("tags"), tags_version=bindparam("tags_version"))
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The outcome of one device: written, unchanged, refused or gone."""

    state: str
    reason: str = ""
    version: int | None = None
    command: str = ""


@dataclass(slots=True, kw_only=True)
class JobProgress:
    """Outcomes by device, and what is to be published after the commit."""

    outcomes: dict[str, Outcome] = field(default_factory=dict)
    messages: list[OutgoingMessage] = field(default_factory=list)

    def add(self, other: JobProgress) -> None:
        """Merge another part."""
        self.outcomes |= other.outcomes
        self.messages += other.messages


@dataclass(frozen=True, slots=True, kw_only=True)
class PreviewedDevice:
    """What a job would do to one device. `changes` are [{path, before, after, owner}]; an absent value is left out."""

    device: str
    state: str
    reason: str = ""
    changes: list[dict[str, Any]] = field(default_factory=list)


# -- validation ------------------------------------------------------------------------------------


def check(job: Job, max_bytes: int) -> None:
    """Raise HubError if no device could accept the job."""
    if job.kind == "twin":
        _check_twin(job, max_bytes)
    elif job.kind == "tags":
        tags.check(job.content)


def _check_twin(job: Job, max_bytes: int) -> None:
    if job.document and not SHADOW_NAME.match(job.document):
        raise HubError(400, "No such document", f"'{job.document[:80]}' is no name of a twin document")
    if job.document == plant.DOCUMENT:
        raise HubError(400, "Not by a job", plant.REASON)
    if not job.content:
        raise HubError(400, "Nothing to do", "the patch is empty: say what is desired, null removes")
    new, replies = shadow.update(shadow.Document(), _request(job), 0, max_bytes)
    if new.deleted:
        body = replies[0].body
        raise HubError(body["code"], "No twin could take the change", body["message"])


def _request(job: Job) -> bytes:
    return encode({"state": {"desired": job.content}})


# -- execution -------------------------------------------------------------------------------------


def execute(session: Session, job: Job, devices: Sequence[str], now_us: int, max_bytes: int) -> JobProgress:
    """Apply the job to these devices in the session's transaction; a device that no longer exists is `gone`."""
    chosen = select(_DEVICES.c.id).where(_DEVICES.c.id.in_(devices))
    there = set(session.connection().execute(chosen).scalars())
    living = [device for device in devices if device in there]
    done = _KINDS[job.kind](session, job, living, now_us, max_bytes)
    done.outcomes |= {device: Outcome(state="gone") for device in devices if device not in there}
    return done


def _twin(session: Session, job: Job, devices: Sequence[str], now_us: int, max_bytes: int) -> JobProgress:
    stored = twin_batch.read_documents(session, devices, [job.document], lock=True)
    batch = twin_batch.TwinBatch(stored, now_us, max_bytes, job.traceparent)
    request, actor = _request(job), JOB + job.id
    outcomes = {}
    for device in devices:
        state, reason, version = batch.patch_desired(device, job.document, job.content, request, actor)
        outcomes[device] = Outcome(state=state, reason=reason, version=version)
    batch.write(session)
    return JobProgress(outcomes=outcomes, messages=batch.messages)


def _tags(session: Session, job: Job, devices: Sequence[str], _now_us: int, _max_bytes: int) -> JobProgress:
    rows, outcomes = [], {}
    for device, before, version in _tagged(session, devices, lock=True):
        after, reason = _retagged(before, job.content)
        if reason:
            outcomes[device] = Outcome(state="refused", reason=reason, version=version)
        elif shadow.json_equal(after, before):
            outcomes[device] = Outcome(state="unchanged", version=version)
        else:
            outcomes[device] = Outcome(state="written", version=version + 1)
            rows.append({"b_id": device, "tags": after, "tags_version": version + 1})
            dependencies.save(session, device, before, after)
    if rows:
        session.connection().execute(_SET_TAGS, rows)
    return JobProgress(outcomes=outcomes)


def _tagged(session: Session, devices: Sequence[str], *, lock: bool = False) -> list[Any]:
    chosen = select(_DEVICES.c.id, _DEVICES.c.tags, _DEVICES.c.tags_version).where(_DEVICES.c.id.in_(devices))
    chosen = chosen.order_by(_DEVICES.c.id)
    return list(session.connection().execute(chosen.with_for_update() if lock else chosen))


def _retagged(before: shadow.State, patch: shadow.State) -> tuple[shadow.State, str]:
    after = shadow.merge(before, patch)
    try:
        tags.check(after)
    except HubError as error:
        return before, error.detail
    return after, ""


def _command(session: Session, job: Job, devices: Sequence[str], now_us: int, _max_bytes: int) -> JobProgress:
    """Queued: a device that is away gets it with its birth, until the job's deadline."""
    done = JobProgress()
    for device in devices:
        row, messages = commands.create(
            session, device, job.content["verb"], job.content["target"], now_us, actor=JOB + job.id,
            args=job.content["args"], mode="queued", life_s=(job.deadline_us - now_us) / 1e6, trace=job.traceparent,
        )  # fmt: skip
        done.outcomes[device] = Outcome(state="written", command=row.id)
        done.messages += messages
    return done


_KINDS: dict[str, Callable[[Session, Job, Sequence[str], int, int], JobProgress]] = {
    "twin": _twin, "tags": _tags, "command": _command,
}  # fmt: skip


def in_force(session: Session, job: Job, devices: Sequence[str]) -> set[str]:
    """Of these devices those that report what the job desired. What it removed is the device's own business."""
    wanted = shadow.merge({}, job.content)
    return {
        device
        for (device, _), (document, _) in twin_batch.read_documents(session, devices, [job.document]).items()
        if not shadow.difference(wanted, document.state.get("reported", {}))
    }


# -- preview ---------------------------------------------------------------------------------------


def preview(session: Session, job: Job, devices: Sequence[str], now_us: int, max_bytes: int) -> list[PreviewedDevice]:
    """What the job would do to each of these devices now."""
    if job.kind == "twin":
        stored = twin_batch.read_documents(session, devices, [job.document])
        batch = twin_batch.TwinBatch(stored, now_us, max_bytes)  # never written
        return [_preview_twin(job, device, stored, batch) for device in devices]
    if job.kind == "tags":
        return [_preview_tags(job, device, before) for device, before, _ in _tagged(session, devices)]
    chosen = select(_DEVICES.c.id, _DEVICES.c.state).where(_DEVICES.c.id.in_(devices)).order_by(_DEVICES.c.id)
    waits = "waits until the device comes"
    return [
        PreviewedDevice(device=device, state="written", reason="" if state == "online" else waits)
        for device, state in session.connection().execute(chosen)
    ]


def _preview_twin(
    job: Job, device: str, stored: dict[Key, Stored], batch: twin_batch.TwinBatch
) -> PreviewedDevice:  # fmt: skip
    document, owners = stored.get((device, job.document), (shadow.Document(), {}))
    state, reason, _ = batch.patch_desired(device, job.document, job.content, _request(job), JOB + job.id)
    before = document.state.get("desired", {})
    changes = difference(before, shadow.merge(before, job.content), owners) if state == "written" else []
    return PreviewedDevice(device=device, state=state, reason=reason, changes=changes)


def _preview_tags(job: Job, device: str, before: shadow.State) -> PreviewedDevice:
    after, reason = _retagged(before, job.content)
    changes = difference(before, after, {})
    return PreviewedDevice(device=device, state="refused" if reason else "written" if changes else "unchanged",
                    reason=reason, changes=changes)  # fmt: skip


def difference(before: shadow.State, after: shadow.State, owners: shadow.State) -> list[dict[str, Any]]:
    """Each leaf that changes: its path, what was and what will be there, and who owns it now."""
    old, new, names = dict(leaves(before)), dict(leaves(after)), dict(leaves(owners))
    changes = []
    for path in sorted(old.keys() | new.keys()):
        if path in old and path in new and shadow.json_equal(old[path], new[path]):
            continue
        change = {"path": format_path(path)}
        for name, values in (("before", old), ("after", new), ("owner", names)):
            if path in values:
                change[name] = values[path]
        changes.append(change)
    return changes
