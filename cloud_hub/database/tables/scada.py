"""Tables of the Sparkplug host application: nodes, their metrics, and writes to them."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Column, Index
from sqlmodel import Field, SQLModel

from cloud_hub.database.tables.columns import TEXT_JSON, big_integer


class SparkplugNode(SQLModel, table=True):
    """An edge node (`sparkplug_device` is '') or a device of one, and the device that it is here.

    `digest` is of the three ids, `node_digest` of group and node alone. `own`: it is an agent of this hub, whose data
    come another way and are not stored twice. `definitions` is a hash of what its last birth defined; '' makes the next
    one be read in full. `bd_seq` is that of the node's last birth. `requested` counts the rebirths that were asked for.
    """

    __tablename__ = "sparkplug_nodes"
    __table_args__ = (
        Index("sparkplug_nodes_by_node", "node_digest"), Index("sparkplug_nodes_by_device", "device"),
    )  # fmt: skip
    digest: str = Field(primary_key=True)
    node_digest: str
    group: str
    node: str
    sparkplug_device: str = ""
    device: str
    own: bool = False
    state: str = "offline"
    server: str = ""
    bd_seq: int | None = None
    born_us: int = big_integer(default=0)
    died_us: int = big_integer(default=0)
    births: int = big_integer(default=0)
    requested: int = big_integer(default=0)
    refused: int = big_integer(default=0)
    refusal: str = ""
    refused_us: int = big_integer(default=0)
    definitions: str = ""
    metrics: int = 0


class SparkplugMetric(SQLModel, table=True):
    """A metric of a Sparkplug node or device: its name there, and here. A name once given stays.

    `stored` says what becomes of its values: number, text, or no. `present`: the last birth has it.
    """

    __tablename__ = "sparkplug_metrics"
    __table_args__ = {"sqlite_with_rowid": False}
    device: str = Field(primary_key=True)
    metric: str = Field(primary_key=True)
    name: str
    datatype: str
    unit: str = "1"
    low: float | None = None
    high: float | None = None
    stored: str = "number"
    present: bool = True


class SparkplugWrite(SQLModel, table=True):
    """A write to a metric of a Sparkplug device that a person asked for, and what became of it.

    `state` is refused, dry-run, pending, sent, verified, failed or expired. `origin` is rest, or twin for a leaf of
    desired state in `version` of the document; `leaf` is a hash of its value and time.
    """

    __tablename__ = "sparkplug_writes"
    __table_args__ = (
        Index("sparkplug_writes_by_metric", "device", "metric", "requested_us"),
        Index("sparkplug_writes_by_state", "state"),
    )  # fmt: skip
    id: str = Field(primary_key=True)
    device: str
    metric: str
    value: Any = Field(sa_column=Column(TEXT_JSON, nullable=True))
    state: str
    reason: str = ""
    actor: str
    why: str = ""
    origin: str = "rest"
    leaf: str = ""
    version: int = big_integer(default=0)
    read_back: Any = Field(default=None, sa_column=Column(TEXT_JSON, nullable=True))
    requested_us: int = big_integer()
    sent_us: int | None = big_integer(default=None)
    deadline_us: int = big_integer(default=0)
    done_us: int | None = big_integer(default=None)
    traceparent: str = ""
