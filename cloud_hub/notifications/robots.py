"""Checks the answers of chat robots: they answer HTTP 200 and report errors in the body."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cloud_hub.notifications.core.markdown import strip_control
from cloud_hub.notifications.http import json_object, response_error
from shared.errors import ConfigError, NotReady


def check_answer(place: str, answer: tuple[int, bytes], code: str, text: str, busy: Mapping[int, float]) -> None:
    """Raise unless the answer's `code` is 0; `busy` maps the codes for too many messages to the wait in seconds."""
    status, content = answer
    if status != 200:
        raise response_error(place, status)
    body: dict[str, Any] = json_object(content)
    number = body.get(code)
    if number == 0:
        return
    if not isinstance(number, int):
        raise ConfigError(place, "the answer is not that of a robot", "Copy the robot's address again")
    reason = f"{number}: {strip_control(str(body.get(text, '')))[:150]}"
    if number in busy:
        raise NotReady(reason, busy[number])
    if number == -1:  # "system busy" at all three
        raise NotReady(reason, 5.0)
    raise ConfigError(place, f"refused ({reason})", "Check the robot's address, secret and keywords")
