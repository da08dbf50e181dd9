"""backtest: compares alarms of fixed limits with learned ones, on the history of a Prometheus or of one series."""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cloud_hub.cli import Commands, clean
from cloud_hub.cli.remote import EXIT_FAILED, EXIT_NO_ANSWER, EXIT_USAGE, RemoteError, options
from cloud_hub.cli.times import instant, seconds

if TYPE_CHECKING:
    from cloud_hub.thresholds.backtest.core.comparison import AlarmGroup
    from cloud_hub.thresholds.backtest.prometheus import BacktestRequest, FixedLimit, Report

DAY_S = 86400
ROWS = 40
LABELS = {"fixed": "fixed", "ours": "learned"}
"""How the text report names the sides."""

EXAMPLES = """examples:
  tidegate-hub backtest --prometheus http://10.0.0.5:9090 --days 30
  tidegate-hub backtest --prometheus https://prom.example --token-file t --limit 'node_load1 > 8 for 5m'
  tidegate-hub backtest --prometheus http://10.0.0.5:9090 --query 'rate(http_requests_total[5m])' --json
  tidegate-hub backtest press-3/cpu.load --limit 'cpu > 90 for 5m' --plot cpu.png
  tidegate-hub backtest week.csv --plot week.png

Without --limit, the alerting rules of the server are the fixed limits: the alerts that it recorded or, if there are
none, their expressions evaluated again. Without --query, the series are those that limits and rules compare with a
number. The first days are used for learning only and are counted on neither side. Alarms of one device that overlap
or follow each other within --group form a page. The number after a learned alarm is its anomaly score s: normal
samples reach it about once in 10**s.

A series is DEVICE/METRIC of a running hub, or a CSV or Parquet file with columns timestamp, value and, if known, label
(1 during a fault). --plot draws it with the band, the alarms of both sides and the labels.

exit codes: 0 compared; 1 the server refused, or there is nothing to compare; 2 usage; 5 no answer; 78 configuration
"""


def add(commands: Commands) -> None:
    """Add the parser of this group."""
    parser = commands.add_parser(
        "backtest", help="compare alarms of fixed and learned limits on the history of a Prometheus or a series",
        epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter, parents=[options()],
    )  # fmt: skip
    parser.set_defaults(action=_backtest)
    parser.add_argument(
        "series", nargs="?", metavar="SERIES", help="DEVICE/METRIC of a hub, or a .csv or .parquet file"
    )
    parser.add_argument("--name", help="the series of a file with several")
    where = parser.add_argument_group("the Prometheus")
    where.add_argument("--prometheus", metavar="URL", help="base URL without /api/v1; --token-file is then its token")
    where.add_argument("--user", default="", help="for basic authentication, with --password-file")
    where.add_argument("--password-file", type=Path)
    where.add_argument("--ca-file", type=Path, help="PEM of the CA that signed its certificate")
    where.add_argument(
        "--timeout", type=seconds, default=60.0, metavar="TIME", help="timeout of one request (default 60s)"
    )
    what = parser.add_argument_group("what is compared")
    what.add_argument("--days", type=_above, default=30.0, help="how many days (default 30)")
    what.add_argument(
        "--end", type=instant, metavar="TIME", help="where they end: 2026-11-01, 2026-11-01T08:00Z or 7d (default now)"
    )
    what.add_argument(
        "--train-days", type=_above, help="how many of these are for learning only (default 7, at most a third)"
    )
    what.add_argument(
        "--step",
        type=seconds,
        metavar="TIME",
        help="between points for learned limits (default: the scrape interval, at least 5m)",
    )
    what.add_argument("--query", action="append", default=[], metavar="PROMQL", help="series to judge; repeatable")
    what.add_argument(
        "--limit", action="append", default=[], type=limit, metavar="LIMIT",
        help="a fixed limit, such as 'node_load1 > 8 for 5m'; repeatable",
    )  # fmt: skip
    what.add_argument("--rules", action="store_true", help="also use the rules of the server, with --limit")
    what.add_argument(
        "--pages-per-shift", type=_above, metavar="N",
        help="learned alarms that all series together may raise in 12 hours (default 2; for one SERIES: one in"
        " 1,000 normal samples)",
    )  # fmt: skip
    what.add_argument("--replay", action="store_true", help="evaluate rules again even if alerts were recorded")
    what.add_argument(
        "--group", type=seconds, default=600.0, metavar="TIME", help="largest gap within an episode (default 10m)"
    )
    what.add_argument("--max-series", type=int, default=500, metavar="N", help="fail with more series (default 500)")
    shown = parser.add_argument_group("what is shown")
    shown.add_argument("--json", action="store_true", help="print everything as JSON")
    shown.add_argument("--plot", type=Path, metavar="FILE", help="draw the series into this PNG")
    shown.add_argument("--rows", type=int, default=ROWS, metavar="N", help=f"episodes in the table (default {ROWS})")


def _above(text: str) -> float:
    value = float(text) if re.fullmatch(r"\d{1,4}(\.\d+)?", text) else 0.0
    if not value:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number above 0")
    return value


def limit(text: str) -> FixedLimit:
    """Parse a limit such as `node_load1 > 8 for 5m`."""
    from cloud_hub.prometheus.core.promql import find_comparisons  # noqa: PLC0415
    from cloud_hub.thresholds.backtest.prometheus import FixedLimit  # noqa: PLC0415

    match = re.fullmatch(r"(.*?)(?:\s+for\s+(\S+))?\s*", text, re.DOTALL)
    parts = find_comparisons(match[1]) if match else []
    if not match or len(parts) != 1:
        raise argparse.ArgumentTypeError(
            f"'{text}' is not a limit: write a series, a sign and a number: 'node_load1 > 8'"
        )
    return FixedLimit(compared=parts[0], for_s=seconds(match[2]) if match[2] else 0.0)


def _end_s(arguments: argparse.Namespace) -> int:
    """The end of the compared time, UTC seconds."""
    return int(time.time()) if arguments.end is None else int(arguments.end) // 1_000_000


def _wanted(arguments: argparse.Namespace, end_s: int, interval_s: float) -> BacktestRequest:
    """The request. The step is at least the scrape interval: a smaller one would repeat samples and stretch spikes."""
    from cloud_hub.thresholds.backtest.prometheus import BacktestRequest  # noqa: PLC0415

    step = int(arguments.step or max(300, interval_s))
    end = end_s // step * step
    return BacktestRequest(
        start_us=(end - int(arguments.days * DAY_S) // step * step) * 1_000_000, end_us=end * 1_000_000, step_s=step,
        fixed_step_s=min(step, int(max(60, interval_s))), pages_per_shift=arguments.pages_per_shift or 2.0,
        train_days=arguments.train_days or min(7.0, arguments.days / 3),
        gap_s=arguments.group, queries=tuple(arguments.query), limits=tuple(arguments.limit),
        rules=arguments.rules or not arguments.limit, replay=arguments.replay, max_series=arguments.max_series,
    )  # fmt: skip


def _backtest(arguments: argparse.Namespace) -> int:
    if bool(arguments.series) == bool(arguments.prometheus):
        raise RemoteError("give a SERIES, or --prometheus URL, and just one of them", EXIT_USAGE)
    if arguments.prometheus and arguments.plot:
        raise RemoteError("--plot draws one series: give a SERIES in place of --prometheus", EXIT_USAGE)
    if arguments.step is not None and arguments.step < 1:
        raise RemoteError("--step must be at least 1s", EXIT_USAGE)
    if (arguments.train_days or 0) >= arguments.days:
        raise RemoteError("--train-days must be fewer than --days: nothing would be left to compare", EXIT_USAGE)
    return _of_series(arguments) if arguments.series else _of_prometheus(arguments)


def _of_prometheus(arguments: argparse.Namespace) -> int:
    from cloud_hub.prometheus.client import Client, PrometheusError  # noqa: PLC0415
    from cloud_hub.prometheus.connection import PrometheusConnection  # noqa: PLC0415
    from cloud_hub.thresholds.backtest import prometheus  # noqa: PLC0415

    access = PrometheusConnection(
        url=arguments.prometheus, token_file=arguments.token_file, user=arguments.user,
        password_file=arguments.password_file, ca_file=arguments.ca_file, timeout_s=arguments.timeout,
    )  # fmt: skip
    try:
        with Client(access, _warn) as client:
            wanted = _wanted(arguments, _end_s(arguments), client.interval_s())
            report = prometheus.run(client, wanted, _progress)
    except PrometheusError as error:
        raise RemoteError(clean(str(error)), EXIT_NO_ANSWER if error.absent else EXIT_FAILED) from error
    _progress("")
    _show(report, wanted, arguments)
    return 0


def _of_series(arguments: argparse.Namespace) -> int:
    from cloud_hub.cli import series  # noqa: PLC0415
    from cloud_hub.thresholds.backtest import plot  # noqa: PLC0415
    from cloud_hub.thresholds.backtest.single_series import backtest_series  # noqa: PLC0415
    from cloud_hub.thresholds.bands.day_ahead import NotEnough  # noqa: PLC0415

    stored = series.read(arguments, int((_end_s(arguments) - arguments.days * DAY_S) * 1e6), arguments.end)
    try:
        found = backtest_series(
            stored, arguments.limit, train_days=arguments.train_days, pages_per_shift=arguments.pages_per_shift,
            group_s=arguments.group,
        )  # fmt: skip
    except NotEnough as error:
        raise RemoteError(str(error), EXIT_FAILED) from error
    if arguments.plot:
        plot.save(found.picture, arguments.plot)
    _show(found.report, found.request, arguments)
    return 0


def _show(report: Report, wanted: BacktestRequest, arguments: argparse.Namespace) -> None:
    shown = document(report, wanted)
    print(json.dumps(shown) if arguments.json else "\n".join(lines(report, wanted, arguments.rows)))


def _warn(text: str) -> None:
    print(f"tidegate-hub: the server warns: {clean(text)}", file=sys.stderr)


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\x1b[K{clean(text)[:100]}", end="", file=sys.stderr, flush=True)


# -- what is shown ---------------------------------------------------------------------------------------


def document(report: Report, wanted: BacktestRequest) -> dict[str, Any]:
    """The report as JSON. Times are UTC microseconds."""
    comparison = report.comparison
    return {
        "from_us": wanted.start_us + int(wanted.train_days * DAY_S * 1e6), "to_us": wanted.end_us,
        "step_s": wanted.step_s, "fixed_step_s": wanted.fixed_step_s, "pages_per_shift": wanted.pages_per_shift,
        "train_days": wanted.train_days, "group_s": wanted.gap_s,
        "series": report.series, "points": report.points, "devices": report.devices, "queries": report.queries,
        "alarms": comparison.alarms, "pages": comparison.pages,
        "episodes": {"both": comparison.both, "fixed_only": comparison.only["fixed"],
                     "ours_only": comparison.only["ours"]},
        "list": [
            {
                "device": episode.device, "start_us": episode.start_us, "end_us": episode.end_us,
                "fixed": [alarm.what for alarm in episode.fixed], "ours": [alarm.what for alarm in episode.ours],
            }
            for episode in comparison.episodes
        ],
        "notes": report.notes,
    }  # fmt: skip


def lines(report: Report, wanted: BacktestRequest, rows: int) -> list[str]:
    """The report as lines of text."""
    comparison, days = report.comparison, (wanted.end_us - wanted.start_us) / 1e6 / DAY_S - wanted.train_days
    shown = comparison.episodes[-rows:] if rows > 0 else []
    head = [
        f"{report.series} series of {report.devices} devices, {report.points} points at {wanted.step_s} s;"
        f" {wanted.train_days:.3g} days for learning only, {days:.1f} days compared",
        "",
        f"{'':8}{'alarms':>8}{'pages':>8}{'pages a day':>14}",
        *(
            f"{LABELS[side]:8}{comparison.alarms[side]:>8}{comparison.pages[side]:>8}"
            f"{comparison.pages[side] / days:>14.2f}"
            for side in ("fixed", "ours")
        ),
        "",
        f"episodes: {comparison.both} in both, {comparison.only['fixed']} only fixed, "
        f"{comparison.only['ours']} only learned",
        *([""] if shown else []),
    ]
    cut = len(comparison.episodes) - len(shown)
    tail = [f"({cut} earlier ones; --rows shows more)"] if cut else []
    return (
        head + table(shown) + tail + ["", *(clean(f"note: {text}") for text in report.notes)][: len(report.notes) + 1]
    )


def table(episodes: list[AlarmGroup]) -> list[str]:
    """A row for each episode: start, duration, device, and the alarms of each side."""
    if not episodes:
        return []
    body = [("start (UTC)", "lasted", "device", "fixed", "learned")]
    body += [
        (
            datetime.fromtimestamp(episode.start_us / 1e6, timezone.utc).strftime("%Y-%m-%d %H:%M"),
            _lasted(episode.end_us - episode.start_us), clean(episode.device)[:28],
            _names([alarm.what for alarm in episode.fixed]), _names([alarm.what for alarm in episode.ours]),
        )
        for episode in episodes
    ]  # fmt: skip
    widths = [max(len(row[column]) for row in body) for column in range(5)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in body]


def _names(names: list[str]) -> str:
    if not names:
        return "-"
    first = clean(names[0])
    return (first if len(first) <= 44 else f"{first[:43]}…") + (f" +{len(names) - 1}" if len(names) > 1 else "")


def _lasted(us: int) -> str:
    minutes = round(us / 60e6)
    return f"{minutes}m" if minutes < 120 else f"{minutes / 60:.1f}h"
