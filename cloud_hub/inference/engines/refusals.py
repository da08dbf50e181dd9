"""Translates the status of a refusal into the error of whose fault it is."""

from __future__ import annotations

import msgspec

from cloud_hub.inference.engines.errors import EngineBusy, EngineRefused
from shared.errors import ConfigError, NotReady, TidegateError

OPERATOR = {
    401: ("the key is not accepted", "Put a valid key into key_file"),
    402: ("the account has no credit", "Pay, or take another server"),
    403: ("the key may not use this model", "Put another key into key_file, or name another model"),
    404: ("there is no such address or model", "Correct url and model"),
    405: ("there is no such address", "Correct url: it ends before /chat/completions"),
}
CALLER = (400, 413, 415, 422)
LONGEST_WAIT_S = 600.0
QUOTA_WAIT_S = 300.0
QUOTA = ("insufficient_quota", "insufficient balance", "1113", "exceeded your current quota")
"""Texts in a 429 that mean a spent budget rather than too many requests at once."""


def refusal(name: str, place: str, status: int, retry_after: str, text: str) -> TidegateError:
    """The error for a response. Only EngineRefused carries the server's text, which may repeat the prompt."""
    if status in OPERATOR:
        reason, cure = OPERATOR[status]
        return ConfigError(place, f"{name}: {reason} (HTTP {status})", cure)
    if status in CALLER:
        return EngineRefused(status, f"{name}: the request is refused (HTTP {status})", _message(text))
    if status == 429:
        return _too_many(name, retry_after, text)
    return NotReady(f"{name}: answers HTTP {status}", _wait(retry_after, 10.0))


def _too_many(name: str, retry_after: str, text: str) -> EngineBusy:
    if any(mark in text.lower() for mark in QUOTA):
        return EngineBusy(f"{name}: the quota is used up (HTTP 429)", _wait(retry_after, QUOTA_WAIT_S))
    return EngineBusy(f"{name}: too many requests (HTTP 429)", _wait(retry_after, 5.0))


def _wait(retry_after: str, default_s: float) -> float:
    """Seconds of Retry-After; a date there is answered with the default."""
    return min(float(retry_after), LONGEST_WAIT_S) if retry_after.isdecimal() else default_s


def _message(text: str) -> str:
    """The message of an OpenAI-style error."""
    try:
        found = msgspec.json.decode(text)
    except (msgspec.MsgspecError, RecursionError):
        return text[:1000]
    error = found.get("error", found) if isinstance(found, dict) else text
    message = error.get("message", "") if isinstance(error, dict) else error
    return str(message)[:1000]
