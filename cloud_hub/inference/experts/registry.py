"""Opens the experts of the settings: bundles, here or on an inference server, and large models with vision."""

from __future__ import annotations

from cloud_hub.inference.experts import Expert
from cloud_hub.settings import Settings
from shared.errors import ConfigError, ModelError


def load_experts(settings: Settings) -> dict[str, Expert]:
    """All experts, by the device's name of the model; raises ConfigError."""
    return load_local(settings) | load_remote(settings)


def load_local(settings: Settings) -> dict[str, Expert]:
    """Experts that run in the hub's process."""
    experts = settings.experts
    return {name: _bundle(settings, name) for name in experts.bundles if name not in experts.servers}


def load_remote(settings: Settings) -> dict[str, Expert]:
    """Experts that another machine runs: they may be slow or away."""
    experts = settings.experts
    return {name: _bundle(settings, name) for name in experts.servers} | {
        name: _vision(settings, name) for name in experts.vision
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


def _vision(settings: Settings, name: str) -> Expert:
    from cloud_hub.inference.engines.pools import open_engines  # noqa: PLC0415 - httpx
    from cloud_hub.inference.experts.vision import VisionExpert  # noqa: PLC0415

    wanted = settings.experts.vision[name]
    pool = next((one for one in settings.inference.pools if one.name == wanted.pool), None)
    if pool is None:
        cure = "Name a pool of [[inference.pools]]"
        raise ConfigError(f"experts.vision.{name}.pool", f"there is no pool '{wanted.pool}'", cure)
    if pool.sites:  # frames of every device would go there
        cure = "Name a pool without `sites`: an expert answers the devices of every site"
        raise ConfigError(f"experts.vision.{name}.pool", f"pool '{pool.name}' is for {', '.join(pool.sites)}", cure)
    return VisionExpert(open_engines(pool), wanted, price_in=pool.price_in, price_out=pool.price_out)
