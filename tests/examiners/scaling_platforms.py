"""What every platform of a cloud must keep beyond `examine_scaler`: faults, limits, drift, dry run, no secrets."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from simulators.scaling_group import GroupServer

from cloud_hub.autoscale import Counts, Drifted, Scaler, ScaleRefused
from shared.errors import NotReady

WriteFault = str


@contextmanager
def struck(cloud: GroupServer, *faults: WriteFault) -> Iterator[pytest.ExceptionInfo[NotReady]]:
    """The next writes are struck, and the call within says NotReady."""
    cloud.faults += faults  # type: ignore[arg-type]
    with pytest.raises(NotReady) as caught:
        yield caught
    assert not cloud.faults


def examine_faults(cloud: GroupServer, opened: Callable[[], Scaler], *, repeats: bool) -> None:
    """No fault doubles or forges a call. `repeats`: the platform lets a lost request be repeated."""
    cloud.resize(1)
    scaler = opened()
    for number, fault in enumerate(("lose-answer", "late", "fail-after", "html")):
        cloud.resize(1)
        writes = cloud.group.writes
        with struck(cloud, fault):
            scaler.scale(3, f"done-{number}")
        assert scaler.scale(3, f"done-{number}") == cloud.group.desired == 3, fault
        assert cloud.group.writes == writes + 1, fault
    for number, fault in enumerate(("throttle", "expired")):
        with struck(cloud, fault):
            scaler.scale(2 - number, f"refused-{number}")
        assert scaler.scale(2 - number, f"refused-{number}") == cloud.group.desired == 2 - number, fault
    for number, fault in enumerate(("lose-request", "fail")):
        cloud.resize(1)
        with struck(cloud, fault):
            scaler.scale(3, f"lost-{number}")
        if repeats:
            assert scaler.scale(3, f"lost-{number}") == 3
        else:
            with pytest.raises(Drifted, match="expected 3, found 1"):
                scaler.scale(3, f"lost-{number}")
            assert scaler.scale(3, f"lost-{number}") == cloud.group.desired == 1, "a spent key acted"
        assert scaler.scale(4, f"next-{number}") == cloud.group.desired == 4


def examine_reads(cloud: GroupServer, opened: Callable[[], Scaler]) -> None:
    """Nothing is believed that is not this group's answer; each failed read is NotReady with a wait."""
    cloud.resize(2)
    scaler = opened()
    for fault in ("lose-request", "lose-answer", "late", "fail", "html", "other", "throttle", "expired"):
        cloud.read_faults.append(fault)  # type: ignore[arg-type]
        writes = cloud.group.writes
        with pytest.raises(NotReady) as caught:
            scaler.scale(3, f"read-{fault}")
        assert caught.value.wait_s > 0, fault
        assert (cloud.group.desired, cloud.group.writes) == (2, writes), fault
    assert scaler.current().desired == 2


def examine_counts(cloud: GroupServer, opened: Callable[[], Scaler]) -> None:
    """Desired, ready and limits are read back; instances boot slowly."""
    cloud.resize(0)
    scaler = opened()
    group = cloud.group
    assert scaler.scale(3, "up") == 3
    assert scaler.current() == Counts(desired=3, ready=0, minimum=group.minimum, maximum=group.maximum)
    group.now_s += group.boot_s
    assert scaler.current().ready == 3
    group.minimum = 2
    with pytest.raises(ScaleRefused, match="minimum of 2"):
        scaler.scale(1, "down")
    group.minimum = 0


def examine_dry_run(cloud: GroupServer, opened: Callable[[], Scaler]) -> None:
    """A dry run checks limits, changes nothing and spends no key."""
    cloud.resize(1)
    scaler, writes = opened(), cloud.group.writes
    assert scaler.scale(3, "k", dry_run=True) == 3
    with pytest.raises(ScaleRefused):
        scaler.scale(cloud.group.maximum + 1, "k", dry_run=True)
    assert (cloud.group.desired, cloud.group.writes) == (1, writes)
    assert scaler.scale(3, "k") == cloud.group.desired == 3


def examine_secrets(
    cloud: GroupServer, opened: Callable[[], Scaler], secrets: tuple[str, ...], logs: pytest.LogCaptureFixture
) -> None:
    """No secret is in an error, a name or a log, at any level."""
    logs.set_level(logging.DEBUG)
    scaler = opened()
    texts = [scaler.name, repr(scaler)]
    for fault in ("html", "expired", "fail", "throttle", "lose-answer"):
        cloud.read_faults.append(fault)  # type: ignore[arg-type]
        with pytest.raises(NotReady) as caught:
            scaler.current()
        texts.append(str(caught.value))
    with pytest.raises(ScaleRefused) as refused:
        scaler.scale(99, "k")
    texts.append(str(refused.value))
    for secret in secrets:
        assert not [text for text in texts if secret in text]
        assert secret not in "".join(record.getMessage() for record in logs.records)
