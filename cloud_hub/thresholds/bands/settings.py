"""Settings of learned bands and limits. Pure."""

from __future__ import annotations

from dataclasses import astuple, dataclass, fields


@dataclass(frozen=True, slots=True, kw_only=True)
class BandSettings:
    """`coverage` is the share of samples inside the band that is shown; the other settings are for limits on a device.

    `outside` is the share of ordinary samples allowed beyond each limit; `return_days` is the minimum mean time between
    them, which decides for frequent samples. Three crossings in a row raise an alarm (`on_periods` 2), so a single
    spike does not. Six samples back inside clear it (`off_periods` 5), so flickering is one alarm. `deadband` is in
    scales, `least_width` relative to the level.
    """

    coverage: float = 0.99
    outside: float = 1e-3
    return_days: float = 30.0
    least_width: float = 0.01
    deadband: float = 1.0
    on_periods: float = 2.0
    off_periods: float = 5.0

    def __post_init__(self) -> None:
        if not 0.5 <= self.coverage < 1:
            raise ValueError(f"coverage must lie in 0.5 up to below 1, not {self.coverage}")
        if not 0 < self.outside < 0.5:
            raise ValueError(f"outside must lie between 0 and 0.5, not {self.outside}")
        if not self.return_days > 0 or not self.least_width > 0:
            raise ValueError("return_days and least_width must be above 0")
        if not all(value >= 0 for value in (self.deadband, self.on_periods, self.off_periods)):
            raise ValueError("deadband, on_periods and off_periods must be at least 0")

    def numbers(self) -> tuple[float, ...]:
        """All settings in order, for packing."""
        return tuple(float(value) for value in astuple(self))

    @classmethod
    def of(cls, numbers: tuple[float, ...]) -> BandSettings:
        """Settings from `numbers`. Raises ValueError for invalid ones."""
        return cls(**{field.name: value for field, value in zip(fields(cls), numbers, strict=True)})


STANDARD = BandSettings()
