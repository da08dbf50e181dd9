"""A plant whose history is stored once for each module and kind of database; each test gets a copy."""

from __future__ import annotations

from simulators import databases, refits

from cloud_hub.database.sessions import Database


def fit(db: Database) -> None:
    refits.learn(db)
    refits.fitted(db)


history = databases.filled_once(refits.plant)  # four devices with six days
first_fit = databases.filled_once(fit, of="history")
plant = databases.copy_of("history")
fitted_plant = databases.copy_of("first_fit")  # limits fitted by `refits.TERMS`, whose rollout has not begun
