"""The hub's background work: named loops, each a step that reads the database, so that a restart loses nothing."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from shared.errors import NotReady

log = logging.getLogger(__name__)


class Loop:
    """Calls `step` when rung, and at least every `period_s` seconds. A failing step is logged and tried again.

    It waits `linger_s` after a ring, so that a burst of rings is one step and the ringer is not held up by it.
    """

    def __init__(self, name: str, step: Callable[[], None], period_s: float, linger_s: float = 0.0) -> None:
        self.name, self._step, self._period_s, self._linger_s = name, step, period_s, linger_s
        self._bell, self._stopping = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"loop-{name}", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def ring(self) -> None:
        """There is work: do not wait for the period."""
        self._bell.set()

    def stop(self) -> None:
        """End after the step that runs."""
        self._stopping.set()
        self._bell.set()
        self._thread.join(10)

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._bell.wait(self._period_s)
            self._stopping.wait(self._linger_s)
            self._bell.clear()
            if self._stopping.is_set():
                return
            try:
                self._step()
            except NotReady as error:
                log.warning("loop.not_ready", extra={"fields": {"loop": self.name, "reason": error.reason}})
                self._stopping.wait(error.wait_s)
            except Exception:
                log.exception("loop.failed", extra={"fields": {"loop": self.name}})
                self._stopping.wait(1.0)
