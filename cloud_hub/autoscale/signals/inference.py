"""The queue of a pool of this hub's inference gateway."""

from __future__ import annotations

from cloud_hub.autoscale.core.sources import InferenceSource
from cloud_hub.autoscale.signals.base import SignalContext, SignalUnknown, Value
from shared.suggestions import nearest


def read(source: InferenceSource, context: SignalContext, fresh_s: float, now_us: int) -> Value:
    """Requests that wait, run, or both."""
    pool = context.pools.get(source.pool)
    if pool is None:
        raise SignalUnknown(f"there is no pool '{source.pool}'{nearest(source.pool, context.pools)}")
    waiting, running = sum(pool.waiting.values()), pool.running
    value = {"waiting": waiting, "running": running, "load": waiting + running}[source.of]
    return Value(float(value), now_us, "requests")
