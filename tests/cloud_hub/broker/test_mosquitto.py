"""The texts for mosquitto: every line is explained, nothing can be smuggled into them, grants outlive a new setup."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud_hub.broker.core.mosquitto import (
    BrokerPlan,
    deny_paragraph,
    extract_grants,
    grant_paragraph,
    render_access_list,
    render_configuration,
    store_damage,
)
from cloud_hub.ingest.listener import MAX_BATCH
from shared.protocol.codec import MAX_PAYLOAD

PLAN = BrokerPlan(folder="/var/lib/tidegate broker", bind="127.0.0.1", aws_alias=True)


def options(text: str) -> dict[str, str]:
    """Options of a configuration; of a repeated one the last."""
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return dict(line.split(" ", 1) for line in lines)


def test_every_paragraph_of_both_files_begins_with_its_reason() -> None:
    for text in (
        render_configuration(PLAN),
        render_access_list(PLAN, grant_paragraph("press-3", "line 1", "press-3") + deny_paragraph("press-4")),
    ):
        for paragraph in text.strip().split("\n\n"):
            assert paragraph.startswith("# "), paragraph


def test_nobody_gets_in_but_by_the_one_door() -> None:
    said = options(render_configuration(PLAN))
    assert render_configuration(PLAN).count("\nlistener ") == 1
    assert said["listener"] == "8883 127.0.0.1"
    assert said["max_packet_size"] == str(MAX_PAYLOAD + 4096)
    for option, value in {
        "allow_anonymous": "false", "require_certificate": "true", "tls_version": "tlsv1.3", "persistence": "true",
        "use_identity_as_username": "true", "use_username_as_clientid": "true", "set_tcp_nodelay": "true",
        "crlfile": "/var/lib/tidegate broker/crl.pem", "protocol": "mqtt", "max_inflight_messages": "0",
    }.items():  # fmt: skip
        assert said[option] == value


def test_without_the_alias_nobody_has_a_line_for_it() -> None:
    assert "$aws" in render_access_list(PLAN)
    rules = [line for line in render_access_list(BrokerPlan(folder="/b")).splitlines() if not line.startswith("#")]
    assert not [line for line in rules if "$aws" in line]


def test_grants_and_denials_outlive_a_new_setup() -> None:
    grants = grant_paragraph("press-3", "line 1", "press-3") + deny_paragraph("press-4")
    first = render_access_list(PLAN, grants)
    again = render_access_list(BrokerPlan(folder="/b", hubs=("tidegate-hub", "tidegate-hub-2")), extract_grants(first))
    assert extract_grants(again) == grants
    assert extract_grants("user somebody\ntopic readwrite #\n") == "", "what nobody granted is not kept"


@pytest.mark.parametrize("text", ["", "a/b", "+", "#", "a#", " a", "a ", "a\nuser b", "a\0", "STATE\n", "\x85"])
def test_what_would_be_another_rule_is_no_group_and_no_node(text: str) -> None:
    with pytest.raises(ValueError, match="is no Sparkplug"):
        grant_paragraph("press-3", text, "n")
    with pytest.raises(ValueError, match="is no Sparkplug"):
        grant_paragraph("press-3", "g", text)


def test_the_group_of_host_applications_is_nobodys() -> None:
    with pytest.raises(ValueError, match="STATE"):
        grant_paragraph("press-3", "STATE", "n")


@given(group=st.text(max_size=12), node=st.text(max_size=12), device=st.sampled_from(["press-3", "a\nb", "+", "%u"]))
def test_a_grant_never_says_more_than_its_four_lines(group: str, node: str, device: str) -> None:
    try:
        lines = [line for line in grant_paragraph(device, group, node).splitlines() if not line.startswith("#")]
    except ValueError:
        return
    topic = f"spBv1.0/{group}/+/{node}"
    assert lines == ["", "user press-3:spb", f"topic readwrite {topic}", f"topic readwrite {topic}/#",
                     "topic read spBv1.0/STATE/+"]  # fmt: skip


@pytest.mark.parametrize(
    "plan",
    [
        BrokerPlan(folder="/a\nallow_anonymous true"),
        BrokerPlan(folder="/b", bind="::\nx"),
        BrokerPlan(folder="/b", bind="1.2.3.4 x"),
        BrokerPlan(folder="/b", user="a\nb"),
        BrokerPlan(folder="/b", user=""),
    ],
)
def test_what_would_be_another_option_is_refused(plan: BrokerPlan) -> None:
    with pytest.raises(ValueError, match="cannot stand in"):
        render_configuration(plan)


@pytest.mark.parametrize("hub", ["", "#", "a\ntopic readwrite #", "A", "a b"])
def test_a_hub_is_named_as_a_client_is(hub: str) -> None:
    with pytest.raises(ValueError, match="no hub's client id"):
        render_access_list(BrokerPlan(folder="/b", hubs=(hub,)))


@pytest.mark.parametrize("device", ["", "press-3:spb", "a\nb", "+", "%u"])
def test_only_a_device_is_denied(device: str) -> None:
    with pytest.raises(ValueError, match="is no device id"):
        deny_paragraph(device)


STORE = (
    b"\x00\xb5\x00mosquitto db" + bytes(4) + (6).to_bytes(4, "big") + (1).to_bytes(4, "big") + (16).to_bytes(4, "big")
)
STORE += bytes(16)
"""What mosquitto 2.0.11 writes when nothing waits: its head and one chunk."""


@pytest.mark.parametrize(("content", "reason"), [
    (STORE, ""), (b"", ""), (STORE + STORE[23:], ""),
    (bytes(8192), "zeros"), (b"SQLite format 3\0" * 9, "no store"), (STORE[:-1], "cut short"),
    (STORE[:27], "cut short"), (STORE[:20], "cut short"),
])  # fmt: skip
def test_a_store_that_mosquitto_does_not_start_with(content: bytes, reason: str) -> None:
    assert reason in store_damage(content)
    assert bool(reason) == bool(store_damage(content))


def test_the_configuration_tells_the_receive_maximum_that_the_hub_has() -> None:
    assert f"receive maximum ({MAX_BATCH} for the hub)" in render_configuration(BrokerPlan(folder="/x"))
