"""`tidegate-edge check` tries what `run` will need, says what is missing with its cure, and leaves nothing behind."""

from __future__ import annotations

import socket
import ssl
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from simulators.cameras import video
from simulators.certificates import certificates

from edge_agent import checks
from edge_agent.agent import Agent
from edge_agent.checks import run_checks
from edge_agent.config import ModelTable, parse
from edge_agent.link.pki import DeviceIdentity
from shared.errors import ConfigError, NotReady
from shared.process.checks import RESOLVE_S, Findings, run_with_timeout
from shared.protocol.messages import Event

DIGITS = Path(__file__).parents[2] / "cloud_hub" / "demo" / "assets" / "digits-edge"
HOST = "[[collectors]]\nkind = 'host'\ntemperatures = false\n"


@pytest.fixture(autouse=True)
def _sources_may_be_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "OPEN_S", 120.0)


def text(folder: Path, more: str = "", link: str = "discover = true", profile: str = "x86-64") -> str:
    device = f'[device]\nid = "press-3"\nprofile = "{profile}"\nstate_dir = "{folder / "edge"}"\n'
    return f"{device}[link]\n{link}\n{more}"


def found(folder: Path, more: str = "", link: str = "discover = true", profile: str = "x86-64") -> Findings:
    """Without what this machine's installation and sensors add."""
    file = folder / "edge.toml"
    file.write_text(text(folder, more, link, profile), "utf-8")
    all_found = run_checks(file)
    all_found.problems = [line for line in all_found.problems if "is not the file that was installed" not in line]
    all_found.warnings = [line for line in all_found.warnings if profile != "x86-64" or "device.profile" not in line]
    return all_found


def camera(folder: Path, height: int, width: int) -> str:
    np.save(folder / "frames.npy", np.zeros((2, height, width), np.uint8))
    return f"[[collectors]]\nkind = 'images'\nname = 'camera'\npath = '{folder / 'frames.npy'}'\n"


def model(bundle: Path = DIGITS, frames: str = "camera") -> str:
    return f"[[models]]\nname = 'digits'\nbundle = '{bundle}'\nframes = '{frames}'\n"


def test_what_is_well_has_no_findings_and_leaves_nothing_behind(tmp_path: Path) -> None:
    more = HOST + camera(tmp_path, 8, 8) + model() + "[[limits]]\nmetric = 'cpu.load'\nhigh = 95.0\n"
    before = set(tmp_path.rglob("*"))
    assert found(tmp_path, more) == Findings()
    assert set(tmp_path.rglob("*")) - before == {tmp_path / "edge.toml"}
    (tmp_path / "edge").mkdir()
    assert found(tmp_path, more) == Findings()
    assert list((tmp_path / "edge").iterdir()) == []


@pytest.mark.parametrize(
    "rule",
    [
        "[[limits]]\nmetric = 'cpu.lod'\nhigh = 95.0",
        "[[hard_limits]]\nmetric = 'cpu.lod'\nhigh = 95.0",
        "[[alarm_rules.no_data]]\nmetric = 'cpu.lod'\nafter_s = 60",
        "[[hard_alarm_rules.no_data]]\nmetric = 'cpu.lod'\nafter_s = 60",
    ],
    ids=["limits", "hard limits", "alarm rules", "hard alarm rules"],
)
def test_a_limit_on_a_metric_that_no_source_gives_is_a_warning(tmp_path: Path, rule: str) -> None:
    try:
        parse(text(tmp_path, rule))
    except ConfigError as error:
        pytest.fail(f"the test's own configuration is wrong: {error}")
    one = found(tmp_path, HOST + rule)
    assert one.problems == []
    (line,) = one.warnings
    assert "'cpu.lod'" in line
    assert "Correct its name" in line


@pytest.mark.parametrize("metric", ["outbox.waiting", "digits/age_s", "cpu.load"])
def test_the_agents_and_its_models_metrics_are_sources_too(tmp_path: Path, metric: str) -> None:
    more = HOST + camera(tmp_path, 8, 8) + model() + f"[[limits]]\nmetric = '{metric}'\nhigh = 95.0\n"
    assert found(tmp_path, more).warnings == []


def test_a_log_that_is_not_there_is_a_warning(tmp_path: Path) -> None:
    one = found(tmp_path, f"[[collectors]]\nkind = 'log'\npath = '{tmp_path / 'line.log'}'\n")
    assert one.problems == []
    assert f"{tmp_path / 'line.log'} is not there" in one.warnings[0]
    (tmp_path / "line.log").touch()
    assert found(tmp_path, f"[[collectors]]\nkind = 'log'\npath = '{tmp_path / 'line.log'}'\n") == Findings()


def test_a_disk_that_is_not_there_is_a_warning(tmp_path: Path) -> None:
    assert "disk '/nowhere' is not there" in found(tmp_path, HOST + "disk = '/nowhere'\n").warnings[0]


def test_a_state_folder_that_cannot_be_written_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "edge").write_bytes(b"a file")
    (line,) = found(tmp_path).problems
    assert line.startswith(f"device.state_dir: {tmp_path / 'edge'} cannot be written")


@pytest.mark.parametrize("shape", [(8, 9), (16, 16), (1, 64)])
def test_a_model_that_cannot_take_its_frames_is_a_problem(tmp_path: Path, shape: tuple[int, int]) -> None:
    (line,) = found(tmp_path, camera(tmp_path, *shape) + model()).problems
    assert str(shape) in line
    assert "(8, 8)" in line
    assert "takes the frames" in line


def test_frames_that_are_too_large_to_be_escalated_whole_are_a_warning(tmp_path: Path) -> None:
    pattern = "[[collectors]]\nkind = 'test_pattern'\nname = 'camera'\nwidth = 725\nheight = 725\ncolor = 'gray'\n"
    (line,) = found(tmp_path, pattern + model()).warnings
    assert "frames of 525625 bytes are escalated with rows and columns left out (above 524288)" in line


def test_a_model_whose_collector_gives_no_frames_is_a_problem(tmp_path: Path) -> None:
    (line,) = found(tmp_path, HOST + model(frames="host")).problems
    assert "'host' gives no frames" in line


def test_a_bundle_that_is_not_there_is_a_problem(tmp_path: Path) -> None:
    (line,) = found(tmp_path, camera(tmp_path, 8, 8) + model(tmp_path / "nowhere")).problems
    assert "manifest.json cannot be read" in line


@pytest.fixture
def raising(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A third party's collector that raises what it likes when it is opened, and one that never opens."""
    info = tmp_path / "tidegate_odd-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: tidegate-odd\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[tidegate.collectors]\nodd = odd_plugin:open_collector\nslow = odd_plugin:open_slowly\n"
        "broken = odd_plugin_broken:open_collector\n"
    )
    (tmp_path / "odd_plugin.py").write_text(
        "import threading\ngo = threading.Event()\n"
        "def open_collector(table):\n    raise KeyError('the bus')\n"
        "def open_slowly(table):\n    go.wait()\n"
    )
    (tmp_path / "odd_plugin_broken.py").write_text("raise RuntimeError('no licence')\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("edge_agent.checks.OPEN_S", 0.2)
    yield "odd"
    import odd_plugin  # type: ignore[import-not-found]

    odd_plugin.go.set()
    for name in ("odd_plugin", "odd_plugin_broken"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize(("kind", "says"), [
    ("odd", "cannot be opened (KeyError: 'the bus')"), ("broken", "cannot be imported (no licence)"),
    ("slow", "does not open within 0.2 s"),
])  # fmt: skip
def test_a_collector_that_raises_at_open_is_a_problem(raising: str, tmp_path: Path, kind: str, says: str) -> None:
    more = f"[[collectors]]\nkind = '{kind}'\nname = 'press'\n[[limits]]\nmetric = 'press.force'\nhigh = 1.0\n"
    one = found(tmp_path, more)
    (line,) = one.problems
    assert "'press'" in line
    assert says in line
    assert one.warnings == [], "the collector that did not open may be the one that gives it"
    if kind != "slow":
        with pytest.raises(ConfigError, match="'press'"):
            Agent(*parse(text(tmp_path, more)))


def test_what_the_agent_would_not_start_with_is_a_problem(tmp_path: Path) -> None:
    more = "[settings]\nperiod_s = 20\n[hard_settings]\nperiod_s_max = 10\n"
    more += "[[limits]]\nmetric = 'cpu.load'\nhigh = 99\n[[hard_limits]]\nmetric = 'cpu.load'\nhigh = 90\n"
    said = " ".join(found(tmp_path, HOST + more).problems)
    assert "Keep [settings] within [hard_settings]" in said
    assert "Keep [[limits]] within [[hard_limits]]" in said


def test_the_missing_parts_of_a_profile_are_warnings(tmp_path: Path) -> None:
    lines = found(tmp_path, profile="jetson-orin-nano").warnings
    assert any(
        "jetson-orin-nano has 'tensorrt', which this machine lacks: the TensorRT provider" in line for line in lines
    )


# -- the link ------------------------------------------------------------------------------------------


def test_an_address_that_cannot_be_resolved_is_a_warning(tmp_path: Path) -> None:
    link = "discover = false\naddress = 'broker.invalid:8883'\nfallback = ['127.0.0.1:1', 'mqtt://h:1']"
    one = found(tmp_path, link=link)
    assert "'broker.invalid' cannot be resolved" in one.warnings[0]
    assert "no broker answers on 127.0.0.1:1" in one.warnings[1]
    assert any("link.fallback" in line and "leave 'mqtt://' away" in line for line in one.problems)
    assert not any("Enrol" in line and "mqtt://" in line for line in one.problems)


def test_a_key_of_another_certificate_is_a_problem(tmp_path: Path) -> None:
    certificates(tmp_path, "press-3", "press-4")
    for key, problems in (("press-3", 0), ("press-4", 1)):
        tls = f"[link.tls]\nca = '{tmp_path / 'ca.pem'}'\ncertificate = '{tmp_path / 'press-3.pem'}'\n"
        one = found(tmp_path, tls + f"key = '{tmp_path / key}.key'\n")
        assert len(one.problems) == problems
        assert all("are no pair that can be used" in line for line in one.problems)


def test_files_of_tls_that_are_not_there_or_hold_nothing_are_problems(tmp_path: Path) -> None:
    certificates(tmp_path, "press-3")
    (tmp_path / "empty.pem").touch()
    tls = f"[link.tls]\ncertificate = '{tmp_path / 'press-3.pem'}'\nkey = '{tmp_path / 'press-3.key'}'\n"
    assert "link.tls.ca: /nowhere is not there" in found(tmp_path, tls + "ca = '/nowhere'").problems[0]
    assert "holds no CA" in found(tmp_path, tls + f"ca = '{tmp_path / 'empty.pem'}'").problems[0]


def test_the_certificate_of_another_device_is_a_problem(tmp_path: Path) -> None:
    certificates(tmp_path, "press-4")
    pki = DeviceIdentity(tmp_path / "edge")
    pki.path.mkdir(parents=True)
    pki.device.write_bytes((tmp_path / "press-4.key").read_bytes() + (tmp_path / "press-4.pem").read_bytes())
    (line,) = found(tmp_path).problems
    assert "is the certificate of CN=press-4, not of 'press-3'" in line


def test_a_broker_of_another_ca_is_a_warning(tmp_path: Path) -> None:
    for name in ("ours", "theirs"):
        (tmp_path / name).mkdir()
        certificates(tmp_path / name, "press-3")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(tmp_path / "theirs" / "press-3.pem", tmp_path / "theirs" / "press-3.key")
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            plain, _ = server.accept()
            try:
                context.wrap_socket(plain, server_side=True).close()
            except OSError:
                plain.close()

        thread = threading.Thread(target=serve)
        thread.start()
        ours = tmp_path / "ours"
        tls = f"[link.tls]\nca = '{ours / 'ca.pem'}'\ncertificate = '{ours / 'press-3.pem'}'\n"
        one = found(
            tmp_path, tls + f"key = '{ours / 'press-3.key'}'\n", f"address = '127.0.0.1:{server.getsockname()[1]}'"
        )
        thread.join()
    assert one.problems == []
    assert "do not trust each other" in one.warnings[0]


def test_a_call_that_hangs_is_given_up() -> None:
    go = threading.Event()
    with pytest.raises(TimeoutError):
        run_with_timeout(0.05, go.wait)
    go.set()
    assert run_with_timeout(5, lambda: 7) == 7
    with pytest.raises(KeyError):
        run_with_timeout(5, lambda: {}["x"])
    assert RESOLVE_S < 10


# -- the birth -----------------------------------------------------------------------------------------


def test_the_birth_lists_limits_without_a_source(tmp_path: Path) -> None:
    limits = "[[limits]]\nmetric = 'oil.temp'\nhigh = 80\n[[limits]]\nmetric = 'cpu.load'\nhigh = 95\n"
    agent = Agent(*parse(text(tmp_path, HOST + limits, "discover = false\naddress = '127.0.0.1:1'")))
    assert agent._birth("s").limits_without_source == ["oil.temp"]
    for part in (agent._sampler, agent._outbox, agent._state_store):
        part.close()


def test_the_first_frame_of_a_source_in_the_background_is_waited_for(tmp_path: Path) -> None:
    path = video(tmp_path / "v.mkv", width=8, height=8)
    options = "realtime = false\ncolor = 'gray'\n"
    more = f"[[collectors]]\nkind = 'video'\nname = 'camera'\npath = '{path}'\n{options}"
    assert found(tmp_path, more + model()) == Findings(), "frames that have the size of the source are no fault"


def test_a_camera_that_is_away_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge_agent.checks.OPEN_S", 5.0)  # the source is a process
    more = "[[collectors]]\nkind = 'camera'\nname = 'camera'\nurl = 'http://127.0.0.1:9/'\nwidth = 8\nheight = 8\n"
    one = found(tmp_path, more + model())
    assert one.problems == []
    assert "not tried with a frame (collector 'camera' gave nothing within 5 s" in one.warnings[0]


def test_what_a_source_without_frames_says_is_in_the_warning() -> None:
    class Away:
        background = True
        read = 0

        def collect(self, now_us: int) -> list[Event]:
            self.read += 1
            if self.read > 1:
                raise TimeoutError
            return [Event(t_us=now_us, source="camera", text="source lost: refused")]

    table = ModelTable(name="digits", bundle=str(DIGITS), frames="camera")
    with pytest.raises(NotReady, match=r"gave nothing within 120 s; it says: source lost: refused"):
        checks._input(table, {"camera": Away()})  # type: ignore[dict-item]


def test_a_missing_bundle_is_a_problem_also_without_a_frame(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge_agent.checks.OPEN_S", 5.0)  # the source is a process
    (tmp_path / "in" / "monday").mkdir(parents=True)
    more = f"[[collectors]]\nkind = 'folder'\nname = 'camera'\npath = '{tmp_path / 'in'}'\nwidth = 8\nheight = 8\n"
    one = found(tmp_path, more + model(tmp_path / "nowhere"))
    assert "manifest.json cannot be read" in one.problems[0]
    assert "no file in" in one.warnings[0]
    assert "subfolders are not used" in one.warnings[0]
    assert "gave nothing within 5 s" in one.warnings[1]


def test_relative_paths_are_those_of_the_folder_of_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bundle").symlink_to(DIGITS)
    video(tmp_path / "v.mkv", width=8, height=8)
    monkeypatch.chdir(tmp_path)
    options = "realtime = false\nwidth = 8\nheight = 8\ncolor = 'gray'\n"
    more = f"[[collectors]]\nkind = 'video'\nname = 'camera'\npath = 'v.mkv'\n{options}"
    assert found(tmp_path, more + model(Path("bundle"))) == Findings()


def test_a_model_of_windows_is_not_tried(tmp_path: Path) -> None:
    more = "[[collectors]]\nkind = 'metric_window'\nname = 'w'\nmetrics = ['cpu.load']\nsamples = 60\n"
    one = found(tmp_path, more + model(frames="w"))
    assert one.problems == []
    assert "gives windows" in one.warnings[0]
