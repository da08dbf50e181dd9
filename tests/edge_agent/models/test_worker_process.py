"""The child process of a model over real pipes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from simulators.model_bundles import (
    DIGITS,
    SHAPE,
    deep_json,
    leaving,
    missing,
    nul_in_name,
    symlink_out,
    tampered,
    with_runner,
)

from edge_agent.models.worker import Failed, InferenceRequest, InferenceResult, Ready, WorkerMessage, read, write
from shared.models.bundle import load


class Child:
    """The worker as its own process; this test is the parent."""

    def __init__(self, folder: Path, **environment: str) -> None:
        command = [sys.executable, "-m", "edge_agent.models.worker", str(folder)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=dict(os.environ) | environment
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self._to, self._from = self.process.stdin, self.process.stdout

    def word(self) -> WorkerMessage:
        body = read(self._from)
        assert body is not None, "the child ended without a word"
        word: WorkerMessage = msgspec.msgpack.decode(body, type=WorkerMessage)  # type: ignore[arg-type]
        return word

    def ask(self, number: int, shape: tuple[int, int] = SHAPE, data: bytes = bytes(64)) -> InferenceResult:
        write(self._to, InferenceRequest(number, shape, data))
        answer = self.word()
        assert isinstance(answer, InferenceResult)
        return answer

    def end(self) -> int:
        self._to.close()
        assert read(self._from) is None
        self._from.close()
        return self.process.wait(20)


def test_the_child_is_ready_answers_and_ends_with_its_pipe() -> None:
    child = Child(DIGITS)
    manifest = load(DIGITS).manifest
    ready = child.word()
    digest = manifest.variant_digest("cpu-int8")
    assert ready == Ready(digest=digest, provider="CPUExecutionProvider", name=manifest.name, version=manifest.version)
    answer = child.ask(7)
    assert answer.number == 7
    assert answer.result is not None
    assert answer.result.label in manifest.labels
    for shape, data in (((4, 4), bytes(16)), (SHAPE, b"short"), ((0, 0), b"")):
        refused = child.ask(8, shape, data)
        assert (refused.number, refused.result) == (8, None)
        assert "frame is" in refused.reason
    assert child.ask(9) == InferenceResult(9, answer.result), "a refused frame changed nothing"
    assert child.end() == 0


@pytest.fixture
def marker(tmp_path: Path) -> tuple[str, Path]:
    """(folder for PYTHONPATH, file): a stranger's runner that leaves a file when bytes reach it."""
    home, file = tmp_path / "site", tmp_path / "reached"
    info = home / "marker-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: marker\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[tidegate.runners]\nmarker = marker_runner:open_runner\n")
    (home / "marker_runner.py").write_text(
        "import pathlib\n"
        "class Runner:\n"
        "    provider = 'marker'\n"
        "def open_runner(bundle):\n"
        f"    pathlib.Path({str(file)!r}).write_text(bundle.manifest.name)\n"
        "    print('a library that prints')\n"
        "    return Runner()\n"
    )
    return str(home), file


def marked(folder: Path) -> None:
    with_runner(folder, "marker")


def test_verified_bytes_reach_the_runner_and_what_it_prints_harms_nobody(
    bundle: Path, marker: tuple[str, Path]
) -> None:
    marked(bundle)
    child = Child(bundle, PYTHONPATH=marker[0])
    assert isinstance(child.word(), Ready)
    assert marker[1].read_text() == "digits-edge"
    assert child.end() == 0


@pytest.mark.parametrize("spoil", [tampered, missing, leaving, symlink_out, deep_json, nul_in_name])
def test_unverified_bytes_never_reach_the_runner(
    bundle: Path, marker: tuple[str, Path], spoil: Callable[[Path], None]
) -> None:
    marked(bundle)
    spoil(bundle)
    child = Child(bundle, PYTHONPATH=marker[0])
    word = child.word()
    assert isinstance(word, Failed)
    assert word.reason
    assert child.end() == 1
    assert not marker[1].exists()


def test_an_unknown_runner_is_told_with_what_is_installed(bundle: Path) -> None:
    with_runner(bundle, "abacus")
    child = Child(bundle)
    word = child.word()
    assert isinstance(word, Failed)
    assert "abacus" in word.reason
    assert "onnx" in word.reason
    child.end()
