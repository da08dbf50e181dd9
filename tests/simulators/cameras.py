"""Cameras on loopback, and video and image files, made by PyAV: MJPEG over HTTP and RTSP with an MPEG transport stream.

Each image is plain and its grey value is ten times its number, so that a test sees which ones arrived.
"""

from __future__ import annotations

import contextlib
import io
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import av
import numpy as np

PACKET = 188
JPEG_HEAD = b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n"


def picture(value: int, width: int = 64, height: int = 48) -> Any:
    """A plain grey picture."""
    return np.full((height, width, 3), value % 256, np.uint8)


def encoded(
    pictures: list[Any], form: str, codec: str, pixels: str = "yuv420p", fps: int = 25, **options: str
) -> bytes:
    """A file of these pictures in container `form`."""
    target = io.BytesIO()
    with av.open(target, "w", format=form) as container:
        stream = container.add_stream(codec, rate=fps, options=options)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = pixels
        for one in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(one, format="rgb24")))
        container.mux(stream.encode(None))
    return target.getvalue()


def jpeg(value: int, width: int = 64, height: int = 48) -> bytes:
    """A JPEG file."""
    return encoded([picture(value, width, height)], "mjpeg", "mjpeg", "yuvj420p")


def png(value: int, width: int = 64, height: int = 48) -> bytes:
    """A PNG file."""
    return encoded([picture(value, width, height)], "image2pipe", "png", "rgb24")


def video(path: Path, count: int = 20, fps: int = 25, width: int = 64, height: int = 48) -> Path:
    """An H.264 file whose frame n has the grey value 10 n."""
    path.write_bytes(encoded([picture(10 * n, width, height) for n in range(count)], "matroska", "libx264", fps=fps))
    return path


class Camera:
    """A server on loopback that calls `serve(connection)` for each client in a thread of its own."""

    def __init__(self, serve: Callable[[socket.socket, int], None], port: int = 0) -> None:
        self._serve, self.clients = serve, 0
        self._listener = socket.create_server(("127.0.0.1", port))
        self.port: int = self._listener.getsockname()[1]
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self._open.append(connection)
                self.clients += 1
                threading.Thread(target=self._one, args=(connection, self.clients), daemon=True).start()

    def _one(self, connection: socket.socket, number: int) -> None:
        with contextlib.suppress(OSError), connection:
            self._serve(connection, number)

    def stop(self) -> None:
        """Unplug it: all connections break."""
        for one in [self._listener, *self._open]:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()


@contextmanager
def camera(serve: Callable[[socket.socket, int], None], port: int = 0) -> Iterator[Camera]:
    """A running camera."""
    running = Camera(serve, port)
    try:
        yield running
    finally:
        running.stop()


def mjpeg(images: Callable[[int], Iterator[bytes]], fps: float = 50) -> Callable[[socket.socket, int], None]:
    """Serve what `images(client)` yields as MJPEG over HTTP."""

    def serve(connection: socket.socket, client: int) -> None:
        connection.recv(4096)
        connection.sendall(b"HTTP/1.0 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=frame\r\n\r\n")
        for image in images(client):
            connection.sendall(JPEG_HEAD % len(image) + image + b"\r\n")
            time.sleep(1 / fps)

    return serve


def rtsp(count: int = 10_000, fps: int = 25) -> Callable[[socket.socket, int], None]:
    """Serve RTSP 1.0 (RFC 2326): an MPEG transport stream (RFC 2250, payload 33) interleaved in the connection."""
    stream = encoded([picture(10 * n) for n in range(25)], "mpegts", "mpeg2video", fps=fps, g="5")

    def serve(connection: socket.socket, _client: int) -> None:
        reader = connection.makefile("rb")
        while _answer(connection, reader):
            pass
        for number in range(count):
            part = stream[number * 7 * PACKET % len(stream) :][: 7 * PACKET]
            rtp = struct.pack("!BBHII", 0x80, 33, number % 65536, number * 90, 1) + part
            connection.sendall(b"$\0" + struct.pack("!H", len(rtp)) + rtp)
            time.sleep(0.002)

    return serve


def _answer(connection: socket.socket, reader: Any) -> bool:
    """Answer one request; False after PLAY."""
    method = reader.readline().split(b" ")[0].decode()
    headers = dict(iter(lambda: _header(reader), None))
    body = b"v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=x\r\nt=0 0\r\nm=video 0 RTP/AVP 33\r\na=control:track0\r\n"
    more = {
        "OPTIONS": "Public: DESCRIBE, SETUP, PLAY\r\n",
        "DESCRIBE": f"Content-Type: application/sdp\r\nContent-Length: {len(body)}\r\n",
        "SETUP": "Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\nSession: 1\r\n",
    }.get(method, "Session: 1\r\n")
    if not method:
        raise OSError("gone")
    answer = f"RTSP/1.0 200 OK\r\nCSeq: {headers.get('cseq', '1')}\r\n{more}\r\n".encode()
    connection.sendall(answer + (body if method == "DESCRIBE" else b""))
    return method != "PLAY"


def _header(reader: Any) -> tuple[str, str] | None:
    name, _, value = reader.readline().decode().strip().partition(":")
    return (name.lower(), value.strip()) if name else None
