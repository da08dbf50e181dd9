"""The built-in collectors: each through the examiner, then what only it must do."""

from __future__ import annotations

import json
import struct
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from examiners.collectors import NOW_US, Site, examine_collector

from edge_agent.collectors import Frame, host, images, log
from edge_agent.collectors.log.tail import READ_BYTES
from edge_agent.config import CollectorTable
from shared.errors import ConfigError, NotReady
from shared.protocol.messages import Event, Sample


def table(kind: str, **options: Any) -> CollectorTable:
    return CollectorTable(kind=kind, name=f"the-{kind}", period_s=options.pop("period_s", None), options=options)


# -- host ----------------------------------------------------------------------------------------------


def test_host_passes_the_examiner() -> None:
    examine_collector(Site(open_collector=host.open_collector, table=table("host"), kinds=(Sample,)))


def test_host_says_what_a_machine_always_has() -> None:
    collector = host.open_collector(table("host", temperatures=False))
    values = {sample.metric: sample.value for sample in collector.collect(NOW_US)}
    assert {"cpu.load", "memory.used", "disk.used"} <= values.keys()
    assert 0 < values["memory.used"] <= 100  # type: ignore[operator]
    assert not [metric for metric in collector.metrics if metric.name.startswith("temp.")]


def test_host_whose_disk_is_not_mounted_is_not_ready_after_what_it_could_read(tmp_path: Path) -> None:
    collector = host.open_collector(table("host", disk=str(tmp_path / "not-mounted")))
    got: list[str] = []
    with pytest.raises(NotReady, match="not-mounted"):
        got.extend(sample.metric for sample in collector.collect(NOW_US))
    (tmp_path / "not-mounted").mkdir()
    assert "disk.used" in [sample.metric for sample in collector.collect(NOW_US)]


@pytest.mark.parametrize(
    ("chip", "label", "index", "name"),
    [("coretemp", "Core 0", 0, "temp.coretemp-core-0"), ("nvme", "", 2, "temp.nvme-2"), ("Å°", "?!", 0, "temp.0")],
)
def test_a_sensor_gets_a_name_that_a_metric_may_have(chip: str, label: str, index: int, name: str) -> None:
    assert host._sensor_name(chip, label, index).startswith(name)
    Sample(metric=host._sensor_name(chip, label, index), t_us=1, value=1.0)


# -- images --------------------------------------------------------------------------------------------


def frames(count: int, side: int = 4, first: int = 0) -> Any:
    return np.arange(first, first + count, dtype=np.uint8)[:, None, None] * np.ones((1, side, side), np.uint8)


@pytest.fixture
def film(tmp_path: Path) -> Path:
    path = tmp_path / "frames.npy"
    np.save(path, frames(3))
    return path


def opened(film: Path) -> images.ImagesCollector:
    return images.open_collector(table("images", path=str(film)))


def take(collector: images.ImagesCollector, count: int = 1) -> list[tuple[int, int]]:
    """(number, first pixel) of the next frames."""
    shown = [frame for _ in range(count) for frame in collector.collect(NOW_US)]
    return [(frame.number, frame.data[0]) for frame in shown]


def replaced(film: Path, content: Any) -> None:
    """Put another file in the place of `film` at once, as a careful writer does."""
    other = film.with_name("other.npy")
    if isinstance(content, bytes):
        other.write_bytes(content)
    else:
        np.save(other, content)
    other.replace(film)


def test_images_pass_the_examiner(film: Path) -> None:
    examine_collector(Site(open_collector=images.open_collector, table=table("images", path=str(film)), kinds=(Frame,)))


def test_frames_are_played_in_order_again_and_again(film: Path) -> None:
    assert take(opened(film), 7) == [(0, 0), (1, 1), (2, 2), (3, 0), (4, 1), (5, 2), (6, 0)]


def test_a_replaced_file_is_played_from_the_next_frame_on_and_numbers_continue(film: Path) -> None:
    collector = opened(film)
    assert take(collector, 2) == [(0, 0), (1, 1)]
    replaced(film, frames(2, side=8, first=100))
    (frame,) = collector.collect(NOW_US)
    assert (frame.number, frame.shape, len(frame.data), frame.data[0]) == (2, (8, 8, 1), 64, 100)
    assert take(collector) == [(3, 101)]


def test_while_the_file_is_broken_it_is_not_ready_and_then_goes_on(film: Path) -> None:
    collector = opened(film)
    assert take(collector) == [(0, 0)]
    whole = film.read_bytes()
    replaced(film, whole[:-1])
    for _ in range(2):
        with pytest.raises(NotReady, match="cut short"):
            take(collector)
    film.unlink()
    with pytest.raises(NotReady, match=r"frames\.npy"):
        take(collector)
    film.write_bytes(whole)
    assert take(collector) == [(1, 1)]


def npy(header: bytes, data: bytes = b"", version: int = 1) -> bytes:
    length = struct.pack("<H" if version == 1 else "<I", len(header))
    return b"\x93NUMPY" + bytes([version, 0]) + length + header + data


def described(**changes: Any) -> bytes:
    fields = {"descr": "|u1", "fortran_order": False, "shape": (1, 2, 2)} | changes
    return npy(repr(fields).encode(), bytes(4))


BAD_FILES = {
    "empty": b"",
    "text": b"hello, this is no film",
    "magic-only": b"\x93NUMPY",
    "no-length": b"\x93NUMPY\x01\x00",
    "header-cut": npy(b"{'descr': '|u1', ")[:-4],
    "header-not-python": npy(b"{'descr' '|u1'}"),
    "header-a-list": npy(b"[1, 2]"),
    "header-without-shape": npy(b"{'descr': '|u1', 'fortran_order': False}"),
    "header-with-code": npy(b"__import__('os').getpid()"),
    "header-too-deep": npy(b"(" * 3000),
    "floats": described(descr="<f4"),
    "fortran": described(fortran_order=True),
    "two-dimensions": described(shape=(2, 2)),
    "four-dimensions": described(shape=(1, 1, 2, 2)),
    "no-frames": described(shape=(0, 2, 2)),
    "negative": described(shape=(-1, 2, -2)),
    "fractions": described(shape=(1.0, 2, 2)),
    "shape-a-number": described(shape=4),
    "too-much-data": described() + b"x",
    "too-little-data": described()[:-1],
}


@pytest.mark.parametrize("content", BAD_FILES.values(), ids=BAD_FILES.keys())
def test_a_bad_file_stops_the_start_and_does_not_stop_a_running_agent(film: Path, content: bytes) -> None:
    collector = opened(film)
    replaced(film, content)
    with pytest.raises(ConfigError, match=r"frames\.npy") as caught:
        opened(film)
    assert caught.value.place == "collector 'the-images'"
    assert ".npy" in caught.value.cure
    with pytest.raises(NotReady, match=r"frames\.npy"):
        take(collector)


@pytest.mark.parametrize("path", ["absent.npy", "."])
def test_a_file_that_is_not_there_stops_the_start(tmp_path: Path, path: str) -> None:
    with pytest.raises(ConfigError):
        opened(tmp_path / path)


def test_a_header_of_version_two_is_read(film: Path) -> None:
    header = repr({"descr": "|u1", "fortran_order": False, "shape": (1, 2, 2)}).encode()
    replaced(film, npy(header, b"\x07" * 4, version=2))
    assert take(opened(film)) == [(0, 7)]


def test_a_frame_whose_bytes_do_not_fit_its_shape_cannot_be_made() -> None:
    with pytest.raises(ValueError, match="3 bytes"):
        Frame(source="camera", number=0, t_us=1, shape=(2, 2, 1), data=b"abc")


# -- log -----------------------------------------------------------------------------------------------


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "app.log"
    path.write_text("old line\n")
    return path


def follow(file: Path, **options: Any) -> log.LogCollector:
    return log.open_collector(table("log", path=str(file), **options))


def write(file: Path, text: str | bytes) -> None:
    with file.open("ab") as stream:
        stream.write(text if isinstance(text, bytes) else text.encode())


def events(collector: log.LogCollector, now_us: int = NOW_US) -> list[Event]:
    return list(collector.collect(now_us))


def lines(collector: log.LogCollector) -> list[str]:
    return [event.text for event in events(collector)]


def test_log_passes_the_examiner(file: Path) -> None:
    examine_collector(
        Site(
            open_collector=log.open_collector,
            table=table("log", path=str(file)),
            happens=lambda: write(file, "hello\n"),
            kinds=(Event,),
        )
    )


def test_only_whole_new_lines_are_told_and_each_once(file: Path) -> None:
    collector = follow(file)
    assert lines(collector) == [], "what was there before the start is not news"
    write(file, "one\ntw")
    assert lines(collector) == ["one"]
    assert lines(collector) == []
    write(file, "o\n\nthree\n")
    assert lines(collector) == ["two", "three"], "an empty line matches no pattern"
    collector.close()


def test_the_pattern_chooses_and_the_level_is_passed_on(file: Path) -> None:
    collector = follow(file, pattern=r"ERROR|jam \d+", level="error")
    write(file, "all fine\njam 12 at feeder\nan ERROR\njam at feeder\n")
    found = events(collector)
    assert [(event.text, event.level) for event in found] == [("jam 12 at feeder", "error"), ("an ERROR", "error")]
    collector.close()


def test_a_rotation_loses_no_line(file: Path) -> None:
    collector = follow(file)
    write(file, "before\n")
    assert lines(collector) == ["before"]
    write(file, "just before the rotation\nunfinish")
    file.rename(file.with_suffix(".1"))
    assert lines(collector) == ["just before the rotation"]
    write(file.with_suffix(".1"), "ed\n")
    assert lines(collector) == ["unfinished"], "the writer has not reopened yet"
    write(file, "after\n")
    assert lines(collector) == ["after"]
    write(file, "and on\n")
    assert lines(collector) == ["and on"]
    collector.close()


def test_an_unfinished_line_of_a_file_that_was_rotated_away_is_told(file: Path) -> None:
    collector = follow(file)
    write(file, "no end")
    assert lines(collector) == []
    file.rename(file.with_suffix(".1"))
    write(file, "new file\n")
    assert lines(collector) == ["no end", "new file"]
    collector.close()


def test_a_truncated_file_is_read_from_its_start(file: Path) -> None:
    collector = follow(file)
    write(file, "a long line before\nhalf")
    lines(collector)
    file.write_text("fresh\n")
    assert lines(collector) == ["fresh"]
    collector.close()


def test_a_file_that_appears_later_is_read_from_its_start(tmp_path: Path) -> None:
    file = tmp_path / "later.log"
    collector = follow(file)
    assert lines(collector) == []
    file.write_text("first\n")
    assert lines(collector) == ["first"]
    file.unlink()
    assert lines(collector) == []
    file.write_text("again\n")
    assert lines(collector) == ["again"]
    collector.close()


def test_what_is_over_the_rate_is_counted_and_told(file: Path) -> None:
    collector = follow(file, per_minute=3)
    write(file, "".join(f"line {n}\n" for n in range(10)))
    found = events(collector)
    assert [event.text for event in found[:-1]] == ["line 0", "line 1", "line 2"]
    assert found[-1].fields == {"dropped": 7.0}
    assert "7 more" in found[-1].text
    assert found[-1].level == "warning"
    write(file, "too early\n")
    assert [event.fields for event in events(collector, NOW_US + 1)] == [{"dropped": 1.0}]
    write(file, "later\nbut only one\n")
    told = events(collector, NOW_US + 21_000_000)
    assert told[0].text == "later"
    assert told[-1].fields == {"dropped": 1.0}
    write(file, "the clock stepped back\n")
    assert events(collector, NOW_US - 60_000_000)[-1].fields == {"dropped": 1.0}
    write(file, "".join(f"line {n}\n" for n in range(5)))
    assert len(events(collector, NOW_US + 3_600_000_000)) == 4, "room grows to the rate and not beyond"
    collector.close()


def test_lines_that_do_not_match_do_not_use_up_the_rate(file: Path) -> None:
    collector = follow(file, pattern="jam", per_minute=1)
    write(file, "fine\n" * 50 + "jam\n")
    assert lines(collector) == ["jam"]
    collector.close()


def test_what_is_no_utf8_is_told_with_marks_in_its_place(file: Path) -> None:
    collector = follow(file)
    write(file, b"temp \xff\xfe high\n\xc3\n\0\0begun anew\n")  # a file emptied under its writer begins with NULs
    assert lines(collector) == ["temp \ufffd\ufffd high", "\ufffd", "\ufffd\ufffdbegun anew"]
    collector.close()


def test_a_very_long_line_is_cut_and_the_next_is_whole(file: Path) -> None:
    collector = follow(file)
    write(file, b"begins " + b"x" * (3 * READ_BYTES))
    for _ in range(4):
        assert lines(collector) == []
    write(file, b" ends\nnext\n")
    first, second = lines(collector)
    assert first.startswith("begins xxx")
    assert len(first) == log.LONGEST_LINE
    assert second == "next"
    collector.close()


def test_a_large_backlog_is_read_in_parts_and_whole(file: Path) -> None:
    collector = follow(file, per_minute=1_000_000)
    count = 2 * READ_BYTES // 10
    write(file, b"".join(b"%08d\n" % n for n in range(count)))
    got = [text for _ in range(4) for text in lines(collector)]
    assert got == [f"{n:08d}" for n in range(count)]
    collector.close()


@pytest.mark.parametrize("pattern", ["(", "[z-a]", "a{99999999999999999999}", "*"])
def test_a_pattern_that_is_none_stops_the_start(file: Path, pattern: str) -> None:
    with pytest.raises(ConfigError, match="regular expression") as caught:
        follow(file, pattern=pattern)
    assert caught.value.place.endswith(".pattern")


@pytest.mark.parametrize("options", [{}, {"path": "x", "unit": "y"}])
def test_just_one_source_must_be_named(options: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="either `path` or `unit`"):
        log.open_collector(table("log", **options))


def test_a_path_that_is_a_folder_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be followed"):
        follow(tmp_path)


def test_following_a_unit_where_journald_is_not_stops_the_start(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="cannot be followed"):
        log.open_collector(table("log", unit="ssh.service"))


JOURNALCTL = """#!{python}
import json, sys, time
entries = [json.loads(line) for line in open("{journal}")]
given = dict(word.lstrip("-").partition("=")[::2] for word in sys.argv[1:])
if "follow" not in given:
    entries = entries[-1:]
elif "after-cursor" in given:
    entries = [entry for entry in entries if entry["__CURSOR"] > given["after-cursor"]]
for entry in entries:
    print(json.dumps(entry), flush=True)
if "follow" in given and entries:
    print("no JSON", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def journal(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A journal with a journalctl that ends when it has nothing to say, as one that was killed does."""
    file, program = tmp_path / "journal", tmp_path / "journalctl"
    file.touch()
    program.write_text(JOURNALCTL.format(python=sys.executable, journal=file))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    return file


def say(journal: Path, *messages: Any) -> None:
    with journal.open("a") as stream:
        for message in messages:
            number = journal.read_text().count("\n")
            stream.write(json.dumps({"MESSAGE": message, "__CURSOR": f"s={number:04}"}) + "\n")
            stream.flush()


def heard(collector: log.LogCollector, count: int) -> list[str]:
    found: list[str] = []
    for _ in range(2000):
        found += lines(collector)
        if len(found) >= count:
            return found
        time.sleep(0.01)
    raise AssertionError(f"only {found}")


def test_a_unit_is_followed_through_journalctl_and_through_restarts(journal: Path) -> None:
    say(journal, "before the first start")
    collector = log.open_collector(table("log", unit="press.service"))
    say(journal, "one", list(b"t\xffwo"), "\ud800")
    assert heard(collector, 3) == ["one", "t\ufffdwo", "?"]
    place = collector.checkpoint()
    collector.close()
    say(journal, "while it was down")
    again = log.open_collector(table("log", unit="press.service"))
    again.resume(place)
    assert heard(again, 1) == ["while it was down"]
    again.close()


def test_a_journal_that_was_empty_at_the_first_start_is_read_from_its_start(journal: Path) -> None:
    collector = log.open_collector(table("log", unit="press.service"))
    place = collector.checkpoint()
    collector.close()
    say(journal, "the first of all")
    again = log.open_collector(table("log", unit="press.service"))
    again.resume(place)
    again.resume(b"no checkpoint")
    assert heard(again, 1) == ["the first of all"]
    again.close()
