"""twins of a fleet"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

JSON = sa.JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "configuration_devices",
        sa.Column("configuration", sa.String(), nullable=False),
        sa.Column("device", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column(
            "conflicts",
            JSON,
            nullable=False,
        ),
        sa.Column("t_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("configuration", "device"),
        sqlite_with_rowid=False,
    )
    with op.batch_alter_table("configuration_devices", schema=None) as batch_op:
        batch_op.create_index("configuration_devices_by_device", ["device"], unique=False)

    op.create_table(
        "configurations",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("priority", sa.BigInteger(), nullable=False),
        sa.Column("target", sa.String(), nullable=False),
        sa.Column(
            "content",
            JSON,
            nullable=False,
        ),
        sa.Column(
            "metrics",
            JSON,
            nullable=False,
        ),
        sa.Column(
            "labels",
            JSON,
            nullable=False,
        ),
        sa.Column("actor", sa.String(), nullable=False),
        sa.Column("created_us", sa.BigInteger(), nullable=False),
        sa.Column("scope", JSON, nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "job_devices",
        sa.Column("job", sa.String(), nullable=False),
        sa.Column("device", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=True),
        sa.Column("command", sa.String(), nullable=False),
        sa.Column("t_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("job", "device"),
        sqlite_with_rowid=False,
    )
    with op.batch_alter_table("job_devices", schema=None) as batch_op:
        batch_op.create_index("job_devices_by_state", ["job", "state"], unique=False)

    op.create_table(
        "jobs",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("query", sa.String(), nullable=False),
        sa.Column("document", sa.String(), nullable=False),
        sa.Column(
            "content",
            JSON,
            nullable=False,
        ),
        sa.Column("actor", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("created_us", sa.BigInteger(), nullable=False),
        sa.Column("start_us", sa.BigInteger(), nullable=False),
        sa.Column("deadline_us", sa.BigInteger(), nullable=False),
        sa.Column("ended_us", sa.BigInteger(), nullable=True),
        sa.Column("traceparent", sa.String(), nullable=False),
        sa.Column("scope", JSON, nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "twin_changes",
        sa.Column("device", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("t_us", sa.BigInteger(), nullable=False),
        sa.Column("actor", sa.String(), nullable=False),
        sa.Column("trace_id", sa.String(), nullable=False),
        sa.Column("verb", sa.String(), nullable=False),
        sa.Column(
            "patch",
            JSON,
            nullable=True,
        ),
        sa.Column(
            "state",
            JSON,
            nullable=True,
        ),
        sa.PrimaryKeyConstraint("device", "name", "version"),
        sqlite_with_rowid=False,
    )
    with op.batch_alter_table("commands", schema=None) as batch_op:
        batch_op.add_column(sa.Column("args", JSON, nullable=False, server_default="{}"))
        batch_op.add_column(sa.Column("mode", sa.String(), nullable=False, server_default="direct"))
        batch_op.add_column(sa.Column("actor", sa.String(), nullable=False, server_default=""))
        batch_op.add_column(sa.Column("progress", sa.Float(), nullable=True))
        batch_op.add_column(sa.Column("heard_us", sa.BigInteger(), nullable=True))
        batch_op.add_column(sa.Column("cancelled_us", sa.BigInteger(), nullable=True))
        batch_op.create_index("commands_open", ["done_us", "expires_us"], unique=False)

    with op.batch_alter_table("devices", schema=None) as batch_op:
        batch_op.add_column(sa.Column("tags", JSON, nullable=False, server_default="{}"))
        batch_op.add_column(sa.Column("tags_version", sa.BigInteger(), nullable=False, server_default="0"))

    with op.batch_alter_table("twins", schema=None) as batch_op:
        batch_op.add_column(sa.Column("owners", JSON, nullable=False, server_default="{}"))

    op.create_table(
        "identities",
        sa.Column("device", sa.String(), nullable=False),
        sa.Column("revoked_us", sa.BigInteger(), nullable=True),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("proof_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("device"),
    )
    op.create_table(
        "claims",
        sa.Column("device", sa.String(), nullable=False),
        sa.Column("digest", sa.String(), nullable=False),
        sa.Column("actor", sa.String(), nullable=False),
        sa.Column("created_us", sa.BigInteger(), nullable=False),
        sa.Column("expires_us", sa.BigInteger(), nullable=False),
        sa.Column("used_us", sa.BigInteger(), nullable=True),
        sa.Column("key_digest", sa.String(), nullable=False),
        sa.Column("wrong_us", JSON, nullable=False),
        sa.PrimaryKeyConstraint("device"),
    )
    op.create_table(
        "certificates",
        sa.Column("serial", sa.String(), nullable=False),
        sa.Column("device", sa.String(), nullable=False),
        sa.Column("cn", sa.String(), nullable=False),
        sa.Column("issued_us", sa.BigInteger(), nullable=False),
        sa.Column("expires_us", sa.BigInteger(), nullable=False),
        sa.Column("revoked_us", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("serial"),
    )
    op.create_index("ix_certificates_device", "certificates", ["device"], unique=False)
    _people()
    _alarms()
    op.create_table(
        "stalled_streams",
        sa.Column("device", sa.String(), nullable=False),
        sa.Column("stream", sa.String(), nullable=False),
        sa.Column("since_us", sa.BigInteger(), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("device", "stream"),
    )
    _rollups()
    _notifications()


def _notifications() -> None:
    op.create_table(
        "notifications",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("channel", sa.String(), nullable=False),
        sa.Column("page", sa.String(), nullable=False),
        sa.Column("device", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("due_status", sa.String(), nullable=False),
        sa.Column("sent_status", sa.String(), nullable=False),
        sa.Column("sent_priority", sa.String(), nullable=False),
        sa.Column("due_us", sa.BigInteger(), nullable=True),
        sa.Column("since_us", sa.BigInteger(), nullable=False),
        sa.Column("sent_us", sa.BigInteger(), nullable=True),
        sa.Column("tries", sa.Integer(), nullable=False),
        sa.Column("error", sa.String(), nullable=False),
        sa.Column("notified", JSON, nullable=False),
        sa.Column("due_priority", sa.String(), nullable=False),
        sa.Column("messages", sa.Integer(), nullable=False),
        sa.Column("times_resolved", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("channel", "page"),
    )
    op.create_index("notifications_due", "notifications", ["channel", "due_us"], unique=False)
    op.create_index("ix_notifications_page", "notifications", ["page"], unique=False)
    op.create_table(
        "prometheus_series",
        sa.Column("digest", sa.String(), nullable=False),
        sa.Column("sender", sa.String(), nullable=False),
        sa.Column("host", sa.String(), nullable=False),
        sa.Column("device", sa.String(), nullable=False),
        sa.Column("metric", sa.String(), nullable=False),
        sa.Column("labels", JSON, nullable=False),
        sa.Column("first_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("digest"),
        sa.UniqueConstraint("device", "metric"),
    )
    op.create_index("prometheus_series_by_host", "prometheus_series", ["sender", "host"], unique=False)
    op.create_table(
        "removed_devices",
        sa.Column("device", sa.String(), nullable=False),
        sa.Column("removed_us", sa.BigInteger(), nullable=False),
        sa.Column("removed_by", sa.String(), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("assigned_path", sa.String(), nullable=False),
        sa.Column("tags", JSON, nullable=False),
        sa.PrimaryKeyConstraint("device"),
    )


def _alarms() -> None:
    """Acknowledgement, verdict and suppression of alarms; what incidents were one page."""
    with op.batch_alter_table("alarms", schema=None) as batch_op:
        for name in ("about", "acked_by", "comment", "verdict", "verdict_by", "suppressed", "cleared_by",
                     "cleared_reason"):  # fmt: skip
            batch_op.add_column(sa.Column(name, sa.String(), nullable=False, server_default=""))
        batch_op.add_column(sa.Column("acked_us", sa.BigInteger(), nullable=True))
        batch_op.add_column(sa.Column("verdict_us", sa.BigInteger(), nullable=True))
        batch_op.create_index("alarms_by_time", ["received_us"], unique=False)
        batch_op.create_index("alarms_suppressed", ["suppressed", "state"], unique=False)
        batch_op.create_index("alarms_by_incident", ["incident", "state"], unique=False)
        batch_op.drop_index("ix_alarms_incident")

    with op.batch_alter_table("incidents", schema=None) as batch_op:
        batch_op.add_column(sa.Column("page", sa.String(), nullable=False, server_default=""))
        for name in ("service", "resolved_by", "resolution"):
            batch_op.add_column(sa.Column(name, sa.String(), nullable=False, server_default=""))
        batch_op.create_index("ix_incidents_page", ["page"], unique=False)
        batch_op.create_index("incidents_by_time", ["opened_us", "id"], unique=False)
        batch_op.create_index("incidents_by_subject", ["device", "subject", "state"], unique=False)
        batch_op.drop_index("ix_incidents_device")

    op.create_table(
        "suppressions",
        sa.Column("id", sa.String(), nullable=False),
        *(
            sa.Column(name, sa.String(), nullable=False)
            for name in ("method", "device", "path", "metric", "reason", "actor", "ended_by")
        ),
        sa.Column("created_us", sa.BigInteger(), nullable=False),
        sa.Column("from_us", sa.BigInteger(), nullable=False),
        sa.Column("until_us", sa.BigInteger(), nullable=True),
        sa.Column("ended_us", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("suppressions_by_end", "suppressions", ["until_us"], unique=False)


def _people() -> None:
    """Scopes and lives of tokens, and the audit trail that is only added to."""
    with op.batch_alter_table("devices", schema=None) as batch_op:
        batch_op.add_column(sa.Column("assigned_path", sa.String(), nullable=False, server_default=""))
        batch_op.add_column(sa.Column("limits_without_source", JSON, nullable=False, server_default="[]"))

    with op.batch_alter_table("tokens", schema=None) as batch_op:
        batch_op.add_column(sa.Column("expires_us", sa.BigInteger(), nullable=True))
        batch_op.add_column(sa.Column("scope", JSON, nullable=True))

    op.create_table(
        "lockouts",
        sa.Column("address", sa.String(), nullable=False),
        sa.Column("until_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("address"),
    )
    op.create_table(
        "failed_items",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("worker", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("item", sa.String(), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("error", sa.String(), nullable=False),
        sa.Column("first_us", sa.BigInteger(), nullable=False),
        sa.Column("next_us", sa.BigInteger(), nullable=False),
        sa.Column("parked_us", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("worker", "kind", "item"),
    )
    with op.batch_alter_table("actions", schema=None) as batch_op:
        batch_op.add_column(sa.Column("automatic", sa.Boolean(), nullable=False, server_default=sa.false()))
        batch_op.create_index("actions_by_device", ["device", "changed_us"], unique=False)

    op.create_index("audit_by_device", "audit", ["device", "seq"], unique=False)
    op.create_index("audit_by_time", "audit", ["t_us"], unique=False)
    for statement in APPEND_ONLY[op.get_bind().dialect.name]:
        op.execute(statement)

    with op.batch_alter_table("rollouts", schema=None) as batch_op:
        batch_op.drop_column("previous")
        batch_op.add_column(sa.Column("learning", sa.String(), nullable=False, server_default=""))
        batch_op.add_column(sa.Column("canaries", sa.Integer(), nullable=False, server_default="0"))
        batch_op.add_column(sa.Column("max_false_alarms", sa.Integer(), nullable=True))
        batch_op.add_column(sa.Column("stage", sa.Integer(), nullable=False, server_default="0"))
        batch_op.add_column(sa.Column("stage_us", sa.BigInteger(), nullable=False, server_default="0"))
        batch_op.add_column(sa.Column("watch_us", sa.BigInteger(), nullable=True))
        batch_op.add_column(sa.Column("backtest", JSON, nullable=False, server_default="{}"))
        batch_op.add_column(sa.Column("override", sa.String(), nullable=False, server_default=""))
        batch_op.create_index("ix_rollouts_state", ["state"], unique=False)
    _thresholds_that_learn()


def _thresholds_that_learn() -> None:
    op.create_table(
        "rollout_devices",
        sa.Column("rollout", sa.String(), nullable=False),
        sa.Column("device", sa.String(), nullable=False),
        sa.Column("stage", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("previous", JSON, nullable=True),
        sa.Column("pushed", JSON, nullable=True),
        sa.Column("t_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("rollout", "device"),
        sqlite_with_rowid=False,
    )
    op.create_index("rollout_devices_by_state", "rollout_devices", ["rollout", "state"], unique=False)
    op.create_index("rollout_devices_by_device", "rollout_devices", ["device"], unique=False)
    op.create_table(
        "learning_jobs",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("target", sa.String(), nullable=False),
        sa.Column("policy", JSON, nullable=False),
        sa.Column("actor", sa.String(), nullable=False),
        sa.Column("created_us", sa.BigInteger(), nullable=False),
        sa.Column("scope", JSON, nullable=True),
        sa.Column("due_us", sa.BigInteger(), nullable=False),
        sa.Column("refit", JSON, nullable=True),
        sa.Column("reason", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "learned_series",
        sa.Column("learning", sa.String(), nullable=False),
        sa.Column("device", sa.String(), nullable=False),
        sa.Column("metric", sa.String(), nullable=False),
        sa.Column("limits", JSON, nullable=True),
        sa.Column("pushed", JSON, nullable=True),
        sa.Column("before", JSON, nullable=True),
        sa.Column("trial", JSON, nullable=True),
        sa.Column("factor", sa.Float(), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("fitted_us", sa.BigInteger(), nullable=False),
        sa.Column("pushed_us", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("learning", "device", "metric"),
        sqlite_with_rowid=False,
    )
    op.create_index("learned_series_by_device", "learned_series", ["device", "metric"], unique=False)
    op.create_table(
        "learned_states",
        sa.Column("learning", sa.String(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("series", JSON, nullable=False),
        sa.Column("state", sa.LargeBinary(), nullable=False),
        sa.Column("per_day", sa.Float(), nullable=False),
        sa.Column("live_us", sa.BigInteger(), nullable=False),
        sa.Column("raised", sa.Float(), nullable=False),
        sa.Column("paged_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("learning", "number"),
    )
    op.create_table(
        "peer_states",
        sa.Column("learning", sa.String(), nullable=False),
        sa.Column("metric", sa.String(), nullable=False),
        sa.Column("form", sa.String(), nullable=False),
        sa.Column("devices", JSON, nullable=False),
        sa.Column("services", JSON, nullable=False),
        sa.Column("left_out", JSON, nullable=False),
        sa.Column("standing", JSON, nullable=False),
        sa.Column("state", sa.LargeBinary(), nullable=False),
        sa.Column("upto_us", sa.BigInteger(), nullable=False),
        sa.Column("live_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("learning", "metric"),
    )
    op.create_table(
        "troubles",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("device", sa.String(), nullable=False),
        sa.Column("metric", sa.String(), nullable=False),
        sa.Column("start_us", sa.BigInteger(), nullable=False),
        sa.Column("end_us", sa.BigInteger(), nullable=False),
        sa.Column("note", sa.String(), nullable=False),
        sa.Column("actor", sa.String(), nullable=False),
        sa.Column("t_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("troubles_by_series", "troubles", ["device", "metric", "start_us"], unique=False)
    op.create_table(
        "limit_files",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("device", sa.String(), nullable=False),
        sa.Column("digest", sa.String(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("t_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_index("limit_files_by_device", "limit_files", ["device", "t_us"], unique=False)


def _rollups() -> None:
    """What is made of telemetry; all hours that have samples already are due."""
    op.create_table(
        "rollup_due",
        sa.Column("device", sa.String(), nullable=False),
        sa.Column("t_us", sa.BigInteger(), nullable=False),
        sa.Column("changes", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("device", "t_us"),
        sqlite_with_rowid=False,
    )
    for table, content in (("rollups", "buckets"), ("sketches", "sketch")):
        op.create_table(
            table,
            sa.Column("step_s", sa.Integer(), nullable=False),
            sa.Column("device", sa.String(), nullable=False),
            sa.Column("metric", sa.String(), nullable=False),
            sa.Column("t_us", sa.BigInteger(), nullable=False),
            sa.Column(content, sa.LargeBinary(), nullable=False),
            sa.PrimaryKeyConstraint("step_s", "device", "metric", "t_us"),
        )
    op.create_table(
        "kept_from",
        sa.Column("device", sa.String(), nullable=False),
        sa.Column("metric", sa.String(), nullable=False),
        sa.Column("raw_us", sa.BigInteger(), nullable=False),
        sa.Column("minute_us", sa.BigInteger(), nullable=False),
        sa.Column("hour_us", sa.BigInteger(), nullable=False),
        sa.Column("sketch_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("device", "metric"),
        sqlite_with_rowid=False,
    )
    op.execute(
        "INSERT INTO rollup_due (device, t_us, changes) "
        "SELECT DISTINCT device, t_us - t_us % 3600000000, 1 FROM telemetry"
    )


REFUSED = "the audit trail is only added to"

APPEND_ONLY = {
    "sqlite": [
        f"CREATE TRIGGER audit_no_{verb} BEFORE {verb} ON audit BEGIN SELECT RAISE(ABORT, '{REFUSED}'); END"
        for verb in ("update", "delete")
    ]
    # REPLACE deletes the row in its way without the trigger above. Of a number that SQLite chooses, a trigger before
    # the insert sees -1: so no row may keep that number, or there would be no other one after it.
    + [
        f"CREATE TRIGGER audit_{name} {when} BEGIN SELECT RAISE(ABORT, '{REFUSED}'); END"
        for name, when in (
            ("no_replace", "BEFORE INSERT ON audit WHEN NEW.seq IN (SELECT seq FROM audit)"),
            ("at_the_end", "AFTER INSERT ON audit WHEN NEW.seq < 1 OR NEW.seq < (SELECT max(seq) FROM audit)"),
        )
    ],
    "postgresql": [
        "CREATE FUNCTION audit_refuse() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$BEGIN RAISE EXCEPTION '{REFUSED}'; END$$",
        "CREATE TRIGGER audit_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit "
        "FOR EACH STATEMENT EXECUTE FUNCTION audit_refuse()",
    ],
}
"""A later revision that alters `audit` in SQLite's batch mode makes the table anew and must make these again."""

WRITABLE = {
    "sqlite": [f"DROP TRIGGER audit_{name}" for name in ("no_update", "no_delete", "no_replace", "at_the_end")],
    "postgresql": ["DROP TRIGGER audit_append_only ON audit", "DROP FUNCTION audit_refuse()"],
}


def downgrade() -> None:
    for table in ("removed_devices", "prometheus_series", "notifications"):
        op.drop_table(table)
    for table in ("limit_files", "troubles", "peer_states", "learned_states", "learned_series", "learning_jobs",
                  "rollout_devices"):  # fmt: skip
        op.drop_table(table)
    with op.batch_alter_table("rollouts", schema=None) as batch_op:
        batch_op.drop_index("ix_rollouts_state")
        for column in ("override", "backtest", "watch_us", "stage_us", "stage", "max_false_alarms", "canaries",
                       "learning"):  # fmt: skip
            batch_op.drop_column(column)
        batch_op.add_column(sa.Column("previous", JSON, nullable=False, server_default="{}"))
    op.drop_table("stalled_streams")
    _without_alarms()
    for table in ("kept_from", "sketches", "rollups", "rollup_due"):
        op.drop_table(table)
    op.drop_index("ix_certificates_device", table_name="certificates")
    for table in ("certificates", "claims", "identities"):
        op.drop_table(table)
    for statement in WRITABLE[op.get_bind().dialect.name]:
        op.execute(statement)
    op.drop_index("audit_by_time", "audit")
    op.drop_index("audit_by_device", "audit")
    with op.batch_alter_table("actions", schema=None) as batch_op:
        batch_op.drop_index("actions_by_device")
        batch_op.drop_column("automatic")

    op.drop_table("failed_items")
    op.drop_table("lockouts")
    with op.batch_alter_table("tokens", schema=None) as batch_op:
        batch_op.drop_column("scope")
        batch_op.drop_column("expires_us")

    with op.batch_alter_table("devices", schema=None) as batch_op:
        batch_op.drop_column("limits_without_source")
        batch_op.drop_column("assigned_path")

    with op.batch_alter_table("twins", schema=None) as batch_op:
        batch_op.drop_column("owners")

    with op.batch_alter_table("devices", schema=None) as batch_op:
        batch_op.drop_column("tags_version")
        batch_op.drop_column("tags")

    with op.batch_alter_table("commands", schema=None) as batch_op:
        batch_op.drop_index("commands_open")
        batch_op.drop_column("cancelled_us")
        batch_op.drop_column("heard_us")
        batch_op.drop_column("progress")
        batch_op.drop_column("actor")
        batch_op.drop_column("mode")
        batch_op.drop_column("args")

    op.drop_table("twin_changes")
    op.drop_table("jobs")
    with op.batch_alter_table("job_devices", schema=None) as batch_op:
        batch_op.drop_index("job_devices_by_state")

    op.drop_table("job_devices")
    op.drop_table("configurations")
    with op.batch_alter_table("configuration_devices", schema=None) as batch_op:
        batch_op.drop_index("configuration_devices_by_device")

    op.drop_table("configuration_devices")


def _without_alarms() -> None:
    op.drop_index("suppressions_by_end", "suppressions")
    op.drop_table("suppressions")
    with op.batch_alter_table("incidents", schema=None) as batch_op:
        batch_op.create_index("ix_incidents_device", ["device"], unique=False)
        batch_op.drop_index("incidents_by_subject")
        batch_op.drop_index("incidents_by_time")
        batch_op.drop_index("ix_incidents_page")
        for name in ("resolution", "resolved_by", "service"):
            batch_op.drop_column(name)
        batch_op.drop_column("page")

    with op.batch_alter_table("alarms", schema=None) as batch_op:
        batch_op.create_index("ix_alarms_incident", ["incident"], unique=False)
        batch_op.drop_index("alarms_by_incident")
        batch_op.drop_index("alarms_suppressed")
        batch_op.drop_index("alarms_by_time")
        for name in ("cleared_reason", "cleared_by", "verdict_us", "acked_us", "suppressed", "verdict_by", "verdict",
                     "comment", "acked_by", "about"):  # fmt: skip
            batch_op.drop_column(name)
