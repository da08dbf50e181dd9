"""Sparkplug nodes, their metrics, and writes to them"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "sparkplug_nodes",
        sa.Column("digest", sa.String(), nullable=False),
        sa.Column("node_digest", sa.String(), nullable=False),
        sa.Column("group", sa.String(), nullable=False),
        sa.Column("node", sa.String(), nullable=False),
        sa.Column("sparkplug_device", sa.String(), nullable=False),
        sa.Column("device", sa.String(), nullable=False),
        sa.Column("own", sa.Boolean(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("server", sa.String(), nullable=False),
        sa.Column("bd_seq", sa.Integer(), nullable=True),
        sa.Column("born_us", sa.BigInteger(), nullable=False),
        sa.Column("died_us", sa.BigInteger(), nullable=False),
        sa.Column("births", sa.BigInteger(), nullable=False),
        sa.Column("requested", sa.BigInteger(), nullable=False),
        sa.Column("refused", sa.BigInteger(), nullable=False),
        sa.Column("refusal", sa.String(), nullable=False),
        sa.Column("refused_us", sa.BigInteger(), nullable=False),
        sa.Column("definitions", sa.String(), nullable=False),
        sa.Column("metrics", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("digest"),
    )
    op.create_index("sparkplug_nodes_by_node", "sparkplug_nodes", ["node_digest"])
    op.create_index("sparkplug_nodes_by_device", "sparkplug_nodes", ["device"])
    op.create_table(
        "sparkplug_metrics",
        sa.Column("device", sa.String(), nullable=False),
        sa.Column("metric", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("datatype", sa.String(), nullable=False),
        sa.Column("unit", sa.String(), nullable=False),
        sa.Column("low", sa.Float(), nullable=True),
        sa.Column("high", sa.Float(), nullable=True),
        sa.Column("stored", sa.String(), nullable=False),
        sa.Column("present", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("device", "metric"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "sparkplug_writes",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("device", sa.String(), nullable=False),
        sa.Column("metric", sa.String(), nullable=False),
        sa.Column("value", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("actor", sa.String(), nullable=False),
        sa.Column("why", sa.String(), nullable=False),
        sa.Column("origin", sa.String(), nullable=False),
        sa.Column("leaf", sa.String(), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("read_back", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("requested_us", sa.BigInteger(), nullable=False),
        sa.Column("sent_us", sa.BigInteger(), nullable=True),
        sa.Column("deadline_us", sa.BigInteger(), nullable=False),
        sa.Column("done_us", sa.BigInteger(), nullable=True),
        sa.Column("traceparent", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("sparkplug_writes_by_metric", "sparkplug_writes", ["device", "metric", "requested_us"])
    op.create_index("sparkplug_writes_by_state", "sparkplug_writes", ["state"])


def downgrade() -> None:
    for name in ("sparkplug_writes", "sparkplug_metrics", "sparkplug_nodes"):
        op.drop_table(name)
