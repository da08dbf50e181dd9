"""Opens the engines of a pool."""

from __future__ import annotations

from typing import Any

from cloud_hub.inference.engines.protocol import Engine
from cloud_hub.settings.inference import Pool
from shared import plugins
from shared.errors import ConfigError


def open_engines(pool: Pool) -> list[Engine]:
    """One engine for each address; a pool without addresses is one engine by its `options`. Raises ConfigError."""
    place = f"inference.pools.{pool.name}"
    opener = plugins.load(plugins.ENGINES, pool.engine, f"{place}.engine")
    common: dict[str, Any] = {key: value for key in ("model", "key_file") if (value := getattr(pool, key))}
    try:
        return [opener(common | pool.options | where) for where in _places(pool)]
    except ConfigError as error:
        raise ConfigError(place, f"{error.place}: {error.reason}", error.cure) from error


def _places(pool: Pool) -> list[dict[str, Any]]:
    return [{"url": address} for address in pool.addresses] or [{}]
