"""Both programs at the command line, as real processes: exit codes, and words that help."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from simulators.brokers import KINDS, Kind, broker_process, embedded_broker, free_port, listens, until
from simulators.certificates import certificates
from simulators.glm import GlmSimulator

from cloud_hub import __main__ as hub_main
from cloud_hub.access.tokens import find
from cloud_hub.audit import trail
from cloud_hub.clock import now_us
from cloud_hub.database.sessions import Database
from cloud_hub.database.tables import EscalationRow
from cloud_hub.security import aws_key
from cloud_hub.security.core.roles import MAY
from cloud_hub.settings import read
from edge_agent.cli import main as edge_main
from edge_agent.store.outbox import Outbox, RowBatch
from shared.errors import EXIT_CONFIG
from shared.protocol.messages import Event

DIGITS = Path(__file__).parents[3] / "cloud_hub" / "demo" / "assets" / "digits-edge"
SCRIPTS = sysconfig.get_path("scripts")


def hub_toml(folder: Path, more: str = "", *, mqtt: int = 1, rest: int = 0) -> Path:
    file = folder / "hub.toml"
    file.write_text(
        f'state_dir = "{folder / "hub"}"\n{more}\n[mqtt]\naddress = "127.0.0.1:{mqtt}"\n'
        f"[rest]\nport = {rest}\n[discovery]\nannounce = false\n",
        "utf-8",
    )
    return file


def edge_toml(folder: Path, more: str = "", head: str = 'id = "press-3"\nprofile = "x86-64"') -> Path:
    file = folder / "edge.toml"
    file.write_text(
        f'[device]\n{head}\nstate_dir = "{folder / "edge"}"\n'
        f'[link]\ndiscover = false\naddress = "127.0.0.1:1883"\n{more}',
        "utf-8",
    )
    return file


def run(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    found = shutil.which(program, path=SCRIPTS)
    assert found, "tidegate is not installed in this environment"
    return subprocess.run([found, *arguments], capture_output=True, text=True, timeout=50, check=False)


# -- help ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command",
    [
        "",
        "serve",
        "check",
        "migrate",
        "token",
        "ca",
        "ca init",
        "ca show",
        "ca issue-server",
        "ca claim",
        "ca list",
        "ca revoke",
        "ca crl",
        "command",
        "command send",
        "command show",
        "command list",
        "command cancel",
        "broker",
        "demo",
    ],
)
def test_every_command_of_the_hub_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        hub_main.main([*command.split(), "--help"])
    assert ended.value.code == 0
    assert f"usage: tidegate-hub {command}".strip() in capsys.readouterr().out


@pytest.mark.parametrize("command", ["", "run", "check", "status"])
def test_every_command_of_the_edge_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        edge_main.main([*([command] if command else []), "--help"])
    assert ended.value.code == 0
    assert f"usage: tidegate-edge {command}".strip() in capsys.readouterr().out


@pytest.mark.parametrize("program", ["tidegate-hub", "tidegate-edge"])
def test_the_installed_programs_tell_their_version(program: str) -> None:
    made = run(program, "--version")
    assert (made.returncode, made.stdout.startswith("tidegate ")) == (0, True)


@pytest.mark.parametrize("arguments", [[], ["nonsense"], ["token", "create"], ["token", "create", "--name", "x", "--role", "king"]])  # fmt: skip  # noqa: E501
def test_wrong_use_is_told(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        hub_main.main(arguments)
    assert ended.value.code == 2


# -- the hub ---------------------------------------------------------------------------------------


def test_a_token_may_have_every_role_there_is(tmp_path: Path) -> None:
    config = ["--config", str(hub_toml(tmp_path))]
    roles = [word for role in MAY for word in ("--role", role)]
    assert hub_main.main(["token", "create", "--name", "all", *roles, "--out", str(tmp_path / "t"), *config]) == 0


def test_check_without_a_broker(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    port = free_port()
    assert hub_main.main(["check", "--config", str(hub_toml(tmp_path, mqtt=port))]) == EXIT_CONFIG
    said = capsys.readouterr().err
    assert f"problem: mqtt.address: no broker answers on 127.0.0.1:{port}" in said
    assert "tidegate-hub broker" in said


def test_check_and_serve_without_their_postgresql(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = hub_toml(tmp_path, 'database = "postgresql://anna:secret@127.0.0.1:1/hub"')
    assert hub_main.main(["check", "--config", str(file)]) == EXIT_CONFIG
    said = capsys.readouterr().err
    assert "problem: database: postgresql+psycopg://anna:***@127.0.0.1:1/hub does not let the hub in" in said
    assert "Is PostgreSQL running" in said
    assert hub_main.main(["migrate", "--config", str(file)]) == 1  # not 78: systemd tries again
    assert "secret" not in said + capsys.readouterr().err


def test_migrate_on_postgresql_tells_no_password(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], postgres_server: Any
) -> None:
    with postgres_server.database("template1") as url:
        file = hub_toml(tmp_path, f'database = "{url.replace("tidegate@", "tidegate:secret@")}"')
        for _ in range(2):
            assert hub_main.main(["migrate", "--config", str(file)]) == 0
            said = capsys.readouterr()
            assert "schema is up to date" in said.out
            assert "secret" not in said.out + said.err


def test_check_when_all_is_well(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with embedded_broker(tmp_path) as (_, port):
        file = hub_toml(tmp_path, mqtt=port, rest=free_port())
        assert hub_main.main(["check", "--config", str(file)]) == 0
    assert f"well. Start it with: tidegate-hub serve --config {file}" in capsys.readouterr().out


@pytest.mark.parametrize(("more", "says"), [
    ("[experts.bundles]\ndigits = '/nowhere'", "problem: experts.bundles.digits"),
    ("[autoscale]\ntargets_file = '/nowhere.yaml'", "problem: autoscale.targets_file: /nowhere.yaml: cannot be read"),
    ("[[inference.pools]]\nname = 'large'\nengine = 'oracle'", "there is no engine 'oracle'"),
    ("[twins]\naws_key_file = '/nowhere'", "Make it: tidegate-hub token create --aws"),
    ("[twins]\naws_key_file = '/'", "problem: twins.aws_key_file: /: cannot be read"),
    ("[oidc]\nissuer = 'https://x'\naudience = 'a'\njwks_url = 'http://x'", "oidc.jwks_url: 'http://x' is not https"),
    ("nonsense = 1", "nonsense"),
    ("[twins", "Mend the TOML"),
])  # fmt: skip
def test_check_names_each_problem(tmp_path: Path, capsys: pytest.CaptureFixture[str], more: str, says: str) -> None:
    assert hub_main.main(["check", "--config", str(hub_toml(tmp_path, more))]) == EXIT_CONFIG
    assert says in capsys.readouterr().err


def checked(folder: Path, capsys: pytest.CaptureFixture[str], more: str) -> tuple[list[str], list[str]]:
    """(problems, warnings) of `check`, beside those of the broker that is not there."""
    hub_main.main(["check", "--config", str(hub_toml(folder, more))])
    lines = [line for line in capsys.readouterr().err.splitlines() if "mqtt.address" not in line]
    found = [[line for line in lines if line.startswith(kind)] for kind in ("problem: ", "warning: ")]
    assert sum(map(len, found)) == len(lines)
    return found[0], found[1]


def test_check_names_models_whose_escalations_have_no_expert(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "hub").mkdir()
    file = hub_toml(tmp_path)
    db = Database(read(file).database_url)
    with db.write() as session:
        session.add(EscalationRow(
            id="1", device="press-3", model="weld", digest="d", number=1, reason="no-gate", label="ok", margin=0.1,
            height=1, width=1, frame=b"x", t_us=now_us(), received_us=now_us(),
        ))  # fmt: skip
    db.close()
    problems, (line,) = checked(tmp_path, capsys, "")
    assert problems == []
    assert "escalations of model 'weld' arrive and no expert is configured" in line


def test_check_asks_each_address_of_a_pool(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    key = tmp_path / "key"
    key.write_text("secret-key-4711")
    key.chmod(0o600)
    with GlmSimulator() as engine:
        glm = f"[[inference.pools]]\nname = 'large'\naddresses = ['{engine.url}']\nmodel = '{engine.model}'\n"
        assert checked(tmp_path, capsys, f"{glm}key_file = '{key}'") == ([], [])
        assert len(engine.requests) == 1
        (line,), _ = checked(tmp_path, capsys, glm)
        assert "the key is not accepted (HTTP 401)" in line
        (line,), _ = checked(tmp_path, capsys, f"{glm}key_file = '/nowhere'")
        assert "key_file: '/nowhere' No such file" in line
        (line,), _ = checked(tmp_path, capsys, glm.replace(engine.model, "another") + f"key_file = '{key}'")
        assert "no such address or model" in line
    problems, (line,) = checked(tmp_path, capsys, f"{glm}key_file = '{key}'")
    assert problems == []
    assert "inference.pools.large: " in line
    assert "cannot be reached" in line


def test_check_opens_the_experts_and_asks_the_scaler(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = shutil.copytree(DIGITS, tmp_path / "bundle")
    assert checked(tmp_path, capsys, f"[experts.bundles]\ndigits = '{bundle}'") == ([], [])
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["inputs"][0]["shape"] = [1, 9, 9]
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    (line,), _ = checked(tmp_path, capsys, f"[experts.bundles]\ndigits = '{bundle}'")
    assert "experts.bundles.digits" in line
    token = tmp_path / "token"
    token.write_text("t")
    token.chmod(0o600)
    targets = tmp_path / "targets.yaml"
    options = f"url: 'http://127.0.0.1:1', namespace: n, deployment: d, token_file: '{token}'"
    targets.write_text(
        f"targets:\n- name: web\n  platform: {{kind: kubernetes, options: {{{options}}}}}\n  maximum: 4\n"
        "  signals: [{name: load, source: {type: escalations}, unit: 1/s, per_instance: 5}]\n"
    )
    problems, warnings = checked(tmp_path, capsys, f"[autoscale]\ntargets_file = '{targets}'")
    assert (len(problems), len(warnings)) in {(0, 1), (1, 0)}
    assert "target web" in "".join(problems + warnings)


def test_check_finds_certificates_that_are_no_pair(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    certificates(tmp_path, "hub", "other")
    for file in tmp_path.glob("*.key"):
        file.chmod(0o600)
    for key, problems in (("hub", 1), ("other", 1)):  # made for a day: that one ends soon is told as well
        tls = f"certificate = '{tmp_path / 'hub.pem'}'\nkey = '{tmp_path / key}.key'\n"
        for table, ca in (("rest.tls", ""), ("mqtt.tls", f"ca = '{tmp_path / 'ca.pem'}'\n")):
            found, _ = checked(tmp_path, capsys, f"[{table}]\n{ca}{tls}")
            assert len(found) == problems
            assert ("are no pair that can be used" in found[0]) == (key == "other")
            assert ("ends on" in found[0]) == (key == "hub")


def test_check_says_that_a_state_folder_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert checked(tmp_path, capsys, "") == ([], [])
    assert not (tmp_path / "hub").exists()
    (tmp_path / "hub").touch()
    (line, *_), _ = checked(tmp_path, capsys, "")
    assert f"state_dir: {tmp_path / 'hub'} cannot be written" in line


def test_check_on_a_busy_port_and_an_address_that_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        file = hub_toml(tmp_path, rest=busy.getsockname()[1])
        hub_main.main(["check", "--config", str(file)])
    assert "warning: rest: cannot listen on 127.0.0.1" in capsys.readouterr().err
    for address, says in (("mqtt://h:1883", "leave 'mqtt://' away"), ("broker.invalid:1883", "cannot be resolved")):
        file.write_text(f'state_dir = "{tmp_path}"\n[mqtt]\naddress = "{address}"\n')
        assert hub_main.main(["check", "--config", str(file)]) == EXIT_CONFIG
        assert says in capsys.readouterr().err


def test_a_variable_of_the_environment_that_nobody_reads(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIDEGATE_XYZZY", "1")
    (line,), _ = checked(tmp_path, capsys, "")
    assert "environment variable TIDEGATE_XYZZY: there is no such setting" in line
    monkeypatch.setenv("TIDEGATE_STATE_DIRR", str(tmp_path))
    (line,), _ = checked(tmp_path, capsys, "")
    assert "did you mean 'TIDEGATE_STATE_DIR'?" in line


@pytest.mark.parametrize("command", [["token", "create", "--name", "anna"], ["ca", "claim", "press-3"]])
def test_a_secret_is_written_for_its_owner_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    config = ["--config", str(hub_toml(tmp_path))]
    hub_main.main(["migrate", *config])
    hub_main.main(["ca", "init", *config])
    capsys.readouterr()
    out = tmp_path / "secret"
    before = os.umask(0)
    try:
        assert hub_main.main([*command, *config, "--out", str(out)]) == 0
    finally:
        os.umask(before)
    assert out.stat().st_mode & 0o777 == 0o600
    assert len(out.read_text().split()) == 1
    assert out.read_text().strip() not in capsys.readouterr().out
    assert hub_main.main([*command, *config, "--out", str(out)]) == EXIT_CONFIG
    assert "Give the name of a new file" in capsys.readouterr().err


def test_check_finds_secrets_that_others_may_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    key = tmp_path / "key"
    key.write_text("secret")
    more = f"[notify.ops]\nkind = 'webhook'\nurl = 'http://127.0.0.1:1'\nsecret_file = '{key}'"
    key.chmod(0o600)
    assert checked(tmp_path, capsys, more) == ([], [])
    key.chmod(0o644)
    _, (line,) = checked(tmp_path, capsys, more)
    assert f"notify.ops.secret_file: others may read {key}. Run: chmod 600 {key}" in line


@pytest.mark.parametrize("command", [["serve"], ["check"], ["migrate"], ["token", "create", "--name", "x"]])
def test_a_configuration_that_is_not_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    assert hub_main.main([*command, "--config", str(tmp_path / "nowhere.toml")]) == EXIT_CONFIG
    assert "nowhere.toml: is not there" in capsys.readouterr().err


def test_serve_on_a_busy_port(tmp_path: Path) -> None:
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        port = busy.getsockname()[1]
        made = run("tidegate-hub", "serve", "--config", str(hub_toml(tmp_path, rest=port)))
    assert made.returncode == EXIT_CONFIG
    assert f"cannot listen on 127.0.0.1:{port}" in made.stderr
    assert "Traceback" not in made.stderr


def test_migrate_makes_the_database_and_may_be_repeated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = hub_toml(tmp_path)
    for _ in range(2):
        assert hub_main.main(["migrate", "--config", str(file)]) == 0
    assert capsys.readouterr().out.count("schema is up to date") == 2
    assert (tmp_path / "hub" / "hub.sqlite").is_file()


@pytest.mark.parametrize("kind", KINDS)
def test_check_says_aws_to_the_broker(tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: Kind) -> None:
    broker = broker_process(kind, tmp_path / "broker")
    broker.start()
    try:
        file = hub_toml(tmp_path, "[twins]\naws_alias = true", mqtt=broker.port, rest=free_port())
        assert hub_main.main(["check", "--config", str(file)]) == (0 if kind == "mosquitto" else EXIT_CONFIG)
    finally:
        broker.stop()
    said = capsys.readouterr().err
    assert ("problem: twins.aws_alias: no $aws topics here" in said) == (kind == "embedded")
    assert ("Use mosquitto" in said) == (kind == "embedded")


def test_check_finds_an_aws_key_that_others_may_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = str(hub_toml(tmp_path))
    assert hub_main.main(["token", "create", "--config", file, "--name", "boto", "--aws"]) == 0
    key = tmp_path / "hub" / "aws.key"
    for mode, found in ((0o600, False), (0o604, True)):
        key.chmod(mode)
        hub_main.main(["check", "--config", file])
        assert (f"Run: chmod 600 {key}" in capsys.readouterr().err) is found


def test_a_token_for_aws_clients_comes_with_its_key_pair(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = str(hub_toml(tmp_path, f"[twins]\naws_key_file = '{tmp_path / 'shared.key'}'"))
    assert hub_main.main(["token", "create", "--config", file, "--name", "boto", "--aws"]) == 0
    text, key_id, secret = capsys.readouterr().out.splitlines()
    db = Database(f"sqlite:///{tmp_path / 'hub' / 'hub.sqlite'}")
    with db.read() as session:
        token = find(session, text, now_us())
    db.close()
    assert key_id == f"aws_access_key_id = {token.id}"
    assert secret == f"aws_secret_access_key = {aws_key.secret((tmp_path / 'shared.key').read_bytes(), token.id)}"


def test_a_token_is_made_shown_once_and_ended(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = str(hub_toml(tmp_path))
    assert hub_main.main(["token", "create", "--config", file, "--name", "anna", "--role", "operator"]) == 0
    text = capsys.readouterr().out.strip()
    db = Database(f"sqlite:///{tmp_path / 'hub' / 'hub.sqlite'}")
    with db.read() as session:
        token = find(session, text, now_us())
        assert (token.name, token.role) == ("anna", "operator")
    assert hub_main.main(["token", "revoke", "--config", file, "--name", "anna"]) == 0
    assert "1 tokens of 'anna' revoked" in capsys.readouterr().out
    with db.read() as session:
        kinds = [row.kind for row in trail.rows(session)]
    db.close()
    assert kinds == ["token.revoked", "token.created"]


def test_serve_starts_without_a_broker_and_ends_on_sigterm(tmp_path: Path) -> None:
    port = free_port()
    program = shutil.which("tidegate-hub", path=SCRIPTS)
    assert program
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [program, "serve", "--config", str(hub_toml(tmp_path, rest=port, mqtt=free_port()))], stderr=log
        )
        until("the hub answers", lambda: listens(port))
        process.send_signal(signal.SIGTERM)
        process.wait(20)
    assert "broker.down" in (tmp_path / "log").read_text("utf-8")
    assert "Traceback" not in (tmp_path / "log").read_text("utf-8")


def test_the_broker_command(tmp_path: Path) -> None:
    mqtt3, mqtt5 = free_port(), free_port()
    program = shutil.which("tidegate-hub", path=SCRIPTS)
    assert program
    process = subprocess.Popen(
        [program, "broker", "--mqtt3", str(mqtt3), "--mqtt5", str(mqtt5)], stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout
        assert "EMBEDDED BROKER: for trying out" in process.stdout.readline()
        until("both ports listen", lambda: listens(mqtt3) and listens(mqtt5))
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0


# -- the edge --------------------------------------------------------------------------------------


def test_edge_check_when_all_is_well(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "frames.npy", np.zeros((2, 8, 8), np.uint8))
    more = f'[[collectors]]\nkind = "host"\n[[collectors]]\nkind = "images"\npath = "{tmp_path / "frames.npy"}"\n'
    edge_main.main(["check", "--config", str(edge_toml(tmp_path, more))])
    said = capsys.readouterr()
    problems = [line for line in said.err.splitlines() if line.startswith("problem: ")]
    assert [line for line in problems if "is not the file that was installed" not in line] == []


@pytest.mark.parametrize(("more", "says"), [
    ("[nonsense", "docs/configuration.md"),
    ("nonsense = 1", "unknown field"),
    ("[outbox]\nmax_mb = 'much'", "max_mb"),
    ("[settings]\nperiod_s = 0", "period_s must be within"),
    ("[[collectors]]\nname = 'x'", "kind"),
    ("[[collectors]]\nkind = 'thermometer'", "there is no collector 'thermometer'"),
    ("[[collectors]]\nkind = 'images'\npath = '/nowhere.npy'", "Set `path` to a .npy file"),
    ("[[collectors]]\nkind = 'host'\n[[collectors]]\nkind = 'host'", "is there twice"),
    ("[[models]]\nname = 'digits'\nbundle = '/nowhere'\nframes = 'camera'", "no collector is named 'camera'"),
    ("[[limits]]\nmetric = 'cpu.load'", "neither a low nor a high"),
])  # fmt: skip
def test_edge_check_names_each_problem(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], more: str, says: str
) -> None:
    assert edge_main.main(["check", "--config", str(edge_toml(tmp_path, more))]) == EXIT_CONFIG
    assert says in capsys.readouterr().err


@pytest.mark.parametrize(("head", "says"), [
    ('id = "Press 3"\nprofile = "x86-64"', "is no device id"),
    ('id = "press-3"\nprofile = "abacus"', "there is no profile 'abacus'"),
    ('profile = "x86-64"', "id"),
])  # fmt: skip
def test_a_device_that_cannot_be(tmp_path: Path, capsys: pytest.CaptureFixture[str], head: str, says: str) -> None:
    file = str(edge_toml(tmp_path, head=head))
    for command in ("check", "run", "status"):
        assert edge_main.main([command, "--config", file]) == EXIT_CONFIG
        assert says in capsys.readouterr().err


def test_edge_files_that_cannot_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    for name in ("nowhere.toml", "binary.toml"):
        for command in ("check", "run", "status"):
            assert edge_main.main([command, "--config", str(tmp_path / name)]) == EXIT_CONFIG
            assert "cannot be read" in capsys.readouterr().err


def test_a_run_with_a_bad_configuration_ends_with_78() -> None:
    made = run("tidegate-edge", "run", "--config", "nowhere.toml")
    assert made.returncode == EXIT_CONFIG
    assert "Traceback" not in made.stderr


def test_status_before_the_first_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert edge_main.main(["status", "--config", str(edge_toml(tmp_path))]) == 1
    assert "has not run yet" in capsys.readouterr().err


def test_status_tells_what_the_outbox_holds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import json

    file = str(edge_toml(tmp_path))
    (tmp_path / "edge").mkdir()
    outbox = Outbox(tmp_path / "edge" / "outbox.sqlite", 10_000_000, "e1")
    outbox.accept(
        [RowBatch(stream="event", items=[Event(t_us=1, source="s", text=str(n)) for n in range(5)])], "synced"
    )
    outbox.forget("event", 2)
    assert edge_main.main(["status", "--config", file]) == 0
    assert "accepted         5  at the hub         2  waiting       3" in capsys.readouterr().out
    assert edge_main.main(["status", "--json", "--config", file]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["device"], found["epoch"], found["streams"]["event"]) == (
        "press-3", "e1", {"accepted": 5, "at_hub": 2},
    )  # fmt: skip
    outbox.close()
