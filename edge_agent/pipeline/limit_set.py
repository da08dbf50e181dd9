"""Applies the desired set of limits: inline in the twin, or a file that the twin refers to and that is downloaded.

The last set in force is stored on disk. After a restart it is in force until the desired file is available, with or
without a network (invariant P6).
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
"""Downloads a file, then calls back with (content, '') or (b'', reason). A later call cancels this one."""


class LimitSet:
    """Handles desired `limits`; `again` makes the twin call `desired` again, in the agent's thread."""

    def __init__(self, rules: LimitRules, file: Path, fetch: Fetch, again: Callable[[], None]) -> None:
        self._rules, self._file, self._fetch, self._again = rules, file, fetch, again
        self._good, self._downloaded = self._load(), b""
        self._requested, self._failed = "", ("", "")
        self._applied = False

    def desired(self, wanted: Any) -> Any:
        """Apply a set of limits atomically; raises ValueError, or Deferred while its file is downloaded."""
        if not isinstance(wanted, dict):
            self._use(wanted)
            self._keep(encode(wanted))
            return wanted
        reference = from_plain(Reference, wanted)
        content = next((found for found in (self._downloaded, self._good) if reference.names(found)), b"")
        if not content:
            self._download(reference)
        self._use(_entries(content))
        self._keep(content)
        return wanted

    def _use(self, wanted: Any) -> None:
        self._rules.desired_limits(wanted)
        self._applied = True

    def _download(self, reference: Reference) -> None:
        """Start the download; meanwhile the stored set is in force. Raises Deferred, or ValueError after a failure."""
        if self._failed[0] == reference.digest:
            reason, self._failed = self._failed[1], ("", "")
            raise ValueError(reason)
        if not self._applied and self._good:
            self._use(_entries(self._good))
        if self._requested != reference.digest:
            self._requested = reference.digest
            self._fetch(reference, lambda content, reason: self._received(reference, content, reason))
        raise Deferred(f"{reference.size} bytes are fetched from the hub")

    def _received(self, reference: Reference, content: bytes, reason: str) -> None:
        if self._requested != reference.digest:  # another file is desired now
            return
        self._requested = ""
        if not reason and not reference.names(content):
            reason = f"the file is not the one that the hub named ({reference.digest[:19]}, {reference.size} bytes)"
        if reason:
            self._failed = (reference.digest, reason)
        else:
            self._downloaded = content
        self._again()

    def _load(self) -> bytes:
        try:
            content = self._file.read_bytes()
            _entries(content)
        except (OSError, ValueError):
            return b""
        return content

    def _keep(self, content: bytes) -> None:
        """Store the set on disk, atomically. A failure is logged; it matters only for a restart without the hub."""
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
    """Handle desired `limits` and `alarm_rules`; until there are any, those of the configuration are in force. Raises
    ConfigError."""
    if reason := rules.use_limits(config.limits):
        raise ConfigError("limits", reason, "Keep [[limits]] within [[hard_limits]]")
    limits = LimitSet(rules, file, fetch, lambda: twin.retry("thresholds", "limits"))
    twin.handle("thresholds", "limits", limits.desired, own=[plain(entry) for entry in config.limits])
    twin.handle("thresholds", "alarm_rules", rules.desired_rules, own=plain(config.alarm_rules))


def _entries(content: bytes) -> list[dict[str, Any]]:
    try:
        found = decode(list[dict[str, Any]], content)
        from_plain(list[Limits], found)
    except WireError as error:
        raise ValueError(f"the file holds no limits: {error}") from error
    return found
