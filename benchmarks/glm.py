"""The inference gateway: what it adds to a bare engine call, its queue under load, and failing addresses.

    python -m benchmarks.glm [--litellm FOLDER_OF_ITS_PROGRAMS] [--url http://ENGINE/v1 --model NAME] [--json FILE]
    python -m benchmarks.glm --gguf FILE        only the embedded engine, bare and through the gateway; or `tiny`

The engine is a local stub that answers after `--think-ms`, give or take a half, in a process of its own, so that the
difference is the gateway's. `--litellm` runs LiteLLM's proxy before the same stub in the same run. CPU is that of the
gateway's (or proxy's) processes. With `--url` the engine is a real one.
"""

from __future__ import annotations

import asyncio
import json
import random
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from benchmarks.glm_client import HttpClient, free_port, wait_for_port
from benchmarks.glm_embedded import embedded
from benchmarks.glm_queue import simulate_queue
from benchmarks.report import Row, arguments, percentiles, publish

CONCURRENCY = (1, 8, 32, 128)
SECONDS = 6.0
FAULTS = ("killed", "stalls", "garbage")


@dataclass(frozen=True, slots=True)
class Target:
    """Something to ask: `pid` 0 is a server whose CPU is not measured."""

    name: str
    port: int
    model: str
    token: str = ""
    pid: int = 0


@dataclass(frozen=True, slots=True)
class Load:
    """What a run measured."""

    latencies: list[float]
    errors: int
    seconds: float
    cpu_s: float

    @property
    def per_second(self) -> float:
        """Answers a second."""
        return len(self.latencies) / self.seconds


def main() -> None:
    """Run everything."""
    options = arguments(
        __doc__ or "", litellm="", url="", model="glm-stub", think_ms=100.0, seconds=SECONDS, sessions=10_000.0,
        gguf="", requests=16,
    )  # fmt: skip
    if options.gguf:
        publish("glm", options.seed, embedded(options.gguf, _hub, options.requests), options.json)
        return
    rows: list[Row] = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        stub = stack.enter_context(_stub(options.think_ms))
        gateway = stack.enter_context(_hub(folder, [f"http://127.0.0.1:{stub.port}/v1"]))
        targets = [stub, gateway]
        if options.litellm:
            targets.append(stack.enter_context(_litellm(folder, Path(options.litellm), stub)))
        rows += _added(targets, options.seconds)
        rows += _cache(gateway)
    rows += _faults(options.seconds)
    rows += simulate_queue(int(options.sessions), options.seed)
    if options.url:
        rows += _real(options.url, options.model, options.seconds)
    publish("glm", options.seed, rows, options.json, f"the stub thinks for {options.think_ms:g} ms")


# -- what the gateway adds -----------------------------------------------------------------------------


def _added(targets: list[Target], seconds: float) -> list[Row]:
    rows = []
    for count in CONCURRENCY:
        bare = 0.0
        for target in targets:
            asyncio.run(_load(target, count, 1.0))  # warm
            load = asyncio.run(_load(target, count, seconds))
            bare = bare or load.per_second
            rows += _shown(_rows(f"concurrency {count}", target, load, bare))
    return rows


def _shown(rows: list[Row]) -> list[Row]:
    """Show figures as they come: the whole takes minutes."""
    for row in rows:
        print(f"  {row.dataset}, {row.method}, {row.metric}: {row.value:.4g} {row.unit}", file=sys.stderr, flush=True)
    return rows


def _rows(dataset: str, target: Target, load: Load, bare: float) -> list[Row]:
    p50, p99 = percentiles(load.latencies or [float("nan")])
    rows = [
        Row(dataset, target.name, "answers a second", load.per_second, "1/s"),
        Row(dataset, target.name, "share of the bare engine", load.per_second / bare, ""),
        Row(dataset, target.name, "latency p50", p50 * 1000, "ms"),
        Row(dataset, target.name, "latency p99", p99 * 1000, "ms"),
        Row(dataset, target.name, "errors", load.errors, ""),
    ]
    if target.pid:
        rows.append(Row(dataset, target.name, "CPU an answer", load.cpu_s / max(1, len(load.latencies)) * 1000, "ms"))
    return rows


async def _load(target: Target, count: int, seconds: float, **body: Any) -> Load:
    """`count` clients that ask one question after the other."""
    latencies: list[float] = []
    errors, start, before = 0, time.perf_counter(), _cpu_s(target.pid)

    async def client(number: int) -> None:
        nonlocal errors
        connection = HttpClient(target.port, target.token)
        turn = 0
        while time.perf_counter() - start < seconds:
            turn += 1
            messages = [{"role": "user", "content": f"session {number}, turn {turn}: {'why? ' * 200}"}]
            asked = time.perf_counter()
            status, _ = await connection.post({"model": target.model, "messages": messages, "max_tokens": 64} | body)
            if status == 200:
                latencies.append(time.perf_counter() - asked)
            else:
                errors += 1
        connection.close()

    await asyncio.gather(*(client(number) for number in range(count)))
    return Load(latencies, errors, time.perf_counter() - start, _cpu_s(target.pid) - before)


def _cpu_s(pid: int) -> float:
    """CPU seconds of a process and its children."""
    if not pid:
        return 0.0
    process = psutil.Process(pid)
    times = [one.cpu_times() for one in (process, *process.children(recursive=True))]
    return sum(one.user + one.system for one in times)


def _cache(gateway: Target) -> list[Row]:
    async def ask() -> list[float]:
        connection, times = HttpClient(gateway.port, gateway.token), []
        body = {"model": gateway.model, "messages": [{"role": "user", "content": "again"}], "temperature": 0}
        for _ in range(500):
            start = time.perf_counter()
            await connection.post(body)
            times.append(time.perf_counter() - start)
        connection.close()
        return times[1:]

    p50, p99 = percentiles(asyncio.run(ask()))
    return [Row("cache hit", "gateway", name, value * 1000, "ms") for name, value in (("p50", p50), ("p99", p99))]


# -- one of three addresses fails ------------------------------------------------------------------------


def _faults(seconds: float) -> list[Row]:
    """The fault begins after a third of the time and ends after two thirds."""
    rows = []
    for fault in FAULTS:
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            stubs = [stack.enter_context(_stub(20.0)) for _ in range(3)]
            hub = stack.enter_context(_hub(folder, [f"http://127.0.0.1:{stub.port}/v1" for stub in stubs]))
            load, timeline = asyncio.run(_with_fault(hub, stubs[0], fault, 2 * seconds))
        p50, p99 = percentiles(load.latencies)
        dataset = f"one of three {fault}"
        rows += _shown([
            Row(dataset, "gateway", "answers", len(load.latencies), ""),
            Row(dataset, "gateway", "errors seen by clients", load.errors, ""),
            Row(dataset, "gateway", "latency p50", p50 * 1000, "ms"),
            Row(dataset, "gateway", "latency p99", p99 * 1000, "ms"),
            Row(dataset, "gateway", "slowest answer", max(load.latencies) * 1000, "ms"),
            Row(dataset, "gateway", "until ten answers in a row are fast", timeline, "s"),
        ])  # fmt: skip
    return rows


async def _with_fault(hub: Target, stub: Target, fault: str, seconds: float) -> tuple[Load, float]:
    control = HttpClient(stub.port, "")
    load = asyncio.ensure_future(_load(hub, 16, seconds, stream=False))
    await asyncio.sleep(seconds / 3)
    began = time.perf_counter()
    await control.control(fault)
    recovered = await _recovery(hub, began)
    await asyncio.sleep(max(0.0, seconds / 3 - (time.perf_counter() - began)))
    await HttpClient(stub.port + 1, "").control("good")
    return await load, recovered


async def _recovery(hub: Target, began: float) -> float:
    """Seconds until ten probes in a row are answered within 200 ms."""
    connection, good, number = HttpClient(hub.port, hub.token), 0, 0
    while good < 10 and time.perf_counter() - began < 20:
        number += 1
        start = time.perf_counter()
        body = {"model": hub.model, "messages": [{"role": "user", "content": f"probe {number}"}]}
        status, _ = await connection.post(body)
        good = good + 1 if status == 200 and time.perf_counter() - start < 0.2 else 0
    connection.close()
    return time.perf_counter() - began


# -- a real engine -----------------------------------------------------------------------------------------


def _real(url: str, model: str, seconds: float) -> list[Row]:
    """Throughput of a real engine through the gateway."""
    rows = []
    with tempfile.TemporaryDirectory() as name, _hub(Path(name), [url], model) as hub:
        for count in CONCURRENCY:
            load = asyncio.run(_load(hub, count, seconds))
            rows += _rows(f"real engine, concurrency {count}", hub, load, load.per_second or 1.0)
    return rows


# -- processes -----------------------------------------------------------------------------------------------


@contextmanager
def _process(command: list[str], port: int) -> Iterator[int]:
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            wait_for_port(port, process)
            yield process.pid
        finally:
            process.kill()


@contextmanager
def _stub(think_ms: float) -> Iterator[Target]:
    for _ in range(5):  # another program may take a port in between
        port = free_port(2)
        command = [sys.executable, "-m", "benchmarks.glm_stub", str(port), str(think_ms)]
        with ExitStack() as stack:
            try:
                stack.enter_context(_process(command, port))
            except RuntimeError:
                continue
            yield Target("bare engine", port, "glm-stub")
            return
    raise RuntimeError("the stub does not start")


@contextmanager
def _hub(folder: Path, addresses: list[str], model: str = "glm-stub") -> Iterator[Target]:
    port, token = free_port(), folder / "token"
    command = [sys.executable, "-m", "benchmarks.glm_hub", str(port), str(folder), model, *addresses]
    with _process(command, port) as pid:
        yield Target("gateway", port, model, token.read_text(), pid)


@contextmanager
def _litellm(folder: Path, programs: Path, stub: Target) -> Iterator[Target]:
    port, config = free_port(), folder / "litellm.yaml"
    params = {"model": f"openai/{stub.model}", "api_base": f"http://127.0.0.1:{stub.port}/v1", "api_key": "x"}
    key = f"sk-{secrets.token_hex(32)}"
    models = [{"model_name": stub.model, "litellm_params": params}]
    config.write_text(json.dumps({"model_list": models, "general_settings": {"master_key": key}}))
    command = [str(programs / "litellm"), "--config", str(config), "--port", str(port), "--host", "127.0.0.1"]
    with _process(command, port) as pid:
        yield Target("LiteLLM's proxy", port, stub.model, key, pid)


if __name__ == "__main__":
    random.seed(7)
    main()
