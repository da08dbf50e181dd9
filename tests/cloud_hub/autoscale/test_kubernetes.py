"""The Kubernetes scaler against the strict simulated API server, over real sockets."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from examiners.scalers import Platform, examine_scaler

from cloud_hub.autoscale import Counts, Drift, Drifted, Scaler, ScaleRefused
from cloud_hub.autoscale.platforms.kubernetes import open_scaler
from cloud_hub.demo.cloud import Cloud, CloudServer, ClusterPolicy, Fault, main
from shared.errors import EXIT_CONFIG, ConfigError, NotReady

TOKEN = "token-4711"
PATH = "/apis/apps/v1/namespaces/tidegate/deployments/experts/scale"
PATCH_TYPE = {"Content-Type": "application/merge-patch+json"}


class World:
    """One simulated cloud whose clock stands still until the test moves it."""

    def __init__(self, folder: Path, **policy: object) -> None:
        self.now = 1000.0
        self.cloud = Cloud(policy=ClusterPolicy(token=TOKEN, **policy), now_s=lambda: self.now)  # type: ignore[arg-type]
        self.server = CloudServer(self.cloud)
        self.token_file = folder / "token"
        self.token_file.write_text(TOKEN + "\n")

    def scaler(self, **changes: object) -> Scaler:
        options: dict[str, object] = {
            "url": self.server.url, "namespace": "tidegate", "deployment": "experts",
            "token_file": str(self.token_file), "timeout_s": 2.0,
        }  # fmt: skip
        return open_scaler(options | changes)

    def call(self, method: str, body: str = "", path: str = PATH, **headers: str) -> httpx.Response:
        head = {"Authorization": f"Bearer {TOKEN}"} | {k.replace("_", "-"): v for k, v in headers.items()}
        with httpx.Client(trust_env=False, timeout=60) as client:
            return client.request(method, self.server.url + path, content=body, headers=head)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    with made.server:
        yield made


def test_the_examiner_accepts_it(tmp_path: Path) -> None:
    world = World(tmp_path, rate=1000)
    with world.server:
        examine_scaler(
            Platform(
                opened=world.scaler,
                limit=5,
                elsewhere=world.cloud.resize,
                lose_answer=lambda: world.cloud.faults.append("lose-answer"),
                cut=world.server.stop,
            )
        )
    assert world.cloud.asked == 1, "what was set elsewhere after the answer that was lost"


class Blind:
    """Seeded bug: forgets keys and versions, as a scaler without idempotency would."""

    def __init__(self, world: World) -> None:
        self.world, self.name = world, "blind"

    def current(self) -> Counts:
        return self.world.scaler().current()

    def scale(self, to: int, key: str, *, dry_run: bool = False) -> int:
        return self.world.scaler().scale(to, key)


def test_the_examiner_catches_a_scaler_that_acts_twice(tmp_path: Path) -> None:
    world = World(tmp_path, rate=1000)
    with world.server, pytest.raises(AssertionError, match="acted twice"):
        examine_scaler(
            Platform(
                opened=lambda: Blind(world),
                limit=5,
                elsewhere=world.cloud.resize,
                lose_answer=lambda: world.cloud.faults.append("lose-answer"),
                cut=world.server.stop,
            )
        )


def test_a_request_that_was_lost_is_done_by_its_repeat(world: World) -> None:
    scaler = world.scaler()
    world.cloud.faults += ["lose-request", "fail"]
    for _ in range(2):
        with pytest.raises(NotReady):
            scaler.scale(3, "k")
    assert scaler.scale(3, "k") == world.cloud.asked == 3


def test_two_hubs_do_not_overwrite_each_other(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    scaler = world.scaler()
    platform = scaler._platform  # type: ignore[attr-defined]
    read = platform.read

    def read_then_lose_the_race() -> object:
        seen = read()
        world.cloud.resize(2)
        return seen

    monkeypatch.setattr(platform, "read", read_then_lose_the_race)
    with pytest.raises(Drifted, match="expected 4, found 2") as caught:
        scaler.scale(4, "k")
    assert (caught.value.before, caught.value.drift) == (1, Drift(expected=4, found=2))
    monkeypatch.undo()
    assert scaler.scale(4, "k") == world.cloud.asked == 2, "a decision on a count that does not hold any more is spent"
    assert scaler.scale(4, "next") == 4


def test_a_changed_status_is_no_drift(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    scaler = world.scaler()
    scaler.scale(2, "boots")
    platform = scaler._platform  # type: ignore[attr-defined]
    read = platform.read

    def read_before_a_replica_is_ready() -> object:
        seen = read()
        world.now += 60
        return seen

    monkeypatch.setattr(platform, "read", read_before_a_replica_is_ready)
    with pytest.raises(NotReady, match="no action needed") as caught:
        scaler.scale(4, "k")
    assert not isinstance(caught.value, Drifted)
    assert scaler.scale(4, "k") == 4


def test_every_refusal_says_who_must_act(world: World) -> None:
    for changes, says in (
        ({"namespace": "elsewhere"}, "operator must create it"),
        ({"deployment": "nothing"}, "operator must create it"),
    ):
        with pytest.raises(ScaleRefused, match=says):
            world.scaler(**changes).current()
    with pytest.raises(ScaleRefused, match=r"raise the quota.*exceeded quota"):
        world.scaler().scale(6, "k")
    scaler = world.scaler()
    world.token_file.write_text("another")
    with pytest.raises(NotReady, match="credentials are not accepted") as caught:
        scaler.current()
    assert "another" not in str(caught.value)
    world.token_file.unlink()
    with pytest.raises(NotReady, match="credentials cannot be read"):
        scaler.current()


def test_a_rotated_token_is_read_again(world: World) -> None:
    scaler = world.scaler()
    world.token_file.write_text("expired")
    with pytest.raises(NotReady, match="credentials"):
        scaler.current()
    world.token_file.write_text(TOKEN)
    assert scaler.scale(2, "k") == 2


def test_a_dry_run_is_checked_by_the_api_server_and_changes_nothing(world: World) -> None:
    scaler = world.scaler()
    assert scaler.scale(3, "k", dry_run=True) == 3
    with pytest.raises(ScaleRefused, match="exceeded quota"):
        scaler.scale(6, "k", dry_run=True)
    assert world.cloud.asked == 1
    asked = [call.path for call in world.cloud.log if call.method == "PATCH"]
    assert len(asked) == 2
    assert all("dryRun=All" in path for path in asked)
    assert scaler.scale(3, "k") == 3, "a rehearsed key is not spent"


def test_ready_replicas_are_read_from_the_workload(world: World) -> None:
    scaler = world.scaler(ready=True)
    scaler.scale(3, "k")
    assert scaler.current() == Counts(desired=3, ready=1)
    world.now += 60
    assert scaler.current() == Counts(desired=3, ready=3)
    scaler.scale(0, "zero")
    assert scaler.current() == Counts(desired=0, ready=0)


@pytest.mark.parametrize(
    ("resource", "workload"),
    [
        ("apps/v1/statefulsets", {"deployment": "", "statefulset": "experts"}),
        ("example.com/v1beta1/caches", {"deployment": "", "custom": "caches.example.com/v1beta1/experts"}),
    ],
)
def test_stateful_sets_and_custom_resources_are_scaled(
    tmp_path: Path, resource: str, workload: dict[str, object]
) -> None:
    world = World(tmp_path, resource=resource)
    with world.server:
        assert world.scaler(**workload).scale(3, "k") == world.cloud.asked == 3
        assert world.scaler(ready=True, **workload).current().ready == 1


@pytest.mark.parametrize("fault", ["html", "other"])
def test_a_page_of_a_proxy_and_the_scale_of_another_workload_are_not_believed(world: World, fault: Fault) -> None:
    scaler = world.scaler()
    world.cloud.faults.append(fault)
    with pytest.raises(NotReady, match="answer is"):
        scaler.current()
    assert scaler.current().desired == 1


def test_an_unreadable_answer_to_a_write_is_no_failed_write(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    scaler = world.scaler()
    platform = scaler._platform  # type: ignore[attr-defined]
    read = platform.read

    def read_then_answer_with_a_page() -> object:
        seen = read()
        world.cloud.faults.append("html")
        return seen

    monkeypatch.setattr(platform, "read", read_then_answer_with_a_page)
    with pytest.raises(NotReady, match="answer is no Scale"):
        scaler.scale(3, "k")
    monkeypatch.undo()
    assert scaler.scale(3, "k") == world.cloud.asked == 3
    assert len([call for call in world.cloud.log if call.method == "PATCH"]) == 1


def kubeconfig(world: World, folder: Path, **user: object) -> Path:
    file = folder / "kubeconfig"
    parts = {
        "current-context": "a",
        "clusters": [{"name": "c", "cluster": {"server": world.server.url}}],
        "users": [{"name": "u", "user": user}],
        "contexts": [{"name": "a", "context": {"cluster": "c", "user": "u"}}],
    }
    file.write_text(json.dumps(parts))
    return file


def test_a_kubeconfig_and_a_service_account_give_the_credentials(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, object] = {"namespace": "tidegate", "deployment": "experts"}
    file = kubeconfig(world, tmp_path, token=TOKEN)
    assert open_scaler(options | {"kubeconfig": str(file)}).current().desired == 1
    with pytest.raises(ConfigError, match="kubeconfig"):
        open_scaler(options | {"kubeconfig": str(file), "context": "none"})
    file.write_text("clusters: [")
    with pytest.raises(ConfigError, match="kubeconfig"):
        open_scaler(options | {"kubeconfig": str(file)})
    with pytest.raises(ConfigError, match="run within a pod"):
        open_scaler(options)


def test_too_many_requests_say_how_long_to_wait(tmp_path: Path) -> None:
    world = World(tmp_path, rate=2)
    with world.server:
        scaler = world.scaler()
        assert scaler.current().desired == scaler.current().desired == 1
        with pytest.raises(NotReady, match="retry later") as caught:
            scaler.current()
        assert caught.value.wait_s == 1.0
        world.now += 2
        assert scaler.current().desired == 1


def test_a_silent_server_ends_in_not_ready(world: World) -> None:
    with world.cloud._lock, pytest.raises(NotReady, match="no answer within"):
        world.scaler(timeout_s=0.05).current()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"url": "http://cluster.example:6443"}, "https"),
        ({"url": "file:///x"}, "url"),
        ({"namespace": "../x"}, "no Kubernetes name"),
        ({"timeout_s": 0}, "timeout_s"),
        ({"replica": 3}, "replica"),
        ({"token_file": "does-not-exist"}, "token_file"),
        ({"ca_file": "does-not-exist"}, "ca_file"),
    ],
)
def test_options_are_checked_at_the_start(tmp_path: Path, changes: dict[str, object], says: str) -> None:
    world = World(tmp_path)
    try:
        with pytest.raises(ConfigError, match=says):
            world.scaler(**changes)
    finally:
        world.server.stop()


def test_the_simulator_refuses_what_a_cluster_refuses(world: World) -> None:
    def status(method: str, body: str = "", path: str = PATH, **headers: str) -> int:
        answer = world.call(method, body, path, **headers)
        assert answer.status_code == 200 or answer.json()["code"] == answer.status_code
        return answer.status_code

    assert status("GET", Authorization="Bearer wrong") == 401
    assert status("GET", path="/apis/apps/v1/nothing") == 404
    assert status("PUT") == 405
    assert status("PATCH", '{"spec": {"replicas": 2}}') == 415
    for count in ("-1", "2.0", "true", '"2"'):
        assert status("PATCH", f'{{"spec": {{"replicas": {count}}}}}', **PATCH_TYPE) == 422
    assert status("PATCH", "[", **PATCH_TYPE) == 400
    assert status("PATCH", '{"spec": {"replicas": 9}}', **PATCH_TYPE) == 403
    stale = '{"metadata": {"resourceVersion": "1"}, "spec": {"replicas": 2}}'
    assert status("PATCH", stale, **PATCH_TYPE) == 409
    assert world.cloud.asked == 1
    calls = world.call("GET", path="/log").json()["calls"]
    assert [call["status"] for call in calls] == [401, 404, 405, 415, 422, 422, 422, 422, 400, 403, 409]
    assert len(world.cloud.log) == len(calls)


def test_replicas_become_ready_after_their_boot(world: World) -> None:
    scaler = world.scaler()
    scaler.scale(3, "a")
    first = world.call("GET").json()
    assert (first["spec"]["replicas"], first["status"]["replicas"], world.cloud.ready) == (3, 1, 1)
    world.now += 3.0
    later = world.call("GET").json()
    assert later["status"]["replicas"] == 3
    assert later["metadata"]["resourceVersion"] != first["metadata"]["resourceVersion"]
    scaler.scale(0, "b")
    assert (scaler.current().desired, world.cloud.ready) == (0, 0)


def test_the_program_needs_its_token(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--token-file", str(tmp_path / "none")]) == EXIT_CONFIG
    assert "token" in capsys.readouterr().err
