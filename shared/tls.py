"""TLS towards a server of ours: 1.3, the pinned CA, the server's name; dates by this clock, or by a better one."""

from __future__ import annotations

import ssl
from typing import Any

_NO_CHECK_TIME = 0x200000
"""OpenSSL's X509_V_FLAG_NO_CHECK_TIME (x509_vfy.h): everything is checked but the dates."""


def client_context(ca: str, certificate: str = "", key: str = "", *, own_clock: bool = True) -> ssl.SSLContext:
    """A context that trusts `ca` alone. Without `own_clock` the caller must call `check_dates` after the handshake."""
    context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=ca)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    if certificate:
        context.load_cert_chain(certificate, key)
    if not own_clock:
        context.verify_flags |= ssl.VerifyFlags(_NO_CHECK_TIME)
    return context


def check_dates(sock: Any, now_us: int) -> None:
    """Judge the server's certificate by `now_us`; raises ssl.SSLCertVerificationError.

    The CA issues servers directly and is pinned itself, so there is no other certificate in between.
    """
    certificate = sock.getpeercert()
    begin, end = (ssl.cert_time_to_seconds(certificate[name]) for name in ("notBefore", "notAfter"))
    if now_us < begin * 1e6:
        raise ssl.SSLCertVerificationError(f"the server's certificate is good from {certificate['notBefore']} only")
    if now_us > end * 1e6:
        raise ssl.SSLCertVerificationError(f"the server's certificate has expired on {certificate['notAfter']}")


def pair_problem(ca: str, certificate: str, key: str) -> str:
    """Why these PEM files cannot be used together, or ''. `ca` may be '': a server's own pair."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT if ca else ssl.PROTOCOL_TLS_SERVER)
    step = ""
    try:
        if ca:
            step = f"{ca} holds no CA that can be read"
            context.load_verify_locations(ca)
        step = f"{certificate} and {key} are no pair that can be used"
        context.load_cert_chain(certificate, key, "")  # an encrypted key must not ask for its password here
    except (OSError, ValueError) as error:  # an ssl.SSLError is an OSError
        return f"{step} ({getattr(error, 'reason', None) or getattr(error, 'strerror', None) or error})"
    return ""
