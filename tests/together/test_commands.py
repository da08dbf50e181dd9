"""Commands from a person to a real device and back: over REST, over the command line, through every outage."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import threading
import time
from typing import Any

import pytest
from simulators.brokers import MOSQUITTO_FIRST, Kind, until

from shared.protocol import topics
from shared.protocol.codec import decode, encode
from shared.protocol.messages import CommandRequest, CommandResult
from shared.transport.mqtt import Connection, Inbound, Options

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

DEVICE = "press-3"
LOOK = {"verb": "diagnose", "target": "processes"}


def start(build: Any, kind: Kind = "mosquitto", more: str = "") -> Any:
    world = build(kind)
    world.broker.start()
    world.start_hub()
    world.start_edge(DEVICE, more)
    until("the device is online", lambda: world.online(DEVICE))
    return world


def send(world: Any, **body: Any) -> Any:
    return world.http.post(f"/devices/{DEVICE}/commands", json=LOOK | body)


def command(world: Any, cid: str) -> dict[str, Any]:
    found: dict[str, Any] = world.get(f"/commands/{cid}") or {}
    return found


def ended(world: Any, cid: str) -> dict[str, Any]:
    return until("it has ended", lambda: row if (row := command(world, cid)).get("done_us") else None)


def running(world: Any, cid: str) -> dict[str, Any]:
    return until("it runs", lambda: row if (row := command(world, cid)).get("state") == "running" else None)


@pytest.mark.parametrize("kind", MOSQUITTO_FIRST)
def test_direct_commands(build: Any, kind: Kind) -> None:
    world = start(build, kind)
    until("verbs are reported", lambda: world.reported(DEVICE).get("commands") == ["diagnose processes"])

    answer = send(world, wait=True)
    assert (answer.status_code, answer.json()["state"], answer.json()["actor"]) == (200, "succeeded", "tester")
    assert answer.json()["output"]
    refused = send(world, wait=True, args={"hours": 1}).json()
    assert (refused["state"], "it takes: seconds" in refused["text"]) == ("refused", True)

    cid = send(world, args={"seconds": 3}).json()["id"]
    seen = {0.0}
    while (row := command(world, cid))["done_us"] is None:
        seen.add(row["progress"] or 0.0)
        time.sleep(0.1)
    assert (row["state"], bool(row["output"])) == ("succeeded", True)
    assert {0.0} < seen <= {0.0, 1 / 3, 2 / 3}

    cid = send(world, args={"seconds": 600}).json()["id"]
    running(world, cid)
    assert send(world, wait=True).json()["state"] == "succeeded", "a long one keeps no other waiting"
    assert world.http.post(f"/commands/{cid}/cancel").status_code == 202
    assert ended(world, cid)["state"] == "cancelled"
    assert world.http.post(f"/commands/{cid}/cancel").status_code == 409

    world.processes[DEVICE].send_signal(signal.SIGSTOP)
    late = send(world, wait=True, timeout_s=0.5)
    assert (late.status_code, late.headers["content-type"]) == (504, "application/problem+json")
    world.processes[DEVICE].send_signal(signal.SIGCONT)
    assert ended(world, late.json()["command"])["state"] == "succeeded"

    cid = send(world, args={"seconds": 600}).json()["id"]
    running(world, cid)
    world.end(DEVICE)
    assert (ended(world, cid)["state"], command(world, cid)["text"]) == ("failed", "interrupted by a restart")
    until("it said goodbye", lambda: not world.online(DEVICE))
    assert send(world).status_code == 404
    kinds = {row["kind"] for row in world.get("/audit", kind="command")["rows"]}
    assert kinds == {"command.sent", "command.cancel", "command.succeeded", "command.refused", "command.cancelled",
                     "command.failed"}  # fmt: skip


def _starts(world: Any) -> tuple[int, int] | None:
    """(boots of the agent, starts of its model since the last one), while the model runs."""
    reported = world.reported(DEVICE)
    model = reported.get("models", {}).get("digits", {})
    return (reported["agent"]["boot"], model["starts"]) if model.get("state") == "running" else None


def test_a_queued_command_survives_restarts_of_everything_and_has_one_effect(build: Any) -> None:
    world = build("mosquitto")
    world.broker.start()
    world.start_hub()
    world.start_edge(DEVICE, world.camera())
    until("the model runs", lambda: _starts(world) == (1, 1))
    assert world.reported(DEVICE)["commands"] == ["capture digits", "diagnose processes", "restart digits"]
    world.kill(DEVICE)
    until("it is missed", lambda: not world.online(DEVICE))
    asked = {"verb": "restart", "target": "digits", "mode": "queued", "life_s": 3 * 86400}
    cid = send(world, **asked).json()["id"]
    never = send(world, **asked).json()["id"]
    assert world.http.post(f"/commands/{never}/cancel").json()["state"] == "cancelled"
    world.kill("hub")
    world.kill("broker")
    world.restart("broker")
    world.restart("hub")
    assert command(world, cid)["state"] == "queued"
    world.restart(DEVICE)
    assert ended(world, cid)["state"] == "succeeded"
    assert command(world, never)["state"] == "cancelled"
    until("started once more", lambda: _starts(world) == (2, 2))
    for victim, starts in (("hub", (2, 2)), (DEVICE, (3, 1))):  # each birth might bring it again
        world.kill(victim)
        world.restart(victim)
        until("the model runs", lambda seen=starts: _starts(world) == seen)
        until("what comes after it is answered", lambda: send(world, wait=True).status_code == 200)
        assert _starts(world) == starts
    assert {line["id"] for line in world.logged(DEVICE, "command.received") if line["verb"] == "restart"} == {cid}
    assert world.get("/audit", verify=True)["broken_at"] is None


def test_a_result_that_came_while_the_connection_was_away_reaches_the_hub(build: Any) -> None:
    world = start(build)
    cid = send(world, args={"seconds": 2}, life_s=60).json()["id"]
    gone = send(world, args={"seconds": 3}, life_s=4).json()["id"]
    running(world, cid)
    running(world, gone)
    world.kill("broker")
    until("done in silence", lambda: len(world.logged(DEVICE, "command.done")) == 2)
    until("the hub gave one up", lambda: command(world, gone)["state"] == "expired")
    assert command(world, cid)["state"] == "running"
    world.restart("broker")
    assert ended(world, cid)["output"]
    told = until("told late", lambda: row if (row := command(world, gone))["output"] else None)
    assert (told["state"], told["text"].endswith("later it said: succeeded")) == ("expired", True)


def test_a_crash_in_the_middle_is_told_and_nothing_done_twice(build: Any) -> None:
    world = start(build)
    cid = send(world, args={"seconds": 600}).json()["id"]
    running(world, cid)
    world.kill(DEVICE)
    world.restart(DEVICE)
    row = ended(world, cid)
    assert (row["state"], row["text"]) == ("failed", "interrupted by a restart")


class Line:
    """`tidegate-hub command` as a person calls it, against this world's hub."""

    def __init__(self, world: Any) -> None:
        token = world.http.headers["Authorization"].removeprefix("Bearer ")
        self.env = os.environ | {"TIDEGATE_TOKEN": token, "TIDEGATE_URL": f"http://127.0.0.1:{world.rest}"}
        self.program = world.program("tidegate-hub")

    def __call__(self, *arguments: str, code: int = 0) -> str:
        made = subprocess.run(
            [self.program, "command", *arguments], env=self.env, capture_output=True, text=True, timeout=50, check=False
        )
        assert made.returncode == code, made.stdout + made.stderr
        return made.stdout if code in {0, 1} else made.stderr

    def on_a_terminal(self, *arguments: str) -> str:
        master, slave = pty.openpty()
        with subprocess.Popen(
            [self.program, "command", *arguments], env=self.env, stdout=slave, stderr=slave
        ) as process:
            os.close(slave)
            seen = b""
            try:
                while part := os.read(master, 4096):
                    seen += part
            except OSError:  # the other end is closed
                pass
            os.close(master)
        assert process.returncode == 0
        return seen.decode()


def test_the_command_line(build: Any) -> None:
    world = start(build)
    line = Line(world)
    assert "succeeded" in line("send", DEVICE, "diagnose", "processes")
    seen = line.on_a_terminal("send", DEVICE, "diagnose", "processes", "--arg", "seconds=3")
    assert "watched 1 of 3 s" in seen
    assert "succeeded" in seen
    assert "it takes: seconds" in line("send", DEVICE, "diagnose", "processes", "--arg", "hours=3", code=1)
    assert "'restart nothing'" in line("send", DEVICE, "restart", "nothing", code=1)
    assert "is not known here" in line("send", "press-4", "restart", "x", code=4)
    assert "Invalid request: body.verb" in line("send", DEVICE, "erase", "x", code=2)

    row = json.loads(line("send", DEVICE, "diagnose", "processes", "--arg", "seconds=600", "--no-wait", "--json"))
    running(world, row["id"])
    assert "running" in line("show", row["id"])
    assert row["id"] in line("list", DEVICE, "--state", "running")
    assert "cancelled" in line("cancel", row["id"])
    assert "already cancelled" in line("cancel", row["id"], code=6)
    assert "'nothing' is not known" in line("show", "nothing", code=4)

    world.end(DEVICE)
    until("it said goodbye", lambda: not world.online(DEVICE))
    assert "send it queued" in line("send", DEVICE, "diagnose", "processes", code=4)
    assert "queued" in line("send", DEVICE, "diagnose", "processes", "--queued", "--life", "2h", "--no-wait")
    assert "expired" not in line("list", DEVICE)
    line.env["TIDEGATE_TOKEN"] = "tg_of_nobody"
    assert "Not signed in" in line("list", DEVICE, code=3)
    line.env["TIDEGATE_URL"] = "http://127.0.0.1:1"
    assert "no hub at http://127.0.0.1:1" in line("list", DEVICE, code=5)


@pytest.mark.parametrize("kind", MOSQUITTO_FIRST)
def test_anyone_who_may_publish_gets_the_correlation_back_and_the_same_answer_twice(build: Any, kind: Kind) -> None:
    world = build(kind)
    world.broker.start()
    heard: list[Inbound] = []
    up = threading.Event()
    address = ("127.0.0.1", world.broker.port)
    response = topics.thing(DEVICE, "commands/c1/response")
    filters = [response, topics.thing(DEVICE, "birth"), topics.thing("another", "answers")]
    asker = Connection(
        Options(client_id="asker", filters=filters), lambda: address, heard.append, up.set, lambda reason: None
    )
    asker.start()
    assert up.wait(20)
    world.start_edge(DEVICE)
    until("it is born", lambda: [one for one in heard if one.topic.endswith("birth")])
    request = CommandRequest(id="c1", expires_us=1 << 60, **LOOK)
    for correlation in (b"one", b"two"):
        asker.publish(
            topics.thing(DEVICE, "commands/c1/request"), encode(request), correlation=correlation,
            response_topic=topics.thing("another", "answers"),
        )  # fmt: skip
        until("answered", lambda seen=correlation: [one for one in heard if _ends(one) and one.correlation == seen])
    asker.stop()
    first, second = (decode(CommandResult, one.payload) for one in heard if _ends(one))
    assert first == second
    assert not [one for one in heard if one.topic.endswith("answers")], "a device answers below its own topics"


def _ends(inbound: Inbound) -> bool:
    return inbound.topic.endswith("/response") and decode(CommandResult, inbound.payload).state == "succeeded"
