"""Hypothesis strategies of Sparkplug payloads: whole valid ones, and hostile bytes made from them."""

from __future__ import annotations

import random
from typing import Any

from hypothesis import strategies as st

from shared.sparkplug.datatypes import BASIC, BLOBS, ELEMENTS, FLOATS, METRIC, RANGES, DataType
from shared.sparkplug.payload import QUALITY, DataSet, MetaData, Metric, Parameter, Payload, Property, Template
from shared.sparkplug.wire import fields, write_varint

texts = st.text(st.characters(codec="utf-8"), max_size=12)
names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12)
times = st.none() | st.integers(0, (1 << 64) - 1)


def simple(datatype: DataType) -> st.SearchStrategy[Any]:
    """Values of a type that is no DataSet, Template or property set. No NaN: it equals nothing."""
    if datatype in ELEMENTS:
        element = ELEMENTS[datatype]
        found = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=5) if (
            element is DataType.String
        ) else simple(element)  # fmt: skip
        return st.lists(found, max_size=20).map(tuple)
    if datatype in RANGES:
        return st.integers(*RANGES[datatype])
    if datatype in FLOATS:
        return st.floats(width=32 if datatype is DataType.Float else 64, allow_nan=False)
    if datatype is DataType.Boolean:
        return st.booleans()
    if datatype is DataType.UUID:
        return st.uuids().map(str)
    return st.binary(max_size=20) if datatype in BLOBS else texts


def _of_type(types: frozenset[DataType]) -> st.SearchStrategy[tuple[DataType, Any]]:
    return st.sampled_from(sorted(types)).flatmap(lambda one: st.tuples(st.just(one), st.none() | simple(one)))


@st.composite
def data_sets(draw: st.DrawFn) -> DataSet:
    types = draw(st.lists(st.sampled_from(sorted(BASIC)), max_size=4))
    row = st.tuples(*(st.none() | simple(one) for one in types))
    return DataSet(
        columns=tuple(draw(texts) for _ in types), types=tuple(types), rows=tuple(draw(st.lists(row, max_size=3)))
    )


_scalar_properties = _of_type(BASIC).map(lambda pair: Property(*pair))
property_sets = st.recursive(
    st.dictionaries(texts.filter(lambda key: key != QUALITY), _scalar_properties, max_size=3),
    lambda inner: st.dictionaries(
        texts.filter(lambda key: key != QUALITY),
        _scalar_properties
        | inner.map(lambda one: Property(DataType.PropertySet, one))
        | st.lists(inner, max_size=2).map(lambda many: Property(DataType.PropertySetList, tuple(many))),
        max_size=2,
    ),
    max_leaves=6,
)
metadata = st.builds(
    MetaData, is_multi_part=st.none() | st.booleans(), content_type=st.none() | texts, size=times, seq=times,
    file_name=st.none() | texts, file_type=st.none() | texts, md5=st.none() | texts, description=st.none() | texts,
)  # fmt: skip


def _metrics(values: st.SearchStrategy[tuple[DataType, Any]]) -> st.SearchStrategy[Metric]:
    return st.builds(
        lambda pair, **others: Metric(datatype=pair[0], value=pair[1], **others),
        values, name=names, alias=times, timestamp=times, is_historical=st.booleans(), is_transient=st.booleans(),
        properties=st.none() | property_sets.filter(bool), metadata=st.none() | metadata,
    )  # fmt: skip


def _templates(members: st.SearchStrategy[Metric]) -> st.SearchStrategy[Template]:
    parameters = st.builds(lambda name, pair: Parameter(name=name, type=pair[0], value=pair[1]), texts, _of_type(BASIC))
    return st.builds(
        lambda is_definition, ref, version, found, more: Template(
            is_definition=is_definition, template_ref=None if is_definition else ref, version=version,
            metrics=tuple(found), parameters=tuple(more),
        ),
        st.booleans(), names, st.none() | texts, st.lists(members, max_size=2), st.lists(parameters, max_size=2),
    )  # fmt: skip


_plain_types = METRIC - {DataType.DataSet, DataType.Template}
_leaves = _metrics(_of_type(_plain_types) | st.tuples(st.just(DataType.DataSet), st.none() | data_sets()))
metrics = st.recursive(
    _leaves,
    lambda inner: _metrics(st.tuples(st.just(DataType.Template), _templates(inner))),
    max_leaves=4,
)
payloads = st.builds(
    Payload, timestamp=times, metrics=st.lists(metrics, max_size=4).map(tuple), seq=st.none() | st.integers(0, 255),
    uuid=st.none() | texts, body=st.none() | st.binary(max_size=10),
)  # fmt: skip
"""Payloads that `encode` accepts."""

LENGTHS = [
    b"\x7f",
    b"\xff\x01",
    b"\xff\xff\xff\xff\x0f",
    b"\xff" * 9 + b"\x01",
    b"\xff" * 10 + b"\x01",
    b"\xff" * 11,
    b"\x80\x00",
]
"""Lengths and numbers that lie."""


def mutated(content: bytes, dice: random.Random) -> bytes:
    """`content` after random damage: as a whole, or one metric of it in an intact frame."""
    if dice.random() < 0.5:
        return _damaged(content, dice)
    metrics = [content[start:stop] for tag, start, stop in fields(content, 0, len(content)) if tag == 0x12]
    body = _damaged(dice.choice(metrics), dice)
    return b"\x12" + write_varint(len(body)) + body


def _damaged(content: bytes, dice: random.Random) -> bytes:
    """A few random changes of the kinds that break parsers."""
    found = bytearray(content)
    for _ in range(dice.choice((1, 1, 2, 4))):
        at = dice.randrange(len(found) + 1)
        change = dice.randrange(8)
        if change in (0, 6) and at < len(found):  # the same length, so that the rest is read
            found[at] ^= 1 << dice.randrange(8)
        elif change == 7 and at < len(found):
            found[at] = dice.choice(b"\x00\x01\x7f\x80\xff")
        elif change == 1:
            del found[at : at + dice.randint(1, 8)]
        elif change == 2:
            found[at:at] = dice.randbytes(dice.randint(1, 4))
        elif change == 3:
            found[at:at] = found[at : at + dice.randint(1, 40)]
        elif change == 4:
            del found[at:]
        else:
            found[at : at + 1] = dice.choice(LENGTHS)
    return bytes(found)


def hostile(valid: list[bytes]) -> st.SearchStrategy[bytes]:
    """Random bytes, and damaged messages of these."""
    damaged = st.builds(
        lambda content, seed: mutated(content, random.Random(seed)), st.sampled_from(valid), st.integers(0, 1 << 32)
    )
    return st.binary(max_size=60) | damaged
