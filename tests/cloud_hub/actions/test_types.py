"""Every built-in type keeps the contract of the examiner; and what is particular to some."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.metadata import entry_points
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from examiners.actions import Stage, examine_action
from simulators import databases
from simulators.births import born
from simulators.sites import plant_target
from sqlmodel import select

from cloud_hub.actions.catalogue import Catalogue, Tools, load_catalogue
from cloud_hub.actions.core.policy import Policy
from cloud_hub.actions.service import ActionService
from cloud_hub.actions.types import webhook as webhook_type
from cloud_hub.actions.types.scale import ScaleAction, ScaleParameters
from cloud_hub.audit import trail as audit
from cloud_hub.autoscale import service
from cloud_hub.database.sessions import Database
from cloud_hub.database.tables import AppliedRow, Command, Job, ScaleTarget
from cloud_hub.devices import commands
from cloud_hub.errors import HubError
from cloud_hub.jobs import service as jobs
from cloud_hub.settings.actions import Actions, ActionWebhook
from cloud_hub.twins import service as twins
from shared.errors import NotReady
from shared.protocol.codec import encode
from shared.protocol.messages import Birth, CommandResult

DEVICE, NOW = "press-3", 1_800_000_000_000_000


class Receiver(HTTPServer):
    """An HTTP server that keeps idempotency keys. `script` are statuses that it gives first."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.bodies: dict[str, Any] = {}
        self.script: list[int] = []
        self.hang = threading.Event()
        self.hang.set()


class _Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.hang.wait(20)
        status = self.server.script.pop(0) if self.server.script else 204
        if status == 204:
            self.server.bodies.setdefault(self.headers["Idempotency-Key"], body)
        self.send_response(status)
        if status == 307:
            self.send_header("Location", "http://169.254.169.254/latest/meta-data")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Quiet."""


@contextmanager
def receiver() -> Iterator[Receiver]:
    with Receiver() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.hang.set()
            server.shutdown()
            thread.join()


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Database]:
    database = Database(databases.sqlite(tmp_path))
    with database.write() as session:
        born(session, Birth(device=DEVICE, session="s", epoch="e"), NOW)
    yield database
    database.close()


class World:
    """A device that does what is desired and answers commands, and the systems around the hub."""

    def __init__(self, db: Database, server: Receiver) -> None:
        self.db, self.mails = db, dict[str, tuple[str, str]]()
        port = server.server_address[1]
        hook = ActionWebhook(url=f"http://127.0.0.1:{port}/hook", private=True, timeout_s=0.5)
        public = ActionWebhook(url=f"http://127.0.0.1:{port}/hook")
        tools = Tools(
            settings=Actions(webhooks={"plc": hook, "public": public}),
            mailers={"ops": lambda subject, text, key: self.mails.setdefault(key, (subject, text)) and None},
        )  # fmt: skip
        self.service = ActionService(policy=Policy(rules=()), catalogue=load_catalogue(tools))
        self.report({"commands": ["script clean", "script restore"], "models": {"digits": {"starts": 1}}})

    def report(self, reported: Any, name: str = "") -> None:
        with self.db.write() as session:
            body = encode({"state": {"reported": reported}})
            twins.handle_request(session, DEVICE, name, "update", body, NOW, actor=DEVICE, max_bytes=32768)

    def desire(self, desired: Any, name: str) -> None:
        with self.db.write() as session:
            twins.update_desired(session, DEVICE, name, desired, NOW, actor="anna", max_bytes=32768)

    def desired(self, name: str) -> Any:
        with self.db.read() as session:
            return twins.load(session, DEVICE, name).state.get("desired", {})

    def respond(self) -> None:
        """The device applies, reports and answers."""
        for name in ("", "line", "models"):
            if wanted := self.desired(name):
                self.report(wanted, name)
        with self.db.write() as session:  # the autoscaler does as it is told
            row = session.get(ScaleTarget, "experts")
            if row is not None and row.override_count is not None:
                row.desired = row.override_count
        if models := self.desired("models"):
            running = {key: {"bundle": f"/srv/{value['bundle']}", "state": "running"} for key, value in models.items()}
            self.report({"models": running})
        self._acknowledge()
        jobs.run_once(self.db, NOW + 60_000_000, 32768)
        with self.db.write() as session:
            for row in session.exec(select(Command)).all():
                answer = CommandResult(id=row.id, state="succeeded", t_us=NOW, output={"code": 0.0})
                commands.handle_result(session, row.device, answer, NOW)

    def _acknowledge(self) -> None:
        with self.db.write() as session:
            version = twins.load(session, DEVICE, "thresholds").version
            if version:
                row = AppliedRow(device=DEVICE, shadow="thresholds", path="limits", version=version, state="verified",
                                 reason="", t_us=NOW)  # fmt: skip
                session.merge(row)

    def count(self, table: Any) -> int:
        with self.db.read() as session:
            return len(session.exec(select(table)).all())

    def writes(self, name: str) -> int:
        with self.db.read() as session:
            return twins.load(session, DEVICE, name).version


@pytest.fixture
def world(db: Database) -> Iterator[World]:
    with receiver() as server:
        made = World(db, server)
        made.server = server  # type: ignore[attr-defined]
        yield made


OLD, NEW = {"metric": "cpu.load", "high": 4.0}, {"metric": "cpu.load", "high": 9.0}
Make = Callable[[World], dict[str, Any]]


def counted(read: Callable[[], int]) -> Callable[[], int]:
    """Counts from what there is now."""
    first = read()
    return lambda: read() - first


def _command(world: World) -> dict[str, Any]:
    parameters = {"verb": "diagnose", "target": "processes"}
    return {"parameters": parameters, "device": DEVICE, "state": int, "effects": lambda: world.count(Command)}


def _twin(world: World) -> dict[str, Any]:
    world.desire({"speed": 1, "gone": {"x": 1}}, "line")
    effects = counted(lambda: sum(1 for row in history(world, "line") if row.actor.startswith("action:")))
    return {"parameters": {"document": "line", "patch": {"speed": 2, "gone": None, "new": {"a": [1]}}},
            "device": DEVICE, "state": lambda: world.desired("line"), "effects": effects}  # fmt: skip


def history(world: World, name: str) -> list[Any]:
    from cloud_hub.twins import history as twin_history

    with world.db.read() as session:
        return list(twin_history.changes(session, DEVICE, name, before=None, limit=100))


def _limits(world: World) -> dict[str, Any]:
    world.desire({"limits": [OLD, {"metric": "temp", "high": 80.0}]}, "thresholds")
    effects = counted(lambda: sum(1 for row in history(world, "thresholds") if row.actor.startswith("action:")))
    return {"parameters": {"set": [NEW], "remove": ["temp"]}, "device": DEVICE, "effects": effects,
            "state": lambda: sorted(map(str, world.desired("thresholds")["limits"]))}  # fmt: skip


def _model_rollback(world: World) -> dict[str, Any]:
    world.desire({"digits": {"bundle": "digits-1"}}, "models")
    world.desire({"digits": {"bundle": "digits-2", "variant": "fp32"}}, "models")
    effects = counted(lambda: sum(1 for row in history(world, "models") if row.actor.startswith("action:")))
    return {"parameters": {"model": "digits"}, "device": DEVICE, "state": lambda: world.desired("models"),
            "effects": effects, "impossible": {"model": "faces"}}  # fmt: skip


def _scale(world: World) -> dict[str, Any]:
    with world.db.write() as session:
        service.resume(session, plant_target(session), 1, actor="bert")

    def state() -> Any:
        with world.db.read() as session:
            row = session.get_one(ScaleTarget, "experts")
        return row.override_count or row.desired

    impossible = {"target": "experts", "replicas": 4}
    return {"parameters": {"target": "experts", "replicas": 3}, "state": state, "impossible": impossible,
            "effects": counted(lambda: overrides(world.db))}  # fmt: skip


def overrides(db: Database) -> int:
    """How often the policy was overridden."""
    with db.read() as session:
        return sum(row.kind == "scale.overridden" for row in audit.rows(session))


def _job(world: World) -> dict[str, Any]:
    parameters = {"kind": "tags", "query": "*", "content": {"line": "a"}}
    return {"parameters": parameters, "state": int, "effects": lambda: world.count(Job)}


def _webhook(world: World) -> dict[str, Any]:
    bodies = world.server.bodies  # type: ignore[attr-defined]

    def state() -> str:
        return "stop" if bodies and b"stop" in list(bodies.values())[-1] else "run"

    return {"parameters": {"webhook": "plc", "body": {"line": "stop"}, "undo": {"line": "run"}}, "state": state,
            "effects": lambda: len(bodies), "impossible": {"webhook": "nowhere"}}  # fmt: skip


def _email(world: World) -> dict[str, Any]:
    return {"parameters": {"channel": "ops", "subject": "Stop", "text": "line 3"}, "state": int,
            "effects": lambda: len(world.mails), "impossible": {"channel": "none", "subject": "x"}}  # fmt: skip


def _script(world: World) -> dict[str, Any]:
    def state() -> str:
        with world.db.read() as session:
            rows = session.exec(select(Command).order_by(Command.id)).all()
        return "restore" if not rows else rows[-1].target

    return {"parameters": {"script": "clean", "undo": "restore"}, "device": DEVICE, "state": state,
            "effects": lambda: world.count(Command), "impossible": {"script": "unknown"}}  # fmt: skip


STAGES: dict[str, Make] = {
    "command": _command, "twin": _twin, "limits": _limits, "model_rollback": _model_rollback, "scale": _scale,
    "job": _job, "webhook": _webhook, "email": _email, "script": _script,
}  # fmt: skip


def test_each_installed_type_is_examined() -> None:
    assert {point.name for point in entry_points(group="tidegate.actions")} == STAGES.keys()


@pytest.mark.parametrize("name", STAGES)
def test_a_type_keeps_the_contract(world: World, name: str) -> None:
    made = STAGES[name](world)
    examine_action(Stage(db=world.db, service=world.service, type=name, respond=world.respond, **made))


def test_the_examiner_finds_a_type_that_does_not_undo(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cloud_hub.actions.types.twin.inverse", lambda patch, desired: {"other": 1})
    with pytest.raises(AssertionError):
        examine_action(
            Stage(db=world.db, service=world.service, type="twin", respond=world.respond, **_twin(world))
        )  # fmt: skip


def test_a_type_must_be_one_kind_or_the_other() -> None:
    from cloud_hub.actions.types.base import BaseAction
    from shared.errors import ConfigError

    with pytest.raises(ConfigError, match="neither"):
        Catalogue({"half": BaseAction()})  # type: ignore[dict-item]


# -- webhooks ------------------------------------------------------------------------------------------


def call(world: World, name: str = "plc", key: str = "key") -> Any:
    kind: Any = world.service.catalogue.get("webhook")
    parameters = world.service.catalogue.decode("webhook", {"webhook": name, "body": {}})
    request = webhook_type.Request(id="a", device="", parameters=parameters)
    return kind.call(request, key, NOW)


@pytest.mark.parametrize(("key", "sent"), [
    ("anna/a-1#2.0", "anna/a-1#2.0"), ("Jörg/停机", "J%C3%B6rg/%E5%81%9C%E6%9C%BA"),
    ("a b\r\nX: 1\0", "a%20b%0D%0AX:%201%00"),
    ("100%", "100%25"),
])  # fmt: skip
def test_a_key_in_any_script_arrives_as_one_header(world: World, key: str, sent: str) -> None:
    assert call(world, key=key) == {"status": 204}
    assert list(world.server.bodies) == [sent]  # type: ignore[attr-defined]


def test_a_webhook_that_hangs_ends_after_its_time(world: World) -> None:
    world.server.hang.clear()  # type: ignore[attr-defined]
    with pytest.raises(NotReady, match=r"within 0\.5 s"):
        call(world)


def test_a_redirect_is_not_followed_and_not_tried_again(world: World) -> None:
    world.server.script[:] = [307]  # type: ignore[attr-defined]
    with pytest.raises(HubError, match="redirects are not followed"):
        call(world)


def test_a_busy_webhook_is_tried_again_later(world: World) -> None:
    world.server.script[:] = [503]  # type: ignore[attr-defined]
    with pytest.raises(NotReady, match="503"):
        call(world)


def test_a_private_address_needs_the_settings_consent(world: World) -> None:
    with pytest.raises(HubError, match="private network"):
        call(world, "public")
    assert not world.server.bodies  # type: ignore[attr-defined]


def test_scale_leaves_a_target_alone_that_a_person_has_paused(db: Database) -> None:
    parameters = ScaleParameters(target="experts", replicas=3)
    with db.write() as session:
        plant_target(session)
        action = ScaleAction(None)  # type: ignore[arg-type]
        request = SimpleNamespace(parameters=parameters)
        problem = action.precondition(session, request)  # type: ignore[arg-type]
        assert problem == "'experts' is paused by bert: resume it first"
        service.resume(session, "experts", 1, actor="bert")
        assert action.precondition(session, request) == ""  # type: ignore[arg-type]
