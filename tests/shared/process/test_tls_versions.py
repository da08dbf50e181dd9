"""A plant's broker without TLS 1.3 is reached only where the configuration allows 1.2."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from simulators.certificates import certificates

from shared.process.checks import connection_error


@pytest.fixture
def old_server(tmp_path: Path) -> Iterator[tuple[str, int]]:
    """A server whose newest version is TLS 1.2; its CA is `ca.pem` in the test's folder."""
    certificates(tmp_path, "broker")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "broker.pem", tmp_path / "broker.key")
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            while True:
                try:
                    plain, _ = listening.accept()
                except OSError:
                    return
                try:
                    with context.wrap_socket(plain, server_side=True) as secured:
                        secured.recv(1)
                except OSError:
                    plain.close()

        thread = threading.Thread(target=serve)
        thread.start()
        yield "localhost", listening.getsockname()[1]
        listening.shutdown(socket.SHUT_RDWR)
    thread.join(5)


def test_a_server_with_tls_1_2_alone_is_refused_unless_it_is_allowed(
    old_server: tuple[str, int], tmp_path: Path
) -> None:
    files = (str(tmp_path / "ca.pem"), "", "")
    assert "It speaks no TLS 1.3" in connection_error(old_server, files)
    assert connection_error(old_server, files, "1.2") == ""
