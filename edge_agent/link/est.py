"""Asks the hub's REST for its time and for certificates (RFC 7030's forms), over TLS that needs no right clock.

The handshake proves chain and name against the pinned CA; then the hub's signed time, asked with a fresh nonce, says
whether the server's certificate is good today; only after that anything is told or taken.
"""

from __future__ import annotations

import http.client
import secrets
import ssl
from base64 import b64decode, b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import pkcs7

from edge_agent.link.pki import signing_key_of
from shared import signatures
from shared.codec import decode
from shared.errors import ConfigError, NotReady, TidegateError, WireError
from shared.tls import check_dates, client_context

EST = "/.well-known/est"
REENROLL = f"{EST}/simplereenroll"
TIMEOUT_S = 15.0
MAX_ANSWER = 65536
LOOPBACK = {"localhost", "127.0.0.1", "::1"}


class EnrolmentRefused(TidegateError):
    """The hub said no; trying again does not help. `status` is its HTTP status."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class HubClient:
    """One connection to a hub whose time is known. Made by `connect`. Of an answer `most` bytes are read."""

    def __init__(self, connection: http.client.HTTPConnection) -> None:
        self._connection = connection
        self.t_us, self.max_bytes = 0, MAX_ANSWER

    def request(self, method: str, path: str, body: bytes = b"", **headers: str) -> tuple[bytes, str]:
        """(body, signature) of the hub's answer; raises Refused, or NotReady for what passes."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        self._connection.request(method, path, body or None, sent)
        answer = self._connection.getresponse()
        content = answer.read(self.max_bytes)
        if answer.status == 200:
            return content, answer.headers.get(signatures.SIGNATURE_HEADER, "")
        reason = f"the hub answered {answer.status}: {_detail(content)}"
        if answer.status == 429 or answer.status >= 500:
            raise NotReady(reason, 60.0)
        raise EnrolmentRefused(answer.status, reason)

    def enrol(self, device: str, claim: str, request: bytes) -> x509.Certificate:
        """The first certificate, for a claim."""
        basic = b64encode(f"{device}:{claim}".encode()).decode()
        body = b64encode(request)
        return _certificate(self.request("POST", f"{EST}/simpleenroll", body, Authorization=f"Basic {basic}",
                                     Content_Type="application/pkcs10")[0])  # fmt: skip

    def renew(self, body: bytes, proof: str) -> x509.Certificate:
        """The next one, for a proof by the device's key over `body`, which is base64."""
        headers = {signatures.PROOF_HEADER: proof, "Content-Type": "application/pkcs10"}
        return _certificate(self.request("POST", REENROLL, body, **headers)[0])


@contextmanager
def connect(url: str, ca: str, signing: ed25519.Ed25519PublicKey | None = None) -> Iterator[tuple[HubClient, bytes]]:
    """A hub that proved itself, and its signing certificate where `signing` was not known yet.

    Raises ConfigError (URL), NotReady (not there, or not proven), WireError, Refused.
    """
    connection = connection_to(url, ca)
    try:
        connection.connect()
        hub, pem = HubClient(connection), b""
        if signing is None:
            pem, _ = hub.request("GET", "/.well-known/tidegate/signing")
            signing = signing_key_of(pem, Path(ca).read_bytes())
        hub.t_us = _time(hub, signing)
        if isinstance(connection, http.client.HTTPSConnection):
            check_dates(connection.sock, hub.t_us)
        yield hub, pem
    except ssl.SSLCertVerificationError as error:
        raise NotReady(f"{url} is not proven: {getattr(error, 'verify_message', '') or error}", 60.0) from error
    except (OSError, http.client.HTTPException) as error:
        raise NotReady(f"{url}: {type(error).__name__}: {error}", 10.0) from error
    finally:
        connection.close()


def connection_to(url: str, ca: str, *, own_clock: bool = False) -> http.client.HTTPConnection:
    """Not connected yet. Without `own_clock` the caller must check the certificate's dates. Raises ConfigError."""
    parts = urlsplit(url)
    if not parts.hostname or parts.scheme not in {"https", "http"}:
        raise ConfigError("--url", f"'{url}' is no address", "Write for example: https://hub.plant.example:8443")
    if parts.scheme == "https":
        context = client_context(ca, own_clock=own_clock)
        return http.client.HTTPSConnection(parts.hostname, parts.port, timeout=TIMEOUT_S, context=context)
    if parts.hostname not in LOOPBACK:
        raise ConfigError("--url", f"'{url}' is not protected", "Write https://; the hub needs [rest.tls]")
    return http.client.HTTPConnection(parts.hostname, parts.port, timeout=TIMEOUT_S)


def _time(hub: HubClient, signing: ed25519.Ed25519PublicKey) -> int:
    nonce = secrets.token_urlsafe(24)
    body, signature = hub.request("GET", f"/.well-known/tidegate/time?nonce={nonce}")
    try:
        signing.verify(signatures.unpack(signature), signatures.time_message(body))
    except (InvalidSignature, ValueError) as error:
        raise WireError("the hub's time is not signed by the hub that this device knows") from error
    said = decode(dict[str, int | str], body)
    if said.get("nonce") != nonce or not isinstance(said.get("t_us"), int):
        raise WireError("the hub's time is no answer to this question")
    return int(said["t_us"])


def _certificate(content: bytes) -> x509.Certificate:
    try:
        (certificate,) = pkcs7.load_der_pkcs7_certificates(b64decode(content))
    except ValueError as error:
        raise WireError("the hub sent no certificate") from error
    return certificate


def _detail(content: bytes) -> str:
    try:
        return str(decode(dict[str, object], content).get("detail", ""))[:300]
    except WireError:
        return ""
