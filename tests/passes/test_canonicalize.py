"""canonicalize: normal forms, names and origins that survive, and results that stay bit for bit the same."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch_oracle
from hypothesis import given, settings
from hypothesis import strategies as st
from ir_check import assert_text, graph_of, run_passes, transform

from hqc.ir import DType, Graph, TensorType, all_ops
from hqc.ir.evaluate import evaluate
from hqc.passes.canonical_rules import RULES

X4 = "input %x: f32[1,4,6,6]"


def canonical(body: str) -> Graph:
    return transform(body, "canonicalize", stage="lowered")


def body_of(graph: Graph) -> list[str]:
    """`name = op(operands)` of every node."""
    return [f"{n.name} = {n.op.name}({', '.join(v.name if v else '-' for v in n.inputs)})" for n in graph.nodes]


# --- what goes --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [
        "identity(%x)",
        "dropout(%x) {p=0.3}",
        "mul(%x, @one)",
        "mul(@one, %x)",
        "div(%x, @one)",
        "add(%x, @zero)",
        "sub(%x, @zero)",
        "cast(%x) {dtype=f32}",
        "reshape(%x) {shape=[0,4,-1,6]}",
        "expand(%x) {shape=[-1,4,6,6]}",
        "tile(%x) {repeats=[1,1,1,1]}",
        "transpose(%x) {perm=[0,1,2,3]}",
        "slice(%x) {axes=[1,2], starts=[0,0], ends=[4,9223372036854775807]}",
        "slice(%x) {axes=[0], starts=[0], ends=[9223372036854775807]}",
        "pad(%x) {pads=[0,0,0,0,0,0,0,0]}",
        "cat(%x) {axis=1}",
        "split(%x) {axis=1, sizes=[4]}",
        "clamp(%x)",
    ],
)
def test_an_op_that_does_nothing_goes(line: str) -> None:
    graph = canonical(f"{X4}\nparam @one = 1.0\nparam @zero = 0.0\n%y = {line}\n%r = relu(%y)\noutput %r")
    assert body_of(graph) == ["r = relu(x)"]
    assert list(graph.parameters) == []


@pytest.mark.parametrize(
    "line",
    [
        "mul(%x, @ones)",  # broadcasts to five axes
        "add(%x, @half)",
        "sub(@zero, %x)",
        "cast(%x) {dtype=i32}",
        "transpose(%x) {perm=[0,1,3,2]}",  # same shape, other order
        "slice(%x) {axes=[0], starts=[0], ends=[1]}",  # all of this batch, not of every batch
        "pad(%x) {pads=[0,0,1,0,0,0,-1,0]}",
        "clamp(%x) {max=6.0}",
        "pixel_shuffle(%x) {factor=2}",
    ],
)
def test_an_op_that_only_looks_like_nothing_stays(line: str) -> None:
    text = f"{X4}\nparam @ones: f32[1,1,1,1,1] = [1.0]\nparam @half = 0.5\nparam @zero = 0.0\n%y = {line}\noutput %y"
    assert len(canonical(text)) == 1


def test_a_value_with_a_scale_of_its_own_is_not_dropped() -> None:
    graph = canonical(f"{X4}\nparam @one = 1.0\n%y: f32[1,4,6,6] q(i8, 0.5) = mul(%x, @one)\noutput %y")
    assert body_of(graph) == ["y = mul(x, one)"]


def test_dead_nodes_and_parameters_go_and_outputs_keep_their_names() -> None:
    graph = canonical(
        f"""
        {X4}
        param @w = #random(1, [4,4,1,1])
        %dead = conv2d(%x, @w)
        %y = identity(%x)
        %z = relu(%y)
        output %y as "first"
        output %z
        """
    )
    assert body_of(graph) == ["z = relu(x)"]
    assert (graph.output_names, [v.name for v in graph.outputs], list(graph.parameters)) == (["first", "z"], ["x", "z"], [])


# --- constants ---------------------------------------------------------------------------------------------------------------


def test_what_depends_on_constants_alone_is_computed_and_keeps_its_name() -> None:
    graph = canonical(
        """
        input %x: f32[1,4]
        param @a = [1.0, 2.0, 3.0, 4.0]
        param @two = 2.0
        %scaled = mul(@a, @two)
        %table = reshape(%scaled) {shape=[1,4]}
        %parts_0, %parts_1 = split(%table) {axis=1, sizes=[1,3]}
        %b = add(%x, %parts_0)
        %c = add(%x, %table)
        output %b
        output %c
        output %parts_1
        """
    )
    assert_text(
        graph,
        """
        CHECK-DAG: param @table: f32[1,4] = [2.0, 4.0, 6.0, 8.0]
        CHECK-DAG: param @parts_0: f32[1,1] = [2.0]
        CHECK-DAG: param @parts_1: f32[1,3] = [4.0, 6.0, 8.0]
        CHECK: %b: f32[1,4] = add(%x, @parts_0)
        CHECK: %c: f32[1,4] = add(%x, @table)
        CHECK: output @parts_1
        """,
    )
    assert sorted(graph.parameters) == ["parts_0", "parts_1", "table"]


def test_a_result_too_large_to_keep_is_left_to_be_computed() -> None:
    graph = canonical(
        "input %x: f32[1]\nparam @a = [1.0]\n%big = expand(@a) {shape=[5000,5000]}\n%y = add(%big, %x)\noutput %y"
    )
    assert body_of(graph) == ["big = expand(a)", "y = add(big, x)"]


# --- arithmetic ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "expected", "constant"),
    [
        ("add(@c, %x)", "y = add(x, c)", None),
        ("mul(@c, %x)", "y = mul(x, c)", None),
        ("maximum(@c, %x)", "y = clamp(x)", None),
        ("sub(%x, @c)", "y = add(x, c_negated)", [-3.0]),
        ("sub(@c, %x)", "y = sub(c, x)", None),
        ("div(%x, @c)", "y = div(x, c)", None),
        ("div(%x, @eight)", "y = mul(x, eight_reciprocal)", [0.125]),
        ("div(@eight, %x)", "y = div(eight, x)", None),
        ("pow(%x, @c)", "y = pow_scalar(x)", None),
        ("pow(@c, %x)", "y = pow(c, x)", None),
        ("clamp(%x) {min=0.0}", "y = relu(x)", None),
        ("clamp(%x) {min=0.0, max=6.0}", "y = clamp(x)", None),
    ],
)
def test_normal_forms_of_arithmetic(line: str, expected: str, constant: list[float] | None) -> None:
    graph = canonical(f'{X4}\nparam @c = 3.0\nparam @eight = 8.0\n%y = {line} loc("net:f#0" "net.py:3") from(y)\noutput %y')
    assert body_of(graph) == [expected]
    (node,) = graph.nodes
    assert (str(node.loc), node.origin) == ("net:f#0 (net.py:3)", ("y",))
    if constant is not None:
        (value,) = graph.parameters.values()
        assert value.array is not None
        assert value.array.reshape(-1).tolist() == constant


def test_a_constant_that_others_read_is_not_taken_from_them() -> None:
    graph = canonical("input %x: f32[2]\nparam @c = 4.0\n%a = sub(%x, @c)\n%b = div(@c, %a)\noutput %b")
    assert body_of(graph) == ["a = add(x, c_negated)", "b = div(c, a)"]


@pytest.mark.parametrize("divisor", ["3.0", "0.0", "[2.0, 6.0]", "1e-40"])
def test_division_becomes_a_product_only_where_that_is_exact(divisor: str) -> None:
    graph = canonical(f"input %x: f32[1,2]\nparam @c = {divisor}\n%y = div(%x, @c)\noutput %y")
    assert body_of(graph) == ["y = div(x, c)"]


def test_a_product_with_zero_is_a_constant() -> None:
    graph = canonical("input %x: f32[2]\nparam @c = 0.0\n%y = mul(%x, @c)\n%z = add(%x, %y)\noutput %z")
    assert body_of(graph) == ["z = add(x, y)"]
    assert graph.value("y").is_parameter


# --- joining -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("gate", "joined"), [("sigmoid", "silu"), ("hardsigmoid", "hardswish")])
@pytest.mark.parametrize("operands", ["%x, %g", "%g, %x"])
def test_a_gate_joins_its_product_and_both_origins_stay(gate: str, joined: str, operands: str) -> None:
    graph = canonical(f"{X4}\n%g = {gate}(%x) from(act)\n%y = mul({operands}) from(mul)\noutput %y")
    assert_text(graph, f"CHECK: %y: f32[1,4,6,6] = {joined}(%x) from(act, mul)\nCHECK-NEXT: output %y")


def test_a_gate_that_something_else_reads_stays() -> None:
    graph = canonical(f"{X4}\n%g = sigmoid(%x)\n%y = mul(%x, %g)\noutput %y\noutput %g")
    assert body_of(graph) == ["g = sigmoid(x)", "y = mul(x, g)"]
    other = canonical(f"{X4}\n%z = relu(%x)\n%g = sigmoid(%z)\n%y = mul(%x, %g)\noutput %y")
    assert len(other) == 3, "the gate of another value"


def test_reshapes_and_transposes_join_unless_the_inner_one_stays() -> None:
    graph = canonical(
        f"""
        {X4}
        %a = reshape(%x) {{shape=[0,-1]}} from(a)
        %b = reshape(%a) {{shape=[0,2,72]}} from(b)
        %c = transpose(%b) {{perm=[1,0,2]}} from(c)
        %d = transpose(%c) {{perm=[2,0,1]}} from(d)
        output %d
        """
    )
    assert_text(
        graph,
        """
        CHECK: %b: f32[1,2,72] = reshape(%x) {shape=[0,2,72]} from(a, b)
        CHECK-NEXT: %d: f32[72,2,1] = transpose(%b) {perm=[2,1,0]} from(c, d)
        """,
    )
    kept = canonical(
        f"{X4}\n%a = transpose(%x) {{perm=[0,2,3,1]}}\n%b = transpose(%a) {{perm=[0,3,1,2]}}\noutput %b\noutput %a"
    )
    assert body_of(kept) == ["a = transpose(x)", "b = transpose(a)"]


def test_transposes_that_cancel_go_both() -> None:
    graph = canonical(
        f"{X4}\n%a = transpose(%x) {{perm=[0,2,3,1]}}\n%b = transpose(%a) {{perm=[0,3,1,2]}}\n%y = relu(%b)\noutput %y"
    )
    assert body_of(graph) == ["y = relu(x)"]


@pytest.mark.parametrize("axis", [0, 1, 3, -1])
@pytest.mark.parametrize("op", ["softmax", "log_softmax"])
def test_a_softmax_between_a_transpose_and_its_inverse_is_along_that_axis(op: str, axis: int) -> None:
    there, back = [0, 2, 3, 1], [0, 3, 1, 2]
    text = f"input %x: f32[2,4,6,5]\n%a = transpose(%x) {{perm={there}}}\n%b = {op}(%a) {{axis={axis}}}\n"
    graph = canonical(f"{text}%y = transpose(%b) {{perm={back}}}\noutput %y")
    assert_text(graph, f"CHECK: %y: f32[2,4,6,5] = {op}(%x) {{{{{{axis={there[axis]}}}}}}}")
    x = {"x": np.random.default_rng(1).standard_normal((2, 4, 6, 5)).astype(np.float32)}
    before = evaluate(graph_of(f"{text}%y = transpose(%b) {{perm={back}}}\noutput %y", "lowered"), x)["y"]
    np.testing.assert_allclose(evaluate(graph, x)["y"], before, rtol=1e-5, atol=1e-6)
    assert len(list(canonical(f"{text}%y = transpose(%b) {{perm={there}}}\noutput %y").nodes)) == 3, "no inverse"
    assert len(list(canonical(f"{text}%y = transpose(%b) {{perm={back}}}\noutput %y\noutput %b").nodes)) == 3, "read elsewhere"


@pytest.mark.parametrize(
    ("lines", "op"),
    [
        ("%h = softplus(%x)\n%t = tanh(%h)\n%y = mul(%t, %x)", "mish(%x)"),
        ("%m = div(%x, @six)\n%a = add(%m, @half)\n%y = clamp(%a) {min=0.0, max=1.0}", "hardsigmoid(%x)"),
        (
            "%p = pow_scalar(%x) {exponent=3.0}\n%q = mul(%p, @c)\n%s = add(%x, %q)\n%u = mul(%s, @r)\n%t = tanh(%u)\n"
            "%o = add(%t, @one)\n%g = mul(%x, @half)\n%y = mul(%g, %o)",
            "gelu(%x) {approximate=tanh}",
        ),
        (
            "%p = mul(%x, %x)\n%q = mul(@c, %p)\n%s = add(@one, %q)\n%v = mul(%x, @r)\n%u = mul(%v, %s)\n%t = tanh(%u)\n"
            "%o = add(%t, @one)\n%g = mul(%o, @half)\n%y = mul(%g, %x)",
            "gelu(%x) {approximate=tanh}",
        ),
        ("%y = maximum(@zero, %x)", "relu(%x)"),
    ],
)
def test_functions_spelled_out_are_read(lines: str, op: str) -> None:
    constants = "param @half = 0.5\nparam @six = 6.0\nparam @one = 1.0\nparam @c = 0.044715\nparam @r = 0.7978845608\nparam @zero = 0.0\n"
    text = f"{X4}\n{constants}{lines}\noutput %y"
    graph = canonical(text)
    assert_text(graph, f"CHECK: %y: f32[1,4,6,6] = {op}")
    assert len(list(graph.nodes)) == 1 and not graph.parameters
    x = {"x": np.random.default_rng(1).standard_normal((1, 4, 6, 6)).astype(np.float32) * 4}
    np.testing.assert_allclose(evaluate(graph, x)["y"], evaluate(graph_of(text, "lowered"), x)["y"], rtol=1e-4, atol=1e-5)
    first = lines.partition(" =")[0]
    if first != "%y":  # a step that is read elsewhere stays
        assert len(list(canonical(f"{text}\noutput {first}").nodes)) > 1


@pytest.mark.parametrize(
    "lines",
    [
        "%h = softplus(%x)\n%t = tanh(%h)\n%z = neg(%x)\n%y = mul(%t, %z)",
        "%h = softplus(%x) {beta=2.0}\n%t = tanh(%h)\n%y = mul(%t, %x)",
        "%m = div(%x, @five)\n%a = add(%m, @half)\n%y = clamp(%a) {min=0.0, max=1.0}",
        "%y = maximum(%x, @five)",
    ],
)
def test_what_only_looks_like_a_function_stays(lines: str) -> None:
    names = {node.op.name for node in canonical(f"{X4}\nparam @half = 0.5\nparam @five = 5.0\n{lines}\noutput %y").nodes}
    assert not names & {"mish", "hardsigmoid", "relu"}


def test_a_copied_size_of_a_reshaped_tensor_is_not_copied_from_another() -> None:
    text = "input %x: f32[2,3,4]\n%a = reshape(%x) {shape=[6,4]}\n%b = reshape(%a) {shape=[0,2,2]}\noutput %b"
    assert body_of(canonical(text)) == ["a = reshape(x)", "b = reshape(a)"]


@pytest.mark.parametrize("axes", ["[2,3]", "[-1,-2]", "[3,-2]"])
def test_a_mean_over_the_map_is_a_global_pool(axes: str) -> None:
    graph = canonical(f"{X4}\n%y = mean(%x) {{axes={axes}, keepdims=true}}\noutput %y")
    assert_text(graph, "CHECK: %y: f32[1,4,1,1] = adaptive_avg_pool2d(%x) {output_size=[1,1]}")
    assert body_of(canonical(f"{X4}\n%y = mean(%x) {{axes={axes}}}\noutput %y")) == ["y = mean(x)"], "drops the axes"
    assert body_of(canonical(f"{X4}\n%y = mean(%x) {{axes=[1,2], keepdims=true}}\noutput %y")) == ["y = mean(x)"]


def test_a_product_with_a_constant_matrix_is_linear_with_the_same_numbers() -> None:
    text = "input %x: f32[2,3,5]\nparam @w = #random(3, [5,4])\n%y = matmul(%x, @w) from(mm)\noutput %y"
    graph = canonical(text)
    assert_text(graph, "CHECK: %y: f32[2,3,4] = linear(%x, @w_transposed) from(mm)")
    x = {"x": np.random.default_rng(1).standard_normal((2, 3, 5)).astype(np.float32)}
    (before,), (after,) = torch_oracle.run(graph_of(text, "lowered"), x), torch_oracle.run(graph, x)
    np.testing.assert_allclose(after, before, rtol=1e-6, atol=1e-6)


def test_products_of_two_activations_or_of_higher_rank_stay() -> None:
    assert body_of(canonical("input %x: f32[2,3]\ninput %w: f32[3,4]\n%y = matmul(%x, %w)\noutput %y")) == ["y = matmul(x, w)"]
    text = "input %x: f32[2,2,3]\nparam @w = #random(1, [2,3,4])\n%y = matmul(%x, @w)\noutput %y"
    assert body_of(canonical(text)) == ["y = matmul(x, w)"]


def test_a_long_chain_of_removed_ops_is_cleaned_up_in_one_run() -> None:
    lines = [X4] + [f"%i{n} = identity(%{'x' if n == 0 else f'i{n - 1}'})" for n in range(200)] + ["output %i199"]
    assert body_of(canonical("\n".join(lines))) == []


def test_rules_are_for_ops_that_exist_and_say_what_they_do() -> None:
    names = {op.name for op in all_ops()} | {"*"}
    assert set(RULES) <= names
    for rules in RULES.values():
        for rule in rules:
            assert (rule.__doc__ or "").strip().endswith("."), rule.__name__


# --- bit equality on random programs -----------------------------------------------------------------------------------------

_UNARY = {
    "relu": "",
    "identity": "",
    "neg": "",
    "abs": "",
    "clamp": "{min=0.0}",
    "reshape": "{shape=[0,4,9]}",
    "transpose": "{perm=[0,2,1]}",
    "dropout": "",
}
_BINARY = ["add", "sub", "mul", "div", "maximum", "minimum"]


@st.composite
def programs(draw: st.DrawFn) -> str:
    """Straight-line programs on `[1,4,9]` tensors and constants of every broadcastable shape, with many things to rewrite."""
    rng = random.Random(draw(st.integers(0, 10**6)))
    constants = ["1.0", "0.0", "2.0", "-0.5", "3.0", "0.1"]
    lines = ["input %x: f32[1,4,9]", "input %y: f32[1,4,9]"]
    lines += [f"param @c{i} = {value}" for i, value in enumerate(constants)]
    lines += ["param @v: f32[1,4,1] = [1.0, 2.0, 4.0, 8.0]", "param @u: f32[1,4,1] = [0.5, 3.0, 1.5, -1.0]"]
    data, fixed = ["%x", "%y"], [f"@c{i}" for i in range(len(constants))] + ["@v", "@u"]
    for index in range(draw(st.integers(1, 12))):
        name = f"%n{index}"
        if rng.random() < 0.4:
            op = rng.choice([*_UNARY, "transpose"])
            source = rng.choice(data)
            lines.append(f"{name} = {op}({source}) {_UNARY[op]}")
            if op == "transpose":  # and back, so that shapes agree
                lines.append(f"%t{index} = transpose({name}) {{perm=[0,2,1]}}")
                if rng.random() < 0.4:  # the whole way twice
                    lines.append(f"%m{index} = transpose({source}) {{perm=[0,2,1]}}")
                    lines.append(f"%s{index} = transpose(%m{index}) {{perm=[0,2,1]}}")
                    data.append(f"%s{index}")
                name = f"%t{index}"
        else:
            a, b = rng.choice(data), rng.choice([*data, *fixed])
            if rng.random() < 0.3:
                a, b = b, a
            if rng.random() < 0.15:
                a, b = rng.choice(fixed), rng.choice(fixed)
                lines.append(f"{name} = {rng.choice(_BINARY)}({a}, {b})")
                fixed.append(name)
                continue
            lines.append(f"{name} = {rng.choice(_BINARY)}({a}, {b})")
        data.append(name)
    return "\n".join([*lines, f"output {data[-1]}", f'output {rng.choice(data)} as "second"'])


@settings(max_examples=80, deadline=None)
@given(programs(), st.integers(0, 2**31))
def test_random_programs_keep_their_bits(program: str, seed: int) -> None:
    before, after = graph_of(program, "lowered"), graph_of(program, "lowered")
    run_passes(after, "canonicalize")
    rng = np.random.default_rng(seed)
    inputs = {name: rng.standard_normal((1, 4, 9)).astype(np.float32) for name in ("x", "y")}
    for expected, found in zip(torch_oracle.run(before, inputs), torch_oracle.run(after, inputs), strict=True):
        zeros = (expected == 0) & (found == 0)  # the sign of a zero may differ
        special = ~np.isfinite(expected)  # 0 * x is 0 here also for an infinite x
        assert found.dtype == expected.dtype
        same = found.view(np.int32) == expected.view(np.int32)
        assert (same | zeros | special).all(), str(after)


def test_shapes_may_be_unknown() -> None:
    graph = Graph("test")
    x = graph.add_input("x", TensorType(DType.FLOAT32))
    one = graph.add_parameter("one", np.float32(1.0).reshape(()))
    y = graph.add_node("mul", [x, one], name="y").result
    z = graph.add_node("reshape", [y], {"shape": (0, 0, -1, 4)}, name="z").result
    w = graph.add_node("mean", [z], {"axes": (2, 3), "keepdims": True}, name="w").result
    graph.set_outputs([w])
    run_passes(graph, "canonicalize")
    assert body_of(graph) == ["z = reshape(x)", "w = adaptive_avg_pool2d(z)"]


SPELLED_OUT = {
    "hardsigmoid": "%a = add(%x, @three)\n%b = clamp(%a) {min=0.0, max=6.0}\n%y = div(%b, @six)",
    "hardswish": "%a = add(%x, @three)\n%b = clamp(%a) {min=0.0, max=6.0}\n%c = mul(%x, %b)\n%y = div(%c, @six)",
    "hardswish_gate_first": "%a = add(%x, @three)\n%b = clamp(%a) {min=0.0, max=6.0}\n%c = div(%b, @six)\n%y = mul(%c, %x)",
    "gelu": "%a = mul(%x, @root)\n%b = erf(%a)\n%c = add(%b, @one)\n%d = mul(%x, @half)\n%y = mul(%d, %c)",
    "gelu_divided": "%a = div(%x, @two)\n%b = erf(%a)\n%c = add(%b, @one)\n%d = mul(%x, %c)\n%y = mul(%d, @half)",
    "gelu_of_half": "%a = mul(%x, @root)\n%b = erf(%a)\n%c = add(%b, @one)\n%d = mul(%c, @half)\n%y = mul(%x, %d)",
}
_CONSTANTS = {"three": 3.0, "six": 6.0, "one": 1.0, "half": 0.5, "root": 0.70710677, "two": 1.4142135}


def _written(body: str) -> str:
    parameters = "".join(f"param @{name} = {number}\n" for name, number in _CONSTANTS.items())
    return f"input %x: f32[1,4,5,5]\n{parameters}{body}\noutput %y"


@pytest.mark.parametrize("name", SPELLED_OUT)
def test_functions_written_by_hand_are_the_ops(name: str) -> None:
    graph = canonical(_written(SPELLED_OUT[name]))
    (node,) = graph.nodes
    assert node.op.name == name.partition("_")[0]
    assert node.origin[-1:] == ("y",) or "y" in node.origin


@pytest.mark.parametrize("name", SPELLED_OUT)
def test_a_part_that_something_else_reads_stays(name: str) -> None:
    graph = canonical(_written(SPELLED_OUT[name]) + "\noutput %b")
    assert "b" in [node.name for node in graph.nodes]
    assert len(list(graph.nodes)) > 1


def test_dropout_stays_while_the_model_is_prepared_for_training_so_that_no_layer_swallows_it() -> None:
    body = """
    input %x: f32[1,3,8,8]
    param @w = #random(0, [4,3,1,1])
    %conv = conv2d(%x, @w) from(conv)
    %drop = dropout(%conv) {p=0.3} from(drop)
    %same = identity(%drop) from(same)
    %relu = relu(%same) from(relu)
    output %relu
    """
    for passes, fused in (("canonicalize{training=true},fuse-conv,canonicalize", False), ("canonicalize,fuse-conv", True)):
        text = str(transform(body, passes, stage="lowered"))
        assert ("activation=relu" in text) == fused, text
        assert "dropout" not in text and "identity" not in text


_PADDED_POOL = """
    input %x: f32[1,2,5,5]
    %p = pad(%x) {{pads={pads}, value={value}}} from(p)
    %y = max_pool2d(%p) {{kernel=[3,3], stride=[2,2], padding={padding}, ceil_mode={ceil}}} from(y)
    output %y
"""


@pytest.mark.parametrize(
    ("pads", "value", "padding", "ceil", "joined"),
    [
        ([0, 0, 0, 1, 0, 0, 1, 1], "-inf", [0, 0, 0, 0], "false", [0, 1, 1, 1]),
        ([0, 0, 1, 0, 0, 0, 1, 0], "-inf", [0, 1, 0, 1], "false", [1, 1, 1, 1]),
        ([0, 0, 1, 1, 0, 0, 1, 1], "-1e+09", [0, 0, 0, 0], "false", [1, 1, 1, 1]),  # stands for it
        ([0, 0, 1, 1, 0, 0, 1, 1], "-100.0", [0, 0, 0, 0], "false", None),
        ([0, 0, 1, 1, 0, 0, 1, 1], "0.0", [0, 0, 0, 0], "false", None),
        ([0, 1, 1, 1, 0, 0, 1, 1], "-inf", [0, 0, 0, 0], "false", None),  # channels
        ([0, 0, 3, 1, 0, 0, 1, 1], "-inf", [0, 0, 0, 0], "false", None),  # a window of nothing but padding
        ([0, 0, -1, 1, 0, 0, 1, 1], "-inf", [0, 0, 0, 0], "false", None),  # crops
        ([0, 0, 1, 1, 0, 0, 1, 1], "-inf", [0, 0, 0, 0], "true", None),
    ],
)
def test_max_pool_takes_padding_with_minus_infinity(
    pads: list[int], value: str, padding: list[int], ceil: str, joined: list[int] | None
) -> None:
    text = _PADDED_POOL.format(pads=pads, value=value, padding=padding, ceil=ceil)
    before, graph = graph_of(text), canonical(text)
    *pads_left, pool = graph.nodes
    assert len(pads_left) == (1 if joined is None else 0)
    assert list(pool.attributes["padding"]) == (joined or padding)
    assert pool.origin == (("p", "y") if joined else ("y",))
    x = np.random.default_rng(0).standard_normal((1, 2, 5, 5)).astype(np.float32)
    np.testing.assert_array_equal(evaluate(graph, {"x": x})["y"], evaluate(before, {"x": x})["y"])


def test_max_pool_of_a_row_takes_padding_with_minus_infinity() -> None:
    text = """
        input %x: f32[1,2,6]
        %p = pad(%x) {pads=[0,0,1,0,0,1], value=-inf} from(p)
        %i = reshape(%p) {shape=[0,2,1,8]} from(y)
        %m = max_pool2d(%i) {kernel=[1,3], stride=[1,1]} from(y)
        %y = reshape(%m) {shape=[0,2,6]} from(y)
        output %y
    """
    before, graph = graph_of(text), canonical(text)
    assert [node.op.name for node in graph.nodes] == ["reshape", "max_pool2d", "reshape"]
    x = np.random.default_rng(0).standard_normal((1, 2, 6)).astype(np.float32)
    np.testing.assert_array_equal(evaluate(graph, {"x": x})["y"], evaluate(before, {"x": x})["y"])


def test_what_is_computed_twice_is_computed_once() -> None:
    graph = canonical(
        f"""{X4}
        param @half = 0.5
        param @again = 0.5
        param @other = 0.25
        %u = mean(%x) {{axes=[1], keepdims=true}} from(u)
        %a = sub(%x, %u) from(a)
        %b = sub(%x, %u) from(b)
        %c = add(%a, @half) from(c)
        %d = add(%b, @again) from(d)
        %e = mul(%c, %d) from(e)
        %f = add(%b, @other) from(f)
        %g = mul(%e, %f) from(g)
        output %g"""
    )
    assert body_of(graph) == [
        "u = mean(x)",
        "a = sub(x, u)",
        "c = add(a, half)",
        "e = mul(c, c)",
        "f = add(a, other)",
        "g = mul(e, f)",
    ]
    assert next(node for node in graph.nodes if node.name == "a").origin == ("b", "a"), "both names stay the user's"


def test_what_is_computed_three_times_is_computed_once() -> None:
    """As often as it is written: a graph that was written as a model and read again must have nothing left to join."""
    graph = canonical(
        f"""{X4}
        %u = mean(%x) {{axes=[1], keepdims=true}} from(u)
        %a = sub(%x, %u) from(a)
        %b = sub(%x, %u) from(b)
        %c = sub(%x, %u) from(c)
        %d = mul(%a, %b) from(d)
        %e = mul(%d, %c) from(e)
        output %e"""
    )
    assert body_of(graph) == ["u = mean(x)", "a = sub(x, u)", "d = mul(a, a)", "e = mul(d, a)"]
    origin = next(node for node in graph.nodes if node.name == "a").origin
    assert origin[-1] == "a" and sorted(origin) == ["a", "b", "c"]


def test_what_one_operation_of_two_read_is_rewritten_for_the_one_that_is_left() -> None:
    graph = canonical(
        f"""{X4}
        %q = transpose(%x) {{perm=[1,0,2,3]}} from(q)
        %k = transpose(%x) {{perm=[1,0,2,3]}} from(k)
        %q_back = transpose(%q) {{perm=[1,0,2,3]}} from(q_back)
        %k_back = transpose(%k) {{perm=[1,0,2,3]}} from(k_back)
        %y = mul(%q_back, %k_back) from(y)
        output %y"""
    )
    assert body_of(graph) == ["y = mul(x, x)"], "attention over q = k, batch second"


@pytest.mark.parametrize("lines", [("dropout(%x) {p=0.5}",) * 2, ("conv2d(%x, @w)",) * 2, ("sub(%x, @half)", "add(%x, @half)")])
def test_what_is_not_the_same_twice_stays(lines: tuple[str, str]) -> None:
    constants = "param @half = 0.5\nparam @w: f32[4,4,1,1] = #random(0, [4,4,1,1])"
    nodes = f"%a = {lines[0]} from(a)\n%b = {lines[1]} from(b)\n%y = mul(%a, %b) from(y)"
    graph = transform(f"{X4}\n{constants}\n{nodes}\noutput %y", "canonicalize{training=true}", stage="lowered")
    assert len(list(graph.nodes)) == 3


# --- masks that are added --------------------------------------------------------------------------------------------------------

MASKED = """input %x: f32[2,3,3]
input %c: b1[2,1,3]
param @causal: f32[1,3,3] = [[[0.0, -inf, -inf], [0.0, 0.0, -inf], [0.0, 0.0, 0.0]]]
param @uneven: f32[1,3,3] = [[[0.5, -inf, -inf], [0.0, 0.0, -inf], [0.0, 0.0, 1.5]]]
param @low = -inf
param @zero = 0.0
"""


@pytest.mark.parametrize(
    ("lines", "left"),
    [
        ("%y = add(%x, @causal)", ["where"]),
        ("%y = add(@causal, %x)", ["where"]),
        ("%y = add(%x, @uneven)", ["add", "where"]),
        ("%m = where(%c, @low, @zero)\n%y = add(%x, %m)", ["where"]),
        ("%m = where(%c, @zero, @low)\n%y = add(%m, %x)", ["where"]),
        ("%m = where(%c, @low, @zero)\n%n = add(%m, @causal)\n%y = add(%x, %n)", ["where", "where"]),
        ("%m = where(%c, @low, @zero)\n%n = add(%m, @uneven)\n%y = add(%x, %n)", ["add", "where", "where"]),
        ("%m = where(%c, @low, @zero)\n%n = expand(%m) {shape=[2,3,3]}\n%y = add(%x, %n)", ["expand", "where"]),
    ],
)
def test_minus_infinity_is_chosen_and_not_added(lines: str, left: list[str]) -> None:
    text = f"{MASKED}{lines}\noutput %y"
    graph = canonical(text)
    assert sorted(node.op.name for node in graph.nodes) == left
    for node in graph.nodes:
        held = [value.array for value in node.operands if value.is_parameter and value.array is not None]
        assert node.op.name == "where" or all(np.isfinite(array).all() for array in held)
    feeds = [
        np.linspace(-2, 2, 18, dtype=np.float32).reshape(2, 3, 3),
        np.array([[[True, False, False]], [[False, True, False]]]),
    ]
    names = ["x", "c"]
    before, after = (evaluate(each, dict(zip(names, feeds, strict=True))) for each in (graph_of(text, "lowered"), graph))
    np.testing.assert_array_equal(next(iter(before.values())), next(iter(after.values())))


def test_masks_of_samples_and_of_positions_are_taken_apart_into_heads() -> None:
    """As attention writes them: `(mask + padding).view(samples, heads, ...)`."""
    graph = canonical(
        f"""{MASKED}input %s: f32[1,2,3,3]
        %m = where(%c, @low, @zero)
        %n = add(%m, @causal)
        %h = reshape(%n) {{shape=[1,2,3,3]}}
        %y = add(%s, %h)
        output %y
        output %x"""
    )
    assert sorted(node.op.name for node in graph.nodes) == ["reshape", "where", "where"]
    assert next(node for node in graph.nodes if node.op.name == "reshape").result.type.dtype is DType.BOOL


@pytest.mark.parametrize("holds", [True, False])
def test_a_choice_that_is_always_the_same_goes(holds: bool) -> None:
    graph = canonical(
        f"{X4}\nparam @c: b1[6] = {[holds] * 6}\nparam @z = 0.0\n%y = relu(%x)\n%r = where(@c, %y, @z)\noutput %r".lower()
    )
    assert [node.op.name for node in graph.nodes] == (["relu"] if holds else ["relu", "where"]), "a number has no shape"
