"""Commands at the hub: what becomes of one, who is told, and when it is given up."""

from __future__ import annotations

from typing import Any

import pytest
from simulators.actions import action_service
from simulators.births import born

from cloud_hub.actions import worker as actions
from cloud_hub.audit import trail as audit
from cloud_hub.database.sessions import Database
from cloud_hub.database.tables import Command
from cloud_hub.devices import commands
from cloud_hub.devices.commands import Mode
from cloud_hub.errors import HubError
from cloud_hub.runtime.outgoing import OutgoingMessage
from shared.protocol.codec import decode
from shared.protocol.messages import Birth, CommandCancel, CommandRequest, CommandResult

SECOND = 1_000_000
NOW = 1_800_000_000 * SECOND
DEVICE = "press-3"


class Hub:
    """One device's commands over a real database, and a clock."""

    def __init__(self, db: Database) -> None:
        self.db, self.now = db, NOW
        self.birth()

    def birth(self, state: Any = "online") -> list[OutgoingMessage]:
        with self.db.write() as session:
            born(session, Birth(device=DEVICE, session="s", epoch="e", state=state), self.now)
            return commands.pending_messages(session, DEVICE, self.now) if state == "online" else []

    def send(self, mode: Mode = "direct", life_s: float = 30.0) -> tuple[str, list[OutgoingMessage]]:
        with self.db.write() as session:
            row, messages = commands.create(
                session, DEVICE, "diagnose", "processes", self.now, actor="anna", mode=mode, life_s=life_s,
                args={"seconds": 5.0},
            )  # fmt: skip
        return row.id, messages

    def say(self, cid: str, state: Any, device: str = DEVICE, **more: Any) -> bool:
        with self.db.write() as session:
            return commands.handle_result(session, device, CommandResult(id=cid, state=state, t_us=1, **more), self.now)

    def cancel(self, cid: str) -> list[OutgoingMessage]:
        with self.db.write() as session:
            return commands.cancel(session, cid, "bert", self.now)[1]

    def row(self, cid: str) -> Command:
        with self.db.read() as session:
            return commands.get(session, cid)

    def after(self, seconds: float) -> list[OutgoingMessage]:
        """The actions' loop, as it runs when nothing but commands is due."""
        self.now += int(seconds * SECOND)
        return list(actions.run_once(self.db, action_service(), self.now).messages)

    def trail(self, cid: str) -> list[tuple[str, str]]:
        with self.db.read() as session:
            rows = audit.rows(session, kind="command.")
        return [(row.actor, row.kind) for row in reversed(rows) if row.detail["command"] == cid]


@pytest.fixture
def hub(db: Database) -> Hub:
    return Hub(db)


def test_a_request_carries_its_arguments_and_is_an_mqtt_request(hub: Hub) -> None:
    cid, (message,) = hub.send()
    request = decode(CommandRequest, message.payload)
    assert (request.id, request.args, request.expires_us) == (cid, {"seconds": 5.0}, NOW + 30 * SECOND)
    assert message.correlation == cid.encode()
    assert message.response_topic == f"tidegate/v1/things/{DEVICE}/commands/{cid}/response"


def test_a_life_from_sent_to_succeeded(hub: Hub) -> None:
    cid, _ = hub.send()
    seen = []
    for state, more in (
        ("accepted", {}), ("running", {"progress": 0.2, "text": "first"}), ("accepted", {}),
        ("running", {"progress": 0.6, "text": "second"}), ("running", {"progress": 0.2, "text": "first"}),
    ):  # fmt: skip
        assert not hub.say(cid, state, **more)
        row = hub.row(cid)
        seen.append((row.state, row.progress, row.text))
    assert seen == [
        ("accepted", None, ""), ("running", 0.2, "first"), ("running", 0.2, "first"), ("running", 0.6, "second"),
        ("running", 0.6, "second"),
    ]  # fmt: skip
    assert hub.say(cid, "succeeded", output={"a": 1.0})
    assert not hub.say(cid, "failed", text="late")
    row = hub.row(cid)
    assert (row.state, row.text, row.output, row.actor, row.mode) == ("succeeded", "", {"a": 1.0}, "anna", "direct")
    assert hub.trail(cid) == [("anna", "command.sent"), (DEVICE, "command.succeeded")]


def test_the_word_of_another_device_does_not_count(hub: Hub) -> None:
    cid, _ = hub.send()
    assert not hub.say(cid, "succeeded", device="press-4")
    assert hub.row(cid).state == "sent"


def test_a_queued_command_waits_for_its_device(hub: Hub) -> None:
    hub.birth("offline")
    cid, messages = hub.send("queued", 3 * 86400)
    assert (messages, hub.row(cid).state) == ([], "queued")
    assert hub.after(2 * 86400) == []
    (message,) = hub.birth()
    assert decode(CommandRequest, message.payload).id == cid
    assert hub.row(cid).state == "sent"
    assert hub.trail(cid) == [("anna", "command.queued"), ("hub", "command.sent")]
    assert [m.topic for m in hub.birth()] == [message.topic], "until the device has answered"
    hub.say(cid, "succeeded")
    assert hub.birth() == []


def test_a_queued_command_for_a_device_that_is_there_goes_at_once(hub: Hub) -> None:
    cid, messages = hub.send("queued")
    assert (len(messages), hub.row(cid).state) == (1, "sent")


def test_a_queued_command_that_no_device_came_for_expires_and_nobody_is_asked(hub: Hub) -> None:
    hub.birth("offline")
    cid, _ = hub.send("queued", 60)
    assert hub.after(59) == []
    assert hub.row(cid).state == "queued"
    hub.after(1)
    assert hub.row(cid).state == "expired"
    assert hub.birth() == []


def test_life_begins_anew_with_each_word(hub: Hub) -> None:
    cid, _ = hub.send()
    for _ in range(5):
        hub.after(29)
        hub.say(cid, "running", progress=0.5)
    assert hub.row(cid).state == "running"
    (message,) = hub.after(31)
    assert message.topic.endswith(f"{cid}/cancel")
    assert hub.row(cid).state == "expired"


def test_what_expired_while_the_hub_was_down_ends_with_its_first_step(hub: Hub) -> None:
    cid, _ = hub.send()
    hub.after(86400 * 3)
    assert hub.row(cid).state == "expired"
    assert hub.trail(cid)[-1] == ("hub", "command.expired")
    assert hub.after(1) == []


@pytest.mark.parametrize("days", [1, -1])
def test_a_jump_of_the_hubs_clock_ends_a_command_once_and_only_ever_once(hub: Hub, days: int) -> None:
    """A day ahead gives up what is open, and the device is told; a day back keeps it open. No word is doubled."""
    cid, _ = hub.send()
    told = hub.after(days * 86400)
    assert [message.topic.rsplit("/", 1)[1] for message in told] == (["cancel"] if days > 0 else [])
    assert hub.after(1) == [], "no storm"
    ended = hub.say(cid, "succeeded")
    assert ended == (days < 0)
    assert hub.row(cid).state == ("expired" if days > 0 else "succeeded")
    assert hub.after(-days * 86400) == []
    assert hub.after(60) == []
    ends = [kind for _, kind in hub.trail(cid) if kind in {"command.expired", "command.succeeded"}]
    assert ends == ["command.expired" if days > 0 else "command.succeeded"]


def test_a_device_is_asked_what_became_of_what_was_given_up_until_it_has_said(hub: Hub) -> None:
    cid, _ = hub.send()
    hub.say(cid, "running", progress=0.1)
    hub.after(31)
    for _ in range(2):
        (message,) = hub.birth()
        assert decode(CommandCancel, message.payload).id == cid
    hub.now += 1
    assert not hub.say(cid, "succeeded", output={"a": 1.0})
    row = hub.row(cid)
    assert (row.state, row.text) == ("expired", "the device did not answer in time; later it said: succeeded")
    assert (row.output, hub.trail(cid)[-1]) == ({"a": 1.0}, (DEVICE, "command.late"))
    assert hub.birth() == []
    hub.say(cid, "succeeded")
    assert hub.row(cid).text == row.text, "told once"


def test_a_device_that_is_away_for_weeks_is_not_asked_any_more(hub: Hub) -> None:
    hub.send()
    hub.after(31)
    hub.now += 8 * 86400 * SECOND
    assert hub.birth() == []


def test_cancelled_before_it_was_delivered_it_never_is(hub: Hub) -> None:
    hub.birth("offline")
    cid, _ = hub.send("queued")
    assert hub.cancel(cid) == []
    assert hub.row(cid).state == "cancelled"
    assert hub.birth() == []
    assert hub.trail(cid) == [("anna", "command.queued"), ("bert", "command.cancelled")]


@pytest.mark.parametrize("end", ["cancelled", "succeeded", "failed"])
def test_what_was_delivered_ends_as_the_device_says(hub: Hub, end: str) -> None:
    cid, _ = hub.send()
    (message,) = hub.cancel(cid)
    assert message.topic.endswith(f"commands/{cid}/cancel")
    assert hub.row(cid).state == "sent"
    (again,) = hub.birth()
    assert again.topic == message.topic, "not the request any more"
    assert hub.say(cid, end)
    assert hub.row(cid).state == end
    with pytest.raises(HubError) as no:
        hub.cancel(cid)
    assert (no.value.status, end in no.value.detail) == (409, True)
    assert hub.trail(cid)[:2] == [("anna", "command.sent"), ("bert", "command.cancel")]


def test_an_unknown_command_cannot_be_cancelled(hub: Hub) -> None:
    with pytest.raises(HubError) as no:
        hub.cancel("nothing")
    assert no.value.status == 404


def test_the_newest_come_first(hub: Hub) -> None:
    made = []
    for _ in range(3):
        made.append(hub.send()[0])
    hub.say(made[1], "succeeded")
    with hub.db.read() as session:
        listed = [row.id for row in commands.list_for_device(session, DEVICE, limit=2)]
        ended = [row.id for row in commands.list_for_device(session, DEVICE, "succeeded")]
    assert set(listed) <= set(made)
    assert listed == sorted(listed, reverse=True)
    assert (len(listed), ended) == (2, [made[1]])
