"""Runs an expert's model on an inference server: the open inference protocol (KServe v2) of Triton, MLServer, OpenVINO.

The bundle on the hub says how frames become tensors and tensors answers; the server only runs the model.
Source: https://github.com/kserve/open-inference-protocol.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
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


class _Output(msgspec.Struct, frozen=True):
    name: str
    shape: list[int]
    datatype: str
    data: list[float | int | bool]


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
        content = msgspec.json.encode(
            {"inputs": [_input(name, value) for name, value in tensors.items()],
             "outputs": [{"name": name} for name in self._outputs]}
        )  # fmt: skip
        status, body = self._post(content)
        if status in (400, 413, 422):
            raise ModelError(f"{self._name}: the server refuses the input (HTTP {status}): {_reason(body)}")
        if status != 200:
            raise NotReady(f"{self._name}: answers HTTP {status}", 10.0)
        return self._read(body)

    def _post(self, content: bytes) -> tuple[int, bytes]:
        limit = self._server.timeout_s
        try:
            answer = send_request(
                "POST", self._url, headers=self._headers(), content=content, trust=self._trust, timeout_s=limit,
                max_bytes=MAX_REPLY,
            )  # fmt: skip
        except ResponseTooLarge as error:
            raise ModelError(f"{self._name}: {error}") from None
        except httpx.TimeoutException:
            raise NotReady(f"{self._name}: no complete answer within {limit:g} s", 5.0) from None
        except httpx.HTTPError as error:
            raise NotReady(f"{self._name}: cannot be reached ({type(error).__name__})", 5.0) from None
        return answer.status, answer.content

    def _headers(self) -> dict[str, str]:
        key = read_key(self._server.key_file, f"{self._place}.key_file")
        return {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})

    def _read(self, body: bytes) -> Tensors:
        try:
            found = {one.name: one for one in msgspec.json.decode(body, type=_Reply).outputs}
            return {name: _array(found[name]) for name in self._outputs}
        except KeyError as error:
            raise ModelError(f"{self._name}: the answer lacks the output {error}") from None
        except (msgspec.MsgspecError, ValueError, OverflowError) as error:
            raise ModelError(f"{self._name}: the answer cannot be read ({str(error)[:200]})") from None


def _input(name: str, value: Array) -> dict[str, object]:
    kind = KINDS.get(value.dtype.name)
    if kind is None:
        raise ModelError(f"input '{name}' is {value.dtype.name}, which the protocol has not")
    return {"name": name, "shape": list(value.shape), "datatype": kind, "data": value.ravel().tolist()}


def _array(output: _Output) -> Array:
    if output.datatype not in _TYPES:
        raise ValueError(f"output '{output.name}' is {output.datatype}")
    return np.array(output.data, dtype=_TYPES[output.datatype]).reshape(output.shape)


def _reason(body: bytes) -> str:
    return body[:200].decode("utf-8", "replace")
