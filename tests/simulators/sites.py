"""REST over a real database with three sites: a token of one must see nothing of the others, which hold canaries."""

from __future__ import annotations

import sqlite3
import warnings
from copy import deepcopy
from pathlib import Path
from typing import Any, ClassVar

from simulators.actions import action_service, propose_command
from simulators.births import born
from simulators.rest_app import RestApp, shared_app
from sqlalchemy import make_url
from sqlmodel import select

from cloud_hub.access import tokens
from cloud_hub.access.oidc import Oidc
from cloud_hub.alarms import suppression
from cloud_hub.api.dependencies import Hub
from cloud_hub.autoscale.core.signals import SignalRule
from cloud_hub.autoscale.core.state import Observation, State
from cloud_hub.autoscale.core.target import TargetPolicy
from cloud_hub.autoscale.core.turn import Control, text, turn
from cloud_hub.autoscale.system import AutoscaleSystem
from cloud_hub.clock import now_us
from cloud_hub.configurations.reconciler import ConfigurationReconciler
from cloud_hub.database.sessions import Database
from cloud_hub.database.tables import (
    Case,
    Configuration,
    EscalationRow,
    FailedItem,
    Incident,
    InferenceTask,
    Job,
    LearnedSeries,
    LearningJob,
    MissedFault,
    Notification,
    RemovedDevice,
    ScaleDecision,
    ScalePolicy,
    ScaleTarget,
    SparkplugMetric,
    SparkplugNode,
    SparkplugWrite,
    Suppression,
)
from cloud_hub.devices import commands, notes, tags
from cloud_hub.devices import registry as device_registry
from cloud_hub.devices.offsets import StreamOffsets
from cloud_hub.incidents import service as incidents
from cloud_hub.inference.gateway.build import open_gateway
from cloud_hub.jobs import service as jobs
from cloud_hub.playbooks import service as playbooks
from cloud_hub.playbooks.catalogue import PlaybookCatalogue
from cloud_hub.playbooks.core.verdicts import StepVerdict
from cloud_hub.settings import Settings
from cloud_hub.settings.inference import Inference
from cloud_hub.telemetry import samples
from cloud_hub.thresholds.learning.core.policy import LimitPolicy
from cloud_hub.thresholds.rollouts import service as rollout_service
from cloud_hub.twins import service as twins
from shared.protocol.codec import plain
from shared.protocol.messages import Alarm, Birth, Event, Sample
from shared.thresholds import Limits

with warnings.catch_warnings():  # newer Starlettes ask for a client that not every machine has
    warnings.simplefilter("ignore")
    from fastapi.testclient import TestClient

ROLES = "operator auditor admin"
MINE, THEIRS = "press-3", "lathe-7"
PLACES = {MINE: "acme/a/hall-2", THEIRS: "acme/b", "beside": "acme/ab", "nowhere": ""}
CANARY = "kestrel"
"""Stands in everything of the other sites, and nowhere else."""

POOLS = Inference.model_validate({"pools": [{"name": "large", "addresses": ["http://127.0.0.1:9/v1"]}]})
TERMS = LimitPolicy(metrics=("m",))
BODIES: dict[str, dict[str, Any]] = {
    "PUT /api/v1/devices/{device}/asset-path": {"asset_path": "acme/a/hall-9"},
    "POST /api/v1/devices/{device}/commands": {"verb": "diagnose", "target": "processes", "mode": "queued"},
    "PATCH /api/v1/devices/{device}/tags": {"x": 1},
    "PUT /api/v1/devices/{device}/tags": {"x": 2},
    "POST /api/v1/devices/{device}/twin/release": {"document": "", "paths": ["b"]},
    "POST /api/v1/actions/{action_id}/decision": {"approve": True},
    "POST /api/v1/playbook-runs/{run_id}/decision": {"approve": True},
    "POST /api/v1/alarms/{alarm_id}/acknowledge": {"comment": "seen"},
    "POST /api/v1/alarms/{alarm_id}/verdict": {"verdict": "real"},
    "POST /api/v1/alarms/{alarm_id}/shelve": {"for_s": 3600, "reason": "sensor ordered"},
    "POST /api/v1/alarms/{alarm_id}/resolve": {"reason": "sensor taken off"},
    "POST /api/v1/incidents/{incident_id}/resolve": {"reason": "sensor taken off"},
    "POST /api/v1/devices/{device}/notes": {"text": "the fan was replaced"},
    "POST /api/v1/query": {"query": "SELECT * FROM devices"},
    "POST /api/v1/ask": {"question": "what is wrong?"},
    "POST /api/v1/jobs": {"kind": "tags", "query": "*", "content": {"y": 1}},
    "POST /api/v1/jobs/preview": {"kind": "tags", "query": "*", "content": {"y": 1}},
    "PUT /api/v1/configurations/{configuration_id}": {"target": "*", "content": {"conf": {"x": 1}}},
    "PATCH /api/v1/configurations/{configuration_id}": {"priority": 4},
    "PUT /api/v1/learning-jobs/{learning_job_id}": {"target": "*", "policy": {"metrics": ["m"]}},
    "POST /api/v1/autoscale/targets/{target}/pause": {"reason": "upgrade"},
    "POST /api/v1/autoscale/targets/{target}/override": {"count": 2},
    "POST /api/v1/autoscale/check": {"text": "targets: []"},
    "POST /api/v1/tasks": {"prompt": "summarise the night shift"},
    "POST /api/v1/tokens": {"name": "robot", "roles": ["viewer"]},
    "POST /things/{thing}/shadow": {"state": {"desired": {"z": 1}}},
}
"""A good body for each route that wants one; those of twins and of devices by name are made in `body`."""


class Sites:
    """A hub with devices of three sites. `ids` are the path parameters of everything that belongs to a device.

    The first of a process fills its database row by row, those on SQLite after it copy the file.
    """

    _first: ClassVar[dict[str, Any]] = {}

    def __init__(self, folder: Path, url: str, oidc: Oidc | None = None) -> None:
        file = make_url(url).database if url.startswith("sqlite") else None
        if file and self._first:
            Path(file).write_bytes(self._first["file"])
        self.db = Database(url)
        hub = Hub(
            settings=Settings(state_dir=str(folder)), db=self.db, publish=lambda messages: None,
            notify=lambda name: None, actions=action_service(), connected=lambda: True, oidc=oidc,
            gateway=open_gateway(self.db, POOLS), autoscale=AutoscaleSystem(self.db, "", {}),
        )  # fmt: skip
        self.app = RestApp(hub)
        self.client = TestClient(self.app, raise_server_exceptions=False)
        self.ids: dict[str, dict[str, str]] = {}
        if file and self._first:
            self.ids, self.whole, self.of_a = deepcopy(self._first["ids"]), self._first["whole"], self._first["of_a"]
            return
        self._fill_all()
        if file:
            with sqlite3.connect(self.db.engine.url.database or "") as source:
                content = source.serialize()
            self._first.update(file=content, ids=deepcopy(self.ids), whole=self.whole, of_a=self.of_a)

    def _fill_all(self) -> None:
        now = now_us()
        with self.db.write() as session:
            self.whole = tokens.create(session, "anna", ROLES, now, "test")
            self.of_a = tokens.create(session, "bob", ROLES, now, "test", scope=("acme/a",))
            for device, place in PLACES.items():
                word = "plain" if device == MINE else CANARY
                self.ids[device] = self._fill(session, device, word, now)
                device_registry.assign_asset_path(session, device, place, now, within=None, actor="test")
                session.add(RemovedDevice(device=f"old-{device}", removed_us=now, removed_by=word, reason=word,
                                          assigned_path=place))  # fmt: skip
        for _ in range(20):
            jobs.run_once(self.db, now_us(), 32768)
        ConfigurationReconciler(self.db, 32768, 300).run_once()

    def _fill(self, session: Any, device: str, word: str, now: int) -> dict[str, str]:
        born(session, Birth(device=device, session="s", epoch="e", profile=word, asset_path="acme/a/hall-2"), now)
        tags.change(session, device_registry.get_device(session, device), {"word": word}, now, actor=word)
        for name in ("", "gates"):
            twins.update_desired(session, device, name, {"a": word}, now, actor=word, max_bytes=32768)
            twins.update_desired(session, device, name, {"b": word}, now, actor=word, max_bytes=32768)
        source = StreamOffsets(session).get((device, "e", "telemetry")).source
        said = [Sample(metric="m", t_us=now, value=word), Sample(metric="n", t_us=now - 1_000_000, value=1.0)]
        samples.store_samples(session, samples.sample_rows(device, source, enumerate(said, 1)))
        device_registry.record_lost_range(session, [(source, 2, 3, word)])
        samples.store_events(session, device, source, [(1, Event(t_us=now, source=word, text=word))], "")
        alarm = Alarm(id=f"a-{device}", metric=f"{word}/age_s", kind="high", state="raised", priority="high", t_us=now,
                      value=9, limit=2)  # fmt: skip
        incidents.handle_alarm(session, device, alarm, now, "")
        quiet = Suppression(id="", method="shelved", device=device, metric=f"{word}.quiet", reason=word, actor=word,
                            created_us=0, from_us=0, until_us=now + 10**10)  # fmt: skip
        suppression.create(session, quiet, now)
        session.flush()
        incident = session.exec(select(Incident).where(Incident.device == device)).one()
        action = propose_command(action_service(), session, incident, "capture", word, now)
        command, _ = commands.create(session, device, "restart", word, now, actor=word)
        session.add(EscalationRow(id=f"e-{device}", device=device, model=word, digest="", number=1, reason=word,
                                  label=word, margin=0.1, height=1, width=1, frame=b"x", t_us=now,
                                  received_us=now))  # fmt: skip
        session.add(Notification(id=f"n-{device}", channel="ops", page=incident.id, device=device, since_us=now,
                                 error=word))  # fmt: skip
        watched, _ = rollout_service.start(
            session, [device], [Limits(metric=f"{word}.x", high=1)], now, actor=word, watch_s=60, max_alarms=1,
            max_bytes=32768, trace="",
        )  # fmt: skip
        scope = ["acme/a"] if word == "plain" else ["acme/b"] if device == THEIRS else None
        job = Job(
            id="",
            kind="tags",
            query=f"id = '{device}' OR tags.word = '{word}!'",
            content={"j": word},
            actor=word,
            created_us=now,
            start_us=now,
            deadline_us=now + 10**12,
            scope=scope,
        )
        made = jobs.create(session, job, 32768)
        plan = PlaybookCatalogue().plan("restart-model", {"device": device, "model": word})
        asks = [StepVerdict(step="restart", decision="approve", approvals=1, roles=("operator",), reason=word)]
        run = playbooks.propose(session, plan, asks, now, actor=word, scope=tuple(scope) if scope else None)
        number = f"{word}-{device}"
        session.add(Configuration(id=number, target=f"id = '{device}'", content={"conf": {"w": word}}, actor=word,
                                  created_us=now, labels={"l": word}, scope=scope))  # fmt: skip
        session.add(LearningJob(id=number, target=f"id = '{device}'", policy=plain(TERMS), actor=word, created_us=now,
                             scope=scope, due_us=1 << 61))  # fmt: skip
        owner, text = "bob" if word == "plain" else "anna", {"x": word}
        session.add(InferenceTask(id=f"t-{device}", actor=owner, scope=scope, body=text, request_class="low",
                                  created_us=now, deadline_us=now + 10**12, next_us=now))  # fmt: skip
        session.add(FailedItem(id=number, worker="jobs", kind="job", item=f"{word} {device}", failures=5, error=word,
                               first_us=now, next_us=now, parked_us=now))  # fmt: skip
        session.add(Case(id=f"c-{device}", page=f"c-{device}", device=device, subject=word, cause=word, opened_us=1,
                         resolved_us=2, outcome="by-person", resolution=word))  # fmt: skip
        session.add(SparkplugNode(digest=f"s-{device}", node_digest=f"s-{device}", group=word, node=word, device=device,
                                  refusal=word))  # fmt: skip
        session.add(SparkplugMetric(device=device, metric=word, name=word, datatype="Int8"))
        session.add(SparkplugWrite(id=f"w-{device}", device=device, metric=word, value=word, state="refused",
                                   actor=word, why=word, requested_us=now))  # fmt: skip
        note = notes.add(session, device, word, now, actor=word)
        session.add(LearnedSeries(learning=number, device=device, metric="m", reason=word))
        session.add(
            MissedFault(id=number, device=device, metric="m", start_us=1, end_us=2, note=word, actor=word, t_us=now)
        )
        return {
            "case_id": f"c-{device}", "note_id": note.id, "write_id": f"w-{device}",
            "learning_job_id": number, "item_id": number, "task_id": f"t-{device}",
            "device": device, "thing": device, "metric": "m", "name": "gates", "incident_id": incident.id,
            "action_id": action.id, "command_id": command.id, "rollout_id": watched.id, "job_id": made.id,
            "playbook": "restart-model", "run_id": run.id, "target": plant_target(session),
            "configuration_id": number, "token_id": "none", "alarm_id": alarm.id, "suppression_id": quiet.id,
        }  # fmt: skip

    def body(self, method: str, path: str, device: str) -> dict[str, Any] | None:
        """A good body for a route, about `device`."""
        if path.endswith("/alarms/suppressions"):
            return {"device": device, "reason": "cleaning", "until_us": now_us() + 10**9}
        if path.endswith(("/merge", "/split")):
            others = [self.ids["beside"]["incident_id"]] if path.endswith("/merge") else []
            return {"incidents": others, "reason": "the same pump"}
        if path.endswith("/thresholds/fit"):
            return {"device": device, "metric": "m"}
        if path.endswith("/thresholds/backtest"):
            return {"series": [{"device": device, "metric": "m"}]}
        if (method, path) in {("POST", "/api/v1/actions"), ("POST", "/api/v1/policy/try")}:
            return {"type": "twin", "device": device, "parameters": {"patch": {"c": 1}}}
        if path.startswith("/api/v1/actions/") and not path.endswith("/decision"):
            return {} if method == "POST" else None
        if path.endswith("/dry-run") or (method, path) == ("POST", "/api/v1/playbook-runs"):
            named = {} if path.endswith("/dry-run") else {"playbook": "restart-model"}
            return named | {"parameters": {"device": device, "model": "digits"}}
        if path.endswith("/release") and "/learning-jobs/" in path:
            return {"device": device}
        if path.endswith("/sparkplug/writes"):
            return {"device": device, "metric": "m", "value": 1}
        if path.endswith("/missed-faults"):
            return {"device": device, "metric": "m", "start_us": 1, "end_us": 2}
        if path.endswith("/limits"):
            return {"devices": {device: [{"metric": "z", "high": 1}]}}
        if path.endswith("/thresholds/rollouts"):
            return {"devices": [device], "limits": [{"metric": "z", "high": 1}]}
        if method in {"PUT", "PATCH"} and "/twin" in path:
            return {"desired": {"c": 1}}
        return BODIES.get(f"{method} {path}")

    def ask(self, method: str, path: str, device: str, token: str, **query: Any) -> Any:
        """One request about `device` with a good body."""
        headers = {"Authorization": f"Bearer {token}"}
        full = path.format(**self.ids[device])
        if path.endswith("/telemetry/top"):
            query = {"metric": "n", "start_us": now_us() - 3_600_000_000} | query
        if path.endswith("/thresholds/forecast"):
            query = {"device": device, "metric": "m"} | query
        return self.client.request(method, full, headers=headers, json=self.body(method, path, device), params=query)

    def close(self) -> None:
        self.client.close()
        self.db.close()


def plant_target(session: Any) -> str:
    """A target of the autoscaler with one decision, paused; its name."""
    policy = TargetPolicy(signals=(SignalRule(name="load", per_instance=1.0),), maximum=3)
    observation, state, control = Observation(now_us=1, desired=1, fencing_token=1), State(), Control()
    decision, _ = turn(policy, state, observation, control, "experts")
    session.merge(ScalePolicy(digest="p", content=text(policy), first_us=1))
    session.merge(ScaleDecision(
        id="d", target="experts", t_us=1, action=decision.action, before=1, to=decision.to, reason=decision.reason,
        policy="p", control=text(control), state=text(state), observation=text(observation), decision=text(decision),
    ))  # fmt: skip
    session.merge(ScaleTarget(name="experts", policy="p", decision="d", desired=1, mode="paused", control_by="bert"))
    return "experts"


def routes() -> list[tuple[str, str]]:
    """Every route of the hub's own REST."""
    paths = shared_app().openapi()["paths"].items()
    return [(m.upper(), p) for p, methods in paths for m in methods if p.startswith("/api/v1/")]
