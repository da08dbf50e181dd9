"""The gateway before the embedded engine: OpenAI's client and a device get answers from a real GLM architecture."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import msgspec
import pytest
from simulators.brokers import until
from simulators.gateways import MakeHub, bind, client_of
from simulators.tiny_glm import write_tiny_glm

from cloud_hub.inference.gateway.devices import DeviceDesk, DeviceQuestion
from cloud_hub.runtime.outgoing import OutgoingMessage
from cloud_hub.settings.inference import Inference
from shared.protocol.codec import decode
from shared.protocol.messages import InferenceRequest, InferenceResponse

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("xllamacpp") is None,
    reason="the package 'xllamacpp' is not installed: pip install -e '.[dev]'",
)
SCHEMA: dict[str, Any] = {
    "type": "object", "properties": {"cause": {"enum": ["wear", "leak"]}}, "required": ["cause"],
    "additionalProperties": False,
}  # fmt: skip


def test_a_client_and_a_device_are_answered_by_a_real_engine(make_hub: MakeHub, tmp_path: Path) -> None:
    path = tmp_path / "tiny-glm4.gguf"
    options = {"path": str(path), "sha256": write_tiny_glm(path), "parallel": 2, "context": 1024}
    hub = make_hub({"name": "embedded", "engine": "llama", "options": options})
    bind(hub)
    client = client_of(hub)
    form: Any = {"type": "json_schema", "json_schema": {"name": "d", "schema": SCHEMA, "strict": True}}
    messages: Any = [{"role": "user", "content": "why?"}]
    typed = client.chat.completions.create(model="auto", messages=messages, response_format=form, max_tokens=60)
    assert msgspec.json.decode(typed.choices[0].message.content or "")["cause"] in ("wear", "leak")
    assert typed.usage is not None
    assert typed.usage.completion_tokens > 0
    chunks = list(client.chat.completions.create(model="embedded", messages=messages, max_tokens=12, stream=True))
    assert chunks[-1].choices[0].finish_reason in ("stop", "length")
    sent: list[OutgoingMessage] = []
    desk = DeviceDesk(hub.gateway, sent.extend, Inference())
    question = InferenceRequest(id="q1", prompt="why?", max_tokens=60, deadline_s=60, schema=SCHEMA)
    desk.ask(DeviceQuestion("press-3", (), True, question, ""))
    until("an answer", lambda: sent)
    response = decode(InferenceResponse, sent[0].payload)
    assert response.state == "answered", response.reason
    assert msgspec.json.decode(response.text)["cause"] in ("wear", "leak")
