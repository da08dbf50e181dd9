"""The source process: `python -m edge_agent.collectors.sources.worker`, with a socket to the agent as its stdin.

It runs a producer. When the producer raises NotReady (the camera is gone), it is run again with backoff. Any other
exception ends the process, with a traceback in the log; the agent then starts a new one.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import sys
import threading
import time
from functools import partial
from pkgutil import resolve_name
from queue import Full, Queue

from edge_agent.collectors.sources.protocol import (
    Alive,
    Asked,
    Captured,
    Image,
    Note,
    Omitted,
    Producer,
    Remark,
    Request,
    Skipped,
    Spec,
    State,
    receive,
    send,
)
from shared.backoff import Backoff
from shared.errors import ConfigError, NotReady

MAX_REQUESTS = 100
"""Requests that wait for the producer."""
STEADY_S = 10.0
"""A source that was up this long is opened again without waiting for the grown backoff."""


def serve(channel: socket.socket) -> int:
    """Run the producer named by the first message until its end or the agent's."""
    first = receive(channel)
    if first is None or not isinstance(first[0], Spec):
        return 1
    spec = first[0]
    requests: Queue[Asked] = Queue(MAX_REQUESTS)
    threading.Thread(target=_listen, args=(channel, requests), daemon=True).start()
    try:
        found = resolve_name(spec.producer)
        produce: Producer = partial(found, requests=requests) if spec.interactive else found
    except Exception as error:  # a library of an extra is missing, or a plug-in is broken
        send(channel, State(state="lost", text=f"{spec.producer} cannot be imported ({error})"))
        raise
    return _run(channel, produce, spec)


def _run(channel: socket.socket, produce: Producer, spec: Spec) -> int:
    backoff = Backoff(0.5, 30.0, random.random)
    while True:
        opened = time.monotonic()
        try:
            _deliver(channel, produce, spec)
        except NotReady as error:
            send(channel, State(state="lost", text=error.reason))
        except ConfigError as error:  # such as a password file that is not there yet
            send(channel, State(state="lost", text=str(error)))
        else:
            send(channel, State(state="ended"))
            return 0
        if time.monotonic() - opened > STEADY_S:
            backoff.reset()
        _sleep(channel, backoff.wait())


def _sleep(channel: socket.socket, wait_s: float) -> None:
    """Wait, and say every second that the process is alive."""
    until = time.monotonic() + wait_s
    while (left := until - time.monotonic()) > 0:
        time.sleep(min(1.0, left))
        send(channel, Alive())


def _deliver(channel: socket.socket, produce: Producer, spec: Spec) -> None:
    up = False
    for item in produce(spec.options):
        if not up:
            up = True
            send(channel, State(state="up"))
        if isinstance(item, Captured):
            header = Image(t_us=item.t_us, shape=item.shape, color=item.color, token=item.token, skipped=item.skipped)
            send(channel, header, item.data)
        elif isinstance(item, Skipped):
            send(channel, Omitted(token=item.token, reason=item.reason))
        elif isinstance(item, Note):
            send(channel, Remark(kind=item.kind, data=item.data))
        else:
            send(channel, Alive())


def _listen(channel: socket.socket, requests: Queue[Asked]) -> None:
    """Pass on requests. End this process when the agent closes the socket, also while the producer blocks."""
    try:
        while (got := receive(channel)) is not None:
            if isinstance(got[0], Request):
                with contextlib.suppress(Full):  # nobody takes them; the collector's own deadline reports it
                    requests.put_nowait(Asked(kind=got[0].kind, data=got[0].data))
    finally:
        os._exit(0)


def main() -> int:
    """Entry point."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    channel = socket.socket(fileno=os.dup(0))
    os.dup2(2, 1)
    try:
        return serve(channel)
    except BrokenPipeError:
        return 0


if __name__ == "__main__":
    sys.exit(main())
