"""The reader of a Prometheus: odd answers, and which credentials travel. The real server: test_prometheus_backtest."""

from __future__ import annotations

import base64
import json
import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from simulators.receivers import Answer, Asked, receiver

from cloud_hub.prometheus import client as module
from cloud_hub.prometheus.client import Client, PrometheusError, split_range
from cloud_hub.prometheus.connection import PrometheusConnection


def good(data: object, **more: object) -> Answer:
    return 200, json.dumps({"status": "success", "data": data, **more}).encode()


def matrix(values: list[list[object]], **labels: str) -> Answer:
    return good({"resultType": "matrix", "result": [{"metric": labels, "values": values}]})


def bad(status: int, kind: str, text: str) -> Answer:
    return status, json.dumps({"status": "error", "errorType": kind, "error": text}).encode()


@given(st.integers(0, 10**9), st.integers(0, 10**6), st.integers(1, 3600))
def test_pieces_hold_each_step_once_and_no_piece_is_too_long(start: int, length: int, step: int) -> None:
    found = [t for a, b in split_range(start, start + length, step) for t in (a, b)]
    steps = [(a, b, (b - a) // step + 1) for a, b in zip(found[::2], found[1::2], strict=True)]
    assert sum(count for _, _, count in steps) == length // step + 1
    assert all(count <= module.MAX_POINTS for _, _, count in steps)
    assert all(after[0] == before[1] + step for before, after in pairwise(steps))


def test_numbers_as_text_are_numbers_and_nan_stays() -> None:
    values = [[10, "1.5"], [11.001, "NaN"], [12, "+Inf"], [13, "-Inf"], [14, "1e-300"]]
    with receiver(lambda _: matrix(values, __name__="a")) as url, Client(PrometheusConnection(url=url)) as client:
        (one,) = client.query_range("a", 0, 20_000_000, 1)
    assert one.t_us.tolist() == [10_000_000, 11_001_000, 12_000_000, 13_000_000, 14_000_000]
    assert one.values[0] == 1.5
    assert math.isnan(one.values[1])
    assert one.values[2:].tolist() == [np.inf, -np.inf, 1e-300]


def test_a_native_histogram_is_passed_over() -> None:
    result = [{"metric": {"a": "b"}, "histograms": [[1, {"count": "1"}]]}, {"metric": {"a": "c"}, "values": [[1, "2"]]}]
    data = {"resultType": "matrix", "result": result}
    with receiver(lambda _: good(data)) as url, Client(PrometheusConnection(url=url)) as client:
        assert [one.labels for one in client.query_range("a", 0, 1_000_000, 1)] == [{"a": "c"}]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (bad(400, "bad_data", "parse error at char 3"), "parse error at char 3"),
        (bad(422, "execution", "query processing would load too many samples into memory"), "Request less"),
        (bad(503, "timeout", "query timed out"), "Request less"),
        (bad(503, "unavailable", "starting"), "try again later"),
        ((401, b"Unauthorized"), "--token-file"),
        ((403, b"{}"), "--token-file"),
        ((302, b""), "is not a Prometheus response"),
        ((200, b"<html>a proxy's page</html>"), "path prefix"),
        ((200, b"[1]"), "is not a Prometheus response"),
        (good({"resultType": "scalar", "result": [1, "2"]}), "a scalar"),
    ],
)
def test_what_is_refused_is_told_with_its_cure(answer: Answer, said: str) -> None:
    with receiver(lambda _: answer) as url, Client(PrometheusConnection(url=url)) as client:
        with pytest.raises(PrometheusError, match=said) as told:
            client.query_range("a", 0, 1_000_000, 1)
        assert not told.value.absent


def test_an_answer_without_end_is_not_read_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_BYTES", 1000)
    huge = (200, b"x" * 5000)
    with (
        receiver(lambda _: huge) as url,
        Client(PrometheusConnection(url=url)) as client,
        pytest.raises(PrometheusError, match="larger than"),
    ):
        client.query_range("a", 0, 1_000_000, 1)


def test_the_servers_warnings_are_passed_on() -> None:
    told: list[str] = []
    data = {"resultType": "matrix", "result": []}
    with (
        receiver(lambda _: good(data, warnings=["partial"])) as url,
        Client(PrometheusConnection(url=url), told.append) as client,
    ):
        assert client.query_range("a", 0, 1_000_000, 1) == []
    assert told == ["partial"]


def test_credentials_come_from_files_and_go_into_the_header_alone(tmp_path: Path) -> None:
    seen: list[Asked] = []

    def answer(asked: Asked) -> Answer:
        seen.append(asked)
        return matrix([[1, "2"]])

    (tmp_path / "secret").write_text("s3cret\n")
    with receiver(answer) as url:
        for access in (
            PrometheusConnection(url=url, token_file=tmp_path / "secret"),
            PrometheusConnection(url=url, user="anna", password_file=tmp_path / "secret"),
        ):
            with Client(access) as client:
                client.query_range("up", 0, 1_000_000, 1)
    assert seen[0].headers["authorization"] == "Bearer s3cret"
    assert seen[1].headers["authorization"] == "Basic " + base64.b64encode(b"anna:s3cret").decode()
    assert all(b"s3cret" not in asked.body and asked.method == "POST" for asked in seen)


def test_the_scrape_interval_is_the_longest_of_the_targets_or_unknown() -> None:
    targets = {"activeTargets": [{"scrapeInterval": "15s"}, {"scrapeInterval": "1m30s"}, {}]}
    with receiver(lambda _: good(targets)) as url, Client(PrometheusConnection(url=url)) as client:
        assert client.interval_s() == 90
    with receiver(lambda _: (404, b"no such page")) as url, Client(PrometheusConnection(url=url)) as client:
        assert client.interval_s() == 0
