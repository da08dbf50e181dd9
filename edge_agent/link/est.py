"""Client of the hub's time and certificate API (EST, RFC 7030), over TLS that does not need a correct clock.

The handshake verifies chain and name against the pinned CA. Then the hub's signed time, requested with a new nonce,
is used to check the dates of the server's certificate. Nothing else is exchanged before that.
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
from shared.errors import ConfigError, NotReady, TidegateError, WireError
from shared.protocol import signatures
from shared.protocol.codec import decode
from shared.transport.tls import check_dates, client_context

EST = "/.well-known/est"
REENROLL = f"{EST}/simplereenroll"
TIMEOUT_S = 15.0
MAX_ANSWER = 65536
LOOPBACK = {"localhost", "127.0.0.1", "::1"}


class EnrolmentRefused(TidegateError):
    """The hub refused the request; a retry is useless. `status` is the HTTP status."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class HubClient:
    """A connection to a hub, made by `connect`. `t_us` is the hub's time; of a response `max_bytes` are read."""

    def __init__(self, connection: http.client.HTTPConnection) -> None:
        self._connection = connection
        self.t_us, self.max_bytes = 0, MAX_ANSWER

    def request(self, method: str, path: str, body: bytes = b"", **headers: str) -> tuple[bytes, str]:
        """(body, signature) of the hub's response; raises EnrolmentRefused, or NotReady for temporary errors."""
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
        """Request the first certificate with a claim."""
        basic = b64encode(f"{device}:{claim}".encode()).decode()
        body = b64encode(request)
        return _certificate(self.request("POST", f"{EST}/simpleenroll", body, Authorization=f"Basic {basic}",
                                     Content_Type="application/pkcs10")[0])  # fmt: skip

    def renew(self, body: bytes, proof: str) -> x509.Certificate:
        """Request the next certificate with a proof by the device's key over `body`, which is base64."""
        headers = {signatures.PROOF_HEADER: proof, "Content-Type": "application/pkcs10"}
        return _certificate(self.request("POST", REENROLL, body, **headers)[0])


@contextmanager
def connect(url: str, ca: str, signing: ed25519.Ed25519PublicKey | None = None) -> Iterator[tuple[HubClient, bytes]]:
    """Connect to a hub and authenticate it. Yields the client, and the signing certificate if `signing` is None.

    Raises ConfigError (URL), NotReady (unreachable or not authenticated), WireError, EnrolmentRefused.
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
    """An HTTP connection, not yet connected. Without `own_clock` the caller must check the certificate's dates. Raises
    ConfigError."""
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
    answer = decode(dict[str, int | str], body)
    if answer.get("nonce") != nonce or not isinstance(answer.get("t_us"), int):
        raise WireError("the hub's time is no answer to this question")
    return int(answer["t_us"])


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
