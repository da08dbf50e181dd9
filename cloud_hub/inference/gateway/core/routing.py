"""Which pools may serve a request, in which order: the fallback chain.

A pool serves a request if it serves the class, may see the site, has the model and enough context. The chain follows
the order of the configuration. What ends a chain is the caller's business: a stale cached answer, or the rules.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cloud_hub.inference.gateway.core.classes import RequestClass
from cloud_hub.inference.gateway.core.refusals import Refusal

AUTO = "auto"
"""The model name with which a caller leaves the choice to the class."""
Sites = tuple[str, ...] | None
"""Asset paths that a request is about; None: it is about no site in particular, so it may hold data of any."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolRoute:
    """What routing knows of a pool: `sites` () is every site, `context` 0 is unknown, without `images` only text."""

    name: str
    model: str
    classes: tuple[RequestClass, ...] = ("emergency", "normal", "low")
    sites: tuple[str, ...] = ()
    context: int = 0
    images: bool = True


def allows(pool: PoolRoute, sites: Sites) -> bool:
    """Whether the pool may see data of these sites."""
    if not pool.sites:
        return True
    return bool(sites) and all(any(_below(path, top) for top in pool.sites) for path in sites or ())


def chain(
    pools: Sequence[PoolRoute], model: str, request_class: RequestClass, sites: Sites, tokens: int, images: bool = False
) -> list[PoolRoute] | Refusal:
    """The pools to try, or why there is none."""
    named = [pool for pool in pools if model in (AUTO, pool.name, pool.model)]
    visible = [pool for pool in named if allows(pool, sites)]
    if named and not visible:
        return Refusal(code="site", reason=f"no pool with model '{model[:80]}' may see data of {_names(sites)}")
    if not named:
        known = ", ".join([AUTO, *(pool.name for pool in pools if allows(pool, sites))])
        return Refusal(code="model", reason=f"there is no model '{model[:80]}': name one of {known}")
    serving = [pool for pool in visible if request_class in pool.classes]
    if not serving:
        return Refusal(code="class", reason=f"no pool with model '{model[:80]}' serves class '{request_class}'")
    if images:
        serving = [pool for pool in serving if pool.images]
    if not serving:
        reason = "no pool takes images: those that redact texts cannot check them. Set redact = false for a local pool"
        return Refusal(code="invalid", reason=reason)
    fitting = [pool for pool in serving if not pool.context or tokens <= pool.context]
    if not fitting:
        most = max(pool.context for pool in serving)
        reason = f"about {tokens} tokens of prompt and answer are more than the context of {most}: shorten the prompt"
        return Refusal(code="context", reason=reason)
    return fitting


def _below(path: str, top: str) -> bool:
    return path == top or path.startswith(f"{top}/")


def _names(sites: Sites) -> str:
    return ", ".join(sites) if sites else "an unnamed site: name it in the header Tidegate-Site"
