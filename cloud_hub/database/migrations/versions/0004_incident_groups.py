"""incident groups, evidence, cases, topology"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

JSON = sa.JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

INDEXES = {
    "incidents_leading": ["leads", "id"],
    "incidents_to_group": ["grouped_us", "id"],
    "incidents_without_case": ["case_us", "resolved_us"],
}


def upgrade() -> None:
    with op.batch_alter_table("incidents", schema=None) as batch_op:
        for name in ("joined_because", "placed_by"):
            batch_op.add_column(sa.Column(name, sa.String(), nullable=False, server_default=""))
        batch_op.add_column(sa.Column("leads", sa.Boolean(), nullable=False, server_default=sa.true()))
        batch_op.add_column(sa.Column("silent", sa.Boolean(), nullable=False, server_default=sa.false()))
        for name in ("grouped_us", "case_us"):
            batch_op.add_column(sa.Column(name, sa.BigInteger(), nullable=True))
        for name, columns in INDEXES.items():
            batch_op.create_index(name, columns, unique=False)
    op.execute("UPDATE incidents SET page = id WHERE page = ''")
    op.execute("UPDATE incidents SET leads = (page = id), grouped_us = opened_us")
    op.create_index("audit_by_kind", "audit", ["device", "kind", "seq"])
    op.create_table(
        "incident_evidence",
        sa.Column("incident", sa.String(), nullable=False),
        sa.Column("device", sa.String(), nullable=False),
        sa.Column("t_us", sa.BigInteger(), nullable=False),
        sa.Column("evidence", JSON, nullable=False),
        sa.PrimaryKeyConstraint("incident"),
    )
    op.create_index("ix_incident_evidence_device", "incident_evidence", ["device"])
    _cases()
    _topology()


def _cases() -> None:
    op.create_table(
        "cases",
        *(
            sa.Column(name, sa.String(), nullable=False)
            for name in ("id", "page", "device", "site", "profile", "service", "subject", "cause")
        ),
        sa.Column("metrics", JSON, nullable=False),
        sa.Column("opened_us", sa.BigInteger(), nullable=False),
        sa.Column("resolved_us", sa.BigInteger(), nullable=False),
        sa.Column("returned_us", sa.BigInteger(), nullable=True),
        sa.Column("outcome", sa.String(), nullable=False),
        sa.Column("resolution", sa.String(), nullable=False),
        sa.Column("diagnosis", JSON, nullable=True),
        sa.Column("actions", JSON, nullable=False),
        sa.Column("evidence", JSON, nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    for column in ("cause", "subject", "device", "service"):
        op.create_index(f"cases_by_{column}", "cases", ["site", column, "id"])


def _topology() -> None:
    op.create_table(
        "dependencies",
        *(sa.Column(name, sa.String(), nullable=False) for name in ("device", "subject", "depends_on")),
        sa.PrimaryKeyConstraint("device", "subject", "depends_on"),
        sqlite_with_rowid=False,
    )
    op.create_index("dependencies_by_subject", "dependencies", ["subject"])
    op.create_index("dependencies_by_upstream", "dependencies", ["depends_on"])
    op.create_table(
        "device_notes",
        *(sa.Column(name, sa.String(), nullable=False) for name in ("id", "device", "text", "actor")),
        sa.Column("t_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("device_notes_by_device", "device_notes", ["device", "id"])


def downgrade() -> None:
    for table in ("device_notes", "dependencies", "cases", "incident_evidence"):
        op.drop_table(table)
    op.drop_index("audit_by_kind", "audit")
    with op.batch_alter_table("incidents", schema=None) as batch_op:
        for name in INDEXES:
            batch_op.drop_index(name)
        for name in ("case_us", "grouped_us", "silent", "leads", "placed_by", "joined_because"):
            batch_op.drop_column(name)
