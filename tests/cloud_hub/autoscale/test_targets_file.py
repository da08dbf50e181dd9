"""The targets file: what it may say, what its faults are called, and how a change takes effect."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cloud_hub.autoscale.core import targets
from cloud_hub.autoscale.core.target import TargetPolicy
from cloud_hub.autoscale.targets_file import TargetsInForce
from shared import plugins
from shared.errors import ConfigError

GOOD = """
targets:
  - name: gateway
    platform: {kind: http, options: {}}
    signals:
      - {name: requests, source: {type: telemetry, where: "*", metric: http.requests, aggregate: sum}, unit: 1/s,
         per_instance: 25}
      - {name: waiting, kind: backlog, adds_to: requests, per_instance: 25, source: {type: prometheus,
         url: "http://127.0.0.1:9090", query: "sum(queue)"}}
    maximum: 40
    scale_in: {stabilization_s: 600}
"""


def test_a_target_has_the_keys_of_its_policy_and_its_own() -> None:
    (target,) = targets.read(GOOD, "t.yaml")
    policy = target.policy
    assert type(policy) is TargetPolicy
    assert (policy.maximum, policy.scale_in.stabilization_s) == (40, 600.0)
    assert [type(rule).__name__ for rule in policy.signals] == ["SignalRule", "SignalRule"]
    assert (target.period_s, target.dry_run) == (15.0, False)


@pytest.mark.parametrize(("old", "new", "line", "says"), [
    ("maximum: 40", "maximun: 40", 10, "did you mean 'maximum'"),
    ("maximum: 40", "maximum: 0", 3, "0 <= minimum <= maximum does not hold"),
    ("type: telemetry", "type: telemetri", 6, "telemetri"),
    ("aggregate: sum", "aggregate: median", 6, "allowed: mean, sum, max, min, p95, count"),
    ('where: "*"', 'where: "*", device: x', 3, "signal requests: source: give either device or where"),
    ("adds_to: requests", "adds_to: request", 3, "adds to 'request', which is no load"),
    ("name: gateway", "name: Gateway!", 3, "its name must be up to 63 lower-case"),
    ("maximum: 40", "maximum: 40\n    period_s: 600", 3, "fresh_s 120 is shorter than period_s"),
    ("targets:", "targets: [", 3, "is no valid YAML"),
    ("127.0.0.1:9090", "anna:hunter2@127.0.0.1:9090", 3, "source: url must be http(s)://host:port, without a login"),
    ("127.0.0.1:9090", "[::1", 3, "source: url must be http(s)://host:port, without a login"),
    ("maximum: 40", "maximum: 40\n    minimum: 0\n    scale_to_zero: {idle_s: .nan}", 3, "scale_to_zero.idle_s"),
    ("maximum: 40", "maximum: 40\n    minimum: 0\n    scale_to_zero: {idle_s: -1}", 3, "scale_to_zero.idle_s"),
    ("maximum: 40", "maximum: 40\n    minimum: 0\n    scale_to_zero: {activation: .inf}", 3, "zero.activation"),
    ("maximum: 40", "maximum: 40\n    prediction: {history_days: .nan}", 3, "prediction.history_days"),
    ("maximum: 40", "maximum: 40\n    prediction: {history_days: -3}", 3, "prediction.history_days"),
    ("maximum: 40", "maximum: 40\n    warm: 99999999999999999999999", 3, "warm in 0..10000"),
])  # fmt: skip
def test_a_fault_names_the_line_and_the_cure(old: str, new: str, line: int, says: str) -> None:
    assert old in GOOD
    with pytest.raises(ConfigError) as caught:
        targets.read(GOOD.replace(old, new, 1), "t.yaml")
    assert says in str(caught.value)
    assert caught.value.place == f"t.yaml, line {line}"
    assert "autoscale check" in caught.value.cure
    assert "hunter2" not in str(caught.value)


def test_an_address_of_an_engine_with_a_login_is_refused_and_not_shown() -> None:
    source = 'source: {type: engine, metric: m, addresses: ["http://anna:hunter2@127.0.0.1:1"]}'
    text = GOOD.replace('source: {type: telemetry, where: "*", metric: http.requests, aggregate: sum}', source)
    with pytest.raises(ConfigError, match=r"addresses must be .*without a login") as caught:
        targets.read(text, "t.yaml")
    assert "hunter2" not in str(caught.value)


def test_two_targets_of_one_name_are_refused() -> None:
    with pytest.raises(ConfigError, match="'gateway' stands twice") as caught:
        targets.read(GOOD + GOOD.replace("targets:\n", ""), "t.yaml")
    assert caught.value.place == "t.yaml, line 13"


def test_two_targets_of_one_platform_are_refused_because_they_would_undo_each_other() -> None:
    with pytest.raises(ConfigError, match="scales the same platform as 'gateway'") as caught:
        targets.read(GOOD + GOOD.replace("targets:\n", "").replace("name: gateway", "name: other"), "t.yaml")
    assert caught.value.place == "t.yaml, line 13"


def test_options_may_hold_values_of_any_type_because_the_platform_judges_them() -> None:
    text = GOOD.replace("options: {}", "options: {b: {1: 2, a: 3}, a: .nan}")
    assert len(targets.read(text, "t.yaml")) == 1


def written(path: Path, text: str, second: int) -> None:
    path.write_text(text)
    os.utime(path, (second, second))


SIMPLE = """
targets:
  - name: {name}
    platform: {{kind: kubernetes, options: {{url: "http://127.0.0.1:1", namespace: n, deployment: {deployment},
               token_file: {token}}}}}
    signals: [{{name: load, source: {{type: escalations}}, unit: 1/s, per_instance: 5}}]
    maximum: {maximum}
"""


@pytest.fixture
def token(tmp_path: Path) -> Path:
    file = tmp_path / "token"
    file.write_text("t")
    return file


def simple(token: Path, name: str = "a", deployment: str = "d", maximum: int = 4) -> str:
    return SIMPLE.format(name=name, deployment=deployment, token=token, maximum=maximum)


def test_a_changed_file_is_in_force_without_a_restart_and_keeps_its_open_platforms(
    tmp_path: Path, token: Path
) -> None:  # fmt: skip
    file = tmp_path / "t.yaml"
    written(file, simple(token), 1)
    in_force = TargetsInForce(str(file))
    before = in_force.targets["a"]
    assert not in_force.reload()
    written(file, simple(token, maximum=7), 2)
    assert in_force.reload()
    after = in_force.targets["a"]
    assert (after.entry.maximum, after.scaler is before.scaler) == (7, True)
    assert after.digest != before.digest
    written(file, simple(token, deployment="other"), 3)
    assert in_force.reload()
    assert in_force.targets["a"].scaler is not before.scaler


def test_an_invalid_file_keeps_the_old_targets_and_is_shown(tmp_path: Path, token: Path) -> None:
    file = tmp_path / "t.yaml"
    written(file, simple(token), 1)
    in_force = TargetsInForce(str(file))
    written(file, simple(token).replace("maximum", "maximun"), 2)
    assert not in_force.reload()
    assert "did you mean 'maximum'" in in_force.error
    file.unlink()
    assert not in_force.reload()
    assert "cannot be read" in in_force.error
    assert in_force.targets["a"].entry.maximum == 4
    written(file, simple(token, maximum=5), 3)
    assert in_force.reload()
    assert in_force.error == ""


def test_a_platform_plug_in_that_fails_to_open_keeps_the_old_targets(
    tmp_path: Path, token: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    def opener(options: dict[str, object]) -> None:
        raise options["raises"]  # type: ignore[misc]

    file = tmp_path / "t.yaml"
    written(file, simple(token), 1)
    in_force = TargetsInForce(str(file))
    monkeypatch.setattr(plugins, "load", lambda *_: lambda _: opener({"raises": KeyError("region")}))
    written(file, simple(token, deployment="other"), 2)
    assert not in_force.reload()
    assert "target 'a'" in in_force.error
    assert "KeyError: 'region'" in in_force.error
    assert list(in_force.targets) == ["a"]


def test_an_unknown_platform_names_the_target_and_the_installed_kinds(tmp_path: Path, token: Path) -> None:
    file = tmp_path / "t.yaml"
    file.write_text(simple(token).replace("kind: kubernetes", "kind: abacus"))
    with pytest.raises(ConfigError, match="there is no scaler 'abacus'") as caught:
        TargetsInForce(str(file))
    assert "target 'a'" in caught.value.place
    assert "kubernetes" in caught.value.cure
