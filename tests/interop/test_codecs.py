"""Our Sparkplug payloads are read by pysparkplug and npm sparkplug-payload, and theirs by us.

Where they depart from the specification, the test says so: it fails once they are mended.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from simulators.interop import Driver, pysparkplug_codec, sparkplug_payload

from cloud_hub.demo.peer import Line as Json
from shared.sparkplug.datatypes import DataType
from shared.sparkplug.decode import decode
from shared.sparkplug.encode import encode
from shared.sparkplug.payload import DataSet, Metric, Payload, Property, Template, Value

T_MS = 1_795_236_000_123
D = DataType
CASES: list[tuple[DataType, Value, Any]] = [
    (D.UInt8, 200, 200),
    (D.UInt16, 60_000, 60_000),
    (D.Int8, 100, 100),
    (D.Int16, 30_000, 30_000),
    (D.Int32, 2_000_000_000, 2_000_000_000),
    (D.Int32, -2_000_000_000, -2_000_000_000),
    (D.Int64, 9_007_199_254_740_993, "9007199254740993"),
    (D.Int64, -9_007_199_254_740_993, "-9007199254740993"),
    (D.UInt64, 2**64 - 1, "18446744073709551615"),
    (D.Float, 1.5, 1.5),
    (D.Double, -0.1, -0.1),
    (D.Boolean, True, True),
    (D.Boolean, False, False),
    (D.String, "Füllstand 液位", "Füllstand 液位"),
    (D.String, "", ""),
    (D.Text, "two\nlines", "two\nlines"),
    (D.UUID, "6ba7b810-9dad-11d1-80b4-00c04fd430c8", "6ba7b810-9dad-11d1-80b4-00c04fd430c8"),
    (D.DateTime, T_MS, str(T_MS)),
    (D.Bytes, b"\x00\xff", "00ff"),
    (D.File, b"%PDF", b"%PDF".hex()),
    (D.Double, None, None),
    (D.String, None, None),
]
"""(type, our value, the drivers' JSON) where both libraries follow the specification."""
PYTHON_ONLY: list[tuple[DataType, Value, Any]] = [
    (D.UInt32, 4_000_000_000, 4_000_000_000),
    (D.Int8Array, (-128, 127), [-128, 127]),
    (D.Int16Array, (-300, 300), [-300, 300]),
    (D.Int32Array, (-1, 2_000_000_000), [-1, 2_000_000_000]),
    (D.Int64Array, (-1, 2**40), ["-1", str(2**40)]),
    (D.UInt8Array, (0, 255), [0, 255]),
    (D.UInt16Array, (0, 65_535), [0, 65_535]),
    (D.UInt32Array, (0, 2**32 - 1), [0, 2**32 - 1]),
    (D.UInt64Array, (0, 2**64 - 1), ["0", str(2**64 - 1)]),
    (D.FloatArray, (1.5, -2.5), [1.5, -2.5]),
    (D.DoubleArray, (0.1, -0.1), [0.1, -0.1]),
    (D.BooleanArray, (True, False, True, True, False, False, False, False, True), [1, 0, 1, 1, 0, 0, 0, 0, 1]),
    (D.StringArray, ("ä", "", "b"), ["ä", "", "b"]),
    (D.DateTimeArray, (T_MS, T_MS + 1), [str(T_MS), str(T_MS + 1)]),
]
"""Types that only pysparkplug carries as the specification says."""
CASES_OF = {"python": [*CASES, *PYTHON_ONLY], "js": CASES}
VECTORS = Path(__file__).parents[1] / "vectors" / "sparkplug"
"""The bytes that each library wrote for its cases, so that reading them is tested without it, too."""


@pytest.fixture(scope="module")
def python() -> Iterator[Driver]:
    with pysparkplug_codec() as running:
        yield running


@pytest.fixture(scope="module")
def js() -> Iterator[Driver]:
    with sparkplug_payload() as running:
        yield running


def names(cases: list[tuple[DataType, Value, Any]]) -> list[str]:
    return [f"{number} {kind.name}" for number, (kind, _, _) in enumerate(cases)]


def payload_of(cases: list[tuple[DataType, Value, Any]]) -> Payload:
    """One metric a case: the first ones historical, the next transient, each with an alias."""
    metrics = tuple(
        Metric(name=name, alias=number + 1, timestamp=T_MS + number, datatype=kind, value=value,
               is_historical=number < 3, is_transient=3 <= number < 6)
        for number, (name, (kind, value, _)) in enumerate(zip(names(cases), cases, strict=True))
    )  # fmt: skip
    return Payload(timestamp=T_MS, seq=7, metrics=metrics)


def rows_of(cases: list[tuple[DataType, Value, Any]]) -> list[Json]:
    """The same as the drivers' JSON."""
    return [
        {"name": metric.name, "alias": metric.alias, "timestamp": metric.timestamp, "type": kind.name, "value": value,
         "historical": metric.is_historical, "transient": metric.is_transient}
        for metric, (kind, _, value) in zip(payload_of(cases).metrics, cases, strict=True)
    ]  # fmt: skip


def as_sent(answer: Json) -> list[Json]:
    """A driver's rows with the type's name in capitals, as both write it."""
    assert "error" not in answer, answer["error"]
    keys = ("name", "alias", "timestamp", "value", "historical", "transient")
    return [{key: row[key] for key in keys} | {"type": row["type"].upper()} for row in answer["metrics"]]


def in_capitals(rows: list[Json]) -> list[Json]:
    return [row | {"type": row["type"].upper()} for row in rows]


def read_one(driver: Driver, metric: Metric) -> Json:
    """What a library reads of one metric of ours."""
    return driver.ask(do="decode", bytes=encode(Payload(timestamp=T_MS, seq=0, metrics=(metric,))).hex())


def written_by(driver: Driver, *rows: Json) -> Payload:
    """What we read of metrics that a library wrote."""
    answer = driver.ask(do="encode", timestamp=T_MS, seq=7, metrics=list(rows))
    assert "error" not in answer, answer["error"]
    return decode(bytes.fromhex(answer["bytes"]))


def test_pysparkplug_reads_every_type_that_it_supports(python: Driver) -> None:
    cases = [*CASES, *PYTHON_ONLY]
    answer = python.ask(do="decode", bytes=encode(payload_of(cases)).hex())
    assert as_sent(answer) == in_capitals(rows_of(cases))
    assert (answer["timestamp"], answer["seq"]) == (T_MS, 7)


def test_pysparkplug_reads_data_without_names_and_datatypes_by_the_birth(python: Driver) -> None:
    birth = payload_of(CASES)
    data = Payload(timestamp=T_MS, seq=8, metrics=tuple(unnamed(metric) for metric in birth.metrics))
    raw = encode(data, with_datatypes=False)
    answer = python.ask(do="decode", kind="NDATA", bytes=raw.hex(), birth=encode(birth).hex())
    assert as_sent(answer) == in_capitals(rows_of(CASES))


def unnamed(metric: Metric) -> Metric:
    return Metric(
        alias=metric.alias, timestamp=metric.timestamp, datatype=metric.datatype, value=metric.value,
        is_historical=metric.is_historical, is_transient=metric.is_transient,
    )  # fmt: skip


def test_sparkplug_payload_reads_every_type_that_it_supports(js: Driver) -> None:
    answer = js.ask(do="decode", bytes=encode(payload_of(CASES)).hex())
    assert as_sent(answer) == in_capitals(rows_of(CASES))
    assert (answer["timestamp"], answer["seq"]) == (T_MS, 7)


def test_sparkplug_payload_reads_negative_small_integers(js: Driver) -> None:
    assert read_one(js, Metric(name="m", datatype=D.Int8, value=-5))["metrics"][0]["value"] == -5
    assert read_one(js, Metric(name="m", datatype=D.Int16, value=-300))["metrics"][0]["value"] == -300


def test_sparkplug_payload_reads_properties(js: Driver) -> None:
    metric = Metric(name="m", datatype=D.Double, value=1.0, properties={
        "engUnit": Property(D.String, "bar"), "engHigh": Property(D.Double, 10.0), "Quality": Property(D.Int32, 192),
    })  # fmt: skip
    assert read_one(js, metric)["metrics"][0]["properties"] == {
        "engUnit": {"type": "String", "value": "bar"},
        "engHigh": {"type": "Double", "value": 10.0},
        "Quality": {"type": "Int32", "value": 192},
    }


def test_sparkplug_payload_reads_data_sets(js: Driver) -> None:
    table = DataSet(columns=("on", "name", "x"), types=(D.Boolean, D.String, D.Double), rows=((True, "a", 0.5),))
    value = read_one(js, Metric(name="m", datatype=D.DataSet, value=table))["metrics"][0]["value"]
    assert (value["columns"], value["types"], value["rows"]) == (
        ["on", "name", "x"], ["Boolean", "String", "Double"], [[True, "a", 0.5]],
    )  # fmt: skip


def test_sparkplug_payload_reads_templates(js: Driver) -> None:
    member = Metric(name="speed", datatype=D.Double, value=1480.0)
    motor = Template(is_definition=False, template_ref="Motor", version="1", metrics=(member,))
    value = read_one(js, Metric(name="m", datatype=D.Template, value=motor))["metrics"][0]["value"]
    assert (value["templateRef"], value["isDefinition"], value["version"]) == ("Motor", False, "1")
    assert [(one["name"], one["type"], one["value"]) for one in value["metrics"]] == [("speed", "Double", 1480.0)]


@pytest.mark.parametrize("library", ["python", "js"])
def test_every_type_that_a_library_supports_is_read_by_us(library: str, request: pytest.FixtureRequest) -> None:
    driver: Driver = request.getfixturevalue(library)
    assert written_by(driver, *rows_of(CASES_OF[library])) == payload_of(CASES_OF[library])


@pytest.mark.parametrize("library", ["python", "js"])
def test_recorded_bytes_of_a_library_are_read_without_it(library: str) -> None:
    recorded = json.loads((VECTORS / f"{library}.json").read_text("utf-8"))
    assert decode(bytes.fromhex(recorded["bytes"])) == payload_of(CASES_OF[library])


@pytest.mark.parametrize("library", ["python", "js"])
def test_recorded_bytes_of_a_library_are_those_that_it_writes(library: str, request: pytest.FixtureRequest) -> None:
    driver: Driver = request.getfixturevalue(library)
    recorded = json.loads((VECTORS / f"{library}.json").read_text("utf-8"))
    rows = rows_of(CASES_OF[library])
    assert driver.ask(do="encode", timestamp=T_MS, seq=7, metrics=rows)["bytes"] == recorded["bytes"]


@pytest.mark.parametrize("library", ["python", "js"])
@pytest.mark.parametrize(("kind", "value"), [("Int8", -5), ("Int8", -128), ("Int16", -300), ("Int32", -1)])
def test_both_ways_to_encode_negative_integers_are_read(
    library: str, kind: str, value: int, request: pytest.FixtureRequest
) -> None:
    """pysparkplug masks to the width of the type (251 for -5), sparkplug-payload extends the sign to 32 bits."""
    read = written_by(request.getfixturevalue(library), {"name": "m", "type": kind, "value": value})
    assert read.metrics[0].value == value


def test_an_unsigned_32_bit_integer_in_the_64_bit_field_is_read(js: Driver) -> None:
    """As sparkplug-payload and the Java library of Tahu write it; the specification wants the 32-bit field."""
    assert written_by(js, {"name": "m", "type": "UInt32", "value": 4_000_000_000}).metrics[0].value == 4_000_000_000


def test_properties_of_sparkplug_payload_are_read(js: Driver) -> None:
    properties = {"engUnit": {"type": "String", "value": "bar"}, "Quality": {"type": "Int32", "value": 192}}
    read = written_by(js, {"name": "m", "type": "Double", "value": 1.0, "properties": properties})
    assert read.metrics[0].properties == {"engUnit": Property(D.String, "bar"), "Quality": Property(D.Int32, 192)}


def test_data_sets_of_sparkplug_payload_are_read(js: Driver) -> None:
    value = {"columns": ["on", "n", "t"], "types": ["Boolean", "Int64", "DateTime"], "rows": [[True, "-7", str(T_MS)]]}
    read = written_by(js, {"name": "m", "type": "DataSet", "value": value})
    assert read.metrics[0].value == DataSet(
        columns=("on", "n", "t"), types=(D.Boolean, D.Int64, D.DateTime), rows=((True, -7, T_MS),)
    )


def test_templates_of_sparkplug_payload_are_read(js: Driver) -> None:
    parts = {
        "metrics": [{"name": "speed", "type": "Double", "value": 1480.0}],
        "parameters": [{"name": "poles", "type": "String", "value": "four"}],
    }
    value = {"templateRef": "Motor", "isDefinition": False, "version": "1", **parts}
    template = written_by(js, {"name": "m", "type": "Template", "value": value}).metrics[0].value
    assert isinstance(template, Template)
    assert (template.template_ref, template.is_definition, template.version) == ("Motor", False, "1")
    assert [(one.name, one.value) for one in template.metrics] == [("speed", 1480.0)]
    assert [(one.name, one.type, one.value) for one in template.parameters] == [("poles", D.String, "four")]


class TestKnownFaults:
    """Where a library departs from the specification. A test that fails here has found it mended: move the case up."""

    @pytest.mark.parametrize(("kind", "value"), [(D.Int8, -5), (D.Int16, -300)])
    def test_pysparkplug_refuses_negative_small_integers(self, kind: DataType, value: int, python: Driver) -> None:
        assert "overflow" in read_one(python, Metric(name="m", datatype=kind, value=value))["error"]

    @pytest.mark.parametrize("kind", [D.DataSet, D.Template])
    def test_pysparkplug_refuses_tables_and_templates(self, kind: DataType, python: Driver) -> None:
        empty = DataSet(columns=("x",), types=(D.Double,)) if kind is D.DataSet else Template(is_definition=True)
        assert "NotImplementedError" in read_one(python, Metric(name="m", datatype=kind, value=empty))["error"]

    def test_sparkplug_payload_reads_unsigned_32_bit_integers_as_null(self, js: Driver) -> None:
        answer = read_one(js, Metric(name="m", datatype=D.UInt32, value=4_000_000_000))
        assert answer["metrics"][0]["value"] is None

    def test_sparkplug_payload_loses_arrays(self, js: Driver) -> None:
        row = read_one(js, Metric(name="m", datatype=D.Int32Array, value=(1, 2)))["metrics"][0]
        assert (row["type"], row["value"]) == (None, None)

    def test_sparkplug_payload_reads_data_without_datatype_as_null(self, js: Driver) -> None:
        data = Payload(timestamp=T_MS, seq=1, metrics=(Metric(name="m", datatype=D.Double, value=1.5),))
        answer = js.ask(do="decode", bytes=encode(data, with_datatypes=False).hex())
        assert answer["metrics"][0]["value"] is None

    @pytest.mark.parametrize("kind", [D.Int32, D.UInt16, D.UInt64, D.DateTime])
    def test_sparkplug_payload_refuses_tables_with_most_integers(self, kind: DataType, js: Driver) -> None:
        table = DataSet(columns=("x",), types=(kind,), rows=((7,),))
        assert "Invalid DataSetValue" in read_one(js, Metric(name="m", datatype=D.DataSet, value=table))["error"]
