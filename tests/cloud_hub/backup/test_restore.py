"""A backup and its restore on both databases: nothing is changed by what is refused, nothing leaves its folder."""

from __future__ import annotations

import io
import os
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlmodel import select

from cloud_hub.access import tokens
from cloud_hub.audit import trail
from cloud_hub.backup import archive, restore
from cloud_hub.backup import create as backup
from cloud_hub.backup.archive import MANIFEST, File, Manifest
from cloud_hub.database.sessions import Database
from cloud_hub.database.tables import Device
from cloud_hub.errors import BackupError
from cloud_hub.runtime.state_lock import LOCK, RESTORING, hold_state_lock
from cloud_hub.settings import Settings
from shared.errors import ConfigError
from shared.protocol.codec import encode

NOW = 1_795_000_000_000_000


def hush(_words: str) -> None:
    """Progress that nobody reads."""


@pytest.fixture(params=["sqlite", "postgresql"])
def hub(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Settings]:
    """A hub's state: one device, one token, a key file and a folder."""
    state = tmp_path / "state"
    (state / "ca").mkdir(parents=True, mode=0o700)
    (state / "aws.key").write_bytes(b"k" * 32)
    (state / "aws.key").chmod(0o600)
    (state / "ca" / "ca.pem").write_text("certificate", "utf-8")
    (state / "ca" / "ca.pem").chmod(0o644)
    if request.param == "sqlite":
        yield Settings(state_dir=str(state))
        return
    if shutil.which("pg_dump") is None:
        pytest.skip("pg_dump is not installed: apt-get install postgresql")
    with request.getfixturevalue("postgres_server").database() as address:
        yield Settings(state_dir=str(state), database=address)


def register(hub: Settings, *names: str) -> str:
    """Devices into the hub's database; its epoch."""
    db = Database(hub.database_url)
    with db.write() as session:
        for name in names:
            session.add(Device(id=name))
        trail.add(session, NOW, "test", "device.registered", ",".join(names))
    epoch = db.hub_epoch
    db.close()
    return epoch


def devices(hub: Settings) -> list[str]:
    db = Database(hub.database_url)
    with db.read() as session:
        found = list(session.exec(select(Device.id).order_by(Device.id)))
        assert trail.verify(session) is None
    db.close()
    return found


def tree(folder: Path) -> dict[str, bytes]:
    """Every file with its content, without locks."""
    return {
        str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file() and p.name != LOCK
    }


def test_what_was_backed_up_comes_back_in_another_life(hub: Settings, tmp_path: Path) -> None:
    epoch, state, out = register(hub, "press-1"), Path(hub.state_dir), tmp_path / "hub.tar"
    manifest = backup.create_backup(hub, out, NOW, hush)
    assert out.stat().st_mode & 0o777 == 0o600
    assert {name for name in manifest.files if name.startswith("state/")} == {"state/aws.key", "state/ca/ca.pem"}
    register(hub, "press-2")
    (state / "aws.key").write_bytes(b"n" * 32)

    with pytest.raises(BackupError, match="--force"):
        restore.restore(hub, out, NOW, hush)
    assert devices(hub) == ["press-1", "press-2"]

    _, new = restore.restore(hub, out, NOW, hush, force=True)
    assert devices(hub) == ["press-1"]
    assert (manifest.hub_epoch, epoch != new) == (epoch, True)
    db = Database(hub.database_url)
    assert db.hub_epoch == new
    with db.read() as session:
        row = trail.rows(session, kind="hub.restored")[0]
        assert (row.subject, row.detail) == (epoch, {"taken_us": NOW})
    db.close()
    assert (state / "aws.key").read_bytes() == b"k" * 32
    assert (state / "aws.key").stat().st_mode & 0o777 == 0o600
    assert (state / "ca" / "ca.pem").stat().st_mode & 0o777 == 0o644
    assert not (state / RESTORING).exists()
    aside = next(state.glob("before-restore-*"))
    assert (aside / "aws.key").read_bytes() == b"n" * 32
    assert (aside / ("database.dump" if hub.database else "hub.sqlite")).stat().st_size > 0
    again = backup.create_backup(hub, tmp_path / "again.tar", NOW, hush)
    assert set(again.files) == set(manifest.files), "what was set aside is no part of the state"


@pytest.fixture
def lone(tmp_path: Path) -> Settings:
    """A hub on SQLite with one device."""
    hub = Settings(state_dir=str(tmp_path / "state"))
    register(hub, "press-1")
    return hub


def test_an_empty_place_needs_no_force(lone: Settings, tmp_path: Path) -> None:
    out = tmp_path / "hub.tar"
    backup.create_backup(lone, out, NOW, hush)
    shutil.rmtree(lone.state_dir)
    restore.restore(lone, out, NOW, hush)
    assert devices(lone) == ["press-1"]


def test_nothing_is_ever_overwritten_and_nothing_half_is_left(lone: Settings, tmp_path: Path) -> None:
    out = tmp_path / "hub.tar"
    out.write_text("mine", "utf-8")
    with pytest.raises(BackupError, match="already there"):
        backup.create_backup(lone, out, NOW, hush)
    assert out.read_text("utf-8") == "mine"
    with pytest.raises(BackupError, match="cannot be written"):
        backup.create_backup(lone, tmp_path / "not-there" / "hub.tar", NOW, hush)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hub.tar", "state"]


def test_the_same_state_makes_the_same_file(lone: Settings, tmp_path: Path) -> None:
    backup.create_backup(lone, tmp_path / "a.tar", NOW, hush)
    backup.create_backup(lone, tmp_path / "b.tar", NOW, hush)
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()


def test_a_link_is_told_and_not_followed(lone: Settings, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("of another", "utf-8")
    (Path(lone.state_dir) / "link").symlink_to(tmp_path / "secret")
    (Path(lone.state_dir) / "links").symlink_to(tmp_path)
    told: list[str] = []
    manifest = backup.create_backup(lone, tmp_path / "hub.tar", NOW, told.append)
    assert set(manifest.files) == {"database.sqlite"}
    assert len([line for line in told if "NOT taken" in line]) == 2


def test_every_flipped_byte_is_found_and_nothing_is_changed(lone: Settings, tmp_path: Path) -> None:
    good = tmp_path / "hub.tar"
    backup.create_backup(lone, good, NOW, hush)
    before, content = tree(Path(lone.state_dir)), good.read_bytes()
    end = len(content.rstrip(b"\0"))
    spoilt = tmp_path / "spoilt.tar"
    for position in range(600, end, max(1, end // 60)):
        spoilt.write_bytes(content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :])
        try:
            archive.verify(spoilt)
        except (BackupError, ConfigError):
            continue
        assert _padding(content, position), f"byte {position} was flipped and nobody saw it"
    spoilt.write_bytes(content[: end // 2])
    with pytest.raises(BackupError):
        restore.restore(lone, spoilt, NOW, hush, force=True)
    assert tree(Path(lone.state_dir)) == before


def _padding(content: bytes, position: int) -> bool:
    """Whether the byte lies in a tar header or between two members: no content of ours."""
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        return not any(m.offset_data <= position < m.offset_data + m.size for m in tar.getmembers())


def crafted(path: Path, *members: tuple[tarfile.TarInfo, bytes], files: dict[str, File] | None = None) -> Path:
    """An archive made by an enemy: a manifest of his choice, members of his choice."""
    manifest = Manifest(kind="sqlite", schema="0001", hub_epoch="e", taken_us=1, files=files or {})
    with tarfile.open(path, "w") as tar:
        for member, content in ((tarfile.TarInfo(MANIFEST), encode(manifest)), *members):
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def link(name: str, target: str, kind: bytes) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


def enemies() -> dict[str, tuple[list[tuple[tarfile.TarInfo, bytes]], dict[str, File]]]:
    import hashlib

    known = File(size=1, sha256=hashlib.sha256(b"x").hexdigest())
    names = ["../evil", "state/../../evil", "/tmp/evil", "state//evil", "./evil", "state/./evil", "", ".", MANIFEST]
    worlds = {f"name {n!r}": ([(tarfile.TarInfo(n or "x"), b"x")], {n: known}) for n in names}
    worlds["symlink"] = ([(link("state/a", "/etc", tarfile.SYMTYPE), b"")], {"state/a": known})
    worlds["hard link"] = ([(link("state/a", "/etc/passwd", tarfile.LNKTYPE), b"")], {"state/a": known})
    worlds["device"] = ([(link("state/a", "", tarfile.CHRTYPE), b"")], {"state/a": known})
    worlds["unknown member"] = ([(tarfile.TarInfo("state/a"), b"x")], {})
    twice = [(tarfile.TarInfo("state/a"), b"x"), (tarfile.TarInfo("state/a"), b"x")]
    worlds["twice"] = (twice, {"state/a": known})
    worlds["setuid"] = (
        [(tarfile.TarInfo("state/a"), b"x")],
        {"state/a": File(size=1, sha256=known.sha256, mode=0o4755)},
    )
    worlds["missing"] = ([], {"state/a": known})
    return worlds


@pytest.mark.parametrize("enemy", enemies())
def test_an_enemys_archive_writes_nothing_anywhere(lone: Settings, tmp_path: Path, enemy: str) -> None:
    members, files = enemies()[enemy]
    source = crafted(tmp_path / "evil.tar", *members, files=files)
    before = tree(tmp_path)
    with pytest.raises(BackupError):
        restore.restore(lone, source, NOW, hush, force=True)
    assert tree(tmp_path) == before
    assert not Path("/tmp/evil").exists()


@pytest.mark.parametrize("content", [b"", b"no tar at all" * 100])
def test_what_is_no_backup_is_told(lone: Settings, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.tar").write_bytes(content)
    with pytest.raises(BackupError, match="no backup of a hub"):
        restore.restore(lone, tmp_path / "x.tar", NOW, hush, force=True)
    with pytest.raises(BackupError, match="No such file"):
        restore.restore(lone, tmp_path / "y.tar", NOW, hush, force=True)


def test_a_newer_schema_a_newer_format_and_another_kind_are_the_operators(lone: Settings, tmp_path: Path) -> None:
    out, half = tmp_path / "hub.tar", tmp_path / "half"
    made = backup.create_backup(lone, out, NOW, hush)
    half.mkdir()
    archive.unpack(out, half, hush)
    sources = {"database.sqlite": half / "database.sqlite"}
    for number, (change, words) in enumerate([
        ({"schema": "9999"}, "newer than this hub"), ({"kind": "postgresql"}, "configured for sqlite"),
        ({"format": 2}, "newer hub"),
    ]):  # fmt: skip
        fields: dict[str, Any] = {name: getattr(made, name) for name in Manifest.__slots__} | change
        target = tmp_path / f"{number}.tar"
        with target.open("wb") as file:
            archive._write(file, Manifest(**fields), sources)
        with pytest.raises(ConfigError, match=words):
            restore.restore(lone, target, NOW, hush, force=True)
    assert devices(lone) == ["press-1"]


def test_a_running_hub_is_never_restored_over(lone: Settings, tmp_path: Path) -> None:
    backup.create_backup(lone, tmp_path / "hub.tar", NOW, hush)
    holder = f"is in use by process {os.getpid()} since "
    with hold_state_lock(Path(lone.state_dir)), pytest.raises(ConfigError, match=holder):
        restore.restore(lone, tmp_path / "hub.tar", NOW, hush, force=True)
    with hold_state_lock(Path(lone.state_dir), alone=True), pytest.raises(ConfigError, match=holder):
        hold_state_lock(Path(lone.state_dir)).__enter__()


def test_two_hubs_on_one_state_folder_the_second_is_refused(lone: Settings) -> None:
    with (
        hold_state_lock(Path(lone.state_dir)),
        pytest.raises(ConfigError, match="give this hub a state_dir of its own"),
    ):
        hold_state_lock(Path(lone.state_dir)).__enter__()
    hold_state_lock(Path(lone.state_dir)).__enter__()


def test_a_hub_connected_from_another_machine_is_seen(postgres_server: Any, tmp_path: Path) -> None:
    with postgres_server.database() as url:
        hub = Settings(state_dir=str(tmp_path / "state"), database=url)
        other = Database(url)
        with other.read() as session:
            session.get(Device, "x")
            with pytest.raises(ConfigError, match="a hub is connected"):
                restore.restore(hub, tmp_path / "none.tar", NOW, hush, force=True)
        other.close()


def test_a_restore_that_was_broken_off_keeps_the_hub_from_starting(lone: Settings) -> None:
    (Path(lone.state_dir) / RESTORING).mkdir()
    with pytest.raises(ConfigError, match="broken off"):
        hold_state_lock(Path(lone.state_dir)).__enter__()


def test_a_damaged_database_is_not_backed_up_silently(lone: Settings, tmp_path: Path) -> None:
    database = Path(lone.state_dir) / "hub.sqlite"
    with database.open("r+b") as file:
        file.seek(4096 * 5)
        file.write(os.urandom(4096))
    with pytest.raises(BackupError, match=r"damaged|malformed"):
        backup.create_backup(lone, tmp_path / "hub.tar", NOW, hush)
    assert not (tmp_path / "hub.tar").exists()


def test_tokens_work_on(lone: Settings, tmp_path: Path) -> None:
    db = Database(lone.database_url)
    with db.write() as session:
        token = tokens.create(session, "anna", "viewer", NOW, "test")
    db.close()
    backup.create_backup(lone, tmp_path / "hub.tar", NOW, hush)
    restore.restore(lone, tmp_path / "hub.tar", NOW, hush, force=True)
    db = Database(lone.database_url)
    with db.read() as session:
        assert tokens.find(session, token, NOW).name == "anna"
    db.close()
