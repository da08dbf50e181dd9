"""TLS client contexts with a pinned CA; 1.3 unless a foreign broker has only 1.2.

Certificate dates are checked against the system clock or a given time."""

from __future__ import annotations

import ssl
from typing import Any, Literal

TlsVersion = Literal["1.2", "1.3"]

_NO_CHECK_TIME = 0x200000
"""OpenSSL's X509_V_FLAG_NO_CHECK_TIME (x509_vfy.h): check everything except the dates."""


def client_context(
    ca: str, certificate: str = "", key: str = "", *, own_clock: bool = True, minimum: TlsVersion = "1.3"
) -> ssl.SSLContext:
    """A context that trusts only `ca` and speaks TLS `minimum` or newer.

    Without `own_clock` the caller must call `check_dates` after the handshake."""
    context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=ca)
    context.minimum_version = ssl.TLSVersion.TLSv1_2 if minimum == "1.2" else ssl.TLSVersion.TLSv1_3
    if certificate:
        context.load_cert_chain(certificate, key)
    if not own_clock:
        context.verify_flags |= ssl.VerifyFlags(_NO_CHECK_TIME)
    return context


def check_dates(sock: Any, now_us: int) -> None:
    """Check the dates of the server's certificate against `now_us`; raises ssl.SSLCertVerificationError.

    The pinned CA issues server certificates directly, so there is no intermediate certificate to check.
    """
    certificate = sock.getpeercert()
    begin, end = (ssl.cert_time_to_seconds(certificate[name]) for name in ("notBefore", "notAfter"))
    if now_us < begin * 1e6:
        raise ssl.SSLCertVerificationError(f"the server's certificate is good from {certificate['notBefore']} only")
    if now_us > end * 1e6:
        raise ssl.SSLCertVerificationError(f"the server's certificate has expired on {certificate['notAfter']}")


def pair_problem(ca: str, certificate: str, key: str) -> str:
    """Why these PEM files cannot be used together, or ''. `ca` is '' for a server's own certificate and key."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT if ca else ssl.PROTOCOL_TLS_SERVER)
    problem = ""
    try:
        if ca:
            problem = f"{ca} holds no CA that can be read"
            context.load_verify_locations(ca)
        problem = f"{certificate} and {key} are no pair that can be used"
        context.load_cert_chain(certificate, key, "")  # with a password, an encrypted key fails instead of prompting
    except (OSError, ValueError) as error:  # an ssl.SSLError is an OSError
        return f"{problem} ({getattr(error, 'reason', None) or getattr(error, 'strerror', None) or error})"
    return ""
