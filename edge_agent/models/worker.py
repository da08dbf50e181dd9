"""The inference process: `python -m edge_agent.models.worker SPEC FD`. Headers on stdin, inputs in shared memory.

It is a separate process so that the agent stays small and survives a crash of the model.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable

import msgspec
import numpy as np

from edge_agent.models import DeviceLost
from edge_agent.models.batching import BatchReader
from edge_agent.models.frame_ring import FrameReader
from edge_agent.models.loading import LoadedModel
from edge_agent.models.wire import Answer, Failed, ModelSpec, Opening, Request, Results, pack
from shared.errors import ConfigError, ModelError
from shared.tasks import Array, from_frame

QUICK_US, HELD = 1000, 2
"""While requests wait, the answers of a model that takes less than this are sent two at a time."""

Send = Callable[[msgspec.Struct], None]


def sender(fd: int) -> Send:
    """Sends messages to the agent through the pipe `fd`."""

    def send(message: msgspec.Struct) -> None:
        data = memoryview(pack(message))
        while data:
            data = data[os.write(fd, data) :]

    return send


def model_input(request: Request, ring: FrameReader) -> Array | ModelError:
    """The input of a request as the task takes it, not copied; or why it cannot be one."""
    data = ring.get(request.offset, request.size)
    try:
        if request.dtype == "float32":
            return np.frombuffer(data, np.float32).reshape(request.shape[:2])
        height, width, channels = request.shape
        return from_frame(data, (height, width, channels), request.color)
    except (ModelError, ValueError) as error:
        return ModelError(f"input of shape {list(request.shape)} cannot be read ({error})")


def serve(spec: ModelSpec, fd: int, ring: FrameReader, send: Send) -> int:
    """Load the model, then run batches until the agent closes the pipe."""
    try:
        model = LoadedModel(spec, opening=lambda runner: send(Opening(runner)))
    except (ModelError, ConfigError) as error:
        send(Failed(str(error)))
        return 1
    send(model.ready())
    try:
        run_batches(spec, model, fd, ring, send)
    except DeviceLost as error:
        send(Failed(f"{model.info.provider}: {error}"))
        return 1
    model.close()
    return 0


def run_batches(spec: ModelSpec, model: LoadedModel, fd: int, ring: FrameReader, send: Send) -> None:
    """Run batches until the agent closes the pipe; raises DeviceLost."""
    reader = BatchReader(fd, spec.batch, spec.max_wait_ms / 1e3)
    held: list[Answer] = []
    while batch := reader.next():
        found, run_us = model.run_each([model_input(request, ring) for request in batch])
        held += [Answer(request.id, result, reason) for request, (result, reason) in zip(batch, found, strict=True)]
        if reader.waiting and run_us < QUICK_US and len(held) < HELD:
            continue  # waking the agent takes as long as a quick model
        send(Results(held, run_us))
        held = []
    if held:
        send(Results(held, 0))


def claim_stdout() -> int:
    """A descriptor of the pipe to the agent; what a library prints goes to stderr from now on."""
    fd = os.dup(1)
    os.dup2(2, 1)
    return fd


def main() -> int:
    """Entry point. The agent ends this process by closing stdin; SIGINT is ignored."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    send = sender(claim_stdout())
    try:
        spec = msgspec.json.decode(sys.argv[1], type=ModelSpec)
        return serve(spec, 0, FrameReader(int(sys.argv[2])), send)
    except BrokenPipeError:
        return 0


if __name__ == "__main__":
    sys.exit(main())
