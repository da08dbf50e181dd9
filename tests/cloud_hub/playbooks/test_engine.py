"""The engine over a real database: what happens to runs, and that one bad run stops no other."""

from __future__ import annotations

from pathlib import Path

import pytest
from simulators import databases
from simulators.playbook_world import SECOND, PlaybookWorld, plan_of
from sqlmodel import select

from cloud_hub.audit import trail
from cloud_hub.database.sessions import Database
from cloud_hub.database.tables import FailedItem, PlaybookRun
from cloud_hub.errors import HubError
from cloud_hub.playbooks import service
from cloud_hub.playbooks.clock import SteadyClock
from cloud_hub.playbooks.core.verdicts import StepVerdict
from cloud_hub.playbooks.engine import Engine

DIAMOND = """
a: {action: note}
b1: {action: note, needs: [a]}
b2: {action: note, needs: [a]}
c: {action: note, needs: [b1, b2]}
"""


def test_parallel_branches_run_between_what_they_need(world: PlaybookWorld) -> None:
    run = world.propose(plan_of(DIAMOND))
    assert world.finish(run).state == "succeeded"
    steps = [key.split("/")[1] for key in world.effects.effects()]
    assert (steps[0], set(steps[1:3]), steps[3]) == ("a", {"b1", "b2"}, "c")
    started = [kind for kind in world.kinds(run) if kind.startswith("step.started")]
    assert started[1:3] == ["step.started b1", "step.started b2"]
    world.check_replay(run)


def test_a_failed_step_is_tried_again_after_ten_seconds_three_times(world: PlaybookWorld) -> None:
    run = world.propose(plan_of("a: {action: fail}"))
    world.turn(9.9)
    world.turn()  # the failure is seen, the wait begins
    assert world.kinds(run).count("step.started a") == 1
    row = world.finish(run)
    assert (row.state, row.reason) == ("failed", "a: it failed")
    assert world.kinds(run).count("step.started a") == 4
    assert world.now - row.created_us >= 30 * SECOND
    assert world.effects.effects() == []


def test_a_step_that_succeeds_at_the_third_try_has_one_effect(world: PlaybookWorld) -> None:
    run = world.propose(plan_of("a: {action: twice, retry: {times: 2, wait: 1s}}"))
    assert world.finish(run).state == "succeeded"
    assert world.effects.effects() == [f"{run}/a/0.0"]


def test_a_refusal_is_final(world: PlaybookWorld) -> None:
    final, refused = world.propose(plan_of("a: {action: final}")), world.propose(plan_of("a: {action: refused}"))
    assert (world.finish(final).state, world.finish(refused).state) == ("failed", "failed")
    assert world.kinds(final).count("step.started a") == 1
    assert "the policy forbids it" in world.row(refused).reason


@pytest.mark.parametrize(
    ("on_failure", "state", "ends"),
    [
        ("stop", "failed", {"a": "succeeded", "b": "failed", "c": "cancelled"}),
        ("continue", "succeeded", {"a": "succeeded", "b": "failed", "c": "succeeded"}),
        ("undo", "failed", {"a": "undone", "b": "failed", "c": "cancelled"}),
    ],
)
def test_on_failure(world: PlaybookWorld, on_failure: str, state: str, ends: dict[str, str]) -> None:
    run = world.propose(
        plan_of(f"""
a: {{action: note}}
b: {{action: fail, needs: [a], retry: {{times: 0}}, on_failure: {on_failure}}}
c: {{action: note, needs: [b]}}
""")
    )
    assert world.finish(run).state == state
    assert world.steps(run) == ends
    assert (f"{run}/a/0.0/undo" in world.effects.effects()) == (on_failure == "undo")
    world.check_replay(run)


def test_conditions_skip_steps_and_what_needs_only_them(world: PlaybookWorld) -> None:
    run = world.propose(
        plan_of("""
a: {action: fail, retry: {times: 0}, on_failure: continue}
b: {action: note, needs: [a], when: "steps.a.state = 'succeeded'"}
c: {action: note, needs: [b]}
d: {action: note, needs: [a, b], when: "steps.a.state = 'failed' AND steps.a.outcome = 'it failed'"}
""")
    )
    assert world.finish(run).state == "succeeded"
    assert world.steps(run) == {"a": "failed", "b": "skipped", "c": "skipped", "d": "succeeded"}


def test_a_condition_that_never_holds_ends_with_its_bound(world: PlaybookWorld) -> None:
    waits = world.propose(plan_of("a: {wait: {until: \"steps.a.state = 'x'\", timeout: 30s}}"))
    loops = world.propose(plan_of("a: {action: note, repeat: {times: 3, every: 1s, until: \"steps.a.state = 'x'\"}}"))
    assert "did not hold within 30 s" in world.finish(waits).reason
    assert "did not hold after 3 rounds" in world.finish(loops).reason
    assert world.effects.effects() == [f"{loops}/a/0.{number}" for number in range(3)]


def test_a_run_that_is_late_is_interrupted(world: PlaybookWorld) -> None:
    run = world.propose(plan_of("a: {action: never}\nb: {wait: 1h}", deadline="20s"))
    row = world.finish(run)
    assert (row.state, row.reason) == ("failed", "not done by its deadline")
    assert set(world.steps(run).values()) == {"cancelled"}


def test_cancel_during_the_wait_for_a_retry(world: PlaybookWorld) -> None:
    run = world.propose(plan_of("a: {action: fail}"))
    world.turn(1)
    world.turn(1)
    with world.db.write() as session:
        service.cancel(session, run, world.now, "anna")
    assert world.finish(run).state == "cancelled"
    assert world.kinds(run).count("step.started a") == 1
    with world.db.write() as session, pytest.raises(HubError, match="already cancelled"):
        service.cancel(session, run, world.now, "anna")


def test_a_resumed_run_goes_on_where_it_failed(world: PlaybookWorld) -> None:
    run = world.propose(plan_of("a: {action: note}\nb: {action: never, needs: [a]}", deadline="5s"))
    assert world.finish(run).state == "failed"
    with world.db.write() as session:
        service.resume(session, run, world.now, "anna", "operator")
    world.turn()
    assert world.kinds(run).count("step.started a") == 1
    assert world.kinds(run)[-1] == "step.started b"
    world.check_replay(run)


def test_the_earliest_deadline_goes_first(world: PlaybookWorld) -> None:
    runs = {number: world.propose(plan_of("a: {action: note}", deadline=f"{number}m")) for number in (50, 10, 30)}
    order: list[str] = []
    start = world.runner.start
    world.runner.start = lambda session, run, *more: (order.append(run.id), start(session, run, *more))[1]  # type: ignore[method-assign, assignment, func-returns-value, arg-type]
    world.turn()
    assert order == [runs[10], runs[30], runs[50]]


def test_a_poison_run_is_parked_and_the_others_go_on(world: PlaybookWorld) -> None:
    """W5."""
    poison = world.propose(plan_of("a: {action: note}", deadline="1m"))
    with world.db.write() as session:
        row = session.get_one(PlaybookRun, poison)
        row.progress = {**row.progress, "steps": {}}
    well = world.propose(plan_of(DIAMOND))
    for _ in range(20):
        world.turn(60)
    assert world.row(well).state == "succeeded"
    with world.db.read() as session:
        assert [item.item for item in session.exec(select(FailedItem)) if item.parked_us is not None] == [poison]


def test_one_approval_covers_all_steps(world: PlaybookWorld) -> None:
    ask = StepVerdict(step="a", decision="approve", approvals=2, roles=("operator",), rule="two people")
    run = world.propose(plan_of(DIAMOND), [ask])
    world.turn()
    assert world.row(run).state == "proposed"
    with world.db.write() as session:
        for who, roles, reason in (("anna", "operator", "own proposal"), ("bert", "viewer", "asks for the role")):
            with pytest.raises(HubError, match=reason):
                service.decide(session, run, True, world.now, who, roles)
        service.decide(session, run, True, world.now, "bert", "operator")
        with pytest.raises(HubError, match="you have approved it already"):
            service.decide(session, run, True, world.now, "bert", "operator")
    with world.db.write() as session:
        assert service.decide(session, run, True, world.now, "carl", "operator").state == "running"
    assert world.finish(run).state == "succeeded"
    with world.db.read() as session:
        kinds = [(row.kind, row.actor) for row in reversed(trail.rows(session))]
    assert kinds[:4] == [("playbook-run.proposed", "anna"), ("playbook-run.approved", "bert"),
                         ("playbook-run.approved", "carl"), ("playbook-run.running", "carl")]  # fmt: skip


def test_a_forbidden_step_refuses_the_run_before_it_begins(world: PlaybookWorld) -> None:
    with pytest.raises(HubError, match="step c: too many devices"):
        world.propose(plan_of(DIAMOND), [StepVerdict(step="c", decision="forbid", reason="too many devices")])
    with world.db.read() as session:
        assert service.list_newest(session) == []


def test_a_refused_run_never_begins(world: PlaybookWorld) -> None:
    run = world.propose(plan_of(DIAMOND), [StepVerdict(step="a", decision="approve", approvals=1, roles=("operator",))])
    with world.db.write() as session:
        assert service.decide(session, run, False, world.now, "anna", "operator").state == "refused"
    world.turn()
    assert world.effects.effects() == []


def test_two_hubs_on_one_database_start_nothing_twice(world: PlaybookWorld) -> None:
    """The simulator refuses a second start of a key; both engines see every run."""
    other = Database(databases.address(world.db))
    second = Engine(other, world.runner, clock=lambda: world.now, wall=lambda: world.now)
    runs = [world.propose(plan_of(DIAMOND)) for _ in range(8)]
    pages = list(second._pages(_no_items(other)))  # what the second has read is stale when it writes
    for _ in range(20):
        world.turn(1)
        second._advance_all(pages[0])
        pages = list(second._pages(_no_items(other)))
    other.close()
    assert {world.row(run).state for run in runs} == {"succeeded"}
    assert len(world.effects.effects()) == 4 * len(runs)


def _no_items(db: Database) -> object:
    from cloud_hub.runtime.items import WorkItems

    return WorkItems(db, "playbooks", 0)


def test_a_steady_clock_passes_over_jumps_of_the_wall_clock() -> None:
    wall, elapsed = [1_000_000], [0]
    clock = SteadyClock(lambda: wall[0], lambda: elapsed[0])
    wall[0], elapsed[0] = 99_000_000, 5_000_000
    assert clock.now_us() == 1_005_000
    assert SteadyClock(lambda: wall[0], lambda: elapsed[0]).now_us() == 99_000_000


def test_the_version_that_began_goes_on(world: PlaybookWorld, tmp_path: Path) -> None:
    """What a run does is in its row; another plan of the same name changes nothing."""
    run = world.propose(plan_of("a: {wait: 5s}\nb: {action: note, needs: [a]}"))
    world.turn(1)
    world.propose(plan_of("a: {wait: 5s}\nb: {action: refused, needs: [a]}"))
    assert world.finish(run).state == "succeeded"
