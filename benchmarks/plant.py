"""Measures the clients of plant protocols: tags a second, and processor time for 1,000 tags, against one request a tag.

    python -m benchmarks.plant [--tags 2000] [--seconds 6] [--json FILE]

The servers are pymodbus' and asyncua's own, in processes of their own, on loopback. They are slower than the clients
and share the machine with them, so tags a second are those of both together; processor time is the client's alone.
The baseline reads the same tags with one request each, with the same library and connection, in the same run.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psutil
from asyncua import Server, ua
from pymodbus.server import ModbusTcpServer
from pymodbus.simulator import DataType, SimData, SimDevice

from benchmarks.report import Row, arguments, publish
from edge_agent.clock import now_us
from edge_agent.collectors import modbus, opcua
from edge_agent.collectors.modbus.connection import ModbusConnection
from edge_agent.collectors.modbus.core.codec import Codec
from edge_agent.collectors.modbus.core.planning import Limits, plan
from edge_agent.collectors.modbus.tags import ModbusTag
from edge_agent.collectors.opcua.connection import OpcuaConnection
from edge_agent.collectors.opcua.core.values import to_sample
from edge_agent.config import CollectorTable
from shared.protocol.messages import Sample

NAIVE = 500
"""Tags that the baseline reads."""


def serve_modbus(port: int, tags: int) -> None:
    """A device with `tags` float32 values, until it is killed."""

    async def serve() -> None:
        data = [SimData(0, count=2 * tags, values=0x4248, datatype=DataType.REGISTERS)]
        await ModbusTcpServer(SimDevice(1, simdata=data), address=("127.0.0.1", port)).serve_forever()

    asyncio.run(serve())


def serve_opcua(port: int, tags: int) -> None:
    """A server with `tags` variables, until it is killed."""

    async def serve() -> None:
        server = Server()
        await server.init()
        server.set_endpoint(f"opc.tcp://127.0.0.1:{port}")
        server.set_security_policy([ua.SecurityPolicyType.NoSecurity])
        for number in range(tags):
            await server.nodes.objects.add_variable(
                ua.NodeId.from_string(f"ns=1;s=t{number}"), f"t{number}", float(number)
            )
        async with server:
            await asyncio.sleep(3600)

    asyncio.run(serve())


@contextmanager
def served(serve: Callable[[int, int], None], tags: int) -> Iterator[int]:
    """The port of a server in a process of its own."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    process = multiprocessing.get_context("spawn").Process(target=serve, args=(port, tags), daemon=True)
    process.start()
    try:
        until = time.monotonic() + 120
        while time.monotonic() < until:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        yield port
    finally:
        process.kill()
        process.join()


def timed(name: str, method: str, tags: int, work: Callable[[], None]) -> list[Row]:
    """Tags a second, and milliseconds of this process for 1,000 of them."""
    began, used = time.monotonic(), time.process_time()
    work()
    seconds, cpu = time.monotonic() - began, time.process_time() - used
    return [
        Row(name, method, "tags a second", tags / seconds, "1/s"),
        Row(name, method, "processor", 1e6 * cpu / tags, "ms per 1,000 tags"),
    ]


def modbus_table(port: int, tags: int) -> CollectorTable:
    """A collector of all values of the device."""
    rows = [{"name": f"t{n}", "table": "holding", "address": 2 * n, "type": "float32"} for n in range(tags)]
    options = {"address": f"127.0.0.1:{port}", "tags": rows}
    return CollectorTable(kind="modbus", name="modbus", period_s=0.2, options=options)


def opcua_table(port: int, tags: int, mode: str) -> CollectorTable:
    """A collector of all variables of the server."""
    rows = [{"name": f"t{n}", "node": f"ns=1;s=t{n}"} for n in range(tags)]
    options = {"url": f"opc.tcp://127.0.0.1:{port}", "tags": rows, "groups": {"default": {"mode": mode}}}
    return CollectorTable(kind="opcua", name="opcua", period_s=0.2, options=options)


def modbus_requests(port: int, count: int) -> list[Row]:
    """Planned batches, and one request for each tag."""
    chosen = modbus.Options(address=f"127.0.0.1:{port}", tags=["benchmark"])
    tags = [ModbusTag(name=f"t{n}", table="holding", address=2 * n, type="float32") for n in range(count)]
    items = [tag.item(index, 1) for index, tag in enumerate(tags)]
    codec = Codec(tags[0].layout("big", "big"))
    connection = ModbusConnection(chosen)

    def batches() -> None:
        for batch in plan(items, Limits()):
            data = connection.read(1, batch.table, batch.address, batch.count)
            for item in batch.items:
                codec.decode(bytes(data), 2 * (item.address - batch.address))

    def naive() -> None:
        for item in items[:NAIVE]:
            codec.decode(bytes(connection.read(1, item.table, item.address, item.count)))

    batches()
    rows = timed("modbus", "planned batches", count, batches)
    rows += timed("modbus", "one request a tag", min(NAIVE, count), naive)
    connection.close()
    return rows


def opcua_requests(port: int, count: int) -> list[Row]:
    """Reads of 500 nodes, and one request for each."""
    loop = asyncio.new_event_loop()
    connection = OpcuaConnection(opcua.Options(url=f"opc.tcp://127.0.0.1:{port}", tags=["benchmark"]), "benchmark")
    loop.run_until_complete(connection.open())
    found = loop.run_until_complete(connection.node_ids(f"ns=1;s=t{n}" for n in range(count)))
    nodes = [node for node in found if not isinstance(node, str)]

    async def read(size: int, most: int) -> None:
        for first in range(0, most, size):
            for answer in await connection.read(nodes[first : min(first + size, most)]):
                to_sample(answer.value, "number", None, 1.0, 0.0)

    loop.run_until_complete(read(500, count))
    rows = timed("opcua", "500 nodes a request", count, lambda: loop.run_until_complete(read(500, count)))
    few = min(NAIVE, count)
    rows += timed("opcua", "one request a tag", few, lambda: loop.run_until_complete(read(1, few)))
    loop.run_until_complete(connection.close())
    loop.close()
    return rows


def used_s(process: psutil.Process) -> float:
    """Processor time that a process has used."""
    times = process.cpu_times()
    return float(times.user + times.system)


def whole(name: str, method: str, collector: Any, seconds: float) -> list[Row]:
    """The collector as the agent runs it, each tag every second: processor time of both processes."""
    names = set(collector.names)
    seen: set[str] = set()
    until = time.monotonic() + 60
    while len(seen) < len(names) and time.monotonic() < until:
        seen |= {one.metric for one in collector.collect(now_us()) if isinstance(one, Sample)} & names
        time.sleep(0.2)
    client = psutil.Process(collector.source.pid)
    began, before, own, samples = time.monotonic(), used_s(client), time.process_time(), 0
    while time.monotonic() - began < seconds:
        samples += sum(isinstance(one, Sample) and one.metric in names for one in collector.collect(now_us()))
        time.sleep(0.2)
    passed, unit = time.monotonic() - began, "ms/s per 1,000 tags"
    share = 1e6 / passed / len(names)
    rows = [
        Row(name, method, "processor of the client", share * (used_s(client) - before), unit),
        Row(name, method, "processor of the agent", share * (time.process_time() - own), unit),
        Row(name, method, "samples a second", samples / passed, "1/s"),
        Row(name, method, "memory of the client", client.memory_info().rss / 1e6, "MB"),
    ]
    collector.close()
    return rows


def main() -> None:
    """Run the benchmark."""
    given = arguments("Clients of plant protocols", tags=2000, seconds=6.0)
    rows: list[Row] = []
    with served(serve_modbus, given.tags) as port:
        rows += modbus_requests(port, given.tags)
        collector: Any = modbus.open_collector(modbus_table(port, given.tags))
        rows += whole("modbus collector", "every second", collector, given.seconds)
    with served(serve_opcua, given.tags) as port:
        rows += opcua_requests(port, given.tags)
        for mode in ("poll", "subscribe"):
            what = "polled every second" if mode == "poll" else "subscribed, nothing changes"
            collector = opcua.open_collector(opcua_table(port, given.tags, mode))
            rows += whole("opcua collector", what, collector, given.seconds)
    publish("plant", given.seed, rows, given.json, f"{given.tags} tags; servers on the same machine")


if __name__ == "__main__":
    main()
