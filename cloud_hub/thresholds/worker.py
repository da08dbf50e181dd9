"""Background workers of thresholds: rollouts, refits, and the three monitors (anomalies, peers, forecasts)."""

from __future__ import annotations

from cloud_hub.clock import now_us
from cloud_hub.incidents import service as incidents
from cloud_hub.runtime.context import HubContext
from cloud_hub.runtime.worker import BURST_S, WorkerSpec
from cloud_hub.thresholds.learning import refit
from cloud_hub.thresholds.monitoring.anomalies import AnomalyMonitor
from cloud_hub.thresholds.monitoring.forecasters import ForecasterStore
from cloud_hub.thresholds.monitoring.forecasts import ForecastMonitor
from cloud_hub.thresholds.monitoring.peers import PeerMonitor
from cloud_hub.thresholds.rollouts import service as rollout_service

MONITOR_S = 10.0
"""Period of the monitors of new telemetry."""
FORECAST_S = 60.0
"""Period of the forecasts of crossings."""
REFIT_S = 5.0


def workers(context: HubContext, forecasters: ForecasterStore) -> list[WorkerSpec]:
    """Returns the workers that fit limits, roll them out, and monitor the series whose learning job asks for it."""
    db, max_bytes = context.db, context.max_twin_bytes
    anomalies, peers = AnomalyMonitor(db, incidents.handle_alarm), PeerMonitor(db, incidents.handle_alarm)
    forecasts = ForecastMonitor(db, forecasters, incidents.handle_alarm)
    return [
        WorkerSpec(
            name="rollouts", run_once=lambda: rollout_service.run_once(db, now_us(), max_bytes), linger_s=BURST_S
        ),
        WorkerSpec(name="refit", run_once=lambda: refit.run_once(db, now_us()), period_s=REFIT_S),
        WorkerSpec(
            name="anomalies", run_once=lambda: anomalies.run_once(now_us(), context.connected()), period_s=MONITOR_S
        ),
        WorkerSpec(name="peers", run_once=lambda: peers.run_once(now_us()), period_s=MONITOR_S, linger_s=BURST_S),
        WorkerSpec(name="forecasts", run_once=lambda: forecasts.run_once(now_us()), period_s=FORECAST_S),
    ]
