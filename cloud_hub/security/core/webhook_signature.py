"""Signs requests to webhooks; docs/notifications.md shows how to verify the signature."""

from __future__ import annotations

import hashlib
import hmac

SIGNATURE = "Tidegate-Signature"


def sign(secret: str, content: bytes, at_s: int) -> str:
    """`t=SECONDS,v1=HEX`: HMAC-SHA256 over the seconds, a dot and the body's bytes."""
    return f"t={at_s},v1={hmac.new(secret.encode(), b'%d.%b' % (at_s, content), hashlib.sha256).hexdigest()}"
