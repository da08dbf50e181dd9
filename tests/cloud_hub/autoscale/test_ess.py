"""The scaler for Alibaba Cloud ESS against a strict fake, over real sockets."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from alibabacloud_credentials.utils import auth_util
from examiners import scaling_platforms
from examiners.scalers import Platform, examine_scaler
from simulators.ess_groups import EssGroups

from cloud_hub.autoscale import Scaler, ScaleRefused
from cloud_hub.autoscale.platforms.ess import EssPlatform, open_scaler
from shared.errors import ConfigError, NotReady

SECRET, SESSION = "very-secret-key-of-alibaba", "very-secret-security-token"


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of a hub; the SDK reads it when it is imported."""
    monkeypatch.setattr(auth_util, "environment_access_key_id", "LTAITIDEGATE")
    monkeypatch.setattr(auth_util, "environment_access_key_secret", SECRET)
    monkeypatch.setattr(auth_util, "environment_security_token", SESSION)
    monkeypatch.setattr(auth_util, "environment_ecs_metadata_disabled", "true")


@pytest.fixture
def cloud() -> Iterator[EssGroups]:
    made = EssGroups()
    with made:
        yield made


def opened(cloud: EssGroups, **changes: object) -> Scaler:
    options = {"group": "asg-experts", "region": "cn-beijing", "endpoint": cloud.endpoint, "timeout_s": 0.5}
    return open_scaler({**options, **changes})


def test_the_examiner_accepts_it(cloud: EssGroups) -> None:
    examine_scaler(
        Platform(
            opened=lambda: opened(cloud), limit=5, elsewhere=cloud.resize, cut=cloud.stop,
            lose_answer=lambda: cloud.faults.append("lose-answer"),
        )
    )  # fmt: skip


def test_the_examiner_catches_a_repeat_with_another_token(cloud: EssGroups, monkeypatch: pytest.MonkeyPatch) -> None:
    write = EssPlatform.write
    count = iter(range(1000))

    def write_with_a_new_token(self: EssPlatform, to: int, key: str, seen: object) -> None:
        write(self, to, f"{key}-{next(count)}", seen)  # type: ignore[arg-type]

    monkeypatch.setattr(EssPlatform, "write", write_with_a_new_token)
    with pytest.raises(AssertionError, match="acted twice"):
        test_the_examiner_accepts_it(cloud)


def test_no_fault_doubles_or_forges_a_call(cloud: EssGroups) -> None:
    scaling_platforms.examine_faults(cloud, lambda: opened(cloud), repeats=True)


def test_only_the_answer_of_this_group_is_believed(cloud: EssGroups) -> None:
    scaling_platforms.examine_reads(cloud, lambda: opened(cloud))


def test_sizes_and_active_instances_are_read(cloud: EssGroups) -> None:
    scaling_platforms.examine_counts(cloud, lambda: opened(cloud))


def test_a_dry_run_changes_nothing(cloud: EssGroups) -> None:
    scaling_platforms.examine_dry_run(cloud, lambda: opened(cloud))


def test_no_secret_is_shown(
    cloud: EssGroups, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    scaling_platforms.examine_secrets(cloud, lambda: opened(cloud), (SECRET, SESSION), caplog)
    monkeypatch.setattr(auth_util, "environment_access_key_id", "LTAIOTHER")
    with pytest.raises(ScaleRefused, match="SignatureDoesNotMatch") as caught:
        opened(cloud).current()
    assert SESSION not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"LifecycleState": "Inactive"}, "is Inactive"),
        ({"DesiredCapacity": None}, "expected number of instances"),
    ],
)
def test_a_group_that_cannot_be_scaled_is_refused(cloud: EssGroups, changes: dict[str, object], says: str) -> None:
    cloud.changes = changes
    with pytest.raises(ScaleRefused, match=says):
        opened(cloud).current()


def test_refusals_say_why(cloud: EssGroups) -> None:
    with pytest.raises(ScaleRefused, match="no such scaling group"):
        opened(cloud, group="asg-none").current()
    with pytest.raises(ScaleRefused, match=r"InvalidRegionId\.NotFound"):
        opened(cloud, region="cn-nowhere").current()
    cloud.group.maximum = 3000
    with pytest.raises(ScaleRefused, match="at most 2000"):
        opened(cloud).scale(2001, "k")


def test_sizes_that_are_no_counts_are_not_believed(cloud: EssGroups) -> None:
    cloud.changes = {"ActiveCapacity": "many"}
    with pytest.raises(NotReady, match="lacks the sizes"):
        opened(cloud).current()


def test_missing_credentials_are_not_ready(cloud: EssGroups, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth_util, "environment_access_key_id", "")
    with pytest.raises(NotReady, match="no credentials"):
        opened(cloud).current()


@pytest.mark.parametrize(
    ("changes", "says"),
    [({"group": ""}, "group and region"), ({"timeout_s": 99}, "timeout_s"), ({"grup": "x"}, "grup")],
)
def test_options_are_checked_at_the_start(cloud: EssGroups, changes: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        opened(cloud, **changes)
