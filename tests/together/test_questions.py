"""A device, curl and OpenAI's client get answers through one hub from the embedded engine: every part is a process."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
from typing import Any

import pytest
from openai import OpenAI
from simulators.brokers import until
from simulators.tiny_glm import write_tiny_glm

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("xllamacpp") is None,
        reason="the package 'xllamacpp' is not installed: pip install -e '.[dev]'",
    ),
    pytest.mark.skipif(shutil.which("curl") is None, reason="the program 'curl' is not installed: apt install curl"),
]

DEVICE = "press-3"
POOL = """
[[inference.pools]]
name = "embedded"
engine = "llama"
[inference.pools.options]
path = "{path}"
sha256 = "{digest}"
parallel = 2
context = 1024
"""


def asked(world: Any, *arguments: str) -> tuple[int, str, str]:
    """`tidegate-edge ask ...`: exit code and what it printed."""
    command = [world.program("tidegate-edge"), "ask", *arguments, "--config", str(world.folder / f"{DEVICE}.toml")]
    done = subprocess.run(command, capture_output=True, timeout=120, check=False)
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def test_a_device_curl_and_an_openai_client_are_answered_by_the_embedded_engine(build: Any, tmp_path: Any) -> None:
    model = tmp_path / "tiny-glm4.gguf"
    world = build("embedded", settings=POOL.format(path=model, digest=write_tiny_glm(model)))
    world.broker.start()
    world.start_hub()
    world.start_edge(DEVICE)
    until("online", lambda: world.online(DEVICE))

    code, out, err = asked(world, "why did the pressure fall?", "--max-tokens", "12", "--deadline", "90", "--json")
    assert code == 0, err
    response = json.loads(out)
    assert (response["state"], response["model"]) == ("answered", ""), "the pool names no model"

    header = world.http.headers["Authorization"]
    url = f"http://127.0.0.1:{world.rest}/v1"
    body = {"model": "auto", "messages": [{"role": "user", "content": "why?"}], "max_tokens": 12}
    done = subprocess.run(
        ["curl", "-sS", "--fail-with-body", "-H", f"Authorization: {header}", "-H", "Content-Type: application/json",
         "-d", json.dumps(body), f"{url}/chat/completions"],
        capture_output=True, timeout=60, check=True,
    )  # fmt: skip
    completion = json.loads(done.stdout)
    assert completion["choices"][0]["finish_reason"] in ("stop", "length")
    assert completion["usage"]["completion_tokens"] > 0
    streamed = subprocess.run(
        ["curl", "-sSN", "-H", f"Authorization: {header}", "-H", "Content-Type: application/json",
         "-d", json.dumps(body | {"stream": True}), f"{url}/chat/completions"],
        capture_output=True, timeout=60, check=True,
    )  # fmt: skip
    assert streamed.stdout.endswith(b"data: [DONE]\n\n")

    with OpenAI(base_url=url, api_key=header.removeprefix("Bearer "), max_retries=0) as client:
        messages: Any = [{"role": "user", "content": "why?"}]
        answer = client.chat.completions.create(model="embedded", messages=messages, max_tokens=12)
    assert answer.usage is not None
    assert answer.usage.completion_tokens > 0

    world.kill("hub")
    code, _, err = asked(world, "why?", "--deadline", "1")
    assert (code, "refused (deadline)" in err) == (1, True), err
    world.kill("broker")
    until("the link is down", lambda: world.logged(DEVICE, "link.down"))
    code, _, err = asked(world, "why?", "--deadline", "5")
    assert (code, "refused (offline)" in err) == (1, True), err
