"""Collectors that read pictures in a process of their own: camera, video file, folder, MQTT."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from examiners.collectors import Site, examine_collector
from simulators.brokers import free_port, mosquitto, until
from simulators.cameras import camera, jpeg, mjpeg, png, rtsp, video

from edge_agent.clock import now_us
from edge_agent.collectors import Frame, Reading, folder, mqtt_image
from edge_agent.collectors import camera as cameras
from edge_agent.collectors import video as videos
from edge_agent.collectors.sources.process import BackgroundSource
from edge_agent.collectors.sources.protocol import State
from edge_agent.config import CollectorTable
from shared.errors import ConfigError
from shared.protocol.messages import Event

OPEN = {
    "camera": cameras.open_collector, "video": videos.open_collector, "folder": folder.open_collector,
    "mqtt_image": mqtt_image.open_collector,
}  # fmt: skip


def table(kind: str, **options: Any) -> CollectorTable:
    return CollectorTable(kind=kind, name=f"the-{kind}", period_s=None, options=options)


class Watched:
    """A collector with all that it has read so far."""

    def __init__(self, collector: Any) -> None:
        self.collector = collector
        self.readings: list[Reading] = []

    def read(self) -> None:
        self.readings += self.collector.collect(now_us())

    @property
    def frames(self) -> list[Frame]:
        self.read()
        return [one for one in self.readings if isinstance(one, Frame)]

    @property
    def texts(self) -> str:
        self.read()
        return "\n".join(one.text for one in self.readings if isinstance(one, Event))

    @property
    def values(self) -> list[int]:
        """Which pictures arrived: their grey value, in tens."""
        return [round(frame.data[0] / 10) for frame in self.frames]


@contextmanager
def opened(kind: str, **options: Any) -> Iterator[Watched]:
    collector = OPEN[kind](table(kind, **options))
    try:
        yield Watched(collector)
    finally:
        collector.close()


def ticking(client: int) -> Iterator[bytes]:
    """Pictures without end."""
    for number in range(10_000):
        yield jpeg(10 * (number % 25))


# -- each through the examiner -------------------------------------------------------------------------


def waits(kind: str, options: dict[str, Any], happens: Callable[[], object] = lambda: None) -> Site:
    """A site whose first turn starts the source process, and whose second comes when it has delivered."""
    source: list[Any] = []

    def open_collector(chosen: CollectorTable) -> Any:
        collector = OPEN[kind](chosen)
        source.append(collector.source)
        return collector

    def delivers() -> None:
        if source[0]._thread is not None and not source[0].counts.received:
            until("a picture", lambda: happens() or source[0].counts.received)

    return Site(
        open_collector=open_collector, table=table(kind, **options), captured=True, happens=delivers
    )  # fmt: skip


def test_camera_video_and_folder_pass_the_examiner(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jpg").write_bytes(jpeg(10))
    examine_collector(waits("video", {"path": str(video(tmp_path / "v.mkv")), "width": 32, "height": 24}))
    examine_collector(waits("folder", {"path": str(tmp_path / "in"), "settle_s": 0.1}))
    with camera(mjpeg(ticking)) as running:
        examine_collector(waits("camera", {"url": f"http://127.0.0.1:{running.port}/"}))


# -- video ---------------------------------------------------------------------------------------------


def test_each_frame_of_a_file_waits_for_its_turn(tmp_path: Path) -> None:
    with opened("video", path=str(video(tmp_path / "v.mkv")), realtime=False) as seen:
        until("the end", lambda: "source ended" in seen.texts)
        assert seen.values == list(range(20))
        assert [frame.number for frame in seen.frames] == list(range(20))
        assert seen.collector.source.counts.dropped == 0


def test_a_file_plays_at_its_own_speed_and_what_is_not_taken_is_dropped_and_counted(tmp_path: Path) -> None:
    with opened("video", path=str(video(tmp_path / "v.mkv", count=25, fps=25)), max_fps=100) as seen:
        until("the first frame", lambda: seen.frames)
        until("the others, not taken", lambda: seen.collector.source.counts.received == 25)
        until("the end", lambda: "source ended" in seen.texts)
        counts = seen.collector.source.counts
        assert counts.dropped >= 8
        assert len(seen.frames) == 25 - counts.dropped
        starts = [frame.t_us - 40_000 * number for frame, number in zip(seen.frames, seen.values, strict=True)]
        assert max(starts) - min(starts) < 2_000, "the file's own times"


def test_frames_are_cut_resized_coloured_and_thinned(tmp_path: Path) -> None:
    path = str(video(tmp_path / "v.mkv", count=25))
    with opened(
        "video", path=path, roi=[0.5, 0, 0.5, 1], width=20, height=10, color="bgr", every=5, realtime=False
    ) as seen:
        until("the end", lambda: "source ended" in seen.texts)
        assert seen.values == [0, 5, 10, 15, 20]
        assert {(frame.shape, frame.color) for frame in seen.frames} == {((10, 20, 3), "bgr")}
        assert seen.collector.source.counts.skipped == 16, "before the last of them"


@pytest.mark.parametrize("content", [b"", b"no video at all" * 99, None], ids=["empty", "text", "absent"])
def test_a_file_that_is_no_video_is_reported_and_tried_again(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "v.mkv"
    if content is not None:
        path.write_bytes(content)
    with opened("video", path=str(path), realtime=False) as seen:
        until("the report", lambda: f"source lost: {path} cannot be opened" in seen.texts)
        video(tmp_path / "good.mkv", count=3).replace(path)
        until("the frames", lambda: len(seen.frames) == 3)


def test_a_damaged_file_gives_what_can_be_decoded(tmp_path: Path) -> None:
    content = bytearray(video(tmp_path / "v.mkv", count=25).read_bytes())
    half = len(content) // 2
    content[half : half + 40] = os.urandom(40)
    (tmp_path / "v.mkv").write_bytes(content)
    with opened("video", path=str(tmp_path / "v.mkv"), realtime=False) as seen:
        until("some frames, and an end", lambda: "source ended" in seen.texts or "source lost" in seen.texts)
        assert seen.frames


# -- camera --------------------------------------------------------------------------------------------


def test_a_camera_by_rtsp_delivers_and_its_frames_have_the_time_of_their_arrival() -> None:
    with camera(rtsp()) as running, opened("camera", url=f"rtsp://127.0.0.1:{running.port}/live", max_fps=50) as seen:
        before = now_us()
        until("frames", lambda: len(seen.frames) >= 5)
        times = [frame.t_us for frame in seen.frames]
        assert before - 5_000_000 < times[0]
        assert times[-1] <= now_us() + 1_000_000


def test_a_camera_that_goes_and_comes_back_is_found_again() -> None:
    port = free_port()
    with opened("camera", url=f"http://127.0.0.1:{port}/") as seen:
        until("the report", lambda: "cannot be opened" in seen.texts)
        with camera(mjpeg(ticking), port):
            until("frames", lambda: seen.frames)
        until("the loss", lambda: "has ended" in seen.texts or "was lost" in seen.texts)
        count = len(seen.frames)
        with camera(mjpeg(ticking), port):
            until("frames again", lambda: len(seen.frames) > count)
        assert seen.collector.source.counts.restarts == 0, "the process itself went on"


def test_a_camera_that_sends_garbage_or_stalls_is_reported_and_left() -> None:
    def garbage(connection: socket.socket, client: int) -> None:
        connection.sendall(os.urandom(20_000))

    def silent(connection: socket.socket, client: int) -> None:
        time.sleep(30)

    for serve in (garbage, silent):
        with (
            camera(serve) as running,
            opened("camera", url=f"http://127.0.0.1:{running.port}/", open_s=0.5, read_s=0.5) as seen,
        ):
            until("the report", lambda seen=seen: "source lost" in seen.texts)
            until("another try", lambda running=running: running.clients >= 2)
            assert not seen.frames


def test_a_camera_that_changes_its_resolution_gives_frames_of_the_same_size() -> None:
    def changing(client: int) -> Iterator[bytes]:
        for number in range(10_000):
            yield jpeg(100, *((64, 48) if number % 20 < 10 else (128, 96)))

    with (
        camera(mjpeg(changing)) as running,
        opened("camera", url=f"http://127.0.0.1:{running.port}/", max_fps=100, width=32, height=32) as seen,
    ):
        until("many frames", lambda: len(seen.frames) > 30)
        assert {frame.shape for frame in seen.frames} == {(32, 32, 3)}
        assert all(abs(frame.data[0] - 100) < 5 for frame in seen.frames)


def test_a_source_process_that_dies_or_hangs_is_started_again(tmp_path: Path) -> None:
    options = {"path": str(video(tmp_path / "v.mkv")), "loop": True}
    source = BackgroundSource("edge_agent.collectors.video:produce", lambda: options, stall_s=5.0)
    source.start()
    try:
        reasons: list[str] = []
        for number, said in ((signal.SIGSEGV, "ended with -11"), (signal.SIGSTOP, "said nothing for 5 s")):
            before = source.counts.received
            until("pictures", lambda before=before: source.counts.received > before)
            assert source.pid is not None
            os.kill(source.pid, number)
            until(
                said,
                lambda said=said: (
                    reasons.extend(one.text for one in source.take() if isinstance(one, State))
                    or said in "".join(reasons)
                ),
            )
        assert source.counts.restarts >= 1
    finally:
        source.close()
    assert source.pid is None


def test_the_source_process_ends_with_the_agent(tmp_path: Path) -> None:
    path = video(tmp_path / "v.mkv")
    program = (
        "import sys,time\nfrom edge_agent.collectors import video\nfrom edge_agent.config import CollectorTable\n"
        f"t = CollectorTable(kind='video', name='v', period_s=None, options={{'path': '{path}', 'loop': True}})\n"
        "c = video.open_collector(t)\nwhile not list(c.collect(1)): time.sleep(.05)\n"
        "print(c.source.pid, flush=True)\ntime.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as agent:
        assert agent.stdout is not None
        child = int(agent.stdout.readline())
        agent.kill()
    until("the end of the source process", lambda: not Path(f"/proc/{child}").exists())


def test_collecting_never_waits_for_the_camera() -> None:
    with (
        camera(lambda _connection, _client: time.sleep(30)) as running,
        opened("camera", url=f"http://127.0.0.1:{running.port}/") as seen,
    ):
        started = time.monotonic()
        for _ in range(50):
            seen.read()
        assert time.monotonic() - started < 10, "fifty looks at a camera that says nothing for half a minute"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "either `device` or `url`"),
        ({"device": "/dev/video0", "url": "rtsp://a/"}, "either `device` or `url`"),
        ({"url": "ftp://a/b"}, "no camera's address"),
        ({"url": "rtsp://user:secret@a/b"}, "holds a login"),
        ({"url": "rtsp://a/b", "roi": [0.5, 0, 0.6, 1]}, "roi must be"),
        ({"url": "rtsp://a/b", "width": 10}, "width and height must be given together"),
        ({"url": "rtsp://a/b", "max_fps": 0}, "max_fps must be within"),
        ({"url": "rtsp://a/b", "color": "cmyk"}, "allowed: gray, rgb, bgr"),
    ],
)
def test_wrong_options_of_a_camera_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        cameras.open_collector(table("camera", **options))
    assert "secret" not in str(caught.value)


def test_a_password_is_in_no_report(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("h2-secret\n")
    with camera(lambda _connection, _client: None) as running:
        url = f"rtsp://127.0.0.1:{running.port}/live?token=h2-secret"
        with opened("camera", url=url, user="anna", password_file=str(tmp_path / "password")) as seen:
            until("the report", lambda: "source lost" in seen.texts)
            assert "h2-secret" not in seen.texts
            assert "unencrypted" in "".join(seen.collector.warnings())


def test_without_pyav_the_cure_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(ConfigError, match=r"tidegate\[camera\]"):
        cameras.open_collector(table("camera", url="rtsp://a/b"))


def test_a_device_of_this_machine_delivers() -> None:
    devices = sorted(Path("/dev").glob("video*"))
    if not devices:
        pytest.skip("not allowed here: this machine has no /dev/video*")
    with opened("camera", device=str(devices[0])) as seen:
        until("a frame", lambda: seen.frames)


# -- folder --------------------------------------------------------------------------------------------


def drop(path: Path, content: bytes, at: int) -> None:
    path.write_bytes(content)
    os.utime(path, (at, at))


def test_files_come_once_each_oldest_first_and_not_again_after_a_restart(tmp_path: Path) -> None:
    for number, name in enumerate("dbac"):
        drop(tmp_path / f"{name}.png", png(10 * number), 1_000 + number)
    with opened("folder", path=str(tmp_path), settle_s=0.1) as seen:
        until("four frames", lambda: len(seen.frames) == 4)
        assert seen.values == [0, 1, 2, 3]
        assert [frame.t_us for frame in seen.frames] == [1_000_000_000 + n * 1_000_000 for n in range(4)]
        drop(tmp_path / "old.png", png(50), 500)
        until("an older file that came late", lambda: len(seen.frames) == 5)
        stored = seen.collector.checkpoint()
    drop(tmp_path / "new.png", png(70), 2_000)
    collector = folder.open_collector(table("folder", path=str(tmp_path), settle_s=0.1))
    collector.resume(stored)
    seen = Watched(collector)
    until("the new file", lambda: seen.frames)
    time.sleep(0.4)
    assert seen.values == [7]
    (tmp_path / "old.png").unlink()
    until("forgetting the file that is gone", lambda: seen.read() or len(collector.checkpoint()) == 5 * 8)
    collector.close()


def test_broken_files_are_reported_once_and_the_others_come(tmp_path: Path) -> None:
    drop(tmp_path / "a.jpg", b"", 1)
    drop(tmp_path / "b.jpg", jpeg(30)[:200], 2)
    drop(tmp_path / "c.jpg", b"hello" * 100, 3)
    drop(tmp_path / "d.jpg", jpeg(40), 4)
    drop(tmp_path / ".hidden.jpg", jpeg(50), 5)
    (tmp_path / "e.jpg").mkdir()
    with opened("folder", path=str(tmp_path), settle_s=0.1) as seen:
        until("the good one", lambda: 4 in seen.values)
        assert "image left out: a.jpg" in seen.texts
        assert "image left out: c.jpg" in seen.texts
        assert seen.texts.count("c.jpg") == 1
        assert 5 not in seen.values


def test_a_file_that_crashes_the_decoder_is_tried_once(tmp_path: Path) -> None:
    drop(tmp_path / "a.png", png(10), 1)
    with opened("folder", path=str(tmp_path), settle_s=0.1) as seen:
        until("the first", lambda: seen.values == [1])
        seen.collector._tried = "7/8/evil.png"
        os.kill(seen.collector.source.pid, signal.SIGSEGV)
        until("its report", lambda: "image left out: evil.png: the source process ended with -11" in seen.texts)
        assert folder.digest("7/8/evil.png") in seen.collector._done


# -- mqtt ----------------------------------------------------------------------------------------------


def test_images_arrive_by_mqtt_and_what_is_none_is_left_out(tmp_path: Path, publish: Callable[..., None]) -> None:
    broker = mosquitto(tmp_path / "broker")
    broker.start()
    try:
        options = {"address": f"127.0.0.1:{broker.port}", "topic": "line/+/image", "width": 8, "height": 8}
        examine_collector(waits("mqtt_image", options, lambda: publish(broker.port, "line/1/image", jpeg(90))))
        with opened("mqtt_image", **options) as seen:
            until("a frame", lambda: publish(broker.port, "line/1/image", png(120)) or seen.frames)
            publish(broker.port, "line/2/image", b"no image")
            until("the report", lambda: "image left out: line/2/image: a message of 8 bytes" in seen.texts)
            assert set(seen.values) == {12}
            broker.kill()
            until("the loss", lambda: "source lost" in seen.texts)
            broker.start()
            count = len(seen.frames)
            until("a frame again", lambda: publish(broker.port, "line/1/image", png(10)) or len(seen.frames) > count)
    finally:
        broker.stop()


@pytest.fixture
def publish() -> Callable[..., None]:
    import paho.mqtt.publish as paho

    def send(port: int, topic: str, payload: bytes) -> None:
        paho.single(topic, payload, qos=1, hostname="127.0.0.1", port=port)

    return send
