"""A message to publish once a transaction is committed."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class OutgoingMessage:
    """A message to publish once the transaction is committed.

    Response topic and correlation make it an MQTT 5 request; `retain` with an empty payload makes the broker forget.
    """

    topic: str
    payload: bytes
    trace: str = ""
    response_topic: str = ""
    correlation: bytes = b""
    retain: bool = False
