"""What every engine must keep, a third party's too: run yours through `examine_engine`."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from cloud_hub.incidents.core.evidence import AlarmFact, Evidence
from cloud_hub.incidents.diagnosis import SCHEMA, Reply, diagnose
from cloud_hub.inference.engines import Engine
from shared.errors import NotReady, WireError


@dataclass(frozen=True, kw_only=True)
class Bench:
    """An engine under test. `secret` must never show; the two others bring the world into a state, then `ask` fails."""

    engine: Engine
    secret: str
    spoil: Callable[[], None]
    cut: Callable[[], None]


def evidence() -> Evidence:
    """A model that stopped answering."""
    alarm = AlarmFact(
        metric="line-camera/age_s", kind="high", priority="high", value=42.0, limit=5.0, state="raised", t_us=1
    )
    return Evidence(incident="i-1", device="press-1", alarms=[alarm], events=["worker did not answer"])


def examine_engine(bench: Bench) -> None:
    """Name, a text for a question, errors of the right class only, and a desk that never falls over it."""
    engine = bench.engine
    assert engine.name
    assert bench.secret not in engine.name + repr(engine) + str(vars(engine) if hasattr(engine, "__dict__") else "")
    answered = diagnose(evidence(), engine)
    assert (answered.author, answered.engine, answered.note) == ("glm", engine.name, "")
    bench.spoil()
    assert diagnose(evidence(), engine).author == "rules"
    bench.cut()
    with pytest.raises((NotReady, WireError)) as caught:
        engine.ask("system", "<evidence>\n{}\n</evidence>", SCHEMA)
    assert bench.secret not in str(caught.value) + repr(caught.value)
    fallen = diagnose(evidence(), engine)
    assert fallen.author == "rules"
    assert engine.name in fallen.note
    assert set(json.loads(json.dumps(SCHEMA))["required"]) == set(Reply.__struct_fields__)
