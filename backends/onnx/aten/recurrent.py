"""LSTM, GRU and RNN layers: one ONNX node per layer, both directions in it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hqc.backends.onnx.aten.calls import Call
from hqc.backends.onnx.aten.writer import AtenEmitter, CallWriter, NoFormError, aten, shape
from hqc.ir import DType, TensorType, Value

# Order of the gates in ONNX's weights, as positions in torch's: LSTM i o f c of i f g o; GRU z r h of r z n.
_GATES = {"LSTM": (0, 3, 1, 2), "GRU": (1, 0, 2), "RNN": (0,)}


def _recurrent(op_type: str, activation: str = "") -> AtenEmitter:
    def emit(c: Call, w: CallWriter) -> list[Value]:
        x = w.value(c["input"])
        if len(shape(x)) != 3 or "data" in c.arguments:
            raise NoFormError(f"no ONNX form of aten.{c.target} on packed sequences is known")
        if c["train"] and c["dropout"]:
            raise NoFormError(f"aten.{c.target} draws random numbers when it is asked to train")
        batch_first, directions = bool(c["batch_first"]), 2 if c["bidirectional"] else 1
        x = w.transpose(x, [1, 0, 2]) if batch_first else x
        states = [w.value(item) for item in (c["hx"] if isinstance(c["hx"], (list, tuple)) else [c["hx"]])]
        per_direction = len(c["params"]) // (c["num_layers"] * directions)
        params = [w.value(item) for item in c["params"]]
        finals: list[list[Value]] = [[] for _ in states]
        for layer in range(c["num_layers"]):
            first = layer * directions
            initial = [w.slice(state, 0, first, first + directions) for state in states]
            weights = params[first * per_direction : (first + directions) * per_direction]
            x, last = _layer(w, op_type, activation, x, initial, weights, directions)
            for all_, each in zip(finals, last, strict=True):
                all_.append(each)
        output = w.transpose(x, [1, 0, 2]) if batch_first else x
        return [output, *(w.cat(each, 0) for each in finals)]

    return emit


def _layer(
    w: CallWriter,
    op_type: str,
    activation: str,
    x: Value,
    initial: Sequence[Value],
    weights: Sequence[Value],
    directions: int,
) -> tuple[Value, list[Value]]:
    """One layer on `[T, N, I]`: its output `[T, N, D * H]` and its last states `[D, N, H]`."""
    per_direction = len(weights) // directions
    gates = len(_GATES[op_type])
    steps, batch, _ = shape(x)
    hidden = shape(weights[1])[0] // gates
    if shape(weights[1])[1] != hidden:
        raise NoFormError("an LSTM with a projection has no form in opset 11")
    packed = []
    for column in range(2):
        packed.append(_directions(w, [_ordered(w, weights[d * per_direction + column], op_type) for d in range(directions)]))
    bias: Value | None = None
    if per_direction == 4:
        both = [[_ordered(w, weights[d * 4 + column], op_type) for column in (2, 3)] for d in range(directions)]
        bias = _directions(w, [w.cat(pair, 0) for pair in both])
    options: dict[str, Any] = {"hidden_size": hidden, "direction": "bidirectional" if directions == 2 else "forward"}
    if op_type == "GRU":
        options["linear_before_reset"] = 1
    if activation:
        options["activations"] = [activation] * directions
    state = TensorType(DType.FLOAT32, (directions, batch, hidden))
    results = w.onnx_many(
        op_type,
        x,
        *packed,
        bias,
        None,
        *initial,
        types=[TensorType(DType.FLOAT32, (steps, directions, batch, hidden)), *[state] * len(initial)],
        **options,
    )
    joined = w.transpose(results[0], [0, 2, 1, 3])
    return w.reshape(joined, [steps, batch, directions * hidden]), results[1:]


def _ordered(w: CallWriter, weight: Value, op_type: str) -> Value:
    """Gate blocks in ONNX's order."""
    order = _GATES[op_type]
    size = shape(weight)[0] // len(order)
    return w.cat([w.slice(weight, 0, gate * size, (gate + 1) * size) for gate in order], 0)


def _directions(w: CallWriter, parts: Sequence[Value]) -> Value:
    """`[D, ...]` of one part per direction."""
    return w.cat([w.reshape(part, [1, *shape(part)]) for part in parts], 0)


aten("lstm.input")(_recurrent("LSTM"))
aten("gru.input")(_recurrent("GRU"))
aten("rnn_tanh.input")(_recurrent("RNN", "Tanh"))
aten("rnn_relu.input")(_recurrent("RNN", "Relu"))


def _cell(op_type: str, activation: str = "") -> AtenEmitter:
    """One step: a layer over a sequence of length 1."""

    def emit(c: Call, w: CallWriter) -> list[Value]:
        x = w.value(c["input"])
        states = [w.value(item) for item in (c["hx"] if isinstance(c["hx"], list) else [c["hx"]])]
        batch = shape(x)[0]
        params = [w.value(c[name]) for name in ("w_ih", "w_hh", "b_ih", "b_hh") if c[name] is not None]
        initial = [w.reshape(state, [1, batch, shape(state)[1]]) for state in states]
        _, last = _layer(w, op_type, activation, w.reshape(x, [1, *shape(x)]), initial, params, 1)
        return [w.reshape(state, shape(state)[1:]) for state in last]

    return emit


aten("lstm_cell.default")(_cell("LSTM"))
aten("gru_cell.default")(_cell("GRU"))
aten("rnn_tanh_cell.default")(_cell("RNN", "Tanh"))
aten("rnn_relu_cell.default")(_cell("RNN", "Relu"))
