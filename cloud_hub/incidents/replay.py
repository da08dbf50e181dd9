"""Runs past cases through a changed diagnosis, policy or limits, and says what would differ. Changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from cloud_hub.actions.core import policy
from cloud_hub.actions.core.policy import Decision, Facts, Policy, PolicyRequest
from cloud_hub.actions.types.command import RISKS
from cloud_hub.database.tables import Case
from cloud_hub.errors import HubError
from cloud_hub.incidents import evidence as evidence_items
from cloud_hub.incidents.core.evidence import Diagnosis, Evidence, EvidenceItem, Proposal
from cloud_hub.incidents.core.replay import Opinion, Replayed, not_raised, opinion, proposal_name
from cloud_hub.twins.core.reported_values import mapping, text

Diagnose = Callable[[Evidence], Diagnosis]
"""Diagnoses evidence by rules, or by a model; raises TidegateError where it cannot."""
Judge = Callable[[Evidence, Proposal], str]
"""The policy's verdict on a proposal: allow, ask or refuse."""
VERDICTS: dict[Decision, str] = {"allow": "allow", "approve": "ask", "forbid": "refuse"}
Bounds = Mapping[tuple[str, str], tuple[float | None, float | None]]
"""(low, high) by device and metric."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What to replay with. `baseline` is what it is compared with; without one, what was recorded then."""

    diagnose: Diagnose
    judge: Judge
    baseline: Diagnose | None = None
    limits: Bounds | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Skipped:
    """A case that cannot be replayed, and why."""

    id: str
    reason: str


def replay(cases: Iterable[Case], setup: Setup) -> Iterator[Replayed | Skipped]:
    """Replay cases one by one; one that cannot be replayed stops no other."""
    for case in cases:
        try:
            if case.evidence is None:
                yield Skipped(id=case.id, reason="it was never diagnosed: there is no evidence")
                continue
            yield _replayed(case, evidence_items.from_plain(case.evidence), setup)
        except HubError as error:
            yield Skipped(id=case.id, reason=str(error))


def _replayed(case: Case, facts: Evidence, setup: Setup) -> Replayed:
    before = _recorded(case) if setup.baseline is None else _opinion(facts, setup.baseline, setup.judge)
    gone = not_raised(facts.items, setup.limits) if setup.limits is not None else []
    after = _opinion(facts, setup.diagnose, setup.judge)
    return Replayed(
        id=case.id, device=case.device, outcome=case.outcome, before=before, after=after, gone=tuple(gone)
    )  # fmt: skip


def _opinion(facts: Evidence, diagnose: Diagnose, judge: Judge) -> Opinion:
    diagnosis = diagnose(facts)
    return opinion(diagnosis, [(proposal, judge(facts, proposal)) for proposal in diagnosis.proposals])


def _recorded(case: Case) -> Opinion:
    """What was concluded then: of each action, whether policy allowed it, asked a person, or refused it."""
    verdicts = {}
    for action in case.actions:
        name = proposal_name(text(action.get("action")), mapping(action.get("parameters")))
        automatic = bool(action.get("automatic"))
        state = text(action.get("state"))
        refused = state == "refused" and not action.get("approvals_needed")  # by a person: asked
        verdicts[name] = "allow" if automatic else "refuse" if refused else "ask"
    diagnosis = mapping(case.diagnosis)
    return Opinion(cause=text(diagnosis.get("cause")), author=text(diagnosis.get("engine")), verdicts=verdicts)


def judge_by(rules: Policy, at_us: int = 0) -> Judge:
    """A policy's verdicts, for a device that has had no action yet: cooldowns and budgets are not replayed."""

    def judge(facts: Evidence, proposal: Proposal) -> str:
        verb, target = text(proposal.parameters.get("verb")), text(proposal.parameters.get("target"))
        called = verb != "restart" or any(_says_stalled(item, target) for item in facts.items)
        request = PolicyRequest(
            type=proposal.action, details=(f"{verb}/{target}",), device=facts.device, risk=RISKS.get(verb, "high"),
            origin="diagnosis",
        )  # fmt: skip
        known = Facts(uncalled="" if called else "no alarm is raised that this model gives no answers")
        return VERDICTS[policy.judge(rules, request, known, at_us).decision]

    return judge


def _says_stalled(item: EvidenceItem, model: str) -> bool:
    data = item.data
    return item.kind == "alarm" and data.get("metric") == f"{model}/age_s" and data.get("state") == "raised"


def summary(results: Sequence[Replayed | Skipped]) -> str:
    """The replay in a line."""
    replayed = [one for one in results if isinstance(one, Replayed)]
    differing = sum(one.differs for one in replayed)
    skipped = len(results) - len(replayed)
    rest = f", {skipped} skipped" if skipped else ""
    return f"{differing} of {len(replayed)} past incidents would differ{rest}"
