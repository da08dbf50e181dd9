"""Engine `openai`: any server with OpenAI-compatible chat completions, such as vLLM, SGLang, llama.cpp or Z.ai.

The API key is read from its file for each request, is sent to the configured URL only, and appears in no log, error
or repr.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable
from functools import partial
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import msgspec

from cloud_hub.inference.engines.connection import Connection, Exchange, read_key
from cloud_hub.inference.engines.core.completion import decode_completion
from cloud_hub.inference.engines.core.load import read_load
from cloud_hub.inference.engines.core.request import ChatRequest
from cloud_hub.inference.engines.core.sse import DONE, EventSplitter, event_data
from cloud_hub.inference.engines.errors import EngineBroken, EngineRefused
from cloud_hub.inference.engines.probe import ModelList, Probe
from cloud_hub.inference.engines.protocol import Capabilities, Engine, Health, Load
from shared.errors import ConfigError, TidegateError
from shared.suggestions import explained

PLACE = "inference.pools"
LOCAL = ("127.0.0.1", "::1", "localhost")
MAX_REPLY = 1 << 22
"""The maximum size of a body, and of one event, in bytes."""
HEALTH_S = 3.0


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`url` is the base URL without `/chat/completions`; `model` replaces the caller's, unless it is empty.

    `key_file` may be empty for a server without a key. `ca_file` names the authority of a private certificate.
    `priority`: the server orders by the field of that name (vLLM: `--scheduling-policy priority`). `extra_body`
    overrides fields of each request; a null removes a field
    (Z.ai: `{"chat_template_kwargs": null, "thinking": {"type": "disabled"}}`).
    """

    url: str
    model: str = ""
    key_file: str = ""
    ca_file: str = ""
    connect_s: float = 0.8
    priority: bool = False
    extra_body: dict[str, Any] = {}

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"url must be http(s)://host[:port]/path, not '{self.url}'")
        if parts.username or parts.password:
            raise ValueError("url must hold no password: use key_file")
        if self.key_file and parts.scheme == "http" and parts.hostname not in LOCAL:
            raise ValueError("url must be https where a key is sent: it would travel readable to everyone")
        if not 0 < self.connect_s <= 60:
            raise ValueError("connect_s must lie between 0 and 60")


def open_engine(options: dict[str, object]) -> Engine:
    """Create an engine for one URL; raises ConfigError if an option or the key file cannot be used."""
    try:
        read = msgspec.convert(options, Options)
    except msgspec.ValidationError as error:
        raise ConfigError(PLACE, explained(error, Options), "Give at least url and model") from None
    return OpenAIEngine(read)


class OpenAIEngine:
    """Calls `POST <url>/chat/completions`."""

    def __init__(self, options: Options, *, name: str = "", key: Callable[[], str] | None = None) -> None:
        self.address = options.url.rstrip("/")
        self.name = name or f"{options.model or 'any model'} at {urlsplit(options.url).netloc.rpartition('@')[2]}"
        self._options = options
        key = key or partial(read_key, options.key_file, f"{PLACE}.key_file")
        self._connection = Connection(
            self.name, options.url, key=key, ca_file=options.ca_file, connect_s=options.connect_s, place=PLACE
        )
        key()

    async def chat(self, request: ChatRequest, deadline_s: float) -> AsyncGenerator[bytes, None]:
        """The answer; see `Engine`."""
        prepared = self._prepared(request)
        async with self._connection.exchange(
            "POST",
            "/chat/completions",
            content=prepared.encoded(),
            deadline_s=deadline_s,
            traceparent=request.traceparent,
        ) as exchange:
            if prepared.stream:
                async for event in _events(exchange, self.name):
                    yield event
            else:
                body = await exchange.read(MAX_REPLY)
                decode_completion(body, self.name)
                yield body

    async def capabilities(self) -> Capabilities:
        """What the address can do; see `Engine`."""
        probe = Probe(
            chat=self.chat, model=self._options.model, listed=await self._models(), server=await self._server()
        )
        return await probe.run()

    async def health(self) -> Health:
        """Whether `GET /models` is answered."""
        start = time.monotonic()
        try:
            await self._connection.get("/models", deadline_s=HEALTH_S, max_bytes=MAX_REPLY)
        except TidegateError as error:
            return Health(ready=False, reason=str(error), latency_s=time.monotonic() - start)
        return Health(ready=True, latency_s=time.monotonic() - start)

    async def load(self) -> Load | None:
        """From `/metrics` beside the API, as vLLM, SGLang and llama.cpp have it."""
        return read_load(await self._metrics())

    async def aclose(self) -> None:
        """Close the connections."""
        await self._connection.aclose()

    async def _metrics(self) -> str:
        """The server's metrics, or '' where it has none."""
        parts = urlsplit(self.address)
        url = urlunsplit(parts._replace(path=parts.path.removesuffix("/v1") + "/metrics"))
        try:
            text = await self._connection.get(url, deadline_s=HEALTH_S, max_bytes=MAX_REPLY)
        except TidegateError:
            return ""
        return text.decode("utf-8", "replace")

    async def _server(self) -> str:
        text = await self._metrics()
        return next((name for name in ("vllm", "sglang", "llamacpp") if f"\n{name}:" in text), "")

    async def _models(self) -> ModelList:
        """The models that the server lists; several services list none."""
        try:
            content = await self._connection.get("/models", deadline_s=HEALTH_S, max_bytes=MAX_REPLY)
            return msgspec.json.decode(content, type=ModelList)
        except (EngineRefused, EngineBroken, ConfigError, msgspec.MsgspecError):
            return ModelList([])

    def _prepared(self, request: ChatRequest) -> ChatRequest:
        """The request as this server wants it."""
        fields: dict[str, Any] = {"model": self._options.model or request.model}
        if self._options.priority and request.priority is not None:
            fields["priority"] = request.priority
        return request.changed(fields | self._options.extra_body)


async def _events(exchange: Exchange, name: str) -> AsyncGenerator[bytes, None]:
    """The events of a stream, which must end with [DONE]."""
    kind = exchange.content_type
    if not kind.startswith("text/event-stream"):
        raise EngineBroken(f"a stream was asked for, the answer is {kind or 'of no type'}", name)
    splitter = EventSplitter(MAX_REPLY)
    async for part in exchange.parts():
        try:
            events = splitter.feed(part)
        except ValueError as error:
            raise EngineBroken(str(error), name) from None
        for event in events:
            data = event_data(event)
            if data is not None and data.startswith((b'{"error"', b'{"object":"error"')):
                raise EngineBroken("the engine reports an error in the stream", name)
            yield event
            if data == DONE:
                return
    raise EngineBroken("the stream ended before [DONE]", name)
