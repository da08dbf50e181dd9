"""`tidegate-edge check`: tests everything that `run` needs, with time limits and without side effects.

A problem prevents the agent from starting or working. A warning does not: an agent also starts without a network.
"""

from __future__ import annotations

import hashlib
import math
import queue
import time
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from edge_agent import clock
from edge_agent.checks.broker_connection import check_broker_connection
from edge_agent.checks.sparkplug import check_sparkplug
from edge_agent.collectors import Collector, Frame, ModelInput, Observer, Window
from edge_agent.config import Config, ModelTable, read
from edge_agent.models.child import InferenceChild
from edge_agent.models.core.gating import MAX_ESCALATED_BYTES, ResultGate
from edge_agent.models.core.pixels import cropped
from edge_agent.models.streams import model_spec
from edge_agent.models.wire import Failed, ModelSpec, Opening, Ready, Results, WorkerMessage
from edge_agent.pipeline.core.limit_rules import LimitRules
from edge_agent.pipeline.sampler import open_collector
from edge_agent.runtime import health, machine
from shared.device_profile import DeviceProfile
from shared.errors import ConfigError, ModelError, NotReady, TidegateError
from shared.process.checks import Findings, run_with_timeout, write_error
from shared.protocol.messages import Event

OPEN_S = 10.0
"""Time limit for a collector to open and to return its first frame."""
END_S = 0.5


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
    _models(config, profile, collectors, found)
    _sources(config, collectors, found)
    results = [metric for model in config.models for metric in ResultGate(model.name).metrics]
    check_sparkplug(config, collectors, results, found)
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
    unused = [
        f"device.profile: this machine has '{part}', which models cannot use: {gives}"
        for part, gives in machine.unsupported(profile).items()
    ]
    return unused + [
        f"device.profile: {profile.name} has '{part}', which this machine lacks: {gives}. Choose another profile, "
        "or see to the hardware"
        for part, gives in machine.missing(profile).items()
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


def _models(config: Config, profile: DeviceProfile, collectors: dict[str, Collector], found: Findings) -> None:
    for table in config.models:
        place = f"model '{table.name}'"
        item: ModelInput | None = None
        try:
            try:
                item = _input(table, collectors)
            except NotReady as error:  # the model is loaded all the same, and tried with a blank frame by itself
                found.warnings.append(f"{place}: not tried with a frame ({error})")
            ready, reason = _run_model(model_spec(table, config, profile), item)
        except TidegateError as error:
            found.problems.append(f"{place}: {error}")
        else:
            found.warnings += [f"{place}: {text}" for text in (*_hints(ready), *_size_hints(table, item))]
            if reason:
                shown = f"a frame of {item.shape[:2]} of '{table.frames}': " if item and ready else ""
                cure = "Give it a bundle that takes the frames of this collector" if ready else "See docs/models.md"
                found.problems.append(f"{place}: {shown}{reason}. {cure}")


def _hints(ready: Ready | None) -> Iterator[str]:
    """What works, but not as the device profile would have it."""
    if ready is None:
        return
    for name, reason in ready.refused.items():
        if name != ready.build:
            yield f"'{name}' cannot be used ({reason}); it runs on {ready.provider}"
    if ready.build:
        yield f"the first start builds an engine for '{ready.build}', which takes minutes; {ready.provider} serves"


def _size_hints(table: ModelTable, item: ModelInput | None) -> Iterator[str]:
    if isinstance(item, Frame) and math.prod(item.shape) > MAX_ESCALATED_BYTES:
        yield (
            f"its frames of {math.prod(item.shape)} bytes are escalated with rows and columns left out (above "
            f"{MAX_ESCALATED_BYTES}). To send them whole, set width and height of collector '{table.frames}', or `roi`"
        )


def _input(table: ModelTable, collectors: dict[str, Collector]) -> ModelInput | None:
    """One input of the model's collector; None for a model in a chain, and if the collector could not be opened, which
    is reported elsewhere."""
    collector = collectors.get(table.frames)
    if collector is None:
        return None
    if isinstance(collector, Observer):
        raise NotReady(f"collector '{table.frames}' gives windows, once the agent has read its metrics long enough")
    said: list[str] = []
    try:
        item = run_with_timeout(OPEN_S, lambda: _first_input(collector, said))
    except TimeoutError as error:
        last = f"; it says: {said[-1]}" if said else ""
        raise NotReady(f"collector '{table.frames}' gave nothing within {OPEN_S:g} s{last}") from error
    if item is None:
        raise ModelError(f"collector '{table.frames}' gives no frames. Set `frames` to one of images or windows")
    return cropped(item, table.roi) if table.roi and isinstance(item, Frame) else item


def _first_input(collector: Collector, said: list[str]) -> ModelInput | None:
    """The first frame or window of one reading, or of as many as a background source needs to deliver. Texts of its
    events are added to `said`.
    """
    give_up = clock.monotonic_s() + OPEN_S
    while clock.monotonic_s() < give_up:
        for reading in collector.collect(clock.now_us()):
            if isinstance(reading, (Frame, Window)):
                return reading
            if isinstance(reading, Event):
                said.append(reading.text)
        if not getattr(collector, "background", False):
            return None
        time.sleep(0.05)
    raise TimeoutError


def _run_model(spec: ModelSpec, item: ModelInput | None) -> tuple[Ready | None, str]:
    """Run the model on `item` in a separate process, as in the agent: (what was loaded, why it fails or '')."""
    found: queue.Queue[WorkerMessage | None] = queue.Queue()

    def received(some: list[WorkerMessage]) -> None:
        for message in some:
            found.put(message)

    child = InferenceChild(spec, on_messages=received, on_end=lambda _code: found.put(None))
    ready: Ready | None = None
    try:
        first = found.get(timeout=spec.load_s)
        while isinstance(first, Opening):
            first = found.get(timeout=spec.load_s)
        if isinstance(first, Failed):
            return None, first.reason
        if not isinstance(first, Ready):
            return None, "its process ended at the start"
        ready = first
        if item is None:
            return ready, ""
        child.submit(0, item)
        answer = found.get(timeout=spec.watchdog_s)
        if isinstance(answer, Results):
            return ready, answer.answers[0].reason
        return ready, "its process ended at the first frame"
    except queue.Empty:
        return ready, "it did not answer in time"
    finally:
        child.end(END_S)


def check_installation() -> list[str]:
    """Compare installed files with the hashes of the wheel, because pip silently overwrites packages of equal name."""
    try:
        files = distribution("tidegate").files or []
    except PackageNotFoundError:
        return ["tidegate is not installed in this environment. Install it from a checkout: pip install '.[edge]'"]
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
