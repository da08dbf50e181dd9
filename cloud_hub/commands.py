"""Commands to devices: stored, sent, answered, expired. A device that was away gets what still waits with its birth."""

from __future__ import annotations

from sqlmodel import Session, col, select

from cloud_hub import audit
from cloud_hub.clock import new_id
from cloud_hub.errors import HubError
from cloud_hub.tables import Command
from cloud_hub.twins import Outgoing
from shared import topics
from shared.codec import encode
from shared.messages import CommandRequest, CommandResult

DEFAULT_LIFE_S = 30.0


def _message(row: Command) -> Outgoing:
    request = CommandRequest(id=row.id, verb=row.verb, target=row.target, expires_us=row.expires_us)
    topic = topics.thing(row.device, f"commands/{row.id}/request")
    return Outgoing(topic=topic, payload=encode(request), trace=row.traceparent)


def create(
    session: Session, device: str, verb: str, target: str, now_us: int, *,
    who: str, life_s: float = DEFAULT_LIFE_S, trace: str = "",
) -> tuple[Command, Outgoing]:  # fmt: skip
    """Store a command; publish the returned message after the commit."""
    row = Command(
        id=new_id(), device=device, verb=verb, target=target, created_us=now_us,
        expires_us=now_us + int(life_s * 1e6), traceparent=trace,
    )  # fmt: skip
    session.add(row)
    audit.add(session, now_us, who, "command.sent", f"{verb} {target}", device=device, trace=trace, command=row.id)
    return row, _message(row)


def result(session: Session, device: str, word: CommandResult, now_us: int) -> None:
    """The device's word on a command; the first one counts, and only from the device it was sent to."""
    row = session.get(Command, word.id)
    if row is None or row.device != device or row.done_us is not None:
        return
    if word.state == "accepted":  # it was heard; how it ended is told by another word
        row.state = word.state
        return
    row.state, row.text, row.output, row.done_us = word.state, word.text, dict(word.output), now_us
    audit.add(session, now_us, device, f"command.{word.state}", f"{row.verb} {row.target}", device=device,
              trace=row.traceparent, command=row.id, text=word.text)  # fmt: skip


def waiting(session: Session, device: str, now_us: int) -> list[Outgoing]:
    """Messages of commands that the device has not answered and that still hold."""
    query = select(Command).where(
        Command.device == device, col(Command.done_us).is_(None), col(Command.expires_us) > now_us
    )
    return [_message(row) for row in session.exec(query.order_by(Command.id))]


def expired(session: Session, now_us: int) -> bool:
    """Whether some command waits to be ended."""
    query = select(Command.id).where(col(Command.done_us).is_(None), col(Command.expires_us) <= now_us)
    return session.exec(query.limit(1)).first() is not None


def expire(session: Session, now_us: int) -> None:
    """End what nobody answered in time."""
    for row in session.exec(select(Command).where(col(Command.done_us).is_(None), col(Command.expires_us) <= now_us)):
        row.state, row.done_us, row.text = "expired", now_us, "the device did not answer in time"
        audit.add(session, now_us, "hub", "command.expired", f"{row.verb} {row.target}", device=row.device,
                  trace=row.traceparent, command=row.id)  # fmt: skip


def get(session: Session, command_id: str) -> Command:
    """The command, or HubError 404."""
    row = session.get(Command, command_id)
    if row is None:
        raise HubError(404, "No such command", f"'{command_id}' is not known")
    return row
