"""Lists, acknowledges and judges alarms, and computes the performance report."""

from __future__ import annotations

from typing import Any

from sqlalchemy import and_, func, or_
from sqlmodel import Session, col, select

from cloud_hub.alarms.core.performance import AlarmRecord, Report, build_report
from cloud_hub.alarms.core.state import Verdict, isa_state
from cloud_hub.audit import trail
from cloud_hub.database import scopes
from cloud_hub.database.tables import AlarmRow, Incident
from cloud_hub.errors import HubError
from cloud_hub.runtime.outgoing import OutgoingMessage
from shared.protocol import topics
from shared.protocol.codec import encode
from shared.protocol.messages import AlarmStateMessage, Life

_ALARMS: Any = AlarmRow.__table__  # type: ignore[attr-defined]


def get(session: Session, number: str) -> AlarmRow:
    """The alarm; raises HubError 404."""
    row = session.get(AlarmRow, number)
    if row is None or not scopes.sees(session, [row.device]):
        raise HubError(404, "No such alarm", f"'{number[:80]}' is not known")
    return row


def list_alarms(
    session: Session, *, device: str = "", metric: str = "", state: str = "", life: Life | None = None,
    priority: str = "", verdict: str = "", since_us: int | None = None, limit: int = 200,
) -> list[AlarmRow]:  # fmt: skip
    """The newest alarms of devices that the session sees; '' and None do not filter."""
    query = select(AlarmRow)
    wanted = ((AlarmRow.device, device), (AlarmRow.metric, metric), (AlarmRow.state, state),
              (AlarmRow.priority, priority), (AlarmRow.verdict, verdict))  # fmt: skip
    for column, value in wanted:
        query = query.where(column == value) if value else query
    if life is not None:
        query = query.where(_in_state(life))
    if since_us is not None:
        query = query.where(col(AlarmRow.received_us) >= since_us)
    query = query.order_by(col(AlarmRow.received_us).desc(), col(AlarmRow.id).desc()).limit(limit)
    return list(session.exec(scopes.restrict(session, query, col(AlarmRow.device))))


def _in_state(wanted: Life) -> Any:
    """The SQL condition for `state.isa_state`; a test compares the two."""
    raised, active, acked = _ALARMS.c.state == "raised", _ALARMS.c.suppressed == "", _ALARMS.c.acked_us.is_not(None)
    conditions: dict[Life, Any] = {
        "unacknowledged": and_(raised, active, ~acked),
        "acknowledged": and_(raised, active, acked),
        "returned-unacknowledged": and_(~raised, active, ~acked),
        "normal": and_(~raised, or_(~active, acked)),
    }
    return conditions[wanted] if wanted in conditions else and_(raised, _ALARMS.c.suppressed == wanted)


def acknowledge(
    session: Session, row: AlarmRow, now_us: int, *, actor: str, comment: str = "", trace: str = ""
) -> bool:
    """Acknowledge an alarm. The first acknowledgement counts; a later comment replaces an earlier one.

    Returns False if nothing changed.
    """
    first = row.acked_us is None
    if not first and comment in {"", row.comment}:
        return False
    if first:
        row.acked_us, row.acked_by = now_us, actor
    row.comment = comment or row.comment
    session.add(row)
    trail.add(session, now_us, actor, "alarm.acknowledged" if first else "alarm.commented", row.metric,
              device=row.device, trace=trace, alarm=row.id, comment=comment)  # fmt: skip
    return True


def set_verdict(
    session: Session, row: AlarmRow, verdict: Verdict, now_us: int, *, actor: str, comment: str = "", trace: str = ""
) -> None:
    """Record whether the alarm was real; learning uses the last verdict. The alarm is acknowledged, too."""
    if row.acked_us is None:
        row.acked_us, row.acked_by = now_us, actor
    row.verdict, row.verdict_us, row.verdict_by = verdict, now_us, actor
    row.comment = comment or row.comment
    session.add(row)
    trail.add(session, now_us, actor, "alarm.verdict", row.metric, device=row.device, trace=trace, alarm=row.id,
              verdict=verdict, comment=comment)  # fmt: skip


def state_message(row: AlarmRow, now_us: int, *, actor: str) -> OutgoingMessage:
    """The message that publishes the state of an alarm, for local displays and third parties."""
    state = AlarmStateMessage(
        id=row.id,
        metric=row.metric,
        life=isa_state(row),
        t_us=now_us,
        actor=actor,
        comment=row.comment,
        verdict=row.verdict,
    )
    return OutgoingMessage(topic=topics.thing(row.device, "alarms/life"), payload=encode(state))


# -- the report ------------------------------------------------------------------------------------

_COLUMNS = [_ALARMS.c[name] for name in AlarmRecord.__dataclass_fields__]


def performance(session: Session, since_us: int, until_us: int, *, device: str = "") -> Report:
    """The report on alarms received from `since_us` until `until_us`, of one device or of all that the session sees."""
    received = and_(_ALARMS.c.received_us >= since_us, _ALARMS.c.received_us < until_us)
    pages = count_pages(session, since_us, until_us, device=device)
    rows = _records(session, received, device)
    return build_report(rows, _records(session, _ALARMS.c.state == "raised", device), pages, since_us, until_us)


def count_pages(session: Session, since_us: int, until_us: int, *, device: str = "") -> int:
    """How many times somebody was called: the groups of incidents that began from `since_us` until `until_us`."""
    opened = and_(col(Incident.opened_us) >= since_us, col(Incident.opened_us) < until_us)
    paged = select(func.count()).where(opened, or_(col(Incident.page) == "", col(Incident.page) == col(Incident.id)))
    if device:
        paged = paged.where(Incident.device == device)
    return session.exec(scopes.restrict(session, paged, col(Incident.device))).one()


def _records(session: Session, condition: Any, device: str) -> list[AlarmRecord]:
    query: Any = select(*_COLUMNS).where(condition)
    if device:
        query = query.where(_ALARMS.c.device == device)
    rows = session.connection().execute(scopes.restrict(session, query, _ALARMS.c.device))
    return [AlarmRecord(**row) for row in rows.mappings()]
