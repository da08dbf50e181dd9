"""A hub's REST with a gateway: `python -m benchmarks.glm_hub PORT FOLDER MODEL ADDRESS...`. Writes FOLDER/token.

An address that ends in .gguf is a file for the embedded engine.
"""

from __future__ import annotations

import gc
import hashlib
import sys
from pathlib import Path
from typing import Any

import uvicorn

from cloud_hub.access import tokens
from cloud_hub.api import http_server
from cloud_hub.api.dependencies import Hub
from cloud_hub.api.routes import create_rest_app
from cloud_hub.app import open_actions
from cloud_hub.cli.local import GC_OBJECTS
from cloud_hub.clock import now_us
from cloud_hub.database.sessions import Database
from cloud_hub.inference.gateway.build import open_gateway
from cloud_hub.inference.gateway.worker import workers
from cloud_hub.runtime.worker import BackgroundWorker
from cloud_hub.settings import Rest, Settings
from cloud_hub.settings.inference import Inference


def main(port: int, folder: Path, model: str, addresses: list[str]) -> None:
    """Serve until killed."""
    db = Database(f"sqlite:///{folder / 'hub.sqlite'}")
    pool = _embedded(addresses[0]) if addresses[0].endswith(".gguf") else {"addresses": addresses, "model": model}
    pool |= {"name": "pool", "max_concurrent": 1024}
    settings = Settings(
        state_dir=str(folder), inference=Inference.model_validate({"pools": [pool]}),
        rest=Rest(port=port, max_connections=2000, max_connections_per_address=2000),
    )  # fmt: skip
    with db.write() as session:
        (folder / "token").write_text(tokens.create(session, "bench", "inference", now_us(), "benchmark"))
    gateway = open_gateway(db, settings.inference)
    for spec in workers(db, gateway, settings.inference, lambda name: None):
        BackgroundWorker(spec, lambda result: None).start()
    app = create_rest_app()
    app.state.hub = Hub(
        settings=settings, db=db, publish=lambda messages: None, notify=lambda name: None, connected=lambda: True,
        actions=open_actions(settings), gateway=gateway,
    )  # fmt: skip
    gc.freeze()  # as `tidegate-hub serve` does
    gc.set_threshold(GC_OBJECTS, 10, 10)
    uvicorn.Server(http_server.config(app, settings.rest)).run()


def _embedded(file: str) -> dict[str, Any]:
    digest = hashlib.sha256(Path(file).read_bytes()).hexdigest()
    return {"engine": "llama", "options": {"path": file, "sha256": digest, "parallel": 32, "context": 512}}


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], sys.argv[4:])
