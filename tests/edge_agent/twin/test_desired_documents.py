"""The device type-checks what the hub desires: any document is put in force or refused with a reason."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_agent.agent import Agent
from edge_agent.config import parse
from edge_agent.twin.core.twin import DeviceTwin
from shared.errors import WireError
from shared.models.gate import DriftTest, Gate
from shared.protocol.codec import plain
from shared.protocol.messages import Applied
from shared.thresholds import AlarmRules, Expression, Flat, Limits, NoData, Rate
from shared.transport.mqtt import Inbound
from shared.twin.shadow import State

CONFIG = """
[device]
id = "d"
profile = "x86-64"
state_dir = "{folder}"
[[collectors]]
kind = "host"
name = "camera"
[[models]]
name = "classifier"
bundle = "/nowhere/bundle"
frames = "camera"
[[limits]]
metric = "oil.temp"
high = 80.0
"""
DIGEST = "sha256:" + "a" * 64
PANEL = (DriftTest(feature="mean", at=5.0, p=0.5, slack=0.1),)
LIMITS = Limits(metric="oil.temp", high=90.0, highs=(90.0, 91.0), schedule=("mon-fri 06:00-22:00",))
RULES = AlarmRules(
    rates=(Rate(limits=Limits(metric="oil.temp", high=1.0)),),
    no_data=(NoData(metric="oil.temp", after_s=60.0),),
    flat=(Flat(metric="oil.temp", after_s=600.0, tolerance=0.1),),
    expressions=(Expression(metric="oil.hot", when="oil.temp > 80"),),
)
GOOD: dict[tuple[str, str], Any] = {
    ("", "settings"): {"period_s": 2.0, "log_level": "info"},
    ("thresholds", "limits"): [plain(LIMITS)],
    ("thresholds", "alarm_rules"): plain(RULES),
    ("gates", "classifier"): plain(Gate(digest=DIGEST, alpha=0.1, delta=0.1, n=100, k=2, margin=0.5, panel=PANEL)),
    ("models", "classifier"): {"bundle": "/nowhere/bundle", "variant": ""},
}
HUGE = [10**400, -(10**30), 2**63, 1e308, -1e308, 5e-324]
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8)
SCALARS |= st.sampled_from(
    [*HUGE, "", "nan", "mon-fri", "mon-fri 06:00-99:00", "oil.temp > ", "sha256:" + "b" * 64, "\0"]
)
TREES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a document."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from places(inner, (*path, key))


def changed(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = changed(value[path[0]], path[1:], new)
    return copy


@st.composite
def documents(draw: st.DrawFn, key: tuple[str, str]) -> Any:
    """A good value of which one place, or one key more, is anything."""
    good = GOOD[key]
    path = draw(st.sampled_from(list(places(good))))
    bad = changed(good, path, draw(TREES))
    return bad | {draw(st.text(max_size=6)): draw(TREES)} if isinstance(bad, dict) and draw(st.booleans()) else bad


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    folder = tmp_path_factory.mktemp("agent")
    made = Agent(*parse(CONFIG.format(folder=folder)))
    yield made
    for part in (made._sampler, made._outbox, made._state_store):
        part.close()


def desired(agent: Agent, name: str, state: State) -> list[Applied]:
    """What the device answers; a document that no twin can hold (a null in an array, say) is refused as a whole."""
    sent: list[Applied] = []
    agent._twin._publish = lambda rest, message, **_: sent.append(message) or True if rest == "applied" else True
    document = agent._twin._twin.documents[name]
    body = json.dumps({"version": document.version + 1, "state": state}).encode()
    rest = f"shadow/name/{name}/update/delta" if name else "shadow/update/delta"
    with contextlib.suppress(WireError):
        agent._twin.received(rest, Inbound(topic=rest, payload=body, traceparent="", acknowledge=lambda: None))
    return sent


def test_every_handled_path_is_tried(agent: Agent) -> None:
    handled = {(name, path[0]) for name, document in agent._twin._twin.documents.items() for path in document.parts}
    assert handled == set(GOOD)


@pytest.mark.parametrize("key", GOOD, ids=lambda key: key[1])
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_any_desired_document_is_put_in_force_or_refused_with_a_reason(
    agent: Agent, key: tuple[str, str], data: st.DataObject
) -> None:
    name, part = key
    desired(agent, name, {part: None})
    for answer in desired(agent, name, {part: data.draw(documents(key))}):
        assert answer.state != "refused" or answer.reason
    desired(agent, name, {part: None})
    good = desired(agent, name, {part: GOOD[key]})
    assert good
    assert {answer.state for answer in good} <= {"applied", "verified"}, "what was refused leaves nothing behind"


def test_the_test_would_see_a_handler_that_raises(agent: Agent) -> None:
    twin = DeviceTwin({})
    twin.handle("", "settings", lambda wanted: wanted.anything)
    with pytest.raises(AttributeError):
        twin.delta("", 1, {"settings": 1})
