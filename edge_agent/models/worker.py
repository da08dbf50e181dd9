"""The inference process: `python -m edge_agent.models.worker BUNDLE`. Frames on stdin, results on stdout.

It is a separate process so that the agent stays small and survives a crash of the model. Messages are
MessagePack with a four-byte length prefix. The first message is `Ready` or `Failed`.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import IO

import msgspec

from shared import plugins
from shared.errors import ConfigError, ModelError
from shared.models.bundle import load
from shared.models.gate import Result

LENGTH_BYTES = 4


class InferenceRequest(msgspec.Struct, frozen=True, tag=True):
    """A frame to run the model on."""

    number: int
    shape: tuple[int, int]
    data: bytes


class Ready(msgspec.Struct, frozen=True, tag=True):
    """The model is loaded and passed a test frame."""

    digest: str
    provider: str
    name: str
    version: str


class Failed(msgspec.Struct, frozen=True, tag=True):
    """The model cannot be used."""

    reason: str


class InferenceResult(msgspec.Struct, frozen=True, tag=True):
    """The result of frame `number`; None with a `reason` when the model rejected the frame."""

    number: int
    result: Result | None
    reason: str = ""


WorkerMessage = Ready | Failed | InferenceResult

_encoder = msgspec.msgpack.Encoder()


def write(stream: IO[bytes], message: msgspec.Struct) -> None:
    """Write a message."""
    body = _encoder.encode(message)
    stream.write(len(body).to_bytes(LENGTH_BYTES, "little") + body)
    stream.flush()


def read(stream: IO[bytes]) -> bytes | None:
    """Read the body of the next message; None at the end."""
    head = stream.read(LENGTH_BYTES)
    if len(head) < LENGTH_BYTES:
        return None
    body = stream.read(int.from_bytes(head, "little"))
    return body if body else None


def serve(folder: Path, source: IO[bytes], sink: IO[bytes]) -> int:
    """Load the bundle in `folder`, then process frames until the agent closes the pipe."""
    try:
        bundle = load(folder)
        manifest = bundle.manifest
        key, variant = next(iter(manifest.variants.items()))
        runner = plugins.load(plugins.RUNNERS, variant.runners[0], f"{folder}/manifest.json: variant '{key}'")(bundle)
    except (ModelError, ConfigError) as error:
        write(sink, Failed(reason=str(error)))
        return 1
    except Exception as error:
        write(sink, Failed(reason=f"{folder}: the runner cannot take it ({type(error).__name__}: {error})"))
        raise
    digest = manifest.variant_digest(key)
    ready = Ready(digest=digest, provider=runner.provider, name=manifest.name, version=manifest.version)
    write(sink, ready)
    decoder = msgspec.msgpack.Decoder(InferenceRequest)
    while (body := read(source)) is not None:
        request = decoder.decode(body)
        try:
            write(sink, InferenceResult(number=request.number, result=runner.run(request.shape, request.data)))
        except ModelError as error:
            write(sink, InferenceResult(number=request.number, result=None, reason=str(error)))
    return 0


def main() -> int:
    """Entry point. The agent ends this process by closing stdin; SIGINT is ignored."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sink = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # a library that prints must not break the protocol
    try:
        return serve(Path(sys.argv[1]), sys.stdin.buffer, sink)
    except BrokenPipeError:
        return 0


if __name__ == "__main__":
    sys.exit(main())
