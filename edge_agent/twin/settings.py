"""Applies desired state `settings`: each key separately, within the site's bounds."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec

from edge_agent.config import Config, Settings
from edge_agent.twin.sync import TwinSync
from shared.errors import ConfigError
from shared.protocol.codec import from_plain


class SettingsHandler:
    """`current` are the settings in force; `on_change` is called with each new set."""

    def __init__(self, config: Config, on_change: Callable[[Settings], None]) -> None:
        self._bounds, self._own, self._on_change = config.hard_settings, config.settings, on_change
        self.current = config.settings

    def register(self, twin: TwinSync) -> None:
        """Register a handler for each setting, so that an invalid one does not block the others. Raises ConfigError."""
        if reason := self._bounds.refusal(self._own):
            raise ConfigError("settings", reason, "Keep [settings] within [hard_settings]")
        for key, value in msgspec.structs.asdict(self._own).items():
            twin.handle("", ("settings", key), partial(self._use, key), own=value)

    def _use(self, key: str, wanted: Any) -> Any:
        chosen = from_plain(Settings, msgspec.structs.asdict(self.current) | {key: wanted})
        if reason := self._bounds.refusal(chosen):
            raise ValueError(reason)
        self.current = chosen
        self._on_change(chosen)
        return getattr(chosen, key)
