"""What the site has bounded stays bounded, whatever the hub or a person on the device desires: on a real agent."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_agent.agent import Agent
from edge_agent.config import HardSettings, parse
from edge_agent.twin import local_cli
from shared.errors import ConfigError, WireError
from shared.transport.mqtt import Inbound
from shared.twin.shadow import State

CONFIG = """
[device]
id = "d"
profile = "x86-64"
state_dir = "{folder}"
[settings]
period_s = 2.0
[hard_settings]
period_s_min = 0.5
period_s_max = 10.0
[[limits]]
metric = "oil.temp"
low = 10.0
high = 80.0
[[hard_limits]]
metric = "oil.temp"
low = 5.0
high = 95.0
"""


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    made = Agent(*parse(CONFIG.format(folder=tmp_path)))
    yield made
    for part in (made._sampler, made._outbox, made._state_store):
        part.close()


def desired(agent: Agent, name: str, state: State) -> None:
    document = agent._twin._twin.documents[name]
    body = json.dumps({"version": document.version + 1, "state": state}).encode()
    rest = f"shadow/name/{name}/update/delta" if name else "shadow/update/delta"
    with contextlib.suppress(WireError):  # a null in an array, say
        agent._twin.received(rest, Inbound(topic=rest, payload=body, traceparent="", acknowledge=lambda: None))


def within(agent: Agent) -> None:
    assert 0.5 <= agent._settings.current.period_s <= 10.0
    for limits in agent._pipeline._rules.limits():
        bounds = [value for value in (limits.low, limits.high, *limits.lows, *limits.highs) if value is not None]
        assert limits.metric != "oil.temp" or (bounds and all(5.0 <= value <= 95.0 for value in bounds))


ODD = st.none() | st.booleans() | st.integers() | st.floats(-1e3, 1e3) | st.text(max_size=3) | st.just([]) | st.just({})
NUMBERS = st.floats(-20, 200) | ODD
SETTINGS = st.dictionaries(st.sampled_from(["period_s", "log_level", "period_s_max"]), NUMBERS, max_size=2) | ODD
LIMITS = (
    st.lists(
        st.fixed_dictionaries(
            {"metric": st.sampled_from(["oil.temp", "cpu.load"]) | ODD},
            optional={"low": NUMBERS, "high": NUMBERS, "highs": st.lists(NUMBERS, max_size=3), "deadband": NUMBERS},
        ),
        max_size=3,
    )
    | ODD
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(wanted=SETTINGS, limits=LIMITS)
def test_no_desired_state_widens_them(agent: Agent, wanted: Any, limits: Any) -> None:
    desired(agent, "", {"settings": wanted, "hard_settings": {"period_s_max": 3600}})
    desired(agent, "thresholds", {"limits": limits, "hard_limits": []})
    within(agent)


@pytest.mark.parametrize(("period_s", "in_force"), [(0.5, 0.5), (10, 10.0), (0.49, 2.0), (10.1, 2.0), (True, 2.0)])
def test_bounds_are_bounds_for_the_hub_and_on_site(
    agent: Agent, tmp_path: Path, period_s: Any, in_force: float
) -> None:
    desired(agent, "", {"settings": {"period_s": period_s}})
    assert agent._settings.current.period_s == in_force
    number = local_cli.submit_request(tmp_path / "kept.sqlite", "", {"settings": {"period_s": 3600}})
    agent._twin.tick()
    ((word,),) = [local_cli.wait_for_answer(tmp_path / "kept.sqlite", number, 0)]
    assert word["reason"] == "period_s 3600 is beyond the site's hard bounds 0.5..10"
    assert agent._settings.current.period_s == in_force


def test_the_test_would_see_a_wider_value(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HardSettings, "refusal", lambda *_: "")
    desired(agent, "", {"settings": {"period_s": 3600}})
    with pytest.raises(AssertionError):
        within(agent)


def test_what_is_not_desired_is_as_the_file_says(agent: Agent) -> None:
    desired(agent, "", {"settings": {"log_level": "warning"}})
    assert (agent._settings.current.log_level, agent._settings.current.period_s) == ("warning", 2.0)


@pytest.mark.parametrize(
    "wrong",
    [{"perod_s": 1}, {"log_level": "loud"}, {"log_level": 5}, {"log_level": {"a": 1}}],
    ids=["unknown", "wrong", "wrong type", "nested"],
)
def test_one_wrong_setting_holds_up_no_other(
    agent: Agent, wrong: State, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    sent: list[tuple[str, Any]] = []
    monkeypatch.setattr(agent._twin, "_publish", lambda rest, message, **_: sent.append((rest, message)) or True)
    desired(agent, "", {"settings": wrong})
    desired(agent, "", {"settings": wrong | {"period_s": 3.0}})
    desired(agent, "", {"settings": wrong | {"period_s": 4.0}})
    assert (agent._settings.current.period_s, agent._settings.current.log_level) == (4.0, "info")
    words = [message for rest, message in sent if rest == "applied"]
    (key,) = wrong
    assert [word.state for word in words if word.path == "settings.period_s"] == ["verified", "verified"]
    assert {word.state for word in words if word.path.startswith(f"settings.{key}")} == {"refused"}
    told = [record for record in caplog.records if record.getMessage() == "twin.applied"]
    levels = {record.fields["state"]: record.levelname for record in told}  # type: ignore[attr-defined]
    assert levels.pop("refused") == "WARNING"


def test_an_empty_object_of_settings_asks_for_nothing(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[str] = []
    monkeypatch.setattr(agent._twin, "_publish", lambda rest, message, **_: sent.append(rest) or True)
    desired(agent, "", {"settings": {}})
    assert "applied" not in sent
    assert agent._settings.current.period_s == 2.0


def test_a_file_beyond_its_own_bounds_does_not_start(tmp_path: Path) -> None:
    text = CONFIG.format(folder=tmp_path)
    with pytest.raises(ConfigError, match=r"Keep \[settings\] within \[hard_settings\]"):
        Agent(*parse(text.replace("period_s = 2.0", "period_s = 20.0")))
    with pytest.raises(ConfigError, match="in this order"):
        parse(text.replace("period_s_min = 0.5", "period_s_min = 50.0"))
