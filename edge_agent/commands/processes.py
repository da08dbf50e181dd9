"""Command `diagnose processes`: the processes that use most CPU. Measuring costs CPU time, so it is not a metric."""

from __future__ import annotations

import psutil

from edge_agent.commands.service import Output, Progress, Verb, Work, take_args
from shared.protocol.messages import CommandRequest

TOP = 5
LONGEST_S = 600


def diagnose(request: CommandRequest) -> Output | Work:
    """The five processes that use most CPU, in percent of one core: over a third of a second, or, with argument
    `seconds` (1 to 600), the average over so long, with progress each second.
    """
    seconds = take_args(request, "seconds").get("seconds")
    if seconds is None:
        processes = _primed()
        psutil.cpu_percent(interval=0.3)
        return _top(_loads(processes))
    try:
        count = int(float(seconds))  # a command line sends text
    except (ValueError, OverflowError):
        count = 0
    if not 1 <= count <= LONGEST_S:
        raise ValueError(f"seconds must be within 1..{LONGEST_S}, not {seconds}")
    return _measure(count)


verbs: dict[tuple[str, str], Verb] = {("diagnose", "processes"): diagnose}
"""The commands of this module."""


def _measure(count: int) -> Work:
    processes, sums = _primed(), dict[str, float]()
    for second in range(count):
        yield Progress(fraction=second / count, text=f"watched {second} of {count} s", wait_s=1.0)
        for name, load in _loads(processes).items():
            sums[name] = sums.get(name, 0.0) + load
    return _top({name: round(total / count, 2) for name, total in sums.items()})


def _primed() -> list[psutil.Process]:
    """All processes, each with its CPU time read once, so that the next reading covers the time since this one."""
    processes = []
    for process in psutil.process_iter():
        try:
            process.cpu_percent()
        except psutil.Error:
            continue
        processes.append(process)
    return processes


def _loads(processes: list[psutil.Process]) -> dict[str, float]:
    loads = {}
    for process in processes:
        try:
            loads[f"{process.name()} (pid {process.pid})"] = process.cpu_percent()
        except psutil.Error:
            continue
    return loads


def _top(loads: dict[str, float]) -> Output:
    return {name: load for load, name in sorted(((load, name) for name, load in loads.items()), reverse=True)[:TOP]}
