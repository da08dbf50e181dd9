"""Runs an expert's model on an inference server: the open inference protocol (KServe v2) of Triton, MLServer, OpenVINO.

The bundle on the hub says how frames become tensors and tensors answers; the server only runs the model.
Sources: https://github.com/kserve/open-inference-protocol, and for `binary` Triton's "binary tensor data extension":
the tensors' bytes, little-endian, follow the JSON, whose length a header gives.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import httpx
import msgspec
import numpy as np

from cloud_hub.inference.engines.connection import read_key, trust
from cloud_hub.runtime.http_request import ResponseTooLarge, send_request
from cloud_hub.settings.experts import Server
from shared.errors import ModelError, NotReady
from shared.models.manifest import Manifest
from shared.tasks import Array, Tensors

MAX_REPLY = 1 << 26
KINDS = {
    "float32": "FP32", "float16": "FP16", "float64": "FP64", "uint8": "UINT8", "int8": "INT8", "int16": "INT16",
    "int32": "INT32", "int64": "INT64", "bool": "BOOL",
}  # fmt: skip
_TYPES = {name: kind for kind, name in KINDS.items()}


JSON_LENGTH = "Inference-Header-Content-Length"


class _Parameters(msgspec.Struct, frozen=True):
    binary_data_size: int | None = None


class _Output(msgspec.Struct, frozen=True):
    name: str
    shape: list[int]
    datatype: str
    data: list[float | int | bool] = []
    parameters: _Parameters = _Parameters()


class _Reply(msgspec.Struct, frozen=True):
    outputs: list[_Output]


class KServeSession:
    """A `Session` whose model is on a server; a connection for each batch. `batch` 0: any number of inputs."""

    def __init__(self, place: str, server: Server, manifest: Manifest) -> None:
        self.batch = manifest.batch
        version = f"/versions/{quote(server.version, '')}" if server.version else ""
        self._url = f"{server.url.rstrip('/')}/v2/models/{quote(server.model or manifest.name, '')}{version}/infer"
        self._name, self._place, self._server = f"{manifest.name} at {httpx.URL(server.url).host}", place, server
        self._outputs = [spec.name for spec in manifest.outputs]
        self._trust: ssl.SSLContext = trust(server.ca_file, place)
        self._headers()

    def run(self, tensors: Mapping[str, Array]) -> Tensors:
        """The output tensors by name; raises ModelError, or NotReady while the server or its model is away."""
        status, body, length = self._post(*self._content(tensors))
        if status in (400, 413, 422):
            raise ModelError(f"{self._name}: the server refuses the input (HTTP {status}): {_reason(body)}")
        if status != 200:
            raise NotReady(f"{self._name}: answers HTTP {status}", 10.0)
        return self._read(body, length)

    def _content(self, tensors: Mapping[str, Array]) -> tuple[bytes, dict[str, str]]:
        """The body of a request and the headers that describe it."""
        if not self._server.binary:
            inputs = [_input(name, value) | {"data": value.ravel().tolist()} for name, value in tensors.items()]
            outputs: list[dict[str, object]] = [{"name": name} for name in self._outputs]
            return msgspec.json.encode({"inputs": inputs, "outputs": outputs}), {"Content-Type": "application/json"}
        parts = [value.astype(value.dtype.newbyteorder("<")).tobytes() for value in tensors.values()]
        inputs = [
            _input(name, value) | {"parameters": {"binary_data_size": len(part)}}
            for (name, value), part in zip(tensors.items(), parts, strict=True)
        ]
        outputs = [{"name": name, "parameters": {"binary_data": True}} for name in self._outputs]
        head = msgspec.json.encode({"inputs": inputs, "outputs": outputs})
        return b"".join([head, *parts]), {"Content-Type": "application/octet-stream", JSON_LENGTH: str(len(head))}

    def _post(self, content: bytes, kind: dict[str, str]) -> tuple[int, bytes, str]:
        """Status, body, and the length of its JSON if tensors follow."""
        limit = self._server.timeout_s
        try:
            answer = send_request(
                "POST", self._url, headers=kind | self._headers(), content=content, trust=self._trust, timeout_s=limit,
                max_bytes=MAX_REPLY,
            )  # fmt: skip
        except ResponseTooLarge as error:
            raise ModelError(f"{self._name}: {error}") from None
        except httpx.TimeoutException:
            raise NotReady(f"{self._name}: no complete answer within {limit:g} s", 5.0) from None
        except httpx.HTTPError as error:
            raise NotReady(f"{self._name}: cannot be reached ({type(error).__name__})", 5.0) from None
        return answer.status, answer.content, answer.headers.get(JSON_LENGTH, "")

    def _headers(self) -> dict[str, str]:
        key = read_key(self._server.key_file, f"{self._place}.key_file")
        return {"Authorization": f"Bearer {key}"} if key else {}

    def _read(self, body: bytes, length: str) -> Tensors:
        try:
            size = int(length) if length else len(body)
            arrays = _arrays(msgspec.json.decode(body[:size], type=_Reply).outputs, body[size:])
            return {name: arrays[name] for name in self._outputs}
        except KeyError as error:
            raise ModelError(f"{self._name}: the answer lacks the output {error}") from None
        except (msgspec.MsgspecError, ValueError, OverflowError) as error:
            raise ModelError(f"{self._name}: the answer cannot be read ({str(error)[:200]})") from None


def _input(name: str, value: Array) -> dict[str, Any]:
    kind = KINDS.get(value.dtype.name)
    if kind is None:
        raise ModelError(f"input '{name}' is {value.dtype.name}, which the protocol has not")
    return {"name": name, "shape": list(value.shape), "datatype": kind}


def _arrays(outputs: list[_Output], rest: bytes) -> dict[str, Array]:
    """The tensors by name; `rest` holds the bytes of the binary ones in their order. Raises ValueError."""
    arrays: dict[str, Array] = {}
    for output in outputs:
        if output.datatype not in _TYPES:
            raise ValueError(f"output '{output.name}' is {output.datatype}")
        kind, size = np.dtype(_TYPES[output.datatype]), output.parameters.binary_data_size
        if size is None:
            arrays[output.name] = np.array(output.data, dtype=kind).reshape(output.shape)
            continue
        if not 0 <= size <= len(rest):
            raise ValueError(f"output '{output.name}' ends too early")
        arrays[output.name] = np.frombuffer(rest[:size], kind.newbyteorder("<")).astype(kind).reshape(output.shape)
        rest = rest[size:]
    return arrays


def _reason(body: bytes) -> str:
    return body[:200].decode("utf-8", "replace")
