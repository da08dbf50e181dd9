"""A REST client for the demo, and waiting for conditions."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import httpx

from shared.errors import TidegateError

T = TypeVar("T")


class ActFailed(TidegateError):
    """An act failed; the text describes what was observed."""


class ActLate(ActFailed):
    """A condition was not met in time; on a busy machine the act is skipped."""


class ActSkipped(TidegateError):
    """An act cannot run on this machine. `lines` hold the partial results."""

    def __init__(self, reason: str, lines: Sequence[str] = ()) -> None:
        super().__init__(reason)
        self.lines = list(lines)


def busy(load: float, processors: int) -> str:
    """A description of an overloaded machine (by its one-minute load average), or ''."""
    return f"load {load:.1f} on {processors} processors" if load > processors else ""


class Client:
    """REST of one hub. Answers are decoded JSON; a failed request raises ActFailed."""

    def __init__(self, base: str, token: str) -> None:
        self.base, self.token = base, token
        self._http = httpx.Client(base_url=base, headers={"Authorization": f"Bearer {token}"}, timeout=10)

    def call(self, method: str, path: str, body: Any = None, **query: Any) -> Any:
        """One request below /api/v1."""
        try:
            answer = self._http.request(method, f"/api/v1{path}", json=body, params=query)
        except httpx.HTTPError as error:
            raise ActFailed(f"{method} {path}: {error}") from error
        if answer.is_error:
            raise ActFailed(f"{method} {path}: {answer.status_code} {answer.text[:300]}")
        return answer.json()

    def get(self, path: str, **query: Any) -> Any:
        """GET below /api/v1."""
        return self.call("GET", path, None, **query)

    def reported(self, device: str, name: str = "") -> dict[str, Any]:
        """The reported part of a twin document; empty while there is none."""
        try:
            twin = self.get(f"/devices/{device}/twin/name/{name}" if name else f"/devices/{device}/twin")
        except ActFailed:
            return {}
        reported: dict[str, Any] = twin["state"].get("reported", {})
        return reported

    def close(self) -> None:
        """Close the connections."""
        self._http.close()


def until(what: str, seen: Callable[[], T | None], wait_s: float, every_s: float = 0.1) -> T:
    """Call `seen` until its result is true, at most `wait_s` seconds; raises ActLate naming `what`."""
    deadline = time.monotonic() + wait_s
    last = ""
    while time.monotonic() < deadline:
        try:
            result = seen()
        except ActFailed as error:
            last = f" ({error})"
        else:
            if result:
                return result
        time.sleep(every_s)
    raise ActLate(f"{what}: not within {wait_s:g} s{last}")
