"""The documentation against the code: what the code knows is on its page, and what a page names is there."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import msgspec
import numpy as np
import pytest
import tomllib
from examiners.tasks import examine_task
from pydantic import BaseModel
from simulators.brokers import until
from simulators.task_models import manifest, weighted

import shared.errors
from cloud_hub import __main__ as hub_main
from cloud_hub import settings as hub_settings
from cloud_hub.api.routes import create_rest_app
from cloud_hub.settings import channels
from edge_agent import config as edge_config
from edge_agent.cli import main as edge_main
from edge_agent.config import sparkplug as edge_sparkplug
from shared.plant.write_rules import WriteRule
from shared.protocol.topics import TABLE
from shared.thresholds import Expression, Flat, Limits, NoData, Rate

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
INDEX_HOSTS = ["pypi" + ".org", "files.python" + "hosted", "pypi.python" + ".org", "/simple" + "/"]
MIRROR = re.compile("(?:index|find)-" + r"(?:url|links)|mirrors?\.[a-z0-9-]+\.[a-z]+|https?://[a-z0-9.:-]*pypi")
FENCE = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.M | re.S)
ROW_KEY = re.compile(r"^\| ((?:`[a-z0-9_.]+`(?:, )?)+) \|", re.M)


def page(name: str) -> str:
    return (DOCS / name).read_text("utf-8")


def ours(*endings: str) -> list[Path]:
    """Every file of the repository that is not ignored, committed or not yet."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("no git checkout")
    command = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, capture_output=True, check=True).stdout.decode().split("\0")
    files = [ROOT / name for name in names if name and name.endswith(endings or ("",))]
    return [file for file in files if file.is_file()]


def section(text: str, title: str) -> str:
    """The text below a heading, up to the next one."""
    found = re.search(rf"^#+ {re.escape(title)}\n(.*?)(?=^#|\Z)", text, re.M | re.S)
    assert found, f"no heading '{title}'"
    return found[1]


def keys_in(text: str) -> set[str]:
    """What stands in backticks in the first column of tables."""
    return {key for cell in ROW_KEY.findall(text) for key in re.findall(r"`([^`]+)`", cell)}


def fences(mark: str) -> Iterator[tuple[str, str]]:
    for file in ours(".md"):
        for info, body in FENCE.findall(file.read_text("utf-8")):
            if info.strip() == mark:
                yield file.name, body


# -- configuration -----------------------------------------------------------------------------------


EDGE_PAGES = ["configuration/edge.md", "configuration/edge-alarms.md", "configuration/edge-sparkplug.md"]


def fields(kind: Any) -> list[str]:
    return [field.encode_name for field in msgspec.structs.fields(kind)]


def edge_keys() -> set[str]:
    tables = {
        "device": edge_config.Device, "link": edge_config.Link, "link.tls": edge_config.LinkTls,
        "outbox": edge_config.OutboxLimits, "settings": edge_config.Settings,
        "hard_settings": edge_config.HardSettings,
        "collectors": edge_config.CollectorTable, "inference": edge_config.Inference, "models": edge_config.ModelTable,
    }  # fmt: skip
    keys = {f"{name}.{key}" for name, kind in tables.items() for key in fields(kind)}
    keys |= {f"limits.{key}" for key in Limits.__dataclass_fields__} | {"hard_limits.metric"}
    for name, kind in {"rates": Rate, "no_data": NoData, "flat": Flat, "expressions": Expression}.items():
        keys |= {f"alarm_rules.{name}.{key}" for key in kind.__dataclass_fields__}
    rules = {"limits", "hard_limits", "alarm_rules", "hard_alarm_rules"}
    others = rules | {"scripts", "sparkplug"}
    assert set(fields(edge_config.Config)) == {name for name in tables if "." not in name} | others
    keys |= sparkplug_keys()
    return (keys | {"scripts"}) - {"link.tls", "collectors.options"}


def sparkplug_keys() -> set[str]:
    """Keys of `[sparkplug]` of the device and of its tables."""
    tables = {
        "sparkplug": edge_sparkplug.Sparkplug, "sparkplug.servers": edge_sparkplug.Server,
        "sparkplug.servers.tls": edge_sparkplug.ServerTls, "sparkplug.devices": edge_sparkplug.PlantDevice,
        "sparkplug.reporting": edge_sparkplug.Reporting, "sparkplug.writable": WriteRule,
    }  # fmt: skip
    return {f"{name}.{key}" for name, kind in tables.items() for key in fields(kind)} - tables.keys()


def hub_keys(kind: type[BaseModel] = hub_settings.Settings, head: str = "") -> set[str]:
    keys: set[str] = set()
    for name, field in kind.model_fields.items():
        types = [field.annotation, *getattr(field.annotation, "__args__", ())]
        inner = next((t for t in types if isinstance(t, type) and issubclass(t, BaseModel)), None)
        keys |= hub_keys(inner, f"{head}{name}.") if inner else {head + name}
    return keys


def options() -> dict[str, set[str]]:
    """Option keys of each built-in collector, engine and scaler by kind."""
    points = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["entry-points"]
    found = {}
    for group in ("tidegate.collectors", "tidegate.engines", "tidegate.scalers"):
        for kind, place in points[group].items():
            found[kind] = set(fields(importlib.import_module(place.partition(":")[0]).Options))
    return found


def test_every_key_of_the_agent_is_on_the_page_and_no_other() -> None:
    assert keys_in("".join(map(page, EDGE_PAGES))) == edge_keys()


def test_every_key_of_the_hub_is_on_the_page_and_no_other() -> None:
    pages = ("hub", "hub-models", "hub-sparkplug")
    assert keys_in("".join(page(f"configuration/{name}.md") for name in pages)) == hub_keys()


@pytest.mark.parametrize("kind", sorted(options()))
def test_every_option_of_a_plug_in_is_under_its_heading(kind: str) -> None:
    assert keys_in(section(page("configuration.md"), kind)) == options()[kind]


def test_every_option_of_a_task_is_on_the_page_and_no_other() -> None:
    points = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["entry-points"]["tidegate.tasks"]
    named = {option for place in points.values() for option in task_options(place.partition(":")[0])}
    table = section(page("models.md"), "Tasks").partition("| option |")[2]
    assert keys_in(table) == named
    assert keys_in(section(page("models.md"), "Tasks").partition("| option |")[0]) == set(points)


def task_options(module: str) -> set[str]:
    """The options of the task that a module holds."""
    kinds = [thing for thing in vars(importlib.import_module(module)).values() if isinstance(thing, type)]
    return {option for kind in kinds if kind.__module__ == module for option in getattr(kind, "options", ())}


def channel_keys(kind: type[channels.Common]) -> set[str]:
    return set(kind.model_fields) - set(channels.Common.model_fields)


@pytest.mark.parametrize("kind", get_args(channels.Channel), ids=lambda kind: kind.__name__)
def test_every_key_of_a_channel_is_under_its_heading(kind: type[channels.Common]) -> None:
    (name,) = get_args(kind.model_fields["kind"].annotation)
    assert keys_in(section(page("configuration/channels.md"), name)) == channel_keys(kind)
    assert keys_in(section(page("configuration/channels.md"), "Every channel")) == set(channels.Common.model_fields)


def test_every_profile_is_named() -> None:
    for profile in sorted(path.stem for path in (ROOT / "device_profiles").glob("*.toml")):
        assert f"`{profile}`" in page("configuration/edge.md")


def test_marked_toml_parses() -> None:
    seen = 0
    for place, body in fences("toml edge"):
        edge_config.parse(body, place)
        seen += 1
    for place, body in fences("toml hub"):
        hub_settings.Settings.model_validate(tomllib.loads(body), strict=False)
        seen += 1
        assert place
    assert seen >= 5


def test_examples_parse(tmp_path: Path) -> None:
    config, _ = edge_config.read(ROOT / "deploy/edge.example.toml")
    assert config.device.state_dir == "/var/lib/tidegate-edge"
    assert hub_settings.read(ROOT / "deploy/hub.example.toml").name == "plant-1"
    wrong = tmp_path / "wrong.toml"
    wrong.write_text((ROOT / "deploy/hub.example.toml").read_text("utf-8") + "\n[nonsense]\n", "utf-8")
    with pytest.raises(shared.errors.ConfigError):
        hub_settings.read(wrong)


def test_the_example_collector_works(tmp_path: Path) -> None:
    ((_, source),) = fences("python collector")
    (tmp_path / "tidegate_tank.py").write_text(source, "utf-8")
    spec = importlib.util.spec_from_file_location("tidegate_tank", tmp_path / "tidegate_tank.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["tidegate_tank"] = module
    try:
        spec.loader.exec_module(module)
        level = tmp_path / "level"
        table = edge_config.CollectorTable(
            kind="tank", name="tank-1", period_s=None, options={"path": str(level), "height_mm": 1800}
        )
        collector = module.open_collector(table)
        with pytest.raises(shared.errors.NotReady):
            list(collector.collect(1))
        level.write_text("900")
        assert [(s.metric, s.value) for s in collector.collect(1)] == [("tank-1.level", 50.0)]
        with pytest.raises(shared.errors.ConfigError):
            module.open_collector(msgspec.structs.replace(table, options={"path": "x", "height_mm": 1, "oops": 1}))
    finally:
        del sys.modules["tidegate_tank"]


def test_the_example_task_passes_the_examiner(tmp_path: Path) -> None:
    ((_, source),) = fences("python task")
    (tmp_path / "tidegate_gauge.py").write_text(source, "utf-8")
    spec = importlib.util.spec_from_file_location("tidegate_gauge", tmp_path / "tidegate_gauge.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    made = manifest("gauge", [("needle", (2,))], [], shape=(8, 8, 3), layout="NHWC", dtype="uint8", full_scale=16.0)
    examine_task(module.open_task, made, weighted(made))
    (result,) = module.open_task(made, "d").postprocess(
        {"needle": np.array([[1.0, 0.0]])}, [np.zeros((8, 8, 3), np.uint8)]
    )
    assert result.values == {"value": 4.0}
    opened = module.open_task(made, "d")
    near, far = (dataclasses.replace(result, values={"value": value}) for value in (4.16, 12.0))
    assert opened.agreement(near, result) == pytest.approx(0.9)
    assert opened.agreement(far, result) == 0.0


def test_the_example_producer_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ((_, source),) = fences("python producer")
    (tmp_path / "tidegate_scanner.py").write_text(source, "utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    module = importlib.import_module("tidegate_scanner")
    table = edge_config.CollectorTable(
        kind="scanner", name="scan", period_s=None, options={"path": str(tmp_path / "pixels")}
    )
    collector = module.open_collector(table)
    readings: list[Any] = []
    try:
        until("the report", lambda: readings.extend(collector.collect(1)) or "source lost" in str(readings))
        (tmp_path / "pixels").write_bytes(bytes(64 * 64))
        until("a frame", lambda: readings.extend(collector.collect(1)) or "Frame" in str(readings))
    finally:
        collector.close()
        del sys.modules["tidegate_scanner"]


# -- wire, REST, errors, commands --------------------------------------------------------------------


def test_every_topic_is_on_the_page_and_no_other() -> None:
    rows = [line for line in page("topics.md").splitlines() if re.match(r"\| `", line)]
    named = {topic: line for line in rows for topic in re.findall(r"`([^`]+)`", line.split("|")[1])}
    assert set(named) == {topic.rest for topic in TABLE}
    for topic in TABLE:
        _, _, sender, payload, note, _ = named[topic.rest].split("|")
        assert sender.strip() == topic.sender
        assert "shadow" in topic.rest or payload.strip().startswith(topic.payload)
        assert not topic.retained or "retained" in note


def test_every_route_is_on_the_page_and_no_other() -> None:
    pages = "".join(file.read_text("utf-8") for file in sorted((DOCS / "rest").glob("*.md")))
    named = set(re.findall(r"^\| `([A-Z]+ /[^`]*)` \|", pages, re.M))
    paths = create_rest_app().openapi()["paths"]
    assert named == {f"{method.upper()} {path}" for path, methods in paths.items() for method in methods}


def test_every_error_class_is_on_the_page() -> None:
    errors = [name for name, thing in vars(shared.errors).items() if isinstance(thing, type)]
    assert len(errors) >= 5
    for name in errors:
        assert f"| `{name}` |" in page("operations/errors.md"), name
    assert str(shared.errors.EXIT_CONFIG) in page("operations/errors.md")


@pytest.mark.parametrize(("main", "name"), [(edge_main.main, "tidegate-edge"), (hub_main.main, "tidegate-hub")])
def test_every_subcommand_is_on_the_page(main: Any, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    commands = re.findall(r"^    ([a-z]+) ", capsys.readouterr().out, re.M)
    assert len(commands) >= 3
    for command in commands:
        assert f"`{name} {command}" in page("operations/commands.md"), command


# -- the files themselves ----------------------------------------------------------------------------


def anchors(text: str) -> set[str]:
    """Anchors of headings, as repository hosts make them."""
    titles = re.findall(r"^#+ (.+)$", FENCE.sub("", text), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def broken_links(file: Path) -> list[str]:
    text = file.read_text("utf-8")
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", FENCE.sub("", text)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        there = (file.parent / path).resolve() if path else file
        if not there.exists() or (anchor and anchor not in anchors(there.read_text("utf-8"))):
            broken.append(target)
    return broken


def test_every_link_leads_somewhere(tmp_path: Path) -> None:
    files = ours(".md")
    assert len(files) > 20
    assert {str(file.relative_to(ROOT)): broken_links(file) for file in files if broken_links(file)} == {}
    seeded = tmp_path / "a.md"
    seeded.write_text("# One\n[a](a.md#one) [b](b.md) [c](#two) [d](https://example.org)")
    assert broken_links(seeded) == ["b.md", "#two"]


def test_decisions_are_numbered_without_gaps_and_indexed() -> None:
    files = sorted(file.name for file in (DOCS / "adr").glob("[0-9]*.md"))
    assert [int(name[:4]) for name in files] == list(range(1, len(files) + 1))
    index = page("adr/README.md")
    for name in files:
        text = page(f"adr/{name}")
        assert f"[{name[:4]}]({name})" in index
        assert text.startswith(f"# {name[:4]}: ")
        assert "\nStatus: " in text
        for heading in ("Why", "Decision", "What follows"):
            section(text, heading)


def test_pages_that_a_person_reads_are_short() -> None:
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", ROOT / "deploy/README.md"]
    pages += [
        DOCS / name for name in ("README.md", "getting-started.md", "architecture.md", "operations.md", "security.md")
    ]
    pages += [*DOCS.glob("operations/*.md"), *DOCS.glob("security/*.md")]
    assert {file.name: n for file in pages if (n := len(file.read_text("utf-8").splitlines())) > 150} == {}


def missing_sources(text: str) -> list[str]:
    """Paths of the sources in backticks that are not there."""
    paths = re.findall(r"`((?:shared|edge_agent|cloud_hub|tests)/[\w./]+)`", text)
    return [path for path in paths if not (ROOT / path).exists()]


@pytest.mark.parametrize("name", ["CONTRIBUTING.md", "docs/architecture.md"])
def test_every_source_that_a_page_names_is_there(name: str) -> None:
    assert missing_sources((ROOT / name).read_text("utf-8")) == []
    assert missing_sources("`shared/nowhere.py` and `shared/errors.py`") == ["shared/nowhere.py"]


def test_no_file_names_a_package_index() -> None:
    """Where packages come from is the machine's own business."""
    for file in ours():
        text = file.read_bytes().decode("utf-8", "ignore")
        assert not [host for host in INDEX_HOSTS if host in text], file
        assert not MIRROR.search(text), file


def test_no_page_shows_a_path_of_somebodys_machine() -> None:
    for file in ours(".md", ".service", ".toml"):
        assert not re.search(r"/(?:work|home|root|Users)/", file.read_text("utf-8")), file


UNITS = sorted((ROOT / "deploy/systemd").glob("*.service"))


def unit_here(unit: Path, folder: Path) -> Path:
    """The unit with an interpreter that is there: /opt/tidegate is not, on this machine."""
    copy = folder / unit.name
    copy.write_text(unit.read_text("utf-8").replace("/opt/tidegate/venv/bin/python", sys.executable), "utf-8")
    return copy


def test_the_example_of_a_device_works_with_an_enrolment_and_that_of_the_hub_with_the_setup() -> None:
    config, _ = edge_config.read(ROOT / "deploy/edge.example.toml")
    assert config.link.tls is None, "[link.tls] goes before what enrolment gave"
    tls = hub_settings.read(ROOT / "deploy/hub.example.toml").mqtt.tls
    assert tls is not None
    assert {tls.ca, tls.certificate, tls.key} <= set(re.findall(r'"([^"]+)"', (DOCS / "broker.md").read_text("utf-8")))


def test_no_page_has_a_secret_written_for_everybody_to_read() -> None:
    wrong = re.compile(r"^.*(?:token create|ca claim)[^|\n]* > .*$", re.MULTILINE)
    assert wrong.findall("tidegate-hub token create --name anna > token") != []
    redirected = {file.name: found for file in ours(".md") if (found := wrong.findall(file.read_text("utf-8")))}
    assert redirected == {}, "give --out FILE: it makes the file with mode 0600"


def test_remote_write_is_told_whose_certificate_to_trust() -> None:
    (example,) = re.findall(r"```yaml\n(remote_write:.*?)```", (DOCS / "prometheus.md").read_text("utf-8"), re.DOTALL)
    assert "tls_config: {ca_file: " in example


def test_what_a_unit_names_as_its_documentation_is_installed() -> None:
    for unit in UNITS:
        (path,) = re.findall(r"^Documentation=file:///opt/tidegate/(\S+)$", unit.read_text("utf-8"), re.MULTILINE)
        assert (ROOT / path).is_file()
    assert "cp -r docs /opt/tidegate/" in (ROOT / "deploy/README.md").read_text("utf-8")


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_units_hold(unit: Path, tmp_path: Path) -> None:
    text = unit.read_text("utf-8")
    assert f"RestartPreventExitStatus={shared.errors.EXIT_CONFIG}\n" in text
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("systemd-analyze is not installed: the unit is not verified")
    copy = unit_here(unit, tmp_path)
    verified = subprocess.run([program, "verify", "--man=no", copy], capture_output=True, text=True, check=False)
    assert (verified.returncode, verified.stderr) == (0, "")
    score = [program, "security", "--offline=true", "--threshold=20", "--no-pager"]
    assert subprocess.run([*score, copy], capture_output=True, check=False).returncode == 0
    copy.write_text(re.sub(r"^(?:Protect|Private|Restrict|SystemCall|Capab).*\n", "", text, flags=re.M), "utf-8")
    assert subprocess.run([*score, copy], capture_output=True, check=False).returncode != 0, "the score sees nothing"


def exposures() -> dict[str, str]:
    """Drop-in -> exposure, as docs/models/sources.md states them."""
    rows = re.findall(r"^\| ([^|]+) \| [^|]+ \| (\d\.\d) \|$", page("models/sources.md"), re.M)
    return {name.strip().strip("`"): score for name, score in rows}


DROP_INS = sorted((ROOT / "deploy/systemd/tidegate-edge.service.d").glob("*.conf"))


@pytest.mark.parametrize("chosen", [[], *([one] for one in DROP_INS), DROP_INS], ids=lambda files: f"{len(files)}")
def test_drop_ins_hold_and_their_exposure_is_stated(chosen: list[Path], tmp_path: Path) -> None:
    stated = exposures()
    assert set(stated) == {"none", "all three", *(one.name for one in DROP_INS)}
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("systemd-analyze is not installed: the drop-ins are not verified")
    copy = unit_here(UNITS[0], tmp_path)
    folder = tmp_path / f"{copy.name}.d"
    folder.mkdir()
    for one in chosen:
        shutil.copy(one, folder)
    verified = subprocess.run([program, "verify", "--man=no", copy], capture_output=True, text=True, check=False)
    assert (verified.returncode, verified.stderr) == (0, "")
    command = [program, "security", "--offline=true", "--no-pager", copy]
    said = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    found = re.search(r"Overall exposure level for [^:]+: (\d\.\d)", said)
    assert found
    name = "none" if not chosen else "all three" if len(chosen) > 1 else chosen[0].name
    assert found[1] == stated[name]
    (folder / "wrong.conf").write_text("[Service]\nNonsense=1\n", "utf-8")
    wrong = subprocess.run([program, "verify", "--man=no", copy], capture_output=True, text=True, check=False)
    assert "Nonsense" in wrong.stderr, "the drop-ins are not read"


def test_there_are_two_units() -> None:
    assert [unit.name for unit in UNITS] == ["tidegate-edge.service", "tidegate-hub.service"]
    assert "Type=notify\n" in UNITS[0].read_text("utf-8")
    assert "WatchdogSec=" in UNITS[0].read_text("utf-8")


@pytest.mark.parametrize(
    ("name", "least"),
    [
        ("broker.md", 9), ("alarms.md", 7), ("getting-started.md", 5),
        ("models.md", 7), ("operations/monitoring.md", 4), ("security/enrolment.md", 5),
    ],
)  # fmt: skip
def test_commands_of_a_page_are_understood(name: str, least: int) -> None:
    lines = [
        line
        for info, body in FENCE.findall(page(name))
        if info == "sh"
        for line in body.replace("\\\n", " ").splitlines()
    ]
    lines = [re.split("[#>&]", line)[0] for line in lines if line.startswith("tidegate-hub ")]
    said = [shlex.split(line)[1:] for line in lines]
    assert len(said) >= least
    for arguments in said:
        assert hub_main._parser().parse_args(arguments).command == arguments[0]
