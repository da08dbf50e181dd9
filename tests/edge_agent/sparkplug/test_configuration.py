"""`[sparkplug]`: what is wrong, where, and what to do; what `check` finds; and `tidegate-edge write` on the device."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from simulators.brokers import free_port

from edge_agent.checks import run_checks
from edge_agent.cli.main import main
from edge_agent.config import parse
from edge_agent.sparkplug import local_cli
from edge_agent.sparkplug.core.switches import MAX_S
from edge_agent.sparkplug.switches import SwitchFile
from edge_agent.store.statestore import StateStore
from shared.errors import EXIT_CONFIG, ConfigError

DEVICE = """[device]
id = "press-1"
profile = "x86-64"
state_dir = "{folder}"
[link]
discover = false
address = "127.0.0.1:1"
"""
NODE = '[sparkplug]\ngroup = "plant"\nservers = [{ address = "127.0.0.1:1883" }]\n'
WRITABLE = '[[sparkplug.writable]]\nmetric = "settings.period_s"\nlow = 0.2\nhigh = 5\n'


def one(text: str) -> str:
    return f"[[sparkplug.devices]]\n{text}"


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        ("[sparkplug]\ngroup = 'a'", "$.sparkplug", "servers"),
        ("[sparkplug]\ngroup = 'a'\nservers = []", "$.sparkplug", "number of servers must be within 1..8"),
        (NODE.replace("plant", "pla/nt"), "$.sparkplug", "reserved"),
        (NODE + "node = 'a+'", "$.sparkplug", "reserved"),
        (NODE + "primary_host = '#'", "$.sparkplug", "reserved"),
        (NODE.replace("}]", "}, { address = '127.0.0.1:1883' }]"), "$.sparkplug", "there twice in servers"),
        (NODE.replace(" }", ", protocol = '4' }"), "$.sparkplug.servers[0].protocol", "allowed: 3.1.1, 5"),
        (NODE.replace(" }", ", password_file = 'x' }"), "$.sparkplug.servers[0]", "needs a username"),
        (NODE.replace(" }", ", tls = { ca = 'x', key = 'y' } }"), "$.sparkplug.servers[0].tls", "both certificate"),
        (NODE + "publish_s = 0", "$.sparkplug", "publish_s must be within 0.05..60"),
        (NODE + "buffer_mb = nan", "$.sparkplug", "buffer_mb"),
        (NODE + "deadband = -1", "$.sparkplug", "deadband must be"),
        (NODE + "deadband_percent = 101", "$.sparkplug", "within 0..100"),
        (NODE + "names = 'same'", "$.sparkplug", "the same name"),
        (NODE + "names = '{metric.upper}'", "$.sparkplug", "there are {metric}, {path}"),
        (NODE + "names = '{metric!r}'", "$.sparkplug", "there are {metric}, {path}"),
        (NODE + "names = '{metric'", "$.sparkplug", "Write for example"),
        (NODE + one("id = 'a'\nmetrics = []"), "$.sparkplug.devices[0]", "metrics is empty"),
        (NODE + one("id = 'a'\nmetrics = ['*']\n") * 2, "$.sparkplug", "'a' is there twice in devices"),
        (NODE + "[[sparkplug.writable]]\nmetric = 'a'", "$.sparkplug.writable[0]", "needs both low and high"),
        (NODE + WRITABLE + "only_while = 'b'", "$.sparkplug.writable[0]", "compare it"),
        (NODE + WRITABLE * 2, "$.sparkplug", "there twice in writable"),
        (NODE + WRITABLE + "lowest = 1", "$.sparkplug.writable[0]", "unknown field `lowest`"),
    ],
)
def test_an_error_names_the_place_and_the_cure(text: str, place: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(DEVICE.format(folder="x") + text, "edge.toml")
    assert place in str(caught.value)
    assert words in str(caught.value)


# -- check ---------------------------------------------------------------------------------------------


@pytest.fixture
def config(tmp_path: Path) -> Path:
    file = tmp_path / "edge.toml"
    (tmp_path / "state").mkdir()
    file.write_text(DEVICE.format(folder=tmp_path / "state") + NODE + WRITABLE, "utf-8")
    return file


def add(config: Path, text: str, **replaced: str) -> None:
    found = config.read_text("utf-8")
    for old, new in replaced.items():
        found = found.replace(old, new)
    config.write_text(found + text, "utf-8")


def test_check_finds_what_a_plant_would_trip_over(config: Path) -> None:
    more = (
        '[[sparkplug.writable]]\nmetric = "press.speed"\nlow = 0\nhigh = 1\nonly_while = "cpu.lod == 0"\n'
        '[[sparkplug.devices]]\nid = "empty"\nmetrics = ["nothing.*"]\n'
        '[[sparkplug.devices]]\nid = "some"\nmetrics = ["cpu.*", "cpu/load"]\n[[collectors]]\nkind = "host"\n'
    )
    servers = f"127.0.0.1:{free_port()}"
    add(config, more, **{"127.0.0.1:1883": servers})
    found = run_checks(config)
    text = "\n".join(found.warnings)
    assert f"sparkplug.servers[0]: no broker answers on {servers}" in text
    assert "sparkplug.writable 'press.speed': no collector here can set it" in text
    assert "sparkplug.writable 'press.speed': no collector here declares 'cpu.lod'" in text
    assert "sparkplug.devices 'empty': no metric here matches" in text
    assert "sparkplug.devices 'some': no metric here matches 'cpu/load'" in text
    assert "'cpu.*'" not in text
    assert "settings.period_s" not in text
    assert not [problem for problem in found.problems if "sparkplug" in problem]


def test_check_refuses_files_that_are_not_there(config: Path) -> None:
    server = '127.0.0.1:1883", username = "u", password_file = "/none/p", tls = { ca = "/none/ca" }, protocol = "5'
    add(config, "", **{"127.0.0.1:1883": server})
    text = "\n".join(run_checks(config).problems)
    assert "sparkplug.servers[0].password_file: /none/p is not there" in text
    assert "sparkplug.servers[0].tls.ca: /none/ca is not there" in text


def test_check_warns_of_a_server_without_tls_and_of_names_that_clash(config: Path) -> None:
    add(config, '[[collectors]]\nkind = "host"\n', **{
        "127.0.0.1:1883": "broker.example.invalid:1883", '"plant"\n': '"plant"\nnames = "Alarms/{metric}"\n',
    })  # fmt: skip
    text = "\n".join(run_checks(config).warnings)
    assert "is reached without TLS" in text
    assert "'cpu.load' is not published: begins like a name of the edge node itself" in text


# -- the command line ----------------------------------------------------------------------------------


def run(config: Path, *arguments: str) -> int:
    return main(["write", *arguments, "--config", str(config)])


def test_writes_are_off_until_they_are_enabled_and_end_by_themselves(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = SwitchFile(config.parent / "state")
    assert run(config, "list") == 0
    assert capsys.readouterr().out == "settings.period_s: off; 0.2..5, 6 a minute\n"
    assert not file.enabled("settings.period_s")
    assert run(config, "enable", "settings.period_s", "--for", "8h", "--reason", "shift 2") == 0
    assert "enabled until" in capsys.readouterr().out
    assert file.enabled("settings.period_s")
    assert not file.enabled("settings.log_level")
    assert SwitchFile(config.parent / "state").read()["settings.period_s"].reason == "shift 2"
    assert (file.path.stat().st_mode & 0o777) == 0o600
    assert run(config, "disable") == 0
    assert capsys.readouterr().out == "disabled: settings.period_s\n"
    assert not file.enabled("settings.period_s")
    assert run(config, "disable") == 0
    assert capsys.readouterr().out == "nothing was enabled\n"


def test_disabling_a_metric_that_is_not_enabled_fails_and_names_what_still_is(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(config, "enable", "settings.period_s", "--for", "8h") == 0
    assert run(config, "disable", "settings.perod_s") == 1
    assert "was not enabled: settings.perod_s. Still enabled: settings.period_s" in capsys.readouterr().err
    assert SwitchFile(config.parent / "state").enabled("settings.period_s")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("enable", "settings.perod_s", "--for", "8h"), EXIT_CONFIG, "did you mean 'settings.period_s'"),
        (("enable", "settings.period_s", "--for", "8"), 2, "write for example 30m, 8h or 2d"),
        (("enable", "settings.period_s", "--for", "0h"), 2, "at most 31 days"),
        (("enable", "settings.period_s", "--for", "32d"), 2, "at most 31 days"),
        (("try", "other", "1"), EXIT_CONFIG, "is not declared writable"),
    ],
)
def test_a_mistake_is_named(
    config: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], code: int, words: str
) -> None:
    assert run(config, *arguments) == code
    assert words in capsys.readouterr().err
    assert dict(SwitchFile(config.parent / "state").read()) == {}


def test_before_the_agent_has_run_nothing_is_made_for_it(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (config.parent / "state").rmdir()
    assert run(config, "enable", "settings.period_s", "--for", "8h") == 1
    assert "start the agent once" in capsys.readouterr().err
    assert not (config.parent / "state").exists()
    assert run(config, "list") == 0


def test_without_sparkplug_there_is_nothing_to_enable(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "edge.toml"
    file.write_text(DEVICE.format(folder=tmp_path), "utf-8")
    assert run(file, "list") == EXIT_CONFIG
    assert "Add a table [sparkplug]" in capsys.readouterr().err


SWITCH = b'[{"metric": "settings.period_s", "since_us": 0, "boot_id": "", "boot_s": 0, "until_us": %b}]'


@pytest.mark.parametrize(
    "content",
    [
        b"", b"[", b"{}", b'[{"metric": 1}]', b"\xff\xfe", b"[" * 100_000,
        SWITCH % (b"9" * 400), SWITCH % (b'1, "more": ' + b"[" * 100_000),
    ],
)  # fmt: skip
def test_a_damaged_file_means_off_and_disable_mends_it(
    config: Path, capsys: pytest.CaptureFixture[str], content: bytes
) -> None:
    file = SwitchFile(config.parent / "state")
    file.enable(["settings.period_s"], 3600)
    assert file.enabled("settings.period_s")
    file.path.write_bytes(content)
    assert not file.enabled("settings.period_s")
    assert "all writes are off" in file.problem
    assert run(config, "list") == EXIT_CONFIG
    assert run(config, "disable") == 0
    assert run(config, "list") == 0
    file.read()
    assert file.problem == ""


def test_a_trial_without_an_agent_waits_for_it(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = StateStore(config.parent / "state" / "kept.sqlite")
    store.put("sparkplug:outcomes", {"settings.period_s": "verified: 0.5\x1b[31m"})
    assert run(config, "try", "settings.period_s", "1", "--wait", "0") == 75
    assert "is it running" in capsys.readouterr().err
    assert store.write_trials() == [(1, {"metric": "settings.period_s", "value": 1})]
    assert store.requests() == store.questions() == []
    store.close()
    assert run(config, "list") == 0
    assert "last: verified: 0.5\\x1b[31m" in capsys.readouterr().out


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("30m", 1800), ("1.5h", 5400), ("31d", MAX_S)])
def test_durations(text: str, seconds: float) -> None:
    assert local_cli.duration_s(text) == seconds


def test_status_shows_the_store_for_outages(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from edge_agent.sparkplug.service import FILE
    from edge_agent.store.outbox import Outbox, RowBatch

    for name, items in (("outbox.sqlite", 0), (FILE, 3)):
        store = Outbox(config.parent / "state" / name, 10**6, "e")
        if items:
            store.accept([RowBatch(stream="telemetry", items=[["", "a", 1, 1.0, 192]] * items)], "synced")
        store.close()
    assert main(["status", "--config", str(config), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["sparkplug"] == {"waiting": 3, "lost": 0}
    assert main(["status", "--config", str(config)]) == 0
    assert "sparkplug   waiting         3" in capsys.readouterr().out
