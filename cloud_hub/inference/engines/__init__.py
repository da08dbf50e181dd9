"""Engines: language models behind one protocol.

    protocol      Engine, Capabilities, Health, Load
    core          requests, answers, events: no I/O
    openai        any OpenAI-compatible server

The entry points `tidegate.engines` open one engine for one address.
"""

from cloud_hub.inference.engines.core.request import ChatRequest
from cloud_hub.inference.engines.errors import (
    AnswerInvalid,
    EngineBroken,
    EngineBusy,
    EngineRefused,
    EngineTimeout,
    EngineUnreachable,
)
from cloud_hub.inference.engines.protocol import Capabilities, Engine, Health, Load

__all__ = [
    "AnswerInvalid",
    "Capabilities",
    "ChatRequest",
    "Engine",
    "EngineBroken",
    "EngineBusy",
    "EngineRefused",
    "EngineTimeout",
    "EngineUnreachable",
    "Health",
    "Load",
]
