"""typed actions with approvals"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

JSON = sa.JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

TEXTS = {"type": "command", "detail": "", "operation": "", "risk": "high", "origin": "diagnosis", "proposer": "",
         "rule": "", "undo_of": "", "playbook_run": "", "step": "", "idempotency_key": ""}  # fmt: skip
OBJECTS = {"parameters": "{}", "effect": "{}", "approvals": "[]"}
INDEXES = {
    "actions_by_state": ["state"],
    "actions_by_rule": ["rule", "started_us"],
    "actions_by_time": ["created_us"],
    "actions_by_run": ["playbook_run"],
}


def upgrade() -> None:
    with op.batch_alter_table("actions", schema=None) as batch_op:
        for name, value in TEXTS.items():
            batch_op.add_column(sa.Column(name, sa.String(), nullable=False, server_default=value))
        for name, value in OBJECTS.items():
            batch_op.add_column(sa.Column(name, JSON, nullable=False, server_default=value))
        batch_op.add_column(sa.Column("scope", JSON, nullable=True))
        for name in ("approvals_needed", "attempts"):
            batch_op.add_column(sa.Column(name, sa.Integer(), nullable=False, server_default="0"))
        for name in ("next_us", "created_us", "started_us"):
            batch_op.add_column(sa.Column(name, sa.BigInteger(), nullable=False, server_default="0"))
    _carry_over()
    with op.batch_alter_table("actions", schema=None) as batch_op:
        batch_op.drop_column("verb")
        batch_op.drop_column("target")
        for name, columns in INDEXES.items():
            batch_op.create_index(name, columns, unique=False)
        batch_op.create_index("actions_by_key", ["idempotency_key"], unique=True)


def _carry_over() -> None:
    """What was a verb and a target becomes a command; who approved it stands in the audit trail."""
    table = sa.table(
        "actions", *(sa.column(name) for name in ("id", "verb", "target", "state", "automatic", "command")),
        sa.column("changed_us"), sa.column("parameters", JSON), sa.column("effect", JSON), sa.column("approvals", JSON),
        *(sa.column(name) for name in ("detail", "operation", "risk", "rule", "idempotency_key")),
        *(sa.column(name) for name in ("created_us", "started_us")),
    )  # fmt: skip
    connection = op.get_bind()
    risks = {"diagnose": "read-only", "capture": "low", "restart": "medium"}
    for row in connection.execute(sa.select(table)).mappings().all():
        approved = row["state"] in ("approved", "executing", "executed") and not row["automatic"]
        approval = {"actor": "before this version", "roles": "operator", "t_us": row["changed_us"]}
        connection.execute(
            table.update().where(table.c.id == row["id"]).values(
                parameters={"verb": row["verb"], "target": row["target"]},
                effect={"command": row["command"]} if row["command"] else {},
                approvals=[approval] if approved else [],
                detail=f"{row['verb']}/{row['target']}"[:300], operation=row["verb"],
                risk=risks.get(row["verb"], "high"), rule="automatic" if row["automatic"] else "",
                idempotency_key=row["id"], created_us=row["changed_us"], started_us=row["changed_us"],
            )
        )  # fmt: skip


def downgrade() -> None:
    with op.batch_alter_table("actions", schema=None) as batch_op:
        for name in ("actions_by_key", *INDEXES):
            batch_op.drop_index(name)
        for name in ("verb", "target"):
            batch_op.add_column(sa.Column(name, sa.String(), nullable=False, server_default=""))
        for name in (*TEXTS, *OBJECTS, "scope", "approvals_needed", "attempts", "next_us", "created_us", "started_us"):
            batch_op.drop_column(name)
