"""Demo act j. SCADA: a host application and an edge node of an independent Sparkplug library, on the demo's broker.

Both are made with pysparkplug (scada_host.py, scada_node.py) and run by an interpreter that has it. The host plays the
plant's SCADA: it reads the births of a device of ours and writes one of its settings. The hub is the other node's host.
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

from cloud_hub.demo.client import ActFailed, ActSkipped, until
from cloud_hub.demo.peer import INTERPRETER, Line, Peer
from cloud_hub.demo.world import SCADA_GROUP, SETTING, World, program

NODE, DEVICE = "press-7", "hydraulics"
THIRD_PARTY = f"{SCADA_GROUP}-{NODE}-{DEVICE}"
READ = "cpu.load"
WAIT_S = 10.0


def scada(world: World) -> list[str]:
    """Another library sees births, reads a value and writes a setting; its node becomes a device of the fleet."""
    if not INTERPRETER.exists():
        raise ActSkipped("pysparkplug is not installed: make .venv-interop/.pip")
    names = ("--group", SCADA_GROUP, "--node", NODE, "--device", DEVICE)
    with _peer("scada_node", world, *names), _peer("scada_host", world, "--host-id", "plant-scada") as host:
        host.wait_for("connected")
        lines = [_read(world, host), _refused(world, host), _written(world, host)]
        return [*lines, _third_party(world)]


def _peer(script: str, world: World, *arguments: str) -> Peer:
    file = Path(__file__).with_name(f"{script}.py")
    return Peer([str(INTERPRETER), str(file), "--port", str(world.mqtt3), *arguments])


def _read(world: World, host: Peer) -> str:
    """A host that arrives late asks for a new birth: then it knows every metric, and reads what changes."""
    host.send(do="rebirth", group=SCADA_GROUP, node=world.canary)
    birth = host.wait_for("NBIRTH", WAIT_S, node=world.canary)
    data = host.wait_until("data by exception", lambda line: _of(world, line) and line["event"] == "NDATA", WAIT_S)
    name, value = next((one for one in data["metrics"].items() if isinstance(one[1], float)), ("", 0.0))
    return (
        f"pysparkplug as host: NBIRTH of {world.canary} with {len(birth['metrics'])} metrics, "
        f"{READ} = {birth['metrics'][READ]:g}; then NDATA with {len(data['metrics'])} changed ones, {name} = {value:g}"
    )


def _of(world: World, line: Line) -> bool:
    return line.get("node") == world.canary and line["event"] in {"NBIRTH", "NDATA"}


def _write(world: World, host: Peer, value: float) -> str:
    """Write the setting; returns the outcome that the node reports, once it is final."""
    host.send(
        do="write", group=SCADA_GROUP, node=world.canary, metric=f"Settings/{SETTING}", type="DOUBLE", value=value
    )
    report = f"Writes/settings.{SETTING}"

    def final(line: Line) -> bool:
        outcome = str(line.get("metrics", {}).get(report) or "")
        return _of(world, line) and line["event"] == "NDATA" and outcome != "" and not outcome.startswith("started")

    line = host.wait_until(f"the outcome in {report}", final, WAIT_S)
    return str(line["metrics"][report])


def _refused(world: World, host: Peer) -> str:
    outcome = _write(world, host, 2.0)
    if not outcome.startswith("refused"):
        raise ActFailed(f"a write that nobody had enabled on the device was not refused: {outcome}")
    return f"write {SETTING} = 2.0: {outcome}"


def _written(world: World, host: Peer) -> str:
    """Someone at the plant switches the write on; then it is carried out, read back and in the twin."""
    _switch(world, "enable", f"settings.{SETTING}", "--for", "1h")
    try:
        outcome = _write(world, host, 2.0)
        if not outcome.startswith("verified"):
            raise ActFailed(f"the write was not verified: {outcome}")
        until("the twin shows the setting", lambda: _setting(world) == 2.0, WAIT_S)
        _write(world, host, 1.0)
    finally:
        _switch(world, "disable", f"settings.{SETTING}")
    states = until("the hub has the events of the writes", lambda: _recorded(world), WAIT_S)
    return (
        f"tidegate-edge write enable {SETTING} on {world.canary}, then the same write: {outcome}; the twin shows 2.0; "
        f"events at the hub: {', '.join(states)}"
    )


def _recorded(world: World) -> list[str] | None:
    """What became of the writes, in the hub's events of the device, first to last; None until all are there."""
    rows = world.client.get(f"/devices/{world.canary}/events", limit=100)
    events = sorted((row["t_us"], row["fields"].get("state")) for row in rows if row["source"] == "sparkplug")
    states = [str(state) for _, state in events if state]
    return states if {"refused", "verified"} <= set(states) else None


def _setting(world: World) -> Any:
    return world.client.reported(world.canary).get("settings", {}).get(SETTING)


def _switch(world: World, *arguments: str) -> None:
    command = [program("tidegate-edge"), "write", *arguments, "--config", str(world.folder / f"{world.canary}.toml")]
    made = subprocess.run(command, capture_output=True, check=False)
    if made.returncode:
        raise ActFailed(f"tidegate-edge write {' '.join(arguments)}: {made.stderr.decode()[-300:]}")


def _third_party(world: World) -> str:
    """The hub, as host application, has made a device of pysparkplug's node."""

    def known() -> dict[str, Any] | None:
        rows = {row["metric"]: row for row in world.client.get(f"/devices/{THIRD_PARTY}/telemetry")}
        return rows if "pressure" in rows and "offset" in rows else None

    rows = until(f"{THIRD_PARTY} is a device of the hub", known, WAIT_S)
    state = world.client.get(f"/devices/{THIRD_PARTY}")["state"]
    if state != "online" or rows["offset"]["value"] != -5:
        raise ActFailed(f"{THIRD_PARTY} is {state}, its offset {rows['offset']['value']}; it sends -5")
    return (
        f"pysparkplug as edge node: {THIRD_PARTY} is {state} in the hub, with {len(rows)} metrics, "
        f"pressure {rows['pressure']['value']:g}"
    )
