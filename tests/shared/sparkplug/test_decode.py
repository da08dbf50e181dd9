"""What the decoder tolerates, what costs one value, and what costs the message."""

from __future__ import annotations

import gzip
import zlib

import pytest

from shared.errors import WireError
from shared.sparkplug.arrays import MAX_ELEMENTS
from shared.sparkplug.datatypes import DataType
from shared.sparkplug.decode import COMPRESSED, decode, typed
from shared.sparkplug.encode import encode
from shared.sparkplug.limits import Limits
from shared.sparkplug.payload import DataSet, Invalid, Metric, Payload, Property, Template, Untyped, Value
from shared.sparkplug.wire import write_varint


def field(number: int, content: bytes) -> bytes:
    """A length-delimited field."""
    return write_varint(number << 3 | 2) + write_varint(len(content)) + content


def metric(rest: str, datatype: int | None = None) -> bytes:
    """A payload of one metric `m` with these further fields, in hexadecimal."""
    code = b"" if datatype is None else b"\x20" + write_varint(datatype)
    return field(2, b"\x0a\x01m" + code + bytes.fromhex(rest))


def value(rest: str, datatype: int | None = None) -> Value:
    """The value of that metric."""
    return decode(metric(rest, datatype)).metrics[0].value


def reason(rest: str, datatype: int | None = None) -> str:
    """Why that value is invalid."""
    found = value(rest, datatype)
    assert isinstance(found, Invalid), found
    return found.reason


@pytest.mark.parametrize(
    ("datatype", "fields", "expected"),
    [
        (DataType.Int8, "50fb01", -5),  # 8 bit two's complement, as pysparkplug writes it
        (DataType.Int8, "50fbffffff0f", -5),  # sign-extended to 32 bit, as Java and JavaScript do
        (DataType.Int8, "50fbffffffffffffffff01", -5),  # sign-extended to 64 bit, as an int32 field would be
        (DataType.Int8, "58fbffffffffffffffff01", -5),
        (DataType.Int16, "50d4fd03", -300),
        (DataType.Int16, "50d4fdffff0f", -300),
        (DataType.Int32, "58feffffff0f", -2),
        (DataType.Int32, "58feffffffffffffffff01", -2),
        (DataType.Int64, "5007", 7),
        (DataType.UInt32, "5880d0acf30e", 4_000_000_000),  # in long_value, as Tahu and JavaScript write it
        (DataType.UInt64, "50ffffffff0f", 4_294_967_295),
        (DataType.DateTime, "50e807", 1000),
        (DataType.Float, "69000000000000f83f", 1.5),
        (DataType.Double, "650000c03f", 1.5),
        (DataType.Boolean, "7005", True),
    ],
)
def test_a_value_is_read_in_every_form_that_encoders_in_the_field_send(
    datatype: DataType, fields: str, expected: Value
) -> None:
    assert value(fields, datatype) == expected


@pytest.mark.parametrize(
    ("datatype", "fields", "part"),
    [
        (DataType.Int8, "50ac02", "Int8 is -128 to 127"),
        (DataType.Int16, "5080800c", "Int16 is"),
        (DataType.Int64, "50fbffffff0f", "Int64 is"),  # -5 or 4294967291: nobody can tell
        (DataType.UInt8, "50ac02", "UInt8 is 0 to 255, not 300"),
        (DataType.UInt32, "588080808010", "UInt32 is 0 to 4294967295"),
        (DataType.Int32, "650000c03f", "Int32 is not sent in float_value"),
        (DataType.Float, "5001", "Float is not sent in int_value"),
        (DataType.Boolean, "5001", "Boolean is not sent in int_value"),
        (DataType.String, "820101ff", "String is not sent in bytes_value"),
        (DataType.Bytes, "7a0161", "Bytes is not sent in string_value"),
        (DataType.String, "7a02c328", "the string is no UTF-8"),
        (DataType.PropertySet, "5001", "PropertySet is not sent in int_value"),
        (DataType.Int32Array, "820103000000", "elements of 4 bytes"),
        (DataType.Int32Array, "5001", "Int32Array is not sent in int_value"),
        (DataType.StringArray, "8201026162", "ends without NUL"),
        (DataType.StringArray, "820102ff00", "no UTF-8"),
        (DataType.BooleanArray, "8201050900000060", "does not fit its count of 9"),
        (DataType.BooleanArray, "82010101", "does not fit its count of 1"),
        (DataType.BooleanArray, "820104ffffffff", "does not fit its count"),
        (99, "5001", "there is no datatype 99"),
        (DataType.Int32, "", "no value and is not null"),
    ],
)  # fmt: skip
def test_a_value_that_breaks_a_rule_of_its_type_is_invalid_and_says_why(datatype: int, fields: str, part: str) -> None:
    assert part in reason(fields, datatype)


def test_one_invalid_value_leaves_the_other_metrics() -> None:
    found = decode(metric("50ac02", DataType.Int8) + metric("5007", DataType.Int8)).metrics
    assert isinstance(found[0].value, Invalid)
    assert found[1].value == 7


def test_is_null_wins_over_a_value() -> None:
    assert value("3801 5007", DataType.Int32) is None


def test_a_field_that_occurs_twice_counts_as_last_sent() -> None:
    assert value("5007 650000c03f", DataType.Float) == 1.5


def test_a_metric_without_datatype_keeps_its_raw_field() -> None:
    assert value("50fbffffff0f") == Untyped("int_value", 4_294_967_291)


def test_datatype_unknown_counts_as_left_out() -> None:
    found = decode(metric("5007", DataType.Unknown), types={"m": DataType.Int8}).metrics[0]
    assert (found.datatype, found.value) == (DataType.Int8, 7)


def test_typed_reads_the_raw_field_with_the_type_of_the_birth() -> None:
    (metric_,) = decode(metric("50fbffffff0f")).metrics
    assert typed(metric_, DataType.Int8) == Metric(name="m", datatype=DataType.Int8, value=-5)
    assert isinstance(typed(metric_, DataType.Float).value, Invalid)


def test_a_name_is_looked_up_before_the_alias() -> None:
    types: dict[str | int, DataType] = {7: DataType.Int8, "m": DataType.Int16}
    assert decode(metric("1007 5007"), types=types).metrics[0].datatype is DataType.Int16
    assert decode(bytes.fromhex("12041007 5007"), types=types).metrics[0].datatype is DataType.Int8


def test_a_datatype_in_the_message_wins_over_that_of_the_birth() -> None:
    assert decode(metric("5007", DataType.Int32), types={"m": DataType.Int8}).metrics[0].datatype is DataType.Int32


def test_types_of_columns_may_be_packed() -> None:
    table = (
        bytes.fromhex("0802120161120162")
        + field(3, b"\x0b\x03")
        + field(4, field(1, b"\x28\x01") + field(1, b"\x08\x07"))
    )
    found = decode(field(2, b"\x0a\x01m\x20\x10" + field(17, table))).metrics[0].value
    assert found == DataSet(columns=("a", "b"), types=(DataType.Boolean, DataType.Int32), rows=((True, 7),))


def table_of(rest: bytes) -> Value:
    """The value of a metric with this DataSet."""
    return decode(field(2, b"\x0a\x01m\x20\x10" + field(17, rest))).metrics[0].value


COLUMN = b"\x12\x01a\x18\x03"


@pytest.mark.parametrize(
    ("table", "part"),
    [
        (b"\x12\x01a", "1 columns and 0 types"),
        (b"\x08\x02" + COLUMN, "num_of_columns is 2"),
        (b"\x12\x01a\x18\x10", "no basic type"),
        (b"\x12\x01a\x18\x63", "there is no datatype 99"),
        (COLUMN + field(4, b""), "a row of 0 cells, but 1 columns"),
        (COLUMN + field(4, b"\x0a\x02\x08\x01" * 2), "more than 1 cells"),
        (COLUMN + field(4, b"\x0a\x02\x28\x01"), "Int32 is not sent in boolean_value"),
    ],
)
def test_a_data_set_that_does_not_fit_its_columns_is_invalid(table: bytes, part: str) -> None:
    found = table_of(table)
    assert isinstance(found, Invalid)
    assert part in found.reason


def test_a_data_set_without_num_of_columns_is_read() -> None:
    assert table_of(COLUMN) == DataSet(columns=("a",), types=(DataType.Int32,))


def properties_of(rest: bytes) -> dict[str, Property]:
    found = decode(field(2, b"\x0a\x01m\x50\x01" + field(9, rest))).metrics[0].properties
    assert found is not None
    return dict(found)


def test_keys_without_values_are_invalid_properties() -> None:
    found = properties_of(field(1, b"a") + field(1, b"b") + field(2, b"\x08\x03\x18\x01"))
    assert list(found) == ["a", "b"]
    assert all(isinstance(one.value, Invalid) and "2 keys and 1 values" in one.value.reason for one in found.values())


def test_an_invalid_property_leaves_the_others_and_the_value() -> None:
    found = properties_of(
        field(1, b"a") + field(1, b"b") + field(2, b"\x08\x03\x38\x01")
        + field(2, b"\x08\x03\x18\x01")
    )  # fmt: skip
    assert isinstance(found["a"].value, Invalid)
    assert found["b"] == Property(DataType.Int32, 1)


@pytest.mark.parametrize("code", [16, 17, 19, 22, 99])
def test_a_property_of_a_type_that_properties_cannot_have_is_invalid(code: int) -> None:
    found = properties_of(field(1, b"a") + field(2, b"\x08" + bytes((code,)) + b"\x18\x01"))
    assert isinstance(found["a"].value, Invalid)


def test_a_property_without_type_is_untyped() -> None:
    assert properties_of(field(1, b"a") + field(2, b"\x18\x01")) == {"a": Property(None, Untyped("int_value", 1))}


def test_is_definition_left_out_is_none() -> None:
    found = decode(field(2, b"\x0a\x01m\x20\x13" + field(18, b"\x22\x01T"))).metrics[0].value
    assert found == Template(is_definition=None, template_ref="T")


def test_extension_fields_are_skipped_everywhere() -> None:
    extra = field(100, b"x") + b"\xa0\x06\x01" + b"\xa5\x06abcd" + b"\xa1\x06abcdefgh"
    found = decode(extra + field(2, b"\x0a\x01m\x20\x03" + extra + b"\x50\x07" + field(9, extra)))
    assert found.metrics == (Metric(name="m", datatype=DataType.Int32, value=7, properties={}),)


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ("12", "cut off"),
        ("1205 0a01", "longer than its message"),
        ("08ff", "cut off"),
        ("08ffffffffffffffffffff01", "64 bits"),
        ("08ffffffffffffffffff02", "64 bits"),
        ("120c 18 ffffffffffffffffffffff", "64 bits"),
        ("1202 0aff", "cut off"),
        ("1203 0a026d", "longer than its message"),
        ("1202 0a05 6d6d6d6d6d", "longer than its message"),
        ("1203 650000", "cut off"),
        ("1205 0a01c3 5001", "no UTF-8"),
        ("1202 0801", "field 1 has the wrong wire type 0"),
        ("1204 7a02c3", "longer than its message"),
        ("0b 0c", "group"),
        ("1202 0b0c", "group"),
        ("0e", "unknown wire type 6"),
        ("0001", "no field number 0"),
        ("0d00000000", "field 1 has the wrong wire type 5"),
        ("1a0101", "field 3 has the wrong wire type 2"),
        ("1203 800101", "field 16 has the wrong wire type 0"),
    ],
)
def test_malformed_protobuf_is_refused_as_a_whole(content: str, part: str) -> None:
    with pytest.raises(WireError) as caught:
        decode(bytes.fromhex(content))
    assert part in caught.value.reason


def nested_templates(depth: int) -> bytes:
    inner = b"\x0a\x01m\x20\x03\x50\x07"
    for _ in range(depth):
        inner = b"\x0a\x01m\x20\x13" + field(18, field(2, inner) + b"\x28\x01")
    return field(2, inner)


def nested_properties(depth: int) -> bytes:
    inner = field(1, b"k") + field(2, b"\x08\x03\x18\x01")
    for _ in range(depth):
        inner = field(1, b"k") + field(2, b"\x08\x14" + field(9, inner))
    return field(2, b"\x0a\x01m\x20\x03\x50\x07" + field(9, inner))


def invalid_in(payload: Payload) -> bool:
    return "Invalid(" in repr(payload)


@pytest.mark.parametrize("nested", [nested_templates, nested_properties])
def test_nesting_is_bounded(nested) -> None:  # type: ignore[no-untyped-def]
    assert not invalid_in(decode(nested(7)))
    assert invalid_in(decode(nested(9)))
    assert invalid_in(decode(nested(3_000)))


def test_a_message_larger_than_the_limit_is_refused() -> None:
    with pytest.raises(WireError, match="11 bytes, at most 10"):
        decode(b"\x2a\x09" + b"x" * 9, Limits(max_bytes=10))


def test_metrics_are_counted() -> None:
    assert len(decode(b"\x12\x00" * 3, Limits(max_metrics=3)).metrics) == 3
    with pytest.raises(WireError, match="more than 3 metrics"):
        decode(b"\x12\x00" * 4, Limits(max_metrics=3))


@pytest.mark.parametrize(
    "content",
    [
        field(2, b"\x0a\x01m\x20\x10" + field(17, COLUMN + field(4, b"\x0a\x00") * 60)),
        field(2, b"\x0a\x01m\x20\x10" + field(17, b"\x1a\x65" + b"\x03" * 101)),
        field(2, b"\x0a\x01m\x20\x10" + field(17, field(4, b"") * 101)),
        field(2, b"\x0a\x01m\x20\x13" + field(18, b"\x12\x00" * 101)),
        field(2, b"\x0a\x01m\x20\x13" + field(18, b"\x1a\x02\x0a\x00" * 101)),
        field(2, b"\x0a\x01m\x20\x16" + field(16, b"x" * 101)),
        field(2, b"\x0a\x01m\x50\x01" + field(9, b"\x12\x00" * 101)),
        field(2, b"\x0a\x01m\x50\x01" + field(9, b"\x0a\x00" * 101)),
    ],
)
def test_what_stands_inside_metrics_is_counted(content: bytes) -> None:
    assert "more than 100 items" in repr(decode(content, Limits(max_items=100)))


def test_items_are_counted_over_the_whole_message() -> None:
    one = field(2, b"\x0a\x01m\x20\x16" + field(16, b"x" * 60))
    first, second = decode(one * 2, Limits(max_items=100)).metrics
    assert isinstance(first.value, tuple)
    assert isinstance(second.value, Invalid)


def test_long_texts_and_blobs_are_invalid_values() -> None:
    limits = Limits(max_text=3, max_blob=4)
    assert isinstance(decode(metric("7a0461616161", DataType.String), limits).metrics[0].value, Invalid)
    assert isinstance(decode(metric("8201050000000000", DataType.Bytes), limits).metrics[0].value, Invalid)


def test_a_long_name_refuses_the_message() -> None:
    with pytest.raises(WireError, match="a name has 1025 bytes"):
        decode(field(2, field(1, b"n" * 1025)))


def test_arrays_are_bounded() -> None:
    found = decode(field(2, b"\x0a\x01m\x20\x16" + field(16, bytes(MAX_ELEMENTS + 1)))).metrics[0].value
    assert isinstance(found, Invalid)
    claimed = (MAX_ELEMENTS + 1).to_bytes(4, "little") + bytes(MAX_ELEMENTS // 8 + 1)
    assert isinstance(decode(field(2, b"\x0a\x01m\x20\x20" + field(16, claimed))).metrics[0].value, Invalid)


INNER = Payload(timestamp=5, seq=3, metrics=(Metric(name="m", datatype=DataType.Int32, value=7),))


@pytest.mark.parametrize("compress", [zlib.compress, gzip.compress])
def test_a_compressed_payload_is_inflated(compress) -> None:  # type: ignore[no-untyped-def]
    assert decode(encode(Payload(uuid=COMPRESSED, body=compress(encode(INNER))))) == INNER


@pytest.mark.parametrize(
    ("body", "part"),
    [
        (b"", "cut off"),
        (b"nonsense", "neither zlib nor gzip"),
        (zlib.compress(encode(INNER))[:-5], "cut off"),
        (zlib.compress(bytes(1 << 20)), "bytes, at most 10000"),
        (zlib.compress(encode(Payload(uuid=COMPRESSED, body=zlib.compress(b"")))), "in a compressed payload"),
    ],
)
def test_a_compressed_payload_that_lies_is_refused(body: bytes, part: str) -> None:
    content = b"\x22\x12" + COMPRESSED.encode() + field(5, body)
    with pytest.raises(WireError, match=part):
        decode(content, Limits(max_bytes=10_000))
