"""What a Modbus device may send: whatever it is, a read ends with the registers, or with one of three exceptions."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest
from simulators.hostile_modbus import Server, hostile_modbus, mutated, valid, valid_rtu

from edge_agent.collectors.modbus import Options
from edge_agent.collectors.modbus.connection import ModbusConnection, NoAnswer, RequestRefused
from shared.errors import NotReady


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with hostile_modbus() as found:
        yield found


def connection(server: Server, transport: str = "tcp") -> ModbusConnection:
    options = {"address": f"127.0.0.1:{server.port}", "timeout_s": 0.02, "tags": ["test"], "transport": transport}
    return ModbusConnection(Options(**options))  # type: ignore[arg-type]


@pytest.mark.parametrize("seeds", [range(25), pytest.param(range(25, 600), marks=pytest.mark.nightly)])
@pytest.mark.parametrize("transport", ["tcp", "rtu_over_tcp"])
def test_a_read_ends_with_the_registers_or_a_known_exception_whatever_is_sent(
    server: Server, transport: str, seeds: range
) -> None:
    outcomes = set()
    for seed in seeds:
        server.answer = mutated(seed, valid if transport == "tcp" else valid_rtu)
        reader = connection(server, transport)
        try:
            for _ in range(2):
                try:
                    data = reader.read(1, "holding", 0, 3)
                except (NoAnswer, RequestRefused) as error:
                    outcomes.add(type(error).__name__)
                else:
                    assert len(data) == 6, f"seed {seed}"
                    outcomes.add("registers")
        except NotReady:
            outcomes.add("NotReady")
        finally:
            reader.close()
    assert {"registers", "NoAnswer"} <= outcomes


def test_a_late_answer_is_never_taken_for_the_next_one(server: Server) -> None:
    late: list[bytes] = []

    def answer(request: bytes) -> bytes:
        """The answer to each request comes with the next one."""
        address = struct.unpack(">H", request[8:10])[0]
        found = bytearray(valid(request))
        found[9:11] = struct.pack(">H", address)
        late.append(bytes(found))
        return late[-2] if len(late) > 1 else b"\0"

    server.answer = answer
    reader = connection(server)
    for address in range(1, 5):
        with pytest.raises(NoAnswer):
            reader.read(1, "holding", address, 1)
    server.answer = valid
    reader.close()


def test_too_few_registers_are_no_answer(server: Server) -> None:
    server.answer = lambda request: request[:4] + b"\0\x05" + request[6:8] + b"\x02\0\x07"
    reader = connection(server)
    with pytest.raises(NoAnswer, match="3 registers were asked for, 1 came"):
        reader.read(1, "holding", 0, 3)
    reader.close()


def test_a_connection_that_ends_in_the_middle_is_lost(server: Server) -> None:
    server.answer = lambda _request: b""
    reader = connection(server)
    with pytest.raises(NotReady, match="the connection was closed"):
        reader.read(1, "holding", 0, 3)
    reader.close()
