"""What the benchmarks share: who computes the same thing elsewhere, and a fair way to time several contenders in one run.

Every contender owns a thread pool that may spin for a while after its work. Contenders therefore run in turns, one block of calls
each with a pause in between, for several rounds. A contender's time is the best of all rounds; a ratio is the median over the rounds
of the ratio of medians within one round, so that load that comes and goes hits both sides.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import onnx

Call = Callable[[], Any]
_PAUSE = 0.03  # seconds: longer than torch's and onnxruntime's threads spin


@dataclass(frozen=True)
class Timing:
    """Milliseconds of one contender: the best, and the median of each round."""

    name: str
    ms: float
    rounds: tuple[float, ...]

    def ratio(self, other: Timing) -> float:
        """How much longer this takes than `other`: the median over rounds."""
        return statistics.median(mine / theirs for mine, theirs in zip(self.rounds, other.rounds, strict=True))


def race(contenders: Mapping[str, Call], *, rounds: int = 4, seconds: float = 0.05) -> dict[str, Timing]:
    """Times of every contender; in each round each runs for about `seconds`."""
    best = dict.fromkeys(contenders, float("inf"))
    medians: dict[str, list[float]] = {name: [] for name in contenders}
    for call in contenders.values():
        call()
    for _ in range(rounds):
        for name, call in contenders.items():
            time.sleep(_PAUSE)
            call()  # wakes the contender's threads and refills the caches
            deadline, times = time.perf_counter() + seconds, []
            while True:
                start = time.perf_counter()
                call()
                end = time.perf_counter()
                times.append(end - start)
                if end > deadline:
                    break
            best[name] = min(best[name], *times)
            medians[name].append(statistics.median(times))
    return {name: Timing(name, best[name] * 1e3, tuple(1e3 * each for each in medians[name])) for name in contenders}


def geometric_mean(values: list[float]) -> float:
    return float(np.exp(np.mean(np.log(values))))


def eager_conv(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, stride: int, padding: int, groups: int = 1) -> Call:
    """float32 convolution in eager PyTorch."""
    import torch

    image, kernel, offset = (torch.from_numpy(np.ascontiguousarray(a, np.float32)) for a in (x, weight, bias))

    def call() -> Any:
        with torch.inference_mode():
            return torch.nn.functional.conv2d(image, kernel, offset, stride, padding, 1, groups)

    return call


def onnxruntime_conv(
    x: np.ndarray, weight: np.ndarray, bias: np.ndarray, stride: int, padding: int, groups: int = 1, *, integer: bool = False
) -> Call:
    """float32 Conv, or int8 x int8 QLinearConv with per-channel weight scales, in onnxruntime."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    outputs = weight.shape[0]
    attributes = {"strides": [stride] * 2, "pads": [padding] * 4, "group": groups}
    if integer:
        kind = TensorProto.INT8
        constants = {
            "xs": np.float32(0.02), "xz": np.int8(0), "w": weight.astype(np.int8), "ws": np.full(outputs, 0.005, np.float32),
            "wz": np.zeros(outputs, np.int8), "ys": np.float32(0.05), "yz": np.int8(0), "b": bias.astype(np.int32),
        }  # fmt: skip
        node = helper.make_node("QLinearConv", ["x", "xs", "xz", "w", "ws", "wz", "ys", "yz", "b"], ["y"], **attributes)
    else:
        kind = TensorProto.FLOAT
        constants = {"w": weight.astype(np.float32), "b": bias.astype(np.float32)}
        node = helper.make_node("Conv", ["x", "w", "b"], ["y"], **attributes)
    graph = helper.make_graph(
        [node],
        "conv",
        [helper.make_tensor_value_info("x", kind, x.shape)],
        [helper.make_tensor_value_info("y", kind, [None] * 4)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model)
    feeds = {"x": np.ascontiguousarray(x, np.int8 if integer else np.float32)}
    session = inference_session(model.SerializeToString())
    return lambda: session.run(None, feeds)


def inference_session(model: bytes | str, threads: int | None = None) -> Any:
    """An onnxruntime session on `threads` threads (default: its own choice)."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads or 0
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def unsigned_activations(model: onnx.ModelProto) -> onnx.ModelProto:
    """The `qdq` file with uint8 activations (zero point 128) instead of int8 ones: what onnxruntime is fastest with."""
    import onnx

    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    graph = changed.graph
    zero = "uint8_zero_point"
    graph.initializer.append(onnx.numpy_helper.from_array(np.array(128, np.uint8), zero))
    integers = {item.name: item.data_type for item in graph.initializer}
    quantized = set()
    for node in graph.node:
        if node.op_type == "QuantizeLinear" and integers.get(node.input[2]) == onnx.TensorProto.INT8:
            node.input[2] = zero
            quantized.add(node.output[0])
        elif node.op_type == "DequantizeLinear" and node.input[0] in quantized:
            node.input[2] = zero
    del graph.value_info[:]  # types changed; they are inferred again
    return changed


def openvino_call(model: onnx.ModelProto, x: np.ndarray, threads: int) -> Call | None:
    """The file in OpenVINO, or None where it is not installed."""
    try:
        import openvino
    except ImportError:
        return None
    core = openvino.Core()
    found = core.compile_model(
        core.read_model(model.SerializeToString()), "CPU", {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
    )
    request = found.create_infer_request()
    return lambda: request.infer([x])
