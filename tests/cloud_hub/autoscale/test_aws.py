"""The AWS scaler: against moto's server, and against a stricter fake over real sockets."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from examiners import scaling_platforms
from examiners.scalers import Platform, examine_scaler
from simulators.aws_groups import AwsGroups

from cloud_hub.autoscale import Scaler, ScaleRefused
from cloud_hub.autoscale.platforms.aws import AwsPlatform, open_scaler
from shared.errors import ConfigError, NotReady

SECRET, SESSION = "very-secret-key-of-aws", "very-secret-session-token"


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The environment of a hub; nothing of the developer's own."""
    for name, value in (
        ("AWS_ACCESS_KEY_ID", "AKIATIDEGATE"), ("AWS_SECRET_ACCESS_KEY", SECRET), ("AWS_SESSION_TOKEN", SESSION),
        ("AWS_CONFIG_FILE", str(tmp_path / "config")), ("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials")),
        ("AWS_EC2_METADATA_DISABLED", "true"),
    ):  # fmt: skip
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_PROFILE", raising=False)


@pytest.fixture
def cloud() -> Iterator[AwsGroups]:
    with AwsGroups() as made:
        assert isinstance(made, AwsGroups)
        yield made


def opened(cloud: AwsGroups, **changes: object) -> Scaler:
    options = {"group": "experts", "region": "eu-central-1", "endpoint_url": cloud.url, "timeout_s": 0.5}
    return open_scaler({**options, **changes})


def test_the_examiner_accepts_it(cloud: AwsGroups) -> None:
    examine_scaler(
        Platform(
            opened=lambda: opened(cloud), limit=5, elsewhere=cloud.resize, cut=cloud.stop,
            lose_answer=lambda: cloud.faults.append("lose-answer"),
        )
    )  # fmt: skip


def test_no_fault_doubles_or_forges_a_call(cloud: AwsGroups) -> None:
    scaling_platforms.examine_faults(cloud, lambda: opened(cloud), repeats=False)


def test_the_examiner_catches_a_repeat_without_an_idempotency_key(
    cloud: AwsGroups, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(AwsPlatform, "repeatable", True)
    with pytest.raises(AssertionError, match="acted twice"):
        test_the_examiner_accepts_it(cloud)


def test_only_the_answer_of_this_group_is_believed(cloud: AwsGroups) -> None:
    scaling_platforms.examine_reads(cloud, lambda: opened(cloud))


def test_sizes_and_instances_in_service_are_read(cloud: AwsGroups) -> None:
    scaling_platforms.examine_counts(cloud, lambda: opened(cloud))


def test_a_dry_run_changes_nothing(cloud: AwsGroups) -> None:
    scaling_platforms.examine_dry_run(cloud, lambda: opened(cloud))


def test_no_secret_is_shown(
    cloud: AwsGroups, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    scaling_platforms.examine_secrets(cloud, lambda: opened(cloud), (SECRET, SESSION), caplog)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAOTHER")
    with pytest.raises(ScaleRefused, match="SignatureDoesNotMatch") as caught:
        opened(cloud).current()
    assert SESSION not in str(caught.value)


def test_refusals_say_who_must_act(cloud: AwsGroups) -> None:
    with pytest.raises(ScaleRefused, match="no such Auto Scaling group"):
        opened(cloud, group="elsewhere").current()
    with pytest.raises(ScaleRefused, match="maximum of 5"):
        opened(cloud).scale(6, "k")
    cloud.group.maximum = 5
    scaler = opened(cloud)
    read = scaler._platform.read  # type: ignore[attr-defined]

    def read_before_the_maximum_falls() -> object:
        seen = read()
        cloud.group.maximum = 3
        return seen

    scaler._platform.read = read_before_the_maximum_falls  # type: ignore[attr-defined]
    with pytest.raises(ScaleRefused, match="ValidationError"):
        scaler.scale(5, "k")


def test_missing_credentials_are_not_ready(cloud: AwsGroups, monkeypatch: pytest.MonkeyPatch) -> None:
    scaler = opened(cloud)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name)
    with pytest.raises(NotReady, match="no credentials"):
        opened(cloud).current()
    assert scaler.current().desired == 1


def test_credentials_may_come_from_a_profile(cloud: AwsGroups, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAOTHER")
    keys = f"aws_access_key_id = AKIATIDEGATE\naws_secret_access_key = {SECRET}\n"
    (tmp_path / "credentials").write_text(f"[scaling]\n{keys}")
    (tmp_path / "config").write_text("[profile scaling]\nregion = eu-central-1\n")
    assert opened(cloud, profile="scaling", region="").current().desired == 1


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"group": ""}, "Auto Scaling group"),
        ({"region": ""}, "region"),
        ({"profile": "none"}, "none"),
        ({"endpoint_url": "http://cloud.example"}, "https"),
        ({"timeout_s": 0}, "timeout_s"),
        ({"maximum": 3}, "maximum"),
    ],
)
def test_options_are_checked_at_the_start(cloud: AwsGroups, changes: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        opened(cloud, **changes)


@pytest.fixture(scope="module")
def moto() -> Iterator[Any]:
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    yield server
    server.stop()


def test_it_scales_a_group_of_moto(moto: Any) -> None:
    import boto3

    url = "http://{}:{}".format(*moto.get_host_and_port())
    client = boto3.client("autoscaling", region_name="us-east-1", endpoint_url=url)
    client.create_launch_configuration(LaunchConfigurationName="l", ImageId="ami-12c6146b", InstanceType="t2.micro")
    client.create_auto_scaling_group(
        AutoScalingGroupName="experts", LaunchConfigurationName="l", MinSize=1, MaxSize=4, DesiredCapacity=1,
        AvailabilityZones=["us-east-1a"],
    )  # fmt: skip
    scaler = open_scaler({"group": "experts", "region": "us-east-1", "endpoint_url": url})
    assert scaler.scale(3, "up") == 3
    counts = scaler.current()
    assert (counts.desired, counts.ready, counts.minimum, counts.maximum) == (3, 3, 1, 4)
    for to in (0, 5):  # moto itself would allow it
        with pytest.raises(ScaleRefused):
            scaler.scale(to, f"to-{to}")
    assert scaler.scale(1, "down") == scaler.current().desired == 1
    with pytest.raises(ScaleRefused, match="no such"):
        open_scaler({"group": "none", "region": "us-east-1", "endpoint_url": url}).scale(2, "k")
