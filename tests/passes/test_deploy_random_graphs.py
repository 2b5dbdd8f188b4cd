"""Random prepared networks on every march: the passes from boundaries to integers give a valid graph that both engines run alike."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from ir_check import run_passes

from hqc.backends.bpu import compile
from hqc.ir import Device, DType, Graph, QuantParams, TensorType, Value
from hqc.march import March, get_spec

DEPLOY = "insert-boundaries{form=deployed},settle-rounding,propagate-scales,unify-cat-scales,lower-to-integer"
KINDS = (
    "conv2d",
    "add",
    "mul",
    "sub_constant",
    "cat",
    "relu",
    "sigmoid",
    "max_pool2d",
    "avg_pool2d",
    "split",
    "requantized",
    "cpu",
)


class Builder:
    """A network of 4-D values of one size, with fake quants where a prepared model has them."""

    def __init__(self, draw: st.DrawFn, march: str) -> None:
        self.draw, self.march = draw, get_spec(march)
        self.graph = Graph("random", march)
        self.graph.stage = "partitioned"
        self.count = 0

    def quant(self) -> QuantParams:
        if self.march.power_of_two:
            return QuantParams(2.0 ** -self.draw(st.integers(2, 9)))
        wide = DType.INT16 in self.march.activation_dtypes and self.draw(st.integers(0, 5)) == 0
        scale = self.draw(st.floats(0.002, 0.3))
        return QuantParams(scale / 256 if wide else scale, DType.INT16 if wide else DType.INT8)

    def node(self, op: str, operands: list[Value], attributes: dict[str, object] | None = None, *, cpu: bool = False) -> Value:
        self.count += 1
        names = [f"n{self.count}_{i}" for i in range(2)] if op == "split" else f"n{self.count}"
        node = self.graph.add_node(op, operands, attributes or {}, name=names)
        node.device, node.subgraph = (Device.CPU, None) if cpu else (Device.BPU, self.count)
        return node.results[0]

    def quantize(self, value: Value, quant: QuantParams) -> Value:
        """A fake quant as its own node, as functions have it in a prepared model."""
        result = self.node("quantize", [value], {"dtype": quant.dtype}, cpu=True)
        result.quant = quant
        return result

    def parameter(self, *shape: int) -> Value:
        seed = self.draw(st.integers(0, 1000))
        return self.graph.add_parameter(f"p{self.count}", np.random.default_rng(seed).normal(size=shape).astype(np.float32))

    def step(self, kind: str, a: Value, b: Value) -> Value:
        channels = (a.shape or ())[1]
        if kind == "conv2d":
            weight, bias = self.parameter(3, channels, 3, 3), self.parameter(3)
            activation = self.draw(st.sampled_from(["none", "relu", "relu6"]))
            result = self.node("conv2d", [a, weight, bias], {"padding": (1, 1, 1, 1), "activation": activation})
            result.quant = self.quant()
            return result
        if kind == "cpu":
            return self.quantize(self.node("selu", [self.node("dequantize", [a], cpu=True)], cpu=True), self.quant())
        if kind == "requantized":
            return self.quantize(a, self.quant())
        if kind in ("relu", "sigmoid"):
            result = self.node(kind, [a])
            return result if kind == "relu" else self.quantize(result, self.quant())
        if kind in ("max_pool2d", "avg_pool2d"):
            result = self.node(kind, [a], {"kernel": (3, 3), "stride": (1, 1), "padding": (1, 1, 1, 1)})
            return result if kind == "max_pool2d" or self.march.power_of_two else self.quantize(result, self.quant())
        if kind == "split":
            return self.node("split", [a], {"axis": 1, "sizes": (1, channels - 1)}) if channels > 1 else a
        if kind == "sub_constant":
            return self.quantize(self.node("sub", [self.parameter(1, channels, 1, 1), a]), self.quant())
        if kind == "cat":
            return self.quantize(self.node("cat", [a, b, a], {"axis": 1}), self.quant())
        other = self.node("slice", [b], {"axes": (1,), "starts": (0,), "ends": (1,)})
        return self.quantize(self.node(kind, [a, other]), self.quant())


@st.composite
def prepared_networks(draw: st.DrawFn, march: str) -> Graph:
    builder = Builder(draw, march)
    x = builder.graph.add_input("x", TensorType(DType.FLOAT32, (1, 2, 5, 4)))
    values = [builder.quantize(x, builder.quant())]
    for _ in range(draw(st.integers(1, 8))):
        kind = draw(st.sampled_from(KINDS))
        values.append(builder.step(kind, draw(st.sampled_from(values)), draw(st.sampled_from(values))))
    head = builder.node("conv2d", [values[-1], builder.parameter(2, (values[-1].shape or ())[1], 1, 1)])
    builder.graph.set_outputs([head, values[len(values) // 2]], ["head", "middle"])
    builder.graph.remove_dead_code()
    return builder.graph


@given(st.data(), st.sampled_from([march.value for march in March]))
@settings(max_examples=30, deadline=None)
def test_random_networks_become_integer_programs(data: st.DataObject, march: str) -> None:
    graph = data.draw(prepared_networks(march))
    run_passes(graph, DEPLOY, march)  # verifies each stage and runs every pass twice
    assert graph.output_names == ["head", "middle"]
    x = {"x": np.random.default_rng(0).normal(size=(1, 2, 5, 4)).astype(np.float32) * 4}
    expected = compile(graph, engine="reference").run(x)
    found = compile(graph, engine="blas", threads=1).run(x)
    for name, array in expected.items():
        assert np.array_equal(array, found[name]), name
