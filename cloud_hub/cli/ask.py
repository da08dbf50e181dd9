"""ask: a question about the fleet, over REST."""

from __future__ import annotations

import argparse
import json
from typing import Any

from cloud_hub.cli import Commands, clean
from cloud_hub.cli.remote import connect, options

EXAMPLES = """
Without a language model the hub answers fixed forms of questions (--forms lists them). With one it looks facts up by
read-only tools; each sentence cites what it rests on. Your token decides what is seen.

examples:
  tidegate-hub ask "what is wrong?"
  tidegate-hub ask "why did press-3 stop?" --facts
  tidegate-hub ask "what was done about it?" --session 01a1fc6b-9efb-7fe8-bebf-9ef1d6d45891
  tidegate-hub ask "最近6小时哪些设备的cpu.load最高?"
  tidegate-hub ask --forms

exit codes: 0 answered; 1 the hub failed; 2 usage; 3 not permitted; 5 no answer
"""


def add(commands: Commands) -> None:
    """Add the parser of this command."""
    parser = commands.add_parser(
        "ask", help="answer a question about the fleet", description=EXAMPLES, parents=[options()],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("question", nargs="?", default="", help="the question, in English or Chinese")
    parser.add_argument("--session", default="", help="go on with the session of an earlier answer")
    parser.add_argument("--language", choices=("en", "zh"), help="of the answer (default: that of the question)")
    parser.add_argument("--rules", action="store_true", help="ask no language model")
    parser.add_argument("--facts", action="store_true", help="print the facts that the answer cites, too")
    parser.add_argument("--forms", action="store_true", help="list what is answered without a language model")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(action=_ask, usage_error=parser.error)


def _ask(arguments: argparse.Namespace) -> int:
    if not arguments.forms and not arguments.question.strip():
        arguments.usage_error("give a question, or --forms")
    with connect(arguments) as hub:
        if arguments.forms:
            return _forms(hub.get("/ask/forms"), arguments.json)
        body = {
            "question": arguments.question, "session": arguments.session, "language": arguments.language,
            "engine": "rules" if arguments.rules else "auto",
        }  # fmt: skip
        answer = hub.call("POST", "/ask", body, timeout_s=400.0)
    print(json.dumps(answer, ensure_ascii=False) if arguments.json else _shown(answer, arguments.facts))
    return 0


def _forms(forms: list[dict[str, Any]], as_json: bool) -> int:
    for form in forms:
        print(
            json.dumps(form, ensure_ascii=False) if as_json else f"{form['name']:16} {'  |  '.join(form['examples'])}"
        )
    return 0


def _shown(answer: dict[str, Any], facts: bool) -> str:
    lines = [_cited(sentence) for sentence in answer["sentences"]]
    if facts:
        lines += ["", *(f"  {fact['id']}  {fact['tool']}: {fact['text']}" for fact in answer["facts"])]
    if answer["plan"]:
        lines += ["", *answer["plan"].splitlines()]
    lines += ["", f"by {answer['engine']}" + (f" ({answer['note']})" if answer["note"] else "")]
    return "\n".join(clean(line) for line in [*lines, f"session {answer['session']}"])


def _cited(sentence: dict[str, Any]) -> str:
    return str(sentence["text"]) + (f" [{', '.join(sentence['cites'])}]" if sentence["cites"] else "")
