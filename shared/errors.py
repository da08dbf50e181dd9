"""Error classes, by who must act.

    TidegateError
    |- WireError     the peer sent something invalid: log it, answer it, never retry
    |- ConfigError   the operator must act: stop at start, exit 78, systemd does not restart
    |- NotReady      a dependency is not available yet: only the runtime retries, after `wait_s`
    `- ModelError    a model cannot be used: keep or restore the last good one

`cloud_hub.errors` adds HubError for REST answers. A library's exceptions are translated in the module that imports
the library.
"""

from __future__ import annotations

EXIT_CONFIG = 78
"""EX_CONFIG of sysexits.h; the systemd units carry RestartPreventExitStatus=78."""


class TidegateError(Exception):
    """Base class of all errors that Tidegate raises."""


class WireError(TidegateError):
    """A peer sent an invalid message. `topic` is where it came from."""

    def __init__(self, reason: str, topic: str = "") -> None:
        super().__init__(f"{topic}: {reason}" if topic else reason)
        self.reason = reason
        self.topic = topic


class ConfigError(TidegateError):
    """Configuration or installation is wrong: `place` names where, `cure` what to do."""

    def __init__(self, place: str, reason: str, cure: str) -> None:
        super().__init__(f"{place}: {reason}{'' if reason.endswith('?') else '.'} {cure}")
        self.place, self.reason, self.cure = place, reason, cure


class NotReady(TidegateError):
    """An external dependency is not available yet; retry after `wait_s` seconds."""

    def __init__(self, reason: str, wait_s: float = 1.0) -> None:
        super().__init__(reason)
        self.reason, self.wait_s = reason, wait_s


class ModelError(TidegateError):
    """A model bundle is broken, unverified or unusable on this device."""
