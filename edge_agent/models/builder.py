"""The process that builds an engine on this device: `python -m edge_agent.models.builder SPEC VARIANT RUNNER`.

It opens the runner with the option `build` and ends; the engine is then in the runner's cache.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from pathlib import Path

import msgspec

from edge_agent.models.loading import open_one, runner_options
from edge_agent.models.wire import Building, Built, Failed, ModelSpec
from edge_agent.models.worker import Send, claim_stdout, sender
from shared.errors import ModelError
from shared.models.bundle import load

NICE = 10
"""The model that serves meanwhile comes first."""


def build(spec: ModelSpec, variant: str, runner: str, send: Send) -> int:
    """Build the engine; returns the exit code."""
    try:
        options = runner_options(spec, build=lambda share, phase: send(Building(round(share, 3), phase)))
        open_one(load(Path(spec.bundle)), variant, runner, options).close()
    except (ModelError, OSError) as error:
        send(Failed(str(error)))
        return 1
    send(Built())
    return 0


def main() -> int:
    """Entry point."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    send = sender(claim_stdout())
    with contextlib.suppress(OSError):
        os.nice(NICE)
    spec = msgspec.json.decode(sys.argv[1], type=ModelSpec)
    return build(spec, sys.argv[2], sys.argv[3], send)


if __name__ == "__main__":
    sys.exit(main())
