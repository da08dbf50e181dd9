"""The inference process over real pipes and shared memory."""

from __future__ import annotations

import os
import queue
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
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
from simulators.onnx_models import two_inputs, write_bundle

from edge_agent.collectors import Frame, Window
from edge_agent.models.child import InferenceChild
from edge_agent.models.frame_ring import SLOT_BYTES, SLOTS, FrameReader, FrameWriter
from edge_agent.models.wire import Failed, ModelSpec, Opening, Ready, Results, WorkerMessage
from shared.models.bundle import load


class Child:
    """The process; this test is the agent."""

    def __init__(self, folder: Path, **changes: Any) -> None:
        self.words: queue.Queue[WorkerMessage | None] = queue.Queue()
        self.codes: list[int] = []
        spec = ModelSpec(bundle=str(folder), **changes)
        self.child = InferenceChild(spec, lambda found: [self.words.put(one) for one in found], self._ended)  # type: ignore[func-returns-value, arg-type, return-value]

    def _ended(self, code: int) -> None:
        self.codes.append(code)
        self.words.put(None)

    def word(self) -> WorkerMessage | None:
        word = self.words.get(timeout=30)
        return self.word() if isinstance(word, Opening) else word

    def ask(self, item: Frame | Window) -> Any:
        assert self.child.submit(1, item)
        answer = self.word()
        assert isinstance(answer, Results)
        assert self.child.answered(answer.answers[0].id) is not None
        return answer.answers[0]


@pytest.fixture
def children() -> Iterator[list[Child]]:
    made: list[Child] = []
    yield made
    for child in made:
        child.child.end(2.0)


def frame(shape: tuple[int, int] = SHAPE) -> Frame:
    return Frame(source="c", number=1, t_us=1, shape=(*shape, 1), data=bytes(shape[0] * shape[1]))


def test_the_process_is_ready_answers_and_ends_with_its_pipe(children: list[Child]) -> None:
    child = Child(DIGITS)
    children.append(child)
    manifest = load(DIGITS).manifest
    ready = child.word()
    assert isinstance(ready, Ready)
    assert (ready.name, ready.variant, ready.runner) == (manifest.name, "cpu-int8", "onnx")
    assert ready.digest == manifest.variant_digest("cpu-int8")
    assert (ready.labels, ready.values) == (manifest.labels, ["score"])
    answer = child.ask(frame())
    assert answer.result.label in manifest.labels
    refused = child.ask(frame((4, 4)))
    assert refused.result is None
    assert "frame is (4, 4)" in refused.reason
    window = Window(source="w", number=1, t_us=1, shape=(2, 2), data=bytes(16), names=("a", "b"))
    assert child.ask(window).result is None
    assert child.ask(frame()).result == answer.result, "a refused frame changed nothing"
    child.child.end()
    assert child.word() is None
    assert child.codes == [0]


def test_an_input_that_is_refused_costs_no_other_of_its_batch(children: list[Child]) -> None:
    child = Child(DIGITS, batch=8, max_wait_ms=500.0)
    children.append(child)
    for stream, shape in enumerate((SHAPE, (4, 4), SHAPE)):  # before it is ready, so that they are one batch
        assert child.child.submit(stream, frame(shape))
    assert isinstance(child.word(), Ready)
    results = child.word()
    assert isinstance(results, Results)
    assert [answer.result is None for answer in results.answers] == [False, True, False]


def test_the_inputs_of_a_model_are_cut_from_one_window(children: list[Child], tmp_path: Path) -> None:
    inputs = [
        {"name": "series", "shape": [4, 2], "layout": "NTC"},
        {"name": "static", "shape": [1], "layout": "NC"},
    ]
    folder = write_bundle(
        tmp_path / "b", two_inputs(), inputs=inputs, outputs=[{"name": "total", "shape": [1]}], task="regression",
        labels=[],
    )  # fmt: skip
    child = Child(folder)
    children.append(child)
    assert isinstance(child.word(), Ready)
    rows = np.arange(12, dtype=np.float32).reshape(4, 3)
    window = Window(source="w", number=1, t_us=1, shape=(4, 3), data=rows.tobytes(), names=("a", "b", "c"))
    assert child.ask(window).result.values == {"value": rows[:, :2].sum() + 100 * rows[-1, 2]}


@pytest.fixture
def marker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that a stranger's runner leaves when bytes reach it."""
    home, file = tmp_path / "site", tmp_path / "reached"
    info = home / "marker-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: marker\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[tidegate.runners]\nmarker = marker_runner:open_runner\n")
    (home / "marker_runner.py").write_text(
        "import pathlib, numpy\n"
        "from edge_agent.models import RunnerInfo\n"
        "class Runner:\n"
        "    def describe(self):\n"
        "        return RunnerInfo(provider='marker', precision='int8', device='')\n"
        "    def warm_up(self):\n"
        "        pass\n"
        "    def run(self, batch):\n"
        "        return {'probabilities': numpy.full((1, 10), 0.1, numpy.float32)}\n"
        "    def close(self):\n"
        "        pass\n"
        "def open_runner(bundle, variant, options):\n"
        f"    pathlib.Path({str(file)!r}).write_text(bundle.manifest.name)\n"
        "    print('a library that prints')\n"
        "    return Runner()\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(home))
    return file


def test_verified_bytes_reach_the_runner_and_what_it_prints_harms_nobody(
    bundle: Path, marker: Path, children: list[Child]
) -> None:
    with_runner(bundle, "marker")
    children.append(Child(bundle))
    assert isinstance(children[0].word(), Ready)
    assert marker.read_text() == "digits-edge"


@pytest.mark.parametrize("spoil", [tampered, missing, leaving, symlink_out, deep_json, nul_in_name])
def test_unverified_bytes_never_reach_the_runner(
    bundle: Path, marker: Path, spoil: Callable[[Path], None], children: list[Child]
) -> None:
    with_runner(bundle, "marker")
    spoil(bundle)
    children.append(Child(bundle))
    word = children[0].word()
    assert isinstance(word, Failed)
    assert word.reason
    assert children[0].word() is None
    assert children[0].codes == [1]
    assert not marker.exists()


def test_an_unknown_runner_is_reported_with_those_that_are_installed(bundle: Path, children: list[Child]) -> None:
    with_runner(bundle, "abacus")
    children.append(Child(bundle))
    word = children[0].word()
    assert isinstance(word, Failed)
    assert "abacus" in word.reason
    assert "onnx" in word.reason


# -- shared memory --------------------------------------------------------------------------------------


def test_inputs_are_read_where_they_were_written_and_slots_are_used_again() -> None:
    writer = FrameWriter()
    reader = FrameReader(writer.fd)
    offsets = [writer.put(bytes([n]) * 100) for n in range(SLOTS)]
    assert writer.put(b"x") is None, "all slots are in use"
    assert [reader.get(offset or 0, 1)[0] for offset in offsets] == list(range(SLOTS))
    writer.release(offsets[3] or 0)
    assert writer.put(memoryview(b"again")) == offsets[3]
    assert bytes(reader.get(offsets[3] or 0, 5)) == b"again"
    writer.close()
    writer.close()
    assert bytes(reader.get(offsets[3] or 0, 5)) == b"again", "the reader's mapping holds the memory"


def test_an_input_larger_than_a_slot_is_refused(children: list[Child]) -> None:
    children.append(Child(DIGITS))
    with pytest.raises(ValueError, match="at most"):
        children[0].child.submit(1, frame((SLOT_BYTES // 1024 + 1, 1024)))


def test_a_mapping_takes_memory_only_where_it_was_written() -> None:
    script = (
        "from edge_agent.models.frame_ring import FrameWriter, SLOTS\nimport resource, pathlib\n"
        "def rss(): return int(pathlib.Path('/proc/self/statm').read_text().split()[1]) * 4096\n"
        "before = rss(); w = FrameWriter(); w.put(bytes(1 << 20)); print(rss() - before)\n"
    )
    grown = int(subprocess.run([sys.executable, "-c", script], capture_output=True, check=True, cwd=os.getcwd()).stdout)  # noqa: PTH109
    assert grown < 5 << 20


def test_a_spec_survives_the_command_line() -> None:
    spec = ModelSpec(bundle="/b", libraries=(("a", "/lib/a.so"),), providers=("X",), batch=3)
    assert msgspec.json.decode(msgspec.json.encode(spec), type=ModelSpec) == spec
    assert len({spec, msgspec.structs.replace(spec, batch=3)}) == 1
