"""incident replay: what changed rules, policy, limits, prompt or model would have concluded of past incidents."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cloud_hub.cli import clean
from cloud_hub.cli.times import instant
from shared.errors import ConfigError

if TYPE_CHECKING:
    from cloud_hub.actions.core.policy import Policy
    from cloud_hub.database.tables import Case
    from cloud_hub.incidents.core.replay import Replayed
    from cloud_hub.incidents.replay import Bounds, Diagnose, Setup, Skipped
    from cloud_hub.settings import Settings


def add(subcommands: Any) -> None:
    """Add the parser of this subcommand."""
    parser = subcommands.add_parser(
        "replay", help="what changed rules, policy, limits, prompt or model would have concluded of past incidents",
        description="Reads the hub's database on this machine and changes nothing. Each incident is judged by the "
                    "evidence that was stored with its case.",
    )  # fmt: skip
    parser.set_defaults(action=_replay)
    parser.add_argument("--config", type=Path, help="TOML file of the hub (default: as `serve`)")
    parser.add_argument(
        "--with", type=Path, dest="changed", metavar="FILE", help="changed TOML file: policy, GLM, desk"
    )
    parser.add_argument("--rules", type=Path, metavar="FILE", help="changed rules of the desk (desk.rules_file)")
    parser.add_argument("--limits", type=Path, metavar="FILE", help="changed limits, as `limits export` writes them")
    parser.add_argument("--prompt", type=Path, metavar="FILE", help="changed system prompt; with --engine")
    parser.add_argument("--engine", action="store_true", help="ask the configured pools, not only the rules")
    parser.add_argument(
        "--against", choices=["recorded", "rules"], default="recorded",
        help="compare with what was concluded then (default), or with what the present rules conclude",
    )  # fmt: skip
    parser.add_argument("--since", type=instant, metavar="TIME", help="only incidents resolved since then, such as 30d")
    parser.add_argument("--cause", default="", help="only cases of this cause")
    parser.add_argument("--limit", type=int, default=200, help="maximum number, the newest (default 200)")
    parser.add_argument("--json", action="store_true", help="print JSON")


def _replay(arguments: argparse.Namespace) -> int:
    from cloud_hub import settings  # noqa: PLC0415
    from cloud_hub.incidents import replay  # noqa: PLC0415

    present = settings.read(arguments.config)
    changed = settings.read(arguments.changed) if arguments.changed else present
    with _language_model(changed, arguments) as model:
        results = list(replay.replay(_cases(present, arguments), _setup(arguments, present, changed, model)))
    for one in results:
        if arguments.json:
            print(json.dumps(_plain(one)))
        else:
            for line in _lines(one):
                print(clean(line))
    if not arguments.json:
        print(replay.summary(results))
    return 0


def _cases(settings: Settings, arguments: argparse.Namespace) -> list[Case]:
    from cloud_hub.database.sessions import open_existing  # noqa: PLC0415
    from cloud_hub.incidents import cases  # noqa: PLC0415

    db = open_existing(settings.database_url)
    try:
        with db.read() as session:
            return cases.newest(session, cause=arguments.cause, since_us=arguments.since, limit=max(arguments.limit, 1))
    finally:
        db.close()


@contextmanager
def _language_model(settings: Settings, arguments: argparse.Namespace) -> Iterator[Any]:
    """The model behind the configured pools if one is asked for, else None; raises ConfigError."""
    from cloud_hub.database.sessions import open_existing  # noqa: PLC0415
    from cloud_hub.inference.gateway.blocking import GatewayModel, serving  # noqa: PLC0415
    from cloud_hub.inference.gateway.build import open_gateway  # noqa: PLC0415

    if arguments.prompt and not arguments.engine:
        raise ConfigError("--prompt", "only a model reads it", "Add --engine")
    if not arguments.engine:
        yield None
        return
    db = open_existing(settings.database_url)
    try:
        gateway = open_gateway(db, settings.inference)
        if gateway is None:
            raise ConfigError("inference.pools", "there is no model to ask", "Add a pool in --config or --with")
        with serving(gateway):
            model = GatewayModel(gateway)
            yield _Prompted(model, _read(arguments.prompt)) if arguments.prompt else model
    finally:
        db.close()


def _setup(arguments: argparse.Namespace, present: Settings, changed: Settings, model: Any) -> Setup:
    from cloud_hub.incidents import replay  # noqa: PLC0415

    desk = changed.desk if arguments.rules is None else changed.desk.model_copy(
        update={"rules_file": str(arguments.rules)})  # fmt: skip
    return replay.Setup(
        diagnose=_diagnoser(desk, model), judge=replay.judge_by(_policy(changed)),
        baseline=_diagnoser(present.desk) if arguments.against == "rules" else None,
        limits=_bounds(arguments.limits) if arguments.limits else None,
    )  # fmt: skip


def _policy(settings: Settings) -> Policy:
    from importlib.metadata import entry_points  # noqa: PLC0415

    from cloud_hub.actions.policy_file import load_policy  # noqa: PLC0415
    from shared.plugins import ACTIONS  # noqa: PLC0415

    return load_policy(settings.actions, [point.name for point in entry_points(group=ACTIONS)])


def _diagnoser(desk: Any, model: Any = None) -> Diagnose:
    """The one place that knows how a diagnosis is made of settings; raises ConfigError."""
    from functools import partial  # noqa: PLC0415

    from cloud_hub.incidents.desk import open_desk  # noqa: PLC0415
    from cloud_hub.incidents.diagnosis import diagnose  # noqa: PLC0415

    return partial(diagnose, engine=model, desk=open_desk(desk))


class _Prompted:
    """A model that is given another system prompt."""

    def __init__(self, model: Any, system: str) -> None:
        self._model, self._system = model, system
        self.name = f"{model.name}, changed prompt"

    def ask(self, _system: str, user: str, schema: dict[str, Any]) -> Any:
        """As the model's own."""
        return self._model.ask(self._system, user, schema)


def _read(file: Path) -> str:
    try:
        return file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(str(file), f"cannot be read ({error})", "Check path and owner") from error


def _bounds(file: Path) -> Bounds:
    """The limits of a file as (low, high) by device and metric."""
    from cloud_hub.errors import HubError  # noqa: PLC0415
    from cloud_hub.thresholds.limits import import_export  # noqa: PLC0415

    try:
        body = json.loads(_read(file))
        sets = import_export.read_file(body["form"], body["devices"])
    except (ValueError, KeyError, TypeError, AttributeError, HubError) as error:
        raise ConfigError(str(file), f"is no file of limits ({error})", "Write it with `limits export`") from error
    return {(device, one.metric): (one.low, one.high) for device, rows in sets.items() for one in rows}


def _lines(one: Replayed | Skipped) -> list[str]:
    from cloud_hub.incidents.replay import Skipped  # noqa: PLC0415

    if isinstance(one, Skipped):
        return [f"{one.id}  skipped: {one.reason}"]
    if not one.differs:
        return []
    return [f"{one.id}  {one.device}  ({one.outcome})", *(f"    {line}" for line in one.lines())]


def _plain(one: Replayed | Skipped) -> Any:
    import msgspec  # noqa: PLC0415

    from cloud_hub.incidents.replay import Skipped  # noqa: PLC0415

    return msgspec.to_builtins(one) | ({} if isinstance(one, Skipped) else {"differs": one.differs})
