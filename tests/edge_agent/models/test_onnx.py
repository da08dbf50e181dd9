"""The ONNX runner."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from examiners.runners import examine_runner
from simulators.model_bundles import (
    DIGITS,
    SHAPE,
    edit,
    frame,
    with_model,
)

from edge_agent.models.core.gating import ResultGate
from edge_agent.models.onnx import open_runner
from shared.errors import ModelError
from shared.models.bundle import load


def test_onnx_passes_the_examiner() -> None:
    examine_runner(open_runner, DIGITS)


def classifier(shape: tuple[int, ...], value: float = 0.1) -> bytes:
    """An ONNX model that answers every frame with a constant of `shape`."""
    import onnx
    from onnx import TensorProto, helper

    size = 1
    for side in shape:
        size *= side
    constant = helper.make_tensor("c", TensorProto.FLOAT, shape, [value] * size)
    nodes = [helper.make_node("Constant", [], ["probabilities"], value=constant)]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("image", TensorProto.FLOAT, (1, 1, 8, 8))],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, shape)],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"no model at all", "cannot load"),
        (b"", "cannot load"),
        (classifier((1, 3)), "3 outputs for 10 labels"),
        (classifier(()), "for a batch of 1"),
        (classifier((1, 20)), "20 outputs for 10 labels"),
    ],
    ids=["garbage", "empty", "too-few-outputs", "a-scalar", "too-many-outputs"],
)
def test_a_verified_model_that_does_not_fit_is_told_when_it_is_opened(bundle: Path, content: bytes, said: str) -> None:
    with pytest.raises(ModelError, match=said):
        open_runner(load(with_model(bundle, content)))


@pytest.mark.parametrize("change", [
    {"outputs": [{"name": "nothing", "shape": [10]}]}, {"labels": ["0"]}, {"task": "divination"},
    {"inputs": [{"name": "x", "shape": [1, 8, 8], "layout": "NCHW"}]},
    {"inputs": [{"name": "image", "shape": [1, 9, 9], "layout": "NCHW"}]},
])  # fmt: skip
def test_a_manifest_that_does_not_fit_its_model_is_told_when_it_is_opened(bundle: Path, change: dict[str, Any]) -> None:
    edit(bundle, lambda manifest: manifest.update(change))
    with pytest.raises(ModelError, match="digits-edge"):
        open_runner(load(bundle))


def test_a_score_that_is_no_number_is_marked_as_invalid(bundle: Path) -> None:
    runner = open_runner(load(with_model(bundle, classifier((1, 10), float("nan")))))
    keeper = ResultGate("m")
    _, escalation = keeper.judge(frame(1), runner.run(SHAPE, bytes(64)), 0.5, lambda: "id")
    assert escalation is not None
    assert (escalation.reason, escalation.label, escalation.margin) == ("invalid", "", 0.0)
