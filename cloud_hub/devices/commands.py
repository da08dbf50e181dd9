"""Creates, sends, cancels and expires commands to devices, and handles their results.

A device that was offline gets its pending commands after its next birth. A command ends once. `life` is how long the
hub waits for a result: until `expires_us` for the first one, then as long again after each. When the hub cancels or
expires a command, it sends a cancel, again at the device's next birth: a device that has a result still sends it, and
one that never received the command will not run it later.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Literal

from sqlalchemy import ColumnElement, and_, func, or_
from sqlmodel import Session, col, select

from cloud_hub.audit import trail
from cloud_hub.clock import new_id
from cloud_hub.database import scopes
from cloud_hub.database.tables import Command, Device
from cloud_hub.errors import HubError
from cloud_hub.runtime.outgoing import OutgoingMessage
from shared.protocol import topics
from shared.protocol.codec import encode
from shared.protocol.messages import ENDED, CommandCancel, CommandRequest, CommandResult

Mode = Literal["direct", "queued"]
DEFAULT_LIFE_S = 30.0
ASKED_AFTER_S = 7 * 86400.0
"""For this long after a command expired, each birth of the device queries its result."""


def _request(row: Command) -> OutgoingMessage:
    message = CommandRequest(id=row.id, verb=row.verb, target=row.target, expires_us=row.expires_us, args=row.args)
    return _outgoing(row, "request", message)


def _cancel(row: Command) -> OutgoingMessage:
    return _outgoing(row, "cancel", CommandCancel(id=row.id, expires_us=row.expires_us))


def _outgoing(row: Command, kind: str, message: CommandRequest | CommandCancel) -> OutgoingMessage:
    return OutgoingMessage(
        topic=topics.thing(row.device, f"commands/{row.id}/{kind}"), payload=encode(message), trace=row.traceparent,
        response_topic=topics.thing(row.device, f"commands/{row.id}/response"), correlation=row.id.encode(),
    )  # fmt: skip


def _audit(session: Session, row: Command, actor: str, kind: str, now_us: int, **detail: Any) -> None:
    trail.add(session, now_us, actor, f"command.{kind}", f"{row.verb} {row.target}", device=row.device,
              trace=row.traceparent, command=row.id, **detail)  # fmt: skip


def create(
    session: Session, device: str, verb: str, target: str, now_us: int, *,
    actor: str, args: dict[str, str | float] | None = None, mode: Mode = "direct", life_s: float = DEFAULT_LIFE_S,
    trace: str = "",
) -> tuple[Command, list[OutgoingMessage]]:  # fmt: skip
    """Store a command; publish the returned messages after the commit. A queued command has none yet."""
    row = Command(
        id=new_id(),
        device=device,
        verb=verb,
        target=target,
        args=args or {},
        mode=mode,
        actor=actor,
        created_us=now_us,
        expires_us=now_us + int(life_s * 1e6),
        traceparent=trace,
    )
    if mode == "queued" and not _online(session, device):
        row.state = "queued"
    session.add(row)
    _audit(session, row, actor, row.state, now_us, mode=mode, args=row.args)
    return row, [] if row.state == "queued" else [_request(row)]


def _online(session: Session, device: str) -> bool:
    # Locked, so that no birth between this query and the commit misses the command.
    query = select(Device).where(Device.id == device).with_for_update().execution_options(populate_existing=True)
    row = session.exec(query).first()
    return row is not None and row.state == "online"


def handle_result(session: Session, device: str, result: CommandResult, now_us: int) -> bool:
    """Handle a result; ignored unless it is from the command's device. True if the command ends now."""
    row = session.get(Command, result.id)
    if row is None or row.device != device:
        return False
    if row.done_us is not None:
        _record_late(session, row, result, now_us)
        return False
    if result.state not in ENDED:
        _update_progress(row, result)
        row.heard_us = now_us
        return False
    row.output = dict(result.output)
    _end(session, row, device, result.state, result.text, now_us)
    row.heard_us = now_us
    return True


def _update_progress(row: Command, result: CommandResult) -> None:
    if result.state == "accepted":
        row.state = "accepted" if row.state in {"queued", "sent"} else row.state
    elif (result.progress or 0.0) >= (row.progress or 0.0):  # a duplicate must not lower the progress
        row.state, row.text = "running", result.text
        row.progress = row.progress if result.progress is None else result.progress


def _record_late(session: Session, row: Command, result: CommandResult, now_us: int) -> None:
    """Record the late result of a command that expired; its state stays."""
    if _awaits_late_result(row) and result.state in ENDED:
        row.heard_us, row.output = now_us, dict(result.output)
        row.text = f"{row.text}; later it said: {result.state} {result.text}".rstrip()
        _audit(session, row, row.device, "late", now_us, state=result.state, text=result.text)


def _awaits_late_result(row: Command) -> bool:
    given_up = row.state == "expired" and row.cancelled_us is not None
    return given_up and (row.heard_us or 0) < (row.done_us or 0)


def _end(session: Session, row: Command, actor: str, state: str, text: str, now_us: int) -> None:
    row.state, row.text, row.done_us = state, text, now_us
    _audit(session, row, actor, state, now_us, text=text)


def cancel(session: Session, command_id: str, actor: str, now_us: int) -> tuple[Command, list[OutgoingMessage]]:
    """Cancel a command. If it is still queued it ends at once, else the device reports how it ends.

    Raises HubError 404, or 409 if it has ended.
    """
    row = get(session, command_id)
    if row.done_us is not None:
        raise HubError(409, "Nothing to cancel", f"the command is already {row.state}")
    if row.state == "queued":
        row.cancelled_us = now_us
        _end(session, row, actor, "cancelled", "before it was delivered", now_us)
        return row, []
    if row.cancelled_us is None:
        row.cancelled_us = now_us
        _audit(session, row, actor, "cancel", now_us)
    return row, [_cancel(row)]


def give_up(session: Session, row: Command, now_us: int, actor: str, reason: str) -> list[OutgoingMessage]:
    """End a command now; the returned messages cancel it on the device if it may have it."""
    messages = [] if row.state == "queued" else [_cancel(row)]
    row.cancelled_us = row.cancelled_us or now_us
    _end(session, row, actor, "cancelled", reason, now_us)
    return messages


def _unanswered(now_us: int) -> ColumnElement[bool]:
    return or_(
        col(Command.done_us).is_(None),
        and_(col(Command.state) == "expired", col(Command.done_us) > now_us - int(ASKED_AFTER_S * 1e6)),
    )


def devices_with_pending(session: Session, devices: Collection[str], now_us: int) -> set[str]:
    """The devices that have `pending_messages`."""
    query = select(Command.device).where(col(Command.device).in_(devices), _unanswered(now_us)).distinct()
    return set(session.exec(query))


def pending_messages(session: Session, device: str, now_us: int) -> list[OutgoingMessage]:
    """Messages after a birth: commands without a result, and cancels of those that the hub ended meanwhile."""
    query = select(Command).where(Command.device == device, _unanswered(now_us)).order_by(Command.id)
    rows = session.exec(query).all()
    messages = []
    for row in rows:
        if _awaits_late_result(row) or (row.done_us is None and row.cancelled_us is not None):
            messages.append(_cancel(row))
        elif row.done_us is None and (row.heard_us is not None or row.expires_us > now_us):
            if row.state == "queued":
                row.state = "sent"
                _audit(session, row, "hub", "sent", now_us)
            messages.append(_request(row))
    return messages


def _overdue(now_us: int) -> ColumnElement[bool]:
    life_us = col(Command.expires_us) - col(Command.created_us)
    return and_(
        col(Command.done_us).is_(None), col(Command.expires_us) <= now_us,
        func.coalesce(col(Command.heard_us), 0) <= now_us - life_us,
    )  # fmt: skip


def list_overdue(session: Session, now_us: int) -> list[str]:
    """Ids of commands that are due to expire."""
    return list(session.exec(select(Command.id).where(_overdue(now_us)).order_by(Command.id)))


def expire(session: Session, now_us: int, numbers: Collection[str] | None = None) -> list[OutgoingMessage]:
    """Expire overdue commands, all or these; the returned messages cancel them on their devices."""
    messages = []
    query = select(Command).where(_overdue(now_us))
    for row in session.exec(query if numbers is None else query.where(col(Command.id).in_(numbers))).all():
        if row.state != "queued":
            row.cancelled_us = row.cancelled_us or now_us
            messages.append(_cancel(row))
        _end(session, row, "hub", "expired", "the device did not answer in time", now_us)
    return messages


def get(session: Session, command_id: str) -> Command:
    """The command, or HubError 404."""
    row = session.get(Command, command_id)
    if row is None or not scopes.sees(session, [row.device]):
        raise HubError(404, "No such command", f"'{command_id}' is not known")
    return row


def list_for_device(session: Session, device: str, state: str = "", limit: int = 100) -> list[Command]:
    """Commands of one device, the newest first."""
    query = select(Command).where(Command.device == device).order_by(col(Command.id).desc()).limit(limit)
    return list(session.exec(query.where(Command.state == state) if state else query))
