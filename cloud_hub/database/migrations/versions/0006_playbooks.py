"""playbooks"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

JSON = sa.JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")
TEXT_JSON = sa.JSON(none_as_null=True)

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "playbook_runs",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("playbook", sa.String(), nullable=False),
        sa.Column("version", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("plan", TEXT_JSON, nullable=False),
        sa.Column("progress", JSON, nullable=False),
        sa.Column("verdicts", JSON, nullable=False),
        sa.Column("approvals", JSON, nullable=False),
        sa.Column("incident", sa.String(), nullable=False),
        sa.Column("origin", sa.String(), nullable=False),
        sa.Column("actor", sa.String(), nullable=False),
        sa.Column("entries", sa.Integer(), nullable=False),
        sa.Column("awaits", sa.Boolean(), nullable=False),
        sa.Column("next_us", sa.BigInteger(), nullable=False),
        sa.Column("deadline_us", sa.BigInteger(), nullable=False),
        sa.Column("created_us", sa.BigInteger(), nullable=False),
        sa.Column("ended_us", sa.BigInteger(), nullable=True),
        sa.Column("traceparent", sa.String(), nullable=False),
        sa.Column("scope", JSON, nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("playbook_runs_active", "playbook_runs", ["state", "deadline_us"])
    op.create_index("playbook_runs_by_incident", "playbook_runs", ["incident"])
    op.create_table(
        "playbook_entries",
        sa.Column("run", sa.String(), nullable=False),
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.Column("t_us", sa.BigInteger(), nullable=False),
        sa.Column("step", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("data", JSON, nullable=False),
        sa.PrimaryKeyConstraint("run", "seq"),
        sqlite_with_rowid=False,
    )


def downgrade() -> None:
    for name in ("playbook_entries", "playbook_runs"):
        op.drop_table(name)
