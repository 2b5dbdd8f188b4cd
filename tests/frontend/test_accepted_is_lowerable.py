"""I2: what the support analysis accepts, every later stage can do: random nodes of every op, on every march."""

from __future__ import annotations

import collections

import numpy as np
import pytest
from test_torch_forms import CASES

from hqc.backends import bpu
from hqc.backends.onnx import emit
from hqc.errors import OverrideError
from hqc.ir import Device, Graph, QuantParams, Request, TensorType, Value, get_op
from hqc.ir.types import DType
from hqc.march import get_spec
from hqc.passes import PassContext, PassPipeline
from hqc.passes.pipeline_text import parse_passes
from hqc.workflow.pipelines import PLACE

MARCHES = ("bernoulli", "bernoulli2", "bayes", "bayes-e")
PREPARE = f"{PLACE},insert-boundaries{{auto-stub=true}},place-observers,settle-rounding"
DEPLOY = "insert-boundaries{form=deployed},partition,settle-rounding,propagate-scales,unify-cat-scales"
CONSTANT = frozenset({"weight", "bias", "mean", "var", "indices"})
TRIES = 12


def random_graph(op: str, march: str, rng: np.random.Generator) -> Graph:
    """One node `y` on random operands: constants where the op names weights, data or a constant elsewhere."""
    arrays, attributes = CASES[op](rng)
    graph = Graph("node", march)
    names = [operand.name for operand in get_op(op).operands]
    operands: list[Value | None] = []
    for index, array in enumerate(arrays):
        name = names[min(index, len(names) - 1)]
        if array is None:
            operands.append(None)
        elif name in CONSTANT or not np.issubdtype(array.dtype, np.floating) or (index and rng.random() < 0.4):
            if rng.random() < 0.2 and array.dtype.kind == "f":
                array = array * np.float32(100)
            operands.append(graph.add_parameter(f"p{index}", array))
        else:
            operands.append(graph.add_input(f"x{index}", TensorType(DType.from_numpy(array.dtype), array.shape)))
    node = graph.add_node(op, operands, attributes, name="y", origin=("y",))
    if rng.random() < 0.5:
        node.request = Request(Device.BPU, "the test")
    graph.set_outputs(node.results)
    return graph


def give_scales(graph: Graph, rng: np.random.Generator) -> None:
    for value in graph.values.values():
        seen, value.observation = value.observation, None
        if seen is not None and seen.policy != "operand":
            value.quant = QuantParams(2.0 ** -int(rng.integers(1, 9)), seen.dtype)


def check(op: str, march: str, seed: int) -> bool:
    """True when the node ran on the BPU, all the way."""
    rng = np.random.default_rng(seed)
    graph = random_graph(op, march, rng)
    context = PassContext(get_spec(march))
    try:
        PassPipeline(parse_passes(PREPARE)).run(graph, context)
    except OverrideError:
        return False
    if not any(node.device is Device.BPU for node in graph.nodes):
        return False
    give_scales(graph, rng)
    PassPipeline(parse_passes(DEPLOY)).run(graph, context)
    feeds = {value.name: rng.normal(0, 1, value.shape).astype(value.type.dtype.numpy) for value in graph.inputs}
    emit(graph, flavour="runnable")
    PassPipeline(parse_passes("lower-to-integer")).run(graph, context)
    bpu.compile(graph, engine="blas").run(feeds)
    return True


@pytest.mark.parametrize("march", MARCHES)
def test_what_support_accepts_every_later_stage_can_do(march: str) -> None:
    ran: collections.Counter[str] = collections.Counter()
    for number, op in enumerate(sorted(CASES)):
        for attempt in range(TRIES):
            seed = 1000 * number + attempt
            try:
                ran[op] += check(op, march, seed)
            except Exception as error:
                raise AssertionError(f"{op} on {march}, seed {seed}: accepted, then {type(error).__name__}: {error}") from error
    assert len([op for op, count in ran.items() if count]) >= 12, ran
