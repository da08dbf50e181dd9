"""Reads PropertySets. A rule broken inside a property makes that property `Invalid`; the others stand."""

from __future__ import annotations

from shared.sparkplug import values
from shared.sparkplug.datatypes import PROPERTY, DataType
from shared.sparkplug.payload import Invalid, Property, PropertySet, Value
from shared.sparkplug.reading import NO_KIND, Context, datatype, judged, scalar
from shared.sparkplug.wire import Refused, field, fields, too_long, unexpected, varint

_SHORT, _MOST_KNOWN = 32, 1024
"""Bytes of a property value, and how many of them, that a message's cache keeps."""


def property_set(context: Context, start: int, stop: int, depth: int) -> PropertySet:
    """The properties at `start`. If keys and values do not pair up, every key has an `Invalid` value."""
    depth = context.enter(depth)
    keys: list[str] = []
    found: list[Property] = []
    data, pos = context.data, start
    while pos < stop:
        tag, first = data[pos], pos + 2
        if tag not in (0x0A, 0x12):
            tag, _, _, pos = field(data, pos, stop)
            unexpected(tag, 2)
            continue
        size = data[pos + 1]
        if size > 0x7F:
            size, first = varint(data, pos + 1)
        pos = first + size
        if pos > stop:
            raise too_long()
        context.count()
        if tag == 0x0A:
            keys.append(context.name(first, pos))
        else:
            found.append(_known_property(context, first, pos, depth))
    if len(keys) != len(found):
        broken = Property(None, Invalid(f"the PropertySet has {len(keys)} keys and {len(found)} values"))
        return dict.fromkeys(keys or [""], broken)
    return dict(zip(keys, found, strict=True))


def _known_property(context: Context, start: int, stop: int, depth: int) -> Property:
    if stop - start > _SHORT:
        return _property(context, start, stop, depth)
    content = context.data[start:stop]
    found = context.properties.get(content)
    if found is None:
        found = _property(context, start, stop, depth)
        if len(context.properties) < _MOST_KNOWN and not isinstance(found.value, dict | tuple | Invalid):
            context.properties[content] = found
    return found


def _property(context: Context, start: int, stop: int, depth: int) -> Property:
    of_type: DataType | None = None
    code, is_null, reason = None, False, ""
    kind = NO_KIND
    raw: Value = None
    for tag, first, last in fields(context.data, start, stop):
        try:
            if tag == 0x08:
                code = first
            elif tag == 0x10:
                is_null = first != 0
            elif tag == 0x4A:
                kind, raw = values.PROPERTYSET, property_set(context, first, last, depth)
            elif tag == 0x52:
                kind, raw = values.PROPERTYSETS, _property_sets(context, first, last, depth)
            else:
                found = scalar(context, tag, first, last, 3)
                if found[0] == NO_KIND:
                    unexpected(tag, 10)
                else:
                    kind, raw = found
        except Refused as error:
            kind, raw, reason = NO_KIND, None, str(error)
    try:
        of_type = None if code is None else datatype(code)
        if of_type is not None and of_type not in PROPERTY:
            raise Refused(f"a property is of type {of_type.name}, which is none of properties")
        if reason or (kind == NO_KIND and not is_null):
            raise Refused(reason or "the property has no value and is not null")
        return Property(of_type, None if is_null else judged(of_type, kind, raw))
    except Refused as error:
        return Property(of_type, Invalid(str(error)))


def _property_sets(context: Context, start: int, stop: int, depth: int) -> tuple[PropertySet, ...]:
    found = []
    for tag, first, last in fields(context.data, start, stop):
        if tag == 0x0A:
            context.count()
            found.append(property_set(context, first, last, depth))
        else:
            unexpected(tag, 1)
    return tuple(found)
