"""The external scaler for KEDA: a real gRPC client asks it over loopback, with and without mutual TLS."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from examiners.scalers import Platform, examine_scaler
from prometheus_client import generate_latest
from simulators.brokers import free_port
from simulators.certificates import certificates
from simulators.keda import keda

from cloud_hub.autoscale import Counts, Scaler, ScaleRefused, published
from cloud_hub.autoscale.platforms import keda_server
from cloud_hub.autoscale.platforms.idempotent import OutcomeUnknown
from cloud_hub.autoscale.platforms.keda import KedaPlatform, open_scaler
from cloud_hub.autoscale.platforms.keda_messages import GetMetricsRequest
from cloud_hub.autoscale.platforms.keda_server import Address, KedaServer
from cloud_hub.autoscale.published import PUBLISHED, Published
from shared.errors import ConfigError, NotReady


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """One server for the module, as in a hub."""
    yield f"127.0.0.1:{free_port()}"
    keda_server.stop_all()


@pytest.fixture(autouse=True)
def nothing_published() -> Iterator[None]:
    yield
    for target in ("experts", "others"):
        PUBLISHED.withdraw(target)


def opened(folder: Path, **changes: object) -> Scaler:
    options = {"target": "experts", "state_file": str(folder / "experts.json"), "initial": 2}
    return open_scaler({**options, **changes})


def test_the_examiner_accepts_it(tmp_path: Path, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write, lost = KedaPlatform.write, []

    def write_and_perhaps_fail(self: KedaPlatform, to: int, key: str, seen: Any) -> None:
        write(self, to, key, seen)
        if lost:
            raise OutcomeUnknown(lost.pop())

    def cut() -> None:
        keda_server.stop_all()
        monkeypatch.setattr(keda_server, "START_S", 1.0)
        monkeypatch.setattr(KedaServer, "_serve", broken)

    async def broken(self: KedaServer) -> None:
        raise RuntimeError("address in use")

    monkeypatch.setattr(KedaPlatform, "write", write_and_perhaps_fail)
    examine_scaler(
        Platform(
            opened=lambda: opened(tmp_path, listen=address, maximum=5), limit=5, cut=cut,
            elsewhere=lambda to: PUBLISHED.set("experts", to), lose_answer=lambda: lost.append("lost"),
        )
    )  # fmt: skip


def test_keda_arrives_at_the_wanted_count(tmp_path: Path, address: str) -> None:
    scaler = opened(tmp_path, listen=address)
    assert scaler.current() == Counts(desired=2, minimum=0, maximum=10_000)
    with keda(address, target="experts", scalerAddress=address) as asked:
        assert asked.replicas() == 2
        assert asked.spec().metricName == "tidegate-experts"
        for number, to in enumerate((7, 0, 1)):
            assert scaler.scale(to, f"k{number}") == to
            assert asked.replicas() == to


def test_a_change_between_nothing_and_something_is_pushed(tmp_path: Path, address: str) -> None:
    scaler = opened(tmp_path, listen=address)
    scaler.current()
    with keda(address, target="experts") as asked:
        pushed = asked.activity()
        assert next(pushed) is True
        scaler.scale(4, "more")  # still active: nothing is pushed
        scaler.scale(0, "zero")
        assert next(pushed) is False
        scaler.scale(1, "one")
        assert next(pushed) is True
        PUBLISHED.withdraw("experts")
        with pytest.raises(grpc.RpcError) as caught:
            next(pushed)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def test_several_targets_share_an_address(tmp_path: Path, address: str) -> None:
    first = opened(tmp_path, listen=address)
    second = opened(tmp_path, listen=address, target="others", state_file=str(tmp_path / "others.json"))
    first.scale(3, "a")
    second.scale(5, "a")
    for target, count in (("experts", 3), ("others", 5)):
        with keda(address, target=target) as asked:
            assert asked.replicas() == count


@pytest.mark.parametrize(
    ("metadata", "code", "says"),
    [
        ({"target": "unknown"}, grpc.StatusCode.UNAVAILABLE, "wants nothing for target 'unknown'"),
        ({}, grpc.StatusCode.INVALID_ARGUMENT, "give the target's name"),
        ({"target": ""}, grpc.StatusCode.INVALID_ARGUMENT, "give the target's name"),
    ],
)
def test_without_a_count_keda_gets_an_error_and_holds(
    tmp_path: Path, address: str, metadata: dict[str, str], code: grpc.StatusCode, says: str
) -> None:
    opened(tmp_path, listen=address).current()
    with keda(address, **metadata) as asked:
        for call in (asked.is_active, lambda: asked.metric("tidegate-unknown"), lambda: next(asked.activity())):
            with pytest.raises(grpc.RpcError) as caught:
                call()
            assert caught.value.code() is code
            assert says in caught.value.details()


def test_another_metric_is_refused_and_bytes_that_are_no_message_too(tmp_path: Path, address: str) -> None:
    opened(tmp_path, listen=address).current()
    with keda(address, target="experts") as asked:
        with pytest.raises(grpc.RpcError, match="tidegate-experts"):
            asked.metric("another")
        raw = asked._channel.unary_unary("/externalscaler.ExternalScaler/GetMetrics")
        with pytest.raises(grpc.RpcError) as caught:
            raw(b"\xff\xff\xff", timeout=10)
        assert caught.value.code() is grpc.StatusCode.UNKNOWN
        with pytest.raises(grpc.RpcError) as caught:
            raw(b"\x12" + b"\x80\x80\x08" + b"x" * (1 << 17), timeout=10)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert asked.replicas() == 2


def test_the_wire_is_that_of_kedas_definition() -> None:
    request = GetMetricsRequest(metricName="m")
    request.scaledObjectRef.name = "n"
    request.scaledObjectRef.scalerMetadata["target"] = "t"
    assert request.SerializeToString() == b"\x0a\x10\x0a\x01n\x1a\x0b\x0a\x06target\x12\x01t\x12\x01m"


def test_mutual_tls_lets_only_keda_in(tmp_path: Path) -> None:
    certificates(tmp_path, "hub", "keda")
    (tmp_path / "other").mkdir()
    certificates(tmp_path / "other", "stranger")
    read = {file: (tmp_path / file).read_bytes() for file in ("ca.pem", "keda.pem", "keda.key", "other/stranger.pem",
                                                              "other/stranger.key")}  # fmt: skip
    files = [str(tmp_path / name) for name in ("hub.pem", "hub.key", "ca.pem")]
    counts = Published()
    counts.set("experts", 3)
    server = KedaServer(Address("127.0.0.1:0", *files), counts).start()
    try:
        at = f"localhost:{server.port}"
        good = grpc.ssl_channel_credentials(read["ca.pem"], read["keda.key"], read["keda.pem"])
        with keda(at, good, target="experts") as asked:
            assert asked.replicas() == 3
        none = grpc.ssl_channel_credentials(read["ca.pem"])
        wrong = grpc.ssl_channel_credentials(read["ca.pem"], read["other/stranger.key"], read["other/stranger.pem"])
        for credentials in (none, wrong):
            with keda(at, credentials, target="experts") as asked, pytest.raises(grpc.RpcError) as caught:
                asked.is_active()
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        certificates(tmp_path, "hub", "keda")  # the authority and its certificates are renewed
        read = {file: (tmp_path / file).read_bytes() for file in ("ca.pem", "keda.pem", "keda.key")}
        renewed = grpc.ssl_channel_credentials(read["ca.pem"], read["keda.key"], read["keda.pem"])
        with keda(at, renewed, target="experts") as asked:
            assert asked.replicas() == 3
    finally:
        server.stop()


def test_a_second_hub_gets_no_part_of_the_calls(address: str, tmp_path: Path) -> None:
    opened(tmp_path, listen=address).current()
    with pytest.raises(NotReady, match="is another hub running"):
        KedaServer(Address(address)).start()


def test_a_restarted_hub_publishes_what_it_wanted_last(tmp_path: Path) -> None:
    opened(tmp_path).scale(9, "k")
    PUBLISHED.withdraw("experts")
    assert PUBLISHED.get("experts") is None
    assert opened(tmp_path, initial=1).current().desired == 9
    assert PUBLISHED.get("experts") == 9


def test_a_count_that_cannot_be_kept_is_not_published(tmp_path: Path) -> None:
    scaler = opened(tmp_path, state_file=str(tmp_path / "none" / "experts.json"))
    with pytest.raises(NotReady, match="cannot be written"):
        scaler.scale(5, "k")
    assert PUBLISHED.get("experts") == 2
    (tmp_path / "none").mkdir()
    assert scaler.scale(5, "k") == PUBLISHED.get("experts") == 5


def test_a_count_that_is_not_confirmed_is_not_published_any_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(published.time, "monotonic", lambda: now[0])
    scaler = opened(tmp_path, fresh_s=60)
    scaler.scale(5, "k")
    for _ in range(3):  # each turn of the autoscaler reads, and so confirms
        now[0] += 50
        assert scaler.current().desired == PUBLISHED.get("experts") == 5
    now[0] += 70
    assert PUBLISHED.get("experts") is None
    assert b'target="experts"' not in generate_latest(PUBLISHED.registry)
    assert scaler.current().desired == 5, "the autoscaler is back"


def test_the_metric_has_the_same_count(tmp_path: Path) -> None:
    scaler = opened(tmp_path)
    assert b'target="experts"' not in generate_latest(PUBLISHED.registry)
    scaler.scale(6, "k")
    assert b'tidegate_autoscale_desired_replicas{target="experts"} 6.0' in generate_latest(PUBLISHED.registry)


def test_a_dry_run_publishes_nothing(tmp_path: Path) -> None:
    scaler = opened(tmp_path, maximum=8)
    assert scaler.scale(6, "k", dry_run=True) == 6
    with pytest.raises(ScaleRefused, match="maximum of 8"):
        scaler.scale(9, "k", dry_run=True)
    assert PUBLISHED.get("experts") == 2


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"target": "Experts!"}, "target"),
        ({"initial": -1}, "initial"),
        ({"fresh_s": 0}, "fresh_s"),
        ({"listen": "9300"}, "host:port"),
        ({"listen": "127.0.0.1:99999"}, "host:port"),
        ({"listen": "0.0.0.0:9300"}, "beyond loopback"),
        ({"listen": "0.0.0.0:9300", "cert_file": "a"}, "belong together"),
        (
            {"listen": "0.0.0.0:9300", "cert_file": "does-not-exist", "key_file": "b", "client_ca_file": "c"},
            "cert_file: 'does-not-exist'",
        ),
        ({"port": 1}, "port"),
    ],
)
def test_options_are_checked_at_the_start(tmp_path: Path, changes: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        opened(tmp_path, **changes)


@pytest.mark.parametrize("content", [b"", b"{}", b'{"wanted": -1}', b'{"wanted": "3"}'])
def test_a_broken_state_file_is_not_guessed(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "experts.json").write_bytes(content)
    with pytest.raises(ConfigError, match="state_file"):
        opened(tmp_path)
