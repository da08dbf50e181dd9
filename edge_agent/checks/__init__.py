"""`tidegate-edge check`: tries what `run` will need, in bounded time, and leaves nothing behind.

A problem stops the start, or makes it pointless. A warning is told and no more: a device starts without its network.
"""

from __future__ import annotations

import hashlib
import queue
from base64 import urlsafe_b64encode
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from edge_agent import clock
from edge_agent.checks.link import link
from edge_agent.collectors import Collector, Frame
from edge_agent.config import Config, ModelTable, read
from edge_agent.models.child import Failed, InferenceChild, InferenceResult, WorkerMessage
from edge_agent.models.core.gating import ResultGate
from edge_agent.pipeline.core.limit_rules import LimitRules
from edge_agent.pipeline.sampler import open_collector
from edge_agent.runtime import health
from shared import plugins
from shared.bundle import load
from shared.checks import Findings, run_with_timeout, write_error
from shared.errors import ConfigError, ModelError, NotReady, TidegateError
from shared.profile import DeviceProfile

OPEN_S = 10.0
"""So long a collector may take to open and to give its first frame."""
MODEL_S = 60.0


def run_checks(path: Path) -> Findings:
    """Everything that can be known before the start."""
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
    problems, warnings = link(config)
    found.problems += problems
    found.warnings += warnings
    found.warnings += _hardware(profile)
    found.problems += check_installation()
    return found


# -- the device itself -------------------------------------------------------------------------------


def _state(folder: Path) -> list[str]:
    """Whether the state folder can be written, or made, by whoever runs this."""
    if reason := write_error(folder):
        cure = "Give a folder of the agent's user, and run `check` as that user"
        return [f"device.state_dir: {folder} cannot be written ({reason}). {cure}"]
    return []


def _bounds(config: Config) -> list[str]:
    """What the agent itself would refuse to start with."""
    found = []
    if reason := LimitRules(config.hard_limits, {}, config.hard_watches).use_limits(config.limits):
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


# -- what it reads -----------------------------------------------------------------------------------


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
    """Rules for metrics that nothing here gives; not told while a collector is missing that might give them."""
    if len(collectors) < len(config.collectors):
        return
    declared = {metric.name for collector in collectors.values() for metric in collector.metrics}
    declared |= {metric.name for model in config.models for metric in ResultGate(model.name).metrics}
    rules = LimitRules(config.hard_limits, {}, config.hard_watches)
    rules.use_limits(config.limits)
    rules.use_rules(config.watches)
    for metric in rules.without_source(declared | {metric.name for metric in health.METRICS}):
        cure = "Correct its name (the birth lists all metrics), or add the collector that gives it"
        found.warnings.append(f"limits: no collector or model here declares '{metric}': never judged. {cure}")


# -- its models --------------------------------------------------------------------------------------


def _models(config: Config, collectors: dict[str, Collector], found: Findings) -> None:
    for table in config.models:
        try:
            runner = load(Path(table.bundle)).manifest.runner
            plugins.load(plugins.RUNNERS, runner, f"model '{table.name}'")
            frame = _frame(table, collectors)
            reason = _tried(table, frame)
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
    """One frame of the collector that feeds the model; None where that collector did not open, which is told."""
    collector = collectors.get(table.frames)
    if collector is None:
        return None
    try:
        readings = run_with_timeout(OPEN_S, lambda: list(collector.collect(clock.now_us())))
    except TimeoutError as error:
        raise NotReady(f"collector '{table.frames}' gave nothing within {OPEN_S:g} s") from error
    frame = next((one for one in readings if isinstance(one, Frame)), None)
    if frame is None:
        raise ModelError(f"collector '{table.frames}' gives no frames. Set `frames` to a collector of images")
    return frame


def _tried(table: ModelTable, frame: Frame | None) -> str:
    """Why the model cannot answer this frame, or ''. It runs in a process of its own, as in the agent."""
    words: queue.Queue[WorkerMessage | None] = queue.Queue()
    child = InferenceChild(table.bundle, on_word=words.put, on_end=lambda: words.put(None))
    try:
        first = words.get(timeout=MODEL_S)
        if first is None:
            return "its process ended at the start"
        if isinstance(first, Failed):
            return first.reason
        if frame is None:
            return ""
        child.submit(frame)
        answer = words.get(timeout=table.watchdog_s)
        if isinstance(answer, InferenceResult):
            return "" if answer.result is not None else answer.reason
        return "its process ended at the first frame"
    except queue.Empty:
        return "it did not answer in time"
    finally:
        child.end()


def check_installation() -> list[str]:
    """Compare installed files with the hashes that the wheel recorded: pip overwrites same-named packages silently."""
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
