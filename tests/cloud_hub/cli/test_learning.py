"""`tidegate-hub learning` and `limits`: what they take and write. tests/together calls them for real."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tomllib
from hypothesis import given
from hypothesis import strategies as st

from cloud_hub import __main__
from cloud_hub.cli import learning, limits

ENTRY = {
    "metric": "line-camera/ok_score", "low": 0.1, "high": 1e22, "lows": [1.0, 2.5], "highs": [3.0, 4.0],
    "priority": "high", "source": "learned", "fitted_us": 1_800_000_000_000_000, "schedule": ['mon-fri "x" \\ 08:00'],
}  # fmt: skip


def test_toml_reads_back_as_it_was() -> None:
    found = {"form": "tidegate-limits/1", "exported_us": 5, "devices": {"press-3": [ENTRY, {"metric": "a"}], "b": []}}
    assert tomllib.loads(limits.toml(found)) == found | {"devices": {"press-3": [ENTRY, {"metric": "a"}]}}


@given(value=st.one_of(st.floats(allow_nan=False, allow_infinity=False), st.integers(-(2**62), 2**62), st.booleans(),
                       st.text(st.characters(codec="utf-8", exclude_characters="\x7f")),
                       st.lists(st.floats(allow_nan=False, allow_infinity=False))))  # fmt: skip
def test_every_value_survives_toml(value: Any) -> None:
    assert tomllib.loads(f"x = {limits._value(value)}")["x"] == value


@pytest.mark.parametrize(("name", "text"), [
    ("a.toml", "form = "), ("a.json", "{"), ("a.json", "[]"), ("a.json", '{"form": "tidegate-limits/1"}'),
    ("none.json", None),
])  # fmt: skip
def test_a_file_that_is_none_is_told_before_the_hub_is_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, text: str | None
) -> None:
    if text is not None:
        (tmp_path / name).write_text(text, "utf-8")
    assert __main__.main(["limits", "import", str(tmp_path / name)]) == 2
    assert name in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["put", "x", "--target", "*", "--metrics", "a", "--set", "canary=much"],
        ["put", "x", "--target", "*"],
        ["missed-fault", "d", "m", "--since", "yesterday", "--until", "2026-11-20"],
    ],
)
def test_wrong_use_is_told(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        __main__.main(["learning", *arguments])
    assert ended.value.code == 2
    assert capsys.readouterr().err


def test_times_are_utc_unless_they_say_otherwise() -> None:
    assert learning._instant("1970-01-01T01:00:00Z") == learning._instant("1970-01-01T01:00:00") == 3_600_000_000
    assert learning._instant("1970-01-01T01:00:00+01:00") == 0


def test_terms_are_numbers_and_truths() -> None:
    assert [learning._policy_field(text) for text in ("canary=0.1", "monitor=true")] == [
        ("canary", 0.1),
        ("monitor", True),
    ]
    assert learning._policy_field("peers=tags.service") == ("peers", "tags.service")
    assert learning._policy_field('peers_high=["cpu.*"]') == ("peers_high", ["cpu.*"])


def test_examples_stand_in_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    for group in ("learning", "limits"):
        with pytest.raises(SystemExit):
            __main__.main([group, "--help"])
        assert f"tidegate-hub {group}" in capsys.readouterr().out


def test_a_flattering_backtest_says_so() -> None:
    total = {"per_device_week": 0.5, "present_per_device_week": 9, "hit": 1, "missed": 0, "in_sample": 2}
    assert learning._weekly(total).endswith("2 series tested on their training data")
    assert json.dumps(total)


def test_a_forecast_is_a_number_or_a_reason() -> None:
    found = {"device": "d", "metric": "m", "probability": 0.62, "limit": 60.0, "side": "low", "within_s": 900,
             "base_rate": 0.03, "average_precision": 0.41, "model": "time-of-day", "reason": ""}  # fmt: skip
    assert learning._forecast_text(found) == (
        "d  m: 0.62 to be below 60 within 15 minutes; by time-of-day, average precision 0.410 on validation data, "
        "base rate 0.030"
    )
    quiet = found | {"probability": None, "base_rate": None, "reason": "no samples"}
    assert learning._forecast_text(quiet) == "d  m: not judged: no samples"
