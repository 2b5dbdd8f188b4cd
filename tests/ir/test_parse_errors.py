"""Every parse error points at its token and says in one sentence what is wrong."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hqc.errors import ParseError
from hqc.ir import parse

X = "input %x: f32[1,4,8,8]\n"
W = "param @w = #random(0, [4,4,3,3])\n"

# text, line, the token the caret is under, a part of the message
CASES = [
    (X + "%y = rlu(%x)", 2, "rlu", "no operation 'rlu'; did you mean relu"),
    (X + "%y = relu(%xx)", 2, "%xx", "%xx is not defined above this line; did you mean x?"),
    (X + "%y = relu(%y)", 2, "%y)", "%y is not defined above this line"),
    (X + "%x = relu(%x)", 2, "%x =", "x is defined twice"),
    (X + "%a, %a = split(%x) {axis=1, sizes=[2,2]}", 2, "%a =", "a is defined twice"),
    (X + "%y = relu(@x)", 2, "@x", "x is not a parameter: write %x"),
    (X + W + "%y = relu(%w)", 3, "%w", "w is a parameter: write @w"),
    (X + "%y = relu(%x", 2, "", "expected ',' after an operand, found the end of the line"),
    (X + "%y relu(%x)", 2, "relu", "expected '=' after %y, found 'relu'"),
    (X + "%y = relu(%x) {slope=1}", 2, "slope", "relu has no attribute 'slope'"),
    (X + "%y = leaky_relu(%x) {slope=1, slope=2}", 2, "slope=2", "given twice"),
    (X + "%y = leaky_relu(%x) {slope=on}", 2, "on", "expected a number, found 'on'"),
    (X + "%y = leaky_relu(%x) {slope=0.1", 2, "", "expected ',' after attribute slope"),
    (X + "%y = max_pool2d(%x) {kernel=2, stride=[2,2]}", 2, "2,", "expected a list of numbers such as [1,2], found '2'"),
    (X + "%y = max_pool2d(%x) {kernel=[2,2], stride=[2,2], ceil_mode=1}", 2, "1}", "expected true or false"),
    (X + "%y = max_pool2d(%x) {kernel=[2,2]}", 2, "max_pool2d", "needs the attribute stride"),
    (X + "%y = cast(%x) {dtype=i9}", 2, "i9", "expected an element type (f32, f64"),
    (X + "%y = gelu(%x) {approximate=fast}", 2, "gelu", "must be one of none, tanh, got 'fast'"),
    (X + "%y = conv2d(%x)", 2, "conv2d", "takes the operands (x, weight, bias, residual), got 1"),
    (X + "param @v = #random(0, [4,3,3,3])\n%y = conv2d(%x, @v)", 3, "conv2d", "has 4 channels, the weight expects 3"),
    (X + "%y: f32[1,4,8,9] = relu(%x)", 2, "f32[1,4,8,9]", "%y is f32[1,4,8,8] by the operands of relu, not f32[1,4,8,9]"),
    (X + "%y: i8[1,4,8,8] = relu(%x)", 2, "i8[", "not i8[1,4,8,8]"),
    (X + "%y: f32 = relu(%x)", 2, "f32 ", "expected a type such as f32[1,3,8,8] or f32[*], found 'f32'"),
    (X + "%y: i9[4] = relu(%x)", 2, "i9[4]", "unknown element type 'i9'"),
    (X + "%y = split(%x) {axis=1, sizes=[2,2]}", 2, "split", "makes 2 results here, got 1 names"),
    (X + '%y = opaque(%x) {id="f"}', 2, "%y", "write its type"),
    (X + "%y q(i8, 0) = relu(%x)", 2, "q(", "scales must be finite and positive"),
    (X + "%y q(i8, axis=0, [1.0], loose) = relu(%x)", 2, "loose", "expected `fixed`"),
    (X + "%y q(i8, axis=0, @s) = relu(%x)", 2, "@s", "scales @s are not given above this line"),
    (X + "%y q(i8, [1.0, 2.0]) = relu(%x)", 2, "q(", "does not go with axis=None"),
    (X + "%y = relu(%x) gpu.1", 2, "gpu.1", "expected a device (cpu, bpu or bpu.N)"),
    (X + "%y = relu(%x) bpu.x", 2, "bpu.x", "expected a device"),
    (X + '%y = relu(%x) refused("r", because="b")', 2, "because", "a reason has no 'because'"),
    (X + "%y = relu(%x) refused(r)", 2, "r)", "expected the rule of a reason in double quotes"),
    (X + '%y = relu(%x) request(unset, "a")', 2, "unset", "a request is for cpu or bpu"),
    (X + '%y = relu(%x) loc("a', 2, '"a', "a string that is not closed"),
    (X + '%y = relu(%x) loc("\\q")', 2, '"\\q"', "is not valid"),
    (X + "output %x as logits", 2, "logits", "expected the output's name in double quotes"),
    (X + "output %x %x", 2, "%x", "unexpected '%x' after the statement"),
    (X + "result %x", 2, "result", "expected graph, input, param, scales, output or a node"),
    (X + "graph @late {", 2, "graph", "its header comes first"),
    (X + "}", 2, "}", "a closing brace without"),
    ("graph @g {\n" + X, 3, "", "the graph is not closed"),
    ("graph @g stage=done {\n}", 1, "done", "unknown stage 'done'; stages: lowered"),
    ("graph @g chip=x {\n}", 1, "chip", "a graph has no 'chip'"),
    ("graph @g {\n" + X + "}\noutput %x", 4, "output", "after the graph's closing brace"),
    ("// nothing\n", 2, "", "there is no graph in this text"),
    ("input x: f32[1]", 1, "x:", "expected a name, written %name"),
    ("param @p: i8[2] = [1, 300]", 1, "[1, 300]", "do not"),
    ("param @p: i8[1] = 0.5", 1, "0.5", "do not fit i8"),
    ("param @p: f32[3] = [1, 2]", 1, "[1, 2]", "@p is declared f32[3], but its elements make f32[2]"),
    ("param @p = [[1, 2], [3]]", 1, "[[", "do not make an array of f32"),
    ("param @p = #zeros", 1, "#zeros", "expected numbers, #random(seed, shape) or #sha256:..."),
    ("param @p = #random(-1, [2])", 1, "-1", "a seed is not negative"),
    ("param @p = #random(1)", 1, ")", "#random needs a shape"),
    ("param @p: f32[9] = #sha256:ab", 1, "#sha256:ab", "are not in this text; read the file with hqc.ir.load"),
    ("scales @s = [1.0]\nscales @s = [1.0]", 2, "@s", "given twice"),
    ("input %x: f32[1] §", 1, "§", "unexpected '§'"),
]


@pytest.mark.parametrize(("text", "line", "token", "message"), CASES, ids=[case[3] for case in CASES])
def test_error_names_line_column_and_problem(text: str, line: int, token: str, message: str) -> None:
    with pytest.raises(ParseError) as caught:
        parse(text, file="net.hqc")
    error = caught.value
    assert message in str(error)
    assert error.line == line
    assert error.text == text.split("\n")[line - 1]
    assert error.text[error.column - 1 :].startswith(token)
    if not token:
        assert error.column == len(error.text.rstrip()) + 1


def test_message_shows_file_line_and_caret() -> None:
    with pytest.raises(ParseError) as caught:
        parse("input %x: f32[1]\n  %y = rlu(%x)", file="net.hqc")
    assert str(caught.value).splitlines() == [
        "net.hqc:2:8: there is no operation 'rlu'; did you mean relu, prelu or elu?",
        "    %y = rlu(%x)",
        "         ^",
    ]


def test_an_array_of_another_content_is_refused() -> None:
    text = str(parse("param @p = #random(0, [100])\noutput @p"))
    with pytest.raises(ParseError, match="is not the one this text was written with"):
        parse(text, parameters={"p": np.zeros(100, np.float32)})


def test_windows_line_ends_are_read() -> None:
    assert str(parse((X + "output %x\n").replace("\n", "\r\n"))) == str(parse(X + "output %x\n"))


@settings(max_examples=150, deadline=None)
@given(start=st.integers(0, 230), length=st.integers(1, 12), inserted=st.text(alphabet='%@#"(){}[]=,;: .x1-', max_size=2))
def test_damaged_text_is_a_parse_error_or_a_graph_and_nothing_else(start: int, length: int, inserted: str) -> None:
    text = (
        X + W + '%y q(i8, 0.5) = conv2d(%x, @w) {padding=[1,1,1,1]} bpu.0 accepted("r") loc("a" "b") from(y)\noutput %y as "o"'
    )
    with contextlib.suppress(ParseError):
        parse(text[:start] + inserted + text[start + length :])
