"""What a decoder accepts at most. Payloads come from foreign machines: each bound keeps work and memory finite."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds of one payload.

    More bytes or metrics, or a longer name, refuse the whole payload (WireError). Beyond the other bounds only the
    value is lost (`Invalid`).
    """

    max_bytes: int = 4 << 20
    max_metrics: int = 20_000
    """Metrics at the top of the payload."""
    max_items: int = 200_000
    """Everything else together: members and parameters of templates, cells, properties, elements of arrays."""
    max_depth: int = 8
    """Templates in templates, and property sets in property sets."""
    max_text: int = 64 << 10
    """Bytes of a string; names and property keys have `max_name`."""
    max_name: int = 1024
    max_blob: int = 1 << 20
    """Bytes of a Bytes, File or array value; a longer body of the payload refuses it."""


DEFAULT = Limits()
