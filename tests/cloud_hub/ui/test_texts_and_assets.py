"""Texts are complete in both languages; files of others are those that were looked at."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import get_args

import pytest
import tomllib
from simulators.pages_world import Pages

from cloud_hub.incidents.core.evidence import ItemKind
from cloud_hub.incidents.core.messages import LANGUAGES, placeholders
from cloud_hub.ui import alarms, assets, device, incidents, rendering, texts
from shared.protocol.messages import About, AlarmKind, AppliedState, Life, Priority

UI = Path(assets.__file__).parent
WORDS = {language: tomllib.loads((texts.HERE / f"{language}.toml").read_text("utf-8")) for language in LANGUAGES}


def used() -> set[str]:
    """Keys that templates name, whole ones; those made of parts are below."""
    text = "".join(file.read_text("utf-8") for file in (UI / "templates").glob("*.html"))
    return set(re.findall(r"\bt\('([^']+)'(?! ~)", text))


MADE = {
    *(f"life.{one}" for one in get_args(Life)), *(f"priority.{one}" for one in get_args(Priority)),
    *(f"kind.{one}" for one in get_args(AlarmKind)), *(f"about.{one}" for one in get_args(About) if one),
    *(f"progress.{one}" for one in get_args(AppliedState)), *(f"evidence.{one}" for one in get_args(ItemKind)),
    *(f"alarms.show.{one}" for one in get_args(alarms.Show)), *(f"alarms.none.{one}" for one in get_args(alarms.Show)),
    *(f"incidents.show.{one}" for one in get_args(incidents.Show)),
    *(f"incidents.none.{one}" for one in get_args(incidents.Show)), *(f"span.{one}" for one in device.SPANS),
    *(f"theme.{one}" for one in rendering.THEMES),
    *(f"login.{one}" for one in ("wrong", "locked", "role", "dead", "ended")),
    *(f"nav.{one}" for one in ("overview", "alarms", "incidents", "devices")),
    *(f"devices.{one}" for one in ("id", "state", "alarms", "path", "tags", "profile", "seen_us")),
}  # fmt: skip


def test_both_languages_have_the_same_keys_and_placeholders() -> None:
    assert set(WORDS["en"]) == set(WORDS["zh"])
    differ = [key for key in WORDS["en"] if placeholders(WORDS["en"][key]) != placeholders(WORDS["zh"][key])]
    assert differ == []


def test_every_text_that_a_page_names_is_there_and_none_is_left_over() -> None:
    assert (used() | MADE) - set(WORDS["en"]) == set()
    families = ("problem.", "risk.", "state.", "verdict.", "action.", "action-state.")
    assert {key for key in set(WORDS["en"]) - used() - MADE if not key.startswith(families)} == set()


def test_files_of_others_are_as_published() -> None:
    files = {file.relative_to(assets.HERE).as_posix() for file in (assets.HERE / "vendor").iterdir()}
    assert {name for name in files if not name.endswith(".LICENSE.txt")} == set(assets.VENDORED)
    for name, (_, _, digest) in assets.VENDORED.items():
        assert hashlib.sha256((assets.HERE / name).read_bytes()).hexdigest() == digest
        assert f"vendor/{Path(name).name.partition('.')[0]}.LICENSE.txt" in files


def test_files_load_nothing_from_elsewhere() -> None:
    for name, asset in assets.load().items():
        if not name.startswith("vendor/"):
            assert not re.search(rb"https?://(?!www\.w3\.org/2000/svg)", asset.content), name


@pytest.mark.parametrize("encoding", ["gzip", "identity"])
def test_assets_are_kept_by_browsers_and_need_no_session(pages: Pages, encoding: str) -> None:
    client = pages.client()
    for name in assets.load():
        answer = client.get(f"/ui/{assets.address(name)}", headers={"accept-encoding": encoding})
        assert answer.status_code == 200
        assert answer.content == (assets.HERE / name).read_bytes()
        assert "immutable" in answer.headers["cache-control"]
    assert client.get("/ui/assets/nothing.js").status_code == 404


def test_scripts_are_small() -> None:
    shipped = sum(len(asset.packed) for name, asset in assets.load().items() if name.endswith((".js", ".mjs", ".css")))
    assert shipped < 64 << 10
