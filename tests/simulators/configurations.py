"""A hub's database with devices and its configuration reconciler, on a virtual clock."""

from __future__ import annotations

from typing import Any

from sqlmodel import select

from cloud_hub.configurations import service as configurations
from cloud_hub.configurations.reconciler import ConfigurationReconciler
from cloud_hub.database.sessions import Database
from cloud_hub.database.tables import Configuration, ConfigurationDevice, Device, TwinChange, TwinRow
from cloud_hub.runtime.outgoing import OutgoingMessage
from cloud_hub.twins import service as twins
from shared.protocol.codec import encode

NOW = 1_800_000_000_000_000
SECOND = 1_000_000
LIMIT = 1024


class World:
    """A hub's database with its configurator; the clock goes on by itself."""

    def __init__(self, db: Database) -> None:
        self.db, self.now, self.published = db, NOW, list[OutgoingMessage]()
        self.restart()

    def restart(self) -> None:
        self.loop = ConfigurationReconciler(self.db, LIMIT, 300, lambda: self.now)

    def settle(self) -> None:
        self.now += SECOND
        while self.run_once():
            pass

    def run_once(self) -> bool:
        result = self.loop.run_once()
        self.published += result.messages
        return result.again

    def device(self, number: str, **tags: Any) -> None:
        with self.db.write() as session:
            row = session.get(Device, number) or Device(id=number)
            row.tags = tags
            session.add(row)
        self.loop.changed([number])

    def configure(self, number: str, content: Any, target: str = "*", priority: int = 0, **more: Any) -> None:
        self.now += SECOND
        row = Configuration(id=number, target=target, content={"": content}, priority=priority, actor="anna",
                            created_us=self.now, **more)  # fmt: skip
        with self.db.write() as session:
            configurations.put(session, row, LIMIT, "")
        self.loop.all_changed()

    def remove(self, number: str) -> None:
        with self.db.write() as session:
            configurations.remove(session, number, self.now, "anna", "")
        self.loop.all_changed()

    def hand(self, device: str, patch: Any, actor: str = "anna") -> None:
        with self.db.write() as session:
            twins.update_desired(session, device, "", patch, self.now, actor=actor, max_bytes=LIMIT)
        self.loop.changed([device])

    def report(self, device: str, value: Any) -> None:
        with self.db.write() as session:
            body = encode({"state": {"reported": value}})
            twins.handle_request(session, device, "", "update", body, self.now, actor=device, max_bytes=LIMIT)
        self.loop.changed([device])

    def release(self, device: str, *paths: str) -> list[str]:
        with self.db.write() as session:
            found = configurations.release(session, device, "", paths, self.now, "anna", "")
        self.loop.changed([device])
        return found

    def row(self, device: str) -> Any:
        with self.db.read() as session:
            return session.get(TwinRow, (device, ""))

    def desired(self, device: str) -> Any:
        row = self.row(device)
        return row.state.get("desired", {}) if row else {}

    def stands(self, number: str) -> dict[str, str]:
        with self.db.read() as session:
            rows = session.exec(select(ConfigurationDevice).where(ConfigurationDevice.configuration == number))
            return {row.device: row.state for row in rows}

    def whole(self) -> Any:
        with self.db.read() as session:
            return [
                [row.model_dump() for row in session.exec(select(table))]
                for table in (TwinRow, TwinChange, ConfigurationDevice)
            ]  # fmt: skip
