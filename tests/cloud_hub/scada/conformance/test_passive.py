"""A subscriber that sees only publishes, and perhaps came late, reports no violation where there is none."""

from __future__ import annotations

from dataclasses import replace

import pytest
from simulators.sparkplug_logs import HOST, INT64, T0, Log, edge_log, encode, host_log

from cloud_hub.scada.conformance.core.checker import Checker, Scope
from cloud_hub.scada.conformance.core.events import Delivery, Publish, Tick
from cloud_hub.scada.conformance.core.report import Status, counts
from cloud_hub.scada.conformance.core.rules import Role


def passive(role: Role, log: Log, skip: int = 0) -> Checker:
    """What a subscriber sees of a log: publishes without their client, and commands that are delivered to others."""
    checker = Checker(Scope(role=role, host_id=HOST))
    seen = [event for event in log.events() if isinstance(event, Publish | Tick | Delivery)]
    for event in seen[skip:]:
        if isinstance(event, Publish):
            checker.observe(replace(event, client="", server=0))
        elif isinstance(event, Delivery) and "NCMD" in event.topic:
            values = {"topic": event.topic, "payload": event.payload, "qos": event.qos, "retain": event.retain}
            checker.observe(Publish(at_ms=event.at_ms, simulated=True, **values))  # type: ignore[arg-type]
        elif isinstance(event, Tick):
            checker.observe(event)
    return checker


@pytest.mark.parametrize(("role", "log", "least"), [(Role.EDGE, edge_log, 159), (Role.HOST, host_log, 49)])
def test_a_subscriber_sees_most_statements_hold_and_none_violated(role: Role, log: type[Log], least: int) -> None:
    numbers = counts(passive(role, log()).verdicts())
    assert numbers[Status.VIOLATED] == numbers[Status.ADVICE] == 0
    assert numbers[Status.HOLDS] >= least


@pytest.mark.parametrize("skip", range(1, 20))
def test_a_late_subscriber_reports_no_violation(skip: int) -> None:
    found = passive(Role.EDGE, edge_log(), skip).verdicts()
    assert [one.id for one in found if one.status is Status.VIOLATED] == []


def ndeath(bdseq: int) -> Publish:
    metric = {"name": "bdSeq", "timestamp": T0, "datatype": INT64, "long_value": bdseq}
    return Publish(
        at_ms=T0 + 10, topic="spBv1.0/g/NDEATH/n", payload=encode({"metrics": [metric]}), qos=1, retain=False
    )


@pytest.mark.parametrize(("bdseq", "violated"), [(4, 0), (5, 0), (6, 1)])
def test_the_late_will_of_the_session_before_the_first_birth_is_no_violation(bdseq: int, violated: int) -> None:
    checker = Checker(Scope(role=Role.EDGE))
    step = edge_log()["nbirth"]
    step.metric("bdSeq")["long_value"] = 5
    checker.observe(step.event())
    checker.observe(ndeath(bdseq))
    assert checker.ledger.tallies["ndeath.bdseq"].violated == violated


def test_a_state_that_somebody_deletes_is_no_violation_of_the_host() -> None:
    checker = Checker(Scope(role=Role.HOST))
    checker.observe(Publish(at_ms=T0, topic=f"spBv1.0/STATE/{HOST}", payload=b"", qos=1, retain=True))
    assert all(not tally.violated for tally in checker.ledger.tallies.values())
