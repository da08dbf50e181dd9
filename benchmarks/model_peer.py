"""MLServer as a peer of the agent: the same ONNX file in a custom runtime, asked over gRPC on loopback.

It runs in an environment of its own, which is not part of the project:

    python -m venv /tmp/peer && /tmp/peer/bin/pip install mlserver onnxruntime 'uvloop<0.22'
    python -m benchmarks.models --peer-python /tmp/peer/bin/python

A frame travels as one BYTES element, the fastest way that MLServer offers: as numbers it would become a Python list.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np

RUNTIME = """
import numpy as np
import onnxruntime as ort
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceResponse

class OnnxModel(MLModel):
    async def load(self):
        choices = ort.SessionOptions()
        choices.intra_op_num_threads = 1
        choices.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = ort.InferenceSession("model.onnx", choices, providers=["CPUExecutionProvider"])
        return True

    async def predict(self, payload):
        frame = np.frombuffer(payload.inputs[0].data[0], np.uint8).reshape(1, SIDE, SIDE, 3)
        (found,) = self._session.run(["probabilities"], {"image": frame})
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output("probabilities", found)])
"""

CLIENT = """
import json, sys, threading, time
import grpc, numpy as np
from mlserver.grpc import dataplane_pb2 as pb, dataplane_pb2_grpc as rpc

address, seconds, depth = sys.argv[1], float(sys.argv[2]), int(sys.argv[3])
frames = [frame.tobytes() for frame in np.load("frames.npy")]
stub = rpc.GRPCInferenceServiceStub(grpc.insecure_channel(address))

def request(frame):
    tensor = pb.ModelInferRequest.InferInputTensor(name="image", datatype="BYTES", shape=[1])
    tensor.contents.bytes_contents.append(frame)
    return pb.ModelInferRequest(model_name="m", inputs=[tensor])

def probabilities(frame):
    return list(stub.ModelInfer(request(frame)).outputs[0].contents.fp32_contents)

answer = [probabilities(frame) for frame in frames]
times, began = [], time.perf_counter()
def loop(start):
    at = start
    while time.perf_counter() - began < seconds:
        before = time.perf_counter()
        probabilities(frames[at % len(frames)])
        times.append(time.perf_counter() - before)
        at += depth
threads = [threading.Thread(target=loop, args=(n,)) for n in range(depth)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print(json.dumps({"times": times, "seconds": time.perf_counter() - began, "answers": answer}))
"""


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


class Peer:
    """MLServer with one model; `workers` 1 is its default (the model in a process of its own), 0 its own process."""

    def __init__(self, folder: Path, python: Path, model: bytes, side: int, frames: np.ndarray, workers: int) -> None:
        self._folder, self._python = folder, python
        folder.mkdir()
        http, grpc, metrics = _free_ports(3)
        self._address = f"127.0.0.1:{grpc}"
        settings = {
            "host": "127.0.0.1", "http_port": http, "grpc_port": grpc, "metrics_port": metrics, "debug": False,
            "parallel_workers": workers,
        }  # fmt: skip
        (folder / "settings.json").write_text(json.dumps(settings))
        (folder / "model-settings.json").write_text(
            json.dumps({"name": "m", "implementation": "onnx_runtime.OnnxModel", "parameters": {"uri": "model.onnx"}})
        )
        (folder / "onnx_runtime.py").write_text(f"SIDE = {side}\n{RUNTIME}")
        (folder / "client.py").write_text(CLIENT)
        (folder / "model.onnx").write_bytes(model)
        np.save(folder / "frames.npy", frames)
        self._log = (folder / "log").open("wb")
        environment = os.environ | {"PYTHONPATH": str(folder)}
        self._process = subprocess.Popen(
            [str(python.with_name("mlserver")), "start", "."], cwd=folder, env=environment,
            stdout=self._log, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def wait(self, seconds: float = 90.0) -> None:
        """Wait until it is ready; raises RuntimeError with the end of its log."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and self._process.poll() is None:
            try:
                self._ask(0.05, 1)
            except subprocess.CalledProcessError:
                time.sleep(0.5)
            else:
                return
        raise RuntimeError(f"MLServer does not serve: {(self._folder / 'log').read_text()[-2000:]}")

    def measure(self, seconds: float, depth: int) -> tuple[list[float], float]:
        """(seconds of each request, requests a second) with `depth` requests under way."""
        found = self._ask(seconds, depth)
        return found["times"], len(found["times"]) / found["seconds"]

    def answers(self) -> list[list[float]]:
        """The outputs for all frames."""
        found: list[list[float]] = self._ask(0.01, 1)["answers"]
        return found

    def _ask(self, seconds: float, depth: int) -> dict[str, Any]:
        command = [str(self._python), "client.py", self._address, str(seconds), str(depth)]
        done = subprocess.run(command, cwd=self._folder, check=True, capture_output=True, timeout=seconds + 60)
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def close(self) -> None:
        """End it."""
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()
