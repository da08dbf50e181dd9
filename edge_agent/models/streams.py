"""All models of this device: makes their streams from the configuration and connects chains of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from edge_agent import clock
from edge_agent.collectors import ModelInput
from edge_agent.config import Config, ModelTable
from edge_agent.models.pool import EnginePool
from edge_agent.models.stream import ModelStream
from edge_agent.models.wire import ModelSpec
from shared.device_profile import DeviceProfile
from shared.protocol.messages import ModelOutput

Post = Callable[[Callable[[], None]], None]


def model_spec(table: ModelTable, config: Config, profile: DeviceProfile) -> ModelSpec:
    """What the inference process of a model needs to know; what the table leaves open is the device profile's.

    Paths are absolute: the inference process works in another folder.
    """
    shared, defaults = config.inference, profile.models
    cache_dir = shared.cache_dir or str(Path(config.device.state_dir) / "engines")
    libraries = {name: str(Path(path).absolute()) if "/" in path else path for name, path in shared.libraries.items()}
    return ModelSpec(
        bundle=str(Path(table.bundle).absolute()), variant=table.variant, variants=tuple(defaults.variants),
        providers=tuple(table.providers or defaults.providers), batch=table.batch or defaults.batch,
        max_wait_ms=table.max_wait_ms, threads=shared.threads,
        cache_dir=str(Path(cache_dir).absolute()), libraries=tuple(sorted(libraries.items())),
        version_compatible=shared.version_compatible,
        watchdog_s=table.watchdog_s, load_s=table.load_s, memory_mb=table.memory_mb,
    )  # fmt: skip


class ModelStreams:
    """The streams of `[[models]]`. `post` runs a task in the agent's thread; the others are as in ModelStream."""

    def __init__(
        self,
        config: Config,
        profile: DeviceProfile,
        post: Post,
        deliver: Callable[[list[Any]], None],
        changed: Callable[[], None],
        output: Callable[[ModelOutput], object],
    ) -> None:
        self._pool = EnginePool(post, config.inference.memory_mb or profile.models.memory_mb)
        names = {table.name for table in config.models}
        self.streams = [
            ModelStream(
                table, model_spec(table, config, profile), self._pool, deliver, changed, output,
                chained=table.frames in names,
            )
            for table in config.models
        ]  # fmt: skip
        for stream in self.streams:
            stream.consumers = [other for other in self.streams if other.frames == stream.name]

    @property
    def feeds(self) -> Mapping[str, Sequence[Callable[[ModelInput], None]]]:
        """The consumers of each collector's frames."""
        sources = {stream.frames for stream in self.streams} - {stream.name for stream in self.streams}
        return {source: [stream.frame for stream in self.streams if stream.frames == source] for source in sources}

    def start(self) -> None:
        """Load the models, in order, as far as the memory budget allows."""
        for stream in self.streams:
            stream.start()

    def tick(self) -> None:
        """Called once a second."""
        self._pool.tick(clock.monotonic_s())
        for stream in self.streams:
            stream.tick(clock.now_us())

    def stop(self) -> None:
        """End all inference processes; what waits is escalated."""
        for stream in self.streams:
            stream.stop()
        self._pool.stop()
