"""ask: asks the hub's language models through the running agent."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from edge_agent.cli import Commands, add_command
from shared.process.terminal import printable, printable_json, printable_lines

TEXT = "ask a language model of the hub, through the running agent"


def add(commands: Commands) -> None:
    """Add the parser of this command."""
    parser = add_command(commands, "ask", TEXT, _ask)
    parser.add_argument("prompt", help='the question, such as "Is 7 mm/s at 1450 rpm normal?"')
    parser.add_argument("--system", default="", metavar="TEXT", help="instructions that go before the question")
    parser.add_argument("--model", default="auto", help="pool or model (default: the hub chooses)")
    parser.add_argument("--class", dest="request_class", choices=["emergency", "normal", "low"], default="normal")
    parser.add_argument("--deadline", type=float, default=60.0, metavar="S", help="seconds to answer in (default 60)")
    parser.add_argument("--max-tokens", type=int, default=500, metavar="N", help="longest answer (default 500)")
    parser.add_argument("--json", action="store_true", help="print the whole response as JSON")


def _ask(arguments: argparse.Namespace) -> int:
    from edge_agent import clock  # noqa: PLC0415
    from edge_agent.config import read  # noqa: PLC0415
    from edge_agent.questions.local import ask  # noqa: PLC0415
    from edge_agent.twin.local_cli import EXIT_WAITS  # noqa: PLC0415
    from shared.protocol.codec import plain  # noqa: PLC0415
    from shared.protocol.messages import InferenceRequest  # noqa: PLC0415

    try:
        request = InferenceRequest(
            id=clock.new_id(), prompt=arguments.prompt, system=arguments.system, model=arguments.model,
            request_class=arguments.request_class, deadline_s=arguments.deadline, max_tokens=arguments.max_tokens,
        )  # fmt: skip
    except ValueError as error:
        print(f"tidegate-edge: {error}", file=sys.stderr)
        return 2
    response = ask(Path(read(arguments.config)[0].device.state_dir), request)
    if response is None:
        print("the agent did not take the question: is it running?", file=sys.stderr)
        return EXIT_WAITS
    if arguments.json:
        print(printable_json(plain(response)))
    elif response.state == "answered":
        print(printable_lines(response.text))
    else:
        again = f"; ask again in {response.retry_after_s:g} s" if response.retry_after_s else ""
        print(printable(f"refused ({response.code}): {response.reason}{again}"), file=sys.stderr)
    return 0 if response.state == "answered" else 1
