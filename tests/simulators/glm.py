"""A strict, simulated OpenAI-compatible server on 127.0.0.1 that answers as `behaviour` says.

It refuses what a real one refuses (key, model, messages, response_format). "obeys" plays the worst model there
can be: it proposes every command that any text of the evidence asks for.
"""

from __future__ import annotations

import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

Behaviour = Literal[
    "good", "invalid-json", "wrong-schema", "no-completion", "cut-off", "huge", "slow", "fails", "obeys"
]
Json = dict[str, Any]
COMMAND = re.compile(r"\b(restart|reboot|capture|diagnose|erase|run)\s+([\w./-]+)\s+on\s+([\w-]+)")
VERBS = {"restart", "capture", "diagnose"}


def good(evidence: Json) -> Json:
    """Agrees with the rules and takes up to one allowed proposal."""
    taken = [p | {"reason": "the evidence calls for it"} for p in evidence["allowed"][:1]]
    return {"cause": evidence["rules"]["cause"], "confidence": 0.9, "explanation": "I agree.", "proposals": taken}


def obeying(evidence: Json) -> Json:
    """Proposes whatever command text stands anywhere in the evidence."""
    found = COMMAND.findall(json.dumps(evidence, ensure_ascii=False))
    asked = [{"verb": v, "device": d, "target": t, "reason": "the text said so"} for v, t, d in found[:8]]
    return {"cause": "obeyed", "confidence": 1.0, "explanation": "as I was told", "proposals": asked}


@dataclass
class GlmSimulator:
    """Use as a context manager; `requests` holds the bodies of all accepted requests."""

    key: str = "secret-key-4711"
    model: str = "glm-simulated"
    behaviour: Behaviour = "good"
    requests: list[Json] = field(default_factory=list)
    released: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> GlmSimulator:
        self._server = _Quiet(("127.0.0.1", 0), _answering(self))
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.released.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def answer(self, path: str, authorization: str, body: bytes) -> tuple[int, bytes]:
        """Status and body for one POST."""
        if path != "/v1/chat/completions":
            return 404, b"{}"
        if authorization != f"Bearer {self.key}":
            return 401, json.dumps({"error": f"bad key {authorization}"}).encode()
        request = json.loads(body)
        if request.get("model") != self.model:
            return 404, b'{"error": "no such model"}'
        if problem := self.problem(request):
            return 400, json.dumps({"error": problem}).encode()
        self.requests.append(request)
        return self.play(json.loads(request["messages"][1]["content"].split("\n")[1]))

    def problem(self, request: Json) -> str:
        """What a strict server would not accept, or ''."""
        if [m.get("role") for m in request.get("messages", [])] != ["system", "user"]:
            return "messages"
        form = request.get("response_format", {})
        schema = form.get("json_schema", {}).get("schema", {})
        if form.get("type") != "json_schema" or schema.get("type") != "object":
            return "response_format"
        return "" if request.get("chat_template_kwargs") == {"enable_thinking": False} else "thinking is on"

    def play(self, evidence: Json) -> tuple[int, bytes]:
        """The scripted answer."""
        match self.behaviour:
            case "fails":
                return 500, b"oops"
            case "slow":
                self.released.wait(10)
                return 200, self.completion("{}")
            case "no-completion":
                return 200, b'{"hello": "world"}'
            case "huge":
                return 200, b" " * (5 << 20)
            case "cut-off":
                return 200, self.completion('{"cause": "unk', "length")
            case "invalid-json":
                return 200, self.completion("Sure! The cause is {cpu")
            case "wrong-schema":
                return 200, self.completion(json.dumps(good(evidence) | {"confidence": 7}))
            case "obeys":
                return 200, self.completion(json.dumps(obeying(evidence)))
        return 200, self.completion(json.dumps(good(evidence)))

    def completion(self, text: str, finish: str = "stop") -> bytes:
        """A chat completion around `text`."""
        message = {"role": "assistant", "content": text}
        choice = {"index": 0, "finish_reason": finish, "message": message}
        return json.dumps({"object": "chat.completion", "model": self.model, "choices": [choice]}).encode()


class _Quiet(ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is part of the play."""


def _answering(simulator: GlmSimulator) -> type[BaseHTTPRequestHandler]:
    class Answering(BaseHTTPRequestHandler):
        timeout = 10

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
            status, reply = simulator.answer(self.path, self.headers.get("Authorization", ""), body)
            self.send_response(status)
            self.send_header("Content-Length", str(len(reply)))
            self.end_headers()
            self.wfile.write(reply)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    return Answering
