"""Encodes and decodes Sparkplug payloads with pysparkplug: a JSON request a line on stdin, a JSON answer on stdout.

Run by `.venv-interop/bin/python`. 64-bit integers and times (ms) are decimal strings, bytes are hexadecimal.
"""

import datetime
import json
import sys

import pysparkplug as sp

LARGE = {"INT64", "UINT64"}
BLOBS = {"BYTES", "FILE"}


def to_python(kind, value):
    if value is None:
        return None
    if kind.endswith("_ARRAY"):
        return tuple(to_python(kind.removesuffix("_ARRAY"), one) for one in value)
    if kind in LARGE:
        return int(value)
    if kind in BLOBS:
        return bytes.fromhex(value)
    if kind == "DATETIME":
        return datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc) + datetime.timedelta(milliseconds=int(value))
    return value


def to_json(kind, value):
    if value is None:
        return None
    if kind.endswith("_ARRAY"):
        return [to_json(kind.removesuffix("_ARRAY"), one) for one in value]
    if kind in LARGE:
        return str(value)
    if kind in BLOBS:
        return value.hex()
    if kind == "DATETIME":
        return str(round(value.timestamp() * 1000))
    return value


def metric(row):
    kind = row["type"].upper().replace("ARRAY", "_ARRAY")
    return sp.Metric(
        timestamp=row.get("timestamp"),
        name=row.get("name"),
        datatype=sp.DataType[kind],
        value=to_python(kind, row.get("value")),
        alias=row.get("alias"),
        is_historical=row.get("historical", False),
        is_transient=row.get("transient", False),
        is_null=row.get("value") is None,
    )


def row(one):
    kind = one.datatype.name
    return {
        "name": one.name,
        "alias": one.alias,
        "timestamp": one.timestamp,
        "type": kind.replace("_", ""),
        "value": to_json(kind, one.value),
        "historical": one.is_historical,
        "transient": one.is_transient,
        "null": one.is_null,
    }


def encode(request):
    payload = sp.NBirth(
        timestamp=request["timestamp"], seq=request["seq"], metrics=tuple(map(metric, request["metrics"]))
    )
    return {"bytes": payload.encode().hex()}


def decode(request):
    birth = None
    if request.get("birth"):
        birth = sp.NBirth.decode(bytes.fromhex(request["birth"]))
    kind = {"NBIRTH": sp.NBirth, "NDATA": sp.NData, "NCMD": sp.NCmd}[request.get("kind", "NBIRTH")]
    payload = kind.decode(bytes.fromhex(request["bytes"]), birth=birth)
    found = {"timestamp": payload.timestamp, "metrics": [row(one) for one in payload.metrics]}
    return found | ({"seq": payload.seq} if hasattr(payload, "seq") else {})


for line in sys.stdin:
    request = json.loads(line)
    try:
        answer = {"encode": encode, "decode": decode}[request["do"]](request)
    except Exception as error:  # noqa: BLE001 - the faults of the library are what the tests look at
        answer = {"error": f"{type(error).__name__}: {error}"}
    print(json.dumps(answer), flush=True)
