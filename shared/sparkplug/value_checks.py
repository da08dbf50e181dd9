"""Whether a value from a foreign machine is one of a datatype."""

from __future__ import annotations

from shared.sparkplug.datatypes import DataType, check
from shared.sparkplug.payload import DataSet, Invalid, Template, Untyped

_CLASSES: dict[DataType, type] = {DataType.DataSet: DataSet, DataType.Template: Template}


def misfit(datatype: DataType, value: object) -> str:
    """Why `value` is no value of this datatype, '' if it is one. None (null) is one of each."""
    if isinstance(value, Invalid):
        return value.reason
    if isinstance(value, Untyped):
        return f"its value came as {value.field}, which holds no {datatype.name}"
    wanted = _CLASSES.get(datatype)
    if wanted is not None and value is not None and not isinstance(value, wanted):
        return f"{datatype.name} does not take {type(value).__name__}"
    try:
        check(datatype, value)
    except ValueError as error:
        return str(error)
    return ""
