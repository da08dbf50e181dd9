"""Prices, and the cheapest mix of reserved, spot and on-demand instances for a target's own counts. Pure.

The table of prices is a file:

    source: AWS documentation, "Spot price per unit hour example" (example prices)
    currency: USD
    prices:
      - {type: c5.2xlarge, region: us-east-1, on_demand: 0.34, spot: 0.17}

**Mix.** The k-th instance is needed for a share of the time. Reserving it is cheaper than paying as it runs if that
share exceeds reserved price / price of the others, so all instances up to the last such k are reserved. Of the others,
the operator says which share may be spot: an interruption takes it away with two minutes' notice.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import msgspec
import numpy as np

from cloud_hub.autoscale.core.simulate import Ints
from cloud_hub.autoscale.core.target import CostRule


class Price(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The prices of one type of instance for an hour; a way of buying that is not offered is left out."""

    type: str
    on_demand: float
    region: str = ""
    reserved: float | None = None
    spot: float | None = None

    def problem(self) -> str:
        """What is wrong with this row, or ''."""
        given = [price for price in (self.on_demand, self.reserved, self.spot) if price is not None]
        if not all(math.isfinite(price) and price > 0 for price in given):
            return f"{self.type}: every price must be a number above 0"
        return ""


class PriceTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A file of prices, and where they are from."""

    source: str
    prices: tuple[Price, ...]
    currency: str = ""

    def price(self, kind: str, region: str = "") -> Price | None:
        """The row of an instance type; the first one, without a region."""
        found = (p for p in self.prices if p.type == kind and (not region or p.region == region))
        return next(found, None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mix:
    """A way of buying: the rule for the policy, what the counts cost by it, and all on demand."""

    rule: CostRule
    cost: float
    on_demand_cost: float

    @property
    def saved(self) -> float:
        """The share of the cost that is saved against all on demand."""
        return 1 - self.cost / self.on_demand_cost if self.on_demand_cost > 0 else 0.0


def cheapest(price: Price, counts: Ints, step_s: float, spot_share: float = 0.0) -> Mix:
    """The cheapest mix for `counts` int64 [n], the instances of each step of `step_s` seconds.

    `spot_share` 0..1 is the largest share of the instances beyond the reserved ones that may be spot.
    """
    share = spot_share if price.spot is not None and price.spot < price.on_demand else 0.0
    spot = price.spot if price.spot is not None else price.on_demand
    largest = int(counts.max(initial=0))
    options = range(largest + 1) if price.reserved is not None else range(1)
    found = [_mix(price, counts, step_s, reserved, share, spot) for reserved in options]
    return min(found, key=lambda mix: mix.cost)


def _mix(price: Price, counts: Ints, step_s: float, reserved: int, share: float, spot: float) -> Mix:
    rule = CostRule(
        price=price.on_demand, reserved=reserved, reserved_price=price.reserved or 0.0, spot_share=share,
        spot_price=spot,
    )  # fmt: skip
    beyond = np.maximum(counts - reserved, 0)
    on_spot = np.floor(beyond * share)
    hourly = reserved * rule.reserved_price + on_spot * spot + (beyond - on_spot) * price.on_demand
    hours = step_s / 3600
    return Mix(
        rule=rule, cost=float(hourly.sum()) * hours, on_demand_cost=float(counts.sum()) * hours * price.on_demand
    )
