"""What others wrote is shown on a terminal and never obeyed, in logs and at the command line."""

from __future__ import annotations

import io
import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.store.statestore import StateStore
from shared.process import logs
from shared.process.terminal import EXIT_PIPE, printable, printable_json, printable_lines

EVIL = {
    "colour": "\x1b[31mred", "title": "\x1b]0;owned\x07", "C1": "\x9b2J", "override": "\u202egnp.exe",
    "isolate": "\u2066x\u2069", "line": "a\nINFO forged", "return": "a\rb", "separator": "a\u2028b", "delete": "a\x7f",
    "surrogate": "a\ud800b", "nul": "a\0b", "bom": "\ufeffa",
}  # fmt: skip


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(params=[Terminal, io.StringIO], ids=["terminal", "json"])
def stream(request: pytest.FixtureRequest) -> Any:
    root = logging.getLogger()
    before = (root.handlers[:], root.level)
    made = request.param()
    logs.setup("press-3", "info", made)
    yield made
    root.handlers[:], root.level = before


@pytest.mark.parametrize("text", EVIL.values(), ids=EVIL.keys())
def test_a_log_line_of_device_text_is_one_printable_line(stream: Any, text: str) -> None:
    logging.getLogger("x").warning("wire.refused", extra={"fields": {"reason": text, text: 1}})
    (line,) = stream.getvalue().splitlines()
    assert line.isprintable()
    if not stream.isatty():
        assert json.loads(line)["reason"] == text


def test_the_text_of_an_exception_is_escaped_line_by_line(stream: Any) -> None:
    try:
        raise ValueError("\x1b[2Jgone \u202e")
    except ValueError:
        logging.getLogger("x").exception("loop.failed")
    lines = stream.getvalue().splitlines()
    assert all(line.isprintable() for line in lines)
    assert any("Traceback" in line for line in lines)


def test_ordinary_text_of_any_language_stays_as_it_is() -> None:
    for text in ("Öl 80 °C", "温度过高", "κρίσιμο", "temp=80"):
        assert printable(text) == text
        assert printable_json({"a": text}) == json.dumps({"a": text}, ensure_ascii=False)


@given(text=st.text(max_size=30))
def test_nothing_printed_steers_a_terminal_and_no_json_loses_a_character(text: str) -> None:
    assert printable(text).isprintable()
    assert all(line.isprintable() for line in printable_lines(text).split("\n"))
    shown = printable_json({text: [text]}, indent=1)
    assert all(line.isprintable() for line in shown.split("\n"))
    assert json.loads(shown) == {text: [text]}


@pytest.mark.parametrize("unbuffered", [[], ["-u"]], ids=["buffered", "unbuffered"])
@pytest.mark.parametrize("what", ["edge twin get", "edge help", "hub migrate", "hub help"])
def test_a_reader_that_goes_ends_a_program_quietly(tmp_path: Path, what: str, unbuffered: list[str]) -> None:
    file = tmp_path / "config.toml"
    text = {"edge twin get": f'[device]\nid = "a"\nprofile = "x86-64"\nstate_dir = "{tmp_path / "edge"}"\n',
            "hub migrate": f'state_dir = "{tmp_path}"\n'}  # fmt: skip
    (tmp_path / "edge").mkdir()
    StateStore(tmp_path / "edge" / "kept.sqlite").close()
    file.write_text(text.get(what, ""), "utf-8")
    arguments = ["--help"] if what.endswith("help") else [*what.split()[1:], "--config", str(file)]
    module = {"edge": "edge_agent", "hub": "cloud_hub"}[what.split(maxsplit=1)[0]]
    process = subprocess.Popen(
        [sys.executable, *unbuffered, "-m", module, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"},
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    said = process.stderr.read()
    process.stderr.close()
    code = process.wait(60)
    assert b"Traceback" not in said
    assert b"BrokenPipe" not in said
    # argparse itself swallows what it cannot write.
    assert code in ({0, EXIT_PIPE} if what.endswith("help") else {EXIT_PIPE})
