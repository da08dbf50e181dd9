"""The scaler by HTTP template against a strict fake, over real sockets."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from examiners import scaling_platforms
from examiners.scalers import Platform, examine_scaler
from simulators.template_groups import TOKEN, TemplateGroups

from cloud_hub.autoscale import Counts, Scaler, ScaleRefused
from cloud_hub.autoscale.platforms.http import open_scaler
from cloud_hub.autoscale.platforms.http_template import at, filled, filled_url, unlike
from shared.errors import ConfigError, NotReady


@pytest.fixture(params=[False, True], ids=["at most once", "idempotent"])
def cloud(request: pytest.FixtureRequest) -> Iterator[TemplateGroups]:
    made = TemplateGroups(honours_keys=request.param)
    with made:
        yield made


@pytest.fixture
def fleet() -> Iterator[TemplateGroups]:
    made = TemplateGroups()
    with made:
        yield made


def template(cloud: TemplateGroups, folder: Path) -> dict[str, Any]:
    (folder / "token").write_text(TOKEN + "\n")
    read = {"url": f"{cloud.url}/fleets/experts", "desired": "/size/wanted", "ready": "/size/running",
            "minimum": "/limits/least", "maximum": "/limits/most", "expect": {"/name": "experts"}}  # fmt: skip
    write = {"url": f"{cloud.url}/fleets/experts/size", "method": "PUT", "body": {"count": "{count}"},
             "expect": {"/accepted": True}}  # fmt: skip
    return {
        "name": "experts", "private": True, "timeout_s": 0.5, "idempotent": cloud.honours_keys,
        "secret_headers": {"Authorization": str(folder / "token")}, "read": read, "write": write,
    }  # fmt: skip


def opened(cloud: TemplateGroups, folder: Path, **changes: object) -> Scaler:
    return open_scaler({**template(cloud, folder), **changes})


def launching(cloud: TemplateGroups) -> dict[str, Any]:
    """The call that starts instances: what they are, how many more, and that they end by themselves."""
    body = {"instance_type": "gpu.large", "count": "{add}", "auto_terminate": True, "tag": "for {key}"}
    return {"url": f"{cloud.url}/instances", "body": body}


def test_the_examiner_accepts_it(cloud: TemplateGroups, tmp_path: Path) -> None:
    examine_scaler(
        Platform(
            opened=lambda: opened(cloud, tmp_path), limit=5, elsewhere=cloud.resize, cut=cloud.stop,
            lose_answer=lambda: cloud.faults.append("lose-answer"),
        )
    )  # fmt: skip


def test_no_fault_doubles_or_forges_a_call(cloud: TemplateGroups, tmp_path: Path) -> None:
    scaling_platforms.examine_faults(cloud, lambda: opened(cloud, tmp_path), repeats=cloud.honours_keys)


def test_only_the_expected_answer_is_believed(fleet: TemplateGroups, tmp_path: Path) -> None:
    scaling_platforms.examine_reads(fleet, lambda: opened(fleet, tmp_path))


def test_the_examiner_catches_a_template_that_believes_any_group(fleet: TemplateGroups, tmp_path: Path) -> None:
    read = template(fleet, tmp_path)["read"]
    del read["expect"]
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        scaling_platforms.examine_reads(fleet, lambda: opened(fleet, tmp_path, read=read))


def test_counts_are_read_at_their_pointers(fleet: TemplateGroups, tmp_path: Path) -> None:
    scaling_platforms.examine_counts(fleet, lambda: opened(fleet, tmp_path))


def test_a_dry_run_sends_nothing(fleet: TemplateGroups, tmp_path: Path) -> None:
    scaling_platforms.examine_dry_run(fleet, lambda: opened(fleet, tmp_path))


def test_no_secret_is_shown(fleet: TemplateGroups, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    scaling_platforms.examine_secrets(fleet, lambda: opened(fleet, tmp_path), (TOKEN, TOKEN.split()[1]), caplog)


def test_a_template_may_start_and_end_instances(fleet: TemplateGroups, tmp_path: Path) -> None:
    scaler = opened(fleet, tmp_path, write=launching(fleet))
    assert scaler.scale(4, "launch 1") == fleet.group.desired == 4
    assert fleet.bodies == [{"instance_type": "gpu.large", "count": 3, "auto_terminate": True, "tag": "for launch 1"}]
    with pytest.raises(ScaleRefused, match="cannot go from 4 to 2"):
        scaler.scale(2, "end")
    ends = {"url": f"{fleet.url}/terminations", "body": {"count": 2}}
    assert opened(fleet, tmp_path, write=launching(fleet), scale_in=ends).scale(2, "end") == fleet.group.desired == 2


def test_a_launch_without_an_answer_is_not_sent_twice(fleet: TemplateGroups, tmp_path: Path) -> None:
    scaler = opened(fleet, tmp_path, write=launching(fleet))
    with scaling_platforms.struck(fleet, "late"):
        scaler.scale(3, "k")
    assert scaler.scale(3, "k") == fleet.group.desired == 3
    assert len(fleet.bodies) == 1


def test_an_address_of_a_private_network_must_be_meant(fleet: TemplateGroups, tmp_path: Path) -> None:
    with pytest.raises(ScaleRefused, match=r"private network: set autoscale\.options\.private"):
        opened(fleet, tmp_path, private=False).current()
    assert fleet.log == []


def test_redirects_are_not_followed(fleet: TemplateGroups, tmp_path: Path) -> None:
    read = template(fleet, tmp_path)["read"] | {"url": f"{fleet.url}/moved"}
    with pytest.raises(ScaleRefused, match="redirects are not followed"):
        opened(fleet, tmp_path, read=read).current()


def test_a_secret_is_read_again_for_each_call(fleet: TemplateGroups, tmp_path: Path) -> None:
    scaler = opened(fleet, tmp_path)
    (tmp_path / "token").write_text("Bearer old")
    with pytest.raises(NotReady, match="renew secret_headers"):
        scaler.current()
    (tmp_path / "token").write_text(TOKEN)
    assert scaler.current() == Counts(desired=1, ready=1, minimum=0, maximum=5)


@pytest.mark.parametrize("size", [{}, {"wanted": True}, {"wanted": -1}, {"wanted": "3"}, {"wanted": 3.0}, []])
def test_what_is_no_count_is_not_believed(
    fleet: TemplateGroups, tmp_path: Path, size: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    from simulators import template_groups

    answer = template_groups._json(200, {"name": "experts", "size": size})
    monkeypatch.setattr(fleet, "_read", lambda other: answer)
    with pytest.raises(NotReady, match="no count at /size/wanted"):
        opened(fleet, tmp_path).current()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"name": ""}, "name"),
        ({"secret_headers": {"Authorization": "does-not-exist"}}, "cannot be read"),
        ({"headers": {"a b": "c"}}, "no name of a header"),
        ({"headers": {"a": "b\r\nc: d"}}, "printable"),
        ({"ca_file": "does-not-exist"}, "ca_file"),
        ({"idempotent": True, "key_header": ""}, "idempotent needs"),
        ({"write": {"url": "http://cloud.example/x"}}, "https"),
        ({"write": {"url": "https://u:p@cloud.example/x"}}, "without a login"),
        ({"write": {"url": "https://{key}.example/x"}}, "no placeholder in its host"),
        ({"write": {"url": "https://cloud.example", "method": "GET"}}, "method"),
        ({"write": {"url": "https://cloud.example", "accepted": [500]}}, "accepted"),
        ({"timeout_s": 0}, "timeout_s"),
        ({"writes": 1}, "writes"),
    ],
)
def test_options_are_checked_at_the_start(
    fleet: TemplateGroups, tmp_path: Path, changes: dict[str, object], says: str
) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        opened(fleet, tmp_path, **changes)
    assert "u:p" not in str(caught.value)


def test_placeholders_become_numbers_and_text() -> None:
    values: dict[str, int | str] = {"count": 3, "before": 1, "add": 2, "key": "a/b c"}
    body = {"n": "{count}", "list": ["{add}", "n={count}"], "{count}": None, "other": "{nothing}"}
    assert filled(body, values) == {"n": 3, "list": [2, "n=3"], "{count}": None, "other": "{nothing}"}
    assert filled_url("https://h/x?n={count}&k={key}", values) == "https://h/x?n=3&k=a%2Fb%20c"


def test_json_pointers_follow_rfc_6901() -> None:
    document = {"a/b": {"m~n": [0, {"x": True}]}}
    assert at(document, "/a~1b/m~0n/1/x") is True
    assert unlike(document, {"/a~1b/m~0n/0": 0, "/a~1b/m~0n/1/x": True}) == ""
    assert unlike(document, {"/a~1b/m~0n/1/x": 1}) == "/a~1b/m~0n/1/x", "true is not 1"
    assert unlike(document, {"/nothing": None}) == "/nothing", "absent is not null"
