"""`tidegate-hub workers`: against the routes of a hub, and how it shows what devices may have written."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from simulators import databases
from simulators.sites import MINE, Sites

from cloud_hub import __main__
from cloud_hub.cli import workers

EVIL = "\x1b[2J\x1b]0;owned\x07 \u202e fine"
ITEM: dict[str, Any] = {
    "id": "f1", "worker": "actions", "kind": "action", "item": "a1", "failures": 5, "error": "KeyError: 'x'",
    "next_us": 1_800_000_000_000_000, "parked_us": None,
}  # fmt: skip


class Here:
    """The client of `workers`, in this process."""

    def __init__(self, sites: Sites) -> None:
        self._sites = sites

    def __enter__(self) -> Here:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is open."""

    def call(self, method: str, path: str, _body: Any = None, **query: Any) -> Any:
        asked = {key: value for key, value in query.items() if value is not None}
        headers = {"Authorization": f"Bearer {self._sites.whole}"}
        answer = self._sites.client.request(method, f"/api/v1{path}", params=asked, headers=headers)
        assert answer.is_success, answer.text
        return answer.json()

    def get(self, path: str, **query: Any) -> Any:
        return self.call("GET", path, None, **query)


@pytest.fixture
def sites(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sites]:
    one = Sites(tmp_path, databases.sqlite(tmp_path))
    monkeypatch.setattr(workers, "connect", lambda arguments: Here(one))
    yield one
    one.close()


def test_items_are_listed_and_retried(sites: Sites, capsys: pytest.CaptureFixture[str]) -> None:
    assert __main__.main(["workers", "items", "--parked"]) == 0
    count = len(capsys.readouterr().out.splitlines())
    assert __main__.main(["workers", "retry", sites.ids[MINE]["item_id"]]) == 0
    assert f"jobs job plain {MINE}  parked" in capsys.readouterr().out
    assert __main__.main(["workers", "retry", "--all", "--json"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == count - 1
    assert __main__.main(["workers", "items"]) == 0
    assert capsys.readouterr().out == ""
    assert __main__.main(["workers", "list"]) == 0


def test_a_worker_and_an_item_are_one_line() -> None:
    row: dict[str, Any] = {"name": "jobs", "state": "idle", "parked": 1, "retrying": 0, "failing_since_us": None,
                           "error": ""}  # fmt: skip
    assert workers._worker(row) == "jobs             idle     parked 1, retrying 0"
    failing = row | {"state": "failing", "failing_since_us": 1_800_000_000_000_000, "error": "OSError: no disk"}
    assert workers._worker(failing).endswith("retrying 0  since 2027-01-15 08:00:00Z: OSError: no disk")
    assert workers._item(ITEM) == ("f1  actions action a1  next try 2027-01-15 08:00:00Z  5 failures: KeyError: 'x'")


def test_nobodys_text_can_steer_the_terminal() -> None:
    shown = workers._item(ITEM | {"item": EVIL, "error": EVIL})
    assert not {"\x1b", "\x07", "\u202e"} & set(shown)


@pytest.mark.parametrize("words", [["retry"], ["retry", "f1", "--all"], ["nothing"], []], ids=str)
def test_wrong_use_is_told(words: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        __main__.main(["workers", *words])
    assert ended.value.code == 2
