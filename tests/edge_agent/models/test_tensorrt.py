"""The TensorRT runner on simulated bindings that enforce the API's rules. Where TensorRT-RTX is installed, its real
builder and parser are used too; no test here runs on a GPU."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from examiners.runners import examine_runner, random_inputs
from simulators import tensorrt_bindings as simulated
from simulators.cuda_bindings import Device, RuleBroken
from simulators.model_bundles import Bench
from simulators.onnx_models import brightness, write_bundle

from edge_agent.collectors import Frame
from edge_agent.models import DeviceLost, EngineMissing, Runner, RunnerOptions
from edge_agent.models.tensorrt import open_runner
from edge_agent.models.tensorrt.bindings import load_bindings
from edge_agent.models.tensorrt.build import build_engine
from edge_agent.models.tensorrt.cuda import CtypesRuntime, Cuda
from shared.errors import ModelError
from shared.models.bundle import load

VERSIONS = ["10.3.0", "11.4.1"]
KEY = "tensorrt-int8"


@pytest.fixture(params=VERSIONS)
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Device:
    made = Device()
    simulated.use(monkeypatch, request.param, made)
    return made


def bundle(folder: Path, batch: int | str = "n", layers: int = 1) -> Path:
    content = brightness(8, channels=3, batch=batch, layers=layers)
    return write_bundle(folder / "b", content, channels=3, runners=["tensorrt", "onnx"], key=KEY, precision="int8")


def options(folder: Path, build: bool = True, **changes: Any) -> RunnerOptions:
    return RunnerOptions(cache_dir=str(folder / "cache"), build=(lambda *_: None) if build else None, **changes)


def opened(folder: Path, **changes: Any) -> Runner:
    return open_runner(load(bundle(folder)), KEY, options(folder, **changes))


@pytest.mark.parametrize(("model_batch", "batch"), [("n", 4), ("n", 1), (1, 1), (4, 4)])
def test_tensorrt_passes_the_examiner(device: Device, tmp_path: Path, model_batch: int | str, batch: int) -> None:
    if model_batch == "n" and batch == 1:
        batch = 2
    examine_runner(open_runner, bundle(tmp_path, model_batch), KEY, options(tmp_path, batch=batch))
    assert device.leaks() == []


def test_an_engine_is_built_only_on_request_then_it_is_in_the_cache(device: Device, tmp_path: Path) -> None:
    source = load(bundle(tmp_path))
    with pytest.raises(EngineMissing, match="Simulated GPU"):
        open_runner(source, KEY, options(tmp_path, build=False))
    seen: list[tuple[float, str]] = []
    made = RunnerOptions(cache_dir=str(tmp_path / "cache"), build=lambda share, phase: seen.append((share, phase)))
    open_runner(source, KEY, made).close()
    shares = [share for share, _ in seen]
    assert shares == sorted(shares)
    assert ("Building Engine" in {phase for _, phase in seen}, len(set(shares)) > 4) == (True, True)
    runner = open_runner(source, KEY, options(tmp_path, build=False))
    assert runner.describe().provider.startswith("TensorRT 1")
    runner.close()
    assert device.leaks() == []


def test_another_version_of_tensorrt_builds_anew_and_removes_the_old_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for version in VERSIONS:
        simulated.use(monkeypatch, version, Device())
        with pytest.raises(EngineMissing):
            open_runner(load(bundle(tmp_path)), KEY, options(tmp_path, build=False))
        opened(tmp_path).close()
        assert len(list((tmp_path / "cache").glob("*.engine"))) == 1


def test_a_damaged_engine_is_built_again(device: Device, tmp_path: Path) -> None:
    opened(tmp_path).close()
    (file,) = (tmp_path / "cache").glob("*.engine")
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(EngineMissing):
        open_runner(load(bundle(tmp_path)), KEY, options(tmp_path, build=False))
    opened(tmp_path).close()


def test_the_timing_cache_is_used_by_the_next_build(device: Device, tmp_path: Path) -> None:
    opened(tmp_path).close()
    (cache,) = (tmp_path / "cache").glob("timing-*.cache")
    before = cache.read_bytes()
    opened(tmp_path, batch=3).close()
    assert len(cache.read_bytes()) == len(before) + 1, "the simulated cache grows with each use"


def test_a_disk_that_is_full_is_reported_with_the_file_and_leaves_nothing(
    device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(ModelError, match=r"\.engine cannot be written \(No space left on device\)"):
        opened(tmp_path)
    assert list((tmp_path / "cache").iterdir()) == []
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=100))
    with pytest.raises(ModelError, match="Free space"):
        opened(tmp_path)
    assert device.leaks() == []


@pytest.mark.parametrize(("batch", "graphs"), [(1, 4), (4, 0)])
def test_a_cuda_graph_is_used_where_the_batch_is_always_the_same(
    device: Device, tmp_path: Path, batch: int, graphs: int
) -> None:
    runner = opened(tmp_path, batch=batch)
    runner.warm_up()
    source = load(bundle(tmp_path)).manifest
    for seed in range(3):
        runner.run(random_inputs(source, 1, seed))
    assert device.launches == graphs
    runner.close()
    assert device.leaks() == []


def test_an_engine_that_cannot_be_captured_runs_without_a_graph_and_says_so(device: Device, tmp_path: Path) -> None:
    device.capturable = False
    runner = opened(tmp_path, batch=1)
    runner.warm_up()
    inputs = random_inputs(load(bundle(tmp_path)).manifest, 1, 1)
    assert np.isfinite(runner.run(inputs)["probabilities"]).all()
    assert "cannot run the engine" in runner.describe().refused["CUDA graph"]
    runner.close()
    assert device.leaks() == []


def test_too_little_device_memory_is_an_error_without_a_leak(device: Device, tmp_path: Path) -> None:
    device.free_bytes = 100
    with pytest.raises(ModelError, match="cudaErrorMemoryAllocation"):
        opened(tmp_path)
    assert device.leaks() == []


def test_a_device_that_is_lost_ends_the_process(device: Device, tmp_path: Path) -> None:
    runner = opened(tmp_path, batch=1)
    device.lost = True
    with pytest.raises(DeviceLost, match="cudaErrorDevicesUnavailable"):
        runner.run(random_inputs(load(bundle(tmp_path)).manifest, 1, 1))


def test_without_tensorrt_the_reason_names_what_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("edge_agent.models.tensorrt.bindings.MODULES", ("no_such_tensorrt",))
    with pytest.raises(ModelError, match="no_such_tensorrt"):
        opened(tmp_path)


def test_an_old_tensorrt_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    simulated.use(monkeypatch, "8.6.1", Device())
    with pytest.raises(ModelError, match="10 or later"):
        opened(tmp_path)


def test_a_version_compatible_engine_is_asked_for(device: Device, tmp_path: Path) -> None:
    opened(tmp_path, version_compatible=True).close()
    (file,) = (tmp_path / "cache").glob("*.engine")
    assert b'"compatible": true' in file.read_bytes()


def bright_and_dark(folder: Path) -> None:
    runner = open_runner(load(bundle(folder, layers=0)), KEY, options(folder, batch=1))
    for value, dark in ((255, 0.0), (0, 1.0), (255, 0.0)):
        found = runner.run({"image": np.full((1, 8, 8, 3), value, np.uint8)})["probabilities"]
        assert found[0].tolist() == pytest.approx([dark, 1 - dark])
    runner.close()


def test_what_the_engine_says_is_what_the_model_says(device: Device, tmp_path: Path) -> None:
    bright_and_dark(tmp_path)
    assert device.launches == 2


# -- negative controls: the simulator notices a broken rule ---------------------------------------------------


@pytest.mark.parametrize("patch", ["to_device", "to_host", "synchronize", "pinned"])
def test_the_simulator_notices_a_runner_that_breaks_a_rule(
    device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, patch: str
) -> None:
    def pinned(self: Cuda, size: int) -> Any:
        view = np.zeros(size, np.uint8)
        return view.ctypes.data, view

    monkeypatch.setattr(Cuda, patch, pinned if patch == "pinned" else lambda *_: None)
    with pytest.raises((RuleBroken, AssertionError)):
        bright_and_dark(tmp_path)


# -- with real child processes --------------------------------------------------------------------------------


@pytest.fixture
def benches() -> Iterator[list[Bench]]:
    made: list[Bench] = []
    yield made
    for bench in made:
        bench.stop()


def test_onnx_runtime_serves_until_the_engine_is_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, benches: list[Bench]
) -> None:
    monkeypatch.setenv("PYTHONPATH", simulated.install(tmp_path / "site", "11.4.1"))
    providers = ("TensorrtExecutionProvider", "CPUExecutionProvider")
    bench = Bench(bundle(tmp_path), providers=providers, cache_dir=str(tmp_path / "cache"), variants=(KEY,))
    benches.append(bench)
    seen: list[tuple[str, Any]] = []
    bench.stream._changed = lambda: seen.append((bench.state.get("runner", ""), bench.state.get("build")))
    bench.stream.start()
    bench.running()
    assert (bench.state["runner"], bench.state["provider"]) == ("onnx", "CPUExecutionProvider")
    digest, sent = bench.state["digest"], 0

    def feed() -> None:
        nonlocal sent
        sent += 1
        data = bytes([255]) * 192
        bench.stream.frame(Frame(source="c", number=sent, t_us=sent, shape=(8, 8, 3), data=data, color="rgb"))

    timer = bench.loop.every(0.02, feed)
    bench.until(lambda: bench.state["runner"] == "tensorrt")
    after = sent
    bench.until(lambda: sent > after + 5)
    timer.period_s = 3600.0
    bench.until(lambda: len(bench.escalations()) == sent - bench.stream.gatekeeper.skipped)
    assert {reason for _, reason in bench.escalations()} == {"no-gate"}
    assert {one.digest for one in bench.said if hasattr(one, "digest")} == {digest}
    assert bench.state["provider"] == "TensorRT 11.4.1"
    assert "Simulated GPU (sm_87)" in bench.state["device"]
    assert any(build and 0 < build["progress"] < 1 for runner, build in seen if runner == "onnx")


# -- the real builder, without a GPU ------------------------------------------------------------------------------


def test_tensorrt_rtx_builds_the_engine_ahead_of_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorrt_rtx_bindings")
    monkeypatch.setattr("edge_agent.models.tensorrt.bindings.MODULES", ("tensorrt_rtx_bindings",))
    bindings = load_bindings()
    assert bindings.name.startswith("TensorRT-RTX 1.")
    source, seen = load(bundle(tmp_path, layers=2)), list[float]()
    plan, timing = build_engine(
        bindings, source.model(KEY), source.manifest, RunnerOptions(batch=4), b"",
        lambda share, _: seen.append(share), compute_capability="SM86",
    )  # fmt: skip
    assert (len(plan) > 1000, timing) == (True, b"")
    assert seen == sorted(seen)
    with pytest.raises(ModelError, match="cannot parse the model"):
        build_engine(bindings, b"no model", source.manifest, RunnerOptions(), b"", lambda *_: None)


def test_libcudart_by_ctypes_has_the_calling_convention_of_the_bindings() -> None:
    class Library:
        """A libcudart that writes what it was given."""

        def __getattr__(self, name: str) -> Any:
            def function(*args: Any) -> int:
                self.__dict__["last"] = (name, args)
                if name in {"cudaMalloc", "cudaStreamCreate"}:
                    args[0]._obj.value = 1 << 30
                return 0

            function.restype = None  # type: ignore[attr-defined]
            return function

    library = Library()
    runtime = CtypesRuntime(library)
    assert runtime.cudaMalloc(100) == (0, 1 << 30)
    assert library.last[1][1].value == 100
    assert runtime.cudaStreamCreate() == (0, 1 << 30)
    assert runtime.cudaFree(1 << 30) == (0,)
    assert library.last[1][0].value == 1 << 30
