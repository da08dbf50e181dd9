"""`tidegate-hub autoscale`: files here, targets against the routes of a hub and a strict Kubernetes API."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from simulators import databases
from simulators.sites import Sites

from cloud_hub import __main__
from cloud_hub.autoscale.system import AutoscaleSystem
from cloud_hub.cli import autoscale
from cloud_hub.clock import now_us
from cloud_hub.database.tables import EscalationRow
from cloud_hub.demo.cloud import Cloud, CloudServer, ClusterPolicy
from shared.errors import EXIT_CONFIG

EVIL = "\x1b]0;owned\x07"
TARGETS = """
targets:
  - name: gateway
    platform: {{kind: kubernetes, options: {{url: "{url}", namespace: tidegate, deployment: experts,
               token_file: "{token}"}}}}
    signals:
    - {{name: load, unit: 1/s, per_instance: 0.1, target: 1.0,
       source: {{type: escalations, model: weld, window_s: 60}}}}
    maximum: {maximum}
"""


class Here:
    """The client of the command, in this process."""

    def __init__(self, sites: Sites) -> None:
        self._sites = sites

    def __enter__(self) -> Here:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is open."""

    def call(self, method: str, path: str, body: Any = None, timeout_s: float = 0.0, **query: Any) -> Any:
        headers = {"Authorization": f"Bearer {self._sites.whole}"}
        answer = self._sites.client.request(method, f"/api/v1{path}", params=query, headers=headers, json=body)
        assert answer.is_success, answer.text
        return answer.json()

    def get(self, path: str, **query: Any) -> Any:
        return self.call("GET", path, None, **query)


class Bench:
    """A hub with a targets file, and the platform that it scales."""

    def __init__(self, folder: Path, cloud: CloudServer) -> None:
        (folder / "token").write_text("secret")
        self.file, self.cloud = folder / "targets.yaml", cloud.cloud
        self.write(maximum=4)
        self.sites = Sites(folder, databases.sqlite(folder))
        self.system = AutoscaleSystem(self.sites.db, str(self.file), {})
        self.sites.app.state.hub = replace(self.sites.app.state.hub, autoscale=self.system)

    def write(self, maximum: int) -> None:
        server = f"http://127.0.0.1:{PORT[0]}"
        token = self.file.with_name("token")
        self.file.write_text(TARGETS.format(url=server, token=token, maximum=maximum))

    def escalate(self, count: int) -> None:
        with self.sites.db.write() as session:
            for number in range(count):
                session.add(EscalationRow(id=f"x{number}", device="press-3", model="weld", digest="", number=number,
                                          reason="", label="", margin=0.1, height=1, width=1, frame=b"x", t_us=1,
                                          received_us=now_us()))  # fmt: skip

    def run(self) -> None:
        self.system.worker.decide_soon("gateway")
        self.system.worker.run_once()


PORT = [0]


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    with CloudServer(Cloud(policy=ClusterPolicy(token="secret"))) as cloud:
        PORT[0] = int(cloud.url.rpartition(":")[2])
        one = Bench(tmp_path, cloud)
        monkeypatch.setattr(autoscale, "connect", lambda arguments: Here(one.sites))
        yield one
        one.sites.close()


def test_a_target_is_watched_explained_and_controlled(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    def shown(*arguments: str) -> str:
        assert __main__.main(["autoscale", *arguments]) == 0
        return capsys.readouterr().out

    bench.escalate(18)
    bench.run()
    assert bench.cloud.asked == 3
    bench.run()
    (line,) = [line for line in shown("targets").splitlines() if line.startswith("gateway")]
    assert line.startswith("gateway              3 -> 3  load: ")
    explained = shown("explain", "gateway")
    assert "the last change was 1 -> 3 (done, 3 instances asked for)" in explained
    assert "  input  load " in explained
    assert "out   1 -> 3  done" in shown("decisions", "gateway", "--changes")
    assert "[paused until " in shown("pause", "gateway", "--for", "2h", "--reason", EVIL)
    bench.run()
    assert "\x1b" not in shown("explain", "gateway")
    assert "[override until " in shown("override", "gateway", "4", "--for", "1h")
    bench.run()
    assert bench.cloud.asked == 4
    assert "[override" not in shown("resume", "gateway")
    bench.run()
    (view,) = [row for row in json.loads(shown("targets", "--json"))["targets"] if row["name"] == "gateway"]
    assert (view["in_force"], view["mode"], view["desired"]) == (True, "auto", 4)
    assert 'tidegate_autoscale_desired{target="gateway"}' in metrics(bench)


def metrics(bench: Bench) -> str:
    headers = {"Authorization": f"Bearer {bench.sites.whole}"}
    text: str = bench.sites.client.get("/metrics", headers=headers).text
    return text


def test_a_changed_file_is_tried_against_the_hub_before_it_is_in_force(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    bench.run()
    bench.escalate(60)
    other = bench.file.with_name("other.yaml")
    other.write_text(bench.file.read_text().replace("maximum: 4", "maximum: 2") + "    dry_run: true\n")
    assert __main__.main(["autoscale", "check", str(other), "--against"]) == 0
    assert capsys.readouterr().out.startswith("gateway: 1 -> 2  bounds: 1..2")
    assert bench.cloud.asked == 1
    other.write_text(bench.file.read_text().replace("127.0.0.1", "127.0.0.9"))
    assert __main__.main(["autoscale", "check", str(other), "--against"]) == 1
    assert "  platform is unknown: " in capsys.readouterr().out


def test_a_file_is_checked_without_a_hub(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    assert __main__.main(["autoscale", "check", str(bench.file)]) == 0
    assert capsys.readouterr().out == "gateway: kubernetes, 1..4 instances by load\n1 target, valid\n"
    bench.file.write_text(bench.file.read_text().replace("maximum", "maximun"))
    assert __main__.main(["autoscale", "check", str(bench.file)]) == EXIT_CONFIG
    assert "targets.yaml, line 9: Object contains unknown field `maximun`; did you mean 'maximum'?" in (
        capsys.readouterr().err
    )
    bench.run()
    assert __main__.main(["autoscale", "targets"]) == 0
    assert "the file in force is older: " in capsys.readouterr().out
