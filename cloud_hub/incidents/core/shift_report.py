"""Puts a shift into words and a plot: what happened, what was done, what stands. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from html import escape

import msgspec

from shared.durations import HOUR_US, MINUTE_US

LISTED = 10
"""Lines of each list of the text."""
WIDTH, HEIGHT, LEFT, BASE = 640, 150, 40, 120
"""The plot in pixels: its size, and where its axes cross."""
PRIORITIES = {"critical": "#b2182b", "high": "#ef8a62", "medium": "#fddbc7", "low": "#d1e5f0"}


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupLine:
    """A group of incidents by the one that leads it."""

    id: str
    device: str
    subject: str
    cause: str
    members: int
    devices: int
    opened_us: int
    state: str
    resolved_us: int | None = None
    explanation: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionLine:
    """An action that was proposed or done; `by` is who approved it, or the policy."""

    t_us: int
    device: str
    name: str
    state: str
    outcome: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ShiftReport:
    """What a shift saw. `alarms` counts raised alarms by priority in each of `step_us`, from `from_us` on.

    Lists hold the newest; `counts` has how many there were: groups, resolved, standing, incidents, alarms, actions,
    helped, returned, changes.
    """

    from_us: int
    to_us: int
    step_us: int
    counts: dict[str, int]
    opened: list[GroupLine] = field(default_factory=list)
    standing: list[GroupLine] = field(default_factory=list)
    actions: list[ActionLine] = field(default_factory=list)
    changes: list[str] = field(default_factory=list)
    noisiest: list[tuple[str, int]] = field(default_factory=list)
    alarms: dict[str, list[int]] = field(default_factory=dict)


def step_us(from_us: int, to_us: int) -> int:
    """The width of a bar: the smallest of 15 minutes, 1, 6 and 24 hours that gives at most 64 bars."""
    steps = (15 * MINUTE_US, HOUR_US, 6 * HOUR_US)
    return next((step for step in steps if (to_us - from_us) <= 64 * step), 24 * HOUR_US)


def encode(report: ShiftReport) -> bytes:
    """The report as JSON."""
    return msgspec.json.encode(report)


def render_text(report: ShiftReport) -> str:
    """The report as plain text."""
    return "\n".join(_line(text) for text in _lines(report)) + "\n"


def _line(text: str) -> str:
    """One line, whatever texts of devices are in it."""
    return "".join(sign if sign.isprintable() else " " for sign in text)[:300]


def _lines(report: ShiftReport) -> Iterator[str]:
    n = report.counts
    yield f"Shift report, {_time(report.from_us)} to {_time(report.to_us)} UTC"
    yield ""
    yield "What happened"
    yield (
        f"  {_count(n['groups'], 'group')} of incidents opened ({_count(n['incidents'], 'incident')}, "
        f"{_count(n['alarms'], 'alarm')}), {n['resolved']} resolved."
    )
    yield from _listed([_group(line) for line in report.opened], n["groups"])
    if report.noisiest:
        yield "  Most alarms: " + ", ".join(f"{device} ({count})" for device, count in report.noisiest) + "."
    yield ""
    yield "What was done"
    if not n["actions"] and not report.changes:
        yield "  Nothing that the hub knows of."
    if n["actions"]:
        yield f"  {_count(n['actions'], 'action')}: {n['helped']} ended an incident; {n['returned']} alarms came back."
    yield from _listed([_action(line) for line in report.actions], n["actions"])
    yield from _listed(report.changes, n["changes"])
    yield ""
    yield "What stands"
    if not n["standing"]:
        yield "  Nothing: every incident is resolved."
    yield from _listed([_group(line) for line in report.standing], n["standing"])


def _listed(lines: Sequence[str], count: int) -> Iterator[str]:
    yield from (f"  - {line}" for line in lines[:LISTED])
    if count > min(len(lines), LISTED):
        yield f"  - and {count - min(len(lines), LISTED)} more"


def _group(line: GroupLine) -> str:
    size = "" if line.members == 1 else f", leads {line.members} incidents of {_count(line.devices, 'device')}"
    ended = f" {_time(line.resolved_us)}" if line.state == "resolved" and line.resolved_us else ""
    cause = line.cause or "no diagnosis"
    return f"{_time(line.opened_us)} {line.device} {line.subject}: {cause}{size}; {line.state}{ended}"


def _action(line: ActionLine) -> str:
    outcome = f": {line.outcome}" if line.outcome else ""
    return f"{_time(line.t_us)} {line.name} on {line.device}, {line.state}{outcome}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _time(t_us: int | None) -> str:
    return datetime.fromtimestamp((t_us or 0) / 1e6, timezone.utc).strftime("%Y-%m-%d %H:%M")


# -- plot --------------------------------------------------------------------------------------------


def plot(report: ShiftReport) -> str:
    """Alarms over time by priority as stacked bars, with a mark where a group opened. SVG."""
    bars = max((len(values) for values in report.alarms.values()), default=0)
    highest = max((sum(column) for column in zip(*report.alarms.values(), strict=True)), default=0) if bars else 0
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        'font-size="10" role="img">',
        f"<title>Alarms from {_time(report.from_us)} to {_time(report.to_us)} UTC</title>",
        f'<path d="M{LEFT} 10V{BASE}H{WIDTH - 10}" fill="none" stroke="#666"/>',
        f'<text x="{LEFT - 4}" y="16" text-anchor="end">{highest}</text>',
        f'<text x="{LEFT - 4}" y="{BASE}" text-anchor="end">0</text>',
        f'<text x="{LEFT}" y="{BASE + 14}">{_time(report.from_us)}</text>',
        f'<text x="{WIDTH - 10}" y="{BASE + 14}" text-anchor="end">{_time(report.to_us)}</text>',
        *_bars(report, bars, highest), *_marks(report), "</svg>",
    ]  # fmt: skip
    return "\n".join(parts) + "\n"


def _bars(report: ShiftReport, bars: int, highest: int) -> Iterator[str]:
    width = (WIDTH - 10 - LEFT) / max(bars, 1)
    for n in range(bars):
        top = float(BASE)
        for priority, colour in PRIORITIES.items():
            count = report.alarms.get(priority, [0] * bars)[n]
            if count:
                height = count * (BASE - 16) / highest
                top -= height
                yield (
                    f'<rect x="{LEFT + n * width:.1f}" y="{top:.1f}" width="{max(width - 1, 1):.1f}" '
                    f'height="{height:.1f}" fill="{colour}"><title>{count} {priority}</title></rect>'
                )


def _marks(report: ShiftReport) -> Iterator[str]:
    for line in report.opened:
        x = LEFT + (line.opened_us - report.from_us) * (WIDTH - 10 - LEFT) / max(report.to_us - report.from_us, 1)
        name = escape(_line(f"{line.device} {line.subject}"))
        yield f'<path d="M{x:.1f} {BASE + 1}l-4 8h8z" fill="#2166ac"><title>{name}</title></path>'
