"""Every datatype in bytes that were written by hand from the specification's field numbers."""

from __future__ import annotations

import math
import struct

import pytest

from shared.sparkplug.datatypes import METRIC, DataType
from shared.sparkplug.decode import decode
from shared.sparkplug.encode import encode
from shared.sparkplug.payload import (
    DataSet,
    MetaData,
    Metric,
    Parameter,
    Payload,
    Property,
    Template,
    Value,
)

UUID = "123e4567-e89b-12d3-a456-426614174000"
DATASET = DataSet(columns=("a", "b"), types=(DataType.Int16, DataType.String), rows=((-3, "x"), (None, "y")))
DEFINITION = Template(
    is_definition=True,
    version="1",
    metrics=(Metric(name="r", datatype=DataType.Double, value=0.0),),
    parameters=(Parameter(name="p", type=DataType.UInt8, value=3),),
)
INSTANCE = Template(is_definition=False, template_ref="T")

GOLDEN: list[tuple[DataType, Value, str]] = [
    (DataType.Int8, -5, "50 fbffffff0f"),
    (DataType.Int16, -300, "50 d4fdffff0f"),
    (DataType.Int32, -2, "50 feffffff0f"),
    (DataType.Int64, -1, "58 ffffffffffffffffff01"),
    (DataType.UInt8, 200, "50 c801"),
    (DataType.UInt16, 60_000, "50 e0d403"),
    (DataType.UInt32, 4_000_000_000, "50 80d0acf30e"),
    (DataType.UInt64, (1 << 64) - 1, "58 ffffffffffffffffff01"),
    (DataType.Float, 1.5, "65 0000c03f"),
    (DataType.Double, -2.5, "69 00000000000004c0"),
    (DataType.Boolean, True, "70 01"),
    (DataType.Boolean, False, "70 00"),
    (DataType.String, "hé", "7a 03 68c3a9"),
    (DataType.String, "", "7a 00"),
    (DataType.DateTime, 1000, "58 e807"),
    (DataType.Text, "t", "7a 01 74"),
    (DataType.UUID, UUID, "7a 24" + UUID.encode().hex()),
    (DataType.DataSet, DATASET, "8a01 24 0802 120161 120162 1802 180c"
                                "220d 0a06 08fdffffff0f 0a03 320178"
                                "2207 0a00 0a03 320179"),
    (DataType.Bytes, b"\x00\xff", "8201 02 00ff"),
    (DataType.File, b"PDF", "8201 03 504446"),
    (DataType.Template, DEFINITION, "9201 1e 0a0131 120e 0a0172 200a 690000000000000000 1a07 0a0170 1005 1803 2801"),
    (DataType.Template, INSTANCE, "9201 05 220154 2800"),
    (DataType.Int8Array, (-23, 123), "8201 02 e97b"),
    (DataType.Int16Array, (-2, 258), "8201 04 feff 0201"),
    (DataType.Int32Array, (-1, 1), "8201 08 ffffffff 01000000"),
    (DataType.Int64Array, (-2,), "8201 08 feffffffffffffff"),
    (DataType.UInt8Array, (0, 255), "8201 02 00ff"),
    (DataType.UInt16Array, (65_535,), "8201 02 ffff"),
    (DataType.UInt32Array, (4_294_967_295,), "8201 04 ffffffff"),
    (DataType.UInt64Array, (1,), "8201 08 0100000000000000"),
    (DataType.FloatArray, (1.5, -0.0), "8201 08 0000c03f 00000080"),
    (DataType.DoubleArray, (-2.5,), "8201 08 00000000000004c0"),
    (DataType.BooleanArray, (False, True, True, False, False, False, False, False, True), "8201 06 09000000 6080"),
    (DataType.BooleanArray, (), "8201 04 00000000"),
    (DataType.StringArray, ("ab", "", "é"), "8201 07 616200 00 c3a900"),
    (DataType.DateTimeArray, (1, 1 << 40), "8201 10 0100000000000000 0000000000010000"),
]  # fmt: skip


def one_metric(datatype: DataType, field: str) -> bytes:
    """A payload with a single metric `m` of this type, whose value field is given in hexadecimal."""
    body = bytes.fromhex("0a016d 20") + bytes((datatype,)) + bytes.fromhex(field)
    return b"\x12" + bytes((len(body),)) + body


@pytest.mark.parametrize(("datatype", "value", "field"), GOLDEN)
def test_a_value_is_written_as_the_specification_says(datatype: DataType, value: Value, field: str) -> None:
    payload = Payload(metrics=(Metric(name="m", datatype=datatype, value=value),))
    assert encode(payload).hex() == one_metric(datatype, field).hex()


@pytest.mark.parametrize(("datatype", "value", "field"), GOLDEN)
def test_a_value_is_read_as_the_specification_says(datatype: DataType, value: Value, field: str) -> None:
    (metric,) = decode(one_metric(datatype, field)).metrics
    assert metric == Metric(name="m", datatype=datatype, value=value)
    assert type(metric.value) is type(value)


def test_golden_bytes_exist_for_every_type_of_metrics() -> None:
    assert {datatype for datatype, _, _ in GOLDEN} == METRIC


@pytest.mark.parametrize("bits", [0x7FC00000, 0x7F800000, 0xFF800000])
def test_nan_and_infinities_pass_as_they_are(bits: int) -> None:
    (sent,) = struct.unpack("<f", bits.to_bytes(4, "little"))
    content = encode(Payload(metrics=(Metric(name="m", datatype=DataType.Float, value=sent),)))
    found = decode(content).metrics[0].value
    assert isinstance(found, float)
    assert found == sent or (math.isnan(found) and math.isnan(sent))


WHOLE = Payload(
    timestamp=300, seq=255, uuid="u", body=b"\x01",
    metrics=(
        Metric(
            name="n", alias=300, timestamp=5, datatype=DataType.Int32, value=None, is_historical=True,
            is_transient=True, metadata=MetaData(is_multi_part=False, content_type="c", size=1, seq=2, file_name="f",
                                                 file_type="t", md5="m", description="d"),
            properties={
                "Quality": Property(DataType.Int32, 192),
                "none": Property(DataType.String, None),
                "set": Property(DataType.PropertySet, {"x": Property(DataType.Boolean, True)}),
                "sets": Property(DataType.PropertySetList, ({}, {"y": Property(DataType.Int64, -1)})),
            },
        ),
    ),
)  # fmt: skip
WHOLE_BYTES = bytes.fromhex(
    "08ac02"                                                       # timestamp
    "127b"                                                         # a metric of 123 bytes
    "0a016e 10ac02 1805 2003 2801 3001 3801"                       # name, alias, timestamp, datatype, flags, is_null
    "4215 0800 120163 1801 2002 2a0166 320174 3a016d 420164"       # metadata
    "4a52"                                                         # properties
    "0a07 5175616c697479 0a04 6e6f6e65 0a03 736574 0a04 73657473"  # their keys
    "1205 0803 18c001"
    "1204 080c 1001"
    "120d 0814 4a09 0a0178 1204 080b 3801"
    "121a 0815 5216 0a00 0a12 0a0179 120d 0804 20 ffffffffffffffffff01"
    "18ff01 220175 2a0101"                                         # seq, uuid, body
)  # fmt: skip


def test_a_payload_with_every_field_is_written_in_the_order_of_the_field_numbers() -> None:
    assert encode(WHOLE).hex() == WHOLE_BYTES.hex()


def test_a_payload_with_every_field_is_read() -> None:
    assert decode(WHOLE_BYTES) == WHOLE


def test_flags_that_are_not_set_are_not_sent() -> None:
    assert encode(Payload(metrics=(Metric(name="m", datatype=DataType.Boolean, value=True),))) == one_metric(
        DataType.Boolean, "7001"
    )


def test_an_empty_payload_has_no_bytes() -> None:
    assert encode(Payload()) == b""
    assert decode(b"") == Payload()


def test_data_may_be_sent_without_datatypes_and_read_with_those_of_the_birth() -> None:
    sent = Payload(metrics=(Metric(alias=300, datatype=DataType.Int16, value=-7),))
    content = encode(sent, with_datatypes=False)
    assert content.hex() == "12 09 10ac02 50f9ffffff0f".replace(" ", "")
    assert decode(content, types={300: DataType.Int16}) == sent
