"""`tidegate-hub telemetry` against a hub's real REST, without a socket in between."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pyarrow import parquet
from simulators.sites import MINE, Sites

from cloud_hub import __main__
from cloud_hub.cli import remote, telemetry
from cloud_hub.cli.remote import Remote
from cloud_hub.telemetry import samples

pytestmark = pytest.mark.filterwarnings("ignore:You should not use the 'timeout' argument")
START = 1_800_000_000_000_000


class Here(Remote):
    """A client whose connection is the test's own."""

    sites: Sites

    def __init__(self) -> None:
        super().__init__("http://hub", self.sites.of_a)
        self._http.close()
        self._http = self.sites.client
        self._http.headers["Authorization"] = f"Bearer {self.sites.of_a}"

    def __exit__(self, *_: object) -> None:
        """The test closes it."""


@pytest.fixture
def hub(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sites]:
    sites = Sites(tmp_path, url)
    monkeypatch.setattr("cloud_hub.api.telemetry.now_us", lambda: START + 10**12)
    rows: list[Any] = [(MINE, "cpu.load", START + n * 1_000_000, 1, n, n / 2, None, "good") for n in range(100)]
    with sites.db.write() as session:
        samples.store_samples(session, [*rows, (MINE, "door", START, 1, 200, None, "\x1b[2Jopen", "uncertain")])
    monkeypatch.setattr(Here, "sites", sites, raising=False)
    monkeypatch.setattr(telemetry, "connect", lambda _arguments: Here())
    yield sites
    sites.close()


SPAN = ["--from", "2027-01-15T07:00:00", "--to", "2027-01-15T10:00:00Z"]


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[list[str], str]:
    """(lines on standard output, standard error) of a command that goes well."""
    assert __main__.main(["telemetry", *arguments]) == 0
    out, err = capsys.readouterr()
    return out.splitlines(), err


def test_newest_values_are_lines_that_steer_no_terminal(hub: Sites, capsys: pytest.CaptureFixture[str]) -> None:
    lines, _ = told(capsys, "last", MINE)
    assert [line.split()[:2] for line in lines] == [[MINE, metric] for metric in ("cpu.load", "door", "m", "n")]
    assert lines[1].endswith("[2Jopen  uncertain")
    assert "\x1b" not in "".join(lines)
    of_all, _ = told(capsys, "last", "--metric", "cpu.load", "--json")
    assert [json.loads(line)["value"] for line in of_all] == [49.5]


def test_a_range_says_which_resolution_it_gave(hub: Sites, capsys: pytest.CaptureFixture[str]) -> None:
    lines, note = told(capsys, "range", MINE, "cpu.load", *SPAN)
    assert (len(lines), note) == (100, "resolution raw\n")
    assert lines[2] == "2027-01-15 08:00:02.000  1"
    lines, note = told(capsys, "range", MINE, "cpu.load", *SPAN, "--resolution", "1h", "--json")
    assert note == "resolution 1h\n"
    assert [json.loads(line) for line in lines] == [
        {"t_us": START, "count": 100, "low": 0.0, "high": 49.5, "mean": 24.75}
    ]


def test_the_highest(hub: Sites, capsys: pytest.CaptureFixture[str]) -> None:
    span = ["--from", "2027-01-15T08:00:00Z", "--to", "2027-01-15T09:00:00Z"]
    lines, note = told(capsys, "top", "cpu.load", "--quantile", "0.5", *span)
    assert [line.split() for line in lines] == [[MINE, "24.75", "of", "100"]]
    assert note == "2027-01-15 08:00:00.000 to 2027-01-15 09:00:00.000, of the samples\n"


def test_export_makes_a_new_file_or_none(hub: Sites, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "day.parquet"
    told(capsys, "export", *SPAN, "--device", MINE, "--metric", "cpu.load", "--out", str(out))
    assert parquet.read_table(out)["value"].to_pylist() == [n / 2 for n in range(100)]
    assert __main__.main(["telemetry", "export", *SPAN, "--out", str(out)]) == 78
    assert "is there already" in capsys.readouterr().err
    other = tmp_path / "other.parquet"
    assert __main__.main(["telemetry", "export", "--device", "nobody", "--out", str(other)]) == remote.EXIT_NOT_FOUND
    assert "'nobody' is not known" in capsys.readouterr().err
    assert __main__.main(["telemetry", "export", "--out", str(tmp_path / "no" / "such" / "place")]) == 78
    assert sorted(file.suffix for file in tmp_path.glob("*.parquet*")) == [".parquet"]
