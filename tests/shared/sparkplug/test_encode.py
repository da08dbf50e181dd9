"""The encoder refuses what the specification forbids, and says which metric and what to do."""

from __future__ import annotations

from typing import Any

import pytest

from shared.sparkplug.datatypes import ELEMENTS, RANGES, DataType, check
from shared.sparkplug.encode import MAX_DEPTH, encode
from shared.sparkplug.payload import (
    DataSet,
    Invalid,
    Metric,
    Parameter,
    Payload,
    Property,
    Template,
    Untyped,
    Value,
)


def refusal(**fields: Any) -> str:
    """Why a metric `m` with these fields is refused."""
    with pytest.raises(ValueError, match=r"^metric ") as caught:
        encode(Payload(metrics=(Metric(**({"name": "m"} | fields)),)))
    return str(caught.value)


@pytest.mark.parametrize(
    ("datatype", "value", "part"),
    [
        *((one, low - 1, f"{one.name} is {low} to {high}") for one, (low, high) in RANGES.items()),
        *((one, high + 1, f"{one.name} is {low} to {high}") for one, (low, high) in RANGES.items()),
        (DataType.Int32, True, "Int32 takes int, not bool"),
        (DataType.Int32, 1.0, "Int32 takes int, not float"),
        (DataType.Float, 1e39, "use Double"),
        (DataType.Float, True, "Float takes float, not bool"),
        (DataType.Float, "1", "Float takes float, not str"),
        (DataType.Double, 1 << 2000, "Double cannot hold an int of 2001 bits"),
        (DataType.Boolean, 1, "Boolean takes bool, not int"),
        (DataType.String, b"x", "String takes str, not bytes"),
        (DataType.String, "\ud800", "surrogate"),
        (DataType.UUID, "nonsense", "UUID takes 8-4-4-4-12"),
        (DataType.Bytes, "x", "Bytes takes bytes, not str"),
        (DataType.Int8Array, [1], "Int8Array takes a tuple, not list"),
        (DataType.Int8Array, (1, 128), "Int8 is -128 to 127, not 128"),
        (DataType.StringArray, ("a\0b",), "contains NUL"),
        (DataType.BooleanArray, (1,), "Boolean takes bool"),
        (DataType.UInt8Array, (0,) * 65_537, "at most 65536"),
        (DataType.Double, Invalid("x"), "Double takes float, not Invalid"),
        (DataType.DataSet, 1, "DataSet takes no int"),
        (DataType.Template, DataSet(), "Template takes no DataSet"),
        (DataType.Unknown, 1, "no metric can be"),
        (DataType.PropertySet, {}, "no metric can be"),
        (None, 1, "it has no datatype; give it the one of its birth"),
        (None, Untyped("propertyset_value", {}), "there is no field propertyset_value here"),
    ],
)
def test_a_value_that_is_not_of_its_datatype_is_refused(datatype: DataType | None, value: Value, part: str) -> None:
    assert part in refusal(datatype=datatype, value=value)


@pytest.mark.parametrize(
    ("fields", "part"),
    [
        ({"name": None}, "neither a name nor an alias"),
        ({"name": ""}, "neither a name nor an alias"),
        ({"name": "\ud800"}, "surrogate"),
        ({"alias": -1}, "alias is an int of 0 to"),
        ({"alias": True}, "alias is an int"),
        ({"timestamp": 1 << 64}, "timestamp is an int"),
        ({"timestamp": 1.5}, "timestamp is an int"),
        ({"properties": {"Quality": Property(DataType.Int32, 1)}}, "is Int32 0 (bad), 192 (good) or 500 (stale)"),
        ({"properties": {"Quality": Property(DataType.Int64, 192)}}, "Quality is Int32"),
        ({"properties": {"x": Property(DataType.Bytes, b"")}}, "property 'x': it cannot be"),
        ({"properties": {"x": Property(DataType.Int8, 300)}}, "property 'x': Int8 is -128 to 127"),
        ({"properties": {"x": Property(None, 1)}}, "property 'x': it has no datatype"),
    ],
)  # fmt: skip
def test_a_metric_that_breaks_a_rule_is_refused(fields: dict[str, Any], part: str) -> None:
    assert part in refusal(**({"datatype": DataType.Int32, "value": 1} | fields))


@pytest.mark.parametrize(
    ("table", "part"),
    [
        (DataSet(columns=("a",)), "1 columns and 0 types"),
        (DataSet(columns=("a",), types=(DataType.Bytes,)), "only basic types"),
        (DataSet(columns=("a",), types=(DataType.Int8,), rows=((1, 2),)), "a row of the DataSet has 2 cells"),
        (DataSet(columns=("a",), types=(DataType.Int8,), rows=((300,),)), "Int8 is -128 to 127"),
    ],
)
def test_a_data_set_that_does_not_fit_is_refused(table: DataSet, part: str) -> None:
    assert part in refusal(datatype=DataType.DataSet, value=table)


@pytest.mark.parametrize(
    ("template", "part"),
    [
        (Template(is_definition=None), "is_definition is missing"),
        (Template(is_definition=True, template_ref="T"), "a Template definition has no template_ref"),
        (Template(is_definition=False), "a Template instance needs template_ref"),
        (Template(is_definition=True, parameters=(Parameter(name="p"),)), "parameter 'p' has no type"),
        (Template(is_definition=True, parameters=(Parameter(name="p", type=DataType.Bytes),)), "only basic types"),
        (
            Template(is_definition=True, metrics=(Metric(name="r", datatype=DataType.Int8, value=300),)),
            "metric 'm': metric 'r': Int8 is -128 to 127",
        ),
    ],
)
def test_a_template_that_breaks_a_rule_is_refused(template: Template, part: str) -> None:
    assert part in refusal(datatype=DataType.Template, value=template)


def nested(depth: int) -> Metric:
    inner = Metric(name="m", datatype=DataType.Int8, value=1)
    for _ in range(depth):
        inner = Metric(
            name="m", datatype=DataType.Template, value=Template(is_definition=True, metrics=(inner,))
        )  # fmt: skip
    return inner


def test_nesting_that_no_decoder_of_ours_reads_is_refused() -> None:
    encode(Payload(metrics=(nested(MAX_DEPTH),)))
    with pytest.raises(ValueError, match="make it flatter"):
        encode(Payload(metrics=(nested(MAX_DEPTH + 1),)))


@pytest.mark.parametrize("seq", [-1, 256, True])
def test_a_sequence_number_beyond_a_byte_is_refused(seq: int) -> None:
    with pytest.raises(ValueError, match="seq is an int of 0 to 255"):
        encode(Payload(seq=seq))


def test_an_error_names_the_alias_of_a_metric_without_name() -> None:
    assert refusal(name=None, alias=7, datatype=DataType.Int8, value=300).startswith("metric 7: ")


@pytest.mark.parametrize("datatype", sorted(ELEMENTS))
def test_none_is_a_value_of_every_type_but_no_element_of_an_array(datatype: DataType) -> None:
    check(datatype, None)
    with pytest.raises(ValueError, match="takes"):
        check(datatype, (None,))
