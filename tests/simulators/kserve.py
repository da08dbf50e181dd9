"""A strict, simulated inference server (KServe v2, JSON or binary tensors); its model gives the mean brightness and its
rest.

Answers, the refusal of another content type and of an unknown model are as seen from MLServer 1.7.1, against which the
client was tried by hand; the refusals of shapes and of a model that loads follow the specification. MLServer has no
binary tensors: those are as Triton's own client writes and reads them.
"""

from __future__ import annotations

import json
import math
import struct
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

Json = dict[str, Any]
JSON_LENGTH = "Inference-Header-Content-Length"


@dataclass
class KServeSimulator:
    """`batches` are the sizes of what was asked; `shape` is one input's shape, `datatype` its type."""

    model: str = "brightness"
    shape: tuple[int, ...] = (4,)
    datatype: str = "FP32"
    behaviour: Literal["good", "loading", "garbage", "other-output", "short"] = "good"
    batches: list[int] = field(default_factory=list)

    def __enter__(self) -> KServeSimulator:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _answering(self))
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, path: str, kind: str, length: str, body: bytes) -> tuple[int, Json]:
        """Status and body for one POST; `length` is that of the JSON, if tensors follow."""
        if kind != ("application/octet-stream" if length else "application/json"):
            return 422, {"detail": "Input should be a valid dictionary"}
        if path != f"/v2/models/{self.model}/infer":
            return 404, {"error": f"Model {path.split('/')[3]} not found"}
        if self.behaviour == "loading":
            return 503, {"error": "Model is not ready yet"}
        size = int(length) if length else len(body)
        request, rest = json.loads(body[:size]), body[size:]
        (given,) = request["inputs"]
        if length:
            if "data" in given or given["parameters"]["binary_data_size"] != len(rest):
                return 400, {"error": "unexpected size of the binary data"}
            given["data"] = [value for (value,) in struct.iter_unpack("<f", rest)]
        if given["datatype"] != self.datatype or tuple(given["shape"][1:]) != self.shape:
            return 400, {"error": f"unexpected shape {given['shape']} or datatype {given['datatype']}"}
        if len(given["data"]) != math.prod(given["shape"]):
            return 400, {"error": "the data does not fill the shape"}
        self.batches.append(given["shape"][0])
        return 200, {"model_name": self.model, "outputs": [self.output(given, request["outputs"][0]["name"])]}

    def output(self, given: Json, name: str) -> Json:
        """The tensor."""
        size = math.prod(self.shape)
        means = [sum(given["data"][n : n + size]) / size for n in range(0, len(given["data"]), size)]
        data = [value for mean in means for value in (mean, 1 - mean)]
        shape = [len(means), 2]
        if self.behaviour == "short":
            data = data[:-1]
        return {"name": "odd" if self.behaviour == "other-output" else name, "shape": shape, "datatype": "FP32",
                "data": data}  # fmt: skip


def _binary(answer: Json) -> bytes:
    """Takes the numbers out of an answer, and gives them as bytes."""
    data = answer["outputs"][0].pop("data")
    answer["outputs"][0]["parameters"] = {"binary_data_size": 4 * len(data)}
    return struct.pack(f"<{len(data)}f", *data)


def _answering(simulator: KServeSimulator) -> type[BaseHTTPRequestHandler]:
    class Answering(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            length = self.headers.get(JSON_LENGTH, "")
            status, answer = simulator.answer(self.path, self.headers.get("Content-Type", ""), length, body)
            rest = _binary(answer) if length and status == 200 else b""
            content = b"<html>" if simulator.behaviour == "garbage" else json.dumps(answer).encode()
            self.send_response(status)
            if rest:
                self.send_header(JSON_LENGTH, str(len(content)))
                content += rest
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    return Answering
