"""The exact bytes that hub and device sign, and how a signature travels. No key and no cipher is in here.

Each kind of thing begins with a context of its own, so that no signature of one passes for another. What was signed
is verified as it was received and never encoded anew.
"""

from __future__ import annotations

import binascii
import hashlib
import re
from base64 import b64decode, urlsafe_b64encode
from dataclasses import dataclass

NONCE = re.compile(r"[A-Za-z0-9_-]{16,64}")
"""What a device sends along when it asks for the time: the answer is signed with it, so that none can be kept."""

PROOF_HEADER = "Tidegate-Proof"
SIGNATURE_HEADER = "Tidegate-Signature"


def message(topic: str, payload: bytes) -> bytes:
    """What the hub signs of an MQTT message: its topic names the device, and with a command its id."""
    return b"tidegate message v1\0" + topic.encode() + b"\0" + payload


def time_message(body: bytes) -> bytes:
    """What the hub signs of its word on the time."""
    return b"tidegate time v1\0" + body


def proof(method: str, path: str, t_us: int, body: bytes) -> bytes:
    """What a device signs of a request: `t_us` is the time that it has just heard from the hub."""
    return f"tidegate proof v1\0{method}\n{path}\n{t_us}\n{hashlib.sha256(body).hexdigest()}".encode()


def is_signed(rest: str) -> bool:
    """Whether the hub signs what it sends on this topic below a device's own: commands, and their end."""
    return rest.startswith("commands/") and rest.endswith(("/request", "/cancel"))


def pack(data: bytes) -> str:
    """Bytes as base64url without padding."""
    return urlsafe_b64encode(data).rstrip(b"=").decode()


def unpack(text: str) -> bytes:
    """The opposite of `pack`; ValueError when it is none."""
    if not re.fullmatch(r"[A-Za-z0-9_-]*", text):
        raise ValueError("is not base64url")
    try:
        return b64decode(text + "=" * (-len(text) % 4), altchars=b"-_")
    except binascii.Error as error:
        raise ValueError("is not base64url") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """The header `Tidegate-Proof: <certificate, DER>.<t_us>.<signature>`: a device holds the key of its certificate."""

    certificate: bytes
    t_us: int
    signature: bytes

    @property
    def header(self) -> str:
        """The header's value."""
        return f"{pack(self.certificate)}.{self.t_us}.{pack(self.signature)}"

    @classmethod
    def read(cls, text: str) -> Proof:
        """The header's parts; ValueError when it has another form."""
        parts = text.split(".")
        if len(parts) != 3 or len(text) > 8192 or not re.fullmatch("[0-9]{1,18}", parts[1]):
            raise ValueError("is not CERTIFICATE.TIME.SIGNATURE")
        return cls(certificate=unpack(parts[0]), t_us=int(parts[1]), signature=unpack(parts[2]))
