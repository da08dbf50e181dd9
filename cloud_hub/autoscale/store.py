"""Stores decisions with their inputs, and what became of them.

A decision is committed with the new state before the platform is called (A5), in a transaction that checks the fencing
token (A6). An outcome is stored by the decision's key, whichever hub learns it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
from sqlalchemy import insert, update
from sqlmodel import Session, col, select

from cloud_hub.audit import trail
from cloud_hub.autoscale import Counts
from cloud_hub.autoscale.core.policy import record_outcome
from cloud_hub.autoscale.core.signals import Reading
from cloud_hub.autoscale.core.state import Decision, Observation, Outcome, Outlook, State
from cloud_hub.autoscale.core.turn import Control, text, turn
from cloud_hub.autoscale.targets_file import Target
from cloud_hub.clock import new_id
from cloud_hub.database.tables import ScaleDecision, ScalePolicy, ScaleTarget

log = logging.getLogger(__name__)

_INSERT = insert(ScaleDecision)
_DECISION: Any = ScaleDecision.__table__  # type: ignore[attr-defined]
OPEN = ("decided", "unknown")
"""Outcomes of a call that may still change."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """What was read for one target. `counts` is None if the platform does not say; `errors` says why, by part."""

    target: Target
    counts: Counts | None
    readings: tuple[Reading, ...] = ()
    busy: int | None = None
    outlook: Outlook | None = None
    errors: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Decided:
    """A stored decision. The platform is to be called if `calls`."""

    id: str
    target: Target
    decision: Decision
    calls: bool


def rows_of(session: Session, names: Sequence[str]) -> dict[str, ScaleTarget]:
    """The rows of these targets, locked until the transaction ends."""
    query = select(ScaleTarget).where(col(ScaleTarget.name).in_(names)).order_by(ScaleTarget.name).with_for_update()
    return {row.name: row for row in session.exec(query)}


def decide_all(session: Session, observed: Sequence[Observed], token: int, now_us: int) -> list[Decided]:
    """Decide on these targets and store it all. The caller has checked the fencing token in this session."""
    rows = rows_of(session, [one.target.name for one in observed])
    _store_policies(session, {one.target.digest: one.target for one in observed}, now_us)
    decided, values = list[Decided](), list[dict[str, Any]]()
    for one in observed:
        row = rows.get(one.target.name) or ScaleTarget(name=one.target.name)
        done, value = _decide(session, row, one, token, now_us)
        session.add(row)
        decided.append(done)
        values.append(value)
    if values:
        session.connection().execute(_INSERT, values)
    return decided


def _store_policies(session: Session, targets: dict[str, Target], now_us: int) -> None:
    known = set(session.exec(select(ScalePolicy.digest).where(col(ScalePolicy.digest).in_(targets))))
    for digest, target in targets.items():
        if digest not in known:
            session.add(ScalePolicy(digest=digest, content=text(target.entry.policy), first_us=now_us))


def _decide(
    session: Session, row: ScaleTarget, one: Observed, token: int, now_us: int
) -> tuple[Decided, dict[str, Any]]:  # fmt: skip
    entry, before = one.target.entry, _state(row, one.target)
    _note_drift(session, row, one, before, now_us)
    control = control_of(session, row, now_us, dry_run=entry.dry_run)
    observation = observation_of(one, token, now_us)
    decision, after = turn(entry.policy, before, observation, control, entry.name)
    if before.pending is not None and after.pending is None:
        _close(session, before.pending.key, before.pending.to, one.counts, now_us)
    calls = decision.calls and not control.dry_run
    outcome = "decided" if calls else "dry-run" if decision.calls else "held"
    number = new_id()
    row.platform, row.policy, row.dry_run = one.target.scaler.name, one.target.digest, control.dry_run
    row.state, row.wanted, row.reason, row.decision = text(after), decision.to, decision.reason, number
    row.keeps = decision.keeps
    row.desired, row.ready = (one.counts.desired, one.counts.ready) if one.counts is not None else (None, None)
    row.readings, row.errors, row.decided_us = msgspec.to_builtins(one.readings), dict(one.errors), now_us
    if calls:
        _audit(session, entry.name, number, decision, one.readings, now_us)
    return Decided(id=number, target=one.target, decision=decision, calls=calls), {
        "id": number, "target": entry.name, "t_us": now_us, "action": decision.action, "before": decision.before,
        "to": decision.to, "reason": decision.reason, "key": decision.key, "fencing_token": token,
        "policy": one.target.digest, "control": text(control), "state": text(before),
        "observation": text(observation), "decision": text(decision), "errors": dict(one.errors),
        "outcome": outcome, "outcome_text": "", "ended_us": None,
    }  # fmt: skip


def observation_of(one: Observed, token: int | None, now_us: int) -> Observation:
    """What the policy is told."""
    counts = one.counts
    return Observation(
        now_us=now_us, desired=counts.desired if counts is not None else None,
        ready=counts.ready if counts is not None else None, busy=one.busy, readings=one.readings, outlook=one.outlook,
        fencing_token=token,
    )  # fmt: skip


def _state(row: ScaleTarget, target: Target) -> State:
    """The policy's memory. Of another platform, only the times of its actions count here."""
    state = msgspec.json.decode(row.state, type=State)
    if row.platform in {"", target.scaler.name}:
        return state
    row.expected, row.drift, row.drift_us = None, "", None
    return State(actions=state.actions, sequence=state.sequence, spend=state.spend)


def _note_drift(session: Session, row: ScaleTarget, one: Observed, state: State, now_us: int) -> None:
    """Show that somebody else changed the count. The policy goes on from what it finds."""
    if one.counts is None:
        return
    found = one.counts.desired
    allowed = {row.expected} if state.pending is None else {row.expected, state.pending.before, state.pending.to}
    if row.expected is not None and found not in allowed and not one.target.entry.dry_run:
        row.drift = f"another writer changed the count: expected {row.expected}, found {found}"
        row.drift_us = now_us
        trail.add(session, now_us, "hub", "scale.drift", row.name, expected=row.expected, found=found)
        log.warning("scale.drift", extra={"fields": {"target": row.name, "expected": row.expected, "found": found}})
    row.expected = found


def control_of(session: Session, row: ScaleTarget, now_us: int, *, dry_run: bool = False) -> Control:
    """What a person said about the target. What had its time ends here."""
    if row.mode != "auto" and row.until_us is not None and now_us >= row.until_us:
        trail.add(session, now_us, "hub", "scale.control-ended", row.name, mode=row.mode, by=row.control_by)
        row.mode, row.override_count, row.until_us, row.control_by, row.control_reason = "auto", None, None, "", ""
    said = {"mode": row.mode, "count": row.override_count or 0, "actor": row.control_by}
    return msgspec.convert(said | {"reason": row.control_reason, "dry_run": dry_run}, Control)


def _audit(
    session: Session, target: str, number: str, decision: Decision, readings: Sequence[Reading], now_us: int
) -> None:  # fmt: skip
    trail.add(
        session, now_us, "hub", "scale.decided", target, decision=number, action=decision.action,
        before=decision.before, to=decision.to, reason=decision.reason, key=decision.key,
        fencing_token=decision.fencing_token, readings=msgspec.to_builtins(readings),
    )  # fmt: skip


# -- outcomes ----------------------------------------------------------------------------------------


def store_outcome(session: Session, target: str, key: str, outcome: Outcome, reason: str, now_us: int) -> None:
    """Store how a call ended. `unknown` leaves it pending: the platform is read back before anything else."""
    row = session.get(ScaleTarget, target, with_for_update=True)
    if row is None:
        return
    state = msgspec.json.decode(row.state, type=State)
    pending = state.pending
    row.state = text(record_outcome(state, key, outcome))
    if outcome == "done" and pending is not None and pending.key == key:
        row.expected, row.drift, row.drift_us = pending.to, "", None
    _end_rows(session, key, outcome, reason, now_us)
    trail.add(session, now_us, "hub", f"scale.{outcome}", target, key=key, outcome=reason)


def store_rehearsal(session: Session, number: str, reason: str, now_us: int) -> None:
    """Store what the platform says about a decision of a dry run."""
    values = {"outcome_text": reason[:500], "ended_us": now_us}
    session.connection().execute(update(_DECISION).where(_DECISION.c.id == number).values(**values))


def _close(session: Session, key: str, to: int, counts: Counts | None, now_us: int) -> None:
    """End a call whose outcome was not known: it is read back now, or given up."""
    done = counts is not None and counts.desired == to
    reason = f"read back: {to} instances" if done else "no outcome in time: given up, the platform's count is taken"
    _end_rows(session, key, "done" if done else "unknown", reason, now_us)


def _end_rows(session: Session, key: str, outcome: str, reason: str, now_us: int) -> None:
    mine = (_DECISION.c.key == key, _DECISION.c.outcome.in_(OPEN))
    values = {"outcome": outcome, "outcome_text": reason[:500], "ended_us": now_us}
    session.connection().execute(update(_DECISION).where(*mine).values(**values))
