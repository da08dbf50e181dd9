"""What a twin refers to is fetched from a hub's real REST over TLS, by a device that is enrolled or has a CA alone."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from simulators.brokers import free_port
from simulators.enrolment import EnrolmentHub, enrolment_hub

from cloud_hub.thresholds.limits import files as limit_files
from edge_agent.link import downloads, est
from edge_agent.link.downloads import Downloader
from edge_agent.link.pki import DeviceIdentity
from edge_agent.link.trust import enrol
from shared.errors import ConfigError, NotReady
from shared.protocol.codec import encode
from shared.protocol.content_reference import FILES, Reference

LARGE = [{"metric": f"m{n}", "highs": [float(n + hour) for hour in range(168)]} for n in range(90)]


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EnrolmentHub]:
    with enrolment_hub(tmp_path_factory.mktemp("h") / "hub") as running:
        yield running


@pytest.fixture(scope="module")
def reference(hub: EnrolmentHub) -> Reference:
    """A file of the hub, larger than what enrolment ever answers."""
    with hub.db.write() as session:
        found = limit_files.desired_value(session, "press-3", LARGE, 1)
    assert isinstance(found, dict)
    reference = Reference(**found)
    assert reference.size > est.MAX_ANSWER
    return reference


def test_an_enrolled_device_gets_the_very_bytes(hub: EnrolmentHub, reference: Reference, tmp_path: Path) -> None:
    enrol("press-3", str(tmp_path), hub.url, hub.claim("press-3"), str(hub.ca))
    pki = DeviceIdentity(str(tmp_path))
    found = downloads.get(pki.url, str(pki.ca), pki.signing_key(), reference)
    assert found == encode(LARGE)
    assert reference.names(found)


def test_a_device_with_the_ca_alone_too(hub: EnrolmentHub, reference: Reference) -> None:
    assert reference.names(downloads.get(hub.url, str(hub.ca), None, reference))


def test_a_name_that_is_guessed_is_refused(hub: EnrolmentHub, reference: Reference) -> None:
    guess = Reference(digest=reference.digest, size=reference.size, path=f"{FILES}{'A' * 43}")
    with pytest.raises(est.EnrolmentRefused, match="404"):
        downloads.get(hub.url, str(hub.ca), None, guess)


def test_without_tls_nothing_is_fetched_from_elsewhere(reference: Reference) -> None:
    with pytest.raises(ConfigError, match="not protected"):
        downloads.get("http://10.0.0.5:8080", "", None, reference)
    with pytest.raises(est.EnrolmentRefused, match=r"link\.rest"):
        downloads.get("", "", None, reference)


def test_another_ca_is_not_believed(hub: EnrolmentHub, reference: Reference, tmp_path: Path) -> None:
    with enrolment_hub(tmp_path / "other") as other, pytest.raises(NotReady):
        downloads.get(hub.url, str(other.ca), None, reference)


def test_the_answer_comes_by_the_agents_thread(hub: EnrolmentHub, reference: Reference) -> None:
    posted: queue.Queue[Any] = queue.Queue()
    fetcher = Downloader(lambda: (hub.url, str(hub.ca)), None, posted.put)
    heard: list[tuple[bytes, str]] = []
    fetcher.fetch(reference, lambda found, reason: heard.append((found, reason)))
    posted.get(timeout=60)()
    assert heard == [(encode(LARGE), "")]
    guess = Reference(digest=reference.digest, size=reference.size, path=f"{FILES}{'B' * 43}")
    fetcher.fetch(guess, lambda found, reason: heard.append((found, reason)))
    posted.get(timeout=60)()
    assert heard[1][0] == b""
    assert "404" in heard[1][1]


def test_a_hub_that_is_away_is_asked_again_until_something_else_is_wanted(
    hub: EnrolmentHub, reference: Reference
) -> None:
    posted: queue.Queue[Any] = queue.Queue()
    urls = [f"https://127.0.0.1:{free_port()}", hub.url]
    fetcher = Downloader(lambda: (urls.pop(0) if len(urls) > 1 else urls[0], str(hub.ca)), None, posted.put)
    heard: list[str] = []
    fetcher.fetch(reference, lambda found, reason: heard.append(reason))
    posted.get(timeout=60)()
    assert heard == [""]
    fetcher.stop()
