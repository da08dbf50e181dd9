"""REST over a real database with one device that has something of everything, and one token for each role."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from simulators.actions import action_service, propose_command
from simulators.births import born
from simulators.rest_app import RestApp
from sqlmodel import select

from cloud_hub.access import tokens
from cloud_hub.api.dependencies import Hub
from cloud_hub.autoscale.system import AutoscaleSystem
from cloud_hub.database.sessions import Database
from cloud_hub.database.tables import Incident
from cloud_hub.devices import commands
from cloud_hub.devices.offsets import StreamOffsets
from cloud_hub.incidents import service as incidents
from cloud_hub.runtime.outgoing import OutgoingMessage
from cloud_hub.runtime.worker import WorkerStatus
from cloud_hub.settings import Settings
from cloud_hub.telemetry import samples as telemetry
from cloud_hub.twins import service as twins
from shared.protocol.messages import Alarm, Birth, Sample

with warnings.catch_warnings():  # newer Starlettes ask for a client that not every machine has
    warnings.simplefilter("ignore")
    from fastapi.testclient import TestClient

NOW = 1_700_000_000_000_000
SECOND = 1_000_000
Role = Literal["viewer", "operator", "auditor", "admin", "writer", "inference", "everything"]
ROLES: tuple[Role, ...] = ("viewer", "operator", "auditor", "admin", "writer", "inference")

DEVICE = "/api/v1/devices/{device}"
ROUTES: dict[tuple[str, str], str] = {
    ("GET", "/api/v1/devices"): "read",
    ("GET", DEVICE): "read",
    ("PUT", DEVICE): "operate",
    ("DELETE", DEVICE): "administer",
    ("PUT", f"{DEVICE}/asset-path"): "administer",
    ("GET", "/api/v1/tokens"): "administer",
    ("POST", "/api/v1/tokens"): "administer",
    ("DELETE", "/api/v1/tokens/{token_id}"): "administer",
    ("POST", "/api/v1/query"): "read",
    ("POST", "/api/v1/ask"): "read",
    ("GET", "/api/v1/ask/forms"): "read",
    ("GET", f"{DEVICE}/tags"): "read",
    ("PATCH", f"{DEVICE}/tags"): "operate",
    ("PUT", f"{DEVICE}/tags"): "operate",
    ("GET", f"{DEVICE}/telemetry/{{metric}}"): "read",
    ("GET", f"{DEVICE}/telemetry"): "read",
    ("GET", f"{DEVICE}/range/{{metric}}"): "read",
    ("GET", "/api/v1/telemetry/last"): "read",
    ("GET", "/api/v1/telemetry/top"): "read",
    ("GET", "/api/v1/telemetry/export"): "read",
    ("GET", f"{DEVICE}/events"): "read",
    ("GET", f"{DEVICE}/streams"): "read",
    ("POST", f"{DEVICE}/commands"): "operate",
    ("GET", f"{DEVICE}/commands"): "read",
    ("GET", "/api/v1/commands/{command_id}"): "read",
    ("POST", "/api/v1/commands/{command_id}/cancel"): "operate",
    ("GET", f"{DEVICE}/twin"): "read",
    ("PATCH", f"{DEVICE}/twin"): "operate",
    ("PUT", f"{DEVICE}/twin"): "operate",
    ("DELETE", f"{DEVICE}/twin"): "operate",
    ("GET", f"{DEVICE}/twin/history"): "read",
    ("GET", f"{DEVICE}/twin/at"): "read",
    ("GET", f"{DEVICE}/twin/diff"): "read",
    ("GET", f"{DEVICE}/twin/documents"): "read",
    ("GET", f"{DEVICE}/twin/progress"): "read",
    ("GET", f"{DEVICE}/twin/name/{{name}}"): "read",
    ("PATCH", f"{DEVICE}/twin/name/{{name}}"): "operate",
    ("PUT", f"{DEVICE}/twin/name/{{name}}"): "operate",
    ("DELETE", f"{DEVICE}/twin/name/{{name}}"): "operate",
    ("GET", "/api/v1/alarms"): "read",
    ("GET", "/api/v1/alarms/report"): "read",
    ("GET", "/api/v1/alarms/suppressions"): "read",
    ("POST", "/api/v1/alarms/suppressions"): "operate",
    ("DELETE", "/api/v1/alarms/suppressions/{suppression_id}"): "operate",
    ("GET", "/api/v1/alarms/{alarm_id}"): "read",
    ("POST", "/api/v1/alarms/{alarm_id}/acknowledge"): "operate",
    ("POST", "/api/v1/alarms/{alarm_id}/verdict"): "operate",
    ("POST", "/api/v1/alarms/{alarm_id}/shelve"): "operate",
    ("POST", "/api/v1/alarms/{alarm_id}/unshelve"): "operate",
    ("GET", "/api/v1/notifications"): "read",
    ("GET", "/api/v1/incidents"): "read",
    ("GET", "/api/v1/incidents/{incident_id}"): "read",
    ("GET", "/api/v1/incidents/{incident_id}/members"): "read",
    ("GET", "/api/v1/incidents/{incident_id}/evidence"): "read",
    ("GET", "/api/v1/cases"): "read",
    ("GET", "/api/v1/cases/{case_id}"): "read",
    ("GET", "/api/v1/shift-report"): "read",
    ("GET", f"{DEVICE}/notes"): "read",
    ("POST", f"{DEVICE}/notes"): "operate",
    ("DELETE", f"{DEVICE}/notes/{{note_id}}"): "operate",
    ("POST", "/api/v1/incidents/{incident_id}/merge"): "operate",
    ("POST", "/api/v1/incidents/{incident_id}/split"): "operate",
    ("POST", "/api/v1/incidents/{incident_id}/acknowledge"): "operate",
    ("POST", "/api/v1/incidents/{incident_id}/resolve"): "operate",
    ("POST", "/api/v1/alarms/{alarm_id}/resolve"): "operate",
    ("GET", "/api/v1/removed-devices"): "read",
    ("POST", "/api/v1/removed-devices/{name}/restore"): "administer",
    ("GET", "/api/v1/actions"): "read",
    ("POST", "/api/v1/actions"): "operate",
    ("GET", "/api/v1/actions/{action_id}"): "read",
    ("POST", "/api/v1/actions/{action_id}/decision"): "operate",
    ("POST", "/api/v1/actions/{action_id}/cancel"): "operate",
    ("POST", "/api/v1/actions/{action_id}/undo"): "operate",
    ("GET", "/api/v1/policy"): "read",
    ("POST", "/api/v1/policy/try"): "read",
    ("GET", "/api/v1/playbooks"): "read",
    ("GET", "/api/v1/playbooks/{playbook}/drawing"): "read",
    ("POST", "/api/v1/playbooks/{playbook}/dry-run"): "operate",
    ("POST", "/api/v1/playbook-runs"): "operate",
    ("GET", "/api/v1/playbook-runs"): "read",
    ("GET", "/api/v1/playbook-runs/{run_id}"): "read",
    ("GET", "/api/v1/playbook-runs/{run_id}/journal"): "read",
    ("GET", "/api/v1/playbook-runs/{run_id}/drawing"): "read",
    ("POST", "/api/v1/playbook-runs/{run_id}/decision"): "operate",
    ("POST", "/api/v1/playbook-runs/{run_id}/cancel"): "operate",
    ("POST", "/api/v1/playbook-runs/{run_id}/resume"): "operate",
    ("GET", "/api/v1/audit"): "audit",
    ("GET", "/api/v1/escalations"): "read",
    ("POST", "/api/v1/thresholds/fit"): "operate",
    ("POST", "/api/v1/thresholds/rollouts"): "operate",
    ("GET", "/api/v1/thresholds/rollouts/{rollout_id}"): "read",
    ("GET", "/api/v1/thresholds/rollouts"): "read",
    ("GET", "/api/v1/thresholds/rollouts/{rollout_id}/devices"): "read",
    ("POST", "/api/v1/thresholds/backtest"): "operate",
    ("GET", "/api/v1/thresholds/forecast"): "read",
    ("GET", "/api/v1/learning-jobs"): "read",
    ("GET", "/api/v1/learning-jobs/{learning_job_id}"): "read",
    ("GET", "/api/v1/learning-jobs/{learning_job_id}/series"): "read",
    ("PUT", "/api/v1/learning-jobs/{learning_job_id}"): "operate",
    ("DELETE", "/api/v1/learning-jobs/{learning_job_id}"): "operate",
    ("POST", "/api/v1/learning-jobs/{learning_job_id}/refit"): "operate",
    ("POST", "/api/v1/learning-jobs/{learning_job_id}/release"): "operate",
    ("GET", "/api/v1/missed-faults"): "read",
    ("POST", "/api/v1/missed-faults"): "operate",
    ("GET", "/api/v1/limits"): "read",
    ("POST", "/api/v1/limits"): "operate",
    ("GET", "/api/v1/autoscale/targets"): "read",
    ("GET", "/api/v1/autoscale/targets/{target}"): "read",
    ("GET", "/api/v1/autoscale/targets/{target}/decisions"): "read",
    ("GET", "/api/v1/autoscale/targets/{target}/explain"): "read",
    ("POST", "/api/v1/autoscale/targets/{target}/pause"): "operate",
    ("POST", "/api/v1/autoscale/targets/{target}/resume"): "operate",
    ("POST", "/api/v1/autoscale/targets/{target}/override"): "operate",
    ("POST", "/api/v1/autoscale/check"): "administer",
    ("GET", "/api/v1/workers"): "read",
    ("GET", "/api/v1/workers/items"): "read",
    ("POST", "/api/v1/workers/items/{item_id}/retry"): "operate",
    ("POST", "/api/v1/jobs/preview"): "operate",
    ("POST", "/api/v1/jobs"): "operate",
    ("GET", "/api/v1/jobs"): "read",
    ("GET", "/api/v1/jobs/{job_id}"): "read",
    ("GET", "/api/v1/jobs/{job_id}/devices"): "read",
    ("POST", "/api/v1/jobs/{job_id}/cancel"): "operate",
    ("GET", "/api/v1/configurations"): "read",
    ("GET", "/api/v1/configurations/{configuration_id}"): "read",
    ("GET", "/api/v1/configurations/{configuration_id}/devices"): "read",
    ("PUT", "/api/v1/configurations/{configuration_id}"): "operate",
    ("PATCH", "/api/v1/configurations/{configuration_id}"): "operate",
    ("DELETE", "/api/v1/configurations/{configuration_id}"): "operate",
    ("GET", f"{DEVICE}/twin/owners"): "read",
    ("POST", f"{DEVICE}/twin/release"): "operate",
    ("GET", "/api/v1/experts"): "read",
    ("GET", "/api/v1/inference"): "read",
    ("POST", "/api/v1/tasks"): "infer",
    ("GET", "/api/v1/tasks"): "infer",
    ("GET", "/api/v1/tasks/{task_id}"): "infer",
    ("POST", "/api/v1/tasks/{task_id}/cancel"): "infer",
    ("GET", "/api/v1/sparkplug"): "read",
    ("GET", "/api/v1/sparkplug/nodes"): "read",
    ("GET", "/api/v1/sparkplug/nodes/{device}/metrics"): "read",
    ("POST", "/api/v1/sparkplug/nodes/{device}/rebirth"): "operate",
    ("POST", "/api/v1/sparkplug/writes"): "operate",
    ("GET", "/api/v1/sparkplug/writes"): "read",
    ("GET", "/api/v1/sparkplug/writes/{write_id}"): "read",
}
"""Every route and the power it needs: a route that is missing here fails the test below."""


class World:
    """REST over a real database; what it would publish is kept in `published`."""

    def __init__(self, folder: Path, url: str) -> None:
        self.db = Database(url)
        self.published: list[OutgoingMessage] = []
        self.notified: list[str] = []
        self.changed: list[str] = []
        self.workers: list[WorkerStatus] = []
        actions = action_service()
        hub = Hub(
            settings=Settings(state_dir=str(folder)), db=self.db, publish=self.published.extend,
            notify=self.notified.append, actions=actions, connected=lambda: True, changed=self.changed.extend,
            workers=lambda: self.workers, autoscale=AutoscaleSystem(self.db, "", {}),
        )  # fmt: skip
        self.app = RestApp(hub)
        self.client = TestClient(self.app, raise_server_exceptions=False)
        with self.db.write() as session:
            self.tokens = {role: tokens.create(session, f"the {role}", role, NOW, "test") for role in ROLES}
            self.tokens["everything"] = tokens.create(session, "anna", "operator auditor admin", NOW, "test")
            self._fill(session)

    def _fill(self, session: Any) -> None:
        born(session, Birth(device="press-3", session="s", epoch="e"), NOW)
        born(session, Birth(device="gone", session="s", epoch="e"), NOW)
        born(session, Birth(device="gone", session="s", epoch="e", state="offline"), NOW)
        marks = StreamOffsets(session)
        mark = marks.get(("press-3", "e", "telemetry"))
        samples = [(n, Sample(metric="cpu.load", t_us=NOW + n * SECOND, value=float(n))) for n in range(1, 11)]
        telemetry.store_samples(session, telemetry.sample_rows("press-3", mark.source, samples))
        mark.upto = 10
        marks.save()
        alarm = Alarm(id="a1", metric="digits/age_s", kind="high", state="raised", priority="high", t_us=NOW, value=9,
                      limit=2)  # fmt: skip
        incidents.handle_alarm(session, "press-3", alarm, NOW, "")
        incident = session.exec(select(Incident)).one()
        self.ids = {
            "device": "press-3", "metric": "cpu.load", "name": "gates", "incident_id": incident.id,
            "action_id": propose_command(action_service(), session, incident, "capture", "digits", NOW).id,
            "command_id": commands.create(session, "press-3", "restart", "digits", NOW, actor="test")[0].id,
            "rollout_id": "none", "job_id": "none", "configuration_id": "none", "token_id": "none",
            "learning_job_id": "none", "item_id": "none", "task_id": "none", "alarm_id": "a1", "suppression_id": "none",
            "playbook": "restart-model", "run_id": "none", "target": "none",
            "case_id": "none", "note_id": "none", "write_id": "none",
        }  # fmt: skip
        for name in ("", "gates"):
            twins.update_desired(session, "press-3", name, {"a": 1}, NOW, actor="test", max_bytes=32768)

    def ask(self, method: str, path: str, role: Role | None = "everything", **more: Any) -> Any:
        self.app.state.hub.lockout.clear()  # all tests ask from one address
        headers = {"Authorization": f"Bearer {self.tokens[role]}"} if role else {}
        return self.client.request(method, path, headers=headers | more.pop("headers", {}), **more)


@contextmanager
def open_world(folder: Path, url: str) -> Iterator[World]:
    one = World(folder, url)
    yield one
    one.client.close()
    one.db.close()


def problem(answer: Any, status: int) -> str:
    """The detail of an RFC 9457 answer."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert (body["status"], body["type"]) == (status, "about:blank")
    assert body["title"]
    detail: str = body["detail"]
    return detail
