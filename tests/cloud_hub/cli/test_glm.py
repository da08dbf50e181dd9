"""`tidegate-hub glm check`: finds out by trying, against servers that can and cannot."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from simulators.glm import ALL, GlmSimulator

from cloud_hub.__main__ import main


def checked(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    code = main(["glm", "check", *arguments])
    out = capsys.readouterr()
    return code, out.out + out.err


def found(glm: GlmSimulator, capsys: pytest.CaptureFixture[str], folder: Path) -> Any:
    (folder / "key").write_text(glm.key)
    code, text = checked(
        capsys, "--url", glm.url, "--model", glm.model, "--key-file", str(folder / "key"), "--json"
    )  # fmt: skip
    return json.loads(text) | {"code": code}


def test_a_server_that_can_do_everything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with GlmSimulator() as glm:
        row = found(glm, capsys, tmp_path)
    assert (row["code"], row["models"], row["context"]) == (0, [glm.model], 8192)
    assert [row[key] for key in ("streaming", "json_schema", "tools", "priority")] == [True] * 4
    assert row["vision"] is None, "this one takes images and sees nothing in them"


def test_a_server_that_can_do_little_is_found_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with GlmSimulator(features=frozenset({"metrics"})) as glm:
        row = found(glm, capsys, tmp_path)
    assert (row["code"], row["models"]) == (0, [])
    assert row["context"] == 8192, "read from what the server says about too long a request"
    assert [row[key] for key in ("json_schema", "tools", "vision", "priority")] == [False] * 4


def test_a_priority_that_an_unknown_server_accepts_means_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with GlmSimulator(features=ALL - {"metrics"}) as glm:
        assert found(glm, capsys, tmp_path)["priority"] is None


@pytest.mark.parametrize(
    ("behaviour", "key", "value", "note"),
    [
        ("skips-schema", "json_schema", False, "no JSON"),
        ("call-in-reasoning", "tools", True, "call-in-reasoning"),
        ("empty-arguments", "tools", True, "empty-arguments"),
        ("broken-arguments", "tools", False, "are no JSON"),
        ("no-call", "tools", None, "not called"),
        ("half-a-stream", "streaming", False, ""),
    ],
)
def test_the_faults_of_servers_are_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], behaviour: Any, key: str, value: bool | None, note: str
) -> None:
    with GlmSimulator(behaviour=behaviour) as glm:
        row = found(glm, capsys, tmp_path)
    assert row[key] is value
    assert note in " ".join(row["notes"])


def test_the_pools_of_the_configuration_as_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "hub.toml"
    with GlmSimulator(key="") as glm, GlmSimulator(key="", model="other") as second:
        config.write_text(
            f"[[inference.pools]]\nname = 'large'\naddresses = ['{glm.url}', 'http://127.0.0.1:1/v1']\n"
            f"model = '{glm.model}'\n[[inference.pools]]\nname = 'small'\n"
            f"addresses = ['{second.url}']\nmodel = 'other'\n"
        )
        code, text = checked(capsys, "--config", str(config))
        assert code == 1
        assert [line.split()[0] for line in text.splitlines()[:4]] == ["POOL", "large", "large", "small"]
        assert "no answer" in text.splitlines()[2]
        assert "cannot be reached" in text
        assert checked(capsys, "--config", str(config), "--pool", "small")[0] == 0


def test_a_model_that_the_server_does_not_have(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with GlmSimulator(key="") as glm:
        code, text = checked(capsys, "--url", glm.url, "--model", "other")
    assert code == 1
    assert "Correct url and model" in text


@pytest.mark.parametrize("arguments", [[], ["--pool", "large"], ["--url", "ftp://x"]])
def test_a_wrong_configuration_ends_with_78(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    assert checked(capsys, *arguments)[0] == 78
