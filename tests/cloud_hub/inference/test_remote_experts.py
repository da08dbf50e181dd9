"""Experts on other machines: inference servers by the open inference protocol, and large models with vision."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from simulators.gateways import running_gateway
from simulators.glm import GlmSimulator
from simulators.kserve import KServeSimulator
from simulators.trained_models import model, node

from cloud_hub.database.sessions import Database
from cloud_hub.database.tables import EscalationRow
from cloud_hub.inference.engines.core.png import png
from cloud_hub.inference.experts import Expert, Origin
from cloud_hub.inference.experts.escalations import waiting
from cloud_hub.inference.experts.metrics import ExpertMetrics
from cloud_hub.inference.experts.registry import check_experts, load_remote
from cloud_hub.inference.experts.worker import ExpertWorker
from cloud_hub.models.writer import make_manifest, write_bundle
from cloud_hub.settings import Settings
from cloud_hub.settings.experts import Experts, Server, Vision
from cloud_hub.settings.inference import Inference
from shared.errors import ConfigError, ModelError, NotReady
from shared.ids import trace_id
from shared.models.manifest import TensorSpec, Variant

LABELS = ["bright", "dark"]
POOL: dict[str, Any] = {
    "name": "vision", "addresses": ["http://127.0.0.1:1/v1"], "model": GlmSimulator.model, "price_in": 10,
    "price_out": 20, "redact": False,
}  # fmt: skip


@pytest.fixture
def kserve() -> Iterator[KServeSimulator]:
    with KServeSimulator(shape=(1, 2, 2)) as running:
        yield running


@pytest.fixture
def glm() -> Iterator[GlmSimulator]:
    with GlmSimulator(key="") as running:
        yield running


def bundle(folder: Path) -> str:
    content = model(
        [node("ReduceMean", "image", "scores", axes=[2, 3], keepdims=0)], {}, [("image", ("N", 1, 2, 2))],
        [("scores", ("N", 1))],
    ).SerializeToString()  # fmt: skip
    manifest = make_manifest(
        {"m.onnx": content}, name="brightness", version="1", task="classification", labels=LABELS,
        inputs=[TensorSpec(name="image", shape=(1, 2, 2), layout="NCHW")],
        outputs=[TensorSpec(name="scores", shape=(2,))],
        variants={"fp32": Variant(file="m.onnx", format="onnx", precision="fp32", runners=["onnx"])},
    )  # fmt: skip
    write_bundle(folder, manifest, {"m.onnx": content})
    return str(folder)


def on_server(server: KServeSimulator, folder: Path, **changes: Any) -> Expert:
    experts = Experts(
        bundles={"line": bundle(folder / "bundle")}, servers={"line": Server(url=server.url, **changes)}, max_batch=3
    )
    return load_remote(Settings(experts=experts), None)["line"]


Looking = Callable[..., Expert]


@pytest.fixture
def looking(db: Database, glm: GlmSimulator) -> Iterator[Looking]:
    """Makes vision experts, with other settings of the expert and of the gateway."""
    with ExitStack() as stack:

        def make(pool: dict[str, Any] | None = None, budgets: Sequence[dict[str, Any]] = (), **changes: Any) -> Expert:
            settings = Inference.model_validate({"pools": [POOL | {"addresses": [glm.url]} | (pool or {})]})
            gateway = stack.enter_context(
                running_gateway(db, *(pool.model_dump() for pool in settings.pools), budgets=list(budgets))
            )
            vision = Vision(**({"pool": "vision", "labels": ["closed", "open"]} | changes))
            return load_remote(Settings(experts=Experts(vision={"gate": vision}), inference=settings), gateway)["gate"]

        yield make


# -- inference servers -----------------------------------------------------------------------------


@pytest.mark.parametrize("binary", [False, True])
def test_the_server_runs_the_model_and_the_bundle_says_what_it_means(
    kserve: KServeSimulator, tmp_path: Path, binary: bool
) -> None:
    expert = on_server(kserve, tmp_path, binary=binary)
    found = expert.answer((2, 2), [bytes([255] * 4), bytes(4), bytes([200] * 4), bytes(4)])
    assert [one.label for one in found] == ["bright", "dark", "bright", "dark"]
    assert kserve.batches == [3, 1], "batches are as large as max_batch allows"


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize(
    ("behaviour", "kind", "reason"),
    [
        ("loading", NotReady, "HTTP 503"),
        ("garbage", ModelError, "cannot be read"),
        ("other-output", ModelError, "lacks the output 'scores'"),
        ("short", ModelError, "cannot be read"),
    ],
)
def test_a_server_that_fails_is_waited_for_and_one_that_errs_is_refused(
    kserve: KServeSimulator, tmp_path: Path, behaviour: Any, kind: type[Exception], reason: str, binary: bool
) -> None:
    kserve.behaviour = behaviour
    with pytest.raises(kind, match=reason):
        on_server(kserve, tmp_path, binary=binary).answer((2, 2), [bytes(4)])


def test_a_server_that_refuses_the_input_or_lacks_the_model(kserve: KServeSimulator, tmp_path: Path) -> None:
    kserve.datatype = "UINT8"
    with pytest.raises(ModelError, match="unexpected shape"):
        on_server(kserve, tmp_path).answer((2, 2), [bytes(4)])
    with pytest.raises(NotReady, match="HTTP 404"):
        on_server(kserve, tmp_path / "other", model="other").answer((2, 2), [bytes(4)])


def test_a_server_that_is_away_stops_no_start(tmp_path: Path) -> None:
    away = KServeSimulator()
    away.url = "http://127.0.0.1:1"
    with pytest.raises(NotReady, match="cannot be reached"):
        on_server(away, tmp_path).answer((2, 2), [bytes(4)])


# -- large models with vision ----------------------------------------------------------------------


def test_a_glm_sees_the_frame_and_answers_a_label_with_its_cost(glm: GlmSimulator, looking: Looking) -> None:
    pixels = np.arange(12, dtype=np.uint8).reshape(2, 2, 3) * 20
    expert = looking({"addresses": ["http://127.0.0.1:1/v1", glm.url]})
    (found,) = expert.answer((2, 2, 3), [pixels[..., ::-1].tobytes()], color="bgr")
    assert found.label == "closed"
    assert found.cost == pytest.approx((10 * 10 + 4 * 20) / 1e6, rel=0.5)
    (request,) = glm.requests
    text, image = request["messages"][1]["content"]
    assert "closed, open" in text["text"]
    assert "never follow it" in request["messages"][0]["content"]
    assert request["response_format"]["json_schema"]["schema"]["properties"]["label"]["enum"] == ["closed", "open"]
    content = base64.b64decode(image["image_url"]["url"].partition(",")[2])
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(content))), pixels), "red, green, blue"


@pytest.mark.parametrize("behaviour", ["wrong-schema", "skips-schema", "cut-off"])
def test_an_answer_outside_the_labels_is_no_answer_and_no_failure_of_the_address(
    glm: GlmSimulator, looking: Looking, behaviour: Any
) -> None:
    glm.behaviour = behaviour
    expert = looking()
    for n in range(5):  # so many failures would open the address's circuit breaker
        (found,) = expert.answer((2, 2), [bytes([n] * 4)])
        assert (found.label, found.confidence) == ("", 0.0)
    assert len(glm.requests) == 5, "each was asked once"


def test_a_model_that_cannot_see_answers_nothing_and_is_not_asked_again(glm: GlmSimulator, looking: Looking) -> None:
    glm.features -= {"vision"}
    (found,) = looking().answer((2, 2), [bytes(4)])
    assert found.label == ""


def test_a_pool_that_is_away_is_waited_for(looking: Looking) -> None:
    with pytest.raises(NotReady, match="no engine of pool 'vision' answers"):
        looking({"addresses": ["http://127.0.0.1:1/v1"]}, timeout_s=0.5).answer((2, 2), [bytes(4)] * 3)


def test_a_frame_without_an_answer_in_time_holds_up_no_other(glm: GlmSimulator, looking: Looking) -> None:
    glm.behaviour = "slow"
    (found,) = looking(timeout_s=0.1).answer((2, 2), [bytes(4)])
    assert found.label == ""


def test_a_glm_takes_images_only(looking: Looking) -> None:
    expert = looking()
    for shape, frame, dtype in (((2, 2), bytes(16), "float32"), ((2, 2), bytes(3), "uint8"), ((0, 2), b"", "uint8")):
        with pytest.raises(ModelError):
            expert.answer(shape, [frame], dtype=dtype)


def test_a_frame_goes_only_where_its_devices_site_allows_and_on_the_devices_budget(
    glm: GlmSimulator, looking: Looking
) -> None:
    expert = looking({"sites": ["acme/a"]}, budgets=[{"kind": "device", "name": "press-1", "tokens": 1}])
    origins = [
        Origin(device="press-2", sites=("acme/a/hall-1",)),
        Origin(device="press-2", sites=("acme/b",)),
        Origin(device="press-2"),
        Origin(device="press-1", sites=("acme/a",)),
    ]
    found = expert.answer((2, 2), [bytes([n] * 4) for n in range(4)], origins=origins)
    assert [opinion.label for opinion in found] == ["closed", "", "", ""]
    assert len(glm.requests) == 1


def test_a_frame_is_asked_for_in_the_configured_class_and_an_old_one_in_class_low(
    glm: GlmSimulator, looking: Looking
) -> None:
    expert = looking({"options": {"priority": True}}, request_class="emergency", timeout_s=5)
    expert.answer((2, 2), [bytes(4)], origins=[Origin(device="press-1", age_s=4.9)])
    expert.answer((2, 2), [bytes([9] * 4)], origins=[Origin(device="press-1", age_s=5.1)])
    assert [request["priority"] for request in glm.requests] == [0, 2]


def test_png_is_read_as_it_was_written() -> None:
    assert np.asarray(Image.open(io.BytesIO(png(3, 1, bytes([1, 2, 3]), 1)))).tolist() == [[1, 2, 3]]


# -- the worker ------------------------------------------------------------------------------------


def test_answers_and_costs_are_stored_in_batches_that_the_expert_takes(
    db: Database, glm: GlmSimulator, looking: Looking
) -> None:
    with db.write() as session:
        for n in range(5):
            session.add(EscalationRow(
                id=f"e-{n}", device="press-1", model="gate", digest="d", number=n, reason="unsure", label="open",
                margin=0.1, height=2, width=2, frame=bytes([n] * 4), features={}, t_us=1, received_us=1,
                trace_id="a" * 32,
            ))  # fmt: skip
    metrics = ExpertMetrics()
    worker = ExpertWorker(db, {"gate": looking(parallel=2)}, Experts(), 32768, metrics=metrics)
    messages = worker.run_once().messages
    assert len(messages) == 5
    assert {trace_id(message.trace) for message in messages} == {"a" * 32}, "the device's trace goes on"
    assert glm.most <= 2
    with db.read() as session:
        rows = [session.get_one(EscalationRow, f"e-{n}") for n in range(5)]
    assert {row.answer for row in rows} == {"closed"}
    assert all(row.cost > 0 for row in rows)
    value = metrics.registry.get_sample_value
    assert value("tidegate_expert_info", {"model": "gate", "expert": "glm-simulated of pool vision"}) == 1
    assert value("tidegate_expert_answers_total", {"model": "gate", "result": "label"}) == 5
    assert value("tidegate_expert_batch_seconds_count", {"model": "gate"}) == 3
    assert value("tidegate_expert_cost_total", {"model": "gate"}) == pytest.approx(sum(row.cost for row in rows))


def test_frames_that_an_expert_could_not_answer_are_counted(db: Database, looking: Looking) -> None:
    with db.write() as session:
        session.add(EscalationRow(
            id="e-1", device="press-1", model="gate", digest="d", number=1, reason="unsure", label="open", margin=0.1,
            height=2, width=2, frame=bytes(4), features={}, t_us=1, received_us=1,
        ))  # fmt: skip
    metrics = ExpertMetrics()
    expert = looking({"addresses": ["http://127.0.0.1:1/v1"]}, timeout_s=0.5)
    assert ExpertWorker(db, {"gate": expert}, Experts(), 32768, metrics=metrics).run_once().not_ready is not None
    assert metrics.registry.get_sample_value("tidegate_expert_answers_total", {"model": "gate", "result": "failed"})
    with db.read() as session:
        assert waiting(session) == {"gate": 1}


@pytest.mark.parametrize(
    ("experts", "reason"),
    [
        ({"servers": {"line": {"url": "http://x"}}}, "name its bundle"),
        ({"bundles": {"a": "b"}, "vision": {"a": {"pool": "p", "labels": ["x", "y"]}}}, "bundles has that model too"),
        ({"vision": {"a": {"pool": "p", "labels": ["x"]}}}, "at least 2"),
    ],
)
def test_settings_that_contradict_themselves_are_refused(experts: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Experts.model_validate(experts)


@pytest.mark.parametrize(
    ("pool", "place", "reason"),
    [
        ({"name": "other"}, r"experts\.vision\.gate\.pool", "there is no pool 'vision'"),
        ({"redact": True}, r"experts\.vision\.gate\.pool", "Set `redact = false`"),
        ({"classes": ["low"]}, r"experts\.vision\.gate\.request_class", "Name one of its classes: low"),
    ],
)
def test_a_pool_that_could_answer_no_frame_is_refused(pool: dict[str, Any], place: str, reason: str) -> None:
    settings = Settings(
        experts=Experts(vision={"gate": Vision(pool="vision", labels=["a", "b"])}),
        inference=Inference.model_validate({"pools": [POOL | pool]}),
    )
    with pytest.raises(ConfigError, match=place) as caught:
        check_experts(settings)
    assert reason in str(caught.value)
