"""`Graph.with_batch`: other batch sizes where the ops allow it, an error that names the op where they do not."""

from __future__ import annotations

import pytest

from hqc.errors import ShapeError
from hqc.ir import Graph, check, parse

BODY = """
  input %x: f32[{n},4,6,6]
  param @w = #random(0, [8,4,3,3])
  param @one = #random(0, [1,8,1,1])
  %c = conv2d(%x, @w)
  %s = mul(%c, @one)
"""


def graph(text: str, n: int = 1) -> Graph:
    return parse((BODY + text).replace("{n}", str(n)))


def test_shapes_follow_and_the_original_stays() -> None:
    one = graph("output %s")
    before = str(one)
    assert one.with_batch(5).value("s").shape == (5, 8, 4, 4)
    assert str(one) == before
    assert one.with_batch(5).with_batch(1) == one


@pytest.mark.parametrize(
    ("line", "shape", "target"),
    [
        ("%r = reshape(%s) {shape=[1,-1]}", (3, 128), (3, -1)),
        ("%r = reshape(%s) {shape=[-1,128]}", (3, 128), (-1, 128)),
        ("%r = reshape(%s) {shape=[0,-1]}", (3, 128), (0, -1)),
        ("%r = reshape(%s) {shape=[1,2,4,16]}", (3, 2, 4, 16), (3, 2, 4, 16)),
        ("%r = reshape(%s) {shape=[8,16]}", (24, 16), (24, 16)),
        ("%r = expand(%s) {shape=[1,8,4,4]}", (3, 8, 4, 4), (3, 8, 4, 4)),
    ],
)
def test_targets_that_spell_the_batch_out_are_adapted(line: str, shape: tuple[int, ...], target: tuple[int, ...]) -> None:
    other = graph(f"{line}\noutput %r").with_batch(3)
    assert other.value("r").shape == shape
    assert other.value("r").producer.attributes["shape"] == target  # type: ignore[union-attr]
    assert check(other) == []


def test_batch_is_followed_through_transpose_and_merge() -> None:
    other = graph("""
        %h = reshape(%s) {shape=[8,16]}
        %t = transpose(%h) {perm=[1,0]}
        %u = reshape(%t) {shape=[16,2,4]}
        output %u
    """).with_batch(2)
    assert other.value("u").shape == (16, 4, 4)


def test_larger_batches_shrink_too() -> None:
    other = graph("%r = reshape(%s) {shape=[4,-1]}\noutput %r", n=4).with_batch(2)
    assert other.value("r").shape == (2, 128)


def test_opaque_results_take_the_new_batch() -> None:
    other = graph('%o: f32[1,7], %p: i64[3] = opaque(%s) {id="f"}\n%q = relu(%o)\noutput %q, %p').with_batch(6)
    assert other.value("o").shape == (6, 7)
    assert other.value("q").shape == (6, 7)
    assert other.value("p").shape == (3,)


def test_integer_stage_types_stay() -> None:
    text = """graph stage=integer {
      input %x: f32[1,4,8,8]
      param @w: i8[4,4,1,1] = #random(0)
      param @r: i64[3] = [16384, 0, 20]
      %q: i8[1,4,8,8] q(i8, 0.5) = quantize(%x) cpu
      %c: i8[1,4,8,8] q(i8, 0.25) = int_conv2d(%q, @w, none, @r) bpu.0 accepted
      %d: f32[1,4,8,8] = dequantize(%c) cpu
      output %d
    }"""
    assert str(parse(text).with_batch(2)) == str(parse(text.replace("[1,4,8,8]", "[2,4,8,8]")))
    again = parse(text)
    again.infer_types()
    assert again == parse(text)


def test_constant_subgraphs_are_left_alone() -> None:
    other = graph(
        "%k = reshape(@one) {shape=[8,1]}\n%l = reshape(%s) {shape=[1,8,16]}\n%m = mul(%l, %k)\noutput %m"
    ).with_batch(4)
    assert other.value("k").shape == (8, 1)
    assert other.value("m").shape == (4, 8, 16)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('%r = mean(%s) {axes=[0]} loc("m:mean#0" "net.py:3")', r"r \[m:mean#0 \(net.py:3\)\]: mean cannot take a batch of 3"),
        ("%r = slice(%s) {axes=[0], starts=[0], ends=[1]}", "r: slice cannot take a batch of 3 instead of 1: .* mixes the samples"),
        ("%r = split(%s) {axis=0, sizes=[1]}", "r: split cannot take a batch of 3 instead of 1: split sizes"),
    ],
)  # fmt: skip
def test_ops_that_mix_samples_are_refused_by_name(line: str, message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        graph(f"{line}\noutput %r").with_batch(3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("input %x: f32[]\noutput %x", "input x of type f32\\[\\] has no batch dimension"),
        ("input %x: f32[*]\noutput %x", "has no batch dimension"),
        ("input %x: f32[1,3]\ninput %y: f32[2,3]\noutput %x, %y", "the inputs disagree on the batch size: x has 1, y has 2"),
    ],
)
def test_inputs_without_one_batch_size_are_refused(text: str, message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        parse(text).with_batch(3)


def test_a_batch_has_at_least_one_sample() -> None:
    with pytest.raises(ShapeError, match="at least one sample, got 0"):
        graph("output %s").with_batch(0)
