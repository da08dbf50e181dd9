"""Language model engines: the Engine protocol, and a client of OpenAI-compatible chat completions.

An engine transports text; `incidents.diagnosis` validates each reply. The API key is read from its file for each
request, is sent to the configured URL only, and appears in no log, error or repr.
"""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import httpx
import msgspec

from cloud_hub.runtime.http_request import ResponseTooLarge, send_request
from cloud_hub.settings import Settings
from shared import plugins
from shared.errors import ConfigError, NotReady, WireError
from shared.suggestions import explained

PLACE = "glm.options"
LOCAL = ("127.0.0.1", "::1", "localhost")
MAX_REPLY = 1 << 18
"""The maximum size of a response in bytes."""


class Engine(Protocol):
    """A language model. `tests/examiners/engines.py` checks every implementation."""

    name: str

    def ask(self, system: str, user: str, schema: dict[str, Any]) -> str:
        """Return the model's text, which should be JSON of `schema` but must be validated.

        Raises NotReady (unreachable, timed out or overloaded), WireError (unusable response) or ConfigError (key, model
        or request rejected: an operator must act).
        """
        ...


def load_engine(settings: Settings) -> Engine | None:
    """The configured language model, or None if only the rules are used; raises ConfigError."""
    glm = settings.glm
    if not glm.url:
        return None
    options = glm.model_dump(exclude={"kind"}, exclude_defaults=True)
    engine: Engine = plugins.load(plugins.ENGINES, glm.kind, "glm.kind")(options)
    return engine


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`url` is the base URL without `/chat/completions`; `key_file` may be empty for a local server without a key.

    `timeout_s` limits the whole response. `extra_body` overrides fields of the request; a null removes a field
    (Z.ai: `{"chat_template_kwargs": null, "thinking": {"type": "disabled"}}`).
    """

    url: str
    model: str
    key_file: str = ""
    timeout_s: float = 60.0
    max_tokens: int = 1500
    extra_body: dict[str, Any] = {}

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"url must be http(s)://host[:port]/path, not '{self.url}'")
        if parts.username or parts.password:
            raise ValueError("url must hold no password: use key_file")
        if self.key_file and parts.scheme == "http" and parts.hostname not in LOCAL:
            raise ValueError("url must be https where a key is sent: it would travel readable to everyone")
        if not 0 < self.timeout_s <= 600 or self.max_tokens < 1:
            raise ValueError("timeout_s must lie between 0 and 600, max_tokens be at least 1")


class _Message(msgspec.Struct, frozen=True):
    content: str


class _Choice(msgspec.Struct, frozen=True):
    message: _Message
    finish_reason: str | None = None


class _Completion(msgspec.Struct, frozen=True):
    choices: list[_Choice]


def open_engine(options: dict[str, object]) -> Engine:
    """Create an engine for one URL; raises ConfigError if an option or the key file cannot be used."""
    try:
        read = msgspec.convert(options, Options)
    except msgspec.ValidationError as error:
        raise ConfigError(PLACE, explained(error, Options), "Give at least url and model") from None
    return ChatEngine(read)


class ChatEngine:
    """Calls `POST <url>/chat/completions`. Opens a connection for each request, so there is nothing to close."""

    def __init__(self, options: Options) -> None:
        self.name = f"{options.model} at {urlsplit(options.url).hostname}"
        self._options = options
        self._trust = ssl.create_default_context()
        self._key()

    def ask(self, system: str, user: str, schema: dict[str, Any]) -> str:
        """The model's text; see `Engine`."""
        body = {
            "model": self._options.model,
            "messages": [{"role": "system", "content": system}, {"role": "user", "content": user}],
            "temperature": 0,
            "max_tokens": self._options.max_tokens,
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "reply", "schema": schema, "strict": True},
            },
            "chat_template_kwargs": {"enable_thinking": False},
        } | self._options.extra_body
        status, content = self._post(msgspec.json.encode({k: v for k, v in body.items() if v is not None}))
        if status != 200:
            raise _refusal(self.name, status)
        return _text(self.name, content)

    def _key(self) -> str:
        if not self._options.key_file:
            return ""
        place, cure = f"{PLACE}.key_file", "Name a readable file that holds nothing but the key"
        try:
            key = Path(self._options.key_file).read_text("ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "is not ASCII"  # its text could show the key
            raise ConfigError(place, f"'{self._options.key_file}' {reason}", cure) from None
        if not key or not key.isprintable():
            raise ConfigError(place, f"'{self._options.key_file}' holds no key", cure)
        return key

    def _post(self, body: bytes) -> tuple[int, bytes]:
        key, limit = self._key(), self._options.timeout_s
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
        url = self._options.url.rstrip("/") + "/chat/completions"
        try:
            answer = send_request(
                "POST", url, headers=headers, content=body, trust=self._trust, timeout_s=limit, max_bytes=MAX_REPLY
            )
        except ResponseTooLarge as error:
            raise WireError(str(error), self.name) from None
        except httpx.TimeoutException:
            raise NotReady(f"{self.name}: no answer within {limit:g} s", 5.0) from None
        except httpx.HTTPError as error:
            raise NotReady(f"{self.name}: cannot be reached ({type(error).__name__})", 5.0) from None
        return answer.status, answer.content


def _text(name: str, content: bytes) -> str:
    try:
        choices = msgspec.json.decode(content, type=_Completion).choices
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise WireError(f"the answer is no chat completion: {error}", name) from None
    if not choices:
        raise WireError("the answer holds no choice", name)
    if choices[0].finish_reason == "length":
        raise WireError("the answer was cut off at max_tokens", name)
    return choices[0].message.content


REFUSED = {
    400: ("the request is refused", "Check model and extra_body against the server's documentation"),
    401: ("the key is not accepted", "Put a valid key into key_file"),
    403: ("the key may not use this model", "Put another key into key_file, or name another model"),
    404: ("there is no such address or model", "Correct url and model"),
    422: ("the request is refused", "Check model and extra_body against the server's documentation"),
}


def _refusal(name: str, status: int) -> ConfigError | NotReady:
    """The error for a status, without the body: some servers repeat the key in it."""
    if status in REFUSED:
        reason, cure = REFUSED[status]
        return ConfigError(PLACE, f"{name}: {reason} (HTTP {status})", cure)
    return NotReady(f"{name}: answers HTTP {status}", 10.0)
