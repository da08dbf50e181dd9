"""The child process of engine `llama`: llama.cpp's server on loopback, until its standard input ends.

It reads one JSON line with what to serve, the API key among it (which therefore stands in no argument list and no
environment), and answers with one JSON line: the address, or what is wrong. When the parent dies, the input ends.
"""

from __future__ import annotations

import hashlib
import os
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

PROMPT_CACHE_MIB = 512
HTTP_THREADS = 64
"""Each waiting request holds one."""
NICE = 5
"""The hub's own work goes first."""
OOM_SCORE_ADJ = 500
"""When memory runs out the kernel ends this process, not the hub, which starts it again."""


class Serve(msgspec.Struct, frozen=True, kw_only=True):
    """What to serve."""

    path: str
    sha256: str
    key: str
    alias: str
    parallel: int
    context: int
    threads: int
    gpu_layers: int


class Served(msgspec.Struct, frozen=True, kw_only=True):
    """The answer. `permanent`: an operator must act."""

    address: str = ""
    error: str = ""
    permanent: bool = False


def main() -> int:
    """Serve until standard input ends."""
    wanted = msgspec.json.decode(sys.stdin.buffer.readline(), type=Serve)
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    _give_way()
    if problem := file_problem(Path(wanted.path), wanted.sha256):
        return _answer(Served(error=problem, permanent=True))
    try:
        server = _serve(wanted)
    except ModuleNotFoundError as error:
        return _answer(Served(error=f"the package '{error.name}' is not installed", permanent=True))
    except (RuntimeError, ValueError, OSError) as error:
        return _answer(Served(error=f"llama.cpp cannot load it ({str(error)[:300]})", permanent=True))
    _answer(Served(address=server.listening_address))
    threading.Event().wait()
    return 0


def _give_way() -> None:
    """Let the hub go first. A sandbox may forbid it."""
    with suppress(OSError):
        os.nice(NICE)
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(str(OOM_SCORE_ADJ), "ascii")


def file_problem(path: Path, sha256: str) -> str:
    """Why the file is not the pinned one, or ''. Changed weights load and babble: only the digest tells."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while part := file.read(1 << 22):
                digest.update(part)
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    found = digest.hexdigest()
    return "" if found == sha256 else f"has SHA-256 {found}, not the configured one"


def _serve(wanted: Serve) -> Any:
    from xllamacpp import CommonParams, Server  # noqa: PLC0415 - after the file is known to be the right one

    params = CommonParams()
    params.model.path = wanted.path
    params.model_alias = {wanted.alias}
    params.n_parallel = wanted.parallel
    params.n_ctx = wanted.parallel * wanted.context
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = wanted.threads
    params.cpuparams.poll = params.cpuparams_batch.poll = 0
    params.n_gpu_layers = wanted.gpu_layers
    params.hostnames, params.port = ["127.0.0.1"], 0
    params.api_keys = [wanted.key]
    params.use_jinja, params.ui, params.offline = True, False, True
    params.endpoint_metrics, params.endpoint_slots = True, False
    params.cache_ram_mib, params.n_threads_http, params.verbosity = PROMPT_CACHE_MIB, HTTP_THREADS, 1
    return Server(params)


def _answer(served: Served) -> int:
    sys.stdout.buffer.write(msgspec.json.encode(served) + b"\n")
    sys.stdout.buffer.flush()
    return 1 if served.error else 0


def _exit_with_parent() -> None:
    while sys.stdin.buffer.read(4096):
        pass
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
