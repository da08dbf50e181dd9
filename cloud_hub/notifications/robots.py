"""What the three chat robots have in common: they answer 200 and say in the body whether they took it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cloud_hub.notifications.core.markdown import strip_control
from cloud_hub.notifications.http import json_object, response_error
from shared.errors import ConfigError, NotReady


def check_answer(place: str, answer: tuple[int, bytes], code: str, text: str, busy: Mapping[int, float]) -> None:
    """Raise unless the answer's `code` is 0; `busy` are the codes for too many messages, with the wait in seconds."""
    status, content = answer
    if status != 200:
        raise response_error(place, status)
    body: dict[str, Any] = json_object(content)
    number = body.get(code)
    if number == 0:
        return
    if not isinstance(number, int):
        raise ConfigError(place, "answers, but not as a robot does", "Copy the robot's address anew")
    said = f"{number}: {strip_control(str(body.get(text, '')))[:150]}"
    if number in busy:
        raise NotReady(said, busy[number])
    if number == -1:  # "system busy" at all three
        raise NotReady(said, 5.0)
    raise ConfigError(place, f"refused ({said})", "Check the robot's address, secret and key words")
