"""A person at the terminal who sees and works the implementation under test."""

from __future__ import annotations

from cloud_hub.scada.conformance.core.checker import ALL_RULES
from shared.process.terminal import printable

_TEXTS = {rule.name: rule.text for rule in ALL_RULES}
_DEEDS = {
    "write": "Write a new value to metric '{metric}' of {place}",
    "remove-device": "Take device '{device}' of {place} away from its edge node",
    "stop": "Stop the implementation under test as its documentation says",
}


class Person:
    """Asks at the terminal. An empty answer means that the question is not judged."""

    def confirms(self, rule: str, group: str, node: str, device: str, metric: str) -> bool | None:
        place = "/".join(part for part in (group, node, device) if part)
        answer = _ask(f"{place}, metric '{metric}': {_TEXTS[rule]}. Does the host show it? [y/n/skip] ")
        return {"y": True, "n": False}.get(answer)

    def act(self, deed: str, group: str, node: str, device: str, metric: str) -> bool:
        place = "/".join(part for part in (group, node, device) if part)
        text = _DEEDS[deed].format(metric=metric, device=device, place=place)
        return _ask(f"{text} now. [y when done, skip] ") == "y"


def _ask(text: str) -> str:
    try:
        return input(printable(text)).strip().lower()[:1]
    except EOFError:
        return ""
