"""The inference child: `python -m edge_agent.models.worker BUNDLE`. Frames come by stdin, results leave by stdout.

It is a process of its own so that the agent stays small and outlives a crash of the model. Messages are
MessagePack behind a four-byte length. The first one out is `Ready` or `Failed`.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import IO

import msgspec

from shared import plugins
from shared.bundle import load
from shared.errors import ConfigError, ModelError
from shared.gate import Result

LENGTH_BYTES = 4


class InferenceRequest(msgspec.Struct, frozen=True, tag=True):
    """One frame to answer."""

    number: int
    shape: tuple[int, int]
    data: bytes


class Ready(msgspec.Struct, frozen=True, tag=True):
    """The model is loaded and has answered a probe."""

    digest: str
    provider: str
    name: str
    version: str


class Failed(msgspec.Struct, frozen=True, tag=True):
    """The model cannot be used."""

    reason: str


class InferenceResult(msgspec.Struct, frozen=True, tag=True):
    """The result of frame `number`; None with a `reason` when the model could not take it."""

    number: int
    result: Result | None
    reason: str = ""


WorkerMessage = Ready | Failed | InferenceResult

_encoder = msgspec.msgpack.Encoder()


def write(stream: IO[bytes], message: msgspec.Struct) -> None:
    """One message out."""
    body = _encoder.encode(message)
    stream.write(len(body).to_bytes(LENGTH_BYTES, "little") + body)
    stream.flush()


def read(stream: IO[bytes]) -> bytes | None:
    """The body of the next message, or None at the end."""
    head = stream.read(LENGTH_BYTES)
    if len(head) < LENGTH_BYTES:
        return None
    body = stream.read(int.from_bytes(head, "little"))
    return body if body else None


def serve(folder: Path, source: IO[bytes], sink: IO[bytes]) -> int:
    """Load the bundle in `folder`, then answer until the parent closes the pipe."""
    try:
        bundle = load(folder)
        manifest = bundle.manifest
        runner = plugins.load(plugins.RUNNERS, manifest.runner, f"{folder}/manifest.json: runner")(bundle)
    except (ModelError, ConfigError) as error:
        write(sink, Failed(reason=str(error)))
        return 1
    except Exception as error:
        write(sink, Failed(reason=f"{folder}: the runner cannot take it ({type(error).__name__}: {error})"))
        raise
    ready = Ready(digest=manifest.digest, provider=runner.provider, name=manifest.name, version=manifest.version)
    write(sink, ready)
    decoder = msgspec.msgpack.Decoder(InferenceRequest)
    while (body := read(source)) is not None:
        ask = decoder.decode(body)
        try:
            write(sink, InferenceResult(number=ask.number, result=runner.run(ask.shape, ask.data)))
        except ModelError as error:
            write(sink, InferenceResult(number=ask.number, result=None, reason=str(error)))
    return 0


def main() -> int:
    """The parent ends us by closing stdin; Ctrl-C on its terminal is its business."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sink = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # a library that prints must not break the protocol
    try:
        return serve(Path(sys.argv[1]), sys.stdin.buffer, sink)
    except BrokenPipeError:
        return 0


if __name__ == "__main__":
    sys.exit(main())
