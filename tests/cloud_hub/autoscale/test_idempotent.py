"""One write a key, whatever happens: the rules that all platforms share, in worlds of faults and other writers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloud_hub.autoscale import Counts, Drifted, ScaleRefused
from cloud_hub.autoscale.platforms import idempotent
from cloud_hub.autoscale.platforms.idempotent import Conflict, IdempotentScaler, OutcomeUnknown, Reading
from shared.errors import NotReady

Kind = Literal["plain", "versioned", "keyed"]
Fault = Literal["", "lose-request", "lose-answer", "throttle", "refuse", "status", "other-writer"]


@dataclass
class Cloud:
    """A platform in memory. `kind`: nothing protects a repeat, a version does, or a key of the platform's own."""

    kind: Kind = "plain"
    repeatable: bool = False
    name: str = "cloud"
    desired: int = 1
    version: int = 0
    fault: Fault = ""
    applied: list[str] = field(default_factory=list)

    def resize(self, to: int) -> None:
        self.desired, self.version = to, self.version + 1

    def read(self) -> Reading:
        return Reading(counts=Counts(desired=self.desired, maximum=9), version=str(self.version))

    def write(self, to: int, key: str, seen: Reading) -> None:
        fault, self.fault = self.fault, ""
        if fault == "throttle":
            raise NotReady("throttled")
        if fault == "refuse":
            raise ScaleRefused("quota")
        if fault == "lose-request":
            raise OutcomeUnknown("no answer")
        if fault in ("status", "other-writer"):
            self.resize(self.desired if fault == "status" else (self.desired + 1) % 10)
        if self.kind == "versioned" and seen.version != str(self.version):
            raise Conflict("changed")
        if self.kind != "keyed" or key not in self.applied:
            self.applied.append(key)
            self.resize(to)
        if fault == "lose-answer":
            raise OutcomeUnknown("no answer")

    def rehearse(self, to: int, seen: Reading) -> None:
        """Nothing to check."""


FAULTS = st.sampled_from(["", "", "lose-request", "lose-answer", "throttle", "refuse", "status", "other-writer"])
CALLS = st.tuples(st.integers(0, 9), st.sampled_from("abc"), FAULTS, st.booleans(), st.integers(0, 9))


def live(cloud: Cloud, calls: list[tuple[int, str, Fault, bool, int]]) -> None:
    """Carry the calls out; a key always has the same count, as the key of a decision has."""
    scaler = IdempotentScaler(cloud)
    decided: dict[str, int] = {}
    for to, key, fault, moved, elsewhere in calls:
        if moved:
            cloud.resize(elsewhere)
        cloud.fault = fault
        try:
            found = scaler.scale(decided.setdefault(key, to), key)
        except Drifted as error:
            assert error.drift.found == cloud.desired != error.drift.expected  # noqa: PT017 - other errors are meant too
        except (NotReady, ScaleRefused):
            pass
        else:
            assert found == cloud.desired, "the truth is read back"
        assert len(cloud.applied) == len(set(cloud.applied)), "a key acted twice"


@pytest.mark.parametrize(("kind", "repeatable"), [("plain", False), ("versioned", True), ("keyed", True)])
def test_no_key_acts_twice_in_any_world(kind: Kind, repeatable: bool) -> None:
    @settings(max_examples=150, deadline=None)
    @given(st.lists(CALLS, max_size=12))
    def worlds(calls: list[tuple[int, str, Fault, bool, int]]) -> None:
        live(Cloud(kind=kind, repeatable=repeatable), calls)

    worlds()


def test_a_platform_that_wrongly_claims_to_be_repeatable_is_caught() -> None:
    calls: list[tuple[int, str, Fault, bool, int]] = [(3, "a", "lose-answer", False, 0), (3, "a", "", True, 1)]
    live(Cloud(), calls)
    with pytest.raises(AssertionError, match="acted twice"):
        live(Cloud(repeatable=True), calls)


def test_a_lost_call_that_was_not_carried_out_is_told_apart_from_a_success() -> None:
    cloud = Cloud(fault="lose-request")
    scaler = IdempotentScaler(cloud)
    with pytest.raises(OutcomeUnknown):
        scaler.scale(3, "a")
    with pytest.raises(Drifted, match=r"expected 3, found 1 \(before: 1\)"):
        scaler.scale(3, "a")
    assert scaler.scale(3, "a") == 1, "the key is spent"
    assert scaler.scale(3, "b") == 3


def test_a_late_read_is_not_followed_by_a_write(monkeypatch: pytest.MonkeyPatch) -> None:
    cloud, now = Cloud(), [100.0]
    read = cloud.read

    def slow_read() -> Reading:
        now[0] += idempotent.WRITE_WITHIN_S + 1
        return read()

    monkeypatch.setattr(idempotent.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(cloud, "read", slow_read)
    scaler = IdempotentScaler(cloud)
    with pytest.raises(NotReady, match="nothing was written"):
        scaler.scale(3, "a")
    assert cloud.applied == []
    monkeypatch.setattr(cloud, "read", read)
    assert scaler.scale(3, "a") == 3


def test_an_unforeseen_error_of_a_write_leaves_its_outcome_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    cloud = Cloud()
    scaler = IdempotentScaler(cloud)

    def write_then_break(to: int, key: str, seen: Reading) -> None:
        cloud.resize(to)
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr(cloud, "write", write_then_break)
        with pytest.raises(ZeroDivisionError):
            scaler.scale(3, "a")
    cloud.resize(1)
    with pytest.raises(Drifted):
        scaler.scale(3, "a")
    assert cloud.desired == 1


def test_old_keys_are_forgotten_only_as_spent() -> None:
    cloud = Cloud()
    scaler = IdempotentScaler(cloud)
    for number in range(idempotent.REMEMBERED + 1):
        cloud.resize(1)
        cloud.fault = "lose-request"
        with pytest.raises(OutcomeUnknown):
            scaler.scale(2, f"k{number}")
    assert scaler.scale(2, "k0") == 1, "no memory grows without a bound, and an old unknown call is not repeated"
