"""questions about the fleet and their answers"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "ask_turns",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("session", sa.String(), nullable=False),
        sa.Column("actor", sa.String(), nullable=False),
        sa.Column("t_us", sa.BigInteger(), nullable=False),
        sa.Column("question", sa.String(), nullable=False),
        sa.Column("text", sa.String(), nullable=False),
        sa.Column("device", sa.String(), nullable=False),
        sa.Column("author", sa.String(), nullable=False),
        sa.Column("engine", sa.String(), nullable=False),
        sa.Column("answer", sa.JSON(none_as_null=True), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ask_turns_by_session", "ask_turns", ["session", "actor", "id"])
    op.create_index("ask_turns_by_time", "ask_turns", ["t_us"])


def downgrade() -> None:
    op.drop_table("ask_turns")
