"""The engines of this device: shared by streams of the same model, within a memory budget."""

from __future__ import annotations

import logging

from edge_agent import clock
from edge_agent.models.build_process import BuildQueue
from edge_agent.models.engine import Engine
from edge_agent.models.process_supervisor import Post
from edge_agent.models.wire import ModelSpec

log = logging.getLogger(__name__)

RESIDENT_S = 10.0
"""A model is unloaded at the earliest so long after it was loaded, so that two models do not push each other out."""


class EnginePool:
    """`budget_mb` is for the inference processes of all models together; 0: no limit. `build_s` limits the
    build of an engine."""

    def __init__(self, post: Post, budget_mb: float = 0.0, build_s: float = 3600.0) -> None:
        self._post, self._budget_mb = post, budget_mb
        self._engines: list[Engine] = []
        self._builds = BuildQueue(post, build_s)

    def engine(self, spec: ModelSpec) -> Engine:
        """The engine for `spec`, not loaded yet if it is new."""
        for engine in self._engines:
            if engine.spec == spec:
                return engine
        engine = Engine(spec, self._post, self._builds, self._may_load)
        self._engines.append(engine)
        return engine

    def tick(self, now: float) -> None:
        """Check all engines, end those that no stream uses, keep to the budget; called once a second."""
        self._builds.tick(now)
        for engine in list(self._engines):
            engine.tick(now)
            if engine.unused:
                engine.stop()
                self._engines.remove(engine)
        loaded = [engine for engine in self._engines if engine.loaded]
        if len(loaded) > 1:
            self._make_room(0.0, max(loaded, key=lambda engine: engine.used_s))

    def stop(self) -> None:
        """End all processes."""
        self._builds.stop()
        for engine in self._engines:
            engine.stop()

    def _may_load(self, engine: Engine) -> bool:
        """Whether `engine` fits into the budget, after others were unloaded if need be."""
        return self._make_room(engine.spec.memory_mb or engine.known_mb, engine)

    def _make_room(self, more_mb: float, spared: Engine) -> bool:
        """Unload engines, the least recently used first, until `more_mb` fit; a model alone always may load."""
        if not self._budget_mb:
            return True
        now = clock.monotonic_s()
        others = [engine for engine in self._engines if engine.loaded and engine is not spared]
        used_mb = sum(engine.rss_mb for engine in others) + (spared.rss_mb if spared.loaded else 0.0)
        for engine in sorted(others, key=lambda engine: engine.used_s):
            if used_mb + more_mb <= self._budget_mb:
                return True
            if engine.in_flight or now - engine.loaded_s < RESIDENT_S:
                continue
            used_mb -= engine.rss_mb
            reason = f"the models use more than the {self._budget_mb:g} MB of memory_mb; it was used the longest ago"
            log.info("model.unloaded", extra={"fields": {"bundle": engine.spec.bundle, "reason": reason}})
            engine.unload(reason)
            others.remove(engine)
        return used_mb + more_mb <= self._budget_mb or not others
