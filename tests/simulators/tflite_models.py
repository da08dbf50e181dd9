"""Small TensorFlow Lite files, made with the schema that LiteRT's wheel brings."""

from __future__ import annotations

from typing import Any

import numpy as np


def brightness(side: int = 8, quantized: bool = False) -> bytes:
    """[1, side, side, 1] -> [1, 2]: (1 - mean / 255, mean / 255). uint8 frames; or float32 with an int8 output."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as tfl

    buffers = [tfl.BufferT()]

    def buffer(values: np.ndarray | None) -> int:
        if values is None:
            return 0
        made = tfl.BufferT()
        made.data = np.frombuffer(values.tobytes(), np.uint8)
        buffers.append(made)
        return len(buffers) - 1

    def tensor(name: str, shape: list[int], kind: int, values: np.ndarray | None = None, scale: float = 0.0) -> Any:
        made = tfl.TensorT()
        made.name, made.shape, made.type, made.buffer = name, shape, kind, buffer(values)
        if scale:
            made.quantization = tfl.QuantizationParametersT()
            made.quantization.scale, made.quantization.zeroPoint = [scale], [-128]
        return made

    kinds = tfl.TensorType
    tensors = [
        tensor("image", [1, side, side, 1], kinds.FLOAT32 if quantized else kinds.UINT8),
        tensor("x", [1, side, side, 1], kinds.FLOAT32),
        tensor("axes", [2], kinds.INT32, np.array([1, 2], np.int32)),
        tensor("mean", [1, 1], kinds.FLOAT32),
        tensor("w", [2, 1], kinds.FLOAT32, np.array([[-1 / 255], [1 / 255]], np.float32)),
        tensor("b", [2], kinds.FLOAT32, np.array([1, 0], np.float32)),
        tensor("p", [1, 2], kinds.FLOAT32),
    ]
    if quantized:
        tensors.append(tensor("q", [1, 2], kinds.INT8, scale=1 / 255))
    codes: list[Any] = []

    def operator(code: int, inputs: list[int], outputs: list[int], options: Any = None, kind: int = 0) -> Any:
        made, entry = tfl.OperatorT(), tfl.OperatorCodeT()
        entry.builtinCode = entry.deprecatedBuiltinCode = code
        entry.version = 1
        codes.append(entry)
        made.opcodeIndex, made.inputs, made.outputs = len(codes) - 1, inputs, outputs
        made.builtinOptions, made.builtinOptionsType = options, kind
        return made

    cast, reduce, dense = tfl.CastOptionsT(), tfl.ReducerOptionsT(), tfl.FullyConnectedOptionsT()
    cast.inDataType, cast.outDataType = kinds.UINT8, kinds.FLOAT32
    reduce.keepDims = False
    ops, choices = tfl.BuiltinOperator, tfl.BuiltinOptions
    first = 0 if quantized else 1
    operators = [] if quantized else [operator(ops.CAST, [0], [1], cast, choices.CastOptions)]
    operators += [
        operator(ops.MEAN, [first, 2], [3], reduce, choices.ReducerOptions),
        operator(ops.FULLY_CONNECTED, [3, 4, 5], [6], dense, choices.FullyConnectedOptions),
    ]
    if quantized:
        operators.append(operator(ops.QUANTIZE, [6], [7], tfl.QuantizeOptionsT(), choices.QuantizeOptions))
    graph = tfl.SubGraphT()
    graph.tensors, graph.operators, graph.inputs, graph.outputs = tensors, operators, [0], [len(tensors) - 1]
    graph.name = "main"
    model = tfl.ModelT()
    model.version, model.subgraphs, model.buffers, model.operatorCodes = 3, [graph], buffers, codes
    model.description = "brightness"
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())
