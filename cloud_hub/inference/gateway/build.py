"""Builds the gateway from the settings."""

from __future__ import annotations

from pathlib import Path

from cloud_hub.clock import now_us
from cloud_hub.database.sessions import Database
from cloud_hub.inference.engines.pools import open_engines
from cloud_hub.inference.gateway.core.budgets import DAY_US, Budget, BudgetLedger
from cloud_hub.inference.gateway.core.cache import ResponseCache
from cloud_hub.inference.gateway.core.redaction import Redactor
from cloud_hub.inference.gateway.metrics import GatewayMetrics
from cloud_hub.inference.gateway.pool import Pool
from cloud_hub.inference.gateway.recorder import Recorder, usage_of_day
from cloud_hub.inference.gateway.service import Gateway
from cloud_hub.settings.inference import Inference
from shared.errors import ConfigError


def open_gateway(db: Database, settings: Inference) -> Gateway | None:
    """The gateway, or None without pools; raises ConfigError."""
    if not settings.pools:
        return None
    metrics = GatewayMetrics()
    pools = [Pool(pool, open_engines(pool), settings.max_queued, metrics) for pool in settings.pools]
    return Gateway(
        pools,
        ledger=_ledger(db, settings),
        cache=ResponseCache(max_bytes=settings.cache_bytes, ttl_s=settings.cache_s),
        redactor=Redactor(_words(settings.words_file)),
        recorder=Recorder(db, keep=settings.keep, keep_days=settings.keep_days),
        metrics=metrics,
        max_tool_rounds=settings.max_tool_rounds,
    )


def _ledger(db: Database, settings: Inference) -> BudgetLedger:
    """The budgets, with what was used today before a restart."""
    ledger = BudgetLedger([Budget(**budget.model_dump()) for budget in settings.budgets])
    day = now_us() // DAY_US
    with db.read() as session:
        ledger.load(day, usage_of_day(session, day))
    return ledger


def _words(path: str) -> list[str]:
    """The site's own words, one a line; lines that begin with # are comments."""
    if not path:
        return []
    try:
        lines = Path(path).read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "is not UTF-8"
        raise ConfigError(
            "inference.words_file", f"'{path}' {reason}", "Name a readable file, one word a line"
        ) from None
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]
