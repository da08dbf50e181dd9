"""Bodies of REST routes from the fields of forms."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from cloud_hub.errors import HubError

_Body = TypeVar("_Body", bound=BaseModel)


def validated(kind: type[_Body], **fields: Any) -> _Body:
    """The body with these fields; HubError 422 names the one that is wrong."""
    try:
        return kind(**fields)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise HubError(422, "Invalid request", f"{place}: {first['msg']}"[:500]) from error
