"""The background worker of playbooks."""

from __future__ import annotations

from cloud_hub.actions.service import ActionService
from cloud_hub.database.sessions import Database
from cloud_hub.playbooks.actions import ActionRunner
from cloud_hub.playbooks.engine import Engine
from cloud_hub.runtime.worker import WorkerSpec

PERIOD_S = 0.5
"""How soon an action that has ended is seen."""


def workers(db: Database, actions: ActionService) -> list[WorkerSpec]:
    """Run playbooks."""
    return [WorkerSpec(name="playbooks", run_once=Engine(db, ActionRunner(actions)).run_once, period_s=PERIOD_S)]
