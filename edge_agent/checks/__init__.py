"""`tidegate-edge check`: tests everything that `run` needs, with time limits and without side effects.

A problem prevents the agent from starting or working. A warning does not: an agent also starts without a network.
"""

from __future__ import annotations

import hashlib
import queue
from base64 import urlsafe_b64encode
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from edge_agent import clock
from edge_agent.checks.broker_connection import check_broker_connection
from edge_agent.collectors import Collector, Frame
from edge_agent.config import Config, ModelTable, read
from edge_agent.models.child import Failed, InferenceChild, InferenceResult, WorkerMessage
from edge_agent.models.core.gating import ResultGate
from edge_agent.pipeline.core.limit_rules import LimitRules
from edge_agent.pipeline.sampler import open_collector
from edge_agent.runtime import health
from shared import plugins
from shared.device_profile import DeviceProfile
from shared.errors import ConfigError, ModelError, NotReady, TidegateError
from shared.models.bundle import load
from shared.process.checks import Findings, run_with_timeout, write_error

OPEN_S = 10.0
"""Time limit for a collector to open and to return its first frame."""
MODEL_S = 60.0


def run_checks(path: Path) -> Findings:
    """Run all checks on the configuration at `path`."""
    found = Findings()
    try:
        config, profile = read(path)
    except ConfigError as error:
        found.problems.append(str(error))
        return found
    found.problems += [*_state(Path(config.device.state_dir)), *_bounds(config)]
    collectors = _collectors(config, found)
    _models(config, collectors, found)
    _sources(config, collectors, found)
    for collector in collectors.values():
        collector.close()
    problems, warnings = check_broker_connection(config)
    found.problems += problems
    found.warnings += warnings
    found.warnings += _hardware(profile)
    found.problems += check_installation()
    return found


# -- the device itself -------------------------------------------------------------------------------


def _state(folder: Path) -> list[str]:
    """Check that the current user can write or create the state directory."""
    if reason := write_error(folder):
        cure = "Give a folder of the agent's user, and run `check` as that user"
        return [f"device.state_dir: {folder} cannot be written ({reason}). {cure}"]
    return []


def _bounds(config: Config) -> list[str]:
    """Limits and settings outside of the site's hard bounds, with which the agent does not start."""
    found = []
    if reason := LimitRules(config.hard_limits, {}, config.hard_alarm_rules).use_limits(config.limits):
        found.append(f"limits: {reason}. Keep [[limits]] within [[hard_limits]]")
    if reason := config.hard_settings.refusal(config.settings):
        found.append(f"settings: {reason}. Keep [settings] within [hard_settings]")
    return found


def _hardware(profile: DeviceProfile) -> list[str]:
    return [
        f"device.profile: {profile.name} has '{part}', which this machine lacks: {gives}. Choose another profile, "
        "or see to the hardware"
        for part, gives in health.missing(profile).items()
    ]


# -- collectors and rules ----------------------------------------------------------------------------


def _collectors(config: Config, found: Findings) -> dict[str, Collector]:
    opened = {}
    for table in config.collectors:
        place = f"collector '{table.name}'"
        try:
            collector = run_with_timeout(OPEN_S, lambda table=table: open_collector(table))  # type: ignore[misc]
        except TimeoutError:
            found.problems.append(f"{place}: does not open within {OPEN_S:g} s. See what its `kind` waits for")
        except ConfigError as error:
            found.problems.append(str(error))
        else:
            opened[table.name] = collector
            found.warnings += [f"{place}: {text}" for text in getattr(collector, "warnings", list)()]
    return opened


def _sources(config: Config, collectors: dict[str, Collector], found: Findings) -> None:
    """Warn of rules whose metric no collector or model declares. Skipped if a collector could not be opened."""
    if len(collectors) < len(config.collectors):
        return
    declared = {metric.name for collector in collectors.values() for metric in collector.metrics}
    declared |= {metric.name for model in config.models for metric in ResultGate(model.name).metrics}
    rules = LimitRules(config.hard_limits, {}, config.hard_alarm_rules)
    rules.use_limits(config.limits)
    rules.use_rules(config.alarm_rules)
    for metric in rules.without_source(declared | {metric.name for metric in health.METRICS}):
        cure = "Correct its name (the birth lists all metrics), or add the collector that gives it"
        found.warnings.append(f"limits: no collector or model here declares '{metric}': never judged. {cure}")


# -- models ------------------------------------------------------------------------------------------


def _models(config: Config, collectors: dict[str, Collector], found: Findings) -> None:
    for table in config.models:
        try:
            variant = next(iter(load(Path(table.bundle)).manifest.variants.values()))
            plugins.load(plugins.RUNNERS, variant.runners[0], f"model '{table.name}'")
            frame = _frame(table, collectors)
            reason = _run_model(table, frame)
        except NotReady as error:
            found.warnings.append(f"model '{table.name}': not tried with a frame ({error})")
        except TidegateError as error:
            found.problems.append(f"model '{table.name}': {error}")
        else:
            if reason:
                shown = f"a frame of {frame.shape} of '{table.frames}': " if frame else ""
                cure = "Give it a bundle that takes the frames of this collector"
                found.problems.append(f"model '{table.name}': {shown}{reason}. {cure}")


def _frame(table: ModelTable, collectors: dict[str, Collector]) -> Frame | None:
    """One frame of the model's collector; None if the collector could not be opened, which is reported elsewhere."""
    collector = collectors.get(table.frames)
    if collector is None:
        return None
    try:
        readings = run_with_timeout(OPEN_S, lambda: list(collector.collect(clock.now_us())))
    except TimeoutError as error:
        raise NotReady(f"collector '{table.frames}' gave nothing within {OPEN_S:g} s") from error
    frame = next((reading for reading in readings if isinstance(reading, Frame)), None)
    if frame is None:
        raise ModelError(f"collector '{table.frames}' gives no frames. Set `frames` to a collector of images")
    return frame


def _run_model(table: ModelTable, frame: Frame | None) -> str:
    """Run the model on `frame` in a separate process, as in the agent; returns why it fails, or ''."""
    messages: queue.Queue[WorkerMessage | None] = queue.Queue()
    child = InferenceChild(table.bundle, on_message=messages.put, on_end=lambda: messages.put(None))
    try:
        first = messages.get(timeout=MODEL_S)
        if first is None:
            return "its process ended at the start"
        if isinstance(first, Failed):
            return first.reason
        if frame is None:
            return ""
        child.submit(frame)
        answer = messages.get(timeout=table.watchdog_s)
        if isinstance(answer, InferenceResult):
            return "" if answer.result is not None else answer.reason
        return "its process ended at the first frame"
    except queue.Empty:
        return "it did not answer in time"
    finally:
        child.end()


def check_installation() -> list[str]:
    """Compare installed files with the hashes of the wheel, because pip silently overwrites packages of equal name."""
    try:
        files = distribution("tidegate").files or []
    except PackageNotFoundError:
        return ["tidegate is not installed in this environment. Install it: pip install 'tidegate[edge]'"]
    found = []
    for entry in files:
        if entry.hash is None or entry.hash.mode != "sha256" or "__pycache__" in entry.parts:
            continue
        file = Path(str(entry.locate()))
        digest = (
            urlsafe_b64encode(hashlib.sha256(file.read_bytes()).digest()).rstrip(b"=").decode()
            if file.is_file()
            else ""
        )
        if digest != entry.hash.value:
            found.append(f"{file} is not the file that was installed. Reinstall tidegate into a venv of its own")
    return found
