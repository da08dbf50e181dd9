"""Errors of engines, by whose fault it is.

NotReady              not available now: try another address, or later
|- EngineUnreachable  no connection, nothing was sent: safe to repeat
|- EngineBusy         too many requests, or a spent quota: wait `wait_s`
`- EngineTimeout      the deadline passed
EngineRefused         the caller's fault: the request must change
EngineBroken          the engine's fault: garbage, half a stream
`- AnswerInvalid      the engine works, but its answer does not fit the request
ConfigError           the operator's fault: key, model or address
"""

from __future__ import annotations

from shared.errors import NotReady, TidegateError, WireError


class EngineUnreachable(NotReady):
    """No connection could be made; nothing was sent."""


class EngineBusy(NotReady):
    """The engine limits requests, or the account's quota is used up; it says for how long."""


class EngineTimeout(NotReady):
    """There was no complete answer before the deadline."""


class EngineRefused(TidegateError):
    """The engine refuses the request. `detail` is the engine's own text: for the caller, never for a log."""

    def __init__(self, status: int, reason: str, detail: str = "") -> None:
        super().__init__(reason)
        self.status, self.reason, self.detail = status, reason, detail


class EngineBroken(WireError):
    """The engine's answer cannot be used."""

    def __init__(self, reason: str, engine: str = "") -> None:
        super().__init__(reason, engine)


class AnswerInvalid(EngineBroken):
    """A complete answer that does not fit the request's schema or tools. The address is well: others may ask it."""
