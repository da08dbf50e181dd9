"""Invariants W1 to W6 of a run, for random graphs, outcomes, kills and clocks. Seeded bugs must break them."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloud_hub.playbooks.core import machine
from cloud_hub.playbooks.core.machine import Decision, Entry, Outcome, RunState
from cloud_hub.playbooks.core.plan import Plan, PlanStep

SECOND = 1_000_000
START = 1_700_000_000 * SECOND


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    steps: list[PlanStep] = []
    for number in range(draw(st.integers(1, 7))):
        kind = draw(st.sampled_from(["action", "action", "action", "wait", "join"]))
        steps.append(PlanStep(
            id=f"s{number}", kind=kind,  # type: ignore[arg-type]
            needs=tuple(draw(st.sets(st.sampled_from([step.id for step in steps]), max_size=3))) if steps else (),
            when=draw(st.sampled_from(["", "", "", "even", "never"])), wait_s=draw(st.integers(0, 30)),
            until=draw(st.sampled_from(["", "even", "never"])) if kind != "join" else "",
            rounds=draw(st.integers(1, 3)) if kind == "action" else 1, retries=draw(st.integers(0, 3)),
            on_failure=draw(st.sampled_from(["stop", "continue", "undo"])),
        ))  # fmt: skip
    return Plan(playbook="random", deadline_s=draw(st.sampled_from([60, 3600])), parameters={"": {}}, steps=steps)


@dataclass
class Runner:
    """One run in a simulated database: `entries` and `actions` change together or, at a kill, not at all.

    A worker carries actions out at least once; the world dedupes them by key.
    """

    plan: Plan
    seed: int
    decide: Callable[..., list[Decision]] = machine.decide
    entries: list[Entry] = field(default_factory=list)
    actions: dict[str, dict[str, Any]] = field(default_factory=dict)
    effects: dict[str, int] = field(default_factory=dict)
    log: list[tuple[str, str, int]] = field(default_factory=list)
    now: int = START

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.write(Entry(kind="run.running", step="", t_us=self.now,
                         data={"deadline_us": self.now + int(self.plan.deadline_s * SECOND)}))  # fmt: skip

    @property
    def state(self) -> RunState:
        """Always from the journal: a killed hub remembers nothing else."""
        return machine.replay(self.plan, self.entries)

    def write(self, entry: Entry) -> None:
        self.entries.append(entry)
        self.log.append((entry.kind, entry.step, len(self.log)))

    def poll(self, ref: str) -> Outcome:
        return Outcome(state=self.actions[ref]["state"], final=self.actions[ref]["final"])

    def holds(self, _step: PlanStep, text: str, _run: RunState) -> bool:
        return text == "even" and self.now // SECOND % 2 == 0

    def once(self) -> None:
        """The engine looks at the run, and may be killed before its transaction is committed."""
        before = len(self.entries), dict(self.actions), len(self.log)
        for _ in range(50):
            decisions = self.decide("r", self.plan, self.state, self.poll, self.holds, self.now)
            for decision in decisions:
                self.carry_out(decision)
            if not decisions:
                break
        if self.random.random() < 0.3:  # killed
            del self.entries[before[0] :], self.log[before[2] :]
            self.actions = before[1]

    def carry_out(self, decision: Decision) -> None:
        data = dict(decision.data)
        if decision.effect in {"start", "undo"}:
            data["ref"] = ref = f"{decision.key}#{data.get('attempt', 0)}"
            assert ref not in self.actions, f"{ref} is started twice"
            self.actions[ref] = {"state": "running", "final": False, "key": decision.key, "step": decision.step}
        if decision.effect == "cancel" and self.random.random() < 0.7:
            self.actions[data["ref"]]["state"] = "failed"
        self.write(Entry(kind=decision.kind, step=decision.step, t_us=self.now, data=data))

    def work(self) -> None:
        """The worker of actions; killed after the effect, it does it again with the same key."""
        for ref, action in self.actions.items():
            if action["state"] != "running" or self.random.random() < 0.3:
                continue
            how = self.random.random()
            if how < 0.6:
                self.effects[action["key"]] = self.effects.get(action["key"], 0) + 1
                if self.random.random() > 0.3:
                    self.actions[ref] = action | {"state": "succeeded"}
            else:
                self.actions[ref] = action | {"state": "failed", "final": how > 0.95}

    def run(self, cancel_at: int = -1, jumps: bool = False) -> RunState:
        for turn in range(3000):
            if turn == cancel_at and self.state.state in machine.ACTIVE:
                self.write(Entry(kind="run.stopping", step="", t_us=self.now, data={
                    "ending": "cancelled", "reason": "cancelled by anna", "interrupt": True}))  # fmt: skip
            self.once()
            if self.state.state in machine.FINAL:
                return self.state
            self.work()
            self.now += self.random.choice([0, SECOND, 7 * SECOND])
            if jumps and self.random.random() < 0.05:
                self.now += self.random.choice([-86_400, -60, 60, 3600]) * SECOND
        raise AssertionError(f"the run has not ended: {self.state}")


def check(world: Runner) -> None:
    """W1, W2 and W6 of a run that has ended."""
    state = world.state
    place = {(kind, step): number for number, (kind, step, _) in enumerate(world.log)}
    for step in world.plan.steps:
        stands = state.steps[step.id]
        assert stands.state in machine.ENDED - {"undoing"}
        if stands.state in {"succeeded", "undone"} and step.kind == "action":  # W1: done, and no other key than needed
            keys = {f"r/{step.id}/{stands.epoch}.{number}" for number in range(stands.round + 1)}
            assert keys <= set(world.effects)
            assert {key for key in world.effects if key.startswith(f"r/{step.id}/") and "undo" not in key} == keys
        for need in step.needs:  # W2: nothing begins before what it needs has ended
            if ("step.started", step.id) in place:
                first = next(n for n, (kind, name, _) in enumerate(world.log)
                             if (kind, name) == ("step.started", step.id))  # fmt: skip
                over = {"step.succeeded", "step.failed", "step.skipped"}
                ends = [n for n, (kind, name, _) in enumerate(world.log) if name == need and kind in over]
                assert ends
                assert min(ends) < first
    undone = [name for kind, name, _ in world.log if kind == "step.undoing"]
    orders = [state.steps[name].order for name in undone]
    assert orders == sorted(orders, reverse=True)
    if state.undo and state.state == "failed":
        assert all(state.steps[s.id].state != "succeeded" for s in world.plan.steps if s.kind == "action")
    attempts = [action for action in world.actions.values() if not action["key"].endswith("undo")]
    bound = sum(s.rounds * (s.retries + 1) for s in world.plan.steps if s.kind == "action")
    assert len(attempts) <= bound
    assert digest(machine.replay(world.plan, world.entries)) == digest(state)  # W6


def digest(state: RunState) -> bytes:
    return msgspec.json.encode(state, order="deterministic")


@settings(max_examples=150, deadline=None)
@given(plans(), st.integers(0, 2**32))
def test_runs_end_with_each_effect_once_and_in_order(plan: Plan, seed: int) -> None:
    world = Runner(plan, seed)
    world.run()
    check(world)


@settings(max_examples=80, deadline=None)
@given(plans(), st.integers(0, 2**32), st.integers(0, 8))
def test_cancel_wins_over_retries(plan: Plan, seed: int, at: int) -> None:
    """W4: after the cancellation nothing is started, in a retry's wait or anywhere else."""
    world = Runner(plan, seed)
    world.run(cancel_at=at)
    kinds = [kind for kind, _, _ in world.log]
    if "run.stopping" in kinds and world.state.reason == "cancelled by anna":
        assert "step.started" not in kinds[kinds.index("run.stopping") :]
        assert world.state.state == "cancelled"
    check(world)


@settings(max_examples=80, deadline=None)
@given(plans(), st.integers(0, 2**32))
def test_a_clock_that_jumps_strands_no_run(plan: Plan, seed: int) -> None:
    """W3: a timer never waits longer than was meant; `run` asserts that the run ends."""
    world = Runner(plan, seed)
    world.run(jumps=True)
    check(world)


def timer() -> tuple[Plan, RunState]:
    plan = Plan(playbook="p", deadline_s=7200, parameters={"": {}}, steps=[PlanStep(id="a", kind="wait", wait_s=60)])
    state = machine.begin(plan)
    machine.apply(state, Entry(kind="run.running", step="", t_us=START, data={"deadline_us": START + 7200 * SECOND}))
    waiting = {"since_us": START, "due_us": START + 60 * SECOND}
    machine.apply(state, Entry(kind="step.waiting", step="a", t_us=START, data=waiting))
    return plan, state


def decided(plan: Plan, state: RunState, now_us: int) -> list[str]:
    found = machine.decide("r", plan, state, lambda _: Outcome(state="running"), lambda *_: False, now_us)
    for decision in found:
        machine.apply(state, Entry(kind=decision.kind, step=decision.step, t_us=now_us, data=decision.data))
    return [decision.kind for decision in found]


def test_a_timer_of_a_clock_that_was_set_back_waits_once_more_and_no_longer() -> None:
    plan, state = timer()
    day = 86_400 * SECOND
    assert decided(plan, state, START + 59 * SECOND) == []
    assert decided(plan, state, START - day) == ["step.waiting"]
    assert decided(plan, state, START - day + 59 * SECOND) == []
    assert decided(plan, state, START - day + 60 * SECOND) == ["step.succeeded"]


def test_a_resumed_run_does_what_failed_again_by_a_new_key() -> None:
    steps = [PlanStep(id="a", kind="action", action="x"), PlanStep(id="b", kind="action", needs=("a",))]
    plan = Plan(playbook="p", deadline_s=60, parameters={"": {}}, steps=steps)
    state = machine.begin(plan)
    for kind, step, data in (
        ("run.running", "", {"deadline_us": START + 60 * SECOND}), ("step.started", "a", {"ref": "1"}),
        ("step.succeeded", "a", {}), ("step.started", "b", {"ref": "2"}),
        ("step.failed", "b", {"outcome": "no", "on_failure": "stop"}), ("run.failed", "", {"reason": "b: no"}),
        ("run.resumed", "", {"deadline_us": START + 120 * SECOND}),
    ):  # fmt: skip
        machine.apply(state, Entry(kind=kind, step=step, t_us=START, data=data))
    found = machine.decide("r", plan, state, lambda _: Outcome(state="running"), lambda *_: True, START)
    assert [(decision.step, decision.key) for decision in found] == [("b", "r/b/1.0")]


# -- negative controls: each bug must break an invariant --------------------------------------------


def forgets_the_round(run: str, step: str, state: Any) -> str:
    """Keys that are new for every attempt: a repeated effect is not recognised."""
    return f"{run}/{step}/{state.epoch}.{state.round}.{state.attempt}"


def retries_though_cancelled(*arguments: Any) -> list[Decision]:
    run_id, plan, run, poll, holds, now = arguments
    cheat = msgspec.convert(msgspec.to_builtins(run), RunState)
    cheat.state = "running" if run.state == "stopping" else run.state
    cheat.interrupt = False
    return machine.decide(run_id, plan, cheat, poll, holds, now)


def ignores_needs(*arguments: Any) -> list[Decision]:
    run_id, plan, run, poll, holds, now = arguments
    loose = msgspec.structs.replace(plan, steps=[msgspec.structs.replace(step, needs=()) for step in plan.steps])
    return machine.decide(run_id, loose, run, poll, holds, now)


def undoes_the_first_first(*arguments: Any) -> list[Decision]:
    run_id, plan, run, poll, holds, now = arguments
    cheat = msgspec.convert(msgspec.to_builtins(run), RunState)
    for state in cheat.steps.values():
        state.order = -state.order
    return machine.decide(run_id, plan, cheat, poll, holds, now)


CHAIN = Plan(playbook="p", deadline_s=3600, parameters={"": {}}, steps=[
    PlanStep(id="a", kind="action", retries=3), PlanStep(id="b", kind="action", needs=("a",), retries=3),
    PlanStep(id="c", kind="action", needs=("b",), on_failure="undo"),
])  # fmt: skip


def broken(decide: Callable[..., list[Decision]], **run: Any) -> int:
    """For how many of 60 seeds an invariant does not hold."""
    count = 0
    for seed in range(60):
        world = Runner(CHAIN, seed, decide=decide)
        try:
            world.run(**run)
            kinds = [kind for kind, _, _ in world.log]
            if "run.stopping" in kinds:
                assert "step.started" not in kinds[kinds.index("run.stopping") :]
            check(world)
        except (AssertionError, KeyError):
            count += 1
    return count


@pytest.mark.parametrize(
    ("decide", "run"),
    [(retries_though_cancelled, {"cancel_at": 1}), (ignores_needs, {}), (undoes_the_first_first, {})],
)
def test_a_seeded_bug_is_found(decide: Callable[..., list[Decision]], run: dict[str, Any]) -> None:
    assert broken(machine.decide, **run) == 0
    assert broken(decide, **run) > 0


def test_keys_that_differ_between_attempts_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "key", forgets_the_round)
    assert broken(machine.decide) > 0


def test_a_journal_that_lacks_an_entry_gives_another_state() -> None:
    world = Runner(CHAIN, 3)
    world.run()
    lacking = [entry for entry in world.entries if entry.kind != "step.succeeded"]
    assert digest(machine.replay(CHAIN, lacking)) != digest(world.state)
