"""`tidegate-hub sparkplug`: against the routes of a hub, and how it shows what nodes may have written."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from simulators import databases
from simulators.sites import MINE, Sites

from cloud_hub import __main__
from cloud_hub.cli import sparkplug

EVIL = "\x1b[2J\x1b]0;owned\x07 \u202e fine"
NODE: dict[str, Any] = {
    "device": "d", "group": EVIL, "node": EVIL, "sparkplug_device": "", "own": False, "state": "online", "born_us": 1,
    "died_us": 0, "refused": 2, "refusal": EVIL, "metrics": 3,
}  # fmt: skip
METRIC: dict[str, Any] = {
    "metric": "m", "name": EVIL, "datatype": "Text", "unit": EVIL, "t_us": 1, "value": EVIL, "quality": "good",
    "stale": True, "writable": False, "present": True,
}  # fmt: skip


class Here:
    """The client of the command, in this process."""

    def __init__(self, sites: Sites) -> None:
        self._sites = sites

    def __enter__(self) -> Here:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is open."""

    def call(self, method: str, path: str, body: Any = None, **query: Any) -> Any:
        asked = {key: value for key, value in query.items() if value is not None}
        headers = {"Authorization": f"Bearer {self._sites.whole}"}
        answer = self._sites.client.request(method, f"/api/v1{path}", params=asked, headers=headers, json=body)
        assert answer.is_success, answer.text
        return answer.json()

    def get(self, path: str, **query: Any) -> Any:
        return self.call("GET", path, None, **query)


@pytest.fixture
def sites(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sites]:
    one = Sites(tmp_path, databases.sqlite(tmp_path))
    monkeypatch.setattr(sparkplug, "connect", lambda arguments: Here(one))
    yield one
    one.close()


def test_nodes_and_metrics_are_listed(sites: Sites, capsys: pytest.CaptureFixture[str]) -> None:
    assert __main__.main(["sparkplug", "nodes", "--group", "plain"]) == 0
    assert "plain/plain" in capsys.readouterr().out
    assert __main__.main(["sparkplug", "metrics", MINE, "--values"]) == 0
    assert "[stale]" in capsys.readouterr().out


def test_a_host_that_is_off_says_how_to_switch_it_on(sites: Sites, capsys: pytest.CaptureFixture[str]) -> None:
    assert __main__.main(["sparkplug", "status"]) == 0
    assert __main__.main(["sparkplug", "rebirth", MINE]) == 1
    assert capsys.readouterr().out.count("sparkplug.host_id") == 2


def test_a_refused_write_says_why_and_is_listed(sites: Sites, capsys: pytest.CaptureFixture[str]) -> None:
    assert __main__.main(["sparkplug", "write", MINE, "speed", "12", "--reason", "order"]) == 1
    assert "refused: the Sparkplug host is off" in capsys.readouterr().out
    assert __main__.main(["sparkplug", "writes", "--device", MINE, "--limit", "2", "--json"]) == 0
    assert '"why":"order"' in capsys.readouterr().out.replace(" ", "")


@pytest.mark.parametrize(
    ("text", "value"), [("true", True), ("12", 12.0), ("-1.5e3", -1500.0), ("1e", "1e"), ("v", "v")]
)
def test_a_value_is_a_boolean_a_number_or_a_text(text: str, value: object) -> None:
    assert sparkplug._value(text) == value
    assert type(sparkplug._value(text)) is type(value)


def test_texts_of_nodes_cannot_control_the_terminal() -> None:
    write = {"id": "w", "requested_us": 1, "device": "d", "metric": EVIL, "value": EVIL, "state": "refused",
             "reason": EVIL, "actor": EVIL}  # fmt: skip
    for line in (sparkplug._node(NODE), sparkplug._metric(METRIC), sparkplug._line(write)):
        assert line.isprintable()
        assert "fine" in line
