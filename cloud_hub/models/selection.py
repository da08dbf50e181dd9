"""Chooses which nodes of a graph are quantized: those between the first and the last convolution or matrix product.

Before them is preprocessing; behind them are softmax, boxes and scores, whose ranges do not fit into one scale.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx

HEAVY = {"Conv", "ConvTranspose", "Gemm", "MatMul"}
LIGHT = {
    "Relu", "Clip", "Add", "Concat", "MaxPool", "AveragePool", "GlobalAveragePool", "Flatten", "Reshape", "Transpose",
}  # fmt: skip
"""What may stand between heavy nodes in INT8. Others (HardSwish, Sigmoid, Mul) cost more in Q/DQ than they save, and
TensorRT fuses them in float16."""
MOVES = {"Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze"}


def quantized_nodes(model: onnx.ModelProto, *, keep_last: bool) -> set[str]:
    """Names of the nodes to quantize; `keep_last` leaves out the last heavy node of each branch."""
    nodes = list(model.graph.node)
    heavy = _heavy(nodes)
    below, above = _reached(nodes, heavy), _reached(nodes[::-1], heavy, backward=True)
    constants = {tensor.name for tensor in model.graph.initializer}
    chosen = {node.name for node in nodes if node.name in heavy and not (keep_last and not _any(node.output, above))}
    between = (
        node for node in nodes
        if node.op_type in LIGHT and _any(node.input, below) and _any(node.output, above)
        and not (node.op_type in {"Add", "Concat"} and _any(node.input, constants))
    )  # fmt: skip
    return (chosen | {node.name for node in between}) if chosen else set()


def _heavy(nodes: Sequence[onnx.NodeProto]) -> set[str]:
    """Names of convolutions and matrix products. One of a softmax computes an expectation, such as a box of YOLO's
    distribution focal loss: its result needs more than 8 bits."""
    expectations: set[str] = set()
    for node in nodes:
        if node.op_type == "Softmax" or (node.op_type in MOVES and _any(node.input, expectations)):
            expectations.update(node.output)
    return {node.name for node in nodes if node.op_type in HEAVY and not _any(node.input, expectations)}


def _reached(nodes: Sequence[onnx.NodeProto], heavy: set[str], *, backward: bool = False) -> set[str]:
    """Tensors downstream of a heavy node; `backward`: upstream of one. `nodes` in that order."""
    reached: set[str] = set()
    for node in nodes:
        before, after = (node.output, node.input) if backward else (node.input, node.output)
        if node.name in heavy or _any(before, reached):
            reached.update(after)
    return reached


def _any(names: Sequence[str], among: set[str]) -> bool:
    return any(name in among for name in names)
