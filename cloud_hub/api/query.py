"""/api/v1/query: the query language over the fleet."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from cloud_hub import query
from cloud_hub.api.dependencies import Reader, TheHub

router = APIRouter(prefix="/api/v1/query", tags=["query"])


class QueryBody(BaseModel):
    """A query, the page size, and `next` of the previous page."""

    model_config = ConfigDict(extra="forbid")
    query: str
    limit: int = Field(default=100, ge=1, le=1000)
    after: str = Field(default="", pattern=r"^[a-z0-9_-]{0,60}$")


class PageView(BaseModel):
    """Rows of the result. If `next` is set, there are more: send it as `after`."""

    rows: list[dict[str, Any]]
    next: str


@router.post("")
def run_query(body: QueryBody, hub: TheHub, caller: Reader) -> PageView:
    """Query the fleet: `SELECT * FROM devices WHERE tags.site = 'a'`."""
    with hub.db.read(scope=caller.scope) as session:
        page = query.run(session, body.query, limit=body.limit, after=body.after)
    return PageView(rows=page.rows, next=page.next)
