"""The exact bytes that hub and device sign, and the encoding of signatures. Contains no keys and no cryptography.

Each kind of message begins with its own context string, so that a signature of one kind is invalid for another. A
signature is verified over the bytes as received, which are never encoded again.
"""

from __future__ import annotations

import binascii
import hashlib
import re
from base64 import b64decode, urlsafe_b64encode
from dataclasses import dataclass

NONCE = re.compile(r"[A-Za-z0-9_-]{16,64}")
"""Nonce that a device sends when it requests the time. The signed answer contains it, so that it cannot be replayed."""

PROOF_HEADER = "Tidegate-Proof"
SIGNATURE_HEADER = "Tidegate-Signature"


def message(topic: str, payload: bytes) -> bytes:
    """Bytes that the hub signs for an MQTT message. The topic contains the device, and for a command its id."""
    return b"tidegate message v1\0" + topic.encode() + b"\0" + payload


def time_message(body: bytes) -> bytes:
    """Bytes that the hub signs for a time response."""
    return b"tidegate time v1\0" + body


def proof(method: str, path: str, t_us: int, body: bytes) -> bytes:
    """Bytes that a device signs for a request; `t_us` is the time that it has just received from the hub."""
    return f"tidegate proof v1\0{method}\n{path}\n{t_us}\n{hashlib.sha256(body).hexdigest()}".encode()


def is_signed(rest: str) -> bool:
    """Whether the hub signs its messages on this topic of a device: requests and cancellations of commands."""
    return rest.startswith("commands/") and rest.endswith(("/request", "/cancel"))


def pack(data: bytes) -> str:
    """Bytes as base64url without padding."""
    return urlsafe_b64encode(data).rstrip(b"=").decode()


def unpack(text: str) -> bytes:
    """The opposite of `pack`; raises ValueError for invalid input."""
    if not re.fullmatch(r"[A-Za-z0-9_-]*", text):
        raise ValueError("is not base64url")
    try:
        return b64decode(text + "=" * (-len(text) % 4), altchars=b"-_")
    except binascii.Error as error:
        raise ValueError("is not base64url") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """The header `Tidegate-Proof: <certificate, DER>.<t_us>.<signature>`: proof of possession of the private key."""

    certificate: bytes
    t_us: int
    signature: bytes

    @property
    def header(self) -> str:
        """The header's value."""
        return f"{pack(self.certificate)}.{self.t_us}.{pack(self.signature)}"

    @classmethod
    def read(cls, text: str) -> Proof:
        """Parse the header; raises ValueError for another format."""
        parts = text.split(".")
        if len(parts) != 3 or len(text) > 8192 or not re.fullmatch("[0-9]{1,18}", parts[1]):
            raise ValueError("is not CERTIFICATE.TIME.SIGNATURE")
        return cls(certificate=unpack(parts[0]), t_us=int(parts[1]), signature=unpack(parts[2]))
