"""Values in the messages of topics: plain text, or JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from edge_agent.collectors.mqtt_tap.core.json_path import Path, follow, parse_path
from edge_agent.collectors.mqtt_tap.core.values import to_sample, to_time_us
from edge_agent.collectors.mqtt_tap.readings import Readings
from edge_agent.collectors.mqtt_tap.tags import TapTag
from edge_agent.collectors.plant.core.times import sample_time
from shared.protocol.codec import MAX_PAYLOAD


@dataclass(frozen=True, slots=True)
class _Place:
    index: int
    tag: TapTag
    path: Path | None
    time_path: Path | None


class TopicReader:
    """Reads the tags of topics. `source_times`: take the time from the message where the tag says where it is."""

    def __init__(self, tags: Sequence[TapTag], readings: Readings, *, source_times: bool) -> None:
        self._readings, self._source_times = readings, source_times
        self._places: dict[str, list[_Place]] = {}
        for index, tag in enumerate(tags):
            if tag.topic:
                path = parse_path(tag.path) if tag.path else None
                time_path = parse_path(tag.time_path) if tag.time_path else None
                self._places.setdefault(tag.topic, []).append(_Place(index, tag, path, time_path))

    @property
    def topics(self) -> list[str]:
        """All topics."""
        return list(self._places)

    def received(self, topic: str, payload: bytes, now_us: int, *, retained: bool) -> None:
        """Read a message. A retained one may be old, so its values are uncertain."""
        places = self._places.get(topic, ())
        if len(payload) > MAX_PAYLOAD:
            self._fail(places, f"a message of {len(payload)} bytes on {topic}, at most {MAX_PAYLOAD} are read")
            return
        document: object = None
        if any(place.path is not None for place in places):
            try:
                document = msgspec.json.decode(payload)
            except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
                self._fail([one for one in places if one.path is not None], f"no JSON on {topic}: {error}"[:200])
                places = [one for one in places if one.path is None]
        for place in places:
            self._read(place, payload, document, now_us, retained=retained)

    def _read(self, place: _Place, payload: bytes, document: object, now_us: int, *, retained: bool) -> None:
        tag = place.tag
        try:
            found = payload.decode("utf-8").strip() if place.path is None else follow(document, place.path)
            value = to_sample(found, tag.type, tag.scale, tag.offset)
            source_us = None
            if place.time_path is not None and self._source_times:
                source_us = to_time_us(follow(document, place.time_path), tag.time_unit)
        except (ValueError, UnicodeDecodeError) as error:
            self._readings.fail(place.index, f"{tag.topic} {tag.path}: {error}"[:200])
            return
        dated = source_us is not None
        quality = "uncertain" if retained and not dated else "good"
        self._readings.add(place.index, value, sample_time(source_us, now_us), quality)  # type: ignore[arg-type]

    def _fail(self, places: Sequence[_Place], reason: str) -> None:
        for place in places:
            self._readings.fail(place.index, reason)
