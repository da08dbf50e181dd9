"""A Modbus TCP server that answers with what a test wants: garbage, wrong lengths, answers to other requests."""

from __future__ import annotations

import random
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from pymodbus.framer import FramerRTU

Answer = Callable[[bytes], bytes]


def valid(request: bytes) -> bytes:
    """A right answer to a request for registers."""
    tid, unit, function, count = request[:2], request[6:7], request[7:8], struct.unpack(">H", request[10:12])[0]
    body = unit + function + bytes([2 * count & 0xFF]) + b"\x00\x07" * count
    return tid + b"\0\0" + struct.pack(">H", len(body)) + body


def valid_rtu(request: bytes) -> bytes:
    """The same on a line without transaction numbers."""
    count = struct.unpack(">H", request[4:6])[0]
    body = request[:2] + bytes([2 * count & 0xFF]) + b"\x00\x07" * count
    return body + FramerRTU.compute_CRC(body).to_bytes(2, "big")


def mutated(seed: int, right: Answer = valid) -> Answer:
    """A right answer in which something was changed, cut, repeated or put before it."""
    dice = random.Random(seed)

    def answer(request: bytes) -> bytes:
        data = bytearray(right(request))
        kind = dice.randrange(6)
        if kind == 0:
            return dice.randbytes(dice.randrange(1, 300))
        if kind == 1:
            return bytes(data[: dice.randrange(len(data))])
        if kind == 2:
            return bytes(data) * 3
        if kind == 3:
            return dice.randbytes(dice.randrange(1, 20)) + bytes(data)
        for _ in range(dice.randrange(1, 4)):
            data[dice.randrange(len(data))] = dice.randrange(256)
        return bytes(data)

    return answer


class Server:
    """`answer` may be replaced while it runs; b"" closes the connection."""

    def __init__(self, port: int, answer: Answer) -> None:
        self.port, self.answer = port, answer


@contextmanager
def hostile_modbus(answer: Answer = valid) -> Iterator[Server]:
    """A server on loopback."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = Server(listener.getsockname()[1], answer)
        threading.Thread(target=_accept, args=(listener, server), daemon=True).start()
        yield server


def _accept(listener: socket.socket, server: Server) -> None:
    with suppress(OSError):
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=_serve, args=(connection, server), daemon=True).start()


def _serve(connection: socket.socket, server: Server) -> None:
    with connection, suppress(OSError):
        while request := connection.recv(12):
            if not (found := server.answer(request)):
                return
            connection.sendall(found)
