"""Messages between the agent and an inference process: MessagePack with a four-byte length prefix, over pipes.

The agent sends `Request`; the bytes of the input are in shared memory. The process sends `Opening` before it tries a
runner, then `Ready` or `Failed`, then `Results`, one for each batch. A process that builds an engine sends `Building`,
then `Built` or `Failed`.
"""

from __future__ import annotations

from typing import Any

import msgspec

from shared.models.gate import Result
from shared.protocol.messages import ArrayType, Color

LENGTH_BYTES = 4


class ModelSpec(msgspec.Struct, frozen=True, kw_only=True):
    """All that an inference process needs to know; streams of equal specs share a process.

    `variant` is the key that was asked for; without, the first of `variants` that the bundle has. Runners and
    providers in `skip` are not tried, each with the reason.
    """

    bundle: str
    variant: str = ""
    variants: tuple[str, ...] = ()
    providers: tuple[str, ...] = ("CPUExecutionProvider",)
    batch: int = 1
    max_wait_ms: float = 2.0
    threads: int = 1
    cache_dir: str = ""
    libraries: tuple[tuple[str, str], ...] = ()
    version_compatible: bool = False
    watchdog_s: float = 30.0
    load_s: float = 120.0
    memory_mb: float = 0.0
    skip: tuple[tuple[str, str], ...] = ()


class Request(msgspec.Struct, frozen=True, array_like=True):
    """An input in shared memory: `size` bytes at `offset`. `stream` tells the streams of a process apart."""

    id: int
    stream: int
    offset: int
    size: int
    shape: tuple[int, ...]
    dtype: ArrayType
    color: Color


class Opening(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """The process is about to open a runner; if it dies now, the runner is to blame."""

    runner: str


class Ready(msgspec.Struct, frozen=True, kw_only=True, tag=True, array_like=True):
    """The model is loaded and has run once. `build` is the runner that needs an engine built on this device, or ''.

    `values` are the names of the results' numeric values, as the warm-up gave them.
    """

    name: str
    version: str
    variant: str
    digest: str
    runner: str
    provider: str
    precision: str
    device: str
    refused: dict[str, str]
    build: str
    labels: list[str]
    values: list[str]


class Failed(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """The model cannot be used."""

    reason: str


class Answer(msgspec.Struct, frozen=True, array_like=True):
    """The result of request `id`; None with a `reason` when the model refused the input."""

    id: int
    result: Result | None
    reason: str = ""


class Results(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """The answers to one batch, which the model ran in `run_us` microseconds."""

    answers: list[Answer]
    run_us: int


class Building(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Progress of a build in 0..1."""

    progress: float
    phase: str


class Built(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """The engine is in the cache."""


WorkerMessage = Opening | Ready | Failed | Results | Building | Built

_encoder = msgspec.msgpack.Encoder()
_messages = msgspec.msgpack.Decoder(WorkerMessage)
_requests = msgspec.msgpack.Decoder(Request)


def pack(message: msgspec.Struct) -> bytes:
    """The message with its length prefix."""
    body = _encoder.encode(message)
    return len(body).to_bytes(LENGTH_BYTES, "little") + body


class Unpacker:
    """Splits a stream of bytes into messages."""

    def __init__(self, decoder: msgspec.msgpack.Decoder[Any]) -> None:
        self._decoder, self._rest = decoder, b""

    def feed(self, data: bytes) -> list[Any]:
        """The messages that are complete now."""
        buffer, at, found = self._rest + data, 0, []
        while len(buffer) - at >= LENGTH_BYTES:
            end = at + LENGTH_BYTES + int.from_bytes(buffer[at : at + LENGTH_BYTES], "little")
            if end > len(buffer):
                break
            found.append(self._decoder.decode(memoryview(buffer)[at + LENGTH_BYTES : end]))
            at = end
        self._rest = buffer[at:]
        return found


def messages() -> Unpacker:
    """For the agent: unpacks what an inference process sends."""
    return Unpacker(_messages)


def requests() -> Unpacker:
    """For the inference process: unpacks what the agent sends."""
    return Unpacker(_requests)
