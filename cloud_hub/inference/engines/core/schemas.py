"""JSON Schemas: validates values. Fetches no reference, and matches patterns in linear time."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import jsonschema_rs
import msgspec

from cloud_hub.inference.engines.core import schema_cost

_PATTERNS = jsonschema_rs.RegexOptions()


class TooCostly(ValueError):
    """Validating would hold up the hub."""


def misfit(schema: dict[str, Any], value: Any) -> str:
    """Where a value does not fit, and which rule it breaks, or ''. Holds nothing of the value itself.

    Raises ValueError if the schema is none, TooCostly if validating this value would take too long.
    """
    if schema_cost.cost(schema, value) > schema_cost.LIMIT:
        raise TooCostly("its alternatives refer to each other too often, or it is too large, for this answer")
    error = next(_validator(msgspec.json.encode(schema, order="sorted")).iter_errors(value), None)
    if error is None:
        return ""
    place = ".".join(str(part) for part in error.instance_path) or "the whole"
    return f"{place} breaks '{error.schema_path[-1] if error.schema_path else 'schema'}'"


@lru_cache(maxsize=256)
def _validator(schema: bytes) -> jsonschema_rs.Validator:
    try:
        return jsonschema_rs.validator_for(
            msgspec.json.decode(schema), retriever=_refuse, pattern_options=_PATTERNS
        )  # fmt: skip
    except jsonschema_rs.ValidationError as error:
        raise ValueError(str(error).partition("\n")[0][:300]) from None


def _refuse(uri: str) -> Any:
    raise ValueError(f"'{uri}' is not fetched")
