"""The background worker of playbooks."""

from __future__ import annotations

from cloud_hub.actions.service import ActionService
from cloud_hub.database.sessions import Database
from cloud_hub.playbooks.actions import ActionRunner
from cloud_hub.playbooks.engine import EndListener, Engine
from cloud_hub.runtime.worker import WorkerSpec

PERIOD_S = 0.5
"""How soon an action that has ended is seen."""


def workers(db: Database, actions: ActionService, on_end: EndListener) -> list[WorkerSpec]:
    """Run playbooks; `on_end` is called when a run ends."""
    engine = Engine(db, ActionRunner(actions), on_end=on_end)
    return [WorkerSpec(name="playbooks", run_once=engine.run_once, period_s=PERIOD_S)]
