"""Opens the experts of the settings: bundles, here or on an inference server, and large models with vision."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cloud_hub.inference.experts import Expert
from cloud_hub.settings import Settings
from cloud_hub.settings.inference import Pool
from shared.errors import ConfigError, ModelError

if TYPE_CHECKING:
    from cloud_hub.inference.gateway.service import Gateway


def check_experts(settings: Settings) -> None:
    """Open each bundle and look each pool up; raises ConfigError."""
    for name in settings.experts.bundles:
        _bundle(settings, name)
    for name in settings.experts.vision:
        _pool(settings, name)


def load_local(settings: Settings) -> dict[str, Expert]:
    """Experts that run in the hub's process, by the device's name of the model; raises ConfigError."""
    experts = settings.experts
    return {name: _bundle(settings, name) for name in experts.bundles if name not in experts.servers}


def load_remote(settings: Settings, gateway: Gateway | None) -> dict[str, Expert]:
    """Experts that another machine runs, which may be slow or away; raises ConfigError."""
    experts = settings.experts
    return {name: _bundle(settings, name) for name in experts.servers} | {
        name: _vision(settings, gateway, name) for name in experts.vision
    }


def _bundle(settings: Settings, name: str) -> Expert:
    from cloud_hub.inference.experts.onnx import open_expert  # noqa: PLC0415 - ONNX Runtime, only where it is used

    experts = settings.experts
    try:
        return open_expert(
            experts.bundles[name], max_batch=experts.max_batch, server=experts.servers.get(name),
            place=f"experts.servers.{name}",
        )  # fmt: skip
    except ModelError as error:
        cure = "Give the folder of a model bundle"
        raise ConfigError(f"experts.bundles.{name}", str(error), cure) from error


def _vision(settings: Settings, gateway: Gateway | None, name: str) -> Expert:
    from cloud_hub.inference.experts.vision import VisionExpert  # noqa: PLC0415 - httpx

    pool = _pool(settings, name)
    assert gateway is not None  # there is one wherever there is a pool
    return VisionExpert(gateway, settings.experts.vision[name], pool)


def _pool(settings: Settings, name: str) -> Pool:
    """The pool that is asked; raises ConfigError if it can answer nothing."""
    wanted, place = settings.experts.vision[name], f"experts.vision.{name}"
    pool = next((pool for pool in settings.inference.pools if pool.name == wanted.pool), None)
    if pool is None:
        raise ConfigError(f"{place}.pool", f"there is no pool '{wanted.pool}'", "Name a pool of [[inference.pools]]")
    if pool.redact:
        cure = f"Set `redact = false` in pool '{pool.name}', if frames may go there"
        raise ConfigError(f"{place}.pool", f"pool '{pool.name}' redacts, and images cannot be redacted", cure)
    if wanted.request_class not in pool.classes:
        cure = f"Name one of its classes: {', '.join(pool.classes)}"
        reason = f"pool '{pool.name}' does not serve class {wanted.request_class}"
        raise ConfigError(f"{place}.request_class", reason, cure)
    return pool
