"""The REST client of the command line: where it finds hub and token, what it tells, and its exit codes."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from simulators.brokers import free_port

from cloud_hub import __main__, settings
from cloud_hub.cli import remote
from cloud_hub.cli.remote import Remote, RemoteError
from shared.errors import ConfigError


class Hub(BaseHTTPRequestHandler):
    """Answers each request with the status its path names, and tells what it was sent."""

    def _answer(self) -> None:
        status = int(self.path.partition("?")[0].rpartition("/")[2])
        length = int(self.headers.get("content-length") or 0)
        body: Any = {
            "path": self.path, "token": self.headers.get("authorization"), "if": self.headers.get("if-match"),
            "body": self.rfile.read(length).decode(),
        }  # fmt: skip
        if status >= 400:
            body = {"type": "about:blank", "title": "Not so", "status": status, "detail": "because", "command": "c1"}
        content = b"<html>a proxy</html>" if status == 502 else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PATCH = _answer  # noqa: N815 - http.server's names

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def url() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Hub) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_queries_body_and_headers_reach_the_hub(url: str) -> None:
    with Remote(url, "tg_x") as hub:
        seen = hub.call("PATCH", "/a/200", {"b": 1}, headers={"If-Match": '"3"'}, limit=5, state=None)
    assert seen == {"path": "/api/v1/a/200?limit=5", "token": "Bearer tg_x", "if": '"3"', "body": '{"b":1}'}


@pytest.mark.parametrize(
    ("status", "code"),
    [(400, 2), (401, 3), (403, 3), (404, 4), (409, 6), (412, 6), (413, 2), (422, 2), (428, 6), (500, 1), (503, 1),
     (504, 5)],
)  # fmt: skip
def test_a_problem_is_told_kindly_and_has_its_exit_code(url: str, status: int, code: int) -> None:
    with Remote(url, "tg_x") as hub, pytest.raises(RemoteError, match=r"^Not so: because$") as refused:
        hub.get(f"/a/{status}")
    assert (refused.value.exit_code, refused.value.problem["command"]) == (code, "c1")


def test_what_is_no_hub_is_told_so(url: str) -> None:
    with (
        Remote(url, "tg_x") as hub,
        pytest.raises(RemoteError, match="HTTP 502: this is not an answer of a Tidegate hub"),
    ):
        hub.get("/a/502")


def test_no_hub_there_is_told_with_the_cure() -> None:
    with Remote(f"http://127.0.0.1:{free_port()}", "tg_x") as hub, pytest.raises(RemoteError, match="--url") as error:
        hub.get("/devices")
    assert error.value.exit_code == remote.EXIT_NO_ANSWER


@pytest.mark.parametrize(("url", "token"), [("http://[", "t"), ("http://h", "half\nof two"), ("http://h", "päß")])
def test_an_address_or_token_that_cannot_be_is_a_matter_of_configuration(url: str, token: str) -> None:
    with pytest.raises(ConfigError):
        Remote(url, token)


def test_where_hub_and_token_come_from(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import argparse

    parser = argparse.ArgumentParser(parents=[remote.options()])
    file = tmp_path / "token"
    file.write_text("tg_file\n")
    with pytest.raises(ConfigError, match="tidegate-hub token create"):
        remote.connect(parser.parse_args([]))
    with pytest.raises(ConfigError, match="cannot be read"):
        remote.connect(parser.parse_args(["--token-file", str(tmp_path / "none")]))
    monkeypatch.setenv("TIDEGATE_TOKEN", "tg_environment")
    with remote.connect(parser.parse_args([])) as hub:
        assert hub.url == "http://127.0.0.1:8080"
    monkeypatch.setenv("TIDEGATE_URL", url)
    with remote.connect(parser.parse_args([])) as hub:
        assert hub.get("/200")["token"] == "Bearer tg_environment"
    monkeypatch.setenv("TIDEGATE_URL", "http://127.0.0.1:1")
    with remote.connect(parser.parse_args(["--url", url, "--token-file", str(file)])) as hub:
        assert hub.get("/200")["token"] == "Bearer tg_file"


def test_the_variables_of_the_command_line_are_no_settings_of_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not {"url", "token"} & set(settings.Settings.model_fields)
    monkeypatch.setenv("TIDEGATE_URL", "http://h")
    monkeypatch.setenv("TIDEGATE_TOKEN", "tg_x")
    monkeypatch.setenv("TIDEGATE_NAME", "press-hub")
    assert settings.read(None).name == "press-hub"
    monkeypatch.setenv("TIDEGATE_REST__PORTS", "1")
    with pytest.raises(ConfigError):  # negative control: it does forbid what is not its own
        settings.read(None)


def test_main_ends_with_the_code_of_the_refusal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(_arguments: Any) -> int:
        raise RemoteError("No such device: 'x'", remote.EXIT_NOT_FOUND)

    monkeypatch.setattr("cloud_hub.cli.local._migrate", refuse)
    assert __main__.main(["migrate"]) == 4
    assert capsys.readouterr().err == "tidegate-hub: No such device: 'x'\n"
