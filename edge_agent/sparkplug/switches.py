"""The file of the local switches for writes. Only `tidegate-edge write` changes it; the agent reads it.

There is no command, desired state or setting that changes it, so the hub cannot. A file that is missing, damaged or
unreadable means that all writes are off.
"""

from __future__ import annotations

import fcntl
import getpass
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import msgspec

from edge_agent import clock
from edge_agent.sparkplug.core.switches import MAX_S, Switch, is_on
from shared.errors import TidegateError

FILE = "write-switches.json"
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
MAX_BYTES = 1 << 20


def boot_id() -> str:
    """The id of this start of the machine; '' where the kernel has none."""
    try:
        return BOOT_ID.read_text("ascii").strip()
    except OSError:
        return ""


class SwitchFile:
    """The switches in the state directory `folder`."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE
        self.problem = ""
        """Why the file cannot be used, or ''."""
        self._seen: tuple[int, ...] | None = None
        self._switches: dict[str, Switch] = {}

    def read(self) -> Mapping[str, Switch]:
        """All switches by metric, also expired ones."""
        try:
            found = self.path.stat()
            seen = (found.st_mtime_ns, found.st_ino, found.st_size)
            if seen != self._seen:
                self._seen, self._switches, self.problem = seen, {}, ""
                self._switches = self._load(found.st_size)
        except FileNotFoundError:
            self._seen, self._switches, self.problem = None, {}, ""
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            self._switches, self.problem = {}, f"{self.path} cannot be read ({error}); all writes are off"
        return self._switches

    def enabled(self, metric: str) -> bool:
        """Whether writes to `metric` are enabled now."""
        return self.is_on(self.read().get(metric))

    @staticmethod
    def is_on(switch: Switch | None) -> bool:
        """Whether this switch is on now."""
        return is_on(switch, clock.now_us(), boot_id(), clock.boottime_s())

    def enable(self, metrics: list[str], for_s: float, reason: str = "") -> None:
        """Enable writes to `metrics` for `for_s` seconds; raises ValueError, or TidegateError on a disk error."""
        if not 0 < for_s <= MAX_S:
            raise ValueError(f"writes can be enabled for at most {MAX_S / 86400:g} days, not {for_s / 86400:g} days")
        now_us = clock.now_us()
        with self._locked():
            switches = dict(self.read())
            for metric in metrics:
                switches[metric] = Switch(
                    metric=metric, since_us=now_us, until_us=now_us + int(for_s * 1e6), boot_id=boot_id(),
                    boot_s=clock.boottime_s(), by=_user(), reason=reason[:200],
                )  # fmt: skip
            self._store(switches)

    def disable(self, metrics: list[str] | None = None) -> list[str]:
        """Disable writes to `metrics`, to all if None; returns what was enabled. Works on a damaged file."""
        with self._locked():
            switches = dict(self.read())
            gone = [name for name, found in switches.items() if (metrics is None or name in metrics)]
            was_on = [name for name in gone if self.is_on(switches[name])]
            self._store({name: found for name, found in switches.items() if name not in gone})
        return was_on

    def _load(self, size: int) -> dict[str, Switch]:
        if size > MAX_BYTES:
            raise msgspec.ValidationError(f"it has {size} bytes")
        found = msgspec.json.decode(self.path.read_bytes(), type=list[Switch])
        return {switch.metric: switch for switch in found}

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Let one process at a time change the file."""
        try:
            handle = os.open(self.path.with_suffix(".lock"), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except OSError as error:
            cure = "Be the agent's user, or root, and start the agent once"
            raise TidegateError(f"{self.path} cannot be changed ({error.strerror}). {cure}") from error
        try:
            self._give_to_owner(handle)
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)

    def _give_to_owner(self, handle: int) -> None:
        """Let the agent, which does not run as root, use what root has made in its folder."""
        if os.geteuid() == 0:
            owner = self.path.parent.stat()
            os.fchown(handle, owner.st_uid, owner.st_gid)

    def _store(self, switches: Mapping[str, Switch]) -> None:
        """Replace the file atomically; durable when this returns."""
        draft = self.path.with_suffix(".new")
        try:
            handle = os.open(draft, os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_CLOEXEC, 0o600)
            try:
                os.write(handle, msgspec.json.encode(list(switches.values())))
                self._give_to_owner(handle)
                os.fsync(handle)
            finally:
                os.close(handle)
            draft.replace(self.path)
        except OSError as error:
            raise TidegateError(f"{self.path} cannot be written ({error}). Be the agent's user, or root") from error


def _user() -> str:
    """The user of the operating system, for the record."""
    name = os.environ.get("SUDO_USER")
    if name and os.geteuid() == 0:
        return name
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return str(os.getuid())
