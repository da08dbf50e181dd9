"""Tries a file of rules: its own tests, and evidence that is given or that a hub has stored."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from cloud_hub.incidents.core import rules
from cloud_hub.incidents.core.evidence import Diagnosis, Evidence, Proposal
from cloud_hub.incidents.core.messages import Catalogue
from cloud_hub.incidents.core.rule_table import RuleFile, RuleTest
from cloud_hub.incidents.desk import Desk

Fetch = Callable[[str], Evidence]
"""Reads the evidence of an incident that a hub has stored; raises TidegateError."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What the rules concluded in one test; `problems` says what was expected otherwise."""

    name: str
    diagnosis: Diagnosis
    problems: tuple[str, ...]


def run_tests(file: RuleFile, desk: Desk, fetch: Fetch) -> Iterator[Outcome]:
    """Run the tests of a file one by one; raises what `fetch` raises."""
    for number, test in enumerate(file.tests, 1):
        evidence = test.evidence.evidence() if test.evidence is not None else fetch(test.incident)
        diagnosis = rules.diagnose(evidence, desk.book, desk.catalogue)
        name = test.name or test.incident or f"test {number}"
        yield Outcome(name=name, diagnosis=diagnosis, problems=tuple(_problems(test, diagnosis, desk.catalogue)))


def _problems(test: RuleTest, diagnosis: Diagnosis, catalogue: Catalogue) -> Iterator[str]:
    if diagnosis.cause != test.cause:
        yield catalogue.text("try.cause", cause=diagnosis.cause, expected=test.cause)
    if test.proposes is not None:
        proposed = [describe(proposal) for proposal in diagnosis.proposals]
        if sorted(proposed) != sorted(test.proposes):
            yield catalogue.text(
                "try.proposes", proposed=", ".join(proposed) or "-", expected=", ".join(test.proposes) or "-"
            )


def describe(proposal: Proposal) -> str:
    """A proposal in a line, as `proposes` of a test names it: `command restart line-camera`."""
    return " ".join([proposal.action, *(str(value) for value in proposal.parameters.values())])
