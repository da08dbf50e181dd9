"""The simulated engine leaves no socket behind, wherever its stop meets a connection."""

from __future__ import annotations

import gc
import socket
import ssl
import warnings

import pytest
from simulators.openai_server import Behaviour, OpenAIServer

BODY = b'{"model":"glm-simulated","stream":true,"messages":[{"role":"user","content":"x"}]}'
REQUEST = b"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: %d\r\n\r\n%b" % (len(BODY), BODY)


@pytest.mark.parametrize(("behaviour", "tls"), [("good", False), ("stalls", False), ("pauses", False), ("good", True)])
def test_a_stop_closes_every_connection(behaviour: Behaviour, tls: bool) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER) if tls else None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(5):
            with OpenAIServer(behaviour=behaviour, tls=context) as server:
                clients = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(20)]
                for client in clients:
                    client.sendall(REQUEST if not tls else b"\x16")
            for client in clients:
                client.close()
        gc.collect()
    assert [str(warning.message) for warning in caught] == []
