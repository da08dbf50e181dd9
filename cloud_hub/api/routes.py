"""The table of routes, and the web application made of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import Depends, FastAPI

from cloud_hub.api import (
    actions,
    admission,
    alarms,
    ask,
    audit,
    autoscale,
    aws,
    backtests,
    cases,
    commands,
    configurations,
    devices,
    escalations,
    est,
    forecasts,
    health,
    incidents,
    inference,
    jobs,
    learning_jobs,
    limit_transfer,
    missed_faults,
    notes,
    notifications,
    openapi,
    playbooks,
    problems,
    prometheus,
    query,
    rollouts,
    sparkplug,
    tags,
    tasks,
    telemetry,
    tokens,
    twins,
    workers,
)
from cloud_hub.api.request_guard import Family
from shared import VERSION

ROUTERS = (
    inference.router,
    devices.router,
    commands.router,
    tags.router,
    notes.router,
    telemetry.router,
    query.router,
    twins.router,
    alarms.router,
    incidents.router,
    playbooks.router,
    actions.router,
    cases.router,
    notifications.router,
    escalations.router,
    learning_jobs.router,
    missed_faults.router,
    backtests.router,
    rollouts.router,
    forecasts.router,
    limit_transfer.router,
    autoscale.router,
    jobs.router,
    configurations.router,
    tokens.router,
    audit.router,
    workers.router,
    configurations.owners_router,
    devices.removed_router,
    est.router,
    prometheus.router,
    inference.overview_router,
    ask.router,
    tasks.router,
    sparkplug.router,
)
"""In the order in which they are matched and documented."""


def create_rest_app(lifespan: Any = None, families: Sequence[Family] = ()) -> FastAPI:
    """The web application with all routes; requests need `app.state.hub`, its `openapi.json` does not.

    `families` are further families of routes whose requests the guard authenticates in their own way.
    """
    app = FastAPI(
        title="Tidegate hub", version=VERSION, lifespan=lifespan, docs_url=None, redoc_url=None,
        generate_unique_id_function=openapi.operation_id,
    )  # fmt: skip
    openapi.install(app)
    problems.install(app)
    admission.install(app, families)
    strict = [Depends(openapi.reject_unknown_query)]
    for router in ROUTERS:
        app.include_router(router, dependencies=strict)
    app.include_router(health.router)
    aws.install(app, strict)
    return app
