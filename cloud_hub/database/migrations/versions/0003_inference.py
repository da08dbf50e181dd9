"""the inference gateway"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

JSON = sa.JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")
TEXT_JSON = sa.JSON(none_as_null=True)

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "inference_tasks",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("actor", sa.String(), nullable=False),
        sa.Column("scope", JSON, nullable=True),
        sa.Column("request_class", sa.String(), nullable=False),
        sa.Column("body", TEXT_JSON, nullable=False),
        sa.Column("webhook", sa.String(), nullable=False),
        sa.Column("webhook_state", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("answer", TEXT_JSON, nullable=True),
        sa.Column("pool", sa.String(), nullable=False),
        sa.Column("created_us", sa.BigInteger(), nullable=False),
        sa.Column("deadline_us", sa.BigInteger(), nullable=False),
        sa.Column("next_us", sa.BigInteger(), nullable=False),
        sa.Column("ended_us", sa.BigInteger(), nullable=True),
        sa.Column("traceparent", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("inference_tasks_by_state", "inference_tasks", ["state", "deadline_us"])
    op.create_index("inference_tasks_by_actor", "inference_tasks", ["actor", "id"])
    op.create_index("inference_tasks_by_webhook", "inference_tasks", ["webhook_state"])
    op.create_table(
        "inference_usage",
        sa.Column("day", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("requests", sa.BigInteger(), nullable=False),
        sa.Column("tokens_in", sa.BigInteger(), nullable=False),
        sa.Column("tokens_out", sa.BigInteger(), nullable=False),
        sa.Column("seconds", sa.Float(), nullable=False),
        sa.Column("money", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("day", "kind", "name"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "inference_records",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("t_us", sa.BigInteger(), nullable=False),
        sa.Column("tenant", sa.String(), nullable=False),
        sa.Column("device", sa.String(), nullable=False),
        sa.Column("request_class", sa.String(), nullable=False),
        sa.Column("pool", sa.String(), nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("outcome", sa.String(), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("cached", sa.String(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("wait_s", sa.Float(), nullable=False),
        sa.Column("first_s", sa.Float(), nullable=True),
        sa.Column("took_s", sa.Float(), nullable=False),
        sa.Column("tokens_in", sa.Integer(), nullable=False),
        sa.Column("tokens_out", sa.Integer(), nullable=False),
        sa.Column("money", sa.Float(), nullable=False),
        sa.Column("redactions", JSON, nullable=False),
        sa.Column("traceparent", sa.String(), nullable=False),
        sa.Column("prompt", TEXT_JSON, nullable=True),
        sa.Column("answer", sa.String(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("inference_records_by_time", "inference_records", ["t_us"])


def downgrade() -> None:
    for name in ("inference_records", "inference_usage", "inference_tasks"):
        op.drop_table(name)
