"""The state machine of a run: what happens next, and what a journal's entries mean. Pure.

`decide` reads the state and returns decisions; the engine carries each out in the transaction that journals it, as an
`Entry`. `apply` changes the state by one entry, and nothing else does: the entries of a run, applied from the
beginning, give its state (invariant W6).

A step ends as succeeded, failed, skipped or cancelled. It begins when all that it needs have ended; it is skipped when
all of them were skipped, or its `when` does not hold. `on_failure`: `stop` lets what runs end and begins nothing more,
`undo` also undoes what succeeded, the last first, `continue` goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import msgspec

from cloud_hub.playbooks.core.plan import Plan, PlanStep

CONDITION_US = 1_000_000
ENDED = frozenset({"succeeded", "failed", "skipped", "cancelled", "undoing", "undone"})
"""States of steps that are over; `undoing` and `undone` have succeeded before."""
ACTIVE = ("running", "stopping")
FINAL = frozenset({"succeeded", "failed", "cancelled"})

StepStatus = Literal[
    "pending", "waiting", "running", "succeeded", "failed", "skipped", "cancelled", "undoing", "undone"
]  # fmt: skip


class StepState(msgspec.Struct, kw_only=True, omit_defaults=True):
    """How a step stands. `round` counts repeats, `attempt` failures in this round, both from 0; `ref` is its action.

    `due_us` ends a wait that began at `since_us`. `order` numbers the steps that succeeded. `epoch` counts resumes.
    """

    state: StepStatus = "pending"
    attempt: int = 0
    round: int = 0
    epoch: int = 0
    ref: str = ""
    undo_ref: str = ""
    since_us: int = 0
    due_us: int = 0
    order: int = 0
    cancelled: bool = False
    outcome: str = ""


class RunState(msgspec.Struct, kw_only=True):
    """How a run stands: proposed, running, stopping, succeeded, failed or cancelled. `ending` is what a stopping run
    becomes; `interrupt` cancels the actions that run; `undo` undoes what succeeded.
    """

    state: str = "proposed"
    deadline_us: int = 0
    ending: str = ""
    reason: str = ""
    interrupt: bool = False
    undo: bool = False
    succeeded: int = 0
    steps: dict[str, StepState] = {}


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """How an action stands: `final` failures are not tried again (a person or the policy refused it)."""

    state: Literal["running", "succeeded", "failed"]
    text: str = ""
    final: bool = False


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """What to do for one step (or for the run, `step` ''): an effect, or nothing but the entry `kind`.

    `start` and `undo` create an action by `key`; `cancel` asks that `ref` ends.
    """

    kind: str
    step: str = ""
    effect: Literal["", "start", "undo", "cancel"] = ""
    key: str = ""
    data: dict[str, Any] = {}


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of the journal."""

    kind: str
    step: str
    t_us: int
    data: dict[str, Any] = {}


Poll = Callable[[str], Outcome]
Holds = Callable[[PlanStep, str, RunState], bool]


def begin(plan: Plan) -> RunState:
    """The state before the first entry."""
    return RunState(steps={step.id: StepState() for step in plan.steps})


def key(run: str, step: str, state: StepState) -> str:
    """The idempotency key of a step's action: the same for every attempt, another for each round and resume."""
    return f"{run}/{step}/{state.epoch}.{state.round}"


# -- decide ----------------------------------------------------------------------------------------


def decide(run_id: str, plan: Plan, run: RunState, poll: Poll, holds: Holds, now_us: int) -> list[Decision]:
    """All that can happen now, each for another step; [] if the run waits."""
    if run.state not in ACTIVE:
        return []
    if now_us >= run.deadline_us and not run.interrupt:
        reason = run.reason or "not done by its deadline"
        data = {"ending": run.ending or "failed", "reason": reason, "interrupt": True}
        return [Decision(kind="run.stopping", data=data)]
    machine = _Machine(run_id, plan, run, poll, holds, now_us)
    decisions = [decision for step in plan.steps if (decision := machine.step(step)) is not None]
    return decisions or machine.end()


class _Machine:
    def __init__(self, run_id: str, plan: Plan, run: RunState, poll: Poll, holds: Holds, now_us: int) -> None:
        self._id, self._plan, self._run = run_id, plan, run
        self._poll, self._holds, self._now = poll, holds, now_us

    def step(self, step: PlanStep) -> Decision | None:
        """What happens to a step now."""
        state = self._run.steps[step.id]
        if state.state == "running":
            return self._running(step, state)
        if state.state not in {"pending", "waiting"}:
            return None
        if self._run.state == "stopping":
            return Decision(kind="step.cancelled", step=step.id, data={"outcome": self._run.reason})
        return self._pending(step) if state.state == "pending" else self._waiting(step, state)

    def _pending(self, step: PlanStep) -> Decision | None:
        states = [self._run.steps[need].state for need in step.needs]
        if any(state not in ENDED for state in states):
            return None
        if states and all(state == "skipped" for state in states):
            return self._skipped(step, "everything that it needs was skipped")
        if step.when and not self._holds(step, step.when, self._run):
            return self._skipped(step, "its condition does not hold")
        if step.kind == "join":
            return Decision(kind="step.succeeded", step=step.id)
        return self._start(step, self._run.steps[step.id]) if step.kind == "action" else self._wait(step, step.wait_s)

    def _skipped(self, step: PlanStep, reason: str) -> Decision:
        return Decision(kind="step.skipped", step=step.id, data={"outcome": reason})

    def _wait(self, step: PlanStep, wait_s: float, **data: Any) -> Decision:
        due_us = self._now + int(wait_s * 1e6)
        return Decision(kind="step.waiting", step=step.id, data={"since_us": self._now, "due_us": due_us, **data})

    def _start(self, step: PlanStep, state: StepState) -> Decision:
        return Decision(kind="step.started", step=step.id, effect="start", key=key(self._id, step.id, state),
                        data={"attempt": state.attempt})  # fmt: skip

    def _waiting(self, step: PlanStep, state: StepState) -> Decision | None:
        if self._now < state.since_us:  # the clock was set back: wait as long as was meant, not longer
            return self._wait(step, (state.due_us - state.since_us) / 1e6, outcome=state.outcome)
        due = self._now >= state.due_us
        if step.kind == "action":
            return self._start(step, state) if due else None
        if step.until and self._holds(step, step.until, self._run):
            return Decision(kind="step.succeeded", step=step.id)
        if not due:
            return None
        if step.until:
            return self._failed(step, f"its condition did not hold within {step.wait_s:g} s")
        return Decision(kind="step.succeeded", step=step.id)

    def _failed(self, step: PlanStep, text: str) -> Decision:
        return Decision(kind="step.failed", step=step.id, data={"outcome": text, "on_failure": step.on_failure})

    def _running(self, step: PlanStep, state: StepState) -> Decision | None:
        outcome = self._poll(state.ref)
        if outcome.state == "running":
            if self._run.interrupt and not state.cancelled:
                return Decision(kind="step.cancelling", step=step.id, effect="cancel", data={"ref": state.ref})
            return None
        if outcome.state == "succeeded":
            return self._round(step, state, outcome.text)
        if self._run.interrupt and state.cancelled:
            return Decision(kind="step.cancelled", step=step.id, data={"outcome": outcome.text})
        if outcome.final or self._run.state == "stopping" or state.attempt >= step.retries:
            return self._failed(step, outcome.text)
        return self._wait(step, step.retry_s, attempt=state.attempt + 1, outcome=outcome.text)

    def _round(self, step: PlanStep, state: StepState, text: str) -> Decision:
        """One round of the step's action succeeded."""
        last = state.round + 1 >= step.rounds
        met = bool(step.until) and self._holds(step, step.until, self._run)
        if (last and not step.until) or met:
            return Decision(kind="step.succeeded", step=step.id, data={"outcome": text})
        if last:
            return self._failed(step, f"its condition did not hold after {step.rounds} rounds")
        if self._run.state == "stopping":
            return Decision(kind="step.cancelled", step=step.id, data={"outcome": self._run.reason})
        return self._wait(step, step.every_s, round=state.round + 1, attempt=0, outcome=text)

    # -- the end of the run

    def end(self) -> list[Decision]:
        """The next undo, or the end of a run whose steps have all ended."""
        run = self._run
        if run.undo and run.state == "stopping":
            for step in self._plan.steps:
                if run.steps[step.id].state == "undoing":
                    return self._undoing(step, run.steps[step.id])
        if any(state.state not in ENDED for state in run.steps.values()):
            return []
        if run.undo and (undo := self._next_undo()) is not None:
            return [undo]
        return [Decision(kind=f"run.{run.ending or 'succeeded'}", data={"reason": run.reason})]

    def _next_undo(self) -> Decision | None:
        """The action that succeeded last and is not undone."""
        done = [
            step for step in self._plan.steps
            if step.kind == "action" and self._run.steps[step.id].state == "succeeded"
        ]  # fmt: skip
        if not done:
            return None
        last = max(done, key=lambda step: self._run.steps[step.id].order)
        state = self._run.steps[last.id]
        return Decision(kind="step.undoing", step=last.id, effect="undo", key=f"{key(self._id, last.id, state)}/undo",
                        data={"ref": state.ref})  # fmt: skip

    def _undoing(self, step: PlanStep, state: StepState) -> list[Decision]:
        outcome = self._poll(state.undo_ref)
        if outcome.state == "running":
            return []
        text = outcome.text if outcome.state == "succeeded" else f"could not be undone: {outcome.text}"
        return [Decision(kind="step.undone", step=step.id, data={"outcome": text})]


def next_us(plan: Plan, run: RunState, now_us: int) -> int:
    """When the run is looked at again if nothing else happens: its next timer, condition or its deadline."""
    times = [run.deadline_us] if not run.interrupt else []
    for step in plan.steps:
        state = run.steps[step.id]
        if state.state == "waiting":
            times.append(state.due_us)
            if step.kind == "wait" and step.until:
                times.append(now_us + int(step.every_s * 1e6))
    return min(times, default=now_us + CONDITION_US)


def refs(run: RunState) -> list[str]:
    """The actions that the run waits for."""
    running = [state.ref for state in run.steps.values() if state.state == "running"]
    return running + [state.undo_ref for state in run.steps.values() if state.state == "undoing"]


# -- apply -----------------------------------------------------------------------------------------


def apply(run: RunState, entry: Entry) -> None:
    """Change the state by one entry of the journal."""
    if not entry.step:
        _apply_run(run, entry)
        return
    state, name, data = run.steps[entry.step], entry.kind.removeprefix("step."), entry.data
    state.outcome = str(data.get("outcome", state.outcome))
    if name == "cancelling":
        state.cancelled = True
        return
    state.state = "running" if name == "started" else name  # type: ignore[assignment]
    if name == "started":
        state.ref, state.cancelled = data["ref"], False
    elif name == "waiting":
        state.since_us, state.due_us = data["since_us"], data["due_us"]
        state.attempt, state.round = data.get("attempt", state.attempt), data.get("round", state.round)
    elif name == "succeeded":
        run.succeeded += 1
        state.order = run.succeeded
    elif name == "undoing":
        state.undo_ref = data["ref"]
    elif name == "failed" and data["on_failure"] != "continue" and run.state == "running":
        run.state, run.ending, run.reason = "stopping", "failed", f"{entry.step}: {state.outcome}"
        run.undo = data["on_failure"] == "undo"


def _apply_run(run: RunState, entry: Entry) -> None:
    name, data = entry.kind.removeprefix("run."), entry.data
    if name == "resumed":
        for state in run.steps.values():
            if state.state in {"failed", "cancelled", "undone"}:
                state.state, state.attempt, state.ref, state.outcome = "pending", 0, "", ""
                state.epoch, state.cancelled = state.epoch + 1, False
        run.state, run.ending, run.reason, run.interrupt, run.undo = "running", "", "", False, False
    elif name == "stopping":
        run.interrupt = run.interrupt or bool(data["interrupt"])
        run.ending, run.reason = data["ending"], data["reason"]
        run.state = name
    elif name != "approved":
        run.state = name
    run.deadline_us = data.get("deadline_us", run.deadline_us)
    run.reason = data.get("reason", run.reason)


def replay(plan: Plan, entries: list[Entry]) -> RunState:
    """The state after these entries."""
    run = begin(plan)
    for entry in entries:
        apply(run, entry)
    return run


def view(plan: Plan, step: PlanStep, run: RunState, device: Mapping[str, Any]) -> dict[str, Any]:
    """What a condition of `step` reads: the device, and the steps and parameters of its playbook."""
    inside = {
        name.removeprefix(step.scope): {"state": state.state, "outcome": state.outcome}
        for name, state in run.steps.items()
        if name.startswith(step.scope)
    }
    return {**device, "steps": inside, "parameters": plan.parameters[step.scope]}
