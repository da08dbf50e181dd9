"""A throwaway PostgreSQL (15 or newer): one cluster for a test process, on a unix socket in a folder of its own.

Each test gets an empty database with the hub's schema: one that an earlier test has left and that was emptied, if its
schema is untouched, else a copy of a template. The server ends with the test process, however that ends: the kernel
tells it when its parent died.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql
from simulators.brokers import until

from cloud_hub.database.engine import open_engine
from cloud_hub.database.schema import migrate

TEMPLATE = "tidegate_template"
SCHEMA = """SELECT md5(string_agg(line, '|' ORDER BY line)) FROM (
  SELECT concat_ws(' ', c.relname, c.relkind, a.attname, a.atttypid, a.attnotnull, a.attidentity) AS line
  FROM pg_class c LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0
  WHERE c.relnamespace = 'public'::regnamespace
  UNION ALL SELECT concat_ws(' ', tgname, tgenabled) FROM pg_trigger WHERE NOT tgisinternal
  UNION ALL SELECT concat_ws(' ', proname, md5(prosrc)) FROM pg_proc WHERE pronamespace = 'public'::regnamespace
  UNION ALL SELECT version_num FROM alembic_version
) AS lines"""
"""A text that differs when a test has changed the schema."""
EMPTY = """DO $$ DECLARE name text; filled boolean; BEGIN
  SET LOCAL session_replication_role = replica;  -- the audit trail's trigger refuses deletions
  FOR name IN SELECT tablename FROM pg_tables WHERE schemaname = 'public' AND tablename <> 'alembic_version' LOOP
    EXECUTE format('SELECT EXISTS (SELECT 1 FROM %I)', name) INTO filled;
    IF filled THEN EXECUTE format('TRUNCATE %I RESTART IDENTITY CASCADE', name); END IF;
  END LOOP; END $$"""
# What a crash of the machine would cost does not matter here; `durable=True` leaves fsync as it is delivered.
FAST = ("-c", "fsync=off", "-c", "full_page_writes=off", "-c", "autovacuum=off", "-c", "shared_buffers=16MB")


def _binary(name: str) -> str:
    folders = sorted(
        Path("/usr/lib/postgresql").glob("*/bin"), key=lambda folder: int(folder.parent.name.split(".")[0])
    )
    path = os.pathsep.join(map(str, [*reversed(folders), "/usr/local/bin", "/usr/bin"]))
    found = shutil.which(name) or shutil.which(name, path=path)
    if found is None:
        pytest.skip(f"PostgreSQL is not installed ({name} is missing): apt-get install postgresql")
    return found


def _owner() -> dict[str, Any]:
    """Whom the server runs as: initdb and postgres refuse root."""
    if os.geteuid() != 0:
        return {}
    known = {entry.pw_name: entry for entry in pwd.getpwall()}
    found = known.get("postgres") or known["nobody"]
    return {"user": found.pw_uid, "group": found.pw_gid, "extra_groups": []}


@dataclass
class Server:
    """A PostgreSQL server, reached by its socket in `folder`. It may be killed and started again."""

    folder: Path
    durable: bool = False
    process: subprocess.Popen[bytes] | None = None
    _numbers: Iterator[int] = field(default_factory=lambda: count(1))
    _emptied: list[str] = field(default_factory=list)
    _schema: str = ""

    def initialise(self) -> None:
        """Make the cluster's files."""
        options = ["--auth=trust", "--username=tidegate", "--encoding=UTF8", "--locale=C", "--no-sync"]
        command = [_binary("initdb"), f"--pgdata={self.folder / 'data'}", *options]
        made = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, check=False, **_owner())
        assert made.returncode == 0, made.stderr

    def start(self) -> None:
        """Start, and wait until it answers."""
        dies_with_its_parent = ["setpriv", "--pdeathsig=QUIT", "--"]
        command = [*dies_with_its_parent, _binary("postgres"), "-D", str(self.folder / "data"), "-k", str(self.folder),
                   "-c", "listen_addresses=", *(() if self.durable else FAST)]  # fmt: skip
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                command, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                **_owner(),
            )  # fmt: skip
        until("PostgreSQL answers", self._answers, 30)

    def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, (self.folder / "log").read_text("utf-8")
        try:
            self.run("SELECT 1")
        except psycopg.OperationalError:
            return False
        return True

    def stop(self) -> None:
        """End at once, if it runs: connections are cut, nothing committed is lost (SIGQUIT, then recovery)."""
        process, self.process = self.process, None
        if process is not None:
            process.send_signal(signal.SIGQUIT)
            process.wait(20)

    def run(self, statement: str | sql.Composed, database: str = "postgres") -> None:
        """One statement as the cluster's owner, outside any transaction."""
        with self._connected(database) as connection:
            connection.execute(statement)  # type: ignore[arg-type]

    def _connected(self, database: str) -> psycopg.Connection[Any]:
        return psycopg.connect(host=str(self.folder), user="tidegate", dbname=database, autocommit=True)

    def url(self, name: str) -> str:
        """Address of one database."""
        return f"postgresql://tidegate@/{name}?host={self.folder}"

    def template(self) -> None:
        """A database with the schema and no rows: copying it is faster than migrating anew."""
        self.run(f"CREATE DATABASE {TEMPLATE}")
        engine = open_engine(self.url(TEMPLATE))
        migrate(engine, self.url(TEMPLATE))
        engine.dispose()
        with self._connected(TEMPLATE) as connection:
            self._schema = connection.execute(SCHEMA).fetchone()[0]

    @contextmanager
    def database(self, template: str = TEMPLATE) -> Iterator[str]:
        """The address of an empty database, or of a copy of `template`."""
        name = self._emptied.pop() if template == TEMPLATE and self._emptied else self._copy(template)
        try:
            yield self.url(name)
        finally:
            if template == TEMPLATE and self._empty(name):
                self._emptied.append(name)
            else:
                self.run(f"DROP DATABASE {name} WITH (FORCE)")

    def _copy(self, template: str) -> str:
        name = f"hub_{next(self._numbers)}"
        self.run(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY FILE_COPY")  # the quicker one for small ones
        return name

    def _empty(self, name: str) -> bool:
        """Delete all rows; False if the database cannot be used again, since a test has changed its schema."""
        others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s AND pid <> pg_backend_pid()"
        try:
            with self._connected(name) as connection:
                connection.execute(others, [name])
                connection.execute(EMPTY)
                return bool(connection.execute(SCHEMA).fetchone()[0] == self._schema)
        except psycopg.Error:
            return False


@contextmanager
def postgres(*, durable: bool = False) -> Iterator[Server]:
    """A running server with its template; skips the test where PostgreSQL is not installed."""
    _binary("initdb")
    folder = Path(tempfile.mkdtemp(prefix="tidegate-pg-", dir="/tmp"))  # a socket's path has room for 107 letters
    if owner := _owner():
        shutil.chown(folder, owner["user"], owner["group"])
    server = Server(folder, durable)
    try:
        server.initialise()
        server.start()
        server.template()
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)
