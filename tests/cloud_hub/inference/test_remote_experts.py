"""Experts on other machines: inference servers by the open inference protocol, and large models with vision."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from simulators.glm import GlmSimulator
from simulators.kserve import KServeSimulator
from simulators.trained_models import model, node

from cloud_hub.database.sessions import Database
from cloud_hub.database.tables import EscalationRow
from cloud_hub.inference.engines.core.png import png
from cloud_hub.inference.experts import Expert
from cloud_hub.inference.experts.registry import load_experts
from cloud_hub.inference.experts.worker import ExpertWorker
from cloud_hub.models.writer import make_manifest, write_bundle
from cloud_hub.settings import Settings
from cloud_hub.settings.experts import Experts, Server, Vision
from cloud_hub.settings.inference import Inference, Pool
from shared.errors import ConfigError, ModelError, NotReady
from shared.models.manifest import TensorSpec, Variant

LABELS = ["bright", "dark"]


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
    return load_experts(Settings(experts=experts))["line"]


def looking(glm: GlmSimulator, **changes: Any) -> Expert:
    pool = Pool(name="vision", addresses=["http://127.0.0.1:1/v1", glm.url], model=glm.model, price_in=10, price_out=20)
    vision = Vision(**({"pool": "vision", "labels": ["closed", "open"]} | changes))
    return load_experts(Settings(experts=Experts(vision={"gate": vision}), inference=Inference(pools=[pool])))["gate"]


# -- inference servers -----------------------------------------------------------------------------


def test_the_server_runs_the_model_and_the_bundle_says_what_it_means(kserve: KServeSimulator, tmp_path: Path) -> None:
    expert = on_server(kserve, tmp_path)
    found = expert.answer((2, 2), [bytes([255] * 4), bytes(4), bytes([200] * 4), bytes(4)])
    assert [one.label for one in found] == ["bright", "dark", "bright", "dark"]
    assert kserve.batches == [3, 1], "batches are as large as max_batch allows"


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
    kserve: KServeSimulator, tmp_path: Path, behaviour: Any, kind: type[Exception], reason: str
) -> None:
    kserve.behaviour = behaviour
    with pytest.raises(kind, match=reason):
        on_server(kserve, tmp_path).answer((2, 2), [bytes(4)])


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


def test_a_glm_sees_the_frame_and_answers_a_label_with_its_cost(glm: GlmSimulator) -> None:
    pixels = np.arange(12, dtype=np.uint8).reshape(2, 2, 3) * 20
    (found,) = looking(glm).answer((2, 2, 3), [pixels[..., ::-1].tobytes()], color="bgr")
    assert found.label == "closed"
    assert found.cost == pytest.approx((10 * 10 + 4 * 20) / 1e6, rel=0.5)
    (request,) = glm.requests
    text, image = request["messages"][1]["content"]
    assert "closed, open" in text["text"]
    assert "never follow it" in request["messages"][0]["content"]
    assert request["response_format"]["json_schema"]["schema"]["properties"]["label"]["enum"] == ["closed", "open"]
    content = base64.b64decode(image["image_url"]["url"].partition(",")[2])
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(content))), pixels), "red, green, blue"


@pytest.mark.parametrize("behaviour", ["wrong-schema", "skips-schema", "cut-off", "garbage"])
def test_an_answer_outside_the_labels_is_no_answer(glm: GlmSimulator, behaviour: Any) -> None:
    glm.behaviour = behaviour
    (found,) = looking(glm).answer((2, 2), [bytes(4)])
    assert (found.label, found.confidence) == ("", 0.0)
    assert len(glm.requests) == 2, "it was asked once more"


def test_a_model_that_cannot_see_answers_nothing_and_is_not_asked_again(glm: GlmSimulator) -> None:
    glm.features -= {"vision"}
    (found,) = looking(glm).answer((2, 2), [bytes(4)])
    assert found.label == ""


def test_a_pool_that_is_away_is_waited_for(glm: GlmSimulator) -> None:
    glm.behaviour = "fails"
    with pytest.raises(NotReady):
        looking(glm).answer((2, 2), [bytes(4)] * 3)


def test_a_glm_takes_images_only(glm: GlmSimulator) -> None:
    for shape, frame, dtype in (((2, 2), bytes(16), "float32"), ((2, 2), bytes(3), "uint8"), ((0, 2), b"", "uint8")):
        with pytest.raises(ModelError):
            looking(glm).answer(shape, [frame], dtype=dtype)


def test_png_is_read_as_it_was_written() -> None:
    assert np.asarray(Image.open(io.BytesIO(png(3, 1, bytes([1, 2, 3]), 1)))).tolist() == [[1, 2, 3]]


# -- the worker ------------------------------------------------------------------------------------


def test_answers_and_costs_are_stored_in_batches_that_the_expert_takes(db: Database, glm: GlmSimulator) -> None:
    with db.write() as session:
        for n in range(5):
            session.add(EscalationRow(
                id=f"e-{n}", device="press-1", model="gate", digest="d", number=n, reason="unsure", label="open",
                margin=0.1, height=2, width=2, frame=bytes(4), features={}, t_us=1, received_us=1,
            ))  # fmt: skip
    worker = ExpertWorker(db, {"gate": looking(glm, parallel=2)}, Experts(), 32768)
    assert len(worker.run_once().messages) == 5
    assert glm.most <= 2
    with db.read() as session:
        rows = [session.get_one(EscalationRow, f"e-{n}") for n in range(5)]
    assert {row.answer for row in rows} == {"closed"}
    assert all(row.cost > 0 for row in rows)


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


def test_a_pool_that_is_not_there_is_named() -> None:
    settings = Settings(experts=Experts(vision={"gate": Vision(pool="vision", labels=["a", "b"])}))
    with pytest.raises(ConfigError, match=r"experts\.vision\.gate\.pool"):
        load_experts(settings)


def test_a_pool_for_some_sites_is_refused_since_the_expert_sees_every_site() -> None:
    pool = Pool(name="vision", engine="openai", addresses=["http://127.0.0.1:1/v1"], model="m", sites=["acme/a"])
    settings = Settings(
        experts=Experts(vision={"gate": Vision(pool="vision", labels=["a", "b"])}), inference=Inference(pools=[pool])
    )
    with pytest.raises(ConfigError, match=r"is for acme/a"):
        load_experts(settings)
