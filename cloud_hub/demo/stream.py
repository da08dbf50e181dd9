"""Reads the result of each frame over REST: kept answers from telemetry, the others from escalations."""

from __future__ import annotations

from dataclasses import dataclass

from cloud_hub.demo.world import MODEL, World
from shared.protocol.codec import encode
from shared.protocol.messages import Sample


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A frame: the answer of the edge model, whether it was kept, the answer of the expert, and the true label.

    `said` is what the device said of it in the end, and `by` whose answer that is: edge, expert or fallback.
    """

    number: int
    t_us: int
    truth: str
    edge: str
    margin: float
    kept: bool
    answer: str
    reason: str
    wire_bytes: int
    said: str = ""
    by: str = ""

    @property
    def final(self) -> str:
        """The final answer: the expert's if there is one, else the kept one."""
        return self.answer or self.edge


def _samples(world: World, metric: str, start_us: int, end_us: int) -> dict[int, float | str]:
    rows = world.client.get(
        f"/devices/{world.camera}/telemetry/{MODEL}/{metric}", start_us=start_us, end_us=end_us, limit=100_000
    )
    return {row["t_us"]: row["value"] for row in rows}


def _kept_bytes(t_us: int, number: float, label: str, score: float) -> int:
    """The wire size of a kept answer: three samples, encoded like on the device."""
    values: dict[str, float | str] = {"label": label, "score": score, "frame": number}
    coded = [encode(Sample(metric=f"{MODEL}/{name}", t_us=t_us, value=value)) for name, value in values.items()]
    return sum(map(len, coded)) + len(coded)


def frames(world: World, start_us: int, end_us: int) -> list[Seen]:
    """Every frame taken within start_us..end_us that has its final answer, in order."""
    numbers = _samples(world, "frame", start_us, end_us)
    labels, scores = _samples(world, "label", start_us, end_us), _samples(world, "score", start_us, end_us)
    sources = _samples(world, "by", start_us, end_us)
    rows = world.client.get("/escalations", device=world.camera, since_us=start_us, limit=50_000)
    up = {row["number"]: row for row in rows if start_us <= row["t_us"] < end_us and row["answer"]}
    seen: dict[int, Seen] = {}
    said: dict[int, tuple[str, str]] = {}
    for t_us, value in numbers.items():
        said[int(float(value))] = (str(labels.get(t_us, "")), str(sources.get(t_us, "")))
        if t_us in labels and t_us in scores and sources.get(t_us) == "edge":
            number, row = int(float(value)), up.get(int(float(value)))
            label, score = str(labels[t_us]), float(scores[t_us])
            seen[number] = Seen(
                number=number, t_us=t_us, truth=_truth(world, number), edge=label, margin=score, kept=True,
                answer=row["answer"] if row else "", reason="audit" if row else "",
                wire_bytes=_kept_bytes(t_us, number, label, score) + (row["wire_bytes"] if row else 0),
                said=str(labels[t_us]), by="edge",
            )  # fmt: skip
    for number, row in up.items():
        if number not in seen:
            seen[number] = Seen(
                number=number, t_us=row["t_us"], truth=_truth(world, number), edge=row["label"],
                margin=row["margin"], kept=False, answer=row["answer"], reason=row["reason"],
                wire_bytes=row["wire_bytes"], said=said.get(number, ("", ""))[0], by=said.get(number, ("", ""))[1],
            )  # fmt: skip
    return [seen[number] for number in sorted(seen)]


def _truth(world: World, number: int) -> str:
    return str(world.labels[number % len(world.labels)])
