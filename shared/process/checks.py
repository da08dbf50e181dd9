"""Helpers for the `check` subcommand of both programs: findings, and calls with a time limit."""

from __future__ import annotations

import os
import socket
import ssl
import tempfile
import threading
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from shared.process.terminal import printable
from shared.transport.tls import TlsVersion, client_context

T = TypeVar("T")

RESOLVE_S, CONNECT_S = 5.0, 3.0


@dataclass(slots=True)
class Findings:
    """Problems and warnings, each with its cure. A problem prevents the program from working; a warning does not."""

    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """The findings as printed, one line each."""
        kinds = (("problem", self.problems), ("warning", self.warnings))
        return [f"{kind}: {printable(' '.join(line.split()))}" for kind, lines in kinds for line in lines]


def write_error(folder: Path) -> str:
    """Why the current user can neither write to nor create `folder`, or ''. Leaves nothing behind."""
    there = next((path for path in (folder, *folder.parents) if path.exists()), Path("/"))
    if not there.is_dir():
        return f"{there} is no folder"
    if there != folder:
        return "" if os.access(there, os.W_OK | os.X_OK) else f"{there} does not let this user make it"
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"x")
    except OSError as error:
        return error.strerror or str(error)
    return ""


def run_with_timeout(limit_s: float, call: Callable[[], T]) -> T:
    """Run `call` with a time limit; raises TimeoutError after `limit_s`. A hanging call stays in a daemon thread."""
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(call())
        except BaseException as error:  # noqa: BLE001 - raised in the caller's thread
            errors.append(error)

    thread = threading.Thread(target=run, name="check", daemon=True)
    thread.start()
    thread.join(limit_s)
    if errors:
        raise errors[0]
    if not results:
        raise TimeoutError(f"no answer within {limit_s:g} s")
    return results[0]


def connection_error(address: tuple[str, int], tls: tuple[str, str, str] | None, minimum: TlsVersion = "1.3") -> str:
    """Try to connect to a server; returns the reason why it fails, or ''. `tls` are PEM files: CA, certificate, key.

    In TLS 1.3 the server rejects a client certificate only after the handshake, so one byte is read as well.
    """
    host, port = address
    try:
        run_with_timeout(RESOLVE_S, lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
    except (OSError, UnicodeError) as error:  # a TimeoutError is an OSError
        return f"'{host}' cannot be resolved ({error}). Correct the name, or see to this machine's DNS"
    try:
        with socket.create_connection(address, CONNECT_S) as plain:
            if tls is not None:
                with closing(client_context(*tls, minimum=minimum).wrap_socket(plain, server_hostname=host)) as secured:
                    secured.settimeout(0.5)
                    with suppress(TimeoutError):
                        secured.recv(1)
    except ssl.SSLError as error:
        reason = getattr(error, "verify_message", "") or error.reason or error
        cure = "Compare the CA and the names of both certificates"
        if "PROTOCOL" in str(error.reason):
            cure = f"It speaks no TLS {minimum}"
        return f"{host}:{port} and this machine do not trust each other ({reason}). {cure}"
    except OSError as error:
        return f"no broker answers on {host}:{port} ({error}). Is it running, and is this its address?"
    return ""
