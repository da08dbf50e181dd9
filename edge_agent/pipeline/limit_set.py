"""The set of limits that the hub desires: in the twin itself, or a file that the twin names and another thread fetches.

The last set that was in force is kept on disk. Where the file that is desired now has not come
yet, or the disk lost it, that one counts until it does, network or not (invariant P6).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edge_agent.config import Config
from edge_agent.pipeline.core.limit_rules import LimitRules
from edge_agent.twin.core.document import Deferred
from edge_agent.twin.sync import TwinSync
from shared.codec import decode, encode, from_plain, plain
from shared.content_reference import Reference
from shared.errors import ConfigError, WireError
from shared.thresholds import Limits

log = logging.getLogger(__name__)

Fetch = Callable[[Reference, Callable[[bytes, str], None]], None]
"""Fetches a file, then calls with (content, '') or (b'', why it is not to be had); a later call gives up this one."""


class LimitSet:
    """Handles desired `limits`; `again` asks for it once more, in the agent's thread."""

    def __init__(self, rules: LimitRules, file: Path, fetch: Fetch, again: Callable[[], None]) -> None:
        self._rules, self._file, self._fetch, self._again = rules, file, fetch, again
        self._good, self._came_last = self._kept(), b""
        self._asked, self._wrong = "", ("", "")
        self._began = False

    def desired(self, wanted: Any) -> Any:
        """Put a set in force, whole or not at all; raises ValueError, or Later while its file is fetched."""
        if not isinstance(wanted, dict):
            self._use(wanted)
            self._keep(encode(wanted))
            return wanted
        reference = from_plain(Reference, wanted)
        content = next((one for one in (self._came_last, self._good) if reference.names(one)), b"")
        if not content:
            self._wait(reference)
        self._use(_entries(content))
        self._keep(content)
        return wanted

    def _use(self, wanted: Any) -> None:
        self._rules.desired_limits(wanted)
        self._began = True

    def _wait(self, reference: Reference) -> None:
        """Fetch it; what was good before this boot is in force meanwhile."""
        if self._wrong[0] == reference.digest:
            reason, self._wrong = self._wrong[1], ("", "")
            raise ValueError(reason)
        if not self._began and self._good:
            self._use(_entries(self._good))
        if self._asked != reference.digest:
            self._asked = reference.digest
            self._fetch(reference, lambda content, reason: self._came(reference, content, reason))
        raise Deferred(f"{reference.size} bytes are fetched from the hub")

    def _came(self, reference: Reference, content: bytes, reason: str) -> None:
        if self._asked != reference.digest:  # another one is wanted by now
            return
        self._asked = ""
        if not reason and not reference.names(content):
            reason = f"the file is not the one that the hub named ({reference.digest[:19]}, {reference.size} bytes)"
        if reason:
            self._wrong = (reference.digest, reason)
        else:
            self._came_last = content
        self._again()

    def _kept(self) -> bytes:
        try:
            content = self._file.read_bytes()
            _entries(content)
        except (OSError, ValueError):
            return b""
        return content

    def _keep(self, content: bytes) -> None:
        """On disk, whole or not at all. A full disk costs what a restart without the hub would need, no more."""
        self._good = content
        try:
            if self._file.exists() and self._file.read_bytes() == content:
                return
            new = self._file.with_suffix(".new")
            with new.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            new.replace(self._file)
        except OSError as error:
            log.error("limits.not_kept", extra={"fields": {"reason": str(error)}})


def register_rules(twin: TwinSync, rules: LimitRules, config: Config, file: Path, fetch: Fetch) -> None:
    """Handle desired `limits` and `watches`; the ones of the configuration hold until then. Raises ConfigError."""
    if reason := rules.use_limits(config.limits):
        raise ConfigError("limits", reason, "Keep [[limits]] within [[hard_limits]]")
    limits = LimitSet(rules, file, fetch, lambda: twin.retry("thresholds", "limits"))
    twin.handle("thresholds", "limits", limits.desired, own=[plain(entry) for entry in config.limits])
    twin.handle("thresholds", "watches", rules.desired_rules, own=plain(config.watches))


def _entries(content: bytes) -> list[dict[str, Any]]:
    try:
        found = decode(list[dict[str, Any]], content)
        from_plain(list[Limits], found)
    except WireError as error:
        raise ValueError(f"the file holds no limits: {error}") from error
    return found
