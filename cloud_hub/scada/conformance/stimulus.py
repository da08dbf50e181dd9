"""What `--stimulate` has in common: progress, and questions about what MQTT does not show."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from cloud_hub.scada.conformance.watch import Watch


class Operator(Protocol):
    """Whoever sees and works the implementation under test. `None` means that nobody does."""

    def confirms(self, rule: str, group: str, node: str, device: str, metric: str) -> bool | None:
        """Whether `rule` (as 'action.node-offline') is kept for this node, device or metric now."""

    def act(self, deed: str, group: str, node: str, device: str, metric: str) -> bool:
        """Ask for a deed ('write', 'remove-device', 'stop'); whether it is being done."""


class Nobody:
    """No operator: what only one can tell is not judged."""

    def confirms(self, rule: str, group: str, node: str, device: str, metric: str) -> bool | None:
        return None

    def act(self, deed: str, group: str, node: str, device: str, metric: str) -> bool:
        return False


@dataclass(frozen=True, slots=True)
class Stage:
    """What a scenario needs: the watch, who to ask, where to report progress."""

    watch: Watch
    operator: Operator
    progress: Callable[[str], None]

    def ask(self, rules: tuple[str, ...], group: str, node: str, device: str = "", metric: str = "") -> None:
        """Ask the operator about rules, and have the answers judged."""
        for rule in rules:
            kept = self.operator.confirms(rule, group, node, device, metric)
            if kept is not None:
                where = "/".join(part for part in (group, node, device) if part)
                self.watch.confirm(rule, kept, f"{where} is not shown as it must be")
