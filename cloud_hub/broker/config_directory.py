"""Writes the configuration directory of a mosquitto: configuration, access list, certificate and CRL.

Root writes it for mosquitto's user; otherwise the user who runs mosquitto does. Raises ConfigError.
"""

from __future__ import annotations

import os
import pwd
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cloud_hub.broker.core.mosquitto import (
    BrokerPlan,
    extract_grants,
    render_access_list,
    render_configuration,
    store_damage,
)
from cloud_hub.certificates.core.authority import Issued
from cloud_hub.certificates.files import CaFolder, write_file
from shared.errors import ConfigError

RULES = "access.acl"
PID = "data/mosquitto.pid"
STORE = "data/mosquitto.db"


def setup(plan: BrokerPlan, ca: CaFolder, issued: Issued) -> None:
    """Write everything; an older access list's grants are kept, everything else is as new."""
    folder = Path(plan.folder)
    with _translated(folder):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)
        (folder / "data").mkdir(mode=0o700, exist_ok=True)
        old = folder / RULES
        texts = {
            "mosquitto.conf": render_configuration(plan),
            RULES: render_access_list(plan, extract_grants(old.read_text("utf-8")) if old.exists() else ""),
        }
        for path in (folder, folder / "data"):
            _give(path, plan.user)
        files = {"broker.pem": issued.certificate, "broker.key": issued.key, **_of(ca)}
        for name, content in (files | {name: text.encode() for name, text in texts.items()}).items():
            write_file(folder / name, content, secret=True)
            _give(folder / name, plan.user)


def write_hub_certificate(ca: CaFolder, issued: Issued, name: str = "mqtt") -> dict[str, Path]:
    """Write a certificate of the hub beside its CA; returns what [mqtt.tls], or that of a Sparkplug server, names."""
    paths = {"ca": ca.certificate, "certificate": ca.path / f"{name}.pem", "key": ca.path / f"{name}.key"}
    owner = ca.path.stat()
    with _translated(ca.path):
        for path, content in ((paths["certificate"], issued.certificate), (paths["key"], issued.key)):
            write_file(path, content, secret=True)
            if os.geteuid() == 0:
                os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)
    return paths


def edit_access_list(folder: Path, paragraph: str, *, there: bool = True) -> bool:
    """Have a `grant` or `denial` in the access list, or have it not; False where that was so already."""
    with _translated(folder):
        path = folder / RULES
        text = path.read_text("utf-8")
        if (paragraph in text) == there:
            return False
        _replace(path, (text + paragraph if there else text.replace(paragraph, "")).encode())
    return True


def reload(folder: Path, ca: CaFolder) -> None:
    """Hand over the CA's newest list of revoked certificates, and tell mosquitto to read its lists again.

    A process that took the number of a mosquitto that was killed is left alone.
    """
    with _translated(folder):
        for name, content in _of(ca).items():
            _replace(folder / name, content)
        file = folder / PID
        pid = int(file.read_text("ascii")) if file.exists() else 0
        if not pid or Path(f"/proc/{pid}/comm").read_text("utf-8").strip() != "mosquitto":
            raise LookupError("the lists are written, but no mosquitto runs here. Start it: it reads them")
        os.kill(pid, signal.SIGHUP)


def find_damage(folder: Path) -> list[str]:
    """What keeps mosquitto from starting with this folder's store, and how to go on."""
    store = folder / STORE
    with _translated(folder):
        reason = store_damage(store.read_bytes()) if store.exists() else ""
    if not reason:
        return []
    lost = "Lost with it are queues and retained births: devices are born anew, and send again what no hub acknowledged"
    return [f"{store} {reason}: mosquitto does not start with it. Run: mv {store} {store}.damaged; start it. {lost}"]


def _of(ca: CaFolder) -> dict[str, bytes]:
    return {"ca.pem": ca.certificate.read_bytes(), "crl.pem": ca.crl.read_bytes()}


def _replace(path: Path, content: bytes) -> None:
    """Another content, the same owner."""
    owner = path.stat()
    write_file(path, content, secret=True)
    if os.geteuid() == 0:
        os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)


def _give(path: Path, user: str) -> None:
    """Root's chown follows no link: whoever has mosquitto's rights must not be given a file elsewhere."""
    if os.geteuid() == 0:
        entry = pwd.getpwnam(user)
        os.chown(path, entry.pw_uid, entry.pw_gid, follow_symlinks=False)


@contextmanager
def _translated(folder: Path) -> Iterator[None]:
    """Turn errors into ConfigError with the place and the remedy."""
    try:
        yield
    except (ValueError, LookupError) as error:
        raise ConfigError(str(folder), str(error), "Nothing else was changed") from error
    except OSError as error:
        cure = "Run it as root, or as the user that mosquitto runs as; `broker setup` makes the folder"
        raise ConfigError(str(folder), f"cannot be used ({error.strerror}: {error.filename})", cure) from error
