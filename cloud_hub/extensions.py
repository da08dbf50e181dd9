"""Opens what the settings name and others may bring: experts, the engine of the incident desk, the scaler."""

from __future__ import annotations

from cloud_hub.autoscale import Scaler
from cloud_hub.inference.engines import Engine
from cloud_hub.inference.experts import Expert
from cloud_hub.settings import Settings
from shared import plugins
from shared.errors import ConfigError, ModelError


def open_experts(settings: Settings) -> dict[str, Expert]:
    """The experts by the name that devices give the model; raises ConfigError."""
    if not settings.experts.bundles:
        return {}
    from cloud_hub.inference.experts.onnx import open_expert  # noqa: PLC0415 - ONNX Runtime, where it is wanted

    experts: dict[str, Expert] = {}
    for model, folder in settings.experts.bundles.items():
        try:
            experts[model] = open_expert(folder)
        except ModelError as error:
            cure = "Give the folder of a model bundle"
            raise ConfigError(f"experts.bundles.{model}", str(error), cure) from error
    return experts


def open_engine(settings: Settings) -> Engine | None:
    """The language model, or None where the rules answer alone; raises ConfigError."""
    glm = settings.glm
    if not glm.url:
        return None
    options = glm.model_dump(exclude={"kind"}, exclude_defaults=True)
    engine: Engine = plugins.load(plugins.ENGINES, glm.kind, "glm.kind")(options)
    return engine


def open_scaler(settings: Settings) -> Scaler | None:
    """The scaler, or None; raises ConfigError."""
    wanted = settings.autoscale
    if not wanted.kind:
        return None
    scaler: Scaler = plugins.load(plugins.SCALERS, wanted.kind, "autoscale.kind")(wanted.options)
    return scaler
