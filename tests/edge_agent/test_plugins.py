"""Looking up collectors and runners: what is not there, and what is there and cannot be imported."""

from __future__ import annotations

from pathlib import Path

import pytest

from shared import plugins
from shared.errors import ConfigError


@pytest.fixture
def strange(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A third party's installed distribution with four collectors, three of them broken."""
    info = tmp_path / "tidegate_strange-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: tidegate-strange\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[tidegate.collectors]\n"
        "good = strange_plugin:open_collector\n"
        "no-module = strange_plugin_that_is_not_there:open_collector\n"
        "no-library = strange_plugin_needy:open_collector\n"
        "no-function = strange_plugin:close_collector\n"
    )
    (tmp_path / "strange_plugin.py").write_text("def open_collector(table):\n    return table\n")
    (tmp_path / "strange_plugin_needy.py").write_text("import a_library_that_nobody_has\n")
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_the_built_in_kinds_are_found() -> None:
    from edge_agent.collectors.log import open_collector

    assert plugins.load(plugins.COLLECTORS, "log", "here") is open_collector
    assert callable(plugins.load(plugins.RUNNERS, "onnx", "here"))


@pytest.mark.parametrize(("group", "word", "known"), [
    (plugins.COLLECTORS, "collector", "folder, host, images, jetson, log"), (plugins.RUNNERS, "runner", "onnx"),
])  # fmt: skip
def test_an_unknown_kind_lists_what_is_installed(group: str, word: str, known: str) -> None:
    with pytest.raises(ConfigError, match=f"there is no {word} 'telepathy'") as caught:
        plugins.load(group, "telepathy", "collector 'x'")
    assert caught.value.place == "collector 'x'"
    assert known in caught.value.cure


def test_a_strangers_plugin_enters_like_a_built_in(strange: Path) -> None:
    assert plugins.load(plugins.COLLECTORS, "good", "here")("table") == "table"


@pytest.mark.parametrize(
    ("kind", "lacking"),
    [
        ("no-module", "strange_plugin_that_is_not_there"),
        ("no-library", "a_library_that_nobody_has"),
        ("no-function", "close_collector"),
    ],
)
def test_a_plugin_that_cannot_be_imported_stops_with_a_cure(strange: Path, kind: str, lacking: str) -> None:
    with pytest.raises(ConfigError, match=f"plugin '{kind}' cannot be imported") as caught:
        plugins.load(plugins.COLLECTORS, kind, "collector 'x'")
    assert caught.value.place == "collector 'x'"
    assert lacking in str(caught.value)
    assert "tidegate-strange" in caught.value.cure


def test_a_broken_plugin_that_nobody_names_harms_nobody(strange: Path) -> None:
    assert callable(plugins.load(plugins.COLLECTORS, "host", "here"))
