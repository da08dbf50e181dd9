"""What callers do with targets: list, explain, pause, resume, override, and try a targets file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec
from sqlmodel import Session, col, select

from cloud_hub.audit import trail
from cloud_hub.autoscale.core.state import Decision, Observation
from cloud_hub.autoscale.core.target import TargetPolicy
from cloud_hub.autoscale.core.turn import Control, StoredInputs, replay
from cloud_hub.database.tables import ScaleDecision, ScalePolicy, ScaleTarget
from cloud_hub.errors import HubError
from shared.durations import SECOND_US
from shared.suggestions import nearest

LONGEST_S = 30 * 86_400.0
MOST_ROWS = 1000
LIMITS = frozenset({"bounds", "daily_cap", "max_step", "stabilization", "scaleUp", "scaleDown", "scale_to_zero"})
"""Rules that limit what the signals and the forecast ask for."""


def list_targets(session: Session) -> list[ScaleTarget]:
    """Every target that was ever decided on, by name."""
    return list(session.exec(select(ScaleTarget).order_by(ScaleTarget.name)))


def get(session: Session, name: str, *, lock: bool = False) -> ScaleTarget:
    """One target; HubError 404."""
    row = session.get(ScaleTarget, name, with_for_update=lock)
    if row is None:
        names = session.exec(select(ScaleTarget.name)).all()
        raise HubError(404, "No such target", f"'{name[:80]}' is no target{nearest(name, names)}")
    return row


def decisions(
    session: Session, name: str, *, changes: bool = False, before: str = "", limit: int = 100
) -> list[ScaleDecision]:
    """Decisions on a target, the newest first: all, or those that asked for a change; older than id `before`."""
    get(session, name)
    query = select(ScaleDecision).where(ScaleDecision.target == name)
    if changes:
        query = query.where(col(ScaleDecision.action) != "hold")
    if before:
        query = query.where(col(ScaleDecision.id) < before)
    return list(session.exec(query.order_by(col(ScaleDecision.id).desc()).limit(min(max(limit, 1), MOST_ROWS))))


def policy_of(session: Session, row: ScaleTarget) -> TargetPolicy:
    """The policy of the last decision; HubError 409 before the first."""
    stored = session.get(ScalePolicy, row.policy)
    if stored is None:
        raise HubError(409, "Not decided on yet", f"'{row.name}' has no decision yet: wait for its period")
    return msgspec.json.decode(stored.content, type=TargetPolicy)


# -- control -----------------------------------------------------------------------------------------


def pause(
    session: Session, name: str, now_us: int, *, actor: str, reason: str = "", for_s: float | None = None,
    trace: str = "",
) -> ScaleTarget:  # fmt: skip
    """Decide nothing on the target for `for_s` seconds, None: until it is resumed. HubError 404, 422."""
    row = get(session, name, lock=True)
    until = _until(now_us, for_s)
    _control(row, "paused", None, until, actor, reason)
    trail.add(session, now_us, actor, "scale.paused", name, trace=trace, reason=reason, until_us=until)
    return row


def resume(session: Session, name: str, now_us: int, *, actor: str, trace: str = "") -> ScaleTarget:
    """Let the policy decide again. HubError 404, or 409 if it does already."""
    row = get(session, name, lock=True)
    if row.mode == "auto":
        raise HubError(409, "Nothing to resume", f"'{name}' is neither paused nor overridden")
    trail.add(session, now_us, actor, "scale.resumed", name, trace=trace, was=row.mode)
    _control(row, "auto", None, None, "", "")
    return row


def override(
    session: Session, name: str, count: int, now_us: int, *, actor: str, for_s: float, reason: str = "",
    trace: str = "",
) -> ScaleTarget:  # fmt: skip
    """Want `count` instances for `for_s` seconds, within every limit of the policy. HubError 404, 409, 422."""
    row = get(session, name, lock=True)
    if problem := override_problem(session, row, count):
        raise HubError(422, "Outside the policy", problem)
    until = _until(now_us, for_s)
    _control(row, "override", count, until, actor, reason)
    trail.add(session, now_us, actor, "scale.overridden", name, trace=trace, count=count, reason=reason,
              until_us=until)  # fmt: skip
    return row


def _control(row: ScaleTarget, mode: str, count: int | None, until_us: int | None, actor: str, reason: str) -> None:
    row.mode, row.override_count, row.until_us = mode, count, until_us
    row.control_by, row.control_reason = actor, reason


def override_problem(session: Session, row: ScaleTarget, count: int) -> str:
    """Why the policy does not allow this count, or ''."""
    policy = policy_of(session, row)
    if policy.minimum <= count <= policy.maximum:
        return ""
    return f"{count} lies outside of {policy.minimum}..{policy.maximum} of '{row.name}': change the targets file for it"


def _until(now_us: int, for_s: float | None) -> int | None:
    if for_s is None:
        return None
    if not 1 <= for_s <= LONGEST_S:
        raise HubError(422, "Invalid time", f"for_s must lie in 1..{LONGEST_S:g} seconds")
    return now_us + int(for_s * SECOND_US)


# -- why ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class AutoscaleExplanation:
    """Why a target has its count: inputs, what each rule asked for, what limited it.

    `last_change` is the last decision that changed it. `replayed`: the stored inputs lead to this decision again.
    """

    target: str
    summary: list[str]
    inputs: list[dict[str, Any]]
    candidates: list[dict[str, Any]]
    limits: list[dict[str, Any]]
    decision: dict[str, Any]
    last_change: dict[str, Any] | None
    replayed: bool


def explain(session: Session, name: str) -> AutoscaleExplanation:
    """Answer "why this many?" from the stored inputs. HubError 404, 409."""
    row = get(session, name)
    stored = session.get(ScaleDecision, row.decision)
    if stored is None:
        raise HubError(409, "Not decided on yet", f"'{name}' has no decision yet: wait for its period")
    decision = msgspec.json.decode(stored.decision, type=Decision)
    observation = msgspec.json.decode(stored.observation, type=Observation)
    changed = next(iter(decisions(session, name, changes=True, limit=1)), None)
    candidates = msgspec.to_builtins(decision.candidates)
    return AutoscaleExplanation(
        target=name, summary=_summary(row, stored, decision, changed), inputs=_inputs(observation, stored),
        candidates=[one for one in candidates if one["rule"] not in LIMITS],
        limits=[one for one in candidates if one["rule"] in LIMITS], decision=msgspec.to_builtins(decision),
        last_change=changed.model_dump(include={"id", "t_us", "before", "to", "reason", "outcome", "outcome_text"})
        if changed is not None else None,
        replayed=replay(inputs_of(session, stored)) == decision,
    )  # fmt: skip


def inputs_of(session: Session, stored: ScaleDecision) -> StoredInputs:
    """The inputs of a stored decision."""
    policy = session.get_one(ScalePolicy, stored.policy)
    return StoredInputs(
        target=stored.target, policy=policy.content, state=stored.state, observation=stored.observation,
        control=stored.control,
    )  # fmt: skip


def _inputs(observation: Observation, stored: ScaleDecision) -> list[dict[str, Any]]:
    return [
        {"signal": reading.signal, "value": reading.value, "unit": reading.unit,
         "age_s": round((observation.now_us - reading.t_us) / SECOND_US, 1),
         "error": stored.errors.get(reading.signal, "")}
        for reading in observation.readings
    ]  # fmt: skip


def _summary(
    row: ScaleTarget, stored: ScaleDecision, decision: Decision, changed: ScaleDecision | None
) -> list[str]:  # fmt: skip
    have = "an unknown number of" if decision.before is None else str(decision.before)
    lines = [f"{row.name} has {have} instances; the last decision wants {decision.to}: {decision.reason}"]
    control = msgspec.json.decode(stored.control, type=Control)
    if control.mode == "override":
        lines.append(f"{control.actor} overrides the policy with {control.count}: {control.reason or 'no reason'}")
    if control.dry_run:
        lines.append("dry run: the platform is not called")
    if changed is not None and changed.id != stored.id:
        result = changed.outcome + (f", {changed.outcome_text}" if changed.outcome_text else "")
        lines.append(f"the last change was {changed.before} -> {changed.to} ({result}): {changed.reason}")
    if row.drift:
        lines.append(row.drift)
    lines += [f"{part} is unknown: {reason}" for part, reason in sorted(row.errors.items())]
    return lines
