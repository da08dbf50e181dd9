"""Runs a program that speaks JSON lines on stdin and stdout, such as a node made with another Sparkplug library."""

from __future__ import annotations

import json
import queue
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from cloud_hub.demo.client import ActFailed, ActLate

INTERPRETER = Path(__file__).parents[2] / ".venv-interop" / "bin" / "python"
"""The interpreter that has pysparkplug; only in a checkout, where `make demo` and `make test` make it."""
Line = dict[str, Any]


class Peer:
    """A running program; also a context manager, which ends it. `seen` are the lines read so far."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
        self.seen: list[Line] = []
        self._lines: queue.Queue[Line | None] = queue.Queue()
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, start_new_session=True
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(json.loads(line))
        self._lines.put(None)

    def send(self, **request: Any) -> None:
        """Write one line. Raises ActFailed if the program has ended."""
        try:
            assert self._process.stdin is not None
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except (BrokenPipeError, ValueError) as error:
            raise ActFailed(f"{self._process.args!s} has ended: {error}") from error

    def read(self, wait_s: float = 20.0) -> Line:
        """The next line. Raises ActLate if none comes, ActFailed if the program has ended."""
        try:
            line = self._lines.get(timeout=max(wait_s, 0))
        except queue.Empty:
            raise ActLate(f"no line within {wait_s:g} s; the last ones: {self.seen[-3:]}") from None
        if line is None:
            raise ActFailed(f"the program ended with code {self._process.wait(5)}; its last lines: {self.seen[-3:]}")
        self.seen.append(line)
        return line

    def wait_for(self, event: str, wait_s: float = 20.0, **fields: Any) -> Line:
        """The next line with this `event` and these fields; others are passed over."""
        return self.wait_until(
            f"{event} {fields or ''}",
            lambda line: line.get("event") == event and all(line.get(key) == value for key, value in fields.items()),
            wait_s,
        )

    def wait_until(self, what: str, wanted: Callable[[Line], bool], wait_s: float = 20.0) -> Line:
        """The next line that is `wanted`; others are passed over. Raises ActLate naming `what`."""
        deadline = time.monotonic() + wait_s
        while True:
            try:
                line = self.read(deadline - time.monotonic())
            except ActLate as error:
                raise ActLate(f"{what}: not within {wait_s:g} s; {error}") from None
            if wanted(line):
                return line

    def ask(self, **request: Any) -> Line:
        """One request and its answer, for programs that answer each line with one."""
        self.send(**request)
        return self.read()

    def kill(self) -> None:
        """Power off."""
        self._process.kill()
        self._process.wait(10)

    def stop(self) -> None:
        """Close its input, on which it ends; kill it if it does not."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self.kill()
        self._reader.join(10)
        self._process.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
