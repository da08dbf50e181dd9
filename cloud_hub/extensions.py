"""Loads the plug-ins that the settings name: expert models, the language model engine and the scaler."""

from __future__ import annotations

from cloud_hub.autoscale import Scaler
from cloud_hub.inference.engines import Engine
from cloud_hub.inference.experts import Expert
from cloud_hub.settings import Settings
from shared import plugins
from shared.errors import ConfigError, ModelError


def open_experts(settings: Settings) -> dict[str, Expert]:
    """Load the expert models, by the model name that devices use; raises ConfigError."""
    if not settings.experts.bundles:
        return {}
    from cloud_hub.inference.experts.onnx import open_expert  # noqa: PLC0415 - ONNX Runtime is optional

    experts: dict[str, Expert] = {}
    for model, folder in settings.experts.bundles.items():
        try:
            experts[model] = open_expert(folder)
        except ModelError as error:
            cure = "Give the folder of a model bundle"
            raise ConfigError(f"experts.bundles.{model}", str(error), cure) from error
    return experts


def open_engine(settings: Settings) -> Engine | None:
    """Load the language model engine, or None if only the rules diagnose; raises ConfigError."""
    glm = settings.glm
    if not glm.url:
        return None
    options = glm.model_dump(exclude={"kind"}, exclude_defaults=True)
    engine: Engine = plugins.load(plugins.ENGINES, glm.kind, "glm.kind")(options)
    return engine


def open_scaler(settings: Settings) -> Scaler | None:
    """Load the scaler, or None if autoscaling is off; raises ConfigError."""
    autoscale = settings.autoscale
    if not autoscale.kind:
        return None
    scaler: Scaler = plugins.load(plugins.SCALERS, autoscale.kind, "autoscale.kind")(autoscale.options)
    return scaler
