"""What background workers could not do."""

from __future__ import annotations

from sqlalchemy import UniqueConstraint
from sqlmodel import Field, SQLModel

from cloud_hub.database.tables.columns import big_integer


class FailedItem(SQLModel, table=True):
    """An item that a worker could not do: tried again at `next_us`, or, with `parked_us`, when a person says so.

    `kind` and `item` name it, such as incident and its id.
    """

    __tablename__ = "failed_items"
    __table_args__ = (UniqueConstraint("worker", "kind", "item"),)
    id: str = Field(primary_key=True)
    worker: str
    kind: str
    item: str
    failures: int
    error: str
    first_us: int = big_integer()
    next_us: int = big_integer()
    parked_us: int | None = big_integer(default=None)
